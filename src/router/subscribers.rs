//! The Sessions of this shard that subscribed to one filter.

#![forbid(unsafe_code)]

use crate::codec::SubscriptionOptions;
use crate::key::SessionKey;
use smallvec::SmallVec;
use std::collections::HashMap;
use std::num::NonZeroU32;

/// Subscribers up to which a list is searched from end to end.
const SEARCH_MAX: usize = 32;

/// One Session's subscription to one filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Subscriber {
    pub(super) session: SessionKey,
    pub(super) identifier: Option<NonZeroU32>,
    pub(super) options: SubscriptionOptions,
}

const _: () = assert!(size_of::<Subscriber>() == 16);

/// Subscribers in no particular but repeatable order. One of them, as most filters have, needs no
/// allocation; many are found through an index.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    list: SmallVec<[Subscriber; 1]>,
    #[expect(
        clippy::box_collection,
        reason = "a million filters have no index: 8 bytes instead of 64"
    )]
    index: Option<Box<HashMap<SessionKey, u32, ahash::RandomState>>>,
}

impl Subscribers {
    pub(super) fn as_slice(&self) -> &[Subscriber] {
        &self.list
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(super) fn position(&self, session: SessionKey) -> Option<usize> {
        match &self.index {
            Some(index) => index.get(&session).map(|&position| position as usize),
            None => self
                .list
                .iter()
                .position(|subscriber| subscriber.session == session),
        }
    }

    /// Adds a Session that is not in the list, at the end.
    pub(super) fn push(&mut self, subscriber: Subscriber, state: &ahash::RandomState) {
        let position = self.list.len();
        self.list.push(subscriber);
        if let Some(index) = &mut self.index {
            index.insert(subscriber.session, position as u32);
        } else if self.list.len() > SEARCH_MAX {
            let mut index = HashMap::with_hasher(state.clone());
            index.extend(
                self.list
                    .iter()
                    .zip(0..)
                    .map(|(it, position)| (it.session, position)),
            );
            self.index = Some(Box::new(index));
        }
    }

    /// Replaces the subscription at `position` with another of the same Session; whether they differ.
    pub(super) fn replace(&mut self, position: usize, subscriber: Subscriber) -> bool {
        assert_eq!(self.list[position].session, subscriber.session);
        std::mem::replace(&mut self.list[position], subscriber) != subscriber
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        self.list.swap(a, b);
        if let Some(index) = &mut self.index {
            index.insert(self.list[a].session, a as u32);
            index.insert(self.list[b].session, b as u32);
        }
    }

    /// Removes the subscriber at `position`; the last one takes its place.
    pub(super) fn swap_remove(&mut self, position: usize) -> Subscriber {
        let removed = self.list.swap_remove(position);
        if let Some(index) = &mut self.index {
            index.remove(&removed.session);
            if let Some(moved) = self.list.get(position) {
                index.insert(moved.session, position as u32);
            }
            if self.list.len() <= SEARCH_MAX / 2 {
                self.index = None;
            }
        }
        // A crowd that left gives its memory back.
        if self.list.spilled() && self.list.len() * 4 < self.list.capacity() {
            self.list.shrink_to_fit();
        }
        removed
    }
}
