//! One Shared Subscription: its members here, how many other shards have, and whose turn it is.
//!
//! Every message of the group goes to one member [MQTT-4.8.2-4]. The publishing shard chooses the
//! shard, by how many members each has; the chosen shard chooses among its own. Both take turns, so
//! while the group does not change no member is ever more than one message ahead of another.

#![forbid(unsafe_code)]

use super::subscribers::{Subscriber, Subscribers};
use crate::key::{SessionKey, ShardId};
use smallvec::SmallVec;

/// What one shard wants of a filter.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct Interest {
    /// Members of the Shared Subscription that have a Network Connection. For other filters as
    /// [`Self::members`].
    pub members_online: u32,
    /// Members of the Shared Subscription; for other filters 1 or 0. Zero: the shard wants nothing.
    pub members: u32,
}

impl Interest {
    /// Nothing is wanted.
    pub const NONE: Self = Self {
        members_online: 0,
        members: 0,
    };
    /// A filter that is not shared is wanted.
    pub const PLAIN: Self = Self {
        members_online: 1,
        members: 1,
    };
}

/// One shard in the rotation.
#[derive(Clone, Copy, Debug)]
struct Turn {
    shard: ShardId,
    interest: Interest,
    /// How much this shard is due: grows by its members with every message and falls by all members
    /// when it is chosen (smooth weighted round robin).
    due: i64,
}

/// Members and rotation of one `$share/ShareName/Topic Filter`.
#[derive(Debug, Default)]
pub(super) struct Shared {
    /// Groups are counted.
    number: u64,
    /// Those online come first.
    members: Subscribers,
    online: usize,
    /// Where the search for the next member begins.
    next: usize,
    /// Shards with members, this one too. Begins with this shard and goes on in a circle, so that
    /// shards that are equally due do not all choose the same one.
    turns: SmallVec<[Turn; 2]>,
}

/// What a membership call did.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct MemberChange {
    pub(super) existed: bool,
    /// The counts that other shards know are no longer right.
    pub(super) announce: bool,
}

impl Shared {
    pub(super) fn new(number: u64) -> Self {
        Self {
            number,
            ..Self::default()
        }
    }

