//! A message to be published, until the broker has it.

#![forbid(unsafe_code)]

use std::num::NonZeroU16;
use std::rc::Rc;

use bytes::Bytes;

use super::properties::MessageProperties;
use crate::codec::{PublishHeader, encode_publish, publish_size};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};

/// A message and how far it has come.
#[derive(Clone, Debug)]
pub struct Outgoing {
    pub topic_name: Rc<str>,
    pub payload: Bytes,
    pub qos: QoS,
    pub retain: bool,
    /// What it shares with others.
    pub properties: Rc<EncodedProperties>,
    /// Given by [`super::protocol::Protocol::publish`], at QoS 0 only to be told apart.
    pub packet_identifier: u16,
    pub step: Step,
}

/// What has to be sent for the message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Step {
    /// PUBLISH, until it is acknowledged.
    Publish {
        /// Whether an earlier attempt may have arrived.
        is_duplicate: bool,
    },
    /// PUBREL, until PUBCOMP.
    Release,
}

/// Properties as they stand in a PUBLISH.
#[derive(Clone, Debug, Default)]
pub struct EncodedProperties {
    forwarded: Vec<u8>,
    message_expiry_interval_s: Option<u32>,
    topic_alias: Option<NonZeroU16>,
}

impl EncodedProperties {
    /// Encodes them once for all messages.
    pub fn new(properties: &MessageProperties) -> Self {
        Self {
            forwarded: properties.forwarded(),
            message_expiry_interval_s: properties.message_expiry_interval_s,
            topic_alias: properties.topic_alias,
        }
    }
}

impl Outgoing {
    /// A message of which nothing has been sent.
    pub fn new(topic_name: Rc<str>, payload: Bytes, qos: QoS, retain: bool) -> Self {
        Self {
            topic_name,
            payload,
            qos,
            retain,
            properties: Rc::default(),
            packet_identifier: 0,
            step: Step::Publish {
                is_duplicate: false,
            },
        }
    }

    fn header(&self) -> PublishHeader<'_> {
        PublishHeader {
            duplicate: self.step == Step::Publish { is_duplicate: true },
            qos: self.qos,
            retain: self.retain,
            packet_identifier: PacketIdentifier::new(self.packet_identifier),
            topic_name: self.topic_name.as_bytes(),
            topic_alias: self.properties.topic_alias,
            message_expiry_interval_s: self.properties.message_expiry_interval_s,
            forwarded: &self.properties.forwarded,
            subscription_identifiers: &[],
            payload: &self.payload,
        }
    }

    /// Size of its PUBLISH.
    pub fn size(&self, version: ProtocolVersion) -> usize {
        publish_size(version, &self.header())
    }

    /// Appends its PUBLISH.
    pub fn encode(&self, version: ProtocolVersion, out: &mut Vec<u8>) {
        encode_publish(version, &self.header(), out);
    }
}
