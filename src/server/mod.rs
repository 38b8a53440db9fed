//! The broker's process: from the command line and the configuration to shards at work, and back.
//!
//! **Lives on** the main thread, which starts everything, waits, and ends it.
//!
//! # Always true
//! - Nothing is opened before everything that the configuration names has been read and understood.
//! - A configuration that is read again takes effect as a whole, or not at all and with an error that says
//!   why.
//! - Privileges are dropped before the first byte of a Client is read.
//!
//! Read next: `files.rs` (what the configuration names), `listeners.rs`, `reload.rs`.

#![forbid(unsafe_code)]

mod background;
mod check;
mod files;
mod listeners;
mod logging;
mod privileges;
mod reload;

use crate::admin::{self, AdminPort, Watch, WatchOptions};
use crate::bridge::{BridgeTable, Bridges, PreparedBridge};
use crate::cli::{Arguments, CpuAffinity, EXIT_BAD_ARGUMENTS};
use crate::config::{Config, ConfigError, Listener, Problem, Severity};
use crate::log::{Kind, Log};
use crate::net::Patience;
use crate::net::tls::KeyLogFile;
use crate::runtime::{self, Beside, Clock, CoresError, Placed, StoredShard, open_store};
use crate::shown::shown;
use crate::wal::{Directory, DirectoryError, OpenError, StoreOptions};
use files::{Disk, Guards};
use listeners::AllListening;
use logging::ShardLines;
pub(crate) use privileges::{PrivilegesError, Successor};
use reload::Reloader;
use std::error::Error;
use std::io;
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How long a start waits for addresses that are in use. The kernel takes the rings of a broker that was
/// killed down after its process has gone, some milliseconds or, when its disk is busy, longer, and what it
/// listened on goes with them.
const LISTENING_PATIENCE: Duration = Duration::from_secs(3);
/// How long a start waits for a store that another broker uses. One that is told to end gives up its addresses at once,
/// but its store only once its Clients have closed their connections or it waits for them no more, and is gone after
/// 4.5 s whatever happens.
const STORE_PATIENCE: Duration = Duration::from_secs(5);
/// How long the last lines of the log may take.
const LOG_PATIENCE: Duration = Duration::from_secs(2);
/// How long the log may take when the process is about to end in haste.
const LAST_WORDS_PATIENCE: Duration = Duration::from_millis(100);

/// Why the broker did not start, or ended badly.
#[derive(Debug, thiserror::Error)]
enum Failure {
    /// The operator wrote something that cannot be meant.
    #[error("{0}")]
    Configuration(Box<dyn Error>),
    /// The system refused something.
    #[error("Error: {0}")]
    Start(Box<dyn Error>),
}

impl Failure {
    fn configuration(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Configuration(error.into())
    }

    fn start(error: impl Into<Box<dyn Error>>) -> Self {
        Self::Start(error.into())
    }

    /// Says it in the log, where each of its lines is one.
    fn log(&self) {
        for line in self.to_string().lines() {
            tracing::error!("{line}");
        }
    }
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        Self::configuration(error)
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        // What a thread cannot be begun for; nothing else here is asked without waiting.
        if error.kind() == io::ErrorKind::WouldBlock {
            let text = format!(
                "{error}: too few threads are permitted: ulimit -u (systemd: TasksMax, docker: --pids-limit)"
            );
            return Self::start(text);
        }
        Self::start(error)
    }
}

/// Is a broker until it is told to end, and returns the exit status.
#[must_use]
pub fn run(arguments: &Arguments) -> ExitCode {
    let mut is_said = false;
    match serve(arguments, &mut is_said) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            if !is_said {
                eprintln!("{failure}");
            }
            match failure {
                Failure::Configuration(_) => ExitCode::from(EXIT_BAD_ARGUMENTS),
                Failure::Start(_) => ExitCode::FAILURE,
            }
        }
    }
}

/// Reads the configuration `file` and what it includes: for the commands beside the broker.
///
/// # Errors
/// The first thing that is wrong.
pub(crate) fn read_configuration(file: &Path) -> Result<Config, ConfigError> {
    Config::parse(&file.to_string_lossy(), &Disk)
}

