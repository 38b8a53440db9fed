//! What waits for a disk, and what a crash leaves of it.

use super::crossing::Crossing;
use super::*;
use crate::codec::RetainHandling;
use crate::journal::{Journal, Origins, WallClock};
use crate::key::ShardId;
use crate::message::{Message, MessageRef};
use crate::origin::Origin;
use crate::router::RetainedVersion;
use crate::shard::{Command, Effects, Envelope, Placement, Shard};
use crate::time::Instant;

/// [MQTT-4.3.3-8] A PUBREC says that the message is the Server's, so it waits until every subscriber's shard has it.
#[test]
fn a_repeated_qos2_publish_is_acknowledged_once_its_own_message_is_stored_though_a_later_one_was_before()
 {
    let mut crossing = Crossing::stored(3);
    for (shard, filter) in [(1, "slow"), (2, "quick")] {
        let subscriber = crossing.client_by(shard, lasting);
        crossing.bench.subscribe(subscriber, filter, options(Q2));
        crossing.write();
    }
    let publisher = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    let bench = &mut crossing.bench;
    bench.publish(publisher, "slow", "x", Q2, 1);
    bench.publish(publisher, "quick", "x", Q2, 2);
    bench.lose(publisher);
    let again = bench.open(lasting(&name));
    let all_but_slow = |bench: &mut Bench| {
        for _ in 0..4 {
            bench.world.turn_disk(0);
            bench.world.turn_disk(2);
            bench.settle();
        }
    };
    all_but_slow(bench);
    let heard = bench.hear(again);
    assert!(heard[0].starts_with("connack Success"), "{heard:?}");
    for (topic, id) in [("slow", 1), ("quick", 2)] {
        let repeated = Publish {
            duplicate: true,
            ..message(topic, "x", Q2, id)
        };
        bench.push(again, &Packet::Publish(repeated));
    }
    bench.settle();
    all_but_slow(bench);
    assert_eq!(
        bench.hear(again),
        [""; 0],
        "the disk of the slow one has nothing"
    );
    crossing.write();
    assert_eq!(crossing.bench.hear(again), ["pubrec #1", "pubrec #2"]);
}

/// [MQTT-4.4.0-1] forbids it to later versions, v3.1 Clients repeat a PUBLISH on the same connection. A PUBREC that
/// came behind the PUBCOMP would be one for the next message of its identifier.
#[test]
fn a_pubrel_is_answered_behind_the_answer_to_a_qos2_publish_that_was_sent_twice() {
    let mut crossing = Crossing::stored(2);
    let subscriber = crossing.client_by(1, lasting);
    crossing.bench.subscribe(subscriber, "t", options(Q2));
    crossing.write();
    let publisher = crossing.client(0);
    let bench = &mut crossing.bench;
    bench.publish(publisher, "nobody", "x", Q2, 1);
    assert_eq!(bench.hear(publisher), ["pubrec #1"]);
    bench.publish(publisher, "t", "x", Q2, 2);
    let repeated = Publish {
        duplicate: true,
        ..message("nobody", "x", Q2, 1)
    };
    bench.push(publisher, &Packet::Publish(repeated));
    bench.push(publisher, &pubrel(1));
    bench.settle();
    assert_eq!(bench.hear(publisher), [""; 0], "the disk has nothing yet");
    crossing.write();
    let heard = crossing.bench.hear(publisher);
    assert_eq!(heard, ["pubrec #2", "pubrec #1", "pubcomp #1"]);
}

/// The name of a Client of a shard that has subscribed, as its disk has it, and has lost its connection.
fn subscribed_and_gone(crossing: &mut Crossing, shard: usize, filter: &str) -> String {
    let link = crossing.client_by(shard, lasting);
    let name = crossing.last_name();
    crossing.bench.subscribe(link, filter, options(Q1));
    crossing.write();
    crossing.bench.lose(link);
    name
}

