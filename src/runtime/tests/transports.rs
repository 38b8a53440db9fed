//! What connections are wrapped in, over real sockets: with independent clients, floods and stragglers.

use super::{Echo, packet, stop};
use crate::limits::UNCONNECTED_BYTES_MAX;
use crate::metrics::{Counters, Gauges};
use crate::net::tls::tests::{Authority, Folder, Leaf, settings};
use crate::net::tls::{Prepared, TlsAcceptor, TlsSettings};
use crate::net::transport::{ProxyOptions, ProxyVersion, StaticFiles, WebSocketOptions, Wrapping};
use crate::net::{ListenerAddress, ListenerChange, ListenerOptions, Listening, by_shard, open};
use crate::origin::ListenerId;
use crate::runtime::{NoticesSender, Placed, Running, start};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Message, WebSocket};

const PATIENCE: Duration = Duration::from_secs(20);
const LISTENER: ListenerId = ListenerId(5);

/// A broker of echoes with one listener.
struct Served {
    listening: Listening,
    running: Running,
}

impl Served {
    fn start(shard_count: usize, options: &ListenerOptions) -> Self {
        let mut listening = open(LISTENER, options, shard_count).unwrap();
        let parts = by_shard([&mut listening], shard_count);
        let placed = vec![Placed::Anywhere; shard_count];
        let running = start(&placed, parts, &NoticesSender::nowhere(), Echo::new).unwrap();
        Self { listening, running }
    }

    fn wrapped(shard_count: usize, wrapping: Wrapping) -> Self {
        Self::start(shard_count, &with(wrapping))
    }

    fn address(&self) -> SocketAddr {
        self.listening.addresses()[0]
    }

    fn connect(&self) -> TcpStream {
        connect(self.address())
    }

    /// Of all shards together.
    fn counters(&self) -> Counters {
        self.numbers().0
    }

    /// Of all shards together.
    fn numbers(&self) -> (Counters, Gauges) {
        let numbers = self.running.numbers();
        numbers.ask();
        wait_until(|| numbers.read().all(|(_, is_new)| is_new));
        let mut sum = (Counters::default(), Gauges::default());
        for (snapshot, _) in numbers.read() {
            sum.0 = sum.0.plus(&snapshot.counters);
            sum.1 = sum.1.plus(&snapshot.gauges);
        }
        sum
    }

    fn stop(self) {
        stop(self.running);
    }
}

fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(address).unwrap();
    stream.set_nodelay(true).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    stream
}

fn with(wrapping: Wrapping) -> ListenerOptions {
    let address = ListenerAddress::Ip((Ipv4Addr::LOCALHOST, 0).into());
    ListenerOptions {
        wrapping,
        ..ListenerOptions::new(address)
    }
}

/// Anything that carries bytes both ways.
trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A client that speaks in packets.
struct Client(Box<dyn Stream>);

impl Client {
    fn send(&mut self, command: u8, argument: &[u8]) {
        self.0.write_all(&packet(command, argument)).unwrap();
        self.0.flush().unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        self.0.read_exact(&mut size).unwrap();
        let mut body = vec![0; u32::from_le_bytes(size) as usize];
        self.0.read_exact(&mut body).unwrap();
        body
    }

    fn expect(&mut self, command: u8, argument: &[u8]) {
        let body = self.receive();
        assert_eq!(body[0], command);
        assert!(body[1..] == *argument, "{} bytes differ", body.len() - 1);
    }

    fn echo(&mut self, payload: &[u8]) {
        self.send(b'E', payload);
        self.expect(b'E', payload);
    }

    /// What the broker knows of where it comes from: listener, peer and certificate.
    fn origin(&mut self) -> String {
        self.send(b'O', b"");
        String::from_utf8(self.receive()[1..].to_vec()).unwrap()
    }
}

/// An authority, and the settings of a listener whose certificate it has signed.
struct Tls {
    authority: Authority,
    folder: Folder,
    settings: TlsSettings,
}

impl Tls {
    fn new() -> Self {
        let (authority, folder) = (Authority::new(), Folder::new());
        let settings = settings(&authority, &folder);
        Self {
            authority,
            folder,
            settings,
        }
    }

    fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::new(Prepared::load(&self.settings).unwrap())
    }

    fn wrapping(&self) -> Wrapping {
        Wrapping {
            tls: Some(self.acceptor()),
            ..Wrapping::default()
        }
    }

    fn over<S: Read + Write>(
        &self,
        stream: S,
        leaf: Option<&Leaf>,
    ) -> StreamOwned<ClientConnection, S> {
        StreamOwned::new(self.authority.client_session(leaf), stream)
    }

    fn connect(&self, served: &Served) -> StreamOwned<ClientConnection, TcpStream> {
        self.over(served.connect(), None)
    }

    /// What a client says first.
    fn hello(&self) -> Vec<u8> {
        let mut wire = Vec::new();
        self.authority
            .client_session(None)
            .write_tls(&mut wire)
            .unwrap();
        wire
    }
}

/// A WebSocket as a stream of the bytes in its messages.
struct Framed<S> {
    socket: WebSocket<S>,
    received: Vec<u8>,
}

impl<S: Read + Write> Framed<S> {
    fn over(stream: S) -> Self {
        let mut request = "ws://localhost/mqtt".into_client_request().unwrap();
        let protocol = "mqtt".parse().unwrap();
        request
            .headers_mut()
            .insert("Sec-WebSocket-Protocol", protocol);
        let config = WebSocketConfig::default()
            .max_message_size(None)
            .max_frame_size(None);
        let upgraded = tungstenite::client::client_with_config(request, stream, Some(config));
        let (socket, answer) = upgraded.map_err(|error| error.to_string()).unwrap();
        assert_eq!(answer.headers()["Sec-WebSocket-Protocol"], "mqtt");
        Self {
            socket,
            received: Vec::new(),
        }
    }
}

impl<S: Read + Write> Read for Framed<S> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while self.received.is_empty() {
            match self.socket.read() {
                Ok(Message::Binary(bytes)) => self.received.extend_from_slice(&bytes),
                Ok(Message::Close(_)) | Err(tungstenite::Error::ConnectionClosed) => return Ok(0),
                Ok(_) => {}
                Err(error) => return Err(std::io::Error::other(error)),
            }
        }
        let size = buffer.len().min(self.received.len());
        buffer[..size].copy_from_slice(&self.received[..size]);
        self.received.drain(..size);
        Ok(size)
    }
}

impl<S: Read + Write> Write for Framed<S> {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        // In two frames, so that packets are cut.
        let (start, rest) = bytes.split_at(bytes.len() / 3);
        for part in [start, rest] {
            let message = Message::binary(part.to_vec());
            self.socket.write(message).map_err(std::io::Error::other)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        self.socket.flush().map_err(std::io::Error::other)
    }
}

fn web_socket(tls: Option<&Tls>) -> Wrapping {
    Wrapping {
        tls: tls.map(Tls::acceptor),
        web_socket: Some(WebSocketOptions::default()),
        ..Wrapping::default()
    }
}

/// A kind of listener, and a client for it.
type Kind<'a> = (&'a str, Wrapping, Box<dyn Fn(TcpStream) -> Client + 'a>);

fn kinds(tls: &Tls) -> Vec<Kind<'_>> {
    let secured = |stream| tls.over(stream, None);
    vec![
        (
            "TLS",
            tls.wrapping(),
            Box::new(move |stream| Client(Box::new(secured(stream)))),
        ),
        (
            "WebSocket",
            web_socket(None),
            Box::new(|stream| Client(Box::new(Framed::over(stream)))),
        ),
        (
            "WebSocket over TLS",
            web_socket(Some(tls)),
            Box::new(move |stream| Client(Box::new(Framed::over(secured(stream))))),
        ),
        (
            "PROXY",
            Wrapping {
                proxy: Some(proxy(ProxyVersion::V1)),
                ..Wrapping::default()
            },
            Box::new(|mut stream| {
                stream
                    .write_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 7 1883\r\n")
                    .unwrap();
                Client(Box::new(stream))
            }),
        ),
    ]
}

