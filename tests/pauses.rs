//! What is much work is done over many turns: whoever else sends something meanwhile does not wait for it.

#[path = "support/hex.rs"]
mod hex;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use fastmq::auth::{Acl, Security};
use fastmq::key::ConnectionKey;
use fastmq::limits::Limits;
use fastmq::policy::Settings;
use fastmq::shard::{Command, Notice};
use hex::{Broker, bytes, hex};

/// More than any turn may do.
const MANY: usize = 20_000;
/// Of what is looked at or sent for retained messages, in one turn.
const STEPS_A_TURN: usize = fastmq::limits::REPLAY_STEPS_MAX;
/// Of Sessions whose time is over, in one turn.
const DEADLINES_A_TURN: usize = 8;
/// Of subscriptions of ended Sessions that are forgotten, in one turn.
const ENDINGS_A_TURN: usize = fastmq::limits::ENDING_STEPS_MAX;

fn text(text: &str) -> String {
    format!("{:04x}{}", text.len(), hex(text.as_bytes()))
}

/// A retained QoS 0 PUBLISH of 3.1.1.
fn retained(topic: &str, payload: &str) -> String {
    let size = 2 + topic.len() + payload.len();
    format!("31{size:02x}{}{}", text(topic), hex(payload.as_bytes()))
}

fn subscribe(filter: &str) -> String {
    format!("82{:02x}0001{}00", 5 + filter.len(), text(filter))
}

/// Topic and payload of each PUBLISH in `packets`, which all are small, and whether it was retained.
fn published(packets: &str) -> Vec<(String, String, bool)> {
    let packets = bytes(packets);
    let (mut at, mut found) = (0, Vec::new());
    while at < packets.len() {
        let (first, size) = (packets[at], usize::from(packets[at + 1]));
        assert!(size < 128);
        let body = &packets[at + 2..at + 2 + size];
        if first >> 4 == 3 {
            let (topic, payload) = body[2..].split_at(usize::from(body[1]));
            let owned = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).expect("text");
            found.push((owned(topic), owned(payload), first & 1 == 1));
        }
        at += 2 + size;
    }
    found
}

/// The next turn, a little later: what is due is done, and what `client` is sent is told.
fn turn(broker: &mut Broker, client: ConnectionKey) -> Vec<(String, String, bool)> {
    broker.now = broker.now + Duration::from_micros(10);
    if broker
        .shard
        .next_deadline()
        .is_some_and(|at| at <= broker.now)
    {
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
    }
    published(&broker.receive(client))
}

/// A broker with so many retained messages `r/<n>/v`, and who published them.
fn with_retained(count: usize) -> (Broker, ConnectionKey) {
    let mut broker = Broker::new();
    let publisher = broker.v311('p');
    for number in 0..count {
        broker.send(publisher, &retained(&format!("r/{number}/v"), "old"));
    }
    (broker, publisher)
}

#[test]
fn a_wildcard_over_many_retained_messages_is_answered_over_many_turns_and_completely() {
    for filter in ["r/#", "r/+/v", "#", "+/+/+"] {
        let (mut broker, publisher) = with_retained(MANY);
        let reader = broker.v311('r');
        let other = broker.v311('o');
        broker.send(other, &subscribe("live"));
        let mut found = BTreeMap::new();
        let mut turns = 0;
        let mut heard = published(&broker.send(reader, &subscribe(filter)));
        while found.len() < MANY {
            assert!(
                heard.len() <= STEPS_A_TURN + 1,
                "{} in one turn",
                heard.len()
            );
            // `#` hears what is published meanwhile as well.
            for (topic, payload, is_retained) in heard.into_iter().filter(|it| it.0 != "live") {
                assert_eq!((payload.as_str(), is_retained), ("old", true));
                assert_eq!(found.insert(topic, ()), None, "each once");
            }
            // What is published meanwhile is delivered in its turn.
            broker.send(publisher, "30 06 0004 6c697665");
            assert_eq!(broker.receive(other), "300600046c697665", "{filter}");
            heard = turn(&mut broker, reader);
            turns += 1;
            assert!(
                turns < 1000,
                "{} of {MANY} after {turns} turns",
                found.len()
            );
        }
        assert!(turns >= MANY / STEPS_A_TURN, "{turns} turns");
        for _ in 0..5 {
            assert_eq!(turn(&mut broker, reader), []);
        }
        assert_eq!(
            broker.shard.next_deadline().filter(|&at| at <= broker.now),
            None
        );
    }
}

