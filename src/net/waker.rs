//! Wakes a shard from any thread.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An eventfd that the shard's ring polls. Clones wake the same shard.
#[derive(Clone, Debug)]
pub struct Waker {
    fd: Arc<OwnedFd>,
}

impl Waker {
    /// Makes one.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn new() -> io::Result<Self> {
        let flags = rustix::event::EventfdFlags::CLOEXEC | rustix::event::EventfdFlags::NONBLOCK;
        let fd = rustix::event::eventfd(0, flags)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Ends the shard's wait, or its next one if it is awake.
    pub fn wake(&self) {
        // The only possible failure is a counter that is full, and then the shard wakes anyway.
        let _ = rustix::io::write(&*self.fd, &1_u64.to_ne_bytes());
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }
}
