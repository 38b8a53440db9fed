//! QoS 0 messages that come together, to one topic.

use super::*;
use crate::message::{Message, MessageRef};
use crate::policy::Policy;
use crate::shard::Command;
use crate::sim::random::Random;
use crate::sim::world::Pace;
use std::sync::Arc;

impl Bench {
    fn with_policy(shards: usize, change: impl FnOnce(&mut Policy)) -> Self {
        let limits = Limits::default();
        let mut settings = Settings::permissive(limits.clone());
        change(&mut settings.policy);
        Self {
            world: World::new(shards, settings, 7, 64, 1 << 16),
            ..Self::new(shards, &limits)
        }
    }

    /// Publishes a message before, so that the topic is known, and then all of these at once.
    fn publish_together(&mut self, link: Link, topic: &str, payloads: &[String]) {
        self.publish(link, topic, "first", Q0, 0);
        let mut bytes = Vec::new();
        for payload in payloads {
            let packet = Packet::Publish(message(topic, payload, Q0, 0));
            codec::encode(&packet, link.version, &mut bytes);
        }
        self.send_bytes(link, &bytes);
    }

    fn send_bytes(&mut self, link: Link, bytes: &[u8]) {
        self.world.send(link.wire, bytes);
        self.settle();
    }
}

/// Payloads of different sizes, beyond those with a length of one byte.
fn payloads(count: usize) -> Vec<String> {
    (0..count)
        .map(|number| format!("{number:0>width$}", width = 2 + number * 37 % 300))
        .collect()
}

/// Pieces of them, however small, are handled as the turns of the shards have room for them.
#[test]
fn messages_that_come_together_stay_in_order_however_turns_cut_them() {
    for seed in 0..20 {
        let mut bench = Bench::new(3, &Limits::default());
        let links = ["a", "b", "c", "d"].map(|name| bench.connect(v5(name)));
        let qos = [Q0, Q1, Q0, Q0];
        for (link, qos) in links.into_iter().zip(qos) {
            bench.subscribe(link, "t", options(qos));
        }
        let publisher = bench.connect(v311("publisher"));
        bench.publish(publisher, "t", "first", Q0, 0);
        let payloads = payloads(200);
        for payload in &payloads {
            bench.push(publisher, &Packet::Publish(message("t", payload, Q0, 0)));
        }
        let mut random = Random::new(seed);
        for _ in 0..100 {
            let shard = random.below(3);
            bench.world.turn(shard, &mut Pace::Random(&mut random));
        }
        bench.settle();
        for link in links {
            assert_eq!(
                bench.hear_payloads(link),
                with_first(&payloads),
                "seed {seed}"
            );
        }
    }
}

fn with_first(payloads: &[String]) -> Vec<String> {
    let first = std::iter::once("first".to_owned());
    first.chain(payloads.iter().cloned()).collect()
}

/// [MQTT-4.6.0-6]
#[test]
fn messages_that_come_together_reach_subscribers_of_every_kind_once_and_in_order() {
    on_shards(|bench| {
        let mut with_aliases = v5("aliases");
        with_aliases.properties.topic_alias_maximum = 5;
        let links = [
            bench.connect(v311("v311")),
            bench.connect(v5("v5")),
            bench.connect(Connect::new(ProtocolVersion::V3, "v3")),
            bench.connect(v311("wants-more")),
            bench.connect(with_aliases),
        ];
        let [_, _, _, wants_more, _] = links;
        for link in links {
            let qos = if link == wants_more { Q2 } else { Q0 };
            bench.subscribe(link, "t/+", options(qos));
        }
        let identified = bench.connect(v5("identified"));
        bench.subscribe_with_identifier(identified, "t/+", options(Q0), Some(7));
        for publisher in [v311("publisher"), v5("other-publisher")] {
            let publisher = bench.connect(publisher);
            let payloads = payloads(60);
            bench.publish_together(publisher, "t/a", &payloads);
            for link in links {
                // An alias stands for the Topic Name, so payloads alone are compared.
                assert_eq!(bench.hear_payloads(link), with_first(&payloads));
            }
            let expected: Vec<_> = with_first(&payloads)
                .iter()
                .map(|payload| format!("publish q0 t/a={payload} ids [7]"))
                .collect();
            assert_eq!(bench.hear(identified), expected);
        }
    });
}

#[test]
fn messages_that_come_together_are_counted_one_by_one() {
    let mut bench = Bench::new(1, &Limits::default());
    let subscribers = [bench.connect(v311("a")), bench.connect(v311("b"))];
    for link in subscribers {
        bench.subscribe(link, "t", options(Q0));
    }
    let publisher = bench.connect(v311("publisher"));
    let packets = bench.world.sum(|it| it.packets_received);
    let payloads = payloads(50);
    bench.publish_together(publisher, "t", &payloads);
    let size: usize = with_first(&payloads).iter().map(String::len).sum();
    assert_eq!(bench.world.sum(|it| it.packets_received), packets + 51);
    assert_eq!(bench.world.sum(|it| it.publish_received), 51);
    assert_eq!(bench.world.sum(|it| it.publish_bytes_received), size as u64);
    assert_eq!(bench.world.sum(|it| it.publish_sent), 102);
    assert_eq!(bench.world.sum(|it| it.publish_bytes_sent), 2 * size as u64);
}

