//! The receive buffers of a shard, which the kernel picks from as data arrives.
//!
//! One group for all connections: an idle connection has no buffer, and a busy one as many as its
//! data needs. The kernel takes buffers from the ring inside `io_uring_enter` only, and the shard
//! gives each back in the turn in which it got it, or in one of the next if it had no time, so the kernel runs
//! out of them only within a burst; the receive that found none is armed again.
//!
//! The kernel takes them in turn, so all that circulate are soon in use, and what they hold together comes
//! between the moment a byte is copied and the moment it is read. So only some circulate, few enough to stay
//! in a core's cache. The others join when receives find none though little is in each.

use io_uring::types::BufRingEntry;
use std::alloc::{Layout, alloc_zeroed, dealloc, handle_alloc_error};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, Ordering};

/// Receive buffers of a shard.
const BUFFER_COUNT: u16 = 256;
/// As many of them circulate at least: half a megabyte at most between the kernel and the core, and what
/// it costs to arm a receive again is little beside what so many buffers hold.
const CIRCULATING_MIN: u16 = 32;
/// Turns after which buffers that were not needed in any of them stop to circulate.
const TURNS_TO_SHRINK: u32 = 1024;
/// Bytes of each.
pub(super) const BUFFER_SIZE: usize = 16 * 1024;
/// Buffer rings are page aligned; this is the largest page size Linux runs with.
const ALIGNMENT: usize = 64 * 1024;
const ENTRIES_SIZE: usize = BUFFER_COUNT as usize * size_of::<BufRingEntry>();
const SLAB_SIZE: usize = BUFFER_COUNT as usize * BUFFER_SIZE;

const _: () = assert!(BUFFER_COUNT.is_power_of_two());
const _: () = assert!(BUFFER_SIZE < u16::MAX as usize);
const _: () = assert!(CIRCULATING_MIN.is_power_of_two() && CIRCULATING_MIN <= BUFFER_COUNT);

/// How many buffers are to circulate.
#[derive(Debug)]
struct Demand {
    /// Between [`CIRCULATING_MIN`] and [`BUFFER_COUNT`], by powers of two.
    wanted: u16,
    /// Came back in this turn, and with so many bytes.
    used: u16,
    bytes: usize,
    /// Receives of this turn that found none.
    missed: u16,
    /// Most that came back in one of the turns that are looked at.
    peak: u16,
    turns: u32,
}

impl Demand {
    const fn new() -> Self {
        Self {
            wanted: CIRCULATING_MIN,
            used: 0,
            bytes: 0,
            missed: 0,
            peak: 0,
            turns: 0,
        }
    }

    /// A turn has ended.
    // HOT: per turn.
    fn end_turn(&mut self) {
        self.peak = self.peak.max(self.used);
        self.turns += 1;
        // Connections with much to say fill any number, and lose little by waiting for each other. Many with
        // a little each would be armed again one by one, and little of each buffer is in the cache.
        let is_filled = self.bytes > usize::from(self.used) * (BUFFER_SIZE / 4);
        if self.missed > self.wanted / 16 && !is_filled {
            self.wanted = (self.wanted * 2).min(BUFFER_COUNT);
            (self.peak, self.turns) = (0, 0);
        } else if self.turns == TURNS_TO_SHRINK {
            if self.peak <= self.wanted / 4 {
                self.wanted = (self.wanted / 2).max(CIRCULATING_MIN);
            }
            (self.peak, self.turns) = (0, 0);
        }
        (self.used, self.bytes, self.missed) = (0, 0, 0);
    }
}

