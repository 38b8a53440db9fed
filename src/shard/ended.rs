//! What Sessions that have ended leave behind goes away over turns: subscriptions from the Router and messages that waited.
//!
//! A Session may have a hundred thousand subscriptions. It ends at once whatever their number, and its key finds nothing
//! from then on, so that nothing is delivered because of what is left of them. A Shared Subscription whose turn comes to a
//! member that has ended loses it there and then, and another one is chosen. What waited for it does not count any more; each
//! message of it that nobody else has is memory to be given back, somewhere else.
//!
//! # Always true
//! - Whoever subscribes helps: what is left of ended Sessions gets less with every new subscription.
//! - A Client that comes back begins anew: its Session has another key, and none of what is left.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque, btree_map};
use std::time::Duration;

use super::Shard;
use super::clients::SubscriptionKind;
use super::replay::Budget;
use super::timers::Slot;
use crate::key::SessionKey;
use crate::long_queue::LongQueue;
use crate::router::{FilterKey, Pick, Router};
use crate::session::Delivery;
use crate::time::Instant;

/// Messages that are given up in the time of a subscription.
const MESSAGES_A_STEP: usize = 8;
/// Messages that may still be there. Beyond them they go at once, however long that takes.
const MESSAGES_MAX: usize = 1 << 20;
/// Subscriptions that go for each new one.
const HELP: usize = 2;
/// Shards that are told of an end in the time that it takes.
pub(super) const PEERS_A_STEP: usize = 16;
/// Time between two looks at a ring that is full: other shards are told of nothing then.
pub(super) const RING_PAUSE: Duration = Duration::from_millis(1);

/// What ended Sessions have left in the Router.
#[derive(Debug, Default)]
pub(super) struct Ended {
    sessions: VecDeque<(SessionKey, btree_map::IntoIter<FilterKey, SubscriptionKind>)>,
    /// Subscriptions that are still there.
    count: usize,
    /// Shared ones among them.
    shared_count: usize,
    /// Nobody will get what is in these.
    queues: VecDeque<LongQueue<Delivery>>,
    /// Messages in them.
    messages: usize,
    budget: Budget,
}

impl Ended {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// A Session that has ended had these, so many of which are shared: they [leave](Shard::leave_subscriptions) then.
    pub(super) fn count_in(
        &mut self,
        (subscriptions, shared_count): &(BTreeMap<FilterKey, SubscriptionKind>, usize),
    ) {
        self.count += subscriptions.len();
        self.shared_count += shared_count;
    }

    /// Frees messages that lie together. Whether there were any.
    fn free_chunk(&mut self) -> bool {
        let Some(queue) = self.queues.front_mut() else {
            return false;
        };
        match queue.pop_chunk() {
            Some(chunk) => {
                self.messages -= chunk.len();
                self.budget.spend(chunk.len().div_ceil(MESSAGES_A_STEP));
            }
            None => {
                self.queues.pop_front();
            }
        }
        true
    }

    /// Subscriptions that are still in the Router, and how many of them are shared.
    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.count, self.shared_count)
    }
}

impl Shard {
    /// Nobody has these subscriptions any more, nor is anything left to anybody because of them.
    pub(super) fn leave_subscriptions(
        &mut self,
        session: SessionKey,
        (subscriptions, _): (BTreeMap<FilterKey, SubscriptionKind>, usize),
        now: Instant,
    ) {
        if subscriptions.is_empty() {
            return;
        }
        let ended = &mut self.ended;
        ended
            .sessions
            .push_back((session, subscriptions.into_iter()));
        self.forget_ended(now);
    }

    /// What is in this queue is for nobody.
    pub(super) fn give_up(&mut self, queue: LongQueue<Delivery>, now: Instant) {
        if !queue.is_empty() {
            self.ended.messages += queue.len();
            self.ended.queues.push_back(queue);
            self.forget_ended(now);
        }
    }

    /// Takes as many out of the Router as the turn has time for, and frees as many messages.
    pub(super) fn forget_ended(&mut self, now: Instant) {
        let steps_max = self.clients.limits.ending_steps_max;
        let steps = 1 + self.peers.len() / PEERS_A_STEP;
        while !self.ring_is_full
            && self.ended.budget.left(now, steps_max) > 0
            && self.forget_next_ended()
        {
            self.ended.budget.spend(steps);
        }
        let ended = &mut self.ended;
        while (ended.budget.left(now, steps_max) > 0 || ended.messages > MESSAGES_MAX)
            && ended.free_chunk()
        {}
        if ended.sessions.is_empty() && ended.queues.is_empty() {
            return;
        }
        if self.ring_is_full && ended.queues.is_empty() {
            self.timers.arm(Slot::Ended, now + RING_PAUSE);
        } else {
            self.arm_next_turn(Slot::Ended, now);
        }
    }

