//! Rules as a tree of topic levels, made once and then only read.
//!
//! A node has a child for each level that rules have below it, found by binary search, one for `+`,
//! and those with `%c` or `%u`, which are compared for the Client that asks, whose names may be several levels. A check
//! follows all of them at once, so it costs the levels of the topic and not the number of rules.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::ops::Range;

use smallvec::SmallVec;

use super::Subject;
use super::parse::{CLIENT_IDENTIFIER, USERNAME};

/// What rules say of a topic, as a set.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Grants(u8);

impl Grants {
    pub(super) const READ: Self = Self(1);
    pub(super) const WRITE: Self = Self(2);
    pub(super) const READ_WRITE: Self = Self(3);
    pub(super) const DENY: Self = Self(4);
    const ALL: Self = Self(7);

    fn add(&mut self, other: Self) {
        self.0 |= other.0;
    }

    fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    fn only(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }
}

/// What a list of rules comes to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Decision {
    Granted,
    Denied,
    /// No rule speaks of it.
    Open,
}

const NONE: u32 = u32::MAX;
const ROOT: u32 = 0;
/// Places of the tree that a check has still to look at, before it would need memory: more than
/// rules that overlap in twenty levels come to.
const PENDING_INLINE: usize = 24;

#[derive(Debug)]
struct Node {
    /// Rules that end here.
    here: Grants,
    /// Rules that end in `#` below this node.
    multi: Grants,
    /// The child for `+`.
    plus: u32,
    /// Children for levels as they are, in their order.
    literals: Range<u32>,
    /// Children for levels with names in them.
    patterns: Range<u32>,
}

/// A list of rules.
#[derive(Debug)]
pub(super) struct Rules {
    nodes: Box<[Node]>,
    literals: Box<[(Box<[u8]>, u32)]>,
    patterns: Box<[(Pattern, u32)]>,
    has_denials: bool,
}

impl Rules {
    /// What the rules say of `topic`: denied if any rule that matches denies, granted if any grants
    /// what is wanted.
    // HOT: per PUBLISH and per subscriber.
    pub(super) fn decide(&self, topic: &[u8], wanted: Grants, subject: &Subject<'_>) -> Decision {
        // A rule is for topics that begin with $ only if it does so itself.
        let is_dollar = topic.first() == Some(&b'$');
        let mut found = Grants::default();
        // Nodes, each with where the level below it begins, one past the end if there is none, and
        // with what counts of the rules from there on.
        let mut pending = SmallVec::<[(u32, usize, Grants); PENDING_INLINE]>::new();
        pending.push((ROOT, 0, Grants::ALL));
        while let Some((id, start, counted)) = pending.pop() {
            let Some(node) = self.nodes.get(id as usize) else {
                continue;
            };
            if let Some(rest) = topic.get(start..) {
                let size = rest.iter().position(|&byte| byte == b'/');
                let level = &rest[..size.unwrap_or(rest.len())];
                let next = start + level.len() + 1;
                let is_bound = is_dollar && start == 0;
                if !is_bound {
                    found.add(node.multi.only(counted));
                    if node.plus != NONE {
                        pending.push((node.plus, next, counted));
                    }
                }
                for (pattern, child) in slice(&self.patterns, &node.patterns) {
                    if is_bound && !pattern.is_dollar() {
                        continue;
                    }
                    if let Some((size, counted_of_it)) = pattern.matched(rest, subject) {
                        pending.push((*child, start + size + 1, counted.only(counted_of_it)));
                    }
                }
                let literals = slice(&self.literals, &node.literals);
                if let Ok(at) = literals.binary_search_by(|(literal, _)| (**literal).cmp(level)) {
                    pending.push((literals[at].1, next, counted));
                }
            } else {
                found.add(node.here.only(counted));
                // # is the parent level too.
                found.add(node.multi.only(counted));
            }
            if found.has(Grants::DENY) {
                return Decision::Denied;
            }
            if found.has(wanted) && !self.has_denials {
                return Decision::Granted;
            }
        }
        if found.has(wanted) {
            Decision::Granted
        } else {
            Decision::Open
        }
    }
}

fn slice<'a, T>(all: &'a [T], range: &Range<u32>) -> &'a [T] {
    all.get(range.start as usize..range.end as usize)
        .unwrap_or_default()
}

/// A level with names in it.
#[derive(Clone, Debug, Eq, PartialEq)]
struct Pattern(Box<[Part]>);

#[derive(Clone, Debug, Eq, PartialEq)]
enum Part {
    Literal(Box<[u8]>),
    ClientIdentifier,
    Username,
}

