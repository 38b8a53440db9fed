//! Topics seen lately and who wants them.
//!
//! A table of small sets: a topic can only be in the few slots of its set, so a hit looks at one or
//! two cache lines, and making room never sweeps the table. An entry that is out of date is rebuilt in its
//! own memory, so that in the steady state neither hits nor misses allocate.

#![forbid(unsafe_code)]

use super::generations::Generations;
use super::matches::Matches;
use std::rc::Rc;

/// Topics remembered at most.
pub(super) const CACHED_TOPICS_MAX: usize = 1 << 16;
/// Targets of all remembered topics together, at most (40 bytes each). Only a single topic with more
/// targets than this is remembered beyond it.
pub(super) const CACHED_TARGETS_MAX: usize = 1 << 20;
/// Slots a topic can be in.
const WAYS: usize = 4;
/// Slots of a new cache. It doubles when a topic finds no slot in a table that is half full.
const SLOTS_MIN: usize = 64;
/// Targets whose memory is kept when their slot goes to another topic.
const TARGETS_KEPT_MAX: usize = 64;

const _: () = assert!(CACHED_TOPICS_MAX.is_power_of_two() && SLOTS_MIN.is_power_of_two());
const _: () = assert!(SLOTS_MIN >= WAYS && SLOTS_MIN <= CACHED_TOPICS_MAX);

#[derive(Clone, Debug, Default)]
struct Slot {
    hash: u64,
    /// [`Generations::all`] when the matches were last known to be right; 0 for an empty slot.
    seen: u64,
    matches: Option<Rc<Matches>>,
}

/// Matches by topic.
#[derive(Debug, Default)]
pub(super) struct Cache {
    slots: Vec<Slot>,
    /// Slots in use.
    count: usize,
    /// Targets held by all of them.
    targets: usize,
    /// Which slot of a full set is given up next.
    victim: usize,
    /// Where the search for targets to give up goes on.
    hand: usize,
}

/// A slot whose topic is about to be known.
pub(super) struct Claim {
    index: usize,
    pub(super) matches: Rc<Matches>,
}

impl Cache {
    // HOT: per PUBLISH.
    #[inline]
    pub(super) fn get(
        &mut self,
        hash: u64,
        topic: &[u8],
        generations: &Generations,
    ) -> Option<Rc<Matches>> {
        let set = self.set_of(hash)?;
        let slots = &mut self.slots[set..set + WAYS];
        let slot = slots
            .iter_mut()
            .find(|slot| slot.hash == hash && slot.seen != 0)?;
        let matches = slot.matches.as_ref()?;
        if matches.topic != topic {
            return None;
        }
        if slot.seen != generations.all() {
            if generations.sum(&matches.buckets) != matches.generation {
                return None;
            }
            slot.seen = generations.all();
        }
        Some(Rc::clone(matches))
    }

    /// Makes room for a topic that [`Self::get`] did not find: an empty, unshared [`Matches`].
    pub(super) fn claim(&mut self, hash: u64) -> Claim {
        if self.slots.is_empty() {
            self.slots.resize_with(SLOTS_MIN, Slot::default);
        }
        let mut index = self.slot_for(hash);
        // A set that overflows while the table is well used means that more topics are in use.
        while self.slots[index].seen != 0
            && self.slots[index].hash != hash
            && self.slots.len() < CACHED_TOPICS_MAX
            && self.count * 2 > self.slots.len()
        {
            self.grow();
            index = self.slot_for(hash);
        }
        let same = self.slots[index].hash == hash;
        let mut matches = self.empty_slot(index).unwrap_or_default();
        // Whoever still works with the old matches keeps them.
        match Rc::get_mut(&mut matches) {
            Some(old) => {
                old.clear();
                if !same && old.targets.capacity() > TARGETS_KEPT_MAX {
                    old.targets = Vec::new();
                }
            }
            None => matches = Rc::default(),
        }
        self.slots[index].hash = hash;
        Claim { index, matches }
    }

    /// Remembers what was found.
    pub(super) fn put(&mut self, claim: Claim, generations: &Generations) -> Rc<Matches> {
        let Claim { index, matches } = claim;
        self.targets += matches.targets.len();
        self.count += 1;
        let slot = &mut self.slots[index];
        slot.seen = generations.all();
        slot.matches = Some(Rc::clone(&matches));
        if self.targets > CACHED_TARGETS_MAX {
            self.shrink(index);
        }
        matches
    }

    /// Topics remembered, and their targets.
    pub(super) const fn count(&self) -> (usize, usize) {
        (self.count, self.targets)
    }

    #[inline]
    fn set_of(&self, hash: u64) -> Option<usize> {
        (!self.slots.is_empty()).then(|| hash as usize & (self.slots.len() - 1) & !(WAYS - 1))
    }

    /// The slot for a topic: its own, an empty one, or one to give up.
    fn slot_for(&mut self, hash: u64) -> usize {
        let set = hash as usize & (self.slots.len() - 1) & !(WAYS - 1);
        let slots = &self.slots[set..set + WAYS];
        let own = slots
            .iter()
            .position(|slot| slot.seen != 0 && slot.hash == hash);
        let way = own.or_else(|| slots.iter().position(|slot| slot.seen == 0));
        set + way.unwrap_or_else(|| {
            self.victim = self.victim.wrapping_add(1);
            self.victim % WAYS
        })
    }

    fn empty_slot(&mut self, index: usize) -> Option<Rc<Matches>> {
        let slot = &mut self.slots[index];
        slot.seen = 0;
        let matches = slot.matches.take()?;
        self.count -= 1;
        self.targets -= matches.targets.len();
        Some(matches)
    }

    fn grow(&mut self) {
        let slots = self.slots.len() * 2;
        let old = std::mem::take(&mut self.slots);
        self.slots.resize_with(slots, Slot::default);
        for slot in old.into_iter().filter(|slot| slot.seen != 0) {
            // A set is split in two, so there is room for all of it.
            let index = self.slot_for(slot.hash);
            self.slots[index] = slot;
        }
    }

    /// Gives up topics with targets until there are few enough, but not the one at `keep`.
    fn shrink(&mut self, keep: usize) {
        for _ in 0..self.slots.len() {
            if self.targets <= CACHED_TARGETS_MAX {
                break;
            }
            self.hand = (self.hand + 1) & (self.slots.len() - 1);
            let has_targets = self.slots[self.hand]
                .matches
                .as_ref()
                .is_some_and(|it| !it.targets.is_empty());
            if self.hand != keep && has_targets {
                self.empty_slot(self.hand);
            }
        }
    }
}
