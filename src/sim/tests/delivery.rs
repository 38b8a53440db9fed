//! QoS flows, windows, sizes, expiry, back-pressure.

#![forbid(unsafe_code)]

use super::*;

/// [MQTT-4.3.3-10]
#[test]
fn qos2_duplicate_before_pubrel_is_acked_but_not_redelivered() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        let link = bench.connect(v311("a"));
        bench.publish(link, "t", "x", Q2, 1);
        let again = Publish {
            duplicate: true,
            ..message("t", "x", Q2, 1)
        };
        bench.send(link, &Packet::Publish(again));
        assert_eq!(bench.hear(link), ["pubrec #1", "pubrec #1"]);
        bench.send(link, &pubrel(1));
        assert_eq!(bench.hear(link), ["pubcomp #1"]);
        bench.publish(link, "t", "y", Q2, 1);
        assert_eq!(bench.hear_payloads(subscriber), ["x", "y"]);
    });
}

/// [MQTT-4.3.3-10]
#[test]
fn qos2_duplicate_on_the_next_connection_is_not_redelivered() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        let link = bench.connect(lasting("a"));
        bench.publish(link, "t", "x", Q2, 1);
        bench.lose(link);
        let link = bench.connect(lasting("a"));
        let again = Publish {
            duplicate: true,
            ..message("t", "x", Q2, 1)
        };
        bench.send(link, &Packet::Publish(again));
        assert_eq!(bench.hear(link), ["pubrec #1"]);
        assert_eq!(bench.hear_payloads(subscriber), ["x"]);
    });
}

/// [MQTT-3.3.4-7]
#[test]
fn v5_client_beyond_our_receive_maximum_is_disconnected() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        for id in 1..=bench.limits.max_inflight_messages {
            bench.publish(link, "t", "x", Q2, id);
        }
        assert_eq!(bench.hear(link).len(), 20);
        bench.publish(link, "t", "x", Q2, 21);
        assert_eq!(
            bench.hear(link),
            ["disconnect ReceiveMaximumExceeded", "closed"]
        );
    });
}

/// [MQTT-4.3.3-10]
#[test]
fn message_beyond_our_receive_maximum_is_no_duplicate_on_the_next_connection() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        let link = bench.connect(lasting("a"));
        let beyond = bench.limits.max_inflight_messages + 1;
        for id in 1..=beyond {
            bench.publish(link, "t", "x", Q2, id);
        }
        assert_eq!(bench.hear_payloads(subscriber).len(), 20);
        let link = bench.connect(lasting("a"));
        bench.send(link, &pubrel(1));
        let again = Publish {
            duplicate: true,
            ..message("t", "y", Q2, beyond)
        };
        bench.send(link, &Packet::Publish(again));
        assert_eq!(bench.hear(link), ["pubcomp #1", "pubrec #21"]);
        assert_eq!(bench.hear_payloads(subscriber), ["y"]);
    });
}

/// Earlier versions know no Receive Maximum: nothing of theirs may be dropped for it.
#[test]
fn v311_qos2_far_beyond_our_receive_maximum_is_all_delivered_once() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        let link = bench.connect(v311("a"));
        for id in 1..=500 {
            bench.push(
                link,
                &Packet::Publish(message("t", &id.to_string(), Q2, id)),
            );
        }
        assert_eq!(bench.hear(link).len(), 500);
        for id in 1..=500 {
            bench.push(link, &pubrel(id));
        }
        assert_eq!(bench.hear(link).len(), 500);
        let expected: Vec<String> = (1..=500).map(|id| id.to_string()).collect();
        assert_eq!(bench.hear_payloads(subscriber), expected);
    });
}