/// [MQTT-4.6.0-5]
#[test]
fn what_changes_while_a_wildcard_is_answered_comes_once_and_live() {
    let (mut broker, publisher) = with_retained(MANY);
    let reader = broker.v311('r');
    let mut heard = published(&broker.send(reader, &subscribe("r/#")));
    let mut seen: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
    let mut turns = 0;
    loop {
        for (topic, payload, is_retained) in std::mem::take(&mut heard) {
            seen.entry(topic).or_default().push((payload, is_retained));
        }
        if turns == 3 {
            for packet in [
                retained("r/1/v", "new"),
                retained("r/19999/v", "new"),
                retained("r/19998/v", ""),
                retained("r/new/v", "new"),
            ] {
                heard.extend(published(&broker.send(publisher, &packet)));
            }
        }
        heard.extend(turn(&mut broker, reader));
        turns += 1;
        if turns > 400 {
            break;
        }
    }
    let of = |topic: &str| {
        let all: Vec<(&str, bool)> = seen[topic]
            .iter()
            .map(|(payload, is_retained)| (payload.as_str(), *is_retained))
            .collect();
        all
    };
    assert_eq!(of("r/1/v"), [("old", true), ("new", false)]);
    assert_eq!(
        of("r/19999/v"),
        [("new", false)],
        "never the old one behind it"
    );
    assert_eq!(of("r/19998/v"), [("", false)]);
    assert_eq!(of("r/new/v"), [("new", false)]);
    assert_eq!(seen.len(), MANY + 1);
    assert!(
        seen.iter()
            .all(|(topic, all)| all.len() == 1 || topic == "r/1/v")
    );
    // Everything goes, and nothing stays behind.
    for number in 0..MANY {
        broker.send(publisher, &retained(&format!("r/{number}/v"), ""));
    }
    broker.send(publisher, &retained("r/new/v", ""));
    for _ in 0..200 {
        broker.pass(1);
    }
    let census = broker.shard.census();
    assert_eq!((census.retained, census.tombstones), (0, 0));
}

#[test]
fn readers_of_many_retained_messages_take_turns() {
    let (mut broker, _) = with_retained(MANY);
    let readers = ['a', 'b', 'c'].map(|name| broker.v311(name));
    let mut counts = readers.map(|reader| published(&broker.send(reader, &subscribe("#"))).len());
    let mut turns = 0;
    while counts.iter().any(|&count| count < MANY) {
        broker.now = broker.now + Duration::from_micros(10);
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        let before = counts;
        for (reader, count) in readers.iter().zip(&mut counts) {
            *count += published(&broker.receive(*reader)).len();
        }
        let sent: usize = counts.iter().sum::<usize>() - before.iter().sum::<usize>();
        assert!(sent <= 2 * STEPS_A_TURN, "{sent} in one turn");
        let (least, most) = (counts.iter().min(), counts.iter().max());
        let apart = most.unwrap() - least.unwrap();
        assert!(
            apart <= 3 * STEPS_A_TURN,
            "{counts:?}: one waits for another"
        );
        turns += 1;
        assert!(turns < 1000, "{counts:?}");
    }
    assert_eq!(counts, [MANY; 3], "each once");
}

