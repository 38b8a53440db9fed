//! The text of one topic level, or of some that belong together, inside its node when it is short.

#![forbid(unsafe_code)]

/// Longest text kept without an allocation; with it a text takes as much as a `Vec`.
const INLINE_SIZE: usize = 22;

/// One owned topic level, or some with separators between them.
#[derive(Debug)]
pub(super) enum Level {
    Short { size: u8, bytes: [u8; INLINE_SIZE] },
    Long(Box<[u8]>),
}

const _: () = assert!(size_of::<Level>() == 24);

impl Level {
    pub(super) fn new(level: &[u8]) -> Self {
        if level.len() > INLINE_SIZE {
            return Self::Long(level.into());
        }
        let mut bytes = [0; INLINE_SIZE];
        bytes[..level.len()].copy_from_slice(level);
        Self::Short {
            size: level.len() as u8,
            bytes,
        }
    }

    /// These levels, and those of `below` behind them.
    pub(super) fn join(&self, below: &Self) -> Self {
        Self::new(&[self.as_bytes(), below.as_bytes()].join(&b'/'))
    }

    /// Bytes it holds elsewhere.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.len(),
        }
    }

    #[inline]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { size, bytes } => &bytes[..usize::from(*size)],
            Self::Long(bytes) => bytes,
        }
    }
}

impl Default for Level {
    fn default() -> Self {
        Self::new(b"")
    }
}