/// [MQTT-3.3.4-9]
#[test]
fn no_more_messages_are_in_flight_than_the_client_receives_at_once() {
    on_shards(|bench| {
        let mut connect = v5("a");
        connect.properties.receive_maximum = window(2);
        let link = bench.connect(connect);
        bench.subscribe(link, "t", options(Q2));
        let publisher = bench.connect(v5("publisher"));
        for (payload, qos) in [("1", Q1), ("2", Q2), ("3", Q1), ("4", Q2)] {
            bench.publish(publisher, "t", payload, qos, payload.parse().unwrap_or(1));
        }
        assert_eq!(bench.hear(link), ["publish q1 #1 t=1", "publish q2 #2 t=2"]);
        bench.send(link, &puback(1));
        assert_eq!(bench.hear(link), ["publish q1 #3 t=3"]);
        // A QoS 2 message counts until PUBCOMP.
        bench.send(link, &pubrec(2));
        assert_eq!(bench.hear(link), ["pubrel #2"]);
        bench.send(link, &pubcomp(2));
        assert_eq!(bench.hear(link), ["publish q2 #4 t=4"]);
    });
}

/// [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.1-1]
#[test]
fn reconnect_with_a_smaller_window_repeats_in_order_as_room_comes() {
    on_shards(|bench| {
        let link = bench.connect(lasting("a"));
        bench.subscribe(link, "t", options(Q2));
        let publisher = bench.connect(v5("publisher"));
        for (payload, qos) in [("1", Q1), ("2", Q2), ("3", Q2), ("4", Q1)] {
            bench.publish(publisher, "t", payload, qos, payload.parse().unwrap_or(1));
        }
        bench.send(link, &pubrec(2));
        assert_eq!(bench.hear(link).len(), 5);
        bench.lose(link);
        bench.publish(publisher, "t", "5", Q1, 5);
        let mut connect = lasting("a");
        connect.properties.receive_maximum = window(2);
        let (link, heard) = bench.connect_and_hear(connect);
        assert_eq!(
            heard,
            [
                "connack Success present",
                "publish q1 #1 t=1 dup",
                "pubrel #2"
            ]
        );
        bench.send(link, &pubcomp(2));
        assert_eq!(bench.hear(link), ["publish q2 #3 t=3 dup"]);
        bench.send(link, &puback(1));
        assert_eq!(bench.hear(link), ["publish q1 #4 t=4 dup"]);
        bench.send(link, &puback(4));
        assert_eq!(bench.hear(link), ["publish q1 #5 t=5"]);
    });
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn message_larger_than_the_client_takes_is_dropped_and_counted() {
    on_shards(|bench| {
        let mut connect = v5("a");
        connect.properties.maximum_packet_size = NonZeroU32::new(60);
        let link = bench.connect(connect);
        bench.subscribe(link, "t", options(Q1));
        let publisher = bench.connect(v5("publisher"));
        // Fixed header 2, topic 3, identifier 2, properties 1.
        let (fits, exceeds) = ("x".repeat(52), "y".repeat(53));
        bench.publish(publisher, "t", &exceeds, Q1, 1);
        bench.publish(publisher, "t", &fits, Q1, 2);
        assert_eq!(bench.hear_payloads(link), [fits]);
        assert_eq!(bench.world.sum(|it| it.dropped_packet_too_large), 1);
    });
}

/// [MQTT-3.1.2-25]
#[test]
fn message_that_only_an_alias_would_make_too_large_is_sent_without_one() {
    on_shards(|bench| {
        let mut connect = v5("a");
        connect.properties.maximum_packet_size = NonZeroU32::new(60);
        connect.properties.topic_alias_maximum = 5;
        let link = bench.connect(connect);
        bench.subscribe(link, "t", options(Q1));
        let publisher = bench.connect(v5("publisher"));
        let fits = "x".repeat(52);
        bench.publish(publisher, "t", &fits, Q1, 1);
        assert_eq!(bench.hear(link), [format!("publish q1 #1 t={fits}")]);
        bench.publish(publisher, "t", "x", Q1, 2);
        bench.publish(publisher, "t", "y", Q1, 3);
        let heard = bench.hear(link);
        assert_eq!(
            heard,
            ["publish q1 #2 t=x alias 1", "publish q1 #3 =y alias 1"]
        );
    });
}

#[test]
fn packet_larger_than_we_take_ends_the_connection() {
    let limits = Limits {
        max_packet_size: 100,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        let link = bench.connect(v5("a"));
        bench.publish(link, "t", &"x".repeat(100), Q0, 0);
        assert_eq!(bench.hear(link), ["disconnect PacketTooLarge", "closed"]);
    });
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn queued_message_counts_its_lifetime_down_and_is_dropped_at_its_end() {
    on_shards(|bench| {
        let link = bench.connect(lasting("a"));
        bench.subscribe(link, "t", options(Q1));
        bench.lose(link);
        let publisher = bench.connect(v5("publisher"));
        for (payload, id, seconds) in [("short", 1, 10), ("long", 2, 100)] {
            let mut publish = message("t", payload, Q1, id);
            publish.properties.message_expiry_interval_s = Some(seconds);
            bench.send(publisher, &Packet::Publish(publish));
        }
        bench.pass(10.0);
        let (_, heard) = bench.connect_and_hear(lasting("a"));
        assert_eq!(
            heard,
            ["connack Success present", "publish q1 #1 t=long expiry 90"]
        );
        assert_eq!(bench.world.sum(|it| it.dropped_expired), 1);
    });
}

/// [MQTT-3.3.2-5]
#[test]
fn message_that_expires_between_shards_is_not_delivered() {
    let mut bench = Bench::new(2, &Limits::default());
    let links = ["a", "b", "c", "d"].map(|name| bench.connect(v5(name)));
    let far = |link: &&Link| bench.world.shard_of(link.wire) == Some(1);
    let near = |link: &&Link| bench.world.shard_of(link.wire) == Some(0);
    let subscriber = *links.iter().find(far).expect("one of four names");
    let publisher = *links.iter().find(near).expect("one of four names");
    bench.subscribe(subscriber, "t", options(Q1));
    let mut publish = message("t", "x", Q1, 1);
    publish.properties.message_expiry_interval_s = Some(1);
    bench.push(publisher, &Packet::Publish(publish));
    bench.world.turn(0, &mut super::super::Pace::Full);
    assert_eq!(bench.world.ring_used(), 1);
    bench.pass(1.0);
    assert!(bench.hear(subscriber).is_empty());
    assert_eq!(bench.world.sum(|it| it.dropped_expired), 1);
}

/// [MQTT-3.3.2-5]
#[test]
fn message_with_a_lifetime_of_nothing_reaches_who_is_connected_on_any_shard_and_nobody_later() {
    on_shards(|bench| {
        let links = ["a", "b", "c", "d"].map(|name| bench.connect(v5(name)));
        let away = bench.connect(lasting("away"));
        for link in links.into_iter().chain([away]) {
            bench.subscribe(link, "t", options(Q1));
        }
        bench.lose(away);
        let publisher = bench.connect(v5("publisher"));
        let mut publish = message("t", "x", Q1, 1);
        publish.properties.message_expiry_interval_s = Some(0);
        publish.retain = true;
        bench.send(publisher, &Packet::Publish(publish));
        for link in links {
            assert_eq!(bench.hear(link), ["publish q1 #1 t=x expiry 0"]);
        }
        bench.pass(0.5);
        let (back, heard) = bench.connect_and_hear(lasting("away"));
        assert_eq!(heard, ["connack Success present"]);
        bench.subscribe(back, "t", options(Q1));
        assert!(bench.hear(back).is_empty(), "not retained either");
    });
}

/// [MQTT-4.6.0-5]
#[test]
fn slow_reader_loses_qos0_and_it_is_counted_but_no_qos1() {
    let limits = Limits {
        outbox_bytes_max: 2000,
        max_queued_messages: 40,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        bench.world.set_socket_capacity(1000);
        let slow = bench.connect(v5("slow"));
        bench.subscribe(slow, "t", options(Q1));
        let quick = bench.connect(v5("quick"));
        bench.subscribe(quick, "t", options(Q0));
        let publisher = bench.connect(v5("publisher"));
        let filler = "x".repeat(200);
        let mut quick_heard = 0;
        for id in 1..=40 {
            for _ in 0..3 {
                bench.publish(publisher, "t", &filler, Q0, 0);
            }
            bench.publish(publisher, "t", &format!("{id}"), Q1, id);
            quick_heard += bench.hear(quick).len();
        }
        assert_eq!(quick_heard, 160, "a slow reader costs another one nothing");
        // It may have as many unsent as the queue has room for.
        let dropped = bench.world.sum(|it| it.dropped_outbox_full);
        assert!((60..80).contains(&dropped), "{dropped}");
        let mut payloads = Vec::new();
        let mut acknowledged = 0;
        loop {
            let heard = bench.hear_payloads(slow);
            if heard.is_empty() {
                break;
            }
            payloads.extend(heard.into_iter().filter(|payload| *payload != filler));
            while acknowledged < payloads.len() {
                acknowledged += 1;
                bench.push(slow, &puback(acknowledged as u16));
            }
        }
        let expected: Vec<String> = (1..=40).map(|id| id.to_string()).collect();
        assert_eq!(payloads, expected);
    });
}