/// [MQTT-3.3.1-1] What never left is not sent again.
#[test]
fn what_waits_for_a_session_is_not_begun_with_before_its_connack_may_leave() {
    let mut crossing = Crossing::stored(1);
    let name = subscribed_and_gone(&mut crossing, 0, "t");
    let publisher = crossing.client(0);
    crossing
        .bench
        .publish(publisher, "t", "while it is away", Q1, 1);
    crossing.write();
    let first = crossing.bench.open(lasting(&name));
    crossing.bench.settle();
    crossing
        .bench
        .publish(publisher, "t", "while it connects", Q1, 2);
    assert_eq!(crossing.bench.hear(first), [""; 0], "the disk has nothing");
    crossing.bench.lose(first);
    let second = crossing.bench.open(lasting(&name));
    crossing.write();
    let heard = crossing.bench.hear(second);
    let expected = [
        "connack Success present",
        "publish q1 #1 t=while it is away",
        "publish q1 #2 t=while it connects",
    ];
    assert_eq!(heard, expected);
}

/// A lasting Session whose Will is due at once.
fn with_will(client_identifier: &str) -> Connect<'_> {
    Connect {
        will: will("w", 0),
        ..lasting(client_identifier)
    }
}

/// [MQTT-3.1.2-8] What a CONNACK has promised.
#[test]
fn a_will_that_only_the_shard_of_its_client_has_stored_is_published_again_after_a_crash() {
    let mut crossing = Crossing::stored(2);
    let subscriber = crossing.client_by(1, lasting);
    let name = crossing.last_name();
    crossing.bench.subscribe(subscriber, "w", options(Q1));
    crossing.write();
    crossing.bench.lose(subscriber);
    let client = crossing.client_by(0, with_will);
    let its_name = crossing.last_name();
    crossing.bench.lose(client);
    // It comes back, and says that it has no Will any more.
    let again = crossing.bench.open(lasting(&its_name));
    crossing.write_of(0);
    let heard = crossing.bench.hear(again);
    assert_eq!(heard, ["connack Success present"]);
    crossing.crash();
    let (again, heard) = crossing.bench.connect_and_hear(lasting(&name));
    assert_eq!(heard, [""; 0]);
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert_eq!(heard, ["connack Success present", "publish q1 #1 w=gone"]);
    // Now that it has come everywhere, it is over.
    crossing.crash();
    crossing.crash();
    let again = crossing.bench.open(lasting(&name));
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert_eq!(
        heard,
        ["connack Success present", "publish q1 #1 w=gone dup"]
    );
}

/// A topic of which shard 1 writes down the retained message.
fn topic_kept_by_shard_1(shards: usize) -> String {
    let placement = Placement::new(shards, 7);
    let mut topics = (0..).map(|number| format!("w{number}"));
    let keeper = |topic: &String| placement.shard_of_bytes(topic.as_bytes());
    topics.find(|it| keeper(it) == ShardId(1)).unwrap()
}

fn retained_will(topic_name: &str, delay_interval_s: u32) -> Option<Will<'_>> {
    will(topic_name, delay_interval_s).map(|will| Will {
        retain: true,
        ..will
    })
}

/// Who may no longer write to a topic has nothing retained there, so it counts who that was.
#[test]
fn a_will_that_is_published_again_is_retained_as_that_of_its_client_though_the_session_is_over() {
    let topic = topic_kept_by_shard_1(2);
    let mut crossing = Crossing::stored(2);
    let name = crossing.name_of(0);
    let client = crossing.bench.open(Connect {
        will: retained_will(&topic, 0),
        ..lasting(&name)
    });
    crossing.write();
    crossing.bench.lose(client);
    // Clean Start: its Session is over, too.
    crossing.bench.open(v5(&name));
    crossing.write_of(0);
    crossing.crash();
    let retained = crossing.bench.world.shard(0).retained_messages();
    let sources = retained.iter().map(|(_, message)| message.source());
    let sources: Vec<_> = sources
        .map(|source| source.map(|it| it.client_identifier.to_string()))
        .collect();
    assert_eq!(sources, [Some(name)]);
}

