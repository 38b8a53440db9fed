//! Files made by hand, whole, cut off and wrong.

use super::*;
use crate::journal::{Progress, ReplayedSession};
use crate::message::QoS;
use crate::session::Inflight;

/// What Mosquitto 2.0.11 wrote: three Clients, a queue and a retained message.
const REAL: &[u8] = include_bytes!("tests/mosquitto-2.0.11.db");
/// A moment at which nothing in [`REAL`] has expired.
const REAL_NOW_S: u64 = 1_795_666_500;
const NOW_S: u64 = 1_000;
const CLOCK: WallClock = WallClock {
    start_ms: NOW_S * 1000,
};
const FOREVER: u32 = u32::MAX;

/// States of a message, as Mosquitto numbers them.
const WAIT_FOR_PUBACK: u8 = 3;
const WAIT_FOR_PUBREC: u8 = 5;
const WAIT_FOR_PUBREL: u8 = 7;
const WAIT_FOR_PUBCOMP: u8 = 9;
const QUEUED: u8 = 11;

/// A file in the making.
struct Made {
    version: u32,
    bytes: Vec<u8>,
    /// Where its chunks begin.
    starts: Vec<usize>,
}

impl Made {
    fn new(version: u32) -> Self {
        let mut bytes = b"\x00\xb5\x00mosquitto db\0\0\0\0".to_vec();
        bytes.extend(version.to_be_bytes());
        let made = Self {
            version,
            bytes,
            starts: Vec::new(),
        };
        made.chunk(1, &[&9_u64.to_le_bytes(), &[1, 8, 0, 0, 0, 0, 0, 0]])
    }

    fn chunk(mut self, kind: u32, parts: &[&[u8]]) -> Self {
        let body = parts.concat();
        self.starts.push(self.bytes.len());
        self.bytes.extend(kind.to_be_bytes());
        self.bytes.extend((body.len() as u32).to_be_bytes());
        self.bytes.extend(body);
        self
    }

    fn message(self, name: u64, topic: &str, payload: &str) -> Self {
        self.message_with(name, topic, payload, 0, 2, false, b"")
    }

    #[expect(clippy::too_many_arguments, reason = "they are the fields of the file")]
    fn message_with(
        self,
        name: u64,
        topic: &str,
        payload: &str,
        expires_at_s: u64,
        qos: u8,
        retain: bool,
        properties: &[u8],
    ) -> Self {
        let mut sizes = (payload.len() as u32).to_be_bytes().to_vec();
        for size in [77, 3, 4, topic.len() as u16, 1883] {
            sizes.extend(size.to_be_bytes());
        }
        self.chunk(
            2,
            &[
                &name.to_le_bytes(),
                &expires_at_s.to_le_bytes(),
                &sizes,
                &[qos, u8::from(retain)],
                b"pubuser",
                topic.as_bytes(),
                payload.as_bytes(),
                properties,
            ],
        )
    }

    fn delivery(
        self,
        client: &str,
        message: u64,
        identifier: u16,
        qos: u8,
        state: u8,
        direction: u8,
    ) -> Self {
        self.delivery_with(client, message, identifier, [qos, state, 0, direction], b"")
    }

    fn delivery_with(
        self,
        client: &str,
        message: u64,
        identifier: u16,
        fields: [u8; 4],
        properties: &[u8],
    ) -> Self {
        self.chunk(
            3,
            &[
                &message.to_le_bytes(),
                &identifier.to_be_bytes(),
                &(client.len() as u16).to_be_bytes(),
                &fields,
                client.as_bytes(),
                properties,
            ],
        )
    }

    fn outgoing(self, client: &str, message: u64, identifier: u16, qos: u8, state: u8) -> Self {
        self.delivery(client, message, identifier, qos, state, 1)
    }

    fn incoming(self, client: &str, message: u64, identifier: u16) -> Self {
        self.delivery(client, message, identifier, 2, WAIT_FOR_PUBREL, 0)
    }

    fn retained(self, message: u64) -> Self {
        self.chunk(4, &[&message.to_le_bytes()])
    }

