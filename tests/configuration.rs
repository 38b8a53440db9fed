//! What a configuration file does to the process: Mosquitto's messages and exit status for what is wrong
//! with it, and reloads that change what they should and nothing else.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use support::raw::{Raw, packet, publish, subscribe};
use support::{Broker, PATIENCE, command, run_to_end};

/// Exit status for a configuration that the broker does not start with.
const USAGE: Option<i32> = Some(3);

/// A folder of one test, removed at its end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        static NEXT: AtomicUsize = AtomicUsize::new(0);
        let name = format!(
            "fastmq-configuration-{}-{}",
            std::process::id(),
            NEXT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// Writes a file and returns its whole name.
    fn write(&self, name: &str, content: &str) -> String {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A broker with a configuration that begins with one listener on a free port. Where root runs the tests,
/// it stays root, to read files that are made while it runs.
struct Configured {
    folder: Folder,
    file: String,
    broker: Broker,
}

const FIRST: &str = "user root\nlistener 0 127.0.0.1\n";

impl Configured {
    fn start(rest: &str) -> Self {
        Self::start_in(Folder::new(), rest)
    }

    fn start_in(folder: Folder, rest: &str) -> Self {
        let file = folder.write("fastmq.conf", &format!("{FIRST}{rest}"));
        let broker = Broker::start_configured(&["-c", &file, "--cores", "2", "--oversubscribe"]);
        Self {
            folder,
            file,
            broker,
        }
    }

    /// Writes another configuration and has the broker read it. Returns what it said about it.
    fn reload(&self, whole: &str) -> String {
        fs::write(&self.file, whole).unwrap();
        let said_before = self.broker.stderr().len();
        self.broker.signal(rustix::process::Signal::HUP);
        let is_said = |said: &str| {
            said.contains("Reloading config.") || said.contains("Error reloading configuration")
        };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let said = self.broker.stderr().split_off(said_before);
            if is_said(&said) {
                return said;
            }
            assert!(Instant::now() < deadline, "no end of the reload: {said}");
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// The reason code with which a CONNECT of MQTT 3.1.1 is answered.
fn connack(port: u16, user: Option<(&str, &str)>) -> u8 {
    log_in(port, "somebody", user).1
}

/// A connection whose CONNECT was answered, and that reason code.
fn log_in(port: u16, client_identifier: &str, user: Option<(&str, &str)>) -> (Raw, u8) {
    let mut client = Raw::open(port);
    let mut body = b"\x00\x04MQTT\x04".to_vec();
    body.push(if user.is_some() { 0xc2 } else { 0x02 });
    body.extend(60u16.to_be_bytes());
    let mut field = |text: &str| {
        body.extend(u16::try_from(text.len()).unwrap().to_be_bytes());
        body.extend(text.as_bytes());
    };
    field(client_identifier);
    if let Some((name, password)) = user {
        field(name);
        field(password);
    }
    client.send(&packet(0x10, &body));
    let (first, body) = client.receive().expect("CONNACK");
    assert_eq!(first, 0x20);
    (client, body[1])
}

fn is_open(port: u16) -> bool {
    std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
}

/// The port of the last line that says where the broker listens.
fn last_port(said: &str) -> u16 {
    let line = said
        .lines()
        .rfind(|line| line.contains("listening on "))
        .unwrap_or_else(|| panic!("nothing is listened on: {said}"));
    line.rsplit(':').next().unwrap().parse().unwrap()
}

#[test]
fn a_mistake_is_said_with_file_and_line_and_ends_with_mosquittos_status() {
    let folder = Folder::new();
    let missing = folder.path("missing").display().to_string();
    let passwords = folder.write("broken-passwords", "name:$9$nothing\n");
    let acl = folder.write("broken-acl", "user a\ntopik read b\n");
    let served = format!("certfile {missing}\nkeyfile {missing}\n");
    let cases = [
        (
            "foo bar\n".to_owned(),
            "Unknown configuration variable 'foo'",
            1,
        ),
        ("listener 1\nmax_qos 3\n".to_owned(), "max_qos", 2),
        (
            "\n\nconnection one\n".to_owned(),
            "'one' has no 'address'",
            3,
        ),
        (
            format!("listener 1\npassword_file {missing}\n"),
            missing.as_str(),
            2,
        ),
        (
            format!("listener 1\npassword_file {passwords}\n"),
            "broken-passwords:1",
            2,
        ),
        (format!("listener 1\nacl_file {acl}\n"), "broken-acl:2", 2),
        (
            format!("listener 1\ncertfile {missing}\nkeyfile {missing}\n"),
            "certfile",
            2,
        ),
        (
            format!("listener 1\nprotocol websockets\nhttp_dir {missing}\n"),
            "http_dir",
            3,
        ),
        (
            "listener 1\nlog_timestamp_format %!\n".to_owned(),
            "log_timestamp_format",
            2,
        ),
        (
            format!("listener 1\n{served}ciphers NOPE\n"),
            "ciphers: ",
            4,
        ),
        (
            format!("listener 1\n{served}cafile {missing}\n"),
            "cafile ",
            4,
        ),
        (
            format!("listener 1\nconnection b\naddress h\ntopic #\nbridge_cafile {missing}\n"),
            missing.as_str(),
            5,
        ),
        (
            format!(
                "listener 1\nconnection b\naddress h\ntopic #\nbridge_cafile {missing}\nbridge_ciphers NOPE\n"
            ),
            "bridge_ciphers: ",
            6,
        ),
    ];
    for (text, named, line) in cases {
        let file = folder.write("bad.conf", &text);
        for extra in [&[][..], &["--test-config"]] {
            let (code, said) = run_to_end(command().args(["-c", &file]).args(extra));
            assert_eq!(code, USAGE, "{text}: {said}");
            assert!(
                said.contains("Error: ") && said.contains(named),
                "{text}: {said}"
            );
            let place = format!("Error found at {file}:{line}.");
            assert!(said.contains(&place), "{text}: {said}");
        }
    }
    let (code, said) = run_to_end(command().args(["-c", &missing]));
    assert_eq!(code, USAGE);
    assert!(said.contains("Unable to open config file"), "{said}");
}

/// A FIFO that nobody writes to.
fn make_fifo(folder: &Folder) -> String {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let path = folder.path("fifo");
    mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_fifo_or_a_device_in_place_of_a_file_is_refused_at_once_and_a_link_to_a_file_is_not() {
    let folder = Folder::new();
    let fifo = make_fifo(&folder);
    let there = folder.write("there", "");
    let cases = [
        (format!("password_file {fifo}\n"), "a FIFO"),
        (format!("acl_file {fifo}\n"), "a FIFO"),
        ("password_file /dev/null\n".to_owned(), "a device"),
        (format!("pid_file {fifo}\n"), "a FIFO"),
        ("pid_file /dev/null\n".to_owned(), "a device"),
        (
            format!("certfile {fifo}\nkeyfile {there}\n"),
            "it is a FIFO and must be a regular file",
        ),
    ];
    for (text, kind) in cases {
        let file = folder.write("fifo.conf", &format!("listener 0 127.0.0.1\n{text}"));
        for extra in [&[][..], &["--test-config"]] {
            let (code, said) = run_to_end(command().args(["-c", &file]).args(extra));
            assert_eq!(code, USAGE, "{text}: {said}");
            assert!(said.contains(kind), "{text}: {said}");
            assert!(said.contains(&format!("{file}:2.")), "{text}: {said}");
        }
    }
    let linked = folder.path("linked");
    std::os::unix::fs::symlink(folder.write("passwords", PASSWORDS), &linked).unwrap();
    let linked = linked.display();
    let text = format!("listener 0 127.0.0.1\npassword_file {linked}\nacl_file {there}\n");
    let file = folder.write("linked.conf", &text);
    let (code, said) = run_to_end(command().args(["-c", &file, "--test-config"]));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn what_the_system_would_not_let_it_do_is_said_by_a_check_as_well_as_by_a_start() {
    let folder = Folder::new();
    let missing = folder.path("missing").join("a").display().to_string();
    let file_in_the_way = folder.write("file", "");
    let cases = [
        (
            format!("pid_file {missing}\n"),
            format!("pid_file '{missing}'"),
            Some(3),
        ),
        (
            format!("persistence true\npersistence_location {file_in_the_way}/store\n"),
            format!("{file_in_the_way}/store"),
            Some(4),
        ),
        (
            "bind_interface fastmq-none\n".to_owned(),
            "(interface fastmq-none)".to_owned(),
            None,
        ),
        // An address of nobody's: RFC 5737.
        (
            "listener 1 192.0.2.1\n".to_owned(),
            "cannot listen on 192.0.2.1:1: ".to_owned(),
            None,
        ),
        (
            "listener 1 no-such-host.invalid\n".to_owned(),
            "cannot listen on no-such-host.invalid:1: ".to_owned(),
            None,
        ),
        (
            format!("listener 0 {missing}\n"),
            format!("cannot listen on {missing}: "),
            None,
        ),
        (
            format!("listener 0 {file_in_the_way}\n"),
            "something that is not a socket".to_owned(),
            None,
        ),
        (
            format!(
                "fastmq_admin_listener 1 192.0.2.1\nfastmq_admin_token_file {}\n",
                folder.write("token", "0123456789abcdef")
            ),
            "cannot listen on 192.0.2.1:1 (admin port): ".to_owned(),
            Some(3),
        ),
    ];
    for (rest, named, line) in cases {
        let file = folder.write("bad.conf", &format!("{FIRST}{rest}"));
        for extra in [&[][..], &["--test-config"]] {
            let mut start = command();
            start.args(["-c", &file, "--cores", "1"]).args(extra);
            let (code, said) = run_to_end(&mut start);
            assert!(matches!(code, Some(1 | 3)), "{rest}: {said}");
            assert!(
                said.contains("Error: ") && said.contains(&named),
                "{rest}: {said}"
            );
            assert!(!said.contains("\\n"), "{rest}: {said}");
            if let Some(line) = line {
                let place = format!("Error found at {file}:{line}.");
                assert!(said.contains(&place), "{rest}: {said}");
            }
        }
    }
    if rustix::process::geteuid().is_root() {
        let file = folder.write("bad.conf", "listener 0 127.0.0.1\nuser no-such-user\n");
        for extra in [&[][..], &["--test-config"]] {
            let (code, said) = run_to_end(command().args(["-c", &file]).args(extra));
            assert_eq!(code, USAGE, "{said}");
            assert!(
                said.contains("Error: user no-such-user: there is no such user."),
                "{said}"
            );
            assert!(
                said.contains(&format!("Error found at {file}:2.")),
                "{said}"
            );
        }
    }
}

#[test]
fn a_check_leaves_nothing_behind_and_does_not_mind_a_broker_that_runs() {
    let folder = Folder::new();
    let names = ["pid", "socket", "store", "keys"].map(|name| folder.path(name));
    let [pid, socket, store, keys] = names.each_ref().map(|path| path.display().to_string());
    let rest = format!(
        "pid_file {pid}\nlistener 0 {socket}\npersistence true\npersistence_location {store}\n"
    );
    let file = folder.write("fastmq.conf", &format!("{FIRST}{rest}"));
    let check = |keys: &str| {
        let arguments = ["-c", &file, "--test-config", "--tls-keylog", keys];
        run_to_end(command().args(arguments))
    };
    let (code, said) = check(&format!("{store}/keys"));
    assert_eq!(code, USAGE, "{said}");
    assert!(
        said.contains(&format!("Unable to open {store}/keys: ")),
        "{said}"
    );
    let (code, said) = check(&keys);
    assert_eq!(code, Some(0), "{said}");
    assert!(names.iter().all(|path| !path.exists()), "{said}");
    let it = Configured::start_in(folder, &rest);
    let (code, said) = check(&keys);
    assert_eq!(code, Some(0), "{said}");
    assert_eq!(
        fs::read_to_string(&names[0]).unwrap(),
        it.broker.process_id().to_string()
    );
}

#[test]
fn a_configuration_that_is_right_is_only_checked_when_that_is_asked_for() {
    let folder = Folder::new();
    let file = folder.write("good.conf", "listener 0 127.0.0.1\nretry_interval 5\n");
    let (code, said) = run_to_end(command().args(["-c", &file, "--test-config"]));
    assert_eq!(code, Some(0), "{said}");
    assert!(said.contains("Configuration file is OK."), "{said}");
    assert!(
        said.contains("'retry_interval' option has no effect"),
        "{said}"
    );
}

#[test]
fn without_a_listener_the_ports_of_the_command_line_are_for_this_machine_and_anybody_on_it() {
    let folder = Folder::new();
    let file = folder.write("empty.conf", "user root\n");
    let broker = Broker::start(&["-c", &file, "--cores", "1"]);
    assert!(
        broker.stderr().contains("local only mode"),
        "{}",
        broker.stderr()
    );
    assert_eq!(connack(broker.port(), None), 0);
    for line in broker.stderr().lines() {
        if let Some((_, address)) = line.split_once("listening on ") {
            assert!(
                address.starts_with("127.0.0.1:") || address.starts_with("[::1]:"),
                "{line}"
            );
        }
    }
}

#[test]
fn with_a_listener_the_ports_of_the_command_line_are_ignored_and_anonymous_clients_refused() {
    let folder = Folder::new();
    let file = folder.write("one.conf", FIRST);
    let broker = Broker::start_configured(&["-c", &file, "-p", "1", "--cores", "1"]);
    assert!(
        broker.stderr().contains("-p and --bind change nothing"),
        "{}",
        broker.stderr()
    );
    assert_eq!(connack(broker.port(), None), 5, "not authorised");
}

#[test]
fn a_reload_keeps_connections_and_applies_passwords_and_access_rules_to_them() {
    let folder = Folder::new();
    let passwords = folder.write("passwords", PASSWORDS);
    let acl = folder.write("acl", "user roger\ntopic readwrite #\n");
    let files = format!("password_file {passwords}\nacl_file {acl}\n");
    let it = Configured::start_in(folder, &format!("allow_anonymous true\n{files}"));
    let port = it.broker.port();
    let mut nobody = Raw::connect(port, 4, "goes");
    let roger = Some(("roger", "password"));
    let (mut client, code) = log_in(port, "stays", roger);
    assert_eq!(code, 0);
    client.send(&subscribe("a", 0));
    assert_eq!(client.receive().unwrap().0, 0x90);
    client.send(&publish("a", b"1"));
    assert_eq!(client.receive(), Some((0x30, b"\x00\x01a1".to_vec())));

    it.folder.write("acl", "user roger\ntopic read #\n");
    let said = it.reload(&format!("{FIRST}{files}"));
    assert!(said.contains("Reloading config."), "{said}");
    // Each shard does what it is told in its next turn.
    let is_anybody_let_in = || {
        let mut names = (0..16).map(|number| format!("{number}"));
        names.any(|name| log_in(port, &name, None).1 != 5)
    };
    let deadline = Instant::now() + PATIENCE;
    while is_anybody_let_in() {
        assert!(
            Instant::now() < deadline,
            "anonymous Clients are not allowed any more"
        );
    }
    assert_eq!(nobody.receive(), None, "nor is the one that was there");
    assert_eq!(connack(port, roger), 0);
    assert_eq!(connack(port, Some(("roger", "wrong"))), 5);
    // Its message is not delivered, and its connection is there: the ping comes back first.
    client.send(&publish("a", b"2"));
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())));
}

/// `roger:password`, as mosquitto_passwd writes it.
const PASSWORDS: &str = include_str!("support/passwords");

#[test]
fn a_broken_reload_changes_nothing_and_says_so_with_file_and_line() {
    let it = Configured::start("allow_anonymous true\n");
    let port = it.broker.port();
    let mut client = Raw::connect(port, 4, "stays");
    let missing = it.folder.path("missing").display().to_string();
    let fifo = make_fifo(&it.folder);
    let broken = [
        ("allow_anonymous false\nnonsense 1\n".to_owned(), 4),
        (format!("allow_anonymous false\nacl_file {fifo}\n"), 4),
        (
            format!("allow_anonymous false\npassword_file {missing}\n"),
            4,
        ),
        (
            format!(
                "allow_anonymous false\nlistener 0 127.0.0.1\ncertfile {missing}\nkeyfile {missing}\n"
            ),
            5,
        ),
    ];
    for (rest, line) in broken {
        let said = it.reload(&format!("{FIRST}{rest}"));
        assert!(said.contains("Error reloading configuration"), "{said}");
        assert!(
            said.contains(&format!("Error found at {}:{line}.", it.file)),
            "{said}"
        );
        assert_eq!(connack(port, None), 0, "as before");
        client.send(&[0xc0, 0]);
        assert_eq!(client.receive(), Some((0xd0, Vec::new())));
    }
    let _ = fs::remove_file(&it.file);
    it.broker.signal(rustix::process::Signal::HUP);
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())));
}

