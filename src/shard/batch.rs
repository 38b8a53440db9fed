//! Small messages on their way to one other shard, side by side in one buffer.
//!
//! What a message costs that crosses is mostly cache lines that another core has: of the ring, of its counts, of its
//! bytes. Those of one turn to one shard lie behind each other, so that few lines carry many and come in order.

#![forbid(unsafe_code)]

use super::pool::Recycled;
use super::run::Run;
use super::store::Ticket;
use crate::message::{MessageRef, ProtocolVersion, QoS};
use crate::time::Instant;
use std::sync::Arc;

/// Bytes of topic, properties and payload of a message that is worth copying. Larger ones are shared.
pub(super) const BATCHED_SIZE_MAX: usize = 512;
/// What one batch holds at most: no more than one core's cache has room for beside other things. A run counts as one
/// message.
const ENTRIES_MAX: usize = 32;
const BYTES_MAX: usize = 4096;
/// Batches remembered to be filled again. With the above this bounds what a shard holds back: 1.9 MiB.
const POOLED_MAX: usize = 256;

/// Where a message lies, and what does not lie there.
#[derive(Clone, Copy, Debug)]
struct Head {
    start: u16,
    topic_size: u16,
    properties_size: u16,
    payload_size: u16,
    qos: QoS,
    expires_at: Option<Instant>,
}

/// Packets of a run, which lie there as they came.
#[derive(Clone, Copy, Debug)]
struct Packets {
    start: u16,
    size: u16,
    version: ProtocolVersion,
}

#[derive(Clone, Copy, Debug)]
enum Entry {
    Message(Head),
    Packets(Packets),
}

/// What a batch has at one place.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Item<'a> {
    Message(MessageRef<'a>),
    /// Of one run, whole ones.
    Packets(ProtocolVersion, &'a [u8]),
}

const _: () = assert!(BYTES_MAX + BATCHED_SIZE_MAX <= u16::MAX as usize);

/// Messages for the subscribers of one shard, in the order in which they were published. None is retained.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    entries: Vec<Entry>,
    /// Of each message topic, properties and payload; or packets.
    bytes: Vec<u8>,
    /// How many messages all entries are.
    count: usize,
    /// Those of which the sender wants to know when what they cause is stored, by their numbers.
    tickets: Vec<(u16, Ticket)>,
}

impl Batch {
    /// How many messages it has.
    #[must_use]
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether it has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether another message is to begin another batch.
    fn is_full(&self) -> bool {
        self.entries.len() >= ENTRIES_MAX || self.bytes.len() >= BYTES_MAX
    }

    // HOT: per PUBLISH to another shard.
    fn push(&mut self, message: &MessageRef<'_>, ticket: Option<Ticket>) {
        debug_assert!(!message.retain && message.size() <= BATCHED_SIZE_MAX);
        if let Some(ticket) = ticket {
            self.tickets.push((self.entries.len() as u16, ticket));
        }
        self.entries.push(Entry::Message(Head {
            start: self.bytes.len() as u16,
            topic_size: message.topic_name.len() as u16,
            properties_size: message.properties.len() as u16,
            payload_size: message.payload.len() as u16,
            qos: message.qos,
            expires_at: message.expires_at,
        }));
        self.bytes.extend_from_slice(message.topic_name);
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(message.payload);
        self.count += 1;
    }

    // HOT: per run to another shard.
    fn push_run(&mut self, run: &Run<'_>) {
        self.entries.push(Entry::Packets(Packets {
            start: self.bytes.len() as u16,
            size: run.size() as u16,
            version: run.version(),
        }));
        self.bytes.extend_from_slice(run.bytes());
        self.count += run.count();
    }

    fn clear(&mut self) {
        self.entries.clear();
        self.bytes.clear();
        self.count = 0;
        self.tickets.clear();
    }

    /// What the sender wants to know of the message at this place.
    #[inline]
    pub(super) fn ticket(&self, index: usize) -> Option<Ticket> {
        if self.tickets.is_empty() {
            return None;
        }
        let found = self
            .tickets
            .binary_search_by_key(&index, |&(index, _)| index.into());
        found.ok().map(|at| self.tickets[at].1)
    }

    /// What is at this place, if there are as many.
    #[inline]
    pub(super) fn get(&self, index: usize) -> Option<Item<'_>> {
        let head = match self.entries.get(index)? {
            Entry::Message(head) => head,
            &Entry::Packets(Packets {
                start,
                size,
                version,
            }) => {
                let bytes = &self.bytes[start.into()..][..size.into()];
                return Some(Item::Packets(version, bytes));
            }
        };
        let (topic_name, rest) = self.bytes[head.start.into()..].split_at(head.topic_size.into());
        let (properties, rest) = rest.split_at(head.properties_size.into());
        Some(Item::Message(MessageRef {
            topic_name,
            properties,
            payload: &rest[..head.payload_size.into()],
            qos: head.qos,
            retain: false,
            expires_at: head.expires_at,
        }))
    }
}

/// The batch for one shard that is being filled.
#[derive(Debug, Default)]
pub(super) struct OpenBatch(Batch);

impl OpenBatch {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a message, and what is wanted to be known of it. Tells whether the batch is to be closed before there is another one.
    // HOT: per PUBLISH to another shard.
    #[inline]
    pub(super) fn push(&mut self, message: &MessageRef<'_>, ticket: Option<Ticket>) -> bool {
        self.0.push(message, ticket);
        self.0.is_full()
    }

