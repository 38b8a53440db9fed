//! What a shard's turns cost its thread, whatever else the system gave the core to meanwhile.

#![forbid(unsafe_code)]

use crate::metrics::Turns;
use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The thread's CPU time is a system call away, and turns are many: those that end within this time of the last
/// look are looked at together with the one that follows. That one cannot have taken more than the clock says, which
/// parts it from them: a turn is never shown shorter than it was, and longer, by this much at most, only if the system
/// took the core away in it.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// The CPU time of one shard's thread, from the end of one wait to the end of the next: what came in, what was
/// handled and what left, system calls included, and no time in which the thread waited or was not let run.
#[derive(Debug)]
pub(super) struct OwnTime {
    turns: Turns,
    looked_at: Instant,
    spent: Duration,
    /// When the turn under way began.
    began: Instant,
}

impl OwnTime {
    /// Counts from now on. Has to be called on the shard's thread, like everything else here.
    pub(super) fn start(now: Instant) -> Self {
        Self {
            turns: Turns::default(),
            looked_at: now,
            spent: thread_time(),
            began: now,
        }
    }

    /// A turn has ended and the next one begins.
    // HOT: per turn.
    #[inline]
    pub(super) fn end_turn(&mut self, now: Instant) {
        if now - self.looked_at >= LOOK_EVERY {
            self.look(now, thread_time());
        }
        self.began = now;
    }

    fn look(&mut self, now: Instant, spent: Duration) {
        let all = spent.saturating_sub(self.spent);
        if self.began == self.looked_at {
            self.turns.record(all);
        } else {
            let last = all.min(now - self.began);
            self.turns.record(all - last);
            self.turns.record(last);
        }
        (self.looked_at, self.spent) = (now, spent);
    }

    /// What was counted.
    pub(super) fn turns(&self) -> Turns {
        self.turns
    }
}

/// CPU time of this thread, in the system as well.
fn thread_time() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    // Neither is negative, and the second is below 10^9.
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn short_turns_count_together_apart_from_the_one_that_follows_and_no_time_is_lost() {
        let at = |us| Instant::ZERO + Duration::from_micros(us);
        let mut own = OwnTime::start(at(0));
        let begun = own.spent;
        for us in [10, 60, 99] {
            own.end_turn(at(us));
            assert_eq!(own.turns().count(), 0);
        }
        own.end_turn(at(5000));
        assert_eq!(own.turns().count(), 2);
        own.end_turn(at(5100));
        assert_eq!(own.turns().count(), 3);
        let counted = Duration::from_nanos(own.turns().busy_ns);
        assert_eq!(counted, own.spent.saturating_sub(begun));
    }

    #[test]
    fn a_turn_after_short_ones_is_not_shown_longer_than_the_clock_says() {
        let at = |us| Instant::ZERO + Duration::from_micros(us);
        let mut own = OwnTime::start(at(0));
        let begun = own.spent;
        own.end_turn(at(90));
        // 1.1 ms in all, of which this one can have had one.
        own.look(at(1090), begun + Duration::from_micros(1090));
        let turns = own.turns();
        assert_eq!((turns.buckets[3], turns.buckets[6]), (1, 1), "{turns:?}");
        // The system took the core away for most of the next ones: what was spent is the bound.
        own.end_turn(at(1090));
        own.end_turn(at(1180));
        own.look(at(9000), begun + Duration::from_micros(2080));
        assert_eq!(own.turns().buckets[6], 2);
    }

    #[test]
    fn time_in_which_the_thread_does_not_run_is_not_its_own() {
        let mut own = OwnTime::start(Instant::ZERO);
        own.look(Instant::ZERO, own.spent + Duration::from_micros(1025));
        own.look(Instant::ZERO + Duration::from_secs(9), own.spent);
        let turns = own.turns();
        assert_eq!((turns.buckets[0], turns.buckets[7]), (1, 1), "{turns:?}");
    }
}
