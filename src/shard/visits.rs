//! Subscriptions of Sessions that stay, when their connection has ended or is new: as many as one turn has time for.
//!
//! A Client may have a hundred thousand. When it goes or comes back, each of its Shared Subscriptions is told whether the
//! Client can be reached, and each subscription that was still to be sent what is retained has to begin anew. A visit goes
//! through what was on its way to a connection that has ended, then through the subscriptions in their order, and begins
//! with them again if a connection comes or goes meanwhile. Sessions that have neither of both kinds are not visited, and small
//! ones are at once. Sessions that are visited go round.
//!
//! # Always true
//! - A Client is not read while its Session is visited, so its subscriptions stay what they are. What waits for retained
//!   messages and was not visited since the connection began waits because of an earlier one.
//! - Nothing leaves to a Client of Shared Subscriptions, CONNACK first, before all of them know that it can be reached.
//! - A Shared Subscription whose turn comes to a member that has lost its connection is told so there and then, and
//!   chooses again.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};

use smallvec::SmallVec;

use super::Shard;
use super::clients::SubscriptionKind;
use super::connection::{Pause, Replay};
use super::effects::Effects;
use super::ended::{PEERS_A_STEP, RING_PAUSE};
use super::replay::Budget;
use super::subscribe::ReplayRequest;
use super::timers::Slot;
use crate::journal::Lsn;
use crate::key::{ConnectionKey, SessionKey};
use crate::router::{FilterKey, SharedTarget};
use crate::time::Instant;

/// Subscriptions that are looked at, and mostly passed over, in the time of a step.
const LOOKS_A_STEP: usize = 16;
/// Messages that are forgotten in the time of a step.
const MESSAGES_A_STEP: usize = 8;

/// Sessions whose subscriptions are visited.
#[derive(Debug, Default)]
pub(super) struct Visits {
    of: BTreeMap<SessionKey, Visit>,
    /// The order in which they go on.
    order: VecDeque<SessionKey>,
    budget: Budget,
}

impl Visits {
    pub(super) fn is_empty(&self) -> bool {
        self.order.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.order.len()
    }
}

/// How far the visit of a Session has come.
#[derive(Debug, Default)]
struct Visit {
    /// What was on its way to connections that have ended. One at most has anything: the next one asks for nothing before
    /// that has gone.
    left: VecDeque<Left>,
    /// Whether there are subscriptions to be visited.
    is_walking: bool,
    /// The one that was visited last.
    last: Option<FilterKey>,
    /// What must be durable before CONNACK leaves, if it waits for the end of the visit.
    gate: Option<Lsn>,
}

/// Retained messages that their connection did not live to see.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) replay: Box<Replay>,
    /// All of them have joined the queue, or were not to be kept.
    pub(super) is_kept: bool,
}

impl Left {
    /// Forgets some of it, and names a subscription that does not know of it yet. `None` once nothing is left.
    fn forget_some(&mut self) -> Option<Option<FilterKey>> {
        let replay = &mut *self.replay;
        if !replay.found.is_empty() {
            for _ in 0..MESSAGES_A_STEP {
                replay.found.pop();
            }
            return Some(None);
        }
        if let Some(asked) = replay.next_asked() {
            return Some(asked.map(|request| request.filter));
        }
        // Those that wait are among the others.
        if replay.waiting.pop_first().is_some() {
            return Some(None);
        }
        replay.filters.pop_first().map(Some)
    }
}

impl Shard {
    /// The connection of a Session has ended, and has left something, or a new one has come. Unless it `ends`, the Session
    /// stays.
    pub(super) fn visit_left(
        &mut self,
        session: SessionKey,
        left: Option<Left>,
        ends: bool,
        now: Instant,
        effects: &mut Effects,
    ) {
        let is_walking = !ends && self.is_to_be_visited(session);
        if self.begin_visit(session, left, is_walking, None) {
            self.continue_visits(now, effects);
        }
    }

