//! The generator against sinks: what it could deliver at most.

use std::net::SocketAddr;

use fastmq::runtime::{Placed, Running};

use crate::failure::Failure;
use crate::options::{Common, Workload};
use crate::plan::Plan;
use crate::process;
use crate::progress::Progress;
use crate::run::{self, Outcome};
use crate::sink;

/// How long the ceiling is measured before a run, and how long it gets up to speed.
const CEILING_S: f64 = 0.4;
const CEILING_WARMUP_S: f64 = 0.1;
/// A generator with less of its CPU in use than this was waiting for the sinks.
const BUSY_SHARE: f64 = 0.9;

/// What the generator reaches where nothing but itself holds it up.
#[derive(Clone, Copy, Debug)]
pub struct Ceiling {
    pub per_s: f64,
    /// The sinks held it up: it is capable of more.
    pub is_lower_bound: bool,
}

impl Ceiling {
    pub fn of(outcome: &Outcome) -> Self {
        Self {
            per_s: outcome.delivered as f64 / outcome.measured_s.max(1e-9),
            is_lower_bound: outcome.cpu_share < BUSY_SHARE,
        }
    }
}

/// Runs a self-test.
pub fn execute(
    workload: &Workload,
    common: &Common,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    run_plan(Plan::new(workload, common)?, common, progress)
}

/// Deliveries a second that this generator reaches at most with this load, in a closed loop. Without
/// TLS and WebSocket, whose cost the CPU share of a run shows.
pub fn ceiling(workload: &Workload, common: &Common) -> Result<Ceiling, Failure> {
    let common = Common {
        duration: CEILING_S,
        warmup: CEILING_WARMUP_S,
        drain: 0.2,
        topics: 1,
        topic_aliases: false,
        persistent: false,
        ..common.clone()
    };
    let mut plan = Plan::new(workload, &common)?;
    plan.saturate();
    let outcome = run_plan(plan, &common, &Progress::none())?;
    match outcome.error {
        Some(error) => Err(error),
        None => Ok(Ceiling::of(&outcome)),
    }
}

fn run_plan(mut plan: Plan, common: &Common, progress: &Progress) -> Result<Outcome, Failure> {
    // A sink's ends of the connections are files of this process too.
    run::allow_files(&plan, 2)?;
    let sinks = sinks(common)?;
    plan.spread(sinks.len());
    let common = Common {
        tls: false,
        ws: false,
        broker_pid: None,
        ..common.clone()
    };
    let addresses = sinks.iter().map(|(address, _)| *address).collect();
    let outcome = run::execute(plan, &common, addresses, progress);
    for (_, sink) in &sinks {
        sink.stopper().stop();
    }
    for (_, sink) in sinks {
        sink.join()?;
    }
    outcome
}

/// As many as the generator has threads, if there are CPUs for them, each on one that the generator
/// was not given.
fn sinks(common: &Common) -> Result<Vec<(SocketAddr, Running)>, Failure> {
    let threads = usize::from(common.threads);
    let cpus = process::cpus_online();
    let Some(list) = &common.cpus else {
        let count = cpus.saturating_sub(threads).clamp(1, threads);
        return (0..count).map(|_| sink::start(Placed::Anywhere)).collect();
    };
    let (taken, spare) = list.0.split_at(threads.min(list.0.len()));
    let others = (0..cpus).filter(|cpu| !list.0.contains(cpu));
    let mut free = spare.iter().copied().chain(others);
    let mut sinks = Vec::new();
    for _ in taken {
        let Some(cpu) = free.next() else { break };
        // A CPU that is there may be closed to this process.
        match sink::start(Placed::Pinned(cpu)) {
            Ok(sink) => sinks.push(sink),
            Err(_) => break,
        }
    }
    if sinks.is_empty() {
        sinks.push(sink::start(Placed::Anywhere)?);
    }
    Ok(sinks)
}
