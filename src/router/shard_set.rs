//! Sets of shards.

#![forbid(unsafe_code)]

use crate::key::ShardId;
use crate::limits::SHARDS_MAX;

const WORDS: usize = SHARDS_MAX / 64;

const _: () = assert!(SHARDS_MAX.is_multiple_of(64));

/// A set of shards, one bit each.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct ShardSet {
    words: [u64; WORDS],
}

impl ShardSet {
    /// The set without shards.
    pub const EMPTY: Self = Self { words: [0; WORDS] };

    /// Adds `shard`; whether it was not there before.
    pub fn insert(&mut self, shard: ShardId) -> bool {
        let (word, bit) = position(shard);
        let added = self.words[word] & bit == 0;
        self.words[word] |= bit;
        added
    }

    /// Removes `shard`; whether it was there before.
    pub fn remove(&mut self, shard: ShardId) -> bool {
        let (word, bit) = position(shard);
        let removed = self.words[word] & bit != 0;
        self.words[word] &= !bit;
        removed
    }

    /// Whether `shard` is in the set.
    #[must_use]
    pub const fn contains(&self, shard: ShardId) -> bool {
        let (word, bit) = position(shard);
        self.words[word] & bit != 0
    }

    /// Whether no shard is in the set.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.words == [0; WORDS]
    }

    /// How many shards are in the set.
    #[must_use]
    pub fn count(&self) -> usize {
        self.words
            .iter()
            .map(|word| word.count_ones() as usize)
            .sum()
    }

    /// Adds all shards of `other`.
    pub fn extend(&mut self, other: &Self) {
        for (word, other) in self.words.iter_mut().zip(&other.words) {
            *word |= other;
        }
    }

    /// The shards, lowest first.
    pub fn iter(&self) -> impl Iterator<Item = ShardId> + use<> {
        let words = self.words;
        words.into_iter().enumerate().flat_map(|(index, mut word)| {
            std::iter::from_fn(move || {
                (word != 0).then(|| {
                    let bit = word.trailing_zeros() as usize;
                    word &= word - 1;
                    ShardId((index * 64 + bit) as u16)
                })
            })
        })
    }
}

impl FromIterator<ShardId> for ShardSet {
    fn from_iter<I: IntoIterator<Item = ShardId>>(shards: I) -> Self {
        let mut set = Self::EMPTY;
        shards.into_iter().for_each(|shard| {
            set.insert(shard);
        });
        set
    }
}

const fn position(shard: ShardId) -> (usize, u64) {
    (shard.index() / 64, 1 << (shard.index() % 64))
}

/// A [`ShardSet`] that is kept a million times over: small as long as only shards below 64 are in it.
#[derive(Debug, Default)]
pub(super) struct PackedShardSet {
    low: u64,
    high: Option<Box<[u64; WORDS - 1]>>,
}

impl PackedShardSet {
    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.low == 0 && self.high.is_none()
    }

    /// Adds or removes `shard`; whether that changed anything.
    pub(super) fn set(&mut self, shard: ShardId, wanted: bool) -> bool {
        let (word, bit) = position(shard);
        let changes = |word: &mut u64| {
            let before = *word;
            *word = if wanted { before | bit } else { before & !bit };
            before != *word
        };
        if word == 0 {
            return changes(&mut self.low);
        }
        if self.high.is_none() && !wanted {
            return false;
        }
        let high = self.high.get_or_insert_default();
        let changed = changes(&mut high[word - 1]);
        if **high == [0; WORDS - 1] {
            self.high = None;
        }
        changed
    }

    #[inline]
    pub(super) fn add_to(&self, set: &mut ShardSet) {
        set.words[0] |= self.low;
        if let Some(high) = &self.high {
            for (word, high) in set.words[1..].iter_mut().zip(high.iter()) {
                *word |= high;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{PackedShardSet, ShardSet};
    use crate::key::ShardId;

    #[test]
    fn both_sets_hold_what_was_put_in() {
        let mut set = ShardSet::default();
        let mut packed = PackedShardSet::default();
        assert!(set.is_empty() && packed.is_empty());
        for shard in [0, 5, 63, 64, 128, 255].map(ShardId) {
            assert!(set.insert(shard) && packed.set(shard, true));
            assert!(!set.insert(shard) && !packed.set(shard, true));
        }
        assert_eq!(
            set.iter().map(|shard| shard.0).collect::<Vec<_>>(),
            [0, 5, 63, 64, 128, 255]
        );
        let mut unpacked = ShardSet::EMPTY;
        packed.add_to(&mut unpacked);
        assert_eq!(unpacked, set);
        assert_eq!(set.count(), 6);
        assert!(set.contains(ShardId(255)) && !set.contains(ShardId(254)));
        for shard in set.iter() {
            assert!(set.remove(shard) && packed.set(shard, false));
            assert!(!set.remove(shard) && !packed.set(shard, false));
        }
        assert!(set.is_empty() && packed.is_empty());
    }
}
