//! The log file: opened again when it was renamed away, and patient when it cannot be opened or written.

#![forbid(unsafe_code)]

use super::Owner;
use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How often to look whether the path still leads to the open file.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long a file that cannot be opened is left alone.
const RETRY_AFTER: Duration = Duration::from_secs(5);

/// What a write has come to.
#[derive(Debug)]
pub(super) enum Outcome {
    Written,
    /// The lines are lost.
    Lost,
    /// They are lost, and this is the first time since it worked.
    Failed(io::Error),
    /// They are written, and it is the first time since it did not work.
    Recovered,
    /// They are written to the file that was open before, since the path's cannot be opened. Once for each time
    /// that it was to be opened.
    Behind(io::Error),
}

#[derive(Debug)]
pub(super) struct LogFile {
    path: PathBuf,
    /// Who is to own it when it is made.
    owner: Option<Owner>,
    open: Option<Open>,
    /// The next lines are for what the path names by then.
    is_to_be_opened: bool,
    /// What is open is not what the path names, and that has been said.
    is_behind: bool,
    failed_at: Option<Instant>,
}

#[derive(Debug)]
struct Open {
    file: File,
    identity: (u64, u64),
    looked_at: Instant,
    /// The last write ended within a line.
    torn: bool,
}

impl LogFile {
    pub(super) fn new(path: PathBuf, owner: Option<Owner>) -> Self {
        Self {
            path,
            owner,
            open: None,
            is_to_be_opened: true,
            is_behind: false,
            failed_at: None,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Has the next lines go to what the path then names.
    pub(super) fn reopen(&mut self) {
        self.is_to_be_opened = true;
        self.is_behind = false;
        // Whoever asks has perhaps made room.
        self.failed_at = self.failed_at.and_then(|at| at.checked_sub(RETRY_AFTER));
    }

    /// Appends whole lines.
    pub(super) fn write(&mut self, lines: &str, now: Instant) -> Outcome {
        if self.open.is_none()
            && self
                .failed_at
                .is_some_and(|at| now.saturating_duration_since(at) < RETRY_AFTER)
        {
            return Outcome::Lost;
        }
        match self.try_write(lines, now) {
            Ok(_) if self.failed_at.take().is_some() => Outcome::Recovered,
            Ok(None) => Outcome::Written,
            Ok(Some(error)) => Outcome::Behind(error),
            Err(error) => {
                if self.failed_at.replace(now).is_some() {
                    Outcome::Lost
                } else {
                    Outcome::Failed(error)
                }
            }
        }
    }

    /// Writes, and tells why that is to another file than the path names, if that is so and was not told before.
    fn try_write(&mut self, lines: &str, now: Instant) -> io::Result<Option<io::Error>> {
        // logrotate renames and signals; others only rename, or delete.
        if let Some(open) = &mut self.open
            && now.saturating_duration_since(open.looked_at) >= LOOK_EVERY
        {
            open.looked_at = now;
            let there = std::fs::metadata(&self.path).ok().map(|at| identity(&at));
            self.is_to_be_opened |= there != Some(open.identity);
        }
        let mut why = None;
        if std::mem::take(&mut self.is_to_be_opened) {
            match Open::new(&self.path, self.owner, now) {
                Ok(open) => {
                    self.open = Some(open);
                    self.is_behind = false;
                }
                Err(error) if self.open.is_some() => {
                    let is_told = std::mem::replace(&mut self.is_behind, true);
                    why = (!is_told).then_some(error);
                }
                Err(error) => {
                    self.is_to_be_opened = true;
                    return Err(error);
                }
            }
        }
        let Some(open) = &mut self.open else {
            return Ok(None);
        };
        if open.torn {
            open.file.write_all(b"\n")?;
            open.torn = false;
        }
        let mut rest = lines.as_bytes();
        while !rest.is_empty() {
            match open.file.write(rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(size) => {
                    rest = rest.get(size..).unwrap_or_default();
                    open.torn = !rest.is_empty();
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(why)
    }
}

impl Open {
    fn new(path: &Path, owner: Option<Owner>, now: Instant) -> io::Result<Self> {
        // Who may read it is the operator's choice; who connects is nobody else's business until
        // then. A pipe that nobody reads is an error, not a wait.
        let mut options = OpenOptions::new();
        options
            .append(true)
            .create(true)
            .mode(0o600)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed());
        let file = match owner {
            // Only what is new is given away: whatever else has the name, somebody else made it.
            Some(owner) => match options.clone().create_new(true).open(path) {
                Ok(file) => {
                    fchown(&file, Some(owner.user), Some(owner.group))?;
                    file
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => options.open(path)?,
                Err(error) => return Err(error),
            },
            None => options.open(path)?,
        };
        let identity = identity(&file.metadata()?);
        Ok(Self {
            file,
            identity,
            looked_at: now,
            torn: false,
        })
    }
}

fn identity(metadata: &std::fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::fs;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("fastmq-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        folder
    }

    #[test]
    fn a_renamed_file_is_followed_by_a_new_one() {
        let folder = folder("log-renamed");
        let path = folder.join("a.log");
        let now = Instant::now();
        let mut file = LogFile::new(path.clone(), None);
        assert!(matches!(file.write("one\n", now), Outcome::Written));
        fs::rename(&path, folder.join("a.log.1")).unwrap();
        // Not looked at again yet.
        assert!(matches!(file.write("two\n", now), Outcome::Written));
        assert!(matches!(
            file.write("three\n", now + LOOK_EVERY),
            Outcome::Written
        ));
        assert_eq!(
            fs::read_to_string(folder.join("a.log.1")).unwrap(),
            "one\ntwo\n"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "three\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn reopening_creates_the_file_anew_at_once() {
        let folder = folder("log-reopened");
        let path = folder.join("a.log");
        let now = Instant::now();
        let mut file = LogFile::new(path.clone(), None);
        file.write("one\n", now);
        fs::remove_file(&path).unwrap();
        file.reopen();
        file.write("two\n", now);
        assert_eq!(fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_is_tried_again_later_and_named_once() {
        let folder = folder("log-absent");
        let path = folder.join("not-there").join("a.log");
        let now = Instant::now();
        let mut file = LogFile::new(path.clone(), None);
        assert!(matches!(file.write("one\n", now), Outcome::Failed(_)));
        assert!(matches!(file.write("two\n", now), Outcome::Lost));
        assert!(matches!(
            file.write("three\n", now + RETRY_AFTER),
            Outcome::Lost
        ));
        fs::create_dir(folder.join("not-there")).unwrap();
        let later = now + 2 * RETRY_AFTER;
        assert!(matches!(file.write("four\n", later), Outcome::Recovered));
        assert!(matches!(file.write("five\n", later), Outcome::Written));
        assert_eq!(fs::read_to_string(&path).unwrap(), "four\nfive\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_cannot_be_opened_again_leaves_the_one_before_in_use_and_is_told_once_each_time()
    {
        let folder = folder("log-behind");
        let path = folder.join("a.log");
        let now = Instant::now();
        let mut file = LogFile::new(path.clone(), None);
        assert!(matches!(file.write("one\n", now), Outcome::Written));
        fs::rename(&path, folder.join("a.log.1")).unwrap();
        // Nobody can write lines to a folder, root included.
        fs::create_dir(&path).unwrap();
        file.reopen();
        assert!(matches!(file.write("two\n", now), Outcome::Behind(_)));
        assert!(matches!(file.write("three\n", now), Outcome::Written));
        file.reopen();
        assert!(matches!(file.write("four\n", now), Outcome::Behind(_)));
        // It is looked at again by itself, and need not be said again.
        let later = now + LOOK_EVERY;
        assert!(matches!(file.write("five\n", later), Outcome::Written));
        fs::remove_dir(&path).unwrap();
        let later = later + LOOK_EVERY;
        assert!(matches!(file.write("six\n", later), Outcome::Written));
        assert_eq!(
            fs::read_to_string(folder.join("a.log.1")).unwrap(),
            "one\ntwo\nthree\nfour\nfive\n"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "six\n");
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_full_device_loses_lines_and_nothing_else() {
        let now = Instant::now();
        let mut file = LogFile::new("/dev/full".into(), None);
        assert!(matches!(file.write("one\n", now), Outcome::Failed(_)));
        assert!(matches!(file.write("two\n", now), Outcome::Lost));
    }
}
