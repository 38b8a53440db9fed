//! What a shard writes down and what it waits for: one rule each, in the bytes of the specification.

#[path = "support/hex.rs"]
mod hex;

use std::sync::Arc;
use std::time::Duration;

use fastmq::auth::{Acl, Security};
use fastmq::config::Durability;
use fastmq::journal::{Journal, Origin, Origins, Replay, Replayed, WallClock, next_frame};
use fastmq::key::{ConnectionKey, PacketIdentifier, ShardId};
use fastmq::limits::Limits;
use fastmq::message::{Message, MessageRef, QoS};
use fastmq::policy::Settings;
use fastmq::router::{Interest, RetainedVersion};
use fastmq::shard::{Effects, Envelope, Shard};
use hex::{Broker, bytes, hex};

/// A broker that stores, and what its disk has.
struct Stored {
    broker: Broker,
    settings: Settings,
    log: Vec<u8>,
    /// The first frame of the log.
    first: u64,
    /// When a message counts as stored, after the next start.
    durability: Durability,
}

impl Stored {
    fn new(settings: Settings) -> Self {
        let mut broker = Broker::with_settings(settings.clone());
        let journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        broker.shard.store_in(journal, &[]);
        Self {
            broker,
            settings,
            log: Vec::new(),
            first: 1,
            durability: Durability::Always,
        }
    }

    fn with(limits: Limits) -> Self {
        Self::new(Settings::permissive(limits))
    }

    /// The disk takes what there is for it.
    fn write(&mut self) {
        while self.write_once() {}
    }

    /// The same, and nothing of what follows from it. Whether there was anything.
    fn write_once(&mut self) -> bool {
        let Broker {
            shard,
            effects,
            now,
        } = &mut self.broker;
        let mut pieces = Vec::new();
        let Some(last) = shard.take_journal(&mut pieces) else {
            return false;
        };
        self.log.extend(pieces.concat());
        shard.handle_durable(last, *now, effects);
        true
    }

    /// What a start would find, and the number of the next frame.
    fn replayed(&self) -> (Replayed, u64) {
        let mut replay = Replay::new(WallClock::default(), &[0]);
        let (mut rest, mut lsn) = (&self.log[..], self.first);
        while let Some((frame, left)) = next_frame(rest, lsn).expect("whole frames") {
            replay.frame(frame.payload).expect("records that are known");
            (rest, lsn) = (left, lsn + 1);
        }
        (replay.finish(), lsn)
    }

    /// The broker is killed, and another one goes on with what the disk has.
    fn restart(&mut self) {
        self.restart_among(1);
    }

    /// The same, as the first of so many shards.
    fn restart_among(&mut self, shard_count: usize) {
        let (replayed, lsn) = self.replayed();
        let mut settings = self.settings.clone();
        settings.occupancy = Settings::permissive(Limits::default()).occupancy;
        let shard = &mut self.broker.shard;
        *shard = Shard::with_settings(ShardId(0), shard_count, Arc::new(settings), 1);
        self.broker.effects = Effects::default();
        let now = self.broker.now;
        let session = replayed.session_max + 1;
        let origins = Origins { lsn, session };
        let journal = Journal::new(0, shard_count, origins, WallClock::default());
        shard.store_in(journal, &replayed.suspects);
        shard.set_durability(self.durability);
        for retained in &replayed.retained {
            shard.restore_retained(retained, now);
        }
        for session in replayed.sessions.into_values() {
            shard.restore_session(session, now);
        }
        self.write();
    }

    /// Everything is said anew, and what was said before is forgotten.
    fn snapshot(&mut self) {
        self.write();
        self.first = self.replayed().1;
        self.log.clear();
        self.broker.shard.begin_snapshot();
        while self.broker.shard.continue_snapshot(1 << 16).is_none() {}
        self.write();
    }

    /// The other one of two shards has said something.
    fn hear(&mut self, envelope: Envelope) {
        let Broker {
            shard,
            effects,
            now,
        } = &mut self.broker;
        shard.handle_envelope(ShardId(1), envelope, usize::MAX, *now, effects);
    }

    /// The other one wants what is published to this filter.
    fn hear_of_interest(&mut self, filter: &str) {
        self.hear(Envelope::Interest {
            sequence: 1,
            filter: filter.as_bytes().into(),
            interest: Interest::PLAIN,
        });
        self.told();
    }

    /// What the other one is told.
    fn told(&mut self) -> Vec<Envelope> {
        let outbound = self.broker.shard.outbound(ShardId(1));
        outbound.drain(..).collect()
    }

    fn pass(&mut self, seconds: u64) {
        self.broker.pass(seconds);
        self.write();
    }

    fn sessions(&self) -> usize {
        self.broker.shard.census().sessions
    }

    /// Messages that are owed to Sessions, as the disk has it.
    fn owed(&mut self) -> usize {
        self.write();
        let sessions = self.replayed().0.sessions;
        sessions.values().map(|it| it.deliveries.len()).sum()
    }

    fn open(&mut self, connect: &str) -> ConnectionKey {
        let client = self.broker.accept();
        self.broker.submit(client, &bytes(connect));
        client
    }

    /// Connects with this CONNECT, and returns what the Client hears once that is stored.
    fn connect(&mut self, connect: &str) -> (ConnectionKey, String) {
        let client = self.open(connect);
        self.write();
        let heard = self.broker.receive(client);
        (client, heard)
    }

    /// The same of what a Client sends.
    fn send(&mut self, client: ConnectionKey, packets: &str) -> String {
        let at_once = self.broker.send(client, packets);
        self.write();
        at_once + &self.broker.receive(client)
    }

    /// A Client whose Session stays, with a subscription to `t`.
    fn subscriber(&mut self, qos: u8) -> ConnectionKey {
        let (client, connack) = self.connect(STAYS);
        assert!(connack.starts_with("20"), "{connack}");
        let subscribe = format!("82 06 0001 0001 74 {qos:02x}");
        let suback = format!("90030001{qos:02x}");
        assert_eq!(self.send(client, &subscribe), suback);
        client
    }
}

/// A v3.1.1 CONNECT whose Session stays.
const STAYS: &str = "10 0d 0004 4d515454 04 00 0000 0001 61";
/// The same in v5, with these properties beside an expiry of an hour.
fn stays_in_v5(properties: &str) -> String {
    let size = 5 + bytes(properties).len();
    format!(
        "10 {:02x} 0004 4d515454 05 00 0000 {size:02x} 11 00000e10 {properties} 0001 61",
        14 + size
    )
}

/// A v5 PUBLISH to `t` of QoS 1 that expires after a second.
const EXPIRES: &str = "32 0c 0001 74 0001 05 02 00000001 78";

/// Messages that only wait for a disk do not count as waiting behind the window.
#[test]
fn a_queue_has_room_for_as_many_as_the_window_beside_those_that_wait_behind_it() {
    let mut stored = Stored::with(Limits {
        max_inflight_messages: 20,
        max_queued_messages: 2,
        ..Limits::default()
    });
    let client = stored.subscriber(2);
    let publisher = stored.broker.v311('p');
    let publish = |stored: &mut Stored, count: u16| {
        for id in 1..=count {
            let publish = format!("34 06 0001 74 {id:04x} 78 62 02 {id:04x}");
            stored.broker.submit(publisher, &bytes(&publish));
        }
    };
    publish(&mut stored, 5);
    stored.write();
    let heard = stored.broker.receive(client);
    assert_eq!(heard.matches("3406000174").count(), 5);
    publish(&mut stored, 17);
    let dropped = |stored: &Stored| stored.broker.shard.counters().dropped_queue_full;
    assert_eq!(dropped(&stored), 0);
    publish(&mut stored, 1);
    assert_eq!(dropped(&stored), 1);
}

