//! What survives a restart, and from when on.

#![forbid(unsafe_code)]

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Longest interval of [`Durability::Interval`], in milliseconds: who wants more of a risk wants [`Durability::Os`].
pub(super) const INTERVAL_MS_MAX: u64 = 60_000;

/// The configuration of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistenceOptions {
    /// Whether anything is stored (`persistence`).
    pub enabled: bool,
    /// The directory of the store (`persistence_location`); `None` for the working directory.
    pub location: Option<PathBuf>,
    /// What an acknowledgement promises (`fastmq_durability`).
    pub durability: Durability,
}

impl Default for PersistenceOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            location: None,
            durability: Durability::Always,
        }
    }
}

/// What an acknowledgement promises when persistence is on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// What it acknowledges is on stable storage.
    #[default]
    Always,
    /// It will be on stable storage after this time.
    Interval(Duration),
    /// It was given to the operating system, which survives the end of the process but no power loss.
    Os,
}

impl Durability {
    /// What is promised, in one sentence.
    #[must_use]
    pub fn promise(self) -> String {
        match self {
            Self::Always => "What is acknowledged to or for a persistent session is on the disk: \
                             neither a crash nor a power failure loses it."
                .to_owned(),
            Self::Interval(every) => format!(
                "What is acknowledged to or for a persistent session survives a crash; a power \
                 failure loses what came in the last {} ms.",
                every.as_millis()
            ),
            Self::Os => "What is acknowledged to or for a persistent session survives a crash; a \
                         power failure loses what the system had not yet written."
                .to_owned(),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Always => f.write_str("always"),
            Self::Interval(every) => write!(f, "interval {}", every.as_millis()),
            Self::Os => f.write_str("os"),
        }
    }
}

/// What is meant is not among `always`, `interval <ms>` and `os`.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "expected `always`, `interval <milliseconds>` with 1 to {INTERVAL_MS_MAX} of them, or `os`"
)]
pub struct DurabilityError;

impl FromStr for Durability {
    type Err = DurabilityError;

    fn from_str(text: &str) -> Result<Self, DurabilityError> {
        let mut words = text.split_ascii_whitespace();
        let durability = match (words.next(), words.next()) {
            (Some("always"), None) => Self::Always,
            (Some("os"), None) => Self::Os,
            (Some("interval"), Some(ms)) => match ms.parse() {
                Ok(ms @ 1..=INTERVAL_MS_MAX) => Self::Interval(Duration::from_millis(ms)),
                _ => return Err(DurabilityError),
            },
            _ => return Err(DurabilityError),
        };
        match words.next() {
            None => Ok(durability),
            Some(_) => Err(DurabilityError),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_promise_is_read_as_it_is_shown_and_anything_else_is_refused() {
        for text in ["always", "interval 100", "interval 60000", "os"] {
            assert_eq!(text.parse::<Durability>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "never",
            "interval",
            "interval 0",
            "interval 60001",
            "interval x",
            "os now",
            "interval 1 2",
        ] {
            assert!(text.parse::<Durability>().is_err(), "{text}");
        }
    }
}
