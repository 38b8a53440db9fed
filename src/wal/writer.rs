//! The thread beside a shard that puts its frames on the disk.
//!
//! A shard hands over all its frames when the thread has nothing to do, so whatever comes while the
//! disk is at work joins the next write: one `fdatasync` a shard is under way, and the busier the
//! shard is, the more packets share one. A thread of its own and not the shard's ring: making, growing
//! and removing files, and waiting for a disk that has failed, all block, and a shard never does.
//!
//! # When the disk refuses
//! What a write or a sync failed for is written again, to another segment: after a failed sync nobody
//! knows what the old one holds, and asking again would be answered with a success that means nothing.
//! Until that works the shard is told that it is stalled.
//!
//! Where acknowledgements do not wait for the disk, what they have acknowledged may be in a segment that failed, and
//! the disk without it. That part is read back as long as the system has it, and is the beginning of the next segment,
//! which has its name only once the disk has all of it: neither the end of the process nor of the power finds less
//! than there was before. Nothing behind that part counts as synced earlier, so no snapshot does that lies in it.
//! What the system has forgotten meanwhile is lost: the shard says all anew, and that is synced without delay, since
//! until it replaces what was before, a start finds a gap. An orderly end waits for it.

#![forbid(unsafe_code)]

use super::directory::SegmentName;
use super::inventory::{Extent, Inventory, UNFINISHED};
use super::segment::{SEGMENT_HEADER_SIZE, SegmentHeader, scan};
use super::storage::{Move, Storage, StoredFile};
use crate::config::Durability;
use crate::journal::{Lsn, keep_spare};
use crate::time::Instant;
use crossbeam::channel::{Receiver, RecvTimeoutError, Sender};
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;
use std::time::Duration;
use std::{fmt, io};

/// Time between two attempts to write to a disk that refuses.
const RETRY_AFTER: Duration = Duration::from_millis(250);
/// Longest wait for a request. A shard that ends says so; this keeps clocks away from their limits.
const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What a shard asks of its writer.
#[derive(Debug)]
pub(super) enum Request {
    /// Write these frames.
    Write {
        frames: Vec<Vec<u8>>,
        first: Lsn,
        last: Lsn,
    },
    /// Frames before this one are not needed.
    Forget { before: Lsn },
}

/// What it is told.
#[derive(Debug)]
pub(super) enum Response {
    /// A write is done, as far as was promised.
    Written {
        /// Their memory, to be used again.
        frames: Vec<Vec<u8>>,
        last: Lsn,
    },
    /// Everything up to here is on stable storage.
    Synced { last: Lsn },
    /// Frames up to here may be missing on the disk, and cannot be written again.
    Lost { last: Lsn },
    /// All that was lost is replaced, and a start finds no gap.
    Whole,
    /// The store is not found by its path any more.
    Moved,
    /// The disk refuses, or does not any more.
    Stalled(bool),
}

/// A file being written.
#[derive(Debug)]
struct Segment {
    name: SegmentName,
    file: Box<dyn StoredFile>,
    /// Where the next frame goes.
    offset: u64,
    /// Room that was set aside.
    size: u64,
    /// Where what the disk may not have begins.
    synced: u64,
    /// A sync has failed. Another one would succeed and mean nothing.
    is_doubtful: bool,
}

/// A part of a segment that failed: frames that were written, and that the disk may not have.
#[derive(Clone, Copy, Debug)]
struct Unsynced {
    name: SegmentName,
    /// Its frames.
    first: Lsn,
    last: Lsn,
    /// Where they are.
    from: u64,
    to: u64,
}

/// Frames that are to be written.
#[derive(Debug)]
struct Write {
    frames: Vec<Vec<u8>>,
    first: Lsn,
    last: Lsn,
}

/// The writer of one shard's log.
pub struct Writer {
    storage: Arc<dyn Storage>,
    generation: u64,
    pub(super) shard: u64,
    durability: Durability,
    segment_size: u64,
    requests: Receiver<Request>,
    responses: Sender<Response>,
    /// Wakes the shard.
    pub(super) wake: Box<dyn Fn() + Send>,
    /// Segments that are full, oldest first.
    full: Vec<SegmentName>,
    /// Names them, and the one that is written to.
    inventory: Inventory,
    segment: Option<Segment>,
    /// What the disk has refused so far.
    refused: Option<Write>,
    /// What is written again before anything else is.
    unsynced: Option<Unsynced>,
    /// The last frame written, and the last one that the disk has.
    written: Lsn,
    synced: Lsn,
    unsynced_since: Option<Instant>,
    /// The last of the frames that were written, that the disk may not have, and that cannot be written again, as long
    /// as nothing has replaced them. Zero: there are none.
    lost: Lsn,
    stalled: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer")
            .field("segment", &self.segment)
            .field("refused", &self.refused)
            .finish_non_exhaustive()
    }
}

