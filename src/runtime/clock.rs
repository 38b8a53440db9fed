//! The monotonic clock, as the core counts it.

#![forbid(unsafe_code)]

use crate::time::Instant;

/// Where this process's time starts. One for all shards: an expiry goes from shard to shard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    start: std::time::Instant,
}

impl Clock {
    pub(super) fn start() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }

    pub(super) fn now(self) -> Instant {
        Instant::ZERO + self.start.elapsed()
    }
}