#[test]
fn what_comes_between_messages_to_one_topic_keeps_its_place() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "+", options(Q1));
        let publisher = bench.connect(v5("publisher"));
        bench.publish(publisher, "a", "0", Q0, 0);
        bench.publish(publisher, "b", "0", Q0, 0);
        bench.hear(subscriber);
        let mut bytes = Vec::new();
        let retained = Publish {
            retain: true,
            ..message("a", "5", Q0, 0)
        };
        let mut expiring = message("a", "6", Q0, 0);
        expiring.properties.message_expiry_interval_s = Some(60);
        for publish in [
            message("a", "1", Q0, 0),
            message("a", "2", Q0, 0),
            message("b", "3", Q0, 0),
            message("a", "4", Q1, 1),
            retained,
            expiring,
            message("a", "7", Q0, 0),
        ] {
            codec::encode(&Packet::Publish(publish), publisher.version, &mut bytes);
        }
        bench.send_bytes(publisher, &bytes);
        assert_eq!(
            bench.hear(subscriber),
            [
                "publish q0 a=1",
                "publish q0 a=2",
                "publish q0 b=3",
                "publish q1 #1 a=4",
                "publish q0 a=5",
                "publish q0 a=6 expiry 60",
                "publish q0 a=7",
            ]
        );
    });
}

