//! Logs that are longer than what is read at a time, and what two threads must not change.

use super::files::UnsyncedPart;
use super::*;
use crate::journal::{FRAME_HEADER_SIZE, Origin, Record, StoredIdentity, StoredMessage};
use crate::key::PacketIdentifier;
use crate::message::QoS;
use crate::wal::segment::{BUFFER_SIZE, SEGMENT_HEADER_SIZE, SegmentHeader};
use crate::wal::storage::{Source, Storage, StoredFile};
use std::fs;
use std::io::{self, Read, Seek, SeekFrom};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use tracing::field::{Field, Visit};

const CLOCK: WallClock = WallClock { start_ms: 1000 };
const HEADER: u64 = SEGMENT_HEADER_SIZE as u64;
const BUFFER: u64 = BUFFER_SIZE as u64;

/// A directory of its own, removed at the end.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A log that is made by hand: files of frames, each of which says that the one before was stored.
struct Made {
    directory: Directory,
    names: Vec<SegmentName>,
    folder: Folder,
}

impl Made {
    fn new(files: &[Vec<Vec<u8>>]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("fastmq-recover-{}-{number}", std::process::id());
        let folder = Folder(std::env::temp_dir().join(name));
        let directory = Directory::open(&folder.0).unwrap();
        let mut names = Vec::new();
        let mut lsn = 1;
        for payloads in files {
            let name = SegmentName {
                generation: 1,
                shard: 0,
                first: lsn,
            };
            let header = SegmentHeader {
                generation: 1,
                shard: 0,
                first: lsn,
            };
            let mut bytes = header.encode().to_vec();
            for payload in payloads {
                bytes.extend(frame(lsn, payload));
                lsn += 1;
            }
            fs::write(folder.0.join(name.file_name()), bytes).unwrap();
            names.push(name);
        }
        Self {
            directory,
            names,
            folder,
        }
    }

    fn path(&self, file: usize) -> PathBuf {
        self.folder.0.join(self.names[file].file_name())
    }

    fn damage(&self, file: usize, offset: u64) {
        let mut bytes = fs::read(self.path(file)).unwrap();
        bytes[offset as usize] ^= 1;
        fs::write(self.path(file), bytes).unwrap();
    }

    fn read(&self, recover: bool) -> Result<(ReadLog, Report), OpenError> {
        let names = self.names.clone();
        read_log(&self.directory, names, None, recover, CLOCK, &[])
    }

    /// Where and what the damage is that the log is refused for.
    fn refused(&self, recover: bool) -> (PathBuf, u64, String) {
        match self.read(recover).map(|(_, report)| report) {
            Err(
                OpenError::Damaged {
                    path,
                    offset,
                    problem,
                }
                | OpenError::Unknown {
                    path,
                    offset,
                    problem,
                },
            ) => (path, offset, problem),
            other => panic!("{other:?}"),
        }
    }
}

fn frame(lsn: Lsn, payload: &[u8]) -> Vec<u8> {
    let mut checked = [lsn.to_le_bytes(), (lsn - 1).to_le_bytes()].concat();
    checked.extend_from_slice(payload);
    let mut bytes = (payload.len() as u32).to_le_bytes().to_vec();
    bytes.extend(crc32c::crc32c(&checked).to_le_bytes());
    bytes.extend(checked);
    bytes
}

/// A record of a kind that there is not.
const UNKNOWN: [u8; 1] = [200];

/// A Session, and a message that is owed to it: a payload that makes its frame `size` bytes large.
fn owed(sequence: u64, size: u64) -> Vec<u8> {
    let encoded = |content: &[u8]| {
        let mut payload = Vec::new();
        let records = [
            Record::Session {
                session: 1,
                identity: StoredIdentity {
                    client_identifier: "c",
                    username: None,
                    listener: 0,
                    port: 0,
                },
                expiry_interval_s: 60,
                next_sequence: 0,
                exchanges: 0,
                window: Some(20),
                will: None,
            },
            Record::Message {
                message: sequence + 1,
                shared: false,
                origin: None,
                content: StoredMessage {
                    topic_name: "t",
                    properties: b"",
                    payload: content,
                    qos: QoS::AtLeastOnce,
                    retain: false,
                    expires_at_ms: None,
                },
            },
            Record::Delivery {
                session: 1,
                sequence,
                message: sequence + 1,
                qos: QoS::AtLeastOnce,
                retain: false,
                sent: false,
                share: None,
                subscription_identifiers: &[],
            },
        ];
        for record in records {
            record.encode(&mut payload);
        }
        payload
    };
    let around = FRAME_HEADER_SIZE + encoded(b"").len();
    encoded(&vec![sequence as u8; size as usize - around])
}

