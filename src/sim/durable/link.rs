//! The connection of a Client of a broker that crashes, as all kinds of such Clients have it.

#![forbid(unsafe_code)]

use std::collections::{BTreeSet, VecDeque};

use crate::codec::{self, Acknowledgement, Packet, Publish, ReasonCode};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::sim::oracle::Violation;
use crate::sim::random::Random;
use crate::sim::world::{WireId, World, split_packet};
use crate::time::Instant;

/// Where a Client is connected, if it is.
#[derive(Debug)]
pub(super) struct Link {
    version: ProtocolVersion,
    wire: Option<WireId>,
    opened_at: Instant,
    /// CONNACK has come.
    pub(super) is_connected: bool,
    /// Part of a packet.
    buffer: Vec<u8>,
    /// What is still to be sent, in order.
    answers: VecDeque<Vec<u8>>,
}

impl Link {
    pub(super) const fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            wire: None,
            opened_at: Instant::ZERO,
            is_connected: false,
            buffer: Vec::new(),
            answers: VecDeque::new(),
        }
    }

    pub(super) const fn version(&self) -> ProtocolVersion {
        self.version
    }

    pub(super) const fn wire(&self) -> Option<WireId> {
        self.wire
    }

    /// When it was last opened.
    pub(super) const fn opened_at(&self) -> Instant {
        self.opened_at
    }

    /// Connects to any shard.
    pub(super) fn open(&mut self, world: &mut World, random: &mut Random) {
        self.wire = Some(world.open(random.below(world.shard_count())));
        self.opened_at = world.now();
    }

    /// The connection is gone.
    pub(super) fn drop(&mut self) {
        self.wire = None;
        self.is_connected = false;
        self.buffer.clear();
        self.answers.clear();
    }

    pub(super) fn send(&self, world: &mut World, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.version, &mut bytes);
        self.send_bytes(world, &bytes);
    }

    pub(super) fn send_bytes(&self, world: &mut World, bytes: &[u8]) {
        if let Some(wire) = self.wire {
            world.send(wire, bytes);
        }
    }

    /// Will send `packet` when it is its turn.
    pub(super) fn answer(&mut self, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.version, &mut bytes);
        self.answers.push_back(bytes);
    }

    /// Sends what is first to be sent; whether there was anything.
    pub(super) fn answer_one(&mut self, world: &mut World) -> bool {
        let Some(answer) = self.answers.pop_front() else {
            return false;
        };
        self.send_bytes(world, &answer);
        true
    }

    /// Sends all that is to be sent.
    pub(super) fn answer_all(&mut self, world: &mut World) {
        while self.answer_one(world) {}
    }

    /// The network loses it, or the broker finds out only when the Client comes back.
    pub(super) fn lose(&self, world: &mut World, random: &mut Random) {
        if let Some(wire) = self.wire
            && random.chance(70)
        {
            world.cut(wire, random);
        }
    }

    pub(super) fn has_answers(&self) -> bool {
        !self.answers.is_empty()
    }

    /// Reads up to `count` bytes: the whole packets that have come.
    pub(super) fn read(&mut self, world: &mut World, count: usize) -> Packets {
        if let Some(wire) = self.wire {
            self.buffer.extend(world.receive(wire, count));
        }
        let mut rest = self.buffer.as_slice();
        while let Some((.., after)) = split_packet(rest) {
            rest = after;
        }
        let size = self.buffer.len() - rest.len();
        Packets {
            version: self.version,
            bytes: self.buffer.drain(..size).collect(),
        }
    }

    /// Will acknowledge a message. Whether it has come for the first time: `received` are the QoS 2 messages that
    /// came and were not released.
    pub(super) fn take(&mut self, publish: &Publish<'_>, received: &mut BTreeSet<u16>) -> bool {
        let Some(packet_identifier) = publish.packet_identifier else {
            return true;
        };
        let ack = success(packet_identifier);
        if publish.qos == QoS::AtLeastOnce {
            self.answer(&Packet::PubAck(ack));
            return true;
        }
        self.answer(&Packet::PubRec(ack));
        received.insert(packet_identifier.get())
    }

    /// Whether the broker has closed it and everything was read.
    pub(super) fn is_ended(&self, world: &World) -> bool {
        self.wire.is_some_and(|wire| world.is_ended(wire))
    }
}

/// Packets that a Client has read.
pub(super) struct Packets {
    version: ProtocolVersion,
    bytes: Vec<u8>,
}

impl Packets {
    /// Each of them, or why it is none.
    pub(super) fn iter(&self) -> impl Iterator<Item = Result<Packet<'_>, Violation>> {
        let mut rest = self.bytes.as_slice();
        std::iter::from_fn(move || {
            let (header, body, after) = split_packet(rest)?;
            rest = after;
            let packet = codec::decode(self.version, header.first_byte, body);
            Some(packet.map_err(|error| Violation(format!("{error} in {body:?}"))))
        })
    }
}

/// What acknowledges a packet with this identifier.
pub(super) fn success(packet_identifier: PacketIdentifier) -> Acknowledgement<'static> {
    Acknowledgement::new(packet_identifier, ReasonCode::Success)
}
