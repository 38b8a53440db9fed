//! Clients of persistent Sessions, and publishers whose Sessions end with each connection.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::content::{Content, Sort};
use super::link::{Link, success};
use super::visitor::{OwnWill, Visitor};
use crate::codec::{
    self, Connect, Packet, Publish, PublishHeader, Subscribe, SubscriptionOptions, Unsubscribe,
};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::sim::oracle::Violation;
use crate::sim::random::Random;
use crate::sim::world::World;
use crate::time::Instant;

/// Filter of all messages that are counted.
pub(super) const MESSAGES: &str = "m/#";
/// What is shared by all subscribers. Their Sessions stay, but some unsubscribe and come back: what one of them
/// had must never come to another.
const PAIR: &str = "$share/pair/s/#";
/// Filter of what is retained by Client 0.
pub(super) const RETAINED: &str = "r/#";
/// Filter of all Wills.
const WILLS: &str = "w/#";
/// Topics with a retained message, `r/0` and so on.
pub(super) const RETAINED_TOPICS: usize = 4;
/// Packet Identifiers a Client uses: few, so that they come again soon, or at once.
const IDENTIFIERS: [u16; 2] = [10, 40];
/// Exchanges a Client has under way at most.
const WINDOW: usize = 8;
/// Message Expiry Intervals, of messages that have one.
const LIFETIMES_S: [u32; 2] = [1, 4];

/// What a publication is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// Number so and so of its publisher's messages of that QoS.
    Counted { qos: QoS, number: u32 },
    /// Number so and so of its publisher's messages to the group.
    Shared { qos: QoS, number: u32 },
    /// The message retained at `r/topic`; zero removes it.
    Retained { qos: QoS, topic: usize, value: u32 },
}

impl Kind {
    const fn qos(self) -> QoS {
        match self {
            Self::Counted { qos, .. } | Self::Shared { qos, .. } | Self::Retained { qos, .. } => {
                qos
            }
        }
    }
}

const QOS_OF_PUBLICATIONS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

#[derive(Clone, Copy, Debug)]
struct Flow {
    identifier: u16,
    kind: Kind,
    is_released: bool,
    /// It was under way when a power failure took what was not on the disk yet, which may be part of it. So it is not
    /// known what becomes of its message, whatever is acknowledged.
    is_doubtful: bool,
}

/// What a Client knows of a retained message that it alone writes. Zero is none.
#[derive(Clone, Debug, Default)]
pub(super) struct Retained {
    acknowledged: u32,
    /// What may have come behind that: under way, or refused when it was repeated.
    possible: Vec<u32>,
    is_under_way: bool,
    /// What was acknowledged, at which moments, and what was possible then.
    history: Vec<(u64, Vec<u32>)>,
    /// Values that expire.
    expiring: BTreeMap<u32, Expiring>,
}

/// A retained message that expires.
#[derive(Clone, Copy, Debug)]
struct Expiring {
    lifetime_s: u32,
    begun: Instant,
    acknowledged: Option<Instant>,
}

impl Expiring {
    fn is_over(&self, since: Instant, now: Instant) -> bool {
        now >= since + Duration::from_secs(self.lifetime_s.into())
    }

    fn may_be_over(&self, now: Instant) -> bool {
        self.is_over(self.begun, now)
    }

    fn must_be_over(&self, now: Instant) -> bool {
        self.acknowledged.is_some_and(|it| self.is_over(it, now))
    }
}

impl Retained {
    fn acknowledge(&mut self, value: u32, moment: u64, now: Instant) {
        self.acknowledged = value;
        let mut possible = std::mem::take(&mut self.possible);
        possible.push(value);
        self.history.push((moment, possible));
        if let Some(expiring) = self.expiring.get_mut(&value) {
            expiring.acknowledged.get_or_insert(now);
        }
    }

    /// What was acknowledged after `safe` may be gone.
    fn lose(&mut self, safe: u64) {
        let begun = self.history.partition_point(|(moment, _)| *moment <= safe);
        let lost = self.history.split_off(begun);
        if lost.is_empty() {
            return;
        }
        let last = self.history.last().and_then(|(_, values)| values.last());
        self.acknowledged = last.copied().unwrap_or_default();
        let lost = lost.into_iter().flat_map(|(_, values)| values);
        self.possible.splice(0..0, lost);
    }

    fn lifetime_s(&self, value: u32) -> u32 {
        self.expiring.get(&value).map_or(0, |it| it.lifetime_s)
    }

