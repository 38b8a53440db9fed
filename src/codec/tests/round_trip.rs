//! Properties of arbitrary packets and of arbitrary bytes.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;

use super::arbitrary::{packet, version};
use super::*;
use crate::message::ProtocolVersion;

/// Decodes the packets that `bytes` start with, in every version, and looks at all they hold.
///
/// Whatever decodes must encode, and that must decode to the same.
fn decode_anything(bytes: &[u8]) {
    for version in [V3, V311, V5] {
        let mut rest = bytes;
        while let Ok(Some(header)) = decode_fixed_header(rest, PACKET_SIZE_MAX) {
            let Some(whole) = rest.get(..header.total_size()) else {
                break;
            };
            rest = &rest[header.total_size()..];
            let Ok(packet) = decode(version, header.first_byte, &whole[header.header_size..])
            else {
                continue;
            };
            assert!(!format!("{packet:?}").is_empty());
            let bytes = encoded(&packet, version);
            assert!(bytes.len() <= whole.len(), "{packet:?}");
            assert_eq!(decode_whole(version, &bytes), Ok(packet));
        }
    }
}

/// One change to a packet.
#[derive(Clone, Debug)]
enum Mutation {
    Flip(Index, u8),
    Set(Index, u8),
    Insert(Index, Vec<u8>),
    Remove(Index, usize),
    Truncate(Index),
    SetPair(Index, u16),
}

impl Mutation {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        let size = bytes.len();
        match self {
            Self::Flip(at, bit) => bytes[at.index(size)] ^= 1 << bit,
            Self::Set(at, value) => bytes[at.index(size)] = *value,
            Self::Insert(at, more) => {
                let at = at.index(size);
                bytes.splice(at..at, more.iter().copied());
            }
            Self::Remove(at, count) => {
                let at = at.index(size);
                bytes.drain(at..(at + count).min(size));
            }
            Self::Truncate(at) => bytes.truncate(at.index(size)),
            Self::SetPair(at, value) => {
                let at = at.index(size);
                for (byte, new) in bytes[at..].iter_mut().zip(value.to_be_bytes()) {
                    *byte = new;
                }
            }
        }
    }
}

fn mutation() -> impl Strategy<Value = Mutation> {
    let value = prop_oneof![
        any::<u8>(),
        proptest::sample::select(&[
            0, 1, 2, 0x0B, 0x10, 0x23, 0x26, 0x2B, 0x7F, 0x80, 0xC0, 0xED, 0xFF
        ])
    ];
    prop_oneof![
        (any::<Index>(), 0..8_u8).prop_map(|(at, bit)| Mutation::Flip(at, bit)),
        (any::<Index>(), value).prop_map(|(at, value)| Mutation::Set(at, value)),
        (any::<Index>(), vec(any::<u8>(), 1..5)).prop_map(|(at, more)| Mutation::Insert(at, more)),
        (any::<Index>(), 1..5_usize).prop_map(|(at, count)| Mutation::Remove(at, count)),
        any::<Index>().prop_map(Mutation::Truncate),
        (any::<Index>(), prop_oneof![0..300_u16, any::<u16>()])
            .prop_map(|(at, value)| Mutation::SetPair(at, value)),
    ]
}

/// Makes the Remaining Length of a single packet fit again, so that the change reaches the body.
fn mend(bytes: &[u8]) -> Vec<u8> {
    let Ok(Some(header)) = decode_fixed_header(bytes, PACKET_SIZE_MAX) else {
        return bytes.to_vec();
    };
    let body = &bytes[header.header_size..];
    let mut mended = Vec::new();
    super::super::primitives::put_packet(header.first_byte, &mut mended, |out| {
        out.extend_from_slice(body);
    });
    mended
}

fn packets() -> impl Strategy<Value = (ProtocolVersion, Vec<Packet<'static>>)> {
    version().prop_flat_map(|version| (Just(version), vec(packet(version), 1..8)))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4096, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_decodes_to_the_same((version, packets) in packets()) {
        for packet in packets {
            let bytes = encoded(&packet, version);
            prop_assert_eq!(decode_whole(version, &bytes), Ok(packet));
        }
    }

    #[test]
    fn any_split_of_a_stream_gives_the_same_packets(
        (version, packets) in packets(),
        sizes in vec(prop_oneof![Just(1_usize), 1..8_usize, 1..200_usize], 1..20),
    ) {
        let mut stream = Vec::new();
        for packet in &packets {
            encode(packet, version, &mut stream);
        }
        let mut expected = packets.iter();
        let mut held = Vec::new();
        let mut sizes = sizes.into_iter().cycle();
        let mut rest = stream.as_slice();
        while !rest.is_empty() {
            let (arrived, later) = rest.split_at(sizes.next().unwrap_or(1).min(rest.len()));
            rest = later;
            held.extend_from_slice(arrived);
            let mut consumed = 0;
            while let Some(header) = decode_fixed_header(&held[consumed..], PACKET_SIZE_MAX)? {
                let Some(whole) = held[consumed..].get(..header.total_size()) else {
                    break;
                };
                let packet = decode(version, header.first_byte, &whole[header.header_size..])?;
                prop_assert_eq!(Some(&packet), expected.next());
                consumed += header.total_size();
            }
            held.drain(..consumed);
        }
        prop_assert!(held.is_empty());
        prop_assert_eq!(expected.next(), None);
    }

    #[test]
    fn mutated_packets_never_panic(
        (version, packets) in packets(),
        mutations in vec(mutation(), 1..4),
    ) {
        for packet in packets {
            let mut bytes = encoded(&packet, version);
            for mutation in &mutations {
                mutation.apply(&mut bytes);
            }
            decode_anything(&bytes);
            decode_anything(&mend(&bytes));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8192, ..ProptestConfig::default() })]

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200)) {
        decode_anything(&bytes);
    }

    #[test]
    fn arbitrary_bodies_never_panic(first_byte: u8, body in vec(any::<u8>(), 0..60)) {
        for version in [V3, V311, V5] {
            if let Ok(packet) = decode(version, first_byte, &body) {
                assert!(!format!("{packet:?}").is_empty());
            }
        }
        let _ = connect_version(&body);
    }
}
