//! Shards with logs in a real directory: what leaves when, and what is there afterwards.

use super::{
    Directory, DirectoryError, InstallError, OpenError, SEGMENT_HEADER_SIZE, SegmentHeader, Store,
    StoreOptions, install, open, scan,
};
use crate::codec::SubscriptionOptions;
use crate::config::Durability;
use crate::journal::{
    Lsn, Progress, Replayed, ReplayedDelivery, ReplayedSession, ReplayedSubscription, WallClock,
};
use crate::key::{ConnectionKey, ShardId};
use crate::limits::{DISK_PATIENCE, Limits};
use crate::message::{Message, MessageRef, QoS};
use crate::origin::{Identity, Origin};
use crate::shard::{Effects, Shard};
use crate::time::Instant;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

mod lost;

const NOTHING: [u8; 0] = [];
const CONNACK: u8 = 2;
const PUBLISH: u8 = 3;
const PUBACK: u8 = 4;
const PUBREC: u8 = 5;
const PUBREL: u8 = 6;
const PUBCOMP: u8 = 7;
const SUBACK: u8 = 9;
const UNSUBACK: u8 = 11;

/// A directory of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fastmq-wal-{}-{number}", std::process::id());
        Self(std::env::temp_dir().join(name))
    }

    fn segments(&self) -> Vec<PathBuf> {
        let entries = fs::read_dir(&self.0).unwrap();
        let mut paths: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
        paths.retain(|path| path.extension().is_some_and(|it| it == "log"));
        paths.sort();
        paths
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// What the calendar says unless it is set.
const CALENDAR: WallClock = WallClock { start_ms: 1000 };

/// Opens a directory that is in use by nobody, or for long: a process that another test begins has the lock of a broker that
/// has just ended, from its fork to its exec.
fn open_directory(path: &Path) -> Result<Directory, DirectoryError> {
    for _ in 0..50 {
        match Directory::open(path) {
            Err(DirectoryError::Locked { .. }) => std::thread::sleep(Duration::from_millis(10)),
            opened => return opened,
        }
    }
    Directory::open(path)
}

/// Shards and their logs, driven by hand.
struct Broker {
    shards: Vec<Shard>,
    logs: Vec<super::Log>,
    report: super::Report,
    effects: Effects,
    now: Instant,
    _directory: super::Directory,
}

/// A Client's connection: its shard, and what that calls it.
type Wire = (usize, ConnectionKey);

impl Broker {
    fn try_open(path: &Path, count: usize, recover: bool) -> Result<Self, OpenError> {
        Self::try_open_at(path, count, recover, CALENDAR)
    }

    fn try_open_at(
        path: &Path,
        count: usize,
        recover: bool,
        clock: WallClock,
    ) -> Result<Self, OpenError> {
        let options = StoreOptions {
            recover,
            segment_size: 1 << 16,
            ..StoreOptions::new(path.to_owned())
        };
        Self::try_open_with(&options, count, clock)
    }

    fn try_open_with(
        options: &StoreOptions,
        count: usize,
        clock: WallClock,
    ) -> Result<Self, OpenError> {
        let Store {
            seed,
            shards: parts,
            mut logs,
            report,
            directory,
        } = open(
            open_directory(&options.directory)?,
            options,
            count,
            7,
            clock,
            &[0],
        )?;
        let now = Instant::ZERO.add_seconds(1);
        let mut shards = Vec::new();
        for (index, part) in parts.into_iter().enumerate() {
            let id = ShardId(index as u16);
            let mut shard = Shard::new(id, count, Limits::default(), seed);
            part.restore(&mut shard, index, count, now);
            shards.push(shard);
        }
        for log in &mut logs {
            log.start(Box::new(|| ()), || ()).unwrap();
        }
        Ok(Self {
            shards,
            logs,
            report,
            effects: Effects::default(),
            now,
            _directory: directory,
        })
    }

    fn open(folder: &Folder, count: usize) -> Self {
        Self::try_open(&folder.0, count, false).unwrap()
    }

    /// One that syncs now and then, not while a test lasts.
    fn with_interval(folder: &Folder, count: usize) -> Self {
        let options = StoreOptions {
            durability: Durability::Interval(Duration::from_secs(3600)),
            ..StoreOptions::new(folder.0.clone())
        };
        Self::try_open_with(&options, count, CALENDAR).unwrap()
    }

    /// Moves what goes from shard to shard, without a disk.
    fn exchange(&mut self) {
        let count = self.shards.len();
        loop {
            let mut moved = false;
            for from in 0..count {
                for to in (0..count).filter(|&to| to != from) {
                    let target = ShardId(to as u16);
                    let envelopes: Vec<_> = self.shards[from].outbound(target).drain(..).collect();
                    moved |= !envelopes.is_empty();
                    for envelope in envelopes {
                        let from = ShardId(from as u16);
                        let effects = &mut self.effects;
                        self.shards[to].handle_envelope(
                            from,
                            envelope,
                            usize::MAX,
                            self.now,
                            effects,
                        );
                    }
                }
            }
            if !moved {
                return;
            }
        }
    }

    fn send(&mut self, (shard, key): Wire, bytes: &[u8]) {
        let Self {
            shards,
            effects,
            now,
            ..
        } = self;
        let shard = &mut shards[shard];
        let mut consumed = shard.handle_bytes(key, bytes, *now, effects);
        if let Some(suspect) = effects.suspects.pop() {
            // Nobody here has left.
            shard.handle_presence(suspect, true, effects);
            consumed += shard.handle_bytes(key, &bytes[consumed..], *now, effects);
        }
        assert_eq!(consumed, bytes.len(), "not all was read");
        self.exchange();
    }

    fn output(&mut self, (shard, key): Wire) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.shards[shard].take_output(key, &mut bytes);
        bytes
    }

    /// Types of the packets that leave without a disk.
    fn leaves(&mut self, wire: Wire) -> Vec<u8> {
        types(&self.output(wire))
    }

    /// One look of one shard at its disk.
    fn look(&mut self, shard: usize) {
        self.logs[shard].turn(&mut self.shards[shard], self.now, &mut self.effects);
    }

    /// Lets the disks of these shards work until `is_done`.
    fn work(&mut self, shards: &[usize], mut is_done: impl FnMut(&mut Self) -> bool) {
        // A disk that others keep busy has taken more than ten seconds for a sync.
        for _ in 0..60_000 {
            for &shard in shards {
                self.look(shard);
            }
            if is_done(self) {
                return;
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        panic!("not within a minute");
    }

    /// What leaves once the disks have worked, which must be something.
    fn stored(&mut self, wire: Wire) -> Vec<u8> {
        let all: Vec<usize> = (0..self.shards.len()).collect();
        let mut bytes = Vec::new();
        self.work(&all, |broker| {
            broker.exchange();
            bytes = broker.output(wire);
            !bytes.is_empty()
        });
        bytes
    }

    /// Says everything anew, and forgets what was said before.
    fn snapshot(&mut self, folder: &Folder) {
        let all: Vec<usize> = (0..self.shards.len()).collect();
        for shard in &mut self.shards {
            shard.begin_snapshot();
        }
        self.work(&all, |broker| {
            broker.exchange();
            folder.segments().len() == all.len()
        });
    }

    /// A name of a Client whose Session lives there.
    fn name_on(&self, shard: usize) -> String {
        let names = (0..).map(|number| format!("client-{number}"));
        let mut here = names.filter(|name| self.shards[0].shard_of(name).index() == shard);
        here.next().unwrap()
    }

    /// As `kill -9` ends it.
    fn kill(self, folder: &Folder) {
        drop(self);
        // Its writers may be in the middle of something.
        while Directory::open(&folder.0).is_err() {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn accept(&mut self, shard: usize) -> ConnectionKey {
        self.shards[shard]
            .handle_accept(Origin::default(), self.now)
            .unwrap()
    }

    fn connect_unanswered(&mut self, name: &str, flags: u8) -> Wire {
        let shard = self.shards[0].shard_of(name).index();
        let key = self.accept(shard);
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([flags, 0, 0]);
        put_text(&mut body, name);
        self.send((shard, key), &packet(0x10, &body));
        (shard, key)
    }

    /// Connects a Client whose Session stays. Whether it was there, and what it is sent at once.
    fn connect(&mut self, name: &str) -> (Wire, bool, Vec<u8>) {
        let wire = self.connect_unanswered(name, 0);
        let bytes = self.stored(wire);
        assert_eq!((bytes[0], bytes[3]), (CONNACK << 4, 0));
        (wire, bytes[2] == 1, bytes[4..].to_vec())
    }

    fn subscribe(&mut self, wire: Wire, filter: &str, qos: u8) {
        self.send(wire, &subscribe(filter, qos));
        assert_eq!(types(&self.stored(wire)), [SUBACK]);
    }

    fn leave(&mut self, wire: Wire) {
        self.send(wire, &[0xe0, 0]);
    }

    fn end(mut self) {
        for (shard, log) in self.shards.iter_mut().zip(self.logs.drain(..)) {
            log.finish(shard, self.now, &mut self.effects);
        }
    }
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u16).to_be_bytes());
    out.extend(text.as_bytes());
}

fn packet(first: u8, body: &[u8]) -> Vec<u8> {
    assert!(body.len() < 128);
    [&[first, body.len() as u8], body].concat()
}

fn subscribe(filter: &str, qos: u8) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, filter);
    body.push(qos);
    packet(0x82, &body)
}

