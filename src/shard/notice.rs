//! What a shard tells the threads beside it.

#![forbid(unsafe_code)]

use std::fmt;
use std::sync::Arc;

use crate::auth::Security;
use crate::codec::ReasonCode;
use crate::key::{ConnectionKey, PacketIdentifier};
use crate::message::{ProtocolVersion, QoS};
use crate::origin::{ListenerId, PeerAddress};
use crate::session::ProtocolError;

/// Something that is not a shard's to do.
#[derive(Debug)]
pub enum Notice {
    /// A CONNECT waits for the check of its password. Always answered, with
    /// [`super::Command::Authenticated`].
    Authenticate(Box<AuthenticationRequest>),
    /// Something to be written down, and lost if there is too much of it.
    Log(Box<Event>),
    /// One shard's part of the tree of subscriptions and retained messages.
    Tree(Box<str>),
}

/// A password to be checked.
pub struct AuthenticationRequest {
    /// Waits for the answer.
    pub connection: ConnectionKey,
    /// The listener it came to.
    pub listener: ListenerId,
    /// What to check against: as configured when CONNECT was read.
    pub security: Arc<Security>,
    /// The User Name given.
    pub username: Box<str>,
    /// The password given; empty if there was none.
    pub password: Box<[u8]>,
    /// Who it says it is.
    pub client_identifier: Box<str>,
    /// Where it comes from.
    pub peer: PeerAddress,
}

/// Without the password, which has no business in a log.
impl fmt::Debug for AuthenticationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthenticationRequest")
            .field("connection", &self.connection)
            .field("listener", &self.listener)
            .field("username", &self.username)
            .field("client_identifier", &self.client_identifier)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

/// What happened on a shard, in the terms of the protocol; how a line about it reads is for others.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A connection was accepted, and nothing has been read of it.
    Accepted {
        /// Where it comes from.
        peer: PeerAddress,
        /// The listener it came to.
        listener: ListenerId,
    },
    /// A connection was closed at once, because there are as many as there may be.
    Denied {
        /// Where it comes from.
        peer: PeerAddress,
    },
    /// A Client has a Session.
    Connected {
        /// Who.
        client_identifier: Arc<str>,
        /// From where.
        peer: PeerAddress,
        /// What it speaks.
        version: ProtocolVersion,
        /// Another broker's bridge.
        is_bridge: bool,
        /// Clean Start.
        clean_start: bool,
        /// The Keep Alive in force.
        keep_alive_s: u16,
        /// The User Name it was accepted with.
        username: Option<Arc<str>>,
    },
    /// A Client that had a Session has no connection any more.
    Disconnected {
        /// Who.
        client_identifier: Arc<str>,
        /// From where.
        peer: PeerAddress,
        /// Why.
        cause: DisconnectCause,
    },
    /// A Client subscribed, or wanted to.
    Subscribed {
        /// Who.
        client_identifier: Arc<str>,
        /// The Topic Filter, mount point included.
        topic_filter: Box<str>,
        /// What it was answered.
        reason_code: ReasonCode,
    },
    /// A Client unsubscribed.
    Unsubscribed {
        /// Who.
        client_identifier: Arc<str>,
        /// The Topic Filter, mount point included.
        topic_filter: Box<str>,
    },
    /// A packet that is no PUBLISH came from a Client.
    Received {
        /// From whom.
        client_identifier: Arc<str>,
        /// What the specification calls it.
        name: &'static str,
        /// The Packet Identifier of an acknowledgement.
        packet_identifier: Option<u16>,
    },
    /// A Client published.
    Published {
        /// Who.
        client_identifier: Arc<str>,
        /// The Topic Name, mount point included.
        topic_name: Box<str>,
        /// The DUP flag of the PUBLISH.
        duplicate: bool,
        /// Of the PUBLISH, where it has one.
        packet_identifier: Option<PacketIdentifier>,
        /// Of the PUBLISH.
        qos: QoS,
        /// Of the PUBLISH.
        retain: bool,
        /// Bytes of its payload.
        payload_size: usize,
        /// Why it went nowhere, if it did not go on.
        refused: Option<ReasonCode>,
    },
    /// A connection ended before there was a Session.
    Refused {
        /// Who, as far as it is known.
        client_identifier: Option<Box<str>>,
        /// From where.
        peer: PeerAddress,
        /// Why.
        cause: RefusalCause,
    },
}

/// Why a connection with a Session ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DisconnectCause {
    /// The Client sent DISCONNECT.
    Client(ReasonCode),
    /// The Client closed its socket, or the network did.
    Closed,
    /// The Client broke the protocol or was silent for too long.
    Protocol(ProtocolError),
    /// We ended it, and told a v5 Client this.
    Server(ReasonCode),
}

/// Why a connection ended without a Session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RefusalCause {
    /// It closed before its CONNECT was answered.
    Closed,
    /// Its CONNECT was no good, or did not come.
    Protocol(ProtocolError),
    /// It began with something else.
    NotConnect,
    /// Its CONNECT was answered with this.
    Refused(ReasonCode),
}
