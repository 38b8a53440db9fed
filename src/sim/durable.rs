//! A broker that is killed, loses power, and finds its disk full, failing or rotten, again and again,
//! and comes back with another number of shards.
//!
//! Clients of persistent Sessions publish and subscribe all along. In the end everything that was
//! acknowledged must have come: QoS 2 once, and each publisher's messages in their order; to one member
//! of a group what is shared; no retained message may be older than the last one that was acknowledged.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use super::disk::{Disk, Faults};
use super::durable_group::GroupMember;
use super::durable_link::{Link, success};
use super::oracle::Violation;
use super::random::Random;
use super::simulation::describe;
use super::world::{Event, Pace, World, split_packet};
use crate::codec::{
    self, Connect, Packet, PublishHeader, Subscribe, SubscriptionOptions, Unsubscribe,
};
use crate::config::Durability;
use crate::journal::{Lsn, next_frame};
use crate::key::PacketIdentifier;
use crate::limits::{DISK_PATIENCE, Limits};
use crate::message::{ProtocolVersion, QoS};
use crate::policy::Settings;
use crate::time::Instant;
use crate::wal::{OpenError, SEGMENT_HEADER_SIZE, SegmentName, Store, StoreOptions};

/// Filter of all messages that are counted.
const MESSAGES: &str = "m/#";
/// What is shared by all subscribers. Their Sessions stay, but some unsubscribe and come back: what one of them
/// had must never come to another.
const PAIR: &str = "$share/pair/s/#";
/// Topics with a retained message, `r/0` and so on.
const RETAINED_TOPICS: usize = 4;
/// Packet Identifiers a Client uses: few, so that they come again soon.
const IDENTIFIERS: u16 = 40;
/// Exchanges a Client has under way at most.
const WINDOW: usize = 8;
/// Members of the group, one of which stays.
const MEMBERS: usize = 4;
/// Rounds within which everything must have come to rest.
const REST_ROUNDS: usize = 20_000;

/// What a simulation was like.
#[derive(Clone, Copy, Debug, Default)]
pub struct DurableReport {
    /// Tells two runs apart.
    pub hash: u64,
    /// Times the broker ended and came back.
    pub crashes: u64,
    /// Messages that were acknowledged.
    pub acknowledged: u64,
    /// Messages that were refused because of the disk.
    pub refused: u64,
    /// Deliveries that were checked.
    pub deliveries: u64,
    /// Syncs of the disk.
    pub syncs: u64,
    /// Times damage was made, which the broker noticed.
    pub damages: u64,
}

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

const QOS_OF_PUBLICATIONS: [QoS; 2] = [QoS::AtLeastOnce, QoS::ExactlyOnce];

#[derive(Clone, Copy, Debug)]
struct Flow {
    identifier: u16,
    kind: Kind,
    is_released: bool,
}

/// What a Client knows of a retained message that it alone writes. Zero is none.
#[derive(Clone, Debug, Default)]
struct Retained {
    acknowledged: u32,
    /// What may have come behind that: under way, or refused when it was repeated.
    possible: Vec<u32>,
    is_under_way: bool,
}

impl Retained {
    fn acknowledge(&mut self, value: u32) {
        self.acknowledged = value;
        self.possible.clear();
    }
}

/// A Client whose Session persists, or a publisher whose Session ends with each connection.
#[derive(Debug)]
struct Client {
    index: usize,
    is_subscriber: bool,
    /// Its Session ends with its connection, and what is not acknowledged by then is not sent again.
    is_transient: bool,
    /// What it subscribes with. Of QoS 1, even what was published with QoS 2 may come twice.
    qos: QoS,
    link: Link,
    /// The broker has said that there is a Session: it must never be gone.
    has_session: bool,
    is_subscribed: bool,
    /// Whether it shares as well, as far as it knows.
    is_in_pair: bool,
    is_subscribing: bool,
    flows: VecDeque<Flow>,
    next_identifier: u16,
    /// Messages begun, of QoS 1 and 2.
    begun: [u32; 2],
    /// Messages of QoS 0, which may be lost.
    unacknowledged: u32,
    acknowledged: [BTreeSet<u32>; 2],
    /// The same of those to the group.
    shared_begun: u32,
    shared_acknowledged: BTreeSet<u32>,
    refused: u64,
    /// The broker has refused something because of its disk, by now.
    broker_refused: bool,
    /// Messages that may have been refused without this Client having heard it, so that its next ones
    /// were taken before they were sent again.
    may_be_late: [BTreeSet<u32>; 2],
    receive_maximum: usize,
    /// The last value retained anywhere.
    value: u32,
    retained: [Retained; RETAINED_TOPICS],
    /// QoS 2 messages received and not released.
    received: BTreeSet<u16>,
    /// What came, by publisher and QoS.
    got: BTreeMap<(usize, usize), Vec<u32>>,
    /// The same of what is shared.
    got_shared: BTreeMap<(usize, usize), Vec<u32>>,
}