fn publish(flags: u8, topic: &str, identifier: u16, payload: &str) -> Vec<u8> {
    let mut body = Vec::new();
    put_text(&mut body, topic);
    if flags & 6 != 0 {
        body.extend(identifier.to_be_bytes());
    }
    body.extend(payload.as_bytes());
    packet(0x30 | flags, &body)
}

const QOS1: u8 = 2;
const QOS2: u8 = 4;
const RETAIN: u8 = 1;
const DUP: u8 = 8;

fn acknowledge(first: u8, identifier: u16) -> Vec<u8> {
    packet(first, &identifier.to_be_bytes())
}

fn packets(mut bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut packets = Vec::new();
    while !bytes.is_empty() {
        assert!(bytes[1] < 128);
        let (packet, rest) = bytes.split_at(2 + usize::from(bytes[1]));
        packets.push(packet.to_vec());
        bytes = rest;
    }
    packets
}

fn types(bytes: &[u8]) -> Vec<u8> {
    packets(bytes).iter().map(|packet| packet[0] >> 4).collect()
}

fn payloads(bytes: &[u8], topic: &str) -> Vec<String> {
    let publishes = packets(bytes)
        .into_iter()
        .filter(|it| it[0] >> 4 == PUBLISH);
    publishes
        .map(|packet| {
            let skipped = 4 + topic.len() + if packet[0] & 6 == 0 { 0 } else { 2 };
            String::from_utf8(packet[skipped..].to_vec()).unwrap()
        })
        .collect()
}

/// A Session that subscribed to `t` with QoS 2 and is away.
fn sleeper(broker: &mut Broker, name: &str) {
    let (wire, _, _) = broker.connect(name);
    broker.subscribe(wire, "t", 2);
    broker.leave(wire);
}

// The rows of the table in `mod.rs`: nothing leaves, then the disk works, then it leaves.

#[test]
fn connack_leaves_once_the_session_is_stored() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    let wire = broker.connect_unanswered("a", 0);
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [CONNACK]);
}

#[test]
fn connack_of_a_session_that_ends_with_its_connection_does_not_wait() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    let wire = broker.connect_unanswered("a", 2);
    assert_eq!(broker.leaves(wire), [CONNACK]);
    broker.send(wire, &subscribe("t", 2));
    assert_eq!(broker.leaves(wire), [SUBACK]);
    // To nobody who is stored: nothing is written, nothing waits.
    broker.send(wire, &publish(QOS2, "t", 1, "x"));
    assert_eq!(broker.leaves(wire), [PUBLISH, PUBREC]);
    assert!(!broker.shards[0].has_journal());
}

#[test]
fn suback_and_unsuback_leave_once_the_subscription_is_stored() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    let (wire, _, _) = broker.connect("a");
    broker.send(wire, &subscribe("t", 1));
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [SUBACK]);
    broker.send(wire, &packet(0xa2, b"\0\x02\0\x01t"));
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [UNSUBACK]);
}

#[test]
fn puback_leaves_once_the_message_is_stored_for_every_session() {
    for count in [1, 4] {
        let folder = Folder::new();
        let mut broker = Broker::open(&folder, count);
        for name in ["a", "b", "c", "d", "e"] {
            sleeper(&mut broker, name);
        }
        let publisher = broker.connect_unanswered("p", 2);
        assert_eq!(broker.leaves(publisher), [CONNACK]);
        broker.send(publisher, &publish(QOS1, "t", 1, "x"));
        assert_eq!(broker.leaves(publisher), NOTHING);
        assert_eq!(types(&broker.stored(publisher)), [PUBACK]);
        broker.end();
        let mut broker = Broker::open(&folder, count);
        for name in ["a", "b", "c", "d", "e"] {
            let (_, was_there, bytes) = broker.connect(name);
            assert!(was_there);
            assert_eq!(payloads(&bytes, "t"), ["x"]);
        }
    }
}

#[test]
fn puback_of_a_retained_message_that_came_too_late_waits_for_the_later_one() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 2);
    let names: Vec<String> = (0..32).map(|number| format!("c{number}")).collect();
    let on = |broker: &Broker, shard| {
        let is_there = |name: &&String| broker.shards[0].shard_of(name).index() == shard;
        names.iter().find(is_there).unwrap().clone()
    };
    // Topics are spread like Client Identifiers.
    let topic = on(&broker, 0);
    let keeper = broker.connect_unanswered(&topic, 2);
    let name = on(&broker, 1);
    let other = broker.connect_unanswered(&name, 2);
    assert_eq!(broker.leaves(keeper), [CONNACK]);
    assert_eq!(broker.leaves(other), [CONNACK]);
    let late = publish(QOS1 | RETAIN, &topic, 1, "late");
    let (shard, key) = other;
    let taken = broker.shards[shard].handle_bytes(key, &late, broker.now, &mut broker.effects);
    assert_eq!(taken, late.len());
    // Two writes put the keeper's logical clock ahead of what is on its way to it.
    for identifier in [1, 2] {
        let later = publish(QOS1 | RETAIN, &topic, identifier, "later");
        let (shard, key) = keeper;
        broker.shards[shard].handle_bytes(key, &later, broker.now, &mut broker.effects);
    }
    broker.exchange();
    assert_eq!(broker.leaves(other), NOTHING);
    assert_eq!(types(&broker.stored(other)), [PUBACK]);
    assert_eq!(broker.leaves(keeper), [PUBACK, PUBACK]);
}

#[test]
fn pubrec_and_pubcomp_leave_once_the_exchange_is_stored() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    let (wire, _, _) = broker.connect("a");
    broker.send(wire, &publish(QOS2, "t", 7, "x"));
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    broker.send(wire, &acknowledge(0x62, 7));
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [PUBCOMP]);
}

#[test]
fn qos1_goes_to_a_subscriber_at_once_and_qos2_once_it_is_stored() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    let (wire, _, _) = broker.connect("a");
    broker.subscribe(wire, "t", 2);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    broker.send(publisher, &publish(0, "t", 0, "zero"));
    broker.send(publisher, &publish(QOS1, "t", 1, "one"));
    assert_eq!(broker.leaves(wire), [PUBLISH, PUBLISH]);
    broker.send(publisher, &publish(QOS2, "t", 2, "two"));
    assert_eq!(broker.leaves(wire), NOTHING);
    let bytes = broker.stored(wire);
    assert_eq!(payloads(&bytes, "t"), ["two"]);
    // And PUBREL once its PUBREC is.
    let identifier = u16::from_be_bytes([bytes[5], bytes[6]]);
    broker.send(wire, &acknowledge(0x50, identifier));
    assert_eq!(broker.leaves(wire), NOTHING);
    assert_eq!(types(&broker.stored(wire)), [PUBREL]);
}

#[test]
fn acknowledgements_keep_the_order_of_what_they_acknowledge() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    // The second one goes to nobody, and waits for the first all the same [MQTT-4.6.0-2].
    broker.send(publisher, &publish(QOS1, "t", 1, "x"));
    broker.send(publisher, &publish(QOS1, "nobody", 2, "x"));
    assert_eq!(broker.leaves(publisher), NOTHING);
    let mut identifiers = Vec::new();
    while identifiers.len() < 2 {
        let acknowledged = packets(&broker.stored(publisher));
        identifiers.extend(acknowledged.iter().map(|packet| packet[3]));
    }
    assert_eq!(identifiers, [1, 2]);
}

// What is there afterwards.

