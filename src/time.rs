//! Time as the pure core sees it: a number that somebody hands in.
//!
//! The core reads no clock. Every `handle_*` call takes `now`, the simulator owns one clock for all
//! shards, and `runtime` reads the monotonic clock once a turn.

#![forbid(unsafe_code)]

use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since a fixed, unspecified start. Never runs backwards between two calls on one shard.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(u64);

impl Instant {
    /// The start of time: what a simulation begins at.
    pub const ZERO: Self = Self(0);

    /// The instant `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Time since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }

    /// This instant `seconds` later, at the far end of time if that cannot be represented.
    #[must_use]
    pub const fn add_seconds(self, seconds: u64) -> Self {
        Self(self.0.saturating_add(seconds.saturating_mul(1_000_000_000)))
    }

    /// Whole seconds from `now` to this instant, rounded up; zero once it has passed.
    ///
    /// Rounding up keeps a Message Expiry Interval that has just been received unchanged when it is
    /// forwarded in the same second.
    #[must_use]
    pub const fn seconds_from(self, now: Self) -> u64 {
        self.0.saturating_sub(now.0).div_ceil(1_000_000_000)
    }
}

impl Add<Duration> for Instant {
    type Output = Self;
    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub for Instant {
    type Output = Duration;
    fn sub(self, earlier: Self) -> Duration {
        self.saturating_duration_since(earlier)
    }
}