/// Frames of one delivery each, from place `first` on.
fn frames(first: u64, sizes: &[u64]) -> Vec<Vec<u8>> {
    let sequences = first..;
    sizes
        .iter()
        .zip(sequences)
        .map(|(&size, sequence)| owed(sequence, size))
        .collect()
}

/// The places that are owed, whose messages are what they should be.
fn places(log: ReadLog) -> Vec<u64> {
    let Some(session) = log.replayed.sessions.get(&1) else {
        return Vec::new();
    };
    let deliveries = session.deliveries.iter();
    deliveries
        .map(|it| {
            let message = it.message.as_ref().unwrap().as_ref().as_ref();
            assert!(
                message
                    .payload
                    .iter()
                    .all(|&byte| byte == it.sequence as u8)
            );
            it.sequence
        })
        .collect()
}

#[test]
fn a_log_of_many_blocks_and_files_is_read_as_it_was_written() {
    let sizes: Vec<u64> = (0..400).map(|number| 300 + number * 97 % 40_000).collect();
    let files: Vec<_> = (0..3).map(|file| frames(file * 400, &sizes)).collect();
    let made = Made::new(&files);
    let (log, report) = made.read(false).unwrap();
    assert_eq!(places(log), Vec::from_iter(0..1200));
    let bytes = 3 * sizes.iter().sum::<u64>();
    let found = (report.frames, report.records, report.bytes);
    assert_eq!(found, (1200, 3600, bytes));
}

#[test]
fn a_record_nobody_knows_is_what_is_said_though_there_is_damage_behind_it() {
    // The reader is blocks ahead when it meets the damage, or meets it behind the same block.
    for size in [1000, 200_000] {
        let files = [
            [
                frames(0, &[1000; 2]),
                vec![UNKNOWN.to_vec()],
                frames(2, &[size; 12]),
            ]
            .concat(),
            frames(14, &[1000; 3]),
        ];
        // Damage of the same file, of the next one, of the next one's header, and none.
        let same = HEADER + 2000 + 25 + size * 9 + 50;
        for damage in [Some((0, same)), Some((1, HEADER + 70)), Some((1, 20)), None] {
            let made = Made::new(&files);
            if let Some((file, offset)) = damage {
                made.damage(file, offset);
            }
            for recover in [false, true] {
                let problem = "a record that no version of this program writes".into();
                assert_eq!(made.refused(recover), (made.path(0), HEADER, problem));
            }
        }
    }
}

#[test]
fn a_record_nobody_knows_behind_damage_is_said_to_be_where_reading_went_on() {
    let mut payloads = frames(0, &[1000; 9]);
    payloads[6] = UNKNOWN.to_vec();
    let made = Made::new(&[payloads]);
    made.damage(0, HEADER + 2 * 1000 + 100);
    let damaged = "the checksum of the frame is wrong".into();
    let at = HEADER + 2 * 1000;
    assert_eq!(made.refused(false), (made.path(0), at, damaged));
    let unknown = "a record that no version of this program writes".into();
    let at = HEADER + 3 * 1000;
    assert_eq!(made.refused(true), (made.path(0), at, unknown));
}

#[test]
fn a_frame_that_is_larger_than_a_block_is_read_wherever_it_stands() {
    let small = [1000, BUFFER / 2, BUFFER - 3000];
    for large in [BUFFER - 1, BUFFER, BUFFER + 1, 3 * BUFFER + 17] {
        for index in 0..=small.len() {
            let mut sizes = small.to_vec();
            sizes.insert(index, large);
            let made = Made::new(&[frames(0, &sizes), frames(4, &sizes)]);
            let (log, report) = made.read(false).unwrap();
            assert_eq!(places(log), Vec::from_iter(0..8), "{sizes:?}");
            assert_eq!(report.bytes, 2 * sizes.iter().sum::<u64>());
        }
    }
}

#[test]
fn damage_at_the_border_of_a_block_costs_the_frame_that_it_is_in() {
    // Eight fill a buffer, to the byte or nearly.
    for size in [BUFFER / 8 - 3, BUFFER / 8, BUFFER / 8 + 3] {
        for damaged in 5..11 {
            let made = Made::new(&[frames(0, &[size; 20])]);
            // Its size, its number, and a byte of its payload.
            for at in [1, 9, size - 1] {
                let offset = HEADER + damaged * size + at;
                made.damage(0, offset);
                let at = HEADER + damaged * size;
                assert_eq!(made.refused(false).1, at, "{size} {damaged}");
                let (log, report) = made.read(true).unwrap();
                assert_eq!((report.lost_frames, report.lost_bytes), (1, size));
                assert_eq!((report.frames, report.bytes), (19, 19 * size));
                let expected = (0..20).filter(|&place| place != damaged);
                assert_eq!(places(log), Vec::from_iter(expected));
                made.damage(0, offset);
            }
        }
    }
}

