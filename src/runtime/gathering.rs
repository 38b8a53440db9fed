//! Gathering: while all shards together have little to do they run on one CPU.
//!
//! A message that crosses shards wakes one that sleeps. If that one has a CPU to itself, this sleeps as well and is woken
//! by an interrupt, which costs more than the message; on a CPU that both share the kernel only switches threads.
//!
//! The watch gathers, since it looks at the shards once a second anyway: nobody is woken for it. A shard that finds
//! itself busy does not wait for the watch, it spreads them all.
//!
//! # Always true
//! - Affinities are changed, and what is said of them, by whoever holds the lock. A shard never waits for it.
//! - A shard runs at home or, while they are gathered, on the CPU that they meet on.
//! - What the system refuses once is not tried again: the shards are spread, and stay so.

#![forbid(unsafe_code)]

use super::clock::Clock;
use super::own_time::OwnTime;
use crate::key::ShardId;
use crate::time::Instant;
use rustix::io::Errno;
use rustix::thread::{CpuSet, Pid, gettid, sched_getaffinity, sched_setaffinity};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::Duration;

/// Shards that need less of one CPU, all together, are gathered. There they need less than before.
const GATHER_BELOW: f64 = 0.45;
/// Gathered shards that need more are spread. It is more than they gathered with, so that they do not come and go.
const SPREAD_ABOVE: f64 = 0.6;
const _: () = assert!(GATHER_BELOW < SPREAD_ABOVE);
/// A look sooner after the one before says too little, as those do that a reload brings about.
const LOOK_APART_MIN: Duration = Duration::from_millis(500);
/// Looks with little load that have to follow each other before shards gather.
const QUIET_LOOKS_MIN: u32 = 2;
/// The same once they have often been spread soon after.
const QUIET_LOOKS_MAX: u32 = 64;
/// A gathering that was over sooner was a mistake: the next one needs twice the looks.
const GATHERED_SHORT: Duration = Duration::from_secs(10);
/// After one that lasted so long mistakes are forgotten.
const GATHERED_LONG: Duration = Duration::from_secs(60);
/// A gathered shard that has not waited for so long is busy, or something else is on its CPU.
const WITHOUT_WAIT_MAX: Duration = Duration::from_millis(2);
/// Shards that wake each other by turns wait often, each while another one runs. Their CPU is full when all together
/// have needed more than [`FULL_ABOVE`] of so much time.
const FULL_WITHIN: Duration = Duration::from_millis(16);
const FULL_ABOVE: f64 = 0.8;
/// How often a shard looks whether it is time to spread. Turns that end sooner after a look do not even read whether they
/// are gathered.
const LOOK_EVERY: Duration = Duration::from_millis(1);
const _: () = assert!(LOOK_EVERY.as_nanos() < WITHOUT_WAIT_MAX.as_nanos());
const _: () = assert!(WITHOUT_WAIT_MAX.as_nanos() < FULL_WITHIN.as_nanos());

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    Gather,
    Spread,
}

/// When to gather and when to spread. Knows no clock and no thread.
#[derive(Debug)]
struct Pace {
    /// The last look: when, and the CPU time that the shards had needed since their start.
    last: Option<(Instant, Duration)>,
    /// Looks with little load since one with more.
    quiet: u32,
    /// As many lead to a gathering.
    quiet_min: u32,
    gathered_at: Option<Instant>,
}

impl Pace {
    fn new() -> Self {
        Self {
            last: None,
            quiet: 0,
            quiet_min: QUIET_LOOKS_MIN,
            gathered_at: None,
        }
    }

    /// The shards have needed `spent` since their start; `None` if one of them does not say.
    fn handle_look(&mut self, spent: Option<Duration>, now: Instant) -> Option<Step> {
        let Some(spent) = spent else {
            // Who does not answer may be busy.
            self.quiet = 0;
            return None;
        };
        let Some((at, before)) = self.last else {
            self.last = Some((now, spent));
            return None;
        };
        let elapsed = now - at;
        if elapsed < LOOK_APART_MIN {
            return None;
        }
        self.last = Some((now, spent));
        let share = spent.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64();
        if self.gathered_at.is_some() {
            return (share > SPREAD_ABOVE).then_some(Step::Spread);
        }
        self.quiet = if share < GATHER_BELOW {
            self.quiet.saturating_add(1)
        } else {
            0
        };
        (self.quiet >= self.quiet_min).then_some(Step::Gather)
    }

