//! How a bridge is told, while it runs, to end or to become another one.

#![forbid(unsafe_code)]

use super::options::{LocalLimits, Names};
use super::runner::PreparedBridge;
use crate::clients::wait;
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// A wait has to have some end.
const REST: Duration = Duration::from_secs(86_400);

/// What a bridge is asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Asked {
    /// To say goodbye, since the broker ends.
    Stop,
    /// To end, and leave nothing behind.
    Remove,
    /// To connect again, as it is configured by then.
    Change,
}

/// What a bridge is to be.
#[derive(Debug, Default)]
struct Future {
    /// Another one, and what the broker takes from it by then.
    next: Option<(PreparedBridge, LocalLimits)>,
    is_gone: bool,
    /// The bridge does nothing until it is another one.
    is_resting: bool,
    /// What was to be said to one that rests.
    has_changed: bool,
    /// What all bridges have by then.
    names: Vec<Names>,
}

/// The end of the bridge's thread.
#[derive(Debug)]
pub(super) struct Control {
    socket: UnixStream,
    future: Arc<Mutex<Future>>,
}

/// The end of who reads the configuration. To drop it asks the bridge to end.
#[derive(Debug)]
pub(super) struct Handle {
    socket: UnixStream,
    future: Arc<Mutex<Future>>,
}

/// Both ends.
///
/// # Errors
/// The system's.
pub(super) fn control() -> std::io::Result<(Handle, Control)> {
    let (ours, theirs) = UnixStream::pair()?;
    for socket in [&ours, &theirs] {
        socket.set_nonblocking(true)?;
    }
    let future = Arc::<Mutex<Future>>::default();
    let handle = Handle {
        socket: ours,
        future: future.clone(),
    };
    let control = Control {
        socket: theirs,
        future,
    };
    Ok((handle, control))
}

impl Handle {
    /// Has the bridge be this one from its next connection on, or, if it `is_urgent`, from now on. One that rests goes on if
    /// it `has_changed`.
    pub(super) fn change(
        &mut self,
        next: PreparedBridge,
        limits: LocalLimits,
        names: Vec<Names>,
        is_urgent: bool,
        has_changed: bool,
    ) {
        let mut future = lock(&self.future);
        future.next = Some((next, limits));
        future.names = names;
        future.has_changed |= has_changed;
        if is_urgent || future.is_resting && has_changed {
            // A socket that is full says the same already.
            let _ = self.socket.write(&[0]);
        }
    }

    /// Has the bridge end for good, while others have these.
    pub(super) fn remove(self, names: Vec<Names>) {
        let mut future = lock(&self.future);
        future.is_gone = true;
        future.names = names;
    }
}

fn lock(future: &Mutex<Future>) -> MutexGuard<'_, Future> {
    future.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Control {
    /// What the bridge is asked for, if it is.
    pub(super) fn asked(&self) -> Option<Asked> {
        let mut bytes = [0; 64];
        match (&self.socket).read(&mut bytes) {
            Ok(0) if lock(&self.future).is_gone => Some(Asked::Remove),
            Ok(0) => Some(Asked::Stop),
            Ok(_) => Some(Asked::Change),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                None
            }
            Err(_) => Some(Asked::Stop),
        }
    }

    /// What the bridge is to be from now on, if it is to be another one.
    pub(super) fn take_next(&self) -> Option<(PreparedBridge, LocalLimits)> {
        let mut future = lock(&self.future);
        future.has_changed = false;
        future.next.take()
    }

    /// Waits until the bridge is asked for something.
    pub(super) fn rest(&self) -> Asked {
        {
            let mut future = lock(&self.future);
            if future.has_changed {
                return Asked::Change;
            }
            future.is_resting = true;
        }
        let asked = loop {
            if let Some(asked) = self.wait_until(Instant::now() + REST) {
                break asked;
            }
        };
        lock(&self.future).is_resting = false;
        asked
    }

    /// Whether one of the bridges there are now has that.
    pub(super) fn is_taken(&self, has: impl FnMut(&Names) -> bool) -> bool {
        lock(&self.future).names.iter().any(has)
    }

    /// Waits until then, or until the bridge is asked for something, which it returns.
    pub(super) fn wait_until(&self, until: Instant) -> Option<Asked> {
        loop {
            let mut files = [PollFd::from_borrowed_fd(self.as_fd(), PollFlags::IN)];
            if wait(&mut files, Some(until)).is_err() {
                return Some(Asked::Stop);
            }
            let asked = self.asked();
            if asked.is_some() || Instant::now() >= until {
                return asked;
            }
        }
    }
}

impl AsFd for Control {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
