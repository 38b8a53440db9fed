//! What must happen because of what a shard was told.
//!
//! **The owner drains all of it before the next `handle_*` call that it wants kept apart, and at the
//! latest at the end of its turn**: every list may hold entries of several calls.

#![forbid(unsafe_code)]

use super::notice::Notice;
use crate::key::{ConnectionKey, ShardId};
use crate::origin::Origin;

/// A connection whose Session lives on another shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct HandOver {
    /// The connection; the core has forgotten it.
    pub connection: ConnectionKey,
    /// Where its socket and every byte received on it go.
    pub to: ShardId,
    /// Where it comes from: what the other shard is told when it accepts it.
    pub origin: Origin,
}

/// Commands of the core to whoever does its I/O.
#[derive(Debug, Default)]
pub struct Effects {
    /// Connections that have output to send, each named once.
    pub dirty: Vec<ConnectionKey>,
    /// Connections to close once what [`super::Shard::take_output`] still gives has been sent;
    /// then [`super::Shard::forget`] frees the key.
    pub closes: Vec<ConnectionKey>,
    /// Those of them whose Client has said that it sends nothing more: nobody need wait for that.
    pub left: Vec<ConnectionKey>,
    /// Connections to move to another shard.
    pub hand_overs: Vec<HandOver>,
    /// Connections that may be read again; bytes kept back are presented again.
    pub resumed: Vec<ConnectionKey>,
    /// What goes to the threads beside the shard.
    pub notices: Vec<Notice>,
    /// Some output is worth a send before more is handled: what would come behind it is copied.
    pub is_large: bool,
    /// Messages that were handled of a batch: each may take as long as an envelope of its own.
    pub messages: usize,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.closes.is_empty()
            && self.hand_overs.is_empty()
            && self.resumed.is_empty()
            && self.notices.is_empty()
    }
}