#[test]
fn a_qos2_message_repeated_after_a_restart_is_delivered_once() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 2);
    sleeper(&mut broker, "a");
    let (publisher, _, _) = broker.connect("p");
    broker.send(publisher, &publish(QOS2, "t", 7, "x"));
    assert_eq!(types(&broker.stored(publisher)), [PUBREC]);
    broker.end();
    for count in [2, 3] {
        let mut broker = Broker::open(&folder, count);
        let (publisher, was_there, _) = broker.connect("p");
        assert!(was_there);
        broker.send(publisher, &publish(QOS2 | DUP, "t", 7, "x"));
        assert_eq!(types(&broker.stored(publisher)), [PUBREC]);
        broker.end();
    }
    let mut broker = Broker::open(&folder, 1);
    let (_, _, bytes) = broker.connect("a");
    assert_eq!(payloads(&bytes, "t"), ["x"]);
}

/// A broker on two shards, a publisher on the first, a subscriber on the second that is away, and a QoS 2
/// message that only the second shard has written down.
fn half_taken(folder: &Folder) -> (Broker, String, String) {
    let mut broker = Broker::open(folder, 2);
    let (publisher, subscriber) = (broker.name_on(0), broker.name_on(1));
    sleeper(&mut broker, &subscriber);
    let (wire, _, _) = broker.connect(&publisher);
    broker.send(wire, &publish(QOS2, "t", 7, "x"));
    // It answers once it has.
    broker.work(&[1], |broker| {
        !broker.shards[1].outbound(ShardId(0)).is_empty()
    });
    (broker, publisher, subscriber)
}

