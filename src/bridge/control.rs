//! How a bridge is told, while it runs, to end or to become another one.

#![forbid(unsafe_code)]

use super::options::LocalLimits;
use super::runner::{PreparedBridge, wait};
use rustix::event::{PollFd, PollFlags};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

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

/// What a bridge is to be, and what the broker takes from it by then.
type Next = Arc<Mutex<Option<(PreparedBridge, LocalLimits)>>>;

const CHANGE: u8 = b'c';
const REMOVE: u8 = b'r';

/// The end of the bridge's thread.
#[derive(Debug)]
pub(super) struct Control {
    socket: UnixStream,
    next: Next,
}

/// The end of who reads the configuration. To drop it asks the bridge to end.
#[derive(Debug)]
pub(super) struct Handle {
    socket: UnixStream,
    next: Next,
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
    let next = Next::default();
    let handle = Handle {
        socket: ours,
        next: next.clone(),
    };
    let control = Control {
        socket: theirs,
        next,
    };
    Ok((handle, control))
}

impl Handle {
    /// Has the bridge be this one from its next connection on, or, if it `is_urgent`, from now on.
    pub(super) fn change(&mut self, next: PreparedBridge, limits: LocalLimits, is_urgent: bool) {
        let next = (next, limits);
        *self.next.lock().unwrap_or_else(PoisonError::into_inner) = Some(next);
        if is_urgent {
            // A socket that is full says the same already; nobody is there once the bridge has ended.
            let _ = self.socket.write(&[CHANGE]);
        }
    }

    /// Has the bridge end for good.
    pub(super) fn remove(mut self) {
        let _ = self.socket.write(&[REMOVE]);
    }
}

impl Control {
    /// What the bridge is asked for, if it is.
    pub(super) fn asked(&self) -> Option<Asked> {
        let mut bytes = [0; 64];
        match (&self.socket).read(&mut bytes) {
            Ok(0) => Some(Asked::Stop),
            Ok(size) if bytes.get(..size).unwrap_or_default().contains(&REMOVE) => {
                Some(Asked::Remove)
            }
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
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        next.take()
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
