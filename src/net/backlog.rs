//! Output of a connection whose socket has no room for it, in pieces.
//!
//! A Client that does not read may be owed a megabyte. In one buffer that would double again and again, and all
//! that do not read would do so in the same turn: what has come is never moved instead.

#![forbid(unsafe_code)]

use super::buffer_pool::{BufferPool, SMALL_MAX};
use std::collections::VecDeque;

/// Bytes that several turns' output is put together to. Larger output is a piece of its own.
const PIECE_SIZE: usize = 64 * 1024;

/// Bytes in their order.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    /// None of them is empty.
    pieces: VecDeque<Vec<u8>>,
    size: usize,
}

impl Backlog {
    /// Bytes of all pieces.
    #[inline]
    pub(super) const fn size(&self) -> usize {
        self.size
    }

    /// Appends `bytes`, which are some.
    pub(super) fn push(&mut self, bytes: Vec<u8>, pool: &mut BufferPool) {
        debug_assert!(
            !bytes.is_empty(),
            "an empty piece would be taken for the end"
        );
        self.size += bytes.len();
        if bytes.len() >= PIECE_SIZE / 2 || self.pieces.is_empty() {
            self.pieces.push_back(bytes);
            return;
        }
        if let Some(last) = self.pieces.back_mut()
            && last.capacity() - last.len() >= bytes.len()
        {
            last.extend_from_slice(&bytes);
        } else {
            // In all no more than twice what is in them.
            let room = self.size.clamp(SMALL_MAX, PIECE_SIZE);
            let mut piece = pool.take(room);
            piece.reserve_exact(room);
            piece.extend_from_slice(&bytes);
            self.pieces.push_back(piece);
        }
        pool.put(bytes);
    }

    /// Appends what nothing will follow, if it is something.
    pub(super) fn push_last(&mut self, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.size += bytes.len();
            self.pieces.push_back(bytes.to_vec());
        }
    }

    /// All that there is.
    pub(super) fn into_pieces(self) -> impl Iterator<Item = Vec<u8>> {
        self.pieces.into_iter()
    }

    /// Takes out the oldest piece.
    pub(super) fn pop(&mut self) -> Option<Vec<u8>> {
        let piece = self.pieces.pop_front()?;
        self.size -= piece.len();
        Some(piece)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_was_put_behind_comes_out_in_its_order_and_in_few_pieces() {
        let (mut backlog, mut pool) = (Backlog::default(), BufferPool::default());
        let mut expected = Vec::new();
        for round in 0..3000_usize {
            let size = if round % 500 == 499 {
                PIECE_SIZE
            } else {
                1 + round % 700
            };
            let bytes = vec![round as u8; size];
            expected.extend_from_slice(&bytes);
            backlog.push(bytes, &mut pool);
        }
        assert_eq!(backlog.size(), expected.len());
        let (mut all, mut count) = (Vec::new(), 0);
        while let Some(piece) = backlog.pop() {
            assert!(!piece.is_empty() && piece.capacity() <= 2 * PIECE_SIZE);
            all.extend_from_slice(&piece);
            pool.put(piece);
            count += 1;
        }
        assert_eq!((all.len(), backlog.size()), (expected.len(), 0));
        assert!(all == expected);
        assert!(
            count <= expected.len() / (PIECE_SIZE / 2) + 12,
            "{count} pieces"
        );
    }

    #[test]
    fn few_bytes_take_little_memory() {
        let (mut backlog, mut pool) = (Backlog::default(), BufferPool::default());
        for _ in 0..10 {
            backlog.push(vec![1; 100], &mut pool);
        }
        let room: usize = backlog.pieces.iter().map(Vec::capacity).sum();
        assert!(room <= 100 + SMALL_MAX, "{room}");
    }
}
