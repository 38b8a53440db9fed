//! The properties of MQTT 5.0: every identifier, its type and range, and where it is allowed.

#![forbid(unsafe_code)]

use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::primitives::{
    Reader, put_binary, put_string, put_variable_byte_integer, topic_name_or_empty,
};
use super::user_properties::UserProperties;
use crate::message::QoS;

/// Property identifiers. They are Variable Byte Integers, but every one that exists fits one byte.
pub(super) mod id {
    pub(in crate::codec) const PAYLOAD_FORMAT_INDICATOR: u8 = 0x01;
    pub(in crate::codec) const MESSAGE_EXPIRY_INTERVAL: u8 = 0x02;
    pub(in crate::codec) const CONTENT_TYPE: u8 = 0x03;
    pub(in crate::codec) const RESPONSE_TOPIC: u8 = 0x08;
    pub(in crate::codec) const CORRELATION_DATA: u8 = 0x09;
    pub(in crate::codec) const SUBSCRIPTION_IDENTIFIER: u8 = 0x0B;
    pub(in crate::codec) const SESSION_EXPIRY_INTERVAL: u8 = 0x11;
    pub(in crate::codec) const ASSIGNED_CLIENT_IDENTIFIER: u8 = 0x12;
    pub(in crate::codec) const SERVER_KEEP_ALIVE: u8 = 0x13;
    pub(in crate::codec) const AUTHENTICATION_METHOD: u8 = 0x15;
    pub(in crate::codec) const AUTHENTICATION_DATA: u8 = 0x16;
    pub(in crate::codec) const REQUEST_PROBLEM_INFORMATION: u8 = 0x17;
    pub(in crate::codec) const WILL_DELAY_INTERVAL: u8 = 0x18;
    pub(in crate::codec) const REQUEST_RESPONSE_INFORMATION: u8 = 0x19;
    pub(in crate::codec) const RESPONSE_INFORMATION: u8 = 0x1A;
    pub(in crate::codec) const SERVER_REFERENCE: u8 = 0x1C;
    pub(in crate::codec) const REASON_STRING: u8 = 0x1F;
    pub(in crate::codec) const RECEIVE_MAXIMUM: u8 = 0x21;
    pub(in crate::codec) const TOPIC_ALIAS_MAXIMUM: u8 = 0x22;
    pub(in crate::codec) const TOPIC_ALIAS: u8 = 0x23;
    pub(in crate::codec) const MAXIMUM_QOS: u8 = 0x24;
    pub(in crate::codec) const RETAIN_AVAILABLE: u8 = 0x25;
    pub(in crate::codec) const USER_PROPERTY: u8 = 0x26;
    pub(in crate::codec) const MAXIMUM_PACKET_SIZE: u8 = 0x27;
    pub(in crate::codec) const WILDCARD_SUBSCRIPTION_AVAILABLE: u8 = 0x28;
    pub(in crate::codec) const SUBSCRIPTION_IDENTIFIERS_AVAILABLE: u8 = 0x29;
    pub(in crate::codec) const SHARED_SUBSCRIPTION_AVAILABLE: u8 = 0x2A;
}

