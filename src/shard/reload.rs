//! The configuration was read again: everybody is told, as many as one turn has time for.
//!
//! The new settings hold at once. A connection or a Session that has not been told yet is told before anything else is done
//! with it, so that nothing is taken from a Client, or sent to it, by the settings of before. When they are replaced while not
//! everybody has been told, those who have not are told of the newest: nothing has to be known of those between.
//!
//! What waits for a Session that is told is in doubt, and so is what waits for one whose Client comes back. It may be any
//! number of messages: some are judged there and then, and the others over many turns.
//!
//! # Always true
//! - What is read of a Client, or was waiting for it and leaves, is judged by the settings that hold.
//! - A Session that has not been told remembers its standing in rules that hold no more, which do not mistake it for theirs.
//! - A connection whose mount point holds no more is sent nothing that was published: what leaves it loses as many bytes as
//!   the one that it has.
//! - A Session whose oldest message is in doubt is among those that are gone on with.

#![forbid(unsafe_code)]

use std::collections::BTreeSet;
use std::ops::Bound;
use std::sync::Arc;

use super::Shard;
use super::clients::Clients;
use super::connection::Connection;
use super::effects::Effects;
use super::notice::DisconnectCause;
use super::replay::Budget;
use super::slab::{Key, Slab};
use super::timers::Slot;
use crate::auth::Credential;
use crate::codec::ReasonCode;
use crate::key::{ConnectionKey, SessionKey};
use crate::limits::Limits;
use crate::origin::ListenerId;
use crate::policy::Settings;
use crate::time::Instant;

/// Connections that are told, or places that are seen to be empty, in the time of a step.
const PLACES_A_STEP: usize = 16;
/// Waiting messages that are judged in the time of a step.
const MESSAGES_A_STEP: usize = 4;
/// Waiting messages of one Session that are judged at once.
const MESSAGES_AT_ONCE: usize = 64;
/// What the end of a connection takes, in steps.
const END_STEPS: usize = 8;

/// Who has still to be told, and what is in doubt.
#[derive(Debug, Default)]
pub(super) struct Reload {
    /// The Receive Maximum that connections which have still to be told were told; zero: any number. If they are not alike,
    /// the largest, since nobody is to lose its connection for what it was allowed.
    receive_maximum: u16,
    connections: Round<ConnectionKey>,
    remounted: Option<Remounted>,
    sessions: Round<SessionKey>,
    /// Those among them for whom all that waits has been in doubt since the settings hold.
    doubted_early: BTreeSet<SessionKey>,
    /// Those for whom something waits that is in doubt.
    doubted: BTreeSet<SessionKey>,
    /// The one of them that was gone on with last.
    last: Option<SessionKey>,
    budget: Budget,
}

/// Connections end because of their mount point.
#[derive(Debug, Default)]
struct Remounted {
    /// Those that came before have one that holds no more.
    listeners: BTreeSet<ListenerId>,
    connections: Round<ConnectionKey>,
}

/// A way through a table that changes meanwhile, round and round.
#[derive(Debug)]
struct Round<K> {
    /// Slots that were there when it began.
    slots: u32,
    /// Where it goes on.
    next: u32,
    /// Slots that it has not come to.
    left: u32,
    /// Whose turn came early, in those.
    told: BTreeSet<K>,
}

impl<K> Default for Round<K> {
    fn default() -> Self {
        Self {
            slots: 0,
            next: 0,
            left: 0,
            told: BTreeSet::new(),
        }
    }
}

impl<K: Key + Ord> Round<K> {
    /// Everybody who is there has to be told, from where it is on: so those at the end are told as well, however often it
    /// begins.
    fn begin(&mut self, slots: usize) {
        self.slots = slots as u32;
        self.left = self.slots;
        self.told.clear();
    }

    const fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Whether this one has still to be told.
    fn is_due(&self, key: K) -> bool {
        let index = key.index();
        let behind = match index.checked_sub(self.next) {
            Some(behind) => behind,
            None => self.slots - self.next + index,
        };
        index < self.slots && behind < self.left && !self.told.contains(&key)
    }

    /// The same. It counts as told from now on.
    fn tell(&mut self, key: K) -> bool {
        self.is_due(key) && self.told.insert(key)
    }

    /// Goes on by one slot: who is in it, if somebody is who has still to be told. `None` at the end.
    fn next<T>(&mut self, table: &Slab<K, T>) -> Option<Option<K>> {
        self.left = self.left.checked_sub(1)?;
        let index = self.next;
        self.next = if index + 1 < self.slots { index + 1 } else { 0 };
        let key = table.key_at(index);
        Some(key.filter(|key| !self.told.remove(key)))
    }
}

impl Reload {
    /// Whether everybody has been told.
    const fn is_told(&self) -> bool {
        self.connections.is_over() && self.remounted.is_none() && self.sessions.is_over()
    }

