//! Illegal packets, and what each is refused as.

use super::*;
use crate::codec::properties::id;
use DecodeError as E;

#[track_caller]
fn refused(version: ProtocolVersion, text: &str, error: DecodeError) {
    let bytes = hex(text);
    assert_eq!(
        decode_whole(version, &bytes),
        Err(error),
        "{version:?} {text}"
    );
}

#[track_caller]
fn refused_by_all(text: &str, error: DecodeError) {
    for version in [V3, V311, V5] {
        refused(version, text, error);
    }
}

/// A packet whose body is well below 128 bytes.
fn packet(first_byte: u8, body: &[&[u8]]) -> Vec<u8> {
    let body = body.concat();
    assert!(body.len() < 0x80);
    [&[first_byte, body.len() as u8], body.as_slice()].concat()
}

#[test]
fn remaining_length_beyond_four_bytes() {
    for text in [
        "30 ffffffff",
        "30 80808080 01",
        "10 ffffffffff 01",
        "00 80808080",
    ] {
        let bytes = hex(text);
        assert_eq!(
            decode_fixed_header(&bytes, PACKET_SIZE_MAX),
            Err(E::RemainingLength)
        );
    }
    assert_eq!(
        E::RemainingLength.reason_code(),
        ReasonCode::MalformedPacket
    );
}

#[test]
fn packets_beyond_the_maximum_packet_size() {
    // The whole packet counts, fixed header included [MQTT-3.1.2-24].
    let bytes = hex("30 8001");
    assert!(matches!(decode_fixed_header(&bytes, 131), Ok(Some(_))));
    let error = E::PacketTooLarge {
        size: 131,
        size_max: 130,
    };
    assert_eq!(decode_fixed_header(&bytes, 130), Err(error));
    assert_eq!(error.reason_code(), ReasonCode::PacketTooLarge);
    assert!(decode_fixed_header(&hex("30 ffffff7f"), u32::MAX).is_ok());
    assert!(decode_fixed_header(&hex("30 ffffff7f"), 2_000_000).is_err());
}

#[test]
fn fixed_header_flags() {
    // [MQTT-2.1.3-1], [v3.1.1 MQTT-2.2.2-2]
    for packet_type in 1..=15_u8 {
        if packet_type == packet_type::PUBLISH {
            continue;
        }
        let required = match packet_type {
            packet_type::PUBREL | packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE => 2,
            _ => 0,
        };
        for flags in 0..16 {
            let first_byte = packet_type << 4 | flags;
            for version in [V311, V5] {
                let is_refused =
                    decode(version, first_byte, &[]) == Err(E::FixedHeaderFlags { first_byte });
                assert_eq!(is_refused, flags != required, "{first_byte:#04x}");
            }
        }
    }
}

#[test]
fn packet_types_that_do_not_exist() {
    refused_by_all("00 00", E::PacketType { packet_type: 0 });
    refused(V3, "f0 00", E::PacketType { packet_type: 15 });
    refused(V311, "f0 00", E::PacketType { packet_type: 15 });
    assert_eq!(
        E::PacketType { packet_type: 0 }.reason_code(),
        ReasonCode::MalformedPacket
    );
}