/// [MQTT-3.3.4-4], and what a Client unsubscribes from while it is answered it is not sent any more.
#[test]
fn unsubscribing_ends_a_replay_that_is_under_way() {
    let (mut broker, publisher) = with_retained(MANY);
    let reader = broker.v311('r');
    broker.send(reader, &subscribe("r/#"));
    for _ in 0..3 {
        assert!(!turn(&mut broker, reader).is_empty());
    }
    let left = broker.send(reader, "a2 07 0002 0003 722f23");
    assert!(
        left.ends_with("b0020002"),
        "what was on its way, then UNSUBACK"
    );
    for _ in 0..100 {
        assert_eq!(turn(&mut broker, reader), []);
    }
    // The connection may also end in the middle of one.
    broker.send(reader, &subscribe("r/#"));
    broker.lose(reader);
    for number in 0..MANY {
        broker.send(publisher, &retained(&format!("r/{number}/v"), ""));
    }
    for _ in 0..200 {
        broker.pass(1);
    }
    assert_eq!(broker.shard.census().tombstones, 0);
}

#[test]
fn sessions_that_end_at_one_moment_end_over_many_turns() {
    let mut broker = Broker::new();
    for number in 0..1000 {
        let name = hex(format!("{number:04}").as_bytes());
        let (client, connack) = broker.connect(&format!(
            "10 16 0004 4d515454 05 00 0000 05 11 0000000a 0004 {name}"
        ));
        assert!(connack.starts_with("20"));
        broker.send(client, "82 07 0001 00 0001 61 00");
        broker.lose(client);
    }
    assert_eq!(broker.shard.census().sessions, 1000);
    broker.now = broker.now + Duration::from_secs(60);
    let mut turns = 0;
    while broker
        .shard
        .next_deadline()
        .is_some_and(|at| at <= broker.now)
    {
        let before = broker.shard.census().sessions;
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        let ended = before - broker.shard.census().sessions;
        assert!(ended <= DEADLINES_A_TURN, "{ended} in one turn");
        turns += 1;
        assert!(turns < 200, "it ends");
    }
    assert_eq!(broker.shard.census().sessions, 0);
    assert!(turns >= 1000 / DEADLINES_A_TURN);
}

#[test]
fn what_goes_on_over_turns_does_not_wait_for_all_deadlines_of_one_moment() {
    const SESSIONS: usize = 2000;
    let (mut broker, _) = with_retained(MANY);
    for number in 0..SESSIONS {
        let name = hex(format!("{number:04}").as_bytes());
        let (client, connack) = broker.connect(&format!(
            "10 16 0004 4d515454 05 00 0000 05 11 0000000a 0004 {name}"
        ));
        assert!(connack.starts_with("20"));
        broker.lose(client);
    }
    let reader = broker.v311('r');
    broker.now = broker.now + Duration::from_secs(60);
    let mut found = published(&broker.send(reader, &subscribe("r/#"))).len();
    let sessions = broker.shard.census().sessions;
    let mut turns = 0;
    while found < MANY {
        let before = broker.shard.census().sessions;
        found += turn(&mut broker, reader).len();
        // Nor does it hold them up.
        let ended = before - broker.shard.census().sessions;
        assert_eq!(ended, DEADLINES_A_TURN.min(before - 2));
        turns += 1;
        assert!(turns < 120, "{found} after {turns} turns");
    }
    assert!(broker.shard.census().sessions > sessions - SESSIONS);
}

