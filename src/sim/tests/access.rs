//! Rules that change under traffic, and Clients that send rubbish: what nobody may get, and what
//! everybody else is still owed.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use super::super::random::Random;
use super::super::world::{Event, Pace, WireId, World};
use super::{Q1, ROUNDS, identifier, lasting, message, options, v5, v311};
use crate::auth::{Acl, Security};
use crate::codec::{self, Acknowledgement, Packet, ReasonCode, Subscribe};
use crate::limits::{Limits, PACKET_SIZE_MAX};
use crate::message::ProtocolVersion;
use crate::policy::Settings;
use crate::shard::Command;

/// After so long a shard goes on with what it had no time for.
const A_TURN: Duration = Duration::from_micros(1);

const NAMES: [&str; 4] = ["ann", "bob", "eve", "joe"];
const TOPICS: [&str; 5] = ["a/1", "a/2", "b/1", "b/2", "c"];
const FILTERS: [&str; 5] = ["#", "a/+", "b/1", "c", "$share/g/#"];

/// Whether `filter`, one of [`FILTERS`] that is not shared, matches `topic`.
fn matches(filter: &str, topic: &str) -> bool {
    match filter {
        "#" => true,
        "a/+" => topic.starts_with("a/"),
        _ => filter == topic,
    }
}

/// What begins every topic of everybody, if anything does.
type MountPoint = Option<&'static str>;

/// Whether `filter` below one mount point matches `topic` below another.
fn matches_below(
    (filter_mount, filter): (MountPoint, &str),
    (topic_mount, topic): (MountPoint, &str),
) -> bool {
    if filter_mount == topic_mount {
        matches(filter, topic)
    } else {
        // The only one that has no level of its own.
        filter_mount.is_none() && filter == "#"
    }
}

/// What each user may do with each topic.
#[derive(Clone, Copy, Debug)]
struct Rules {
    mount_point: MountPoint,
    read: [[bool; TOPICS.len()]; NAMES.len()],
    write: [[bool; TOPICS.len()]; NAMES.len()],
    /// Who comes first in the file.
    first: usize,
    /// How much of the way through all Clients and what waits for them, and through what is retained, a turn has time for.
    steps_max: [usize; 2],
    /// What a Client has in flight. The rest waits.
    inflight_max: u16,
    /// From there on retained messages wait as well.
    outbox_bytes_max: usize,
}

impl Rules {
    fn draw(random: &mut Random, mount_point: MountPoint) -> Self {
        let mut draw = || std::array::from_fn(|_| std::array::from_fn(|_| random.chance(70)));
        Self {
            read: draw(),
            write: draw(),
            first: random.below(NAMES.len()),
            steps_max: std::array::from_fn(|_| *random.pick(&[1, 2, 256])),
            inflight_max: *random.pick(&[1, 2, 20]),
            outbox_bytes_max: *random.pick(&[300, 1 << 20]),
            mount_point,
        }
    }

    /// Whether a user may read what was published below a mount point.
    fn reads(&self, user: usize, topic: usize, below: MountPoint) -> bool {
        self.read[user][topic] && (self.mount_point.is_none() || self.mount_point == below)
    }

    /// What users see of its name.
    fn seen(&self, topic: usize, below: MountPoint) -> String {
        let below = below.filter(|_| self.mount_point.is_none());
        format!("{}{}", below.unwrap_or_default(), TOPICS[topic])
    }

    fn settings(&self) -> Settings {
        let mut text = String::new();
        for user in (self.first..NAMES.len()).chain(0..self.first) {
            let name = NAMES[user];
            text += &format!("user {name}\n");
            for (topic, topic_name) in TOPICS.iter().enumerate() {
                let access = match (self.read[user][topic], self.write[user][topic]) {
                    (true, true) => "readwrite",
                    (true, false) => "read",
                    (false, true) => "write",
                    (false, false) => continue,
                };
                text += &format!("topic {access} {topic_name}\ntopic {access} m/{topic_name}\n");
            }
        }
        let limits = Limits {
            ending_steps_max: self.steps_max[0],
            spread_steps_max: self.steps_max[0],
            replay_steps_max: self.steps_max[1],
            max_inflight_messages: self.inflight_max,
            outbox_bytes_max: self.outbox_bytes_max,
            ..Limits::default()
        };
        let mut settings = Settings::permissive(limits);
        settings.listeners[0].mount_point = self.mount_point.map(Into::into);
        let acl = Acl::parse("acl", text.as_bytes()).expect("rules that were just written");
        settings.listeners[0].security = Some(Arc::new(Security {
            passwords: None,
            acl: Some(acl),
        }));
        settings
    }
}