    fn values(&self) -> impl Iterator<Item = u32> {
        self.possible.iter().copied().chain([self.acknowledged])
    }

    /// Whether this may be what is retained `now`.
    pub(super) fn may_be(&self, value: u32, now: Instant) -> bool {
        let expiring = |value: u32| self.expiring.get(&value);
        if value == 0
            && self
                .values()
                .filter_map(expiring)
                .any(|it| it.may_be_over(now))
        {
            return true;
        }
        let is_over = expiring(value).is_some_and(|it| it.must_be_over(now));
        self.values().any(|it| it == value) && !is_over
    }

    /// Whether one of what may be retained has come, or need not, to who must know.
    pub(super) fn is_known(&self, has_come: impl Fn(u32) -> bool) -> bool {
        self.values()
            .any(|value| value == 0 || self.lifetime_s(value) > 0 || has_come(value))
    }
}

/// A message that was published with QoS 1 or 2.
#[derive(Clone, Copy, Debug)]
pub(super) struct Published {
    /// The moment at which it was sent first.
    pub(super) begun: u64,
    /// When and at which moment it was known to be the broker's.
    pub(super) acknowledged: Option<(u64, Instant)>,
    /// Its Message Expiry Interval; zero: none.
    lifetime_s: u32,
    /// A power failure may have taken it, or what tells a repetition from it.
    may_be_lost: bool,
    may_repeat: bool,
}

impl Published {
    /// Whether all who are subscribed must get it.
    pub(super) const fn must_come(&self) -> bool {
        self.acknowledged.is_some() && self.lifetime_s == 0 && !self.may_be_lost
    }
}

/// A message that expires and has come, as if for the first time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Late {
    content: Content,
    /// When the connection was opened on which it came.
    opened_at: Instant,
    remaining_s: u32,
}

impl Late {
    /// If that is what it is.
    pub(super) fn new(content: &Content, publish: &Publish<'_>, link: &Link) -> Option<Self> {
        let remaining_s = publish.properties.message_expiry_interval_s;
        let remaining_s = remaining_s.filter(|_| !publish.duplicate)?;
        Some(Self {
            content: *content,
            opened_at: link.opened_at(),
            remaining_s,
        })
    }

    /// It had not expired before that [MQTT-3.3.2-5], and what it had left was right [MQTT-3.3.2-6].
    pub(super) fn check(&self, publishers: &[Client]) -> Result<(), String> {
        let content = &self.content;
        let publisher = &publishers[content.publisher];
        let Some(acknowledged) = publisher.acknowledged_at(content) else {
            return Ok(());
        };
        let lifetime = Duration::from_secs(content.lifetime_s.into());
        let waited = self.opened_at.max(acknowledged) - acknowledged;
        let left = lifetime.saturating_sub(waited);
        // It may have had part of a second left.
        if left.is_zero()
            || Duration::from_secs(self.remaining_s.into()) >= left + Duration::from_secs(1)
        {
            return Err(format!("{self:?} came, acknowledged {acknowledged:?}"));
        }
        Ok(())
    }
}

