//! What reads bytes.

use fastmq::auth::{Access, Acl, PasswordFile, Subject};
use fastmq::codec::{
    DecodeError, Packet, TopicFilters, decode, decode_filters_head, decode_fixed_header, encode,
    packet_type,
};
use fastmq::config;
use fastmq::import;
use fastmq::journal::WallClock;
use fastmq::key::ShardId;
use fastmq::limits::Limits;
use fastmq::message::{Message, ProtocolVersion};
use fastmq::net::transport::WebSocketOptions;
use fastmq::net::transport::fuzz::read_web_socket;
use fastmq::net::transport::proxy::{self, ProxyVersion, V2_SIZE_MAX};
use fastmq::shard::Shard;
use fastmq::sim::{Disk, Random};
use fastmq::time::Instant;
use fastmq::topic::{TopicFilter, TopicName};
use fastmq::wal::{
    Manifest, OpenError, Report, SEGMENT_HEADER_SIZE, SegmentHeader, Storage, StoreOptions, open,
};

use crate::{fuzz, outcome, seeds};

/// Larger than any input.
const PACKET_SIZE_MAX: u32 = 1 << 20;

#[test]
fn mqtt_packets() {
    fuzz("mqtt_packets", seeds::MQTT, seeds::MQTT_WORDS, |input| {
        let Some((version, mut bytes)) = input.split_first() else {
            return 0;
        };
        let mut version = match version {
            3 => ProtocolVersion::V3,
            4 => ProtocolVersion::V311,
            _ => ProtocolVersion::V5,
        };
        let mut came_of_it = Vec::new();
        loop {
            let header = match decode_fixed_header(bytes, PACKET_SIZE_MAX) {
                Ok(Some(header)) => header,
                Ok(None) => break,
                Err(error) => {
                    came_of_it.push(error.to_string());
                    break;
                }
            };
            let Some(body) = bytes.get(header.header_size..header.total_size()) else {
                break;
            };
            let decoded = decode(version, header.first_byte, body);
            if let packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE = header.first_byte >> 4 {
                let one_by_one = count_filters(version, header.first_byte, body);
                let at_once = decoded.map(|packet| match packet {
                    Packet::Subscribe(subscribe) => subscribe.filters().count(),
                    Packet::Unsubscribe(unsubscribe) => unsubscribe.filters().count(),
                    _ => 0,
                });
                assert_eq!(one_by_one, at_once);
            }
            match decoded {
                Ok(packet) => {
                    if let Packet::Connect(connect) = packet {
                        version = connect.version;
                    }
                    came_of_it.push(format!("{:x}", header.first_byte));
                    written_and_read_again(&packet, version);
                }
                Err(error) => came_of_it.push(error.to_string()),
            }
            bytes = &bytes[header.total_size()..];
        }
        outcome(came_of_it)
    });
}

/// Reads Topic Filters one by one.
fn count_filters(
    version: ProtocolVersion,
    first_byte: u8,
    body: &[u8],
) -> Result<usize, DecodeError> {
    let head = decode_filters_head(version, first_byte, body)?;
    let mut filters = TopicFilters::new(version, first_byte, body, head.filters_size);
    let mut count = 0;
    while filters.read()?.is_some() {
        count += 1;
    }
    assert_eq!(filters.size(), 0);
    Ok(count)
}

/// What was read is what will be read of what is written of it.
fn written_and_read_again(packet: &Packet<'_>, version: ProtocolVersion) {
    let mut written = Vec::new();
    encode(packet, version, &mut written);
    let header = decode_fixed_header(&written, PACKET_SIZE_MAX)
        .unwrap()
        .unwrap();
    assert_eq!(header.total_size(), written.len());
    let again = decode(version, header.first_byte, &written[header.header_size..]).unwrap();
    let mut written_again = Vec::new();
    encode(&again, version, &mut written_again);
    assert_eq!(written, written_again);
}

#[test]
fn configuration() {
    let seeds = seeds::CONFIGURATION;
    fuzz(
        "configuration",
        seeds,
        seeds::CONFIGURATION_WORDS,
        |input| {
            config::fuzz(input);
            let result = config::Config::parse("main", &Only(input));
            match result {
                Ok(config) => outcome((config.listeners.len(), config.remarks.len())),
                // The name of a directive or the value would make every input a new one.
                Err(error) => outcome(std::mem::discriminant(&error.problem)),
            }
        },
    );
}

/// A disk with one file.
struct Only<'a>(&'a [u8]);

impl config::Files for Only<'_> {
    fn read(&self, file: &str) -> Result<Vec<u8>, String> {
        match file {
            "main" => Ok(self.0.to_vec()),
            _ => Err("no such file".to_owned()),
        }
    }
    fn names(&self, _: &str) -> Result<Vec<String>, String> {
        Ok(Vec::new())
    }
}

