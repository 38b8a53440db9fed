//! A message for more Sessions of this shard than one turn has time for.
//!
//! A topic may have a hundred thousand subscribers on one shard, to each of whom a message costs a line or two of memory that
//! is far away, or as many Shared Subscriptions. So it is given to as many as a turn has time for, and the next turns go on
//! with those that are left. Other shards have been given it by then, and so have Shared Subscriptions if they are few. Whoever
//! published it is not read meanwhile, and of the shard that it came from nothing is taken, so what was sent behind it comes
//! behind it.
//!
//! What is written down of a message is in as many frames then, and its acknowledgement waits for the last one. With a store
//! QoS 2 is not spread, nor is a Will that is written down: what is written down of an exchange, or of a Will and its end, is
//! in one frame, so that nobody gets them twice. What is at least QoS 1 goes to all Shared Subscriptions at once there, since
//! other shards are asked for answers with them.
//!
//! A Will and the broker's own messages wait for nobody: they go behind what is on its way, and what is oldest is given to all
//! whom it is left for if there would be more on its way than may be.
//!
//! What a message takes at once all the same, of time for others, is counted: whoever published it is not read before the next
//! turn once that is too much, and of another shard less is taken.
//!
//! # Always true
//! - What was published to one topic comes to every subscriber in the order in which this shard took it [MQTT-4.6.0-5], so
//!   the last one that a subscriber of it sees is the one that is retained.
//! - Who has unsubscribed, or may not read it any more, is given nothing that was left for it [MQTT-3.10.4-2]
//!   [MQTT-3.10.4-3].

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::ops::Range;
use std::rc::Rc;
use std::sync::Arc;

use super::Shard;
use super::clients::answers_max;
use super::connection::Pause;
use super::effects::Effects;
use super::replay::Budget;
use super::run::Run;
use super::store::Waiter;
use super::timers::Slot;
use crate::codec::{PlainPublish, ReasonCode};
use crate::journal::Lsn;
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::limits::Limits;
use crate::message::{Message, MessageRef, ProtocolVersion, QoS};
use crate::router::{FilterKey, GroupKey, Matches, Target};
use crate::time::Instant;
use crate::topic::TopicName;

/// Messages of this shard's Clients that are spread at once; the next ones wait in TCP. Other shards have one each.
const SPREADS_MAX: usize = 64;
/// The same in bytes, with the lists of whom they are for. One message may be more.
const SPREAD_BYTES_MAX: usize = 16 << 20;
/// Sessions that are given a message in the time that a message from another shard takes.
pub(super) const TARGETS_A_MESSAGE: usize = 32;
/// What is larger than that takes as many steps more as it has bytes of this beyond it: they are copied.
const ONE_STEP_SIZE: usize = 4096;
const BYTES_A_STEP: usize = 1024;
/// So few targets or groups are never too many, whatever the size.
const FEW_MAX: usize = 32;
/// Nodes of the Router that are looked at in the time of a step.
pub(super) const NODES_A_STEP: usize = 2;
/// A look-up of so many times [`Spreads::few`] is not counted.
const LOOK_UP_FREE: usize = 8;
/// So many times the square of [`Spreads::few`] are looked at for a topic at once.
const LOOKED_UP_AT_ONCE: usize = 2;
/// Of what a turn has time for, messages that are on their way get this part at least, whatever else was done.
const PART_OF_SPREADS: usize = 4;

/// Messages that are being spread.
#[derive(Debug)]
pub(super) struct Spreads {
    /// Oldest first; only the first one goes on.
    line: VecDeque<Spread>,
    /// Their bytes.
    bytes: usize,
    /// So many targets and groups are never too many.
    few: usize,
    /// As many a message may have without a look at the line: these, or none while something is on its way, or is left to
    /// members of groups.
    pub(super) unasked_max: usize,
    /// Steps of what was done at once since this was last looked at.
    cost: usize,
    /// Connections not read before the next turn because of that.
    resting: Vec<ConnectionKey>,
    budget: Budget,
    /// Connections not read because there are as many as there may be.
    waiting: VecDeque<ConnectionKey>,
    /// Some went on so that there is room for a message whose publisher does not wait.
    made_way: bool,
}

