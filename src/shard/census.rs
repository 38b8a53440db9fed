//! What a shard holds at one moment: for gauges, and for tests that look for what was left behind.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Shard;
use crate::message::Message;
use crate::metrics::{Gauges, Snapshot};
use crate::router::RetainedVersion;
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};

/// Counts of everything a shard holds.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Census {
    /// Network Connections, those that are closing included.
    pub connections: usize,
    /// Sessions, with and without a connection.
    pub sessions: usize,
    /// Subscriptions of these Sessions.
    pub subscriptions: usize,
    /// Those of Sessions that have ended, which are still to be forgotten.
    pub ended: usize,
    /// Filters that this shard or another wants.
    pub filters: usize,
    /// Nodes held for those filters.
    pub filter_nodes: usize,
    /// Retained messages of the replica.
    pub retained: usize,
    /// Levels held for those messages.
    pub retained_levels: usize,
    /// Versions kept of retained messages that were removed.
    pub tombstones: usize,
    /// QoS 1 and 2 messages that wait in Sessions.
    pub queued: usize,
    /// Most that wait in one Session.
    pub queued_max: usize,
    /// Exchanges we began and the Client has not ended.
    pub inflight: usize,
    /// Exchanges a Client began and has not released.
    pub inbound: usize,
    /// Bytes of QoS 0 in outboxes beyond their bound.
    pub beyond_outboxes: usize,
    /// Bytes of Wills, as they are counted.
    pub will_bytes: usize,
    /// The same, of those that are there.
    pub will_bytes_there: usize,
    /// Retained messages found for Clients that have not read them.
    pub replaying: usize,
    /// SUBACKs that wait for other shards.
    pub barriers: usize,
    /// SUBSCRIBE and UNSUBSCRIBE packets that wait for their next turn, those of connections that have ended included.
    pub unfinished: usize,
    /// Sessions whose subscriptions have not all heard that a connection has come or gone.
    pub visited: usize,
    /// Messages on their way to more Sessions than one turn has time for, and topics that take longer to look up.
    pub spreading: usize,
    /// What Sessions have left to members of their Shared Subscriptions, and what has come behind that.
    pub left: usize,
    /// Connections not read because a ring is full.
    pub waiting_for_ring: usize,
    /// Envelopes that wait for room in a ring.
    pub outbound: usize,
    /// What waits for disks, beside connections and their Sessions.
    pub unsettled: usize,
}

impl Shard {
    /// Counts what this shard holds. Visits every Session.
    #[must_use]
    pub fn census(&self) -> Census {
        let (filter_nodes, retained_levels) = self.router.node_counts();
        let (ended, _) = self.ended.counts();
        let mut census = Census {
            connections: self.clients.connections.len(),
            sessions: self.clients.members.len(),
            subscriptions: self.router.subscription_count() - ended,
            ended,
            filters: self.router.filter_count(),
            filter_nodes,
            retained: self.router.retained_count(),
            retained_levels,
            tombstones: self.router.tombstone_count(),
            beyond_outboxes: self.clients.beyond_outboxes,
            will_bytes: self.clients.will_bytes,
            barriers: self.barriers.len(),
            unfinished: self.filtering.len(),
            visited: self.visits.len(),
            spreading: self.spreads.len() + self.look_ups.len(),
            left: self.legacies.len(),
            waiting_for_ring: self.waiting_for_ring.len(),
            outbound: self.peers.iter().map(|peer| peer.waiting()).sum(),
            unsettled: self.clients.store.as_ref().map_or(0, |it| it.unsettled()),
            ..Census::default()
        };
        for key in self.clients.connections.keys() {
            let connection = self.clients.connections.get(key);
            let rare = connection.and_then(|connection| connection.rare());
            let replay = rare.and_then(|rare| rare.replay.as_ref());
            census.replaying += replay.map_or(0, |replay| replay.found.count());
        }
        for key in self.clients.members.keys() {
            let Some(member) = self.clients.members.get(key) else {
                continue;
            };
            let will = member.session.will.as_ref();
            census.will_bytes_there += will.map_or(0, |will| will.stored().size());
            let queued = member.session.queue.len();
            census.queued += queued;
            census.queued_max = census.queued_max.max(queued);
            census.inflight += usize::from(member.session.inflight.len());
            census.inbound += member.session.inbound.len();
        }
        census
    }