fn proxy(version: ProxyVersion) -> ProxyOptions {
    ProxyOptions {
        version,
        require_tls: false,
        require_certificate: false,
    }
}

#[test]
fn wrapped_packets_of_any_size_go_to_the_right_shard_and_back() {
    let tls = Tls::new();
    for (kind, wrapping, make) in kinds(&tls) {
        let served = Served::wrapped(3, wrapping);
        for number in 0..60_u8 {
            let shard = number % 3;
            let mut client = make(served.connect());
            // The first packet, which decides, and others behind it.
            let mut bytes = packet(b'H', &[shard]);
            for size in 0..20_usize {
                bytes.extend(packet(b'E', &vec![number; size * 40]));
            }
            client.0.write_all(&bytes).unwrap();
            client.0.flush().unwrap();
            client.expect(b'H', &[shard]);
            for size in 0..20_usize {
                client.expect(b'E', &vec![number; size * 40]);
            }
            if number < 6 {
                for size in [10_000_usize, 16_384, 70_000, 1_000_000, 7] {
                    let payload: Vec<u8> = (0..size).map(|at| (at / 251) as u8).collect();
                    client.echo(&payload);
                }
            }
        }
        served.stop();
        println!("{kind}: done");
    }
}

#[test]
fn a_slow_wrapped_reader_gets_everything_and_holds_up_nobody() {
    const SIZE: usize = 8 << 20;
    let tls = Tls::new();
    for (_, wrapping, make) in kinds(&tls) {
        let served = Served::wrapped(1, wrapping);
        let (mut slow, mut quick) = (make(served.connect()), make(served.connect()));
        slow.send(b'H', &[0]);
        slow.expect(b'H', &[0]);
        slow.send(b'F', &(SIZE as u32).to_le_bytes());
        quick.send(b'H', &[0]);
        quick.expect(b'H', &[0]);
        quick.echo(b"quick");
        // It is not read while it does not read, and what it sent is not lost.
        for number in 0..100_u8 {
            slow.send(b'E', &[number; 100]);
        }
        quick.echo(b"still quick");
        let flood: Vec<u8> = (0..SIZE).map(|at| at as u8).collect();
        slow.expect(b'F', &flood);
        for number in 0..100_u8 {
            slow.expect(b'E', &[number; 100]);
        }
        served.stop();
    }
}

#[test]
fn what_waits_for_a_wrapped_reader_arrives_in_its_order_when_it_reads_and_before_the_end_when_it_is_closed()
 {
    const SIZE: usize = 8 << 20;
    const WORDS: usize = 300;
    let word = |number: usize| vec![number as u8; 1 + number * 37 % 9000];
    let tls = Tls::new();
    for (kind, wrapping, make) in kinds(&tls) {
        for is_closed in [false, true] {
            let served = Served::wrapped(1, wrapping.clone());
            let (mut slow, mut quick) = (make(served.connect()), make(served.connect()));
            for client in [&mut slow, &mut quick] {
                client.send(b'H', &[0]);
                client.expect(b'H', &[0]);
            }
            slow.send(b'F', &(SIZE as u32).to_le_bytes());
            // It is under way before anything else is said.
            let mut head = [0; 4];
            slow.0.read_exact(&mut head).unwrap();
            // To everybody, each word in a turn of its own.
            for number in 0..WORDS {
                quick.send(b'B', &word(number));
                quick.expect(b'B', &word(number));
            }
            if is_closed {
                quick.send(b'X', b"");
                quick.expect(b'X', b"");
            }
            let mut flood = vec![0; 1 + SIZE];
            slow.0.read_exact(&mut flood).unwrap();
            assert!(
                flood[1..]
                    .iter()
                    .enumerate()
                    .all(|(at, byte)| *byte == at as u8)
            );
            for number in 0..WORDS {
                slow.expect(b'B', &word(number));
            }
            if is_closed {
                // rustls takes an end without a close_notify for an attack.
                let end = slow.0.read(&mut [0; 1]);
                assert_eq!(end.unwrap(), 0, "{kind}");
            } else {
                slow.echo(b"and goes on");
            }
            drop((slow, quick));
            served.stop();
        }
    }
}

