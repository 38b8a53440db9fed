//! What the router costs: matches from the cache and from the trie, subscriptions, retained replay.
//!
//! `cargo bench --bench trie`. Filters come in three shapes: wide (many siblings at one level), deep
//! (ten levels, branching at each), wildcard (half of the filters hold `+`, some end in `#`).

#![forbid(unsafe_code)]
#![allow(missing_docs)]

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use fastmq::codec::SubscriptionOptions;
use fastmq::key::{SessionKey, ShardId};
use fastmq::message::{Message, MessageRef, QoS};
use fastmq::router::{Interest, RetainedVersion, Router};
use fastmq::time::Instant;
use fastmq::topic::{TopicFilter, TopicName};
use std::hint::black_box;
use std::sync::Arc;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[derive(Clone, Copy, Debug)]
enum Shape {
    Wide,
    Deep,
    Wildcard,
}

impl Shape {
    fn filter(self, number: usize) -> String {
        match self {
            Self::Wide => format!("devices/device-{number}/state"),
            Self::Deep => deep(number),
            Self::Wildcard => match number % 4 {
                0 => format!("site/{}/+/{}/value", number / 4 % 1000, number / 4000),
                1 => format!("site/{}/line/{}/#", number / 4 % 1000, number / 4000),
                _ => format!(
                    "site/{}/line/{}/value",
                    number / 4 % 1000,
                    number / 4000 * 2 + number % 2
                ),
            },
        }
    }

    /// A topic that filter `number` matches.
    fn topic(self, number: usize) -> String {
        match self {
            Self::Wildcard => format!("site/{}/line/{}/value", number / 4 % 1000, number / 4000),
            _ => self.filter(number),
        }
    }
}

fn deep(mut number: usize) -> String {
    let mut text = String::from("root");
    for _ in 0..9 {
        text += &format!("/level-{}", number % 5);
        number /= 5;
    }
    text
}

fn router() -> Router {
    Router::new(ShardId(0), 2)
}

fn session(number: usize) -> SessionKey {
    SessionKey {
        index: number as u32,
        generation: 0,
    }
}

fn subscribe(router: &mut Router, text: &str, number: usize) -> fastmq::router::FilterKey {
    let filter = TopicFilter::new(text).expect("legal filter");
    let options = SubscriptionOptions::new(QoS::AtLeastOnce);
    router
        .subscribe(&filter, session(number), options, None, true)
        .filter
}

/// Resident bytes of this process.
fn resident() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    text.split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .map_or(0, |pages: usize| pages * 4096)
}

fn filled(shape: Shape, count: usize) -> Router {
    let before = resident();
    let mut router = router();
    for number in 0..count {
        subscribe(&mut router, &shape.filter(number), number);
    }
    let grown = resident().saturating_sub(before);
    eprintln!(
        "{shape:?}, {} filters: {} bytes each ({} in tables), {} nodes",
        router.filter_count(),
        grown / count,
        router.table_sizes().0 / count,
        router.node_counts().0,
    );
    router
}

fn matches(criterion: &mut Criterion) {
    for shape in [Shape::Wide, Shape::Deep, Shape::Wildcard] {
        for count in [1_000, 100_000, 1_000_000] {
            let mut router = filled(shape, count);
            let mut group = criterion.benchmark_group(format!("matches/{shape:?}/{count}"));
            // Many more topics than are remembered, in an order without pattern.
            let topics: Vec<String> = (0..1 << 20)
                .map(|step: usize| shape.topic(step * 7919 % count))
                .collect();
            let hot = TopicName::new(&topics[0]).expect("legal name");
            group.bench_function("hit", |bencher| {
                bencher.iter(|| router.matches(black_box(hot)))
            });
            let mut next = 0;
            // Matches no topic here but could, so that nothing remembered counts.
            let spoil = TopicFilter::new("+/nobody").expect("legal filter");
            subscribe(&mut router, "+/nobody", 0);
            group.bench_function("miss", |bencher| {
                bencher.iter(|| {
                    next = (next + 1) & (topics.len() - 1);
                    let interest = if next & 1 == 0 {
                        Interest::NONE
                    } else {
                        Interest::PLAIN
                    };
                    router.set_interest(ShardId(1), &spoil, interest);
                    router.matches(TopicName::from_validated(topics[next].as_bytes()))
                });
            });
            let mut next = 0;
            group.bench_function("subscribe_unsubscribe", |bencher| {
                bencher.iter(|| {
                    next = (next + 1) & (topics.len() - 1);
                    let key = subscribe(&mut router, &topics[next], count);
                    router.unsubscribe(key, session(count))
                });
            });
            group.finish();
        }
    }
    criterion.bench_function("matches/miss_overhead", |bencher| {
        let mut router = router();
        let spoil = TopicFilter::new("+/nobody").expect("legal filter");
        subscribe(&mut router, "+/nobody", 0);
        let mut next = 0;
        bencher.iter(|| {
            next += 1;
            let interest = if next & 1 == 0 {
                Interest::NONE
            } else {
                Interest::PLAIN
            };
            router.set_interest(ShardId(1), &spoil, interest);
        });
    });
}