/// [MQTT-4.3.3-1] The same of bytes: who is connected and has nothing in flight gets a message of any size.
#[test]
fn a_message_that_is_larger_than_a_queue_may_be_comes_to_who_has_room_in_the_window() {
    let mut stored = Stored::with(Limits {
        max_queued_bytes: 10,
        ..Limits::default()
    });
    let publisher = stored.broker.v311('p');
    let payload = "78".repeat(20);
    let publish = |flags: u8, topic: &str| {
        let first_byte = 0x30 | flags;
        format!("{first_byte:02x}190001{topic}0001{payload}")
    };
    let client = stored.subscriber(2);
    for (flags, topic) in [(4, "74"), (3, "72")] {
        stored.send(publisher, &publish(flags, topic));
    }
    assert_eq!(stored.broker.receive(client), publish(4, "74"));
    // What is retained.
    let heard = stored.send(client, "82 06 0001 0001 72 01");
    let retained = publish(3, "72").replace("720001", "720002");
    assert_eq!(heard, format!("9003000101{retained}"));
    // What waits for who is away has no room.
    stored.broker.lose(client);
    stored.send(publisher, &publish(2, "74"));
    assert_eq!(stored.broker.shard.counters().dropped_queue_full, 1);
}

#[test]
fn a_message_that_finds_no_room_is_not_written_down_and_its_acknowledgement_waits_for_nothing() {
    let no_memory = Limits {
        memory_bytes_max: 3,
        ..Limits::default()
    };
    let short_queue = Limits {
        max_queued_messages: 1,
        ..Limits::default()
    };
    for limits in [no_memory, short_queue] {
        let mut stored = Stored::with(limits);
        let client = stored.subscriber(1);
        stored.broker.lose(client);
        let publisher = stored.broker.v311('p');
        assert_eq!(stored.send(publisher, "32 06 0001 74 0001 78"), "40020001");
        let answer = stored.broker.send(publisher, "32 06 0001 74 0002 79");
        assert_eq!(answer, "40020002", "nothing of it is stored");
        let counters = stored.broker.shard.counters();
        let dropped = counters.dropped_memory_full + counters.dropped_queue_full;
        assert_eq!((dropped, stored.owed()), (1, 1));
    }
}

/// [MQTT-3.3.2-5]
#[test]
fn a_message_that_expires_in_a_queue_is_forgotten_by_the_disk_as_well() {
    let mut stored = Stored::with(Limits {
        max_queued_messages: 1,
        ..Limits::default()
    });
    let client = stored.subscriber(1);
    stored.broker.lose(client);
    let publisher = stored.broker.v5('p');
    stored.send(publisher, EXPIRES);
    assert_eq!(stored.owed(), 1);
    stored.broker.pass(2);
    // It makes room for the next one.
    stored.send(publisher, EXPIRES);
    assert_eq!(stored.broker.shard.counters().dropped_expired, 1);
    assert_eq!(stored.owed(), 1);
    stored.broker.pass(2);
    let (_, heard) = stored.connect(STAYS);
    assert_eq!(heard, "20020100", "it comes too late");
    assert_eq!(stored.owed(), 0);
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn a_message_that_its_client_no_longer_takes_is_forgotten_by_the_disk_as_well() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(1);
    let publisher = stored.broker.v311('p');
    let publish = format!("32 25 0001 74 0001 {}", "78".repeat(32));
    stored.send(publisher, &publish);
    assert!(stored.broker.receive(client).starts_with("3225"));
    stored.broker.lose(client);
    assert_eq!(stored.owed(), 1);
    // Maximum Packet Size 32.
    let (_, heard) = stored.connect(&stays_in_v5("27 00000020"));
    assert!(
        heard.starts_with("20") && !heard.contains("000174"),
        "{heard}"
    );
    assert_eq!(stored.broker.shard.counters().dropped_packet_too_large, 1);
    assert_eq!(stored.owed(), 0);
}

/// A message of QoS 0 has no acknowledgement to wait for.
#[test]
fn a_message_of_qos_0_that_waited_for_a_session_is_over_once_it_was_sent() {
    let mut settings = Settings::permissive(Limits::default());
    settings.policy.queue_qos0_messages = true;
    let mut stored = Stored::new(settings);
    let client = stored.subscriber(1);
    stored.broker.lose(client);
    let publisher = stored.broker.v311('p');
    stored.send(publisher, "30 04 0001 74 78");
    assert_eq!(stored.owed(), 1);
    let (_, heard) = stored.connect(STAYS);
    assert_eq!(heard, "20020100300400017478");
    assert_eq!(stored.broker.shard.census().inflight, 0);
    assert_eq!(stored.owed(), 0);
}

/// [MQTT-4.3.3-4] The exchange has ended, so it does not go on after a crash either.
#[test]
fn a_qos2_message_that_its_client_refuses_is_forgotten_by_the_disk_as_well() {
    let mut stored = Stored::with(Limits::default());
    let (client, _) = stored.connect(&stays_in_v5(""));
    stored.send(client, "82 07 0001 00 0001 74 02");
    let publisher = stored.broker.v311('p');
    stored.send(publisher, "34 06 0001 74 0001 78");
    assert!(stored.broker.receive(client).starts_with("34"));
    assert_eq!(stored.owed(), 1);
    assert_eq!(stored.send(client, "50 03 0001 80"), "");
    assert_eq!(stored.owed(), 0);
}

/// [MQTT-4.6.0-2]
#[test]
fn a_refused_publish_is_acknowledged_in_its_turn() {
    let mut settings = Settings::permissive(Limits::default());
    settings.policy.message_size_limit = 3;
    let mut stored = Stored::new(settings);
    stored.subscriber(1);
    let publisher = stored.broker.v5('p');
    stored
        .broker
        .submit(publisher, &bytes("32 07 0001 74 0001 00 78"));
    let too_large = "32 0a 0001 74 0002 00 78787878";
    assert_eq!(
        stored.broker.send(publisher, too_large),
        "",
        "behind the first"
    );
    stored.write();
    assert_eq!(stored.broker.receive(publisher), "400200014003000283");
}

/// [MQTT-3.3.2-12] A Topic Alias stands for its topic until the connection ends, also if a PUBLISH with it is not taken.
#[test]
fn a_topic_alias_outlives_a_publish_that_a_disk_refuses() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(1);
    stored.broker.lose(client);
    let publisher = stored.broker.v5('p');
    stored.broker.send(publisher, "30 07 0001 74 03 23 0001");
    stall(&mut stored, true);
    let by_alias = "32 09 0000 0001 03 23 0001 78";
    assert_eq!(taken(&mut stored, publisher, by_alias, 1), 0, "it waits");
    stored.broker.pass(5);
    assert_eq!(stored.broker.send(publisher, by_alias), "4003000197");
    stall(&mut stored, false);
    assert_eq!(stored.send(publisher, by_alias), "40020001");
    assert_eq!(stored.owed(), 1);
}

fn stall(stored: &mut Stored, is_stalled: bool) {
    let Broker {
        shard,
        effects,
        now,
    } = &mut stored.broker;
    shard.handle_store_stalled(is_stalled, *now, effects);
}

/// Sends as many of a packet as it takes, and tells how many of `count` were taken.
fn taken(stored: &mut Stored, client: ConnectionKey, packet: &str, count: usize) -> usize {
    let packet = bytes(packet);
    let Broker {
        shard,
        effects,
        now,
    } = &mut stored.broker;
    let consumed = shard.handle_bytes(client, &packet.repeat(count), *now, effects);
    consumed / packet.len()
}

