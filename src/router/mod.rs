//! Who wants a message: Topic Filters, interest of other shards, Shared Subscriptions, retained
//! messages.
//!
//! **Lives on** one shard and holds *all* filters: those of its own Sessions, and for every other
//! shard that it wants a filter, not who there does. A publish is one lookup here: Sessions of this
//! shard, other shards that get one envelope each, and groups that get one copy between them.
//! **Knows nothing of** Sessions but their keys, of packets, of rings: the shard announces what
//! [`Subscribed::announce`] asks for and feeds what others announce to [`Router::set_interest`].
//!
//! # Always true
//! - The same calls give the same answers, in the same order.
//! - What is remembered of a topic is never used after a filter that matches it changed.
//! - A filter nobody wants, and every node only it needed, is gone.
//! - A topic seen before costs one hash, one comparison and no allocation.
//!
//! Read next: `trie.rs` (filters by level), `cache.rs` and `generations.rs` (topics seen before),
//! `shared.rs` (whose turn it is), `retained.rs` (its own store).

#![forbid(unsafe_code)]

mod alike;
mod cache;
mod filter;
mod generations;
mod hash;
mod level;
mod look_up;
mod matches;
mod merge;
mod retained;
mod shard_set;
mod shared;
mod slab;
mod stamps;
mod subscribers;
#[cfg(test)]
mod tests;
mod text;
mod trie;

pub use filter::FilterKey;
pub use look_up::LookUp;
pub use matches::{GroupKey, Matches, Pick, SharedTarget, Target, Whose};
pub use retained::{RetainedVersion, RetainedWalk, TOMBSTONES_MAX};
pub use shard_set::ShardSet;
pub use shared::Interest;

use crate::codec::SubscriptionOptions;
use crate::id_table::IdTable;
use crate::key::{SessionKey, ShardId};
use crate::limits::SHARDS_MAX;
use crate::message::Message;
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};
use alike::{Origin, Origins};
use cache::{Cache, Spot};
use filter::{Filter, Wanted};
use generations::{Generations, bucket_of_filter, buckets_of_topic};
use hash::TopicHasher;
use merge::Merger;
use retained::Retained;
use shared::Shared;
use slab::{NONE, Slab};
use stamps::Stamps;
use std::num::NonZeroU32;
use std::rc::Rc;
use std::sync::Arc;
use subscribers::Subscriber;
use trie::{Place, Trie};

/// The seed of [`Router::new`].
const SEED: u64 = 0x6661_7374_6D71_0001;
/// Subscribers of a filter that are put on a list in the time that a node takes.
const TARGETS_A_NODE: usize = 8;
/// So few Sessions are asked about again whenever a subscription changes.
const ASKED_AGAIN: usize = if cfg!(test) { 0 } else { 64 };

/// What [`Router::subscribe`] did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Subscribed {
    /// The filter, to unsubscribe with.
    pub filter: FilterKey,
    /// The Session had a subscription to this filter, which was replaced [MQTT-3.8.4-3].
    pub existed: bool,
    /// Other shards must hear of [`Router::interest`] in this filter.
    pub announce: bool,
}

/// What [`Router::unsubscribe`] did.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unsubscribed {
    /// Other shards must hear of the interest in this filter.
    pub announce: bool,
    /// The filter's whole text: its key may be gone with the subscription.
    pub text: Arc<[u8]>,
    /// What this shard still wants of it.
    pub interest: Interest,
}

/// The filters, interest and retained messages that one shard knows.
#[derive(Debug)]
pub struct Router {
    shard: ShardId,
    hasher: TopicHasher,
    filters: Slab<Filter>,
    /// Bytes of their texts.
    text_bytes: usize,
    /// Filters by level; a place holds the first of the list of filters that end there.
    trie: Trie,
    /// Shared filters by whole text.
    shared: IdTable,
    /// Shared filters that were made.
    groups_made: u64,
    /// Subscriptions of this shard's Sessions.
    subscription_count: usize,
    /// Those of them that are shared.
    shared_subscription_count: usize,
    generations: Generations,
    cache: Cache,
    merger: Merger,
    /// Who was allowed to read the topic at hand when it was looked up before: the generations of their keys.
    readers: Stamps,
    /// How often [`Self::forget_matches`] was called.
    rules: u32,
    /// Filters that match the topic at hand, kept for its memory.
    matched: Origins,
    retained: Retained,
}

