//! From the files of a directory to the Sessions and retained messages of this process.
//!
//! Each log is read once, from end to end, by two threads of its own: one reads and checks files, one
//! replays what they say (`blocks.rs`). An unfinished write at its end is what a crash leaves and is
//! reported. Damage to anything that was stored refuses to start, and names the file and the place, and so
//! does a file that is not there; with `--recover` what can be read around it is taken, and what could not be
//! is reported.

#![forbid(unsafe_code)]

use super::blocks::{Feed, Gone, Part, ReadError, blocks};
use super::directory::{Directory, DirectoryError, MANIFEST, Manifest, SegmentName};
use super::install;
use super::inventory::{Extent, Inventory, InventoryName, ListError, Listed};
use super::log::{Log, REQUESTS_MAX};
use super::options::StoreOptions;
use super::rewrite::rewrite;
use super::segment::{
    Buffer, HeaderError, SEGMENT_HEADER_SIZE, SegmentHeader, Sink, scan, scan_into,
};
use super::storage::{Storage, StoredFile};
use super::writer::Writer;
use crate::config::Durability;
use crate::journal::{
    Digest, Frame, Lsn, NUMBER_MAX, Origins, Replay, Replayed, ReplayedRetained, ReplayedSession,
    ReplayedWill, Suspect, WallClock,
};
use crate::key::ShardId;
use crate::limits::SHARDS_MAX;
use crate::message::{Message, MessageRef};
use crate::router::Interest;
use crate::shard::{Placement, RestoredInterest, Shard};
use crate::time::Instant;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Segments that the system is asked to read before they are needed.
const SEGMENTS_AHEAD: usize = 4;

/// The store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory cannot be used.
    #[error(transparent)]
    Directory(#[from] DirectoryError),
    /// A file is not what its name says.
    #[error("{}: {source}", path.display())]
    Header {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: HeaderError,
    },
    /// A file has the name of another one.
    #[error(
        "{}: this is {} by what it says of itself. If the two were exchanged, give each its name back. \
         Otherwise put the file back that belongs here, from a backup of this store, or move this one away \
         and start once with --recover to go on without what was stored in it",
        path.display(),
        belongs.display()
    )]
    Misplaced {
        /// The file.
        path: PathBuf,
        /// What its name should be.
        belongs: PathBuf,
    },
    /// A file that must be there is gone.
    #[error(
        "{}: the file is missing, and the store is not whole without it. Put it back, from a backup of this \
         store if need be, or start once with --recover to go on without what was stored in it",
        path.display()
    )]
    Missing {
        /// The file.
        path: PathBuf,
    },
    /// The file that says which logs count is gone.
    #[error(
        "{}: the file is missing, and there are logs beside it. Put it back, from a backup of this store if \
         need be; or start once with --recover to make it anew from the logs; or move them away",
        path.display()
    )]
    NoManifest {
        /// The file.
        path: PathBuf,
    },
    /// Nothing says which logs count.
    #[error(
        "{}: there are logs of generations {generations} beside it, and nothing else says which of them count. \
         Put the file back from a backup of this store, or move the files of the others away",
        path.display()
    )]
    Ambiguous {
        /// The file that would say it.
        path: PathBuf,
        /// What there is.
        generations: String,
    },
    /// Something that was stored is whole and means nothing to this program.
    #[error(
        "{}: at offset {offset}: {problem}. Start the version that wrote it, if it was a newer one; --recover \
         cannot help",
        path.display()
    )]
    Unknown {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
    /// Something that was stored is damaged or missing.
    #[error(
        "{}: damaged at offset {offset}: {problem}. Start once with --recover to take what can be read",
        path.display()
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where.
        offset: u64,
        /// What is wrong.
        problem: String,
    },
}

/// What was found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Frames read.
    pub frames: u64,
    /// Records read.
    pub records: u64,
    /// Bytes read.
    pub bytes: u64,
    /// How long it took.
    pub took: Duration,
    /// Bytes of unfinished writes, which nobody was told had been stored.
    pub torn_bytes: u64,
    /// Frames that were stored and could not be read, with `--recover`.
    pub lost_frames: u64,
    /// Bytes that could not be read, with `--recover`.
    pub lost_bytes: u64,
    /// Sessions.
    pub sessions: usize,
    /// Messages owed to them.
    pub deliveries: usize,
    /// Retained messages.
    pub retained: usize,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.took.as_secs_f64();
        let megabytes = self.bytes as f64 / 1e6;
        write!(
            f,
            "store: {} sessions, {} messages owed to them, {} retained messages; read {} records in \
             {megabytes:.1} MB, {seconds:.2} s",
            self.sessions, self.deliveries, self.retained, self.records
        )?;
        if self.torn_bytes > 0 {
            write!(
                f,
                "; {} bytes of a write that was under way when the broker ended are left out: \
                 nobody was told that they were stored",
                self.torn_bytes
            )?;
        }
        if self.lost_frames > 0 || self.lost_bytes > 0 {
            write!(
                f,
                "; LOST to damage: at least {} frames, {} bytes",
                self.lost_frames, self.lost_bytes
            )?;
        }
        Ok(())
    }
}

