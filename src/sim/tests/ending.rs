//! Wills and DISCONNECT.

#![forbid(unsafe_code)]

use super::crossing::Crossing;
use super::*;
use crate::shard::Census;

fn with_will<'a>(connect: Connect<'a>, delay_interval_s: u32) -> Connect<'a> {
    Connect {
        will: will("w", delay_interval_s),
        ..connect
    }
}

/// [MQTT-3.1.2-8]
#[test]
fn lost_connection_publishes_the_will() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q1));
        let link = bench.connect(with_will(v311("a"), 0));
        bench.lose(link);
        assert_eq!(bench.hear(watcher), ["publish q1 #1 w=gone"]);
        bench.pass(1e6);
        assert!(bench.hear(watcher).is_empty(), "once");
    });
}

/// [MQTT-3.14.4-3]
#[test]
fn normal_disconnect_forgets_the_will() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q1));
        for delay in [0, 10] {
            let link = bench.connect(with_will(lasting("a"), delay));
            bench.disconnect(link, ReasonCode::Success);
            bench.pass(4000.0);
        }
        assert!(bench.hear(watcher).is_empty());
    });
}

/// [MQTT-3.1.2-8] [MQTT-3.14.4-3]
#[test]
fn disconnect_with_will_message_or_because_of_an_error_publishes_it() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q0));
        for reason_code in [
            ReasonCode::DisconnectWithWillMessage,
            ReasonCode::UnspecifiedError,
            ReasonCode::PacketTooLarge,
        ] {
            let link = bench.connect(with_will(v5("a"), 0));
            bench.disconnect(link, reason_code);
            assert_eq!(
                bench.hear(watcher),
                ["publish q0 w=gone"],
                "{reason_code:?}"
            );
        }
    });
}

/// [MQTT-3.1.3-9]
#[test]
fn will_waits_for_its_delay_and_is_forgotten_if_the_client_is_back_before() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q1));
        let link = bench.connect(with_will(lasting("a"), 30));
        bench.lose(link);
        bench.pass(29.9);
        assert!(bench.hear(watcher).is_empty());
        let link = bench.connect(with_will(lasting("a"), 30));
        bench.pass(100.0);
        assert!(bench.hear(watcher).is_empty());
        bench.lose(link);
        bench.pass(29.9);
        assert!(bench.hear(watcher).is_empty());
        bench.pass(0.1);
        assert_eq!(bench.hear(watcher), ["publish q1 #1 w=gone"]);
    });
}

#[test]
fn will_is_not_delayed_beyond_the_end_of_the_session() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q0));
        let link = bench.connect(with_will(v5("a"), 30));
        bench.lose(link);
        assert_eq!(bench.hear(watcher), ["publish q0 w=gone"]);
        let link = bench.connect(with_will(lasting("b"), 3_000_000));
        bench.lose(link);
        bench.pass(3599.0);
        assert!(bench.hear(watcher).is_empty());
        bench.pass(1.0);
        assert_eq!(bench.hear(watcher), ["publish q0 w=gone"]);
    });
}

/// The delay counts for a takeover as well, and the Client is back at once.
#[test]
fn takeover_publishes_a_will_without_delay_and_forgets_one_with() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q0));
        bench.connect(with_will(lasting("a"), 30));
        bench.connect(with_will(lasting("a"), 0));
        bench.pass(100.0);
        assert!(bench.hear(watcher).is_empty());
        bench.connect(lasting("a"));
        assert_eq!(bench.hear(watcher), ["publish q0 w=gone"]);
    });
}

#[test]
fn keep_alive_time_out_publishes_the_will() {
    on_shards(|bench| {
        let watcher = bench.connect(v5("watcher"));
        bench.subscribe(watcher, "w", options(Q0));
        bench.connect(Connect {
            keep_alive_s: 10,
            ..with_will(v5("a"), 0)
        });
        bench.pass(15.0);
        assert_eq!(bench.hear(watcher), ["publish q0 w=gone"]);
    });
}

/// [MQTT-3.14.2-2]
#[test]
fn session_expiry_raised_from_zero_at_disconnect_is_a_protocol_error() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.session_expiry_interval = Some(5);
        bench.send(link, &Packet::Disconnect(disconnect));
        assert_eq!(bench.hear(link), ["disconnect ProtocolError", "closed"]);
    });
}

