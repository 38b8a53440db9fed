//! The books balance: whatever Clients did, once they are gone every gauge is what it was before them, and the
//! counters say what they have sent and received.

#![forbid(unsafe_code)]

#[path = "support/authority.rs"]
mod authority;
mod support;

use authority::Authority;
use rustix::process::Signal;
use socket2::SockRef;
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use support::folder::Folder;
use support::raw::{self, Raw, packet, string};
use support::{Broker, PATIENCE};

/// A broker of four shards that stores, and the ports of what it has opened.
struct Server {
    broker: Broker,
    /// Of all listeners in their order, the second of which is for WebSockets.
    ports: Vec<u16>,
    admin: String,
    _folder: Folder,
}

impl Server {
    fn start() -> Self {
        Self::start_with(Folder::new(), "")
    }

    /// With `more` at the end of its configuration.
    fn start_with(folder: Folder, more: &str) -> Self {
        let configuration = format!(
            "user root\nallow_anonymous true\nsys_interval 0\nlog_type all\nlog_dest stderr\n\
             persistence true\npersistence_location {}\nfastmq_durability interval 20\n\
             max_queued_messages 50\nfastmq_max_outbox_bytes 65536\nfastmq_admin_listener 0\n\
             listener 0 127.0.0.1\nlistener 0 127.0.0.1\nprotocol websockets\n{more}",
            folder.path().display()
        );
        let file = folder.write("fastmq.conf", configuration);
        let file = file.to_str().unwrap();
        let cores = ["--cores", "4", "--oversubscribe", "-c", file];
        let mut broker = Broker::start_configured(&cores);
        broker.wait_to_say("admin port on http://");
        let said = broker.stderr();
        let (_, rest) = said.split_once("admin port on http://").unwrap();
        let admin = rest.split_once('/').unwrap().0.to_owned();
        let listening = |line: &str| {
            let (_, rest) = line.split_once("listening on 127.0.0.1:")?;
            rest.split(|end: char| !end.is_ascii_digit())
                .next()?
                .parse()
                .ok()
        };
        let ports: Vec<u16> = said.lines().filter_map(listening).collect();
        Self {
            ports,
            broker,
            admin,
            _folder: folder,
        }
    }

    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    /// All numbers of all shards, each added up, but for those of retained messages, of which every shard has its own.
    fn numbers(&self) -> BTreeMap<String, u64> {
        let answer = self.get("/metrics");
        let mut numbers = BTreeMap::new();
        for line in answer.lines() {
            let Some((name, rest)) = line.split_once("{shard=\"") else {
                continue;
            };
            let Some((_, value)) = rest.split_once("\"} ") else {
                continue;
            };
            let name = name.trim_start_matches("fastmq_");
            if let Ok(value) = value.parse::<u64>() {
                *numbers.entry(name.to_owned()).or_default() += value;
            }
        }
        numbers
    }

    /// Looks until nothing is `wrong`, and tells what was so last if that never comes.
    fn until(&self, mut wrong: impl FnMut(&BTreeMap<String, u64>) -> Vec<String>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let wrong = wrong(&self.numbers());
            if wrong.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "{wrong:#?}");
            thread::sleep(Duration::from_millis(200));
        }
    }
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }
}

/// A connection that may be closed by the other end whenever that likes.
struct Link {
    stream: TcpStream,
    is_websocket: bool,
}

impl Link {
    fn open(server: &Server, is_websocket: bool) -> Self {
        let port = match is_websocket {
            true => server.ports[1],
            false => server.broker.port(),
        };
        let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_millis(20)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_millis(100)))
            .unwrap();
        if is_websocket {
            let request = "GET / HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\
                Sec-WebSocket-Protocol: mqtt\r\n\r\n";
            let _ = stream.write_all(request.as_bytes());
        }
        Self {
            stream,
            is_websocket,
        }
    }

    fn send(&mut self, bytes: &[u8]) {
        let mut all = Vec::new();
        if self.is_websocket {
            // A binary frame with a mask of zeros.
            let size = u16::try_from(bytes.len()).unwrap();
            all.extend([0x82, 0x80 | 126]);
            all.extend(size.to_be_bytes());
            all.extend([0; 4]);
        }
        all.extend(bytes);
        let _ = self.stream.write_all(&all);
    }

    /// Reads what comes for a moment, and answers nothing.
    fn listen(&mut self) {
        let _ = self.stream.read(&mut [0; 4096]);
    }

    fn reset(self) {
        let socket = SockRef::from(&self.stream);
        socket.set_linger(Some(Duration::ZERO)).unwrap();
    }
}

