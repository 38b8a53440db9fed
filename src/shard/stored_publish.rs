//! The way of a message through a shard that stores things: when it is taken, forwarded, refused.

#![forbid(unsafe_code)]

use std::num::NonZeroU64;
use std::rc::Rc;
use std::sync::Arc;

use super::connection::Pause;
use super::effects::Effects;
use super::envelope::Envelope;
use super::publish::Publisher;
use super::spread::{Promise, Source};
use super::store::{HandedOn, HeldPacket, Received, Ticket, Waiter};
use super::{Shard, Step};
use crate::codec::{self, ReasonCode};
use crate::journal::{Lsn, Origin, Record, ReplayedWill};
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::limits::DISK_PATIENCE;
use crate::message::{Message, MessageRef, QoS};
use crate::origin::Identity;
use crate::router::{FilterKey, Matches, RetainedVersion};
use crate::session::{Logged, ProtocolError, Session};
use crate::time::Instant;

/// What a PUBLISH of QoS 1 or 2 says beside its message.
#[derive(Clone, Copy, Debug)]
pub(super) struct AcknowledgedPublish {
    pub(super) packet_identifier: PacketIdentifier,
    pub(super) duplicate: bool,
}

impl Shard {
    // HOT: per PUBLISH, nearly always of Sessions that are not stored.
    /// Takes a message of QoS 1, whose acknowledgement waits until it is stored wherever it must be.
    #[inline]
    #[allow(clippy::too_many_arguments)] // As `receive`.
    pub(super) fn receive_stored_qos1(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        packet_identifier: PacketIdentifier,
        message: MessageRef<'_>,
        matches: &Rc<Matches>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let Some(store) = &mut self.clients.store {
            store.begin(Waiter::Connection(key));
        }
        let spread_before = self.clients.counters.spread;
        let reason_code = self
            .route_to(matches, message, Publisher::Session(session), now, effects)
            .reason_code();
        let (lsn, ticket) = self.end_stored();
        let answer = (packet_identifier, reason_code);
        // This one. Another one of its Session may be on its way, of an earlier connection.
        if self.clients.counters.spread != spread_before {
            let promise = Promise::PubAck {
                connection: key,
                answer,
                lsn,
                ticket,
            };
            return self.promise(Source::Session(session), promise, now, effects);
        }
        self.puback_once_stored(key, answer, (lsn, ticket), now, effects);
    }

    /// Sends PUBACK once `lsn` is durable here and `ticket` is answered; zero: nothing is waited for.
    #[inline(always)] // Of the two calls one is for each PUBLISH.
    pub(super) fn puback_once_stored(
        &mut self,
        key: ConnectionKey,
        (packet_identifier, code): (PacketIdentifier, ReasonCode),
        (lsn, ticket): (Lsn, u64),
        now: Instant,
        effects: &mut Effects,
    ) {
        if (lsn, ticket) == (0, 0)
            && self.acknowledge_at_once(key, effects, |version, out| {
                codec::encode_puback(version, packet_identifier, code, out);
            })
        {
            return;
        }
        let packet = HeldPacket::PubAck(packet_identifier, code);
        self.hold(key, lsn, ticket, packet, now, effects);
    }