/// What every shard must know of the whole.
#[derive(Debug, Default)]
pub struct Common {
    /// What the shards will want of each other.
    pub interests: Vec<RestoredInterest>,
    /// Retained messages.
    pub retained: Vec<ReplayedRetained>,
    /// Messages that may come again though some have them.
    pub suspects: Vec<Suspect>,
    /// The calendar.
    pub clock: WallClock,
    /// When a message counts as stored.
    pub durability: Durability,
}

/// What one shard goes on with.
#[derive(Debug)]
pub struct ShardStore {
    /// Its Sessions.
    pub sessions: Vec<ReplayedSession>,
    /// Where its numbers go on.
    pub origins: Origins,
    /// What it shares with the others.
    pub common: Arc<Common>,
}

impl ShardStore {
    /// Makes `shard` go on from here.
    pub fn restore(self, shard: &mut Shard, index: usize, count: usize, now: Instant) {
        use crate::journal::Journal;
        let common = &self.common;
        let journal = Journal::new(index, count, self.origins, common.clock);
        shard.store_in(journal, &common.suspects);
        shard.set_durability(common.durability);
        for interest in &common.interests {
            shard.restore_interest(interest);
        }
        for retained in &common.retained {
            shard.restore_retained(retained, now);
        }
        let (ending, sessions): (Vec<_>, Vec<_>) =
            self.sessions.into_iter().partition(|it| it.is_ending);
        for session in sessions {
            shard.restore_session(session, now);
        }
        // Once there is somebody to take it.
        for session in ending {
            shard.restore_ending(session, now);
        }
    }
}

/// An open store.
#[derive(Debug)]
pub struct Store {
    /// By which Client Identifiers are spread over shards.
    pub seed: u64,
    /// One for each shard.
    pub shards: Vec<ShardStore>,
    /// One for each shard.
    pub logs: Vec<Log>,
    /// What was found.
    pub report: Report,
    /// Locked as long as this is there.
    pub directory: Directory,
}

/// Opens the store in `directory` for `shard_count` shards. `clock` is the process's, `seed` what a new store
/// is to use, `ports` those of the listeners, in order.
///
/// # Errors
/// [`OpenError`].
pub fn open(
    directory: Directory,
    options: &StoreOptions,
    shard_count: usize,
    seed: u64,
    clock: WallClock,
    ports: &[u16],
) -> Result<Store, OpenError> {
    let began = std::time::Instant::now();
    let fresh = Manifest {
        generation: 1,
        shard_count,
        seed,
    };
    let (mut manifest, origin) = manifest(&directory, options.recover, fresh)?;
    let (logs, mut report) = read_logs(&directory, manifest, options.recover, clock, ports)?;
    let mut next: Vec<Lsn> = logs.iter().map(|log| log.next).collect();
    let mut full: Vec<Vec<SegmentName>> = logs.iter().map(|log| log.segments.clone()).collect();
    let mut grown: Vec<u64> = logs.iter().map(|log| log.bytes).collect();
    let mut alive: Vec<u64> = logs.iter().map(|log| log.replayed.size).collect();
    let storage = &**directory.storage();
    // What was read around damage is written anew: another start might not find its way around it.
    let is_salvaged = report.lost_frames > 0 || report.lost_bytes > 0;
    let is_current = origin == ManifestOrigin::Stored;
    let is_written_anew = manifest.shard_count != shard_count || !is_current || is_salvaged;
    if !is_salvaged {
        // Nothing is written to them again, so the room that they were given is for others.
        for (name, end) in logs.iter().flat_map(|log| &log.ends) {
            let cut = storage
                .open_to_write(name)
                .and_then(|mut file| file.set_len(*end));
            cut.map_err(directory.at(name))?;
        }
    }
    if !is_written_anew {
        // What is gone on with from here on is promised from here on.
        for part in logs.iter().flat_map(|log| &log.unsynced) {
            write_again(storage, part).map_err(directory.at(&part.name))?;
        }
        storage.sync().map_err(directory.at(""))?;
    }
    for log in &logs {
        log.remove_forgotten(&directory)?;
    }
    let mut merged = merge(logs.into_iter().map(|log| log.replayed));

    // What an attempt to spread Sessions anew has left must not be taken for a part of the next one, which
    // may be for another number of shards.
    directory.remove_others(manifest.generation)?;
    if is_written_anew {
        let before = manifest;
        manifest.shard_count = shard_count;
        if origin != ManifestOrigin::Fresh {
            manifest.generation += 1;
        }
        let written = rewrite(
            &directory,
            &manifest,
            &merged,
            clock,
            options.segment_size,
            ports,
        )?;
        next = written.iter().map(|it| it.next).collect();
        alive = written.iter().map(|it| it.size).collect();
        grown.clone_from(&alive);
        full = written.into_iter().map(|it| it.segments).collect();
        directory.set_manifest(&manifest)?;
        if before.shard_count != shard_count {
            tracing::info!(
                "sessions are spread over {shard_count} shards, which were {}",
                before.shard_count
            );
        }
        directory.remove_others(manifest.generation)?;
    }
    // What was read is there, and nothing is written to that is named.
    let extents = full
        .iter()
        .zip(&next)
        .map(|(names, &next)| Extent::of(names, next));
    let inventories = write_inventories(&directory, &manifest, extents)?;

    report.sessions = merged.sessions.values().filter(|it| !it.is_ending).count();
    report.deliveries = merged.sessions.values().map(|it| it.deliveries.len()).sum();
    report.retained = merged.retained_count();
    let placement = Placement::new(shard_count, manifest.seed);
    let session = merged.session_max + 1;
    let mut sessions: Vec<Vec<ReplayedSession>> = Vec::new();
    sessions.resize_with(shard_count, Vec::new);
    for session in std::mem::take(&mut merged.sessions).into_values() {
        let identifier = session.client_identifier();
        if let Some(sessions) = sessions.get_mut(placement.shard_of(identifier).index()) {
            sessions.push(session);
        }
    }
    let common = Arc::new(Common {
        interests: interests(&sessions),
        retained: merged.retained,
        suspects: merged.suspects,
        clock,
        durability: options.durability,
    });
    let shards = sessions
        .into_iter()
        .zip(&next)
        .map(|(sessions, &lsn)| ShardStore {
            sessions,
            origins: Origins { lsn, session },
            common: common.clone(),
        });
    let shards = shards.collect();
    let logs = next
        .iter()
        .zip(full.into_iter().zip(inventories))
        .zip(grown.into_iter().zip(alive))
        .enumerate()
        .map(|(shard, ((&next, (full, inventory)), (grown, alive)))| {
            let (requests, their_requests) = crossbeam::channel::bounded(REQUESTS_MAX);
            let (their_responses, responses) = crossbeam::channel::unbounded();
            let writer = Writer::new(
                directory.storage().clone(),
                manifest.generation,
                shard as u64,
                options.durability,
                options.segment_size,
                their_requests,
                their_responses,
                Box::new(|| ()),
                full,
                inventory,
                next,
            );
            let grown_min = 2 * options.segment_size;
            Log::new(requests, responses, writer, next, grown, grown_min, alive)
        })
        .collect();
    report.took = began.elapsed();
    Ok(Store {
        seed: manifest.seed,
        shards,
        logs,
        report,
        directory,
    })
}

