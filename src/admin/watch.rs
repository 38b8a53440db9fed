//! The thread that looks at the shards once a second: it knows whether they are well, publishes
//! `$SYS`, keeps the last minutes for the dashboard, tells systemd that all is well and gives free
//! memory back to the system. What it has seen is also what shards are moved by.

#![forbid(unsafe_code)]

use super::service;
use super::sys_tree::{Input, SysTree, total};
use super::talkers::{self, Recent};
use crate::bridge::{BridgePicture, BridgeTable};
use crate::log::{Counts, Log};
use crate::message::QoS;
use crate::metrics::{Snapshot, Talker};
use crate::runtime::{Affinity, Mailbox, Numbers, Whereabouts, step_back};
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often to look.
const TICK: Duration = Duration::from_secs(1);
/// How long shards have to show their numbers before the last ones are taken for good.
const ANSWER_WITHIN: Duration = Duration::from_millis(100);
/// A shard that has not answered for so long hangs.
pub(super) const HANG_AFTER: Duration = Duration::from_secs(5);
/// A look that comes so much later than the one before says nothing of the shards in between: the process was stopped,
/// or its machine, and nobody ran.
const LOOK_AFTER_MAX: Duration = Duration::from_secs(2);
/// How long a question whether all is well waits for the next look, if the last one does not say so.
const LOOK_WITHIN: Duration = Duration::from_millis(1500);
/// So much has pages of its own in the allocator, which are given up with it.
const LARGE: usize = 1 << 20;
/// Seconds of the past that the dashboard begins with.
pub(super) const HISTORY_MAX: usize = 300;

/// What to watch and whom to tell.
pub struct WatchOptions {
    /// Time between two updates of `$SYS`; zero for none (`sys_interval`).
    pub sys_interval: Duration,
    /// Values below `$SYS/broker` that never change.
    pub sys_constants: Vec<(String, String)>,
    /// How the shards are.
    pub numbers: Numbers,
    /// By which they leave their CPUs, if they may.
    pub affinity: Option<Affinity>,
    /// To publish.
    pub mailboxes: Arc<[Mailbox]>,
    /// Whose lines are counted.
    pub log: Option<Log>,
    /// Events of shards that found no room on their way to the log.
    pub events_dropped: Arc<AtomicU64>,
    /// What bridges do.
    pub bridges: BridgeTable,
}

/// What was seen at one look.
#[derive(Clone, Debug)]
pub(super) struct Picture {
    /// When.
    pub(super) at: Instant,
    pub(super) uptime: Duration,
    pub(super) shards: Vec<ShardPicture>,
    pub(super) total: Snapshot,
    pub(super) log: Counts,
    pub(super) log_events_dropped: u64,
    pub(super) memory: Option<(u64, u64)>,
    /// Where the shards are.
    pub(super) whereabouts: Whereabouts,
    /// Clients with most messages, a second.
    pub(super) talkers: Vec<Talker>,
    pub(super) bridges: Vec<BridgePicture>,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct ShardPicture {
    pub(super) snapshot: Snapshot,
    pub(super) answered_at: Instant,
    /// Of the time since the look before, what it was at work.
    pub(super) busy_share: f64,
}

/// What happened in one second.
#[derive(Clone, Debug, Default, serde::Serialize)]
pub(super) struct Second {
    pub(super) clients: u64,
    pub(super) received: f64,
    pub(super) sent: f64,
    pub(super) dropped: f64,
    pub(super) bytes_in: f64,
    pub(super) bytes_out: f64,
    pub(super) queued: u64,
    pub(super) busy: Vec<f64>,
}

#[derive(Debug)]
pub(super) struct Seen {
    pub(super) picture: Picture,
    pub(super) history: VecDeque<Second>,
    /// Counts the looks, so that a reader knows which seconds are new.
    pub(super) looks: u64,
}

/// What the watch has seen, for others to read, and the way to tell it something.
#[derive(Clone, Debug)]
pub struct Watch {
    seen: Arc<Mutex<Seen>>,
    is_ready: Arc<std::sync::atomic::AtomicBool>,
    control: Sender<Control>,
}

#[derive(Debug)]
enum Control {
    SysInterval(Duration),
    Stop,
}

impl Watch {
    /// Starts to look.
    ///
    /// # Errors
    /// When there can be no thread.
    pub fn start(options: WatchOptions) -> io::Result<Self> {
        let (watch, watcher) = Self::prepare(options, Instant::now());
        std::thread::Builder::new()
            .name("fastmq-watch".into())
            .spawn(move || {
                step_back();
                watcher.run();
            })?;
        Ok(watch)
    }

