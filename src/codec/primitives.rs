//! The data representations of chapter 1.5: integers, strings and binary data, both ways.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use crate::key::PacketIdentifier;

/// Largest value of a Variable Byte Integer.
pub(super) const VARIABLE_BYTE_INTEGER_MAX: u32 = 268_435_455;

/// What is left to read of a packet, or of its properties.
#[derive(Clone, Copy, Default)]
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    #[inline]
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self { rest: bytes }
    }

    /// What has not been read.
    #[inline]
    pub(super) const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    #[inline]
    pub(super) const fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    #[inline]
    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (head, rest) = self
            .rest
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(*head)
    }

    #[inline]
    pub(super) fn bytes(&mut self, size: usize) -> Result<&'a [u8], DecodeError> {
        let (head, rest) = self
            .rest
            .split_at_checked(size)
            .ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        Ok(head)
    }

    #[inline]
    pub(super) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array::<1>().map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_be_bytes)
    }

    #[inline]
    pub(super) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_be_bytes)
    }

    /// Reads a Packet Identifier, which is never zero [MQTT-2.2.1-3].
    #[inline]
    pub(super) fn packet_identifier(&mut self) -> Result<PacketIdentifier, DecodeError> {
        PacketIdentifier::new(self.u16()?).ok_or(DecodeError::PacketIdentifierZero)
    }

    /// Reads a Variable Byte Integer.
    ///
    /// Only the sender is bound to the shortest form [MQTT-1.5.5-1]; encoders that reserve a fixed
    /// number of bytes are in the field, so a longer one of up to four bytes is read as well.
    #[inline]
    pub(super) fn variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        match self.rest.split_first() {
            Some((&byte, rest)) if byte < 0x80 => {
                self.rest = rest;
                Ok(u32::from(byte))
            }
            _ => self.long_variable_byte_integer(),
        }
    }

    fn long_variable_byte_integer(&mut self) -> Result<u32, DecodeError> {
        let mut value = 0;
        for shift in [0, 7, 14, 21] {
            let byte = self.u8()?;
            value |= u32::from(byte & 0x7F) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(DecodeError::VariableByteInteger)
    }

    /// Reads Binary Data.
    #[inline]
    pub(super) fn binary(&mut self) -> Result<&'a [u8], DecodeError> {
        let size = self.u16()?;
        self.bytes(usize::from(size))
    }

    /// Reads a UTF-8 Encoded String.
    #[inline]
    pub(super) fn string(&mut self) -> Result<&'a str, DecodeError> {
        utf8(self.binary()?)
    }

    /// Reads a Topic Name that must not be empty [MQTT-4.7.3-1].
    pub(super) fn topic_name(&mut self) -> Result<&'a str, DecodeError> {
        let name = topic_name_or_empty(self.binary()?)?;
        if name.is_empty() {
            return Err(DecodeError::TopicName);
        }
        Ok(name)
    }

    /// Fails if anything is left.
    #[inline]
    pub(super) fn finish(self) -> Result<(), DecodeError> {
        if self.rest.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}

/// Well-formed UTF-8 [MQTT-1.5.4-1] without U+0000 [MQTT-1.5.4-2]. `std` refuses surrogates and
/// overlong forms.
#[inline]
pub(super) fn utf8(bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)?;
    if contains_any(bytes, [0]) {
        return Err(DecodeError::Utf8);
    }
    Ok(text)
}

/// A Topic Name without wildcards [MQTT-3.3.2-2]; empty is for the caller to judge.
// HOT: per PUBLISH.
#[inline]
pub(super) fn topic_name_or_empty(bytes: &[u8]) -> Result<&str, DecodeError> {
    let text = std::str::from_utf8(bytes).map_err(|_| DecodeError::Utf8)?;
    if contains_any(bytes, [0, b'+', b'#']) {
        return Err(if bytes.contains(&0) {
            DecodeError::Utf8
        } else {
            DecodeError::TopicName
        });
    }
    Ok(text)
}

/// Whether any of `wanted`, all of them ASCII, is among `bytes`. In UTF-8 no other character holds
/// such a byte.
///
/// Eight bytes at a time without a branch: names are too short for a search that first has to set
/// itself up.
#[inline]
fn contains_any<const N: usize>(bytes: &[u8], wanted: [u8; N]) -> bool {
    let Some(last) = bytes.last_chunk() else {
        return bytes.iter().any(|byte| wanted.contains(byte));
    };
    let (chunks, _) = bytes.as_chunks();
    // The last eight cover what is left over by whole chunks; some are looked at twice.
    let mut found = word_matches(last, wanted);
    for chunk in chunks {
        found |= word_matches(chunk, wanted);
    }
    found != 0
}

