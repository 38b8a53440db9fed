//! Who is told of a reload when, and what becomes of what waited.

#![forbid(unsafe_code)]

use super::*;
use crate::auth::{Acl, Security};
use crate::codec::{self, Acknowledgement, Connect, Packet, PublishHeader};
use crate::codec::{Subscribe, SubscriptionOptions};
use crate::journal::{Journal, Origins, WallClock};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::origin::Origin;
use crate::policy::ListenerPolicy;
use crate::shard::Command;
use crate::shard::rig::{NOW, Rig, publish};

const V5: ProtocolVersion = ProtocolVersion::V5;
const CLIENTS: usize = 600;

/// As before, but a turn has time for few.
fn settings() -> Settings {
    Settings::permissive(Limits {
        ending_steps_max: 16,
        max_queued_messages: usize::MAX,
        ..Limits::default()
    })
}

/// The same, and nobody may publish.
fn read_only() -> Settings {
    let mut settings = settings();
    let acl = Acl::parse("acl", b"topic read #\n").expect("a rule");
    settings.listeners[0].security = Some(Arc::new(Security {
        passwords: None,
        acl: Some(acl),
    }));
    settings
}

fn crowd() -> (Rig, Vec<ConnectionKey>) {
    let mut rig = Rig::new();
    let keys = (0..CLIENTS)
        .map(|number| rig.connect(&number.to_string(), V5, u32::MAX))
        .collect();
    (rig, keys)
}

/// The same, and nobody has to do with some topics.
fn without(denied: &str) -> Settings {
    let mut settings = settings();
    let text = format!("topic readwrite #\ntopic deny {denied}\n");
    let acl = Acl::parse("acl", text.as_bytes()).expect("rules");
    settings.listeners[0].security = Some(Arc::new(Security {
        passwords: None,
        acl: Some(acl),
    }));
    settings
}

fn reload(rig: &mut Rig, settings: Settings) {
    let command = Command::Configure(settings.into());
    rig.shard.handle_command(command, NOW, &mut rig.effects);
}

/// Turns until everybody has been told.
fn turns(rig: &mut Rig) -> usize {
    (1..)
        .find(|&turn| {
            let now = NOW + std::time::Duration::from_micros(turn);
            rig.shard.handle_timeout(now, &mut rig.effects);
            rig.shard.clients.reload.is_none()
        })
        .expect("an end") as usize
}

