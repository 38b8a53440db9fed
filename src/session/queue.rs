//! What waits for a Session: in order, with its size known. Nothing waits for most, who have a pointer for it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::delivery::Delivery;
use crate::long_queue::LongQueue;

/// Capacity an empty queue keeps.
const KEPT_MAX: usize = 64;

/// QoS 1 and 2 deliveries that wait for room in the inflight window or for a connection.
#[derive(Debug, Default)]
pub struct Queue {
    /// Stays, once something has waited.
    waiting: Option<Box<Waiting>>,
}

#[derive(Debug, Default)]
struct Waiting {
    deliveries: LongQueue<Delivery>,
    bytes: usize,
}

impl Queue {
    /// Puts a delivery behind all others.
    pub fn push(&mut self, delivery: Delivery) {
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += delivery.message.size();
        waiting.deliveries.push_back(delivery);
    }

    /// Puts deliveries whose messages have `bytes` together behind all others.
    pub fn push_chunk(&mut self, deliveries: VecDeque<Delivery>, bytes: usize) {
        let waiting = self.waiting.get_or_insert_default();
        waiting.bytes += bytes;
        waiting.deliveries.push_chunk(deliveries);
    }

    /// Takes the oldest delivery.
    pub fn pop(&mut self) -> Option<Delivery> {
        let waiting = self.waiting.as_mut()?;
        let delivery = waiting.deliveries.pop_front()?;
        waiting.bytes -= delivery.message.size();
        if waiting.deliveries.is_empty() && waiting.deliveries.capacity() > KEPT_MAX {
            self.waiting = None;
        }
        Some(delivery)
    }

    /// The oldest delivery.
    #[must_use]
    pub fn first(&self) -> Option<&Delivery> {
        self.waiting.as_ref()?.deliveries.front()
    }

    /// All deliveries, the oldest first, from place `sequence` on: for a Session that is stored.
    pub fn from_place(&self, sequence: u64) -> impl Iterator<Item = &Delivery> {
        self.waiting.iter().flat_map(move |waiting| {
            let deliveries = &waiting.deliveries;
            deliveries.iter_from(move |it| it.place.sequence < sequence)
        })
    }

    /// Takes out the deliveries that `is_wanted` picks; all others keep their order.
    pub fn take_if(&mut self, is_wanted: impl Fn(&Delivery) -> bool) -> Vec<Delivery> {
        let Some(waiting) = &mut self.waiting else {
            return Vec::new();
        };
        if !waiting.deliveries.iter().any(&is_wanted) {
            return Vec::new();
        }
        let mut taken = Vec::new();
        let mut all = std::mem::take(&mut waiting.deliveries);
        while let Some(delivery) = all.pop_front() {
            match is_wanted(&delivery) {
                true => taken.push(delivery),
                false => waiting.deliveries.push_back(delivery),
            }
        }
        waiting.bytes -= taken
            .iter()
            .map(|delivery| delivery.message.size())
            .sum::<usize>();
        taken
    }

    /// Takes all deliveries, as they lie.
    pub fn take_all(&mut self) -> LongQueue<Delivery> {
        self.waiting
            .take()
            .map_or_else(LongQueue::default, |it| it.deliveries)
    }

    /// Deliveries that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        let waiting = self.waiting.as_ref();
        waiting.map_or(0, |it| it.deliveries.len())
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let waiting = self.waiting.as_ref();
        waiting.is_none_or(|it| it.deliveries.is_empty())
    }

    /// Bytes of the messages that wait, each counted in full though others may share it.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.waiting.as_ref().map_or(0, |it| it.bytes)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::{Message, MessageRef, QoS};
    use crate::session::ShareTag;

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
}
