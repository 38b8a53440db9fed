//! The program: a broker, or one of the commands beside it.

#![forbid(unsafe_code)]

use fastmq::cli::Arguments;
use fastmq::server;
use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::parse_process() {
        Ok(arguments) => arguments,
        Err(status) => return ExitCode::from(status),
    };
    match &arguments.command {
        Some(command) => ExitCode::from(command.run()),
        None => server::run(&arguments),
    }
}
