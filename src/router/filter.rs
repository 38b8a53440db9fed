//! One interned Topic Filter and everybody who wants it.

#![forbid(unsafe_code)]

use super::shard_set::PackedShardSet;
use super::shared::Shared;
use super::slab::NONE;
use super::subscribers::Subscribers;
use super::trie::Place;
use std::sync::Arc;

/// An interned Topic Filter, `$share/ShareName/` and all, for as long as anybody here or on another
/// shard wants it. After that the key may come to mean another filter.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct FilterKey(pub u32);

/// Row of the table of filters.
#[derive(Debug)]
pub(super) struct Filter {
    pub(super) text: Arc<[u8]>,
    pub(super) place: Place,
    /// Neighbours in the list of filters that end at the same place.
    pub(super) next: u32,
    pub(super) previous: u32,
    /// Counter to bump when something changes.
    pub(super) bucket: u16,
    pub(super) wanted: Wanted,
}

/// Who wants a filter.
#[derive(Debug)]
pub(super) enum Wanted {
    /// Every subscriber here, and these other shards.
    Plain {
        subscribers: Subscribers,
        shards: PackedShardSet,
    },
    /// One member of the group.
    Shared(Box<Shared>),
}

const _: () = assert!(size_of::<Filter>() <= 88);

impl Wanted {
    pub(super) fn is_empty(&self) -> bool {
        match self {
            Self::Plain {
                subscribers,
                shards,
            } => subscribers.is_empty() && shards.is_empty(),
            Self::Shared(shared) => shared.is_empty(),
        }
    }

    pub(super) fn shared_mut(&mut self) -> Option<&mut Shared> {
        match self {
            Self::Plain { .. } => None,
            Self::Shared(shared) => Some(shared),
        }
    }
}

impl Default for Filter {
    fn default() -> Self {
        Self {
            text: Arc::default(),
            place: Place::default(),
            next: NONE,
            previous: NONE,
            bucket: 0,
            wanted: Wanted::Plain {
                subscribers: Subscribers::default(),
                shards: PackedShardSet::default(),
            },
        }
    }
}
