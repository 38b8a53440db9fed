//! SUBSCRIBE and UNSUBSCRIBE, the interest barrier between them and SUBACK, and retained replay.
//!
//! Topic Filters come one by one from `filters.rs`, some of a packet in each turn.
//!
//! The first local subscription to a filter is announced to all shards, and SUBACK waits until each
//! of them has acknowledged it. While it waits the Client is not read, so its packets keep their
//! order; deliveries to it go on.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::Shard;
use super::clients::{SubscriptionKind, mark_dirty};
use super::connection::Pause;
use super::effects::Effects;
use super::envelope::Envelope;
use super::mount_point::mounted_filter;
use super::store::HeldPacket;
use super::timers::Slot;
use crate::auth::Access;
use crate::codec::{self, ReasonCode, RetainHandling, SubscriptionOptions};
use crate::journal::Lsn;
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::message::QoS;
use crate::policy::{LogMask, Settings};
use crate::router::{FilterKey, Interest};
use crate::session::{ProtocolError, ShareTag};
use crate::time::Instant;
use crate::topic::TopicFilter;

/// Messages and requests that are looked at in the time of a step (`filters.rs`).
const VISITS_A_STEP: usize = 64;
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

/// What Topic Filters are asked for with, all of a packet alike.
pub(super) struct Asked<'a> {
    key: ConnectionKey,
    session: SessionKey,
    subscription_identifier: Option<NonZeroU32>,
    mount_point: Option<&'a str>,
    maximum_qos: QoS,
    /// Another broker's bridge asks.
    is_bridge: bool,
    is_logged: bool,
    /// The Session is stored, and its disk takes nothing.
    is_stalled: bool,
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
    pub(super) fn new(packet_identifier: PacketIdentifier) -> Self {
        Self {
            packet_identifier,
            codes: SmallVec::new(),
            replays: SmallVec::new(),
            lsn: 0,
        }
    }

    /// There will be so many, and so many replays: nothing is moved as they come.
    pub(super) fn reserve(&mut self, count: usize, replay_count: usize) {
        self.codes.reserve_exact(count);
        self.replays.reserve_exact(replay_count);
    }

    /// Topic Filters that are answered.
    pub(super) fn len(&self) -> usize {
        self.codes.len()
    }

    /// The answer to the next Topic Filter.
    pub(super) fn push(&mut self, reason_code: ReasonCode) {
        self.codes.push(reason_code);
    }
}

