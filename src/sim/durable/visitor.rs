//! Clients whose Sessions end while the broker crashes: by Clean Start, by DISCONNECT, by the time they have. They
//! subscribe, again with other options, and unsubscribe, and have Wills.
//!
//! Each knows between which moments it can have been subscribed, and must have been. What was published within must
//! come, what was published and acknowledged outside must not, whatever a crash brings back.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU32;
use std::time::Duration;

use super::client::{Client, Late, MESSAGES, Published, RETAINED, check_order};
use super::content::{Content, Sort, number};
use super::link::{Link, success};
use crate::codec::{
    self, Connect, Disconnect, ForwardedProperties, Packet, ReasonCode, RetainHandling, Subscribe,
    SubscriptionOptions, Unsubscribe, Will,
};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::sim::oracle::Violation;
use crate::sim::random::Random;
use crate::sim::world::{Event, WireId, World};
use crate::time::Instant;

const VERSION: ProtocolVersion = ProtocolVersion::V5;
/// Session Expiry Intervals.
const EXPIRIES_S: [u32; 4] = [0, 2, 10, u32::MAX];
/// Will Delay Intervals.
const DELAYS_S: [u32; 3] = [0, 1, 6];

/// Asks for one thing at a time.
fn identifier() -> PacketIdentifier {
    PacketIdentifier::new(1).expect("not zero")
}

/// One Subscription, by moments.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// SUBSCRIBE was sent.
    asked: u64,
    /// SUBACK had come.
    since: Option<u64>,
    /// Its end was asked for.
    until: u64,
    /// Its end was confirmed.
    gone: u64,
}

impl Span {
    /// Whether a message was published while it must have been in force.
    fn must_get(&self, message: &Published) -> bool {
        let acknowledged = message.acknowledged.map_or(u64::MAX, |(moment, _)| moment);
        self.since.is_some_and(|since| since <= message.begun) && acknowledged < self.until
    }

    fn may_get(&self, message: &Published) -> bool {
        let acknowledged = message.acknowledged.map_or(u64::MAX, |(moment, _)| moment);
        self.asked <= acknowledged && message.begun <= self.gone
    }
}

/// What a SUBSCRIBE asked for.
#[derive(Clone, Copy, Debug)]
struct Asked {
    /// Its Subscription Identifier.
    identifier: u32,
    qos: QoS,
    retain_as_published: bool,
    /// The moment at which it was sent.
    at: u64,
    /// What replaces or ends it was confirmed.
    until: u64,
}

impl Asked {
    /// Whether a message that came by it could be published while it was in force.
    fn may_get(&self, message: &Published) -> bool {
        let acknowledged = message.acknowledged.map_or(u64::MAX, |(moment, _)| moment);
        self.at <= acknowledged && message.begun <= self.until
    }
}

/// One Session, or what may be one.
#[derive(Debug, Default)]
struct Stay {
    spans: Vec<Span>,
    /// Every SUBSCRIBE that may be in force, or was.
    asked: Vec<Asked>,
    /// By which of them a message came: its publisher, flow and number, and the Subscription Identifier.
    by: Vec<(usize, usize, u32, u32)>,
    /// What came, by publisher and QoS.
    got: BTreeMap<(usize, usize), Vec<u32>>,
    /// What came of what is retained: topics and values.
    retained: BTreeSet<(usize, u32)>,
}

/// A Will of this Client.
#[derive(Clone, Copy, Debug)]
pub(super) struct OwnWill {
    /// Which one; its payload.
    pub(super) number: u32,
    /// When the CONNECT that set it was sent.
    pub(super) asked: u64,
    delay_s: u32,
    /// Whether its Session outlives a crash.
    is_stored: bool,
    /// CONNACK has come.
    is_heard: bool,
    /// A DISCONNECT that takes it back was sent.
    is_taken_back: bool,
    /// Its delay was over before anything was said again.
    is_over: bool,
}

/// What a Visitor waits for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Asking {
    /// To be subscribed.
    First,
    /// To be subscribed with other options.
    Again,
    /// Not to be.
    Last,
}

