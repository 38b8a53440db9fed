//! CONNECT: placement, takeover, resumption, CONNACK. And the other end of it: what remains of a
//! Session when its connection is gone.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::clients::{Member, mark_dirty};
use super::command::Verdict;
use super::connection::{Pause, Phase, Resend};
use super::effects::{Effects, HandOver};
use super::mount_point::mounted_topic;
use super::notice::{AuthenticationRequest, DisconnectCause, Notice, RefusalCause};
use super::timers::Slot;
use super::{Shard, Step};
use crate::auth::{self, Admission, Security};
use crate::codec::{self, ConnAck, ConnAckProperties, Connect, Disconnect, ReasonCode};
use crate::key::{ConnectionKey, SessionKey, ShardId};
use crate::message::{ProtocolVersion, QoS};
use crate::origin::Identity;
use crate::session::{OutboundAliases, ProtocolError, SESSION_NEVER_EXPIRES, Session, Will};
use crate::time::Instant;
use crate::topic::TopicName;

/// How far the check of a password is.
#[derive(Debug)]
enum Authentication {
    /// The Client may connect.
    Done,
    /// Somebody else checks, and CONNECT is read again when that is done.
    Pending,
}

/// Why a Session ends.
#[derive(Clone, Copy, Debug)]
pub(super) enum SessionEnd {
    /// Its Client did not come back in time.
    Expired,
    /// Its Client begins a new one.
    CleanStart,
    /// It was to last as long as its connection.
    Closed,
}