/// Reads what the command line names, and makes up listeners if it names none.
fn configuration(arguments: &Arguments) -> Result<Config, ConfigError> {
    let mut config = match &arguments.config_file {
        Some(file) => read_configuration(file)?,
        None => Config::default(),
    };
    if config.is_local_only {
        config.open_locally(&arguments.bind, &arguments.ports);
    }
    config.listen_to_bridges()?;
    if arguments.daemon {
        config.log_to_system();
    }
    logging::apply_options(&mut config.log, arguments);
    let persistence = &mut config.persistence;
    if let Some(directory) = &arguments.persistence_location {
        persistence.enabled = true;
        persistence.location = Some(directory.clone());
    }
    if let Some(durability) = arguments.durability {
        persistence.durability = durability;
    }
    Ok(config)
}

/// What a start has read and looked up.
struct Found {
    config: Config,
    key_log: Option<Arc<KeyLogFile>>,
    guards: Guards,
    bridges: Vec<PreparedBridge>,
    successor: Successor,
}

impl Found {
    fn read(arguments: &Arguments) -> Result<Self, Failure> {
        let config = configuration(arguments)?;
        let key_log = match &arguments.tls_keylog {
            Some(path) => {
                let not_opened = |error: io::Error| {
                    let path = path.display();
                    Failure::configuration(format!("Error: Unable to open {path}: {error}."))
                };
                if arguments.test_config {
                    files::may_be_written(path).map_err(not_opened)?;
                    None
                } else {
                    Some(Arc::new(KeyLogFile::open(path).map_err(not_opened)?))
                }
            }
            None => None,
        };
        let mut guards = Guards::load(&config, key_log.clone(), &[])?;
        let bridges = files::bridges(&config, guards.warnings_mut())?;
        let successor = Successor::find(config.user.as_deref()).map_err(|error| ConfigError {
            problem: Problem::Contradiction(format!("{error}.").into()),
            place: config.written.place("user").cloned(),
        })?;
        Ok(Self {
            config,
            key_log,
            guards,
            bridges,
            successor,
        })
    }
}

/// `is_said` becomes true once the log has told whoever started the broker why it fails.
fn serve(arguments: &Arguments, is_said: &mut bool) -> Result<(), Failure> {
    let found = Found::read(arguments)?;
    let config = &found.config;
    if !config.persistence.enabled && (arguments.recover || arguments.durability.is_some()) {
        return Err(Failure::configuration(
            "Error: --recover and --durability need persistence.",
        ));
    }
    let cores = arguments.cores.or(config.cores);
    let placed = runtime::place(cores, arguments.oversubscribe)
        .map_err(|error| cores_failure(config, arguments, &error))?;
    if arguments.test_config {
        let lost = check::check(&found, arguments)?;
        for remark in &config.remarks {
            eprintln!("{remark}");
        }
        let in_vain = asked_in_vain(config, arguments);
        let warnings = found.guards.warnings().iter().chain(&lost);
        for warning in warnings.map(String::as_str).chain(in_vain) {
            eprintln!("Warning: {warning}");
        }
        eprintln!("Configuration file is OK.");
        return Ok(());
    }
    let background = if arguments.daemon && !arguments.in_background {
        return background::start();
    } else {
        background::Background::of(arguments)
    };

    runtime::outlive_file_size_limit()?;
    let owner = found.successor.owner();
    let log = Beside::of(&placed).begin(|| logging::start(&config.log, owner))?;
    let is_seen = logging::shows_errors(&config.log);
    let result = serve_found(found, arguments, &placed, &log, background);
    if let Err(failure) = &result {
        failure.log();
        *is_said = is_seen;
    }
    log.stop(LOG_PATIENCE);
    result
}

