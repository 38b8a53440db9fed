//! A bounded single producer, single consumer queue.
//!
//! What costs time between two cores is a cache line that both want. So each end keeps its own index
//! in a plain field and a copy of the other's last seen index, and touches the shared ones only to
//! publish a batch, to give back a batch of slots, or when its copy says "full" or "empty".

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use crossbeam::utils::CachePadded;
use std::fmt;
use std::mem::MaybeUninit;

/// Within one long batch the consumer gives slots back once for each such part of the ring. Much more
/// often, and a producer that waits for room would follow it slot by slot, both fighting for the same
/// lines; only at the end of the batch, and that producer would wait for all of it.
const RELEASES_PER_LAP: usize = 4;

struct Shared<T> {
    slots: Box<[UnsafeCell<MaybeUninit<T>>]>,
    mask: usize,
    /// Slots from here on, up to `tail`, hold items. Written by the consumer.
    head: CachePadded<AtomicUsize>,
    /// The first slot without a published item. Written by the producer.
    tail: CachePadded<AtomicUsize>,
}

// SAFETY: the slots are the only field that is not `Sync` by itself. A slot between `head` and `tail`
// belongs to the consumer, any other one to the producer, and both ends are `!Clone`; the indices
// hand a slot over with release and acquire. Items move from thread to thread, hence `T: Send`.
unsafe impl<T: Send> Sync for Shared<T> {}
// SAFETY: as above; nothing in it is bound to the thread that made it.
unsafe impl<T: Send> Send for Shared<T> {}

impl<T> Shared<T> {
    /// The slot for the item with this number.
    #[inline(always)]
    fn slot(&self, index: usize) -> &UnsafeCell<MaybeUninit<T>> {
        // SAFETY: the mask is one less than the number of slots, a power of two.
        unsafe { self.slots.get_unchecked(index & self.mask) }
    }
}

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone and have stored their indices in their own `drop`.
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        while head != tail {
            self.slot(head).with_mut(|slot| {
                // SAFETY: slots from `head` to `tail` hold items, and `&mut self` means that nobody
                // else is left to take this one.
                unsafe { (*slot).assume_init_drop() }
            });
            head = head.wrapping_add(1);
        }
    }
}

/// Makes a ring with room for `capacity` items.
///
/// # Panics
/// If `capacity` is not a power of two.
#[must_use]
pub fn channel<T: Send>(capacity: usize) -> (Producer<T>, Consumer<T>) {
    assert!(
        capacity.is_power_of_two(),
        "ring capacity {capacity} is not a power of two"
    );
    let shared = Arc::new(Shared {
        slots: (0..capacity)
            .map(|_| UnsafeCell::new(MaybeUninit::uninit()))
            .collect(),
        mask: capacity - 1,
        head: CachePadded::new(AtomicUsize::new(0)),
        tail: CachePadded::new(AtomicUsize::new(0)),
    });
    let producer = Producer {
        shared: shared.clone(),
        tail: 0,
        published: 0,
        head_seen: 0,
    };
    let consumer = Consumer {
        shared,
        head: 0,
        tail_seen: 0,
        release_mask: (capacity / RELEASES_PER_LAP).max(1) - 1,
    };
    (producer, consumer)
}

/// The end that puts items in.
pub struct Producer<T> {
    shared: Arc<Shared<T>>,
    /// Where the next item goes.
    tail: usize,
    /// What the shared tail says: items from here to `tail` are pushed and not yet visible.
    published: usize,
    /// The consumer's head when last looked at; the real one is at most further on.
    head_seen: usize,
}