#[test]
fn a_will_that_is_published_again_does_not_replace_what_was_retained_after_it() {
    let topic = topic_kept_by_shard_1(3);
    let mut crossing = Crossing::stored(3);
    // Its disk does nothing: the Will does not come everywhere.
    let subscriber = crossing.client_by(2, lasting);
    crossing.bench.subscribe(subscriber, "#", options(Q1));
    crossing.write();
    let name = crossing.name_of(0);
    let client = crossing.bench.open(Connect {
        will: retained_will(&topic, 0),
        ..lasting(&name)
    });
    let publisher = crossing.client(1);
    crossing.bench.lose(client);
    let later = Publish {
        retain: true,
        ..message(&topic, "later", Q1, 1)
    };
    crossing.bench.send(publisher, &Packet::Publish(later));
    for _ in 0..2 {
        crossing.write_of(0);
        crossing.write_of(1);
    }
    crossing.crash();
    let reader = crossing.client(0);
    let heard = crossing.bench.subscribe(reader, &topic, options(Q0));
    let retained = format!("publish q0 {topic}=later retain");
    assert_eq!(heard, ["suback [Success]", &retained]);
}

/// [MQTT-3.2.2-2] A Session that a CONNACK said is not there must not come back.
#[test]
fn a_connack_waits_for_the_end_of_a_session_that_had_ended_before() {
    let mut crossing = Crossing::stored(1);
    let brief = |client_identifier: &'static str| {
        let mut connect = lasting(client_identifier);
        connect.properties.session_expiry_interval = Some(1);
        connect
    };
    let first = crossing.bench.open(brief("a"));
    crossing.write();
    crossing.bench.lose(first);
    crossing.write();
    crossing.bench.pass(2.0);
    let heard = crossing.bench.connect_and_hear(v5("b")).1;
    assert_eq!(heard, ["connack Success"], "it has nothing to wait for");
    let (again, heard) = crossing.bench.connect_and_hear(v5("a"));
    assert_eq!(heard, [""; 0], "the disk has nothing of its end");
    crossing.write();
    assert_eq!(crossing.bench.hear(again), ["connack Success"]);
    let heard = crossing.bench.connect_and_hear(v5("a")).1;
    assert_eq!(heard, ["connack Success"]);
}

/// [MQTT-3.1.2-8] [MQTT-3.1.3-9] A shard that is late must not put off what was due.
#[test]
fn a_session_and_a_will_whose_time_is_over_are_over_when_their_client_comes_before_the_timer() {
    let mut shard = Shard::new(ShardId(0), 1, Limits::default(), 7);
    let mut effects = Effects::default();
    let mut connect = |connect: Connect<'_>, now: Instant| {
        let mut bytes = Vec::new();
        codec::encode(&Packet::Connect(connect), connect.version, &mut bytes);
        let key = shard.handle_accept(Origin::default(), now).unwrap();
        let _ = shard.handle_bytes(key, &bytes, now, &mut effects);
        shard.handle_closed(key, now, &mut effects);
        (shard.counters().sessions_expired, shard.census().retained)
    };
    let at = |seconds| Instant::ZERO.add_seconds(seconds);
    let mut first = lasting("a");
    first.will = retained_will("w", 2);
    first.properties.session_expiry_interval = Some(4);
    assert_eq!(connect(first, at(10)), (0, 0));
    assert_eq!(connect(first, at(11)), (0, 0), "nothing was due");
    let mut second = first;
    second.will = None;
    assert_eq!(connect(second, at(13)), (0, 1), "the Will was");
    assert_eq!(connect(second, at(17)), (1, 1), "the Session was over");
}

