//! The thread that writes: it takes lines from bounded channels and may wait for a disk.

#![forbid(unsafe_code)]

use super::file::{LogFile, Outcome};
use super::kind::Kind;
use super::syslog::Syslog;
use super::text::push_line;
use super::{Destination, Dropped, Line, Options, Publish, Shared, TopicLine};
use super::{LINES_MAX, events};
use crate::key::ShardId;
use crate::shard::Event;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, never, select};
use std::io::Write;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant, SystemTime};

/// Lines written with one system call to each destination.
const BATCH_MAX: usize = 512;
/// How long lines gather before the next ones are written. Each wake of this thread takes the CPU from a shard where
/// they share one; the channels have room for what comes meanwhile.
pub(super) const GATHER_TIME: Duration = Duration::from_millis(5);
/// At most one line in this time about lines that are missing.
const MISSING_EVERY: Duration = Duration::from_secs(1);

/// What the writer is told beside lines.
pub(super) enum Control {
    Configure(Box<Options>),
    Reopen,
    /// Where events of shards come from, and by which names of listeners to describe them.
    Shards(Box<Shards>),
    Publish(Publish),
    /// Answered when everything that was sent before is written.
    Flush(Sender<()>),
    Stop(Sender<()>),
}

/// The channels from the shards.
pub(super) struct Shards {
    pub(super) events: Receiver<(ShardId, Box<Event>)>,
    pub(super) trees: Receiver<(ShardId, Box<str>)>,
    pub(super) dropped: Dropped,
    pub(super) ports: Box<[u16]>,
}

pub(super) struct Writer {
    shared: Arc<Shared>,
    lines: Receiver<Line>,
    control: Receiver<Control>,
    shards: Shards,
    options: Options,
    sinks: Sinks,
    publish: Option<Publish>,
    /// Of [`Shared::reopens`], those that were done.
    reopened: u64,
    /// Missing lines that have been written about.
    missing_told: u64,
    missing_told_at: Option<Instant>,
}

