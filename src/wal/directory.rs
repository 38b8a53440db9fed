//! The directory of a store: its lock, its manifest, the names of its files.
//!
//! ```text
//! LOCK                                    held as long as a broker uses the directory
//! STORE                                   which generation counts, of how many shards
//! 00000001-000.segments                   which segments there must be: generation, shard
//! 00000001-000-00000000000000000001.log   generation, shard, first frame
//! ```
//!
//! A generation is the logs of one number of shards. Another number begins another generation, which
//! counts from the moment at which STORE names it. It gets its inventories after that, so a log or an
//! inventory without STORE is a store that has lost it.

#![forbid(unsafe_code)]

use super::inventory::{Extent, InventoryName, Listed, UNFINISHED};
use super::segment::FORMAT_VERSION;
use super::storage::{Folder, Storage};
use crate::journal::Lsn;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

pub(super) const MANIFEST: &str = "STORE";
/// Becomes [`MANIFEST`] once all of it is on the disk.
const NEW_MANIFEST: &str = "STORE.new";
/// Bytes of a manifest at most.
const MANIFEST_SIZE_MAX: u64 = 4096;

/// Which files of a directory count.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// The generation.
    pub generation: u64,
    /// Shards it has logs of.
    pub shard_count: usize,
    /// By which Client Identifiers are spread over them.
    pub seed: u64,
}

/// The directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryError {
    /// Another process uses it.
    #[error("{}: another broker uses this directory", path.display())]
    Locked {
        /// The lock file.
        path: PathBuf,
    },
    /// STORE is of another program, or damaged.
    #[error(
        "{}: {problem}. Put the file back from a backup of this store, or start once with --recover to make \
         it anew from the logs beside it",
        path.display()
    )]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// Another version of this program wrote a file.
    #[error(
        "{}: format {found}; this program reads format {FORMAT_VERSION}. Start the version of it that the \
         store is of",
        path.display()
    )]
    Version {
        /// The file.
        path: PathBuf,
        /// The format it has.
        found: u64,
    },
    /// The system refused something.
    #[error("{}: {source}", path.display())]
    Io {
        /// What was to be read or written.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

/// Says which path an operation failed on.
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError + use<> {
    let path = path.to_owned();
    |source| DirectoryError::Io { path, source }
}

/// The files of a store, which this process alone uses.
#[derive(Clone, Debug)]
pub struct Directory {
    storage: Arc<dyn Storage>,
}

impl Directory {
    /// Makes the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        Folder::open(path).map(|folder| Self::in_storage(Arc::new(folder)))
    }

    /// The store in a storage that nobody else uses.
    #[must_use]
    pub fn in_storage(storage: Arc<dyn Storage>) -> Self {
        Self { storage }
    }

    /// Where its files lie.
    pub(super) fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Says which file an operation failed on.
    pub(super) fn at(&self, name: &str) -> impl FnOnce(io::Error) -> DirectoryError + use<> {
        at(&self.storage.path(name))
    }

    /// What STORE says; `None` if there is no store here yet.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn manifest(&self) -> Result<Option<Manifest>, DirectoryError> {
        let mut text = String::new();
        let read = self.storage.open(MANIFEST).and_then(|(source, _)| {
            let mut source = source.take(MANIFEST_SIZE_MAX);
            source.read_to_string(&mut text)
        });
        match read {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) if error.kind() != io::ErrorKind::InvalidData => {
                return Err(self.at(MANIFEST)(error));
            }
            // What is no text is no manifest.
            _ => {}
        }
        match decode_manifest(&text) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(ManifestError::Version(found)) => Err(DirectoryError::Version {
                path: self.storage.path(MANIFEST),
                found,
            }),
            Err(ManifestError::Damaged(problem)) => Err(DirectoryError::Manifest {
                path: self.storage.path(MANIFEST),
                problem,
            }),
        }
    }

    /// Makes `manifest` what counts: from one moment to the next, whatever happens.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn set_manifest(&self, manifest: &Manifest) -> Result<(), DirectoryError> {
        let write = || {
            let mut file = self.storage.create(NEW_MANIFEST, 0)?;
            file.write_all_at(encode_manifest(manifest).as_bytes(), 0)?;
            file.sync_all()?;
            self.storage.rename(NEW_MANIFEST, MANIFEST)?;
            self.storage.sync()
        };
        write().map_err(self.at(NEW_MANIFEST))
    }

    /// The segments of every generation, in order.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn segments(&self) -> Result<Vec<SegmentName>, DirectoryError> {
        self.named(SegmentName::parse)
    }

    /// The inventories of every generation, in order.
    pub(super) fn inventories(&self) -> Result<Vec<InventoryName>, DirectoryError> {
        self.named(InventoryName::parse)
    }

    /// The files whose names `parse` knows, in order.
    fn named<N: Ord>(&self, parse: fn(&str) -> Option<N>) -> Result<Vec<N>, DirectoryError> {
        let names = self.storage.names().map_err(self.at(""))?;
        let mut names: Vec<_> = names.iter().filter_map(|name| parse(name)).collect();
        names.sort_unstable();
        Ok(names)
    }

    /// What must be there of a log; `None` if nobody has written that down.
    #[must_use]
    pub fn extent(&self, generation: u64, shard: u64) -> Option<Extent> {
        let name = InventoryName { generation, shard };
        let listed = Listed::read(&*self.storage, name).ok()??.ok()?;
        Some(listed.extent)
    }

    /// Removes what is of another generation than `generation`, or was never finished.
    pub(super) fn remove_others(&self, generation: u64) -> Result<(), DirectoryError> {
        for name in self.storage.names().map_err(self.at(""))? {
            let whole = name.strip_suffix(UNFINISHED);
            let whole_name = whole.unwrap_or(&name);
            let segment = SegmentName::parse(whole_name).map(|it| it.generation);
            let inventory = InventoryName::parse(whole_name).map(|it| it.generation);
            if let Some(its) = segment.or(inventory)
                && (its != generation || whole.is_some())
            {
                self.storage.remove(&name).map_err(self.at(&name))?;
            }
        }
        Ok(())
    }

    /// Removes a segment that nobody needs.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn remove(&self, name: &SegmentName) -> Result<(), DirectoryError> {
        let name = name.file_name();
        self.storage.remove(&name).map_err(self.at(&name))
    }
}