impl Writer {
    #[allow(clippy::too_many_arguments)] // Its parts, named where they are made.
    pub(super) fn new(
        storage: Arc<dyn Storage>,
        generation: u64,
        shard: u64,
        durability: Durability,
        segment_size: u64,
        requests: Receiver<Request>,
        responses: Sender<Response>,
        wake: Box<dyn Fn() + Send>,
        full: Vec<SegmentName>,
        inventory: Inventory,
        next: Lsn,
    ) -> Self {
        Self {
            storage,
            generation,
            shard,
            durability,
            segment_size,
            requests,
            responses,
            wake,
            full,
            inventory,
            segment: None,
            refused: None,
            unsynced: None,
            written: next - 1,
            synced: next - 1,
            unsynced_since: None,
            lost: 0,
            stalled: false,
        }
    }

    /// Works until the shard is gone, and leaves nothing unwritten that the disk takes.
    pub(crate) fn run(mut self) {
        let began = std::time::Instant::now();
        let clock = || Instant::ZERO + began.elapsed();
        loop {
            match self.requests.recv_timeout(self.patience(clock())) {
                Ok(request) => self.handle(request, clock()),
                Err(RecvTimeoutError::Timeout) => self.go_on(clock()),
                Err(RecvTimeoutError::Disconnected) => break,
            }
            if self.is_sync_due(clock()) {
                self.sync_some_time();
            }
        }
        self.finish();
    }

    /// Best effort for the weaker promises, since `always` has synced already; and so that the next start
    /// notices if the last segment has lost its end meanwhile.
    pub(crate) fn finish(&mut self) {
        if self.sync().is_ok() && self.lost == 0 && self.segment.is_some() {
            let extent = self.inventory.extent();
            let _ = self.inventory.set(Extent {
                stored: extent.stored.max(self.written),
                ..extent
            });
        }
    }

    /// How long to wait for a request.
    fn patience(&self, now: Instant) -> Duration {
        if self.refused.is_some() || self.unsynced.is_some() {
            return RETRY_AFTER;
        }
        self.sync_at().map_or(WAIT_MAX, |at| at - now)
    }

    /// When a sync that nobody waits for is due.
    fn sync_at(&self) -> Option<Instant> {
        let every = match self.durability {
            Durability::Interval(every) if self.lost > 0 => every.min(RETRY_AFTER),
            Durability::Interval(every) => every,
            Durability::Os if self.lost > 0 => RETRY_AFTER,
            Durability::Always | Durability::Os => return None,
        };
        self.unsynced_since.map(|since| since + every)
    }

    fn is_sync_due(&self, now: Instant) -> bool {
        self.sync_at().is_some_and(|at| at <= now)
    }

    /// One thing that is to be done `now`, without waiting: a request, what the disk refused before, or a sync
    /// that is due. For who drives it by hand. Whether there was one.
    pub fn step(&mut self, now: Instant) -> bool {
        match self.requests.try_recv() {
            Ok(request) => self.handle(request, now),
            Err(_) if self.refused.is_some() || self.unsynced.is_some() => self.go_on(now),
            Err(_) if self.is_sync_due(now) => {}
            Err(_) => return false,
        }
        if self.is_sync_due(now) {
            self.sync_some_time();
        }
        true
    }

    /// Whether the disk has all that was written.
    #[must_use]
    pub fn is_synced(&self) -> bool {
        self.synced == self.written
    }

    /// Whether the log has no gap that a start would find.
    #[must_use]
    pub const fn is_whole(&self) -> bool {
        self.unsynced.is_none() && self.lost == 0
    }

