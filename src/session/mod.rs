//! One Client's protocol state: what outlives its Network Connection.
//!
//! A [`Session`] owns the QoS 1 and 2 flows in both directions, the messages that wait behind the
//! inflight window and the Will. **Knows nothing of** the Router, sockets or clocks: `shard` decides
//! what a Session receives, and this module decides when and under which Packet Identifier.
//!
//! # Always true
//! - Deliveries of one QoS leave in the order they came in: nothing overtakes the queue.
//! - A Packet Identifier is in use from PUBLISH until PUBACK or PUBCOMP, across connections
//!   [MQTT-4.3.2-1] [MQTT-4.3.3-1].
//!
//! Read next: `inflight.rs` (what we sent), `inbound.rs` (what was sent to us), `will.rs`.

#![forbid(unsafe_code)]

mod delivery;
mod error;
mod inbound;
mod inflight;
mod queue;
mod topic_alias;
mod will;

use std::num::NonZeroU64;
use std::sync::Arc;

use crate::key::ConnectionKey;
use crate::message::QoS;
use crate::origin::Identity;
use crate::time::Instant;

pub use delivery::{Delivery, Place, ShareTag};
pub use error::ProtocolError;
pub use inbound::Inbound;
pub use inflight::{Inflight, Progress};
pub use queue::Queue;
pub use topic_alias::{InboundAliases, OutboundAlias, OutboundAliases};
pub use will::Will;

/// Session Expiry Interval of a Session that never expires.
pub const SESSION_NEVER_EXPIRES: u32 = u32::MAX;

/// The state of one Client, connected or not.
#[derive(Debug)]
pub struct Session {
    /// Whose it is. The Client Identifier is unique in the broker.
    pub identity: Arc<Identity>,
    /// Its Network Connection, if it has one.
    pub connection: Option<ConnectionKey>,
    /// QoS 1 and 2 messages we sent and that are not acknowledged to the end.
    pub inflight: Inflight,
    /// QoS 1 and 2 messages that wait for room in the inflight window or for a connection.
    pub queue: Queue,
    /// QoS 2 messages sent to us whose PUBREL has not come.
    pub inbound: Inbound,
    /// What to publish when the connection is lost.
    pub will: Option<Box<Will>>,
    /// When the Will of a lost connection is due.
    pub will_at: Option<Instant>,
    /// Seconds the Session outlives its connection; [`SESSION_NEVER_EXPIRES`] for ever.
    pub expiry_interval_s: u32,
    /// When a Session without a connection ends.
    pub expires_at: Option<Instant>,
    /// What the log knows of it, if it outlives the process.
    pub log: Option<Box<Logged>>,
}

// A million idle Clients are as many of these: see `tests/allocation.rs`.
const _: () = assert!(size_of::<Session>() <= 88);

/// What the log has to know of a Session that outlives the process.
#[derive(Debug)]
pub struct Logged {
    /// What the log calls it.
    pub name: NonZeroU64,
    /// The place of the next delivery.
    pub next_sequence: u64,
    /// QoS 2 messages it has sent us.
    pub exchanges: u64,
    /// Messages of QoS 1 and 2 that may be on their way to its Client at a time, or might be to the last one.
    pub window: u16,
    /// Deliveries before this place may have been sent before the process began, which a crash may have
    /// kept from being written down.
    pub sent_before: u64,
    /// Deliveries before this place waited for a Client that was there to the end of the process before. How many of them
    /// it was sent, which of QoS 1 no window bounds, nobody knows any more.
    pub left_before: u64,
    /// The frame that says of the last one of QoS 2 that it ended otherwise than by PUBREL. Until that is durable, a start
    /// would count it as one that may have been sent, in place of what came behind it.
    pub passed_over: u64,
    /// It is among those that are gone on with once their log is durable.
    pub is_awaited: bool,
}

impl Logged {
    /// One that is new to the log.
    #[must_use]
    pub fn new(name: NonZeroU64) -> Self {
        Self {
            name,
            next_sequence: 0,
            exchanges: 0,
            window: u16::MAX,
            sent_before: 0,
            left_before: 0,
            passed_over: 0,
            is_awaited: false,
        }
    }

    /// Whether this delivery of the Session's queue may be a repetition, which DUP says [MQTT-3.3.1-1].
    #[must_use]
    pub fn may_repeat(&self, delivery: &Delivery) -> bool {
        let before = self.sent_before.max(self.left_before);
        delivery.qos > QoS::AtMostOnce && delivery.place.sequence < before
    }

    /// Whether this delivery of the Session's queue stays with it: its QoS 2 PUBLISH may have been sent
    /// [MQTT-4.8.2-5].
    #[must_use]
    pub fn keeps(&self, delivery: &Delivery) -> bool {
        delivery.qos == QoS::ExactlyOnce && delivery.place.sequence < self.sent_before
    }
}

impl Session {
    /// A new Session without any state.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        Self {
            identity,
            connection: None,
            inflight: Inflight::default(),
            queue: Queue::default(),
            inbound: Inbound::default(),
            will: None,
            will_at: None,
            expiry_interval_s: 0,
            expires_at: None,
            log: None,
        }
    }

    /// What the log calls it, if it outlives the process.
    #[must_use]
    pub fn stored(&self) -> Option<NonZeroU64> {
        self.log.as_ref().map(|log| log.name)
    }

    /// Whether it outlives the process.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.log.is_some()
    }

    /// When the Session next needs attention without a packet: a Will that is due, or its own end.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match (self.will_at, self.expires_at) {
            (Some(will), Some(end)) => Some(will.min(end)),
            (one, other) => one.or(other),
        }
    }
}
