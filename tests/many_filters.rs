//! SUBSCRIBE and UNSUBSCRIBE packets of many Topic Filters are taken in over many turns, and answered as any other.

#[path = "support/hex.rs"]
mod hex;

use std::sync::Arc;
use std::time::Duration;

use fastmq::auth::{Acl, Security};
use fastmq::codec::{self, Packet, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe};
use fastmq::journal::{Journal, Origins, WallClock};
use fastmq::key::{ConnectionKey, PacketIdentifier};
use fastmq::limits::{ENDING_STEPS_MAX, FILTER_STEPS_MAX, Limits, REPLAY_STEPS_MAX};
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::policy::{LogMask, Settings};
use fastmq::shard::{Event, Notice};
use hex::{Broker, bytes, hex};

/// More than a turn may do.
const MANY: usize = 20_000;
/// Of Topic Filters that take effect, in one turn.
const FILTERS_A_TURN: usize = FILTER_STEPS_MAX / 8;

fn identifier() -> PacketIdentifier {
    PacketIdentifier::new(7).expect("not zero")
}

fn names(count: usize) -> Vec<String> {
    (0..count).map(|number| format!("f/{number}")).collect()
}

/// A SUBSCRIBE to all of `names`, with QoS 0, 1 and 2 by turns.
fn subscribe(version: ProtocolVersion, names: &[String]) -> Vec<u8> {
    let qos = [QoS::AtMostOnce, QoS::AtLeastOnce, QoS::ExactlyOnce];
    let options = qos.map(SubscriptionOptions::new);
    let filters = names.iter().map(String::as_str);
    let filters: Vec<_> = filters.zip(options.into_iter().cycle()).collect();
    let mut bytes = Vec::new();
    let packet = Packet::Subscribe(Subscribe::new(identifier(), &filters));
    codec::encode(&packet, version, &mut bytes);
    bytes
}

fn unsubscribe(version: ProtocolVersion, names: &[String]) -> Vec<u8> {
    let filters: Vec<_> = names.iter().map(String::as_str).collect();
    let mut bytes = Vec::new();
    let packet = Packet::Unsubscribe(Unsubscribe::new(identifier(), &filters));
    codec::encode(&packet, version, &mut bytes);
    bytes
}

/// Reason codes of the SUBACK or UNSUBACK that is all of `packets`.
fn codes(version: ProtocolVersion, packets: &str) -> Vec<ReasonCode> {
    let packets = bytes(packets);
    let header = codec::decode_fixed_header(&packets, u32::MAX).expect("a packet");
    let header = header.expect("a header");
    assert_eq!(header.total_size(), packets.len(), "one packet");
    let body = &packets[header.header_size..];
    match codec::decode(version, header.first_byte, body).expect("well-formed") {
        Packet::SubAck(suback) => suback.reason_codes.iter().collect(),
        Packet::UnsubAck(unsuback) => unsuback.reason_codes.iter().collect(),
        other => panic!("{other:?}"),
    }
}

/// What a Client has sent and the broker has not taken.
struct Sending {
    client: ConnectionKey,
    bytes: Vec<u8>,
}

impl Sending {
    /// The broker is given it for the first time.
    fn new(broker: &mut Broker, client: ConnectionKey, bytes: &[u8]) -> Self {
        let mut sending = Self {
            client,
            bytes: bytes.to_vec(),
        };
        sending.present(broker);
        sending
    }

    fn present(&mut self, broker: &mut Broker) {
        let effects = &mut broker.effects;
        let consumed = broker
            .shard
            .handle_bytes(self.client, &self.bytes, broker.now, effects);
        self.bytes.drain(..consumed);
    }

    /// The same again, if the broker has asked for it.
    fn present_resumed(&mut self, broker: &mut Broker) -> bool {
        let resumed = &mut broker.effects.resumed;
        let found = resumed.iter().position(|&key| key == self.client);
        let Some(found) = found else { return false };
        resumed.swap_remove(found);
        self.present(broker);
        true
    }

