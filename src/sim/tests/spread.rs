//! Messages with more subscribers on a shard than one turn has time for.

#![forbid(unsafe_code)]

use super::crossing::Crossing;
use super::*;
use crate::shard::Census;

/// A turn gives a message to so few.
fn a_few_at_a_time(spread_steps_max: usize) -> Limits {
    Limits {
        spread_steps_max,
        ..Limits::default()
    }
}

fn spreading(bench: &Bench) -> usize {
    let of = |census: &Census| census.spreading;
    bench.world.censuses().iter().map(of).sum()
}

fn spread_all(bench: &mut Bench) {
    while spreading(bench) > 0 {
        bench.pass(0.001);
    }
}

/// Clients that subscribe to all of `filters`.
fn subscribers(bench: &mut Bench, count: usize, filters: &[&str], qos: QoS) -> Vec<Link> {
    let mut links = Vec::new();
    for number in 0..count {
        let link = bench.connect(v5(&format!("subscriber-{number}")));
        for filter in filters {
            bench.subscribe(link, filter, options(qos));
        }
        links.push(link);
    }
    links
}

/// Has three messages published that are spread one after the other, by a Client that is not read before that.
fn spread_three(bench: &mut Bench, qos: QoS) {
    let publisher = bench.connect(v5("publisher"));
    for (payload, id) in [("a", 1), ("b", 2), ("c", 3)] {
        bench.push(publisher, &Packet::Publish(message("t", payload, qos, id)));
    }
    bench.send(publisher, &Packet::PingReq);
    assert!(spreading(bench) > 0);
    // It is not read before what it published has come to everybody here.
    let heard = bench.hear(publisher);
    assert!(!heard.contains(&"pingresp".to_owned()), "{heard:?}");
    spread_all(bench);
    let heard = bench.hear(publisher);
    assert_eq!(heard.last().map(String::as_str), Some("pingresp"));
}

/// [MQTT-4.6.0-5]
#[test]
fn message_for_more_than_a_turn_gives_comes_to_everybody_in_the_next_ones_and_in_order() {
    for qos in [Q0, Q1] {
        on_shards_with(&a_few_at_a_time(2), |bench| {
            let links = subscribers(bench, 24, &["t"], qos);
            spread_three(bench, qos);
            for link in links {
                assert_eq!(bench.hear_payloads(link), ["a", "b", "c"]);
            }
        });
    }
}

/// [MQTT-4.6.0-5] asks for the order of one topic only; here it is that of the publisher.
#[test]
fn what_is_published_behind_a_message_that_is_spread_comes_behind_it_whatever_its_topic() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["large"], Q0);
        let last = bench.connect(v5("last"));
        bench.subscribe(last, "large", options(Q0));
        bench.subscribe(last, "small", options(Q0));
        for shard in 0..3 {
            let publisher = bench.connect(v5(&format!("publisher-{shard}")));
            bench.push(publisher, &Packet::Publish(message("large", "1", Q0, 0)));
            bench.publish(publisher, "small", "2", Q0, 0);
            spread_all(bench);
            assert_eq!(bench.hear_payloads(last), ["1", "2"]);
        }
        for link in links {
            assert_eq!(bench.hear_payloads(link), ["1"; 3]);
        }
    });
}

#[test]
fn what_others_publish_to_other_topics_does_not_wait_for_a_message_that_is_spread() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["large"], Q0);
        let other = bench.connect(v5("other"));
        bench.subscribe(other, "small", options(Q0));
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "large", "1", Q0, 0);
        assert!(spreading(bench) > 0);
        // From the same Client, so that no ring is between them.
        bench.publish(other, "small", "2", Q0, 0);
        assert_eq!(bench.hear_payloads(other), ["2"]);
        assert!(spreading(bench) > 0);
        spread_all(bench);
        for link in links {
            assert_eq!(bench.hear_payloads(link), ["1"]);
        }
    });
}

