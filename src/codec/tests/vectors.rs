//! Legal packets, byte for byte.

use std::num::{NonZeroU16, NonZeroU32};

use super::*;
use crate::message::QoS;

/// `text` decodes to `packet`, and `packet` encodes to `text`.
#[track_caller]
fn both_ways(version: ProtocolVersion, text: &str, packet: Packet<'_>) {
    decodes(version, text, packet);
    let bytes = encoded(&packet, version);
    assert_eq!(
        format!("{:02x?}", bytes),
        format!("{:02x?}", hex(text)),
        "{packet:?}"
    );
}

/// `text` decodes to `packet`, for which there is a shorter or more usual form.
#[track_caller]
fn decodes(version: ProtocolVersion, text: &str, packet: Packet<'_>) {
    let bytes = hex(text);
    assert_eq!(
        decode_whole(version, &bytes),
        Ok(packet),
        "{version:?} {text}"
    );
}

fn forwarded(bytes: &[u8]) -> ForwardedProperties<'_> {
    ForwardedProperties::from_encoded(bytes)
}

const PUBLISH: Publish<'static> = Publish {
    duplicate: false,
    qos: QoS::AtMostOnce,
    retain: false,
    topic_name: "a/b",
    packet_identifier: None,
    payload: b"hi",
    properties: PublishProperties {
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: ForwardedProperties::from_encoded(&[]),
        subscription_identifiers: SubscriptionIdentifiers::new(&[]),
    },
};

#[test]
fn connect() {
    let minimal = |version| Packet::Connect(Connect::new(version, "c"));
    // The lengths of MQTT 3.1 and 3.1.1 differ by the protocol name [MQTT-3.1.2-1].
    both_ways(V3, "10 0f 0006 'MQIsdp' 03 02 0000 0001 'c'", minimal(V3));
    both_ways(V311, "10 0d 0004 'MQTT' 04 02 0000 0001 'c'", minimal(V311));
    both_ways(V5, "10 0e 0004 'MQTT' 05 02 0000 00 0001 'c'", minimal(V5));
    // The version that `decode` is told does not matter for CONNECT.
    decodes(V5, "10 0d 0004 'MQTT' 04 02 0000 0001 'c'", minimal(V311));

    let mut full = Connect {
        clean_start: false,
        keep_alive_s: 60,
        username: Some("u"),
        password: Some(b"\xff\0"),
        will: Some(Will {
            qos: QoS::AtLeastOnce,
            retain: true,
            topic_name: "w",
            payload: b"gone",
            delay_interval_s: 0,
            message_expiry_interval_s: None,
            properties: ForwardedProperties::default(),
        }),
        ..Connect::new(V311, "")
    };
    both_ways(
        V311,
        "10 1c 0004 'MQTT' 04 ec 003c 0000 0001 'w' 0004 'gone' 0001 'u' 0002 ff00",
        Packet::Connect(full),
    );

    full.version = V5;
    full.properties = ConnectProperties {
        session_expiry_interval: Some(u32::MAX),
        receive_maximum: NonZeroU16::new(20),
        maximum_packet_size: NonZeroU32::new(65_536),
        topic_alias_maximum: 7,
        request_response_information: true,
        request_problem_information: false,
        user_properties: UserProperties::new(&[("k", "v"), ("k", "")]),
        authentication_method: Some("m"),
        authentication_data: Some(b"d"),
    };
    let will = full.will.as_mut().unwrap();
    will.delay_interval_s = 5;
    will.message_expiry_interval_s = Some(9);
    let properties = hex("01 01 03 0001 't' 08 0001 'r' 09 0001 00 26 0001 'a' 0001 'b'");
    will.properties = forwarded(&properties);
    both_ways(
        V5,
        "10 66 0004 'MQTT' 05 ec 003c
         29 11 ffffffff 21 0014 27 00010000 22 0007 19 01 17 00
            26 0001 'k' 0001 'v' 26 0001 'k' 0000 15 0001 'm' 16 0001 'd'
         0000
         1f 18 00000005 02 00000009
            01 01 03 0001 't' 08 0001 'r' 09 0001 00 26 0001 'a' 0001 'b'
         0001 'w' 0004 'gone' 0001 'u' 0002 ff00"
            .replace('\n', "")
            .as_str(),
        Packet::Connect(full),
    );
}

