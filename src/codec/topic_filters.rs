//! The Topic Filters of a SUBSCRIBE or UNSUBSCRIBE one by one, for whom all of them at once would take too long.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;

use super::check_flags;
use super::error::DecodeError;
use super::fixed_header::packet_type;
use super::primitives::Reader;
use super::subscribe::{self, Subscribe, SubscriptionOptions};
use super::unsubscribe::{self, Unsubscribe};
use crate::key::PacketIdentifier;
use crate::message::ProtocolVersion;

/// What a SUBSCRIBE or UNSUBSCRIBE says before its Topic Filters.
#[derive(Clone, Copy, Debug)]
pub struct FiltersHead {
    /// What is answered to.
    pub packet_identifier: PacketIdentifier,
    /// Subscription Identifier of all its Subscriptions.
    pub subscription_identifier: Option<NonZeroU32>,
    /// Bytes of the Topic Filters, with which the packet ends. Not zero.
    pub filters_size: usize,
}

/// Reads a SUBSCRIBE or UNSUBSCRIBE as [`super::decode`] does, up to its Topic Filters.
///
/// # Errors
/// [`DecodeError`] for what is wrong with that part, and for any other packet.
pub fn decode_filters_head(
    version: ProtocolVersion,
    first_byte: u8,
    body: &[u8],
) -> Result<FiltersHead, DecodeError> {
    check_flags(version, first_byte)?;
    match first_byte >> 4 {
        packet_type::SUBSCRIBE => {
            let (subscribe, filters) = Subscribe::decode_head(version, body)?;
            Ok(FiltersHead {
                packet_identifier: subscribe.packet_identifier,
                subscription_identifier: subscribe.subscription_identifier,
                filters_size: filters.rest().len(),
            })
        }
        packet_type::UNSUBSCRIBE => {
            let (unsubscribe, filters) = Unsubscribe::decode_head(version, body)?;
            Ok(FiltersHead {
                packet_identifier: unsubscribe.packet_identifier,
                subscription_identifier: None,
                filters_size: filters.rest().len(),
            })
        }
        packet_type => Err(DecodeError::PacketType { packet_type }),
    }
}

/// The Topic Filters that are left to read of a packet.
#[derive(Clone, Copy)]
pub struct TopicFilters<'a> {
    version: ProtocolVersion,
    is_subscribe: bool,
    reader: Reader<'a>,
}

impl<'a> TopicFilters<'a> {
    /// Those in the last `size` bytes of the SUBSCRIBE or UNSUBSCRIBE that begins with `first_byte` and ends with `body`.
    #[must_use]
    pub fn new(version: ProtocolVersion, first_byte: u8, body: &'a [u8], size: usize) -> Self {
        let at = body.len().saturating_sub(size);
        Self {
            version,
            is_subscribe: first_byte >> 4 == packet_type::SUBSCRIBE,
            reader: Reader::new(body.get(at..).unwrap_or_default()),
        }
    }

    /// The next one, and what a SUBSCRIBE asks of it.
    ///
    /// # Errors
    /// [`DecodeError`] if it is malformed: then the whole packet is.
    #[inline]
    pub fn read(&mut self) -> Result<Option<(&'a str, SubscriptionOptions)>, DecodeError> {
        if self.reader.is_empty() {
            return Ok(None);
        }
        if self.is_subscribe {
            return subscribe::decode_filter(self.version, &mut self.reader).map(Some);
        }
        let filter = unsubscribe::decode_filter(&mut self.reader)?;
        Ok(Some((filter, SubscriptionOptions::default())))
    }

    /// Bytes of those that have not been read.
    #[must_use]
    pub const fn size(&self) -> usize {
        self.reader.rest().len()
    }
}
