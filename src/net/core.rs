//! What the socket data path asks of the shard core.

#![forbid(unsafe_code)]

use super::pace::TURN_MAX;
use super::waker::Waker;
use crate::key::{ConnectionKey, ShardId};
use crate::metrics::{Counters, Snapshot, Talkers};
use crate::origin::Origin;
use crate::shard::{Command, Effects, Envelope, Shard};
use crate::time::Instant;
use std::collections::VecDeque;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

/// One shard as the data path and the runtime drive it.
///
/// `now` never runs backwards between calls; `effects` is carried out by the end of the turn.
pub trait Core {
    /// What one shard sends to another.
    type Envelope: Send + 'static;

    /// How long a turn handles what has arrived, at most: the rest waits for the next one.
    fn turn_max(&self) -> Duration {
        TURN_MAX
    }

    /// What it has counted, if it counts.
    fn counters(&self) -> Option<&Counters> {
        None
    }

    /// The shard begins on its thread, before anything else. By `waker` any thread ends its waits.
    ///
    /// # Errors
    /// If it cannot; the broker does not start.
    fn handle_start(&mut self, _waker: &Waker) -> io::Result<()> {
        Ok(())
    }

    /// Everything that came in a turn has been handled: what the core does once a turn.
    fn handle_turn(&mut self, _now: Instant, _effects: &mut Effects) {}

    /// Whether [`Core::handle_turn`] has something to do that nobody will wake the shard for.
    fn has_work(&self) -> bool {
        false
    }

    /// The shard has ended: nothing more will come or leave.
    fn finish(&mut self, _now: Instant) {}

    /// A connection was accepted here. `None` when there are too many: the socket is closed.
    fn handle_accept(&mut self, origin: Origin, now: Instant) -> Option<ConnectionKey>;

    /// More is known of where a connection comes from. Before its first byte.
    fn handle_origin(&mut self, _connection: ConnectionKey, _origin: Origin) {}

    /// Whether the peer of a connection named in [`Effects::suspects`] is still there.
    fn handle_presence(
        &mut self,
        _connection: ConnectionKey,
        _is_there: bool,
        _effects: &mut Effects,
    ) {
    }

    /// The next connection to be made, and what it will be called. Asked once a turn, until there
    /// is none. A core that only accepts has none.
    fn next_connect(&mut self) -> Option<(ConnectionKey, SocketAddr)> {
        None
    }

    /// A connection from [`Core::next_connect`] is established, or failed: then its key is dead.
    fn handle_connected(
        &mut self,
        _connection: ConnectionKey,
        _result: io::Result<()>,
        _now: Instant,
        _effects: &mut Effects,
    ) {
    }

    /// Takes received bytes and returns how many were consumed, whole packets only. The caller
    /// presents the rest again, followed by what has arrived since.
    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize;

    /// As [`Core::handle_bytes`], of whole packets in a buffer that the core may keep: then it is empty, and all
    /// of it consumed. [`Effects::kept`] tells.
    fn handle_packets_in(
        &mut self,
        connection: ConnectionKey,
        packets: &mut Vec<u8>,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.handle_bytes(connection, packets, now, effects)
    }

    /// Size of the whole packet that `bytes` starts, if those tell.
    fn packet_size(&self, connection: ConnectionKey, bytes: &[u8]) -> Option<usize>;

    /// Whether the connection is not to be read for now; [`Effects::resumed`] ends it.
    fn is_paused(&self, connection: ConnectionKey) -> bool;

    /// The peer closed, or the socket failed. The key is dead afterwards.
    fn handle_closed(&mut self, connection: ConnectionKey, now: Instant, effects: &mut Effects);

    /// Something from another shard. What is left of it after `most` messages comes back, to be handled before
    /// anything else from there.
    fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Self::Envelope,
        most: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Self::Envelope>;

    /// Something from a side thread.
    fn handle_command(&mut self, _command: Command, _now: Instant, _effects: &mut Effects) {}

