//! The Sessions of this shard that subscribed to one filter.

#![forbid(unsafe_code)]

use crate::codec::SubscriptionOptions;
use crate::id_table::IdTable;
use crate::key::SessionKey;
use smallvec::SmallVec;
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

/// Places in a list by the Session that is there.
#[derive(Debug)]
struct Index {
    places: IdTable,
    hasher: ahash::RandomState,
}

impl Index {
    fn hash_of(&self, session: SessionKey) -> u32 {
        self.hasher.hash_one(session) as u32
    }

    fn insert(&mut self, session: SessionKey, place: usize) {
        self.places.insert(self.hash_of(session), place as u32);
    }

    fn remove(&mut self, session: SessionKey, place: usize) {
        self.places.remove(self.hash_of(session), place as u32);
    }

    fn find(&self, session: SessionKey, list: &[Subscriber]) -> Option<usize> {
        let is_it = |place| list[place as usize].session == session;
        let place = self.places.find(self.hash_of(session), is_it)?;
        Some(place as usize)
    }
}

/// Subscribers in no particular but repeatable order. One of them, as most filters have, needs no
/// allocation; many are found through an index.
#[derive(Debug, Default)]
pub(super) struct Subscribers {
    list: SmallVec<[Subscriber; 1]>,
    /// Behind a pointer: a million filters have none.
    index: Option<Box<Index>>,
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
            Some(index) => index.find(session, &self.list),
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
            index.insert(subscriber.session, position);
        } else if self.list.len() > SEARCH_MAX {
            let mut index = Box::new(Index {
                places: IdTable::default(),
                hasher: state.clone(),
            });
            for (place, subscriber) in self.list.iter().enumerate() {
                index.insert(subscriber.session, place);
            }
            self.index = Some(index);
        }
    }

    /// Replaces the subscription at `position` with another of the same Session; whether they differ.
    pub(super) fn replace(&mut self, position: usize, subscriber: Subscriber) -> bool {
        assert_eq!(self.list[position].session, subscriber.session);
        std::mem::replace(&mut self.list[position], subscriber) != subscriber
    }

    pub(super) fn swap(&mut self, a: usize, b: usize) {
        if a == b {
            return;
        }
        self.list.swap(a, b);
        if let Some(index) = &mut self.index {
            for (place, before) in [(a, b), (b, a)] {
                index.remove(self.list[place].session, before);
            }
            for place in [a, b] {
                index.insert(self.list[place].session, place);
            }
        }
    }

    /// Removes the subscriber at `position`; the last one takes its place.
    pub(super) fn swap_remove(&mut self, position: usize) -> Subscriber {
        let removed = self.list.swap_remove(position);
        if let Some(index) = &mut self.index {
            index.remove(removed.session, position);
            if let Some(moved) = self.list.get(position) {
                index.remove(moved.session, self.list.len());
                index.insert(moved.session, position);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QoS;
    use proptest::prelude::*;

    fn subscriber(index: u32) -> Subscriber {
        Subscriber {
            session: SessionKey {
                index,
                generation: 7,
            },
            identifier: None,
            options: SubscriptionOptions::new(QoS::AtMostOnce),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Up to some hundred at a time, so that the index comes, grows, shrinks and goes.
        #[test]
        fn each_session_is_found_where_it_is_whatever_comes_goes_and_changes_places(
            steps in proptest::collection::vec((0..4_u8, 0..200_u32), 0..1500),
        ) {
            let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
            let mut subscribers = Subscribers::default();
            for (kind, number) in steps {
                let session = subscriber(number).session;
                match (kind, subscribers.position(session)) {
                    (0 | 1, None) => subscribers.push(subscriber(number), &state),
                    (2, Some(position)) => {
                        prop_assert_eq!(subscribers.swap_remove(position).session, session);
                    }
                    (3, Some(position)) => {
                        let other = number as usize % subscribers.len();
                        subscribers.swap(position, other);
                        prop_assert_eq!(subscribers.position(session), Some(other));
                    }
                    _ => {}
                }
                if subscribers.len() > SEARCH_MAX {
                    prop_assert!(subscribers.index.is_some());
                }
            }
            for (place, subscriber) in subscribers.as_slice().iter().enumerate() {
                prop_assert_eq!(subscribers.position(subscriber.session), Some(place));
            }
            for number in 0..200 {
                let session = subscriber(number).session;
                let is_there = subscribers.as_slice().iter().any(|it| it.session == session);
                prop_assert_eq!(subscribers.position(session).is_some(), is_there);
            }
        }
    }
}
