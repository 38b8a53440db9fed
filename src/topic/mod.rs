//! Topic Names, Topic Filters and their levels.
//!
//! Both types borrow and are proof that somebody checked the text: what reaches the router has legal
//! wildcards, a bounded number of levels and a well-formed `$share` prefix. Text is bytes here,
//! because a `/`, `+` or `#` is one byte in UTF-8 and part of nothing else, and because Topic Names
//! are compared byte by byte, never normalized [MQTT-4.7.3-4].
//!
//! **Knows nothing of** who subscribes: [`TopicFilter::matches`] is the plain reading of the
//! specification that the router's trie is tested against.

#![forbid(unsafe_code)]

mod error;
mod filter;
mod levels;
mod name;

pub use error::TopicError;
pub use filter::TopicFilter;
pub use levels::Levels;
pub use name::TopicName;
