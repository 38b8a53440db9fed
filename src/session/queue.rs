//! What waits for a Session: in order, with its size known. Nothing waits for most, who have a pointer for it.
//!
//! When it may have become another question who may read what, all that waits is in doubt. It is asked about from the oldest on,
//! some at a time, and what is not in doubt any more stands ahead of the rest. What comes meanwhile comes by the answer that
//! holds, so it is not in doubt.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::delivery::Delivery;
use crate::long_queue::LongQueue;
use crate::message::QoS;

/// Capacity an empty queue keeps.
const KEPT_MAX: usize = 64;

/// Deliveries that wait for a connection, and those of QoS 1 and 2 that wait for room in the inflight window.
#[derive(Debug, Default)]
pub struct Queue {
    /// Stays, once something has waited.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    deliveries: LongQueue<Delivery>,
    bytes: usize,
    doubt: Option<Box<Doubt>>,
    /// One of QoS 0 has come since nothing waited. It may have left.
    had_qos0: bool,
}

/// It is being asked whether what waits may be read.
#[derive(Debug, Default)]
struct Doubt {
    /// What may, ahead of all deliveries.
    ahead: LongQueue<Delivery>,
    /// So many of those, the oldest, are in doubt.
    count: usize,
}

impl Waiting {
    /// The oldest delivery, in doubt or not.
    #[cold]
    #[inline(never)]
    fn pop_in_doubt(&mut self) -> Option<Delivery> {
        let doubt = self.doubt.as_mut()?;
        let delivery = doubt.ahead.pop_front().or_else(|| {
            doubt.count = doubt.count.saturating_sub(1);
            self.deliveries.pop_front()
        });
        self.end_doubt();
        delivery
    }

    /// Once nothing is left of it.
    fn end_doubt(&mut self) {
        self.doubt
            .take_if(|doubt| doubt.count == 0 && doubt.ahead.is_empty());
    }

    fn len(&self) -> usize {
        let ahead = self.doubt.as_ref().map_or(0, |doubt| doubt.ahead.len());
        ahead + self.deliveries.len()
    }
}

impl Queue {
    /// Puts a delivery behind all others.
    pub fn push(&mut self, delivery: Delivery) {
        let was_empty = self.is_empty();
        let waiting = self.waiting.get_or_insert_default();
        waiting.had_qos0 = delivery.qos == QoS::AtMostOnce || waiting.had_qos0 && !was_empty;
        waiting.bytes += delivery.message.size();
        waiting.deliveries.push_back(delivery);
    }

    /// Puts deliveries whose messages have `bytes` together behind all others.
    pub fn push_chunk(&mut self, deliveries: VecDeque<Delivery>, bytes: usize) {
        let waiting = self.waiting.get_or_insert_default();
        // Nobody looks at them all: to wait behind them without need loses nothing.
        waiting.had_qos0 = true;
        waiting.bytes += bytes;
        waiting.deliveries.push_chunk(deliveries);
    }

    /// Takes the oldest delivery.
    pub fn pop(&mut self) -> Option<Delivery> {
        let waiting = self.waiting.as_mut()?;
        let delivery = match &waiting.doubt {
            None => waiting.deliveries.pop_front()?,
            Some(_) => waiting.pop_in_doubt()?,
        };
        waiting.bytes -= delivery.message.size();
        if waiting.deliveries.is_empty()
            && waiting.deliveries.capacity() > KEPT_MAX
            && waiting.doubt.is_none()
        {
            self.waiting = None;
        }
        Some(delivery)
    }

    /// The oldest delivery.
    #[must_use]
    pub fn first(&self) -> Option<&Delivery> {
        let waiting = self.waiting.as_ref()?;
        let ahead = waiting.doubt.as_ref().and_then(|it| it.ahead.front());
        ahead.or_else(|| waiting.deliveries.front())
    }

    /// The oldest delivery, unless it is in doubt.
    #[must_use]
    pub fn ready(&self) -> Option<&Delivery> {
        let waiting = self.waiting.as_ref()?;
        match &waiting.doubt {
            None => waiting.deliveries.front(),
            Some(doubt) if doubt.count == 0 => self.first(),
            Some(doubt) => doubt.ahead.front(),
        }
    }

    /// All that waits is in doubt from now on.
    pub fn doubt(&mut self) {
        let Some(waiting) = self.waiting.as_mut().filter(|it| it.len() > 0) else {
            return;
        };
        let doubt = waiting.doubt.get_or_insert_default();
        if !doubt.ahead.is_empty() {
            // In chunks, as it lies.
            let behind = std::mem::take(&mut waiting.deliveries);
            waiting.deliveries = std::mem::take(&mut doubt.ahead);
            waiting.deliveries.append(behind);
        }
        doubt.count = waiting.deliveries.len();
    }

