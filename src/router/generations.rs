//! Which remembered matches are still right, without knowing who remembers what.
//!
//! A change to a filter bumps one counter, chosen by the literal levels the filter begins with, at
//! most [`PREFIX_LEVELS_MAX`] of them. A topic depends on the counters of its own first levels: a
//! filter that matches it begins with some of them. So a subscription to `home/12/#` leaves what is
//! remembered of `home/13/light` alone, and one to `#` or `+/x` drops everything.

#![forbid(unsafe_code)]

use super::hash::{TopicHasher, below};
use crate::topic::Levels;

/// Literal levels of a filter that choose its counter.
const PREFIX_LEVELS_MAX: usize = 3;
/// The counter of filters that begin with a wildcard.
pub(super) const FIRST: u16 = 0;
/// Counters. Two prefixes that share one only drop more than needed.
const BUCKETS: usize = 4096;

const _: () = assert!(BUCKETS.is_power_of_two() && BUCKETS <= u16::MAX as usize + 1);

/// The counters one topic depends on.
///
/// Beside these, all topics depend on the first one, of filters that begin with a wildcard.
pub(super) type Buckets = [u16; PREFIX_LEVELS_MAX];

/// Counters of changes to filters.
#[derive(Debug)]
pub(super) struct Generations {
    /// Of all changes: as long as it stands still, so do all others.
    all: u64,
    buckets: Vec<u64>,
}

impl Generations {
    pub(super) fn new() -> Self {
        Self {
            all: 1,
            buckets: vec![0; BUCKETS],
        }
    }

    /// Changes so far.
    #[inline]
    pub(super) const fn all(&self) -> u64 {
        self.all
    }

    pub(super) fn bump(&mut self, bucket: u16) {
        self.all += 1;
        self.buckets[usize::from(bucket)] += 1;
    }

    /// One counter.
    #[inline]
    pub(super) fn of(&self, bucket: u16) -> u64 {
        self.buckets[usize::from(bucket)]
    }

    /// The counters together: they only grow, so the same sum means that none of them moved.
    #[inline]
    pub(super) fn sum(&self, buckets: &Buckets) -> u64 {
        let own = buckets.iter().map(|&bucket| self.of(bucket));
        own.fold(self.of(FIRST), |sum, counter| sum + counter)
    }
}

/// The counter that changes of a filter bump.
pub(super) fn bucket_of_filter(hasher: &TopicHasher, levels: Levels<'_>) -> u16 {
    levels
        .take_while(|level| !matches!(*level, b"+" | b"#"))
        .take(PREFIX_LEVELS_MAX)
        .fold(FIRST, |bucket, level| longer(hasher, bucket, level))
}

/// The counters that a topic depends on. A short topic depends on its last one more than once, which
/// does no harm.
pub(super) fn buckets_of_topic(hasher: &TopicHasher, mut levels: Levels<'_>) -> Buckets {
    let mut bucket = FIRST;
    std::array::from_fn(|_| {
        if let Some(level) = levels.next() {
            bucket = longer(hasher, bucket, level);
        }
        bucket
    })
}

/// The counter of a prefix that is one level longer.
fn longer(hasher: &TopicHasher, bucket: u16, level: &[u8]) -> u16 {
    below(u32::from(bucket), hasher.bytes(level)) as u16 & (BUCKETS - 1) as u16
}