    /// The next Session for whom something waits that is in doubt.
    fn next_doubted(&mut self) -> Option<SessionKey> {
        let behind = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.doubted.range((behind, Bound::Unbounded));
        self.last = rest.next().or_else(|| self.doubted.first()).copied();
        self.last
    }

    #[cold]
    #[inline(never)]
    fn has_moved(&self, key: ConnectionKey, listener: ListenerId) -> bool {
        let remounted = self.remounted.as_ref();
        remounted.is_some_and(|it| it.listeners.contains(&listener) && it.connections.is_due(key))
    }
}

/// Whether this connection ends because of its mount point, which holds no more.
#[inline]
pub(super) fn has_moved(
    reload: &Option<Box<Reload>>,
    key: ConnectionKey,
    connection: &Connection,
) -> bool {
    let reload = reload.as_ref();
    reload.is_some_and(|reload| reload.has_moved(key, connection.listener))
}

/// Waiting messages of one Session that are judged at once, or denied when they would be sent again.
pub(super) fn judged_at_once(limits: &Limits) -> usize {
    limits.ending_steps_max.clamp(1, MESSAGES_AT_ONCE)
}

impl Clients {
    /// A Session is dealt with by the settings that hold, whatever it was by those before.
    pub(super) fn mark_told(&mut self, session: SessionKey) {
        if let Some(reload) = &mut self.reload {
            reload.sessions.tell(session);
        }
    }

    /// Whether connections may have a mount point that holds no more.
    #[inline]
    pub(super) fn is_remounting(&self) -> bool {
        let reload = self.reload.as_ref();
        reload.is_some_and(|reload| reload.remounted.is_some())
    }

    /// A Session is to be gone on with in the next turn.
    #[cold]
    #[inline(never)]
    pub(super) fn list_doubted(&mut self, session: SessionKey) {
        let reload = self.reload.get_or_insert_default();
        reload.doubted.insert(session);
    }

    /// Judges some of what is in doubt of what waits for a Session. Whatever is left has its turn. At how many messages it
    /// looked.
    fn judge_some(&mut self, session: SessionKey) -> usize {
        let looked_at = self.judge(session, judged_at_once(&self.limits));
        let member = self.members.get(session);
        if member.is_some_and(|member| member.session.queue.doubted() > 0) {
            self.list_doubted(session);
        }
        looked_at
    }

    /// The same, and all that waits is in doubt from now on.
    pub(super) fn doubt_and_judge(&mut self, session: SessionKey) -> usize {
        self.doubt(session);
        self.judge_some(session)
    }

    /// What waits for a Client is about to be sent: some of what comes first is judged, if it is in doubt. Its connection does
    /// not end of that, so that this can be done on the way. False if nothing is to be sent because it is about to end.
    #[cold]
    #[inline(never)]
    pub(super) fn judge_first(&mut self, session: SessionKey) -> bool {
        let Some(reload) = &mut self.reload else {
            return true;
        };
        let is_told = !reload.sessions.is_due(session) || !self.guarded;
        let is_doubted = is_told || !reload.doubted_early.insert(session);
        if !is_doubted {
            self.doubt(session);
        }
        let Some(member) = self.members.get(session) else {
            return true;
        };
        let (queue, connection) = (&member.session.queue, member.session.connection);
        if queue.doubted() > 0 && queue.ready().is_none() {
            self.judge_some(session);
        }
        let connection = connection.and_then(|key| Some((key, self.connections.get(key)?)));
        connection.is_none_or(|(key, connection)| !has_moved(&self.reload, key, connection))
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
        let clients = &mut self.clients;
        let before = clients.settings.clone();
        clients.configure(settings);
        let settings = &clients.settings;
        let reload = clients.reload.get_or_insert_default();

        let told = before.policy.limits.max_inflight_messages;
        let told_others = match reload.connections.is_over() {
            true => told,
            false => reload.receive_maximum,
        };
        reload.receive_maximum = match (told, told_others) {
            (0, _) | (_, 0) => 0,
            (one, other) => one.max(other),
        };
        reload.connections.begin(clients.connections.slots());

        let remounted = settings.remounted_since(&before);
        if !remounted.is_empty() {
            let all = reload.remounted.get_or_insert_default();
            all.listeners.extend(remounted);
            all.connections.begin(clients.connections.slots());
        }
        if !settings.admits_as(&before) {
            reload.sessions.begin(clients.members.slots());
            reload.doubted_early.clear();
            self.router.forget_matches();
        }
        self.clients.look_at_runs();
        // Nothing is sent before it is known whether this turn brings other settings.
        self.tell_some(now, effects);
    }

    /// Tells as many, and judges as much, as the turn has time for.
    pub(super) fn continue_reload(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.ending_steps_max;
        let Some(reload) = &mut self.clients.reload else {
            return;
        };
        let left = reload.budget.left(now, steps_max);
        // Half of it each, as long as there is both.
        let for_doubted = match reload.is_told() {
            true => left,
            false => left.div_ceil(2),
        };
        let steps = self.judge_doubted(for_doubted, now, effects);
        if let Some(reload) = &mut self.clients.reload {
            reload.budget.spend(steps);
        }
        self.tell_some(now, effects);
    }

