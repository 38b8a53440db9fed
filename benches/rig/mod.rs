//! Shards and Clients in one thread, for the benches of the whole shard core.
//!
//! The rig does what the runtime does: feeds received bytes, carries envelopes from shard to shard,
//! takes output. Its Clients acknowledge what they are sent, so that a turn at QoS 1 or 2 is the whole
//! flow on both sides. Nothing here depends on time or chance: the same turn costs the same
//! instructions.

#![allow(dead_code, missing_docs)] // Shared by several benches, none of which needs all of it.

use fastmq::codec::{self, Connect, Packet, PublishHeader, Subscribe, SubscriptionOptions};
use fastmq::journal::{Journal, Origins, WallClock};
use fastmq::key::{ConnectionKey, PacketIdentifier, ShardId};
use fastmq::limits::Limits;
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::origin::Origin;
use fastmq::shard::{Effects, Shard};
use fastmq::time::Instant;

const SEED: u64 = 0x5eed;

/// Turns before the first one that counts: caches are filled, buffers have their size.
const WARM_UP_TURNS: usize = 200;

/// Messages that each shard has dealt with before, and their size: the first ones of a second are looked at
/// one by one to tell whose they are, then one in many, and a busy shard has come far with that.
const CHATTER: usize = 10_000;
const CHATTER_SIZE: usize = 16 << 10;

/// Publishes that one turn at QoS 0 receives at once, as a busy connection's do.
const BATCH: usize = 10;

/// A connection and the shard it is on.
#[derive(Clone, Copy, Debug)]
struct Client {
    shard: usize,
    key: ConnectionKey,
}

#[derive(Debug)]
struct Node {
    shard: Shard,
    effects: Effects,
}

/// Shards with Clients that acknowledge.
#[derive(Debug)]
struct Rig {
    nodes: Vec<Node>,
    output: Vec<u8>,
    answer: Vec<u8>,
}

impl Rig {
    fn new(shard_count: u16) -> Self {
        Self::made(shard_count, false)
    }

    fn made(shard_count: u16, has_store: bool) -> Self {
        let node = |id| Node {
            shard: Shard::new(ShardId(id), shard_count.into(), Limits::default(), SEED),
            effects: Effects::default(),
        };
        let mut rig = Self {
            nodes: (0..shard_count).map(node).collect(),
            output: Vec::new(),
            answer: Vec::new(),
        };
        if has_store {
            for (index, node) in rig.nodes.iter_mut().enumerate() {
                let (origins, clock) = (Origins::default(), WallClock::default());
                let journal = Journal::new(index, shard_count.into(), origins, clock);
                node.shard.store_in(journal, &[]);
            }
        }
        for shard in 0..shard_count.into() {
            rig.chatter(shard);
        }
        rig
    }

    /// A Client that listens to itself for a while, and leaves nothing behind.
    fn chatter(&mut self, shard: usize) {
        let version = ProtocolVersion::V311;
        let client = self.connect(shard, version, "chatter");
        self.subscribe(client, version, "chatter", QoS::AtMostOnce);
        let input = publish_sized(version, "chatter", QoS::AtMostOnce, CHATTER_SIZE);
        for _ in 0..CHATTER {
            self.feed(client, &input);
            self.settle();
        }
        self.feed(client, &[0xe0, 0]);
        self.settle();
        let node = &mut self.nodes[shard];
        node.effects.left.clear();
        for key in std::mem::take(&mut node.effects.closes) {
            node.shard.forget(key);
        }
    }

    fn feed(&mut self, client: Client, bytes: &[u8]) {
        let node = &mut self.nodes[client.shard];
        let consumed = node
            .shard
            .handle_bytes(client.key, bytes, Instant::ZERO, &mut node.effects);
        assert_eq!(consumed, bytes.len(), "everything is taken");
    }

