//! A hash table of ids whose keys live elsewhere.
//!
//! The key of a trie node is its parent and its level, which the node itself holds, so that a table
//! that repeated them would cost more than the nodes. Eight bytes a slot, linear probing: a lookup
//! that fails touches one cache line, one that succeeds touches that and the node.
//!
//! A table that gets too small is replaced by a larger one to which a few entries move with every
//! change, so that no single subscription waits for a million others to move. Its memory is filled a little
//! at a time too, before it is needed: a page that is touched for the first time is one that the system has
//! to find and to clear.

#![forbid(unsafe_code)]

/// Slots of the smallest table.
const SLOTS_MIN: usize = 16;
/// Slots of the old table that every change empties, and the rest of the run of slots it ends in. Large
/// enough that the old table is empty long before the new one is full.
const MOVED_SLOTS: usize = 16;
/// Slots of the next table that every change fills. It is begun a sixteenth of the table before it is needed
/// to grow, a fifty-sixth to shrink, and has two times as many slots then, or half.
const PREPARED_SLOTS: usize = 32;
/// An empty slot.
const EMPTY: u64 = 0;

const _: () = assert!(SLOTS_MIN.is_power_of_two());

/// Set of ids, found by hash and a comparison that the caller makes.
#[derive(Debug, Default)]
pub(crate) struct IdTable {
    /// Hash in the upper half, id + 1 in the lower. A power of two of them, or none at all.
    slots: Vec<u64>,
    /// What has not moved to `slots` yet.
    old: Vec<u64>,
    /// Ids in `old`.
    old_count: usize,
    /// What will be `slots`, as far as it is filled: as large as it is to be, and empty if nothing is near.
    next: Vec<u64>,
    /// The slot of `old` that moves next; the one before it is empty.
    cursor: usize,
    /// Ids in both.
    count: usize,
}

impl IdTable {
    /// Bytes held.
    pub(crate) fn size(&self) -> usize {
        (self.slots.capacity() + self.old.capacity() + self.next.len()) * size_of::<u64>()
    }

    /// The id with `hash` for which `is_it` says yes.
    #[inline]
    pub(crate) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        match search(&self.slots, hash, &mut is_it) {
            Some(index) => Some(id_of(self.slots[index])),
            None if self.old.is_empty() => None,
            None => search(&self.old, hash, &mut is_it).map(|index| id_of(self.old[index])),
        }
    }

    /// Adds `id`, which must not be in the table.
    pub(crate) fn insert(&mut self, hash: u32, id: u32) {
        self.move_some(MOVED_SLOTS);
        // Three quarters full at most: beyond that, failing lookups get long.
        let (count, slots) = (self.count + 1, self.slots.len());
        if count * 16 > slots * 11 {
            let wanted = (slots * 2).max(SLOTS_MIN);
            self.prepare(wanted);
            if count * 4 > slots * 3 {
                self.resize(wanted);
            }
        }
        self.count += 1;
        place(&mut self.slots, u64::from(hash) << 32 | (u64::from(id) + 1));
    }

    /// Removes `id`, which must be in the table.
    pub(crate) fn remove(&mut self, hash: u32, id: u32) {
        if let Some(index) = search(&self.slots, hash, &mut |found| found == id) {
            empty(&mut self.slots, index);
        } else {
            let index = search(&self.old, hash, &mut |found| found == id);
            empty(&mut self.old, index.expect("the id is in the table"));
            self.old_count -= 1;
        }
        self.count -= 1;
        if self.count == 0 {
            *self = Self::default();
            return;
        }
        self.move_some(MOVED_SLOTS);
        let slots = self.slots.len();
        if self.old.is_empty() && slots > SLOTS_MIN && self.count * 7 < slots {
            self.prepare(slots / 2);
            // The last table may have moved until just now: then this one is begun late.
            if self.count * 8 < slots && self.next.len() == slots / 2 {
                self.resize(slots / 2);
            }
        } else if !self.next.is_empty() && self.count * 8 < slots * 5 {
            self.next = Vec::new();
        }
    }

    /// A table of so many slots is near.
    fn prepare(&mut self, slots: usize) {
        if self.next.capacity() != slots {
            self.next = Vec::with_capacity(slots);
        }
        let filled = self.next.len() + PREPARED_SLOTS;
        self.next.resize(filled.min(slots), EMPTY);
    }

    fn resize(&mut self, slots: usize) {
        // Only if the bounds above were wrong: they let one move end before the next begins, and one table be
        // filled before it is needed.
        self.move_some(usize::MAX);
        let mut next = std::mem::take(&mut self.next);
        next.resize(slots, EMPTY);
        self.old = std::mem::replace(&mut self.slots, next);
        self.old_count = self.count;
        self.cursor = self
            .old
            .iter()
            .position(|&slot| slot == EMPTY)
            .map_or(0, |index| index + 1);
    }

    /// Moves at least `count` slots, and always whole runs of them: a lookup in what is left of a run
    /// would end too early.
    fn move_some(&mut self, count: usize) {
        let mut moved = 0;
        while self.old_count > 0 {
            let index = self.cursor & (self.old.len() - 1);
            let slot = self.old[index];
            self.cursor = index + 1;
            if slot != EMPTY {
                self.old[index] = EMPTY;
                self.old_count -= 1;
                place(&mut self.slots, slot);
            } else if moved >= count {
                break;
            }
            moved += 1;
        }
        if self.old_count == 0 {
            self.old = Vec::new();
        }
    }
}

