//! `fastmq import` after a real Mosquitto: every Session goes on where it was and gets what it was owed,
//! in order and once.

#![forbid(unsafe_code)]

mod support;

use std::collections::VecDeque;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Output, Stdio};

use fastmq::codec::{Packet, Publish, decode};
use fastmq::message::ProtocolVersion;
use support::folder::Folder;
use support::mosquitto::{self, Mosquitto};
use support::raw::{Raw, packet};
use support::{Broker, command};

/// What Mosquitto 2.0.11 wrote: Clients `s1` and `s2`, and what waits for them.
const FIXTURE: &[u8] = include_bytes!("../src/import/tests/mosquitto-2.0.11.db");

/// A folder in which anybody may write: brokers that root starts become somebody else.
fn open_folder() -> Folder {
    let folder = Folder::new();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o777)).unwrap();
    folder
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// A Client that decides itself what it acknowledges.
struct Wire {
    raw: Raw,
    version: ProtocolVersion,
    session_present: bool,
    /// Packets that came while another one was waited for.
    early: VecDeque<(u8, Vec<u8>)>,
}

impl Wire {
    /// Connects with the Session that there is, or a new one that lasts for an hour at least.
    fn resume(port: u16, level: u8, client_identifier: &str) -> Self {
        let mut body = [&string("MQTT")[..], &[level, 0, 0, 0]].concat();
        let mut version = ProtocolVersion::V311;
        if level == 5 {
            version = ProtocolVersion::V5;
            // Session Expiry Interval.
            body.extend([5, 0x11, 0, 0, 0x0e, 0x10]);
        }
        body.extend(string(client_identifier));
        let mut raw = Raw::open(port);
        raw.send(&packet(0x10, &body));
        let (first_byte, body) = raw.receive().expect("CONNACK");
        assert_eq!((first_byte, body[1]), (0x20, 0), "{client_identifier}");
        Self {
            raw,
            version,
            session_present: body[0] == 1,
            early: VecDeque::new(),
        }
    }

    /// As [`Self::resume`] of a Session that has to be there.
    #[track_caller]
    fn resumed(port: u16, level: u8, client_identifier: &str) -> Self {
        let wire = Self::resume(port, level, client_identifier);
        assert!(wire.session_present, "{client_identifier} has no Session");
        wire
    }

