//! A shard together with its log, if it has one.

#![forbid(unsafe_code)]

use super::{Beside, Clock, Placed};
use crate::journal::WallClock;
use crate::key::{ConnectionKey, ShardId};
use crate::metrics::{Counters, Snapshot, Talkers};
use crate::net::{Core, Waker};
use crate::origin::Origin;
use crate::policy::Settings;
use crate::shard::{Command, Effects, Envelope, Shard};
use crate::time::Instant;
use crate::wal::{self, Directory, Log, OpenError, Report, ShardStore, StoreOptions};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often a shard looks whether the calendar was set.
const CALENDAR_EVERY: Duration = Duration::from_secs(1);

/// What the calendar says of the core's time by now.
fn calendar(clock: Clock) -> WallClock {
    WallClock {
        start_ms: clock.start_ms(),
    }
}

/// What one shard takes: once.
type Part = Option<(ShardStore, Log)>;

/// What the shards of this process go on with, until each has taken its part.
#[derive(Clone, Debug)]
pub struct Opened {
    parts: Arc<Mutex<Vec<Part>>>,
    /// By which Client Identifiers are spread over shards.
    seed: u64,
    clock: Clock,
    /// Where the logs are written.
    beside: Beside,
    /// Locked as long as this is there.
    _directory: Arc<Directory>,
}

/// Opens the store in `directory` for shards that are `placed`.
///
/// # Errors
/// [`OpenError`].
pub fn open_store(
    directory: Directory,
    options: &StoreOptions,
    placed: &[Placed],
    seed: u64,
    clock: Clock,
    settings: &Settings,
) -> Result<(Opened, Report), OpenError> {
    let store = wal::open(
        directory,
        options,
        placed.len(),
        seed,
        calendar(clock),
        &settings.ports(),
    )?;
    let parts = store.shards.into_iter().zip(store.logs).map(Some).collect();
    let opened = Opened {
        parts: Arc::new(Mutex::new(parts)),
        seed: store.seed,
        clock,
        beside: Beside::of(placed),
        _directory: Arc::new(store.directory),
    };
    Ok((opened, store.report))
}

/// One shard, and its log if Sessions are to outlive the process.
#[derive(Debug)]
pub struct StoredShard {
    shard: Shard,
    log: Option<Log>,
    clock: Clock,
    /// When to look at the calendar.
    calendar_at: Instant,
    beside: Beside,
}

impl StoredShard {
    /// The shard `id` of `count`. From `opened` it takes its part.
    #[must_use]
    pub fn new(
        id: ShardId,
        count: usize,
        settings: Arc<Settings>,
        seed: u64,
        opened: Option<&Opened>,
    ) -> Self {
        let placement = opened.map_or(seed, |opened| opened.seed);
        let mut shard = Shard::with_settings(id, count, settings, placement);
        let part = opened.and_then(|opened| {
            let mut parts = opened.parts.lock().unwrap_or_else(PoisonError::into_inner);
            Some((parts.get_mut(id.index())?.take()?, opened.clock.now()))
        });
        let log = part.map(|((store, log), now)| {
            store.restore(&mut shard, id.index(), count, now);
            log
        });
        Self {
            shard,
            log,
            clock: opened.map_or_else(Clock::start, |opened| opened.clock),
            calendar_at: Instant::ZERO,
            beside: opened.map(|opened| opened.beside).unwrap_or_default(),
        }
    }
}

impl Core for StoredShard {
    type Envelope = Envelope;

    fn handle_start(&mut self, waker: &Waker) -> io::Result<()> {
        let waker = waker.clone();
        let beside = self.beside;
        match &mut self.log {
            // The writer must not take the core from the shard that begins it.
            Some(log) => log.start(Box::new(move || waker.wake()), move || beside.enter()),
            None => Ok(()),
        }
    }

    fn handle_turn(&mut self, now: Instant, effects: &mut Effects) {
        let Some(log) = &mut self.log else { return };
        if self.calendar_at <= now {
            self.calendar_at = now + CALENDAR_EVERY;
            // A machine that was asleep, or learns the time from others once it has started, has its calendar set.
            if self.shard.handle_calendar(calendar(self.clock)) {
                tracing::info!(
                    "the clock of this machine was set: times in the store are brought up to date"
                );
                log.say_anew();
            }
        }
        log.turn(&mut self.shard, now, effects);
    }

    fn has_work(&self) -> bool {
        self.log
            .as_ref()
            .is_some_and(|log| log.has_work(&self.shard))
    }

    fn finish(&mut self, now: Instant) {
        if let Some(log) = self.log.take() {
            log.finish(&mut self.shard, now, &mut Effects::default());
        }
    }

    fn handle_accept(&mut self, origin: Origin, now: Instant) -> Option<ConnectionKey> {
        self.shard.handle_accept(origin, now)
    }

    fn handle_origin(&mut self, connection: ConnectionKey, origin: Origin) {
        self.shard.handle_origin(connection, origin);
    }

    fn handle_presence(
        &mut self,
        connection: ConnectionKey,
        is_there: bool,
        effects: &mut Effects,
    ) {
        self.shard.handle_presence(connection, is_there, effects);
    }

    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.shard.handle_bytes(connection, bytes, now, effects)
    }

    fn handle_packets_in(
        &mut self,
        connection: ConnectionKey,
        packets: &mut Vec<u8>,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.shard
            .handle_packets_in(connection, packets, now, effects)
    }

    fn packet_size(&self, connection: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        Core::packet_size(&self.shard, connection, bytes)
    }

    fn is_paused(&self, connection: ConnectionKey) -> bool {
        self.shard.is_paused(connection)
    }

    fn handle_closed(&mut self, connection: ConnectionKey, now: Instant, effects: &mut Effects) {
        self.shard.handle_closed(connection, now, effects);
    }

    fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Envelope,
        most: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Envelope> {
        self.shard
            .handle_envelope(from, envelope, most, now, effects)
    }

    fn handle_command(&mut self, command: Command, now: Instant, effects: &mut Effects) {
        self.shard.handle_command(command, now, effects);
    }

    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        self.shard.handle_timeout(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let log = self.log.as_ref().and_then(Log::next_deadline);
        let shard = self.shard.next_deadline();
        log.into_iter().chain(shard).min()
    }

    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.shard.take_output(connection, buffer);
    }

    fn output_size(&self, connection: ConnectionKey) -> usize {
        self.shard.output_size(connection)
    }

    fn counters(&self) -> Option<&Counters> {
        Some(self.shard.counters())
    }

    fn take_last_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.shard.take_last_output(connection, buffer);
    }

    fn handle_unsent(
        &mut self,
        connection: ConnectionKey,
        unsent: usize,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.shard.handle_unsent(connection, unsent, now, effects);
    }

    fn forget(&mut self, connection: ConnectionKey) {
        self.shard.forget(connection);
    }

    fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Envelope> {
        self.shard.outbound(to)
    }

    fn set_ring_room(&mut self, to: ShardId, room: usize) {
        self.shard.set_ring_room(to, room);
    }

    fn handle_ring_room(&mut self, effects: &mut Effects) {
        self.shard.handle_ring_room(effects);
    }

    fn show(&self, snapshot: &mut Snapshot) {
        Core::show(&self.shard, snapshot);
    }

    fn talkers(&mut self, now: Instant) -> Talkers {
        self.shard.talkers(now)
    }

    fn handle_stopping(&mut self, now: Instant, effects: &mut Effects) {
        self.shard.handle_stopping(now, effects);
    }

    fn handle_shutdown(&mut self, now: Instant, effects: &mut Effects) {
        self.shard.handle_shutdown(now, effects);
    }
}
