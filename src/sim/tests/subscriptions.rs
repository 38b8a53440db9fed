//! Subscription Options, retained messages, overlapping and Shared Subscriptions.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::*;
use crate::codec::RetainHandling;
use crate::shard::Census;

/// [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
#[test]
fn retain_handling_decides_which_subscriptions_get_retained_messages() {
    on_shards(|bench| {
        let link = bench.connect(v5("publisher"));
        bench.retain(link, "t", "old");
        let link = bench.connect(v5("a"));
        let with = |retain_handling| SubscriptionOptions {
            retain_handling,
            ..options(Q0)
        };
        let suback = "suback [Success]";
        let old = "publish q0 t=old retain";
        let mut subscribe = |handling| bench.subscribe(link, "t", with(handling));
        assert_eq!(subscribe(RetainHandling::DoNotSend), [suback]);
        assert_eq!(
            subscribe(RetainHandling::SendIfNew),
            [suback],
            "not new any more"
        );
        assert_eq!(subscribe(RetainHandling::Send), [suback, old]);
        assert_eq!(subscribe(RetainHandling::Send), [suback, old], "each time");
        assert_eq!(bench.unsubscribe(link, "t"), ["unsuback [Success]"]);
        let heard = bench.subscribe(link, "t", with(RetainHandling::SendIfNew));
        assert_eq!(heard, [suback, old]);
    });
}

/// [MQTT-3.3.1-6] [MQTT-3.3.1-7]
#[test]
fn empty_retained_message_removes_the_value_on_all_shards() {
    on_shards(|bench| {
        let link = bench.connect(v5("publisher"));
        bench.retain(link, "t", "old");
        bench.retain(link, "t", "");
        for name in ["a", "b", "c", "d"] {
            let link = bench.connect(v5(name));
            assert_eq!(
                bench.subscribe(link, "t", options(Q0)),
                ["suback [Success]"]
            );
        }
        for _ in 0..3 {
            bench.pass(2.0);
        }
        let left: usize = bench
            .world
            .censuses()
            .iter()
            .map(|it| it.retained + it.tombstones)
            .sum();
        assert_eq!(left, 0);
    });
}

/// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn retain_as_published_keeps_the_flag_and_its_absence_clears_it() {
    on_shards(|bench| {
        let plain = bench.connect(v5("plain"));
        bench.subscribe(plain, "t", options(Q0));
        let keeping = bench.connect(v5("keeping"));
        let keep = SubscriptionOptions {
            retain_as_published: true,
            ..options(Q0)
        };
        bench.subscribe(keeping, "t", keep);
        let publisher = bench.connect(v5("publisher"));
        bench.retain(publisher, "t", "x");
        bench.publish(publisher, "t", "y", Q0, 0);
        assert_eq!(bench.hear(plain), ["publish q0 t=x", "publish q0 t=y"]);
        assert_eq!(
            bench.hear(keeping),
            ["publish q0 t=x retain", "publish q0 t=y"]
        );
    });
}

/// [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[test]
fn overlapping_subscriptions_give_one_copy_with_highest_qos_and_all_identifiers() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        bench.subscribe_with_identifier(link, "a/#", options(Q0), Some(1));
        bench.subscribe_with_identifier(link, "a/+", options(Q1), Some(300));
        bench.subscribe(link, "+/b", options(Q0));
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "a/b", "x", Q2, 1);
        assert_eq!(bench.hear(link), ["publish q1 #1 a/b=x ids [1, 300]"]);
    });
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_own_messages_away_and_lets_others_through() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        let no_local = SubscriptionOptions {
            no_local: true,
            ..options(Q1)
        };
        bench.subscribe(link, "t", no_local);
        bench.publish(link, "t", "own", Q1, 1);
        assert_eq!(bench.hear(link).len(), 1, "PUBACK alone");
        let other = bench.connect(v5("b"));
        bench.publish(other, "t", "other", Q1, 1);
        assert_eq!(bench.hear(link), ["publish q1 #1 t=other"]);
    });
}

