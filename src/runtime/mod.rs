//! Shards on their cores: executors, the rings between them, clocks, signals, and the way out.
//!
//! **Lives on** one thread a shard, pinned, to one CPU all of them while they have little to do, and on the main thread,
//! which only waits.
//! **Knows nothing of** MQTT: it starts any [`Core`] and drives it through `net`.
//!
//! # Always true
//! - What a turn does happens at one time, for the core, and all shards count from the same start.
//! - A shard drains its inbound rings without waiting for an outbound one.
//! - Only a shard that has announced its sleep is woken, by one of its peers, once.
//! - A shard that panics ends the process: a broker without one of its shards would look alive and
//!   lose what belongs there.
//!
//! Read next: `shard_loop.rs` (one turn), `mesh.rs` (what crosses cores), `affinity/`, `preflight.rs`.

#![forbid(unsafe_code)]

mod affinity;
mod authenticator;
mod clock;
mod cpus;
mod departure;
mod executor;
mod lapse;
mod mailbox;
mod mesh;
mod notices;
mod numbers;
mod own_time;
mod preflight;
mod shard_loop;
mod signals;
mod stored;
mod streams;
#[cfg(all(test, not(loom)))]
mod tests;

pub use affinity::{Affinity, Place, Whereabouts};
pub use authenticator::authenticate;
pub use clock::Clock;
pub use cpus::{Beside, CoresError, Placed, place, step_back};
use departure::Departure;
pub use mailbox::Mailbox;
pub use notices::{Notices, NoticesSender, notices};
pub use numbers::Numbers;
pub use preflight::{PreflightError, check as preflight, raise_open_files};
pub use signals::{HeldSignals, Request, exit_on_panic, on_signals, outlive_file_size_limit};
pub use stored::{Opened, StoredShard, open_store};

use crate::key::ShardId;
use crate::net::{Core, DataPath, Room, ShardListener, Waker};
use glommio::ExecutorJoinHandle;
use mesh::Mesh;
use shard_loop::ShardLoop;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;

/// The shards could not be started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// glommio could not make an executor.
    #[error("shard {shard}: the executor did not start: {source}{}", hint(source))]
    Executor {
        /// Which one.
        shard: ShardId,
        /// What glommio said.
        source: io::Error,
    },
    /// A shard ended by a panic.
    #[error("shard {shard} ended: {reason}")]
    Ended {
        /// Which one.
        shard: ShardId,
        /// What glommio said.
        reason: String,
    },
    /// The kernel refused the shard's ring, or a file descriptor.
    #[error("shard {shard}: {source}{}", hint(source))]
    Shard {
        /// Which one.
        shard: ShardId,
        /// What the kernel said.
        source: io::Error,
    },
}

/// What may help against `error`.
fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::OutOfMemory {
        // The kernel counts the rings of all processes of a user.
        "; perhaps too little memory may be locked: ulimit -l unlimited (systemd: LimitMEMLOCK=infinity)"
    } else {
        ""
    }
}

/// Tells all shards to end. Clones tell the same shards.
#[derive(Clone, Debug)]
pub struct Stopper {
    stop: Arc<AtomicBool>,
    wakers: Arc<[Waker]>,
}

impl Stopper {
    /// Closes all connections as the core says, then ends the shards.
    pub fn stop(&self) {
        // Pairs with the load in each turn; the wake makes a sleeping shard take one.
        self.stop.store(true, Ordering::Release);
        for waker in &*self.wakers {
            waker.wake();
        }
    }
}

/// Shards at work.
#[derive(Debug)]
pub struct Running {
    stopper: Stopper,
    mailboxes: Arc<[Mailbox]>,
    numbers: Numbers,
    affinity: Affinity,
    executors: Vec<(ShardId, ExecutorJoinHandle<()>)>,
}

impl Running {
    /// By which to end them.
    #[must_use]
    pub fn stopper(&self) -> Stopper {
        self.stopper.clone()
    }

    /// By which to send commands, one for each shard.
    #[must_use]
    pub fn mailboxes(&self) -> Arc<[Mailbox]> {
        self.mailboxes.clone()
    }

    /// How the shards are doing.
    #[must_use]
    pub fn numbers(&self) -> Numbers {
        self.numbers.clone()
    }

    /// By which they move, once somebody looks at them for it.
    #[must_use]
    pub fn affinity(&self) -> Affinity {
        self.affinity.clone()
    }