#[test]
fn a_reload_opens_listeners_that_are_new_and_closes_those_that_are_gone_but_not_their_connections()
{
    let it = Configured::start("allow_anonymous true\n");
    let first = it.broker.port();
    let said = it.reload(&format!(
        "{FIRST}allow_anonymous true\nlistener 0 127.0.0.2\n"
    ));
    let second = last_port(&said);
    assert!(is_open(first), "it is the one that was there");
    assert!(std::net::TcpStream::connect(("127.0.0.2", second)).is_ok());
    let mut client = Raw::connect(first, 4, "stays");

    let said = it.reload("user root\nallow_anonymous true\nlistener 0 127.0.0.2\n");
    assert!(said.contains("no longer listening on"), "{said}");
    let deadline = Instant::now() + PATIENCE;
    while is_open(first) {
        assert!(Instant::now() < deadline, "it is not closed");
        thread::sleep(Duration::from_millis(5));
    }
    assert!(std::net::TcpStream::connect(("127.0.0.2", second)).is_ok());
    client.send(&[0xc0, 0]);
    assert_eq!(client.receive(), Some((0xd0, Vec::new())));
}

#[test]
fn the_log_goes_where_the_configuration_says_in_mosquittos_words_and_follows_its_file() {
    let folder = Folder::new();
    let log = folder.path("log").display().to_string();
    let rest = format!("allow_anonymous true\nlog_dest stderr\nlog_dest file {log}\n");
    let it = Configured::start_in(folder, &rest);
    drop(Raw::connect(it.broker.port(), 4, "known"));
    wait_for(Path::new(&log), "New client connected from 127.0.0.1:");
    wait_for(Path::new(&log), " as known (p2, c1, ");
    wait_for(Path::new(&log), "Client known ");

    fs::rename(&log, format!("{log}.1")).unwrap();
    it.reload(&format!("{FIRST}{rest}"));
    drop(Raw::connect(it.broker.port(), 4, "later"));
    wait_for(Path::new(&log), " as later (p2, c1, ");
}

