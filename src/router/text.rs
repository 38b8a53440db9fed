//! The text of a remembered topic, beside what is known of it when it is short.

#![forbid(unsafe_code)]

/// Longest text kept without an allocation; with it a text takes half a cache line.
const INLINE_SIZE: usize = 30;
/// Bytes of a long text whose memory is kept for the next one.
const KEPT_MAX: usize = 256;

/// An owned topic.
#[derive(Debug)]
pub(super) enum Text {
    Short { size: u8, bytes: [u8; INLINE_SIZE] },
    Long(Vec<u8>),
}

const _: () = assert!(size_of::<Text>() == 32);

impl Text {
    #[cfg(test)]
    pub(super) fn as_bytes(&self) -> &[u8] {
        match self {
            Self::Short { size, bytes } => &bytes[..usize::from(*size)],
            Self::Long(bytes) => bytes,
        }
    }

    #[inline]
    pub(super) fn is(&self, text: &[u8]) -> bool {
        match self {
            Self::Short { size, bytes } => {
                usize::from(*size) == text.len() && bytes.get(..text.len()) == Some(text)
            }
            Self::Long(bytes) => bytes == text,
        }
    }

    /// Another text, in the same memory where that fits.
    pub(super) fn set(&mut self, text: &[u8]) {
        match self {
            _ if text.len() <= INLINE_SIZE => {
                let mut bytes = [0; INLINE_SIZE];
                bytes[..text.len()].copy_from_slice(text);
                let size = text.len() as u8;
                *self = Self::Short { size, bytes };
            }
            Self::Long(bytes) if bytes.capacity() <= KEPT_MAX || bytes.capacity() < text.len() => {
                bytes.clear();
                bytes.reserve_exact(text.len());
                bytes.extend_from_slice(text);
            }
            _ => *self = Self::Long(text.to_vec()),
        }
    }

    /// Bytes it holds elsewhere.
    pub(super) fn heap_size(&self) -> usize {
        match self {
            Self::Short { .. } => 0,
            Self::Long(bytes) => bytes.capacity(),
        }
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::Short {
            size: 0,
            bytes: [0; INLINE_SIZE],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{INLINE_SIZE, KEPT_MAX, Text};

    #[test]
    fn a_text_is_what_it_was_last_set_to_and_holds_little_more() {
        let mut text = Text::default();
        assert_eq!(text.as_bytes(), b"");
        let sizes = [
            1,
            INLINE_SIZE,
            INLINE_SIZE + 1,
            100,
            65_535,
            31,
            300,
            200,
            256,
            40,
            5,
            0,
        ];
        for size in sizes {
            let wanted: Vec<u8> = (0..size).map(|index| index as u8).collect();
            text.set(&wanted);
            assert_eq!(text.as_bytes(), wanted);
            assert!(text.is(&wanted) && !text.is(&[&wanted[..], b"x"].concat()));
            assert!(size == 0 || !text.is(&wanted[1..]));
            let held = if size <= INLINE_SIZE {
                0
            } else {
                size.max(KEPT_MAX)
            };
            assert!(text.heap_size() <= held, "{} for {size}", text.heap_size());
        }
    }
}
