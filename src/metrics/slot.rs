//! Where a shard shows its numbers to other threads.
//!
//! Others ask and the shard answers at the end of its next turn: a shard that nobody asks does no
//! more than look at one integer, and one that does not answer hangs.

#![forbid(unsafe_code)]

use super::{Counters, Gauges, TURN_BUCKETS, Talkers, Turns};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

const COUNTERS: usize = Counters::FIELDS.len();
const GAUGES: usize = Gauges::FIELDS.len();

/// All numbers of one shard at one moment.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Snapshot {
    /// Since the start.
    pub counters: Counters,
    /// At this moment.
    pub gauges: Gauges,
    /// Since the start.
    pub turns: Turns,
    /// CPU time of the shard's thread in those turns. Short ones that follow each other count as one.
    pub own: Turns,
}

/// One shard's numbers, for others to read. Only the shard writes, and nobody waits.
#[derive(Debug)]
pub struct Slot {
    asked: AtomicU64,
    answered: AtomicU64,
    counters: [AtomicU64; COUNTERS],
    gauges: [AtomicU64; GAUGES],
    turns: Histogram,
    own: Histogram,
    talkers: Mutex<Option<Talkers>>,
}

impl Default for Slot {
    fn default() -> Self {
        Self {
            asked: AtomicU64::new(0),
            answered: AtomicU64::new(0),
            counters: [const { AtomicU64::new(0) }; COUNTERS],
            gauges: [const { AtomicU64::new(0) }; GAUGES],
            turns: Histogram::default(),
            own: Histogram::default(),
            talkers: Mutex::new(None),
        }
    }
}

impl Slot {
    /// Wants new numbers; whoever asks also wakes the shard. Returns the number of the question.
    pub fn ask(&self) -> u64 {
        self.asked.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// The number of the last question that was answered.
    #[must_use]
    pub fn answered(&self) -> u64 {
        // Pairs with the store in `answer`: what is read afterwards is at least as new.
        self.answered.load(Ordering::Acquire)
    }

    /// Whether an answer is wanted. Asked by the shard, once a turn.
    // HOT: per turn.
    #[must_use]
    pub fn is_asked(&self) -> bool {
        self.asked.load(Ordering::Relaxed) != self.answered.load(Ordering::Relaxed)
    }

    /// Shows `snapshot`. Only the shard does.
    pub fn answer(&self, snapshot: &Snapshot) {
        let asked = self.asked.load(Ordering::Relaxed);
        // Numbers of two turns may be seen side by side by who reads meanwhile: they are counters of
        // their own, and a difference of one turn is none that matters.
        store(&self.counters, &snapshot.counters.values());
        store(&self.gauges, &snapshot.gauges.values());
        self.turns.store(&snapshot.turns);
        self.own.store(&snapshot.own);
        // Pairs with the load in `answered`.
        self.answered.store(asked, Ordering::Release);
    }

    /// Who talks most, to go with the answer that follows. Only the shard does. It does not wait for
    /// a reader, who is only there after an answer; if one is, this is lost and the next is not.
    pub fn show_talkers(&self, talkers: Talkers) {
        if let Ok(mut shown) = self.talkers.try_lock() {
            *shown = Some(talkers);
        }
    }

    /// Who talked most before the last answer; `None` the second time.
    pub fn take_talkers(&self) -> Option<Talkers> {
        // A value is only ever replaced as a whole.
        let mut shown = self.talkers.lock().unwrap_or_else(PoisonError::into_inner);
        shown.take()
    }

    /// What was last shown.
    #[must_use]
    pub fn read(&self) -> Snapshot {
        Snapshot {
            counters: Counters::from_values(load(&self.counters)),
            gauges: Gauges::from_values(load(&self.gauges)),
            turns: self.turns.load(),
            own: self.own.load(),
        }
    }
}

/// [`Turns`], for others to read.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; TURN_BUCKETS],
    busy_ns: AtomicU64,
}

impl Histogram {
    fn store(&self, turns: &Turns) {
        store(&self.buckets, &turns.buckets);
        self.busy_ns.store(turns.busy_ns, Ordering::Relaxed);
    }

    fn load(&self) -> Turns {
        Turns {
            buckets: load(&self.buckets),
            busy_ns: self.busy_ns.load(Ordering::Relaxed),
        }
    }
}

fn store<const N: usize>(to: &[AtomicU64; N], from: &[u64; N]) {
    for (to, &from) in to.iter().zip(from) {
        to.store(from, Ordering::Relaxed);
    }
}

fn load<const N: usize>(from: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|index| from[index].load(Ordering::Relaxed))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_open_until_it_is_answered() {
        let slot = Slot::default();
        assert!(!slot.is_asked());
        let question = slot.ask();
        assert!(slot.is_asked() && slot.answered() < question);
        let mut snapshot = Snapshot::default();
        snapshot.counters.connects = 3;
        snapshot.gauges.sessions = 2;
        snapshot.turns.buckets[4] = 9;
        snapshot.own.buckets[3] = 8;
        snapshot.own.busy_ns = 7;
        slot.answer(&snapshot);
        assert!(!slot.is_asked() && slot.answered() >= question);
        assert_eq!(slot.read(), snapshot);
    }
}
