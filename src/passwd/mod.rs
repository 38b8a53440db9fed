//! `fastmq passwd`: creates and changes password files, as `mosquitto_passwd` does.
//!
//! Options, messages and exit statuses are those of the original, and so are the files: either program
//! reads what the other wrote. Where it differs, it is so that no password is lost: a file is replaced
//! as a whole or not at all, comments stay, and `-U` leaves alone what is hashed already.
//!
//! Read next: `lines.rs` (what happens to the text), `replace.rs` (what happens to the file).

#![forbid(unsafe_code)]

mod arguments;
mod lines;
mod prompt;
mod replace;

pub use arguments::PasswdArguments;

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use crate::auth::{HashError, PasswordHash, Scheme, without_byte_order_mark};
use arguments::{Order, Task};
use replace::{create, replace};

/// Exit status for options that make no sense, and for everything that went wrong.
pub const EXIT_FAILURE: u8 = 1;
/// Exit status when two passwords that should be the same are not.
const EXIT_MISMATCH: u8 = 2;

/// Why nothing was changed. Its text is what the user is told.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("Error: {0}")]
    Usage(String),
    #[error("Error: Corrupt password file at line {0}.")]
    Corrupt(usize),
    #[error("Warning: User {0} not found in password file.")]
    NotFound(String),
    #[error("Error: Unable to open password file {path}. {}.", reason(source))]
    Open { path: String, source: io::Error },
    #[error("Error: Unable to open file {path} for writing. {}.", reason(source))]
    Write { path: String, source: io::Error },
    #[error("Error: Unable to hash password: {0}.")]
    Hash(#[from] HashError),
    #[error("Error: No random salt to be had: {0}.")]
    Salt(rustix::io::Errno),
    #[error("Error: Empty password.")]
    EmptyPassword,
    #[error("Error: Passwords do not match.")]
    Mismatch,
    #[error("Error: Unable to read the password: {0}.")]
    Prompt(io::Error),
}

/// What the system said, without the number that only programmers know.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    match text.split_once(" (os error") {
        Some((reason, _)) => reason.into(),
        None => text,
    }
}

/// Does what the arguments ask for, and returns the exit status.
#[must_use]
pub fn run(arguments: &PasswdArguments) -> u8 {
    match arguments.order().and_then(|order| follow(&order)) {
        Ok(()) => 0,
        Err(failure) => {
            eprintln!("{failure}");
            match failure {
                Failure::Mismatch => EXIT_MISMATCH,
                _ => EXIT_FAILURE,
            }
        }
    }
}

fn follow(order: &Order<'_>) -> Result<(), Failure> {
    let path = order.file;
    let hash = |password: &[u8]| hash(order.scheme, password);
    if let Task::Set {
        username,
        password,
        create: true,
    } = order.task
    {
        let password = password_or_prompt(password)?;
        let line = lines::line(username, &hash(&password)?);
        // As if it were a file, so that a script need not have one.
        if path == Path::new("-") {
            print!("{line}");
            return Ok(());
        }
        create(path, line.as_bytes()).map_err(|source| Failure::Write {
            path: path.display().to_string(),
            source,
        })?;
        println!("Adding password for user {username}");
        return Ok(());
    }
    let open = |source| Failure::Open {
        path: path.display().to_string(),
        source,
    };
    let path = path.canonicalize().map_err(open)?;
    // Nobody types a password for a file that is not there.
    let read = || {
        let text = fs::read(&path).map_err(open)?;
        Ok::<_, Failure>(without_byte_order_mark(&text).to_vec())
    };
    read()?;
    let (text, said) = match order.task {
        Task::Set {
            username, password, ..
        } => {
            let password = password_or_prompt(password)?;
            let (text, was_there) = lines::set(&read()?, username, &hash(&password)?)?;
            let what = if was_there { "Updating" } else { "Adding" };
            (text, Some(format!("{what} password for user {username}")))
        }
        Task::Delete { username } => (lines::delete(&read()?, username)?, None),
        Task::HashAll => (lines::hash_all(&read()?, hash)?, None),
    };
    replace(&path, &text).map_err(|source| Failure::Write {
        path: path.display().to_string(),
        source,
    })?;
    if let Some(said) = said {
        println!("{said}");
    }
    Ok(())
}

fn password_or_prompt(given: Option<&std::ffi::OsStr>) -> Result<Vec<u8>, Failure> {
    match given {
        Some(password) => Ok(password.as_bytes().to_vec()),
        None => prompt::new_password(),
    }
}

/// Hashes `password` with a salt of its own.
fn hash(scheme: Scheme, password: &[u8]) -> Result<PasswordHash, Failure> {
    let mut salt = vec![0; scheme.salt_size()];
    let mut filled = 0;
    while let Some(rest) = salt.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match rustix::rand::getrandom(rest, rustix::rand::GetRandomFlags::empty()) {
            Ok(size) => filled += size,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(Failure::Salt(error)),
        }
    }
    Ok(PasswordHash::new(scheme, password, &salt)?)
}
