//! SUBSCRIBE and UNSUBSCRIBE, the interest barrier between them and SUBACK, and retained replay.
//!
//! The first local subscription to a filter is announced to all shards, and SUBACK waits until each
//! of them has acknowledged it. While it waits the Client is not read, so its packets keep their
//! order; deliveries to it go on.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::clients::{SubscriptionKind, mark_dirty};
use super::connection::Pause;
use super::effects::Effects;
use super::envelope::Envelope;
use super::mount_point::mounted_filter;
use super::store::HeldPacket;
use super::timers::Slot;
use super::{Shard, Step};
use crate::auth::Access;
use crate::codec::{self, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe};
use crate::journal::Lsn;
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::message::QoS;
use crate::policy::LogMask;
use crate::router::{FilterKey, Interest};
use crate::session::{ProtocolError, ShareTag};
use crate::time::Instant;
use crate::topic::TopicFilter;

/// Bytes of a SUBACK or UNSUBACK beside its reason codes, at most.
const ANSWER_SIZE: usize = 1 + 4 + 2 + 1;

/// A SUBACK that waits for other shards.
#[derive(Debug)]
pub(super) struct Barrier {
    /// The announcement that all shards must have acknowledged.
    sequence: u64,
    connection: ConnectionKey,
    answer: Answer,
}

/// What follows the barrier.
#[derive(Debug)]
pub(super) struct Answer {
    packet_identifier: PacketIdentifier,
    codes: SmallVec<[ReasonCode; 4]>,
    replays: SmallVec<[ReplayRequest; 1]>,
    /// What must be durable before it leaves.
    lsn: Lsn,
}

impl Answer {
    pub(super) fn forget_replays(&mut self, filter: FilterKey) {
        self.replays.retain(|request| request.filter != filter);
    }
}

/// Retained messages a subscription asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayRequest {
    pub(super) filter: FilterKey,
    pub(super) qos: QoS,
    /// What its Client publishes does not come as it changes.
    pub(super) no_local: bool,
    pub(super) subscription_identifier: Option<NonZeroU32>,
}

impl ReplayRequest {
    pub(super) const fn new(
        filter: FilterKey,
        options: SubscriptionOptions,
        subscription_identifier: Option<NonZeroU32>,
    ) -> Self {
        Self {
            filter,
            qos: options.qos,
            no_local: options.no_local,
            subscription_identifier,
        }
    }

    /// The QoS that a message of QoS `message` is sent with, where the operator wants `qos_min` at least.
    pub(super) fn qos_of(&self, message: QoS, qos_min: QoS) -> QoS {
        message.max(qos_min).min(self.qos)
    }
}

