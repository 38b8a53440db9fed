//! What the socket data path asks of the shard core.

#![forbid(unsafe_code)]

use crate::key::{ConnectionKey, ShardId};
use crate::time::Instant;
use std::collections::VecDeque;
use std::net::SocketAddr;

/// What must happen because of what the core was told. The core appends and never clears.
#[derive(Debug, Default)]
pub struct Effects {
    /// Has output to send.
    pub dirty: Vec<ConnectionKey>,
    /// To be closed after its output is sent. The key is good for [`Core::take_output`] until
    /// [`Core::forget`].
    pub closes: Vec<ConnectionKey>,
    /// Belongs to another shard. The core has already forgotten the key.
    pub hand_overs: Vec<HandOver>,
    /// Was paused, and is to be read again.
    pub resumed: Vec<ConnectionKey>,
}

/// A connection that belongs to another shard.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct HandOver {
    /// The connection, on the shard that accepted it.
    pub connection: ConnectionKey,
    /// The shard that owns its Session.
    pub to: ShardId,
}

/// One shard as the data path and the runtime drive it.
///
/// `now` never runs backwards between calls, and `effects` is carried out before the next call.
pub trait Core {
    /// What one shard sends to another.
    type Envelope: Send + 'static;

    /// A connection was accepted here. `None` when there are too many: the socket is closed.
    fn handle_accept(&mut self, peer: SocketAddr, now: Instant) -> Option<ConnectionKey>;

    /// Takes received bytes and returns how many were consumed, whole packets only. The caller
    /// presents the rest again, followed by what has arrived since.
    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize;

    /// Size of the whole packet that `bytes` starts, or anything not above `bytes.len()` when those
    /// do not tell.
    fn bytes_wanted(&self, connection: ConnectionKey, bytes: &[u8]) -> usize;

    /// Whether the connection is not to be read for now; [`Effects::resumed`] ends it.
    fn is_paused(&self, connection: ConnectionKey) -> bool;

    /// The peer closed, or the socket failed. The key is dead afterwards.
    fn handle_closed(&mut self, connection: ConnectionKey, now: Instant, effects: &mut Effects);

    /// Something from another shard.
    fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Self::Envelope,
        now: Instant,
        effects: &mut Effects,
    );

    /// The time of [`Core::next_deadline`] has come.
    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects);

    /// When [`Core::handle_timeout`] wants to be called.
    fn next_deadline(&self) -> Option<Instant>;

    /// Swaps the pending output with `buffer`, which is empty and whose capacity is used again.
    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>);

    /// How many taken bytes the socket has not accepted yet, whenever that changes.
    fn handle_unsent(
        &mut self,
        connection: ConnectionKey,
        unsent: usize,
        now: Instant,
        effects: &mut Effects,
    );

    /// A connection named in [`Effects::closes`] has been taken care of: its key is dead.
    fn forget(&mut self, connection: ConnectionKey);

    /// What waits for the shard `to`, oldest first.
    fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Self::Envelope>;

    /// Envelopes were moved from [`Core::outbound`] into the ring to `to`.
    fn handle_ring_room(&mut self, to: ShardId, now: Instant, effects: &mut Effects);

    /// The broker ends: every connection is told and closed.
    fn handle_shutdown(&mut self, now: Instant, effects: &mut Effects);
}
