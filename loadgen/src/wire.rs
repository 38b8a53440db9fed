//! The few Control Packets a load generator needs, written and read as fast as possible.
//!
//! Not the broker's codec on purpose: a tool that shares its codec with what it measures repeats
//! the same mistakes. A PUBLISH is a template copied whole, then patched in three places.

use std::ops::Range;

/// Publisher (4 bytes), sequence (8), when it was due (8) and when it was sent (8), both in
/// nanoseconds, at the start of a payload.
pub const STAMP_SIZE: usize = 28;

pub const CONNACK: u8 = 0x20;
pub const PUBLISH: u8 = 0x30;
pub const PUBACK: u8 = 0x40;
pub const PUBREC: u8 = 0x50;
pub const PUBREL: u8 = 0x62;
pub const PUBCOMP: u8 = 0x70;
pub const SUBACK: u8 = 0x90;
pub const PINGRESP: u8 = 0xd0;
pub const SERVER_DISCONNECT: u8 = 0xe0;

pub const PINGREQ_PACKET: [u8; 2] = [0xc0, 0];
pub const DISCONNECT_PACKET: [u8; 2] = [0xe0, 0];

/// What the broker sent is not what MQTT allows it to send here.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the broker sent a packet that cannot be read: {0}")]
pub struct WireError(pub &'static str);

/// Which MQTT the connections speak.
#[derive(Clone, Copy, Debug, Eq, PartialEq, serde::Serialize)]
pub enum Version {
    #[serde(rename = "3.1.1")]
    V311,
    #[serde(rename = "5.0")]
    V5,
}

impl Version {
    pub fn is_v5(self) -> bool {
        self == Self::V5
    }
}

/// Where the next whole packet of a buffer is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Frame {
    pub first_byte: u8,
    pub body: Range<usize>,
}

/// The packet that starts at `at`, or `None` when it has not arrived whole.
// HOT: per packet received.
#[inline]
pub fn frame(bytes: &[u8], at: usize) -> Result<Option<Frame>, WireError> {
    let Some(&first_byte) = bytes.get(at) else {
        return Ok(None);
    };
    let Some((size, size_size)) = read_varint(&bytes[at + 1..])? else {
        return Ok(None);
    };
    let start = at + 1 + size_size;
    let body = start..start + size;
    Ok((body.end <= bytes.len()).then_some(Frame { first_byte, body }))
}

/// Size of the whole packet that `bytes` start, if those tell.
pub fn packet_size(bytes: &[u8]) -> Option<usize> {
    let (size, size_size) = read_varint(bytes.get(1..)?).ok()??;
    Some(1 + size_size + size)
}

/// A variable byte integer and how many bytes it takes.
#[inline]
fn read_varint(bytes: &[u8]) -> Result<Option<(usize, usize)>, WireError> {
    let mut value = 0;
    for index in 0..4 {
        let Some(&byte) = bytes.get(index) else {
            return Ok(None);
        };
        value |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Ok(Some((value, index + 1)));
        }
    }
    Err(WireError("a length of more than four bytes"))
}

fn write_varint(mut value: usize, out: &mut Vec<u8>) {
    loop {
        let low = (value % 128) as u8;
        value /= 128;
        if value == 0 {
            return out.push(low);
        }
        out.push(low | 0x80);
    }
}

fn write_binary(bytes: &[u8], out: &mut Vec<u8>) {
    // Every string here is made by this tool and short.
    out.extend_from_slice(&(bytes.len() as u16).to_be_bytes());
    out.extend_from_slice(bytes);
}

pub fn write_packet(first_byte: u8, body: &[u8], out: &mut Vec<u8>) {
    out.push(first_byte);
    write_varint(body.len(), out);
    out.extend_from_slice(body);
}

/// What a CONNECT says.
#[derive(Clone, Copy, Debug)]
pub struct Connect<'a> {
    pub version: Version,
    pub client_identifier: &'a str,
    pub user: Option<&'a str>,
    pub password: Option<&'a str>,
    /// The Session is to outlive the connection.
    pub is_persistent: bool,
    /// Clean Start.
    pub is_clean: bool,
    pub topic_alias_maximum: u16,
}