/// The payload of message `number`, of sizes that fill sectors and segments in every way, and from which messages
/// go from shard to shard by themselves or with others.
fn filled(number: u32) -> String {
    let filler = "x".repeat(number as usize * 37 % 700);
    format!("{number} {filler}")
}

/// Of a PUBLISH of QoS 0.
fn header<'a>(topic_name: &'a str, payload: &'a str) -> PublishHeader<'a> {
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
    fn new(index: usize, is_subscriber: bool, random: &mut Random) -> Self {
        Self {
            index,
            link: Link::new(*random.pick(&[ProtocolVersion::V5, ProtocolVersion::V311])),
            is_subscriber,
            // Client 0 retains, and has to know what became of it.
            is_transient: !is_subscriber && index != 0 && random.chance(40),
            qos: *random.pick(&[QoS::ExactlyOnce, QoS::ExactlyOnce, QoS::AtLeastOnce]),
            has_session: false,
            is_subscribed: !is_subscriber,
            is_in_pair: false,
            is_subscribing: false,
            flows: VecDeque::new(),
            next_identifier: 1,
            begun: [0; 2],
            unacknowledged: 0,
            acknowledged: Default::default(),
            shared_begun: 0,
            shared_acknowledged: BTreeSet::new(),
            refused: 0,
            broker_refused: false,
            may_be_late: Default::default(),
            receive_maximum: 0,
            value: 0,
            retained: Default::default(),
            received: BTreeSet::new(),
            got: BTreeMap::new(),
            got_shared: BTreeMap::new(),
        }
    }

    fn violation(&self, what: &str) -> Violation {
        Violation(format!("client {}: {what}", self.index))
    }

    /// What the broker has done to anybody.
    fn observe(&mut self, world: &World) {
        self.broker_refused |= world.sum(|counters| counters.refused_disk_stalled) > 0;
    }

    /// The connection is gone.
    fn drop_connection(&mut self) {
        self.link.drop();
        self.is_subscribing = false;
        if self.is_transient {
            self.flows.clear();
        }
    }

    fn connect(&mut self, world: &mut World, random: &mut Random) {
        self.link.open(world, random);
        let identifier = format!("client-{}", self.index);
        let mut connect = Connect::new(self.link.version(), &identifier);
        connect.clean_start = self.is_transient;
        connect.properties.session_expiry_interval = (!self.is_transient).then_some(u32::MAX);
        self.link.send(world, &Packet::Connect(connect));
    }

    /// Does one thing.
    fn act(&mut self, world: &mut World, random: &mut Random, may_publish: bool) {
        let Some(wire) = self.link.wire() else {
            return self.connect(world, random);
        };
        if random.one_in(150) {
            // Or the broker finds out only when it comes back.
            if random.chance(70) {
                world.cut(wire, random);
            }
            return self.drop_connection();
        }
        if !self.link.is_connected {
            return;
        }
        if self.link.answer_one(world) {
            return;
        }
        let options = SubscriptionOptions::new(self.qos);
        if !self.is_subscribed && !self.is_subscribing {
            self.subscribe(world, &[(MESSAGES, options), (PAIR, options)]);
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
            return self.send_publish(world, &header(&topic, &filled(number)));
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
            self.begun[slot(qos)] += 1;
            let number = self.begun[slot(qos)];
            Kind::Counted { qos, number }
        };
        let flow = Flow {
            identifier: self.identifier(),
            kind,
            is_released: false,
        };
        self.flows.push_back(flow);
        self.publish(world, flow, false);
    }

    fn identifier(&mut self) -> u16 {
        loop {
            let identifier = self.next_identifier;
            self.next_identifier = identifier % IDENTIFIERS + 1;
            if self.flows.iter().all(|flow| flow.identifier != identifier) {
                return identifier;
            }
        }
    }

    fn publish(&self, world: &mut World, flow: Flow, duplicate: bool) {
        let (qos, topic, payload) = match flow.kind {
            Kind::Counted { qos, number } => {
                let topic = format!("m/{}/{}", self.index, slot(qos));
                (qos, topic, filled(number))
            }
            Kind::Shared { qos, number } => {
                let topic = format!("s/{}/{}", self.index, slot(qos));
                (qos, topic, filled(number))
            }
            Kind::Retained { qos, topic, value } => {
                let payload = if value == 0 {
                    String::new()
                } else {
                    value.to_string()
                };
                (qos, format!("r/{topic}"), payload)
            }
        };
        let header = PublishHeader {
            duplicate,
            qos,
            retain: matches!(flow.kind, Kind::Retained { .. }),
            packet_identifier: PacketIdentifier::new(flow.identifier),
            ..header(&topic, &payload)
        };
        self.send_publish(world, &header);
    }

    fn send_publish(&self, world: &mut World, header: &PublishHeader<'_>) {
        let mut bytes = Vec::new();
        codec::encode_publish(self.link.version(), header, &mut bytes);
        self.link.send_bytes(world, &bytes);
    }

    fn read(&mut self, world: &mut World, count: usize) -> Result<(), Violation> {
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
                self.has_session = !self.is_transient;
                self.link.is_connected = true;
                let receive_maximum = connack.properties.receive_maximum;
                self.receive_maximum = receive_maximum.map_or(WINDOW, |it| it.get().into());
                self.observe(world);
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
                self.is_subscribed |= is_taken;
                self.is_in_pair |= is_taken;
            }
            Packet::UnsubAck(_) => {
                self.is_subscribing = false;
                self.is_in_pair = false;
            }
            Packet::Publish(publish) => self.take(publish)?,
            Packet::PubRel(ack) => {
                self.received.remove(&ack.packet_identifier.get());
                self.link
                    .answer(&Packet::PubComp(success(ack.packet_identifier)));
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                self.end(ack.packet_identifier.get(), ack.reason_code.is_error());
            }
            Packet::PubRec(ack) if ack.reason_code.is_error() => {
                self.end(ack.packet_identifier.get(), true);
            }
            Packet::PubRec(ack) => {
                let identifier = ack.packet_identifier.get();
                let mut flows = self.flows.iter_mut();
                if let Some(flow) = flows.find(|flow| flow.identifier == identifier) {
                    flow.is_released = true;
                    // From here on the message is the broker's.
                    match flow.kind {
                        Kind::Counted { qos, number } => {
                            self.acknowledged[slot(qos)].insert(number);
                        }
                        Kind::Shared { number, .. } => {
                            self.shared_acknowledged.insert(number);
                        }
                        Kind::Retained { topic, value, .. } => {
                            self.retained[topic].acknowledge(value);
                        }
                    }
                }
                self.link
                    .answer(&Packet::PubRel(success(ack.packet_identifier)));
            }
            _ => {}
        }
        Ok(())
    }

    /// An exchange that this Client began is over.
    fn end(&mut self, identifier: u16, is_refused: bool) {
        let found = self
            .flows
            .iter()
            .position(|flow| flow.identifier == identifier);
        let Some(flow) = found.and_then(|index| self.flows.remove(index)) else {
            return;
        };
        self.refused += u64::from(is_refused);
        match flow.kind {
            Kind::Counted { qos, number } if !is_refused => {
                self.acknowledged[slot(qos)].insert(number);
            }
            Kind::Shared { number, .. } if !is_refused => {
                self.shared_acknowledged.insert(number);
            }
            Kind::Counted { .. } | Kind::Shared { .. } => {}
            Kind::Retained { topic, value, .. } => {
                let known = &mut self.retained[topic];
                known.is_under_way = false;
                if !is_refused {
                    known.acknowledge(value);
                }
            }
        }
    }

    /// A message has come.
    fn take(&mut self, publish: &codec::Publish<'_>) -> Result<(), Violation> {
        if let Some(packet_identifier) = publish.packet_identifier {
            let ack = success(packet_identifier);
            if publish.qos == QoS::AtLeastOnce {
                self.link.answer(&Packet::PubAck(ack));
            } else {
                self.link.answer(&Packet::PubRec(ack));
                if !self.received.insert(packet_identifier.get()) {
                    return Ok(());
                }
            }
        }
        let mut levels = publish.topic_name.split('/');
        let is_shared = levels.next() == Some("s");
        let mut number = || levels.next().and_then(|level| level.parse().ok());
        let text = str::from_utf8(publish.payload).unwrap_or_default();
        let value = text.split(' ').next().and_then(|text| text.parse().ok());
        match (number(), number(), value) {
            (Some(publisher), Some(qos), Some(value))
                if (qos == UNACKNOWLEDGED) == publish.packet_identifier.is_none() =>
            {
                let got = if is_shared {
                    &mut self.got_shared
                } else {
                    &mut self.got
                };
                got.entry((publisher, qos)).or_default().push(value);
                Ok(())
            }
            _ => Err(self.violation(&format!("{publish:?} has come"))),
        }
    }

    fn is_at_rest(&self) -> bool {
        self.link.is_connected
            && self.is_subscribed
            && self.flows.is_empty()
            && !self.link.has_answers()
    }
}

