//! From a [`Config`] to what the shards obey, and from one to the next.

#![forbid(unsafe_code)]

use super::listener::ListenAddress;
use super::log::{Destinations, LogTypes};
use super::problem::{ConfigError, Problem};
use super::value::FileReference;
use super::{Config, Listener, PORT};
use crate::auth::Security;
use crate::limits::LISTENERS_MAX;
use crate::origin::ListenerId;
use crate::policy::{ListenerPolicy, LogMask, Settings};
use std::net::IpAddr;
use std::sync::Arc;

/// The files that guard a listener.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SecurityFiles<'a> {
    /// Who may log in.
    pub password_file: Option<&'a FileReference>,
    /// Who may do what.
    pub acl_file: Option<&'a FileReference>,
}

impl SecurityFiles<'_> {
    /// Whether there is neither.
    pub fn is_empty(&self) -> bool {
        self.password_file.is_none() && self.acl_file.is_none()
    }
}

impl Config {
    /// Makes up listeners when the configuration has none: at `addresses`, or else the loopback
    /// addresses, and `ports`, or else 1883.
    ///
    /// Directives of a listener that stand before any listener hold for these.
    pub fn open_locally(&mut self, addresses: &[IpAddr], ports: &[u16]) {
        if !self.is_local_only {
            return;
        }
        let template = self.listeners.pop().unwrap_or_default();
        let ports = if ports.is_empty() { &[PORT] } else { ports };
        let mut open = |address| {
            self.listeners.push(Listener {
                address,
                ..template.clone()
            });
        };
        for &port in ports {
            if addresses.is_empty() {
                open(ListenAddress::Loopback { port });
            }
            for address in addresses {
                open(ListenAddress::Tcp {
                    host: Some(address.to_string()),
                    port,
                });
            }
        }
    }

    /// Adds the listener of bridges, if there are any: a place among the listeners for what holds for them as Clients.
    ///
    /// # Errors
    /// When there are too many listeners without it.
    pub fn listen_to_bridges(&mut self) -> Result<(), ConfigError> {
        let Some(bridge) = self.bridges.first() else {
            return Ok(());
        };
        if self.listeners.len() >= LISTENERS_MAX {
            let text =
                format!("Bridges come to a listener, and there are {LISTENERS_MAX} without it.");
            return Err(ConfigError {
                problem: Problem::Contradiction(text.into()),
                place: Some(bridge.place.clone()),
            });
        }
        self.listeners.push(Listener {
            address: ListenAddress::Bridges,
            ..Listener::default()
        });
        Ok(())
    }

    /// The listener of bridges.
    pub fn bridge_listener(&self) -> Option<ListenerId> {
        let mut listeners = self.listeners.iter();
        let index = listeners.position(|listener| listener.address == ListenAddress::Bridges)?;
        u16::try_from(index).ok().map(ListenerId)
    }

    /// Makes the system's log the destination of lines if nothing else was asked for: a process in the
    /// background has no standard error.
    pub fn log_to_system(&mut self) {
        if !self.is_log_dest_given {
            self.log.destinations = Destinations {
                syslog: true,
                ..Destinations::NONE
            };
        }
    }

    /// The files that guard `listener`.
    pub fn security_files<'a>(&'a self, listener: &'a Listener) -> SecurityFiles<'a> {
        // Bridges are the operator's own, and their topics what they are permitted.
        let security = if self.per_listener_settings || listener.address == ListenAddress::Bridges {
            &listener.security
        } else {
            &self.security
        };
        SecurityFiles {
            password_file: security.password_file.as_ref(),
            acl_file: security.acl_file.as_ref(),
        }
    }

    /// What the shards obey; `securities` has what the files of each listener say.
    pub fn settings(&self, securities: &[Option<Arc<Security>>], shard_count: usize) -> Settings {
        let mut policy = self.policy.clone();
        policy.log = self.log_mask();
        if self.memory_limit != usize::MAX {
            let half = self.memory_limit / 2;
            let limits = &mut policy.limits;
            limits.memory_bytes_max = half / shard_count.max(1);
            limits.max_retained_bytes = limits.max_retained_bytes.min(half);
        }
        let listeners = self
            .listeners
            .iter()
            .enumerate()
            .map(|(index, listener)| {
                self.listener_policy(listener, securities.get(index).cloned().flatten())
            })
            .collect();
        Settings {
            policy,
            listeners,
            occupancy: Arc::default(),
        }
    }

    fn listener_policy(
        &self,
        listener: &Listener,
        security: Option<Arc<Security>>,
    ) -> ListenerPolicy {
        if listener.address == ListenAddress::Bridges {
            return ListenerPolicy {
                is_for_bridges: true,
                allow_anonymous: true,
                security,
                ..listener.policy.clone()
            };
        }
        let (own, all) = (&listener.security, &self.security);
        ListenerPolicy {
            port: match listener.address {
                ListenAddress::Tcp { port, .. } | ListenAddress::Loopback { port } => port,
                ListenAddress::Unix(_) | ListenAddress::Bridges => 0,
            },
            allow_anonymous: own
                .allow_anonymous
                .or(all.allow_anonymous)
                .unwrap_or(self.is_local_only),
            allow_zero_length_clientid: own
                .allow_zero_length_clientid
                .or(all.allow_zero_length_clientid)
                .unwrap_or(true),
            auto_id_prefix: own
                .auto_id_prefix
                .as_deref()
                .or(all.auto_id_prefix.as_deref())
                .unwrap_or("auto-")
                .into(),
            security,
            ..listener.policy.clone()
        }
    }

    /// Which events the shards report.
    fn log_mask(&self) -> LogMask {
        let types = self.log.types;
        if self.log.destinations == Destinations::NONE {
            return LogMask::NONE;
        }
        let mut mask = LogMask::NONE;
        if self.log.connection_messages && types.contains(LogTypes::NOTICE) {
            mask = mask.or(LogMask::CONNECTIONS);
        }
        for (kind, events) in [
            (LogTypes::SUBSCRIBE, LogMask::SUBSCRIBE),
            (LogTypes::UNSUBSCRIBE, LogMask::UNSUBSCRIBE),
            (LogTypes::DEBUG, LogMask::PACKETS),
        ] {
            if types.contains(kind) {
                mask = mask.or(events);
            }
        }
        mask
    }
}