#[test]
fn the_last_words_arrive_whole_and_the_end_is_announced() {
    let tls = Tls::new();
    for (kind, wrapping, make) in kinds(&tls) {
        let served = Served::wrapped(1, wrapping);
        let mut client = make(served.connect());
        client.send(b'H', &[0]);
        client.send(b'F', &3_000_000_u32.to_le_bytes());
        client.send(b'C', b"bye");
        client.expect(b'H', &[0]);
        assert_eq!(client.receive().len(), 3_000_001);
        client.expect(b'C', b"bye");
        // rustls takes an end without a close_notify for an attack.
        let end = client.0.read(&mut [0; 1]);
        assert_eq!(end.unwrap(), 0, "{kind}");
        served.stop();
    }
}

#[test]
fn a_client_that_says_good_bye_still_gets_its_answers() {
    let tls = Tls::new();
    let served = Served::wrapped(1, tls.wrapping());
    let mut client = tls.connect(&served);
    client.write_all(&packet(b'H', &[0])).unwrap();
    client
        .write_all(&packet(b'F', &1_000_000_u32.to_le_bytes()))
        .unwrap();
    client.conn.send_close_notify();
    client.flush().unwrap();
    let mut answers = Vec::new();
    client.read_to_end(&mut answers).unwrap();
    assert_eq!(answers.len(), 4 + 2 + 4 + 1 + 1_000_000);
    served.stop();
}

#[test]
fn the_core_knows_where_wrapped_connections_come_from() {
    let mut tls = Tls::new();
    let greet = |stream: Box<dyn Stream>| {
        let mut client = Client(stream);
        // On the other shard, where it is known as well.
        client.send(b'H', &[1]);
        client.expect(b'H', &[1]);
        client.origin()
    };
    let local = |stream: &TcpStream| stream.local_addr().unwrap();

    tls.settings.require_certificate = true;
    let leaf = tls.authority.client("sensor-7");
    let served = Served::wrapped(2, tls.wrapping());
    for _ in 0..4 {
        let stream = served.connect();
        let expected = format!("5 {} sensor-7", local(&stream));
        assert_eq!(greet(Box::new(tls.over(stream, Some(&leaf)))), expected);
    }
    served.stop();

    let served = Served::wrapped(
        2,
        Wrapping {
            proxy: Some(proxy(ProxyVersion::V1)),
            ..tls.wrapping()
        },
    );
    let mut stream = served.connect();
    stream
        .write_all(b"PROXY TCP6 2001:db8::7 2001:db8::1 77 8883\r\n")
        .unwrap();
    let client = tls.over(stream, Some(&leaf));
    assert_eq!(greet(Box::new(client)), "5 2001:db8::7:77 sensor-7");
    served.stop();

    // Version 2 with what the proxy knows of the client's certificate.
    let proxy = ProxyOptions {
        require_certificate: true,
        ..proxy(ProxyVersion::V2)
    };
    let served = Served::wrapped(
        2,
        Wrapping {
            proxy: Some(proxy),
            ..Wrapping::default()
        },
    );
    let mut stream = served.connect();
    stream.write_all(&proxy_v2_header(b"sensor-9")).unwrap();
    assert_eq!(greet(Box::new(stream)), "5 192.0.2.7:513 sensor-9");
    served.stop();

    let path = tls.folder.path().join("mqtt.sock");
    let served = Served::start(
        2,
        &ListenerOptions::new(ListenerAddress::Unix(path.clone())),
    );
    for _ in 0..4 {
        let stream = UnixStream::connect(&path).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        assert_eq!(greet(Box::new(stream)), "5 unix:0 -");
    }
    served.stop();
}

fn proxy_v2_header(common_name: &[u8]) -> Vec<u8> {
    let mut ssl = vec![0x07, 0, 0, 0, 0, 0x22, 0, common_name.len() as u8];
    ssl.extend_from_slice(common_name);
    let mut body = vec![
        192,
        0,
        2,
        7,
        192,
        0,
        2,
        1,
        2,
        1,
        7,
        91,
        0x20,
        0,
        ssl.len() as u8,
    ];
    body.extend(ssl);
    let mut header = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0".to_vec();
    header.push(body.len() as u8);
    header.extend(body);
    header
}

