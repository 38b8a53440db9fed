//! Reason Codes, and which packet may carry which.
//!
//! MQTT 3.x has five CONNACK return codes and one SUBACK failure; both are spoken of here in the
//! words of MQTT 5.0 and translated at the wire.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use crate::message::{ProtocolVersion, QoS};

macro_rules! reason_codes {
    ($($(#[$doc:meta])* $name:ident = $value:literal,)*) => {
        /// How something went. Below 0x80 it went well.
        #[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
        #[repr(u8)]
        pub enum ReasonCode { $($(#[$doc])* $name = $value,)* }

        impl ReasonCode {
            /// Every Reason Code there is.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The Reason Code with this value on the wire, in whatever packet.
            #[must_use]
            pub const fn from_u8(value: u8) -> Option<Self> {
                match value {
                    $($value => Some(Self::$name),)*
                    _ => None,
                }
            }
        }
    };
}

reason_codes! {
    /// Success; also Normal disconnection and Granted QoS 0.
    #[default]
    Success = 0x00,
    /// Granted QoS 1.
    GrantedQoS1 = 0x01,
    /// Granted QoS 2.
    GrantedQoS2 = 0x02,
    /// The Client disconnects and wants its Will Message published.
    DisconnectWithWillMessage = 0x04,
    /// Accepted, but nobody subscribes to the topic.
    NoMatchingSubscribers = 0x10,
    /// There was no such Subscription.
    NoSubscriptionExisted = 0x11,
    /// Another round of authentication.
    ContinueAuthentication = 0x18,
    /// The Client starts authentication anew.
    Reauthenticate = 0x19,
    /// Refused without saying why.
    UnspecifiedError = 0x80,
    /// Cannot be parsed.
    MalformedPacket = 0x81,
    /// Out of order, or a value that is not allowed.
    ProtocolError = 0x82,
    /// Legal, but refused here.
    ImplementationSpecificError = 0x83,
    /// A protocol version nobody here speaks.
    UnsupportedProtocolVersion = 0x84,
    /// The Client Identifier is not allowed.
    ClientIdentifierNotValid = 0x85,
    /// User Name or Password is wrong.
    BadUserNameOrPassword = 0x86,
    /// Not allowed to do that.
    NotAuthorized = 0x87,
    /// The Server is not available.
    ServerUnavailable = 0x88,
    /// Try again later.
    ServerBusy = 0x89,
    /// Banned by an administrator.
    Banned = 0x8A,
    /// The Server stops.
    ServerShuttingDown = 0x8B,
    /// The authentication method is not supported.
    BadAuthenticationMethod = 0x8C,
    /// Nothing was received for one and a half times the Keep Alive.
    KeepAliveTimeout = 0x8D,
    /// Another connection uses the same Client Identifier.
    SessionTakenOver = 0x8E,
    /// The Topic Filter is not allowed.
    TopicFilterInvalid = 0x8F,
    /// The Topic Name is not allowed.
    TopicNameInvalid = 0x90,
    /// The Packet Identifier is in use.
    PacketIdentifierInUse = 0x91,
    /// The Packet Identifier is not known.
    PacketIdentifierNotFound = 0x92,
    /// More unacknowledged messages than allowed.
    ReceiveMaximumExceeded = 0x93,
    /// The Topic Alias is out of range or unknown.
    TopicAliasInvalid = 0x94,
    /// The packet is larger than allowed.
    PacketTooLarge = 0x95,
    /// Too many messages in too little time.
    MessageRateTooHigh = 0x96,
    /// A limit of the Server is reached.
    QuotaExceeded = 0x97,
    /// An administrator closed the connection.
    AdministrativeAction = 0x98,
    /// The payload is not what the Payload Format Indicator says.
    PayloadFormatInvalid = 0x99,
    /// The Server keeps no retained messages.
    RetainNotSupported = 0x9A,
    /// The QoS is above the Server's maximum.
    QoSNotSupported = 0x9B,
    /// Use another Server for now.
    UseAnotherServer = 0x9C,
    /// Use another Server from now on.
    ServerMoved = 0x9D,
    /// Shared Subscriptions are not supported.
    SharedSubscriptionsNotSupported = 0x9E,
    /// Too many connections in too little time.
    ConnectionRateExceeded = 0x9F,
    /// The connection has lasted as long as it may.
    MaximumConnectTime = 0xA0,
    /// Subscription Identifiers are not supported.
    SubscriptionIdentifiersNotSupported = 0xA1,
    /// Wildcard Subscriptions are not supported.
    WildcardSubscriptionsNotSupported = 0xA2,
}

impl ReasonCode {
    /// Its value on the wire.
    #[must_use]
    pub const fn as_u8(self) -> u8 {
        self as u8
    }

    /// Whether it says that something failed.
    #[must_use]
    pub const fn is_error(self) -> bool {
        self.as_u8() >= 0x80
    }

    /// What a SUBACK says to grant `qos`.
    #[must_use]
    pub const fn granted(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::Success,
            QoS::AtLeastOnce => Self::GrantedQoS1,
            QoS::ExactlyOnce => Self::GrantedQoS2,
        }
    }

    /// The CONNACK return code of MQTT 3.x that comes closest.
    #[must_use]
    pub const fn as_connect_return_code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::UnsupportedProtocolVersion => 1,
            Self::ClientIdentifierNotValid => 2,
            Self::BadUserNameOrPassword => 4,
            // What a second try will not cure is "not authorized"; the rest is "unavailable".
            Self::NotAuthorized
            | Self::Banned
            | Self::BadAuthenticationMethod
            | Self::MalformedPacket
            | Self::ProtocolError
            | Self::TopicNameInvalid
            | Self::PacketTooLarge
            | Self::PayloadFormatInvalid
            | Self::RetainNotSupported
            | Self::QoSNotSupported => 5,
            _ => 3,
        }
    }

    /// The Reason Code for a CONNACK return code of MQTT 3.x.
    #[must_use]
    pub const fn from_connect_return_code(code: u8) -> Option<Self> {
        Some(match code {
            0 => Self::Success,
            1 => Self::UnsupportedProtocolVersion,
            2 => Self::ClientIdentifierNotValid,
            3 => Self::ServerUnavailable,
            4 => Self::BadUserNameOrPassword,
            5 => Self::NotAuthorized,
            _ => return None,
        })
    }

    /// What a SUBACK of `version` says: MQTT 3.x knows one failure [v3.1.1 MQTT-3.9.3-2].
    #[must_use]
    pub(super) const fn as_suback_code(self, version: ProtocolVersion) -> u8 {
        if !version.is_v5() && self.is_error() {
            Self::UnspecifiedError.as_u8()
        } else {
            self.as_u8()
        }
    }
}

/// The Reason Codes one kind of packet may carry: a bit for each.
#[derive(Clone, Copy)]
pub(super) struct Legal(u128);

impl Legal {
    const fn new(codes: &[u8]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < codes.len() {
            bits |= Self::bit(codes[index]);
            index += 1;
        }
        Self(bits)
    }

    /// Codes are 0x00..0x1F and 0x80..0xA2, so that folding the upper ones down to 0x20 fits.
    const fn bit(code: u8) -> u128 {
        match code {
            0x00..=0x1F => 1 << code,
            0x80..=0xDF => 1 << (code - 0x60),
            _ => 0,
        }
    }

    pub(super) const fn contains(self, code: u8) -> bool {
        self.0 & Self::bit(code) != 0
    }

    /// The Reason Code `code`, if this kind of packet may carry it.
    #[inline]
    pub(super) fn check(self, code: u8) -> Result<ReasonCode, DecodeError> {
        if !self.contains(code) {
            return Err(DecodeError::ReasonCode { code });
        }
        ReasonCode::from_u8(code).ok_or(DecodeError::ReasonCode { code })
    }
}

/// CONNACK [MQTT-3.2.2-8].
pub(super) const CONNACK: Legal = Legal::new(&[
    0x00, 0x80, 0x81, 0x82, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88, 0x89, 0x8A, 0x8C, 0x90, 0x95, 0x97,
    0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9F,
]);
/// PUBACK [MQTT-3.4.2-1] and PUBREC [MQTT-3.5.2-1].
pub(super) const PUBACK_PUBREC: Legal =
    Legal::new(&[0x00, 0x10, 0x80, 0x83, 0x87, 0x90, 0x91, 0x97, 0x99]);
/// PUBREL [MQTT-3.6.2-1] and PUBCOMP [MQTT-3.7.2-1].
pub(super) const PUBREL_PUBCOMP: Legal = Legal::new(&[0x00, 0x92]);
/// SUBACK [MQTT-3.9.3-2].
pub(super) const SUBACK: Legal = Legal::new(&[
    0x00, 0x01, 0x02, 0x80, 0x83, 0x87, 0x8F, 0x91, 0x97, 0x9E, 0xA1, 0xA2,
]);
/// SUBACK of MQTT 3.x [v3.1.1 MQTT-3.9.3-2].
pub(super) const SUBACK_V3: Legal = Legal::new(&[0x00, 0x01, 0x02, 0x80]);
/// UNSUBACK [MQTT-3.11.3-2].
pub(super) const UNSUBACK: Legal = Legal::new(&[0x00, 0x11, 0x80, 0x83, 0x87, 0x8F, 0x91]);
/// DISCONNECT from either side [MQTT-3.14.2-1].
pub(super) const DISCONNECT: Legal = Legal::new(&[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x87, 0x89, 0x8B, 0x8D, 0x8E, 0x8F, 0x90, 0x93, 0x94, 0x95,
    0x96, 0x97, 0x98, 0x99, 0x9A, 0x9B, 0x9C, 0x9D, 0x9E, 0x9F, 0xA0, 0xA1, 0xA2,
]);
/// DISCONNECT from a Client [MQTT-3.14.2-1].
pub(super) const DISCONNECT_BY_CLIENT: Legal = Legal::new(&[
    0x00, 0x04, 0x80, 0x81, 0x82, 0x83, 0x90, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99,
]);
/// AUTH [MQTT-3.15.2-1].
pub(super) const AUTH: Legal = Legal::new(&[0x00, 0x18, 0x19]);
