//! One log: its files, from the first frame that counts to the last.

#![forbid(unsafe_code)]

use super::{OpenError, Report};
use crate::journal::{Frame, Lsn, Replay, Replayed, WallClock};
use crate::wal::blocks::{Feed, Gone, Part, ReadError, blocks};
use crate::wal::directory::{Directory, DirectoryError, SegmentName};
use crate::wal::inventory::{Extent, Listed};
use crate::wal::segment::{
    Buffer, HeaderError, SEGMENT_HEADER_SIZE, SegmentHeader, Sink, scan, scan_into,
};
use crate::wal::storage::{Source, Storage, StoredFile};
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Segments that the system is asked to read before they are needed.
const SEGMENTS_AHEAD: usize = 4;

/// One log, read to its end.
pub(super) struct ReadLog {
    pub(super) replayed: Replayed,
    /// The frame that comes next.
    pub(super) next: Lsn,
    pub(super) segments: Vec<SegmentName>,
    /// What its inventory says, if it has one.
    listed: Option<Listed>,
    /// Segments that were to be removed: what they say has been said anew.
    forgotten: Vec<SegmentName>,
    pub(super) bytes: u64,
    /// Files with room, or an unfinished write, behind their last frame, and where that ends.
    pub(super) ends: Vec<(String, u64)>,
    /// Parts of files that the disk may not have.
    pub(super) unsynced: Vec<UnsyncedPart>,
}

impl ReadLog {
    /// Removes segments that the inventory does not name any more. What a process wrote there as it ended need not be on
    /// the disk: a power failure could take that back, and not what is removed here because of it.
    pub(super) fn remove_forgotten(&self, directory: &Directory) -> Result<(), DirectoryError> {
        if let Some(listed) = self.listed.filter(|_| !self.forgotten.is_empty()) {
            let written = listed.write_again(&**directory.storage());
            written.map_err(directory.at(&listed.name.file_name()))?;
        }
        self.forgotten
            .iter()
            .try_for_each(|name| directory.remove(name))
    }
}

/// Reads a log. One thread reads and checks its files, this one replays what it has found.
pub(super) fn read_log(
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
        let reader = Reader {
            directory,
            segments: &segments,
            extent,
            recover,
            feed,
            buffer: Buffer::default(),
            next: segments.first().map_or(1, |name| name.first),
            end_of_frames: 0,
            ends: Vec::new(),
            unsynced: Unsynced::default(),
            report: Report::default(),
        };
        let reader = scope.spawn(|| reader.read(listed));
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

/// A segment whose header was read.
struct OpenSegment {
    file: Box<dyn Source>,
    size: u64,
}

/// Reads the files of a log one after another.
struct Reader<'a> {
    directory: &'a Directory,
    segments: &'a [SegmentName],
    extent: Extent,
    recover: bool,
    feed: Feed,
    buffer: Buffer,
    /// The frame that comes next, and where the one before it ends in its file.
    next: Lsn,
    end_of_frames: u64,
    ends: Vec<(String, u64)>,
    unsynced: Unsynced,
    report: Report,
}

