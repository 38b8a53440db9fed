//! PUBLISH and its acknowledgements, in both directions, and the way of a message through the Router.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use super::batch::{BATCHED_SIZE_MAX, Batch, Item, OpenBatch};
use super::choose::Chosen;
use super::clients::{Clients, Fanout, Recipient, mark_dirty};
use super::connection::Pause;
use super::effects::Effects;
use super::envelope::Envelope;
use super::spread::Source;
use super::store::HeldPacket;
use super::stored_publish::AcknowledgedPublish;
use super::timers::Slot;
use super::{Shard, Step};
use crate::codec::{self, Acknowledgement, Publish, ReasonCode};
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::message::{self, Message, MessageRef, QoS};
use crate::origin::Identity;
use crate::policy::LogMask;
use crate::router::{FilterKey, GroupKey, Matches, Pick, RetainedVersion, SharedTarget, Target};
use crate::session::{Delivery, InboundAliases, Inflight, ProtocolError, ShareTag};
use crate::time::Instant;
use crate::topic::TopicName;

/// Who publishes a message.
#[derive(Clone, Copy, Debug)]
pub(super) enum Publisher<'a> {
    /// The broker itself.
    Broker,
    Session(SessionKey),
    /// One whose Session may be over.
    Former(&'a Arc<Identity>),
}

/// What became of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Routed {
    Matched,
    NoSubscribers,
    /// The retained store is full.
    QuotaExceeded,
}

