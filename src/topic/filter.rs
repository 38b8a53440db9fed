//! Topic Filter: what a subscription asks for.

#![forbid(unsafe_code)]

use super::error::TOPIC_SIZE_MAX;
use super::{Levels, TopicError, TopicName};
use crate::limits::TOPIC_LEVELS_MAX;

/// What a Shared Subscription's Topic Filter begins with.
const SHARE_PREFIX: &[u8] = b"$share/";

/// A Topic Filter that was checked: legal wildcards, a bounded number of levels, and a `$share`
/// prefix, if any, that names a group and is followed by a filter.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct TopicFilter<'a> {
    text: &'a [u8],
    /// Where the filter proper begins: 0, or after `$share/ShareName/`.
    filter_start: usize,
}

impl<'a> TopicFilter<'a> {
    /// Checks `text`.
    ///
    /// # Errors
    /// [`TopicError`] says which rule `text` breaks.
    pub fn new(text: &'a str) -> Result<Self, TopicError> {
        let text = text.as_bytes();
        if text.is_empty() {
            return Err(TopicError::Empty);
        }
        if text.len() > TOPIC_SIZE_MAX {
            return Err(TopicError::TooLong);
        }
        if text.contains(&0) {
            return Err(TopicError::NullCharacter);
        }
        let filter_start = match text.strip_prefix(SHARE_PREFIX) {
            Some(rest) => {
                // The ShareName ends at the next separator, so it cannot hold one [MQTT-4.8.2-1].
                let name_size = rest
                    .iter()
                    .position(|&byte| byte == b'/')
                    .ok_or(TopicError::SharedSubscription)?;
                let name = &rest[..name_size];
                let filter_start = SHARE_PREFIX.len() + name_size + 1;
                if name.is_empty() || name.contains(&b'+') || name.contains(&b'#') {
                    return Err(TopicError::SharedSubscription);
                }
                if filter_start == text.len() {
                    return Err(TopicError::SharedSubscription);
                }
                filter_start
            }
            None => 0,
        };
        check_levels(&text[filter_start..])?;
        Ok(Self { text, filter_start })
    }

    /// A Topic Filter that was checked before, such as the text of a known subscription.
    #[must_use]
    pub fn from_validated(text: &'a [u8]) -> Self {
        let name_size = text
            .strip_prefix(SHARE_PREFIX)
            .and_then(|rest| rest.iter().position(|&byte| byte == b'/'));
        let filter_start = name_size.map_or(0, |size| SHARE_PREFIX.len() + size + 1);
        Self { text, filter_start }
    }

    /// The whole text, as the Client sent it.
    #[must_use]
    pub const fn text(&self) -> &'a [u8] {
        self.text
    }

    /// The ShareName of a Shared Subscription.
    #[must_use]
    pub fn share_group(&self) -> Option<&'a [u8]> {
        (self.filter_start > 0).then(|| &self.text[SHARE_PREFIX.len()..self.filter_start - 1])
    }

    /// The filter that Topic Names are compared with: the text without `$share/ShareName/`.
    #[must_use]
    pub fn filter(&self) -> &'a [u8] {
        &self.text[self.filter_start..]
    }

    /// Levels of [`Self::filter`].
    #[must_use]
    pub fn levels(&self) -> Levels<'a> {
        Levels::new(self.filter())
    }

    /// Whether it has no wildcard, so that it matches one Topic Name.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.filter().iter().any(|byte| matches!(byte, b'+' | b'#'))
    }

    /// Whether a message published to `topic` is for this filter, by comparing level after level.
    #[must_use]
    pub fn matches(&self, topic: TopicName<'_>) -> bool {
        // Wildcards at the first level do not match topics that begin with $ [MQTT-4.7.2-1].
        if topic.is_dollar() && matches!(self.filter().first(), Some(b'+' | b'#')) {
            return false;
        }
        let mut names = topic.levels();
        for level in self.levels() {
            // # matches the parent level too: `sport/#` matches `sport`.
            if level == b"#" {
                return true;
            }
            match names.next() {
                Some(name) if level == b"+" || level == name => {}
                _ => return false,
            }
        }
        names.next().is_none()
    }
}

