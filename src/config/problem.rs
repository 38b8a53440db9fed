//! What can be wrong with a configuration, and what deserves a remark.

#![forbid(unsafe_code)]

use crate::shown::shown;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A line of a configuration file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Place {
    /// The file as it was named.
    pub file: Arc<str>,
    /// Counted from 1.
    pub line: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.file, self.line)
    }
}

/// A configuration that the broker does not start with.
///
/// Shown as Mosquitto shows it: what is wrong, then where.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ConfigError {
    /// What is wrong.
    pub problem: Problem,
    /// Where; absent when a file could not be read at all.
    pub place: Option<Place>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Error: {}", self.problem)?;
        match &self.place {
            Some(place) => write!(f, "\nError found at {place}."),
            None => Ok(()),
        }
    }
}

impl std::error::Error for ConfigError {}

/// What is wrong. The wording is Mosquitto's where it has one.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Problem {
    /// No such directive.
    #[error("Unknown configuration variable '{}'.{}", shown(.name), did_you_mean(.meant))]
    Unknown {
        /// As it was written.
        name: String,
        /// A directive that looks like it.
        meant: Option<&'static str>,
    },
    /// A directive without its value.
    #[error("Empty '{}' value in configuration.", shown(.directive))]
    Empty {
        /// Whose.
        directive: String,
    },
    /// Not a number, where one is needed.
    #[error("'{}' value not a number ({}).", shown(.directive), shown(.value))]
    NotANumber {
        /// Whose.
        directive: String,
        /// What is there.
        value: String,
    },
    /// A value that the directive does not take.
    #[error("Invalid '{}' value ({}): {expected}.", shown(.directive), shown(.value))]
    Invalid {
        /// Whose.
        directive: String,
        /// What is there.
        value: String,
        /// What it could be.
        expected: Cow<'static, str>,
    },
    /// A directive that may be given once.
    #[error(
        "Duplicate '{}' value in configuration: it was given at {first} already.",
        shown(.directive)
    )]
    Duplicate {
        /// Which.
        directive: String,
        /// The one before.
        first: Place,
    },
    /// A listener's directive without a listener.
    #[error(
        "The '{}' option requires a listener to be defined first: it belongs below the 'listener' line that it is for.",
        shown(.directive)
    )]
    NeedsListener {
        /// Which.
        directive: String,
    },
    /// A bridge's directive without a bridge.
    #[error(
        "The '{}' option requires a bridge to be defined first: it belongs below the 'connection' line that it is for.",
        shown(.directive)
    )]
    NeedsBridge {
        /// Which.
        directive: String,
    },
    /// `per_listener_settings` after what it would have changed.
    #[error(
        "per_listener_settings must be set before any other security settings: \
         '{}' was given at {first}.",
        shown(.directive)
    )]
    TooLate {
        /// The first of those settings.
        directive: String,
        /// Where it is.
        first: Place,
    },
    /// A directive that this broker does not start with.
    #[error("The '{}' option is refused: {why}", shown(.directive))]
    Refused {
        /// Which.
        directive: String,
        /// Why, and what to do.
        why: &'static str,
    },
    /// `include_dir` in an included file.
    #[error("The include_dir option is only valid in the main configuration file.")]
    NestedInclude,
    /// A file or directory cannot be read.
    #[error("Unable to open {what} '{}': {reason}.{}", shown(.file), comment_within(.file))]
    Unreadable {
        /// Config file or include_dir.
        what: &'static str,
        /// Its name.
        file: String,
        /// What the system said.
        reason: String,
    },
    /// Bytes that are no text.
    #[error("Malformed UTF-8 in configuration.")]
    Malformed,
    /// Directives that contradict or lack one another.
    #[error("{0}")]
    Contradiction(Cow<'static, str>),
}

fn did_you_mean(meant: &Option<&'static str>) -> String {
    meant.map_or_else(String::new, |name| format!(" Did you mean '{name}'?"))
}

/// Who writes a comment behind the name of a file has it in the name.
fn comment_within(file: &str) -> &'static str {
    if file.contains(" #") {
        " What stands behind a '#' is part of the name: a comment has a line of its own."
    } else {
        ""
    }
}

/// How much a remark matters.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Severity {
    /// What the parser does.
    Information,
    /// Something could be said better.
    Notice,
    /// Something does not do what a reader could think.
    Warning,
}

/// Something that is to be logged at start and at reload: nothing in a file is ignored in silence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Remark {
    /// How much it matters.
    pub severity: Severity,
    /// What it is about.
    pub place: Option<Place>,
    /// What is to be said.
    pub text: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.severity == Severity::Warning {
            f.write_str("Warning: ")?;
        }
        f.write_str(&self.text)?;
        match &self.place {
            Some(place) => write!(f, " ({place})"),
            None => Ok(()),
        }
    }
}
