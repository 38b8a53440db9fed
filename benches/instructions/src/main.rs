//! Instruction counts of the hot cases, under valgrind: what the machine is busy with meanwhile does
//! not change them.
//!
//! `scripts/instructions` runs it and compares with `results/instructions.json`. Every case has a fixed
//! seed and fixed input, and is warm before the first instruction that counts. Counted is what
//! [`counted`] executes: [`ROUNDS`] rounds of a case, in user space. One process is one case, so that
//! none changes what another finds.

#![forbid(unsafe_code)]
#![allow(missing_docs)]

#[path = "../../rig/mod.rs"]
mod rig;

use std::hint::black_box;
use std::num::NonZeroU32;

use fastmq::codec::{
    ForwardedFields, PublishHeader, ReasonCode, SubscriptionOptions, UserProperties,
    decode_acknowledgement, decode_fixed_header, decode_publish, encode_puback, encode_publish,
};
use fastmq::key::{PacketIdentifier, SessionKey, ShardId};
use fastmq::limits::PACKET_SIZE_MAX;
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::router::{Interest, Router};
use fastmq::topic::{TopicFilter, TopicName};
use rig::Turn;

use ProtocolVersion::{V5, V311};
use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};

// The broker's own.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Rounds of each case: what happens every few dozen rounds is counted in its proportion.
const ROUNDS: usize = 100;

/// Valgrind counts from here to its end, by name.
#[inline(never)]
fn counted(round: &mut dyn FnMut(usize)) {
    for number in 0..ROUNDS {
        round(black_box(number));
    }
}

/// Prepares a case and has it counted.
type Case = fn();

#[rustfmt::skip] // A table.
const CASES: &[(&str, Case)] = &[
    ("session/inbound_qos1", || turn(Turn::inbound(AtLeastOnce))),
    ("session/inbound_qos2", || turn(Turn::inbound(ExactlyOnce))),
    ("shard/qos0_1_to_1", || turn(Turn::one_to_one(V311, AtMostOnce))),
    ("shard/qos0_1_to_1_v5", || turn(Turn::one_to_one(V5, AtMostOnce))),
    ("shard/qos1_1_to_1", || turn(Turn::one_to_one(V311, AtLeastOnce))),
    ("shard/qos1_1_to_1_v5", || turn(Turn::one_to_one(V5, AtLeastOnce))),
    ("shard/qos2_1_to_1", || turn(Turn::one_to_one(V311, ExactlyOnce))),
    ("shard/qos0_beside_a_store", || turn(Turn::beside_a_store(V311, AtMostOnce))),
    ("shard/qos1_beside_a_store", || turn(Turn::beside_a_store(V311, AtLeastOnce))),
    ("shard/qos2_beside_a_store", || turn(Turn::beside_a_store(V311, ExactlyOnce))),
    ("shard/qos0_1_to_100", || turn(Turn::fan_out(100))),
    ("shard/qos0_100_topics_wildcard", || turn(Turn::wildcard(100))),
    ("shard/qos0_across_shards", || turn(Turn::across_shards())),
    ("codec/decode_v311_qos0", || decode(&Packet::publish(V311, AtMostOnce, false))),
    ("codec/decode_v5_qos1", || decode(&Packet::publish(V5, AtLeastOnce, false))),
    ("codec/decode_v5_qos1_properties", || decode(&Packet::publish(V5, AtLeastOnce, true))),
    ("codec/encode_v311_qos0", || encode(Packet::publish(V311, AtMostOnce, false))),
    ("codec/encode_v5_qos1", || encode(Packet::publish(V5, AtLeastOnce, false))),
    ("codec/encode_v5_qos1_properties", || encode(Packet::publish(V5, AtLeastOnce, true))),
    ("codec/puback_both_ways_v5", puback),
    ("router/remembered_wide_100k", || remembered(Topics::wide(100_000))),
    ("router/walk_wide_1k", || walk(Topics::wide(1_000))),
    ("router/walk_deep_1k", || walk(Topics::deep(1_000))),
    ("router/walk_wildcard_1k", || walk(Topics::wildcard(1_000))),
    ("router/walk_wide_100k", || walk(Topics::wide(100_000))),
    ("router/walk_wildcard_100k", || walk(Topics::wildcard(100_000))),
    ("ring/batch_of_32", ring),
];

/// Without an argument it names the cases; with one it runs that case.
fn main() {
    // `cargo bench` adds `--bench`.
    let mut arguments = std::env::args().skip(1).filter(|word| word != "--bench");
    let Some(wanted) = arguments.next() else {
        for (name, _) in CASES {
            println!("{name}");
        }
        return;
    };
    let (_, case) = CASES
        .iter()
        .find(|(name, _)| *name == wanted)
        .unwrap_or_else(|| panic!("no case {wanted}"));
    case();
}

fn turn(mut turn: Turn) {
    counted(&mut |_| {
        black_box(turn.run());
    });
}

fn decode(packet: &Packet) {
    counted(&mut |_| {
        let (first_byte, body) = split(black_box(&packet.bytes));
        black_box(decode_publish(packet.version, first_byte, body).is_ok());
    });
}

fn encode(mut packet: Packet) {
    counted(&mut |_| black_box(&mut packet).encode());
}

