//! What the operator decided and the shard core obeys: plain data, with Mosquitto's defaults.
//!
//! Fields have the names of Mosquitto's directives. [`Settings`] is shared by all shards and
//! replaced as a whole when the configuration is read again.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::auth::Security;
use crate::limits::{LISTENERS_MAX, Limits};
use crate::message::{ProtocolVersion, QoS};
use crate::origin::{CertificateIdentity, ListenerId};

/// Everything the shard core is told by the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For all listeners.
    pub policy: Policy,
    /// One for each listener, by [`ListenerId`].
    pub listeners: Vec<ListenerPolicy>,
    /// What is counted for the broker as a whole. Shards keep that of the settings they began with.
    pub occupancy: Arc<Occupancy>,
}

impl Settings {
    /// One listener, for everybody: what tests and a broker without configuration begin with.
    #[must_use]
    pub fn permissive(limits: Limits) -> Self {
        Self {
            policy: Policy {
                limits,
                ..Policy::default()
            },
            listeners: vec![ListenerPolicy {
                allow_anonymous: true,
                ..ListenerPolicy::default()
            }],
            occupancy: Arc::default(),
        }
    }

    /// The ports of all listeners, by which those of an earlier process are recognised.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.listeners
            .iter()
            .map(|listener| listener.port)
            .collect()
    }

    /// Whether whoever is in by `other` would be in by these, as the same Client with the same rights.
    #[must_use]
    pub fn admits_as(&self, other: &Self) -> bool {
        self.policy.check_retain_source == other.policy.check_retain_source
            && self.listeners.len() == other.listeners.len()
            && self
                .listeners
                .iter()
                .zip(&other.listeners)
                .all(|(one, other)| one.admits_as(other))
    }

    /// The listeners whose Clients have another mount point than by `other`.
    #[must_use]
    pub fn remounted_since(&self, other: &Self) -> Vec<ListenerId> {
        let all = 0..self.listeners.len().max(other.listeners.len());
        all.map(|index| ListenerId(index as u16))
            .filter(|&listener| self.mount_point(listener) != other.mount_point(listener))
            .collect()
    }

    /// What begins every topic of the Clients of `listener`, if anything does.
    #[must_use]
    pub fn mount_point(&self, listener: ListenerId) -> Option<&str> {
        self.listener(listener)?.mount_point.as_deref()
    }

    /// The policy of `listener`.
    #[must_use]
    pub fn listener(&self, listener: ListenerId) -> Option<&ListenerPolicy> {
        self.listeners.get(listener.index())
    }
}

/// Choices that hold for the whole broker.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its bounds.
    pub limits: Limits,
    /// Which events leave the shards.
    pub log: LogMask,
    /// Bytes of the messages to one Client that may be unacknowledged at once; one message always may.
    pub max_inflight_bytes: usize,
    /// Largest payload that is accepted.
    pub message_size_limit: usize,
    /// Sessions of the broker, connected or not.
    pub global_max_clients: Option<usize>,
    /// Connections to the broker at a time.
    pub global_max_connections: Option<usize>,
    /// Begins every Client Identifier that may connect.
    pub clientid_prefixes: Option<Arc<str>>,
    /// Whether a retained message is only replayed if its publisher might publish it now.
    pub check_retain_source: bool,
    /// Whether QoS 0 messages wait for a Session without a connection.
    pub queue_qos0_messages: bool,
    /// Whether messages may be retained.
    pub retain_available: bool,
    /// Whether a message is delivered with the QoS of the subscription even if its own is lower.
    pub upgrade_outgoing_qos: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            log: LogMask::default(),
            max_inflight_bytes: usize::MAX,
            message_size_limit: usize::MAX,
            global_max_clients: None,
            global_max_connections: None,
            clientid_prefixes: None,
            check_retain_source: true,
            queue_qos0_messages: false,
            retain_available: true,
            upgrade_outgoing_qos: false,
        }
    }
}

/// Which [events](crate::policy) a shard reports; what nobody wants to know costs nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogMask(u32);