#[test]
fn new_certificates_are_shown_to_new_connections_and_old_ones_stay() {
    let tls = Tls::new();
    let acceptor = tls.acceptor();
    let served = Served::wrapped(
        2,
        Wrapping {
            tls: Some(acceptor.clone()),
            ..Wrapping::default()
        },
    );
    let mut old = Client(Box::new(tls.connect(&served)));
    old.send(b'H', &[1]);
    old.expect(b'H', &[1]);

    let other = Tls::new();
    acceptor.install(Prepared::load(&other.settings).unwrap());
    let mut new = Client(Box::new(other.connect(&served)));
    new.send(b'H', &[1]);
    new.expect(b'H', &[1]);
    let mut distrustful = tls.connect(&served);
    assert!(
        distrustful
            .write_all(b"x")
            .and_then(|()| distrustful.flush())
            .is_err()
    );
    old.echo(b"as if nothing had happened");
    served.stop();
}

#[test]
fn listeners_come_and_go_while_connections_stay() {
    let served = Served::wrapped(2, Wrapping::default());
    let mut first = Client(Box::new(served.connect()));
    first.send(b'H', &[1]);
    first.expect(b'H', &[1]);

    let tls = Tls::new();
    let mut second = open(ListenerId(6), &with(tls.wrapping()), 2).unwrap();
    let address = second.addresses()[0];
    let change = |change: &mut dyn FnMut() -> ListenerChange| {
        for mailbox in &*served.running.mailboxes() {
            assert!(mailbox.change_listener(change()));
        }
    };
    let mut parts = second.take_shards().into_iter();
    change(&mut || ListenerChange::Open(parts.next().unwrap()));
    let mut late = Client(Box::new(tls.over(connect(address), None)));
    late.send(b'H', &[0]);
    late.expect(b'H', &[0]);
    assert!(late.origin().starts_with("6 "));

    change(&mut || ListenerChange::Wrap(LISTENER, Arc::new(web_socket(None))));
    wait_until(|| {
        // A shard may not have heard of it yet: it takes a request for a packet.
        let mut stream = served.connect();
        stream
            .set_read_timeout(Some(Duration::from_millis(200)))
            .unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
        let mut said = [0; 12];
        stream.read_exact(&mut said).is_ok() && said == *b"HTTP/1.1 404"
    });

    change(&mut || ListenerChange::Close(LISTENER));
    wait_until(|| TcpStream::connect(served.address()).is_err());
    first.echo(b"still here");
    late.echo(b"here as well");
    served.stop();
}