/// A message that was sent.
#[derive(Clone, Copy, Debug)]
struct Sent {
    topic: usize,
    /// What it was published below.
    below: MountPoint,
    is_acknowledged: bool,
    /// Whether it might be written when a shard took it, and the oldest rules any shard had then.
    taken: Option<(bool, usize)>,
}

#[derive(Debug, Default)]
struct User {
    wire: Option<WireId>,
    is_connected: bool,
    buffer: Vec<u8>,
    next_identifier: u16,
    /// Messages by the identifiers they were last sent with.
    published: BTreeMap<u16, usize>,
    /// With the mount point that it was taken by.
    subscribing: Option<(u16, MountPoint, &'static str)>,
    /// Filters below mount points, and the first message they hold for.
    subscribed: BTreeMap<(MountPoint, &'static str), usize>,
    got: BTreeSet<usize>,
}

impl User {
    fn identifier(&mut self) -> u16 {
        self.next_identifier = self.next_identifier % 60_000 + 1;
        self.next_identifier
    }
}

struct Scene {
    random: Random,
    world: World,
    rules: Vec<Rules>,
    /// Which of `rules` a shard has.
    active: Vec<usize>,
    users: Vec<User>,
    /// Whose a connection is, and the last shard that took something from it.
    wires: BTreeMap<WireId, (usize, usize)>,
    sent: Vec<Sent>,
    denied: usize,
}

impl Scene {
    fn new(seed: u64) -> Self {
        let mut random = Random::new(seed);
        let rules = Rules::draw(&mut random, None);
        let shards = *random.pick(&[1, 2, 3, 3, 8]);
        let rings = *random.pick(&[1, 4, 64]);
        let sockets = *random.pick(&[64, 1 << 16]);
        Self {
            world: World::new(shards, rules.settings(), seed, rings, sockets),
            random,
            rules: vec![rules],
            active: vec![0; shards],
            users: NAMES.iter().map(|_| User::default()).collect(),
            wires: BTreeMap::new(),
            sent: Vec::new(),
            denied: 0,
        }
    }

    fn send(&mut self, user: usize, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, ProtocolVersion::V5, &mut bytes);
        let wire = self.users[user].wire.expect("a connection");
        self.world.send(wire, &bytes);
    }

    fn connect(&mut self, user: usize) {
        let wire = self.world.open(self.random.below(self.active.len()));
        self.wires.insert(wire, (user, 0));
        let state = &mut self.users[user];
        state.wire = Some(wire);
        state.is_connected = false;
        state.buffer.clear();
        state.subscribing = None;
        let mut connect = lasting(NAMES[user]);
        connect.username = Some(NAMES[user]);
        self.send(user, &Packet::Connect(connect));
    }

    fn act(&mut self, user: usize) {
        let Some(wire) = self.users[user].wire else {
            return self.connect(user);
        };
        if self.random.one_in(40) {
            self.world.cut(wire, &mut self.random);
            self.users[user].wire = None;
            return;
        }
        // What it does not read and acknowledge waits.
        if self.random.chance(40) {
            self.listen(user);
        }
        // An earlier connection, of which its shard heard late, may have taken its place.
        if self.users[user].wire.is_none() || !self.users[user].is_connected {
            return;
        }
        if self.random.chance(60) {
            let topic = self.random.below(TOPICS.len());
            let identifier = self.users[user].identifier();
            self.users[user]
                .published
                .insert(identifier, self.sent.len());
            let payload = self.sent.len().to_string();
            self.sent.push(Sent {
                topic,
                below: None,
                is_acknowledged: false,
                taken: None,
            });
            let mut publish = message(TOPICS[topic], &payload, Q1, identifier);
            publish.retain = self.random.chance(30);
            self.send(user, &Packet::Publish(publish));
        } else if self.users[user].subscribing.is_none() && self.random.chance(20) {
            let filter = *self.random.pick(&FILTERS);
            let id = self.users[user].identifier();
            self.users[user].subscribing = Some((id, None, filter));
            let filters = [(filter, options(Q1))];
            let subscribe = Subscribe::new(identifier(id), &filters);
            self.send(user, &Packet::Subscribe(subscribe));
        }
    }

    /// Reads and answers everything.
    fn listen(&mut self, user: usize) {
        let Some(wire) = self.users[user].wire else {
            return;
        };
        let received = self.world.receive(wire, usize::MAX);
        self.users[user].buffer.extend(received);
        let buffer = std::mem::take(&mut self.users[user].buffer);
        let mut rest = buffer.as_slice();
        while let Some((packet, behind)) = split(rest) {
            rest = behind;
            match packet {
                Packet::ConnAck(connack) => {
                    assert_eq!(connack.reason_code, ReasonCode::Success);
                    self.users[user].is_connected = true;
                }
                Packet::SubAck(suback) => {
                    let asked = self.users[user].subscribing.take();
                    let (identifier, below, filter) = asked.expect("asked");
                    assert_eq!(suback.packet_identifier.get(), identifier);
                    let first = self.sent.len();
                    let subscribed = &mut self.users[user].subscribed;
                    subscribed.entry((below, filter)).or_insert(first);
                }
                Packet::Publish(publish) => {
                    self.users[user].got.insert(index_of(publish.payload));
                    if let Some(identifier) = publish.packet_identifier {
                        let puback = Acknowledgement::new(identifier, ReasonCode::Success);
                        self.send(user, &Packet::PubAck(puback));
                    }
                }
                _ => {}
            }
        }
        self.users[user].buffer = rest.to_vec();
        if self.world.is_ended(wire) {
            self.users[user].wire = None;
        }
    }

    /// The operator changes the rules; shards hear of it when they come to it.
    fn reload(&mut self) {
        let before = self.rules.last().and_then(|rules| rules.mount_point);
        let mount_point = match self.random.chance(20) {
            true => *self.random.pick(&[None, Some("m/")]),
            false => before,
        };
        let rules = Rules::draw(&mut self.random, mount_point);
        self.rules.push(rules);
        let settings = Arc::new(rules.settings());
        for shard in 0..self.active.len() {
            self.world
                .command(shard, Command::Configure(settings.clone()));
        }
    }

    /// Judges what crossed the border of the broker.
    fn judge(&mut self) {
        // One that is replaced in the turn that it came in holds for what that has caused in between.
        let mut first_of_turn = vec![usize::MAX; self.active.len()];
        for event in self.world.take_log() {
            match event {
                Event::Configured { shard } => {
                    let (active, first) = (
                        &mut self.active[shard.index()],
                        &mut first_of_turn[shard.index()],
                    );
                    *active += 1;
                    *first = (*first).min(*active);
                }
                Event::Consumed {
                    wire,
                    shard,
                    packet,
                } => {
                    let Some((user, last)) = self.wires.get_mut(&wire) else {
                        continue;
                    };
                    *last = shard.index();
                    let user = *user;
                    let rules = &self.rules[self.active[shard.index()]];
                    match split(&packet) {
                        Some((Packet::Publish(publish), _)) => {
                            let oldest = self.active.iter().copied().min().unwrap_or_default();
                            let sent = &mut self.sent[index_of(publish.payload)];
                            sent.taken = Some((rules.write[user][sent.topic], oldest));
                            sent.below = rules.mount_point;
                        }
                        Some((Packet::Subscribe(subscribe), _)) => {
                            if let Some((id, below, _)) = &mut self.users[user].subscribing
                                && *id == subscribe.packet_identifier.get()
                            {
                                *below = rules.mount_point;
                            }
                        }
                        _ => {}
                    }
                }
                Event::Output { wire, bytes, since } => {
                    let (user, shard) = self.wires[&wire];
                    let active = self.active[shard];
                    // What was written earlier is by rules of that time.
                    let first = first_of_turn[shard].min(active);
                    let versions = if since.is_some() { 0 } else { first }..=active;
                    let mut rest = bytes.as_slice();
                    while let Some((packet, behind)) = split(rest) {
                        rest = behind;
                        self.judge_output(user, versions.clone(), &packet);
                    }
                }
                _ => {}
            }
        }
    }

    fn judge_output(&mut self, user: usize, versions: RangeInclusive<usize>, packet: &Packet<'_>) {
        match packet {
            Packet::Publish(publish) => {
                let index = index_of(publish.payload);
                let sent = self.sent[index];
                let name = NAMES[user];
                assert!(
                    sent.taken.is_some_and(|(allowed, _)| allowed),
                    "message {index} was not to be written: {sent:?}, sent to {name}"
                );
                let mut rules = self.rules[versions.clone()].iter();
                assert!(
                    rules.any(|rules| {
                        rules.reads(user, sent.topic, sent.below)
                            && publish.topic_name == rules.seen(sent.topic, sent.below)
                    }),
                    "message {index} is not {name}'s to read by rules {versions:?}: {sent:?}: {publish:?}"
                );
            }
            Packet::PubAck(puback) => {
                let index = self.users[user].published[&puback.packet_identifier.get()];
                let (allowed, _) = self.sent[index].taken.expect("acknowledged, so taken");
                let is_denied = puback.reason_code == ReasonCode::NotAuthorized;
                assert_eq!(is_denied, !allowed, "message {index}: {puback:?}");
                self.sent[index].is_acknowledged |= !is_denied;
                self.denied += usize::from(is_denied);
            }
            _ => {}
        }
    }

    /// Everybody connects, reads and answers until nothing moves; then what is owed has come.
    fn rest(&mut self) {
        loop {
            let before = self.world.moved();
            for user in 0..self.users.len() {
                if self.users[user].wire.is_none() {
                    self.connect(user);
                }
                self.listen(user);
            }
            assert!(self.world.settle(ROUNDS), "the broker comes to rest");
            self.judge();
            // What one turn had no time for.
            self.world.pass(A_TURN);
            let goes_on = self.world.next_deadline();
            let goes_on = goes_on.is_some_and(|at| at <= self.world.now());
            let is_at_rest = self.world.moved() == before && !goes_on;
            if is_at_rest && self.users.iter().all(|it| it.is_connected) {
                break;
            }
        }
        for (index, sent) in self.sent.iter().enumerate() {
            // What a connection that was about to end sent was not taken.
            let Some((true, oldest)) = sent.taken.filter(|_| sent.is_acknowledged) else {
                continue;
            };
            for (user, state) in self.users.iter().enumerate() {
                let topic = (sent.below, TOPICS[sent.topic]);
                let is_subscribed = state
                    .subscribed
                    .iter()
                    .any(|(&filter, &first)| first <= index && matches_below(filter, topic));
                let always = self.rules[oldest..]
                    .iter()
                    .all(|rules| rules.reads(user, sent.topic, sent.below));
                assert!(
                    !(is_subscribed && always) || state.got.contains(&index),
                    "{} was owed message {index}: {sent:?}",
                    NAMES[user]
                );
            }
        }
    }
}

/// The first whole packet, and what is behind it.
fn split(bytes: &[u8]) -> Option<(Packet<'_>, &[u8])> {
    let header = codec::decode_fixed_header(bytes, PACKET_SIZE_MAX).ok()??;
    let body = bytes.get(header.header_size..header.total_size())?;
    let packet = codec::decode(ProtocolVersion::V5, header.first_byte, body).ok()?;
    Some((packet, &bytes[header.total_size()..]))
}

fn index_of(payload: &[u8]) -> usize {
    let text = std::str::from_utf8(payload).expect("a number");
    text.parse().expect("a number")
}

/// One door for every way: live, queued, retained and shared, across shards, while rules change.
#[test]
fn nobody_reads_or_writes_against_the_rules_of_the_moment_and_all_else_arrives() {
    let (mut denied, mut got) = (0, 0);
    for seed in 0..400 {
        let mut scene = Scene::new(seed);
        for _ in 0..3 {
            for _ in 0..600 {
                match scene.random.below(100) {
                    0 => scene.reload(),
                    // Before the one before is through.
                    1 => {
                        scene.reload();
                        scene.reload();
                    }
                    2..10 => scene.world.pass(A_TURN),
                    10..50 => {
                        let user = scene.random.below(NAMES.len());
                        scene.act(user);
                    }
                    _ => {
                        let shard = scene.random.below(scene.active.len());
                        let mut random = scene.random.clone();
                        scene.world.turn(shard, &mut Pace::Random(&mut random));
                        scene.random = random;
                        scene.judge();
                    }
                }
            }
            scene.rest();
        }
        denied += scene.denied;
        got += scene.users.iter().map(|it| it.got.len()).sum::<usize>();
    }
    // It was not for nothing.
    assert!(
        denied > 500 && got > 5000,
        "{denied} denied, {got} received"
    );
}

/// Packets as a Client would send them, for [`damage`].
fn decent(random: &mut Random, name: &str) -> Vec<u8> {
    let version = *random.pick(&[ProtocolVersion::V5, ProtocolVersion::V311]);
    let mut connect = if version.is_v5() {
        v5(name)
    } else {
        v311(name)
    };
    connect.clean_start = random.chance(50);
    connect.will = if random.chance(30) {
        super::will("rubbish", 1)
    } else {
        None
    };
    let mut bytes = Vec::new();
    codec::encode(&Packet::Connect(connect), version, &mut bytes);
    for id in 1..8 {
        let filters = [(
            *random.pick(&["rubbish/#", "$share/g/rubbish"]),
            options(Q1),
        )];
        let packet = match random.below(4) {
            0 => Packet::Subscribe(Subscribe::new(identifier(id), &filters)),
            1 => Packet::PingReq,
            2 => super::pubrel(id),
            _ => Packet::Publish(message("rubbish/1", "x", super::Q2, id)),
        };
        codec::encode(&packet, version, &mut bytes);
    }
    bytes
}

fn damage(random: &mut Random, bytes: &mut Vec<u8>) {
    for _ in 0..random.between(1, 4) {
        let at = random.below(bytes.len());
        match random.below(4) {
            0 => bytes[at] ^= 1 << random.below(8),
            1 => bytes[at] = random.below(256) as u8,
            2 => {
                bytes.remove(at);
            }
            _ => bytes.insert(at, random.below(256) as u8),
        }
        if bytes.is_empty() {
            return;
        }
    }
}

#[test]
fn clients_that_send_rubbish_are_put_out_and_harm_nobody_else() {
    for seed in 0..60 {
        let mut random = Random::new(seed);
        let limits = Limits {
            persistent_client_expiration: Some(Duration::from_secs(86_400)),
            ..Limits::default()
        };
        let settings = Settings::permissive(limits);
        let shards = *random.pick(&[1, 3]);
        let mut world = World::new(shards, settings, seed, 4, 1 << 16);
        let decent_wires = [world.open(0), world.open(shards - 1)];
        let mut bytes = Vec::new();
        for (wire, name) in decent_wires
            .into_iter()
            .zip(["honest-reader", "honest-writer"])
        {
            bytes.clear();
            codec::encode(&Packet::Connect(v5(name)), ProtocolVersion::V5, &mut bytes);
            world.send(wire, &bytes);
        }
        let filters = [("honest", options(Q1))];
        let subscribe = Packet::Subscribe(Subscribe::new(identifier(1), &filters));
        bytes.clear();
        codec::encode(&subscribe, ProtocolVersion::V5, &mut bytes);
        world.send(decent_wires[0], &bytes);
        assert!(world.settle(ROUNDS));

        let mut heard = Vec::new();
        let mut vandals = Vec::new();
        for round in 0..20_u16 {
            let wire = world.open(random.below(shards));
            let mut rubbish = decent(&mut random, "vandal");
            damage(&mut random, &mut rubbish);
            world.send(wire, &rubbish);
            vandals.push(wire);
            bytes.clear();
            let publish = Packet::Publish(message("honest", "x", Q1, round + 1));
            codec::encode(&publish, ProtocolVersion::V5, &mut bytes);
            world.send(decent_wires[1], &bytes);
            for _ in 0..4 {
                let shard = random.below(shards);
                world.turn(shard, &mut Pace::Random(&mut random));
            }
            assert!(world.settle(ROUNDS), "seed {seed}");
            let mut output = world.receive(decent_wires[0], usize::MAX);
            let acknowledged = {
                let mut acknowledged = Vec::new();
                let mut rest = output.as_slice();
                while let Some((packet, behind)) = split(rest) {
                    rest = behind;
                    if let Packet::Publish(publish) = packet {
                        assert_eq!(publish.topic_name, "honest", "seed {seed}");
                        acknowledged.push(publish.packet_identifier.expect("QoS 1"));
                    }
                }
                acknowledged
            };
            output.clear();
            for identifier in acknowledged {
                heard.push(identifier);
                let puback = Acknowledgement::new(identifier, ReasonCode::Success);
                codec::encode(&Packet::PubAck(puback), ProtocolVersion::V5, &mut output);
            }
            world.send(decent_wires[0], &output);
        }
        assert_eq!(heard.len(), 20, "seed {seed}");
        for wire in vandals {
            world.cut(wire, &mut random);
        }
        // Wills, time-outs, and Sessions that nobody resumes.
        for _ in 0..3 {
            assert!(world.settle(ROUNDS));
            world.pass(Duration::from_secs(86_401));
        }
        assert!(world.settle(ROUNDS));
        let sum = |count: fn(&crate::shard::Census) -> usize| {
            world.censuses().iter().map(count).sum::<usize>()
        };
        assert_eq!(sum(|it| it.connections), 2, "seed {seed}");
        assert_eq!(sum(|it| it.sessions), 2, "seed {seed}");
        assert_eq!(sum(|it| it.subscriptions), 1, "seed {seed}");
        assert_eq!(
            sum(|it| it.queued + it.inflight + it.inbound),
            0,
            "seed {seed}"
        );
    }
}
