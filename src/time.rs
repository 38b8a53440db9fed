//! Time as the pure core sees it: a number that somebody hands in.
//!
//! The core reads no clock. Every `handle_*` call takes `now`, the simulator owns one clock for all
//! shards, and `runtime` hands in one reading of the monotonic clock a turn.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::ops::{Add, Sub};
use std::time::Duration;

/// Nanoseconds since a fixed, unspecified start. Never runs backwards between two calls on one shard.
///
/// One more than that is kept, so that an `Option` of it needs no tag: Sessions hold several.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Instant(NonZeroU64);

const _: () = assert!(size_of::<Option<Instant>>() == 8);

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Instant {
    /// The start of time: what a simulation begins at.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The instant `nanos` nanoseconds after the start.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// Nanoseconds since the start.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Time since `earlier`, zero if `earlier` is later.
    #[must_use]
    pub const fn saturating_duration_since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
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
        let nanos = self.0.get().saturating_sub(now.0.get());
        nanos.div_ceil(1_000_000_000)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nanoseconds_come_back_as_they_were_and_the_far_end_of_time_stays_there() {
        for nanos in [0, 1, 1_000_000_000, u64::MAX - 1] {
            assert_eq!(Instant::from_nanos(nanos).as_nanos(), nanos);
        }
        let end = Instant::from_nanos(u64::MAX);
        assert_eq!(end, Instant::ZERO.add_seconds(u64::MAX));
        assert_eq!(end, end + Duration::from_secs(1));
        assert!(Instant::from_nanos(u64::MAX - 2) < end);
        assert_eq!(
            Instant::from_nanos(7) - Instant::ZERO,
            Duration::from_nanos(7)
        );
    }
}