/// Retained messages a subscription asked for.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplayRequest {
    pub(super) filter: FilterKey,
    /// Those before it were made before.
    pub(super) number: u64,
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
        number: u64,
    ) -> Self {
        Self {
            filter,
            number,
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
    /// What Topic Filters are asked for with, `None` if there is no connection to answer on.
    pub(super) fn asked<'a>(
        &self,
        key: ConnectionKey,
        session: SessionKey,
        settings: &'a Settings,
        logged_as: LogMask,
        subscription_identifier: Option<NonZeroU32>,
    ) -> Option<Asked<'a>> {
        let connection = self.clients.connections.get(key)?;
        let store = self.clients.store.as_ref();
        Some(Asked {
            key,
            session,
            subscription_identifier,
            mount_point: settings.mount_point(connection.listener),
            maximum_qos: connection.maximum_qos,
            is_bridge: connection.is_bridge(),
            is_logged: settings.policy.log.has(logged_as),
            is_stalled: self.is_session_stored(session) && store.is_some_and(|it| it.stalled),
        })
    }

    /// One Topic Filter of a SUBSCRIBE comes into force, or is refused.
    pub(super) fn subscribe_to(
        &mut self,
        seen: &str,
        mut options: SubscriptionOptions,
        asked: &Asked<'_>,
        answer: &mut Answer,
        effects: &mut Effects,
    ) {
        let (session, identifier) = (asked.session, asked.subscription_identifier);
        let text = mounted_filter(asked.mount_point, seen);
        // Only a mount point can have made it too long.
        let Ok(filter) = TopicFilter::new(&text) else {
            return answer.push(ReasonCode::TopicFilterInvalid);
        };
        options.qos = options.qos.min(asked.maximum_qos);
        // What it brings from its broker must not go back there, and what is retained here is to be retained there.
        if asked.is_bridge {
            options.no_local = filter.share_group().is_none();
            options.retain_as_published = true;
        }
        self.make_room_of_ended();
        let Some(member) = self.clients.members.get(session) else {
            return;
        };
        if !self
            .clients
            .permits(member, Access::Subscribe, text.as_bytes())
        {
            self.clients.counters.subscriptions_refused += 1;
            self.log_subscribe(session, &text, ReasonCode::NotAuthorized, effects);
            return answer.push(ReasonCode::NotAuthorized);
        }
        let has_retained = self.has_retained();
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        let wanted = self.router.find(&filter);
        let known = wanted.is_some_and(|filter| member.subscriptions().contains_key(&filter));
        let limits = &self.clients.limits;
        let too_many = member.subscriptions().len() >= limits.max_subscriptions;
        let is_full = wanted.is_none() && self.router.filter_bytes() >= limits.max_filter_bytes;
        if asked.is_stalled || is_full || (!known && too_many) {
            self.clients.counters.subscriptions_refused += 1;
            return answer.push(ReasonCode::QuotaExceeded);
        }
        let is_shared = filter.share_group().is_some();
        let subscribed = self
            .router
            .subscribe(&filter, session, options, identifier, true);
        let before = member.subscriptions().get(&subscribed.filter).copied();
        let wants_retained = match options.retain_handling {
            RetainHandling::Send => true,
            RetainHandling::SendIfNew => {
                !subscribed.existed || before == Some(SubscriptionKind::Unanswered)
            }
            RetainHandling::DoNotSend => false,
        };
        // A new shared subscription is sent no retained messages [MQTT-4.8.2].
        let is_replayed = wants_retained && !is_shared;
        // An earlier SUBSCRIBE of this connection may not have got all of what it asked for.
        let is_owed_retained =
            is_replayed && has_retained || before == Some(SubscriptionKind::Replaying);
        let kind = SubscriptionKind::new(is_shared, is_owed_retained);
        member.set_subscription(subscribed.filter, kind);
        if is_replayed && has_retained {
            self.replays_asked += 1;
            let number = self.replays_asked;
            let request = ReplayRequest::new(subscribed.filter, options, identifier, number);
            answer.replays.push(request);
        }
        let granted = ReasonCode::granted(options.qos);
        answer.push(granted);
        if let Some(store) = &mut self.clients.store
            && let Some(name) = member.session.stored()
        {
            store.subscribed(name, &text, options, identifier, is_owed_retained);
            if is_shared {
                store.name_share(ShareTag(subscribed.filter.0), &text);
            }
            answer.lsn = store.journal.position();
        }
        if asked.is_logged {
            self.log_subscribe(session, &text, granted, effects);
        }
        if subscribed.announce {
            self.announce(subscribed.filter);
        }
    }

    /// Whether there may be retained messages to be sent because of a subscription that is in force here.
    pub(super) fn has_retained(&self) -> bool {
        // What others retain until the barrier is not delivered as it comes.
        self.router.retained_count() > 0 || self.peers.len() > 1
    }

    /// All of a SUBSCRIBE is in force here: it is answered once all of it is in force everywhere.
    pub(super) fn end_subscribe(
        &mut self,
        key: ConnectionKey,
        answer: Answer,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.announcements_are_in_force(self.announced) {
            return self.answer(key, answer, now, effects);
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
    }

    /// Whether the Client takes an answer with so many reason codes [MQTT-3.1.2-24].
    pub(super) fn check_answer(
        &self,
        key: ConnectionKey,
        count: usize,
    ) -> Result<(), ProtocolError> {
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
        mut answer: Answer,
        now: Instant,
        effects: &mut Effects,
    ) {
        let are_many = answer.replays.len() > self.clients.limits.replay_steps_max;
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        if !are_many && let Some(held) = connection.held() {
            let is_wanted = |request: &mut ReplayRequest| !held.is_forgotten(request);
            answer.replays.retain(is_wanted);
        }
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
        let is_soon_over = self.router.retained_count() == 0 && !are_many;
        if is_soon_over || answer.replays.is_empty() {
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
        if self.clients.reload.is_some() && !self.clients.judge_first(session) {
            return;
        }
        self.clients.send_queued(session, now, effects);
        if let Some(key) = self.clients.connection_of(session) {
            self.continue_replay(key, now, effects);
        }
        if self.clients.reload.is_some() {
            self.arm_next_turn(Slot::Reload, now);
        }
    }

    /// One Topic Filter of an UNSUBSCRIBE is in force no more. The answer to it, and how many other things it made look at, in
    /// steps.
    pub(super) fn unsubscribe_seen(
        &mut self,
        seen: &str,
        asked: &Asked<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> (ReasonCode, usize) {
        let session = asked.session;
        let text = mounted_filter(asked.mount_point, seen);
        let Ok(filter) = TopicFilter::new(&text) else {
            return (ReasonCode::NoSubscriptionExisted, 0);
        };
        let member = self.clients.members.get(session);
        let permits = |member| {
            let access = Access::Unsubscribe;
            self.clients.permits(member, access, text.as_bytes())
        };
        if !member.is_some_and(permits) {
            return (ReasonCode::NotAuthorized, 0);
        }
        if asked.is_logged {
            self.log_unsubscribe(session, &text, effects);
        }
        let removed = self.router.find(&filter).and_then(|filter| {
            let member = self.clients.members.get_mut(session)?;
            Some((filter, member.remove_subscription(filter)?))
        });
        let Some((filter, kind)) = removed else {
            return (ReasonCode::NoSubscriptionExisted, 0);
        };
        let mut visits = 0;
        if kind == SubscriptionKind::Shared {
            visits += self.leave_group_to_others(session, filter, now, effects);
        }
        // Its key may soon be another filter's.
        if let Some(connection) = self.clients.connections.get_mut(asked.key) {
            let asked_before = self.replays_asked + 1;
            if let Some(replay) = connection.replay_mut() {
                visits += replay.forget(filter, asked_before);
            }
            if let Some(held) = connection.held_mut() {
                held.forget_replays(filter, asked_before);
            }
        }
        let stored = self
            .clients
            .members
            .get(session)
            .and_then(|member| member.session.stored());
        if let Some(name) = stored
            && let Some(store) = &mut self.clients.store
        {
            store.unsubscribed(name, self.router.filter_text(filter));
        }
        self.unsubscribe_from(filter, session);
        (ReasonCode::Success, visits / VISITS_A_STEP)
    }

    /// All of an UNSUBSCRIBE is done: it is answered once that is stored.
    pub(super) fn end_unsubscribe(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        answer: Answer,
        now: Instant,
        effects: &mut Effects,
    ) {
        let (identifier, codes) = (answer.packet_identifier, answer.codes);
        if self.is_session_stored(session) {
            let packet = HeldPacket::UnsubAck(identifier, Box::new(codes));
            return self.hold(key, self.stored_position(), 0, packet, now, effects);
        }
        if let Some(connection) = self.clients.connections.get_mut(key) {
            codec::encode_unsuback(
                connection.version,
                identifier,
                &codes,
                &mut connection.outbox,
            );
            self.clients.counters.packets_sent += 1;
            mark_dirty(connection, key, effects);
        }
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