impl LogMask {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Connections accepted, Clients connected, disconnected and refused (`connection_messages`).
    pub const CONNECTIONS: Self = Self(1 << 0);
    /// SUBSCRIBE packets (`log_type subscribe`).
    pub const SUBSCRIBE: Self = Self(1 << 1);
    /// UNSUBSCRIBE packets (`log_type unsubscribe`).
    pub const UNSUBSCRIBE: Self = Self(1 << 2);
    /// Every packet received from a Client that is connected (`log_type debug`).
    pub const PACKETS: Self = Self(1 << 3);

    /// These and `other`.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether any of `other` is wanted.
    #[must_use]
    pub const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Choices that hold for the Clients of one listener.
#[derive(Clone, Debug)]
pub struct ListenerPolicy {
    /// The port it listens on, for log lines; zero for a unix socket.
    pub port: u16,
    /// Whether its Clients are bridges of this broker, which are called what the operator calls them.
    pub is_for_bridges: bool,
    /// Whether a Client may connect without a User Name; without a password file, whether it may
    /// connect at all.
    pub allow_anonymous: bool,
    /// Passwords and access rules; `None` if there are neither.
    pub security: Option<Arc<Security>>,
    /// Begins every topic of these Clients, unseen by them.
    pub mount_point: Option<Arc<str>>,
    /// Connections at a time, on all shards together.
    pub max_connections: Option<usize>,
    /// Topic Aliases a Client may set.
    pub max_topic_alias: u16,
    /// Topic Aliases we set towards a Client that allows them.
    pub max_topic_alias_broker: u16,
    /// Highest QoS a Client may publish with.
    pub max_qos: QoS,
    /// Protocol versions spoken here.
    pub accept_protocol_versions: ProtocolVersions,
    /// Whether the User Name replaces the Client Identifier.
    pub use_username_as_clientid: bool,
    /// Whether the common name of the certificate is the User Name.
    pub use_identity_as_username: bool,
    /// Whether the whole subject of the certificate is the User Name.
    pub use_subject_as_username: bool,
    /// Whether a Client may leave its identifier to us.
    pub allow_zero_length_clientid: bool,
    /// Begins the identifiers we make up.
    pub auto_id_prefix: Arc<str>,
}

impl Default for ListenerPolicy {
    fn default() -> Self {
        Self {
            port: 0,
            is_for_bridges: false,
            allow_anonymous: false,
            security: None,
            mount_point: None,
            max_connections: None,
            max_topic_alias: 10,
            max_topic_alias_broker: 10,
            max_qos: QoS::ExactlyOnce,
            accept_protocol_versions: ProtocolVersions::ALL,
            use_username_as_clientid: false,
            use_identity_as_username: false,
            use_subject_as_username: false,
            allow_zero_length_clientid: true,
            auto_id_prefix: Arc::from("auto-"),
        }
    }
}

impl ListenerPolicy {
    fn admits_as(&self, other: &Self) -> bool {
        // Files that say the same are the same object.
        let security = |policy: &Self| policy.security.as_ref().map(Arc::as_ptr);
        security(self) == security(other)
            && self.allow_anonymous == other.allow_anonymous
            && self.mount_point == other.mount_point
            && self.use_identity_as_username == other.use_identity_as_username
            && self.use_subject_as_username == other.use_subject_as_username
    }

    /// Whether Clients are named by their certificates, and not by what they say.
    #[must_use]
    pub const fn takes_username_from_certificate(&self) -> bool {
        self.use_identity_as_username || self.use_subject_as_username
    }

    /// The User Name of a Client that has shown this certificate, or none, on a listener that takes it
    /// from there.
    #[must_use]
    pub fn username_in<'a>(&self, certificate: Option<&'a CertificateIdentity>) -> Option<&'a str> {
        let certificate = certificate?;
        if self.use_identity_as_username {
            certificate.common_name.as_deref()
        } else {
            Some(&certificate.subject)
        }
    }
}