#[test]
fn session_expiry_set_to_zero_at_disconnect_ends_the_session() {
    on_shards(|bench| {
        let link = bench.connect(lasting("a"));
        bench.subscribe(link, "t", options(Q1));
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        disconnect.session_expiry_interval = Some(0);
        bench.send(link, &Packet::Disconnect(disconnect));
        let held: usize = bench
            .world
            .censuses()
            .iter()
            .map(|it| it.sessions + it.filters)
            .sum();
        assert_eq!(held, 0);
    });
}

/// [MQTT-3.1.2-8] Whatever shard the subscriber is on, and though it is told to leave as well.
#[test]
fn wills_come_before_the_broker_ends_unless_a_stored_session_keeps_them() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "w/+", options(Q1));
        for (topic_name, delay_interval_s) in [("w/now", 0), ("w/late", 60)] {
            let mut connect = lasting(topic_name);
            connect.will = will(topic_name, delay_interval_s);
            bench.connect(connect);
        }
        let mut gone = lasting("gone");
        gone.will = will("w/gone", 60);
        let link = bench.connect(gone);
        bench.lose(link);
        bench.world.shut_down();
        bench.settle();
        let mut heard = bench.hear(subscriber);
        let end = heard.split_off(heard.len() - 2);
        assert_eq!(end, ["disconnect ServerShuttingDown", "closed"]);
        let mut topics: Vec<_> = heard.iter().filter_map(|it| it.split(' ').nth(3)).collect();
        topics.sort_unstable();
        // Nobody will know of these Sessions.
        assert_eq!(topics, ["w/gone=gone", "w/late=gone", "w/now=gone"]);
    });
    let mut crossing = Crossing::stored(2);
    let subscriber = crossing.client_by(1, v5);
    crossing.bench.subscribe(subscriber, "w/+", options(Q1));
    crossing.write();
    crossing.bench.hear(subscriber);
    for (topic_name, delay_interval_s) in [("w/now", 0), ("w/late", 60)] {
        let mut connect = lasting(topic_name);
        connect.will = will(topic_name, delay_interval_s);
        crossing.bench.open(connect);
    }
    crossing.write();
    crossing.bench.world.shut_down();
    crossing.bench.settle();
    let heard = crossing.bench.hear(subscriber);
    assert_eq!(heard[0], "publish q1 #1 w/now=gone");
    assert_eq!(heard[1..], ["disconnect ServerShuttingDown", "closed"]);
}

/// A few turns after the end of a Session, not all that it wanted is forgotten.
fn one_at_a_time() -> Limits {
    Limits {
        ending_steps_max: 1,
        ..Limits::default()
    }
}

fn total(bench: &Bench, of: impl Fn(&Census) -> usize) -> usize {
    bench.world.censuses().iter().map(of).sum()
}

/// [MQTT-3.1.2-4]
#[test]
fn session_with_many_subscriptions_ends_at_once_and_they_are_forgotten_in_many_turns() {
    on_shards_with(&one_at_a_time(), |bench| {
        let publisher = bench.connect(v5("publisher"));
        let link = bench.connect(v5("a"));
        for number in 0..40 {
            bench.subscribe(link, &format!("t/{number}"), options(Q1));
        }
        bench.disconnect(link, ReasonCode::Success);
        let left = |bench: &Bench| total(bench, |it| it.ended);
        let sessions_and_subscriptions =
            |bench: &Bench| total(bench, |it| 100 * it.sessions + it.subscriptions);
        assert_eq!((left(bench), sessions_and_subscriptions(bench)), (39, 100));
        // Its Client is back before they are, and has what it asks for now.
        let link = bench.connect(v5("a"));
        bench.subscribe(link, "t/39", options(Q1));
        assert_eq!((left(bench), sessions_and_subscriptions(bench)), (37, 201));
        bench.publish(publisher, "t/38", "old", Q1, 1);
        bench.publish(publisher, "t/39", "new", Q1, 2);
        assert_eq!(bench.hear(link), ["publish q1 #1 t/39=new"]);
        for _ in 0..20 {
            bench.pass(0.001);
        }
        assert!((1..=20).contains(&left(bench)));
        for _ in 0..20 {
            bench.pass(0.001);
        }
        assert_eq!(left(bench), 0);
        bench.publish(publisher, "t/39", "newer", Q1, 3);
        assert_eq!(bench.hear(link), ["publish q1 #2 t/39=newer"]);
        bench.disconnect(link, ReasonCode::Success);
        let of_filters = |it: &Census| it.filters + it.filter_nodes + it.subscriptions + it.ended;
        assert_eq!(total(bench, of_filters), 0);
    });
}