/// What another broker brings must not go back to it, and what is retained here is to be retained there.
#[test]
fn bridge_is_not_sent_its_own_messages_and_those_of_others_with_retain_as_published() {
    on_shards(|bench| {
        let bridge = bench.connect(Connect {
            is_bridge: true,
            ..v311("bridge")
        });
        bench.subscribe(bridge, "#", options(Q1));
        bench.subscribe(bridge, "$share/g/job", options(Q1));
        bench.publish(bridge, "t", "own", Q1, 1);
        assert_eq!(bench.hear(bridge).len(), 1, "PUBACK alone");
        let other = bench.connect(v5("b"));
        bench.publish(other, "t", "live", Q1, 1);
        assert_eq!(bench.hear(bridge), ["publish q1 #1 t=live"]);
        bench.retain(other, "t", "kept");
        assert_eq!(bench.hear(bridge), ["publish q0 t=kept retain"]);
        // A member of a group is sent its own [MQTT-3.8.3-4].
        bench.unsubscribe(bridge, "#");
        bench.publish(bridge, "job", "mine", Q1, 3);
        let heard = bench.hear(bridge);
        assert!(
            heard.contains(&"publish q1 #2 job=mine".to_owned()),
            "{heard:?}"
        );
    });
}

/// [MQTT-3.8.4-8]
#[test]
fn delivery_has_the_lower_qos_of_publisher_and_subscription() {
    on_shards(|bench| {
        let publisher = bench.connect(v5("publisher"));
        for (granted, name) in [(Q0, "zero"), (Q1, "one"), (Q2, "two")] {
            let link = bench.connect(v5(name));
            bench.subscribe(link, "t", options(granted));
            for published in [Q0, Q1, Q2] {
                bench.publish(publisher, "t", "x", published, 1);
                bench.send(publisher, &pubrel(1));
                let heard = bench.hear(link);
                let expected = format!("publish q{}", granted.min(published) as u8);
                assert!(heard[0].starts_with(&expected), "{expected}: {heard:?}");
            }
            bench.disconnect(link, ReasonCode::Success);
        }
    });
}

/// [MQTT-4.8.2-4]
#[test]
fn members_of_a_shared_subscription_take_turns() {
    on_shards(|bench| {
        let names = ["a", "b", "c", "d", "e"];
        let members: Vec<Link> = names.iter().map(|name| bench.connect(v5(name))).collect();
        for &link in &members {
            bench.subscribe(link, "$share/g/t", options(Q1));
        }
        let publisher = bench.connect(v5("publisher"));
        for id in 1..=100 {
            bench.publish(publisher, "t", &id.to_string(), Q1, id);
        }
        let mut copies = BTreeMap::<String, u32>::new();
        for &link in &members {
            // Their windows hold 20 each.
            let heard = bench.hear_payloads(link);
            assert_eq!(heard.len(), 20);
            for payload in heard {
                *copies.entry(payload).or_default() += 1;
            }
        }
        assert_eq!(copies.len(), 100);
        assert!(copies.values().all(|&count| count == 1));
    });
}

/// [MQTT-4.8.2-5]
#[test]
fn unacknowledged_qos1_of_a_leaving_member_goes_to_another_and_qos2_does_not() {
    on_shards(|bench| {
        let leaving = bench.connect(v5("leaving"));
        bench.subscribe(leaving, "$share/g/t", options(Q2));
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "one", Q1, 1);
        bench.publish(publisher, "t", "two", Q2, 2);
        assert_eq!(
            bench.hear(leaving),
            ["publish q1 #1 t=one", "publish q2 #2 t=two"]
        );
        let staying = bench.connect(v5("staying"));
        bench.subscribe(staying, "$share/g/t", options(Q2));
        bench.lose(leaving);
        assert_eq!(bench.hear(staying), ["publish q1 #1 t=one"]);
        assert_eq!(bench.world.sum(|it| it.shared_handed_on), 1);
    });
}

#[test]
fn shared_subscription_prefers_members_that_are_connected() {
    on_shards(|bench| {
        for name in ["away", "gone", "far"] {
            let link = bench.connect(lasting(name));
            bench.subscribe(link, "$share/g/t", options(Q1));
            bench.lose(link);
        }
        let here = bench.connect(v5("here"));
        bench.subscribe(here, "$share/g/t", options(Q1));
        let publisher = bench.connect(v5("publisher"));
        for id in 1..=12 {
            bench.publish(publisher, "t", "x", Q1, id);
        }
        assert_eq!(bench.hear(here).len(), 12);
    });
}

