//! What `/proc` says of a process: CPU time to the nanosecond, and memory.

use std::fs;
use std::io;
use std::time::Duration;

/// CPU time of every thread alive, from `schedstat`: ticks of 10 ms are too coarse for short runs.
pub fn cpu_time(process_id: u32) -> io::Result<Duration> {
    let mut total = 0;
    for thread in fs::read_dir(format!("/proc/{process_id}/task"))? {
        // A thread may end between the listing and the reading.
        let Ok(text) = fs::read_to_string(thread?.path().join("schedstat")) else {
            continue;
        };
        let on_cpu_ns = text
            .split_whitespace()
            .next()
            .and_then(|word| word.parse::<u64>().ok());
        total += on_cpu_ns.ok_or_else(|| io::Error::other("schedstat without a number"))?;
    }
    Ok(Duration::from_nanos(total))
}

/// Whether the process runs; one that nobody has waited for yet does not.
pub fn is_alive(process_id: u32) -> bool {
    let Ok(text) = fs::read_to_string(format!("/proc/{process_id}/stat")) else {
        return false;
    };
    // The state follows the name, which is in parentheses and may hold anything.
    let state = text
        .rsplit_once(')')
        .and_then(|(_, rest)| rest.trim_start().chars().next());
    !matches!(state, Some('Z' | 'X') | None)
}

/// Resident memory in KiB.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub now_kib: u64,
    /// Since the process started.
    pub peak_kib: u64,
}

pub fn memory(process_id: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{process_id}/status"))?;
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next())
            .and_then(|word| word.parse().ok())
            .ok_or_else(|| io::Error::other(format!("no {name} in the status of {process_id}")))
    };
    Ok(Memory {
        now_kib: field("VmRSS:")?,
        peak_kib: field("VmHWM:")?,
    })
}

/// Pins the calling thread to one CPU.
pub fn pin(cpu: usize) -> io::Result<()> {
    let mut cpus = rustix::thread::CpuSet::new();
    cpus.set(cpu);
    Ok(rustix::thread::sched_setaffinity(None, &cpus)?)
}

/// Raises the soft limit of open files to the hard one, which it returns.
pub fn raise_open_files_limit() -> io::Result<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: limit.maximum,
            maximum: limit.maximum,
        },
    )?;
    Ok(limit.maximum.unwrap_or(u64::MAX))
}