    /// Tells as many as the turn has time for, and one at least.
    fn tell_some(&mut self, now: Instant, effects: &mut Effects) {
        let steps_max = self.clients.limits.ending_steps_max;
        let Some(reload) = &mut self.clients.reload else {
            return;
        };
        let left = reload.budget.left(now, steps_max).max(1);
        let steps = self.reload_some(left, now, effects);
        let Some(reload) = &mut self.clients.reload else {
            return;
        };
        reload.budget.spend(steps);
        if reload.is_told() && reload.doubted.is_empty() {
            self.clients.reload = None;
        } else {
            self.arm_next_turn(Slot::Reload, now);
        }
    }

    /// Judges what waits and is in doubt, for about `steps_max` steps; how many it took.
    fn judge_doubted(&mut self, steps_max: usize, now: Instant, effects: &mut Effects) -> usize {
        let mut steps = 0;
        while steps < steps_max
            && let Some(reload) = &mut self.clients.reload
            && let Some(session) = reload.next_doubted()
        {
            reload.doubted.remove(&session);
            steps += 1 + self.clients.judge_some(session) / MESSAGES_A_STEP;
            // Nothing else may come that it would be sent because of.
            self.send_pending(session, now, effects);
            self.end_frame();
        }
        steps
    }

    /// Tells who has not been told, for about `steps_max` steps; how many it took.
    fn reload_some(&mut self, steps_max: usize, now: Instant, effects: &mut Effects) -> usize {
        let (mut steps, mut places) = (0, 0);
        // All rounds go on side by side: reloads that follow each other closely begin them anew before they are through.
        while steps < steps_max
            && let Some(reload) = &mut self.clients.reload
            && !reload.is_told()
        {
            places += 1;
            if places % PLACES_A_STEP == 0 {
                steps += 1;
            }
            let connection = reload.connections.next(&self.clients.connections);
            let session = reload.sessions.next(&self.clients.members);
            let remounted = reload.remounted.as_mut();
            let remounted = remounted.map(|it| it.connections.next(&self.clients.connections));
            if remounted == Some(None) {
                reload.remounted = None;
                self.clients.look_at_runs();
            }
            if let Some(Some(key)) = connection {
                self.reload_connection(key);
            }
            if let Some(Some(Some(key))) = remounted {
                steps += self.reload_mount_point(key, now, effects);
            }
            if let Some(Some(session)) = session {
                steps += self.reload_session(session, now, effects);
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
        let session = connection.and_then(|connection| connection.session());
        if let Some(reload) = &mut self.clients.reload
            && let Some(remounted) = &mut reload.remounted
            && remounted.connections.tell(key)
        {
            self.reload_mount_point(key, now, effects);
        }
        if let Some(session) = session
            && let Some(reload) = &mut self.clients.reload
            && reload.sessions.tell(session)
        {
            self.reload_session(session, now, effects);
        }
    }

    /// Ends a connection whose mount point holds no more: what it has subscribed to is below that. How many steps that took.
    fn reload_mount_point(
        &mut self,
        key: ConnectionKey,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let (Some(reload), Some(connection)) =
            (&self.clients.reload, self.clients.connections.get(key))
        else {
            return 0;
        };
        let remounted = reload.remounted.as_ref();
        let has_moved = remounted.is_some_and(|it| it.listeners.contains(&connection.listener));
        if !has_moved || connection.session().is_none() {
            return 0;
        }
        let cause = DisconnectCause::Server(ReasonCode::AdministrativeAction);
        self.disconnect(key, cause, now, effects);
        self.end_frame();
        END_STEPS
    }

    fn reload_connection(&mut self, key: ConnectionKey) {
        let clients = &mut self.clients;
        let (Some(reload), Some(connection)) = (&clients.reload, clients.connections.get_mut(key))
        else {
            return;
        };
        // Of files that may have been replaced: its CONNECT asks again.
        connection.verdict = None;
        let told = reload.receive_maximum;
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
        let (Some(reload), Some(member)) = (&mut clients.reload, clients.members.get(session))
        else {
            return 0;
        };
        let is_doubted = reload.doubted_early.remove(&session);
        let identity = member.session.identity.clone();
        let credential = member.admitted().credential;
        let connection = member.session.connection;
        clients.identify(session, identity.clone());
        let mut steps = 1;
        if clients.guarded && !is_doubted {
            steps += clients.doubt_and_judge(session) / MESSAGES_A_STEP;
        }
        // As Mosquitto does with Clients that could not log in again.
        if let Some(key) = connection
            && !self.is_still_admitted(key, session, credential)
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
mod tests;
