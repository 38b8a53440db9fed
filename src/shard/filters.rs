//! SUBSCRIBE and UNSUBSCRIBE packets of many Topic Filters: as many of them as one turn has time for.
//!
//! A packet may have a hundred thousand. First all are checked, then each takes effect, then there is one answer. A
//! packet that takes more than one turn stays unread with its caller, who presents it again in a later one; its
//! connection keeps how far it has come, and nothing behind it is read. Connections with such packets go round: a turn goes on
//! with as many as it has time for.
//!
//! # Always true
//! - A malformed Topic Filter ends the connection before any of its packet is in force.
//! - Whoever comes round gets on by one Topic Filter at least, and a packet of one takes one turn.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;

use super::connection::Pause;
use super::effects::Effects;
use super::subscribe::Answer;
use super::timers::Slot;
use super::{Shard, Step};
use crate::codec::{TopicFilters, decode_filters_head, packet_type};
use crate::key::{ConnectionKey, SessionKey};
use crate::message::ProtocolVersion;
use crate::policy::LogMask;
use crate::session::ProtocolError;
use crate::time::Instant;
use crate::topic::TopicFilter;

/// Steps that a Topic Filter takes to be in force, or no more: its check is one.
const STEPS_TO_APPLY: usize = 8;
/// Bytes of it that are looked at in the time of a step.
const BYTES_A_STEP: usize = 64;
/// Shards that are told of it in the time of a step.
const PEERS_A_STEP: usize = 2;

/// How far a SUBSCRIBE or UNSUBSCRIBE has come.
#[derive(Debug)]
pub(super) struct Unfinished {
    subscription_identifier: Option<NonZeroU32>,
    /// Bytes of its Topic Filters, with which it ends.
    filters_size: usize,
    /// Bytes of those that are still to be checked.
    unchecked: usize,
    /// Those that were checked.
    checked_count: usize,
    /// Bytes of those that have not taken effect.
    unapplied: usize,
    answer: Answer,
}

impl Unfinished {
    fn new(version: ProtocolVersion, first_byte: u8, body: &[u8]) -> Result<Self, ProtocolError> {
        let head = decode_filters_head(version, first_byte, body)?;
        Ok(Self {
            subscription_identifier: head.subscription_identifier,
            filters_size: head.filters_size,
            unchecked: head.filters_size,
            checked_count: 0,
            unapplied: head.filters_size,
            answer: Answer::new(head.packet_identifier),
        })
    }

    /// What it still takes, if that can be told.
    fn steps_left(&self) -> Option<usize> {
        let count = self.checked_count - self.answer.len();
        (self.unchecked == 0).then_some(count * STEPS_TO_APPLY)
    }
}

/// A packet as it is presented.
#[derive(Clone, Copy)]
pub(super) struct Presented<'a> {
    pub(super) version: ProtocolVersion,
    pub(super) first_byte: u8,
    pub(super) body: &'a [u8],
}

impl<'a> Presented<'a> {
    fn is_subscribe(self) -> bool {
        self.first_byte >> 4 == packet_type::SUBSCRIBE
    }

    /// The Topic Filters in its last `size` bytes.
    fn filters(self, size: usize) -> TopicFilters<'a> {
        TopicFilters::new(self.version, self.first_byte, self.body, size)
    }
}

