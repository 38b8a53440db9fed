//! A configuration that takes the place of another one in a broker that runs.

#![forbid(unsafe_code)]

use super::problem::{ConfigError, Problem};
use super::{Config, ListenAddress, Listener};
use crate::limits::LISTENERS_MAX;
use crate::policy::ListenerPolicy;

impl Config {
    /// Prepares this configuration to take the place of `old`. Listeners that `old` had keep their place
    /// among the listeners, open or closed, and new ones come behind them. What only counts at the
    /// start stays as it was, with a remark for each directive that says something else than what runs.
    ///
    /// # Errors
    /// When there have been too many listeners.
    pub fn succeed(&mut self, old: &Self) -> Result<(), ConfigError> {
        let mut remarks = self.written.succeed(&old.written, None);
        let mut candidates: Vec<Option<Listener>> = self.listeners.drain(..).map(Some).collect();
        for was in &old.listeners {
            let same = |slot: &&mut Option<Listener>| {
                !was.is_closed && slot.as_ref().is_some_and(|new| new.address == was.address)
            };
            let Some(mut new) = candidates.iter_mut().find(same).and_then(Option::take) else {
                self.listeners.push(Listener {
                    // It is nowhere, and there may be bridges again.
                    is_closed: was.address != ListenAddress::Bridges,
                    ..was.clone()
                });
                continue;
            };
            for remark in new.written.succeed(&was.written, new.place.as_ref()) {
                // Listeners that nobody named have their directives in common.
                if !remarks.contains(&remark) {
                    remarks.push(remark);
                }
            }
            self.listeners.push(succeeding_listener(new, was));
        }
        self.remarks.extend(remarks);
        for new in candidates.into_iter().flatten() {
            if self.listeners.len() == LISTENERS_MAX {
                let text = format!(
                    "There have been {LISTENERS_MAX} listeners since the start, those that are gone \
                     included."
                );
                return Err(ConfigError {
                    problem: Problem::Contradiction(text.into()),
                    place: new.place,
                });
            }
            self.listeners.push(new);
        }
        self.pid_file.clone_from(&old.pid_file);
        self.user.clone_from(&old.user);
        self.cores = old.cores;
        self.set_tcp_nodelay = old.set_tcp_nodelay;
        self.persistence = old.persistence.clone();
        self.admin.listener = old.admin.listener;
        Ok(())
    }
}

/// What a reload changes of a listener, and the rest as it was: a socket stays where it is, and a Client
/// below its mount point.
fn succeeding_listener(new: Listener, was: &Listener) -> Listener {
    Listener {
        place: new.place,
        written: new.written,
        policy: ListenerPolicy {
            mount_point: was.policy.mount_point.clone(),
            ..new.policy
        },
        security: new.security,
        protocol: new.protocol,
        tls: new.tls,
        proxy_protocol: new.proxy_protocol,
        proxy_protocol_v2_require_tls: new.proxy_protocol_v2_require_tls,
        websockets_origins: new.websockets_origins,
        http_dir: new.http_dir,
        ..was.clone()
    }
}
