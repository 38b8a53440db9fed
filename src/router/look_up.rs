//! A look-up of a topic that many filters match, or of which many Sessions have to be asked about: over as many turns as it takes.
//!
//! Filters may come and go meanwhile. The tree frees none of its nodes as long as somebody walks it, and one that is split tells
//! where what was below it is, so nothing else matters to a walk but what matters to its topic: then it begins anew. After some
//! of those it is made at once, so that it comes to an end whatever Clients do.
//!
//! # Always true
//! - What is found is what a look-up at once would find at that moment, in the same order.

#![forbid(unsafe_code)]

use super::alike::{Origin, Origins};
use super::cache::Spot;
use super::filter::{FilterKey, Wanted};
use super::generations::{Buckets, buckets_of_topic};
use super::matches::{GroupKey, Matches, Target};
use super::merge::Merger;
use super::slab::NONE;
use super::trie::Walk;
use super::{Router, ShardSet};
use crate::key::SessionKey;
use crate::topic::TopicName;
use smallvec::SmallVec;
use std::rc::Rc;

/// A look-up begins so often.
const BEGUN_MAX: u32 = 4;

/// How far a look-up has come.
#[derive(Debug)]
pub struct LookUp {
    topic: Rc<[u8]>,
    buckets: Buckets,
    /// The counters of its topic when it began.
    generation: u64,
    /// How often it has.
    begun: u32,
    stage: Stage,
    walk: Walk,
    origins: Origins,
    /// What other topics of the same filters have, if all may read this one.
    alike: Option<Rc<Matches>>,
    merger: Merger,
    /// The filter at hand, and the first of its subscribers that is not among the targets.
    origin_at: usize,
    subscriber_at: usize,
    targets: Vec<Target>,
    shards: ShardSet,
    groups: SmallVec<[GroupKey; 2]>,
    /// Targets that were asked about, and those of them, which stand in front, that may read it.
    asked: usize,
    readers: usize,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    Walking,
    /// Whether others' matches will do.
    Comparing,
    Merging,
    Asking,
}

impl LookUp {
    /// The topic.
    #[must_use]
    pub fn topic_name(&self) -> &[u8] {
        &self.topic
    }

    /// It is over: what is left says whether what was found is [right](Router::is_right).
    pub fn end(&mut self) {
        self.walk = Walk::default();
        self.origins = Origins::default();
        self.merger = Merger::default();
    }
}

impl Router {
    /// As [`Router::look_up`], unless that takes more than so many nodes, or as many Sessions have to be asked about.
    pub fn look_up_some(
        &mut self,
        topic: TopicName<'_>,
        is_guarded: bool,
        most: usize,
        may_read: impl FnMut(SessionKey) -> bool,
    ) -> Option<(Rc<Matches>, usize)> {
        self.look_up_up_to(topic, is_guarded, most, may_read)
    }

    /// Begins with one that goes on for as long as it takes. It has to be gone on with until it is over.
    pub fn begin_look_up(&mut self, topic: TopicName<'_>) -> LookUp {
        self.trie.hold();
        let buckets = buckets_of_topic(&self.hasher, topic.levels());
        LookUp {
            topic: topic.as_bytes().into(),
            generation: self.generations.sum(&buckets),
            buckets,
            begun: 1,
            stage: Stage::Walking,
            walk: Walk::new(topic),
            origins: Origins::default(),
            alike: None,
            merger: Merger::default(),
            origin_at: 0,
            subscriber_at: 0,
            targets: Vec::new(),
            shards: ShardSet::EMPTY,
            groups: SmallVec::new(),
            asked: 0,
            readers: 0,
        }
    }

    /// Whether nothing that matters to its topic has changed since it began.
    #[must_use]
    pub fn is_right(&self, look_up: &LookUp) -> bool {
        self.generations.sum(&look_up.buckets) == look_up.generation
    }

    /// Begins anew with one that is over or not. [`None`] if it has begun too often.
    pub fn begin_look_up_anew(&mut self, look_up: LookUp) -> Option<LookUp> {
        let LookUp { topic, merger, .. } = look_up;
        let begun = look_up.begun + 1;
        if look_up.stage == Stage::Walking {
            self.trie.release();
        }
        if begun > BEGUN_MAX {
            return None;
        }
        let begun_anew = self.begin_look_up(TopicName::from_validated(&topic));
        Some(LookUp {
            begun,
            merger,
            ..begun_anew
        })
    }

