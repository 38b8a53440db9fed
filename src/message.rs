//! The Application Message, borrowed from a receive buffer or owned and shared.
//!
//! A PUBLISH enters as a [`MessageRef`] that points into the receive buffer. It becomes an owned
//! [`Message`] only when something must outlive the turn: a QoS 1 or 2 delivery, a queue, a retained
//! store, another shard. All of those share one [`Message`] behind an `Arc`.

#![forbid(unsafe_code)]

use std::sync::Arc;
use std::time::Duration;

use crate::origin::Identity;
use crate::time::Instant;

/// Quality of Service of a PUBLISH or of a subscription.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum QoS {
    /// At most once: no acknowledgement.
    #[default]
    AtMostOnce = 0,
    /// At least once: PUBACK.
    AtLeastOnce = 1,
    /// Exactly once: PUBREC, PUBREL, PUBCOMP.
    ExactlyOnce = 2,
}

impl QoS {
    /// The QoS a two-bit field stands for; `None` for 3, which is malformed [MQTT-3.3.1-4].
    #[must_use]
    pub const fn from_bits(bits: u8) -> Option<Self> {
        match bits {
            0 => Some(Self::AtMostOnce),
            1 => Some(Self::AtLeastOnce),
            2 => Some(Self::ExactlyOnce),
            _ => None,
        }
    }
}

/// What a Message Expiry Interval of 0 stands for. Whoever is connected is to have the message, on whichever shard they
/// are, and the way there takes a turn or two.
const AT_ONCE: Duration = Duration::from_millis(50);

/// When the Message Expiry Interval `interval_s` of a message that is published `now` has passed.
#[must_use]
#[inline]
pub fn expires_at(interval_s: u32, now: Instant) -> Instant {
    match interval_s {
        0 => now + AT_ONCE,
        _ => now.add_seconds(interval_s.into()),
    }
}

/// What is left of a Message Expiry Interval [MQTT-3.3.2-6]: whole seconds. One that has just been received is still the
/// same.
#[must_use]
#[inline]
pub fn expiry_interval_s(expires_at: Instant, now: Instant) -> u32 {
    u32::try_from(expires_at.seconds_from(now + AT_ONCE)).unwrap_or(u32::MAX)
}

/// The protocol a Network Connection speaks, as its CONNECT said.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum ProtocolVersion {
    /// MQTT 3.1: `MQIsdp`, level 3.
    V3 = 3,
    /// MQTT 3.1.1: `MQTT`, level 4.
    V311 = 4,
    /// MQTT 5.0: `MQTT`, level 5.
    V5 = 5,
}

impl ProtocolVersion {
    /// Whether packets carry properties and Reason Codes.
    #[must_use]
    pub const fn is_v5(self) -> bool {
        matches!(self, Self::V5)
    }
}

/// An Application Message whose bytes belong to somebody else.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageRef<'a> {
    /// Topic Name: valid UTF-8 without wildcards, never empty.
    pub topic_name: &'a [u8],
    /// The v5 properties that travel with the message, encoded, without their length: payload format
    /// indicator, content type, response topic, correlation data, user properties, in the
    /// publisher's order [MQTT-3.3.2-18]. Not the Message Expiry Interval, which `expires_at` holds.
    pub properties: &'a [u8],
    /// Application data.
    pub payload: &'a [u8],
    /// The publisher's QoS.
    pub qos: QoS,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// When the message must no longer be delivered.
    pub expires_at: Option<Instant>,
}

impl MessageRef<'_> {
    /// Bytes of topic, properties and payload.
    #[must_use]
    #[inline]
    pub const fn size(&self) -> usize {
        self.topic_name.len() + self.properties.len() + self.payload.len()
    }

    /// Whether its Message Expiry Interval has passed [MQTT-3.3.2-5].
    #[must_use]
    #[inline]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }
}

/// An Application Message that owns its bytes, in one buffer that can be used again.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Message {
    /// Topic Name, then properties, then payload.
    bytes: Vec<u8>,
    properties_size: u32,
    topic_size: u16,
    qos: QoS,
    retain: bool,
    expires_at: Option<Instant>,
    source: Option<Arc<Identity>>,
}

// With the counts of an `Arc` one line of the cache, of which a long queue has many.
const _: () = assert!(size_of::<Message>() <= 48);

impl Message {
    /// Copies `message` into a buffer of its own.
    #[must_use]
    pub fn new(message: MessageRef<'_>) -> Self {
        let mut owned = Self::default();
        owned.fill(message);
        owned
    }

    /// The same message, by `source`: who must still have access when it is replayed.
    #[must_use]
    pub fn from_source(mut self, source: Option<Arc<Identity>>) -> Self {
        self.source = source;
        self
    }

    /// Who published it, if that was kept: of retained messages it is.
    #[must_use]
    pub fn source(&self) -> Option<&Identity> {
        self.source.as_deref()
    }

    /// Replaces what this message holds, keeping its buffer: no allocation once that is large enough.
    pub fn fill(&mut self, message: MessageRef<'_>) {
        self.bytes.clear();
        self.bytes.reserve_exact(message.size());
        self.bytes.extend_from_slice(message.topic_name);
        self.bytes.extend_from_slice(message.properties);
        self.bytes.extend_from_slice(message.payload);
        // A Topic Name is at most 65,535 bytes [MQTT-4.7.3-3], a Control Packet is below 256 MiB.
        let topic_size = message.topic_name.len();
        debug_assert!(topic_size <= usize::from(u16::MAX), "not a Topic Name");
        self.topic_size = topic_size as u16;
        self.properties_size = message.properties.len() as u32;
        self.qos = message.qos;
        self.retain = message.retain;
        self.expires_at = message.expires_at;
        self.source = None;
    }

    /// The message, borrowed.
    #[must_use]
    pub fn as_ref(&self) -> MessageRef<'_> {
        let (topic_name, rest) = self.bytes.split_at(self.topic_size.into());
        let (properties, payload) = rest.split_at(self.properties_size as usize);
        MessageRef {
            topic_name,
            properties,
            payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at,
        }
    }

    /// Topic Name.
    #[must_use]
    pub fn topic_name(&self) -> &[u8] {
        &self.bytes[..self.topic_size.into()]
    }

    /// Application data.
    #[must_use]
    pub fn payload(&self) -> &[u8] {
        &self.bytes[usize::from(self.topic_size) + self.properties_size as usize..]
    }

    /// The publisher's QoS.
    #[must_use]
    pub fn qos(&self) -> QoS {
        self.qos
    }

    /// Bytes held: topic, properties and payload.
    #[must_use]
    pub fn size(&self) -> usize {
        self.bytes.len()
    }

    /// Whether its Message Expiry Interval has passed [MQTT-3.3.2-5].
    #[must_use]
    pub fn is_expired(&self, now: Instant) -> bool {
        self.as_ref().is_expired(now)
    }
}