/// A Client whose Session persists, or a publisher whose Session ends with each connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) index: usize,
    /// Counts what Clients do, all over the simulation.
    pub(super) moment: u64,
    is_subscriber: bool,
    /// Its Session ends with its connection, and what is not acknowledged by then is not sent again.
    is_transient: bool,
    /// What it subscribes with. Of QoS 1, even what was published with QoS 2 may come twice.
    qos: QoS,
    pub(super) link: Link,
    /// The broker has said that there is a Session: it must never be gone.
    has_session: bool,
    /// The moment at which it was first said.
    session_since: u64,
    /// The moment at which it was known to be subscribed.
    subscribed: Option<u64>,
    /// The moment at which its Subscriptions last changed.
    subscriptions_since: u64,
    /// Whether it shares as well, as far as it knows.
    is_in_pair: bool,
    is_subscribing: bool,
    flows: VecDeque<Flow>,
    /// When QoS 2 exchanges with these Packet Identifiers last ended, and those of which a power failure may have taken
    /// that: until the next one has, a repetition may be taken for one of the exchange before.
    ended: BTreeMap<u16, u64>,
    stale: BTreeSet<u16>,
    next_identifier: u16,
    identifiers: u16,
    /// Messages of QoS 1 and 2, from 1.
    pub(super) published: [BTreeMap<u32, Published>; 2],
    /// Messages of QoS 0, which may be lost.
    unacknowledged: u32,
    /// Those to the groups.
    shared_begun: u32,
    pub(super) shared_acknowledged: BTreeMap<u32, u64>,
    /// Those of which a power failure may have taken what tells a repetition from them.
    shared_doubtful: BTreeSet<u32>,
    pub(super) refused: u64,
    /// The broker has refused something because of its disk, by now.
    broker_refused: bool,
    /// Messages that may have been refused without this Client having heard it, so that its next ones
    /// were taken before they were sent again.
    may_be_late: [BTreeSet<u32>; 2],
    receive_maximum: usize,
    /// The last value retained anywhere.
    value: u32,
    pub(super) retained: [Retained; RETAINED_TOPICS],
    /// QoS 2 messages received and not released.
    received: BTreeSet<u16>,
    /// What they are, and in which life of the broker they came.
    unreleased: BTreeMap<u16, (Content, u32)>,
    /// What was released, at which moments, since a power failure last took what was not on the disk.
    released: Vec<(u64, Content)>,
    /// What may come again because of such a power failure.
    may_come_again: BTreeSet<(bool, usize, u32)>,
    /// Lives of the broker, and the one in which its Session began.
    pub(super) life: u32,
    session_life: u32,
    /// The life in which it asks for a connection, and the last one in which the answer did not come: its Session may have
    /// begun anew there, of which it has not heard.
    asks_in: Option<u32>,
    unheard_life: u32,
    /// What was taken for something of before such a power failure. The broker goes on with the Packet Identifiers that it
    /// went on with at the start before, if of a Session nothing of the time between is left.
    taken_for_another: BTreeSet<(bool, usize, u32)>,
    /// What came, by publisher and flow.
    got: BTreeMap<(usize, usize), Vec<u32>>,
    /// The same of what is shared.
    got_shared: BTreeMap<(usize, usize), Vec<u32>>,
    /// Wills, by whose they were.
    got_wills: BTreeMap<usize, BTreeSet<u32>>,
    late: Vec<Late>,
}

/// Of a PUBLISH of QoS 0.
pub(super) fn header<'a>(topic_name: &'a str, payload: &'a str) -> PublishHeader<'a> {
    PublishHeader {
        duplicate: false,
        qos: QoS::AtMostOnce,
        retain: false,
        packet_identifier: None,
        topic_name: topic_name.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload: payload.as_bytes(),
    }
}

/// Where messages of QoS 0 are, beside those of [`slot`].
const UNACKNOWLEDGED: usize = 2;

fn slot(qos: QoS) -> usize {
    usize::from(qos == QoS::ExactlyOnce)
}

impl Client {
    pub(super) fn new(index: usize, is_subscriber: bool, random: &mut Random) -> Self {
        Self {
            index,
            moment: 0,
            link: Link::new(*random.pick(&[ProtocolVersion::V5, ProtocolVersion::V311])),
            is_subscriber,
            // Client 0 retains, and has to know what became of it.
            is_transient: !is_subscriber && index != 0 && random.chance(40),
            qos: *random.pick(&[QoS::ExactlyOnce, QoS::ExactlyOnce, QoS::AtLeastOnce]),
            has_session: false,
            session_since: 0,
            subscriptions_since: 0,
            subscribed: (!is_subscriber).then_some(0),
            is_in_pair: false,
            is_subscribing: false,
            flows: VecDeque::new(),
            ended: BTreeMap::new(),
            stale: BTreeSet::new(),
            next_identifier: 1,
            identifiers: *random.pick(&IDENTIFIERS),
            published: Default::default(),
            unacknowledged: 0,
            shared_begun: 0,
            shared_acknowledged: BTreeMap::new(),
            shared_doubtful: BTreeSet::new(),
            refused: 0,
            broker_refused: false,
            may_be_late: Default::default(),
            receive_maximum: 0,
            value: 0,
            retained: Default::default(),
            received: BTreeSet::new(),
            unreleased: BTreeMap::new(),
            released: Vec::new(),
            may_come_again: BTreeSet::new(),
            life: 0,
            session_life: 0,
            asks_in: None,
            unheard_life: 0,
            taken_for_another: BTreeSet::new(),
            got: BTreeMap::new(),
            got_shared: BTreeMap::new(),
            got_wills: BTreeMap::new(),
            late: Vec::new(),
        }
    }

    fn violation(&self, what: &str) -> Violation {
        Violation(format!("client {}: {what}", self.index))
    }

    /// Its Client Identifier.
    pub(super) fn name(&self) -> String {
        format!("client-{}", self.index)
    }

