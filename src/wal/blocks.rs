//! Frames on their way from the thread that reads them to the one that replays them, many at a time.
//!
//! The reader is ahead of the replay by a few blocks, and whatever it meets there comes after what stands
//! before it: what it warns of goes the same way as the frames, and its end is looked at when they are over.

#![forbid(unsafe_code)]

use super::segment::{Buffer, Sink};
use crate::journal::{FRAME_HEADER_SIZE, Frame, Prepared, Replay, UnknownRecord, WallClock};
use crossbeam::channel::{Receiver, Sender, bounded};
use std::io;

/// Blocks of one log. The reader fills one, and holds the next when it hands that over; the replay has one.
const BLOCKS: usize = 4;

/// Whole frames of one file.
#[derive(Debug, Default)]
pub(super) struct Block {
    buffer: Buffer,
    /// Where each frame ends, and whether it is made ready.
    ends: Vec<(usize, bool)>,
    /// What those say that are.
    prepared: Prepared,
    part: Part,
}

impl Block {
    fn clear(&mut self) {
        if self.buffer.is_oversize() {
            // One frame was large, and that was all.
            *self = Self::default();
        }
        self.buffer.clear();
        self.ends.clear();
        self.prepared.clear();
    }
}

/// A part of a file which is read in one go.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Part {
    /// Which file.
    pub(super) file: usize,
    /// Where it begins.
    pub(super) offset: u64,
}

enum Step {
    Frames(Block),
    Warning(String),
}

/// The two ends of the way.
pub(super) fn blocks(clock: WallClock) -> (Feed, Steps) {
    let (full, steps) = bounded(BLOCKS);
    let (back, free) = bounded(BLOCKS);
    for _ in 1..BLOCKS {
        back.send(Block::default()).expect("there is room");
    }
    let block = Block::default();
    let feed = Feed {
        free,
        full,
        block,
        is_first: true,
        clock,
    };
    (feed, Steps { steps, back, clock })
}

/// Why a frame was not read.
#[derive(Debug)]
pub(super) enum ReadError {
    /// The disk.
    Io(io::Error),
    /// The replay.
    Gone(Gone),
}

/// Nobody replays any more.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gone;

impl From<io::Error> for ReadError {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<Gone> for ReadError {
    fn from(gone: Gone) -> Self {
        Self::Gone(gone)
    }
}

/// The end of the reader.
pub(super) struct Feed {
    free: Receiver<Block>,
    full: Sender<Step>,
    /// The one that is filled, but for its bytes.
    block: Block,
    /// Nothing was handed over yet.
    is_first: bool,
    clock: WallClock,
}

impl Feed {
    /// The frames that follow are of `part`.
    pub(super) fn begin(&mut self, part: Part) {
        debug_assert!(self.block.ends.is_empty(), "frames of another part");
        self.block.part = part;
    }

    /// Says `text` once what was handed over has been replayed.
    pub(super) fn warn(&self, text: String) -> Result<(), Gone> {
        self.full.send(Step::Warning(text)).map_err(|_| Gone)
    }
}

impl Sink<ReadError> for Feed {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), ReadError> {
        let begin = self.block.ends.last().map_or(0, |(end, _)| *end);
        // The replay has something to do, and this is less of it. Without, both would wait for this thread.
        let is_prepared = self.is_first || !self.full.is_empty();
        self.block.ends.push((begin + frame.size(), is_prepared));
        if is_prepared {
            self.block.prepared.prepare(frame.payload, self.clock);
        }
        Ok(())
    }

    fn hand_over(&mut self, buffer: &mut Buffer, end: usize) -> Result<(), ReadError> {
        let last = self.block.ends.last().map(|(end, _)| *end);
        debug_assert_eq!(last, Some(end), "whole frames");
        self.is_first = false;
        let mut next = self.free.recv().map_err(|_| Gone)?;
        next.part = self.block.part;
        next.buffer
            .put(buffer.bytes().get(end..).unwrap_or_default());
        std::mem::swap(buffer, &mut next.buffer);
        let mut full = std::mem::replace(&mut self.block, next);
        // What the buffer was is with the next block now.
        std::mem::swap(&mut full.buffer, &mut self.block.buffer);
        self.full.send(Step::Frames(full)).map_err(|_| Gone)?;
        Ok(())
    }
}

/// The end of the replay.
pub(super) struct Steps {
    steps: Receiver<Step>,
    back: Sender<Block>,
    clock: WallClock,
}

