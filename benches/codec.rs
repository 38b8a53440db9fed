//! Cost of decoding and encoding one Control Packet.
//!
//! Decoding includes the fixed header; encoding appends to a buffer that is large enough.

use std::hint::black_box;
use std::num::NonZeroU32;

use criterion::{Criterion, criterion_group, criterion_main};
use fastmq::codec::{
    Acknowledgement, Connect, ForwardedFields, Packet, PublishHeader, ReasonCode, Subscribe,
    SubscriptionOptions, UserProperties, Will, decode, decode_acknowledgement, decode_fixed_header,
    decode_publish, encode, encode_puback, encode_publish,
};
use fastmq::key::PacketIdentifier;
use fastmq::limits::PACKET_SIZE_MAX;
use fastmq::message::{ProtocolVersion, QoS};

const TOPIC_NAME: &[u8] = b"plant/line-7/temperature";

fn packet_identifier() -> PacketIdentifier {
    PacketIdentifier::new(4242).expect("not zero")
}

fn publish(criterion: &mut Criterion) {
    let mut properties = Vec::new();
    ForwardedFields {
        payload_is_utf8: Some(true),
        content_type: Some("application/json"),
        response_topic: Some("replies/17"),
        correlation_data: Some(b"0123456789abcdef"),
        user_properties: UserProperties::new(&[("trace", "4bf92f3577b34da6")]),
    }
    .encode(&mut properties);
    let identifiers = [NonZeroU32::MIN];
    for (version_name, version, has_properties) in [
        ("v3.1.1", ProtocolVersion::V311, false),
        ("v5", ProtocolVersion::V5, false),
        ("v5 with properties", ProtocolVersion::V5, true),
    ] {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            for payload_size in [64, 1024] {
                let payload = vec![b'x'; payload_size];
                let header = PublishHeader {
                    duplicate: false,
                    qos,
                    retain: false,
                    packet_identifier: Some(packet_identifier()),
                    topic_name: TOPIC_NAME,
                    topic_alias: None,
                    message_expiry_interval_s: has_properties.then_some(60),
                    forwarded: if has_properties { &properties } else { &[] },
                    subscription_identifiers: if has_properties { &identifiers } else { &[] },
                    payload: &payload,
                };
                let mut out = Vec::with_capacity(4096);
                encode_publish(version, &header, &mut out);
                let bytes = out.clone();
                let name = format!("{version_name} QoS {} {payload_size} B", qos as u8);
                criterion.bench_function(&format!("decode PUBLISH {name}"), |bencher| {
                    bencher.iter(|| {
                        let bytes = black_box(bytes.as_slice());
                        let header = decode_fixed_header(bytes, PACKET_SIZE_MAX)
                            .expect("legal")
                            .expect("whole");
                        let body = &bytes[header.header_size..];
                        black_box(decode_publish(version, header.first_byte, body).is_ok())
                    });
                });
                criterion.bench_function(&format!("encode PUBLISH {name}"), |bencher| {
                    bencher.iter(|| {
                        out.clear();
                        encode_publish(version, black_box(&header), &mut out)
                    });
                });
            }
        }
    }
}

fn others(criterion: &mut Criterion) {
    let filters = [
        (
            "plant/+/temperature",
            SubscriptionOptions::new(QoS::AtLeastOnce),
        ),
        (
            "$share/workers/jobs/#",
            SubscriptionOptions::new(QoS::ExactlyOnce),
        ),
    ];
    let version = ProtocolVersion::V5;
    let mut connect = Connect::new(version, "sensor-0001");
    connect.username = Some("user");
    connect.password = Some(b"password");
    connect.properties.session_expiry_interval = Some(3600);
    connect.will = Some(Will {
        qos: QoS::AtLeastOnce,
        retain: true,
        topic_name: "plant/line-7/status",
        payload: b"offline",
        delay_interval_s: 5,
        message_expiry_interval_s: None,
        properties: Default::default(),
    });
    let puback = Acknowledgement::new(packet_identifier(), ReasonCode::Success);
    for (name, packet) in [
        ("PUBACK", Packet::PubAck(puback)),
        (
            "SUBSCRIBE of 2",
            Packet::Subscribe(Subscribe::new(packet_identifier(), &filters)),
        ),
        ("CONNECT with Will", Packet::Connect(connect)),
    ] {
        let mut out = Vec::with_capacity(4096);
        encode(&packet, version, &mut out);
        let bytes = out.clone();
        criterion.bench_function(&format!("decode {name}"), |bencher| {
            bencher.iter(|| {
                let bytes = black_box(bytes.as_slice());
                let header = decode_fixed_header(bytes, PACKET_SIZE_MAX)
                    .expect("legal")
                    .expect("whole");
                black_box(decode(
                    version,
                    header.first_byte,
                    &bytes[header.header_size..],
                ))
                .is_ok()
            });
        });
        criterion.bench_function(&format!("encode {name}"), |bencher| {
            bencher.iter(|| {
                out.clear();
                encode(black_box(&packet), version, &mut out);
            });
        });
    }
    let mut out = Vec::with_capacity(4096);
    encode(&Packet::PubAck(puback), version, &mut out);
    let bytes = out.clone();
    criterion.bench_function("decode_acknowledgement", |bencher| {
        bencher.iter(|| {
            let bytes = black_box(bytes.as_slice());
            let header = decode_fixed_header(bytes, PACKET_SIZE_MAX)
                .expect("legal")
                .expect("whole");
            let body = &bytes[header.header_size..];
            black_box(decode_acknowledgement(version, header.first_byte, body)).is_ok()
        });
    });
    criterion.bench_function("encode_puback", |bencher| {
        bencher.iter(|| {
            out.clear();
            encode_puback(
                version,
                black_box(packet_identifier()),
                ReasonCode::Success,
                &mut out,
            );
        });
    });
}

criterion_group!(benches, publish, others);
criterion_main!(benches);