#[test]
fn connect_protocol_name_and_level() {
    // [MQTT-3.1.2-1]
    for name in ["mqtt", "MQT", "MQTTT", "", "Mqtt", "HTTP", "MQISDP"] {
        let bytes = packet(
            0x10,
            &[
                &[0, name.len() as u8],
                name.as_bytes(),
                &hex("04 02 0000 0001 'c'"),
            ],
        );
        assert_eq!(decode_whole(V5, &bytes), Err(E::ProtocolName), "{name}");
    }
    // [MQTT-3.1.2-2]; bridges set the highest bit of levels below that of MQTT 5.0.
    for level in [0, 1, 2, 3, 6, 7, 64, 127, 0x80, 0x83, 0x85, 0x86, 255] {
        let bytes = packet(
            0x10,
            &[&hex("0004 'MQTT'"), &[level], &hex("02 0000 0001 'c'")],
        );
        assert_eq!(decode_whole(V5, &bytes), Err(E::ProtocolLevel { level }));
    }
    for level in [0, 2, 4, 5, 0x80, 0x84, 0x85] {
        let bytes = packet(
            0x10,
            &[&hex("0006 'MQIsdp'"), &[level], &hex("02 0000 0001 'c'")],
        );
        assert_eq!(decode_whole(V5, &bytes), Err(E::ProtocolLevel { level }));
    }
    assert_eq!(
        E::ProtocolName.reason_code(),
        ReasonCode::UnsupportedProtocolVersion
    );
    assert_eq!(
        E::ProtocolLevel { level: 6 }.reason_code(),
        ReasonCode::UnsupportedProtocolVersion
    );
}

#[test]
fn connect_flags() {
    for flags in [
        0x03, // reserved [MQTT-3.1.2-3]
        0x0A, 0x12, // Will QoS without a Will [MQTT-3.1.2-11]
        0x22, // Will Retain without a Will [MQTT-3.1.2-13]
    ] {
        for (level, properties) in [("04", ""), ("05", "00")] {
            let text = format!("0004 'MQTT' {level} {flags:02x} 0000 {properties} 0001 'c'");
            let bytes = packet(0x10, &[&hex(&text)]);
            assert_eq!(decode_whole(V5, &bytes), Err(E::ConnectFlags { flags }));
        }
    }
    // Will QoS 3 [MQTT-3.1.2-12].
    refused(
        V5,
        "10 13 0004 'MQTT' 04 1e 0000 0001 'c' 0001 'w' 0001 'x'",
        E::QoS,
    );
    refused(
        V5,
        "10 15 0004 'MQTT' 05 1e 0000 00 0001 'c' 00 0001 'w' 0001 'x'",
        E::QoS,
    );
    refused(
        V5,
        "10 15 0006 'MQIsdp' 03 1e 0000 0001 'c' 0001 'w' 0001 'x'",
        E::QoS,
    );
    // A Password without a User Name [v3.1.1 MQTT-3.1.2-22].
    refused(
        V311,
        "10 10 0004 'MQTT' 04 42 0000 0001 'c' 0001 'p'",
        E::ConnectFlags { flags: 0x42 },
    );
}

#[test]
fn connect_whose_flags_do_not_fit_its_payload() {
    for (flags, payload, error) in [
        ("06", "0001 'c'", E::Truncated),              // [MQTT-3.1.2-9]
        ("82", "0001 'c'", E::Truncated),              // [MQTT-3.1.2-17]
        ("c2", "0001 'c' 0001 'u'", E::Truncated),     // [MQTT-3.1.2-19]
        ("02", "0001 'c' 0001 'u'", E::TrailingBytes), // [MQTT-3.1.2-16]
        ("02", "0001 'c' 'xyz'", E::TrailingBytes),
        ("02", "", E::Truncated), // [MQTT-3.1.3-3]
    ] {
        let text = format!("0004 'MQTT' 04 {flags} 0000 {payload}");
        assert_eq!(
            decode_whole(V311, &packet(0x10, &[&hex(&text)])),
            Err(error),
            "{text}"
        );
    }
}

#[test]
fn connect_values_out_of_range() {
    let with = |properties: &str| {
        let properties = hex(properties);
        let body = [
            hex("0004 'MQTT' 05 02 0000"),
            vec![properties.len() as u8],
            properties,
            hex("0001 'c'"),
        ]
        .concat();
        decode(V5, 0x10, &body).map(|_| ())
    };
    for (properties, identifier) in [
        ("21 0000", id::RECEIVE_MAXIMUM),
        ("27 00000000", id::MAXIMUM_PACKET_SIZE),
        ("17 02", id::REQUEST_PROBLEM_INFORMATION),
        ("17 ff", id::REQUEST_PROBLEM_INFORMATION),
        ("19 02", id::REQUEST_RESPONSE_INFORMATION),
    ] {
        let error = E::PropertyValue { identifier };
        assert_eq!(with(properties), Err(error));
        assert_eq!(error.reason_code(), ReasonCode::ProtocolError);
    }
    assert_eq!(with("16 0001 'd'"), Err(E::AuthenticationMethodMissing));
    assert_eq!(with("16 0001 'd' 15 0001 'm'"), Ok(()));
    assert_eq!(with("22 0000"), Ok(()));
}

