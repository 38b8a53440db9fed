//! Messages of one Client that follow each other, of QoS 0 and to one topic.
//!
//! Who publishes faster than turns come sends many packets at once, and mostly to one topic. Subscribers of the same
//! version are sent those packets as they came, so all of them are looked up once and copied at once. Even one alone
//! costs less that way: a Topic Name that is remembered has been checked before.

#![forbid(unsafe_code)]

use super::Shard;
use super::batch::BATCHED_SIZE_MAX;
use super::clients::{Clients, mark_dirty};
use super::effects::Effects;
use super::spread::Source;
use crate::codec::PlainPublish;
use crate::key::{SessionKey, ShardId};
use crate::message::{MessageRef, ProtocolVersion, QoS};
use crate::router::{Matches, Target};
use crate::time::Instant;
use std::num::NonZeroUsize;
use std::ops::Range;

/// Packets one behind the other.
#[derive(Clone, Copy)]
pub(super) struct Run<'a> {
    bytes: &'a [u8],
    first: PlainPublish<'a>,
    version: ProtocolVersion,
    count: usize,
    payload_bytes: usize,
    /// Size of the largest packet.
    largest: usize,
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
        let (mut count, mut payload_bytes, mut largest) = (1, first.payload.len(), size);
        while let Some(next) = first.peek_alike(version, &bytes[size..], packet_size_max) {
            size += next.size();
            count += 1;
            payload_bytes += next.payload.len();
            largest = largest.max(next.size());
        }
        Self {
            bytes: &bytes[..size],
            first,
            version,
            count,
            payload_bytes,
            largest,
        }
    }

    /// What `bytes` begin with, which are packets of one run.
    pub(super) fn of_some(version: ProtocolVersion, bytes: &'a [u8]) -> Option<Self> {
        let first = PlainPublish::peek(version, bytes, u32::MAX)?;
        Some(Self::of(first, version, bytes, u32::MAX))
    }

    /// Its packets.
    pub(super) const fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    /// Bytes of its packets.
    pub(super) const fn size(&self) -> usize {
        self.bytes.len()
    }

    /// How many messages it has.
    pub(super) const fn count(&self) -> usize {
        self.count
    }

    /// What all of them are published to.
    pub(super) const fn topic_name(&self) -> &'a [u8] {
        self.first.topic_name
    }

    /// As what its packets are encoded.
    pub(super) const fn version(&self) -> ProtocolVersion {
        self.version
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

/// What was taken as a run.
#[derive(Clone, Copy)]
pub(super) struct Taken {
    /// Bytes of its packets.
    pub(super) size: NonZeroUsize,
    /// How many messages it has.
    pub(super) count: usize,
}

/// Those who want a run, or some of them: the targets from one place on.
#[derive(Clone, Copy)]
struct Part<'a> {
    matches: &'a Matches,
    targets: &'a [Target],
    first: usize,
}

impl<'a> Part<'a> {
    fn all(matches: &'a Matches) -> Self {
        Self {
            matches,
            targets: &matches.targets,
            first: 0,
        }
    }
}

