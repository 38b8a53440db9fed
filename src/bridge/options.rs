//! What the configuration of a bridge comes to.

#![forbid(unsafe_code)]

use crate::config::Bridge;
use crate::message::ProtocolVersion;
use crate::policy::Policy;
use std::time::Duration;

/// What a bridge says to both brokers.
#[derive(Debug)]
pub(super) struct RemoteOptions {
    pub(super) version: ProtocolVersion,
    pub(super) try_private: bool,
    pub(super) clean_start: bool,
    pub(super) keep_alive: Duration,
    pub(super) client_identifier: String,
    pub(super) username: Option<String>,
    pub(super) password: Option<String>,
    /// Where the remote broker is told whether the bridge is connected.
    pub(super) notification_topic: Option<String>,
    pub(super) session_expiry_interval_s: Option<u32>,
    pub(super) receive_maximum: Option<u16>,
    /// The largest packet that goes to the remote broker.
    pub(super) packet_size_max: Option<u32>,
    pub(super) max_topic_alias: u16,
    pub(super) outgoing_retain: bool,
    pub(super) attempt_unsubscribe: bool,
    pub(super) local_client_identifier: String,
    pub(super) local_clean_start: bool,
    pub(super) local_username: Option<String>,
    pub(super) local_password: Option<String>,
}

impl RemoteOptions {
    pub(super) fn new(bridge: &Bridge, host_name: &str) -> Self {
        // As in Mosquitto.
        let client_identifier = match &bridge.remote_clientid {
            Some(identifier) => identifier.clone(),
            None => format!("{host_name}.{}", bridge.name),
        };
        let local_client_identifier = match &bridge.local_clientid {
            Some(identifier) => identifier.clone(),
            None => format!("local.{client_identifier}"),
        };
        let is_told = bridge.notifications && !bridge.notifications_local_only;
        let clean_start = bridge.clean_session;
        Self {
            version: bridge.protocol_version,
            try_private: bridge.try_private,
            clean_start,
            keep_alive: bridge.keepalive,
            username: bridge.remote_username.clone(),
            password: bridge.remote_password.clone(),
            notification_topic: is_told.then(|| state_topic(bridge, &client_identifier)),
            session_expiry_interval_s: bridge.session_expiry_interval_s,
            receive_maximum: bridge.receive_maximum,
            packet_size_max: bridge.max_packet_size,
            max_topic_alias: bridge.max_topic_alias,
            outgoing_retain: bridge.outgoing_retain,
            attempt_unsubscribe: bridge.attempt_unsubscribe,
            local_client_identifier,
            local_clean_start: bridge.local_clean_session.unwrap_or(clean_start),
            local_username: bridge.local_username.clone(),
            local_password: bridge.local_password.clone(),
            client_identifier,
        }
    }

    /// What is spoken to this broker: so that nothing of a message has to be left out.
    pub(super) const fn local_version(&self) -> ProtocolVersion {
        if self.version.is_v5() {
            ProtocolVersion::V5
        } else {
            // Without a Receive Maximum, as the remote broker knows of none.
            ProtocolVersion::V311
        }
    }
}

/// What is a bridge's alone at this broker.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// Its Session.
    pub(super) client_identifier: String,
    /// Where its state is told.
    pub(super) notification_topic: Option<String>,
}

impl Names {
    pub(super) fn new(bridge: &Bridge, host_name: &str) -> Self {
        let options = RemoteOptions::new(bridge, host_name);
        Self {
            notification_topic: notification_topic(bridge, &options),
            client_identifier: options.local_client_identifier,
        }
    }
}

/// Where the Clients of this broker are told whether the bridge is connected, if they are.
pub(super) fn notification_topic(bridge: &Bridge, options: &RemoteOptions) -> Option<String> {
    let topic_name = || state_topic(bridge, &options.client_identifier);
    bridge.notifications.then(topic_name)
}

fn state_topic(bridge: &Bridge, client_identifier: &str) -> String {
    match &bridge.notification_topic {
        Some(topic_name) => topic_name.clone(),
        None => format!("$SYS/broker/connection/{client_identifier}/state"),
    }
}

/// What this broker takes from a bridge.
#[derive(Clone, Copy, Debug)]
pub(super) struct LocalLimits {
    pub(super) packet_size_max: u32,
    /// Zero for no bound.
    pub(super) receive_maximum: u16,
    pub(super) retain_available: bool,
    /// Zero for no bound.
    pub(super) max_keep_alive_s: u16,
}

impl LocalLimits {
    pub(super) fn new(policy: &Policy) -> Self {
        let limits = &policy.limits;
        Self {
            packet_size_max: match limits.max_packet_size {
                0 => u32::MAX,
                size => size,
            },
            receive_maximum: limits.max_inflight_messages,
            retain_available: policy.retain_available,
            max_keep_alive_s: limits.max_keepalive_s,
        }
    }
}
