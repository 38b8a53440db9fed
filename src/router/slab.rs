//! Rows with small stable ids, in chunks.
//!
//! Chunks mean that growing never copies what is there: one more subscription does not stall a shard
//! while a million rows move, and no memory is held twice. Freed rows are used again, newest first.

#![forbid(unsafe_code)]

/// The id of no row.
pub(super) const NONE: u32 = u32::MAX;

/// log2 of the rows in a chunk.
const CHUNK_BITS: u32 = 12;
/// Rows in a chunk.
const CHUNK_ROWS: usize = 1 << CHUNK_BITS;
/// Most rows of one slab: [`NONE`] must stay free, and a bit for who keeps ids with a flag.
const ROWS_MAX: usize = NONE as usize / 2;

/// Rows of `T`. A freed row is `T::default()` until it is used again, and is gone with the last one in use.
#[derive(Debug)]
pub(super) struct Slab<T> {
    chunks: Vec<Vec<T>>,
    free: Vec<u32>,
    count: usize,
}

impl<T: Default> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            chunks: Vec::new(),
            free: Vec::new(),
            count: 0,
        }
    }

    /// Rows in use.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// Bytes held by the rows themselves.
    pub(super) fn size(&self) -> usize {
        let rows: usize = self.chunks.iter().map(Vec::capacity).sum();
        rows * size_of::<T>() + self.free.capacity() * size_of::<u32>()
    }

    pub(super) fn insert(&mut self, row: T) -> u32 {
        self.count += 1;
        if let Some(id) = self.free.pop() {
            *self.get_mut(id) = row;
            return id;
        }
        let id = self.count - 1;
        assert!(id < ROWS_MAX, "{id} rows in one slab");
        if id & (CHUNK_ROWS - 1) == 0 {
            // The first chunk grows as it is used, because most routers stay small.
            let rows = if self.chunks.is_empty() {
                0
            } else {
                CHUNK_ROWS
            };
            self.chunks.push(Vec::with_capacity(rows));
        }
        self.chunks[id >> CHUNK_BITS].push(row);
        id as u32
    }

    pub(super) fn remove(&mut self, id: u32) -> T {
        let row = std::mem::take(self.get_mut(id));
        self.free.push(id);
        self.count -= 1;
        if self.count == 0 {
            *self = Self::new();
        }
        row
    }

    #[inline]
    pub(super) fn get(&self, id: u32) -> &T {
        &self.chunks[id as usize >> CHUNK_BITS][id as usize & (CHUNK_ROWS - 1)]
    }

    #[inline]
    pub(super) fn get_mut(&mut self, id: u32) -> &mut T {
        &mut self.chunks[id as usize >> CHUNK_BITS][id as usize & (CHUNK_ROWS - 1)]
    }

    /// The row, also for ids that were never given out.
    pub(super) fn try_get(&self, id: u32) -> Option<&T> {
        self.chunks
            .get(id as usize >> CHUNK_BITS)?
            .get(id as usize & (CHUNK_ROWS - 1))
    }
}

#[cfg(test)]
mod tests {
    use super::{CHUNK_ROWS, Slab};

    #[test]
    fn freed_rows_are_used_again() {
        let mut slab = Slab::new();
        let ids: Vec<u32> = (0..CHUNK_ROWS * 2 + 5)
            .map(|value| slab.insert(value))
            .collect();
        assert!(
            ids.iter()
                .enumerate()
                .all(|(value, &id)| *slab.get(id) == value)
        );
        assert_eq!(slab.remove(ids[7]), 7);
        assert_eq!(slab.remove(ids[CHUNK_ROWS]), CHUNK_ROWS);
        assert_eq!(slab.insert(1), ids[CHUNK_ROWS]);
        assert_eq!(slab.insert(2), ids[7]);
        assert_eq!(slab.count(), ids.len());
        for id in ids {
            slab.remove(id);
        }
        assert_eq!((slab.count(), slab.size()), (0, 0));
    }
}