/// [MQTT-3.1.2-6]
#[test]
fn a_session_of_many_subscriptions_is_over_at_once_and_they_are_forgotten_over_many_turns() {
    let mut broker = Broker::new();
    let (leaver, publisher) = (broker.v311('l'), broker.v311('p'));
    for number in 0..MANY {
        broker.send(leaver, &subscribe(&format!("s/{number}")));
    }
    broker.send(leaver, "e000");
    let mut left = broker.shard.census().ended;
    assert_eq!(left, MANY - ENDINGS_A_TURN);
    assert_eq!(broker.shard.census().subscriptions, 0);
    // It is back, and wants less.
    let client = broker.v311('l');
    broker.send(client, &subscribe("s/19999"));
    while left > 0 {
        turn(&mut broker, client);
        let before = std::mem::replace(&mut left, broker.shard.census().ended);
        assert!(before > left && before - left <= ENDINGS_A_TURN + 2);
        for topic in ["s/19999", "s/19998"] {
            broker.send(publisher, &format!("3009{}", text(topic)));
        }
        let heard = published(&broker.receive(client));
        let expected = ("s/19999".to_owned(), String::new(), false);
        assert_eq!(heard, [expected]);
    }
    let census = broker.shard.census();
    assert_eq!(
        (census.filters, census.filter_nodes, census.subscriptions),
        (1, 1, 1)
    );
}

#[test]
fn a_dump_of_many_sessions_and_messages_is_told_over_many_turns_and_completely() {
    let (mut broker, _) = with_retained(1000);
    for number in 0..1000 {
        let name = hex(format!("{number:04}").as_bytes());
        let (client, _) = broker.connect(&format!("10 10 0004 4d515454 04 02 0000 0004 {name}"));
        broker.send(client, &subscribe(&format!("s/{number}")));
    }
    broker
        .shard
        .handle_command(Command::DumpTree, broker.now, &mut broker.effects);
    // Another one meanwhile changes nothing.
    broker
        .shard
        .handle_command(Command::DumpTree, broker.now, &mut broker.effects);
    let mut lines = Vec::new();
    let mut turns = 0;
    loop {
        let told: Vec<Notice> = broker.effects.notices.drain(..).collect();
        for notice in &told {
            let Notice::Tree(text) = notice else { continue };
            assert!(text.lines().count() <= 2 * 128 + 2, "in one turn");
            lines.extend(text.lines().map(str::to_owned));
        }
        broker.now = broker.now + Duration::from_micros(10);
        if broker
            .shard
            .next_deadline()
            .is_none_or(|at| at > broker.now)
        {
            break;
        }
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        turns += 1;
        assert!(turns < 100, "it ends");
    }
    assert!(turns >= 2000 / 128 - 1, "{turns} turns");
    let count = |wanted: &dyn Fn(&str) -> bool| lines.iter().filter(|it| wanted(it)).count();
    assert_eq!(lines[0], "Shard 0");
    assert_eq!(
        count(&|line| line.ends_with("(connected, 0 in flight, 0 queued)")),
        1001
    );
    assert_eq!(count(&|line| line.starts_with("    s/")), 1000);
    assert_eq!(count(&|line| line == "Retained messages: 1000"), 1);
    assert_eq!(
        count(&|line| line.starts_with("  r/") && line.ends_with(" bytes)")),
        1000
    );
}

#[test]
fn retained_messages_that_expire_at_one_moment_leave_over_many_turns() {
    let mut broker = Broker::new();
    let publisher = broker.v5('p');
    for number in 0..2000 {
        let topic = format!("e/{number:04}");
        let properties = "05 02 0000000a";
        let packet = format!(
            "31 {:02x} {} {properties} 78",
            2 + topic.len() + 7,
            text(&topic)
        );
        broker.send(publisher, &packet);
    }
    assert_eq!(broker.shard.census().retained, 2000);
    broker.now = broker.now + Duration::from_secs(30);
    let (mut turns, mut before) = (0, 2000);
    while broker.shard.census().retained + broker.shard.census().tombstones > 0 {
        broker.now = broker.now + Duration::from_millis(1);
        broker.shard.handle_timeout(broker.now, &mut broker.effects);
        let census = broker.shard.census();
        assert!(before - census.retained <= 32, "some at a time");
        before = census.retained;
        turns += 1;
        assert!(turns < 100, "{census:?}");
    }
    assert!(turns >= 2000 / 32);
}

