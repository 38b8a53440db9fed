//! The configuration was read again: everybody is told, as many as one turn has time for.
//!
//! The new settings hold at once. A connection or a Session that has not been told yet is told before anything else is done
//! with it, so that nothing is taken from a Client, or sent to it, by the settings of before.
//!
//! # Always true
//! - What is read of a Client, or was waiting for it and leaves, is judged by the settings that hold.
//! - A Session that has not been told remembers its standing in rules that hold no more, which do not mistake it for theirs.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use super::Shard;
use super::clients::Clients;
use super::effects::Effects;
use super::notice::DisconnectCause;
use super::replay::Budget;
use super::slab::{Key, Slab};
use super::timers::Slot;
use crate::auth::Credential;
use crate::codec::ReasonCode;
use crate::key::{ConnectionKey, SessionKey};
use crate::policy::Settings;
use crate::time::Instant;

/// Connections that are told, or places that are seen to be empty, in the time of a step.
const PLACES_A_STEP: usize = 16;
/// Waiting messages that are judged in the time of a step.
const MESSAGES_A_STEP: usize = 4;
/// What the end of a connection takes, in steps.
const END_STEPS: usize = 8;

/// Who has still to be told.
#[derive(Debug)]
pub(super) struct Reload {
    before: Arc<Settings>,
    connections: Round<ConnectionKey>,
    sessions: Round<SessionKey>,
    /// Those among them for whom nothing waits any more that is denied now.
    purged: BTreeSet<SessionKey>,
    budget: Budget,
}

/// A way through a table that changes meanwhile.
#[derive(Debug)]
struct Round<K> {
    /// Slots that were there when it began, and that it has not come to.
    slots: Range<u32>,
    /// Whose turn came early, in those.
    told: BTreeSet<K>,
}

impl<K: Key + Ord> Round<K> {
    fn through(slots: usize) -> Self {
        Self {
            slots: 0..slots as u32,
            told: BTreeSet::new(),
        }
    }

    /// Whether this one has still to be told.
    fn is_due(&self, key: K) -> bool {
        self.slots.contains(&key.index()) && !self.told.contains(&key)
    }

    /// The same. It counts as told from now on.
    fn tell(&mut self, key: K) -> bool {
        self.is_due(key) && self.told.insert(key)
    }

    /// Goes on by one slot: who is in it, if somebody is who has still to be told. `None` at the end.
    fn next<T>(&mut self, table: &Slab<K, T>) -> Option<Option<K>> {
        let index = self.slots.next()?;
        let key = table.key_at(index);
        Some(key.filter(|key| !self.told.remove(key)))
    }
}

impl Clients {
    /// A Session is dealt with by the settings that hold, whatever it was by those before.
    pub(super) fn mark_told(&mut self, session: SessionKey) {
        if let Some(reload) = &mut self.reload {
            reload.sessions.tell(session);
        }
    }
}

impl Shard {
    /// The configuration was read again. What is connected stays connected, unless the new rules do
    /// not let it in; what waits and is denied now is dropped.
    pub(super) fn configure(
        &mut self,
        settings: Arc<Settings>,
        now: Instant,
        effects: &mut Effects,
    ) {
        // Whoever has not been told of the one before would not know what has changed since.
        self.reload_some(usize::MAX, now, effects);
        let clients = &mut self.clients;
        let before = clients.settings.clone();
        clients.configure(settings);
        let settings = &clients.settings;
        let sessions = match settings.admits_as(&before) {
            true => 0,
            false => clients.members.slots(),
        };
        // What is on its way to a Client is without the mount point that it had.
        let have_moved = !settings.mounts_as(&before);
        clients.reload = Some(Box::new(Reload {
            before,
            connections: Round::through(clients.connections.slots()),
            sessions: Round::through(sessions),
            purged: BTreeSet::new(),
            budget: Budget::default(),
        }));
        if sessions > 0 {
            self.router.forget_matches();
        }
        if have_moved {
            self.reload_some(usize::MAX, now, effects);
        } else {
            self.continue_reload(now, effects);
        }
    }

    /// Tells as many as the turn has time for.
    pub(super) fn continue_reload(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.ending_steps_max;
        let Some(reload) = &mut self.clients.reload else {
            return;
        };
        let left = reload.budget.left(now, steps_max);
        let steps = self.reload_some(left, now, effects);
        if let Some(reload) = &mut self.clients.reload {
            reload.budget.spend(steps);
            self.arm_next_turn(Slot::Reload, now);
        }
    }

