//! What Sessions leave to the other members of their Shared Subscriptions goes to them over turns.
//!
//! A Session that ends, or leaves a group, may have been owed a hundred thousand messages through it. Each of them goes to
//! another member, as many in a turn as that has time for, what was in flight first, then what waited. Meanwhile the subscriptions of a
//! Session that has ended stay where they are, and what it leaves counts as messages that wait, so that nothing grows beyond
//! what may wait. With a store it stays the Session's own until others have it: the log says that the Session is over, and its
//! end comes with the last of it.
//!
//! What is published to one of those groups meanwhile comes behind: a Client is not read that publishes to one. What another
//! shard has for a member here falls in behind all, and has two of those before it handed on, so that what is left gets less
//! with each. A Will, and what the broker says itself, wait for nobody: groups may have them before it.
//!
//! # Always true
//! - What was left by one Session keeps its order, and so does what was left by one that got some of it and ends as well:
//!   who came last goes first.
//! - A group that ends and one that begins in its place are told apart, so nothing goes to who was no member of the first.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::num::NonZeroU64;
use std::sync::Arc;

use super::Shard;
use super::clients::{Member, SubscriptionKind};
use super::connect::SessionEnd;
use super::effects::Effects;
use super::ended::{PEERS_A_STEP, RING_PAUSE};
use super::replay::Budget;
use super::store::{Replaced, Ticket};
use super::timers::Slot;
use crate::key::{SessionKey, ShardId};
use crate::long_queue::LongQueue;
use crate::message::{Message, QoS};
use crate::router::{FilterKey, GroupKey};
use crate::session::{Delivery, ShareTag};
use crate::time::Instant;

/// Messages that are let go of in the time that it takes to hand one on.
const LET_GO_A_STEP: usize = 8;
/// Legacies, or groups, that are looked at to find out whether something is left to a group. If there are more, it is taken
/// for granted.
const LOOKED_AT_MAX: usize = 16;
/// Legacies that there may be. Beyond them they go at once, however long that takes.
const LEGACIES_MAX: usize = 1 << 12;
/// Messages that are handed on for each that falls in behind them.
const HELP: usize = 2;

/// What is left to members of Shared Subscriptions.
#[derive(Debug, Default)]
pub(super) struct Legacies {
    /// Only the first one goes on, which is the newest.
    line: VecDeque<Legacy>,
    /// What other shards have sent since.
    behind: VecDeque<Late>,
    /// How many there were so far.
    begun: u64,
    budget: Budget,
}

/// What one Session has left.
#[derive(Debug)]
struct Legacy {
    /// They are counted.
    number: u64,
    session: SessionKey,
    /// What the log calls it.
    name: Option<NonZeroU64>,
    /// Groups there were when it left: later ones are others, whatever their keys.
    groups_made: u64,
    /// Sent and not acknowledged.
    unacknowledged: LongQueue<Delivery>,
    queued: LongQueue<Delivery>,
    left_by: LeftBy,
}

#[derive(Debug)]
enum LeftBy {
    /// A Session that has ended, with its subscriptions, so many of which are shared.
    End(SessionEnd, (BTreeMap<FilterKey, SubscriptionKind>, usize)),
    /// One that is not subscribed to this any more.
    Unsubscribe(FilterKey),
}

/// A message of another shard for a member here, as it came.
#[derive(Debug)]
struct Late {
    from: ShardId,
    ticket: Option<Ticket>,
    replaces: Replaced,
    message: Arc<Message>,
    filter: Arc<[u8]>,
    first: ShardId,
}

impl Legacy {
    fn is_of(&self, group: FilterKey) -> bool {
        match &self.left_by {
            LeftBy::End(_, (subscriptions, _)) => subscriptions.contains_key(&group),
            LeftBy::Unsubscribe(filter) => *filter == group,
        }
    }

    fn len(&self) -> usize {
        self.unacknowledged.len() + self.queued.len()
    }
}

impl Legacies {
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty() && self.behind.is_empty()
    }

    /// Messages in them and behind them, and those that have nothing any more.
    pub(super) fn len(&self) -> usize {
        let each = self.line.iter().map(|legacy| 1 + legacy.len());
        each.sum::<usize>() + self.behind.len()
    }

    /// How many there were so far.
    pub(super) const fn begun(&self) -> u64 {
        self.begun
    }

    /// All that were begun before this one are over.
    pub(super) fn first_open(&self) -> u64 {
        let numbers = self.line.iter().map(|legacy| legacy.number);
        numbers.min().unwrap_or(self.begun)
    }

    /// Whether something may be left to one of these groups.
    pub(super) fn are_of_any(&self, groups: &[GroupKey]) -> bool {
        if self.is_empty() || groups.is_empty() {
            return false;
        }
        groups.len() > LOOKED_AT_MAX || groups.iter().any(|group| self.are_of(group.filter()))
    }

    fn are_of(&self, group: FilterKey) -> bool {
        // Whom that is for is not looked at.
        !self.behind.is_empty()
            || self.line.len() > LOOKED_AT_MAX
            || self.line.iter().any(|legacy| legacy.is_of(group))
    }
}