impl Router {
    /// A router without subscriptions for one shard of `shard_count`.
    #[must_use]
    pub fn new(shard: ShardId, shard_count: usize) -> Self {
        Self::with_seed(shard, shard_count, SEED)
    }

    /// As [`Self::new`], with a seed for hashing that Clients do not know, so that they cannot choose
    /// topics that collide.
    #[must_use]
    pub fn with_seed(shard: ShardId, shard_count: usize, seed: u64) -> Self {
        assert!(shard_count <= SHARDS_MAX, "{shard_count} shards");
        assert!(
            shard.index() < shard_count,
            "shard {shard} of {shard_count}"
        );
        let hasher = TopicHasher::new(seed);
        Self {
            shard,
            filters: Slab::new(),
            text_bytes: 0,
            trie: Trie::new(hasher.clone()),
            shared: IdTable::default(),
            groups_made: 0,
            subscription_count: 0,
            shared_subscription_count: 0,
            generations: Generations::new(),
            cache: Cache::default(),
            merger: Merger::default(),
            readers: Stamps::default(),
            rules: 0,
            matched: Origins::default(),
            retained: Retained::new(hasher.clone()),
            hasher,
        }
    }

    // --- Subscriptions of this shard's Sessions.

    /// Subscribes a Session, or replaces its subscription to the same filter [MQTT-3.8.4-3].
    ///
    /// `online` says whether the Session has a Network Connection, which matters to Shared
    /// Subscriptions only.
    pub fn subscribe(
        &mut self,
        filter: &TopicFilter<'_>,
        session: SessionKey,
        options: SubscriptionOptions,
        subscription_identifier: Option<NonZeroU32>,
        online: bool,
    ) -> Subscribed {
        let subscriber = Subscriber {
            session,
            identifier: subscription_identifier,
            options,
        };
        let key = self.intern(filter);
        let row = self.filters.get_mut(key.0);
        let (existed, announce, changed) = match &mut row.wanted {
            Wanted::Plain { subscribers, .. } => match subscribers.position(session) {
                Some(position) => (true, false, subscribers.replace(position, subscriber)),
                None => {
                    subscribers.push(subscriber, self.hasher.state());
                    (false, subscribers.len() == 1, true)
                }
            },
            Wanted::Shared(shared) => {
                let is_new = shared.is_empty();
                let state = self.hasher.state();
                let change = shared.subscribe(self.shard, subscriber, online, state);
                self.shared_subscription_count += usize::from(!change.existed);
                (change.existed, change.announce, is_new)
            }
        };
        if changed {
            self.generations.bump(row.bucket);
        }
        self.subscription_count += usize::from(!existed);
        Subscribed {
            filter: key,
            existed,
            announce,
        }
    }

    /// Ends a Session's subscription; `None` if it has none to this filter.
    pub fn unsubscribe(&mut self, filter: FilterKey, session: SessionKey) -> Option<Unsubscribed> {
        let row = self.filters.try_get(filter.0)?;
        let text = Arc::clone(&row.text);
        let bucket = row.bucket;
        let wanted = &mut self.filters.get_mut(filter.0).wanted;
        let (announce, changed) = match wanted {
            Wanted::Plain { subscribers, .. } => {
                let position = subscribers.position(session)?;
                subscribers.swap_remove(position);
                (subscribers.is_empty(), true)
            }
            Wanted::Shared(shared) => {
                let announce = shared.unsubscribe(self.shard, session)?;
                self.shared_subscription_count -= 1;
                (announce, shared.is_empty())
            }
        };
        self.subscription_count -= 1;
        if changed {
            self.generations.bump(bucket);
        }
        let interest = self.interest(filter);
        self.release_if_unwanted(filter);
        Some(Unsubscribed {
            announce,
            text,
            interest,
        })
    }

    /// Says that a Session gained or lost its Network Connection; whether other shards must hear of
    /// it, which is only so for Shared Subscriptions.
    pub fn set_online(&mut self, filter: FilterKey, session: SessionKey, online: bool) -> bool {
        if self.filters.try_get(filter.0).is_none() {
            return false;
        }
        match &mut self.filters.get_mut(filter.0).wanted {
            Wanted::Plain { .. } => false,
            Wanted::Shared(shared) => shared.set_online(self.shard, session, online),
        }
    }

