//! What a publish and a subscribe cost in messages between shards, for more shards than any machine of
//! a test has.
//!
//! `cargo test --lib what_crosses -- --nocapture` prints the table that ARCHITECTURE.md shows.

use super::*;
use crate::sim::{Disk, Random, Traffic};
use crate::time::Instant;
use crate::wal::StoreOptions;

const SHARD_COUNTS: [usize; 3] = [8, 16, 64];

/// Clients whose shard is known.
struct Crossing {
    bench: Bench,
    names: usize,
}

impl Crossing {
    fn new(shards: usize) -> Self {
        let mut crossing = Self {
            bench: Bench::new(shards, &Limits::default()),
            names: 0,
        };
        crossing.bench.settle();
        crossing
    }

    /// A broker that stores.
    fn stored(shards: usize) -> Self {
        let mut crossing = Self::new(shards);
        let disk = Disk::new(Random::new(7));
        let options = StoreOptions::new("unused".into());
        let store = disk.open(&options, shards, 7).unwrap();
        let settings = Settings::permissive(Limits::default());
        crossing.bench.world = World::with_store(store, settings, 64, Instant::ZERO);
        crossing.bench.settle();
        crossing
    }

    /// Disks take what shards have for them, until all is at rest.
    fn write(&mut self) {
        loop {
            let before = self.bench.world.moved();
            for shard in 0..self.shards() {
                self.bench.world.turn_disk(shard);
            }
            if self.bench.world.moved() == before {
                return;
            }
            self.bench.settle();
        }
    }

    fn shards(&self) -> usize {
        self.bench.world.shard_count()
    }

    /// A Client of `shard`: whose name belongs there.
    fn client(&mut self, shard: usize) -> Link {
        self.client_by(shard, v311)
    }

    fn client_by(&mut self, shard: usize, connect: fn(&str) -> Connect<'_>) -> Link {
        loop {
            self.names += 1;
            let name = format!("client {}", self.names);
            let link = self.bench.open(connect(&name));
            self.write();
            let heard = self.bench.hear(link);
            assert!(heard[0].starts_with("connack Success"), "{heard:?}");
            if self.bench.world.shard_of(link.wire) == Some(shard) {
                return link;
            }
            self.bench.disconnect(link, ReasonCode::Success);
        }
    }

    fn subscriber(&mut self, shard: usize, filter: &str) -> Link {
        let link = self.client(shard);
        self.bench.subscribe(link, filter, options(Q0));
        link
    }

    /// What `act` makes cross, when all was at rest before and is again.
    fn traffic(&mut self, act: impl FnOnce(&mut Bench)) -> Traffic {
        self.bench.settle();
        self.bench.world.take_traffic();
        act(&mut self.bench);
        self.bench.settle();
        self.write();
        let mut traffic = self.bench.world.take_traffic();
        traffic.messages.resize(self.shards(), 0);
        traffic
    }

    fn publish(&mut self, publisher: Link, qos: QoS) -> Traffic {
        self.traffic(|bench| bench.publish(publisher, "a/b", "x", qos, 1))
    }

    /// Traffic, and how many SUBACKs waited for other shards.
    fn subscribe(&mut self, link: Link, filter: &str) -> (Traffic, usize) {
        let shard = self.bench.world.shard_of(link.wire).expect("connected");
        let mut barriers = 0;
        let traffic = self.traffic(|bench| {
            let filters = [(filter, options(Q0))];
            bench.push(
                link,
                &Packet::Subscribe(Subscribe::new(identifier(9), &filters)),
            );
            bench.world.turn(shard, &mut crate::sim::Pace::Full);
            barriers = bench.world.shard(shard).census().barriers;
            let heard = bench.hear(link);
            assert_eq!(heard, ["suback [Success]"]);
        });
        (traffic, barriers)
    }
}

/// One envelope to each shard of `to`, none to others, and as many wakes.
fn messages(shards: usize, to: &[usize]) -> Traffic {
    let mut messages = vec![0; shards];
    for &shard in to {
        messages[shard] = 1;
    }
    Traffic {
        messages,
        message_envelopes: to.len() as u64,
        wakes: to.len() as u64,
        ..Traffic::default()
    }
}

#[test]
fn a_publish_that_nobody_elsewhere_wants_crosses_nowhere() {
    for shards in SHARD_COUNTS {
        let mut crossing = Crossing::new(shards);
        // Filters of every shard, none of which matches, and one of the publisher's own shard, which does.
        for shard in 0..shards {
            crossing.subscriber(shard, &format!("other/{shard}/#"));
            crossing.subscriber(shard, "a/c");
        }
        crossing.subscriber(3, "a/+");
        let publisher = crossing.client(3);
        for qos in [Q0, Q1, Q2] {
            assert_eq!(
                crossing.publish(publisher, qos),
                messages(shards, &[]),
                "{shards} shards, {qos:?}"
            );
        }
    }
}