impl Shard {
    /// Takes what `bytes` begin with as a run, if it is one to a topic that is remembered. It has not to be
    /// looked at as the operator wants it.
    // HOT: per run.
    #[inline(never)] // Packets of other kinds do not pay for it.
    pub(super) fn handle_run(
        &mut self,
        publisher: SessionKey,
        version: ProtocolVersion,
        bytes: &[u8],
        packet_size_max: u32,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Taken> {
        let first = PlainPublish::peek(version, bytes, packet_size_max)?;
        // The broker's own topics are nobody else's to write.
        if first.topic_name[0] == b'$' {
            return None;
        }
        let matches = self.router.remembered(first.topic_name)?;
        let run = Run::of(first, version, bytes, packet_size_max);
        // Those whose outboxes share a payload are given one message after the other.
        if run.largest >= self.clients.sharing.payload_min && matches.targets.len() > 1 {
            return None;
        }
        let mut is_spread = false;
        if matches.receivers() > self.spreads.unasked_max {
            is_spread = self.is_run_to_be_spread(&run, &matches);
            // One message after the other waits, and goes to many groups.
            if is_spread && self.spreads.are_awaited()
                || self.has_many_groups(&matches)
                || self.has_to_wait_for_groups(&matches, first.topic_name)
            {
                return None;
            }
        }
        let counters = &mut self.clients.counters;
        counters.publish_received += run.count as u64;
        counters.publish_bytes_received += run.payload_bytes as u64;
        // Groups go by turns, and whose member is a subscriber as well gets one message after the other by both ways.
        let is_onward =
            matches.has_groups() || matches.has_shards() && run.largest > BATCHED_SIZE_MAX;
        if matches.has_shards() && !is_onward {
            for to in matches.shards.iter() {
                self.forward_run(to, &run);
            }
        }
        if is_spread {
            if is_onward {
                self.route_run(&run, &matches, &[], true, now, effects);
            }
            self.spread_run(&run, &matches, Source::Session(publisher), now, effects);
        } else {
            let all = Part::all(&matches);
            self.deliver_run(&run, Some(publisher), all, is_onward, now, effects);
        }
        Some(Taken {
            size: NonZeroUsize::new(run.size())?,
            count: run.count,
        })
    }

    /// Puts as much of a run into the batch for another shard as there is room for, and the rest into the next ones.
    // HOT: per run to another shard.
    fn forward_run(&mut self, to: ShardId, run: &Run<'_>) {
        let mut rest = run.bytes;
        let mut left = run.count;
        while left > 0 {
            let open = &self.peers[to.index()].open;
            let room = open.room();
            if open.is_empty() && self.is_dropped_for_ring(to, QoS::AtMostOnce, left) {
                return;
            }
            let some = if left == run.count && run.size() <= room {
                *run
            } else {
                let fitting = &rest[..rest.len().min(room)];
                Run::of_some(run.version, fitting).expect("there is room for a packet")
            };
            rest = &rest[some.size()..];
            left -= some.count;
            self.add_to_batch(to, |open| open.push_run(&some));
        }
    }

    /// Brings packets from another shard, all of one run, to the local subscribers. Returns how many bytes they were; [`None`] if
    /// it takes longer to know who wants them.
    // HOT: per run from another shard.
    pub(super) fn deliver_packets(
        &mut self,
        from: ShardId,
        version: ProtocolVersion,
        packets: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Option<usize> {
        let Some(run) = Run::of_some(version, packets) else {
            debug_assert!(false, "no packet of a run");
            return Some(packets.len());
        };
        let matches = self.matches_in_time(run.first.topic_name, None, now)?;
        if matches.targets.len() > self.spreads.unasked_max
            && self.is_run_to_be_spread(&run, &matches)
        {
            self.spread_run(&run, &matches, Source::Shard(from), now, effects);
        } else {
            self.deliver_run(&run, None, Part::all(&matches), false, now, effects);
        }
        Some(run.size())
    }

    #[cold]
    #[inline(never)]
    fn is_run_to_be_spread(&self, run: &Run<'_>, matches: &Matches) -> bool {
        let targets = matches.targets.len();
        if targets <= self.spreads.unasked_max {
            return false;
        }
        let (topic_name, qos) = (run.topic_name(), QoS::AtMostOnce);
        self.is_to_be_spread(targets, topic_name, qos, run.size())
    }

    /// Brings a run that is spread to some of those that it is for.
    pub(super) fn deliver_run_to(
        &mut self,
        run: &Run<'_>,
        publisher: Option<SessionKey>,
        matches: &Matches,
        places: Range<usize>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let part = Part {
            targets: &matches.targets[places.clone()],
            first: places.start,
            matches,
        };
        self.deliver_run(run, publisher, part, false, now, effects);
    }

    /// Brings a run to local subscribers: to those as packets who may be sent them as they are. To other shards and groups
    /// it goes if `is_onward`.
    #[inline(always)] // A run of one message would be mostly calls.
    fn deliver_run(
        &mut self,
        run: &Run<'_>,
        publisher: Option<SessionKey>,
        part: Part<'_>,
        is_onward: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        let mut others = std::mem::take(&mut self.others_of_run);
        let moving = &self.clients.moving;
        if moving.is_run(run) && moving.is_worth(run.first.payload.len()) {
            self.clients
                .move_run(run, publisher, part, &mut others, effects);
        } else {
            self.clients
                .copy_run::<false>(run, publisher, part, &mut others, effects);
        }
        if !others.is_empty() || is_onward {
            self.route_run(run, part.matches, &others, is_onward, now, effects);
            others.clear();
        }
        self.others_of_run = others;
    }

    /// Brings its messages one by one to the `others`, which are places among the targets, and to other shards and groups
    /// if `is_onward`.
    fn route_run(
        &mut self,
        run: &Run<'_>,
        matches: &Matches,
        others: &[u32],
        is_onward: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        for message in run.messages() {
            let mut fanout = self
                .clients
                .fanout(message, None, matches.targets.len(), now);
            for &other in others {
                let target = &matches.targets[other as usize];
                self.clients.deliver_to_one(target, &mut fanout, effects);
            }
            if is_onward {
                self.forward(matches, &mut fanout);
                self.deliver_to_groups(&matches.groups, &mut fanout, effects);
            }
            self.clients.end_fanout(fanout);
        }
    }
}

impl Clients {
    /// As [`Clients::copy_run`], of all that is in a buffer: the first whose outbox is empty gets that.
    #[cold]
    #[inline(never)]
    fn move_run(
        &mut self,
        run: &Run<'_>,
        publisher: Option<SessionKey>,
        part: Part<'_>,
        others: &mut Vec<u32>,
        effects: &mut Effects,
    ) {
        self.copy_run::<true>(run, publisher, part, others, effects);
    }

    /// Puts its packets into the outboxes of those who may be sent them as they are. The places of all `others` among
    /// the targets are told.
    #[inline(always)] // As `deliver_run`.
    fn copy_run<const MAY_MOVE: bool>(
        &mut self,
        run: &Run<'_>,
        publisher: Option<SessionKey>,
        part: Part<'_>,
        others: &mut Vec<u32>,
        effects: &mut Effects,
    ) {
        // Who is in a group as well gets one message after the other by both ways.
        let may_copy = self.copies_runs && !part.matches.has_groups();
        for (place, target) in part.targets.iter().enumerate() {
            // [MQTT-3.8.3-3]
            if !target.is_for(publisher) {
                continue;
            }
            let is_plain = may_copy
                && target.subscription_identifiers.is_empty()
                && self.qos_min.min(target.qos) == QoS::AtMostOnce;
            if !(is_plain && self.copy_run_to::<MAY_MOVE>(run, target.session, effects)) {
                others.push((part.first + place) as u32);
            }
        }
    }

    // HOT: per run per subscriber.
    /// False if the Client has to be sent something else, or there may not be room for all.
    #[inline]
    fn copy_run_to<const MAY_MOVE: bool>(
        &mut self,
        run: &Run<'_>,
        session: SessionKey,
        effects: &mut Effects,
    ) -> bool {
        // Nothing of QoS 0 is kept for who is away.
        let Some(key) = self.connection_of(session) else {
            return true;
        };
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        if connection.particular
            || connection.version.is_v5() != run.version.is_v5()
            || run.largest > connection.maximum_packet_size as usize
            || connection.pending() + run.size() > self.limits.outbox_bytes_max
        {
            return false;
        }
        if !(MAY_MOVE && self.moving.claim_run(key, connection)) {
            connection.outbox.extend_from_slice(run.bytes);
        }
        self.counters
            .count_publishes_sent(run.count, run.payload_bytes);
        mark_dirty(connection, key, effects);
        true
    }
}
