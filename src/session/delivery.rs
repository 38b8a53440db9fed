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
}
