//! A Session of many subscriptions loses its connection and gets another one over many turns, and nobody sees anything but
//! what is true at each of them.

#[path = "support/hex.rs"]
mod hex;

use std::collections::BTreeMap;
use std::time::Duration;

use fastmq::codec::{self, Packet, Subscribe, SubscriptionOptions};
use fastmq::key::{ConnectionKey, PacketIdentifier};
use fastmq::limits::{ENDING_STEPS_MAX, Limits};
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::shard::{Command, Notice};
use hex::{Broker, bytes, hex};

/// More than a turn visits.
const MANY: usize = 3_000;
/// Turns that it takes at least.
const TURNS: usize = MANY / ENDING_STEPS_MAX;

fn connect(name: char) -> String {
    let name = name as u32;
    format!("10 13 0004 4d515454 05 00 0000 05 11 00000e10 0001 {name:02x}")
}

fn text(text: &str) -> String {
    format!("{:04x}{}", text.len(), hex(text.as_bytes()))
}

fn publish(first: u8, topic: &str) -> String {
    format!("{first:02x}{:02x}{}0078", topic.len() + 4, text(topic))
}

/// A SUBSCRIBE of 5.0 with QoS 1 to so many filters that begin with `prefix`.
fn subscribe(prefix: &str, count: usize) -> Vec<u8> {
    let names: Vec<String> = (0..count)
        .map(|number| format!("{prefix}f/{number:04}"))
        .collect();
    let options = SubscriptionOptions::new(QoS::AtLeastOnce);
    let filters: Vec<_> = names.iter().map(|name| (&**name, options)).collect();
    let identifier = PacketIdentifier::new(7).expect("not zero");
    let packet = Packet::Subscribe(Subscribe::new(identifier, &filters));
    let mut bytes = Vec::new();
    codec::encode(&packet, ProtocolVersion::V5, &mut bytes);
    bytes
}

/// A little later, what is due is done.
fn turn(broker: &mut Broker) {
    broker.now = broker.now + Duration::from_micros(10);
    let deadline = broker.shard.next_deadline();
    if deadline.is_some_and(|at| at <= broker.now) {
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
    }
}

/// As much of `packets` as is taken now; the rest is to be presented again.
fn present(broker: &mut Broker, client: ConnectionKey, packets: &mut Vec<u8>) {
    let (now, effects) = (broker.now, &mut broker.effects);
    let consumed = broker.shard.handle_bytes(client, packets, now, effects);
    packets.drain(..consumed);
}

/// Sends `packets` over as many turns as they take.
fn send(broker: &mut Broker, client: ConnectionKey, packets: &[u8]) {
    let mut packets = packets.to_vec();
    present(broker, client, &mut packets);
    while !packets.is_empty() {
        turn(broker);
        present(broker, client, &mut packets);
    }
}

/// Topic and first byte of each PUBLISH in `packets`, its Packet Identifier, and how many others there are.
fn published(packets: &str) -> (Vec<(String, u8, u16)>, usize) {
    let packets = bytes(packets);
    let (mut at, mut found, mut others) = (0, Vec::new(), 0);
    while at < packets.len() {
        let header = codec::decode_fixed_header(&packets[at..], u32::MAX).expect("a packet");
        let header = header.expect("a whole one");
        let body = &packets[at + header.header_size..at + header.total_size()];
        if header.first_byte >> 4 == 3 {
            let size = usize::from(body[1]);
            let topic = String::from_utf8(body[2..2 + size].to_vec()).expect("text");
            let identifier = match header.first_byte >> 1 & 3 {
                0 => 0,
                _ => u16::from_be_bytes([body[2 + size], body[3 + size]]),
            };
            found.push((topic, header.first_byte, identifier));
        } else {
            others += 1;
        }
        at += header.total_size();
    }
    (found, others)
}