#[test]
fn will_topics() {
    for topic in ["", "#", "+", "a/#", "a/+/b", "a#", "+a", "/#"] {
        let topic = [&[0, topic.len() as u8], topic.as_bytes()].concat();
        let v311 = packet(
            0x10,
            &[
                &hex("0004 'MQTT' 04 06 0000 0001 'c'"),
                &topic,
                &hex("0001 'x'"),
            ],
        );
        assert_eq!(decode_whole(V311, &v311), Err(E::TopicName));
        let v5 = packet(
            0x10,
            &[
                &hex("0004 'MQTT' 05 06 0000 00 0001 'c' 00"),
                &topic,
                &hex("0001 'x'"),
            ],
        );
        assert_eq!(decode_whole(V5, &v5), Err(E::TopicName));
    }
}

#[test]
fn connack() {
    // [MQTT-3.2.2-1], [MQTT-3.2.2-6]
    refused(V311, "20 02 02 00", E::ConnAckFlags { flags: 2 });
    refused(V5, "20 03 03 00 00", E::ConnAckFlags { flags: 3 });
    refused(V5, "20 03 01 87 00", E::ConnAckFlags { flags: 1 });
    refused(V311, "20 02 00 06", E::ReasonCode { code: 6 });
    refused(V311, "20 03 00 00 00", E::TrailingBytes);
    refused(V5, "20 02 00 00", E::Truncated);
    refused(V5, "20 04 00 00 00 00", E::TrailingBytes);
    refused(
        V5,
        "20 05 00 00 02 24 02",
        E::PropertyValue { identifier: 0x24 },
    );
    refused(
        V5,
        "20 07 00 00 04 16 0001 'd'",
        E::AuthenticationMethodMissing,
    );
}