    /// Carries envelopes, takes output and answers it until all is quiet; how many bytes that was.
    fn settle(&mut self) -> usize {
        let mut size = 0;
        loop {
            let mut quiet = true;
            for from in 0..self.nodes.len() {
                for to in (0..self.nodes.len()).filter(|&to| to != from) {
                    while let Some(envelope) = self.nodes[from]
                        .shard
                        .outbound(ShardId(to as u16))
                        .pop_front()
                    {
                        quiet = false;
                        let Node { shard, effects } = &mut self.nodes[to];
                        let from = ShardId(from as u16);
                        shard.handle_envelope(from, envelope, usize::MAX, Instant::ZERO, effects);
                    }
                }
            }
            for Node { shard, effects } in &mut self.nodes {
                while let Some(key) = effects.dirty.pop() {
                    quiet = false;
                    self.output.clear();
                    shard.take_output(key, &mut self.output);
                    size += self.output.len();
                    shard.handle_unsent(key, 0, Instant::ZERO, effects);
                    self.answer.clear();
                    acknowledge(&self.output, &mut self.answer);
                    if !self.answer.is_empty() {
                        shard.handle_bytes(key, &self.answer, Instant::ZERO, effects);
                    }
                }
                effects.resumed.clear();
            }
            if quiet {
                return size;
            }
        }
    }

    /// Connects a Client whose identifier belongs to `shard`.
    fn connect(&mut self, shard: usize, version: ProtocolVersion, name: &str) -> Client {
        for attempt in 0.. {
            let identifier = format!("{name}-{attempt}");
            let node = &mut self.nodes[shard];
            let key = node
                .shard
                .handle_accept(Origin::default(), Instant::ZERO)
                .expect("there is room");
            let mut connect = Connect::new(version, &identifier);
            connect.clean_start = true;
            let mut bytes = Vec::new();
            codec::encode(&Packet::Connect(connect), version, &mut bytes);
            node.shard
                .handle_bytes(key, &bytes, Instant::ZERO, &mut node.effects);
            if node.effects.hand_overs.is_empty() {
                self.settle();
                return Client { shard, key };
            }
            node.effects.hand_overs.clear();
        }
        unreachable!("some identifier belongs to every shard")
    }

    fn subscribe(&mut self, client: Client, version: ProtocolVersion, filter: &str, qos: QoS) {
        let filters = [(filter, SubscriptionOptions::new(qos))];
        let subscribe = Subscribe::new(PacketIdentifier::new(1).expect("not zero"), &filters);
        let mut bytes = Vec::new();
        codec::encode(&Packet::Subscribe(subscribe), version, &mut bytes);
        self.feed(client, &bytes);
        self.settle();
    }
}

/// What a Client answers to the packets it is sent, all of which are short where there is something to
/// answer.
fn acknowledge(mut packets: &[u8], answer: &mut Vec<u8>) {
    while let &[first, size, ref rest @ ..] = packets {
        if first >> 4 == 3 && (first >> 1) & 3 == 0 && size >= 128 {
            return;
        }
        assert!(size < 128, "one byte of Remaining Length");
        let (body, next) = rest.split_at(size.into());
        packets = next;
        let (reply, at) = match (first >> 4, (first >> 1) & 3) {
            (3, 1) => (
                0x40,
                2 + usize::from(u16::from_be_bytes([body[0], body[1]])),
            ),
            (3, 2) => (
                0x50,
                2 + usize::from(u16::from_be_bytes([body[0], body[1]])),
            ),
            (5, _) => (0x62, 0),
            (6, _) => (0x70, 0),
            _ => continue,
        };
        answer.extend_from_slice(&[reply, 2, body[at], body[at + 1]]);
    }
}

fn publish(version: ProtocolVersion, topic_name: &str, qos: QoS) -> Vec<u8> {
    publish_sized(version, topic_name, qos, 64)
}

fn publish_sized(
    version: ProtocolVersion,
    topic_name: &str,
    qos: QoS,
    payload_size: usize,
) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = PublishHeader {
        duplicate: false,
        qos,
        retain: false,
        packet_identifier: (qos != QoS::AtMostOnce)
            .then(|| PacketIdentifier::new(77).expect("not zero")),
        topic_name: topic_name.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload: &vec![7; payload_size],
    };
    codec::encode_publish(version, &header, &mut bytes);
    bytes
}

