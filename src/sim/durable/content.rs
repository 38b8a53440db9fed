//! What the messages of Clients of a broker that crashes say of themselves.

#![forbid(unsafe_code)]

use crate::codec::Publish;
use crate::message::ProtocolVersion;

/// What a message is one of.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Sort {
    /// Those that every subscriber gets.
    Counted,
    /// Those of Shared Subscriptions.
    Shared,
    /// Wills, by the Client whose they are.
    Will,
    /// What Client 0 retains: the flow is the topic, the number its value, and zero if it is removed.
    Retained,
}

/// A message as it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) sort: Sort,
    pub(super) publisher: usize,
    /// By the QoS that it was published with: 0 and 1 are QoS 1 and 2, 2 is QoS 0.
    pub(super) flow: usize,
    pub(super) number: u32,
    /// Its Message Expiry Interval when it was published; zero: it has none.
    pub(super) lifetime_s: u32,
}

/// The number that a payload begins with.
pub(super) fn number(payload: &str) -> Option<u32> {
    payload.split(' ').next()?.parse().ok()
}

impl Content {
    /// The payload of message `number`, of sizes that fill sectors and segments in every way, and from which messages
    /// go from shard to shard by themselves or with others.
    pub(super) fn payload(number: u32, lifetime_s: u32) -> String {
        let filler = "x".repeat(number as usize * 37 % 700);
        format!("{number} {lifetime_s} {filler}")
    }

    /// Reads it, or says what is wrong.
    pub(super) fn read(publish: &Publish<'_>, version: ProtocolVersion) -> Result<Self, String> {
        let content = Self::parse(publish).ok_or_else(|| format!("{publish:?} has come"))?;
        // [MQTT-3.3.2-6]
        let remaining = publish.properties.message_expiry_interval_s;
        let has_lifetime = version.is_v5() && content.lifetime_s > 0;
        if remaining.is_some() != has_lifetime || remaining > Some(content.lifetime_s) {
            return Err(format!("{content:?} came with an expiry of {remaining:?}"));
        }
        Ok(content)
    }

    /// What tells it from others of QoS 2 that are counted or shared.
    pub(super) fn key(&self) -> (bool, usize, u32) {
        (self.sort == Sort::Shared, self.publisher, self.number)
    }

    fn parse(publish: &Publish<'_>) -> Option<Self> {
        let mut levels = publish.topic_name.split('/');
        let sort = match levels.next()? {
            "m" => Sort::Counted,
            "s" => Sort::Shared,
            "w" => Sort::Will,
            "r" => Sort::Retained,
            _ => return None,
        };
        let number = levels.next()?.parse().ok()?;
        let (publisher, flow) = match sort {
            Sort::Will => (number, 0),
            Sort::Retained => (0, number),
            Sort::Counted | Sort::Shared => (number, levels.next()?.parse().ok()?),
        };
        if sort == Sort::Retained && publish.payload.is_empty() {
            return Some(Self {
                sort,
                publisher,
                flow,
                number: 0,
                lifetime_s: 0,
            });
        }
        let mut words = str::from_utf8(publish.payload).ok()?.split(' ');
        Some(Self {
            sort,
            publisher,
            flow,
            number: words.next()?.parse().ok()?,
            lifetime_s: words.next()?.parse().ok()?,
        })
    }
}
