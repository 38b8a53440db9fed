//! `--test-config`: what a start would find wrong, in its order, and with nothing that stays behind.

#![forbid(unsafe_code)]

use super::files::PidFile;
use super::listeners::AllListening;
use super::{Failure, Found, logging, store_failure, store_options};
use crate::cli::Arguments;
use rustix::fs::{Access, access};
use std::fs;
use std::io;
use std::path::Path;

/// Looks at what a start would use. Of a process of root's only its successor is left afterwards, since it is the
/// one that has to reach the store.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(found: &Found, arguments: &Arguments) -> Result<(), Failure> {
    let config = &found.config;
    logging::log_options(&config.log)?;
    AllListening::check(config)?;
    PidFile::check(config.pid_file.as_ref())?;
    found.successor.succeed().map_err(Failure::start)?;
    if let Some(options) = store_options(config, arguments) {
        let path = &options.directory;
        may_be_made(path).map_err(|error| {
            store_failure(config, arguments, format!("{}: {error}", path.display()))
        })?;
    }
    Ok(())
}

/// Whether files can be written in a directory that is made first if it is not there, with those above it.
fn may_be_made(directory: &Path) -> io::Result<()> {
    for path in directory.ancestors() {
        let path = match path.as_os_str().is_empty() {
            true => Path::new("."),
            false => path,
        };
        match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(metadata) if metadata.is_dir() => {
                return Ok(access(path, Access::WRITE_OK | Access::EXEC_OK)?);
            }
            Ok(_) => return Err(io::ErrorKind::NotADirectory.into()),
        }
    }
    Ok(())
}