#[inline]
fn search(slots: &[u64], hash: u32, is_it: &mut impl FnMut(u32) -> bool) -> Option<usize> {
    let mask = slots.len().checked_sub(1)?;
    let mut index = hash as usize & mask;
    loop {
        let slot = slots[index];
        if slot == EMPTY {
            return None;
        }
        if hash_of(slot) == hash && is_it(id_of(slot)) {
            return Some(index);
        }
        index = (index + 1) & mask;
    }
}

fn place(slots: &mut [u64], slot: u64) {
    let mask = slots.len() - 1;
    let mut index = hash_of(slot) as usize & mask;
    while slots[index] != EMPTY {
        index = (index + 1) & mask;
    }
    slots[index] = slot;
}

/// Empties a slot. Whatever was pushed past it moves back, so that no lookup ends too early.
fn empty(slots: &mut [u64], mut hole: usize) {
    let mask = slots.len() - 1;
    let mut index = hole;
    loop {
        index = (index + 1) & mask;
        let slot = slots[index];
        if slot == EMPTY {
            break;
        }
        let home = hash_of(slot) as usize & mask;
        if index.wrapping_sub(home) & mask >= index.wrapping_sub(hole) & mask {
            slots[hole] = slot;
            hole = index;
        }
    }
    slots[hole] = EMPTY;
}

#[inline]
const fn hash_of(slot: u64) -> u32 {
    (slot >> 32) as u32
}

/// Of a slot that is not empty.
#[inline]
const fn id_of(slot: u64) -> u32 {
    (slot as u32).wrapping_sub(1)
}

#[cfg(test)]
mod tests {
    use super::{IdTable, PREPARED_SLOTS};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    /// Toggles ids and compares with a map after each step.
    fn check(steps: impl IntoIterator<Item = (u32, u32)>) -> IdTable {
        let mut table = IdTable::default();
        let mut model = BTreeMap::new();
        let mut seen = BTreeMap::new();
        for (id, hash) in steps {
            seen.insert(id, hash);
            match model.remove(&id) {
                Some(hash) => table.remove(hash, id),
                None => {
                    table.insert(hash, id);
                    model.insert(id, hash);
                }
            }
            for (&id, &hash) in &seen {
                let expected = (model.get(&id) == Some(&hash)).then_some(id);
                assert_eq!(table.find(hash, |found| found == id), expected);
            }
        }
        for (id, hash) in model {
            assert_eq!(table.find(hash, |found| found == id), Some(id));
            table.remove(hash, id);
        }
        table
    }

    #[test]
    fn no_change_fills_more_of_the_next_table_than_a_little() {
        const IDS: u32 = 20_000;
        let spread = |id: u32| id.wrapping_mul(0x9E37_79B1).rotate_left(15);
        let mut table = IdTable::default();
        let check = |table: &IdTable, slots: usize, filled: usize| {
            if table.count > 0 && table.slots.len() != slots {
                let left = table.slots.len().saturating_sub(filled);
                assert!(left <= PREPARED_SLOTS, "{left} of {}", table.slots.len());
            }
        };
        for id in 0..IDS {
            let (slots, filled) = (table.slots.len(), table.next.len());
            table.insert(spread(id), id);
            check(&table, slots, filled);
        }
        for id in 0..IDS {
            let (slots, filled) = (table.slots.len(), table.next.len());
            table.remove(spread(id), id);
            check(&table, slots, filled);
        }
        assert_eq!(table.size(), 0);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(128))]

        /// Few distinct hashes, so that runs are long and holes matter.
        #[test]
        fn behaves_as_a_map_when_hashes_collide(
            steps in proptest::collection::vec((0..60_u32, 0..9_u32), 0..300),
        ) {
            prop_assert_eq!(check(steps).size(), 0);
        }

        /// Enough ids that lookups meet a table that is half moved.
        #[test]
        fn behaves_as_a_map_while_it_moves(
            steps in proptest::collection::vec((0..500_u32, any::<u32>()), 0..600),
        ) {
            prop_assert_eq!(check(steps).size(), 0);
        }
    }
}
