#![forbid(unsafe_code)]

use super::*;
use crate::origin::PeerAddress;
use crate::shard::DisconnectCause;
use crossbeam::channel::unbounded;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Mutex;
use std::time::Instant;

const PATIENCE: Duration = Duration::from_secs(20);

struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("fastmq-log-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("a.log")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn into_file(path: &Path) -> Options {
    Options {
        destinations: vec![Destination::File(path.to_owned())],
        timestamp: Timestamp::Off,
        ..Options::default()
    }
}

fn closed(client_identifier: &str) -> Box<Event> {
    Box::new(Event::Disconnected {
        client_identifier: Arc::from(client_identifier),
        peer: PeerAddress::Local,
        cause: DisconnectCause::Closed,
    })
}

#[test]
fn only_wanted_kinds_are_written_and_each_is_counted() {
    let folder = Folder::new("kinds");
    let log = Log::start(into_file(&folder.file())).unwrap();
    log.write(Kind::Error, "an error");
    log.write(Kind::Debug, "a detail");
    log.write(Kind::Notice, "two\nlines");
    log.stop(PATIENCE);
    let text = fs::read_to_string(folder.file()).unwrap();
    assert_eq!(text, "an error\ntwo\\nlines\n");
    let counts = log.counts();
    assert!(counts.written.contains(&(Kind::Error, 1)), "{counts:?}");
    assert!(counts.written.contains(&(Kind::Debug, 0)), "{counts:?}");
    assert_eq!((counts.dropped, counts.lost), (0, 0));
}

#[test]
fn the_epoch_is_in_front_of_a_line_unless_told_otherwise() {
    let folder = Folder::new("epoch");
    let options = Options {
        timestamp: Timestamp::default(),
        ..into_file(&folder.file())
    };
    let log = Log::start(options).unwrap();
    log.write(Kind::Information, "fastmq running");
    log.stop(PATIENCE);
    let text = fs::read_to_string(folder.file()).unwrap();
    let (time, rest) = text.split_once(": ").unwrap();
    assert!(time.parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(rest, "fastmq running\n");
}

#[test]
fn connection_messages_can_be_left_out() {
    for (connection_messages, expected) in
        [(true, "Client a closed its connection.\n"), (false, "")]
    {
        let folder = Folder::new(&format!("messages-{connection_messages}"));
        let options = Options {
            connection_messages,
            ..into_file(&folder.file())
        };
        let log = Log::start(options).unwrap();
        let (events, events_out) = unbounded();
        let (_trees, trees_out) = unbounded();
        log.attach_shards(events_out, trees_out, Dropped::default(), Box::default());
        events.send((ShardId(0), closed("a"))).unwrap();
        log.stop(PATIENCE);
        let text = fs::read_to_string(folder.file()).unwrap_or_default();
        assert_eq!(text, expected);
    }
}

#[test]
fn a_tree_is_written_whatever_kinds_are_wanted() {
    let folder = Folder::new("tree");
    let options = Options {
        kinds: Kinds::NONE,
        ..into_file(&folder.file())
    };
    let log = Log::start(options).unwrap();
    let (_events, events_out) = unbounded();
    let (trees, trees_out) = unbounded();
    log.attach_shards(events_out, trees_out, Dropped::default(), Box::default());
    trees.send((ShardId(1), "a\n  b (x, 1)\n".into())).unwrap();
    log.stop(PATIENCE);
    assert_eq!(
        fs::read_to_string(folder.file()).unwrap(),
        "Subscriptions of shard 1:\na\n  b (x, 1)\n"
    );
}

#[test]
fn what_finds_no_room_is_counted_and_reported() {
    let folder = Folder::new("dropped");
    let log = Log::start(into_file(&folder.file())).unwrap();
    let (gate, go) = bounded::<()>(0);
    // The writer waits where a destination would.
    log.attach_publisher(Box::new(move |_| {
        let _ = go.recv();
    }));
    let options = Options {
        destinations: vec![Destination::Topic, Destination::File(folder.file())],
        ..into_file(&folder.file())
    };
    log.configure(options);
    log.flush(PATIENCE);
    let count = 2 * LINES_MAX as u64;
    for index in 0..count {
        log.write(Kind::Error, format!("line {index}"));
    }
    drop(gate);
    log.stop(PATIENCE);
    let dropped = log.counts().dropped;
    assert!((1..count).contains(&dropped), "{dropped}");
    let text = fs::read_to_string(folder.file()).unwrap();
    let written = text.lines().filter(|line| line.starts_with("line")).count();
    assert_eq!(written as u64 + dropped, count);
    let reported: u64 = text
        .lines()
        .filter_map(|line| line.strip_prefix("Warning: ")?.split_once(" log line"))
        .map(|(number, _)| number.parse::<u64>().unwrap())
        .sum();
    assert_eq!(reported, dropped);
}

#[test]
fn lines_that_come_one_by_one_are_written_together() {
    let folder = Folder::new("together");
    let log = Log::start(into_file(&folder.file())).unwrap();
    let begin = Instant::now();
    for index in 0..200 {
        log.write(Kind::Error, format!("line {index}"));
        std::thread::sleep(Duration::from_micros(200));
    }
    log.stop(PATIENCE);
    // However slow this machine is, at most one for each time that lines gather, beside the first and the last.
    let times = begin.elapsed().as_nanos() / writer::GATHER_TIME.as_nanos();
    let batches = u128::from(log.counts().batches);
    assert!(
        (1..=times + 2).contains(&batches),
        "{batches} in {times} times"
    );
    let text = fs::read_to_string(folder.file()).unwrap();
    assert_eq!(text.lines().count(), 200);
}

#[test]
fn lines_for_topics_carry_their_time_and_debug_is_not_among_them() {
    let log = Log::start(Options {
        destinations: vec![Destination::Topic],
        kinds: Kinds::ALL,
        timestamp: Timestamp::Off,
        ..Options::default()
    })
    .unwrap();
    let published = Arc::new(Mutex::new(Vec::new()));
    let seen = published.clone();
    log.attach_publisher(Box::new(move |line: TopicLine<'_>| {
        let line = (line.topic, line.line.to_owned());
        seen.lock().unwrap().push(line);
    }));
    log.flush(PATIENCE);
    log.write(Kind::Warning, "careful");
    log.write(Kind::Debug, "not this");
    log.write(Kind::Subscribe, "a 1 b/#");
    log.stop(PATIENCE);
    let expected = [
        ("$SYS/broker/log/W", "careful".to_owned()),
        ("$SYS/broker/log/M/subscribe", "a 1 b/#".to_owned()),
    ];
    assert_eq!(*published.lock().unwrap(), expected);
}

