//! One Application Message on its way to one Session.

#![forbid(unsafe_code)]

use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use crate::message::{Message, QoS};

/// The shared subscription a delivery came through, as the shard names it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ShareTag(pub u32);

/// One message for one Session: the shared bytes and what is particular to this subscriber.
#[derive(Clone, Debug)]
pub struct Delivery {
    /// The message, shared with every other subscriber.
    pub message: Arc<Message>,
    /// The lower of the publisher's QoS and the subscription's [MQTT-3.8.4-8].
    pub qos: QoS,
    /// The RETAIN flag this subscriber sees.
    pub retain: bool,
    /// Through which shared subscription; such a message may be handed on to another member.
    pub share: Option<ShareTag>,
    /// Identifiers of all subscriptions that matched [MQTT-3.3.4-4].
    pub subscription_identifiers: SmallVec<[NonZeroU32; 1]>,
    /// Its place in a Session that is on a disk.
    pub place: Place,
}

/// Where a delivery stands in the log of a Session that outlives the process. All zero for others.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Place {
    /// Counts the deliveries of the Session. The Packet Identifier follows from it, so that a Client
    /// meets the same one again after a crash.
    pub sequence: u64,
    /// What must be durable before a QoS 2 PUBLISH of it is sent.
    pub lsn: u64,
}
