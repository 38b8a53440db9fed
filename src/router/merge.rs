//! One target per Session from overlapping subscriptions.

#![forbid(unsafe_code)]

use super::matches::Target;
use super::subscribers::Subscriber;
use smallvec::SmallVec;

/// Targets up to which a Session is searched for from end to end.
const SEARCH_MAX: usize = 16;

/// Where a Session is among the targets, if `round` is the current one.
#[derive(Clone, Copy, Debug, Default)]
struct Stamp {
    round: u32,
    position: u32,
}

/// Merges lists of subscribers in a time that only depends on their lengths.
#[derive(Debug, Default)]
pub(super) struct Merger {
    /// By slot of the Session.
    stamps: Vec<Stamp>,
    round: u32,
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
        self.begin();
        for (target, position) in targets.iter().zip(0..) {
            self.stamp(target.session.index, position);
        }
        for subscriber in lists.flatten() {
            match self.position(subscriber, targets) {
                Some(position) => merge_into(&mut targets[position], subscriber),
                None => {
                    self.stamp(subscriber.session.index, targets.len() as u32);
                    targets.push(subscriber.into());
                }
            }
        }
    }

    fn begin(&mut self) {
        self.round = self.round.wrapping_add(1);
        if self.round == 0 {
            self.stamps.fill(Stamp::default());
            self.round = 1;
        }
    }

    fn stamp(&mut self, index: u32, position: u32) {
        let index = index as usize;
        if index >= self.stamps.len() {
            self.stamps
                .resize((index + 1).next_power_of_two(), Stamp::default());
        }
        self.stamps[index] = Stamp {
            round: self.round,
            position,
        };
    }

    fn position(&self, subscriber: &Subscriber, targets: &[Target]) -> Option<usize> {
        let session = subscriber.session;
        let stamp = self.stamps.get(session.index as usize)?;
        if stamp.round != self.round {
            return None;
        }
        let position = stamp.position as usize;
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