#[test]
fn an_unfinished_write_behind_many_blocks_is_left_out() {
    let sizes = [BUFFER / 3; 12];
    let made = Made::new(&[frames(0, &sizes)]);
    let bytes = fs::read(made.path(0)).unwrap();
    for missing in [100, 1000, BUFFER / 3 - 1] {
        let size = bytes.len() - missing as usize;
        fs::write(made.path(0), &bytes[..size]).unwrap();
        let (log, report) = made.read(false).unwrap();
        let end = HEADER + 11 * (BUFFER / 3);
        assert_eq!(report.torn_bytes, BUFFER / 3 - missing);
        assert_eq!(log.ends, [(made.names[0].file_name(), end)]);
        assert_eq!(places(log), Vec::from_iter(0..11));
    }
}

/// Takes what is said in this thread, and panics if it is told to.
struct Listener {
    said: Mutex<Vec<String>>,
    panics: bool,
}

struct Text(String);

impl Visit for Text {
    fn record_debug(&mut self, _: &Field, value: &dyn fmt::Debug) {
        self.0 += &format!("{value:?}");
    }
}

impl tracing::Subscriber for Listener {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }

    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}

    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}

    fn event(&self, event: &tracing::Event<'_>) {
        let mut text = Text(String::new());
        event.record(&mut text);
        assert!(!self.panics, "{}", text.0);
        self.said.lock().unwrap().push(text.0);
    }

    fn enter(&self, _: &tracing::span::Id) {}

    fn exit(&self, _: &tracing::span::Id) {}
}

#[test]
fn warnings_come_in_order_and_none_of_what_is_behind_a_record_nobody_knows() {
    let mut payloads = frames(0, &[BUFFER / 4; 30]);
    payloads[20] = UNKNOWN.to_vec();
    let made = Made::new(&[payloads]);
    for frame in [3, 11] {
        made.damage(0, HEADER + frame * (BUFFER / 4) + 30);
    }
    // Behind that record.
    made.damage(
        0,
        fs::metadata(made.path(0)).unwrap().len() - 2 * (BUFFER / 4),
    );
    let listener = Arc::new(Listener {
        said: Mutex::default(),
        panics: false,
    });
    let refused = heard_by(listener.clone(), || made.refused(true));
    assert_eq!(refused.1, HEADER + 12 * (BUFFER / 4));
    let said = listener.said.lock().unwrap();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[0].contains("frames 4 to 4 at offset"), "{said:?}");
    assert!(said[1].contains("frames 12 to 12 at offset"), "{said:?}");
}

#[test]
fn a_panic_of_the_replay_ends_the_reader_and_comes_through() {
    let made = Made::new(&[frames(0, &[BUFFER / 4; 100])]);
    made.damage(0, HEADER + 3 * (BUFFER / 4) + 30);
    let listener = Listener {
        said: Mutex::default(),
        panics: true,
    };
    let reading = AssertUnwindSafe(|| made.read(true).map(|(_, report)| report));
    let listening = AssertUnwindSafe(|| heard_by(listener, reading));
    let panic = catch_unwind(listening).unwrap_err();
    let text = panic.downcast::<String>().unwrap();
    assert!(text.contains("frames 4 to 4 at offset"), "{text}");
}

/// Does something that `listener` hears the words of. While there is one listener alone, whoever says something for the
/// first time asks that of its own thread, and where another test has none nobody hears it from then on. So there are two.
fn heard_by<T>(listener: impl Into<tracing::Dispatch>, say: impl FnOnce() -> T) -> T {
    let second = tracing::Dispatch::new(Listener {
        said: Mutex::default(),
        panics: false,
    });
    let heard = tracing::dispatcher::with_default(&listener.into(), say);
    drop(second);
    heard
}

/// A directory of which only so much of each file can be read.
#[derive(Debug)]
struct Failing {
    storage: Arc<dyn Storage>,
    after: u64,
    panics: bool,
}

impl Storage for Failing {
    fn path(&self, name: &str) -> PathBuf {
        self.storage.path(name)
    }

    fn names(&self) -> io::Result<Vec<String>> {
        self.storage.names()
    }