/// What bounds hold for all shards together. Touched when a connection or a Session comes or goes,
/// never for a message.
#[derive(Debug)]
pub struct Occupancy {
    connections: AtomicUsize,
    clients: AtomicUsize,
    listeners: Box<[AtomicUsize]>,
}

impl Default for Occupancy {
    fn default() -> Self {
        Self {
            connections: AtomicUsize::new(0),
            clients: AtomicUsize::new(0),
            listeners: (0..LISTENERS_MAX).map(|_| AtomicUsize::new(0)).collect(),
        }
    }
}

impl Occupancy {
    fn listener(&self, listener: ListenerId) -> &AtomicUsize {
        &self.listeners[listener.index().min(LISTENERS_MAX - 1)]
    }

    /// Counts a connection, unless its listener or the broker has as many as it may have.
    #[must_use]
    pub fn enter(
        &self,
        listener: ListenerId,
        listener_max: Option<usize>,
        broker_max: Option<usize>,
    ) -> bool {
        if !count_up(&self.connections, broker_max) {
            return false;
        }
        let entered = count_up(self.listener(listener), listener_max);
        if !entered {
            count_down(&self.connections);
        }
        entered
    }

    /// A connection that was counted has gone.
    pub fn leave(&self, listener: ListenerId) {
        count_down(&self.connections);
        count_down(self.listener(listener));
    }

    /// Counts a Session, unless there are `clients_max`.
    #[must_use]
    pub fn begin_session(&self, clients_max: Option<usize>) -> bool {
        count_up(&self.clients, clients_max)
    }

    /// A Session that was counted has ended.
    pub fn end_session(&self) {
        count_down(&self.clients);
    }

    /// Connections of the broker.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Sessions of the broker, connected or not.
    #[must_use]
    pub fn clients(&self) -> usize {
        self.clients.load(Ordering::Relaxed)
    }
}

// Relaxed throughout: each is a number by itself, and nothing else is read because of it.
fn count_up(count: &AtomicUsize, max: Option<usize>) -> bool {
    let max = max.unwrap_or(usize::MAX);
    count.fetch_add(1, Ordering::Relaxed) < max || {
        count_down(count);
        false
    }
}

fn count_down(count: &AtomicUsize) {
    // Never below zero: a Session that was there before counting began may end.
    let less = |count: usize| count.checked_sub(1);
    let _ = count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
}

/// A set of protocol versions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProtocolVersions(u8);

impl ProtocolVersions {
    /// No version.
    pub const NONE: Self = Self(0);
    /// 3.1, 3.1.1 and 5.0.
    pub const ALL: Self = Self::NONE
        .with(ProtocolVersion::V3)
        .with(ProtocolVersion::V311)
        .with(ProtocolVersion::V5);

    /// These and `version`.
    #[must_use]
    pub const fn with(self, version: ProtocolVersion) -> Self {
        Self(self.0 | 1 << version as u8)
    }

    /// Whether `version` is one of them.
    #[must_use]
    pub const fn contains(self, version: ProtocolVersion) -> bool {
        self.0 & 1 << version as u8 != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_connection_is_not_counted_anywhere() {
        let occupancy = Occupancy::default();
        let (one, other) = (ListenerId(0), ListenerId(1));
        assert!(occupancy.enter(one, Some(1), Some(2)));
        assert!(!occupancy.enter(one, Some(1), Some(2)));
        assert!(occupancy.enter(other, None, Some(2)));
        assert!(!occupancy.enter(other, None, Some(2)));
        assert_eq!(occupancy.connections(), 2);
        occupancy.leave(one);
        assert!(occupancy.enter(one, Some(1), Some(2)));
    }

    #[test]
    fn each_of_as_many_listeners_as_there_may_be_has_a_count_of_its_own() {
        let occupancy = Occupancy::default();
        for index in 0..LISTENERS_MAX {
            let listener = ListenerId(u16::try_from(index).unwrap());
            assert!(occupancy.enter(listener, Some(1), None), "{index}");
            assert!(!occupancy.enter(listener, Some(1), None), "{index}");
        }
    }
}
