//! What one simulation is like: sizes, bounds, and how often Clients do what.

#![forbid(unsafe_code)]

use super::random::Random;
use crate::limits::Limits;

/// Topics of the simulation. Those under `s/` are for Shared Subscriptions first of all.
const TOPICS: &[&str] = &[
    "t/0", "t/1", "t/2", "a", "a/b", "a/b/c", "s/0", "s/1", "s/2",
];

/// Filters that Clients subscribe to.
const FILTERS: &[&str] = &[
    "t/0", "t/1", "t/2", "t/+", "a", "a/#", "a/b", "a/+", "a/b/c", "+/b/#", "#", "+/+",
];

/// Shared ones.
const SHARED_FILTERS: &[&str] = &["$share/g1/s/0", "$share/g1/s/+", "$share/g2/s/#"];

/// A shared one that overlaps with those that are not.
const MIXED_FILTERS: &[&str] = &["$share/g3/#", "$share/g1/t/+", "s/0", "s/#"];

/// Settings of one simulation, all drawn from its seed.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Shards of the broker.
    pub shards: usize,
    /// Clients, each with its own Client Identifier.
    pub clients: usize,
    /// Bounds of the broker.
    pub limits: Limits,
    /// Topic Aliases a Client may set.
    pub max_topic_alias: u16,
    /// Topic Aliases the broker sets.
    pub max_topic_alias_broker: u16,
    /// Slots of each ring.
    pub ring_capacity: usize,
    /// Bytes a socket takes before its Client reads.
    pub socket_capacity: usize,
    /// How often chaos is followed by rest.
    pub rounds: usize,
    /// Steps of chaos in each round.
    pub steps: usize,
    /// Where Clients publish.
    pub topics: Vec<&'static str>,
    /// What Clients subscribe to.
    pub filters: Vec<&'static str>,
    /// Percent of steps in which a connection is lost, in tenths.
    pub loss: usize,
    /// Percent of steps in which time leaps, in hundredths.
    pub leaps: usize,
    /// Whether leaps may be of days.
    pub long_leaps: bool,
    /// Whether messages may expire.
    pub expiry: bool,
    /// Whether Clients bound the size of packets.
    pub small_packets: bool,
    /// Whether Shared Subscriptions of QoS 0 are made.
    pub shared_qos0: bool,
    /// Whether Clients keep alive.
    pub keep_alive: bool,
    /// Percent of connections with a Will.
    pub wills: usize,
    /// Percent of messages that are retained.
    pub retained: usize,
    /// Percent of Client steps in which nothing is read.
    pub slowness: usize,
    /// Largest filler of a payload.
    pub payload_max: usize,
    /// Exchanges an MQTT 3 Client has under way at most.
    pub v3_window: usize,
    /// Filters of an UNSUBSCRIBE, at most.
    pub unsubscribed_at_once: usize,
    /// Whether Sessions and retained messages are stored, on a disk that works.
    pub is_stored: bool,
}

impl Plan {
    /// Has SUBSCRIBE and UNSUBSCRIBE packets take several turns, and more filters at once.
    pub fn cut_filters(&mut self, steps_max: usize) {
        self.limits.filter_steps_max = steps_max;
        self.unsubscribed_at_once = 4;
    }

    /// Draws a simulation of `shards` shards, or of some number of them.
    pub fn draw(random: &mut Random, shards: Option<usize>) -> Self {
        let drawn = *random.pick(&[1, 2, 2, 3, 3, 3, 8]);
        let shards = shards.unwrap_or(drawn);
        let small_queues = random.chance(20);
        let limits = Limits {
            max_inflight_messages: *random.pick(&[1, 2, 5, 20]),
            max_queued_messages: if small_queues {
                random.between(1, 12)
            } else {
                1_000_000
            },
            outbox_bytes_max: *random.pick(&[300, 2000, 1 << 20]),
            peer_backlog_max: *random.pick(&[1, 2, 6, 40, 4096]),
            replay_steps_max: *random.pick(&[1, 3, 12, 512]),
            spread_steps_max: *random.pick(&[1, 2, 5, 4096]),
            ..Limits::default()
        };
        let limits = Limits {
            ending_steps_max: limits.replay_steps_max,
            ..limits
        };
        let mut filters = FILTERS.to_vec();
        if random.chance(70) {
            filters.extend(SHARED_FILTERS);
            if random.chance(60) {
                // Then most of the shared topics' messages have no other way.
                filters.retain(|filter| *filter != "#" && *filter != "+/+");
            }
            if random.chance(25) {
                filters.extend(MIXED_FILTERS);
            }
        }
        Self {
            shards,
            clients: random.between(2, if shards > 8 { 24 } else { 10 }),
            limits,
            max_topic_alias: *random.pick(&[0, 3, 10]),
            max_topic_alias_broker: *random.pick(&[0, 2, 10]),
            ring_capacity: *random.pick(&[1, 4, 16, 64]),
            socket_capacity: *random.pick(&[16, 200, 4096, 1 << 16]),
            rounds: random.between(1, 3),
            steps: random.between(100, 1500),
            topics: TOPICS.to_vec(),
            filters,
            loss: *random.pick(&[0, 3, 20]),
            leaps: *random.pick(&[0, 20, 100]),
            long_leaps: random.chance(30),
            expiry: random.chance(30),
            small_packets: random.chance(25),
            shared_qos0: random.chance(20),
            keep_alive: random.chance(40),
            wills: *random.pick(&[0, 20, 60]),
            retained: *random.pick(&[0, 10, 40]),
            slowness: *random.pick(&[0, 30, 80]),
            payload_max: *random.pick(&[20, 200, 3000]),
            v3_window: random.between(5, 70),
            unsubscribed_at_once: 1,
            is_stored: random.chance(30),
        }
    }
}