fn wait_for(file: &Path, text: &str) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let content = fs::read_to_string(file).unwrap_or_default();
        if content.contains(text) {
            return;
        }
        assert!(Instant::now() < deadline, "{text:?} is not in {content}");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn the_process_identifier_is_in_its_file_as_long_as_the_broker_runs() {
    let folder = Folder::new();
    let pid = folder.path("pid").display().to_string();
    let mut it = Configured::start_in(folder, &format!("pid_file {pid}\n"));
    assert_eq!(
        fs::read_to_string(&pid).unwrap().trim(),
        it.broker.process_id().to_string()
    );
    it.broker.terminate();
    assert!(it.broker.wait(PATIENCE).unwrap().success());
    assert!(!Path::new(&pid).exists());
}

/// A broker in the background, ended with the test.
struct Daemon(rustix::process::Pid);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = rustix::process::kill_process(self.0, rustix::process::Signal::KILL);
    }
}

#[test]
fn in_the_background_it_serves_once_its_starter_ends_and_says_nothing_more_to_the_terminal() {
    let folder = Folder::new();
    let pid = folder.path("pid").display().to_string();
    let log = folder.path("log").display().to_string();
    let to_terminal = folder.path("terminal");
    let file = folder.write(
        "fastmq.conf",
        &format!(
            "{FIRST}pid_file {pid}\nallow_anonymous true\nlog_dest stdout\nlog_dest file {log}\n"
        ),
    );
    let terminal = fs::File::create(&to_terminal).unwrap();
    let mut start = command();
    start
        .args(["-d", "-c", &file, "--cores", "1"])
        .stdout(terminal);
    let (code, said) = run_to_end(&mut start);
    assert_eq!(code, Some(0), "{said}");
    let number: i32 = fs::read_to_string(&pid).unwrap().parse().unwrap();
    let daemon = Daemon(rustix::process::Pid::from_raw(number).unwrap());
    let port = last_port(&fs::read_to_string(&log).unwrap());
    let mut client = Raw::connect(port, 4, "somebody");
    wait_for(Path::new(&log), " as somebody ");
    // What was said while somebody listened is there, and nothing later.
    let heard = fs::read_to_string(to_terminal).unwrap();
    assert!(
        heard.contains("1 shard") && !heard.contains("somebody"),
        "{heard}"
    );
    rustix::process::kill_process(daemon.0, rustix::process::Signal::TERM).unwrap();
    assert_eq!(client.receive(), None);
    let deadline = Instant::now() + PATIENCE;
    while Path::new(&pid).exists() {
        assert!(Instant::now() < deadline, "it does not end");
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn what_keeps_it_from_starting_in_the_background_is_said_by_its_starter() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let file = folder.write("taken.conf", &format!("listener {port} 127.0.0.1\n"));
    let (code, said) = run_to_end(command().args(["-d", "-c", &file, "--cores", "1"]));
    assert_eq!(code, Some(1), "{said}");
    assert!(
        said.contains(&format!("cannot listen on 127.0.0.1:{port}: ")),
        "{said}"
    );
    let file = folder.write("bad.conf", "max_qos 3\n");
    let (code, said) = run_to_end(command().args(["-d", "-c", &file]));
    assert_eq!(code, USAGE, "{said}");
    assert!(
        said.contains(&format!("Error found at {file}:1.")),
        "{said}"
    );
}

/// What only the process in the background finds out.
#[test]
fn a_mistake_that_is_found_in_the_background_has_the_exit_status_that_it_has_otherwise() {
    let folder = Folder::new();
    let missing = folder.path("missing").join("pid").display().to_string();
    let file = folder.write("fastmq.conf", &format!("{FIRST}pid_file {missing}\n"));
    for extra in [&[][..], &["-d"]] {
        let (code, said) = run_to_end(command().args(["-c", &file, "--cores", "1"]).args(extra));
        assert_eq!(code, USAGE, "{extra:?}: {said}");
        assert!(
            said.contains(&format!("pid_file '{missing}'")),
            "{extra:?}: {said}"
        );
    }
}

#[test]
fn more_cores_than_cpus_are_refused_with_the_line_that_asks_for_them() {
    let folder = Folder::new();
    let cpus = thread::available_parallelism().unwrap().get();
    let file = folder.write(
        "fastmq.conf",
        &format!("{FIRST}fastmq_cores {}\n", cpus + 1),
    );
    let (code, said) = run_to_end(command().args(["-c", &file]));
    assert_eq!(code, USAGE, "{said}");
    assert!(
        said.contains(&format!("Error: fastmq_cores {}: ", cpus + 1)),
        "{said}"
    );
    assert!(
        said.contains(&format!("Error found at {file}:3.")),
        "{said}"
    );
    // Of the option it is no line's.
    let more = (cpus + 2).to_string();
    let (code, said) = run_to_end(command().args(["-c", &file, "--cores", &more]));
    assert_eq!(code, USAGE, "{said}");
    assert!(
        said.contains(&format!("--cores {more}: ")) && !said.contains("Error found at"),
        "{said}"
    );
}

#[test]
fn a_check_warns_of_what_a_start_warns_of() {
    let folder = Folder::new();
    let rules = folder.write("acl", "pattern read everything\n");
    let users = folder.write("passwords", "nobody\n");
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    let file = folder.write(
        "fastmq.conf",
        &format!("{FIRST}acl_file {rules}\npassword_file {users}\nlog_dest file {users}/log\n"),
    );
    let (code, said) = run_to_end(command().args(["-c", &file, "--test-config", "-p", "1884"]));
    assert_eq!(code, Some(0), "{said}");
    for warning in [
        format!("Warning: {rules}:1: ACL pattern 'everything' does not contain"),
        format!("Warning: {users}:1: a line without a colon"),
        format!("Warning: the log would not reach {users}/log: "),
        "Warning: -p and --bind change nothing".to_owned(),
    ] {
        assert!(said.contains(&warning), "{warning}: {said}");
    }
}

#[test]
fn an_included_file_whose_name_is_no_text_is_not_missed() {
    use std::os::unix::ffi::OsStrExt;
    let folder = Folder::new();
    let included = folder.path("conf.d");
    fs::create_dir(&included).unwrap();
    let file = folder.write(
        "fastmq.conf",
        &format!("{FIRST}include_dir {}\n", included.display()),
    );
    let check = || run_to_end(command().args(["-c", &file, "--test-config"]));
    // Not one that would be read.
    fs::write(included.join(std::ffi::OsStr::from_bytes(b"\xff")), "frob").unwrap();
    let (code, said) = check();
    assert_eq!(code, Some(0), "{said}");
    let name = std::ffi::OsStr::from_bytes(b"\xff.conf");
    fs::write(included.join(name), "allow_anonymous false").unwrap();
    let (code, said) = check();
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("is no UTF-8"), "{said}");
    assert!(
        said.contains(&format!("Error found at {file}:3.")),
        "{said}"
    );
}