    /// Goes on for the time of `most` nodes. What was found, once it is over, and how many nodes that took. It has to be
    /// [right](Self::is_right).
    pub fn continue_look_up(
        &mut self,
        look_up: &mut LookUp,
        is_guarded: bool,
        most: usize,
        mut may_read: impl FnMut(SessionKey) -> bool,
    ) -> (Option<Rc<Matches>>, usize) {
        debug_assert!(self.is_right(look_up), "it is to begin anew");
        let text = look_up.topic.clone();
        let topic = TopicName::from_validated(&text);
        let mut took = 0;
        if look_up.stage == Stage::Walking {
            let origins = &mut look_up.origins;
            let filters = &self.filters;
            let walk = &mut look_up.walk;
            let (visits, is_over) = self.trie.continue_walk(walk, topic, most, |head| {
                let mut id = head;
                while id != NONE {
                    let row = filters.get(id);
                    origins.push(Origin::new(id, row.bucket));
                    id = row.next;
                }
            });
            took += visits;
            if !is_over {
                return (None, took);
            }
            self.trie.release();
            look_up.origins.sum_up(&self.generations);
            look_up.alike = self.cache.find_alike(Spot::Nowhere, &look_up.origins);
            look_up.stage = Stage::Comparing;
        }
        if look_up.stage == Stage::Comparing {
            while let Some(alike) = &look_up.alike
                && let Some(target) = alike.targets.get(look_up.asked).filter(|_| is_guarded)
            {
                if took >= most {
                    return (None, took);
                }
                took += 1;
                look_up.asked += 1;
                if !may_read(target.session) {
                    look_up.alike = None;
                }
            }
            if let Some(alike) = look_up.alike.take() {
                self.remember(topic, &alike);
                return (Some(alike), took);
            }
            look_up.asked = 0;
            look_up.merger.begin();
            look_up.stage = Stage::Merging;
        }
        if look_up.stage == Stage::Merging {
            took += self.merge_some(look_up, most.saturating_sub(took));
            if look_up.origin_at < look_up.origins.list.len() {
                return (None, took);
            }
            let lists = self.subscribers_of(&look_up.origins);
            look_up.merger.end(lists, &mut look_up.targets);
            look_up.stage = Stage::Asking;
        }
        while is_guarded && look_up.asked < look_up.targets.len() {
            if took >= most {
                return (None, took);
            }
            took += 1;
            let (asked, readers) = (look_up.asked, look_up.readers);
            look_up.asked += 1;
            if may_read(look_up.targets[asked].session) {
                look_up.targets.swap(readers, asked);
                look_up.readers += 1;
            }
        }
        let count = look_up.targets.len();
        if is_guarded {
            look_up.targets.truncate(look_up.readers);
        }
        let complete = look_up.targets.len() == count;
        (Some(self.end_look_up(look_up, topic, complete)), took)
    }

    /// Puts subscribers of more of its filters among the targets. How many nodes that took.
    fn merge_some(&self, look_up: &mut LookUp, most: usize) -> usize {
        let mut took = 0;
        while took < most
            && let Some(origin) = look_up.origins.list.get(look_up.origin_at)
        {
            took += 1;
            match &self.filters.get(origin.filter()).wanted {
                Wanted::Plain {
                    subscribers,
                    shards,
                } => {
                    let rest = &subscribers.as_slice()[look_up.subscriber_at..];
                    look_up.targets.reserve(rest.len());
                    let some = &rest[..rest.len().min(most)];
                    look_up.merger.add_some(some, &mut look_up.targets);
                    took += some.len();
                    look_up.subscriber_at += some.len();
                    if some.len() < rest.len() {
                        continue;
                    }
                    shards.add_to(&mut look_up.shards);
                }
                Wanted::Shared(_) => {
                    let group = GroupKey(FilterKey(origin.filter()));
                    look_up.groups.push(group);
                }
            }
            look_up.origin_at += 1;
            look_up.subscriber_at = 0;
        }
        took
    }

    /// All is there.
    fn end_look_up(
        &mut self,
        look_up: &mut LookUp,
        topic: TopicName<'_>,
        complete: bool,
    ) -> Rc<Matches> {
        let hash = self.hasher.bytes(topic.as_bytes());
        let spot = self.cache.seek(hash, topic.as_bytes());
        let mut made = self.cache.empty_matches(spot);
        let matches = Rc::get_mut(&mut made).expect("empty matches are not shared");
        matches.targets = std::mem::take(&mut look_up.targets);
        matches.shards = look_up.shards;
        matches.groups = std::mem::take(&mut look_up.groups);
        matches.sum_up(self.rules);
        look_up.origins.write_to(matches, complete);
        self.cache.offer_alike(spot, &look_up.origins, &mut made);
        let hashed = (hash, topic.as_bytes());
        let buckets = || look_up.buckets;
        self.cache
            .put(spot, hashed, buckets, &made, &self.generations);
        made
    }

    fn remember(&mut self, topic: TopicName<'_>, matches: &Rc<Matches>) {
        let hash = self.hasher.bytes(topic.as_bytes());
        let spot = self.cache.seek(hash, topic.as_bytes());
        let buckets = || buckets_of_topic(&self.hasher, topic.levels());
        let hashed = (hash, topic.as_bytes());
        self.cache
            .put(spot, hashed, buckets, matches, &self.generations);
    }
}
