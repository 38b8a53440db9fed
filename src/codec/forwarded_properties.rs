//! The properties a Server passes from a publisher to its subscribers, unread.

#![forbid(unsafe_code)]

use std::fmt;

use super::properties::{Property, PropertyReader, put_some};
use super::user_properties::UserProperties;

/// Payload Format Indicator, Content Type, Response Topic, Correlation Data and User Properties of a
/// PUBLISH or a Will, encoded, in the sender's order [MQTT-3.3.2-18].
///
/// The bytes are those of the packet. Other properties (Topic Alias, Message Expiry Interval) may
/// stand between them; then they are picked out when copied.
#[derive(Clone, Copy)]
pub struct ForwardedProperties<'a> {
    /// From the first forwarded property to the last, checked.
    bytes: &'a [u8],
    /// Whether all in between are forwarded too.
    is_contiguous: bool,
}

impl<'a> ForwardedProperties<'a> {
    /// Properties encoded without their length, which must all be ones that are forwarded, and
    /// checked: what [`copy_to`](Self::copy_to) or [`ForwardedFields::encode`] made.
    #[inline]
    #[must_use]
    pub const fn from_encoded(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            is_contiguous: true,
        }
    }

    /// The encoded properties, if they are one piece.
    #[inline]
    #[must_use]
    pub const fn as_contiguous(&self) -> Option<&'a [u8]> {
        if self.is_contiguous {
            Some(self.bytes)
        } else {
            None
        }
    }

    /// Appends the encoded properties, without a length.
    pub fn copy_to(&self, out: &mut Vec<u8>) {
        if self.is_contiguous {
            out.extend_from_slice(self.bytes);
            return;
        }
        let mut reader = PropertyReader::trusted(self.bytes);
        let mut start = 0;
        while let Ok(Some(property)) = reader.next() {
            let end = reader.position();
            if property.is_forwarded() {
                out.extend_from_slice(self.bytes.get(start..end).unwrap_or_default());
            }
            start = end;
        }
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Reads them.
    #[must_use]
    pub fn fields(&self) -> ForwardedFields<'a> {
        let mut fields = ForwardedFields {
            user_properties: UserProperties::from_section(self.bytes),
            ..ForwardedFields::default()
        };
        let mut reader = PropertyReader::trusted(self.bytes);
        while let Ok(Some(property)) = reader.next() {
            match property {
                Property::PayloadFormatIndicator(value) => fields.payload_is_utf8 = Some(value),
                Property::ContentType(text) => fields.content_type = Some(text),
                Property::ResponseTopic(text) => fields.response_topic = Some(text),
                Property::CorrelationData(data) => fields.correlation_data = Some(data),
                _ => {}
            }
        }
        fields
    }
}

impl Default for ForwardedProperties<'_> {
    fn default() -> Self {
        Self::from_encoded(&[])
    }
}

impl fmt::Debug for ForwardedProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fields().fmt(f)
    }
}

impl PartialEq for ForwardedProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        let encoded = |properties: &Self| {
            let mut bytes = Vec::new();
            properties.copy_to(&mut bytes);
            bytes
        };
        encoded(self) == encoded(other)
    }
}

impl Eq for ForwardedProperties<'_> {}

/// Follows the properties of one packet and remembers where the forwarded ones are.
#[derive(Default)]
pub(super) struct ForwardedSpan {
    start: usize,
    end: usize,
    is_split: bool,
}

impl ForwardedSpan {
    /// A forwarded property at `start..end`, after those noted before.
    #[inline]
    pub(super) fn note(&mut self, start: usize, end: usize) {
        if self.end == 0 {
            self.start = start;
        } else {
            self.is_split |= self.end != start;
        }
        self.end = end;
    }

    #[inline]
    pub(super) fn of<'a>(&self, section: &'a [u8]) -> ForwardedProperties<'a> {
        ForwardedProperties {
            bytes: section.get(self.start..self.end).unwrap_or_default(),
            is_contiguous: !self.is_split,
        }
    }
}

/// [`ForwardedProperties`], read.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct ForwardedFields<'a> {
    /// Payload Format Indicator: whether the payload says it is UTF-8.
    pub payload_is_utf8: Option<bool>,
    /// Content Type.
    pub content_type: Option<&'a str>,
    /// Response Topic.
    pub response_topic: Option<&'a str>,
    /// Correlation Data.
    pub correlation_data: Option<&'a [u8]>,
    /// User Properties.
    pub user_properties: UserProperties<'a>,
}

impl ForwardedFields<'_> {
    /// Appends them encoded, without a length.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put_some(self.payload_is_utf8, Property::PayloadFormatIndicator, out);
        put_some(self.content_type, Property::ContentType, out);
        put_some(self.response_topic, Property::ResponseTopic, out);
        put_some(self.correlation_data, Property::CorrelationData, out);
        self.user_properties.put(out);
    }
}
