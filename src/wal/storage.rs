//! Where the files of a store lie: a directory of the system's, or what stands in for one.
//!
//! Everything that the log asks of a disk goes through here, so that a simulation can lose, tear and
//! refuse it.

#![forbid(unsafe_code)]

use super::directory::{DirectoryError, MANIFEST, at};
use rustix::fs::{
    Advice, AtFlags, Dir, FallocateFlags, Mode, OFlags, fadvise, fallocate, openat, renameat,
    unlinkat,
};
use rustix::io::Errno;
use std::fmt;
use std::fs::{self, File, TryLockError};
use std::io::{self, Read, Seek};
use std::num::NonZeroU64;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

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

    /// Looks whether another place has come to be where this one is looked for by who starts next. Tells of
    /// each change once, to whoever looks first.
    fn look_for_move(&self) -> Option<Move> {
        None
    }
}

/// What has become of where a store lies.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Move {
    /// It is not found by its path any more.
    Away,
    /// It is found there again.
    Back,
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
///
/// Its files are looked for in the one that was opened, not by its path: whoever moves it away while a broker
/// runs, and maybe puts another one in its place, must not get half of a log in each.
#[derive(Debug)]
pub(super) struct Folder {
    path: PathBuf,
    folder: File,
    /// Its path names another one, as far as anybody has looked.
    is_away: AtomicBool,
    /// Locked while it is open.
    _lock: File,
}

impl Folder {
    /// Makes the directory if need be and takes its lock.
    pub(super) fn open(path: &Path) -> Result<Self, DirectoryError> {
        make(&mut System, path)?;
        let folder = File::open(or_here(path)).map_err(at(path))?;
        let lock_path = path.join("LOCK");
        let lock = open_in(&folder, "LOCK", OFlags::CREATE | OFlags::WRONLY);
        let lock = lock.map_err(at(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                folder,
                is_away: AtomicBool::new(false),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DirectoryError::Locked { path: lock_path }),
            Err(TryLockError::Error(error)) => Err(at(&lock_path)(error)),
        }
    }

    fn open_file(&self, name: &str, how: OFlags) -> io::Result<File> {
        open_in(&self.folder, name, how)
    }
}

fn open_in(folder: &File, name: &str, how: OFlags) -> io::Result<File> {
    let readable_by_all = Mode::from_raw_mode(0o666);
    let file = openat(folder, name, how | OFlags::CLOEXEC, readable_by_all)?;
    Ok(file.into())
}

impl Storage for Folder {
    fn path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in Dir::read_from(&self.folder)? {
            // Ours are all text.
            names.extend(entry?.file_name().to_str().map(str::to_owned));
        }
        Ok(names)
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn StoredFile>> {
        let how = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let file = self.open_file(name, how)?;
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
        let file = self.open_file(name, OFlags::RDONLY)?;
        let size = file.metadata()?.len();
        Ok((Box::new(file), size))
    }

    fn read_ahead(&self, name: &str) {
        let Ok(file) = self.open_file(name, OFlags::RDONLY) else {
            return;
        };
        let size = file.metadata().map_or(0, |it| it.len());
        for offset in (0..size).step_by(READ_AHEAD_SIZE.get() as usize) {
            // A system that takes no advice reads when it is asked to.
            let _ = fadvise(&file, offset, Some(READ_AHEAD_SIZE), Advice::WillNeed);
        }
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        Ok(Box::new(self.open_file(name, OFlags::WRONLY)?))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(unlinkat(&self.folder, name, AtFlags::empty())?)
    }

    fn sync(&self) -> io::Result<()> {
        self.folder.sync_all()
    }

