//! What crosses cores.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::batch::Batch;
use crate::journal::Origin;
use crate::key::ShardId;
use crate::message::Message;
use crate::router::{Interest, RetainedVersion};

/// One item of the ring from one shard to another. Order within a ring is what carries per-publisher
/// order [MQTT-4.6.0-5] and the interest barrier across cores.
#[derive(Clone, Debug)]
pub enum Envelope {
    /// Small messages for the subscribers of the receiving shard, which it has.
    Batch {
        /// The messages.
        batch: Arc<Batch>,
        /// Where the first is that was not handled yet.
        next: u16,
        /// Bytes of packets there that were.
        handled: u16,
    },
    /// A message for the subscribers of the receiving shard that is no part of a batch, for its retained replica, or
    /// for both.
    Publish {
        /// The message, shared by all shards it goes to.
        message: Arc<Message>,
        /// Set if the replica must take it.
        retained: Option<RetainedVersion>,
        /// Whether the receiver has subscribers for it.
        deliver: bool,
    },
    /// A message for one member of one shared subscription.
    PublishShared {
        /// The message.
        message: Arc<Message>,
        /// The whole filter, `$share/group/filter`.
        filter: Arc<[u8]>,
        /// The shard that was chosen. If none of its members may read the message, those of the next
        /// shards are tried, until it is this one's turn again.
        first: ShardId,
    },
    /// The sender wants to know when what the next envelope causes is stored. Precedes a
    /// [`Envelope::Publish`] or [`Envelope::PublishShared`] of QoS 1 or 2; messages of a batch have theirs in it.
    Ticket {
        /// What the sender calls it.
        ticket: u64,
        /// The exchange that brings the message, if it is QoS 2 of a Session that is stored.
        origin: Option<Origin>,
        /// Whether it is repeated after a crash, before which some have had it.
        repeats: bool,
    },
    /// The message that follows is what a Session was owed: whoever is owed it instead says so with it.
    /// Precedes a [`Envelope::Ticket`], or another one of a Session that was owed it after that one.
    HandedOn {
        /// That Session.
        session: u64,
        /// The delivery.
        sequence: u64,
    },
    /// What the receiver wanted to know of is stored, or needed not to be.
    Stored {
        /// The ticket.
        ticket: u64,
        /// Those of the 64 tickets behind it of which the same is true, the next one first.
        more: u64,
    },
    /// The sender wants to know when all exchanges that are under way now are written down.
    Settle {
        /// Which of its questions it is.
        round: u64,
    },
    /// Those that were when the receiver asked are.
    Settled {
        /// Which question that answers.
        round: u64,
    },
    /// The sender wants to know when what was written down so far is on stable storage.
    Sync,
    /// What was when the receiver asked is.
    Synced,
    /// Whether the sender's disk takes anything.
    StoreStalled {
        /// It does not.
        stalled: bool,
    },
    /// The sender's interest in a filter changed.
    Interest {
        /// Counts the sender's announcements.
        sequence: u64,
        /// The whole filter.
        filter: Arc<[u8]>,
        /// What the sender wants from now on.
        interest: Interest,
    },
    /// Every announcement of the receiver up to `sequence` is in force at the sender.
    InterestAck {
        /// The last announcement seen.
        sequence: u64,
    },
    /// Asks for the receiver's clock, telling the sender's.
    ClockRequest {
        /// The sender's clock.
        clock: u64,
    },
    /// The sender makes no retained version at or below `clock` any more.
    Clock {
        /// The sender's clock.
        clock: u64,
    },
}

// An envelope is moved twice through a ring slot; it stays within a cache line.
const _: () = assert!(size_of::<Envelope>() <= 40);