    fn handle_gathered(&mut self, now: Instant) {
        self.gathered_at = Some(now);
    }

    fn handle_spread(&mut self, now: Instant) {
        self.quiet = 0;
        let Some(at) = self.gathered_at.take() else {
            return;
        };
        let lasted = now - at;
        if lasted < GATHERED_SHORT {
            self.quiet_min = (self.quiet_min * 2).min(QUIET_LOOKS_MAX);
        } else if lasted >= GATHERED_LONG {
            self.quiet_min = QUIET_LOOKS_MIN;
        }
    }
}

/// How full a CPU is of late.
#[derive(Clone, Copy, Debug)]
struct Filling {
    since: Instant,
    /// What had been spent by then.
    spent: Duration,
}

impl Filling {
    /// `spent` has been spent until `now`. Whether that is a full CPU.
    fn is_full(&mut self, spent: Duration, now: Instant) -> bool {
        let elapsed = now - self.since;
        if elapsed < FULL_WITHIN {
            return false;
        }
        let share = spent.saturating_sub(self.spent).as_secs_f64() / elapsed.as_secs_f64();
        (self.since, self.spent) = (now, spent);
        share > FULL_ABOVE
    }
}

/// The thread of one shard.
#[derive(Clone, Copy, Debug)]
struct Thread {
    id: Pid,
    /// Where it runs unless shards are gathered.
    home: CpuSet,
}

#[derive(Debug)]
struct State {
    pace: Pace,
    /// Of each shard, while it runs.
    threads: Vec<Option<Thread>>,
    /// The system has refused to move one.
    is_off: bool,
}

impl State {
    /// The CPU on which the shards meet: the first of the first shard's. `None` if that would change nothing, or one of
    /// them does not run yet or any more.
    fn meeting_place(&self) -> Option<usize> {
        let all: Option<Vec<_>> = self.threads.iter().copied().collect();
        let all = all?;
        let first = all.first()?;
        let cpu = (0..CpuSet::MAX_CPU).find(|&cpu| first.home.is_set(cpu))?;
        let is_apart = all.iter().any(|thread| thread.home != only(cpu));
        (all.len() > 1 && is_apart).then_some(cpu)
    }
}

#[derive(Debug)]
struct Shared {
    clock: Clock,
    /// Written by who holds `state`. It says nothing of other memory, so every access is relaxed.
    is_gathered: AtomicBool,
    gatherings: AtomicU64,
    /// CPU time of all shards while they were gathered, so that only one CPU writes it at a time.
    spent_ns: AtomicU64,
    state: Mutex<State>,
    set_affinity: fn(Option<Pid>, &CpuSet) -> Result<(), Errno>,
}

/// Gathers and spreads all shards. Clones do so with the same shards.
#[derive(Clone, Debug)]
pub struct Gathering(Arc<Shared>);

impl Gathering {
    /// Of so many shards, which have yet to [`join`](Self::join).
    pub(super) fn new(clock: Clock, shard_count: usize) -> Self {
        Self::moved_by(clock, shard_count, sched_setaffinity)
    }

    fn moved_by(
        clock: Clock,
        shard_count: usize,
        set_affinity: fn(Option<Pid>, &CpuSet) -> Result<(), Errno>,
    ) -> Self {
        Self(Arc::new(Shared {
            clock,
            is_gathered: AtomicBool::new(false),
            gatherings: AtomicU64::new(0),
            spent_ns: AtomicU64::new(0),
            state: Mutex::new(State {
                pace: Pace::new(),
                threads: vec![None; shard_count],
                is_off: false,
            }),
            set_affinity,
        }))
    }

    /// The calling thread is that of `shard`, and where it may run now is its home.
    pub(super) fn join(&self, shard: ShardId) -> Member {
        // On a machine with more CPUs than the mask has bits shards do not gather.
        let home = sched_getaffinity(None).ok();
        self.lock().threads[shard.index()] = home.map(|home| Thread { id: gettid(), home });
        let now = self.0.clock.now();
        Member {
            gathering: self.clone(),
            shard,
            waited_at: now,
            looked_at: now,
            spent_ns: 0,
            filling: Filling {
                since: now,
                spent: Duration::ZERO,
            },
        }
    }

