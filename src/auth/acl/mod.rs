//! An ACL file: which topics a Client may read and write.
//!
//! ```text
//! topic read $SYS/#                  before any user: Clients without a User Name
//! user ann
//! topic readwrite home/#             this user, until the next `user`
//! topic deny home/safe/#
//! pattern write devices/%c/state     everybody, %c being the Client Identifier
//! pattern read users/%u/#            and %u the User Name
//! ```
//!
//! As in Mosquitto: among the rules of the user, one that denies beats all others and one that grants
//! the access beats all patterns. Otherwise the patterns decide, again with denials first. What no
//! rule grants is denied. Subscribing is never denied: what is delivered is.
//!
//! Rules become a tree of topic levels when the file is read (`rules.rs`), so that a check walks the
//! levels of a topic once.

#![forbid(unsafe_code)]

mod parse;
mod rules;

use std::collections::HashMap;

use super::error::{FileError, Warning};
use super::password_file::hasher;
use super::{Access, Subject};
use rules::{Decision, Grants, Rules};

/// The rules of an ACL file.
#[derive(Debug)]
pub struct Acl {
    /// Tells files apart; the same text has the same one.
    fingerprint: u64,
    /// The rules of each user; those of anonymous Clients first.
    sections: Vec<Rules>,
    users: HashMap<Box<str>, u32, ahash::RandomState>,
    /// For all Clients.
    patterns: Rules,
    warnings: Vec<Warning>,
}

/// The section of anonymous Clients.
const ANONYMOUS: u32 = 0;
/// The section of users that the file does not have.
const NOBODY: u32 = u32::MAX;

/// What an ACL file has for one Client, to be looked up once and not with every check.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Standing {
    fingerprint: u64,
    section: u32,
    /// Its names hold wildcards, so that no pattern is good for it.
    is_dangerous: bool,
}

impl PartialEq for Acl {
    /// Whether both are the same text.
    fn eq(&self, other: &Self) -> bool {
        self.fingerprint == other.fingerprint
    }
}

impl Eq for Acl {}

impl Acl {
    /// Parses the text of `file`.
    ///
    /// # Errors
    /// [`FileError`] names the line.
    pub fn parse(file: &str, text: &[u8]) -> Result<Self, FileError> {
        parse::parse(file, text)
    }

    /// Whether a Client may do this with a topic.
    #[must_use]
    pub fn check(&self, subject: &Subject<'_>, access: Access, topic: &[u8]) -> bool {
        self.check_with(self.standing(subject), subject, access, topic)
    }

    /// What the file has for a Client.
    #[must_use]
    pub fn standing(&self, subject: &Subject<'_>) -> Standing {
        let section = match subject.username {
            Some(username) => self.users.get(username).copied().unwrap_or(NOBODY),
            None => ANONYMOUS,
        };
        let has_wildcard = |name: &str| name.bytes().any(|byte| matches!(byte, b'+' | b'#'));
        Standing {
            fingerprint: self.fingerprint,
            section,
            is_dangerous: subject.username.is_some_and(has_wildcard)
                || has_wildcard(subject.client_identifier),
        }
    }

    /// As [`Self::check`], for a Client whose standing is known. The standing in another file does no
    /// harm: it is looked up again.
    // HOT: per PUBLISH and per subscriber.
    #[must_use]
    pub fn check_with(
        &self,
        mut standing: Standing,
        subject: &Subject<'_>,
        access: Access,
        topic: &[u8],
    ) -> bool {
        let wanted = match access {
            Access::Read => Grants::READ,
            Access::Write => Grants::WRITE,
            Access::Subscribe | Access::Unsubscribe => return true,
        };
        if standing.fingerprint != self.fingerprint {
            standing = self.standing(subject);
        }
        if let Some(section) = self.sections.get(standing.section as usize) {
            match section.decide(topic, wanted, subject) {
                Decision::Granted => return true,
                Decision::Denied => return false,
                Decision::Open => {}
            }
        }
        // A name with a wildcard would not get the access that a pattern means for it, so it gets
        // none, as in Mosquitto.
        !standing.is_dangerous && self.patterns.decide(topic, wanted, subject) == Decision::Granted
    }

    /// What is legal but hardly meant.
    #[must_use]
    pub fn warnings(&self) -> &[Warning] {
        &self.warnings
    }
}

/// Puts an [`Acl`] together.
struct Builder {
    sections: Vec<rules::Builder>,
    users: HashMap<Box<str>, u32, ahash::RandomState>,
    patterns: rules::Builder,
    warnings: Vec<Warning>,
}

impl Builder {
    fn new() -> Self {
        Self {
            sections: vec![rules::Builder::new()],
            users: HashMap::with_hasher(hasher()),
            patterns: rules::Builder::new(),
            warnings: Vec::new(),
        }
    }

    /// The section of a user, which is made if this is the first time that the file names it.
    fn section(&mut self, username: &str) -> u32 {
        if let Some(&section) = self.users.get(username) {
            return section;
        }
        let section = u32::try_from(self.sections.len()).unwrap_or(NOBODY);
        self.sections.push(rules::Builder::new());
        self.users.insert(username.into(), section);
        section
    }

    fn build(self, fingerprint: u64) -> Acl {
        let sections = self.sections.into_iter().map(rules::Builder::build);
        Acl {
            fingerprint,
            sections: sections.collect(),
            users: self.users,
            patterns: self.patterns.build(),
            warnings: self.warnings,
        }
    }
}
