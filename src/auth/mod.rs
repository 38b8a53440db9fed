//! Who may come in, and what they may read and write: Mosquitto's password and ACL files.
//!
//! [`Security`] is what a listener's files say. The shard asks two questions: [`admission`] at
//! CONNECT, and [`permits`] for every topic that a Client writes or reads, whichever way it goes
//! there: PUBLISH, Will, live and queued delivery, retained messages, Shared Subscriptions.
//!
//! **Knows nothing of** files: it is given their text and name. Parsing is all or nothing, so that a
//! broken file closes the door instead of opening it.
//!
//! # Always true
//! - [`permits`] neither allocates nor locks, and costs the levels of the topic, not the number of
//!   rules.
//! - Verifying the password of a user that does not exist takes as long as that of most who do.
//! - A Client Identifier or User Name is only ever compared with levels of a topic, never read as a part
//!   of a Topic Filter.
//!
//! Read next: `acl/mod.rs` (what a rule decides), `password_file.rs`, `hash.rs`.

#![forbid(unsafe_code)]

mod acl;
mod error;
mod hash;
mod password_file;
#[cfg(test)]
mod tests;

pub use acl::{Acl, Standing};
pub(crate) use error::without_byte_order_mark;
pub use error::{FileError, Problem, Warning};
pub use hash::{HashError, PasswordHash, Scheme};
pub use password_file::{Credential, PasswordFile};

/// Most bytes of a password or ACL file; more is refused.
pub const FILE_SIZE_MAX: usize = 256 << 20;

/// What a Client wants with a topic.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// A message is about to be delivered to it.
    Read,
    /// It published, or left a Will.
    Write,
    /// It subscribes to a Topic Filter.
    Subscribe,
    /// It unsubscribes from a Topic Filter.
    Unsubscribe,
}

/// The Client that a question is about.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subject<'a> {
    /// User Name, given in CONNECT or taken from a certificate; `None` for an anonymous Client.
    pub username: Option<&'a str>,
    /// Client Identifier.
    pub client_identifier: &'a str,
}

/// What the files of one listener, or of all of them, say.
#[derive(Debug, Default, Eq, PartialEq)]
pub struct Security {
    /// `password_file`.
    pub passwords: Option<PasswordFile>,
    /// `acl_file`.
    pub acl: Option<Acl>,
}

impl Security {
    /// What the ACL file has for a Client: looked up at CONNECT, and again when the file has changed.
    #[must_use]
    pub fn standing(&self, subject: &Subject<'_>) -> Standing {
        self.acl
            .as_ref()
            .map_or_else(Standing::default, |acl| acl.standing(subject))
    }
}

/// What happens to a CONNECT as far as its User Name and Password are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Admission {
    /// Come in.
    Accept,
    /// Not authorized.
    Refuse,
    /// The password has to be verified, which takes too long for a shard: see
    /// [`PasswordFile::verify`].
    Verify,
}

/// Decides about the User Name and Password of a CONNECT as far as that needs no hashing.
///
/// As in Mosquitto, `allow_anonymous` decides about Clients without a User Name, and about all of
/// them when there is no password file.
#[must_use]
pub fn admission(
    security: Option<&Security>,
    allow_anonymous: bool,
    username: Option<&str>,
    password: Option<&[u8]>,
) -> Admission {
    let has_passwords = security.is_some_and(|security| security.passwords.is_some());
    if has_passwords && username.is_some() {
        // Known or not, a user without a password is refused at once.
        if password.is_some() {
            Admission::Verify
        } else {
            Admission::Refuse
        }
    } else if allow_anonymous {
        Admission::Accept
    } else {
        Admission::Refuse
    }
}

/// The one door: whether a Client may do this with a topic, or with a Topic Filter.
///
/// `topic` is the name that other Clients see, mount point included. The `$SYS` tree is the broker's
/// and `$share` is no topic, with or without an ACL file. As in Mosquitto, an ACL file does not
/// restrict what a Client subscribes to: it restricts what the subscription delivers.
// HOT: per PUBLISH, and per subscriber when there is an ACL file.
#[must_use]
#[inline]
pub fn permits(
    security: Option<&Security>,
    standing: Standing,
    subject: &Subject<'_>,
    access: Access,
    topic: &[u8],
) -> bool {
    if topic.first() == Some(&b'$') && !permits_dollar(access, topic) {
        return false;
    }
    match security.and_then(|security| security.acl.as_ref()) {
        Some(acl) => acl.check_with(standing, subject, access, topic),
        None => true,
    }
}

/// What is decided about topics that begin with `$` before any file is asked.
fn permits_dollar(access: Access, topic: &[u8]) -> bool {
    if topic.starts_with(b"$SYS") {
        access != Access::Write || is_bridge_state(topic)
    } else if topic.starts_with(b"$share") {
        matches!(access, Access::Subscribe | Access::Unsubscribe)
    } else {
        true
    }
}

/// Whether it is where a bridge from another Mosquitto says by default whether it is connected.
fn is_bridge_state(topic: &[u8]) -> bool {
    topic
        .strip_prefix(b"$SYS/broker/connection/")
        .and_then(|rest| rest.strip_suffix(b"/state"))
        .is_some_and(|name| !name.contains(&b'/'))
}
