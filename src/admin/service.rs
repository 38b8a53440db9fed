//! What the service manager is told: systemd's notification protocol, through the `sd-notify` crate,
//! which speaks it in Rust and has no dependencies of its own.
//!
//! Outside of a service all of this does nothing.

#![forbid(unsafe_code)]

use sd_notify::NotifyState;
use std::time::Duration;

/// The broker accepts connections. `status` is shown by `systemctl status`.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// The configuration is being read again; [`notify_ready`] follows, whatever became of it.
pub fn notify_reloading() {
    match NotifyState::monotonic_usec_now() {
        // Without the time, systemd would take it for a failure of the service.
        Ok(now) => notify(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!("the time of a reload is unknown: {error}"),
    }
}

/// The broker ends.
pub fn notify_stopping() {
    notify(&[
        NotifyState::Stopping,
        NotifyState::Status("closing connections"),
    ]);
}

/// How often the service manager wants to hear that all is well, if it does.
pub(super) fn watchdog_interval() -> Option<Duration> {
    sd_notify::watchdog_enabled().filter(|interval| !interval.is_zero())
}

/// All is well.
pub(super) fn notify_alive() {
    notify(&[NotifyState::Watchdog]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!("the service manager cannot be told: {error}");
    }
}
