//! An Application Message that arrived, kept beyond the bytes it arrived in.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;

use crate::codec::{ForwardedFields, ForwardedProperties, Publish};
use crate::message::QoS;

/// A received message.
#[derive(Clone, Debug, Default)]
pub struct ReceivedMessage {
    pub topic_name: String,
    pub payload: Vec<u8>,
    pub qos: QoS,
    pub retain: bool,
    /// 0 at QoS 0.
    pub packet_identifier: u16,
    pub topic_alias: Option<u16>,
    pub message_expiry_interval_s: Option<u32>,
    pub subscription_identifiers: Vec<NonZeroU32>,
    /// Properties that came from the publisher, as they are on the wire.
    pub forwarded: Vec<u8>,
}

impl ReceivedMessage {
    /// A copy of `publish`, whose topic may have come as a Topic Alias.
    pub fn new(publish: &Publish<'_>, topic_name: String) -> Self {
        let mut forwarded = Vec::new();
        publish.properties.forwarded.copy_to(&mut forwarded);
        Self {
            topic_name,
            payload: publish.payload.to_vec(),
            qos: publish.qos,
            retain: publish.retain,
            packet_identifier: publish
                .packet_identifier
                .map_or(0, |identifier| identifier.get()),
            topic_alias: publish.properties.topic_alias.map(|alias| alias.get()),
            message_expiry_interval_s: publish.properties.message_expiry_interval_s,
            subscription_identifiers: publish.properties.subscription_identifiers.iter().collect(),
            forwarded,
        }
    }

    /// The properties that came from the publisher.
    pub fn fields(&self) -> ForwardedFields<'_> {
        ForwardedProperties::from_encoded(&self.forwarded).fields()
    }

    #[cfg(all(test, not(loom)))]
    pub fn with_fields(mut self, fields: &ForwardedFields<'_>) -> Self {
        fields.encode(&mut self.forwarded);
        self
    }
}
