//! PUBLISH: the packet everything else exists for.

#![forbid(unsafe_code)]

use std::num::{NonZeroU16, NonZeroU32};

use smallvec::SmallVec;

use super::error::DecodeError;
use super::fixed_header::{decode_fixed_header, packet_type};
use super::forwarded_properties::{ForwardedProperties, ForwardedSpan};
use super::primitives::{
    Reader, put_variable_byte_integer, topic_name_or_empty, variable_byte_integer_size,
};
use super::properties::{self, Property, PropertyReader, id};
use super::subscription_identifiers::SubscriptionIdentifiers;
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};

/// A PUBLISH, borrowed from its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Publish<'a> {
    /// DUP: an earlier attempt may have arrived.
    pub duplicate: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Topic Name without wildcards; empty only beside a Topic Alias.
    pub topic_name: &'a str,
    /// There is one exactly if the QoS is above 0 [MQTT-2.2.1-2].
    pub packet_identifier: Option<PacketIdentifier>,
    /// Application data.
    pub payload: &'a [u8],
    /// Properties; none in MQTT 3.x.
    pub properties: PublishProperties<'a>,
}

/// Properties of a PUBLISH.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct PublishProperties<'a> {
    /// Topic Alias.
    pub topic_alias: Option<NonZeroU16>,
    /// Message Expiry Interval.
    pub message_expiry_interval_s: Option<u32>,
    /// Those that go on to subscribers unread.
    pub forwarded: ForwardedProperties<'a>,
    /// Subscription Identifiers: never from a Client [MQTT-3.3.4-6], which the receiver checks.
    pub subscription_identifiers: SubscriptionIdentifiers<'a>,
}

const DUPLICATE: u8 = 0b1000;
const RETAIN: u8 = 0b0001;

/// Reads a PUBLISH from its first byte, 0x30 to 0x3F, and the bytes after the fixed header.
///
/// # Errors
/// [`DecodeError`] for everything that no state is needed to know.
// HOT: per PUBLISH.
#[inline]
pub fn decode_publish(
    version: ProtocolVersion,
    first_byte: u8,
    body: &[u8],
) -> Result<Publish<'_>, DecodeError> {
    let qos = QoS::from_bits(first_byte >> 1 & 0b11).ok_or(DecodeError::QoS)?;
    let duplicate = first_byte & DUPLICATE != 0;
    let mut reader = Reader::new(body);
    let topic_name = topic_name_or_empty(reader.binary()?)?;
    let packet_identifier = if qos == QoS::AtMostOnce {
        // MQTT 3.1 does not forbid DUP here, later versions do [MQTT-3.3.1-2].
        if duplicate && version != ProtocolVersion::V3 {
            return Err(DecodeError::DuplicateAtMostOnce);
        }
        None
    } else {
        Some(reader.packet_identifier()?)
    };
    let properties = if version.is_v5() {
        match reader.rest().split_first() {
            Some((0, payload)) => {
                reader = Reader::new(payload);
                PublishProperties::default()
            }
            _ => PublishProperties::decode(&mut reader)?,
        }
    } else {
        PublishProperties::default()
    };
    if topic_name.is_empty() && properties.topic_alias.is_none() {
        return Err(if version.is_v5() {
            DecodeError::TopicNameMissing
        } else {
            DecodeError::TopicName
        });
    }
    Ok(Publish {
        duplicate,
        qos,
        retain: first_byte & RETAIN != 0,
        topic_name,
        packet_identifier,
        payload: reader.rest(),
        properties,
    })
}

/// A PUBLISH of QoS 0 with neither DUP, RETAIN nor properties, which is as [`encode_publish`] writes it: a Client of
/// the same version may be sent its bytes.
///
/// Nothing is known of its Topic Name, but for its size.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PlainPublish<'a> {
    /// What stands in front of the payload.
    pub head: &'a [u8],
    /// Where in `head` the Topic Name is, which is not empty.
    pub topic_name: &'a [u8],
    /// Application data.
    pub payload: &'a [u8],
}

impl<'a> PlainPublish<'a> {
    /// The first byte of such a packet.
    pub const FIRST_BYTE: u8 = packet_type::PUBLISH << 4;

    /// The one that `bytes` begin with, if they do and all of it is there. Whatever else they begin with is for
    /// [`super::decode_fixed_header`] and [`decode_publish`] to tell.
    // HOT: per PUBLISH.
    #[inline]
    #[must_use]
    pub fn peek(version: ProtocolVersion, bytes: &'a [u8], packet_size_max: u32) -> Option<Self> {
        if *bytes.first()? != Self::FIRST_BYTE {
            return None;
        }
        let header = decode_fixed_header(bytes, packet_size_max).ok()??;
        // Only the shortest form is sent on [MQTT-1.5.5-1].
        if header.header_size != 1 + variable_byte_integer_size(header.remaining_length) {
            return None;
        }
        let packet = bytes.get(..header.total_size())?;
        let (size, rest) = packet[header.header_size..].split_first_chunk()?;
        let (topic_name, rest) = rest.split_at_checked(u16::from_be_bytes(*size).into())?;
        let payload = if version.is_v5() {
            // The size of the properties.
            rest.strip_prefix(&[0])?
        } else {
            rest
        };
        let (head, _) = packet.split_at(packet.len() - payload.len());
        (!topic_name.is_empty()).then_some(Self {
            head,
            topic_name,
            payload,
        })
    }