    /// The key of a filter somebody wants.
    #[must_use]
    pub fn find(&self, filter: &TopicFilter<'_>) -> Option<FilterKey> {
        if filter.share_group().is_some() {
            return self.find_shared(filter.text());
        }
        self.plain_at(self.trie.find(filter.filter())?)
    }

    /// The whole text of a filter.
    #[must_use]
    pub fn filter_text(&self, filter: FilterKey) -> &[u8] {
        &self.filters.get(filter.0).text
    }

    /// The whole text of a filter, shared.
    #[must_use]
    pub fn filter_arc(&self, filter: FilterKey) -> Arc<[u8]> {
        Arc::clone(&self.filters.get(filter.0).text)
    }

    /// What this shard itself wants of a filter: what other shards are told.
    #[must_use]
    pub fn interest(&self, filter: FilterKey) -> Interest {
        match self.filters.try_get(filter.0).map(|row| &row.wanted) {
            Some(Wanted::Plain { subscribers, .. }) if !subscribers.is_empty() => Interest::PLAIN,
            Some(Wanted::Shared(shared)) => shared.interest(),
            _ => Interest::NONE,
        }
    }

    /// What the subscription of a Session to `filter` asks for.
    #[must_use]
    pub fn subscription(
        &self,
        filter: FilterKey,
        session: SessionKey,
    ) -> Option<(SubscriptionOptions, Option<NonZeroU32>)> {
        let subscriber = match &self.filters.try_get(filter.0)?.wanted {
            Wanted::Plain { subscribers, .. } => {
                *subscribers.as_slice().get(subscribers.position(session)?)?
            }
            Wanted::Shared(shared) => shared.member(session)?,
        };
        Some((subscriber.options, subscriber.identifier))
    }

    // --- What other shards want.

    /// Takes over what another shard says it wants of a filter; without members it wants nothing.
    pub fn set_interest(&mut self, from: ShardId, filter: &TopicFilter<'_>, interest: Interest) {
        assert!(from != self.shard, "shard {from} told itself what it wants");
        let wants = interest.members > 0;
        let key = match self.find(filter) {
            Some(key) => key,
            None if wants => self.intern(filter),
            None => return,
        };
        let row = self.filters.get_mut(key.0);
        let changed = match &mut row.wanted {
            Wanted::Plain { shards, .. } => shards.set(from, wants),
            Wanted::Shared(shared) => {
                let was_empty = shared.is_empty();
                shared.set_interest(self.shard, from, interest);
                was_empty != shared.is_empty()
            }
        };
        if changed {
            self.generations.bump(row.bucket);
        }
        self.release_if_unwanted(key);
    }

    // --- Publishing.

    /// Who wants messages published to `topic`.
    // HOT: per PUBLISH.
    pub fn matches(&mut self, topic: TopicName<'_>) -> Rc<Matches> {
        self.matches_of(topic, |_| true)
    }

    /// As [`Self::matches`], without Sessions that `may_read` denies. It is asked when the topic is not
    /// remembered, and its answer is kept until [`Self::forget_matches`].
    // HOT: per PUBLISH.
    #[inline]
    pub fn matches_of(
        &mut self,
        topic: TopicName<'_>,
        may_read: impl FnMut(SessionKey) -> bool,
    ) -> Rc<Matches> {
        match self.remembered(topic.as_bytes()) {
            Some(matches) => matches,
            None => self.look_up(topic, true, may_read).0,
        }
    }

    /// What is remembered of a topic. Bytes that are no Topic Name are never remembered, so those of which something
    /// is need not be checked.
    // HOT: per PUBLISH.
    #[inline]
    pub fn remembered(&mut self, topic: &[u8]) -> Option<Rc<Matches>> {
        let hash = self.hasher.bytes(topic);
        self.cache.get(hash, topic, &self.generations)
    }

    /// The filters that match a topic, but for Shared Subscriptions, and how many nodes were looked at for them.
    pub fn plain_filters(&mut self, topic: TopicName<'_>) -> (Vec<FilterKey>, usize) {
        let mut found = Vec::new();
        let visits = self.trie.walk(topic, usize::MAX, |head| {
            // Always the first one of its list.
            if head != NONE && matches!(self.filters.get(head).wanted, Wanted::Plain { .. }) {
                found.push(FilterKey(head));
            }
        });
        (found, visits.unwrap_or_default())
    }