    /// Deliveries in doubt.
    #[must_use]
    pub fn doubted(&self) -> usize {
        let waiting = self.waiting.as_ref();
        let doubt = waiting.and_then(|it| it.doubt.as_ref());
        doubt.map_or(0, |doubt| doubt.count)
    }

    /// Takes the oldest delivery that is in doubt, to be asked about and, if it may be read, [put
    /// back](Queue::put_ahead) before the next one is taken.
    pub fn take_doubted(&mut self) -> Option<Delivery> {
        let waiting = self.waiting.as_mut()?;
        let doubt = waiting.doubt.as_mut().filter(|doubt| doubt.count > 0)?;
        let delivery = waiting.deliveries.pop_front()?;
        doubt.count -= 1;
        waiting.bytes -= delivery.message.size();
        waiting.end_doubt();
        Some(delivery)
    }

    /// That one may be read.
    pub fn put_ahead(&mut self, delivery: Delivery) {
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += delivery.message.size();
        waiting
            .doubt
            .get_or_insert_default()
            .ahead
            .push_back(delivery);
    }

    /// All deliveries, the oldest first, from place `sequence` on: for a Session that is stored.
    pub fn from_place(&self, sequence: u64) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().flat_map(move |waiting| {
            let ahead = waiting.doubt.iter().map(|doubt| &doubt.ahead);
            ahead
                .chain([&waiting.deliveries])
                .flat_map(move |deliveries| {
                    deliveries.iter_from(move |it| it.place.sequence < sequence)
                })
        })
    }

    /// Takes out the deliveries that `is_wanted` picks; all others keep their order.
    pub fn take_if(&mut self, is_wanted: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let mut taken = Vec::new();
        let Some(waiting) = &mut self.waiting else {
            return taken;
        };
        let mut in_doubt = 0;
        if let Some(doubt) = &mut waiting.doubt {
            take_from(&mut doubt.ahead, &mut 0, &is_wanted, &mut taken);
            in_doubt = doubt.count;
        }
        take_from(
            &mut waiting.deliveries,
            &mut in_doubt,
            &is_wanted,
            &mut taken,
        );
        if let Some(doubt) = &mut waiting.doubt {
            doubt.count = in_doubt;
        }
        waiting.end_doubt();
        waiting.bytes -= taken
            .iter()
            .map(|delivery| delivery.message.size())
            .sum::<usize>();
        taken
    }

    /// Takes all deliveries, as they lie.
    pub fn take_all(&mut self) -> LongQueue<Delivery> {
        let Some(waiting) = self.waiting.take() else {
            return LongQueue::default();
        };
        let mut all = waiting.doubt.map(|doubt| doubt.ahead).unwrap_or_default();
        all.append(waiting.deliveries);
        all
    }

    /// Deliveries that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.as_ref().map_or(0, |it| it.len())
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_none_or(|it| it.deliveries.is_empty() && it.doubt.is_none())
    }

    /// Whether a delivery of QoS 0 may wait, behind which others of that QoS have to stay [MQTT-4.6.0-6].
    #[must_use]
    pub fn may_hold_qos0(&self) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_some_and(|it| it.had_qos0) && !self.is_empty()
    }

    /// Bytes of the messages that wait, each counted in full though others may share it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |it| it.bytes)
    }
}