fn property_u32(identifier: u8, value: u32) -> Vec<u8> {
    [&[identifier][..], &value.to_be_bytes()].concat()
}

fn with_size(properties: Vec<u8>) -> Vec<u8> {
    [&[u8::try_from(properties.len()).unwrap()][..], &properties].concat()
}

/// A CONNECT of MQTT 5 with a Session Expiry Interval and perhaps a Will, or of 3.1.1 without.
fn random_connect(random: &mut Random, is_v5: bool, identifier: &str) -> Vec<u8> {
    let mut flags = 0;
    if random.one_in(2) {
        flags |= 0x02;
    }
    let mut will = Vec::new();
    if random.one_in(2) {
        flags |= 0x04 | (random.below(3) as u8) << 3 | (random.below(2) as u8) << 5;
        if is_v5 {
            will.extend(with_size(property_u32(0x18, random.below(2) as u32)));
        }
        will.extend(string(topic(random)));
        will.extend(string(vec![b'w'; random.below(2000) as usize]));
    }
    let mut body = string("MQTT");
    body.extend([if is_v5 { 5 } else { 4 }, flags, 0, 30]);
    if is_v5 {
        let mut properties = property_u32(0x11, random.below(2) as u32);
        if random.one_in(2) {
            // Receive Maximum.
            properties.extend([0x21, 0, 2]);
        }
        if random.one_in(2) {
            // Topic Alias Maximum.
            properties.extend([0x22, 0, 3]);
        }
        body.extend(with_size(properties));
    }
    body.extend(string(identifier));
    body.extend(will);
    packet(0x10, &body)
}

const TOPICS: u64 = 40;

fn topic(random: &mut Random) -> String {
    let number = random.below(TOPICS);
    format!("t/{}/{}", number % 4, number)
}

fn every_topic() -> impl Iterator<Item = String> {
    (0..TOPICS).map(|number| format!("t/{}/{}", number % 4, number))
}

fn random_subscribe(random: &mut Random, is_v5: bool) -> Vec<u8> {
    let mut body = vec![0, 1 + random.below(9) as u8];
    if is_v5 {
        body.extend(match random.one_in(2) {
            true => vec![2, 0x0b, 1 + random.below(100) as u8],
            false => vec![0],
        });
    }
    for _ in 0..=random.below(4) {
        let filters = [
            "t/#",
            "t/+/1",
            "#",
            "t/2/#",
            "$share/a/t/#",
            "$share/b/t/+/2",
        ];
        let filter = filters[random.below(6) as usize];
        body.extend(string(filter));
        let mut options = random.below(3) as u8;
        if is_v5 {
            // Retain As Published and Retain Handling, and No Local where it is allowed.
            options |= (random.below(2) as u8) << 3 | (random.below(3) as u8) << 4;
            if !filter.starts_with('$') {
                options |= (random.below(2) as u8) << 2;
            }
        }
        body.push(options);
    }
    packet(0x82, &body)
}

fn random_publish(random: &mut Random, is_v5: bool) -> Vec<u8> {
    let qos = random.below(3) as u8;
    let first_byte = 0x30 | qos << 1 | u8::from(random.one_in(3));
    let mut body = string(topic(random));
    if qos > 0 {
        body.extend([1, 1 + random.below(9) as u8]);
    }
    if is_v5 {
        body.extend(match random.below(3) {
            0 => vec![0],
            // Message Expiry Interval.
            1 => with_size(property_u32(0x02, 1)),
            // Topic Alias.
            _ => vec![3, 0x23, 0, 1 + random.below(10) as u8],
        });
    }
    let size = [0, 10, 200, 9000][random.below(4) as usize];
    body.resize(body.len() + size, b'p');
    packet(first_byte, &body)
}

