//! All Topic Filters as a tree of their levels.
//!
//! Nodes are rows of a [`Slab`]; the child of a node by level is found in one hash table for the whole
//! trie, so that a node with a million children and one with a single child cost the same. The
//! wildcards are fields of the node: `+` is a child like others, `#` ends a filter and therefore is
//! only a place. Nothing here recurses.
//!
//! Levels between which no filter ends and none parts from another share a node, so a filter of 200 levels costs little
//! more than its bytes. Where filters part later, the node is split; where they do no longer, it joins the one below it.
//!
//! # Always true
//! - A node below the root has something that ends there, or children that part. So there are fewer than two nodes for
//!   each filter.
//! - What ends at a node keeps its [`Place`], whatever is split and joined around it.
//!
//! **Knows nothing of** filters beyond their levels: a place holds the id of the first of a list.

#![forbid(unsafe_code)]

use super::hash::{TopicHasher, below};
use super::level::Level;
use super::slab::{NONE, Slab};
use crate::id_table::IdTable;
use crate::topic::{Levels, TopicName};

/// The node above all first levels.
const ROOT: u32 = 0;

/// Levels of one or many filters: from where they part to where one ends or they part again.
#[derive(Debug)]
struct Node {
    /// The levels, with separators between them. By the first one its parent knows it.
    label: Level,
    parent: u32,
    /// The child that begins with `+`.
    plus: u32,
    /// Bytes of its label behind that.
    plus_rest: u32,
    /// What ends at this node.
    here: u32,
    /// What ends in `#` below this node.
    multi: u32,
    /// Children other than `plus`.
    children: u32,
    /// Exclusive or of their ids: the id of an only one.
    children_ids: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            label: Level::default(),
            parent: NONE,
            plus: NONE,
            plus_rest: 0,
            here: NONE,
            multi: NONE,
            children: 0,
            children_ids: 0,
        }
    }
}

impl Node {
    /// The only child of a node at which nothing ends.
    fn only_child(&self) -> Option<u32> {
        if self.here != NONE || self.multi != NONE {
            return None;
        }
        match (self.plus, self.children) {
            (NONE, 1) => Some(self.children_ids),
            (NONE, _) => None,
            (plus, 0) => Some(plus),
            _ => None,
        }
    }

    /// Behind the first level of `plus`.
    const fn behind_plus(&self) -> Spot {
        Spot {
            node: self.plus,
            rest: self.plus_rest,
        }
    }

    const fn is_needed(&self) -> bool {
        self.here != NONE || self.multi != NONE || self.plus != NONE || self.children > 0
    }
}

const _: () = assert!(size_of::<Node>() <= 56);

/// Where the levels of a topic or filter so far lead: into the label of a node.
#[derive(Clone, Copy, Debug)]
struct Spot {
    node: u32,
    /// Bytes of the label from the separator on that comes next. Zero: all of its levels were there.
    rest: u32,
}

impl Spot {
    const ROOT: Self = Self {
        node: ROOT,
        rest: 0,
    };
}

/// Where a filter ends: a node, or a `#` below it. A million filters keep one, so it is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(u32);

impl Place {
    const fn at(node: u32, is_multi: bool) -> Self {
        Self(node << 1 | is_multi as u32)
    }

    const fn node(self) -> u32 {
        self.0 >> 1
    }

    const fn is_multi(self) -> bool {
        self.0 & 1 != 0
    }
}

impl Default for Place {
    /// No place at all.
    fn default() -> Self {
        Self(NONE)
    }
}

/// Topic Filters by level.
#[derive(Debug)]
pub(super) struct Trie {
    nodes: Slab<Node>,
    /// Children other than `+`.
    children: IdTable,
    hasher: TopicHasher,
    /// Bytes of long labels.
    label_bytes: usize,
    /// Where the levels of the topic seen so far lead to, kept for its memory.
    frontier: Vec<Spot>,
    frontier_next: Vec<Spot>,
    /// Walks that go on in a later turn.
    walkers: usize,
    /// Nodes that may not be needed any more once those are over.
    unpruned: Vec<u32>,
}

/// How far a walk over many turns has come.
#[derive(Debug, Default)]
pub(super) struct Walk {
    frontier: Vec<Spot>,
    next: Vec<Spot>,
    /// The first of the frontier that was not looked at.
    at: usize,
    /// Levels of the topic that are done with.
    levels: usize,
    /// Whether wildcards match the next one.
    wildcards: bool,
}

