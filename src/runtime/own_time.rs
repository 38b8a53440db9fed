//! What a shard's turns cost its thread, whatever else the system gave the core to meanwhile.

#![forbid(unsafe_code)]

use crate::metrics::Turns;
use crate::time::Instant;
use rustix::time::{ClockId, clock_gettime};
use std::time::Duration;

/// The thread's CPU time is a system call away, and turns are many: those that end within this time of the last
/// look are counted together with the one that follows. So a turn is never shown shorter than it was, and by
/// this much longer at most.
const LOOK_EVERY: Duration = Duration::from_micros(100);

/// The CPU time of one shard's thread, from the end of one wait to the end of the next: what came in, what was
/// handled and what left, system calls included, and no time in which the thread waited or was not let run.
#[derive(Debug)]
pub(super) struct OwnTime {
    turns: Turns,
    looked_at: Instant,
    spent: Duration,
}

impl OwnTime {
    /// Counts from now on. Has to be called on the shard's thread, like everything else here.
    pub(super) fn start(now: Instant) -> Self {
        Self {
            turns: Turns::default(),
            looked_at: now,
            spent: thread_time(),
        }
    }

    /// A turn has ended and the next one begins.
    // HOT: per turn.
    #[inline]
    pub(super) fn end_turn(&mut self, now: Instant) {
        if now - self.looked_at >= LOOK_EVERY {
            self.look(now, thread_time());
        }
    }

    fn look(&mut self, now: Instant, spent: Duration) {
        self.turns.record(spent.saturating_sub(self.spent));
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