/// What becomes of a message that this Client publishes.
fn answer(rig: &mut Rig, key: ConnectionKey, identifier: u16) -> ReasonCode {
    rig.feed(key, &publish(V5, QoS::AtLeastOnce, identifier, b"x"));
    let bytes = rig.output(key);
    let header = crate::codec::decode_fixed_header(&bytes, u32::MAX).expect("a packet");
    let body = &bytes[header.expect("a whole one").header_size..];
    match crate::codec::decode(V5, bytes[0], body).expect("a packet") {
        Packet::PubAck(puback) => puback.reason_code,
        Packet::Disconnect(disconnect) => disconnect.reason_code,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_reload_takes_many_turns_and_who_has_not_been_told_is_judged_by_the_new_rules() {
    let (mut rig, keys) = crowd();
    let (first, last) = (keys[0], keys[CLIENTS - 1]);
    assert_eq!(answer(&mut rig, last, 1), ReasonCode::NoMatchingSubscribers);
    reload(&mut rig, read_only());
    assert!(rig.shard.clients.reload.is_some());
    assert_eq!(answer(&mut rig, last, 2), ReasonCode::NotAuthorized);
    assert_eq!(answer(&mut rig, first, 2), ReasonCode::NotAuthorized);
    let new = rig.connect("new", V5, u32::MAX);
    assert_eq!(answer(&mut rig, new, 1), ReasonCode::NotAuthorized);
    // Sixteen connections, or one Session, in the time of a step.
    let turns_taken = turns(&mut rig);
    assert!((36..=42).contains(&turns_taken), "{turns_taken}");
    for key in [first, last, keys[CLIENTS / 2], new] {
        assert_eq!(answer(&mut rig, key, 3), ReasonCode::NotAuthorized);
    }
}

#[test]
fn a_reload_that_lets_nobody_in_ends_connections_turn_by_turn_and_takes_nothing_more_of_them() {
    let (mut rig, keys) = crowd();
    let mut closed = settings();
    closed.listeners[0].allow_anonymous = false;
    reload(&mut rig, closed);
    let told = rig.effects.closes.len();
    assert!(told < CLIENTS / 4, "{told}");
    let received = rig.shard.counters().publish_received;
    let last = keys[CLIENTS - 1];
    assert_eq!(answer(&mut rig, last, 1), ReasonCode::AdministrativeAction);
    assert_eq!(rig.shard.counters().publish_received, received);
    assert!(turns(&mut rig) > CLIENTS / 4);
    assert_eq!(rig.effects.closes.len(), CLIENTS);
}

#[test]
fn a_reload_before_the_one_before_is_through_leaves_nobody_with_the_rules_of_either() {
    let (mut rig, keys) = crowd();
    reload(&mut rig, read_only());
    let mut fewer = settings();
    fewer.listeners[0].max_qos = QoS::AtMostOnce;
    fewer.policy.limits.max_inflight_messages = 5;
    reload(&mut rig, fewer.clone());
    // Nobody is held to what was said of in between.
    fewer.policy.limits.max_inflight_messages = 3;
    reload(&mut rig, fewer);
    let last = keys[CLIENTS - 1];
    assert_eq!(answer(&mut rig, last, 1), ReasonCode::NoMatchingSubscribers);
    turns(&mut rig);
    let told = Limits::default().max_inflight_messages;
    for &key in &keys {
        let connection = rig.shard.clients.connections.get(key).expect("it stays");
        assert!(!connection.vetted);
        let rare = connection.rare().expect("what it was told");
        assert_eq!(rare.receive_maximum, Some(told));
    }
}

/// A Client of `listener` whose Session outlives its connection.
fn connect(rig: &mut Rig, name: &str, listener: u16) -> ConnectionKey {
    let origin = Origin {
        listener: ListenerId(listener),
        ..Origin::default()
    };
    let key = rig.shard.handle_accept(origin, NOW).expect("room");
    let mut connect = Connect::new(V5, name);
    connect.clean_start = false;
    connect.properties.session_expiry_interval = Some(1000);
    send(rig, key, &Packet::Connect(connect));
    key
}

fn send(rig: &mut Rig, key: ConnectionKey, packet: &Packet<'_>) {
    let mut bytes = Vec::new();
    codec::encode(packet, V5, &mut bytes);
    rig.feed(key, &bytes);
}

fn subscribe(rig: &mut Rig, key: ConnectionKey, filter: &str, qos: QoS) {
    let filters = [(filter, SubscriptionOptions::new(qos))];
    let subscribe = Subscribe::new(identifier(1), &filters);
    send(rig, key, &Packet::Subscribe(subscribe));
}

fn identifier(number: usize) -> PacketIdentifier {
    PacketIdentifier::new(1 + (number % 60_000) as u16).expect("not zero")
}

/// Publishes the number of each of `topics` to it.
fn fill(rig: &mut Rig, from: ConnectionKey, topics: &[String], retain: bool) {
    for (number, topic) in topics.iter().enumerate() {
        let payload = number.to_string();
        let header = PublishHeader {
            duplicate: false,
            qos: QoS::AtLeastOnce,
            retain,
            packet_identifier: Some(identifier(number)),
            topic_name: topic.as_bytes(),
            topic_alias: None,
            message_expiry_interval_s: None,
            forwarded: &[],
            subscription_identifiers: &[],
            payload: payload.as_bytes(),
        };
        let mut bytes = Vec::new();
        codec::encode_publish(V5, &header, &mut bytes);
        rig.feed(from, &bytes);
        published(rig, from);
    }
}

/// Every third is `shut`.
fn topics(count: usize) -> Vec<String> {
    let name = |number: usize| match number % 3 {
        0 => format!("shut/{number}"),
        _ => format!("open/{number}"),
    };
    (0..count).map(name).collect()
}

fn with_prefix<'a>(topics: &'a [String], prefix: &str) -> Vec<&'a String> {
    let all = topics.iter();
    all.filter(|topic| topic.starts_with(prefix)).collect()
}