impl Walk {
    pub(super) fn new(topic: TopicName<'_>) -> Self {
        Self {
            frontier: vec![Spot::ROOT],
            next: Vec::new(),
            at: 0,
            levels: 0,
            // As in `Trie::walk`.
            wildcards: !topic.is_dollar(),
        }
    }
}

impl Trie {
    pub(super) fn new(hasher: TopicHasher) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self {
            nodes,
            children: IdTable::default(),
            hasher,
            label_bytes: 0,
            frontier: Vec::new(),
            frontier_next: Vec::new(),
            walkers: 0,
            unpruned: Vec::new(),
        }
    }

    /// Nodes below the root.
    pub(super) fn nodes_count(&self) -> usize {
        self.nodes.count() - 1
    }

    /// Bytes of the nodes below the root, with their slots in the table.
    pub(super) fn used_bytes(&self) -> usize {
        self.nodes_count() * (size_of::<Node>() + size_of::<u64>()) + self.label_bytes
    }

    /// Bytes held.
    pub(super) fn size(&self) -> usize {
        self.nodes.size() + self.children.size() + self.label_bytes
    }

    /// The id that `place` holds, or [`NONE`].
    pub(super) fn head(&self, place: Place) -> u32 {
        let node = self.nodes.get(place.node());
        if place.is_multi() {
            node.multi
        } else {
            node.here
        }
    }

    /// Puts `head` at `place`. With [`NONE`], nodes that nothing needs any more go away.
    pub(super) fn set_head(&mut self, place: Place, head: u32) {
        let node = self.nodes.get_mut(place.node());
        *(if place.is_multi() {
            &mut node.multi
        } else {
            &mut node.here
        }) = head;
        if head == NONE {
            self.prune(place.node());
        }
    }

    /// The place of a filter, given without `$share/ShareName/`.
    pub(super) fn find(&self, filter: &[u8]) -> Option<Place> {
        let (path, is_multi) = split_multi(filter);
        let mut spot = Spot::ROOT;
        for level in path.into_iter().flat_map(Levels::new) {
            spot = self.step(spot, level)?;
        }
        (spot.rest == 0).then(|| Place::at(spot.node, is_multi))
    }

    /// The place for a filter, with nodes made as needed. The caller puts a head there.
    pub(super) fn insert(&mut self, filter: &[u8]) -> Place {
        let (path, is_multi) = split_multi(filter);
        let node = path.map_or(ROOT, |path| self.insert_path(path));
        Place::at(node, is_multi)
    }

    /// The node where `path` ends.
    fn insert_path(&mut self, path: &[u8]) -> u32 {
        let mut spot = Spot::ROOT;
        let mut seen = 0;
        for level in Levels::new(path) {
            let Some(next) = self.step(spot, level) else {
                let parent = self.part(spot);
                return self.add(parent, Level::new(&path[seen..]));
            };
            spot = next;
            seen += level.len() + 1;
        }
        self.part(spot)
    }

    /// Where one more level of a filter leads.
    fn step(&self, spot: Spot, level: &[u8]) -> Option<Spot> {
        let node = self.nodes.get(spot.node);
        if spot.rest > 0 {
            return Some(Spot {
                rest: rest_behind(node.label.as_bytes(), spot.rest, level)?,
                ..spot
            });
        }
        if level != b"+" {
            return self.child(spot.node, level, self.hasher.bytes(level));
        }
        (node.plus != NONE).then(|| node.behind_plus())
    }

    /// Calls `found` with the head of every place whose filters match `topic`. How many nodes were looked at; `None` if that
    /// would be more than `most`.
    // HOT: per PUBLISH to a topic that is not in the cache.
    pub(super) fn walk(
        &mut self,
        topic: TopicName<'_>,
        most: usize,
        mut found: impl FnMut(u32),
    ) -> Option<usize> {
        let mut frontier = std::mem::take(&mut self.frontier);
        let mut next = std::mem::take(&mut self.frontier_next);
        frontier.clear();
        frontier.push(Spot::ROOT);
        // Wildcards at the first level do not match topics that begin with $ [MQTT-4.7.2-1].
        let mut wildcards = !topic.is_dollar();
        let mut visits = 0;
        for level in topic.levels() {
            // Hashed once for all nodes of the frontier, and not at all if they have no children.
            let mut hash = None;
            visits += frontier.len();
            if visits > most {
                break;
            }
            next.clear();
            for &spot in &frontier {
                let hash = || *hash.get_or_insert_with(|| self.hasher.bytes(level));
                self.pass(spot, level, hash, wildcards, &mut found, &mut next);
            }
            wildcards = true;
            std::mem::swap(&mut frontier, &mut next);
            if frontier.is_empty() {
                break;
            }
        }
        visits += frontier.len();
        if visits > most {
            frontier.clear();
        }
        for &spot in &frontier {
            self.arrive(spot, &mut found);
        }
        self.frontier = frontier;
        self.frontier_next = next;
        (visits <= most).then_some(visits)
    }

    /// A walk over many turns begins: no node is freed before it is over.
    pub(super) fn hold(&mut self) {
        self.walkers += 1;
    }

    /// It is over.
    pub(super) fn release(&mut self) {
        self.walkers -= 1;
        if self.walkers > 0 {
            return;
        }
        for id in std::mem::take(&mut self.unpruned) {
            // It may have gone with another one.
            let node = self.nodes.try_get(id);
            if node.is_some_and(|node| node.parent != NONE) {
                self.prune(id);
            }
        }
    }

    /// Goes on with a walk, which is [held](Self::hold), and looks at `most` nodes. At how many it did, and whether it is
    /// over.
    pub(super) fn continue_walk(
        &self,
        walk: &mut Walk,
        topic: TopicName<'_>,
        most: usize,
        mut found: impl FnMut(u32),
    ) -> (usize, bool) {
        let mut visits = 0;
        for level in topic.levels().skip(walk.levels) {
            let hash = self.hasher.bytes(level);
            while let Some(&spot) = walk.frontier.get(walk.at) {
                if visits >= most {
                    return (visits, false);
                }
                visits += 1;
                walk.at += 1;
                let spot = self.where_it_is(spot);
                let (wildcards, next) = (walk.wildcards, &mut walk.next);
                self.pass(spot, level, || hash, wildcards, &mut found, next);
            }
            walk.wildcards = true;
            std::mem::swap(&mut walk.frontier, &mut walk.next);
            walk.next.clear();
            walk.at = 0;
            walk.levels += 1;
        }
        while let Some(&spot) = walk.frontier.get(walk.at) {
            if visits >= most {
                return (visits, false);
            }
            visits += 1;
            walk.at += 1;
            self.arrive(self.where_it_is(spot), &mut found);
        }
        (visits, true)
    }

    /// One step of a walk: from `spot`, before `level`, to what is behind it. `hash` is that of the level.
    #[inline]
    fn pass(
        &self,
        spot: Spot,
        level: &[u8],
        hash: impl FnOnce() -> u64,
        wildcards: bool,
        found: &mut impl FnMut(u32),
        next: &mut Vec<Spot>,
    ) {
        let node = self.nodes.get(spot.node);
        if spot.rest > 0 {
            if let Some(rest) = rest_that_matches(node.label.as_bytes(), spot.rest, level) {
                next.push(Spot { rest, ..spot });
            }
            return;
        }
        if wildcards {
            if node.multi != NONE {
                found(node.multi);
            }
            if node.plus != NONE {
                next.push(node.behind_plus());
            }
        }
        if node.children > 0
            && let Some(child) = self.child(spot.node, level, hash())
        {
            next.push(child);
        }
    }

    /// The end of a walk, at `spot`.
    #[inline]
    fn arrive(&self, spot: Spot, found: &mut impl FnMut(u32)) {
        let node = self.nodes.get(spot.node);
        if spot.rest > 0 {
            return;
        }
        if node.here != NONE {
            found(node.here);
        }
        // # matches the parent level too.
        if node.multi != NONE {
            found(node.multi);
        }
    }

    /// Where a spot is that was found before nodes were split.
    fn where_it_is(&self, mut spot: Spot) -> Spot {
        loop {
            let node = self.nodes.get(spot.node);
            let size = node.label.as_bytes().len() as u32;
            // What comes next begins with a separator, which is no part of a label.
            if spot.rest <= size {
                return spot;
            }
            spot = Spot {
                node: node.parent,
                rest: spot.rest - size - 1,
            };
        }
    }

    #[inline]
    fn child(&self, parent: u32, level: &[u8], level_hash: u64) -> Option<Spot> {
        let mut rest = 0;
        let is_it = |id| {
            let node = self.nodes.get(id);
            let label = node.label.as_bytes();
            rest = (label.len() as u32).wrapping_sub(level.len() as u32);
            node.parent == parent
                && label.starts_with(level)
                && (rest == 0 || label[level.len()] == b'/')
        };
        let node = self
            .children
            .find(below(parent, level_hash) as u32, is_it)?;
        Some(Spot { node, rest })
    }

    /// The node that ends at `spot`: split from the one it is in, which keeps its id and what ends there.
    fn part(&mut self, spot: Spot) -> u32 {
        if spot.rest == 0 {
            return spot.node;
        }
        let (parent, label) = self.take_out(spot.node);
        let label = label.as_bytes();
        let (before, after) = label.split_at(label.len() - spot.rest as usize);
        let above = self.add(parent, Level::new(before));
        self.put_below(above, spot.node, Level::new(&after[1..]));
        above
    }

    /// Frees `id` if nothing needs it, and joins what need not be apart any more.
    fn prune(&mut self, mut id: u32) {
        if self.walkers > 0 {
            self.unpruned.push(id);
            return;
        }
        while id != ROOT && !self.nodes.get(id).is_needed() {
            let (parent, _) = self.take_out(id);
            self.nodes.remove(id);
            id = parent;
        }
        if id != ROOT
            && let Some(child) = self.nodes.get(id).only_child()
        {
            let (_, below) = self.take_out(child);
            let (parent, above) = self.take_out(id);
            self.nodes.remove(id);
            self.put_below(parent, child, above.join(&below));
        }
        if self.nodes.count() == 1 {
            // Only the root is left: start again, so that the memory of all others is free.
            let root = std::mem::take(self.nodes.get_mut(ROOT));
            self.nodes = Slab::new();
            self.nodes.insert(root);
        }
    }

    // --- Who is below whom.

    /// A new node below `parent`.
    fn add(&mut self, parent: u32, label: Level) -> u32 {
        let id = self.nodes.insert(Node::default());
        self.put_below(parent, id, label);
        id
    }

    /// Makes `id`, which has neither, know its parent and its label, and its parent know it.
    fn put_below(&mut self, parent: u32, id: u32, label: Level) {
        let above = self.nodes.get_mut(parent);
        match first_level(&label) {
            b"+" => {
                above.plus = id;
                above.plus_rest = label.as_bytes().len() as u32 - 1;
            }
            first => {
                above.children += 1;
                above.children_ids ^= id;
                let hash = self.hasher.bytes(first);
                self.children.insert(below(parent, hash) as u32, id);
            }
        }
        self.label_bytes += label.heap_size();
        let node = self.nodes.get_mut(id);
        node.parent = parent;
        node.label = label;
    }

    /// Takes `id` from its parent, and its label with it.
    fn take_out(&mut self, id: u32) -> (u32, Level) {
        let node = self.nodes.get_mut(id);
        let parent = node.parent;
        let label = std::mem::take(&mut node.label);
        self.label_bytes -= label.heap_size();
        let above = self.nodes.get_mut(parent);
        match first_level(&label) {
            b"+" => above.plus = NONE,
            first => {
                above.children -= 1;
                above.children_ids ^= id;
                let hash = self.hasher.bytes(first);
                self.children.remove(below(parent, hash) as u32, id);
            }
        }
        (parent, label)
    }
}