    /// Bytes of a run that it has room for: one packet of [`BATCHED_SIZE_MAX`] at least.
    pub(super) fn room(&self) -> usize {
        (BYTES_MAX + BATCHED_SIZE_MAX).saturating_sub(self.0.bytes.len())
    }

    /// As [`Self::push`], for a run of no more bytes than it has room for.
    // HOT: per run to another shard.
    pub(super) fn push_run(&mut self, run: &Run<'_>) -> bool {
        debug_assert!(run.size() <= self.room());
        self.0.push_run(run);
        self.0.is_full()
    }
}

/// Batches that are filled again once their receivers have let go of them.
#[derive(Debug)]
pub(super) struct BatchPool(Recycled<Batch>);

impl Default for BatchPool {
    fn default() -> Self {
        Self(Recycled::new(POOLED_MAX))
    }
}

impl BatchPool {
    /// What `open` has gathered, to be sent. It is empty then, and has the buffers of a batch that was read.
    pub(super) fn close(&mut self, open: &mut OpenBatch) -> Arc<Batch> {
        self.0.give(|free| {
            free.clear();
            std::mem::swap(free, &mut open.0);
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message<'a>(
        topic_name: &'a [u8],
        payload: &'a [u8],
        expires_at: Option<Instant>,
    ) -> MessageRef<'a> {
        MessageRef {
            topic_name,
            properties: b"properties",
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at,
        }
    }

    #[test]
    fn messages_come_out_as_and_in_the_order_in_which_they_went_in() {
        let (mut pool, mut open) = (BatchPool::default(), OpenBatch::default());
        let messages = [
            message(b"a", b"first", None),
            message(b"b/c", b"", Some(Instant::ZERO)),
            message(b"a", &[7; 400], None),
        ];
        for message in &messages {
            assert!(!open.push(message, None));
        }
        let batch = pool.close(&mut open);
        let read: Vec<_> = (0..).map_while(|index| batch.get(index)).collect();
        assert_eq!(read, messages.map(Item::Message));
        assert_eq!(batch.len(), messages.len());
        assert!(open.is_empty());
    }

    #[test]
    fn packets_of_a_run_lie_between_messages_as_they_came_and_are_counted_one_by_one() {
        let (mut pool, mut open) = (BatchPool::default(), OpenBatch::default());
        let packets = b"\x30\x04\0\x01t1\x30\x05\0\x01t22";
        let run = Run::of_some(ProtocolVersion::V311, packets).unwrap();
        let before = message(b"a", b"before", None);
        assert!(!open.push(&before, None));
        assert!(!open.push_run(&run));
        assert!(!open.push(&before, None));
        let batch = pool.close(&mut open);
        let read: Vec<_> = (0..).map_while(|index| batch.get(index)).collect();
        let items = [
            Item::Message(before),
            Item::Packets(ProtocolVersion::V311, packets),
            Item::Message(before),
        ];
        assert_eq!(read, items);
        assert_eq!(batch.len(), 4);
    }

    #[test]
    fn a_batch_that_is_not_full_has_room_for_a_packet() {
        let mut open = OpenBatch::default();
        let packet = [&b"\x30\xfd\x03\0\x01t"[..], &[0; 506]].concat();
        assert_eq!(packet.len(), BATCHED_SIZE_MAX);
        let run = Run::of_some(ProtocolVersion::V311, &packet).unwrap();
        while !open.push_run(&run) {
            assert!(open.room() >= BATCHED_SIZE_MAX);
        }
    }

    #[test]
    fn a_message_has_its_own_ticket_and_a_batch_that_is_filled_again_has_none_of_the_last_one() {
        let (mut pool, mut open) = (BatchPool::default(), OpenBatch::default());
        let ticket = |ticket| Ticket {
            ticket,
            origin: None,
            repeats: false,
        };
        let given = [None, Some(7), None, Some(9)];
        for number in given {
            open.push(&message(b"t", b"payload", None), number.map(ticket));
        }
        let batch = pool.close(&mut open);
        let read = [0, 1, 2, 3].map(|index| batch.ticket(index).map(|it| it.ticket));
        assert_eq!(read, given);
        drop(batch);
        for _ in 0..2 {
            open.push(&message(b"t", b"payload", None), None);
            let batch = pool.close(&mut open);
            assert!(batch.ticket(0).is_none() && batch.ticket(1).is_none());
        }
    }

    #[test]
    fn a_batch_is_full_at_so_many_messages_or_bytes() {
        for (payload, expected) in [(&[0; 0][..], ENTRIES_MAX), (&[0; 500][..], 9)] {
            let mut open = OpenBatch::default();
            let mut count = 1;
            let message = MessageRef {
                properties: b"",
                ..message(b"t", payload, None)
            };
            while !open.push(&message, None) {
                count += 1;
            }
            assert_eq!(count, expected);
        }
    }

    #[test]
    fn the_buffers_of_a_batch_are_used_again_once_it_was_read() {
        let (mut pool, mut open) = (BatchPool::default(), OpenBatch::default());
        let mut send = |pool: &mut BatchPool| {
            open.push(&message(b"t", b"payload", None), None);
            pool.close(&mut open)
        };
        let first = send(&mut pool);
        let address = Arc::as_ptr(&first);
        let second = send(&mut pool);
        assert_ne!(Arc::as_ptr(&second), address, "the first is still read");
        drop(first);
        assert_eq!(Arc::as_ptr(&send(&mut pool)), address);
    }
}
