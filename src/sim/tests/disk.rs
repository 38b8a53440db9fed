//! What a broker finds on a disk that failed it.

use std::time::Duration;

use crate::config::Durability;
use crate::journal::{Progress, Replayed, ReplayedDelivery, WallClock};
use crate::key::{ConnectionKey, ShardId};
use crate::limits::Limits;
use crate::message::{Message, MessageRef, QoS};
use crate::origin::Origin;
use crate::shard::{Effects, Shard};
use crate::sim::{Disk, Faults, Random};
use crate::time::Instant;
use crate::wal::{
    InstallError, Log, OpenError, Report, Storage, StoreOptions, Writer, install_into,
};

/// A broker of one shard, whose disk works when it is told to.
struct Broker {
    shard: Shard,
    log: Log,
    writer: Writer,
    effects: Effects,
    report: Report,
}

fn options() -> StoreOptions {
    StoreOptions {
        segment_size: 1024,
        ..StoreOptions::new("unused".into())
    }
}

impl Broker {
    fn open(disk: &Disk) -> Self {
        Self::try_open(disk).unwrap()
    }

    fn try_open(disk: &Disk) -> Result<Self, OpenError> {
        Self::try_open_with(disk, &options())
    }

    fn try_open_with(disk: &Disk, options: &StoreOptions) -> Result<Self, OpenError> {
        let mut store = disk.open(options, 1, 7)?;
        let mut shard = Shard::new(ShardId(0), 1, Limits::default(), 7);
        let part = store.shards.remove(0);
        part.restore(&mut shard, 0, 1, Instant::ZERO);
        let mut log = store.logs.remove(0);
        Ok(Self {
            shard,
            writer: log.take_writer().unwrap(),
            log,
            effects: Effects::default(),
            report: store.report,
        })
    }

    fn work(&mut self) {
        self.log
            .turn(&mut self.shard, Instant::ZERO, &mut self.effects);
        self.writer.step(Instant::ZERO);
        self.log
            .turn(&mut self.shard, Instant::ZERO, &mut self.effects);
    }

    /// Hears what a Client says `now`, while the disk does so many things. How many PUBACKs it sends.
    fn hear(&mut self, key: ConnectionKey, bytes: &[u8], now: Instant, steps: usize) -> usize {
        let output = self.answer(key, bytes, now, steps);
        packets(&output).filter(|it| it[0] == 0x40).count()
    }

    /// The same, and all that it sends.
    fn answer(&mut self, key: ConnectionKey, bytes: &[u8], now: Instant, steps: usize) -> Vec<u8> {
        let Self { shard, effects, .. } = self;
        // While the disk refuses, nothing is read.
        let _ = shard.handle_bytes(key, bytes, now, effects);
        for _ in 0..steps {
            self.log.turn(shard, now, effects);
            self.writer.step(now);
        }
        self.log.turn(shard, now, effects);
        let mut output = Vec::new();
        shard.take_output(key, &mut output);
        output
    }

    /// Has the disk do what is left, and what is due `now`.
    fn rest(&mut self, now: Instant) {
        while self.writer.step(now) {
            self.log.turn(&mut self.shard, now, &mut self.effects);
        }
    }
}

/// Each of some packets of less than 128 bytes.
fn packets(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let size = 2 + usize::from(*rest.get(1)?);
        let (packet, after) = rest.split_at(size);
        rest = after;
        Some(packet)
    })
}

/// CONNECT of a Client whose Session stays, and SUBSCRIBE to what it is going to publish.
const CONNECT: &[u8] = b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a";
const SUBSCRIBE: &[u8] = b"\x82\x06\0\x01\0\x01t\x01";

/// A PUBLISH of QoS 1 whose first byte and topic are these.
fn publish(first: u8, topic: u8, number: u8) -> Vec<u8> {
    let mut packet = vec![first, 105, 0, 1, topic, 0, number];
    packet.extend([b'x'; 100]);
    packet
}