/// The publisher sends it again, is answered, and the subscriber has it once.
fn repeat_and_check(folder: &Folder, publisher: &str, subscriber: &str) {
    let mut broker = Broker::open(folder, 2);
    let (wire, was_there, _) = broker.connect(publisher);
    assert!(was_there);
    broker.send(wire, &publish(QOS2 | DUP, "t", 7, "x"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    broker.end();
    let mut broker = Broker::open(folder, 1);
    let (_, was_there, bytes) = broker.connect(subscriber);
    assert!(was_there);
    assert_eq!(payloads(&bytes, "t"), ["x"]);
    broker.kill(folder);
}

#[test]
fn a_qos2_message_that_some_had_when_the_broker_was_killed_comes_once_whatever_happens_until_it_is_repeated()
 {
    let folder = Folder::new();
    let (broker, publisher, subscriber) = half_taken(&folder);
    broker.kill(&folder);
    for count in [2, 1, 3, 2] {
        let mut broker = Broker::open(&folder, count);
        broker.snapshot(&folder);
        let (wire, was_there, _) = broker.connect(&publisher);
        assert!(was_there);
        broker.snapshot(&folder);
        broker.send(wire, &publish(QOS2 | DUP, "t", 7, "x"));
        // Nothing of that is written.
        broker.kill(&folder);
    }
    repeat_and_check(&folder, &publisher, &subscriber);
}

#[test]
fn a_qos2_exchange_that_was_repeated_and_is_over_does_not_swallow_the_next_one_of_its_identifier() {
    let folder = Folder::new();
    let (broker, publisher, subscriber) = half_taken(&folder);
    broker.kill(&folder);
    repeat_and_check(&folder, &publisher, &subscriber);
    let mut broker = Broker::open(&folder, 2);
    let (wire, _, _) = broker.connect(&publisher);
    broker.send(wire, &acknowledge(0x62, 7));
    assert_eq!(types(&broker.stored(wire)), [PUBCOMP]);
    // Sent the first time it did not arrive.
    broker.send(wire, &publish(QOS2 | DUP, "t", 7, "y"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    broker.end();
    let mut broker = Broker::open(&folder, 2);
    let (_, _, bytes) = broker.connect(&subscriber);
    assert_eq!(payloads(&bytes, "t"), ["x", "y"]);
}

#[test]
fn a_qos2_message_that_its_client_gave_up_does_not_swallow_the_next_one_of_its_identifier() {
    // What is written of the next one when it is sent for the first time, by which shards.
    for disks in [&[][..], &[1], &[0], &[0, 1]] {
        for counts in [&[][..], &[3], &[1, 2]] {
            let folder = Folder::new();
            let (broker, publisher, subscriber) = half_taken(&folder);
            broker.kill(&folder);
            let mut broker = Broker::open(&folder, 2);
            let (wire, _, _) = broker.connect(&publisher);
            broker.send(wire, &publish(QOS2, "t", 7, "y"));
            write_all(&mut broker, disks);
            broker.kill(&folder);
            for &count in counts {
                let mut broker = Broker::open(&folder, count);
                broker.snapshot(&folder);
                broker.kill(&folder);
            }
            let mut broker = Broker::open(&folder, 2);
            let (wire, _, _) = broker.connect(&publisher);
            broker.send(wire, &publish(QOS2 | DUP, "t", 7, "y"));
            assert_eq!(types(&broker.stored(wire)), [PUBREC]);
            broker.end();
            let mut broker = Broker::open(&folder, 2);
            let (_, _, bytes) = broker.connect(&subscriber);
            assert_eq!(payloads(&bytes, "t"), ["x", "y"], "{disks:?} {counts:?}");
            broker.kill(&folder);
        }
    }
}

/// A PUBLISH as MQTT 5.0 has it.
/// [MQTT-4.3.3-10]
#[test]
fn a_qos2_message_under_an_identifier_that_was_in_doubt_is_taken_when_it_is_repeated_after_a_kill()
{
    let folder = Folder::new();
    let mut broker = Broker::with_interval(&folder, 2);
    let (publisher, subscriber) = (broker.name_on(0), broker.name_on(1));
    sleeper(&mut broker, &subscriber);
    let (wire, _, _) = broker.connect(&publisher);
    broker.send(wire, &publish(QOS2, "t", 7, "one"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    broker.end();
    // Its Client knows that the identifier is free, and uses it again. The other shard's disk never has that.
    let mut broker = Broker::with_interval(&folder, 2);
    let (wire, was_there, _) = broker.connect(&publisher);
    assert!(was_there);
    broker.send(wire, &publish(QOS2, "t", 7, "two"));
    write_all(&mut broker, &[0]);
    broker.kill(&folder);
    let mut broker = Broker::with_interval(&folder, 2);
    let (wire, _, _) = broker.connect(&publisher);
    broker.send(wire, &publish(QOS2 | DUP, "t", 7, "two"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    let mut came = take_all(&mut broker, &subscriber);
    came.sort();
    assert_eq!(came, ["one", "two"]);
}

fn publish_v5(flags: u8, identifier: u16, payload: &str) -> Vec<u8> {
    let [high, low] = identifier.to_be_bytes();
    let head = [0, 1, b't', high, low, 0];
    packet(0x30 | flags, &[&head, payload.as_bytes()].concat())
}

/// [MQTT-4.3.3-4] A PUBREC of 0x80 or more says that the Server does not have the message.
#[test]
fn a_qos2_message_that_some_had_before_a_crash_is_never_refused_for_a_disk_that_takes_nothing() {
    let folder = Folder::new();
    let (broker, publisher, subscriber) = half_taken(&folder);
    broker.kill(&folder);
    let mut broker = Broker::open(&folder, 2);
    let (shard, key) = (0, broker.accept(0));
    // Its Session stays for good.
    let mut body = b"\0\x04MQTT\x05\0\0\0\x05\x11\xff\xff\xff\xff".to_vec();
    put_text(&mut body, &publisher);
    let wire = (shard, key);
    broker.send(wire, &packet(0x10, &body));
    broker.stored(wire);
    let stall = |broker: &mut Broker, is_stalled| {
        broker.shards[1].handle_store_stalled(is_stalled, broker.now, &mut broker.effects);
        broker.exchange();
    };
    stall(&mut broker, true);
    broker.now = broker.now + DISK_PATIENCE;
    broker.send(wire, &publish_v5(QOS2 | DUP, 8, "new"));
    let quota_exceeded = 0x97;
    assert_eq!(broker.output(wire), [PUBREC << 4, 3, 0, 8, quota_exceeded]);
    let repeated = publish_v5(QOS2 | DUP, 7, "x");
    let taken = broker.shards[shard].handle_bytes(key, &repeated, broker.now, &mut broker.effects);
    assert_eq!((taken, broker.leaves(wire)), (0, vec![]), "it has to wait");
    stall(&mut broker, false);
    broker.send(wire, &repeated);
    assert_eq!(broker.stored(wire)[..4], [PUBREC << 4, 2, 0, 7]);
    broker.end();
    let mut broker = Broker::open(&folder, 2);
    let (_, _, bytes) = broker.connect(&subscriber);
    assert_eq!(payloads(&bytes, "t"), ["x"]);
}

/// The same, and the second shard has taken a snapshot since. With the segment that its log began with.
fn half_taken_before_a_snapshot(folder: &Folder) -> (Broker, String, String, PathBuf) {
    let (mut broker, publisher, subscriber) = half_taken(folder);
    let first = of_second_shard(folder).remove(0);
    let filler = (0..).map(|number| format!("filler-{number}"));
    let mut filler = filler.filter(|name| broker.shards[0].shard_of(name).index() == 1);
    let filler = broker.connect_unanswered(&filler.next().unwrap(), 0);
    broker.send(filler, &subscribe("u", 1));
    // So much that other segments follow.
    let payload = "x".repeat(100);
    for number in 1..=900 {
        broker.send(filler, &publish(QOS1, "u", number, &payload));
        broker.look(1);
    }
    broker.work(&[1], |_| of_second_shard(folder).len() > 2);
    broker.shards[1].begin_snapshot();
    let mut looks = 0;
    broker.work(&[1], |broker| {
        broker.exchange();
        looks += 1;
        looks == 300
    });
    (broker, publisher, subscriber, first)
}

fn of_second_shard(folder: &Folder) -> Vec<PathBuf> {
    let mut paths = folder.segments();
    paths.retain(|path| path.to_string_lossy().contains("-001-0"));
    paths
}

#[test]
fn a_snapshot_forgets_nothing_as_long_as_the_publishers_shard_has_not_written_an_exchange_down() {
    let folder = Folder::new();
    let (broker, publisher, subscriber, first) = half_taken_before_a_snapshot(&folder);
    assert!(first.exists());
    broker.kill(&folder);
    repeat_and_check(&folder, &publisher, &subscriber);
}

#[test]
fn a_snapshot_forgets_what_was_before_it_once_the_publishers_shard_has_written_its_exchanges_down()
{
    let folder = Folder::new();
    let (mut broker, publisher, subscriber, first) = half_taken_before_a_snapshot(&folder);
    broker.work(&[0, 1], |broker| {
        broker.exchange();
        !first.exists()
    });
    broker.kill(&folder);
    repeat_and_check(&folder, &publisher, &subscriber);
}

const GROUP: &str = "$share/g/t";

/// Lets these disks write all there is for them, and no other.
fn write_all(broker: &mut Broker, shards: &[usize]) {
    broker.work(shards, |broker| {
        let is_idle = |&shard: &usize| {
            let (log, shard) = (&broker.logs[shard], &broker.shards[shard]);
            !shard.has_journal() && !log.has_work(shard) && !log.is_writing()
        };
        shards.iter().all(is_idle)
    });
}

/// Messages of QoS 1 and 2 in a group: more than are in flight to a member at a time.
const MESSAGES: u16 = 30;

/// They wait for a member of the group on the first shard; another member, on the second, is away, too.
fn waiting_in_a_group(folder: &Folder) -> (Broker, String, String) {
    let mut broker = Broker::open(folder, 2);
    let (leaving, staying) = (broker.name_on(0), broker.name_on(1));
    let (wire, _, _) = broker.connect(&leaving);
    broker.subscribe(wire, GROUP, 2);
    broker.leave(wire);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    for number in 1..=MESSAGES {
        let qos = if number % 2 == 1 { QOS1 } else { QOS2 };
        let payload = format!("{number:02}");
        broker.send(publisher, &publish(qos, "t", number, &payload));
        broker.stored(publisher);
    }
    let (wire, _, _) = broker.connect(&staying);
    broker.subscribe(wire, GROUP, 2);
    broker.leave(wire);
    write_all(&mut broker, &[0, 1]);
    (broker, leaving, staying)
}

/// What a Client of a broker on two shards is owed, which it acknowledges.
fn take_all(broker: &mut Broker, name: &str) -> Vec<String> {
    let mut came = Vec::new();
    let (wire, _, bytes) = broker.connect(name);
    let mut received = packets(&bytes);
    while let Some(it) = received.pop() {
        let identifier = it[it.len().min(7) - 2..][..2].to_vec();
        match it[0] {
            0x62 => broker.send(wire, &[vec![0x70, 2], it[2..4].to_vec()].concat()),
            first => {
                came.push(String::from_utf8(it[7..].to_vec()).unwrap());
                let answer = if first & 6 == 2 { 0x40 } else { 0x50 };
                broker.send(wire, &[vec![answer, 2], identifier].concat());
            }
        }
        if received.is_empty() {
            write_all(broker, &[0, 1]);
            received = packets(&broker.output(wire));
        }
    }
    came
}

/// What the group is owed comes to the one who is left, once, whatever the disks have of its hand-over.
fn check_handed_on(folder: &Folder, leaving: &str, staying: &str, counts: &[usize]) {
    for &count in counts {
        let mut broker = Broker::open(folder, count);
        assert!(broker.report.sessions <= 2, "{}", broker.report);
        // It goes on, and is cut short again.
        broker.exchange();
        for shard in 0..count / 2 {
            write_all(&mut broker, &[shard]);
        }
        broker.kill(folder);
    }
    let mut broker = Broker::open(folder, 2);
    broker.exchange();
    let mut came = take_all(&mut broker, staying);
    came.extend(take_all(&mut broker, leaving));
    came.sort();
    let all = (1..=MESSAGES).map(|number| format!("{number:02}"));
    assert_eq!(came, Vec::from_iter(all), "{counts:?}");
    write_all(&mut broker, &[0, 1]);
    broker.kill(folder);
}

#[test]
fn what_an_ended_session_hands_on_to_another_shard_comes_once_whichever_disk_was_late() {
    for disks in [&[][..], &[0], &[1], &[0, 1]] {
        for counts in [&[][..], &[2], &[1], &[3, 2]] {
            let folder = Folder::new();
            let (mut broker, leaving, staying) = waiting_in_a_group(&folder);
            // Its Client begins anew, without a Session that stays.
            broker.connect_unanswered(&leaving, 2);
            write_all(&mut broker, disks);
            broker.kill(&folder);
            check_handed_on(&folder, &leaving, &staying, counts);
        }
    }
}

#[test]
fn what_is_handed_on_when_a_member_unsubscribes_comes_once_whichever_disk_was_late() {
    for disks in [&[][..], &[0], &[1], &[0, 1]] {
        let folder = Folder::new();
        let (mut broker, leaving, staying) = waiting_in_a_group(&folder);
        let wire = broker.connect_unanswered(&leaving, 0);
        broker.send(wire, &unsubscribe(GROUP));
        write_all(&mut broker, disks);
        broker.kill(&folder);
        check_handed_on(&folder, &leaving, &staying, &[2]);
    }
}

#[test]
fn what_was_handed_on_when_the_broker_was_killed_comes_once_though_its_new_owner_forgot_where_it_was_from()
 {
    for ends in [true, false] {
        let folder = Folder::new();
        let (mut broker, leaving, staying) = waiting_in_a_group(&folder);
        if ends {
            broker.connect_unanswered(&leaving, 2);
        } else {
            let wire = broker.connect_unanswered(&leaving, 0);
            broker.send(wire, &unsubscribe(GROUP));
        }
        // The second shard has it, and the first one never knew.
        write_all(&mut broker, &[1]);
        broker.kill(&folder);
        let mut broker = Broker::open(&folder, 2);
        let named = of_second_shard(&folder);
        broker.shards[1].begin_snapshot();
        broker.work(&[0, 1], |broker| {
            broker.exchange();
            named.iter().all(|path| !path.exists())
        });
        broker.kill(&folder);
        check_handed_on(&folder, &leaving, &staying, &[]);
    }
}

/// A broker on three shards. A group has one member on the second and one on the third, of which only the
/// first is connected; a QoS 2 message from the first shard went to that one. Only the second shard has
/// written anything down.
fn half_taken_by_a_group(folder: &Folder) -> (Broker, [String; 3]) {
    let mut broker = Broker::open(folder, 3);
    let names = [0, 1, 2].map(|shard| broker.name_on(shard));
    let [publisher, chosen, other] = &names;
    let (wire, _, _) = broker.connect(other);
    broker.subscribe(wire, GROUP, 2);
    broker.leave(wire);
    let (wire, _, _) = broker.connect(chosen);
    broker.subscribe(wire, GROUP, 2);
    let (wire, _, _) = broker.connect(publisher);
    broker.send(wire, &publish(QOS2, "t", 7, "x"));
    broker.work(&[1], |broker| {
        !broker.shards[1].outbound(ShardId(0)).is_empty()
    });
    (broker, names)
}

#[test]
fn what_is_handed_on_again_before_it_was_stored_comes_once() {
    // Of QoS 1, what was sent is handed on as well if the Session ends; of QoS 2, nothing was sent.
    for (qos, ends) in [(QOS1, true), (QOS2, true), (QOS2, false)] {
        let folder = Folder::new();
        let mut broker = Broker::open(&folder, 3);
        let names = [0, 1, 2].map(|shard| broker.name_on(shard));
        let [first, second, third] = &names;
        let (wire, _, _) = broker.connect(first);
        broker.subscribe(wire, GROUP, 2);
        broker.leave(wire);
        let publisher = broker.connect_unanswered("p", 2);
        broker.leaves(publisher);
        for (number, payload) in (1..).zip(["a", "b"]) {
            broker.send(publisher, &publish(qos, "t", number, payload));
            broker.stored(publisher);
        }
        let (wire, _, _) = broker.connect(third);
        broker.subscribe(wire, GROUP, 2);
        broker.leave(wire);
        let (wire, _, _) = broker.connect(second);
        broker.subscribe(wire, GROUP, 2);
        write_all(&mut broker, &[0, 1, 2]);
        // To the second, who is there, and on to the third, whose disk alone has written something down.
        broker.connect_unanswered(first, 2);
        if ends {
            broker.connect_unanswered(second, 2);
        } else {
            broker.send(wire, &unsubscribe(GROUP));
        }
        write_all(&mut broker, &[2]);
        broker.kill(&folder);
        let mut broker = Broker::open(&folder, 2);
        broker.exchange();
        let mut came = Vec::new();
        for name in &names {
            came.extend(take_all(&mut broker, name));
        }
        came.sort();
        assert_eq!(came, ["a", "b"], "{qos} {ends}");
        broker.kill(&folder);
    }
}

fn unsubscribe(filter: &str) -> Vec<u8> {
    let mut body = vec![0, 1];
    put_text(&mut body, filter);
    packet(0xa2, &body)
}

/// The publisher sends it again while nobody of the group but `connected` is there.
fn repeat_to(folder: &Folder, publisher: &str, connected: &str, flags: u8) {
    let mut broker = Broker::open(folder, 3);
    let wire = broker.connect_unanswered(connected, flags);
    broker.stored(wire);
    broker.send(wire, &subscribe(GROUP, 2));
    broker.stored(wire);
    let (wire, was_there, _) = broker.connect(publisher);
    assert!(was_there);
    broker.send(wire, &publish(QOS2 | DUP, "t", 7, "x"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    broker.end();
}

#[test]
fn a_qos2_message_that_a_member_had_when_the_broker_was_killed_comes_to_no_other_when_it_is_repeated()
 {
    for counts in [&[][..], &[3], &[1, 2]] {
        for flags in [0, 2] {
            let folder = Folder::new();
            let (broker, [publisher, chosen, other]) = half_taken_by_a_group(&folder);
            broker.kill(&folder);
            for &count in counts {
                let mut broker = Broker::open(&folder, count);
                broker.snapshot(&folder);
                broker.kill(&folder);
            }
            repeat_to(&folder, &publisher, &other, flags);
            let mut broker = Broker::open(&folder, 2);
            for (name, expected) in [(&other, &[][..]), (&chosen, &["x"])] {
                let (_, _, bytes) = broker.connect(name);
                assert_eq!(payloads(&bytes, "t"), expected, "{counts:?} {flags}");
            }
            broker.kill(&folder);
        }
    }
}

#[test]
fn a_qos2_message_handed_on_before_it_was_stored_comes_to_its_group_once_when_it_is_repeated() {
    for ends in [true, false] {
        let folder = Folder::new();
        let mut broker = Broker::open(&folder, 3);
        let [publisher, chosen, other] = [0, 1, 2].map(|shard| broker.name_on(shard));
        let (wire, _, _) = broker.connect(&other);
        broker.subscribe(wire, GROUP, 2);
        broker.leave(wire);
        let (wire, _, _) = broker.connect(&chosen);
        broker.subscribe(wire, GROUP, 2);
        let (from, _, _) = broker.connect(&publisher);
        broker.send(from, &publish(QOS2, "t", 7, "x"));
        if ends {
            broker.connect_unanswered(&chosen, 2);
        } else {
            broker.send(wire, &unsubscribe(GROUP));
        }
        // The shard that handed it on has written nothing down.
        write_all(&mut broker, &[0, 2]);
        assert_eq!(broker.leaves(from), NOTHING);
        broker.kill(&folder);
        repeat_to(&folder, &publisher, &other, 0);
        let mut broker = Broker::open(&folder, 2);
        for (name, expected) in [(&other, &["x"][..]), (&chosen, &[])] {
            let (_, _, bytes) = broker.connect(name);
            assert_eq!(payloads(&bytes, "t"), expected, "{ends}");
        }
        broker.kill(&folder);
    }
}

/// The same message in one frame twice: for a group that has it from a Session which ended, and for another group
/// that has it from its publisher. Only the latter is what the publisher may send again.
#[test]
fn a_qos2_message_handed_on_is_not_taken_for_the_one_that_its_publisher_repeats() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 3);
    let [publisher, ending, other] = [0, 1, 2].map(|shard| broker.name_on(shard));
    let of_another = "$share/h/t";
    let (wire, _, _) = broker.connect(&other);
    broker.subscribe(wire, GROUP, 1);
    broker.subscribe(wire, of_another, 2);
    broker.leave(wire);
    let (wire, _, _) = broker.connect(&ending);
    broker.subscribe(wire, GROUP, 1);
    let (wire, _, _) = broker.connect(&publisher);
    let (shard, key) = wire;
    let message = publish(QOS2, "t", 7, "x");
    broker.shards[shard].handle_bytes(key, &message, broker.now, &mut broker.effects);
    let to_other = broker.shards[0].outbound(ShardId(2)).drain(..);
    let to_other = Vec::from_iter(to_other);
    broker.exchange();
    write_all(&mut broker, &[1]);
    broker.connect_unanswered(&ending, 2);
    for envelope in to_other {
        let (now, effects) = (broker.now, &mut broker.effects);
        broker.shards[2].handle_envelope(ShardId(0), envelope, usize::MAX, now, effects);
    }
    write_all(&mut broker, &[2]);
    broker.kill(&folder);
    let mut broker = Broker::open(&folder, 3);
    let (wire, _, _) = broker.connect(&publisher);
    broker.send(wire, &publish(QOS2 | DUP, "t", 7, "x"));
    assert_eq!(types(&broker.stored(wire)), [PUBREC]);
    let (_, _, bytes) = broker.connect(&other);
    let qos = |it: &Vec<u8>| it[0] & 6;
    let came = packets(&bytes);
    let of_qos2 = came.iter().filter(|it| qos(it) == QOS2).count();
    assert_eq!(of_qos2, 1, "the other group has it once: {came:?}");
    assert!(came.iter().any(|it| qos(it) == QOS1), "{came:?}");
}

/// Messages of which PUBREC had come.
const RELEASED: u64 = 5;

/// A store with a Session that is owed QoS 2 messages of a group, of which none is known to have been sent, and
/// one that is owed nothing.
fn owed_to_a_member(folder: &Folder, is_connected: bool, window: Option<u16>) -> [String; 2] {
    let names = {
        let broker = Broker::open(folder, 2);
        let names = [broker.name_on(0), broker.name_on(1)];
        broker.kill(folder);
        names
    };
    let mut replayed = moved("");
    let template = replayed.sessions.remove(&1).unwrap();
    for (session, name) in (1..).zip(&names) {
        let mut member = ReplayedSession {
            session,
            is_connected,
            window,
            ..template.clone()
        };
        let mut identity = Identity::clone(member.identity.as_ref().unwrap());
        identity.client_identifier = name.as_str().into();
        member.identity = Some(identity.into());
        let options = SubscriptionOptions::new(QoS::ExactlyOnce);
        let subscription = ReplayedSubscription {
            options,
            identifier: None,
            is_replaying: false,
        };
        member.subscriptions = [(GROUP.to_owned(), subscription)].into();
        replayed.sessions.insert(session, member);
    }
    replayed.session_max = 2;
    let member = replayed.sessions.get_mut(&1).unwrap();
    member.next_sequence = 60;
    let deliveries = (0..60).map(|sequence| ReplayedDelivery {
        sequence,
        progress: if sequence < RELEASED {
            Progress::Released
        } else {
            Progress::Waiting
        },
        message: (sequence >= RELEASED).then(|| {
            let payload = format!("{sequence:02}");
            let message = MessageRef {
                topic_name: b"t",
                properties: b"",
                payload: payload.as_bytes(),
                qos: QoS::ExactlyOnce,
                retain: false,
                expires_at: None,
            };
            Message::new(message).into()
        }),
        qos: QoS::ExactlyOnce,
        retain: false,
        share: Some(GROUP.into()),
        subscription_identifiers: Default::default(),
    });
    member.deliveries = deliveries.collect();
    install_in(folder, &replayed).unwrap();
    names
}

#[test]
fn a_qos2_message_that_may_have_been_sent_when_the_broker_was_killed_is_handed_on_to_nobody() {
    // Shards of starts in between.
    let (none, same, fewer): (&[usize], &[usize], &[usize]) = (&[], &[2], &[1]);
    for (is_connected, window, ends, between) in [
        (true, None, true, none),
        (true, Some(3), true, same),
        (true, Some(30), true, fewer),
        (true, Some(3), false, none),
        (true, None, false, same),
        (false, Some(3), true, same),
    ] {
        let folder = Folder::new();
        let [leaving, staying] = owed_to_a_member(&folder, is_connected, window);
        for &shards in between {
            // What is said anew says so too, and so does what is dealt out anew.
            let mut broker = Broker::open(&folder, shards);
            broker.snapshot(&folder);
            broker.kill(&folder);
        }
        let mut broker = Broker::open(&folder, 2);
        if ends {
            broker.connect_unanswered(&leaving, 2);
        } else {
            let wire = broker.connect_unanswered(&leaving, 0);
            broker.send(wire, &unsubscribe(GROUP));
        }
        write_all(&mut broker, &[0, 1]);
        broker.exchange();
        write_all(&mut broker, &[0, 1]);
        broker.kill(&folder);
        let mut broker = Broker::open(&folder, 2);
        let mut came = take_all(&mut broker, &staying);
        came.sort();
        // An earlier version did not say what the window was.
        let window = window.unwrap_or(Limits::default().max_inflight_messages);
        let first = RELEASED + if is_connected { window.into() } else { 0 };
        let expected = (first..60).map(|sequence| format!("{sequence:02}"));
        assert_eq!(
            came,
            Vec::from_iter(expected),
            "{is_connected} {window} {ends} {between:?}"
        );
        broker.kill(&folder);
    }
}

#[test]
fn a_session_that_had_a_repeated_qos2_message_for_itself_gets_what_its_group_did_not_have() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 3);
    let [publisher, both, other] = [0, 1, 2].map(|shard| broker.name_on(shard));
    let (wire, _, _) = broker.connect(&both);
    broker.subscribe(wire, "t", 2);
    broker.subscribe(wire, GROUP, 2);
    broker.leave(wire);
    let (wire, _, _) = broker.connect(&other);
    broker.subscribe(wire, GROUP, 2);
    let (wire, _, _) = broker.connect(&publisher);
    // For the group it goes to the third shard, which writes nothing down.
    broker.send(wire, &publish(QOS2, "t", 7, "x"));
    broker.work(&[1], |broker| {
        !broker.shards[1].outbound(ShardId(0)).is_empty()
    });
    broker.kill(&folder);
    repeat_to(&folder, &publisher, &both, 0);
    let mut broker = Broker::open(&folder, 2);
    let (_, _, bytes) = broker.connect(&both);
    assert_eq!(payloads(&bytes, "t"), ["x", "x"]);
    let (_, _, bytes) = broker.connect(&other);
    assert_eq!(payloads(&bytes, "t"), [""; 0]);
    broker.kill(&folder);
}

#[test]
fn a_place_that_was_handed_on_before_its_own_log_knew_of_it_is_given_to_nothing_else() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 2);
    let (leaving, staying) = (broker.name_on(0), broker.name_on(1));
    let (wire, _, _) = broker.connect(&leaving);
    broker.subscribe(wire, GROUP, 1);
    broker.leave(wire);
    let (heir, _, _) = broker.connect(&staying);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    broker.send(publisher, &publish(QOS1, "t", 1, "shared"));
    broker.send(heir, &subscribe(GROUP, 1));
    broker.work(&[1], |broker| {
        broker.exchange();
        broker.leaves(heir) == [SUBACK]
    });
    broker.connect_unanswered(&leaving, 2);
    assert_eq!(payloads(&broker.output(heir), "t"), ["shared"]);
    // Of that, only the second shard has anything.
    write_all(&mut broker, &[1]);
    broker.kill(&folder);

    let mut broker = Broker::open(&folder, 2);
    let (wire, was_there, _) = broker.connect(&leaving);
    assert!(was_there);
    broker.subscribe(wire, "u", 1);
    broker.leave(wire);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    broker.send(publisher, &publish(QOS1, "u", 1, "its own"));
    assert_eq!(types(&broker.stored(publisher)), [PUBACK]);
    broker.kill(&folder);

    let mut broker = Broker::open(&folder, 2);
    let (_, _, bytes) = broker.connect(&leaving);
    assert_eq!(payloads(&bytes, "u"), ["its own"]);
    broker.kill(&folder);
}

#[test]
fn a_session_that_has_handed_on_everything_is_gone_and_snapshots_keep_it_until_then() {
    let folder = Folder::new();
    let (mut broker, leaving, staying) = waiting_in_a_group(&folder);
    broker.connect_unanswered(&leaving, 2);
    // The first shard says all that it still has anew, and would forget what it had before.
    broker.shards[0].begin_snapshot();
    let mut looks = 0;
    broker.work(&[0], |broker| {
        broker.exchange();
        looks += 1;
        looks == 200
    });
    broker.kill(&folder);
    check_handed_on(&folder, &leaving, &staying, &[]);

    let folder = Folder::new();
    let (mut broker, leaving, _) = waiting_in_a_group(&folder);
    broker.connect_unanswered(&leaving, 2);
    for _ in 0..3 {
        write_all(&mut broker, &[0, 1]);
        broker.exchange();
    }
    broker.snapshot(&folder);
    broker.kill(&folder);
    let broker = Broker::open(&folder, 2);
    assert_eq!(
        (broker.report.sessions, broker.report.deliveries),
        (1, MESSAGES.into())
    );
    broker.end();
}

#[test]
fn sessions_queues_and_retained_messages_are_dealt_out_to_any_number_of_shards() {
    let folder = Folder::new();
    let names: Vec<String> = (0..12).map(|number| format!("client-{number}")).collect();
    let mut broker = Broker::open(&folder, 2);
    for name in &names {
        sleeper(&mut broker, name);
    }
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    for number in 1..=3 {
        broker.send(publisher, &publish(QOS1, "t", number, &number.to_string()));
        assert_eq!(types(&broker.stored(publisher)), [PUBACK]);
    }
    broker.send(publisher, &publish(QOS1 | RETAIN, "kept", 4, "value"));
    assert_eq!(types(&broker.stored(publisher)), [PUBACK]);
    broker.end();
    for count in [1, 5, 3, 2] {
        let broker = Broker::open(&folder, count);
        let report = &broker.report;
        assert_eq!(
            (report.sessions, report.deliveries, report.retained),
            (12, 36, 1)
        );
        broker.end();
    }
    let mut broker = Broker::open(&folder, 3);
    for name in &names {
        let (wire, was_there, bytes) = broker.connect(name);
        assert!(was_there, "{name}");
        assert_eq!(payloads(&bytes, "t"), ["1", "2", "3"], "{name}");
        broker.send(wire, &subscribe("kept", 0));
        let mut bytes = broker.stored(wire);
        bytes.extend(broker.output(wire));
        assert_eq!(payloads(&bytes, "kept"), ["value"], "{name}");
    }
}

#[test]
fn what_was_acknowledged_does_not_come_again() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    for number in 1..=3 {
        broker.send(publisher, &publish(QOS1, "t", number, &number.to_string()));
        broker.stored(publisher);
    }
    let (wire, _, bytes) = broker.connect("a");
    let identifiers: Vec<u16> = packets(&bytes)
        .iter()
        .map(|packet| u16::from_be_bytes([packet[5], packet[6]]))
        .collect();
    broker.send(wire, &acknowledge(0x40, identifiers[1]));
    broker.leave(wire);
    broker.end();
    let mut broker = Broker::open(&folder, 1);
    let (_, _, bytes) = broker.connect("a");
    assert_eq!(payloads(&bytes, "t"), ["1", "3"]);
    // Packet Identifiers stay what they were, and DUP is set [MQTT-4.4.0-1] [MQTT-3.3.1-1].
    for (packet, identifier) in packets(&bytes).iter().zip([identifiers[0], identifiers[2]]) {
        assert_eq!(u16::from_be_bytes([packet[5], packet[6]]), identifier);
        assert_eq!(packet[0] & DUP, DUP);
    }
}

/// Makes the segment that would come next, with `size` bytes of its header and `room` bytes in all, as a
/// crash leaves it.
fn begin_segment(folder: &Folder, size: usize, room: usize) {
    let last = folder.segments().pop().unwrap();
    let bytes = fs::read(&last).unwrap();
    let header = SegmentHeader::decode(bytes.first_chunk().unwrap()).unwrap();
    let frames = &mut &bytes[SEGMENT_HEADER_SIZE..];
    let scanned = scan::<io::Error>(frames, header.first, Lsn::MAX, 0, |_| Ok(())).unwrap();
    let next = SegmentHeader {
        first: scanned.next,
        ..header
    };
    let mut content = next.encode()[..size].to_vec();
    content.resize(room, 0);
    let name = last.file_name().unwrap().to_str().unwrap();
    let [old, new] = [header.first, next.first].map(|first| format!("{first:020}"));
    fs::write(folder.0.join(name.replace(&old, &new)), content).unwrap();
}

#[test]
fn snapshots_shorten_the_log_and_lose_nothing() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    let (reader, _, _) = broker.connect("reader");
    broker.subscribe(reader, "r", 1);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    broker.send(publisher, &publish(QOS1, "t", 1, "kept"));
    broker.stored(publisher);
    let payload = "x".repeat(100);
    let mut most = 0;
    for number in 0..4000_u16 {
        broker.send(publisher, &publish(QOS1, "r", number + 1, &payload));
        for packet in packets(&broker.output(reader)) {
            let identifier = u16::from_be_bytes([packet[5], packet[6]]);
            broker.send(reader, &acknowledge(0x40, identifier));
        }
        if number % 16 == 0 {
            broker.stored(publisher);
            most = most.max(folder.segments().len());
        }
    }
    assert!(most < 12, "{most} segments of what is not needed");
    broker.end();
    let mut broker = Broker::open(&folder, 1);
    let (_, _, bytes) = broker.connect("a");
    assert_eq!(payloads(&bytes, "t"), ["kept"]);
}

#[test]
fn a_session_lives_as_long_as_it_asked_for_though_the_calendar_was_set_meanwhile() {
    // [MQTT-3.1.2-23]: a day passes by the calendar, and a second in fact.
    const DAY_MS: u64 = 24 * 60 * 60 * 1000;
    let connect = |hour: &[u8]| {
        let mut body = b"\0\x04MQTT\x05\0\0\0".to_vec();
        body.extend([5, 0x11]);
        body.extend(hour);
        put_text(&mut body, "a");
        packet(0x10, &body)
    };
    let hour = 3600_u32.to_be_bytes();
    for (before, after) in [(0, DAY_MS), (DAY_MS, 0)] {
        let folder = Folder::new();
        let calendar = |start_ms| WallClock { start_ms };
        let open = |at| Broker::try_open_at(&folder.0, 1, false, calendar(at)).unwrap();
        let mut broker = open(before);
        let wire = (0, broker.accept(0));
        broker.send(wire, &connect(&hour));
        broker.stored(wire);
        broker.leave(wire);
        assert!(!broker.shards[0].handle_calendar(calendar(before + 10)));
        assert!(broker.shards[0].handle_calendar(calendar(after)));
        broker.logs[0].say_anew();
        broker.look(0);
        broker.work(&[0], |broker| {
            !broker.logs[0].is_writing() && !broker.logs[0].has_work(&broker.shards[0])
        });
        broker.kill(&folder);

        // It is there, and ends an hour after it was left and not later.
        let mut broker = open(after);
        let replayed = broker.shards[0].next_deadline().unwrap();
        assert!(replayed <= Instant::ZERO.add_seconds(3601), "{replayed:?}");
        let wire = (0, broker.accept(0));
        broker.send(wire, &connect(&hour));
        assert_eq!(broker.stored(wire)[2], 1, "Session Present");
    }
}

#[test]
fn a_start_with_a_long_log_of_which_all_is_alive_does_not_write_it_again() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    for name in 0..10 {
        sleeper(&mut broker, &name.to_string());
    }
    let (publisher, _, _) = broker.connect("p");
    // Several times the size from which a short log is written again.
    for number in 1..=1000 {
        let payload = "x".repeat(60);
        broker.send(publisher, &publish(QOS1, "t", number, &payload));
        if number % 100 == 0 {
            broker.stored(publisher);
        }
    }
    broker.end();
    for count in [1, 2, 2] {
        let mut broker = Broker::open(&folder, count);
        let before = folder.segments();
        for shard in 0..count {
            broker.look(shard);
            assert!(!broker.shards[shard].is_in_snapshot());
        }
        assert_eq!(broker.report.deliveries, 10_000);
        broker.end();
        let written: Vec<_> = folder.segments();
        let written = written.iter().filter(|it| !before.contains(it));
        let size: u64 = written.map(|it| fs::metadata(it).unwrap().len()).sum();
        assert!(size < 1 << 17, "{count}: {size} bytes");
    }
}

#[test]
fn a_segment_that_was_made_before_a_crash_and_holds_nothing_is_not_removed_as_an_old_one() {
    let folder = Folder::new();
    // More than is written before a snapshot is worth its while, all of it needed: the next life begins
    // with one.
    let mut broker = Broker::open(&folder, 1);
    let names = ["a", "b", "c", "d"];
    for name in names {
        sleeper(&mut broker, name);
    }
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    for number in 1..=900 {
        let payload = format!("{number} {}", "x".repeat(90));
        broker.send(publisher, &publish(QOS1, "t", number, &payload));
        if number % 50 == 0 {
            broker.stored(publisher);
        }
    }
    broker.end();
    begin_segment(&folder, SEGMENT_HEADER_SIZE, 1000);
    for _ in 0..3 {
        let mut broker = Broker::open(&folder, 1);
        assert_eq!(broker.report.sessions, names.len());
        assert_eq!(broker.report.deliveries, names.len() * 900);
        let publisher = broker.connect_unanswered("p", 2);
        broker.leaves(publisher);
        // Until what the snapshot has made needless is removed.
        for number in 1..=200 {
            broker.send(publisher, &publish(QOS1 | RETAIN, "r", number, "x"));
            broker.stored(publisher);
        }
        broker.end();
    }
}

#[test]
fn a_header_of_which_only_the_beginning_was_written_is_a_segment_that_holds_nothing() {
    let all = [0, 5, 8, 10, 39].map(|size| [(size, 1000), (size, size)]);
    for (size, room) in all.into_iter().flatten() {
        let folder = Folder::new();
        broker_with_messages(&folder);
        begin_segment(&folder, size, room);
        let mut broker = Broker::open(&folder, 1);
        let (_, _, delivered) = broker.connect("a");
        assert_eq!(
            payloads(&delivered, "t").len(),
            5,
            "{size} bytes of the header"
        );
    }
}

// What a disk may do.

/// Where the frames of a segment end.
fn end_of_frames(path: &Path) -> usize {
    let bytes = fs::read(path).unwrap();
    let header = bytes.first_chunk::<SEGMENT_HEADER_SIZE>().unwrap();
    let first = SegmentHeader::decode(header).unwrap().first;
    let frames = &mut &bytes[SEGMENT_HEADER_SIZE..];
    let scanned = scan::<io::Error>(frames, first, Lsn::MAX, 0, |_| Ok(())).unwrap();
    SEGMENT_HEADER_SIZE + scanned.bytes as usize
}

fn broker_with_messages(folder: &Folder) -> PathBuf {
    let mut broker = Broker::open(folder, 1);
    sleeper(&mut broker, "a");
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    for number in 1..=5 {
        broker.send(publisher, &publish(QOS1, "t", number, "x"));
        broker.stored(publisher);
    }
    broker.end();
    folder.segments().pop().unwrap()
}

#[test]
fn an_unfinished_write_at_the_end_is_left_out_and_reported() {
    let folder = Folder::new();
    let path = broker_with_messages(&folder);
    let end = end_of_frames(&path);
    let mut bytes = fs::read(&path).unwrap();
    bytes[end..end + 8].copy_from_slice(&[200, 0, 0, 0, 1, 2, 3, 4]);
    fs::write(&path, &bytes).unwrap();
    let mut broker = Broker::open(&folder, 1);
    assert_eq!(broker.report.torn_bytes, 8);
    assert!(broker.report.to_string().contains("8 bytes of a write"));
    // The room behind the frames is given back.
    assert_eq!(fs::metadata(&path).unwrap().len(), end as u64);
    let (_, _, bytes) = broker.connect("a");
    assert_eq!(payloads(&bytes, "t").len(), 5);
}

#[test]
fn damage_to_what_was_stored_refuses_to_start_and_says_where() {
    let folder = Folder::new();
    let path = broker_with_messages(&folder);
    let mut bytes = fs::read(&path).unwrap();
    bytes[SEGMENT_HEADER_SIZE + 30] ^= 1;
    fs::write(&path, &bytes).unwrap();
    let error = Broker::try_open(&folder.0, 1, false)
        .map(|_| ())
        .unwrap_err();
    let text = error.to_string();
    assert!(text.contains(path.to_str().unwrap()), "{text}");
    assert!(text.contains("offset 40"), "{text}");
    assert!(text.contains("--recover"), "{text}");
    let broker = Broker::try_open(&folder.0, 1, true).unwrap();
    assert_eq!(broker.report.lost_frames, 1);
    assert!(broker.report.to_string().contains("LOST"));
}

#[test]
fn another_format_is_refused_even_with_recover() {
    let folder = Folder::new();
    let path = broker_with_messages(&folder);
    let mut bytes = fs::read(&path).unwrap();
    bytes[8] = 9;
    fs::write(&path, &bytes).unwrap();
    for recover in [false, true] {
        let error = Broker::try_open(&folder.0, 1, recover)
            .map(|_| ())
            .unwrap_err();
        assert!(error.to_string().contains("format 9"), "{error}");
    }
}

#[test]
fn one_broker_uses_a_directory_at_a_time() {
    let folder = Folder::new();
    let broker = Broker::open(&folder, 1);
    let error = Broker::try_open(&folder.0, 1, false)
        .map(|_| ())
        .unwrap_err();
    assert!(error.to_string().contains("another broker"), "{error}");
    broker.end();
    Broker::open(&folder, 1);
}

/// Something has the names that the first segments of a shard are made under.
fn block_segments(folder: &Folder) -> Vec<PathBuf> {
    let names = (1..100).map(|first| format!("00000001-000-{first:020}.log.new"));
    let paths: Vec<_> = names.map(|name| folder.0.join(name)).collect();
    paths.iter().for_each(|it| fs::create_dir(it).unwrap());
    paths
}

#[test]
fn an_end_waits_no_longer_than_for_another_attempt_if_the_disk_refuses() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    broker.end();
    let mut broker = Broker::open(&folder, 1);
    let in_the_way = block_segments(&folder);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    broker.send(publisher, &publish(QOS1, "t", 1, "refused"));
    broker.work(&[0], |broker| broker.shards[0].counters().store_stalls > 0);
    assert_eq!(broker.leaves(publisher), NOTHING);
    let began = std::time::Instant::now();
    broker.end();
    // A disk that is at work is waited for longer.
    assert!(began.elapsed() < Duration::from_secs(5));
    in_the_way.iter().for_each(|it| fs::remove_dir(it).unwrap());
    Broker::open(&folder, 1).end();
}

