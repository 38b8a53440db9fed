//! A configuration that takes the place of another one in a broker that runs.

#![forbid(unsafe_code)]

use super::problem::{ConfigError, Place, Problem, Remark, Severity};
use super::{Config, LISTENERS_MAX, Listener};
use crate::policy::ListenerPolicy;
use std::collections::BTreeMap;

/// A listener, if it is one's, and the directive.
type GivenKey = (Option<String>, &'static str);

/// All values of a directive, and the place of the last.
type GivenValues<'a> = (Vec<&'a str>, &'a Place);

impl Config {
    /// Prepares this configuration to take the place of `old`. Listeners that `old` had keep their place
    /// among the listeners, open or closed, and new ones come behind them. What only counts at the
    /// start stays as it was, with a remark for each directive that has changed.
    ///
    /// # Errors
    /// When there have been too many listeners.
    pub fn succeed(&mut self, old: &Self) -> Result<(), ConfigError> {
        self.remark_changes(old);
        let mut candidates: Vec<Option<Listener>> = self.listeners.drain(..).map(Some).collect();
        for was in &old.listeners {
            let same = |slot: &&mut Option<Listener>| {
                !was.is_closed && slot.as_ref().is_some_and(|new| new.address == was.address)
            };
            let Some(new) = candidates.iter_mut().find(same).and_then(Option::take) else {
                self.listeners.push(Listener {
                    is_closed: true,
                    ..was.clone()
                });
                continue;
            };
            self.listeners.push(succeeding_listener(new, was));
        }
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

    fn remark_changes(&mut self, old: &Self) {
        let was = old.given_at_start();
        let is = self.given_at_start();
        let mut remarks = Vec::new();
        for key in was
            .keys()
            .chain(is.keys().filter(|key| !was.contains_key(*key)))
        {
            let (before, after) = (was.get(key), is.get(key));
            if before.map(|given| &given.0) == after.map(|given| &given.0) {
                continue;
            }
            let place = after.or(before).map(|given| given.1.clone());
            remarks.push(Remark {
                severity: Severity::Warning,
                place,
                text: format!(
                    "'{}' has changed, which counts from the next start on",
                    key.1
                ),
            });
        }
        self.remarks.extend(remarks);
    }

    /// The values of directives that only count at the start, by listener and name.
    fn given_at_start(&self) -> BTreeMap<GivenKey, GivenValues<'_>> {
        let mut all: BTreeMap<_, (Vec<&str>, &Place)> = BTreeMap::new();
        // Listeners come and go, and their order means nothing.
        for given in self.given.iter().filter(|given| !is_listener(given)) {
            let listener = given.listener.map(|index| match self.listeners.get(index) {
                Some(listener) if !self.is_local_only => listener.address.to_string(),
                _ => String::new(),
            });
            let entry = all
                .entry((listener, given.directive))
                .or_insert((Vec::new(), &given.place));
            entry.0.push(&given.value);
            entry.1 = &given.place;
        }
        all
    }
}

/// Whether the directive begins a listener or says where it is.
fn is_listener(given: &super::Given) -> bool {
    matches!(given.directive, "listener" | "port" | "bind_address")
}

/// What a reload changes of a listener, and the rest as it was: a socket stays where it is, and a Client
/// below its mount point.
fn succeeding_listener(new: Listener, was: &Listener) -> Listener {
    Listener {
        place: new.place,
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
