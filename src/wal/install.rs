//! A store that begins with what another broker has kept.

#![forbid(unsafe_code)]

use super::directory::{Directory, DirectoryError, Manifest};
use super::options::SEGMENT_SIZE;
use super::recover::{OpenError, contents, write_inventories};
use super::rewrite::{Written, rewrite};
use crate::journal::{Replayed, WallClock};
use std::path::{Path, PathBuf};

/// The first generation of a store that was installed. A broker that finds no STORE begins at the one
/// before it, so that it never takes the segments of an installation that was cut short for its own.
pub(super) const GENERATION: u64 = 2;

/// Nothing was installed.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// There is something that would be lost.
    #[error(
        "{}: the store there holds {sessions} sessions and {retained} retained messages already. Stop \
         the broker and move the files of that store away first, or choose another directory",
        path.display()
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
        /// Sessions in it.
        sessions: usize,
        /// Retained messages in it.
        retained: usize,
    },
    /// There is a log and nothing that says whether it counts.
    #[error("{}: a log without its STORE. Move it away first", path.display())]
    Stray {
        /// The file.
        path: PathBuf,
    },
    /// What there is cannot be read.
    #[error(transparent)]
    Open(#[from] OpenError),
}

impl From<DirectoryError> for InstallError {
    fn from(error: DirectoryError) -> Self {
        Self::Open(error.into())
    }
}

/// Makes `replayed` what the store in `path` holds, from one moment to the next. It has to hold nothing
/// and nobody may use it. `seed` is what a new store is to use, `ports` what identities in `replayed` name.
///
/// It is written for one shard: a broker of more spreads it when it opens it.
///
/// # Errors
/// [`InstallError`]; the store holds nothing then, as before.
pub fn install(
    path: &Path,
    replayed: &Replayed,
    clock: WallClock,
    seed: u64,
    ports: &[u16],
) -> Result<(), InstallError> {
    let directory = Directory::open(path)?;
    install_into(&directory, replayed, clock, seed, ports, SEGMENT_SIZE)
}

/// The same in a directory that is open, with segments of that size.
///
/// # Errors
/// As for [`install`].
pub fn install_into(
    directory: &Directory,
    replayed: &Replayed,
    clock: WallClock,
    seed: u64,
    ports: &[u16],
    segment_size: u64,
) -> Result<(), InstallError> {
    let path = |name: &str| directory.storage().path(name);
    let found = directory.manifest()?;
    let manifest = match found {
        Some(found) => {
            let there = contents(directory, found, clock)?;
            let sessions = there.sessions.len();
            let retained = there.retained_count();
            if sessions + retained > 0 {
                return Err(InstallError::NotEmpty {
                    path: path(""),
                    sessions,
                    retained,
                });
            }
            Manifest {
                generation: found.generation + 1,
                shard_count: 1,
                ..found
            }
        }
        None => Manifest {
            generation: GENERATION,
            shard_count: 1,
            seed,
        },
    };
    for name in directory.segments()? {
        if name.generation == manifest.generation {
            // Of an installation that was cut short.
            directory.remove(&name)?;
        } else if found.is_none() {
            return Err(InstallError::Stray {
                path: path(&name.file_name()),
            });
        }
    }
    let written = rewrite(directory, &manifest, replayed, clock, segment_size, ports)?;
    directory.set_manifest(&manifest)?;
    directory.remove_others(manifest.generation)?;
    let extents = written.iter().map(Written::extent);
    write_inventories(directory, &manifest, extents)?;
    Ok(())
}