/// What this Client is sent: topics, and Packet Identifiers where there are any.
fn published(rig: &mut Rig, key: ConnectionKey) -> Vec<(String, Option<PacketIdentifier>)> {
    let bytes = rig.output(key);
    rig.shard.handle_unsent(key, 0, NOW, &mut rig.effects);
    let (mut rest, mut found) = (&bytes[..], Vec::new());
    while let Some(header) = codec::decode_fixed_header(rest, u32::MAX).expect("a packet") {
        let (packet, behind) = rest.split_at(header.total_size());
        let body = &packet[header.header_size..];
        if let Packet::Publish(publish) = codec::decode(V5, packet[0], body).expect("a packet") {
            found.push((publish.topic_name.to_owned(), publish.packet_identifier));
        }
        rest = behind;
    }
    found
}

fn puback(rig: &mut Rig, key: ConnectionKey, identifier: PacketIdentifier) {
    let puback = Acknowledgement::new(identifier, ReasonCode::Success);
    send(rig, key, &Packet::PubAck(puback));
}

/// The next turn, and what `key` is sent in it.
fn turn(rig: &mut Rig, key: ConnectionKey) -> Vec<(String, Option<PacketIdentifier>)> {
    // Those of a rig that is fed at one moment follow each other closely.
    let deadline = rig.shard.next_deadline().unwrap_or(NOW);
    let now = deadline.min(NOW + std::time::Duration::from_millis(1));
    rig.shard.handle_timeout(now, &mut rig.effects);
    published(rig, key)
}

fn doubted(rig: &Rig, name: &str) -> usize {
    let session = rig.shard.clients.find(name).expect("a Session");
    let member = rig.shard.clients.members.get(session);
    member.map_or(0, |member| member.session.queue.doubted())
}

fn is_over(rig: &Rig) -> bool {
    rig.shard.clients.reload.is_none()
}

/// What there is of a queue is what is counted, of which nothing is left.
fn assert_nothing_waits(rig: &Rig) {
    let clients = &rig.shard.clients;
    assert_eq!((clients.queued_messages, clients.queued_bytes), (0, 0));
    assert_eq!(rig.shard.census().queued, 0);
}

#[test]
fn a_long_queue_is_judged_over_many_turns_and_what_is_denied_in_it_never_leaves() {
    let mut rig = Rig::new();
    reload(&mut rig, settings());
    let reader = connect(&mut rig, "reader", 0);
    subscribe(&mut rig, reader, "#", QoS::AtLeastOnce);
    let writer = connect(&mut rig, "writer", 0);
    let topics = topics(3000);
    fill(&mut rig, writer, &topics, false);
    let mut heard = published(&mut rig, reader);
    let sent_before = heard.len();
    assert_eq!(sent_before, 20);
    turns(&mut rig);

    reload(&mut rig, without("shut/#"));
    assert!(doubted(&rig, "reader") > 2900);
    let (mut left, mut acknowledged) = (topics.len() - sent_before, 0);
    for count in 0.. {
        heard.extend(turn(&mut rig, reader));
        if is_over(&rig) && acknowledged == heard.len() {
            assert!(count > 3000 / 200, "{count} turns");
            break;
        }
        if acknowledged < heard.len() {
            puback(&mut rig, reader, heard[acknowledged].1.expect("of QoS 1"));
            acknowledged += 1;
        }
        let doubted = doubted(&rig, "reader");
        assert!(left - doubted <= 200, "{left} and then {doubted}");
        left = doubted;
    }
    let (before, after) = topics.split_at(sent_before);
    let mut owed: Vec<&String> = before.iter().collect();
    owed.extend(with_prefix(after, "open"));
    assert!(heard.iter().map(|it| &it.0).eq(owed));
    let denied = with_prefix(after, "shut").len() as u64;
    assert_eq!(rig.shard.counters().dropped_denied, denied);
    assert_nothing_waits(&rig);
}