impl Pattern {
    /// The pattern that `level` is, if it has a name in it.
    fn new(level: &str) -> Option<Self> {
        let mut parts = Vec::new();
        let mut literal_start = 0;
        let mut at = 0;
        while let Some(rest) = level.get(at..) {
            let part = if rest.starts_with(CLIENT_IDENTIFIER) {
                Part::ClientIdentifier
            } else if rest.starts_with(USERNAME) {
                Part::Username
            } else if let Some(first) = rest.chars().next() {
                at += first.len_utf8();
                continue;
            } else {
                break;
            };
            if literal_start < at {
                parts.push(Part::Literal(level.as_bytes()[literal_start..at].into()));
            }
            parts.push(part);
            at += CLIENT_IDENTIFIER.len();
            literal_start = at;
        }
        if parts.is_empty() {
            return None;
        }
        if literal_start < level.len() {
            parts.push(Part::Literal(level.as_bytes()[literal_start..].into()));
        }
        Some(Self(parts.into()))
    }

    fn is_dollar(&self) -> bool {
        matches!(self.0.first(), Some(Part::Literal(text)) if text.first() == Some(&b'$'))
    }

    /// How many bytes of `rest`, which are whole levels, this pattern is with the names of
    /// `subject`, and which rules below it count then. A name with a separator would reach into
    /// the places of others, and an empty one would mean the same for all Clients: such names grant
    /// nothing. What is denied them stays denied, though.
    fn matched(&self, rest: &[u8], subject: &Subject<'_>) -> Option<(usize, Grants)> {
        let mut left = rest;
        let mut counted = Grants::ALL;
        for part in &self.0 {
            let expected = match part {
                Part::Literal(text) => text,
                Part::ClientIdentifier => subject.client_identifier.as_bytes(),
                Part::Username => subject.username?.as_bytes(),
            };
            left = left.strip_prefix(expected)?;
            if expected.is_empty() || expected.contains(&b'/') {
                counted = Grants::DENY;
            }
        }
        let is_whole = left.first().is_none_or(|&next| next == b'/');
        is_whole.then_some((rest.len() - left.len(), counted))
    }
}

/// Puts [`Rules`] together.
pub(super) struct Builder {
    nodes: Vec<Draft>,
    has_denials: bool,
}

/// A node that still grows.
struct Draft {
    here: Grants,
    multi: Grants,
    plus: u32,
    literals: BTreeMap<Box<[u8]>, u32>,
    patterns: Vec<(Pattern, u32)>,
}

impl Default for Draft {
    fn default() -> Self {
        Self {
            here: Grants::default(),
            multi: Grants::default(),
            plus: NONE,
            literals: BTreeMap::new(),
            patterns: Vec::new(),
        }
    }
}

impl Builder {
    pub(super) fn new() -> Self {
        Self {
            nodes: vec![Draft::default()],
            has_denials: false,
        }
    }

    /// A rule in which `%c` and `%u` are text.
    pub(super) fn insert_topic(&mut self, topic: &str, grants: Grants) {
        self.insert(topic, grants, |_| None);
    }

    /// A rule in which `%c` and `%u` are names.
    pub(super) fn insert_pattern(&mut self, topic: &str, grants: Grants) {
        self.insert(topic, grants, Pattern::new);
    }

    fn insert(&mut self, topic: &str, grants: Grants, pattern: fn(&str) -> Option<Pattern>) {
        self.has_denials |= grants.has(Grants::DENY);
        let mut at = ROOT as usize;
        for level in topic.split('/') {
            if level == "#" {
                self.nodes[at].multi.add(grants);
                return;
            }
            let next = u32::try_from(self.nodes.len()).expect("a file has fewer bytes");
            let node = &mut self.nodes[at];
            let child = if level == "+" {
                if node.plus == NONE {
                    node.plus = next;
                }
                node.plus
            } else if let Some(pattern) = pattern(level) {
                let known = node.patterns.iter().find(|(known, _)| *known == pattern);
                match known {
                    Some(&(_, child)) => child,
                    None => {
                        node.patterns.push((pattern, next));
                        next
                    }
                }
            } else {
                *node.literals.entry(level.as_bytes().into()).or_insert(next)
            };
            if child == next {
                self.nodes.push(Draft::default());
            }
            at = child as usize;
        }
        self.nodes[at].here.add(grants);
    }

    pub(super) fn build(self) -> Rules {
        let (mut literals, mut patterns) = (Vec::new(), Vec::new());
        let nodes = self.nodes.into_iter().map(|draft| Node {
            here: draft.here,
            multi: draft.multi,
            plus: draft.plus,
            literals: append(&mut literals, draft.literals),
            patterns: append(&mut patterns, draft.patterns),
        });
        Rules {
            nodes: nodes.collect(),
            literals: literals.into(),
            patterns: patterns.into(),
            has_denials: self.has_denials,
        }
    }
}

/// Appends `items` to `all` and returns where they are.
fn append<T>(all: &mut Vec<T>, items: impl IntoIterator<Item = T>) -> Range<u32> {
    let start = all.len() as u32;
    all.extend(items);
    start..all.len() as u32
}