    /// Goes on for about `steps_max` steps; how many it took.
    fn reload_some(&mut self, steps_max: usize, now: Instant, effects: &mut Effects) -> usize {
        let (mut steps, mut places) = (0, 0);
        while steps < steps_max
            && let Some(reload) = &mut self.clients.reload
        {
            places += 1;
            if places % PLACES_A_STEP == 0 {
                steps += 1;
            }
            if let Some(place) = reload.connections.next(&self.clients.connections) {
                if let Some(key) = place {
                    self.reload_connection(key);
                }
            } else if let Some(place) = reload.sessions.next(&self.clients.members) {
                if let Some(session) = place {
                    steps += self.reload_session(session, now, effects);
                }
            } else {
                self.clients.reload = None;
            }
        }
        steps
    }

    /// Something is about to be done with a connection, which may end of that.
    #[cold]
    #[inline(never)]
    pub(super) fn reload_first(&mut self, key: ConnectionKey, now: Instant, effects: &mut Effects) {
        let Some(reload) = &mut self.clients.reload else {
            return;
        };
        if reload.connections.tell(key) {
            self.reload_connection(key);
        }
        let connection = self.clients.connections.get(key);
        if let Some(session) = connection.and_then(|it| it.session())
            && let Some(reload) = &mut self.clients.reload
            && reload.sessions.tell(session)
        {
            self.reload_session(session, now, effects);
        }
    }

    /// What waits for a Client is about to be sent. Its connection does not end of that, so that this can be done on the
    /// way.
    #[cold]
    #[inline(never)]
    pub(super) fn purge_first(&mut self, session: SessionKey) {
        let clients = &mut self.clients;
        if clients.guarded
            && let Some(reload) = &mut clients.reload
            && reload.sessions.is_due(session)
            && reload.purged.insert(session)
        {
            clients.purge(session);
        }
    }

    fn reload_connection(&mut self, key: ConnectionKey) {
        let clients = &mut self.clients;
        let (Some(reload), Some(connection)) = (&clients.reload, clients.connections.get_mut(key))
        else {
            return;
        };
        // Of files that may have been replaced: its CONNECT asks again.
        connection.verdict = None;
        let told = reload.before.policy.limits.max_inflight_messages;
        if connection.session().is_some() && told != clients.limits.max_inflight_messages {
            connection.make_rare().receive_maximum.get_or_insert(told);
        }
        clients.vet(key);
    }

    /// How many steps that took.
    fn reload_session(
        &mut self,
        session: SessionKey,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let clients = &mut self.clients;
        let (Some(reload), Some(member)) = (&clients.reload, clients.members.get(session)) else {
            return 0;
        };
        let before = reload.before.clone();
        let identity = member.session.identity.clone();
        let credential = member.admitted().credential;
        let connection = member.session.connection;
        clients.identify(session, identity.clone());
        let mut steps = 1;
        if clients.guarded {
            steps += clients.purge(session) / MESSAGES_A_STEP;
        }
        // What it subscribed to is below the old one.
        let has_moved = !clients.settings.mounts_alike(&before, identity.listener);
        // As Mosquitto does with Clients that could not log in again.
        if let Some(key) = connection
            && (has_moved || !self.is_still_admitted(key, session, credential))
        {
            let cause = DisconnectCause::Server(ReasonCode::AdministrativeAction);
            self.disconnect(key, cause, now, effects);
            steps += END_STEPS;
        }
        self.end_frame();
        steps
    }

