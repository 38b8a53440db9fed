//! The options, with the letters and rules of `mosquitto_passwd`.

#![forbid(unsafe_code)]

use std::ffi::{OsStr, OsString};
use std::path::Path;

use clap::Args;

use super::Failure;
use crate::auth::Scheme;

/// Most bytes of a User Name or password: CONNECT has 16 bits for each length.
const SIZE_MAX: usize = u16::MAX as usize;

/// Options of `fastmq passwd`.
#[derive(Args, Clone, Debug)]
pub struct PasswdArguments {
    /// Take the password from the command line, where other users of this machine can see it
    #[arg(short)]
    batch: bool,

    /// Create the password file, overwriting one that is there; `-` prints it instead
    #[arg(short)]
    create: bool,

    /// Delete the user instead of setting its password
    #[arg(short = 'D')]
    delete: bool,

    /// Hash passwords with sha512-pbkdf2, argon2id, or sha512, which is weak and what Mosquitto 1.6
    /// reads [default: sha512-pbkdf2]
    #[arg(short = 'H', value_name = "HASH", allow_hyphen_values = true)]
    hash: Option<String>,

    /// Iterations of sha512-pbkdf2 [default: 1000]
    #[arg(short = 'I', value_name = "NUMBER", allow_hyphen_values = true)]
    iterations: Option<String>,

    /// Hash the passwords of a file that are not hashed
    #[arg(short = 'U')]
    update: bool,

    /// The password file, the user, and with -b the password
    #[arg(
        value_name = "FILE [USER [PASSWORD]]",
        allow_hyphen_values = true,
        trailing_var_arg = true
    )]
    operands: Vec<OsString>,
}

/// What to do, of which everything is there.
#[derive(Debug)]
pub(super) struct Order<'a> {
    pub(super) file: &'a Path,
    pub(super) scheme: Scheme,
    pub(super) task: Task<'a>,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Task<'a> {
    Set {
        username: &'a str,
        /// To be asked for if there is none.
        password: Option<&'a OsStr>,
        create: bool,
    },
    Delete {
        username: &'a str,
    },
    HashAll,
}

impl PasswdArguments {
    /// What they ask for.
    pub(super) fn order(&self) -> Result<Order<'_>, Failure> {
        let scheme = self.scheme()?;
        let conflicts = [
            (self.create && self.delete, "-c and -D"),
            (self.create && self.update, "-c and -U"),
            (self.delete && self.update, "-D and -U"),
            (self.delete && self.batch, "-b and -D"),
            (self.update && self.batch, "-b and -U"),
        ];
        if let Some((_, options)) = conflicts.iter().find(|(is_so, _)| *is_so) {
            return usage(format!("{options} cannot be used together."));
        }
        let mut operands = self.operands.iter();
        let file = operands.next();
        // Operands may begin with a hyphen, as passwords do; the first one is an option nobody knows.
        if let Some(file) = file
            && let [b'-', _, ..] = file.as_encoded_bytes()
        {
            return usage(format!("Unknown option '{}'.", file.display()));
        }
        let username = if self.update { None } else { operands.next() };
        let password = if self.batch { operands.next() } else { None };
        if let Some(surplus) = operands.next() {
            return usage(format!("Unexpected argument {}.", surplus.display()));
        }
        let Some(file) = file else {
            return usage(self.missing());
        };
        let file = Path::new(file);
        if self.update {
            return Ok(Order {
                file,
                scheme,
                task: Task::HashAll,
            });
        }
        let (Some(username), true) = (username, password.is_some() == self.batch) else {
            return usage(self.missing());
        };
        let username = valid_username(username)?;
        if password.is_some_and(|password| password.len() > SIZE_MAX) {
            return usage("Password must be less than 65536 characters long.".into());
        }
        let task = if self.delete {
            Task::Delete { username }
        } else {
            Task::Set {
                username,
                password: password.map(OsString::as_os_str),
                create: self.create,
            }
        };
        Ok(Order { file, scheme, task })
    }

    fn missing(&self) -> String {
        let option = if self.create {
            "-c"
        } else if self.delete {
            "-D"
        } else if self.update {
            return "-U argument given but password file missing.".into();
        } else if self.batch {
            return "-b argument given but password file, username, or password missing.".into();
        } else {
            return "Password file or username missing.".into();
        };
        let missing = if self.batch {
            "password file, username, or password"
        } else {
            "password file or username"
        };
        format!("{option} argument given but {missing} missing.")
    }

    fn scheme(&self) -> Result<Scheme, Failure> {
        let scheme = match self.hash.as_deref() {
            None | Some("sha512-pbkdf2") => Scheme::PBKDF2_DEFAULT,
            Some("sha512") => Scheme::Sha512,
            Some("argon2id") => Scheme::ARGON2ID_DEFAULT,
            Some(other) => return usage(format!("Unknown hash type '{other}'")),
        };
        let Some(iterations) = &self.iterations else {
            return Ok(scheme);
        };
        if !matches!(scheme, Scheme::Pbkdf2Sha512 { .. }) {
            return usage("-I is for the hash type sha512-pbkdf2 only.".into());
        }
        match iterations.parse() {
            Ok(iterations) if iterations > 0 => {
                let scheme = Scheme::Pbkdf2Sha512 { iterations };
                scheme.check()?;
                Ok(scheme)
            }
            _ => usage("Number of iterations must be > 0.".into()),
        }
    }
}

fn usage<T>(text: String) -> Result<T, Failure> {
    Err(Failure::Usage(text))
}

/// Refuses User Names that no Client can send, and those that would not be read again as they are.
fn valid_username(username: &OsStr) -> Result<&str, Failure> {
    let Some(username) = username.to_str() else {
        return usage("Username must be UTF-8.".into());
    };
    let is_blank = |character: char| character.is_ascii_whitespace();
    if username.is_empty() {
        usage("Username must not be empty.".into())
    } else if username.len() > SIZE_MAX {
        usage("Username must be less than 65536 characters long.".into())
    } else if username
        .chars()
        .any(|character| character.is_ascii_control())
    {
        usage("Username must not contain control characters.".into())
    } else if username.contains(':') {
        usage("Username must not contain the ':' character.".into())
    } else if username.starts_with('#') {
        // It would be a comment.
        usage("Username must not begin with the '#' character.".into())
    } else if username.starts_with(is_blank) || username.ends_with(is_blank) {
        usage("Username must not begin or end with a space.".into())
    } else {
        Ok(username)
    }
}