    /// The watch and the one who looks, before there is a thread.
    fn prepare(options: WatchOptions, started_at: Instant) -> (Self, Watcher) {
        let (control, control_out) = bounded(16);
        let shards = (0..options.numbers.shard_count())
            .map(|_| ShardPicture {
                snapshot: Snapshot::default(),
                answered_at: started_at,
                busy_share: 0.0,
            })
            .collect();
        let picture = Picture {
            at: started_at,
            uptime: Duration::ZERO,
            shards,
            total: Snapshot::default(),
            log: Counts::default(),
            log_events_dropped: 0,
            memory: None,
            whereabouts: Whereabouts::default(),
            talkers: Vec::new(),
            bridges: Vec::new(),
        };
        let recent = vec![Recent::default(); options.numbers.shard_count()];
        let seen = Arc::new(Mutex::new(Seen {
            picture: picture.clone(),
            history: VecDeque::new(),
            looks: 0,
        }));
        let watch = Self {
            seen: seen.clone(),
            is_ready: Arc::default(),
            control,
        };
        let sys_tree = SysTree::new(options.sys_constants.clone());
        let watcher = Watcher {
            options,
            control: control_out,
            seen,
            picture,
            recent,
            started_at,
            sys_tree,
            sys_updated_at: None,
            hanging: Vec::new(),
        };
        (watch, watcher)
    }

