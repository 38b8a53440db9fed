//! A hash table of ids whose keys live elsewhere.
//!
//! The key of a trie node is its parent and its level, which the node itself holds, so that a table
//! that repeated them would cost more than the nodes. Eight bytes a slot, linear probing: a lookup
//! that fails touches one cache line, one that succeeds touches that and the node.

#![forbid(unsafe_code)]

use super::slab::NONE;

/// Slots of the smallest table.
const SLOTS_MIN: usize = 16;

const _: () = assert!(SLOTS_MIN.is_power_of_two());

#[derive(Clone, Copy, Debug)]
struct Slot {
    hash: u32,
    /// [`NONE`]: the slot is empty.
    id: u32,
}

const EMPTY: Slot = Slot { hash: 0, id: NONE };

/// Set of ids, found by hash and a comparison that the caller makes.
#[derive(Debug, Default)]
pub(super) struct IdTable {
    /// A power of two, or none at all.
    slots: Vec<Slot>,
    count: usize,
}

impl IdTable {
    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.slots.capacity() * size_of::<Slot>()
    }

    /// The id with `hash` for which `is_it` says yes.
    #[inline]
    pub(super) fn find(&self, hash: u32, mut is_it: impl FnMut(u32) -> bool) -> Option<u32> {
        if self.slots.is_empty() {
            return None;
        }
        let mask = self.slots.len() - 1;
        let mut index = hash as usize & mask;
        loop {
            let slot = self.slots[index];
            if slot.id == NONE {
                return None;
            }
            if slot.hash == hash && is_it(slot.id) {
                return Some(slot.id);
            }
            index = (index + 1) & mask;
        }
    }

    /// Adds `id`, which must not be in the table.
    pub(super) fn insert(&mut self, hash: u32, id: u32) {
        // Three quarters full at most: beyond that, failing lookups get long.
        if (self.count + 1) * 4 > self.slots.len() * 3 {
            self.resize((self.slots.len() * 2).max(SLOTS_MIN));
        }
        self.count += 1;
        self.place(Slot { hash, id });
    }

    /// Removes `id`, which must be in the table.
    pub(super) fn remove(&mut self, hash: u32, id: u32) {
        let mask = self.slots.len() - 1;
        let mut hole = hash as usize & mask;
        while self.slots[hole].id != id {
            assert!(self.slots[hole].id != NONE, "id {id} is not in the table");
            hole = (hole + 1) & mask;
        }
        // Whatever was pushed past the hole moves back, so that no probe ends too early.
        let mut index = hole;
        loop {
            index = (index + 1) & mask;
            let slot = self.slots[index];
            if slot.id == NONE {
                break;
            }
            let home = slot.hash as usize & mask;
            if index.wrapping_sub(home) & mask >= index.wrapping_sub(hole) & mask {
                self.slots[hole] = slot;
                hole = index;
            }
        }
        self.slots[hole] = EMPTY;
        self.count -= 1;
        if self.count == 0 {
            self.slots = Vec::new();
        } else if self.slots.len() > SLOTS_MIN && self.count * 8 < self.slots.len() {
            self.resize(self.slots.len() / 2);
        }
    }

    fn place(&mut self, slot: Slot) {
        let mask = self.slots.len() - 1;
        let mut index = slot.hash as usize & mask;
        while self.slots[index].id != NONE {
            index = (index + 1) & mask;
        }
        self.slots[index] = slot;
    }

    fn resize(&mut self, slots: usize) {
        let old = std::mem::replace(&mut self.slots, vec![EMPTY; slots]);
        old.into_iter()
            .filter(|slot| slot.id != NONE)
            .for_each(|slot| self.place(slot));
    }
}

#[cfg(test)]
mod tests {
    use super::IdTable;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Few distinct hashes, so that probes run long and holes matter.
        #[test]
        fn behaves_as_a_map(steps in proptest::collection::vec((0..60_u32, 0..9_u32), 0..400)) {
            let mut table = IdTable::default();
            let mut model = BTreeMap::new();
            for (id, hash) in steps {
                match model.remove(&id) {
                    Some(hash) => table.remove(hash, id),
                    None => {
                        table.insert(hash, id);
                        model.insert(id, hash);
                    }
                }
                for id in 0..60 {
                    for hash in 0..9 {
                        let expected = (model.get(&id) == Some(&hash)).then_some(id);
                        prop_assert_eq!(table.find(hash, |found| found == id), expected);
                    }
                }
            }
            model.into_iter().for_each(|(id, hash)| table.remove(hash, id));
            prop_assert_eq!(table.size(), 0);
        }
    }
}
