//! Logins that take long, and what goes on meanwhile. A gate stands for the time that hashing takes.

#![forbid(unsafe_code)]

use crate::auth::{PasswordFile, PasswordHash, Scheme, Security};
use crate::limits::Limits;
use crate::net::listen;
use crate::policy::Settings;
use crate::runtime::authenticator::authenticate_by;
use crate::runtime::{Beside, Mailbox, Placed, Running, notices, start};
use crate::shard::{Command, Shard};
use crossbeam::channel::{Receiver, Sender, unbounded};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

const SHARDS: usize = 2;
const STORM: usize = 300;
const PATIENCE: Duration = Duration::from_secs(20);

/// What a file with this user and password says; anonymous Clients come in without.
fn settings(username: &str, password: &str) -> Settings {
    let hash = PasswordHash::new(Scheme::Sha512, password.as_bytes(), b"0123456789ab").unwrap();
    let passwords = PasswordFile::parse("passwords", format!("{username}:{hash}").as_bytes());
    let mut settings = Settings::permissive(Limits::default());
    settings.listeners[0].security = Some(Arc::new(Security {
        passwords: Some(passwords.unwrap()),
        acl: None,
    }));
    settings
}

struct Broker {
    address: SocketAddr,
    running: Running,
    /// One for each check that begins.
    begun: Receiver<()>,
    /// Lets one check through.
    gate: Sender<()>,
}

impl Broker {
    fn start(settings: Settings) -> Self {
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), SHARDS).unwrap();
        let listeners = listeners.into_iter().map(|socket| vec![socket]).collect();
        let (sender, notices) = notices();
        let settings = Arc::new(settings);
        let make_core = move |shard, count| Shard::with_settings(shard, count, settings.clone(), 7);
        let placed = vec![Placed::Anywhere; SHARDS];
        let running = start(&placed, listeners, &sender, make_core).unwrap();
        let (begin, begun) = unbounded();
        let (gate, passes) = unbounded::<()>();
        authenticate_by(
            notices.authentications,
            running.mailboxes(),
            Beside::default(),
            2,
            move |request| {
                begin.send(()).unwrap();
                // A gate that is gone lets everybody through.
                let _ = passes.recv();
                let passwords = request.security.passwords.as_ref().unwrap();
                passwords.verify(&request.username, &request.password)
            },
        )
        .unwrap();
        Self {
            address,
            running,
            begun,
            gate,
        }
    }

    fn await_check(&self) {
        self.begun.recv_timeout(PATIENCE).expect("a check begins");
    }

    fn configure(&self, settings: Settings) {
        let settings = Arc::new(settings);
        let mailboxes: Arc<[Mailbox]> = self.running.mailboxes();
        for mailbox in &*mailboxes {
            assert!(mailbox.send(Command::Configure(settings.clone())));
        }
    }

    fn stop(self) {
        drop(self.gate);
        self.running.stopper().stop();
        self.running.join().unwrap();
    }
}

/// A v3.1.1 Client, byte by byte.
struct Client(TcpStream);

impl Client {
    fn open(broker: &Broker) -> Self {
        let stream = TcpStream::connect(broker.address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self(stream)
    }

    /// Sends CONNECT and does not wait for the answer.
    fn connecting(broker: &Broker, name: &str, login: Option<(&str, &str)>) -> Self {
        let mut client = Self::open(broker);
        let flags = if login.is_some() { 0xc2 } else { 0x02 };
        let mut body = b"\0\x04MQTT\x04".to_vec();
        body.extend([flags, 0, 0]);
        body.extend(field(name));
        if let Some((username, password)) = login {
            body.extend(field(username));
            body.extend(field(password));
        }
        client.send(0x10, &body);
        client
    }

    fn connect(broker: &Broker, name: &str) -> Self {
        let mut client = Self::connecting(broker, name, None);
        assert_eq!(client.connack(), 0);
        client
    }

    fn send(&mut self, first: u8, body: &[u8]) {
        let size = u8::try_from(body.len()).unwrap();
        assert!(size < 0x80, "one byte says how long it is");
        let packet = [&[first, size], body].concat();
        self.0.write_all(&packet).unwrap();
    }

    fn receive(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).unwrap();
        let mut body = vec![0; usize::from(head[1])];
        self.0.read_exact(&mut body).unwrap();
        (head[0], body)
    }