fn puback() {
    let mut bytes = Vec::with_capacity(64);
    let packet_identifier = PacketIdentifier::new(4242).expect("not zero");
    counted(&mut |_| {
        bytes.clear();
        encode_puback(
            V5,
            black_box(packet_identifier),
            ReasonCode::Success,
            &mut bytes,
        );
        let (first_byte, body) = split(black_box(&bytes));
        black_box(decode_acknowledgement(V5, first_byte, body).is_ok());
    });
}

/// A lookup of a topic that was looked up before.
fn remembered(mut topics: Topics) {
    counted(&mut |round| topics.look_up(round));
}

/// A lookup after a change of a filter that might have matched.
fn walk(mut topics: Topics) {
    counted(&mut |round| {
        topics.forget(round);
        topics.look_up(round);
    });
}

fn ring() {
    let (mut producer, mut consumer) = fastmq::ring::channel::<[u64; 8]>(4096);
    counted(&mut |_| {
        for number in 0..32 {
            let _ = producer.push([number; 8]);
        }
        producer.publish();
        while let Some(item) = consumer.pop() {
            black_box(item);
        }
    });
}

/// A PUBLISH, and room to encode it again.
struct Packet {
    version: ProtocolVersion,
    qos: QoS,
    forwarded: Vec<u8>,
    identifiers: Vec<NonZeroU32>,
    bytes: Vec<u8>,
}

impl Packet {
    fn publish(version: ProtocolVersion, qos: QoS, has_properties: bool) -> Self {
        let mut forwarded = Vec::new();
        let mut identifiers = Vec::new();
        if has_properties {
            identifiers.push(NonZeroU32::MIN);
            ForwardedFields {
                payload_is_utf8: Some(true),
                content_type: Some("application/json"),
                response_topic: Some("replies/17"),
                correlation_data: Some(b"0123456789abcdef"),
                user_properties: UserProperties::new(&[("trace", "4bf92f3577b34da6")]),
            }
            .encode(&mut forwarded);
        }
        let mut packet = Self {
            version,
            qos,
            forwarded,
            identifiers,
            bytes: Vec::with_capacity(4096),
        };
        packet.encode();
        packet
    }

    fn encode(&mut self) {
        let header = PublishHeader {
            duplicate: false,
            qos: self.qos,
            retain: false,
            packet_identifier: PacketIdentifier::new(4242),
            topic_name: b"plant/line-7/temperature",
            topic_alias: None,
            message_expiry_interval_s: None,
            forwarded: &self.forwarded,
            subscription_identifiers: &self.identifiers,
            payload: &[b'x'; 64],
        };
        self.bytes.clear();
        encode_publish(self.version, black_box(&header), &mut self.bytes);
    }
}

fn split(bytes: &[u8]) -> (u8, &[u8]) {
    let header = decode_fixed_header(bytes, PACKET_SIZE_MAX)
        .expect("legal")
        .expect("whole");
    (header.first_byte, &bytes[header.header_size..])
}

/// A router full of filters and topics that they match.
struct Topics {
    router: Router,
    names: Vec<String>,
    /// Matches no topic here but could, so that a change of it forgets what is remembered.
    spoil: TopicFilter<'static>,
}

impl Topics {
    fn new(filter: fn(usize) -> String, name: fn(usize) -> String, count: usize) -> Self {
        let mut router = Router::with_seed(ShardId(0), 2, 0x5eed);
        let mut subscribe = |text: &str, number: usize| {
            let session = SessionKey {
                index: number as u32,
                generation: 0,
            };
            let filter = TopicFilter::new(text).expect("legal filter");
            let options = SubscriptionOptions::new(AtLeastOnce);
            router.subscribe(&filter, session, options, None, true);
        };
        for number in 0..count {
            subscribe(&filter(number), number);
        }
        subscribe("+/nobody", 0);
        let names = (0..ROUNDS).map(|step| name(step * 7919 % count)).collect();
        let spoil = TopicFilter::new("+/nobody").expect("legal filter");
        let mut topics = Self {
            router,
            names,
            spoil,
        };
        (0..ROUNDS).for_each(|round| topics.look_up(round));
        topics
    }

    fn wide(count: usize) -> Self {
        let text = |number| format!("devices/device-{number}/state");
        Self::new(text, text, count)
    }

    fn deep(count: usize) -> Self {
        let text = |mut number| {
            let mut text = String::from("root");
            for _ in 0..9 {
                text += &format!("/level-{}", number % 5);
                number /= 5;
            }
            text
        };
        Self::new(text, text, count)
    }

    fn wildcard(count: usize) -> Self {
        let filter = |number| match number % 4 {
            0 => format!("site/{}/+/{}/value", number / 4 % 1000, number / 4000),
            1 => format!("site/{}/line/{}/#", number / 4 % 1000, number / 4000),
            _ => format!(
                "site/{}/line/{}/value",
                number / 4 % 1000,
                number / 4000 * 2 + number % 2
            ),
        };
        let name = |number| format!("site/{}/line/{}/value", number / 4 % 1000, number / 4000);
        Self::new(filter, name, count)
    }

    fn look_up(&mut self, round: usize) {
        let name = TopicName::from_validated(self.names[round].as_bytes());
        black_box(self.router.matches(name));
    }

    fn forget(&mut self, round: usize) {
        let interest = if round.is_multiple_of(2) {
            Interest::NONE
        } else {
            Interest::PLAIN
        };
        self.router.set_interest(ShardId(1), &self.spoil, interest);
    }
}