/// A message of which something is left to be given.
#[derive(Debug)]
struct Spread {
    content: Content,
    matches: Rc<Matches>,
    /// The first that has not had it, of the targets and of the groups behind them.
    next: usize,
    /// Whether it is for groups as well.
    has_groups: bool,
    source: Source,
    /// What must be durable for it to be; zero: nothing.
    lsn: Lsn,
    /// Whom to tell that it has come to everybody.
    promise: Option<Promise>,
    /// Bytes that it counts with.
    size: usize,
    /// Filters that match its topic, if they are many: found once, when somebody may want it no more.
    filters: Vec<FilterKey>,
}

/// Who waits until a message is stored for everybody, beside where it came from.
#[derive(Debug)]
pub(super) enum Promise {
    /// A publisher, for this PUBACK.
    PubAck {
        connection: ConnectionKey,
        answer: (PacketIdentifier, ReasonCode),
        /// What is written down of it by now, and the ticket that other shards have; zero: nothing, none.
        lsn: Lsn,
        ticket: u64,
    },
    /// Another shard.
    Ticket { to: ShardId, ticket: u64, lsn: Lsn },
}

/// What is spread.
#[derive(Debug)]
enum Content {
    Message(Arc<Message>),
    /// Packets of a [`Run`].
    Run(ProtocolVersion, Box<[u8]>),
}

/// Where a message came from, which is where nothing else is taken before it has come to everybody.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    /// The broker itself, or somebody who has gone.
    Nobody,
    Session(SessionKey),
    Shard(ShardId),
}

impl Source {
    pub(super) const fn session(self) -> Option<SessionKey> {
        match self {
            Self::Session(session) => Some(session),
            Self::Nobody | Self::Shard(_) => None,
        }
    }
}

impl Spread {
    /// Targets, and groups if it is for them as well.
    fn receivers(&self) -> usize {
        let groups = match self.has_groups {
            true => self.matches.groups.len(),
            false => 0,
        };
        self.matches.targets.len() + groups
    }
}

impl Content {
    fn topic_name(&self) -> &[u8] {
        match self {
            Self::Message(message) => message.topic_name(),
            // All of them have that of the first.
            Self::Run(version, packets) => PlainPublish::peek(*version, packets, u32::MAX)
                .map_or(&[], |first| first.topic_name),
        }
    }

    fn size(&self) -> usize {
        match self {
            Self::Message(message) => message.size(),
            Self::Run(_, packets) => packets.len(),
        }
    }

    /// Of which each outbox may get a copy.
    fn copied_size(&self) -> usize {
        match self {
            Self::Message(message) => message.payload().len(),
            Self::Run(_, packets) => packets.len(),
        }
    }
}

impl Spreads {
    pub(super) fn new(limits: &Limits) -> Self {
        let few = limits.spread_steps_max.clamp(1, FEW_MAX);
        Self {
            line: VecDeque::new(),
            bytes: 0,
            few,
            unasked_max: few,
            cost: 0,
            resting: Vec::new(),
            budget: Budget::default(),
            waiting: VecDeque::new(),
            made_way: false,
        }
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.line.is_empty()
    }

    /// Whether something is on its way, or is left to members of groups, that a message may have to come behind.
    #[inline]
    pub(super) fn are_asked(&self) -> bool {
        self.unasked_max == 0
    }

    pub(super) fn len(&self) -> usize {
        self.line.len()
    }

    /// Nodes of the Router that are looked at for a topic at once, and Sessions that are asked about.
    pub(super) const fn looked_up_at_once_max(&self) -> usize {
        self.few * self.few * LOOKED_UP_AT_ONCE
    }