    /// What the broker has done to anybody.
    pub(super) fn observe(&mut self, world: &World) {
        self.broker_refused |= world.sum(|counters| counters.refused_disk_stalled) > 0;
    }

    /// The connection is gone.
    pub(super) fn drop_connection(&mut self) {
        self.link.drop();
        self.is_subscribing = false;
        if self.is_transient {
            self.flows.clear();
        }
    }

    /// The power has failed, and what came after the moment `safe` may be gone with it. Whether Subscriptions may be.
    pub(super) fn lose(&mut self, safe: u64) -> bool {
        if self.session_since > safe {
            self.has_session = false;
        }
        let may_lose_subscriptions =
            self.is_subscriber && self.subscribed.is_some() && self.subscriptions_since > safe;
        if may_lose_subscriptions {
            self.subscribed = None;
            self.is_in_pair = false;
        }
        for (flow, published) in self.published.iter_mut().enumerate() {
            for message in published.values_mut() {
                match message.acknowledged {
                    Some((moment, _)) if moment > safe => message.may_be_lost = true,
                    Some(_) => continue,
                    // What came of it may be gone, and that it was taken not.
                    None => message.may_be_lost |= flow == slot(QoS::ExactlyOnce),
                }
                message.may_repeat = true;
            }
        }
        let ended = self.ended.iter().filter(|(_, moment)| **moment > safe);
        self.stale.extend(ended.map(|(identifier, _)| *identifier));
        for flow in &mut self.flows {
            flow.is_doubtful |= flow.kind.qos() == QoS::ExactlyOnce;
            if let Kind::Shared { number, .. } = flow.kind {
                self.shared_doubtful.insert(number);
            }
        }
        let doubtful = &mut self.shared_doubtful;
        self.shared_acknowledged.retain(|&number, moment| {
            let is_safe = *moment <= safe;
            if !is_safe {
                doubtful.insert(number);
            }
            is_safe
        });
        self.retained.iter_mut().for_each(|it| it.lose(safe));
        let released = self.released.drain(..).filter(|(moment, _)| *moment > safe);
        let doubtful = released.map(|(_, content)| content);
        let doubtful = doubtful.chain(self.unreleased.values().map(|it| it.0));
        self.may_come_again.extend(doubtful.map(|it| it.key()));
        may_lose_subscriptions
    }

    /// Somebody else may have lost its Subscriptions while messages were under way.
    pub(super) fn lose_under_way(&mut self) {
        for message in self.published.iter_mut().flat_map(BTreeMap::values_mut) {
            message.may_be_lost |= message.acknowledged.is_none();
        }
        self.flows.iter_mut().for_each(|it| it.is_doubtful = true);
    }

    fn connect(&mut self, world: &mut World, random: &mut Random) {
        self.link.open(world, random);
        if let Some(life) = self.asks_in.replace(self.life) {
            self.unheard_life = life;
        }
        let identifier = self.name();
        let mut connect = Connect::new(self.link.version(), &identifier);
        connect.clean_start = self.is_transient;
        connect.properties.session_expiry_interval = (!self.is_transient).then_some(u32::MAX);
        self.link.send(world, &Packet::Connect(connect));
    }

    /// Does one thing.
    pub(super) fn act(&mut self, world: &mut World, random: &mut Random, may_publish: bool) {
        if self.link.wire().is_none() {
            return self.connect(world, random);
        }
        if random.one_in(150) {
            self.link.lose(world, random);
            return self.drop_connection();
        }
        if !self.link.is_connected {
            return;
        }
        if self.link.answer_one(world) {
            return;
        }
        let options = SubscriptionOptions::new(self.qos);
        if self.subscribed.is_none() && !self.is_subscribing {
            let filters = [MESSAGES, PAIR, WILLS].map(|filter| (filter, options));
            self.subscribe(world, &filters);
        } else if may_publish && !self.is_subscribing && self.may_leave_pair() && random.one_in(25)
        {
            if self.is_in_pair {
                let filters = [PAIR];
                let unsubscribe = Unsubscribe::new(self.new_identifier(), &filters);
                self.link.send(world, &Packet::Unsubscribe(unsubscribe));
                self.is_subscribing = true;
            } else {
                self.subscribe(world, &[(PAIR, options)]);
            }
        } else if may_publish && self.flows.len() < WINDOW.min(self.receive_maximum) {
            self.begin(world, random);
        }
    }

    /// Whether it unsubscribes from what is shared now and then. One stays, so that there is somebody.
    const fn may_leave_pair(&self) -> bool {
        self.is_subscriber && self.index != 1
    }