/// [MQTT-3.8.3-3]
#[test]
fn publisher_that_subscribes_hears_its_own_messages_unless_it_does_not_want_them() {
    on_shards(|bench| {
        let publisher = bench.connect(v5("publisher"));
        let payloads = payloads(20);
        bench.subscribe(publisher, "t", options(Q0));
        bench.publish_together(publisher, "t", &payloads);
        assert_eq!(bench.hear_payloads(publisher), with_first(&payloads));
        let mut not_own = options(Q0);
        not_own.no_local = true;
        bench.subscribe(publisher, "t", not_own);
        bench.publish_together(publisher, "t", &payloads);
        assert_eq!(bench.hear_payloads(publisher), [""; 0]);
    });
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn messages_too_large_for_a_client_are_left_out_of_those_that_come_together() {
    on_shards(|bench| {
        let mut connect = v5("a");
        connect.properties.maximum_packet_size = NonZeroU32::new(100);
        let link = bench.connect(connect);
        bench.subscribe(link, "t", options(Q0));
        let publisher = bench.connect(v5("publisher"));
        let payloads = payloads(40);
        bench.publish_together(publisher, "t", &payloads);
        // Fixed header 2, topic 3, properties 1.
        let (fitting, others): (Vec<_>, Vec<_>) = with_first(&payloads)
            .into_iter()
            .partition(|payload| payload.len() <= 94);
        assert!(!fitting.is_empty() && !others.is_empty());
        assert_eq!(bench.hear_payloads(link), fitting);
        let dropped = bench.world.sum(|it| it.dropped_packet_too_large);
        assert_eq!(dropped, others.len() as u64);
    });
}

#[test]
fn members_of_a_group_share_messages_that_come_together_and_others_hear_all() {
    on_shards(|bench| {
        let members = [bench.connect(v5("a")), bench.connect(v5("b"))];
        for link in members {
            bench.subscribe(link, "$share/g/t", options(Q0));
        }
        let both = bench.connect(v5("both"));
        bench.subscribe(both, "t", options(Q0));
        let publisher = bench.connect(v5("publisher"));
        let payloads = payloads(39);
        bench.publish_together(publisher, "t", &payloads);
        assert_eq!(bench.hear_payloads(both), with_first(&payloads));
        let mut shared = members.map(|link| bench.hear_payloads(link)).concat();
        let mut expected = with_first(&payloads);
        shared.sort();
        expected.sort();
        assert_eq!(shared, expected);
    });
}

#[test]
fn messages_that_come_together_wait_for_a_client_that_is_away_if_the_operator_wants_it() {
    for shards in [1, 3] {
        for queued in [false, true] {
            let mut bench =
                Bench::with_policy(shards, |policy| policy.queue_qos0_messages = queued);
            let link = bench.connect(lasting("a"));
            bench.subscribe(link, "t", options(Q1));
            bench.disconnect(link, ReasonCode::Success);
            let publisher = bench.connect(v5("publisher"));
            let payloads = payloads(30);
            bench.publish_together(publisher, "t", &payloads);
            let link = bench.open(lasting("a"));
            let expected = if queued {
                with_first(&payloads)
            } else {
                Vec::new()
            };
            assert_eq!(bench.hear_payloads(link), expected);
        }
    }
}

#[test]
fn an_outbox_that_has_no_room_for_all_takes_those_that_fit_and_counts_the_rest() {
    let limits = Limits {
        outbox_bytes_max: 1000,
        max_queued_messages: 5,
        ..Limits::default()
    };
    on_shards_with(&limits, |bench| {
        let subscriber = bench.connect(v311("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        bench.world.set_socket_capacity(10);
        let publisher = bench.connect(v311("publisher"));
        let payloads = payloads(60);
        bench.publish_together(publisher, "t", &payloads);
        let dropped = bench.world.sum(|it| it.dropped_outbox_full);
        let heard = bench.hear_payloads(subscriber);
        assert!(dropped > 0 && heard.len() > 1, "{dropped} dropped");
        assert_eq!(heard.len() as u64 + dropped, 61);
        // Which fit is a matter of their sizes; they keep their order.
        let mut expected = with_first(&payloads).into_iter();
        for payload in &heard {
            assert!(expected.any(|it| it == *payload), "{payload}");
        }
    });
}

/// [MQTT-3.3.2-2] [MQTT-4.7.3-1]
#[test]
fn what_is_no_topic_name_ends_the_connection_behind_those_that_are() {
    on_shards(|bench| {
        let subscriber = bench.connect(v311("subscriber"));
        bench.subscribe(subscriber, "#", options(Q0));
        // It is not remembered as one either.
        for bad in ["a/+", "a/#", "a\0", ""] {
            let publisher = bench.connect(v311("publisher"));
            let mut bytes = Vec::new();
            for topic in ["a", "a", bad, "a"] {
                let packet = Packet::Publish(message(topic, "x", Q0, 0));
                codec::encode(&packet, publisher.version, &mut bytes);
            }
            bench.send_bytes(publisher, &bytes);
            assert_eq!(bench.hear(publisher), ["closed"], "{bad}");
            assert_eq!(bench.hear(subscriber), ["publish q0 a=x"; 2], "{bad}");
        }
        let publisher = bench.connect(v311("publisher"));
        bench.send_bytes(publisher, b"\x30\x04\0\x02\xC3\x28");
        assert_eq!(bench.hear(publisher), ["closed"], "no UTF-8 [MQTT-1.5.4-1]");
    });
}

#[test]
fn topics_of_the_broker_are_not_to_be_written_though_they_are_remembered() {
    on_shards(|bench| {
        let subscriber = bench.connect(v5("subscriber"));
        bench.subscribe(subscriber, "$SYS/#", options(Q0));
        let told = MessageRef {
            topic_name: b"$SYS/uptime",
            properties: &[],
            payload: b"told",
            qos: Q0,
            retain: false,
            expires_at: None,
        };
        for shard in 0..bench.world.shard_count() {
            let message = Arc::new(Message::new(told));
            bench.world.command(shard, Command::Publish(message));
        }
        bench.settle();
        bench.hear(subscriber);
        let publisher = bench.connect(v5("publisher"));
        bench.publish_together(publisher, "$SYS/uptime", &payloads(10));
        assert_eq!(bench.hear(subscriber), [""; 0]);
    });
}

/// [MQTT-1.5.5-1]
#[test]
fn lengths_that_are_longer_than_needed_are_sent_on_in_the_shortest_form() {
    on_shards(|bench| {
        let subscriber = bench.connect(v311("subscriber"));
        bench.subscribe(subscriber, "t", options(Q0));
        let publisher = bench.connect(v311("publisher"));
        bench.publish(publisher, "t", "0", Q0, 0);
        bench.hear(subscriber);
        bench.send_bytes(
            publisher,
            b"\x30\x04\0\x01t1\x30\x84\x00\0\x01t2\x30\x04\0\x01t3",
        );
        let bytes = bench.world.receive(subscriber.wire, usize::MAX);
        assert_eq!(bytes, b"\x30\x04\0\x01t1\x30\x04\0\x01t2\x30\x04\0\x01t3");
    });
}

#[test]
fn subscriptions_that_end_between_two_runs_end_what_is_sent() {
    on_shards(|bench| {
        let links = [bench.connect(v311("a")), bench.connect(v311("b"))];
        for link in links {
            bench.subscribe(link, "t", options(Q0));
        }
        let publisher = bench.connect(v311("publisher"));
        let payloads = payloads(10);
        bench.publish_together(publisher, "t", &payloads);
        bench.unsubscribe(links[0], "t");
        bench.lose(links[1]);
        bench.hear(links[1]);
        bench.publish_together(publisher, "t", &payloads);
        assert_eq!(bench.hear_payloads(links[0]), [""; 0]);
        let back = bench.connect(v311("b"));
        bench.subscribe(back, "t", options(Q0));
        bench.publish_together(publisher, "t", &payloads);
        assert_eq!(bench.hear_payloads(back), with_first(&payloads));
    });
}