impl Shard {
    pub(super) fn handle_subscribe(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        subscribe: &Subscribe<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        if self.ring_is_full {
            self.pause_for_ring(key);
            return Ok(Step::Blocked);
        }
        self.check_answer(key, subscribe.filters().count())?;
        // All or nothing: a malformed filter ends the connection before any of them is in force.
        for (filter, _) in subscribe.filters() {
            TopicFilter::new(filter).map_err(|_| ProtocolError::TopicFilterInvalid)?;
        }
        let settings = self.clients.settings.clone();
        let Some(connection) = self.clients.connections.get(key) else {
            return Ok(Step::Stop);
        };
        let (maximum_qos, is_bridge) = (connection.maximum_qos, connection.is_bridge());
        let mount_point = settings
            .listener(connection.listener)
            .and_then(|listener| listener.mount_point.as_deref());
        let mut answer = Answer {
            packet_identifier: subscribe.packet_identifier,
            codes: SmallVec::new(),
            replays: SmallVec::new(),
            lsn: 0,
        };
        let stalled = self.is_session_stored(session)
            && self.clients.store.as_ref().is_some_and(|it| it.stalled);
        for (seen, mut options) in subscribe.filters() {
            let text = mounted_filter(mount_point, seen);
            // Only a mount point can have made it too long.
            let Ok(filter) = TopicFilter::new(&text) else {
                answer.codes.push(ReasonCode::TopicFilterInvalid);
                continue;
            };
            options.qos = options.qos.min(maximum_qos);
            // What it brings from its broker must not go back there, and what is retained here is to be retained there.
            if is_bridge {
                options.no_local = filter.share_group().is_none();
                options.retain_as_published = true;
            }
            self.make_room_of_ended();
            let Some(member) = self.clients.members.get(session) else {
                break;
            };
            if !self
                .clients
                .permits(member, Access::Subscribe, text.as_bytes())
            {
                self.clients.counters.subscriptions_refused += 1;
                self.log_subscribe(session, &text, ReasonCode::NotAuthorized, effects);
                answer.codes.push(ReasonCode::NotAuthorized);
                continue;
            }
            let Some(member) = self.clients.members.get_mut(session) else {
                break;
            };
            let wanted = self.router.find(&filter);
            let known = wanted.is_some_and(|filter| member.subscriptions.contains_key(&filter));
            let limits = &self.clients.limits;
            let too_many = member.subscriptions.len() >= limits.max_subscriptions;
            let is_full = wanted.is_none() && self.router.filter_bytes() >= limits.max_filter_bytes;
            if stalled || is_full || (!known && too_many) {
                self.clients.counters.subscriptions_refused += 1;
                answer.codes.push(ReasonCode::QuotaExceeded);
                continue;
            }
            let is_shared = filter.share_group().is_some();
            let subscribed = self.router.subscribe(
                &filter,
                session,
                options,
                subscribe.subscription_identifier,
                true,
            );
            let before = member.subscriptions.get(&subscribed.filter).copied();
            let wants_retained = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => {
                    !subscribed.existed || before == Some(SubscriptionKind::Unanswered)
                }
                RetainHandling::DoNotSend => false,
            };
            // A new shared subscription is sent no retained messages [MQTT-4.8.2].
            let is_replayed = wants_retained && !is_shared;
            // What others retain until the barrier is not delivered as it comes.
            let has_retained = self.router.retained_count() > 0 || self.peers.len() > 1;
            // An earlier SUBSCRIBE of this connection may not have got all of what it asked for.
            let is_owed_retained =
                is_replayed && has_retained || before == Some(SubscriptionKind::Replaying);
            let kind = SubscriptionKind::new(is_shared, is_owed_retained);
            member.subscriptions.insert(subscribed.filter, kind);
            if is_replayed {
                let identifier = subscribe.subscription_identifier;
                let request = ReplayRequest::new(subscribed.filter, options, identifier);
                answer.replays.push(request);
            }
            let granted = ReasonCode::granted(options.qos);
            answer.codes.push(granted);
            if let Some(store) = &mut self.clients.store
                && let Some(name) = member.session.stored()
            {
                let identifier = subscribe.subscription_identifier;
                store.subscribed(name, &text, options, identifier, is_owed_retained);
                if is_shared {
                    store.name_share(ShareTag(subscribed.filter.0), &text);
                }
                answer.lsn = store.journal.position();
            }
            if settings.policy.log.has(LogMask::SUBSCRIBE) {
                self.log_subscribe(session, &text, granted, effects);
            }
            if subscribed.announce {
                self.announce(subscribed.filter);
            }
        }
        if self.announcements_are_in_force(self.announced) {
            self.answer(key, answer, now, effects);
            return Ok(Step::Continue);
        }
        // Waits for every announcement so far: another Client's to the same filter may be under way.
        self.barriers.push_back(Barrier {
            sequence: self.announced,
            connection: key,
            answer,
        });
        if let Some(connection) = self.clients.connections.get_mut(key) {
            connection.pause.set(Pause::BARRIER);
        }
        Ok(Step::Continue)
    }

    /// Whether the Client takes an answer with so many reason codes [MQTT-3.1.2-24].
    fn check_answer(&self, key: ConnectionKey, count: usize) -> Result<(), ProtocolError> {
        let connection = self.clients.connections.get(key);
        let size_max = connection.map_or(0, |connection| connection.maximum_packet_size as usize);
        if count + ANSWER_SIZE > size_max {
            return Err(ProtocolError::AnswerTooLarge);
        }
        Ok(())
    }

    /// SUBACK, then the retained messages: read from this shard's replica after the barrier, so that
    /// no value falls between "retained" and "live" [MQTT-3.8.4-1].
    fn answer(&mut self, key: ConnectionKey, answer: Answer, now: Instant, effects: &mut Effects) {
        if answer.lsn != 0 {
            let lsn = answer.lsn;
            let packet = HeldPacket::SubAck(Box::new(answer));
            return self.hold(key, lsn, 0, packet, now, effects);
        }
        self.send_answer(key, answer, now, effects);
    }

    pub(super) fn send_answer(
        &mut self,
        key: ConnectionKey,
        answer: Answer,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let Some(session) = connection.session() else {
            return;
        };
        codec::encode_suback(
            connection.version,
            answer.packet_identifier,
            &answer.codes,
            &mut connection.outbox,
        );
        self.clients.counters.packets_sent += 1;
        mark_dirty(connection, key, effects);
        if self.router.retained_count() == 0 || answer.replays.is_empty() {
            let filters = answer.replays.iter().map(|request| request.filter);
            return self.end_replays(session, filters);
        }
        self.begin_replays(key, answer.replays);
        self.send_pending(session, now, effects);
    }

    /// Sends what waits for `session`: its queue, then retained messages of new subscriptions.
    pub(super) fn send_pending(
        &mut self,
        session: SessionKey,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.clients.send_queued(session, now, effects);
        let connection = self
            .clients
            .members
            .get(session)
            .and_then(|member| member.session.connection);
        if let Some(key) = connection {
            self.continue_replay(key, now, effects);
        }
    }

    pub(super) fn handle_unsubscribe(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        unsubscribe: &Unsubscribe<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        if self.ring_is_full {
            self.pause_for_ring(key);
            return Ok(Step::Blocked);
        }
        self.check_answer(key, unsubscribe.filters().count())?;
        for filter in unsubscribe.filters() {
            TopicFilter::new(filter).map_err(|_| ProtocolError::TopicFilterInvalid)?;
        }
        let settings = self.clients.settings.clone();
        let mount_point = self
            .clients
            .connections
            .get(key)
            .and_then(|connection| settings.listener(connection.listener))
            .and_then(|listener| listener.mount_point.as_deref());
        let mut codes: SmallVec<[ReasonCode; 4]> = SmallVec::new();
        let stored = self
            .clients
            .members
            .get(session)
            .and_then(|member| member.session.stored());
        for seen in unsubscribe.filters() {
            let text = mounted_filter(mount_point, seen);
            let Ok(filter) = TopicFilter::new(&text) else {
                codes.push(ReasonCode::NoSubscriptionExisted);
                continue;
            };
            let Some(member) = self.clients.members.get(session) else {
                break;
            };
            if !self
                .clients
                .permits(member, Access::Unsubscribe, text.as_bytes())
            {
                codes.push(ReasonCode::NotAuthorized);
                continue;
            }
            if settings.policy.log.has(LogMask::UNSUBSCRIBE) {
                self.log_unsubscribe(session, &text, effects);
            }
            let Some(member) = self.clients.members.get_mut(session) else {
                break;
            };
            let removed = self
                .router
                .find(&filter)
                .and_then(|filter| Some((filter, member.subscriptions.remove(&filter)?)));
            let Some((filter, kind)) = removed else {
                codes.push(ReasonCode::NoSubscriptionExisted);
                continue;
            };
            codes.push(ReasonCode::Success);
            if kind == SubscriptionKind::Shared {
                self.hand_on_queued(session, filter, now, effects);
            }
            // Its key may soon be another filter's.
            if let Some(connection) = self.clients.connections.get_mut(key) {
                if let Some(replay) = connection.replay_mut() {
                    replay.forget(filter);
                }
                if let Some(held) = connection.held_mut() {
                    held.forget_replays(filter);
                }
            }
            if let Some(name) = stored
                && let Some(store) = &mut self.clients.store
            {
                store.unsubscribed(name, self.router.filter_text(filter));
            }
            self.unsubscribe_from(filter, session);
        }
        if stored.is_some() {
            let packet = HeldPacket::UnsubAck(unsubscribe.packet_identifier, Box::new(codes));
            self.hold(key, self.stored_position(), 0, packet, now, effects);
            return Ok(Step::Continue);
        }
        if let Some(connection) = self.clients.connections.get_mut(key) {
            let identifier = unsubscribe.packet_identifier;
            codec::encode_unsuback(
                connection.version,
                identifier,
                &codes,
                &mut connection.outbox,
            );
            self.clients.counters.packets_sent += 1;
            mark_dirty(connection, key, effects);
        }
        Ok(Step::Continue)
    }

    /// Takes one subscription out of the Router; other shards are told and not waited for. Whether there was one.
    pub(super) fn unsubscribe_from(&mut self, filter: FilterKey, session: SessionKey) -> bool {
        let Some(unsubscribed) = self.router.unsubscribe(filter, session) else {
            return false;
        };
        if unsubscribed.announce {
            self.broadcast_interest(&unsubscribed.text, unsubscribed.interest);
        }
        true
    }

    /// Tells every shard what this one wants of `filter` from now on.
    pub(super) fn announce(&mut self, filter: FilterKey) {
        let text = self.router.filter_arc(filter);
        let interest = self.router.interest(filter);
        self.broadcast_interest(&text, interest);
    }

    fn broadcast_interest(&mut self, filter: &Arc<[u8]>, interest: Interest) {
        if self.peers.len() == 1 {
            return;
        }
        self.announced += 1;
        let sequence = self.announced;
        for to in self.peer_ids() {
            self.post(
                to,
                Envelope::Interest {
                    sequence,
                    filter: filter.clone(),
                    interest,
                },
            );
        }
    }

    fn announcements_are_in_force(&self, sequence: u64) -> bool {
        self.peer_ids()
            .all(|peer| self.peers[peer.index()].acknowledged >= sequence)
    }

    /// Another shard's interest changed.
    pub(super) fn handle_interest(
        &mut self,
        from: ShardId,
        sequence: u64,
        filter: &[u8],
        interest: Interest,
    ) {
        // Our own shards send only what they parsed themselves.
        let text = std::str::from_utf8(filter).expect("an announced filter is UTF-8");
        let filter = TopicFilter::new(text).expect("an announced filter is valid");
        self.router.set_interest(from, &filter, interest);
        self.peers[from.index()].acknowledge(sequence, &mut self.batches);
    }

    /// Another shard has our announcements up to `sequence` in force: SUBACKs may leave.
    pub(super) fn handle_interest_ack(
        &mut self,
        from: ShardId,
        sequence: u64,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.peers[from.index()].acknowledged = sequence;
        while let Some(barrier) = self.barriers.front() {
            if !self.announcements_are_in_force(barrier.sequence) {
                break;
            }
            let Some(barrier) = self.barriers.pop_front() else {
                break;
            };
            self.answer(barrier.connection, barrier.answer, now, effects);
            self.resume(barrier.connection, Pause::BARRIER, effects);
        }
    }

    /// Asks all shards for their clocks, to learn which tombstones nobody can need any more.
    pub(super) fn request_clocks(&mut self, now: Instant) {
        if self.router.tombstone_count() == 0 {
            return;
        }
        let clock = self.clock;
        for to in self.peer_ids() {
            self.post(to, Envelope::ClockRequest { clock });
        }
        self.timers
            .arm(Slot::Tombstones, now + super::TOMBSTONE_AGE);
    }

    /// A peer will make no retained version at or below `clock`.
    pub(super) fn handle_clock(&mut self, from: ShardId, clock: u64, now: Instant) {
        self.observe_clock(from, clock);
        let seen = self
            .peer_ids()
            .map(|peer| self.peers[peer.index()].clock)
            .min();
        if let Some(seen) = seen {
            self.forget_tombstones_below(seen.saturating_add(1), now);
        }
    }

    /// Lamport's rule: our clock is never behind one we have heard of.
    pub(super) fn observe_clock(&mut self, from: ShardId, clock: u64) {
        self.clock = self.clock.max(clock);
        let peer = &mut self.peers[from.index()];
        peer.clock = peer.clock.max(clock);
    }
}
