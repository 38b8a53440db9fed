//! Which shard owns a Session: a keyed hash of its Client Identifier.

#![forbid(unsafe_code)]

use crate::key::ShardId;

/// The same on every shard of a broker.
#[derive(Clone, Debug)]
pub struct Placement {
    hasher: ahash::RandomState,
    shard_count: u16,
}

impl Placement {
    /// Placement over `shard_count` shards, keyed by `seed` so that nobody outside can choose
    /// identifiers that all land on one shard.
    #[must_use]
    pub fn new(shard_count: usize, seed: u64) -> Self {
        let hasher = ahash::RandomState::with_seeds(seed, 0x66, 0x61, 0x73);
        let shard_count = u16::try_from(shard_count).expect("at most SHARDS_MAX shards");
        assert!(shard_count > 0, "a broker has a shard");
        Self {
            hasher,
            shard_count,
        }
    }

    /// The shard that owns the Session of `client_identifier`.
    #[must_use]
    pub fn shard_of(&self, client_identifier: &str) -> ShardId {
        self.shard_of_bytes(client_identifier.as_bytes())
    }

    /// The shard that keeps what goes by the name `bytes`.
    #[must_use]
    pub fn shard_of_bytes(&self, bytes: &[u8]) -> ShardId {
        let hash = self.hasher.hash_one(bytes);
        ShardId((hash % u64::from(self.shard_count)) as u16)
    }
}