/// One such Client.
#[derive(Debug)]
pub(super) struct Visitor {
    pub(super) index: usize,
    pub(super) link: Link,
    /// Counts what Clients do, all over the simulation.
    pub(super) moment: u64,
    /// Of this life of the broker, those it may still take for connected.
    wires: BTreeSet<WireId>,
    /// When it had lost the last of those.
    lost_at: Instant,
    /// Those of which it has not taken the CONNECT, which may still end others.
    unheard: BTreeSet<WireId>,
    /// When this Client gave up its last connection.
    dropped_at: Instant,
    /// Its Session lives at least, and at most, that long.
    expiry_s: (u32, u32),
    /// The last CONNECT.
    clean_start: bool,
    must_be_new: bool,
    asked_expiry_s: u32,
    /// The Session may have ended since it was heard of.
    may_have_ended: bool,
    stays: Vec<Stay>,
    asking: Option<Asking>,
    is_subscribed: bool,
    /// Whether it has asked not to be, and may be still: a crash can take that back, and what it was not sent meanwhile is
    /// not sent afterwards.
    is_unsure: bool,
    /// SUBSCRIBE packets sent.
    subscribes: u32,
    received: BTreeSet<u16>,
    /// Connections begun, each of which has a Will.
    connections: u32,
    /// Those of the last connection of which CONNACK was heard and of all later ones.
    wills: Vec<OwnWill>,
    /// Wills that must have come, and such that must never come.
    pub(super) due: Vec<OwnWill>,
    pub(super) void: Vec<OwnWill>,
    late: Vec<Late>,
}