/// The name of a segment.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct SegmentName {
    /// The generation it belongs to.
    pub generation: u64,
    /// The shard whose log it is part of.
    pub shard: u64,
    /// Its first frame.
    pub first: Lsn,
}

impl SegmentName {
    /// The file's name.
    #[must_use]
    pub fn file_name(&self) -> String {
        let Self {
            generation,
            shard,
            first,
        } = self;
        format!("{generation:08}-{shard:03}-{first:020}.log")
    }

    /// The log that it is part of.
    pub(super) fn log(&self) -> InventoryName {
        InventoryName {
            generation: self.generation,
            shard: self.shard,
        }
    }

    fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".log")?.split('-');
        let parsed = Self {
            generation: parts.next()?.parse().ok()?,
            shard: parts.next()?.parse().ok()?,
            first: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && parsed.file_name() == name).then_some(parsed)
    }
}

fn encode_manifest(manifest: &Manifest) -> String {
    let Manifest {
        generation,
        shard_count,
        seed,
    } = manifest;
    let text = format!(
        "fastmq store\nformat {FORMAT_VERSION}\ngeneration {generation}\nshards {shard_count}\nseed {seed}\n"
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

/// Why a manifest says nothing.
#[derive(Clone, Debug, Eq, PartialEq)]
enum ManifestError {
    /// It has another format.
    Version(u64),
    Damaged(String),
}

fn decode_manifest(text: &str) -> Result<Manifest, ManifestError> {
    let damaged = |problem: &str| ManifestError::Damaged(problem.to_owned());
    let mut lines = text.lines();
    if lines.next() != Some("fastmq store") {
        return Err(damaged("not the manifest of a fastmq store"));
    }
    let mut number = |name: &str| {
        let line = lines.next().unwrap_or_default();
        let value = line.strip_prefix(name).map(str::trim_start);
        value
            .and_then(|value| value.parse::<u64>().ok())
            .ok_or_else(|| ManifestError::Damaged(format!("`{name}` is missing")))
    };
    let version = number("format")?;
    if version != u64::from(FORMAT_VERSION) {
        return Err(ManifestError::Version(version));
    }
    let generation = number("generation")?;
    let shard_count = number("shards")?;
    let manifest = Manifest {
        generation,
        shard_count: usize::try_from(shard_count).unwrap_or_default(),
        seed: number("seed")?,
    };
    if encode_manifest(&manifest) != text {
        return Err(damaged("damaged: the checksum is wrong"));
    }
    if !(1..=crate::limits::SHARDS_MAX).contains(&manifest.shard_count) {
        let problem = format!("{shard_count} shards cannot be");
        return Err(ManifestError::Damaged(problem));
    }
    Ok(manifest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_manifest_is_read_back_and_a_changed_one_refused() {
        let manifest = Manifest {
            generation: 4,
            shard_count: 16,
            seed: u64::MAX,
        };
        let text = encode_manifest(&manifest);
        assert_eq!(decode_manifest(&text), Ok(manifest));
        for changed in [
            text.replace("shards 16", "shards 61"),
            text.replace("format 1", "format 2"),
            text.replace("fastmq", "mosquitto"),
            text[..text.len() - 20].to_owned(),
            String::new(),
        ] {
            assert!(decode_manifest(&changed).is_err(), "{changed}");
        }
    }

    #[test]
    fn names_of_segments_sort_as_their_frames_do() {
        let name = |shard, first| SegmentName {
            generation: 1,
            shard,
            first,
        };
        let text = name(2, 99).file_name();
        assert_eq!(text, "00000001-002-00000000000000000099.log");
        assert_eq!(SegmentName::parse(&text), Some(name(2, 99)));
        assert!(name(2, 99).file_name() < name(2, 100).file_name());
        for wrong in [
            "LOCK",
            "1-2-3.log",
            "00000001-002-00000000000000000099.log.old",
            "-.log",
        ] {
            assert_eq!(SegmentName::parse(wrong), None);
        }
    }
}
