//! The broker as operators configure it: TLS with client certificates, WebSockets, PROXY headers, unix
//! sockets, and certificates that are replaced while it runs.

#![forbid(unsafe_code)]

#[path = "support/authority.rs"]
mod authority;
mod support;

use authority::{Authority, Leaf};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use support::folder::Folder;
use support::{Broker, PATIENCE};
use tungstenite::client::IntoClientRequest;

/// CONNECT of a 3.1.1 Client with Clean Session and this identifier.
fn connect_packet(identifier: &str) -> Vec<u8> {
    let size = 12 + identifier.len() as u8;
    let mut bytes = vec![0x10, size, 0, 4, b'M', b'Q', b'T', b'T', 4, 2, 0, 60];
    bytes.extend([0, identifier.len() as u8]);
    bytes.extend_from_slice(identifier.as_bytes());
    bytes
}

const ACCEPTED: [u8; 4] = [0x20, 2, 0, 0];

/// Connects as an MQTT Client and tells whether it was accepted.
fn greet(mut stream: impl Read + Write, identifier: &str) -> std::io::Result<bool> {
    stream.write_all(&connect_packet(identifier))?;
    stream.flush()?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)?;
    Ok(answer == ACCEPTED)
}

fn tcp(port: u16) -> TcpStream {
    let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn tls<S: Read + Write>(
    stream: S,
    authority: &Authority,
    leaf: Option<&Leaf>,
) -> StreamOwned<ClientConnection, S> {
    StreamOwned::new(authority.client_session(leaf), stream)
}

/// Waits for `wanted` in what the broker has said.
fn wait_for(broker: &Broker, wanted: &str) {
    let deadline = Instant::now() + PATIENCE;
    while !broker.stderr().contains(wanted) {
        assert!(Instant::now() < deadline, "it never said {wanted:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A broker with listeners of this configuration, and their ports in its order.
fn start(folder: &Folder, listeners: &str, count: usize) -> (Broker, Vec<u16>) {
    let text = format!("log_type all\nallow_anonymous true\n{listeners}");
    let file = folder.write("fastmq.conf", text);
    let broker = Broker::start(&[
        "--cores",
        "2",
        "--oversubscribe",
        "-c",
        file.to_str().unwrap(),
    ]);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let ports: Vec<u16> = broker
            .stderr()
            .lines()
            .filter_map(|line| line.split_once("listening on 127.0.0.1:"))
            .filter_map(|(_, port)| port.trim().parse().ok())
            .collect();
        if ports.len() == count {
            return (broker, ports);
        }
        assert!(Instant::now() < deadline, "{} listeners", ports.len());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Certificate and key of the listener.
fn write_server(folder: &Folder, authority: &Authority) -> String {
    let leaf = authority.server();
    let certificate = folder.write("server.crt", leaf.certificate);
    let key = folder.write("server.key", leaf.key);
    format!(
        "certfile {}\nkeyfile {}\n",
        certificate.display(),
        key.display()
    )
}

#[test]
fn clients_are_who_their_certificates_say_and_revoked_ones_are_nobody() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let (alice, bob) = (authority.client("alice"), authority.client("bob"));
    let served = write_server(&folder, &authority);
    let cafile = folder.write("ca.crt", authority.certificate());
    let crlfile = folder.write("ca.crl", authority.revoke(&[&bob]));
    let (broker, ports) = start(
        &folder,
        &format!(
            "listener 0 127.0.0.1\n{served}cafile {}\ncrlfile {}\nrequire_certificate true\n\
             use_identity_as_username true\n",
            cafile.display(),
            crlfile.display()
        ),
        1,
    );
    // Each of them goes to one of two shards.
    for number in 0..6 {
        let identifier = format!("sensor-{number}");
        assert!(greet(tls(tcp(ports[0]), &authority, Some(&alice)), &identifier).unwrap());
        wait_for(
            &broker,
            &format!(" as {identifier} (p2, c1, k60, u'alice')"),
        );
    }
    // An error, or bytes that are no CONNACK, such as an alert that is not encrypted.
    let is_greeted = |greeted: std::io::Result<bool>| greeted.unwrap_or(false);
    let revoked = tls(tcp(ports[0]), &authority, Some(&bob));
    assert!(!is_greeted(greet(revoked, "bob")));
    let anonymous = tls(tcp(ports[0]), &authority, None);
    assert!(!is_greeted(greet(anonymous, "nobody")));
    assert!(!is_greeted(greet(tcp(ports[0]), "plain")));
    assert!(!broker.stderr().contains(" as bob"));
}

#[test]
fn tls_handshakes_that_fail_are_notices_and_a_flood_of_them_is_a_few_lines() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let served = write_server(&folder, &authority);
    let file = folder.write(
        "fastmq.conf",
        format!("log_type notice\nlog_type information\nallow_anonymous true\nlistener 0 127.0.0.1\n{served}"),
    );
    let broker = Broker::start_configured(&["-c", file.to_str().unwrap(), "--cores", "1"]);
    let fail = || {
        let mut stream = tcp(broker.port());
        stream.write_all(b"\x10\x0dno TLS at all").unwrap();
        // An alert, and the end.
        let _ = stream.read_to_end(&mut Vec::new());
    };
    fail();
    wait_for(&broker, "Client connection from 127.0.0.1");
    for _ in 0..100 {
        fail();
    }
    let lines = |said: &str| said.matches("Client connection from").count();
    assert!(lines(&broker.stderr()) < 50, "{}", broker.stderr());
    // What was left out is said with the next one.
    let deadline = Instant::now() + PATIENCE;
    while !broker.stderr().contains(" more since the last such line)") {
        assert!(Instant::now() < deadline, "{}", broker.stderr());
        std::thread::sleep(Duration::from_millis(100));
        fail();
    }
}

#[test]
fn the_secrets_of_connections_are_in_the_key_log_that_was_asked_for() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let served = write_server(&folder, &authority);
    let text = format!("user root\nallow_anonymous true\nlistener 0 127.0.0.1\n{served}");
    let file = folder.write("fastmq.conf", text);
    let secrets = folder.path().join("secrets");
    let broker = Broker::start_configured(&[
        "-c",
        file.to_str().unwrap(),
        "--cores",
        "1",
        "--tls-keylog",
        secrets.to_str().unwrap(),
    ]);
    assert!(greet(tls(tcp(broker.port()), &authority, None), "watched").unwrap());
    let secrets = std::fs::read_to_string(secrets).unwrap();
    let labels: Vec<_> = secrets
        .lines()
        .filter_map(|line| line.split(' ').next())
        .collect();
    assert!(labels.contains(&"CLIENT_TRAFFIC_SECRET_0"), "{labels:?}");
    assert!(labels.contains(&"SERVER_TRAFFIC_SECRET_0"), "{labels:?}");
}

#[test]
fn websockets_carry_mqtt_with_and_without_tls() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let served = write_server(&folder, &authority);
    let (broker, ports) = start(
        &folder,
        &format!(
            "listener 0 127.0.0.1\nprotocol websockets\n\
             listener 0 127.0.0.1\nprotocol websockets\n{served}"
        ),
        2,
    );
    let upgrade = || {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        let name = "Sec-WebSocket-Protocol";
        request.headers_mut().insert(name, "mqtt".parse().unwrap());
        request
    };
    fn talk<S: Read + Write>(mut socket: tungstenite::WebSocket<S>, identifier: &str) {
        let packet = connect_packet(identifier);
        socket.send(tungstenite::Message::binary(packet)).unwrap();
        assert_eq!(socket.read().unwrap().into_data()[..], ACCEPTED);
        socket
            .send(tungstenite::Message::binary(vec![0xC0, 0]))
            .unwrap();
        assert_eq!(socket.read().unwrap().into_data()[..], [0xD0, 0]);
    }
    for number in 0..4 {
        let plain = tungstenite::client(upgrade(), tcp(ports[0])).unwrap().0;
        talk(plain, &format!("ws-{number}"));
        let secured = tls(tcp(ports[1]), &authority, None);
        let secured = tungstenite::client(upgrade(), secured).unwrap().0;
        talk(secured, &format!("wss-{number}"));
    }
    wait_for(&broker, " as wss-3 ");

    // Of both kinds `log_type websockets` tells, and why one ends.
    let deadline = Instant::now() + PATIENCE;
    while broker.stderr().matches(" begins\n").count() < 8 {
        assert!(Instant::now() < deadline, "{}", broker.stderr());
        std::thread::sleep(Duration::from_millis(10));
    }
    let (mut text, _) = tungstenite::client(upgrade(), tcp(ports[0])).unwrap();
    text.send(tungstenite::Message::text("no packet")).unwrap();
    wait_for(&broker, " ends: WebSocket frame that is not binary");
}

#[test]
fn proxies_say_who_connects_and_unix_sockets_are_local() {
    let folder = Folder::new();
    let path = folder.path().join("mqtt.sock");
    let (broker, ports) = start(
        &folder,
        &format!(
            "listener 0 127.0.0.1\nenable_proxy_protocol 1\nlistener 0 {}\n",
            path.display()
        ),
        1,
    );
    let mut stream = tcp(ports[0]);
    stream
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 77 1883\r\n")
        .unwrap();
    assert!(greet(stream, "behind").unwrap());
    wait_for(&broker, "192.0.2.7:77 as behind ");
    // Without a header nobody is served.
    greet(tcp(ports[0]), "before").unwrap_err();
    wait_for(&broker, " rejected, no PROXY header.");

    assert!(greet(UnixStream::connect(&path).unwrap(), "near").unwrap());
    wait_for(&broker, " as near ");
}

#[test]
fn a_proxy_that_ended_tls_says_whose_certificate_it_saw_and_from_where() {
    let folder = Folder::new();
    let listener = "listener 0 127.0.0.1\nenable_proxy_protocol 2\nrequire_certificate true\n\
         use_identity_as_username true\n";
    let (broker, ports) = start(&folder, listener, 1);
    // Version 2, PROXY, TCP over IPv4; the client spoke TLS and its certificate was found valid.
    let header = |common_name: Option<&str>| {
        let mut tls = vec![0x07, 0, 0, 0, 0];
        if let Some(name) = common_name {
            tls.extend([0x22, 0, u8::try_from(name.len()).unwrap()]);
            tls.extend_from_slice(name.as_bytes());
        }
        let mut rest = vec![192, 0, 2, 9, 192, 0, 2, 1, 0, 99, 7, 91];
        rest.extend([0x20, 0, u8::try_from(tls.len()).unwrap()]);
        rest.extend(tls);
        let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
        header.push(u8::try_from(rest.len()).unwrap());
        header.extend(rest);
        header
    };
    // Each of them goes to one of two shards.
    for number in 0..4 {
        let mut stream = tcp(ports[0]);
        stream.write_all(&header(Some("carol"))).unwrap();
        let identifier = format!("behind-{number}");
        assert!(greet(stream, &identifier).unwrap());
        wait_for(
            &broker,
            &format!("192.0.2.9:99 as {identifier} (p2, c1, k60, u'carol')"),
        );
    }
    // Nobody without a certificate, the log says so as Mosquitto's does, nobody without a name, and nobody without a header.
    let mut bare = tcp(ports[0]);
    bare.write_all(b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x09\xc0\0\x02\x01\0\x63\x07\x5b")
        .unwrap();
    assert!(!greet(bare, "bare").unwrap_or(false));
    wait_for(
        &broker,
        "Connection from 192.0.2.9:99 rejected, client did not provide a certificate.",
    );
    let mut nameless = tcp(ports[0]);
    nameless.write_all(&header(None)).unwrap();
    assert!(!greet(nameless, "nameless").unwrap_or(false));
    assert!(!greet(tcp(ports[0]), "direct").unwrap_or(false));
    let said = broker.stderr();
    assert!(!said.contains(" as nameless ") && !said.contains(" as direct "));
}

#[test]
fn a_reload_shows_new_certificates_and_keeps_connections() {
    let (old, new, folder) = (Authority::new(), Authority::new(), Folder::new());
    let served = write_server(&folder, &old);
    let (broker, ports) = start(&folder, &format!("listener 0 127.0.0.1\n{served}"), 1);
    let mut stays = tls(tcp(ports[0]), &old, None);
    assert!(greet(&mut stays, "stays").unwrap());
    greet(tls(tcp(ports[0]), &new, None), "early").unwrap_err();

    let process = Pid::from_raw(broker.process_id() as i32).unwrap();
    write_server(&folder, &new);
    kill_process(process, Signal::HUP).unwrap();
    wait_for(&broker, "Reloading config.");
    assert!(greet(tls(tcp(ports[0]), &new, None), "late").unwrap());

    // A broken one leaves things as they are.
    folder.write("server.crt", "no certificate");
    kill_process(process, Signal::HUP).unwrap();
    wait_for(&broker, "stays as it was before");
    assert!(greet(tls(tcp(ports[0]), &new, None), "later").unwrap());
    stays.write_all(&[0xC0, 0]).unwrap();
    let mut answer = [0; 2];
    stays.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xD0, 0]);
}

