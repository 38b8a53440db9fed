//! Large payloads that are in many outboxes at once, and are there once.
//!
//! Two megabytes for a thousand Clients would be two gigabytes if each outbox had its own, and writing them one long
//! turn. So an outbox has a pointer to the message instead, as a queue does. A piece of the payload is copied when the
//! socket has taken what came before it.
//!
//! # Always true
//! - What is in the parts comes before what is in the outbox.
//! - Bytes of parts that have not been taken count as unsent.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;

use super::Shard;
use super::connection::Connection;
use crate::key::ConnectionKey;
use crate::message::Message;

/// Payloads from here on are shared.
const PAYLOAD_MIN: usize = 128 * 1024;
/// Bytes that are copied at once, and as many again when fewer are unsent.
const PIECE_SIZE: usize = 64 * 1024;

/// Which payloads are shared, and in what pieces they are sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sharing {
    pub(super) payload_min: usize,
    pub(super) piece_size: usize,
}

impl Default for Sharing {
    fn default() -> Self {
        Self {
            payload_min: PAYLOAD_MIN,
            piece_size: PIECE_SIZE,
        }
    }
}

impl Sharing {
    /// The message, if outboxes share its payload.
    #[inline]
    pub(super) fn of<'a>(&self, message: &'a Arc<Message>) -> Option<&'a Arc<Message>> {
        (message.payload().len() >= self.payload_min).then_some(message)
    }
}

/// A payload, and what is sent before it.
#[derive(Debug)]
struct Part {
    before: Vec<u8>,
    message: Arc<Message>,
    /// Bytes of both that have been taken.
    taken: usize,
}

/// What comes before the outbox.
#[derive(Debug, Default)]
pub(super) struct Parts {
    parts: VecDeque<Part>,
    /// Bytes of them that have not been taken.
    size: usize,
}

impl Parts {
    /// Appends the next bytes to `buffer`, until it has `size`. Returns how many payloads end there.
    fn take(&mut self, size: usize, buffer: &mut Vec<u8>) -> usize {
        let mut ended = 0;
        while let Some(part) = self.parts.front_mut()
            && buffer.len() < size
        {
            let (before, payload) = (&part.before, part.message.payload());
            let bytes = match before.get(part.taken..) {
                Some(bytes) if !bytes.is_empty() => bytes,
                _ => &payload[part.taken - before.len()..],
            };
            let count = bytes.len().min(size - buffer.len());
            buffer.extend_from_slice(&bytes[..count]);
            part.taken += count;
            self.size -= count;
            if part.taken == before.len() + payload.len() {
                self.parts.pop_front();
                ended += 1;
            }
        }
        ended
    }
}

impl Connection {
    /// The payload of `message` comes next. What stands in front of it is in the outbox.
    #[cold]
    #[inline(never)]
    pub(super) fn share_payload(&mut self, message: &Arc<Message>) {
        let before = std::mem::take(&mut self.outbox);
        let size = before.len() + message.payload().len();
        self.unsent += size;
        let parts = self.make_rare().parts.get_or_insert_default();
        parts.size += size;
        parts.parts.push_back(Part {
            before,
            message: message.clone(),
            taken: 0,
        });
    }

    /// Whether something comes before the outbox.
    #[inline]
    pub(super) fn has_parts(&self) -> bool {
        self.rare().is_some_and(|rare| rare.parts.is_some())
    }

    /// Bytes of that.
    pub(super) fn parts_size(&self) -> usize {
        let parts = self.rare().and_then(|rare| rare.parts.as_ref());
        parts.map_or(0, |parts| parts.size)
    }

    /// Whether the next piece of the parts is to be taken: little of what was is still unsent.
    pub(super) fn wants_piece(&self, piece_size: usize) -> bool {
        self.unsent - self.parts_size() < piece_size
    }

    /// Moves the next piece to `buffer`, which is empty, and the outbox behind the last one. Returns how many payloads end
    /// in it.
    #[cold]
    #[inline(never)]
    pub(super) fn take_piece(&mut self, size: usize, buffer: &mut Vec<u8>) -> usize {
        let Some(parts) = self.rare_mut().and_then(|rare| rare.parts.as_mut()) else {
            return 0;
        };
        let ended = parts.take(size, buffer);
        if parts.parts.is_empty() {
            self.make_rare().parts = None;
            self.tidy_rare();
            self.unsent += self.outbox.len();
            buffer.append(&mut self.outbox);
        }
        ended
    }
}

impl Shard {
    /// Whether some of a connection's output was left when it was last taken.
    #[must_use]
    pub fn has_left_output(&self, key: ConnectionKey) -> bool {
        let connection = self.clients.connections.get(key);
        connection.is_some_and(|connection| connection.has_parts())
    }