    /// Takes a message of QoS 2, whose acknowledgement waits until it is stored wherever it must be.
    #[allow(clippy::too_many_arguments)] // As `receive`.
    pub(super) fn receive_stored_qos2(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        publish: AcknowledgedPublish,
        message: MessageRef<'_>,
        matches: &Rc<Matches>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let packet_identifier = publish.packet_identifier;
        if let Some(store) = &mut self.clients.store {
            store.begin(Waiter::Connection(key));
        }
        let is_repeated = self
            .clients
            .members
            .get(session)
            .is_some_and(|member| member.session.inbound.contains(packet_identifier));
        let received = self.receive_qos2(key, session, publish, message, matches, now, effects);
        let (mut lsn, mut ticket) = self.end_stored();
        let code = received?;
        if let Some(store) = &mut self.clients.store
            && let Some(received) = store.routing.received.take()
        {
            match store.tickets.last_mut().filter(|_| ticket != 0) {
                // There will be no repetition of it.
                _ if code.is_error() => store.settled(received.name.get(), received.repeats),
                Some(pending) => {
                    pending.received = Some(received);
                    if let Some(member) = self.clients.members.get_mut(session) {
                        member.session.inbound.add_ticket(ticket);
                    }
                }
                None => {
                    store.received(received);
                    lsn = store.journal.position();
                }
            }
        }
        if (lsn, ticket) == (0, 0)
            && !is_repeated
            && self.acknowledge_at_once(key, effects, |version, out| {
                codec::encode_pubrec(version, packet_identifier, code, out);
            })
        {
            return Ok(());
        }
        if is_repeated
            && let Some(store) = &self.clients.store
            && let Some(member) = self.clients.members.get(session)
            && member.session.is_stored()
        {
            // Its first PUBLISH may still be on its way to a disk, and later ones be there before it. A Session that
            // is not stored ends with its connection, which holds what answers the first.
            lsn = store.journal.position();
            ticket = store.ticket_of(&member.session, packet_identifier);
        }
        let packet = HeldPacket::PubRec(packet_identifier, code);
        self.hold(key, lsn, ticket, packet, now, effects);
        Ok(())
    }

    /// Publishes the Will of a Session. If that is stored, so is the Will until everybody has it who has to: here that is
    /// in one frame with its end, other shards are waited for.
    pub(super) fn route_will(
        &mut self,
        session: SessionKey,
        message: MessageRef<'_>,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.make_way(message, now, effects);
        let publisher = Publisher::Session(session);
        let member = self.clients.members.get(session);
        let member = member.filter(|it| it.session.is_stored() && message.qos > QoS::AtMostOnce);
        let (Some(member), Some(store)) = (member, &mut self.clients.store) else {
            self.route(message, publisher, now, effects);
            return;
        };
        let identity = member.session.identity.clone();
        let name = store.journal.name_session();
        self.finish_spreads_to(message.topic_name, now, effects);
        if let Some(store) = &mut self.clients.store {
            store.begin(Waiter::Will(name));
        }
        self.route(message, publisher, now, effects);
        let (_, ticket) = self.end_stored();
        if ticket != 0
            && let Some(store) = &mut self.clients.store
        {
            let clock = if message.retain { self.clock } else { 0 };
            store.will_under_way(name, &identity, message, clock);
        }
    }

    /// Publishes a Will that may not have come everywhere before the process ended.
    pub(super) fn restore_will(
        &mut self,
        name: u64,
        identity: &Arc<Identity>,
        will: &ReplayedWill,
        now: Instant,
        effects: &mut Effects,
    ) {
        let message = will.message.as_ref();
        let publisher = match self.clients.find(&identity.client_identifier) {
            Some(session) => Publisher::Session(session),
            None => Publisher::Former(identity),
        };
        if let Some(store) = &mut self.clients.store {
            store.begin(Waiter::Will(name));
        }
        if !message.is_expired(now) {
            self.route(message, publisher, now, effects);
        }
        self.take_cost();
        let (_, ticket) = self.end_stored();
        if ticket == 0
            && let Some(store) = &mut self.clients.store
        {
            store.will_has_come(name);
            store.journal.end_packet();
        }
    }

    /// Whether a member of this shared subscription has had the message at hand before a crash.
    pub(super) fn has_group_had(&self, filter: FilterKey) -> bool {
        let store = self.clients.store.as_ref();
        store.is_some_and(|store| {
            store.routing.skipped.is_some() && store.has_group_had(&self.router.filter_arc(filter))
        })
    }

    #[inline]
    fn end_stored(&mut self) -> (u64, u64) {
        match &mut self.clients.store {
            Some(store) => store.end(),
            None => (0, 0),
        }
    }