/// Nobody waits for a disk without end, and whoever waits is not blamed for it.
#[test]
fn who_has_a_thousand_acknowledgements_waiting_for_a_disk_is_not_read_until_half_of_them_have_left()
{
    let mut stored = Stored::with(Limits::default());
    stored.subscriber(1);
    let publisher = stored.broker.v311('p');
    let publish = "32 06 0001 74 0001 78";
    assert_eq!(taken(&mut stored, publisher, publish, 2000), 1024);
    stored.broker.pass(200);
    assert!(!stored.broker.is_closed(publisher));
    stored.write();
    assert_eq!(stored.broker.effects.resumed, [publisher]);
    assert_eq!(stored.broker.receive(publisher), "40020001".repeat(1024));
    assert_eq!(taken(&mut stored, publisher, publish, 1), 1);
}

#[test]
fn a_client_that_waits_for_a_disk_that_takes_nothing_is_not_blamed_for_its_silence() {
    let mut stored = Stored::with(Limits::default());
    stored.subscriber(1);
    let publisher = stored.broker.v311('p');
    stall(&mut stored, true);
    let publish = "32 06 0001 74 0001 78";
    assert_eq!(taken(&mut stored, publisher, publish, 1), 0);
    for _ in 0..20 {
        stored.broker.pass(10);
        taken(&mut stored, publisher, publish, 1);
    }
    assert!(!stored.broker.is_closed(publisher));
    stall(&mut stored, false);
    assert_eq!(stored.send(publisher, publish), "40020001");
}

/// A Session or a Subscription that no disk takes is none.
#[test]
fn what_has_to_be_stored_is_not_begun_while_the_disk_takes_nothing() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(1);
    stall(&mut stored, true);
    assert_eq!(
        stored.broker.send(client, "82 06 0002 0001 75 01"),
        "9003000280"
    );
    let stays = stays_in_v5("").replace("0001 61", "0001 62");
    let (_, connack) = stored.broker.connect(&stays);
    assert_eq!(connack, "2003009700");
    // Who does not stay may do both.
    let other = stored.broker.v311('c');
    assert_eq!(
        stored.broker.send(other, "82 06 0002 0001 75 01"),
        "9003000201"
    );
    assert_eq!(stored.sessions(), 2);
}

/// [MQTT-3.1.2-23]
#[test]
fn a_session_whose_client_was_there_when_the_broker_stopped_ends_in_its_time_afterwards() {
    let mut stored = Stored::with(Limits {
        persistent_client_expiration: Some(Duration::from_secs(60)),
        ..Limits::default()
    });
    // A Will without a delay.
    let connect = "10 1a 0004 4d515454 05 04 0000 05 11 00000e10 0001 61 00 0001 77 0001 78";
    stored.connect(connect);
    let Broker {
        shard,
        effects,
        now,
    } = &mut stored.broker;
    shard.handle_stopping(*now, effects);
    stored.write();
    for _ in 0..2 {
        stored.restart();
        assert_eq!(stored.sessions(), 1);
    }
    stored.pass(59);
    assert_eq!(stored.sessions(), 1);
    stored.pass(1);
    assert_eq!(stored.sessions(), 0);
}

/// [MQTT-3.1.2-23] [MQTT-3.1.3-9] Its time, and that of its Will, begins with the start that finds its connection lost.
#[test]
fn a_session_whose_client_was_there_at_a_crash_ends_in_its_time_however_often_the_broker_starts() {
    for says_anew in [false, true] {
        let mut stored = Stored::with(Limits::default());
        // An hour, with a Will half an hour after the connection is lost.
        let connect =
            "10 1f 0004 4d515454 05 04 0000 05 11 00000e10 0001 61 05 18 00000708 0001 77 0001 78";
        stored.connect(connect);
        stored.pass(100_000);
        for seconds in [600, 600, 599] {
            stored.restart();
            if says_anew {
                stored.snapshot();
            }
            stored.pass(seconds);
        }
        stored.restart();
        let watcher = stored.broker.v311('w');
        stored.broker.send(watcher, "82 06 0001 0001 77 00");
        assert_eq!(stored.broker.receive(watcher), "");
        stored.pass(1);
        assert_eq!(stored.broker.receive(watcher), "300400017778");
        stored.pass(900);
        stored.restart();
        stored.pass(899);
        assert_eq!(stored.sessions(), 1);
        stored.pass(1);
        assert_eq!(stored.sessions(), 0);
    }
}

/// [MQTT-3.1.2-10] Whoever published it: the shard when the connection was lost, or because the broker stops.
#[test]
fn a_will_that_was_published_is_not_published_again_after_a_restart() {
    for stops in [false, true] {
        let mut stored = Stored::with(Limits::default());
        let watcher = stored.broker.v311('w');
        stored.broker.send(watcher, "82 06 0001 0001 77 00");
        // A Will without a delay.
        let connect = "10 1a 0004 4d515454 05 04 0000 05 11 00000e10 0001 61 00 0001 77 0001 78";
        let (client, _) = stored.connect(connect);
        if stops {
            let Broker {
                shard,
                effects,
                now,
            } = &mut stored.broker;
            shard.handle_stopping(*now, effects);
        } else {
            stored.broker.lose(client);
        }
        assert_eq!(stored.broker.receive(watcher), "300400017778");
        stored.write();
        stored.restart();
        let watcher = stored.broker.v311('w');
        stored.broker.send(watcher, "82 06 0001 0001 77 00");
        stored.pass(1);
        assert_eq!(stored.broker.receive(watcher), "", "{stops}");
        assert_eq!(stored.sessions(), 2);
    }
}

/// [MQTT-3.3.2-6] Its lifetime begins when it is published, though that is after a restart.
#[test]
fn a_will_that_is_due_after_a_restart_lives_as_long_as_it_says_and_has_its_properties() {
    let mut stored = Stored::with(Limits::default());
    // Session Expiry Interval 60, Will Delay Interval 40, Message Expiry Interval 5, User Properties b and a.
    let connect = "10 32 0004 4d515454 05 04 0000 05 11 0000003c 0001 61 \
                   18 18 00000028 02 00000005 26 0001 62 0001 31 26 0001 61 0001 32 0001 74 0001 78";
    let (client, connack) = stored.connect(connect);
    assert!(connack.starts_with("20"), "{connack}");
    stored.broker.lose(client);
    stored.write();
    stored.restart();
    let watcher = stored.broker.v5('w');
    stored.broker.send(watcher, "82 07 0001 00 0001 74 00");
    stored.pass(40);
    let published = "30 18 0001 74 13 02 00000005 26 0001 62 0001 31 26 0001 61 0001 32 78";
    assert_eq!(stored.broker.receive(watcher), published.replace(' ', ""));
}

#[test]
fn an_expiration_that_the_operator_sets_later_ends_sessions_that_nobody_has_come_back_to() {
    for asked in ["ffffffff", "00000e10"] {
        let mut stored = Stored::with(Limits::default());
        let connect = format!("10 13 0004 4d515454 05 00 0000 05 11 {asked} 0001 61");
        let (client, connack) = stored.connect(&connect);
        assert!(connack.starts_with("20"), "{connack}");
        stored.broker.lose(client);
        stored.write();
        let limits = &mut stored.settings.policy.limits;
        limits.persistent_client_expiration = Some(Duration::from_secs(60));
        // From the first start on: the second one does not put it off.
        stored.restart();
        stored.pass(30);
        stored.restart();
        stored.pass(29);
        assert_eq!(stored.sessions(), 1, "{asked}");
        stored.pass(1);
        assert_eq!(stored.sessions(), 0, "{asked}");
    }
}