/// One Client from its beginning to its end, neither of which has to be as it should.
fn visit(server: &Server, random: &mut Random, identifier: &str) {
    let mut link = Link::open(server, random.one_in(3));
    let is_v5 = random.below(3) > 0;
    let mut connect = random_connect(random, is_v5, identifier);
    if random.one_in(12) {
        connect.truncate(random.below(connect.len() as u64) as usize);
    }
    link.send(&connect);
    link.listen();
    for _ in 0..random.below(20) {
        match random.below(12) {
            0 | 1 => link.send(&random_subscribe(random, is_v5)),
            2 => link.listen(),
            // PUBREL of whatever it may be of.
            3 => link.send(&[0x62, 2, 1, 1 + random.below(9) as u8]),
            4 => link.send(&[0xc0, 0]),
            _ => link.send(&random_publish(random, is_v5)),
        }
    }
    match random.below(8) {
        0 | 1 => link.send(&[0xe0, 0]),
        2 => link.reset(),
        3 => {
            let whole = random_publish(random, is_v5);
            link.send(&whole[..random.below(whole.len() as u64) as usize]);
        }
        4 => link.send(b"\xff\xff\xff\xff\xff\xff"),
        5 => link.send(&raw::connect(4, "again")),
        6 => {
            let _ = link.stream.shutdown(Shutdown::Write);
            link.listen();
        }
        _ => {}
    }
}

#[test]
fn everything_at_once_and_then_every_gauge_is_what_it_was() {
    const GAUGES: [&str; 13] = [
        "connections",
        "clients_connected",
        "sessions",
        "subscriptions",
        "shared_subscriptions",
        "retained_messages",
        "retained_bytes",
        "queued_messages",
        "queued_bytes",
        "will_bytes",
        "ring_backlog",
        "waiting_for_ring",
        "held_before_connect",
    ];
    let mut server = Server::start();
    server.until(|numbers| match numbers.get("connections") {
        Some(0) => Vec::new(),
        other => vec![format!("{other:?} connections of nobody")],
    });
    // Two threads use each identifier, so that they take each other's connections over.
    thread::scope(|scope| {
        for number in 0..8 {
            let server = &server;
            scope.spawn(move || {
                let mut random = Random(number);
                for _ in 0..60 {
                    let identifier = format!("c{}-{}", number / 2, random.below(3));
                    visit(server, &mut random, &identifier);
                }
            });
        }
    });
    // The Sessions that nothing else ends.
    for number in 0..4 {
        for which in 0..3 {
            let mut client = Raw::connect(server.broker.port(), 4, &format!("c{number}-{which}"));
            client.send(&[0xe0, 0]);
            assert_eq!(client.receive(), None);
        }
    }
    server.until(|numbers| {
        // A Will may have come since.
        let mut clearing = Raw::connect(server.broker.port(), 4, "clearing");
        for topic in every_topic() {
            clearing.send(&packet(0x33, &[&string(topic)[..], &[0, 1]].concat()));
            assert_eq!(clearing.receive(), Some((0x40, vec![0, 1])));
        }
        clearing.send(&[0xe0, 0]);
        let left = GAUGES.iter().filter(|&&name| numbers[name] != 0);
        left.map(|name| format!("{name} {}", numbers[*name]))
            .collect()
    });
    assert!(server.broker.is_running());
    let said = server.broker.stderr();
    assert!(!said.contains("panicked"), "{said}");
}