#[test]
fn a_publish_costs_one_envelope_for_each_shard_that_wants_it_and_none_for_others() {
    for shards in SHARD_COUNTS {
        let patterns = [vec![5], vec![0, 5], (1..shards).step_by(3).collect()];
        for interested in patterns {
            let mut crossing = Crossing::new(shards);
            for &shard in &interested {
                // Several filters and subscribers there make it no more.
                crossing.subscriber(shard, "a/b");
                crossing.subscriber(shard, "a/#");
                crossing.subscriber(shard, "a/#");
            }
            crossing.subscriber(2, "unrelated");
            let publisher = crossing.client(2);
            let interested: Vec<usize> = interested.into_iter().filter(|&it| it != 2).collect();
            for qos in [Q0, Q1, Q2] {
                assert_eq!(
                    crossing.publish(publisher, qos),
                    messages(shards, &interested),
                    "{shards} shards, {qos:?}, {interested:?}"
                );
            }
        }
    }
}

#[test]
fn a_publish_that_all_shards_want_and_a_retained_one_cost_an_envelope_for_every_other_shard() {
    for shards in SHARD_COUNTS {
        let others: Vec<usize> = (1..shards).collect();
        let mut crossing = Crossing::new(shards);
        let publisher = crossing.client(0);
        let retained = crossing.traffic(|bench| bench.retain(publisher, "kept", "x"));
        assert_eq!(retained, messages(shards, &others), "{shards} shards");
        for shard in 0..shards {
            crossing.subscriber(shard, "a/+");
        }
        let traffic = crossing.publish(publisher, Q0);
        assert_eq!(traffic, messages(shards, &others), "{shards} shards");
        // Both at once are one envelope still.
        let both = crossing.traffic(|bench| bench.retain(publisher, "a/b", "x"));
        assert_eq!(both, messages(shards, &others), "{shards} shards");
    }
}

#[test]
fn a_publish_to_a_shared_subscription_costs_one_envelope_however_many_shards_have_members() {
    for shards in SHARD_COUNTS {
        let mut crossing = Crossing::new(shards);
        for shard in 1..shards {
            crossing.subscriber(shard, "$share/workers/a/b");
        }
        let publisher = crossing.client(0);
        for _ in 0..20 {
            let traffic = crossing.publish(publisher, Q0);
            assert_eq!(traffic.messages.iter().sum::<u64>(), 1, "{traffic:?}");
            assert_eq!(traffic.wakes, 1);
        }
    }
}

#[test]
fn what_one_turn_sends_to_a_shard_wakes_it_once_and_shares_envelopes() {
    for shards in SHARD_COUNTS {
        // Those to one topic lie together as one, beside the first, whose topic was not known.
        for (topics, envelopes) in [(["a/b"; 2], 1), (["a/b", "a/c"], 2)] {
            let mut crossing = Crossing::new(shards);
            crossing.subscriber(5, "a/+");
            let publisher = crossing.client(0);
            let traffic = crossing.traffic(|bench| {
                for topic in topics.repeat(25) {
                    bench.push(publisher, &Packet::Publish(message(topic, "x", Q0, 0)));
                }
            });
            assert_eq!(traffic.messages[5], 50);
            assert_eq!(traffic.message_envelopes, envelopes);
            assert_eq!(traffic.wakes, 1);
        }
    }
}