/// What an unsubscribed member had not acknowledged must not reach whoever subscribes next to
/// something else.
#[test]
fn message_of_a_group_that_is_gone_reaches_no_other_group() {
    on_shards(|bench| {
        let member = bench.connect(v5("member"));
        bench.subscribe(member, "$share/g/t", options(Q1));
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "t", "x", Q1, 1);
        assert_eq!(bench.hear(member), ["publish q1 #1 t=x"]);
        bench.unsubscribe(member, "$share/g/t");
        let others: Vec<Link> = ["a", "b", "c", "d"]
            .map(|name| bench.connect(v5(name)))
            .to_vec();
        for &other in &others {
            bench.subscribe(other, "$share/other/u", options(Q1));
        }
        bench.lose(member);
        for &other in &others {
            assert!(bench.hear(other).is_empty());
        }
    });
}

#[test]
fn last_unsubscribe_leaves_no_filter_on_any_shard() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        for filter in ["a/+/c", "#", "$share/g/a/#"] {
            bench.subscribe(link, filter, options(Q1));
        }
        for filter in ["a/+/c", "#", "$share/g/a/#"] {
            assert_eq!(bench.unsubscribe(link, filter), ["unsuback [Success]"]);
        }
        for census in bench.world.censuses() {
            assert_eq!(
                (census.filters, census.filter_nodes, census.subscriptions),
                (0, 0, 0)
            );
        }
    });
}

/// [MQTT-4.6.0-5]
#[test]
fn retained_message_owed_to_a_client_that_left_does_not_come_behind_its_successor() {
    on_shards(|bench| {
        let publisher = bench.connect(v5("publisher"));
        for (topic, id) in [("t/1", 1), ("t/2", 2)] {
            let publish = Publish {
                retain: true,
                ..message(topic, "old", Q1, id)
            };
            bench.send(publisher, &Packet::Publish(publish));
        }
        let mut connect = lasting("a");
        connect.properties.receive_maximum = window(1);
        let link = bench.connect(connect);
        // One retained message fills the window, the other one waits.
        let heard = bench.subscribe(link, "t/+", options(Q1));
        assert_eq!(heard.len(), 2, "{heard:?}");
        let waiting = if heard[1].contains("t/1") {
            "t/2"
        } else {
            "t/1"
        };
        let publish = Publish {
            retain: true,
            ..message(waiting, "new", Q1, 3)
        };
        bench.send(publisher, &Packet::Publish(publish));
        bench.lose(link);
        let (link, _) = bench.connect_and_hear(connect);
        bench.send(link, &puback(1));
        assert_eq!(bench.hear(link), [format!("publish q1 #2 {waiting}=new")]);
        bench.send(link, &puback(2));
        assert!(bench.hear(link).is_empty());
    });
}

/// Topics that `publisher` retains with a long payload. `subscriber` subscribes to them, and does not read.
fn retained_for_one_that_does_not_read(
    bench: &mut Bench,
    publisher: Link,
    subscriber: Link,
    options: SubscriptionOptions,
) -> Vec<String> {
    let payload = "x".repeat(100);
    let topics: Vec<String> = (0..50).map(|n| format!("r/{n}")).collect();
    for topic in &topics {
        bench.retain(publisher, topic, &payload);
    }
    let filters = [("r/#", options)];
    let subscribe = Subscribe::new(identifier(1), &filters);
    bench.push(subscriber, &Packet::Subscribe(subscribe));
    bench.world.set_socket_capacity(0);
    for _ in 0..100 {
        bench.pass(0.001);
    }
    topics
}

/// What a Client hears that reads from now on.
fn read_on(bench: &mut Bench, client: Link) -> Vec<String> {
    bench.world.set_socket_capacity(usize::MAX);
    let mut heard = Vec::new();
    for _ in 0..200 {
        bench.pass(0.001);
        heard.extend(bench.hear(client));
    }
    heard
}

/// [MQTT-3.3.1-9] [MQTT-3.8.3-3]
#[test]
fn a_retained_message_that_its_own_client_changes_while_it_waits_to_be_read_comes_as_it_is_then() {
    let limits = Limits {
        outbox_bytes_max: 300,
        replay_steps_max: 8,
        ..Limits::default()
    };
    let mut bench = Bench::new(1, &limits);
    let client = bench.connect(v5("client"));
    let mut options = options(Q0);
    options.no_local = true;
    let topics = retained_for_one_that_does_not_read(&mut bench, client, client, options);
    for topic in &topics {
        bench.retain(client, topic, "new");
    }
    let heard = read_on(&mut bench, client);
    let is_retained = |it: &&String| it.ends_with(" retain");
    assert_eq!(heard.iter().filter(is_retained).count(), 50);
    let old = heard.iter().filter(|it| it.contains("=x")).count();
    assert!(old < 10, "what had left by then: {old}");
}

