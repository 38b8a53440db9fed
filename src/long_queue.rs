//! A queue that may become long: what is in it is not moved when it grows, and what has left it is free.

#![forbid(unsafe_code)]

use std::collections::{VecDeque, vec_deque};
use std::fmt;
use std::iter::{Chain, Flatten};

/// Entries that lie together. A power of two, to which a short queue doubles.
const CHUNK: usize = 512;

/// All entries, in order.
pub type Iter<'a, T> = Chain<vec_deque::Iter<'a, T>, Flatten<vec_deque::Iter<'a, VecDeque<T>>>>;

/// Entries, the oldest first, in chunks.
#[derive(Clone)]
pub struct LongQueue<T> {
    /// Only empty if all is.
    front: VecDeque<T>,
    /// What is behind it. None is empty.
    rest: VecDeque<VecDeque<T>>,
    len: usize,
}

impl<T> LongQueue<T> {
    /// Entries.
    #[inline]
    #[must_use]
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Entries that fit without an allocation, while there are few.
    #[must_use]
    pub fn capacity(&self) -> usize {
        self.front.capacity()
    }

    /// Puts an entry behind all others.
    #[inline]
    pub fn push_back(&mut self, entry: T) {
        self.len += 1;
        let last = self.rest.back_mut().unwrap_or(&mut self.front);
        if last.len() < CHUNK {
            return last.push_back(entry);
        }
        let mut chunk = VecDeque::with_capacity(CHUNK);
        chunk.push_back(entry);
        self.rest.push_back(chunk);
    }

    /// Takes the oldest.
    #[inline]
    pub fn pop_front(&mut self) -> Option<T> {
        let entry = self.front.pop_front()?;
        self.len -= 1;
        if self.front.is_empty()
            && let Some(next) = self.rest.pop_front()
        {
            self.front = next;
        }
        Some(entry)
    }

    /// Puts entries that lie together behind all others, as they lie.
    pub fn push_chunk(&mut self, mut chunk: VecDeque<T>) {
        self.len += chunk.len();
        let last = self.rest.back_mut().unwrap_or(&mut self.front);
        if last.is_empty() {
            self.front = chunk;
        } else if last.len() + chunk.len() <= CHUNK {
            // Many small ones would be as many allocations.
            last.append(&mut chunk);
        } else if !chunk.is_empty() {
            self.rest.push_back(chunk);
        }
    }

    /// Takes the oldest that lie together.
    pub fn pop_chunk(&mut self) -> Option<VecDeque<T>> {
        if self.is_empty() {
            return None;
        }
        let next = self.rest.pop_front().unwrap_or_default();
        let chunk = std::mem::replace(&mut self.front, next);
        self.len -= chunk.len();
        Some(chunk)
    }

    /// Puts all of `other` behind what is here.
    pub fn append(&mut self, mut other: Self) {
        while let Some(chunk) = other.pop_chunk() {
            self.push_chunk(chunk);
        }
    }

    /// The oldest.
    #[inline]
    #[must_use]
    pub fn front(&self) -> Option<&T> {
        self.front.front()
    }

    /// The newest.
    #[inline]
    #[must_use]
    pub fn back(&self) -> Option<&T> {
        self.rest.back().unwrap_or(&self.front).back()
    }

    /// All of them, in order.
    pub fn iter(&self) -> Iter<'_, T> {
        self.front.iter().chain(self.rest.iter().flatten())
    }

    /// Those from the first on of which `is_before` says no, which it says of all behind it.
    pub fn iter_from(&self, is_before: impl Fn(&T) -> bool) -> impl Iterator<Item = &T> {
        let is_over = |chunk: &VecDeque<T>| chunk.back().is_none_or(&is_before);
        let (front, rest) = match is_over(&self.front) {
            true => {
                let index = self.rest.partition_point(is_over);
                (
                    self.rest.get(index),
                    self.rest.range((index + 1).min(self.rest.len())..),
                )
            }
            false => (Some(&self.front), self.rest.range(..)),
        };
        let front = front.map(|front| front.range(front.partition_point(&is_before)..));
        front.into_iter().flatten().chain(rest.flatten())
    }

    /// The entry that `number` gives this number, which it gives no other and by which they are in order.
    /// At once if the numbers around it have no gaps.
    pub fn by_number_mut(&mut self, wanted: u64, number: impl Fn(&T) -> u64) -> Option<&mut T> {
        let is_before = |chunk: &VecDeque<T>| chunk.back().is_none_or(|last| number(last) < wanted);
        let chunk = if is_before(&self.front) {
            let index = self.rest.partition_point(is_before);
            self.rest.get_mut(index)?
        } else {
            &mut self.front
        };
        let ahead = wanted.checked_sub(number(chunk.front()?))?;
        let guess = usize::try_from(ahead).ok()?;
        let index = match chunk.get(guess) {
            Some(entry) if number(entry) == wanted => guess,
            _ => chunk.binary_search_by_key(&wanted, number).ok()?,
        };
        chunk.get_mut(index)
    }

    /// Leaves only those that `is_kept` picks.
    pub fn retain(&mut self, mut is_kept: impl FnMut(&T) -> bool) {
        for mut chunk in std::mem::take(self).into_chunks() {
            chunk.retain(&mut is_kept);
            self.push_chunk(chunk);
        }
    }

    fn into_chunks(mut self) -> impl Iterator<Item = VecDeque<T>> {
        std::iter::from_fn(move || self.pop_chunk())
    }
}