/// Where a manifest is from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum ManifestOrigin {
    /// STORE says so.
    Stored,
    /// There is no store yet.
    Fresh,
    /// From the names of logs.
    Guessed,
}

/// Which logs count.
fn manifest(
    directory: &Directory,
    recover: bool,
    fresh: Manifest,
) -> Result<(Manifest, ManifestOrigin), OpenError> {
    let path = directory.storage().path(MANIFEST);
    let inventories = directory.inventories()?;
    let problem = match directory.manifest() {
        Ok(Some(manifest)) => {
            let newest = inventories.last().map_or(0, |name| name.generation);
            if newest <= manifest.generation {
                return Ok((manifest, ManifestOrigin::Stored));
            }
            // It has named that generation before its inventories were made.
            let problem = "an older one than the logs beside it need".to_owned();
            if !recover {
                return Err(DirectoryError::Manifest { path, problem }.into());
            }
            Some(problem)
        }
        Ok(None) => None,
        Err(DirectoryError::Manifest { problem, .. }) if recover => Some(problem),
        Err(error) => return Err(error.into()),
    };
    let mut names: BTreeSet<InventoryName> = inventories.iter().copied().collect();
    names.extend(directory.segments()?.iter().map(SegmentName::log));
    if problem.is_none() {
        // What an installation that was cut short has left is nobody's.
        let is_begun = |name: &InventoryName| name.generation == install::GENERATION;
        names.retain(|name| !is_begun(name) || inventories.iter().any(is_begun));
    }
    let generations: BTreeSet<u64> = names.iter().map(|name| name.generation).collect();
    let Some(&generation) = generations.first() else {
        return Ok((fresh, ManifestOrigin::Fresh));
    };
    if !recover {
        return Err(OpenError::NoManifest { path });
    }
    if generations.len() > 1 {
        let generations: Vec<_> = generations.iter().map(u64::to_string).collect();
        let generations = generations.join(", ");
        return Err(OpenError::Ambiguous { path, generations });
    }
    tracing::warn!(
        "{}: {}. It is made anew from the logs of generation {generation}",
        path.display(),
        problem.as_deref().unwrap_or("the file is missing")
    );
    let named = names.iter().map(|name| name.shard + 1);
    let extents = inventories.iter();
    let extents = extents.filter_map(|name| directory.extent(generation, name.shard));
    let shard_count = named.chain(extents.map(|it| it.shards)).max();
    let manifest = Manifest {
        generation,
        shard_count: (shard_count.unwrap_or(1) as usize).min(SHARDS_MAX),
        ..fresh
    };
    Ok((manifest, ManifestOrigin::Guessed))
}

