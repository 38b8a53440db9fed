//! Large packets, received straight into the buffer in which they are put together.
//!
//! A buffer of the ring holds a part of a large packet, so such a packet would be copied once more to be whole, and
//! what circulates would be out of the cache when it is. So the socket of somebody who is seen to send large ones
//! is polled, and read here: the first read asks for as much as the last large packet had, which is all of it
//! while they have one size, the next ones for what is missing. Whoever sends small ones again is received from as
//! everybody is.
//!
//! As long as reads get all that they ask for there is more than the shard keeps up with, and they ask for more packets
//! each time, if the core can pass on several in one buffer: then they leave in one send, which wakes whoever reads
//! them once. Of what a large packet takes that is much.

use super::connection::State;
use super::core::Core;
use super::data_path::{DataPath, consume};
use super::pace::SLICE_SIZE;
use crate::key::ConnectionKey;
use crate::shard::Kept;
use socket2::SockRef;
use std::io::{self, ErrorKind};

/// Packets of so many bytes are large: they fill two buffers of the ring.
pub(super) const LARGE_MIN: usize = 32 * 1024;
/// Read of a packet at once: what takes some tens of microseconds to be copied.
const READ_MAX: usize = 128 * 1024;
/// Read of several at once, which are whole then.
const RUN_MAX: usize = 512 * 1024;
const RUN_COUNT_MAX: u8 = 16;
/// For so much of a packet there is a buffer before it has arrived, and after that for three times what has: memory that
/// nothing was written to is not there, but a size is easily claimed.
const AHEAD_MAX: usize = 1024 * 1024;
/// So many packets are read one by one after several that had to be copied.
const ALONE: u8 = 16;
/// So many large ones make a difference, until as many small ones have followed. These count at most.
const MANY: u8 = 4;
const COUNT_MAX: u8 = 16;

/// What a peer has sent of large packets.
#[derive(Debug, Default)]
pub(super) struct Large {
    size: u32,
    count: u8,
    /// How many to ask for at once; zero is one.
    at_once: u8,
    /// So many are to be read one by one.
    alone: u8,
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

    /// How many of them to ask for at once.
    pub(super) fn at_once(&self) -> usize {
        let most = RUN_MAX / self.size().max(1);
        usize::from(self.at_once).min(most).max(1)
    }

    /// Learns from a read, which got all that it had asked for or not. So many were whole.
    pub(super) fn learn(&mut self, is_full: bool, packets: usize, kept: Kept) {
        self.at_once = if packets > 1 && kept != Kept::Run {
            self.alone = ALONE;
            1
        } else if self.alone > 0 {
            self.alone -= 1;
            1
        } else if is_full && kept == Kept::Run {
            (2 * self.at_once).clamp(2, RUN_COUNT_MAX)
        } else {
            1
        };
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
        let size = self.core.packet_size(key, &held);
        let (usual, at_once) = connection.large();
        let (size, most) = if at_once > 1 && size.is_none_or(|size| size == usual) {
            (at_once * usual, RUN_MAX)
        } else {
            (size.unwrap_or(usual), READ_MAX)
        };
        let missing = size.saturating_sub(before).max(1);
        let wanted = missing.min(most);
        // For more than is read now, or each read would copy what those before it have read.
        held.reserve(missing.min(AHEAD_MAX.max(3 * before)).max(wanted));
        let spare = &mut held.spare_capacity_mut()[..wanted];
        let socket = connection.socket().map(SockRef::from);
        let received = socket.map(|socket| socket.recv_with_flags(spare, libc::MSG_DONTWAIT));
        match received {
            Some(Ok(received @ 1..)) => {
                // SAFETY: the kernel has written so many bytes of what was spare.
                unsafe { held.set_len(before + received) };
                connection.held = held;
                self.pace.add(received);
                self.handle_straight(slot, key, received == wanted);
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

    /// Gives the core what is whole of what was read, which was all that was asked for or not.
    fn handle_straight(&mut self, slot: u32, key: ConnectionKey, is_full: bool) {
        let connection = self.connections.get(slot);
        let held = connection.held.len();
        let mut whole = 0;
        let mut packets = 0;
        while let Some(size) = self.core.packet_size(key, &connection.held[whole..])
            && size <= held - whole
        {
            connection.count_packet(size);
            packets += 1;
            whole += size;
            if size < LARGE_MIN {
                break;
            }
        }
        let rest = self.core.packet_size(key, &connection.held[whole..]);
        if 0 < whole && whole < held && rest.is_none_or(|size| size <= held - whole) {
            // Perhaps many: no more of them than there is time for.
            return self.resume(key);
        }
        let (core, pool, effects) = (&mut self.core, &mut self.pool, &mut self.effects);
        let mut tail = Vec::new();
        if 0 < whole && whole < held {
            tail = pool.take(LARGE_MIN);
            tail.extend_from_slice(&connection.held[whole..]);
            connection.held.truncate(whole);
        }
        effects.kept = Kept::No;
        consume(core, pool, effects, self.now, connection, &[], SLICE_SIZE);
        connection.learn_of_large(is_full, packets, effects.kept);
        if !tail.is_empty() {
            if connection.held.is_empty() {
                connection.held = tail;
            } else {
                connection.held.extend_from_slice(&tail);
                pool.put(tail);
            }
        }
        self.carry_out_effects();
    }
}

/// Size of the whole large packets that `bytes` begin with.
pub(super) fn large_packets<C: Core>(core: &C, key: ConnectionKey, bytes: &[u8]) -> usize {
    let mut whole = 0;
    while let Some(size) = core.packet_size(key, &bytes[whole..])
        && (LARGE_MIN..=bytes.len() - whole).contains(&size)
    {
        whole += size;
    }
    whole
}

/// Whether a read that failed so may succeed later.
fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