    fn subscribe(&mut self, filter: &str, options: u8, properties: &[u8]) {
        let mut body = vec![0, 1];
        if self.version.is_v5() {
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(string(filter));
        body.push(options);
        self.raw.send(&packet(0x82, &body));
        let (first_byte, body) = self.receive("SUBACK");
        assert_eq!(first_byte, 0x90);
        assert_eq!(body.last(), Some(&(options & 3)), "{filter} is granted");
    }

    /// PUBLISH at QoS 1 or 2, and no more.
    fn begin(&mut self, topic: &str, payload: &str, flags: u8, identifier: u16, properties: &[u8]) {
        let mut body = string(topic);
        body.extend(identifier.to_be_bytes());
        if self.version.is_v5() {
            body.push(properties.len() as u8);
            body.extend(properties);
        }
        body.extend(payload.as_bytes());
        self.raw.send(&packet(0x30 | flags, &body));
    }

    /// The whole of a PUBLISH at QoS 1 or 2.
    fn publish(&mut self, topic: &str, payload: &str, flags: u8, properties: &[u8]) {
        self.begin(topic, payload, flags, 1, properties);
        if flags & QOS1 != 0 {
            self.expect(0x40, 1);
        } else {
            self.expect(0x50, 1);
            self.send(0x62, 1);
            self.expect(0x70, 1);
        }
    }

    #[track_caller]
    fn receive(&mut self, what: &str) -> (u8, Vec<u8>) {
        let early = self.early.pop_front();
        early.unwrap_or_else(|| self.raw.receive().expect(what))
    }

    /// An acknowledgement.
    fn send(&mut self, first_byte: u8, identifier: u16) {
        self.raw
            .send(&packet(first_byte, &identifier.to_be_bytes()));
    }

    #[track_caller]
    fn expect(&mut self, first_byte: u8, identifier: u16) {
        let (found, body) = self.receive("an acknowledgement");
        let [high, low] = identifier.to_be_bytes();
        assert_eq!((found, &body[..2]), (first_byte, &[high, low][..]));
    }

    /// The next packet, which is a PUBLISH: what `look` makes of it. Acknowledged to the end if `ends`.
    #[track_caller]
    fn take<T>(&mut self, ends: bool, look: impl FnOnce(&Publish<'_>) -> T) -> T {
        let (first_byte, body) = self.receive("PUBLISH");
        let Ok(Packet::Publish(publish)) = decode(self.version, first_byte, &body) else {
            panic!("{first_byte:02x} {body:02x?}");
        };
        let seen = look(&publish);
        let identifier = publish.packet_identifier.map(|it| it.get());
        match (publish.qos as u8, identifier.filter(|_| ends)) {
            (1, Some(identifier)) => self.send(0x40, identifier),
            (2, Some(identifier)) => {
                self.send(0x50, identifier);
                let [high, low] = identifier.to_be_bytes();
                while let Some(packet) = self.raw.receive() {
                    if (packet.0, &packet.1[..]) == (0x62, &[high, low]) {
                        break;
                    }
                    self.early.push_back(packet);
                }
                self.send(0x70, identifier);
            }
            _ => {}
        }
        seen
    }

    /// Topic, payload, QoS, DUP and RETAIN of the next PUBLISH.
    #[track_caller]
    fn next(&mut self) -> (String, String, u8, bool, bool) {
        self.take(true, |it| {
            let payload = String::from_utf8(it.payload.to_vec()).unwrap();
            let qos = it.qos as u8;
            (
                it.topic_name.to_owned(),
                payload,
                qos,
                it.duplicate,
                it.retain,
            )
        })
    }

    /// Nothing comes before the answer to PINGREQ.
    #[track_caller]
    fn assert_quiet(&mut self) {
        self.raw.send(&[0xc0, 0]);
        let (first_byte, body) = self.receive("PINGRESP");
        assert_eq!((first_byte, &body[..]), (0xd0, &[][..]), "{body:02x?}");
    }

    fn leave(mut self) {
        self.raw.send(&[0xe0, 0]);
        assert_eq!(self.raw.receive(), None);
    }
}

const QOS1: u8 = 1 << 1;
const QOS2: u8 = 2 << 1;
const RETAIN: u8 = 1;
const DUPLICATE: u8 = 1 << 3;

fn plain(topic: &str, payload: &str, qos: u8) -> (String, String, u8, bool, bool) {
    (topic.to_owned(), payload.to_owned(), qos, false, false)
}

fn import(arguments: &[&Path]) -> Output {
    let mut command = command();
    command.arg("import").args(arguments);
    command.stdin(Stdio::null()).output().unwrap()
}

fn import_into(directory: &Path, file: &Path) -> Output {
    import(&[Path::new("--directory"), directory, file])
}

fn said(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

fn broker_on(directory: &Path) -> Broker {
    Broker::start(&[
        "--cores",
        "2",
        "--oversubscribe",
        "--persistence-location",
        directory.to_str().unwrap(),
    ])
}

/// User Property, Message Expiry Interval of a day, Content Type.
const PROPERTIES: &[u8] = b"\x26\0\x03key\0\x05value\x02\0\x01\x51\x80\x03\0\x04text";

/// Everything that Mosquitto keeps, in the states that a Client can bring about.
fn fill(port: u16) {
    let mut publisher = Wire::resume(port, 4, "publisher");
    let mut publisher5 = Wire::resume(port, 5, "publisher 5");

    let mut old = Wire::resume(port, 4, "old");
    old.subscribe("queue/#", 2, &[]);
    old.subscribe("later/+", 1, &[]);
    old.leave();
    let mut new = Wire::resume(port, 5, "new");
    // Subscription Identifier 7; No Local and Retain As Published.
    new.subscribe("queue/+", 1 | 1 << 2 | 1 << 3, b"\x0b\x07");
    new.leave();
    let mut shared = Wire::resume(port, 5, "shared");
    shared.subscribe("$share/group/work/#", 1, &[]);
    shared.leave();

    let mut flight = Wire::resume(port, 4, "flight");
    flight.subscribe("flight", 2, &[]);
    publisher.publish("flight", "1: PUBACK is missing", QOS1, &[]);
    publisher.publish("flight", "2: PUBREC is missing", QOS2, &[]);
    publisher.publish("flight", "3: PUBCOMP is missing", QOS2, &[]);
    publisher.publish("flight", "4: complete", QOS2, &[]);
    for identifier in 1..=4 {
        let payload = format!("{identifier}:");
        flight.take(identifier == 4, |it| {
            assert_eq!(it.packet_identifier.unwrap().get(), identifier);
            assert!(it.payload.starts_with(payload.as_bytes()));
        });
    }
    flight.send(0x50, 3);
    flight.expect(0x62, 3);
    // It is gone once Mosquitto has closed its connection, so what comes now is not in flight.
    flight.leave();

    for number in 1..=3 {
        let payload = number.to_string();
        publisher.publish("queue/a", &payload, QOS1, &[]);
        publisher5.publish("queue/b", &payload, QOS2 | RETAIN, PROPERTIES);
    }
    publisher.publish("work/1", "work", QOS1, &[]);
    publisher.publish("kept", "before", QOS1 | RETAIN, &[]);
    publisher.publish("flight", "5: queued", QOS2, &[]);

    let mut sender = Wire::resume(port, 4, "sender");
    sender.begin("queue/sent", "unreleased", QOS2, 5, &[]);
    sender.expect(0x50, 5);
    sender.begin("kept", "unreleased", QOS2 | RETAIN, 6, &[]);
    sender.expect(0x50, 6);
    drop(sender);
    publisher.leave();
    publisher5.leave();
}

#[test]
fn every_session_goes_on_where_it_was_in_mosquitto() {
    let Some(program) = mosquitto::program() else {
        return;
    };
    let folder = open_folder();
    let location = folder.path().display();
    let lines = format!(
        "allow_anonymous true\npersistence true\npersistence_location {location}/\nuser root\n"
    );
    let mosquitto = Mosquitto::start(&program, folder.path(), &lines);
    fill(mosquitto.port);
    mosquitto.stop();
    let store = folder.file("store");
    let output = import_into(&store, &folder.file("mosquitto.db"));
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    // Of the shared subscription there is nothing in the file. What `sender` has not released goes to
    // `old` and `new`.
    let expected = "7 sessions, 4 subscriptions, 16 queued messages, 3 messages in flight to clients, 2 \
                    from clients, 2 retained messages";
    assert!(said(&output).contains(expected), "{}", said(&output));

    let broker = broker_on(&store);
    let port = broker.port();

    let mut old = Wire::resumed(port, 4, "old");
    for number in ["1", "2", "3"] {
        assert_eq!(old.next(), plain("queue/a", number, 1));
        assert_eq!(old.next(), plain("queue/b", number, 2));
    }
    assert_eq!(old.next(), plain("queue/sent", "unreleased", 2));
    old.assert_quiet();

    let mut new = Wire::resumed(port, 5, "new");
    for number in ["1", "2", "3"] {
        for topic in ["queue/a", "queue/b"] {
            new.take(true, |it| {
                assert_eq!((it.topic_name, it.payload), (topic, number.as_bytes()));
                let properties = &it.properties;
                let identifiers = properties.subscription_identifiers.iter();
                assert_eq!(identifiers.map(|it| it.get()).collect::<Vec<_>>(), [7]);
                let fields = properties.forwarded.fields();
                let is_b = topic == "queue/b";
                assert_eq!(it.retain, is_b, "Retain As Published");
                assert_eq!(fields.content_type, is_b.then_some("text"));
                let user: Vec<_> = fields.user_properties.iter().collect();
                assert_eq!(user == [("key", "value")], is_b);
                let left = properties.message_expiry_interval_s;
                assert_eq!(left.is_some_and(|it| (80_000..=86_400).contains(&it)), is_b);
            });
        }
    }
    assert_eq!(new.next().1, "unreleased");
    new.assert_quiet();

    let mut flight = Wire::resumed(port, 4, "flight");
    let first = flight.take(true, |it| {
        (it.packet_identifier.unwrap().get(), it.duplicate)
    });
    assert_eq!(first, (1, true));
    flight.take(false, |it| {
        assert_eq!(it.packet_identifier.unwrap().get(), 2);
        assert_eq!(it.payload, b"2: PUBREC is missing");
        assert!(it.duplicate);
    });
    flight.expect(0x62, 3);
    flight.take(false, |it| {
        assert!(!it.duplicate);
        assert_eq!(it.payload, b"5: queued");
        // Its first own: the message that had it before is over.
        assert_eq!(it.packet_identifier.unwrap().get(), 4);
    });
    flight.send(0x70, 3);
    for identifier in [2, 4] {
        flight.send(0x50, identifier);
        flight.expect(0x62, identifier);
        flight.send(0x70, identifier);
    }
    flight.assert_quiet();

    let mut shared = Wire::resumed(port, 5, "shared");
    assert_eq!(shared.next(), plain("work/1", "work", 1));
    shared.assert_quiet();

    // A repetition is recognised, and PUBREL ends it.
    let mut sender = Wire::resumed(port, 4, "sender");
    sender.begin("queue/sent", "unreleased", QOS2 | DUPLICATE, 5, &[]);
    sender.expect(0x50, 5);
    for identifier in [5, 6] {
        sender.send(0x62, identifier);
        sender.expect(0x70, identifier);
    }
    old.assert_quiet();
    new.assert_quiet();

    let mut reader = Wire::resume(port, 5, "reader");
    assert!(!reader.session_present);
    reader.subscribe("queue/#", 1, &[]);
    reader.take(true, |it| {
        assert_eq!((it.topic_name, it.payload), ("queue/b", &b"3"[..]));
        assert!(it.retain);
        assert_eq!(it.properties.forwarded.fields().content_type, Some("text"));
    });
    reader.subscribe("kept", 1, &[]);
    let kept = reader.take(true, |it| String::from_utf8(it.payload.to_vec()).unwrap());
    assert_eq!(kept, "unreleased");
    reader.assert_quiet();

    // What was subscribed to there is subscribed to here.
    new.begin("queue/own", "not to myself", QOS1, 9, &[]);
    new.expect(0x40, 9);
    sender.begin("later/on", "new", QOS1, 9, &[]);
    sender.expect(0x40, 9);
    assert_eq!(old.next(), plain("queue/own", "not to myself", 1));
    assert_eq!(old.next(), plain("later/on", "new", 1));
    new.assert_quiet();

    // What has been acknowledged is over.
    for client in [old, new, flight, shared] {
        client.leave();
    }
    for (level, name) in [(4, "old"), (5, "new"), (4, "flight"), (5, "shared")] {
        Wire::resumed(port, level, name).assert_quiet();
    }
}

#[test]
fn the_store_of_a_configuration_is_filled_once_and_not_while_it_is_used() {
    let folder = open_folder();
    let file = folder.write("mosquitto.db", changed_fixture(FAR_AWAY, FAR_AWAY));
    let store = folder.file("store");
    let with = |name: &str, persistence: &str| {
        let text = format!(
            "listener 0 127.0.0.1\nallow_anonymous true\n{persistence}\npersistence_location {}\n\
             user root\n",
            store.display()
        );
        folder.write(name, text.as_bytes())
    };
    let configuration = with("fastmq.conf", "persistence true");
    let off = with("off.conf", "persistence false");
    let refused = |output: &Output, expected: &str| {
        let said = said(output);
        assert_eq!(output.status.code(), Some(1), "{said}");
        assert!(said.contains(expected), "{said}");
        assert!(said.contains("Nothing was imported."), "{said}");
    };
    let option = Path::new("-c");
    refused(&import(&[option, &off, &file]), "`persistence` is false");
    refused(
        &import(&[option, &folder.file("missing.conf"), &file]),
        "missing.conf",
    );
    let cut = folder.write("cut.db", &FIXTURE[..FIXTURE.len() - 1]);
    refused(
        &import(&[option, &configuration, &cut]),
        "cut.db: offset 465: the file ends in the middle of a retained message",
    );
    let other = folder.write("other", b"something else");
    refused(
        &import(&[option, &configuration, &other]),
        "other: offset 0: not a database of Mosquitto",
    );
    refused(
        &import(&[option, &configuration, folder.path()]),
        "not a regular file",
    );
    assert!(
        !store.exists(),
        "nothing is made for what is not understood"
    );

    {
        let configuration = configuration.to_str().unwrap();
        let _broker = Broker::start_configured(&["-c", configuration, "--cores", "1"]);
        refused(
            &import(&[option, Path::new(configuration), &file]),
            "another broker uses this directory",
        );
    }
    let output = import(&[option, &configuration, &file]);
    assert_eq!(output.status.code(), Some(0), "{}", said(&output));
    refused(
        &import(&[option, &configuration, &file]),
        "holds 2 sessions and 1 retained messages already",
    );
    let configuration = configuration.to_str().unwrap();
    let broker = Broker::start_configured(&["-c", configuration, "--cores", "1"]);
    let mut s1 = Wire::resumed(broker.port(), 4, "s1");
    assert_eq!(s1.next(), plain("a/b", "hello", 1));
    s1.assert_quiet();
}

/// Seconds since 1970 that are still to come.
const FAR_AWAY: u64 = 1 << 33;

/// The file that Mosquitto wrote, with other moments at which a message to `s1` and the Session of `s2`
/// end.
fn changed_fixture(message_ends: u64, session_ends: u64) -> Vec<u8> {
    let mut bytes = FIXTURE.to_vec();
    for (found, moment) in [(0x6b07_b2a3_u64, message_ends), (0x6b07_c04f, session_ends)] {
        let found = found.to_le_bytes();
        let at = bytes.windows(8).position(|bytes| bytes == found).unwrap();
        bytes[at..at + 8].copy_from_slice(&moment.to_le_bytes());
    }
    bytes
}

#[test]
fn what_has_expired_is_named_and_the_rest_is_there() {
    let folder = open_folder();
    let file = folder.write("mosquitto.db", changed_fixture(1, 1));
    let store = folder.file("store");
    let output = import_into(&store, &file);
    let said = said(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for line in [
        "not imported: 1 sessions that had expired: client \"s2\"",
        "not imported: 1 queued messages that had expired: client \"s1\"",
        "1 sessions, 2 subscriptions, 0 queued messages",
    ] {
        assert!(said.contains(line), "{said}");
    }
    let broker = broker_on(&store);
    Wire::resumed(broker.port(), 4, "s1").assert_quiet();
    let mut reader = Wire::resume(broker.port(), 4, "reader");
    reader.subscribe("b/c", 1, &[]);
    assert_eq!(reader.next().1, "hello2");
}

#[test]
fn arguments_that_make_no_sense_are_refused() {
    let nowhere = Path::new("/nowhere/store");
    let file = Path::new("/nowhere/mosquitto.db");
    let directory = Path::new("--directory");
    for (arguments, named) in [
        (vec![file], "--config-file"),
        (vec![directory, nowhere], "FILE"),
        (
            vec![directory, nowhere, Path::new("-c"), file, file],
            "cannot be used with",
        ),
        (vec![directory, nowhere, file], "No such file"),
    ] {
        let output = import(&arguments);
        assert_eq!(output.status.code(), Some(1), "{}", said(&output));
        assert!(said(&output).contains(named), "{}", said(&output));
    }
}