    /// A new subscription is about to come.
    pub(super) fn make_room_of_ended(&mut self) {
        for _ in 0..HELP {
            if !self.forget_next_ended() {
                break;
            }
        }
    }

    /// Who `pick` finds that has not ended, nor just lost its connection.
    pub(super) fn pick_living(
        &mut self,
        mut pick: impl FnMut(&mut Router) -> Option<Pick>,
    ) -> Option<Pick> {
        loop {
            let picked = pick(&mut self.router);
            match &picked {
                Some(Pick::Local(target))
                    if !self.ended.is_empty()
                        && self.clients.members.get(target.session).is_none() =>
                {
                    self.forget_subscription(target.filter, target.session, true);
                }
                Some(Pick::Local(target)) if self.has_just_left(target) => {}
                _ => return picked,
            }
        }
    }

    /// Whether there was anything left.
    fn forget_next_ended(&mut self) -> bool {
        let Some((session, filters)) = self.ended.sessions.front_mut() else {
            return false;
        };
        let session = *session;
        let next = filters.next();
        if filters.len() == 0 {
            self.ended.sessions.pop_front();
        }
        if let Some((filter, kind)) = next {
            self.forget_subscription(filter, session, kind == SubscriptionKind::Shared);
        }
        true
    }

    fn forget_subscription(&mut self, filter: FilterKey, session: SessionKey, is_shared: bool) {
        // A Shared Subscription may have lost it before, and its key may be another filter's by now.
        if self.unsubscribe_from(filter, session) {
            self.ended.count -= 1;
            self.ended.shared_count -= usize::from(is_shared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Connect, Packet};
    use crate::key::ConnectionKey;
    use crate::message::{ProtocolVersion, QoS};
    use crate::shard::rig::{NOW, Rig, publish};
    use std::time::Duration;

    const V5: ProtocolVersion = ProtocolVersion::V5;
    /// More than a turn frees.
    const MESSAGES: usize = 20_000;

    fn lasting(rig: &mut Rig, clean_start: bool) -> ConnectionKey {
        let key = rig.shard.handle_accept(Default::default(), NOW).unwrap();
        let mut connect = Connect::new(V5, "lasting");
        connect.clean_start = clean_start;
        connect.properties.session_expiry_interval = Some(3600);
        let mut bytes = Vec::new();
        codec::encode(&Packet::Connect(connect), V5, &mut bytes);
        rig.feed(key, &bytes);
        rig.output(key);
        key
    }

    #[test]
    fn what_waited_for_a_session_that_has_ended_counts_no_more_and_is_freed_over_turns() {
        let mut rig = Rig::new();
        rig.shard.clients.limits.max_queued_messages = MESSAGES;
        let key = lasting(&mut rig, true);
        rig.subscribe(key, V5, QoS::AtLeastOnce);
        rig.shard.handle_closed(key, NOW, &mut rig.effects);
        let publisher = rig.connect("publisher", V5, u32::MAX);
        for _ in 0..MESSAGES {
            rig.feed(publisher, &publish(V5, QoS::AtLeastOnce, 1, b"x"));
            rig.output(publisher);
        }
        assert_eq!(rig.shard.clients.queued_messages, MESSAGES);
        lasting(&mut rig, true);
        assert_eq!(rig.shard.clients.queued_messages, 0);
        assert_eq!(rig.shard.counters().dropped_clean_start, MESSAGES as u64);
        let a_turn = MESSAGES_A_STEP * rig.shard.clients.limits.ending_steps_max;
        let mut turns = 0;
        let mut left = rig.shard.ended.messages;
        assert!(left > MESSAGES - 2 * a_turn, "{left}");
        while left > 0 {
            turns += 1;
            let now = NOW + Duration::from_nanos(turns);
            assert!(rig.shard.next_deadline().is_some_and(|at| at <= now));
            rig.shard.handle_timeout(now, &mut rig.effects);
            let before = std::mem::replace(&mut left, rig.shard.ended.messages);
            assert!(
                left < before && before - left < 2 * a_turn,
                "{before} {left}"
            );
        }
        assert!(rig.shard.ended.queues.is_empty());
    }

    #[test]
    fn there_is_a_bound_for_what_is_still_to_be_freed() {
        let mut ended = Ended::default();
        let mut rig = Rig::new();
        std::mem::swap(&mut ended, &mut rig.shard.ended);
        let message = std::sync::Arc::new(crate::message::Message::default());
        let delivery = Delivery {
            message,
            qos: QoS::AtLeastOnce,
            retain: false,
            share: None,
            subscription_identifiers: Default::default(),
            place: Default::default(),
        };
        for _ in 0..30 {
            let queue = std::iter::repeat_n(delivery.clone(), 50_000).collect();
            rig.shard.give_up(queue, NOW);
        }
        let left = rig.shard.ended.messages;
        assert!(
            (MESSAGES_MAX - 1024..=MESSAGES_MAX).contains(&left),
            "{left}"
        );
    }
}
