//! The generator against the sink: what it could deliver at most.

use fastmq::runtime::Placed;

use crate::failure::Failure;
use crate::options::{Common, Workload};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::run::{self, Outcome};
use crate::sink;

/// How long the ceiling is measured before a run.
const CEILING_S: f64 = 0.4;

/// Runs the load against a sink, on the first CPU that the generator was not given.
pub fn execute(
    workload: &Workload,
    common: &Common,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let threads = usize::from(common.threads);
    let placed = match &common.cpus {
        Some(cpus) => {
            let cores = std::thread::available_parallelism().map_or(1, usize::from);
            let taken = &cpus.0[..threads.min(cpus.0.len())];
            let free = cpus.0.get(threads).copied();
            match free.or_else(|| (0..cores).find(|cpu| !taken.contains(cpu))) {
                Some(cpu) => Placed::Pinned(cpu),
                None => Placed::Anywhere,
            }
        }
        None => Placed::Anywhere,
    };
    let (address, sink) = sink::start(placed)?;
    let common = Common {
        tls: false,
        ws: false,
        broker_pid: None,
        ..common.clone()
    };
    let plan = Plan::new(workload, &common)?;
    let outcome = run::execute(plan, &common, address, progress);
    sink.stopper().stop();
    sink.join()?;
    outcome
}

/// Deliveries a second that this generator reaches at most, with this payload and QoS.
pub fn ceiling(common: &Common) -> Result<f64, Failure> {
    let common = Common {
        duration: CEILING_S,
        warmup: 0.1,
        drain: 0.2,
        rate: None,
        topics: 1,
        topic_aliases: false,
        window: None,
        ..common.clone()
    };
    let workload = Workload::SelfTest {
        pairs: common.threads.into(),
        discard: false,
    };
    let outcome = execute(&workload, &common, &Progress::none())?;
    match outcome.error {
        Some(error) => Err(error),
        None => Ok(outcome.delivered as f64 / outcome.measured_s.max(1e-9)),
    }
}