    /// Shares smaller payloads, and sends them in smaller pieces, for simulation.
    pub fn set_sharing(&mut self, payload_min: usize, piece_size: usize) {
        self.clients.sharing = Sharing {
            payload_min,
            piece_size,
        };
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig::{self, NOW, Rig};
    use super::*;
    use crate::codec;
    use crate::message::{ProtocolVersion, QoS};

    const VERSION: ProtocolVersion = ProtocolVersion::V311;
    const PINGREQ: [u8; 2] = [0xc0, 0];

    impl Rig {
        fn subscriber(&mut self, name: &str, qos: QoS) -> ConnectionKey {
            let key = self.connect(name, VERSION, 0);
            self.subscribe(key, VERSION, qos);
            // What it was answered has left.
            self.shard.handle_unsent(key, 0, NOW, &mut self.effects);
            key
        }

        /// What a socket gets that takes everything at once, and in which pieces.
        fn sent(&mut self, key: ConnectionKey) -> Vec<Vec<u8>> {
            let mut pieces = Vec::new();
            loop {
                let mut piece = Vec::new();
                self.shard.take_output(key, &mut piece);
                if piece.is_empty() {
                    return pieces;
                }
                pieces.push(piece);
                self.effects.dirty.clear();
                self.shard.handle_unsent(key, 0, NOW, &mut self.effects);
                let is_named = self.effects.dirty.contains(&key);
                assert_eq!(is_named, self.shard.has_left_output(key));
            }
        }
    }

    fn publish(qos: QoS, payload: &[u8]) -> Vec<u8> {
        rig::publish(VERSION, qos, 1, payload)
    }

    #[test]
    fn large_payload_is_there_once_for_all_who_are_sent_it_and_leaves_in_pieces_and_in_order() {
        for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
            let mut rig = Rig::new();
            let keys = ["a", "b", "c"].map(|name| rig.subscriber(name, qos));
            let large: Vec<u8> = (0..300_000_u32).map(|index| index as u8).collect();
            let large = publish(qos, &large);
            let small = publish(QoS::AtMostOnce, b"small");
            // What comes first has found its topic; the next one could be a run.
            for packet in [&small, &large, &small] {
                rig.feed(keys[0], packet);
            }
            for key in &keys[1..] {
                let connection = rig.shard.clients.connections.get(*key).unwrap();
                assert!(connection.outbox.capacity() < 1000, "{qos:?}");
                assert_eq!(
                    connection.pending(),
                    [&small[..], &large, &small].concat().len()
                );
                let pieces = rig.sent(*key);
                assert!(pieces.len() > 3 && pieces.iter().all(|it| it.len() <= PIECE_SIZE + 20));
                assert_eq!(pieces.concat(), [&small[..], &large, &small].concat());
                assert_eq!(
                    rig.shard.clients.connections.get(*key).unwrap().pending(),
                    0
                );
            }
        }
    }

    #[test]
    fn socket_that_takes_nothing_is_given_no_more_than_two_pieces() {
        let mut rig = Rig::new();
        let keys = ["a", "b"].map(|name| rig.subscriber(name, QoS::AtMostOnce));
        rig.feed(keys[0], &publish(QoS::AtMostOnce, &[7; 300_000]));
        let (mut taken, mut piece) = (0, Vec::new());
        for _ in 0..10 {
            piece.clear();
            rig.shard.take_output(keys[1], &mut piece);
            taken += piece.len();
            rig.effects.dirty.clear();
            rig.shard
                .handle_unsent(keys[1], taken, NOW, &mut rig.effects);
            assert_eq!(rig.effects.dirty, []);
        }
        assert_eq!(taken, PIECE_SIZE);
        // It has taken a byte.
        rig.shard
            .handle_unsent(keys[1], taken - 1, NOW, &mut rig.effects);
        assert_eq!(rig.effects.dirty, [keys[1]]);
        rig.shard.take_output(keys[1], &mut piece);
        assert_eq!(taken + piece.len(), 2 * PIECE_SIZE);
    }

    #[test]
    fn connection_that_ends_gives_all_that_is_left_at_once() {
        let mut rig = Rig::new();
        let keys = ["a", "b"].map(|name| rig.subscriber(name, QoS::AtMostOnce));
        let large = publish(QoS::AtMostOnce, &[7; 300_000]);
        rig.feed(keys[0], &large);
        rig.feed(keys[1], &PINGREQ);
        let mut first = Vec::new();
        rig.shard.take_output(keys[1], &mut first);
        let mut last = Vec::new();
        rig.shard.take_last_output(keys[1], &mut last);
        let expected = [&large[..], &codec::PINGRESP].concat();
        assert_eq!([first, last].concat(), expected);
    }
}