#[test]
fn quiet_says_nothing_and_unknown_options_are_said() {
    let (code, said) = run_to_end(command().args(["-q", "-v"]));
    assert_eq!(code, USAGE, "{said}");
    let (code, said) = run_to_end(command().args(["-c"]));
    assert_eq!(code, USAGE, "{said}");
    assert!(said.contains("--config-file"), "{said}");
}

#[test]
fn why_the_broker_does_not_start_is_said_once_wherever_the_log_goes() {
    let folder = Folder::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let log = folder.path("log").display().to_string();
    let to_file = format!("log_dest file {log}\n");
    for (rest, stamped) in [
        ("", true),
        (to_file.as_str(), false),
        ("log_type debug\n", false),
    ] {
        let text = format!("user root\nlistener {port} 127.0.0.1\n{rest}");
        let file = folder.write("taken.conf", &text);
        let (code, said) = run_to_end(command().args(["-c", &file, "--cores", "1"]));
        assert_eq!(code, Some(1), "{said}");
        let errors: Vec<_> = said
            .lines()
            .filter(|line| line.contains("Error: "))
            .collect();
        assert_eq!(errors.len(), 1, "{rest}: {said}");
        assert!(
            errors[0].contains(&format!("cannot listen on 127.0.0.1:{port}: ")),
            "{said}"
        );
        assert_eq!(!errors[0].starts_with("Error: "), stamped, "{rest}: {said}");
    }
    assert!(
        fs::read_to_string(&log)
            .unwrap()
            .contains("cannot listen on")
    );
}