/// Nobody is left with an older value than the one that is retained.
#[test]
fn what_others_publish_to_the_topic_of_a_message_that_is_spread_comes_behind_it() {
    on_shards_with(&a_few_at_a_time(2), |bench| {
        let links = subscribers(bench, 24, &["t"], Q1);
        let publishers = ["one", "other"].map(|name| bench.connect(v5(name)));
        bench.retain(publishers[0], "t", "old");
        // One wants it by now, which has not had the one before.
        let mut late = None;
        for link in links {
            if late.is_none() && bench.hear_payloads(link).is_empty() {
                late = Some(link);
            } else {
                bench.unsubscribe(link, "t");
            }
        }
        assert!(spreading(bench) > 0);
        bench.retain(publishers[1], "t", "new");
        spread_all(bench);
        assert_eq!(bench.hear_payloads(late.unwrap()), ["old", "new"]);
        let reader = bench.connect(v5("reader"));
        let heard = bench.subscribe(reader, "t", options(Q0));
        assert_eq!(heard[1..], ["publish q0 t=new retain"]);
    });
}

/// Clients of one shard that are stored and subscribe to `t`.
fn stored_subscribers(crossing: &mut Crossing, count: usize, shard: usize) -> Vec<Link> {
    let mut links = Vec::new();
    for _ in 0..count {
        let link = crossing.client_by(shard, lasting);
        crossing.bench.subscribe(link, "t", options(Q2));
        crossing.write();
        crossing.bench.hear(link);
        links.push(link);
    }
    links
}

/// A QoS 2 message is given to everybody at once, so that what is written down of it is in one frame.
#[test]
fn message_that_cannot_be_spread_comes_behind_the_one_that_is() {
    let mut crossing = Crossing::stored_with(1, a_few_at_a_time(1));
    let links = stored_subscribers(&mut crossing, 4, 0);
    let clients = [0; 3].map(|shard| crossing.client(shard));
    crossing.bench.retain(clients[0], "t", "old");
    crossing.bench.publish(clients[1], "t", "new", Q2, 1);
    // Nobody passes by who waits.
    crossing.bench.publish(clients[2], "t", "last", Q1, 1);
    assert_eq!(spreading(&crossing.bench), 1);
    spread_all(&mut crossing.bench);
    crossing.write();
    spread_all(&mut crossing.bench);
    crossing.write();
    for link in links {
        assert_eq!(crossing.bench.hear_payloads(link), ["old", "new", "last"]);
    }
}

/// [MQTT-4.3.2-4] PUBACK says that the message is the Server's.
#[test]
fn puback_of_a_message_that_is_spread_waits_until_the_disk_has_the_last_of_it() {
    for (shards, its_own) in [(1, 0), (2, 1)] {
        let mut crossing = Crossing::stored_with(shards, a_few_at_a_time(1));
        let links = stored_subscribers(&mut crossing, 4, 0);
        let publisher = crossing.client(its_own);
        crossing.bench.publish(publisher, "t", "x", Q1, 1);
        while spreading(&crossing.bench) > 0 {
            crossing.write();
            assert_eq!(crossing.bench.hear(publisher), [""; 0]);
            crossing.bench.pass(0.001);
        }
        assert_eq!(crossing.bench.hear(publisher), [""; 0]);
        crossing.write();
        assert_eq!(crossing.bench.hear(publisher), ["puback #1"]);
        for link in links {
            assert_eq!(crossing.bench.hear_payloads(link), ["x"]);
        }
    }
}

/// [MQTT-3.1.2-8]
#[test]
fn will_that_is_stored_comes_behind_the_message_that_is_spread() {
    let mut crossing = Crossing::stored_with(1, a_few_at_a_time(1));
    let links = stored_subscribers(&mut crossing, 4, 0);
    let mut connect = lasting("publisher");
    connect.will = will("t", 0);
    let publisher = crossing.bench.open(connect);
    crossing.write();
    crossing.bench.hear(publisher);
    crossing.bench.publish(publisher, "t", "x", Q1, 1);
    assert_eq!(spreading(&crossing.bench), 1);
    crossing.bench.lose(publisher);
    spread_all(&mut crossing.bench);
    crossing.write();
    for link in links {
        assert_eq!(crossing.bench.hear_payloads(link), ["x", "gone"]);
    }
}

