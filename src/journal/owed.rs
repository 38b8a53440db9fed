//! What a Session is owed, while its log is read.
//!
//! Places come in order, but for a snapshot: it begins again with the oldest, behind later ones. So they
//! are kept in runs, each in order, and put together at the end. In one sequence every place that a
//! snapshot says would move all that came before it.

#![forbid(unsafe_code)]

use super::replay::{Progress, ReplayedDelivery};
use crate::long_queue::LongQueue;
use smallvec::SmallVec;

/// Runs at most. Logs have two: snapshots follow one another, and each replaces the log before it.
const RUNS_MAX: usize = 8;

/// Deliveries by place, none of which is there twice.
#[derive(Debug, Default)]
pub(super) struct Owed {
    runs: SmallVec<[LongQueue<ReplayedDelivery>; 2]>,
    /// Places in them of what was removed.
    gaps: usize,
}

impl Owed {
    /// Puts a delivery at its place, whatever was there.
    pub(super) fn put(&mut self, delivery: ReplayedDelivery) {
        self.place(delivery);
    }

    /// Puts each at its place. Those that follow one another go to the same run without looking for it.
    pub(super) fn put_all(&mut self, deliveries: impl Iterator<Item = ReplayedDelivery>) {
        let mut free: Option<(usize, u64, u64)> = None;
        for delivery in deliveries {
            let sequence = delivery.sequence;
            if let Some((index, after, before)) = &mut free
                && (*after < sequence && sequence < *before)
                && let Some(run) = self.runs.get_mut(*index)
            {
                run.push_back(delivery);
                *after = sequence;
                continue;
            }
            let index = self.place(delivery);
            free = index.map(|index| (index, sequence, self.next_taken(index, sequence)));
        }
    }

    /// Puts a delivery at its place, and which run has grown by it.
    fn place(&mut self, delivery: ReplayedDelivery) -> Option<usize> {
        let sequence = delivery.sequence;
        if let Some(known) = self.place_mut(sequence) {
            let was_over = is_over(known);
            *known = delivery;
            self.gaps -= usize::from(was_over);
            return None;
        }
        // The run that ends closest to it.
        let before = |run: &LongQueue<ReplayedDelivery>| {
            let last = run.back()?.sequence;
            (last < sequence).then_some(last)
        };
        let runs = self.runs.iter_mut().enumerate();
        let growing = runs.filter_map(|(index, run)| Some((before(run)?, index, run)));
        if let Some((_, index, run)) = growing.max_by_key(|(last, ..)| *last) {
            run.push_back(delivery);
            return Some(index);
        }
        if self.runs.len() >= RUNS_MAX {
            let joined = self.join();
            self.runs.push(joined);
        }
        self.runs.push(LongQueue::from_iter([delivery]));
        Some(self.runs.len() - 1)
    }

    /// The first place behind `sequence`, the end of the run `index`, that another run may have.
    fn next_taken(&self, index: usize, sequence: u64) -> u64 {
        let others = self.runs.iter().enumerate().filter(|it| it.0 != index);
        let behind = others.filter_map(|(_, run)| {
            let (first, last) = (run.front()?.sequence, run.back()?.sequence);
            (last > sequence).then_some(first)
        });
        behind.min().unwrap_or(u64::MAX)
    }

    /// What is owed at a place.
    pub(super) fn get_mut(&mut self, sequence: u64) -> Option<&mut ReplayedDelivery> {
        self.place_mut(sequence).filter(|it| !is_over(it))
    }

    fn place_mut(&mut self, sequence: u64) -> Option<&mut ReplayedDelivery> {
        let mut runs = self.runs.iter_mut();
        runs.find_map(|run| place_mut(run, sequence))
    }

    /// Nothing is owed there any more.
    pub(super) fn remove(&mut self, sequence: u64) {
        for (index, run) in self.runs.iter_mut().enumerate() {
            let Some(delivery) = place_mut(run, sequence) else {
                continue;
            };
            self.gaps += usize::from(!is_over(delivery));
            // Closing the gap would move all that is behind it.
            delivery.message = None;
            delivery.progress = Progress::Waiting;
            while run.front().is_some_and(is_over) {
                run.pop_front();
                self.gaps -= 1;
            }
            if run.is_empty() {
                self.runs.remove(index);
            }
            return;
        }
    }

    /// Nothing is owed any more but what `is_owed`.
    pub(super) fn retain(&mut self, is_owed: impl Fn(&ReplayedDelivery) -> bool) {
        let mut kept = self.join();
        kept.retain(is_owed);
        if !kept.is_empty() {
            self.runs.push(kept);
        }
    }

