//! `fastmq import`: what Mosquitto has kept on its disk, taken over.
//!
//! Sessions, Subscriptions, what waits or is under way in either direction, and retained messages become
//! a store of this broker, as if they had come to it from the beginning.
//!
//! # Always true
//! - All or nothing: the store counts from one moment to the next, and a file that is not understood to its
//!   end leaves none.
//! - A store that holds something is left alone, and so is the file.
//! - What cannot be kept is named and counted, and the exit status says that there was some.
//!
//! Read next: `mosquitto_db.rs` (what the file says), `sessions.rs` (what it means here).

#![forbid(unsafe_code)]

mod account;
mod arguments;
mod mosquitto_db;
mod sessions;
#[cfg(all(test, not(loom)))]
mod tests;

pub use account::{Account, Loss};
pub use arguments::ImportArguments;
pub use mosquitto_db::{
    Chunk, Database, DatabaseError, DeliveryChunk, DeliveryState, MessageChunk, Problem,
    SessionChunk, SubscriptionChunk,
};
pub use sessions::{Imported, Importer};

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

use crate::config::ConfigError;
use crate::journal::WallClock;
use crate::runtime::Clock;
use crate::server::{self, PrivilegesError, Successor};
use crate::time::Instant;
use crate::wal::{self, InstallError};

/// Exit status if anything was not imported.
pub const EXIT_FAILURE: u8 = 1;

/// Why nothing was imported. Its text is what the user is told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Configuration(#[from] ConfigError),
    #[error(
        "Error: {}: `persistence` is false, so nobody would read what is imported",
        .0.display()
    )]
    NotPersistent(PathBuf),
    #[error("Error: {}: {source}", path.display())]
    Open { path: PathBuf, source: io::Error },
    #[error("Error: {}: {source}", path.display())]
    Database {
        path: PathBuf,
        source: DatabaseError,
    },
    #[error("Error: {0}")]
    Privileges(#[from] PrivilegesError),
    #[error("Error: {0}")]
    Install(#[from] InstallError),
}

/// Does what the arguments ask for, and returns the exit status.
#[must_use]
pub fn run(arguments: &ImportArguments) -> u8 {
    match import(arguments) {
        Ok(true) => 0,
        Ok(false) => EXIT_FAILURE,
        Err(failure) => {
            eprintln!("{failure}");
            eprintln!("Nothing was imported.");
            EXIT_FAILURE
        }
    }
}

/// True if everything was taken.
fn import(arguments: &ImportArguments) -> Result<bool, Failure> {
    let (directory, user) = target(arguments)?;
    let path = &arguments.file;
    let open = |source| Failure::Open {
        path: path.clone(),
        source,
    };
    let file = File::open(path).map_err(open)?;
    let metadata = file.metadata().map_err(open)?;
    if !metadata.is_file() {
        return Err(open(io::Error::other("not a regular file")));
    }
    // The file is Mosquitto's, and the store is to belong to whom the broker becomes.
    Successor::find(user.as_deref())?.succeed()?;
    let clock = WallClock {
        start_ms: Clock::start().start_ms(),
    };
    let (version, imported) = read(BufReader::new(file), metadata.len(), clock, Instant::ZERO)
        .map_err(|source| Failure::Database {
            path: path.clone(),
            source,
        })?;
    // Placement by Client Identifier must not be predictable from outside.
    let seed = RandomState::new().hash_one(std::process::id());
    wal::install(&directory, &imported.replayed, clock, seed, &imported.ports)?;

    let account = &imported.account;
    println!(
        "{} (version {version}), imported into {}: {account}",
        path.display(),
        directory.display()
    );
    if !account.is_last {
        println!(
            "Mosquitto wrote the file while it was running: what came after that is not in it."
        );
    }
    for loss in account.losses() {
        eprintln!("not imported: {loss}");
    }
    Ok(account.is_complete())
}

/// The directory of the store, and who is to own it.
fn target(arguments: &ImportArguments) -> Result<(PathBuf, Option<String>), Failure> {
    let Some(file) = &arguments.config_file else {
        let directory = arguments.directory.clone().unwrap_or_else(|| ".".into());
        return Ok((directory, None));
    };
    let config = server::read_configuration(Path::new(file))?;
    if !config.persistence.enabled {
        return Err(Failure::NotPersistent(file.clone()));
    }
    let location = config.persistence.location;
    Ok((location.unwrap_or_else(|| ".".into()), config.user))
}

/// Reads all of a file of `size` bytes: its version, and what it amounts to at `now`.
///
/// # Errors
/// [`DatabaseError`].
pub fn read(
    input: impl Read,
    size: u64,
    clock: WallClock,
    now: Instant,
) -> Result<(u32, Imported), DatabaseError> {
    let mut database = Database::open(input, size)?;
    let mut importer = Importer::new(clock, now);
    while let Some(chunk) = database.next_chunk()? {
        importer.chunk(&chunk);
    }
    Ok((database.version(), importer.finish()))
}
