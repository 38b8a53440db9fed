//! The log, as Mosquitto writes it: what happens on the shards and what the rest of the broker says,
//! to a file, the console, the system's log and topics.
//!
//! **Lives on** a thread of its own, which may wait for a disk. Everybody else holds a [`Log`], which
//! only puts lines into a bounded channel: what finds no room is dropped, counted and reported in the
//! log itself. The events of the shards come by a channel of their own and are put into words here.
//!
//! # Always true
//! - No thread waits for the log, except to flush it once the broker serves and when it ends.
//! - A line is one line of bounded length, whatever a Client has put into its names.
//! - A log that cannot be written is no reason for the broker to end. It says so on standard error
//!   and tries again.
//!
//! Read next: `events.rs` (the words), `writer.rs` (the thread), `file.rs` (rotation and trouble).

#![forbid(unsafe_code)]

mod events;
mod file;
mod kind;
mod layer;
mod syslog;
#[cfg(all(test, not(loom)))]
mod tests;
mod text;
mod timestamp;
mod writer;

pub use crate::shown::Sanitised;
pub use kind::{Kind, Kinds};
pub use layer::{LogLayer, NOTICE_TARGET, WEBSOCKETS_TARGET};
pub use syslog::Facility;
pub use text::LINE_BYTES_MAX;
pub use timestamp::{Timestamp, TimestampFormat, TimestampFormatError};

use crate::key::ShardId;
use crate::shard::Event;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use writer::{Control, Shards, Writer};

/// Lines that may wait for the writer. Beyond it the newest is dropped and counted.
pub const LINES_MAX: usize = 8192;
/// Things that the writer can be told at once.
const CONTROLS_MAX: usize = 64;

/// Where lines go: one directive `log_dest`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Destination {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
    /// A file, opened again on [`Log::reopen`] and when it was renamed.
    File(PathBuf),
    /// syslog(3).
    Syslog,
    /// `$SYS/broker/log/#`, to whoever subscribes.
    Topic,
}

/// Who is to own what a process makes before it becomes that user.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Owner {
    /// The user's number.
    pub user: u32,
    /// The number of its group.
    pub group: u32,
}

/// What the configuration says about the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Options {
    /// `log_dest`; empty for `log_dest none`.
    pub destinations: Vec<Destination>,
    /// `log_type`.
    pub kinds: Kinds,
    /// `connection_messages`.
    pub connection_messages: bool,
    /// `log_timestamp` and `log_timestamp_format`.
    pub timestamp: Timestamp,
    /// `log_facility`.
    pub facility: Facility,
    /// Where the system's log listens.
    pub syslog_socket: PathBuf,
    /// Who is to own files that are made, if not the user of the process.
    pub owner: Option<Owner>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            destinations: vec![Destination::Stderr],
            kinds: Kinds::default(),
            connection_messages: true,
            timestamp: Timestamp::default(),
            facility: Facility::default(),
            syslog_socket: "/dev/log".into(),
            owner: None,
        }
    }
}

/// A line for `log_dest topic`.
#[derive(Clone, Copy, Debug)]
pub struct TopicLine<'a> {
    /// Where to publish it.
    pub topic: &'static str,
    /// With its timestamp.
    pub line: &'a str,
}