#[test]
fn what_comes_behind_much_that_is_denied_is_sent_without_a_word_of_its_client() {
    for comes_back in [false, true] {
        let mut rig = Rig::new();
        reload(&mut rig, settings());
        let mut reader = connect(&mut rig, "reader", 0);
        subscribe(&mut rig, reader, "#", QoS::AtLeastOnce);
        let writer = connect(&mut rig, "writer", 0);
        let shut: Vec<String> = (0..2000).map(|number| format!("shut/{number}")).collect();
        if comes_back {
            rig.shard.handle_closed(reader, NOW, &mut rig.effects);
        }
        fill(&mut rig, writer, &shut, false);
        fill(&mut rig, writer, &["open".to_owned()], false);
        turns(&mut rig);
        let waiting = match comes_back {
            true => Vec::new(),
            false => published(&mut rig, reader),
        };
        reload(&mut rig, without("shut/#"));
        if comes_back {
            reader = connect(&mut rig, "reader", 0);
        }
        for (_, identifier) in waiting {
            puback(&mut rig, reader, identifier.expect("of QoS 1"));
        }
        assert_eq!(published(&mut rig, reader), []);
        let heard: Vec<_> = (0..2000).flat_map(|_| turn(&mut rig, reader)).collect();
        assert!(is_over(&rig));
        assert_eq!(heard.len(), 1, "{heard:?}");
        assert_eq!(heard[0].0, "open");
        assert_nothing_waits(&rig);
    }
}

/// [MQTT-4.4.0-1]
#[test]
fn what_is_denied_is_not_sent_again_and_what_is_not_is_after_some_turns() {
    let mut rig = Rig::new();
    let mut wide = settings();
    wide.policy.limits.max_inflight_messages = 1000;
    reload(&mut rig, wide);
    let reader = connect(&mut rig, "reader", 0);
    subscribe(&mut rig, reader, "#", QoS::AtLeastOnce);
    let writer = connect(&mut rig, "writer", 0);
    let mut topics: Vec<String> = (0..300).map(|number| format!("shut/{number}")).collect();
    topics.push("open".to_owned());
    fill(&mut rig, writer, &topics, false);
    assert_eq!(published(&mut rig, reader).len(), 301);
    rig.shard.handle_closed(reader, NOW, &mut rig.effects);
    let mut denying = without("shut/#");
    denying.policy.limits.max_inflight_messages = 1000;
    reload(&mut rig, denying);
    turns(&mut rig);
    let reader = connect(&mut rig, "reader", 0);
    assert_eq!(published(&mut rig, reader), []);
    assert!(!is_over(&rig));
    // What comes meanwhile comes behind it [MQTT-4.6.0-1].
    fill(&mut rig, writer, &["open/later".to_owned()], false);
    let heard: Vec<_> = (0..300).flat_map(|_| turn(&mut rig, reader)).collect();
    let expected = [("open", 300), ("open/later", 301)];
    assert_eq!(
        heard,
        expected.map(|(topic, number)| (topic.to_owned(), Some(identifier(number))))
    );
    assert!(is_over(&rig));
    assert_eq!(rig.shard.counters().dropped_denied, 300);
    assert_eq!(rig.shard.census().inflight, 2);
}

#[test]
fn retained_messages_that_wait_to_be_read_are_judged_as_they_leave() {
    let small = |mut settings: Settings| {
        settings.policy.limits.outbox_bytes_max = 300;
        settings
    };
    for stays in [true, false] {
        let mut rig = Rig::new();
        reload(&mut rig, small(settings()));
        let writer = connect(&mut rig, "writer", 0);
        let topics = topics(900);
        fill(&mut rig, writer, &topics, true);
        let mut reader = connect(&mut rig, "reader", 0);
        rig.output(reader);
        subscribe(&mut rig, reader, "#", QoS::AtLeastOnce);
        let mut rounds = 0;
        while rig.shard.census().replaying < 800 {
            rig.shard.handle_timeout(
                NOW + std::time::Duration::from_micros(rounds),
                &mut rig.effects,
            );
            rounds += 1;
            assert!(rounds < 1000);
        }
        let sent_before = published(&mut rig, reader).len();
        reload(&mut rig, small(without("shut/#")));
        turns(&mut rig);
        if !stays {
            // Little enough to join the queue.
            rig.shard.handle_closed(reader, NOW, &mut rig.effects);
            reader = connect(&mut rig, "reader", 0);
        }
        let mut open = 0;
        for _ in 0..2000 {
            for (topic, identifier) in turn(&mut rig, reader) {
                // What was sent before is in the outbox, and is sent again to who comes back.
                open += usize::from(topic.starts_with("open"));
                let number: usize = topic[5..].parse().expect("a number");
                assert!(
                    number < 100 && stays || topic.starts_with("open"),
                    "{topic}"
                );
                if let Some(identifier) = identifier {
                    puback(&mut rig, reader, identifier);
                }
            }
        }
        assert!(open + sent_before >= 600, "{open} and {sent_before}");
        assert!(is_over(&rig));
        assert_eq!(rig.shard.census().replaying, 0);
    }
}