    fn create(&self, name: &str, size: u64) -> io::Result<Box<dyn StoredFile>> {
        self.storage.create(name, size)
    }

    fn open(&self, name: &str) -> io::Result<(Box<dyn Source>, u64)> {
        let (source, size) = self.storage.open(name)?;
        let (after, panics) = (self.after, self.panics);
        let failing = FailingSource {
            source,
            after,
            panics,
        };
        Ok((Box::new(failing), size))
    }

    fn open_to_write(&self, name: &str) -> io::Result<Box<dyn StoredFile>> {
        self.storage.open_to_write(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.storage.rename(from, to)
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.storage.remove(name)
    }

    fn sync(&self) -> io::Result<()> {
        self.storage.sync()
    }
}

struct FailingSource {
    source: Box<dyn Source>,
    after: u64,
    panics: bool,
}

impl Read for FailingSource {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let left = self.after - self.source.stream_position()?;
        if left == 0 {
            assert!(!self.panics, "the disk is on fire");
            return Err(io::Error::other("the disk is old"));
        }
        let size = buffer.len().min(left as usize);
        self.source.read(&mut buffer[..size])
    }
}

impl Seek for FailingSource {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.source.seek(position)
    }
}

impl Made {
    fn fail_after(&mut self, after: u64, panics: bool) {
        let storage = self.directory.storage().clone();
        self.directory = Directory::in_storage(Arc::new(Failing {
            storage,
            after,
            panics,
        }));
    }
}

#[test]
fn a_record_nobody_knows_is_what_is_said_though_the_disk_fails_behind_it() {
    // In a block that was handed over, and in the one that is being filled.
    for unknown in [1, 9] {
        let mut payloads = frames(0, &[BUFFER / 4; 20]);
        payloads[unknown] = UNKNOWN.to_vec();
        let mut made = Made::new(&[payloads]);
        made.fail_after(HEADER + 10 * (BUFFER / 4), false);
        let problem = "a record that no version of this program writes".into();
        assert_eq!(made.refused(false), (made.path(0), HEADER, problem));
    }
    let mut made = Made::new(&[frames(0, &[BUFFER / 4; 20])]);
    made.fail_after(HEADER + 10 * (BUFFER / 4), false);
    let error = made.read(false).map(|(_, report)| report).unwrap_err();
    assert!(matches!(error, OpenError::Directory(_)), "{error:?}");
    assert!(error.to_string().contains("the disk is old"), "{error}");
}

#[test]
fn the_name_of_a_session_that_only_another_log_knows_is_not_used_again() {
    let origin = Origin {
        session: 40,
        exchange: 1,
        packet_identifier: PacketIdentifier::new(1).unwrap(),
    };
    let suspect = Suspect {
        origin,
        digest: None,
        sessions: vec![41],
        groups: Vec::new(),
    };
    let log = |suspects, handed_on| Replayed {
        suspects,
        handed_on,
        session_max: 7,
        ..Replayed::default()
    };
    assert_eq!(merge([log(vec![suspect], Vec::new())]).session_max, 41);
    assert_eq!(merge([log(Vec::new(), vec![(50, 3)])]).session_max, 50);
}

#[test]
fn a_panic_of_the_reader_comes_through() {
    let mut made = Made::new(&[frames(0, &[BUFFER / 4; 100])]);
    made.fail_after(HEADER + 20 * (BUFFER / 4), true);
    let reading = AssertUnwindSafe(|| made.read(false).map(|(_, report)| report));
    let panic = catch_unwind(reading).unwrap_err();
    assert_eq!(*panic.downcast::<&str>().unwrap(), "the disk is on fire");
}

#[test]
fn what_is_written_again_at_a_start_is_what_was_read_or_the_start_is_refused() {
    let sizes = [300, 2 * BUFFER, 500, 40_000];
    let made = Made::new(&[frames(0, &sizes)]);
    let storage = &**made.directory.storage();
    let part = UnsyncedPart {
        name: made.names[0].file_name(),
        first: 2,
        last: 4,
        from: HEADER + sizes[0],
    };
    let before = fs::read(made.path(0)).unwrap();
    write_again(storage, &part).unwrap();
    assert!(before == fs::read(made.path(0)).unwrap());
    // The system has forgotten some of it meanwhile: nothing is promised of the log.
    made.damage(0, part.from + sizes[1] + 50);
    let damaged = fs::read(made.path(0)).unwrap();
    let said = write_again(storage, &part).unwrap_err().to_string();
    assert!(said.contains("cannot be read any more"), "{said}");
    assert!(damaged == fs::read(made.path(0)).unwrap());
}
