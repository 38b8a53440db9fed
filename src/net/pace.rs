//! How long a shard works on one thing before it looks at the others again.
//!
//! Whoever sends something waits for what the shard does just then. So what arrived is not handled to its end
//! before anything is sent: each part of a turn ends when its time is over, and goes on in the next turn from
//! where it was. What one packet costs is not cut.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What a part of a turn takes at most, beside the last thing that it began.
///
/// Two hundred connections in one send each cost as much as this, so what is lost by not collecting more
/// before sending is little.
pub(super) const PART_MAX: Duration = Duration::from_micros(300);
/// Bytes given to the core at once, and what may pass between two looks at the clock.
pub(super) const SLICE_SIZE: usize = 4096;
/// What else happens counts as so many bytes.
pub(super) const EVENT_WEIGHT: usize = SLICE_SIZE / 8;

/// The time of one part of a turn.
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

    /// A part begins that may take so long.
    pub(super) fn begin(&mut self, max: Duration) {
        self.until = Instant::now() + max;
        self.weight = 0;
    }

    /// Something of this weight was done. Tells whether the part is to end.
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
