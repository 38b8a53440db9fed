//! Subscriptions of Sessions that have ended, on their way out of the Router: as many as one turn has time for.
//!
//! A Session may have a hundred thousand subscriptions. It ends at once whatever their number, and its key finds nothing
//! from then on, so that nothing is delivered because of what is left of them. A Shared Subscription whose turn comes to a
//! member that has ended loses it there and then, and another one is chosen.
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
use crate::router::{FilterKey, Pick, Router};
use crate::time::Instant;

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
    budget: Budget,
}

impl Ended {
    pub(super) fn is_empty(&self) -> bool {
        self.sessions.is_empty()
    }

    /// Subscriptions that are still in the Router, and how many of them are shared.
    pub(super) const fn counts(&self) -> (usize, usize) {
        (self.count, self.shared_count)
    }
}

impl Shard {
    /// Nobody has these subscriptions any more, so many of which are shared.
    pub(super) fn leave_subscriptions(
        &mut self,
        session: SessionKey,
        (subscriptions, shared_count): (BTreeMap<FilterKey, SubscriptionKind>, usize),
        now: Instant,
    ) {
        if subscriptions.is_empty() {
            return;
        }
        let ended = &mut self.ended;
        ended.count += subscriptions.len();
        ended.shared_count += shared_count;
        ended
            .sessions
            .push_back((session, subscriptions.into_iter()));
        self.forget_ended(now);
    }

    /// Takes as many out of the Router as the turn has time for.
    pub(super) fn forget_ended(&mut self, now: Instant) {
        let steps_max = self.clients.limits.ending_steps_max;
        let steps = 1 + self.peers.len() / PEERS_A_STEP;
        while !self.ring_is_full
            && self.ended.budget.left(now, steps_max) > 0
            && self.forget_next_ended()
        {
            self.ended.budget.spend(steps);
        }
        if self.ended.is_empty() {
            return;
        }
        if self.ring_is_full {
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