/// Longer than any run, so that an idle connection is idle; some brokers refuse to go without.
const KEEP_ALIVE_S: u16 = u16::MAX;

/// A CONNECT.
pub fn write_connect(connect: &Connect<'_>, out: &mut Vec<u8>) {
    let mut body = Vec::with_capacity(64);
    write_binary(b"MQTT", &mut body);
    body.push(if connect.version.is_v5() { 5 } else { 4 });
    // In MQTT 3.1.1 a Session that starts clean ends with its connection as well.
    let clean = u8::from(connect.is_clean) << 1;
    let user = u8::from(connect.user.is_some()) << 7;
    let password = u8::from(connect.password.is_some()) << 6;
    body.push(clean | user | password);
    body.extend_from_slice(&KEEP_ALIVE_S.to_be_bytes());
    if connect.version.is_v5() {
        let mut properties = Vec::new();
        if connect.is_persistent {
            properties.extend_from_slice(&[0x11, 0, 0, 0x0e, 0x10]);
        }
        if connect.topic_alias_maximum > 0 {
            let [high, low] = connect.topic_alias_maximum.to_be_bytes();
            properties.extend_from_slice(&[0x22, high, low]);
        }
        body.push(properties.len() as u8);
        body.extend_from_slice(&properties);
    }
    write_binary(connect.client_identifier.as_bytes(), &mut body);
    for field in [connect.user, connect.password].into_iter().flatten() {
        write_binary(field.as_bytes(), &mut body);
    }
    write_packet(0x10, &body, out);
}

/// A SUBSCRIBE.
pub fn write_subscribe(
    version: Version,
    packet_identifier: u16,
    topic_filters: &[String],
    qos: u8,
    out: &mut Vec<u8>,
) {
    let mut body = packet_identifier.to_be_bytes().to_vec();
    if version.is_v5() {
        body.push(0);
    }
    for topic_filter in topic_filters {
        write_binary(topic_filter.as_bytes(), &mut body);
        body.push(qos);
    }
    write_packet(0x82, &body, out);
}

/// PUBACK, PUBREC, PUBREL or PUBCOMP in its shortest form, which is the same in both versions.
#[inline]
pub fn write_acknowledgement(first_byte: u8, packet_identifier: u16, out: &mut Vec<u8>) {
    let [high, low] = packet_identifier.to_be_bytes();
    out.extend_from_slice(&[first_byte, 2, high, low]);
}

/// What a CONNACK says that matters to a load.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnAck {
    pub reason_code: u8,
    pub session_present: bool,
    pub receive_maximum: u16,
    pub maximum_qos: u8,
    pub topic_alias_maximum: u16,
}

pub fn read_connack(version: Version, body: &[u8]) -> Result<ConnAck, WireError> {
    let truncated = WireError("a CONNACK that is too short");
    let &[flags, reason_code, ref rest @ ..] = body else {
        return Err(truncated);
    };
    let mut connack = ConnAck {
        reason_code,
        session_present: flags & 1 != 0,
        receive_maximum: u16::MAX,
        maximum_qos: 2,
        topic_alias_maximum: 0,
    };
    if !version.is_v5() || rest.is_empty() {
        return Ok(connack);
    }
    let (size, size_size) = read_varint(rest)?.ok_or(truncated)?;
    let mut properties = rest.get(size_size..size_size + size).ok_or(truncated)?;
    while let Some((&identifier, value)) = properties.split_first() {
        let value_size = match identifier {
            0x24 | 0x25 | 0x28 | 0x29 | 0x2a => 1,
            0x13 | 0x21 | 0x22 => 2,
            0x11 | 0x27 => 4,
            0x12 | 0x15 | 0x16 | 0x1a | 0x1c | 0x1f => binary_size(value).ok_or(truncated)?,
            0x26 => {
                let name = binary_size(value).ok_or(truncated)?;
                name + value.get(name..).and_then(binary_size).ok_or(truncated)?
            }
            _ => return Err(WireError("a CONNACK with an unknown property")),
        };
        let (value, rest) = value.split_at_checked(value_size).ok_or(truncated)?;
        match (identifier, value) {
            (0x21, &[high, low]) => connack.receive_maximum = u16::from_be_bytes([high, low]),
            (0x22, &[high, low]) => connack.topic_alias_maximum = u16::from_be_bytes([high, low]),
            (0x24, &[qos]) => connack.maximum_qos = qos,
            _ => {}
        }
        properties = rest;
    }
    Ok(connack)
}

