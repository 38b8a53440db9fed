//! CONNECT: the first packet of every Network Connection [MQTT-3.1.0-1].

#![forbid(unsafe_code)]

use std::num::{NonZeroU16, NonZeroU32};

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::forwarded_properties::{ForwardedProperties, ForwardedSpan};
use super::primitives::{Reader, put_binary, put_packet, put_sized, put_string};
use super::properties::{self, Property, PropertyReader, put_some};
use super::user_properties::UserProperties;
use crate::message::{ProtocolVersion, QoS};

/// A CONNECT, borrowed from its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Connect<'a> {
    /// The protocol spoken from here on.
    pub version: ProtocolVersion,
    /// Another broker, which has told so by a bit of the Protocol Level: Mosquitto's bridges do (`try_private`). MQTT 5.0 has
    /// options of a Subscription instead.
    pub is_bridge: bool,
    /// Clean Start; Clean Session in MQTT 3.x.
    pub clean_start: bool,
    /// Keep Alive; zero turns it off.
    pub keep_alive_s: u16,
    /// Client Identifier, possibly empty: whether that is allowed is not for the codec to say.
    pub client_identifier: &'a str,
    /// User Name.
    pub username: Option<&'a str>,
    /// Password.
    pub password: Option<&'a [u8]>,
    /// Will Message.
    pub will: Option<Will<'a>>,
    /// Properties; the defaults in MQTT 3.x.
    pub properties: ConnectProperties<'a>,
}

/// Properties of a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ConnectProperties<'a> {
    /// Session Expiry Interval.
    pub session_expiry_interval: Option<u32>,
    /// Receive Maximum of the Client.
    pub receive_maximum: Option<NonZeroU16>,
    /// Maximum Packet Size of the Client.
    pub maximum_packet_size: Option<NonZeroU32>,
    /// Topic Aliases the Client allows the Server to set; zero if it does not say.
    pub topic_alias_maximum: u16,
    /// Request Response Information.
    pub request_response_information: bool,
    /// Request Problem Information; true if the Client does not say.
    pub request_problem_information: bool,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// Authentication Method.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
}

impl Default for ConnectProperties<'_> {
    fn default() -> Self {
        Self {
            session_expiry_interval: None,
            receive_maximum: None,
            maximum_packet_size: None,
            topic_alias_maximum: 0,
            request_response_information: false,
            request_problem_information: true,
            user_properties: UserProperties::default(),
            authentication_method: None,
            authentication_data: None,
        }
    }
}

/// The Will Message of a CONNECT.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Will<'a> {
    /// Will QoS.
    pub qos: QoS,
    /// Will Retain.
    pub retain: bool,
    /// Will Topic: not empty, no wildcards.
    pub topic_name: &'a str,
    /// Will Payload.
    pub payload: &'a [u8],
    /// Will Delay Interval.
    pub delay_interval_s: u32,
    /// Message Expiry Interval.
    pub message_expiry_interval_s: Option<u32>,
    /// Those that go on to subscribers unread.
    pub properties: ForwardedProperties<'a>,
}

const USERNAME: u8 = 0x80;
const PASSWORD: u8 = 0x40;
const WILL_RETAIN: u8 = 0x20;
const WILL_QOS: u8 = 0x18;
const WILL: u8 = 0x04;
const CLEAN_START: u8 = 0x02;
const RESERVED: u8 = 0x01;
/// Of the Protocol Level.
const BRIDGE: u8 = 0x80;

/// The protocol version a CONNECT asks for, from its body alone: what a refusal of a CONNECT that is
/// otherwise malformed is to be written in. `None` if there is no such version.
#[must_use]
pub fn connect_version(body: &[u8]) -> Option<ProtocolVersion> {
    let (version, _) = decode_version(&mut Reader::new(body)).ok()?;
    Some(version)
}

