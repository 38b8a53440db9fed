//! What `/proc` says of a process: CPU time to the nanosecond, and memory.

use std::fs;
use std::io;
use std::time::Duration;

use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;

/// CPU time of all threads, those that have ended as well, to the nanosecond: the ticks of 10 ms in `/proc` are too
/// coarse for short runs, and of threads alone what a thread has used goes with it.
pub fn cpu_time(process_id: u32) -> io::Result<Duration> {
    let process_id = i32::try_from(process_id).map_err(|_| io::ErrorKind::NotFound)?;
    let clock = clock_getcpuclockid(Pid::from_raw(process_id))?;
    Ok(Duration::from(clock_gettime(clock)?))
}

/// Whether the process listens on that TCP port, as far as this one may know.
pub fn listens(process_id: u32, port: u16) -> Option<bool> {
    let mut inodes = Vec::new();
    for table in ["tcp", "tcp6"] {
        let Ok(text) = fs::read_to_string(format!("/proc/{process_id}/net/{table}")) else {
            continue;
        };
        inodes.extend(text.lines().skip(1).filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (_, local_port) = fields.get(1)?.rsplit_once(':')?;
            let is_listening = *fields.get(3)? == "0A";
            let is_wanted = is_listening && u16::from_str_radix(local_port, 16) == Ok(port);
            is_wanted.then(|| format!("socket:[{}]", fields.get(9).unwrap_or(&"")))
        }));
    }
    let files = fs::read_dir(format!("/proc/{process_id}/fd")).ok()?;
    let mut links = files
        .flatten()
        .filter_map(|file| fs::read_link(file.path()).ok());
    Some(links.any(|link| {
        inodes
            .iter()
            .any(|inode| link.as_os_str() == inode.as_str())
    }))
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

    /// Of context switches, a thread that ended takes its own with it.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_thread_has_used_stays_when_it_has_ended() {
        let own = std::process::id();
        let before = cpu_time(own).unwrap();
        let busy = std::thread::spawn(|| {
            let began = clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
            loop {
                let now = clock_gettime(nix::time::ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap();
                if Duration::from(now - began) > Duration::from_millis(30) {
                    return;
                }
            }
        });
        busy.join().unwrap();
        let used = cpu_time(own).unwrap() - before;
        assert!(used >= Duration::from_millis(30), "{used:?}");
        assert!(cpu_time(u32::MAX).is_err());
    }

    #[test]
    fn who_listens_is_known_by_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listens(std::process::id(), port), Some(true));
        drop(listener);
        assert_eq!(listens(std::process::id(), port), Some(false));
        assert_eq!(listens(u32::MAX, port), None);
    }
}
