//! The steady state of the hot path allocates nothing.
//!
//! A counting allocator runs under the whole shard core: Clients connect and subscribe, a first
//! round warms caches and buffers, and from then on every allocation of the thread is an error.

use fastmq::codec::{self, Connect, Packet, PublishHeader, Subscribe, SubscriptionOptions};
use fastmq::key::{ConnectionKey, PacketIdentifier, ShardId};
use fastmq::limits::Limits;
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::origin::Origin;
use fastmq::shard::{Effects, Shard};
use fastmq::time::Instant;

/// A shard with Clients, fed as the runtime feeds it.
struct Rig {
    shards: Vec<Shard>,
    effects: Effects,
    buffer: Vec<u8>,
    now: Instant,
}

impl Rig {
    fn new(shard_count: u16) -> Self {
        let shard = |id| Shard::new(ShardId(id), shard_count.into(), Limits::default(), 0x5eed);
        Self {
            shards: (0..shard_count).map(shard).collect(),
            effects: Effects::default(),
            buffer: Vec::new(),
            now: Instant::ZERO,
        }
    }

    fn feed(&mut self, shard: usize, key: ConnectionKey, bytes: &[u8]) {
        let consumed = self.shards[shard].handle_bytes(key, bytes, self.now, &mut self.effects);
        assert_eq!(consumed, bytes.len(), "everything is taken");
    }

    /// Carries envelopes until there are none, then takes all output; how many bytes that was.
    fn settle(&mut self, shard_of_output: usize) -> usize {
        for from in 0..self.shards.len() {
            for to in 0..self.shards.len() {
                if from == to {
                    continue;
                }
                while let Some(envelope) =
                    self.shards[from].outbound(ShardId(to as u16)).pop_front()
                {
                    let from = ShardId(from as u16);
                    self.shards[to].handle_envelope(
                        from,
                        envelope,
                        usize::MAX,
                        self.now,
                        &mut self.effects,
                    );
                }
            }
        }
        let mut size = 0;
        while let Some(key) = self.effects.dirty.pop() {
            self.buffer.clear();
            let shard = &mut self.shards[shard_of_output];
            shard.take_output(key, &mut self.buffer);
            size += self.buffer.len();
            shard.handle_unsent(key, 0, self.now, &mut self.effects);
        }
        self.effects.resumed.clear();
        size
    }

    /// Connects a Client whose identifier belongs to `shard`.
    fn connect(&mut self, shard: usize, version: ProtocolVersion, name: &str) -> ConnectionKey {
        for attempt in 0.. {
            let identifier = format!("{name}-{attempt}");
            let key = self.shards[shard]
                .handle_accept(Origin::default(), self.now)
                .expect("there is room");
            let mut connect = Connect::new(version, &identifier);
            connect.clean_start = true;
            let mut bytes = Vec::new();
            codec::encode(&Packet::Connect(connect), version, &mut bytes);
            self.shards[shard].handle_bytes(key, &bytes, self.now, &mut self.effects);
            if self.effects.hand_overs.is_empty() {
                self.settle(shard);
                return key;
            }
            self.effects.hand_overs.clear();
        }
        unreachable!("some identifier belongs to every shard")
    }

    fn subscribe(&mut self, shard: usize, key: ConnectionKey, filter: &str, qos: QoS) {
        let options = SubscriptionOptions {
            qos,
            ..SubscriptionOptions::default()
        };
        let filters = [(filter, options)];
        let subscribe = Subscribe::new(PacketIdentifier::new(1).unwrap(), &filters);
        let mut bytes = Vec::new();
        codec::encode(
            &Packet::Subscribe(subscribe),
            ProtocolVersion::V311,
            &mut bytes,
        );
        self.feed(shard, key, &bytes);
        for _ in 0..4 {
            self.settle(shard);
        }
    }
}

fn publish(topic_name: &str, qos: QoS, packet_identifier: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = PublishHeader {
        duplicate: false,
        qos,
        retain: false,
        packet_identifier: (qos != QoS::AtMostOnce)
            .then(|| PacketIdentifier::new(packet_identifier).unwrap()),
        topic_name: topic_name.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload: &[7; 64],
    };
    codec::encode_publish(ProtocolVersion::V311, &header, &mut bytes);
    bytes
}