/// [MQTT-4.8.2-4]
#[test]
fn member_that_has_ended_is_not_chosen_though_its_subscription_is_still_to_be_forgotten() {
    on_shards_with(&one_at_a_time(), |bench| {
        let publisher = bench.connect(v5("publisher"));
        let stays = bench.connect(v5("stays"));
        bench.subscribe(stays, "$share/g/t", options(Q1));
        for name in ["a", "b", "c", "d"] {
            let link = bench.connect(v5(name));
            for number in 0..10 {
                bench.subscribe(link, &format!("{name}/{number}"), options(Q0));
            }
            bench.subscribe(link, "$share/g/t", options(Q1));
            bench.lose(link);
        }
        // Those who came after somebody had left helped.
        assert!(total(bench, |it| it.ended) >= 10);
        assert_eq!(total(bench, |it| it.subscriptions), 1);
        for id in 1..=12 {
            bench.publish(publisher, "t", &id.to_string(), Q1, id);
        }
        let all: Vec<String> = (1..=12).map(|id| id.to_string()).collect();
        assert_eq!(bench.hear_payloads(stays), all);
        for _ in 0..50 {
            bench.pass(0.001);
        }
        assert_eq!(total(bench, |it| it.ended), 0);
        bench.publish(publisher, "t", "last", Q1, 13);
        assert_eq!(bench.hear_payloads(stays), ["last"]);
    });
}

/// [MQTT-4.8.2-4] [MQTT-3.1.4-5]
#[test]
fn member_that_has_lost_its_connection_is_not_chosen_though_few_of_its_groups_have_been_told() {
    const GROUPS: usize = 40;
    on_shards_with(&one_at_a_time(), |bench| {
        let publishers: Vec<Link> = (0..6)
            .map(|number| bench.connect(v5(&format!("publisher-{number}"))))
            .collect();
        let stays = bench.connect(v5("stays"));
        let leaves = bench.connect(lasting("leaves"));
        for number in 0..GROUPS {
            for link in [stays, leaves] {
                bench.subscribe(link, &format!("$share/g/t/{number}"), options(Q1));
            }
        }
        bench.lose(leaves);
        let visited = |bench: &Bench| total(bench, |it| it.visited);
        assert_eq!(visited(bench), 1);
        let mut turns = 0;
        while visited(bench) > 0 {
            // One that was told and one that was not, from every shard.
            for topic in ["t/0", "t/39"] {
                let publisher = publishers[turns % publishers.len()];
                bench.publish(publisher, topic, "x", Q0, 0);
                assert_eq!(bench.hear(stays), [format!("publish q0 {topic}=x")]);
            }
            bench.pass(0.001);
            turns += 1;
        }
        assert!(turns >= GROUPS - 1, "{turns} turns");
        // What it is told last is that it is connected.
        let (link, heard) = bench.connect_and_hear(lasting("leaves"));
        assert_eq!(heard, [""; 0]);
        while visited(bench) > 0 {
            assert_eq!(bench.hear(link), [""; 0]);
            bench.pass(0.001);
        }
        assert_eq!(bench.hear(link), ["connack Success present"]);
        for topic in ["t/0", "t/39"] {
            for _ in 0..2 {
                bench.publish(publishers[0], topic, "x", Q0, 0);
            }
            let expected = format!("publish q0 {topic}=x");
            let heard = [bench.hear(link), bench.hear(stays)];
            let every_second_one = [vec![expected.clone()], vec![expected]];
            assert_eq!(heard, every_second_one);
        }
    });
}

/// Two members on shard 0, the first of whom is away, and six messages that `publisher` has sent and the second one has not
/// acknowledged. The name of the first.
fn owed_to_one_of_two(crossing: &mut Crossing, publisher: Link) -> (String, Link) {
    let heir = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    let leaver = crossing.client_by(0, lasting_a_second);
    for member in [heir, leaver] {
        crossing.bench.subscribe(member, "$share/g/t", options(Q1));
        crossing.write();
        crossing.bench.hear(member);
    }
    crossing.bench.lose(heir);
    crossing.write();
    for id in 1..=6 {
        publish_numbered(crossing, publisher, id);
    }
    assert_eq!(crossing.bench.hear(leaver).len(), 6);
    (name, leaver)
}

