//! The directory of a store: its lock, its manifest, the names of its files.
//!
//! ```text
//! LOCK                                    held as long as a broker uses the directory
//! STORE                                   which generation counts, of how many shards
//! 00000001-000-00000000000000000001.log   generation, shard, first frame
//! ```
//!
//! A generation is the logs of one number of shards. Another number begins another generation, which
//! counts from the moment at which STORE names it.

#![forbid(unsafe_code)]

use crate::journal::Lsn;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

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
    /// STORE is of another program, another version, or damaged.
    #[error("{}: {problem}", path.display())]
    Manifest {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
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
pub(super) fn at(path: &Path) -> impl FnOnce(io::Error) -> DirectoryError {
    let path = path.to_owned();
    |source| DirectoryError::Io { path, source }
}

/// A directory that this process alone uses.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl Directory {
    /// Makes the directory if need be and takes its lock.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn open(path: &Path) -> Result<Self, DirectoryError> {
        if !path.is_dir() {
            fs::create_dir_all(path).map_err(at(path))?;
            if let Some(parent) = path.parent() {
                sync_directory(parent).map_err(at(parent))?;
            }
        }
        let lock_path = path.join("LOCK");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&lock_path)
            .map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: lock_path }),
            Err(TryLockError::Error(error)) => Err(at(&lock_path)(error)),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn manifest_path(&self) -> PathBuf {
        self.path.join("STORE")
    }

    /// What STORE says; `None` if there is no store here yet.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn manifest(&self) -> Result<Option<Manifest>, DirectoryError> {
        let path = self.manifest_path();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        match decode_manifest(&text) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(problem) => Err(DirectoryError::Manifest { path, problem }),
        }
    }

    /// Makes `manifest` what counts: from one moment to the next, whatever happens.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn set_manifest(&self, manifest: &Manifest) -> Result<(), DirectoryError> {
        let path = self.path.join("STORE.new");
        let write = || {
            let mut file = File::create(&path)?;
            file.write_all(encode_manifest(manifest).as_bytes())?;
            file.sync_all()?;
            fs::rename(&path, self.manifest_path())?;
            sync_directory(&self.path)
        };
        write().map_err(at(&path))
    }

    /// The segments of every generation, in order.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn segments(&self) -> Result<Vec<SegmentName>, DirectoryError> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path).map_err(at(&self.path))? {
            let entry = entry.map_err(at(&self.path))?;
            names.extend(entry.file_name().to_str().and_then(SegmentName::parse));
        }
        names.sort_unstable();
        Ok(names)
    }

    /// Removes a segment that nobody needs.
    ///
    /// # Errors
    /// [`DirectoryError`].
    pub fn remove(&self, name: &SegmentName) -> Result<(), DirectoryError> {
        let path = self.path.join(name.file_name());
        fs::remove_file(&path).map_err(at(&path))
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

/// Makes names that were made or removed in a directory last.
///
/// # Errors
/// What the system said.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

fn encode_manifest(manifest: &Manifest) -> String {
    let Manifest {
        generation,
        shard_count,
        seed,
    } = manifest;
    let version = super::segment::FORMAT_VERSION;
    let text = format!(
        "fastmq store\nformat {version}\ngeneration {generation}\nshards {shard_count}\nseed {seed}\n"
    );
    let checksum = crc32c::crc32c(text.as_bytes());
    format!("{text}checksum {checksum:08x}\n")
}

fn decode_manifest(text: &str) -> Result<Manifest, String> {
    let mut lines = text.lines();
    if lines.next() != Some("fastmq store") {
        return Err("not the manifest of a fastmq store".to_owned());
    }
    let mut number = |name: &str| {
        let line = lines.next().unwrap_or_default();
        let value = line.strip_prefix(name).map(str::trim_start);
        value
            .and_then(|value| value.parse::<u64>().ok())
            .ok_or_else(|| format!("`{name}` is missing"))
    };
    let version = number("format")?;
    if version != u64::from(super::segment::FORMAT_VERSION) {
        return Err(format!(
            "format {version}; this program reads format {}",
            super::segment::FORMAT_VERSION
        ));
    }
    let manifest = Manifest {
        generation: number("generation")?,
        shard_count: usize::try_from(number("shards")?).map_err(|error| error.to_string())?,
        seed: number("seed")?,
    };
    if encode_manifest(&manifest) != text {
        return Err("damaged: the checksum is wrong".to_owned());
    }
    if !(1..=crate::limits::SHARDS_MAX).contains(&manifest.shard_count) {
        return Err(format!("{} shards cannot be", manifest.shard_count));
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