#[test]
fn a_session_that_was_to_stay_stays_once_the_operator_sets_no_expiration_any_more() {
    let mut stored = Stored::with(Limits {
        persistent_client_expiration: Some(Duration::from_secs(60)),
        ..Limits::default()
    });
    let (client, _) = stored.connect("10 13 0004 4d515454 05 00 0000 05 11 ffffffff 0001 61");
    stored.broker.lose(client);
    stored.write();
    stored.settings.policy.limits.persistent_client_expiration = None;
    for _ in 0..2 {
        stored.restart();
        stored.pass(120);
        assert_eq!(stored.sessions(), 1);
    }
}

/// [MQTT-3.14.2-2] allows any interval but a raise from zero: what DISCONNECT says holds.
#[test]
fn a_session_that_was_to_stay_ends_after_a_restart_when_its_client_said_as_it_left() {
    for (asked, left) in [("ffffffff", "0000003c"), ("00000e10", "0000003c")] {
        let mut stored = Stored::with(Limits::default());
        let connect = format!("10 13 0004 4d515454 05 00 0000 05 11 {asked} 0001 61");
        let (client, _) = stored.connect(&connect);
        stored.send(client, &format!("e0 07 00 05 11 {left}"));
        stored.pass(30);
        stored.restart();
        stored.pass(29);
        assert_eq!(stored.sessions(), 1, "{asked}");
        stored.pass(1);
        assert_eq!(stored.sessions(), 0, "{asked}");
    }
}

/// [MQTT-3.1.2-8] [MQTT-3.1.3-9] Time goes on while nobody is there to see it.
#[test]
fn a_session_and_its_will_that_were_waiting_are_due_when_they_were_after_a_snapshot_and_a_restart()
{
    let mut stored = Stored::with(Limits::default());
    // Session Expiry Interval 60, Will Delay Interval 40.
    let connect = "10 1f 0004 4d515454 05 04 0000 05 11 0000003c 0001 61 \
                   05 18 00000028 0001 74 0001 78";
    let (client, connack) = stored.connect(connect);
    assert!(connack.starts_with("20"), "{connack}");
    stored.broker.lose(client);
    stored.snapshot();
    stored.pass(30);
    stored.restart();
    let watcher = stored.broker.v311('w');
    stored.broker.send(watcher, "82 06 0001 0001 74 00");
    stored.pass(9);
    assert_eq!(stored.broker.receive(watcher), "");
    stored.pass(1);
    assert_eq!(stored.broker.receive(watcher), "300400017478");
    stored.pass(19);
    assert_eq!(stored.sessions(), 2);
    stored.pass(1);
    assert_eq!(stored.sessions(), 1);
}

/// [MQTT-4.3.3-4] [MQTT-4.3.3-10]
#[test]
fn qos2_exchanges_go_on_where_they_were_after_a_snapshot_and_a_restart() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(2);
    let publish = "34 06 0001 74 0001 78";
    assert_eq!(
        stored.send(client, publish),
        "50020001 340600017400 0178".replace(' ', "")
    );
    assert_eq!(stored.send(client, "50020001"), "62020001");
    stored.snapshot();
    stored.restart();
    let (client, heard) = stored.connect(STAYS);
    assert_eq!(heard, "2002010062020001");
    let again = publish.replace("34 06", "3c 06");
    assert_eq!(stored.send(client, &again), "50020001", "it had it");
    assert_eq!(stored.send(client, "62020001 70020001"), "70020001");
    assert_eq!(stored.owed(), 0);
}

/// [MQTT-3.3.1-1] That a PUBLISH was sent is written down, but not before it is sent: what was left to a Client which was
/// there to the end may be a repetition.
#[test]
fn what_may_have_been_sent_before_a_crash_is_sent_with_dup_after_it() {
    // The second of them is sent once the first is acknowledged.
    let mut stored = Stored::with(Limits {
        max_inflight_messages: 1,
        ..Limits::default()
    });
    let client = stored.subscriber(1);
    let heard = stored.send(client, "32 06 0001 74 0001 78 32 06 0001 74 0002 79");
    assert!(heard.contains("3206000174000178"), "{heard}");
    stored.broker.submit(client, &bytes("40020001"));
    assert_eq!(stored.broker.receive(client), "3206000174000279");
    stored.restart();
    let (client, heard) = stored.connect(STAYS);
    assert_eq!(heard, "200201003a06000174000178");
    assert_eq!(stored.send(client, "40020001"), "3a06000174000279");
}

/// [MQTT-3.3.1-1] The same after a second one before which nobody came back. What was published between them has not been
/// sent.
#[test]
fn what_may_have_been_sent_before_a_crash_is_sent_with_dup_after_the_next_ones() {
    let publish = |flags: u8, id: u16| format!("3{flags:x}060001740{id:03x}78");
    for qos in [1, 2] {
        for again in 0..3 {
            let mut stored = Stored::with(Limits::default());
            let client = stored.subscriber(qos);
            let flags = qos << 1;
            stored.broker.submit(client, &bytes(&publish(flags, 1)));
            // Of QoS 2 a message is sent once its Packet Identifier is sure to be known.
            assert!(stored.write_once());
            let heard = stored.broker.receive(client);
            assert!(heard.contains(&publish(flags, 1)), "{heard}");
            stored.restart();
            let publisher = stored.broker.v311('p');
            stored.send(publisher, &publish(flags, 2));
            for _ in 0..again {
                stored.restart();
                stored.snapshot();
            }
            let (_, heard) = stored.connect(STAYS);
            let expected = publish(flags | 8, 1) + &publish(flags, 2);
            assert_eq!(heard, format!("20020100{expected}"), "{again}");
        }
    }
}

/// [MQTT-3.3.1-3] What waited for a Client that was away has not been sent.
#[test]
fn what_waited_for_a_client_that_was_away_is_sent_without_dup_after_a_crash() {
    for qos in [1, 2] {
        let mut stored = Stored::with(Limits::default());
        let client = stored.subscriber(qos);
        stored.broker.lose(client);
        let publisher = "10 0d 0004 4d515454 04 02 0000 0001 62";
        let (publisher, _) = stored.connect(publisher);
        let publish = format!("{:02x} 06 0001 74 0001 78", 0x30 | qos << 1);
        stored.send(publisher, &publish);
        stored.restart();
        let (_, heard) = stored.connect(STAYS);
        let first = format!("{:02x}06000174000178", 0x30 | qos << 1);
        assert_eq!(heard, format!("20020100{first}"));
    }
}

/// [MQTT-3.3.1-5] What is retained after a restart is later than what was before.
#[test]
fn retained_messages_are_replaced_and_expire_after_a_restart_as_before() {
    let mut stored = Stored::with(Limits::default());
    let publisher = stored.broker.v5('p');
    for payload in ["31", "32", "33"] {
        stored.send(publisher, &format!("31 05 0001 74 00 {payload}"));
    }
    // Message Expiry Interval 10.
    stored.send(publisher, "31 0a 0001 75 05 02 0000000a 78");
    stored.restart();
    assert_eq!(stored.broker.shard.census().retained, 2);
    stored.pass(10);
    assert_eq!(stored.broker.shard.census().retained, 1);
    let publisher = stored.broker.v5('p');
    stored.send(publisher, "31 05 0001 74 00 34");
    let reader = stored.broker.v311('r');
    let heard = stored.broker.send(reader, "82 06 0001 0001 74 00");
    assert_eq!(heard, "9003000100310400017434");
}

