//! One file of a shard's log: a header, then frames one behind the other.
//!
//! ```text
//!  0  8  FASTMQWL
//!  8  4  version of the format
//! 12  4  CRC32C of bytes 16 to 40
//! 16  8  generation of the store
//! 24  8  number of the first frame
//! 32  8  shard
//! 40     frames, then zeros
//! ```

#![forbid(unsafe_code)]

use crate::journal::{FRAME_HEADER_SIZE, FRAME_PAYLOAD_MAX, Frame, FrameError, Lsn, next_frame};
use std::io::{self, Read};

/// The format this program writes, and the only one it reads.
pub const FORMAT_VERSION: u32 = 1;
/// Bytes before the first frame.
pub const SEGMENT_HEADER_SIZE: usize = 40;

const MAGIC: [u8; 8] = *b"FASTMQWL";
/// Bytes read at a time, and looked at together: they stay in the cache of a core meanwhile.
pub(super) const BUFFER_SIZE: usize = 512 << 10;
/// Bytes by which a buffer grows at most. A damaged size is no reason to set memory aside for a gigabyte.
const GROWTH_MAX: usize = 64 << 20;

/// What a file says of itself.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SegmentHeader {
    /// Which of the stores that followed one another in a directory.
    pub generation: u64,
    /// Whose log it is.
    pub shard: u64,
    /// Its first frame.
    pub first: Lsn,
}

/// Why a file is no segment.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeaderError {
    /// It is another kind of file, or its beginning is damaged.
    #[error(
        "not a segment of a fastmq log, or its header is damaged. Put the file back from a backup of this \
         store, or start once with --recover to take what can be read"
    )]
    NotASegment,
    /// Another version of this program wrote it.
    #[error(
        "format {found}; this program reads format {FORMAT_VERSION}. Start the version of it that the store \
         is of"
    )]
    Version {
        /// The format it has.
        found: u32,
    },
}

impl SegmentHeader {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_SIZE] {
        let mut bytes = [0; SEGMENT_HEADER_SIZE];
        bytes[0..8].copy_from_slice(&MAGIC);
        bytes[8..12].copy_from_slice(&FORMAT_VERSION.to_le_bytes());
        bytes[16..24].copy_from_slice(&self.generation.to_le_bytes());
        bytes[24..32].copy_from_slice(&self.first.to_le_bytes());
        bytes[32..40].copy_from_slice(&self.shard.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[16..]);
        bytes[12..16].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads it back.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8; SEGMENT_HEADER_SIZE]) -> Result<Self, HeaderError> {
        let u32_at = |at: usize| {
            let mut value = [0; 4];
            value.copy_from_slice(&bytes[at..at + 4]);
            u32::from_le_bytes(value)
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        let found = u32_at(8);
        // There was no format 0; that is a header of which only the beginning was written.
        if bytes[0..8] != MAGIC || found == 0 {
            return Err(HeaderError::NotASegment);
        }
        if found != FORMAT_VERSION {
            return Err(HeaderError::Version { found });
        }
        if crc32c::crc32c(&bytes[16..]) != u32_at(12) {
            return Err(HeaderError::NotASegment);
        }
        Ok(Self {
            generation: u64_at(16),
            first: u64_at(24),
            shard: u64_at(32),
        })
    }
}

/// Something that should be a frame and is not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Damage {
    /// Where in the file.
    pub offset: u64,
    /// What is wrong there.
    pub error: FrameError,
    /// Bytes from there to the last one that is not zero.
    pub size: u64,
    /// A whole frame behind it says that the damaged one was on stable storage.
    pub was_stored: bool,
    /// The next whole frame behind it, and where.
    pub next: Option<(Lsn, u64)>,
}

/// How far the frames of a file go.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Scanned {
    /// The frame that would come next.
    pub next: Lsn,
    /// Frames read.
    pub frames: u64,
    /// Bytes read, headers included.
    pub bytes: u64,
    /// What ended it, if not the end.
    pub damage: Option<Damage>,
}

