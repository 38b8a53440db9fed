//! Why bytes are not a Control Packet, and the Reason Code that tells the sender so.

#![forbid(unsafe_code)]

use super::reason_code::ReasonCode;

/// The peer sent something that is not a legal Control Packet; its Network Connection ends
/// [MQTT-4.13.1-1].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DecodeError {
    /// A Remaining Length of more than four bytes.
    #[error("Remaining Length is longer than four bytes")]
    RemainingLength,
    /// The packet is larger than the receiver allows.
    #[error("packet of {size} bytes, at most {size_max} are allowed")]
    PacketTooLarge {
        /// Size of the whole packet.
        size: u32,
        /// What the receiver allows.
        size_max: u32,
    },
    /// A packet type that does not exist in this protocol version.
    #[error("packet type {packet_type} does not exist in this protocol version")]
    PacketType {
        /// The upper four bits of the first byte.
        packet_type: u8,
    },
    /// Flags of the fixed header that the packet type does not allow [MQTT-2.1.3-1].
    #[error("first byte {first_byte:#04x} has reserved flags wrong")]
    FixedHeaderFlags {
        /// First byte of the packet.
        first_byte: u8,
    },
    /// A field runs past the end of its packet or of its properties.
    #[error("a field runs past the end of the packet")]
    Truncated,
    /// Bytes follow where the packet should have ended.
    #[error("bytes follow the end of the packet's last field")]
    TrailingBytes,
    /// A Variable Byte Integer of more than four bytes.
    #[error("a Variable Byte Integer is longer than four bytes")]
    VariableByteInteger,
    /// A string that is not well-formed UTF-8 [MQTT-1.5.4-1] or holds U+0000 [MQTT-1.5.4-2].
    #[error("a string is not well-formed UTF-8 or holds U+0000")]
    Utf8,
    /// A Packet Identifier of zero [MQTT-2.2.1-3].
    #[error("Packet Identifier is zero")]
    PacketIdentifierZero,
    /// Both QoS bits set [MQTT-3.3.1-4], [MQTT-3.1.2-12].
    #[error("QoS 3 does not exist")]
    QoS,
    /// DUP on a PUBLISH of QoS 0 [MQTT-3.3.1-2].
    #[error("DUP is set on a QoS 0 PUBLISH")]
    DuplicateAtMostOnce,
    /// A CONNECT whose protocol name is not MQTT's [MQTT-3.1.2-1].
    #[error("unknown protocol name")]
    ProtocolName,
    /// A CONNECT whose protocol level is none of 3.1, 3.1.1 and 5.0 [MQTT-3.1.2-2].
    #[error("unsupported protocol level {level}")]
    ProtocolLevel {
        /// The level asked for.
        level: u8,
    },
    /// Connect Flags that contradict each other or have the reserved bit set [MQTT-3.1.2-3].
    #[error("Connect Flags {flags:#04x} are not allowed")]
    ConnectFlags {
        /// The byte of Connect Flags.
        flags: u8,
    },
    /// Reserved bits in the Connect Acknowledge Flags [MQTT-3.2.2-1], or Session Present on a
    /// refusal [MQTT-3.2.2-6].
    #[error("Connect Acknowledge Flags {flags:#04x} are not allowed")]
    ConnAckFlags {
        /// The byte of Connect Acknowledge Flags.
        flags: u8,
    },
    /// A Topic Name that is empty [MQTT-4.7.3-1] or holds a wildcard [MQTT-3.3.2-2].
    #[error("Topic Name is empty or holds a wildcard")]
    TopicName,
    /// An empty Topic Name without a Topic Alias [MQTT-3.3.2-8].
    #[error("PUBLISH has neither Topic Name nor Topic Alias")]
    TopicNameMissing,
    /// A Response Topic that is empty or holds a wildcard [MQTT-3.3.2-14].
    #[error("Response Topic is empty or holds a wildcard")]
    ResponseTopic,
    /// A Topic Alias of zero [MQTT-3.3.2-8].
    #[error("Topic Alias is zero")]
    TopicAliasZero,
    /// An identifier that names no property.
    #[error("property {identifier:#04x} does not exist")]
    PropertyUnknown {
        /// First byte of the property.
        identifier: u8,
    },
    /// A property that this packet cannot have.
    #[error("property {identifier:#04x} is not allowed in this packet")]
    PropertyNotAllowed {
        /// First byte of the property.
        identifier: u8,
    },
    /// A property that may appear once and appears again.
    #[error("property {identifier:#04x} appears twice")]
    PropertyTwice {
        /// First byte of the property.
        identifier: u8,
    },
    /// A property whose value is out of range.
    #[error("property {identifier:#04x} has a value that is out of range")]
    PropertyValue {
        /// First byte of the property.
        identifier: u8,
    },
    /// Authentication Data, or an AUTH packet, without an Authentication Method.
    #[error("Authentication Method is missing")]
    AuthenticationMethodMissing,
    /// A Reason Code that this packet cannot have.
    #[error("Reason Code {code:#04x} is not allowed in this packet")]
    ReasonCode {
        /// The code received.
        code: u8,
    },
    /// SUBSCRIBE, UNSUBSCRIBE or SUBACK without a single entry [MQTT-3.8.3-2], [MQTT-3.10.3-2].
    #[error("payload is empty")]
    PayloadEmpty,
    /// An empty Topic Filter [MQTT-4.7.3-1].
    #[error("Topic Filter is empty")]
    TopicFilterEmpty,
    /// Reserved bits set in Subscription Options [MQTT-3.8.3-5].
    #[error("Subscription Options {options:#04x} have reserved bits set")]
    SubscriptionOptionsReserved {
        /// The byte of Subscription Options.
        options: u8,
    },
    /// A QoS or a Retain Handling of 3 in Subscription Options.
    #[error("Subscription Options {options:#04x} are out of range")]
    SubscriptionOptionsValue {
        /// The byte of Subscription Options.
        options: u8,
    },
    /// No Local on a Shared Subscription [MQTT-3.8.3-4].
    #[error("No Local on a Shared Subscription")]
    SharedNoLocal,
}