    /// The Return Code of CONNACK.
    fn connack(&mut self) -> u8 {
        let (first, body) = self.receive();
        assert_eq!(first, 0x20, "CONNACK");
        body[1]
    }

    /// Whether there is nothing to be read now.
    fn is_silent(&self) -> bool {
        self.0.set_nonblocking(true).unwrap();
        let peeked = self.0.peek(&mut [0]);
        self.0.set_nonblocking(false).unwrap();
        peeked.is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
    }
}

fn field(text: &str) -> Vec<u8> {
    let size = u16::try_from(text.len()).unwrap();
    [&size.to_be_bytes(), text.as_bytes()].concat()
}

#[test]
fn messages_flow_while_hundreds_of_logins_are_checked() {
    let broker = Broker::start(settings("alice", "secret"));
    // Enough names for Sessions on both shards.
    let mut subscribers: Vec<_> = (0..8)
        .map(|number| {
            let mut client = Client::connect(&broker, &format!("subscriber-{number}"));
            client.send(0x82, &[&[0, 1][..], &field("t"), &[1]].concat());
            assert_eq!(client.receive(), (0x90, vec![0, 1, 1]));
            client
        })
        .collect();
    let mut publisher = Client::connect(&broker, "publisher");
    let mut storm: Vec<_> = (0..STORM)
        .map(|number| {
            let password = if number % 3 == 0 { "secret" } else { "guess" };
            let name = format!("login-{number}");
            Client::connecting(&broker, &name, Some(("alice", password)))
        })
        .collect();
    broker.await_check();
    broker.await_check();
    for round in 1..=50u8 {
        publisher.send(0x32, &[&field("t")[..], &[0, round, round]].concat());
        assert_eq!(publisher.receive(), (0x40, vec![0, round]), "PUBACK");
        for subscriber in &mut subscribers {
            let (first, body) = subscriber.receive();
            assert_eq!((first, body.last()), (0x32, Some(&round)));
            subscriber.send(0x40, &body[3..5]);
        }
    }
    // Who comes without a password need not wait for those who have one.
    Client::connect(&broker, "latecomer");
    assert!(storm.iter().all(Client::is_silent), "all of them wait");
    for _ in 0..STORM {
        broker.gate.send(()).unwrap();
    }
    for (number, login) in storm.iter_mut().enumerate() {
        let expected = if number % 3 == 0 { 0 } else { 5 };
        assert_eq!(login.connack(), expected, "login {number}");
    }
    broker.stop();
}

#[test]
fn a_password_revoked_while_it_is_checked_does_not_let_in() {
    let broker = Broker::start(settings("alice", "old"));
    let mut old = Client::connecting(&broker, "old", Some(("alice", "old")));
    broker.await_check();
    let mut new = Client::connecting(&broker, "new", Some(("alice", "new")));
    broker.await_check();
    broker.configure(settings("alice", "new"));
    assert!(old.is_silent() && new.is_silent());
    // Both are right and wrong according to the file that they were checked against, and are asked
    // for again. Whoever is let through first, there are four checks.
    for _ in 0..4 {
        broker.gate.send(()).unwrap();
    }
    broker.await_check();
    broker.await_check();
    assert_eq!((old.connack(), new.connack()), (5, 0));
    broker.stop();
}

#[test]
fn a_password_file_that_is_gone_leaves_the_decision_to_the_listener() {
    let broker = Broker::start(settings("alice", "secret"));
    let mut client = Client::connecting(&broker, "client", Some(("alice", "guess")));
    broker.await_check();
    let mut closed = Settings::permissive(Limits::default());
    closed.listeners[0].allow_anonymous = false;
    broker.configure(closed);
    broker.gate.send(()).unwrap();
    assert_eq!(client.connack(), 5);
    broker.stop();
}