/// The numbers in the payloads of PUBLISH packets, of two bytes each.
fn numbers(packets: &str) -> Vec<u16> {
    let packets = bytes(packets);
    let (mut at, mut found) = (0, Vec::new());
    while at < packets.len() {
        let end = at + 2 + usize::from(packets[at + 1]);
        if packets[at] >> 4 == 3 {
            found.push(u16::from_be_bytes([packets[end - 2], packets[end - 1]]));
        }
        at = end;
    }
    found
}

/// A PUBLISH of QoS 1 to `t`, and its number.
fn numbered(number: usize) -> String {
    format!("32 07 0001 74 0001 {number:04x}")
}

/// A broker with two members of `$share/g/t`, one of whom is away, and what the other one was sent or waits for it, so that many.
fn with_shared(count: usize) -> (Broker, ConnectionKey, ConnectionKey) {
    let limits = Limits {
        max_queued_messages: usize::MAX,
        max_inflight_messages: 1000,
        ..Default::default()
    };
    let mut broker = Broker::with(limits);
    let (heir, connack) = broker.connect("10 0d 0004 4d515454 04 00 003c 0001 68");
    assert_eq!(connack, "20020000");
    let (leaver, publisher) = (broker.v311('l'), broker.v311('p'));
    for member in [heir, leaver] {
        let filter = text("$share/g/t");
        let suback = broker.send(member, &format!("82 0f 0001 {filter} 01"));
        assert_eq!(suback, "9003000101");
    }
    broker.lose(heir);
    for number in 0..count {
        broker.send(publisher, &numbered(number));
    }
    (broker, leaver, publisher)
}

/// Hands on what is left, and tells in how many turns: `publisher` waits, and nobody else.
fn hand_on(broker: &mut Broker, publisher: ConnectionKey, count: usize) -> usize {
    let (reader, writer) = (broker.v311('r'), broker.v311('w'));
    broker.send(reader, &subscribe("live"));
    let mut turns = 0;
    let mut before = 0;
    loop {
        let handed_on = broker.shard.counters().shared_handed_on as usize;
        assert!(
            handed_on - before <= 2 * ENDINGS_A_TURN,
            "{handed_on} {before}"
        );
        before = handed_on;
        if broker.shard.census().left == 0 {
            break;
        }
        assert!(handed_on < count);
        let packet = bytes(&numbered(count));
        let (now, effects) = (broker.now, &mut broker.effects);
        let taken = broker.shard.handle_bytes(publisher, &packet, now, effects);
        assert_eq!(taken, 0, "it would overtake what is left");
        broker.send(writer, "30 06 0004 6c697665");
        assert_eq!(broker.receive(reader), "300600046c697665");
        broker.effects.resumed.clear();
        turn(broker, reader);
        turns += 1;
        assert!(turns < 1000, "{handed_on}");
    }
    assert_eq!(before, count, "each once");
    assert!(broker.effects.resumed.contains(&publisher));
    broker.send(publisher, &numbered(count));
    turns
}

/// What the member gets that was away, and acknowledges, until nothing comes any more.
fn heard_by_heir(broker: &mut Broker) -> Vec<u16> {
    let (heir, mut packets) = broker.connect("10 0d 0004 4d515454 04 00 003c 0001 68");
    let mut heard = Vec::new();
    loop {
        let some = numbers(&packets);
        if some.is_empty() {
            return heard;
        }
        let acknowledgements: String = (heard.len() + 1..=heard.len() + some.len())
            .map(|identifier| format!("4002{identifier:04x}"))
            .collect();
        heard.extend(some);
        packets = broker.send(heir, &acknowledgements);
    }
}