/// Writes down what there is of each log, and how many there are once that is so for all. Before the first
/// of them is written to.
pub(super) fn write_inventories(
    directory: &Directory,
    manifest: &Manifest,
    extents: impl Iterator<Item = Extent>,
) -> Result<Vec<Inventory>, DirectoryError> {
    let storage = &**directory.storage();
    let mut inventories = Vec::new();
    for (shard, extent) in extents.enumerate() {
        let name = InventoryName {
            generation: manifest.generation,
            shard: shard as u64,
        };
        let write = || match Listed::read(storage, name)? {
            Some(Ok(listed)) => {
                let mut inventory = Inventory::open(storage, listed)?;
                let shards = inventory.extent().shards;
                inventory.set(Extent { shards, ..extent })?;
                Ok(inventory)
            }
            _ => Inventory::create(storage, name, extent),
        };
        let inventory = write().map_err(directory.at(&name.file_name()))?;
        inventories.push(inventory);
    }
    storage.sync().map_err(directory.at(""))?;
    let shards = inventories.len() as u64;
    for inventory in &mut inventories {
        let extent = inventory.extent();
        let complete = inventory.set(Extent { shards, ..extent });
        complete.map_err(directory.at(&inventory.file_name()))?;
    }
    Ok(inventories)
}

/// What the store of `manifest` holds.
pub(super) fn contents(
    directory: &Directory,
    manifest: Manifest,
    clock: WallClock,
) -> Result<Replayed, OpenError> {
    let (logs, _) = read_logs(directory, manifest, false, clock, &[])?;
    Ok(merge(logs.into_iter().map(|log| log.replayed)))
}

/// One log, read to its end.
struct ReadLog {
    replayed: Replayed,
    /// The frame that comes next.
    next: Lsn,
    segments: Vec<SegmentName>,
    /// What its inventory says, if it has one.
    listed: Option<Listed>,
    /// Segments that were to be removed: what they say has been said anew.
    forgotten: Vec<SegmentName>,
    bytes: u64,
    /// Files with room, or an unfinished write, behind their last frame, and where that ends.
    ends: Vec<(String, u64)>,
    /// Parts of files that the disk may not have.
    unsynced: Vec<UnsyncedPart>,
}

impl ReadLog {
    /// Removes segments that the inventory does not name any more. What a process wrote there as it ended need not be on
    /// the disk: a power failure could take that back, and not what is removed here because of it.
    fn remove_forgotten(&self, directory: &Directory) -> Result<(), DirectoryError> {
        if let Some(listed) = self.listed.filter(|_| !self.forgotten.is_empty()) {
            let written = listed.write_again(&**directory.storage());
            written.map_err(directory.at(&listed.name.file_name()))?;
        }
        self.forgotten
            .iter()
            .try_for_each(|name| directory.remove(name))
    }
}