#[test]
fn connect_of_a_bridge_has_the_highest_bit_of_its_protocol_level() {
    let bridge = |version| {
        Packet::Connect(Connect {
            is_bridge: true,
            ..Connect::new(version, "c")
        })
    };
    both_ways(V3, "10 0f 0006 'MQIsdp' 83 02 0000 0001 'c'", bridge(V3));
    both_ways(V311, "10 0d 0004 'MQTT' 84 02 0000 0001 'c'", bridge(V311));
}

#[test]
fn connect_with_password_but_no_username_is_legal_in_v5() {
    let connect = Connect {
        password: Some(b"p"),
        ..Connect::new(V5, "")
    };
    both_ways(
        V5,
        "10 10 0004 'MQTT' 05 42 0000 00 0000 0001 'p'",
        Packet::Connect(connect),
    );
}

#[test]
fn connect_of_v31_is_forgiven_what_later_versions_forbid() {
    let connect = Packet::Connect(Connect::new(V3, "c"));
    // Reserved bit, Will bits without a Will, User Name and Password that are missing.
    decodes(V3, "10 0f 0006 'MQIsdp' 03 03 0000 0001 'c'", connect);
    decodes(V3, "10 0f 0006 'MQIsdp' 03 3a 0000 0001 'c'", connect);
    decodes(V3, "10 0f 0006 'MQIsdp' 03 c2 0000 0001 'c'", connect);
}

#[test]
fn connect_version_is_known_before_the_rest_is_checked() {
    let of = |text| connect_version(&hex(text));
    assert_eq!(of("0006 'MQIsdp' 03"), Some(V3));
    assert_eq!(of("0004 'MQTT' 04"), Some(V311));
    assert_eq!(of("0004 'MQTT' 05 ff"), Some(V5));
    assert_eq!(of("0004 'MQTT' 06"), None);
    assert_eq!(of("0004 'MQT'"), None);
    assert_eq!(of(""), None);
}

#[test]
fn connack() {
    let refused = |reason_code| {
        Packet::ConnAck(ConnAck {
            reason_code,
            ..ConnAck::default()
        })
    };
    let present = Packet::ConnAck(ConnAck {
        session_present: true,
        ..ConnAck::default()
    });
    both_ways(V311, "20 02 00 00", refused(ReasonCode::Success));
    both_ways(V311, "20 02 01 00", present);
    both_ways(V5, "20 03 01 00 00", present);
    // Return codes of MQTT 3.x [v3.1.1 MQTT-3.2.2-6].
    for (text, reason_code) in [
        ("20 02 00 01", ReasonCode::UnsupportedProtocolVersion),
        ("20 02 00 02", ReasonCode::ClientIdentifierNotValid),
        ("20 02 00 03", ReasonCode::ServerUnavailable),
        ("20 02 00 04", ReasonCode::BadUserNameOrPassword),
        ("20 02 00 05", ReasonCode::NotAuthorized),
    ] {
        both_ways(V3, text, refused(reason_code));
        both_ways(V311, text, refused(reason_code));
    }
    both_ways(V5, "20 03 00 87 00", refused(ReasonCode::NotAuthorized));
    // MQTT 3.1 has no Session Present: not written, and whatever stands there is not read.
    assert_eq!(encoded(&present, V3), hex("20 02 00 00"));
    decodes(V3, "20 02 ff 00", refused(ReasonCode::Success));
    // Codes that MQTT 3.x lacks become the closest it has.
    assert_eq!(
        encoded(&refused(ReasonCode::Banned), V311),
        hex("20 02 00 05")
    );
    assert_eq!(
        encoded(&refused(ReasonCode::ServerBusy), V311),
        hex("20 02 00 03")
    );
}

#[test]
fn connack_properties_in_their_order() {
    let connack = ConnAck {
        session_present: false,
        reason_code: ReasonCode::Success,
        properties: ConnAckProperties {
            session_expiry_interval: Some(1),
            receive_maximum: NonZeroU16::new(20),
            maximum_qos: Some(QoS::AtLeastOnce),
            retain_available: Some(true),
            maximum_packet_size: NonZeroU32::new(2_000_000),
            assigned_client_identifier: Some("c"),
            topic_alias_maximum: Some(10),
            reason_string: Some("r"),
            user_properties: UserProperties::new(&[("k", "v")]),
            wildcard_subscription_available: Some(true),
            subscription_identifiers_available: Some(false),
            shared_subscription_available: Some(true),
            server_keep_alive_s: Some(30),
            response_information: Some("i"),
            server_reference: Some("s"),
            authentication_method: Some("m"),
            authentication_data: Some(b"d"),
        },
    };
    both_ways(
        V5,
        "20 3f 00 00 3c 22 000a 11 00000001 12 0001 'c' 13 001e 15 0001 'm' 16 0001 'd' 1a 0001 'i' 1c 0001 's' 1f 0001 'r' 24 01 25 01 28 01 29 00 2a 01 26 0001 'k' 0001 'v' 27 001e8480 21 0014",
        Packet::ConnAck(connack),
    );
}

