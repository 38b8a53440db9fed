//! Messages of one Client that follow each other, of QoS 0 and to one topic.
//!
//! Who publishes faster than turns come sends many packets at once, and mostly to one topic. Subscribers of the same
//! version are sent those packets as they came, so all of them are looked up once and copied at once. Even one alone
//! costs less that way: a Topic Name that is remembered has been checked before.

#![forbid(unsafe_code)]

use super::Shard;
use super::clients::{Clients, mark_dirty};
use super::effects::Effects;
use super::publish::recipient;
use crate::codec::PlainPublish;
use crate::key::SessionKey;
use crate::message::{MessageRef, ProtocolVersion, QoS};
use crate::router::Matches;
use crate::time::Instant;

/// Packets one behind the other.
pub(super) struct Run<'a> {
    bytes: &'a [u8],
    first: PlainPublish<'a>,
    version: ProtocolVersion,
    count: usize,
    payload_bytes: usize,
    /// Size of the largest packet.
    size_max: usize,
}

impl<'a> Run<'a> {
    /// All of `bytes` that go on as `first` does.
    // HOT: per PUBLISH.
    fn of(
        first: PlainPublish<'a>,
        version: ProtocolVersion,
        bytes: &'a [u8],
        packet_size_max: u32,
    ) -> Self {
        let mut size = first.size();
        let mut run = Self {
            bytes,
            first,
            version,
            count: 1,
            payload_bytes: first.payload.len(),
            size_max: size,
        };
        while let Some(next) = first.peek_alike(version, &bytes[size..], packet_size_max) {
            size += next.size();
            run.count += 1;
            run.payload_bytes += next.payload.len();
            run.size_max = run.size_max.max(next.size());
        }
        run.bytes = &bytes[..size];
        run
    }

    /// Bytes of its packets.
    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages it has.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    fn messages(&self) -> impl Iterator<Item = MessageRef<'a>> {
        let (first, version, mut rest) = (self.first, self.version, self.bytes);
        std::iter::from_fn(move || {
            let packet = first.peek_alike(version, rest, u32::MAX)?;
            rest = &rest[packet.size()..];
            Some(MessageRef {
                topic_name: packet.topic_name,
                properties: &[],
                payload: packet.payload,
                qos: QoS::AtMostOnce,
                retain: false,
                expires_at: None,
            })
        })
    }
}

impl Shard {
    /// Takes what `bytes` begin with as a run, if it is one to a topic that is remembered. It has not to be
    /// looked at as the operator wants it.
    // HOT: per run.
    #[inline(never)] // Packets of other kinds do not pay for it.
    pub(super) fn handle_run<'a>(
        &mut self,
        publisher: SessionKey,
        version: ProtocolVersion,
        bytes: &'a [u8],
        packet_size_max: u32,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Run<'a>> {
        let first = PlainPublish::peek(version, bytes, packet_size_max)?;
        // The broker's own topics are nobody else's to write, and a packet may be worth a send of its own.
        if first.topic_name[0] == b'$' || self.clients.moving.is_worth(first.payload.len()) {
            return None;
        }
        let matches = self.router.remembered(first.topic_name)?;
        let run = Run::of(first, version, bytes, packet_size_max);
        let counters = &mut self.clients.counters;
        counters.publish_received += run.count as u64;
        counters.publish_bytes_received += run.payload_bytes as u64;
        let mut others = std::mem::take(&mut self.others_of_run);
        self.clients
            .copy_run(&run, publisher, &matches, &mut others, effects);
        if !others.is_empty() || matches.has_shards() || !matches.groups.is_empty() {
            self.route_run(&run, &matches, &others, now, effects);
            others.clear();
        }
        self.others_of_run = others;
        Some(run)
    }

    /// Brings its messages one by one to everybody who was not sent the packets as they are.
    fn route_run(
        &mut self,
        run: &Run<'_>,
        matches: &Matches,
        others: &[u32],
        now: Instant,
        effects: &mut Effects,
    ) {
        for message in run.messages() {
            let mut fanout = self
                .clients
                .fanout(message, None, matches.targets.len(), now);
            for &other in others {
                let target = &matches.targets[other as usize];
                self.clients
                    .deliver(recipient(target, false), &mut fanout, effects);
            }
            if matches.has_shards() {
                self.forward(matches, &mut fanout);
            }
            self.deliver_to_groups(matches, &mut fanout, effects);
            self.clients.end_fanout(fanout);
        }
    }
}

impl Clients {
    /// Puts its packets into the outboxes of those who may be sent them as they are. The places of all `others` among
    /// the targets are told.
    fn copy_run(
        &mut self,
        run: &Run<'_>,
        publisher: SessionKey,
        matches: &Matches,
        others: &mut Vec<u32>,
        effects: &mut Effects,
    ) {
        // Who is in a group as well gets one message after the other by both ways.
        let may_copy = !self.settings.policy.queue_qos0_messages && matches.groups.is_empty();
        for (place, target) in matches.targets.iter().enumerate() {
            // [MQTT-3.8.3-3]
            if target.no_local && publisher == target.session {
                continue;
            }
            let is_plain = may_copy
                && target.subscription_identifiers.is_empty()
                && self.qos_min.min(target.qos) == QoS::AtMostOnce;
            if !(is_plain && self.copy_run_to(run, target.session, effects)) {
                others.push(place as u32);
            }
        }
    }

    // HOT: per run per subscriber.
    /// False if the Client has to be sent something else, or there may not be room for all.
    #[inline]
    fn copy_run_to(&mut self, run: &Run<'_>, session: SessionKey, effects: &mut Effects) -> bool {
        let connection = self
            .members
            .get(session)
            .and_then(|member| member.session.connection);
        // Nothing of QoS 0 is kept for who is away.
        let Some(key) = connection else {
            return true;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        if connection.particular
            || connection.version.is_v5() != run.version.is_v5()
            || run.size_max > connection.maximum_packet_size as usize
            || connection.pending() + run.size() > self.limits.outbox_bytes_max
        {
            return false;
        }
        connection.outbox.extend_from_slice(run.bytes);
        self.counters
            .count_publishes_sent(run.count, run.payload_bytes);
        mark_dirty(connection, key, effects);
        true
    }
}
