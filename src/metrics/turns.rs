//! How long a shard's turns take.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Buckets of [`Turns`]: the last holds everything longer than those before it.
pub const TURN_BUCKETS: usize = 16;

/// A histogram of what turns took: what another packet may have waited for. Bucket `n` holds turns of up
/// to 2^n times 16 microseconds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Turns {
    /// Turns in each bucket.
    pub buckets: [u64; TURN_BUCKETS],
    /// All of them together, in nanoseconds.
    pub busy_ns: u64,
}

const FIRST_NS: u64 = 16_000;

impl Turns {
    /// These and `others`.
    #[must_use]
    pub fn plus(mut self, others: &Self) -> Self {
        for (sum, count) in self.buckets.iter_mut().zip(others.buckets) {
            *sum += count;
        }
        self.busy_ns += others.busy_ns;
        self
    }

    /// One turn has taken `time`.
    // HOT: per turn.
    pub fn record(&mut self, time: Duration) {
        let ns = u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        self.busy_ns = self.busy_ns.saturating_add(ns);
        let bits = u64::BITS - (ns.saturating_sub(1) / FIRST_NS).leading_zeros();
        let index = (bits as usize).min(TURN_BUCKETS - 1);
        self.buckets[index] += 1;
    }

    /// The upper bound of bucket `index`; `None` for the last, which has none.
    #[must_use]
    pub fn upper_bound(index: usize) -> Option<Duration> {
        (index + 1 < TURN_BUCKETS).then(|| Duration::from_nanos(FIRST_NS << index))
    }

    /// How many there were.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_turn_is_counted_in_the_first_bucket_that_holds_it() {
        for index in 0..TURN_BUCKETS - 1 {
            let bound = Turns::upper_bound(index).unwrap();
            for (time, expected) in [(bound, index), (bound + Duration::from_nanos(1), index + 1)] {
                let mut turns = Turns::default();
                turns.record(time);
                assert_eq!(turns.buckets[expected], 1, "{time:?}: {turns:?}");
            }
        }
        let mut turns = Turns::default();
        turns.record(Duration::MAX);
        turns.record(Duration::ZERO);
        assert_eq!((turns.buckets[0], turns.buckets[TURN_BUCKETS - 1]), (1, 1));
        assert_eq!(turns.count(), 2);
        assert_eq!(Turns::upper_bound(TURN_BUCKETS - 1), None);
    }
}
