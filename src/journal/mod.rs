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
    Origin, Record, Records, StoredIdentity, StoredMessage, UnknownRecord, WillRecord,
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
    /// Whole frames, then perhaps an open one.
    bytes: Vec<u8>,
    /// Where the open frame begins.
    open: Option<usize>,
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
            bytes: Vec::new(),
            open: None,
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
        if self.open.is_none() {
            self.open = Some(self.bytes.len());
            self.bytes.resize(self.bytes.len() + FRAME_HEADER_SIZE, 0);
        }
        record.encode(&mut self.bytes);
    }

    /// What must be durable for everything appended so far to be.
    #[must_use]
    pub const fn position(&self) -> Lsn {
        if self.open.is_some() {
            self.lsn
        } else {
            self.lsn - 1
        }
    }

    /// Changes with every record.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
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
    #[inline]
    pub fn end_packet(&mut self) {
        if let Some(open) = self.open
            && self.bytes.len() - open >= FRAME_SIZE_SOFT_MAX
        {
            self.seal();
        }
    }

    fn seal(&mut self) {
        if let Some(open) = self.open.take() {
            frame::seal(&mut self.bytes[open..], self.lsn, self.synced);
            self.lsn += 1;
        }
    }

    /// Whether there is something for the disk.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Swaps the frames with `buffer`, which is empty and whose capacity is used again. The number of
    /// the last one, or `None` if there are none.
    pub fn take(&mut self, buffer: &mut Vec<u8>) -> Option<Lsn> {
        debug_assert!(buffer.is_empty(), "frames would be lost");
        if self.bytes.is_empty() {
            return None;
        }
        self.seal();
        std::mem::swap(&mut self.bytes, buffer);
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
        let mut bytes = Vec::new();
        assert_eq!(journal.take(&mut bytes), Some(1));
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
        let mut bytes = Vec::new();
        assert_eq!(journal.take(&mut bytes), Some(5));
        let mut rest = &bytes[..];
        let mut sizes = Vec::new();
        while let Some((frame, after)) = next_frame(rest, sizes.len() as u64 + 1).unwrap() {
            sizes.push(Records::new(frame.payload).count());
            rest = after;
        }
        assert_eq!(sizes, [6; 5]);
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