impl<T> Default for LongQueue<T> {
    fn default() -> Self {
        Self {
            front: VecDeque::new(),
            rest: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for LongQueue<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl<T: PartialEq> PartialEq for LongQueue<T> {
    fn eq(&self, other: &Self) -> bool {
        self.len == other.len && self.iter().eq(other.iter())
    }
}

impl<T: Eq> Eq for LongQueue<T> {}

impl<'a, T> IntoIterator for &'a LongQueue<T> {
    type Item = &'a T;
    type IntoIter = Iter<'a, T>;

    fn into_iter(self) -> Iter<'a, T> {
        self.iter()
    }
}

impl<T> Extend<T> for LongQueue<T> {
    fn extend<I: IntoIterator<Item = T>>(&mut self, entries: I) {
        for entry in entries {
            self.push_back(entry);
        }
    }
}

impl<T> FromIterator<T> for LongQueue<T> {
    fn from_iter<I: IntoIterator<Item = T>>(entries: I) -> Self {
        let mut queue = Self::default();
        queue.extend(entries);
        queue
    }
}

#[cfg(test)]
impl<T> std::ops::Index<usize> for LongQueue<T> {
    type Output = T;

    fn index(&self, index: usize) -> &T {
        self.iter().nth(index).expect("an index of the queue")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn entries_stay_where_they_are_while_a_long_queue_grows() {
        let mut queue: LongQueue<u64> = (0..CHUNK as u64).collect();
        let first: *const u64 = queue.front().unwrap();
        for entry in CHUNK as u64..100 * CHUNK as u64 {
            queue.push_back(entry);
        }
        assert!(std::ptr::eq(first, queue.front().unwrap()));
        assert!(queue.iter().copied().eq(0..100 * CHUNK as u64));
    }

    #[test]
    fn what_has_left_a_long_queue_is_free() {
        let mut queue: LongQueue<u64> = (0..100 * CHUNK as u64).collect();
        while queue.len() > 1 {
            queue.pop_front();
        }
        assert_eq!((queue.rest.len(), queue.capacity()), (0, CHUNK));
        assert_eq!(queue.pop_front(), Some(100 * CHUNK as u64 - 1));
        assert_eq!((queue.pop_front(), queue.is_empty()), (None, true));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(usize),
        Pop(usize),
        Append(usize),
        Retain(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..3 * CHUNK).prop_map(Step::Push),
            (1..3 * CHUNK).prop_map(Step::Pop),
            (0..3 * CHUNK).prop_map(Step::Append),
            (2..9_u64).prop_map(Step::Retain),
        ]
    }

    proptest! {
        #[test]
        fn a_long_queue_is_a_queue(steps in prop::collection::vec(step(), 1..20)) {
            let mut queue = LongQueue::default();
            let mut plain = VecDeque::new();
            let mut next = 7_u64;
            for step in steps {
                match step {
                    Step::Push(count) => {
                        for entry in next..next + count as u64 {
                            queue.push_back(entry);
                            plain.push_back(entry);
                        }
                        next += count as u64;
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            prop_assert_eq!(queue.pop_front(), plain.pop_front());
                        }
                    }
                    Step::Append(count) => {
                        queue.append((next..next + count as u64).collect());
                        plain.extend(next..next + count as u64);
                        next += count as u64;
                    }
                    Step::Retain(divisor) => {
                        queue.retain(|entry| entry % divisor != 0);
                        plain.retain(|entry| entry % divisor != 0);
                    }
                }
                prop_assert_eq!(queue.len(), plain.len());
                prop_assert_eq!(queue.is_empty(), plain.is_empty());
                prop_assert_eq!((queue.front(), queue.back()), (plain.front(), plain.back()));
                prop_assert!(queue.iter().eq(&plain));
                for wanted in [0, 7, next / 2, next.saturating_sub(1), next] {
                    let index = plain.binary_search(&wanted).ok();
                    let found = queue.by_number_mut(wanted, |entry| *entry).copied();
                    prop_assert_eq!(found, index.map(|index| plain[index]));
                    let begin = plain.partition_point(|&entry| entry < wanted);
                    prop_assert!(queue.iter_from(|&entry| entry < wanted).eq(plain.range(begin..)));
                }
            }
        }
    }
}