impl Shard {
    pub(super) fn handle_connect(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Step {
        // A Client that takes no packet of this size is not sent it [MQTT-3.1.2-24].
        let answered_as = (largest_packet(connect) >= REFUSAL_SIZE).then_some(connect.version);
        let connect = &without_empty_credentials(connect);
        let identity = match self.identity(key, connect) {
            Ok(identity) => identity,
            Err(reason_code) => {
                let name = connect.client_identifier;
                self.refuse(key, answered_as, name, reason_code, effects);
                return Step::Stop;
            }
        };
        let client_identifier = &*identity.client_identifier;
        let owner = self.placement.shard_of(client_identifier);
        if owner != self.id {
            return self.hand_over(key, owner, effects);
        }
        let admitted = self
            .admissible(key, connect)
            .and_then(|()| self.authenticate(key, connect, &identity, effects));
        match admitted {
            Ok(Authentication::Done) if self.may_be_late(key, client_identifier) => {
                self.suspect(key, effects);
                return Step::Blocked;
            }
            Ok(Authentication::Done) => {}
            Ok(Authentication::Pending) => return Step::Blocked,
            Err(reason_code) => {
                self.refuse(key, answered_as, client_identifier, reason_code, effects);
                return Step::Stop;
            }
        }

        let before = self.journal_size();
        let identity = Arc::new(identity);
        let opened = self.open_session(&identity, connect, now, effects);
        let Some((session, session_present)) = opened else {
            let full = ReasonCode::ServerBusy;
            let name = &identity.client_identifier;
            self.refuse(key, answered_as, name, full, effects);
            return Step::Stop;
        };
        let store = self.clients.store.as_ref();
        let ended = store.map_or(0, |it| it.endings.last(&identity.client_identifier));
        let is_other = self.clients.identify(session, identity);
        self.clients.mark_told(session);
        if session_present && self.clients.guarded {
            if is_other {
                // Another User Name, or another listener: other things may be read.
                self.router.forget_matches();
            }
            // Rules may have changed too since what waits began to.
            self.clients.doubt_and_judge(session);
            if self.clients.reload.is_some() {
                self.arm_next_turn(Slot::Reload, now);
            }
        }
        self.attach(session, key, connect, now);
        self.store_attached(session);
        if !self.send_connack(session, key, connect, session_present, effects) {
            return self.leave_without_connack(session, key, now, effects);
        }
        self.log_connected(session, key, connect, effects);
        // What ended, and what began, must have ended and begun for good.
        let lsn = if self.journal_size() != before {
            self.stored_position()
        } else {
            // Also if another CONNECT, or nobody, has ended it.
            ended
        };
        self.close_gate(key, lsn);
        self.visit_resumed(session, key, lsn, now, effects);
        self.send_pending(session, now, effects);
        Step::Continue
    }

    /// Who sends this CONNECT, as its listener wants it.
    fn identity(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
    ) -> Result<Identity, ReasonCode> {
        let settings = self.clients.settings.clone();
        let Some(connection) = self.clients.connections.get(key) else {
            return Err(ReasonCode::ServerUnavailable);
        };
        let listener = connection.listener;
        // A connection without a listener would be nobody's to decide about.
        let policy = settings.listener(listener);
        let policy = policy.ok_or(ReasonCode::NotAuthorized)?;
        if !policy.accept_protocol_versions.contains(connect.version) {
            return Err(ReasonCode::UnsupportedProtocolVersion);
        }
        let certificate = connection.certificate();
        let username: Option<Arc<str>> = if policy.takes_username_from_certificate() {
            let name = policy.username_in(certificate);
            Some(name.ok_or(ReasonCode::BadUserNameOrPassword)?.into())
        } else {
            connect.username.map(Arc::from)
        };
        let client_identifier = if policy.use_username_as_clientid {
            username.clone().ok_or(ReasonCode::NotAuthorized)?
        } else if connect.client_identifier.is_empty() {
            let allowed = match connect.version {
                ProtocolVersion::V5 => policy.allow_zero_length_clientid,
                // [v3.1.1 MQTT-3.1.3-8]
                ProtocolVersion::V311 => policy.allow_zero_length_clientid && connect.clean_start,
                ProtocolVersion::V3 => false,
            };
            if !allowed {
                return Err(ReasonCode::ClientIdentifierNotValid);
            }
            // Made up, since the Client left that to us [MQTT-3.1.3-6].
            self.assign_client_identifier(&policy.auto_id_prefix)
        } else {
            connect.client_identifier.into()
        };
        let prefix = settings.policy.clientid_prefixes.as_deref();
        let prefix = prefix.filter(|_| !policy.is_for_bridges);
        if prefix.is_some_and(|prefix| !client_identifier.starts_with(prefix)) {
            return Err(ReasonCode::NotAuthorized);
        }
        Ok(Identity {
            client_identifier,
            username,
            listener,
        })
    }

    /// The connection moves to the shard that owns its Session.
    fn hand_over(&mut self, key: ConnectionKey, to: ShardId, effects: &mut Effects) -> Step {
        self.clients.counters.connections_handed_over += 1;
        if let Some(connection) = self.remove_connection(key) {
            effects.hand_overs.push(HandOver {
                connection: key,
                to,
                origin: connection.into_origin(),
            });
        }
        Step::HandedOver
    }

    /// Whether the Client is who it says it is. Checking a password takes long on purpose, so it is
    /// done beside the shard, and the connection is not read meanwhile.
    fn authenticate(
        &mut self,
        key: ConnectionKey,
        connect: &Connect<'_>,
        identity: &Identity,
        effects: &mut Effects,
    ) -> Result<Authentication, ReasonCode> {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return Err(ReasonCode::ServerUnavailable);
        };
        // It is needed again if this CONNECT waits for something else.
        match connection.verdict {
            Some(Verdict::Accepted) => return Ok(Authentication::Done),
            Some(Verdict::Refused) => return Err(ReasonCode::NotAuthorized),
            None => {}
        }
        let Some(policy) = self.clients.settings.listener(identity.listener) else {
            return Err(ReasonCode::NotAuthorized);
        };
        if policy.takes_username_from_certificate() {
            // The transport has verified the certificate.
            return Ok(Authentication::Done);
        }
        let security = policy.security.as_ref();
        let admission = auth::admission(
            security.map(|security| &**security),
            policy.allow_anonymous,
            connect.username,
            connect.password,
        );
        match (admission, security) {
            (Admission::Accept, _) => Ok(Authentication::Done),
            (Admission::Verify, Some(security)) => {
                connection.pause.set(Pause::AUTHENTICATION);
                let request = AuthenticationRequest {
                    connection: key,
                    listener: identity.listener,
                    security: security.clone(),
                    username: connect.username.unwrap_or_default().into(),
                    password: connect.password.unwrap_or_default().into(),
                    client_identifier: (&*identity.client_identifier).into(),
                    peer: connection.peer,
                };
                effects
                    .notices
                    .push(Notice::Authenticate(Box::new(request)));
                Ok(Authentication::Pending)
            }
            _ => Err(ReasonCode::NotAuthorized),
        }
    }

