//! `fastmq sub` and `fastmq pub` as processes, against the broker and against brokers that refuse.

#![forbid(unsafe_code)]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::thread;

use tungstenite::Message;
use tungstenite::handshake::server::{Request, Response};

use support::raw::Raw;
use support::{Broker, PATIENCE, command};

const VERSIONS: [&str; 3] = ["mqttv31", "mqttv311", "mqttv5"];

/// `fastmq sub` or `fastmq pub` for this port, without the default options of whoever runs the tests.
fn client(name: &str, port: u16, arguments: &[&str]) -> Command {
    let mut command = command();
    command
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args([name, "-h", "127.0.0.1", "-p", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null());
    command
}

fn run(command: &mut Command) -> Output {
    command
        .output()
        .expect("the client was built with these tests")
}

/// Publishes, which has to work.
fn publish(broker: &Broker, arguments: &[&str]) {
    let output = run(&mut client("pub", broker.port(), arguments));
    assert!(output.status.success(), "{arguments:?}: {output:?}");
}

/// Publishes with something on standard input. The exit status.
fn publish_input(broker: &Broker, arguments: &[&str], input: &[u8]) -> Option<i32> {
    let mut child = client("pub", broker.port(), arguments)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    child.wait().unwrap().code()
}

fn code(output: &Output) -> Option<i32> {
    output.status.code()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A `fastmq sub --debug` that is subscribed.
struct Subscribed {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Subscribed {
    fn start(broker: &Broker, arguments: &[&str]) -> Self {
        let mut child = client("sub", broker.port(), &["--debug", "-W", "20"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        while !line.starts_with("Subscribed (mid: ") {
            line.clear();
            let read = lines.read_line(&mut line).unwrap();
            assert_ne!(read, 0, "it ended before it was subscribed");
        }
        Self { child, lines }
    }

    /// What it printed until it ended, without what `--debug` adds, and its exit status.
    fn end(mut self) -> (Vec<String>, Option<i32>) {
        let lines = self.lines.lines().map(Result::unwrap);
        let lines = lines.filter(|line| !line.starts_with("Client ")).collect();
        (lines, self.child.wait().unwrap().code())
    }
}

/// A broker that answers each of a client's packets with these bytes and then closes. Its port.
fn broker_that_answers(answers: &[&'static [u8]]) -> u16 {
    let answers = answers.to_vec();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for answer in answers {
            // One write of the client is one packet, and short enough for one read.
            let _ = stream.read(&mut [0; 512]).unwrap();
            stream.write_all(answer).unwrap();
        }
        stream.shutdown(Shutdown::Write).unwrap();
        // Until the client ends.
        let _ = stream.read_to_end(&mut Vec::new());
    });
    port
}

#[test]
fn messages_arrive_at_every_qos_in_every_version() {
    let broker = Broker::on_cores(2);
    for version in VERSIONS {
        for qos in ["0", "1", "2"] {
            let topic = format!("{version}/{qos}");
            let of_both = ["-V", version, "-q", qos, "-t", &topic];
            let format = ["-F", "%t %q %r %p", "-C", "3"];
            let subscriber = Subscribed::start(&broker, &[&of_both[..], &format].concat());
            publish(
                &broker,
                &[&of_both[..], &["-m", "again", "--repeat", "2"]].concat(),
            );
            publish(&broker, &[&of_both[..], &["-m", "über"]].concat());
            let (mut lines, status) = subscriber.end();
            // At QoS 0 two connections may overtake each other.
            lines.sort();
            let line = |payload| format!("{topic} {qos} 0 {payload}");
            assert_eq!(lines, [line("again"), line("again"), line("über")]);
            assert_eq!(status, Some(0));
        }
    }
}

#[test]
fn lines_of_standard_input_are_messages_in_order() {
    let broker = Broker::on_cores(1);
    let subscriber = Subscribed::start(&broker, &["-t", "lines", "-q", "1", "-v", "-C", "1003"]);
    let mut input: String = (0..1000).map(|index| format!("line {index}\n")).collect();
    input.push_str("\nthe last but one\nwithout an end");
    let arguments = ["-t", "lines", "-q", "1", "-l"];
    assert_eq!(
        publish_input(&broker, &arguments, input.as_bytes()),
        Some(0)
    );
    let (lines, status) = subscriber.end();
    let expected: Vec<_> = input
        .lines()
        .map(|line| match line {
            "" => "lines (null)".to_owned(),
            line => format!("lines {line}"),
        })
        .collect();
    assert_eq!(lines, expected);
    assert_eq!(status, Some(0));
}

#[test]
fn standard_input_and_files_are_one_message() {
    let broker = Broker::on_cores(1);
    // Larger than the pipes and buffers it passes through, and not text.
    let payload: Vec<u8> = (0..1_000_000_u32)
        .flat_map(u32::to_be_bytes)
        .take(900_001)
        .collect();
    let file = std::env::temp_dir().join(format!("fastmq-clients-{}", std::process::id()));
    fs::write(&file, &payload).unwrap();
    let of_both = ["-t", "whole", "-q", "2", "-r"];
    let receive = || {
        let arguments = ["-t", "whole", "-C", "1", "-W", "20", "-N"];
        let output = run(&mut client("sub", broker.port(), &arguments));
        assert_eq!(code(&output), Some(0), "{}", stderr(&output));
        output.stdout
    };
    let arguments = [&of_both[..], &["-f", file.to_str().unwrap()]].concat();
    publish(&broker, &arguments);
    assert!(receive() == payload, "the file's content");
    publish(&broker, &[&of_both[..], &["-n"]].concat());
    let arguments = [&of_both[..], &["-s"]].concat();
    assert_eq!(publish_input(&broker, &arguments, &payload), Some(0));
    assert!(receive() == payload, "the input's content");
    fs::remove_file(file).unwrap();
}

#[test]
fn no_standard_input_is_no_message_and_clears_nothing() {
    let broker = Broker::on_cores(1);
    publish(&broker, &["-t", "kept", "-q", "1", "-r", "-m", "stays"]);
    let output = run(&mut client(
        "pub",
        broker.port(),
        &["-t", "kept", "-r", "-s"],
    ));
    assert_eq!(code(&output), Some(1));
    let said = stderr(&output);
    assert!(said.contains("Zero length input"), "{said}");
    let arguments = ["-t", "kept", "-C", "1", "-W", "20"];
    let output = run(&mut client("sub", broker.port(), &arguments));
    assert_eq!(stdout(&output), "stays\n");
}

#[test]
fn an_empty_message_is_a_line_of_its_own_or_nothing() {
    let broker = Broker::on_cores(1);
    for (options, printed) in [
        (&["-v"][..], "e (null)\ne m\n"),
        (&["-v", "-N"], "e m"),
        (&["-N"], "m"),
    ] {
        let arguments = [&["-t", "e", "-C", "2"], options].concat();
        let mut subscriber = Subscribed::start(&broker, &arguments);
        publish(&broker, &["-t", "e", "-q", "1", "-n"]);
        publish(&broker, &["-t", "e", "-q", "1", "-m", "m"]);
        let mut text = String::new();
        subscriber.lines.read_to_string(&mut text).unwrap();
        // What --debug adds begins so, and reaches to the end of a line.
        let parts = text.split("Client (null) ");
        let undebugged = parts.map(|part| part.split_once('\n').map_or("", |(_, after)| after));
        assert_eq!(undebugged.collect::<String>(), printed, "{options:?}");
        subscriber.child.wait().unwrap();
    }
}

#[test]
fn retained_only_ends_at_the_first_message_that_is_not() {
    let broker = Broker::on_cores(2);
    for topic in ["kept/1", "kept/2", "kept/3"] {
        publish(&broker, &["-t", topic, "-q", "1", "-r", "-m", topic]);
    }
    let arguments = ["-t", "kept/+", "-T", "kept/2", "--retained-only", "-v"];
    let subscriber = Subscribed::start(&broker, &arguments);
    publish(&broker, &["-t", "kept/4", "-m", "the end"]);
    let (mut lines, status) = subscriber.end();
    lines.sort();
    assert_eq!(lines, ["kept/1 kept/1", "kept/3 kept/3"]);
    assert_eq!(status, Some(0));

    // -R is the opposite.
    let subscriber = Subscribed::start(&broker, &["-t", "kept/+", "-R", "-C", "1"]);
    publish(&broker, &["-t", "kept/4", "-m", "live"]);
    assert_eq!(subscriber.end(), (vec!["live".to_owned()], Some(0)));

    let arguments = ["-t", "kept/#", "--remove-retained", "-C", "3", "-W", "20"];
    let cleared = run(&mut client("sub", broker.port(), &arguments));
    assert_eq!(code(&cleared), Some(0));
    let output = run(&mut client(
        "sub",
        broker.port(),
        &["-t", "kept/#", "-W", "1"],
    ));
    assert_eq!((stdout(&output), code(&output)), (String::new(), Some(27)));
}

#[test]
fn a_time_that_is_over_has_a_status_of_its_own() {
    let broker = Broker::on_cores(1);
    let output = run(&mut client(
        "sub",
        broker.port(),
        &["-t", "silence", "-W", "1"],
    ));
    assert_eq!(code(&output), Some(27));
    assert_eq!(
        (stdout(&output), stderr(&output)),
        (String::new(), "Timed out\n".to_owned())
    );
    let quiet = ["-t", "silence", "-W", "1", "--quiet"];
    let output = run(&mut client("sub", broker.port(), &quiet));
    assert_eq!((code(&output), stderr(&output)), (Some(27), String::new()));
}

#[test]
fn subscribing_is_enough_where_it_was_asked_for() {
    let broker = Broker::on_cores(1);
    let arguments = ["-t", "a", "-t", "b/#", "-U", "c", "-E", "-V", "mqttv5"];
    let output = run(&mut client("sub", broker.port(), &arguments));
    assert_eq!((code(&output), stdout(&output)), (Some(0), String::new()));
}

#[test]
fn a_will_is_published_for_a_client_that_dies_and_not_for_one_that_leaves() {
    let broker = Broker::on_cores(2);
    let observer = Subscribed::start(&broker, &["-t", "will/+", "-v", "-q", "1", "-C", "2"]);
    let with_will = |version, topic| {
        let will = [
            "--will-topic",
            topic,
            "--will-payload",
            "gone",
            "--will-qos",
            "1",
        ];
        Subscribed::start(&broker, &[&["-V", version, "-t", "x"][..], &will].concat())
    };
    let mut done = client("sub", broker.port(), &["-t", "x", "-E", "-i", "done"]);
    let done = run(done.args(["--will-topic", "will/done", "-V", "mqttv5"]));
    assert_eq!(code(&done), Some(0));
    // An interruption is no reason for a Will in MQTT 3.1.1, and is one in 5.0, as Mosquitto has it.
    for (version, topic) in [
        ("mqttv311", "will/left"),
        ("mqttv5", "will/was-interrupted"),
    ] {
        let subscriber = with_will(version, topic);
        let process_id = rustix::process::Pid::from_child(&subscriber.child);
        rustix::process::kill_process(process_id, rustix::process::Signal::INT).unwrap();
        assert_eq!(subscriber.end().1, Some(0), "{version}");
    }
    let mut died = with_will("mqttv311", "will/died");
    died.child.kill().unwrap();
    died.child.wait().unwrap();
    let (mut lines, _) = observer.end();
    lines.sort();
    assert_eq!(lines, ["will/died gone", "will/was-interrupted gone"]);
}

#[test]
fn a_session_that_is_kept_brings_what_was_missed() {
    let broker = Broker::on_cores(2);
    let of_sub = [
        "-V", "mqttv5", "-c", "-i", "keeper", "-t", "missed", "-q", "1",
    ];
    let subscribed = run(&mut client(
        "sub",
        broker.port(),
        &[&of_sub[..], &["-E"]].concat(),
    ));
    assert_eq!(code(&subscribed), Some(0));
    let input = b"one\ntwo\nthree\n";
    let of_pub = ["-t", "missed", "-q", "1", "-l"];
    assert_eq!(publish_input(&broker, &of_pub, input), Some(0));
    // What is not taken stays in the session.
    for (count, expected) in [("2", "one\ntwo\n"), ("1", "three\n")] {
        let arguments = [&of_sub[..], &["-C", count, "-W", "20"]].concat();
        let output = run(&mut client("sub", broker.port(), &arguments));
        assert_eq!(
            (stdout(&output).as_str(), code(&output)),
            (expected, Some(0))
        );
    }
}

#[test]
fn properties_travel_from_publisher_to_subscriber() {
    let broker = Broker::on_cores(1);
    let format = "%C|%R|%D|%F|%P|%S|%t|%p";
    let arguments = ["-V", "mqttv5", "-t", "p/#", "-F", format, "-C", "1"];
    let identifier = ["-D", "subscribe", "subscription-identifier", "7"];
    let subscriber = Subscribed::start(&broker, &[&arguments[..], &identifier].concat());
    let mut of_pub = vec!["-t", "p/1", "-m", "{}"];
    for property in [
        &["content-type", "json"][..],
        &["response-topic", "answers"],
        &["correlation-data", "abc"],
        &["payload-format-indicator", "1"],
        &["user-property", "name", "value"],
    ] {
        of_pub.extend(["-D", "publish"]);
        of_pub.extend(property);
    }
    // -D alone asks for MQTT 5.
    publish(&broker, &of_pub);
    let line = "json|answers|abc|1|name:value|7|p/1|{}".to_owned();
    assert_eq!(subscriber.end(), (vec![line], Some(0)));
}

#[test]
fn json_format_holds_what_mosquitto_s_holds() {
    let broker = Broker::on_cores(1);
    publish(&broker, &["-t", "j", "-q", "1", "-r", "-m", "[1, \"x\"]"]);
    for (format, payload) in [("%j", r#""[1, \"x\"]""#), ("%J", r#"[1, "x"]"#)] {
        let arguments = ["-t", "j", "-F", format, "-C", "1", "-W", "20"];
        let output = stdout(&run(&mut client("sub", broker.port(), &arguments)));
        let value: serde_json::Value = serde_json::from_str(&output).unwrap();
        let expected: serde_json::Value = serde_json::from_str(payload).unwrap();
        assert_eq!(value["payload"], expected, "{output}");
        assert_eq!((&value["topic"], &value["qos"]), (&"j".into(), &0.into()));
        assert_eq!(
            (&value["retain"], &value["payloadlen"]),
            (&1.into(), &8.into())
        );
        assert!(value["tst"].as_str().unwrap().contains('T'), "{output}");
    }
}

#[test]
fn a_url_says_everything() {
    let broker = Broker::on_cores(1);
    let url = format!("mqtt://127.0.0.1:{}/from/url", broker.port());
    let output = command()
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args(["pub", "-L", &url, "-m", "m", "-r", "-q", "1"])
        .output()
        .unwrap();
    assert_eq!(code(&output), Some(0), "{}", stderr(&output));
    let output = command()
        .env("XDG_CONFIG_HOME", "/nonexistent")
        .args(["sub", "-L", &url, "-v", "-C", "1", "-W", "20"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "from/url m\n");
}

#[test]
fn default_options_come_from_the_user_s_file() {
    let broker = Broker::on_cores(1);
    publish(&broker, &["-t", "d", "-r", "-q", "1", "-m", "m"]);
    let folder: PathBuf = std::env::temp_dir().join(format!("fastmq-xdg-{}", std::process::id()));
    fs::create_dir(&folder).unwrap();
    let file = format!(
        "# mine\n-h 127.0.0.1\n-p {}\n-t d\n-F %t: %p\n",
        broker.port()
    );
    fs::write(folder.join("fastmq_sub"), file).unwrap();
    let output = command()
        .env("XDG_CONFIG_HOME", &folder)
        .args(["sub", "-C", "1", "-W", "20"])
        .output()
        .unwrap();
    assert_eq!(stdout(&output), "d: m\n", "{}", stderr(&output));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_web_socket_speaks_mqtt_in_binary_frames_only() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let broker = thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        // [MQTT-6.0.0-3]: the subprotocol has to be asked for.
        #[allow(clippy::result_large_err, reason = "the library wants it so")]
        let check = |request: &Request, mut response: Response| {
            assert_eq!(request.uri().path(), "/here");
            let asked = &request.headers()["sec-websocket-protocol"];
            assert_eq!(asked, "mqtt");
            let headers = response.headers_mut();
            headers.insert("sec-websocket-protocol", asked.clone());
            Ok(response)
        };
        let mut socket = tungstenite::accept_hdr(stream, check).unwrap();
        let connect = socket.read().unwrap();
        assert!(connect.is_binary(), "[MQTT-6.0.0-1]: {connect:?}");
        assert_eq!(connect.into_data()[0], 0x10);
        let connack = Message::Binary(vec![0x20, 2, 0, 0].into());
        socket.send(connack).unwrap();
        assert_eq!(socket.read().unwrap().into_data()[0], 0x82);
        // A packet may be cut anywhere; text is not MQTT.
        for part in [&[0x90, 3, 0][..], &[1, 0, 0x30, 4, 0], &[1, b't', b'm']] {
            socket.send(Message::Binary(part.to_vec().into())).unwrap();
        }
        // Many frames that come together are read without waiting for more.
        for _ in 0..100 {
            let publish = Message::Binary(vec![0x30, 4, 0, 1, b't', b'x'].into());
            socket.write(publish).unwrap();
        }
        socket.send(Message::Text("hello".into())).unwrap();
        while socket.read().is_ok() {}
    });
    let arguments = ["--ws", "--ws-path", "/here", "-t", "t", "-W", "20"];
    let output = run(&mut client("sub", port, &arguments));
    let expected = format!("m\n{}", "x\n".repeat(100));
    assert_eq!(stdout(&output), expected, "{}", stderr(&output));
    assert_eq!(code(&output), Some(2));
    assert!(stderr(&output).contains("text"), "{}", stderr(&output));
    broker.join().unwrap();
}

#[test]
fn a_refused_connection_ends_with_the_broker_s_code() {
    let cases: [(&str, &[u8], i32, &str); 4] = [
        (
            "mqttv311",
            &[0x20, 2, 0, 5],
            5,
            "Connection error: Connection Refused: not authorised.\n",
        ),
        (
            "mqttv311",
            &[0x20, 2, 0, 4],
            4,
            "Connection error: Connection Refused: bad user name or password.\n",
        ),
        (
            "mqttv5",
            &[0x20, 3, 0, 0x87, 0],
            135,
            "Connection error: Not authorized\n",
        ),
        (
            "mqttv5",
            &[0x20, 3, 0, 0x86, 0],
            134,
            "Connection error: Bad User Name or Password\n",
        ),
    ];
    for (version, answer, expected, said) in cases {
        for (name, what) in [("sub", &[][..]), ("pub", &["-m", "m"][..])] {
            let port = broker_that_answers(&[answer]);
            let arguments = [&["-V", version, "-t", "t"][..], what].concat();
            let output = run(&mut client(name, port, &arguments));
            assert_eq!(
                (code(&output), stderr(&output).as_str()),
                (Some(expected), said),
                "{name}"
            );
        }
    }
}

#[test]
fn a_refused_subscription_is_said_and_ends_the_subscriber() {
    let port = broker_that_answers(&[&[0x20, 2, 0, 0], &[0x90, 3, 0, 1, 0x80]]);
    let output = run(&mut client("sub", port, &["-t", "secret"]));
    assert_eq!(code(&output), Some(128));
    assert_eq!(stderr(&output), "All subscription requests were denied.\n");
}

#[test]
fn a_message_that_was_refused_ends_with_the_broker_s_code() {
    let port = broker_that_answers(&[&[0x20, 3, 0, 0, 0], &[0x40, 3, 0, 1, 0x87]]);
    let arguments = ["-V", "mqttv5", "-q", "1", "-t", "secret", "-m", "m"];
    let output = run(&mut client("pub", port, &arguments));
    assert_eq!(code(&output), Some(135));
    assert_eq!(
        stderr(&output),
        "Warning: Publish 1 failed: Not authorized.\n"
    );
}

#[test]
fn a_broker_that_is_not_there_or_not_a_broker_is_said() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let output = run(&mut client("pub", nobody, &["-t", "t", "-m", "m"]));
    assert_eq!(code(&output), Some(1));
    assert!(
        stderr(&output).contains("Connection refused"),
        "{}",
        stderr(&output)
    );

    let port = broker_that_answers(&[&[0x49; 100]]);
    let output = run(&mut client("pub", port, &["-t", "t", "-m", "m"]));
    assert_eq!(code(&output), Some(2), "{}", stderr(&output));
    assert!(
        stderr(&output).contains("broke the protocol"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn options_that_cannot_be_meant_are_named_and_end_with_1() {
    let cases: [(&str, &[&str], &str); 15] = [
        ("sub", &[], "You must specify a topic to subscribe to."),
        (
            "sub",
            &["-t", "a/#/b"],
            "Invalid subscription topic 'a/#/b'",
        ),
        ("sub", &["-t", "a", "-q", "3"], "--qos"),
        ("sub", &["-t", "a", "-F", "%z"], "-F"),
        ("sub", &["-t", "a", "--retain-as-published"], "-V mqttv5"),
        ("sub", &["-t", "a", "--no-such-option"], "--no-such-option"),
        ("sub", &["-t", "a", "-i", ""], "-i is empty"),
        ("sub", &["-t", "a", "--psk", "aa"], "--psk is refused: TLS"),
        (
            "sub",
            &["-t", "a", "--ciphers", "A"],
            "--ciphers is refused",
        ),
        ("pub", &["--proxy", "socks5h://h"], "--proxy is refused"),
        (
            "pub",
            &["-t", "a"],
            "Both topic and message must be supplied",
        ),
        (
            "pub",
            &["-t", "a/#", "-m", "m"],
            "Invalid publish topic 'a/#'",
        ),
        ("pub", &["-t", "a", "-m", "m", "-n"], "only one of"),
        ("pub", &["-t", "a", "-m", "m", "-P", "x"], "-P needs -u"),
        (
            "pub",
            &["-t", "a", "-f", "/nonexistent/file"],
            "/nonexistent/file",
        ),
    ];
    for (name, arguments, named) in cases {
        let output = run(&mut client(name, 1, arguments));
        assert_eq!(code(&output), Some(1), "{name} {arguments:?}");
        let said = stderr(&output);
        assert!(
            said.contains(named),
            "{name} {arguments:?} should say {named}: {said}"
        );
    }
}

#[test]
fn a_subscriber_outlives_a_broker_that_restarts() {
    // At an address of its own, so that no other test can be given the port in between.
    let arguments = ["--cores", "1", "--bind", "127.61.0.1"];
    let at_address = ["-h", "127.61.0.1", "-t", "after", "-q", "1"];
    let mut first = Broker::start(&arguments);
    let mut subscriber = Subscribed::start(&first, &[&at_address[..], &["-C", "1"]].concat());
    first.terminate();
    first.wait(PATIENCE).expect("it ends");
    let second = Broker::start_on(first.port(), &arguments);
    let mut line = String::new();
    while !line.starts_with("Subscribed (mid: ") {
        line.clear();
        assert_ne!(
            subscriber.lines.read_line(&mut line).unwrap(),
            0,
            "it connects again"
        );
    }
    publish(&second, &[&at_address[..], &["-m", "still here"]].concat());
    assert_eq!(subscriber.end(), (vec!["still here".to_owned()], Some(0)));
}

#[test]
fn a_session_taken_over_is_not_fought_for() {
    let broker = Broker::on_cores(1);
    let arguments = ["-V", "mqttv5", "-i", "mine", "-t", "t"];
    let subscriber = Subscribed::start(&broker, &arguments);
    let _other = Raw::connect(broker.port(), 5, "mine");
    let (lines, status) = subscriber.end();
    assert_eq!((lines.len(), status), (0, Some(0x8e)));
}
