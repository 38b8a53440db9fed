//! What ends a client early, and the exit status that says so.

#![forbid(unsafe_code)]

use std::fmt::Display;
use std::io;

use super::reason::describe;
use crate::codec::{DecodeError, ReasonCode};
use crate::message::ProtocolVersion;

/// Exit status for options that make no sense together, and for a broker that cannot be reached.
pub const EXIT_USAGE: u8 = 1;

/// Why a client ends without having done what it was asked for.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// Options that cannot be meant.
    #[error("{0}")]
    Usage(String),
    /// A file named by an option.
    #[error("{path}: {reason}")]
    File {
        /// As given.
        path: String,
        /// Why it is of no use.
        reason: String,
    },
    /// Nobody could be reached at the address.
    #[error("cannot connect to {address}: {reason}")]
    Unreachable {
        /// Host and port, or a path.
        address: String,
        /// What the system says.
        reason: String,
    },
    /// TLS could not be agreed on.
    #[error("TLS with {address}: {reason}")]
    Tls {
        /// Host and port.
        address: String,
        /// What the library says.
        reason: String,
    },
    /// The upgrade to a WebSocket was refused.
    #[error("WebSocket with {address}: {reason}")]
    WebSocket {
        /// Host and port.
        address: String,
        /// What the library says.
        reason: String,
    },
    /// CONNACK said no.
    #[error("Connection error: {}", describe(*.reason_code, *.version))]
    Refused {
        /// What it said.
        reason_code: ReasonCode,
        /// The version in which it was said.
        version: ProtocolVersion,
    },
    /// DISCONNECT from the broker.
    #[error("the broker disconnected: {}", describe(*.reason_code, ProtocolVersion::V5))]
    Disconnected {
        /// What it said.
        reason_code: ReasonCode,
    },
    /// The connection ended without a word.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The broker sent what is not MQTT.
    #[error("the broker broke the protocol: {0}")]
    Decode(#[from] DecodeError),
    /// The broker sent MQTT that does not belong here.
    #[error("the broker broke the protocol: {0}")]
    Protocol(String),
    /// The message is larger than the broker takes.
    #[error("the message makes a packet of {size} bytes, the broker takes {size_max}")]
    TooLarge {
        /// Size of the PUBLISH.
        size: usize,
        /// The broker's Maximum Packet Size.
        size_max: u32,
    },
    /// The broker's Maximum QoS is lower.
    #[error("the broker does not take messages of QoS {0}: try a lower one")]
    QoS(u8),
    /// The broker keeps no retained messages.
    #[error("the broker does not take retained messages")]
    Retain,
    /// The broker refused a message, which has been said already.
    #[error("Publish failed: {}", describe(*.0, ProtocolVersion::V5))]
    PublishDenied(ReasonCode),
    /// The broker refused every subscription.
    #[error("All subscription requests were denied.")]
    SubscriptionsDenied(ReasonCode),
    /// A signal came before everything was done.
    #[error("Interrupted")]
    Interrupted,
    /// Standard output or input.
    #[error("{0}")]
    Stdio(io::Error),
    /// The time given with `-W` is over.
    #[error("Timed out")]
    TimedOut,
}

impl Failure {
    /// A file that cannot be used.
    pub fn file(path: &std::path::Path, reason: impl Display) -> Self {
        Self::File {
            path: path.display().to_string(),
            reason: reason.to_string(),
        }
    }

    /// CONNACK's code if there was one, otherwise the number that libmosquitto gives the matter.
    pub fn exit_status(&self) -> u8 {
        match self {
            Self::Usage(_) | Self::File { .. } | Self::Unreachable { .. } => EXIT_USAGE,
            Self::Refused {
                reason_code,
                version,
            } => {
                if version.is_v5() {
                    reason_code.as_u8()
                } else {
                    reason_code.as_connect_return_code()
                }
            }
            Self::Disconnected { reason_code }
            | Self::PublishDenied(reason_code)
            | Self::SubscriptionsDenied(reason_code) => reason_code.as_u8(),
            // What a shell makes of a process that SIGINT ended.
            Self::Interrupted => 130,
            Self::Decode(_) | Self::Protocol(_) => 2,
            Self::Lost(_) => 7,
            Self::Tls { .. } | Self::WebSocket { .. } => 8,
            Self::Stdio(_) => 14,
            Self::QoS(_) => 24,
            Self::TooLarge { .. } => 25,
            Self::TimedOut => 27,
            Self::Retain => 28,
        }
    }

    /// Whether another connection may do better, once one has worked.
    pub fn is_worth_a_retry(&self) -> bool {
        match self {
            Self::Lost(_) | Self::Unreachable { .. } => true,
            Self::Refused { reason_code, .. } | Self::Disconnected { reason_code } => matches!(
                reason_code,
                ReasonCode::ServerUnavailable
                    | ReasonCode::ServerBusy
                    | ReasonCode::ServerShuttingDown
                    | ReasonCode::KeepAliveTimeout
                    | ReasonCode::ConnectionRateExceeded
                    | ReasonCode::MaximumConnectTime
            ),
            _ => false,
        }
    }

    /// Says it on standard error in Mosquitto's manner. `name` is the command that has a `--help`.
    pub fn report(&self, name: &str, quiet: bool) {
        match self {
            Self::Usage(said) => {
                eprintln!("Error: {said}\n\nUse 'fastmq {name} --help' to see usage.");
            }
            _ if quiet => {}
            Self::PublishDenied(_) | Self::Interrupted => {}
            Self::TimedOut | Self::Refused { .. } | Self::SubscriptionsDenied(_) => {
                eprintln!("{self}");
            }
            _ => eprintln!("Error: {self}"),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn exit_statuses_are_those_scripts_know() {
        let refused = |version, reason_code| Failure::Refused {
            reason_code,
            version,
        };
        assert_eq!(Failure::TimedOut.exit_status(), 27);
        let not_authorized = ReasonCode::NotAuthorized;
        let v311 = refused(ProtocolVersion::V311, not_authorized);
        assert_eq!(v311.exit_status(), 5);
        let v5 = refused(ProtocolVersion::V5, not_authorized);
        assert_eq!(v5.exit_status(), 135);
        assert_eq!(Failure::Usage(String::new()).exit_status(), 1);
        assert_eq!(Failure::Lost(String::new()).exit_status(), 7);
    }

    #[test]
    fn a_session_that_was_taken_over_is_not_fought_for() {
        let said = |reason_code| Failure::Disconnected { reason_code };
        assert!(!said(ReasonCode::SessionTakenOver).is_worth_a_retry());
        assert!(said(ReasonCode::ServerShuttingDown).is_worth_a_retry());
        assert!(Failure::Lost(String::new()).is_worth_a_retry());
    }
}