/// Reads and acknowledges until nothing comes any more: how often each topic came, and how many other packets.
fn read_all(broker: &mut Broker, client: ConnectionKey) -> (BTreeMap<String, usize>, usize) {
    let mut counts = BTreeMap::new();
    let (mut quiet, mut others) = (0, 0);
    while quiet < 20 {
        let (found, more) = published(&broker.receive(client));
        others += more;
        quiet = if found.is_empty() { quiet + 1 } else { 0 };
        for (topic, first, identifier) in found {
            *counts.entry(topic).or_default() += 1;
            if first >> 1 & 3 == 1 {
                broker.submit(client, &bytes(&format!("4002{identifier:04x}")));
            }
        }
        turn(broker);
    }
    (counts, others)
}

/// A Client comes back to its Session, and reads nothing yet.
fn come_back(broker: &mut Broker, name: char) -> ConnectionKey {
    let client = broker.accept();
    broker.submit(client, &bytes(&connect(name)));
    client
}

/// Turns until nothing is to be visited any more.
fn visit(broker: &mut Broker, mut each: impl FnMut(&mut Broker)) -> usize {
    let mut turns = 0;
    while broker.shard.census().visited > 0 {
        each(broker);
        turn(broker);
        turns += 1;
        assert!(turns < 10 * MANY, "it ends");
    }
    turns
}

/// A broker with a retained message of QoS 1 for each filter, and who published them.
fn with_retained() -> (Broker, ConnectionKey) {
    let mut broker = Broker::new();
    let publisher = broker.v5('p');
    for number in 0..MANY {
        let topic = format!("f/{number:04}");
        let packet = format!("33{:02x}{}0001 00 78", topic.len() + 6, text(&topic));
        broker.send(publisher, &packet);
    }
    (broker, publisher)
}

/// [MQTT-3.8.4-4] [MQTT-3.1.2-4]
#[test]
fn replays_of_a_connection_that_ends_begin_anew_over_many_turns_and_come_completely() {
    let (mut broker, publisher) = with_retained();
    let other = broker.v5('o');
    let (client, _) = broker.connect(&connect('c'));
    send(&mut broker, client, &subscribe("", MANY));
    for _ in 0..3 {
        turn(&mut broker);
    }
    broker.lose(client);
    let turns = visit(&mut broker, |broker| {
        assert_eq!(broker.send(other, "c000"), "d000");
        broker.send(publisher, &publish(0x30, "f/2999"));
    });
    assert!(turns >= TURNS, "{turns} turns");
    let client = come_back(&mut broker, 'c');
    let turns = visit(&mut broker, |_| ());
    assert!(turns >= TURNS, "{turns} turns");
    let (counts, others) = read_all(&mut broker, client);
    assert_eq!((counts.len(), others), (MANY, 1), "beside CONNACK");
    // What was in flight comes again.
    let again = counts.values().filter(|&&count| count > 1).count();
    assert!(again <= 20, "{again} twice");
    // That was all, for the next connection as well.
    broker.lose(client);
    assert_eq!(broker.shard.census().visited, 0);
    let client = come_back(&mut broker, 'c');
    assert_eq!(broker.shard.census().visited, 0);
    assert_eq!(read_all(&mut broker, client).0.len(), 0);
}

/// [MQTT-3.1.4-3] [MQTT-4.6.0-6]
#[test]
fn client_that_is_back_before_its_session_was_left_is_read_once_all_of_it_was() {
    let (mut broker, _) = with_retained();
    let (client, _) = broker.connect(&connect('c'));
    send(&mut broker, client, &subscribe("", MANY));
    turn(&mut broker);
    // Twice, in the middle of it.
    let second = come_back(&mut broker, 'c');
    turn(&mut broker);
    let third = come_back(&mut broker, 'c');
    broker.effects.resumed.clear();
    assert!(broker.is_closed(client) && broker.is_closed(second));
    let mut packets = bytes("a2 0b 0002 00 0006 662f30303031 c000");
    present(&mut broker, third, &mut packets);
    assert_eq!(packets.len(), 15, "nothing is taken yet");
    visit(&mut broker, |broker| {
        assert!(broker.effects.resumed.is_empty());
    });
    assert_eq!(broker.effects.resumed, [third]);
    present(&mut broker, third, &mut packets);
    assert_eq!(packets, [0; 0]);
    let (counts, others) = read_all(&mut broker, third);
    assert_eq!(others, 3, "CONNACK, UNSUBACK and PINGRESP");
    // What was unsubscribed may have been sent before.
    assert!(
        (MANY - 21..=MANY).contains(&counts.len()),
        "{}",
        counts.len()
    );
}

