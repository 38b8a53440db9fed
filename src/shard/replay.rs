//! Retained messages on their way to new subscriptions, and what is left of removed ones: as much as one turn has
//! time for.
//!
//! A subscription may match a million retained messages. They are looked up over many turns, whatever the
//! reader does, because nothing is freed from the index meanwhile; then they wait as pointers until the
//! Client reads. Some subscriptions of a Client are looked up at once, more of them not while it has much to read. One budget
//! a turn is for all connections of the shard. Those that have more wait in a list, the first of which is the first to
//! go on.
//!
//! # Always true
//! - What changes while it is looked up or waits is delivered live and left out here, so that no Client sees an older
//!   value behind a newer one [MQTT-4.6.0-5]. To who may have published it, and is not told, the new value comes in its
//!   place.
//! - A replay that its connection does not live to see either joins the queue, or begins anew with the next one.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use smallvec::SmallVec;

use super::Shard;
use super::clients::SubscriptionKind;
use super::connection::{Replay, ReplayWalk, Since};
use super::effects::Effects;
use super::replay_items::ReplayItems;
use super::subscribe::ReplayRequest;
use super::timers::Slot;
use super::visits::Left;
use crate::key::{ConnectionKey, SessionKey};
use crate::limits::{REPLAY_KEPT_MAX, REPLAY_KEPT_STEPS_MAX};
use crate::message::{Message, QoS};
use crate::router::{FilterKey, Router};
use crate::session::{Delivery, Place};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};

/// Tombstones forgotten, and nodes freed, at a time.
const TIDIED_AT_ONCE: usize = 64;
/// Time between two such.
const TIDY_PAUSE: Duration = Duration::from_millis(1);

/// What may still be done in this turn. Of replays these are visits of the index, and messages.
#[derive(Debug, Default)]
pub(super) struct Budget {
    /// The time is the same throughout a turn.
    turn: Option<Instant>,
    left: usize,
}

impl Budget {
    pub(super) fn left(&mut self, now: Instant, steps_max: usize) -> usize {
        if self.turn != Some(now) {
            self.turn = Some(now);
            self.left = steps_max;
        }
        self.left
    }

    pub(super) fn spend(&mut self, steps: usize) {
        self.left = self.left.saturating_sub(steps);
    }
}

impl Replay {
    /// One more subscription asks: all of it comes once more, if it does not wait yet.
    fn take_in(&mut self, request: ReplayRequest, router: &mut Router) {
        self.filters.insert(request.filter);
        if self.has_room() {
            let walk = router.begin_retained_walk();
            self.walks.push_back(ReplayWalk { walk, request });
        } else {
            self.waiting.insert(request.filter, request);
        }
    }
}

impl Shard {
    /// New subscriptions of a connection ask for what is retained.
    pub(super) fn begin_replays(
        &mut self,
        key: ConnectionKey,
        requests: SmallVec<[ReplayRequest; 1]>,
    ) {
        let steps_max = self.clients.limits.replay_steps_max;
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let are_many = requests.len() > steps_max;
        let held = connection.held_mut().filter(|_| are_many);
        let forgotten = held.and_then(|held| held.forgotten_for_many());
        // Items of an earlier subscription stay checked against changes since they were looked up.
        let replay = connection.make_rare().replay.get_or_insert_with(|| {
            Box::new(Replay {
                since: Since {
                    store_changes: self.retained_changes,
                    is_lossy: false,
                },
                ..Replay::default()
            })
        });
        if are_many {
            if replay.asked.is_empty() {
                replay.asked = requests.into_vec().into();
            } else {
                replay.asked.extend(requests);
            }
            if let Some(forgotten) = forgotten {
                replay.forgotten.append(forgotten);
            }
            return;
        }
        for request in requests {
            replay.take_in(request, &mut self.router);
        }
    }