    fn new_identifier(&mut self) -> PacketIdentifier {
        PacketIdentifier::new(self.identifier()).expect("from 1")
    }

    fn subscribe(&mut self, world: &mut World, filters: &[(&str, SubscriptionOptions)]) {
        let subscribe = Subscribe::new(self.new_identifier(), filters);
        self.link.send(world, &Packet::Subscribe(subscribe));
        self.is_subscribing = true;
    }

    /// Publishes something new.
    fn begin(&mut self, world: &mut World, random: &mut Random) {
        if random.chance(15) {
            self.unacknowledged += 1;
            let number = self.unacknowledged;
            let topic = format!("m/{}/{UNACKNOWLEDGED}", self.index);
            return self.send_publish(world, &header(&topic, &Content::payload(number, 0)));
        }
        let is_retained = self.index == 0 && random.chance(40);
        let topic = random.below(RETAINED_TOPICS);
        let kind = if is_retained {
            let known = &mut self.retained[topic];
            if known.is_under_way {
                return;
            }
            self.value += 1;
            let value = if random.chance(25) { 0 } else { self.value };
            known.is_under_way = true;
            known.possible.push(value);
            if value != 0 && self.link.version().is_v5() && random.chance(25) {
                let expiring = Expiring {
                    lifetime_s: *random.pick(&LIFETIMES_S),
                    begun: world.now(),
                    acknowledged: None,
                };
                known.expiring.insert(value, expiring);
            }
            let qos = *random.pick(&QOS_OF_PUBLICATIONS);
            Kind::Retained { qos, topic, value }
        } else if random.chance(25) {
            self.shared_begun += 1;
            Kind::Shared {
                qos: *random.pick(&QOS_OF_PUBLICATIONS),
                number: self.shared_begun,
            }
        } else {
            let qos = *random.pick(&QOS_OF_PUBLICATIONS);
            let published = &mut self.published[slot(qos)];
            let number = published.len() as u32 + 1;
            let is_lasting = !self.link.version().is_v5() || random.chance(85);
            let message = Published {
                begun: self.moment,
                acknowledged: None,
                lifetime_s: if is_lasting {
                    0
                } else {
                    *random.pick(&LIFETIMES_S)
                },
                may_be_lost: false,
                may_repeat: false,
            };
            published.insert(number, message);
            Kind::Counted { qos, number }
        };
        let flow = Flow {
            identifier: self.identifier(),
            kind,
            is_released: false,
            is_doubtful: false,
        };
        self.flows.push_back(flow);
        self.publish(world, flow, false);
    }

    fn identifier(&mut self) -> u16 {
        loop {
            let identifier = self.next_identifier;
            self.next_identifier = identifier % self.identifiers + 1;
            if self.flows.iter().all(|flow| flow.identifier != identifier) {
                return identifier;
            }
        }
    }

    fn publish(&self, world: &mut World, flow: Flow, duplicate: bool) {
        let mut lifetime_s = 0;
        let (qos, topic, payload) = match flow.kind {
            Kind::Counted { qos, number } => {
                let topic = format!("m/{}/{}", self.index, slot(qos));
                lifetime_s = self.published[slot(qos)][&number].lifetime_s;
                (qos, topic, Content::payload(number, lifetime_s))
            }
            Kind::Shared { qos, number } => {
                let topic = format!("s/{}/{}", self.index, slot(qos));
                (qos, topic, Content::payload(number, 0))
            }
            Kind::Retained { qos, topic, value } => {
                lifetime_s = self.retained[topic].lifetime_s(value);
                let payload = if value == 0 {
                    String::new()
                } else {
                    Content::payload(value, lifetime_s)
                };
                (qos, format!("r/{topic}"), payload)
            }
        };
        let header = PublishHeader {
            duplicate,
            qos,
            retain: matches!(flow.kind, Kind::Retained { .. }),
            packet_identifier: PacketIdentifier::new(flow.identifier),
            message_expiry_interval_s: (lifetime_s > 0).then_some(lifetime_s),
            ..header(&topic, &payload)
        };
        self.send_publish(world, &header);
    }

    fn send_publish(&self, world: &mut World, header: &PublishHeader<'_>) {
        let mut bytes = Vec::new();
        codec::encode_publish(self.link.version(), header, &mut bytes);
        self.link.send_bytes(world, &bytes);
    }

    pub(super) fn read(&mut self, world: &mut World, count: usize) -> Result<(), Violation> {
        for packet in self.link.read(world, count).iter() {
            self.hear(world, &packet?)?;
        }
        if self.link.is_ended(world) {
            self.drop_connection();
        }
        Ok(())
    }

