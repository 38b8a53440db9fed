//! Where log lines go, and which.

#![forbid(unsafe_code)]

use super::problem::Place;
use super::value::FileReference;

/// The configuration of the log.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct LogOptions {
    /// Where lines go (`log_dest`).
    pub destinations: Destinations,
    /// Which lines there are (`log_type`).
    pub types: LogTypes,
    /// Whether lines begin with the time (`log_timestamp`).
    pub timestamp: bool,
    /// How the time is written, for `strftime`; `None` for seconds since 1970 (`log_timestamp_format`).
    pub timestamp_format: Option<TimestampPattern>,
    /// The facility that syslog is told (`log_facility`).
    pub facility: Facility,
    /// Whether connecting and disconnecting Clients are logged (`connection_messages`).
    pub connection_messages: bool,
}

impl Default for LogOptions {
    fn default() -> Self {
        Self {
            destinations: Destinations::default(),
            types: LogTypes::DEFAULT,
            timestamp: true,
            timestamp_format: None,
            facility: Facility::Daemon,
            connection_messages: true,
        }
    }
}

/// A format of the time, which whoever writes the time has to understand.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimestampPattern {
    /// As it was written.
    pub text: String,
    /// Where.
    pub place: Place,
}

/// Where log lines go: to all of these.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Destinations {
    /// Standard error, which is where they go unless a `log_dest` says otherwise.
    pub stderr: bool,
    /// Standard output.
    pub stdout: bool,
    /// The system's log.
    pub syslog: bool,
    /// Topics under `$SYS/broker/log`.
    pub topic: bool,
    /// A file, opened again at SIGHUP.
    pub file: Option<FileReference>,
}

impl Destinations {
    /// Nowhere.
    pub const NONE: Self = Self {
        stderr: false,
        stdout: false,
        syslog: false,
        topic: false,
        file: None,
    };
}

impl Default for Destinations {
    fn default() -> Self {
        Self {
            stderr: true,
            ..Self::NONE
        }
    }
}

/// A facility of syslog.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Facility {
    /// `daemon`
    #[default]
    Daemon,
    /// `local0` to `local7`
    Local(u8),
}

/// A set of types of log lines.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct LogTypes(u16);

impl LogTypes {
    /// No lines.
    pub const NONE: Self = Self(0);
    /// Something failed.
    pub const ERROR: Self = Self(1 << 0);
    /// Something may fail.
    pub const WARNING: Self = Self(1 << 1);
    /// Something that an operator wants to know, such as who connects.
    pub const NOTICE: Self = Self(1 << 2);
    /// What the broker does.
    pub const INFORMATION: Self = Self(1 << 3);
    /// Every packet.
    pub const DEBUG: Self = Self(1 << 4);
    /// Every SUBSCRIBE.
    pub const SUBSCRIBE: Self = Self(1 << 5);
    /// Every UNSUBSCRIBE.
    pub const UNSUBSCRIBE: Self = Self(1 << 6);
    /// Where WebSockets begin, and those that end because of what was sent.
    pub const WEBSOCKETS: Self = Self(1 << 7);
    /// All lines.
    pub const ALL: Self = Self((1 << 8) - 1);
    /// What there is unless a `log_type` says otherwise.
    pub const DEFAULT: Self =
        Self(Self::ERROR.0 | Self::WARNING.0 | Self::NOTICE.0 | Self::INFORMATION.0);

    /// These and `other`.
    #[must_use]
    pub const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// Whether all of `other` are among these.
    #[must_use]
    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    /// The type that `log_type` calls `name`.
    pub(super) fn named(name: &str) -> Option<Self> {
        Some(match name {
            "error" => Self::ERROR,
            "warning" => Self::WARNING,
            "notice" => Self::NOTICE,
            "information" => Self::INFORMATION,
            "debug" => Self::DEBUG,
            "subscribe" => Self::SUBSCRIBE,
            "unsubscribe" => Self::UNSUBSCRIBE,
            "websockets" => Self::WEBSOCKETS,
            "all" => Self::ALL,
            _ => return None,
        })
    }
}
