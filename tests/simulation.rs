//! Runs the simulation of a whole broker: a few seeds always, more when asked for.
//!
//! `FASTMQ_SIM_SECONDS` simulates seed after seed for that long, beginning with `FASTMQ_SIM_SEED`;
//! a seed without seconds simulates that one alone. `FASTMQ_SIM_SHARDS` fixes the number of shards.
//! `FASTMQ_SIM_TAIL` is how many events a failure shows.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use fastmq::sim::{Report, simulate};

/// Seeds of a run that was not told how long to run.
const SEEDS: u64 = 150;
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
        if seed % TWICE == 0 {
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
