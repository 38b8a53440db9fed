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
use crate::chunks::Chunks;
use std::num::NonZeroU64;
use std::rc::Rc;

/// Topics remembered at most: with their sets 80 bytes each, if their text is short.
pub(super) const CACHED_TOPICS_MAX: usize = 1 << 18;
/// Bytes of what they have beyond that at most, which is long texts and matches: 160 bytes, and 40 for each
/// target but one. Only the matches of a single topic that are larger than this are remembered beyond it.
pub(super) const CACHED_HEAP_MAX: usize = 44 << 20;
/// Topics allocated at a time: a page.
const CHUNK: usize = 64;
/// Slots a topic can be in.
const WAYS: usize = 8;
/// Sets of a new cache.
const SETS_MIN: usize = 8;
/// Sets that are split when one overflows.
const SPLIT_COUNT: usize = 4;
/// A full set that cannot be split takes in one of so many topics. Those that come in turns, and are more than
/// there is room for, would otherwise push each other out before they come again.
const REFUSALS: u32 = 4;
/// Topics that are looked at, at least, when there is too much of what they have.
const SWEEP_MIN: usize = 16;
/// Bytes of matches with one target.
const SMALL: usize = size_of::<Matches>() + 2 * size_of::<usize>();
/// Targets whose memory is kept for other matches.
const TARGETS_KEPT_MAX: usize = 64;
/// In the place of what is of the hash in a slot that has no topic.
const EMPTY: u8 = 0;

const _: () = assert!(SETS_MIN.is_power_of_two() && CACHED_TOPICS_MAX.is_power_of_two());
const _: () = assert!(WAYS == 8 && SETS_MIN * WAYS <= CACHED_TOPICS_MAX);
const _: () = assert!(CACHED_TOPICS_MAX / WAYS <= 1 << u16::BITS);
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
    matches: Option<Rc<Matches>>,
    topic: Text,
}

/// Slots that are looked at together.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
struct Set {
    /// A byte of the hash of each topic, the first one lowest; 0 for an empty slot.
    prints: u64,
    /// Rows in [`Cache::known`].
    ids: [u32; WAYS],
    /// Low bits of the hashes, which say where a topic goes when the set is split.
    lows: [u16; WAYS],
}

impl Set {
    /// The slots that have `print`.
    #[inline]
    const fn ways(&self, print: u8) -> Ways {
        const LOW_BITS: u64 = 0x7F7F_7F7F_7F7F_7F7F;
        const EACH: u64 = 0x0101_0101_0101_0101;
        // The top bit of each byte that is the same.
        let differ = self.prints ^ print as u64 * EACH;
        Ways(!((differ & LOW_BITS) + LOW_BITS | differ | LOW_BITS))
    }

    const fn put(&mut self, way: usize, print: u8, low: u16, id: u32) {
        let shift = 8 * way as u32;
        self.prints = self.prints & !(0xFF << shift) | (print as u64) << shift;
        self.ids[way] = id;
        self.lows[way] = low;
    }

    const fn print(&self, way: usize) -> u8 {
        (self.prints >> (8 * way)) as u8
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
    known: Chunks<Known, CHUNK>,
    /// Rows in it that no slot has.
    free: Vec<u32>,
    alike: Alike,
    /// Bytes of long topics and of matches.
    heap: usize,
    /// Times that a full set was met.
    overflows: u32,
    /// Where the search for topics to give up goes on.
    hand: usize,
    /// Memory for matches to be looked for.
    spare: Option<Rc<Matches>>,
    topics_max: usize,
    heap_max: usize,
}

impl Default for Cache {
    fn default() -> Self {
        Self::with_bounds(CACHED_TOPICS_MAX, CACHED_HEAP_MAX)
    }
}

impl Cache {
    pub(super) fn with_bounds(topics_max: usize, heap_max: usize) -> Self {
        Self {
            sets: Vec::new(),
            mask: 0,
            known: Chunks::default(),
            free: Vec::new(),
            alike: Alike::default(),
            heap: 0,
            overflows: 0,
            hand: 0,
            spare: None,
            topics_max,
            heap_max,
        }
    }

    // HOT: per PUBLISH.
    #[inline]
    pub(super) fn get(
        &mut self,
        hash: u64,
        topic: &[u8],
        generations: &Generations,
    ) -> Option<Rc<Matches>> {
        let set = self.sets.get(self.set_of(hash))?;
        for way in set.ways(print_of(hash)) {
            let known = self.known.get_mut(set.ids[way])?;
            if known.topic.as_bytes() != topic {
                continue;
            }
            if known.seen != generations.all() {
                if generations.sum(&known.buckets) != known.generation {
                    return None;
                }
                known.seen = generations.all();
            }
            return known.matches.clone();
        }
        None
    }