fn read_logs(
    directory: &Directory,
    manifest: Manifest,
    recover: bool,
    clock: WallClock,
    ports: &[u16],
) -> Result<(Vec<ReadLog>, Report), OpenError> {
    let mut segments: BTreeMap<u64, Vec<SegmentName>> = BTreeMap::new();
    for name in directory.segments()? {
        if name.generation == manifest.generation {
            segments.entry(name.shard).or_default().push(name);
        }
    }
    let shards: Vec<(Vec<SegmentName>, Option<Listed>)> =
        inventories(directory, manifest, recover)?
            .into_iter()
            .enumerate()
            .map(|(shard, listed)| {
                let names = segments.remove(&(shard as u64));
                (names.unwrap_or_default(), listed)
            })
            .collect();
    let results: Vec<Result<(ReadLog, Report), OpenError>> = std::thread::scope(|scope| {
        let threads: Vec<_> = shards
            .into_iter()
            .map(|(names, listed)| {
                scope.spawn(move || read_log(directory, names, listed, recover, clock, ports))
            })
            .collect();
        let joined = threads.into_iter().map(|thread| thread.join());
        joined
            .map(|result| result.unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let mut logs = Vec::new();
    let mut report = Report::default();
    for result in results {
        let (log, its) = result?;
        logs.push(log);
        report.frames += its.frames;
        report.records += its.records;
        report.bytes += its.bytes;
        report.torn_bytes += its.torn_bytes;
        report.lost_frames += its.lost_frames;
        report.lost_bytes += its.lost_bytes;
    }
    Ok((logs, report))
}

/// What the inventory of each log says, if it has one.
fn inventories(
    directory: &Directory,
    manifest: Manifest,
    recover: bool,
) -> Result<Vec<Option<Listed>>, OpenError> {
    let generation = manifest.generation;
    let names = (0..manifest.shard_count as u64).map(|shard| InventoryName { generation, shard });
    let names: Vec<_> = names.collect();
    let mut found = Vec::new();
    for name in &names {
        let file_name = name.file_name();
        let path = || directory.storage().path(&file_name);
        let read = Listed::read(&**directory.storage(), *name).map_err(directory.at(&file_name))?;
        found.push(match read.transpose() {
            Ok(listed) => listed,
            Err(ListError::Version { found }) => {
                let path = path();
                return Err(DirectoryError::Version { path, found }.into());
            }
            Err(ListError::Damaged) => {
                let problem = "not the inventory of this log, or it was emptied";
                if !recover {
                    return Err(OpenError::Damaged {
                        path: path(),
                        offset: 0,
                        problem: problem.into(),
                    });
                }
                tracing::warn!("{}: {problem}", path().display());
                None
            }
        });
    }
    // A version that knew of none has written the store, unless all have been there.
    if found.iter().flatten().any(|it| it.extent.shards > 0) {
        for (name, _) in names.iter().zip(&found).filter(|(_, it)| it.is_none()) {
            let path = directory.storage().path(&name.file_name());
            if !recover {
                return Err(OpenError::Missing { path });
            }
            tracing::warn!("{}: the file is missing", path.display());
        }
    }
    Ok(found)
}

/// Reads a log. One thread reads and checks its files, this one replays what it has found.
fn read_log(
    directory: &Directory,
    mut segments: Vec<SegmentName>,
    listed: Option<Listed>,
    recover: bool,
    clock: WallClock,
    ports: &[u16],
) -> Result<(ReadLog, Report), OpenError> {
    let extent = extent(directory, &segments, listed)?;
    // Which of those the end of the process or of the power has left, nobody knows.
    let kept = segments.split_off(segments.partition_point(|name| name.first < extent.first));
    let forgotten = std::mem::replace(&mut segments, kept);
    let mut replay = Replay::new(clock, ports);
    let (feed, steps) = blocks(clock);
    let (replayed, files) = std::thread::scope(|scope| {
        let reader =
            scope.spawn(|| read_files(directory, &segments, listed, extent, recover, feed));
        let replayed = steps.replay(&mut replay);
        let files = reader.join();
        (
            replayed,
            files.unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
        )
    });
    // Whatever the reader has met, it was behind that.
    if let Err((part, error)) = replayed {
        let name = segments.get(part.file).map(SegmentName::file_name);
        return Err(OpenError::Unknown {
            path: directory.storage().path(&name.unwrap_or_default()),
            offset: part.offset,
            problem: error.to_string(),
        });
    }
    let (files, mut report) = match files {
        Ok(files) => files,
        Err(Stop::Error(error)) => return Err(error),
        Err(Stop::Gone) => unreachable!("the replay ended before the reader"),
    };
    report.records = replay.records();
    let ReadFiles {
        next,
        ends,
        unsynced,
    } = files;
    let unsynced = unsynced.parts(&segments);
    // One that was made and holds nothing is made again, under the same name: it must not be taken for
    // an old one then.
    let segments = segments.into_iter().filter(|name| name.first < next);
    let log = ReadLog {
        replayed: replay.finish(),
        next,
        segments: segments.collect(),
        listed,
        forgotten,
        bytes: report.bytes,
        ends,
        unsynced,
    };
    Ok((log, report))
}

/// What the files of a log are, besides what they say.
struct ReadFiles {
    /// The frame that comes next.
    next: Lsn,
    /// See [`ReadLog`].
    ends: Vec<(String, u64)>,
    unsynced: Unsynced,
}

/// Why the files of a log were not read to the end.
enum Stop {
    Error(OpenError),
    /// Nobody replays any more.
    Gone,
}

impl From<OpenError> for Stop {
    fn from(error: OpenError) -> Self {
        Self::Error(error)
    }
}

impl From<DirectoryError> for Stop {
    fn from(error: DirectoryError) -> Self {
        Self::Error(error.into())
    }
}

impl From<Gone> for Stop {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

fn read_files(
    directory: &Directory,
    segments: &[SegmentName],
    listed: Option<Listed>,
    extent: Extent,
    recover: bool,
    mut feed: Feed,
) -> Result<(ReadFiles, Report), Stop> {
    let mut report = Report::default();
    for path in missing(directory, segments, listed, extent) {
        if !recover {
            return Err(OpenError::Missing { path }.into());
        }
        feed.warn(format!("{}: the file is missing", path.display()))?;
        report.lost_frames += 1;
    }
    let mut ends = Vec::new();
    let mut unsynced = Unsynced::default();
    let mut buffer = Buffer::default();
    let mut next = segments.first().map_or(1, |name| name.first);
    let mut end_of_frames = 0;
    for (index, name) in segments.iter().enumerate() {
        let file_name = name.file_name();
        let path = directory.storage().path(&file_name);
        // The disk is at work while what it has brought is looked at.
        let first_ahead = if index == 0 { 1 } else { SEGMENTS_AHEAD };
        for ahead in (first_ahead..=SEGMENTS_AHEAD).filter_map(|ahead| segments.get(index + ahead))
        {
            directory.storage().read_ahead(&ahead.file_name());
        }
        let following = segments.get(index + 1).map(|name| name.first);
        let damaged = |offset: u64, problem: String| OpenError::Damaged {
            path: path.clone(),
            offset,
            problem,
        };
        if name.first != next {
            let problem = format!("frames {next} to {} are missing", name.first - 1);
            if !recover {
                return Err(damaged(SEGMENT_HEADER_SIZE as u64, problem).into());
            }
            feed.warn(format!("{}: {problem}", path.display()))?;
            report.lost_frames += name.first.saturating_sub(next);
            next = name.first;
        }
        let at = |error| directory.at(&file_name)(error);
        let (mut file, size) = directory.storage().open(&file_name).map_err(at)?;
        let mut header = [0; SEGMENT_HEADER_SIZE];
        let is_whole = size >= SEGMENT_HEADER_SIZE as u64;
        if is_whole {
            file.read_exact(&mut header).map_err(at)?;
        }
        let decoded = SegmentHeader::decode(&header);
        let is_empty = decoded == Err(HeaderError::NotASegment)
            && (!is_whole || is_all_zeros(&mut file).map_err(at)?);
        if is_empty && extent.includes(name.first) {
            let problem = format!("it was emptied, and {size} bytes without its header are left");
            if !recover {
                return Err(damaged(0, problem).into());
            }
            feed.warn(format!("{}: {problem}", path.display()))?;
            report.lost_frames += 1;
            continue;
        }
        // A segment is made, then written to: while its header is unfinished it holds nothing.
        if is_empty && following.is_none() {
            report.torn_bytes += size;
            continue;
        }
        match decoded {
            Ok(found)
                if (found.generation, found.shard, found.first)
                    == (name.generation, name.shard, name.first) => {}
            Ok(found) => {
                let belongs = SegmentName {
                    generation: found.generation,
                    shard: found.shard,
                    first: found.first,
                };
                let belongs = directory.storage().path(&belongs.file_name());
                return Err(OpenError::Misplaced { path, belongs }.into());
            }
            Err(source) => {
                if !recover || matches!(source, HeaderError::Version { .. }) {
                    return Err(OpenError::Header { path, source }.into());
                }
                feed.warn(format!("{}: its header is damaged", path.display()))?;
            }
        }
        let mut offset = SEGMENT_HEADER_SIZE as u64;
        let end = following.unwrap_or(Lsn::MAX);
        loop {
            file.seek(SeekFrom::Start(offset)).map_err(at)?;
            feed.begin(Part {
                file: index,
                offset,
            });
            let mut sink = Watched {
                feed: &mut feed,
                unsynced: &mut unsynced,
                file: index,
                offset,
            };
            let scanned = scan_into(&mut file, next, end, offset, &mut buffer, &mut sink);
            let scanned = match scanned {
                Ok(scanned) => scanned,
                Err(ReadError::Io(error)) => return Err(at(error).into()),
                Err(ReadError::Gone(gone)) => return Err(gone.into()),
            };
            report.frames += scanned.frames;
            report.bytes += scanned.bytes;
            next = scanned.next;
            // Where the next segment goes on, whatever was here does not count.
            let is_complete = following.is_none_or(|following| following == next);
            end_of_frames = offset + scanned.bytes;
            if is_complete
                && scanned.damage.is_none_or(|damage| !damage.was_stored)
                && end_of_frames < size
            {
                ends.push((file_name.clone(), end_of_frames));
            }
            let Some(damage) = scanned.damage else {
                if !is_complete && !recover {
                    let absent = SegmentName {
                        first: next,
                        ..*name
                    };
                    let problem = format!(
                        "frames {next} to {} are missing, here or because {} is",
                        end - 1,
                        directory.storage().path(&absent.file_name()).display()
                    );
                    return Err(damaged(offset + scanned.bytes, problem).into());
                }
                break;
            };
            if is_complete && !damage.was_stored {
                report.torn_bytes += damage.size;
                break;
            }
            if is_complete && following.is_some() {
                report.torn_bytes += damage.size;
                break;
            }
            if !recover {
                return Err(damaged(damage.offset, damage.error.to_string()).into());
            }
            let Some((found, found_at)) = damage.next.filter(|&(found, _)| found < end) else {
                feed.warn(format!(
                    "{}: {} bytes from offset {} on could not be read",
                    path.display(),
                    damage.size,
                    damage.offset
                ))?;
                report.lost_bytes += damage.size;
                report.lost_frames += following.map_or(1, |following| following - next);
                break;
            };
            feed.warn(format!(
                "{}: frames {next} to {} at offset {} could not be read",
                path.display(),
                found - 1,
                damage.offset
            ))?;
            report.lost_frames += found - next;
            report.lost_bytes += found_at - damage.offset;
            (next, offset) = (found, found_at);
        }
    }
    if let Some(name) = segments.last()
        && next <= extent.stored
    {
        let path = directory.storage().path(&name.file_name());
        let problem = format!("frames {next} to {} are missing", extent.stored);
        if !recover {
            return Err(OpenError::Damaged {
                path,
                offset: end_of_frames,
                problem,
            }
            .into());
        }
        feed.warn(format!("{}: {problem}", path.display()))?;
        report.lost_frames += extent.stored + 1 - next;
    }
    let files = ReadFiles {
        next,
        ends,
        unsynced,
    };
    Ok((files, report))
}

/// What must be there of a log. Nothing is known of that if a version has written to it that has no
/// inventories.
fn extent(
    directory: &Directory,
    segments: &[SegmentName],
    listed: Option<Listed>,
) -> Result<Extent, OpenError> {
    let extent = listed.map_or_else(Extent::default, |it| it.extent);
    for name in segments.iter().filter(|name| name.first > extent.last) {
        let file_name = name.file_name();
        let holds_frames = || {
            let (mut file, size) = directory.storage().open(&file_name)?;
            let mut header = [0; SEGMENT_HEADER_SIZE];
            if size < SEGMENT_HEADER_SIZE as u64 {
                return Ok(false);
            }
            file.read_exact(&mut header)?;
            let first = SegmentHeader::decode(&header).map_or(0, |header| header.first);
            let found = scan::<io::Error>(&mut file, first, first + 1, 0, |_| Ok(()))?;
            Ok(first > 0 && found.frames > 0)
        };
        if listed.is_some() && holds_frames().map_err(directory.at(&file_name))? {
            return Ok(Extent::default());
        }
    }
    Ok(extent)
}

/// Where the first and the last segment of a log should be, if they are not there. One between them is
/// missed when the frames are counted.
fn missing(
    directory: &Directory,
    segments: &[SegmentName],
    listed: Option<Listed>,
    extent: Extent,
) -> Vec<PathBuf> {
    let Some(Listed { name, .. }) = listed.filter(|_| extent.first != 0) else {
        return Vec::new();
    };
    let mut firsts = vec![extent.first, extent.last];
    firsts.dedup();
    firsts.retain(|&first| !segments.iter().any(|name| name.first == first));
    let names = firsts.into_iter().map(|first| name.segment(first));
    let names = names.map(|name| directory.storage().path(&name.file_name()));
    names.collect()
}

/// What is handed over, seen on its way.
struct Watched<'a> {
    feed: &'a mut Feed,
    unsynced: &'a mut Unsynced,
    file: usize,
    /// Of the next frame.
    offset: u64,
}

impl Sink<ReadError> for Watched<'_> {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), ReadError> {
        self.unsynced.frame(&frame, self.file, self.offset);
        self.offset += frame.size() as u64;
        self.feed.frame(frame)
    }

    fn hand_over(&mut self, buffer: &mut Buffer, end: usize) -> Result<(), ReadError> {
        self.feed.hand_over(buffer, end)
    }
}

/// Frames of which none that was read says that they were on stable storage. If a sync failed before
/// the process ended, the system may show them and never write them: it takes them for written.
#[derive(Default)]
struct Unsynced {
    synced: Lsn,
    /// Number, file and offset.
    frames: VecDeque<(Lsn, usize, u64)>,
}

impl Unsynced {
    fn frame(&mut self, frame: &Frame<'_>, file: usize, offset: u64) {
        self.synced = self.synced.max(frame.synced);
        self.frames.push_back((frame.lsn, file, offset));
        while self.frames.front().is_some_and(|it| it.0 <= self.synced) {
            self.frames.pop_front();
        }
    }

    /// What to write again.
    fn parts(self, segments: &[SegmentName]) -> Vec<UnsyncedPart> {
        let mut parts: BTreeMap<usize, (Lsn, Lsn, u64)> = BTreeMap::new();
        for (lsn, file, offset) in self.frames {
            let (_, last, _) = parts.entry(file).or_insert((lsn, lsn, offset));
            *last = lsn;
        }
        let parts = parts.into_iter().filter_map(|(file, (first, last, from))| {
            let name = segments.get(file)?.file_name();
            Some(UnsyncedPart {
                name,
                first,
                last,
                from,
            })
        });
        parts.collect()
    }
}

/// A part of a file that the disk may not have.
struct UnsyncedPart {
    name: String,
    /// Its frames, which follow one another.
    first: Lsn,
    last: Lsn,
    /// Where they begin.
    from: u64,
}

/// Writes frames that were read to the place where they are, and brings them to the disk. They are read a second time
/// for that, since nobody knows before the end which they are; and checked, since what the system takes for written it
/// may have forgotten meanwhile.
fn write_again(storage: &dyn Storage, part: &UnsyncedPart) -> io::Result<()> {
    let (mut source, _) = storage.open(&part.name)?;
    source.seek(SeekFrom::Start(part.from))?;
    let mut again = Again {
        file: storage.open_to_write(&part.name)?,
        offset: part.from,
    };
    let mut buffer = Buffer::default();
    let end = part.last + 1;
    let found = scan_into(
        &mut source,
        part.first,
        end,
        part.from,
        &mut buffer,
        &mut again,
    )?;
    if found.next != end {
        let said = "frames that were read a moment ago cannot be read any more";
        return Err(io::Error::other(said));
    }
    again.file.sync_data()
}

/// Writes frames to where they were read.
struct Again {
    file: Box<dyn StoredFile>,
    offset: u64,
}

impl Sink<io::Error> for Again {
    fn frame(&mut self, _frame: Frame<'_>) -> io::Result<()> {
        Ok(())
    }

    fn hand_over(&mut self, buffer: &mut Buffer, end: usize) -> io::Result<()> {
        let frames = buffer.bytes().get(..end).unwrap_or_default();
        self.file.write_all_at(frames, self.offset)?;
        self.offset += end as u64;
        buffer.remove_front(end);
        Ok(())
    }
}

/// Whether nothing was ever written to the rest of a file.
fn is_all_zeros(file: &mut impl Read) -> io::Result<bool> {
    let scanned = scan::<io::Error>(file, 1, Lsn::MAX, 0, |_| Ok(()))?;
    Ok(scanned.frames == 0 && scanned.damage.is_none())
}

/// What all logs say together.
pub(super) fn merge(logs: impl IntoIterator<Item = Replayed>) -> Replayed {
    let mut merged = Replayed::default();
    let mut retained: HashMap<Vec<u8>, ReplayedRetained> = HashMap::new();
    for log in logs {
        merged.session_max = merged.session_max.max(log.session_max);
        merged.sessions.extend(log.sessions);
        merged.suspects.extend(log.suspects);
        merged.handed_on.extend(log.handed_on);
        for it in log.retained {
            let topic = it.message.topic_name().to_vec();
            let known = retained.entry(topic).or_insert_with(|| it.clone());
            if known.version < it.version {
                *known = it;
            }
        }
    }
    // A log may have lost that it began a Session of which another one knows. Used again, its name would be taken for
    // that one.
    let named = merged.suspects.iter().flat_map(|it| {
        let publisher = [it.origin.session];
        publisher.into_iter().chain(it.sessions.iter().copied())
    });
    let named = named.chain(merged.handed_on.iter().map(|it| it.0));
    merged.session_max = merged.session_max.max(named.max().unwrap_or_default());
    // In an order that does not depend on hashing: shards restore the same tables.
    merged.retained = retained.into_values().collect();
    merged.retained.sort_by_key(|it| it.version);
    // What the publisher's own log knows of is no suspect: a repetition is recognised there.
    let sessions = &mut merged.sessions;
    merged.suspects.retain(|it| {
        let publisher = sessions.get(&it.origin.session);
        publisher.is_some_and(|publisher| {
            !publisher.is_ending && !publisher.has_taken(it.origin.exchange)
        })
    });
    let mut handed_on: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (session, sequence) in std::mem::take(&mut merged.handed_on) {
        handed_on.entry(session).or_default().insert(sequence);
    }
    for (session, sequences) in handed_on {
        if let Some(session) = merged.sessions.get_mut(&session) {
            session.hand_on(&sequences);
        }
    }
    renumber(&mut merged);
    supersede_wills(&mut merged);
    merged
}

/// Wills that are published again must not take the place of what was retained after them.
fn supersede_wills(merged: &mut Replayed) {
    let mut wills: HashMap<Vec<u8>, Vec<(u64, &mut ReplayedWill)>> = HashMap::new();
    let sessions = merged.sessions.values_mut().filter(|it| it.is_ending);
    for session in sessions {
        let clock = session.next_sequence;
        if let Some(will) = &mut session.will
            && will.message.as_ref().retain
        {
            let topic = will.message.topic_name().to_vec();
            wills.entry(topic).or_default().push((clock, will));
        }
    }
    if wills.is_empty() {
        return;
    }
    for retained in &merged.retained {
        let later = wills.get_mut(retained.message.topic_name());
        for (clock, will) in later.into_iter().flatten() {
            if *clock <= retained.version.clock {
                let message = will.message.as_ref();
                will.message = Message::new(MessageRef {
                    retain: false,
                    ..message
                });
            }
        }
    }
}

/// Gives messages that may come again numbers behind all exchanges that there were. Whatever tried to
/// bring one is one then: a crash may have come between repetitions, too. What a Client gave up for
/// another message with its Packet Identifier is told from that by its digest.
fn renumber(merged: &mut Replayed) {
    let mut by_message: BTreeMap<(u64, u16, Option<Digest>), Suspect> = BTreeMap::new();
    for suspect in std::mem::take(&mut merged.suspects) {
        let origin = suspect.origin;
        if let Some(publisher) = merged.sessions.get_mut(&origin.session) {
            publisher.exchanges = publisher.exchanges.max(origin.exchange);
            publisher.renumbered.push(origin.exchange);
        }
        let identifier = origin.packet_identifier.get();
        match by_message.entry((origin.session, identifier, suspect.digest)) {
            Entry::Vacant(entry) => {
                entry.insert(suspect);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.sessions.extend(suspect.sessions);
                known.groups.extend(suspect.groups);
            }
        }
    }
    for ((publisher, ..), mut suspect) in by_message {
        let Some(publisher) = merged.sessions.get_mut(&publisher) else {
            continue;
        };
        publisher.exchanges = (publisher.exchanges + 1).min(NUMBER_MAX);
        suspect.origin.exchange = publisher.exchanges;
        suspect.sessions.sort_unstable();
        suspect.sessions.dedup();
        suspect.groups.sort_unstable();
        suspect.groups.dedup();
        merged.suspects.push(suspect);
    }
}

/// What each shard will want of each filter.
fn interests(sessions: &[Vec<ReplayedSession>]) -> Vec<RestoredInterest> {
    let mut interests = Vec::new();
    for (shard, sessions) in sessions.iter().enumerate() {
        let mut members: BTreeMap<&str, u32> = BTreeMap::new();
        for filter in sessions.iter().flat_map(|it| it.subscriptions.keys()) {
            *members.entry(filter).or_default() += 1;
        }
        for (filter, members) in members {
            let interest = if filter.starts_with("$share/") {
                Interest {
                    members_online: 0,
                    members,
                }
            } else {
                Interest::PLAIN
            };
            interests.push(RestoredInterest {
                shard: ShardId(shard as u16),
                filter: filter.into(),
                interest,
            });
        }
    }
    interests
}

#[cfg(all(test, not(loom)))]
mod tests;
