//! Topics seen lately and who wants them.
//!
//! A table of small sets: a topic can only be in the few slots of its set, which are one cache line, and
//! making room never sweeps the table. What is known of a topic is one more line, with its text if that is
//! short; who wants it is kept once for all topics that the same filters match (`alike.rs`). So with more
//! topics than a cache of the machine holds, a hit waits for two places in memory. An entry that is out of
//! date is brought up to date in its own memory, so that in the steady state neither hits nor misses allocate.
//!
//! It begins small and grows by splitting a few sets at a time (linear hashing), so that nobody waits for it.

#![forbid(unsafe_code)]

use super::alike::{Alike, Origins};
use super::generations::{Buckets, Generations};
use super::matches::Matches;
use super::text::Text;
use std::num::NonZeroU64;
use std::rc::Rc;

/// Sets at most.
const SETS_MAX: usize = 1 << 15;
/// Topics remembered at most, with their sets 73 bytes each, if their text is short.
pub(super) const CACHED_TOPICS_MAX: usize = SETS_MAX * WAYS;
/// Bytes of what they have beyond that at most, which is long texts and matches: 144 bytes, and 40 for each
/// target. Only the matches of a single topic that are larger than this are remembered beyond it.
pub(super) const CACHED_HEAP_MAX: usize = 46 << 20;
/// Slots a topic can be in.
const WAYS: usize = 7;
/// Sets of a new cache.
const SETS_MIN: usize = 8;
/// Sets that may still be moved when their number doubles. Beyond them there is room for all at once, of which only
/// what is used is in memory.
const SETS_MOVED_MAX: usize = 1 << 9;
/// Sets that are split when one overflows.
const SPLIT_COUNT: usize = 4;
/// A full set that cannot be split takes in one of so many topics. Those that come in turns, and are more than
/// there is room for, would otherwise push each other out before they come again.
const REFUSALS: u32 = 4;
/// Topics that are looked at, at least, when there is too much of what they have.
const SWEEP_MIN: usize = 16;
/// Targets of which others that have the same are not looked at, when there is too much.
const FEW: usize = 4;
/// Targets whose memory is kept for other matches.
const TARGETS_KEPT_MAX: usize = 64;
/// In the place of what is of the hash in a slot that has no topic.
const EMPTY: u8 = 0;

const _: () = assert!(SETS_MIN.is_power_of_two() && SETS_MAX.is_power_of_two());
const _: () = assert!(SETS_MAX <= 1 << u16::BITS);
/// All of it, for one shard.
const _: () = assert!(
    SETS_MAX * size_of::<Set>() + CACHED_TOPICS_MAX * size_of::<Known>() + CACHED_HEAP_MAX
        <= 64 << 20
);
const _: () = assert!(size_of::<Set>() == 64 && size_of::<Known>() == 64);

/// What is known of one topic.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Known {
    /// [`Generations::all`] when the matches were last known to be right.
    seen: u64,
    /// Counters of [`Generations`] that say whether they are still right.
    generation: u64,
    buckets: Buckets,
    /// Low bits of its hash, which say where it goes when its set is split.
    low: u16,
    matches: Option<Rc<Matches>>,
    topic: Text,
}

/// Slots that are looked at together.
#[derive(Debug, Default)]
#[repr(align(64))]
struct Set {
    known: [Option<Box<Known>>; WAYS],
    /// A byte of the hash of each topic, the first one lowest; 0 for an empty slot.
    prints: u64,
}

impl Set {
    /// The slots that have `print`, and perhaps one that does not behind one that does.
    #[inline]
    const fn ways(&self, print: u8) -> Ways {
        const EACH: u64 = 0x0001_0101_0101_0101;
        let differ = self.prints ^ (print as u64 * EACH);
        // The top bit of each byte that is zero.
        Ways(differ.wrapping_sub(EACH) & !differ & EACH << 7)
    }

    const fn set_print(&mut self, way: usize, print: u8) {
        let shift = 8 * way as u32;
        self.prints = self.prints & !(0xFF << shift) | (print as u64) << shift;
    }
}

impl Set {
    #[inline]
    fn get(&mut self, hash: u64, topic: &[u8], generations: &Generations) -> Option<Rc<Matches>> {
        // Behind all of them where there is none.
        let way = self.ways(print_of(hash)).0.trailing_zeros() as usize / 8;
        let known = self.known.get_mut(way)?.as_mut()?;
        if !known.topic.is(topic) {
            return None;
        }
        if known.seen != generations.all() && !known.check(generations) {
            return None;
        }
        known.matches.clone()
    }
}