/// The destinations, as far as they have a state.
#[derive(Default)]
struct Sinks {
    stdout: bool,
    stderr: bool,
    topic: bool,
    files: Vec<LogFile>,
    syslog: Option<Syslog>,
    syslog_failed: bool,
    /// What goes to files and consoles at the end of this batch.
    batch: String,
    batch_lines: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        options: Options,
        lines: Receiver<Line>,
        control: Receiver<Control>,
    ) -> Self {
        let shards = Shards {
            events: never(),
            trees: never(),
            dropped: Dropped::default(),
            ports: Box::default(),
        };
        let sinks = Sinks::new(&options);
        Self {
            shared,
            lines,
            control,
            shards,
            options,
            sinks,
            publish: None,
            reopened: 0,
            missing_told: 0,
            missing_told_at: None,
        }
    }

    pub(super) fn run(mut self) {
        loop {
            // Borrowed for the wait only: a message may replace them.
            let (events, trees) = (self.shards.events.clone(), self.shards.trees.clone());
            select! {
                recv(self.control) -> control => {
                    // Without one the last handle is gone, and with it everybody who could write.
                    if !self.handle_control(control.ok()) {
                        return;
                    }
                    continue;
                },
                recv(self.lines) -> line => if let Ok(line) = line {
                    self.write_line(&line);
                },
                recv(events) -> event => match event {
                    Ok((_, event)) => self.write_event(&event),
                    Err(_) => self.shards.events = never(),
                },
                recv(trees) -> tree => match tree {
                    Ok((shard, tree)) => self.write_tree(shard, &tree),
                    Err(_) => self.shards.trees = never(),
                },
            }
            let is_all = self.write_pending();
            self.tell_missing();
            self.flush();
            if is_all && !self.gather() {
                return;
            }
        }
    }

    /// Lets lines gather, and does meanwhile what it is told. False: that was to end.
    fn gather(&mut self) -> bool {
        let until = Instant::now() + GATHER_TIME;
        loop {
            match self.control.recv_deadline(until) {
                Err(RecvTimeoutError::Timeout) => return true,
                control => {
                    if !self.handle_control(control.ok()) {
                        return false;
                    }
                }
            }
        }
    }

    /// Tells whether to go on.
    fn handle_control(&mut self, control: Option<Control>) -> bool {
        let Some(control) = control else {
            self.drain();
            return false;
        };
        match control {
            Control::Configure(options) => {
                self.drain();
                self.sinks.configure(&options);
                self.options = *options;
            }
            Control::Reopen => self.reopen(),
            Control::Shards(shards) => self.shards = *shards,
            Control::Publish(publish) => self.publish = Some(publish),
            Control::Flush(done) => {
                self.drain();
                let _ = done.send(());
            }
            Control::Stop(done) => {
                self.drain();
                let _ = done.send(());
                return false;
            }
        }
        true
    }

    /// Takes what else is there, to be written at once. Tells whether that was all.
    fn write_pending(&mut self) -> bool {
        for _ in 0..BATCH_MAX {
            let mut is_idle = true;
            if let Ok(line) = self.lines.try_recv() {
                self.write_line(&line);
                is_idle = false;
            }
            if let Ok((_, event)) = self.shards.events.try_recv() {
                self.write_event(&event);
                is_idle = false;
            }
            if is_idle {
                return true;
            }
        }
        false
    }

    /// Writes all that was sent before now.
    fn drain(&mut self) {
        // As much as can wait; what comes meanwhile may be as much again.
        for _ in 0..=2 * LINES_MAX / BATCH_MAX {
            self.write_pending();
            while let Ok((shard, tree)) = self.shards.trees.try_recv() {
                self.write_tree(shard, &tree);
            }
            self.flush();
            if self.lines.is_empty() && self.shards.events.is_empty() {
                break;
            }
        }
        self.missing_told_at = None;
        self.tell_missing();
        self.flush();
    }

    /// What was taken before goes to the files as they are, what comes after to what their paths name.
    fn reopen(&mut self) {
        let reopens = self.shared.reopens.load(Ordering::Acquire);
        if reopens == self.reopened {
            return;
        }
        self.reopened = reopens;
        self.flush();
        for file in &mut self.sinks.files {
            file.reopen();
        }
    }

    fn write_line(&mut self, line: &Line) {
        // Lines and what is told beside them come by different ways, and this one may have overtaken.
        self.reopen();
        self.put(line.kind, line.at, &line.text);
    }

    fn write_event(&mut self, event: &Event) {
        if self.options.connection_messages || !events::is_connection_message(event) {
            let mut text = String::new();
            let kind = events::describe(event, &self.shards.ports, &mut text);
            self.put(kind, SystemTime::now(), &text);
        }
    }

    /// A tree has been asked for: it is written whatever kinds of lines are wanted.
    fn write_tree(&mut self, shard: ShardId, tree: &str) {
        let at = SystemTime::now();
        let title = format!("Subscriptions of shard {shard}:");
        self.put_always(Kind::Notice, at, &title);
        for line in tree.lines() {
            self.put_always(Kind::Notice, at, line);
        }
    }

    fn put(&mut self, kind: Kind, at: SystemTime, text: &str) {
        if self.options.kinds.contains(kind) {
            self.put_always(kind, at, text);
        }
    }

    fn put_always(&mut self, kind: Kind, at: SystemTime, text: &str) {
        let sinks = &mut self.sinks;
        let start = sinks.batch.len();
        self.options.timestamp.write(at, &mut sinks.batch);
        push_line(&mut sinks.batch, text);
        if let Some(syslog) = &mut sinks.syslog {
            let line = sinks.batch.get(start..).unwrap_or_default();
            match syslog.send(kind, line, at) {
                Ok(()) => sinks.syslog_failed = false,
                Err(error) => {
                    self.shared.lost.fetch_add(1, Ordering::Relaxed);
                    if !std::mem::replace(&mut sinks.syslog_failed, true) {
                        complain(&format!("Error: Unable to write to syslog: {error}."));
                    }
                }
            }
        }
        if sinks.topic
            && let (Some(publish), Some(topic)) = (&self.publish, kind.topic())
        {
            let line = sinks.batch.get(start..).unwrap_or_default();
            publish(TopicLine { topic, line });
        }
        sinks.batch.push('\n');
        sinks.batch_lines += 1;
        self.shared.count(kind);
    }

    /// Says how many lines are missing, once they no longer are.
    fn tell_missing(&mut self) {
        let missing = self.shared.dropped.load(Ordering::Relaxed)
            + self.shards.dropped.load(Ordering::Relaxed);
        if missing == self.missing_told
            || self
                .missing_told_at
                .is_some_and(|at| at.elapsed() < MISSING_EVERY)
        {
            return;
        }
        let count = missing - self.missing_told;
        self.missing_told = missing;
        self.missing_told_at = Some(Instant::now());
        let (lines, were) = if count == 1 {
            ("line", "was")
        } else {
            ("lines", "were")
        };
        let text = format!(
            "Warning: {count} log {lines} {were} dropped: more came than could be written."
        );
        self.put(Kind::Warning, SystemTime::now(), &text);
    }

    fn flush(&mut self) {
        let trouble = self.sinks.flush(&self.shared);
        if !trouble.is_empty() {
            for text in trouble {
                self.put(Kind::Error, SystemTime::now(), &text);
            }
            self.sinks.flush(&self.shared);
        }
    }
}