#[test]
fn a_store_that_is_moved_away_while_a_broker_runs_has_all_that_was_acknowledged() {
    let folder = Folder::new();
    let away = folder.0.with_extension("away");
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    // One message, and another segment.
    let go_on = |broker: &mut Broker| {
        let payload = "x".repeat(100);
        broker.send(publisher, &publish(QOS1, "t", 1, "owed"));
        for number in 2..=601 {
            broker.send(publisher, &publish(QOS1 | RETAIN, "r", number, &payload));
            if number % 50 == 0 {
                broker.stored(publisher);
            }
        }
        write_all(broker, &[0]);
        broker.shards[0].counters().store_moves
    };
    assert_eq!(go_on(&mut broker), 0);
    fs::rename(&folder.0, &away).unwrap();
    fs::create_dir(&folder.0).unwrap();
    assert_eq!(go_on(&mut broker), 1);
    assert_eq!(go_on(&mut broker), 1);
    assert!(fs::read_dir(&folder.0).unwrap().next().is_none());
    fs::remove_dir(&folder.0).unwrap();
    fs::rename(&away, &folder.0).unwrap();
    assert_eq!(go_on(&mut broker), 1);
    fs::rename(&folder.0, &away).unwrap();
    assert_eq!(go_on(&mut broker), 2);
    broker.end();
    fs::rename(&away, &folder.0).unwrap();
    let report = &Broker::open(&folder, 1).report;
    assert_eq!((report.deliveries, report.retained), (5, 1));
}