fn serve_found(
    found: Found,
    arguments: &Arguments,
    placed: &[Placed],
    log: &Log,
    background: background::Background,
) -> Result<(), Failure> {
    let Found {
        config,
        key_log,
        guards,
        bridges,
        successor,
    } = found;
    let shard_count = placed.len();
    let version = env!("CARGO_PKG_VERSION");
    let plural = if shard_count == 1 { "" } else { "s" };
    tracing::info!("fastmq {version}, {shard_count} shard{plural}");
    remark(&config, &guards);
    remark_arguments(&config, arguments);
    runtime::preflight(shard_count).map_err(Failure::start)?;
    if let Some(files) = runtime::raise_open_files() {
        tracing::debug!("{files} files may be open");
    }
    if placed.contains(&Placed::Anywhere) {
        tracing::warn!("more shards than CPUs: they are not pinned, and slow each other down");
    }

    let acceptors = guards.acceptors(&[]);
    let mut listening = AllListening::default();
    let patience = Patience::of(LISTENING_PATIENCE);
    listening.open(&config, &acceptors, shard_count, patience)?;
    let admin_listener =
        admin::listen(&config.admin).map_err(|error| admin_failure(&config, &error))?;
    // Whoever reads the file may send them.
    let requests = runtime::HeldSignals::requests()?;
    let mut pid_file = files::PidFile::write(config.pid_file.as_ref())?;
    // Files of the log are opened by its thread, which has to have happened while root may.
    log.flush(LOG_PATIENCE);
    if let Some(owner) = successor.owner() {
        listening.give_paths(owner)?;
    }
    successor.succeed().map_err(Failure::start)?;

    let last_words = log.clone();
    runtime::exit_on_panic(move |panic| {
        last_words.write(Kind::Error, panic);
        last_words.flush(LAST_WORDS_PATIENCE);
    });
    // Placement by Client Identifier must not be predictable from outside: who knows it could put
    // all load on one shard.
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let clock = Clock::start();
    let mut settings = config.settings(guards.securities(), shard_count);
    listening.name_ports(&mut settings);
    let settings = Arc::new(settings);
    let (opened, promise) = match store_options(&config, arguments) {
        Some(options) => {
            let (opened, report) = directory_of_store(&options.directory)
                .map_err(OpenError::from)
                .and_then(|directory| {
                    open_store(directory, &options, placed, seed, clock, &settings)
                })
                .map_err(|error| store_failure(&config, arguments, error.to_string()))?;
            tracing::info!("{report}");
            (Some(opened), options.durability.promise())
        }
        None => (
            None,
            "Nothing is stored on disk: messages and sessions do not survive a restart.".to_owned(),
        ),
    };
    tracing::info!("{promise}");
    let parts = listening.take_parts(shard_count);
    let (sender, notices) = runtime::notices();
    let make_core = move |shard, shard_count| {
        StoredShard::new(shard, shard_count, settings.clone(), seed, opened.as_ref())
    };
    let ends = runtime::HeldSignals::ends()?;
    let running =
        runtime::start_from(clock, placed, parts, &sender, make_core).map_err(Failure::start)?;
    let mailboxes = running.mailboxes();
    let beside = Beside::of(placed);
    runtime::authenticate(notices.authentications, mailboxes.clone(), beside)?;
    // What is begun from now on stays off the shards' CPUs, if they leave one. Until now there was a store to be read,
    // by as many as there are.
    beside.enter();
    let shard_lines = ShardLines {
        events: notices.events,
        trees: notices.trees,
        dropped: notices.events_dropped.clone(),
    };
    shard_lines.attach(log, listening.ports());
    log.attach_publisher(logging::publisher(mailboxes.clone()));
    let bridge_table = BridgeTable::default();
    let watch = Watch::start(WatchOptions {
        sys_interval: Duration::from_secs(config.sys_interval_s.into()),
        sys_constants: vec![
            ("version".to_owned(), format!("fastmq version {version}")),
            ("persistence/promise".to_owned(), promise),
        ],
        numbers: running.numbers(),
        affinity: (arguments.affinity == CpuAffinity::Auto).then(|| running.affinity()),
        mailboxes: mailboxes.clone(),
        log: Some(log.clone()),
        events_dropped: notices.events_dropped,
        bridges: bridge_table.clone(),
    })?;
    let admin_port = match admin_listener {
        Some(listener) => Some(AdminPort::start(
            listener,
            guards.admin_token(),
            watch.clone(),
        )?),
        None => None,
    };

    let mut running_bridges = Bridges::new(mailboxes.clone(), beside, bridge_table);
    if let Some(listener) = config.bridge_listener() {
        running_bridges.start(listener, bridges, &config.policy)?;
    }
    let running_bridges = Arc::new(Mutex::new(running_bridges));
    let stopped_bridges = running_bridges.clone();
    let stopper = running.stopper();
    let (stop_log, last_log, stop_watch) = (log.clone(), log.clone(), watch.clone());
    let places = listening.places(0);
    let listening = Arc::new(Mutex::new(listening));
    let mut reloader = Reloader {
        file: arguments.config_file.clone(),
        arguments: arguments.clone(),
        config,
        key_log,
        acceptors,
        securities: guards.securities().to_vec(),
        retired: Vec::new(),
        listening: listening.clone(),
        bridges: running_bridges,
        shard_lines,
        mailboxes,
        shard_count,
        log: log.clone(),
        watch: watch.clone(),
        admin_port: admin_port.clone(),
    };
    runtime::on_signals(
        ends,
        requests,
        move || {
            admin::notify_stopping();
            stop_watch.set_ready(false);
            let mut bridges = stopped_bridges
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            bridges.stop();
            stop_log.flush(LAST_WORDS_PATIENCE);
            stopper.stop();
        },
        move || last_log.flush(LAST_WORDS_PATIENCE),
        move |request| reloader.handle(request),
    )?;
    for place in places {
        tracing::info!("listening on {place}");
    }
    if let Some(port) = &admin_port {
        tracing::info!("admin port on http://{}/", port.address());
    }
    // Whoever waits until it serves may read then where it listens, and its terminal is let go of.
    log.flush(LOG_PATIENCE);
    watch.set_ready(true);
    admin::notify_ready("serving clients");
    background.is_ready();
    pid_file.confirm();
    running.join().map_err(Failure::start)?;
    watch.stop();
    // The thread of the signals has it as well, and unix sockets leave their names behind otherwise.
    *listening.lock().unwrap_or_else(PoisonError::into_inner) = AllListening::default();
    tracing::info!("ended");
    Ok(())
}

