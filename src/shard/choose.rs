//! Which member of a Shared Subscription gets a message, when not every one may read it.
//!
//! The shard whose turn it is tries its own members. If none of them may read the message, the next
//! shard with members tries its own, and so on around the circle, so that a message is dropped only
//! if nobody in the group may read it.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::Shard;
use crate::key::{SessionKey, ShardId};
use crate::router::{FilterKey, Pick, SharedTarget};

/// Who gets a message of a Shared Subscription.
#[derive(Debug)]
pub(super) enum Chosen {
    /// A member here.
    Local(SharedTarget),
    /// A member of another shard.
    Remote {
        to: ShardId,
        /// The whole text.
        filter: Arc<[u8]>,
        /// Where the circle began.
        first: ShardId,
    },
}

impl Shard {
    /// What `pick` comes to for a message of `topic`: `pick` itself, unless it is a member here that
    /// may not read it. `not` is passed over.
    pub(super) fn choose(
        &mut self,
        pick: Option<Pick>,
        filter: FilterKey,
        not: Option<SessionKey>,
        topic: &[u8],
    ) -> Option<Chosen> {
        match pick? {
            Pick::Remote(to, filter) => Some(Chosen::Remote {
                to,
                filter,
                first: to,
            }),
            Pick::Local(target) if self.clients.may_read(target.session, topic) => {
                Some(Chosen::Local(target))
            }
            Pick::Local(_) => {
                let filter = self.router.filter_arc(filter);
                self.choose_other(&filter, self.id, not, topic)
            }
        }
    }

    /// A member here that may read a message of `topic`, or else the next shard of the circle that
    /// began at `first`.
    pub(super) fn choose_other(
        &mut self,
        filter: &Arc<[u8]>,
        first: ShardId,
        not: Option<SessionKey>,
        topic: &[u8],
    ) -> Option<Chosen> {
        loop {
            let clients = &self.clients;
            let may_read = |session| {
                Some(session) != not
                    && clients.members.get(session).is_some()
                    && clients.may_read(session, topic)
            };
            let Some(target) = self.router.pick_local_of(filter, may_read) else {
                break;
            };
            if !self.has_just_left(&target) {
                return Some(Chosen::Local(target));
            }
        }
        let distance = |shard: ShardId| shard.0.wrapping_sub(self.id.0).wrapping_sub(1);
        match self.router.next_shard_with_members(filter, self.id) {
            // Not at the end of the circle, nor beyond it because its first shard has no members any
            // more.
            Some(to) if distance(to) < distance(first) => Some(Chosen::Remote {
                to,
                filter: filter.clone(),
                first,
            }),
            _ => {
                self.clients.counters.dropped_denied += 1;
                None
            }
        }
    }
}
