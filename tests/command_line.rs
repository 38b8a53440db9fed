//! What an operator sees: refusals that name the mistake, and an end that is an end.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::Duration;

use support::folder::Folder;
use support::raw::Raw;
use support::{Broker, PATIENCE, command, run_to_end};

/// Exit code of a command line that cannot be meant.
const USAGE: Option<i32> = Some(3);

#[test]
fn bad_arguments_are_refused_by_name() {
    let cases: [(&[&str], &str); 9] = [
        (&["--no-such-option"], "--no-such-option"),
        (&["--cores", "0"], "--cores"),
        (&["--cores", "many"], "--cores"),
        (&["--affinity", "often"], "--affinity"),
        (&["--affinity"], "--affinity"),
        (&["--port", "65536"], "--port"),
        (&["--port"], "--port"),
        (&["--bind", "nowhere at all"], "--bind"),
        // As long as the directive may be.
        (
            &[
                "--test-config",
                "--persistence-location",
                ".",
                "--durability",
                "interval 60001",
            ],
            "--durability",
        ),
    ];
    for (arguments, named) in cases {
        let (code, stderr) = run_to_end(command().args(arguments));
        assert_eq!(code, USAGE, "{arguments:?}: {stderr}");
        assert!(
            stderr.contains(named),
            "{arguments:?} should name {named}: {stderr}"
        );
    }
}

#[test]
fn more_cores_than_cpus_needs_to_be_meant() {
    let cpus = thread::available_parallelism().unwrap().get();
    let cores = (cpus + 1).to_string();
    let (code, stderr) = run_to_end(command().args(["--port", "0", "--cores", &cores]));
    assert_eq!(code, USAGE, "{stderr}");
    assert!(
        stderr.contains("--oversubscribe"),
        "the way out is named: {stderr}"
    );
    let mut broker = Broker::start(&["--cores", &cores, "--oversubscribe"]);
    Raw::connect(broker.port(), 4, "somebody");
    assert!(broker.is_running());
}

#[test]
fn port_in_use_is_said() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let (code, stderr) = run_to_end(command().args(["--cores", "1", "--port", &port]));
    assert!(code.is_some_and(|code| code != 0), "{code:?}: {stderr}");
    assert!(
        stderr.contains("in use") && stderr.contains(&port),
        "{stderr}"
    );
    assert!(!stderr.contains("panicked"), "{stderr}");
}

/// A broker that was killed has gone before the kernel has taken its rings down, and its listeners with them.
#[test]
fn a_start_waits_for_an_address_that_is_soon_given_up() {
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = holder.local_addr().unwrap().port().to_string();
    let mut broker = command()
        .args(["--cores", "1", "--port", &port])
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(broker.stderr.take().unwrap()).lines();
    let mut until = |words: &str| lines.any(|line| line.unwrap().contains(words));
    let has_waited = until("waiting for it");
    drop(holder);
    let listens = until("listening on");
    broker.kill().unwrap();
    broker.wait().unwrap();
    assert!(has_waited && listens, "{has_waited} {listens}");
}

/// One that ends gives its addresses up at once, and waits with its store in use for Clients that do not close.
#[test]
fn a_start_waits_for_the_store_of_a_broker_that_ends_and_keeps_its_own_pid_file() {
    let folder = Folder::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let (store, pid_file) = (folder.file("store"), folder.file("pid"));
    let configuration = folder.write(
        "broker.conf",
        format!(
            "user root\nlistener {port} 127.0.0.1\nallow_anonymous true\npid_file {}\npersistence true\n\
             persistence_location {}\n",
            pid_file.display(),
            store.display()
        ),
    );
    let arguments = ["-c", configuration.to_str().unwrap(), "--cores", "1"];
    let mut first = Broker::start_configured(&arguments);
    let client = Raw::connect(port, 5, "stays");
    first.terminate();
    // From here on its addresses are free.
    while TcpStream::connect(("127.0.0.1", port)).is_ok() {
        thread::sleep(Duration::from_millis(1));
    }
    // Should it be slow to start, there is nothing to wait for any more.
    let mut second = Broker::start_configured(&arguments);
    let ended = first.wait(PATIENCE).expect("nothing keeps it");
    drop(client);
    assert!(ended.success(), "{ended}");
    Raw::connect(port, 5, "comes");
    assert!(second.is_running());
    let number = fs::read_to_string(&pid_file).unwrap();
    assert_eq!(number, second.process_id().to_string());
    second.terminate();
    assert!(second.wait(PATIENCE).is_some_and(|ended| ended.success()));
    assert!(!pid_file.exists(), "removed by whose number it holds");
}

