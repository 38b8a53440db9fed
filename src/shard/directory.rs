//! Which Session a Client Identifier belongs to: asked at CONNECT only.
//!
//! The names are in the Sessions, so the table holds eight bytes for each and none of them twice.

#![forbid(unsafe_code)]

use super::clients::Member;
use super::slab::Slab;
use crate::id_table::IdTable;
use crate::key::SessionKey;

/// Sessions by Client Identifier: their slots, of which no two hold the same at once.
#[derive(Debug)]
pub(super) struct Directory {
    sessions: IdTable,
    hasher: ahash::RandomState,
}

type Members = Slab<SessionKey, Member>;

fn name_of(session: SessionKey, members: &Members) -> Option<&str> {
    let member = members.get(session)?;
    Some(&member.session.identity.client_identifier)
}

impl Directory {
    /// An empty one; `seed` is secret, so that nobody can choose names that collide.
    pub(super) fn new(seed: u64) -> Self {
        Self {
            sessions: IdTable::default(),
            hasher: ahash::RandomState::with_seeds(seed, 5, 6, 7),
        }
    }

    fn hash_of(&self, client_identifier: &str) -> u32 {
        self.hasher.hash_one(client_identifier) as u32
    }

    pub(super) fn find(&self, client_identifier: &str, members: &Members) -> Option<SessionKey> {
        let mut found = None;
        self.sessions.find(self.hash_of(client_identifier), |slot| {
            found = members
                .key_at(slot)
                .filter(|&key| name_of(key, members) == Some(client_identifier));
            found.is_some()
        });
        found
    }

    /// Adds a Session, which is among `members` already.
    pub(super) fn insert(&mut self, session: SessionKey, members: &Members) {
        let name = name_of(session, members).unwrap_or_default();
        let hash = self.hash_of(name);
        self.sessions.insert(hash, session.index);
    }

    /// Removes a Session, which is among `members` still.
    pub(super) fn remove(&mut self, session: SessionKey, members: &Members) {
        let name = name_of(session, members).unwrap_or_default();
        let hash = self.hash_of(name);
        let is_it = |slot| slot == session.index;
        if self.sessions.find(hash, is_it).is_some() {
            self.sessions.remove(hash, session.index);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::{Identity, ListenerId};
    use crate::session::Session;
    use std::sync::Arc;

    #[test]
    fn a_client_identifier_finds_its_session_until_that_is_removed() {
        let mut members: Members = Slab::new();
        let mut directory = Directory::new(1);
        let names: Vec<String> = (0..1000).map(|number| format!("client-{number}")).collect();
        let mut sessions = Vec::new();
        for name in &names {
            assert_eq!(directory.find(name, &members), None);
            let identity = Identity {
                client_identifier: name.as_str().into(),
                username: None,
                listener: ListenerId::default(),
            };
            let member = Member::new(Session::new(Arc::new(identity)));
            let session = members.insert_with(|_| member);
            directory.insert(session, &members);
            sessions.push(session);
        }
        for (name, &session) in names.iter().zip(&sessions) {
            assert_eq!(directory.find(name, &members), Some(session));
        }
        for (name, &session) in names.iter().zip(&sessions).step_by(2) {
            directory.remove(session, &members);
            members.remove(session);
            assert_eq!(directory.find(name, &members), None);
        }
        assert_eq!(directory.find(&names[1], &members), Some(sessions[1]));
        assert_eq!(directory.find("client", &members), None);
    }
}