    fn look_for_move(&self) -> Option<Move> {
        let own = self.folder.metadata().ok()?;
        let is_away = match fs::metadata(or_here(&self.path)) {
            Ok(found) => (found.dev(), found.ino()) != (own.dev(), own.ino()),
            // Of any other error nobody knows what it means.
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            Err(_) => return None,
        };
        let was_away = self.is_away.swap(is_away, Ordering::Relaxed);
        (is_away != was_away).then_some(if is_away { Move::Away } else { Move::Back })
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

/// What is asked of folders as a new store is made, which lies in several of them.
trait Folders {
    fn is_there(&self, path: &Path) -> bool;

    /// Makes one whose parent is there.
    fn make(&mut self, path: &Path) -> io::Result<()>;

    /// Brings the names in it to the disk.
    fn sync(&mut self, path: &Path) -> io::Result<()>;
}

/// Those of the system.
struct System;

impl Folders for System {
    fn is_there(&self, path: &Path) -> bool {
        path.exists()
    }

    fn make(&mut self, path: &Path) -> io::Result<()> {
        match fs::create_dir(path) {
            // Somebody else was faster.
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
            made => made,
        }
    }

    fn sync(&mut self, path: &Path) -> io::Result<()> {
        File::open(path)?.sync_all()
    }
}

/// Makes the folder of a store, and those it lies in, and brings their names to the disk. The store is lost with the
/// name of any of them, and those that are there may have been made by a start that was ended before it had done
/// that: unless there is a store, all of them are brought there.
fn make(folders: &mut impl Folders, path: &Path) -> Result<(), DirectoryError> {
    if folders.is_there(&path.join(MANIFEST)) {
        return Ok(());
    }
    let ancestors: Vec<&Path> = path.ancestors().map(or_here).collect();
    for pair in ancestors.windows(2).rev() {
        let [folder, parent] = pair else { continue };
        let is_new = !folders.is_there(folder);
        if is_new {
            folders.make(folder).map_err(at(folder))?;
        }
        match folders.sync(parent) {
            // Where we may not read we have made nothing, and some systems bring no folders to their disks.
            Err(error) if !is_new && may_be_passed_over(&error) => {}
            synced => synced.map_err(at(parent))?,
        }
    }
    Ok(())
}

fn may_be_passed_over(error: &io::Error) -> bool {
    use io::ErrorKind::{InvalidInput, PermissionDenied, ReadOnlyFilesystem, Unsupported};
    matches!(
        error.kind(),
        InvalidInput | PermissionDenied | ReadOnlyFilesystem | Unsupported
    )
}

/// How the system calls the folder that an empty path means.
fn or_here(path: &Path) -> &Path {
    if path.as_os_str().is_empty() {
        Path::new(".")
    } else {
        path
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

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

    #[test]
    fn a_folder_that_was_moved_is_written_to_and_each_move_is_told_once() {
        let path = std::env::temp_dir().join(format!("fastmq-moved-{}", std::process::id()));
        let away = path.with_extension("away");
        let folder = Folder::open(&path).unwrap();
        assert_eq!(folder.look_for_move(), None);
        for is_replaced in [false, true] {
            fs::rename(&path, &away).unwrap();
            if is_replaced {
                fs::create_dir(&path).unwrap();
            }
            let said = [folder.look_for_move(), folder.look_for_move()];
            assert_eq!(said, [Some(Move::Away), None]);
            folder.create("a.new", 0).unwrap();
            folder.rename("a.new", "a").unwrap();
            folder.sync().unwrap();
            assert!(away.join("a").exists() && !path.join("a").exists());
            assert!(folder.names().unwrap().contains(&"a".to_owned()));
            assert!(folder.open("a").is_ok() && folder.open_to_write("a").is_ok());
            folder.remove("a").unwrap();
            assert!(!away.join("a").exists());
            if is_replaced {
                fs::remove_dir(&path).unwrap();
            }
            fs::rename(&away, &path).unwrap();
            let said = [folder.look_for_move(), folder.look_for_move()];
            assert_eq!(said, [Some(Move::Back), None]);
        }
        fs::remove_dir_all(path).unwrap();
    }

    /// Folders of a system that ends after some steps, and forgets names that were not brought to the disk.
    #[derive(Default)]
    struct Forgetful {
        names: BTreeSet<PathBuf>,
        on_disk: BTreeSet<PathBuf>,
        steps: usize,
        /// Cannot be read.
        barred: Option<PathBuf>,
    }

    impl Forgetful {
        fn step(&mut self) -> io::Result<()> {
            self.steps = self.steps.checked_sub(1).ok_or(io::ErrorKind::Other)?;
            Ok(())
        }
    }

    impl Folders for Forgetful {
        fn is_there(&self, path: &Path) -> bool {
            self.names.contains(path)
        }

        fn make(&mut self, path: &Path) -> io::Result<()> {
            self.step()?;
            assert!(self.is_there(path.parent().unwrap()) && !self.is_there(path));
            self.names.insert(path.to_owned());
            Ok(())
        }

        fn sync(&mut self, path: &Path) -> io::Result<()> {
            self.step()?;
            if self.barred.as_deref() == Some(path) {
                return Err(io::ErrorKind::PermissionDenied.into());
            }
            let names = self.names.iter();
            let in_it = names.filter(|name| name.parent() == Some(path));
            self.on_disk.extend(in_it.cloned());
            Ok(())
        }
    }

    #[test]
    fn a_folder_that_was_made_is_there_after_a_failure_of_the_power_whatever_step_an_earlier_start_ended_at()
     {
        let path = Path::new("/var/lib/a/b");
        let there = ["/", "/var", "/var/lib"].map(PathBuf::from);
        for steps in 0.. {
            let mut folders = Forgetful {
                names: there.clone().into(),
                on_disk: there.clone().into(),
                steps,
                barred: Some("/".into()),
            };
            let is_over = make(&mut folders, path).is_ok();
            folders.steps = usize::MAX;
            make(&mut folders, path).unwrap();
            let mut needed = path.ancestors();
            assert!(
                needed.all(|it| folders.on_disk.contains(it)),
                "after {steps} steps"
            );
            if is_over {
                assert!(steps > 4);
                break;
            }
        }
        // Nothing is promised where it could not be brought to the disk.
        let mut folders = Forgetful {
            names: there.into(),
            steps: usize::MAX,
            barred: Some("/var/lib".into()),
            ..Forgetful::default()
        };
        assert!(make(&mut folders, path).is_err());
    }
}