/// What Clients know that they have sent and received.
#[derive(Debug, Default)]
struct Books(BTreeMap<&'static str, u64>);

impl Books {
    fn add(&mut self, name: &'static str, count: usize) {
        *self.0.entry(name).or_default() += count as u64;
    }
}

/// A Client that keeps books.
struct Client {
    raw: Raw,
    is_v5: bool,
}

impl Client {
    fn connect(server: &Server, books: &mut Books, is_v5: bool, identifier: &str) -> Self {
        let raw = Raw::open(server.broker.port());
        let mut client = Self { raw, is_v5 };
        books.add("connections_accepted", 1);
        let level = if is_v5 { 5 } else { 4 };
        client.send(books, &[&raw::connect(level, identifier)]);
        let (first_byte, body) = client.receive(books).unwrap();
        assert_eq!((first_byte, body[1]), (0x20, 0));
        books.add("connects", 1);
        client
    }

    /// All of them in one piece.
    fn send(&mut self, books: &mut Books, packets: &[&[u8]]) {
        let bytes = packets.concat();
        books.add("packets_received", packets.len());
        books.add("bytes_received", bytes.len());
        self.raw.send(&bytes);
    }

    fn receive(&mut self, books: &mut Books) -> Option<(u8, Vec<u8>)> {
        let (first_byte, body) = self.raw.receive()?;
        books.add("bytes_sent", packet(first_byte, &body).len());
        match first_byte >> 4 {
            3 => books.add("publish_sent", 1),
            _ => books.add("packets_sent", 1),
        }
        Some((first_byte, body))
    }

    fn subscribe(&mut self, books: &mut Books, filter: &str, qos: u8) {
        let properties: &[u8] = if self.is_v5 { &[0] } else { &[] };
        let body = [&[0, 1], properties, &string(filter), &[qos]].concat();
        self.send(books, &[&packet(0x82, &body)]);
        assert_eq!(self.receive(books).unwrap().0, 0x90);
    }

    fn publish(&self, topic: &str, qos: u8, payload: &[u8]) -> Vec<u8> {
        let identifier: &[u8] = if qos > 0 { &[0, 7] } else { &[] };
        let properties: &[u8] = if self.is_v5 { &[0] } else { &[] };
        let body = [&string(topic)[..], identifier, properties, payload].concat();
        packet(0x30 | qos << 1, &body)
    }

    /// Publishes to the end of the exchange.
    fn exchange(&mut self, books: &mut Books, qos: u8, payload: &[u8]) {
        let publish = self.publish("topic", qos, payload);
        books.add("publish_received", 1);
        books.add("publish_bytes_received", payload.len());
        self.send(books, &[&publish]);
        if qos == 2 {
            assert_eq!(self.receive(books).unwrap().0, 0x50);
            self.send(books, &[&[0x62, 2, 0, 7]]);
        }
        if qos > 0 {
            let last = if qos == 1 { 0x40 } else { 0x70 };
            assert_eq!(self.receive(books).unwrap().0, last);
        }
    }

    /// Receives a message to the end of the exchange.
    fn take(&mut self, books: &mut Books, payload: &[u8]) {
        let (first_byte, body) = self.receive(books).unwrap();
        assert_eq!(first_byte >> 4, 3);
        assert!(body.ends_with(payload));
        books.add("publish_bytes_sent", payload.len());
        // Behind the Topic Name, which is `topic`, where there is one.
        let answer = |first_byte| [&[first_byte, 2][..], &body[7..9]].concat();
        match first_byte >> 1 & 3 {
            0 => {}
            1 => self.send(books, &[&answer(0x40)]),
            _ => {
                self.send(books, &[&answer(0x50)]);
                assert_eq!(self.receive(books).unwrap().0, 0x62);
                self.send(books, &[&answer(0x70)]);
            }
        }
    }
}

#[test]
fn counters_say_what_clients_have_sent_and_received_to_the_last_packet() {
    let server = Server::start();
    let mut books = Books::default();
    let mut subscribers: Vec<_> = (0..12)
        .map(|number| {
            let name = format!("subscriber-{number}");
            let mut client = Client::connect(&server, &mut books, number % 2 == 0, &name);
            client.subscribe(&mut books, "topic", number % 3);
            client
        })
        .collect();
    let mut publishers: Vec<_> = (0..6)
        .map(|number| {
            let name = format!("publisher-{number}");
            Client::connect(&server, &mut books, number % 2 == 0, &name)
        })
        .collect();
    for (number, publisher) in publishers.iter_mut().enumerate() {
        for qos in 0..3 {
            let payload = vec![b'p'; 1 + number * 100 * usize::from(qos)];
            publisher.exchange(&mut books, qos, &payload);
            for subscriber in &mut subscribers {
                subscriber.take(&mut books, &payload);
            }
        }
    }
    // The end comes with messages before it.
    for mut client in publishers.into_iter().chain(subscribers) {
        let publish = client.publish("nobody", 0, b"farewell");
        books.add("publish_received", 2);
        books.add("publish_bytes_received", 16);
        client.send(&mut books, &[&publish, &publish, &[0xe0, 0]]);
        assert_eq!(client.receive(&mut books), None);
    }
    // One that breaks the protocol, with a packet that only a Server sends.
    let mut client = Client::connect(&server, &mut books, false, "wrong");
    client.send(&mut books, &[&[0xc0, 0], &[0xd0, 0]]);
    assert_eq!(client.receive(&mut books), Some((0xd0, Vec::new())));
    assert_eq!(client.receive(&mut books), None);
    books.add("protocol_errors", 1);
    server.until(|numbers| {
        let of = |name: &str| numbers[&format!("{name}_total")];
        let differs = books.0.iter().filter(|&(name, &value)| of(name) != value);
        differs
            .map(|(name, value)| format!("{name} {} instead of {value}", of(name)))
            .collect()
    });
}

/// What becomes of a Session whose Client has acknowledged nothing.
#[derive(Clone, Copy, Debug)]
enum Fate {
    /// Its Client does not come back.
    Expires,
    /// Its Client begins a new one.
    StartsClean,
    /// It ends with its connection.
    Closes,
    /// Its Shared Subscription ends, which nobody else has, and then its connection.
    Unsubscribes,
    /// Its Shared Subscription has another member, and it ends with its connection.
    HandsOn,
    /// It goes on and gets everything.
    Stays,
}

impl Fate {
    const ALL: [Self; 6] = [
        Self::Expires,
        Self::StartsClean,
        Self::Closes,
        Self::Unsubscribes,
        Self::HandsOn,
        Self::Stays,
    ];

    /// The Session Expiry Interval.
    const fn expiry_s(self) -> u32 {
        match self {
            Self::Expires => 1,
            Self::StartsClean => 1000,
            _ => 0,
        }
    }

    /// What it is subscribed to.
    fn filter(self, number: usize) -> String {
        match self {
            Self::Unsubscribes | Self::HandsOn => format!("$share/{number}/kept/{number}"),
            _ => format!("kept/{number}"),
        }
    }
}

/// A Client that takes two messages at a time.
fn connect_narrow(server: &Server, identifier: &str, flags: u8, expiry_s: u32) -> Raw {
    let mut client = Raw::open(server.broker.port());
    let mut properties = property_u32(0x11, expiry_s);
    properties.extend([0x21, 0, 2]);
    let mut body = string("MQTT");
    body.extend([5, flags, 0, 0]);
    body.extend(with_size(properties));
    body.extend(string(identifier));
    client.send(&packet(0x10, &body));
    let (first_byte, body) = client.receive().unwrap();
    assert_eq!((first_byte, body[1]), (0x20, 0));
    client
}

fn subscribe_v5(client: &mut Raw, filter: &str) {
    let body = [&[0, 1, 0][..], &string(filter), &[2]].concat();
    client.send(&packet(0x82, &body));
    assert_eq!(client.receive().unwrap().0, 0x90);
}

/// Answers a packet of an exchange, and says whether that ends it.
fn answer(client: &mut Raw, (first_byte, body): (u8, Vec<u8>)) -> bool {
    let (answer, identifier, is_over) = match first_byte >> 4 {
        3 => {
            let size = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let is_qos1 = first_byte >> 1 & 3 == 1;
            let answer = if is_qos1 { 0x40 } else { 0x50 };
            (answer, &body[2 + size..4 + size], is_qos1)
        }
        6 => (0x70, &body[..2], true),
        _ => panic!("{first_byte:x} {body:?}"),
    };
    client.send(&[&[answer, 2], identifier].concat());
    is_over
}

/// Takes so many messages, each to the end of its exchange, of which these have come.
fn take_all(client: &mut Raw, count: usize, come: Vec<(u8, Vec<u8>)>) {
    let mut left = count;
    for packet in come {
        left -= usize::from(answer(client, packet));
    }
    while left > 0 {
        let packet = client.receive().unwrap();
        left -= usize::from(answer(client, packet));
    }
}

#[test]
fn a_message_that_is_not_delivered_is_counted_once_and_says_why_however_its_session_ends() {
    const EACH: usize = 12;
    const IN_FLIGHT: usize = 2;
    const QUEUED: usize = EACH - IN_FLIGHT;
    let server = Server::start();
    let fates = Fate::ALL.into_iter().cycle().take(24).enumerate();
    let mut clients: Vec<_> = fates
        .map(|(number, fate)| {
            let name = format!("narrow-{number}");
            let mut client = connect_narrow(&server, &name, 0x02, fate.expiry_s());
            subscribe_v5(&mut client, &fate.filter(number));
            (number, fate, Some(client))
        })
        .collect();
    let mut publisher = Raw::connect(server.broker.port(), 4, "publisher");
    for &(number, ..) in &clients {
        for message in 0..EACH {
            let qos = 1 + (message % 2) as u8;
            let body = [&string(format!("kept/{number}"))[..], &[0, 7, b'x']].concat();
            publisher.send(&packet(0x30 | qos << 1, &body));
            if qos == 2 {
                assert_eq!(publisher.receive().unwrap().0, 0x50);
                publisher.send(&[0x62, 2, 0, 7]);
            }
            assert!(matches!(publisher.receive().unwrap().0, 0x40 | 0x70));
        }
    }
    let mut others = Vec::new();
    let mut books = Books::default();
    for (number, fate, slot) in &mut clients {
        let number = *number;
        let mut client = slot.take().unwrap();
        let name = format!("narrow-{number}");
        books.add("publish_sent", IN_FLIGHT);
        let come: Vec<_> = (0..IN_FLIGHT).map(|_| client.receive().unwrap()).collect();
        match fate {
            Fate::Expires => {
                books.add("dropped_session_expired", QUEUED);
                books.add("ended_unacknowledged", IN_FLIGHT);
                drop(client);
            }
            Fate::StartsClean => {
                books.add("dropped_clean_start", QUEUED);
                books.add("ended_unacknowledged", IN_FLIGHT);
                drop(client);
                others.push(connect_narrow(&server, &name, 0x02, 0));
            }
            Fate::Closes => {
                books.add("dropped_session_closed", QUEUED);
                books.add("ended_unacknowledged", IN_FLIGHT);
                client.send(&[0xe0, 0]);
            }
            Fate::Unsubscribes => {
                books.add("dropped_unsubscribed", QUEUED);
                books.add("ended_unacknowledged", IN_FLIGHT);
                let body = [&[0, 2, 0][..], &string(fate.filter(number))].concat();
                client.send(&packet(0xa2, &body));
                assert_eq!(client.receive().unwrap().0, 0xb0);
            }
            Fate::HandsOn => {
                // Of the two in flight, the one of QoS 2 stays with who has it [MQTT-4.8.2-5].
                books.add("publish_sent", QUEUED + 1);
                books.add("shared_handed_on", QUEUED + 1);
                books.add("ended_unacknowledged", 1);
                let mut other = connect_narrow(&server, &format!("other-{number}"), 0x02, 0);
                subscribe_v5(&mut other, &fate.filter(number));
                client.send(&[0xe0, 0]);
                take_all(&mut other, QUEUED + 1, Vec::new());
                others.push(other);
            }
            Fate::Stays => {
                books.add("publish_sent", QUEUED);
                take_all(&mut client, EACH, come);
                others.push(client);
            }
        }
    }
    books.add("publish_received", EACH * clients.len());
    server.until(|numbers| {
        let of = |name: &str| numbers[&format!("{name}_total")];
        let differs = books.0.iter().filter(|&(name, &value)| of(name) != value);
        let mut wrong: Vec<_> = differs
            .map(|(name, value)| format!("{name} {} instead of {value}", of(name)))
            .collect();
        // Each had one receiver: it was sent, again where it was handed on behind a window, or was dropped.
        let repeated = (clients.len() / Fate::ALL.len()) as u64;
        let dropped = numbers
            .iter()
            .filter(|(name, _)| name.starts_with("dropped_"));
        let dropped: u64 = dropped.map(|(_, value)| value).sum();
        if of("publish_sent") + dropped != of("publish_received") + repeated {
            wrong.push(format!("{} sent and {dropped} dropped", of("publish_sent")));
        }
        wrong
    });
}

/// What is retained of `$SYS` below `broker`, as numbers.
fn sys(server: &Server) -> BTreeMap<String, u64> {
    let mut client = Raw::connect(server.broker.port(), 4, "reader");
    client.send(&raw::subscribe("$SYS/broker/#", 0));
    client.send(&[0xc0, 0]);
    let mut values = BTreeMap::new();
    // What is retained comes in a few turns: until a ping comes back with nothing before it.
    let mut last = 0;
    loop {
        let (first_byte, body) = client.receive().unwrap();
        if first_byte == 0xd0 {
            if values.len() == last && last > 0 {
                return values;
            }
            last = values.len();
            thread::sleep(Duration::from_millis(50));
            client.send(&[0xc0, 0]);
        } else if first_byte == 0x31 {
            let size = usize::from(u16::from_be_bytes([body[0], body[1]]));
            let topic = String::from_utf8(body[2..2 + size].to_vec()).unwrap();
            let value = std::str::from_utf8(&body[2 + size..]).unwrap();
            if let Ok(value) = value.parse() {
                let topic = topic.trim_start_matches("$SYS/broker/");
                values.insert(topic.to_owned(), value);
            }
        }
    }
}

#[test]
fn metrics_status_sys_log_and_dump_of_one_run_tell_the_same() {
    let (folder, authority) = (Folder::new(), Authority::new());
    let leaf = authority.server();
    let certificate = folder.write("server.crt", leaf.certificate);
    let key = folder.write("server.key", leaf.key);
    let rules = folder.write("acl", "topic readwrite ok/#\ntopic read $SYS/#\n");
    let more = format!(
        "sys_interval 1\nacl_file {}\nmessage_size_limit 20000\nlistener 0 127.0.0.1\n\
         certfile {}\nkeyfile {}\nlistener 0 127.0.0.1\nmax_connections 1\n",
        rules.display(),
        certificate.display(),
        key.display(),
    );
    let server = Server::start_with(folder, &more);
    let mut publisher = Raw::connect(server.broker.port(), 4, "publisher");
    for (topic, size) in [("no", 1), ("no", 1), ("no", 1), ("ok/1", 20_001)] {
        publisher.send(&raw::publish(topic, &vec![b'x'; size]));
    }
    // A Session whose queue is full, and one that ends with its queue.
    for (name, expiry_s) in [("away", 1000), ("expires", 1)] {
        let filter = format!("ok/{name}");
        let mut client = connect_narrow(&server, name, 0x02, expiry_s);
        subscribe_v5(&mut client, &filter);
        drop(client);
        server.until(|numbers| match numbers["clients_connected"] {
            1 => Vec::new(),
            other => vec![format!("{other} connected")],
        });
        for _ in 0..53 {
            let body = [&string(&filter)[..], &[0, 7, b'x']].concat();
            publisher.send(&packet(0x32, &body));
            assert_eq!(publisher.receive().unwrap().0, 0x40);
        }
    }
    let body = [&string("ok/retained")[..], &[0, 7, b'x']].concat();
    publisher.send(&packet(0x33, &body));
    assert_eq!(publisher.receive().unwrap().0, 0x40);
    publisher.send(&[0xe0, 0]);
    assert_eq!(publisher.receive(), None);
    // Refused: a version that there is none of, flags that there are none of, which 3.1.1 has no answer for.
    let mut wrong = raw::connect(9, "wrong");
    let mut client = Raw::open(server.broker.port());
    client.send(&wrong);
    assert_eq!(client.receive(), Some((0x20, vec![0, 1])));
    wrong = raw::connect(4, "wrong");
    wrong[9] |= 1;
    for wrong in [&wrong[..], b"GET / HTTP/1.1\r\n\r\n"] {
        let mut client = Raw::open(server.broker.port());
        client.send(wrong);
        assert_eq!(client.receive(), None);
    }
    // A packet that only a Server sends.
    let mut client = Raw::connect(server.broker.port(), 4, "breaks");
    client.send(&[0xd0, 0]);
    assert_eq!(client.receive(), None);
    // No TLS, and an alert in answer.
    let mut plain = TcpStream::connect(("127.0.0.1", server.ports[2])).unwrap();
    plain.write_all(&raw::connect(4, "plain")).unwrap();
    plain.read_to_end(&mut Vec::new()).unwrap();
    // More connections than there may be.
    let first = Raw::connect(server.ports[3], 4, "first");
    for _ in 0..2 {
        let mut stream = TcpStream::connect(("127.0.0.1", server.ports[3])).unwrap();
        let _ = stream.read_to_end(&mut Vec::new());
    }
    drop(first);

    server.until(|numbers| {
        let expected = [
            ("sessions_expired_total", 1),
            ("connections", 0),
            ("dropped_denied_total", 3),
            ("dropped_payload_too_large_total", 1),
            ("dropped_queue_full_total", 6),
            ("dropped_session_expired_total", 50),
            ("connections_refused_total", 2),
            ("connects_refused_total", 2),
            ("protocol_errors_total", 4),
            ("handshakes_failed_total", 1),
            ("handshakes_completed_total", 0),
            ("queued_messages", 50),
        ];
        let wrong = expected.iter().filter(|&&(name, is)| numbers[name] != is);
        wrong
            .map(|(name, is)| format!("{name} {} instead of {is}", numbers[*name]))
            .collect()
    });

    // The log has a line for each.
    let numbers = server.numbers();
    let said = server.broker.stderr();
    let lines = |part: &str| said.lines().filter(|line| line.contains(part)).count() as u64;
    let accepted = numbers["connections_accepted_total"] - numbers["connections_refused_total"];
    for (part, count) in [
        (": New connection from", accepted),
        (": New client connected from", numbers["connects_total"]),
        (
            "denied: max_connections",
            numbers["connections_refused_total"],
        ),
        (
            "Client connection from",
            numbers["connections_refused_total"] + numbers["handshakes_failed_total"],
        ),
        ("unacceptable protocol version.", 1),
        ("disconnected: malformed packet.", 1),
        (
            "Denied PUBLISH",
            numbers["dropped_denied_total"] + numbers["dropped_payload_too_large_total"],
        ),
    ] {
        assert_eq!(lines(part), count, "{part:?}\n{said}");
    }

    let shards = 4;
    let retained = |numbers: &BTreeMap<String, u64>| numbers["retained_messages"] / shards;
    let deadline = Instant::now() + PATIENCE;
    loop {
        // Whoever reads `$SYS` is counted as well, so all of it is read anew once it has been said.
        let numbers = server.numbers();
        let status = server.get("/api/status");
        let (_, status) = status.split_once("\r\n\r\n").unwrap();
        let status: serde_json::Value = serde_json::from_str(status).unwrap();
        let mut wrong = Vec::new();
        for (kind, suffix) in [("counters", "_total"), ("gauges", "")] {
            for (name, value) in status["total"][kind].as_object().unwrap() {
                let mut in_metrics = numbers[&format!("{name}{suffix}")];
                if name.starts_with("retained_messages") || name == "retained_bytes" {
                    in_metrics /= shards;
                }
                if value.as_u64() != Some(in_metrics) {
                    wrong.push(format!("{name}: status {value}, metrics {in_metrics}"));
                }
            }
        }
        let of = |name: &str| numbers[&format!("{name}_total")];
        let dropped: u64 = [
            "outbox_full",
            "queue_full",
            "memory_full",
            "ring_full",
            "packet_too_large",
            "session_expired",
            "clean_start",
            "session_closed",
            "unsubscribed",
        ]
        .iter()
        .map(|why| of(&format!("dropped_{why}")))
        .sum();
        let sys = sys(&server);
        for (topic, value) in [
            ("bytes/received", of("bytes_received")),
            ("bytes/sent", of("bytes_sent")),
            ("clients/connected", numbers["clients_connected"]),
            ("clients/disconnected", numbers["sessions"]),
            ("clients/expired", of("sessions_expired")),
            ("clients/total", numbers["sessions"]),
            ("connections/count", numbers["connections"]),
            ("connections/socket/count", of("connections_accepted")),
            ("messages/received", of("packets_received")),
            ("messages/sent", of("publish_sent") + of("packets_sent")),
            (
                "messages/stored",
                retained(&numbers) + numbers["queued_messages"],
            ),
            ("publish/messages/dropped", dropped),
            ("publish/messages/received", of("publish_received")),
            ("publish/messages/sent", of("publish_sent")),
            ("retained messages/count", retained(&numbers)),
            ("subscriptions/count", numbers["subscriptions"]),
        ] {
            if sys.get(topic) != Some(&value) {
                wrong.push(format!("{topic}: {:?} instead of {value}", sys.get(topic)));
            }
        }
        if wrong.is_empty() {
            break;
        }
        assert!(Instant::now() < deadline, "{wrong:#?}");
        thread::sleep(Duration::from_millis(2200));
    }

    // The dump, of a broker that nobody is connected to.
    server.until(|numbers| match numbers["connections"] {
        0 => Vec::new(),
        other => vec![format!("{other} connections")],
    });
    let numbers = server.numbers();
    server.broker.signal(Signal::USR2);
    let deadline = Instant::now() + PATIENCE;
    loop {
        let said = server.broker.stderr();
        let queued: Vec<u64> = said
            .lines()
            .filter_map(|line| {
                line.strip_suffix(" queued)")?
                    .rsplit(' ')
                    .next()?
                    .parse()
                    .ok()
            })
            .collect();
        let told = (
            queued.len() as u64,
            queued.iter().sum::<u64>(),
            said.contains(&format!("Retained messages: {}", retained(&numbers))),
        );
        if told == (numbers["sessions"], numbers["queued_messages"], true) {
            break;
        }
        assert!(Instant::now() < deadline, "{told:?}\n{said}");
        thread::sleep(Duration::from_millis(20));
    }
}