    fn is_full(&self) -> bool {
        self.line.len() >= SPREADS_MAX || self.bytes >= SPREAD_BYTES_MAX
    }

    /// Whether Clients wait for some of them, or for room.
    pub(super) fn are_awaited(&self) -> bool {
        self.is_full() || !self.waiting.is_empty()
    }

    /// Whether something that came from there is on its way.
    fn has_from(&self, source: Source) -> bool {
        self.line.iter().any(|spread| spread.source == source)
    }

    /// Whether something is on its way to groups. Of Clients that can be made to wait there is one such message at a time: it
    /// may cross to other shards as often as there are groups, whether or not their rings have room.
    fn has_groups(&self) -> bool {
        self.line.iter().any(|spread| spread.has_groups)
    }

    /// Whether something that was published to that topic is on its way to groups: none of them gets what comes behind it
    /// first.
    pub(super) fn has_groups_to(&self, topic_name: &[u8]) -> bool {
        let is_it = |it: &Spread| it.has_groups && it.content.topic_name() == topic_name;
        self.line.iter().any(is_it)
    }

    /// Whether something is on its way that was published to that topic.
    fn has_topic(&self, topic_name: &[u8]) -> bool {
        let is_it = |spread: &Spread| spread.content.topic_name() == topic_name;
        self.line.iter().any(is_it)
    }
}

impl Shard {
    /// What it takes to give so much to one Session.
    pub(super) fn steps_of(&self, size: usize) -> usize {
        // Of larger ones each outbox has a pointer.
        if size >= self.clients.sharing.payload_min {
            return 1;
        }
        1 + size.saturating_sub(ONE_STEP_SIZE).div_ceil(BYTES_A_STEP)
    }

    /// Whether a turn has time to give so much to so many.
    fn is_for_one_turn(&self, targets: usize, size: usize) -> bool {
        targets.saturating_mul(self.steps_of(size)) <= self.clients.limits.spread_steps_max
    }

    /// Whether the message at hand may be in more than one frame.
    fn may_spread(&self, qos: QoS) -> bool {
        self.clients.store.as_ref().is_none_or(|store| {
            let is_will = matches!(store.routing.waiter, Some(Waiter::Will(_)));
            qos < QoS::ExactlyOnce && !is_will
        })
    }

    /// Whether the groups of the message at hand may be given it later, which is when other shards are told of no ticket.
    fn may_spread_groups(&self, qos: QoS) -> bool {
        qos == QoS::AtMostOnce || self.clients.store.is_none()
    }

    /// Whether a message goes to more groups than it may go to at once.
    pub(super) fn has_many_groups(&self, matches: &Matches) -> bool {
        matches.groups.len() > self.spreads.few
    }

    /// Whether something is on its way that shard `from` has sent: what comes behind it has to wait.
    #[inline]
    pub(super) fn is_spread_from(&self, from: ShardId) -> bool {
        !self.spreads.is_empty() && self.spreads.has_from(Source::Shard(from))
    }

    /// Whether a message for more targets than go without a look at the line is spread.
    pub(super) fn is_to_be_spread(
        &self,
        targets: usize,
        topic_name: &[u8],
        qos: QoS,
        size: usize,
    ) -> bool {
        self.may_spread(qos)
            && (!self.is_for_one_turn(targets, size) || self.spreads.has_topic(topic_name))
    }

    /// A message to this topic is about to be begun with, and cannot be spread.
    pub(super) fn finish_spreads_to(
        &mut self,
        topic_name: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.spreads.has_topic(topic_name) {
            self.finish_spreads(now, effects);
        }
    }

