//! Owned messages that are filled again once everybody has let go of them.
//!
//! A message for another shard or for a QoS 1 subscriber needs an `Arc<Message>` for some
//! microseconds. The pool keeps a reference to those it gave out; one whose other references are
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

#[derive(Debug, Default)]
pub(super) struct MessagePool {
    /// Oldest first: those are the likeliest to be free.
    given: VecDeque<Arc<Message>>,
}

impl MessagePool {
    /// An owned copy of `message`.
    pub(super) fn share(&mut self, message: MessageRef<'_>) -> Arc<Message> {
        let size = message.topic_name.len() + message.properties.len() + message.payload.len();
        if size > POOLED_SIZE_MAX {
            return Arc::new(Message::new(message));
        }
        for _ in 0..BUSY_MAX {
            let Some(mut candidate) = self.given.pop_front() else {
                break;
            };
            if let Some(free) = Arc::get_mut(&mut candidate) {
                free.fill(message);
                self.given.push_back(candidate.clone());
                return candidate;
            }
            // Something keeps it: a queue, the retained store. It leaves the pool once that is full.
            if self.given.len() < POOLED_MAX {
                self.given.push_back(candidate);
            }
        }
        let made = Arc::new(Message::new(message));
        if self.given.len() < POOLED_MAX {
            self.given.push_back(made.clone());
        }
        made
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
