//! Topic Name: where a message is published.

#![forbid(unsafe_code)]

use super::error::TOPIC_SIZE_MAX;
use super::{Levels, TopicError};
use crate::limits::TOPIC_LEVELS_MAX;

const SEPARATOR: u8 = b'/';

/// A Topic Name that was checked: not empty, without wildcards, of a bounded number of levels.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct TopicName<'a>(&'a [u8]);

impl<'a> TopicName<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`TopicError`] says which rule `text` breaks.
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        let bytes = text.as_bytes();
        if bytes.is_empty() {
            return Err(TopicError::Empty);
        }
        if bytes.len() > TOPIC_SIZE_MAX {
            return Err(TopicError::TooLong);
        }
        // Without early exits, so that the compiler can look at many bytes at once.
        let mut wildcard = false;
        let mut null = false;
        let mut separators = 0_usize;
        for &byte in bytes {
            wildcard |= byte == b'+' || byte == b'#';
            null |= byte == 0;
            separators += usize::from(byte == SEPARATOR);
        }
        if wildcard {
            return Err(TopicError::WildcardInName);
        }
        if null {
            return Err(TopicError::NullCharacter);
        }
        if separators >= TOPIC_LEVELS_MAX {
            return Err(TopicError::TooManyLevels);
        }
        Ok(Self(bytes))
    }

    /// Checks of a Topic Name what reading its packet did not: the codec takes none that is empty, or has
    /// a wildcard or U+0000.
    ///
    /// # Errors
    /// [`TopicError::TooManyLevels`].
    // HOT: per PUBLISH that has no Topic Alias.
    #[inline]
    pub fn from_packet(text: &'a str) -> Result<Self, TopicError> {
        let bytes = text.as_bytes();
        let is_separator = |byte: &&u8| **byte == SEPARATOR;
        // Nearly all are too short to have too many levels: nothing is counted.
        if bytes.len() >= TOPIC_LEVELS_MAX
            && bytes.iter().filter(is_separator).count() >= TOPIC_LEVELS_MAX
        {
            return Err(TopicError::TooManyLevels);
        }
        debug_assert_eq!(Self::new(text), Ok(Self(bytes)));
        Ok(Self(bytes))
    }

    /// A Topic Name that was checked before, such as the one of a stored message.
    #[must_use]
    pub const fn from_validated(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    /// The text.
    #[must_use]
    pub const fn as_bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its levels, first one first.
    #[must_use]
    pub const fn levels(self) -> Levels<'a> {
        Levels::new(self.0)
    }

    /// Whether it begins with `$`, which wildcards at the first level do not match [MQTT-4.7.2-1].
    #[must_use]
    pub fn is_dollar(self) -> bool {
        self.0.first() == Some(&b'$')
    }
}

#[cfg(test)]
mod tests {
    use super::TopicName;
    use crate::limits::TOPIC_LEVELS_MAX;
    use crate::topic::TopicError;

    #[test]
    fn names_are_checked() {
        // [MQTT-4.7.3-1] one character is enough; "/" alone and spaces are legal.
        for legal in [
            "/",
            "a",
            "/finance",
            "sport//player 1",
            "$SYS/x",
            "ACCOUNTS",
            "é/😀",
        ] {
            assert_eq!(
                TopicName::new(legal).map(TopicName::as_bytes),
                Ok(legal.as_bytes())
            );
        }
        let long = "a".repeat(65_536);
        for (illegal, error) in [
            ("", TopicError::Empty),                 // [MQTT-4.7.3-1]
            ("sport/#", TopicError::WildcardInName), // [MQTT-4.7.0-1]
            ("sp+rt", TopicError::WildcardInName),   // [MQTT-4.7.0-1]
            ("a\0b", TopicError::NullCharacter),     // [MQTT-4.7.3-2]
            (&long, TopicError::TooLong),            // [MQTT-4.7.3-3]
        ] {
            assert_eq!(TopicName::new(illegal), Err(error));
        }
        assert!(TopicName::new(&long[..65_535]).is_ok());
    }

    #[test]
    fn levels_are_bounded() {
        let most = TOPIC_LEVELS_MAX - 1;
        // As many as Mosquitto takes: what it has stored can be moved.
        assert_eq!(most, 200);
        for legal in ["a".repeat(1000), "/".repeat(most), "sport/".repeat(most)] {
            assert!(TopicName::new(&legal).is_ok());
            assert!(TopicName::from_packet(&legal).is_ok());
        }
        for separators in [TOPIC_LEVELS_MAX, 65_535] {
            let deep = "/".repeat(separators);
            let error = Err(TopicError::TooManyLevels);
            assert_eq!(TopicName::new(&deep), error);
            assert_eq!(TopicName::from_packet(&deep), error);
        }
    }
}
