//! The whole shard core: bytes of a publisher in, bytes of the subscribers out.
//!
//! `session` is one Session's QoS flow through the shard's door with nobody subscribed; `shard` is a
//! turn with everything that follows from it, acknowledgements of both sides included.
//! `cargo bench --bench turn`. `benches/instructions` counts the same turns.

#![forbid(unsafe_code)]
#![allow(missing_docs)]

mod rig;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use fastmq::message::{ProtocolVersion, QoS};
use rig::Turn;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn run(criterion: &mut Criterion, group: &str, cases: Vec<(&str, Turn)>) {
    let mut group = criterion.benchmark_group(group);
    for (name, mut turn) in cases {
        group.throughput(Throughput::Elements(turn.messages));
        group.bench_function(name, |bencher| bencher.iter(|| turn.run()));
    }
    group.finish();
}

fn session(criterion: &mut Criterion) {
    let cases = vec![
        ("inbound QoS 0", Turn::inbound(QoS::AtMostOnce)),
        ("inbound QoS 1", Turn::inbound(QoS::AtLeastOnce)),
        ("inbound QoS 2", Turn::inbound(QoS::ExactlyOnce)),
    ];
    run(criterion, "session", cases);
}

fn shard(criterion: &mut Criterion) {
    use ProtocolVersion::{V5, V311};
    let cases = vec![
        ("1 -> 1 QoS 0", Turn::one_to_one(V311, QoS::AtMostOnce)),
        ("1 -> 1 QoS 0 v5", Turn::one_to_one(V5, QoS::AtMostOnce)),
        ("1 -> 1 QoS 1", Turn::one_to_one(V311, QoS::AtLeastOnce)),
        ("1 -> 1 QoS 1 v5", Turn::one_to_one(V5, QoS::AtLeastOnce)),
        ("1 -> 1 QoS 2", Turn::one_to_one(V311, QoS::ExactlyOnce)),
        ("1 -> 100 QoS 0", Turn::fan_out(100)),
        ("100 topics, wildcard", Turn::wildcard(100)),
        ("1 -> 1 across shards", Turn::across_shards()),
    ];
    run(criterion, "shard", cases);
}

criterion_group!(benches, session, shard);
criterion_main!(benches);