impl Shard {
    /// Takes a SUBSCRIBE or UNSUBSCRIBE in, or goes on with it: one Topic Filter after the other as if each came alone, and
    /// one answer [MQTT-3.8.4-5] [MQTT-3.10.4-6].
    pub(super) fn handle_filters(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        packet: Presented<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        if self.ring_is_full {
            self.pause_for_ring(key);
            return Ok(Step::Blocked);
        }
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return Ok(Step::Stop);
        };
        let begun = connection
            .rare_mut()
            .and_then(|rare| rare.unfinished.take());
        let mut unfinished = match begun {
            Some(begun) => {
                connection.tidy_rare();
                *begun
            }
            None => Unfinished::new(packet.version, packet.first_byte, packet.body)?,
        };
        let steps_max = self.clients.limits.filter_steps_max;
        let mut steps = 0;
        // All or nothing: a malformed filter ends the connection before any of them is in force.
        let mut filters = packet.filters(unfinished.unchecked);
        while let Some((filter, _)) = filters.read()? {
            TopicFilter::new(filter).map_err(|_| ProtocolError::TopicFilterInvalid)?;
            unfinished.checked_count += 1;
            unfinished.unchecked = filters.size();
            steps += 1 + filter.len() / BYTES_A_STEP;
            if steps >= steps_max && unfinished.unchecked > 0 {
                return Ok(self.go_on_later(key, unfinished, now));
            }
        }
        if unfinished.unapplied == unfinished.filters_size {
            let count = unfinished.checked_count;
            self.check_answer(key, count)?;
            let is_replayed = packet.is_subscribe() && self.has_retained();
            let replay_count = if is_replayed { count } else { 0 };
            unfinished.answer.reserve(count, replay_count);
        }
        let settings = self.clients.settings.clone();
        let identifier = unfinished.subscription_identifier;
        let logged_as = match packet.is_subscribe() {
            true => LogMask::SUBSCRIBE,
            false => LogMask::UNSUBSCRIBE,
        };
        let Some(asked) = self.asked(key, session, &settings, logged_as, identifier) else {
            return Ok(Step::Stop);
        };
        let steps_for_peers = self.peers.len() / PEERS_A_STEP;
        let mut filters = packet.filters(unfinished.unapplied);
        while let Some((filter, options)) = filters.read()? {
            steps += STEPS_TO_APPLY + filter.len() / BYTES_A_STEP + steps_for_peers;
            let answer = &mut unfinished.answer;
            if packet.is_subscribe() {
                self.subscribe_to(filter, options, &asked, answer, effects);
            } else {
                let (reason_code, visits) = self.unsubscribe_seen(filter, &asked, now, effects);
                answer.push(reason_code);
                steps += visits;
            }
            unfinished.unapplied = filters.size();
            if (steps >= steps_max || self.ring_is_full) && unfinished.unapplied > 0 {
                return Ok(self.go_on_later(key, unfinished, now));
            }
        }
        let answer = unfinished.answer;
        if packet.is_subscribe() {
            self.end_subscribe(key, answer, now, effects);
        } else {
            self.end_unsubscribe(key, session, answer, now, effects);
        }
        Ok(Step::Continue)
    }

    /// Whether what a connection presents next was begun with: some of its Topic Filters may have taken effect.
    #[must_use]
    pub fn is_unfinished(&self, key: ConnectionKey) -> bool {
        let connection = self.clients.connections.get(key);
        let rare = connection.and_then(|connection| connection.rare());
        rare.is_some_and(|rare| rare.unfinished.is_some())
    }

    /// Leaves the rest of a packet for when it is its turn again.
    fn go_on_later(&mut self, key: ConnectionKey, unfinished: Unfinished, now: Instant) -> Step {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return Step::Stop;
        };
        connection.make_rare().unfinished = Some(Box::new(unfinished));
        // The packet has come. That it takes long is not its Client's silence.
        connection.last_packet_at = now;
        if self.ring_is_full {
            self.pause_for_ring(key);
        } else {
            connection.pause.set(Pause::FILTERS);
            self.filtering.push_back(key);
            self.arm_next_turn(Slot::Filters, now);
        }
        self.end_frame();
        Step::Blocked
    }

    /// Has the connection that has waited longest presented again, and others if there is time for them as well.
    pub(super) fn continue_filters(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.filter_steps_max;
        let mut steps = 0;
        while steps < steps_max
            && let Some(key) = self.filtering.pop_front()
        {
            let connection = self.clients.connections.get(key);
            // It may have ended meanwhile.
            if let Some(connection) = connection.filter(|it| it.session().is_some())
                && let Some(rare) = connection.rare()
                && let Some(unfinished) = &rare.unfinished
            {
                steps += unfinished.steps_left().unwrap_or(steps_max);
                self.resume(key, Pause::FILTERS, effects);
            }
        }
        if !self.filtering.is_empty() {
            self.arm_next_turn(Slot::Filters, now);
        }
    }
}
