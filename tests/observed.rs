//! What the process says about itself: `$SYS`, the log, signals, the service manager.

#![forbid(unsafe_code)]

mod support;

use rustix::process::{Pid, Signal, kill_process};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use support::raw::{self, Raw};
use support::{Broker, PATIENCE, command};

/// Until `is_there`, or it never comes.
fn until(what: &str, mut is_there: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_there() {
        assert!(Instant::now() < deadline, "{what} never came");
        thread::sleep(Duration::from_millis(10));
    }
}

fn subscribe(client: &mut Raw, filter: &str) {
    client.send(&raw::subscribe(filter, 0));
    let (first_byte, _) = client.receive().expect("SUBACK");
    assert_eq!(first_byte, 0x90);
}

fn signal(broker: &Broker, signal: Signal) {
    let process_id = i32::try_from(broker.process_id()).unwrap();
    kill_process(Pid::from_raw(process_id).unwrap(), signal).unwrap();
}

/// The retained message of a topic that is published now and then.
fn retained(broker: &Broker, topic: &str) -> String {
    let mut client = Raw::connect(broker.port(), 4, "");
    client.send(&raw::subscribe(topic, 0));
    // The SUBACK and a message, which may come first where it is published just then: section 3.8.4.
    let mut packets = [(); 2].map(|()| client.receive().expect("SUBACK and PUBLISH"));
    packets.sort_by_key(|(first_byte, _)| *first_byte & 0xf0);
    let [(first_byte, body), (suback, _)] = packets;
    assert_eq!((first_byte & 0xf0, suback), (0x30, 0x90), "{topic}");
    let (named, payload) = body[2..].split_at(topic.len());
    assert_eq!(named, topic.as_bytes());
    String::from_utf8_lossy(payload).into_owned()
}

#[test]
fn sys_is_published_retained_by_name_and_by_shard() {
    let expected = [
        (
            "$SYS/broker/version",
            concat!("fastmq version ", env!("CARGO_PKG_VERSION")),
        ),
        ("$SYS/broker/shards/count", "2"),
        ("$SYS/broker/shards/1/clients/connected", "0"),
        ("$SYS/broker/retained messages/count", "0"),
        ("$SYS/broker/load/messages/received/15min", "0.00"),
    ];
    // Who looks is counted as well if the first update has not been made yet: then with another broker.
    until("a first update before the first client", || {
        let broker = Broker::on_cores(2);
        let found = expected.map(|(topic, _)| retained(&broker, topic));
        assert_eq!(found[..2], expected.map(|(_, value)| value)[..2]);
        found == expected.map(|(_, value)| value)
    });
}

#[test]
fn a_wildcard_at_the_front_does_not_match_sys() {
    let broker = Broker::on_cores(1);
    let mut client = Raw::connect(broker.port(), 4, "");
    // [MQTT-4.7.2-1]
    subscribe(&mut client, "#");
    subscribe(&mut client, "+/broker/version");
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())), "PINGRESP");
}

#[test]
fn clients_that_come_and_go_are_in_the_log_as_mosquitto_has_them() {
    let broker = Broker::on_cores(1);
    let mut leaving = Raw::connect(broker.port(), 5, "leaving");
    leaving.send(&[0xe0, 0]);
    assert_eq!(leaving.receive(), None);
    drop(Raw::connect(broker.port(), 4, "vanishing"));
    let has = |text: &str| broker.stderr().contains(text);
    until("the end of both", || {
        has("Client leaving disconnected.") && has("closed its connection.")
    });
    let said = broker.stderr();
    let line = |part: &str| {
        said.lines()
            .find(|line| line.contains(part))
            .unwrap_or_else(|| panic!("no {part} in {said}"))
    };
    // The time, in seconds since 1970, and then the words.
    let connected = line("as leaving (");
    let (time, words) = connected.split_once(": ").unwrap();
    assert!(time.parse::<u64>().unwrap() > 1_700_000_000, "{connected}");
    assert!(
        words.starts_with("New client connected from 127.0.0.1:"),
        "{words}"
    );
    assert!(words.contains(" as leaving (p5, c1, k"), "{words}");
    let port = broker.port();
    assert!(line("New connection from 127.0.0.1:").ends_with(&format!(" on port {port}.")));
    line("Client vanishing closed its connection.");
}