fn binary_size(bytes: &[u8]) -> Option<usize> {
    let &[high, low, ..] = bytes else { return None };
    Some(2 + usize::from(u16::from_be_bytes([high, low])))
}

/// Packet Identifier and Reason Codes of a SUBACK.
pub fn read_suback(version: Version, body: &[u8]) -> Result<(u16, &[u8]), WireError> {
    let truncated = WireError("a SUBACK that is too short");
    let (identifier, mut codes) = body.split_first_chunk::<2>().ok_or(truncated)?;
    if version.is_v5() {
        let (size, size_size) = read_varint(codes)?.ok_or(truncated)?;
        codes = codes.get(size_size + size..).ok_or(truncated)?;
    }
    Ok((u16::from_be_bytes(*identifier), codes))
}

/// Packet Identifier and Reason Code of PUBACK, PUBREC, PUBREL and PUBCOMP.
#[inline]
pub fn read_acknowledgement(body: &[u8]) -> Result<(u16, u8), WireError> {
    match *body {
        [high, low] => Ok((u16::from_be_bytes([high, low]), 0)),
        [high, low, reason_code, ..] => Ok((u16::from_be_bytes([high, low]), reason_code)),
        _ => Err(WireError("an acknowledgement without Packet Identifier")),
    }
}

/// Bits of a PUBLISH's first byte.
pub const RETAIN: u8 = 1;
pub const QOS: u8 = 6;
pub const DUP: u8 = 8;

/// What a received PUBLISH carries.
#[derive(Debug, Eq, PartialEq)]
pub struct Received<'a> {
    pub qos: u8,
    /// Empty where an alias says it.
    pub topic_name: &'a [u8],
    pub packet_identifier: u16,
    pub payload: &'a [u8],
}

// HOT: per PUBLISH received.
#[inline]
pub fn read_publish(
    version: Version,
    first_byte: u8,
    body: &[u8],
) -> Result<Received<'_>, WireError> {
    let truncated = WireError("a PUBLISH that is too short");
    let qos = (first_byte >> 1) & 3;
    let mut at = binary_size(body).ok_or(truncated)?;
    let topic_name = body.get(2..at).ok_or(truncated)?;
    let mut packet_identifier = 0;
    if qos > 0 {
        let Some(&[high, low]) = body.get(at..at + 2) else {
            return Err(truncated);
        };
        packet_identifier = u16::from_be_bytes([high, low]);
        at += 2;
    }
    if version.is_v5() {
        let (size, size_size) = read_varint(body.get(at..).ok_or(truncated)?)?.ok_or(truncated)?;
        at += size_size + size;
    }
    let payload = body.get(at..).ok_or(truncated)?;
    Ok(Received {
        qos,
        topic_name,
        packet_identifier,
        payload,
    })
}

/// Bits of a sequence; those above hold what the whole stamp is checked by.
const SEQUENCE_BITS: u32 = 48;
const SEQUENCE_MAX: u64 = (1 << SEQUENCE_BITS) - 1;

/// Who sent a message, its place in what that publisher sent, and when.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Stamp {
    pub publisher: u32,
    pub sequence: u64,
    pub due_ns: u64,
    pub sent_ns: u64,
}

impl Stamp {
    /// `None` for one that was changed on the way, but for one in 65,536 of those.
    #[inline]
    pub fn read(payload: &[u8]) -> Option<Self> {
        let (publisher, rest) = payload.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (due_ns, rest) = rest.split_first_chunk::<8>()?;
        let (sent_ns, _) = rest.split_first_chunk::<8>()?;
        let checked = u64::from_le_bytes(*sequence);
        let stamp = Self {
            publisher: u32::from_le_bytes(*publisher),
            sequence: checked & SEQUENCE_MAX,
            due_ns: u64::from_le_bytes(*due_ns),
            sent_ns: u64::from_le_bytes(*sent_ns),
        };
        (stamp.checked_sequence() == checked).then_some(stamp)
    }