/// What takes the frames of a file.
pub(super) trait Sink<E> {
    /// The next frame. It lies in the buffer, behind the one before it.
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), E>;

    /// No room is left behind the frames in `buffer`, or there are no more of them: leaves a buffer in its
    /// place that holds what is behind `end` and nothing else.
    fn hand_over(&mut self, buffer: &mut Buffer, end: usize) -> Result<(), E>;
}

/// Looks at frames one by one.
struct Each<F>(F);

impl<E, F: FnMut(Frame<'_>) -> Result<(), E>> Sink<E> for Each<F> {
    fn frame(&mut self, frame: Frame<'_>) -> Result<(), E> {
        (self.0)(frame)
    }

    fn hand_over(&mut self, buffer: &mut Buffer, end: usize) -> Result<(), E> {
        buffer.remove_front(end);
        Ok(())
    }
}

/// Reads frames from `first` on, at most up to the one before `end`, from a source that stands at
/// `offset` of its file. Holds as many as a buffer takes, or one.
///
/// # Errors
/// What reading failed with, or what `found` failed with.
pub fn scan<E: From<io::Error>>(
    source: &mut impl Read,
    first: Lsn,
    end: Lsn,
    offset: u64,
    found: impl FnMut(Frame<'_>) -> Result<(), E>,
) -> Result<Scanned, E> {
    let mut buffer = Buffer::default();
    scan_into(source, first, end, offset, &mut buffer, &mut Each(found))
}

/// The same by way of `buffer`. Whatever it ends with, all frames before that are handed over.
pub(super) fn scan_into<E: From<io::Error>>(
    source: &mut impl Read,
    first: Lsn,
    end: Lsn,
    offset: u64,
    buffer: &mut Buffer,
    sink: &mut impl Sink<E>,
) -> Result<Scanned, E> {
    buffer.clear();
    let mut window = Window {
        source,
        buffer,
        begin: 0,
        is_at_end: false,
    };
    let scanned = window.scan(first, end, offset, sink);
    window.hand_over(sink)?;
    scanned
}

/// What is behind a place where there should be a frame. `None` if there are only zeros, as a file
/// has whose size was set before a crash and whose content was not.
fn examine(bytes: &[u8], expected: Lsn, offset: u64, error: FrameError) -> Option<Damage> {
    let size = bytes.iter().rposition(|&byte| byte != 0)? + 1;
    let mut damage = Damage {
        offset,
        error,
        size: size as u64,
        was_stored: false,
        next: None,
    };
    let mut at = 1;
    while let Some(rest) = bytes.get(at..).filter(|_| at < size) {
        // A frame's size is never zero, and its number is not far from the one that was expected.
        let number = rest.get(8..16).and_then(|number| number.try_into().ok());
        let Some(number) = number.map(Lsn::from_le_bytes) else {
            break;
        };
        if number >= expected
            && number - expected < 1 << 32
            && let Ok(Some((frame, _))) = next_frame(rest, number)
        {
            damage.next.get_or_insert((number, offset + at as u64));
            damage.was_stored |= frame.synced >= expected;
            if damage.was_stored {
                break;
            }
            at += frame.size();
        } else {
            at += 1;
        }
    }
    Some(damage)
}

/// Bytes that are read into again and again.
#[derive(Debug, Default)]
pub(super) struct Buffer {
    /// With the room behind what was read.
    bytes: Vec<u8>,
    filled: usize,
}

impl Buffer {
    /// What was read.
    pub(super) fn bytes(&self) -> &[u8] {
        self.bytes.get(..self.filled).unwrap_or_default()
    }

    /// Whether it has grown for one large frame.
    pub(super) fn is_oversize(&self) -> bool {
        self.bytes.len() > BUFFER_SIZE
    }

    pub(super) fn clear(&mut self) {
        if self.is_oversize() {
            self.bytes = Vec::new();
        }
        self.filled = 0;
    }

    /// Puts bytes behind the others.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.filled + bytes.len();
        if self.bytes.len() < end {
            self.grow(end);
        }
        self.bytes[self.filled..end].copy_from_slice(bytes);
        self.filled = end;
    }

    pub(super) fn remove_front(&mut self, size: usize) {
        self.bytes.copy_within(size..self.filled, 0);
        self.filled -= size;
        if self.is_oversize() && self.filled <= BUFFER_SIZE {
            self.bytes.truncate(BUFFER_SIZE);
            self.bytes.shrink_to_fit();
        }
    }

    /// Makes room for `size` bytes.
    fn grow(&mut self, size: usize) {
        let size = size.max(BUFFER_SIZE);
        if self.bytes.is_empty() {
            // Of zeros that the system has.
            self.bytes = vec![0; size];
        } else {
            self.bytes.reserve_exact(size - self.bytes.len());
            self.bytes.resize(size, 0);
        }
    }

    /// Reads what comes next, at most as much as there is room for. How much.
    fn read(&mut self, source: &mut impl Read) -> io::Result<usize> {
        let room = self.bytes.get_mut(self.filled..).unwrap_or_default();
        let read = loop {
            match source.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        self.filled += read;
        Ok(read)
    }
}

/// Bytes of a source that are looked at and not consumed.
struct Window<'a, R> {
    source: &'a mut R,
    buffer: &'a mut Buffer,
    /// Before it are frames that were found.
    begin: usize,
    is_at_end: bool,
}

