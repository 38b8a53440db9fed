//! The broker as somebody else's client sees it, on one core and across two.
//!
//! Two cores are two shards: Client Identifiers are spread over them, so with several Clients some
//! of what follows crosses cores.

#![forbid(unsafe_code)]

mod support;

use std::collections::HashMap;
use std::time::Duration;

use support::Broker;
use support::client::{Message, Options, VERSIONS, Version, Will};
use support::raw::Raw;

/// Runs each test on one core and on two.
macro_rules! on_one_and_two_cores {
    ($($name:ident)*) => {
        mod one_core {
            $(#[test] fn $name() { super::$name(&super::Broker::on_cores(1)); })*
        }
        mod two_cores {
            $(#[test] fn $name() { super::$name(&super::Broker::on_cores(2)); })*
        }
    };
}

on_one_and_two_cores! {
    every_qos_and_version_is_delivered_once_in_order
    qos_is_lowered_to_what_was_subscribed
    wildcards_match_levels
    unsubscribed_filter_delivers_no_more
    retained_message_greets_a_later_subscriber_until_it_is_cleared
    will_is_published_when_the_connection_is_lost
    will_is_dropped_by_disconnect
    offline_session_gets_its_queue_in_order
    clean_session_forgets
    shared_subscription_delivers_each_message_to_one_member
    second_connection_takes_the_session_over
    client_whose_session_is_taken_over_is_told
    many_pairs_over_all_shards_hear_only_their_own
}

fn message(topic_name: &str, payload: &str, qos: u8, retain: bool) -> Message {
    Message {
        topic_name: topic_name.into(),
        payload: payload.into(),
        qos,
        retain,
    }
}

/// [MQTT-4.3.1-1], [MQTT-4.3.2-1], [MQTT-4.3.3-1], [MQTT-4.6.0-5]
fn every_qos_and_version_is_delivered_once_in_order(broker: &Broker) {
    for from in VERSIONS {
        for to in VERSIONS {
            let mut subscriber = Options::new(to, "subscriber").connect(broker.port());
            let mut publisher = Options::new(from, "publisher").connect(broker.port());
            for qos in 0..=2 {
                let topic_name = format!("round/trip/{qos}");
                subscriber.subscribe(&topic_name, qos);
                for number in 0..20 {
                    publisher.publish(&topic_name, &number.to_string(), qos);
                }
                for number in 0..20 {
                    let expected = message(&topic_name, &number.to_string(), qos, false);
                    assert_eq!(subscriber.receive(), expected, "{from:?} to {to:?}");
                }
            }
            subscriber.receive_nothing();
            subscriber.disconnect();
            publisher.disconnect();
        }
    }
}

/// [MQTT-3.8.4-8]
fn qos_is_lowered_to_what_was_subscribed(broker: &Broker) {
    for version in VERSIONS {
        let mut subscriber = Options::new(version, "subscriber").connect(broker.port());
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        for (subscribed, published) in [(0, 2), (1, 2), (2, 1), (1, 0)] {
            subscriber.subscribe("lowered", subscribed);
            publisher.publish("lowered", "x", published);
            let qos = subscribed.min(published);
            assert_eq!(subscriber.receive(), message("lowered", "x", qos, false));
        }
        subscriber.disconnect();
        publisher.disconnect();
    }
}

/// [MQTT-4.7.1-1], [MQTT-4.7.1-2], [MQTT-4.7.2-1]
fn wildcards_match_levels(broker: &Broker) {
    for version in VERSIONS {
        let cases: [(&str, &[&str], &[&str]); 4] = [
            (
                "home/+/temperature",
                &["home/a/temperature", "home//temperature"],
                &["home/a/b"],
            ),
            (
                "home/#",
                &["home", "home/a", "home/a/b/c"],
                &["homes", "work/home"],
            ),
            ("+/+", &["a/b", "/b"], &["a", "a/b/c", "$internal/b"]),
            ("#", &["a", "a/b/c", "/"], &["$internal/a"]),
        ];
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        for (filter, matching, others) in cases {
            let mut subscriber = Options::new(version, "subscriber").connect(broker.port());
            subscriber.subscribe(filter, 1);
            for topic_name in others {
                publisher.publish(topic_name, "no", 1);
            }
            for topic_name in matching {
                publisher.publish(topic_name, "yes", 1);
                let received = subscriber.receive();
                assert_eq!(received, message(topic_name, "yes", 1, false), "{filter}");
            }
            subscriber.disconnect();
        }
        publisher.disconnect();
    }
}

/// [MQTT-3.10.4-1], [MQTT-3.10.4-2]
fn unsubscribed_filter_delivers_no_more(broker: &Broker) {
    for version in VERSIONS {
        let mut subscriber = Options::new(version, "subscriber").connect(broker.port());
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        subscriber.subscribe("news/#", 1);
        subscriber.subscribe("end", 1);
        publisher.publish("news/1", "first", 1);
        assert_eq!(subscriber.receive().payload, "first");
        subscriber.unsubscribe("news/#");
        publisher.publish("news/2", "second", 1);
        publisher.publish("end", "end", 1);
        assert_eq!(subscriber.receive().payload, "end");
        subscriber.disconnect();
        publisher.disconnect();
    }
}

/// [MQTT-3.3.1-5], [MQTT-3.3.1-6], [MQTT-3.3.1-9]
fn retained_message_greets_a_later_subscriber_until_it_is_cleared(broker: &Broker) {
    for version in VERSIONS {
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        let mut live = Options::new(version, "live").connect(broker.port());
        live.subscribe("state/#", 1);
        publisher.publish_with_retain("state/door", "shut", 1, true);
        publisher.publish_with_retain("state/door", "open", 1, true);
        assert_eq!(
            live.receive(),
            message("state/door", "shut", 1, false),
            "live, not retained"
        );
        assert_eq!(live.receive(), message("state/door", "open", 1, false));

        // Several, so that every shard's replica is asked.
        for name in ["late-1", "late-2", "late-3", "late-4"] {
            let mut late = Options::new(version, name).connect(broker.port());
            late.subscribe("state/+", 1);
            assert_eq!(
                late.receive(),
                message("state/door", "open", 1, true),
                "{name}"
            );
            late.receive_nothing();
            late.disconnect();
        }

        publisher.publish_with_retain("state/door", "", 1, true);
        assert_eq!(live.receive(), message("state/door", "", 1, false));
        for name in ["later-1", "later-2", "later-3"] {
            let mut late = Options::new(version, name).connect(broker.port());
            late.subscribe("state/+", 1);
            late.receive_nothing();
            late.disconnect();
        }
        live.disconnect();
        publisher.disconnect();
    }
}

fn will(retain: bool) -> Will {
    Will {
        topic_name: "obituaries",
        payload: "gone",
        qos: 1,
        retain,
    }
}

/// [MQTT-3.1.2-8]
fn will_is_published_when_the_connection_is_lost(broker: &Broker) {
    for version in VERSIONS {
        let mut watcher = Options::new(version, "watcher").connect(broker.port());
        watcher.subscribe("obituaries", 1);
        for name in ["mortal-1", "mortal-2", "mortal-3"] {
            let mortal = Options::new(version, name)
                .will(will(false))
                .connect(broker.port());
            mortal.abort();
            assert_eq!(watcher.receive(), message("obituaries", "gone", 1, false));
        }
        watcher.disconnect();
    }
}

/// [MQTT-3.1.2-10], [MQTT-3.14.4-3]
fn will_is_dropped_by_disconnect(broker: &Broker) {
    for version in VERSIONS {
        let mut watcher = Options::new(version, "watcher").connect(broker.port());
        watcher.subscribe("obituaries", 1);
        let immortal = Options::new(version, "immortal")
            .will(will(false))
            .connect(broker.port());
        immortal.disconnect();
        watcher.receive_nothing();
        watcher.disconnect();
    }
}

/// [MQTT-3.1.2-5], [MQTT-4.5.0-1]
fn offline_session_gets_its_queue_in_order(broker: &Broker) {
    for version in VERSIONS {
        let name = format!("sleeper-{version:?}");
        let sleeper = || {
            Options::new(version, &name)
                .persistent()
                .connect(broker.port())
        };
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        let mut client = sleeper();
        assert!(!client.session_present());
        client.subscribe("night/1", 1);
        client.subscribe("night/2", 2);
        client.disconnect();
        for number in 0..50 {
            let qos = 1 + number % 2;
            publisher.publish(&format!("night/{qos}"), &number.to_string(), qos);
        }
        let mut client = sleeper();
        assert!(client.session_present());
        for number in 0..50 {
            let qos = 1 + number % 2;
            let expected = message(&format!("night/{qos}"), &number.to_string(), qos, false);
            assert_eq!(client.receive(), expected, "{version:?}");
        }
        client.receive_nothing();
        client.disconnect();
        publisher.disconnect();
    }
}

/// [MQTT-3.1.2-4]
fn clean_session_forgets(broker: &Broker) {
    for version in VERSIONS {
        let mut publisher = Options::new(version, "publisher").connect(broker.port());
        let mut client = Options::new(version, "forgetful")
            .persistent()
            .connect(broker.port());
        client.subscribe("memory", 1);
        client.disconnect();
        publisher.publish("memory", "lost", 1);
        let mut client = Options::new(version, "forgetful").connect(broker.port());
        assert!(!client.session_present());
        publisher.publish("memory", "lost as well", 1);
        client.receive_nothing();
        client.disconnect();
        publisher.disconnect();
    }
}

/// [MQTT-4.8.2-4], [MQTT-4.8.2-5]
fn shared_subscription_delivers_each_message_to_one_member(broker: &Broker) {
    // Eight names fall on both shards but for one chance in 128.
    let mut members: Vec<_> = (0..8)
        .map(|index| Options::new(Version::V5, &format!("member-{index}")).connect(broker.port()))
        .collect();
    for member in &mut members {
        member.subscribe("$share/workers/jobs/+", 1);
    }
    let mut publisher = Options::new(Version::V5, "publisher").connect(broker.port());
    for number in 0..400 {
        publisher.publish(&format!("jobs/{}", number % 7), &number.to_string(), 1);
    }
    let mut times_seen = HashMap::new();
    for member in &mut members {
        let mut count = 0;
        while let Some(received) = member.receive_within(Duration::from_millis(200)) {
            *times_seen.entry(received.payload).or_insert(0) += 1;
            count += 1;
        }
        assert!(count > 0, "every member works");
    }
    assert_eq!(times_seen.len(), 400, "every job is done");
    assert!(
        times_seen.values().all(|&times| times == 1),
        "and done once: {times_seen:?}"
    );
}

/// [MQTT-3.1.4-3], [MQTT-3.1.4-4]
fn second_connection_takes_the_session_over(broker: &Broker) {
    for version in VERSIONS {
        for name in ["taken-1", "taken-2", "taken-3"] {
            let mut publisher = Options::new(version, "publisher").connect(broker.port());
            let mut first = Options::new(version, name)
                .persistent()
                .connect(broker.port());
            first.subscribe("heirloom", 1);
            let mut second = Options::new(version, name)
                .persistent()
                .connect(broker.port());
            assert!(second.session_present());
            first.wait_for_close();
            publisher.publish("heirloom", "yours", 1);
            assert_eq!(second.receive(), message("heirloom", "yours", 1, false));
            second.disconnect();
            publisher.disconnect();
        }
    }
}

/// [MQTT-3.1.4-3]. As bytes: rumqttc 0.25 waits for the property length that a DISCONNECT may omit.
fn client_whose_session_is_taken_over_is_told(broker: &Broker) {
    for index in 0..4 {
        let name = format!("told-{index}");
        let mut first = Raw::connect(broker.port(), 5, &name);
        let _second = Raw::connect(broker.port(), 5, &name);
        let (first_byte, body) = first.receive().expect("DISCONNECT before the end");
        assert_eq!(
            (first_byte, body.first()),
            (0xe0, Some(&0x8e)),
            "Session taken over"
        );
        assert_eq!(first.receive(), None);
    }
}

/// [MQTT-3.3.4-1]
fn many_pairs_over_all_shards_hear_only_their_own(broker: &Broker) {
    let version = |index: usize| VERSIONS[index % 2];
    let connect = |kind: &str, index: usize| {
        Options::new(version(index), &format!("{kind}-{index}")).connect(broker.port())
    };
    let mut subscribers: Vec<_> = (0..16).map(|index| connect("subscriber", index)).collect();
    let mut publishers: Vec<_> = (0..16).map(|index| connect("publisher", index)).collect();
    for (index, subscriber) in subscribers.iter_mut().enumerate() {
        subscriber.subscribe(&format!("pair/{index}"), 2);
    }
    for number in 0..10 {
        for (index, publisher) in publishers.iter_mut().enumerate() {
            publisher.publish(
                &format!("pair/{index}"),
                &number.to_string(),
                1 + number % 2,
            );
        }
    }
    for (index, subscriber) in subscribers.iter_mut().enumerate() {
        for number in 0..10 {
            let topic_name = format!("pair/{index}");
            let expected = message(&topic_name, &number.to_string(), 1 + number % 2, false);
            assert_eq!(subscriber.receive(), expected);
        }
        assert_eq!(subscriber.receive_within(Duration::from_millis(20)), None);
    }
}
