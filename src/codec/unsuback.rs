//! UNSUBACK.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet};
use super::reason_code::{self, ReasonCode};
use super::suback::{ReasonCodes, decode_properties, put_properties};
use super::user_properties::UserProperties;
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;

/// An UNSUBACK: one Reason Code for each Topic Filter, in their order [MQTT-3.11.3-1].
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnsubAck<'a> {
    /// Of the UNSUBSCRIBE it answers.
    pub packet_identifier: PacketIdentifier,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    /// One for each Topic Filter; none in MQTT 3.x.
    pub reason_codes: ReasonCodes<'a>,
}

impl<'a> UnsubAck<'a> {
    /// An UNSUBACK without properties.
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
        let mut decoded = Self::new(reader.packet_identifier()?, &[]);
        if !version.is_v5() {
            reader.finish()?;
            return Ok(decoded);
        }
        (decoded.reason_string, decoded.user_properties) = decode_properties(&mut reader)?;
        decoded.reason_codes = ReasonCodes::decode(reader, reason_code::UNSUBACK)?;
        Ok(decoded)
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        put_packet(packet_type::UNSUBACK << 4, out, |out| {
            out.extend_from_slice(&self.packet_identifier.get().to_be_bytes());
            if version.is_v5() {
                put_properties(self.reason_string, self.user_properties, out);
                out.extend(self.reason_codes.iter().map(ReasonCode::as_u8));
            }
        });
    }
}

/// Appends an UNSUBACK without properties. MQTT 3.x has no Reason Codes in it.
pub fn encode_unsuback(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    codes: &[ReasonCode],
    out: &mut Vec<u8>,
) {
    UnsubAck::new(packet_identifier, codes).encode(version, out);
}