#[test]
fn what_a_broker_has_found_after_a_failed_sync_outlives_the_power_failure_that_follows() {
    let mut found = 0;
    for seed in 0..300 {
        let disk = Disk::new(Random::new(seed));
        let mut broker = Broker::open(&disk);
        let key = broker
            .shard
            .handle_accept(Origin::default(), Instant::ZERO)
            .unwrap();
        let send = |broker: &mut Broker, bytes: &[u8]| {
            let (now, effects) = (Instant::ZERO, &mut broker.effects);
            // While the disk refuses, nothing is read.
            let _ = broker.shard.handle_bytes(key, bytes, now, effects);
            broker.work();
        };
        // A Session that stays, and that is owed what it publishes.
        send(&mut broker, b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a");
        send(&mut broker, b"\x82\x06\0\x01\0\x01t\x01");
        disk.set_faults(Faults {
            failing: 30,
            ..Faults::default()
        });
        for number in 1..=20 {
            send(&mut broker, &[0x32, 0x06, 0, 1, b't', 0, number, b'x']);
        }
        drop(broker);
        // Killed. What the next one finds it goes on with, and acknowledges when it is repeated.
        disk.set_faults(Faults::default());
        let before = Broker::open(&disk).report;
        disk.lose_power();
        let after = Broker::open(&disk).report;
        // More, where the disk had what the system did not show.
        assert!(after.deliveries >= before.deliveries, "seed {seed}");
        found += before.deliveries;
    }
    assert!(found > 300, "only {found}");
}

/// The time after which what is written is brought to the disk.
const INTERVAL: Duration = Duration::from_millis(100);

/// How many messages a broker whose promise is that of `durability` finds after a failure of the power, and how many
/// were acknowledged more than [`INTERVAL`] before. The disk fails now and then until then; not in that time.
fn found_after_failures(seed: u64, durability: Durability) -> (usize, usize) {
    let disk = Disk::new(Random::new(seed));
    let mut random = Random::new(seed + 1000);
    let (mut broker, key) = with_durability(&disk, durability);
    let mut now = Instant::ZERO;
    let mut acknowledged = 0;
    broker.hear(key, SUBSCRIBE, now, 4);
    for number in 1..=40 {
        disk.set_faults(Faults {
            failing: *random.pick(&[0, 0, 30, 100]),
            is_full: random.one_in(8),
            ..Faults::default()
        });
        acknowledged += broker.hear(key, &publish(0x32, b't', number), now, 4);
        now = now + INTERVAL / 3;
    }
    disk.set_faults(Faults::default());
    acknowledged += broker.hear(key, &[], now, 4);
    broker.rest(now + INTERVAL);
    drop(broker);
    disk.lose_power();
    let broker = Broker::try_open_with(&disk, &promising(durability))
        .unwrap_or_else(|error| panic!("seed {seed}: {error}"));
    (broker.report.deliveries, acknowledged)
}

#[test]
fn with_an_interval_a_disk_that_failed_has_everything_an_interval_after_it_works_again() {
    for seed in 0..300 {
        let (found, acknowledged) = found_after_failures(seed, Durability::Interval(INTERVAL));
        assert!(
            found >= acknowledged,
            "seed {seed}: {found} of {acknowledged}"
        );
        assert!(acknowledged > 5, "seed {seed}: only {acknowledged}");
    }
}

#[test]
fn with_an_interval_a_snapshot_replaces_nothing_before_the_disk_has_it() {
    const MESSAGES: u8 = 8;
    let options = promising(Durability::Interval(INTERVAL));
    for seed in 0..300 {
        let disk = Disk::new(Random::new(seed));
        let mut random = Random::new(seed + 1000);
        let mut broker = Broker::try_open_with(&disk, &options).unwrap();
        let mut now = Instant::ZERO;
        let key = broker.shard.handle_accept(Origin::default(), now).unwrap();
        broker.hear(key, CONNECT, now, 4);
        broker.hear(key, SUBSCRIBE, now, 4);
        for number in 1..=MESSAGES {
            broker.hear(key, &publish(0x32, b't', number), now, 4);
        }
        now = now + INTERVAL;
        broker.rest(now);
        // Retained messages, each instead of the one before, have the log say all anew sooner or later.
        for number in 1..=random.between(1, 60) as u8 {
            let retained = publish(0x33, b'r', number);
            broker.hear(key, &retained, now, random.between(1, 4));
            now = now + INTERVAL / 50;
        }
        drop(broker);
        disk.lose_power();
        let found = Broker::try_open_with(&disk, &options).unwrap().report;
        let kept = usize::from(MESSAGES);
        assert_eq!(found.deliveries, kept, "seed {seed}");
    }
}

fn promising(durability: Durability) -> StoreOptions {
    StoreOptions {
        durability,
        ..options()
    }
}

/// A broker that syncs after a while, on what is on a disk, and a Client of it that has a Session.
fn with_interval(disk: &Disk) -> (Broker, ConnectionKey) {
    with_durability(disk, Durability::Interval(INTERVAL))
}

/// The same of any promise.
fn with_durability(disk: &Disk, durability: Durability) -> (Broker, ConnectionKey) {
    let mut broker = Broker::try_open_with(disk, &promising(durability)).unwrap();
    let now = Instant::ZERO;
    let key = broker.shard.handle_accept(Origin::default(), now).unwrap();
    broker.hear(key, CONNECT, now, 4);
    (broker, key)
}

/// [MQTT-4.3.3-10] [MQTT-3.3.1-1]
#[test]
fn a_publish_under_an_identifier_whose_release_was_lost_is_another_message_unless_it_is_a_duplicate()
 {
    for (seed, is_released) in (0..20).flat_map(|seed| [(seed, true), (seed, false)]) {
        let disk = Disk::new(Random::new(seed));
        let (mut broker, key) = with_interval(&disk);
        broker.hear(key, SUBSCRIBE, Instant::ZERO, 4);
        broker.hear(key, b"\x34\x06\0\x01t\0\x071", Instant::ZERO, 4);
        broker.rest(Instant::ZERO + INTERVAL);
        if is_released {
            let answer = broker.answer(key, b"\x62\x02\0\x07", Instant::ZERO, 4);
            assert!(packets(&answer).any(|it| it == b"\x70\x02\0\x07"));
        }
        drop(broker);
        disk.lose_power();
        let (mut broker, key) = with_interval(&disk);
        let packet = if is_released {
            b"\x34\x06\0\x01t\0\x072"
        } else {
            b"\x3c\x06\0\x01t\0\x071"
        };
        for _ in 0..2 {
            let answer = broker.answer(key, packet, Instant::ZERO, 4);
            assert!(packets(&answer).any(|it| it == b"\x50\x02\0\x07"));
        }
        broker.rest(Instant::ZERO + INTERVAL);
        drop(broker);
        let (broker, _) = with_interval(&disk);
        let expected = 1 + usize::from(is_released);
        assert_eq!(broker.report.deliveries, expected, "seed {seed}");
    }
}

#[test]
fn an_identifier_that_a_client_may_hold_though_a_power_failure_took_its_message_is_given_to_no_other()
 {
    const SUBSCRIBE_QOS2: &[u8] = b"\x82\x06\0\x01\0\x01t\x02";
    let is_sent = |packet: &&[u8]| packet[0] & 0xf6 == 0x34;
    let mut lost = 0;
    for seed in 0..20 {
        let disk = Disk::new(Random::new(seed));
        let (mut broker, key) = with_interval(&disk);
        broker.hear(key, SUBSCRIBE_QOS2, Instant::ZERO, 4);
        broker.rest(Instant::ZERO + INTERVAL);
        let answer = broker.answer(key, b"\x34\x06\0\x01t\0\x081", Instant::ZERO, 4);
        let sent = packets(&answer).find(is_sent).unwrap();
        let held = &sent[5..7];
        drop(broker);
        disk.lose_power();
        let (mut broker, key) = with_interval(&disk);
        lost += usize::from(broker.report.deliveries == 0);
        let answer = broker.answer(key, b"\x34\x06\0\x01t\0\x092", Instant::ZERO, 4);
        for packet in packets(&answer).filter(is_sent) {
            assert!(&packet[5..7] != held || packet[7] == b'1', "seed {seed}");
        }
    }
    assert!(lost > 0);
}

#[test]
fn an_identifier_that_a_client_may_hold_is_passed_over_though_it_was_given_thousands_since_the_last_sync()
 {
    const SUBSCRIBE_QOS2: &[u8] = b"\x82\x06\0\x01\0\x01t\x02";
    // Together as many as may be in flight.
    const TURNS: usize = 150;
    const MESSAGES: u8 = 20;
    let identifiers = |output: &[u8]| -> Vec<u16> {
        let sent = packets(output).filter(|it| it[0] >> 4 == 3);
        sent.map(|it| u16::from_be_bytes([it[5], it[6]])).collect()
    };
    let options = StoreOptions {
        segment_size: 1 << 20,
        ..promising(Durability::Interval(INTERVAL))
    };
    let (disk, now) = (Disk::new(Random::new(1)), Instant::ZERO);
    let open = |disk: &Disk| {
        let mut broker = Broker::try_open_with(disk, &options).unwrap();
        let key = broker.shard.handle_accept(Origin::default(), now).unwrap();
        broker.hear(key, CONNECT, now, 4);
        (broker, key)
    };
    let (mut broker, key) = open(&disk);
    broker.hear(key, SUBSCRIBE_QOS2, now, 4);
    broker.rest(now + INTERVAL);
    let (mut given, mut last) = (0, 0);
    for _ in 0..TURNS {
        let messages: Vec<u8> = (1..=MESSAGES)
            .flat_map(|number| [0x32, 6, 0, 1, b't', 0, number, b'x'])
            .collect();
        let came = identifiers(&broker.answer(key, &messages, now, 2));
        let acknowledged = came.iter().flat_map(|it| {
            let [high, low] = it.to_be_bytes();
            [0x40, 2, high, low]
        });
        broker.hear(key, &acknowledged.collect::<Vec<u8>>(), now, 2);
        given += came.len();
        last = came.last().copied().unwrap_or(last);
    }
    assert_eq!(given, TURNS * usize::from(MESSAGES));
    let held = identifiers(&broker.answer(key, b"\x34\x06\0\x01t\0\x08y", now, 4));
    assert_eq!(held, [last + 1]);
    drop(broker);
    disk.lose_power();
    let (mut broker, key) = open(&disk);
    assert!(broker.report.deliveries == 0);
    let next = identifiers(&broker.answer(key, b"\x34\x06\0\x01t\0\x09z", now, 4));
    assert!(next[0] > held[0], "{next:?} before {held:?}");
}

/// Sessions of the broker below.
const SESSIONS: usize = 40;

/// Messages that its disk has before it fails.
const SYNCED: u8 = 8;

/// A broker whose acknowledgements do not wait for the disk, so many steps after a sync that failed and took with it what
/// was to be synced. Its disk, and how many messages were acknowledged.
fn losing(seed: u64, durability: Durability, steps: usize) -> (Broker, Disk, usize) {
    let disk = Disk::new(Random::new(seed));
    let mut random = Random::new(seed + 1000);
    let (mut broker, key) = with_durability(&disk, durability);
    let mut now = Instant::ZERO;
    broker.hear(key, SUBSCRIBE, now, 4);
    // More Sessions than are said anew in one turn.
    for name in (b'0'..).take(SESSIONS - 1) {
        let (_, before) = CONNECT.split_last().unwrap();
        let connect = [before, &[name]].concat();
        let other = broker.shard.handle_accept(Origin::default(), now).unwrap();
        broker.hear(other, &connect, now, 1);
    }
    broker.hear(key, &[], now, 20);
    let mut acknowledged = 0;
    for number in 1..=SYNCED {
        acknowledged += broker.hear(key, &publish(0x32, b't', number), now, 4);
    }
    now = now + INTERVAL;
    broker.rest(now);
    broker.writer.finish();
    // So that the log is being said anew, or has been, or has not.
    for number in 1..=random.between(1, 60) as u8 {
        broker.hear(key, &publish(0x33, b'r', number), now, random.between(1, 4));
        now = now + INTERVAL / 50;
    }
    broker.hear(key, &[], now, 4);
    for number in SYNCED + 1..=SYNCED + 14 {
        if number == SYNCED + 5 {
            disk.set_faults(Faults {
                failing: 100,
                forgets: true,
                ..Faults::default()
            });
            now = now + INTERVAL;
        }
        acknowledged += broker.hear(key, &publish(0x32, b't', number), now, 2);
    }
    disk.set_faults(Faults::default());
    for _ in 0..steps {
        acknowledged += broker.hear(key, &[], now, 1);
        now = now + INTERVAL / 10;
    }
    (broker, disk, acknowledged)
}

/// What it leaves when it is killed: its disk, how many messages that had before, and how many were acknowledged.
fn lost_for_good(seed: u64, durability: Durability, steps: usize) -> (Disk, usize, usize) {
    let (_, disk, acknowledged) = losing(seed, durability, steps);
    (disk, usize::from(SYNCED), acknowledged)
}

#[test]
fn a_broker_that_ends_right_after_a_failed_sync_took_something_for_good_leaves_a_whole_log() {
    let mut lost = 0;
    for (seed, durability) in (0..12).flat_map(|seed| SOME_TIME.map(|it| (seed, it))) {
        let steps = Random::new(seed).below(12);
        let (broker, disk, acknowledged) = losing(seed, durability, steps);
        let Broker {
            mut shard,
            log,
            writer,
            mut effects,
            ..
        } = broker;
        lost += usize::from(!writer.is_whole());
        let thread = std::thread::spawn(move || writer.run());
        assert!(log.finish(&mut shard, Instant::ZERO, &mut effects));
        thread.join().unwrap();
        disk.lose_power();
        let report = Broker::try_open_with(&disk, &promising(durability))
            .unwrap_or_else(|error| panic!("seed {seed}, {durability:?}: {error}"))
            .report;
        assert!(
            report.sessions == SESSIONS && report.deliveries >= acknowledged,
            "seed {seed}, {durability:?}: {acknowledged} and {report:?}"
        );
    }
    assert!(lost > 5, "only {lost}");
}

const SOME_TIME: [Durability; 2] = [Durability::Interval(INTERVAL), Durability::Os];

#[test]
fn what_a_failed_sync_took_for_good_is_said_anew_and_is_there_after_a_failure_of_the_power() {
    for (seed, durability) in (0..200).flat_map(|seed| SOME_TIME.map(|it| (seed, it))) {
        let (disk, _, acknowledged) = lost_for_good(seed, durability, 400);
        let directory = disk.directory();
        let first = directory.extent(1, 0).unwrap().first;
        let mut segments = directory.segments().unwrap().into_iter();
        assert!(segments.all(|name| name.first >= first), "seed {seed}");
        let options = promising(durability);
        let found = |disk: &Disk| {
            Broker::try_open_with(disk, &options)
                .unwrap_or_else(|error| panic!("seed {seed}, {durability:?}: {error}"))
                .report
        };
        let killed = found(&disk.copy());
        disk.lose_power();
        let failed = found(&disk);
        // Of what came last nobody has said when a sync of it begins.
        let is_lost = durability == Durability::Os;
        for report in [killed, failed].iter().take(if is_lost { 1 } else { 2 }) {
            assert!(
                report.deliveries >= acknowledged && acknowledged > 11 && report.retained == 1,
                "seed {seed}, {durability:?}: {acknowledged} and {report:?}"
            );
        }
    }
}

#[test]
fn what_a_failed_sync_took_for_good_replaces_nothing_that_the_disk_had_before() {
    for (seed, durability) in (0..400).flat_map(|seed| SOME_TIME.map(|it| (seed, it))) {
        let steps = Random::new(seed).below(40);
        let (disk, synced, _) = lost_for_good(seed, durability, steps);
        if seed % 2 == 0 {
            disk.lose_power();
        }
        let options = StoreOptions {
            durability,
            recover: true,
            ..options()
        };
        let report = Broker::try_open_with(&disk, &options).unwrap().report;
        assert!(
            report.sessions == SESSIONS && report.deliveries >= synced,
            "seed {seed}, {durability:?}: {report:?}"
        );
    }
}

#[test]
fn no_part_of_what_was_removed_is_taken_for_the_log_after_a_failed_sync_and_a_failure_of_the_power()
{
    let mut removed = 0;
    for (seed, durability) in (0..300).flat_map(|seed| SOME_TIME.map(|it| (seed, it))) {
        let disk = Disk::new(Random::new(seed));
        let mut random = Random::new(seed + 1000);
        let (mut broker, key) = with_durability(&disk, durability);
        let mut now = Instant::ZERO;
        broker.hear(key, SUBSCRIBE, now, 4);
        for number in 1..=30 {
            broker.hear(key, &publish(0x33, b'r', number), now, 4);
        }
        let before = disk.directory().segments().unwrap().len();
        broker.log.say_anew();
        for _ in 0..8 {
            now = now + INTERVAL;
            broker.hear(key, &[], now, 4);
        }
        removed += usize::from(disk.directory().segments().unwrap().len() < before - 1);
        broker.hear(key, &publish(0x32, b't', 1), now, 4);
        disk.set_faults(Faults {
            failing: 40,
            ..Faults::default()
        });
        for number in 2..=random.between(3, 8) as u8 {
            broker.hear(key, &publish(0x32, b't', number), now, 2);
            now = now + INTERVAL;
        }
        drop(broker);
        disk.set_faults(Faults::default());
        disk.lose_power();
        if let Err(error) = Broker::try_open_with(&disk, &promising(durability)) {
            panic!("seed {seed}, {durability:?}: {error}");
        }
    }
    assert!(removed > 100, "segments were removed {removed} times only");
}

#[test]
fn a_store_that_leaves_syncs_to_the_system_opens_after_failures_of_the_disk_and_the_power() {
    for seed in 0..300 {
        found_after_failures(seed, Durability::Os);
    }
}

/// A Client that publishes to itself, never acknowledges, and ends with the process. How many of its messages
/// were acknowledged to it, or `None` if the disk failed before the broker was there. `later` is what the
/// disk does once it has subscribed.
fn live(disk: &Disk, messages: u8, later: Option<Faults>) -> Option<usize> {
    let mut broker = Broker::try_open(disk).ok()?;
    let key = broker
        .shard
        .handle_accept(Origin::default(), Instant::ZERO)?;
    let mut acknowledged = 0;
    let mut send = |broker: &mut Broker, bytes: &[u8]| {
        let (now, effects) = (Instant::ZERO, &mut broker.effects);
        let _ = broker.shard.handle_bytes(key, bytes, now, effects);
        // What was written is synced, and what a snapshot has replaced is removed.
        for _ in 0..4 {
            broker.work();
        }
        let mut output = Vec::new();
        broker.shard.take_output(key, &mut output);
        acknowledged += packets(&output).filter(|it| it[0] == 0x40).count();
    };
    send(&mut broker, b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a");
    send(&mut broker, b"\x82\x06\0\x01\0\x01t\x01");
    if let Some(faults) = later {
        disk.set_faults(faults);
    }
    for number in 1..=messages {
        let payload = [b'x'; 100];
        let mut packet = vec![0x32, 105, 0, 1, b't', 0, number];
        packet.extend(payload);
        send(&mut broker, &packet);
    }
    // As a process ends that is not killed.
    broker.writer.finish();
    Some(acknowledged)
}

/// Takes away what a version without inventories does not write.
fn forget_inventories(disk: &Disk) {
    for name in disk.names().unwrap() {
        if name.ends_with(".segments") {
            disk.remove(&name).unwrap();
        }
    }
    disk.sync().unwrap();
}

/// Has the power fail, or the process killed, at each step of a life of the broker that finds `disk`, and
/// again while the next one starts: either of them both times, or the power after a process that was killed.
fn fail_at_each_step(disk: &Disk, messages: u8) {
    let before = Broker::open(&disk.copy()).report.deliveries;
    let first = "00000001-000-00000000000000000001.log".to_owned();
    for step in 0.. {
        let mut is_over = false;
        let both = [(1, true, true), (2, true, true), (3, false, false)];
        let other = (4..10).map(|seed| (seed, false, true));
        for (seed, is_power_loss, is_power_loss_again) in both.into_iter().chain(other) {
            let disk = disk.copy();
            disk.set_random(Random::new(seed + 10 * step as u64));
            let failing_at = |step| Faults {
                power_for: Some(step),
                ..Faults::default()
            };
            let end = |is_power_loss: bool, step| {
                is_power_loss.then(|| disk.lose_power());
                disk.set_faults(failing_at(step));
            };
            disk.set_faults(failing_at(step));
            let acknowledged = live(&disk, messages, None).unwrap_or_default();
            is_over = disk.has_power();
            let was_shortened = is_over && !disk.names().unwrap().contains(&first);
            assert_eq!(was_shortened, is_over);
            // Now and then another number of shards begins another generation.
            let count = 1 + step % 2;
            let is_mixed = is_power_loss != is_power_loss_again;
            let start_step = match is_mixed {
                true => (step + seed as usize * 5) % 40,
                false => step % 97,
            };
            end(is_power_loss, start_step);
            drop(disk.open(&options(), count, 7));
            end(is_power_loss_again, usize::MAX);
            let store = disk.open(&options(), 1, 7);
            let store = store.unwrap_or_else(|error| panic!("step {step}, seed {seed}: {error}"));
            let found = store.report.deliveries;
            assert!(
                found >= before + acknowledged,
                "step {step}, seed {seed}: {found}, {before} and {acknowledged}"
            );
        }
        if is_over {
            assert!(step > 50, "only {step} steps");
            return;
        }
    }
}

/// Has the power fail, in so many ways, at each step of a start for so many shards. The next one opens, and finds all
/// that the first one had found if that came to its end, or in any case.
fn fail_at_each_step_of_a_start(
    disk: &Disk,
    options: &StoreOptions,
    count: usize,
    ways: u64,
    is_safe: bool,
) {
    let open = |disk: &Disk, count| disk.open(options, count, 7);
    let before = open(&disk.copy(), 1).unwrap().report.deliveries;
    for step in 0.. {
        let mut is_over = false;
        for seed in 0..ways {
            let disk = failing_at(disk, step, seed);
            is_over = open(&disk, count).is_ok();
            disk.lose_power();
            let store = open(&disk, 1);
            let store = store.unwrap_or_else(|error| panic!("step {step}, seed {seed}: {error}"));
            let found = store.report.deliveries;
            assert!(
                found >= before || !is_over && !is_safe,
                "step {step}, seed {seed}: {found} of {before}"
            );
        }
        if is_over {
            return;
        }
    }
}

#[test]
fn a_start_takes_nothing_whatever_step_the_power_fails_at() {
    let disk = Disk::new(Random::new(1));
    for _ in 0..3 {
        live(&disk, 20, None).unwrap();
    }
    for count in [1, 2] {
        fail_at_each_step_of_a_start(&disk, &options(), count, 20, true);
    }
}

#[test]
fn a_start_takes_nothing_of_what_was_written_again_whatever_step_the_power_fails_at() {
    let options = promising(Durability::Interval(INTERVAL));
    // Killed at each step of what follows a sync that failed.
    for (seed, step) in (0..5).flat_map(|seed| (0..10).map(move |step| (seed, step))) {
        let disk = Disk::new(Random::new(seed));
        let (mut broker, key) = with_interval(&disk);
        broker.hear(key, SUBSCRIBE, Instant::ZERO, 4);
        for number in 1..=5 {
            broker.hear(key, &publish(0x32, b't', number), Instant::ZERO, 4);
        }
        let now = Instant::ZERO + INTERVAL;
        disk.set_faults(Faults {
            failing: 100,
            ..Faults::default()
        });
        broker.hear(key, &[], now, 1);
        disk.set_faults(Faults {
            power_for: Some(step),
            ..Faults::default()
        });
        broker.hear(key, &[], now, 4);
        drop(broker);
        disk.set_faults(Faults::default());
        fail_at_each_step_of_a_start(&disk, &options, 1, 2, false);
    }
}

/// What another broker had: a Session, and so many messages of so many bytes that it is owed.
fn kept_elsewhere(count: u64, size: usize) -> Replayed {
    let message = |sequence: u64| {
        Message::new(MessageRef {
            topic_name: b"t",
            properties: b"",
            payload: &vec![sequence as u8; size],
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
        })
    };
    let deliveries = (0..count).map(|sequence| ReplayedDelivery {
        sequence,
        progress: Progress::Waiting,
        message: Some(message(sequence).into()),
        qos: QoS::AtLeastOnce,
        retain: false,
        share: None,
        subscription_identifiers: Default::default(),
    });
    let mut replayed = Replayed::of_one_session("c");
    for session in replayed.sessions.values_mut() {
        session.deliveries = deliveries.clone().collect();
        session.next_sequence = count;
    }
    replayed
}

/// The same disk, whose power fails at that step in one way of many.
fn failing_at(disk: &Disk, step: usize, way: u64) -> Disk {
    let disk = disk.copy();
    disk.set_random(Random::new(way + 100 * step as u64));
    disk.set_faults(Faults {
        power_for: Some(step),
        ..Faults::default()
    });
    disk
}

fn install(disk: &Disk, replayed: &Replayed) -> Result<(), InstallError> {
    let clock = WallClock { start_ms: 1000 };
    install_into(&disk.directory(), replayed, clock, 7, &[0], 1024)
}

/// Has the power fail, or the process killed, in so many ways, at each step of an installation. A broker finds all of it
/// then or nothing, and it can be done again.
fn fail_at_each_step_of_an_installation(disk: &Disk, replayed: &Replayed, ways: u64) {
    let found = |disk: &Disk| {
        let report = Broker::open(disk).report;
        (report.sessions, report.deliveries)
    };
    let all = (1, replayed.sessions[&1].deliveries.len());
    for step in 0.. {
        let mut is_over = false;
        for seed in 0..ways {
            let disk = failing_at(disk, step, seed);
            is_over = install(&disk, replayed).is_ok();
            if seed % 4 != 0 {
                disk.lose_power();
            }
            disk.set_faults(Faults::default());
            let after = found(&disk.copy());
            assert!(
                after == all || !is_over && after == (0, 0),
                "step {step}, seed {seed}: {after:?}"
            );
            // At once, or when a broker has been there.
            if seed % 2 == 0 {
                assert_eq!(found(&disk), after);
            }
            match install(&disk, replayed) {
                Ok(()) => assert_eq!(after, (0, 0), "step {step}, seed {seed}"),
                Err(InstallError::NotEmpty { .. }) => assert_eq!(after, all),
                Err(error) => panic!("step {step}, seed {seed}: {error}"),
            }
            assert_eq!(found(&disk), all, "step {step}, seed {seed}");
        }
        if is_over {
            assert!(step > 10, "only {step} steps");
            return;
        }
    }
}

#[test]
fn an_installation_takes_effect_as_a_whole_whatever_step_the_power_fails_or_it_is_killed_at() {
    let new = Disk::new(Random::new(1));
    let empty = new.copy();
    drop(Broker::open(&empty));
    for disk in [new, empty] {
        fail_at_each_step_of_an_installation(&disk, &kept_elsewhere(30, 100), 20);
    }
}

#[test]
fn an_installation_of_several_segments_takes_effect_as_a_whole_and_nothing_that_another_one_has_left()
 {
    const SIZE: usize = 600_000;
    // A larger one, which was killed right before it took effect.
    let larger = kept_elsewhere(12, SIZE);
    let mut left = Disk::new(Random::new(1));
    for step in 0.. {
        let disk = Disk::new(Random::new(1));
        disk.set_faults(Faults {
            power_for: Some(step),
            ..Faults::default()
        });
        let _ = install(&disk, &larger);
        disk.set_faults(Faults::default());
        if disk.names().unwrap().contains(&"STORE".to_owned()) {
            break;
        }
        left = disk;
    }
    assert!(left.names().unwrap().len() > 5);
    fail_at_each_step_of_an_installation(&left, &kept_elsewhere(5, SIZE), 12);
}

#[test]
fn a_new_store_opens_whatever_step_the_power_fails_or_the_broker_is_killed_at() {
    fail_at_each_step(&Disk::new(Random::new(1)), 25);
}

#[test]
fn a_store_of_some_lives_opens_whatever_step_the_power_fails_or_the_broker_is_killed_at() {
    let disk = Disk::new(Random::new(1));
    for _ in 0..3 {
        live(&disk, 20, None).unwrap();
    }
    fail_at_each_step(&disk, 15);
}

#[test]
fn a_store_without_inventories_opens_whatever_step_the_power_fails_or_the_broker_is_killed_at() {
    let disk = Disk::new(Random::new(1));
    for _ in 0..3 {
        live(&disk, 20, None).unwrap();
        forget_inventories(&disk);
    }
    fail_at_each_step(&disk, 15);
}

#[test]
fn a_store_opens_after_any_failures_of_a_disk_that_is_full_or_refuses() {
    for seed in 0..100 {
        let disk = Disk::new(Random::new(seed));
        let mut all = 0;
        for life in 0..4 {
            disk.set_faults(Faults::default());
            let found = Broker::open(&disk.copy()).report.deliveries;
            assert!(found >= all, "seed {seed}, life {life}");
            let faults = Faults {
                is_full: seed % 3 == 0 && life % 2 == 1,
                failing: 10 * (seed % 4) as usize,
                forgets: seed % 8 > 3,
                power_for: None,
            };
            all = found + live(&disk, 30, Some(faults)).unwrap();
            if life % 2 == 0 {
                disk.lose_power();
            }
        }
        disk.set_faults(Faults::default());
        assert!(Broker::open(&disk).report.deliveries >= all, "seed {seed}");
    }
}