/// Of three listeners, with mount points.
fn mounted(mount_points: [Option<&str>; 3]) -> Settings {
    let mut settings = settings();
    settings.listeners = mount_points
        .map(|mount_point| ListenerPolicy {
            allow_anonymous: true,
            mount_point: mount_point.map(Into::into),
            ..ListenerPolicy::default()
        })
        .into();
    settings
}

#[test]
fn a_reload_that_changes_a_mount_point_ends_connections_turn_by_turn_and_sends_them_nothing_more() {
    for (before, after, topic, seen) in [
        (None, Some("m/"), "m/t", Some("t")),
        (Some("m/"), Some("m/n/"), "m/n/t", Some("t")),
        (Some("m/"), None, "m/t", Some("m/t")),
        (Some("m/"), Some("o/"), "m/t", None),
    ] {
        let mut rig = Rig::new();
        reload(&mut rig, mounted([None, before, None]));
        let keys: Vec<_> = (0..CLIENTS)
            .map(|number| {
                let key = connect(&mut rig, &number.to_string(), 1);
                subscribe(&mut rig, key, "#", QoS::AtLeastOnce);
                rig.output(key);
                key
            })
            .collect();
        let other = connect(&mut rig, "other", 0);
        subscribe(&mut rig, other, "#", QoS::AtLeastOnce);
        rig.output(other);
        turns(&mut rig);
        rig.effects.closes.clear();

        reload(&mut rig, mounted([None, after, None]));
        let mut ended = rig.effects.closes.len();
        assert!(ended <= 3, "{ended} at once");
        // One by one, and several that are looked up once.
        fill(&mut rig, other, &[topic.to_owned()], false);
        let mut run = Vec::new();
        for _ in 0..3 {
            let header = PublishHeader {
                duplicate: false,
                qos: QoS::AtMostOnce,
                retain: false,
                packet_identifier: None,
                topic_name: topic.as_bytes(),
                topic_alias: None,
                message_expiry_interval_s: None,
                forwarded: &[],
                subscription_identifiers: &[],
                payload: b"run",
            };
            codec::encode_publish(V5, &header, &mut run);
        }
        rig.feed(other, &run);
        for &key in &keys {
            assert_eq!(published(&mut rig, key), []);
        }
        // What it has to say is not taken.
        let received = rig.shard.counters().publish_received;
        rig.feed(keys[300], &publish(V5, QoS::AtLeastOnce, 9, b"x"));
        assert_eq!(rig.shard.counters().publish_received, received);
        assert_eq!(rig.effects.closes.len(), ended + 1);
        ended += 1;
        while !is_over(&rig) {
            assert_eq!(turn(&mut rig, keys[CLIENTS - 1]), []);
            assert!(rig.effects.closes.len() <= ended + 3);
            ended = rig.effects.closes.len();
        }
        assert_eq!(ended, CLIENTS);
        assert!(!rig.effects.closes.contains(&other));
        for number in [0, 300, CLIENTS - 1] {
            let back = connect(&mut rig, &number.to_string(), 1);
            let heard = published(&mut rig, back);
            let topics = heard.iter().map(|(topic, _)| &**topic);
            assert!(topics.eq(seen), "{before:?} {after:?} {heard:?}");
        }
    }
}

/// The disk takes what there is for it.
fn write(rig: &mut Rig) {
    let mut pieces = Vec::new();
    while let Some(last) = rig.shard.take_journal(&mut pieces) {
        rig.shard.handle_durable(last, NOW, &mut rig.effects);
    }
}

