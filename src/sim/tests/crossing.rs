//! What a publish and a subscribe cost in messages between shards, for more shards than any machine of
//! a test has.
//!
//! `cargo test --lib what_crosses -- --nocapture` prints the table that ARCHITECTURE.md shows.

use super::*;
use crate::config::Durability;
use crate::sim::{Disk, Random, Traffic};
use crate::wal::{Store, StoreOptions};

const SHARD_COUNTS: [usize; 3] = [8, 16, 64];

/// Clients whose shard is known.
pub(super) struct Crossing {
    pub(super) bench: Bench,
    names: usize,
    /// Of a broker that stores.
    disk: Disk,
    options: StoreOptions,
}

impl Crossing {
    fn new(shards: usize) -> Self {
        let mut crossing = Self {
            bench: Bench::new(shards, &Limits::default()),
            names: 0,
            disk: Disk::new(Random::new(7)),
            options: StoreOptions::new("unused".into()),
        };
        crossing.bench.settle();
        crossing
    }

    /// A broker that stores.
    pub(super) fn stored(shards: usize) -> Self {
        Self::stored_with(shards, Limits::default())
    }

    pub(super) fn stored_with(shards: usize, limits: Limits) -> Self {
        let mut crossing = Self::new(shards);
        crossing.bench.limits = limits;
        crossing.start(shards);
        crossing
    }

    /// A broker that brings what it stores to the disk a second later, and whose logs are said anew soon.
    pub(super) fn synced_later(shards: usize) -> Self {
        let mut crossing = Self::new(shards);
        crossing.options.durability = Durability::Interval(Duration::from_secs(1));
        crossing.options.segment_size = 1024;
        crossing.start(shards);
        crossing
    }

    fn open(&self, shards: usize) -> Store {
        self.disk.open(&self.options, shards, 7).unwrap()
    }

    fn start(&mut self, shards: usize) {
        let store = self.open(shards);
        let settings = Settings::permissive(self.bench.limits.clone());
        let now = self.bench.world.now();
        self.bench.world = World::with_store(store, settings, 64, now);
        self.bench.partial.clear();
        self.bench.settle();
    }

    /// The broker is killed and started again, and once more for another number of shards between.
    pub(super) fn crash(&mut self) {
        drop(self.open(self.shards() + 1));
        self.start(self.shards());
        self.write();
    }

    /// The power fails and comes back: what it takes `seed` says.
    pub(super) fn lose_power(&mut self, seed: u64) {
        self.disk.set_random(Random::new(seed));
        self.disk.lose_power();
        self.start(self.shards());
        self.write();
    }

    /// The disk of one shard takes what that has for it.
    pub(super) fn write_of(&mut self, shard: usize) {
        for _ in 0..4 {
            self.bench.world.turn_disk(shard);
            self.bench.settle();
        }
    }

    /// Disks take what shards have for them, until all is at rest.
    pub(super) fn write(&mut self) {
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

    /// A name that belongs to `shard`.
    pub(super) fn name_of(&mut self, shard: usize) -> String {
        let link = self.client(shard);
        self.bench.disconnect(link, ReasonCode::Success);
        self.last_name()
    }

    /// The name of the Client that came last.
    pub(super) fn last_name(&self) -> String {
        format!("client {}", self.names)
    }

    /// A Client of `shard`: whose name belongs there.
    pub(super) fn client(&mut self, shard: usize) -> Link {
        self.client_by(shard, v311)
    }

    pub(super) fn client_by(&mut self, shard: usize, connect: fn(&str) -> Connect<'_>) -> Link {
        loop {
            self.names += 1;
            let name = self.last_name();
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
