//! Hashing that is keyed, so that Clients cannot choose collisions, and repeatable, so that a
//! simulation replays.

#![forbid(unsafe_code)]

use std::hash::{BuildHasher, Hasher};

/// An odd constant without structure: 2^64 divided by the golden ratio.
const ODD: u64 = 0x9E37_79B9_7F4A_7C15;

/// The keyed hash of one shard's router.
#[derive(Clone, Debug)]
pub(super) struct TopicHasher {
    state: ahash::RandomState,
}

impl TopicHasher {
    pub(super) fn new(seed: u64) -> Self {
        let mut key = seed;
        let mut next = || {
            key = key.wrapping_add(ODD);
            fold(key, 0xD6E8_FEB8_6659_FD93)
        };
        let state = ahash::RandomState::with_seeds(next(), next(), next(), next());
        Self { state }
    }

    /// For maps with other keys.
    pub(super) fn state(&self) -> &ahash::RandomState {
        &self.state
    }

    /// Of a whole topic, or of one level.
    #[inline]
    pub(super) fn bytes(&self, bytes: &[u8]) -> u64 {
        let mut hasher = self.state.build_hasher();
        hasher.write(bytes);
        hasher.finish()
    }
}

/// Of a level below a certain parent: the level is hashed once, however many parents are tried.
#[inline]
pub(super) fn below(parent: u32, level_hash: u64) -> u64 {
    fold(level_hash ^ u64::from(parent).wrapping_mul(ODD), ODD)
}

/// Of what `hash` is of, and `more`: for values that Clients do not choose.
#[inline]
pub(super) fn mixed(hash: u64, more: u64) -> u64 {
    fold(hash.rotate_left(32) ^ more, ODD)
}

#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    (product as u64) ^ ((product >> 64) as u64)
}