#[test]
fn access_rules() {
    fuzz("access_rules", seeds::ACL, seeds::ACL_WORDS, |input| {
        let acl = match Acl::parse("acl", input) {
            Ok(acl) => acl,
            Err(error) => return outcome(std::mem::discriminant(&error.problem)),
        };
        let mut answers = vec![!acl.warnings().is_empty()];
        for username in [None, Some("ann"), Some("a+"), Some("#"), Some("")] {
            let subject = Subject {
                username,
                client_identifier: "one",
            };
            for topic in [
                "home/safe/x",
                "devices/one/state",
                "users/ann/1",
                "$SYS/a",
                "/",
                "a",
            ] {
                for access in [Access::Read, Access::Write] {
                    let answer = acl.check(&subject, access, topic.as_bytes());
                    let standing = acl.standing(&subject);
                    let again = acl.check_with(standing, &subject, access, topic.as_bytes());
                    assert_eq!(answer, again);
                    answers.push(answer);
                }
            }
        }
        outcome(answers)
    });
}

#[test]
fn password_files() {
    fuzz(
        "password_files",
        seeds::PASSWORDS,
        seeds::PASSWORDS_WORDS,
        |input| {
            match PasswordFile::parse("passwd", input) {
                Ok(file) => {
                    // Verifying is meant to take long: not here.
                    let known = file.credential("ann").is_some();
                    outcome((file.users_count(), file.warnings().len(), known))
                }
                Err(error) => outcome(std::mem::discriminant(&error.problem)),
            }
        },
    );
}

#[test]
fn topics() {
    let seeds: [&[u8]; 3] = [b"a/+/c/#\0a/b/c/d", b"$share/g/a/#\0a", b"#\0$SYS/x"];
    let words: [&[u8]; 6] = [b"+", b"#", b"/", b"$share/", b"\0", b"\xc3\xa9"];
    fuzz("topics", &seeds, &words, |input| {
        let Ok(text) = std::str::from_utf8(input) else {
            return 0;
        };
        let (filter, name) = text.split_once('\0').unwrap_or((text, text));
        match (TopicFilter::new(filter), TopicName::new(name)) {
            (Ok(filter), Ok(name)) => {
                let matches = filter.matches(name);
                outcome((matches, name.levels().count()))
            }
            (filter, name) => outcome((
                filter.err().map(|error| error.to_string()),
                name.err().map(|error| error.to_string()),
            )),
        }
    });
}

#[test]
fn proxy_headers() {
    fuzz("proxy_headers", seeds::PROXY, seeds::PROXY_WORDS, |input| {
        let both = [ProxyVersion::V1, ProxyVersion::V2].map(|version| {
            let whole = proxy::parse(version, input);
            match &whole {
                Ok(Some((header, size))) => {
                    assert!(*size <= input.len() && *size <= V2_SIZE_MAX);
                    // Neither what follows nor how it arrives changes what it says.
                    let alone = proxy::parse(version, &input[..*size]).unwrap().unwrap();
                    assert_eq!((&alone.0, &alone.1), (header, size));
                    for cut in 0..*size {
                        assert_eq!(proxy::parse(version, &input[..cut]), Ok(None), "at {cut}");
                    }
                }
                // More would never be taken.
                Ok(None) => assert!(input.len() < V2_SIZE_MAX),
                Err(_) => {}
            }
            match whole {
                Ok(header) => Ok(header.map(|(header, _)| {
                    (header.peer.is_some(), header.is_tls, header.has_certificate)
                })),
                Err(error) => Err(error.to_string()),
            }
        });
        outcome(both)
    });
}

#[test]
fn web_sockets() {
    let seeds = seeds::WEB_SOCKET;
    fuzz("web_sockets", seeds, seeds::WEB_SOCKET_WORDS, |input| {
        let options = WebSocketOptions::default();
        let whole = read_web_socket(&options, &[input]);
        assert!(whole.plain.len() <= input.len());
        assert!(whole.held_size <= options.headers_size_max);
        // The request and its frames may be cut anywhere, and nobody has to wait for the upgrade.
        if whole.answers.starts_with(b"HTTP/1.1 101 ") {
            for size in [1 + input.len() % 7, 1 + input.len() / 2] {
                let pieces: Vec<&[u8]> = input.chunks(size).collect();
                assert_eq!(read_web_socket(&options, &pieces), whole);
            }
        }
        let status = whole.answers.get(9..12).map(<[u8]>::to_vec);
        outcome((whole.end, status, whole.plain.len()))
    });
}

