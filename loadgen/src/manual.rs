//! `loadgen manual FOLDER`: writes its manual pages and its completions of shells, for packages.

use std::path::Path;
use std::process::ExitCode;

use clap::CommandFactory;

use crate::EXIT_FAILED;
use crate::options::Options;

/// Does it if the arguments ask for it; otherwise says nothing.
pub fn run_if_asked() -> Option<ExitCode> {
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next()? != "manual" {
        return None;
    }
    let (Some(folder), None) = (arguments.next(), arguments.next()) else {
        eprintln!("Usage: loadgen manual FOLDER");
        return Some(ExitCode::from(EXIT_FAILED));
    };
    match fastmq::manual::write(&Options::command(), Path::new(&folder)) {
        Ok(()) => Some(ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("loadgen: {}: {error}", Path::new(&folder).display());
            Some(ExitCode::from(EXIT_FAILED))
        }
    }
}