    /// Whether a Session has a subscription to `filter` that is not shared and matches this topic. The key of a filter that
    /// has ended may be another one's.
    #[must_use]
    pub fn is_subscribed(
        &self,
        filter: FilterKey,
        session: SessionKey,
        topic: TopicName<'_>,
    ) -> bool {
        self.filters
            .try_get(filter.0)
            .is_some_and(|row| match &row.wanted {
                Wanted::Plain { subscribers, .. } => {
                    subscribers.position(session).is_some()
                        && TopicFilter::from_validated(&row.text).matches(topic)
                }
                Wanted::Shared(_) => false,
            })
    }

    /// Who may read what has changed: nothing that was found before counts any more.
    pub fn forget_matches(&mut self) {
        // Every topic depends on the counter of filters that begin with a wildcard.
        self.generations.bump(0);
        self.rules = self.rules.wrapping_add(1);
    }

    /// As [`Self::matches_of`] where it is not remembered, with whether anybody may be denied, and what that took: nodes that were looked at, filters found and
    /// subscribers, all in the time that a node takes, which is half a tenth of a microsecond.
    pub fn look_up(
        &mut self,
        topic: TopicName<'_>,
        is_guarded: bool,
        may_read: impl FnMut(SessionKey) -> bool,
    ) -> (Rc<Matches>, usize) {
        self.look_up_up_to(topic, is_guarded, usize::MAX, may_read)
            .expect("nothing takes more")
    }

    /// The same, unless it takes more than `most`.
    #[inline]
    fn look_up_up_to(
        &mut self,
        topic: TopicName<'_>,
        is_guarded: bool,
        most: usize,
        mut may_read: impl FnMut(SessionKey) -> bool,
    ) -> Option<(Rc<Matches>, usize)> {
        // Once more: to hand it on would cost those that are remembered, which are most.
        let hash = self.hasher.bytes(topic.as_bytes());
        let spot = self.cache.seek(hash, topic.as_bytes());
        if let Some(matches) = self.cache.get_at(spot, &self.generations) {
            return Some((matches, 0));
        }
        self.matched.clear();
        let visits = self.trie.walk(topic, most, |head| {
            let mut id = head;
            while id != NONE {
                let row = self.filters.get(id);
                self.matched.push(Origin::new(id, row.bucket));
                id = row.next;
            }
        })?;
        if is_guarded && most < usize::MAX && self.has_more_to_ask(spot, most) {
            return None;
        }
        self.matched.sum_up(&self.generations);
        let matches = self
            .cache
            .find_alike(spot, &self.matched)
            .filter(|it| it.targets.iter().all(|target| may_read(target.session)))
            .unwrap_or_else(|| self.make_matches(spot, is_guarded, may_read));
        let buckets = || buckets_of_topic(&self.hasher, topic.levels());
        let hashed = (hash, topic.as_bytes());
        self.cache
            .put(spot, hashed, buckets, &matches, &self.generations);
        let took = visits + self.matched.list.len() + matches.targets.len() / TARGETS_A_NODE;
        Some((matches, took))
    }

    /// Whether so many subscribers of the filters that matched the topic at `spot` have to be asked about, of whom nothing was
    /// decided.
    #[cold]
    fn has_more_to_ask(&self, spot: Spot, most: usize) -> bool {
        if self.cache.own(spot).is_some_and(|it| it.is_by(self.rules)) {
            return false;
        }
        let counts = self.subscribers_of(&self.matched).map(<[_]>::len);
        counts.sum::<usize>() > most
    }

    /// The subscribers of each of these filters.
    fn subscribers_of(&self, origins: &Origins) -> impl Iterator<Item = &[Subscriber]> + Clone {
        let lists = origins.list.iter();
        lists.filter_map(|origin| match &self.filters.get(origin.filter()).wanted {
            Wanted::Plain { subscribers, .. } => Some(subscribers.as_slice()),
            Wanted::Shared(_) => None,
        })
    }