/// One property, its value checked.
#[derive(Clone, Copy, Debug)]
pub(super) enum Property<'a> {
    PayloadFormatIndicator(bool),
    MessageExpiryInterval(u32),
    ContentType(&'a str),
    ResponseTopic(&'a str),
    CorrelationData(&'a [u8]),
    SubscriptionIdentifier(NonZeroU32),
    SessionExpiryInterval(u32),
    AssignedClientIdentifier(&'a str),
    ServerKeepAlive(u16),
    AuthenticationMethod(&'a str),
    AuthenticationData(&'a [u8]),
    RequestProblemInformation(bool),
    WillDelayInterval(u32),
    RequestResponseInformation(bool),
    ResponseInformation(&'a str),
    ServerReference(&'a str),
    ReasonString(&'a str),
    ReceiveMaximum(NonZeroU16),
    TopicAliasMaximum(u16),
    TopicAlias(NonZeroU16),
    MaximumQoS(QoS),
    RetainAvailable(bool),
    User(&'a str, &'a str),
    MaximumPacketSize(NonZeroU32),
    WildcardSubscriptionAvailable(bool),
    SubscriptionIdentifiersAvailable(bool),
    SharedSubscriptionAvailable(bool),
}

/// Which properties a packet may have, and which of them more than once: a bit for each.
#[derive(Clone, Copy)]
pub(super) struct Rules {
    allowed: u64,
    repeatable: u64,
}

const fn bits(identifiers: &[u8]) -> u64 {
    let mut bits = 0;
    let mut index = 0;
    while index < identifiers.len() {
        bits |= 1 << identifiers[index];
        index += 1;
    }
    bits
}

impl Rules {
    const fn new(allowed: &[u8]) -> Self {
        Self {
            // Every packet that has properties may have User Properties.
            allowed: bits(allowed) | bits(&[id::USER_PROPERTY]),
            repeatable: bits(&[id::USER_PROPERTY]),
        }
    }
}

/// Every property there is.
const KNOWN: u64 = CONNECT.allowed
    | CONNACK.allowed
    | WILL.allowed
    | PUBLISH.allowed
    | SUBSCRIBE.allowed
    | DISCONNECT.allowed;

pub(super) const CONNECT: Rules = Rules::new(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::REQUEST_PROBLEM_INFORMATION,
    id::REQUEST_RESPONSE_INFORMATION,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_PACKET_SIZE,
]);
pub(super) const WILL: Rules = Rules::new(&[
    id::WILL_DELAY_INTERVAL,
    id::PAYLOAD_FORMAT_INDICATOR,
    id::MESSAGE_EXPIRY_INTERVAL,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
]);
pub(super) const CONNACK: Rules = Rules::new(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::ASSIGNED_CLIENT_IDENTIFIER,
    id::SERVER_KEEP_ALIVE,
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::RESPONSE_INFORMATION,
    id::SERVER_REFERENCE,
    id::REASON_STRING,
    id::RECEIVE_MAXIMUM,
    id::TOPIC_ALIAS_MAXIMUM,
    id::MAXIMUM_QOS,
    id::RETAIN_AVAILABLE,
    id::MAXIMUM_PACKET_SIZE,
    id::WILDCARD_SUBSCRIPTION_AVAILABLE,
    id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
    id::SHARED_SUBSCRIPTION_AVAILABLE,
]);
pub(super) const PUBLISH: Rules = {
    let mut rules = Rules::new(&[
        id::PAYLOAD_FORMAT_INDICATOR,
        id::MESSAGE_EXPIRY_INTERVAL,
        id::CONTENT_TYPE,
        id::RESPONSE_TOPIC,
        id::CORRELATION_DATA,
        id::SUBSCRIPTION_IDENTIFIER,
        id::TOPIC_ALIAS,
    ]);
    // One for each Subscription that matched [MQTT-3.3.4-4].
    rules.repeatable |= bits(&[id::SUBSCRIPTION_IDENTIFIER]);
    rules
};
/// PUBACK, PUBREC, PUBREL, PUBCOMP, SUBACK and UNSUBACK.
pub(super) const ACKNOWLEDGEMENT: Rules = Rules::new(&[id::REASON_STRING]);
pub(super) const SUBSCRIBE: Rules = Rules::new(&[id::SUBSCRIPTION_IDENTIFIER]);
pub(super) const UNSUBSCRIBE: Rules = Rules::new(&[]);
pub(super) const DISCONNECT: Rules = Rules::new(&[
    id::SESSION_EXPIRY_INTERVAL,
    id::SERVER_REFERENCE,
    id::REASON_STRING,
]);
pub(super) const AUTH: Rules = Rules::new(&[
    id::AUTHENTICATION_METHOD,
    id::AUTHENTICATION_DATA,
    id::REASON_STRING,
]);
/// What [`super::ForwardedProperties`] holds.
pub(super) const FORWARDED: u64 = bits(&[
    id::PAYLOAD_FORMAT_INDICATOR,
    id::CONTENT_TYPE,
    id::RESPONSE_TOPIC,
    id::CORRELATION_DATA,
    id::USER_PROPERTY,
]);

/// Reads the properties of one packet in their order.
pub(super) struct PropertyReader<'a> {
    section: &'a [u8],
    reader: Reader<'a>,
    rules: Rules,
    seen: u64,
}

impl<'a> PropertyReader<'a> {
    /// Takes the Property Length and the properties off `packet`.
    #[inline]
    pub(super) fn new(packet: &mut Reader<'a>, rules: Rules) -> Result<Self, DecodeError> {
        let size = packet.variable_byte_integer()?;
        let section = packet.bytes(size as usize)?;
        Ok(Self {
            section,
            reader: Reader::new(section),
            rules,
            seen: 0,
        })
    }

    /// Reads a section without its length that has been checked before, and may have been pieced
    /// together.
    pub(super) const fn trusted(section: &'a [u8]) -> Self {
        Self {
            section,
            reader: Reader::new(section),
            rules: Rules {
                allowed: KNOWN,
                repeatable: KNOWN,
            },
            seen: 0,
        }
    }

    /// All properties, encoded, without their length.
    #[inline]
    pub(super) const fn section(&self) -> &'a [u8] {
        self.section
    }

    /// How many bytes have been read.
    #[inline]
    pub(super) const fn position(&self) -> usize {
        self.section.len() - self.reader.rest().len()
    }

    /// The User Properties, once all properties have been read.
    pub(super) fn user_properties(&self) -> UserProperties<'a> {
        if self.seen & bits(&[id::USER_PROPERTY]) == 0 {
            UserProperties::default()
        } else {
            UserProperties::from_section(self.section)
        }
    }

    /// The next property, or `None` after the last.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Property<'a>>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        let identifier = self.reader.u8()?;
        let bit = 1_u64.checked_shl(u32::from(identifier)).unwrap_or(0);
        if self.rules.allowed & bit == 0 {
            return Err(if KNOWN & bit == 0 {
                DecodeError::PropertyUnknown { identifier }
            } else {
                DecodeError::PropertyNotAllowed { identifier }
            });
        }
        if self.seen & bit & !self.rules.repeatable != 0 {
            return Err(DecodeError::PropertyTwice { identifier });
        }
        self.seen |= bit;
        self.value(identifier).map(Some)
    }

    #[inline]
    fn value(&mut self, identifier: u8) -> Result<Property<'a>, DecodeError> {
        let reader = &mut self.reader;
        let out_of_range = DecodeError::PropertyValue { identifier };
        let flag = |reader: &mut Reader<'a>| match reader.u8()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(out_of_range),
        };
        Ok(match identifier {
            id::PAYLOAD_FORMAT_INDICATOR => Property::PayloadFormatIndicator(flag(reader)?),
            id::MESSAGE_EXPIRY_INTERVAL => Property::MessageExpiryInterval(reader.u32()?),
            id::CONTENT_TYPE => Property::ContentType(reader.string()?),
            id::RESPONSE_TOPIC => Property::ResponseTopic(response_topic(reader.binary()?)?),
            id::CORRELATION_DATA => Property::CorrelationData(reader.binary()?),
            id::SUBSCRIPTION_IDENTIFIER => Property::SubscriptionIdentifier(
                NonZeroU32::new(reader.variable_byte_integer()?).ok_or(out_of_range)?,
            ),
            id::SESSION_EXPIRY_INTERVAL => Property::SessionExpiryInterval(reader.u32()?),
            id::ASSIGNED_CLIENT_IDENTIFIER => Property::AssignedClientIdentifier(reader.string()?),
            id::SERVER_KEEP_ALIVE => Property::ServerKeepAlive(reader.u16()?),
            id::AUTHENTICATION_METHOD => Property::AuthenticationMethod(reader.string()?),
            id::AUTHENTICATION_DATA => Property::AuthenticationData(reader.binary()?),
            id::REQUEST_PROBLEM_INFORMATION => Property::RequestProblemInformation(flag(reader)?),
            id::WILL_DELAY_INTERVAL => Property::WillDelayInterval(reader.u32()?),
            id::REQUEST_RESPONSE_INFORMATION => Property::RequestResponseInformation(flag(reader)?),
            id::RESPONSE_INFORMATION => Property::ResponseInformation(reader.string()?),
            id::SERVER_REFERENCE => Property::ServerReference(reader.string()?),
            id::REASON_STRING => Property::ReasonString(reader.string()?),
            id::RECEIVE_MAXIMUM => {
                Property::ReceiveMaximum(NonZeroU16::new(reader.u16()?).ok_or(out_of_range)?)
            }
            id::TOPIC_ALIAS_MAXIMUM => Property::TopicAliasMaximum(reader.u16()?),
            id::TOPIC_ALIAS => Property::TopicAlias(
                NonZeroU16::new(reader.u16()?).ok_or(DecodeError::TopicAliasZero)?,
            ),
            id::MAXIMUM_QOS => Property::MaximumQoS(if flag(reader)? {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            }),
            id::RETAIN_AVAILABLE => Property::RetainAvailable(flag(reader)?),
            id::USER_PROPERTY => Property::User(reader.string()?, reader.string()?),
            id::MAXIMUM_PACKET_SIZE => {
                Property::MaximumPacketSize(NonZeroU32::new(reader.u32()?).ok_or(out_of_range)?)
            }
            id::WILDCARD_SUBSCRIPTION_AVAILABLE => {
                Property::WildcardSubscriptionAvailable(flag(reader)?)
            }
            id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE => {
                Property::SubscriptionIdentifiersAvailable(flag(reader)?)
            }
            id::SHARED_SUBSCRIPTION_AVAILABLE => {
                Property::SharedSubscriptionAvailable(flag(reader)?)
            }
            _ => return Err(DecodeError::PropertyUnknown { identifier }),
        })
    }
}

