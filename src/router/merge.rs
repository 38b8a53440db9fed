//! One target per Session from overlapping subscriptions.

#![forbid(unsafe_code)]

use super::matches::Target;
use super::stamps::Stamps;
use super::subscribers::Subscriber;
use smallvec::SmallVec;

/// Targets up to which a Session is searched for from end to end.
const SEARCH_MAX: usize = 16;

/// Merges lists of subscribers in a time that only depends on their lengths.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// Where a Session is among the targets.
    positions: Stamps,
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
        let mut lists = lists;
        // Within a list each Session is there once.
        if let Some(list) = lists.next() {
            targets.extend(list.iter().map(Target::from));
        }
        if targets.len() == count {
            return;
        }
        if count <= SEARCH_MAX {
            for subscriber in lists.flatten() {
                match targets
                    .iter()
                    .position(|target| target.session == subscriber.session)
                {
                    Some(position) => merge_into(&mut targets[position], subscriber),
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
            match self.position(subscriber, targets) {
                Some(position) => merge_into(&mut targets[position], subscriber),
                None => {
                    let position = targets.len() as u32;
                    self.positions.set(subscriber.session.index, position);
                    targets.push(subscriber.into());
                }
            }
        }
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
            no_local: subscriber.options.no_local,
        }
    }
}

fn merge_into(target: &mut Target, subscriber: &Subscriber) {
    target.qos = target.qos.max(subscriber.options.qos);
    target.retain_as_published |= subscriber.options.retain_as_published;
    target.no_local &= subscriber.options.no_local;
    target
        .subscription_identifiers
        .extend(subscriber.identifier);
}