    fn subscription(self, client: &str, filter: &str, options: u8, identifier: u32) -> Self {
        self.chunk(
            5,
            &[
                &identifier.to_be_bytes(),
                &(client.len() as u16).to_be_bytes(),
                &(filter.len() as u16).to_be_bytes(),
                &[options & 3, options & !3, 0, 0],
                client.as_bytes(),
                filter.as_bytes(),
            ],
        )
    }

    fn session(self, client: &str, last: u16) -> Self {
        self.session_with(client, "", 0, FOREVER, last)
    }

    fn session_with(
        self,
        client: &str,
        username: &str,
        expires_at_s: u64,
        interval: u32,
        last: u16,
    ) -> Self {
        let mut fields = expires_at_s.to_le_bytes().to_vec();
        fields.extend(interval.to_be_bytes());
        fields.extend(last.to_be_bytes());
        fields.extend((client.len() as u16).to_be_bytes());
        let mut username = username.as_bytes();
        if self.version >= 6 {
            fields.extend(1884_u16.to_be_bytes());
            fields.extend((username.len() as u16).to_be_bytes());
            fields.extend([0; 4]);
        } else {
            username = b"";
        }
        self.chunk(6, &[&fields, client.as_bytes(), username])
    }

    fn import(&self) -> Imported {
        import_all(&self.bytes)
    }
}

fn read_at(bytes: &[u8], now_s: u64) -> Result<(u32, Imported), DatabaseError> {
    let clock = WallClock {
        start_ms: now_s * 1000,
    };
    read(bytes, bytes.len() as u64, clock, Instant::ZERO)
}

fn import_all(bytes: &[u8]) -> Imported {
    read_at(bytes, NOW_S).unwrap().1
}

fn session<'a>(imported: &'a Imported, client: &str) -> &'a ReplayedSession {
    let mut sessions = imported.replayed.sessions.values();
    sessions
        .find(|session| session.client_identifier() == client)
        .unwrap_or_else(|| panic!("{client} is missing"))
}

/// Packet Identifier, progress and payload of everything that a Client is owed.
fn owed(imported: &Imported, client: &str) -> Vec<(u16, Progress, String)> {
    let deliveries = &session(imported, client).deliveries;
    let places: Vec<_> = deliveries.iter().map(|it| it.sequence).collect();
    assert!(places.is_sorted_by(|a, b| a < b), "{places:?}");
    let next = session(imported, client).next_sequence;
    assert!(places.last().is_none_or(|&last| last < next));
    let shown = |it: &crate::journal::ReplayedDelivery| {
        let payload = it.message.as_ref().map(|it| it.as_ref().as_ref().payload);
        (
            Inflight::identifier_of(it.sequence).get(),
            it.progress,
            String::from_utf8(payload.unwrap_or_default().to_vec()).unwrap(),
        )
    };
    deliveries.iter().map(shown).collect()
}

fn retained(imported: &Imported) -> Vec<(String, String)> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let retained = imported.replayed.retained.iter();
    retained
        .map(|it| it.message.as_ref().as_ref())
        .inspect(|it| assert!(it.retain))
        .map(|it| (text(it.topic_name), text(it.payload)))
        .collect()
}

/// A file with a chunk of every kind, twice.
fn sample(version: u32) -> Made {
    let properties = b"\x0c\x01\x01\x26\0\x01k\0\x01v\x03\0\0";
    Made::new(version)
        .message(1, "a/b", "one")
        .message_with(2, "a/c", "two", 2 * NOW_S, 1, true, properties)
        .session_with("ann", "ann's name", 0, FOREVER, 7)
        .outgoing("ann", 1, 7, 2, WAIT_FOR_PUBREC)
        .delivery_with("ann", 2, 8, [1, QUEUED, 0x10, 1], b"\x04\x0b\x05\x0b\x06")
        .session_with("ben", "", 3 * NOW_S, 60, 0)
        .incoming("ben", 1, 3)
        .subscription("ann", "a/#", 2 | 1 << 2 | 2 << 4, 5)
        .subscription("ben", "a/+", 1 | 1 << 3, 0)
        .retained(2)
}

