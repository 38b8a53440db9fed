//! How a shard goes to sleep without missing what a peer publishes at that very moment.
//!
//! The sleeper writes its flag, then reads the rings. The publisher writes its ring, then reads the
//! flag. With a sequentially consistent fence between the write and the read on both sides, at least
//! one of the two sees the other's write: either the sleeper finds the item and stays awake, or the
//! publisher finds the flag and wakes it. Without the fences both reads may come before both writes.

use super::sync::{AtomicBool, Ordering, fence};
use crossbeam::utils::CachePadded;

/// The flag of one shard. It sleeps; its peers ask whether it must be woken.
#[derive(Debug)]
pub struct Sleep {
    // Alone on its cache line: every peer reads it once a turn, only a change of state writes it.
    asleep: CachePadded<AtomicBool>,
}

impl Default for Sleep {
    fn default() -> Self {
        Self {
            asleep: CachePadded::new(AtomicBool::new(false)),
        }
    }
}

impl Sleep {
    /// Announces that this shard is about to sleep. It must look at its rings once more after this,
    /// and sleep only if they are empty.
    #[inline]
    pub fn announce(&self) {
        self.asleep.store(true, Ordering::Relaxed);
        // Pairs with the fence in `take_wake`.
        fence(Ordering::SeqCst);
    }

    /// This shard is awake again, or did not sleep after all. A wake-up may still be under way.
    #[inline]
    pub fn retract(&self) {
        // Nothing is ordered by this store: a publisher that still reads `true` wakes once for nothing.
        self.asleep.store(false, Ordering::Relaxed);
    }

    /// After publishing to this shard: whether the caller must wake it. Of all the peers that ask,
    /// one is told so.
    #[inline]
    #[must_use]
    pub fn take_wake(&self) -> bool {
        // Pairs with the fence in `announce`.
        fence(Ordering::SeqCst);
        // The plain load keeps the line shared while the shard is awake, the usual case.
        self.asleep.load(Ordering::Relaxed) && self.asleep.swap(false, Ordering::Relaxed)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Sleep;

    #[test]
    fn one_wake_is_due_for_each_announcement() {
        let sleep = Sleep::default();
        assert!(!sleep.take_wake());
        sleep.announce();
        assert!(sleep.take_wake());
        assert!(!sleep.take_wake());
        sleep.announce();
        sleep.retract();
        assert!(!sleep.take_wake());
    }
}

#[cfg(all(test, loom))]
mod loom_tests {
    use super::super::{channel, sync::Arc};
    use super::Sleep;

    #[test]
    fn a_sleeper_finds_the_item_or_is_woken() {
        loom::model(|| {
            let (mut producer, mut consumer) = channel(2);
            let sleep = Arc::new(Sleep::default());
            let flag = sleep.clone();
            let publisher = loom::thread::spawn(move || {
                producer.push(7).unwrap();
                producer.publish();
                flag.take_wake()
            });
            sleep.announce();
            let found = !consumer.is_empty();
            if found {
                sleep.retract();
            }
            let woken = publisher.join().unwrap();
            assert!(found || woken, "the shard sleeps and nobody wakes it");
            assert_eq!(consumer.pop(), Some(7));
        });
    }

    #[test]
    fn of_two_publishers_one_wakes() {
        loom::model(|| {
            let (mut first, mut consumer_a) = channel(2);
            let (mut second, mut consumer_b) = channel(2);
            let sleep = Arc::new(Sleep::default());
            let (flag_a, flag_b) = (sleep.clone(), sleep.clone());
            let a = loom::thread::spawn(move || {
                first.push(1).unwrap();
                first.publish();
                flag_a.take_wake()
            });
            let b = loom::thread::spawn(move || {
                second.push(2).unwrap();
                second.publish();
                flag_b.take_wake()
            });
            sleep.announce();
            let found = !consumer_a.is_empty() || !consumer_b.is_empty();
            let woken = [a.join().unwrap(), b.join().unwrap()];
            assert!(found || woken != [false, false]);
            assert_ne!(woken, [true, true], "woken twice");
        });
    }
}