/// [MQTT-3.3.1-9]
#[test]
fn a_retained_message_whose_change_found_no_room_comes_as_it_is_when_its_client_reads() {
    let limits = Limits {
        outbox_bytes_max: 300,
        replay_steps_max: 8,
        max_queued_messages: 5,
        ..Limits::default()
    };
    let mut bench = Bench::new(1, &limits);
    let publisher = bench.connect(v5("publisher"));
    let subscriber = bench.connect(v5("subscriber"));
    let options = options(Q0);
    let topics = retained_for_one_that_does_not_read(&mut bench, publisher, subscriber, options);
    for (id, topic) in (1..).zip(&topics) {
        let qos = if id % 2 == 0 { Q0 } else { Q1 };
        let publish = Publish {
            retain: true,
            ..message(topic, "new", qos, id)
        };
        bench.send(publisher, &Packet::Publish(publish));
    }
    assert!(bench.world.sum(|it| it.dropped_outbox_full) > 0);
    let heard = read_on(&mut bench, subscriber);
    for topic in &topics {
        let last = heard.iter().rfind(|it| it.contains(&format!(" {topic}=")));
        assert!(
            last.is_some_and(|it| it.contains("=new")),
            "{topic}: {last:?}"
        );
    }
}

/// Some subscriptions of one Client are looked up at once, and no more while it has much to read.
#[test]
fn what_a_client_that_does_not_read_is_owed_by_many_subscriptions_is_not_found_all_at_once() {
    let limits = Limits {
        outbox_bytes_max: 300,
        ..Limits::default()
    };
    let mut bench = Bench::new(1, &limits);
    let publisher = bench.connect(v5("publisher"));
    for n in 0..1000 {
        bench.retain(publisher, &format!("r/{n}"), "x");
    }
    let subscriber = bench.connect(lasting("subscriber"));
    bench.world.set_socket_capacity(0);
    let filters = [
        "r/#", "#", "+/#", "r/+", "+/+", "r/+/#", "+/+/#", "r/1", "+/1", "r/1/#",
    ];
    for filter in filters {
        let filters = [(filter, options(Q0))];
        let subscribe = Subscribe::new(identifier(1), &filters);
        bench.push(subscriber, &Packet::Subscribe(subscribe));
    }
    for _ in 0..1000 {
        bench.pass(0.001);
    }
    let found = bench.world.shard(0).census().replaying;
    // Seven of the first eight match everything, of which the outbox has some.
    assert!((6500..7100).contains(&found), "{found}");
    // Nothing of that is done again, or kept, for a connection that ends.
    bench.lose(subscriber);
    assert_eq!(bench.world.shard(0).census().replaying, 0);
    assert_eq!(bench.world.shard(0).census().queued, 0);
}

/// [MQTT-3.9.3-1]
#[test]
fn filter_that_nobody_wants_yet_is_refused_beyond_the_bytes_for_filters() {
    let limits = Limits {
        max_filter_bytes: 1,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        let link = bench.connect(v5("a"));
        let other = bench.connect(v5("b"));
        let (granted, refused) = (["suback [Success]"], ["suback [QuotaExceeded]"]);
        assert_eq!(bench.subscribe(link, "t/1", options(Q0)), granted);
        assert_eq!(bench.subscribe(other, "t/2", options(Q0)), refused);
        assert_eq!(bench.subscribe(other, "t/1", options(Q0)), granted);
        bench.unsubscribe(link, "t/1");
        assert_eq!(bench.subscribe(link, "t/2", options(Q0)), refused);
        bench.unsubscribe(other, "t/1");
        assert_eq!(bench.subscribe(link, "t/2", options(Q0)), granted);
        let counted: u64 = (0..bench.world.shard_count())
            .map(|shard| bench.world.shard(shard).counters().subscriptions_refused)
            .sum();
        assert_eq!(counted, 2);
    });
}