/// What a request for `/` is answered on a listener for WebSockets.
fn page(port: u16) -> String {
    let mut stream = tcp(port);
    stream
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

/// Whether a page of this origin may speak MQTT.
fn is_welcome(port: u16, origin: &str) -> bool {
    let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
    let headers = request.headers_mut();
    headers.insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
    headers.insert("Origin", origin.parse().unwrap());
    tungstenite::client(request, tcp(port)).is_ok()
}

/// The kernel tells of room in a socket only once megabytes have left it.
#[test]
fn a_file_comes_whole_to_who_reads_it_slowly() {
    let folder = Folder::new();
    let size = 24 << 20;
    folder.write("large.bin", "x".repeat(size));
    let file = folder.write(
        "fastmq.conf",
        format!(
            "user root\nallow_anonymous true\nlistener 0 127.0.0.1\nprotocol websockets\nhttp_dir {}\n",
            folder.path().display()
        ),
    );
    let broker = Broker::start_configured(&["-c", file.to_str().unwrap(), "--cores", "1"]);
    let mut stream = tcp(broker.port());
    stream
        .write_all(b"GET /large.bin HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .unwrap();
    let mut answer = Vec::new();
    let mut part = vec![0; 64 << 10];
    let slow_until = Instant::now() + Duration::from_secs(7);
    loop {
        let received = stream.read(&mut part).unwrap();
        if received == 0 {
            break;
        }
        answer.extend_from_slice(&part[..received]);
        if Instant::now() < slow_until {
            std::thread::sleep(Duration::from_millis(400));
        }
    }
    let head = answer
        .windows(4)
        .position(|end| end == b"\r\n\r\n")
        .unwrap()
        + 4;
    assert_eq!(answer.len() - head, size);
}

#[test]
fn a_reload_changes_pages_origins_and_proxies_for_connections_that_come_then() {
    let folder = Folder::new();
    let path = folder.path().join("mqtt.sock");
    for name in ["one", "two"] {
        std::fs::create_dir(folder.path().join(name)).unwrap();
        folder.write(&format!("{name}/index.html"), format!("page {name}"));
    }
    let whole = |name: &str, proxy: &str| {
        format!(
            "user root\nlog_type all\nallow_anonymous true\n\
             listener 0 127.0.0.1\nprotocol websockets\nhttp_dir {}\n\
             websockets_origin http://{name}.example\nlistener 0 {}\n{proxy}",
            folder.path().join(name).display(),
            path.display()
        )
    };
    let file = folder.write("fastmq.conf", whole("one", ""));
    let file = file.to_str().unwrap();
    let broker = Broker::start_configured(&["-c", file, "--cores", "1"]);
    let port = broker.port();
    assert!(page(port).ends_with("page one"));
    assert!(is_welcome(port, "http://one.example") && !is_welcome(port, "http://two.example"));
    let near = || UnixStream::connect(&path).unwrap();
    let mut stays = near();
    assert!(greet(&mut stays, "stays").unwrap());

    let process = Pid::from_raw(broker.process_id() as i32).unwrap();
    folder.write("fastmq.conf", whole("two", "enable_proxy_protocol 1\n"));
    kill_process(process, Signal::HUP).unwrap();
    wait_for(&broker, "Reloading config.");
    assert!(!broker.stderr().contains("counts from the next start on"));
    // The one shard may still be on its way to it.
    let deadline = Instant::now() + PATIENCE;
    while page(port).ends_with("page one") {
        assert!(Instant::now() < deadline, "it still serves the first page");
    }
    assert!(page(port).ends_with("page two"));
    assert!(is_welcome(port, "http://two.example") && !is_welcome(port, "http://one.example"));
    let mut behind = near();
    behind
        .write_all(b"PROXY TCP4 192.0.2.7 192.0.2.1 77 1883\r\n")
        .unwrap();
    assert!(greet(behind, "behind").unwrap());
    wait_for(&broker, "192.0.2.7:77 as behind ");
    greet(near(), "without a header").unwrap_err();
    stays.write_all(&[0xC0, 0]).unwrap();
    let mut answer = [0; 2];
    stays.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xD0, 0]);

    // Pages that are not there leave everything as it was.
    folder.write("fastmq.conf", whole("three", ""));
    kill_process(process, Signal::HUP).unwrap();
    wait_for(&broker, "stays as it was before");
    assert!(page(port).ends_with("page two"));
    greet(near(), "still without a header").unwrap_err();
}