    /// A Client has come back to its Session on connection `key`. Its CONNACK leaves once `lsn` is durable.
    pub(super) fn visit_resumed(
        &mut self,
        session: SessionKey,
        key: ConnectionKey,
        lsn: Lsn,
        now: Instant,
        effects: &mut Effects,
    ) {
        let member = self.clients.members.get(session);
        let is_shared = member.is_some_and(|member| member.shared_count() > 0);
        let is_walking = self.is_to_be_visited(session);
        if !self.begin_visit(session, None, is_walking, is_shared.then_some(lsn)) {
            return;
        }
        if is_shared {
            self.shut_gate(key);
        }
        self.continue_visits(now, effects);
        if self.visits.of.contains_key(&session)
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.pause.set(Pause::FILTERS);
        }
    }

    /// Whether any of its subscriptions has to know that a connection has come or gone.
    fn is_to_be_visited(&self, session: SessionKey) -> bool {
        let member = self.clients.members.get(session);
        member.is_some_and(|member| member.shared_count() + member.owed_count() > 0)
    }

    /// Whether there is anything to be done.
    fn begin_visit(
        &mut self,
        session: SessionKey,
        left: Option<Left>,
        is_walking: bool,
        gate: Option<Lsn>,
    ) -> bool {
        let visits = &mut self.visits;
        if left.is_none() && !is_walking && (visits.is_empty() || !visits.of.contains_key(&session))
        {
            return false;
        }
        let visit = visits.of.entry(session).or_insert_with(|| {
            visits.order.push_back(session);
            Visit::default()
        });
        visit.left.extend(left);
        visit.is_walking = is_walking;
        visit.last = None;
        visit.gate = gate;
        true
    }

    /// Goes on with the visits that have waited longest.
    pub(super) fn continue_visits(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.ending_steps_max;
        while !self.ring_is_full
            && self.visits.budget.left(now, steps_max) > 0
            && let Some(session) = self.visits.order.pop_front()
        {
            let Some(mut visit) = self.visits.of.remove(&session) else {
                continue;
            };
            let steps_left = self.visits.budget.left(now, steps_max);
            let mut steps = self.visit_replays(session, &mut visit, steps_left);
            if steps < steps_left && visit.left.is_empty() {
                let steps_left = steps_left - steps;
                steps += self.visit_subscriptions(session, &mut visit, steps_left, now, effects);
            }
            self.visits.budget.spend(steps.max(1));
            if visit.left.is_empty() && !visit.is_walking {
                self.end_visit(session, visit.gate, now, effects);
            } else {
                self.visits.of.insert(session, visit);
                self.visits.order.push_back(session);
            }
        }
        if self.visits.is_empty() {
            return;
        }
        if self.ring_is_full {
            self.timers.arm(Slot::Visits, now + RING_PAUSE);
        } else {
            self.arm_next_turn(Slot::Visits, now);
        }
    }

    /// Goes on with what connections that have ended have left, of a Session that has ended as well. How many steps that
    /// took.
    fn visit_replays(&mut self, session: SessionKey, visit: &mut Visit, steps_max: usize) -> usize {
        let mut steps = 0;
        while steps < steps_max
            && let Some(left) = visit.left.front_mut()
        {
            match left.forget_some() {
                None => {
                    visit.left.pop_front();
                    continue;
                }
                Some(None) => {}
                Some(Some(filter)) if left.is_kept => self.end_replays(session, [filter]),
                Some(Some(filter)) => self.interrupt_replay(session, filter),
            }
            steps += 1;
        }
        steps
    }

    /// Goes on with the subscriptions of a Session. How many steps that took.
    fn visit_subscriptions(
        &mut self,
        session: SessionKey,
        visit: &mut Visit,
        steps_max: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let steps_for_peers = 1 + self.peers.len() / PEERS_A_STEP;
        let mut requests: SmallVec<[ReplayRequest; 1]> = SmallVec::new();
        let mut connection = None;
        let mut steps = 0;
        while visit.is_walking && steps < steps_max && !self.ring_is_full {
            let Some(member) = self.clients.members.get(session) else {
                visit.is_walking = false;
                break;
            };
            connection = member.session.connection;
            // No more than there are steps for, should all be of those that take one.
            let looks = LOOKS_A_STEP.min(steps_max - steps);
            let mut found: SmallVec<[_; LOOKS_A_STEP]> = SmallVec::new();
            let mut looked_at = 0;
            let rest = member.subscriptions_behind(visit.last);
            for (filter, kind) in rest.take(looks) {
                looked_at += 1;
                visit.last = Some(filter);
                if kind != SubscriptionKind::Own {
                    found.push((filter, kind));
                }
            }
            visit.is_walking = looked_at == looks;
            steps += 1;
            for (filter, kind) in found {
                steps += steps_for_peers;
                match kind {
                    SubscriptionKind::Shared => {
                        self.tell_share(filter, session, connection.is_some());
                    }
                    // Its SUBACK has not left, or it would be known to have been interrupted.
                    SubscriptionKind::Replaying => {
                        self.set_kind(session, filter, SubscriptionKind::Unanswered);
                    }
                    // How much of it has come is not known.
                    SubscriptionKind::Interrupted if connection.is_some() => {
                        requests.extend(self.replay_again(session, filter));
                    }
                    _ => {}
                }
            }
        }
        if let Some(key) = connection
            && !requests.is_empty()
        {
            self.begin_replays(key, requests);
            self.send_pending(session, now, effects);
        }
        steps
    }

    /// The replay of a subscription begins anew.
    fn replay_again(&mut self, session: SessionKey, filter: FilterKey) -> Option<ReplayRequest> {
        let (options, identifier) = self.router.subscription(filter, session)?;
        self.set_kind(session, filter, SubscriptionKind::Replaying);
        self.replays_asked += 1;
        let number = self.replays_asked;
        Some(ReplayRequest::new(filter, options, identifier, number))
    }

    fn set_kind(&mut self, session: SessionKey, filter: FilterKey, kind: SubscriptionKind) {
        if let Some(member) = self.clients.members.get_mut(session) {
            member.set_subscription(filter, kind);
        }
    }

    fn end_visit(
        &mut self,
        session: SessionKey,
        gate: Option<Lsn>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(key) = self.clients.connection_of(session) else {
            return;
        };
        if let Some(lsn) = gate
            && self.open_gate(key, lsn, effects)
        {
            self.send_pending(session, now, effects);
        }
        self.resume(key, Pause::FILTERS, effects);
    }

    /// Tells the Router, and through it other shards, whether a member of a Shared Subscription can be reached. Whether
    /// that was news.
    fn tell_share(&mut self, filter: FilterKey, session: SessionKey, is_online: bool) -> bool {
        let is_news = self.router.set_online(filter, session, is_online);
        if is_news {
            self.announce(filter);
        }
        is_news
    }

    /// Whether a member of a Shared Subscription whose turn it is has lost its connection, and its visit has not come to
    /// that subscription. From now on it is known there.
    pub(super) fn has_just_left(&mut self, target: &SharedTarget) -> bool {
        if self.visits.is_empty() {
            return false;
        }
        let member = self.clients.members.get(target.session);
        member.is_some_and(|member| member.session.connection.is_none())
            && self.tell_share(target.filter, target.session, false)
    }
}