    fn hear(&mut self, world: &mut World, packet: &Packet<'_>) -> Result<(), Violation> {
        match packet {
            Packet::ConnAck(connack) => {
                if connack.reason_code.is_error() {
                    return Ok(());
                }
                if self.has_session && !connack.session_present {
                    return Err(self.violation("its session is gone"));
                }
                self.asks_in = None;
                if !connack.session_present {
                    self.unheard_life = 0;
                    // [MQTT-3.2.2-5]
                    self.received.clear();
                    self.unreleased.clear();
                    self.session_life = self.life;
                }
                if !self.has_session {
                    self.session_since = self.moment;
                }
                self.has_session = !self.is_transient;
                self.link.is_connected = true;
                let receive_maximum = connack.properties.receive_maximum;
                self.receive_maximum = receive_maximum.map_or(WINDOW, |it| it.get().into());
                self.observe(world);
                for flow in &mut self.flows {
                    let is_taken_for_another = flow.kind.qos() == QoS::ExactlyOnce
                        && !flow.is_released
                        && self.stale.contains(&flow.identifier);
                    flow.is_doubtful |= is_taken_for_another;
                    if is_taken_for_another
                        && let Kind::Counted { qos, number } = flow.kind
                        && let Some(message) = self.published[slot(qos)].get_mut(&number)
                    {
                        message.may_be_lost = true;
                    }
                }
                for flow in self.flows.clone() {
                    if let Kind::Counted { qos, number } = flow.kind
                        && self.broker_refused
                        && self.link.version().is_v5()
                    {
                        self.may_be_late[slot(qos)].insert(number);
                    }
                    if flow.is_released {
                        let identifier = PacketIdentifier::new(flow.identifier).expect("from 1");
                        self.link.answer(&Packet::PubRel(success(identifier)));
                    } else {
                        self.publish(world, flow, true);
                    }
                }
            }
            Packet::SubAck(suback) => {
                self.is_subscribing = false;
                let is_taken = suback.reason_codes.iter().all(|code| !code.is_error());
                if is_taken {
                    self.subscribed.get_or_insert(self.moment);
                }
                self.is_in_pair |= is_taken;
                self.subscriptions_since = self.moment;
            }
            Packet::UnsubAck(_) => {
                self.is_subscribing = false;
                self.is_in_pair = false;
                self.subscriptions_since = self.moment;
            }
            Packet::Publish(publish) => self.take(publish)?,
            Packet::PubRel(ack) => {
                let identifier = ack.packet_identifier.get();
                self.received.remove(&identifier);
                let content = self.unreleased.remove(&identifier);
                self.released.extend(content.map(|it| (self.moment, it.0)));
                self.link
                    .answer(&Packet::PubComp(success(ack.packet_identifier)));
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                let is_refused = ack.reason_code.is_error();
                self.end(ack.packet_identifier.get(), is_refused, world.now());
            }
            Packet::PubRec(ack) if ack.reason_code.is_error() => {
                self.end(ack.packet_identifier.get(), true, world.now());
            }
            Packet::PubRec(ack) => {
                let identifier = ack.packet_identifier.get();
                let mut flows = self.flows.iter_mut();
                if let Some(flow) = flows.find(|flow| flow.identifier == identifier) {
                    flow.is_released = true;
                    // From here on the message is the broker's.
                    let flow = *flow;
                    self.acknowledged(flow, world.now());
                }
                self.link
                    .answer(&Packet::PubRel(success(ack.packet_identifier)));
            }
            _ => {}
        }
        Ok(())
    }

    /// An exchange that this Client began is over.
    fn end(&mut self, identifier: u16, is_refused: bool, now: Instant) {
        let mut flows = self.flows.iter();
        let found = flows.position(|flow| flow.identifier == identifier);
        let Some(flow) = found.and_then(|index| self.flows.remove(index)) else {
            return;
        };
        if flow.kind.qos() == QoS::ExactlyOnce {
            self.ended.insert(identifier, self.moment);
            self.stale.remove(&identifier);
        }
        if let Kind::Retained { topic, .. } = flow.kind {
            self.retained[topic].is_under_way = false;
        }
        if is_refused {
            self.refused += 1;
        } else {
            self.acknowledged(flow, now);
        }
    }