    /// Whether a Client that is connected could be now: its User Name is still good, and the password or
    /// certificate that it was shown with.
    fn is_still_admitted(
        &self,
        key: ConnectionKey,
        session: SessionKey,
        before: Option<Credential>,
    ) -> bool {
        let Some(member) = self.clients.members.get(session) else {
            return false;
        };
        let identity = &member.session.identity;
        let Some(policy) = self.clients.listener(identity.listener) else {
            return false;
        };
        if policy.takes_username_from_certificate() {
            // It may have come with a password, or with nothing, before the listener had TLS.
            let connection = self.clients.connections.get(key);
            let certificate = connection.and_then(|it| it.certificate());
            let name = policy.username_in(certificate);
            return name.is_some() && name == identity.username.as_deref();
        }
        let passwords = policy
            .security
            .as_ref()
            .is_some_and(|security| security.passwords.is_some());
        if passwords && identity.username.is_some() {
            // Without one before, there was no password to give.
            let credential = member.admitted().credential;
            credential.is_some() && credential == before
        } else {
            policy.allow_anonymous
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{Acl, Security};
    use crate::codec::Packet;
    use crate::limits::Limits;
    use crate::message::{ProtocolVersion, QoS};
    use crate::shard::Command;
    use crate::shard::rig::{NOW, Rig, publish};

    const V5: ProtocolVersion = ProtocolVersion::V5;
    const CLIENTS: usize = 600;

    /// As before, but a turn has time for few.
    fn settings() -> Settings {
        Settings::permissive(Limits {
            ending_steps_max: 16,
            ..Limits::default()
        })
    }

    /// The same, and nobody may publish.
    fn read_only() -> Settings {
        let mut settings = settings();
        let acl = Acl::parse("acl", b"topic read #\n").expect("a rule");
        settings.listeners[0].security = Some(Arc::new(Security {
            passwords: None,
            acl: Some(acl),
        }));
        settings
    }

    fn crowd() -> (Rig, Vec<ConnectionKey>) {
        let mut rig = Rig::new();
        let keys = (0..CLIENTS)
            .map(|number| rig.connect(&number.to_string(), V5, u32::MAX))
            .collect();
        (rig, keys)
    }

    fn reload(rig: &mut Rig, settings: Settings) {
        let command = Command::Configure(settings.into());
        rig.shard.handle_command(command, NOW, &mut rig.effects);
    }

    /// Turns until everybody has been told.
    fn turns(rig: &mut Rig) -> usize {
        (1..)
            .find(|&turn| {
                let now = NOW + std::time::Duration::from_micros(turn);
                rig.shard.handle_timeout(now, &mut rig.effects);
                rig.shard.clients.reload.is_none()
            })
            .expect("an end") as usize
    }

    /// What becomes of a message that this Client publishes.
    fn answer(rig: &mut Rig, key: ConnectionKey, identifier: u16) -> ReasonCode {
        rig.feed(key, &publish(V5, QoS::AtLeastOnce, identifier, b"x"));
        let bytes = rig.output(key);
        let header = crate::codec::decode_fixed_header(&bytes, u32::MAX).expect("a packet");
        let body = &bytes[header.expect("a whole one").header_size..];
        match crate::codec::decode(V5, bytes[0], body).expect("a packet") {
            Packet::PubAck(puback) => puback.reason_code,
            Packet::Disconnect(disconnect) => disconnect.reason_code,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_reload_takes_many_turns_and_who_has_not_been_told_is_judged_by_the_new_rules() {
        let (mut rig, keys) = crowd();
        let (first, last) = (keys[0], keys[CLIENTS - 1]);
        assert_eq!(answer(&mut rig, last, 1), ReasonCode::NoMatchingSubscribers);
        reload(&mut rig, read_only());
        assert!(rig.shard.clients.reload.is_some());
        assert_eq!(answer(&mut rig, last, 2), ReasonCode::NotAuthorized);
        assert_eq!(answer(&mut rig, first, 2), ReasonCode::NotAuthorized);
        let new = rig.connect("new", V5, u32::MAX);
        assert_eq!(answer(&mut rig, new, 1), ReasonCode::NotAuthorized);
        // Sixteen connections, or one Session, in the time of a step.
        assert!((38..=42).contains(&turns(&mut rig)));
        for key in [first, last, keys[CLIENTS / 2], new] {
            assert_eq!(answer(&mut rig, key, 3), ReasonCode::NotAuthorized);
        }
    }

    #[test]
    fn a_reload_that_lets_nobody_in_ends_connections_turn_by_turn_and_takes_nothing_more_of_them() {
        let (mut rig, keys) = crowd();
        let mut closed = settings();
        closed.listeners[0].allow_anonymous = false;
        reload(&mut rig, closed);
        let told = rig.effects.closes.len();
        assert!(told < CLIENTS / 4, "{told}");
        let received = rig.shard.counters().publish_received;
        let last = keys[CLIENTS - 1];
        assert_eq!(answer(&mut rig, last, 1), ReasonCode::AdministrativeAction);
        assert_eq!(rig.shard.counters().publish_received, received);
        assert!(turns(&mut rig) > CLIENTS / 4);
        assert_eq!(rig.effects.closes.len(), CLIENTS);
    }

    #[test]
    fn a_reload_before_the_one_before_is_through_leaves_nobody_with_the_rules_of_either() {
        let (mut rig, keys) = crowd();
        reload(&mut rig, read_only());
        let mut fewer = settings();
        fewer.listeners[0].max_qos = QoS::AtMostOnce;
        fewer.policy.limits.max_inflight_messages = 5;
        reload(&mut rig, fewer);
        let last = keys[CLIENTS - 1];
        assert_eq!(answer(&mut rig, last, 1), ReasonCode::NoMatchingSubscribers);
        turns(&mut rig);
        let told = Limits::default().max_inflight_messages;
        for &key in &keys {
            let connection = rig.shard.clients.connections.get(key).expect("it stays");
            assert!(!connection.vetted);
            let rare = connection.rare().expect("what it was told");
            assert_eq!(rare.receive_maximum, Some(told));
        }
    }
}
