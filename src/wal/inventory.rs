//! What there must be of a shard's log: a file beside its segments that tells a log that is lost from one
//! that nothing was written to.
//!
//! ```text
//!    0  what was written down last, or the time before
//! 4096  the other of the two
//! ```
//!
//! Both are texts with a checksum and a number. The older one is overwritten, so a write that is cut short
//! leaves the other; and in place, since a full disk must take that something is to be forgotten: it is
//! what makes room.
//!
//! # Always true
//! - A segment is on the disk, with its header, before it is named here, and gets frames after that.
//! - It is not named here any more, on the disk, before it is removed, by whomever. One that is named is replaced in one step
//!   only.
//! - What is before the first that is named does not count. It is removed by the next start, if it is still there.
//! - So whenever the process or the power ends, what is named is there, and what is not named and behind
//!   it holds no frame. But for one that begins with frames of which a sync has failed: whoever reads up to where it
//!   begins has to find them in it, so it has them before it is named.
//!
//! A version of this program without inventories makes segments that it does not name. Where one behind
//! those that are named holds a frame, the inventory is of before that, and does not count. So it does not either if the
//! process ended just as such a segment was to be named, until the next start has written it down. What was removed
//! before that is removed on the disk as well, so what is there is a log without gaps.

#![forbid(unsafe_code)]

use super::directory::SegmentName;
use super::segment::FORMAT_VERSION;
use super::storage::{Storage, StoredFile};
use crate::journal::Lsn;
use std::io::{self, Read};

/// Bytes of each of the two. A disk writes no less at a time, so that one cannot harm the other.
const SLOT_SIZE: usize = 4096;
const SIZE: usize = 2 * SLOT_SIZE;
/// What a file is called until all of it is on the disk.
pub(super) const UNFINISHED: &str = ".new";

/// How far a log goes, as it was written down.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Extent {
    /// First frame of the first segment there must be; zero if there is none.
    pub first: Lsn,
    /// First frame of the last one.
    pub last: Lsn,
    /// Frames up to here are on stable storage.
    pub stored: Lsn,
    /// Shards of the store, each of which has an inventory; zero as long as some may have none.
    pub shards: u64,
}

impl Extent {
    /// That of a log which consists of `segments` and goes on with the frame `next`.
    pub(super) fn of(segments: &[SegmentName], next: Lsn) -> Self {
        Self {
            first: segments.first().map_or(0, |name| name.first),
            last: segments.last().map_or(0, |name| name.first),
            stored: next - 1,
            shards: 0,
        }
    }

    /// Whether there must be a segment that begins with that frame, if there ever was one.
    #[must_use]
    pub fn includes(&self, first: Lsn) -> bool {
        self.first != 0 && (self.first..=self.last).contains(&first)
    }
}

/// Whose inventory it is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub(super) struct InventoryName {
    pub(super) generation: u64,
    pub(super) shard: u64,
}

impl InventoryName {
    pub(super) fn file_name(&self) -> String {
        let Self { generation, shard } = self;
        format!("{generation:08}-{shard:03}.segments")
    }

    pub(super) fn parse(name: &str) -> Option<Self> {
        let mut parts = name.strip_suffix(".segments")?.split('-');
        let parsed = Self {
            generation: parts.next()?.parse().ok()?,
            shard: parts.next()?.parse().ok()?,
        };
        (parts.next().is_none() && parsed.file_name() == name).then_some(parsed)
    }

    pub(super) fn segment(&self, first: Lsn) -> SegmentName {
        SegmentName {
            generation: self.generation,
            shard: self.shard,
            first,
        }
    }
}

/// What an inventory says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Listed {
    pub(super) name: InventoryName,
    pub(super) extent: Extent,
    /// How many times it was written.
    writes: u64,
}

/// Why an inventory says nothing.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum ListError {
    Damaged,
    /// Another version of this program wrote it.
    Version {
        found: u64,
    },
}

impl Listed {
    fn encode(&self) -> String {
        let InventoryName { generation, shard } = self.name;
        let Extent {
            first,
            last,
            stored,
            shards,
        } = self.extent;
        let text = format!(
            "fastmq log\nformat {FORMAT_VERSION}\ngeneration {generation}\nshard {shard}\nwrites {}\n\
             first {first}\nlast {last}\nstored {stored}\nshards {shards}\n",
            self.writes
        );
        let checksum = crc32c::crc32c(text.as_bytes());
        format!("{text}checksum {checksum:08x}\n")
    }

    fn slot(&self) -> Vec<u8> {
        let mut slot = self.encode().into_bytes();
        slot.resize(SLOT_SIZE, 0);
        slot
    }

    /// Brings what was read to the disk: it was written by a process that has ended, perhaps before it had synced that.
    pub(super) fn write_again(&self, storage: &dyn Storage) -> io::Result<()> {
        let mut file = storage.open_to_write(&self.name.file_name())?;
        file.write_all_at(&self.slot(), self.offset())?;
        file.sync_data()
    }