    /// A message is about to be routed whose publisher does not wait: a Will, or one of the broker's own. It holds the list of
    /// whom it is for as long as it is spread, so what is oldest makes room for it; and what groups get at once comes behind
    /// what is on its way to them.
    pub(super) fn make_way(
        &mut self,
        message: MessageRef<'_>,
        now: Instant,
        effects: &mut Effects,
    ) {
        if self.spreads.is_empty() {
            return;
        }
        let topic_name = message.topic_name;
        if !self.may_spread_groups(message.qos) && self.spreads.has_groups_to(topic_name) {
            self.finish_spreads(now, effects);
        }
        let steps_max = self.clients.limits.spread_steps_max;
        while self.spreads.is_full() {
            self.spread_some(steps_max, now, effects);
            self.spreads.made_way = true;
        }
    }

    /// Whether room was made since this was last asked: more than this turn had time for.
    pub(super) fn has_made_way(&mut self) -> bool {
        std::mem::take(&mut self.spreads.made_way)
    }

    /// Whether a Client that publishes has to wait until others have been through: there are as many as may be, or its
    /// message has to come behind one of them and cannot be spread, or somebody else waits for that.
    pub(super) fn has_to_wait_for_spreads(
        &mut self,
        key: ConnectionKey,
        matches: &Matches,
        topic_name: &[u8],
        qos: QoS,
        size: usize,
    ) -> bool {
        if !self.spreads.are_asked() {
            return false;
        }
        let may_spread = self.may_spread(qos);
        let has_to_wait = if self.has_to_wait_for_groups(matches, topic_name) {
            true
        } else if self.spreads.has_topic(topic_name) {
            !may_spread || self.spreads.are_awaited()
        } else {
            let targets = matches.targets.len();
            may_spread && self.spreads.is_full() && !self.is_for_one_turn(targets, size)
        };
        if !has_to_wait {
            return false;
        }
        // What it took to know that is nobody's.
        self.take_cost();
        if let Some(connection) = self.clients.connections.get_mut(key)
            && !connection.pause.contains(Pause::SPREAD)
        {
            connection.pause.set(Pause::SPREAD);
            self.clients.counters.paused_spreads += 1;
            self.spreads.waiting.push_back(key);
        }
        true
    }

    /// The same, because of what else is on its way to groups.
    #[cold]
    #[inline(never)]
    pub(super) fn has_to_wait_for_groups(&self, matches: &Matches, topic_name: &[u8]) -> bool {
        !matches.groups.is_empty()
            && (self.legacies.are_of_any(&matches.groups)
                || self.spreads.has_groups()
                    && (self.has_many_groups(matches) || self.spreads.has_groups_to(topic_name)))
    }