    /// Looks up and sends what the turn has time for and the Client room.
    pub(super) fn continue_replay(
        &mut self,
        key: ConnectionKey,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let session = connection.session();
        let replay = connection
            .rare_mut()
            .and_then(|rare| rare.replay.take_if(|replay| !replay.is_waiting));
        let Some(mut replay) = replay else { return };
        let Some(session) = session else { return };
        let steps_max = self.clients.limits.replay_steps_max;
        // Half of it for looking up, so that what was found also leaves.
        let visits_max = self
            .replay_budget
            .left(now, steps_max)
            .min(steps_max.div_ceil(2));
        self.replay_budget.left -= self.look_up(session, &mut replay, visits_max, now);
        let mut is_blocked = false;
        while self.replay_budget.left > 0
            && let Some((message, request)) = replay.found.first()
        {
            if let Some(current) = self.current(session, message, replay.since, request)
                && self.is_still_replayed(session, &replay, &current)
                && !self
                    .clients
                    .send_retained(key, &current, request, now, effects)
            {
                is_blocked = true;
                break;
            }
            replay.found.pop();
            self.replay_budget.left -= 1;
        }
        replay.is_doubted &= !replay.found.is_empty();
        if replay.is_over() {
            // One of them at least, so that it ends at once if there is no other.
            let count = self.replay_budget.left.max(1).min(replay.filters.len());
            let ended = std::iter::from_fn(|| replay.filters.pop_first()).take(count);
            self.end_replays(session, ended);
            self.replay_budget.spend(count);
        }
        if replay.is_over() && replay.filters.is_empty() {
            drop(replay);
            if let Some(connection) = self.clients.connections.get_mut(key) {
                connection.tidy_rare();
            }
            self.end_walks(now);
            return;
        }
        // A Client that is blocked is gone on with when it has room.
        if replay.looks_up() || !is_blocked {
            replay.is_waiting = true;
            self.replaying.push_back(key);
            self.arm_next_turn(Slot::Replays, now);
        }
        if let Some(connection) = self.clients.connections.get_mut(key) {
            connection.make_rare().replay = Some(replay);
        }
    }

    /// Goes on with the connections that have waited longest.
    pub(super) fn continue_replays(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.replay_steps_max;
        while self.replay_budget.left(now, steps_max) > 0
            && let Some(key) = self.replaying.pop_front()
        {
            if self.clients.reload.is_some() {
                self.reload_first(key, now, effects);
            }
            if let Some(connection) = self.clients.connections.get_mut(key)
                && let Some(replay) = connection.replay_mut()
            {
                replay.is_waiting = false;
                self.continue_replay(key, now, effects);
            }
        }
        if !self.replaying.is_empty() {
            self.arm_next_turn(Slot::Replays, now);
        }
    }

    /// Finds more messages; how many steps that took.
    fn look_up(
        &mut self,
        session: SessionKey,
        replay: &mut Replay,
        steps_max: usize,
        now: Instant,
    ) -> usize {
        let mut steps = 0;
        while steps < steps_max && replay.looks_up() {
            if let Some(asked) = replay.next_asked() {
                steps += 1;
                if let Some(request) = asked {
                    replay.take_in(request, &mut self.router);
                }
                continue;
            }
            if replay.walks.is_empty()
                && let Some((_, request)) = replay.waiting.pop_first()
            {
                steps += 1;
                let walk = self.router.begin_retained_walk();
                replay.walks.push_back(ReplayWalk { walk, request });
                continue;
            }
            let Some(ReplayWalk { walk, request }) = replay.walks.front_mut() else {
                break;
            };
            let text = self.router.filter_arc(request.filter);
            let mut messages = VecDeque::new();
            steps += self.router.continue_retained_walk(
                walk,
                &TopicFilter::from_validated(&text),
                steps_max - steps,
                now,
                |message, is_later| {
                    let comes_live = is_later && !self.is_kept_from(session, message, *request);
                    if !comes_live && self.clients.may_be_replayed(session, message) {
                        messages.push_back(message.clone());
                    }
                },
            );
            let request = *request;
            if walk.is_over() {
                replay.walks.pop_front();
            }
            replay.found.push(ReplayItems { messages, request });
        }
        steps
    }