    /// Of the filters that matched the topic at `spot`.
    fn make_matches(
        &mut self,
        spot: Spot,
        is_guarded: bool,
        mut may_read: impl FnMut(SessionKey) -> bool,
    ) -> Rc<Matches> {
        // A subscription that came or went says nothing of the others: to ask about a hundred thousand Sessions is to look at
        // each of them.
        let is_told = |it: &&Rc<Matches>| {
            is_guarded && it.is_by(self.rules) && it.targets.len() > ASKED_AGAIN
        };
        self.readers.begin();
        for target in self
            .cache
            .own(spot)
            .filter(is_told)
            .iter()
            .flat_map(|it| &it.targets)
        {
            let SessionKey { index, generation } = target.session;
            self.readers.set(index, generation);
        }
        let mut made = self.cache.empty_matches(spot);
        let matches = Rc::get_mut(&mut made).expect("empty matches are not shared");
        let filters = &self.filters;
        let origins = self.matched.list.iter();
        for origin in origins.clone() {
            match &filters.get(origin.filter()).wanted {
                Wanted::Plain { shards, .. } => shards.add_to(&mut matches.shards),
                Wanted::Shared(_) => matches.groups.push(GroupKey(FilterKey(origin.filter()))),
            }
        }
        let lists = origins.filter_map(|origin| match &filters.get(origin.filter()).wanted {
            Wanted::Plain { subscribers, .. } if !subscribers.is_empty() => {
                Some(subscribers.as_slice())
            }
            _ => None,
        });
        self.merger.merge(lists, &mut matches.targets);
        let count = matches.targets.len();
        let readers = &self.readers;
        let is_known = |session: SessionKey| readers.get(session.index) == Some(session.generation);
        matches
            .targets
            .retain(|target| is_known(target.session) || may_read(target.session));
        matches.sum_up(self.rules);
        let complete = matches.targets.len() == count;
        self.matched.write_to(matches, complete);
        self.cache.offer_alike(spot, &self.matched, &mut made);
        made
    }

    // --- Shared Subscriptions.

    /// The member, or the other shard, whose turn it is; members with a Network Connection go first.
    pub fn pick(&mut self, group: GroupKey) -> Option<Pick> {
        self.pick_from(group.0, None)
    }

    /// As [`Self::pick`], passing over `not`: for a message that it received and did not acknowledge.
    pub fn pick_other(&mut self, filter: FilterKey, not: SessionKey) -> Option<Pick> {
        self.pick_from(filter, Some(not))
    }

    /// Whether a group still is what a message to this topic was to be given to.
    #[must_use]
    pub fn is_group_of(&self, group: GroupKey, topic: TopicName<'_>) -> bool {
        self.filters.try_get(group.0.0).is_some_and(|row| {
            matches!(row.wanted, Wanted::Shared(_))
                && TopicFilter::from_validated(&row.text).matches(topic)
        })
    }

    /// The group with this whole text.
    #[must_use]
    pub fn find_group(&self, filter: &[u8]) -> Option<FilterKey> {
        self.find_shared(filter)
    }

    /// How many groups there were so far.
    #[must_use]
    pub const fn groups_made(&self) -> u64 {
        self.groups_made
    }

    /// Whether this is the key of a group that is one of the first so many. That of a group that has ended may be
    /// another's.
    #[must_use]
    pub fn is_group_of_first(&self, filter: FilterKey, groups_made: u64) -> bool {
        self.filters
            .try_get(filter.0)
            .is_some_and(|row| match &row.wanted {
                Wanted::Shared(shared) => shared.number() < groups_made,
                Wanted::Plain { .. } => false,
            })
    }

    /// The member of this shard whose turn it is, when another shard chose this one. `filter` is the
    /// whole text.
    pub fn pick_local(&mut self, filter: &[u8]) -> Option<SharedTarget> {
        let key = self.find_shared(filter)?;
        let shared = self.filters.get_mut(key.0).wanted.shared_mut()?;
        shared
            .pick_member(None)
            .map(|member| shared_target(key, member))
    }

    /// As [`Self::pick_local`], the first that `may` be picked.
    pub fn pick_local_of(
        &mut self,
        filter: &[u8],
        may: impl FnMut(SessionKey) -> bool,
    ) -> Option<SharedTarget> {
        let key = self.find_shared(filter)?;
        let shared = self.filters.get_mut(key.0).wanted.shared_mut()?;
        shared
            .pick_member_of(may)
            .map(|member| shared_target(key, member))
    }

    /// The next shard behind `after`, in a circle, that has members of the Shared Subscription with
    /// this whole text.
    #[must_use]
    pub fn next_shard_with_members(&self, filter: &[u8], after: ShardId) -> Option<ShardId> {
        let key = self.find_shared(filter)?;
        match &self.filters.get(key.0).wanted {
            Wanted::Shared(shared) => shared.next_shard(after),
            Wanted::Plain { .. } => None,
        }
    }