/// What one Client publishes at once, and everything that follows from it.
#[derive(Debug)]
pub struct Turn {
    rig: Rig,
    publisher: Client,
    input: Vec<u8>,
    /// Messages that one turn delivers; where nobody subscribes, messages it takes.
    pub messages: u64,
}

impl Turn {
    fn new(rig: Rig, publisher: Client, input: Vec<u8>, messages: usize) -> Self {
        let messages = messages as u64;
        let mut turn = Self {
            rig,
            publisher,
            input,
            messages,
        };
        let size = turn.run();
        for _ in 0..WARM_UP_TURNS {
            assert_eq!(turn.run(), size, "every turn is the same");
        }
        turn
    }

    /// One turn; how many bytes went out to Clients.
    pub fn run(&mut self) -> usize {
        self.rig.feed(self.publisher, &self.input);
        self.rig.settle()
    }

    /// One publisher, one subscriber, a whole flow: ten messages at QoS 0, one at QoS 1 or 2.
    pub fn one_to_one(version: ProtocolVersion, qos: QoS) -> Self {
        Self::one_to_one_in(Rig::new(1), version, qos)
    }

    /// The same in a broker that stores Sessions, none of which is concerned.
    pub fn beside_a_store(version: ProtocolVersion, qos: QoS) -> Self {
        Self::one_to_one_in(Rig::made(1, true), version, qos)
    }

    fn one_to_one_in(mut rig: Rig, version: ProtocolVersion, qos: QoS) -> Self {
        let publisher = rig.connect(0, version, "publisher");
        let subscriber = rig.connect(0, version, "subscriber");
        rig.subscribe(subscriber, version, "plant/line-7/temperature", qos);
        let batch = if qos == QoS::AtMostOnce { BATCH } else { 1 };
        let input = publish(version, "plant/line-7/temperature", qos).repeat(batch);
        Self::new(rig, publisher, input, batch)
    }

    /// One publisher and nobody who wants it: a Session's receiving side alone.
    pub fn inbound(qos: QoS) -> Self {
        let version = ProtocolVersion::V311;
        let mut rig = Rig::new(1);
        let publisher = rig.connect(0, version, "publisher");
        let input = publish(version, "plant/line-7/temperature", qos);
        Self::new(rig, publisher, input, 1)
    }

    /// One message at QoS 0 to `subscribers`.
    pub fn fan_out(subscribers: usize) -> Self {
        let version = ProtocolVersion::V311;
        let mut rig = Rig::new(1);
        let publisher = rig.connect(0, version, "publisher");
        for index in 0..subscribers {
            let subscriber = rig.connect(0, version, &format!("subscriber-{index}"));
            rig.subscribe(subscriber, version, "news/sport", QoS::AtMostOnce);
        }
        let input = publish(version, "news/sport", QoS::AtMostOnce);
        Self::new(rig, publisher, input, subscribers)
    }

    /// One message at QoS 0 on each of `topics`, to one subscriber with wildcards.
    pub fn wildcard(topics: usize) -> Self {
        let version = ProtocolVersion::V311;
        let mut rig = Rig::new(1);
        let publisher = rig.connect(0, version, "publisher");
        let subscriber = rig.connect(0, version, "subscriber");
        rig.subscribe(subscriber, version, "site/+/value/#", QoS::AtMostOnce);
        let input = (0..topics)
            .flat_map(|topic| publish(version, &format!("site/{topic}/value/now"), QoS::AtMostOnce))
            .collect();
        Self::new(rig, publisher, input, topics)
    }

    /// The subscriber lives on another shard than the publisher; ten messages at QoS 0.
    pub fn across_shards() -> Self {
        let version = ProtocolVersion::V311;
        let mut rig = Rig::new(2);
        let publisher = rig.connect(0, version, "publisher");
        let subscriber = rig.connect(1, version, "subscriber");
        let topic_name = "plant/line-7/temperature";
        rig.subscribe(subscriber, version, topic_name, QoS::AtMostOnce);
        let input = publish(version, topic_name, QoS::AtMostOnce).repeat(BATCH);
        Self::new(rig, publisher, input, BATCH)
    }
}