    fn handle(&mut self, request: Request, now: Instant) {
        match request {
            Request::Write {
                frames,
                first,
                last,
            } => {
                let write = Write {
                    frames,
                    first,
                    last,
                };
                self.write_or_keep(write, now);
            }
            Request::Forget { before } => {
                let had_lost = self.lost > 0;
                self.forget(before);
                if self.lost == 0 && had_lost {
                    self.respond(Response::Whole);
                } else if before > self.lost && self.lost > 0 {
                    // The gap is still there, so all is said once more.
                    self.respond(Response::Lost { last: self.lost });
                }
                self.look_for_move();
                // That may have made room.
                self.go_on(now);
            }
        }
    }

    fn go_on(&mut self, now: Instant) {
        if let Some(write) = self.refused.take() {
            self.write_or_keep(write, now);
        } else if self.unsynced.is_some() {
            match self.write_again() {
                Ok(()) => self.tell_stalled(None),
                Err(error) => self.tell_stalled(Some(&error)),
            }
        }
    }

    /// Tells the shard whether the disk refuses, and why, if it does not know.
    fn tell_stalled(&mut self, why: Option<&io::Error>) {
        if std::mem::replace(&mut self.stalled, why.is_some()) == why.is_some() {
            return;
        }
        let directory = self.storage.path("");
        let (directory, shard) = (directory.display(), self.shard);
        match why {
            Some(error) => tracing::error!(
                "{directory}: shard {shard}: {error}; what must be stored is refused until the disk takes it"
            ),
            None => {
                tracing::info!("{directory}: shard {shard}: the disk takes what is stored again")
            }
        }
        self.respond(Response::Stalled(why.is_some()));
    }

    /// Looks whether somebody has moved the store away. It is written to where it is: what was acknowledged is there,
    /// and what is acknowledged from now on must not be somewhere else.
    fn look_for_move(&self) {
        let directory = self.storage.path("");
        let directory = directory.display();
        match self.storage.look_for_move() {
            Some(Move::Away) => {
                tracing::error!(
                    "{directory}: this is another folder now than the one that the broker has opened and goes on \
                     writing to; move that one back before the next start, which would miss it"
                );
                self.respond(Response::Moved);
            }
            Some(Move::Back) => tracing::info!("{directory}: the store is there again"),
            None => {}
        }
    }

    fn respond(&self, response: Response) {
        // A shard that is gone wants no answer.
        let _ = self.responses.send(response);
        (self.wake)();
    }

    /// Writes, or keeps what the disk refused until it is asked again.
    fn write_or_keep(&mut self, write: Write, now: Instant) {
        if let Err(error) = self.write(&write.frames, write.first) {
            self.give_up_segment();
            self.tell_stalled(Some(&error));
            self.refused = Some(write);
            return;
        }
        let Write {
            mut frames, last, ..
        } = write;
        keep_spare(&mut frames);
        self.written = last;
        self.tell_stalled(None);
        if self.durability == Durability::Always {
            self.synced = last;
            let _ = self.responses.send(Response::Synced { last });
        } else {
            self.unsynced_since.get_or_insert(now);
        }
        self.respond(Response::Written { frames, last });
    }

    /// Writes frames, and brings them to the disk if that was promised.
    fn write(&mut self, frames: &[Vec<u8>], first: Lsn) -> io::Result<()> {
        self.write_again()?;
        let size = size_of_pieces(frames);
        let has_room = self
            .segment
            .as_ref()
            .is_some_and(|segment| segment.offset + size <= segment.size);
        if !has_room {
            self.begin_segment(first, size)?;
        }
        let Some(segment) = &mut self.segment else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let end = write_pieces(segment.file.as_mut(), frames, segment.offset)?;
        if self.durability == Durability::Always {
            segment.file.sync_data()?;
            segment.synced = end;
        }
        segment.offset = end;
        Ok(())
    }

    /// Ends the segment and makes another one whose first frame is `first`.
    fn begin_segment(&mut self, first: Lsn, size: u64) -> io::Result<()> {
        self.look_for_move();
        self.sync()?;
        if let Some(segment) = self.segment.take() {
            self.full.push(segment.name);
        }
        let name = SegmentName {
            generation: self.generation,
            shard: self.shard,
            first,
        };
        let storage = &*self.storage;
        let (mut file, size) = make_segment(storage, name, &[], size, self.segment_size)?;
        if let Err(error) = self.name(first) {
            // Maybe it is named already, so it stays, as long as the next attempt has not replaced it. Its
            // room is for that.
            let _ = file.set_len(SEGMENT_HEADER_SIZE as u64);
            return Err(error);
        }
        self.segment = Some(Segment {
            name,
            file,
            offset: SEGMENT_HEADER_SIZE as u64,
            size,
            synced: SEGMENT_HEADER_SIZE as u64,
            is_doubtful: false,
        });
        Ok(())
    }

