//! The ring between two shards against the alternatives: `rtrb` in chunks and crossbeam's `ArrayQueue`.
//!
//! One message is 64 bytes, about an envelope. The producer hands over batches, as a shard does once
//! a turn; the consumer takes what there is. Run on two free cores:
//! `cargo bench --bench ring`.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use crossbeam::queue::ArrayQueue;
use std::hint::{black_box, spin_loop};
use std::sync::Arc;
use std::time::{Duration, Instant};

const SLOTS: usize = 4096;
const BATCH: usize = 32;
const ITEMS_PER_ITERATION: u64 = 10_000;

type Item = [u64; 8];

fn item(number: u64) -> Item {
    [number; 8]
}

/// Spins, and now and then gives the core away, so that the bench also ends on one core.
struct Patience(u32);

impl Patience {
    fn wait(&mut self) {
        self.0 += 1;
        if self.0.is_multiple_of(256) {
            std::thread::yield_now();
        } else {
            spin_loop();
        }
    }
}

/// Time for `count` items through `produce` on one thread and `consume` on this one.
fn two_threads(
    count: u64,
    produce: impl FnOnce(u64) + Send + 'static,
    consume: impl FnOnce(u64),
) -> Duration {
    let start = Instant::now();
    let producer = std::thread::spawn(move || produce(count));
    consume(count);
    producer.join().expect("the producer does not panic");
    start.elapsed()
}

fn fastmq(count: u64) -> Duration {
    let (mut producer, mut consumer) = fastmq::ring::channel::<Item>(SLOTS);
    two_threads(
        count,
        move |count| {
            let mut sent = 0;
            let mut patience = Patience(0);
            while sent < count {
                let batch = BATCH.min((count - sent) as usize);
                sent += producer.extend((sent..).take(batch).map(item)) as u64;
                if !producer.publish() {
                    patience.wait();
                }
            }
        },
        move |count| {
            let mut received = 0;
            let mut patience = Patience(0);
            while received < count {
                let before = received;
                for item in consumer.drain() {
                    black_box(item);
                    received += 1;
                }
                if received == before {
                    patience.wait();
                }
            }
        },
    )
}

fn rtrb_chunks(count: u64) -> Duration {
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Item>::new(SLOTS);
    two_threads(
        count,
        move |count| {
            let mut sent = 0;
            let mut patience = Patience(0);
            while sent < count {
                let batch = BATCH.min((count - sent) as usize).min(producer.slots());
                if batch == 0 {
                    patience.wait();
                    continue;
                }
                let chunk = producer
                    .write_chunk_uninit(batch)
                    .expect("there are that many slots");
                sent += chunk.fill_from_iter((sent..).map(item)) as u64;
            }
        },
        move |count| {
            let mut received = 0;
            let mut patience = Patience(0);
            while received < count {
                let slots = consumer.slots();
                if slots == 0 {
                    patience.wait();
                    continue;
                }
                let chunk = consumer
                    .read_chunk(slots)
                    .expect("there are that many items");
                for item in chunk {
                    black_box(item);
                    received += 1;
                }
            }
        },
    )
}

fn array_queue(count: u64) -> Duration {
    let queue = Arc::new(ArrayQueue::<Item>::new(SLOTS));
    let other = queue.clone();
    two_threads(
        count,
        move |count| {
            let mut sent = 0;
            let mut patience = Patience(0);
            while sent < count {
                if other.push(item(sent)).is_ok() {
                    sent += 1;
                } else {
                    patience.wait();
                }
            }
        },
        move |count| {
            let mut received = 0;
            let mut patience = Patience(0);
            while received < count {
                match queue.pop() {
                    Some(item) => {
                        black_box(item);
                        received += 1;
                    }
                    None => patience.wait(),
                }
            }
        },
    )
}

/// What it costs when nothing is contended: one thread fills and empties the ring by turns.
fn bench_one_thread(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring_one_thread_batches_of_32");
    group.throughput(Throughput::Elements(BATCH as u64));
    let (mut producer, mut consumer) = fastmq::ring::channel::<Item>(SLOTS);
    group.bench_function("fastmq", |bencher| {
        bencher.iter(|| {
            producer.extend((0..BATCH as u64).map(item));
            producer.publish();
            for item in consumer.drain() {
                black_box(item);
            }
        });
    });
    let (mut producer, mut consumer) = rtrb::RingBuffer::<Item>::new(SLOTS);
    group.bench_function("rtrb_chunks", |bencher| {
        bencher.iter(|| {
            let chunk = producer.write_chunk_uninit(BATCH).expect("empty");
            chunk.fill_from_iter((0..).map(item));
            let slots = consumer.slots();
            for item in consumer.read_chunk(slots).expect("that many") {
                black_box(item);
            }
        });
    });
    group.finish();
}

fn bench_two_threads(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring_two_threads_64_byte_items");
    group.throughput(Throughput::Elements(ITEMS_PER_ITERATION));
    for (name, run) in [
        ("fastmq", fastmq as fn(u64) -> Duration),
        ("rtrb_chunks", rtrb_chunks),
        ("crossbeam_array_queue", array_queue),
    ] {
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| run(iterations * ITEMS_PER_ITERATION));
        });
    }
    group.finish();
}

criterion_group!(benches, bench_one_thread, bench_two_threads);
criterion_main!(benches);