#[test]
fn a_start_that_fails_leaves_the_pid_file_as_it_was() {
    for before in [None, Some("4711"), Some("another number\n")] {
        let folder = Folder::new();
        let (store, pid_file) = (folder.file("store"), folder.file("pid"));
        fs::create_dir(&store).unwrap();
        fs::write(store.join("STORE"), "of something else").unwrap();
        if let Some(before) = before {
            fs::write(&pid_file, before).unwrap();
        }
        let configuration = folder.write(
            "broker.conf",
            format!(
                "user root\nlistener 0 127.0.0.1\npid_file {}\npersistence true\npersistence_location {}\n",
                pid_file.display(),
                store.display()
            ),
        );
        let mut start = command();
        start.args(["-c", configuration.to_str().unwrap(), "--cores", "1"]);
        let (status, errors) = run_to_end(&mut start);
        assert_eq!(status, Some(1), "{errors}");
        let after = fs::read_to_string(&pid_file).ok();
        assert_eq!(after.as_deref(), before, "{errors}");
    }
}

#[test]
fn help_and_version_exit_with_success() {
    for option in ["--help", "--version"] {
        assert_eq!(run_to_end(command().arg(option)).0, Some(0));
    }
}

#[test]
fn sigterm_says_goodbye_and_exits_with_success_on_one_core() {
    sigterm_says_goodbye(1);
}

#[test]
fn sigterm_says_goodbye_and_exits_with_success_on_two_cores() {
    sigterm_says_goodbye(2);
}

/// A Client may be served before the broker's start is over.
#[test]
fn sigterm_right_after_the_first_connack_ends_in_order() {
    for _ in 0..10 {
        let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        let mut broker = command()
            .args(["--port", &port.to_string()])
            .args(["--cores", "4", "--oversubscribe"])
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        while TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert_eq!(broker.try_wait().unwrap(), None);
            thread::sleep(Duration::from_millis(1));
        }
        let mut client = Raw::connect(port, 5, "early");
        let process = rustix::process::Pid::from_child(&broker);
        rustix::process::kill_process(process, rustix::process::Signal::TERM).unwrap();
        let (first_byte, body) = client.receive().expect("DISCONNECT before the end");
        assert_eq!((first_byte, body.first()), (0xe0, Some(&0x8b)));
        drop(client);
        assert_eq!(broker.wait().unwrap().code(), Some(0));
    }
}

/// DISCONNECT with 0x8B, Server shutting down, for those who can read it; the end for the others.
fn sigterm_says_goodbye(cores: usize) {
    let mut broker = Broker::on_cores(cores);
    // Eight Client Identifiers are on every shard but for one chance in 128.
    let connect = |level, index| Raw::connect(broker.port(), level, &format!("{level}-{index}"));
    let mut v5: Vec<_> = (0..8).map(|index| connect(5, index)).collect();
    let mut v311: Vec<_> = (0..8).map(|index| connect(4, index)).collect();
    broker.terminate();
    for client in &mut v5 {
        let (first_byte, body) = client.receive().expect("DISCONNECT before the end");
        assert_eq!((first_byte, body.first()), (0xe0, Some(&0x8b)));
        assert_eq!(client.receive(), None);
    }
    for client in &mut v311 {
        assert_eq!(
            client.receive(),
            None,
            "MQTT 3.1.1 has no DISCONNECT from the Server"
        );
    }
    let status = broker
        .wait(Duration::from_secs(5))
        .expect("it ends within 5 s");
    assert_eq!(status.code(), Some(0), "{}", broker.stderr());
}