impl Shard {
    /// Leaves what an ended Session had not delivered of its Shared Subscriptions to other members; the rest is lost.
    /// A QoS 2 message whose PUBLISH was sent stays with it [MQTT-4.8.2-5]. Its subscriptions leave behind that.
    pub(super) fn leave_to_others(
        &mut self,
        session: SessionKey,
        member: &mut Member,
        end: SessionEnd,
        now: Instant,
        effects: &mut Effects,
    ) {
        let is_shared = member.shared_count() > 0;
        let subscriptions = member.take_subscriptions();
        self.ended.count_in(&subscriptions);
        let state = &mut member.session;
        let name = state.stored();
        self.clients.queued_bytes -= state.queue.bytes();
        self.clients.queued_messages -= state.queue.len();
        let log = state.log.as_deref();
        let keeps = |delivery: &Delivery| log.is_some_and(|log| log.keeps(delivery));
        let kept = state.queue.take_if(keeps);
        let bytes = state.queue.bytes();
        let queued = state.queue.take_all();
        let mut lost = kept.len() as u64;
        if let Some(store) = &mut self.clients.store {
            for delivery in kept {
                store.done(state, delivery.place.sequence);
            }
        }
        let published = state.inflight.take_published();
        if !is_shared {
            let unacknowledged = published.count() as u64;
            self.clients.counters.ended_unacknowledged += unacknowledged;
            lost += queued.len() as u64;
            self.give_up(queued, now);
            *self.lost_by(end) += lost;
            return self.leave_subscriptions(session, subscriptions, now);
        }
        *self.lost_by(end) += lost;
        let mut unacknowledged = LongQueue::default();
        let mut bytes_unacknowledged = 0;
        for delivery in published {
            if delivery.qos == QoS::ExactlyOnce || delivery.share.is_none() {
                self.clients.counters.ended_unacknowledged += 1;
            } else {
                bytes_unacknowledged += delivery.message.size();
                unacknowledged.push_back(delivery);
            }
        }
        if queued.is_empty() && unacknowledged.is_empty() {
            return self.leave_subscriptions(session, subscriptions, now);
        }
        self.clients.queued_bytes += bytes + bytes_unacknowledged;
        self.clients.queued_messages += queued.len() + unacknowledged.len();
        let left_by = LeftBy::End(end, subscriptions);
        self.begin_legacy(session, name, unacknowledged, queued, left_by, now, effects);
    }

    /// Leaves what waits in the queue of `session` for the Shared Subscription `filter`, which it has no more, to others.
    /// What it has not acknowledged stays with it. At how many messages that looked.
    pub(super) fn leave_group_to_others(
        &mut self,
        session: SessionKey,
        filter: FilterKey,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let Some(member) = self.clients.members.get_mut(session) else {
            return 0;
        };
        let share = Some(ShareTag(filter.0));
        member.session.inflight.forget_share(ShareTag(filter.0));
        let log = member.session.log.as_deref();
        let keeps = |delivery: &Delivery| log.is_some_and(|log| log.keeps(delivery));
        let queue = &mut member.session.queue;
        let visits = queue.len();
        let leaving = queue.take_if(|it| it.share == share && !keeps(it));
        let name = member.session.stored();
        if !leaving.is_empty() {
            let queued = leaving.into_iter().collect();
            let left_by = LeftBy::Unsubscribe(filter);
            let none = LongQueue::default();
            self.begin_legacy(session, name, none, queued, left_by, now, effects);
        }
        visits
    }

    #[allow(clippy::too_many_arguments)] // Two call sites; a struct would only rename them.
    fn begin_legacy(
        &mut self,
        session: SessionKey,
        name: Option<NonZeroU64>,
        unacknowledged: LongQueue<Delivery>,
        queued: LongQueue<Delivery>,
        left_by: LeftBy,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let (Some(store), Some(name)) = (&mut self.clients.store, name) {
            store.begin_legacy(name);
        }
        let legacies = &mut self.legacies;
        legacies.line.push_front(Legacy {
            number: legacies.begun,
            session,
            name,
            groups_made: self.router.groups_made(),
            unacknowledged,
            queued,
            left_by,
        });
        legacies.begun += 1;
        self.continue_legacies(now, effects);
    }

    /// Hands on as much as the turn has time for.
    pub(super) fn continue_legacies(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.ending_steps_max;
        while !self.ring_is_full
            && self.legacies.budget.left(now, steps_max) > 0
            && let Some(steps) = self.hand_on_next(now, effects)
        {
            self.legacies.budget.spend(steps);
        }
        while self.legacies.line.len() > LEGACIES_MAX {
            self.hand_on_next(now, effects);
        }
        self.look_at_what_is_under_way();
        if self.legacies.is_empty() {
            return;
        }
        if self.ring_is_full {
            self.timers.arm(Slot::Ended, now + RING_PAUSE);
        } else {
            self.arm_next_turn(Slot::Ended, now);
        }
    }

