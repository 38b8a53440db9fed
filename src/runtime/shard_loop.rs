//! One shard's turns: send, wait, receive, and sleep when there is nothing to do.

#![forbid(unsafe_code)]

use super::clock::Clock;
use super::guard::guarded;
use super::mesh::Mesh;
use crate::net::{Core, DataPath, Waker};
use crate::time::Instant;
use glommio::io::BufferedFile;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Longest wait in the ring: what the executor's other tasks may have to wait for.
const WAIT_MAX: Duration = Duration::from_millis(1);
/// Wait while envelopes are left for a peer whose ring is full: it is at work to make room.
const WAIT_FOR_ROOM: Duration = Duration::from_micros(50);
/// Waits that brought nothing before the shard sleeps in the executor.
const EMPTY_WAITS_MAX: u32 = 5;
/// How long a sleeping shard may be left asleep though it was woken; see `guard.rs`. It is the price
/// of a rare accident against that of waking an idle shard for nothing.
const SLEEP_GUARD: Duration = Duration::from_millis(100);
/// As many completions at once mean that more are on their way: look again before sending.
const COMPLETIONS_MANY: usize = 64;
/// How often to look again.
const ROUNDS_MAX: usize = 4;
/// After a turn with this many completions the next one will not have to wait. It looks without
/// announcing sleep, so that peers do not spend time on waking a busy shard.
const COMPLETIONS_BUSY: usize = 8;
/// From the wish to end until connections that do not close are left alone.
const SHUTDOWN_MAX: Duration = Duration::from_secs(3);

/// One shard with its sockets, its rings and its clock.
pub(super) struct ShardLoop<C: Core> {
    path: DataPath<C>,
    mesh: Mesh<C::Envelope>,
    clock: Clock,
    stop: Arc<AtomicBool>,
    waker: Waker,
    /// The waker, as the executor reads it.
    sleep_file: BufferedFile,
    now: Instant,
    /// When a timer in the ring will end the sleep. It may come early; it is not taken back.
    timer_at: Option<Instant>,
}

impl<C: Core> ShardLoop<C> {
    pub(super) fn new(
        path: DataPath<C>,
        mesh: Mesh<C::Envelope>,
        clock: Clock,
        stop: Arc<AtomicBool>,
        waker: Waker,
    ) -> io::Result<Self> {
        mesh.set_ring(path.ring_handle());
        let sleep_file = waker.sleep_file()?;
        Ok(Self {
            path,
            mesh,
            clock,
            stop,
            waker,
            sleep_file,
            now: clock.now(),
            timer_at: None,
        })
    }

    /// Runs until the stop flag is set and all connections are closed.
    pub(super) async fn run(mut self) {
        let mut completed = 0;
        let mut is_left = false;
        let mut empty_waits = 0;
        let mut stop_at = None;
        loop {
            self.path.flush();
            let waited = self.enter(completed, is_left);
            self.now = self.clock.now();
            completed = self.path.handle_completions(self.now);
            let mut last = completed;
            for _ in 1..ROUNDS_MAX {
                if last < COMPLETIONS_MANY {
                    break;
                }
                self.path.enter(None);
                last = self.path.handle_completions(self.now);
                completed += last;
            }
            let received = self.mesh.receive(&mut self.path);
            self.path.handle_timeouts(self.now);
            self.path.handle_resumed();
            is_left = self.mesh.send(&mut self.path);

            // Pairs with the store in `Stopper::stop`.
            if stop_at.is_none() && self.stop.load(Ordering::Acquire) {
                stop_at = Some(self.now + SHUTDOWN_MAX);
                self.path.handle_shutdown(self.now);
            }
            if stop_at.is_some_and(|at| self.path.is_empty() || at <= self.now) {
                return;
            }
            if completed + received > 0 {
                empty_waits = 0;
                if glommio::executor().need_preempt() {
                    guarded(glommio::executor().yield_if_needed(), WAIT_MAX).await;
                }
                continue;
            }
            empty_waits += u32::from(waited);
            let idle = !is_left && !self.path.has_work() && stop_at.is_none();
            if idle && empty_waits >= EMPTY_WAITS_MAX {
                empty_waits = 0;
                self.sleep().await;
            } else {
                guarded(glommio::executor().yield_now(), WAIT_MAX).await;
            }
        }
    }

    /// Hands the turn's submissions to the kernel, and waits if there is nothing else to do. Tells
    /// whether it waited.
    fn enter(&mut self, completed: usize, is_left: bool) -> bool {
        let until_deadline = self.until_deadline().unwrap_or(WAIT_MAX);
        let wait_max = if is_left { WAIT_FOR_ROOM } else { WAIT_MAX };
        let wait = until_deadline.min(wait_max);
        if self.path.has_work() || wait.is_zero() {
            self.path.enter(None);
            return false;
        }
        if !self.mesh.has_peers() {
            self.path.enter(Some(wait));
            return true;
        }
        if completed >= COMPLETIONS_BUSY || !self.mesh.announce_sleep() {
            self.path.enter(None);
            return false;
        }
        self.path.enter(Some(wait));
        self.mesh.retract_sleep();
        true
    }

    fn until_deadline(&self) -> Option<Duration> {
        self.path.next_deadline().map(|at| at - self.now)
    }

    /// Sleeps in the executor until something arrives, a deadline comes or a peer wakes this shard.
    async fn sleep(&mut self) {
        self.now = self.clock.now();
        let timer = match self.path.next_deadline() {
            Some(at) if at <= self.now => return,
            // A timer that comes no later is already under way.
            Some(at)
                if self
                    .timer_at
                    .is_some_and(|timer| timer > self.now && timer <= at) =>
            {
                None
            }
            deadline => {
                self.timer_at = deadline.or(self.timer_at);
                deadline.map(|at| at - self.now)
            }
        };
        if !self.mesh.announce_sleep() {
            return;
        }
        match self.path.prepare_sleep(&self.waker, timer) {
            Ok(true) => {
                // The read ends with what the ring, a peer or the stopper writes to the eventfd. If
                // it fails, the turn after it waits in the ring instead.
                let read = self.sleep_file.read_at(0, size_of::<u64>());
                if let Err(error) = guarded(read, SLEEP_GUARD).await {
                    tracing::error!("cannot sleep on the eventfd: {error}");
                }
            }
            Ok(false) => {}
            Err(error) => tracing::error!("cannot register the eventfd with the ring: {error}"),
        }
        if let Err(error) = self.path.end_sleep() {
            tracing::debug!("cannot unregister the eventfd from the ring: {error}");
        }
        self.mesh.retract_sleep();
    }
}
