//! What `/proc` says of a process and of those that it has started: CPU time to the nanosecond, and memory.

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

/// The process, and all that it and they have started, but for this one: what a broker leaves to others is its cost as
/// well.
fn family(process_id: u32) -> Vec<u32> {
    let mut all = vec![process_id];
    let mut looked_at = 0;
    while let Some(&parent) = all.get(looked_at) {
        looked_at += 1;
        let Ok(threads) = fs::read_dir(format!("/proc/{parent}/task")) else {
            continue;
        };
        for thread in threads.flatten() {
            let Ok(text) = fs::read_to_string(thread.path().join("children")) else {
                continue;
            };
            let children = text.split_whitespace().filter_map(|word| word.parse().ok());
            all.extend(children.filter(|&child: &u32| child != std::process::id()));
        }
    }
    all
}

/// Memory in KiB, whether it is resident or was swapped out: that does not make it less.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Memory {
    pub now_kib: u64,
    /// Since the process started.
    pub peak_kib: u64,
}

/// Of the process and those that it has started. Pages that they share count for each.
pub fn memory(process_id: u32) -> io::Result<Memory> {
    memory_of(process_id, &family(process_id)[1..])
}

fn memory_of(process_id: u32, children: &[u32]) -> io::Result<Memory> {
    let read = |process_id: u32| fs::read_to_string(format!("/proc/{process_id}/status"));
    let own = memory_in(&read(process_id)?)
        .ok_or_else(|| io::Error::other(format!("no memory in the status of {process_id}")))?;
    // One may end meanwhile.
    let children = children.iter();
    let children = children.filter_map(|&child| memory_in(&read(child).ok()?));
    Ok(children.fold(own, |sum, child| Memory {
        now_kib: sum.now_kib + child.now_kib,
        peak_kib: sum.peak_kib + child.peak_kib,
    }))
}

/// As the text of a process's status says it.
fn memory_in(status: &str) -> Option<Memory> {
    let field = |name: &str| -> Option<u64> {
        let mut lines = status.lines();
        let rest = lines.find_map(|line| line.strip_prefix(name))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    let now_kib = field("VmRSS:")? + field("VmSwap:").unwrap_or(0);
    Some(Memory {
        now_kib,
        peak_kib: field("VmHWM:")?.max(now_kib),
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
    /// Those that it has started, and theirs.
    pub children: u64,
    /// Whether these were others before.
    pub children_changed: bool,
    /// The sum of their process ids, by which that is seen.
    children_ids: u64,
}

impl Cost {
    /// Of the process and those that it has started.
    pub fn sample(process_id: u32) -> io::Result<Self> {
        let children = family(process_id).split_off(1);
        let rss_peak_kib = memory_of(process_id, &children)?.peak_kib;
        let (mut voluntary_switches, mut involuntary_switches) = context_switches(process_id)?;
        let now = monotonic();
        let mut cpu = cpu_time(process_id)?;
        for &child in &children {
            // One may end meanwhile.
            cpu += cpu_time(child).unwrap_or_default();
            let switches = context_switches(child).unwrap_or_default();
            voluntary_switches += switches.0;
            involuntary_switches += switches.1;
        }
        Ok(Self {
            from: now,
            to: now,
            cpu,
            rss_peak_kib,
            voluntary_switches,
            involuntary_switches,
            children: children.len() as u64,
            children_changed: false,
            children_ids: children.iter().map(|&child| u64::from(child)).sum(),
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
            children: self.children.max(before.children),
            children_changed: (self.children, self.children_ids)
                != (before.children, before.children_ids),
            children_ids: self.children_ids,
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
    fn what_a_broker_leaves_to_a_process_that_it_started_is_its_cost() {
        let mut broker = std::process::Command::new("sh")
            .args(["-c", "sh -c 'while :; do :; done' & wait"])
            .spawn()
            .unwrap();
        let child = loop {
            if let [_, child, ..] = family(broker.id())[..] {
                break child;
            }
        };
        let before = Cost::sample(broker.id()).unwrap();
        let worked_before = cpu_time(child).unwrap();
        while cpu_time(child).unwrap() - worked_before < Duration::from_millis(30) {}
        let cost = Cost::sample(broker.id()).unwrap().since(&before);
        let memory_of_all = memory(broker.id()).unwrap();
        let status = fs::read_to_string(format!("/proc/{}/status", broker.id())).unwrap();
        for process_id in [child, broker.id()] {
            let mut kill = std::process::Command::new("kill");
            let killed = kill.args(["-KILL", &process_id.to_string()]).status();
            assert!(killed.unwrap().success());
        }
        broker.wait().unwrap();
        assert!(cost.cpu >= Duration::from_millis(30), "{cost:?}");
        assert_eq!((cost.children, cost.children_changed), (1, false));
        assert!(memory_of_all.now_kib > memory_in(&status).unwrap().now_kib);
    }

    #[test]
    fn memory_that_was_swapped_out_is_still_needed() {
        let status = "VmHWM:\t  900 kB\nVmRSS:\t  300 kB\nVmSwap:\t  700 kB\n";
        let (now_kib, peak_kib) = (1000, 1000);
        assert_eq!(memory_in(status), Some(Memory { now_kib, peak_kib }));
        let status = "VmHWM:\t  900 kB\nVmRSS:\t  300 kB\n";
        let (now_kib, peak_kib) = (300, 900);
        assert_eq!(memory_in(status), Some(Memory { now_kib, peak_kib }));
        assert_eq!(memory_in("State:\tZ (zombie)\n"), None);
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
