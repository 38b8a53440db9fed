//! `loadgen`: drives an MQTT broker and says what was delivered, how fast, and at what cost.
//!
//! [`plan`] says who talks to whom, [`engine`] is one thread's clients on the project's data path,
//! [`mod@run`] conducts the engines, [`accounting`] keeps the truth of every message, [`breaches`]
//! of every packet, and [`result`] says it. [`sink`] is what the generator is measured against.

#![forbid(unsafe_code)]

mod accounting;
mod breaches;
mod clock;
mod engine;
mod failure;
mod find_max;
mod interrupt;
mod manual;
mod options;
mod plan;
mod process;
mod progress;
mod report_html;
mod result;
mod run;
mod self_test;
mod sink;
mod transport;
mod wire;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use crate::failure::Failure;
use crate::options::{Common, Options, Workload};
use crate::plan::{Plan, Script};
use crate::progress::Progress;
use crate::result::{About, Destination, RunResult};
use crate::run::Outcome;
use crate::self_test::Ceiling;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// The broker broke a promise.
const EXIT_BROKEN: u8 = 1;
/// The run could not be made, or not finished.
const EXIT_FAILED: u8 = 2;

fn main() -> ExitCode {
    if let Some(status) = report_html::run_if_asked() {
        return status;
    }
    if let Some(status) = manual::run_if_asked() {
        return status;
    }
    let options = Options::from_command_line();
    let started = SystemTime::now();
    let finished = Files::open(&options.common).and_then(|files| {
        let (result, outcome) = run(&options, started)?;
        Ok(finish(&options, files, started, &result, &outcome))
    });
    ExitCode::from(finished.unwrap_or_else(|failure| {
        eprintln!("loadgen: {failure}");
        EXIT_FAILED
    }))
}

/// What a run writes besides standard output.
struct Files {
    json: Option<Destination>,
    hdr: Option<Destination>,
}

impl Files {
    fn open(common: &Common) -> Result<Self, Failure> {
        let open = |path: Option<&PathBuf>| path.map(|path| Destination::open(path)).transpose();
        let is_file = |path: &&PathBuf| path.as_os_str() != "-";
        let files = Self {
            json: open(common.json.as_ref().filter(is_file))?,
            hdr: open(common.hdr.as_ref())?,
        };
        if let (Some(json), Some(hdr)) = (&files.json, &files.hdr)
            && json.is_same_file(hdr)
        {
            let path = json.path().display();
            let said = format!("--json and --hdr {path}: two results cannot be in one file");
            return Err(Failure::Options(said));
        }
        Ok(files)
    }
}

fn run(options: &Options, started: SystemTime) -> Result<(RunResult, Outcome), Failure> {
    let common = &options.common;
    let plan = Plan::new(&options.workload, common)?;
    let mut about = About {
        options,
        name: plan.name,
        mode: match plan.script {
            Script::Load if common.find_max => "find-max",
            Script::Load if !plan.schedules.is_empty() => result::OPEN,
            Script::Load => "closed",
            _ => result::COUNTED,
        },
        address: format!("{}:{}", common.host, common.port),
        started,
        ceiling: None,
        found_rate_per_s: None,
        broker_configuration: common.broker_config.as_deref().map(read).transpose()?,
        warnings: Vec::new(),
    };
    let is_self_test = matches!(options.workload, Workload::SelfTest { .. });
    if is_self_test {
        about.name = result::SELF_TEST;
        about.address = "a sink of its own".to_owned();
        let outcome = self_test::execute(&options.workload, common, &Progress::new())?;
        about.ceiling = Some(Ceiling::of(&outcome));
        return Ok((RunResult::new(about, &outcome), outcome));
    }
    run::allow_files(&plan, 1)?;
    let address = run::resolve(common)?;
    // Cheaper than to find out after the self-test that nobody listens.
    drop(
        std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(10))
            .map_err(|source| match source.kind() {
                std::io::ErrorKind::ConnectionRefused => Failure::Refused(address),
                _ => Failure::Connect { address, source },
            })?,
    );
    if plan.script == Script::Load && !common.no_ceiling {
        match self_test::ceiling(&options.workload, common) {
            Ok(ceiling) => about.ceiling = Some(ceiling),
            Err(failure) => about.warnings.push(format!(
                "the generator's own ceiling is not known: {failure}"
            )),
        }
    }
    if let Some(process_id) = common.broker_pid
        && process::listens(process_id, address.port()) == Some(false)
    {
        about.warnings.push(format!(
            "process {process_id} does not listen on port {}: is it the broker?",
            address.port()
        ));
    }
    let progress = Progress::new();
    let outcome = if common.find_max {
        let (outcome, rate, notes) =
            find_max::execute(&options.workload, common, address, &progress)?;
        about.warnings.extend(notes);
        about.found_rate_per_s = outcome.error.is_none().then_some(rate);
        outcome
    } else {
        run::execute(plan, common, vec![address], &progress)?
    };
    Ok((RunResult::new(about, &outcome), outcome))
}

fn read(path: &Path) -> Result<String, Failure> {
    std::fs::read_to_string(path).map_err(|error| Failure::File {
        path: path.display().to_string(),
        reason: error.to_string(),
    })
}

/// Says it, and gives the exit status.
fn finish(
    options: &Options,
    mut files: Files,
    started: SystemTime,
    result: &RunResult,
    outcome: &Outcome,
) -> u8 {
    let mut status = if outcome.error.is_some() {
        EXIT_FAILED
    } else {
        u8::from(!outcome.broken.is_empty()) * EXIT_BROKEN
    };
    if let Err(error) = result.write(&options.common, files.json.as_mut()) {
        eprintln!("loadgen: the result cannot be written: {error}");
        status = EXIT_FAILED;
    }
    if let Some(file) = &mut files.hdr
        && let Err(error) = result::write_hdr_log(file, started, outcome)
    {
        let path = file.path().display();
        eprintln!("loadgen: {path} cannot be written: {error}");
        status = EXIT_FAILED;
    }
    if let Some(failure) = &outcome.error {
        eprintln!("loadgen: {failure}");
    }
    for promise in &outcome.broken {
        eprintln!("loadgen: BROKEN PROMISE: {promise}");
    }
    status
}