    /// What is to be sent of a message that was retained when it was looked up. A value that changed since was delivered
    /// as it changed; sending the old one behind it would turn their order round [MQTT-4.6.0-5]. If its own Client may
    /// have done that, which is not told, or what was delivered may have been dropped, the new one comes in its place.
    fn current(
        &self,
        session: SessionKey,
        message: &Arc<Message>,
        since: Since,
        request: ReplayRequest,
    ) -> Option<Arc<Message>> {
        if since.store_changes == self.retained_changes {
            return Some(message.clone());
        }
        let topic_name = TopicName::from_validated(message.topic_name());
        let (current, _) = self.router.retained(topic_name)?;
        let is_sent = Arc::ptr_eq(current, message)
            || since.is_lossy && self.came_alike(session, current, request)
            || self.is_kept_from(session, current, request);
        is_sent.then(|| current.clone())
    }

    /// Whether a message that was found may be sent, if that is in doubt.
    fn is_still_replayed(
        &mut self,
        session: SessionKey,
        replay: &Replay,
        message: &Message,
    ) -> bool {
        let is_kept = !replay.is_doubted || self.clients.may_be_replayed(session, message);
        self.clients.counters.dropped_denied += u64::from(!is_kept);
        is_kept
    }

    /// Whether a message was delivered to this Session as the answer to `request` would be, and with QoS 0. False for one
    /// that has other Subscriptions, since all that match have a say [MQTT-3.3.4-2].
    fn came_alike(&self, session: SessionKey, message: &Message, request: ReplayRequest) -> bool {
        let qos = request.qos_of(message.qos(), self.clients.qos_min);
        let member = self.clients.members.get(session);
        qos == QoS::AtMostOnce
            && member.is_some_and(|member| member.subscriptions().len() == 1)
            && self
                .router
                .subscription(request.filter, session)
                .is_some_and(|(options, identifier)| {
                    (options.qos, identifier) == (request.qos, request.subscription_identifier)
                })
    }

    /// Whether a message does not come live because its own Client has published it.
    fn is_kept_from(&self, session: SessionKey, message: &Message, request: ReplayRequest) -> bool {
        let source = message.source().filter(|_| request.no_local);
        source
            .zip(self.clients.members.get(session))
            .is_some_and(|(source, member)| {
                source.client_identifier == member.session.identity.client_identifier
            })
    }

    /// What new subscriptions were still owed when their connection ended: a little joins the queue of a Session that stays.
    /// More than that is looked up again once its Client is back. What is left to be forgotten and told.
    pub(super) fn keep_replay(
        &mut self,
        session: SessionKey,
        connection: Option<ConnectionKey>,
        now: Instant,
    ) -> Option<Left> {
        let mut replay = connection
            .and_then(|key| self.clients.connections.get_mut(key))
            .and_then(|connection| connection.take_replay())?;
        let member = self.clients.members.get(session);
        let stays =
            member.is_some_and(|member| member.session.expires_at.is_none_or(|at| at > now));
        let is_kept = stays && self.queue_replay(session, &mut replay, now);
        // The index frees nothing as long as there are any.
        replay.walks.clear();
        self.end_walks(now);
        Some(Left { replay, is_kept })
    }