    /// Whose turn it is in the Shared Subscription with this whole text, on any shard.
    pub fn pick_by_text(&mut self, filter: &[u8]) -> Option<Pick> {
        let key = self.find_shared(filter)?;
        self.pick_from(key, None)
    }

    fn pick_from(&mut self, filter: FilterKey, not: Option<SessionKey>) -> Option<Pick> {
        self.filters.try_get(filter.0)?;
        let row = self.filters.get_mut(filter.0);
        let shared = row.wanted.shared_mut()?;
        let shard = shared.pick_shard(self.shard, not)?;
        if shard != self.shard {
            return Some(Pick::Remote(shard, Arc::clone(&row.text)));
        }
        shared
            .pick_member(not)
            .map(|member| Pick::Local(shared_target(filter, member)))
    }

    // --- Retained messages.

    /// Keeps `message` as the retained message of its topic [MQTT-3.3.1-5], or, without a payload,
    /// removes the one there is [MQTT-3.3.1-6]; whether it did. Not if a later write is known.
    pub fn retain(&mut self, message: &Arc<Message>, version: RetainedVersion) -> bool {
        self.retained.write(message, version)
    }

    /// Calls `found` with every retained message that `filter` matches and that has not expired, in
    /// an order that depends on the writes alone.
    pub fn for_each_retained(
        &self,
        filter: &TopicFilter<'_>,
        now: Instant,
        found: impl FnMut(&Arc<Message>),
    ) {
        self.retained.for_each(filter, now, found);
    }

    /// Begins to look for the retained messages that a filter matches now.
    pub fn begin_retained_walk(&mut self) -> RetainedWalk {
        self.retained.begin_walk()
    }

    /// Goes on with a walk, always with the same `filter`: visits `visits_max` nodes of the index at
    /// most, calls `found` with messages and whether each has come since the walk began, and returns how many
    /// nodes it visited.
    pub fn continue_retained_walk(
        &self,
        walk: &mut RetainedWalk,
        filter: &TopicFilter<'_>,
        visits_max: usize,
        now: Instant,
        found: impl FnMut(&Arc<Message>, bool),
    ) -> usize {
        self.retained
            .continue_walk(walk, filter, visits_max, now, found)
    }

    /// Frees what walks kept from being freed, `count_max` nodes at most. Whether some are left.
    pub fn tidy_retained(&mut self, count_max: usize) -> bool {
        self.retained.tidy(count_max)
    }

    /// The retained message of one topic, expired or not, and its version.
    #[must_use]
    pub fn retained(&self, topic: TopicName<'_>) -> Option<(&Arc<Message>, RetainedVersion)> {
        self.retained.get(topic)
    }

    /// The retained message in row `row` of the table, and whether there are rows from there on. Rows
    /// stay what they are while other topics change.
    #[must_use]
    pub fn retained_in_row(&self, row: u32) -> (Option<(&Arc<Message>, RetainedVersion)>, bool) {
        self.retained.in_row(row)
    }