/// A Response Topic is a Topic Name: no wildcards [MQTT-3.3.2-14], never empty [MQTT-4.7.3-1].
fn response_topic(bytes: &[u8]) -> Result<&str, DecodeError> {
    match topic_name_or_empty(bytes) {
        Ok("") | Err(DecodeError::TopicName) => Err(DecodeError::ResponseTopic),
        result => result,
    }
}

impl Property<'_> {
    /// Its identifier.
    pub(super) const fn identifier(&self) -> u8 {
        match self {
            Self::PayloadFormatIndicator(_) => id::PAYLOAD_FORMAT_INDICATOR,
            Self::MessageExpiryInterval(_) => id::MESSAGE_EXPIRY_INTERVAL,
            Self::ContentType(_) => id::CONTENT_TYPE,
            Self::ResponseTopic(_) => id::RESPONSE_TOPIC,
            Self::CorrelationData(_) => id::CORRELATION_DATA,
            Self::SubscriptionIdentifier(_) => id::SUBSCRIPTION_IDENTIFIER,
            Self::SessionExpiryInterval(_) => id::SESSION_EXPIRY_INTERVAL,
            Self::AssignedClientIdentifier(_) => id::ASSIGNED_CLIENT_IDENTIFIER,
            Self::ServerKeepAlive(_) => id::SERVER_KEEP_ALIVE,
            Self::AuthenticationMethod(_) => id::AUTHENTICATION_METHOD,
            Self::AuthenticationData(_) => id::AUTHENTICATION_DATA,
            Self::RequestProblemInformation(_) => id::REQUEST_PROBLEM_INFORMATION,
            Self::WillDelayInterval(_) => id::WILL_DELAY_INTERVAL,
            Self::RequestResponseInformation(_) => id::REQUEST_RESPONSE_INFORMATION,
            Self::ResponseInformation(_) => id::RESPONSE_INFORMATION,
            Self::ServerReference(_) => id::SERVER_REFERENCE,
            Self::ReasonString(_) => id::REASON_STRING,
            Self::ReceiveMaximum(_) => id::RECEIVE_MAXIMUM,
            Self::TopicAliasMaximum(_) => id::TOPIC_ALIAS_MAXIMUM,
            Self::TopicAlias(_) => id::TOPIC_ALIAS,
            Self::MaximumQoS(_) => id::MAXIMUM_QOS,
            Self::RetainAvailable(_) => id::RETAIN_AVAILABLE,
            Self::User(..) => id::USER_PROPERTY,
            Self::MaximumPacketSize(_) => id::MAXIMUM_PACKET_SIZE,
            Self::WildcardSubscriptionAvailable(_) => id::WILDCARD_SUBSCRIPTION_AVAILABLE,
            Self::SubscriptionIdentifiersAvailable(_) => id::SUBSCRIPTION_IDENTIFIERS_AVAILABLE,
            Self::SharedSubscriptionAvailable(_) => id::SHARED_SUBSCRIPTION_AVAILABLE,
        }
    }

    /// Whether a Server passes it on to subscribers [MQTT-3.3.2-18] as it is.
    #[inline]
    pub(super) const fn is_forwarded(&self) -> bool {
        FORWARDED & (1 << self.identifier()) != 0
    }

    /// Appends it, identifier first.
    pub(super) fn put(&self, out: &mut Vec<u8>) {
        out.push(self.identifier());
        match *self {
            Self::PayloadFormatIndicator(value)
            | Self::RequestProblemInformation(value)
            | Self::RequestResponseInformation(value)
            | Self::RetainAvailable(value)
            | Self::WildcardSubscriptionAvailable(value)
            | Self::SubscriptionIdentifiersAvailable(value)
            | Self::SharedSubscriptionAvailable(value) => out.push(u8::from(value)),
            Self::MaximumQoS(value) => out.push(value as u8),
            Self::ServerKeepAlive(value) | Self::TopicAliasMaximum(value) => {
                out.extend_from_slice(&value.to_be_bytes());
            }
            Self::ReceiveMaximum(value) | Self::TopicAlias(value) => {
                out.extend_from_slice(&value.get().to_be_bytes());
            }
            Self::MessageExpiryInterval(value)
            | Self::SessionExpiryInterval(value)
            | Self::WillDelayInterval(value) => out.extend_from_slice(&value.to_be_bytes()),
            Self::MaximumPacketSize(value) => out.extend_from_slice(&value.get().to_be_bytes()),
            Self::SubscriptionIdentifier(value) => {
                put_variable_byte_integer(value.get() as usize, out);
            }
            Self::ContentType(text)
            | Self::ResponseTopic(text)
            | Self::AssignedClientIdentifier(text)
            | Self::AuthenticationMethod(text)
            | Self::ResponseInformation(text)
            | Self::ServerReference(text)
            | Self::ReasonString(text) => put_string(text, out),
            Self::CorrelationData(data) | Self::AuthenticationData(data) => put_binary(data, out),
            Self::User(name, value) => {
                put_string(name, out);
                put_string(value, out);
            }
        }
    }
}

/// Appends `value` as the property `property`, if there is a value.
pub(super) fn put_some<'a, T>(
    value: Option<T>,
    property: impl FnOnce(T) -> Property<'a>,
    out: &mut Vec<u8>,
) {
    if let Some(value) = value {
        property(value).put(out);
    }
}
