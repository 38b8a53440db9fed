//! The form of a frame: size, checksum, number, what was durable, records.
//!
//! ```text
//!  0  4  size of the payload; zero: nothing follows
//!  4  4  CRC32C of everything from offset 8 to the end of the payload
//!  8  8  number of this frame
//! 16  8  number of the last frame known to be on stable storage when this one was made
//! 24     payload: records
//! ```
//!
//! The last field tells damage from an unfinished write: a frame that cannot be read, though a later
//! one says that it was stored, was damaged afterwards.

#![forbid(unsafe_code)]

use super::Lsn;

/// Bytes before the payload.
pub const FRAME_HEADER_SIZE: usize = 24;
/// Largest payload: a frame ends with the packet that made it large, and that is below 256 MiB.
pub const FRAME_PAYLOAD_MAX: usize = 1 << 30;

/// One frame, borrowed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Frame<'a> {
    /// Its number.
    pub lsn: Lsn,
    /// The last frame that was on stable storage when this one was made.
    pub synced: Lsn,
    /// Its records.
    pub payload: &'a [u8],
}

impl Frame<'_> {
    /// Its bytes, header included.
    #[must_use]
    pub const fn size(&self) -> usize {
        FRAME_HEADER_SIZE + self.payload.len()
    }
}

/// Why there is no whole frame where one was looked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum FrameError {
    /// It goes on beyond the bytes there are; this many would be needed.
    #[error("the frame is cut off")]
    CutOff {
        /// Bytes from its beginning to its end.
        needed: usize,
    },
    /// Its size cannot be.
    #[error("the size of the frame is impossible")]
    Size,
    /// Its checksum is not that of its bytes.
    #[error("the checksum of the frame is wrong")]
    Checksum,
    /// It is whole, and another than the one that belongs here.
    #[error("this is frame {found}")]
    Number {
        /// Its number.
        found: Lsn,
    },
}

/// Fills the header of the frame that `bytes` is, from header to end.
pub(super) fn seal(bytes: &mut [u8], lsn: Lsn, synced: Lsn) {
    let size = bytes.len() - FRAME_HEADER_SIZE;
    assert!(
        (1..=FRAME_PAYLOAD_MAX).contains(&size),
        "frame of {size} bytes"
    );
    bytes[8..16].copy_from_slice(&lsn.to_le_bytes());
    bytes[16..24].copy_from_slice(&synced.to_le_bytes());
    let checksum = crc32c::crc32c(&bytes[8..]);
    bytes[0..4].copy_from_slice(&(size as u32).to_le_bytes());
    bytes[4..8].copy_from_slice(&checksum.to_le_bytes());
}

/// The frame that `bytes` begins with, which must be number `lsn`, and what follows it. `None` where
/// the frames end.
///
/// # Errors
/// [`FrameError`] if there is something else.
pub fn next_frame(bytes: &[u8], lsn: Lsn) -> Result<Option<(Frame<'_>, &[u8])>, FrameError> {
    let Some((header, _)) = bytes.split_first_chunk::<FRAME_HEADER_SIZE>() else {
        return match bytes.iter().all(|&byte| byte == 0) {
            true => Ok(None),
            false => Err(FrameError::CutOff {
                needed: FRAME_HEADER_SIZE,
            }),
        };
    };
    let [
        s0,
        s1,
        s2,
        s3,
        c0,
        c1,
        c2,
        c3,
        l0,
        l1,
        l2,
        l3,
        l4,
        l5,
        l6,
        l7,
        d0,
        d1,
        d2,
        d3,
        d4,
        d5,
        d6,
        d7,
    ] = *header;
    let size = u32::from_le_bytes([s0, s1, s2, s3]) as usize;
    let checksum = u32::from_le_bytes([c0, c1, c2, c3]);
    let found = Lsn::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
    let synced = Lsn::from_le_bytes([d0, d1, d2, d3, d4, d5, d6, d7]);
    if size == 0 {
        // Room that was set aside holds zeros; anything else is not ours.
        return match header.iter().all(|&byte| byte == 0) {
            true => Ok(None),
            false => Err(FrameError::Size),
        };
    }
    if size > FRAME_PAYLOAD_MAX {
        return Err(FrameError::Size);
    }
    let end = FRAME_HEADER_SIZE + size;
    let Some((frame, rest)) = bytes.split_at_checked(end) else {
        return Err(FrameError::CutOff { needed: end });
    };
    let covered = frame.get(8..).unwrap_or_default();
    if crc32c::crc32c(covered) != checksum {
        return Err(FrameError::Checksum);
    }
    if found != lsn {
        return Err(FrameError::Number { found });
    }
    let payload = frame.get(FRAME_HEADER_SIZE..).unwrap_or_default();
    Ok(Some((
        Frame {
            lsn,
            synced,
            payload,
        },
        rest,
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(lsn: Lsn, payload: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0; FRAME_HEADER_SIZE];
        bytes.extend_from_slice(payload);
        seal(&mut bytes, lsn, lsn - 1);
        bytes
    }

    #[test]
    fn a_frame_is_read_back_and_zeros_end_the_log() {
        let mut bytes = frame(7, b"records");
        bytes.extend_from_slice(&[0; 100]);
        let (read, rest) = next_frame(&bytes, 7).unwrap().unwrap();
        assert_eq!(
            (read.lsn, read.synced, read.payload),
            (7, 6, &b"records"[..])
        );
        assert_eq!(next_frame(rest, 8), Ok(None));
        assert_eq!(next_frame(&[0; 3], 8), Ok(None));
        assert_eq!(next_frame(b"", 8), Ok(None));
    }

    #[test]
    fn no_flipped_bit_and_no_missing_byte_goes_unnoticed() {
        let whole = frame(7, b"records");
        for bit in 0..whole.len() * 8 {
            let mut bytes = whole.clone();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(!matches!(next_frame(&bytes, 7), Ok(Some(_))), "bit {bit}");
        }
        for size in 1..whole.len() {
            assert!(next_frame(&whole[..size], 7).is_err(), "{size} bytes");
        }
        assert_eq!(next_frame(&whole, 8), Err(FrameError::Number { found: 7 }));
    }
}