fn rounds_allocate(rig: &mut Rig, shard: usize, publisher: ConnectionKey, bytes: &[u8]) -> u64 {
    let output_shard = rig.shards.len() - 1;
    for _ in 0..200 {
        rig.feed(shard, publisher, bytes);
        assert!(rig.settle(output_shard) > 0, "messages arrive");
    }
    let counted = allocation_counter::measure(|| {
        for _ in 0..1000 {
            rig.feed(shard, publisher, bytes);
            assert!(rig.settle(output_shard) > 0, "messages arrive");
        }
    });
    counted.count_total
}

#[test]
fn a_qos0_publish_to_one_connected_subscriber_allocates_nothing() {
    let mut rig = Rig::new(1);
    let publisher = rig.connect(0, ProtocolVersion::V311, "publisher");
    let subscriber = rig.connect(0, ProtocolVersion::V311, "subscriber");
    rig.subscribe(0, subscriber, "a/b/c", QoS::AtMostOnce);
    let bytes = publish("a/b/c", QoS::AtMostOnce, 0).repeat(10);
    assert_eq!(rounds_allocate(&mut rig, 0, publisher, &bytes), 0);
}

#[test]
fn a_qos0_fan_out_to_both_versions_through_wildcards_allocates_nothing() {
    let mut rig = Rig::new(1);
    let publisher = rig.connect(0, ProtocolVersion::V311, "publisher");
    for index in 0..50 {
        let version = if index % 2 == 0 {
            ProtocolVersion::V311
        } else {
            ProtocolVersion::V5
        };
        let subscriber = rig.connect(0, version, &format!("subscriber-{index}"));
        if !version.is_v5() {
            rig.subscribe(0, subscriber, "a/+/c", QoS::AtMostOnce);
            rig.subscribe(0, subscriber, "a/#", QoS::AtLeastOnce);
        }
    }
    let bytes = publish("a/b/c", QoS::AtMostOnce, 0).repeat(3);
    assert_eq!(rounds_allocate(&mut rig, 0, publisher, &bytes), 0);
}

#[test]
fn a_qos0_publish_to_a_subscriber_on_another_shard_allocates_nothing() {
    let mut rig = Rig::new(2);
    let publisher = rig.connect(0, ProtocolVersion::V311, "publisher");
    let subscriber = rig.connect(1, ProtocolVersion::V311, "subscriber");
    rig.subscribe(1, subscriber, "a/b/c", QoS::AtMostOnce);
    let bytes = publish("a/b/c", QoS::AtMostOnce, 0).repeat(10);
    assert_eq!(rounds_allocate(&mut rig, 0, publisher, &bytes), 0);
}

/// Bytes the core may hold for a Client that is connected and silent.
///
/// At a power of two, where every table that doubles has just been filled.
const IDLE_BYTES_MAX: u64 = 400;
/// Who it is, and its name.
const IDLE_ALLOCATIONS_MAX: u64 = 2;

#[test]
fn an_idle_client_holds_little_memory_in_the_core() {
    const CLIENTS: u64 = 8192;
    let mut rig = Rig::new(1);
    let counted = allocation_counter::measure(|| {
        for index in 0..CLIENTS {
            let key = rig.connect(0, ProtocolVersion::V311, &format!("idle-{index}"));
            // Its buffer goes back to the pool of the data path.
            let mut output = Vec::new();
            rig.shards[0].take_output(key, &mut output);
        }
    });
    let bytes = u64::try_from(counted.bytes_current).expect("more is held than before") / CLIENTS;
    let allocations = u64::try_from(counted.count_current).expect("more than before") / CLIENTS;
    println!("{bytes} bytes in {allocations} allocations a Client");
    assert!(bytes <= IDLE_BYTES_MAX, "{bytes} bytes for an idle Client");
    assert!(
        allocations <= IDLE_ALLOCATIONS_MAX,
        "{allocations} allocations for an idle Client"
    );
}
