//! One target per Session from overlapping subscriptions.

#![forbid(unsafe_code)]

use super::matches::{Target, Whose};
use super::stamps::Stamps;
use super::subscribers::Subscriber;
use crate::key::SessionKey;
use crate::message::QoS;
use smallvec::SmallVec;

/// Targets up to which a Session is searched for from end to end.
const SEARCH_MAX: usize = 16;

/// Merges lists of subscribers in a time that only depends on their lengths.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// Where a Session is among the targets.
    positions: Stamps,
    /// Sessions of which only some subscriptions have No Local set.
    divided: Vec<SessionKey>,
}

impl Merger {
    /// Fills `targets`, which is empty.
    pub(super) fn merge<'a>(
        &mut self,
        lists: impl Iterator<Item = &'a [Subscriber]> + Clone,
        targets: &mut Vec<Target>,
    ) {
        let count = lists.clone().map(<[_]>::len).sum();
        targets.reserve_exact(count);
        let (all, mut lists) = (lists.clone(), lists);
        // Within a list each Session is there once.
        if let Some(list) = lists.next() {
            targets.extend(list.iter().map(Target::from));
        }
        if targets.len() == count {
            return;
        }
        self.merge_rest(lists, count, targets);
        if !self.divided.is_empty() {
            self.add_own(all, targets);
        }
    }

    /// Begins with targets that [`Self::add_some`] adds to.
    pub(super) fn begin(&mut self) {
        self.positions.begin();
        self.divided.clear();
    }

    /// Merges some subscribers of one list into `targets`.
    pub(super) fn add_some(&mut self, subscribers: &[Subscriber], targets: &mut Vec<Target>) {
        for subscriber in subscribers {
            self.add_one(subscriber, targets);
        }
    }

    /// All of all `lists` have been.
    pub(super) fn end<'a>(
        &mut self,
        lists: impl Iterator<Item = &'a [Subscriber]>,
        targets: &mut Vec<Target>,
    ) {
        if !self.divided.is_empty() {
            self.add_own(lists, targets);
        }
    }

    #[inline]
    fn add_one(&mut self, subscriber: &Subscriber, targets: &mut Vec<Target>) {
        match self.position(subscriber, targets) {
            Some(position) => self.merge_into(&mut targets[position], subscriber),
            None => {
                let position = targets.len() as u32;
                self.positions.set(subscriber.session.index, position);
                targets.push(subscriber.into());
            }
        }
    }

    /// Merges the subscribers of further `lists` into `targets`, which are `count` altogether.
    fn merge_rest<'a>(
        &mut self,
        lists: impl Iterator<Item = &'a [Subscriber]>,
        count: usize,
        targets: &mut Vec<Target>,
    ) {
        if count <= SEARCH_MAX {
            for subscriber in lists.flatten() {
                match targets
                    .iter()
                    .position(|target| target.session == subscriber.session)
                {
                    Some(position) => self.merge_into(&mut targets[position], subscriber),
                    None => targets.push(subscriber.into()),
                }
            }
            return;
        }
        self.positions.begin();
        for (target, position) in targets.iter().zip(0..) {
            self.positions.set(target.session.index, position);
        }
        for subscriber in lists.flatten() {
            self.add_one(subscriber, targets);
        }
    }

    fn merge_into(&mut self, target: &mut Target, subscriber: &Subscriber) {
        add(target, subscriber);
        if (target.whose == Whose::Others) != subscriber.options.no_local {
            target.whose = Whose::Others;
            self.divided.push(target.session);
        }
    }

    /// Appends what divided Sessions get of their own messages.
    #[cold]
    fn add_own<'a>(
        &mut self,
        lists: impl Iterator<Item = &'a [Subscriber]>,
        targets: &mut Vec<Target>,
    ) {
        let first = targets.len();
        self.positions.begin();
        for session in std::mem::take(&mut self.divided) {
            // It is named once for each subscription that differs from those before it.
            if self.position_behind(first, session, targets).is_none() {
                self.positions.set(session.index, targets.len() as u32);
                targets.push(Target {
                    session,
                    subscription_identifiers: SmallVec::new(),
                    qos: QoS::AtMostOnce,
                    retain_as_published: false,
                    whose: Whose::Own,
                });
            }
        }
        for subscriber in lists.flatten().filter(|it| !it.options.no_local) {
            if let Some(position) = self.position_behind(first, subscriber.session, targets) {
                add(&mut targets[position], subscriber);
            }
        }
    }

    /// Where it is among the targets from `first` on, which are those that have a position.
    fn position_behind(
        &self,
        first: usize,
        session: SessionKey,
        targets: &[Target],
    ) -> Option<usize> {
        let position = self.positions.get(session.index)? as usize;
        let of_same_slot = |at: usize| (targets[at].session == session).then_some(at);
        of_same_slot(position).or_else(|| (first..targets.len()).find_map(of_same_slot))
    }

    fn position(&self, subscriber: &Subscriber, targets: &[Target]) -> Option<usize> {
        let session = subscriber.session;
        let position = self.positions.get(session.index)? as usize;
        if targets[position].session == session {
            return Some(position);
        }
        // Two Sessions that had the same slot: one has ended and is about to be unsubscribed.
        targets.iter().position(|target| target.session == session)
    }
}

impl From<&Subscriber> for Target {
    #[inline]
    fn from(subscriber: &Subscriber) -> Self {
        let mut subscription_identifiers = SmallVec::new();
        if let Some(identifier) = subscriber.identifier {
            subscription_identifiers.push(identifier);
        }
        Self {
            session: subscriber.session,
            subscription_identifiers,
            qos: subscriber.options.qos,
            retain_as_published: subscriber.options.retain_as_published,
            whose: if subscriber.options.no_local {
                Whose::Others
            } else {
                Whose::Anybodys
            },
        }
    }
}

/// Adds one more subscription to what a Session gets.
fn add(target: &mut Target, subscriber: &Subscriber) {
    target.qos = target.qos.max(subscriber.options.qos);
    target.retain_as_published |= subscriber.options.retain_as_published;
    target
        .subscription_identifiers
        .extend(subscriber.identifier);
}