impl Known {
    /// Whether the matches are right after some filters have changed.
    #[inline(never)]
    fn check(&mut self, generations: &Generations) -> bool {
        let is_right = generations.sum(&self.buckets) == self.generation;
        if is_right {
            self.seen = generations.all();
        }
        is_right
    }
}

struct Ways(u64);

impl Iterator for Ways {
    type Item = usize;

    #[inline]
    fn next(&mut self) -> Option<usize> {
        let ways = NonZeroU64::new(self.0)?;
        self.0 &= self.0 - 1;
        Some(ways.trailing_zeros() as usize / 8)
    }
}

/// Where a topic is, or is going to be.
#[derive(Clone, Copy, Debug)]
pub(super) enum Spot {
    /// It is there already.
    Own(Slot),
    /// An empty slot, or one that another topic has to leave.
    New(Slot),
    /// It is not going to be remembered.
    Nowhere,
}

/// A place in a set.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Slot {
    set: usize,
    way: usize,
}

/// Matches by topic.
#[derive(Debug)]
pub(super) struct Cache {
    /// A power of two, and as many behind them as have been split since.
    sets: Vec<Set>,
    /// Bits of a hash that say the set, if it has been split.
    mask: usize,
    /// Slots in use.
    count: usize,
    alike: Alike,
    /// Bytes of long topics and of matches.
    heap: usize,
    /// Times that a full set was met.
    overflows: u32,
    /// Where the search for topics to give up goes on.
    hand: usize,
    /// Memory for matches to be looked for.
    spare: Option<Rc<Matches>>,
    sets_max: usize,
    heap_max: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::with_bounds(SETS_MAX, CACHED_HEAP_MAX)
    }
}

impl Cache {
    pub(super) fn with_bounds(sets_max: usize, heap_max: usize) -> Self {
        Self {
            sets: Vec::new(),
            mask: 0,
            count: 0,
            alike: Alike::default(),
            heap: 0,
            overflows: 0,
            hand: 0,
            spare: None,
            sets_max,
            heap_max,
        }
    }

    /// What is remembered of a topic and right, but for few that another topic is in the way of:
    /// [`Self::get_at`] has those.
    // HOT: per PUBLISH.
    #[inline]
    pub(super) fn get(
        &mut self,
        hash: u64,
        topic: &[u8],
        generations: &Generations,
    ) -> Option<Rc<Matches>> {
        // Most sets are where all bits of the mask say.
        let set = match self.sets.get_mut(hash as usize & self.mask) {
            Some(set) => set,
            None => return self.get_unsplit(hash, topic, generations),
        };
        set.get(hash, topic, generations)
    }

    /// As [`Self::get`], of a set that is not split yet, or of a table without sets.
    #[inline(never)]
    fn get_unsplit(
        &mut self,
        hash: u64,
        topic: &[u8],
        generations: &Generations,
    ) -> Option<Rc<Matches>> {
        let set = self.set_of(hash);
        self.sets.get_mut(set)?.get(hash, topic, generations)
    }

    /// Where a topic that [`Self::get`] did not find is, or is going to be.
    pub(super) fn seek(&mut self, hash: u64, topic: &[u8]) -> Spot {
        if self.sets.is_empty() {
            self.sets.resize_with(SETS_MIN, Set::default);
            self.mask = SETS_MIN - 1;
            self.alike.grow(SETS_MIN);
        }
        let mut set = self.set_of(hash);
        let slots = &self.sets[set];
        for way in slots.ways(print_of(hash)) {
            let known = &slots.known[way];
            if known.as_ref().is_some_and(|it| it.topic.is(topic)) {
                return Spot::Own(Slot { set, way });
            }
        }
        let mut empty = slots.ways(EMPTY).next();
        // A set that overflows while the table is well used means that more topics are in use.
        if empty.is_none() && self.count * 4 > self.sets.len() * WAYS {
            for _ in 0..SPLIT_COUNT {
                self.split();
            }
            set = self.set_of(hash);
            empty = self.sets[set].ways(EMPTY).next();
        }
        if let Some(way) = empty {
            return Spot::New(Slot { set, way });
        }
        self.overflows = self.overflows.wrapping_add(1);
        if !self.overflows.is_multiple_of(REFUSALS) {
            return Spot::Nowhere;
        }
        let way = (self.overflows / REFUSALS) as usize % WAYS;
        Spot::New(Slot { set, way })
    }

    /// What is remembered of the topic at `spot`, if it is right.
    pub(super) fn get_at(&mut self, spot: Spot, generations: &Generations) -> Option<Rc<Matches>> {
        let Spot::Own(slot) = spot else {
            return None;
        };
        let known = self.known_mut(slot);
        if known.check(generations) {
            known.matches.clone()
        } else {
            None
        }
    }

