//! Deadlines of connections and Sessions.
//!
//! A slot has one armed time, which only moves closer. When it fires the owner looks at its real
//! deadline and arms again, so a packet that puts a Keep Alive off costs nothing here, and slots
//! that are used again do not pile up entries. One whose time moves closer and closer leaves an entry each time:
//! those are taken out before they are more than the others.

#![forbid(unsafe_code)]

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use crate::chunks::Chunks;
use crate::time::Instant;

/// Whose deadline it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) enum Slot {
    Connection(u32),
    Session(u32),
    /// Tombstones of retained messages that all shards may have seen by now.
    Tombstones,
    /// The retained message that expires next.
    RetainedExpiry,
    /// The end of the patience with a disk that takes nothing.
    DiskPatience,
    /// The next turn, for retained messages that this one had no time for.
    Replays,
    /// The next turn, for Topic Filters that this one had no time for.
    Filters,
    /// More of what ended Sessions have left behind.
    Ended,
    /// More subscriptions of Sessions whose connection has come or gone.
    Visits,
    /// More Sessions that a message is for.
    Spreads,
    /// More of what removed retained messages have left behind.
    Tidying,
    /// More of what the operator asked to see.
    Dump,
    /// More of those who have to be told that the configuration was read again.
    Reload,
}

/// What goes on over turns, as much of it in each as that has time for.
const OVER_TURNS: [Slot; 8] = [
    Slot::Replays,
    Slot::Filters,
    Slot::Ended,
    Slot::Visits,
    Slot::Spreads,
    Slot::Tidying,
    Slot::Dump,
    Slot::Reload,
];

/// Entries beyond two for each slot that is armed.
const OVERTAKEN_MAX: usize = 64;

const UNARMED: Instant = Instant::from_nanos(u64::MAX);

#[derive(Debug)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<(Instant, Slot)>>,
    /// Slots that are armed.
    count: usize,
    connections: Chunks<Instant>,
    sessions: Chunks<Instant>,
    tombstones: Instant,
    retained_expiry: Instant,
    disk_patience: Instant,
    replays: Instant,
    filters: Instant,
    ended: Instant,
    visits: Instant,
    spreads: Instant,
    tidying: Instant,
    dump: Instant,
    reload: Instant,
}

impl Timers {
    pub(super) fn new() -> Self {
        Self {
            heap: BinaryHeap::new(),
            count: 0,
            connections: Chunks::default(),
            sessions: Chunks::default(),
            tombstones: UNARMED,
            retained_expiry: UNARMED,
            disk_patience: UNARMED,
            replays: UNARMED,
            filters: UNARMED,
            ended: UNARMED,
            visits: UNARMED,
            spreads: UNARMED,
            tidying: UNARMED,
            dump: UNARMED,
            reload: UNARMED,
        }
    }

    fn armed(&mut self, slot: Slot) -> &mut Instant {
        let (table, index) = match slot {
            Slot::Connection(index) => (&mut self.connections, index),
            Slot::Session(index) => (&mut self.sessions, index),
            Slot::Tombstones => return &mut self.tombstones,
            Slot::RetainedExpiry => return &mut self.retained_expiry,
            Slot::DiskPatience => return &mut self.disk_patience,
            Slot::Replays => return &mut self.replays,
            Slot::Filters => return &mut self.filters,
            Slot::Ended => return &mut self.ended,
            Slot::Visits => return &mut self.visits,
            Slot::Spreads => return &mut self.spreads,
            Slot::Tidying => return &mut self.tidying,
            Slot::Dump => return &mut self.dump,
            Slot::Reload => return &mut self.reload,
        };
        table.grow_to(index, || UNARMED)
    }

    /// Sees to it that `slot` fires at `at` or before.
    pub(super) fn arm(&mut self, slot: Slot, at: Instant) {
        let armed = self.armed(slot);
        if at < *armed {
            let was_armed = *armed != UNARMED;
            *armed = at;
            self.count += usize::from(!was_armed);
            self.heap.push(Reverse((at, slot)));
            if self.heap.len() > 2 * self.count + OVERTAKEN_MAX {
                self.forget_overtaken();
            }
        }
    }