/// [MQTT-3.8.4-1] What a subscription asked for does not end with the process that was answering it.
#[test]
fn retained_messages_that_a_crash_kept_from_a_new_subscription_come_when_its_client_does() {
    let mut crossing = Crossing::stored(1);
    retain_two(&mut crossing);
    let subscriber = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    let filters = [("#", options(Q1))];
    let subscribe = Subscribe::new(identifier(9), &filters);
    let bench = &mut crossing.bench;
    bench.send(subscriber, &Packet::Subscribe(subscribe));
    // The subscription is stored, and nothing that follows.
    bench.world.turn_disk(0);
    let heard = bench.hear(subscriber);
    assert!(heard[0].starts_with("suback"), "{heard:?}");
    let retained = ["publish q1 #1 a=x retain", "publish q1 #2 b=x retain"];
    assert_eq!(heard[1..], retained);
    crossing.crash();
    let again = crossing.bench.open(lasting(&name));
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert_eq!(heard[0], "connack Success present");
    assert_eq!(heard[1..], retained);
    // Now they are stored.
    for id in [1, 2] {
        crossing.bench.send(again, &puback(id));
    }
    crossing.write();
    crossing.crash();
    let again = crossing.bench.open(lasting(&name));
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert_eq!(heard, ["connack Success present"]);
}

fn retain_two(crossing: &mut Crossing) {
    let publisher = crossing.client(0);
    for (id, topic) in [(1, "a"), (2, "b")] {
        let retained = Publish {
            retain: true,
            ..message(topic, "x", Q1, id)
        };
        crossing.bench.send(publisher, &Packet::Publish(retained));
    }
}

/// Asks for everything, as if there were no Subscription yet.
fn subscribe_if_new(crossing: &mut Crossing, link: Link) {
    let mut options = options(Q1);
    options.retain_handling = RetainHandling::SendIfNew;
    let filters = [("#", options)];
    let subscribe = Subscribe::new(identifier(9), &filters);
    crossing.bench.send(link, &Packet::Subscribe(subscribe));
}

/// [MQTT-3.3.1-10] That they are not sent once more does not take back what an earlier SUBSCRIBE was promised.
#[test]
fn retained_messages_that_are_on_their_way_survive_a_crash_though_their_client_subscribes_again() {
    let mut crossing = Crossing::stored(1);
    retain_two(&mut crossing);
    let subscriber = crossing.client_by(0, |name| {
        let mut connect = lasting(name);
        connect.properties.receive_maximum = window(1);
        connect
    });
    let name = crossing.last_name();
    subscribe_if_new(&mut crossing, subscriber);
    crossing.write();
    let heard = crossing.bench.hear(subscriber);
    assert_eq!(heard, ["suback [GrantedQoS1]", "publish q1 #1 a=x retain"]);
    subscribe_if_new(&mut crossing, subscriber);
    crossing.write();
    assert_eq!(crossing.bench.hear(subscriber), ["suback [GrantedQoS1]"]);
    crossing.crash();
    let again = crossing.bench.open(lasting(&name));
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert!(heard.iter().any(|it| it.contains("b=x")), "{heard:?}");
}

/// [MQTT-3.3.1-10] To its Client a Subscription without SUBACK is none.
#[test]
fn a_subscription_whose_suback_never_left_is_new_to_a_client_that_comes_back() {
    let mut crossing = Crossing::stored(1);
    retain_two(&mut crossing);
    let subscriber = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    subscribe_if_new(&mut crossing, subscriber);
    let heard = crossing.bench.hear(subscriber);
    assert!(heard.is_empty(), "no disk has it: {heard:?}");
    crossing.bench.lose(subscriber);
    let again = crossing.bench.open(lasting(&name));
    subscribe_if_new(&mut crossing, again);
    crossing.write();
    let heard = crossing.bench.hear(again);
    let retained = ["publish q1 #1 a=x retain", "publish q1 #2 b=x retain"];
    assert_eq!(heard[0], "connack Success present");
    assert_eq!(heard[2..], retained, "{heard:?}");
    subscribe_if_new(&mut crossing, again);
    crossing.write();
    let heard = crossing.bench.hear(again);
    assert_eq!(heard.len(), 1, "now it has been answered: {heard:?}");
}

