//! The content of `$SYS`: the topics of Mosquitto, and more below `$SYS/broker/shards`.
//!
//! Pure: numbers go in, messages come out. Values that are as they were are not published again, but
//! for the time the broker is up.

#![forbid(unsafe_code)]

use super::load::{Load, WINDOWS};
use crate::metrics::Snapshot;
use std::collections::HashMap;
use std::fmt::Write;
use std::time::Duration;

/// A change of a moving average below this is none, as Mosquitto has it.
const LOAD_CHANGE_MIN: f64 = 0.01;

/// What the values are made of.
#[derive(Debug)]
pub(super) struct Input<'a> {
    pub(super) uptime: Duration,
    /// Since the last update.
    pub(super) elapsed: Duration,
    pub(super) shards: &'a [Snapshot],
    /// Memory in use and the most that was, in bytes, where the system says so.
    pub(super) memory: Option<(u64, u64)>,
}

/// What subscribers have been told.
#[derive(Debug)]
pub(super) struct SysTree {
    /// What does not change as long as the broker runs, below `$SYS/broker`.
    constants: Vec<(String, String)>,
    published: HashMap<String, String>,
    loads: [Load; LOADS.len()],
    /// As published.
    averages: [[Option<f64>; WINDOWS.len()]; LOADS.len()],
    clients_maximum: u64,
    busy_ns: Vec<u64>,
}

const LOADS: [&str; 9] = [
    "messages/received",
    "messages/sent",
    "publish/dropped",
    "publish/received",
    "publish/sent",
    "bytes/received",
    "bytes/sent",
    "sockets",
    "connections",
];

impl SysTree {
    pub(super) fn new(constants: Vec<(String, String)>) -> Self {
        Self {
            constants,
            published: HashMap::new(),
            loads: [Load::default(); LOADS.len()],
            averages: [[None; WINDOWS.len()]; LOADS.len()],
            clients_maximum: 0,
            busy_ns: Vec::new(),
        }
    }

    /// Hands what has changed to `publish`, as topic and value.
    pub(super) fn update(&mut self, input: &Input<'_>, mut publish: impl FnMut(&str, &str)) {
        for (topic, value) in std::mem::take(&mut self.constants) {
            publish(&format!("$SYS/broker/{topic}"), &value);
        }
        let uptime = format!("{} seconds", input.uptime.as_secs());
        publish("$SYS/broker/uptime", &uptime);
        let total = total(input.shards);
        self.update_loads(&total, input.elapsed, &mut publish);
        self.update_broker(&total, input, &mut publish);
        self.update_shards(input, &mut publish);
    }

    fn update_loads(
        &mut self,
        total: &Snapshot,
        elapsed: Duration,
        publish: &mut impl FnMut(&str, &str),
    ) {
        let counters = &total.counters;
        let counts: [u64; LOADS.len()] = [
            counters.packets_received,
            counters.publish_sent + counters.packets_sent,
            counters.dropped(),
            counters.publish_received,
            counters.publish_sent,
            counters.bytes_received,
            counters.bytes_sent,
            counters.connections_accepted,
            counters.connects + counters.connects_refused,
        ];
        for (index, (name, count)) in LOADS.into_iter().zip(counts).enumerate() {
            let load = &mut self.loads[index];
            load.update(count, elapsed);
            let published = &mut self.averages[index];
            for ((published, average), (window, _)) in
                published.iter_mut().zip(load.averages()).zip(WINDOWS)
            {
                if published.is_none_or(|before| (before - average).abs() >= LOAD_CHANGE_MIN) {
                    *published = Some(average);
                    publish(
                        &format!("$SYS/broker/load/{name}/{window}"),
                        &format!("{average:.2}"),
                    );
                }
            }
        }
    }

