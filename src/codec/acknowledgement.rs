//! PUBACK, PUBREC, PUBREL and PUBCOMP: four packets of one shape.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized};
use super::properties::{self, Property, PropertyReader, put_some};
use super::reason_code::{Legal, PUBACK_PUBREC, PUBREL_PUBCOMP, ReasonCode};
use super::user_properties::UserProperties;
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;

/// A PUBACK, PUBREC, PUBREL or PUBCOMP.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Acknowledgement<'a> {
    /// Of the PUBLISH it is about.
    pub packet_identifier: PacketIdentifier,
    /// Success if the packet does not say, and always in MQTT 3.x.
    pub reason_code: ReasonCode,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Acknowledgement<'a> {
    /// One that has no properties.
    #[must_use]
    pub fn new(packet_identifier: PacketIdentifier, reason_code: ReasonCode) -> Self {
        Self {
            packet_identifier,
            reason_code,
            reason_string: None,
            user_properties: UserProperties::default(),
        }
    }

    // HOT: per QoS 1 and 2 delivery.
    #[inline]
    pub(super) fn decode(
        version: ProtocolVersion,
        packet_type: u8,
        body: &'a [u8],
    ) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut decoded = Self::new(reader.packet_identifier()?, ReasonCode::Success);
        if !reader.is_empty() {
            if !version.is_v5() {
                return Err(DecodeError::TrailingBytes);
            }
            decoded.decode_reason(legal(packet_type), reader)?;
        }
        Ok(decoded)
    }

    fn decode_reason(&mut self, legal: Legal, mut reader: Reader<'a>) -> Result<(), DecodeError> {
        self.reason_code = legal.check(reader.u8()?)?;
        // The Property Length may be left out when there is nothing after the Reason Code.
        if reader.is_empty() {
            return Ok(());
        }
        let mut properties = PropertyReader::new(&mut reader, properties::ACKNOWLEDGEMENT)?;
        while let Some(property) = properties.next()? {
            if let Property::ReasonString(text) = property {
                self.reason_string = Some(text);
            }
        }
        self.user_properties = properties.user_properties();
        reader.finish()
    }

    pub(super) fn encode(&self, version: ProtocolVersion, first_byte: u8, out: &mut Vec<u8>) {
        if self.reason_string.is_none() && self.user_properties.is_empty() {
            put_short(
                first_byte,
                version,
                self.packet_identifier,
                self.reason_code,
                out,
            );
            return;
        }
        if !version.is_v5() {
            put_short(
                first_byte,
                version,
                self.packet_identifier,
                ReasonCode::Success,
                out,
            );
            return;
        }
        put_packet(first_byte, out, |out| {
            out.extend_from_slice(&self.packet_identifier.get().to_be_bytes());
            out.push(self.reason_code.as_u8());
            put_sized(out, |out| {
                put_some(self.reason_string, Property::ReasonString, out);
                self.user_properties.put(out);
            });
        });
    }
}

const fn legal(packet_type: u8) -> Legal {
    match packet_type {
        packet_type::PUBACK | packet_type::PUBREC => PUBACK_PUBREC,
        _ => PUBREL_PUBCOMP,
    }
}

pub(super) const PUBACK_FIRST_BYTE: u8 = packet_type::PUBACK << 4;
pub(super) const PUBREC_FIRST_BYTE: u8 = packet_type::PUBREC << 4;
/// With the flags that PUBREL must have [MQTT-3.6.1-1].
pub(super) const PUBREL_FIRST_BYTE: u8 = packet_type::PUBREL << 4 | 0b0010;
pub(super) const PUBCOMP_FIRST_BYTE: u8 = packet_type::PUBCOMP << 4;

/// The shortest form without properties.
// HOT: per QoS 1 and 2 PUBLISH.
#[inline]
fn put_short(
    first_byte: u8,
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    reason_code: ReasonCode,
    out: &mut Vec<u8>,
) {
    let [high, low] = packet_identifier.get().to_be_bytes();
    if reason_code == ReasonCode::Success || !version.is_v5() {
        out.extend_from_slice(&[first_byte, 2, high, low]);
    } else {
        out.extend_from_slice(&[first_byte, 3, high, low, reason_code.as_u8()]);
    }
}

/// Appends a PUBACK. MQTT 3.x has no Reason Code to say that something failed.
#[inline]
pub fn encode_puback(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    reason_code: ReasonCode,
    out: &mut Vec<u8>,
) {
    put_short(
        PUBACK_FIRST_BYTE,
        version,
        packet_identifier,
        reason_code,
        out,
    );
}

/// Appends a PUBREC. MQTT 3.x has no Reason Code to say that something failed.
#[inline]
pub fn encode_pubrec(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    reason_code: ReasonCode,
    out: &mut Vec<u8>,
) {
    put_short(
        PUBREC_FIRST_BYTE,
        version,
        packet_identifier,
        reason_code,
        out,
    );
}

/// Appends a PUBREL.
#[inline]
pub fn encode_pubrel(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    reason_code: ReasonCode,
    out: &mut Vec<u8>,
) {
    put_short(
        PUBREL_FIRST_BYTE,
        version,
        packet_identifier,
        reason_code,
        out,
    );
}

/// Appends a PUBCOMP.
#[inline]
pub fn encode_pubcomp(
    version: ProtocolVersion,
    packet_identifier: PacketIdentifier,
    reason_code: ReasonCode,
    out: &mut Vec<u8>,
) {
    put_short(
        PUBCOMP_FIRST_BYTE,
        version,
        packet_identifier,
        reason_code,
        out,
    );
}