    /// The sequence, and above it a hash of all four: a changed time would be a wrong latency, and a changed
    /// sequence a loss that there was not.
    #[inline]
    fn checked_sequence(self) -> u64 {
        let publisher = u64::from(self.publisher).rotate_left(29);
        let mixed =
            self.sequence ^ publisher ^ self.due_ns.rotate_left(13) ^ self.sent_ns.rotate_left(41);
        // 2^64 divided by the golden ratio: each bit moves some of the upper ones.
        let hash = mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> SEQUENCE_BITS;
        self.sequence | (hash << SEQUENCE_BITS)
    }
}

/// The bytes after the stamp: the same in every message, so that a changed one is seen. A shorter
/// one is the start of a longer one.
pub fn filler(payload_size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    (0..payload_size.saturating_sub(STAMP_SIZE))
        .map(|_| {
            // Knuth's multiplier; its upper bits are the good ones.
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 56) as u8
        })
        .collect()
}

/// What one publisher's PUBLISH packets have in common.
#[derive(Clone, Copy, Debug)]
pub struct Publish<'a> {
    pub version: Version,
    /// Empty when only the alias says it.
    pub topic_name: &'a str,
    pub topic_alias: Option<u16>,
    pub qos: u8,
    pub retain: bool,
    pub publisher: u32,
    pub filler: &'a [u8],
}

/// One publisher's PUBLISH, encoded once.
#[derive(Debug)]
pub struct PublishTemplate {
    bytes: Vec<u8>,
    packet_identifier_at: Option<usize>,
    publisher: u32,
    sequence_at: usize,
}

impl PublishTemplate {
    pub fn new(publish: &Publish<'_>) -> Self {
        let mut body = Vec::with_capacity(publish.topic_name.len() + publish.filler.len() + 64);
        write_binary(publish.topic_name.as_bytes(), &mut body);
        let mut packet_identifier_at = None;
        if publish.qos > 0 {
            packet_identifier_at = Some(body.len());
            body.extend_from_slice(&[0, 0]);
        }
        if publish.version.is_v5() {
            match publish.topic_alias.map(u16::to_be_bytes) {
                Some([high, low]) => body.extend_from_slice(&[3, 0x23, high, low]),
                None => body.push(0),
            }
        }
        body.extend_from_slice(&publish.publisher.to_le_bytes());
        let mut sequence_at = body.len();
        body.extend_from_slice(&[0; STAMP_SIZE - 4]);
        body.extend_from_slice(publish.filler);
        let mut bytes = Vec::with_capacity(body.len() + 5);
        let first_byte = PUBLISH | (publish.qos << 1) | u8::from(publish.retain);
        write_packet(first_byte, &body, &mut bytes);
        let header_size = bytes.len() - body.len();
        sequence_at += header_size;
        packet_identifier_at = packet_identifier_at.map(|at| at + header_size);
        Self {
            bytes,
            packet_identifier_at,
            publisher: publish.publisher,
            sequence_at,
        }
    }

