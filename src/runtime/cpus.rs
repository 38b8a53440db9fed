//! Which CPU each shard is pinned to.

#![forbid(unsafe_code)]

use crate::limits::SHARDS_MAX;
use rustix::thread::{CpuSet, sched_getaffinity};

/// Where a shard runs.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Placed {
    /// On this CPU and no other.
    Pinned(usize),
    /// Where the kernel likes.
    Anywhere,
}

/// That many shards cannot be placed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CoresError {
    /// More shards than CPUs.
    #[error(
        "--cores {cores}: this process may use {allowed} CPUs; \
         --oversubscribe runs more shards than CPUs, unpinned and slower"
    )]
    TooFewCpus {
        /// What was asked for.
        cores: usize,
        /// CPUs in the process's affinity mask.
        allowed: usize,
    },
    /// Zero, or more than there may be.
    #[error("--cores {cores}: between 1 and {SHARDS_MAX}")]
    OutOfRange {
        /// What was asked for.
        cores: usize,
    },
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