/// Who is away has a place among the Sessions that there may be.
#[test]
fn sessions_that_a_restart_finds_count_among_those_that_there_may_be() {
    let mut settings = Settings::permissive(Limits::default());
    settings.policy.global_max_clients = Some(1);
    let mut stored = Stored::new(settings);
    let client = stored.subscriber(1);
    stored.broker.lose(client);
    stored.write();
    stored.restart();
    let stays = stays_in_v5("");
    let (_, connack) = stored.connect(&stays.replace("0001 61", "0001 62"));
    assert_eq!(connack, "2003008900");
    let (client, connack) = stored.connect(&stays);
    assert!(
        connack.starts_with("20") && !connack.starts_with("200300"),
        "{connack}"
    );
    // DISCONNECT with an expiry of zero ends it.
    stored.send(client, "e0 07 00 05 11 00000000");
    let (_, connack) = stored.connect(&stays.replace("0001 61", "0001 62"));
    assert!(!connack.starts_with("200300"), "{connack}");
}

/// [MQTT-4.8.2-4] What waited, what was sent and not acknowledged, and what came after the restart.
#[test]
fn what_a_member_of_a_group_has_not_had_is_handed_on_after_a_restart_as_before() {
    let subscribe = "82 0f 0001 000a 24736861 72652f67 2f74 01";
    let publish = "32 06 0001 74 0001 78";
    for (was_sent, comes_later) in [(false, false), (true, false), (false, true)] {
        let mut stored = Stored::with(Limits::default());
        let (client, _) = stored.connect(STAYS);
        stored.send(client, subscribe);
        if !was_sent {
            stored.broker.lose(client);
        }
        if comes_later {
            stored.write();
            stored.restart();
        }
        let publisher = stored.broker.v311('p');
        assert_eq!(stored.send(publisher, publish), "40020001");
        stored.restart();
        let member = stored.broker.v311('b');
        stored.broker.send(member, subscribe);
        // Its Client begins anew.
        stored.connect("10 0d 0004 4d515454 04 02 0000 0001 61");
        let heard = stored.broker.receive(member);
        assert_eq!(heard, "3206000174000178", "{was_sent}, {comes_later}");
    }
}

/// A v5 SUBSCRIBE with this Subscription Identifier.
fn subscribe_v5(filter: &str, subscription_identifier: u8, options: u8) -> String {
    let filter = hex(filter.as_bytes());
    let (size, filter_size) = (8 + filter.len() / 2, filter.len() / 2);
    format!(
        "82 {size:02x} 0001 02 0b {subscription_identifier:02x} {filter_size:04x} {filter} {options:02x}"
    )
}

/// A v5 PUBLISH of QoS 1 with the payload `x`, as its subscriber sees it.
fn published_v5(
    flags: u8,
    topic: char,
    packet_identifier: u16,
    subscription_identifier: u8,
) -> String {
    format!(
        "{:02x}090001{:02x}{packet_identifier:04x}020b{subscription_identifier:02x}78",
        0x32 | flags,
        topic as u32
    )
}

const RETAIN: u8 = 1;
const DUP: u8 = 8;

/// [MQTT-3.3.4-3]
#[test]
fn subscription_identifiers_come_with_what_is_owed_and_what_comes_later_over_a_restart() {
    for (says_anew, is_acknowledged) in [(false, false), (true, false), (false, true), (true, true)]
    {
        let mut stored = Stored::with(Limits::default());
        let (client, _) = stored.connect(&stays_in_v5(""));
        stored.send(client, &subscribe_v5("t", 7, 1));
        stored.send(client, &subscribe_v5("$share/g/u", 8, 1));
        let publisher = stored.broker.v5('p');
        let publish = |topic: char| format!("32 07 0001 {:02x} 0001 00 78", topic as u32);
        stored.send(publisher, &publish('t'));
        assert_eq!(stored.broker.receive(client), published_v5(0, 't', 1, 7));
        stored.broker.lose(client);
        let (client, heard) = stored.connect(&stays_in_v5(""));
        assert!(heard.ends_with(&published_v5(DUP, 't', 1, 7)), "{heard}");
        if is_acknowledged {
            stored.send(client, "40 02 0001");
        }
        stored.broker.lose(client);
        stored.send(publisher, &(publish('t') + &publish('u')));
        if says_anew {
            stored.snapshot();
        }
        stored.write();
        stored.restart();
        let (client, heard) = stored.connect(&stays_in_v5(""));
        let mut owed = published_v5(0, 't', 2, 7) + &published_v5(0, 'u', 3, 8);
        if !is_acknowledged {
            owed.insert_str(0, &published_v5(DUP, 't', 1, 7));
        }
        assert!(heard.ends_with(&owed), "{heard}");
        let publisher = stored.broker.v5('p');
        stored.send(publisher, &(publish('t') + &publish('u')));
        let later = published_v5(0, 't', 4, 7) + &published_v5(0, 'u', 5, 8);
        assert_eq!(stored.broker.receive(client), later);
    }
}

/// [MQTT-3.3.4-3] [MQTT-3.3.1-8] On the way to its Client, in flight, in its queue, and for what comes later.
#[test]
fn retained_messages_of_a_new_subscription_keep_retain_and_its_identifier_over_connections_and_restarts()
 {
    let mut stored = Stored::with(Limits::default());
    let publisher = stored.broker.v5('p');
    for topic in ['r', 's', 't'] {
        let retained = format!("33 07 0001 {:02x} 0001 00 78", topic as u32);
        stored.send(publisher, &retained);
    }
    // Receive Maximum 1.
    let connect = stays_in_v5("21 0001");
    let (client, _) = stored.connect(&connect);
    let heard = stored.send(client, &subscribe_v5("#", 9, 1));
    assert!(heard.ends_with(&published_v5(RETAIN, 'r', 1, 9)), "{heard}");
    stored.broker.lose(client);
    let (client, heard) = stored.connect(&connect);
    let again = published_v5(DUP | RETAIN, 'r', 1, 9);
    assert!(heard.ends_with(&again), "{heard}");
    let heard = stored.send(client, "40 02 0001");
    assert_eq!(heard, published_v5(RETAIN, 's', 2, 9));
    stored.broker.lose(client);
    stored.write();
    stored.restart();
    let (client, heard) = stored.connect(&connect);
    let again = published_v5(DUP | RETAIN, 's', 2, 9);
    assert!(heard.ends_with(&again), "{heard}");
    let heard = stored.send(client, "40 02 0002");
    assert_eq!(heard, published_v5(RETAIN, 't', 3, 9));
    assert_eq!(stored.send(client, "40 02 0003"), "");
    stored.restart();
    let (client, _) = stored.connect(&connect);
    let publisher = stored.broker.v5('p');
    stored.send(publisher, "32 07 0001 72 0001 00 78");
    let heard = stored.broker.receive(client);
    assert_eq!(heard, published_v5(0, 'r', 4, 9));
}

/// [MQTT-3.8.4-4] They wait for room in the window with those that are retained, not in the queue, which may have none.
#[test]
fn retained_messages_of_a_new_subscription_all_come_though_few_may_wait_in_its_queue() {
    let mut stored = Stored::with(Limits {
        max_queued_messages: 1,
        ..Limits::default()
    });
    let publisher = stored.broker.v5('p');
    for topic in ['r', 's', 't', 'u'] {
        let retained = format!("33 07 0001 {:02x} 0001 00 78", topic as u32);
        stored.send(publisher, &retained);
    }
    // Receive Maximum 1.
    let (client, _) = stored.connect(&stays_in_v5("21 0001"));
    let mut heard = stored.send(client, &subscribe_v5("#", 9, 1));
    for (id, topic) in (1..).zip(['r', 's', 't', 'u']) {
        let expected = published_v5(RETAIN, topic, id, 9);
        assert!(heard.ends_with(&expected), "{topic}: {heard}");
        heard = stored.send(client, &format!("40 02 {id:04x}"));
    }
    assert_eq!(heard, "");
}

