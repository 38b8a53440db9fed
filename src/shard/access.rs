//! The one door: every question of who may do what with a topic is asked here.
//!
//! | way | asked | with |
//! | --- | --- | --- |
//! | PUBLISH, Will | when it is published | `Write` |
//! | SUBSCRIBE, UNSUBSCRIBE | for each Topic Filter | `Subscribe`, `Unsubscribe` |
//! | live delivery, from here or another shard | when the topic's matches are looked up | `Read` |
//! | Shared Subscription | when a member is picked | `Read` |
//! | retained replay | when the messages are looked up | `Read`, and `Write` for who published |
//! | queue and inflight window | when the rules or the User Name change | `Read` |
//!
//! What was decided for a topic is kept with its matches, so a message of a topic seen before asks
//! nothing, and where another subscription has come or gone only who is not known from before is asked about. When rules change, everything kept is forgotten and everything that waits is asked about
//! again (`reload.rs`), so nothing is delivered after a reload that the new rules deny.
//!
//! A mount point is part of the door: a Client sees what lies below its own and nothing else.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::clients::{Admitted, Clients, Member};
use crate::auth::{Access, Security, Subject, permits};
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey};
use crate::limits::PACKET_SIZE_MAX;
use crate::message::{Message, QoS};
use crate::origin::{Identity, ListenerId};
use crate::policy::{ListenerPolicy, LogMask, Settings};
use crate::session::Progress;

impl Clients {
    /// What `listener` has been told. A listener that is not configured any more admits nobody.
    pub(super) fn listener(&self, listener: ListenerId) -> Option<&ListenerPolicy> {
        self.settings.listener(listener)
    }

    fn security(&self, listener: ListenerId) -> Option<&Security> {
        self.listener(listener)?.security.as_deref()
    }

    /// Whether anything can be denied to anybody but what always is.
    pub(super) fn is_guarded(settings: &Settings) -> bool {
        settings.listeners.iter().any(|listener| {
            let security = listener.security.as_ref();
            listener.mount_point.is_some() || security.is_some_and(|it| it.acl.is_some())
        })
    }

    /// Whether the Client of `member` has `access` to `topic`, mount point included.
    pub(super) fn permits(&self, member: &Member, access: Access, topic: &[u8]) -> bool {
        let identity = &member.session.identity;
        permits(
            self.security(identity.listener),
            member.admitted().standing,
            &subject(identity),
            access,
            topic,
        )
    }

    /// Whether `session` may be sent a message of `topic`.
    pub(super) fn may_read(&self, session: SessionKey, topic: &[u8]) -> bool {
        if !self.guarded {
            return true;
        }
        let Some(member) = self.members.get(session) else {
            return false;
        };
        let listener = member.session.identity.listener;
        if let Some(mount_point) = self.settings.mount_point(listener) {
            // Nothing would be left of the mount point itself.
            let inside = topic.strip_prefix(mount_point.as_bytes());
            if inside.is_none_or(<[u8]>::is_empty) {
                return false;
            }
        }
        self.permits(member, Access::Read, topic)
    }

    /// Whether `session` may publish to `topic`.
    pub(super) fn may_write(&self, session: SessionKey, topic: &[u8]) -> bool {
        self.members
            .get(session)
            .is_some_and(|member| self.permits(member, Access::Write, topic))
    }

    /// Whether who published a retained message might do so now (`check_retain_source`).
    pub(super) fn source_may_write(&self, message: &Message) -> bool {
        let Some(source) = message.source() else {
            // The broker's own.
            return true;
        };
        if !self.guarded || !self.settings.policy.check_retain_source {
            return true;
        }
        let subject = subject(source);
        let security = self.security(source.listener);
        let standing = security.map(|it| it.standing(&subject)).unwrap_or_default();
        permits(
            security,
            standing,
            &subject,
            Access::Write,
            message.topic_name(),
        )
    }