/// The broker, its disk, its Clients.
#[derive(Debug)]
struct Scene<'a> {
    random: Random,
    tail: Option<&'a mut VecDeque<String>>,
    disk: Disk,
    options: StoreOptions,
    seed: u64,
    ring_capacity: usize,
    shards_max: usize,
    limits: Limits,
    now: Instant,
    clients: Vec<Client>,
    group: Vec<GroupMember>,
    report: DurableReport,
}

/// Simulates what `seed` says, on up to `shards_max` shards. A `tail` is kept filled to its capacity with
/// the last events.
///
/// # Errors
/// The first [`Violation`].
pub fn simulate_durable(
    seed: u64,
    shards_max: usize,
    tail: Option<&mut VecDeque<String>>,
) -> Result<DurableReport, Violation> {
    let mut random = Random::new(seed);
    let durability = match random.below(5) {
        0 => Durability::Os,
        _ => Durability::Always,
    };
    let options = StoreOptions {
        durability,
        segment_size: *random.pick(&[1 << 10, 1 << 12, 1 << 16]),
        ..StoreOptions::new("simulated".into())
    };
    let count = random.between(2, 6 + shards_max / 2);
    let clients = (0..count)
        .map(|index| Client::new(index, index == 1 || random.chance(60), &mut random))
        .collect();
    let mut scene = Scene {
        disk: Disk::new(Random::new(random.next())),
        options,
        seed,
        ring_capacity: *random.pick(&[1, 4, 64]),
        shards_max,
        limits: Limits {
            max_inflight_messages: *random.pick(&[2, 20]),
            max_queued_messages: 1_000_000,
            outbox_bytes_max: *random.pick(&[300, 2000, 1 << 20]),
            peer_backlog_max: *random.pick(&[1, 6, 4096]),
            ..Limits::default()
        },
        now: Instant::ZERO.add_seconds(1),
        clients,
        group: (0..MEMBERS).map(GroupMember::new).collect(),
        report: DurableReport::default(),
        random,
        tail,
    };
    scene.run()?;
    Ok(scene.report)
}

