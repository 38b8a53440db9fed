//! What can be wrong with a password or ACL file, and where.

#![forbid(unsafe_code)]

use super::{FILE_SIZE_MAX, HashError};
use crate::shown::beginning;
use crate::topic::TopicError;

/// A file cannot be used. Nothing of it is.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{file}:{line}: {problem}")]
pub struct FileError {
    /// Its name.
    pub file: Box<str>,
    /// The line, counted from 1.
    pub line: usize,
    /// What is wrong there.
    pub problem: Problem,
}

/// What is wrong with one line. Passwords are never quoted, hashed or not.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// Larger than [`FILE_SIZE_MAX`].
    #[error("the file has more than {FILE_SIZE_MAX} bytes")]
    TooLarge,
    /// No User Name or topic in it could ever be equal to one that a Client sends [MQTT-1.5.4-1].
    #[error("not UTF-8")]
    NotUtf8,
    /// U+0000 in the line [MQTT-1.5.4-2].
    #[error("null character")]
    NullCharacter,

    /// The first word of a line of an ACL file is none that it may be.
    #[error("invalid line: it begins with {:?} instead of user, topic or pattern", beginning(.0))]
    Line(Box<str>),
    /// `topic` or `pattern` and nothing more.
    #[error("empty topic")]
    EmptyTopic,
    /// Something else between `topic` or `pattern` and the topic.
    #[error(
        "invalid topic access type {:?}: it is read, write, readwrite or deny, \
         and not to be left out before a topic with spaces",
        beginning(.0)
    )]
    AccessType(Box<str>),
    /// The topic is no Topic Filter.
    #[error("invalid ACL topic {:?}: {error}", beginning(.topic))]
    Topic {
        /// As written.
        topic: Box<str>,
        /// What is wrong with it.
        error: TopicError,
    },
    /// `user` and nothing more.
    #[error("missing username")]
    MissingUsername,

    /// No User Name before the colon.
    #[error("empty username")]
    EmptyUsername,
    /// A User Name that no CONNECT has room for.
    #[error("username too long")]
    UsernameTooLong,
    /// The same User Name a second time.
    #[error("duplicate user {:?}", beginning(.0))]
    DuplicateUser(Box<str>),
    /// The password of a user cannot be used.
    #[error("user {:?}: {error}", beginning(.username))]
    Password {
        /// The user.
        username: Box<str>,
        /// What is wrong.
        error: HashError,
    },
}

/// Something in a file that is legal but hardly meant.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Warning {
    /// The line, counted from 1.
    pub line: usize,
    /// A sentence.
    pub text: String,
}

/// A file's text without what an editor may have put before it.
pub(crate) fn without_byte_order_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}

/// The lines of a file with their numbers, as text without what ends them.
pub(super) fn lines<'a>(
    file: &'a str,
    text: &'a [u8],
) -> impl Iterator<Item = Result<(usize, &'a str), FileError>> {
    let is_too_large = text.len() > FILE_SIZE_MAX;
    let error = move |line, problem| FileError {
        file: file.into(),
        line,
        problem,
    };
    without_byte_order_mark(text)
        .split(|&byte| byte == b'\n')
        .enumerate()
        .map(move |(index, line)| {
            let number = index + 1;
            if is_too_large {
                return Err(error(number, Problem::TooLarge));
            }
            // Comments are for people, in whatever encoding they write.
            if line.first() == Some(&b'#') {
                return Ok((number, "#"));
            }
            if line.contains(&0) {
                return Err(error(number, Problem::NullCharacter));
            }
            match std::str::from_utf8(line) {
                Ok(line) => Ok((number, line)),
                Err(_) => Err(error(number, Problem::NotUtf8)),
            }
        })
}

/// What C calls space, which is what Mosquitto trims.
pub(super) fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// See [`trim`].
pub(super) fn trim_end(text: &str) -> &str {
    text.trim_end_matches(is_space)
}

fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}
