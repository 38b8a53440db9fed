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

/// What became of a buffer that the core might keep. One that was kept is worth a send before more is handled: what
/// would come behind it is copied.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Kept {
    /// It is the caller's again.
    #[default]
    No,
    /// It was kept, and would not be if there were other packets in it.
    Packet,
    /// It was kept. Others of its packets' kind may come in one buffer.
    Run,
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
    /// Connections whose CONNECT would end another one, and which may be the older of the two: whether their peer is still
    /// there is to be told by [`super::Shard::handle_presence`].
    pub suspects: Vec<ConnectionKey>,
    /// Connections to move to another shard.
    pub hand_overs: Vec<HandOver>,
    /// Connections that may be read again; bytes kept back are presented again.
    pub resumed: Vec<ConnectionKey>,
    /// What goes to the threads beside the shard.
    pub notices: Vec<Notice>,
    /// What became of a buffer that might be kept.
    pub kept: Kept,
    /// Messages that were handled of a batch: each may take as long as an envelope of its own.
    pub messages: usize,
}

impl Effects {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.dirty.is_empty()
            && self.closes.is_empty()
            && self.suspects.is_empty()
            && self.hand_overs.is_empty()
            && self.resumed.is_empty()
            && self.notices.is_empty()
    }
}
