//! On which CPUs the shards run: each on its own, if nothing speaks against it.
//!
//! - **Gathered**, all on one, while all together have little to do. A message that crosses shards wakes one that sleeps.
//!   If that one has a CPU to itself, this sleeps as well and is woken by an interrupt, which costs more than the message;
//!   on a CPU that both share the kernel only switches threads.
//! - **Roaming**, wherever the kernel finds room, while something else keeps busy the CPU of one of them. Of a load that
//!   all shards have a part in, the slowest sets the pace.
//!
//! The watch moves them, since it looks at the shards once a second anyway: nobody is woken for it. A gathered shard that
//! finds itself busy does not wait for the watch, it sends all of them home.
//!
//! # Always true
//! - Affinities are changed, and what is said of them, by whoever holds the lock. A shard never waits for it.
//! - All shards are at home, or gathered on one CPU, or may run on every CPU that the process has.
//! - What the system refuses once is not tried again: the shards go home, and stay there.

#![forbid(unsafe_code)]

mod pace;

use self::pace::{Filling, Pace, Step};
use super::clock::Clock;
use super::cpus::only;
use super::own_time::OwnTime;
use crate::key::ShardId;
use crate::time::Instant;
use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// A gathered shard that has not waited for so long is busy, or something else is on its CPU.
const WITHOUT_WAIT_MAX: Duration = Duration::from_millis(2);
/// How often a gathered shard looks whether it is time to go home. Turns that end sooner after a look do not even read whether they
/// are gathered.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const _: () = assert!(LOOK_EVERY.as_nanos() < WITHOUT_WAIT_MAX.as_nanos());

/// Where the shards are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Place {
    /// Each where it was started.
    #[default]
    Home,
    /// All on one CPU.
    Gathered,
    /// Each wherever the system finds room.
    Roaming,
}

impl Place {
    const ALL: [Self; 3] = [Self::Home, Self::Gathered, Self::Roaming];
}

/// Where the shards are, and how often they were moved away from home.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Whereabouts {
    /// Where they are.
    pub place: Place,
    /// How often they have been gathered.
    pub gatherings: u64,
    /// How often they were let roam.
    pub roamings: u64,
}

/// What is asked of the system.
#[derive(Clone, Copy, Debug)]
struct System {
    set_affinity: fn(Pid, &CpuSet) -> Result<(), Errno>,
    /// How long a thread has been ready to run without running, since it began.
    kept_waiting: fn(Pid) -> Option<Duration>,
}

/// The thread of one shard.
#[derive(Clone, Copy, Debug)]
struct Thread {
    id: Pid,
    /// Where it runs unless shards are gathered or roam.
    home: CpuSet,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Of each shard, while it runs.
    threads: Vec<Option<Thread>>,
    /// The CPUs that the process may use; `None` if it is not known.
    allowed: Option<CpuSet>,
    /// The system has refused to move one.
    is_off: bool,
}

impl State {
    /// The threads of all shards. `None` if one of them does not run yet or any more.
    fn all(&self) -> Option<Vec<Thread>> {
        self.threads.iter().copied().collect()
    }

    /// The CPU on which the shards meet: the first of its host. `None` if that would change nothing.
    fn meeting_place(&self) -> Option<usize> {
        let all = self.all()?;
        let host = all.get(self.pace.host()).or(all.first())?;
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| host.home.is_set(cpu))?;
        let is_apart = all.iter().any(|thread| thread.home != only(cpu));
        (all.len() > 1 && is_apart).then_some(cpu)
    }

    /// All CPUs that shards may roam. `None` if that would change nothing.
    fn range(&self) -> Option<CpuSet> {
        let all = self.all()?;
        let range = self.allowed?;
        let is_more = all.iter().any(|thread| thread.home != range);
        is_more.then_some(range)
    }

    /// How long each shard has been kept waiting for a CPU since its start.
    fn kept_waiting(threads: &[Option<Thread>], system: System) -> Option<Vec<Duration>> {
        let threads = threads.iter();
        threads
            .map(|thread| (system.kept_waiting)(thread.as_ref()?.id))
            .collect()
    }
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// Index of a [`Place`]. Written by who holds `state`. It says nothing of other memory, so every access is relaxed.
    place: AtomicU8,
    gatherings: AtomicU64,
    roamings: AtomicU64,
    /// CPU time of all shards while they were gathered, so that only one CPU writes it at a time.
    spent_ns: AtomicU64,
    state: Mutex<State>,
    system: System,
}

