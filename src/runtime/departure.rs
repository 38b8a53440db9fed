//! How shards end together.
//!
//! First each publishes the Wills that nobody could publish later, while their subscribers are still there, on
//! whichever shard. Once all have, connections are closed. What that hands to other shards is taken before any of them is
//! gone. A shard that hangs is waited for as long as the end may take, and no longer.

#![forbid(unsafe_code)]

use crate::time::Instant;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

/// From the wish to end until nothing is waited for any more.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// How far the shards are.
#[derive(Debug)]
struct Progress {
    shards: AtomicUsize,
    /// Have published their Wills.
    published: AtomicUsize,
    /// Have closed their connections.
    closed: AtomicUsize,
}

/// One shard's part of the end.
#[derive(Clone, Debug)]
pub(super) struct Departure {
    /// Somebody wants the broker to end.
    stop: Arc<AtomicBool>,
    progress: Arc<Progress>,
    step: Step,
    /// Nothing is waited for from then on.
    until: Instant,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Nobody has asked for it.
    Serving,
    Publishing,
    /// Others are.
    Published,
    /// What they have published is taken.
    Taking,
    Closing,
    /// Others are.
    Closed,
    /// What they have handed on is taken.
    Leaving,
}

/// What a shard has to do now.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Duty {
    /// What it always does.
    Turn,
    /// To publish Wills.
    Publish,
    /// To close all connections.
    Close,
    /// Nothing: it may end.
    End,
}

impl Departure {
    pub(super) fn new(stop: Arc<AtomicBool>, shards: usize) -> Self {
        Self {
            stop,
            progress: Arc::new(Progress {
                shards: AtomicUsize::new(shards),
                published: AtomicUsize::new(0),
                closed: AtomicUsize::new(0),
            }),
            step: Step::Serving,
            until: Instant::ZERO,
        }
    }

    /// Some shards have never begun: nobody waits for others.
    pub(super) fn wait_for_nobody(&self) {
        self.progress.shards.store(0, Ordering::Release);
    }

    /// Whether the end has begun.
    pub(super) fn is_under_way(&self) -> bool {
        self.step != Step::Serving
    }

    /// Begins the end once it is wanted.
    // HOT: per turn.
    #[inline]
    pub(super) fn look(&mut self, now: Instant) -> Duty {
        // Pairs with the store in `Stopper::stop`.
        if !self.stop.load(Ordering::Acquire) {
            return Duty::Turn;
        }
        self.step = Step::Publishing;
        self.until = now + SHUTDOWN_MAX;
        Duty::Publish
    }

    /// At the end of a turn, in which all was sent to peers or not, and everything they had sent taken or not.
    /// `is_empty`: no connection is left.
    pub(super) fn advance(&mut self, now: Instant, is_quiet: bool, is_empty: bool) -> Duty {
        let is_late = self.until <= now;
        let all = self.progress.shards.load(Ordering::Acquire);
        // What others sent before they said so is in the rings by then: a turn later they are empty once it is taken.
        let have_all = |count: &AtomicUsize| is_late || count.load(Ordering::Acquire) >= all;
        match self.step {
            Step::Publishing if is_quiet || is_late => {
                self.progress.published.fetch_add(1, Ordering::AcqRel);
                self.step = Step::Published;
            }
            Step::Published if have_all(&self.progress.published) => self.step = Step::Taking,
            Step::Taking if is_quiet || is_late => {
                self.step = Step::Closing;
                return Duty::Close;
            }
            Step::Closing if is_quiet && is_empty || is_late => {
                self.progress.closed.fetch_add(1, Ordering::AcqRel);
                self.step = Step::Closed;
            }
            Step::Closed if have_all(&self.progress.closed) => self.step = Step::Leaving,
            Step::Leaving if is_quiet || is_late => return Duty::End,
            _ => {}
        }
        Duty::Turn
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant::ZERO.add_seconds(seconds)
    }

    fn asked(shards: usize) -> Departure {
        Departure::new(Arc::new(AtomicBool::new(true)), shards)
    }

    #[test]
    fn nothing_ends_before_it_is_asked_for() {
        let stop = Arc::new(AtomicBool::new(false));
        let mut one = Departure::new(stop.clone(), 1);
        assert_eq!(one.look(at(1)), Duty::Turn);
        assert!(!one.is_under_way());
        stop.store(true, Ordering::Release);
        assert_eq!(one.look(at(1)), Duty::Publish);
        assert!(one.is_under_way());
    }

    #[test]
    fn nobody_closes_before_all_have_published_and_nobody_ends_before_all_have_closed() {
        let mut one = asked(2);
        let mut other = one.clone();
        assert!(!one.is_under_way());
        assert_eq!(one.look(at(1)), Duty::Publish);
        assert_eq!(one.advance(at(1), false, false), Duty::Turn, "not all sent");
        for _ in 0..3 {
            assert_eq!(one.advance(at(1), true, true), Duty::Turn, "the other one");
        }
        assert_eq!(other.look(at(2)), Duty::Publish);
        assert_eq!(other.advance(at(2), true, false), Duty::Turn);
        assert_eq!(one.advance(at(2), true, false), Duty::Turn);
        assert_eq!(
            one.advance(at(2), false, false),
            Duty::Turn,
            "not all taken"
        );
        assert_eq!(one.advance(at(2), true, false), Duty::Close);
        assert_eq!(
            one.advance(at(2), true, false),
            Duty::Turn,
            "connections are left"
        );
        assert_eq!(one.advance(at(2), true, true), Duty::Turn);
        assert_eq!(one.advance(at(2), true, true), Duty::Turn, "the other one");
        let others: Vec<Duty> = (0..5).map(|_| other.advance(at(2), true, true)).collect();
        let end = [Duty::Turn, Duty::Close, Duty::Turn, Duty::Turn, Duty::End];
        assert_eq!(others, end);
        assert_eq!(one.advance(at(2), true, true), Duty::Turn);
        assert_eq!(one.advance(at(2), false, true), Duty::Turn, "not all taken");
        assert_eq!(one.advance(at(2), true, true), Duty::End);
    }

    #[test]
    fn who_hangs_is_waited_for_as_long_as_the_end_may_take() {
        let mut one = asked(2);
        one.look(at(1));
        assert_eq!(one.advance(at(1), true, false), Duty::Turn);
        assert_eq!(one.advance(at(3), true, false), Duty::Turn);
        let late: Vec<Duty> = (0..5).map(|_| one.advance(at(4), false, false)).collect();
        let end = [Duty::Turn, Duty::Close, Duty::Turn, Duty::Turn, Duty::End];
        assert_eq!(late, end);
    }

    #[test]
    fn shards_that_never_began_are_not_waited_for() {
        let mut one = asked(2);
        one.wait_for_nobody();
        one.look(at(1));
        let duties: Vec<Duty> = (0..6).map(|_| one.advance(at(1), true, true)).collect();
        assert_eq!(duties[2], Duty::Close);
        assert_eq!(duties[5], Duty::End);
    }
}
