//! How long a shard works on one thing before it looks at the others again.
//!
//! Whoever sends something waits for what the shard does just then. So what arrived is not handled to its end
//! before anything is sent: a turn ends when its time is over, and the next one goes on from where it was. What one
//! packet costs is not cut.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What a turn does at most of what has arrived, beside the last thing that it began. The longer it is the more
/// of one Client's messages leave in one send, which is most of what a message to many costs.
pub(super) const TURN_MAX: Duration = Duration::from_micros(900);
/// What each part of a turn gets even if those before it took longer: envelopes of other shards, and what was paused.
const PART_MIN: Duration = Duration::from_micros(100);
/// Bytes given to the core at once, and what may pass between two looks at the clock.
pub(super) const SLICE_SIZE: usize = 4096;
/// What else happens counts as so many bytes.
pub(super) const EVENT_WEIGHT: usize = SLICE_SIZE / 8;

/// The time of a turn.
#[derive(Debug)]
pub(super) struct Pace {
    until: Instant,
    weight: usize,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now(),
            weight: 0,
        }
    }

    /// A turn begins that may take so long.
    pub(super) fn begin_turn(&mut self, max: Duration) {
        self.until = Instant::now() + max;
        self.weight = 0;
    }

    /// Its next part begins.
    pub(super) fn begin_part(&mut self, max: Duration) {
        self.until = self.until.max(Instant::now() + max.min(PART_MIN));
        self.weight = 0;
    }

    /// Something of this weight was done. Tells whether this part of the turn is to end.
    // HOT: per receive.
    #[inline]
    pub(super) fn is_over(&mut self, weight: usize) -> bool {
        self.weight += weight;
        if self.weight < SLICE_SIZE {
            return false;
        }
        self.weight = 0;
        Instant::now() >= self.until
    }
}
