//! The broker as operators configure it: TLS with client certificates, WebSockets, PROXY headers, unix
//! sockets, and certificates that are replaced while it runs.

#![forbid(unsafe_code)]

#[path = "support/authority.rs"]
mod authority;
mod support;

use authority::{Authority, Folder, Leaf};
use rustix::process::{Pid, Signal, kill_process};
use rustls::{ClientConnection, StreamOwned};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
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

    assert!(greet(UnixStream::connect(&path).unwrap(), "near").unwrap());
    wait_for(&broker, " as near ");
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