/// [MQTT-3.8.4-4] A snapshot knows of them as well.
#[test]
fn retained_messages_that_are_still_to_come_do_so_after_a_snapshot_and_a_crash() {
    let mut stored = Stored::with(Limits::default());
    let publisher = stored.broker.v5('p');
    for topic in ['r', 's'] {
        let retained = format!("33 07 0001 {:02x} 0001 00 78", topic as u32);
        stored.send(publisher, &retained);
    }
    // Receive Maximum 1.
    let connect = stays_in_v5("21 0001");
    let (client, _) = stored.connect(&connect);
    stored.send(client, &subscribe_v5("#", 9, 1));
    stored.snapshot();
    stored.restart();
    let (client, heard) = stored.connect(&connect);
    let again = published_v5(DUP | RETAIN, 'r', 1, 9);
    assert!(heard.ends_with(&again), "{heard}");
    let mut rest = String::new();
    for id in 1..=4 {
        rest += &stored.send(client, &format!("40 02 {id:04x}"));
    }
    let is_there = (2..=3).any(|id| rest.contains(&published_v5(RETAIN, 's', id, 9)));
    assert!(is_there, "{rest}");
}

/// [MQTT-3.8.3-3] [MQTT-3.3.1-13]
#[test]
fn no_local_and_retain_as_published_hold_after_a_restart() {
    for says_anew in [false, true] {
        let mut stored = Stored::with(Limits::default());
        let (client, _) = stored.connect(&stays_in_v5(""));
        // QoS 1, No Local, Retain As Published.
        stored.send(client, &subscribe_v5("t", 7, 0x0d));
        if says_anew {
            stored.snapshot();
        }
        stored.restart();
        let (client, _) = stored.connect(&stays_in_v5(""));
        let retained = "33 07 0001 74 0001 00 78";
        assert!(stored.send(client, retained).starts_with("40"));
        let publisher = stored.broker.v5('p');
        stored.send(publisher, retained);
        let heard = stored.broker.receive(client);
        assert_eq!(heard, published_v5(RETAIN, 't', 1, 7));
    }
}

/// [MQTT-3.3.1-1] What is published while a CONNACK waits for the disk has not been sent if that never leaves.
#[test]
fn a_message_that_came_before_a_connack_that_never_left_is_no_duplicate() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(1);
    stored.broker.lose(client);
    stored.write();
    let first = stored.open(STAYS);
    let publisher = stored.broker.v311('p');
    stored.broker.send(publisher, "32 06 0001 74 0001 78");
    assert_eq!(stored.broker.receive(first), "", "the disk has nothing");
    stored.broker.lose(first);
    let (_, heard) = stored.connect(STAYS);
    assert_eq!(heard, "20020100 3206000174000178".replace(' ', ""));
}

/// What waits, and what was sent and not acknowledged. The rules that took it may be gone after a restart.
#[test]
fn what_a_reload_takes_from_a_session_is_forgotten_by_the_disk_and_does_not_come_after_a_restart() {
    for (qos, publish) in [(1, "32 06 0001 74 0001 78"), (2, "34 06 0001 74 0001 78")] {
        for was_sent in [false, true] {
            let mut stored = Stored::with(Limits::default());
            let client = stored.subscriber(qos);
            if !was_sent {
                stored.broker.lose(client);
            }
            let publisher = stored.broker.v311('p');
            stored.send(publisher, publish);
            if was_sent {
                assert!(!stored.broker.receive(client).is_empty());
                stored.broker.lose(client);
            }
            assert_eq!(stored.owed(), 1);
            let acl = Acl::parse("acl", b"topic write #\n").expect("a rule");
            let mut denying = stored.settings.clone();
            denying.listeners[0].security = Some(Arc::new(Security {
                passwords: None,
                acl: Some(acl),
            }));
            stored.broker.configure(denying);
            if was_sent {
                // It is when its Client comes back that this is looked at.
                let (client, heard) = stored.connect(STAYS);
                assert_eq!(heard, "20020100");
                stored.broker.lose(client);
            }
            assert_eq!(stored.owed(), 0, "QoS {qos}, {was_sent}");
            assert_eq!(stored.broker.shard.counters().dropped_denied, 1);
            stored.restart();
            let (_, heard) = stored.connect(STAYS);
            assert_eq!(heard, "20020100", "QoS {qos}, {was_sent}");
        }
    }
}

/// [MQTT-4.8.2-5] A QoS 2 PUBLISH that has left may not have been written down as sent: it stays with its Session, of which
/// it is lost, until that is over.
#[test]
fn a_qos2_message_that_may_have_been_sent_before_a_crash_is_not_handed_on_and_is_counted() {
    for says_anew in [false, true] {
        let subscribe = "82 0f 0001 000a 24736861 72652f67 2f74 02";
        let mut stored = Stored::with(Limits::default());
        let (client, _) = stored.connect(STAYS);
        stored.send(client, subscribe);
        let publisher = stored.broker.v311('p');
        stored.broker.send(publisher, "34 06 0001 74 0001 78");
        assert!(stored.write_once());
        let heard = stored.broker.receive(client);
        assert_eq!(heard, "3406000174000178", "the disk does not know");
        stored.restart();
        if says_anew {
            stored.snapshot();
            stored.restart();
        }
        assert_eq!(stored.owed(), 1);
        let member = stored.broker.v311('b');
        stored.broker.send(member, subscribe);
        stored.connect("10 0d 0004 4d515454 04 02 0000 0001 61");
        assert_eq!(stored.broker.receive(member), "");
        assert_eq!(stored.broker.shard.counters().dropped_clean_start, 1);
        assert_eq!(stored.owed(), 0);
    }
}

/// [MQTT-4.8.2-5] How many may have been sent is a matter of the window that the Client had, not of the one it will have.
#[test]
fn qos2_messages_that_may_have_been_sent_before_a_crash_are_not_handed_on_though_few_may_be_sent_now()
 {
    for (window, properties, kept) in [(3, "", 3), (3, "21 0002", 2), (0, "21 0002", 2)] {
        let limits = |max_inflight_messages| Limits {
            max_inflight_messages,
            ..Limits::default()
        };
        let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74 02";
        let mut stored = Stored::with(limits(window));
        let (client, _) = stored.connect(&stays_in_v5(properties));
        assert_eq!(stored.send(client, subscribe), "900400010002");
        let publisher = stored.broker.v311('p');
        for id in 1..=5 {
            let publish = format!("34 06 0001 74 {id:04x} 78");
            stored.broker.submit(publisher, &bytes(&publish));
        }
        assert!(stored.write_once());
        let heard = stored.broker.receive(client);
        assert_eq!(heard.matches("3407000174").count(), kept, "{heard}");
        stored.settings = Settings::permissive(limits(1));
        stored.restart();
        let member = stored.broker.v311('b');
        stored.send(member, "82 0f 0001 000a 24736861 72652f67 2f74 02");
        let (_, heard) = stored.connect("10 0d 0004 4d515454 04 02 0000 0001 61");
        assert_eq!(heard, "20020000");
        let dropped = stored.broker.shard.counters().dropped_clean_start;
        assert_eq!(dropped, kept as u64, "{window} {properties}");
    }
}

