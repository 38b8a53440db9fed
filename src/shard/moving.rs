//! A large PUBLISH that goes to a Client in the buffer it came in.
//!
//! What a Client is sent differs from what the publisher sent in front of the payload only, and where that part is
//! as long as before it is written over it. So the payload is not copied: the buffer becomes the outbox. That is
//! for one recipient with nothing else to be sent; everybody else gets a copy.
//!
//! Several that go on as they came, which is a run, go in one buffer: then they leave in one send, and whoever reads
//! them is woken once.

#![forbid(unsafe_code)]

use super::Shard;
use super::clients::{Clients, Fanout, Recipient};
use super::connection::Connection;
use super::effects::{Effects, Kept};
use super::run::Run;
use crate::codec;
use crate::key::{ConnectionKey, PacketIdentifier};
use crate::message::QoS;
use crate::time::Instant;

/// Payloads from here on are worth a send of their own.
const PAYLOAD_MIN: usize = 32 * 1024;

/// The packets at hand, mostly one, if their buffer may be kept, and who gets it.
#[derive(Debug)]
pub(super) struct Moving {
    payload_min: usize,
    /// Size of the packets; zero: they are not to be had.
    size: usize,
    /// Address of their end, by which a payload is told from that of another message, such as a Will.
    end: usize,
    to: Option<ConnectionKey>,
    /// What stands in front of the payload for that one. Empty: the packets go as they are.
    head: Vec<u8>,
}

impl Default for Moving {
    fn default() -> Self {
        Self {
            payload_min: PAYLOAD_MIN,
            size: 0,
            end: 0,
            to: None,
            head: Vec::new(),
        }
    }
}

impl Moving {
    /// Whether a payload of that size is worth it, if its packet is to be had.
    #[inline]
    pub(super) const fn is_worth(&self, payload_size: usize) -> bool {
        self.size > 0 && payload_size >= self.payload_min
    }

    /// Whether a run is all that is in the buffer.
    #[inline]
    pub(super) fn is_run(&self, run: &Run<'_>) -> bool {
        self.size == run.size() && self.end == run.bytes().as_ptr_range().end.addr()
    }

    /// Whether the run at hand is what this connection is sent next. Asked of one that [`Moving::is_run`] and may be
    /// sent to it as it is.
    #[cold]
    #[inline(never)]
    pub(super) fn claim_run(&mut self, key: ConnectionKey, connection: &Connection) -> bool {
        if self.to.is_some() || !connection.outbox.is_empty() {
            return false;
        }
        self.head.clear();
        self.to = Some(key);
        true
    }

    /// Whether the packet at hand becomes this connection's next one. Asked if [`Fanout::may_move`].
    #[cold]
    #[inline(never)]
    pub(super) fn claim(
        &mut self,
        key: ConnectionKey,
        connection: &Connection,
        fanout: &Fanout<'_>,
        qos: QoS,
        recipient: &Recipient<'_>,
        packet_identifier: Option<PacketIdentifier>,
    ) -> bool {
        let identifiers = recipient.subscription_identifiers;
        let header = fanout.header(qos, recipient.retain, packet_identifier, identifiers);
        if self.to.is_some()
            || header.payload.as_ptr_range().end.addr() != self.end
            || !connection.outbox.is_empty()
            || connection.particular
            || self.size > connection.maximum_packet_size as usize
        {
            return false;
        }
        self.head.clear();
        codec::encode_publish_head(connection.version, &header, &mut self.head);
        if self.head.len() + header.payload.len() != self.size {
            return false;
        }
        self.to = Some(key);
        true
    }
}

impl Clients {
    /// Gives the packets to whom they were promised, if there was somebody. The buffer is empty then.
    fn end_moving(&mut self, packets: &mut Vec<u8>) -> Kept {
        self.moving.size = 0;
        let Some(key) = self.moving.to.take() else {
            return Kept::No;
        };
        let head = &self.moving.head;
        packets[..head.len()].copy_from_slice(head);
        if let Some(connection) = self.connections.get_mut(key) {
            // What was put there in the meantime comes behind it.
            std::mem::swap(&mut connection.outbox, packets);
            connection.outbox.extend_from_slice(packets);
        }
        packets.clear();
        if head.is_empty() {
            Kept::Run
        } else {
            Kept::Packet
        }
    }
}

impl Shard {
    /// As [`Shard::handle_bytes`], of whole packets in a buffer that may be kept: then it is empty, and all of it
    /// consumed. [`Effects::kept`] tells.
    pub fn handle_packets_in(
        &mut self,
        key: ConnectionKey,
        packets: &mut Vec<u8>,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.clients.moving.size = packets.len();
        self.clients.moving.end = packets.as_ptr_range().end.addr();
        let consumed = self.handle_bytes(key, packets, now, effects);
        effects.kept = self.clients.end_moving(packets);
        consumed
    }