/// [MQTT-3.8.4-3] A Client that has not heard of its SUBACK asks again, and is answered as if for the first time.
#[test]
fn subscriptions_without_suback_are_new_ones_to_a_client_that_comes_back_and_asks_again() {
    let (mut broker, _) = with_retained();
    let (client, _) = broker.connect(&connect('c'));
    let mut packet = subscribe("", MANY);
    present(&mut broker, client, &mut packet);
    while broker.shard.census().subscriptions < MANY - ENDING_STEPS_MAX {
        turn(&mut broker);
        present(&mut broker, client, &mut packet);
    }
    assert!(!packet.is_empty());
    broker.lose(client);
    assert!(visit(&mut broker, |_| ()) > 0);
    let client = come_back(&mut broker, 'c');
    visit(&mut broker, |_| ());
    assert_eq!(
        read_all(&mut broker, client).0.len(),
        0,
        "nothing was promised"
    );
    // Only if it is new: Retain Handling 1.
    let again = bytes("82 0c 0001 00 0006 662f30303030 11");
    for count in [1, 0] {
        broker.submit(client, &again);
        assert_eq!(read_all(&mut broker, client).0.len(), count);
    }
}

/// A Client of as many Shared Subscriptions, connected, and its SUBACK read.
fn sharing(broker: &mut Broker, name: char) -> ConnectionKey {
    let (client, _) = broker.connect(&connect(name));
    send(broker, client, &subscribe("$share/g/", MANY));
    broker.receive(client);
    client
}

/// [MQTT-4.8.2-4] Of QoS 0, which nobody keeps for who is not there.
#[test]
fn shared_subscriptions_choose_who_is_connected_while_another_member_is_being_left() {
    let mut broker = Broker::new();
    let (stays, leaves) = (sharing(&mut broker, 's'), sharing(&mut broker, 'l'));
    let publisher = broker.v5('p');
    broker.lose(leaves);
    let mut number = 0;
    let turns = visit(&mut broker, |broker| {
        // The last to be visited, and others.
        for topic in ["f/2999", "f/2998", &format!("f/{:04}", number % MANY)] {
            broker.send(publisher, &publish(0x30, topic));
            let (found, _) = published(&broker.receive(stays));
            assert_eq!(found, [(topic.to_owned(), 0x30, 0)]);
        }
        number += 37;
    });
    assert!(turns >= TURNS, "{turns} turns");
}

/// [MQTT-3.1.4-5] [MQTT-4.8.2-4]
#[test]
fn connack_to_a_client_of_many_shared_subscriptions_waits_until_all_of_them_know_it_is_back() {
    let mut broker = Broker::new();
    let (_, leaves) = (sharing(&mut broker, 's'), sharing(&mut broker, 'l'));
    let publisher = broker.v5('p');
    broker.lose(leaves);
    // Before it was left everywhere, and after.
    for _ in 0..2 {
        let client = come_back(&mut broker, 'l');
        let turns = visit(&mut broker, |broker| {
            assert_eq!(broker.receive(client), "");
        });
        assert!(turns >= TURNS, "{turns} turns");
        let connack = broker.receive(client);
        assert!(
            connack.starts_with("20") && &connack[4..6] == "01",
            "{connack}"
        );
        for topic in ["f/0000", "f/1500", "f/2999"] {
            for _ in 0..2 {
                broker.send(publisher, &publish(0x30, topic));
            }
            let (found, _) = published(&broker.receive(client));
            assert_eq!(found, [(topic.to_owned(), 0x30, 0)], "every second one");
        }
        broker.lose(client);
        visit(&mut broker, |_| ());
    }
}