impl<T> Producer<T> {
    /// Stores `item`. The consumer sees it after the next [`Producer::publish`].
    ///
    /// # Errors
    /// The item comes back if the ring is full.
    #[inline]
    pub fn push(&mut self, item: T) -> Result<(), T> {
        if self.tail.wrapping_sub(self.head_seen) > self.shared.mask {
            // Pairs with the release store in `Consumer::release`: the consumer has finished with
            // every slot before this head.
            self.head_seen = self.shared.head.load(Ordering::Acquire);
            if self.tail.wrapping_sub(self.head_seen) > self.shared.mask {
                return Err(item);
            }
        }
        self.shared.slot(self.tail).with_mut(|slot| {
            // SAFETY: `tail - head <= mask`, so this slot is outside of head..tail and belongs to
            // the only producer; it holds no item that would have to be dropped.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
    }

    /// Stores items until the ring is full or there are no more, and returns how many. Cheaper than
    /// as many [`Producer::push`]. Takes no item that it has no room for.
    #[inline]
    pub fn extend(&mut self, items: impl IntoIterator<Item = T>) -> usize {
        let capacity = self.capacity();
        let first = self.tail;
        let mut tail = first;
        let mut items = items.into_iter();
        loop {
            let mut end = self.head_seen.wrapping_add(capacity);
            if tail == end {
                // Pairs with the release store in `Consumer::release`.
                self.head_seen = self.shared.head.load(Ordering::Acquire);
                end = self.head_seen.wrapping_add(capacity);
            }
            if tail == end {
                break;
            }
            while tail != end {
                let Some(item) = items.next() else {
                    self.tail = tail;
                    return tail.wrapping_sub(first);
                };
                self.shared.slot(tail).with_mut(|slot| {
                    // SAFETY: `tail` is before `head_seen + capacity`, so this slot is outside of
                    // head..tail and belongs to the only producer; it holds no item.
                    unsafe { (*slot).write(item) };
                });
                tail = tail.wrapping_add(1);
            }
            self.tail = tail;
        }
        tail.wrapping_sub(first)
    }

    /// Makes everything pushed so far visible. Tells whether there was anything new.
    #[inline]
    pub fn publish(&mut self) -> bool {
        if self.published == self.tail {
            return false;
        }
        // Pairs with the acquire load in `Consumer::refresh`.
        self.shared.tail.store(self.tail, Ordering::Release);
        self.published = self.tail;
        true
    }

    /// How many items can be pushed before the ring is full.
    #[inline]
    pub fn free_slots(&mut self) -> usize {
        // Pairs with the release store in `Consumer::release`.
        self.head_seen = self.shared.head.load(Ordering::Acquire);
        self.capacity() - self.tail.wrapping_sub(self.head_seen)
    }

    /// Room of the empty ring.
    #[inline]
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.shared.mask + 1
    }
}

impl<T> Drop for Producer<T> {
    fn drop(&mut self) {
        // What was pushed is delivered, or dropped with the ring.
        self.publish();
    }
}

impl<T> fmt::Debug for Producer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Producer")
            .field("capacity", &self.capacity())
            .finish_non_exhaustive()
    }
}

/// The end that takes items out.
pub struct Consumer<T> {
    shared: Arc<Shared<T>>,
    /// The next item to take.
    head: usize,
    /// The producer's tail when last looked at; the real one is at most further on.
    tail_seen: usize,
    /// Slots are given back when `head` has none of these bits.
    release_mask: usize,
}

impl<T> Consumer<T> {
    /// Takes the oldest visible item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen && !self.refresh() {
            return None;
        }
        let item = self.shared.slot(self.head).with(|slot| {
            // SAFETY: `head != tail`, so the slot holds an item, published before the tail that was
            // read with acquire; it is taken once because `head` moves past it now.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        if self.head & self.release_mask == 0 {
            self.release();
        }
        Some(item)
    }

    /// Takes all that is visible now, oldest first. Cheaper than as many [`Consumer::pop`]. What is
    /// not taken from the iterator stays in the ring.
    #[inline]
    pub fn drain(&mut self) -> Drain<'_, T> {
        self.refresh();
        let (next, end) = (self.head, self.tail_seen);
        // As if all were taken, so that no item is taken twice even if the iterator is never dropped.
        self.head = end;
        Drain {
            ring: self,
            next,
            end,
        }
    }

    /// Whether no item is visible.
    #[inline]
    pub fn is_empty(&mut self) -> bool {
        self.head == self.tail_seen && !self.refresh()
    }

    /// Gives the slots of all taken items back to the producer. [`Consumer::pop`] does so by itself
    /// every few items and when the ring is found empty.
    #[inline]
    pub fn release(&mut self) {
        // Pairs with the acquire loads in `Producer`: our reads of those slots come before this.
        self.shared.head.store(self.head, Ordering::Release);
    }

    /// Looks at the producer's tail. Tells whether there is an item.
    #[inline]
    fn refresh(&mut self) -> bool {
        // Only this end writes `head`, so the comparison needs no order; it saves the producer's
        // copy of the line from being invalidated when an idle ring is looked at.
        if self.shared.head.load(Ordering::Relaxed) != self.head {
            self.release();
        }
        // Pairs with the release store in `Producer::publish`.
        self.tail_seen = self.shared.tail.load(Ordering::Acquire);
        self.head != self.tail_seen
    }
}