    /// Writes down that a segment which begins with `first` and has its name is the last one.
    fn name(&mut self, first: Lsn) -> io::Result<()> {
        self.storage.sync()?;
        let extent = self.inventory.extent();
        self.inventory.set(Extent {
            first: if extent.first == 0 {
                first
            } else {
                extent.first
            },
            last: first,
            ..extent
        })
    }

    /// Brings to the disk what it may not have.
    fn sync(&mut self) -> io::Result<()> {
        let Some(segment) = &mut self.segment else {
            return self.write_again();
        };
        if segment.synced == segment.offset {
            return Ok(());
        }
        if let Err(error) = segment.file.sync_data() {
            segment.is_doubtful = true;
            return Err(error);
        }
        segment.synced = segment.offset;
        self.has_synced();
        Ok(())
    }

    /// The disk has all that was written.
    fn has_synced(&mut self) {
        self.synced = self.written;
        self.unsynced_since = None;
        self.respond(Response::Synced { last: self.synced });
    }

    /// Makes what a segment that failed may not have brought to the disk the beginning of another one.
    fn write_again(&mut self) -> io::Result<()> {
        let Some(unsynced) = self.unsynced else {
            return Ok(());
        };
        let storage = &*self.storage;
        let Some(frames) = read_back(storage, unsynced)? else {
            let Unsynced { first, last, .. } = unsynced;
            tracing::error!(
                "{}: frames {first} to {last} cannot be read any more; all that is still known is written anew, \
                 and the next start needs --recover if the broker is killed before that",
                storage.path(&unsynced.name.file_name()).display()
            );
            self.unsynced = None;
            self.lost = last;
            self.full.retain(|name| *name != unsynced.name);
            self.full.push(unsynced.name);
            self.respond(Response::Lost { last });
            return Ok(());
        };
        let name = SegmentName {
            first: unsynced.first,
            ..unsynced.name
        };
        // This one holds frames before it is named. A power failure in between leaves a log of which nobody knows where it
        // begins, so nothing that was removed may come back without what followed it.
        storage.sync()?;
        let frames = [frames];
        let size = size_of_pieces(&frames);
        let (file, room) = make_segment(storage, name, &frames, size, self.segment_size)?;
        self.name(name.first)?;
        let end = SEGMENT_HEADER_SIZE as u64 + size;
        self.segment = Some(Segment {
            name,
            file,
            offset: end,
            size: room,
            synced: end,
            is_doubtful: false,
        });
        self.unsynced = None;
        self.has_synced();
        Ok(())
    }

    /// Nothing more is written to a segment that failed. What it holds before the failed frames counts, if the disk
    /// has it, and the next segment says where that ends.
    fn give_up_segment(&mut self) {
        let Some(mut segment) = self.segment.take() else {
            return;
        };
        // Room it does not need is room for the next one.
        let _ = segment.file.set_len(segment.offset);
        if segment.synced < segment.offset {
            // If it was a write that failed, a sync still tells the truth.
            if !segment.is_doubtful && segment.file.sync_data().is_ok() {
                segment.synced = segment.offset;
                self.has_synced();
            } else {
                self.unsynced = Some(Unsynced {
                    name: segment.name,
                    first: self.synced + 1,
                    last: self.written,
                    from: segment.synced,
                    to: segment.offset,
                });
            }
        }
        if segment.synced > SEGMENT_HEADER_SIZE as u64 {
            self.full.push(segment.name);
        }
        // One that holds nothing stays as well, since it is named. The next one has its name and replaces it.
    }

    /// Brings what was written to the disk, for a promise that does not wait for it.
    fn sync_some_time(&mut self) {
        self.unsynced_since = None;
        let name = self.segment.as_ref().map(|segment| segment.name);
        let Err(error) = self.sync() else {
            return;
        };
        if let Some(name) = name {
            tracing::error!(
                "{}: {error}; what was stored since the last success is written to another file",
                self.storage.path(&name.file_name()).display()
            );
        }
        self.give_up_segment();
        if let Err(error) = self.write_again() {
            self.tell_stalled(Some(&error));
        }
    }

