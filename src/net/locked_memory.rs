//! Rings are locked memory, of which a user has so much, in all processes together.
//!
//! The kernel takes the rings of a process that has ended back a while after it is gone: a broker that is started in
//! place of one that was just killed can find too little left for a moment.

#![forbid(unsafe_code)]

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The kernel needs milliseconds, on a loaded machine a second. More than that is not a matter of time.
const PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(20);

/// What `attempt` makes, as soon as there is memory for it.
///
/// # Errors
/// What `attempt` said at last: out of memory for 5 s, or anything else at once.
pub fn when_memory_can_be_locked<T>(attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    within(PATIENCE, attempt)
}

fn within<T>(patience: Duration, mut attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let begun = Instant::now();
    let mut told = false;
    loop {
        match attempt() {
            Err(error)
                if error.kind() == io::ErrorKind::OutOfMemory && begun.elapsed() < patience =>
            {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(
                        "no more memory can be locked at the moment: waiting for up to {} s",
                        patience.as_secs()
                    );
                }
                sleep(BETWEEN_ATTEMPTS);
            }
            result => return result,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn out_of_memory() -> io::Error {
        io::Error::from_raw_os_error(libc::ENOMEM)
    }

    #[test]
    fn memory_that_is_given_back_meanwhile_is_used() {
        let mut attempts = 0;
        let made = when_memory_can_be_locked(|| {
            attempts += 1;
            if attempts < 3 {
                Err(out_of_memory())
            } else {
                Ok("made")
            }
        });
        assert_eq!((made.ok(), attempts), (Some("made"), 3));
    }

    #[test]
    fn memory_that_nobody_gives_back_is_an_error_after_a_while() {
        let refused = within(BETWEEN_ATTEMPTS, || -> io::Result<()> {
            Err(out_of_memory())
        });
        assert_eq!(
            refused.map_err(|error| error.kind()),
            Err(io::ErrorKind::OutOfMemory)
        );
    }

    #[test]
    fn an_error_that_does_not_pass_is_told_at_once() {
        let mut attempts = 0;
        let refused = when_memory_can_be_locked(|| -> io::Result<()> {
            attempts += 1;
            Err(io::Error::from_raw_os_error(libc::EPERM))
        });
        assert_eq!(
            refused.map_err(|error| error.kind()),
            Err(io::ErrorKind::PermissionDenied)
        );
        assert_eq!(attempts, 1);
    }
}