    fn update_broker(
        &mut self,
        total: &Snapshot,
        input: &Input<'_>,
        publish: &mut impl FnMut(&str, &str),
    ) {
        let (counters, gauges) = (&total.counters, &total.gauges);
        self.clients_maximum = self.clients_maximum.max(gauges.clients_connected);
        let away = gauges.sessions.saturating_sub(gauges.clients_connected);
        let stored = gauges.retained_messages + gauges.queued_messages;
        let values: [(&str, u64); 25] = [
            ("clients/total", gauges.sessions),
            ("clients/maximum", self.clients_maximum),
            ("clients/disconnected", away),
            ("clients/inactive", away),
            ("clients/connected", gauges.clients_connected),
            ("clients/active", gauges.clients_connected),
            ("clients/expired", counters.sessions_expired),
            ("messages/stored", stored),
            ("store/messages/count", stored),
            (
                "store/messages/bytes",
                gauges.retained_bytes + gauges.queued_bytes,
            ),
            (
                "subscriptions/count",
                gauges
                    .subscriptions
                    .saturating_sub(gauges.shared_subscriptions),
            ),
            ("shared_subscriptions/count", gauges.shared_subscriptions),
            ("retained messages/count", gauges.retained_messages),
            ("messages/received", counters.packets_received),
            (
                "messages/sent",
                counters.publish_sent + counters.packets_sent,
            ),
            ("bytes/received", counters.bytes_received),
            ("bytes/sent", counters.bytes_sent),
            ("publish/bytes/received", counters.publish_bytes_received),
            ("publish/bytes/sent", counters.publish_bytes_sent),
            ("publish/messages/received", counters.publish_received),
            ("publish/messages/sent", counters.publish_sent),
            ("publish/messages/dropped", counters.dropped()),
            ("connections/socket/count", counters.connections_accepted),
            // The connections of the system, those without a Session included.
            ("connections/count", gauges.connections),
            ("shards/count", input.shards.len() as u64),
        ];
        for (topic, value) in values {
            self.changed("$SYS/broker", topic, value, publish);
        }
        if let Some((current, maximum)) = input.memory {
            self.changed("$SYS/broker", "heap/current", current, publish);
            self.changed("$SYS/broker", "heap/maximum", maximum, publish);
        }
    }

    fn update_shards(&mut self, input: &Input<'_>, publish: &mut impl FnMut(&str, &str)) {
        self.busy_ns.resize(input.shards.len(), 0);
        for (index, shard) in input.shards.iter().enumerate() {
            let below = format!("$SYS/broker/shards/{index}");
            let (counters, gauges) = (&shard.counters, &shard.gauges);
            let busy_before = std::mem::replace(&mut self.busy_ns[index], shard.own.busy_ns);
            let busy = shard.own.busy_ns.saturating_sub(busy_before);
            let percent = busy as f64 / input.elapsed.as_nanos().max(1) as f64 * 100.0;
            let values: [(&str, u64); 14] = [
                ("connections/count", gauges.connections),
                ("clients/connected", gauges.clients_connected),
                ("clients/total", gauges.sessions),
                ("subscriptions/count", gauges.subscriptions),
                ("queued/messages", gauges.queued_messages),
                ("queued/bytes", gauges.queued_bytes),
                ("ring/backlog", gauges.ring_backlog),
                ("messages/received", counters.packets_received),
                (
                    "messages/sent",
                    counters.publish_sent + counters.packets_sent,
                ),
                ("bytes/received", counters.bytes_received),
                ("bytes/sent", counters.bytes_sent),
                ("publish/messages/received", counters.publish_received),
                ("publish/messages/sent", counters.publish_sent),
                ("publish/messages/dropped", counters.dropped()),
            ];
            for (topic, value) in values {
                self.changed(&below, topic, value, publish);
            }
            let percent = percent.clamp(0.0, 100.0).round() as u64;
            self.changed(&below, "load/percent", percent, publish);
        }
    }

    fn changed(
        &mut self,
        below: &str,
        topic: &str,
        value: u64,
        publish: &mut impl FnMut(&str, &str),
    ) {
        let topic = format!("{below}/{topic}");
        let mut text = String::new();
        // Writing to a `String` does not fail.
        let _ = write!(text, "{value}");
        if self.published.get(&topic) != Some(&text) {
            publish(&topic, &text);
            self.published.insert(topic, text);
        }
    }
}

