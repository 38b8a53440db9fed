//! What a shard writes down so that its Sessions and retained messages outlive the process.
//!
//! Pure: a [`Journal`] collects [`Record`]s in a buffer that somebody else puts on a disk, and
//! [`Replay`] turns the records back into state. `wal` keeps the bytes, `shard` says what is recorded
//! before what is sent (the table is in `wal`).
//!
//! # Always true
//! - Records are kept in frames. A frame is whole or absent after a crash, so everything one packet
//!   caused on a shard is remembered or forgotten together.
//! - Every record says what *is*, under a key that is never used for anything else: a Session, a
//!   Subscription, one place in a Session's sequence of deliveries, a topic. Saying it again changes
//!   nothing. So the log is shortened by saying again what still is, and forgetting what was said
//!   before that.
//! - A frame has a number, its [`Lsn`]; numbers have no gaps.
//!
//! Read next: `record.rs` (what is said), `frame.rs` (its form), `replay.rs` (what it means).

#![forbid(unsafe_code)]

mod bytes;
mod frame;
mod owed;
mod prepared;
mod record;
mod replay;

pub use bytes::NUMBER_MAX;
pub use frame::{FRAME_HEADER_SIZE, FRAME_PAYLOAD_MAX, Frame, FrameError, next_frame};
pub use prepared::Prepared;
pub use record::{
    Digest, Origin, Record, Records, StoredIdentity, StoredMessage, UnknownRecord, WillRecord,
    digest,
};
pub use replay::{
    Progress, Replay, Replayed, ReplayedDelivery, ReplayedRetained, ReplayedSession,
    ReplayedSubscription, ReplayedWill, Suspect,
};

use crate::time::Instant;

/// Number of a frame in the log of one shard. The first is 1; zero is before everything.
pub type Lsn = u64;

/// Bytes of an open frame from which the next packet begins another one: what is lost with a frame
/// that is damaged, and what recovery holds at once.
const FRAME_SIZE_SOFT_MAX: usize = 256 * 1024;

/// What a frame of that size has room in without being moved, if the packet that ends it is not large.
const PIECE_SIZE: usize = FRAME_SIZE_SOFT_MAX + 64 * 1024;
/// A frame that is not so large may grow by being moved.
const PIECE_SIZE_SMALL: usize = 32 * 1024;
/// Empty pieces that are kept, and how large they are at most.
const SPARE_MAX: usize = 8;
const SPARE_SIZE_MAX: usize = 2 * PIECE_SIZE;

/// Gives up of pieces that were written what is not worth keeping for [`Journal::take`].
pub fn keep_spare(pieces: &mut Vec<Vec<u8>>) {
    pieces.retain(|piece| piece.capacity() <= SPARE_SIZE_MAX);
    pieces.truncate(SPARE_MAX);
}

/// Tells the core's time from the calendar's.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct WallClock {
    /// Milliseconds from 1970 to [`Instant::ZERO`].
    pub start_ms: u64,
}

impl WallClock {
    /// Milliseconds since 1970.
    #[must_use]
    pub const fn ms(self, at: Instant) -> u64 {
        self.start_ms.saturating_add(at.as_nanos() / 1_000_000)
    }

    /// The core's name for a moment; the start of time for what was before it.
    #[must_use]
    pub const fn instant(self, ms: u64) -> Instant {
        Instant::from_nanos(ms.saturating_sub(self.start_ms).saturating_mul(1_000_000))
    }
}

/// Where numbers go on after what a log already holds.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Origins {
    /// Frame to be written next.
    pub lsn: Lsn,
    /// Session to be opened next, before it is spread over shards.
    pub session: u64,
}

impl Default for Origins {
    fn default() -> Self {
        Self { lsn: 1, session: 1 }
    }
}

/// The records of one shard on their way to the disk.
#[derive(Debug)]
pub struct Journal {
    /// Whole frames in a piece each, so that what a burst brings is not moved as it grows.
    whole: Vec<Vec<u8>>,
    /// Bytes of those.
    whole_size: usize,
    /// The open frame; empty if there is none.
    open: Vec<u8>,
    /// Pieces to be used again.
    spare: Vec<Vec<u8>>,
    /// Number of the open frame, or of the next one.
    lsn: Lsn,
    /// Everything up to here is as safe as was promised.
    durable: Lsn,
    /// Everything up to here is on stable storage.
    synced: Lsn,
    clock: WallClock,
    next_session: u64,
    session_step: u64,
    next_message: u64,
}

