//! One shard and its Clients, for tests of what it takes and gives out.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;

use super::Shard;
use super::effects::Effects;
use crate::codec::{self, Connect, Packet, PublishHeader, Subscribe, SubscriptionOptions};
use crate::key::{ConnectionKey, PacketIdentifier, ShardId};
use crate::limits::Limits;
use crate::message::{ProtocolVersion, QoS};
use crate::origin::Origin;
use crate::time::Instant;

pub(super) const NOW: Instant = Instant::ZERO;

pub(super) struct Rig {
    pub(super) shard: Shard,
    pub(super) effects: Effects,
}

impl Rig {
    pub(super) fn new() -> Self {
        Self {
            shard: Shard::new(ShardId(0), 1, Limits::default(), 1),
            effects: Effects::default(),
        }
    }

    pub(super) fn feed(&mut self, key: ConnectionKey, bytes: &[u8]) {
        let consumed = self.shard.handle_bytes(key, bytes, NOW, &mut self.effects);
        assert_eq!(consumed, bytes.len());
    }

    pub(super) fn output(&mut self, key: ConnectionKey) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.shard.take_output(key, &mut bytes);
        bytes
    }

    pub(super) fn connect(
        &mut self,
        name: &str,
        version: ProtocolVersion,
        size_max: u32,
    ) -> ConnectionKey {
        let key = self.shard.handle_accept(Origin::default(), NOW).unwrap();
        let mut connect = Connect::new(version, name);
        connect.clean_start = true;
        if version.is_v5() {
            connect.properties.maximum_packet_size = NonZeroU32::new(size_max);
        }
        let mut bytes = Vec::new();
        codec::encode(&Packet::Connect(connect), version, &mut bytes);
        self.feed(key, &bytes);
        self.output(key);
        key
    }

    /// To `t`.
    pub(super) fn subscribe(&mut self, key: ConnectionKey, version: ProtocolVersion, qos: QoS) {
        let filters = [("t", SubscriptionOptions::new(qos))];
        let subscribe = Subscribe::new(PacketIdentifier::new(1).unwrap(), &filters);
        let mut bytes = Vec::new();
        codec::encode(&Packet::Subscribe(subscribe), version, &mut bytes);
        self.feed(key, &bytes);
        self.output(key);
    }
}

/// A PUBLISH to `t`.
pub(super) fn publish(
    version: ProtocolVersion,
    qos: QoS,
    identifier: u16,
    payload: &[u8],
) -> Vec<u8> {
    let header = PublishHeader {
        duplicate: false,
        qos,
        retain: false,
        packet_identifier: PacketIdentifier::new(identifier).filter(|_| qos > QoS::AtMostOnce),
        topic_name: b"t",
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload,
    };
    let mut bytes = Vec::new();
    codec::encode_publish(version, &header, &mut bytes);
    bytes
}
