//! Times in which a shard did not run, and what was due by then.
//!
//! A process may be stopped, or all of its machine, as when a hypervisor moves it. Clients did not see that: what they
//! sent meanwhile has arrived and was not read, but by the clock they were silent. So what is due waits until that was
//! read.

#![forbid(unsafe_code)]

use crate::time::Instant;
use std::time::Duration;

/// A shard that goes on so much later than it was to did not run meanwhile.
const LAPSE_MIN: Duration = Duration::from_millis(50);
/// What is due waits as long as the shard did not run, at most, and no longer than this: a busy shard always has more to
/// read.
const READING_MAX: Duration = Duration::from_secs(2);

/// What a shard knows of the last such time.
#[derive(Debug, Default)]
pub(super) struct Lapse {
    /// What arrived during it goes first, until then.
    until: Option<Instant>,
    /// It was noticed in this turn, in which nobody has looked for what arrived.
    is_new: bool,
}

impl Lapse {
    /// The shard goes on at `now`, and was to do so at `expected` or before.
    // HOT: per turn.
    #[inline]
    pub(super) fn handle_look(&mut self, expected: Instant, now: Instant) {
        let late = now - expected;
        if late >= LAPSE_MIN && self.until.is_none() {
            self.until = Some(now + late.min(READING_MAX));
            self.is_new = true;
        }
    }

    /// Whether what is due at `now` may be done. `is_quiet`: nothing has arrived in this turn.
    // HOT: per turn.
    #[inline]
    pub(super) fn is_over(&mut self, now: Instant, is_quiet: bool) -> bool {
        let Some(until) = self.until else {
            return true;
        };
        let is_new = std::mem::take(&mut self.is_new);
        if now < until && (is_new || !is_quiet) {
            return false;
        }
        self.until = None;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn a_shard_that_is_hardly_late_does_what_is_due() {
        let mut lapse = Lapse::default();
        lapse.handle_look(at(100), at(149));
        assert!(lapse.is_over(at(149), false));
        // It was woken before its time.
        lapse.handle_look(at(1000), at(200));
        assert!(lapse.is_over(at(200), false));
    }

    #[test]
    fn what_is_due_after_a_lapse_waits_for_a_look_that_finds_nothing() {
        let mut lapse = Lapse::default();
        lapse.handle_look(at(100), at(5000));
        assert!(!lapse.is_over(at(5000), true), "nobody has looked");
        lapse.handle_look(at(5001), at(5001));
        assert!(!lapse.is_over(at(5001), false));
        lapse.handle_look(at(5002), at(5002));
        assert!(lapse.is_over(at(5002), true));
        assert!(lapse.is_over(at(5003), false));
    }

    #[test]
    fn a_shard_that_always_has_more_to_read_does_what_is_due_after_a_while() {
        let mut lapse = Lapse::default();
        lapse.handle_look(at(0), at(100));
        assert!(!lapse.is_over(at(199), false));
        assert!(lapse.is_over(at(200), false), "as long as it did not run");
        lapse.handle_look(at(1000), at(60_000));
        assert!(!lapse.is_over(at(61_999), false));
        // Another one does not put it off.
        lapse.handle_look(at(61_999), at(62_100));
        assert!(lapse.is_over(at(62_100), false));
    }
}