impl Shard {
    // HOT: per PUBLISH.
    /// A PUBLISH from a Client.
    ///
    /// [`Step::Blocked`] if a ring has no room for it, or it takes longer to know who wants it: the packet stays unread.
    pub(super) fn handle_publish(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        vetted: bool,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        if !publish.properties.subscription_identifiers.is_empty() {
            return Err(ProtocolError::SubscriptionIdentifierFromClient);
        }
        // Nothing of the packet is taken while it cannot be forwarded: the Client waits in TCP. A
        // retained message of any QoS must reach every replica, so it waits too.
        if (publish.qos != QoS::AtMostOnce || publish.retain) && self.ring_is_full {
            self.pause_for_ring(key);
            return Ok(Step::Blocked);
        }
        let mut contiguous = Vec::new();
        let mut mounted = Vec::new();
        let properties = match publish.properties.forwarded.as_contiguous() {
            Some(properties) => properties,
            None => {
                publish.properties.forwarded.copy_to(&mut contiguous);
                &contiguous
            }
        };
        let expires_at = publish
            .properties
            .message_expiry_interval_s
            .map(|interval_s| message::expires_at(interval_s, now));
        let mut message = MessageRef {
            topic_name: publish.topic_name.as_bytes(),
            properties,
            payload: publish.payload,
            qos: publish.qos,
            retain: publish.retain,
            expires_at,
        };
        // Taken out for the time of the call, because the name an alias stands for is borrowed.
        let mut aliases = None;
        if let Some(alias) = publish.properties.topic_alias {
            let Some(connection) = self.clients.connections.get_mut(key) else {
                return Ok(Step::Stop);
            };
            let maximum = connection.topic_alias_maximum;
            let known = connection.make_rare().inbound_aliases.take();
            let aliases = aliases.insert(known.unwrap_or_default());
            if publish.topic_name.is_empty() {
                message.topic_name = aliases.resolve(alias, maximum)?.as_bytes();
            } else {
                TopicName::from_packet(publish.topic_name)
                    .map_err(|_| ProtocolError::TopicNameInvalid)?;
                aliases.set(alias, publish.topic_name, maximum)?;
            }
        } else {
            TopicName::from_packet(publish.topic_name)
                .map_err(|_| ProtocolError::TopicNameInvalid)?;
        }
        let mut refused = None;
        // The broker's own topics are nobody else's to write, with or without rules.
        if vetted || message.topic_name.first() == Some(&b'$') {
            refused = self.vet_publish(key, session, publish, &message, &mut mounted, effects)?;
            if !mounted.is_empty() {
                message.topic_name = &mounted;
            }
        }
        if let Some(reason_code) = refused {
            self.count_received(publish);
            self.refuse_publish(key, publish, reason_code, now, effects);
            return Ok(self.leave_publish(key, Step::Continue, aliases));
        }
        let Some(matches) = self.matches_in_time(message.topic_name, Some(key), now) else {
            return Ok(self.leave_publish(key, Step::Blocked, aliases));
        };
        if self.disk_stalled_at.is_some() || self.spreads.are_asked() {
            let topic_name = message.topic_name;
            let put_off = self.put_off(key, session, publish, &matches, topic_name, now, effects);
            if let Some(step) = put_off {
                return Ok(self.leave_publish(key, step, aliases));
            }
        }
        self.count_received(publish);
        self.receive(key, session, publish, message, &matches, now, effects)?;
        if let Some(aliases) = aliases
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.make_rare().inbound_aliases = Some(aliases);
        }
        Ok(Step::Continue)
    }

    /// Nothing more becomes of a PUBLISH for now: its connection has its Topic Aliases back.
    #[cold]
    #[inline(never)]
    fn leave_publish(
        &mut self,
        key: ConnectionKey,
        step: Step,
        aliases: Option<Box<InboundAliases>>,
    ) -> Step {
        if aliases.is_some()
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.make_rare().inbound_aliases = aliases;
        }
        step
    }

    #[inline(always)]
    fn count_received(&mut self, publish: &Publish<'_>) {
        self.clients.counters.publish_received += 1;
        self.clients.counters.publish_bytes_received += publish.payload.len() as u64;
    }

    /// Takes a message that nothing stands in the way of, as its QoS says.
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    #[inline(always)]
    fn receive(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        message: MessageRef<'_>,
        matches: &Rc<Matches>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let is_stored = self.clients.store.is_some();
        let Some(identifier) = publish.packet_identifier else {
            let publisher = Publisher::Session(session);
            self.route_to(matches, message, publisher, now, effects);
            return Ok(());
        };
        if publish.qos == QoS::AtLeastOnce {
            if is_stored {
                self.receive_stored_qos1(key, session, identifier, message, matches, now, effects);
            } else {
                self.receive_qos1(key, session, identifier, message, matches, now, effects);
            }
            return Ok(());
        }
        let acknowledged = AcknowledgedPublish {
            packet_identifier: identifier,
            duplicate: publish.duplicate,
        };
        if is_stored {
            return self.receive_stored_qos2(
                key,
                session,
                acknowledged,
                message,
                matches,
                now,
                effects,
            );
        }
        let reason_code =
            self.receive_qos2(key, session, acknowledged, message, matches, now, effects)?;
        self.acknowledge(key, effects, |version, out| {
            codec::encode_pubrec(version, identifier, reason_code, out);
        });
        Ok(())
    }

    /// A publication that has to wait for a disk, or for the messages of others, or is refused because of the disk. [`None`]
    /// if it can be taken.
    #[cold]
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // As `receive`.
    fn put_off(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        matches: &Matches,
        topic_name: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Step> {
        if self.disk_stalled_at.is_some()
            && (publish.qos != QoS::AtMostOnce || publish.retain)
            && self.needs_stalled_disk(session, publish, topic_name)
        {
            let identifier = publish.packet_identifier;
            return Some(self.refuse_for_disk(key, publish.qos, identifier, now, effects));
        }
        let size = publish.payload.len();
        self.has_to_wait_for_spreads(key, matches, topic_name, publish.qos, size)
            .then_some(Step::Blocked)
    }

    /// Looks at what a Client publishes as its listener and the operator want it: [`Some`] with the
    /// reason if it is acknowledged and goes nowhere. A mount point leaves the whole topic in `mounted`.
    fn vet_publish(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: &Publish<'_>,
        message: &MessageRef<'_>,
        mounted: &mut Vec<u8>,
        effects: &mut Effects,
    ) -> Result<Option<ReasonCode>, ProtocolError> {
        let settings = self.clients.settings.clone();
        let Some(connection) = self.clients.connections.get(key) else {
            return Ok(None);
        };
        // Both end the connection, of v3.1.1 Clients too, which could not know.
        if message.qos > connection.maximum_qos {
            return Err(ProtocolError::QoSNotSupported);
        }
        if message.retain && !settings.policy.retain_available {
            return Err(ProtocolError::RetainNotSupported);
        }
        let mut topic_name = message.topic_name;
        if let Some(mount_point) = settings.mount_point(connection.listener) {
            mounted.extend_from_slice(mount_point.as_bytes());
            mounted.extend_from_slice(topic_name);
            // It may have become too long, or too deep.
            std::str::from_utf8(mounted)
                .ok()
                .and_then(|text| TopicName::new(text).ok())
                .ok_or(ProtocolError::TopicNameInvalid)?;
            topic_name = mounted;
        }
        let size = message.payload.len();
        let refused = if size > settings.policy.message_size_limit {
            self.clients.counters.dropped_payload_too_large += 1;
            Some(ReasonCode::ImplementationSpecificError)
        } else if !self.clients.may_write(session, topic_name) {
            self.clients.counters.dropped_denied += 1;
            Some(ReasonCode::NotAuthorized)
        } else {
            None
        };
        if self.logs(LogMask::PACKETS) {
            self.log_publish(session, publish, topic_name, refused, effects);
        }
        Ok(refused)
    }

    /// Acknowledges a PUBLISH that goes nowhere. A v3.1.1 Client cannot be told why.
    fn refuse_publish(
        &mut self,
        key: ConnectionKey,
        publish: &Publish<'_>,
        reason_code: ReasonCode,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(packet_identifier) = publish.packet_identifier else {
            return;
        };
        if self.clients.store.is_some() {
            // In its turn, which may come after others that wait.
            let packet = if publish.qos == QoS::AtLeastOnce {
                HeldPacket::PubAck(packet_identifier, reason_code)
            } else {
                HeldPacket::PubRec(packet_identifier, reason_code)
            };
            return self.hold(key, 0, 0, packet, now, effects);
        }
        self.acknowledge(key, effects, |version, out| {
            if publish.qos == QoS::AtLeastOnce {
                codec::encode_puback(version, packet_identifier, reason_code, out);
            } else {
                codec::encode_pubrec(version, packet_identifier, reason_code, out);
            }
        });
    }

    /// Takes a message of QoS 1 of which nothing is stored.
    #[inline]
    #[allow(clippy::too_many_arguments)] // As `receive`.
    fn receive_qos1(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        packet_identifier: PacketIdentifier,
        message: MessageRef<'_>,
        matches: &Rc<Matches>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let publisher = Publisher::Session(session);
        let routed = self.route_to(matches, message, publisher, now, effects);
        self.acknowledge(key, effects, |version, out| {
            codec::encode_puback(version, packet_identifier, routed.reason_code(), out);
        });
    }

    /// A QoS 2 message is routed at its first PUBLISH and remembered until PUBREL.
    #[allow(clippy::too_many_arguments)] // As `receive`.
    pub(super) fn receive_qos2(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: AcknowledgedPublish,
        message: MessageRef<'_>,
        matches: &Rc<Matches>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<ReasonCode, ProtocolError> {
        let packet_identifier = publish.packet_identifier;
        let connection = self.clients.connections.get(key);
        // A v3.1.1 Client has not been told a maximum; its identifiers are one.
        let receive_maximum = connection
            .filter(|connection| connection.version.is_v5())
            .map_or(0, |connection| {
                let told = connection.rare().and_then(|rare| rare.receive_maximum);
                told.unwrap_or(self.clients.limits.max_inflight_messages)
            });
        let Some(member) = self.clients.members.get_mut(session) else {
            return Ok(ReasonCode::UnspecifiedError);
        };
        let inbound = &mut member.session.inbound;
        // Looked for once: a Client may have many on their way.
        let mut begins_anew = false;
        if !inbound.publish(packet_identifier) {
            begins_anew = inbound.begins_anew(packet_identifier, publish.duplicate);
            if !begins_anew {
                // A duplicate is acknowledged again but not routed again [MQTT-4.3.3-10].
                return Ok(ReasonCode::Success);
            }
        }
        // [MQTT-3.3.4-7]
        let most = usize::from(receive_maximum);
        if receive_maximum != 0 && inbound.len() > most && inbound.known() > most {
            // It was not taken: sent again, it is no duplicate.
            inbound.release(packet_identifier);
            return Err(ProtocolError::ReceiveMaximumExceeded { receive_maximum });
        }
        let is_stored = member.session.is_stored();
        if is_stored && begins_anew {
            self.store_freed(session, packet_identifier);
        }
        if is_stored {
            self.store_received(session, publish, message);
        }
        let reason_code = self
            .route_to(matches, message, Publisher::Session(session), now, effects)
            .reason_code();
        // A PUBREC of 0x80 or more ends the exchange: there will be no PUBREL [MQTT-4.3.3-4].
        if reason_code.is_error()
            && let Some(member) = self.clients.members.get_mut(session)
        {
            member.session.inbound.release(packet_identifier);
            if is_stored {
                self.store_freed(session, packet_identifier);
            }
        }
        Ok(reason_code)
    }

    fn acknowledge(
        &mut self,
        key: ConnectionKey,
        effects: &mut Effects,
        encode: impl FnOnce(crate::message::ProtocolVersion, &mut Vec<u8>),
    ) {
        if let Some(connection) = self.clients.connections.get_mut(key) {
            encode(connection.version, &mut connection.outbox);
            self.clients.counters.packets_sent += 1;
            mark_dirty(connection, key, effects);
        }
    }

    /// PUBREL from a Client: the identifier is free again [MQTT-4.3.3-11].
    pub(super) fn handle_pubrel(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        acknowledgement: &Acknowledgement<'_>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let packet_identifier = acknowledgement.packet_identifier;
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        let known = member.session.inbound.release(packet_identifier);
        let reason_code = if known {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        let mut lsn = 0;
        if member.session.is_stored() {
            if known {
                self.store_freed(session, packet_identifier);
            }
            lsn = self.stored_position();
        } else if self.acknowledge_at_once(key, effects, |version, out| {
            codec::encode_pubcomp(version, packet_identifier, reason_code, out);
        }) {
            return;
        }
        // A PUBREC that left later, for a PUBLISH that was sent twice, would be one for the next of this identifier.
        let packet = HeldPacket::PubComp(packet_identifier, reason_code);
        self.hold(key, lsn, 0, packet, now, effects);
    }

    /// PUBACK from a Client.
    pub(super) fn handle_puback(
        &mut self,
        session: SessionKey,
        acknowledgement: &Acknowledgement<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        self.end_delivery(session, acknowledgement, Inflight::puback, now, effects)
    }

    /// PUBREC from a Client: PUBREL follows, unless the Client refused the message.
    pub(super) fn handle_pubrec(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        acknowledgement: &Acknowledgement<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let packet_identifier = acknowledgement.packet_identifier;
        let failed = acknowledgement.reason_code.is_error();
        let Some(member) = self.clients.members.get_mut(session) else {
            return Ok(());
        };
        let sequence = member.session.inflight.sequence_of(packet_identifier);
        let known = member.session.inflight.pubrec(packet_identifier, failed)?;
        let is_stored = member.session.is_stored();
        if known
            && is_stored
            && let Some(store) = &mut self.clients.store
        {
            if failed {
                let refused = QoS::ExactlyOnce;
                store.passed_over(&mut member.session, sequence, refused);
            } else {
                store.released(&member.session, sequence);
            }
        }
        if failed {
            self.send_pending(session, now, effects);
            return Ok(());
        }
        let reason_code = if known {
            ReasonCode::Success
        } else {
            ReasonCode::PacketIdentifierNotFound
        };
        if is_stored {
            let packet = HeldPacket::PubRel(packet_identifier, reason_code);
            self.hold(key, self.stored_position(), 0, packet, now, effects);
            return Ok(());
        }
        self.acknowledge(key, effects, |version, out| {
            codec::encode_pubrel(version, packet_identifier, reason_code, out);
        });
        Ok(())
    }

    /// PUBCOMP from a Client.
    pub(super) fn handle_pubcomp(
        &mut self,
        session: SessionKey,
        acknowledgement: &Acknowledgement<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        self.end_delivery(session, acknowledgement, Inflight::pubcomp, now, effects)
    }

    /// `end` tells the Session's flows of an acknowledgement, the last one of its message, and whether they waited for
    /// it. The next message may follow then.
    #[inline]
    fn end_delivery(
        &mut self,
        session: SessionKey,
        acknowledgement: &Acknowledgement<'_>,
        end: impl FnOnce(&mut Inflight, PacketIdentifier) -> Result<bool, ProtocolError>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let Some(member) = self.clients.members.get_mut(session) else {
            return Ok(());
        };
        let identifier = acknowledgement.packet_identifier;
        let sequence = member.session.inflight.sequence_of(identifier);
        if end(&mut member.session.inflight, identifier)? {
            if member.session.is_stored()
                && let Some(store) = &mut self.clients.store
            {
                store.done(&member.session, sequence);
            }
            if self.clients.has_pending(session) {
                self.send_pending(session, now, effects);
            }
        }
        Ok(())
    }

    /// Who wants what is published to a topic, and may read it.
    #[inline]
    pub(super) fn matches_of(&mut self, topic_name: &[u8]) -> Rc<Matches> {
        match self.router.remembered(topic_name) {
            Some(matches) => matches,
            None => self.find_matches(topic_name),
        }
    }

    /// The same, of a topic that is not remembered.
    #[inline(never)]
    fn find_matches(&mut self, topic_name: &[u8]) -> Rc<Matches> {
        let clients = &self.clients;
        let may_read = |session| clients.may_read(session, topic_name);
        let topic_name = TopicName::from_validated(topic_name);
        let (matches, took) = self.router.look_up(topic_name, clients.guarded, may_read);
        self.count_look_up(took);
        matches
    }

    /// Brings a message to everybody who wants it, whatever it takes to find them.
    pub(super) fn route(
        &mut self,
        message: MessageRef<'_>,
        publisher: Publisher<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Routed {
        let matches = self.matches_of(message.topic_name);
        self.route_to(&matches, message, publisher, now, effects)
    }

    // HOT: per PUBLISH.
    /// Brings a message to everybody who wants it, which `matches` are: local Sessions, other shards, one member of each
    /// shared subscription, the retained store.
    pub(super) fn route_to(
        &mut self,
        matches: &Rc<Matches>,
        message: MessageRef<'_>,
        publisher: Publisher<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Routed {
        let mut owned = None;
        let mut retained = None;
        if message.retain {
            if !self.retained_has_room(message) {
                self.clients.counters.retained_refused += 1;
                return Routed::QuotaExceeded;
            }
            self.clock += 1;
            let version = RetainedVersion {
                clock: self.clock,
                shard: self.id,
            };
            let source = match publisher {
                Publisher::Broker => None,
                Publisher::Session(session) => {
                    let member = self.clients.members.get(session);
                    member.map(|member| member.session.identity.clone())
                }
                Publisher::Former(identity) => Some(identity.clone()),
            };
            let shared = Arc::new(Message::new(message).from_source(source));
            self.apply_retained(&shared, version, now);
            owned = Some(shared);
            retained = Some(version);
        }
        let (mut targets, mut groups) = (&matches.targets[..], &matches.groups[..]);
        if matches.receivers() > self.spreads.unasked_max {
            let source = publisher.source();
            let left = self.spread(message, &mut owned, matches, source, now, effects);
            (targets, groups) = left;
        }
        let mut fanout = self.clients.fanout(message, owned, targets.len(), now);
        self.clients
            .deliver_to(targets, publisher.session(), &mut fanout, effects);
        if retained.is_some() {
            // Every replica needs it, whether or not the shard has subscribers.
            let keeper = self.retained_keeper(message.topic_name);
            for to in self.peer_ids() {
                let deliver = matches.shards.contains(to);
                if deliver || to == keeper {
                    self.post_ticket(to);
                }
                let message = self.clients.own(&mut fanout);
                self.post(
                    to,
                    Envelope::Publish {
                        message,
                        retained,
                        deliver,
                    },
                );
            }
        } else if matches.has_shards() {
            self.forward(matches, &mut fanout);
        }
        if !groups.is_empty() {
            self.deliver_to_groups(groups, &mut fanout, effects);
        }
        self.clients.end_fanout(fanout);
        if matches.is_empty() {
            Routed::NoSubscribers
        } else {
            Routed::Matched
        }
    }

    /// Sends a message that is not retained to the shards that have subscribers for it.
    pub(super) fn forward(&mut self, matches: &Matches, fanout: &mut Fanout<'_>) {
        for to in matches.shards.iter() {
            self.forward_to_subscribers(to, fanout);
        }
    }

    /// Brings a message to one member of each shared subscription that has not had it.
    pub(super) fn deliver_to_groups(
        &mut self,
        groups: &[GroupKey],
        fanout: &mut Fanout<'_>,
        effects: &mut Effects,
    ) {
        let message = fanout.message;
        for &group in groups {
            if self.has_group_had(group.filter()) {
                continue;
            }
            let pick = self.pick_living(|router| router.pick(group));
            match self.choose(pick, group.filter(), None, message.topic_name) {
                Some(Chosen::Local(target)) => {
                    let recipient = shared_recipient(&target, message.retain);
                    self.clients.deliver(recipient, fanout, effects);
                }
                Some(Chosen::Remote { to, filter, first }) => {
                    self.forward_to_member(to, filter, first, fanout);
                }
                None => {}
            }
        }
    }

    /// Whether a full ring drops so many messages: of QoS 0; publishers of QoS 1 and 2 were stopped before it came to
    /// that.
    pub(super) fn is_dropped_for_ring(&mut self, to: ShardId, qos: QoS, count: usize) -> bool {
        let backlog_max = self.clients.limits.peer_backlog_max;
        let is_dropped = qos == QoS::AtMostOnce && self.peers[to.index()].is_full(backlog_max);
        if is_dropped {
            self.clients.counters.dropped_ring_full += count as u64;
        }
        is_dropped
    }

    /// Adds to the batch for another shard by `push`, which tells whether it is full then.
    #[inline]
    pub(super) fn add_to_batch(&mut self, to: ShardId, push: impl FnOnce(&mut OpenBatch) -> bool) {
        let peer = &mut self.peers[to.index()];
        let had_place = !peer.open.is_empty();
        if push(&mut peer.open) {
            peer.close(&mut self.batches);
        }
        if !had_place {
            self.ring_is_full |= peer.is_full(self.clients.limits.peer_backlog_max);
        }
    }

    // HOT: per PUBLISH to another shard.
    /// Sends a message that is not retained to one shard that has subscribers for it.
    fn forward_to_subscribers(&mut self, to: ShardId, fanout: &mut Fanout<'_>) {
        let is_small = fanout.message.size() <= BATCHED_SIZE_MAX && self.has_plain_ticket();
        let has_place = is_small && !self.peers[to.index()].open.is_empty();
        if !has_place && self.is_dropped_for_ring(to, fanout.message.qos, 1) {
            return;
        }
        if !is_small {
            self.post_ticket(to);
            let message = self.clients.own(fanout);
            let envelope = Envelope::Publish {
                message,
                retained: None,
                deliver: true,
            };
            return self.post(to, envelope);
        }
        let ticket = self.ticket_in_batch();
        self.add_to_batch(to, |open| open.push(&fanout.message, ticket));
    }

    /// Sends to the shard of a member of a shared subscription.
    fn forward_to_member(
        &mut self,
        to: ShardId,
        filter: Arc<[u8]>,
        first: ShardId,
        fanout: &mut Fanout<'_>,
    ) {
        if !self.is_dropped_for_ring(to, fanout.message.qos, 1) {
            let message = self.clients.own(fanout);
            self.post_shared(to, message, filter, first);
        }
    }

    fn post_shared(
        &mut self,
        to: ShardId,
        message: Arc<Message>,
        filter: Arc<[u8]>,
        first: ShardId,
    ) {
        self.post_ticket(to);
        self.post(
            to,
            Envelope::PublishShared {
                message,
                filter,
                first,
            },
        );
    }

    /// A message from another shard, for its replica and its local subscribers.
    pub(super) fn handle_forwarded(
        &mut self,
        from: ShardId,
        message: Arc<Message>,
        retained: Option<RetainedVersion>,
        matches: Option<Rc<Matches>>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let Some(version) = retained {
            self.observe_clock(version.shard, version.clock);
            self.apply_retained(&message, version, now);
        }
        if let Some(matches) = matches {
            let view = message.as_ref().as_ref();
            let owned = Some(message.clone());
            self.deliver_forwarded(from, &matches, view, owned, now, effects);
        }
    }

    /// Handles up to `most` messages of a batch, from one place on and so many bytes of it. Returns what is left.
    pub(super) fn handle_batch(
        &mut self,
        from: ShardId,
        batch: Arc<Batch>,
        (mut next, mut handled): (u16, u16),
        most: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Envelope> {
        let most = most.max(1);
        let mut count = 0;
        while count < most
            && !self.is_spread_from(from)
            && let Some(item) = batch.get(next.into())
        {
            match item {
                Item::Message(message) => {
                    let Some(matches) = self.matches_in_time(message.topic_name, None, now) else {
                        self.look_up_before(most - count, now, effects);
                        count = most;
                        break;
                    };
                    match batch.ticket(next.into()) {
                        None => self.deliver_forwarded(from, &matches, message, None, now, effects),
                        ticket => {
                            self.begin_forwarded(from, ticket, message, now, effects);
                            self.deliver_forwarded(from, &matches, message, None, now, effects);
                            self.end_forwarded(from, ticket, now, effects);
                        }
                    }
                    self.end_frame();
                    count += 1;
                }
                // They count by their bytes, as what a Client sends does.
                Item::Packets(version, packets) => {
                    let rest = &packets[handled.into()..];
                    let most_bytes = (most - count).saturating_mul(BATCHED_SIZE_MAX);
                    let some = &rest[..rest.len().min(most_bytes)];
                    let Some(size) = self.deliver_packets(from, version, some, now, effects) else {
                        self.look_up_before(most - count, now, effects);
                        count = most;
                        break;
                    };
                    count += size.div_ceil(BATCHED_SIZE_MAX);
                    if size < rest.len() {
                        handled += size as u16;
                        continue;
                    }
                    handled = 0;
                }
            }
            next += 1;
        }
        effects.messages = count + self.take_cost_in_messages();
        let is_left = batch.get(next.into()).is_some();
        is_left.then_some(Envelope::Batch {
            batch,
            next,
            handled,
        })
    }

    // HOT: per PUBLISH from another shard.
    /// Brings a message to the local subscribers. Those of QoS 1 and 2 share `owned`, or a copy.
    fn deliver_forwarded(
        &mut self,
        from: ShardId,
        matches: &Rc<Matches>,
        message: MessageRef<'_>,
        mut owned: Option<Arc<Message>>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.expired_on_the_way(message, now) {
            return;
        }
        let mut targets = &matches.targets[..];
        if targets.len() > self.spreads.unasked_max {
            let source = Source::Shard(from);
            let left = self.spread(message, &mut owned, matches, source, now, effects);
            targets = left.0;
        }
        let mut fanout = self.clients.fanout(message, owned, targets.len(), now);
        self.clients.deliver_to(targets, None, &mut fanout, effects);
        self.clients.end_fanout(fanout);
    }

    /// Whether a message is too old to begin with its delivery [MQTT-3.3.2-5]: it may have waited for
    /// room in a ring, or in the queue of a Session that is gone.
    pub(super) fn expired_on_the_way(&mut self, message: MessageRef<'_>, now: Instant) -> bool {
        let expired = message.is_expired(now);
        self.clients.counters.dropped_expired += u64::from(expired);
        expired
    }

    /// A message from another shard for one member of a shared subscription.
    pub(super) fn handle_forwarded_shared(
        &mut self,
        message: &Arc<Message>,
        filter: &Arc<[u8]>,
        first: ShardId,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.expired_on_the_way(message.as_ref().as_ref(), now) {
            return;
        }
        let topic_name = message.topic_name();
        // Who chose this shard may have counted on a member that has just left.
        let mut is_local = true;
        let is_in_circle = first != self.id;
        let picked = self.pick_living(|router| {
            if std::mem::replace(&mut is_local, is_in_circle) {
                router.pick_local(filter).map(Pick::Local)
            } else {
                router.pick_by_text(filter)
            }
        });
        let chosen = match picked {
            Some(Pick::Remote(to, filter)) => Some(Chosen::Remote {
                to,
                filter,
                first: to,
            }),
            Some(Pick::Local(target)) if self.clients.may_read(target.session, topic_name) => {
                Some(Chosen::Local(target))
            }
            // The last member here left while the message was on its way; another shard may have one.
            None if first == self.id => {
                match self.pick_living(|router| router.pick_by_text(filter)) {
                    Some(Pick::Remote(to, filter)) => Some(Chosen::Remote {
                        to,
                        filter,
                        first: to,
                    }),
                    _ => None,
                }
            }
            _ => self.choose_other(filter, first, None, topic_name),
        };
        self.deliver_chosen(message, chosen, now, effects);
    }

    fn deliver_chosen(
        &mut self,
        message: &Arc<Message>,
        chosen: Option<Chosen>,
        now: Instant,
        effects: &mut Effects,
    ) {
        match chosen {
            Some(Chosen::Local(target)) => self.deliver_shared(message, &target, now, effects),
            Some(Chosen::Remote { to, filter, first }) => {
                self.post_shared(to, message.clone(), filter, first);
            }
            None => {}
        }
    }

    fn deliver_shared(
        &mut self,
        message: &Arc<Message>,
        target: &SharedTarget,
        now: Instant,
        effects: &mut Effects,
    ) {
        let view = message.as_ref().as_ref();
        let mut fanout = self.clients.fanout(view, Some(message.clone()), 1, now);
        self.clients
            .deliver(shared_recipient(target, view.retain), &mut fanout, effects);
        self.clients.end_fanout(fanout);
    }

    /// Gives what `session`, which the log calls `name`, was owed through a shared subscription to
    /// another member, of a group that is one of the first `groups_made`. False if there is nobody to have it; what is dropped
    /// on the way has a counter that says why.
    pub(super) fn hand_on(
        &mut self,
        session: SessionKey,
        name: Option<NonZeroU64>,
        groups_made: u64,
        delivery: &Delivery,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        if delivery.share.is_some()
            && let (Some(store), Some(name)) = (&mut self.clients.store, name)
        {
            store.begin_handing_on(name, delivery.place);
            let is_over = self.hand_on_to_other(session, groups_made, delivery, now, effects);
            if let Some(store) = &mut self.clients.store {
                store.end_handing_on();
            }
            is_over
        } else {
            self.hand_on_to_other(session, groups_made, delivery, now, effects)
        }
    }

    fn hand_on_to_other(
        &mut self,
        session: SessionKey,
        groups_made: u64,
        delivery: &Delivery,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let Some(ShareTag(filter)) = delivery.share else {
            return false;
        };
        if self.expired_on_the_way(delivery.message.as_ref().as_ref(), now) {
            return true;
        }
        let filter = FilterKey(filter);
        if !self.router.is_group_of_first(filter, groups_made) {
            return false;
        }
        let pick = self.pick_living(|router| router.pick_other(filter, session));
        let is_somebody = pick.is_some();
        let topic_name = delivery.message.topic_name();
        let chosen = self.choose(pick, filter, Some(session), topic_name);
        if chosen.is_some() {
            self.deliver_chosen(&delivery.message, chosen, now, effects);
            self.clients.counters.shared_handed_on += 1;
        }
        is_somebody
    }

    /// Whether the store takes this retained message. One that clears, or replaces one that is as
    /// large, always fits.
    fn retained_has_room(&self, message: MessageRef<'_>) -> bool {
        let limits = &self.clients.limits;
        let size = message.size();
        let bytes = self.router.retained_bytes() + self.router.retained_depth_bytes() + size;
        let topic_name = TopicName::from_validated(message.topic_name);
        match self.router.retained(topic_name) {
            _ if message.payload.is_empty() => true,
            Some((old, _)) => size <= old.size() || bytes <= limits.max_retained_bytes + old.size(),
            None => {
                self.router.retained_count() < limits.max_retained_messages
                    && bytes <= limits.max_retained_bytes
            }
        }
    }

    /// Takes a retained message into this shard's replica.
    fn apply_retained(&mut self, message: &Arc<Message>, version: RetainedVersion, now: Instant) {
        let was_taken = self.router.retain(message, version);
        if was_taken {
            self.retained_changes += 1;
        }
        self.store_retained(message, version, was_taken);
        if let Some(at) = self.router.next_retained_expiry() {
            self.timers.arm(Slot::RetainedExpiry, at);
        }
        self.note_tombstones(now);
    }

    /// Drops retained messages whose lifetime is over, some at a time so that the shard stays quick.
    pub(super) fn expire_retained(&mut self, now: Instant) {
        const EXPIRED_A_TURN: usize = 32;
        let expired = self.router.expire_retained(now, EXPIRED_A_TURN);
        if expired > 0 {
            self.retained_changes += 1;
            self.clients.counters.retained_expired += expired as u64;
            self.note_tombstones(now);
            self.end_walks(now);
        }
        if let Some(at) = self.router.next_retained_expiry() {
            self.timers.arm(
                Slot::RetainedExpiry,
                at.max(now + super::RETAINED_EXPIRY_PAUSE),
            );
        }
    }

    pub(super) fn pause_for_ring(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.clients.connections.get_mut(key)
            && !connection.pause.contains(Pause::RING)
        {
            connection.pause.set(Pause::RING);
            self.clients.counters.paused_ring_full += 1;
            self.waiting_for_ring.push(key);
        }
    }
}

impl Clients {
    /// Gives the message of `fanout` to local subscribers; `publisher` is who published it, if it is one of this shard.
    #[inline(always)] // Most have one, and would pay for a call.
    pub(super) fn deliver_to(
        &mut self,
        targets: &[Target],
        publisher: Option<SessionKey>,
        fanout: &mut Fanout<'_>,
        effects: &mut Effects,
    ) {
        for target in targets {
            // [MQTT-3.8.3-3]
            if target.is_for(publisher) {
                self.deliver_to_one(target, fanout, effects);
            }
        }
    }

    /// Gives it to a subscriber that it is for.
    #[inline(always)] // As `deliver_to`.
    pub(super) fn deliver_to_one(
        &mut self,
        target: &Target,
        fanout: &mut Fanout<'_>,
        effects: &mut Effects,
    ) {
        let recipient = recipient(target, fanout.message.retain);
        self.deliver(recipient, fanout, effects);
    }
}

impl Publisher<'_> {
    const fn session(self) -> Option<SessionKey> {
        match self {
            Self::Session(session) => Some(session),
            Self::Broker | Self::Former(_) => None,
        }
    }

    fn source(self) -> Source {
        self.session().map_or(Source::Nobody, Source::Session)
    }
}

impl Routed {
    pub(super) fn reason_code(self) -> ReasonCode {
        match self {
            Self::Matched => ReasonCode::Success,
            Self::NoSubscribers => ReasonCode::NoMatchingSubscribers,
            Self::QuotaExceeded => ReasonCode::QuotaExceeded,
        }
    }
}

fn recipient(target: &Target, retain: bool) -> Recipient<'_> {
    Recipient {
        session: target.session,
        qos: target.qos,
        // Cleared for an established subscription unless it asks for it [MQTT-3.3.1-12]
        // [MQTT-3.3.1-13].
        retain: retain && target.retain_as_published,
        share: None,
        subscription_identifiers: &target.subscription_identifiers,
    }
}

fn shared_recipient(target: &SharedTarget, retain: bool) -> Recipient<'_> {
    Recipient {
        session: target.session,
        qos: target.qos,
        retain: retain && target.retain_as_published,
        share: Some(ShareTag(target.filter.0)),
        subscription_identifiers: target.subscription_identifier.as_slice(),
    }
}
