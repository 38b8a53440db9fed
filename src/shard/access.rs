//! The one door: every question of who may do what with a topic is asked here.
//!
//! | way | asked | with |
//! | --- | --- | --- |
//! | PUBLISH, Will | when it is published | `Write` |
//! | SUBSCRIBE, UNSUBSCRIBE | for each Topic Filter | `Subscribe`, `Unsubscribe` |
//! | live delivery, from here or another shard | when the topic's matches are looked up | `Read` |
//! | Shared Subscription | when a member is picked | `Read` |
//! | retained replay | when the messages are looked up | `Read`, and `Write` for who published |
//! | queue, retained replay under way | when the rules or the User Name may have changed | `Read`, `Write` |
//! | inflight window | when it is sent again | `Read` |
//!
//! What was decided for a topic is kept with its matches, so a message of a topic seen before asks
//! nothing, and where another subscription has come or gone only of whom nothing was decided. When rules change, everything
//! kept is forgotten and everything that waits is in doubt: it is asked about again before it leaves, and some of it in each
//! turn (`reload.rs`), so nothing is delivered after a reload that the new rules deny.
//!
//! A mount point is part of the door: a Client sees what lies below its own and nothing else.

#![forbid(unsafe_code)]

use std::sync::Arc;

use super::clients::{Admitted, Clients, Member};
use crate::auth::{Access, Security, Standing, Subject, permits};
use crate::key::{ConnectionKey, SessionKey};
use crate::limits::PACKET_SIZE_MAX;
use crate::message::{Message, QoS};
use crate::origin::{Identity, ListenerId};
use crate::policy::{ListenerPolicy, LogMask, Settings};

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
        let standing = member.admitted().standing;
        reads(&self.settings, &member.session.identity, standing, topic)
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

    /// Whether this message, which waits to be sent as a retained one, may be.
    pub(super) fn may_be_replayed(&self, session: SessionKey, message: &Message) -> bool {
        self.may_read(session, message.topic_name()) && self.source_may_write(message)
    }

    /// All that waits for `session` is to be asked about again.
    pub(super) fn doubt(&mut self, session: SessionKey) {
        let Some(member) = self.members.get_mut(session) else {
            return;
        };
        member.session.queue.doubt();
        let connection = member.session.connection;
        if let Some(connection) = connection.and_then(|key| self.connections.get_mut(key))
            && let Some(replay) = connection.replay_mut()
        {
            replay.is_doubted = true;
        }
    }

    /// Drops what may not be read of the oldest messages in doubt that wait for `session`, `most` of which it looks at. At
    /// how many it did.
    pub(super) fn judge(&mut self, session: SessionKey, most: usize) -> usize {
        let Some(member) = self.members.get_mut(session) else {
            return 0;
        };
        if member.session.queue.doubted() == 0 {
            return 0;
        }
        // Taken out, because who may read what is asked of all the rest.
        let mut queue = std::mem::take(&mut member.session.queue);
        let (before, queued_before) = (queue.bytes(), queue.len());
        let mut done = Vec::new();
        let mut looked_at = 0;
        while looked_at < most
            && let Some(delivery) = queue.take_doubted()
        {
            looked_at += 1;
            if self.may_read(session, delivery.message.topic_name()) {
                queue.put_ahead(delivery);
            } else {
                done.push((delivery.place.sequence, delivery.qos));
            }
        }
        self.counters.dropped_denied += done.len() as u64;
        self.queued_bytes -= before - queue.bytes();
        self.queued_messages -= queued_before - queue.len();
        if let Some(member) = self.members.get_mut(session) {
            if let Some(store) = &mut self.store {
                for (sequence, qos) in done {
                    store.passed_over(&mut member.session, sequence, qos);
                }
            }
            member.session.queue = queue;
        }
        looked_at
    }
}

/// Whether a Client may be sent a message of `topic`, where anything can be denied.
pub(super) fn reads(
    settings: &Settings,
    identity: &Identity,
    standing: Standing,
    topic: &[u8],
) -> bool {
    if let Some(mount_point) = settings.mount_point(identity.listener) {
        // Nothing would be left of the mount point itself.
        let inside = topic.strip_prefix(mount_point.as_bytes());
        if inside.is_none_or(<[u8]>::is_empty) {
            return false;
        }
    }
    let listener = settings.listener(identity.listener);
    permits(
        listener.and_then(|listener| listener.security.as_deref()),
        standing,
        &subject(identity),
        Access::Read,
        topic,
    )
}

fn subject(identity: &Identity) -> Subject<'_> {
    Subject {
        username: identity.username.as_deref(),
        client_identifier: &identity.client_identifier,
    }
}