    fn is_taken(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A little later, what is due is done.
fn pass_turn(broker: &mut Broker) {
    broker.now = broker.now + Duration::from_micros(10);
    let deadline = broker.shard.next_deadline();
    if deadline.is_some_and(|at| at <= broker.now) {
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
    }
}

/// Turns until all of it is taken, and what its Client is sent in answer.
fn take_in(broker: &mut Broker, mut sending: Sending) -> String {
    let mut turns = 0;
    while !sending.is_taken() {
        pass_turn(broker);
        assert!(sending.present_resumed(broker), "it goes on in each turn");
        turns += 1;
        assert!(turns < 10 * MANY, "it ends");
    }
    broker.receive(sending.client)
}

/// How many turns it took until so many subscriptions were there.
fn take_in_until(broker: &mut Broker, sending: &mut Sending, count: usize) {
    while broker.shard.census().subscriptions < count {
        assert!(!sending.is_taken());
        pass_turn(broker);
        sending.present_resumed(broker);
    }
}

/// [MQTT-3.8.4-5] [MQTT-3.8.4-6] [MQTT-3.9.3-1]
#[test]
fn subscribe_of_many_filters_is_in_force_after_many_turns_and_suback_has_all_codes_in_order() {
    for version in [ProtocolVersion::V311, ProtocolVersion::V5] {
        let mut broker = Broker::new();
        let client = match version {
            ProtocolVersion::V5 => broker.v5('c'),
            _ => broker.v311('c'),
        };
        let (publisher, other) = (broker.v311('p'), broker.v311('o'));
        broker.send(other, "82 09 0001 0004 6c697665 00");
        let names = names(MANY);
        let mut packet = subscribe(version, &names);
        // What comes behind it waits.
        packet.extend([0xc0, 0]);
        let mut sending = Sending::new(&mut broker, client, &packet);
        let (mut before, mut turns) = (1, 0);
        while !sending.is_taken() {
            let count = broker.shard.census().subscriptions;
            assert!(count - before <= FILTERS_A_TURN, "{before}, then {count}");
            before = count;
            // Other Clients do not wait for it, and what is in force already may deliver.
            broker.send(publisher, "30 06 0004 6c697665");
            assert_eq!(broker.receive(other), "300600046c697665");
            broker.send(publisher, "30 05 0003 662f30");
            let heard = broker.receive(client);
            let is_in_force = before > 1;
            assert_eq!(!heard.is_empty(), is_in_force, "{heard} after {before}");
            pass_turn(&mut broker);
            assert!(sending.present_resumed(&mut broker));
            turns += 1;
        }
        assert!(turns >= MANY / FILTERS_A_TURN, "{turns} turns");
        let answers = broker.receive(client);
        let suback = answers.strip_suffix("d000").expect("PINGRESP behind it");
        let granted = [
            ReasonCode::Success,
            ReasonCode::GrantedQoS1,
            ReasonCode::GrantedQoS2,
        ];
        let expected: Vec<_> = granted.into_iter().cycle().take(MANY).collect();
        assert_eq!(codes(version, suback), expected);
        let census = broker.shard.census();
        assert_eq!((census.subscriptions, census.unfinished), (MANY + 1, 0));
        broker.send(publisher, "30 09 0007 662f3139393939");
        assert_ne!(broker.receive(client), "");
    }
}

/// [MQTT-3.10.4-1] [MQTT-3.10.4-6] [MQTT-3.11.3-1]
#[test]
fn unsubscribe_of_many_filters_is_done_after_many_turns_and_unsuback_has_all_codes_in_order() {
    let version = ProtocolVersion::V5;
    let mut broker = Broker::new();
    let client = broker.v5('c');
    let all = names(MANY);
    let sending = Sending::new(&mut broker, client, &subscribe(version, &all[1..]));
    take_in(&mut broker, sending);
    let mut sending = Sending::new(&mut broker, client, &unsubscribe(version, &all));
    let mut before = MANY - 1;
    while !sending.is_taken() {
        let count = broker.shard.census().subscriptions;
        assert!(before - count <= FILTERS_A_TURN, "{before}, then {count}");
        before = count;
        pass_turn(&mut broker);
        assert!(sending.present_resumed(&mut broker));
    }
    let mut expected = vec![ReasonCode::Success; MANY];
    expected[0] = ReasonCode::NoSubscriptionExisted;
    assert_eq!(codes(version, &broker.receive(client)), expected);
    let census = broker.shard.census();
    assert_eq!((census.subscriptions, census.filters), (0, 0));
}

/// [MQTT-4.7.1-1] [MQTT-4.7.3-1] [MQTT-1.5.4-1]
#[test]
fn malformed_filter_behind_many_ends_the_connection_before_any_is_in_force() {
    let version = ProtocolVersion::V311;
    let broken = [("c/#/d", None), ("broken", Some(0xff)), ("", None)];
    for (last, changed) in broken {
        let mut all = names(MANY);
        all.push(last.to_owned());
        for is_subscribe in [true, false] {
            let mut broker = Broker::new();
            let client = broker.v311('c');
            broker.send(client, "82 08 0001 0003 662f30 00");
            let mut packet = match is_subscribe {
                true => subscribe(version, &all),
                false => unsubscribe(version, &all),
            };
            if let Some(byte) = changed {
                let at = packet.len() - 3;
                packet[at] = byte;
            }
            let mut sending = Sending::new(&mut broker, client, &packet);
            while !sending.is_taken() {
                assert_eq!(broker.shard.census().subscriptions, 1);
                pass_turn(&mut broker);
                sending.present_resumed(&mut broker);
            }
            assert!(broker.is_closed(client), "{last}");
            assert_eq!(broker.receive(client), "", "{last}");
            assert_eq!(broker.shard.census().subscriptions, 0);
        }
    }
}

/// [MQTT-3.1.2-24]
#[test]
fn subscribe_whose_answer_would_be_too_large_ends_the_connection_before_any_filter_is_in_force() {
    let mut broker = Broker::new();
    let connect = "10 13 0004 4d515454 05 02 003c 05 27 00001000 0001 63";
    let (client, _) = broker.connect(connect);
    let packet = subscribe(ProtocolVersion::V5, &names(MANY));
    let mut sending = Sending::new(&mut broker, client, &packet);
    while !sending.is_taken() {
        assert_eq!(broker.shard.census().subscriptions, 0);
        pass_turn(&mut broker);
        sending.present_resumed(&mut broker);
    }
    assert!(broker.is_closed(client));
    assert_eq!(broker.receive(client), "e00195");
}

#[test]
fn connection_that_ends_in_the_middle_of_its_subscribe_leaves_others_their_turns() {
    let version = ProtocolVersion::V311;
    let mut broker = Broker::new();
    let (leaver, stays) = (broker.v311('l'), broker.v311('s'));
    let mut leaving = Sending::new(&mut broker, leaver, &subscribe(version, &names(MANY)));
    let mut staying = Sending::new(&mut broker, stays, &subscribe(version, &names(MANY)));
    let mut turns = [0; 2];
    while broker.shard.census().subscriptions < MANY / 2 {
        pass_turn(&mut broker);
        turns[0] += usize::from(leaving.present_resumed(&mut broker));
        turns[1] += usize::from(staying.present_resumed(&mut broker));
        assert!(turns[0].abs_diff(turns[1]) <= 1, "they go round: {turns:?}");
    }
    broker.lose(leaver);
    // Its place in the order may be the next one.
    assert_eq!(broker.shard.census().unfinished, 2);
    let suback = take_in_from(&mut broker, staying);
    assert_eq!(codes(version, &suback).len(), MANY);
    for _ in 0..=MANY / ENDING_STEPS_MAX {
        pass_turn(&mut broker);
    }
    let census = broker.shard.census();
    assert_eq!((census.subscriptions, census.ended), (MANY, 0));
    assert_eq!((census.filters, census.unfinished), (MANY, 0));
}

/// As [`take_in`], where other connections may have a turn as well.
fn take_in_from(broker: &mut Broker, mut sending: Sending) -> String {
    while !sending.is_taken() {
        pass_turn(broker);
        sending.present_resumed(broker);
    }
    broker.receive(sending.client)
}

/// [MQTT-3.1.4-3]
#[test]
fn client_that_takes_its_session_over_in_the_middle_of_its_subscribe_may_subscribe_again() {
    let version = ProtocolVersion::V5;
    let mut broker = Broker::new();
    let connect = "10 13 0004 4d515454 05 00 003c 05 11 0000003c 0001 63";
    let (first, _) = broker.connect(connect);
    let mut sending = Sending::new(&mut broker, first, &subscribe(version, &names(MANY)));
    take_in_until(&mut broker, &mut sending, MANY / 2);
    let (second, connack) = broker.connect(connect);
    assert!(
        connack.starts_with("20") && &connack[4..6] == "01",
        "{connack}"
    );
    assert_eq!(broker.receive(first), "e0018e");
    pass_turn(&mut broker);
    assert!(broker.effects.resumed.is_empty(), "nobody goes on with it");
    let half = broker.shard.census().subscriptions;
    assert!((MANY / 2..MANY).contains(&half), "what was in force stays");
    let sending = Sending::new(&mut broker, second, &subscribe(version, &names(MANY)));
    assert_eq!(codes(version, &take_in(&mut broker, sending)).len(), MANY);
    assert_eq!(broker.shard.census().subscriptions, MANY);
}

#[test]
fn filters_that_have_their_turn_after_a_reload_are_decided_by_what_is_new() {
    let guarded = |acl: &str, max_subscriptions| {
        let mut settings = Settings::permissive(Limits {
            max_subscriptions,
            ..Limits::default()
        });
        settings.listeners[0].security = Some(Arc::new(Security {
            passwords: None,
            acl: Some(Acl::parse("acl", acl.as_bytes()).expect("an ACL file")),
        }));
        settings
    };
    let version = ProtocolVersion::V5;
    let mut broker = Broker::with_settings(guarded("topic readwrite #", MANY));
    let (client, publisher) = (broker.v5('c'), broker.v5('p'));
    let packet = subscribe(version, &names(MANY));
    let mut sending = Sending::new(&mut broker, client, &packet);
    take_in_until(&mut broker, &mut sending, MANY / 2);
    let granted = broker.shard.census().subscriptions;
    broker.configure(guarded("topic readwrite #\ntopic deny f/0", 10));
    let codes = codes(version, &take_in(&mut broker, sending));
    let (before, after) = codes.split_at(granted);
    assert!(before.iter().all(|code| !code.is_error()));
    assert!(after.iter().all(|&code| code == ReasonCode::QuotaExceeded));
    assert_eq!(codes.len(), MANY);
    // What is in force delivers what is not denied now.
    broker.send(publisher, "30 07 0003 662f30 00 78");
    assert_eq!(broker.receive(client), "");
    broker.send(publisher, "30 07 0003 662f33 00 78");
    assert_eq!(broker.receive(client), "30070003662f330078");
}

/// [MQTT-3.1.2-22]
#[test]
fn client_is_not_silent_while_its_subscribe_is_taken_in() {
    let version = ProtocolVersion::V311;
    let mut broker = Broker::new();
    let connect = "10 0d 0004 4d515454 04 02 0001 0001 63";
    let (client, _) = broker.connect(connect);
    let mut sending = Sending::new(&mut broker, client, &subscribe(version, &names(MANY)));
    // Its Keep Alive of one second is over several times meanwhile.
    while !sending.is_taken() {
        broker.now = broker.now + Duration::from_millis(40);
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        assert!(!broker.is_closed(client));
        assert!(sending.present_resumed(&mut broker));
    }
    assert_eq!(codes(version, &broker.receive(client)).len(), MANY);
    broker.pass(2);
    assert!(broker.is_closed(client), "it says nothing more");
}

/// [MQTT-3.8.4-4] [MQTT-3.3.1-9]
#[test]
fn many_subscriptions_of_one_packet_are_sent_what_is_retained_over_many_turns_each_once() {
    let version = ProtocolVersion::V311;
    let all = names(MANY);
    let mut broker = Broker::new();
    let publisher = broker.v311('p');
    for name in &all {
        let size = 2 + name.len() + 1;
        let topic = hex(name.as_bytes());
        broker.send(
            publisher,
            &format!("31{size:02x}{:04x}{topic}78", name.len()),
        );
    }
    let client = broker.v311('c');
    let sending = Sending::new(&mut broker, client, &subscribe(version, &all));
    let mut heard = take_in(&mut broker, sending);
    let suback_size = 2 * (1 + 3 + 2 + MANY);
    assert!(heard.starts_with("90"));
    heard.drain(..suback_size);
    let mut topics = Vec::new();
    let mut turns = 0;
    while topics.len() < MANY {
        let found = heard.matches("0007662f").count();
        let packets = bytes(&heard);
        let (mut at, mut count) = (0, 0);
        while at < packets.len() {
            assert_eq!(packets[at], 0x31, "QoS 0, retained; {found}");
            let size = usize::from(packets[at + 1]);
            let topic = &packets[at + 4..at + 2 + size - 1];
            topics.push(String::from_utf8(topic.to_vec()).expect("text"));
            at += 2 + size;
            count += 1;
        }
        assert!(count <= REPLAY_STEPS_MAX, "{count} in one turn");
        pass_turn(&mut broker);
        heard = broker.receive(client);
        turns += 1;
        assert!(turns < MANY, "{} of {MANY}", topics.len());
    }
    topics.sort_unstable();
    topics.dedup();
    assert_eq!(topics.len(), MANY, "each once");
}

#[test]
fn packet_of_many_filters_is_in_the_log_once_and_each_filter_of_it() {
    let mut settings = Settings::permissive(Limits {
        filter_steps_max: 1,
        ..Limits::default()
    });
    settings.policy.log = LogMask::SUBSCRIBE.or(LogMask::PACKETS);
    let mut broker = Broker::with_settings(settings);
    let client = broker.v311('c');
    broker.effects.notices.clear();
    let packet = subscribe(ProtocolVersion::V311, &names(3));
    let sending = Sending::new(&mut broker, client, &packet);
    assert_eq!(take_in(&mut broker, sending), "90050007000102");
    let told: Vec<String> = broker
        .effects
        .notices
        .drain(..)
        .map(|notice| match notice {
            Notice::Log(event) => match *event {
                Event::Received { name, .. } => name.to_owned(),
                Event::Subscribed { topic_filter, .. } => topic_filter.to_string(),
                other => format!("{other:?}"),
            },
            other => format!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["SUBSCRIBE", "f/0", "f/1", "f/2"]);
}

/// Retains a message of QoS 0 or 1 of each of these topics.
fn retain(broker: &mut Broker, names: &[String], qos: QoS) {
    let (first_byte, identifier) = match qos {
        QoS::AtMostOnce => ("31", ""),
        _ => ("33", "0007"),
    };
    let publisher = broker.v311('p');
    for name in names {
        let size = 2 + name.len() + identifier.len() / 2 + 1;
        let (length, topic) = (name.len(), hex(name.as_bytes()));
        let publish = format!("{first_byte}{size:02x}{length:04x}{topic}{identifier}78");
        broker.send(publisher, &publish);
    }
}

/// Turns until all of it is taken.
fn turns_to_take(broker: &mut Broker, mut sending: Sending) -> usize {
    let mut turns = 1;
    while !sending.is_taken() {
        pass_turn(broker);
        assert!(sending.present_resumed(broker), "it goes on in each turn");
        turns += 1;
        assert!(turns < 10 * MANY, "it ends");
    }
    turns
}

/// What an UNSUBSCRIBE of all takes if there is nothing to be looked at beside.
const TURNS_TO_UNSUBSCRIBE: usize = MANY / FILTERS_A_TURN + MANY / FILTER_STEPS_MAX + 2;

/// All that a Client hears in so many turns.
fn hear(broker: &mut Broker, client: ConnectionKey, turns: usize) -> String {
    let mut heard = String::new();
    for _ in 0..turns {
        pass_turn(broker);
        heard += &broker.receive(client);
    }
    heard
}

#[test]
fn unsubscribe_takes_no_longer_because_retained_messages_were_found_that_its_client_does_not_read()
{
    let version = ProtocolVersion::V311;
    let mut all = names(MANY);
    let mut broker = Broker::new();
    retain(&mut broker, &all, QoS::AtLeastOnce);
    let client = broker.v311('c');
    // QoS 1 for all, so that it is sent as many as it has room for and no more.
    for some in all.chunks(500) {
        let options = SubscriptionOptions::new(QoS::AtLeastOnce);
        let filters: Vec<_> = some.iter().map(|name| (name.as_str(), options)).collect();
        let mut bytes = Vec::new();
        let packet = Packet::Subscribe(Subscribe::new(identifier(), &filters));
        codec::encode(&packet, version, &mut bytes);
        let sending = Sending::new(&mut broker, client, &bytes);
        turns_to_take(&mut broker, sending);
    }
    hear(&mut broker, client, 100);
    let before = broker.shard.census().replaying;
    assert!(before >= 4000, "{before} wait to be sent");
    // Those that were found last first, so that the others wait to the end.
    all.reverse();
    let sending = Sending::new(&mut broker, client, &unsubscribe(version, &all));
    let turns = turns_to_take(&mut broker, sending);
    assert!(turns <= TURNS_TO_UNSUBSCRIBE, "{turns} turns");
    assert!(hear(&mut broker, client, 10).starts_with("b0020007"));
    let census = broker.shard.census();
    assert_eq!((census.replaying, census.subscriptions), (0, 0));
}

#[test]
fn subscription_that_ends_and_comes_again_while_many_wait_to_be_looked_up_is_sent_its_message_once()
{
    let version = ProtocolVersion::V311;
    let all = names(MANY);
    let mut broker = Broker::new();
    retain(&mut broker, &all, QoS::AtMostOnce);
    let client = broker.v311('c');
    let sending = Sending::new(&mut broker, client, &subscribe(version, &all));
    assert!(take_in(&mut broker, sending).starts_with("90"));
    // The last ones are not looked up yet.
    let last = &all[MANY - 300..];
    let sending = Sending::new(&mut broker, client, &unsubscribe(version, last));
    let turns = turns_to_take(&mut broker, sending);
    assert!(turns <= 300usize.div_ceil(FILTERS_A_TURN), "{turns} turns");
    let again = &all[MANY - 1..];
    let sending = Sending::new(&mut broker, client, &subscribe(version, again));
    turns_to_take(&mut broker, sending);
    let heard = hear(&mut broker, client, 8 * MANY / REPLAY_STEPS_MAX);
    let count = |name: &String| {
        heard
            .matches(&format!("{}78", hex(name.as_bytes())))
            .count()
    };
    let counts: Vec<_> = last.iter().map(count).collect();
    assert_eq!(counts[..299], [0; 299]);
    assert_eq!(counts[299], 1);
}

#[test]
fn unsubscribe_takes_no_longer_because_suback_waits_for_a_disk_and_nothing_comes_of_what_it_ends() {
    let version = ProtocolVersion::V311;
    let all = names(MANY);
    let mut broker = Broker::new();
    let journal = Journal::new(0, 1, Origins::default(), WallClock::default());
    broker.shard.store_in(journal, &[]);
    let write = |broker: &mut Broker| {
        let mut pieces = Vec::new();
        while let Some(last) = broker.shard.take_journal(&mut pieces) {
            broker
                .shard
                .handle_durable(last, broker.now, &mut broker.effects);
        }
    };
    retain(&mut broker, &all[..10], QoS::AtMostOnce);
    write(&mut broker);
    let client = broker.accept();
    // A Session that stays.
    broker.submit(client, &bytes("10 0d 0004 4d515454 04 00 0000 0001 61"));
    write(&mut broker);
    assert_eq!(broker.receive(client), "20020000");
    let sending = Sending::new(&mut broker, client, &subscribe(version, &all));
    turns_to_take(&mut broker, sending);
    let sending = Sending::new(&mut broker, client, &unsubscribe(version, &all));
    let turns = turns_to_take(&mut broker, sending);
    assert!(turns <= TURNS_TO_UNSUBSCRIBE, "{turns} turns");
    let sending = Sending::new(&mut broker, client, &subscribe(version, &all[3..5]));
    turns_to_take(&mut broker, sending);
    assert_eq!(
        hear(&mut broker, client, 10),
        "",
        "the disk has not answered"
    );
    write(&mut broker);
    let heard = hear(&mut broker, client, 8 * MANY / REPLAY_STEPS_MAX);
    let counts = all[..10]
        .iter()
        .map(|name| heard.matches(&hex(name.as_bytes())).count());
    let counts: Vec<_> = counts.collect();
    assert_eq!(counts, [0, 0, 0, 1, 1, 0, 0, 0, 0, 0]);
    assert!(heard.contains("b0020007"), "UNSUBACK");
}
