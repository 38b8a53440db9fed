//! What a broker finds on a disk that failed it.

use crate::key::ShardId;
use crate::limits::Limits;
use crate::origin::Origin;
use crate::shard::{Effects, Shard};
use crate::sim::{Disk, Faults, Random};
use crate::time::Instant;
use crate::wal::{Log, Report, StoreOptions, Writer};

/// A broker of one shard, whose disk works when it is told to.
struct Broker {
    shard: Shard,
    log: Log,
    writer: Writer,
    effects: Effects,
    report: Report,
}

impl Broker {
    fn open(disk: &Disk) -> Self {
        let options = StoreOptions {
            segment_size: 1024,
            ..StoreOptions::new("unused".into())
        };
        let mut store = disk.open(&options, 1, 7).unwrap();
        let mut shard = Shard::new(ShardId(0), 1, Limits::default(), 7);
        let part = store.shards.remove(0);
        part.restore(&mut shard, 0, 1, Instant::ZERO);
        let mut log = store.logs.remove(0);
        Self {
            shard,
            writer: log.take_writer().unwrap(),
            log,
            effects: Effects::default(),
            report: store.report,
        }
    }

    fn work(&mut self) {
        self.log
            .turn(&mut self.shard, Instant::ZERO, &mut self.effects);
        self.writer.step();
        self.log
            .turn(&mut self.shard, Instant::ZERO, &mut self.effects);
    }
}

#[test]
fn what_a_broker_has_found_after_a_failed_sync_outlives_the_power_failure_that_follows() {
    let mut found = 0;
    for seed in 0..300 {
        let disk = Disk::new(Random::new(seed));
        let mut broker = Broker::open(&disk);
        let key = broker
            .shard
            .handle_accept(Origin::default(), Instant::ZERO)
            .unwrap();
        let send = |broker: &mut Broker, bytes: &[u8]| {
            let (now, effects) = (Instant::ZERO, &mut broker.effects);
            // While the disk refuses, nothing is read.
            let _ = broker.shard.handle_bytes(key, bytes, now, effects);
            broker.work();
        };
        // A Session that stays, and that is owed what it publishes.
        send(&mut broker, b"\x10\x0d\0\x04MQTT\x04\0\0\0\0\x01a");
        send(&mut broker, b"\x82\x06\0\x01\0\x01t\x01");
        disk.set_faults(Faults {
            failing: 30,
            ..Faults::default()
        });
        for number in 1..=20 {
            send(&mut broker, &[0x32, 0x06, 0, 1, b't', 0, number, b'x']);
        }
        drop(broker);
        // Killed. What the next one finds it goes on with, and acknowledges when it is repeated.
        disk.set_faults(Faults::default());
        let before = Broker::open(&disk).report;
        disk.lose_power();
        let after = Broker::open(&disk).report;
        // More, where the disk had what the system did not show.
        assert!(after.deliveries >= before.deliveries, "seed {seed}");
        found += before.deliveries;
    }
    assert!(found > 300, "only {found}");
}
