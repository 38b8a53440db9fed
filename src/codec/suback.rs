//! SUBACK, and the list of Reason Codes it shares with UNSUBACK.

#![forbid(unsafe_code)]

use std::fmt;

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized};
use super::properties::{self, Property, PropertyReader, put_some};
use super::reason_code::{self, Legal, ReasonCode};
use super::user_properties::UserProperties;
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;

/// A SUBACK: one Reason Code for each Topic Filter, in their order [MQTT-3.9.3-1].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubAck<'a> {
    /// Of the SUBSCRIBE it answers.
    pub packet_identifier: PacketIdentifier,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One for each Topic Filter.
    pub reason_codes: ReasonCodes<'a>,
}

/// Reason Codes, borrowed: from a packet, or from a slice.
#[derive(Clone, Copy)]
pub struct ReasonCodes<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked bytes.
    Payload(&'a [u8]),
    List(&'a [ReasonCode]),
}

impl<'a> ReasonCodes<'a> {
    /// These, in this order.
    #[must_use]
    pub const fn new(codes: &'a [ReasonCode]) -> Self {
        Self(Source::List(codes))
    }

    /// Each of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = ReasonCode> + use<'a> {
        let (payload, list) = match self.0 {
            Source::Payload(payload) => (payload, [].as_slice()),
            Source::List(list) => ([].as_slice(), list),
        };
        let decoded = payload.iter().copied().filter_map(ReasonCode::from_u8);
        list.iter().copied().chain(decoded)
    }

    pub(super) fn decode(reader: Reader<'a>, legal: Legal) -> Result<Self, DecodeError> {
        let payload = reader.rest();
        if payload.is_empty() {
            return Err(DecodeError::PayloadEmpty);
        }
        match payload.iter().find(|&&code| !legal.contains(code)) {
            Some(&code) => Err(DecodeError::ReasonCode { code }),
            None => Ok(Self(Source::Payload(payload))),
        }
    }
}

impl Default for ReasonCodes<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl fmt::Debug for ReasonCodes<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for ReasonCodes<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for ReasonCodes<'_> {}

/// Reads the properties of a SUBACK or UNSUBACK.
pub(super) fn decode_properties<'a>(
    reader: &mut Reader<'a>,
) -> Result<(Option<&'a str>, UserProperties<'a>), DecodeError> {
    let mut properties = PropertyReader::new(reader, properties::ACKNOWLEDGEMENT)?;
    let mut reason_string = None;
    while let Some(property) = properties.next()? {
        if let Property::ReasonString(text) = property {
            reason_string = Some(text);
        }
    }
    Ok((reason_string, properties.user_properties()))
}

/// Appends the properties of a SUBACK or UNSUBACK.
pub(super) fn put_properties(
    reason_string: Option<&str>,
    user_properties: UserProperties<'_>,
    out: &mut Vec<u8>,
) {
    put_sized(out, |out| {
        put_some(reason_string, Property::ReasonString, out);
        user_properties.put(out);
    });
}

impl<'a> SubAck<'a> {
    /// A SUBACK without properties.
    #[must_use]
    pub fn new(packet_identifier: PacketIdentifier, codes: &'a [ReasonCode]) -> Self {
        Self {
            packet_identifier,
            reason_string: None,
            user_properties: UserProperties::default(),
            reason_codes: ReasonCodes::new(codes),
        }
    }

    pub(super) fn decode(version: ProtocolVersion, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let packet_identifier = reader.packet_identifier()?;
        let ((reason_string, user_properties), legal) = if version.is_v5() {
            (decode_properties(&mut reader)?, reason_code::SUBACK)
        } else {
            (Default::default(), reason_code::SUBACK_V3)
        };
        Ok(Self {
            packet_identifier,
            reason_string,
            user_properties,
            reason_codes: ReasonCodes::decode(reader, legal)?,
        })
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_packet(packet_type::SUBACK << 4, out, |out| {
            out.extend_from_slice(&self.packet_identifier.get().to_be_bytes());
            if version.is_v5() {
                put_properties(self.reason_string, self.user_properties, out);
            }
            out.extend(
                self.reason_codes
                    .iter()
                    .map(|code| code.as_suback_code(version)),
            );
        });
    }
}

/// Appends a SUBACK without properties. MQTT 3.x is told of every failure as 0x80.
pub fn encode_suback(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    codes: &[ReasonCode],
    out: &mut Vec<u8>,
) {
    SubAck::new(packet_identifier, codes).encode(version, out);
}