#[test]
fn sighup_and_sigusr1_do_not_end_it_and_sigusr2_shows_the_tree() {
    let mut broker = Broker::on_cores(2);
    let mut client = Raw::connect(broker.port(), 4, "subber");
    subscribe(&mut client, "some/+/filter");
    for (sent, answer) in [
        (Signal::HUP, "Reloading config."),
        (Signal::USR1, "SIGUSR1"),
        (Signal::USR2, "some/+/filter"),
    ] {
        signal(&broker, sent);
        until(answer, || broker.stderr().contains(answer));
    }
    until("both trees", || {
        (0..2).all(|shard| broker.stderr().contains(&format!("Shard {shard}")))
    });
    assert!(broker.is_running());
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())), "PINGRESP");
}

#[test]
fn what_a_client_calls_things_ends_no_line_of_the_tree() {
    let broker = Broker::on_cores(1);
    let forged = "\n1: Client somebody disconnected.";
    let mut client = Raw::connect(broker.port(), 4, &format!("name{forged}"));
    subscribe(&mut client, &format!("filter{forged}"));
    let topic = format!("topic{forged}");
    let mut retained = raw::publish(&topic, b"kept");
    retained[0] |= 1;
    client.send(&retained);
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())), "PINGRESP");
    signal(&broker, Signal::USR2);
    until("the retained topic", || broker.stderr().contains("  topic"));
    let said = broker.stderr();
    for name in ["  name", "    filter", "  topic"] {
        let whole = format!("{name}\\n1: Client somebody disconnected.");
        assert!(said.contains(&whole), "{whole} in {said}");
    }
    let forged = |line: &&str| line.ends_with(": 1: Client somebody disconnected.");
    assert_eq!(said.lines().find(forged), None);
}

/// A broker that root starts becomes somebody else, who has to reach this all the same.
fn open_to_all(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o777)).unwrap();
}

/// A folder of its own for a test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let name = format!("{name}-{}", std::process::id());
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).unwrap();
        open_to_all(&folder);
        Self(folder)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    fn write(&self, name: &str, text: &str) -> String {
        fs::write(self.0.join(name), text).unwrap();
        self.path(name)
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.0.join(name)).unwrap_or_default()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn start(folder: &Folder, configuration: &str) -> Broker {
    let file = folder.write("fastmq.conf", configuration);
    Broker::start(&["-c", &file, "--cores", "1"])
}

#[test]
fn a_rotated_log_file_begins_anew_and_topics_have_the_same_lines() {
    let folder = Folder::new("rotate");
    let file = folder.path("fastmq.log");
    let broker = start(
        &folder,
        &format!("log_dest stderr\nlog_dest topic\nlog_dest file {file}\n"),
    );
    let mut reader = Raw::connect(broker.port(), 4, "reader");
    subscribe(&mut reader, "$SYS/broker/log/N");
    let words = |name: &str| format!(" as {name} (p2, c1, k");
    until("the first client", || {
        folder.read("fastmq.log").contains(&words("reader"))
    });
    fs::rename(&file, folder.path("fastmq.log.1")).unwrap();
    signal(&broker, Signal::HUP);
    until("the answer to SIGHUP", || {
        folder.read("fastmq.log").contains("Reloading config.")
    });
    let _second = Raw::connect(broker.port(), 4, "second");
    until("the second client", || {
        folder.read("fastmq.log").contains(&words("second"))
    });
    assert!(!folder.read("fastmq.log").contains(&words("reader")));
    assert!(!folder.read("fastmq.log.1").contains(&words("second")));
    loop {
        let (first_byte, body) = reader.receive().expect("PUBLISH");
        assert_eq!(first_byte, 0x30, "not retained, QoS 0");
        if String::from_utf8_lossy(&body).contains(&words("second")) {
            break;
        }
    }
}

