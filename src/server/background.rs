//! `-d`: the broker goes on without the terminal that started it.
//!
//! The process starts itself again, apart from the terminal, and ends when the other one serves or
//! has failed. Forking would need `unsafe`, and could not take threads along anyway.

#![forbid(unsafe_code)]

use super::Failure;
use crate::cli::{Arguments, EXIT_BAD_ARGUMENTS};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, ExitStatus, Stdio};

/// What the one in the background says when it serves.
const READY: &[u8] = b"ready\n";

/// Starts the broker in the background and waits until it serves.
///
/// # Errors
/// When it does not; it has said why. With the exit status that it ended with.
pub(super) fn start() -> Result<(), Failure> {
    let status = try_start().map_err(Failure::start)?;
    let Some(status) = status else { return Ok(()) };
    let said = format!("the broker did not start ({status})");
    Err(match status.code() {
        Some(code) if code == i32::from(EXIT_BAD_ARGUMENTS) => {
            Failure::configuration(format!("Error: {said}"))
        }
        _ => Failure::start(said),
    })
}

/// How it ended, if it does not serve.
fn try_start() -> io::Result<Option<ExitStatus>> {
    let mut arguments = std::env::args_os();
    let _ = arguments.next();
    // It has no use for a standard input, and its log may have one for the standard output.
    let (ours, theirs) = UnixStream::pair()?;
    let mut child = Command::new(std::env::current_exe()?)
        .args(arguments)
        .arg("--in-background")
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .spawn()?;
    let mut said = Vec::new();
    ours.take(READY.len() as u64)
        .read_to_end(&mut said)
        .map_err(|error| io::Error::other(format!("the broker is not heard of: {error}")))?;
    if said == READY {
        return Ok(None);
    }
    child.wait().map(Some)
}

/// Whether this process is the one in the background.
#[derive(Debug)]
pub(super) struct Background(bool);

impl Background {
    /// Parts from the terminal if it is.
    pub(super) fn of(arguments: &Arguments) -> Self {
        if arguments.in_background {
            // It fails for the leader of a session, which then has no terminal to part from.
            let _ = rustix::process::setsid();
        }
        Self(arguments.in_background)
    }

    /// The broker serves: whoever started it may go, and with it the terminal.
    pub(super) fn is_ready(&self) {
        if !self.0 {
            return;
        }
        let told = rustix::stdio::stdin()
            .try_clone_to_owned()
            .and_then(|starter| File::from(starter).write_all(READY));
        if let Err(error) = told {
            tracing::warn!("who started the broker is not told that it serves: {error}");
        }
        let closed = File::options()
            .read(true)
            .write(true)
            .open("/dev/null")
            .and_then(|null| {
                rustix::stdio::dup2_stdin(&null)?;
                rustix::stdio::dup2_stdout(&null)?;
                rustix::stdio::dup2_stderr(&null)?;
                Ok(())
            });
        if let Err(error) = closed {
            tracing::warn!("the terminal is not let go of: {error}");
        }
    }
}
