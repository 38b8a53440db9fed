//! Writing a password file: whole, or not at all, whatever happens meanwhile.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, fchown};
use std::path::{Path, PathBuf};
use std::process;

/// Nobody but its owner has to read a password file.
const MODE: u32 = 0o600;
/// Names that are tried for the new file, of which others may be left over.
const NAMES_MAX: u32 = 100;

/// Makes `path` a file with this text, in place of one that is there.
pub(super) fn create(path: &Path, text: &[u8]) -> io::Result<()> {
    match path.canonicalize() {
        Ok(path) => replace(&path, text),
        Err(error) if error.kind() == ErrorKind::NotFound => write(path, None, text),
        Err(error) => Err(error),
    }
}

/// Gives the file at `path`, which is there and no link, another text. Its owner and who may read it
/// stay the same, since a broker may depend on it.
pub(super) fn replace(path: &Path, text: &[u8]) -> io::Result<()> {
    let metadata = fs::metadata(path)?;
    if !metadata.is_file() {
        return Err(io::Error::other("It is not a file"));
    }
    if metadata.mode() & 0o004 != 0 {
        eprintln!(
            "Warning: Everybody can read {path}. To change that, use `chmod o= {path}`.",
            path = path.display()
        );
    }
    write(path, Some(&metadata), text)
}

fn write(path: &Path, like: Option<&fs::Metadata>, text: &[u8]) -> io::Result<()> {
    let (mut file, temporary) = beside(path)?;
    let written = fill(&mut file, like, text).and_then(|()| fs::rename(&temporary, path));
    if written.is_err() {
        // What was there is there still; the beginning of a new one is of no use.
        let _ = fs::remove_file(&temporary);
        return written;
    }
    // The new name has to outlive a power failure as the text does.
    match folder(path).and_then(|folder| File::open(folder)?.sync_all()) {
        // Some file systems cannot.
        Err(error) if error.kind() != ErrorKind::InvalidInput => Err(error),
        _ => Ok(()),
    }
}

fn fill(file: &mut File, like: Option<&fs::Metadata>, text: &[u8]) -> io::Result<()> {
    if let Some(like) = like {
        let new = file.metadata()?;
        if (new.uid(), new.gid()) != (like.uid(), like.gid()) {
            fchown(&*file, Some(like.uid()), Some(like.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(like.mode() & 0o777))?;
    }
    file.write_all(text)?;
    file.sync_all()
}

/// A new file in the folder of `path`.
fn beside(path: &Path) -> io::Result<(File, PathBuf)> {
    let name = path.file_name().ok_or(ErrorKind::InvalidInput)?;
    let folder = folder(path)?;
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(MODE);
    for attempt in 0..NAMES_MAX {
        let mut name = OsString::from(name);
        name.push(format!(".new.{}.{attempt}", process::id()));
        let temporary = folder.join(name);
        match options.open(&temporary) {
            Ok(file) => return Ok((file, temporary)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(ErrorKind::AlreadyExists.into())
}

fn folder(path: &Path) -> io::Result<PathBuf> {
    let folder = path.parent().ok_or(ErrorKind::InvalidInput)?;
    Ok(if folder.as_os_str().is_empty() {
        PathBuf::from(".")
    } else {
        folder.to_owned()
    })
}
