//! All Topic Filters as a tree of their levels.
//!
//! Nodes are rows of a [`Slab`]; the child of a node by level is found in one hash table for the whole
//! trie, so that a node with a million children and one with a single child cost the same. The
//! wildcards are fields of the node: `+` is a child like others, `#` ends a filter and therefore is
//! only a place. Nothing here recurses, and a node lives as long as a filter goes through it.
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

/// One level of one or many filters.
#[derive(Debug)]
struct Node {
    level: Level,
    parent: u32,
    /// The child for `+`.
    plus: u32,
    /// What ends at this node.
    here: u32,
    /// What ends in `#` below this node.
    multi: u32,
    /// Children other than `plus`.
    children: u32,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            level: Level::default(),
            parent: NONE,
            plus: NONE,
            here: NONE,
            multi: NONE,
            children: 0,
        }
    }
}

const _: () = assert!(size_of::<Node>() <= 48);

/// Where a filter ends: a node, or a `#` below it. A million filters keep one, so it is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Place(u32);

impl Place {
    const fn here(node: u32) -> Self {
        Self(node << 1)
    }

    const fn multi(node: u32) -> Self {
        Self(node << 1 | 1)
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
    /// Nodes that the levels of the topic seen so far lead to, kept for its memory.
    frontier: Vec<u32>,
    frontier_next: Vec<u32>,
}

impl Trie {
    pub(super) fn new(hasher: TopicHasher) -> Self {
        let mut nodes = Slab::new();
        nodes.insert(Node::default());
        Self {
            nodes,
            children: IdTable::default(),
            hasher,
            frontier: Vec::new(),
            frontier_next: Vec::new(),
        }
    }

    /// Nodes below the root.
    pub(super) fn nodes_count(&self) -> usize {
        self.nodes.count() - 1
    }

    /// Bytes held, except for long levels.
    pub(super) fn size(&self) -> usize {
        self.nodes.size() + self.children.size()
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

    pub(super) fn find(&self, levels: Levels<'_>) -> Option<Place> {
        let mut node = ROOT;
        for level in levels {
            match level {
                b"#" => return Some(Place::multi(node)),
                b"+" => node = self.nodes.get(node).plus,
                _ => node = self.child(node, level, self.hasher.bytes(level)),
            }
            if node == NONE {
                return None;
            }
        }
        Some(Place::here(node))
    }

    /// The place for a filter, with nodes made as needed. The caller puts a head there.
    pub(super) fn insert(&mut self, levels: Levels<'_>) -> Place {
        let mut node = ROOT;
        for level in levels {
            node = match level {
                b"#" => return Place::multi(node),
                b"+" => match self.nodes.get(node).plus {
                    NONE => {
                        let plus = self.nodes.insert(new_node(node, level));
                        self.nodes.get_mut(node).plus = plus;
                        plus
                    }
                    plus => plus,
                },
                _ => {
                    let hash = self.hasher.bytes(level);
                    match self.child(node, level, hash) {
                        NONE => {
                            let child = self.nodes.insert(new_node(node, level));
                            self.nodes.get_mut(node).children += 1;
                            self.children.insert(below(node, hash) as u32, child);
                            child
                        }
                        child => child,
                    }
                }
            };
        }
        Place::here(node)
    }

    /// Calls `found` with the head of every place whose filters match `topic`.
    // HOT: per PUBLISH to a topic that is not in the cache.
    pub(super) fn walk(&mut self, topic: TopicName<'_>, mut found: impl FnMut(u32)) {
        let mut frontier = std::mem::take(&mut self.frontier);
        let mut next = std::mem::take(&mut self.frontier_next);
        frontier.clear();
        frontier.push(ROOT);
        // Wildcards at the first level do not match topics that begin with $ [MQTT-4.7.2-1].
        let mut wildcards = !topic.is_dollar();
        for level in topic.levels() {
            // Hashed once for all nodes of the frontier, and not at all if they have no children.
            let mut hash = None;
            next.clear();
            for &id in &frontier {
                let node = self.nodes.get(id);
                if wildcards {
                    if node.multi != NONE {
                        found(node.multi);
                    }
                    if node.plus != NONE {
                        next.push(node.plus);
                    }
                }
                if node.children > 0 {
                    let hash = *hash.get_or_insert_with(|| self.hasher.bytes(level));
                    let child = self.child(id, level, hash);
                    if child != NONE {
                        next.push(child);
                    }
                }
            }
            wildcards = true;
            std::mem::swap(&mut frontier, &mut next);
            if frontier.is_empty() {
                break;
            }
        }
        for &id in &frontier {
            let node = self.nodes.get(id);
            if node.here != NONE {
                found(node.here);
            }
            // # matches the parent level too.
            if node.multi != NONE {
                found(node.multi);
            }
        }
        self.frontier = frontier;
        self.frontier_next = next;
    }

    #[inline]
    fn child(&self, parent: u32, level: &[u8], level_hash: u64) -> u32 {
        let is_it = |id| {
            let node = self.nodes.get(id);
            node.parent == parent && node.level.as_bytes() == level
        };
        self.children
            .find(below(parent, level_hash) as u32, is_it)
            .unwrap_or(NONE)
    }

    /// Frees `id` and what is above it, up to the first node that is still needed.
    fn prune(&mut self, mut id: u32) {
        while id != ROOT {
            let node = self.nodes.get(id);
            if node.here != NONE || node.multi != NONE || node.plus != NONE || node.children > 0 {
                return;
            }
            let node = self.nodes.remove(id);
            let parent = self.nodes.get_mut(node.parent);
            if parent.plus == id {
                parent.plus = NONE;
            } else {
                parent.children -= 1;
                let hash = self.hasher.bytes(node.level.as_bytes());
                self.children.remove(below(node.parent, hash) as u32, id);
            }
            id = node.parent;
        }
        if self.nodes.count() == 1 {
            // Only the root is left: start again, so that the memory of all others is free.
            let root = std::mem::take(self.nodes.get_mut(ROOT));
            self.nodes = Slab::new();
            self.nodes.insert(root);
        }
    }
}

fn new_node(parent: u32, level: &[u8]) -> Node {
    Node {
        level: Level::new(level),
        parent,
        ..Node::default()
    }
}