/// A stored Client asks for `filter` and takes it back before any disk has heard of it.
fn subscribe_and_unsubscribe(crossing: &mut Crossing, link: Link, filter: &str) {
    let filters = [(filter, options(Q1))];
    let subscribe = Subscribe::new(identifier(1), &filters);
    crossing.bench.push(link, &Packet::Subscribe(subscribe));
    let filters = [filter];
    let unsubscribe = Unsubscribe::new(identifier(2), &filters);
    crossing.bench.push(link, &Packet::Unsubscribe(unsubscribe));
    crossing.bench.settle();
}

/// [MQTT-3.10.4-2]
#[test]
fn a_subscription_that_is_gone_before_its_suback_leaves_is_sent_nothing() {
    let mut crossing = Crossing::stored(1);
    let publisher = crossing.client(0);
    crossing.bench.retain(publisher, "kept", "x");
    let client = crossing.client_by(0, lasting);
    let other = crossing.client_by(0, lasting);
    crossing.write();
    subscribe_and_unsubscribe(&mut crossing, client, "kept");
    crossing.write();
    let answers = ["suback [GrantedQoS1]", "unsuback [Success]"];
    assert_eq!(crossing.bench.hear(client), answers);
    // A filter that another Client subscribes to takes its place.
    subscribe_and_unsubscribe(&mut crossing, client, "x");
    crossing.bench.subscribe(other, "kept", options(Q1));
    crossing.write();
    assert_eq!(crossing.bench.hear(client), answers);
    let heard = crossing.bench.hear(other);
    assert_eq!(heard, ["suback [GrantedQoS1]", "publish q0 kept=x retain"]);
}

/// More than a frame of messages that are owed twice each: each place is written down with its message.
#[test]
fn messages_that_two_groups_hand_on_together_are_there_after_a_restart() {
    let filters = ["$share/one/t", "$share/two/t"];
    let mut crossing = Crossing::stored(1);
    let member = |crossing: &mut Crossing| {
        let link = crossing.client_by(0, lasting);
        for filter in filters {
            crossing.bench.subscribe(link, filter, options(Q1));
        }
        crossing.write();
        crossing.bench.lose(link);
        crossing.write();
        crossing.last_name()
    };
    let leaving = member(&mut crossing);
    let publisher = crossing.client(0);
    let padding = "x".repeat(10_000);
    for id in 1..=100 {
        let payload = format!("{id}{padding}");
        crossing.bench.publish(publisher, "t", &payload, Q1, id);
        crossing.write();
    }
    member(&mut crossing);
    let connect = Connect {
        clean_start: true,
        ..v5(&leaving)
    };
    crossing.bench.open(connect);
    crossing.write();
    while crossing.bench.world.shard(0).census().left > 0 {
        crossing.bench.pass(0.001);
        crossing.write();
    }
    let queued = |crossing: &Crossing| crossing.bench.world.shard(0).census().queued;
    assert_eq!(queued(&crossing), 200);
    crossing.crash();
    assert_eq!(queued(&crossing), 200);
}