    /// Whether it was little.
    fn queue_replay(&mut self, session: SessionKey, replay: &mut Replay, now: Instant) -> bool {
        if replay.asked.len() + replay.waiting.len() > REPLAY_KEPT_STEPS_MAX {
            return false;
        }
        // What comes with QoS 0 is lost with its connection.
        replay
            .walks
            .retain(|walk| walk.request.qos > QoS::AtMostOnce);
        self.look_up(session, replay, REPLAY_KEPT_STEPS_MAX, now);
        if replay.looks_up() || !replay.waiting.is_empty() || replay.found.count() > REPLAY_KEPT_MAX
        {
            return false;
        }
        while let Some(ReplayItems { messages, request }) = replay.found.pop_items() {
            for message in messages {
                let current = self.current(session, &message, replay.since, request);
                let Some(message) = current else { continue };
                if !self.is_still_replayed(session, replay, &message) {
                    continue;
                }
                let qos = request.qos_of(message.qos(), self.clients.qos_min);
                if qos == QoS::AtMostOnce {
                    continue;
                }
                let delivery = Delivery {
                    message,
                    qos,
                    retain: true,
                    share: None,
                    subscription_identifiers: request.subscription_identifier.into_iter().collect(),
                    place: Place::default(),
                };
                self.clients.enqueue(session, delivery, now);
            }
        }
        true
    }

    /// A replay begins anew when its Client comes back. What comes with QoS 0 is lost with its connection.
    pub(super) fn interrupt_replay(&mut self, session: SessionKey, filter: FilterKey) {
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        if member.subscriptions().get(&filter) != Some(&SubscriptionKind::Replaying) {
            return;
        }
        let options = self.router.subscription(filter, session);
        let is_owed = options.is_some_and(|(options, _)| options.qos > QoS::AtMostOnce);
        member.set_subscription(
            filter,
            if is_owed {
                SubscriptionKind::Interrupted
            } else {
                SubscriptionKind::Own
            },
        );
    }

    /// All that these subscriptions asked for is on its way, and in the log of a stored Session.
    pub(super) fn end_replays(
        &mut self,
        session: SessionKey,
        filters: impl IntoIterator<Item = FilterKey>,
    ) {
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        for filter in filters {
            if member.subscriptions().get(&filter) != Some(&SubscriptionKind::Replaying) {
                continue;
            }
            member.set_subscription(filter, SubscriptionKind::Own);
            if let Some(store) = &mut self.clients.store
                && let Some(name) = member.session.stored()
                && let Some((options, identifier)) = self.router.subscription(filter, session)
                && options.qos > QoS::AtMostOnce
                && let Ok(text) = std::str::from_utf8(self.router.filter_text(filter))
            {
                store.subscribed(name, text, options, identifier, false);
            }
        }
    }

    /// Walks have ended, and may have kept nodes from being freed.
    pub(super) fn end_walks(&mut self, now: Instant) {
        if self.router.tidy_retained(0) {
            self.arm_tidying(now);
        }
    }

    // --- What removed messages leave behind.

    /// Retained messages were removed, and have left tombstones.
    pub(super) fn note_tombstones(&mut self, now: Instant) {
        if self.router.tombstone_count() == 0 {
            return;
        }
        if self.peers.len() == 1 {
            self.forget_tombstones_below(u64::MAX, now);
        } else {
            self.timers
                .arm(Slot::Tombstones, now + super::TOMBSTONE_AGE);
        }
    }

    /// No write with a clock below `clock` can arrive any more.
    pub(super) fn forget_tombstones_below(&mut self, clock: u64, now: Instant) {
        self.tombstones_below = self.tombstones_below.max(clock);
        self.tidy(now);
    }

    /// Frees some of what nobody needs, and comes back for the rest.
    pub(super) fn tidy(&mut self, now: Instant) {
        let below = self.tombstones_below;
        let forgotten = self.router.forget_tombstones_below(below, TIDIED_AT_ONCE);
        let is_left = self.router.tidy_retained(TIDIED_AT_ONCE);
        if is_left || forgotten == TIDIED_AT_ONCE {
            self.arm_tidying(now);
        }
    }

    fn arm_tidying(&mut self, now: Instant) {
        self.timers.arm(Slot::Tidying, now + TIDY_PAUSE);
    }
}