/// [MQTT-3.3.1-1] What a moved connection is not sent any more has not left, so it is no duplicate later.
#[test]
fn a_stored_session_is_sent_nothing_by_a_mount_point_that_holds_no_more_and_all_of_it_by_the_next()
{
    for (before, after, topic, seen) in [
        (None, Some("m/"), "m/t", "t"),
        (Some("m/"), Some("m/n/"), "m/n/t", "t"),
        (Some("m/"), None, "m/t", "m/t"),
    ] {
        let mut rig = Rig::new();
        let journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        rig.shard.store_in(journal, &[]);
        reload(&mut rig, mounted([None, before, None]));
        turns(&mut rig);
        let keys: Vec<_> = (0..20)
            .map(|number| {
                let key = connect(&mut rig, &number.to_string(), 1);
                write(&mut rig);
                subscribe(&mut rig, key, "#", QoS::AtLeastOnce);
                write(&mut rig);
                rig.output(key);
                key
            })
            .collect();
        let other = connect(&mut rig, "other", 0);
        write(&mut rig);
        rig.output(other);

        reload(&mut rig, mounted([None, after, None]));
        assert!(!is_over(&rig));
        fill(&mut rig, other, &[topic.to_owned()], false);
        write(&mut rig);
        for &key in &keys {
            assert_eq!(published(&mut rig, key), [], "{before:?} {after:?}");
        }
        turns(&mut rig);
        assert_eq!(rig.effects.closes.len(), keys.len());
        for number in 0..keys.len() {
            let back = connect(&mut rig, &number.to_string(), 1);
            write(&mut rig);
            let bytes = rig.output(back);
            let mut expected = Vec::new();
            let header = PublishHeader {
                duplicate: false,
                qos: QoS::AtLeastOnce,
                retain: false,
                packet_identifier: Some(identifier(0)),
                topic_name: seen.as_bytes(),
                topic_alias: None,
                message_expiry_interval_s: None,
                forwarded: &[],
                subscription_identifiers: &[],
                payload: b"0",
            };
            codec::encode_publish(V5, &header, &mut expected);
            assert!(bytes.ends_with(&expected), "{before:?} {after:?} {bytes:?}");
        }
    }
}

#[test]
fn a_mount_point_that_changes_before_the_one_before_is_through_ends_those_of_both_and_of_no_other_listener()
 {
    let mut rig = Rig::new();
    reload(&mut rig, mounted([None; 3]));
    let keys: Vec<_> = (0..CLIENTS)
        .map(|number| connect(&mut rig, &number.to_string(), number as u16 % 3))
        .collect();
    turns(&mut rig);
    rig.effects.closes.clear();
    reload(&mut rig, mounted([Some("a/"), None, None]));
    let new = connect(&mut rig, "new", 0);
    let mut last = mounted([Some("a/"), Some("b/"), None]);
    last.policy.limits.max_inflight_messages = 7;
    let between = connect(&mut rig, "between", 2);
    assert!(rig.effects.closes.len() <= 9);
    reload(&mut rig, mounted([Some("a/"), None, None]));
    assert!(rig.effects.closes.len() <= 12);
    reload(&mut rig, last);
    assert!(rig.effects.closes.len() <= 15);
    turns(&mut rig);
    for (number, key) in keys.into_iter().enumerate() {
        let is_ended = rig.effects.closes.contains(&key);
        assert_eq!(is_ended, number % 3 < 2, "{number}");
    }
    assert!(!rig.effects.closes.contains(&between));
    // It came by a mount point that still holds, but may have come before: it is not known of each of many when that was.
    assert!(rig.effects.closes.contains(&new));
}

#[test]
fn reloads_that_follow_each_other_take_no_turn_for_themselves_and_everybody_is_told_of_the_last() {
    let (mut rig, keys) = crowd();
    let closed = |denied: &str| {
        let mut closed = without(denied);
        closed.listeners[0].allow_anonymous = false;
        closed
    };
    // Each begins before the one before is through, and goes on from there.
    let mut ended = 0;
    for number in 0..600 {
        reload(&mut rig, closed(&format!("shut/{number}")));
        assert!(rig.effects.closes.len() <= ended + 3, "{number}");
        ended = rig.effects.closes.len();
        rig.shard.handle_timeout(
            NOW + std::time::Duration::from_micros(number + 1),
            &mut rig.effects,
        );
        assert!(rig.effects.closes.len() <= ended + 3, "{number}");
        ended = rig.effects.closes.len();
    }
    assert_eq!(ended, keys.len(), "somebody never had its turn");
}
