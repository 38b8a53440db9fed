//! SIGINT and SIGTERM: an orderly end where there is something to bring in order.

#![forbid(unsafe_code)]

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};

/// Becomes readable when the process is asked to end.
#[derive(Debug)]
pub struct Signals {
    reader: UnixStream,
    ends_at_once: Arc<AtomicBool>,
}

impl Signals {
    /// Takes the two signals over. They end the process at once until
    /// [`hold_back`](Self::hold_back) is called.
    ///
    /// # Errors
    /// The system's.
    pub fn new() -> io::Result<Self> {
        let ends_at_once = Arc::new(AtomicBool::new(true));
        let (reader, writer) = UnixStream::pair()?;
        for signal in [SIGINT, SIGTERM] {
            // The order counts: the default action goes first, and only then the byte.
            flag::register_conditional_default(signal, Arc::clone(&ends_at_once))?;
            low_level::pipe::register(signal, writer.try_clone()?)?;
        }
        Ok(Self {
            reader,
            ends_at_once,
        })
    }

    /// From now on somebody waits for [`Signals`] to become readable.
    pub fn hold_back(&self) {
        self.ends_at_once.store(false, Ordering::SeqCst);
    }

    /// From now on nobody does: connecting can take long.
    pub fn let_through(&self) {
        self.ends_at_once.store(true, Ordering::SeqCst);
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.reader.as_fd()
    }
}