fn fan_out(criterion: &mut Criterion) {
    let mut router = router();
    let count = 100_000;
    for number in 0..count {
        subscribe(&mut router, "news/sport", number);
    }
    let topic = TopicName::new("news/sport").expect("legal name");
    let mut group = criterion.benchmark_group("fan_out/100000");
    group.bench_function("hit", |bencher| {
        bencher.iter(|| router.matches(black_box(topic)))
    });
    group.throughput(Throughput::Elements(count as u64));
    group.bench_function("rebuild", |bencher| {
        bencher.iter(|| {
            let key = subscribe(&mut router, "news/sport", count);
            black_box(router.matches(topic));
            router.unsubscribe(key, session(count))
        });
    });
    group.bench_function("rebuild_overlapping", |bencher| {
        bencher.iter(|| {
            let key = subscribe(&mut router, "news/+", count);
            black_box(router.matches(topic));
            router.unsubscribe(key, session(count))
        });
    });
    group.finish();
    criterion.bench_function("fill/100000_wide", |bencher| {
        let texts: Vec<String> = (0..100_000)
            .map(|number| Shape::Wide.filter(number))
            .collect();
        bencher.iter_batched(
            self::router,
            |mut router| {
                for (number, text) in texts.iter().enumerate() {
                    subscribe(&mut router, text, number);
                }
                router
            },
            BatchSize::PerIteration,
        );
    });
}

fn retained(criterion: &mut Criterion) {
    let count = 1_000_000;
    let messages: Vec<Arc<Message>> = (0..count)
        .map(|number| {
            Arc::new(Message::new(MessageRef {
                topic_name: format!("site/{}/line/{}/value", number % 1000, number / 1000)
                    .as_bytes(),
                properties: b"",
                payload: b"20.5",
                qos: QoS::AtLeastOnce,
                retain: true,
                expires_at: None,
            }))
        })
        .collect();
    let before = resident();
    let mut router = router();
    let mut clock = 0;
    let mut retain = |router: &mut Router, message: &Arc<Message>| {
        clock += 1;
        router.retain(
            message,
            RetainedVersion {
                clock,
                shard: ShardId(0),
            },
        )
    };
    for message in &messages {
        retain(&mut router, message);
    }
    eprintln!(
        "{count} retained: {} bytes each beside the message ({} in tables), {} nodes",
        resident().saturating_sub(before) / count,
        router.table_sizes().1 / count,
        router.node_counts().1,
    );
    let mut group = criterion.benchmark_group("retained/1000000");
    let mut next = 0;
    group.bench_function("overwrite", |bencher| {
        bencher.iter(|| {
            next = (next + 7919) % count;
            retain(&mut router, &messages[next])
        });
    });
    let replay = |router: &Router, text: &str| {
        let mut bytes = 0;
        let filter = TopicFilter::new(text).expect("legal filter");
        router.for_each_retained(&filter, Instant::ZERO, |message| bytes += message.size());
        bytes
    };
    group.bench_function("replay_exact", |bencher| {
        bencher.iter(|| replay(&router, black_box("site/7/line/9/value")));
    });
    group.sample_size(10);
    for (text, found) in [
        ("#", count),
        ("site/+/line/+/value", count),
        ("site/7/#", 1000),
        ("+/+/+/9/+", 1000),
    ] {
        group.throughput(Throughput::Elements(found as u64));
        group.bench_function(format!("replay {text}"), |bencher| {
            bencher.iter(|| replay(&router, black_box(text)));
        });
    }
    group.finish();
}

criterion_group!(benches, matches, fan_out, retained);
criterion_main!(benches);