impl DecodeError {
    /// What a DISCONNECT or CONNACK that answers this error says.
    #[must_use]
    pub const fn reason_code(self) -> ReasonCode {
        match self {
            Self::RemainingLength
            | Self::PacketType { .. }
            | Self::FixedHeaderFlags { .. }
            | Self::Truncated
            | Self::TrailingBytes
            | Self::VariableByteInteger
            | Self::Utf8
            | Self::QoS
            | Self::DuplicateAtMostOnce
            | Self::ConnectFlags { .. }
            | Self::ConnAckFlags { .. }
            | Self::PropertyUnknown { .. }
            | Self::PropertyNotAllowed { .. }
            | Self::SubscriptionOptionsReserved { .. } => ReasonCode::MalformedPacket,
            Self::PacketIdentifierZero
            | Self::TopicNameMissing
            | Self::ResponseTopic
            | Self::PropertyTwice { .. }
            | Self::PropertyValue { .. }
            | Self::AuthenticationMethodMissing
            | Self::ReasonCode { .. }
            | Self::PayloadEmpty
            | Self::SubscriptionOptionsValue { .. }
            | Self::SharedNoLocal => ReasonCode::ProtocolError,
            Self::PacketTooLarge { .. } => ReasonCode::PacketTooLarge,
            Self::ProtocolName | Self::ProtocolLevel { .. } => {
                ReasonCode::UnsupportedProtocolVersion
            }
            Self::TopicName => ReasonCode::TopicNameInvalid,
            Self::TopicAliasZero => ReasonCode::TopicAliasInvalid,
            Self::TopicFilterEmpty => ReasonCode::TopicFilterInvalid,
        }
    }
}