/// [MQTT-4.6.0-5], and not a message is lost or comes twice.
#[test]
fn what_an_ended_session_leaves_to_a_group_is_handed_on_over_many_turns_and_in_order() {
    let (mut broker, leaver, publisher) = with_shared(MANY);
    broker.lose(leaver);
    let turns = hand_on(&mut broker, publisher, MANY);
    assert!(turns >= MANY / ENDINGS_A_TURN / 2, "{turns} turns");
    let all: Vec<u16> = (0..=MANY as u16).collect();
    assert!(heard_by_heir(&mut broker) == all, "in order");
    assert_eq!(broker.shard.census().ended, 0);
}

#[test]
fn what_waits_for_who_unsubscribes_from_a_group_is_handed_on_over_many_turns_and_in_order() {
    let (mut broker, leaver, publisher) = with_shared(MANY);
    let in_flight = numbers(&broker.receive(leaver)).len();
    assert!(in_flight <= 1000);
    let filter = text("$share/g/t");
    let unsuback = broker.send(leaver, &format!("a2 0e 0002 {filter}"));
    assert!(unsuback.ends_with("b0020002"));
    let turns = hand_on(&mut broker, publisher, MANY - in_flight);
    assert!(turns >= MANY / ENDINGS_A_TURN / 2, "{turns} turns");
    let heard = heard_by_heir(&mut broker);
    assert_eq!(heard.last(), Some(&((MANY - in_flight) as u16)));
    let all: Vec<u16> = (in_flight as u16..MANY as u16).collect();
    assert!(heard[..heard.len() - 1] == all, "in order");
}

#[test]
fn what_is_left_to_a_group_that_ends_and_begins_anew_goes_to_nobody() {
    let (mut broker, leaver, _) = with_shared(MANY);
    broker.lose(leaver);
    let handed_on = broker.shard.counters().shared_handed_on;
    assert!(handed_on < MANY as u64 / 2);
    // The only other one leaves as well: what has come to it is over with it.
    let (heir, _) = broker.connect("10 0d 0004 4d515454 04 02 003c 0001 68");
    for _ in 0..4 {
        assert_eq!(turn(&mut broker, heir), []);
    }
    let census = broker.shard.census();
    assert!(census.filters == 0 && census.left > 0, "{census:?}");
    // What finds the other one found the first one before.
    let filter = text("$share/h/t");
    broker.send(heir, &format!("82 0f 0001 {filter} 01"));
    while broker.shard.census().left > 0 {
        assert_eq!(turn(&mut broker, heir), []);
    }
    assert_eq!(broker.shard.counters().shared_handed_on, handed_on);
    let counters = broker.shard.counters();
    let lost = counters.dropped_session_closed
        + counters.dropped_clean_start
        + counters.ended_unacknowledged;
    assert_eq!(lost, MANY as u64);
    let shown = broker.shard.census();
    assert_eq!(
        (shown.queued, shown.inflight, shown.subscriptions),
        (0, 0, 1)
    );
}

/// Publishes to a topic that takes long to look up, and tells how many turns it takes. Meanwhile `publisher` waits, and
/// nobody else.
fn look_up(broker: &mut Broker, publisher: ConnectionKey, topic: &str) -> usize {
    let (reader, writer) = (broker.v311('R'), broker.v311('W'));
    broker.send(reader, &subscribe("live"));
    let packet = bytes(&format!("30 {:02x} {}", 2 + topic.len(), text(topic)));
    let mut turns = 0;
    loop {
        let (now, effects) = (broker.now, &mut broker.effects);
        effects.resumed.clear();
        let taken = broker.shard.handle_bytes(publisher, &packet, now, effects);
        if taken > 0 {
            assert_eq!(taken, packet.len());
            return turns;
        }
        while !broker.effects.resumed.contains(&publisher) {
            broker.send(writer, "30 06 0004 6c697665");
            assert_eq!(broker.receive(reader), "300600046c697665");
            turn(broker, reader);
            turns += 1;
            assert!(turns < 1000);
        }
    }
}

fn a_little_a_turn() -> Limits {
    Limits {
        spread_steps_max: 256,
        ..Limits::default()
    }
}