#[test]
fn what_mosquitto_wrote_is_imported_as_it_was_meant() {
    let (version, imported) = read_at(REAL, REAL_NOW_S).unwrap();
    assert_eq!(version, 6);
    let account = &imported.account;
    assert!(
        account.is_complete(),
        "{:?}",
        account.losses().collect::<Vec<_>>()
    );
    assert!(account.is_last);
    assert_eq!(
        account.to_string(),
        "2 sessions, 3 subscriptions, 3 queued messages, 0 messages in flight to clients, 0 from \
         clients, 1 retained messages"
    );
    let s1 = session(&imported, "s1");
    assert_eq!((s1.expiry_interval_s, s1.expires_at_ms), (FOREVER, None));
    let filters: Vec<_> = s1.subscriptions.iter().collect();
    assert_eq!(
        filters
            .iter()
            .map(|(filter, it)| (filter.as_str(), it.options.qos))
            .collect::<Vec<_>>(),
        [("/x/+", QoS::ExactlyOnce), ("a/#", QoS::ExactlyOnce)]
    );
    let message = s1.deliveries[0].message.as_ref().unwrap();
    assert_eq!(
        message.as_ref().as_ref().properties,
        b"\x26\x00\x01k\x00\x01v"
    );
    assert_eq!(
        message.source().unwrap().username.as_deref(),
        Some("ann"),
        "{message:?}"
    );
    let s2 = session(&imported, "s2");
    assert_eq!(s2.expiry_interval_s, 3600);
    assert_eq!(s2.expires_at_ms, Some(0x6b07_c04f * 1000));
    let identifiers = |index: usize| s2.deliveries[index].subscription_identifiers.to_vec();
    assert_eq!(identifiers(0), [std::num::NonZeroU32::new(7).unwrap()]);
    assert_eq!(identifiers(1), [std::num::NonZeroU32::new(7).unwrap()]);
    assert_eq!(
        retained(&imported),
        [("b/c".to_owned(), "hello2".to_owned())]
    );
    assert_eq!(imported.ports, [28_831]);
}

#[test]
fn both_versions_say_the_same_but_for_who_a_client_was() {
    for version in [5, 6] {
        let imported = sample(version).import();
        let losses: Vec<_> = imported.account.losses().collect();
        assert_eq!(losses, [""; 0]);
        let ann = session(&imported, "ann");
        let identity = ann.identity.as_ref().unwrap();
        let port = imported.ports.get(identity.listener.index()).copied();
        match version {
            6 => assert_eq!(
                (identity.username.as_deref(), port),
                (Some("ann's name"), Some(1884))
            ),
            _ => assert_eq!((identity.username.as_deref(), port), (None, None)),
        }
        assert_eq!(
            owed(&imported, "ann"),
            [
                (7, Progress::Sent, "one".to_owned()),
                (8, Progress::Waiting, "two".to_owned()),
            ]
            .into_iter()
            // What ben has not released is routed by what is subscribed to.
            .chain([(9, Progress::Waiting, "one".to_owned())])
            .collect::<Vec<_>>()
        );
        let second = &ann.deliveries[1];
        assert!(second.retain);
        let numbers: Vec<_> = second.subscription_identifiers.iter().collect();
        assert_eq!(
            numbers.iter().map(|it| it.get()).collect::<Vec<_>>(),
            [5, 6]
        );
        let message = second.message.as_ref().unwrap();
        assert_eq!(
            message.as_ref().as_ref().properties,
            b"\x01\x01\x26\0\x01k\0\x01v\x03\0\0"
        );
        assert!(!message.is_expired(Instant::ZERO.add_seconds(NOW_S - 1)));
        assert!(message.is_expired(Instant::ZERO.add_seconds(NOW_S)));
        let subscription = ann.subscriptions["a/#"];
        assert_eq!(subscription.identifier.map(|it| it.get()), Some(5));
        assert!(subscription.options.no_local && !subscription.options.retain_as_published);
        let ben = session(&imported, "ben");
        assert_eq!(ben.expires_at_ms, Some(3 * NOW_S * 1000));
        assert_eq!(
            ben.inbound.iter().map(|it| it.get()).collect::<Vec<_>>(),
            [3]
        );
        assert_eq!(ben.exchanges, 1);
        assert_eq!(retained(&imported), [("a/c".to_owned(), "two".to_owned())]);
    }
}