/// [MQTT-3.10.4-2] [MQTT-3.10.4-3]
#[test]
fn who_unsubscribes_while_a_message_is_spread_gets_it_before_unsuback_or_not_at_all() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["t", "+"], Q0);
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "x", Q0, 0);
        let mut late: Vec<Link> = Vec::new();
        for link in links {
            match bench.hear(link)[..] {
                [] => late.push(link),
                ref heard => assert_eq!(heard, ["publish q0 t=x"]),
            }
        }
        assert!(late.len() >= 6);
        // One subscription is left to the one, none to the other.
        let (half, leaves) = (late[0], late[1]);
        bench.unsubscribe(half, "t");
        for filter in ["t", "+"] {
            assert_eq!(bench.unsubscribe(leaves, filter).len(), 1);
        }
        bench.lose(late[2]);
        spread_all(bench);
        assert_eq!(bench.hear(leaves), [""; 0]);
        for link in [&late[..1], &late[3..]].concat() {
            assert_eq!(bench.hear(link), ["publish q0 t=x"]);
        }
    });
}

#[test]
fn who_subscribes_while_a_message_is_spread_does_not_get_it() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["t"], Q0);
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "x", Q0, 0);
        let late = subscribers(bench, 3, &["+"], Q0);
        bench.publish(publisher, "t", "y", Q0, 0);
        spread_all(bench);
        // The first three are the same Clients, who gave their Sessions up.
        for &link in &late {
            assert_eq!(bench.hear_payloads(link), ["y"]);
        }
        for &link in &links[3..] {
            assert_eq!(bench.hear_payloads(link), ["x", "y"]);
        }
    });
}

/// [MQTT-3.8.3-3]
#[test]
fn who_wants_nothing_of_its_own_is_passed_over_where_its_message_is_spread() {
    for qos in [Q0, Q1] {
        on_shards_with(&a_few_at_a_time(1), |bench| {
            let links = subscribers(bench, 12, &["t"], Q0);
            let publisher = bench.connect(v5("publisher"));
            let no_local = SubscriptionOptions {
                no_local: true,
                ..options(Q0)
            };
            bench.subscribe(publisher, "t", no_local);
            bench.publish(publisher, "t", "x", qos, 1);
            spread_all(bench);
            assert_eq!(bench.hear_payloads(publisher), [""; 0]);
            for link in links {
                assert_eq!(bench.hear_payloads(link), ["x"]);
            }
        });
    }
}

/// [MQTT-3.1.4-3]
#[test]
fn client_that_has_taken_over_is_not_read_before_its_own_message_has_come_to_everybody() {
    let mut bench = Bench::new(1, &a_few_at_a_time(1));
    let links = subscribers(&mut bench, 4, &["t"], Q0);
    let publisher = bench.connect(v5("publisher"));
    bench.publish(publisher, "t", "1", Q0, 0);
    let publisher = bench.connect(v5("publisher"));
    bench.push(publisher, &Packet::Publish(message("t", "2", Q0, 0)));
    bench.send(publisher, &Packet::PingReq);
    assert_eq!(spreading(&bench), 2);
    while spreading(&bench) > 0 {
        assert_eq!(bench.hear(publisher), [""; 0]);
        bench.pass(0.001);
    }
    assert_eq!(bench.hear(publisher), ["pingresp"]);
    for link in links {
        assert_eq!(bench.hear_payloads(link), ["1", "2"]);
    }
}

/// [MQTT-3.3.2-5]
#[test]
fn message_whose_time_is_over_while_it_is_spread_goes_to_nobody_else() {
    let mut bench = Bench::new(1, &a_few_at_a_time(2));
    let links = subscribers(&mut bench, 6, &["t"], Q0);
    let publisher = bench.connect(v5("publisher"));
    let mut publish = message("t", "x", Q0, 0);
    publish.properties.message_expiry_interval_s = Some(1);
    bench.send(publisher, &Packet::Publish(publish));
    assert_eq!(spreading(&bench), 1);
    bench.pass(2.0);
    assert_eq!(spreading(&bench), 0);
    let heard = links.into_iter().flat_map(|link| bench.hear_payloads(link));
    assert_eq!(heard.count(), 2);
    assert_eq!(bench.world.sum(|it| it.dropped_expired), 1);
}

/// [MQTT-3.1.2-8]
#[test]
fn will_of_a_client_whose_message_is_spread_comes_behind_it() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["t"], Q0);
        let mut connect = v5("publisher");
        connect.will = will("t", 0);
        let publisher = bench.connect(connect);
        bench.publish(publisher, "t", "x", Q0, 0);
        bench.lose(publisher);
        assert!(spreading(bench) > 0);
        spread_all(bench);
        for link in links {
            assert_eq!(bench.hear_payloads(link), ["x", "gone"]);
        }
    });
}

