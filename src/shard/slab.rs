//! A table with generational keys: a key that outlives its entry finds nothing.

#![forbid(unsafe_code)]

use crate::chunks::Chunks;
use crate::key::{ConnectionKey, SessionKey};

/// A key made of a slot and the number of times that slot had been freed.
pub(super) trait Key: Copy {
    fn new(index: u32, generation: u32) -> Self;
    fn index(self) -> u32;
    fn generation(self) -> u32;
}

impl Key for SessionKey {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }
    fn index(self) -> u32 {
        self.index
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

impl Key for ConnectionKey {
    fn new(index: u32, generation: u32) -> Self {
        Self { index, generation }
    }
    fn index(self) -> u32 {
        self.index
    }
    fn generation(self) -> u32 {
        self.generation
    }
}

#[derive(Debug)]
struct Slot<T> {
    generation: u32,
    value: Option<T>,
}

/// Values in slots that are used again.
#[derive(Debug)]
pub(super) struct Slab<K, T> {
    slots: Chunks<Slot<T>>,
    free: Vec<u32>,
    _key: std::marker::PhantomData<K>,
}

impl<K: Key, T> Slab<K, T> {
    pub(super) fn new() -> Self {
        Self {
            slots: Chunks::default(),
            free: Vec::new(),
            _key: std::marker::PhantomData,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Slots that have ever been used.
    pub(super) fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Stores what `make` builds from its own key.
    pub(super) fn insert_with(&mut self, make: impl FnOnce(K) -> T) -> K {
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(|| Slot {
                generation: 0,
                value: None,
            })
        });
        let slot = self
            .slots
            .get_mut(index)
            .expect("a slot that was just found");
        let key = K::new(index, slot.generation);
        slot.value = Some(make(key));
        key
    }

    pub(super) fn get(&self, key: K) -> Option<&T> {
        let slot = self.slots.get(key.index())?;
        if slot.generation == key.generation() {
            slot.value.as_ref()
        } else {
            None
        }
    }

    pub(super) fn get_mut(&mut self, key: K) -> Option<&mut T> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation == key.generation() {
            slot.value.as_mut()
        } else {
            None
        }
    }

    pub(super) fn remove(&mut self, key: K) -> Option<T> {
        let slot = self.slots.get_mut(key.index())?;
        if slot.generation != key.generation() {
            return None;
        }
        let value = slot.value.take()?;
        slot.generation = slot.generation.wrapping_add(1);
        self.free.push(key.index());
        Some(value)
    }

    /// The key of what is in slot `index` now.
    pub(super) fn key_at(&self, index: u32) -> Option<K> {
        let slot = self.slots.get(index)?;
        slot.value.as_ref().map(|_| K::new(index, slot.generation))
    }

    /// Keys of everything stored, in slot order.
    pub(super) fn keys(&self) -> impl Iterator<Item = K> {
        (0..self.slots.len() as u32).filter_map(|index| self.key_at(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_nothing_once_its_slot_is_used_again() {
        let mut slab: Slab<SessionKey, &str> = Slab::new();
        let old = slab.insert_with(|_| "old");
        assert_eq!(slab.remove(old), Some("old"));
        let new = slab.insert_with(|_| "new");
        assert_eq!(old.index, new.index);
        assert_eq!(slab.get(old), None);
        assert_eq!(slab.remove(old), None);
        assert_eq!((slab.get(new), slab.len()), (Some(&"new"), 1));
    }
}
