//! What can be wrong with a Topic Name or Topic Filter.

#![forbid(unsafe_code)]

use crate::limits::TOPIC_LEVELS_MAX;

/// Most bytes of a Topic Name or Topic Filter: its length has 16 bits [MQTT-4.7.3-3].
pub(crate) const TOPIC_SIZE_MAX: usize = u16::MAX as usize;

/// The text is not a Topic Name or not a Topic Filter.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TopicError {
    /// At least one character is needed [MQTT-4.7.3-1].
    #[error("a Topic Name or Topic Filter has at least one character")]
    Empty,
    /// More than 65,535 bytes [MQTT-4.7.3-3].
    #[error("a Topic Name or Topic Filter has at most {TOPIC_SIZE_MAX} bytes")]
    TooLong,
    /// U+0000 in the text [MQTT-4.7.3-2].
    #[error("a Topic Name or Topic Filter has no null character")]
    NullCharacter,
    /// More levels than [`TOPIC_LEVELS_MAX`]: our own bound, so a Quota rather than a mistake.
    #[error("more than {TOPIC_LEVELS_MAX} topic levels")]
    TooManyLevels,
    /// A wildcard in a Topic Name [MQTT-4.7.0-1].
    #[error("a Topic Name has no wildcards")]
    WildcardInName,
    /// `#` that is not the whole of the last level [MQTT-4.7.1-1].
    #[error("# must be the whole last level")]
    MultiLevelWildcard,
    /// `+` that is not a whole level [MQTT-4.7.1-2].
    #[error("+ must be a whole level")]
    SingleLevelWildcard,
    /// `$share/` with an empty ShareName, or one with a wildcard [MQTT-4.8.2-1], or without a Topic
    /// Filter after it [MQTT-4.8.2-2].
    #[error("a shared subscription is $share/ShareName/Topic Filter")]
    SharedSubscription,
}