#[test]
fn publish() {
    both_ways(V311, "30 07 0003 'a/b' 'hi'", Packet::Publish(PUBLISH));
    both_ways(V5, "30 08 0003 'a/b' 00 'hi'", Packet::Publish(PUBLISH));
    let empty = Publish {
        payload: b"",
        retain: true,
        ..PUBLISH
    };
    both_ways(V3, "31 05 0003 'a/b'", Packet::Publish(empty));
    both_ways(V5, "31 06 0003 'a/b' 00", Packet::Publish(empty));
    let qos1 = Publish {
        qos: QoS::AtLeastOnce,
        packet_identifier: Some(pid(0x1234)),
        ..PUBLISH
    };
    both_ways(V311, "32 09 0003 'a/b' 1234 'hi'", Packet::Publish(qos1));
    let qos2 = Publish {
        duplicate: true,
        retain: true,
        qos: QoS::ExactlyOnce,
        packet_identifier: Some(pid(u16::MAX)),
        ..PUBLISH
    };
    both_ways(V5, "3d 0a 0003 'a/b' ffff 00 'hi'", Packet::Publish(qos2));
    // MQTT 3.1 does not forbid DUP with QoS 0.
    let duplicate = Publish {
        duplicate: true,
        ..PUBLISH
    };
    decodes(V3, "38 07 0003 'a/b' 'hi'", Packet::Publish(duplicate));
}

#[test]
fn publish_topics_that_are_unusual_but_legal() {
    for topic_name in [
        "/",
        "//",
        " ",
        "$SYS/x",
        "\u{feff}x", // [MQTT-1.5.4-3]
        "é/ü€😀",
        "\u{1}\u{7f}\u{9f}\u{ffff}\u{fdd0}\u{1ffff}",
    ] {
        let publish = Packet::Publish(Publish {
            topic_name,
            ..PUBLISH
        });
        for version in [V3, V311, V5] {
            let bytes = encoded(&publish, version);
            assert_eq!(decode_whole(version, &bytes), Ok(publish));
        }
    }
}

#[test]
fn publish_properties() {
    let properties = hex("01 01 03 0001 't' 08 0003 'r/s' 09 0002 00ff 26 0001 'k' 0001 'v'");
    let identifiers = [NonZeroU32::MIN, NonZeroU32::new(268_435_455).unwrap()];
    let mut publish = Publish {
        properties: PublishProperties {
            topic_alias: NonZeroU16::new(258),
            message_expiry_interval_s: Some(1),
            forwarded: forwarded(&properties),
            subscription_identifiers: SubscriptionIdentifiers::new(&identifiers),
        },
        ..PUBLISH
    };
    both_ways(
        V5,
        "30 2f 0003 'a/b' 27 23 0102 02 00000001 01 01 03 0001 't' 08 0003 'r/s' 09 0002 00ff 26 0001 'k' 0001 'v' 0b 01 0b ffffff7f 'hi'",
        Packet::Publish(publish),
    );
    // Any order is legal; the forwarded ones keep theirs [MQTT-3.3.2-18].
    let bytes = hex(
        "30 2f 0003 'a/b' 27 26 0001 'k' 0001 'v' 0b 01 09 0002 00ff 02 00000001 01 01 03 0001 't' 0b ffffff7f 23 0102 08 0003 'r/s' 'hi'",
    );
    let Ok(Packet::Publish(decoded)) = decode_whole(V5, &bytes) else {
        panic!("not a PUBLISH");
    };
    let forwarded = decoded.properties.forwarded;
    assert_eq!(forwarded.as_contiguous(), None);
    let mut copied = Vec::new();
    forwarded.copy_to(&mut copied);
    assert_eq!(
        copied,
        hex("26 0001 'k' 0001 'v' 09 0002 00ff 01 01 03 0001 't' 08 0003 'r/s'")
    );
    assert_eq!(
        forwarded.fields(),
        ForwardedFields {
            payload_is_utf8: Some(true),
            content_type: Some("t"),
            response_topic: Some("r/s"),
            correlation_data: Some(b"\x00\xff"),
            user_properties: UserProperties::new(&[("k", "v")]),
        }
    );
    publish.properties.forwarded = ForwardedProperties::from_encoded(&copied);
    assert_eq!(decoded, publish);

    // An empty Topic Name is legal beside a Topic Alias [MQTT-3.3.2-8].
    let alias_only = Publish {
        topic_name: "",
        payload: b"",
        properties: PublishProperties {
            topic_alias: NonZeroU16::new(1),
            ..PublishProperties::default()
        },
        ..PUBLISH
    };
    both_ways(V5, "30 06 0000 03 23 0001", Packet::Publish(alias_only));
}

