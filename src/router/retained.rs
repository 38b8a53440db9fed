//! This shard's replica of the retained messages.
//!
//! A table finds a topic's message with one lookup; a tree of levels, in which only topics with a
//! message appear, lets wildcards visit what they match and little else. Of two writers the later
//! [`RetainedVersion`] wins, so replicas that see the same writes in different orders end up the same.
//! For that a removed message leaves its version behind, as a tombstone, until the caller knows that
//! no older write can still arrive.

#![forbid(unsafe_code)]

use super::hash::{TopicHasher, below};
use super::level::Level;
use super::slab::{NONE, Slab};
use crate::id_table::IdTable;
use crate::key::ShardId;
use crate::message::{Message, MessageRef};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};
use smallvec::SmallVec;
use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;

/// Tombstones kept at most. Beyond it the oldest is forgotten, and a write older than that which is
/// still on its way would win again.
pub const TOMBSTONES_MAX: usize = 1 << 20;

/// Nodes freed with a write, of those that had to stay while there were walks: more than a write adds.
const TIDIED_A_WRITE: usize = 4;

/// Levels of a topic that cost nothing beside its message. Few have more.
const LEVELS_FREE: usize = 8;

/// The node above all first levels.
const ROOT: u32 = 0;

/// Which of two writes to a topic is the later one: by clock, then by shard.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct RetainedVersion {
    /// A logical clock that a shard moves past every clock it has seen.
    pub clock: u64,
    /// The shard that wrote.
    pub shard: ShardId,
}

/// What is known of one topic.
#[derive(Debug)]
struct Value {
    /// `None` only for rows that are free. A tombstone holds a message with the topic alone.
    message: Option<Arc<Message>>,
    clock: u64,
    /// Last node of the topic; [`NONE`] for a tombstone.
    node: u32,
    shard: ShardId,
}

impl Default for Value {
    fn default() -> Self {
        Self {
            message: None,
            clock: 0,
            node: NONE,
            shard: ShardId(0),
        }
    }
}

impl Value {
    fn version(&self) -> RetainedVersion {
        RetainedVersion {
            clock: self.clock,
            shard: self.shard,
        }
    }

    fn topic(&self) -> &[u8] {
        self.message
            .as_ref()
            .map_or(b"", |message| message.topic_name())
    }
}

/// One level of one or many topics that have a message.
#[derive(Debug)]
struct Node {
    level: Level,
    parent: u32,
    first_child: u32,
    /// Neighbours among the children of the parent. Before the first one comes the last one.
    next: u32,
    previous: u32,
    value: u32,
}

impl Default for Node {
    fn default() -> Self {
        let level = Level::default();
        let (parent, first_child, next, previous, value) = (NONE, NONE, NONE, NONE, NONE);
        Self {
            level,
            parent,
            first_child,
            next,
            previous,
            value,
        }
    }
}

const _: () = assert!(size_of::<Node>() <= 48 && size_of::<Value>() <= 24);

/// Retained messages by topic.
#[derive(Debug)]
pub(super) struct Retained {
    hasher: TopicHasher,
    values: Slab<Value>,
    /// Values by whole topic.
    topics: IdTable,
    nodes: Slab<Node>,
    /// Nodes by parent and level.
    children: IdTable,
    tombstones: BTreeSet<(RetainedVersion, u32)>,
    /// Messages that expire, first one first.
    expiries: BTreeSet<(Instant, u32)>,
    /// Bytes of the messages.
    bytes: usize,
    /// One more for each walk under way.
    walking: Rc<()>,
    /// Walks begun since there was last none.
    walks: u32,
    /// By value, how many had begun when it was last written. Kept only while there are walks.
    written: Vec<u32>,
    /// Nodes that may be of no use any more and stayed because of walks.
    unpruned: Vec<u32>,
}

/// A look-up of all messages that a filter matched when it began, made in as many steps as one likes.
///
/// While there is one, nodes stay where they are and none is freed, so it is not to wait for anybody.
#[derive(Debug)]
pub struct RetainedWalk {
    /// Which one, counted from 1.
    number: u32,
    place: Place,
    _pin: Rc<()>,
}