    /// The PUBLISH of a QoS 2 exchange is taken: what is to be written down of it.
    pub(super) fn store_received(
        &mut self,
        session: SessionKey,
        publish: AcknowledgedPublish,
        message: MessageRef<'_>,
    ) {
        let packet_identifier = publish.packet_identifier;
        let (Some(store), Some(member)) = (
            &mut self.clients.store,
            self.clients.members.get_mut(session),
        ) else {
            return;
        };
        let Some(log) = &mut member.session.log else {
            return;
        };
        log.exchanges += 1;
        let (name, exchange) = (log.name, log.exchanges);
        let origin = Origin {
            session: name.get(),
            exchange,
            packet_identifier,
        };
        let repeats = store.begin_exchange(origin, publish.duplicate, message);
        // Alone, all of it is in one frame.
        store.routing.is_forwarded = self.peers.len() > 1;
        store.routing.received = Some(Received {
            session,
            name,
            packet_identifier,
            exchange,
            repeats,
        });
    }

    /// Writes down that its identifier is free.
    pub(super) fn store_freed(&mut self, session: SessionKey, packet_identifier: PacketIdentifier) {
        self.store(session, |store, session| {
            if let Some(name) = session.stored() {
                store.journal.append(&Record::Freed {
                    session: name.get(),
                    packet_identifier,
                });
            }
        });
    }

    /// The shard that writes down the retained message of a topic, so that all that was ever said of
    /// the topic stands in one log.
    pub(super) fn retained_keeper(&self, topic_name: &[u8]) -> ShardId {
        self.placement.shard_of_bytes(topic_name)
    }

    /// A retained message has come; the replica took it, unless there is a later one.
    pub(super) fn store_retained(
        &mut self,
        message: &Arc<Message>,
        version: RetainedVersion,
        was_taken: bool,
    ) {
        if self.clients.store.is_some()
            && self.retained_keeper(message.topic_name()) == self.id
            && !message.topic_name().starts_with(b"$SYS/")
            && let Some(store) = &mut self.clients.store
        {
            if was_taken {
                store.retained(message, version);
            } else {
                store.superseded();
            }
        }
    }

    /// Asks `to` to say when what the next envelope causes is stored, if anybody waits for that.
    pub(super) fn post_ticket(&mut self, to: ShardId) {
        if let Some(store) = &mut self.clients.store
            && let Some(ticket) = store.ticket()
        {
            let Ticket {
                ticket,
                origin,
                repeats,
            } = ticket;
            for HandedOn { session, sequence } in store.routing.handed_on.clone() {
                self.post(to, Envelope::HandedOn { session, sequence });
            }
            self.post(
                to,
                Envelope::Ticket {
                    ticket,
                    origin,
                    repeats,
                },
            );
        }
    }

    /// What asks for that if it is said of a message in a batch.
    #[inline]
    pub(super) fn ticket_in_batch(&mut self) -> Option<Ticket> {
        self.clients.store.as_mut()?.ticket()
    }

    /// Whether the message at hand may be part of a batch: its ticket says all that there is to say of it.
    #[inline]
    pub(super) fn has_plain_ticket(&self) -> bool {
        let store = self.clients.store.as_ref();
        store.is_none_or(|store| store.routing.handed_on.is_empty())
    }

    /// A message from another shard: what that wants to know of it.
    #[inline]
    pub(super) fn begin_forwarded(
        &mut self,
        from: ShardId,
        ticket: Option<Ticket>,
        message: MessageRef<'_>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if !self.spreads.is_empty()
            && message.qos == QoS::ExactlyOnce
            && self.clients.store.is_some()
        {
            self.finish_spreads_to(message.topic_name, now, effects);
        }
        let (Some(store), Some(ticket)) = (&mut self.clients.store, ticket) else {
            return;
        };
        let waiter = Waiter::Shard {
            to: from,
            ticket: ticket.ticket,
            lsn: 0,
        };
        store.begin_forwarded(waiter, ticket, message);
        let handed_on = &mut self.peers[from.index()].handed_on;
        store.routing.handed_on.append(handed_on);
    }