    /// Leaves one entry for each slot that is armed.
    fn forget_overtaken(&mut self) {
        let mut entries = std::mem::take(&mut self.heap).into_vec();
        entries.retain(|&Reverse((at, slot))| *self.armed(slot) == at);
        entries.sort_unstable();
        entries.dedup();
        self.heap = entries.into();
    }

    /// The next slot whose time has come. What goes on over turns is first: it is armed anew in each, and would have to wait
    /// until all deadlines that fell on one moment have had theirs.
    pub(super) fn pop_due(&mut self, now: Instant) -> Option<Slot> {
        let next = OVER_TURNS.into_iter().find(|&it| *self.armed(it) <= now);
        if let Some(slot) = next {
            // Its entry is one that nothing is armed by.
            *self.armed(slot) = UNARMED;
            self.count -= 1;
            return Some(slot);
        }
        while let Some(&Reverse((at, slot))) = self.heap.peek() {
            if at > now {
                return None;
            }
            self.heap.pop();
            let armed = self.armed(slot);
            // An entry that an earlier one has overtaken is not the armed one.
            if *armed == at {
                *armed = UNARMED;
                self.count -= 1;
                return Some(slot);
            }
        }
        None
    }

    /// When [`Timers::pop_due`] is next worth a call.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.heap.peek().map(|&Reverse((at, _))| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(nanos: u64) -> Instant {
        Instant::from_nanos(nanos)
    }

    #[test]
    fn arming_later_than_armed_adds_nothing_and_earlier_overtakes() {
        let mut timers = Timers::new();
        timers.arm(Slot::Connection(3), at(50));
        timers.arm(Slot::Connection(3), at(90));
        timers.arm(Slot::Connection(3), at(20));
        timers.arm(Slot::Session(3), at(30));
        assert_eq!(timers.next_deadline(), Some(at(20)));
        assert_eq!(timers.pop_due(at(19)), None);
        assert_eq!(timers.pop_due(at(60)), Some(Slot::Connection(3)));
        assert_eq!(timers.pop_due(at(60)), Some(Slot::Session(3)));
        assert_eq!(timers.pop_due(at(60)), None);
        assert_eq!(timers.next_deadline(), None);
    }

    #[test]
    fn a_slot_that_is_armed_ever_earlier_does_not_pile_up_entries() {
        let mut timers = Timers::new();
        for index in 0..10 {
            timers.arm(Slot::Session(index), at(1_000_000 + u64::from(index)));
        }
        for earlier in 0..10_000 {
            timers.arm(Slot::RetainedExpiry, at(900_000 - earlier));
            assert!(timers.heap.len() <= 2 * 11 + OVERTAKEN_MAX);
        }
        assert_eq!(timers.next_deadline(), Some(at(890_001)));
        assert_eq!(timers.pop_due(at(890_001)), Some(Slot::RetainedExpiry));
        assert_eq!(timers.pop_due(at(900_000)), None);
        for index in 0..10 {
            assert_eq!(timers.pop_due(at(2_000_000)), Some(Slot::Session(index)));
        }
        assert_eq!((timers.pop_due(at(2_000_000)), timers.count), (None, 0));
    }

    #[test]
    fn what_goes_on_over_turns_is_before_deadlines_that_have_waited_longer() {
        let mut timers = Timers::new();
        for index in 0..3 {
            timers.arm(Slot::Connection(index), at(10));
        }
        for turn in 0..100 {
            timers.arm(Slot::Spreads, at(20 + turn));
            timers.arm(Slot::Replays, at(21 + turn));
            assert_eq!(timers.pop_due(at(20 + turn)), Some(Slot::Spreads));
            timers.arm(Slot::Spreads, at(21 + turn));
            assert_eq!(timers.pop_due(at(21 + turn)), Some(Slot::Replays));
            assert_eq!(timers.pop_due(at(21 + turn)), Some(Slot::Spreads));
            assert!(timers.heap.len() <= 2 * 5 + OVERTAKEN_MAX);
        }
        for index in 0..3 {
            assert_eq!(timers.pop_due(at(20)), Some(Slot::Connection(index)));
        }
        assert_eq!((timers.pop_due(at(1000)), timers.count), (None, 0));
    }
}
