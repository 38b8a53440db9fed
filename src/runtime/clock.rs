//! The monotonic clock, as the core counts it.

#![forbid(unsafe_code)]

use crate::time::Instant;

/// Where this process's time starts. One for all shards: an expiry goes from shard to shard.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    start: std::time::Instant,
}

impl Clock {
    /// Starts now.
    #[must_use]
    pub fn start() -> Self {
        Self {
            start: std::time::Instant::now(),
        }
    }

    /// Milliseconds from 1970 to the start.
    #[must_use]
    pub fn start_ms(self) -> u64 {
        let now = std::time::SystemTime::now();
        let since = now.duration_since(std::time::UNIX_EPOCH);
        let ms = since
            .unwrap_or_default()
            .saturating_sub(self.start.elapsed());
        u64::try_from(ms.as_millis()).unwrap_or(u64::MAX)
    }

    pub(super) fn now(self) -> Instant {
        self.at(std::time::Instant::now())
    }

    /// What the core calls `moment`.
    pub(super) fn at(self, moment: std::time::Instant) -> Instant {
        Instant::ZERO + moment.saturating_duration_since(self.start)
    }
}