/// Not zero exactly if one of `wanted` is among the eight bytes.
#[inline]
fn word_matches<const N: usize>(bytes: &[u8; 8], wanted: [u8; N]) -> u64 {
    const LOW: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let word = u64::from_ne_bytes(*bytes);
    let mut found = 0;
    for byte in wanted {
        // Zero where the byte is; subtracting one there, and only there or above, borrows into the
        // highest bit of a byte that did not have it.
        let difference = word ^ (LOW * u64::from(byte));
        found |= difference.wrapping_sub(LOW) & !difference & HIGH;
    }
    found
}

/// Bytes that `value` takes as a Variable Byte Integer.
#[inline]
pub(super) const fn variable_byte_integer_size(value: usize) -> usize {
    match value {
        0..0x80 => 1,
        0x80..0x4000 => 2,
        0x4000..0x20_0000 => 3,
        _ => 4,
    }
}

/// `value` as a Variable Byte Integer, in the shortest form [MQTT-1.5.5-1].
///
/// # Panics
/// If `value` is larger than a Variable Byte Integer can be: a packet of ours beyond 256 MiB.
#[inline]
pub(super) fn put_variable_byte_integer(value: usize, out: &mut Vec<u8>) {
    if value < 0x80 {
        out.push(value as u8);
        return;
    }
    assert!(
        value <= VARIABLE_BYTE_INTEGER_MAX as usize,
        "{value} does not fit a Variable Byte Integer"
    );
    let low = |shift: u32| (value >> shift) as u8 | 0x80;
    let last = |shift: u32| (value >> shift) as u8;
    match variable_byte_integer_size(value) {
        2 => out.extend_from_slice(&[low(0), last(7)]),
        3 => out.extend_from_slice(&[low(0), low(7), last(14)]),
        _ => out.extend_from_slice(&[low(0), low(7), low(14), last(21)]),
    }
}

/// `bytes` behind their size, as Binary Data and UTF-8 Encoded Strings are.
///
/// # Panics
/// If they are more than 65,535 bytes: nothing that was decoded is, and what the broker makes up
/// must not be.
#[inline]
pub(super) fn put_binary(bytes: &[u8], out: &mut Vec<u8>) {
    let Ok(size) = u16::try_from(bytes.len()) else {
        panic!("{} bytes do not fit a string", bytes.len());
    };
    out.extend_from_slice(&size.to_be_bytes());
    out.extend_from_slice(bytes);
}

/// A UTF-8 Encoded String; panics as [`put_binary`] does.
#[inline]
pub(super) fn put_string(text: &str, out: &mut Vec<u8>) {
    put_binary(text.as_bytes(), out);
}

/// What `content` appends, behind its size as a Variable Byte Integer.
///
/// For packets off the hot path: the size is known only afterwards, so content of 128 bytes and more
/// is moved to make room for it.
pub(super) fn put_sized(out: &mut Vec<u8>, content: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.push(0);
    content(out);
    let size = out.len() - start - 1;
    if size < 0x80 {
        out[start] = size as u8;
    } else {
        put_variable_byte_integer(size, out);
        let size_of_size = variable_byte_integer_size(size);
        out[start + 1..].rotate_right(size_of_size);
        out.remove(start);
    }
}

/// A whole packet off the hot path: first byte, Remaining Length, and what `body` appends.
pub(super) fn put_packet(first_byte: u8, out: &mut Vec<u8>, body: impl FnOnce(&mut Vec<u8>)) {
    out.push(first_byte);
    put_sized(out, body);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forbidden_bytes_are_found_at_every_place_of_every_length() {
        for size in 0..40 {
            let mut bytes = vec![b'a'; size];
            assert!(topic_name_or_empty(&bytes).is_ok());
            for at in 0..size {
                for (byte, error) in [
                    (0, DecodeError::Utf8),
                    (0xFF, DecodeError::Utf8),
                    (b'+', DecodeError::TopicName),
                    (b'#', DecodeError::TopicName),
                ] {
                    bytes[at] = byte;
                    assert_eq!(
                        topic_name_or_empty(&bytes),
                        Err(error),
                        "{byte} at {at}/{size}"
                    );
                    assert_eq!(utf8(&bytes).is_err(), error == DecodeError::Utf8);
                }
                // Their neighbours, with the sign bit flipped and one apart, are legal.
                for byte in [1, b'*', b',', b'"', b'$', 0x7F] {
                    bytes[at] = byte;
                    assert!(topic_name_or_empty(&bytes).is_ok(), "{byte} at {at}/{size}");
                }
                bytes[at] = b'a';
            }
        }
        // Bytes of longer characters: U+00AB, U+00A3, U+0080 end in 0xAB, 0xA3, 0x80.
        assert!(topic_name_or_empty("aaaaa\u{ab}\u{a3}\u{80}\u{100}".as_bytes()).is_ok());
    }
}
