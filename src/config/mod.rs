//! The configuration file: Mosquitto's directives, what they mean here, and what is made of them.
//!
//! **Knows nothing of** files: whoever reads them hands their bytes in ([`Files`]), and gets a [`Config`]
//! with the names of further files (passwords, certificates) to be read.
//!
//! # Always true
//! - One table ([`DIRECTIVES`]) knows all directives. The parser obeys it, the manual is printed from it.
//! - Nothing is ignored in silence: a directive does what Mosquitto's does, or there is a [`Remark`]
//!   that says why it changes nothing, or there is a [`ConfigError`].
//! - An error names file, line and directive.
//! - No input panics.
//!
//! Read next: `table/`, then `parser.rs`.

#![forbid(unsafe_code)]

mod admin;
mod bridge;
mod check;
mod check_bridge;
mod directive;
mod listener;
mod log;
mod parser;
mod persistence;
mod problem;
mod security;
mod settings;
mod successor;
mod table;
#[cfg(all(test, not(loom)))]
mod tests;
mod value;
mod written;

pub use admin::AdminOptions;
pub use bridge::{
    BRIDGE_PORT, Bridge, BridgeAddress, BridgeTls, BridgeTopic, Direction, RestartTimeout,
    StartType, TcpKeepAlive,
};
pub use directive::{Directive, Place as RefusedPlace, Reload, Repeat, Scope, Status};
pub use listener::{
    ListenAddress, Listener, PORT, Protocol, ProxyProtocol, SocketDomain, TlsOptions, TlsVersion,
};
pub use log::{Destinations, Facility, LogOptions, LogTypes, TimestampPattern};
pub use parser::{Files, Parser};
pub use persistence::{Durability, DurabilityError, PersistenceOptions};
pub use problem::{ConfigError, Place, Problem, Remark, Severity};
pub use security::SecurityOptions;
pub use settings::SecurityFiles;
pub use table::{DIRECTIVES, Section, all};
pub use value::{Arguments, FileReference, Value};
pub use written::Written;

use crate::policy::Policy;

/// All that a configuration says.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the shards have to obey.
    pub policy: Policy,
    /// Security settings of listeners that have none of their own.
    pub security: SecurityOptions,
    /// Whether listeners have password and ACL files of their own.
    pub per_listener_settings: bool,
    /// In the order of the file. See [`Config::open_locally`] for when there is none.
    pub listeners: Vec<Listener>,
    /// Whether no listener was asked for, so that only this machine may connect.
    pub is_local_only: bool,
    /// In the order of the file.
    pub bridges: Vec<Bridge>,
    /// The log.
    pub log: LogOptions,
    /// The store.
    pub persistence: PersistenceOptions,
    /// The admin port.
    pub admin: AdminOptions,
    /// Where the process identifier is written.
    pub pid_file: Option<FileReference>,
    /// Whom the process becomes when it was started by root.
    pub user: Option<String>,
    /// Number of shards.
    pub cores: Option<usize>,
    /// Whether sockets send small packets at once.
    pub set_tcp_nodelay: bool,
    /// Time between two updates of `$SYS`; zero for none.
    pub sys_interval_s: u16,
    /// Bytes that queued and retained messages may take; `usize::MAX` for the bounds of
    /// [`crate::limits`].
    pub memory_limit: usize,
    /// What is to be logged about the configuration itself.
    pub remarks: Vec<Remark>,
    /// The directives of the broker as a whole.
    pub written: Written,
    is_log_dest_given: bool,
    is_log_type_given: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            security: SecurityOptions::default(),
            per_listener_settings: false,
            listeners: Vec::new(),
            is_local_only: true,
            bridges: Vec::new(),
            log: LogOptions::default(),
            persistence: PersistenceOptions::default(),
            admin: AdminOptions::default(),
            pid_file: None,
            user: None,
            cores: None,
            set_tcp_nodelay: true,
            sys_interval_s: 10,
            memory_limit: usize::MAX,
            remarks: Vec::new(),
            written: Written::default(),
            is_log_dest_given: false,
            is_log_type_given: false,
        }
    }
}

impl Config {
    /// Reads `file` and what it includes.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn parse(file: &str, files: &dyn Files) -> Result<Self, ConfigError> {
        let mut parser = Parser::new(files);
        parser.read(file)?;
        parser.finish()
    }
}

/// Reads `bytes` as a configuration, and as the files it includes: for fuzzing.
pub fn fuzz(bytes: &[u8]) {
    struct Itself<'a>(&'a [u8]);
    impl Files for Itself<'_> {
        fn read(&self, _: &str) -> Result<Vec<u8>, String> {
            Ok(self.0.to_vec())
        }
        fn names(&self, directory: &str) -> Result<Vec<String>, String> {
            // Enough to be sorted, and not more than an input can ask for.
            Ok(vec![
                "b.conf".into(),
                format!("{directory}.conf"),
                "c".into(),
            ])
        }
    }
    let result = Config::parse("fuzz", &Itself(bytes));
    // What is said about it must not panic either.
    match result {
        Ok(mut config) => {
            for remark in &config.remarks {
                let _ = remark.to_string();
            }
            config.open_locally(&[], &[]);
            let _ = config.settings(&[], 1);
        }
        Err(error) => {
            let _ = error.to_string();
        }
    }
}