#[test]
fn publisher_waits_while_as_many_messages_are_spread_as_may_be() {
    const PUBLISHERS: usize = 80;
    let mut bench = Bench::new(1, &a_few_at_a_time(1));
    let links = subscribers(&mut bench, 4, &["t", "u"], Q1);
    let publishers: Vec<Link> = (0..PUBLISHERS)
        .map(|number| bench.connect(v5(&format!("publisher-{number}"))))
        .collect();
    for (number, &link) in publishers.iter().enumerate() {
        // Runs as well as single messages.
        let qos = if number.is_multiple_of(2) { Q0 } else { Q1 };
        let topic = if number.is_multiple_of(3) { "t" } else { "u" };
        bench.publish(link, topic, &number.to_string(), qos, 1);
    }
    assert_eq!(spreading(&bench), 64);
    let waiting = bench.world.sum(|it| it.paused_spreads);
    assert_eq!(waiting as usize, PUBLISHERS - 64);
    spread_all(&mut bench);
    for link in links {
        let mut heard = bench.hear_payloads(link);
        while !heard.is_empty() && heard.len() < PUBLISHERS {
            // Its window is as large as that.
            for id in 1..=PUBLISHERS as u16 {
                bench.push(link, &puback(id));
            }
            let more = bench.hear_payloads(link);
            assert!(!more.is_empty(), "{heard:?}");
            heard.extend(more);
        }
        heard.sort_by_key(|it| it.parse::<usize>().ok());
        let all: Vec<String> = (0..PUBLISHERS).map(|it| it.to_string()).collect();
        assert_eq!(heard, all);
    }
}

#[test]
fn large_message_for_a_hundred_is_spread_and_a_small_one_or_one_that_they_share_is_not() {
    const SUBSCRIBERS: usize = 100;
    let mut bench = Bench::new(1, &Limits::default());
    let links = subscribers(&mut bench, SUBSCRIBERS, &["t"], Q0);
    let publisher = bench.connect(v5("publisher"));
    for (size, is_spread) in [(4096, false), (65_536, true), (131_072, false)] {
        let payload = "x".repeat(size);
        bench.publish(publisher, "t", &payload, Q0, 0);
        assert_eq!(spreading(&bench), usize::from(is_spread), "{size} bytes");
        spread_all(&mut bench);
        for &link in &links {
            let heard = bench.hear_payloads(link);
            assert!(heard == [payload.as_str()], "{} came", heard.len());
        }
    }
}

#[test]
fn message_that_is_spread_comes_to_everybody_before_the_broker_stops() {
    on_shards_with(&a_few_at_a_time(1), |bench| {
        let links = subscribers(bench, 12, &["t"], Q0);
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "x", Q0, 0);
        assert!(spreading(bench) > 0);
        bench.world.shut_down();
        for link in links {
            let heard = bench.hear(link);
            assert_eq!(
                heard[..2],
                ["publish q0 t=x", "disconnect ServerShuttingDown"]
            );
        }
    });
}

/// Filters of as many Shared Subscriptions to one topic.
fn groups(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("$share/{number}/t"))
        .collect()
}

/// A Client that has all of these.
fn member(bench: &mut Bench, name: &str, filters: &[String]) -> Link {
    let link = bench.connect(v5(name));
    for filter in filters {
        bench.subscribe(link, filter, options(Q1));
    }
    link
}