    /// Removes segments of which every frame is before `before`.
    fn forget(&mut self, before: Lsn) {
        let current = self.segment.as_ref().map(|segment| segment.name.first);
        let mut count = 0;
        while count < self.full.len() {
            let next = self.full.get(count + 1).map(|name| name.first).or(current);
            if next.is_none_or(|next| next > before) {
                break;
            }
            count += 1;
        }
        let Some(first) = self.full.get(count).map(|name| name.first).or(current) else {
            return;
        };
        if count == 0 {
            return;
        }
        // What is to be removed need not be there.
        let extent = self.inventory.extent();
        if let Err(error) = self.inventory.set(Extent { first, ..extent }) {
            let name = self.inventory.file_name();
            tracing::warn!("{}: {error}", self.storage.path(&name).display());
            return;
        }
        if first > self.lost {
            self.lost = 0;
        }
        // Whichever of them are there at the next start are removed then.
        let mut removed = 0;
        for name in self.full.iter().take(count) {
            let name = name.file_name();
            // One by one, if it is not known where the log begins.
            let is_in_order = match self.unsynced {
                Some(_) => self.storage.sync(),
                None => Ok(()),
            };
            if let Err(error) = is_in_order.and_then(|()| self.storage.remove(&name)) {
                tracing::warn!("{}: {error}", self.storage.path(&name).display());
                break;
            }
            removed += 1;
        }
        self.full.drain(..removed);
    }
}

/// Bytes of frames in pieces.
pub(super) fn size_of_pieces(pieces: &[Vec<u8>]) -> u64 {
    pieces.iter().map(|piece| piece.len() as u64).sum()
}

/// Writes frames in pieces one after another, from `offset` on. Where they end.
pub(super) fn write_pieces(
    file: &mut dyn StoredFile,
    pieces: &[Vec<u8>],
    mut offset: u64,
) -> io::Result<u64> {
    for piece in pieces {
        file.write_all_at(piece, offset)?;
        offset += piece.len() as u64;
    }
    Ok(offset)
}

/// The frames of a part of a segment that failed, if the system still has them: it may have taken them for written
/// and forgotten them.
fn read_back(storage: &dyn Storage, unsynced: Unsynced) -> io::Result<Option<Vec<u8>>> {
    let Unsynced {
        name,
        first,
        last,
        from,
        to,
    } = unsynced;
    let (mut source, _) = match storage.open(&name.file_name()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    source.seek(SeekFrom::Start(from))?;
    let mut frames = Vec::new();
    source.take(to - from).read_to_end(&mut frames)?;
    let found = scan::<io::Error>(&mut &frames[..], first, last + 1, from, |_| Ok(()))?;
    Ok((found.next == last + 1).then_some(frames))
}

/// Makes a segment that begins with `frames` and has room for `needed` bytes of them, and as much as `wanted` if the
/// disk has it. One that has its name is replaced, once all of this is on the disk. The file, and its size.
pub(super) fn make_segment(
    storage: &dyn Storage,
    name: SegmentName,
    frames: &[Vec<u8>],
    needed: u64,
    wanted: u64,
) -> io::Result<(Box<dyn StoredFile>, u64)> {
    let header = SegmentHeader {
        generation: name.generation,
        shard: name.shard,
        first: name.first,
    };
    let file_name = name.file_name();
    let unfinished = format!("{file_name}{UNFINISHED}");
    let needed = SEGMENT_HEADER_SIZE as u64 + needed;
    let mut size = wanted.max(needed);
    let mut make = || {
        let mut file = loop {
            match storage.create(&unfinished, size) {
                Err(error) if is_too_much(&error) && size > needed => {
                    size = (size / 4).max(needed);
                }
                made => break made?,
            }
        };
        file.write_all_at(&header.encode(), 0)?;
        write_pieces(file.as_mut(), frames, SEGMENT_HEADER_SIZE as u64)?;
        file.sync_all()?;
        storage.rename(&unfinished, &file_name)?;
        Ok((file, size))
    };
    make().inspect_err(|_| {
        // It holds nothing; the next attempt makes it again.
        let _ = storage.remove(&unfinished);
    })
}

/// Whether there may be room for less: on the disk, in a quota, or below the largest size of a file.
fn is_too_much(error: &io::Error) -> bool {
    use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}

#[cfg(all(test, not(loom)))]
mod tests;
