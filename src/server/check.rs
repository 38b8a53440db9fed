//! `--test-config`: what a start would find wrong, in its order, and with nothing that stays behind.

#![forbid(unsafe_code)]

use super::files::{PidFile, may_be_written};
use super::listeners::AllListening;
use super::{Failure, Found, admin_failure, logging, store_failure, store_options};
use crate::admin;
use crate::cli::Arguments;
use crate::config::AdminOptions;
use rustix::fs::{Access, access};
use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::Path;

/// Looks at what a start would use. Of a process of root's only its successor is left afterwards, since it is the
/// one that has to reach the store.
///
/// Returns what a start would go on without.
///
/// # Errors
/// The first thing that is wrong.
pub(super) fn check(found: &Found, arguments: &Arguments) -> Result<Option<String>, Failure> {
    let config = &found.config;
    logging::log_options(&config.log)?;
    let file = config.log.destinations.file.as_ref();
    let lost = file.and_then(|file| {
        let error = may_be_written(&file.path).err()?;
        let path = file.path.display();
        Some(format!(
            "the log would not reach {path}: {error} ({})",
            file.place
        ))
    });
    AllListening::check(config)?;
    // Whether or not somebody listens there already.
    let admin = AdminOptions {
        listener: config.admin.listener.map(|it| SocketAddr::new(it.ip(), 0)),
        ..AdminOptions::default()
    };
    admin::listen(&admin).map_err(|error| admin_failure(config, &error))?;
    PidFile::check(config.pid_file.as_ref())?;
    found.successor.succeed().map_err(Failure::start)?;
    if let Some(options) = store_options(config, arguments) {
        let path = &options.directory;
        may_be_made(path).map_err(|error| {
            store_failure(config, arguments, format!("{}: {error}", path.display()))
        })?;
    }
    Ok(lost)
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