/// Subscribes to the returned topic by all filters that its twelve levels can be written as without `#`.
fn subscribe_all_ways(broker: &mut Broker, subscriber: ConnectionKey) -> String {
    const LEVELS: u32 = 12;
    for number in 0..1 << LEVELS {
        let level = |bit: u32| if number >> bit & 1 == 1 { "+" } else { "a" };
        let levels: Vec<&str> = (0..LEVELS).map(level).collect();
        broker.send(subscriber, &subscribe(&levels.join("/")));
    }
    ["a"; LEVELS as usize].join("/")
}

#[test]
fn filters_that_match_a_new_topic_are_looked_for_over_many_turns_and_completely() {
    let mut broker = Broker::with(a_little_a_turn());
    let (subscriber, publisher, other) = (broker.v311('s'), broker.v311('p'), broker.v311('o'));
    let topic = subscribe_all_ways(&mut broker, subscriber);
    let turns = look_up(&mut broker, publisher, &topic);
    // As many nodes, and about as many above them; then as many filters.
    assert!((16..64).contains(&turns), "{turns}");
    let message = [(topic.clone(), String::new(), false)];
    assert_eq!(published(&broker.receive(subscriber)), message);
    // It is remembered, and what changes does not go unnoticed.
    assert_eq!(look_up(&mut broker, publisher, &topic), 0);
    assert_eq!(published(&broker.receive(subscriber)), message);
    broker.send(other, &subscribe("a/#"));
    assert!(look_up(&mut broker, publisher, &topic) > 0);
    for client in [subscriber, other] {
        assert_eq!(published(&broker.receive(client)), message);
    }
}

/// It comes to an end whatever others do.
#[test]
fn a_look_up_under_which_filters_change_all_the_time_is_made_at_once_after_some_attempts() {
    let mut broker = Broker::with(a_little_a_turn());
    let (subscriber, publisher, other) = (broker.v311('s'), broker.v311('p'), broker.v311('o'));
    let topic = subscribe_all_ways(&mut broker, subscriber);
    let packet = bytes(&format!("30 {:02x} {}", 2 + topic.len(), text(&topic)));
    let mut turns = 0;
    while broker
        .shard
        .handle_bytes(publisher, &packet, broker.now, &mut broker.effects)
        == 0
    {
        broker.send(other, &subscribe(&format!("+/{turns}")));
        turn(&mut broker, other);
        turns += 1;
        assert!(turns < 20);
    }
    let message = (topic, String::new(), false);
    assert_eq!(published(&broker.receive(subscriber)), [message]);
}

#[test]
fn subscribers_of_a_new_topic_are_asked_about_over_many_turns_and_only_who_may_reads_it() {
    let mut settings = Settings::permissive(a_little_a_turn());
    let rules = "pattern read t/%c\ntopic read live\npattern write t/0001\ntopic write live\n";
    settings.listeners[0].security = Some(Arc::new(Security {
        passwords: None,
        acl: Some(Acl::parse("acl", rules.as_bytes()).expect("rules")),
    }));
    let mut broker = Broker::with_settings(settings);
    let mut clients = Vec::new();
    for number in 0..5000 {
        let name = hex(format!("{number:04}").as_bytes());
        let (client, _) = broker.connect(&format!("10 10 0004 4d515454 04 02 0000 0004 {name}"));
        broker.send(client, &subscribe("t/#"));
        clients.push(client);
    }
    let publisher = broker.v311('p');
    let turns = look_up(&mut broker, publisher, "t/0001");
    assert!(turns >= 5000 / 512, "{turns}");
    assert_eq!(look_up(&mut broker, publisher, "t/0001"), 0);
    for (number, &client) in clients.iter().enumerate() {
        let heard = published(&broker.receive(client)).len();
        assert_eq!(heard, if number == 1 { 2 } else { 0 }, "{number}");
    }
}
