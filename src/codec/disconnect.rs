//! DISCONNECT.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized};
use super::properties::{self, Property, PropertyReader, id, put_some};
use super::reason_code::{self, ReasonCode};
use super::user_properties::UserProperties;
use crate::message::ProtocolVersion;

/// A DISCONNECT, from a Client or from a Server.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Disconnect<'a> {
    /// Success (Normal disconnection) if the packet does not say, and always in MQTT 3.x.
    pub reason_code: ReasonCode,
    /// Session Expiry Interval: only from a Client [MQTT-3.14.2-2].
    pub session_expiry_interval: Option<u32>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// Server Reference: only from a Server.
    pub server_reference: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Disconnect<'a> {
    /// One that has no properties.
    #[must_use]
    pub fn new(reason_code: ReasonCode) -> Self {
        Self {
            reason_code,
            ..Self::default()
        }
    }

    /// Checks what only a Server may say, in a DISCONNECT that came from a Client.
    ///
    /// # Errors
    /// [`DecodeError`] for a Reason Code or property that is the Server's.
    pub fn check_from_client(&self) -> Result<(), DecodeError> {
        if self.server_reference.is_some() {
            return Err(DecodeError::PropertyNotAllowed {
                identifier: id::SERVER_REFERENCE,
            });
        }
        reason_code::DISCONNECT_BY_CLIENT
            .check(self.reason_code.as_u8())
            .map(|_| ())
    }

    pub(super) fn decode(version: ProtocolVersion, body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut decoded = Self::default();
        if !version.is_v5() {
            reader.finish()?;
            return Ok(decoded);
        }
        if reader.is_empty() {
            return Ok(decoded);
        }
        decoded.reason_code = reason_code::DISCONNECT.check(reader.u8()?)?;
        if reader.is_empty() {
            return Ok(decoded);
        }
        let mut properties = PropertyReader::new(&mut reader, properties::DISCONNECT)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::SessionExpiryInterval(seconds) => {
                    decoded.session_expiry_interval = Some(seconds);
                }
                Property::ReasonString(text) => decoded.reason_string = Some(text),
                Property::ServerReference(text) => decoded.server_reference = Some(text),
                _ => {}
            }
        }
        decoded.user_properties = properties.user_properties();
        reader.finish()?;
        Ok(decoded)
    }

    fn has_properties(&self) -> bool {
        self.session_expiry_interval.is_some()
            || self.reason_string.is_some()
            || self.server_reference.is_some()
            || !self.user_properties.is_empty()
    }
}

/// Appends a DISCONNECT in its shortest form. MQTT 3.x can say nothing in it, and only a Client may
/// send it there.
pub fn encode_disconnect(version: ProtocolVersion, disconnect: &Disconnect<'_>, out: &mut Vec<u8>) {
    put_packet(packet_type::DISCONNECT << 4, out, |out| {
        let has_properties = disconnect.has_properties();
        if !version.is_v5() || (disconnect.reason_code == ReasonCode::Success && !has_properties) {
            return;
        }
        out.push(disconnect.reason_code.as_u8());
        if !has_properties {
            return;
        }
        put_sized(out, |out| {
            put_some(
                disconnect.session_expiry_interval,
                Property::SessionExpiryInterval,
                out,
            );
            put_some(disconnect.reason_string, Property::ReasonString, out);
            put_some(disconnect.server_reference, Property::ServerReference, out);
            disconnect.user_properties.put(out);
        });
    });
}
