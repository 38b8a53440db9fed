//! Packets that may be sent on as they are, told from all others.

use super::*;
use crate::message::QoS;
use std::num::NonZeroU16;

const PAYLOADS: [usize; 6] = [0, 1, 100, 127, 128, 20_000];

fn publish<'a>(topic_name: &'a str, payload: &'a [u8]) -> Publish<'a> {
    Publish {
        duplicate: false,
        qos: QoS::AtMostOnce,
        retain: false,
        topic_name,
        packet_identifier: None,
        payload,
        properties: PublishProperties::default(),
    }
}

fn encoded(version: ProtocolVersion, publish: Publish<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode(&Packet::Publish(publish), version, &mut bytes);
    bytes
}

const VERSIONS: [ProtocolVersion; 3] = [V3, V311, V5];

#[test]
fn plain_publish_is_seen_once_all_of_it_is_there() {
    for version in VERSIONS {
        for size in PAYLOADS {
            let payload = vec![b'x'; size];
            let bytes = encoded(version, publish("a/b", &payload));
            let more = [bytes.as_slice(), b"\xC0\0"].concat();
            let plain = PlainPublish::peek(version, &more, PACKET_SIZE_MAX).expect("plain");
            assert_eq!(
                (plain.topic_name, plain.payload),
                (&b"a/b"[..], &payload[..])
            );
            assert_eq!(plain.size(), bytes.len());
            assert_eq!([plain.head, plain.payload].concat(), bytes);
            let len = bytes.len();
            for end in (0..len).filter(|end| *end < 8 || end + 300 > len) {
                assert_eq!(
                    PlainPublish::peek(version, &bytes[..end], PACKET_SIZE_MAX),
                    None
                );
            }
            let size_max = bytes.len() as u32;
            assert!(PlainPublish::peek(version, &bytes, size_max).is_some());
            assert_eq!(PlainPublish::peek(version, &bytes, size_max - 1), None);
        }
    }
}

#[test]
fn publish_with_anything_more_is_not_plain() {
    let plain = publish("t", b"x");
    let with = |change: fn(&mut Publish<'_>)| {
        let mut publish = plain;
        change(&mut publish);
        encoded(V5, publish)
    };
    let others = [
        with(|it| it.retain = true),
        with(|it| it.properties.message_expiry_interval_s = Some(1)),
        with(|it| it.properties.topic_alias = NonZeroU16::new(1)),
        with(|it| {
            it.topic_name = "";
            it.properties.topic_alias = NonZeroU16::new(1);
        }),
        with(|it| {
            it.qos = QoS::AtLeastOnce;
            it.packet_identifier = PacketIdentifier::new(1);
        }),
        // DUP.
        b"\x38\x05\0\x01t\0x".to_vec(),
        // Longer lengths than needed, of the packet and of the properties.
        b"\x30\x85\0\0\x01t\0x".to_vec(),
        b"\x30\x06\0\x01t\x80\0x".to_vec(),
        // No Topic Name, none that ends, none at all, no properties.
        b"\x30\x03\0\0\0".to_vec(),
        b"\x30\x04\0\x09t\0".to_vec(),
        b"\x30\x01\0".to_vec(),
        b"\x30\x00".to_vec(),
        b"\x30\x03\0\x01t".to_vec(),
        b"\x30\xFF\xFF\xFF\xFF\xFF".to_vec(),
        b"\xC0\0".to_vec(),
    ];
    for bytes in others {
        let seen = PlainPublish::peek(V5, &bytes, PACKET_SIZE_MAX);
        assert_eq!(seen, None, "{bytes:x?}");
    }
}

#[test]
fn what_follows_is_alike_exactly_if_it_is_plain_and_has_the_same_topic_name() {
    for version in VERSIONS {
        let bytes = encoded(version, publish("a/b", b"12345"));
        let first = PlainPublish::peek(version, &bytes, PACKET_SIZE_MAX).expect("plain");
        for (topic_name, payload, is_alike) in [
            ("a/b", &b"67890"[..], true),
            ("a/b", b"", true),
            ("a/b", &[7; 300], true),
            ("a/c", b"67890", false),
            // As large, and their bytes are the same up to somewhere.
            ("a/b1", b"2345", false),
            ("a/", b"b12345", false),
        ] {
            let next = encoded(version, publish(topic_name, payload));
            let more = [next.as_slice(), &bytes].concat();
            let seen = first.peek_alike(version, &more, PACKET_SIZE_MAX);
            let expected = PlainPublish::peek(version, &next, PACKET_SIZE_MAX);
            assert_eq!(seen, expected.filter(|_| is_alike), "{topic_name}");
            assert_eq!(
                first.peek_alike(version, &next[..next.len() - 1], PACKET_SIZE_MAX),
                None
            );
        }
    }
}
