//! Who wants a topic is who wants another one that the same filters match: kept once for both.
//!
//! A place for each hash of filters that matched together. It holds matches only as long as some topic is
//! remembered with them, and takes them in when their filters are met for a second time, so that topics with
//! filters of their own pass by and leave it as it is.

#![forbid(unsafe_code)]

use super::generations::Generations;
use super::hash::mixed;
use super::matches::Matches;
use std::rc::Rc;

/// Places of a new table, and at most.
const PLACES_MIN: usize = 8;
const PLACES_MAX: usize = 1 << 12;
/// Filters that are compared at most.
const FILTERS_MAX: usize = 16;
/// [`Matches::changes`] of matches that are not compared.
const NEVER: u64 = u64::MAX;

const _: () = assert!(PLACES_MIN.is_power_of_two() && PLACES_MAX.is_power_of_two());

/// A filter that matched: its id, and its counter in [`Generations`]. An id may come to mean another filter,
/// but not unnoticed: the counter of one that ends moves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Origin(u64);

impl Origin {
    #[inline]
    pub(super) const fn new(filter: u32, bucket: u16) -> Self {
        Self((bucket as u64) << 32 | filter as u64)
    }

    #[inline]
    pub(super) const fn filter(self) -> u32 {
        self.0 as u32
    }

    #[inline]
    const fn bucket(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

/// Filters that matched a topic, in the order they were found.
#[derive(Debug, Default)]
pub(super) struct Origins {
    pub(super) list: Vec<Origin>,
    hash: u64,
    /// Their counters together: they only grow, so the same sum means that none of them moved.
    changes: u64,
}

impl Origins {
    pub(super) fn clear(&mut self) {
        self.list.clear();
    }

    #[inline]
    pub(super) fn push(&mut self, origin: Origin) {
        self.list.push(origin);
    }

    /// To be called once all are there.
    pub(super) fn sum_up(&mut self, generations: &Generations) {
        (self.hash, self.changes) = (0, 0);
        for origin in &self.list {
            self.hash = mixed(self.hash, origin.0);
            self.changes += generations.of(origin.bucket());
        }
    }

    /// Writes down what `matches` were made of. What only some topics of these filters have is not compared.
    pub(super) fn write_to(&self, matches: &mut Matches, complete: bool) {
        matches.made_of.clear();
        matches.changes = NEVER;
        if complete && self.list.len() <= FILTERS_MAX {
            matches.made_of.extend_from_slice(&self.list);
            matches.changes = self.changes;
        }
    }

    /// Whether `matches` are of just these filters as they are now.
    #[inline]
    pub(super) fn made(&self, matches: &Matches) -> bool {
        self.changes == matches.changes && self.list[..] == matches.made_of[..]
    }
}

#[derive(Debug, Default)]
struct Place {
    /// Hash of the filters that were met last.
    met: u64,
    matches: Option<Rc<Matches>>,
}

/// Matches by the filters they were made of.
#[derive(Debug, Default)]
pub(super) struct Alike {
    places: Vec<Place>,
}

impl Alike {
    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.places.capacity() * size_of::<Place>()
    }

    /// Makes room in proportion to the sets of the cache.
    pub(super) fn grow(&mut self, sets: usize) {
        let wanted = sets.clamp(PLACES_MIN, PLACES_MAX);
        if self.places.len() * 2 <= wanted {
            // What was there is found again soon.
            self.places.clear();
            self.places
                .resize_with(wanted.next_power_of_two(), Place::default);
        }
    }

    pub(super) fn find(&self, origins: &Origins) -> Option<&Rc<Matches>> {
        let place = self.places.get(self.index(origins))?;
        place.matches.as_ref().filter(|it| origins.made(it))
    }

    /// Takes in `matches` made of `origins`, if those have been met before.
    pub(super) fn offer(&mut self, origins: &Origins, matches: &mut Rc<Matches>) {
        let index = self.index(origins);
        let Some(place) = self.places.get_mut(index) else {
            return;
        };
        if place.met != origins.hash {
            place.met = origins.hash;
        } else if matches.changes != NEVER
            && let Some(new) = Rc::get_mut(matches)
        {
            new.place = index as u32;
            place.matches = Some(Rc::clone(matches));
        }
    }

    /// Lets go of what nobody remembers any more.
    pub(super) fn forget(&mut self, matches: &Rc<Matches>) {
        if let Some(place) = self.places.get_mut(matches.place as usize) {
            place.matches.take_if(|it| Rc::ptr_eq(it, matches));
        }
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Rc<Matches>> {
        self.places.iter().filter_map(|it| it.matches.as_ref())
    }

    #[inline]
    fn index(&self, origins: &Origins) -> usize {
        origins.hash as usize & self.places.len().wrapping_sub(1)
    }
}
