//! Which CPU each shard is pinned to.

#![forbid(unsafe_code)]

use crate::limits::SHARDS_MAX;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::io;

/// Where a shard runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placed {
    /// On this CPU and no other, unless [`Affinity`](super::Affinity) moves all of them.
    Pinned(usize),
    /// Where the kernel likes.
    Anywhere,
}

impl Placed {
    /// Has the calling thread run there only.
    pub(super) fn enter(self) -> io::Result<()> {
        if let Self::Pinned(cpu) = self {
            sched_setaffinity(None, &only(cpu))?;
        }
        Ok(())
    }
}

/// That CPU and no other.
pub(super) fn only(cpu: usize) -> CpuSet {
    let mut set = CpuSet::new();
    set.set(cpu);
    set
}

/// That many shards cannot be placed. Its text follows the name of the option or directive.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CoresError {
    /// More shards than CPUs.
    #[error(
        "{cores}: this process may use {allowed} CPUs; \
         --oversubscribe runs more shards than CPUs, unpinned and slower"
    )]
    TooFewCpus {
        /// What was asked for.
        cores: usize,
        /// CPUs in the process's affinity mask.
        allowed: usize,
    },
    /// Zero, or more than there may be.
    #[error("{cores}: between 1 and {SHARDS_MAX}")]
    OutOfRange {
        /// What was asked for.
        cores: usize,
    },
}

/// How much less urgent than a shard a thread is that has stepped back, as of nice(2): a tenth of its share of a CPU.
const NICENESS: i32 = 10;

/// The CPUs of threads that work beside the shards; by default, those of whoever begins them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Beside(Option<CpuSet>);

impl Beside {
    /// Those that `shards` leave. If they leave none, every one that the calling thread may run on:
    /// where the kernel finds one idle.
    #[must_use]
    pub fn of(shards: &[Placed]) -> Self {
        Self(
            sched_getaffinity(None)
                .ok()
                .map(|all| left_by(shards, &all)),
        )
    }

    /// Runs `begin`, of which every thread that it begins runs there only; the calling thread goes on where it was.
    pub fn begin<T>(self, begin: impl FnOnce() -> T) -> T {
        let before = Self(sched_getaffinity(None).ok());
        self.enter();
        let begun = begin();
        before.enter();
        begun
    }

    /// Lets the calling thread run there only, also if a pinned thread has begun it.
    pub fn enter(self) {
        // Without it the thread works as well, only on somebody's core.
        if let Some(cpus) = self.0
            && let Err(error) = sched_setaffinity(None, &cpus)
        {
            tracing::debug!("a thread cannot be kept off the cores of shards: {error}");
        }
    }
}

/// Lets shards go first on a CPU that the calling thread shares with one.
pub fn step_back() {
    // Of the calling thread, on Linux. Without it it works as well, only more eagerly.
    let now = rustix::process::getpriority_process(None).unwrap_or_default();
    let _ = rustix::process::setpriority_process(None, now.saturating_add(NICENESS));
}

fn left_by(shards: &[Placed], all: &CpuSet) -> CpuSet {
    let mut left = *all;
    for placed in shards {
        if let Placed::Pinned(cpu) = placed {
            left.unset(*cpu);
        }
    }
    if left.count() == 0 { *all } else { left }
}

/// Places `cores` shards, or one for each CPU the process may use.
///
/// # Errors
/// [`CoresError`].
pub fn place(cores: Option<usize>, oversubscribe: bool) -> Result<Vec<Placed>, CoresError> {
    place_on(&allowed_cpus(), cores, oversubscribe)
}

/// The CPUs that the process may run on, as cgroups, `taskset` and containers left them.
fn allowed_cpus() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..CpuSet::MAX_CPU)
            .filter(|&cpu| set.is_set(cpu))
            .collect(),
        // A machine with more CPUs than the mask has bits.
        Err(_) => (0..std::thread::available_parallelism().map_or(1, usize::from)).collect(),
    }
}