/// The version, and whether it is a bridge that asks for it.
fn decode_version(reader: &mut Reader<'_>) -> Result<(ProtocolVersion, bool), DecodeError> {
    let name = reader.binary()?;
    // [MQTT-3.1.2-1]
    if name != b"MQTT" && name != b"MQIsdp" {
        return Err(DecodeError::ProtocolName);
    }
    let level = reader.u8()?;
    let is_bridge = level & BRIDGE != 0;
    let version = match (name, level & !BRIDGE) {
        (b"MQIsdp", 3) => ProtocolVersion::V3,
        (b"MQTT", 4) => ProtocolVersion::V311,
        (b"MQTT", 5) if !is_bridge => ProtocolVersion::V5,
        // [MQTT-3.1.2-2]
        _ => return Err(DecodeError::ProtocolLevel { level }),
    };
    Ok((version, is_bridge))
}

impl<'a> Connect<'a> {
    /// A CONNECT with nothing but a Client Identifier, to start from.
    #[must_use]
    pub fn new(version: ProtocolVersion, client_identifier: &'a str) -> Self {
        Self {
            version,
            is_bridge: false,
            clean_start: true,
            keep_alive_s: 0,
            client_identifier,
            username: None,
            password: None,
            will: None,
            properties: ConnectProperties::default(),
        }
    }

    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let (version, is_bridge) = decode_version(&mut reader)?;
        let flags = reader.u8()?;
        check_flags(version, flags)?;
        let keep_alive_s = reader.u16()?;
        let properties = if version.is_v5() {
            ConnectProperties::decode(&mut reader)?
        } else {
            ConnectProperties::default()
        };
        let client_identifier = reader.string()?;
        let will = if flags & WILL != 0 {
            Some(Will::decode(version, flags, &mut reader)?)
        } else {
            None
        };
        // In MQTT 3.1 the Remaining Length takes precedence over these two flags.
        let may_be_missing = version == ProtocolVersion::V3;
        let is_present =
            |flag, reader: &Reader<'_>| flags & flag != 0 && !(may_be_missing && reader.is_empty());
        let username = if is_present(USERNAME, &reader) {
            Some(reader.string()?)
        } else {
            None
        };
        let password = if is_present(PASSWORD, &reader) {
            Some(reader.binary()?)
        } else {
            None
        };
        reader.finish()?;
        Ok(Self {
            version,
            is_bridge,
            clean_start: flags & CLEAN_START != 0,
            keep_alive_s,
            client_identifier,
            username,
            password,
            will,
            properties,
        })
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_packet(packet_type::CONNECT << 4, out, |out| {
            let (name, level) = match self.version {
                ProtocolVersion::V3 => ("MQIsdp", 3),
                ProtocolVersion::V311 => ("MQTT", 4),
                ProtocolVersion::V5 => ("MQTT", 5),
            };
            put_string(name, out);
            out.push(level | flag(self.is_bridge, BRIDGE));
            out.push(self.flags());
            out.extend_from_slice(&self.keep_alive_s.to_be_bytes());
            if self.version.is_v5() {
                put_sized(out, |out| self.properties.put(out));
            }
            put_string(self.client_identifier, out);
            if let Some(will) = &self.will {
                will.put(self.version, out);
            }
            if let Some(username) = self.username {
                put_string(username, out);
            }
            if let Some(password) = self.password {
                put_binary(password, out);
            }
        });
    }

    fn flags(&self) -> u8 {
        let will = self.will.map_or(0, |will| {
            WILL | (will.qos as u8) << 3 | flag(will.retain, WILL_RETAIN)
        });
        flag(self.clean_start, CLEAN_START)
            | will
            | flag(self.password.is_some(), PASSWORD)
            | flag(self.username.is_some(), USERNAME)
    }
}

const fn flag(is_set: bool, bit: u8) -> u8 {
    if is_set { bit } else { 0 }
}