    pub(super) const fn number(&self) -> u64 {
        self.number
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// Members of this shard.
    pub(super) fn interest(&self) -> Interest {
        Interest {
            members_online: self.online as u32,
            members: self.members.len() as u32,
        }
    }

    pub(super) fn member(&self, session: SessionKey) -> Option<Subscriber> {
        let position = self.members.position(session)?;
        self.members.as_slice().get(position).copied()
    }

    pub(super) fn subscribe(
        &mut self,
        own: ShardId,
        subscriber: Subscriber,
        online: bool,
        state: &ahash::RandomState,
    ) -> MemberChange {
        let before = self.interest();
        let existed = match self.members.position(subscriber.session) {
            Some(position) => {
                self.members.replace(position, subscriber);
                self.move_member(position, online);
                true
            }
            None => {
                self.members.push(subscriber, state);
                self.move_member(self.members.len() - 1, online);
                false
            }
        };
        MemberChange {
            existed,
            announce: self.update_own(own, before),
        }
    }

    /// `None`: the Session is not a member.
    pub(super) fn unsubscribe(&mut self, own: ShardId, session: SessionKey) -> Option<bool> {
        let before = self.interest();
        let position = self.members.position(session)?;
        self.move_member(position, false);
        let position = self.members.position(session)?;
        self.members.swap_remove(position);
        Some(self.update_own(own, before))
    }

    pub(super) fn set_online(&mut self, own: ShardId, session: SessionKey, online: bool) -> bool {
        let before = self.interest();
        let Some(position) = self.members.position(session) else {
            return false;
        };
        self.move_member(position, online);
        self.update_own(own, before)
    }

    /// Takes over what `shard` says of its members; whether that is news.
    pub(super) fn set_interest(
        &mut self,
        own: ShardId,
        shard: ShardId,
        interest: Interest,
    ) -> bool {
        let distance = |shard: ShardId| shard.0.wrapping_sub(own.0);
        let found = self
            .turns
            .iter()
            .position(|turn| distance(turn.shard) >= distance(shard));
        let position = found.unwrap_or(self.turns.len());
        let known = self
            .turns
            .get_mut(position)
            .filter(|turn| turn.shard == shard);
        match known {
            Some(turn) if turn.interest == interest => return false,
            Some(_) if interest.members == 0 => drop(self.turns.remove(position)),
            Some(turn) => turn.interest = interest,
            None if interest.members == 0 => return false,
            None => self.turns.insert(
                position,
                Turn {
                    shard,
                    interest,
                    due: 0,
                },
            ),
        }
        // A debt from when the group was larger must not keep a shard waiting for longer than one
        // round of the group as it is.
        let bound: i64 = self
            .turns
            .iter()
            .map(|turn| i64::from(turn.interest.members))
            .sum();
        self.turns
            .iter_mut()
            .for_each(|turn| turn.due = turn.due.clamp(-bound, bound));
        true
    }

    /// The shard whose turn it is, passing over `not`, a member here. Shards with members online go
    /// before shards without.
    pub(super) fn pick_shard(&mut self, own: ShardId, not: Option<SessionKey>) -> Option<ShardId> {
        let not = not.and_then(|session| self.members.position(session));
        let without = match not {
            Some(position) if position < self.online => Interest::PLAIN,
            Some(_) => Interest {
                members_online: 0,
                members: 1,
            },
            None => Interest::NONE,
        };
        let any_online = self.turns.iter().any(|turn| {
            let without = if turn.shard == own {
                without.members_online
            } else {
                0
            };
            turn.interest.members_online > without
        });
        let mut total = 0;
        let mut best: Option<usize> = None;
        for index in 0..self.turns.len() {
            let turn = self.turns[index];
            let without = if turn.shard == own {
                without
            } else {
                Interest::NONE
            };
            let weight = if any_online {
                turn.interest.members_online - without.members_online
            } else {
                turn.interest.members - without.members
            };
            if weight == 0 {
                continue;
            }
            total += i64::from(weight);
            self.turns[index].due += i64::from(weight);
            if best.is_none_or(|best| self.turns[index].due > self.turns[best].due) {
                best = Some(index);
            }
        }
        let best = &mut self.turns[best?];
        best.due -= total;
        Some(best.shard)
    }

    /// The member of this shard whose turn it is, passing over `not`.
    pub(super) fn pick_member(&mut self, not: Option<SessionKey>) -> Option<Subscriber> {
        let members = self.members.as_slice();
        let (online, offline) = members.split_at(self.online);
        let (chosen, next) =
            next_of(online, self.next, not).or_else(|| next_of(offline, self.next, not))?;
        self.next = next;
        Some(chosen)
    }

    /// The member of this shard whose turn it is among those that `may` be picked.
    pub(super) fn pick_member_of(
        &mut self,
        mut may: impl FnMut(SessionKey) -> bool,
    ) -> Option<Subscriber> {
        let (online, offline) = self.members.as_slice().split_at(self.online);
        let next = self.next;
        let mut find = |members: &[Subscriber]| {
            let count = members.len();
            (0..count).find_map(|step| {
                let index = (next + step) % count;
                may(members[index].session).then_some((members[index], (index + 1) % count))
            })
        };
        let (chosen, next) = find(online).or_else(|| find(offline))?;
        self.next = next;
        Some(chosen)
    }

    /// The first shard behind `after`, in a circle over all shards, that has members.
    pub(super) fn next_shard(&self, after: ShardId) -> Option<ShardId> {
        let distance = |turn: &&Turn| turn.shard.0.wrapping_sub(after.0).wrapping_sub(1);
        let turn = self.turns.iter().min_by_key(distance)?;
        Some(turn.shard)
    }

    /// Moves the member at `position` to where members that are `online` or not belong.
    fn move_member(&mut self, position: usize, online: bool) {
        match (position < self.online, online) {
            (false, true) => {
                self.members.swap(position, self.online);
                self.online += 1;
            }
            (true, false) => {
                self.online -= 1;
                self.members.swap(position, self.online);
            }
            _ => {}
        }
    }

    fn update_own(&mut self, own: ShardId, before: Interest) -> bool {
        let interest = self.interest();
        before != interest && self.set_interest(own, own, interest)
    }
}

/// The first of `members` from `next` on, around the end, that is not `not`; and where to begin next.
fn next_of(
    members: &[Subscriber],
    next: usize,
    not: Option<SessionKey>,
) -> Option<(Subscriber, usize)> {
    let count = members.len();
    // Two steps are enough, because only one member can be passed over.
    (0..count.min(2)).find_map(|step| {
        let index = (next + step) % count;
        let member = members[index];
        (Some(member.session) != not).then_some((member, (index + 1) % count))
    })
}

#[cfg(test)]
mod tests {
    use super::{Interest, Shared};
    use crate::codec::SubscriptionOptions;
    use crate::key::{SessionKey, ShardId};
    use crate::router::subscribers::Subscriber;
    use std::collections::BTreeMap;

    const OWN: ShardId = ShardId(1);