/// A folder of root's that everybody can read; none if somebody else runs the tests.
fn folder_of_root() -> Option<Folder> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root becomes somebody else");
        return None;
    }
    let folder = Folder::new();
    fs::set_permissions(&folder.0, fs::Permissions::from_mode(0o755)).unwrap();
    Some(folder)
}

/// A broker that root has started and that has become `nobody`, with its configuration.
fn start_as_nobody(folder: Folder, rest: &str) -> (Configured, String) {
    let whole = format!("user nobody\nlistener 0 127.0.0.1\n{rest}");
    let file = folder.write("fastmq.conf", &whole);
    let broker = Broker::start_configured(&["-c", &file, "--cores", "1"]);
    let configured = Configured {
        folder,
        file,
        broker,
    };
    (configured, whole)
}

/// The user and the group that a broker runs as.
fn runs_as(broker: &Broker) -> (u32, u32) {
    let process = fs::metadata(format!("/proc/{}", broker.process_id())).unwrap();
    (process.uid(), process.gid())
}

#[test]
fn a_log_file_made_by_root_belongs_to_whom_the_broker_becomes_and_lines_go_on_if_it_cannot_be_reopened()
 {
    let Some(folder) = folder_of_root() else {
        return;
    };
    let log = folder.path("log");
    let rest = format!("log_dest stderr\nlog_dest file {}\n", log.display());
    let (it, whole) = start_as_nobody(folder, &rest);
    let metadata = fs::metadata(&log).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), runs_as(&it.broker));
    assert_eq!(metadata.mode() & 0o777, 0o600);
    it.reload(&whole);
    wait_for(&log, "Reloading config.");
    assert!(!it.broker.stderr().contains("Unable to open"));

    // Nobody may make a new one in a folder of root's.
    let rotated = it.folder.path("log.1");
    fs::rename(&log, &rotated).unwrap();
    it.reload(&whole);
    let said = format!("Error: Unable to open log file {}", log.display());
    wait_for(&rotated, &format!("{said} for writing: Permission denied"));
    assert_eq!(
        it.broker.stderr().matches(&said).count(),
        2,
        "log and stderr"
    );
    drop(Raw::open(it.broker.port()));
    it.broker.terminate();
    wait_for(&rotated, "ended");
}