fn check_flags(version: ProtocolVersion, flags: u8) -> Result<(), DecodeError> {
    let illegal = Err(DecodeError::ConnectFlags { flags });
    // MQTT 3.1 calls the lowest bit unused, and the Will bits ignored when there is no Will.
    if version != ProtocolVersion::V3 {
        // [MQTT-3.1.2-3]
        if flags & RESERVED != 0 {
            return illegal;
        }
        // [MQTT-3.1.2-11], [MQTT-3.1.2-13]
        if flags & WILL == 0 && flags & (WILL_QOS | WILL_RETAIN) != 0 {
            return illegal;
        }
    }
    // Only MQTT 5.0 knows a Password without a User Name [v3.1.1 MQTT-3.1.2-22].
    if !version.is_v5() && flags & PASSWORD != 0 && flags & USERNAME == 0 {
        return illegal;
    }
    Ok(())
}

impl<'a> ConnectProperties<'a> {
    fn decode(packet: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut reader = PropertyReader::new(packet, properties::CONNECT)?;
        let mut decoded = Self::default();
        while let Some(property) = reader.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    decoded.session_expiry_interval = Some(seconds);
                }
                Property::ReceiveMaximum(count) => decoded.receive_maximum = Some(count),
                Property::MaximumPacketSize(size) => decoded.maximum_packet_size = Some(size),
                Property::TopicAliasMaximum(count) => decoded.topic_alias_maximum = count,
                Property::RequestResponseInformation(value) => {
                    decoded.request_response_information = value;
                }
                Property::RequestProblemInformation(value) => {
                    decoded.request_problem_information = value;
                }
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

    fn put(&self, out: &mut Vec<u8>) {
        put_some(
            self.session_expiry_interval,
            Property::SessionExpiryInterval,
            out,
        );
        put_some(self.receive_maximum, Property::ReceiveMaximum, out);
        put_some(self.maximum_packet_size, Property::MaximumPacketSize, out);
        if self.topic_alias_maximum != 0 {
            Property::TopicAliasMaximum(self.topic_alias_maximum).put(out);
        }
        if self.request_response_information {
            Property::RequestResponseInformation(true).put(out);
        }
        if !self.request_problem_information {
            Property::RequestProblemInformation(false).put(out);
        }
        self.user_properties.put(out);
        put_some(
            self.authentication_method,
            Property::AuthenticationMethod,
            out,
        );
        put_some(self.authentication_data, Property::AuthenticationData, out);
    }
}

impl<'a> Will<'a> {
    fn decode(
        version: ProtocolVersion,
        flags: u8,
        packet: &mut Reader<'a>,
    ) -> Result<Self, DecodeError> {
        // [MQTT-3.1.2-12]
        let qos = QoS::from_bits((flags & WILL_QOS) >> 3).ok_or(DecodeError::QoS)?;
        let mut will = Self {
            qos,
            retain: flags & WILL_RETAIN != 0,
            topic_name: "",
            payload: &[],
            delay_interval_s: 0,
            message_expiry_interval_s: None,
            properties: ForwardedProperties::default(),
        };
        if version.is_v5() {
            will.decode_properties(packet)?;
        }
        will.topic_name = packet.topic_name()?;
        will.payload = packet.binary()?;
        Ok(will)
    }

    fn decode_properties(&mut self, packet: &mut Reader<'a>) -> Result<(), DecodeError> {
        let mut reader = PropertyReader::new(packet, properties::WILL)?;
        let mut forwarded = ForwardedSpan::default();
        let mut start = 0;
        while let Some(property) = reader.next()? {
            let end = reader.position();
            match property {
                Property::WillDelayInterval(seconds) => self.delay_interval_s = seconds,
                Property::MessageExpiryInterval(seconds) => {
                    self.message_expiry_interval_s = Some(seconds);
                }
                // The rules of a Will leave only those that are forwarded.
                _ => forwarded.note(start, end),
            }
            start = end;
        }
        self.properties = forwarded.of(reader.section());
        Ok(())
    }

    fn put(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        if version.is_v5() {
            put_sized(out, |out| {
                if self.delay_interval_s != 0 {
                    Property::WillDelayInterval(self.delay_interval_s).put(out);
                }
                put_some(
                    self.message_expiry_interval_s,
                    Property::MessageExpiryInterval,
                    out,
                );
                self.properties.copy_to(out);
            });
        }
        put_string(self.topic_name, out);
        put_binary(self.payload, out);
    }
}