    /// Matches made of `origins` as they are now: those the topic at `spot` had before, or another one's.
    pub(super) fn find_alike(&self, spot: Spot, origins: &Origins) -> Option<Rc<Matches>> {
        if let Some(matches) = self.own(spot)
            && origins.made(matches)
        {
            return Some(Rc::clone(matches));
        }
        self.alike.find(origins).cloned()
    }

    /// What the topic at `spot` had before, right or not.
    pub(super) fn own(&self, spot: Spot) -> Option<&Rc<Matches>> {
        match spot {
            Spot::Own(slot) => self.known(slot).matches.as_ref(),
            Spot::New(_) | Spot::Nowhere => None,
        }
    }

    /// Empty, unshared matches to be filled for the topic at `spot`.
    pub(super) fn empty_matches(&mut self, spot: Spot) -> Rc<Matches> {
        let own = match spot {
            // What nobody else needs of the topic's own.
            Spot::Own(slot) => {
                let matches = &mut self.known_mut(slot).matches;
                matches.take_if(|it| it.users.get() == 1)
            }
            _ => None,
        };
        let mut matches = match own {
            Some(own) => {
                self.leave(&own);
                own
            }
            None => self.spare.take().unwrap_or_default(),
        };
        // Whoever still works with the old matches keeps them.
        match Rc::get_mut(&mut matches) {
            Some(matches) => matches.clear(),
            None => matches = Rc::default(),
        }
        matches
    }

    /// Takes in matches that were just made, for other topics of the same filters. They are put next.
    pub(super) fn offer_alike(&mut self, spot: Spot, origins: &Origins, matches: &mut Rc<Matches>) {
        if !matches!(spot, Spot::Nowhere) {
            self.alike.offer(origins, matches);
        }
    }

    /// Remembers who wants `topic`, which depends on the counters in `buckets`.
    pub(super) fn put(
        &mut self,
        spot: Spot,
        (hash, topic): (u64, &[u8]),
        buckets: impl FnOnce() -> Buckets,
        matches: &Rc<Matches>,
        generations: &Generations,
    ) {
        let slot = match spot {
            // A topic never depends on others.
            Spot::Own(slot) => slot,
            Spot::New(slot) => {
                self.name(slot, hash, topic, buckets());
                slot
            }
            Spot::Nowhere => {
                if matches.users.get() == 0 {
                    self.keep_spare(Rc::clone(matches));
                }
                return;
            }
        };
        let known = self.known_mut(slot);
        known.seen = generations.all();
        known.generation = generations.sum(&known.buckets);
        if let Some(old) = &known.matches
            && Rc::ptr_eq(old, matches)
        {
            return;
        }
        let old = known.matches.replace(Rc::clone(matches));
        let users = matches.users.get();
        matches.users.set(users + 1);
        if users == 0 {
            self.heap += matches.size();
        }
        if let Some(old) = old {
            self.leave(&old);
            if old.users.get() == 0 {
                self.keep_spare(old);
            }
        }
        if self.heap > self.heap_max {
            self.shrink(slot, matches);
        }
    }

    /// Topics remembered.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Bytes held for them.
    pub(super) fn size(&self) -> usize {
        self.sets.len() * size_of::<Set>()
            + self.count * size_of::<Known>()
            + self.alike.size()
            + self.heap
    }

    #[cfg(test)]
    pub(super) fn remembers(&self, topic: &[u8]) -> bool {
        let mut known = self.sets.iter().flat_map(|set| set.known.iter().flatten());
        known.any(|it| it.topic.is(topic))
    }

    #[cfg(test)]
    pub(super) const fn sets_count(&self) -> usize {
        self.sets.len()
    }

    #[cfg(test)]
    pub(super) fn sets_place(&self) -> usize {
        self.sets.as_ptr().addr()
    }

