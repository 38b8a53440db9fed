//! From the files of a directory to the Sessions and retained messages of this process.
//!
//! Each log is read once, from end to end, by two threads of its own: one reads and checks files, one
//! replays what they say (`blocks.rs`). An unfinished write at its end is what a crash leaves and is
//! reported. Damage to anything that was stored refuses to start, and names the file and the place, and so
//! does a file that is not there; with `--recover` what can be read around it is taken, and what could not be
//! is reported.
//!
//! Read next: `recover/files.rs` (one log), `recover/merge.rs` (what they say together).

#![forbid(unsafe_code)]

mod files;
mod merge;
#[cfg(all(test, not(loom)))]
mod tests;

use super::directory::{Directory, DirectoryError, MANIFEST, Manifest, SegmentName};
use super::install;
use super::inventory::{Extent, Inventory, InventoryName, ListError, Listed};
use super::log::{Log, REQUESTS_MAX};
use super::options::StoreOptions;
use super::rewrite::{Written, rewrite};
use super::segment::HeaderError;
use super::writer::Writer;
use crate::config::Durability;
use crate::journal::{
    Lsn, Origins, Replayed, ReplayedRetained, ReplayedSession, Suspect, WallClock,
};
use crate::limits::SHARDS_MAX;
use crate::shard::{Placement, RestoredInterest, Shard};
use crate::time::Instant;
use files::{ReadLog, read_log, write_again};
use merge::{interests, merge};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

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
    // What was read around damage is written anew: another start might not find its way around it.
    let is_salvaged = report.lost_frames > 0 || report.lost_bytes > 0;
    let is_current = origin == ManifestOrigin::Stored;
    let is_written_anew = manifest.shard_count != shard_count || !is_current || is_salvaged;
    if !is_salvaged {
        cut_off_room(&directory, &logs)?;
    }
    if !is_written_anew {
        promise(&directory, &logs)?;
    }
    for log in &logs {
        log.remove_forgotten(&directory)?;
    }
    let mut going_on: Vec<GoingOn> = logs.iter().map(GoingOn::from_here).collect();
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
        going_on = written.into_iter().map(GoingOn::anew).collect();
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
    let extents = going_on.iter().map(|it| Extent::of(&it.full, it.next));
    let inventories = write_inventories(&directory, &manifest, extents)?;

    report.sessions = merged.sessions.values().filter(|it| !it.is_ending).count();
    report.deliveries = merged.sessions.values().map(|it| it.deliveries.len()).sum();
    report.retained = merged.retained_count();
    let session = merged.session_max + 1;
    let placement = Placement::new(shard_count, manifest.seed);
    let sessions = deal_out(
        std::mem::take(&mut merged.sessions).into_values(),
        placement,
        shard_count,
    );
    let common = Arc::new(Common {
        interests: interests(&sessions),
        retained: merged.retained,
        suspects: merged.suspects,
        clock,
        durability: options.durability,
    });
    let origins = going_on.iter().map(|it| Origins {
        lsn: it.next,
        session,
    });
    let shards = sessions.into_iter().zip(origins);
    let shards = shards.map(|(sessions, origins)| ShardStore {
        sessions,
        origins,
        common: common.clone(),
    });
    let shards = shards.collect();
    let logs = going_on.into_iter().zip(inventories).enumerate();
    let logs = logs.map(|(shard, (it, inventory))| {
        it.log(
            &directory,
            manifest.generation,
            shard as u64,
            inventory,
            options,
        )
    });
    let logs = logs.collect();
    report.took = began.elapsed();
    Ok(Store {
        seed: manifest.seed,
        shards,
        logs,
        report,
        directory,
    })
}

/// Where a log goes on.
struct GoingOn {
    /// With this frame.
    next: Lsn,
    /// What it consists of so far, oldest first.
    full: Vec<SegmentName>,
    /// Bytes of that, and of what is alive in it.
    grown: u64,
    alive: u64,
}

impl GoingOn {
    /// Behind what was read.
    fn from_here(log: &ReadLog) -> Self {
        Self {
            next: log.next,
            full: log.segments.clone(),
            grown: log.bytes,
            alive: log.replayed.size,
        }
    }

    /// Behind what was written in place of what was read.
    fn anew(written: Written) -> Self {
        Self {
            next: written.next,
            full: written.segments,
            grown: written.size,
            alive: written.size,
        }
    }

    fn log(
        self,
        directory: &Directory,
        generation: u64,
        shard: u64,
        inventory: Inventory,
        options: &StoreOptions,
    ) -> Log {
        let Self {
            next,
            full,
            grown,
            alive,
        } = self;
        let (requests, their_requests) = crossbeam::channel::bounded(REQUESTS_MAX);
        let (their_responses, responses) = crossbeam::channel::unbounded();
        let writer = Writer::new(
            directory.storage().clone(),
            generation,
            shard,
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
    }
}

/// Nothing is written to the files of a log again, so the room that they were given is for others.
fn cut_off_room(directory: &Directory, logs: &[ReadLog]) -> Result<(), OpenError> {
    let storage = directory.storage();
    for (name, end) in logs.iter().flat_map(|log| &log.ends) {
        let cut = storage
            .open_to_write(name)
            .and_then(|mut file| file.set_len(*end));
        cut.map_err(directory.at(name))?;
    }
    Ok(())
}

/// What is gone on with from here on is promised from here on.
fn promise(directory: &Directory, logs: &[ReadLog]) -> Result<(), OpenError> {
    let storage = &**directory.storage();
    for part in logs.iter().flat_map(|log| &log.unsynced) {
        write_again(storage, part).map_err(directory.at(&part.name))?;
    }
    Ok(storage.sync().map_err(directory.at(""))?)
}

/// Each Session to the shard that its Client Identifier belongs to.
fn deal_out(
    all: impl Iterator<Item = ReplayedSession>,
    placement: Placement,
    shard_count: usize,
) -> Vec<Vec<ReplayedSession>> {
    let mut sessions: Vec<Vec<ReplayedSession>> = Vec::new();
    sessions.resize_with(shard_count, Vec::new);
    for session in all {
        let identifier = session.client_identifier();
        if let Some(sessions) = sessions.get_mut(placement.shard_of(identifier).index()) {
            sessions.push(session);
        }
    }
    sessions
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