#[test]
fn retained_topic_of_many_levels_counts_with_what_finds_it() {
    let limits = Limits {
        max_retained_bytes: 20_000,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        let publisher = bench.connect(v5("publisher"));
        let deep = "/".repeat(200);
        let answers = (1..=3).map(|id| {
            let topic_name = format!("{id}{deep}");
            let publish = Publish {
                retain: true,
                ..message(&topic_name, "x", Q1, id)
            };
            bench.send(publisher, &Packet::Publish(publish));
            bench.hear(publisher).concat()
        });
        let expected = [
            "puback #1 NoMatchingSubscribers",
            "puback #2 NoMatchingSubscribers",
            "puback #3 QuotaExceeded",
        ];
        assert_eq!(answers.collect::<Vec<_>>(), expected);
    });
}

/// As Mosquitto does, for topics and filters that are well-formed and deeper than it takes.
#[test]
fn topic_with_more_than_200_separators_ends_its_connection_and_no_other() {
    on_shards(|bench| {
        let other = bench.connect(v5("other"));
        bench.subscribe(other, "#", options(Q1));
        let deepest = "/".repeat(200);
        let link = bench.connect(v5("a"));
        assert_eq!(
            bench.subscribe(link, &deepest, options(Q0)),
            ["suback [Success]"]
        );
        bench.publish(link, &deepest, "x", Q0, 0);
        assert_eq!(bench.hear(link).len(), 1);
        let too_deep = "/".repeat(201);
        assert_eq!(
            bench.subscribe(link, &too_deep, options(Q0)),
            ["disconnect MalformedPacket", "closed"]
        );
        let link = bench.connect(v5("a"));
        bench.publish(link, &too_deep, "y", Q1, 1);
        assert_eq!(bench.hear(link), ["disconnect TopicNameInvalid", "closed"]);
        let mut connect = v5("a");
        connect.will = will(&too_deep, 0);
        let (_, heard) = bench.connect_and_hear(connect);
        assert_eq!(heard, ["connack TopicNameInvalid", "closed"]);
        assert_eq!(bench.hear_payloads(other), ["x"]);
    });
}

/// [MQTT-3.8.4-1] What is published anywhere after a SUBACK is delivered, however many turns its SUBSCRIBE took.
#[test]
fn suback_of_a_subscribe_that_takes_many_turns_waits_until_every_shard_knows_all_of_it() {
    for backlog_max in [1, 4096] {
        let limits = Limits {
            filter_steps_max: 1,
            peer_backlog_max: backlog_max,
            ..Limits::default()
        };
        on_shards_with(&limits, |bench| {
            let publisher = bench.connect(v5("publisher"));
            let link = bench.connect(v5("a"));
            let topics: Vec<String> = (0..12).map(|number| format!("t/{number}")).collect();
            let filters: Vec<_> = topics.iter().map(|it| (&**it, options(Q1))).collect();
            let subscribe = Subscribe::new(identifier(9), &filters);
            bench.send(link, &Packet::Subscribe(subscribe));
            let mut turns = 0;
            let mut heard = bench.hear(link);
            while heard.is_empty() {
                bench.pass(0.001);
                heard = bench.hear(link);
                turns += 1;
            }
            assert_eq!(
                heard,
                [format!("suback {:?}", [ReasonCode::GrantedQoS1; 12])]
            );
            // All but the first are checked, then all but the first come into force.
            assert!((1..=22).contains(&turns), "{turns} turns");
            for (id, topic) in (1..).zip(&topics) {
                bench.publish(publisher, topic, "x", Q1, id);
                let heard = bench.hear(link);
                assert_eq!(heard, [format!("publish q1 #{id} {topic}=x")]);
            }
            let filters: Vec<_> = topics.iter().map(|it| &**it).collect();
            let unsubscribe = Unsubscribe::new(identifier(8), &filters);
            bench.send(link, &Packet::Unsubscribe(unsubscribe));
            for _ in 0..22 {
                bench.pass(0.001);
            }
            let heard = bench.hear(link);
            assert_eq!(heard, [format!("unsuback {:?}", [ReasonCode::Success; 12])]);
            let left = |bench: &Bench| -> usize {
                let censuses = bench.world.censuses();
                let left = |it: &Census| it.filters + it.subscriptions + it.unfinished;
                censuses.iter().map(left).sum()
            };
            assert_eq!(left(bench), 0);
        });
    }
}