    /// Checks that everything that is counted is as it is counted.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        use std::collections::{BTreeMap, BTreeSet};
        let mut topics = BTreeSet::new();
        let (mut users, mut heap) = (BTreeMap::new(), 0);
        for (index, set) in self.sets.iter().enumerate() {
            for (way, known) in set.known.iter().enumerate() {
                let print = (set.prints >> (8 * way)) as u8;
                let Some(known) = known else {
                    assert_eq!(print, EMPTY);
                    continue;
                };
                let matches = known.matches.as_ref().expect("matches");
                assert_eq!(self.set_of(known.low.into()), index);
                assert_ne!(print, EMPTY);
                assert!(topics.insert(known.topic.as_bytes()));
                heap += known.topic.heap_size();
                let (count, _) = users.entry(Rc::as_ptr(matches)).or_insert((0, matches));
                *count += 1;
            }
        }
        for (count, matches) in users.values() {
            assert_eq!(matches.users.get(), *count);
            heap += matches.size();
        }
        assert_eq!((self.heap, self.count), (heap, topics.len()));
        let kept = self.alike.all().filter(|it| it.users.get() == 0);
        assert_eq!(kept.count(), 0, "matches that no topic has");
    }

    /// Without sets it finds nothing.
    #[inline]
    fn set_of(&self, hash: u64) -> usize {
        let set = hash as usize & self.mask;
        if set < self.sets.len() {
            set
        } else {
            set & self.mask >> 1
        }
    }

    /// Gives half of the next set to a new one.
    fn split(&mut self) {
        let count = self.sets.len();
        if count >= self.sets_max {
            return;
        }
        if count > self.mask {
            self.mask = self.mask * 2 + 1;
            self.alike.grow(count);
        }
        let from = count & self.mask >> 1;
        let mut goes = Set::default();
        let stays = &mut self.sets[from];
        for way in 0..WAYS {
            let moves = |it: &mut Box<Known>| usize::from(it.low) & self.mask == count;
            if let Some(known) = stays.known[way].take_if(moves) {
                goes.known[way] = Some(known);
                goes.set_print(way, (stays.prints >> (8 * way)) as u8);
                stays.set_print(way, EMPTY);
            }
        }
        if count == SETS_MOVED_MAX {
            self.sets.reserve_exact(self.sets_max - count);
        }
        self.sets.push(goes);
    }

    fn known(&self, slot: Slot) -> &Known {
        let known = &self.sets[slot.set].known[slot.way];
        known.as_ref().expect("a topic is there")
    }

    fn known_mut(&mut self, slot: Slot) -> &mut Known {
        let known = &mut self.sets[slot.set].known[slot.way];
        known.as_mut().expect("a topic is there")
    }

    /// Gives a slot to a topic. One that had it leaves its matches to be replaced.
    fn name(&mut self, slot: Slot, hash: u64, topic: &[u8], buckets: Buckets) {
        let set = &mut self.sets[slot.set];
        set.set_print(slot.way, print_of(hash));
        self.count += usize::from(set.known[slot.way].is_none());
        let known = set.known[slot.way].get_or_insert_default();
        known.low = hash as u16;
        known.buckets = buckets;
        let before = known.topic.heap_size();
        known.topic.set(topic);
        let after = known.topic.heap_size();
        self.heap = self.heap - before + after;
    }

    /// One topic less has these matches.
    fn leave(&mut self, matches: &Rc<Matches>) {
        let users = matches.users.get() - 1;
        matches.users.set(users);
        if users == 0 {
            self.heap -= matches.size();
            self.alike.forget(matches);
        }
    }

    fn keep_spare(&mut self, matches: Rc<Matches>) {
        if matches.targets.capacity() <= TARGETS_KEPT_MAX {
            self.spare = Some(matches);
        }
    }

    /// Gives up topics until the others have little enough, but not the one at `keep`: a few, or as many as its
    /// matches have targets. Where that does not do, that one is not remembered.
    fn shrink(&mut self, keep: Slot, matches: &Matches) {
        let slots = self.sets.len() * WAYS;
        for _ in 0..slots.min(SWEEP_MIN + matches.targets.len()) {
            if self.heap <= self.heap_max {
                return;
            }
            self.hand = (self.hand + 1) % slots;
            let slot = Slot {
                set: self.hand / WAYS,
                way: self.hand % WAYS,
            };
            if slot != keep && self.has_heap(slot) {
                self.give_up(slot);
            }
        }
        if self.heap > self.heap_max && matches.size() <= self.heap_max {
            self.give_up(keep);
        }
    }

    /// Whether it helps to give up what is there. Small matches that others have too do not count.
    fn has_heap(&self, slot: Slot) -> bool {
        let Some(known) = &self.sets[slot.set].known[slot.way] else {
            return false;
        };
        let is_heavy = |it: &Rc<Matches>| it.users.get() == 1 || it.targets.len() > FEW;
        known.topic.heap_size() > 0 || known.matches.as_ref().is_some_and(is_heavy)
    }

    fn give_up(&mut self, slot: Slot) {
        let set = &mut self.sets[slot.set];
        let Some(known) = set.known[slot.way].take() else {
            return;
        };
        set.set_print(slot.way, EMPTY);
        self.count -= 1;
        self.heap -= known.topic.heap_size();
        if let Some(matches) = known.matches {
            self.leave(&matches);
        }
    }
}

#[inline]
fn print_of(hash: u64) -> u8 {
    (hash >> 56) as u8 | 1
}