impl Journal {
    /// The journal of shard `shard` of `shard_count`.
    #[must_use]
    pub fn new(shard: usize, shard_count: usize, origins: Origins, clock: WallClock) -> Self {
        let step = shard_count as u64;
        Self {
            whole: Vec::new(),
            whole_size: 0,
            open: Vec::new(),
            spare: Vec::new(),
            lsn: origins.lsn.max(1),
            durable: origins.lsn.max(1) - 1,
            synced: origins.lsn.max(1) - 1,
            clock,
            // Never zero, and never another shard's.
            next_session: (origins.session.max(1)).div_ceil(step) * step + shard as u64,
            session_step: step,
            next_message: 1,
        }
    }

    /// The calendar.
    #[must_use]
    pub const fn clock(&self) -> WallClock {
        self.clock
    }

    /// The calendar was set: what is appended from now on goes by this one.
    pub const fn set_clock(&mut self, clock: WallClock) {
        self.clock = clock;
    }

    /// A name for a new Session that none had before.
    pub fn name_session(&mut self) -> u64 {
        let name = self.next_session;
        self.next_session += self.session_step;
        name
    }

    /// A name for a message within this run.
    pub fn name_message(&mut self) -> u64 {
        let name = self.next_message;
        self.next_message += 1;
        name
    }

    /// Appends one record to the open frame.
    pub fn append(&mut self, record: &Record<'_>) {
        if self.open.is_empty() {
            self.open.resize(FRAME_HEADER_SIZE, 0);
        }
        record.encode(&mut self.open);
    }