/// [MQTT-4.8.2-4] for each of them, [MQTT-4.6.0-5].
#[test]
fn message_for_more_groups_than_a_turn_gives_comes_to_each_once_in_the_next_ones_and_in_order() {
    const GROUPS: usize = 24;
    let limits = Limits {
        max_inflight_messages: 3 * GROUPS as u16,
        ..a_few_at_a_time(2)
    };
    for qos in [Q0, Q1] {
        on_shards_with(&limits, |bench| {
            let filters = groups(GROUPS);
            // Some have one member, some have two.
            let links = [
                member(bench, "one", &filters),
                member(bench, "other", &filters[..GROUPS / 2]),
            ];
            let subscriber = bench.connect(v5("subscriber"));
            bench.subscribe(subscriber, "t", options(qos));
            spread_three(bench, qos);
            assert_eq!(bench.hear_payloads(subscriber), ["a", "b", "c"]);
            let mut all = Vec::new();
            for link in links {
                let heard = bench.hear_payloads(link);
                assert!(heard.is_sorted(), "{heard:?}");
                all.extend(heard);
            }
            all.sort();
            let each = |payload: &'static str| std::iter::repeat_n(payload, GROUPS);
            let expected: Vec<&str> = ["a", "b", "c"].into_iter().flat_map(each).collect();
            assert_eq!(all, expected);
        });
    }
}

/// Two publishers have as many groups to be given to, of which some cross.
#[test]
fn message_for_many_groups_waits_for_one_that_is_on_its_way_to_others_and_one_for_few_does_not() {
    let mut bench = Bench::new(3, &a_few_at_a_time(2));
    let (filters, few) = (groups(12), "$share/a/few".to_owned());
    let link = member(&mut bench, "member", &filters);
    bench.subscribe(link, &few, options(Q0));
    bench.subscribe(link, "$share/b/u", options(Q0));
    bench.subscribe(link, "$share/c/u", options(Q0));
    bench.subscribe(link, "$share/d/u", options(Q0));
    let names = (0..).map(|number| format!("publisher-{number}"));
    let publishers: Vec<Link> = names
        .filter_map(|name| {
            let link = bench.connect(v5(&name));
            (bench.world.shard_of(link.wire) == Some(0)).then_some(link)
        })
        .take(3)
        .collect();
    bench.publish(publishers[0], "t", "1", Q0, 0);
    assert_eq!(spreading(&bench), 1);
    bench.publish(publishers[1], "u", "2", Q0, 0);
    assert_eq!(spreading(&bench), 1);
    assert_eq!(bench.world.sum(|it| it.paused_spreads), 1);
    bench.publish(publishers[2], "few", "3", Q0, 0);
    assert!(bench.hear_payloads(link).contains(&"3".to_owned()));
    spread_all(&mut bench);
    let heard = bench.hear_payloads(link);
    let count = |payload: &str| heard.iter().filter(|it| *it == payload).count();
    assert_eq!(
        (count("2"), heard.last().map(String::as_str)),
        (3, Some("2"))
    );
}

/// [MQTT-3.10.4-2]
#[test]
fn group_that_has_ended_while_a_message_is_spread_gets_nothing_and_nor_does_what_has_its_place() {
    let mut bench = Bench::new(1, &a_few_at_a_time(2));
    let filters = groups(12);
    let link = member(&mut bench, "member", &filters);
    let other = bench.connect(v5("other"));
    let publisher = bench.connect(v5("publisher"));
    bench.publish(publisher, "t", "x", Q0, 0);
    let before = bench.hear_payloads(link).len();
    assert!(before < 12 && spreading(&bench) == 1);
    for filter in &filters {
        bench.unsubscribe(link, filter);
    }
    for number in 0..12 {
        bench.subscribe(other, &format!("$share/{number}/u"), options(Q0));
    }
    spread_all(&mut bench);
    assert_eq!(bench.hear_payloads(link), [""; 0]);
    assert_eq!(bench.hear_payloads(other), [""; 0]);
    // Whoever published it goes on.
    bench.publish(publisher, "u", "y", Q0, 0);
    spread_all(&mut bench);
    assert_eq!(bench.hear_payloads(other), ["y"; 12]);
}