    /// Size of the packet.
    #[inline]
    #[must_use]
    pub const fn size(&self) -> usize {
        self.head.len() + self.payload.len()
    }

    /// The one that `bytes` begin with, if it has the same Topic Name.
    // HOT: per PUBLISH.
    #[inline]
    #[must_use]
    pub fn peek_alike<'b>(
        &self,
        version: ProtocolVersion,
        bytes: &'b [u8],
        packet_size_max: u32,
    ) -> Option<PlainPublish<'b>> {
        // Most are of the same size.
        if let Some(packet) = bytes.get(..self.size())
            && let (head, payload) = packet.split_at(self.head.len())
            && head == self.head
        {
            let start = usize::from(version.is_v5()) + self.topic_name.len();
            return Some(PlainPublish {
                head,
                topic_name: &head[head.len() - start..][..self.topic_name.len()],
                payload,
            });
        }
        PlainPublish::peek(version, bytes, packet_size_max)
            .filter(|other| other.topic_name == self.topic_name)
    }
}

impl<'a> PublishProperties<'a> {
    fn decode(packet: &mut Reader<'a>) -> Result<Self, DecodeError> {
        let mut reader = PropertyReader::new(packet, properties::PUBLISH)?;
        let mut decoded = Self::default();
        let mut forwarded = ForwardedSpan::default();
        let mut start = 0;
        while let Some(property) = reader.next()? {
            let end = reader.position();
            match property {
                Property::TopicAlias(alias) => decoded.topic_alias = Some(alias),
                Property::MessageExpiryInterval(seconds) => {
                    decoded.message_expiry_interval_s = Some(seconds);
                }
                Property::SubscriptionIdentifier(_) => {
                    decoded.subscription_identifiers =
                        SubscriptionIdentifiers::from_section(reader.section());
                }
                // The rules of PUBLISH leave only those that are forwarded.
                _ => forwarded.note(start, end),
            }
            start = end;
        }
        decoded.forwarded = forwarded.of(reader.section());
        Ok(decoded)
    }
}

/// What a PUBLISH to be sent consists of.
#[derive(Clone, Copy, Debug)]
pub struct PublishHeader<'a> {
    /// DUP: an earlier attempt may have arrived.
    pub duplicate: bool,
    /// QoS.
    pub qos: QoS,
    /// RETAIN.
    pub retain: bool,
    /// Ignored for QoS 0. Above, `None` leaves two zero bytes for the caller to fill in.
    pub packet_identifier: Option<PacketIdentifier>,
    /// Topic Name; may be empty beside a Topic Alias.
    pub topic_name: &'a [u8],
    /// Topic Alias; ignored by MQTT 3.x, as all properties are.
    pub topic_alias: Option<NonZeroU16>,
    /// Message Expiry Interval.
    pub message_expiry_interval_s: Option<u32>,
    /// Forwarded properties, encoded, without a length.
    pub forwarded: &'a [u8],
    /// Subscription Identifiers.
    pub subscription_identifiers: &'a [NonZeroU32],
    /// Application data.
    pub payload: &'a [u8],
}

impl PublishHeader<'_> {
    /// Size of the properties without their length.
    #[inline]
    fn properties_size(&self) -> usize {
        let mut size = self.forwarded.len();
        if self.topic_alias.is_some() {
            size += 3;
        }
        if self.message_expiry_interval_s.is_some() {
            size += 5;
        }
        for identifier in self.subscription_identifiers {
            size += 1 + variable_byte_integer_size(identifier.get() as usize);
        }
        size
    }

    /// Size of everything after the fixed header, given that of the properties.
    #[inline]
    fn remaining_length(&self, version: ProtocolVersion, properties_size: usize) -> usize {
        let mut size = 2 + self.topic_name.len() + self.payload.len();
        if self.qos != QoS::AtMostOnce {
            size += 2;
        }
        if version.is_v5() {
            size += variable_byte_integer_size(properties_size) + properties_size;
        }
        size
    }
}

/// Size of the whole packet that [`encode_publish`] makes, to hold against a Maximum Packet Size.
#[inline]
#[must_use]
pub fn publish_size(version: ProtocolVersion, header: &PublishHeader<'_>) -> usize {
    let remaining_length = header.remaining_length(version, header.properties_size());
    1 + variable_byte_integer_size(remaining_length) + remaining_length
}

