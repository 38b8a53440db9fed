//! SUBSCRIBE, and the Subscription Options that outlive it.

#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU32;

use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::{Reader, put_packet, put_sized, put_string};
use super::properties::{self, Property, PropertyReader, put_some};
use super::user_properties::UserProperties;
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};

/// Which retained messages a SUBSCRIBE wants.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
#[repr(u8)]
pub enum RetainHandling {
    /// All that match [MQTT-3.3.1-9].
    #[default]
    Send = 0,
    /// All that match if the Subscription is new [MQTT-3.3.1-10].
    SendIfNew = 1,
    /// None [MQTT-3.3.1-11].
    DoNotSend = 2,
}

/// What a Subscription asks for beside its Topic Filter. MQTT 3.x has only the QoS.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// Do not send back what the subscriber itself publishes [MQTT-3.8.3-3].
    pub no_local: bool,
    /// Keep the RETAIN flag as the publisher set it [MQTT-3.3.1-13].
    pub retain_as_published: bool,
    /// Which retained messages are wanted.
    pub retain_handling: RetainHandling,
}

impl SubscriptionOptions {
    /// Only a QoS, as in MQTT 3.x.
    #[must_use]
    pub const fn new(qos: QoS) -> Self {
        Self {
            qos,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::Send,
        }
    }

    fn decode(version: ProtocolVersion, options: u8) -> Result<Self, DecodeError> {
        let reserved = if version.is_v5() { 0xC0 } else { 0xFC };
        if options & reserved != 0 {
            return Err(DecodeError::SubscriptionOptionsReserved { options });
        }
        let out_of_range = DecodeError::SubscriptionOptionsValue { options };
        Ok(Self {
            qos: QoS::from_bits(options & 0b11).ok_or(out_of_range)?,
            no_local: options & 0b100 != 0,
            retain_as_published: options & 0b1000 != 0,
            retain_handling: match options >> 4 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return Err(out_of_range),
            },
        })
    }

    fn as_u8(self, version: ProtocolVersion) -> u8 {
        let qos = self.qos as u8;
        if !version.is_v5() {
            return qos;
        }
        qos | u8::from(self.no_local) << 2
            | u8::from(self.retain_as_published) << 3
            | (self.retain_handling as u8) << 4
    }
}

/// A SUBSCRIBE, borrowed from its bytes.
#[derive(Clone, Copy)]
pub struct Subscribe<'a> {
    /// What SUBACK answers to.
    pub packet_identifier: PacketIdentifier,
    /// Subscription Identifier of all its Subscriptions.
    pub subscription_identifier: Option<NonZeroU32>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
    filters: Filters<'a>,
}

#[derive(Clone, Copy)]
enum Filters<'a> {
    /// A checked payload.
    Payload(ProtocolVersion, &'a [u8]),
    List(&'a [(&'a str, SubscriptionOptions)]),
}

impl<'a> Subscribe<'a> {
    /// A SUBSCRIBE to these Topic Filters, of which there must be at least one.
    #[must_use]
    pub fn new(
        packet_identifier: PacketIdentifier,
        filters: &'a [(&'a str, SubscriptionOptions)],
    ) -> Self {
        Self {
            packet_identifier,
            subscription_identifier: None,
            user_properties: UserProperties::default(),
            filters: Filters::List(filters),
        }
    }

    /// Topic Filters and what is asked of each, in order. At least one; none is empty. Whether
    /// wildcards stand where they may is for [`crate::topic`] to say.
    pub fn filters(&self) -> impl Iterator<Item = (&'a str, SubscriptionOptions)> + use<'a> {
        let (version, payload, list) = match self.filters {
            Filters::Payload(version, payload) => (version, payload, [].as_slice()),
            Filters::List(list) => (ProtocolVersion::V5, [].as_slice(), list),
        };
        let mut reader = Reader::new(payload);
        let decoded = std::iter::from_fn(move || {
            if reader.is_empty() {
                return None;
            }
            decode_filter(version, &mut reader).ok()
        });
        list.iter().copied().chain(decoded)
    }

    pub(super) fn decode(version: ProtocolVersion, body: &'a [u8]) -> Result<Self, DecodeError> {
        let (decoded, mut filters) = Self::decode_head(version, body)?;
        while !filters.is_empty() {
            decode_filter(version, &mut filters)?;
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
            let mut properties = PropertyReader::new(&mut reader, properties::SUBSCRIBE)?;
            while let Some(property) = properties.next()? {
                if let Property::SubscriptionIdentifier(identifier) = property {
                    decoded.subscription_identifier = Some(identifier);
                }
            }
            decoded.user_properties = properties.user_properties();
        }
        decoded.filters = Filters::Payload(version, reader.rest());
        // [MQTT-3.8.3-2]
        if reader.is_empty() {
            return Err(DecodeError::PayloadEmpty);
        }
        Ok((decoded, reader))
    }

    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        // [MQTT-3.8.1-1]
        put_packet(packet_type::SUBSCRIBE << 4 | 0b0010, out, |out| {
            out.extend_from_slice(&self.packet_identifier.get().to_be_bytes());
            if version.is_v5() {
                put_sized(out, |out| {
                    put_some(
                        self.subscription_identifier,
                        Property::SubscriptionIdentifier,
                        out,
                    );
                    self.user_properties.put(out);
                });
            }
            for (filter, options) in self.filters() {
                put_string(filter, out);
                out.push(options.as_u8(version));
            }
        });
    }
}

pub(super) fn decode_filter<'a>(
    version: ProtocolVersion,
    reader: &mut Reader<'a>,
) -> Result<(&'a str, SubscriptionOptions), DecodeError> {
    let filter = reader.string()?;
    let options = SubscriptionOptions::decode(version, reader.u8()?)?;
    if filter.is_empty() {
        return Err(DecodeError::TopicFilterEmpty);
    }
    // [MQTT-3.8.3-4]
    if options.no_local && filter.starts_with("$share/") {
        return Err(DecodeError::SharedNoLocal);
    }
    Ok((filter, options))
}

impl fmt::Debug for Subscribe<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscribe")
            .field("packet_identifier", &self.packet_identifier)
            .field("subscription_identifier", &self.subscription_identifier)
            .field("user_properties", &self.user_properties)
            .field("filters", &self.filters().collect::<Vec<_>>())
            .finish()
    }
}

impl PartialEq for Subscribe<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.packet_identifier == other.packet_identifier
            && self.subscription_identifier == other.subscription_identifier
            && self.user_properties == other.user_properties
            && self.filters().eq(other.filters())
    }
}

impl Eq for Subscribe<'_> {}