impl Visitor {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            link: Link::new(VERSION),
            moment: 0,
            wires: BTreeSet::new(),
            unheard: BTreeSet::new(),
            lost_at: Instant::ZERO,
            dropped_at: Instant::ZERO,
            expiry_s: (0, 0),
            clean_start: false,
            must_be_new: false,
            asked_expiry_s: 0,
            may_have_ended: true,
            stays: Vec::new(),
            asking: None,
            is_subscribed: false,
            is_unsure: false,
            subscribes: 0,
            received: BTreeSet::new(),
            connections: 0,
            wills: Vec::new(),
            due: Vec::new(),
            void: Vec::new(),
            late: Vec::new(),
        }
    }

    fn violation(&self, what: &str) -> Violation {
        Violation(format!("visitor {}: {what}", self.index))
    }

    /// Its Client Identifier.
    pub(super) fn name(&self) -> String {
        format!("visitor-{}", self.index)
    }

    /// That of its Wills.
    pub(super) fn topic_name(&self) -> String {
        format!("w/{}", self.index)
    }

    /// Whether its Wills are retained.
    pub(super) const fn retains(&self) -> bool {
        self.index % 2 == 1
    }

    /// The broker has ended, and begins anew `now`.
    pub(super) fn restarted(&mut self, now: Instant) {
        self.drop_connection(now);
        self.wires.clear();
        self.unheard.clear();
        // What was published may be forgotten, and the delay begins anew.
        for will in &mut self.wills {
            will.is_over = false;
        }
        self.lost_at = now;
    }

    pub(super) fn drop_connection(&mut self, now: Instant) {
        if self.link.is_connected {
            self.dropped_at = now;
        }
        self.link.drop();
        // What became of the last thing it asked for is not known.
        self.is_subscribed &= self.asking.is_none();
        self.is_unsure |= self.asking == Some(Asking::Last);
        self.asking = None;
    }

    /// What the broker knows of its connections.
    pub(super) fn observe(&mut self, event: &Event, now: Instant) {
        match event {
            Event::Consumed { wire, .. } => {
                self.unheard.remove(wire);
            }
            Event::Lost { wire } | Event::Closing { wire } => {
                self.unheard.remove(wire);
                if self.wires.remove(wire) && self.wires.is_empty() {
                    self.lost_at = now;
                }
            }
            _ => {}
        }
    }

    fn connect(&mut self, world: &mut World, random: &mut Random, may_leave: bool) {
        if !self.unheard.is_empty() {
            return;
        }
        let now = world.now();
        let is_gone = self.wires.is_empty();
        self.clean_start = may_leave && random.chance(20);
        self.must_be_new = is_gone && is_over(self.lost_at, self.expiry_s.1, now);
        self.must_be_new |= self.wills.is_empty();
        self.may_have_ended |= self.clean_start || is_over(self.dropped_at, self.expiry_s.0, now);
        if let [heard] = self.wills.as_mut_slice() {
            heard.is_over = is_gone && is_over(self.lost_at, heard.delay_s, now);
        }
        self.asked_expiry_s = if may_leave {
            *random.pick(&EXPIRIES_S)
        } else {
            u32::MAX
        };
        self.expiry_s.0 = self.expiry_s.0.min(self.asked_expiry_s);
        self.expiry_s.1 = self.expiry_s.1.max(self.asked_expiry_s);
        if self.clean_start {
            self.leave_spans();
        }
        self.link.open(world, random);
        self.wires.extend(self.link.wire());
        self.unheard.extend(self.link.wire());
        self.connections += 1;
        let will = OwnWill {
            number: self.connections,
            asked: self.moment,
            delay_s: *random.pick(&DELAYS_S),
            is_stored: self.asked_expiry_s > 0,
            is_heard: false,
            is_taken_back: false,
            is_over: false,
        };
        self.wills.push(will);
        let identifier = self.name();
        let topic_name = self.topic_name();
        let payload = Content::payload(will.number, 0);
        let mut connect = Connect::new(VERSION, &identifier);
        connect.clean_start = self.clean_start;
        connect.properties.session_expiry_interval = Some(self.asked_expiry_s);
        connect.will = Some(Will {
            qos: *random.pick(&[QoS::AtLeastOnce, QoS::ExactlyOnce]),
            retain: self.retains(),
            topic_name: &topic_name,
            payload: payload.as_bytes(),
            delay_interval_s: will.delay_s,
            message_expiry_interval_s: None,
            properties: ForwardedProperties::default(),
        });
        self.link.send(world, &Packet::Connect(connect));
    }

    /// Of its present Session.
    fn spans(&mut self) -> impl Iterator<Item = &mut Span> {
        let stay = self.stays.last_mut();
        stay.into_iter().flat_map(|it| &mut it.spans)
    }

    /// Nothing more has to come by what it is subscribed to.
    fn leave_spans(&mut self) {
        let moment = self.moment;
        for span in self.spans() {
            span.until = span.until.min(moment);
        }
    }

    /// Does one thing. `may_leave`: it may end its Session, and what it is subscribed to.
    pub(super) fn act(&mut self, world: &mut World, random: &mut Random, may_leave: bool) {
        let Some(wire) = self.link.wire() else {
            return self.connect(world, random, may_leave);
        };
        if may_leave && random.one_in(30) {
            self.link.lose(world, random);
            return self.drop_connection(world.now());
        }
        if !self.link.is_connected {
            return;
        }
        if may_leave && random.one_in(60) {
            return self.disconnect(world, random, wire);
        }
        if self.link.answer_one(world) || !may_leave || self.asking.is_some() || !random.one_in(4) {
            return;
        }
        if random.chance(if self.is_subscribed { 60 } else { 25 }) {
            self.leave_spans();
            let filters = [MESSAGES, RETAINED];
            let unsubscribe = Unsubscribe::new(identifier(), &filters);
            self.link.send(world, &Packet::Unsubscribe(unsubscribe));
            self.is_subscribed = false;
            self.asking = Some(Asking::Last);
        } else {
            self.subscribe(world, random);
        }
    }

    /// Subscribes, or does so again with other options: what is published meanwhile comes [MQTT-3.8.4-4].
    fn subscribe(&mut self, world: &mut World, random: &mut Random) {
        self.subscribes += 1;
        let asked = Asked {
            identifier: self.subscribes,
            qos: *random.pick(&[QoS::ExactlyOnce, QoS::AtLeastOnce]),
            retain_as_published: random.chance(50),
            at: self.moment,
            until: u64::MAX,
        };
        let stay = self.stays.last_mut().expect("it is connected");
        stay.asked.push(asked);
        if !self.is_subscribed {
            stay.spans.push(Span {
                asked: self.moment,
                since: None,
                until: u64::MAX,
                gone: u64::MAX,
            });
        }
        let mut options = SubscriptionOptions::new(asked.qos);
        options.retain_as_published = asked.retain_as_published;
        // Once it is subscribed, what it asked for is on its way, whatever it asks for.
        let handlings = [
            RetainHandling::Send,
            RetainHandling::SendIfNew,
            RetainHandling::DoNotSend,
        ];
        let count = match (self.is_subscribed, self.is_unsure) {
            (true, _) => 3,
            (false, false) => 2,
            (false, true) => 1,
        };
        options.retain_handling = handlings[random.below(count)];
        let filters = [(MESSAGES, options), (RETAINED, options)];
        let mut subscribe = Subscribe::new(identifier(), &filters);
        subscribe.subscription_identifier = NonZeroU32::new(asked.identifier);
        self.link.send(world, &Packet::Subscribe(subscribe));
        self.asking = Some(if self.is_subscribed {
            Asking::Again
        } else {
            Asking::First
        });
        self.is_subscribed = true;
    }

    fn disconnect(&mut self, world: &mut World, random: &mut Random, wire: WireId) {
        let has_will = random.chance(40);
        let mut disconnect = Disconnect::new(if has_will {
            ReasonCode::DisconnectWithWillMessage
        } else {
            ReasonCode::Success
        });
        // [MQTT-3.1.2-23]: a Session that was to end with its connection can't be made to last.
        if self.asked_expiry_s > 0 && random.chance(50) {
            let seconds = *random.pick(&EXPIRIES_S);
            disconnect.session_expiry_interval = Some(seconds);
            self.expiry_s.0 = self.expiry_s.0.min(seconds);
            self.expiry_s.1 = self.expiry_s.1.max(seconds);
            if seconds == 0 {
                self.leave_spans();
            }
        }
        if let Some(will) = self.wills.last_mut() {
            will.is_taken_back = !has_will;
        }
        self.link.send(world, &Packet::Disconnect(disconnect));
        world.close(wire);
        self.drop_connection(world.now());
    }

    pub(super) fn read(&mut self, world: &mut World, count: usize) -> Result<(), Violation> {
        for packet in self.link.read(world, count).iter() {
            self.hear(world, &packet?)?;
        }
        if self.link.is_ended(world) {
            if self.link.is_connected {
                return Err(self.violation("the broker has closed its connection"));
            }
            self.drop_connection(world.now());
        }
        Ok(())
    }

    fn hear(&mut self, world: &World, packet: &Packet<'_>) -> Result<(), Violation> {
        let moment = self.moment;
        match packet {
            Packet::ConnAck(connack) => {
                if connack.reason_code.is_error() {
                    return Ok(());
                }
                self.connected(connack.session_present, world.now())?;
            }
            Packet::SubAck(suback) => {
                let is_first = self.asking.take() != Some(Asking::Again);
                let Some(stay) = self.stays.last_mut() else {
                    return Err(self.violation("SUBACK came, and it never had a session"));
                };
                let mut codes = suback.reason_codes.iter();
                if codes.any(ReasonCode::is_error) {
                    // The disk takes nothing, or has taken nothing for a while: then some of it is in force.
                    let is_refused = suback.reason_codes.iter().all(ReasonCode::is_error);
                    if is_refused {
                        stay.asked.pop();
                    }
                    if is_refused && is_first {
                        stay.spans.pop();
                    }
                    self.is_subscribed &= !is_first;
                } else {
                    self.is_unsure = false;
                    let earlier = stay.asked.iter_mut().rev().skip(1);
                    earlier.for_each(|it| it.until = it.until.min(moment));
                    if is_first && let Some(span) = stay.spans.last_mut() {
                        span.since = Some(moment);
                    }
                }
            }
            Packet::UnsubAck(_) => {
                self.is_unsure = false;
                self.asking = None;
                if let Some(stay) = self.stays.last_mut() {
                    let asked = stay.asked.iter_mut();
                    asked.for_each(|it| it.until = it.until.min(moment));
                }
                for span in self.spans() {
                    span.gone = span.gone.min(moment);
                }
            }
            Packet::Publish(publish) => self.take(publish)?,
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_identifier.get());
                self.link
                    .answer(&Packet::PubComp(success(ack.packet_identifier)));
            }
            _ => {}
        }
        Ok(())
    }

    /// CONNACK has come.
    fn connected(&mut self, is_present: bool, now: Instant) -> Result<(), Violation> {
        let may_have_ended = self.may_have_ended || is_over(self.dropped_at, self.expiry_s.0, now);
        match (is_present, self.stays.last()) {
            (true, _) if self.clean_start => {
                // [MQTT-3.2.2-2]
                return Err(self.violation("its session is there in spite of Clean Start"));
            }
            (true, _) if self.must_be_new => {
                return Err(self.violation("its session is there, and had ended"));
            }
            (false, _) if !may_have_ended => return Err(self.violation("its session is gone")),
            (true, Some(last)) if may_have_ended => {
                // The old one, or one of which nothing was heard.
                let spans = last.spans.iter();
                let spans = spans.map(|&span| Span {
                    since: None,
                    ..span
                });
                let stay = Stay {
                    spans: spans.collect(),
                    asked: last.asked.clone(),
                    retained: last.retained.clone(),
                    ..Stay::default()
                };
                self.stays.push(stay);
                self.begin_stay();
            }
            (true, Some(_)) => {}
            _ => {
                self.stays.push(Stay::default());
                self.begin_stay();
                self.is_unsure = false;
            }
        }
        self.settle_wills(is_present, may_have_ended, now);
        self.may_have_ended = false;
        self.expiry_s = (self.asked_expiry_s, self.asked_expiry_s);
        self.link.is_connected = true;
        Ok(())
    }

    fn begin_stay(&mut self) {
        self.is_subscribed = false;
        self.received.clear();
    }

    /// What became of the Will of the last connection that was heard of.
    fn settle_wills(&mut self, is_present: bool, may_have_ended: bool, now: Instant) {
        let is_next = self.wills.len() == 2;
        let mut own = self.wills.pop();
        if let Some(own) = &mut own {
            own.is_heard = true;
        }
        let before = std::mem::replace(&mut self.wills, own.into_iter().collect());
        let Some(before) = before.first().filter(|it| it.is_heard) else {
            return;
        };
        if before.is_taken_back || !before.is_stored {
            return;
        }
        if before.delay_s == 0 || before.is_over || (is_next && !is_present) {
            self.due.push(*before);
        } else if is_present && !may_have_ended && !is_over(self.dropped_at, before.delay_s, now) {
            // [MQTT-3.1.3-9]
            self.void.push(*before);
        }
    }

    /// A message has come.
    fn take(&mut self, publish: &codec::Publish<'_>) -> Result<(), Violation> {
        if !self.link.take(publish, &mut self.received) {
            return Ok(());
        }
        let content = Content::read(publish, VERSION).map_err(|what| self.violation(&what))?;
        let by = self.check_options(&content, publish)?;
        self.late.extend(Late::new(&content, publish, &self.link));
        let stay = self.stays.last_mut().expect("it is connected");
        if content.sort == Sort::Retained {
            stay.retained.insert((content.flow, content.number));
            return Ok(());
        }
        stay.by
            .push((content.publisher, content.flow, content.number, by));
        let got = stay.got.entry((content.publisher, content.flow));
        got.or_default().push(content.number);
        Ok(())
    }

    /// A message came as a SUBSCRIBE of this Session had asked for. By which one.
    fn check_options(
        &self,
        content: &Content,
        publish: &codec::Publish<'_>,
    ) -> Result<u32, Violation> {
        let stay = self.stays.last().expect("it is connected");
        let identifiers = &publish.properties.subscription_identifiers;
        let [identifier] = identifiers.iter().collect::<Vec<_>>()[..] else {
            let what = format!("{content:?} came by {identifiers:?}");
            return Err(self.violation(&what));
        };
        // [MQTT-3.3.4-3]
        let identifier = identifier.get();
        let mut asked = stay.asked.iter();
        let asked = asked.find(|it| it.identifier == identifier);
        let is_right = asked.is_some_and(|asked| {
            // [MQTT-3.8.4-8]
            let qos = match (content.sort, content.flow) {
                (Sort::Counted, 0) => QoS::AtLeastOnce,
                (Sort::Counted, 1) => asked.qos,
                (Sort::Counted, _) => QoS::AtMostOnce,
                _ => publish.qos.min(asked.qos),
            };
            // [MQTT-3.3.1-12], [MQTT-3.3.1-13]: what was retained before comes with it in any case.
            let is_retained = content.sort == Sort::Retained;
            let retain = is_retained && (asked.retain_as_published || publish.retain);
            (publish.qos, publish.retain) == (qos, retain)
        });
        if is_right {
            return Ok(identifier);
        }
        Err(self.violation(&format!(
            "{content:?} came as {:?}, retained: {}, by {identifier} of {:?}",
            publish.qos, publish.retain, stay.asked
        )))
    }

    /// The Will that is retained is not older than the last one that was due.
    pub(super) fn check_retained(&self, payload: &str) -> Result<(), Violation> {
        let number = number(payload).unwrap_or_default();
        let due = self.due.last().map_or(0, |will| will.number);
        if number < due || self.void.iter().any(|will| will.number == number) {
            let what = format!("its Will {number} is retained, {due} was due");
            return Err(self.violation(&what));
        }
        Ok(())
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.link.is_connected && self.asking.is_none() && !self.link.has_answers()
    }

    /// Everything is at rest: what had to come to its present Session has come.
    pub(super) fn check_rest(&self, publishers: &[Client]) -> Result<(), Violation> {
        let Some(stay) = self.stays.last() else {
            return Err(self.violation("it has no session"));
        };
        let mut spans = stay.spans.iter();
        if spans.any(|span| span.since.is_some() && span.until == u64::MAX) {
            // It was sent when it was subscribed to, or came since.
            for (topic, known) in publishers[0].retained.iter().enumerate() {
                if !known.is_known(|value| stay.retained.contains(&(topic, value))) {
                    let what = format!("r/{topic} did not come: {known:?}");
                    return Err(self.violation(&what));
                }
            }
        }
        for (publisher, flow, messages) in flows(publishers) {
            let got = stay.got.get(&(publisher, flow));
            let got: BTreeSet<u32> = got.into_iter().flatten().copied().collect();
            for (number, message) in messages {
                if message.must_come()
                    && !got.contains(number)
                    && let Some(span) = stay.spans.iter().find(|span| span.must_get(message))
                {
                    return Err(self.violation(&format!(
                        "message {number} of flow {flow} of client {publisher} did not come: {message:?}, {span:?}"
                    )));
                }
            }
        }
        Ok(())
    }

    /// What has come, came by a Subscription that was in force when it was published.
    fn check_identifiers(&self, stay: &Stay, publishers: &[Client]) -> Result<(), Violation> {
        for &(publisher, flow, number, identifier) in &stay.by {
            let published = publishers[publisher].published.get(flow);
            let mut asked = stay.asked.iter();
            if let Some(message) = published.and_then(|it| it.get(&number))
                && let Some(asked) = asked.find(|it| it.identifier == identifier)
                && !asked.may_get(message)
            {
                return Err(self.violation(&format!(
                    "message {number} of flow {flow} of client {publisher}, {message:?}, came by {asked:?}"
                )));
            }
        }
        Ok(())
    }

    /// What has come all along.
    pub(super) fn check(&self, publishers: &[Client]) -> Result<(), Violation> {
        for stay in &self.stays {
            self.check_identifiers(stay, publishers)?;
            for (publisher, flow, messages) in flows(publishers) {
                let Some(got) = stay.got.get(&(publisher, flow)) else {
                    continue;
                };
                let what = format!("flow {flow} of client {publisher}");
                let is_once = |it: &Asked| it.qos == QoS::ExactlyOnce;
                let may_always = flow == 0 || !stay.asked.iter().all(is_once);
                let may_repeat =
                    |number| may_always || publishers[publisher].may_repeat(flow, number);
                let may_be_late = |number: u32| {
                    // It may have been published first when nobody was subscribed.
                    let message = messages.get(&number);
                    let must_get = |span: &Span| message.is_some_and(|it| span.must_get(it));
                    publishers[publisher].may_be_late(flow, number)
                        || !stay.spans.iter().any(must_get)
                };
                check_order(got, may_repeat, may_be_late)
                    .map_err(|error| self.violation(&format!("{what}: {error}")))?;
                for number in got {
                    let message = messages.get(number).ok_or_else(|| {
                        self.violation(&format!("{what}: {number} was never sent"))
                    })?;
                    if !stay.spans.iter().any(|span| span.may_get(message)) {
                        return Err(self.violation(&format!(
                            "{what}: {number} came, {message:?}, and it was subscribed {:?}",
                            stay.spans
                        )));
                    }
                }
            }
        }
        self.late
            .iter()
            .try_for_each(|late| late.check(publishers))
            .map_err(|what| self.violation(&what))
    }
}

/// Whether so many seconds have passed by `now`.
fn is_over(since: Instant, seconds: u32, now: Instant) -> bool {
    seconds != u32::MAX && now >= since + Duration::from_secs(seconds.into())
}

/// What was published with QoS 1 and 2: by whom, with which, and all of it.
fn flows(publishers: &[Client]) -> impl Iterator<Item = (usize, usize, &BTreeMap<u32, Published>)> {
    publishers.iter().flat_map(|publisher| {
        let flows = publisher.published.iter().enumerate();
        flows.map(|(flow, messages)| (publisher.index, flow, messages))
    })
}
