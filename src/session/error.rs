//! What a connected Client can do wrong, and what it is told.

#![forbid(unsafe_code)]

use std::num::NonZeroU16;

use crate::codec::{DecodeError, ReasonCode};

/// The Client broke the protocol; its Network Connection ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that are no Control Packet, or an illegal one.
    #[error("{0}")]
    Decode(#[from] DecodeError),
    /// A second CONNECT on the same Network Connection [MQTT-3.1.0-2].
    #[error("second CONNECT packet")]
    SecondConnect,
    /// A packet that only a Server sends.
    #[error("a packet that only a Server sends")]
    ServerPacket,
    /// A PUBLISH with a Subscription Identifier, which only a Server may send [MQTT-3.3.4-6].
    #[error("PUBLISH with a Subscription Identifier")]
    SubscriptionIdentifierFromClient,
    /// AUTH where CONNECT named no Authentication Method [MQTT-4.12.0-6].
    #[error("AUTH without an Authentication Method")]
    UnexpectedAuth,
    /// More unacknowledged QoS 2 PUBLISH packets than we allowed [MQTT-3.3.4-7].
    #[error("more than {receive_maximum} unacknowledged PUBLISH packets")]
    ReceiveMaximumExceeded {
        /// What our CONNACK allowed.
        receive_maximum: u16,
    },
    /// A Topic Alias above our maximum [MQTT-3.3.2-9].
    #[error("Topic Alias {alias} is above the maximum")]
    TopicAliasInvalid {
        /// The alias used.
        alias: NonZeroU16,
    },
    /// A Topic Alias instead of a Topic Name, and it stands for none.
    #[error("Topic Alias {alias} stands for no Topic Name")]
    TopicAliasUnknown {
        /// The alias used.
        alias: NonZeroU16,
    },
    /// A Topic Name that cannot be published to.
    #[error("invalid Topic Name")]
    TopicNameInvalid,
    /// A Topic Filter that breaks the wildcard or `$share` rules.
    #[error("invalid Topic Filter")]
    TopicFilterInvalid,
    /// A SUBSCRIBE or UNSUBSCRIBE with more filters than its answer may have reason codes: the Client's Maximum Packet
    /// Size forbids it [MQTT-3.1.2-24].
    #[error("the answer would exceed the Maximum Packet Size")]
    AnswerTooLarge,
    /// An acknowledgement that does not fit the QoS of the message it names.
    #[error("an acknowledgement of the wrong kind for its message")]
    WrongAcknowledgement,
    /// A PUBLISH with a QoS above what CONNACK allowed [MQTT-3.2.2-11].
    #[error("QoS not supported")]
    QoSNotSupported,
    /// A retained PUBLISH where CONNACK said that nothing is retained [MQTT-3.2.2-14].
    #[error("retained messages are not supported")]
    RetainNotSupported,
    /// Session Expiry Interval raised from zero at DISCONNECT [MQTT-3.14.2-2].
    #[error("Session Expiry Interval was zero at CONNECT and is not at DISCONNECT")]
    SessionExpiryRaised,
    /// Nothing received for one and a half times the Keep Alive [MQTT-3.1.2-22].
    #[error("keep alive time-out")]
    KeepAliveTimeout,
    /// No whole CONNECT in time.
    #[error("no CONNECT in time")]
    ConnectTimeout,
}

impl ProtocolError {
    /// The Reason Code of the DISCONNECT a v5 Client gets: the only place that decides.
    #[must_use]
    pub fn reason_code(self) -> ReasonCode {
        match self {
            Self::Decode(error) => error.reason_code(),
            Self::TopicFilterInvalid => ReasonCode::MalformedPacket,
            Self::AnswerTooLarge => ReasonCode::PacketTooLarge,
            Self::SecondConnect
            | Self::ServerPacket
            | Self::SubscriptionIdentifierFromClient
            | Self::UnexpectedAuth
            | Self::TopicAliasUnknown { .. }
            | Self::WrongAcknowledgement
            | Self::SessionExpiryRaised => ReasonCode::ProtocolError,
            Self::ReceiveMaximumExceeded { .. } => ReasonCode::ReceiveMaximumExceeded,
            Self::TopicAliasInvalid { .. } => ReasonCode::TopicAliasInvalid,
            Self::QoSNotSupported => ReasonCode::QoSNotSupported,
            Self::RetainNotSupported => ReasonCode::RetainNotSupported,
            Self::TopicNameInvalid => ReasonCode::TopicNameInvalid,
            Self::KeepAliveTimeout | Self::ConnectTimeout => ReasonCode::KeepAliveTimeout,
        }
    }
}