fn wait_until(mut is_done: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_done() {
        assert!(Instant::now() < deadline, "it never came to that");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Whether the other end has gone, now or soon.
fn is_let_go(stream: &mut TcpStream) -> bool {
    match stream.read(&mut [0; 64]) {
        Ok(size) => size == 0,
        Err(error) if error.kind() == ErrorKind::ConnectionReset => true,
        Err(error) => panic!("{error}"),
    }
}

fn is_kept(mut stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.read(&mut [0; 64]);
    stream.set_nonblocking(false).unwrap();
    matches!(read, Err(error) if error.kind() == ErrorKind::WouldBlock)
}

#[test]
fn the_oldest_handshakes_make_room_for_new_ones() {
    let tls = Tls::new();
    let served = Served::start(
        1,
        &ListenerOptions {
            pending_max: 5,
            ..with(tls.wrapping())
        },
    );
    // Those that are through do not count.
    let mut connected: Vec<Client> = (0..10)
        .map(|_| {
            let mut client = Client(Box::new(tls.connect(&served)));
            client.send(b'H', &[0]);
            client.expect(b'H', &[0]);
            client
        })
        .collect();
    let hello = tls.hello();
    let mut stragglers: Vec<TcpStream> = (0..12_usize)
        .map(|number| {
            let mut stream = served.connect();
            // They stop sooner or later. Of one that is silent the shard does not hear for a second.
            stream.write_all(&hello[..1 + number * 10]).unwrap();
            stream
        })
        .collect();
    for straggler in &mut stragglers[..7] {
        assert!(is_let_go(straggler));
    }
    for straggler in &stragglers[7..] {
        assert!(is_kept(straggler));
    }
    let mut late = Client(Box::new(tls.connect(&served)));
    late.send(b'H', &[0]);
    late.expect(b'H', &[0]);
    for client in &mut connected {
        client.echo(b"undisturbed");
    }
    let counters = served.counters();
    assert_eq!(counters.handshakes_completed, 11);
    assert_eq!(counters.handshakes_displaced, 8);
    served.stop();
}

#[test]
fn handshakes_that_take_too_long_are_ended_whatever_they_are_at() {
    let tls = Tls::new();
    for (wrapping, start) in [
        (tls.wrapping(), tls.hello()[..100].to_vec()),
        (tls.wrapping(), tls.hello()),
        (web_socket(None), b"GET / HT".to_vec()),
        (
            Wrapping {
                proxy: Some(proxy(ProxyVersion::V2)),
                ..Wrapping::default()
            },
            Vec::new(),
        ),
    ] {
        let served = Served::start(
            1,
            &ListenerOptions {
                handshake_timeout: Duration::from_millis(150),
                ..with(wrapping)
            },
        );
        let began = Instant::now();
        let mut stream = served.connect();
        stream.write_all(&start).unwrap();
        let mut rest = Vec::new();
        // A server's hello may come before the end.
        let _ = stream.read_to_end(&mut rest);
        assert!(began.elapsed() >= Duration::from_millis(150));
        assert!(began.elapsed() < PATIENCE);
        assert_eq!(served.counters().handshakes_timed_out, 1);
        served.stop();
    }
}

#[test]
fn a_flood_of_handshakes_is_overtaken_by_those_who_are_connected() {
    const HELLOS: usize = 900;
    let tls = Tls::new();
    let served = Served::wrapped(1, tls.wrapping());
    let mut client = Client(Box::new(tls.connect(&served)));
    client.send(b'H', &[0]);
    client.expect(b'H', &[0]);
    let hello = tls.hello();
    let mut flood: Vec<TcpStream> = (0..HELLOS).map(|_| served.connect()).collect();
    for stream in &mut flood {
        stream.write_all(&hello).unwrap();
    }
    client.echo(b"in a hurry");
    // The last first: the others are being answered while this looks.
    let is_one_waiting = flood.iter().rev().any(is_kept);
    // All the same each gets its answer.
    for stream in &mut flood {
        stream.read_exact(&mut [0; 16]).unwrap();
    }
    served.stop();
    assert!(is_one_waiting, "the client waited for all of them");
}

#[test]
fn what_is_held_before_the_first_packet_is_bounded_over_all_connections() {
    const SIZE: usize = 100_000;
    const COUNT: usize = 400;
    let served = Served::wrapped(2, Wrapping::default());
    // Of the first packets all but the last byte comes, as far as the kernel takes it.
    let start = &packet(b'E', &[0; SIZE])[..SIZE];
    let mut hoarders: Vec<TcpStream> = (0..COUNT).map(|_| served.connect()).collect();
    for stream in &mut hoarders {
        stream.set_nonblocking(true).unwrap();
        let _ = stream.write(start);
    }
    let most = 2 * UNCONNECTED_BYTES_MAX as u64;
    wait_until(|| {
        let (counters, gauges) = served.numbers();
        assert!(gauges.held_before_connect <= most, "{gauges:?}");
        counters.waited_before_connect > COUNT as u64 / 2
    });
    // Who needs little does not notice.
    let mut modest = Client(Box::new(served.connect()));
    modest.send(b'H', &[0]);
    modest.expect(b'H', &[0]);
    // Who needs much, and sends it, is served as soon as one of the others is let go.
    let mut large = Client(Box::new(served.connect()));
    large.send(b'E', &[7; SIZE]);
    large.expect(b'E', &[7; SIZE]);
    assert!(served.counters().refused_held_too_much > 0);
    // It is given back when they go: by those who have it, and by those who wait for it.
    drop(hoarders);
    for _ in 0..50 {
        let mut client = Client(Box::new(served.connect()));
        client.send(b'E', &[9; SIZE]);
        client.expect(b'E', &[9; SIZE]);
    }
    wait_until(|| served.numbers().1.held_before_connect == 0);
    served.stop();
}

#[test]
fn large_first_packets_of_many_at_once_all_arrive_though_few_have_room() {
    const SIZE: usize = 100_000;
    const COUNT: usize = 200;
    let tls = Tls::new();
    for (kind, wrapping, make) in kinds(&tls) {
        let served = Served::wrapped(2, wrapping);
        let mut clients: Vec<Client> = (0..COUNT).map(|_| make(served.connect())).collect();
        // Each on a thread of its own: none waits for another one.
        std::thread::scope(|scope| {
            for (number, client) in clients.iter_mut().enumerate() {
                let shard = number as u8 % 2;
                scope.spawn(move || {
                    let first = [&[shard][..], &[3; SIZE]].concat();
                    client.send(b'H', &first);
                    client.expect(b'H', &[shard]);
                });
            }
        });
        let (counters, gauges) = served.numbers();
        println!("{kind}: {} waited", counters.waited_before_connect);
        assert_eq!(counters.refused_held_too_much, 0, "{kind}");
        assert_eq!(gauges.held_before_connect, 0, "{kind}");
        drop(clients);
        served.stop();
    }
}

#[test]
fn a_large_file_is_served_to_the_end_and_a_refusal_is_read_though_more_was_sent() {
    let folder = Folder::new();
    let content: Vec<u8> = (0..3_000_000_usize).map(|at| (at / 7) as u8).collect();
    folder.write("large.bin", &content);
    let options = WebSocketOptions {
        files: Some(Arc::new(StaticFiles::load(folder.path()).unwrap())),
        ..WebSocketOptions::default()
    };
    let tls = Tls::new();
    for tls in [None, Some(&tls)] {
        let served = Served::wrapped(
            1,
            Wrapping {
                web_socket: Some(options.clone()),
                ..web_socket(tls)
            },
        );
        let stream = || -> Box<dyn Stream> {
            match tls {
                None => Box::new(served.connect()),
                Some(tls) => Box::new(tls.connect(&served)),
            }
        };
        let mut client = stream();
        client
            .write_all(b"GET /large.bin HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        client.flush().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 200 OK\r\n"));
        assert!(answer.ends_with(&content));

        let mut client = stream();
        client
            .write_all(b"GET /missing HTTP/1.1\r\nHost: x\r\n\r\n")
            .unwrap();
        client.write_all(&[b'x'; 10_000]).unwrap();
        client.flush().unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).unwrap();
        assert!(answer.starts_with(b"HTTP/1.1 404 Not Found\r\n"));
        assert_eq!(served.counters().handshakes_failed, 1);
        served.stop();
    }
}

