//! One run: starts the engines, tells them what to do when, and collects what they found.
//!
//! Read next: [`conductor`] (what is commanded and waited for), [`verdict`] (what became of every
//! message).

mod conductor;
mod verdict;

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::mpsc::channel;

use fastmq::runtime::{self, NoticesSender, Placed};
use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::engine::{Engine, Run, histogram};
use crate::failure::Failure;
use crate::options::Common;
use crate::plan::{Plan, Script};
use crate::process::{self, Cost};
use crate::progress::Progress;
use crate::result::Truth;

use self::conductor::Conductor;

/// Files this process needs besides its connections, for one thread and for each further one.
const OTHER_FILES: u64 = 32;
const THREAD_FILES: u64 = 16;

/// One line of the timeline.
#[derive(Debug)]
pub struct Line {
    pub start_s: f64,
    pub end_s: f64,
    pub published: u64,
    pub delivered: u64,
    pub intended: Histogram<u64>,
    threads: usize,
}

/// Messages stored before anybody asked for them.
#[derive(Clone, Copy, Debug)]
pub struct Stored {
    pub count: u64,
    /// From the first one sent to the last one acknowledged.
    pub seconds: f64,
    pub cost: Option<Cost>,
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    pub error: Option<Failure>,
    pub measured_s: f64,
    pub published: u64,
    pub delivered: u64,
    /// What the schedules ask for, where every load has one.
    pub due_per_s: Option<f64>,
    pub truth: Truth,
    /// Every promise the broker broke.
    pub broken: Vec<String>,
    /// What went wrong and breaks none.
    pub allowed: Vec<String>,
    pub intended: Histogram<u64>,
    pub actual: Option<Histogram<u64>>,
    pub lines: Vec<Line>,
    pub overruns: u64,
    pub window_restarts: u64,
    /// How many windows a broker's Receive Maximum made smaller, and the smallest one.
    pub windows_restricted: Option<(u64, u64)>,
    /// Messages that were to be delivered in the whole run.
    pub expected: u64,
    /// Deliveries of what was published while it was measured, where that does not depend on whose it is.
    pub due_deliveries: Option<u64>,
    pub cost: Option<Cost>,
    /// What was delivered while that was used.
    pub cost_delivered: u64,
    pub generator_cpu_s: f64,
    /// Of the busiest thread.
    pub cpu_share: f64,
    /// What storing took, where messages are stored before they are asked for.
    pub stored: Option<Stored>,
    pub connections: u64,
    /// Resident memory of the broker before and with the connections of an idle run.
    pub memory_kib: Option<(u64, u64)>,
}

/// Share of what was due from which what is missing is told beside percentiles: that of their p99.
const MISSING_SHARE: f64 = 0.01;

impl Outcome {
    /// How much of what was due never arrived, if it is so much that the percentiles of the rest say little.
    fn missing(&self) -> f64 {
        let missing = self.truth.lost + self.truth.unsent;
        let due = self.expected + self.truth.unsent;
        missing as f64 / due.max(1) as f64
    }

    pub fn missing_share(&self) -> Option<f64> {
        let share = self.missing();
        (share >= MISSING_SHARE && !self.intended.is_empty()).then_some(share)
    }
}

pub fn resolve(common: &Common) -> Result<SocketAddr, Failure> {
    let resolved = (common.host.as_str(), common.port).to_socket_addrs();
    let first = resolved.and_then(|mut all| {
        all.next()
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    });
    first.map_err(|source| Failure::Address {
        host: common.host.clone(),
        port: common.port,
        source,
    })
}

/// Makes the run. An error here means that nothing was started.
pub fn execute(
    plan: Plan,
    common: &Common,
    addresses: Vec<SocketAddr>,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let connections = plan.clients.len() as u64;
    let threads = usize::from(plan.threads);
    allow_files(&plan, 1)?;
    runtime::preflight(threads)?;
    let placed = place(common, threads)?;
    let run = Arc::new(Run::new(plan, common, addresses, Clock::start())?);
    let (sender, events) = channel();
    let engines = run.clone();
    let listeners = (0..threads).map(|_| Vec::new()).collect();
    let running = runtime::start(
        &placed,
        listeners,
        &NoticesSender::nowhere(),
        move |shard, _| Engine::new(shard, &engines, sender.clone()),
    )?;
    let mut conductor = Conductor {
        common,
        run,
        events,
        progress,
        lines: BTreeMap::new(),
        intended: histogram(),
        actual: histogram(),
        published: 0,
        delivered: 0,
        busy: vec![(0.0, 0.0); threads],
        ends: Vec::new(),
        cost: None,
        cost_delivered: None,
        stored: None,
        memory_kib: None,
        measured_s: None,
        heeds_interrupts: false,
    };
    let played = conductor.play();
    Ok(conductor.finish(played.err(), running, connections))
}

/// Raises the limit of open files, and says so if it cannot be enough, for so many files a connection.
pub fn allow_files(plan: &Plan, each: u64) -> Result<(), Failure> {
    let count = plan.clients.len() as u64;
    let connections = match plan.script {
        Script::Visits => count.min(plan.under_way_max as u64),
        _ => count,
    };
    let limit = process::raise_open_files_limit()?;
    let further_threads = u64::from(plan.threads) - 1;
    let needed_files = each * connections + OTHER_FILES + THREAD_FILES * further_threads;
    if needed_files > limit {
        return Err(Failure::TooFewFiles {
            needed: connections,
            needed_files,
            limit,
        });
    }
    Ok(())
}

fn place(common: &Common, threads: usize) -> Result<Vec<Placed>, Failure> {
    let Some(cpus) = &common.cpus else {
        return Ok(vec![Placed::Anywhere; threads]);
    };
    if cpus.0.len() < threads {
        return Err(Failure::Options(format!(
            "--threads {threads} needs as many --cpus"
        )));
    }
    let pinned = cpus.0[..threads].iter();
    Ok(pinned.map(|&cpu| Placed::Pinned(cpu)).collect())
}