fn check_levels(filter: &[u8]) -> Result<(), TopicError> {
    let mut count = 0;
    let mut ended = false;
    for level in Levels::new(filter) {
        count += 1;
        if count > TOPIC_LEVELS_MAX {
            return Err(TopicError::TooManyLevels);
        }
        if ended || (level.len() > 1 && level.contains(&b'#')) {
            return Err(TopicError::MultiLevelWildcard);
        }
        if level.len() > 1 && level.contains(&b'+') {
            return Err(TopicError::SingleLevelWildcard);
        }
        ended = level == b"#";
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::TopicFilter;
    use crate::limits::TOPIC_LEVELS_MAX;
    use crate::topic::{TopicError, TopicName};

    #[test]
    fn filters_match_as_the_specification_says() {
        for (filter, topic, expected) in [
            // Section 4.7.1.2: # is the parent and any number of children [MQTT-4.7.1-1].
            ("sport/tennis/player1/#", "sport/tennis/player1", true),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/ranking",
                true,
            ),
            (
                "sport/tennis/player1/#",
                "sport/tennis/player1/score/wimbledon",
                true,
            ),
            ("sport/tennis/player1/#", "sport/tennis/player2", false),
            ("sport/#", "sport", true),
            ("sport/#", "sports", false),
            ("#", "a/b/c", true),
            ("#", "/", true),
            ("sport/tennis/#", "sport/tennis", true),
            // Section 4.7.1.3: + is exactly one level [MQTT-4.7.1-2].
            ("sport/tennis/+", "sport/tennis/player1", true),
            ("sport/tennis/+", "sport/tennis/player2", true),
            ("sport/tennis/+", "sport/tennis/player1/ranking", false),
            ("sport/+", "sport", false),
            ("sport/+", "sport/", true),
            ("+", "sport", true),
            ("+", "/finance", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+/tennis/#", "sport/tennis", true),
            ("sport/+/player1", "sport/tennis/player1", true),
            ("+/+/#", "a", false),
            ("+/+/#", "a/b", true),
            ("a/+/+", "a//", true),
            // Section 4.7.2: $ topics [MQTT-4.7.2-1].
            ("#", "$SYS/monitor/Clients", false),
            ("+/monitor/Clients", "$SYS/monitor/Clients", false),
            ("+", "$SYS", false),
            ("$SYS/#", "$SYS/monitor/Clients", true),
            ("$SYS/#", "$SYS", true),
            ("$SYS/monitor/+", "$SYS/monitor/Clients", true),
            ("a/+", "a/$x", true),
            // Section 4.7.3: case and separators count, nothing is normalized [MQTT-4.7.3-4].
            ("ACCOUNTS", "Accounts", false),
            ("/finance", "finance", false),
            ("finance", "finance/", false),
            ("Accounts payable", "Accounts payable", true),
            // Section 4.8.2: a Shared Subscription matches what its filter matches.
            (
                "$share/consumer1/sport/tennis/+",
                "sport/tennis/player1",
                true,
            ),
            ("$share/consumer1//finance", "/finance", true),
            ("$share/consumer1/#", "$SYS/x", false),
            ("$share/consumer1/#", "a/b", true),
        ] {
            let filter = TopicFilter::new(filter).expect("legal filter");
            let name = TopicName::new(topic).expect("legal name");
            assert_eq!(filter.matches(name), expected, "{filter:?} {topic}");
        }
    }

    #[test]
    fn illegal_filters_are_refused() {
        let long = "a".repeat(65_536);
        let deep = "/".repeat(65_535);
        for (text, error) in [
            ("", TopicError::Empty),            // [MQTT-4.7.3-1]
            ("a\0", TopicError::NullCharacter), // [MQTT-4.7.3-2]
            (&long, TopicError::TooLong),       // [MQTT-4.7.3-3]
            (&deep, TopicError::TooManyLevels),
            ("sport/tennis#", TopicError::MultiLevelWildcard), // [MQTT-4.7.1-1]
            ("sport/tennis/#/ranking", TopicError::MultiLevelWildcard), // [MQTT-4.7.1-1]
            ("#/", TopicError::MultiLevelWildcard),            // [MQTT-4.7.1-1]
            ("##", TopicError::MultiLevelWildcard),            // [MQTT-4.7.1-1]
            ("sport+", TopicError::SingleLevelWildcard),       // [MQTT-4.7.1-2]
            ("a/++/b", TopicError::SingleLevelWildcard),       // [MQTT-4.7.1-2]
            ("$share//x", TopicError::SharedSubscription),     // [MQTT-4.8.2-1]
            ("$share/g+/x", TopicError::SharedSubscription),   // [MQTT-4.8.2-1]
            ("$share/#/x", TopicError::SharedSubscription),    // [MQTT-4.8.2-1]
            ("$share/g", TopicError::SharedSubscription),      // [MQTT-4.8.2-2]
            ("$share/g/", TopicError::SharedSubscription),     // [MQTT-4.8.2-2]
            ("$share/", TopicError::SharedSubscription),       // [MQTT-4.8.2-2]
            ("$share/g/a/#/b", TopicError::MultiLevelWildcard), // [MQTT-4.8.2-2]
        ] {
            assert_eq!(TopicFilter::new(text), Err(error), "{text:.40}");
        }
        assert!(TopicFilter::new(&"/".repeat(TOPIC_LEVELS_MAX - 1)).is_ok());
    }

    #[test]
    fn shared_filters_come_apart() {
        for (text, group, filter) in [
            ("$share/g/f", Some("g"), "f"),
            ("$share/g//", Some("g"), "/"),
            ("$share/g/#", Some("g"), "#"),
            ("$share/g/$share/h/x", Some("g"), "$share/h/x"),
            ("$share", None, "$share"),
            ("$shared/g/f", None, "$shared/g/f"),
            ("a/b", None, "a/b"),
        ] {
            let parsed = TopicFilter::new(text).expect("legal filter");
            assert_eq!(parsed.share_group(), group.map(str::as_bytes), "{text}");
            assert_eq!(parsed.filter(), filter.as_bytes(), "{text}");
            assert_eq!(TopicFilter::from_validated(text.as_bytes()), parsed);
        }
    }
}