#[test]
fn a_file_that_is_cut_off_is_refused_where_the_chunk_that_lacks_its_end_begins() {
    for version in [5, 6] {
        let Made { bytes, starts, .. } = sample(version);
        let header = starts[0];
        for size in 0..bytes.len() {
            let cut = &bytes[..size];
            let result = read(cut, size as u64, CLOCK, Instant::ZERO);
            // A file that ends between two chunks says nothing of those that are missing.
            if size == header || starts.contains(&size) {
                assert!(result.is_ok(), "cut to {size}");
                continue;
            }
            let error = result.unwrap_err();
            let begin = starts.iter().rev().find(|&&start| start < size);
            assert_eq!(
                error.offset,
                begin.map_or(0, |&it| it as u64),
                "cut to {size}: {error}"
            );
            let expected = match size {
                0 => "offset 0: not a database of Mosquitto",
                _ => "the file ends in the middle of",
            };
            assert!(
                error.to_string().contains(expected),
                "cut to {size}: {error}"
            );
            // The same when the end goes missing while it is read.
            let error = read(cut, bytes.len() as u64, CLOCK, Instant::ZERO).unwrap_err();
            assert!(matches!(error.problem, Problem::Io(_)), "{error}");
        }
    }
}

#[test]
fn any_changed_byte_is_read_or_refused() {
    let Made { bytes, .. } = sample(6);
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            match read_at(&changed, NOW_S) {
                Ok((_, imported)) => {
                    let _ = imported.account.to_string();
                }
                Err(error) => assert!(error.offset < bytes.len() as u64, "{error} at {at}"),
            }
        }
    }
}