    /// Waits until all shards have ended.
    ///
    /// # Errors
    /// The first shard that ended by a panic.
    pub fn join(self) -> Result<(), StartError> {
        let mut result = Ok(());
        for (shard, executor) in self.executors {
            if let Err(error) = executor.join() {
                // The others would wait for it for ever.
                self.stopper.stop();
                result = result.and(Err(StartError::Ended {
                    shard,
                    reason: error.to_string(),
                }));
            }
        }
        result
    }
}

/// Starts one shard for each of `placed`.
///
/// `listeners` holds each shard's parts of all listeners; what its core has to tell goes into
/// `notices`; `make_core` is called on its thread.
///
/// # Errors
/// [`StartError`]; the shards that did start are ended.
pub fn start<C, F>(
    placed: &[Placed],
    listeners: Vec<Vec<ShardListener>>,
    notices: &NoticesSender,
    make_core: F,
) -> Result<Running, StartError>
where
    C: Core + 'static,
    F: Fn(ShardId, usize) -> C + Clone + Send + 'static,
{
    start_from(Clock::start(), placed, listeners, notices, make_core)
}

/// As [`start`], with a clock that began before: something happened by it already.
///
/// # Errors
/// As [`start`].
pub fn start_from<C, F>(
    clock: Clock,
    placed: &[Placed],
    listeners: Vec<Vec<ShardListener>>,
    notices: &NoticesSender,
    make_core: F,
) -> Result<Running, StartError>
where
    C: Core + 'static,
    F: Fn(ShardId, usize) -> C + Clone + Send + 'static,
{
    assert_eq!(placed.len(), listeners.len(), "listeners for every shard");
    let stop = Arc::new(AtomicBool::new(false));
    let departure = Departure::new(stop.clone(), placed.len());
    let wakers = placed
        .iter()
        .map(|_| Waker::new())
        .collect::<io::Result<Arc<[Waker]>>>()
        .map_err(|source| StartError::Shard {
            shard: ShardId(0),
            source,
        })?;
    let stopper = Stopper {
        stop,
        wakers: wakers.clone(),
    };
    let (started, starts) = mpsc::channel();
    let (mailboxes, inboxes): (Vec<_>, Vec<_>) =
        wakers.iter().cloned().map(mailbox::mailbox).unzip();
    let mut running = Running {
        stopper,
        mailboxes: mailboxes.into(),
        numbers: Numbers::new(wakers.clone()),
        affinity: Affinity::new(clock, placed.len()),
        executors: Vec::new(),
    };
    let meshes = Mesh::<C::Envelope>::all(&wakers);
    let shard_count = placed.len();
    let room = Room::new(shard_count);
    let parts = meshes.into_iter().zip(listeners).zip(inboxes).zip(placed);
    for (((mesh, listeners), inbox), placed) in parts {
        let shard = mesh.shard();
        let notices = notices.of(shard);
        let slot = running.numbers.slot(shard);
        let affinity = running.affinity.clone();
        let (make_core, started) = (make_core.clone(), started.clone());
        let room = room.clone();
        let (own_departure, waker) = (departure.clone(), wakers[shard.index()].clone());
        let placed = *placed;
        let executor = executor::spawn(shard, move || async move {
            let pinned = placed.enter();
            let mut core = make_core(shard, shard_count);
            let path = pinned
                .and_then(|()| core.handle_start(&waker))
                .and_then(|()| DataPath::new(core, listeners, waker, room, clock.now()));
            match path {
                Ok(path) => {
                    let member = affinity.join(shard);
                    let _ = started.send(Ok(()));
                    drop(started);
                    ShardLoop::new(
                        path,
                        mesh,
                        inbox,
                        notices,
                        clock,
                        own_departure,
                        slot,
                        member,
                    )
                    .run();
                }
                Err(source) => {
                    let _ = started.send(Err(StartError::Shard { shard, source }));
                }
            }
        });
        match executor {
            Ok(executor) => running.executors.push((shard, executor)),
            Err(error) => {
                departure.wait_for_nobody();
                running.stopper.stop();
                let _ = running.join();
                return Err(error);
            }
        }
    }
    drop(started);
    let mut result = Ok(());
    for _ in 0..shard_count {
        // A shard that panicked before it reported has dropped its end.
        match starts.recv() {
            Ok(report) => result = result.and(report),
            Err(_) => break,
        }
    }
    match result {
        Ok(()) => Ok(running),
        Err(error) => {
            departure.wait_for_nobody();
            running.stopper.stop();
            let _ = running.join();
            Err(error)
        }
    }
}
