//! The two to five bytes every Control Packet starts with.

#![forbid(unsafe_code)]

use super::error::DecodeError;

/// Packet type and size, read before the packet is complete.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct FixedHeader {
    /// Packet type in the upper four bits, flags in the lower.
    pub first_byte: u8,
    /// Size of the fixed header itself: 2 to 5.
    pub header_size: usize,
    /// Bytes that follow the fixed header.
    pub remaining_length: usize,
}

impl FixedHeader {
    /// Size of the whole packet.
    #[inline]
    #[must_use]
    pub const fn total_size(&self) -> usize {
        self.header_size + self.remaining_length
    }

    /// The upper four bits of the first byte: one of [`packet_type`].
    #[inline]
    #[must_use]
    pub const fn packet_type(&self) -> u8 {
        self.first_byte >> 4
    }
}

/// Values of the upper four bits of a packet's first byte.
#[allow(missing_docs)]
pub mod packet_type {
    pub const CONNECT: u8 = 1;
    pub const CONNACK: u8 = 2;
    pub const PUBLISH: u8 = 3;
    pub const PUBACK: u8 = 4;
    pub const PUBREC: u8 = 5;
    pub const PUBREL: u8 = 6;
    pub const PUBCOMP: u8 = 7;
    pub const SUBSCRIBE: u8 = 8;
    pub const SUBACK: u8 = 9;
    pub const UNSUBSCRIBE: u8 = 10;
    pub const UNSUBACK: u8 = 11;
    pub const PINGREQ: u8 = 12;
    pub const PINGRESP: u8 = 13;
    pub const DISCONNECT: u8 = 14;
    pub const AUTH: u8 = 15;
}

/// Reads the fixed header that `bytes` start with; `None` if it is not complete.
///
/// Says nothing about the first byte: [`super::decode`] does, once the packet is complete.
///
/// # Errors
/// [`DecodeError::RemainingLength`] if it is longer than four bytes, [`DecodeError::PacketTooLarge`]
/// if the whole packet would be larger than `packet_size_max`.
// HOT: per packet.
#[inline]
pub fn decode_fixed_header(
    bytes: &[u8],
    packet_size_max: u32,
) -> Result<Option<FixedHeader>, DecodeError> {
    let header = match *bytes {
        [first_byte, length, ..] if length < 0x80 => FixedHeader {
            first_byte,
            header_size: 2,
            remaining_length: usize::from(length),
        },
        [first_byte, low, high, ..] if high < 0x80 => FixedHeader {
            first_byte,
            header_size: 3,
            remaining_length: usize::from(low & 0x7F) | usize::from(high) << 7,
        },
        [first_byte, a, b, c, ..] if c < 0x80 => FixedHeader {
            first_byte,
            header_size: 4,
            remaining_length: usize::from(a & 0x7F)
                | usize::from(b & 0x7F) << 7
                | usize::from(c) << 14,
        },
        [first_byte, a, b, c, d, ..] if d < 0x80 => FixedHeader {
            first_byte,
            header_size: 5,
            remaining_length: usize::from(a & 0x7F)
                | usize::from(b & 0x7F) << 7
                | usize::from(c & 0x7F) << 14
                | usize::from(d) << 21,
        },
        // Four bytes that each announce another one are known to be wrong before that one is here.
        [_, _, _, _, _, ..] => return Err(DecodeError::RemainingLength),
        _ => return Ok(None),
    };
    // At most 2^28 + 4, which fits 32 bits.
    let size = header.total_size() as u32;
    if size > packet_size_max {
        return Err(DecodeError::PacketTooLarge {
            size,
            size_max: packet_size_max,
        });
    }
    Ok(Some(header))
}