    /// Where it goes.
    fn offset(&self) -> u64 {
        (self.writes % 2) * SLOT_SIZE as u64
    }

    fn decode_slot(name: InventoryName, slot: &[u8]) -> Result<Self, ListError> {
        let text = slot.split(|&byte| byte == 0).next().unwrap_or_default();
        let text = std::str::from_utf8(text).map_err(|_| ListError::Damaged)?;
        let mut lines = text.lines();
        if lines.next() != Some("fastmq log") {
            return Err(ListError::Damaged);
        }
        let mut number = |name: &str| {
            let value = lines.next()?.strip_prefix(name)?.trim_start();
            value.parse::<u64>().ok()
        };
        let found = number("format").ok_or(ListError::Damaged)?;
        if found != u64::from(FORMAT_VERSION) {
            return Err(ListError::Version { found });
        }
        let mut rest = || {
            Some(Self {
                name: InventoryName {
                    generation: number("generation")?,
                    shard: number("shard")?,
                },
                writes: number("writes")?,
                extent: Extent {
                    first: number("first")?,
                    last: number("last")?,
                    stored: number("stored")?,
                    shards: number("shards")?,
                },
            })
        };
        let listed = rest().ok_or(ListError::Damaged)?;
        if listed.encode() != text || listed.name != name {
            return Err(ListError::Damaged);
        }
        Ok(listed)
    }

    fn decode(name: InventoryName, bytes: &[u8]) -> Result<Self, ListError> {
        let slots = bytes.chunks(SLOT_SIZE);
        let both: Vec<_> = slots.map(|slot| Self::decode_slot(name, slot)).collect();
        let versions = both.iter().filter_map(|it| it.err());
        if let Some(version) = versions.into_iter().find(|it| *it != ListError::Damaged) {
            return Err(version);
        }
        let whole = both.into_iter().filter_map(Result::ok);
        let newest = whole.max_by_key(|it| it.writes);
        newest.ok_or(ListError::Damaged)
    }

    /// Reads what the inventory `name` says. `None` if there is none.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn read(
        storage: &dyn Storage,
        name: InventoryName,
    ) -> io::Result<Option<Result<Self, ListError>>> {
        let mut bytes = Vec::new();
        match storage.open(&name.file_name()) {
            Ok((source, _)) => source.take(SIZE as u64).read_to_end(&mut bytes)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(Self::decode(name, &bytes)))
    }
}

/// The inventory of a log that is written to.
#[derive(Debug)]
pub(super) struct Inventory {
    file: Box<dyn StoredFile>,
    listed: Listed,
    /// Nobody knows which of the two last ones the disk has.
    is_doubtful: bool,
}