/// Appends a PUBLISH.
///
/// Returns where the Packet Identifier stands, counted from the packet's first byte, so that one
/// packet can be copied to many and patched; `None` for QoS 0, which has none [MQTT-2.2.1-2].
///
/// # Panics
/// If the Topic Name is longer than 65,535 bytes or the packet too large for MQTT.
// HOT: per PUBLISH and class of subscribers.
#[inline]
pub fn encode_publish(
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let packet_identifier_offset = encode_head::<true>(version, header, out);
    out.extend_from_slice(header.payload);
    packet_identifier_offset
}

/// Appends what stands in front of the payload of a PUBLISH. Returns where in it the Packet Identifier is, if it
/// has one.
///
/// # Panics
/// As [`encode_publish`].
pub fn encode_publish_head(
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    out: &mut Vec<u8>,
) -> Option<usize> {
    encode_head::<false>(version, header, out)
}

/// As [`encode_publish_head`], and has room for the payload if that is to follow.
#[inline(always)]
fn encode_head<const HAS_PAYLOAD: bool>(
    version: ProtocolVersion,
    header: &PublishHeader<'_>,
    out: &mut Vec<u8>,
) -> Option<usize> {
    let properties_size = if version.is_v5() {
        header.properties_size()
    } else {
        0
    };
    let remaining_length = header.remaining_length(version, properties_size);
    let Ok(topic_size) = u16::try_from(header.topic_name.len()) else {
        panic!("Topic Name of {} bytes", header.topic_name.len());
    };
    let [topic_high, topic_low] = topic_size.to_be_bytes();
    let first_byte = packet_type::PUBLISH << 4
        | if header.duplicate { DUPLICATE } else { 0 }
        | (header.qos as u8) << 1
        | u8::from(header.retain);

    let start = out.len();
    // One growth at most; 5 bytes are the largest fixed header.
    let apart = if HAS_PAYLOAD { 0 } else { header.payload.len() };
    out.reserve(5 + remaining_length - apart);
    if remaining_length < 0x80 {
        out.extend_from_slice(&[first_byte, remaining_length as u8, topic_high, topic_low]);
    } else if remaining_length < 0x4000 {
        out.extend_from_slice(&[
            first_byte,
            remaining_length as u8 | 0x80,
            (remaining_length >> 7) as u8,
            topic_high,
            topic_low,
        ]);
    } else {
        out.push(first_byte);
        put_variable_byte_integer(remaining_length, out);
        out.extend_from_slice(&[topic_high, topic_low]);
    }
    out.extend_from_slice(header.topic_name);
    let packet_identifier_offset = if header.qos == QoS::AtMostOnce {
        None
    } else {
        let offset = out.len() - start;
        let value = header.packet_identifier.map_or(0, PacketIdentifier::get);
        out.extend_from_slice(&value.to_be_bytes());
        Some(offset)
    };
    if version.is_v5() {
        if properties_size == 0 {
            out.push(0);
        } else {
            put_properties(header, properties_size, out);
        }
    }
    packet_identifier_offset
}

fn put_properties(header: &PublishHeader<'_>, properties_size: usize, out: &mut Vec<u8>) {
    put_variable_byte_integer(properties_size, out);
    if let Some(alias) = header.topic_alias {
        let [high, low] = alias.get().to_be_bytes();
        out.extend_from_slice(&[id::TOPIC_ALIAS, high, low]);
    }
    if let Some(seconds) = header.message_expiry_interval_s {
        let [a, b, c, d] = seconds.to_be_bytes();
        out.extend_from_slice(&[id::MESSAGE_EXPIRY_INTERVAL, a, b, c, d]);
    }
    out.extend_from_slice(header.forwarded);
    for identifier in header.subscription_identifiers {
        out.push(id::SUBSCRIPTION_IDENTIFIER);
        put_variable_byte_integer(identifier.get() as usize, out);
    }
}

impl Publish<'_> {
    /// Appends this PUBLISH; the hot path has [`encode_publish`].
    pub(super) fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        let mut picked = Vec::new();
        let forwarded = match self.properties.forwarded.as_contiguous() {
            Some(bytes) => bytes,
            None => {
                self.properties.forwarded.copy_to(&mut picked);
                &picked
            }
        };
        let subscription_identifiers: SmallVec<[NonZeroU32; 4]> =
            self.properties.subscription_identifiers.iter().collect();
        encode_publish(
            version,
            &PublishHeader {
                duplicate: self.duplicate,
                qos: self.qos,
                retain: self.retain,
                packet_identifier: self.packet_identifier,
                topic_name: self.topic_name.as_bytes(),
                topic_alias: self.properties.topic_alias,
                message_expiry_interval_s: self.properties.message_expiry_interval_s,
                forwarded,
                subscription_identifiers: &subscription_identifiers,
                payload: self.payload,
            },
            out,
        );
    }
}
