//! A password file: one `user:hash` a line.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::collections::HashMap;

use sha2::{Digest, Sha512};

use super::error::{FileError, Problem, Warning, lines, trim};
use super::hash::{PasswordHash, Scheme};

/// Most bytes of a User Name: its length has 16 bits in CONNECT.
const USERNAME_SIZE_MAX: usize = u16::MAX as usize;

/// The users that may connect.
#[derive(Debug)]
pub struct PasswordFile {
    users: HashMap<Box<str>, PasswordHash, ahash::RandomState>,
    /// What the password of an unknown user is compared with.
    decoy: PasswordHash,
    warnings: Vec<Warning>,
}

impl PartialEq for PasswordFile {
    /// Whether both let the same users in with the same passwords.
    fn eq(&self, other: &Self) -> bool {
        self.users == other.users
    }
}

impl Eq for PasswordFile {}

impl PasswordFile {
    /// Parses the text of `file`. As in Mosquitto 2.1, lines that begin with `#` and lines without a
    /// colon mean nothing, and everything else has to be right.
    ///
    /// # Errors
    /// [`FileError`] names the line.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, FileError> {
        let mut users = HashMap::with_hasher(hasher());
        let mut warnings = Vec::new();
        for line in lines(file, text) {
            let (number, line) = line?;
            match parse_line(line) {
                Ok(Line::User(username, hash)) => {
                    if users.insert(Box::from(username), hash).is_some() {
                        let problem = Problem::DuplicateUser(username.into());
                        return Err(error(file, number, problem));
                    }
                }
                Ok(Line::Nothing) => {}
                Ok(Line::Ignored) => warnings.push(Warning {
                    line: number,
                    text: "a line without a colon means nothing".into(),
                }),
                Err(problem) => return Err(error(file, number, problem)),
            }
        }
        let decoy = PasswordHash::decoy(prevailing_scheme(users.values()));
        Ok(Self {
            users,
            decoy,
            warnings,
        })
    }

    /// Whether `username` is a user whose password is `password`.
    ///
    /// Takes milliseconds by design: not for a shard. An unknown user takes as long as most known
    /// ones do.
    #[must_use]
    pub fn verify(&self, username: &str, password: &[u8]) -> bool {
        let known = self.users.get(username);
        known.unwrap_or(&self.decoy).verify(password) && known.is_some()
    }

    /// Names the password that a user has now: it changes when the password does. `None` if there is
    /// no such user.
    ///
    /// What was proved about one credential is good for as long as the file still has it, which is
    /// how a Client that is connected outlives a reload without anybody keeping its password.
    #[must_use]
    pub fn credential(&self, username: &str) -> Option<Credential> {
        let hash = self.users.get(username)?;
        let digest = Sha512::digest(hash.to_string());
        let first = digest.first_chunk().copied().unwrap_or_default();
        Some(Credential(u64::from_le_bytes(first)))
    }

    #[cfg(test)]
    pub(super) fn decoy_scheme(&self) -> Scheme {
        self.decoy.scheme()
    }

    /// Number of users.
    #[must_use]
    pub fn users_count(&self) -> usize {
        self.users.len()
    }

    /// What is legal but hardly meant.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Names one hashed password. See [`PasswordFile::credential`].
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Credential(u64);

enum Line<'a> {
    User(&'a str, PasswordHash),
    Nothing,
    /// Not empty and not a comment.
    Ignored,
}

fn parse_line(line: &str) -> Result<Line<'_>, Problem> {
    if line.starts_with('#') || trim(line).is_empty() {
        return Ok(Line::Nothing);
    }
    let Some((username, password)) = line.split_once(':') else {
        return Ok(Line::Ignored);
    };
    let (username, password) = (trim(username), trim(password));
    if username.is_empty() {
        return Err(Problem::EmptyUsername);
    }
    if username.len() > USERNAME_SIZE_MAX {
        return Err(Problem::UsernameTooLong);
    }
    match password.parse() {
        Ok(hash) => Ok(Line::User(username, hash)),
        Err(error) => Err(Problem::Password {
            username: username.into(),
            error,
        }),
    }
}

/// The scheme that most users have, so that unknown users cannot be told from most of them by time.
fn prevailing_scheme<'a>(hashes: impl Iterator<Item = &'a PasswordHash>) -> Scheme {
    let mut counts = BTreeMap::<Scheme, usize>::new();
    for hash in hashes {
        *counts.entry(hash.scheme()).or_default() += 1;
    }
    counts
        .into_iter()
        .max_by_key(|&(scheme, count)| (count, scheme))
        .map_or(Scheme::PBKDF2_DEFAULT, |(scheme, _)| scheme)
}

fn error(file: &str, line: usize, problem: Problem) -> FileError {
    FileError {
        file: file.into(),
        line,
        problem,
    }
}

/// Names in a file are the operator's, so nobody can choose them to collide.
pub(super) fn hasher() -> ahash::RandomState {
    ahash::RandomState::with_seeds(
        0x243f_6a88_85a3_08d3,
        0x1319_8a2e_0370_7344,
        0xa409_3822_299f_31d0,
        0x082e_fa98_ec4e_6c89,
    )
}
