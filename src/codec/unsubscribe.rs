//! UNSUBSCRIBE.

#![forbid(unsafe_code)]

use std::fmt;

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized, put_string};
use super::properties::{self, PropertyReader};
use super::user_properties::UserProperties;
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;

/// An UNSUBSCRIBE, borrowed from its bytes.
#[derive(Clone, Copy)]
pub struct Unsubscribe<'a> {
    /// What UNSUBACK answers to.
    pub packet_identifier: PacketIdentifier,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    filters: Filters<'a>,
}

#[derive(Clone, Copy)]
enum Filters<'a> {
    /// A checked payload.
    Payload(&'a [u8]),
    List(&'a [&'a str]),
}

impl<'a> Unsubscribe<'a> {
    /// An UNSUBSCRIBE from these Topic Filters, of which there must be at least one.
    #[must_use]
    pub fn new(packet_identifier: PacketIdentifier, filters: &'a [&'a str]) -> Self {
        Self {
            packet_identifier,
            user_properties: UserProperties::default(),
            filters: Filters::List(filters),
        }
    }

    /// Topic Filters in order. At least one; none is empty.
    pub fn filters(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        let (payload, list) = match self.filters {
            Filters::Payload(payload) => (payload, [].as_slice()),
            Filters::List(list) => ([].as_slice(), list),
        };
        let mut reader = Reader::new(payload);
        let decoded = std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            decode_filter(&mut reader).ok()
        });
        list.iter().copied().chain(decoded)
    }

    pub(super) fn decode(version: ProtocolVersion, body: &'a [u8]) -> Result<Self, DecodeError> {
        let (decoded, mut filters) = Self::decode_head(version, body)?;
        while !filters.is_empty() {
            decode_filter(&mut filters)?;
        }
        Ok(decoded)
    }

    /// Reads up to the Topic Filters, which are left to read, and to be checked.
    pub(super) fn decode_head(
        version: ProtocolVersion,
        body: &'a [u8],
    ) -> Result<(Self, Reader<'a>), DecodeError> {
        let mut reader = Reader::new(body);
        let mut decoded = Self::new(reader.packet_identifier()?, &[]);
        if version.is_v5() {
            let mut properties = PropertyReader::new(&mut reader, properties::UNSUBSCRIBE)?;
            while properties.next()?.is_some() {}
            decoded.user_properties = properties.user_properties();
        }
        decoded.filters = Filters::Payload(reader.rest());
        // [MQTT-3.10.3-2]
        if reader.is_empty() {
            return Err(DecodeError::PayloadEmpty);
        }
        Ok((decoded, reader))
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        // [MQTT-3.10.1-1]
        put_packet(packet_type::UNSUBSCRIBE << 4 | 0b0010, out, |out| {
            out.extend_from_slice(&self.packet_identifier.get().to_be_bytes());
            if version.is_v5() {
                put_sized(out, |out| self.user_properties.put(out));
            }
            for filter in self.filters() {
                put_string(filter, out);
            }
        });
    }
}

pub(super) fn decode_filter<'a>(reader: &mut Reader<'a>) -> Result<&'a str, DecodeError> {
    match reader.string()? {
        "" => Err(DecodeError::TopicFilterEmpty),
        filter => Ok(filter),
    }
}

impl fmt::Debug for Unsubscribe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unsubscribe")
            .field("packet_identifier", &self.packet_identifier)
            .field("user_properties", &self.user_properties)
            .field("filters", &self.filters().collect::<Vec<_>>())
            .finish()
    }
}

impl PartialEq for Unsubscribe<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.packet_identifier == other.packet_identifier
            && self.user_properties == other.user_properties
            && self.filters().eq(other.filters())
    }
}

impl Eq for Unsubscribe<'_> {}