/// A connection that is greeted, once the shards have heard of a reload.
fn greet_soon<S: Read + Write>(connect: impl Fn() -> Option<S>, identifier: &str) -> S {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(mut stream) = connect()
            && greet(&mut stream, identifier).unwrap_or(false)
        {
            return stream;
        }
        assert!(Instant::now() < deadline, "{identifier} is never greeted");
    }
}

/// A WebSocket on `stream`, as a stream of what its frames carry.
struct Frames<S: Read + Write>(tungstenite::WebSocket<S>);

impl<S: Read + Write> Frames<S> {
    fn open(stream: S) -> Option<Self> {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", "mqtt".parse().unwrap());
        let opened = tungstenite::client(request, stream);
        opened.ok().map(|(socket, _)| Self(socket))
    }
}

impl<S: Read + Write> Read for Frames<S> {
    /// One frame, which has to fit.
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let frame = self.0.read().map_err(std::io::Error::other)?.into_data();
        buffer[..frame.len()].copy_from_slice(&frame);
        Ok(frame.len())
    }
}

impl<S: Read + Write> Write for Frames<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let message = tungstenite::Message::binary(bytes.to_vec());
        self.0.send(message).map_err(std::io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.0.flush().map_err(std::io::Error::other)
    }
}

/// Asserts that the broker still answers on a connection.
fn assert_alive(mut stream: impl Read + Write) {
    stream.write_all(&[0xC0, 0]).unwrap();
    stream.flush().unwrap();
    let mut answer = [0; 2];
    stream.read_exact(&mut answer).unwrap();
    assert_eq!(answer, [0xD0, 0]);
}

