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
    /// A part has begun whose time counts from the next look at the clock.
    grant: Option<Duration>,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self {
            until: Instant::now(),
            weight: 0,
            grant: None,
        }
    }

    /// A turn began at `start` that may take so long.
    // HOT: per turn.
    pub(super) fn begin_turn(&mut self, start: Instant, max: Duration) {
        self.until = start + max;
        self.weight = 0;
        self.grant = None;
    }

    /// Its next part begins. Most have little to do, and look at no clock.
    // HOT: per turn.
    pub(super) fn begin_part(&mut self, max: Duration) {
        self.weight = 0;
        self.grant = Some(max.min(PART_MIN));
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
        let now = Instant::now();
        if let Some(grant) = self.grant.take() {
            self.until = self.until.max(now + grant);
        }
        now >= self.until
    }
}
