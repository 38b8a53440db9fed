//! Messages that other shards must store before they are acknowledged, by number.
//!
//! # Always true
//! - Numbers only grow, and [`Tickets::first_open`] is the lowest one of which an answer is missing.
//! - One that is not answered, because a disk hangs, keeps at most [`RECENT_MAX`] that are answered from being
//!   forgotten.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use super::store::{Pending, Received};

/// Tickets that are looked up by their distance from the first of them. Of older ones only the open are kept.
const RECENT_MAX: usize = 1024;

/// Those of one shard.
#[derive(Debug)]
pub(super) struct Tickets {
    recent: VecDeque<Pending>,
    /// The number of the first recent one.
    first: u64,
    overdue: BTreeMap<u64, Pending>,
}

impl Tickets {
    pub(super) const fn new() -> Self {
        Self {
            recent: VecDeque::new(),
            // Zero means none.
            first: 1,
            overdue: BTreeMap::new(),
        }
    }

    /// Tickets that are kept.
    pub(super) fn len(&self) -> usize {
        self.recent.len() + self.overdue.len()
    }

    /// The number of the next one.
    pub(super) fn next(&self) -> u64 {
        self.first + self.recent.len() as u64
    }

    /// The number of the first one of which an answer is missing, or of the next one.
    pub(super) fn first_open(&self) -> u64 {
        self.overdue.keys().next().copied().unwrap_or(self.first)
    }

    /// One more, and its number.
    pub(super) fn push(&mut self, pending: Pending) -> u64 {
        if self.recent.len() >= RECENT_MAX {
            if let Some(overdue) = self.recent.pop_front() {
                self.overdue.insert(self.first, overdue);
                self.first += 1;
            }
            self.forget_answered();
        }
        let ticket = self.next();
        self.recent.push_back(pending);
        ticket
    }

    /// The last one, if it is open.
    pub(super) fn last_mut(&mut self) -> Option<&mut Pending> {
        self.recent.back_mut()
    }

    fn get(&self, ticket: u64) -> Option<&Pending> {
        match ticket.checked_sub(self.first) {
            Some(index) => self.recent.get(index as usize),
            None => self.overdue.get(&ticket),
        }
    }

    /// Whether every shard has answered.
    pub(super) fn is_answered(&self, ticket: u64) -> bool {
        self.get(ticket).is_none_or(|pending| pending.missing == 0)
    }

    /// The QoS 2 message that it is for, until every shard has answered.
    pub(super) fn received(&self, ticket: u64) -> Option<Received> {
        self.get(ticket)?.received
    }

    /// One shard has answered. What waited, if it was the last one.
    pub(super) fn answer(&mut self, ticket: u64) -> Option<Pending> {
        let Some(index) = ticket.checked_sub(self.first) else {
            let pending = self.overdue.get_mut(&ticket)?;
            return if pending.take_answer() {
                self.overdue.remove(&ticket)
            } else {
                None
            };
        };
        let pending = self.recent.get_mut(index as usize)?;
        if !pending.take_answer() {
            return None;
        }
        let answered = *pending;
        // From now on it is written down, though tickets before it may be open.
        pending.received = None;
        self.forget_answered();
        Some(answered)
    }

    fn forget_answered(&mut self) {
        while self
            .recent
            .front()
            .is_some_and(|pending| pending.missing == 0)
        {
            self.recent.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::store::{HandedOn, Waiter};
    use super::*;

    fn pending(missing: u32) -> Pending {
        let (session, sequence) = (1, 1);
        Pending {
            missing,
            waiter: Waiter::Session(HandedOn { session, sequence }),
            received: None,
        }
    }

    #[test]
    fn those_that_are_answered_behind_one_that_is_not_are_forgotten() {
        let mut tickets = Tickets::new();
        let slow = tickets.push(pending(2));
        for _ in 0..10 * RECENT_MAX {
            let quick = tickets.push(pending(1));
            assert!(!tickets.is_answered(quick));
            assert!(tickets.answer(quick).is_some());
            assert!(tickets.is_answered(quick));
            assert_eq!(tickets.first_open(), slow);
        }
        assert!(tickets.len() <= RECENT_MAX + 1, "{}", tickets.len());
        assert!(!tickets.is_answered(slow));
        assert!(tickets.answer(slow).is_none());
        assert!(tickets.answer(slow).is_some());
        assert!(tickets.is_answered(slow));
        assert_eq!(tickets.first_open(), tickets.next());
        assert_eq!(tickets.len(), 0);
    }

    #[test]
    fn one_after_the_other_is_forgotten_as_it_is_answered_whatever_their_order() {
        let mut tickets = Tickets::new();
        let all: Vec<_> = (0..3 * RECENT_MAX)
            .map(|_| tickets.push(pending(1)))
            .collect();
        for &ticket in all.iter().rev() {
            assert_eq!(tickets.first_open(), all[0]);
            assert!(tickets.answer(ticket).is_some());
            assert!(tickets.answer(ticket).is_none(), "it was answered");
        }
        assert_eq!((tickets.len(), tickets.first_open()), (0, tickets.next()));
    }
}