    /// What this shard shows of itself, whatever the number of its Sessions.
    pub fn show(&self, snapshot: &mut Snapshot) {
        let count = |count: usize| count as u64;
        let (ended, ended_shared) = self.ended.counts();
        let (filter_table_bytes, retained_table_bytes) = self.router.table_sizes();
        let (remembered_topics, remembered_topics_bytes) = self.router.cached_counts();
        snapshot.counters = self.clients.counters;
        snapshot.gauges = Gauges {
            connections: count(self.clients.connections.len()),
            clients_connected: count(self.clients.connected),
            sessions: count(self.clients.members.len()),
            subscriptions: count(self.router.subscription_count() - ended),
            shared_subscriptions: count(self.router.shared_subscription_count() - ended_shared),
            retained_messages: count(self.router.retained_count()),
            retained_bytes: count(self.router.retained_bytes()),
            queued_messages: count(self.clients.queued_messages),
            queued_bytes: count(self.clients.queued_bytes),
            will_bytes: count(self.clients.will_bytes),
            ring_backlog: self.peers.iter().map(|peer| count(peer.waiting())).sum(),
            waiting_for_ring: count(self.waiting_for_ring.len()),
            filter_bytes: count(self.router.filter_bytes()),
            filter_table_bytes: count(filter_table_bytes),
            retained_table_bytes: count(retained_table_bytes),
            remembered_topics: count(remembered_topics),
            remembered_topics_bytes: count(remembered_topics_bytes),
            session_places: count(self.clients.members.slots()),
            connection_places: count(self.clients.connections.slots()),
            // The data path knows.
            held_before_connect: 0,
            spare_buffer_bytes: 0,
        };
    }

    /// The retained messages of this shard's replica whose topics do not begin with `$`, and their
    /// versions.
    #[must_use]
    pub fn retained_messages(&self) -> Vec<(RetainedVersion, Arc<Message>)> {
        let mut messages = Vec::new();
        let every_topic = TopicFilter::from_validated(b"#");
        self.router
            .for_each_retained(&every_topic, Instant::ZERO, |message| {
                let topic_name = TopicName::from_validated(message.topic_name());
                if let Some((_, version)) = self.router.retained(topic_name) {
                    messages.push((version, message.clone()));
                }
            });
        messages
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use crate::message::{ProtocolVersion, QoS};
    use crate::metrics::Counters;
    use crate::shard::rig::{Rig, publish};

    const V311: ProtocolVersion = ProtocolVersion::V311;
    const DISCONNECT: [u8; 2] = [0xe0, 0];

    /// What was counted of packets and bytes received since `before`.
    fn received(rig: &Rig, before: &Counters) -> (u64, u64) {
        let counters = &rig.shard.clients.counters;
        (
            counters.packets_received - before.packets_received,
            counters.bytes_received - before.bytes_received,
        )
    }

    #[test]
    fn the_last_packet_of_a_connection_and_what_came_with_it_are_counted() {
        let messages = [
            publish(V311, QoS::AtMostOnce, 0, b"a"),
            publish(V311, QoS::AtLeastOnce, 1, b"b"),
        ]
        .concat();
        // DISCONNECT, one that only a Server sends, and a PUBLISH with a QoS that there is not: whole packets
        // that end the connection. What only begins, with a Remaining Length that there is not, is none.
        for (last, packets, size) in [
            (&DISCONNECT[..], 3, DISCONNECT.len()),
            (&[0xd0, 0], 3, 2),
            (&[0x36, 2, 0, 0], 3, 4),
            (&[0x30, 0xff, 0xff, 0xff, 0xff, 0xff], 2, 0),
        ] {
            // What comes behind it is nobody's.
            for behind in [&[][..], &DISCONNECT] {
                let mut rig = Rig::new();
                let key = rig.connect("client", V311, 0);
                let before = rig.shard.clients.counters;
                rig.feed(key, &[&messages[..], last, behind].concat());
                let expected = (packets, (messages.len() + size) as u64);
                assert_eq!(received(&rig, &before), expected, "{last:02x?}");
            }
        }
    }

    #[test]
    fn a_connect_that_is_refused_is_counted() {
        let mut rig = Rig::new();
        let key = rig
            .shard
            .handle_accept(Default::default(), crate::shard::rig::NOW);
        // Without a Client Identifier, of a Session that is to stay [v3.1.1 MQTT-3.1.3-8].
        let connect = b"\x10\x0c\0\x04MQTT\x04\0\0\0\0\0";
        rig.feed(key.unwrap(), connect);
        assert_eq!(rig.shard.clients.counters.connects_refused, 1);
        let expected = (1, connect.len() as u64);
        assert_eq!(received(&rig, &Counters::default()), expected);
    }
}