    /// The broker has taken a message.
    fn acknowledged(&mut self, flow: Flow, now: Instant) {
        match flow.kind {
            Kind::Counted { qos, number } => {
                if let Some(message) = self.published[slot(qos)].get_mut(&number) {
                    message.acknowledged.get_or_insert((self.moment, now));
                }
            }
            _ if flow.is_doubtful => {}
            Kind::Shared { number, .. } => {
                self.shared_acknowledged
                    .entry(number)
                    .or_insert(self.moment);
            }
            Kind::Retained { topic, value, .. } => {
                self.retained[topic].acknowledge(value, self.moment, now);
            }
        }
    }

    /// When it was known that a message of this Client that expires was the broker's.
    fn acknowledged_at(&self, content: &Content) -> Option<Instant> {
        if content.sort == Sort::Retained {
            let expiring = &self.retained[content.flow].expiring;
            return expiring.get(&content.number)?.acknowledged;
        }
        let published = self.published.get(content.flow)?;
        let (_, at) = published.get(&content.number)?.acknowledged?;
        Some(at)
    }

    /// A message has come.
    fn take(&mut self, publish: &Publish<'_>) -> Result<(), Violation> {
        if !self.link.take(publish, &mut self.received) {
            let identifier = publish.packet_identifier.map_or(0, PacketIdentifier::get);
            // What came before its Session ever outlived the broker has places of its own.
            if let Some((held, life)) = self.unreleased.get(&identifier)
                && (*life > self.session_life || *life < self.unheard_life)
                && let Ok(content) = Content::read(publish, self.link.version())
                && content.key() != held.key()
                && self.may_come_again.contains(&held.key())
            {
                self.taken_for_another.insert(content.key());
            }
            return Ok(());
        }
        let version = self.link.version();
        let content = Content::read(publish, version).map_err(|what| self.violation(&what))?;
        if (content.flow == UNACKNOWLEDGED) != publish.packet_identifier.is_none() {
            return Err(self.violation(&format!("{content:?} came with {:?}", publish.qos)));
        }
        self.late.extend(Late::new(&content, publish, &self.link));
        if publish.qos == QoS::ExactlyOnce
            && let Some(identifier) = publish.packet_identifier
        {
            let held = (content, self.life);
            self.unreleased.insert(identifier.get(), held);
        }
        let Content {
            publisher,
            flow,
            number,
            ..
        } = content;
        let got = match content.sort {
            Sort::Counted => &mut self.got,
            Sort::Shared => &mut self.got_shared,
            Sort::Will => {
                self.got_wills.entry(publisher).or_default().insert(number);
                return Ok(());
            }
            Sort::Retained => return Err(self.violation("something retained has come")),
        };
        got.entry((publisher, flow)).or_default().push(number);
        Ok(())
    }

    pub(super) fn is_subscribed(&self) -> bool {
        self.subscribed.is_some()
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.link.is_connected
            && self.is_subscribed()
            && self.flows.is_empty()
            && !self.link.has_answers()
    }

    /// Whether a message may be routed twice, because a power failure took what told of the first time.
    pub(super) fn may_repeat(&self, flow: usize, number: u32) -> bool {
        let message = self.published[flow].get(&number);
        message.is_some_and(|it| it.may_repeat)
    }

    /// Whether a message may come first behind later ones of its flow: refused, and sent again; or expired on its way,
    /// before a crash, and sent again; or on its way when the Subscription was lost.
    pub(super) fn may_be_late(&self, flow: usize, number: u32) -> bool {
        let message = self.published[flow].get(&number);
        self.may_be_late[flow].contains(&number)
            || message.is_some_and(|it| it.lifetime_s > 0 || it.may_be_lost)
    }

    /// Whether a QoS 2 message to the pair may come twice, because a power failure took what told of the first time.
    pub(super) fn may_share_again(&self, number: u32) -> bool {
        self.shared_doubtful.contains(&number)
    }

    /// The same of what came to this subscriber, or did not come as far as the broker knows then.
    pub(super) fn may_get_again(&self, publisher: usize, number: u32, is_shared: bool) -> bool {
        self.may_come_again
            .contains(&(is_shared, publisher, number))
    }

    /// Whether a message that is shared came to it and was taken for another one.
    pub(super) fn has_mistaken(&self, publisher: usize, number: u32) -> bool {
        self.taken_for_another.contains(&(true, publisher, number))
    }

    /// Messages of its own that were acknowledged.
    pub(super) fn acknowledged_count(&self) -> u64 {
        let messages = self.published.iter().flat_map(BTreeMap::values);
        let own = messages.filter(|it| it.acknowledged.is_some()).count();
        (own + self.shared_acknowledged.len()) as u64
    }