#[test]
fn forwarded_properties_are_one_piece_unless_others_stand_between() {
    for (text, contiguous) in [
        ("30 06 0001 'a' 02 01 00", true),
        ("30 0b 0001 'a' 07 01 00 02 00000001", true),
        ("30 0b 0001 'a' 07 02 00000001 01 00", true),
        ("30 0d 0001 'a' 09 02 00000001 01 00 0b 01", true),
        ("30 10 0001 'a' 0c 01 00 02 00000001 26 0000 0000", false),
        ("30 10 0001 'a' 0c 02 00000001 01 00 26 0000 0000", true),
    ] {
        let bytes = hex(text);
        let Ok(Packet::Publish(publish)) = decode_whole(V5, &bytes) else {
            panic!("{text}");
        };
        let forwarded = publish.properties.forwarded;
        assert_eq!(forwarded.as_contiguous().is_some(), contiguous, "{text}");
        assert!(!forwarded.is_empty());
        let mut copied = Vec::new();
        forwarded.copy_to(&mut copied);
        assert!(copied.starts_with(&[1, 0]), "{text}");
    }
}

#[test]
fn publish_sizes_and_packet_identifier_offsets_are_exact() {
    // Both sides of every step of the Remaining Length.
    for payload_size in [
        0, 115, 116, 117, 118, 119, 120, 16_370, 16_380, 16_384, 2_097_140, 2_097_160,
    ] {
        let payload = vec![0x55; payload_size];
        for version in [V3, V311, V5] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let header = PublishHeader {
                    duplicate: false,
                    qos,
                    retain: false,
                    packet_identifier: Some(pid(0xABCD)),
                    topic_name: b"a/b",
                    topic_alias: None,
                    message_expiry_interval_s: None,
                    forwarded: &[],
                    subscription_identifiers: &[],
                    payload: &payload,
                };
                let mut out = b"before".to_vec();
                let offset = encode_publish(version, &header, &mut out);
                let packet = &out[6..];
                assert_eq!(packet.len(), publish_size(version, &header));
                assert_eq!(offset.is_some(), qos != QoS::AtMostOnce);
                if let Some(offset) = offset {
                    assert_eq!(packet[offset..offset + 2], [0xAB, 0xCD]);
                }
                let Ok(Packet::Publish(decoded)) = decode_whole(version, packet) else {
                    panic!("not a PUBLISH");
                };
                assert_eq!(decoded.payload, payload);
            }
        }
    }
}

#[test]
fn publish_without_packet_identifier_leaves_room_for_one() {
    let header = PublishHeader {
        duplicate: false,
        qos: QoS::ExactlyOnce,
        retain: false,
        packet_identifier: None,
        topic_name: b"a",
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload: b"x",
    };
    let mut out = Vec::new();
    assert_eq!(encode_publish(V311, &header, &mut out), Some(5));
    assert_eq!(out, hex("34 06 0001 'a' 0000 'x'"));
}

#[test]
fn publish_properties_are_not_counted_in_v3() {
    let identifiers = [NonZeroU32::MIN];
    let header = PublishHeader {
        duplicate: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_identifier: None,
        topic_name: b"a",
        topic_alias: NonZeroU16::new(1),
        message_expiry_interval_s: Some(1),
        forwarded: &[1, 0],
        subscription_identifiers: &identifiers,
        payload: b"x",
    };
    let mut out = Vec::new();
    encode_publish(V311, &header, &mut out);
    assert_eq!(out, hex("30 04 0001 'a' 'x'"));
    assert_eq!(publish_size(V311, &header), out.len());
}

