//! Subscription Options as `codec` has them.

#![forbid(unsafe_code)]

use crate::message::QoS;

/// What a SUBSCRIBE says about one Topic Filter.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub struct SubscriptionOptions {
    /// Maximum QoS.
    pub qos: QoS,
    /// No Local.
    pub no_local: bool,
    /// Retain As Published.
    pub retain_as_published: bool,
    /// Retain Handling.
    pub retain_handling: RetainHandling,
}

/// Whether retained messages are sent when the subscription is made.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum RetainHandling {
    /// Always.
    #[default]
    Send,
    /// Only if the subscription is new.
    SendIfNew,
    /// Never.
    DoNotSend,
}