    /// The password of a waiting CONNECT has been checked: it is read again.
    pub(super) fn handle_verdict(
        &mut self,
        key: ConnectionKey,
        verdict: Verdict,
        security: &Arc<Security>,
        effects: &mut Effects,
    ) {
        if let Some(connection) = self.clients.connections.get_mut(key)
            && connection.phase == Phase::AwaitingConnect
            && connection.pause.contains(Pause::AUTHENTICATION)
        {
            // What was true of the files before a reload may have been revoked by it.
            let listener = self.clients.settings.listener(connection.listener);
            let current = listener.and_then(|policy| policy.security.as_ref());
            if current.is_some_and(|current| Arc::ptr_eq(current, security)) {
                connection.verdict = Some(verdict);
            }
            self.resume(key, Pause::AUTHENTICATION, effects);
        }
    }

    /// Whether this CONNECT would end a connection that may be the newer one: each came to a shard of its own, and what the
    /// Client did first may arrive here last.
    fn may_be_late(&self, key: ConnectionKey, client_identifier: &str) -> bool {
        if self.peers.len() == 1 {
            return false;
        }
        let clients = &self.clients;
        let session = clients.find(client_identifier);
        let member = session.and_then(|session| clients.members.get(session));
        let connection = clients.connections.get(key);
        member.is_some_and(|member| member.session.connection.is_some())
            && connection.is_some_and(|connection| !connection.is_vouched_for)
    }

    /// A Client gives a connection up before it makes the next one. So this is the newer one if its peer is still there.
    fn suspect(&mut self, key: ConnectionKey, effects: &mut Effects) {
        if let Some(connection) = self.clients.connections.get_mut(key) {
            connection.pause.set(Pause::PRESENCE);
            effects.suspects.push(key);
        }
    }

    /// Whether the peer of a connection that [`Effects::suspects`] named is still there.
    pub fn handle_presence(&mut self, key: ConnectionKey, is_there: bool, effects: &mut Effects) {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        if !connection.pause.contains(Pause::PRESENCE) {
            return;
        }
        if is_there {
            connection.is_vouched_for = true;
            self.resume(key, Pause::PRESENCE, effects);
        } else {
            // It has not heard that it was accepted, so nothing was promised.
            self.log_end(key, DisconnectCause::Closed, effects);
            self.close(key, effects);
        }
    }

    /// A new identifier that belongs to this shard, so that its connection need not move.
    fn assign_client_identifier(&mut self, prefix: &str) -> Arc<str> {
        loop {
            let (high, low) = (self.random.next(), self.random.next());
            let candidate = format!(
                "{prefix}{:08X}-{:04X}-{:04X}-{:04X}-{:012X}",
                high >> 32,
                (high >> 16) & 0xffff,
                high & 0xffff,
                low >> 48,
                low & 0xffff_ffff_ffff,
            );
            let taken = self.clients.find(&candidate).is_some();
            if self.placement.shard_of(&candidate) == self.id && !taken {
                return candidate.into();
            }
        }
    }

