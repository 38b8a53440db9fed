//! One glommio executor on a thread of its own.

#![forbid(unsafe_code)]

use super::StartError;
use crate::key::ShardId;
use crate::net::when_memory_can_be_locked;
use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder, Placement};
use std::io;
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex, PoisonError};

/// Memory that glommio sets aside for its own files and sockets, of which there are few.
const EXECUTOR_IO_MEMORY: usize = 64 * 1024;

/// Runs what `make` makes on the executor of `shard`; returns once that has its rings.
///
/// # Errors
/// [`StartError::Executor`], and `make` is not called.
pub(super) fn spawn<M, T>(shard: ShardId, make: M) -> Result<ExecutorJoinHandle<()>, StartError>
where
    M: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    // An executor that gets no ring has to leave it to the next one.
    let make = Arc::new(Mutex::new(Some(make)));
    when_memory_can_be_locked(|| spawn_once(shard, make.clone()))
        .map_err(|source| StartError::Executor { shard, source })
}

fn spawn_once<M, T>(
    shard: ShardId,
    make: Arc<Mutex<Option<M>>>,
) -> io::Result<ExecutorJoinHandle<()>>
where
    M: FnOnce() -> T + Send + 'static,
    T: Future<Output = ()> + 'static,
{
    let (begins, begun) = mpsc::channel();
    // To pin it glommio would look for the machine's CPUs in /sys, which not every process sees.
    let executor = LocalExecutorBuilder::new(Placement::Unbound)
        .name(&format!("fastmq-{shard}"))
        .io_memory(EXECUTOR_IO_MEMORY)
        .spawn(move || run(begins, make))
        .map_err(as_io)?;
    if begun.recv().is_ok() {
        return Ok(executor);
    }
    // It has dropped what it was to run.
    Err(match executor.join() {
        Ok(()) => io::Error::other("it ended at once"),
        Err(error) => as_io(error),
    })
}

async fn run<M, T>(begins: Sender<()>, make: Arc<Mutex<Option<M>>>)
where
    M: FnOnce() -> T,
    T: Future<Output = ()>,
{
    let make = make.lock().unwrap_or_else(PoisonError::into_inner).take();
    let _ = begins.send(());
    if let Some(make) = make {
        make().await;
    }
}

/// Keeps the number of the error, by which its cause is told.
fn as_io(error: GlommioError<()>) -> io::Error {
    match error {
        GlommioError::IoError(error) => error,
        other => io::Error::other(other.to_string()),
    }
}