/// [MQTT-3.1.2-6]
#[test]
fn session_that_ends_with_replays_under_way_leaves_nothing_after_many_turns() {
    let (mut broker, publisher) = with_retained();
    let client = broker.v5('c');
    send(&mut broker, client, &subscribe("", MANY));
    send(&mut broker, client, &bytes("82 07 0008 00 0001 23 01"));
    for _ in 0..50 {
        turn(&mut broker);
    }
    assert!(broker.shard.census().replaying > MANY / 2);
    broker.lose(client);
    let turns = visit(&mut broker, |broker| {
        assert_eq!(broker.shard.census().sessions, 1);
        // Nobody of that name is there, and another one may come.
        broker.send(publisher, &publish(0x30, "f/0001"));
    });
    assert!(turns > 1, "{turns} turns");
    for _ in 0..MANY {
        turn(&mut broker);
    }
    let census = broker.shard.census();
    assert_eq!(
        (census.ended, census.subscriptions, census.filters),
        (0, 0, 0)
    );
}

#[test]
fn client_that_goes_while_its_session_is_visited_may_come_with_a_new_session() {
    let (mut broker, _) = with_retained();
    let (client, _) = broker.connect(&connect('c'));
    send(&mut broker, client, &subscribe("", MANY));
    send(&mut broker, client, &subscribe("$share/g/", MANY));
    broker.lose(client);
    let (client, connack) = broker.connect("10 0e 0004 4d515454 05 02 0000 00 0001 63");
    assert!(
        connack.starts_with("20") && &connack[4..6] == "00",
        "{connack}"
    );
    send(
        &mut broker,
        client,
        &bytes("82 0c 0001 00 0006 662f30303030 01"),
    );
    visit(&mut broker, |_| ());
    assert_eq!(read_all(&mut broker, client).0.len(), 1);
    for _ in 0..10 * TURNS {
        turn(&mut broker);
    }
    assert_eq!(broker.shard.census().subscriptions, 1);
}

/// What the operator is told, turn by turn.
fn dump(broker: &mut Broker) -> Vec<String> {
    broker.effects.notices.clear();
    let (now, effects) = (broker.now, &mut broker.effects);
    broker.shard.handle_command(Command::DumpTree, now, effects);
    for _ in 0..TURNS {
        turn(broker);
    }
    let told = broker.effects.notices.drain(..);
    told.filter_map(|notice| match notice {
        Notice::Tree(text) => Some(text.to_string()),
        _ => None,
    })
    .collect()
}

#[test]
fn dump_of_many_sessions_that_have_ended_is_told_as_one_of_none() {
    let mut broker = Broker::with(Limits::default());
    let clients: Vec<_> = (0..1000)
        .map(|number| {
            let name = format!("{:02x}{:02x}", 65 + number / 32, 65 + number % 32);
            let (client, _) =
                broker.connect(&format!("10 0e 0004 4d515454 04 02 0000 0002 {name}"));
            client
        })
        .collect();
    assert!(dump(&mut broker).len() > 2);
    for client in clients {
        broker.lose(client);
    }
    let told = dump(&mut broker).concat();
    let told: Vec<_> = told.lines().collect();
    assert_eq!(told.first(), Some(&"Shard 0"));
    assert_eq!(told.last(), Some(&"Retained messages: 0"));
    assert!(told.len() <= 3, "{told:?}");
}

#[test]
fn dump_of_a_session_of_many_subscriptions_is_told_over_many_turns_and_names_it_each_time() {
    let mut broker = Broker::with(Limits::default());
    let (client, _) = broker.connect(&connect('c'));
    send(&mut broker, client, &subscribe("", MANY));
    let told = dump(&mut broker);
    assert!(told.len() > 2, "{}", told.len());
    for text in &told[1..] {
        let start: Vec<_> = text.lines().take(2).collect();
        assert_eq!(start, ["Shard 0, continued", "  c, continued"]);
    }
    let filters = told.iter().flat_map(|text| text.lines());
    let mut filters: Vec<_> = filters.filter(|line| line.starts_with("    f/")).collect();
    filters.sort_unstable();
    filters.dedup();
    assert_eq!(filters.len(), MANY);
}
