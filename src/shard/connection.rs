//! One Network Connection as the core sees it: what it may send, what it is owed, why it is not read.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use crate::key::{PacketIdentifier, SessionKey};
use crate::message::{Message, ProtocolVersion, QoS};
use crate::origin::Origin;
use crate::router::RetainedWalk;
use crate::session::{InboundAliases, OutboundAliases};
use crate::time::Instant;

use super::command::Verdict;
use super::store::Held;
use super::subscribe::ReplayRequest;

/// Why a connection is not read. It is read again when nothing of this is left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pause(u8);

impl Pause {
    /// A SUBACK waits until every shard knows the interest.
    pub(super) const BARRIER: Self = Self(1);
    /// A ring to another shard is full.
    pub(super) const RING: Self = Self(2);
    /// The Client does not read what we send.
    pub(super) const OUTBOX: Self = Self(4);
    /// Its acknowledgements wait for a disk.
    pub(super) const STORE: Self = Self(16);
    /// It published what must be stored, and a disk takes nothing.
    pub(super) const DISK: Self = Self(32);
    /// Its CONNECT waits until somebody else has checked the password.
    pub(super) const AUTHENTICATION: Self = Self(8);
    /// What a Client cannot do anything about: its silence does not count meanwhile.
    pub(super) const NOT_ITS_FAULT: Self = Self(
        Self::BARRIER.0 | Self::RING.0 | Self::AUTHENTICATION.0 | Self::STORE.0 | Self::DISK.0,
    );

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    pub(super) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }
    pub(super) fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Accepted; CONNECT has not been read.
    AwaitingConnect,
    /// CONNECT was accepted for this Session.
    Connected(SessionKey),
    /// Ended by us: only its last output is still wanted.
    Closing,
}

/// Retained messages that a new subscription still has to get: those that one look found, so that a list of
/// a million never grows by moving what it holds.
#[derive(Debug)]
pub(super) struct ReplayItems {
    pub(super) messages: VecDeque<Arc<Message>>,
    pub(super) request: ReplayRequest,
}

/// A new subscription whose retained messages are still being looked up.
#[derive(Debug)]
pub(super) struct ReplayWalk {
    pub(super) walk: RetainedWalk,
    pub(super) request: ReplayRequest,
}

/// Retained messages on their way: looked up some at a time, then sent as fast as the Client reads, so that
/// a subscription to a million topics needs a pointer each, no outbox of that size, and no long turn.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Oldest subscription first.
    pub(super) walks: VecDeque<ReplayWalk>,
    /// None of them is empty.
    pub(super) items: VecDeque<ReplayItems>,
    /// Goes on when it is this connection's turn among those that have more than one turn can do.
    pub(super) is_waiting: bool,
    /// Changes of the retained store when the items were looked up: as long as it is the same, no
    /// item can be out of date.
    pub(super) store_changes: u64,
}

impl Replay {
    pub(super) fn is_over(&self) -> bool {
        self.walks.is_empty() && self.items.is_empty()
    }
}

/// Exchanges in flight that are to be repeated, oldest first.
#[derive(Debug)]
pub(super) struct Resend {
    pub(super) identifiers: VecDeque<PacketIdentifier>,
}

/// State of one Network Connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) version: ProtocolVersion,
    pub(super) pause: Pause,
    /// Named in [`super::Effects::dirty`] since its output was last taken.
    pub(super) dirty: bool,
    /// Encoded packets for the Client.
    pub(super) outbox: Vec<u8>,
    /// Bytes taken from the outbox that the socket has not accepted.
    pub(super) unsent: usize,
    /// QoS 1 and 2 messages the Client lets us have in flight.
    pub(super) window: u16,
    /// Largest packet the Client takes [MQTT-3.1.2-24].
    pub(super) maximum_packet_size: u32,
    /// Silence after which the connection ends; `None` for ever.
    pub(super) patience: Option<Duration>,
    /// When the last packet came, or the connection was accepted.
    pub(super) last_packet_at: Instant,
    pub(super) inbound_aliases: Option<Box<InboundAliases>>,
    pub(super) outbound_aliases: Option<Box<OutboundAliases>>,
    pub(super) replay: Option<Box<Replay>>,
    /// What an earlier connection of the Session left in flight and this one has not been sent.
    pub(super) resend: Option<Box<Resend>>,
    /// What it publishes has to be looked at: its listener has access rules or a mount point, or does
    /// not take everything.
    pub(super) vetted: bool,
    /// What it is sent cannot be copied from what others are sent.
    pub(super) particular: bool,
    /// Topic Aliases it may set.
    pub(super) topic_alias_maximum: u16,
    /// Highest QoS it may publish with.
    pub(super) maximum_qos: QoS,
    /// Bytes of its listener's mount point, which it does not see.
    pub(super) mount_point_size: u16,
    /// Where it comes from.
    pub(super) origin: Origin,
    /// What became of its password, once that was checked.
    pub(super) verdict: Option<Verdict>,
    /// What waits for a disk.
    pub(super) held: Option<Box<Held>>,
}

impl Connection {
    pub(super) fn new(origin: Origin, connect_timeout: Duration, now: Instant) -> Self {
        Self {
            phase: Phase::AwaitingConnect,
            version: ProtocolVersion::V311,
            pause: Pause::default(),
            dirty: false,
            outbox: Vec::new(),
            unsent: 0,
            window: 0,
            maximum_packet_size: u32::MAX,
            patience: Some(connect_timeout),
            last_packet_at: now,
            inbound_aliases: None,
            outbound_aliases: None,
            replay: None,
            resend: None,
            vetted: false,
            particular: false,
            topic_alias_maximum: 0,
            maximum_qos: QoS::ExactlyOnce,
            mount_point_size: 0,
            origin,
            verdict: None,
            held: None,
        }
    }

    /// The Session of a connection whose CONNECT was accepted.
    pub(super) fn session(&self) -> Option<SessionKey> {
        match self.phase {
            Phase::Connected(session) => Some(session),
            Phase::AwaitingConnect | Phase::Closing => None,
        }
    }

    /// Bytes the Client has not been sent.
    pub(super) fn pending(&self) -> usize {
        self.outbox.len() + self.unsent
    }

    /// When silence becomes a time-out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.patience.map(|patience| self.last_packet_at + patience)
    }
}