/// What is before a `#` at the end, if there is anything, and whether there is one.
fn split_multi(filter: &[u8]) -> (Option<&[u8]>, bool) {
    match filter.strip_suffix(b"#") {
        None => (Some(filter), false),
        Some(before) => (before.strip_suffix(b"/"), true),
    }
}

fn first_level(label: &Level) -> &[u8] {
    Levels::new(label.as_bytes()).next().unwrap_or_default()
}

/// As [`rest_behind`], of a level that matches `level` of a topic.
#[inline]
fn rest_that_matches(label: &[u8], rest: u32, level: &[u8]) -> Option<u32> {
    // No other level of a filter begins with `+`.
    if label.get(label.len() - rest as usize + 1) == Some(&b'+') {
        return Some(rest - 2);
    }
    rest_behind(label, rest, level)
}

/// What is left of the last `rest` bytes of `label`, which begin with a separator, behind the next level. `None` if that
/// is not `level`.
#[inline]
fn rest_behind(label: &[u8], rest: u32, level: &[u8]) -> Option<u32> {
    let next = label.get(label.len() - rest as usize + 1..)?;
    let (next, behind) = next.split_at_checked(level.len())?;
    // Where it ends is looked at first: most others have another length.
    (matches!(behind.first(), None | Some(b'/')) && next == level).then_some(behind.len() as u32)
}