    /// Retained messages.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.count()
    }

    /// Bytes of topics, properties and payloads of the retained messages.
    #[must_use]
    pub fn retained_bytes(&self) -> usize {
        self.retained.bytes()
    }

    /// Bytes that find those messages whose topics have many levels.
    #[must_use]
    pub fn retained_depth_bytes(&self) -> usize {
        self.retained.depth_bytes()
    }

    /// Versions kept of messages that were removed.
    #[must_use]
    pub fn tombstone_count(&self) -> usize {
        self.retained.tombstone_count()
    }

    /// Forgets versions of removed messages with a clock below `clock`, once no older write can arrive;
    /// `count_max` at most, and how many.
    pub fn forget_tombstones_below(&mut self, clock: u64, count_max: usize) -> usize {
        self.retained.forget_tombstones_below(clock, count_max)
    }

    /// Removes up to `count_max` retained messages that expired; how many.
    pub fn expire_retained(&mut self, now: Instant, count_max: usize) -> usize {
        self.retained.expire(now, count_max)
    }

    /// When the next retained message expires.
    #[must_use]
    pub fn next_retained_expiry(&self) -> Option<Instant> {
        self.retained.next_expiry()
    }

    // --- Sizes.

    /// Filters that somebody wants, here or elsewhere.
    #[must_use]
    pub fn filter_count(&self) -> usize {
        self.filters.count()
    }

    /// Bytes that these filters and what finds them take, without who wants them.
    #[must_use]
    pub fn filter_bytes(&self) -> usize {
        let rows = self.filters.count() * size_of::<Filter>();
        rows + self.text_bytes + self.trie.used_bytes()
    }

    /// Subscriptions of this shard's Sessions.
    #[must_use]
    pub fn subscription_count(&self) -> usize {
        self.subscription_count
    }

    /// Shared ones among them.
    #[must_use]
    pub fn shared_subscription_count(&self) -> usize {
        self.shared_subscription_count
    }

    /// Nodes held for filters, of one level or some, and for retained messages, of one level each.
    #[must_use]
    pub fn node_counts(&self) -> (usize, usize) {
        (self.trie.nodes_count(), self.retained.nodes_count())
    }

    /// Bytes of the tables for filters and for retained messages, without what their rows point to.
    #[must_use]
    pub fn table_sizes(&self) -> (usize, usize) {
        let filters = self.filters.size() + self.trie.size() + self.shared.size();
        (filters, self.retained.size())
    }

    /// Topics whose matches are remembered, and the bytes of all that is held for them.
    #[must_use]
    pub fn cached_counts(&self) -> (usize, usize) {
        (self.cache.count(), self.cache.size())
    }

    // --- The table of filters.

    fn find_shared(&self, text: &[u8]) -> Option<FilterKey> {
        let hash = self.hasher.bytes(text) as u32;
        self.shared
            .find(hash, |id| *self.filters.get(id).text == *text)
            .map(FilterKey)
    }

    /// The filter at `place` that is not shared: always the first one of the list, so that many groups
    /// do not stand in its way.
    fn plain_at(&self, place: Place) -> Option<FilterKey> {
        let id = self.trie.head(place);
        let is_plain = id != NONE && matches!(self.filters.get(id).wanted, Wanted::Plain { .. });
        is_plain.then_some(FilterKey(id))
    }

    /// The key of `filter`, made if nobody wanted it. The caller adds somebody.
    fn intern(&mut self, filter: &TopicFilter<'_>) -> FilterKey {
        let is_shared = filter.share_group().is_some();
        if is_shared && let Some(key) = self.find_shared(filter.text()) {
            return key;
        }
        let place = self.trie.insert(filter.filter());
        let plain = self.plain_at(place);
        if !is_shared && let Some(key) = plain {
            return key;
        }
        // Groups go behind the filter that is not shared.
        let previous = plain.map_or(NONE, |key| key.0);
        let next = match plain {
            Some(key) => self.filters.get(key.0).next,
            None => self.trie.head(place),
        };
        let mut row = Filter {
            text: filter.text().into(),
            place,
            next,
            previous,
            bucket: bucket_of_filter(&self.hasher, filter.levels()),
            ..Filter::default()
        };
        if is_shared {
            row.wanted = Wanted::Shared(Box::new(Shared::new(self.groups_made)));
            self.groups_made += 1;
        }
        self.text_bytes += row.text.len();
        let id = self.filters.insert(row);
        if next != NONE {
            self.filters.get_mut(next).previous = id;
        }
        if previous != NONE {
            self.filters.get_mut(previous).next = id;
        } else {
            self.trie.set_head(place, id);
        }
        if is_shared {
            let hash = self.hasher.bytes(filter.text()) as u32;
            self.shared.insert(hash, id);
        }
        FilterKey(id)
    }

    fn release_if_unwanted(&mut self, filter: FilterKey) {
        if !self.filters.get(filter.0).wanted.is_empty() {
            return;
        }
        let row = self.filters.remove(filter.0);
        self.text_bytes -= row.text.len();
        if row.next != NONE {
            self.filters.get_mut(row.next).previous = row.previous;
        }
        if row.previous != NONE {
            self.filters.get_mut(row.previous).next = row.next;
        } else {
            self.trie.set_head(row.place, row.next);
        }
        if matches!(row.wanted, Wanted::Shared(_)) {
            self.shared
                .remove(self.hasher.bytes(&row.text) as u32, filter.0);
        }
    }
}

fn shared_target(filter: FilterKey, member: Subscriber) -> SharedTarget {
    SharedTarget {
        session: member.session,
        filter,
        qos: member.options.qos,
        retain_as_published: member.options.retain_as_published,
        subscription_identifier: member.identifier,
    }
}