/// [MQTT-4.8.2-5] One that ends without PUBREL makes room in the window as well. The next is not sent before that is written
/// down: a start would take the one that has ended for the one that may have been sent.
#[test]
fn a_qos2_message_that_was_sent_after_others_ended_otherwise_than_by_pubrel_is_not_handed_on() {
    let refused = ("", "34 07 0001 74 0002 00 62", "50 03 0001 80", "62");
    let expired = "34 0c 0001 74 0002 05 02 00000001 62";
    let expired = ("", expired, "70 02 0001", "63");
    let large = "34 16 0001 74 0002 00 62626262 62626262 62626262 62626262";
    let large = ("27 00000010", large, "70 02 0001", "63");
    for (properties, second, answer, next) in [refused, expired, large] {
        for is_written in [false, true] {
            let mut stored = Stored::with(Limits::default());
            // Receive Maximum 1.
            let properties = format!("21 0001 {properties}");
            let (client, _) = stored.connect(&stays_in_v5(&properties));
            let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74 02";
            assert_eq!(stored.send(client, subscribe), "900400010002");
            let publisher = stored.broker.v5('p');
            stored.send(publisher, "34 07 0001 74 0001 00 61");
            stored.send(publisher, second);
            stored.send(publisher, "34 07 0001 74 0003 00 63");
            assert_eq!(stored.broker.receive(client), "340700017400010061");
            if answer.starts_with("70") {
                assert_eq!(stored.send(client, "50 02 0001"), "62020001");
            }
            stored.broker.pass(2);
            stored.broker.submit(client, &bytes(answer));
            if is_written {
                assert!(stored.write_once());
            }
            let heard = stored.broker.receive(client);
            assert_eq!(heard.ends_with(next), is_written, "{second}: {heard}");
            stored.restart();
            let member = stored.broker.v311('b');
            stored.send(member, "82 0f 0001 000a 24736861 72652f67 2f74 02");
            stored.connect("10 0d 0004 4d515454 04 02 0000 0001 61");
            let handed_on = stored.broker.receive(member);
            assert_eq!(handed_on.contains(next), !is_written, "{handed_on}");
        }
    }
}

/// A Client of the first one of two shards, which may be the only one before.
fn of_two() -> char {
    let shard = Shard::new(ShardId(0), 2, Limits::default(), 1);
    let mut names = 'a'..='z';
    let found = names.find(|name| shard.shard_of(&name.to_string()) == ShardId(0));
    found.expect("one of many")
}

/// A v3.1.1 CONNECT of this Client, with these flags.
fn connect_by(name: char, flags: u8) -> String {
    format!(
        "10 0d 0004 4d515454 04 {flags:02x} 0000 0001 {:02x}",
        name as u32
    )
}

/// A QoS 2 PUBLISH to `t` that is too large for a batch.
fn publish_alone(packet_identifier: u16) -> String {
    let payload = "78".repeat(600);
    format!("34 dd04 0001 74 {packet_identifier:04x} {payload}")
}

/// What the first ticket among these is called.
fn ticket_in(told: &[Envelope]) -> Option<u64> {
    told.iter().find_map(|envelope| match envelope {
        Envelope::Ticket { ticket, .. } => Some(*ticket),
        _ => None,
    })
}

/// [MQTT-4.8.2-5] The Session is over but for what another shard is to have of it.
#[test]
fn a_qos2_message_that_may_have_been_sent_is_not_among_those_that_an_ended_session_has_still_to_hand_on()
 {
    let filter = "$share/g/t";
    let subscribe = "82 0f 0001 000a 24736861 72652f67 2f74 02";
    let name = of_two();
    let mut stored = Stored::with(Limits::default());
    let (client, _) = stored.connect(&connect_by(name, 0));
    stored.send(client, subscribe);
    let publisher = stored.broker.v311('P');
    stored.send(publisher, "32 06 0001 74 0001 78");
    stored.broker.send(publisher, "34 06 0001 74 0002 79");
    assert!(stored.write_once());
    let heard = stored.broker.receive(client);
    assert_eq!(heard, "32060001740001783406000174000279");
    stored.restart_among(2);
    stored.hear_of_interest(filter);
    assert_eq!(stored.owed(), 2);
    stored.open(&connect_by(name, 2));
    assert_eq!(stored.owed(), 1, "of QoS 1");
    let told = stored.told();
    let ticket = ticket_in(&told).expect("it is handed on");
    stored.hear(Envelope::Stored { ticket, more: 0 });
    assert_eq!(stored.owed(), 0);
}

/// [MQTT-4.3.3-11] PUBREL frees the identifier, though it has not waited for PUBREC.
#[test]
fn what_was_released_before_other_shards_had_stored_it_is_not_written_down_as_received() {
    let mut stored = Stored::with(Limits::default());
    stored.restart_among(2);
    stored.hear_of_interest("t");
    let (publisher, _) = stored.connect(&connect_by(of_two(), 0));
    assert_eq!(stored.send(publisher, &publish_alone(1)), "");
    let ticket = ticket_in(&stored.told()).expect("the other shard is asked");
    assert_eq!(stored.send(publisher, "62 02 0001"), "");
    stored.hear(Envelope::Stored { ticket, more: 0 });
    stored.write();
    assert_eq!(stored.broker.receive(publisher), "5002000170020001");
    let sessions = stored.replayed().0.sessions;
    assert!(sessions.values().all(|it| it.inbound.is_empty()));
}

/// [MQTT-4.3.3-10] After one more crash its DUP tells nothing: it is the first of its message that is taken.
#[test]
fn a_message_that_begins_anew_under_an_identifier_in_doubt_is_not_taken_before_other_shards_have_it()
 {
    let name = of_two();
    let mut stored = Stored::with(Limits::default());
    let (publisher, _) = stored.connect(&connect_by(name, 0));
    let heard = stored.send(publisher, "34 06 0001 74 0001 78");
    assert_eq!(heard, "50020001");
    stored.durability = Durability::Interval(Duration::from_secs(1));
    stored.restart_among(2);
    stored.hear_of_interest("t");
    let (publisher, _) = stored.connect(&connect_by(name, 0));
    assert_eq!(stored.send(publisher, &publish_alone(1)), "");
    let is_taken = |stored: &Stored| {
        let sessions = stored.replayed().0.sessions;
        sessions.values().any(|it| !it.inbound.is_empty())
    };
    assert!(!is_taken(&stored));
    let ticket = ticket_in(&stored.told()).expect("the other shard is asked");
    stored.hear(Envelope::Stored { ticket, more: 0 });
    stored.write();
    assert!(is_taken(&stored));
}

/// [MQTT-4.3.3-10] Each of its ways is one receiver: that the one was there before a crash says nothing of the other.
#[test]
fn a_message_that_a_session_had_before_a_crash_comes_by_its_group_that_had_not_and_not_again_otherwise()
 {
    let name = of_two();
    let mut stored = Stored::with(Limits::default());
    stored.restart_among(2);
    let (client, _) = stored.connect(&connect_by(name, 0));
    for subscribe in [
        "82 06 0001 0001 74 02",
        "82 0f 0001 000a 24736861 72652f67 2f74 02",
    ] {
        stored.send(client, subscribe);
        stored.hear(Envelope::InterestAck { sequence: 9 });
    }
    stored.write();
    stored.broker.lose(client);
    let message: Arc<Message> = Arc::new(Message::new(MessageRef {
        topic_name: b"t",
        properties: b"",
        payload: b"x",
        qos: QoS::ExactlyOnce,
        retain: false,
        expires_at: None,
    }));
    let publish = Envelope::Publish {
        message: message.clone(),
        retained: None,
        deliver: true,
    };
    let to_group = Envelope::PublishShared {
        message,
        filter: b"$share/g/t"[..].into(),
        first: ShardId(0),
    };
    let ticket = |repeats| Envelope::Ticket {
        ticket: 1,
        origin: Some(Origin {
            session: 99,
            exchange: 1,
            packet_identifier: PacketIdentifier::new(1).expect("not zero"),
        }),
        repeats,
    };
    stored.hear(ticket(false));
    stored.hear(publish.clone());
    assert_eq!(stored.owed(), 1);
    stored.restart_among(2);
    for envelope in [publish, to_group] {
        stored.hear(ticket(true));
        stored.hear(envelope);
    }
    assert_eq!(stored.owed(), 2);
}