/// [MQTT-2.2.1-4] Places that were given up without being sent say nothing of what is in flight.
#[test]
fn an_identifier_in_flight_is_not_used_again_though_as_many_messages_as_there_are_have_expired_meanwhile()
 {
    let mut crossing = Crossing::stored(1);
    let subscriber = crossing.client_by(0, lasting);
    let name = crossing.last_name();
    crossing.bench.subscribe(subscriber, "t", options(Q1));
    crossing.write();
    crossing.bench.hear(subscriber);
    let publisher = crossing.client_by(0, v5);
    let publish = |crossing: &mut Crossing, count: u16, seconds: u32| {
        for id in 1..=count {
            let mut publish = message("t", "x", Q1, id);
            publish.properties.message_expiry_interval_s = Some(seconds);
            crossing.bench.push(publisher, &Packet::Publish(publish));
        }
        crossing.bench.settle();
        crossing.write();
        crossing.bench.hear(publisher);
    };
    publish(&mut crossing, 20, 1_000_000);
    let in_flight = crossing.bench.hear(subscriber);
    assert_eq!(in_flight.len(), 20);
    crossing.bench.lose(subscriber);
    for _ in 0..70 {
        publish(&mut crossing, 1000, 1);
        crossing.bench.pass(2.0);
    }
    publish(&mut crossing, 10, 1_000_000);
    let again = crossing.bench.open(lasting(&name));
    crossing.write();
    assert_eq!(crossing.bench.hear(again).len(), 1 + 20);
    let mut new = Vec::new();
    for id in 1..=20 {
        crossing.bench.send(again, &puback(id));
        crossing.write();
        new.extend(crossing.bench.hear(again));
        let is_new = |it: &String| it.starts_with("publish") && !it.ends_with("dup");
        assert!(new.iter().all(is_new), "{new:?}");
        assert!(id == 20 || new.is_empty(), "{new:?} behind {id}");
    }
    assert_eq!(new.len(), 10);
    assert_eq!(crossing.bench.world.shard(0).census().inflight, 10);
}

/// [MQTT-3.1.2-9] What no Topic Name can be is refused, also if only the mount point makes it that.
#[test]
fn a_will_that_a_mount_point_makes_too_deep_is_refused() {
    let mut bench = Bench::new(1, &Limits::default());
    let mut settings = Settings::permissive(Limits::default());
    settings.listeners[0].mount_point = Some("tenant/".into());
    bench.world.command(0, Command::Configure(settings.into()));
    for (levels, answer) in [(200, "connack Success"), (201, "connack TopicNameInvalid")] {
        let topic_name = vec!["x"; levels].join("/");
        let mut connect = lasting("client");
        connect.will = will(&topic_name, 0);
        let link = bench.open(connect);
        let heard = bench.hear(link);
        assert!(heard[0].starts_with(answer), "{levels}: {heard:?}");
    }
}

/// A write that takes too long is no error, and what waits for it grows.
#[test]
fn a_disk_that_hangs_counts_as_one_that_takes_nothing() {
    let mut crossing = Crossing::stored(2);
    let subscriber = crossing.client_by(1, lasting);
    crossing.bench.subscribe(subscriber, "t", options(Q1));
    crossing.write();
    let publisher = crossing.client_by(0, v5);
    crossing.bench.publish(publisher, "t", "x", Q1, 1);
    let bench = &mut crossing.bench;
    bench.pass(5.0);
    bench.settle();
    bench.publish(publisher, "t", "y", Q1, 2);
    assert_eq!(bench.hear(publisher), [""; 0], "it waits for the disk");
    bench.pass(5.0);
    bench.settle();
    assert_eq!(bench.hear(publisher), [""; 0], "behind the first one");
    assert_eq!(bench.world.sum(|counters| counters.store_stalls), 1);
    crossing.write();
    let heard = crossing.bench.hear(publisher);
    assert_eq!(heard, ["puback #1", "puback #2 QuotaExceeded"]);
    crossing.bench.publish(publisher, "t", "z", Q1, 3);
    crossing.write();
    assert_eq!(crossing.bench.hear(publisher), ["puback #3"]);
}