impl Scene<'_> {
    fn run(&mut self) -> Result<(), Violation> {
        let mut world = self.open()?;
        let lives = self.random.between(1, 6);
        for _ in 0..lives {
            let may_rest = self.random.chance(20);
            for _ in 0..self.random.between(50, 1500) {
                self.step(&mut world)?;
            }
            if may_rest {
                self.rest(&mut world)?;
            }
            self.now = world.now();
            for client in &mut self.clients {
                client.observe(&world);
            }
            drop(world);
            self.end()?;
            world = self.open()?;
            self.check_retained(&mut world)?;
        }
        self.rest(&mut world)?;
        self.check_retained(&mut world)?;
        self.check()
    }

    fn hash(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.report.hash = (self.report.hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        }
    }

    fn note(&mut self, what: String) {
        if let Some(tail) = &mut self.tail {
            if tail.len() == tail.capacity() {
                tail.pop_front();
            }
            tail.push_back(what);
        }
    }

    fn observe(&mut self, world: &mut World) {
        for event in world.take_log() {
            if self.tail.is_some() {
                self.note(describe(&event));
            }
            if let Event::Output { bytes, .. } = event {
                self.hash(&bytes);
            }
        }
    }

    /// Bytes that a Client reads at a time: mostly all there are.
    fn read_size(&mut self) -> usize {
        if self.random.chance(70) {
            usize::MAX
        } else {
            5
        }
    }

    fn step(&mut self, world: &mut World) -> Result<(), Violation> {
        let shard = self.random.below(world.shard_count());
        match self.random.below(100) {
            0..45 => world.turn(shard, &mut Pace::Random(&mut self.random)),
            // Less often than shards have turns, so that much is under way.
            45..55 => world.turn_disk(shard),
            55..65 => {
                let index = self.random.below(self.group.len());
                let count = self.read_size();
                let member = &mut self.group[index];
                member.read(world, count)?;
                member.act(world, &mut self.random, true);
            }
            65..97 => {
                let may_publish = self.clients.iter().all(|client| client.is_subscribed)
                    && self.group[0].is_subscribed();
                let index = self.random.below(self.clients.len());
                let count = self.read_size();
                let client = &mut self.clients[index];
                client.read(world, count)?;
                client.act(world, &mut self.random, may_publish);
            }
            97 => world.pass(Duration::from_millis(self.random.below(50) as u64)),
            98 if self.random.one_in(10) => {
                self.disk.set_faults(match self.random.below(4) {
                    0 => Faults {
                        is_full: true,
                        ..Faults::default()
                    },
                    1 => Faults {
                        failing: 100,
                        ..Faults::default()
                    },
                    _ => Faults {
                        failing: 30,
                        ..Faults::default()
                    },
                });
                if self.random.one_in(4) {
                    // Clients are told only after a while.
                    world.pass(DISK_PATIENCE);
                }
            }
            _ => self.disk.set_faults(Faults::default()),
        }
        self.observe(world);
        Ok(())
    }

    /// All Clients are there, all of them read and answer, the disk works: everything that is under
    /// way comes to its end.
    fn rest(&mut self, world: &mut World) -> Result<(), Violation> {
        self.disk.set_faults(Faults::default());
        let mut still = 0;
        for _ in 0..REST_ROUNDS {
            let before = world.moved();
            for index in 0..self.clients.len() {
                let client = &mut self.clients[index];
                client.read(world, usize::MAX)?;
                if client.link.wire().is_none() || !client.is_subscribed {
                    client.act(world, &mut self.random, false);
                }
                while client.link.answer_one(world) {}
            }
            for member in &mut self.group {
                member.read(world, usize::MAX)?;
                if !member.is_at_rest() {
                    member.act(world, &mut self.random, false);
                }
                member.answer_all(world);
            }
            for shard in 0..world.shard_count() {
                world.turn(shard, &mut Pace::Full);
                world.turn_disk(shard);
            }
            self.observe(world);
            world.pass(Duration::from_millis(1));
            still = if world.moved() == before {
                still + 1
            } else {
                0
            };
            let is_at_rest = self.clients.iter().all(Client::is_at_rest)
                && self.group.iter().all(GroupMember::is_at_rest);
            if still > 3 && is_at_rest {
                return Ok(());
            }
        }
        let restless: Vec<_> = self.clients.iter().filter(|it| !it.is_at_rest()).collect();
        let group = &self.group;
        Err(Violation(format!("never at rest: {restless:?} {group:?}")))
    }

    /// The process is gone, and perhaps the power was.
    fn end(&mut self) -> Result<(), Violation> {
        self.report.crashes += 1;
        let is_power_loss = self.options.durability == Durability::Always && self.random.chance(60);
        self.disk.set_faults(Faults::default());
        if is_power_loss {
            self.disk.lose_power();
        }
        self.note(format!("--- the end; of the power too: {is_power_loss}"));
        for client in &mut self.clients {
            client.drop_connection();
        }
        for member in &mut self.group {
            member.drop_connection();
        }
        if self.random.chance(25) {
            self.damage()?;
        }
        if is_power_loss && self.random.chance(30) {
            // It fails again while the broker starts.
            let power_for = Some(self.random.below(60));
            self.disk.set_faults(Faults {
                power_for,
                ..Faults::default()
            });
            let shards = self.shards();
            drop(self.try_open(&self.disk.clone(), shards, false));
            self.disk.lose_power();
        }
        Ok(())
    }

    fn shards(&mut self) -> usize {
        self.random.between(1, self.shards_max)
    }

    fn try_open(&self, disk: &Disk, shards: usize, recover: bool) -> Result<Store, OpenError> {
        let options = StoreOptions {
            recover,
            ..self.options.clone()
        };
        disk.open(&options, shards, self.seed)
    }

    fn open(&mut self) -> Result<World, Violation> {
        let shards = self.shards();
        let store = self
            .try_open(&self.disk, shards, false)
            .map_err(|error| Violation(format!("it does not start: {error}")))?;
        self.note(format!("--- {shards} shards: {}", store.report));
        let settings = Settings::permissive(self.limits.clone());
        Ok(World::with_store(
            store,
            settings,
            self.ring_capacity,
            self.now,
        ))
    }

    /// A bit of what was stored turns over: the broker must notice, and can be told to go on.
    fn damage(&mut self) -> Result<(), Violation> {
        let places = self.stored_frames();
        if places.is_empty() {
            return Ok(());
        }
        let (name, from, to) = self.random.pick(&places).clone();
        let bit = self.random.between(from * 8, to * 8 - 1);
        let copy = self.disk.copy();
        copy.flip(&name, bit);
        let shards = self.shards();
        match self.try_open(&copy, shards, false) {
            Err(OpenError::Damaged { .. } | OpenError::Header { .. }) => {}
            Err(error) => return Err(Violation(format!("damage is called {error}"))),
            Ok(_) => {
                return Err(Violation(format!(
                    "bit {bit} of {name} turned over, and nobody noticed"
                )));
            }
        }
        let recovered = self
            .try_open(&copy, shards, true)
            .map_err(|error| Violation(format!("--recover: {error}")))?;
        if recovered.report.lost_frames == 0 && from >= SEGMENT_HEADER_SIZE {
            return Err(Violation(format!("lost nothing: {:?}", recovered.report)));
        }
        self.report.damages += 1;
        Ok(())
    }

    /// Where frames lie of which a later frame of the same file says that they were stored: file, begin
    /// and end.
    fn stored_frames(&self) -> Vec<(String, usize, usize)> {
        let directory = self.disk.directory();
        let (Ok(Some(manifest)), Ok(segments)) = (directory.manifest(), directory.segments())
        else {
            return Vec::new();
        };
        let mut places = Vec::new();
        let counts = |name: &SegmentName| name.generation == manifest.generation;
        for (index, name) in segments.iter().enumerate().filter(|(_, name)| counts(name)) {
            let following = segments.get(index + 1);
            let following = following.filter(|it| counts(it) && it.shard == name.shard);
            let end = following.map_or(Lsn::MAX, |it| it.first);
            let content = self.disk.content(&name.file_name());
            let (mut at, mut lsn) = (SEGMENT_HEADER_SIZE, name.first);
            let (mut frames, mut synced) = (Vec::new(), 0);
            while lsn < end
                && let Some(rest) = content.get(at..)
                && let Ok(Some((frame, after))) = next_frame(rest, lsn)
            {
                let size = rest.len() - after.len();
                frames.push((lsn, at, at + size));
                synced = synced.max(frame.synced);
                at += size;
                lsn += 1;
            }
            let stored = frames.into_iter().filter(|&(lsn, ..)| lsn <= synced);
            places.extend(stored.map(|(_, from, to)| (name.file_name(), from, to)));
        }
        places
    }

    /// No retained message is older than the last one that was acknowledged.
    fn check_retained(&mut self, world: &mut World) -> Result<(), Violation> {
        let wire = world.open(self.random.below(world.shard_count()));
        let mut bytes = Vec::new();
        let version = ProtocolVersion::V311;
        let mut connect = Connect::new(version, "reader");
        connect.clean_start = true;
        codec::encode(&Packet::Connect(connect), version, &mut bytes);
        let identifier = PacketIdentifier::new(1).expect("not zero");
        let filters = [("r/#", SubscriptionOptions::new(QoS::AtMostOnce))];
        let subscribe = Subscribe::new(identifier, &filters);
        codec::encode(&Packet::Subscribe(subscribe), version, &mut bytes);
        world.send(wire, &bytes);
        for _ in 0..50 {
            for shard in 0..world.shard_count() {
                world.turn(shard, &mut Pace::Full);
            }
        }
        let bytes = world.receive(wire, usize::MAX);
        world.close(wire);
        self.observe(world);
        let mut found = [0; RETAINED_TOPICS];
        let mut is_answered = false;
        let mut rest = bytes.as_slice();
        while let Some((header, body, after)) = split_packet(rest) {
            match codec::decode(version, header.first_byte, body) {
                Ok(Packet::SubAck(_)) => is_answered = true,
                Ok(Packet::Publish(publish)) => {
                    let topic = publish.topic_name.strip_prefix("r/").unwrap_or_default();
                    let text = str::from_utf8(publish.payload).unwrap_or_default();
                    if let (Ok(topic), Ok(value)) = (topic.parse::<usize>(), text.parse()) {
                        found[topic] = value;
                    }
                }
                _ => {}
            }
            rest = after;
        }
        if !is_answered {
            return Err(Violation(
                "a reader of retained messages gets no answer".to_owned(),
            ));
        }
        for (topic, (&found, known)) in found.iter().zip(&self.clients[0].retained).enumerate() {
            if found != known.acknowledged && !known.possible.contains(&found) {
                return Err(Violation(format!("r/{topic} is {found}: {known:?}")));
            }
        }
        Ok(())
    }

    /// Everything that was acknowledged has come, as often as it may, in order.
    fn check(&mut self) -> Result<(), Violation> {
        self.report.syncs = self.disk.syncs();
        for publisher in &self.clients {
            self.report.refused += publisher.refused;
            for qos in 0..2 {
                self.report.acknowledged += publisher.acknowledged[qos].len() as u64;
            }
        }
        for publisher in &self.clients {
            let members = self.group.iter();
            let got: BTreeSet<u32> = members.flat_map(|it| it.got(publisher.index)).collect();
            self.report.acknowledged += publisher.shared_acknowledged.len() as u64;
            self.report.deliveries += got.len() as u64;
            if let Some(number) = publisher.shared_acknowledged.difference(&got).next() {
                return Err(Violation(format!(
                    "message {number} of client {} to the group was acknowledged and did not come",
                    publisher.index
                )));
            }
        }
        for publisher in &self.clients {
            let (mut seen, mut seen_once) = (BTreeSet::new(), BTreeSet::new());
            for (subscriber, qos) in self.clients.iter().flat_map(|it| [(it, 0), (it, 1)]) {
                // Of QoS 1 a member may be sent what no disk has yet, and after a crash another one gets it.
                let is_once = qos == 1 && subscriber.qos == QoS::ExactlyOnce;
                let got = subscriber.got_shared.get(&(publisher.index, qos));
                for &number in got.into_iter().flatten() {
                    self.report.deliveries += 1;
                    seen.insert(number);
                    if is_once && !seen_once.insert(number) {
                        return Err(Violation(format!(
                            "message {number} of client {} came to the pair twice, at last to client {}",
                            publisher.index, subscriber.index
                        )));
                    }
                }
            }
            if let Some(number) = publisher.shared_acknowledged.difference(&seen).next() {
                return Err(Violation(format!(
                    "message {number} of client {} to the pair was acknowledged and did not come",
                    publisher.index
                )));
            }
        }
        for subscriber in self.clients.iter().filter(|it| it.is_subscriber) {
            for publisher in &self.clients {
                let got = subscriber.got.get(&(publisher.index, UNACKNOWLEDGED));
                if let Some(got) = got
                    && !got.is_sorted_by(|one, next| one < next)
                {
                    return Err(Violation(format!(
                        "QoS 0 from client {} to client {}: {got:?}",
                        publisher.index, subscriber.index
                    )));
                }
                for qos in 0..2 {
                    let got = subscriber.got.get(&(publisher.index, qos));
                    let got = got.map_or(&[][..], Vec::as_slice);
                    self.report.deliveries += got.len() as u64;
                    let may_repeat = qos == 0 || subscriber.qos == QoS::AtLeastOnce;
                    check_flow(publisher, qos, may_repeat, got).map_err(|what| {
                        Violation(format!(
                            "QoS {} from client {} to client {}: {what}",
                            qos + 1,
                            publisher.index,
                            subscriber.index
                        ))
                    })?;
                }
            }
        }
        Ok(())
    }
}

/// Whether what one subscriber got of one publisher is what it had to get.
fn check_flow(publisher: &Client, qos: usize, may_repeat: bool, got: &[u32]) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    for &number in got {
        let is_new = seen.last().is_none_or(|&last| last < number);
        if !seen.insert(number) {
            if !may_repeat {
                return Err(format!("{number} came twice"));
            }
        } else if !is_new && !publisher.may_be_late[qos].contains(&number) {
            return Err(format!("{number} came late: {got:?}"));
        }
        if number > publisher.begun[qos] {
            return Err(format!("{number} was never sent"));
        }
    }
    match publisher.acknowledged[qos].difference(&seen).next() {
        Some(number) => Err(format!("{number} was acknowledged and did not come")),
        None => Ok(()),
    }
}