    /// Gives a message for more targets and groups than go without a look at the line to as many as this turn has time for,
    /// behind what is on its way. Returns whom the caller has to give it to at once.
    #[cold]
    #[inline(never)]
    pub(super) fn spread<'a>(
        &mut self,
        message: MessageRef<'_>,
        owned: &mut Option<Arc<Message>>,
        matches: &'a Rc<Matches>,
        source: Source,
        now: Instant,
        effects: &mut Effects,
    ) -> (&'a [Target], &'a [GroupKey]) {
        let (mut targets, mut groups) = (&matches.targets[..], &matches.groups[..]);
        if matches!(source, Source::Shard(_)) {
            groups = &[];
        }
        let (topic_name, qos) = (message.topic_name, message.qos);
        let has_groups = !groups.is_empty()
            && self.may_spread_groups(qos)
            && (groups.len() > self.spreads.few || self.spreads.has_groups_to(topic_name));
        let receivers = targets.len() + if has_groups { groups.len() } else { 0 };
        let size = message.payload.len();
        if receivers > 0 && self.is_to_be_spread(receivers, topic_name, qos, size) {
            let owned = owned.get_or_insert_with(|| self.clients.pool.share(message));
            let content = Content::Message(owned.clone());
            self.begin_spread(content, matches, has_groups, source, now, effects);
            targets = &[];
            if has_groups {
                groups = &[];
            }
        }
        let at_once = targets.len() + groups.len();
        if at_once > self.spreads.few {
            self.count_cost(at_once);
        }
        (targets, groups)
    }

    /// The same of a run, which [`Shard::is_to_be_spread`].
    pub(super) fn spread_run(
        &mut self,
        run: &Run<'_>,
        matches: &Rc<Matches>,
        source: Source,
        now: Instant,
        effects: &mut Effects,
    ) {
        let content = Content::Run(run.version(), run.bytes().into());
        self.begin_spread(content, matches, false, source, now, effects);
    }

    fn begin_spread(
        &mut self,
        content: Content,
        matches: &Rc<Matches>,
        has_groups: bool,
        source: Source,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let Some(session) = source.session()
            && let Some(key) = self.clients.connection_of(session)
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.pause.set(Pause::SPREAD);
        }
        let spreads = &mut self.spreads;
        let last = spreads.line.back();
        let has_list = last.is_some_and(|last| Rc::ptr_eq(&last.matches, matches));
        let list_size = if has_list {
            0
        } else {
            size_of_val(&matches.targets[..]) + size_of_val(&matches.groups[..])
        };
        let size = content.size() + list_size;
        spreads.bytes += size;
        spreads.line.push_back(Spread {
            content,
            matches: matches.clone(),
            next: 0,
            has_groups,
            source,
            lsn: 0,
            promise: None,
            size,
            filters: Vec::new(),
        });
        spreads.unasked_max = 0;
        let is_first = spreads.line.len() == 1;
        self.clients.counters.spread += 1;
        // Of others nothing is written down in the frame of this one.
        if is_first {
            self.continue_spreads(now, effects);
        }
    }

    /// Acknowledges what came from there last, once it has come to everybody.
    #[cold]
    #[inline(never)]
    pub(super) fn promise(
        &mut self,
        source: Source,
        promise: Promise,
        now: Instant,
        effects: &mut Effects,
    ) {
        let mut line = self.spreads.line.iter_mut().rev();
        match line.find(|spread| spread.source == source) {
            Some(spread) if spread.promise.is_none() => spread.promise = Some(promise),
            _ => self.keep_promise(promise, 0, now, effects),
        }
    }

    /// The Router has looked at so many nodes for a topic.
    pub(super) fn count_look_up(&mut self, nodes: usize) {
        if nodes > self.spreads.few * LOOK_UP_FREE {
            self.count_cost(nodes / NODES_A_STEP);
        }
    }

    /// Something that takes so many steps was done at once.
    fn count_cost(&mut self, steps: usize) {
        self.spreads.cost += steps;
        // Whoever caused it is looked at.
        self.clients.answers_max = 0;
    }

    /// The steps that were done at once since this was last asked: to be asked behind whatever is routed, or the next Client
    /// that is heard would be taken for who has caused them.
    pub(super) fn take_cost(&mut self) -> usize {
        self.clients.answers_max = answers_max(&self.clients.limits);
        std::mem::take(&mut self.spreads.cost)
    }

    /// The same, as so many messages of another shard.
    #[inline]
    pub(super) fn take_cost_in_messages(&mut self) -> usize {
        match self.spreads.cost {
            0 => 0,
            _ => self.take_cost() / TARGETS_A_MESSAGE,
        }
    }

    /// What a Client sent has taken so many steps at once: it is not read before the next turn, if this one has no time
    /// left.
    pub(super) fn rest(&mut self, key: ConnectionKey, cost: usize, now: Instant) {
        let steps_max = self.clients.limits.spread_steps_max;
        let left = self.spreads.budget.left(now, steps_max);
        self.spreads.budget.spend(cost);
        if cost >= left
            && let Some(connection) = self.clients.connections.get_mut(key)
            && !connection.pause.any()
        {
            connection.pause.set(Pause::SPREAD);
            self.clients.counters.paused_costly += 1;
            self.spreads.resting.push(key);
            self.arm_next_turn(Slot::Spreads, now);
        }
    }

    /// A turn has begun.
    pub(super) fn resume_resting(&mut self, effects: &mut Effects) {
        for key in std::mem::take(&mut self.spreads.resting) {
            self.resume(key, Pause::SPREAD, effects);
        }
    }

    /// Goes on, as far as this turn has time for.
    pub(super) fn continue_spreads(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.spread_steps_max;
        let left = self.spreads.budget.left(now, steps_max);
        let left = left.max(steps_max / PART_OF_SPREADS);
        let steps = self.spread_some(left, now, effects);
        self.spreads.budget.spend(steps);
        if !self.spreads.is_empty() {
            self.arm_next_turn(Slot::Spreads, now);
        }
    }

    /// What this turn has time for.
    pub(super) fn steps_left(&mut self, now: Instant) -> usize {
        let steps_max = self.clients.limits.spread_steps_max;
        self.spreads.budget.left(now, steps_max)
    }

    /// So much of it is over.
    pub(super) fn spend_steps(&mut self, steps: usize) {
        self.spreads.budget.spend(steps);
    }

    /// Goes on for the time of so many messages from another shard, of which the next one has to wait.
    pub(super) fn spread_before(&mut self, messages: usize, now: Instant, effects: &mut Effects) {
        let steps = messages.max(1).saturating_mul(TARGETS_A_MESSAGE);
        let steps_max = self.clients.limits.spread_steps_max;
        self.spread_some(steps.min(steps_max), now, effects);
        self.end_frame();
        effects.messages = messages.max(1);
    }

    /// Goes on until nothing is left.
    pub(super) fn finish_spreads(&mut self, now: Instant, effects: &mut Effects) {
        while !self.spreads.is_empty() {
            self.spread_some(usize::MAX, now, effects);
        }
    }

    /// Goes on for so many steps. How many that took.
    fn spread_some(&mut self, steps_max: usize, now: Instant, effects: &mut Effects) -> usize {
        let mut steps = 0;
        while steps < steps_max
            && let Some(mut spread) = self.spreads.line.pop_front()
        {
            let steps_left = steps_max - steps;
            if self.has_expired(&spread.content, now) {
                spread.next = spread.receivers();
            } else {
                let before = self.journal_size();
                steps += self.give(&mut spread, steps_left, now, effects);
                if self.journal_size() != before {
                    spread.lsn = self.stored_position();
                }
            }
            if spread.next < spread.receivers() {
                self.spreads.line.push_front(spread);
            } else {
                self.end_spread(spread, now, effects);
            }
        }
        steps
    }

    /// Whether its time was over before it had come to everybody.
    fn has_expired(&mut self, content: &Content, now: Instant) -> bool {
        match content {
            Content::Message(message) => self.expired_on_the_way(message.as_ref().as_ref(), now),
            Content::Run(..) => false,
        }
    }

    /// Gives it to those whose turn it is. How many steps that took.
    fn give(
        &mut self,
        spread: &mut Spread,
        steps_max: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let topic_name = TopicName::from_validated(spread.content.topic_name());
        let begin = spread.next;
        let targets = &spread.matches.targets;
        if begin >= targets.len() {
            return self.give_to_groups(spread, steps_max, now, effects);
        }
        let steps_each = self.steps_of(spread.content.copied_size());
        if !self.is_current(&spread.matches, topic_name) {
            return self.give_if_wanted(spread, steps_each, steps_max, now, effects);
        }
        let count = (steps_max / steps_each).max(1);
        let end = begin.saturating_add(count).min(targets.len());
        self.give_to(spread, begin..end, now, effects);
        spread.next = end;
        (end - begin) * steps_each
    }

    /// The same, where everybody has to be looked at once more.
    fn give_if_wanted(
        &mut self,
        spread: &mut Spread,
        steps_each: usize,
        steps_max: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let mut steps = 0;
        let mut filters = std::mem::take(&mut spread.filters);
        let topic_name = TopicName::from_validated(spread.content.topic_name());
        if filters.is_empty() {
            let took;
            (filters, took) = self.router.plain_filters(topic_name);
            steps += took / NODES_A_STEP;
        }
        let begin = spread.next;
        let mut end = begin;
        for target in &spread.matches.targets[begin..] {
            let (is_wanted, looks) = self.wants_still(target.session, &filters, topic_name);
            if is_wanted {
                self.give_to(spread, end..end + 1, now, effects);
            }
            end += 1;
            steps += steps_each + looks;
            if steps >= steps_max {
                break;
            }
        }
        spread.next = end;
        if filters.len() > FEW_MAX {
            spread.filters = filters;
        }
        steps
    }

    /// Whether nothing that matters has changed since these were found.
    fn is_current(&mut self, matches: &Rc<Matches>, topic_name: TopicName<'_>) -> bool {
        let known = self.router.remembered(topic_name.as_bytes());
        known.is_some_and(|known| Rc::ptr_eq(&known, matches))
    }

    /// The same, of groups.
    fn give_to_groups(
        &mut self,
        spread: &mut Spread,
        steps_max: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let matches = spread.matches.clone();
        let Content::Message(message) = &spread.content else {
            debug_assert!(false, "a run goes to groups one message after the other");
            spread.next = spread.receivers();
            return 1;
        };
        let begin = spread.next - matches.targets.len();
        let steps_each = self.steps_of(spread.content.copied_size());
        let count = (steps_max / steps_each).max(1);
        let end = begin.saturating_add(count).min(matches.groups.len());
        let groups = &matches.groups[begin..end];
        let view = message.as_ref().as_ref();
        let owned = Some(message.clone());
        let topic_name = TopicName::from_validated(view.topic_name);
        let mut fanout = self.clients.fanout(view, owned, spread.receivers(), now);
        // Keys of groups that are gone are given to other filters.
        if self.is_current(&matches, topic_name) {
            self.deliver_to_groups(groups, &mut fanout, effects);
        } else {
            for group in groups {
                if self.router.is_group_of(*group, topic_name) {
                    self.deliver_to_groups(std::slice::from_ref(group), &mut fanout, effects);
                }
            }
        }
        self.clients.end_fanout(fanout);
        spread.next += groups.len();
        groups.len() * steps_each
    }

    /// Whether a Session is subscribed to a topic, by one of these filters or by one of its own if those are fewer, and may
    /// read it. At how many of them that looked.
    fn wants_still(
        &self,
        session: SessionKey,
        filters: &[FilterKey],
        topic_name: TopicName<'_>,
    ) -> (bool, usize) {
        let Some(member) = self.clients.members.get(session) else {
            return (false, 0);
        };
        let own = member.subscriptions();
        let mut looks = 0;
        let mut is_it = |filter: FilterKey| {
            looks += 1;
            self.router.is_subscribed(filter, session, topic_name)
        };
        let is_wanted = match own.len() < filters.len() {
            true => own.keys().any(|&filter| is_it(filter)),
            false => filters.iter().any(|&filter| is_it(filter)),
        };
        let may_read = || self.clients.may_read(session, topic_name.as_bytes());
        (is_wanted && may_read(), looks)
    }

    fn give_to(
        &mut self,
        spread: &Spread,
        places: Range<usize>,
        now: Instant,
        effects: &mut Effects,
    ) {
        let (matches, publisher) = (&*spread.matches, spread.source.session());
        match &spread.content {
            Content::Message(message) => {
                let targets = &matches.targets[places];
                let view = message.as_ref().as_ref();
                let owned = Some(message.clone());
                let all = matches.targets.len();
                let mut fanout = self.clients.fanout(view, owned, all, now);
                self.clients
                    .deliver_to(targets, publisher, &mut fanout, effects);
                self.clients.end_fanout(fanout);
            }
            Content::Run(version, packets) => {
                if let Some(run) = Run::of_some(*version, packets) {
                    self.deliver_run_to(&run, publisher, matches, places, now, effects);
                }
            }
        }
    }

    /// It has come to everybody: whoever sent it is read again, and somebody who waits for room.
    fn end_spread(&mut self, spread: Spread, now: Instant, effects: &mut Effects) {
        if let Some(promise) = spread.promise {
            self.keep_promise(promise, spread.lsn, now, effects);
        }
        let spreads = &mut self.spreads;
        spreads.bytes -= spread.size;
        if spreads.line.is_empty() {
            self.look_at_what_is_under_way();
            self.resume_waiting_for_spreads(effects);
        } else if let Some(key) = spreads.waiting.pop_front() {
            self.resume(key, Pause::SPREAD, effects);
        }
        if let Some(session) = spread.source.session()
            && !self.spreads.has_from(spread.source)
            && let Some(key) = self.clients.connection_of(session)
        {
            self.resume(key, Pause::SPREAD, effects);
        }
    }

    /// What waits behind messages that are on their way, or that are left to members of groups, may do so no more.
    pub(super) fn resume_waiting_for_spreads(&mut self, effects: &mut Effects) {
        for key in std::mem::take(&mut self.spreads.waiting) {
            self.resume(key, Pause::SPREAD, effects);
        }
    }

    /// What a message may have to come behind has become more or less.
    pub(super) fn look_at_what_is_under_way(&mut self) {
        let is_free = self.spreads.line.is_empty() && self.legacies.is_empty();
        self.spreads.unasked_max = if is_free { self.spreads.few } else { 0 };
    }

    /// Acknowledges a message once what was written down of it, up to `last`, is durable.
    fn keep_promise(&mut self, promise: Promise, last: Lsn, now: Instant, effects: &mut Effects) {
        match promise {
            Promise::PubAck {
                connection,
                answer,
                lsn,
                ticket,
            } => {
                let waits_for = (lsn.max(last), ticket);
                self.puback_once_stored(connection, answer, waits_for, now, effects);
            }
            Promise::Ticket { to, ticket, lsn } => self.answer_ticket(to, ticket, lsn.max(last)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{self, Connect, ForwardedProperties, Packet, Will};
    use crate::shard::rig::{NOW, Rig};

    const V5: ProtocolVersion = ProtocolVersion::V5;
    /// More than are few.
    const SESSIONS: usize = FEW_MAX + 8;

    /// [MQTT-3.1.2-8]
    #[test]
    fn will_of_a_client_that_comes_as_the_broker_stops_is_kept_for_all_whom_it_is_for() {
        let mut rig = Rig::new();
        rig.shard.clients.limits.spread_steps_max = 1;
        let connect = |rig: &mut Rig, connect: Connect<'_>| {
            let key = rig.shard.handle_accept(Default::default(), NOW).unwrap();
            let mut bytes = Vec::new();
            codec::encode(&Packet::Connect(connect), V5, &mut bytes);
            rig.feed(key, &bytes);
            rig.output(key);
            key
        };
        for number in 0..SESSIONS {
            let name = number.to_string();
            let mut lasting = Connect::new(V5, &name);
            lasting.properties.session_expiry_interval = Some(3600);
            let key = connect(&mut rig, lasting);
            rig.subscribe(key, V5, QoS::AtLeastOnce);
            rig.shard.handle_closed(key, NOW, &mut rig.effects);
        }
        rig.shard.handle_stopping(NOW, &mut rig.effects);
        let mut late = Connect::new(V5, "late");
        late.will = Some(Will {
            qos: QoS::AtLeastOnce,
            retain: false,
            topic_name: "t",
            payload: b"gone",
            delay_interval_s: 0,
            message_expiry_interval_s: None,
            properties: ForwardedProperties::default(),
        });
        connect(&mut rig, late);
        rig.shard.handle_shutdown(NOW, &mut rig.effects);
        assert_eq!(rig.shard.clients.queued_messages, SESSIONS);
    }
}
