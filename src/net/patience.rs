//! Waiting for what passes: another process is about to end, or has ended, and what it held is given back a while later.
//!
//! A broker is started in place of one that is told to end, or that was just killed: the kernel takes the rings of such a
//! process down after it has gone, and then what they held.

#![forbid(unsafe_code)]

use std::io;
use std::thread::sleep;
use std::time::{Duration, Instant};

/// The kernel needs milliseconds to give locked memory back, on a loaded machine a second. More than that is not a matter
/// of time.
const MEMORY_PATIENCE: Duration = Duration::from_secs(5);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(10);

/// Until when something is waited for.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    until: Instant,
}

impl Patience {
    /// From now on for so long.
    #[must_use]
    pub fn of(limit: Duration) -> Self {
        Self {
            until: Instant::now() + limit,
        }
    }

    /// What `attempt` makes, as soon as nothing is in its way that passes. `passing` says in words what is, if that is so of
    /// an error, and the log that it is waited for.
    ///
    /// # Errors
    /// What `attempt` said at last: one that does not pass at once, any other when it has not passed.
    pub fn wait<T, E>(
        self,
        passing: impl Fn(&E) -> Option<String>,
        mut attempt: impl FnMut() -> Result<T, E>,
    ) -> Result<T, E> {
        let mut is_said = false;
        loop {
            let result = attempt();
            let in_the_way = result.as_ref().err().and_then(&passing);
            let left = self.until.saturating_duration_since(Instant::now());
            let Some(words) = in_the_way.filter(|_| !left.is_zero()) else {
                return result;
            };
            if !is_said {
                tracing::info!("{words}: waiting for it, up to {:.1} s", left.as_secs_f32());
                is_said = true;
            }
            sleep(BETWEEN_ATTEMPTS);
        }
    }
}

/// What `attempt` makes, as soon as there is memory for it. Rings are locked memory, of which a user has so much in all
/// processes together.
///
/// # Errors
/// What `attempt` said at last: out of memory for 5 s, or anything else at once.
pub fn when_memory_can_be_locked<T>(attempt: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    let passing = |error: &io::Error| {
        (error.kind() == io::ErrorKind::OutOfMemory)
            .then(|| "no more memory can be locked at the moment".to_owned())
    };
    Patience::of(MEMORY_PATIENCE).wait(passing, attempt)
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
    fn what_is_not_given_back_is_an_error_after_a_while() {
        let mut attempts = 0;
        let passing = |error: &&str| Some((*error).to_owned());
        let refused = Patience::of(BETWEEN_ATTEMPTS).wait(passing, || -> Result<(), _> {
            attempts += 1;
            Err("in use")
        });
        assert_eq!(refused, Err("in use"));
        assert!(attempts > 1, "it was waited for");
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