fn lasting_a_second(client_identifier: &str) -> Connect<'_> {
    let mut connect = v5(client_identifier);
    connect.properties.session_expiry_interval = Some(1);
    connect
}

fn publish_numbered(crossing: &mut Crossing, publisher: Link, id: u16) {
    crossing
        .bench
        .publish(publisher, "t", &id.to_string(), Q1, id);
    crossing.write();
}

fn left(bench: &Bench) -> usize {
    total(bench, |it| it.left)
}

/// What the Client hears that comes back to its Session, and acknowledges.
fn heard_by(crossing: &mut Crossing, name: &str) -> Vec<String> {
    let link = crossing.bench.open(lasting(name));
    for _ in 0..8 {
        // Its group is told before its CONNACK leaves.
        crossing.bench.pass(0.001);
        crossing.write();
    }
    let heard = crossing.bench.hear(link);
    let payload = |it: &String| it.split_once('=').map(|(_, payload)| payload.to_owned());
    heard.iter().filter_map(payload).collect()
}

/// [MQTT-4.6.0-5]
#[test]
fn message_for_a_group_comes_behind_what_an_ended_member_has_left_to_it_whatever_shard_it_comes_from()
 {
    for shard in [0, 1] {
        let mut crossing = Crossing::stored_with(2, one_at_a_time());
        let publisher = crossing.client(shard);
        let (heir, leaver) = owed_to_one_of_two(&mut crossing, publisher);
        crossing.bench.hear(publisher);
        crossing.bench.lose(leaver);
        crossing.bench.pass(1.5);
        crossing.write();
        assert!(left(&crossing.bench) > 4);
        publish_numbered(&mut crossing, publisher, 7);
        assert!(left(&crossing.bench) > 2);
        assert_eq!(crossing.bench.hear(publisher), [""; 0], "it has not come");
        for _ in 0..12 {
            crossing.bench.pass(0.001);
            crossing.write();
        }
        assert_eq!(left(&crossing.bench), 0);
        assert_eq!(crossing.bench.hear(publisher), ["puback #7"]);
        let all: Vec<String> = (1..=7).map(|id| id.to_string()).collect();
        assert_eq!(heard_by(&mut crossing, &heir), all);
    }
}

/// [MQTT-4.8.2-4]
#[test]
fn what_an_ended_member_has_left_to_a_group_is_neither_lost_nor_doubled_by_a_crash_in_between() {
    for turns in 0..8 {
        let mut crossing = Crossing::stored_with(2, one_at_a_time());
        let publisher = crossing.client(1);
        let (heir, leaver) = owed_to_one_of_two(&mut crossing, publisher);
        crossing.bench.lose(leaver);
        crossing.bench.pass(1.5);
        for _ in 0..turns {
            crossing.bench.pass(0.001);
        }
        assert_eq!(turns < 6, left(&crossing.bench) > 0, "{turns}");
        crossing.write_of(0);
        crossing.crash();
        let all: Vec<String> = (1..=6).map(|id| id.to_string()).collect();
        assert_eq!(heard_by(&mut crossing, &heir), all, "{turns}");
    }
}

/// [MQTT-4.6.0-5]
#[test]
fn what_was_left_to_a_member_that_ends_as_well_keeps_its_order() {
    let mut crossing = Crossing::stored_with(1, one_at_a_time());
    let publisher = crossing.client(0);
    let (heir, leaver) = owed_to_one_of_two(&mut crossing, publisher);
    crossing.bench.lose(leaver);
    crossing.bench.pass(1.5);
    for _ in 0..2 {
        crossing.bench.pass(0.001);
    }
    assert!(left(&crossing.bench) > 2);
    // Somebody else comes, and the one who got the first of it ends.
    let last = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    crossing.bench.subscribe(last, "$share/g/t", options(Q1));
    crossing.bench.open(Connect {
        clean_start: true,
        ..v5(&heir)
    });
    for _ in 0..20 {
        crossing.bench.pass(0.001);
        crossing.write();
    }
    assert_eq!(left(&crossing.bench), 0);
    let all: Vec<String> = (1..=6).map(|id| id.to_string()).collect();
    let mut heard = crossing.bench.hear(last);
    heard.retain(|it| it.starts_with("publish"));
    let payloads: Vec<_> = heard.iter().filter_map(|it| it.split_once('=')).collect();
    assert!(
        payloads.iter().map(|it| it.1).eq(all.iter()),
        "{name} {heard:?}"
    );
}