#[test]
fn a_log_that_cannot_be_written_loses_lines_and_goes_on() {
    let log = Log::start(into_file(Path::new("/dev/full"))).unwrap();
    log.write(Kind::Error, "one");
    log.flush(PATIENCE);
    log.write(Kind::Error, "two");
    log.stop(PATIENCE);
    assert_eq!(log.counts().lost, 2);
}

#[test]
fn lines_for_the_system_log_reach_its_socket_with_facility_and_severity() {
    let folder = Folder::new("syslog");
    let socket = folder.0.join("socket");
    let daemon = UnixDatagram::bind(&socket).unwrap();
    // Whatever was sent is there once the log has stopped.
    daemon.set_nonblocking(true).unwrap();
    let options = Options {
        destinations: vec![Destination::Syslog],
        timestamp: Timestamp::Off,
        facility: Facility::Local(2),
        syslog_socket: socket,
        ..Options::default()
    };
    let log = Log::start(options).unwrap();
    log.write(Kind::Error, "an error");
    log.write(Kind::Debug, "a detail");
    log.write(Kind::Notice, "two\nlines");
    log.stop(PATIENCE);
    let receive = || {
        let mut bytes = [0; 1024];
        let size = daemon.recv(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(bytes.get(..size)?).into_owned())
    };
    let name = format!(" fastmq[{}]: ", std::process::id());
    // local2.err and local2.notice.
    for (priority, text) in [("<147>", "an error"), ("<149>", "two\\nlines")] {
        let datagram = receive().unwrap();
        assert!(datagram.starts_with(priority), "{datagram}");
        assert!(datagram.ends_with(&format!("{name}{text}")), "{datagram}");
    }
    assert_eq!(receive(), None);
    assert_eq!(log.counts().lost, 0);
}

#[test]
fn reopening_follows_a_rotation_at_once() {
    let folder = Folder::new("rotate");
    let log = Log::start(into_file(&folder.file())).unwrap();
    log.write(Kind::Error, "before");
    log.flush(PATIENCE);
    let rotated = folder.0.join("a.log.1");
    fs::rename(folder.file(), &rotated).unwrap();
    log.reopen();
    log.flush(PATIENCE);
    log.write(Kind::Error, "after");
    log.stop(PATIENCE);
    assert_eq!(fs::read_to_string(rotated).unwrap(), "before\n");
    assert_eq!(fs::read_to_string(folder.file()).unwrap(), "after\n");
}

#[test]
fn a_line_that_is_written_after_reopening_is_never_in_the_file_that_was_rotated_away() {
    let folder = Folder::new("rotate-again");
    let log = Log::start(into_file(&folder.file())).unwrap();
    let mut rotated = Vec::new();
    for number in 0..300 {
        log.write(Kind::Error, "before");
        log.flush(PATIENCE);
        rotated.push(folder.0.join(format!("a.log.{number}")));
        fs::rename(folder.file(), &rotated[number]).unwrap();
        // So many that the writer is at work, and then all without a wait.
        for _ in 0..number % 10 {
            log.write(Kind::Error, "meanwhile");
        }
        log.reopen();
        log.write(Kind::Error, format!("after {number}."));
    }
    log.stop(PATIENCE);
    rotated.push(folder.file());
    for (number, files) in rotated.windows(2).enumerate() {
        let after = format!("after {number}.\n");
        let [before, now] = [&files[0], &files[1]].map(|it| fs::read_to_string(it).unwrap());
        assert!(!before.contains(&after), "{number}: {before}");
        assert!(now.contains(&after), "{number}: {now}");
    }
}

#[test]
fn what_is_said_by_tracing_is_in_the_log() {
    use tracing_subscriber::layer::SubscriberExt;
    let folder = Folder::new("tracing");
    let mut options = into_file(&folder.file());
    options.kinds |= Kind::Websockets;
    let log = Log::start(options).unwrap();
    let subscriber = tracing_subscriber::registry().with(LogLayer::new(log.clone()));
    tracing::subscriber::with_default(subscriber, || {
        tracing::info!(port = 1883, "Opening listen socket");
        tracing::debug!("not wanted");
        tracing::debug!(target: WEBSOCKETS_TARGET, "of its own kind");
        tracing::warn!("careful");
    });
    log.stop(PATIENCE);
    assert_eq!(
        fs::read_to_string(folder.file()).unwrap(),
        "Opening listen socket port=1883\nof its own kind\ncareful\n"
    );
}