#[test]
fn nothing_is_acknowledged_while_the_disk_refuses_and_all_of_it_afterwards() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    broker.end();
    let mut broker = Broker::open(&folder, 1);
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    let in_the_way = block_segments(&folder);
    broker.send(publisher, &publish(QOS1, "t", 1, "first"));
    for _ in 0..400 {
        broker.logs[0].turn(&mut broker.shards[0], broker.now, &mut broker.effects);
        assert_eq!(broker.leaves(publisher), NOTHING);
        std::thread::sleep(Duration::from_millis(1));
    }
    // Told by now that the disk refuses: what needs none goes on.
    broker.send(publisher, &publish(QOS1, "nobody", 3, "x"));
    broker.send(publisher, &publish(0, "t", 0, "x"));
    in_the_way.iter().for_each(|it| fs::remove_dir(it).unwrap());
    assert_eq!(types(&broker.stored(publisher)), [PUBACK, PUBACK]);
    broker.end();
    let mut broker = Broker::open(&folder, 1);
    let (_, _, bytes) = broker.connect("a");
    assert_eq!(payloads(&bytes, "t"), ["first"]);
}

#[test]
fn nothing_is_acknowledged_once_the_store_was_removed() {
    let folder = Folder::new();
    let mut broker = Broker::open(&folder, 1);
    sleeper(&mut broker, "a");
    let publisher = broker.connect_unanswered("p", 2);
    broker.leaves(publisher);
    fs::remove_dir_all(&folder.0).unwrap();
    broker.send(publisher, &publish(QOS1, "t", 1, "lost"));
    for _ in 0..400 {
        broker.look(0);
        assert_eq!(broker.leaves(publisher), NOTHING);
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// A Session that was somewhere else before.
fn moved(client_identifier: &str) -> Replayed {
    Replayed::of_one_session(client_identifier)
}

fn install_in(folder: &Folder, replayed: &Replayed) -> Result<(), InstallError> {
    install(&folder.0, replayed, WallClock { start_ms: 1000 }, 7, &[])
}

#[test]
fn what_is_installed_is_a_store_for_any_number_of_shards_and_is_not_replaced() {
    let folder = Folder::new();
    install_in(&folder, &moved("c")).unwrap();
    for count in [2, 1] {
        let refused = install_in(&folder, &moved("d")).unwrap_err();
        assert!(
            refused
                .to_string()
                .contains("holds 1 sessions and 0 retained messages already"),
            "{refused}"
        );
        let mut broker = Broker::open(&folder, count);
        let in_use = install_in(&folder, &moved("d")).unwrap_err();
        assert!(in_use.to_string().contains("another broker"), "{in_use}");
        assert_eq!(broker.report.sessions, 1);
        let (wire, was_there, _) = broker.connect("c");
        assert!(was_there);
        broker.leave(wire);
        broker.end();
    }
}

#[test]
fn a_store_that_holds_nothing_can_be_installed_over() {
    let folder = Folder::new();
    Broker::open(&folder, 2).end();
    install_in(&folder, &moved("c")).unwrap();
    let broker = Broker::open(&folder, 2);
    assert_eq!(broker.report.sessions, 1);
}

#[test]
fn an_installation_that_is_cut_short_leaves_nothing_and_can_be_done_again() {
    let folder = Folder::new();
    let cut_short = || {
        install_in(&folder, &moved("half")).unwrap();
        // The last thing that is written but for inventories, which are of what counts.
        fs::remove_file(folder.0.join("STORE")).unwrap();
        fs::remove_file(folder.0.join("00000002-000.segments")).unwrap();
        assert!(!folder.segments().is_empty());
    };
    cut_short();
    let broker = Broker::open(&folder, 1);
    assert_eq!(broker.report.sessions, 0);
    broker.end();
    fs::remove_dir_all(&folder.0).unwrap();

    cut_short();
    install_in(&folder, &moved("whole")).unwrap();
    let mut broker = Broker::open(&folder, 1);
    assert_eq!(broker.report.sessions, 1);
    assert!(broker.connect("whole").1);
    broker.end();

    // A log that may be somebody's is left alone.
    fs::remove_file(folder.0.join("STORE")).unwrap();
    let before = folder.segments();
    fs::rename(
        &before[0],
        folder.0.join("00000001-000-00000000000000000001.log"),
    )
    .unwrap();
    let refused = install_in(&folder, &moved("other")).unwrap_err();
    assert!(matches!(refused, InstallError::Stray { .. }), "{refused}");
}
