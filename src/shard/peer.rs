//! Another shard, as this one sees it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::batch::{BatchPool, OpenBatch};
use super::envelope::Envelope;
use super::store::{Replaced, Ticket};

/// What is on its way to a peer and what it has told us. The entry of a shard for itself is unused.
#[derive(Debug, Default)]
pub(super) struct Peer {
    /// Envelopes that wait for room in the ring, oldest first.
    pub(super) outbound: VecDeque<Envelope>,
    /// Messages that follow those, in an envelope to be.
    pub(super) open: OpenBatch,
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
    /// Envelopes that wait for room in the ring.
    pub(super) fn waiting(&self) -> usize {
        self.outbound.len() + usize::from(!self.open.is_empty())
    }

    /// Sends `envelope` behind everything before it.
    pub(super) fn post(&mut self, envelope: Envelope, batches: &mut BatchPool) {
        self.close(batches);
        self.outbound.push_back(envelope);
    }

    /// Makes an envelope of what has been gathered.
    pub(super) fn close(&mut self, batches: &mut BatchPool) {
        if !self.open.is_empty() {
            let batch = batches.close(&mut self.open);
            self.outbound.push_back(Envelope::Batch {
                batch,
                next: 0,
                handled: 0,
            });
        }
    }

    /// Whether QoS 0 is dropped and publishers of QoS 1 and 2 are stopped.
    pub(super) fn is_full(&self, backlog_max: usize) -> bool {
        self.waiting() >= backlog_max + self.ring_room
    }

    /// Whether stopped publishers may go on: well below full, so that they do not stop at once again.
    pub(super) fn has_room(&self, backlog_max: usize) -> bool {
        self.waiting() <= backlog_max / 2
    }

    /// Says that what `ticket` is about is stored, in one envelope with the answer before it if nothing has followed
    /// that. A ticket has as many answers as the peer sent messages with it.
    pub(super) fn answer(&mut self, ticket: u64, batches: &mut BatchPool) {
        self.close(batches);
        if let Some(Envelope::Stored {
            ticket: first,
            more,
        }) = self.outbound.back_mut()
            && let Some(behind) = ticket.checked_sub(*first + 1)
            && behind < u64::BITS.into()
            && *more & 1 << behind == 0
        {
            *more |= 1 << behind;
        } else {
            self.outbound
                .push_back(Envelope::Stored { ticket, more: 0 });
        }
    }

    /// Acknowledges announcements of the peer up to `sequence`, in one envelope with an
    /// acknowledgement that nothing has followed yet.
    pub(super) fn acknowledge(&mut self, sequence: u64, batches: &mut BatchPool) {
        self.close(batches);
        if let Some(Envelope::InterestAck { sequence: last }) = self.outbound.back_mut() {
            *last = sequence;
        } else {
            self.outbound.push_back(Envelope::InterestAck { sequence });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_behind_each_other_share_an_envelope_unless_one_is_in_it_or_something_comes_between()
    {
        let (mut peer, mut batches) = (Peer::default(), BatchPool::default());
        for ticket in [5, 6, 8, 5 + 64] {
            peer.answer(ticket, &mut batches);
        }
        // Beyond what one has room for, and before it.
        peer.answer(5 + 65, &mut batches);
        for ticket in [3, 3, 5, 5] {
            peer.answer(ticket, &mut batches);
        }
        peer.post(Envelope::Settled { round: 1 }, &mut batches);
        peer.answer(4, &mut batches);
        let told: Vec<_> = peer
            .outbound
            .iter()
            .filter_map(|envelope| match envelope {
                &Envelope::Stored { ticket, more } => Some((ticket, more)),
                _ => None,
            })
            .collect();
        assert_eq!(
            told,
            [
                (5, 0b101 | 1 << 63),
                (70, 0),
                (3, 0),
                (3, 0b10),
                (5, 0),
                (4, 0)
            ]
        );
    }
}