#[test]
fn a_reload_turns_tls_and_websockets_on_and_off_for_connections_that_come_then() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let served = write_server(&folder, &authority);
    let reload = |broker: &Broker, directives: &str| {
        let text = format!(
            "user root\nlog_type all\nallow_anonymous true\nlistener 0 127.0.0.1\n{directives}"
        );
        folder.write("fastmq.conf", text);
        let said = || broker.stderr().matches("Reloading config.").count();
        let before = said();
        broker.signal(Signal::HUP);
        let deadline = Instant::now() + PATIENCE;
        while said() == before {
            assert!(Instant::now() < deadline, "{}", broker.stderr());
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let text = "user root\nlog_type all\nallow_anonymous true\nlistener 0 127.0.0.1\n";
    let file = folder.write("fastmq.conf", text);
    let file = file.to_str().unwrap();
    let broker = Broker::start_configured(&["-c", file, "--cores", "2", "--oversubscribe"]);
    let port = broker.port();
    let secured = || tls(tcp(port), &authority, None);

    let mut plain = tcp(port);
    assert!(greet(&mut plain, "plain").unwrap());
    reload(&broker, &served);
    let mut encrypted = greet_soon(|| Some(secured()), "encrypted");
    assert!(!greet(tcp(port), "plain again").unwrap_or(false));

    reload(&broker, &format!("{served}protocol websockets\n"));
    let mut both = greet_soon(|| Frames::open(secured()), "both");

    reload(&broker, "protocol websockets\n");
    let mut web_socket = greet_soon(|| Frames::open(tcp(port)), "web socket");
    assert!(!greet(secured(), "encrypted again").unwrap_or(false));

    reload(&broker, "");
    let mut at_last = greet_soon(|| Some(tcp(port)), "plain at last");
    assert!(Frames::open(tcp(port)).is_none());

    // All that time nobody had to go.
    assert_alive(&mut plain);
    assert_alive(&mut encrypted);
    assert_alive(&mut both);
    assert_alive(&mut web_socket);
    assert_alive(&mut at_last);
    assert!(!broker.stderr().contains("counts from the next start on"));
}

#[test]
fn a_reload_that_demands_certificates_lets_nobody_stay_whose_name_was_never_shown() {
    let (authority, folder) = (Authority::new(), Folder::new());
    let alice = authority.client("alice");
    let served = write_server(&folder, &authority);
    let cafile = folder.write("ca.crt", authority.certificate());
    let open = "user root\nallow_anonymous true\nlistener 0 127.0.0.1\n";
    let file = folder.write("fastmq.conf", open);
    let file = file.to_str().unwrap();
    let broker = Broker::start_configured(&["-c", file, "--cores", "1"]);
    let mut plain = tcp(broker.port());
    assert!(greet(&mut plain, "plain").unwrap());
    // One that has not said yet who it is.
    let silent = tcp(broker.port());
    folder.write(
        "fastmq.conf",
        format!(
            "{open}{served}cafile {}\nrequire_certificate true\nuse_identity_as_username true\n",
            cafile.display()
        ),
    );
    broker.signal(Signal::HUP);
    assert_eq!(plain.read(&mut [0; 1]).unwrap(), 0, "it was disconnected");
    assert!(!greet(silent, "silent").unwrap_or(false));
    let shown = || Some(tls(tcp(broker.port()), &authority, Some(&alice)));
    greet_soon(shown, "alice");
    wait_for(&broker, " as alice (p2, c1, k60, u'alice')");
}