#[track_caller]
fn assert_refused(made: &Made, expected: &str) {
    let error = read_at(&made.bytes, NOW_S).unwrap_err().to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn what_is_not_understood_is_refused_with_its_offset_and_what_was_found() {
    assert_refused(
        &Made {
            bytes: b"fastmq store\nformat 1\n generation".to_vec(),
            ..Made::new(6)
        },
        "offset 0: not a database of Mosquitto",
    );
    for version in [2, 3, 4] {
        assert_refused(
            &Made::new(version),
            &format!("offset 19: version {version}; this program reads 5 and 6. Mosquitto 1.5 and"),
        );
    }
    assert_refused(&Made::new(7), "version 7; this program reads 5 and 6");
    let made = || Made::new(6);
    let begin = made().bytes.len();
    let at = |text: &str| format!("offset {begin}: {text}");
    assert_refused(&made().chunk(7, &[]), &at("a chunk of the unknown type 7"));
    assert_refused(
        &made().chunk(4, &[&[0; 9]]),
        &at("a retained message whose parts do not come to its 9 bytes"),
    );
    assert_refused(
        &made().chunk(6, &[&[0; 15]]),
        &at("a client whose parts do not come to its 15 bytes"),
    );
    assert_refused(
        &made().outgoing("c", 1, 1, 3, QUEUED),
        &at("QoS 3, which means nothing"),
    );
    assert_refused(
        &made().outgoing("c", 1, 1, 1, 12),
        &at("the state of a message 12"),
    );
    assert_refused(
        &made().delivery("c", 1, 1, 1, QUEUED, 2),
        &at("the direction of a message 2"),
    );
    assert_refused(
        &made().outgoing("c", 1, 0, 1, WAIT_FOR_PUBACK),
        &at("the Packet Identifier of a message 0"),
    );
    assert_refused(
        &made().session_with("c", "", u64::MAX, 1, 0),
        &at("the end of a session -1"),
    );
    let mut other = made();
    // The size of names in the first chunk.
    other.bytes[23 + 8 + 9] = 4;
    assert_refused(&other, "offset 23: names of messages have 4 bytes");
    let mut large = made();
    large.bytes.extend(2_u32.to_be_bytes());
    large.bytes.extend(u32::MAX.to_be_bytes());
    assert_refused(&large, "4294967295 bytes were to come, 0 are left");
    // With as much of it as there should be, nobody makes room for it.
    let size = large.bytes.len() as u64 + u64::from(u32::MAX);
    let error = read(&large.bytes[..], size, CLOCK, Instant::ZERO).unwrap_err();
    assert!(
        error.to_string().contains("a chunk of 4294967295 bytes"),
        "{error}"
    );
}

#[test]
fn structures_of_other_machines_are_read() {
    // Without padding, as 32-bit x86 has them, and with moments the other way round.
    let mut made = Made::new(6);
    made.bytes.truncate(made.starts[0]);
    let made = made.chunk(1, &[&9_u64.to_be_bytes(), &[0, 8, 0, 0]]).chunk(
        6,
        &[
            &(2 * NOW_S).to_be_bytes(),
            &60_u32.to_be_bytes(),
            &[0, 5, 0, 1, 0, 0, 0, 1],
            b"cu",
        ],
    );
    let imported = made.import();
    assert!(!imported.account.is_last);
    let session = session(&imported, "c");
    assert_eq!(session.expires_at_ms, Some(2 * NOW_S * 1000));
    let username = session.identity.as_ref().unwrap().username.as_deref();
    assert_eq!(username, Some("u"));
}

#[test]
fn what_is_in_flight_keeps_its_packet_identifiers_across_the_largest_one() {
    let made = Made::new(6)
        .message(1, "t", "sent")
        .message(2, "t", "queued")
        .session("c", 2)
        .outgoing("c", 1, 65_533, 2, WAIT_FOR_PUBREC)
        .outgoing("c", 9, 65_535, 2, WAIT_FOR_PUBCOMP)
        .outgoing("c", 1, 1, 1, WAIT_FOR_PUBACK)
        .outgoing("c", 2, 2, 1, QUEUED)
        .outgoing("c", 2, 3, 0, QUEUED);
    let imported = made.import();
    assert!(imported.account.is_complete());
    assert_eq!(imported.account.in_flight, 3);
    assert_eq!(imported.account.queued, 2);
    let text = str::to_owned;
    assert_eq!(
        owed(&imported, "c"),
        [
            (65_533, Progress::Sent, text("sent")),
            // Its message is not needed any more, and was not in the file.
            (65_535, Progress::Released, text("")),
            (1, Progress::Sent, text("sent")),
            (2, Progress::Waiting, text("queued")),
            (3, Progress::Waiting, text("queued")),
        ]
    );
    for last in [0, 1, 40_000, 65_534, 65_535] {
        let imported = Made::new(6)
            .message(1, "t", "x")
            .session("c", last)
            .outgoing("c", 1, last, 1, QUEUED)
            .import();
        let next = last % 65_535 + 1;
        assert_eq!(owed(&imported, "c")[0].0, next, "after {last}");
    }
}

#[test]
fn packet_identifiers_that_cannot_be_kept_are_named() {
    let imported = Made::new(6)
        .message(1, "t", "x")
        .session("c", 50_000)
        .outgoing("c", 1, 100, 1, WAIT_FOR_PUBACK)
        .outgoing("c", 1, 100, 1, WAIT_FOR_PUBACK)
        .outgoing("c", 1, 50_000, 1, WAIT_FOR_PUBACK)
        .import();
    assert_eq!(imported.account.lost(Loss::PacketIdentifier), 2);
    assert_eq!(owed(&imported, "c").len(), 1);
}

#[test]
fn a_message_that_its_publisher_has_not_released_is_routed_once() {
    let imported = Made::new(6)
        .message_with(1, "a/b", "new", 0, 2, true, b"")
        .message_with(2, "a/b", "old", 0, 1, true, b"")
        .message(3, "a/b", "queued")
        .message_with(4, "gone", "", 0, 2, true, b"")
        .message_with(5, "gone", "old", 0, 2, true, b"")
        .session("publisher", 0)
        .incoming("publisher", 1, 9)
        .incoming("publisher", 1, 9)
        .incoming("publisher", 4, 10)
        .session("reader", 1)
        .outgoing("reader", 3, 1, 1, QUEUED)
        .session("at most once", 0)
        .subscription("publisher", "#", 2 | 1 << 2, 0)
        .subscription("reader", "a/+", 1, 3)
        .subscription("reader", "a/#", 2 | 1 << 3, 4)
        .subscription("at most once", "#", 0, 0)
        .subscription("reader", "$share/g/gone", 1, 0)
        .retained(2)
        .retained(5)
        .import();
    assert!(imported.account.is_complete());
    let publisher = session(&imported, "publisher");
    let inbound: Vec<_> = publisher.inbound.iter().map(|it| it.get()).collect();
    assert_eq!((inbound, publisher.exchanges), (vec![9, 10], 2));
    assert!(publisher.deliveries.is_empty(), "no local");
    assert!(session(&imported, "at most once").deliveries.is_empty());
    let text = str::to_owned;
    assert_eq!(
        owed(&imported, "reader"),
        [
            (2, Progress::Waiting, text("queued")),
            (3, Progress::Waiting, text("new")),
            (4, Progress::Waiting, text("")),
        ]
    );
    let reader = &session(&imported, "reader").deliveries;
    assert_eq!((reader[1].qos, reader[1].retain), (QoS::ExactlyOnce, true));
    assert_eq!(reader[1].subscription_identifiers.len(), 2);
    assert_eq!(
        (reader[2].qos, reader[2].share.as_deref()),
        (QoS::AtLeastOnce, Some("$share/g/gone"))
    );
    // It replaces what is retained, and without payload it removes it.
    assert_eq!(retained(&imported), [(text("a/b"), text("new"))]);
}

#[test]
fn everything_that_is_not_kept_is_counted_and_named() {
    let imported = Made::new(6)
        .message_with(1, "t", "late", NOW_S, 1, true, b"")
        .message_with(2, "t/+", "x", 0, 1, true, b"")
        .message_with(3, "t", "x", 0, 1, true, b"\x02\x01")
        .message(4, "t", "x")
        .session_with("over", "", NOW_S, 60, 0)
        .outgoing("over", 4, 1, 1, QUEUED)
        .session("", 0)
        .session("c", 1)
        .outgoing("c", 1, 1, 1, WAIT_FOR_PUBACK)
        .outgoing("c", 1, 2, 1, QUEUED)
        .outgoing("c", 2, 3, 1, QUEUED)
        .outgoing("c", 3, 4, 1, QUEUED)
        .outgoing("c", 99, 5, 1, QUEUED)
        .incoming("c", 99, 5)
        .delivery_with("c", 4, 6, [1, QUEUED, 0, 1], b"\x05\x0b")
        .outgoing("nobody", 4, 1, 1, QUEUED)
        .subscription("c", "a/#/b", 1, 0)
        .subscription("c", "a", 1 | 3 << 4, 0)
        .subscription("c", "a", 1, u32::MAX)
        .subscription("nobody", "a", 1, 0)
        .subscription("nobody", "b", 1, 0)
        .retained(1)
        .retained(2)
        .retained(98)
        .import();
    let losses: Vec<_> = imported.account.losses().collect();
    assert_eq!(
        losses,
        [
            "1 sessions that had expired: client \"over\"",
            "1 sessions with an invalid client identifier or user name: client \"\"",
            "3 subscriptions with an invalid topic filter, option or identifier: client \"c\" to \
             \"a/#/b\", client \"c\" to \"a\", client \"c\" to \"a\"",
            "2 subscriptions of sessions that the file does not hold: client \"nobody\", ...",
            "1 messages of sessions that the file does not hold: client \"nobody\"",
            "1 queued messages that had expired: client \"c\"",
            "2 messages owed to sessions whose content the file does not hold: client \"c\", from \
             client \"c\"",
            "3 messages owed to sessions with an invalid topic or invalid properties: client \"c\", \
             client \"c\", client \"c\"",
            "1 retained messages that had expired: topic \"t\"",
            "1 retained messages whose content the file does not hold: message 0x62",
            "1 retained messages with an invalid topic or invalid properties: message 0x2",
        ]
    );
    assert!(!imported.account.is_complete());
    // What has been sent goes on to its end, expired or not.
    assert_eq!(
        owed(&imported, "c"),
        [(1, Progress::Sent, "late".to_owned())]
    );
    assert_eq!(imported.account.sessions, 1);
}

#[test]
fn a_session_without_a_moment_at_which_it_ends_lasts_from_now_on() {
    let imported = Made::new(6)
        .session_with("connected", "", 0, 60, 0)
        .session_with("limited", "", NOW_S + 5, FOREVER, 0)
        .import();
    let end = |client| session(&imported, client).expires_at_ms;
    assert_eq!(end("connected"), Some((NOW_S + 60) * 1000));
    assert_eq!(end("limited"), Some((NOW_S + 5) * 1000));
}
