//! CONNACK.

#![forbid(unsafe_code)]

use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized};
use super::properties::{self, Property, PropertyReader, put_some};
use super::reason_code::{self, ReasonCode};
use super::user_properties::UserProperties;
use crate::message::{ProtocolVersion, QoS};

/// A CONNACK.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnAck<'a> {
    /// Session Present: never with an error [MQTT-3.2.2-6], never in MQTT 3.1.
    pub session_present: bool,
    /// Whether the connection is accepted; MQTT 3.x says it with a return code.
    pub reason_code: ReasonCode,
    /// Properties; none in MQTT 3.x.
    pub properties: ConnAckProperties<'a>,
}

/// Properties of a CONNACK.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ConnAckProperties<'a> {
    /// Session Expiry Interval, if not what the Client asked for.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum of the Server.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum QoS, if below 2.
    pub maximum_qos: Option<QoS>,
    /// Retain Available.
    pub retain_available: Option<bool>,
    /// Maximum Packet Size of the Server.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Client Identifier that the Server chose [MQTT-3.2.2-16].
    pub assigned_client_identifier: Option<&'a str>,
    /// Topic Alias Maximum of the Server.
    pub topic_alias_maximum: Option<u16>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Wildcard Subscription Available.
    pub wildcard_subscription_available: Option<bool>,
    /// Subscription Identifiers Available.
    pub subscription_identifiers_available: Option<bool>,
    /// Shared Subscription Available.
    pub shared_subscription_available: Option<bool>,
    /// Server Keep Alive, which replaces the Client's [MQTT-3.2.2-21].
    pub server_keep_alive_s: Option<u16>,
    /// Response Information.
    pub response_information: Option<&'a str>,
    /// Server Reference.
    pub server_reference: Option<&'a str>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}

impl<'a> ConnAck<'a> {
    pub(super) fn decode(version: ProtocolVersion, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let flags = reader.u8()?;
        let code = reader.u8()?;
        let reason_code = if version.is_v5() {
            reason_code::CONNACK.check(code)?
        } else {
            ReasonCode::from_connect_return_code(code).ok_or(DecodeError::ReasonCode { code })?
        };
        // MQTT 3.1 calls the whole byte reserved and unused.
        let session_present = version != ProtocolVersion::V3 && flags != 0;
        // [MQTT-3.2.2-1], [MQTT-3.2.2-6]
        if session_present && (flags != 1 || reason_code != ReasonCode::Success) {
            return Err(DecodeError::ConnAckFlags { flags });
        }
        let properties = if version.is_v5() {
            ConnAckProperties::decode(&mut reader)?
        } else {
            ConnAckProperties::default()
        };
        reader.finish()?;
        Ok(Self {
            session_present,
            reason_code,
            properties,
        })
    }
}

impl<'a> ConnAckProperties<'a> {
    fn decode(packet: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut reader = PropertyReader::new(packet, properties::CONNACK)?;
        let mut decoded = Self::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    decoded.session_expiry_interval = Some(seconds);
                }
                Property::ReceiveMaximum(count) => decoded.receive_maximum = Some(count),
                Property::MaximumQoS(qos) => decoded.maximum_qos = Some(qos),
                Property::RetainAvailable(value) => decoded.retain_available = Some(value),
                Property::MaximumPacketSize(size) => decoded.maximum_packet_size = Some(size),
                Property::AssignedClientIdentifier(text) => {
                    decoded.assigned_client_identifier = Some(text);
                }
                Property::TopicAliasMaximum(count) => decoded.topic_alias_maximum = Some(count),
                Property::ReasonString(text) => decoded.reason_string = Some(text),
                Property::WildcardSubscriptionAvailable(value) => {
                    decoded.wildcard_subscription_available = Some(value);
                }
                Property::SubscriptionIdentifiersAvailable(value) => {
                    decoded.subscription_identifiers_available = Some(value);
                }
                Property::SharedSubscriptionAvailable(value) => {
                    decoded.shared_subscription_available = Some(value);
                }
                Property::ServerKeepAlive(seconds) => decoded.server_keep_alive_s = Some(seconds),
                Property::ResponseInformation(text) => decoded.response_information = Some(text),
                Property::ServerReference(text) => decoded.server_reference = Some(text),
                Property::AuthenticationMethod(text) => decoded.authentication_method = Some(text),
                Property::AuthenticationData(data) => decoded.authentication_data = Some(data),
                _ => {}
            }
        }
        decoded.user_properties = reader.user_properties();
        if decoded.authentication_data.is_some() && decoded.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(decoded)
    }

    /// Any order is legal; this one is fixed, Topic Alias Maximum first and Receive Maximum last, so
    /// that a CONNACK can be compared byte for byte.
    fn put(&self, out: &mut Vec<u8>) {
        put_some(self.topic_alias_maximum, Property::TopicAliasMaximum, out);
        put_some(
            self.session_expiry_interval,
            Property::SessionExpiryInterval,
            out,
        );
        put_some(
            self.assigned_client_identifier,
            Property::AssignedClientIdentifier,
            out,
        );
        put_some(self.server_keep_alive_s, Property::ServerKeepAlive, out);
        put_some(
            self.authentication_method,
            Property::AuthenticationMethod,
            out,
        );
        put_some(self.authentication_data, Property::AuthenticationData, out);
        put_some(
            self.response_information,
            Property::ResponseInformation,
            out,
        );
        put_some(self.server_reference, Property::ServerReference, out);
        put_some(self.reason_string, Property::ReasonString, out);
        // "Maximum QoS 2" is said by leaving it out: the property is 0 or 1.
        let maximum_qos = self.maximum_qos.filter(|&qos| qos != QoS::ExactlyOnce);
        put_some(maximum_qos, Property::MaximumQoS, out);
        put_some(self.retain_available, Property::RetainAvailable, out);
        put_some(
            self.wildcard_subscription_available,
            Property::WildcardSubscriptionAvailable,
            out,
        );
        put_some(
            self.subscription_identifiers_available,
            Property::SubscriptionIdentifiersAvailable,
            out,
        );
        put_some(
            self.shared_subscription_available,
            Property::SharedSubscriptionAvailable,
            out,
        );
        self.user_properties.put(out);
        put_some(self.maximum_packet_size, Property::MaximumPacketSize, out);
        put_some(self.receive_maximum, Property::ReceiveMaximum, out);
    }
}

/// Appends a CONNACK.
pub fn encode_connack(version: ProtocolVersion, connack: &ConnAck<'_>, out: &mut Vec<u8>) {
    put_packet(packet_type::CONNACK << 4, out, |out| {
        let session_present = connack.session_present && version != ProtocolVersion::V3;
        out.push(u8::from(session_present));
        if version.is_v5() {
            out.push(connack.reason_code.as_u8());
            put_sized(out, |out| connack.properties.put(out));
        } else {
            out.push(connack.reason_code.as_connect_return_code());
        }
    });
}