/// Decides where all shards run. Clones do so for the same shards.
#[derive(Clone, Debug)]
pub struct Affinity(Arc<Shared>);

impl Affinity {
    /// Of so many shards, which have yet to [`join`](Self::join), and which may run where the calling thread may.
    pub(super) fn new(clock: Clock, shard_count: usize) -> Self {
        let system = System {
            set_affinity: |thread, to| sched_setaffinity(Some(thread), to),
            kept_waiting,
        };
        // On a machine with more CPUs than the mask has bits shards stay where they are.
        Self::by(system, clock, shard_count, sched_getaffinity(None).ok())
    }

    fn by(system: System, clock: Clock, shard_count: usize, allowed: Option<CpuSet>) -> Self {
        Self(Arc::new(Shared {
            clock,
            place: AtomicU8::new(Place::Home as u8),
            gatherings: AtomicU64::new(0),
            roamings: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
            state: Mutex::new(State {
                pace: Pace::new(clock.now()),
                threads: vec![None; shard_count],
                allowed,
                is_off: false,
            }),
            system,
        }))
    }

    /// The calling thread is that of `shard`, and where it may run now is its home.
    pub(super) fn join(&self, shard: ShardId) -> Member {
        let home = sched_getaffinity(None).ok();
        self.lock().threads[shard.index()] = home.map(|home| Thread { id: gettid(), home });
        let now = self.0.clock.now();
        Member {
            affinity: self.clone(),
            shard,
            waited_at: now,
            looked_at: now,
            spent_ns: 0,
            filling: Filling::new(now),
        }
    }

    fn is_gathered(&self) -> bool {
        self.0.place.load(Ordering::Relaxed) == Place::Gathered as u8
    }

    /// Where the shards are.
    #[must_use]
    pub fn whereabouts(&self) -> Whereabouts {
        let shared = &self.0;
        Whereabouts {
            place: Place::ALL[usize::from(shared.place.load(Ordering::Relaxed))],
            gatherings: shared.gatherings.load(Ordering::Relaxed),
            roamings: shared.roamings.load(Ordering::Relaxed),
        }
    }

    /// Somebody has looked at the shards: since their start they have needed `spent` of CPU time, all together; `None` if
    /// one of them has not said so. Moves them, if it is time to.
    pub fn handle_look(&self, spent: Option<Duration>, now: std::time::Instant) {
        let now = self.0.clock.at(now);
        let mut state = self.lock();
        if state.is_off {
            return;
        }
        let State { pace, threads, .. } = &mut *state;
        let kept_waiting = || State::kept_waiting(threads, self.0.system);
        match pace.handle_look(spent, kept_waiting, now) {
            Some(Step::Gather) => self.gather(&mut state, now),
            Some(Step::Roam) => self.roam(&mut state, now),
            Some(Step::GoHome) => self.go_home(&mut state, now),
            None => {}
        }
    }

    fn gather(&self, state: &mut State, now: Instant) {
        let Some(cpu) = state.meeting_place() else {
            return;
        };
        // A shard that is busy from now on tries to send them home until it gets the lock.
        if self.move_to(state, Place::Gathered, &only(cpu), now) {
            self.0.gatherings.fetch_add(1, Ordering::Relaxed);
            tracing::debug!("shards have little to do: all of them run on CPU {cpu}");
        }
    }

    fn roam(&self, state: &mut State, now: Instant) {
        let Some(range) = state.range() else {
            return;
        };
        if self.move_to(state, Place::Roaming, &range, now) {
            self.0.roamings.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(
                "something else keeps busy a shard's CPU: they run where there is room"
            );
        }
    }

    /// All shards are to run on `cpus`. If one of them cannot, none is moved any more.
    fn move_to(&self, state: &mut State, place: Place, cpus: &CpuSet, now: Instant) -> bool {
        self.0.place.store(place as u8, Ordering::Relaxed);
        for thread in state.threads.iter().flatten() {
            if let Err(error) = (self.0.system.set_affinity)(thread.id, cpus) {
                self.go_home(state, now);
                self.give_up(state, error);
                return false;
            }
        }
        state.pace.handle_moved(place, now);
        true
    }