impl RetainedWalk {
    /// Whether everything was visited.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.place == Place::Over
    }
}

/// How far a walk over the nodes has come: what it does next.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// Look at `node`, to which `depth` levels of the filter led.
    Enter { node: u32, depth: usize },
    /// Look at `node`, which is below `top`, to which all levels led.
    Below { top: u32, node: u32, depth: usize },
    /// Go on beside `node`, or above it.
    Leave { node: u32, depth: usize },
    /// Nothing is left.
    Over,
}

impl Place {
    const START: Self = Self::Enter {
        node: ROOT,
        depth: 0,
    };
}

impl Retained {
    pub(super) fn new(hasher: TopicHasher) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self {
            hasher,
            values: Slab::new(),
            topics: IdTable::default(),
            nodes,
            children: IdTable::default(),
            tombstones: BTreeSet::new(),
            expiries: BTreeSet::new(),
            bytes: 0,
            walking: Rc::new(()),
            walks: 0,
            written: Vec::new(),
            unpruned: Vec::new(),
        }
    }

    /// Messages held.
    pub(super) fn count(&self) -> usize {
        self.values.count() - self.tombstones.len()
    }

    pub(super) fn tombstone_count(&self) -> usize {
        self.tombstones.len()
    }

    /// Bytes of the messages held.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of the nodes, with their slots in the table, that there are beyond [`LEVELS_FREE`] for each message.
    pub(super) fn depth_bytes(&self) -> usize {
        let nodes = self
            .nodes_count()
            .saturating_sub(LEVELS_FREE * self.count());
        nodes * (size_of::<Node>() + size_of::<u64>())
    }

    /// Nodes below the root.
    pub(super) fn nodes_count(&self) -> usize {
        self.nodes.count() - 1
    }

    /// Bytes held for the index, except for long levels, tombstones' and expiries' order.
    pub(super) fn size(&self) -> usize {
        self.values.size() + self.topics.size() + self.nodes.size() + self.children.size()
    }

    pub(super) fn get(&self, topic: TopicName<'_>) -> Option<(&Arc<Message>, RetainedVersion)> {
        let id = self.value_of(topic.as_bytes(), self.hasher.bytes(topic.as_bytes()))?;
        let value = self.values.get(id);
        (value.node != NONE).then_some((value.message.as_ref()?, value.version()))
    }

    /// What is in a row, and whether there is such a row.
    pub(super) fn in_row(&self, row: u32) -> (Option<(&Arc<Message>, RetainedVersion)>, bool) {
        let Some(value) = self.values.try_get(row) else {
            return (None, false);
        };
        let message = value.message.as_ref().filter(|_| value.node != NONE);
        (message.map(|message| (message, value.version())), true)
    }

    /// Keeps `message` unless a later write to its topic is known [MQTT-3.3.1-5]; one without payload
    /// removes what is there [MQTT-3.3.1-6] and is not kept itself [MQTT-3.3.1-7].
    pub(super) fn write(&mut self, message: &Arc<Message>, version: RetainedVersion) -> bool {
        let parts = message.as_ref().as_ref();
        let hash = self.hasher.bytes(parts.topic_name);
        let id = match self.value_of(parts.topic_name, hash) {
            Some(id) if self.values.get(id).version() >= version => return false,
            Some(id) => id,
            None => {
                let id = self.values.insert(Value::default());
                self.topics.insert(hash as u32, id);
                id
            }
        };
        self.forget_order(id);
        self.note_written(id);
        self.tidy(TIDIED_A_WRITE);
        if parts.payload.is_empty() {
            self.bury(id, parts.topic_name, version);
            return true;
        }
        let node = match self.values.get(id).node {
            NONE => self.insert_node(TopicName::from_validated(parts.topic_name)),
            node => node,
        };
        self.nodes.get_mut(node).value = id;
        self.bytes += message.size();
        if let Some(at) = parts.expires_at {
            self.expiries.insert((at, id));
        }
        let RetainedVersion { clock, shard } = version;
        *self.values.get_mut(id) = Value {
            message: Some(Arc::clone(message)),
            clock,
            node,
            shard,
        };
        true
    }

    /// Forgets tombstones with a clock below `clock`, `count_max` at most; how many.
    pub(super) fn forget_tombstones_below(&mut self, clock: u64, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some(&(version, id)) = self.tombstones.first()
            && version.clock < clock
        {
            self.forget_tombstone(version, id);
            count += 1;
        }
        count
    }

    /// Removes messages whose Message Expiry Interval has passed, `count_max` at most; how many.
    pub(super) fn expire(&mut self, now: Instant, count_max: usize) -> usize {
        let mut count = 0;
        while count < count_max
            && let Some(&(at, id)) = self.expiries.first()
            && at <= now
        {
            let value = self.values.get(id);
            let version = value.version();
            let message = value.message.clone().unwrap_or_default();
            self.forget_order(id);
            // A tombstone, because an older message that lives longer may still arrive.
            self.bury(id, message.topic_name(), version);
            count += 1;
        }
        count
    }

    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.expiries.first().map(|&(at, _)| at)
    }

    /// Calls `found` with every message whose topic `filter` matches and that has not expired.
    pub(super) fn for_each(
        &self,
        filter: &TopicFilter<'_>,
        now: Instant,
        mut found: impl FnMut(&Arc<Message>),
    ) {
        let mut place = Place::START;
        self.step(filter, &mut place, usize::MAX, |_, message| {
            if !message.is_expired(now) {
                found(message);
            }
        });
    }

    /// Begins to look for what a filter matches now.
    pub(super) fn begin_walk(&mut self) -> RetainedWalk {
        if !self.has_walks() {
            self.walks = 0;
            self.written = Vec::new();
        }
        self.walks += 1;
        RetainedWalk {
            number: self.walks,
            place: Place::START,
            _pin: Rc::clone(&self.walking),
        }
    }

    /// Goes on with a walk, always with the same `filter`: visits `visits_max` nodes at most, calls
    /// `found` with what has not expired, and whether it has changed since the walk began, and returns how many nodes it
    /// visited.
    pub(super) fn continue_walk(
        &self,
        walk: &mut RetainedWalk,
        filter: &TopicFilter<'_>,
        visits_max: usize,
        now: Instant,
        mut found: impl FnMut(&Arc<Message>, bool),
    ) -> usize {
        let number = walk.number;
        self.step(filter, &mut walk.place, visits_max, |value, message| {
            let written = self.written.get(value as usize).copied();
            if !message.is_expired(now) {
                found(message, written.unwrap_or(0) >= number);
            }
        })
    }

    /// Frees nodes that had to stay while there were walks, `count_max` at most. Whether some are left.
    pub(super) fn tidy(&mut self, count_max: usize) -> bool {
        if self.has_walks() {
            return !self.unpruned.is_empty();
        }
        for _ in 0..count_max {
            let Some(id) = self.unpruned.pop() else {
                break;
            };
            // It may have gone with another one below it.
            if self.nodes.try_get(id).is_some_and(|it| it.parent != NONE) {
                self.prune(id);
            }
        }
        !self.unpruned.is_empty()
    }

    fn has_walks(&self) -> bool {
        Rc::strong_count(&self.walking) > 1
    }

    /// Walks that have begun are not to find what is written to a value now.
    fn note_written(&mut self, id: u32) {
        if !self.has_walks() {
            return;
        }
        let index = id as usize;
        if self.written.len() <= index {
            self.written.resize(index + 1, 0);
        }
        self.written[index] = self.walks;
    }

    /// Goes on from `place` over `visits_max` nodes at most, and returns how many they were.
    fn step(
        &self,
        filter: &TopicFilter<'_>,
        place: &mut Place,
        visits_max: usize,
        mut found: impl FnMut(u32, &Arc<Message>),
    ) -> usize {
        if *place == Place::Over {
            return 0;
        }
        if filter.is_exact() {
            *place = Place::Over;
            let topic = filter.filter();
            if let Some(id) = self.value_of(topic, self.hasher.bytes(topic)) {
                let value = self.values.get(id);
                if let Some(message) = value.message.as_ref().filter(|_| value.node != NONE) {
                    found(id, message);
                }
            }
            return 1;
        }
        let mut levels: SmallVec<[&[u8]; 16]> = filter.levels().collect();
        let multi = levels.last() == Some(&&b"#"[..]);
        if multi {
            levels.pop();
        }
        // The siblings' links are all the stack this walk needs.
        let mut visits = 0;
        while visits < visits_max && *place != Place::Over {
            visits += 1;
            *place = match *place {
                Place::Enter { node, depth } if depth < levels.len() => {
                    match self.first_match(node, levels[depth]) {
                        NONE => Place::Leave { node, depth },
                        below => Place::Enter {
                            node: below,
                            depth: depth + 1,
                        },
                    }
                }
                Place::Enter { node, depth } if multi => Place::Below {
                    top: node,
                    node,
                    depth,
                },
                Place::Enter { node, depth } => {
                    self.visit(node, &mut found);
                    Place::Leave { node, depth }
                }
                Place::Below { top, node, depth } => {
                    self.visit(node, &mut found);
                    match self.next_below(top, node) {
                        NONE => Place::Leave { node: top, depth },
                        node => Place::Below { top, node, depth },
                    }
                }
                Place::Leave { depth: 0, .. } | Place::Over => Place::Over,
                Place::Leave { node, depth } => {
                    let beside = match levels[depth - 1] {
                        b"+" => self.sibling(node),
                        _ => NONE,
                    };
                    match beside {
                        NONE => Place::Leave {
                            node: self.nodes.get(node).parent,
                            depth: depth - 1,
                        },
                        node => Place::Enter { node, depth },
                    }
                }
            };
        }
        visits
    }

    /// The node after `node` among all that are below `top`, each before those below it.
    fn next_below(&self, top: u32, mut node: u32) -> u32 {
        let mut next = self.first_child(node);
        while next == NONE && node != top {
            next = self.sibling(node);
            if next == NONE {
                node = self.nodes.get(node).parent;
            }
        }
        next
    }

    #[inline]
    fn visit(&self, node: u32, found: &mut impl FnMut(u32, &Arc<Message>)) {
        let value = self.nodes.get(node).value;
        if value != NONE
            && let Some(message) = &self.values.get(value).message
        {
            found(value, message);
        }
    }

    fn first_match(&self, node: u32, level: &[u8]) -> u32 {
        if level == b"+" {
            self.first_child(node)
        } else {
            self.child(node, level, self.hasher.bytes(level))
        }
    }

    /// The first child for a wildcard, which no first level with $ is [MQTT-4.7.2-1].
    #[inline]
    fn first_child(&self, node: u32) -> u32 {
        self.pass_over_dollar(self.nodes.get(node).first_child)
    }

    /// The next child of the same parent for a wildcard.
    #[inline]
    fn sibling(&self, node: u32) -> u32 {
        self.pass_over_dollar(self.nodes.get(node).next)
    }

    #[inline]
    fn pass_over_dollar(&self, mut id: u32) -> u32 {
        while id != NONE {
            let node = self.nodes.get(id);
            if node.parent != ROOT || node.level.as_bytes().first() != Some(&b'$') {
                break;
            }
            id = node.next;
        }
        id
    }

    fn value_of(&self, topic: &[u8], hash: u64) -> Option<u32> {
        self.topics
            .find(hash as u32, |id| self.values.get(id).topic() == topic)
    }

    /// Takes a value that is about to change out of what is ordered by its old version.
    fn forget_order(&mut self, id: u32) {
        let value = self.values.get(id);
        let Some(message) = &value.message else {
            return;
        };
        if value.node == NONE {
            self.tombstones.remove(&(value.version(), id));
            return;
        }
        self.bytes -= message.size();
        if let Some(at) = message.as_ref().as_ref().expires_at {
            self.expiries.remove(&(at, id));
        }
    }

    /// Makes a tombstone of a value.
    fn bury(&mut self, id: u32, topic: &[u8], version: RetainedVersion) {
        let node = self.values.get(id).node;
        if node != NONE {
            self.nodes.get_mut(node).value = NONE;
            if self.has_walks() || !self.unpruned.is_empty() {
                self.unpruned.push(node);
            } else {
                self.prune(node);
            }
        }
        // Not the message itself: its properties may be large.
        let message = Arc::new(Message::new(MessageRef {
            topic_name: topic,
            properties: b"",
            payload: b"",
            qos: crate::message::QoS::AtMostOnce,
            retain: true,
            expires_at: None,
        }));
        let RetainedVersion { clock, shard } = version;
        *self.values.get_mut(id) = Value {
            message: Some(message),
            clock,
            node: NONE,
            shard,
        };
        self.tombstones.insert((version, id));
        if self.tombstones.len() > TOMBSTONES_MAX
            && let Some(&(version, id)) = self.tombstones.first()
        {
            self.forget_tombstone(version, id);
        }
    }

    fn forget_tombstone(&mut self, version: RetainedVersion, id: u32) {
        self.tombstones.remove(&(version, id));
        let hash = self.hasher.bytes(self.values.get(id).topic());
        self.topics.remove(hash as u32, id);
        self.values.remove(id);
    }

    fn child(&self, parent: u32, level: &[u8], level_hash: u64) -> u32 {
        let is_it = |id| {
            let node = self.nodes.get(id);
            node.parent == parent && node.level.as_bytes() == level
        };
        self.children
            .find(below(parent, level_hash) as u32, is_it)
            .unwrap_or(NONE)
    }

    /// The last node of `topic`, with nodes made as needed.
    fn insert_node(&mut self, topic: TopicName<'_>) -> u32 {
        let mut parent = ROOT;
        for level in topic.levels() {
            let hash = self.hasher.bytes(level);
            let mut node = self.child(parent, level, hash);
            if node == NONE {
                node = self.insert_child(parent, level);
                self.children.insert(below(parent, hash) as u32, node);
            }
            parent = node;
        }
        parent
    }

    /// A new last child.
    fn insert_child(&mut self, parent: u32, level: &[u8]) -> u32 {
        let first = self.nodes.get(parent).first_child;
        let level = Level::new(level);
        let id = self.nodes.insert(Node {
            level,
            parent,
            ..Node::default()
        });
        if first == NONE {
            self.nodes.get_mut(parent).first_child = id;
            self.nodes.get_mut(id).previous = id;
        } else {
            let last = std::mem::replace(&mut self.nodes.get_mut(first).previous, id);
            self.nodes.get_mut(last).next = id;
            self.nodes.get_mut(id).previous = last;
        }
        id
    }

    /// Frees `id` and what is above it, up to the first node that is still needed.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT {
            let node = self.nodes.get(id);
            if node.value != NONE || node.first_child != NONE {
                return;
            }
            let node = self.nodes.remove(id);
            let first = self.nodes.get(node.parent).first_child;
            if node.next != NONE {
                self.nodes.get_mut(node.next).previous = node.previous;
            } else if first != id {
                self.nodes.get_mut(first).previous = node.previous;
            }
            if first == id {
                self.nodes.get_mut(node.parent).first_child = node.next;
            } else {
                self.nodes.get_mut(node.previous).next = node.next;
            }
            let hash = self.hasher.bytes(node.level.as_bytes());
            self.children.remove(below(node.parent, hash) as u32, id);
            id = node.parent;
        }
        if self.nodes.count() == 1 {
            // Only the root is left, without children: all other memory is free.
            self.nodes = Slab::new();
            self.nodes.insert(Node::default());
        }
    }
}