#[test]
fn certificates_of_the_script_are_what_a_listener_and_its_clients_need() {
    let mut tls = Tls::new();
    let folder = tls.folder.path().join("certificates");
    let script = |arguments: &[&str]| {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/make-certs");
        let made = std::process::Command::new(path)
            .args(arguments)
            .output()
            .unwrap();
        assert!(
            made.status.success(),
            "{}",
            String::from_utf8_lossy(&made.stderr)
        );
    };
    let path = folder.to_str().unwrap();
    script(&[path, "alice", "bob"]);
    script(&["--revoke", "bob", path]);
    let file = |name: &str| folder.join(name);
    tls.settings = TlsSettings {
        cafile: Some(file("ca.crt")),
        certfile: file("server.crt"),
        keyfile: file("server.key"),
        crlfile: Some(file("ca.crl")),
        require_certificate: true,
        ..tls.settings
    };
    let acceptor = TlsAcceptor::new(Prepared::load(&tls.settings).unwrap());
    let served = Served::wrapped(
        1,
        Wrapping {
            tls: Some(acceptor),
            ..Wrapping::default()
        },
    );
    let client = |name: &str| {
        let pem = |kind: &str| std::fs::read(file(&format!("{name}.{kind}"))).unwrap();
        let mut roots = RootCertStore::empty();
        roots
            .add(CertificateDer::from_pem_file(file("ca.crt")).unwrap())
            .unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_client_auth_cert(
                vec![CertificateDer::from_pem_slice(&pem("crt")).unwrap()],
                PrivateKeyDer::from_pem_slice(&pem("key")).unwrap(),
            )
            .unwrap();
        let name = ServerName::try_from("127.0.0.1").unwrap();
        let session = ClientConnection::new(Arc::new(config), name).unwrap();
        StreamOwned::new(session, served.connect())
    };
    let mut alice = Client(Box::new(client("alice")));
    alice.send(b'H', &[0]);
    alice.expect(b'H', &[0]);
    assert!(alice.origin().ends_with(" alice"));
    let mut bob = client("bob");
    let said = bob
        .write_all(&packet(b'H', &[0]))
        .and_then(|()| bob.read(&mut [0; 1]));
    assert!(said.unwrap_err().to_string().contains("Revoked"));
    served.stop();
}