    /// Whether what a CONNECT asks for is to be had here.
    fn admissible(&self, key: ConnectionKey, connect: &Connect<'_>) -> Result<(), ReasonCode> {
        // No Authentication Method is configured, so none is supported [MQTT-4.12.0-1].
        if connect.properties.authentication_method.is_some() {
            return Err(ReasonCode::BadAuthenticationMethod);
        }
        if let Some(will) = &connect.will {
            let policy = &self.clients.settings.policy;
            let listener = self
                .clients
                .connections
                .get(key)
                .and_then(|connection| self.clients.settings.listener(connection.listener));
            let mount_point = listener.and_then(|listener| listener.mount_point.as_deref());
            if TopicName::new(will.topic_name).is_err()
                || mounted_topic(mount_point, will.topic_name).is_none()
            {
                return Err(ReasonCode::TopicNameInvalid);
            }
            // [MQTT-3.2.2-12]
            if listener.is_none_or(|listener| will.qos > listener.max_qos) {
                return Err(ReasonCode::QoSNotSupported);
            }
            // [MQTT-3.2.2-13]
            if will.retain && !policy.retain_available {
                return Err(ReasonCode::RetainNotSupported);
            }
            if will.payload.len() > policy.message_size_limit {
                return Err(ReasonCode::PacketTooLarge);
            }
            if !self.clients.has_memory_for(will.payload.len()) {
                return Err(ReasonCode::QuotaExceeded);
            }
        }
        // A Session that cannot be stored is not begun.
        if expiry_interval_s(connect) > 0
            && self.clients.store.as_ref().is_some_and(|it| it.stalled)
        {
            return Err(ReasonCode::QuotaExceeded);
        }
        let maximum = self.clients.limits.max_keepalive_s;
        let too_patient = maximum != 0 && !(1..=maximum).contains(&connect.keep_alive_s);
        // A v5 Client is told a smaller one; earlier versions have no way to be told.
        if too_patient && !connect.version.is_v5() {
            return Err(ReasonCode::ClientIdentifierNotValid);
        }
        Ok(())
    }