impl Reader<'_> {
    fn read(mut self, listed: Option<Listed>) -> Result<(ReadFiles, Report), Stop> {
        for path in missing(self.directory, self.segments, listed, self.extent) {
            if !self.recover {
                return Err(OpenError::Missing { path }.into());
            }
            self.warn(&path, "the file is missing")?;
            self.report.lost_frames += 1;
        }
        for index in 0..self.segments.len() {
            self.read_segment(index)?;
        }
        let stored = self.extent.stored;
        if let Some(name) = self.segments.last()
            && self.next <= stored
        {
            let problem = format!("frames {} to {stored} are missing", self.next);
            self.damage(&self.path(name), self.end_of_frames, problem)?;
            self.report.lost_frames += stored + 1 - self.next;
        }
        let files = ReadFiles {
            next: self.next,
            ends: self.ends,
            unsynced: self.unsynced,
        };
        Ok((files, self.report))
    }

    fn path(&self, name: &SegmentName) -> PathBuf {
        self.directory.storage().path(&name.file_name())
    }

    fn warn(&mut self, path: &Path, problem: impl fmt::Display) -> Result<(), Gone> {
        self.feed.warn(format!("{}: {problem}", path.display()))
    }

    /// Something that was stored is not there. With `--recover` that is a warning.
    fn damage(&mut self, path: &Path, offset: u64, problem: String) -> Result<(), Stop> {
        if !self.recover {
            return Err(damaged(path, offset, problem).into());
        }
        Ok(self.warn(path, problem)?)
    }

    /// The first frame of the segment behind that one, if there is one.
    fn following(&self, index: usize) -> Option<Lsn> {
        self.segments.get(index + 1).map(|name| name.first)
    }

    fn read_segment(&mut self, index: usize) -> Result<(), Stop> {
        let name = &self.segments[index];
        let path = self.path(name);
        self.read_ahead(index);
        if name.first != self.next {
            let (next, last) = (self.next, name.first - 1);
            let problem = format!("frames {next} to {last} are missing");
            self.damage(&path, SEGMENT_HEADER_SIZE as u64, problem)?;
            self.report.lost_frames += name.first.saturating_sub(next);
            self.next = name.first;
        }
        match self.open_segment(index, &path)? {
            Some(segment) => self.read_frames(index, &path, segment),
            None => Ok(()),
        }
    }

    /// The disk is at work while what it has brought is looked at.
    fn read_ahead(&self, index: usize) {
        let first = if index == 0 { 1 } else { SEGMENTS_AHEAD };
        for name in (first..=SEGMENTS_AHEAD).filter_map(|ahead| self.segments.get(index + ahead)) {
            self.directory.storage().read_ahead(&name.file_name());
        }
    }

    /// Opens a segment and looks at its header. `None` if it holds nothing, or nothing any more.
    fn open_segment(&mut self, index: usize, path: &Path) -> Result<Option<OpenSegment>, Stop> {
        let name = &self.segments[index];
        let file_name = name.file_name();
        let at = |error| self.directory.at(&file_name)(error);
        let (mut file, size) = self.directory.storage().open(&file_name).map_err(at)?;
        let mut header = [0; SEGMENT_HEADER_SIZE];
        let is_whole = size >= SEGMENT_HEADER_SIZE as u64;
        if is_whole {
            file.read_exact(&mut header).map_err(at)?;
        }
        let decoded = SegmentHeader::decode(&header);
        let is_empty = decoded == Err(HeaderError::NotASegment)
            && (!is_whole || is_all_zeros(&mut file).map_err(at)?);
        if is_empty && self.extent.includes(name.first) {
            let problem = format!("it was emptied, and {size} bytes without its header are left");
            self.damage(path, 0, problem)?;
            self.report.lost_frames += 1;
            return Ok(None);
        }
        // A segment is made, then written to: while its header is unfinished it holds nothing.
        if is_empty && self.following(index).is_none() {
            self.report.torn_bytes += size;
            return Ok(None);
        }
        match decoded {
            Ok(found)
                if (found.generation, found.shard, found.first)
                    == (name.generation, name.shard, name.first) => {}
            Ok(found) => {
                let belongs = self.path(&SegmentName {
                    generation: found.generation,
                    shard: found.shard,
                    first: found.first,
                });
                let path = path.to_owned();
                return Err(OpenError::Misplaced { path, belongs }.into());
            }
            Err(source) => {
                if !self.recover || matches!(source, HeaderError::Version { .. }) {
                    let path = path.to_owned();
                    return Err(OpenError::Header { path, source }.into());
                }
                self.warn(path, "its header is damaged")?;
            }
        }
        Ok(Some(OpenSegment { file, size }))
    }

    /// Hands over the frames of a segment, around what is damaged if that was asked for.
    fn read_frames(&mut self, index: usize, path: &Path, segment: OpenSegment) -> Result<(), Stop> {
        let OpenSegment { mut file, size } = segment;
        let file_name = self.segments[index].file_name();
        let at = |error| self.directory.at(&file_name)(error);
        let following = self.following(index);
        let end = following.unwrap_or(Lsn::MAX);
        let mut offset = SEGMENT_HEADER_SIZE as u64;
        loop {
            file.seek(SeekFrom::Start(offset)).map_err(at)?;
            let part = Part {
                file: index,
                offset,
            };
            self.feed.begin(part);
            let mut sink = Watched {
                feed: &mut self.feed,
                unsynced: &mut self.unsynced,
                file: index,
                offset,
            };
            let buffer = &mut self.buffer;
            let scanned = match scan_into(&mut file, self.next, end, offset, buffer, &mut sink) {
                Ok(scanned) => scanned,
                Err(ReadError::Io(error)) => return Err(at(error).into()),
                Err(ReadError::Gone(gone)) => return Err(gone.into()),
            };
            self.report.frames += scanned.frames;
            self.report.bytes += scanned.bytes;
            self.next = scanned.next;
            // Where the next segment goes on, whatever was here does not count.
            let is_complete = following.is_none_or(|following| following == self.next);
            self.end_of_frames = offset + scanned.bytes;
            let is_torn = scanned.damage.is_none_or(|damage| !damage.was_stored);
            if is_complete && is_torn && self.end_of_frames < size {
                self.ends.push((file_name.clone(), self.end_of_frames));
            }
            let Some(damage) = scanned.damage else {
                if !is_complete && !self.recover {
                    return Err(self.gap(index, path, end).into());
                }
                return Ok(());
            };
            if is_complete && (!damage.was_stored || following.is_some()) {
                self.report.torn_bytes += damage.size;
                return Ok(());
            }
            if !self.recover {
                return Err(damaged(path, damage.offset, damage.error.to_string()).into());
            }
            let Some((found, found_at)) = damage.next.filter(|&(found, _)| found < end) else {
                let (size, offset) = (damage.size, damage.offset);
                let problem = format!("{size} bytes from offset {offset} on could not be read");
                self.warn(path, problem)?;
                self.report.lost_bytes += size;
                self.report.lost_frames += following.map_or(1, |following| following - self.next);
                return Ok(());
            };
            let (next, last, at) = (self.next, found - 1, damage.offset);
            self.warn(
                path,
                format_args!("frames {next} to {last} at offset {at} could not be read"),
            )?;
            self.report.lost_frames += found - next;
            self.report.lost_bytes += found_at - at;
            (self.next, offset) = (found, found_at);
        }
    }

    /// A segment ends before the frame that the next one begins with, which is `end`.
    fn gap(&self, index: usize, path: &Path, end: Lsn) -> OpenError {
        let absent = self.path(&SegmentName {
            first: self.next,
            ..self.segments[index]
        });
        let problem = format!(
            "frames {} to {} are missing, here or because {} is",
            self.next,
            end - 1,
            absent.display()
        );
        damaged(path, self.end_of_frames, problem)
    }
}

fn damaged(path: &Path, offset: u64, problem: String) -> OpenError {
    OpenError::Damaged {
        path: path.to_owned(),
        offset,
        problem,
    }
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
pub(super) struct UnsyncedPart {
    pub(super) name: String,
    /// Its frames, which follow one another.
    pub(super) first: Lsn,
    pub(super) last: Lsn,
    /// Where they begin.
    pub(super) from: u64,
}

/// Writes frames that were read to the place where they are, and brings them to the disk. They are read a second time
/// for that, since nobody knows before the end which they are; and checked, since what the system takes for written it
/// may have forgotten meanwhile.
pub(super) fn write_again(storage: &dyn Storage, part: &UnsyncedPart) -> io::Result<()> {
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