    /// Where a topic that [`Self::get`] did not find is, or is going to be.
    pub(super) fn seek(&mut self, hash: u64, topic: &[u8]) -> Spot {
        if self.sets.is_empty() {
            self.sets.resize(SETS_MIN, Set::default());
            self.mask = SETS_MIN - 1;
            self.alike.grow(SETS_MIN);
        }
        let mut set = self.set_of(hash);
        let slots = &self.sets[set];
        for way in slots.ways(print_of(hash)) {
            let known = self.known.get(slots.ids[way]);
            if known.is_some_and(|it| it.topic.as_bytes() == topic) {
                return Spot::Own(Slot { set, way });
            }
        }
        let mut empty = slots.ways(EMPTY).next();
        // A set that overflows while the table is well used means that more topics are in use.
        if empty.is_none() && self.count() * 4 > self.sets.len() * WAYS {
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

    /// Matches made of `origins` as they are now: those the topic at `spot` had before, or another one's.
    pub(super) fn find_alike(&self, spot: Spot, origins: &Origins) -> Option<Rc<Matches>> {
        if let Spot::Own(slot) = spot
            && let Some(matches) = &self.known(slot).matches
            && origins.made(matches)
        {
            return Some(Rc::clone(matches));
        }
        self.alike.find(origins).cloned()
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
        self.known.len() - self.free.len()
    }

    /// Bytes held for them.
    pub(super) fn size(&self) -> usize {
        self.sets.capacity() * size_of::<Set>()
            + self.known.size()
            + self.free.capacity() * size_of::<u32>()
            + self.alike.size()
            + self.heap
    }

    #[cfg(test)]
    pub(super) const fn sets_count(&self) -> usize {
        self.sets.len()
    }

    /// Checks that everything that is counted is as it is counted.
    #[cfg(test)]
    pub(super) fn audit(&self) {
        use std::collections::{BTreeMap, BTreeSet};
        let (mut ids, mut topics) = (BTreeSet::new(), BTreeSet::new());
        let (mut users, mut heap) = (BTreeMap::new(), 0);
        for (index, set) in self.sets.iter().enumerate() {
            for way in (0..WAYS).filter(|&way| set.print(way) != EMPTY) {
                let known = self.known.get(set.ids[way]).expect("a row");
                let matches = known.matches.as_ref().expect("matches");
                assert_eq!(self.set_of(set.lows[way].into()), index);
                assert!(ids.insert(set.ids[way]) && topics.insert(known.topic.as_bytes()));
                heap += known.topic.heap_size();
                let (count, _) = users.entry(Rc::as_ptr(matches)).or_insert((0, matches));
                *count += 1;
            }
        }
        for (count, matches) in users.values() {
            assert_eq!(matches.users.get(), *count);
            heap += matches.size();
        }
        assert_eq!((self.heap, self.count()), (heap, ids.len()));
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
        if count * WAYS >= self.topics_max {
            return;
        }
        if count > self.mask {
            self.mask = self.mask * 2 + 1;
            self.alike.grow(count);
        }
        let from = count & self.mask >> 1;
        let (mut stays, mut goes) = (Set::default(), Set::default());
        let (mut stay_count, mut go_count) = (0, 0);
        let set = self.sets[from];
        for way in (0..WAYS).filter(|&way| set.print(way) != EMPTY) {
            let (low, id) = (set.lows[way], set.ids[way]);
            let (to, place) = if usize::from(low) & self.mask == count {
                (&mut goes, &mut go_count)
            } else {
                (&mut stays, &mut stay_count)
            };
            to.put(*place, set.print(way), low, id);
            *place += 1;
        }
        self.sets[from] = stays;
        self.sets.push(goes);
    }

    fn known(&self, slot: Slot) -> &Known {
        let id = self.sets[slot.set].ids[slot.way];
        self.known.get(id).expect("a slot has a row")
    }

    fn known_mut(&mut self, slot: Slot) -> &mut Known {
        let id = self.sets[slot.set].ids[slot.way];
        self.known.get_mut(id).expect("a slot has a row")
    }

    /// Gives a slot to a topic. One that had it leaves its matches to be replaced.
    fn name(&mut self, slot: Slot, hash: u64, topic: &[u8], buckets: Buckets) {
        let set = &mut self.sets[slot.set];
        let mut id = set.ids[slot.way];
        if set.print(slot.way) == EMPTY {
            id = match self.free.pop() {
                Some(id) => id,
                None => self.known.push(Known::default),
            };
        }
        set.put(slot.way, print_of(hash), hash as u16, id);
        let known = self.known_mut(slot);
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
        if self.sets[slot.set].print(slot.way) == EMPTY {
            return false;
        }
        let known = self.known(slot);
        let is_heavy = |it: &Rc<Matches>| it.users.get() == 1 || it.size() > SMALL;
        known.topic.heap_size() > 0 || known.matches.as_ref().is_some_and(is_heavy)
    }

    fn give_up(&mut self, slot: Slot) {
        let known = std::mem::take(self.known_mut(slot));
        let set = &mut self.sets[slot.set];
        self.free.push(set.ids[slot.way]);
        set.put(slot.way, EMPTY, 0, 0);
        self.heap -= known.topic.heap_size();
        if let Some(matches) = known.matches {
            self.leave(&matches);
        }
    }
}

#[inline]
fn print_of(hash: u64) -> u8 {
    ((hash >> 56) as u8).max(EMPTY + 1)
}
