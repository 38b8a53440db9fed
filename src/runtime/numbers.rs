//! How all shards are doing, for the threads beside them.

#![forbid(unsafe_code)]

use crate::key::ShardId;
use crate::metrics::{Slot, Snapshot, Talkers};
use crate::net::Waker;
use std::sync::Arc;

/// The numbers of all shards. Clones show the same.
#[derive(Clone, Debug)]
pub struct Numbers {
    slots: Arc<[Arc<Slot>]>,
    wakers: Arc<[Waker]>,
}

impl Numbers {
    pub(crate) fn new(wakers: Arc<[Waker]>) -> Self {
        Self {
            slots: wakers.iter().map(|_| Arc::default()).collect(),
            wakers,
        }
    }

    pub(crate) fn slot(&self, shard: ShardId) -> Arc<Slot> {
        self.slots[shard.index()].clone()
    }

    /// How many shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.slots.len()
    }

    /// Wants new numbers of every shard, which a shard that is well shows within its next turn.
    pub fn ask(&self) {
        for (slot, waker) in self.slots.iter().zip(&*self.wakers) {
            // A shard that has not answered yet is awake, or beyond waking.
            if !slot.is_asked() {
                slot.ask();
                waker.wake();
            }
        }
    }

    /// What each shard has last shown, and whether that answers the last question.
    pub fn read(&self) -> impl Iterator<Item = (Snapshot, bool)> + '_ {
        self.slots
            .iter()
            .map(|slot| (slot.read(), !slot.is_asked()))
    }

    /// Who talks most on each shard, if it has said so since this was last asked.
    pub fn take_talkers(&self) -> impl Iterator<Item = Option<Talkers>> + '_ {
        self.slots.iter().map(|slot| slot.take_talkers())
    }
}