#[test]
fn publisher_of_what_takes_the_time_of_a_turn_is_read_again_in_the_next_one_and_others_are_read() {
    on_shards_with(&a_few_at_a_time(16), |bench| {
        let link = bench.connect(v5("subscriber"));
        // Each matches what is below all of the levels.
        for number in 0..64_u32 {
            let level = |bit: u32| ["a/", "+/"][(number >> bit & 1) as usize];
            let filter: String = (0..6).map(level).chain(["#"]).collect();
            bench.subscribe(link, &filter, options(Q0));
        }
        let names = (0..).map(|number| format!("publisher-{number}"));
        let publishers: Vec<Link> = names.take(2).map(|it| bench.connect(v5(&it))).collect();
        for number in 0..8 {
            let topic = format!("a/a/a/a/a/a/{number}");
            let publish = message(&topic, "x", Q0, 0);
            bench.push(publishers[0], &Packet::Publish(publish));
        }
        bench.send(publishers[0], &Packet::PingReq);
        assert_eq!(bench.hear(publishers[0]), [""; 0]);
        assert_eq!(bench.world.sum(|it| it.paused_costly), 1);
        // What is not for many does not wait.
        bench.publish(publishers[1], "b", "x", Q0, 0);
        bench.send(publishers[1], &Packet::PingReq);
        assert_eq!(bench.hear(publishers[1]), ["pingresp"]);
        bench.pass(0.001);
        assert_eq!(bench.world.sum(|it| it.paused_costly), 2);
        for _ in 2..9 {
            assert_eq!(bench.hear(publishers[0]), [""; 0]);
            bench.pass(0.001);
        }
        assert_eq!(bench.hear(publishers[0]), ["pingresp"]);
        assert_eq!(bench.hear_payloads(link), ["x"; 8]);
        assert_eq!(bench.world.sum(|it| it.paused_costly), 8);
    });
}

/// A Client may have thousands of filters that match one topic; who else wants it is not asked about each.
#[test]
fn message_that_many_filters_of_one_client_match_takes_no_more_turns_after_one_has_left() {
    let mut bench = Bench::new(1, &a_few_at_a_time(64));
    let many = bench.connect(v5("many"));
    for number in 0..256_u32 {
        let level = |bit: u32| ["a/", "+/"][(number >> bit & 1) as usize];
        let filter: String = (0..8).map(level).chain(["#"]).collect();
        bench.subscribe(many, &filter, options(Q0));
    }
    let links = subscribers(&mut bench, 256, &["#"], Q0);
    let publisher = bench.connect(v5("publisher"));
    let topic = "a/a/a/a/a/a/a/a/b";
    bench.publish(publisher, topic, "x", Q0, 0);
    assert_eq!(spreading(&bench), 1);
    bench.unsubscribe(many, "+/+/+/+/+/+/+/+/#");
    let mut turns = 0;
    while spreading(&bench) > 0 {
        bench.pass(0.001);
        turns += 1;
    }
    for link in links {
        assert_eq!(bench.hear_payloads(link), ["x"]);
    }
    assert!(turns <= 40, "{turns}");
}

/// [MQTT-4.6.0-5] [MQTT-3.1.2-8]
#[test]
fn will_of_a_client_whose_message_is_on_its_way_to_many_groups_comes_behind_it() {
    let limits = Limits {
        max_inflight_messages: 24,
        ..a_few_at_a_time(2)
    };
    for qos in [Q0, Q1] {
        on_shards_with(&limits, |bench| {
            let link = member(bench, "member", &groups(12));
            let mut connect = v5("publisher");
            connect.will = will("t", 0);
            let publisher = bench.connect(connect);
            bench.publish(publisher, "t", "a", qos, 1);
            assert!(spreading(bench) > 0);
            // It takes over from itself.
            bench.connect(v5("publisher"));
            spread_all(bench);
            let heard = bench.hear_payloads(link);
            assert_eq!(heard, [["a"; 12], ["gone"; 12]].concat());
        });
    }
}

/// [MQTT-4.6.0-5] [MQTT-3.1.2-8] Other shards are told of a ticket with what is given to all groups at once.
#[test]
fn will_that_goes_to_all_groups_at_once_comes_behind_a_message_that_is_on_its_way_to_them() {
    let mut crossing = Crossing::stored_with(1, a_few_at_a_time(2));
    let link = member(&mut crossing.bench, "member", &groups(12));
    let mut connect = v5("publisher");
    connect.will = will("t", 0);
    let publisher = crossing.bench.connect(connect);
    crossing.bench.publish(publisher, "t", "a", Q0, 1);
    assert_eq!(spreading(&crossing.bench), 1);
    crossing.bench.connect(v5("publisher"));
    spread_all(&mut crossing.bench);
    crossing.write();
    let heard = crossing.bench.hear_payloads(link);
    assert_eq!(heard, [["a"; 12], ["gone"; 12]].concat());
}