    /// What came to it of what is shared: in which flow of that publisher, and all of it. `true`: none of it may
    /// have come before.
    pub(super) fn shared_from(&self, publisher: usize) -> impl Iterator<Item = (bool, &[u32])> {
        (0..2).filter_map(move |flow| {
            let got = self.got_shared.get(&(publisher, flow))?;
            // Of QoS 1 a member may be sent what no disk has yet, and after a crash another one gets it.
            Some((flow == 1 && self.qos == QoS::ExactlyOnce, got.as_slice()))
        })
    }

    /// Everything that was acknowledged has come to this subscriber, as often as it may, in order. How much has come.
    pub(super) fn check(
        &self,
        publishers: &[Self],
        visitors: &[Visitor],
    ) -> Result<u64, Violation> {
        if !self.is_subscriber {
            return Ok(0);
        }
        let mut count = 0;
        for publisher in publishers {
            let name = |qos: usize| format!("QoS {qos} from client {}", publisher.index);
            let got = self.got.get(&(publisher.index, UNACKNOWLEDGED));
            if let Some(got) = got
                && !got.is_sorted_by(|one, next| one < next)
            {
                return Err(self.violation(&format!("{}: {got:?}", name(0))));
            }
            for flow in 0..2 {
                let got = self.got.get(&(publisher.index, flow));
                let got = got.map_or(&[][..], Vec::as_slice);
                count += got.len() as u64;
                let may_repeat = |number| {
                    flow == 0
                        || self.qos == QoS::AtLeastOnce
                        || publisher.may_repeat(flow, number)
                        || self.may_get_again(publisher.index, number, false)
                };
                let may_be_late = |number| publisher.may_be_late(flow, number);
                check_order(got, may_repeat, may_be_late)
                    .and_then(|()| {
                        let key = |number| (false, publisher.index, number);
                        let is_excused =
                            |number| flow == 1 && self.taken_for_another.contains(&key(number));
                        check_complete(got, &publisher.published[flow], is_excused)
                    })
                    .map_err(|what| self.violation(&format!("{}: {what}", name(flow + 1))))?;
            }
        }
        let late = self.late.iter().try_for_each(|it| it.check(publishers));
        late.map_err(|what| self.violation(&what))?;
        for visitor in visitors {
            self.check_wills(visitor)?;
        }
        Ok(count)
    }

    fn check_wills(&self, visitor: &Visitor) -> Result<(), Violation> {
        let got = self.got_wills.get(&visitor.index);
        let has_come = |will: &OwnWill| got.is_some_and(|it| it.contains(&will.number));
        let subscribed = self.subscribed.unwrap_or(u64::MAX);
        for will in &visitor.due {
            let key = (false, visitor.index, will.number);
            let is_excused = self.taken_for_another.contains(&key);
            if subscribed < will.asked && !has_come(will) && !is_excused {
                return Err(self.violation(&format!("{will:?} of {} did not come", visitor.index)));
            }
        }
        match visitor.void.iter().find(|will| has_come(will)) {
            Some(will) => Err(self.violation(&format!("{will:?} of {} came", visitor.index))),
            None => Ok(()),
        }
    }
}

/// Whether what one subscriber got of one flow came in order, once if it may not be repeated.
pub(super) fn check_order(
    got: &[u32],
    may_repeat: impl Fn(u32) -> bool,
    may_be_late: impl Fn(u32) -> bool,
) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for &number in got {
        let is_new = seen.last().is_none_or(|&last| last < number);
        if !seen.insert(number) {
            if !may_repeat(number) {
                return Err(format!("{number} came twice"));
            }
        } else if !is_new && !may_be_late(number) {
            return Err(format!("{number} came late: {got:?}"));
        }
    }
    Ok(())
}

/// Whether it was sent at all, and all of it came.
fn check_complete(
    got: &[u32],
    published: &BTreeMap<u32, Published>,
    is_excused: impl Fn(u32) -> bool,
) -> Result<(), String> {
    if let Some(number) = got.iter().find(|&number| !published.contains_key(number)) {
        return Err(format!("{number} was never sent"));
    }
    let seen: BTreeSet<u32> = got.iter().copied().collect();
    let mut missing = published
        .iter()
        .filter(|(number, message)| message.must_come() && !seen.contains(number))
        .filter(|(number, _)| !is_excused(**number));
    match missing.next() {
        Some((number, _)) => Err(format!("{number} was acknowledged and did not come")),
        None => Ok(()),
    }
}
