//! Wakes a shard from any thread, and is what the shard awaits in glommio when it has nothing to do.

use glommio::io::BufferedFile;
use std::io;
use std::os::fd::{AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::sync::Arc;

/// An eventfd. Clones wake the same shard.
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
        let fd = rustix::event::eventfd(0, rustix::event::EventfdFlags::CLOEXEC)?;
        Ok(Self { fd: Arc::new(fd) })
    }

    /// Ends the shard's sleep, or its next one if it is awake.
    pub fn wake(&self) {
        // The only possible failure is a counter that is full, and then the shard wakes anyway.
        let _ = rustix::io::write(&*self.fd, &1_u64.to_ne_bytes());
    }

    pub(super) fn raw_fd(&self) -> RawFd {
        self.fd.as_raw_fd()
    }

    /// A file of glommio's on the same eventfd. Reading 8 bytes of it completes with the next wake.
    /// Must be called on an executor's thread.
    ///
    /// # Errors
    /// When no file descriptor is left.
    pub fn sleep_file(&self) -> io::Result<BufferedFile> {
        let fd = self.fd.try_clone()?;
        // SAFETY: a fresh descriptor, and the file is its only owner.
        Ok(unsafe { BufferedFile::from_raw_fd(fd.into_raw_fd()) })
    }
}
