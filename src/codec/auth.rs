//! AUTH: one round of enhanced authentication, MQTT 5.0 only.

#![forbid(unsafe_code)]

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized};
use super::properties::{self, Property, PropertyReader, put_some};
use super::reason_code::{self, ReasonCode};
use super::user_properties::UserProperties;

/// An AUTH.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Auth<'a> {
    /// Success, Continue authentication or Re-authenticate.
    pub reason_code: ReasonCode,
    /// Authentication Method; missing only in the empty form, which says Success.
    pub authentication_method: Option<&'a str>,
    /// Authentication Data.
    pub authentication_data: Option<&'a [u8]>,
    /// Reason String.
    pub reason_string: Option<&'a str>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl<'a> Auth<'a> {
    pub(super) fn decode(body: &'a [u8]) -> Result<Self, DecodeError> {
        let mut reader = Reader::new(body);
        let mut decoded = Self::default();
        // Nothing at all stands for Success without properties.
        if reader.is_empty() {
            return Ok(decoded);
        }
        decoded.reason_code = reason_code::AUTH.check(reader.u8()?)?;
        let mut properties = PropertyReader::new(&mut reader, properties::AUTH)?;
        while let Some(property) = properties.next()? {
            match property {
                Property::AuthenticationMethod(text) => decoded.authentication_method = Some(text),
                Property::AuthenticationData(data) => decoded.authentication_data = Some(data),
                Property::ReasonString(text) => decoded.reason_string = Some(text),
                _ => {}
            }
        }
        decoded.user_properties = properties.user_properties();
        reader.finish()?;
        if decoded.authentication_method.is_none() {
            return Err(DecodeError::AuthenticationMethodMissing);
        }
        Ok(decoded)
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        put_packet(packet_type::AUTH << 4, out, |out| {
            if *self == Self::default() {
                return;
            }
            out.push(self.reason_code.as_u8());
            put_sized(out, |out| {
                put_some(
                    self.authentication_method,
                    Property::AuthenticationMethod,
                    out,
                );
                put_some(self.authentication_data, Property::AuthenticationData, out);
                put_some(self.reason_string, Property::ReasonString, out);
                self.user_properties.put(out);
            });
        });
    }
}