    fn go_home(&self, state: &mut State, now: Instant) {
        let mut refused = None;
        for thread in state.threads.iter().flatten() {
            if let Err(error) = (self.0.system.set_affinity)(thread.id, &thread.home) {
                // Its CPU may be gone; the others have theirs.
                refused = Some(error);
            }
        }
        self.0.place.store(Place::Home as u8, Ordering::Relaxed);
        state.pace.handle_moved(Place::Home, now);
        match refused {
            Some(error) => self.give_up(state, error),
            None => tracing::debug!("each shard runs where it belongs"),
        }
    }

    fn give_up(&self, state: &mut State, error: Errno) {
        if !state.is_off {
            tracing::warn!("shards cannot be moved, and stay where they are from now on: {error}");
        }
        state.is_off = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it has at most left threads where they may be.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's part, on its thread. Without it the shards are not moved.
#[derive(Debug)]
pub(super) struct Member {
    affinity: Affinity,
    shard: ShardId,
    waited_at: Instant,
    looked_at: Instant,
    /// The shard's CPU time at that look.
    spent_ns: u64,
    /// Of the CPU that the shards have met on.
    filling: Filling,
}

impl Member {
    /// The shard's wait in its ring has ended.
    // HOT: per turn.
    #[inline]
    pub(super) fn handle_waited(&mut self, now: Instant) {
        self.waited_at = now;
    }

    /// The shard's turn has ended. If it is busy, no other shard is on its CPU from now on.
    ///
    /// In most turns this is a comparison of two numbers that are at hand, and once a millisecond also a read of one
    /// that hardly ever changes. How long the last wait is ago is not compared first: shards that fill a CPU by turns
    /// wait all the time.
    // HOT: per turn.
    #[inline]
    pub(super) fn handle_turn_end(&mut self, now: Instant, own: &OwnTime) {
        if now - self.looked_at >= LOOK_EVERY {
            self.look(now, own.turns().busy_ns);
        }
    }

    fn look(&mut self, now: Instant, spent_ns: u64) {
        let news_ns = spent_ns - self.spent_ns;
        (self.looked_at, self.spent_ns) = (now, spent_ns);
        if !self.affinity.is_gathered() {
            return;
        }
        let all_ns = self
            .affinity
            .0
            .spent_ns
            .fetch_add(news_ns, Ordering::Relaxed)
            + news_ns;
        let is_full = self.filling.is_full(Duration::from_nanos(all_ns), now);
        if is_full || now - self.waited_at > WITHOUT_WAIT_MAX {
            self.go_home(now);
        }
    }

    #[cold]
    fn go_home(&self, now: Instant) {
        // Whoever holds it may wait for this CPU. If it does not move them itself, the next turn comes here again.
        let mut state = match self.affinity.0.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Another shard may have been here first.
        if self.affinity.is_gathered() {
            self.affinity.go_home(&mut state, now);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The system may give its number to another thread.
        self.affinity.lock().threads[self.shard.index()] = None;
    }
}

/// As the scheduler counts it.
fn kept_waiting(thread: Pid) -> Option<Duration> {
    let path = format!("/proc/self/task/{}/schedstat", thread.as_raw_nonzero());
    let numbers = std::fs::read_to_string(path).ok()?;
    let waited_ns = numbers.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(Duration::from_nanos(waited_ns))
}

#[cfg(all(test, not(loom)))]
impl Affinity {
    /// Where each shard's thread may run, as the system says.
    pub(super) fn affinities(&self) -> Vec<CpuSet> {
        let state = self.lock();
        let threads = state.threads.iter().flatten();
        threads
            .map(|thread| sched_getaffinity(Some(thread.id)).unwrap())
            .collect()
    }

    /// Where each shard belongs.
    pub(super) fn homes(&self) -> Vec<CpuSet> {
        let state = self.lock();
        let threads = state.threads.iter().flatten();
        threads.map(|thread| thread.home).collect()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};

    thread_local! {
        /// What was moved where, and how many moves are still taken.
        static MOVED: RefCell<Vec<CpuSet>> = const { RefCell::new(Vec::new()) };
        static TAKEN: Cell<usize> = const { Cell::new(usize::MAX) };
        /// What each shard has been kept waiting since it began.
        static KEPT_WAITING: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    }

    fn take(_: Pid, to: &CpuSet) -> Result<(), Errno> {
        if TAKEN.get() == 0 {
            return Err(Errno::PERM);
        }
        TAKEN.set(TAKEN.get() - 1);
        MOVED.with_borrow_mut(|moved| moved.push(*to));
        Ok(())
    }

    fn moved() -> Vec<CpuSet> {
        MOVED.take()
    }

    fn by(homes: &[CpuSet]) -> Affinity {
        let system = System {
            set_affinity: take,
            kept_waiting: |_| Some(KEPT_WAITING.get()),
        };
        Affinity::by(system, Clock::start(), homes.len(), Some(both()))
    }

    fn gatherings(affinity: &Affinity) -> u64 {
        affinity.whereabouts().gatherings
    }

    /// Shards that have these homes and are moved nowhere, and when they were begun.
    fn shards(homes: &[CpuSet]) -> (Affinity, std::time::Instant) {
        let affinity = by(homes);
        let threads = homes.iter().map(|&home| {
            let id = gettid();
            Some(Thread { id, home })
        });
        affinity.lock().threads = threads.collect();
        (affinity, std::time::Instant::now())
    }

    /// Looks with nothing to do, after the second `from`.
    fn look(affinity: &Affinity, started: std::time::Instant, from: u64) {
        for second in from + 1..=from + 3 {
            let now = started + Duration::from_secs(second);
            affinity.handle_look(Some(Duration::ZERO), now);
        }
    }

    fn both() -> CpuSet {
        let mut both = only(3);
        both.set(5);
        both
    }

    #[test]
    fn shards_meet_on_the_first_cpu_of_the_first_and_go_back_to_where_each_was() {
        let (affinity, started) = shards(&[only(3), only(5)]);
        look(&affinity, started, 0);
        assert!(affinity.is_gathered() && gatherings(&affinity) == 1);
        assert_eq!(moved(), [only(3), only(3)]);
        affinity.handle_look(
            Some(Duration::from_secs(1)),
            started + Duration::from_secs(4),
        );
        assert!(!affinity.is_gathered() && gatherings(&affinity) == 1);
        assert_eq!(moved(), [only(3), only(5)]);
        // Two that run on both.
        let (affinity, started) = shards(&[both(), both()]);
        look(&affinity, started, 0);
        assert_eq!(moved(), [only(3), only(3)]);
    }

    #[test]
    fn shards_that_are_on_one_cpu_alone_or_not_all_there_do_not_gather() {
        for homes in [&[only(3), only(3)][..], &[both()], &[]] {
            let (affinity, started) = shards(homes);
            look(&affinity, started, 0);
            assert!(!affinity.is_gathered() && gatherings(&affinity) == 0);
        }
        let (affinity, started) = shards(&[only(3), only(5), only(7)]);
        drop(affinity.join(ShardId(1)));
        look(&affinity, started, 0);
        assert!(!affinity.is_gathered() && gatherings(&affinity) == 0);
        assert_eq!(moved(), []);
    }

    #[test]
    fn a_move_that_the_system_refuses_sends_all_home_for_good() {
        // When they gather, at the second of them.
        let (affinity, started) = shards(&[only(3), only(5)]);
        TAKEN.set(1);
        look(&affinity, started, 0);
        assert!(!affinity.is_gathered() && gatherings(&affinity) == 0);
        // When they spread: what may be moved is.
        let (affinity, started) = shards(&[only(3), only(5)]);
        TAKEN.set(3);
        look(&affinity, started, 0);
        assert!(affinity.is_gathered());
        affinity.handle_look(
            Some(Duration::from_secs(1)),
            started + Duration::from_secs(4),
        );
        assert!(!affinity.is_gathered());
        TAKEN.set(usize::MAX);
        moved();
        for from in 1..9 {
            look(&affinity, started, from * 10);
        }
        assert!(!affinity.is_gathered() && gatherings(&affinity) == 1);
        assert_eq!(moved(), []);
    }

    /// Looks at shards that are as busy as one CPU allows, and are kept waiting for `share` of the time.
    fn look_busy(
        affinity: &Affinity,
        started: std::time::Instant,
        seconds: std::ops::Range<u64>,
        share: f64,
    ) {
        for second in seconds {
            let now = started + Duration::from_secs(second);
            KEPT_WAITING.set(KEPT_WAITING.get() + Duration::from_secs_f64(share));
            affinity.handle_look(Some(Duration::from_secs(second)), now);
        }
    }

    #[test]
    fn shards_that_are_kept_waiting_for_their_cpus_run_on_all_of_them_and_go_home_after_a_while() {
        let (affinity, started) = shards(&[only(3), only(5)]);
        look_busy(&affinity, started, 1..20, 0.05);
        assert_eq!(affinity.whereabouts(), Whereabouts::default());
        look_busy(&affinity, started, 20..22, 0.4);
        let roaming = Whereabouts {
            place: Place::Roaming,
            roamings: 1,
            ..Whereabouts::default()
        };
        assert_eq!(affinity.whereabouts(), roaming);
        assert_eq!(moved(), [both(), both()]);
        look_busy(&affinity, started, 22..51, 0.4);
        assert_eq!(affinity.whereabouts(), roaming);
        look_busy(&affinity, started, 51..52, 0.0);
        assert_eq!(affinity.whereabouts().place, Place::Home);
        assert_eq!(moved(), [only(3), only(5)]);
    }

    #[test]
    fn shards_that_may_run_on_every_cpu_anyway_have_nowhere_to_roam() {
        for homes in [&[both()][..], &[both(), both()], &[]] {
            let (affinity, started) = shards(homes);
            look_busy(&affinity, started, 1..20, 0.4);
            assert_eq!(affinity.whereabouts(), Whereabouts::default());
        }
        assert_eq!(moved(), []);
        // One that has a CPU of two does.
        let (affinity, started) = shards(&[only(5)]);
        look_busy(&affinity, started, 1..20, 0.4);
        assert_eq!(affinity.whereabouts().place, Place::Roaming);
    }

    #[test]
    fn the_system_says_how_long_a_thread_has_been_kept_waiting() {
        // Not everywhere; where it does, it is not more than there was.
        let begun = std::time::Instant::now();
        let waited = std::thread::spawn(|| kept_waiting(gettid()))
            .join()
            .unwrap();
        assert!(waited.is_none_or(|waited| waited <= begun.elapsed()));
        assert_eq!(kept_waiting(Pid::INIT), None, "it is not of this process");
    }

    /// One of two shards that are gathered, at the moment that it has joined.
    fn member() -> (Affinity, Member, Instant) {
        let (affinity, started) = shards(&[only(3), only(5)]);
        let member = affinity.join(ShardId(1));
        affinity.lock().threads[1] = Some(Thread {
            id: gettid(),
            home: only(5),
        });
        look(&affinity, started, 0);
        assert!(affinity.is_gathered());
        let now = member.waited_at;
        (affinity, member, now)
    }

    #[test]
    fn a_gathered_shard_that_does_not_wait_sends_all_home_and_one_that_waits_does_not() {
        let (affinity, mut member, mut now) = member();
        for _ in 0..100 {
            now = now + Duration::from_micros(1900);
            member.look(now, 0);
            member.handle_waited(now);
        }
        assert!(affinity.is_gathered());
        member.look(now + Duration::from_micros(1100), 0);
        assert!(affinity.is_gathered());
        member.look(now + Duration::from_micros(2100), 0);
        assert!(!affinity.is_gathered());
        moved();
        member.look(now + Duration::from_micros(9000), 0);
        assert_eq!(moved(), [], "once is enough");
    }

    #[test]
    fn shards_that_wait_by_turns_and_fill_their_cpu_together_are_spread() {
        let (affinity, mut member, mut now) = member();
        let mut other = affinity.join(ShardId(0));
        affinity.lock().threads[0] = Some(Thread {
            id: gettid(),
            home: only(3),
        });
        let mut spent = 0;
        for turns in 1.. {
            for member in [&mut member, &mut other] {
                now = now + Duration::from_millis(1);
                spent += 450_000;
                member.handle_waited(now);
                member.look(now, spent);
            }
            if !affinity.is_gathered() {
                assert!((8..=16).contains(&turns), "{turns}");
                break;
            }
        }
    }

    #[test]
    fn a_busy_shard_waits_for_nobody_who_moves_them_and_tries_again() {
        let (affinity, mut member, now) = member();
        let held = affinity.lock();
        member.look(now + Duration::from_millis(3), 0);
        assert!(affinity.is_gathered());
        drop(held);
        member.look(now + Duration::from_millis(4), 0);
        assert!(!affinity.is_gathered());
    }
}
