//! A bounded single producer, single consumer queue.
//!
//! What costs time between two cores is a cache line that both want. So each end keeps its own index
//! in a plain field and a copy of the other's last seen index, and touches the shared ones only to
//! publish a batch, to give back a batch of slots, or when its copy says "full" or "empty".

use super::sync::{Arc, AtomicUsize, Ordering, UnsafeCell};
use crossbeam::utils::CachePadded;
use std::fmt;
use std::mem::MaybeUninit;

/// The consumer gives slots back at least this often within one long batch, so that a producer that
/// fills the ring is not held up until the batch ends.
const RELEASE_EVERY: usize = 64;

const _: () = assert!(RELEASE_EVERY.is_power_of_two());

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

impl<T> Drop for Shared<T> {
    fn drop(&mut self) {
        // Both ends are gone and have stored their indices in their own `drop`.
        let mut head = self.head.load(Ordering::Relaxed);
        let tail = self.tail.load(Ordering::Relaxed);
        while head != tail {
            self.slots[head & self.mask].with_mut(|slot| {
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
        self.shared.slots[self.tail & self.shared.mask].with_mut(|slot| {
            // SAFETY: `tail - head <= mask`, so this slot is outside of head..tail and belongs to
            // the only producer; it holds no item that would have to be dropped.
            unsafe { (*slot).write(item) };
        });
        self.tail = self.tail.wrapping_add(1);
        Ok(())
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
}

impl<T> Consumer<T> {
    /// Takes the oldest visible item.
    #[inline]
    pub fn pop(&mut self) -> Option<T> {
        if self.head == self.tail_seen && !self.refresh() {
            return None;
        }
        let item = self.shared.slots[self.head & self.shared.mask].with(|slot| {
            // SAFETY: `head != tail`, so the slot holds an item, published before the tail that was
            // read with acquire; it is taken once because `head` moves past it now.
            unsafe { (*slot).assume_init_read() }
        });
        self.head = self.head.wrapping_add(1);
        if self.head & (RELEASE_EVERY - 1) == 0 {
            self.release();
        }
        Some(item)
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