/// The items of [`Consumer::drain`].
pub struct Drain<'a, T> {
    ring: &'a mut Consumer<T>,
    next: usize,
    end: usize,
}

impl<T> Iterator for Drain<'_, T> {
    type Item = T;

    #[inline]
    fn next(&mut self) -> Option<T> {
        if self.next == self.end {
            return None;
        }
        let item = self.ring.shared.slot(self.next).with(|slot| {
            // SAFETY: between the ring's head and its tail when `drain` was called, so it holds an
            // item, published before the tail that was read with acquire; `next` moves past it now.
            unsafe { (*slot).assume_init_read() }
        });
        self.next = self.next.wrapping_add(1);
        if self.next & self.ring.release_mask == 0 {
            // Pairs with the acquire loads in `Producer`, as in `Consumer::release`.
            self.ring.shared.head.store(self.next, Ordering::Release);
        }
        Some(item)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        let left = self.end.wrapping_sub(self.next);
        (left, Some(left))
    }
}

impl<T> ExactSizeIterator for Drain<'_, T> {}

impl<T> Drop for Drain<'_, T> {
    #[inline]
    fn drop(&mut self) {
        self.ring.head = self.next;
        self.ring.release();
    }
}

impl<T> fmt::Debug for Drain<'_, T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Drain").finish_non_exhaustive()
    }
}

