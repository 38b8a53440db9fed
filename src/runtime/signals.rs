//! What the process is told by signals, and how it ends: by one, or because a shard panicked.

#![forbid(unsafe_code)]

use super::step_back;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2, SIGXFSZ};
use signal_hook::iterator::Signals;
use std::io;
use std::sync::Arc;
use std::time::Duration;

/// The process is gone this long after the first signal to end, whatever its connections do.
const EXIT_AFTER: Duration = Duration::from_millis(4500);
/// Exit status after a panic, as Rust's own.
const EXIT_PANIC: i32 = 101;
/// Exit status when a second signal cut the orderly end short.
const EXIT_HURRIED: i32 = 1;

/// What an operator asks of a broker that goes on, by the signals that Mosquitto has for it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Request {
    /// SIGHUP: read the configuration again, and open the log again.
    Reload,
    /// SIGUSR1: save what is to be saved.
    Save,
    /// SIGUSR2: print the tree of subscriptions and retained messages.
    DumpTree,
}

/// Signals that are kept for [`on_signals`] instead of ending the process, which is what they do by themselves.
#[derive(Debug)]
pub struct HeldSignals(Signals);

impl HeldSignals {
    /// What an operator asks for. Whoever rotates a log or renews a certificate while a store is read must not end
    /// the broker.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn requests() -> io::Result<Self> {
        Ok(Self(Signals::new([SIGHUP, SIGUSR1, SIGUSR2])?))
    }

    /// The end. From before the first Client is served, which is owed a DISCONNECT then and its Will; not earlier, since
    /// there is no reason to wait for a store to be read.
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub fn ends() -> io::Result<Self> {
        Ok(Self(Signals::new([SIGINT, SIGTERM])?))
    }
}

/// Has a write beyond the largest size of a file (`ulimit -f`) fail, as on a full disk: the signal that comes with it ends
/// the process by itself.
///
/// # Errors
/// When the handler cannot be installed.
pub fn outlive_file_size_limit() -> io::Result<()> {
    // To be handled is all there is to it.
    signal_hook::flag::register(SIGXFSZ, Arc::default()).map(drop)
}

/// Calls `stop` at the first of the signals to end, and exits at once at the second; calls `handle` for every
/// request. Both on a thread of their own. `flush` is called before a process exits that has said why.
///
/// # Errors
/// When there can be no threads.
pub fn on_signals(
    HeldSignals(mut ends): HeldSignals,
    HeldSignals(mut requests): HeldSignals,
    stop: impl FnOnce() + Send + 'static,
    flush: impl FnOnce() + Send + 'static,
    mut handle: impl FnMut(Request) + Send + 'static,
) -> io::Result<()> {
    let watch = move || {
        let mut pending = ends.forever();
        if let Some(signal) = pending.next() {
            let name = if signal == SIGINT {
                "SIGINT"
            } else {
                "SIGTERM"
            };
            tracing::info!("{name}: closing connections");
            // Not in the way of a second signal.
            let timer = || {
                std::thread::sleep(EXIT_AFTER);
                tracing::warn!("some connections did not close in time");
                flush();
                std::process::exit(0);
            };
            let _ = std::thread::Builder::new()
                .name("fastmq-exit".into())
                .spawn(timer);
            stop();
        }
        if pending.next().is_some() {
            std::process::exit(EXIT_HURRIED);
        }
    };
    std::thread::Builder::new()
        .name("fastmq-signals".into())
        .spawn(watch)?;
    // Apart from the others: a slow disk must not keep the broker from ending.
    std::thread::Builder::new()
        .name("fastmq-reload".into())
        .spawn(move || {
            step_back();
            for signal in &mut requests {
                handle(match signal {
                    SIGHUP => Request::Reload,
                    SIGUSR1 => Request::Save,
                    _ => Request::DumpTree,
                });
            }
        })?;
    Ok(())
}

/// Makes any panic end the process, after it has been reported: to standard error, which a broker in the background
/// does not have, and to `say`.
///
/// Sessions of a shard that is gone would neither answer nor time out; a supervisor can only restart
/// what has exited.
pub fn exit_on_panic(say: impl Fn(&str) + Send + Sync + 'static) {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        say(&info.to_string());
        std::process::exit(EXIT_PANIC);
    }));
}