    /// Hands on all there is.
    pub(super) fn finish_legacies(&mut self, now: Instant, effects: &mut Effects) {
        while self.hand_on_next(now, effects).is_some() {}
        self.look_at_what_is_under_way();
    }

    /// Hands on one message, or lets go of some that nobody is to have. How many steps that took; `None` if nothing is left.
    fn hand_on_next(&mut self, now: Instant, effects: &mut Effects) -> Option<usize> {
        let Some(legacy) = self.legacies.line.front_mut() else {
            return self.take_late(now, effects);
        };
        let (session, name, groups_made) = (legacy.session, legacy.name, legacy.groups_made);
        for _ in 0..LET_GO_A_STEP {
            let legacy = self.legacies.line.front_mut()?;
            let sent = legacy.unacknowledged.pop_front();
            let was_sent = sent.is_some();
            let Some(delivery) = sent.or_else(|| legacy.queued.pop_front()) else {
                let ended = self.legacies.line.pop_front()?;
                self.end_legacy(ended, now, effects);
                return Some(1);
            };
            self.clients.queued_bytes -= delivery.message.size();
            self.clients.queued_messages -= 1;
            if delivery.share.is_none() {
                self.count_lost(was_sent);
                continue;
            }
            let size = delivery.message.payload().len();
            if !self.hand_on(session, name, groups_made, &delivery, now, effects) {
                self.count_lost(was_sent);
            }
            return Some(self.steps_of(size) + self.peers.len() / PEERS_A_STEP);
        }
        Some(1)
    }

    /// Nobody is to have a message of the first legacy.
    fn count_lost(&mut self, was_sent: bool) {
        let Some(legacy) = self.legacies.line.front() else {
            return;
        };
        match legacy.left_by {
            LeftBy::End(..) if was_sent => self.clients.counters.ended_unacknowledged += 1,
            LeftBy::End(end, _) => *self.lost_by(end) += 1,
            LeftBy::Unsubscribe(_) => self.clients.counters.dropped_unsubscribed += 1,
        }
    }

    /// The counter of what a Session that ended for this reason was not sent.
    fn lost_by(&mut self, end: SessionEnd) -> &mut u64 {
        let counters = &mut self.clients.counters;
        match end {
            SessionEnd::Expired => &mut counters.dropped_session_expired,
            SessionEnd::CleanStart => &mut counters.dropped_clean_start,
            SessionEnd::Closed => &mut counters.dropped_session_closed,
        }
    }

    /// Nothing is left of it.
    fn end_legacy(&mut self, legacy: Legacy, now: Instant, effects: &mut Effects) {
        if let (Some(store), Some(name)) = (&mut self.clients.store, legacy.name) {
            store.end_legacy(name);
            store.journal.end_packet();
        }
        if let LeftBy::End(_, subscriptions) = legacy.left_by {
            self.leave_subscriptions(legacy.session, subscriptions, now);
        }
        self.resume_waiting_for_spreads(effects);
        self.advance_settling();
    }

    /// Whether what another shard has for a member of this group has to come behind what is left to it.
    pub(super) fn is_left_to(&self, filter: &[u8]) -> bool {
        let group = self.router.find_group(filter);
        group.is_some_and(|group| self.legacies.are_of(group))
    }

    /// It does.
    #[cold]
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    pub(super) fn fall_in(
        &mut self,
        from: ShardId,
        ticket: Option<Ticket>,
        message: Arc<Message>,
        filter: Arc<[u8]>,
        first: ShardId,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.legacies.behind.push_back(Late {
            from,
            ticket,
            replaces: std::mem::take(&mut self.peers[from.index()].handed_on),
            message,
            filter,
            first,
        });
        for _ in 0..HELP {
            self.hand_on_next(now, effects);
        }
        self.look_at_what_is_under_way();
    }

    /// Takes the first that fell in behind.
    fn take_late(&mut self, now: Instant, effects: &mut Effects) -> Option<usize> {
        let late = self.legacies.behind.pop_front()?;
        let (from, message) = (late.from, late.message);
        // What came from there since is of the next one.
        let next = std::mem::replace(&mut self.peers[from.index()].handed_on, late.replaces);
        self.begin_forwarded(from, late.ticket, message.as_ref().as_ref(), now, effects);
        self.peers[from.index()].handed_on = next;
        self.handle_forwarded_shared(&message, &late.filter, late.first, now, effects);
        self.end_forwarded(from, late.ticket, now, effects);
        self.end_frame();
        if self.legacies.is_empty() {
            self.resume_waiting_for_spreads(effects);
        }
        Some(self.steps_of(message.payload().len()))
    }
}
