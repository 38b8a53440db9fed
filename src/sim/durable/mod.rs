//! A broker that is killed, loses power, and finds its disk full, failing or rotten, again and again,
//! and comes back with another number of shards.
//!
//! Clients of persistent Sessions publish and subscribe all along. In the end everything that was
//! acknowledged must have come: QoS 2 once, and each publisher's messages in their order; to one member
//! of a group what is shared; no retained message may be older than the last one that was acknowledged. Others end
//! their Sessions or let them expire, come and go as subscribers, and have Wills: they get what was published while
//! they were subscribed and nothing else. When all have left for good nothing is left, in memory or on the disk.

#![forbid(unsafe_code)]

mod client;
mod content;
mod group;
mod link;
mod visitor;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use client::{Client, RETAINED_TOPICS};
use content::number;
use group::GroupMember;
use visitor::Visitor;

use super::disk::{Disk, Faults};
use super::oracle::Violation;
use super::random::Random;
use super::simulation::{UNTIL_FORGOTTEN_S, describe};
use super::world::{Event, Pace, World, split_packet};
use crate::codec::{
    self, Connect, Disconnect, Packet, PublishHeader, ReasonCode, Subscribe, SubscriptionOptions,
};
use crate::config::Durability;
use crate::journal::{Lsn, next_frame};
use crate::key::PacketIdentifier;
use crate::limits::{DISK_PATIENCE, FILTER_STEPS_MAX, Limits};
use crate::message::{ProtocolVersion, QoS};
use crate::policy::Settings;
use crate::time::Instant;
use crate::wal::{
    Extent, OpenError, SEGMENT_HEADER_SIZE, SegmentName, Storage, Store, StoreOptions,
};