/// Moves those that `is_wanted` picks from `queue`, the first `in_doubt` of which are in doubt, to `taken`.
fn take_from(
    queue: &mut LongQueue<Delivery>,
    in_doubt: &mut usize,
    is_wanted: impl Fn(&Delivery) -> bool,
    taken: &mut Vec<Delivery>,
) {
    if !queue.iter().any(&is_wanted) {
        return;
    }
    let (mut all, doubted) = (std::mem::take(queue), *in_doubt);
    let mut place = 0;
    while let Some(delivery) = all.pop_front() {
        if is_wanted(&delivery) {
            taken.push(delivery);
            *in_doubt -= usize::from(place < doubted);
        } else {
            queue.push_back(delivery);
        }
        place += 1;
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::message::{Message, MessageRef, QoS};
    use crate::session::{Place, ShareTag};

    fn delivery(payload: &[u8], share: Option<ShareTag>) -> Delivery {
        let message = MessageRef {
            topic_name: b"t",
            properties: b"",
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
        };
        Delivery {
            message: Arc::new(Message::new(message)),
            qos: QoS::AtLeastOnce,
            retain: false,
            share,
            subscription_identifiers: Default::default(),
            place: Default::default(),
        }
    }

    #[test]
    fn bytes_follow_everything_that_comes_and_goes() {
        let mut queue = Queue::default();
        queue.push(delivery(b"123", None));
        queue.push(delivery(b"4567", Some(ShareTag(1))));
        queue.push(delivery(b"8", None));
        assert_eq!((queue.len(), queue.bytes()), (3, 11));
        assert_eq!(queue.take_if(|delivery| delivery.share.is_some()).len(), 1);
        assert_eq!((queue.len(), queue.bytes()), (2, 6));
        assert_eq!(queue.pop().map(|delivery| delivery.message.size()), Some(4));
        assert_eq!(
            queue.first().map(|delivery| delivery.message.size()),
            Some(2)
        );
        queue.pop();
        assert_eq!(
            (queue.pop().is_none(), queue.bytes(), queue.is_empty()),
            (true, 0, true)
        );
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Push(usize),
        Pop(usize),
        Doubt,
        /// So many are asked about; those with a multiple of this sequence may not be read.
        Judge(usize, u64),
        TakeIf(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (1..900_usize).prop_map(Step::Push),
            (1..700_usize).prop_map(Step::Pop),
            Just(Step::Doubt),
            (1..900_usize, 1..5_u64).prop_map(|(most, divisor)| Step::Judge(most, divisor)),
            (2..9_u64).prop_map(Step::TakeIf),
        ]
    }

    /// A queue that is asked about as a whole, each delivery with whether it is in doubt.
    #[derive(Default)]
    struct Plain(VecDeque<(u64, bool)>);

    impl Plain {
        fn judge(&mut self, most: usize, divisor: u64) {
            let mut left = most;
            self.0.retain_mut(|(sequence, is_doubted)| {
                if !*is_doubted || left == 0 {
                    return true;
                }
                left -= 1;
                *is_doubted = false;
                !sequence.is_multiple_of(divisor)
            });
        }
    }

    proptest! {
        #[test]
        fn a_queue_in_doubt_keeps_its_order_and_what_is_in_doubt_is_not_ready(
            steps in prop::collection::vec(step(), 1..30),
        ) {
            let (mut queue, mut plain) = (Queue::default(), Plain::default());
            let size_of = |sequence: u64| 1 + sequence as usize % 3;
            let mut next = 0;
            for step in steps {
                match step {
                    Step::Push(count) => {
                        for sequence in next..next + count as u64 {
                            let mut pushed = delivery(&b"123"[..sequence as usize % 3], None);
                            pushed.place = Place { sequence, lsn: 0 };
                            queue.push(pushed);
                            plain.0.push_back((sequence, false));
                        }
                        next += count as u64;
                    }
                    Step::Pop(count) => {
                        for _ in 0..count {
                            let popped = queue.pop().map(|it| it.place.sequence);
                            prop_assert_eq!(popped, plain.0.pop_front().map(|it| it.0));
                        }
                    }
                    Step::Doubt => {
                        queue.doubt();
                        plain.0.iter_mut().for_each(|it| it.1 = true);
                    }
                    Step::Judge(most, divisor) => {
                        for _ in 0..most {
                            let Some(taken) = queue.take_doubted() else { break };
                            if !taken.place.sequence.is_multiple_of(divisor) {
                                queue.put_ahead(taken);
                            }
                        }
                        plain.judge(most, divisor);
                    }
                    Step::TakeIf(divisor) => {
                        let taken = queue.take_if(|it| it.place.sequence.is_multiple_of(divisor));
                        let taken = taken.iter().map(|it| it.place.sequence);
                        let wanted = plain.0.iter().map(|it| it.0);
                        prop_assert!(taken.eq(wanted.filter(|it| it.is_multiple_of(divisor))));
                        plain.0.retain(|it| !it.0.is_multiple_of(divisor));
                    }
                }
                let sequence = |delivery: &Delivery| delivery.place.sequence;
                let first = plain.0.front().copied();
                prop_assert_eq!(queue.first().map(sequence), first.map(|it| it.0));
                let ready = first.filter(|it| !it.1).map(|it| it.0);
                prop_assert_eq!(queue.ready().map(sequence), ready);
                prop_assert_eq!(queue.len(), plain.0.len());
                prop_assert_eq!(queue.is_empty(), plain.0.is_empty());
                prop_assert_eq!(queue.doubted(), plain.0.iter().filter(|it| it.1).count());
                let bytes = plain.0.iter().map(|it| size_of(it.0)).sum::<usize>();
                prop_assert_eq!(queue.bytes(), bytes);
                for from in [0, next / 2, next] {
                    let behind = plain.0.iter().map(|it| it.0).filter(|&it| it >= from);
                    prop_assert!(queue.from_place(from).map(sequence).eq(behind));
                }
            }
            let all = queue.take_all();
            let all = all.iter().map(|delivery| delivery.place.sequence);
            prop_assert!(all.eq(plain.0.iter().map(|it| it.0)));
            prop_assert_eq!((queue.len(), queue.bytes(), queue.doubted()), (0, 0, 0));
        }
    }
}
