//! Who may log in, and who may do what with which topic.
//!
//! Pure: files are read elsewhere, and hashing a password runs on a thread of its own.

#![forbid(unsafe_code)]

/// What a Client wants to do with a topic.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Access {
    /// Be sent a message of a Topic Name.
    Read,
    /// Publish to a Topic Name, or leave a Will for it.
    Write,
    /// Subscribe to a Topic Filter.
    Subscribe,
    /// Unsubscribe from a Topic Filter.
    Unsubscribe,
}

/// Who wants it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subject<'a> {
    /// The User Name it was accepted with; `None` for an anonymous Client.
    pub username: Option<&'a str>,
    /// Its Client Identifier.
    pub client_identifier: &'a str,
}

/// User Names and the hashes of their passwords.
#[derive(Debug, Default)]
pub struct PasswordFile {}

impl PasswordFile {
    /// Whether `password` is that of `username`. Takes as long for a User Name that is unknown.
    #[must_use]
    pub fn verify(&self, _username: &str, _password: &[u8]) -> bool {
        // Nobody is in an empty file.
        false
    }
}

/// Rules about topics.
#[derive(Debug, Default)]
pub struct Acl {}

impl Acl {
    /// Whether `subject` has `access` to `topic`, a Topic Name or the part of a Topic Filter behind
    /// `$share/group/`.
    #[must_use]
    pub fn check(&self, _subject: &Subject<'_>, _access: Access, _topic: &str) -> bool {
        // Without a rule nothing is allowed.
        false
    }
}

/// What guards one listener, or all of them.
#[derive(Debug, Default)]
pub struct Security {
    /// Who may log in; `None` if nobody has to, or can, show a password.
    pub passwords: Option<PasswordFile>,
    /// Who may do what; `None` if everybody may do everything.
    pub acl: Option<Acl>,
}