    /// Moves packets with smaller payloads than it is worth, for simulation.
    pub fn set_moved_payload_min(&mut self, size: usize) {
        self.clients.moving.payload_min = size;
    }
}

#[cfg(test)]
mod tests {
    use super::super::rig::{self, NOW, Rig};
    use super::*;
    use crate::codec::{Connect, Packet, PublishHeader, Subscribe, SubscriptionOptions, Will};
    use crate::message::ProtocolVersion;
    use crate::origin::Origin;
    use std::num::NonZeroU32;

    impl Rig {
        /// Whether its buffer was kept.
        fn publish(&mut self, key: ConnectionKey, packet: &[u8]) -> bool {
            let mut buffer = packet.to_vec();
            let effects = &mut self.effects;
            let consumed = self.shard.handle_packets_in(key, &mut buffer, NOW, effects);
            assert_eq!(consumed, packet.len());
            let was_kept = std::mem::take(&mut self.effects.kept) != Kept::No;
            assert_eq!(was_kept, buffer.is_empty());
            was_kept
        }
    }

    fn packet(version: ProtocolVersion, qos: QoS, identifier: u16, payload_size: usize) -> Vec<u8> {
        rig::publish(
            version,
            qos,
            identifier,
            &vec![identifier as u8; payload_size],
        )
    }