type Kind = fn(Acknowledgement<'static>) -> Packet<'static>;
type Encode = fn(ProtocolVersion, PacketIdentifier, ReasonCode, &mut Vec<u8>);

#[test]
fn acknowledgements() {
    let kinds: [(u8, Kind, Encode, ReasonCode); 4] = [
        (
            0x40,
            Packet::PubAck,
            encode_puback,
            ReasonCode::QuotaExceeded,
        ),
        (
            0x50,
            Packet::PubRec,
            encode_pubrec,
            ReasonCode::NoMatchingSubscribers,
        ),
        (
            0x62,
            Packet::PubRel,
            encode_pubrel,
            ReasonCode::PacketIdentifierNotFound,
        ),
        (
            0x70,
            Packet::PubComp,
            encode_pubcomp,
            ReasonCode::PacketIdentifierNotFound,
        ),
    ];
    for (first, kind, encode_short, reason_code) in kinds {
        let success = Acknowledgement::new(pid(0x0102), ReasonCode::Success);
        let failure = Acknowledgement {
            reason_code,
            ..success
        };
        let code = reason_code.as_u8();
        for version in [V3, V311, V5] {
            both_ways(version, &format!("{first:02x} 02 0102"), kind(success));
            assert_eq!(decode_acknowledgement(version, first, &[1, 2]), Ok(success));
            let mut out = Vec::new();
            encode_short(version, pid(0x0102), ReasonCode::Success, &mut out);
            assert_eq!(out, hex(&format!("{first:02x} 02 0102")));
            out.clear();
            encode_short(version, pid(0x0102), reason_code, &mut out);
            assert_eq!(out, encoded(&kind(failure), version));
        }
        both_ways(
            V5,
            &format!("{first:02x} 03 0102 {code:02x}"),
            kind(failure),
        );
        assert_eq!(
            encoded(&kind(failure), V311),
            hex(&format!("{first:02x} 02 0102"))
        );
        // Longer forms of the same.
        decodes(V5, &format!("{first:02x} 03 0102 00"), kind(success));
        decodes(V5, &format!("{first:02x} 04 0102 00 00"), kind(success));
        decodes(
            V5,
            &format!("{first:02x} 04 0102 {code:02x} 00"),
            kind(failure),
        );
        let explained = Acknowledgement {
            reason_string: Some("no"),
            user_properties: UserProperties::new(&[("k", "v"), ("k", "w")]),
            ..failure
        };
        both_ways(
            V5,
            &format!(
                "{first:02x} 17 0102 {code:02x} 13 1f 0002 'no' 26 0001 'k' 0001 'v' 26 0001 'k' 0001 'w'"
            ),
            kind(explained),
        );
        assert_eq!(
            encoded(&kind(explained), V311),
            hex(&format!("{first:02x} 02 0102"))
        );
    }
}

#[test]
fn v31_has_flags_in_every_packet_and_no_use_for_them_but_in_publish() {
    let acknowledgement = Acknowledgement::new(pid(1), ReasonCode::Success);
    let filters = [("a", SubscriptionOptions::default())];
    let subscribe = Subscribe::new(pid(1), &filters);
    let unsubscribe = Unsubscribe::new(pid(1), &["a"]);
    for flags in 0..16 {
        let with = |packet_type: u8, body: &str| format!("{packet_type:x}{flags:x} {body}");
        decodes(V3, &with(4, "02 0001"), Packet::PubAck(acknowledgement));
        decodes(V3, &with(6, "02 0001"), Packet::PubRel(acknowledgement));
        decodes(
            V3,
            &with(8, "06 0001 0001 'a' 00"),
            Packet::Subscribe(subscribe),
        );
        decodes(
            V3,
            &with(10, "05 0001 0001 'a'"),
            Packet::Unsubscribe(unsubscribe),
        );
    }
}

#[test]
fn subscribe() {
    let filters = [
        ("a/+", SubscriptionOptions::new(QoS::AtMostOnce)),
        ("#", SubscriptionOptions::new(QoS::ExactlyOnce)),
    ];
    let subscribe = Packet::Subscribe(Subscribe::new(pid(10), &filters));
    both_ways(V3, "82 0c 000a 0003 'a/+' 00 0001 '#' 02", subscribe);
    both_ways(V311, "82 0c 000a 0003 'a/+' 00 0001 '#' 02", subscribe);
    both_ways(V5, "82 0d 000a 00 0003 'a/+' 00 0001 '#' 02", subscribe);

    let filters = [
        (
            "a",
            SubscriptionOptions {
                qos: QoS::AtLeastOnce,
                no_local: true,
                retain_as_published: true,
                retain_handling: RetainHandling::DoNotSend,
            },
        ),
        (
            "$share/g/a",
            SubscriptionOptions {
                retain_handling: RetainHandling::SendIfNew,
                ..SubscriptionOptions::default()
            },
        ),
    ];
    let mut subscribe = Subscribe::new(pid(1), &filters);
    subscribe.subscription_identifier = NonZeroU32::new(268_435_455);
    subscribe.user_properties = UserProperties::new(&[("k", "v")]);
    both_ways(
        V5,
        "82 20 0001 0c 0b ffffff7f 26 0001 'k' 0001 'v' 0001 'a' 2d 000a '$share/g/a' 10",
        Packet::Subscribe(subscribe),
    );
    // Only "$share/" makes a Shared Subscription [MQTT-4.8.2-1].
    let filters = [(
        "$share",
        SubscriptionOptions {
            no_local: true,
            ..SubscriptionOptions::default()
        },
    )];
    both_ways(
        V5,
        "82 0c 0001 00 0006 '$share' 04",
        Packet::Subscribe(Subscribe::new(pid(1), &filters)),
    );
}

#[test]
fn suback() {
    let codes = [
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ];
    let suback = Packet::SubAck(SubAck::new(pid(10), &codes));
    both_ways(V311, "90 06 000a 00010280", suback);
    both_ways(V5, "90 07 000a 00 00010280", suback);
    let explained = SubAck {
        reason_string: Some("r"),
        user_properties: UserProperties::new(&[("k", "v")]),
        ..SubAck::new(pid(1), &[ReasonCode::NotAuthorized])
    };
    both_ways(
        V5,
        "90 0f 0001 0b 1f 0001 'r' 26 0001 'k' 0001 'v' 87",
        Packet::SubAck(explained),
    );
    // MQTT 3.1.1 has one failure [v3.1.1 MQTT-3.9.3-2].
    let mut out = Vec::new();
    encode_suback(V311, pid(1), &[ReasonCode::NotAuthorized], &mut out);
    assert_eq!(out, hex("90 03 0001 80"));
}

#[test]
fn unsubscribe() {
    let unsubscribe = Packet::Unsubscribe(Unsubscribe::new(pid(10), &["a/+", "#"]));
    both_ways(V3, "a2 0a 000a 0003 'a/+' 0001 '#'", unsubscribe);
    both_ways(V311, "a2 0a 000a 0003 'a/+' 0001 '#'", unsubscribe);
    both_ways(V5, "a2 0b 000a 00 0003 'a/+' 0001 '#'", unsubscribe);
    let mut with_property = Unsubscribe::new(pid(1), &["a"]);
    with_property.user_properties = UserProperties::new(&[("k", "v")]);
    both_ways(
        V5,
        "a2 0d 0001 07 26 0001 'k' 0001 'v' 0001 'a'",
        Packet::Unsubscribe(with_property),
    );
}

#[test]
fn unsuback() {
    both_ways(
        V311,
        "b0 02 000a",
        Packet::UnsubAck(UnsubAck::new(pid(10), &[])),
    );
    let codes = [ReasonCode::Success, ReasonCode::NoSubscriptionExisted];
    let unsuback = UnsubAck::new(pid(10), &codes);
    both_ways(V5, "b0 05 000a 00 0011", Packet::UnsubAck(unsuback));
    let mut out = Vec::new();
    encode_unsuback(V311, pid(10), &codes, &mut out);
    assert_eq!(out, hex("b0 02 000a"));
    let explained = UnsubAck {
        reason_string: Some("r"),
        ..unsuback
    };
    both_ways(
        V5,
        "b0 09 000a 04 1f 0001 'r' 0011",
        Packet::UnsubAck(explained),
    );
}

#[test]
fn ping() {
    for version in [V3, V311, V5] {
        both_ways(version, "c0 00", Packet::PingReq);
        both_ways(version, "d0 00", Packet::PingResp);
    }
    // Only the sender is bound to the shortest form [MQTT-1.5.5-1].
    decodes(V5, "c0 80 00", Packet::PingReq);
    decodes(V5, "c0 80 80 80 00", Packet::PingReq);
}

#[test]
fn disconnect() {
    let normal = Packet::Disconnect(Disconnect::default());
    for version in [V3, V311, V5] {
        both_ways(version, "e0 00", normal);
    }
    decodes(V5, "e0 01 00", normal);
    decodes(V5, "e0 02 00 00", normal);
    let with_will = Disconnect::new(ReasonCode::DisconnectWithWillMessage);
    both_ways(V5, "e0 01 04", Packet::Disconnect(with_will));
    let full = Disconnect {
        reason_code: ReasonCode::Success,
        session_expiry_interval: Some(0),
        reason_string: Some("r"),
        server_reference: Some("s"),
        user_properties: UserProperties::new(&[("k", "v")]),
    };
    both_ways(
        V5,
        "e0 16 00 14 11 00000000 1f 0001 'r' 1c 0001 's' 26 0001 'k' 0001 'v'",
        Packet::Disconnect(full),
    );
    assert_eq!(encoded(&Packet::Disconnect(full), V311), hex("e0 00"));
}

#[test]
fn disconnect_from_a_client_may_not_say_what_a_server_says() {
    // [MQTT-3.14.2-1]
    let check = |code| Disconnect::new(code).check_from_client();
    assert_eq!(check(ReasonCode::Success), Ok(()));
    assert_eq!(check(ReasonCode::DisconnectWithWillMessage), Ok(()));
    assert_eq!(
        check(ReasonCode::SessionTakenOver),
        Err(DecodeError::ReasonCode { code: 0x8E })
    );
    let moved = Disconnect {
        server_reference: Some("x"),
        ..Disconnect::default()
    };
    assert_eq!(
        moved.check_from_client(),
        Err(DecodeError::PropertyNotAllowed { identifier: 0x1C })
    );
}

#[test]
fn auth() {
    both_ways(V5, "f0 00", Packet::Auth(Auth::default()));
    let auth = Auth {
        reason_code: ReasonCode::ContinueAuthentication,
        authentication_method: Some("m"),
        authentication_data: Some(b"\0d"),
        reason_string: Some("r"),
        user_properties: UserProperties::new(&[("k", "v")]),
    };
    both_ways(
        V5,
        "f0 16 18 14 15 0001 'm' 16 0002 '\0d' 1f 0001 'r' 26 0001 'k' 0001 'v'",
        Packet::Auth(auth),
    );
}

#[test]
fn property_lengths_need_not_be_minimal() {
    // Only the sender is bound to the shortest form [MQTT-1.5.5-1].
    decodes(V5, "30 09 0003 'a/b' 8000 'hi'", Packet::Publish(PUBLISH));
    decodes(
        V5,
        "30 0b 0003 'a/b' 80808000 'hi'",
        Packet::Publish(PUBLISH),
    );
}

#[test]
fn long_properties_get_a_longer_length() {
    for size in [
        0, 120, 124, 125, 126, 127, 128, 16_370, 16_380, 16_384, 65_535,
    ] {
        let text = "x".repeat(size);
        let disconnect = Packet::Disconnect(Disconnect {
            reason_code: ReasonCode::ServerBusy,
            reason_string: Some(&text),
            ..Disconnect::default()
        });
        let mut out = b"before".to_vec();
        encode(&disconnect, V5, &mut out);
        assert_eq!(&out[..6], b"before");
        assert_eq!(decode_whole(V5, &out[6..]), Ok(disconnect), "{size}");
    }
}

#[test]
fn fixed_headers() {
    let header = |first_byte, header_size, remaining_length| {
        Ok(Some(FixedHeader {
            first_byte,
            header_size,
            remaining_length,
        }))
    };
    for (text, expected) in [
        ("", Ok(None)),
        ("30", Ok(None)),
        ("30 80", Ok(None)),
        ("30 80 80 80", Ok(None)),
        ("30 00", header(0x30, 2, 0)),
        ("c0 7f 01", header(0xC0, 2, 127)),
        ("30 8001", header(0x30, 3, 128)),
        ("30 ff7f ff", header(0x30, 3, 16_383)),
        ("30 808001", header(0x30, 4, 16_384)),
        ("30 ffff7f", header(0x30, 4, 2_097_151)),
        ("30 80808001", header(0x30, 5, 2_097_152)),
        ("30 ffffff7f", header(0x30, 5, 268_435_455)),
    ] {
        assert_eq!(
            decode_fixed_header(&hex(text), PACKET_SIZE_MAX),
            expected,
            "{text}"
        );
    }
}