    /// The listeners are up: `/readyz` says so. False again once the broker stops.
    pub fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Relaxed);
    }

    /// `sys_interval` was read again.
    pub fn set_sys_interval(&self, interval: Duration) {
        let _ = self.control.send(Control::SysInterval(interval));
    }

    /// Ends the thread.
    pub fn stop(&self) {
        let _ = self.control.send(Control::Stop);
    }

    pub(super) fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Relaxed)
    }

    pub(super) fn read<T>(&self, read: impl FnOnce(&Seen) -> T) -> T {
        // Whoever panicked while holding it has only read or replaced whole values.
        read(&self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The shards that hang, or `None` if nobody has looked for too long to know.
    pub(super) fn hanging(&self) -> Option<Vec<usize>> {
        self.read(|seen| {
            let picture = &seen.picture;
            (picture.at.elapsed() < HANG_AFTER).then(|| picture.hanging())
        })
    }

    /// The same by a look that ends after the question, unless all was well at the last one: that may have been before
    /// a pause, and who asks restarts a broker that is not well.
    pub(super) async fn hanging_still(&self) -> Option<Vec<usize>> {
        let looks = || self.read(|seen| seen.looks);
        let (before, until) = (looks(), Instant::now() + LOOK_WITHIN);
        loop {
            let is_new = looks() != before;
            let hanging = self.hanging();
            if is_new || hanging.as_ref().is_some_and(Vec::is_empty) || until <= Instant::now() {
                return hanging;
            }
            tokio::time::sleep(LOOK_WITHIN / 50).await;
        }
    }
}

impl Picture {
    pub(super) fn hanging(&self) -> Vec<usize> {
        let hangs = |shard: &ShardPicture| self.at.duration_since(shard.answered_at) >= HANG_AFTER;
        let shards = self.shards.iter().enumerate();
        shards
            .filter(|(_, shard)| hangs(shard))
            .map(|(index, _)| index)
            .collect()
    }
}

struct Watcher {
    options: WatchOptions,
    control: Receiver<Control>,
    seen: Arc<Mutex<Seen>>,
    picture: Picture,
    /// Of each shard.
    recent: Vec<Recent>,
    started_at: Instant,
    sys_tree: SysTree,
    sys_updated_at: Option<Instant>,
    hanging: Vec<usize>,
}

impl Watcher {
    fn run(mut self) {
        let watchdog = service::watchdog_interval();
        let tick = watchdog.map_or(TICK, |interval| TICK.min(interval / 3));
        let mut next = Instant::now();
        loop {
            self.wait_for_answers();
            self.handle_answers(Instant::now(), || {
                if watchdog.is_some() {
                    service::notify_alive();
                }
            });
            next += tick;
            // After a suspended machine there is nothing to catch up with.
            next = next.max(Instant::now());
            match self.control.recv_deadline(next) {
                Err(RecvTimeoutError::Timeout) => {}
                Ok(Control::SysInterval(interval)) => self.options.sys_interval = interval,
                Ok(Control::Stop) | Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn wait_for_answers(&self) {
        let numbers = &self.options.numbers;
        numbers.ask();
        let patience = Instant::now() + ANSWER_WITHIN;
        while !numbers.read().all(|(_, is_new)| is_new) && Instant::now() < patience {
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// All is well only while every shard is: one that hangs is enough for the service manager to
    /// hear nothing, because a restart is the only help for its Clients.
    fn handle_answers(&mut self, now: Instant, notify_alive: impl FnOnce()) {
        self.look(now);
        give_memory_back();
        self.report_hanging();
        if self.hanging.is_empty() {
            notify_alive();
            self.update_sys_tree();
        }
    }

    fn look(&mut self, now: Instant) {
        let numbers = &self.options.numbers;
        let before = self.picture.clone();
        let elapsed = now.duration_since(before.at).as_secs_f64().max(1e-3);
        let late = now.duration_since(before.at).saturating_sub(LOOK_AFTER_MAX);
        let mut have_answered = true;
        for (shard, (snapshot, is_new)) in self.picture.shards.iter_mut().zip(numbers.read()) {
            have_answered &= is_new;
            if is_new {
                let busy_ns = snapshot.own.busy_ns - shard.snapshot.own.busy_ns;
                shard.busy_share = (busy_ns as f64 / 1e9 / elapsed).clamp(0.0, 1.0);
                shard.snapshot = snapshot;
                shard.answered_at = now;
            } else {
                shard.answered_at += late;
            }
        }
        let snapshots: Vec<_> = self.picture.shards.iter().map(|s| s.snapshot).collect();
        self.picture.total = total(&snapshots);
        if let Some(affinity) = &self.options.affinity {
            let spent = Duration::from_nanos(self.picture.total.own.busy_ns);
            affinity.handle_look(have_answered.then_some(spent), now);
            self.picture.whereabouts = affinity.whereabouts();
        }
        self.picture.at = now;
        self.picture.uptime = now.duration_since(self.started_at);
        self.picture.log = self
            .options
            .log
            .as_ref()
            .map(Log::counts)
            .unwrap_or_default();
        self.picture.log_events_dropped = self.options.events_dropped.load(Ordering::Relaxed);
        self.picture.memory = memory();
        self.picture.bridges = self.options.bridges.read();
        for (recent, said) in self.recent.iter_mut().zip(numbers.take_talkers()) {
            recent.push(said);
        }
        self.picture.talkers = talkers::loudest(&self.recent);
        let second = second(&before, &self.picture, elapsed);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.picture = self.picture.clone();
        seen.looks += 1;
        // The first look has nothing to compare with.
        if seen.looks > 1 {
            seen.history.push_back(second);
        }
        if seen.history.len() > HISTORY_MAX {
            seen.history.pop_front();
        }
    }

    fn report_hanging(&mut self) {
        let hanging = self.picture.hanging();
        for shard in &hanging {
            if !self.hanging.contains(shard) {
                tracing::error!(
                    "shard {shard} has not answered for {} s",
                    HANG_AFTER.as_secs()
                );
            }
        }
        for shard in &self.hanging {
            if !hanging.contains(shard) {
                tracing::warn!("shard {shard} answers again");
            }
        }
        self.hanging = hanging;
    }

    fn update_sys_tree(&mut self) {
        let interval = self.options.sys_interval;
        let now = self.picture.at;
        let elapsed = self.sys_updated_at.map(|at| now.duration_since(at));
        // Ticks are not exact, and the update must not wait for the next.
        let is_due = elapsed.is_none_or(|elapsed| elapsed + TICK / 4 >= interval);
        if interval.is_zero() || !is_due {
            return;
        }
        self.sys_updated_at = Some(now);
        let shards: Vec<_> = self.picture.shards.iter().map(|s| s.snapshot).collect();
        let input = Input {
            uptime: self.picture.uptime,
            elapsed: elapsed.unwrap_or(self.picture.uptime),
            shards: &shards,
            memory: self.picture.memory,
        };
        let Some(mailbox) = self.options.mailboxes.first() else {
            return;
        };
        self.sys_tree.update(&input, |topic, value| {
            // With Mosquitto's QoS.
            mailbox.publish(topic, value.as_bytes(), QoS::ExactlyOnce, true);
        });
    }
}

fn second(before: &Picture, after: &Picture, elapsed: f64) -> Second {
    let rate = |of: fn(&Snapshot) -> u64| {
        of(&after.total).saturating_sub(of(&before.total)) as f64 / elapsed
    };
    Second {
        clients: after.total.gauges.clients_connected,
        received: rate(|total| total.counters.publish_received),
        sent: rate(|total| total.counters.publish_sent),
        dropped: rate(|total| total.counters.dropped()),
        bytes_in: rate(|total| total.counters.bytes_received),
        bytes_out: rate(|total| total.counters.bytes_sent),
        queued: after.total.gauges.queued_messages,
        busy: after.shards.iter().map(|shard| shard.busy_share).collect(),
    }
}

/// What has been free for a second goes back to the system. The allocator looks for that only when something large is
/// freed: after a burst that may be never, and on a shard it would be a pause.
fn give_memory_back() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE)));
}

/// Bytes of memory that the process has in use, and the most that it had.
fn memory() -> Option<(u64, u64)> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
        Some(kib * 1024)
    };
    Some((field("VmRSS:")?, field("VmHWM:")?))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::key::ShardId;
    use crate::net::Waker;

    fn two_shards() -> (Numbers, Watch, Watcher, Instant) {
        let wakers = [Waker::new().unwrap(), Waker::new().unwrap()];
        let numbers = Numbers::new(Arc::new(wakers));
        let options = WatchOptions {
            sys_interval: Duration::ZERO,
            sys_constants: Vec::new(),
            numbers: numbers.clone(),
            affinity: None,
            mailboxes: Arc::new([]),
            log: None,
            events_dropped: Arc::default(),
            bridges: BridgeTable::default(),
        };
        let started_at = Instant::now();
        let (watch, watcher) = Watch::prepare(options, started_at);
        (numbers, watch, watcher, started_at)
    }

    fn answer(numbers: &Numbers, answers: [bool; 2]) {
        numbers.ask();
        for (index, _) in answers.iter().enumerate().filter(|(_, is)| **is) {
            let shard = ShardId(u16::try_from(index).unwrap());
            numbers.slot(shard).answer(&Snapshot::default());
        }
    }

    /// Looks at two shards in these seconds; `answers` says which of them answer in a second. Returns the seconds in
    /// which the service manager heard that all is well.
    fn alive_at(
        seconds: impl IntoIterator<Item = u64>,
        answers: impl Fn(u64) -> [bool; 2],
    ) -> Vec<u64> {
        let (numbers, _watch, mut watcher, started_at) = two_shards();
        let mut alive = Vec::new();
        for second in seconds {
            answer(&numbers, answers(second));
            let now = started_at + Duration::from_secs(second);
            watcher.handle_answers(now, || alive.push(second));
        }
        alive
    }

    /// The same once a second.
    fn alive_in(seconds: u64, answers: impl Fn(u64) -> [bool; 2]) -> Vec<u64> {
        alive_at(1..=seconds, answers)
    }

    #[test]
    fn two_shards_that_turn_keep_the_watchdog_notified() {
        let all: Vec<u64> = (1..=30).collect();
        assert_eq!(alive_in(30, |_| [true, true]), all);
    }

    #[test]
    fn one_hung_shard_of_two_ends_the_watchdog_notification() {
        // Last heard of at 10 s, and so it hangs at 15 s.
        let until_it_hangs: Vec<u64> = (1..15).collect();
        assert_eq!(alive_in(60, |s| [true, s <= 10]), until_it_hangs);
        assert_eq!(alive_in(60, |s| [s <= 10, true]), until_it_hangs);
    }

    #[test]
    fn a_hung_shard_that_turns_again_resumes_the_watchdog_notification() {
        let alive = alive_in(30, |s| [true, s <= 10 || s >= 20]);
        let expected: Vec<u64> = (1..15).chain(20..=30).collect();
        assert_eq!(alive, expected);
    }

    #[test]
    fn shards_that_did_not_run_while_nobody_did_do_not_hang_unless_they_go_on_like_that() {
        // Nobody runs for 50 s, and the shards answer one look later, or never.
        let seconds: Vec<u64> = (1..=10).chain(60..=70).collect();
        let alive = alive_at(seconds.clone(), |s| [s != 60; 2]);
        assert_eq!(alive, seconds);
        let alive = alive_at(seconds, |s| [true, s <= 10]);
        let until_it_hangs: Vec<u64> = (1..=10).chain(60..=62).collect();
        assert_eq!(alive, until_it_hangs);
    }

    #[test]
    fn what_was_seen_before_a_pause_is_not_said_of_the_time_after_it() {
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_time().build().unwrap();
        let (numbers, watch, mut watcher, started_at) = two_shards();
        let mut look_at = |second, answers| {
            answer(&numbers, answers);
            watcher.handle_answers(started_at + Duration::from_secs(second), || ());
        };
        for second in 1..=6 {
            look_at(second, [true, false]);
        }
        assert_eq!(watch.hanging(), Some(vec![1]));
        // The next look is while somebody waits.
        let ask = |look: &mut dyn FnMut()| {
            runtime.block_on(async { tokio::join!(watch.hanging_still(), async { look() }).0 })
        };
        let again = ask(&mut || look_at(7, [true, false]));
        assert_eq!(again, Some(vec![1]));
        let well = ask(&mut || look_at(8, [true, true]));
        assert_eq!(well, Some(vec![]));
        assert_eq!(ask(&mut || ()), Some(vec![]));
        for second in 9..=14 {
            look_at(second, [true, false]);
        }
        assert_eq!(ask(&mut || ()), Some(vec![1]), "nobody looks again");
    }

    #[test]
    fn memory_in_use_is_known_and_not_more_than_the_most() {
        let (current, maximum) = memory().unwrap();
        assert!(current > 1 << 20 && current <= maximum);
    }
}