    fn session(index: u32) -> SessionKey {
        SessionKey {
            index,
            generation: 0,
        }
    }

    fn join(shared: &mut Shared, index: u32, online: bool) -> bool {
        let session = session(index);
        let options = SubscriptionOptions::default();
        let subscriber = Subscriber {
            session,
            identifier: None,
            options,
        };
        let state = ahash::RandomState::with_seeds(1, 2, 3, 4);
        shared.subscribe(OWN, subscriber, online, &state).announce
    }

    fn remote(members_online: u32, members: u32) -> Interest {
        Interest {
            members_online,
            members,
        }
    }

    #[test]
    fn shards_get_their_share_and_stay_within_one_round() {
        let mut shared = Shared::default();
        assert!((0..3).all(|index| join(&mut shared, index, true)));
        assert!(shared.set_interest(OWN, ShardId(0), remote(1, 1)));
        assert!(shared.set_interest(OWN, ShardId(7), remote(5, 9)));
        let mut picks = BTreeMap::<u16, u32>::new();
        for round in 1..=100 {
            for _ in 0..9 {
                let shard = shared.pick_shard(OWN, None).expect("there are members");
                *picks.entry(shard.0).or_default() += 1;
            }
            assert_eq!(
                picks,
                BTreeMap::from([(0, round), (1, round * 3), (7, round * 5)])
            );
        }
    }

    #[test]
    fn equal_shards_begin_with_their_own() {
        for own in (0..4).map(ShardId) {
            let mut shared = Shared::default();
            for shard in (0..4).map(ShardId) {
                shared.set_interest(own, shard, remote(1, 1));
            }
            let picks: Vec<_> = (0..4)
                .filter_map(|_| shared.pick_shard(own, None))
                .collect();
            let expected: Vec<_> = (0..4).map(|step| ShardId((own.0 + step) % 4)).collect();
            // After the own shard come those above it, then around.
            assert_eq!(picks, expected);
        }
    }

    #[test]
    fn online_members_go_first_wherever_they_are() {
        let mut shared = Shared::default();
        join(&mut shared, 0, false);
        shared.set_interest(OWN, ShardId(2), remote(1, 3));
        assert!((0..8).all(|_| shared.pick_shard(OWN, None) == Some(ShardId(2))));
        shared.set_interest(OWN, ShardId(2), remote(0, 3));
        let own = (0..8)
            .filter(|_| shared.pick_shard(OWN, None) == Some(OWN))
            .count();
        assert_eq!(own, 2);
        assert!(shared.set_online(OWN, session(0), true));
        assert!(!shared.set_online(OWN, session(0), true));
        assert!((0..8).all(|_| shared.pick_shard(OWN, None) == Some(OWN)));
    }

    #[test]
    fn members_take_turns_and_one_can_be_passed_over() {
        let mut shared = Shared::default();
        for index in 0..3 {
            join(&mut shared, index, true);
        }
        join(&mut shared, 3, false);
        let mut pick = |not| shared.pick_member(not).map(|member| member.session.index);
        assert_eq!(
            [pick(None), pick(None), pick(None), pick(None)],
            [0, 1, 2, 0].map(Some)
        );
        assert!((0..9).all(|_| pick(Some(session(1))) != Some(1)));
        for index in 0..3 {
            shared.set_online(OWN, session(index), false);
        }
        let mut seen: Vec<_> = (0..4)
            .filter_map(|_| shared.pick_member(None))
            .map(|it| it.session.index)
            .collect();
        seen.sort_unstable();
        assert_eq!(seen, [0, 1, 2, 3]);
    }

    #[test]
    fn the_only_member_cannot_be_passed_over() {
        let mut shared = Shared::default();
        join(&mut shared, 0, true);
        assert_eq!(shared.pick_shard(OWN, Some(session(0))), None);
        assert_eq!(shared.pick_member(Some(session(0))), None);
        assert_eq!(shared.unsubscribe(OWN, session(0)), Some(true));
        assert_eq!(shared.unsubscribe(OWN, session(0)), None);
        assert!(shared.is_empty());
    }

    #[test]
    fn a_shard_that_shrinks_is_not_kept_waiting() {
        let mut shared = Shared::default();
        join(&mut shared, 0, true);
        shared.set_interest(OWN, ShardId(2), remote(1000, 1000));
        for _ in 0..999 {
            shared.pick_shard(OWN, None);
        }
        shared.set_interest(OWN, ShardId(2), remote(1, 1));
        let own = (0..20)
            .filter(|_| shared.pick_shard(OWN, None) == Some(OWN))
            .count();
        assert!((8..=12).contains(&own), "{own} of 20");
    }
}