/// [MQTT-3.3.1-5] A crash would bring back one that is older than both.
#[test]
fn a_retained_message_that_a_later_one_has_replaced_is_not_stored_before_that_is() {
    // A topic that this shard keeps.
    let topic_name = of_two().to_string();
    let retained = |clock| Envelope::Publish {
        message: Message::new(MessageRef {
            topic_name: topic_name.as_bytes(),
            properties: b"",
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: true,
            expires_at: None,
        })
        .into(),
        retained: Some(RetainedVersion {
            clock,
            shard: ShardId(1),
        }),
        deliver: false,
    };
    let mut stored = Stored::with(Limits::default());
    stored.restart_among(2);
    stored.hear(retained(9));
    stored.hear(Envelope::Ticket {
        ticket: 7,
        origin: None,
        repeats: false,
    });
    stored.hear(retained(5));
    assert!(
        stored.told().is_empty(),
        "the disk has nothing of the later"
    );
    stored.write();
    let told = stored.told();
    let is_answered = matches!(told[..], [Envelope::Stored { ticket: 7, more: 0 }]);
    assert!(is_answered, "{told:?}");
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-12]
#[test]
fn a_packet_identifier_that_was_free_before_a_restart_is_that_of_another_message_afterwards() {
    for says_anew in [false, true] {
        let mut stored = Stored::with(Limits::default());
        let (publisher, _) = stored.connect(STAYS);
        let publish = "34 06 0001 74 0001 78";
        assert_eq!(stored.send(publisher, publish), "50020001");
        assert_eq!(stored.send(publisher, "62 02 0001"), "70020001");
        if says_anew {
            stored.snapshot();
        }
        stored.restart();
        let watcher = stored.broker.v311('w');
        stored.broker.send(watcher, "82 06 0001 0001 74 00");
        let (publisher, _) = stored.connect(STAYS);
        assert_eq!(stored.send(publisher, publish), "50020001");
        assert_eq!(stored.broker.receive(watcher), "300400017478");
    }
}

/// [MQTT-3.3.4-7] A Client that has released what a power failure has brought back may send as many as it was told.
#[test]
fn what_is_in_doubt_after_a_power_failure_does_not_count_against_the_receive_maximum() {
    let mut stored = Stored::with(Limits {
        max_inflight_messages: 1,
        ..Limits::default()
    });
    stored.durability = Durability::Interval(Duration::from_secs(1));
    let (publisher, _) = stored.connect(&stays_in_v5(""));
    let publish = |id: u16| format!("34 07 0001 74 {id:04x} 00 78");
    assert_eq!(stored.send(publisher, &publish(1)), "5003000110");
    stored.restart();
    let (publisher, _) = stored.connect(&stays_in_v5(""));
    assert_eq!(stored.send(publisher, &publish(2)), "5003000210");
    assert_eq!(stored.send(publisher, &publish(3)), "e00193");
}

/// Rules for the only listener there is.
fn with_rules(settings: &Settings, acl: &str) -> Settings {
    let mut settings = settings.clone();
    settings.listeners[0].security = Some(Arc::new(Security {
        passwords: None,
        acl: Some(Acl::parse("acl", acl.as_bytes()).expect("rules")),
    }));
    settings
}

/// A v3.1.1 CONNECT of the Client `b` with the User Name `bob`, whose Session stays.
const BOB: &str = "10 12 0004 4d515454 04 80 0000 0001 62 0003 626f62";

#[test]
fn a_retained_message_goes_with_the_right_of_who_published_it_before_a_restart() {
    let allowed = "topic read #\nuser bob\ntopic readwrite t\n";
    let revoked = "topic read #\nuser bob\ntopic read t\n";
    for (rules, heard) in [
        (allowed, "9003000100 310400017478"),
        (revoked, "9003000100"),
    ] {
        for says_anew in [false, true] {
            let mut settings = with_rules(&Settings::permissive(Limits::default()), allowed);
            settings.policy.check_retain_source = true;
            let mut stored = Stored::new(settings);
            let (bob, _) = stored.connect(BOB);
            stored.send(bob, "31 04 0001 74 78");
            if says_anew {
                stored.snapshot();
            }
            stored.settings = with_rules(&stored.settings, rules);
            stored.restart();
            let reader = stored.broker.v311('r');
            let suback = stored.broker.send(reader, "82 06 0001 0001 74 00");
            assert_eq!(suback, heard.replace(' ', ""), "{rules} {says_anew}");
        }
    }
}

#[test]
fn who_is_away_when_a_broker_starts_is_kept_what_its_user_name_may_read_and_nothing_else() {
    let acl = "topic write #\nuser bob\ntopic read t\n";
    let settings = with_rules(&Settings::permissive(Limits::default()), acl);
    let mut stored = Stored::new(settings);
    let (bob, _) = stored.connect(BOB);
    stored.send(bob, "82 06 0001 0001 23 01");
    stored.broker.lose(bob);
    stored.write();
    stored.restart();
    let publisher = stored.broker.v311('p');
    stored.send(publisher, "32 06 0001 74 0001 78 32 06 0001 75 0002 78");
    assert_eq!(stored.owed(), 1);
    let (_, heard) = stored.connect(BOB);
    assert_eq!(heard, "20020100 3206000174000178".replace(' ', ""));
}

/// [MQTT-3.1.2-5] What changes of a Session between two parts of what a snapshot says of it is in the log behind both.
#[test]
fn session_of_many_subscriptions_is_said_anew_a_part_at_a_time_with_what_changes_meanwhile() {
    let mut stored = Stored::with(Limits::default());
    let client = stored.subscriber(1);
    let filter = |number: usize| hex(format!("{number:04}").as_bytes());
    for number in 0..1000 {
        stored
            .broker
            .send(client, &format!("82 09 0001 0004 {} 01", filter(number)));
    }
    stored.write();
    stored.first = stored.replayed().1;
    stored.log.clear();
    stored.broker.shard.begin_snapshot();
    let mut parts = 0;
    while stored.broker.shard.continue_snapshot(1).is_none() {
        let written = stored.log.len();
        stored.write();
        assert!(stored.log.len() - written < 64 * 64, "in one turn");
        parts += 1;
        if parts == 5 {
            // What was said, what was not, and what nobody had.
            for number in [3, 990] {
                let unsubscribe = format!("a2 08 0002 0004 {}", filter(number));
                stored.broker.submit(client, &bytes(&unsubscribe));
            }
            stored.broker.submit(
                client,
                &bytes(&format!("82 09 0001 0004 {} 02", filter(5000))),
            );
        }
    }
    assert!(parts >= 1000 / 64, "{parts} parts");
    stored.restart();
    let census = stored.broker.shard.census();
    assert_eq!((census.sessions, census.subscriptions), (1, 1000));
    let (_, connack) = stored.connect(STAYS);
    assert_eq!(connack, "20020100");
}
