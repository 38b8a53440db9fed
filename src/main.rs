//! The broker's process: arguments, checks, listeners, shards, signals.

#![forbid(unsafe_code)]

use fastmq::cli::{Arguments, EXIT_BAD_ARGUMENTS};
use fastmq::limits::Limits;
use fastmq::net::{ListenError, ShardListener, listen};
use fastmq::policy::Settings;
use fastmq::runtime::{self, Clock, Placed, StoredShard, open_store};
use fastmq::wal::StoreOptions;
use std::error::Error;
use std::io::{ErrorKind, IsTerminal};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    let arguments = match Arguments::parse_process() {
        Ok(arguments) => arguments,
        Err(status) => return ExitCode::from(status),
    };
    if let Some(command) = &arguments.command {
        return ExitCode::from(command.run());
    }
    let placed = match runtime::place(arguments.cores, arguments.oversubscribe) {
        Ok(placed) => placed,
        Err(error) => {
            eprintln!("fastmq: {error}");
            return ExitCode::from(EXIT_BAD_ARGUMENTS);
        }
    };
    let level = if arguments.verbose {
        tracing::Level::DEBUG
    } else {
        tracing::Level::INFO
    };
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    // The executor warns of what it then does without, such as registered buffers.
    let levels = Targets::new()
        .with_default(level)
        .with_target("glommio", tracing::Level::ERROR);
    tracing_subscriber::registry()
        .with(lines)
        .with(levels)
        .init();
    match serve(&arguments, &placed) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("fastmq: {error}");
            ExitCode::FAILURE
        }
    }
}

fn serve(arguments: &Arguments, placed: &[Placed]) -> Result<(), Box<dyn Error>> {
    let shard_count = placed.len();
    let version = env!("CARGO_PKG_VERSION");
    let plural = if shard_count == 1 { "" } else { "s" };
    tracing::info!("fastmq {version}, {shard_count} shard{plural}");
    runtime::preflight(shard_count)?;
    if let Some(files) = runtime::raise_open_files() {
        tracing::debug!("{files} files may be open");
    }
    if placed.contains(&Placed::Anywhere) {
        tracing::warn!("more shards than CPUs: they are not pinned, and slow each other down");
    }
    let (addresses, sockets): (Vec<_>, Vec<_>) =
        listen_on(arguments, shard_count)?.into_iter().unzip();
    // From one list per address to one list per shard.
    let mut listeners: Vec<Vec<ShardListener>> = Vec::new();
    listeners.resize_with(shard_count, Vec::new);
    for socket in sockets {
        for (shard, socket) in socket.into_iter().enumerate() {
            listeners[shard].push(socket);
        }
    }
    runtime::exit_on_panic();
    // Placement by Client Identifier must not be predictable from outside: who knows it could put
    // all load on one shard.
    let seed = std::hash::BuildHasher::hash_one(&std::hash::RandomState::new(), std::process::id());
    let clock = Clock::start();
    let settings = Arc::new(Settings::permissive(Limits::default()));
    let opened = match store_options(arguments) {
        Some(options) => {
            let (opened, report) = open_store(&options, shard_count, seed, clock, &settings)?;
            tracing::info!("{report}");
            tracing::info!("{}", options.durability.promise());
            Some(opened)
        }
        None => {
            tracing::info!(
                "Nothing is stored on disk: messages and sessions do not survive a restart."
            );
            None
        }
    };
    let (sender, notices) = runtime::notices();
    let make_core = move |shard, shard_count| {
        StoredShard::new(shard, shard_count, settings.clone(), seed, opened.as_ref())
    };
    let running = runtime::start_from(clock, placed, listeners, &sender, make_core)?;
    runtime::authenticate(notices.authentications, running.mailboxes())?;
    runtime::stop_on_signals(running.stopper())?;
    for address in addresses {
        tracing::info!("listening on {address}");
    }
    running.join()?;
    tracing::info!("ended");
    Ok(())
}

/// Where and how to store, if anything is to be stored.
fn store_options(arguments: &Arguments) -> Option<StoreOptions> {
    let directory = arguments.persistence_location.clone()?;
    Some(StoreOptions {
        durability: arguments.durability,
        recover: arguments.recover,
        ..StoreOptions::new(directory)
    })
}

type Listening = (SocketAddr, Vec<ShardListener>);

/// Listens on the addresses asked for, or on both loopback addresses.
fn listen_on(arguments: &Arguments, shard_count: usize) -> Result<Vec<Listening>, ListenError> {
    let mut port = arguments.port;
    let mut listening = Vec::new();
    let mut listen_at = |address: IpAddr| {
        let bound = listen(SocketAddr::new(address, port), shard_count)?;
        // With port 0 all addresses share the port that the system chose for the first.
        port = bound.0.port();
        listening.push(bound);
        Ok(())
    };
    if arguments.bind.is_empty() {
        listen_at(Ipv4Addr::LOCALHOST.into())?;
        match listen_at(Ipv6Addr::LOCALHOST.into()) {
            Err(ListenError { source, .. }) if is_without_ipv6(&source) => {
                tracing::debug!("not listening on ::1: {source}");
            }
            result => result?,
        }
    } else {
        for &address in &arguments.bind {
            listen_at(address)?;
        }
    }
    Ok(listening)
}

/// Whether binding failed because this machine has no IPv6.
fn is_without_ipv6(error: &std::io::Error) -> bool {
    error.kind() == ErrorKind::AddrNotAvailable || error.kind() == ErrorKind::Unsupported || {
        // EAFNOSUPPORT has no kind of its own.
        error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
    }
}