    const VERSIONS: [ProtocolVersion; 2] = [ProtocolVersion::V311, ProtocolVersion::V5];
    const QOS: [QoS; 3] = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];

    #[test]
    fn what_a_client_gets_is_the_same_whether_the_buffer_was_kept_or_copied() {
        for (from, to) in VERSIONS
            .iter()
            .flat_map(|&from| VERSIONS.map(|to| (from, to)))
        {
            for (sent, granted) in QOS.iter().flat_map(|&sent| QOS.map(|it| (sent, it))) {
                let mut rig = Rig::new();
                let publisher = rig.connect("p", from, 0);
                let subscriber = rig.connect("s", to, 0);
                rig.subscribe(subscriber, to, granted);
                let was_kept = rig.publish(publisher, &packet(from, sent, 77, PAYLOAD_MIN));
                let qos = sent.min(granted);
                // The identifier and the length of no properties are what can make the difference.
                let is_as_long = from == to && (qos > QoS::AtMostOnce) == (sent > QoS::AtMostOnce);
                assert!(
                    was_kept || !is_as_long,
                    "{from:?} {to:?} {sent:?} {granted:?}"
                );
                let mut expected = packet(to, qos, 1, PAYLOAD_MIN);
                let payload = expected.len() - PAYLOAD_MIN;
                expected[payload..].fill(77);
                assert_eq!(
                    rig.output(subscriber),
                    expected,
                    "{from:?} {to:?} {sent:?} {granted:?}"
                );
            }
        }
    }

    #[test]
    fn a_second_recipient_a_second_packet_and_a_small_one_are_copied_in_their_order() {
        let (version, qos) = (ProtocolVersion::V311, QoS::AtMostOnce);
        let large = packet(version, qos, 1, PAYLOAD_MIN);
        let mut rig = Rig::new();
        let publisher = rig.connect("p", version, 0);
        let first = rig.connect("a", version, 0);
        rig.subscribe(first, version, qos);
        assert!(!rig.publish(publisher, &packet(version, qos, 1, PAYLOAD_MIN - 1)));
        rig.output(first);
        assert!(rig.publish(publisher, &large));
        assert!(!rig.publish(publisher, &large));
        assert_eq!(rig.output(first), large.repeat(2));
        let second = rig.connect("b", version, 0);
        rig.subscribe(second, version, qos);
        assert!(!rig.publish(publisher, &large));
        assert_eq!(rig.output(first), large);
        assert_eq!(rig.output(second), large);
    }

    #[test]
    fn packets_that_go_on_as_they_came_go_in_one_buffer_to_one_client_and_are_copied_to_others() {
        let (version, qos) = (ProtocolVersion::V311, QoS::AtMostOnce);
        let run = [1, 2, 3].map(|it| packet(version, qos, it, PAYLOAD_MIN));
        let run = run.concat();
        let mut rig = Rig::new();
        let publisher = rig.connect("p", version, 0);
        let [first, second] = ["a", "b"].map(|name| rig.connect(name, version, 0));
        rig.subscribe(first, version, qos);
        rig.publish(publisher, &packet(version, qos, 0, 0));
        rig.output(first);
        assert!(rig.publish(publisher, &run));
        // There is something for it already.
        assert!(!rig.publish(publisher, &run));
        assert_eq!(rig.output(first), run.repeat(2));
        rig.subscribe(second, version, qos);
        // To nobody remembers it since.
        rig.publish(publisher, &packet(version, qos, 0, 0));
        rig.output(second);
        // The one whose outbox is empty gets the buffer.
        assert!(rig.publish(publisher, &run));
        let small = packet(version, qos, 0, 0);
        assert_eq!(rig.output(first), [&small[..], &run].concat());
        assert_eq!(rig.output(second), run);
        assert_eq!(rig.shard.counters().publish_sent, 3 + 3 * 4);
    }

    #[test]
    fn several_packets_that_are_not_a_run_are_copied_and_their_buffer_stays() {
        let (version, qos) = (ProtocolVersion::V311, QoS::AtMostOnce);
        let mut rig = Rig::new();
        let publisher = rig.connect("p", version, 0);
        let subscriber = rig.connect("s", version, 0);
        rig.subscribe(subscriber, version, QoS::AtLeastOnce);
        rig.publish(publisher, &packet(version, qos, 0, 0));
        rig.output(subscriber);
        let plain = packet(version, qos, 1, PAYLOAD_MIN);
        let acknowledged = packet(version, QoS::AtLeastOnce, 1, PAYLOAD_MIN);
        let both = [&plain[..], &acknowledged].concat();
        assert!(!rig.publish(publisher, &both));
        assert_eq!(rig.output(subscriber), both);
        let two = acknowledged.repeat(2);
        assert!(!rig.publish(publisher, &two));
        let output = rig.output(subscriber);
        assert_eq!(output.len(), two.len());
        assert!(output.ends_with(&plain[plain.len() - PAYLOAD_MIN..]));
    }

    #[test]
    fn a_will_that_another_packet_sets_free_is_not_taken_for_that_packet() {
        let (version, qos) = (ProtocolVersion::V311, QoS::AtMostOnce);
        let mut rig = Rig::new();
        rig.shard.set_moved_payload_min(1);
        let subscriber = rig.connect("s", version, 0);
        rig.subscribe(subscriber, version, qos);
        // As long as the PUBLISH of the Will: CONNECT of the Client that takes its place.
        let mut connect = Connect::new(version, "c");
        connect.clean_start = true;
        let mut taking_over = Vec::new();
        codec::encode(&Packet::Connect(connect), version, &mut taking_over);
        let payload_size = taking_over.len() - packet(version, qos, 1, 0).len();
        let payload = vec![9; payload_size];
        connect.will = Some(Will {
            qos,
            retain: false,
            topic_name: "t",
            payload: &payload,
            delay_interval_s: 0,
            message_expiry_interval_s: None,
            properties: Default::default(),
        });
        let first = rig.shard.handle_accept(Origin::default(), NOW).unwrap();
        let mut bytes = Vec::new();
        codec::encode(&Packet::Connect(connect), version, &mut bytes);
        rig.feed(first, &bytes);
        let second = rig.shard.handle_accept(Origin::default(), NOW).unwrap();
        assert!(!rig.publish(second, &taking_over));
        assert_eq!(
            rig.output(subscriber),
            packet(version, qos, 9, payload_size)
        );
    }

    /// [MQTT-3.3.4-3]
    #[test]
    fn a_packet_for_a_subscription_with_an_identifier_is_copied_and_has_that() {
        let (version, qos) = (ProtocolVersion::V5, QoS::AtMostOnce);
        let mut rig = Rig::new();
        let publisher = rig.connect("p", version, 0);
        let subscriber = rig.connect("s", version, 0);
        let filters = [("t", SubscriptionOptions::new(qos))];
        let mut subscribe = Subscribe::new(PacketIdentifier::new(1).unwrap(), &filters);
        let identifiers = [NonZeroU32::new(7).unwrap()];
        subscribe.subscription_identifier = Some(identifiers[0]);
        let mut bytes = Vec::new();
        codec::encode(&Packet::Subscribe(subscribe), version, &mut bytes);
        rig.feed(subscriber, &bytes);
        rig.output(subscriber);
        assert!(!rig.publish(publisher, &packet(version, qos, 5, PAYLOAD_MIN)));
        let payload = vec![5; PAYLOAD_MIN];
        let header = PublishHeader {
            duplicate: false,
            qos,
            retain: false,
            packet_identifier: None,
            topic_name: b"t",
            topic_alias: None,
            message_expiry_interval_s: None,
            forwarded: &[],
            subscription_identifiers: &identifiers,
            payload: &payload,
        };
        let mut expected = Vec::new();
        codec::encode_publish(version, &header, &mut expected);
        assert_eq!(rig.output(subscriber), expected);
    }

    #[test]
    fn a_packet_that_is_too_large_for_its_client_is_dropped_and_its_buffer_stays() {
        let (version, qos) = (ProtocolVersion::V5, QoS::AtMostOnce);
        let mut rig = Rig::new();
        let publisher = rig.connect("p", version, 0);
        let subscriber = rig.connect("s", version, PAYLOAD_MIN as u32);
        rig.subscribe(subscriber, version, qos);
        assert!(!rig.publish(publisher, &packet(version, qos, 1, PAYLOAD_MIN)));
        assert_eq!(rig.output(subscriber), b"");
        assert_eq!(rig.shard.counters().dropped_packet_too_large, 1);
    }
}
