//! `packaging/fastmq.service`: systemd reads it without a complaint, and it leaves the broker what it
//! needs.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

fn service() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/fastmq.service")
}

/// The values of `key`, in order.
fn values(key: &str) -> Vec<String> {
    let text = fs::read_to_string(service()).unwrap();
    let lines = text.lines().filter_map(|line| line.split_once('='));
    lines
        .filter(|(name, _)| *name == key)
        .map(|(_, value)| value.to_owned())
        .collect()
}

fn systemd_analyze() -> Option<Command> {
    let found = Command::new("systemd-analyze").arg("--version").output();
    if found.is_err() {
        eprintln!("skipped: systemd-analyze is not installed");
        return None;
    }
    Some(Command::new("systemd-analyze"))
}

#[test]
fn systemd_reads_the_service_without_a_complaint() {
    let Some(mut analyze) = systemd_analyze() else {
        return;
    };
    // `verify` looks for the program and the manual pages as well: here it gets the broker that was
    // just built, in a unit of its own, and no pages.
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("service-file");
    fs::create_dir_all(&folder).unwrap();
    let unit = folder.join("fastmq.service");
    let text = fs::read_to_string(service())
        .unwrap()
        .replace("/usr/bin/fastmq", env!("CARGO_BIN_EXE_fastmq"));
    fs::write(&unit, text).unwrap();
    let done = analyze
        .args(["verify", "--man=no", "--recursive-errors=no"])
        .arg(&unit)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stderr).into_owned();
    // Whatever it says of other units of this machine is not about ours.
    let complaints: Vec<_> = said
        .lines()
        .filter(|line| line.contains("fastmq"))
        .collect();
    assert!(
        done.status.success() && complaints.is_empty(),
        "{:?}: {said}",
        done.status
    );
}

#[test]
fn the_service_is_as_closed_as_io_uring_allows() {
    let Some(mut analyze) = systemd_analyze() else {
        return;
    };
    let done = analyze
        .args(["security", "--offline=true", "--no-pager", "--threshold=25"])
        .arg(service())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    let errors = String::from_utf8_lossy(&done.stderr).into_owned();
    if errors.contains("unrecognized option") || errors.contains("Failed to create bus") {
        eprintln!("skipped: this systemd-analyze cannot judge a file: {errors}");
        return;
    }
    assert!(done.status.success(), "exposure above 2.5: {said}{errors}");
}

#[test]
fn the_service_leaves_the_broker_what_it_needs() {
    assert_eq!(values("LimitMEMLOCK"), ["infinity"]);
    assert_eq!(values("LimitNOFILE"), ["1048576"]);
    assert_eq!(values("Type"), ["notify"]);
    assert_eq!(values("WatchdogSec").len(), 1);
    let Some(mut analyze) = systemd_analyze() else {
        return;
    };
    let done = analyze
        .args(["syscall-filter", "--no-pager"])
        .output()
        .unwrap();
    let listing = String::from_utf8_lossy(&done.stdout).into_owned();
    let allowed = values("SystemCallFilter").join(" ");
    // A group and what is indented below it, groups in groups included.
    let mut open: Vec<&str> = allowed.split_whitespace().collect();
    let mut calls = Vec::new();
    while let Some(group) = open.pop() {
        let mut lines = listing.lines();
        assert!(lines.any(|line| line == group), "{group} is unknown");
        for line in lines.take_while(|line| line.starts_with(' ') || line.is_empty()) {
            let name = line.trim();
            if name.starts_with('@') {
                open.push(name);
            } else if !name.starts_with('#') {
                calls.push(name);
            }
        }
    }
    for call in [
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "sched_setaffinity",
        "prlimit64",
        "eventfd2",
        "mlock",
        "fdatasync",
        "membarrier",
    ] {
        assert!(calls.contains(&call), "{call} is not allowed");
    }
}