#[test]
fn publish() {
    // QoS 3 [MQTT-3.3.1-4].
    for first in ["36", "37", "3e", "3f"] {
        refused_by_all(&format!("{first} 06 0001 'a' 0001 00"), E::QoS);
    }
    // DUP with QoS 0 [MQTT-3.3.1-2].
    refused(V311, "38 03 0001 'a'", E::DuplicateAtMostOnce);
    refused(V5, "38 04 0001 'a' 00", E::DuplicateAtMostOnce);
    // [MQTT-2.2.1-3], [v3.1.1 MQTT-2.3.1-1]
    for first in ["32", "34"] {
        refused_by_all(
            &format!("{first} 06 0001 'a' 0000 00"),
            E::PacketIdentifierZero,
        );
    }
    // [MQTT-3.3.2-1]
    refused_by_all("30 05 0020 'abc'", E::Truncated);
    refused_by_all("30 01 00", E::Truncated);
    refused_by_all("30 00", E::Truncated);
    refused_by_all("32 04 0001 'a' 01", E::Truncated);
    refused(V5, "30 03 0001 'a'", E::Truncated);
    // [MQTT-3.3.2-2]
    for topic in [
        "#",
        "+",
        "a/#",
        "a/+/b",
        "a#",
        "+a",
        "/#",
        "a long topic name, longer than a vector register/+",
    ] {
        for version in [V3, V311, V5] {
            for first_byte in [0x30, 0x32] {
                let body = [&[0, topic.len() as u8], topic.as_bytes(), &[0, 1, 0]].concat();
                assert_eq!(
                    decode(version, first_byte, &body),
                    Err(E::TopicName),
                    "{topic}"
                );
            }
        }
    }
    assert_eq!(E::TopicName.reason_code(), ReasonCode::TopicNameInvalid);
    // [MQTT-4.7.3-1], [MQTT-3.3.2-8]
    refused(V3, "30 02 0000", E::TopicName);
    refused(V311, "30 02 0000", E::TopicName);
    refused(V5, "30 03 0000 00", E::TopicNameMissing);
    assert_eq!(E::TopicNameMissing.reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn publish_properties() {
    let with = |properties: &str| {
        let properties = hex(properties);
        let body = [hex("0001 'a'"), vec![properties.len() as u8], properties].concat();
        decode(V5, 0x30, &body).map(|_| ())
    };
    assert_eq!(with("23 0000"), Err(E::TopicAliasZero));
    assert_eq!(
        E::TopicAliasZero.reason_code(),
        ReasonCode::TopicAliasInvalid
    );
    assert_eq!(with("01 02"), Err(E::PropertyValue { identifier: 1 }));
    assert_eq!(with("0b 00"), Err(E::PropertyValue { identifier: 0x0B }));
    assert_eq!(with("0b 80808080 01"), Err(E::VariableByteInteger));
    assert_eq!(with("26 0001 'k' 0005 'v'"), Err(E::Truncated));
    assert_eq!(with("01"), Err(E::Truncated));
    assert_eq!(with("02 000000"), Err(E::Truncated));
    // [MQTT-3.3.2-14]
    for topic in [
        "0000",
        "0001 '#'",
        "0001 '+'",
        "0003 'a/#'",
        "0005 'a/+/b'",
        "0002 'a#'",
    ] {
        assert_eq!(
            with(&format!("08 {topic}")),
            Err(E::ResponseTopic),
            "{topic}"
        );
    }
    assert_eq!(E::ResponseTopic.reason_code(), ReasonCode::ProtocolError);
    // The Property Length.
    refused(V5, "30 04 0001 'a' 7f", E::Truncated);
    refused(V5, "30 08 0001 'a' 8080808000", E::VariableByteInteger);
}

#[test]
fn acknowledgements() {
    for first in ["40", "50", "62", "70"] {
        refused_by_all(&format!("{first} 00"), E::Truncated);
        refused_by_all(&format!("{first} 01 00"), E::Truncated);
        refused_by_all(&format!("{first} 02 0000"), E::PacketIdentifierZero);
        refused(V3, &format!("{first} 03 0001 00"), E::TrailingBytes);
        refused(V311, &format!("{first} 03 0001 00"), E::TrailingBytes);
        refused(V5, &format!("{first} 05 0001 00 00 'x'"), E::TrailingBytes);
        refused(V5, &format!("{first} 04 0001 00 01"), E::Truncated);
    }
    for first_byte in [0x00, 0x3A, 0x82, 0xF0] {
        let error = E::PacketType {
            packet_type: first_byte >> 4,
        };
        assert_eq!(decode_acknowledgement(V5, first_byte, &[0, 1]), Err(error));
    }
    let error = E::FixedHeaderFlags { first_byte: 0x60 };
    assert_eq!(decode_acknowledgement(V5, 0x60, &[0, 1]), Err(error));
}

#[test]
fn subscribe() {
    refused(V311, "82 02 0001", E::PayloadEmpty); // [v3.1.1 MQTT-3.8.3-3]
    refused(V5, "82 03 0001 00", E::PayloadEmpty); // [MQTT-3.8.3-2]
    assert_eq!(E::PayloadEmpty.reason_code(), ReasonCode::ProtocolError);
    refused(V311, "82 06 0000 0001 'a' 00", E::PacketIdentifierZero);
    refused(V311, "82 05 0001 0001 'a'", E::Truncated);
    refused(V311, "82 09 0001 0001 'a' 00 0009 'b'", E::Truncated);
    refused(V311, "82 05 0001 0000 00", E::TopicFilterEmpty); // [MQTT-4.7.3-1]
    refused(V5, "82 06 0001 00 0000 00", E::TopicFilterEmpty);
    refused(
        V5,
        "82 09 0001 02 0b00 0001 'a' 00",
        E::PropertyValue { identifier: 0x0B },
    );
    refused(
        V5,
        "82 0d 0001 06 0b 8080808001 0001 'a' 00",
        E::VariableByteInteger,
    );
    // [MQTT-3.8.3-4]
    refused(V5, "82 10 0001 00 000a '$share/g/x' 04", E::SharedNoLocal);
    assert_eq!(E::SharedNoLocal.reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn subscription_options() {
    for options in 0..=255_u8 {
        let v311 = packet(0x82, &[&hex("0001 0001 'a'"), &[options]]);
        let is_legal = options < 3;
        assert_eq!(
            decode_whole(V311, &v311).is_ok(),
            is_legal,
            "{options:#04x}"
        );
        if options > 3 {
            // [v3.1.1 MQTT-3.8.3-4]
            assert_eq!(
                decode_whole(V311, &v311),
                Err(E::SubscriptionOptionsReserved { options })
            );
        }
        let v5 = packet(0x82, &[&hex("0001 00 0001 'a'"), &[options]]);
        let expected = if options >= 0x40 {
            // [MQTT-3.8.3-5]
            Some(E::SubscriptionOptionsReserved { options })
        } else if options & 3 == 3 || options & 0x30 == 0x30 {
            Some(E::SubscriptionOptionsValue { options })
        } else {
            None
        };
        assert_eq!(decode_whole(V5, &v5).err(), expected, "{options:#04x}");
    }
    let reserved = E::SubscriptionOptionsReserved { options: 0x40 };
    assert_eq!(reserved.reason_code(), ReasonCode::MalformedPacket);
    let value = E::SubscriptionOptionsValue { options: 3 };
    assert_eq!(value.reason_code(), ReasonCode::ProtocolError);
}

#[test]
fn unsubscribe() {
    refused(V311, "a2 02 0001", E::PayloadEmpty); // [v3.1.1 MQTT-3.10.3-2]
    refused(V5, "a2 03 0001 00", E::PayloadEmpty); // [MQTT-3.10.3-2]
    refused(V5, "a2 06 0000 00 0001 'a'", E::PacketIdentifierZero);
    refused(V311, "a2 04 0001 0000", E::TopicFilterEmpty); // [MQTT-4.7.3-1]
    refused(V311, "a2 06 0001 0001 'a' 00", E::Truncated);
}

#[test]
fn suback_and_unsuback() {
    refused(V311, "90 02 0001", E::PayloadEmpty);
    refused(V5, "90 03 0001 00", E::PayloadEmpty);
    refused(V311, "90 03 0001 03", E::ReasonCode { code: 3 });
    refused(V311, "90 03 0001 87", E::ReasonCode { code: 0x87 });
    refused(V311, "b0 03 0001 00", E::TrailingBytes);
    refused(V5, "b0 02 0001", E::Truncated);
    refused(V5, "b0 03 0001 00", E::PayloadEmpty);
}

#[test]
fn ping_disconnect_and_auth() {
    refused_by_all("c0 01 00", E::TrailingBytes);
    refused_by_all("d0 01 00", E::TrailingBytes);
    refused(V3, "e0 01 00", E::TrailingBytes);
    refused(V311, "e0 01 00", E::TrailingBytes);
    refused(V5, "e0 03 00 00 'x'", E::TrailingBytes);
    refused(V5, "e0 02 00 01", E::Truncated);
    refused(V5, "f0 01 18", E::Truncated);
    refused(V5, "f0 02 18 00", E::AuthenticationMethodMissing);
    refused(V5, "f0 07 18 04 15 0001 'm' 'x'", E::TrailingBytes);
}

#[test]
fn reason_codes_of_each_packet() {
    const CONNACK: &[u8] = &[
        0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95,
        0x97, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
    ];
    const PUBACK: &[u8] = &[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99];
    const DISCONNECT: &[u8] = &[
        0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94,
        0x95, 0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
    ];
    // First byte, what stands before the code, what after, and the legal ones.
    let tables: [(u8, &str, &str, &[u8]); 9] = [
        (0x20, "00", "00", CONNACK),       // [MQTT-3.2.2-8]
        (0x40, "0001", "", PUBACK),        // [MQTT-3.4.2-1]
        (0x50, "0001", "", PUBACK),        // [MQTT-3.5.2-1]
        (0x62, "0001", "", &[0x00, 0x92]), // [MQTT-3.6.2-1]
        (0x70, "0001", "", &[0x00, 0x92]), // [MQTT-3.7.2-1]
        (
            0x90,
            "0001 00",
            "",
            &[
                0, 1, 2, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
            ], // [MQTT-3.9.3-2]
        ),
        (
            0xB0,
            "0001 00",
            "",
            &[0, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91],
        ), // [MQTT-3.11.3-2]
        (0xE0, "", "", DISCONNECT), // [MQTT-3.14.2-1]
        (0xF0, "", "04 15 0001 'm'", &[0x00, 0x18, 0x19]), // [MQTT-3.15.2-1]
    ];
    for (first_byte, before, after, legal) in tables {
        for code in 0..=255_u8 {
            let body = [hex(before), vec![code], hex(after)].concat();
            let result = decode(V5, first_byte, &body);
            if legal.contains(&code) {
                assert!(result.is_ok(), "{first_byte:#04x} {code:#04x}: {result:?}");
            } else {
                assert_eq!(result, Err(E::ReasonCode { code }), "{first_byte:#04x}");
            }
        }
    }
    for code in 0..=255_u8 {
        assert_eq!(
            ReasonCode::from_u8(code).map_or(code, ReasonCode::as_u8),
            code
        );
    }
}

/// Identifier, a legal value, and the packets it is allowed in: table 2-4 of the specification.
const PROPERTIES: [(u8, &str, &str); 27] = [
    (0x01, "01", "publish will"),
    (0x02, "00000001", "publish will"),
    (0x03, "0001 'a'", "publish will"),
    (0x08, "0001 'a'", "publish will"),
    (0x09, "0001 'a'", "publish will"),
    (0x0B, "01", "publish subscribe"),
    (0x11, "00000001", "connect connack disconnect"),
    (0x12, "0001 'a'", "connack"),
    (0x13, "0001", "connack"),
    (0x15, "0001 'a'", "connect connack auth"),
    (0x16, "0001 'a'", "connect connack auth"),
    (0x17, "01", "connect"),
    (0x18, "00000001", "will"),
    (0x19, "01", "connect"),
    (0x1A, "0001 'a'", "connack"),
    (0x1C, "0001 'a'", "connack disconnect"),
    (
        0x1F,
        "0001 'a'",
        "connack puback pubrec pubrel pubcomp suback unsuback disconnect auth",
    ),
    (0x21, "0001", "connect connack"),
    (0x22, "0001", "connect connack"),
    (0x23, "0001", "publish"),
    (0x24, "01", "connack"),
    (0x25, "01", "connack"),
    (
        0x26,
        "0001 'a' 0001 'b'",
        "connect connack publish will puback pubrec pubrel pubcomp subscribe suback unsubscribe unsuback disconnect auth",
    ),
    (0x27, "00000001", "connect connack"),
    (0x28, "01", "connack"),
    (0x29, "01", "connack"),
    (0x2A, "01", "connack"),
];

#[test]
fn properties_of_each_packet() {
    // Name, first byte, what stands before the properties and after them.
    let packets = [
        ("connect", 0x10, "0004 'MQTT' 05 02 0000", "0001 'c'"),
        (
            "will",
            0x10,
            "0004 'MQTT' 05 06 0000 00 0001 'c'",
            "0001 'w' 0000",
        ),
        ("connack", 0x20, "00 00", ""),
        ("publish", 0x30, "0001 'a'", ""),
        ("puback", 0x40, "0001 00", ""),
        ("pubrec", 0x50, "0001 00", ""),
        ("pubrel", 0x62, "0001 00", ""),
        ("pubcomp", 0x70, "0001 00", ""),
        ("subscribe", 0x82, "0001", "0001 'a' 00"),
        ("suback", 0x90, "0001", "00"),
        ("unsubscribe", 0xA2, "0001", "0001 'a'"),
        ("unsuback", 0xB0, "0001", "00"),
        ("disconnect", 0xE0, "00", ""),
        ("auth", 0xF0, "18", ""),
    ];
    for (name, first_byte, before, after) in packets {
        // Takes whether the Authentication Method is missing out of the question.
        let method = match name {
            "connect" | "connack" | "auth" => "15 0001 'm'",
            _ => "",
        };
        let with = |properties: &str| {
            let properties = hex(properties);
            let body = [
                hex(before),
                vec![properties.len() as u8],
                properties,
                hex(after),
            ]
            .concat();
            decode(V5, first_byte, &body).map(|_| ())
        };
        assert_eq!(with(method), Ok(()), "{name}");
        for (identifier, value, allowed) in PROPERTIES {
            let property = format!("{identifier:02x} {value}");
            let method = if identifier == 0x15 { "" } else { method };
            let once = with(&format!("{method} {property}"));
            let twice = with(&format!("{method} {property} {property}"));
            if !allowed.split(' ').any(|packet| packet == name) {
                let error = E::PropertyNotAllowed { identifier };
                assert_eq!(once, Err(error), "{name}");
                assert_eq!(error.reason_code(), ReasonCode::MalformedPacket);
                continue;
            }
            assert_eq!(once, Ok(()), "{name} {identifier:#04x}");
            // A PUBLISH to a Client has one Subscription Identifier for each match [MQTT-3.3.4-4].
            if identifier == 0x26 || (identifier == 0x0B && name == "publish") {
                assert_eq!(twice, Ok(()), "{name} {identifier:#04x}");
            } else {
                let error = E::PropertyTwice { identifier };
                assert_eq!(twice, Err(error), "{name} {identifier:#04x}");
                assert_eq!(error.reason_code(), ReasonCode::ProtocolError);
            }
            // Cut short within its value.
            let cut = hex(&format!("{method} {property}"));
            for size in hex(method).len() + 1..cut.len() {
                let body = [hex(before), vec![size as u8], cut[..size].to_vec()].concat();
                assert!(
                    decode(V5, first_byte, &body).is_err(),
                    "{name} {identifier:#04x}"
                );
            }
        }
        for identifier in (0..=255_u8).filter(|id| !PROPERTIES.iter().any(|known| known.0 == *id)) {
            let error = E::PropertyUnknown { identifier };
            assert_eq!(with(&format!("{identifier:02x} 01")), Err(error), "{name}");
            assert_eq!(error.reason_code(), ReasonCode::MalformedPacket);
        }
    }
}

#[test]
fn strings_that_are_not_utf8() {
    // [MQTT-1.5.4-1], [MQTT-1.5.4-2]
    let bad = [
        "'a' 00 'b'",
        "'a' c080 'b'",
        "'a' c1bf 'b'",
        "'a' e08080 'b'",
        "'a' f0808080 'b'",
        "'a' eda080 'b'",
        "'a' edbfbf 'b'",
        "'a' 80 'b'",
        "'ab' c3",
        "'ab' e282",
        "'a' f4908080 'b'",
        "'a' f888808080 'b'",
        "'a' ff 'b'",
        "'a' fe 'b'",
    ];
    // Version, first byte, what stands before the string and after it.
    let places = [
        (V311, 0x10, "0004 'MQTT' 04 02 0000", ""), // Client Identifier
        (V311, 0x10, "0004 'MQTT' 04 06 0000 0001 'c'", "0000"), // Will Topic
        (V311, 0x10, "0004 'MQTT' 04 82 0000 0001 'c'", ""), // User Name
        (V311, 0x30, "", ""),                       // Topic Name
        (V311, 0x82, "0001", "00"),                 // Topic Filters
        (V311, 0xA2, "0001", ""),
        (V5, 0x10, "0004 'MQTT' 05 02 0000 00", ""),
        (V5, 0x30, "", "00"),
        (V5, 0x82, "0001 00", "00"),
        (V5, 0xA2, "0001 00", ""),
    ];
    let properties = [
        (0x10, "0004 'MQTT' 05 02 0000", "15", "0001 'c'"),
        (0x10, "0004 'MQTT' 05 02 0000", "26 0001 'k'", "0001 'c'"),
        (0x20, "00 00", "12", ""),
        (0x20, "00 00", "1a", ""),
        (0x20, "00 00", "1c", ""),
        (0x30, "0001 'a'", "03", ""),
        (0x30, "0001 'a'", "08", ""),
        (0x30, "0001 'a'", "26 0001 'k'", ""),
        (0x40, "0001 00", "1f", ""),
        (0xE0, "00", "1f", ""),
    ];
    for text in bad {
        let text = hex(text);
        let string = [&[0, text.len() as u8], text.as_slice()].concat();
        for (version, first_byte, before, after) in places {
            let body = [hex(before), string.clone(), hex(after)].concat();
            assert_eq!(
                decode(version, first_byte, &body),
                Err(E::Utf8),
                "{body:02x?}"
            );
        }
        for (first_byte, before, property, after) in properties {
            let property = [hex(property), string.clone()].concat();
            let body = [
                hex(before),
                vec![property.len() as u8],
                property,
                hex(after),
            ]
            .concat();
            assert_eq!(decode(V5, first_byte, &body), Err(E::Utf8), "{body:02x?}");
        }
        // A name of a User Property.
        let property = [hex("26"), string.clone(), hex("0000")].concat();
        let body = [hex("0001 'a'"), vec![property.len() as u8], property].concat();
        assert_eq!(decode(V5, 0x30, &body), Err(E::Utf8));
    }
    assert_eq!(E::Utf8.reason_code(), ReasonCode::MalformedPacket);
}

#[test]
fn every_cut_of_a_packet_is_refused_unless_it_is_one_itself() {
    let legal: [(ProtocolVersion, u8, &str, &[usize]); 10] = [
        (
            V311,
            0x10,
            "0004 'MQTT' 04 c6 0000 0001 'c' 0001 'w' 0001 'm' 0001 'u' 0001 'p'",
            &[],
        ),
        (
            V5,
            0x10,
            "0004 'MQTT' 05 c6 0000 03 21 0009 0001 'c' 05 18 00000003 0001 'w' 0001 'm' 0001 'u' 0001 'p'",
            &[],
        ),
        (V311, 0x32, "0003 'top' 0001 'pay'", &[7, 8, 9]),
        (
            V5,
            0x32,
            "0003 'top' 0001 05 23 0001 01 01 'pay'",
            &[13, 14, 15],
        ),
        (V311, 0x82, "0001 0001 'a' 00 0002 'bb' 01", &[6]),
        (V5, 0x82, "0001 02 0b 05 0001 'a' 00 0002 'bb' 01", &[9]),
        (
            V5,
            0xA2,
            "0001 07 26 0001 'k' 0001 'v' 0001 'a' 0002 'bb'",
            &[13],
        ),
        (V5, 0x40, "0007 10 07 26 0001 'k' 0001 'v'", &[2, 3]),
        (V5, 0x62, "0007 92 07 26 0001 'k' 0001 'v'", &[2, 3]),
        (V5, 0xE0, "04 05 11 00000000", &[0, 1]),
    ];
    for (version, first_byte, text, fine) in legal {
        let body = hex(text);
        assert!(decode(version, first_byte, &body).is_ok(), "{text}");
        for size in 0..body.len() {
            let result = decode(version, first_byte, &body[..size]);
            assert_eq!(
                result.is_ok(),
                fine.contains(&size),
                "{text} cut to {size}: {result:?}"
            );
        }
    }
}
