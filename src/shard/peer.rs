//! Another shard, as this one sees it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::envelope::Envelope;
use super::store::{Replaced, Ticket};

/// What is on its way to a peer and what it has told us. The entry of a shard for itself is unused.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Envelopes that wait for room in the ring, oldest first.
    pub(super) outbound: VecDeque<Envelope>,
    /// As many of them leave at the end of the turn.
    pub(super) ring_room: usize,
    /// The last of our announcements that is in force there.
    pub(super) acknowledged: u64,
    /// It makes no retained version at or below this any more.
    pub(super) clock: u64,
    /// What it said of the envelope that follows.
    pub(super) ticket: Option<Ticket>,
    /// Whose that was.
    pub(super) handed_on: Replaced,
    /// Its disk takes nothing.
    pub(super) stalled: bool,
}

impl Peer {
    /// Whether QoS 0 is dropped and publishers of QoS 1 and 2 are stopped.
    pub(super) fn is_full(&self, backlog_max: usize) -> bool {
        self.outbound.len() >= backlog_max + self.ring_room
    }

    /// Whether stopped publishers may go on: well below full, so that they do not stop at once again.
    pub(super) fn has_room(&self, backlog_max: usize) -> bool {
        self.outbound.len() <= backlog_max / 2
    }

    /// Acknowledges announcements of the peer up to `sequence`, in one envelope with an
    /// acknowledgement that nothing has followed yet.
    pub(super) fn acknowledge(&mut self, sequence: u64) {
        if let Some(Envelope::InterestAck { sequence: last }) = self.outbound.back_mut() {
            *last = sequence;
        } else {
            self.outbound.push_back(Envelope::InterestAck { sequence });
        }
    }
}