    /// The time of [`Core::next_deadline`] has come.
    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects);

    /// When [`Core::handle_timeout`] wants to be called.
    fn next_deadline(&self) -> Option<Instant>;

    /// Swaps the pending output with `buffer`, which is empty and whose capacity is used again. When
    /// more comes, the connection is named in [`Effects::dirty`] again.
    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>);

    /// Bytes that there are to be taken, if the core tells: much waits for its turn where others have little.
    fn output_size(&self, _connection: ConnectionKey) -> usize {
        0
    }

    /// The same of everything that there is: the connection ends.
    fn take_last_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.take_output(connection, buffer);
    }

    /// How many taken bytes the socket has not accepted yet, after each attempt to send them.
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

    /// So many envelopes for the shard `to` can be moved at the end of this turn.
    fn set_ring_room(&mut self, _to: ShardId, _room: usize) {}

    /// Envelopes were moved from [`Core::outbound`] into rings.
    fn handle_ring_room(&mut self, effects: &mut Effects);

    /// Fills in what is known of the core. Asked now and then.
    fn show(&self, _snapshot: &mut Snapshot) {}

    /// The Clients with most messages since this was last asked.
    fn talkers(&mut self, _now: Instant) -> Talkers {
        Talkers::default()
    }

    /// The broker is about to end: what Clients of any shard are still to get is sent.
    fn handle_stopping(&mut self, _now: Instant, _effects: &mut Effects) {}

    /// The broker ends: every connection is told and closed.
    fn handle_shutdown(&mut self, now: Instant, effects: &mut Effects);
}

impl Core for Shard {
    type Envelope = Envelope;

    fn handle_accept(&mut self, origin: Origin, now: Instant) -> Option<ConnectionKey> {
        self.handle_accept(origin, now)
    }

    fn handle_origin(&mut self, connection: ConnectionKey, origin: Origin) {
        self.handle_origin(connection, origin);
    }

    fn handle_presence(
        &mut self,
        connection: ConnectionKey,
        is_there: bool,
        effects: &mut Effects,
    ) {
        self.handle_presence(connection, is_there, effects);
    }

    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.handle_bytes(connection, bytes, now, effects)
    }

    fn handle_packets_in(
        &mut self,
        connection: ConnectionKey,
        packets: &mut Vec<u8>,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.handle_packets_in(connection, packets, now, effects)
    }

    fn packet_size(&self, connection: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        match self.packet_size(connection, bytes) {
            0 => None,
            size => Some(size),
        }
    }

    fn is_paused(&self, connection: ConnectionKey) -> bool {
        self.is_paused(connection)
    }

    fn handle_closed(&mut self, connection: ConnectionKey, now: Instant, effects: &mut Effects) {
        self.handle_closed(connection, now, effects);
    }

    fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Envelope,
        most: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Envelope> {
        self.handle_envelope(from, envelope, most, now, effects)
    }

    fn handle_command(&mut self, command: Command, now: Instant, effects: &mut Effects) {
        self.handle_command(command, now, effects);
    }

    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        self.handle_timeout(now, effects);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline()
    }

    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.take_output(connection, buffer);
    }

    fn output_size(&self, connection: ConnectionKey) -> usize {
        Shard::output_size(self, connection)
    }

    fn counters(&self) -> Option<&Counters> {
        Some(Shard::counters(self))
    }

    fn take_last_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.take_last_output(connection, buffer);
    }

    fn handle_unsent(
        &mut self,
        connection: ConnectionKey,
        unsent: usize,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.handle_unsent(connection, unsent, now, effects);
    }

    fn forget(&mut self, connection: ConnectionKey) {
        self.forget(connection);
    }

    fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Envelope> {
        self.outbound(to)
    }

    fn set_ring_room(&mut self, to: ShardId, room: usize) {
        self.set_ring_room(to, room);
    }

    fn handle_ring_room(&mut self, effects: &mut Effects) {
        self.handle_ring_room(effects);
    }

    fn show(&self, snapshot: &mut Snapshot) {
        self.show(snapshot);
    }

    fn talkers(&mut self, now: Instant) -> Talkers {
        self.talkers(now)
    }

    fn handle_stopping(&mut self, now: Instant, effects: &mut Effects) {
        self.handle_stopping(now, effects);
    }

    fn handle_shutdown(&mut self, now: Instant, effects: &mut Effects) {
        self.handle_shutdown(now, effects);
    }
}