#[test]
fn mosquitto_databases() {
    let seeds = seeds::DATABASE;
    fuzz(
        "mosquitto_databases",
        seeds,
        seeds::DATABASE_WORDS,
        |input| {
            let clock = WallClock {
                start_ms: 1_795_666_500_000,
            };
            let size = input.len() as u64;
            let imported = match import::read(input, size, clock, Instant::ZERO) {
                Ok((_, imported)) => imported,
                Err(error) => {
                    assert!(error.offset <= size);
                    return outcome(std::mem::discriminant(&error.problem));
                }
            };
            for session in imported.replayed.sessions.values() {
                assert!(session.identity.is_some());
                for filter in session.subscriptions.keys() {
                    assert!(TopicFilter::new(filter).is_ok());
                }
                let mut next = 0;
                for delivery in &session.deliveries {
                    assert!(delivery.sequence >= next, "places go forward");
                    next = delivery.sequence + 1;
                    if let Some(message) = &delivery.message {
                        assert_is_message(message);
                    }
                }
                assert!(next <= session.next_sequence);
            }
            for retained in &imported.replayed.retained {
                assert_is_message(&retained.message);
            }
            let account = &imported.account;
            let kinds = account.losses().count();
            outcome((
                account.sessions,
                account.subscriptions,
                account.queued,
                account.retained,
                kinds,
            ))
        },
    );
}

/// A first byte that says how, then frames: a log that a broker finds when it starts.
#[test]
fn stores() {
    let frames = seeds::frames();
    let seeds: Vec<&[u8]> = frames.iter().map(Vec::as_slice).collect();
    fuzz("stores", &seeds, seeds::RECORD_WORDS, |input| {
        let Some((&how, frames)) = input.split_first() else {
            return 0;
        };
        let mut frames = frames.to_vec();
        if how & 1 != 0 {
            // What no disk does, but another version of this program might.
            seal(&mut frames);
        }
        let recover = how & 2 != 0;
        let shard_count = usize::from(how >> 2 & 3) + 1;
        let disk = disk_with(&frames);
        let first = match open_again(&disk, recover, shard_count) {
            Ok(report) => report,
            Err(error) => {
                let (OpenError::Damaged { offset, .. } | OpenError::Unknown { offset, .. }) = error
                else {
                    panic!("{error}");
                };
                assert!(offset <= (SEGMENT_HEADER_SIZE + frames.len()) as u64);
                return outcome(error.to_string().len());
            }
        };
        let second = open_again(&disk, recover, shard_count).expect("as before");
        let held = |report: &Report| (report.sessions, report.deliveries, report.retained);
        assert_eq!(
            held(&first),
            held(&second),
            "nothing has happened meanwhile"
        );
        outcome((
            held(&first),
            first.records,
            first.lost_frames,
            first.torn_bytes > 0,
        ))
    });
}

/// Makes the checksums right, as far as there is a frame behind a frame.
fn seal(mut frames: &mut [u8]) {
    while let Some((size, _)) = frames.split_first_chunk() {
        let end = 24_usize.saturating_add(u32::from_le_bytes(*size) as usize);
        let Some((frame, rest)) = frames.split_at_mut_checked(end) else {
            return;
        };
        let checksum = crc32c::crc32c(&frame[8..]);
        frame[4..8].copy_from_slice(&checksum.to_le_bytes());
        frames = rest;
    }
}

/// A store of one shard that has one segment.
fn disk_with(frames: &[u8]) -> Disk {
    let disk = Disk::new(Random::new(1));
    let manifest = Manifest {
        generation: 1,
        shard_count: 1,
        seed: 7,
    };
    disk.directory().set_manifest(&manifest).unwrap();
    let header = SegmentHeader {
        generation: 1,
        shard: 0,
        first: 1,
    };
    let name = "00000001-000-00000000000000000001.log";
    let mut file = disk.create(name, 0).unwrap();
    file.write_all_at(&header.encode(), 0).unwrap();
    file.write_all_at(frames, SEGMENT_HEADER_SIZE as u64)
        .unwrap();
    disk
}

/// Starts what a broker does of it: what was found.
fn open_again(disk: &Disk, recover: bool, shard_count: usize) -> Result<Report, OpenError> {
    let options = StoreOptions {
        recover,
        segment_size: 4096,
        ..StoreOptions::new("unused".into())
    };
    let clock = WallClock {
        start_ms: 1_795_666_500_000,
    };
    let store = open(disk.directory(), &options, shard_count, 7, clock, &[1883])?;
    for (index, part) in store.shards.into_iter().enumerate() {
        let id = ShardId(u16::try_from(index).unwrap());
        let mut shard = Shard::new(id, shard_count, Limits::default(), 7);
        part.restore(&mut shard, index, shard_count, Instant::ZERO);
    }
    Ok(store.report)
}

/// What the log can be read back with.
fn assert_is_message(message: &Message) {
    let topic_name = std::str::from_utf8(message.topic_name()).unwrap();
    assert!(TopicName::new(topic_name).is_ok());
}