#[test]
fn what_one_turn_sends_and_wants_to_be_stored_shares_envelopes_and_so_do_the_answers() {
    let connects: [fn(&str) -> Connect<'_>; 2] = [v311, lasting];
    for (shards, connect) in SHARD_COUNTS.into_iter().zip(connects.into_iter().cycle()) {
        for qos in [Q1, Q2] {
            let mut crossing = Crossing::stored(shards);
            let subscriber = crossing.client_by(5, connect);
            crossing.bench.subscribe(subscriber, "a/b", options(qos));
            crossing.write();
            let publisher = crossing.client_by(0, connect);
            let traffic = crossing.traffic(|bench| {
                for id in 1..=20 {
                    bench.push(publisher, &Packet::Publish(message("a/b", "x", qos, id)));
                }
            });
            assert_eq!(traffic.messages[5], 20, "{shards} shards, {qos:?}");
            assert_eq!(traffic.message_envelopes, 1, "{shards} shards, {qos:?}");
            assert_eq!(traffic.others, 1, "{shards} shards, {qos:?}");
            // None is acknowledged without that.
            assert_eq!(crossing.bench.hear(publisher).len(), 20);
        }
    }
}

#[test]
fn the_first_subscription_of_a_shard_is_announced_to_all_others_and_further_ones_to_none() {
    for shards in SHARD_COUNTS {
        let others = shards as u64 - 1;
        let first = Traffic {
            messages: vec![0; shards],
            message_envelopes: 0,
            announcements: others,
            acknowledgements: others,
            others: 0,
            // Each other shard, and the announcing one once: acknowledgements that come before it looks
            // share its wake.
            wakes: others + 1,
        };
        let mut crossing = Crossing::new(shards);
        for shard in [0, shards - 1] {
            let (link, second) = (crossing.client(shard), crossing.client(shard));
            let (traffic, barriers) = crossing.subscribe(link, "a/b");
            assert_eq!(barriers, 1, "SUBACK waits for all shards");
            assert_eq!(traffic, first, "{shards} shards, announced by {shard}");
            // The same filter again, from the same Client and from another one.
            for again in [link, second] {
                let (traffic, barriers) = crossing.subscribe(again, "a/b");
                assert_eq!(traffic, messages(shards, &[]));
                assert_eq!(barriers, 0, "nobody has to be asked");
            }
            // A removal is announced by the last one that leaves, and not waited for.
            let traffic = crossing.traffic(|bench| {
                bench.unsubscribe(second, "a/b");
            });
            assert_eq!(traffic, messages(shards, &[]));
            let traffic = crossing.traffic(|bench| {
                bench.unsubscribe(link, "a/b");
            });
            assert_eq!(traffic, first);
        }
    }
}

#[test]
fn what_one_subscribe_announces_is_acknowledged_together() {
    for shards in SHARD_COUNTS {
        let others = shards as u64 - 1;
        let mut crossing = Crossing::new(shards);
        let subscriber = crossing.client(2);
        let traffic = crossing.traffic(|bench| {
            let filters = ["a", "b/+", "c/#", "d", "e"].map(|filter| (filter, options(Q0)));
            let subscribe = Subscribe::new(identifier(9), &filters);
            bench.send(subscriber, &Packet::Subscribe(subscribe));
        });
        assert_eq!(traffic.announcements, 5 * others, "{shards} shards");
        assert_eq!(traffic.acknowledgements, others, "{shards} shards");
        assert_eq!(traffic.wakes, others + 1, "{shards} shards");
    }
}

/// Prints what the tests above hold.
#[test]
fn what_crosses_for_a_publish_and_a_subscribe_as_a_table() {
    println!("| shards | what | envelopes | wakes | barriers |");
    println!("| --- | --- | --- | --- | --- |");
    for shards in SHARD_COUNTS {
        let row = |what: &str, traffic: &Traffic, barriers: usize| {
            let messages: u64 = traffic.messages.iter().sum();
            let envelopes =
                messages + traffic.announcements + traffic.acknowledgements + traffic.others;
            println!(
                "| {shards} | {what} | {envelopes} | {} | {barriers} |",
                traffic.wakes
            );
            envelopes
        };
        let mut crossing = Crossing::new(shards);
        let publisher = crossing.client(0);
        for shard in 0..shards {
            crossing.subscriber(shard, &format!("other/{shard}"));
        }
        let nobody = crossing.publish(publisher, Q0);
        assert_eq!(
            row(
                "publish, filters of all shards that do not match",
                &nobody,
                0
            ),
            0
        );
        let subscriber = crossing.client(1);
        let (first, barriers) = crossing.subscribe(subscriber, "a/b");
        let (again, none) = crossing.subscribe(subscriber, "a/b");
        let one = crossing.publish(publisher, Q0);
        assert_eq!(row("publish, one subscriber elsewhere", &one, 0), 1);
        for shard in 2..5 {
            crossing.subscriber(shard, "a/b");
        }
        let four = crossing.publish(publisher, Q0);
        assert_eq!(row("publish, subscribers on 4 other shards", &four, 0), 4);
        for shard in 5..shards {
            crossing.subscriber(shard, "a/b");
        }
        let all = crossing.publish(publisher, Q0);
        let others = shards as u64 - 1;
        assert_eq!(row("publish, subscribers on all shards", &all, 0), others);
        let first = row("subscribe, the shard's first to a filter", &first, barriers);
        assert_eq!(first, 2 * others);
        assert_eq!(row("subscribe, a further one", &again, none), 0);
    }
}

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
    let name = format!("client {}", crossing.names);
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

/// [MQTT-3.3.1-1] What never left is not sent again.
#[test]
fn what_waits_for_a_session_is_not_begun_with_before_its_connack_may_leave() {
    let mut crossing = Crossing::stored(1);
    let subscriber = crossing.client_by(0, lasting);
    let name = format!("client {}", crossing.names);
    crossing.bench.subscribe(subscriber, "t", options(Q1));
    crossing.write();
    crossing.bench.lose(subscriber);
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
