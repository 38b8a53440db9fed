//! What is shared for a moment and filled again once everybody has let go of them.
//!
//! A message for a QoS 1 subscriber or one too large for a batch that crosses needs an `Arc<Message>` for some
//! microseconds, and so does a batch. The pool keeps a reference to those it gave out; one whose other references are
//! gone is filled again, so the steady state allocates nothing and no free crosses cores.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use crate::message::{Message, MessageRef};

/// Messages remembered, bytes of a message that is worth it, and how many busy ones are passed over
/// before a new one is made. The first two bound what the pool can hold back: 1 MiB a shard.
const POOLED_MAX: usize = 2048;
const POOLED_SIZE_MAX: usize = 512;
const BUSY_MAX: usize = 2;

/// What was given out, and is given out again once nobody else has it.
#[derive(Debug)]
pub(super) struct Recycled<T> {
    /// Oldest first: those are the likeliest to be free.
    given: VecDeque<Arc<T>>,
    /// How many are remembered.
    most: usize,
}

impl<T: Default> Recycled<T> {
    pub(super) fn new(most: usize) -> Self {
        Self {
            given: VecDeque::new(),
            most,
        }
    }

    /// One that is only here, as `fill` leaves it.
    pub(super) fn give(&mut self, fill: impl FnOnce(&mut T)) -> Arc<T> {
        for _ in 0..BUSY_MAX {
            let Some(mut candidate) = self.given.pop_front() else {
                break;
            };
            if let Some(free) = Arc::get_mut(&mut candidate) {
                fill(free);
                self.given.push_back(candidate.clone());
                return candidate;
            }
            // Something keeps it: a queue, the retained store. It leaves the pool once that is full.
            if self.given.len() < self.most {
                self.given.push_back(candidate);
            }
        }
        let mut made = T::default();
        fill(&mut made);
        let made = Arc::new(made);
        if self.given.len() < self.most {
            self.given.push_back(made.clone());
        }
        made
    }
}

#[derive(Debug)]
pub(super) struct MessagePool(Recycled<Message>);

impl Default for MessagePool {
    fn default() -> Self {
        Self(Recycled::new(POOLED_MAX))
    }
}

impl MessagePool {
    /// An owned copy of `message`.
    pub(super) fn share(&mut self, message: MessageRef<'_>) -> Arc<Message> {
        if message.size() > POOLED_SIZE_MAX {
            return Arc::new(Message::new(message));
        }
        self.0.give(|free| free.fill(message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::QoS;

    fn message(payload: &[u8]) -> MessageRef<'_> {
        MessageRef {
            topic_name: b"t",
            properties: b"",
            payload,
            qos: QoS::AtMostOnce,
            retain: false,
            expires_at: None,
        }
    }

    #[test]
    fn a_message_nobody_holds_is_filled_again_and_a_held_one_never() {
        let mut pool = MessagePool::default();
        let held = pool.share(message(b"held"));
        let first = Arc::as_ptr(&pool.share(message(b"one")));
        assert_eq!(Arc::as_ptr(&pool.share(message(b"two"))), first);
        assert_eq!(held.as_ref().as_ref().payload, b"held");
    }
}
