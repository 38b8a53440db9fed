//! The Will Message a Client left with us.

#![forbid(unsafe_code)]

use crate::codec;
use crate::message::{self, Message, MessageRef};
use crate::time::Instant;

/// What is published when the Network Connection ends without a DISCONNECT [MQTT-3.1.2-8].
#[derive(Debug)]
pub struct Will {
    message: Message,
    /// Seconds between the loss of the connection and the publication [MQTT-3.1.3-9].
    pub delay_interval_s: u32,
    /// Lifetime of the message once it is published, seconds.
    message_expiry_interval_s: Option<u32>,
}

impl Will {
    /// Copies the Will out of a CONNECT.
    #[must_use]
    pub fn new(will: &codec::Will<'_>) -> Self {
        let mut properties = Vec::new();
        will.properties.copy_to(&mut properties);
        Self {
            message: Message::new(MessageRef {
                topic_name: will.topic_name.as_bytes(),
                properties: &properties,
                payload: will.payload,
                qos: will.qos,
                retain: will.retain,
                expires_at: None,
            }),
            delay_interval_s: will.delay_interval_s,
            message_expiry_interval_s: will.message_expiry_interval_s,
        }
    }

    /// The message as it was left with us.
    #[must_use]
    pub fn stored(&self) -> &Message {
        &self.message
    }

    /// Lifetime of the message once it is published, seconds.
    #[must_use]
    pub fn message_expiry_interval_s(&self) -> Option<u32> {
        self.message_expiry_interval_s
    }

    /// A Will that was stored.
    #[must_use]
    pub fn from_stored(
        message: Message,
        delay_interval_s: u32,
        message_expiry_interval_s: Option<u32>,
    ) -> Self {
        Self {
            message,
            delay_interval_s,
            message_expiry_interval_s,
        }
    }

    /// The message as published at `now`, which is when its lifetime begins.
    #[must_use]
    pub fn message(&self, now: Instant) -> MessageRef<'_> {
        let expires_at = self
            .message_expiry_interval_s
            .map(|interval_s| message::expires_at(interval_s, now));
        MessageRef {
            expires_at,
            ..self.message.as_ref()
        }
    }
}