impl<R: Read> Window<'_, R> {
    fn bytes(&self) -> &[u8] {
        self.buffer.bytes().get(self.begin..).unwrap_or_default()
    }

    fn scan<E: From<io::Error>>(
        &mut self,
        first: Lsn,
        end: Lsn,
        offset: u64,
        sink: &mut impl Sink<E>,
    ) -> Result<Scanned, E> {
        let mut scanned = Scanned {
            next: first,
            frames: 0,
            bytes: 0,
            damage: None,
        };
        while scanned.next < end {
            self.fill(FRAME_HEADER_SIZE, sink)?;
            let error = loop {
                let error = match next_frame(self.bytes(), scanned.next) {
                    Ok(Some((frame, _))) => {
                        let size = frame.size();
                        sink.frame(frame)?;
                        scanned.next += 1;
                        scanned.frames += 1;
                        scanned.bytes += size as u64;
                        self.begin += size;
                        break None;
                    }
                    Ok(None) => return Ok(scanned),
                    Err(error) => error,
                };
                match error {
                    FrameError::CutOff { needed } if self.fill(needed, sink)? => {}
                    error => break Some(error),
                }
            };
            if let Some(error) = error {
                let at = offset + scanned.bytes;
                self.fill(FRAME_PAYLOAD_MAX, sink)?;
                scanned.damage = examine(self.bytes(), scanned.next, at, error);
                return Ok(scanned);
            }
        }
        Ok(scanned)
    }

    /// Makes `size` bytes visible; whether there are that many.
    fn fill<E: From<io::Error>>(
        &mut self,
        size: usize,
        sink: &mut impl Sink<E>,
    ) -> Result<bool, E> {
        if self.bytes().len() >= size {
            return Ok(true);
        }
        if self.begin + size > BUFFER_SIZE {
            self.hand_over(sink)?;
        }
        while self.bytes().len() < size && !self.is_at_end {
            let room = self.buffer.bytes.len();
            if self.buffer.filled == room {
                let growth = room.clamp(BUFFER_SIZE, GROWTH_MAX);
                self.buffer.grow((room + growth).min(self.begin + size));
            }
            self.is_at_end = self.buffer.read(self.source)? == 0;
        }
        Ok(self.bytes().len() >= size)
    }

    /// Gives away the frames that were found.
    fn hand_over<E>(&mut self, sink: &mut impl Sink<E>) -> Result<(), E> {
        let end = std::mem::take(&mut self.begin);
        match end {
            0 => Ok(()),
            end => sink.hand_over(self.buffer, end),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Journal, Origins, Record, WallClock};
    use proptest::prelude::*;

    /// Frames 1 to `count`, each of which says that the one before was stored.
    fn frames(count: u64) -> (Vec<u8>, Vec<usize>) {
        let mut journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        let mut bytes = Vec::new();
        let mut ends = vec![0];
        for number in 0..count {
            for _ in 0..=number % 3 {
                // No zeros at its end, which would be there without having been written.
                journal.append(&Record::Unsubscribed {
                    session: number,
                    filter: "f",
                });
            }
            let mut frame = Vec::new();
            let lsn = journal.take(&mut frame).unwrap();
            journal.set_durable(lsn);
            journal.set_synced(lsn);
            bytes.append(&mut frame.concat());
            ends.push(bytes.len());
        }
        (bytes, ends)
    }

    fn scan_all(bytes: &[u8]) -> Scanned {
        scan::<io::Error>(&mut &bytes[..], 1, Lsn::MAX, 0, |_| Ok(())).unwrap()
    }

    #[test]
    fn a_header_is_read_back_and_another_format_refused_by_its_number() {
        let header = SegmentHeader {
            generation: 3,
            shard: 2,
            first: 77,
        };
        let bytes = header.encode();
        assert_eq!(SegmentHeader::decode(&bytes), Ok(header));
        let mut newer = bytes;
        newer[8] = 9;
        let version = HeaderError::Version { found: 9 };
        assert_eq!(SegmentHeader::decode(&newer), Err(version));
        let mut damaged = bytes;
        damaged[25] ^= 1;
        assert_eq!(
            SegmentHeader::decode(&damaged),
            Err(HeaderError::NotASegment)
        );
    }

    #[test]
    fn zeros_behind_the_frames_are_their_end() {
        let (mut bytes, _) = frames(5);
        let size = bytes.len() as u64;
        bytes.resize(bytes.len() + 10_000, 0);
        let scanned = scan_all(&bytes);
        assert_eq!(
            (scanned.next, scanned.bytes, scanned.damage),
            (6, size, None)
        );
    }

    #[test]
    fn reading_stops_before_the_frame_another_file_begins_with() {
        let (bytes, _) = frames(5);
        let scanned = scan::<io::Error>(&mut &bytes[..], 1, 4, 0, |_| Ok(())).unwrap();
        assert_eq!((scanned.next, scanned.frames), (4, 3));
    }

    #[test]
    fn an_unfinished_last_frame_is_no_damage_to_what_was_stored() {
        let (bytes, ends) = frames(5);
        for size in ends[4] + 1..ends[5] {
            let mut torn = bytes[..size].to_vec();
            torn.resize(bytes.len() + 100, 0);
            let scanned = scan_all(&torn);
            assert_eq!(scanned.next, 5, "cut to {size}");
            assert!(scanned.damage.is_none_or(|damage| !damage.was_stored));
        }
    }

    #[test]
    fn a_flipped_bit_in_what_was_stored_is_told_from_an_unfinished_write() {
        let (bytes, ends) = frames(6);
        // Frame 6 says that frame 5 was stored, so up to there all damage is known.
        for bit in 0..ends[5] * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            let scanned = scan_all(&damaged);
            let frame = ends.iter().position(|&end| end > bit / 8).unwrap() as Lsn;
            assert_eq!(scanned.next, frame, "bit {bit}");
            assert!(scanned.damage.unwrap().was_stored, "bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_scanned_without_a_panic(bytes: Vec<u8>) {
            scan_all(&bytes);
        }

        #[test]
        fn damaged_frames_are_scanned_without_a_panic_and_none_is_made_up(
            at: prop::sample::Index,
            garbage in prop::collection::vec(any::<u8>(), 1..40),
        ) {
            let (mut bytes, ends) = frames(8);
            let at = at.index(bytes.len());
            let end = (at + garbage.len()).min(bytes.len());
            bytes[at..end].copy_from_slice(&garbage[..end - at]);
            let scanned = scan_all(&bytes);
            let whole = ends.iter().filter(|&&end| end > 0 && end <= at).count() as u64;
            prop_assert!(scanned.frames >= whole);
        }
    }
}
