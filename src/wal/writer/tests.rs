//! What the disk holds when the power fails in the middle of something.

use super::*;
use crate::journal::{Journal, Origins, Record, WallClock};
use crate::sim::{Disk, Faults, Random};
use crate::wal::StoreOptions;
use crossbeam::channel::unbounded;

const INTERVAL: Duration = Duration::from_millis(100);
/// Of the segments before the one whose end the disk refuses.
const SEGMENTS: Lsn = 6;

/// A frame that takes a segment of its own, or one that fits beside another.
const LARGE: usize = 700;
const SMALL: usize = 50;

fn write(journal: &mut Journal, size: usize) -> Request {
    journal.append(&Record::Unsubscribed {
        session: 1,
        filter: &"f".repeat(size),
    });
    let mut frames = Vec::new();
    let lsn = journal.take(&mut frames).unwrap();
    Request::Write {
        frames,
        first: lsn,
        last: lsn,
    }
}

#[test]
fn what_is_forgotten_while_a_failed_sync_is_made_good_leaves_no_gap_whenever_the_power_fails() {
    let options = StoreOptions {
        durability: Durability::Interval(INTERVAL),
        segment_size: 1024,
        ..StoreOptions::new("unused".into())
    };
    let mut unnamed = 0;
    for seed in 0..2000 {
        let disk = Disk::new(Random::new(seed));
        let mut random = Random::new(seed + 10_000);
        let mut store = disk.open(&options, 1, 7).unwrap();
        let mut writer = store.logs.remove(0).take_writer().unwrap();
        let (requests, asked) = unbounded();
        writer.requests = asked;
        let mut journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        let mut now = Instant::ZERO;
        for _ in 0..SEGMENTS {
            requests.send(write(&mut journal, LARGE)).unwrap();
            assert!(writer.step(now));
        }
        now = now + INTERVAL;
        writer.step(now);
        assert!(writer.is_synced());
        // Behind what the disk has of the last one, so that it begins another one.
        requests.send(write(&mut journal, SMALL)).unwrap();
        writer.step(now);
        disk.set_faults(Faults {
            failing: 40,
            ..Faults::default()
        });
        now = now + INTERVAL;
        for _ in 0..random.between(1, 12) {
            writer.step(now);
        }
        let segments = disk.directory().segments().unwrap_or_default();
        let is_made = segments.iter().any(|name| name.first == SEGMENTS + 1);
        unnamed += usize::from(is_made && writer.unsynced.is_some());
        disk.set_faults(Faults {
            power_for: Some(random.below(25)),
            ..Faults::default()
        });
        let before = random.between(2, SEGMENTS as usize) as Lsn;
        requests.send(Request::Forget { before }).unwrap();
        for _ in 0..4 {
            writer.step(now);
        }
        drop(writer);
        disk.lose_power();
        if let Err(error) = disk.open(&options, 1, 7) {
            panic!("seed {seed}: {error}");
        }
    }
    assert!(unnamed > 20, "{unnamed} only");
}