    /// All of it, in order.
    pub(super) fn finish(mut self) -> LongQueue<ReplayedDelivery> {
        self.join()
    }

    fn join(&mut self) -> LongQueue<ReplayedDelivery> {
        let mut runs = std::mem::take(&mut self.runs);
        runs.sort_by_key(|run| run.front().map(|first| first.sequence));
        let ends = runs.windows(2).all(|pair| match pair {
            [one, next] => one.back().map(|it| it.sequence) < next.front().map(|it| it.sequence),
            _ => true,
        });
        let mut joined = LongQueue::default();
        if ends {
            for run in runs {
                joined.append(run);
            }
        } else {
            // None that is not in order is long.
            let first = |run: &LongQueue<ReplayedDelivery>| run.front().map(|it| it.sequence);
            while let Some(run) = runs
                .iter_mut()
                .filter(|it| !it.is_empty())
                .min_by_key(|it| first(it))
            {
                joined.extend(run.pop_front());
            }
        }
        if std::mem::take(&mut self.gaps) > 0 {
            joined.retain(|it| !is_over(it));
        }
        joined
    }
}

/// Whether this only keeps the place of what was removed.
fn is_over(delivery: &ReplayedDelivery) -> bool {
    delivery.message.is_none() && delivery.progress == Progress::Waiting
}

fn place_mut(
    run: &mut LongQueue<ReplayedDelivery>,
    sequence: u64,
) -> Option<&mut ReplayedDelivery> {
    // Nearly always it is a new one.
    if run.back()?.sequence < sequence {
        return None;
    }
    run.by_number_mut(sequence, |it| it.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::{Message, MessageRef, QoS};
    use proptest::prelude::*;
    use std::collections::BTreeMap;
    use std::sync::Arc;

    fn delivery(sequence: u64, payload: u8) -> ReplayedDelivery {
        let message = MessageRef {
            topic_name: b"t",
            properties: b"",
            payload: &[payload],
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
        };
        ReplayedDelivery {
            sequence,
            progress: Progress::Sent,
            message: Some(Arc::new(Message::new(message))),
            qos: QoS::AtLeastOnce,
            retain: false,
            share: None,
            subscription_identifiers: SmallVec::new(),
        }
    }

    #[test]
    fn a_snapshot_behind_later_places_makes_one_more_run() {
        let mut owed = Owed::default();
        for sequence in 500..1000 {
            owed.put(delivery(sequence, 0));
        }
        for again in 0..600 {
            owed.put(delivery(again, 1));
            owed.put(delivery(again + 1000, 0));
        }
        assert_eq!(owed.runs.len(), 2);
        let owed = owed.finish();
        assert!(owed.iter().map(|it| it.sequence).eq(0..1600));
        assert_eq!(owed[599], delivery(599, 1));
        assert_eq!(owed[600], delivery(600, 0));
    }

    proptest! {
        #[test]
        fn many_at_a_time_are_put_where_each_would_be_put(
            batches in prop::collection::vec(
                (0_u64..60, prop::collection::vec((0_u64..4, 0_u8..8), 1..20)),
                0..20,
            ),
        ) {
            let mut owed = Owed::default();
            let mut single = Owed::default();
            for (payload, (first, steps)) in (0..=255).cycle().zip(batches) {
                // Mostly in a row, with gaps and repetitions.
                let mut next = first;
                let mut batch = Vec::new();
                for (step, what) in steps {
                    batch.push(delivery(next, payload));
                    next = if what == 0 { first + step } else { next + step };
                }
                batch.iter().for_each(|it| single.put(it.clone()));
                owed.put_all(batch.into_iter());
                single.remove(first + 1);
                owed.remove(first + 1);
                prop_assert_eq!(&owed.runs, &single.runs);
                prop_assert_eq!(owed.gaps, single.gaps);
            }
        }

        #[test]
        fn whatever_the_order_it_holds_what_a_table_by_place_would(
            steps in prop::collection::vec((0_u64..40, 0_u8..4), 0..200),
        ) {
            let mut owed = Owed::default();
            let mut table = BTreeMap::new();
            for (payload, (sequence, what)) in (0..=255).cycle().zip(steps) {
                if what == 0 {
                    owed.remove(sequence);
                    table.remove(&sequence);
                } else {
                    owed.put(delivery(sequence, payload));
                    table.insert(sequence, delivery(sequence, payload));
                }
                prop_assert!(owed.runs.len() <= RUNS_MAX);
                prop_assert_eq!(owed.get_mut(sequence).cloned(), table.get(&sequence).cloned());
            }
            let expected: Vec<_> = table.into_values().collect();
            let owed = owed.finish();
            prop_assert!(owed.iter().eq(&expected), "{owed:?}");
        }
    }
}
