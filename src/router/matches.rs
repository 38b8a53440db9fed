//! Who gets a message: what a publish asks the router for.

#![forbid(unsafe_code)]

use super::alike::Origin;
use super::{FilterKey, ShardSet};
use crate::key::SessionKey;
use crate::message::QoS;
use smallvec::SmallVec;
use std::cell::Cell;
use std::num::NonZeroU32;

/// Everybody who wants messages of one topic.
///
/// Built once and kept for as long as the filters that match the topic stay as they are, for all topics that
/// the same filters match.
#[derive(Debug, Default)]
pub struct Matches {
    /// Sessions of this shard, each once; twice only where [`Whose`] tells the two apart.
    pub targets: Vec<Target>,
    /// Other shards with subscribers of their own; Shared Subscriptions do not count.
    pub shards: ShardSet,
    /// Shared Subscriptions, each of which gets one copy: see [`super::Router::pick`].
    pub groups: SmallVec<[GroupKey; 2]>,
    /// The filters, and the sum of the counters that say whether this is still right.
    pub(super) made_of: SmallVec<[Origin; 2]>,
    pub(super) changes: u64,
    /// Where [`super::alike::Alike`] may have it.
    pub(super) place: u32,
    /// How often the rules had changed when its targets were asked about, and whether there are shards:
    /// [`OTHER_SHARDS`].
    rules: u32,
    /// Remembered topics that have it.
    pub(super) users: Cell<u32>,
    /// How many targets and groups.
    receivers: u32,
}

/// The bit of [`Matches::rules`] that says that there are other shards.
const OTHER_SHARDS: u32 = 1 << 31;

impl Matches {
    /// Whether nobody wants the message.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.receivers == 0 && !self.has_shards()
    }

    /// How many get the message here: Sessions, and Shared Subscriptions.
    #[inline]
    #[must_use]
    pub const fn receivers(&self) -> usize {
        self.receivers as usize
    }

    /// Whether a Shared Subscription does.
    #[inline]
    #[must_use]
    pub const fn has_groups(&self) -> bool {
        self.receivers() != self.targets.len()
    }

    /// Whether other shards get an envelope: one flag, where to look at the set is a line of memory.
    #[inline]
    #[must_use]
    pub const fn has_shards(&self) -> bool {
        self.rules & OTHER_SHARDS != 0
    }

    pub(super) fn clear(&mut self) {
        self.targets.clear();
        self.shards = ShardSet::EMPTY;
        self.groups.clear();
        (self.receivers, self.rules) = (0, 0);
    }

    /// All of them are there, by rules that have changed so often.
    pub(super) fn sum_up(&mut self, rules: u32) {
        self.receivers = (self.targets.len() + self.groups.len()) as u32;
        self.rules = rules & !OTHER_SHARDS;
        if !self.shards.is_empty() {
            self.rules |= OTHER_SHARDS;
        }
    }

    /// Whether its targets were asked about when the rules had changed so often.
    pub(super) const fn is_by(&self, rules: u32) -> bool {
        (self.rules ^ rules) & !OTHER_SHARDS == 0
    }

    /// Bytes held, with the counts of who has it, but for many Subscription Identifiers.
    pub(super) fn size(&self) -> usize {
        let mut size = size_of::<Self>() + 2 * size_of::<usize>();
        size += self.targets.capacity() * size_of::<Target>();
        if self.groups.spilled() {
            size += self.groups.capacity() * size_of::<GroupKey>();
        }
        if self.made_of.spilled() {
            size += self.made_of.capacity() * size_of::<Origin>();
        }
        size
    }
}

const _: () = assert!(size_of::<Matches>() <= 128);

/// One Session and how it wants the message: what its overlapping subscriptions come to
/// [MQTT-3.3.4-2].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Target {
    /// The Session.
    pub session: SessionKey,
    /// Subscription Identifiers of all its matching subscriptions that have one [MQTT-3.3.4-3], each
    /// as often as it was given.
    pub subscription_identifiers: SmallVec<[NonZeroU32; 1]>,
    /// Highest QoS of its matching subscriptions [MQTT-3.3.4-2].
    pub qos: QoS,
    /// Whether any of them asks to keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// Whose messages it is for.
    pub whose: Whose,
}

const _: () = assert!(size_of::<Target>() <= 40);

/// Who has to have published what a target gets. A Session has a second target if only some of its overlapping
/// subscriptions have No Local set: to those none of its own messages is forwarded [MQTT-3.8.3-3], so they raise no QoS of
/// one and their Subscription Identifiers are not in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Whose {
    /// Anybody.
    Anybodys,
    /// Anybody but this Session.
    Others,
    /// This Session itself.
    Own,
}

impl Target {
    /// Whether it gets what `publisher` has published, a Session of this shard.
    #[inline]
    #[must_use]
    pub fn is_for(&self, publisher: Option<SessionKey>) -> bool {
        match self.whose {
            Whose::Anybodys => true,
            Whose::Others => publisher != Some(self.session),
            Whose::Own => publisher == Some(self.session),
        }
    }
}

/// A Shared Subscription that matched.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct GroupKey(pub(super) FilterKey);

impl GroupKey {
    /// Its Topic Filter.
    #[must_use]
    pub const fn filter(self) -> FilterKey {
        self.0
    }
}

/// The member of a Shared Subscription that gets a message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Pick {
    /// One of this shard.
    Local(SharedTarget),
    /// One that this other shard chooses, by [`super::Router::pick_local`] with the whole text of the
    /// Topic Filter.
    Remote(crate::key::ShardId, std::sync::Arc<[u8]>),
}

/// A member of a Shared Subscription and how it wants the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SharedTarget {
    /// The Session.
    pub session: SessionKey,
    /// The Shared Subscription.
    pub filter: FilterKey,
    /// Its Maximum QoS.
    pub qos: QoS,
    /// Whether it asks to keep the RETAIN flag as published.
    pub retain_as_published: bool,
    /// Its Subscription Identifier.
    pub subscription_identifier: Option<NonZeroU32>,
}