/// A ring of buffers shared with the kernel, and the buffers themselves.
#[derive(Debug)]
pub(super) struct BufferRing {
    entries: NonNull<BufRingEntry>,
    slab: NonNull<u8>,
    tail: u16,
    demand: Demand,
    /// Buffers that do not circulate.
    aside: Vec<u16>,
    /// Of buffers that the shard has only begun with, how many bytes the core has seen, and one.
    begun: [u16; BUFFER_COUNT as usize],
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
    /// Allocates the buffers and puts those that are to circulate into the ring.
    pub(super) fn new() -> Self {
        let mut ring = Self {
            entries: allocate(ENTRIES_SIZE).cast(),
            slab: allocate(SLAB_SIZE),
            tail: 0,
            demand: Demand::new(),
            // There are never more: it does not grow.
            aside: (CIRCULATING_MIN..BUFFER_COUNT).rev().collect(),
            begun: [0; BUFFER_COUNT as usize],
        };
        for buffer in 0..CIRCULATING_MIN {
            ring.push(buffer);
        }
        ring.show();
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

    /// Gives `buffer` back, which came with `size` bytes. The kernel sees it after
    /// [`BufferRing::publish`].
    pub(super) fn put(&mut self, buffer: u16, size: usize) {
        assert!(buffer < BUFFER_COUNT);
        self.begun[usize::from(buffer)] = 0;
        self.demand.used += 1;
        self.demand.bytes += size;
        if self.circulating() > self.demand.wanted {
            self.aside.push(buffer);
        } else {
            self.push(buffer);
        }
    }

    /// How much of `buffer` the core has seen, if it was begun with.
    pub(super) fn begun(&self, buffer: u16) -> Option<usize> {
        usize::from(self.begun[usize::from(buffer)]).checked_sub(1)
    }

    /// The core has seen so many bytes of `buffer`, and goes on with it later.
    pub(super) fn begin(&mut self, buffer: u16, size: usize) {
        // It is less than a buffer.
        self.begun[usize::from(buffer)] = size as u16 + 1;
    }

    /// A receive found no buffer.
    pub(super) fn miss(&mut self) {
        self.demand.missed = self.demand.missed.saturating_add(1);
    }

    /// Buffers in the ring and with the shard.
    pub(super) fn circulating(&self) -> u16 {
        BUFFER_COUNT - self.aside.len() as u16
    }

    fn push(&mut self, buffer: u16) {
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

    /// The turn has ended: shows the kernel every buffer that was given back, and more of them if too few
    /// circulate.
    // HOT: per turn.
    pub(super) fn publish(&mut self) {
        self.demand.end_turn();
        while self.circulating() < self.demand.wanted
            && let Some(buffer) = self.aside.pop()
        {
            self.push(buffer);
        }
        self.show();
    }

    fn show(&mut self) {
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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A turn in which `used` buffers come back with `size` bytes each and `missed` receives find none.
    fn turn(ring: &mut BufferRing, used: u16, size: usize, missed: u16) {
        for _ in 0..missed {
            ring.miss();
        }
        // The kernel takes what has been in the ring longest.
        let first = ring.tail.wrapping_sub(ring.circulating());
        let taken: Vec<u16> = (0..used)
            .map(|offset| usize::from(first.wrapping_add(offset) & (BUFFER_COUNT - 1)))
            // SAFETY: inside the entries; no kernel knows of this ring.
            .map(|index| unsafe { (*ring.entries.as_ptr().add(index)).bid() })
            .collect();
        for buffer in taken {
            ring.put(buffer, size);
        }
        ring.publish();
    }

    /// How many circulate: all that are not aside, where none is twice.
    fn circulating(ring: &BufferRing) -> u16 {
        let buffers = (0..BUFFER_COUNT).filter(|buffer| !ring.aside.contains(buffer));
        assert_eq!(buffers.count(), usize::from(ring.circulating()));
        ring.circulating()
    }

    #[test]
    fn more_buffers_circulate_once_many_receives_find_none_and_fewer_once_they_are_not_needed() {
        let mut ring = BufferRing::new();
        assert_eq!(circulating(&ring), 32);
        // Connections with much to say.
        turn(&mut ring, 32, BUFFER_SIZE, 100);
        assert_eq!(circulating(&ring), 32);
        // Hundreds with a little each.
        for (expected, used) in [(64, 32), (128, 64), (256, 128), (256, 256)] {
            turn(&mut ring, used, 100, 200);
            assert_eq!(circulating(&ring), expected);
        }
        for _ in 0..TURNS_TO_SHRINK {
            turn(&mut ring, 40, 100, 0);
        }
        // They leave as they come back.
        for left in [216, 176, 136, 128] {
            turn(&mut ring, 40, 100, 0);
            assert_eq!(circulating(&ring), left);
        }
        // More than a quarter is in use: that much room is not too much.
        for (used, expected) in [(33, 128), (32, 64)] {
            for _ in 0..3 * TURNS_TO_SHRINK {
                turn(&mut ring, used, 100, 0);
            }
            assert_eq!(circulating(&ring), expected);
        }
    }
}
