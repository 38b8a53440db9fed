//! `loadgen`: drives an MQTT broker and says what was delivered, how fast, and at what cost.
//!
//! [`workload`] says who talks to whom, [`engine`] runs it over many [`connection`]s on one thread,
//! [`accounting`] keeps the truth of every message and [`report`] prints it. [`idle`] and
//! [`connect`] are the two workloads in which nobody publishes.

#![forbid(unsafe_code)]

mod accounting;
mod clock;
mod connect;
mod connection;
mod engine;
mod failure;
mod idle;
mod options;
mod process;
mod report;
mod report_html;
mod setup;
mod wire;
mod workload;

use std::process::ExitCode;

use clap::Parser;

use crate::failure::Failure;
use crate::options::{Options, Workload};
use crate::report::Report;
use crate::workload::Plan;

fn main() -> ExitCode {
    if let Some(status) = report_html::run_if_asked() {
        return status;
    }
    let options = Options::parse();
    let report = match run(&options) {
        Ok(report) => report,
        Err(failure) => {
            eprintln!("loadgen: {failure}");
            return ExitCode::from(2);
        }
    };
    if let Err(error) = report.write(&options.common) {
        eprintln!("loadgen: the report cannot be written: {error}");
        return ExitCode::from(2);
    }
    ExitCode::from(u8::from(!report.broken_promises.is_empty()))
}

fn run(options: &Options) -> Result<Report, Failure> {
    let common = &options.common;
    if let Some(cpu) = common.cpu {
        process::pin(cpu).map_err(|source| Failure::Pin { cpu, source })?;
    }
    match options.workload {
        Workload::Idle {
            connections,
            subscribe,
        } => idle::run(common, connections, subscribe),
        Workload::Connect { count, concurrency } => connect::run(common, count, concurrency),
        _ => match Plan::new(options) {
            Some(plan) => engine::run(common, plan),
            None => unreachable!("every other workload publishes"),
        },
    }
}