    /// What must be durable for everything appended so far to be.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        if self.open.is_empty() {
            self.lsn - 1
        } else {
            self.lsn
        }
    }

    /// The frame that the next record will be part of.
    #[must_use]
    pub const fn frame(&self) -> Lsn {
        self.lsn
    }

    /// Changes with every record.
    #[must_use]
    pub fn size(&self) -> usize {
        self.whole_size + self.open.len()
    }

    /// Everything up to here is as safe as was promised.
    #[must_use]
    pub const fn durable(&self) -> Lsn {
        self.durable
    }

    /// Whether all of it is.
    #[must_use]
    pub const fn is_durable(&self, lsn: Lsn) -> bool {
        lsn <= self.durable
    }

    /// Whether everything up to `lsn` is on stable storage, whatever was promised.
    #[must_use]
    pub const fn is_synced(&self, lsn: Lsn) -> bool {
        lsn <= self.synced
    }

    /// The disk has everything up to `lsn`.
    pub fn set_durable(&mut self, lsn: Lsn) {
        debug_assert!(lsn < self.lsn, "frame {lsn} was never written");
        self.durable = self.durable.max(lsn);
    }

    /// Everything up to `lsn` is on stable storage, which is more than some promises ask for.
    pub fn set_synced(&mut self, lsn: Lsn) {
        self.synced = self.synced.max(lsn);
    }

    /// A packet has been dealt with: the next one may begin a new frame.
    // HOT: per packet, also of those that say nothing.
    #[inline]
    pub fn end_packet(&mut self) {
        if self.open.len() > PIECE_SIZE_SMALL {
            self.end_large();
        }
    }

    #[inline(never)]
    fn end_large(&mut self) {
        if self.open.len() >= FRAME_SIZE_SOFT_MAX {
            self.seal();
        } else if self.open.capacity() < PIECE_SIZE {
            self.open.reserve_exact(PIECE_SIZE - self.open.len());
        }
    }

    fn seal(&mut self) {
        if !self.open.is_empty() {
            frame::seal(&mut self.open, self.lsn, self.synced);
            self.lsn += 1;
            self.whole_size += self.open.len();
            let next = self.spare.pop().unwrap_or_default();
            self.whole.push(std::mem::replace(&mut self.open, next));
        }
    }

    /// Whether there is something for the disk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size() == 0
    }

    /// Swaps the frames, a piece each, with `pieces`, whose memory is used again and whose content is not. The
    /// number of the last one, or `None` if there are none.
    pub fn take(&mut self, pieces: &mut Vec<Vec<u8>>) -> Option<Lsn> {
        if self.is_empty() {
            return None;
        }
        for mut piece in pieces.drain(..) {
            if self.spare.len() < SPARE_MAX {
                piece.clear();
                self.spare.push(piece);
            }
        }
        self.seal();
        self.whole_size = 0;
        std::mem::swap(&mut self.whole, pieces);
        Some(self.lsn - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        Journal::new(1, 2, Origins::default(), WallClock { start_ms: 1000 })
    }

    #[test]
    fn what_is_appended_between_two_takes_is_one_frame() {
        let mut journal = journal();
        assert_eq!((journal.position(), journal.is_empty()), (0, true));
        journal.append(&Record::Ended { session: 1 });
        journal.append(&Record::Ended { session: 2 });
        assert_eq!(journal.position(), 1);
        let mut pieces = Vec::new();
        assert_eq!(journal.take(&mut pieces), Some(1));
        let bytes = pieces.concat();
        assert_eq!((journal.position(), journal.is_empty()), (1, true));
        let (frame, rest) = next_frame(&bytes, 1).unwrap().unwrap();
        assert!(rest.is_empty());
        assert_eq!((frame.lsn, frame.synced), (1, 0));
        assert_eq!(Records::new(frame.payload).count(), 2);
        assert!(!journal.is_durable(1));
        journal.set_durable(1);
        assert!(journal.is_durable(1));
        assert_eq!(journal.take(&mut Vec::new()), None);
    }

    #[test]
    fn a_large_frame_ends_with_its_packet() {
        let mut journal = journal();
        let filter = "f".repeat(60_000);
        for _ in 0..10 {
            for _ in 0..3 {
                journal.append(&Record::Unsubscribed {
                    session: 1,
                    filter: &filter,
                });
            }
            journal.end_packet();
        }
        let mut pieces = Vec::new();
        assert_eq!(journal.take(&mut pieces), Some(5));
        assert!(
            pieces
                .iter()
                .all(|piece| piece.capacity() <= SPARE_SIZE_MAX)
        );
        let bytes = pieces.concat();
        let mut rest = &bytes[..];
        let mut sizes = Vec::new();
        while let Some((frame, after)) = next_frame(rest, sizes.len() as u64 + 1).unwrap() {
            sizes.push(Records::new(frame.payload).count());
            rest = after;
        }
        assert_eq!(sizes, [6; 5]);
    }

    #[test]
    fn what_a_burst_brings_is_not_moved_as_it_grows_and_its_memory_is_used_again() {
        let mut journal = journal();
        let filter = "f".repeat(10_000);
        let burst = |journal: &mut Journal| {
            let mut places = Vec::new();
            let mut moved = 0;
            for _ in 0..100 {
                let before = journal.open.as_ptr();
                journal.append(&Record::Unsubscribed {
                    session: 1,
                    filter: &filter,
                });
                let is_large = journal.open.len() > 2 * PIECE_SIZE_SMALL;
                moved += usize::from(is_large && journal.open.as_ptr() != before);
                journal.end_packet();
                if journal.open.is_empty() {
                    places.push(journal.whole.last().unwrap().as_ptr());
                }
            }
            assert_eq!(moved, 0);
            places
        };
        let mut pieces = Vec::new();
        let first = burst(&mut journal);
        assert_eq!(first.len(), 3);
        assert!(journal.size() > 1_000_000);
        assert_eq!(journal.take(&mut pieces), Some(4));
        assert_eq!((journal.size(), pieces.len()), (0, 4));
        assert!(first.iter().zip(&pieces).all(|(at, it)| *at == it.as_ptr()));
        // One is at hand, and those that come back are used next.
        journal.append(&Record::Ended { session: 1 });
        keep_spare(&mut pieces);
        assert_eq!(journal.take(&mut pieces), Some(5));
        let second = burst(&mut journal);
        assert!(second.iter().filter(|at| first.contains(at)).count() >= 2);
    }

    #[test]
    fn little_is_kept_of_the_memory_of_a_large_burst() {
        let empty = |count| (0..count).map(|_| Vec::with_capacity(PIECE_SIZE)).collect();
        let mut pieces: Vec<_> = empty(100);
        pieces[0].reserve_exact(SPARE_SIZE_MAX + 1);
        keep_spare(&mut pieces);
        assert_eq!(pieces.len(), SPARE_MAX);
        assert!(pieces.iter().all(|it| it.capacity() == PIECE_SIZE));
        let mut journal = journal();
        for _ in 0..3 {
            journal.append(&Record::Ended { session: 1 });
            journal.take(&mut empty(7));
        }
        assert!(journal.spare.len() <= SPARE_MAX);
    }

    #[test]
    fn names_of_sessions_are_never_zero_and_differ_between_shards() {
        let names = |shard| {
            let origins = Origins { lsn: 1, session: 7 };
            let mut journal = Journal::new(shard, 3, origins, WallClock::default());
            [journal.name_session(), journal.name_session()]
        };
        assert_eq!(
            [names(0), names(1), names(2)],
            [[9, 12], [10, 13], [11, 14]]
        );
    }

    #[test]
    fn a_moment_before_the_start_is_the_start() {
        let clock = WallClock { start_ms: 5000 };
        assert_eq!(clock.instant(4000), Instant::ZERO);
        assert_eq!(clock.ms(clock.instant(6500)), 6500);
    }
}