/// [MQTT-4.6.0-5] They would be given it at once.
#[test]
fn groups_that_are_few_by_now_get_what_was_published_when_they_were_many_first() {
    on_shards_with(&a_few_at_a_time(2), |bench| {
        let link = member(bench, "member", &groups(3));
        let links = subscribers(bench, 24, &["t"], Q0);
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "a", Q0, 0);
        assert!(spreading(bench) > 0);
        bench.unsubscribe(link, "$share/0/t");
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "b", Q0, 0);
        let mut heard = bench.hear_payloads(link);
        spread_all(bench);
        heard.extend(bench.hear_payloads(link));
        assert_eq!(heard, ["a", "a", "b", "b"]);
        for link in links {
            assert_eq!(bench.hear_payloads(link), ["a", "b"]);
        }
    });
}

/// Each is held with the list of whom it is for.
#[test]
fn wills_of_many_clients_that_go_together_are_spread_a_bounded_number_at_a_time() {
    const CLIENTS: usize = 200;
    on_shards_with(&a_few_at_a_time(2), |bench| {
        let links = subscribers(bench, 12, &["will/#"], Q0);
        let topics: Vec<String> = (0..CLIENTS).map(|it| format!("will/{it}")).collect();
        let mut clients = Vec::new();
        for topic in &topics {
            let mut connect = v5(topic);
            connect.will = will(topic, 0);
            clients.push(bench.connect(connect));
        }
        let mut most = 0;
        for client in clients {
            bench.lose(client);
            most = most.max(spreading(bench));
        }
        spread_all(bench);
        for link in links {
            assert_eq!(bench.hear_payloads(link).len(), CLIENTS);
        }
        assert!((8..=3 * 64).contains(&most), "{most}");
    });
}

/// What is written down of a QoS 2 message is in one frame. Where nothing is written down it waits for its turn as all do.
#[test]
fn qos2_message_of_another_shard_takes_no_turn_for_those_before_it_where_nothing_is_stored() {
    let mut bench = Bench::new(3, &a_few_at_a_time(1));
    let links = subscribers(&mut bench, 60, &["t"], Q0);
    let mut publishers = [None; 2];
    for number in 0.. {
        let name = format!("publisher-{number}");
        let link = bench.connect(v5(&name));
        let shard = bench.world.shard_of(link.wire).unwrap_or(usize::MAX);
        if let Some(publisher) = publishers.get_mut(shard) {
            publisher.get_or_insert(link);
        }
        if publishers.iter().all(Option::is_some) {
            break;
        }
    }
    let [one, other] = publishers.map(Option::unwrap);
    bench.publish(one, "t", "a", Q0, 0);
    assert_eq!(spreading(&bench), 3);
    // In an envelope of its own.
    bench.publish(other, "t", &"b".repeat(1000), Q2, 1);
    assert_eq!(spreading(&bench), 6);
    spread_all(&mut bench);
    for link in links {
        assert_eq!(bench.hear_payloads(link).len(), 2);
    }
}

/// [MQTT-4.6.0-2] What is on its way of its earlier connection is not what it is told of.
#[test]
fn pubacks_of_a_client_that_is_back_while_its_message_is_spread_keep_their_order() {
    let mut crossing = Crossing::stored_with(1, a_few_at_a_time(1));
    let links = stored_subscribers(&mut crossing, 8, 0);
    let connect = |crossing: &mut Crossing| {
        let link = crossing.bench.open(lasting("publisher"));
        crossing.write();
        crossing.bench.hear(link);
        link
    };
    let publisher = connect(&mut crossing);
    crossing.bench.publish(publisher, "t", "x", Q0, 0);
    let publisher = connect(&mut crossing);
    for id in [1, 2] {
        crossing.bench.publish(publisher, "u", "y", Q1, id);
    }
    assert_eq!(spreading(&crossing.bench), 1);
    let mut heard = crossing.bench.hear(publisher);
    spread_all(&mut crossing.bench);
    crossing.write();
    heard.extend(crossing.bench.hear(publisher));
    let acknowledged: Vec<&str> = heard.iter().map(|it| &it[..9]).collect();
    assert_eq!(acknowledged, ["puback #1", "puback #2"]);
    for link in links {
        assert_eq!(crossing.bench.hear_payloads(link), ["x"]);
    }
}