/// Publishes lines; must not wait for long, and must not log.
pub type Publish = Box<dyn Fn(TopicLine<'_>) + Send>;

/// Counts what was dropped elsewhere.
pub type Dropped = Arc<AtomicU64>;

struct Line {
    kind: Kind,
    at: SystemTime,
    text: String,
}

#[derive(Debug, Default)]
struct Shared {
    kinds: AtomicU16,
    /// Found no room in the channel.
    dropped: AtomicU64,
    /// Could not be written to one of the destinations.
    lost: AtomicU64,
    /// How often the files were to be opened again. Whoever writes a line after that finds it counted.
    reopens: AtomicU64,
    batches: AtomicU64,
    written: [AtomicU64; Kind::ALL.len()],
}

impl Shared {
    fn count(&self, kind: Kind) {
        let index = (kind as u16).trailing_zeros() as usize;
        if let Some(count) = self.written.get(index) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// What the log has done.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    /// Lines that found no room on their way to the writer, without the events of shards.
    pub dropped: u64,
    /// Lines that a destination could not take.
    pub lost: u64,
    /// How often lines were written, many at once or one.
    pub batches: u64,
    /// Lines written, by kind.
    pub written: Vec<(Kind, u64)>,
}

/// The log. Clones write to the same one.
#[derive(Clone)]
pub struct Log {
    shared: Arc<Shared>,
    lines: Sender<Line>,
    control: Sender<Control>,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log").finish_non_exhaustive()
    }
}

impl Log {
    /// Starts the thread that writes.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(options: Options) -> io::Result<Self> {
        let (lines, lines_out) = bounded(LINES_MAX);
        let (control, control_out) = bounded(CONTROLS_MAX);
        let shared = Arc::new(Shared::default());
        shared.kinds.store(options.kinds.bits(), Ordering::Relaxed);
        let writer = Writer::new(shared.clone(), options, lines_out, control_out);
        std::thread::Builder::new()
            .name("fastmq-log".into())
            .spawn(move || writer.run())?;
        Ok(Self {
            shared,
            lines,
            control,
        })
    }

    /// Whether lines of this kind are written at all.
    #[must_use]
    pub fn wants(&self, kind: Kind) -> bool {
        Kinds::from_bits(self.shared.kinds.load(Ordering::Relaxed)).contains(kind)
    }

    /// Writes a line, or drops and counts it. Never waits.
    pub fn write(&self, kind: Kind, text: impl Into<String>) {
        if !self.wants(kind) {
            return;
        }
        let line = Line {
            kind,
            at: SystemTime::now(),
            text: text.into(),
        };
        if self.lines.try_send(line).is_err() {
            self.shared.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// From now on also writes what the shards report. `dropped` counts the events that found no
    /// room on the way; `ports` are those of the listeners, by their number.
    pub fn attach_shards(
        &self,
        events: Receiver<(ShardId, Box<Event>)>,
        trees: Receiver<(ShardId, Box<str>)>,
        dropped: Dropped,
        ports: Box<[u16]>,
    ) {
        self.tell(Control::Shards(Box::new(Shards {
            events,
            trees,
            dropped,
            ports,
        })));
    }

    /// By which `log_dest topic` publishes.
    pub fn attach_publisher(&self, publish: Publish) {
        self.tell(Control::Publish(publish));
    }

    /// The configuration was read again.
    pub fn configure(&self, options: Options) {
        self.shared
            .kinds
            .store(options.kinds.bits(), Ordering::Relaxed);
        self.tell(Control::Configure(Box::new(options)));
    }

    /// Has the next line go to what the paths of the files then name. A file that cannot be opened there is
    /// said, and the one that was open stays in use.
    pub fn reopen(&self) {
        self.shared.reopens.fetch_add(1, Ordering::Release);
        self.tell(Control::Reopen);
    }

    /// Waits until what was written so far has arrived, at most for `patience`.
    pub fn flush(&self, patience: Duration) {
        let (done, is_done) = bounded(1);
        if self
            .control
            .send_timeout(Control::Flush(done), patience)
            .is_ok()
        {
            let _ = is_done.recv_timeout(patience);
        }
    }

    /// Ends the thread when everything is written, at most after `patience`. Lines that come later
    /// are dropped.
    pub fn stop(&self, patience: Duration) {
        let (done, is_done) = bounded(1);
        if self
            .control
            .send_timeout(Control::Stop(done), patience)
            .is_ok()
        {
            let _ = is_done.recv_timeout(patience);
        }
    }

    /// What it has done so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let written = Kind::ALL.into_iter().zip(&self.shared.written);
        Counts {
            dropped: self.shared.dropped.load(Ordering::Relaxed),
            lost: self.shared.lost.load(Ordering::Relaxed),
            batches: self.shared.batches.load(Ordering::Relaxed),
            written: written
                .map(|(kind, count)| (kind, count.load(Ordering::Relaxed)))
                .collect(),
        }
    }

    fn tell(&self, control: Control) {
        // Only without a writer does this fail, and then there is nothing to tell.
        let _ = self.control.send(control);
    }
}