    /// Decides whether what a connection publishes has to be looked at.
    pub(super) fn vet(&mut self, key: ConnectionKey) {
        let settings = &self.settings;
        let Some(connection) = self.connections.get_mut(key) else {
            return;
        };
        let has_rules = settings
            .listener(connection.listener)
            .and_then(|listener| listener.security.as_ref())
            .is_some_and(|security| security.acl.is_some());
        let policy = &settings.policy;
        connection.vetted = has_rules
            || connection.mount_point_size > 0
            || connection.maximum_qos < QoS::ExactlyOnce
            || !policy.retain_available
            || policy.message_size_limit < PACKET_SIZE_MAX as usize
            || policy.log.has(LogMask::PACKETS);
    }

    /// Takes over who a Session belongs to now. True if that may change what it reads.
    pub(super) fn identify(&mut self, session: SessionKey, identity: Arc<Identity>) -> bool {
        let subject = subject(&identity);
        let security = self.security(identity.listener);
        let standing = security.map(|it| it.standing(&subject)).unwrap_or_default();
        let credential = security
            .and_then(|it| it.passwords.as_ref())
            .zip(subject.username)
            .and_then(|(passwords, username)| passwords.credential(username));
        let Some(member) = self.members.get_mut(session) else {
            return false;
        };
        let is_other = member.session.identity != identity;
        member.session.identity = identity;
        let admitted = Admitted {
            standing,
            credential,
        };
        member.set_admitted(admitted);
        is_other
    }

    /// Drops what waits for `session` and may not be read any more. How many messages it looked at.
    ///
    /// What its connection was sent stays in flight until it is acknowledged; what would have to be
    /// sent again does not.
    pub(super) fn purge(&mut self, session: SessionKey) -> usize {
        let Some(member) = self.members.get_mut(session) else {
            return 0;
        };
        // Taken out, because who may read what is asked of all the rest.
        let mut queue = std::mem::take(&mut member.session.queue);
        let mut inflight = std::mem::take(&mut member.session.inflight);
        let connection = member.session.connection;
        let connection = connection.and_then(|key| self.connections.get_mut(key));
        let is_sent = connection.as_ref().is_some_and(|it| !it.is_resending());
        let mut replay = connection.and_then(|connection| connection.take_replay());

        let may_read = |message: &Message| self.may_read(session, message.topic_name());
        let (before, queued_before) = (queue.bytes(), queue.len());
        let mut looked_at = queued_before + usize::from(inflight.len());
        let denied = queue.take_if(|delivery| !may_read(&delivery.message));
        let mut done: Vec<u64> = denied.iter().map(|it| it.place.sequence).collect();
        if !is_sent {
            let denied: Vec<PacketIdentifier> = inflight
                .iter()
                .filter_map(|(identifier, progress)| match progress {
                    Progress::Published(delivery) if !may_read(&delivery.message) => {
                        Some(identifier)
                    }
                    _ => None,
                })
                .collect();
            for identifier in denied {
                done.push(inflight.sequence_of(identifier));
                inflight.abandon(identifier);
            }
        }
        let mut dropped = done.len();
        if let Some(replay) = &mut replay {
            looked_at += replay.found.count();
            let is_wanted = |message: &Message| may_read(message) && self.source_may_write(message);
            dropped += replay.found.retain(is_wanted);
        }

        self.counters.dropped_denied += dropped as u64;
        self.queued_bytes -= before - queue.bytes();
        self.queued_messages -= queued_before - queue.len();
        if let Some(member) = self.members.get_mut(session) {
            if let Some(store) = &mut self.store {
                for sequence in done {
                    store.done(&member.session, sequence);
                }
            }
            member.session.queue = queue;
            member.session.inflight = inflight;
            let connection = member.session.connection;
            if replay.is_some()
                && let Some(connection) = connection.and_then(|key| self.connections.get_mut(key))
            {
                connection.make_rare().replay = replay;
            }
        }
        looked_at
    }
}

fn subject(identity: &Identity) -> Subject<'_> {
    Subject {
        username: identity.username.as_deref(),
        client_identifier: &identity.client_identifier,
    }
}