/// A Client that asks and does not read the answers is not read either, until it reads.
#[test]
fn client_that_does_not_read_its_answers_is_paused_and_resumes() {
    let limits = Limits {
        outbox_bytes_max: 100,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        bench.world.set_socket_capacity(50);
        let link = bench.connect(v5("a"));
        for _ in 0..500 {
            bench.push(link, &Packet::PingReq);
        }
        bench.settle();
        assert!(bench.world.is_paused(link.wire));
        assert!(bench.world.sum(|it| it.paused_outbox_full) > 0);
        assert!(bench.world.unsent_max() <= bench.world.unsent_bound(2));
        assert_eq!(bench.hear(link).len(), 500);
        assert!(!bench.world.is_paused(link.wire));
    });
}

#[test]
fn full_ring_stops_the_publisher_and_lets_it_go_on() {
    let limits = Limits {
        peer_backlog_max: 4,
        ..Limits::default()
    };
    let mut bench = Bench::new(2, &limits);
    bench.world.set_ring_capacity(2);
    let links = ["a", "b", "c", "d"].map(|name| bench.connect(v5(name)));
    let on =
        |shard| move |bench: &Bench, link: &Link| bench.world.shard_of(link.wire) == Some(shard);
    let subscriber = *links
        .iter()
        .find(|link| on(1)(&bench, link))
        .expect("one of four names");
    let publisher = *links
        .iter()
        .find(|link| on(0)(&bench, link))
        .expect("one of four names");
    bench.subscribe(subscriber, "t", options(Q0));
    let text = too_large_for_a_batch;
    for id in 1..=19 {
        bench.push(publisher, &Packet::Publish(message("t", &text(id), Q1, id)));
    }
    // The publisher's shard alone: nobody empties the ring.
    for _ in 0..5 {
        bench.world.turn(0, &mut super::super::Pace::Full);
    }
    assert!(bench.world.is_paused(publisher.wire));
    assert!(bench.world.sum(|it| it.paused_ring_full) > 0);
    assert!(bench.world.censuses()[0].outbound <= 4);
    bench.settle();
    assert!(!bench.world.is_paused(publisher.wire));
    assert_eq!(bench.hear(publisher).len(), 19);
    let expected: Vec<String> = (1..=19).map(text).collect();
    assert_eq!(bench.hear_payloads(subscriber), expected);
    assert_eq!(bench.world.sum(|it| it.dropped_ring_full), 0);
}