/// What waits for disks is as much as is under way, not as much as there ever was.
#[test]
fn what_is_known_of_acknowledgements_that_wait_goes_with_them() {
    let mut crossing = Crossing::stored(3);
    let hung = crossing.client_by(2, lasting);
    crossing.bench.subscribe(hung, "hung", options(Q1));
    let stored = crossing.client_by(1, lasting);
    crossing.bench.subscribe(stored, "stored", options(Q2));
    crossing.write();
    // Nothing that shard 0 says has to be stored there, and one message waits for shard 2 all along.
    let (publisher, other) = (crossing.client(0), crossing.client(0));
    crossing.bench.publish(other, "hung", "x", Q1, 1);
    for id in 1..=2000 {
        crossing.bench.publish(publisher, "stored", "x", Q1, id);
        crossing.write_of(1);
        assert_eq!(crossing.bench.hear(publisher), [format!("puback #{id}")]);
        crossing.bench.send(stored, &puback(id));
        crossing.bench.hear(stored);
    }
    let unsettled = |crossing: &Crossing| crossing.bench.world.shard(0).census().unsettled;
    assert!(unsettled(&crossing) < 1100, "{}", unsettled(&crossing));
    crossing.write();
    assert_eq!(unsettled(&crossing), 0);
}

/// A frame is whole or absent after a crash, and has to fit into one.
#[test]
fn what_many_envelopes_have_stored_is_in_many_frames() {
    let mut shard = Shard::new(ShardId(1), 2, Limits::default(), 7);
    shard.store_in(
        Journal::new(1, 2, Origins::default(), WallClock::default()),
        &[],
    );
    let placement = Placement::new(2, 7);
    let topic = (0..).map(|number| format!("t/{number}"));
    let topic = topic
        .into_iter()
        .find(|it| placement.shard_of_bytes(it.as_bytes()) == ShardId(1));
    let message = MessageRef {
        topic_name: topic.as_deref().unwrap().as_bytes(),
        properties: b"",
        payload: &[7; 100_000],
        qos: Q0,
        retain: true,
        expires_at: None,
    };
    for clock in 1..=30 {
        let envelope = Envelope::Publish {
            message: Message::new(message).into(),
            retained: Some(RetainedVersion {
                clock,
                shard: ShardId(0),
            }),
            deliver: false,
        };
        shard.handle_envelope(
            ShardId(0),
            envelope,
            usize::MAX,
            Instant::ZERO,
            &mut Effects::default(),
        );
    }
    assert_eq!(shard.take_journal(&mut Vec::new()), Some(10));
}

/// [MQTT-3.8.4-3] Nothing was promised, and what the Client asks for again is what it gets.
#[test]
fn subscribe_that_a_crash_cuts_short_is_in_force_as_far_as_it_came_and_may_be_repeated() {
    for shards in [1, 3] {
        let mut crossing = Crossing::stored(shards);
        let link = crossing.client_by(0, lasting);
        let name = crossing.last_name();
        let topics: Vec<String> = (0..300).map(|number| format!("t/{number}")).collect();
        let filters: Vec<_> = topics.iter().map(|it| (&**it, options(Q1))).collect();
        let subscribe = Packet::Subscribe(Subscribe::new(identifier(9), &filters));
        let subscriptions =
            |crossing: &Crossing| crossing.bench.world.shard(0).census().subscriptions;
        // Time stands still, so there is one turn for it.
        crossing.bench.send(link, &subscribe);
        let count = subscriptions(&crossing);
        assert!((1..300).contains(&count), "{count} in one turn");
        crossing.write();
        assert_eq!(crossing.bench.hear(link), [""; 0]);
        crossing.crash();
        assert_eq!(subscriptions(&crossing), count);
        let link = crossing.bench.open(lasting(&name));
        crossing.write();
        assert_eq!(crossing.bench.hear(link), ["connack Success present"]);
        crossing.bench.send(link, &subscribe);
        for _ in 0..10 {
            crossing.bench.pass(0.001);
        }
        assert_eq!(crossing.bench.hear(link), [""; 0], "the disk has not all");
        crossing.write();
        let suback = format!("suback {:?}", [ReasonCode::GrantedQoS1; 300]);
        assert_eq!(crossing.bench.hear(link), [suback]);
        assert_eq!(subscriptions(&crossing), 300);
    }
}

