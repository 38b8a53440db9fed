//! A table that grows without moving what it holds: no pause, and no second copy that the allocator keeps.

#![forbid(unsafe_code)]

/// Entries allocated at a time. So few that what is allocated for a Client fits into one page or half of one:
/// the allocator rounds what is larger, or no power of two, up by an eighth and more.
const CHUNK: usize = 32;

/// Entries by index, from zero on.
#[derive(Debug)]
pub(crate) struct Chunks<T> {
    chunks: Vec<Box<[T; CHUNK]>>,
    /// Entries that were added; behind them are empty ones.
    len: usize,
}

impl<T> Default for Chunks<T> {
    fn default() -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
        }
    }
}

impl<T> Chunks<T> {
    pub(crate) const fn len(&self) -> usize {
        self.len
    }

    /// Adds one of what `empty` makes, and returns its index.
    ///
    /// # Panics
    /// Beyond 2^32 entries.
    pub(crate) fn push(&mut self, mut empty: impl FnMut() -> T) -> u32 {
        if self.len == self.chunks.len() * CHUNK {
            let chunk = std::array::from_fn(|_| empty());
            self.chunks.push(Box::new(chunk));
        }
        self.len += 1;
        u32::try_from(self.len - 1).expect("fewer than 2^32 entries")
    }

    #[inline]
    pub(crate) fn get(&self, index: u32) -> Option<&T> {
        let chunk = self.chunks.get(index as usize / CHUNK)?;
        // Within a chunk by its type: one bound is checked, not two.
        Some(&chunk[index as usize % CHUNK])
    }

    /// The entry at `index`, behind as many of what `empty` makes as are missing before it.
    ///
    /// # Panics
    /// As [`Chunks::push`].
    pub(crate) fn grow_to(&mut self, index: u32, empty: impl Fn() -> T) -> &mut T {
        while self.len <= index as usize {
            self.push(&empty);
        }
        self.get_mut(index).expect("an index of the table")
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, index: u32) -> Option<&mut T> {
        let chunk = self.chunks.get_mut(index as usize / CHUNK)?;
        Some(&mut chunk[index as usize % CHUNK])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_stay_where_they_are_while_the_table_grows() {
        let mut table = Chunks::default();
        let first: *const u32 = {
            assert_eq!(table.push(|| 7), 0);
            table.get(0).unwrap()
        };
        for index in 1..1000 {
            assert_eq!(table.push(|| 0), index);
            *table.get_mut(index).unwrap() = index;
        }
        assert!(std::ptr::eq(first, table.get(0).unwrap()));
        assert_eq!((table.get(0), table.get(999)), (Some(&7), Some(&999)));
        assert_eq!((table.len(), table.get(1024)), (1000, None));
    }

    #[test]
    fn a_table_grows_as_far_as_the_entry_that_is_asked_for_and_no_further() {
        let mut table = Chunks::default();
        *table.grow_to(40, || 9) = 8;
        assert_eq!(table.len(), 41);
        assert_eq!((table.get(39), table.get(40)), (Some(&9), Some(&8)));
        assert_eq!(*table.grow_to(40, || 7), 8);
        assert_eq!(*table.grow_to(3, || 7), 9);
        assert_eq!(table.len(), 41);
    }
}
