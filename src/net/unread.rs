//! How much of what a socket was given its peer has not acknowledged.
//!
//! The kernel says that a socket has room again once a third of what it holds has left, which are seconds where a
//! peer reads slowly. That it reads at all shows earlier here.

use std::os::fd::{AsRawFd, BorrowedFd};

/// Bytes that were sent on `socket` and not acknowledged. Nothing where that is not to be had.
pub(super) fn unread_size(socket: BorrowedFd<'_>) -> usize {
    let mut size: libc::c_int = 0;
    // SAFETY: the value is an `int` that lives until the call returns, which is what this request writes.
    let result = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut size) };
    if result < 0 {
        return 0;
    }
    usize::try_from(size).unwrap_or_default()
}
