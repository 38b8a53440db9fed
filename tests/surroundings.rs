//! What the system refuses a broker that runs, and what becomes of its Clients.

#![forbid(unsafe_code)]

mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use support::Broker;
use support::client::{Options, Version};
use support::folder::Folder;
use support::raw::Raw;

/// What a broker of one shard may have open.
const FILES_MAX: u64 = 96;

/// Lets the broker have no more of `resource`; how much that was.
fn limit(broker: &Broker, resource: Resource, most: Option<u64>) -> Option<u64> {
    let process = Pid::from_raw(broker.process_id().cast_signed());
    let maximum = rustix::process::getrlimit(resource).maximum;
    let current = most;
    let before = prlimit(process, resource, Rlimit { current, maximum }).unwrap();
    before.current
}

#[test]
fn a_file_that_may_not_grow_is_as_a_full_disk_and_does_not_end_the_broker() {
    let folder = Folder::new();
    let store = folder.file("store");
    let configuration = folder.write(
        "fastmq.conf",
        format!(
            "listener 0 127.0.0.1\nallow_anonymous true\nuser root\npersistence true\n\
             persistence_location {}\n",
            store.display()
        ),
    );
    let configuration = configuration.to_str().unwrap();
    let mut broker = Broker::start_configured(&["--cores", "1", "-c", configuration]);
    let mut subscriber = Options::new(Version::V5, "a")
        .persistent()
        .connect(broker.port());
    subscriber.subscribe("t", 1);
    let unlimited = limit(&broker, Resource::Fsize, Some(64));
    let mut publisher = Options::new(Version::V5, "p").connect(broker.port());
    // Nobody stores it.
    publisher.publish("nobody", "goes on", 1);
    let waiting = thread::spawn(move || publisher.publish("t", "waits", 1));
    broker.wait_to_say("what must be stored is refused");
    limit(&broker, Resource::Fsize, unlimited);
    waiting.join().unwrap();
    assert_eq!(subscriber.receive().payload, "waits");
}

#[test]
fn clients_that_have_all_files_they_may_have_leave_some_for_the_store_a_reload_and_health() {
    let folder = Folder::new();
    let configuration = folder.write(
        "fastmq.conf",
        "listener 0 127.0.0.1\nallow_anonymous true\nuser root\nfastmq_admin_listener 0 127.0.0.1\n",
    );
    let mut broker = Broker::start_after(
        &format!("ulimit -n {FILES_MAX}"),
        &["--cores", "1", "-c", configuration.to_str().unwrap()],
    );
    let mut clients = Vec::new();
    while let Some(client) = Raw::try_connect(broker.port(), 4, &clients.len().to_string()) {
        clients.push(client);
        assert!((clients.len() as u64) < FILES_MAX);
    }
    broker.wait_to_say("cannot accept connections");

    let stderr = broker.stderr();
    let (_, address) = stderr.split_once("admin port on http://").unwrap();
    let (address, _) = address.split_once('/').unwrap();
    let mut health = TcpStream::connect(address).unwrap();
    health
        .write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    health.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    broker.signal(rustix::process::Signal::HUP);
    broker.wait_to_say("Reloading config.");

    // One leaves, and another one may come.
    clients.pop();
    while Raw::try_connect(broker.port(), 4, "next").is_none() {
        thread::sleep(Duration::from_millis(20));
    }
    assert!(broker.is_running());
}

#[test]
fn too_little_locked_memory_is_raised_or_named_with_what_helps() {
    let mut shell = Command::new("sh");
    shell.args(["-c", "ulimit -l 0 && exec \"$0\" --port 0 --cores 1"]);
    let mut broker = shell
        .arg(env!("CARGO_BIN_EXE_fastmq"))
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let said = BufReader::new(broker.stderr.take().unwrap()).lines();
    let mut said = said.map_while(Result::ok);
    // Whether it may be raised is up to who runs this test.
    let outcome = said.find(|line| line.contains("listening on ") || line.contains("Error: "));
    let outcome = outcome.expect("one of both");
    match outcome.split_once("listening on 127.0.0.1:") {
        Some((_, port)) => drop(Raw::connect(port.parse().unwrap(), 4, "a")),
        None => assert!(outcome.contains("ulimit -l unlimited"), "{outcome}"),
    }
    let _ = broker.kill();
    broker.wait().unwrap();
}