/// A member of a group on shard 0 that has left five messages, all of which the disk has.
fn five_left(crossing: &mut Crossing) -> String {
    let name = subscribed_and_gone(crossing, 0, "$share/g/t");
    let publisher = crossing.client(0);
    for id in 1..=5 {
        crossing.bench.publish(publisher, "t", "x", Q1, id);
    }
    crossing.bench.lose(publisher);
    crossing.write();
    sync(crossing, &[0, 1, 2]);
    name
}

/// A second passes, after which the disks of some shards sync what they were given.
fn sync(crossing: &mut Crossing, shards: &[usize]) {
    crossing.bench.pass(1.0);
    for &shard in shards {
        crossing.write_of(shard);
    }
}

/// Another member, on shard 1, and something on shard 2 of which its disk has nothing yet.
fn others(crossing: &mut Crossing) {
    subscribed_and_gone(crossing, 1, "$share/g/t");
    crossing.write();
    sync(crossing, &[0, 1, 2]);
    crossing.client_by(2, lasting);
}

/// Ends the Session of this name: it hands on what it has left.
fn end(crossing: &mut Crossing, name: &str) {
    crossing.bench.open(v5(name));
}

fn queued(crossing: &Crossing) -> usize {
    let world = &crossing.bench.world;
    (0..world.shard_count())
        .map(|shard| world.shard(shard).census().queued)
        .sum()
}

#[test]
fn with_an_interval_what_was_handed_on_is_kept_until_all_other_shards_have_synced_it() {
    for seed in 0..10 {
        let mut crossing = Crossing::synced_later(3);
        let [one, two] = [(); 2].map(|()| five_left(&mut crossing));
        others(&mut crossing);
        end(&mut crossing, &one);
        crossing.write();
        if seed % 2 == 0 {
            // Shard 1 has written it, and not synced; shard 2 has had nothing to sync.
            sync(&mut crossing, &[2, 0]);
            crossing.lose_power(seed);
            assert_eq!(queued(&crossing), 10, "seed {seed}");
            continue;
        }
        sync(&mut crossing, &[1]);
        // While shard 2 is waited for, the next hands on to shard 1: that is another matter.
        end(&mut crossing, &two);
        crossing.write_of(1);
        crossing.write_of(0);
        crossing.write_of(2);
        sync(&mut crossing, &[0]);
        crossing.lose_power(seed);
        assert_eq!(queued(&crossing), 10, "seed {seed}");
    }
}

/// Until the end of what was handed on is on the disk of the one shard, the other one has to know where it is from.
#[test]
fn with_an_interval_a_snapshot_replaces_what_says_of_messages_where_they_are_from_once_that_is_synced()
 {
    let topic = topic_kept_by_shard_1(3);
    for (seed, shard_2_is_late) in (0..10).flat_map(|seed| [(seed, false), (seed, true)]) {
        let mut crossing = Crossing::synced_later(3);
        let publisher = crossing.client_by(1, v311);
        let name = five_left(&mut crossing);
        others(&mut crossing);
        if !shard_2_is_late {
            sync(&mut crossing, &[2]);
        }
        end(&mut crossing, &name);
        crossing.write();
        // Shard 0 has written, and not synced, that it is over; unless it has to wait for shard 2.
        sync(&mut crossing, &[0, 1]);
        crossing.write_of(0);
        let payload = "x".repeat(100);
        for id in 1..=100 {
            let retained = Publish {
                retain: true,
                ..message(&topic, &payload, Q1, id)
            };
            crossing.bench.send(publisher, &Packet::Publish(retained));
            sync(&mut crossing, &[1]);
        }
        if shard_2_is_late {
            // Then it is over on shard 0, which has not written that.
            sync(&mut crossing, &[2, 1]);
        }
        crossing.lose_power(seed);
        assert_eq!(queued(&crossing), 5, "seed {seed}, {shard_2_is_late}");
    }
}