impl<T> Drop for Consumer<T> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<T> fmt::Debug for Consumer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Consumer").finish_non_exhaustive()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::channel;
    use std::sync::Arc;

    #[test]
    fn pushed_items_are_visible_after_publish_only() {
        let (mut producer, mut consumer) = channel(4);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        assert_eq!(consumer.pop(), None);
        assert!(producer.publish());
        assert!(!producer.publish());
        assert_eq!(consumer.pop(), Some(1));
        assert_eq!(consumer.pop(), Some(2));
        assert_eq!(consumer.pop(), None);
    }

    #[test]
    fn a_full_ring_returns_the_item_and_takes_it_once_there_is_room() {
        let (mut producer, mut consumer) = channel(2);
        producer.push(1).unwrap();
        producer.push(2).unwrap();
        assert_eq!(producer.push(3), Err(3));
        assert_eq!(producer.free_slots(), 0);
        producer.publish();
        assert_eq!(consumer.pop(), Some(1));
        consumer.release();
        assert_eq!(producer.free_slots(), 1);
        producer.push(3).unwrap();
        producer.publish();
        assert_eq!(consumer.pop(), Some(2));
        assert_eq!(consumer.pop(), Some(3));
        assert!(consumer.is_empty());
        assert_eq!(producer.free_slots(), 2);
    }

    #[test]
    fn items_left_in_the_ring_are_dropped_once() {
        let witness = Arc::new(());
        let (mut producer, mut consumer) = channel(8);
        for _ in 0..6 {
            producer.push(witness.clone()).unwrap();
        }
        producer.publish();
        producer.push(witness.clone()).unwrap();
        drop(consumer.pop());
        assert_eq!(Arc::strong_count(&witness), 7);
        drop(consumer);
        drop(producer);
        assert_eq!(Arc::strong_count(&witness), 1);
    }

    #[test]
    fn batches_are_bounded_by_the_room_and_leave_what_is_not_taken() {
        let (mut producer, mut consumer) = channel(4);
        let mut items = 0..7;
        assert_eq!(producer.extend(items.by_ref()), 4);
        assert_eq!(producer.extend(items.by_ref()), 0);
        assert_eq!(consumer.drain().next(), None);
        producer.publish();
        assert_eq!(consumer.drain().len(), 4);
        assert_eq!(consumer.drain().take(2).collect::<Vec<_>>(), [0, 1]);
        assert_eq!(producer.extend(items.by_ref()), 2);
        producer.publish();
        assert_eq!(consumer.pop(), Some(2));
        assert_eq!(consumer.drain().collect::<Vec<_>>(), [3, 4, 5]);
        assert!(consumer.is_empty());
        assert_eq!(producer.free_slots(), 4);
        assert_eq!(items.next(), Some(6));
    }

    #[test]
    fn a_drain_that_is_forgotten_takes_nothing_twice() {
        let (mut producer, mut consumer) = channel(4);
        producer.extend(["a", "b"].map(String::from));
        producer.publish();
        std::mem::forget(consumer.drain());
        assert_eq!(consumer.pop(), None);
        producer.extend(["c"].map(String::from));
        producer.publish();
        assert_eq!(consumer.pop().as_deref(), Some("c"));
    }

    #[test]
    fn two_threads_see_every_item_in_order_in_batches() {
        const ITEMS: u64 = 200_000;
        let (mut producer, mut consumer) = channel(64);
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            while next < ITEMS {
                let end = ITEMS.min(next + 1 + next % 97);
                next += producer.extend((next..end).map(Box::new)) as u64;
                if !producer.publish() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            let before = expected;
            for item in consumer.drain() {
                assert_eq!(*item, expected);
                expected += 1;
            }
            if expected == before {
                std::thread::yield_now();
            }
        }
        thread.join().unwrap();
        assert!(consumer.is_empty());
    }

    #[test]
    fn two_threads_see_every_item_in_order() {
        const ITEMS: u64 = 200_000;
        let (mut producer, mut consumer) = channel(64);
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            while next < ITEMS {
                // Uneven batches, so that publishing and filling up meet in every way.
                for _ in 0..=next % 97 {
                    if next == ITEMS || producer.push(Box::new(next)).is_err() {
                        break;
                    }
                    next += 1;
                }
                if !producer.publish() {
                    std::thread::yield_now();
                }
            }
        });
        let mut expected = 0;
        while expected < ITEMS {
            match consumer.pop() {
                Some(item) => {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                None => std::thread::yield_now(),
            }
        }
        thread.join().unwrap();
        assert!(consumer.is_empty());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::channel;

    #[test]
    fn items_cross_in_order_through_a_full_ring() {
        loom::model(|| {
            let (mut producer, mut consumer) = channel(2);
            let thread = loom::thread::spawn(move || {
                let mut item = 0;
                while item < 3 {
                    // Boxes, so that loom also finds a leak or a double drop.
                    match producer.push(Box::new(item)) {
                        Ok(()) => item += 1,
                        Err(_) => {
                            producer.publish();
                            loom::thread::yield_now();
                        }
                    }
                }
                producer.publish();
            });
            for expected in 0..3 {
                let item = loop {
                    match consumer.pop() {
                        Some(item) => break item,
                        None => loom::thread::yield_now(),
                    }
                };
                assert_eq!(*item, expected);
            }
            thread.join().unwrap();
            assert!(consumer.is_empty());
        });
    }

    #[test]
    fn batches_cross_in_order_through_a_full_ring() {
        loom::model(|| {
            let (mut producer, mut consumer) = channel(2);
            let thread = loom::thread::spawn(move || {
                let mut items = (0..3).map(Box::new).peekable();
                while items.peek().is_some() {
                    producer.extend(items.by_ref());
                    if !producer.publish() {
                        loom::thread::yield_now();
                    }
                }
            });
            let mut expected = 0;
            while expected < 3 {
                for item in consumer.drain() {
                    assert_eq!(*item, expected);
                    expected += 1;
                }
                loom::thread::yield_now();
            }
            thread.join().unwrap();
        });
    }

    #[test]
    fn ends_dropped_in_any_order_drop_what_is_left() {
        loom::model(|| {
            let (mut producer, mut consumer) = channel(2);
            let thread = loom::thread::spawn(move || {
                producer.push(Box::new(1)).unwrap();
                producer.publish();
                producer.push(Box::new(2)).unwrap();
            });
            if let Some(item) = consumer.pop() {
                assert_eq!(*item, 1);
            }
            drop(consumer);
            thread.join().unwrap();
        });
    }
}