impl Inventory {
    /// Makes it, or replaces the one there is. Its name is brought to the disk by who calls.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn create(
        storage: &dyn Storage,
        name: InventoryName,
        extent: Extent,
    ) -> io::Result<Self> {
        let listed = Listed {
            name,
            extent,
            writes: 0,
        };
        let file_name = name.file_name();
        let unfinished = format!("{file_name}{UNFINISHED}");
        let mut file = storage.create(&unfinished, SIZE as u64)?;
        let mut bytes = listed.slot();
        bytes.resize(SIZE, 0);
        file.write_all_at(&bytes, 0)?;
        file.sync_all()?;
        storage.rename(&unfinished, &file_name)?;
        Ok(Self {
            file,
            listed,
            is_doubtful: false,
        })
    }

    /// Opens the one that says `listed`.
    ///
    /// # Errors
    /// What the system said.
    pub(super) fn open(storage: &dyn Storage, listed: Listed) -> io::Result<Self> {
        Ok(Self {
            file: storage.open_to_write(&listed.name.file_name())?,
            listed,
            is_doubtful: false,
        })
    }

    pub(super) fn file_name(&self) -> String {
        self.listed.name.file_name()
    }

    /// What it says, as far as is known.
    pub(super) const fn extent(&self) -> Extent {
        self.listed.extent
    }

    /// Writes down what there is from now on, and brings it to the disk.
    ///
    /// # Errors
    /// What the system said. After a crash it may say either then.
    pub(super) fn set(&mut self, extent: Extent) -> io::Result<()> {
        if extent == self.listed.extent && !self.is_doubtful {
            return Ok(());
        }
        let listed = Listed {
            extent,
            writes: self.listed.writes + 1,
            ..self.listed
        };
        // Until it has succeeded the same place is written to again: the other one is whole.
        self.is_doubtful = true;
        self.file.write_all_at(&listed.slot(), listed.offset())?;
        self.file.sync_data()?;
        self.listed = listed;
        self.is_doubtful = false;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;
    use std::sync::{Arc, Mutex};

    const NAME: InventoryName = InventoryName {
        generation: 3,
        shard: 12,
    };

    fn listed(writes: u64) -> Listed {
        Listed {
            name: NAME,
            extent: Extent {
                first: writes + 1,
                last: writes + 5,
                stored: writes + 9,
                shards: 16,
            },
            writes,
        }
    }

    fn file(writes: u64) -> Vec<u8> {
        let mut pair = [listed(writes), listed(writes + 1)];
        pair.sort_by_key(Listed::offset);
        pair.iter().flat_map(Listed::slot).collect()
    }

    #[test]
    fn the_one_that_was_written_last_counts_and_the_other_if_that_was_cut_short() {
        for writes in [6, 7] {
            let mut bytes = file(writes);
            assert_eq!(Listed::decode(NAME, &bytes), Ok(listed(writes + 1)));
            bytes[listed(writes + 1).offset() as usize + 30] ^= 1;
            assert_eq!(Listed::decode(NAME, &bytes), Ok(listed(writes)));
            bytes[listed(writes).offset() as usize + 30] ^= 1;
            assert_eq!(Listed::decode(NAME, &bytes), Err(ListError::Damaged));
        }
    }

    /// A disk on which a file is what it says, and what fails next: writes after half of their bytes, or syncs.
    #[derive(Clone, Debug)]
    struct Frail(Arc<Mutex<(Vec<u8>, VecDeque<Failure>)>>);

    #[derive(Clone, Copy, Debug, Eq, PartialEq)]
    enum Failure {
        None,
        Write,
        Sync,
    }

    impl Frail {
        /// The next one, if it is of that kind.
        fn fails(&self, failure: Failure) -> bool {
            let coming = &mut self.0.lock().unwrap().1;
            let is_next = coming.front().is_some_and(|it| *it == failure);
            if is_next {
                coming.pop_front();
            }
            is_next
        }
    }

    impl StoredFile for Frail {
        fn write_all_at(&mut self, bytes: &[u8], offset: u64) -> io::Result<()> {
            let fails = self.fails(Failure::Write);
            // Nothing of the sector that was half written can be read.
            let written = if fails { &[1; SLOT_SIZE][..] } else { bytes };
            self.0.lock().unwrap().0[offset as usize..][..SLOT_SIZE].copy_from_slice(written);
            if fails {
                return Err(io::ErrorKind::Other.into());
            }
            Ok(())
        }

        fn set_len(&mut self, _size: u64) -> io::Result<()> {
            unreachable!("it has one size")
        }

        fn sync_data(&mut self) -> io::Result<()> {
            if self.fails(Failure::Sync) {
                return Err(io::ErrorKind::Other.into());
            }
            self.fails(Failure::None);
            Ok(())
        }

        fn sync_all(&mut self) -> io::Result<()> {
            self.sync_data()
        }
    }

    proptest! {
        #[test]
        fn however_often_it_cannot_be_written_it_says_what_it_said_last_or_what_is_being_written(
            failures in prop::collection::vec(
                prop::sample::select(&[Failure::None, Failure::Write, Failure::Sync][..]), 0..8
            ),
        ) {
            let disk = Frail(Arc::new(Mutex::new((file(5), failures.iter().copied().collect()))));
            let mut inventory = Inventory {
                file: Box::new(disk.clone()),
                listed: listed(6),
                is_doubtful: false,
            };
            let mut before = listed(6).extent;
            for (number, failure) in (1..).zip(&failures) {
                let extent = Extent { last: 100 + number, ..before };
                let is_set = inventory.set(extent).is_ok();
                prop_assert_eq!(is_set, *failure == Failure::None);
                let said = Listed::decode(NAME, &disk.0.lock().unwrap().0).map(|it| it.extent);
                match failure {
                    Failure::None => {
                        prop_assert_eq!(said, Ok(extent));
                        before = extent;
                    }
                    Failure::Write => prop_assert_eq!(said, Ok(before)),
                    // Nobody knows which of the two the disk has.
                    Failure::Sync => prop_assert!(said == Ok(extent) || said == Ok(before)),
                }
                prop_assert_eq!(inventory.extent(), before);
            }
        }
    }

    #[test]
    fn an_emptied_one_and_one_of_another_log_are_damaged_and_another_format_is_named() {
        for bytes in [&[][..], &[0; 100], &[0; SIZE]] {
            assert_eq!(Listed::decode(NAME, bytes), Err(ListError::Damaged));
        }
        let other = InventoryName { shard: 1, ..NAME };
        assert_eq!(Listed::decode(other, &file(1)), Err(ListError::Damaged));
        let text = String::from_utf8(file(1)).unwrap();
        let newer = text.replace("format 1", "format 2");
        let version = ListError::Version { found: 2 };
        assert_eq!(Listed::decode(NAME, newer.as_bytes()), Err(version));
    }

    #[test]
    fn names_of_inventories_are_told_from_those_of_segments() {
        let name = NAME.file_name();
        assert_eq!(name, "00000003-012.segments");
        assert_eq!(InventoryName::parse(&name), Some(NAME));
        let segment = NAME.segment(1).file_name();
        for wrong in ["LOCK", "3-12.segments", "-.segments", &segment] {
            assert_eq!(InventoryName::parse(wrong), None);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>) {
            let _ = Listed::decode(NAME, &bytes);
        }
    }
}
