//! What the codec promises: vectors in both directions, what is refused and how, and properties of
//! arbitrary packets and bytes.

#![forbid(unsafe_code)]

mod arbitrary;
mod plain;
mod refused;
mod round_trip;
mod vectors;

use super::*;
use crate::key::PacketIdentifier;
use crate::limits::PACKET_SIZE_MAX;

const V3: ProtocolVersion = ProtocolVersion::V3;
const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

/// Bytes written as hexadecimal digits and 'text', spaces for the reader.
fn hex(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (index, part) in text.split('\'').enumerate() {
        if index % 2 == 1 {
            bytes.extend_from_slice(part.as_bytes());
            continue;
        }
        let digits: Vec<u8> = part.bytes().filter(|byte| *byte != b' ').collect();
        assert!(
            digits.len().is_multiple_of(2),
            "odd count of digits in {text}"
        );
        for pair in digits.chunks(2) {
            let pair = std::str::from_utf8(pair).unwrap();
            bytes.push(u8::from_str_radix(pair, 16).unwrap());
        }
    }
    bytes
}

/// The packet that `bytes` are, all of them.
fn decode_whole(version: ProtocolVersion, bytes: &[u8]) -> Result<Packet<'_>, DecodeError> {
    let header = decode_fixed_header(bytes, PACKET_SIZE_MAX)?.expect("a whole fixed header");
    assert_eq!(
        header.total_size(),
        bytes.len(),
        "Remaining Length of {bytes:02x?}"
    );
    decode(version, header.first_byte, &bytes[header.header_size..])
}

fn encoded(packet: &Packet<'_>, version: ProtocolVersion) -> Vec<u8> {
    let mut out = Vec::new();
    encode(packet, version, &mut out);
    out
}

fn pid(value: u16) -> PacketIdentifier {
    PacketIdentifier::new(value).unwrap()
}