    #[inline]
    pub(super) fn end_forwarded(
        &mut self,
        from: ShardId,
        ticket: Option<Ticket>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(ticket) = ticket else { return };
        let (lsn, own) = self.end_stored();
        if own == 0 && !self.spreads.is_empty() {
            let (to, ticket) = (from, ticket.ticket);
            let promise = Promise::Ticket { to, ticket, lsn };
            return self.promise(Source::Shard(from), promise, now, effects);
        }
        if own == 0 {
            return self.answer_ticket(from, ticket.ticket, lsn);
        }
        // It went on to another shard, whose answer is waited for first.
        if let Some(store) = &mut self.clients.store
            && let Some(pending) = store.tickets.last_mut()
        {
            pending.waiter = Waiter::Shard {
                to: from,
                ticket: ticket.ticket,
                lsn,
            };
        }
    }

    /// Whether somebody may have had a QoS 2 message with this Packet Identifier before a crash.
    fn is_suspect(&self, key: ConnectionKey, identifier: PacketIdentifier) -> bool {
        let clients = &self.clients;
        let session = clients.connections.get(key).and_then(|it| it.session());
        let member = session.and_then(|session| clients.members.get(session));
        let (Some(store), Some(member)) = (&clients.store, member) else {
            return false;
        };
        store.is_suspect(&member.session, identifier)
    }

    /// A publication that needs a disk which takes nothing. The Client waits in TCP; a v5 Client is told
    /// if that takes long, unless nobody acknowledges what it published, or it may have come to some.
    pub(super) fn refuse_for_disk(
        &mut self,
        key: ConnectionKey,
        qos: QoS,
        packet_identifier: Option<PacketIdentifier>,
        now: Instant,
        effects: &mut Effects,
    ) -> Step {
        let is_over = |since| now - since >= DISK_PATIENCE;
        let patience_is_over = self.disk_stalled_at.is_some_and(is_over);
        let exchange = packet_identifier.filter(|_| qos == QoS::ExactlyOnce);
        let may_have_come = exchange.is_some_and(|it| self.is_suspect(key, it));
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return Step::Stop;
        };
        if patience_is_over
            && connection.version.is_v5()
            && let Some(identifier) = packet_identifier
            && !may_have_come
        {
            self.clients.counters.refused_disk_stalled += 1;
            let packet = if qos == QoS::AtLeastOnce {
                HeldPacket::PubAck(identifier, ReasonCode::QuotaExceeded)
            } else {
                HeldPacket::PubRec(identifier, ReasonCode::QuotaExceeded)
            };
            self.hold(key, 0, 0, packet, now, effects);
            return Step::Continue;
        }
        if !connection.pause.contains(Pause::DISK) {
            connection.pause.set(Pause::DISK);
            self.clients.counters.paused_disk_stalled += 1;
            self.waiting_for_disk.push(key);
        }
        Step::Blocked
    }

    /// Bytes of the journal that wait to be written.
    pub(crate) fn journal_size(&self) -> usize {
        self.clients
            .store
            .as_ref()
            .map_or(0, |store| store.journal.size())
    }

    /// A CONNECT was accepted for `session`: it is stored from now on if it outlives the connection.
    pub(super) fn store_attached(&mut self, session: SessionKey) {
        let (Some(store), Some(member)) = (
            &mut self.clients.store,
            self.clients.members.get_mut(session),
        ) else {
            return;
        };
        let state = &mut member.session;
        if !state.is_stored() && state.expiry_interval_s > 0 && state.inflight.is_empty() {
            let name = NonZeroU64::new(store.journal.name_session());
            state.log = name.map(|name| Box::new(Logged::new(name)));
        }
        if let Some(log) = &mut state.log
            && let Some(connection) = state.connection
            && let Some(connection) = self.clients.connections.get(connection)
        {
            log.window = connection.window;
        }
        store.session(member);
    }

    pub(super) fn store_ended(&mut self, session: &Session) {
        if let Some(store) = &mut self.clients.store
            && let Some(name) = session.stored()
        {
            store.ended(name);
            let lsn = store.journal.position();
            let client_identifier = &session.identity.client_identifier;
            store.endings.push(client_identifier, lsn);
        }
    }
}