    /// Answers CONNECT with a failure, in the form of `answered_as` if at all, and ends the connection [MQTT-3.2.2-7].
    fn refuse(
        &mut self,
        key: ConnectionKey,
        answered_as: Option<ProtocolVersion>,
        client_identifier: &str,
        reason_code: ReasonCode,
        effects: &mut Effects,
    ) {
        self.clients.counters.connects_refused += 1;
        if let Some(version) = answered_as
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            let connack = ConnAck {
                session_present: false,
                reason_code,
                properties: ConnAckProperties::default(),
            };
            codec::encode_connack(version, &connack, &mut connection.outbox);
            self.clients.counters.packets_sent += 1;
            mark_dirty(connection, key, effects);
        }
        let cause = RefusalCause::Refused(reason_code);
        self.log_refused(key, Some(client_identifier), cause, effects);
        self.close(key, effects);
    }

    /// Refuses a CONNECT that could not be decoded, where the Client would understand the answer.
    pub(super) fn refuse_connect(
        &mut self,
        key: ConnectionKey,
        body: &[u8],
        error: ProtocolError,
        effects: &mut Effects,
    ) {
        let reason_code = error.reason_code();
        let version = match codec::connect_version(body) {
            Some(ProtocolVersion::V5) => ProtocolVersion::V5,
            // A level we do not know is told so in the form every Client knows [MQTT-3.1.2-2].
            None if reason_code == ReasonCode::UnsupportedProtocolVersion => ProtocolVersion::V311,
            // [v3.1.1 MQTT-3.1.4-1] has no return code for malformed packets.
            _ => {
                self.clients.counters.connects_refused += 1;
                self.log_refused(key, None, RefusalCause::Protocol(error), effects);
                return self.close(key, effects);
            }
        };
        self.refuse(key, Some(version), "", reason_code, effects);
    }

    /// The Session for this CONNECT, and whether it existed before. `None` if the broker has as many
    /// as it may have.
    fn open_session(
        &mut self,
        identity: &Arc<Identity>,
        connect: &Connect<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<(SessionKey, bool)> {
        if let Some(existing) = self.clients.find(&identity.client_identifier) {
            self.take_over(existing, now, effects);
        }
        // Taking over may have ended it.
        if let Some(existing) = self.clients.find(&identity.client_identifier) {
            if !connect.clean_start {
                return Some((existing, true));
            }
            // [MQTT-3.1.2-4]
            self.end_session(existing, SessionEnd::CleanStart, now, effects);
        }
        let clients_max = self.clients.settings.policy.global_max_clients;
        if !self.occupancy.begin_session(clients_max) {
            return None;
        }
        let member = Member::new(Session::new(identity.clone()));
        let session = self.clients.insert(member);
        Some((session, false))
    }

    /// Ends the connection a Session already has: there is one at a time [MQTT-3.1.4-3]. Without one, its Will and its
    /// end are not put off because they are found to be due only now.
    fn take_over(&mut self, session: SessionKey, now: Instant, effects: &mut Effects) {
        let Some(member) = self.clients.members.get(session) else {
            return;
        };
        if let Some(old) = member.session.connection {
            let cause = DisconnectCause::Server(ReasonCode::SessionTakenOver);
            self.disconnect(old, cause, now, effects);
        } else if member.session.deadline().is_some_and(|at| at <= now) {
            self.handle_session_deadline(session, now, effects);
        }
    }

    /// Joins `session` and the connection `key`, as this CONNECT asks.
    fn attach(
        &mut self,
        session: SessionKey,
        key: ConnectionKey,
        connect: &Connect<'_>,
        now: Instant,
    ) {
        let settings = self.clients.settings.clone();
        let limits = &settings.policy.limits;
        let policy = self
            .clients
            .connections
            .get(key)
            .and_then(|connection| settings.listener(connection.listener));
        let Some(policy) = policy else { return };
        let mount_point = policy.mount_point.as_deref();
        let expiry_interval_s = expiry_interval_s(connect);
        if let Some(member) = self.clients.members.get_mut(session) {
            let session = &mut member.session;
            if session.connection.replace(key).is_none() {
                self.clients.connected += 1;
            }
            session.expiry_interval_s = expiry_interval_s;
            session.expires_at = None;
            // The Client is back before its Will was due [MQTT-3.1.3-9].
            session.will_at = None;
        }
        let will = connect.will.as_ref().and_then(|will| {
            let mounted = mounted_topic(mount_point, will.topic_name)?;
            Some(Box::new(Will::new(&codec::Will {
                topic_name: &mounted,
                ..*will
            })))
        });
        self.clients.set_will(session, will);
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        connection.phase = Phase::Connected(session);
        connection.version = connect.version;
        if connect.is_bridge {
            connection.make_rare().is_bridge = true;
        }
        let properties = &connect.properties;
        let receive_maximum = properties
            .receive_maximum
            .map_or(u16::MAX, |maximum| maximum.get());
        connection.window = match limits.max_inflight_messages {
            0 => receive_maximum,
            ours => receive_maximum.min(ours),
        };
        connection.maximum_packet_size = properties
            .maximum_packet_size
            .map_or(u32::MAX, |maximum| maximum.get());
        let aliases = properties
            .topic_alias_maximum
            .min(policy.max_topic_alias_broker);
        if aliases > 0 {
            let seed = self.random.next();
            connection.make_rare().outbound_aliases =
                Some(Box::new(OutboundAliases::new(aliases, seed)));
        }
        connection.topic_alias_maximum = policy.max_topic_alias;
        connection.maximum_qos = policy.max_qos;
        // A Topic Name has no more bytes than that, and neither has a mount point.
        let mount_point_size = mount_point.map_or(0, str::len);
        connection.mount_point_size = u16::try_from(mount_point_size).unwrap_or(u16::MAX);
        connection.particular = aliases > 0 || connection.mount_point_size > 0;
        let keep_alive_s =
            server_keep_alive(connect, limits.max_keepalive_s).unwrap_or(connect.keep_alive_s);
        // One and a half times the Keep Alive [MQTT-3.1.2-22]; zero turns it off.
        connection.set_patience(
            (keep_alive_s > 0).then(|| Duration::from_millis(u64::from(keep_alive_s) * 1500)),
        );
        connection.last_packet_at = now;
        let deadline = connection.deadline();
        let inflight: Option<VecDeque<_>> = self.clients.members.get(session).map(|member| {
            let inflight = member.session.inflight.iter();
            inflight.map(|(identifier, _)| identifier).collect()
        });
        if let Some(identifiers) = inflight.filter(|identifiers| !identifiers.is_empty())
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.make_rare().resend = Some(Box::new(Resend { identifiers }));
        }
        if let Some(deadline) = deadline {
            self.timers.arm(Slot::Connection(key.index), deadline);
        }
        self.clients.vet(key);
    }

    /// Says that a CONNECT was accepted, in as few bytes as the Client takes [MQTT-3.1.2-24]. False if that are too few.
    fn send_connack(
        &mut self,
        session: SessionKey,
        key: ConnectionKey,
        connect: &Connect<'_>,
        session_present: bool,
        effects: &mut Effects,
    ) -> bool {
        self.clients.counters.connects += 1;
        let Some(member) = self.clients.members.get(session) else {
            return true;
        };
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return true;
        };
        let limits = &self.clients.limits;
        let properties = ConnAckProperties {
            topic_alias_maximum: some_unless_zero(connection.topic_alias_maximum),
            // [MQTT-3.2.2-9]
            maximum_qos: (connection.maximum_qos < QoS::ExactlyOnce)
                .then_some(connection.maximum_qos),
            retain_available: (!self.clients.settings.policy.retain_available).then_some(false),
            // [MQTT-3.2.2-16]
            assigned_client_identifier: connect
                .client_identifier
                .is_empty()
                .then_some(&*member.session.identity.client_identifier),
            // [MQTT-3.2.2-21]
            server_keep_alive_s: server_keep_alive(connect, limits.max_keepalive_s),
            maximum_packet_size: std::num::NonZeroU32::new(limits.max_packet_size),
            receive_maximum: std::num::NonZeroU16::new(limits.max_inflight_messages),
            ..ConnAckProperties::default()
        };
        let mut connack = ConnAck {
            session_present,
            reason_code: ReasonCode::Success,
            properties,
        };
        let largest = largest_packet(connect) as usize;
        let start = connection.outbox.len();
        codec::encode_connack(connect.version, &connack, &mut connection.outbox);
        if connection.outbox.len() - start > largest {
            // What it need not know.
            connection.outbox.truncate(start);
            connection.topic_alias_maximum = 0;
            connack.properties.topic_alias_maximum = None;
            connack.properties.maximum_packet_size = None;
            codec::encode_connack(connect.version, &connack, &mut connection.outbox);
        }
        if connection.outbox.len() - start > largest {
            connection.outbox.truncate(start);
            return false;
        }
        self.clients.counters.packets_sent += 1;
        mark_dirty(connection, key, effects);
        true
    }

    /// A CONNECT was accepted, and its Client takes no packet that could say so.
    fn leave_without_connack(
        &mut self,
        session: SessionKey,
        key: ConnectionKey,
        now: Instant,
        effects: &mut Effects,
    ) -> Step {
        self.clients.set_will(session, None);
        self.close(key, effects);
        self.detach(session, now, effects);
        Step::Stop
    }

    /// DISCONNECT from the Client: the connection ends, and with 0x00 its Will is forgotten.
    pub(super) fn handle_disconnect(
        &mut self,
        key: ConnectionKey,
        disconnect: &Disconnect<'_>,
        now: Instant,
        effects: &mut Effects,
    ) -> Result<(), ProtocolError> {
        let session = self
            .clients
            .connections
            .get(key)
            .and_then(|connection| connection.session());
        let Some(session) = session else {
            return Ok(());
        };
        let mut is_other_expiry = false;
        if let Some(member) = self.clients.members.get_mut(session) {
            let session = &mut member.session;
            match disconnect.session_expiry_interval {
                // [MQTT-3.14.2-2]
                Some(raised) if raised > 0 && session.expiry_interval_s == 0 => {
                    return Err(ProtocolError::SessionExpiryRaised);
                }
                Some(interval) => {
                    is_other_expiry = interval != session.expiry_interval_s;
                    session.expiry_interval_s = interval;
                }
                None => {}
            }
        }
        // [MQTT-3.1.2-10] [MQTT-3.14.4-3] A Client that leaves because of an error keeps its Will.
        if disconnect.reason_code == ReasonCode::Success {
            self.clients.set_will(session, None);
        }
        // A start goes by what was asked for last: a Session that was never to end has an end from now on.
        if is_other_expiry
            && let Some(store) = &mut self.clients.store
            && let Some(member) = self.clients.members.get(session)
        {
            store.session(member);
        }
        self.log_end(
            key,
            DisconnectCause::Client(disconnect.reason_code),
            effects,
        );
        self.close(key, effects);
        // [MQTT-3.14.4-1] [MQTT-3.14.4-2]
        effects.left.push(key);
        self.detach(session, now, effects);
        Ok(())
    }

    /// Ends a connection from our side, telling a v5 Client why [MQTT-3.14.4-1].
    pub(super) fn disconnect(
        &mut self,
        key: ConnectionKey,
        cause: DisconnectCause,
        now: Instant,
        effects: &mut Effects,
    ) {
        let reason_code = match cause {
            DisconnectCause::Protocol(error) => error.reason_code(),
            DisconnectCause::Server(reason_code) => reason_code,
            DisconnectCause::Client(_) | DisconnectCause::Closed => ReasonCode::UnspecifiedError,
        };
        self.log_end(key, cause, effects);
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        let session = connection.session();
        if session.is_some() && connection.version.is_v5() {
            let disconnect = Disconnect::new(reason_code);
            codec::encode_disconnect(connection.version, &disconnect, &mut connection.outbox);
            self.clients.counters.packets_sent += 1;
            mark_dirty(connection, key, effects);
        }
        self.close(key, effects);
        if let Some(session) = session {
            self.detach(session, now, effects);
        }
    }

    /// Asks for the end of a connection once its output is sent.
    pub(super) fn close(&mut self, key: ConnectionKey, effects: &mut Effects) {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        if connection.phase != Phase::Closing {
            connection.phase = Phase::Closing;
            effects.closes.push(key);
        }
    }

    /// What is left to do when a Session has lost its connection: schedule its Will and its end.
    pub(super) fn detach(&mut self, session: SessionKey, now: Instant, effects: &mut Effects) {
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        let connection = member.session.connection.take();
        self.clients.connected -= usize::from(connection.is_some());
        let state = &mut member.session;
        let limit = self.clients.limits.persistent_client_expiration;
        let lifetime = match state.expiry_interval_s {
            SESSION_NEVER_EXPIRES => limit,
            seconds => {
                let asked = Duration::from_secs(seconds.into());
                Some(limit.map_or(asked, |limit| limit.min(asked)))
            }
        };
        state.expires_at = lifetime.map(|lifetime| now + lifetime);
        if let Some(will) = &state.will {
            // Not later than the end of the Session [MQTT-3.1.2-8].
            let due = now.add_seconds(will.delay_interval_s.into());
            state.will_at = Some(state.expires_at.map_or(due, |end| end.min(due)));
        }
        if let Some(deadline) = state.deadline() {
            self.timers.arm(Slot::Session(session.index), deadline);
        }
        // One that ends now and has nothing to say leaves its groups as it leaves its other subscriptions.
        let ends = state.will.is_none() && state.expires_at.is_some_and(|at| at <= now);
        self.store(session, |store, session| store.detached(session));
        let left = self.keep_replay(session, connection, now);
        self.visit_left(session, left, ends, now, effects);
        self.handle_session_deadline(session, now, effects);
    }

    /// Publishes a Will that is due and ends a Session whose time is over.
    pub(super) fn handle_session_deadline(
        &mut self,
        session: SessionKey,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        let state = &mut member.session;
        if state.will_at.is_some_and(|at| at <= now) {
            state.will_at = None;
            self.publish_will(session, now, effects);
        }
        let Some(member) = self.clients.members.get(session) else {
            return;
        };
        if member.session.expires_at.is_some_and(|at| at <= now) {
            // Those that end with their connection have not been waited for.
            let end = if member.session.expiry_interval_s > 0 {
                self.clients.counters.sessions_expired += 1;
                SessionEnd::Expired
            } else {
                SessionEnd::Closed
            };
            self.end_session(session, end, now, effects);
        } else if let Some(deadline) = member.session.deadline() {
            self.timers.arm(Slot::Session(session.index), deadline);
        }
    }

    /// Publishes the Will of a Session, which has none from then on.
    pub(super) fn publish_will(
        &mut self,
        session: SessionKey,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(will) = self.clients.set_will(session, None) else {
            return;
        };
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        if let Some(store) = &mut self.clients.store
            && member.session.connection.is_some()
        {
            // It goes on to be connected.
            store.session(member);
        } else {
            self.store(session, |store, session| store.detached(session));
        }
        let message = will.message(now);
        // Asked when it is published, as Mosquitto does: the rules may have changed since CONNECT.
        if self.clients.may_write(session, message.topic_name) {
            self.route_will(session, message, now, effects);
            self.take_cost();
        } else {
            self.clients.counters.dropped_denied += 1;
        }
    }

    /// Forgets a Session: its Will is published if it is still owed, its subscriptions go, and what
    /// it had not delivered of shared subscriptions goes to other members. Not all of that may have gone (`legacies.rs`), nor all of
    /// its subscriptions be out of the Router (`ended.rs`), when this returns.
    fn end_session(
        &mut self,
        session: SessionKey,
        end: SessionEnd,
        now: Instant,
        effects: &mut Effects,
    ) {
        let Some(member) = self.clients.members.get_mut(session) else {
            return;
        };
        if member.session.will_at.take().is_some() {
            self.publish_will(session, now, effects);
        }
        let Some(mut member) = self.clients.remove(session) else {
            return;
        };
        self.occupancy.end_session();
        self.leave_to_others(session, &mut member, end, now, effects);
        self.store_ended(&member.session);
    }
}

