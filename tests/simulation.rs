//! Runs the simulations of a whole broker, and of one that crashes and comes back: a few seeds always,
//! more when asked for.
//!
//! `FASTMQ_SIM_SECONDS` simulates seed after seed for that long, beginning with `FASTMQ_SIM_SEED`;
//! a seed without seconds simulates that one alone. `FASTMQ_SIM_SHARDS` fixes the number of shards.
//! `FASTMQ_SIM_TAIL` is how many events a failure shows.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastmq::sim::{DurableReport, Report, Violation, simulate, simulate_durable};

/// Seeds of a run that was not told how long to run.
const SEEDS: u64 = 150;
/// The same for brokers that crash.
const DURABLE_SEEDS: u64 = 150;
/// One in this many seeds is simulated twice.
const TWICE: u64 = 16;

fn variable(name: &str) -> Option<u64> {
    let value = std::env::var(name).ok()?;
    Some(
        value
            .parse()
            .unwrap_or_else(|_| panic!("{name}={value} is not a number")),
    )
}

/// Simulates one seed; a failure tells how to repeat it and what happened last.
fn attempt<R>(
    seed: u64,
    how: &str,
    simulate: impl Fn(Option<&mut VecDeque<String>>) -> Result<R, Violation>,
) -> R {
    let attempt =
        |tail: Option<&mut VecDeque<String>>| catch_unwind(AssertUnwindSafe(|| simulate(tail)));
    let reason = match attempt(None) {
        Ok(Ok(report)) => return report,
        Ok(Err(violation)) => violation.to_string(),
        Err(_) => "a panic, see above".to_owned(),
    };
    let mut tail = VecDeque::with_capacity(variable("FASTMQ_SIM_TAIL").unwrap_or(60) as usize);
    let _ = attempt(Some(&mut tail));
    let tail: Vec<String> = tail.into();
    let shards = variable("FASTMQ_SIM_SHARDS");
    let shards = shards.map_or(String::new(), |it| format!("FASTMQ_SIM_SHARDS={it} "));
    panic!(
        "{}\n\nseed {seed}: {reason}\n\nrepeat with: {shards}FASTMQ_SIM_SEED={seed} cargo test --release \
         --test simulation {how} -- --nocapture",
        tail.join("\n")
    );
}

fn run(seed: u64, shards: Option<usize>) -> Report {
    // Many shards cost much; they have their turn.
    let shards = shards.or((seed % 64 == 63).then_some(64));
    attempt(seed, "every_seed", |tail| simulate(seed, shards, tail))
}

fn run_durable(seed: u64) -> DurableReport {
    // At most so many: with more than one, each life has another number of them.
    let shards = variable("FASTMQ_SIM_SHARDS").unwrap_or([1, 2, 4, 8][(seed % 4) as usize]);
    let shards = shards as usize;
    attempt(seed, "crash", |tail| simulate_durable(seed, shards, tail))
}

/// Simulates the seed that was asked for, seeds for as long as was asked for, or `count` of them. How many,
/// unless it was the one.
fn for_each_seed<R: Debug>(
    count: u64,
    run: impl Fn(u64) -> R,
    hash: impl Fn(&R) -> u64,
    mut add: impl FnMut(R),
) -> Option<u64> {
    let seconds = variable("FASTMQ_SIM_SECONDS");
    let first = variable("FASTMQ_SIM_SEED");
    if let (Some(seed), None) = (first, seconds) {
        println!("{:?}", run(seed));
        return None;
    }
    let begin = Instant::now();
    let until = seconds.map(|seconds| begin + Duration::from_secs(seconds));
    let first = first.unwrap_or(1);
    let mut seed = first;
    while until.map_or(seed < first + count, |until| Instant::now() < until) {
        let report = run(seed);
        if seed.is_multiple_of(TWICE) {
            let again = run(seed);
            assert_eq!(
                hash(&report),
                hash(&again),
                "seed {seed} does not repeat itself"
            );
        }
        add(report);
        seed += 1;
    }
    println!(
        "{} seeds from {first} in {:?}",
        seed - first,
        begin.elapsed()
    );
    Some(seed - first)
}

#[test]
fn every_seed_keeps_every_promise() {
    let shards = variable("FASTMQ_SIM_SHARDS").map(|it| it as usize);
    let (mut events, mut deliveries, mut steps) = (0, 0, 0);
    let add = |report: Report| {
        events += report.events;
        deliveries += report.deliveries;
        steps += report.steps;
    };
    if for_each_seed(SEEDS, |seed| run(seed, shards), |it| it.hash, add).is_some() {
        println!("{steps} steps, {events} events, {deliveries} deliveries");
    }
}

/// In the first two a shard that was late closed a silent Client, whose Will is retained, and published
/// another Will to the same topic: in the order of time, and after a deadline was put off in another. In
/// the third a message that another member of a Shared Subscription left came with RETAIN as published.
#[test]
fn seeds_that_once_failed_keep_every_promise() {
    for seed in [144_001_361, 560_129, 1_001_022] {
        run(seed, None);
    }
}

#[test]
fn no_crash_takes_what_was_acknowledged_whatever_the_disk_does() {
    let mut sum = DurableReport::default();
    let add = |report: DurableReport| {
        sum.crashes += report.crashes;
        sum.acknowledged += report.acknowledged;
        sum.refused += report.refused;
        sum.deliveries += report.deliveries;
        sum.syncs += report.syncs;
        sum.damages += report.damages;
        sum.wills += report.wills;
        sum.losses += report.losses;
    };
    let count = for_each_seed(DURABLE_SEEDS, run_durable, |it| it.hash, add);
    println!("{sum:?}");
    // What was never tried was not kept either.
    if count.is_some_and(|count| count >= DURABLE_SEEDS) {
        assert!(sum.crashes > 0 && sum.acknowledged > 0 && sum.deliveries > 0);
        assert!(
            sum.refused > 0 && sum.damages > 0 && sum.wills > 0,
            "{sum:?}"
        );
    }
}