/// What a Client says behind its CONNECT may be all that it says: nothing else wakes the shard that it is handed over to.
#[test]
fn a_ping_and_a_close_behind_the_first_packet_are_answered_by_whichever_shard_the_client_belongs_to()
 {
    let tls = Tls::new();
    for tls in [None, Some(&tls)] {
        let served = Served::wrapped(3, web_socket(tls));
        for number in 0..30_u8 {
            let shard = number % 3;
            let stream: Box<dyn Stream> = match tls {
                None => Box::new(served.connect()),
                Some(tls) => Box::new(tls.connect(&served)),
            };
            let mut socket = Framed::over(stream).socket;
            let first = packet(b'H', &[shard]);
            let (start, rest) = first.split_at(usize::from(number) % first.len());
            let close = number % 2 == 0;
            // All of it in one segment.
            for part in [start, rest, &packet(b'E', b"behind it")] {
                socket.write(Message::binary(part.to_vec())).unwrap();
            }
            socket.write(Message::Ping(vec![number].into())).unwrap();
            if close {
                socket.close(None).unwrap();
            }
            socket.flush().unwrap();
            let (mut said, mut ponged, mut closed) = (Vec::new(), false, false);
            let expected = [packet(b'H', &[shard]), packet(b'E', b"behind it")].concat();
            while !(if close {
                closed
            } else {
                ponged && said.len() == expected.len()
            }) {
                match socket.read() {
                    Ok(Message::Binary(bytes)) => said.extend_from_slice(&bytes),
                    Ok(Message::Pong(payload)) => {
                        assert_eq!(payload[..], [number]);
                        ponged = true;
                    }
                    Ok(Message::Close(_)) => closed = true,
                    other => panic!("{number}: {other:?}"),
                }
            }
            // No data may follow a close frame: what was asked for before it may stay without an answer.
            assert!(close || said == expected);
            if close {
                // The end of the socket comes as well, which nobody but the broker begins.
                let end = socket.read();
                assert!(matches!(end, Err(tungstenite::Error::ConnectionClosed)));
            }
        }
        served.stop();
    }
}

#[test]
fn a_client_that_says_good_bye_behind_its_first_packet_gets_its_answers_from_another_shard() {
    let tls = Tls::new();
    let served = Served::wrapped(3, tls.wrapping());
    for number in 0..30_u8 {
        let shard = number % 3;
        let mut client = tls.connect(&served);
        client.conn.complete_io(&mut client.sock).unwrap();
        let mut writer = client.conn.writer();
        writer.write_all(&packet(b'H', &[shard])).unwrap();
        writer.write_all(&packet(b'E', &[number; 1000])).unwrap();
        client.conn.send_close_notify();
        client.flush().unwrap();
        let mut answers = Vec::new();
        client.read_to_end(&mut answers).unwrap();
        let expected = [packet(b'H', &[shard]), packet(b'E', &[number; 1000])].concat();
        assert_eq!(answers, expected);
    }
    served.stop();
}
