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

/// CPUs of this machine, whichever of them this process was started on.
pub fn cpus_online() -> usize {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let lines = text.lines();
    lines
        .filter(|line| line.starts_with("processor"))
        .count()
        .max(1)
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

/// What a process has used at one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// From when to when, by the system's monotonic clock: what else looked at the process can be cut to it.
    pub from: Duration,
    pub to: Duration,
    pub cpu: Duration,
    pub rss_peak_kib: u64,
    pub voluntary_switches: u64,
    pub involuntary_switches: u64,
}

impl Cost {
    pub fn sample(process_id: u32) -> io::Result<Self> {
        let (voluntary_switches, involuntary_switches) = context_switches(process_id)?;
        let now = monotonic();
        Ok(Self {
            from: now,
            to: now,
            cpu: cpu_time(process_id)?,
            rss_peak_kib: memory(process_id)?.peak_kib,
            voluntary_switches,
            involuntary_switches,
        })
    }

    /// A thread that ended takes what it used with it.
    pub fn since(&self, before: &Self) -> Self {
        Self {
            from: before.to,
            to: self.to,
            cpu: self.cpu.saturating_sub(before.cpu),
            rss_peak_kib: self.rss_peak_kib,
            voluntary_switches: self
                .voluntary_switches
                .saturating_sub(before.voluntary_switches),
            involuntary_switches: self
                .involuntary_switches
                .saturating_sub(before.involuntary_switches),
        }
    }
}

/// Time since the system started, as profilers stamp their samples.
fn monotonic() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::try_from(now).unwrap_or_default()
}

/// Voluntary and involuntary ones, of every thread alive.
fn context_switches(process_id: u32) -> io::Result<(u64, u64)> {
    let mut total = (0, 0);
    for thread in fs::read_dir(format!("/proc/{process_id}/task"))? {
        let Ok(text) = fs::read_to_string(thread?.path().join("status")) else {
            continue;
        };
        let field = |name: &str| -> u64 {
            let value = text.lines().find_map(|line| line.strip_prefix(name));
            value.and_then(|v| v.trim().parse().ok()).unwrap_or(0)
        };
        total.0 += field("voluntary_ctxt_switches:");
        total.1 += field("nonvoluntary_ctxt_switches:");
    }
    Ok(total)
}

/// The command line of a process.
pub fn command(process_id: u32) -> Option<Vec<String>> {
    let bytes = fs::read(format!("/proc/{process_id}/cmdline")).ok()?;
    let words = bytes
        .split(|&byte| byte == 0)
        .filter(|word| !word.is_empty());
    let words: Vec<_> = words
        .map(|word| String::from_utf8_lossy(word).into_owned())
        .collect();
    (!words.is_empty()).then_some(words)
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
