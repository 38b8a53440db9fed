//! What the operator decided and the shard core obeys: plain data, with Mosquitto's defaults.
//!
//! Fields have the names of Mosquitto's directives. [`Settings`] is shared by all shards and
//! replaced as a whole when the configuration is read again.

#![forbid(unsafe_code)]

use std::sync::Arc;

use crate::auth::Security;
use crate::limits::Limits;
use crate::message::{ProtocolVersion, QoS};
use crate::origin::ListenerId;

/// Everything the shard core is told by the configuration.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// For all listeners.
    pub policy: Policy,
    /// One for each listener, by [`ListenerId`].
    pub listeners: Vec<ListenerPolicy>,
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
        }
    }

    /// The policy of `listener`.
    #[must_use]
    pub fn listener(&self, listener: ListenerId) -> Option<&ListenerPolicy> {
        self.listeners.get(listener.index())
    }
}

/// Choices that hold for the whole broker.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Its bounds.
    pub limits: Limits,
    /// Which events leave the shards.
    pub log: LogMask,
}

/// Which [events](crate::policy) a shard reports; what nobody wants to know costs nothing.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogMask(u32);

impl LogMask {
    /// Nothing.
    pub const NONE: Self = Self(0);
    /// Connections accepted, Clients connected, disconnected and refused (`connection_messages`).
    pub const CONNECTIONS: Self = Self(1 << 0);
    /// Messages dropped and other things an operator should look at.
    pub const WARNINGS: Self = Self(1 << 1);
    /// SUBSCRIBE packets (`log_type subscribe`).
    pub const SUBSCRIBE: Self = Self(1 << 2);
    /// UNSUBSCRIBE packets (`log_type unsubscribe`).
    pub const UNSUBSCRIBE: Self = Self(1 << 3);
    /// Every packet received and sent (`log_type debug`).
    pub const PACKETS: Self = Self(1 << 4);

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
