//! Where the files of a store lie: a directory of the system's, or what stands in for one.
//!
//! Everything that the log asks of a disk goes through here, so that a simulation can lose, tear and
//! refuse it.

#![forbid(unsafe_code)]

use super::directory::{DirectoryError, at};
use rustix::fs::{Advice, FallocateFlags, fadvise, fallocate};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

/// Asked to read more than this ahead, a system may read only the front of it: Linux as much as the
/// disk takes in one request.
const READ_AHEAD_SIZE: NonZeroU64 = NonZeroU64::new(512 << 10).unwrap();

/// A place for files, flat. What was done to names and contents lasts once it was brought to the disk.
pub trait Storage: fmt::Debug + Send + Sync {
    /// How a file is called in messages.
    fn path(&self, name: &str) -> PathBuf;

    /// The names of all files.
    ///
    /// # Errors
    /// What the system said.
    fn names(&self) -> io::Result<Vec<String>>;

    /// Makes a file, or empties the one there is, and sets `size` bytes aside for it where that can be
    /// done: it then has that size.
    ///
    /// # Errors
    /// What the system said: [`io::ErrorKind::StorageFull`] if there is no such room.
    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn StoredFile>>;

    /// Opens a file to be read. Its size comes with it.
    ///
    /// # Errors
    /// What the system said.
    fn open(&self, name: &str) -> io::Result<(Box<dyn Source>, u64)>;

    /// A file will be read soon, from end to end.
    fn read_ahead(&self, _name: &str) {}

    /// Opens a file that is there to be written.
    ///
    /// # Errors
    /// What the system said.
    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn StoredFile>>;

    /// Gives a file another name, which another file may have had.
    ///
    /// # Errors
    /// What the system said.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    /// What the system said.
    fn remove(&self, name: &str) -> io::Result<()>;

    /// Brings names that were made, changed or removed to the disk.
    ///
    /// # Errors
    /// What the system said.
    fn sync(&self) -> io::Result<()>;
}

/// A file that is written.
pub trait StoredFile: fmt::Debug + Send {
    /// Writes all of `bytes` at `offset`.
    ///
    /// # Errors
    /// What the system said. Some may be written.
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()>;

    /// Cuts the file.
    ///
    /// # Errors
    /// What the system said.
    fn set_len(&mut self, size: u64) -> io::Result<()>;

    /// Brings what was written to the disk.
    ///
    /// # Errors
    /// What the system said. Nobody knows then what the disk has, and asking again tells nothing.
    fn sync_data(&mut self) -> io::Result<()>;

    /// The same, and everything about the file.
    ///
    /// # Errors
    /// As for [`StoredFile::sync_data`].
    fn sync_all(&mut self) -> io::Result<()>;
}

/// A file that is read.
pub trait Source: Read + Seek {}

impl<T: Read + Seek> Source for T {}

/// A directory that this process alone uses.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    /// Locked while it is open.
    _lock: File,
}

impl Folder {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        let is_absent = |folder: &&Path| !folder.as_os_str().is_empty() && !folder.is_dir();
        let absent: Vec<_> = path.ancestors().take_while(is_absent).collect();
        fs::create_dir_all(path).map_err(at(path))?;
        // The store is lost with the name of any of them.
        for parent in absent.iter().rev().filter_map(|folder| folder.parent()) {
            sync_folder(parent).map_err(at(parent))?;
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
}

impl Storage for Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // Ours are all text.
            names.extend(entry?.file_name().into_string());
        }
        Ok(names)
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn StoredFile>> {
        let file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .open(self.path(name))?;
        if size > 0 {
            // In one go, so that a write changes no size and finds its room.
            match fallocate(&file, FallocateFlags::empty(), 0, size) {
                Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(Box::new(file))
    }

    fn open(&self, name: &str) -> io::Result<(Box<dyn Source>, u64)> {
        let file = File::open(self.path(name))?;
        let size = file.metadata()?.len();
        Ok((Box::new(file), size))
    }

    fn read_ahead(&self, name: &str) {
        let Ok(file) = File::open(self.path(name)) else {
            return;
        };
        let size = file.metadata().map_or(0, |it| it.len());
        for offset in (0..size).step_by(READ_AHEAD_SIZE.get() as usize) {
            // A system that takes no advice reads when it is asked to.
            let _ = fadvise(&file, offset, Some(READ_AHEAD_SIZE), Advice::WillNeed);
        }
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        let file = File::options().write(true).open(self.path(name))?;
        Ok(Box::new(file))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path(from), self.path(to))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        fs::remove_file(self.path(name))
    }

    fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)
    }
}

impl StoredFile for File {
    fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
        FileExt::write_all_at(self, bytes, offset)
    }

    fn set_len(&mut self, size: u64) -> io::Result<()> {
        File::set_len(self, size)
    }

    fn sync_data(&mut self) -> io::Result<()> {
        File::sync_data(self)?;
        // The system keeps what has no name until it is closed, and nobody finds it after that.
        if self.metadata()?.nlink() == 0 {
            let said = "a file of the store was removed";
            return Err(io::Error::new(io::ErrorKind::NotFound, said));
        }
        Ok(())
    }

    fn sync_all(&mut self) -> io::Result<()> {
        File::sync_all(self)
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    };
    File::open(path)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_to_a_file_that_was_removed_is_not_on_the_disk() {
        let path = std::env::temp_dir().join(format!("fastmq-removed-{}", std::process::id()));
        let folder = Folder::open(&path).unwrap();
        let mut file = folder.create("a.log", 4096).unwrap();
        file.write_all_at(b"one", 0).unwrap();
        file.sync_data().unwrap();
        fs::remove_file(path.join("a.log")).unwrap();
        file.write_all_at(b"two", 3).unwrap();
        let said = file.sync_data().unwrap_err().to_string();
        assert!(said.contains("was removed"), "{said}");
        fs::remove_dir_all(path).unwrap();
    }
}
