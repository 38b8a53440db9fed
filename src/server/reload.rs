//! The configuration is read again, while everything goes on.

#![forbid(unsafe_code)]

use super::files::Guards;
use super::listeners::AllListening;
use super::logging::ShardLines;
use super::{Failure, configuration, files, logging, remark};
use crate::admin::{self, AdminPort, Watch};
use crate::auth::Security;
use crate::bridge::Bridges;
use crate::cli::Arguments;
use crate::config::Config;
use crate::log::Log;
use crate::net::Patience;
use crate::net::tls::{KeyLogFile, TlsAcceptor};
use crate::runtime::{Mailbox, Request};
use crate::shard::Command;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Does what signals ask for.
#[derive(Debug)]
pub(super) struct Reloader {
    pub(super) file: Option<PathBuf>,
    pub(super) arguments: Arguments,
    /// The configuration in force.
    pub(super) config: Config,
    pub(super) key_log: Option<Arc<KeyLogFile>>,
    pub(super) acceptors: Vec<Option<TlsAcceptor>>,
    pub(super) securities: Vec<Option<Arc<Security>>>,
    /// What was in force before. Kept, so that what the files held is freed by this thread and not by the last
    /// shard that lets go of it.
    pub(super) retired: Vec<Option<Arc<Security>>>,
    pub(super) listening: Arc<Mutex<AllListening>>,
    pub(super) bridges: Arc<Mutex<Bridges>>,
    pub(super) shard_lines: ShardLines,
    pub(super) mailboxes: Arc<[Mailbox]>,
    pub(super) shard_count: usize,
    pub(super) log: Log,
    pub(super) watch: Watch,
    pub(super) admin_port: Option<AdminPort>,
}

impl Reloader {
    /// Does it.
    pub(super) fn handle(&mut self, request: Request) {
        match request {
            Request::Reload => {
                // Whatever becomes of the rest, logrotate has moved the file away.
                self.log.reopen();
                admin::notify_reloading();
                match self.reload() {
                    Ok(()) => tracing::info!("Reloading config."),
                    Err(failure) => {
                        failure.log();
                        tracing::error!(
                            "Error reloading configuration, which stays as it was before."
                        );
                    }
                }
                admin::notify_ready("serving clients");
            }
            Request::Save => {
                let text = if self.config.persistence.enabled {
                    "what was acknowledged is stored already"
                } else {
                    "persistence is off"
                };
                tracing::info!("SIGUSR1: nothing is to be saved: {text}");
            }
            Request::DumpTree => {
                for mailbox in &*self.mailboxes {
                    mailbox.send(Command::DumpTree);
                }
            }
        }
    }

    /// Reads everything, and only then changes anything.
    fn reload(&mut self) -> Result<(), Failure> {
        if self.file.is_none() {
            return Ok(());
        }
        let mut config = configuration(&self.arguments)?;
        config.succeed(&self.config)?;
        let mut guards = Guards::load(&config, self.key_log.clone(), &self.securities)?;
        let bridges = files::bridges(&config, guards.warnings_mut())?;
        let log = logging::log_options(&config.log)?;
        let listening = self.listening.clone();
        let mut listening = listening.lock().unwrap_or_else(PoisonError::into_inner);
        let first = listening.count();
        let acceptors = guards.acceptors(&self.acceptors);
        let wrappings = listening.wrappings(&config, &acceptors, first)?;
        let patience = Patience::of(Duration::ZERO);
        listening.open(&config, &acceptors, self.shard_count, patience)?;

        // From here on nothing fails.
        remark(&config, &guards);
        guards.install(&acceptors);
        self.acceptors = acceptors;
        let mut settings = config.settings(guards.securities(), self.shard_count);
        listening.name_ports(&mut settings);
        let settings = Arc::new(settings);
        for mailbox in &*self.mailboxes {
            mailbox.send(Command::Configure(settings.clone()));
        }
        wrappings.install(&self.mailboxes);
        // Behind the settings, in the same mailboxes: no connection comes to a listener unknown to them.
        listening.hand_over(first, &self.mailboxes);
        listening.close(&config, &self.mailboxes);
        for place in listening.places(first) {
            tracing::info!("listening on {place}");
        }
        // Behind the settings as well.
        if let Some(listener) = config.bridge_listener() {
            let mut running = self.bridges.lock().unwrap_or_else(PoisonError::into_inner);
            running.reload(listener, bridges, &config.policy);
        }
        self.shard_lines.attach(&self.log, listening.ports());
        self.log.configure(log);
        self.watch
            .set_sys_interval(Duration::from_secs(config.sys_interval_s.into()));
        if let Some(port) = &self.admin_port {
            port.set_token(guards.admin_token());
        }
        let securities = guards.securities().to_vec();
        self.retired = std::mem::replace(&mut self.securities, securities);
        self.config = config;
        Ok(())
    }
}
