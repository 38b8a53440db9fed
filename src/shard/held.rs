//! Acknowledgements that wait until what they promise is stored, here and on every other shard that
//! must remember.
//!
//! Each connection holds its own, in the order in which they will leave, so that PUBACK and PUBREC
//! keep the order of the PUBLISH packets they answer [MQTT-4.6.0-2] [MQTT-4.6.0-3]. What promises
//! nothing does not wait, unless it stands behind something that does.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use smallvec::SmallVec;

use super::Shard;
use super::clients::mark_dirty;
use super::connection::{Forgotten, Pause};
use super::effects::Effects;
use super::store::{Kept, Reply, Waiter};
use super::subscribe::{Answer, ReplayRequest};
use crate::codec::{self, ReasonCode};
use crate::journal::Lsn;
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::limits::HELD_ACKNOWLEDGEMENTS_MAX;
use crate::message::ProtocolVersion;
use crate::router::FilterKey;
use crate::time::Instant;

/// What a connection holds back.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// CONNACK is in the outbox, and nothing leaves before this is durable. Zero: it has left. [`SHUT`]: it waits for
    /// something else.
    pub(super) gate: Lsn,
    waiting: VecDeque<Waiting>,
    /// SUBACKs among them.
    subacks: usize,
    /// What their Topic Filters have asked for and is not to come, as they have ended since.
    forgotten: Forgotten,
    /// It is among those that are looked at when something is durable.
    is_listed: bool,
}

/// A place in the log that is never durable.
const SHUT: Lsn = Lsn::MAX;

#[derive(Debug)]
struct Waiting {
    /// What must be durable here; zero: nothing.
    lsn: Lsn,
    /// What other shards must have answered; zero: nothing.
    ticket: u64,
    packet: HeldPacket,
}

impl Waiting {
    /// Other shards have stored it. What was written down of a QoS 2 exchange by then is waited for.
    fn answered(&mut self, position: Lsn) {
        self.ticket = 0;
        if matches!(self.packet, HeldPacket::PubRec(..)) {
            self.lsn = self.lsn.max(position);
        }
    }
}

/// A packet that waits.
#[derive(Debug)]
pub(super) enum HeldPacket {
    PubAck(PacketIdentifier, ReasonCode),
    PubRec(PacketIdentifier, ReasonCode),
    PubRel(PacketIdentifier, ReasonCode),
    PubComp(PacketIdentifier, ReasonCode),
    SubAck(Box<Answer>),
    UnsubAck(PacketIdentifier, Box<SmallVec<[ReasonCode; 4]>>),
}

impl Held {
    /// Nothing comes any more because of this subscription, which was asked for before so many requests, though its SUBACK
    /// may still wait.
    pub(super) fn forget_replays(&mut self, filter: FilterKey, asked_before: u64) {
        if self.subacks > 0 {
            self.forgotten.insert(filter, asked_before);
        }
    }

    /// Whether nothing is to come because of this request of a SUBACK that was held.
    pub(super) fn is_forgotten(&self, request: &ReplayRequest) -> bool {
        self.forgotten.contains(request)
    }

    /// What is not to come of a SUBACK that was held, for who goes through it over many turns.
    pub(super) fn forgotten_for_many(&mut self) -> Option<Forgotten> {
        if self.forgotten.is_empty() {
            None
        } else if self.subacks > 0 {
            Some(self.forgotten.clone())
        } else {
            Some(std::mem::take(&mut self.forgotten))
        }
    }
}

impl Shard {
    /// Sends `packet` once `lsn` is durable here, `ticket` is answered, and what was held before it
    /// has left.
    pub(super) fn hold(
        &mut self,
        key: ConnectionKey,
        lsn: Lsn,
        ticket: u64,
        packet: HeldPacket,
        now: Instant,
        effects: &mut Effects,
    ) {
        let is_ready = self.is_ready(lsn, ticket);
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let is_first = connection.held().is_none_or(|held| held.waiting.is_empty());
        if is_ready && is_first {
            return self.release(key, packet, now, effects);
        }
        let held = connection.make_rare().held.get_or_insert_default();
        held.subacks += usize::from(matches!(packet, HeldPacket::SubAck(_)));
        held.waiting.push_back(Waiting {
            lsn,
            ticket,
            packet,
        });
        if held.waiting.len() >= HELD_ACKNOWLEDGEMENTS_MAX
            && !connection.pause.contains(Pause::STORE)
        {
            connection.pause.set(Pause::STORE);
            self.clients.counters.paused_held_full += 1;
        }
        if is_first {
            self.list_holding(key, lsn);
        }
    }

