//! Large packets, received straight into the buffer in which they are put together.
//!
//! A buffer of the ring holds a part of a large packet, so such a packet would be copied once more to be whole, and
//! what circulates would be out of the cache when it is. So the socket of somebody who is seen to send large ones
//! is polled, and read here: the first read asks for as much as the last large packet had, which is all of it
//! while they have one size, the next ones for what is missing. Whoever sends small ones again is received from as
//! everybody is.

use super::connection::State;
use super::core::Core;
use super::data_path::{DataPath, consume};
use super::pace::SLICE_SIZE;
use crate::key::ConnectionKey;
use socket2::SockRef;
use std::io::{self, ErrorKind};

/// Packets of so many bytes are large: they fill two buffers of the ring.
pub(super) const LARGE_MIN: usize = 32 * 1024;
/// Read at once: what takes some tens of microseconds to be copied.
const READ_MAX: usize = 128 * 1024;
/// So many large ones make a difference, until as many small ones have followed. These count at most.
const MANY: u8 = 4;
const COUNT_MAX: u8 = 16;

/// What a peer has sent of large packets.
#[derive(Debug, Default)]
pub(super) struct Large {
    size: u32,
    count: u8,
}

impl Large {
    /// One more packet, of that size.
    pub(super) fn count(&mut self, size: usize) {
        if size < LARGE_MIN {
            self.count = self.count.saturating_sub(1);
        } else {
            self.size = u32::try_from(size).unwrap_or(u32::MAX);
            self.count = (self.count + 1).min(COUNT_MAX);
        }
    }

    pub(super) const fn are_many(&self) -> bool {
        self.count >= MANY
    }

    pub(super) const fn are_none(&self) -> bool {
        self.count == 0
    }

    /// Size of the last one.
    pub(super) const fn size(&self) -> usize {
        self.size as usize
    }
}

impl<C: Core> DataPath<C> {
    /// Reads once from a socket that is said to have something, and gives the core what is whole.
    pub(super) fn receive_straight(&mut self, slot: u32) {
        let connection = self.connections.get(slot);
        let Some(key) = connection.key else {
            return; // Closing: what arrives is discarded, by another receive.
        };
        if connection.state.has(State::PAUSED) {
            return;
        }
        let mut held = std::mem::take(&mut connection.held);
        if held.is_empty() {
            held = self.pool.take(LARGE_MIN);
        }
        let before = held.len();
        let known = self.core.packet_size(key, &held);
        let size = known.unwrap_or_else(|| connection.large_size());
        let wanted = size.saturating_sub(before).clamp(1, READ_MAX);
        held.reserve(wanted);
        let spare = &mut held.spare_capacity_mut()[..wanted];
        let socket = connection.socket().map(SockRef::from);
        let received = socket.map(|socket| socket.recv_with_flags(spare, libc::MSG_DONTWAIT));
        match received {
            Some(Ok(received @ 1..)) => {
                // SAFETY: the kernel has written so many bytes of what was spare.
                unsafe { held.set_len(before + received) };
                connection.held = held;
                self.pace.add(received);
                self.handle_straight(slot, key);
                return;
            }
            Some(Ok(0)) => connection.state.set(State::ENDED),
            Some(Err(error)) if is_passing(&error) => {}
            _ => connection.state.set(State::ENDED.or(State::FAILED)),
        }
        if before > 0 {
            connection.held = held;
        } else {
            self.pool.put(held);
        }
    }

    /// Gives the core what is whole of what was read.
    fn handle_straight(&mut self, slot: u32, key: ConnectionKey) {
        let connection = self.connections.get(slot);
        let held = connection.held.len();
        let size = self.core.packet_size(key, &connection.held);
        if let Some(size) = size
            && size <= held
        {
            connection.count_packet(size);
        }
        if size.is_some_and(|size| size < held) {
            // Perhaps many: no more of them than there is time for.
            self.resume(key);
        } else {
            let (core, pool, effects) = (&mut self.core, &mut self.pool, &mut self.effects);
            consume(core, pool, effects, self.now, connection, &[], SLICE_SIZE);
            self.carry_out_effects();
        }
    }
}

/// Whether a read that failed so may succeed later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