/// There cannot be that many shards, wherever they were asked for.
fn cores_failure(config: &Config, arguments: &Arguments, error: &CoresError) -> Failure {
    match config.written.place("fastmq_cores") {
        Some(place) if arguments.cores.is_none() => Failure::from(ConfigError {
            problem: Problem::Contradiction(format!("fastmq_cores {error}.").into()),
            place: Some(place.clone()),
        }),
        _ => Failure::configuration(format!("fastmq: --cores {error}")),
    }
}

/// The admin port cannot be opened.
fn admin_failure(config: &Config, error: &io::Error) -> Failure {
    let address = config.admin.listener.map(|it| it.to_string());
    let address = address.unwrap_or_default();
    let said = format!("cannot listen on {address} (admin port): {error}");
    Failure::start(match config.written.place("fastmq_admin_listener") {
        Some(place) => format!("{said}.\nError found at {place}."),
        None => said,
    })
}

/// Where and how to store, if anything is to be stored.
fn store_options(config: &Config, arguments: &Arguments) -> Option<StoreOptions> {
    let persistence = &config.persistence;
    persistence.enabled.then(|| StoreOptions {
        durability: persistence.durability,
        recover: arguments.recover,
        ..StoreOptions::new(persistence.location.clone().unwrap_or_else(|| ".".into()))
    })
}

/// The directory of the store; when another broker uses it, as soon as that one has ended, for as long as that may take.
fn directory_of_store(path: &Path) -> Result<Directory, DirectoryError> {
    let passing = |error: &DirectoryError| {
        matches!(error, DirectoryError::Locked { .. }).then(|| error.to_string())
    };
    Patience::of(STORE_PATIENCE).wait(passing, || Directory::open(path))
}

/// The store cannot be used, for this reason.
fn store_failure(config: &Config, arguments: &Arguments, reason: String) -> Failure {
    let place = match arguments.persistence_location {
        Some(_) => None,
        None => config.written.place("persistence_location"),
    };
    Failure::start(match place {
        Some(place) => format!("{reason}.\nError found at {place}."),
        None => reason,
    })
}

/// Says what is to be said of a configuration and of the files it names.
fn remark(config: &Config, guards: &Guards) {
    for remark in &config.remarks {
        match remark.severity {
            Severity::Warning => tracing::warn!("{remark}"),
            Severity::Notice | Severity::Information => tracing::info!("{remark}"),
        }
    }
    for warning in guards.warnings() {
        tracing::warn!("{warning}");
    }
}

/// What the command line asks for in vain.
fn asked_in_vain(config: &Config, arguments: &Arguments) -> Option<&'static str> {
    let has_addresses = !arguments.ports.is_empty() || !arguments.bind.is_empty();
    (has_addresses && !config.is_local_only)
        .then_some("-p and --bind change nothing: the configuration has listeners")
}

/// Says what the command line asks for in vain, and what its absence means.
fn remark_arguments(config: &Config, arguments: &Arguments) {
    if let Some(in_vain) = asked_in_vain(config, arguments) {
        tracing::warn!("{in_vain}");
    }
    if config.is_local_only && arguments.bind.is_empty() {
        tracing::info!(
            "Starting in local only mode. Connections will only be possible from clients running on \
             this machine. Create a configuration file which defines a listener to allow remote \
             access."
        );
    }
}

/// The one of `listeners` that a message is about.
fn name_of(listener: &Listener) -> String {
    let address = shown(&listener.address.to_string());
    match &listener.place {
        Some(place) => format!("listener {address} ({place})"),
        None => format!("listener {address}"),
    }
}
