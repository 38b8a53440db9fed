//! Buffers that wander between connections, so that only the busy ones hold any.
//!
//! Two sizes, so that a connection that sends a little does not end up with the buffer of one that
//! sends a lot.

#![forbid(unsafe_code)]

/// Below it a buffer counts as small.
pub(super) const SMALL_MAX: usize = 4 * 1024;
/// A larger buffer goes back to the allocator.
const LARGE_MAX: usize = 512 * 1024;
/// What is kept of either kind, bytes.
const KEPT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Buffers of either kind beyond which one that was not used is not kept.
const UNUSED_MAX: usize = 256;
/// So little is not worth to be looked at again when nothing else is: it stays.
const IDLE_BYTES_MAX: usize = 64 * 1024;

#[derive(Debug, Default)]
struct Shelf {
    buffers: Vec<Vec<u8>>,
    bytes: usize,
    /// Fewest buffers here since the last trim: so many were not needed.
    spare: usize,
}

impl Shelf {
    fn take(&mut self) -> Vec<u8> {
        let buffer = self.buffers.pop().unwrap_or_default();
        self.bytes -= buffer.capacity();
        self.spare = self.spare.min(self.buffers.len());
        buffer
    }

    /// Gives what was not needed since the last trim to the allocator.
    fn trim(&mut self) {
        let kept = self.buffers.len() - self.spare;
        for buffer in self.buffers.drain(kept..) {
            self.bytes -= buffer.capacity();
        }
        self.buffers.shrink_to(2 * kept);
        self.spare = kept;
    }

    fn put(&mut self, buffer: Vec<u8>) {
        if self.bytes + buffer.capacity() <= KEPT_BYTES_MAX {
            self.bytes += buffer.capacity();
            self.buffers.push(buffer);
        }
    }
}

/// The spare buffers of one shard.
#[derive(Debug, Default)]
pub(super) struct BufferPool {
    small: Shelf,
    large: Shelf,
}

impl BufferPool {
    /// An empty buffer for about `size_hint` bytes; without capacity if there is none to spare.
    pub(super) fn take(&mut self, size_hint: usize) -> Vec<u8> {
        if size_hint < SMALL_MAX {
            self.small.take()
        } else {
            self.large.take()
        }
    }

    /// Bytes of the buffers that are here.
    pub(super) const fn size(&self) -> usize {
        self.small.bytes + self.large.bytes
    }

    /// Whether it is worth to call [`BufferPool::trim`] though no connection has a buffer.
    #[inline]
    pub(super) const fn is_large(&self) -> bool {
        self.size() > IDLE_BYTES_MAX
    }

    /// Gives what nobody has needed since this was last called to the allocator.
    pub(super) fn trim(&mut self) {
        self.small.trim();
        self.large.trim();
    }

    /// Takes back a buffer that its connection has not used lately. There may be as many as connections, and
    /// what each was last sent may have been very little: most are worth less than what names them here.
    pub(super) fn put_unused(&mut self, buffer: Vec<u8>) {
        let shelf = if buffer.capacity() < SMALL_MAX {
            &self.small
        } else {
            &self.large
        };
        if shelf.buffers.len() < UNUSED_MAX {
            self.put(buffer);
        }
    }

    /// Takes a buffer back, whatever it holds.
    pub(super) fn put(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        match buffer.capacity() {
            0 => {}
            capacity if capacity < SMALL_MAX => self.small.put(buffer),
            capacity if capacity <= LARGE_MAX => self.large.put(buffer),
            _ => {}
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn buffers_come_back_empty_and_by_size() {
        let mut pool = BufferPool::default();
        assert_eq!(pool.take(0).capacity(), 0);
        pool.put(vec![1; 100]);
        pool.put(vec![1; 10_000]);
        pool.put(vec![1; LARGE_MAX + 1]);
        let large = pool.take(10_000);
        assert!(large.is_empty() && large.capacity() >= 10_000);
        assert_eq!(pool.take(10_000).capacity(), 0);
        let small = pool.take(10);
        assert!(small.is_empty() && (100..SMALL_MAX).contains(&small.capacity()));
    }

    #[test]
    fn buffers_that_nobody_has_needed_for_a_while_are_given_up() {
        let mut pool = BufferPool::default();
        for _ in 0..100 {
            pool.put(vec![1; 100]);
        }
        pool.trim();
        assert_eq!(pool.small.buffers.len(), 100);
        let taken: Vec<_> = (0..30).map(|_| pool.take(0)).collect();
        for buffer in taken {
            pool.put(buffer);
        }
        pool.trim();
        assert_eq!(pool.small.buffers.len(), 30);
        pool.trim();
        assert_eq!((pool.small.buffers.len(), pool.small.bytes), (0, 0));
    }

    #[test]
    fn of_what_connections_have_not_used_lately_few_are_kept() {
        let mut pool = BufferPool::default();
        for _ in 0..10_000 {
            pool.put_unused(vec![1; 8]);
            pool.put_unused(vec![1; SMALL_MAX]);
        }
        assert_eq!(pool.small.buffers.len(), UNUSED_MAX);
        assert_eq!(pool.large.buffers.len(), UNUSED_MAX);
        // What is used is kept, however many there are.
        for _ in 0..1000 {
            pool.put(vec![1; 8]);
        }
        assert_eq!(pool.small.buffers.len(), UNUSED_MAX + 1000);
    }

    #[test]
    fn kept_bytes_are_bounded() {
        let mut pool = BufferPool::default();
        for _ in 0..100 {
            pool.put(Vec::with_capacity(LARGE_MAX));
        }
        assert_eq!(pool.large.buffers.len(), KEPT_BYTES_MAX / LARGE_MAX);
    }
}