/// A payload that says its number, and crosses in an envelope of its own.
fn too_large_for_a_batch(number: u16) -> String {
    format!("{number:0600}")
}

#[test]
fn a_burst_of_qos0_loses_only_what_neither_the_ring_nor_the_backlog_has_room_for() {
    let limits = Limits {
        peer_backlog_max: 4,
        ..Limits::default()
    };
    type Text = fn(u16) -> String;
    let (small, large): (Text, Text) = (|number| number.to_string(), too_large_for_a_batch);
    // With the rest of the packet as much as fits into a batch.
    let medium: Text = |number| format!("{number:0>500}");
    // Sixteen envelopes in the ring and four in the backlog, with one message each, with 32 to topics that take
    // turns, or with nine to one topic.
    for (topics, text, burst, lost) in [
        (["t"; 2], large, 20, 0),
        (["t"; 2], large, 25, 5),
        (["t", "t/2"], small, 640, 0),
        (["t", "t/2"], small, 645, 5),
        (["t"; 2], medium, 180, 0),
        (["t"; 2], medium, 185, 5),
    ] {
        let mut bench = Bench::new(2, &limits);
        bench.world.set_ring_capacity(16);
        let links = ["a", "b", "c", "d"].map(|name| bench.connect(v5(name)));
        let on = |shard| {
            links
                .iter()
                .find(|it| bench.world.shard_of(it.wire) == Some(shard))
        };
        let (publisher, subscriber) = (*on(0).unwrap(), *on(1).unwrap());
        bench.subscribe(subscriber, "t/#", options(Q0));
        for number in 1..=burst {
            let topic = topics[usize::from(number % 2)];
            bench.push(
                publisher,
                &Packet::Publish(message(topic, &text(number), Q0, 0)),
            );
        }
        // All of it comes in one turn.
        bench.settle();
        let expected: Vec<String> = (1..=burst - lost).map(text).collect();
        assert_eq!(bench.hear_payloads(subscriber), expected);
        let dropped = bench.world.sum(|it| it.dropped_ring_full);
        assert_eq!(dropped, u64::from(lost));
    }
}

