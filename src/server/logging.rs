//! From what the configuration says of the log to the log.

#![forbid(unsafe_code)]

use super::Failure;
use crate::cli::Arguments;
use crate::config::{self, Destinations, LogTypes};
use crate::key::ShardId;
use crate::log::{
    Destination, Dropped, Facility, Kind, Kinds, Log, LogLayer, Options, Owner, Publish, Timestamp,
    TimestampFormat,
};
use crate::message::QoS;
use crate::runtime::Mailbox;
use crate::shard::Event;
use crossbeam::channel::Receiver;
use std::sync::Arc;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// What the command line says about the log wins.
pub(super) fn apply_options(options: &mut config::LogOptions, arguments: &Arguments) {
    if arguments.verbose {
        options.types = LogTypes::ALL;
    }
    if arguments.quiet {
        options.destinations = Destinations::NONE;
    }
}

/// Starts the log, and has what the broker says with `tracing` written to it.
/// Files that it makes belong to `owner`.
pub(super) fn start(options: &config::LogOptions, owner: Option<Owner>) -> Result<Log, Failure> {
    let log = Log::start(Options {
        owner,
        ..log_options(options)?
    })?;
    // The executor warns of what it then does without, such as registered buffers. The libraries of
    // the admin port have nothing to say to an operator.
    let levels = Targets::new()
        .with_target("fastmq", tracing::Level::DEBUG)
        .with_default(tracing::Level::ERROR);
    tracing_subscriber::registry()
        .with(LogLayer::new(log.clone()))
        .with(levels)
        .init();
    Ok(log)
}

/// Whether whoever started the broker sees the errors in its log.
pub(super) fn shows_errors(options: &config::LogOptions) -> bool {
    let to = &options.destinations;
    (to.stdout || to.stderr) && options.types.contains(LogTypes::ERROR)
}

/// The channels from the shards to the log.
#[derive(Clone, Debug)]
pub(super) struct ShardLines {
    pub(super) events: Receiver<(ShardId, Box<Event>)>,
    pub(super) trees: Receiver<(ShardId, Box<str>)>,
    pub(super) dropped: Dropped,
}

impl ShardLines {
    /// Has `log` write what comes, with these ports of listeners.
    pub(super) fn attach(&self, log: &Log, ports: Box<[u16]>) {
        log.attach_shards(
            self.events.clone(),
            self.trees.clone(),
            self.dropped.clone(),
            ports,
        );
    }
}

/// What the log is told.
pub(super) fn log_options(options: &config::LogOptions) -> Result<Options, Failure> {
    let to = &options.destinations;
    let mut destinations = Vec::new();
    for (is_wanted, destination) in [
        (to.stdout, Destination::Stdout),
        (to.stderr, Destination::Stderr),
        (to.syslog, Destination::Syslog),
        (to.topic, Destination::Topic),
    ] {
        if is_wanted {
            destinations.push(destination);
        }
    }
    let file = to.file.iter();
    destinations.extend(file.map(|file| Destination::File(file.path.clone())));

    let mut kinds = Kinds::NONE;
    for (types, kind) in [
        (LogTypes::ERROR, Kind::Error),
        (LogTypes::WARNING, Kind::Warning),
        (LogTypes::NOTICE, Kind::Notice),
        (LogTypes::INFORMATION, Kind::Information),
        (LogTypes::DEBUG, Kind::Debug),
        (LogTypes::SUBSCRIBE, Kind::Subscribe),
        (LogTypes::UNSUBSCRIBE, Kind::Unsubscribe),
        (LogTypes::WEBSOCKETS, Kind::Websockets),
    ] {
        if options.types.contains(types) {
            kinds |= kind;
        }
    }
    Ok(Options {
        destinations,
        kinds,
        connection_messages: options.connection_messages,
        timestamp: match (&options.timestamp_format, options.timestamp) {
            (_, false) => Timestamp::Off,
            (None, true) => Timestamp::Epoch,
            (Some(format), true) => {
                Timestamp::Format(TimestampFormat::new(&format.text).map_err(|error| {
                    Failure::configuration(format!(
                        "Error: log_timestamp_format: {error}.\nError found at {}.",
                        format.place
                    ))
                })?)
            }
        },
        facility: match options.facility {
            config::Facility::Daemon => Facility::Daemon,
            config::Facility::Local(number) => Facility::Local(number),
        },
        ..Options::default()
    })
}

/// Publishes lines to `$SYS/broker/log`, as nothing that anybody has to acknowledge.
pub(super) fn publisher(mailboxes: Arc<[Mailbox]>) -> Publish {
    Box::new(move |line| {
        if let Some(mailbox) = mailboxes.first() {
            mailbox.publish(line.topic, line.line.as_bytes(), QoS::AtMostOnce, false);
        }
    })
}