/// The shards added up. Of what every shard has a copy, one counts.
pub(super) fn total(shards: &[Snapshot]) -> Snapshot {
    let mut total = Snapshot::default();
    let (mut retained_messages, mut retained_bytes) = (0, 0);
    for shard in shards {
        total.counters = total.counters.plus(&shard.counters);
        retained_messages = retained_messages.max(shard.gauges.retained_messages);
        retained_bytes = retained_bytes.max(shard.gauges.retained_bytes);
        total.gauges = total.gauges.plus(&shard.gauges);
        total.turns = total.turns.plus(&shard.turns);
        total.own = total.own.plus(&shard.own);
    }
    total.gauges.retained_messages = retained_messages;
    total.gauges.retained_bytes = retained_bytes;
    total
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    fn update(tree: &mut SysTree, shards: &[Snapshot]) -> HashMap<String, String> {
        let mut published = HashMap::new();
        let input = Input {
            uptime: Duration::from_secs(70),
            elapsed: STEP,
            shards,
            memory: Some((1000, 2000)),
        };
        tree.update(&input, |topic, value| {
            let before = published.insert(topic.to_owned(), value.to_owned());
            assert_eq!(before, None, "{topic} twice");
        });
        published
    }

    fn shards() -> Vec<Snapshot> {
        let mut shards = vec![Snapshot::default(); 2];
        for (index, shard) in shards.iter_mut().enumerate() {
            shard.counters.publish_received = 10;
            shard.counters.publish_sent = 20;
            shard.counters.packets_sent = 5;
            shard.counters.connections_accepted = 4;
            shard.counters.connections_handed_over = index as u64;
            shard.gauges.sessions = 3;
            shard.gauges.clients_connected = 2;
            shard.gauges.retained_messages = 7;
            shard.gauges.queued_messages = 1;
            shard.own.busy_ns = 5_000_000_000;
        }
        shards
    }

    #[test]
    fn mosquitto_s_topics_are_all_there() {
        let mut tree = SysTree::new(vec![("version".into(), "fastmq version 1".into())]);
        let published = update(&mut tree, &shards());
        // What Mosquitto 2.1.2 was seen to publish, but for its packet queue, which has no like here.
        let topics = "bytes/received bytes/sent clients/active clients/connected \
            clients/disconnected clients/expired clients/inactive clients/maximum clients/total \
            connections/socket/count heap/current heap/maximum messages/received messages/sent \
            messages/stored publish/bytes/received publish/bytes/sent publish/messages/dropped \
            publish/messages/received publish/messages/sent shared_subscriptions/count \
            store/messages/bytes store/messages/count subscriptions/count uptime version";
        for topic in topics.split_whitespace().chain(["retained messages/count"]) {
            assert!(
                published.contains_key(&format!("$SYS/broker/{topic}")),
                "{topic}"
            );
        }
        let loads = "bytes/received bytes/sent connections messages/received messages/sent \
            publish/dropped publish/received publish/sent sockets";
        for load in loads.split_whitespace() {
            for window in ["1min", "5min", "15min"] {
                let topic = format!("$SYS/broker/load/{load}/{window}");
                assert!(published.contains_key(&topic), "{topic}");
            }
        }
    }

    #[test]
    fn shards_are_added_up_and_what_all_have_counts_once() {
        let published = update(&mut SysTree::new(Vec::new()), &shards());
        for (topic, value) in [
            ("clients/total", "6"),
            ("clients/connected", "4"),
            ("clients/disconnected", "2"),
            ("messages/sent", "50"),
            ("retained messages/count", "7"),
            ("messages/stored", "9"),
            // One that was handed over was counted where it was accepted, and there alone.
            ("connections/socket/count", "8"),
            ("uptime", "70 seconds"),
            ("shards/count", "2"),
            ("shards/1/publish/messages/received", "10"),
            ("shards/1/load/percent", "50"),
        ] {
            assert_eq!(published[&format!("$SYS/broker/{topic}")], value, "{topic}");
        }
    }

    #[test]
    fn only_what_changed_is_published_again() {
        let mut tree = SysTree::new(vec![("version".into(), "1".into())]);
        let mut shards = shards();
        update(&mut tree, &shards);
        // Until the averages have come to rest.
        for _ in 0..2000 {
            update(&mut tree, &shards);
        }
        shards[0].gauges.sessions += 1;
        let published = update(&mut tree, &shards);
        let mut topics: Vec<_> = published.keys().map(String::as_str).collect();
        topics.sort_unstable();
        assert_eq!(
            topics,
            [
                "$SYS/broker/clients/disconnected",
                "$SYS/broker/clients/inactive",
                "$SYS/broker/clients/total",
                "$SYS/broker/shards/0/clients/total",
                "$SYS/broker/uptime",
            ]
        );
    }

    #[test]
    fn most_clients_at_once_are_remembered() {
        let mut tree = SysTree::new(Vec::new());
        let mut shards = shards();
        update(&mut tree, &shards);
        shards[0].gauges.clients_connected = 0;
        let published = update(&mut tree, &shards);
        assert_eq!(published["$SYS/broker/clients/connected"], "2");
        assert!(!published.contains_key("$SYS/broker/clients/maximum"));
    }
}
