//! Brokers that are connected by bridges of their own.

#![forbid(unsafe_code)]

#[path = "support/authority.rs"]
mod authority;
mod support;

use authority::Authority;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};
use support::client::{Client, Options, VERSIONS, Version};
use support::folder::Folder;
use support::mosquitto::{self, Mosquitto};
use support::raw::{self, Raw};
use support::{Broker, PATIENCE};

/// A broker that is bridged to what listens on `remote`, with more lines of its configuration before and after that.
fn bridged(folder: &Folder, before: &str, remote: &str, after: &str) -> Broker {
    let lines = format!(
        "listener 0 127.0.0.1\nallow_anonymous true\n{before}\nconnection there\naddress {remote}\n\
         restart_timeout 1\n{after}\n"
    );
    let file = folder.write("bridged.conf", lines);
    let file = file.display().to_string();
    Broker::start_configured(&["-c", &file, "--cores", "2", "--oversubscribe"])
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

/// A port that nobody listens on, and that the system does not choose for somebody else soon.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port()
}

/// What `/metrics` says.
fn metrics(broker: &Broker) -> String {
    let said = broker.stderr();
    let (_, address) = said.split_once("admin port on http://").unwrap();
    let address = address.split('/').next().unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    let request = format!("GET /metrics HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

/// Passes connections on to that port, for as long as the test lasts.
fn forward(door: TcpListener, port: u16) {
    let carry = |mut from: TcpStream, mut to: TcpStream| {
        thread::spawn(move || {
            // Its end is the other's.
            let _ = std::io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Both);
        });
    };
    thread::spawn(move || {
        for near in door.incoming().map_while(Result::ok) {
            let Ok(far) = TcpStream::connect(("127.0.0.1", port)) else {
                continue;
            };
            carry(near.try_clone().unwrap(), far.try_clone().unwrap());
            carry(far, near);
        }
    });
}

fn linked(broker: &mut Broker) {
    broker.wait_to_say("Bridge there is connected");
}

fn client(version: Version, name: &str, broker: &Broker) -> Client {
    Options::new(version, name).connect(broker.port())
}

#[test]
fn messages_cross_a_bridge_under_their_other_name_once_each_way_and_at_each_qos() {
    for (version, spoken) in [(Version::V311, "mqttv311"), (Version::V5, "mqttv50")] {
        let folder = Folder::new();
        let remote = Broker::on_cores(2);
        let lines = format!(
            "bridge_protocol_version {spoken}\ntopic out/# out 2 here/ there/\ntopic in/+ in 2 here/ there/\n\
             topic both/# both 2"
        );
        let mut local = bridged(&folder, "", &at(remote.port()), &lines);
        linked(&mut local);
        let mut here = client(version, "here", &local);
        let mut there = client(version, "there", &remote);
        here.subscribe("#", 2);
        there.subscribe("#", 2);
        for qos in 0..3 {
            here.publish("here/out/a/b", &format!("out {qos}"), qos);
            let message = there.receive();
            let seen = (message.topic_name.as_str(), message.payload, message.qos);
            assert_eq!(seen, ("there/out/a/b", format!("out {qos}"), qos));
            assert_eq!(here.receive().topic_name, "here/out/a/b");

            there.publish("there/in/a", &format!("in {qos}"), qos);
            let message = here.receive();
            let seen = (message.topic_name.as_str(), message.payload, message.qos);
            assert_eq!(seen, ("here/in/a", format!("in {qos}"), qos));
            assert_eq!(there.receive().topic_name, "there/in/a");

            here.publish("both/x", &format!("h{qos}"), qos);
            assert_eq!(there.receive().payload, format!("h{qos}"));
            assert_eq!(here.receive().payload, format!("h{qos}"));
            there.publish("both/x", &format!("t{qos}"), qos);
            assert_eq!(here.receive().payload, format!("t{qos}"));
            assert_eq!(there.receive().payload, format!("t{qos}"));
        }
        // Neither those that go the other way nor those that have come from there.
        here.publish("here/in/a", "stays", 2);
        there.publish("there/out/a", "stays", 2);
        here.publish("both/last", "", 2);
        assert_eq!(there.receive().topic_name, "there/out/a");
        assert_eq!(there.receive().topic_name, "both/last");
        assert_eq!(here.receive().topic_name, "here/in/a");
        assert_eq!(here.receive().topic_name, "both/last");
        there.publish("both/last", "2", 2);
        assert_eq!(here.receive().payload, "2");
        assert_eq!(there.receive().payload, "2");
    }
}

#[test]
fn what_is_retained_is_retained_on_the_other_side_unless_that_is_not_wanted() {
    for (wanted, lines) in [(true, ""), (false, "bridge_outgoing_retain false\n")] {
        let folder = Folder::new();
        let remote = Broker::on_cores(1);
        let lines = format!("{lines}topic # both 1");
        let mut there = client(Version::V311, "there", &remote);
        there.publish_with_retain("kept/there", "before", 1, true);
        let mut local = bridged(&folder, "", &at(remote.port()), &lines);
        linked(&mut local);
        let mut here = client(Version::V5, "here", &local);
        here.subscribe("#", 1);
        assert_eq!(here.receive().payload, "before");
        here.publish_with_retain("kept/here", "now", 1, true);
        assert_eq!(here.receive().payload, "now");
        there.subscribe("kept/here", 1);
        there.subscribe("last", 1);
        here.publish("last", "", 1);
        let mut seen = there.receive();
        if seen.topic_name == "kept/here" {
            seen = there.receive();
        }
        assert_eq!(seen.topic_name, "last");
        let mut later = client(Version::V311, "later", &remote);
        later.subscribe("kept/#", 1);
        let mut kept = vec![later.receive()];
        kept.extend(later.receive_within(Duration::from_millis(if wanted { 20_000 } else { 300 })));
        assert!(kept.iter().all(|message| message.retain));
        let mut names: Vec<_> = kept.into_iter().map(|it| it.topic_name).collect();
        names.sort();
        let all = ["kept/here", "kept/there"];
        assert_eq!(names, if wanted { &all[..] } else { &all[1..] });
    }
}

#[test]
fn what_is_published_from_the_start_on_waits_for_a_remote_broker_that_cannot_be_reached() {
    let folder = Folder::new();
    // A port of ours that refuses connections until it is listened on.
    let door = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    door.bind(&any.into()).unwrap();
    let port = door.local_addr().unwrap().as_socket().unwrap().port();
    let mut local = bridged(&folder, "", &at(port), "topic # out 1");
    let mut here = client(Version::V311, "here", &local);
    for number in 0..100 {
        here.publish("a", &number.to_string(), 1);
    }
    let remote = Broker::start(&[]);
    let mut there = client(Version::V5, "there", &remote);
    there.subscribe("a", 1);
    door.listen(8).unwrap();
    forward(door.into(), remote.port());
    linked(&mut local);
    for number in 0..100 {
        assert_eq!(there.receive().payload, number.to_string());
    }
    there.receive_nothing();
}

/// What a broker is told that is to keep everything there, whoever starts it.
fn stored(folder: &Folder) -> String {
    format!(
        "user root\npersistence true\npersistence_location {}\n",
        folder.path().display()
    )
}

/// [MQTT-4.3.3-2], over both.
#[test]
fn brokers_that_are_killed_by_turns_lose_and_double_nothing_of_qos_2() {
    let folder = Folder::new();
    let stores = [Folder::new(), Folder::new()];
    let port = free_port();
    let start_remote = || {
        let lines = format!(
            "listener {port} 127.0.0.1\nallow_anonymous true\n{}",
            stored(&stores[1])
        );
        let file = folder.write("remote.conf", lines).display().to_string();
        Broker::start_configured(&["-c", &file, "--cores", "2", "--oversubscribe"])
    };
    let before = stored(&stores[0]);
    let start_local = || {
        bridged(
            &folder,
            &before,
            &at(port),
            "topic # out 2\nnotifications false",
        )
    };
    let mut remote = start_remote();
    let connect = |remote: &Broker| {
        let options = Options::new(Version::V311, "there").persistent();
        options.connect(remote.port())
    };
    // It has everything at the end: what it does not acknowledge would come again, whoever doubled it.
    let mut there = connect(&remote);
    there.subscribe("a", 2);
    there.disconnect();
    let mut local = start_local();
    let mut sent = 0;
    for round in 0..6 {
        linked(&mut local);
        let mut here = client(Version::V311, "here", &local);
        for _ in 0..60 {
            here.publish("a", &sent.to_string(), 2);
            sent += 1;
        }
        if round % 2 == 0 {
            drop(remote);
            remote = start_remote();
        } else {
            drop(here);
            drop(local);
            local = start_local();
        }
    }
    let mut there = connect(&remote);
    // In order as well [MQTT-4.6.0-6].
    for number in 0..sent {
        assert_eq!(there.receive().payload, number.to_string());
    }
    there.receive_nothing();
}

#[test]
fn both_brokers_tell_whether_the_bridge_is_connected() {
    let folder = Folder::new();
    let port = free_port();
    let mut local = bridged(&folder, "", &at(port), "topic # out 0\nremote_clientid me");
    let state = "$SYS/broker/connection/me/state";
    let mut here = client(Version::V311, "here", &local);
    here.subscribe(state, 1);
    assert_eq!(here.receive().payload, "0");
    let remote = Broker::start_on(port, &[]);
    let mut there = client(Version::V311, "there", &remote);
    there.subscribe(state, 1);
    assert_eq!(there.receive().payload, "1");
    assert_eq!(here.receive().payload, "1");
    linked(&mut local);
    local.terminate();
    local.wait(PATIENCE).unwrap();
    let message = there.receive();
    assert_eq!((message.payload.as_str(), message.retain), ("0", false));
    // Killed, it leaves its Will.
    let mut local = bridged(&folder, "", &at(port), "topic # out 0\nremote_clientid me");
    assert_eq!(there.receive().payload, "1");
    linked(&mut local);
    local.signal(rustix::process::Signal::KILL);
    assert_eq!(there.receive().payload, "0");
}

#[test]
fn notifications_are_told_to_this_broker_only_or_to_nobody_where_that_is_wanted() {
    for (lines, is_told) in [
        (
            "notifications_local_only true\nnotification_topic bridge/state\n",
            true,
        ),
        (
            "notifications false\nnotification_topic bridge/state\n",
            false,
        ),
    ] {
        let folder = Folder::new();
        let remote = Broker::on_cores(1);
        let mut there = client(Version::V311, "there", &remote);
        there.subscribe("bridge/#", 0);
        there.subscribe("$SYS/broker/connection/#", 0);
        let mut local = bridged(
            &folder,
            "",
            &at(remote.port()),
            &format!("topic out/# out 1\n{lines}"),
        );
        linked(&mut local);
        let mut here = client(Version::V311, "here", &local);
        here.subscribe("bridge/state", 1);
        if is_told {
            assert_eq!(here.receive().payload, "1");
        } else {
            here.receive_nothing();
        }
        local.terminate();
        local.wait(PATIENCE).unwrap();
        there.receive_nothing();
    }
}

#[test]
fn the_next_address_is_tried_at_once_and_the_first_one_is_returned_to() {
    let folder = Folder::new();
    let first_port = free_port();
    let second = Broker::on_cores(1);
    let addresses = format!("{} {}", at(first_port), at(second.port()));
    let local = bridged(&folder, "", &addresses, "topic # out 1");
    let mut here = client(Version::V311, "here", &local);
    let mut there = client(Version::V311, "there", &second);
    there.subscribe("a", 1);
    here.publish("a", "to the second", 1);
    assert_eq!(there.receive().payload, "to the second");
    let first = Broker::start_on(first_port, &[]);
    let mut there = client(Version::V311, "there", &first);
    there.subscribe("#", 1);
    let deadline = Instant::now() + PATIENCE;
    loop {
        here.publish("a", "to the first", 1);
        if there.receive_within(Duration::from_millis(200)).is_some() {
            break;
        }
        assert!(Instant::now() < deadline, "{}", local.stderr());
    }
}

#[test]
fn rules_and_bounds_for_clients_are_none_for_a_bridge() {
    let folder = Folder::new();
    let rules = folder.write("rules", "topic readwrite open/#\n");
    let before = format!(
        "acl_file {}\nclientid_prefixes c-\nmax_keepalive 10\nmax_queued_messages 10\n",
        rules.display()
    );
    for spoken in ["mqttv311", "mqttv50"] {
        let remote = Broker::on_cores(1);
        let lines = format!("bridge_protocol_version {spoken}\ntopic # both 1");
        let mut local = bridged(&folder, &before, &at(remote.port()), &lines);
        linked(&mut local);
        let mut there = client(Version::V311, "there", &remote);
        let mut here = client(Version::V5, "c-here", &local);
        here.subscribe("open/#", 1);
        there.publish("open/a", "in", 1);
        assert_eq!(here.receive().payload, "in");
        there.subscribe("open/#", 1);
        here.publish("open/a", "out", 1);
        assert_eq!(there.receive().payload, "out");
        // What only the bridge may write is there: retained, and nobody's to read.
        there.publish_with_retain("shut/a", "kept", 1, true);
        there.publish("open/last", "", 1);
        assert_eq!(there.receive().topic_name, "open/last");
        while here.receive().topic_name != "open/last" {}
        assert!(
            !local.stderr().contains("was not passed on"),
            "{}",
            local.stderr()
        );
    }
}

#[test]
fn a_bridge_with_tls_knows_the_other_broker_by_its_authority_and_shows_its_certificate() {
    let folder = Folder::new();
    let authority = Authority::new();
    let stranger = Authority::new();
    let write = |name: &str, text: &str| folder.write(name, text).display().to_string();
    let ca = write("ca.pem", &authority.certificate());
    let other_ca = write("other.pem", &stranger.certificate());
    let (server, bridge) = (authority.server(), authority.client("bridge"));
    let lines = format!(
        "listener 0 127.0.0.1\ncafile {ca}\ncertfile {}\nkeyfile {}\nrequire_certificate true\n\
         use_identity_as_username true\nallow_anonymous true\n",
        write("server.pem", &server.certificate),
        write("server.key", &server.key),
    );
    let remote_file = write("remote.conf", &lines);
    let remote = Broker::start_configured(&["-c", &remote_file, "--cores", "1"]);
    let address = format!("localhost:{}", remote.port());
    let identity = format!(
        "bridge_certfile {}\nbridge_keyfile {}\n",
        write("bridge.pem", &bridge.certificate),
        write("bridge.key", &bridge.key),
    );
    let ciphers = "bridge_ciphers ECDHE-ECDSA-AES128-GCM-SHA256\nbridge_tls_version tlsv1.2\n";
    for (lines, said) in [
        (
            format!("bridge_cafile {ca}\n{identity}"),
            "Bridge there is connected",
        ),
        (
            format!("bridge_cafile {ca}\n{identity}{ciphers}"),
            "Bridge there is connected",
        ),
        (
            format!("bridge_cafile {other_ca}\n{identity}"),
            "invalid peer certificate",
        ),
        (format!("bridge_cafile {ca}\n"), "Bridge there: "),
    ] {
        let lines = format!("{lines}topic # both 1");
        let mut local = bridged(&folder, "", &address, &lines);
        local.wait_to_say(said);
        assert_eq!(
            local.stderr().contains("is connected"),
            said.contains("is connected"),
            "{}",
            local.stderr()
        );
    }
}

#[test]
fn a_bridge_that_is_refused_says_why_and_comes_back() {
    let folder = Folder::new();
    let passwords = folder.write("passwords", "");
    let hashed = support::run_to_end(support::command().args([
        "passwd",
        "-b",
        &passwords.display().to_string(),
        "bridge",
        "secret",
    ]));
    assert_eq!(hashed.0, Some(0), "{}", hashed.1);
    let lines = format!(
        "listener 0 127.0.0.1\npassword_file {}\n",
        passwords.display()
    );
    let file = folder.write("remote.conf", lines).display().to_string();
    for spoken in ["mqttv31", "mqttv311", "mqttv50"] {
        for (password, said) in [
            ("wrong", "refused the connection"),
            ("secret", "is connected"),
        ] {
            let remote = Broker::start_configured(&["-c", &file, "--cores", "1"]);
            let lines = format!(
                "topic # out 1\nbridge_protocol_version {spoken}\nremote_username bridge\nremote_password {password}"
            );
            let mut local = bridged(&folder, "", &at(remote.port()), &lines);
            local.wait_to_say(said);
        }
    }
}

#[test]
fn a_reload_begins_and_ends_bridges_and_changes_them_when_they_say() {
    let folder = Folder::new();
    let remote = Broker::on_cores(1);
    let mut there = client(Version::V311, "there", &remote);
    there.subscribe("#", 1);
    let state = "$SYS/broker/connection/me/state";
    there.subscribe(state, 1);
    let file = folder.file("bridged.conf").display().to_string();
    let reload = |local: &mut Broker, lines: &str| {
        // The listener stays where it is.
        let text = format!("listener 0 127.0.0.1\nallow_anonymous true\n{lines}");
        std::fs::write(&file, text).unwrap();
        local.signal(rustix::process::Signal::HUP);
    };
    let bridge = |topics: &str| {
        format!(
            "connection there\naddress {}\nrestart_timeout 1\nremote_clientid me\nlocal_clientid l\n\
             bridge_reload_type immediate\n{topics}",
            at(remote.port())
        )
    };
    std::fs::write(&file, "listener 0 127.0.0.1\nallow_anonymous true\n").unwrap();
    let mut local = Broker::start_configured(&["-c", &file, "--cores", "2", "--oversubscribe"]);
    let mut here = client(Version::V311, "here", &local);
    // New.
    reload(&mut local, &bridge("topic a out 1\ntopic b out 1\n"));
    assert_eq!(there.receive().payload, "1");
    here.publish("a", "1", 1);
    assert_eq!(there.receive().payload, "1");
    // The same: nothing happens.
    reload(&mut local, &bridge("\ntopic a out 1\ntopic b out 1\n"));
    local.wait_to_say("Reloading config.");
    there.receive_nothing();
    // Changed.
    reload(&mut local, &bridge("topic b out 1\ntopic c out 1\n"));
    assert_eq!(there.receive().payload, "0");
    assert_eq!(there.receive().payload, "1");
    for topic_name in ["a", "b", "c"] {
        here.publish(topic_name, "2", 1);
    }
    assert_eq!(there.receive().topic_name, "b");
    assert_eq!(there.receive().topic_name, "c");
    there.receive_nothing();
    // Changed, but not at once: from the next connection on.
    let lazy = bridge("topic d out 1\n").replace("immediate", "lazy");
    reload(&mut local, &lazy);
    here.publish("b", "3", 1);
    assert_eq!(there.receive().payload, "3");
    // Gone, with its Session.
    reload(&mut local, "");
    assert_eq!(there.receive().payload, "0");
    local.wait_to_say("Bridge there is gone");
    here.publish("d", "4", 1);
    there.receive_nothing();
    // And again.
    reload(&mut local, &bridge("topic d out 1\n"));
    assert_eq!(there.receive().payload, "1");
    here.publish("d", "5", 1);
    assert_eq!(there.receive().payload, "5");
}

#[test]
fn two_bridges_between_the_same_brokers_do_not_send_in_circles_what_each_has_brought() {
    let folders = [Folder::new(), Folder::new()];
    let remote = Broker::on_cores(1);
    let lines = "topic # both 1\nlocal_clientid l\nremote_clientid r";
    let mut local = bridged(&folders[0], "", &at(remote.port()), lines);
    linked(&mut local);
    for version in VERSIONS {
        let mut here = client(version, "here", &local);
        let mut there = client(version, "there", &remote);
        here.subscribe("a", 1);
        there.subscribe("a", 1);
        here.publish("a", "1", 1);
        there.publish("a", "2", 1);
        for client in [&mut here, &mut there] {
            let mut seen = [client.receive().payload, client.receive().payload];
            seen.sort();
            assert_eq!(seen, ["1", "2"]);
            client.receive_nothing();
        }
    }
}

/// What has been read and not handled yet is not forgotten when there is room for it again.
#[test]
fn a_burst_larger_than_what_a_bridge_buffers_arrives_without_a_pause() {
    const LINES: usize = 100_000;
    let folder = Folder::new();
    let remote = Broker::on_cores(1);
    // A minute's silence would have it look again.
    let lines = "topic # out 0\nkeepalive_interval 600";
    let mut local = bridged(&folder, "", &at(remote.port()), lines);
    linked(&mut local);
    let text: String = (0..LINES).map(|number| format!("{number}\n")).collect();
    let file = folder.write("lines", &text);
    let port = |broker: &Broker| broker.port().to_string();
    let count = LINES.to_string();
    let mut subscriber = support::command()
        .args(["sub", "-p", &port(&remote), "-t", "a", "-C", &count])
        .args(["-W", &PATIENCE.as_secs().to_string()])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut arrived = subscriber.stdout.take().unwrap();
    let reader = thread::spawn(move || {
        let mut text = String::new();
        arrived.read_to_string(&mut text).unwrap();
        text
    });
    // It has subscribed.
    let mut remote = remote;
    remote.wait_to_say(" as auto-");
    let mut publisher = support::command()
        .args(["pub", "-p", &port(&local), "-t", "a", "-l"])
        .stdin(std::fs::File::open(file).unwrap())
        .spawn()
        .unwrap();
    assert!(publisher.wait().unwrap().success());
    assert!(subscriber.wait().unwrap().success());
    assert!(reader.join().unwrap() == text);
}

#[test]
fn a_message_larger_than_the_other_broker_takes_holds_nothing_up() {
    let folder = Folder::new();
    let remote = Broker::on_cores(1);
    let lines = "topic # both 2\nbridge_max_packet_size 1000";
    let before = "max_packet_size 5000\nfastmq_admin_listener 0 127.0.0.1";
    let mut local = bridged(&folder, before, &at(remote.port()), lines);
    linked(&mut local);
    let mut here = client(Version::V311, "here", &local);
    let mut there = client(Version::V311, "there", &remote);
    here.subscribe("there", 2);
    there.subscribe("here", 2);
    for qos in 0..3 {
        here.publish("here", &"x".repeat(2000), qos);
        here.publish("here", "small", qos);
        assert_eq!(there.receive().payload, "small");
        there.publish("there", &"x".repeat(9_000), qos);
        there.publish("there", "small", qos);
        assert_eq!(here.receive().payload, "small");
    }
    local.wait_to_say("larger than the other broker takes");
    // What the watch sees once a second.
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metrics = metrics(&local);
        let has = |line: &str| metrics.lines().any(|it| it == line);
        if has("fastmq_bridge_messages_dropped_total{bridge=\"there\"} 6") {
            assert!(
                has("fastmq_bridge_messages_sent_total{bridge=\"there\"} 3"),
                "{metrics}"
            );
            assert!(
                has("fastmq_bridge_messages_received_total{bridge=\"there\"} 3"),
                "{metrics}"
            );
            assert!(
                has("fastmq_bridge_connected{bridge=\"there\"} 1"),
                "{metrics}"
            );
            break;
        }
        assert!(Instant::now() < deadline, "{metrics}");
        thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn a_bridge_to_mosquitto_carries_messages_both_ways() {
    let Some(program) = mosquitto::program() else {
        return;
    };
    let other_folder = Folder::new();
    let other = Mosquitto::start(
        &program,
        other_folder.path(),
        "allow_anonymous true\nuser root\n",
    );
    for (version, spoken) in [
        (Version::V311, "mqttv31"),
        (Version::V311, "mqttv311"),
        (Version::V5, "mqttv50"),
    ] {
        let folder = Folder::new();
        let lines = format!("bridge_protocol_version {spoken}\ntopic # both 2 l/ r/");
        let mut local = bridged(&folder, "", &at(other.port), &lines);
        linked(&mut local);
        let mut here = client(version, "here", &local);
        let mut there = Options::new(version, "there").connect(other.port);
        here.subscribe("l/#", 2);
        there.subscribe("r/#", 2);
        for qos in 0..3 {
            here.publish("l/a", "out", qos);
            assert_eq!(there.receive().topic_name, "r/a");
            assert_eq!(here.receive().topic_name, "l/a");
            there.publish("r/b", "in", qos);
            assert_eq!(here.receive().topic_name, "l/b");
            assert_eq!(there.receive().topic_name, "r/b");
        }
        here.receive_nothing();
        there.receive_nothing();
    }
}

/// A remote broker that the test plays.
struct Played {
    listener: TcpListener,
    version: Version,
}

impl Played {
    fn new(version: Version) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Self { listener, version }
    }

    fn address(&self) -> String {
        at(self.listener.local_addr().unwrap().port())
    }

    /// The lines that have the bridge speak this version.
    fn lines(&self) -> &str {
        match self.version {
            Version::V311 => "notifications false\n",
            Version::V5 => "notifications false\nbridge_protocol_version mqttv50\n",
        }
    }

    /// A packet with a Packet Identifier, and what follows that.
    fn packet(&self, first_byte: u8, identifier: [u8; 2], rest: &[u8]) -> Vec<u8> {
        raw::packet(first_byte, &[&identifier[..], rest].concat())
    }

    fn publish(&self, topic_name: &str, qos: u8, identifier: u16, payload: &str) -> Vec<u8> {
        let mut body = raw::string(topic_name);
        body.extend(identifier.to_be_bytes());
        if self.version == Version::V5 {
            body.push(0);
        }
        body.extend(payload.bytes());
        raw::packet(0x30 | qos << 1, &body)
    }

    /// Accepts a connection and CONNECT.
    fn accept(&self, session_present: bool) -> Raw {
        let mut bridge = Raw::accept(&self.listener);
        let (first_byte, _) = bridge.receive().unwrap();
        assert_eq!(first_byte, 0x10);
        let connack = [u8::from(session_present), 0, 0];
        let size = if self.version == Version::V5 { 3 } else { 2 };
        bridge.send(&raw::packet(0x20, &connack[..size]));
        bridge
    }

    /// The next packet that is no question; those are answered.
    fn receive(&self, bridge: &mut Raw) -> Option<(u8, Vec<u8>)> {
        loop {
            let (first_byte, body) = bridge.receive()?;
            let is_v5 = self.version == Version::V5;
            let answer: (u8, &[u8]) = match (first_byte, is_v5) {
                (0x82, false) => (0x90, &[2]),
                (0x82, true) => (0x90, &[0, 2]),
                (0xa2, false) => (0xb0, &[]),
                (0xa2, true) => (0xb0, &[0, 0]),
                _ => return Some((first_byte, body)),
            };
            bridge.send(&self.packet(answer.0, [body[0], body[1]], answer.1));
        }
    }
}

/// [MQTT-4.3.3-10], [MQTT-3.3.4-7]
#[test]
fn a_remote_broker_that_loses_its_session_within_exchanges_of_qos_2_is_heard_as_before() {
    for version in VERSIONS {
        for is_reused in [true, false] {
            let folder = Folder::new();
            let remote = Played::new(version);
            let lines = format!("topic # in 2\n{}", remote.lines());
            let local = bridged(&folder, "", &remote.address(), &lines);
            let mut here = client(version, "here", &local);
            here.subscribe("#", 2);
            let mut number = 0;
            // More in all than this broker takes at once.
            for _ in 0..3 {
                let mut bridge = remote.accept(false);
                for index in 0..15 {
                    number += 1;
                    let identifier = if is_reused { index + 1 } else { number };
                    let text = number.to_string();
                    bridge.send(&remote.publish("a", 2, identifier, &text));
                    let (first_byte, body) = remote.receive(&mut bridge).unwrap();
                    let said = (first_byte, [body[0], body[1]]);
                    assert_eq!(said, (0x50, identifier.to_be_bytes()), "{}", local.stderr());
                    assert_eq!(here.receive().payload, text);
                }
            }
        }
    }
}

/// A port that takes no more connections and refuses none: SYN is not answered.
fn unanswered() -> (u16, TcpListener, Vec<socket2::Socket>) {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    let any: std::net::SocketAddr = "127.0.0.1:0".parse().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(0).unwrap();
    let listener = TcpListener::from(socket);
    let address = listener.local_addr().unwrap();
    let fill = |_| {
        let socket =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _ = socket.connect(&address.into());
        socket
    };
    let full = (0..4).map(fill).collect();
    (address.port(), listener, full)
}

#[test]
fn a_bridge_that_waits_for_its_connection_can_be_ended_and_changed() {
    let folder = Folder::new();
    let (port, _listener, _full) = unanswered();
    let mut local = bridged(&folder, "", &at(port), "topic # out 1");
    local.wait_to_say("Connecting bridge there");
    let remote = Broker::on_cores(1);
    let text = |address: &str| {
        format!(
            "listener 0 127.0.0.1\nallow_anonymous true\nconnection there\naddress {address}\n\
             bridge_reload_type immediate\ntopic # out 1\n"
        )
    };
    folder.write("bridged.conf", text(&at(remote.port())));
    local.signal(rustix::process::Signal::HUP);
    linked(&mut local);
    folder.write("bridged.conf", text(&at(port)));
    local.signal(rustix::process::Signal::HUP);
    local.wait_to_say(&format!("Connecting bridge there ({})", at(port)));
    let before = Instant::now();
    local.terminate();
    local.wait(PATIENCE).unwrap();
    // There is nobody to say goodbye to.
    assert!(
        before.elapsed() < Duration::from_secs(1),
        "{}",
        local.stderr()
    );
}

#[test]
fn a_bridge_with_another_name_goes_on_with_the_session_it_had() {
    let folder = Folder::new();
    let remote = Played::new(Version::V311);
    let text = |name: &str| {
        format!(
            "listener 0 127.0.0.1\nallow_anonymous true\nconnection {name}\naddress {}\n\
             local_clientid l\nremote_clientid r\ntopic # out 1\n",
            remote.address()
        )
    };
    let file = folder
        .write("bridged.conf", text("here"))
        .display()
        .to_string();
    let mut local = Broker::start_configured(&["-c", &file, "--cores", "2", "--oversubscribe"]);
    let mut here = client(Version::V311, "here", &local);
    here.subscribe("$SYS/broker/connection/#", 1);
    assert_eq!(here.receive().payload, "0");
    // Nobody has answered CONNECT yet.
    here.publish("a", "before", 1);
    folder.write("bridged.conf", text("there"));
    local.signal(rustix::process::Signal::HUP);
    local.wait_to_say("Bridge here is gone");
    here.publish("a", "after", 1);
    let _first = Raw::accept(&remote.listener);
    let mut second = remote.accept(false);
    for payload in ["before", "after"] {
        let (mut first_byte, mut body) = remote.receive(&mut second).unwrap();
        if first_byte == 0x31 {
            // Its state.
            (first_byte, body) = remote.receive(&mut second).unwrap();
        }
        // Its Session may have been sent it before, and been left.
        assert_eq!(first_byte & !0x08, 0x32);
        assert!(body.ends_with(payload.as_bytes()));
    }
    assert!(
        !local.stderr().contains("this broker"),
        "{}",
        local.stderr()
    );
    let mut told = Vec::new();
    while told.last().is_none_or(|it| it != "1") {
        told.push(here.receive().payload);
    }
    assert!(
        told[..told.len() - 1].iter().all(|it| it == "0"),
        "{told:?}"
    );
}

#[test]
fn a_bridge_that_is_gone_and_back_at_once_has_nothing_taken_from_it_by_the_one_before() {
    let folder = Folder::new();
    let remote = Played::new(Version::V311);
    let lines = format!("topic # out 1\n{}", remote.lines());
    let mut local = bridged(&folder, "", &remote.address(), &lines);
    // It does not close the connection, so the first one takes its time to leave.
    let _first = remote.accept(false);
    linked(&mut local);
    let text = std::fs::read_to_string(folder.file("bridged.conf")).unwrap();
    let none = "listener 0 127.0.0.1\nallow_anonymous true\n";
    for (text, times) in [(none, 1), (&text, 2)] {
        folder.write("bridged.conf", text);
        local.signal(rustix::process::Signal::HUP);
        local.wait_to_say_times("Reloading config.", times);
    }
    let mut second = remote.accept(true);
    local.wait_to_say_times("Bridge there is connected", 2);
    let mut here = client(Version::V311, "here", &local);
    // For longer than a goodbye may take.
    for number in 0..15 {
        here.publish("a", &number.to_string(), 1);
        let (first_byte, body) = remote.receive(&mut second).unwrap();
        assert_eq!(first_byte, 0x32);
        second.send(&raw::packet(0x40, &body[3..5]));
        thread::sleep(Duration::from_millis(100));
    }
    assert!(
        !local.stderr().contains("connecting again"),
        "{}",
        local.stderr()
    );
}

#[test]
fn a_bridge_that_connects_once_does_so_again_when_it_is_changed_and_leaves_nothing_behind() {
    let folder = Folder::new();
    let remote = Played::new(Version::V311);
    let lines = "topic a out 1\nstart_type once\nremote_clientid r\nlocal_clientid l";
    let mut local = bridged(&folder, "", &remote.address(), lines);
    let mut reloads = 0;
    let mut reload = |local: &mut Broker, text: &str| {
        reloads += 1;
        folder.write("bridged.conf", text);
        local.signal(rustix::process::Signal::HUP);
        local.wait_to_say_times("Reloading config.", reloads);
    };
    drop(remote.accept(false));
    local.wait_to_say("Bridge there has ended");
    let text = std::fs::read_to_string(folder.file("bridged.conf")).unwrap();
    reload(&mut local, &text);
    reload(&mut local, &text.replace("topic a", "topic b"));
    drop(remote.accept(false));
    local.wait_to_say_times("Bridge there has ended", 2);
    assert_eq!(local.stderr().matches("Connecting bridge").count(), 2);
    let mut here = client(Version::V311, "here", &local);
    here.subscribe("$SYS/broker/connection/#", 1);
    assert_eq!(here.receive().payload, "0");
    reload(&mut local, "listener 0 127.0.0.1\nallow_anonymous true\n");
    assert_eq!(here.receive().payload, "");
    let session = Options::new(Version::V311, "l").persistent();
    assert!(!session.connect(local.port()).session_present());
}

/// What a broker says that does not know of bridges [v3.1.1 MQTT-3.1.2-2].
#[test]
fn a_remote_broker_that_takes_no_bridge_is_told_of_a_client() {
    let folder = Folder::new();
    let remote = Played::new(Version::V311);
    let lines = format!("topic # out 1\n{}", remote.lines());
    let mut local = bridged(&folder, "", &remote.address(), &lines);
    let mut bridge = Raw::accept(&remote.listener);
    let (_, connect) = bridge.receive().unwrap();
    assert_eq!(connect[6], 0x84);
    bridge.send(&raw::packet(0x20, &[0, 1]));
    let mut bridge = Raw::accept(&remote.listener);
    let (_, connect) = bridge.receive().unwrap();
    assert_eq!(connect[6], 0x04);
    // It is no bridge that this is about any more.
    bridge.send(&raw::packet(0x20, &[0, 1]));
    local.wait_to_say("refused the connection");
    let mut bridge = remote.accept(false);
    linked(&mut local);
    let mut here = client(Version::V311, "here", &local);
    here.publish("a", "x", 1);
    let (first_byte, _) = remote.receive(&mut bridge).unwrap();
    assert_eq!(first_byte, 0x32);
}

#[test]
fn what_a_reload_takes_from_a_bridge_does_not_wait_for_it_while_the_remote_broker_is_away() {
    let folder = Folder::new();
    let remote = Played::new(Version::V311);
    let lines = format!("topic a out 1\ntopic b out 1\n{}", remote.lines());
    let mut local = bridged(&folder, "", &remote.address(), &lines);
    let text = std::fs::read_to_string(folder.file("bridged.conf")).unwrap();
    let text = text.replace("topic a out 1", "bridge_reload_type immediate");
    local.wait_to_say("Connecting bridge there");
    folder.write("bridged.conf", text);
    local.signal(rustix::process::Signal::HUP);
    // The remote broker has not answered either connection.
    local.wait_to_say_times("Connecting bridge there", 2);
    let mut here = client(Version::V311, "here", &local);
    here.publish("a", "after", 1);
    here.publish("b", "after", 1);
    let _first = Raw::accept(&remote.listener);
    let mut second = remote.accept(false);
    let (first_byte, body) = remote.receive(&mut second).unwrap();
    assert_eq!((first_byte, &body[..3]), (0x32, &b"\0\x01b"[..]));
    assert!(
        !local.stderr().contains("was not passed on"),
        "{}",
        local.stderr()
    );
}
