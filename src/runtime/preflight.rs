//! What must be so before a shard can start, each with the command that mends it.
//!
//! The executor would fail as well, later and with the bare error number.

#![forbid(unsafe_code)]

use crate::net;
use rustix::process::{Resource, Rlimit, geteuid, getrlimit, setrlimit};
use std::io;

/// The first kernel with `IORING_SETUP_DEFER_TASKRUN`.
const KERNEL_MIN: (u32, u32) = (6, 1);
/// What glommio asks for each executor, bytes; with the shard's own rings it is enough.
const MEMLOCK_PER_SHARD: u64 = 512 * 1024;
const SYSCTL: &str = "/proc/sys/kernel/io_uring_disabled";

/// This machine, container or user cannot run the broker as things are.
#[derive(Debug, thiserror::Error)]
pub enum PreflightError {
    /// Before 6.1.
    #[error(
        "Linux {release} is too old: fastmq needs io_uring as of Linux {}.{} or later",
        KERNEL_MIN.0,
        KERNEL_MIN.1
    )]
    KernelTooOld {
        /// What `uname -r` says.
        release: String,
    },
    /// The sysctl forbids it.
    #[error(
        "io_uring is disabled on this machine (kernel.io_uring_disabled = {value}). \
         Enable it with: sysctl -w kernel.io_uring_disabled=0"
    )]
    Disabled {
        /// 1: for processes outside of kernel.io_uring_group; 2: for all.
        value: String,
    },
    /// A seccomp profile, or a kernel built without.
    #[error(
        "io_uring is not permitted here ({source}). In a container its seccomp profile forbids it: \
         run with `docker run --security-opt seccomp=unconfined`, or a profile that allows \
         io_uring_setup, io_uring_enter and io_uring_register"
    )]
    NotPermitted {
        /// EPERM or ENOSYS.
        source: io::Error,
    },
    /// Too little memory may be locked.
    #[error(
        "only {kib} KiB of memory may be locked, {needed_kib} KiB are needed for {shards} shards. \
         Raise it with: ulimit -l unlimited (systemd: LimitMEMLOCK=infinity, \
         docker: --ulimit memlock=-1)"
    )]
    MemoryLock {
        /// The soft limit.
        kib: u64,
        /// What it must be.
        needed_kib: u64,
        /// Number of shards.
        shards: usize,
    },
    /// Anything else that its system calls said.
    #[error("io_uring cannot be set up: {source}")]
    Setup {
        /// What it said.
        source: io::Error,
    },
}

/// Checks the machine for `shard_count` shards.
///
/// # Errors
/// [`PreflightError`].
pub fn check(shard_count: usize) -> Result<(), PreflightError> {
    let release = rustix::system::uname()
        .release()
        .to_string_lossy()
        .into_owned();
    if kernel_version(&release).is_some_and(|version| version < KERNEL_MIN) {
        return Err(PreflightError::KernelTooOld { release });
    }
    // With too little of it the ring fails, and does not say why.
    raise_memory_lock(shard_count)?;
    if let Err(source) = net::probe() {
        let denied = [
            Some(rustix::io::Errno::PERM.raw_os_error()),
            Some(rustix::io::Errno::NOSYS.raw_os_error()),
        ];
        if !denied.contains(&source.raw_os_error()) {
            return Err(PreflightError::Setup { source });
        }
        let value = std::fs::read_to_string(SYSCTL).unwrap_or_default();
        return Err(match value.trim() {
            "" | "0" => PreflightError::NotPermitted { source },
            value => PreflightError::Disabled {
                value: value.to_owned(),
            },
        });
    }
    Ok(())
}

/// Lets the process lock what it needs, as far as it may raise that.
fn raise_memory_lock(shards: usize) -> Result<(), PreflightError> {
    // The superuser may lock as much as there is, but each executor looks at the limit by itself.
    let shards = if geteuid().is_root() { 1 } else { shards };
    let needed = MEMLOCK_PER_SHARD * shards as u64;
    let limit = getrlimit(Resource::Memlock);
    if limit.current.is_some_and(|current| current < needed) {
        let most = limit.maximum.map(|maximum| maximum.max(needed));
        for maximum in [most, limit.maximum] {
            let current = maximum;
            if setrlimit(Resource::Memlock, Rlimit { current, maximum }).is_ok() {
                break;
            }
        }
    }
    check_memory_lock(getrlimit(Resource::Memlock).current, shards)
}

fn check_memory_lock(limit: Option<u64>, shards: usize) -> Result<(), PreflightError> {
    let needed = MEMLOCK_PER_SHARD * shards as u64;
    match limit {
        Some(limit) if limit < needed => Err(PreflightError::MemoryLock {
            kib: limit / 1024,
            needed_kib: needed / 1024,
            shards,
        }),
        _ => Ok(()),
    }
}

/// Major and minor version of `uname -r`; `None` if it does not look like one.
fn kernel_version(release: &str) -> Option<(u32, u32)> {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// Lets the process open as many files as its hard limit permits: each connection is one. Returns
/// how many that is, if it is bounded.
pub fn raise_open_files() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_) => limit.current,
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions_are_compared_as_numbers() {
        assert_eq!(kernel_version("6.1.0-18-amd64"), Some((6, 1)));
        assert_eq!(kernel_version("5.15.0"), Some((5, 15)));
        assert_eq!(kernel_version("6.18-rc1"), Some((6, 18)));
        assert_eq!(kernel_version("unknown"), None);
        assert!(kernel_version("5.15.0") < Some(KERNEL_MIN));
        assert!(kernel_version("6.18.1") > Some(KERNEL_MIN));
    }

    #[test]
    fn memory_that_may_be_locked_must_do_for_every_shard() {
        assert!(check_memory_lock(None, 64).is_ok());
        assert!(check_memory_lock(Some(1024 * 1024), 2).is_ok());
        let error = check_memory_lock(Some(1024 * 1024), 3).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("1536 KiB") && text.contains("ulimit -l unlimited"));
    }

    #[test]
    fn this_machine_passes() {
        check(1).unwrap();
    }
}