    /// Whole packet, in bytes.
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    // HOT: per PUBLISH sent.
    #[inline]
    pub fn append(
        &self,
        packet_identifier: u16,
        sequence: u64,
        due_ns: u64,
        sent_ns: u64,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        let packet = &mut out[start..];
        if let Some(at) = self.packet_identifier_at {
            packet[at..at + 2].copy_from_slice(&packet_identifier.to_be_bytes());
        }
        let checked = Stamp {
            publisher: self.publisher,
            sequence,
            due_ns,
            sent_ns,
        };
        let checked = checked.checked_sequence();
        let stamp = &mut packet[self.sequence_at..self.sequence_at + 24];
        stamp[..8].copy_from_slice(&checked.to_le_bytes());
        stamp[8..16].copy_from_slice(&due_ns.to_le_bytes());
        stamp[16..].copy_from_slice(&sent_ns.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn template_reads_back_at_every_qos_and_version() {
        for version in [Version::V311, Version::V5] {
            for qos in 0..=2 {
                let filler = filler(300, 1);
                let template = PublishTemplate::new(&Publish {
                    version,
                    topic_name: "a/b",
                    topic_alias: version.is_v5().then_some(9),
                    qos,
                    retain: false,
                    publisher: 7,
                    filler: &filler,
                });
                let mut bytes = Vec::new();
                template.append(513, 1 << 40, 99, 101, &mut bytes);
                assert_eq!(bytes.len(), template.size());
                let frame = frame(&bytes, 0).unwrap().unwrap();
                assert_eq!(frame.body.end, bytes.len());
                let received = read_publish(version, frame.first_byte, &bytes[frame.body]).unwrap();
                assert_eq!(received.qos, qos);
                assert_eq!(received.topic_name, b"a/b");
                assert_eq!(received.packet_identifier, if qos > 0 { 513 } else { 0 });
                assert_eq!(received.payload.len(), 300);
                assert_eq!(received.payload[STAMP_SIZE..], filler);
                let stamp = Stamp::read(received.payload).unwrap();
                assert_eq!(
                    stamp,
                    Stamp {
                        publisher: 7,
                        sequence: 1 << 40,
                        due_ns: 99,
                        sent_ns: 101
                    }
                );
            }
        }
    }

    #[test]
    fn one_changed_bit_of_a_stamp_is_seen_whichever_it_is() {
        let template = PublishTemplate::new(&Publish {
            version: Version::V311,
            topic_name: "a",
            topic_alias: None,
            qos: 0,
            retain: false,
            publisher: 49,
            filler: &[],
        });
        for (sequence, due_ns) in [
            (0, 0),
            (1, 999),
            (SEQUENCE_MAX, u64::MAX),
            (77_777, 3_141_592_653),
        ] {
            let mut bytes = Vec::new();
            template.append(0, sequence, due_ns, due_ns / 2, &mut bytes);
            let payload = &mut bytes[5..];
            assert_eq!(payload.len(), STAMP_SIZE);
            assert_eq!(
                Stamp::read(payload).map(|stamp| stamp.sequence),
                Some(sequence)
            );
            for bit in 0..8 * STAMP_SIZE {
                payload[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(
                    Stamp::read(payload),
                    None,
                    "bit {bit} of {sequence}, {due_ns}"
                );
                payload[bit / 8] ^= 1 << (bit % 8);
            }
        }
    }

    #[test]
    fn frame_waits_for_the_last_byte() {
        let bytes = [0x40, 2, 0, 9];
        for size in 0..bytes.len() {
            assert_eq!(frame(&bytes[..size], 0), Ok(None));
        }
        assert_eq!(
            frame(&bytes, 0),
            Ok(Some(Frame {
                first_byte: 0x40,
                body: 2..4
            }))
        );
        assert!(frame(&[0x40, 0xff, 0xff, 0xff, 0xff, 1], 0).is_err());
    }

    #[test]
    fn suback_has_as_many_codes_as_it_has() {
        assert_eq!(read_suback(Version::V311, &[1, 2]), Ok((258, &[][..])));
        assert_eq!(
            read_suback(Version::V311, &[0, 9, 1, 2]),
            Ok((9, &[1, 2][..]))
        );
        let body = [0, 9, 3, 0x1f, 0, 0, 1];
        assert_eq!(read_suback(Version::V5, &body), Ok((9, &[1][..])));
        for size in 0..6 {
            assert!(read_suback(Version::V5, &body[..size]).is_err(), "{size}");
        }
    }

    #[test]
    fn connack_properties_are_read_in_any_order() {
        let body = [0, 0, 12, 0x12, 0, 1, b'x', 0x21, 0, 20, 0x24, 1, 0x22, 0, 9];
        let body = [&body[..2], &[13][..], &body[3..], &[][..]].concat();
        assert!(
            read_connack(Version::V5, &body).is_err(),
            "length beyond the packet"
        );
        let body = [0, 0, 12, 0x12, 0, 1, b'x', 0x21, 0, 20, 0x24, 1, 0x22, 0, 9];
        let connack = read_connack(Version::V5, &body).unwrap();
        assert_eq!(
            connack,
            ConnAck {
                reason_code: 0,
                session_present: false,
                receive_maximum: 20,
                maximum_qos: 1,
                topic_alias_maximum: 9
            }
        );
    }
}