#[test]
fn a_unix_socket_made_by_root_is_for_the_user_and_the_group_that_the_broker_becomes() {
    let Some(folder) = folder_of_root() else {
        return;
    };
    let socket = folder.path("socket");
    let (it, _) = start_as_nobody(folder, &format!("listener 0 {}\n", socket.display()));
    let metadata = fs::metadata(&socket).unwrap();
    assert_eq!((metadata.uid(), metadata.gid()), runs_as(&it.broker));
    assert_eq!(metadata.mode() & 0o777, 0o770);
}

/// Root reads files at the start that the user it becomes cannot read at a reload.
#[test]
fn a_password_file_of_root_alone_is_refused_at_a_reload_and_what_was_read_stays() {
    let Some(folder) = folder_of_root() else {
        return;
    };
    let passwords = folder.path("passwords").display().to_string();
    let passwd = |options: &[&str], password: &str| {
        let mut command = command();
        command.args(["passwd", "-b"]).args(options);
        let (code, said) = run_to_end(command.args([&passwords, "ann", password]));
        assert_eq!(code, Some(0), "{said}");
    };
    // As an operator makes it: its mode is 0600.
    passwd(&["-c"], "secret");
    let (configured, whole) = start_as_nobody(folder, &format!("password_file {passwords}\n"));
    let port = configured.broker.port();
    let ann = || connack(port, Some(("ann", "secret")));
    assert_eq!(ann(), 0);
    let said = configured.reload(&whole);
    assert!(
        said.contains("Permission denied") && said.contains("stays as it was before"),
        "{said}"
    );
    assert_eq!(ann(), 0);
    // Its group is enough.
    let (_, group) = runs_as(&configured.broker);
    std::os::unix::fs::chown(&passwords, None, Some(group)).unwrap();
    fs::set_permissions(&passwords, fs::Permissions::from_mode(0o640)).unwrap();
    passwd(&[], "other");
    let said = configured.reload(&whole);
    assert!(said.contains("Reloading config."), "{said}");
    assert_ne!(ann(), 0);
}