#[test]
fn queue_of_a_client_that_is_away_is_bounded_and_drops_are_counted() {
    let limits = Limits {
        max_queued_messages: 5,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        let link = bench.connect(lasting("a"));
        bench.subscribe(link, "t", options(Q1));
        bench.lose(link);
        let publisher = bench.connect(v5("publisher"));
        for id in 1..=8 {
            bench.publish(publisher, "t", &id.to_string(), Q1, id);
        }
        assert_eq!(bench.world.sum(|it| it.dropped_queue_full), 3);
        let link = bench.open(lasting("a"));
        assert_eq!(bench.hear_payloads(link), ["1", "2", "3", "4", "5"]);
    });
}

/// [MQTT-3.3.4-7] What CONNACK has said stays true, whatever the operator decides later.
#[test]
fn a_client_may_have_as_many_messages_in_flight_as_its_connack_said_though_a_reload_allows_fewer() {
    let mut bench = Bench::new(1, &Limits::default());
    let publisher = bench.connect(v5("publisher"));
    let fewer = Limits {
        max_inflight_messages: 5,
        ..Limits::default()
    };
    let settings = Settings::permissive(fewer);
    let configure = crate::shard::Command::Configure(settings.into());
    bench.world.command(0, configure);
    bench.settle();
    for id in 1..=20 {
        bench.publish(publisher, "t", "x", Q2, id);
    }
    assert_eq!(bench.hear(publisher).len(), 20);
    bench.publish(publisher, "t", "x", Q2, 21);
    let heard = bench.hear(publisher);
    assert_eq!(heard, ["disconnect ReceiveMaximumExceeded", "closed"]);
    // Who connects from now on is told the new number.
    let later = bench.connect(v5("later"));
    for id in 1..=6 {
        bench.publish(later, "t", "x", Q2, id);
    }
    let heard = bench.hear(later);
    assert_eq!(heard[5..], ["disconnect ReceiveMaximumExceeded", "closed"]);
}