impl Sinks {
    fn new(options: &Options) -> Self {
        let mut sinks = Self::default();
        sinks.configure(options);
        sinks
    }

    /// Files that stay keep their state.
    fn configure(&mut self, options: &Options) {
        let has = |destination: Destination| options.destinations.contains(&destination);
        self.stdout = has(Destination::Stdout);
        self.stderr = has(Destination::Stderr);
        self.topic = has(Destination::Topic);
        self.syslog = has(Destination::Syslog)
            .then(|| Syslog::new(options.syslog_socket.clone(), options.facility));
        let mut before = std::mem::take(&mut self.files);
        for destination in &options.destinations {
            let Destination::File(path) = destination else {
                continue;
            };
            let known = before.iter().position(|file| file.path() == path);
            self.files.push(known.map_or_else(
                || LogFile::new(path.clone(), options.owner),
                |at| before.swap_remove(at),
            ));
        }
    }

    /// Writes the batch, and returns what is to be said in the log about the log.
    fn flush(&mut self, shared: &Shared) -> Vec<String> {
        let mut trouble = Vec::new();
        if self.batch.is_empty() {
            return trouble;
        }
        shared.batches.fetch_add(1, Ordering::Relaxed);
        let now = Instant::now();
        let count = self.batch_lines;
        let lost = || shared.lost.fetch_add(count, Ordering::Relaxed);
        // Their readers may be gone, which is nothing to tell them.
        if self.stdout {
            let mut stdout = std::io::stdout().lock();
            let written = stdout.write_all(self.batch.as_bytes());
            if written.and_then(|()| stdout.flush()).is_err() {
                lost();
            }
        }
        if self.stderr
            && std::io::stderr()
                .lock()
                .write_all(self.batch.as_bytes())
                .is_err()
        {
            lost();
        }
        for file in &mut self.files {
            match file.write(&self.batch, now) {
                Outcome::Written => {}
                Outcome::Recovered => {
                    complain(&format!(
                        "The log file {} can be written again.",
                        file.path().display()
                    ));
                }
                Outcome::Behind(error) => {
                    let path = file.path().display();
                    let text = format!(
                        "Error: Unable to open log file {path} for writing: {error}. Lines go on to the file \
                         that was open."
                    );
                    complain(&text);
                    trouble.push(text);
                }
                Outcome::Lost => {
                    lost();
                }
                Outcome::Failed(error) => {
                    lost();
                    complain(&format!(
                        "Error: Unable to open log file {} for writing: {error}.",
                        file.path().display()
                    ));
                }
            }
        }
        self.batch.clear();
        // One long line must not hold its memory for ever.
        self.batch.shrink_to(64 * 1024);
        self.batch_lines = 0;
        trouble
    }
}

/// The log itself is in trouble, and standard error is what is left.
fn complain(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}
