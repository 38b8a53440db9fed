//! Who wants a message to a topic that is not remembered, when that takes longer than a turn.
//!
//! A topic may be matched by as many filters as its levels can be written in, and where there are access rules each of its
//! subscribers is asked about. Most are found at once. One that takes longer is looked up over turns, one such topic at a time: whoever
//! publishes to it is not read meanwhile, and of the shard that it came from nothing is taken, so nothing overtakes it
//! [MQTT-4.6.0-5]. All else goes on. What nobody waits for, a Will or a message of the broker's own, is looked up at once.

#![forbid(unsafe_code)]

use std::rc::Rc;
use std::time::Duration;

use super::Shard;
use super::connection::Pause;
use super::effects::Effects;
use super::spread::{NODES_A_STEP, TARGETS_A_MESSAGE};
use super::timers::Slot;
use crate::key::ConnectionKey;
use crate::router::{LookUp, Matches};
use crate::time::Instant;
use crate::topic::TopicName;

/// Of what a turn has time for, a look-up gets this part at least.
const PART_OF_LOOK_UP: usize = 4;
/// For so long what was found and has changed since counts as an attempt of the next one.
const ATTEMPTS_COUNT_FOR: Duration = Duration::from_millis(100);

/// Look-ups that take longer than a turn.
#[derive(Debug, Default)]
pub(super) struct LookUps {
    under_way: Option<Box<LookUp>>,
    found: Option<Found>,
    /// Connections not read because of that.
    waiting: Vec<ConnectionKey>,
}

/// The last look-up that is over.
#[derive(Debug)]
struct Found {
    look_up: Box<LookUp>,
    /// What it came to, if its topic is not remembered.
    matches: Option<Rc<Matches>>,
    at: Instant,
}

impl LookUps {
    pub(super) fn len(&self) -> usize {
        usize::from(self.under_way.is_some())
    }
}

impl Shard {
    /// Who wants what is published to a topic, and may read it. [`None`] if it takes longer to know that: whoever asks has to
    /// ask again.
    // HOT: per PUBLISH.
    #[inline]
    pub(super) fn matches_in_time(
        &mut self,
        topic_name: &[u8],
        publisher: Option<ConnectionKey>,
        now: Instant,
    ) -> Option<Rc<Matches>> {
        match self.router.remembered(topic_name) {
            Some(matches) => Some(matches),
            None => self.find_matches_in_time(topic_name, publisher, now),
        }
    }

    #[cold]
    #[inline(never)]
    fn find_matches_in_time(
        &mut self,
        topic_name: &[u8],
        publisher: Option<ConnectionKey>,
        now: Instant,
    ) -> Option<Rc<Matches>> {
        let is_it = |look_up: &LookUp| look_up.topic_name() == topic_name;
        let look_ups = &mut self.look_ups;
        let mut before = None;
        if let Some(found) = look_ups.found.take_if(|found| is_it(&found.look_up)) {
            if self.router.is_right(&found.look_up)
                && let Some(matches) = found.matches
            {
                return Some(matches);
            }
            let counts = now < found.at + ATTEMPTS_COUNT_FOR;
            before = Some(found.look_up).filter(|_| counts);
        }
        let is_under_way = look_ups.under_way.as_ref().is_some_and(|it| is_it(it));
        if !is_under_way {
            let most = self.spreads.looked_up_at_once_max();
            let clients = &self.clients;
            let may_read = |session| clients.may_read(session, topic_name);
            let topic = TopicName::from_validated(topic_name);
            let found = self
                .router
                .look_up_some(topic, clients.guarded, most, may_read);
            if let Some((matches, took)) = found {
                self.count_look_up(took);
                return Some(matches);
            }
            if self.look_ups.under_way.is_none() {
                let begun = match before {
                    Some(before) => self.router.begin_look_up_anew(*before),
                    None => Some(self.router.begin_look_up(topic)),
                };
                let Some(begun) = begun else {
                    return Some(self.matches_of(topic_name));
                };
                self.look_ups.under_way = Some(Box::new(begun));
                self.arm_next_turn(Slot::Spreads, now);
            }
        }
        if let Some(key) = publisher
            && let Some(connection) = self.clients.connections.get_mut(key)
            && !connection.pause.contains(Pause::SPREAD)
        {
            connection.pause.set(Pause::SPREAD);
            self.clients.counters.paused_costly += 1;
            self.look_ups.waiting.push(key);
        }
        None
    }

    /// Goes on with a look-up, as far as this turn has time for.
    pub(super) fn continue_look_up(&mut self, now: Instant, effects: &mut Effects) {
        if self.look_ups.under_way.is_none() {
            return;
        }
        let steps_max = self.clients.limits.spread_steps_max;
        let steps = self.steps_left(now).max(steps_max / PART_OF_LOOK_UP);
        let took = self.look_up_some_more(steps, now, effects);
        self.spend_steps(took);
    }

    /// Goes on for the time of so many messages from another shard, of which the next one has to wait.
    #[cold]
    #[inline(never)]
    pub(super) fn look_up_before(&mut self, messages: usize, now: Instant, effects: &mut Effects) {
        let steps = messages.max(1).saturating_mul(TARGETS_A_MESSAGE);
        let steps_max = self.clients.limits.spread_steps_max;
        self.look_up_some_more(steps.min(steps_max), now, effects);
    }

    /// Goes on for so many steps. How many that took.
    fn look_up_some_more(&mut self, steps: usize, now: Instant, effects: &mut Effects) -> usize {
        let Some(mut look_up) = self.look_ups.under_way.take() else {
            return 0;
        };
        if !self.router.is_right(&look_up) {
            let topic = Rc::<[u8]>::from(look_up.topic_name());
            match self.router.begin_look_up_anew(*look_up) {
                Some(begun) => look_up = Box::new(begun),
                None => {
                    // It is remembered, or looked up at once again: no more can be done for it.
                    self.matches_of(&topic);
                    self.resume_looking_up(effects);
                    return self.take_cost();
                }
            }
        }
        let clients = &self.clients;
        let topic = Rc::<[u8]>::from(look_up.topic_name());
        let may_read = |session| clients.may_read(session, &topic);
        let most = (steps * NODES_A_STEP).max(1);
        let (found, took) =
            self.router
                .continue_look_up(&mut look_up, clients.guarded, most, may_read);
        match found {
            Some(matches) => {
                look_up.end();
                let is_remembered = self.router.remembered(&topic).is_some();
                self.look_ups.found = Some(Found {
                    look_up,
                    matches: Some(matches).filter(|_| !is_remembered),
                    at: now,
                });
                self.resume_looking_up(effects);
            }
            None => {
                self.look_ups.under_way = Some(look_up);
                self.arm_next_turn(Slot::Spreads, now);
            }
        }
        took / NODES_A_STEP
    }

    fn resume_looking_up(&mut self, effects: &mut Effects) {
        for key in std::mem::take(&mut self.look_ups.waiting) {
            self.resume(key, Pause::SPREAD, effects);
        }
    }
}