/// The status of the answer to a request that shows `token`, and the answer.
fn ask(address: &str, path: &str, token: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
         Connection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let status = answer.split(' ').nth(1).unwrap().parse().unwrap();
    (status, answer)
}

#[test]
fn the_admin_port_obeys_the_configuration_and_a_new_token_counts_at_once() {
    let folder = Folder::new("admin");
    let (first, second) = ("the-first-token-of-two", "the-second-token-of-two");
    let token_file = folder.write("token", first);
    let configuration =
        format!("log_dest stderr\nfastmq_admin_listener 0\nfastmq_admin_token_file {token_file}\n");
    let broker = start(&folder, &configuration);
    until("the admin port", || {
        broker.stderr().contains("admin port on")
    });
    let said = broker.stderr();
    let (_, rest) = said.split_once("admin port on http://").unwrap();
    let (address, _) = rest.split_once('/').unwrap();

    let _client = Raw::connect(broker.port(), 4, "a");
    until("the client in the numbers", || {
        let (status, metrics) = ask(address, "/metrics", first);
        assert_eq!(status, 200);
        metrics.contains("fastmq_clients_connected{shard=\"0\"} 1")
    });
    until("readiness", || ask(address, "/readyz", "").0 == 200);
    assert_eq!(ask(address, "/metrics", second).0, 401);

    folder.write("token", second);
    signal(&broker, Signal::HUP);
    until("the second token", || {
        ask(address, "/metrics", second).0 == 200
    });
    assert_eq!(ask(address, "/metrics", first).0, 401);

    // A token that would not protect anything is not taken, and the one before stays.
    folder.write("token", "short");
    signal(&broker, Signal::HUP);
    until("the refusal", || broker.stderr().contains("holds no token"));
    assert_eq!(ask(address, "/metrics", second).0, 200);
    assert_eq!(ask(address, "/metrics", "short").0, 401);
}

/// A socket in the place of systemd's.
struct Manager {
    socket: UnixDatagram,
    folder: Folder,
}

impl Manager {
    fn new() -> Self {
        let folder = Folder::new("notify");
        let path = folder.0.join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        open_to_all(&path);
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { socket, folder }
    }

    /// Reads until a message has the line `expected`.
    fn wait_for(&self, expected: &str) {
        let mut buffer = [0; 4096];
        loop {
            let size = self
                .socket
                .recv(&mut buffer)
                .unwrap_or_else(|error| panic!("{expected} never came: {error}"));
            let text = String::from_utf8_lossy(&buffer[..size]);
            if text.lines().any(|line| line == expected) {
                if expected == "RELOADING=1" {
                    assert!(text.contains("MONOTONIC_USEC="), "{text}");
                }
                return;
            }
        }
    }
}

#[test]
fn idle_shards_gather_unless_the_operator_wants_them_apart() {
    // With one CPU there is nothing to gather.
    if thread::available_parallelism().unwrap().get() < 2 {
        return;
    }
    let verbose = ["--cores", "2", "--verbose"];
    let apart = Broker::start(&[&verbose[..], &["--affinity", "fixed"]].concat());
    let together = Broker::start(&verbose);
    let has_gathered = |broker: &Broker| broker.stderr().contains("all of them run on CPU");
    until("a gathering", || has_gathered(&together));
    assert!(!has_gathered(&apart), "{}", apart.stderr());
    for broker in [apart, together] {
        Raw::connect(broker.port(), 4, "somebody");
    }
}

#[test]
fn the_service_manager_hears_ready_alive_reloading_and_stopping() {
    let manager = Manager::new();
    let mut child = command()
        .args(["--port", "0", "--cores", "1"])
        .env("NOTIFY_SOCKET", manager.folder.path("notify"))
        .env("WATCHDOG_USEC", "1500000")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let process = Pid::from_child(&child);
    manager.wait_for("READY=1");
    manager.wait_for("WATCHDOG=1");
    kill_process(process, Signal::HUP).unwrap();
    manager.wait_for("RELOADING=1");
    manager.wait_for("READY=1");
    kill_process(process, Signal::TERM).unwrap();
    manager.wait_for("STOPPING=1");
    assert!(child.wait().unwrap().success());
}
