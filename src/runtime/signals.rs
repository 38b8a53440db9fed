//! How the process ends: by a signal, or because a shard panicked.

#![forbid(unsafe_code)]

use super::Stopper;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;
use std::io;
use std::time::Duration;

/// The process is gone this long after the first signal, whatever its connections do.
const EXIT_AFTER: Duration = Duration::from_millis(4500);
/// Exit status after a panic, as Rust's own.
const EXIT_PANIC: i32 = 101;
/// Exit status when a second signal cut the orderly end short.
const EXIT_HURRIED: i32 = 1;

/// Stops the shards at the first SIGINT or SIGTERM, and exits at once at the second.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_on_signals(stopper: Stopper) -> io::Result<()> {
    let mut signals = Signals::new([SIGINT, SIGTERM])?;
    let watch = move || {
        let mut pending = signals.forever();
        if let Some(signal) = pending.next() {
            let name = if signal == SIGINT {
                "SIGINT"
            } else {
                "SIGTERM"
            };
            tracing::info!("{name}: closing connections");
            stopper.stop();
            // Not in the way of a second signal.
            let timer = || {
                std::thread::sleep(EXIT_AFTER);
                tracing::warn!("some connections did not close in time");
                std::process::exit(0);
            };
            let _ = std::thread::Builder::new()
                .name("fastmq-exit".into())
                .spawn(timer);
        }
        if pending.next().is_some() {
            std::process::exit(EXIT_HURRIED);
        }
    };
    std::thread::Builder::new()
        .name("fastmq-signals".into())
        .spawn(watch)?;
    Ok(())
}

/// Makes any panic end the process, after it has been reported.
///
/// Sessions of a shard that is gone would neither answer nor time out; a supervisor can only restart
/// what has exited.
pub fn exit_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        report(info);
        std::process::exit(EXIT_PANIC);
    }));
}