/// Bytes of a CONNACK that refuses.
const REFUSAL_SIZE: u32 = 5;

/// The largest packet that the Client of this CONNECT takes.
fn largest_packet(connect: &Connect<'_>) -> u32 {
    let maximum = connect.properties.maximum_packet_size;
    maximum.map_or(u32::MAX, std::num::NonZeroU32::get)
}

/// A CONNECT as Mosquitto understands it: an empty User Name or Password is none. Clients send both with nothing in them
/// where nobody has configured any, and nobody is to come in by the hash of nothing.
fn without_empty_credentials<'a>(connect: &Connect<'a>) -> Connect<'a> {
    Connect {
        username: connect.username.filter(|username| !username.is_empty()),
        password: connect.password.filter(|password| !password.is_empty()),
        ..*connect
    }
}

/// Seconds the Session outlives the connection, as this CONNECT asks.
fn expiry_interval_s(connect: &Connect<'_>) -> u32 {
    match connect.version {
        ProtocolVersion::V5 => connect.properties.session_expiry_interval.unwrap_or(0),
        // CleanSession 1 is Clean Start 1 and an expiry of zero [MQTT-3.1.2-6].
        ProtocolVersion::V311 | ProtocolVersion::V3 if connect.clean_start => 0,
        ProtocolVersion::V311 | ProtocolVersion::V3 => SESSION_NEVER_EXPIRES,
    }
}

/// The Keep Alive a v5 Client must use instead of its own [MQTT-3.2.2-21].
pub(super) fn server_keep_alive(connect: &Connect<'_>, maximum_s: u16) -> Option<u16> {
    let too_patient = maximum_s != 0 && !(1..=maximum_s).contains(&connect.keep_alive_s);
    (connect.version.is_v5() && too_patient).then_some(maximum_s)
}

fn some_unless_zero(value: u16) -> Option<u16> {
    (value != 0).then_some(value)
}