fn place_on(
    allowed: &[usize],
    cores: Option<usize>,
    oversubscribe: bool,
) -> Result<Vec<Placed>, CoresError> {
    let cores = cores.unwrap_or(allowed.len().min(SHARDS_MAX));
    if !(1..=SHARDS_MAX).contains(&cores) {
        return Err(CoresError::OutOfRange { cores });
    }
    if cores <= allowed.len() {
        return Ok(allowed[..cores]
            .iter()
            .copied()
            .map(Placed::Pinned)
            .collect());
    }
    if oversubscribe {
        return Ok(vec![Placed::Anywhere; cores]);
    }
    Err(CoresError::TooFewCpus {
        cores,
        allowed: allowed.len(),
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn shards_are_pinned_to_the_cpus_that_are_allowed() {
        let pinned = |cpus: &[usize]| Ok(cpus.iter().copied().map(Placed::Pinned).collect());
        assert_eq!(place_on(&[2, 3, 7], None, false), pinned(&[2, 3, 7]));
        assert_eq!(place_on(&[2, 3, 7], Some(2), true), pinned(&[2, 3]));
    }

    fn set(cpus: &[usize]) -> CpuSet {
        let mut set = CpuSet::new();
        for &cpu in cpus {
            set.set(cpu);
        }
        set
    }

    #[test]
    fn other_threads_get_the_cpus_that_shards_leave_or_all_if_they_leave_none() {
        let shards = [Placed::Pinned(2), Placed::Pinned(3)];
        assert_eq!(left_by(&shards, &set(&[2, 3, 7, 9])), set(&[7, 9]));
        assert_eq!(left_by(&shards, &set(&[2, 3])), set(&[2, 3]));
        assert_eq!(left_by(&[Placed::Anywhere; 3], &set(&[0, 1])), set(&[0, 1]));
    }

    #[test]
    fn a_thread_that_a_pinned_one_has_begun_runs_where_it_is_let() {
        let beside = Beside::of(&[]);
        let all = sched_getaffinity(None).unwrap();
        let first = (0..CpuSet::MAX_CPU).find(|&cpu| all.is_set(cpu)).unwrap();
        let pinned = std::thread::spawn(move || {
            sched_setaffinity(None, &set(&[first])).unwrap();
            let begun = std::thread::spawn(move || {
                beside.enter();
                sched_getaffinity(None).unwrap()
            });
            begun.join().unwrap()
        });
        assert_eq!(pinned.join().unwrap(), all);
    }

    #[test]
    fn a_pinned_shard_runs_on_its_cpu_and_another_one_where_it_did() {
        let all = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU).rev().find(|&cpu| all.is_set(cpu));
        let affinity_of = |placed: Placed| {
            let placed = move || placed.enter().map(|()| sched_getaffinity(None).unwrap());
            std::thread::spawn(placed).join().unwrap()
        };
        let pinned = affinity_of(Placed::Pinned(last.unwrap())).unwrap();
        assert_eq!(pinned, only(last.unwrap()));
        assert_eq!(affinity_of(Placed::Anywhere).unwrap(), all);
        let absent = affinity_of(Placed::Pinned(CpuSet::MAX_CPU - 1));
        assert_eq!(absent.unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn only_what_is_begun_beside_runs_there() {
        let all = sched_getaffinity(None).unwrap();
        let last = (0..CpuSet::MAX_CPU)
            .rev()
            .find(|&cpu| all.is_set(cpu))
            .unwrap();
        let beside = Beside(Some(set(&[last])));
        let affinity = || sched_getaffinity(None).unwrap();
        let begun = beside.begin(|| std::thread::spawn(affinity));
        assert_eq!(begun.join().unwrap(), set(&[last]));
        assert_eq!(affinity(), all);
    }

    #[test]
    fn more_shards_than_cpus_need_oversubscribe() {
        let error = CoresError::TooFewCpus {
            cores: 3,
            allowed: 2,
        };
        assert_eq!(place_on(&[0, 1], Some(3), false), Err(error));
        assert_eq!(
            place_on(&[0, 1], Some(3), true),
            Ok(vec![Placed::Anywhere; 3])
        );
    }

    #[test]
    fn the_number_of_shards_is_bounded() {
        for cores in [0, SHARDS_MAX + 1] {
            let error = CoresError::OutOfRange { cores };
            assert_eq!(place_on(&[0], Some(cores), true), Err(error));
        }
    }
}
