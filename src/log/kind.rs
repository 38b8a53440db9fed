//! What kinds of lines there are, and which of them are wanted.

#![forbid(unsafe_code)]

use std::ops::{BitOr, BitOrAssign};

/// The kind of a line, as the directive `log_type` names them.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[repr(u16)]
pub enum Kind {
    /// Something does not work.
    Error = 1,
    /// Something will not work for long, or not as meant.
    Warning = 1 << 1,
    /// Clients come and go.
    Notice = 1 << 2,
    /// The broker's own life.
    Information = 1 << 3,
    /// Single packets.
    Debug = 1 << 4,
    /// A Client subscribed.
    Subscribe = 1 << 5,
    /// A Client unsubscribed.
    Unsubscribe = 1 << 6,
    /// A WebSocket begins, or ends because of what was sent.
    Websockets = 1 << 7,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Error,
        Self::Warning,
        Self::Notice,
        Self::Information,
        Self::Debug,
        Self::Subscribe,
        Self::Unsubscribe,
        Self::Websockets,
    ];

    /// Its name in the directive `log_type` and in metrics.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Information => "information",
            Self::Debug => "debug",
            Self::Subscribe => "subscribe",
            Self::Unsubscribe => "unsubscribe",
            Self::Websockets => "websockets",
        }
    }

    /// Where `log_dest topic` publishes it. Debug lines are about single packets: published, each
    /// would cause the next.
    #[must_use]
    pub fn topic(self) -> Option<&'static str> {
        match self {
            Self::Error => Some("$SYS/broker/log/E"),
            Self::Warning => Some("$SYS/broker/log/W"),
            Self::Notice => Some("$SYS/broker/log/N"),
            Self::Information => Some("$SYS/broker/log/I"),
            Self::Subscribe => Some("$SYS/broker/log/M/subscribe"),
            Self::Unsubscribe => Some("$SYS/broker/log/M/unsubscribe"),
            Self::Websockets => Some("$SYS/broker/log/WS"),
            Self::Debug => None,
        }
    }

    /// Severity of syslog(3).
    pub(super) fn severity(self) -> u8 {
        match self {
            Self::Error => 3,
            Self::Warning => 4,
            Self::Notice | Self::Subscribe | Self::Unsubscribe => 5,
            Self::Information => 6,
            Self::Debug | Self::Websockets => 7,
        }
    }
}

/// A set of [`Kind`]s.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kinds(u16);

impl Kinds {
    /// `log_type none`, and `-q`.
    pub const NONE: Self = Self(0);
    /// `log_type all`, and `-v`.
    pub const ALL: Self = Self(0xff);

    /// Whether `kind` is among them.
    #[must_use]
    pub fn contains(self, kind: Kind) -> bool {
        self.0 & kind as u16 != 0
    }

    pub(super) fn bits(self) -> u16 {
        self.0
    }

    pub(super) fn from_bits(bits: u16) -> Self {
        Self(bits & Self::ALL.0)
    }
}

impl Default for Kinds {
    /// Mosquitto's default.
    fn default() -> Self {
        Self::NONE | Kind::Error | Kind::Warning | Kind::Notice | Kind::Information
    }
}

impl BitOr<Kind> for Kinds {
    type Output = Self;

    fn bitor(self, kind: Kind) -> Self {
        Self(self.0 | kind as u16)
    }
}

impl BitOrAssign<Kind> for Kinds {
    fn bitor_assign(&mut self, kind: Kind) {
        *self = *self | kind;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn all_contains_every_kind_and_none_no_kind() {
        for kind in Kind::ALL {
            assert!(Kinds::ALL.contains(kind), "{kind:?}");
            assert!(!Kinds::NONE.contains(kind), "{kind:?}");
        }
    }

    #[test]
    fn defaults_are_error_warning_notice_and_information() {
        let wanted: Vec<_> = Kind::ALL
            .into_iter()
            .filter(|&kind| Kinds::default().contains(kind))
            .map(Kind::name)
            .collect();
        assert_eq!(wanted, ["error", "warning", "notice", "information"]);
    }

    #[test]
    fn debug_lines_have_no_topic() {
        assert_eq!(Kind::Debug.topic(), None);
        assert_eq!(Kind::Subscribe.topic(), Some("$SYS/broker/log/M/subscribe"));
    }
}