impl Steps {
    /// Replays all that comes, until the reader has ended.
    ///
    /// # Errors
    /// A record nobody knows, and in which part it is. The reader finds nobody there then.
    pub(super) fn replay(self, replay: &mut Replay) -> Result<(), (Part, UnknownRecord)> {
        let mut own = Prepared::default();
        for step in self.steps {
            let mut block = match step {
                Step::Frames(block) => block,
                Step::Warning(text) => {
                    tracing::warn!("{text}");
                    continue;
                }
            };
            let mut begin = 0;
            for &(end, is_prepared) in &block.ends {
                let payload = block.buffer.bytes().get(begin + FRAME_HEADER_SIZE..end);
                let payload = payload.expect("the bytes of its frames");
                let prepared = if is_prepared {
                    &mut block.prepared
                } else {
                    own.prepare(payload, self.clock);
                    &mut own
                };
                let replayed = replay.prepared(payload, prepared);
                replayed.map_err(|error| (block.part, error))?;
                begin = end;
            }
            block.clear();
            // Unless the reader has ended.
            let _ = self.back.send(block);
        }
        Ok(())
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::journal::{Journal, Lsn, Origins, Record};
    use crate::wal::segment::{BUFFER_SIZE, scan_into};
    use std::io::{Cursor, Read};
    use std::thread;

    const CLOCK: WallClock = WallClock { start_ms: 0 };

    /// Frames of about `size` bytes.
    fn frames(count: usize, size: usize) -> Vec<u8> {
        let mut journal = Journal::new(0, 1, Origins::default(), CLOCK);
        let mut bytes = Vec::new();
        for _ in 0..count {
            journal.append(&Record::Unsubscribed {
                session: 1,
                filter: &"f".repeat(size),
            });
            let mut frame = Vec::new();
            journal.take(&mut frame);
            bytes.append(&mut frame.concat());
        }
        bytes
    }

    fn read(source: &mut impl Read, feed: &mut Feed) -> Result<u64, ReadError> {
        feed.begin(Part::default());
        let mut buffer = Buffer::default();
        let scanned = scan_into(source, 1, Lsn::MAX, 0, &mut buffer, feed)?;
        Ok(scanned.frames)
    }

    #[test]
    fn a_reader_whom_nobody_listens_to_any_more_ends() {
        let bytes = frames(200, 60_000);
        // At once, and when it has filled all blocks and waits for one.
        for wait in [false, true] {
            let (mut feed, steps) = blocks(CLOCK);
            let mut source = Cursor::new(&bytes);
            let result = thread::scope(|scope| {
                let reader = scope.spawn(|| read(&mut source, &mut feed));
                while wait && steps.steps.len() < BLOCKS - 1 {
                    thread::yield_now();
                }
                drop(steps);
                reader.join().unwrap()
            });
            assert!(matches!(result, Err(ReadError::Gone(Gone))), "{result:?}");
            let read = source.position() as usize;
            assert!(read <= (BLOCKS + 1) * BUFFER_SIZE, "{read} bytes read");
        }
    }

    #[test]
    fn a_record_nobody_knows_ends_the_replay_and_with_it_the_reader() {
        let mut bytes = frames(200, 60_000);
        // The first record is of no kind there is.
        bytes[24] = 200;
        let end = 24 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize;
        let checksum = crc32c::crc32c(&bytes[8..end]);
        bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
        let (mut feed, steps) = blocks(CLOCK);
        let mut source = Cursor::new(&bytes);
        let (replayed, read) = thread::scope(|scope| {
            let reader = scope.spawn(|| read(&mut source, &mut feed));
            let replayed = steps.replay(&mut Replay::new(CLOCK, &[]));
            (replayed, reader.join().unwrap())
        });
        assert_eq!(replayed, Err((Part::default(), UnknownRecord)));
        assert!(matches!(read, Err(ReadError::Gone(Gone))), "{read:?}");
        assert!((source.position() as usize) < bytes.len());
    }

    #[test]
    fn a_buffer_that_has_grown_for_a_large_frame_is_not_kept() {
        let size = 60_000;
        let count = 2 * BUFFER_SIZE / size + 1;
        let mut journal = Journal::new(0, 1, Origins::default(), CLOCK);
        let mut bytes = Vec::new();
        for _ in 0..3 {
            for _ in 0..count {
                journal.append(&Record::Unsubscribed {
                    session: 1,
                    filter: &"f".repeat(size),
                });
            }
            let mut frame = Vec::new();
            journal.take(&mut frame);
            bytes.append(&mut frame.concat());
        }
        let (mut feed, steps) = blocks(CLOCK);
        thread::scope(|scope| {
            let bytes = &bytes;
            let reader = scope.spawn(move || read(&mut &bytes[..], &mut feed));
            let mut blocks = 0;
            for step in &steps.steps {
                let Step::Frames(mut block) = step else {
                    panic!("a warning");
                };
                assert!(block.buffer.is_oversize());
                block.clear();
                assert!(!block.buffer.is_oversize());
                assert!(block.ends.is_empty() && block.buffer.bytes().is_empty());
                let _ = steps.back.send(block);
                blocks += 1;
            }
            assert_eq!((blocks, reader.join().unwrap().unwrap()), (3, 3));
        });
    }
}