    /// Whether the shards run on one CPU.
    #[must_use]
    pub fn is_gathered(&self) -> bool {
        self.0.is_gathered.load(Ordering::Relaxed)
    }

    /// How often they have been gathered.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.gatherings.load(Ordering::Relaxed)
    }

    /// Somebody has looked at the shards: since their start they have needed `spent` of CPU time, all together; `None` if
    /// one of them has not said so. Gathers or spreads them, if it is time to.
    pub fn handle_look(&self, spent: Option<Duration>, now: std::time::Instant) {
        let now = self.0.clock.at(now);
        let mut state = self.lock();
        if state.is_off {
            return;
        }
        match state.pace.handle_look(spent, now) {
            Some(Step::Gather) => self.gather(&mut state, now),
            Some(Step::Spread) => self.spread(&mut state, now),
            None => {}
        }
    }

    fn gather(&self, state: &mut State, now: Instant) {
        let Some(cpu) = state.meeting_place() else {
            return;
        };
        // A shard that is busy from now on tries to spread them until it gets the lock.
        self.0.is_gathered.store(true, Ordering::Relaxed);
        for thread in state.threads.iter().flatten() {
            if let Err(error) = (self.0.set_affinity)(Some(thread.id), &only(cpu)) {
                self.spread(state, now);
                self.give_up(state, error);
                return;
            }
        }
        self.0.gatherings.fetch_add(1, Ordering::Relaxed);
        state.pace.handle_gathered(now);
        tracing::debug!("shards have little to do: all of them run on CPU {cpu}");
    }

    fn spread(&self, state: &mut State, now: Instant) {
        let mut refused = None;
        for thread in state.threads.iter().flatten() {
            if let Err(error) = (self.0.set_affinity)(Some(thread.id), &thread.home) {
                // Its CPU may be gone; the others have theirs.
                refused = Some(error);
            }
        }
        self.0.is_gathered.store(false, Ordering::Relaxed);
        state.pace.handle_spread(now);
        match refused {
            Some(error) => self.give_up(state, error),
            None => tracing::debug!("each shard runs where it belongs"),
        }
    }

    fn give_up(&self, state: &mut State, error: Errno) {
        if !state.is_off {
            tracing::warn!("shards cannot be moved, and will not gather any more: {error}");
        }
        state.is_off = true;
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Whoever panicked while holding it has at most left threads where they may be.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One shard's part, on its thread. Without it the shards do not gather.
#[derive(Debug)]
pub(super) struct Member {
    gathering: Gathering,
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
        if !self.gathering.is_gathered() {
            return;
        }
        let all_ns = self
            .gathering
            .0
            .spent_ns
            .fetch_add(news_ns, Ordering::Relaxed)
            + news_ns;
        let is_full = self.filling.is_full(Duration::from_nanos(all_ns), now);
        if is_full || now - self.waited_at > WITHOUT_WAIT_MAX {
            self.spread(now);
        }
    }

    #[cold]
    fn spread(&self, now: Instant) {
        // Whoever holds it may wait for this CPU. If it does not spread them itself, the next turn comes here again.
        let mut state = match self.gathering.0.state.try_lock() {
            Ok(state) => state,
            Err(TryLockError::Poisoned(state)) => state.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        // Another shard may have been here first.
        if self.gathering.is_gathered() {
            self.gathering.spread(&mut state, now);
        }
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // The system may give its number to another thread.
        self.gathering.lock().threads[self.shard.index()] = None;
    }
}

fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

#[cfg(all(test, not(loom)))]
impl Gathering {
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

    const LITTLE: f64 = 0.4;
    const BETWEEN: f64 = 0.5;
    const MUCH: f64 = 0.7;

    /// A pace that is looked at once a second.
    struct Looks {
        pace: Pace,
        now: Instant,
        spent: Duration,
    }

    impl Looks {
        fn new() -> Self {
            let mut looks = Self {
                pace: Pace::new(),
                now: Instant::ZERO,
                spent: Duration::ZERO,
            };
            assert_eq!(looks.look(MUCH), None, "there is nothing to compare with");
            looks
        }

        /// Shards have needed `share` of a CPU for a second.
        fn look(&mut self, share: f64) -> Option<Step> {
            self.now = self.now + Duration::from_secs(1);
            self.spent += Duration::from_secs_f64(share);
            let step = self.pace.handle_look(Some(self.spent), self.now);
            match step {
                Some(Step::Gather) => self.pace.handle_gathered(self.now),
                Some(Step::Spread) => self.pace.handle_spread(self.now),
                None => {}
            }
            step
        }

        /// Looks with little load until the shards gather.
        fn until_gathered(&mut self) -> u32 {
            (1..)
                .find(|_| self.look(LITTLE) == Some(Step::Gather))
                .unwrap()
        }

        /// A gathering of so many seconds, and the looks that the next one takes.
        fn looks_after(&mut self, seconds: u64) -> u32 {
            self.now = self.now + Duration::from_secs(seconds);
            self.pace.handle_spread(self.now);
            self.until_gathered()
        }
    }

    #[test]
    fn shards_gather_after_two_looks_with_little_load_and_not_after_one() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(BETWEEN), None);
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
    }

    #[test]
    fn gathered_shards_spread_when_they_need_more_than_they_gathered_with_and_some() {
        let mut looks = Looks::new();
        looks.until_gathered();
        for share in [LITTLE, BETWEEN, BETWEEN] {
            assert_eq!(looks.look(share), None);
        }
        assert_eq!(looks.look(MUCH), Some(Step::Spread));
        assert_eq!(looks.look(MUCH), None);
    }

    #[test]
    fn each_gathering_that_is_over_soon_doubles_the_looks_until_one_lasts() {
        let mut looks = Looks::new();
        assert_eq!(looks.until_gathered(), 2);
        let needed = [1, 9, 2, 1, 1, 1, 1].map(|seconds| looks.looks_after(seconds));
        assert_eq!(needed, [4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(looks.looks_after(59), 64, "neither short nor long");
        assert_eq!(looks.looks_after(60), 2);
        assert_eq!(looks.looks_after(1), 4);
    }

    #[test]
    fn a_look_without_all_answers_does_not_count_and_what_was_spent_meanwhile_does() {
        let mut looks = Looks::new();
        looks.look(LITTLE);
        looks.now = looks.now + Duration::from_secs(1);
        assert_eq!(looks.pace.handle_look(None, looks.now), None);
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
        // Of two seconds it is little.
        looks.now = looks.now + Duration::from_secs(1);
        assert_eq!(looks.pace.handle_look(None, looks.now), None);
        assert_eq!(looks.look(MUCH), None);
        assert_eq!(looks.look(MUCH), Some(Step::Spread));
    }

    #[test]
    fn a_look_right_after_another_one_is_none() {
        let mut looks = Looks::new();
        looks.look(LITTLE);
        for _ in 0..100 {
            let soon = looks.now + Duration::from_millis(10);
            assert_eq!(looks.pace.handle_look(Some(looks.spent), soon), None);
        }
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
    }

    #[test]
    fn a_cpu_is_full_once_it_was_so_for_a_while() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut filling = Filling {
            since: at(0),
            spent: ms(0),
        };
        assert!(!filling.is_full(ms(15), at(15)), "a burst");
        assert!(!filling.is_full(ms(16), at(30)), "which is over");
        assert!(!filling.is_full(ms(31), at(45)));
        assert!(filling.is_full(ms(31), at(46)));
        assert!(!filling.is_full(ms(45), at(90)));
    }

    thread_local! {
        /// What was moved where, and how many moves are still taken.
        static MOVED: RefCell<Vec<CpuSet>> = const { RefCell::new(Vec::new()) };
        static TAKEN: Cell<usize> = const { Cell::new(usize::MAX) };
    }

    fn take(_: Option<Pid>, to: &CpuSet) -> Result<(), Errno> {
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

    /// Shards that have these homes and are moved nowhere, and when they were begun.
    fn shards(homes: &[CpuSet]) -> (Gathering, std::time::Instant) {
        let gathering = Gathering::moved_by(Clock::start(), homes.len(), take);
        let threads = homes.iter().map(|&home| {
            let id = gettid();
            Some(Thread { id, home })
        });
        gathering.lock().threads = threads.collect();
        (gathering, std::time::Instant::now())
    }

    /// Looks with nothing to do, after the second `from`.
    fn look(gathering: &Gathering, started: std::time::Instant, from: u64) {
        for second in from + 1..=from + 3 {
            let now = started + Duration::from_secs(second);
            gathering.handle_look(Some(Duration::ZERO), now);
        }
    }

    fn both() -> CpuSet {
        let mut both = only(3);
        both.set(5);
        both
    }

    #[test]
    fn shards_meet_on_the_first_cpu_of_the_first_and_go_back_to_where_each_was() {
        let (gathering, started) = shards(&[only(3), only(5)]);
        look(&gathering, started, 0);
        assert!(gathering.is_gathered() && gathering.count() == 1);
        assert_eq!(moved(), [only(3), only(3)]);
        gathering.handle_look(
            Some(Duration::from_secs(1)),
            started + Duration::from_secs(4),
        );
        assert!(!gathering.is_gathered() && gathering.count() == 1);
        assert_eq!(moved(), [only(3), only(5)]);
        // Two that run on both.
        let (gathering, started) = shards(&[both(), both()]);
        look(&gathering, started, 0);
        assert_eq!(moved(), [only(3), only(3)]);
    }

    #[test]
    fn shards_that_are_on_one_cpu_alone_or_not_all_there_do_not_gather() {
        for homes in [&[only(3), only(3)][..], &[both()], &[]] {
            let (gathering, started) = shards(homes);
            look(&gathering, started, 0);
            assert!(!gathering.is_gathered() && gathering.count() == 0);
        }
        let (gathering, started) = shards(&[only(3), only(5), only(7)]);
        drop(gathering.join(ShardId(1)));
        look(&gathering, started, 0);
        assert!(!gathering.is_gathered() && gathering.count() == 0);
        assert_eq!(moved(), []);
    }

    #[test]
    fn a_move_that_the_system_refuses_spreads_all_for_good() {
        // When they gather, at the second of them.
        let (gathering, started) = shards(&[only(3), only(5)]);
        TAKEN.set(1);
        look(&gathering, started, 0);
        assert!(!gathering.is_gathered() && gathering.count() == 0);
        // When they spread: what may be moved is.
        let (gathering, started) = shards(&[only(3), only(5)]);
        TAKEN.set(3);
        look(&gathering, started, 0);
        assert!(gathering.is_gathered());
        gathering.handle_look(
            Some(Duration::from_secs(1)),
            started + Duration::from_secs(4),
        );
        assert!(!gathering.is_gathered());
        TAKEN.set(usize::MAX);
        moved();
        for from in 1..9 {
            look(&gathering, started, from * 10);
        }
        assert!(!gathering.is_gathered() && gathering.count() == 1);
        assert_eq!(moved(), []);
    }

    /// One of two shards that are gathered, at the moment that it has joined.
    fn member() -> (Gathering, Member, Instant) {
        let (gathering, started) = shards(&[only(3), only(5)]);
        let member = gathering.join(ShardId(1));
        gathering.lock().threads[1] = Some(Thread {
            id: gettid(),
            home: only(5),
        });
        look(&gathering, started, 0);
        assert!(gathering.is_gathered());
        let now = member.waited_at;
        (gathering, member, now)
    }

    #[test]
    fn a_gathered_shard_that_does_not_wait_spreads_all_and_one_that_waits_does_not() {
        let (gathering, mut member, mut now) = member();
        for _ in 0..100 {
            now = now + Duration::from_micros(1900);
            member.look(now, 0);
            member.handle_waited(now);
        }
        assert!(gathering.is_gathered());
        member.look(now + Duration::from_micros(1100), 0);
        assert!(gathering.is_gathered());
        member.look(now + Duration::from_micros(2100), 0);
        assert!(!gathering.is_gathered());
        moved();
        member.look(now + Duration::from_micros(9000), 0);
        assert_eq!(moved(), [], "once is enough");
    }

    #[test]
    fn shards_that_wait_by_turns_and_fill_their_cpu_together_are_spread() {
        let (gathering, mut member, mut now) = member();
        let mut other = gathering.join(ShardId(0));
        gathering.lock().threads[0] = Some(Thread {
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
            if !gathering.is_gathered() {
                assert!((8..=16).contains(&turns), "{turns}");
                break;
            }
        }
    }

    #[test]
    fn a_busy_shard_waits_for_nobody_who_moves_them_and_tries_again() {
        let (gathering, mut member, now) = member();
        let held = gathering.lock();
        member.look(now + Duration::from_millis(3), 0);
        assert!(gathering.is_gathered());
        drop(held);
        member.look(now + Duration::from_millis(4), 0);
        assert!(!gathering.is_gathered());
    }
}
