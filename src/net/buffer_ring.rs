//! The receive buffers of a shard, which the kernel picks from as data arrives.
//!
//! One group for all connections: an idle connection has no buffer, and a busy one as many as its
//! data needs. The kernel takes buffers from the ring inside `io_uring_enter` only, and the shard
//! gives each back in the turn in which it got it, so the kernel runs out of them only within a
//! burst; the receive that found none is armed again.

use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Receive buffers of a shard.
const BUFFER_COUNT: u16 = 256;
/// Bytes of each.
pub(super) const BUFFER_SIZE: usize = 16 * 1024;
/// Buffer rings are page aligned; this is the largest page size Linux runs with.
const ALIGNMENT: usize = 64 * 1024;
const ENTRIES_SIZE: usize = BUFFER_COUNT as usize * size_of::<BufRingEntry>();
const SLAB_SIZE: usize = BUFFER_COUNT as usize * BUFFER_SIZE;

const _: () = assert!(BUFFER_COUNT.is_power_of_two());

/// A ring of buffers shared with the kernel, and the buffers themselves.
#[derive(Debug)]
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    slab: NonNull<u8>,
    tail: u16,
}

fn allocate(size: usize) -> NonNull<u8> {
    let layout = layout(size);
    // SAFETY: both sizes used are constants above zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| handle_alloc_error(layout))
}

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, ALIGNMENT).expect("a constant layout")
}

impl BufferRing {
    /// Allocates the buffers and puts all of them into the ring.
    pub(super) fn new() -> Self {
        let mut ring = Self {
            entries: allocate(ENTRIES_SIZE).cast(),
            slab: allocate(SLAB_SIZE),
            tail: 0,
        };
        for buffer in 0..BUFFER_COUNT {
            ring.put(buffer);
        }
        ring.publish();
        ring
    }

    /// Address of the entries, to register with the kernel.
    pub(super) fn address(&self) -> u64 {
        self.entries.as_ptr() as u64
    }

    /// Entries in the ring.
    pub(super) fn entries(&self) -> u16 {
        BUFFER_COUNT
    }

    /// The first `size` bytes of `buffer`, which the kernel has filled and named in a completion.
    pub(super) fn bytes(&self, buffer: u16, size: usize) -> &[u8] {
        assert!(buffer < BUFFER_COUNT && size <= BUFFER_SIZE);
        // SAFETY: inside the slab, as just asserted; initialised, since the slab was zeroed. The
        // kernel writes only to buffers in the ring, and this one is out of it until `put`, which
        // takes `&mut self` and so ends this borrow.
        unsafe {
            std::slice::from_raw_parts(
                self.slab
                    .as_ptr()
                    .add(usize::from(buffer) * BUFFER_SIZE)
                    .cast_const(),
                size,
            )
        }
    }

    /// As [`BufferRing::bytes`], for what is decrypted where it lies.
    pub(super) fn bytes_mut(&mut self, buffer: u16, size: usize) -> &mut [u8] {
        assert!(buffer < BUFFER_COUNT && size <= BUFFER_SIZE);
        // SAFETY: as in `bytes`; the borrow is exclusive as long as it lasts, and buffers do not
        // overlap.
        unsafe {
            std::slice::from_raw_parts_mut(
                self.slab.as_ptr().add(usize::from(buffer) * BUFFER_SIZE),
                size,
            )
        }
    }

    /// Gives `buffer` back. The kernel sees it after [`BufferRing::publish`].
    pub(super) fn put(&mut self, buffer: u16) {
        assert!(buffer < BUFFER_COUNT);
        let index = usize::from(self.tail & (BUFFER_COUNT - 1));
        // SAFETY: inside the entries. The kernel reads an entry only between head and tail, and
        // there are as many entries as buffers, so this one is free. The tail overlays a reserved
        // field of entry 0 that none of the setters touches.
        let entry = unsafe { &mut *self.entries.as_ptr().add(index) };
        entry.set_addr(self.slab.as_ptr() as u64 + u64::from(buffer) * BUFFER_SIZE as u64);
        entry.set_len(BUFFER_SIZE as u32);
        entry.set_bid(buffer);
        self.tail = self.tail.wrapping_add(1);
    }

    /// Shows the kernel every buffer that was given back.
    pub(super) fn publish(&mut self) {
        // SAFETY: the address is that of the first entry, as `tail` asks; the field is 2 bytes,
        // aligned, and written by this thread only.
        let tail = unsafe {
            AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr().cast_const()).cast_mut())
        };
        // Pairs with the kernel's acquire load: it sees the entries before the tail.
        tail.store(self.tail, Ordering::Release);
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: allocated by `allocate` with the same layouts. The owner drops the io_uring, and
        // with it the kernel's use of this memory, first.
        unsafe {
            dealloc(self.entries.as_ptr().cast(), layout(ENTRIES_SIZE));
            dealloc(self.slab.as_ptr(), layout(SLAB_SIZE));
        }
    }
}
