//! Events for the log, made only if somebody wants them.

#![forbid(unsafe_code)]

use super::Shard;
use super::effects::Effects;
use super::notice::{DisconnectCause, Event, Notice, RefusalCause};
use crate::codec::{Connect, Publish, ReasonCode, packet_type};
use crate::key::{ConnectionKey, SessionKey};
use crate::origin::Origin;
use crate::policy::LogMask;

use super::connect::server_keep_alive;
use super::connection::Phase;

impl Shard {
    /// Whether events of `kind` are wanted.
    pub(super) fn logs(&self, kind: LogMask) -> bool {
        self.clients.settings.policy.log.has(kind)
    }

    /// A connection was accepted. Taken out with the next effects, because accepting has none.
    pub(super) fn log_accepted(&mut self, origin: &Origin) {
        if self.logs(LogMask::CONNECTIONS) && !origin.is_handed_over {
            self.unreported.push(Event::Accepted {
                peer: origin.peer,
                listener: origin.listener,
            });
        }
    }

    /// A connection was not accepted, because there are as many as there may be.
    pub(super) fn log_denied(&mut self, origin: &Origin) {
        if self.logs(LogMask::CONNECTIONS) {
            self.unreported.push(Event::Denied { peer: origin.peer });
        }
    }

    /// Takes out what no effects were at hand for.
    pub(super) fn report(&mut self, effects: &mut Effects) {
        for event in self.unreported.drain(..) {
            push(effects, event);
        }
    }

    /// A Client has a Session.
    pub(super) fn log_connected(
        &self,
        session: SessionKey,
        key: ConnectionKey,
        connect: &Connect<'_>,
        effects: &mut Effects,
    ) {
        if !self.logs(LogMask::CONNECTIONS) {
            return;
        }
        let Some(connection) = self.clients.connections.get(key) else {
            return;
        };
        let Some(member) = self.clients.members.get(session) else {
            return;
        };
        let keep_alive_s = server_keep_alive(connect, self.clients.limits.max_keepalive_s);
        push(
            effects,
            Event::Connected {
                client_identifier: member.session.identity.client_identifier.clone(),
                peer: connection.peer,
                version: connect.version,
                is_bridge: connect.is_bridge,
                clean_start: connect.clean_start,
                keep_alive_s: keep_alive_s.unwrap_or(connect.keep_alive_s),
                username: member.session.identity.username.clone(),
            },
        );
    }

    /// A connection ends, with or without a Session. Once for each: not when it is closing already.
    pub(super) fn log_end(
        &self,
        key: ConnectionKey,
        cause: DisconnectCause,
        effects: &mut Effects,
    ) {
        if !self.logs(LogMask::CONNECTIONS) {
            return;
        }
        let Some(connection) = self.clients.connections.get(key) else {
            return;
        };
        match connection.phase {
            Phase::Connected(session) => {
                if let Some(member) = self.clients.members.get(session) {
                    let event = Event::Disconnected {
                        client_identifier: member.session.identity.client_identifier.clone(),
                        peer: connection.peer,
                        cause,
                    };
                    push(effects, event);
                }
            }
            Phase::AwaitingConnect => {
                let cause = match cause {
                    DisconnectCause::Protocol(error) => RefusalCause::Protocol(error),
                    DisconnectCause::Server(code) | DisconnectCause::Client(code) => {
                        RefusalCause::Refused(code)
                    }
                    DisconnectCause::Closed => RefusalCause::Closed,
                };
                self.log_refused(key, None, cause, effects);
            }
            Phase::Closing => {}
        }
    }

    /// A connection ends without a Session.
    pub(super) fn log_refused(
        &self,
        key: ConnectionKey,
        client_identifier: Option<&str>,
        cause: RefusalCause,
        effects: &mut Effects,
    ) {
        if !self.logs(LogMask::CONNECTIONS) {
            return;
        }
        if let Some(connection) = self.clients.connections.get(key) {
            let client_identifier = client_identifier.filter(|name| !name.is_empty());
            push(
                effects,
                Event::Refused {
                    client_identifier: client_identifier.map(Box::from),
                    peer: connection.peer,
                    cause,
                },
            );
        }
    }

    /// A Topic Filter of a SUBSCRIBE was answered.
    pub(super) fn log_subscribe(
        &self,
        session: SessionKey,
        topic_filter: &str,
        reason_code: ReasonCode,
        effects: &mut Effects,
    ) {
        if let Some(member) = self.clients.members.get(session)
            && self.logs(LogMask::SUBSCRIBE)
        {
            push(
                effects,
                Event::Subscribed {
                    client_identifier: member.session.identity.client_identifier.clone(),
                    topic_filter: topic_filter.into(),
                    reason_code,
                },
            );
        }
    }

    /// A Topic Filter of an UNSUBSCRIBE.
    pub(super) fn log_unsubscribe(
        &self,
        session: SessionKey,
        topic_filter: &str,
        effects: &mut Effects,
    ) {
        if let Some(member) = self.clients.members.get(session) {
            push(
                effects,
                Event::Unsubscribed {
                    client_identifier: member.session.identity.client_identifier.clone(),
                    topic_filter: topic_filter.into(),
                },
            );
        }
    }

    /// A packet that is no PUBLISH came from a Client.
    #[cold]
    pub(super) fn log_packet(
        &self,
        key: ConnectionKey,
        session: SessionKey,
        first_byte: u8,
        body: &[u8],
        effects: &mut Effects,
    ) {
        let name = match first_byte >> 4 {
            packet_type::PUBACK => "PUBACK",
            packet_type::PUBREC => "PUBREC",
            packet_type::PUBREL => "PUBREL",
            packet_type::PUBCOMP => "PUBCOMP",
            // It stays unread, and comes again.
            packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE if self.ring_is_full => return,
            // It has come before.
            packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE if self.is_unfinished(key) => return,
            packet_type::SUBSCRIBE => "SUBSCRIBE",
            packet_type::UNSUBSCRIBE => "UNSUBSCRIBE",
            packet_type::PINGREQ => "PINGREQ",
            packet_type::DISCONNECT => "DISCONNECT",
            // What ends the connection has a line that says so.
            _ => return,
        };
        let identifier = body.first_chunk().map(|&bytes| u16::from_be_bytes(bytes));
        let has_identifier = first_byte >> 4 < packet_type::SUBSCRIBE;
        if let Some(member) = self.clients.members.get(session) {
            push(
                effects,
                Event::Received {
                    client_identifier: member.session.identity.client_identifier.clone(),
                    name,
                    packet_identifier: identifier.filter(|_| has_identifier),
                },
            );
        }
    }

    /// A PUBLISH came.
    pub(super) fn log_publish(
        &self,
        session: SessionKey,
        publish: &Publish<'_>,
        topic_name: &[u8],
        refused: Option<ReasonCode>,
        effects: &mut Effects,
    ) {
        if let Some(member) = self.clients.members.get(session) {
            push(
                effects,
                Event::Published {
                    client_identifier: member.session.identity.client_identifier.clone(),
                    topic_name: String::from_utf8_lossy(topic_name).into(),
                    duplicate: publish.duplicate,
                    packet_identifier: publish.packet_identifier,
                    qos: publish.qos,
                    retain: publish.retain,
                    payload_size: publish.payload.len(),
                    refused,
                },
            );
        }
    }
}

fn push(effects: &mut Effects, event: Event) {
    effects.notices.push(Notice::Log(Box::new(event)));
}