    // HOT: per PUBLISH that nobody stores.
    /// Sends an acknowledgement that waits for nothing, unless the connection holds something, behind
    /// which it belongs. Whether it did.
    #[inline]
    pub(super) fn acknowledge_at_once(
        &mut self,
        key: ConnectionKey,
        effects: &mut Effects,
        encode: impl FnOnce(ProtocolVersion, &mut Vec<u8>),
    ) -> bool {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return true;
        };
        let held = connection.held();
        if held.is_some_and(|held| !held.waiting.is_empty()) {
            return false;
        }
        encode(connection.version, &mut connection.outbox);
        self.clients.counters.packets_sent += 1;
        mark_dirty(connection, key, effects);
        true
    }

    fn is_ready(&self, lsn: Lsn, ticket: u64) -> bool {
        let Some(store) = &self.clients.store else {
            return true;
        };
        store.journal.is_durable(lsn) && (ticket == 0 || store.tickets.is_answered(ticket))
    }

    /// Sends a packet that has waited long enough.
    fn release(
        &mut self,
        key: ConnectionKey,
        packet: HeldPacket,
        now: Instant,
        effects: &mut Effects,
    ) {
        if let HeldPacket::SubAck(answer) = packet {
            return self.send_answer(key, *answer, now, effects);
        }
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let (version, out) = (connection.version, &mut connection.outbox);
        match packet {
            HeldPacket::PubAck(identifier, code) => {
                codec::encode_puback(version, identifier, code, out);
            }
            HeldPacket::PubRec(identifier, code) => {
                codec::encode_pubrec(version, identifier, code, out);
            }
            HeldPacket::PubRel(identifier, code) => {
                codec::encode_pubrel(version, identifier, code, out);
            }
            HeldPacket::PubComp(identifier, code) => {
                codec::encode_pubcomp(version, identifier, code, out);
            }
            HeldPacket::UnsubAck(identifier, codes) => {
                codec::encode_unsuback(version, identifier, &codes, out);
            }
            HeldPacket::SubAck(_) => {}
        }
        self.clients.counters.packets_sent += 1;
        mark_dirty(connection, key, effects);
    }

    /// What a connection holds is looked at again once `lsn` is durable here, if it is not.
    fn list_holding(&mut self, key: ConnectionKey, lsn: Lsn) {
        if let Some(store) = &mut self.clients.store
            && !store.journal.is_durable(lsn)
            && let Some(connection) = self.clients.connections.get_mut(key)
            && let Some(held) = connection.held_mut()
            && !std::mem::replace(&mut held.is_listed, true)
        {
            store.holding.push(key);
        }
    }

    /// Sends what a connection has held long enough. Whether what comes next waits for this shard's disk.
    fn release_ready(&mut self, key: ConnectionKey, now: Instant, effects: &mut Effects) -> bool {
        loop {
            let Some(connection) = self.clients.connections.get_mut(key) else {
                return false;
            };
            let Some(held) = connection.held_mut() else {
                return false;
            };
            let Some(first) = held.waiting.front_mut() else {
                return false;
            };
            if let Some(store) = &self.clients.store
                && first.ticket != 0
                && store.tickets.is_answered(first.ticket)
            {
                // The answer came for an earlier connection of this Client.
                first.answered(store.journal.position());
            }
            let (lsn, ticket) = (first.lsn, first.ticket);
            if !self.is_ready(lsn, ticket) {
                self.list_holding(key, lsn);
                let store = self.clients.store.as_ref();
                return store.is_some_and(|store| !store.journal.is_durable(lsn));
            }
            let Some(connection) = self.clients.connections.get_mut(key) else {
                return false;
            };
            let Some(held) = connection.held_mut() else {
                return false;
            };
            let Some(first) = held.waiting.pop_front() else {
                return false;
            };
            let is_suback = matches!(first.packet, HeldPacket::SubAck(_));
            held.subacks -= usize::from(is_suback);
            let has_room = held.waiting.len() <= HELD_ACKNOWLEDGEMENTS_MAX / 2;
            let is_last_suback = is_suback && held.subacks == 0;
            if has_room {
                self.resume(key, Pause::STORE, effects);
            }
            self.release(key, first.packet, now, effects);
            if is_last_suback
                && let Some(connection) = self.clients.connections.get_mut(key)
                && let Some(held) = connection.held_mut()
            {
                held.forgotten = Forgotten::default();
            }
        }
    }

    /// Nothing leaves on a connection, CONNACK first, before `lsn` is durable. What waits for its Session is not
    /// begun with: it would count as sent, should the connection end first.
    pub(super) fn close_gate(&mut self, key: ConnectionKey, lsn: Lsn) {
        let store = self.clients.store.as_ref();
        if store.is_none_or(|store| store.journal.is_durable(lsn)) {
            return;
        }
        if let Some(connection) = self.clients.connections.get_mut(key) {
            let rare = connection.make_rare();
            rare.held.get_or_insert_default().gate = lsn;
            rare.resend.get_or_insert_default();
        }
        self.list_holding(key, lsn);
    }

    /// The same before [`Shard::open_gate`] is told to let it leave.
    pub(super) fn shut_gate(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.clients.connections.get_mut(key) {
            let rare = connection.make_rare();
            rare.held.get_or_insert_default().gate = SHUT;
            rare.resend.get_or_insert_default();
        }
    }

    /// A gate that was shut waits for nothing but that `lsn` is durable. Whether it is.
    pub(super) fn open_gate(
        &mut self,
        key: ConnectionKey,
        lsn: Lsn,
        effects: &mut Effects,
    ) -> bool {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return false;
        };
        let Some(held) = connection.held_mut().filter(|held| held.gate == SHUT) else {
            return false;
        };
        held.gate = 0;
        self.close_gate(key, lsn);
        let connection = self.clients.connections.get_mut(key);
        let Some(connection) = connection.filter(|connection| !connection.is_gated()) else {
            return false;
        };
        mark_dirty(connection, key, effects);
        true
    }

    /// Everything up to `lsn` is as safe as was promised.
    pub fn handle_durable(&mut self, lsn: Lsn, now: Instant, effects: &mut Effects) {
        let Some(store) = &mut self.clients.store else {
            return;
        };
        store.set_durable(lsn);
        let mut answers = SmallVec::<[(ShardId, u64); 8]>::new();
        while let Some(&Reply { lsn, to, ticket }) = store.replies.front()
            && store.journal.is_durable(lsn)
        {
            store.replies.pop_front();
            answers.push((to, ticket));
        }
        let mut holding = std::mem::take(&mut store.holding);
        let mut awaiting = std::mem::take(&mut store.awaiting);
        for (to, ticket) in answers {
            self.post_stored(to, ticket);
        }
        holding.retain(|&key| {
            let mut is_gated = false;
            if let Some(connection) = self.clients.connections.get_mut(key)
                && let Some(held) = connection.held_mut()
                && held.gate != 0
            {
                if held.gate <= lsn {
                    held.gate = 0;
                    mark_dirty(connection, key, effects);
                    awaiting.extend(connection.session());
                } else {
                    is_gated = true;
                }
            }
            let is_listed = self.release_ready(key, now, effects) || is_gated;
            if let Some(connection) = self.clients.connections.get_mut(key)
                && let Some(held) = connection.held_mut()
            {
                held.is_listed = is_listed;
            }
            is_listed
        });
        if let Some(store) = &mut self.clients.store {
            // Releasing one thing may have held another.
            holding.append(&mut store.holding);
            store.holding = holding;
        }
        awaiting.sort_unstable();
        awaiting.dedup();
        for &session in &awaiting {
            if let Some(member) = self.clients.members.get_mut(session)
                && let Some(log) = &mut member.session.log
            {
                log.is_awaited = false;
            }
            self.send_pending(session, now, effects);
        }
        if let Some(store) = &mut self.clients.store
            && store.awaiting.is_empty()
        {
            awaiting.clear();
            store.awaiting = awaiting;
        }
        self.advance_settling();
    }

    /// Everything up to `lsn` is on stable storage, whatever was promised.
    pub fn handle_synced(&mut self, lsn: Lsn) {
        if let Some(store) = &mut self.clients.store {
            store.set_synced(lsn);
        }
        self.advance_settling();
        self.advance_syncs();
    }

    /// Another shard has stored what we gave it.
    pub(super) fn handle_stored(&mut self, ticket: u64, now: Instant, effects: &mut Effects) {
        let Some(store) = &mut self.clients.store else {
            return;
        };
        let Some(answered) = store.tickets.answer(ticket) else {
            return;
        };
        // The same message may have come again on a later connection, where it is waited for as well.
        let mut waiting: SmallVec<[ConnectionKey; 2]> = SmallVec::new();
        if let Some(received) = answered.received
            && let Some(member) = self.clients.members.get_mut(received.session)
            && member.session.stored() == Some(received.name)
        {
            waiting.extend(member.session.connection);
            let inbound = &mut member.session.inbound;
            inbound.remove_ticket(ticket);
            if inbound.contains(received.packet_identifier) {
                store.received(received);
            }
        }
        match answered.waiter {
            Waiter::Connection(key) => {
                if !waiting.contains(&key) {
                    waiting.push(key);
                }
            }
            Waiter::Shard { to, ticket, lsn } => self.answer_ticket(to, ticket, lsn),
            Waiter::Session(handed_on) => store.written_elsewhere(Kept::HandedOn(handed_on)),
            Waiter::Will(name) => store.written_elsewhere(Kept::Will(name)),
        }
        self.advance_keeping();
        for key in waiting {
            self.release_answered(key, ticket, now, effects);
        }
        self.advance_settling();
    }

    /// Every shard has answered a ticket that packets of this connection may wait for.
    fn release_answered(
        &mut self,
        key: ConnectionKey,
        ticket: u64,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(store) = &self.clients.store else {
            return;
        };
        let position = store.journal.position();
        let connection = self.clients.connections.get_mut(key);
        if let Some(held) = connection.and_then(|connection| connection.held_mut()) {
            let mut waiting = held.waiting.iter_mut();
            if let Some(waiting) = waiting.find(|waiting| waiting.ticket == ticket) {
                waiting.answered(position);
            }
        }
        self.release_ready(key, now, effects);
    }

    /// Answers a ticket once `lsn` is durable.
    pub(super) fn answer_ticket(&mut self, to: ShardId, ticket: u64, lsn: Lsn) {
        let Some(store) = &mut self.clients.store else {
            return;
        };
        if store.journal.is_durable(lsn) {
            return self.post_stored(to, ticket);
        }
        // They leave in order, and what is asked for now is never asked for before what was.
        let lsn = store.replies.back().map_or(lsn, |last| last.lsn.max(lsn));
        store.replies.push_back(Reply { lsn, to, ticket });
    }

    fn post_stored(&mut self, to: ShardId, ticket: u64) {
        let peer = &mut self.peers[to.index()];
        peer.answer(ticket, &mut self.batches);
        self.ring_is_full |= peer.is_full(self.clients.limits.peer_backlog_max);
    }

    /// What must be durable for everything so far to be.
    pub(super) fn stored_position(&self) -> Lsn {
        self.clients
            .store
            .as_ref()
            .map_or(0, |store| store.journal.position())
    }

    /// Whether a Session is stored.
    pub(super) fn is_session_stored(&self, session: SessionKey) -> bool {
        let member = self.clients.members.get(session);
        member.is_some_and(|member| member.session.is_stored())
    }
}