/// Members of the group, one of which stays.
const MEMBERS: usize = 4;
/// Clients whose Sessions end.
const VISITORS: usize = 2;
/// What the seed of those who weaken the promise differs in, so that others are as they were.
const WEAKER: u64 = 0x7765_616b_6572;
/// Times after which all that was written is brought to the disk.
const INTERVALS_MS: [u64; 3] = [1, 20, 400];
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
    /// Wills that had to be published, and were.
    pub wills: u64,
    /// Power failures that may have taken what was acknowledged shortly before.
    pub losses: u64,
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
    visitors: Vec<Visitor>,
    /// Those who were forgotten, as what became of their Sessions was not known any more: names and topics.
    forgotten: Vec<(String, String)>,
    /// Counts what Clients do.
    moment: u64,
    /// The last moment at which a shard's disk had all that it was given.
    stored: Vec<u64>,
    /// Draws what only brokers of a weaker promise do.
    weaker: Random,
    /// What counts as stored may be on no disk, until it is said anew.
    may_lack: bool,
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
    let mut weaker = Random::new(seed ^ WEAKER);
    let durability = if weaker.chance(40) {
        Durability::Interval(Duration::from_millis(*weaker.pick(&INTERVALS_MS)))
    } else {
        durability
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
            ending_steps_max: 1,
            spread_steps_max: 1,
            filter_steps_max: if seed.is_multiple_of(3) {
                FILTER_STEPS_MAX
            } else {
                1
            },
            ..Limits::default()
        },
        now: Instant::ZERO.add_seconds(1),
        clients,
        group: (0..MEMBERS).map(GroupMember::new).collect(),
        visitors: (0..VISITORS).map(Visitor::new).collect(),
        forgotten: Vec::new(),
        moment: 0,
        stored: Vec::new(),
        weaker,
        may_lack: false,
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
            if std::mem::take(&mut self.may_lack) {
                self.make_good(&mut world)?;
            }
            if self.random.chance(20) {
                self.note("--- it is told to end".to_owned());
                world.shut_down();
                for _ in 0..self.random.below(40) {
                    let shard = self.random.below(world.shard_count());
                    world.turn(shard, &mut Pace::Random(&mut self.random));
                    world.turn_disk(shard);
                }
                self.observe(&mut world);
                // The time that their Sessions and Wills have has begun.
                for visitor in &mut self.visitors {
                    visitor.drop_connection(world.now());
                }
            }
            self.now = world.now();
            for client in &mut self.clients {
                client.observe(&world);
            }
            let failure = self.end_of_power(&mut world);
            self.now = world.now();
            drop(world);
            self.end(failure.is_some())?;
            if let Some(safe) = failure {
                self.lose(safe);
            }
            if self.random.chance(30) {
                // It is away for a while.
                self.now = self.now.add_seconds(self.random.between(1, 12) as u64);
            }
            for visitor in &mut self.visitors {
                visitor.restarted(self.now);
            }
            world = self.open()?;
            self.check_retained(&mut world)?;
        }
        self.rest(&mut world)?;
        self.check_retained(&mut world)?;
        self.check()?;
        self.leave(world)
    }

    /// Until nothing is left of what each turn does some of.
    fn settle_with_turns(&mut self, world: &mut World) {
        self.settle(world);
        while world.has_more_turns_to_do() {
            world.pass(Duration::from_millis(1));
            self.settle(world);
        }
    }

    /// Everybody leaves for good, and nothing is retained: nothing may be left, neither now nor after a restart.
    fn leave(&mut self, mut world: World) -> Result<(), Violation> {
        let version = ProtocolVersion::V311;
        let clients = self.clients.iter().map(|it| it.name());
        let members = self.group.iter().map(|it| it.name());
        let visitors = self.visitors.iter().map(Visitor::name);
        let own = (0..RETAINED_TOPICS).map(|topic| format!("r/{topic}"));
        let of_wills = self.visitors.iter().map(Visitor::topic_name);
        let (forgotten, their_topics): (Vec<_>, Vec<_>) = self.forgotten.iter().cloned().unzip();
        let topics: Vec<String> = own.chain(of_wills).chain(their_topics).collect();
        let names = clients.chain(members).chain(visitors).chain(forgotten);
        let names: Vec<String> = names.collect();
        for name in &names {
            let mut bytes = Vec::new();
            let mut connect = Connect::new(version, name);
            connect.clean_start = true;
            codec::encode(&Packet::Connect(connect), version, &mut bytes);
            for topic in &topics {
                let removal = PublishHeader {
                    retain: true,
                    ..client::header(topic, "")
                };
                codec::encode_publish(version, &removal, &mut bytes);
            }
            let disconnect = Disconnect::new(ReasonCode::Success);
            codec::encode(&Packet::Disconnect(disconnect), version, &mut bytes);
            let wire = world.open(self.random.below(world.shard_count()));
            world.send(wire, &bytes);
            self.settle_with_turns(&mut world);
            world.close(wire);
            self.settle(&mut world);
        }
        for wait in UNTIL_FORGOTTEN_S {
            world.pass(Duration::from_secs(wait));
            self.settle(&mut world);
        }
        self.settle_with_turns(&mut world);
        world.check_empty()?;
        drop(world);
        let shards = self.shards();
        match self.try_open(&self.disk.clone(), shards, false) {
            Ok(Store { report, .. })
                if (report.sessions, report.deliveries, report.retained) == (0, 0, 0) =>
            {
                Ok(())
            }
            Ok(store) => Err(Violation(format!("there is still {}", store.report))),
            Err(error) => Err(Violation(format!("it does not start: {error}"))),
        }
    }

    /// Turns of all shards and disks until nothing moves.
    fn settle(&mut self, world: &mut World) {
        let mut before = 0;
        for _ in 0..REST_ROUNDS {
            if world.moved() == before {
                break;
            }
            before = world.moved();
            for shard in 0..world.shard_count() {
                world.turn(shard, &mut Pace::Full);
                world.turn_disk(shard);
            }
            self.observe(world);
        }
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
                self.note(format!("{:?} {}", world.now(), describe(&event)));
            }
            for visitor in &mut self.visitors {
                visitor.observe(&event, world.now());
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
        self.moment += 1;
        self.look_at_disks(world);
        match self.random.below(100) {
            0..45 => world.turn(shard, &mut Pace::Random(&mut self.random)),
            // Less often than shards have turns, so that much is under way.
            45..55 => {
                world.turn_disk(shard);
            }
            55..63 => {
                let index = self.random.below(self.group.len());
                let count = self.read_size();
                let member = &mut self.group[index];
                member.moment = self.moment;
                member.read(world, count)?;
                member.act(world, &mut self.random, true);
            }
            63..67 => {
                let index = self.random.below(self.visitors.len());
                let count = self.read_size();
                let visitor = &mut self.visitors[index];
                visitor.moment = self.moment;
                visitor.read(world, count)?;
                visitor.act(world, &mut self.random, true);
            }
            67..97 => {
                let may_publish =
                    self.clients.iter().all(Client::is_subscribed) && self.group[0].is_subscribed();
                let index = self.random.below(self.clients.len());
                let count = self.read_size();
                let client = &mut self.clients[index];
                client.moment = self.moment;
                client.read(world, count)?;
                client.act(world, &mut self.random, may_publish);
            }
            97 if self.random.one_in(8) => {
                // What expires does.
                world.pass(Duration::from_secs(self.random.between(1, 6) as u64));
            }
            97 => world.pass(Duration::from_millis(self.random.below(50) as u64)),
            98 if self.random.one_in(10) => {
                let forgets = self.random.chance(50);
                // Where acknowledgements do not wait for a sync.
                self.may_lack |= forgets && self.options.durability != Durability::Always;
                self.disk.set_faults(match self.random.below(4) {
                    0 => Faults {
                        is_full: true,
                        ..Faults::default()
                    },
                    1 => Faults {
                        failing: 100,
                        forgets,
                        ..Faults::default()
                    },
                    _ => Faults {
                        failing: 30,
                        forgets,
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

    /// The disk works until what it has lost of the log is said anew: before that, a failure would take it.
    fn make_good(&mut self, world: &mut World) -> Result<(), Violation> {
        self.disk.set_faults(Faults::default());
        for _ in 0..REST_ROUNDS {
            let mut has_moved = false;
            for shard in 0..world.shard_count() {
                world.turn(shard, &mut Pace::Full);
                has_moved |= world.turn_disk(shard);
            }
            self.observe(world);
            world.pass(Duration::from_millis(1));
            if !has_moved && (0..world.shard_count()).all(|shard| world.is_whole(shard)) {
                return Ok(());
            }
        }
        Err(Violation("the log is never whole".to_owned()))
    }

    /// All Clients are there, all of them read and answer, the disk works: everything that is under
    /// way comes to its end.
    fn rest(&mut self, world: &mut World) -> Result<(), Violation> {
        self.disk.set_faults(Faults::default());
        let mut still = 0;
        for _ in 0..REST_ROUNDS {
            let before = world.moved();
            self.moment += 1;
            self.look_at_disks(world);
            for index in 0..self.clients.len() {
                let client = &mut self.clients[index];
                self.moment += 1;
                client.moment = self.moment;
                client.read(world, usize::MAX)?;
                if client.link.wire().is_none() || !client.is_subscribed() {
                    client.act(world, &mut self.random, false);
                }
                client.link.answer_all(world);
            }
            for member in &mut self.group {
                member.moment = self.moment;
                member.read(world, usize::MAX)?;
                if !member.is_at_rest() {
                    member.act(world, &mut self.random, false);
                }
                member.link.answer_all(world);
            }
            for visitor in &mut self.visitors {
                self.moment += 1;
                visitor.moment = self.moment;
                visitor.read(world, usize::MAX)?;
                if !visitor.is_at_rest() {
                    visitor.act(world, &mut self.random, false);
                }
                visitor.link.answer_all(world);
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
                && self.group.iter().all(GroupMember::is_at_rest)
                && self.visitors.iter().all(Visitor::is_at_rest);
            if still > 3 && is_at_rest {
                let mut visitors = self.visitors.iter();
                return visitors.try_for_each(|it| it.check_rest(&self.clients));
            }
        }
        let restless: Vec<_> = self.clients.iter().filter(|it| !it.is_at_rest()).collect();
        let (group, visitors) = (&self.group, &self.visitors);
        Err(Violation(format!(
            "never at rest: {restless:?} {group:?} {visitors:?}"
        )))
    }

    /// Whether the power fails with the process, and then the moment up to which nothing may be lost.
    fn end_of_power(&mut self, world: &mut World) -> Option<u64> {
        let durability = self.options.durability;
        if durability == Durability::Always {
            return self.random.chance(60).then_some(u64::MAX);
        }
        if !self.weaker.chance(60) {
            return None;
        }
        if let Durability::Interval(every) = durability
            && self.weaker.chance(50)
        {
            // All that was acknowledged was so before an interval.
            self.disk.set_faults(Faults::default());
            world.pass(every);
            for shard in 0..world.shard_count() {
                while world.turn_disk(shard) {}
            }
            return Some(u64::MAX);
        }
        if durability == Durability::Os {
            // What the system has written nobody knows.
            return Some(0);
        }
        self.look_at_disks(world);
        self.stored.iter().min().copied()
    }

    /// Looks which disks have all that they were given.
    fn look_at_disks(&mut self, world: &World) {
        self.stored.resize(world.shard_count(), self.moment);
        for (shard, stored) in self.stored.iter_mut().enumerate() {
            if world.is_stored(shard) {
                *stored = self.moment;
            }
        }
    }

    /// What came after the moment `safe` may be lost.
    fn lose(&mut self, safe: u64) {
        if safe == u64::MAX {
            return;
        }
        self.note(format!(
            "--- what came after moment {safe} of {} may be lost",
            self.moment
        ));
        self.report.losses += 1;
        let mut may_lose_subscriptions = false;
        for client in &mut self.clients {
            may_lose_subscriptions |= client.lose(safe);
        }
        for member in &mut self.group {
            may_lose_subscriptions |= member.lose(safe);
        }
        if may_lose_subscriptions {
            self.clients.iter_mut().for_each(Client::lose_under_way);
        }
        // What is known of them is when they were subscribed and connected, which is all in doubt.
        for visitor in &mut self.visitors {
            let next = Visitor::new(visitor.index + VISITORS);
            let last = std::mem::replace(visitor, next);
            self.forgotten.push((last.name(), last.topic_name()));
        }
    }

    /// The process is gone, and perhaps the power was.
    fn end(&mut self, is_power_loss: bool) -> Result<(), Violation> {
        self.report.crashes += 1;
        self.stored.clear();
        self.disk.set_faults(Faults::default());
        // At the end, or while the broker starts, or at both.
        let fails_at_start = is_power_loss && self.random.chance(30);
        if is_power_loss && !(fails_at_start && self.random.chance(50)) {
            self.disk.lose_power();
        }
        self.note(format!("--- the end; of the power too: {is_power_loss}"));
        for client in &mut self.clients {
            client.drop_connection();
            client.life += 1;
        }
        for member in &mut self.group {
            member.drop_connection();
        }
        if self.random.chance(25) {
            self.damage()?;
            self.lose_file()?;
        }
        if fails_at_start {
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

    /// A bit of what was stored turns over.
    fn damage(&mut self) -> Result<(), Violation> {
        let places = self.stored_frames();
        if places.is_empty() {
            return Ok(());
        }
        let (name, from, to) = self.random.pick(&places).clone();
        let bit = self.random.between(from * 8, to * 8 - 1);
        let copy = self.disk.copy();
        copy.flip(&name, bit);
        self.notice(
            &copy,
            &format!("bit {bit} of {name} turned over"),
            from >= SEGMENT_HEADER_SIZE,
        )
    }

    /// A file that was stored in is lost, or what it held.
    fn lose_file(&mut self) -> Result<(), Violation> {
        let directory = self.disk.directory();
        let (Ok(Some(manifest)), Ok(mut names)) = (directory.manifest(), directory.segments())
        else {
            return Ok(());
        };
        // A segment that holds frames and is not named yet, as when its process ended between the two after a sync that
        // failed, may as well be of a version that names none: then nothing is known of the others.
        let all = names.clone();
        let knows_all = |shard, extent: Extent| {
            let mut its = all.iter().filter(|it| it.shard == shard);
            its.all(|it| it.generation != manifest.generation || it.first <= extent.last)
        };
        names.retain(|name| {
            let extent = directory.extent(manifest.generation, name.shard);
            name.generation == manifest.generation
                && extent.is_some_and(|extent| {
                    extent.includes(name.first) && knows_all(name.shard, extent)
                })
        });
        if names.is_empty() {
            return Ok(());
        }
        let name = self.random.pick(&names).file_name();
        let copy = self.disk.copy();
        let is_lost = self.random.chance(50);
        if is_lost {
            copy.remove(&name).expect("a disk that works");
        } else {
            copy.create(&name, 0).expect("a disk that works");
        }
        // What a write that failed was to hold is in the next file, and may be readable in its own as well.
        let shards = self.shards();
        let frames = |disk: &Disk| {
            let opened = self.try_open(&disk.copy(), shards, false);
            opened.ok().map(|store| store.report.frames)
        };
        if is_lost && frames(&copy).is_some_and(|found| Some(found) == frames(&self.disk)) {
            return Ok(());
        }
        self.notice(&copy, &format!("{name} was lost: {is_lost}"), true)
    }

    /// The broker must notice what happened to `disk`, and can be told to go on.
    fn notice(&mut self, disk: &Disk, what: &str, is_loss: bool) -> Result<(), Violation> {
        let shards = self.shards();
        match self.try_open(disk, shards, false) {
            Err(
                OpenError::Damaged { .. } | OpenError::Header { .. } | OpenError::Missing { .. },
            ) => {}
            Err(error) => return Err(Violation(format!("{what}: it is called {error}"))),
            Ok(_) => return Err(Violation(format!("{what}, and nobody noticed"))),
        }
        let recovered = self
            .try_open(disk, shards, true)
            .map_err(|error| Violation(format!("{what}: --recover: {error}")))?;
        if recovered.report.lost_frames == 0 && is_loss {
            let report = &recovered.report;
            return Err(Violation(format!("{what}: lost nothing: {report:?}")));
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
        let first = |shard| {
            directory
                .extent(manifest.generation, shard)
                .map_or(0, |it| it.first)
        };
        // What was to be removed may still be there.
        let counts = |name: &SegmentName| {
            name.generation == manifest.generation && name.first >= first(name.shard)
        };
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

    /// No retained message is older than the last one that was acknowledged, or than the last Will that was due.
    fn check_retained(&mut self, world: &mut World) -> Result<(), Violation> {
        let retained = self.read_retained(world)?;
        for (topic, known) in self.clients[0].retained.iter().enumerate() {
            let found = retained.get(&format!("r/{topic}"));
            let found = found.and_then(|it| number(it)).unwrap_or_default();
            if !known.may_be(found, world.now()) {
                return Err(Violation(format!("r/{topic} is {found}: {known:?}")));
            }
        }
        for visitor in self.visitors.iter().filter(|it| it.retains()) {
            let found = retained.get(&visitor.topic_name());
            visitor.check_retained(found.map_or("", String::as_str))?;
        }
        Ok(())
    }

    /// What is retained, by topic.
    fn read_retained(&mut self, world: &mut World) -> Result<BTreeMap<String, String>, Violation> {
        let wire = world.open(self.random.below(world.shard_count()));
        let mut bytes = Vec::new();
        let version = ProtocolVersion::V311;
        let mut connect = Connect::new(version, "reader");
        connect.clean_start = true;
        codec::encode(&Packet::Connect(connect), version, &mut bytes);
        let identifier = PacketIdentifier::new(1).expect("not zero");
        let filters = [("#", SubscriptionOptions::new(QoS::AtMostOnce))];
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
        let mut retained = BTreeMap::new();
        let mut is_answered = false;
        let mut rest = bytes.as_slice();
        while let Some((header, body, after)) = split_packet(rest) {
            match codec::decode(version, header.first_byte, body) {
                Ok(Packet::SubAck(_)) => is_answered = true,
                Ok(Packet::Publish(publish)) if publish.retain => {
                    let payload = String::from_utf8_lossy(publish.payload).into_owned();
                    retained.insert(publish.topic_name.to_owned(), payload);
                }
                _ => {}
            }
            rest = after;
        }
        if is_answered {
            Ok(retained)
        } else {
            let what = "a reader of retained messages gets no answer";
            Err(Violation(what.to_owned()))
        }
    }

    /// Everything that was acknowledged has come, as often as it may, in order.
    fn check(&mut self) -> Result<(), Violation> {
        self.report.syncs = self.disk.syncs();
        for publisher in &self.clients {
            self.report.refused += publisher.refused;
            self.report.acknowledged += publisher.acknowledged_count();
            let members = self.group.iter();
            let got: BTreeSet<u32> = members.flat_map(|it| it.got(publisher.index)).collect();
            self.report.deliveries += got.len() as u64;
            let mut acknowledged = publisher.shared_acknowledged.keys();
            if let Some(number) = acknowledged.find(|number| !got.contains(number)) {
                return Err(Violation(format!(
                    "message {number} of client {} to the group was acknowledged and did not come",
                    publisher.index
                )));
            }
            self.report.deliveries += self.check_pair(publisher)?;
        }
        for subscriber in &self.clients {
            self.report.deliveries += subscriber.check(&self.clients, &self.visitors)?;
        }
        for visitor in &self.visitors {
            visitor.check(&self.clients)?;
            self.report.wills += visitor.due.len() as u64;
        }
        Ok(())
    }

    /// What a publisher sent to the pair came to one of it. How much has come.
    fn check_pair(&self, publisher: &Client) -> Result<u64, Violation> {
        let mut count = 0;
        let (mut seen, mut seen_once) = (BTreeSet::new(), BTreeSet::new());
        for subscriber in &self.clients {
            for (is_once, got) in subscriber.shared_from(publisher.index) {
                for &number in got {
                    count += 1;
                    seen.insert(number);
                    let may_repeat = publisher.may_share_again(number)
                        || self
                            .clients
                            .iter()
                            .any(|it| it.may_get_again(publisher.index, number, true));
                    if is_once && !seen_once.insert(number) && !may_repeat {
                        return Err(Violation(format!(
                            "message {number} of client {} came to the pair twice, at last to client {}",
                            publisher.index, subscriber.index
                        )));
                    }
                }
            }
        }
        let mut acknowledged = publisher.shared_acknowledged.keys();
        let is_mistaken = |number| {
            let mut clients = self.clients.iter();
            clients.any(|it| it.has_mistaken(publisher.index, number))
        };
        match acknowledged.find(|number| !seen.contains(number) && !is_mistaken(**number)) {
            Some(number) => Err(Violation(format!(
                "message {number} of client {} to the pair was acknowledged and did not come",
                publisher.index
            ))),
            None => Ok(count),
        }
    }
}
