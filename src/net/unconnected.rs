//! What connections hold before their CONNECT is whole: a little each, and one room of the broker for
//! all that need more.
//!
//! A stranger costs memory for as long as he likes to be one, which is until the CONNECT time-out. Most
//! CONNECTs and handshakes fit into what each connection has for itself. A large Will, a token for a
//! password or a long chain of certificates needs part of the room, and gets all that its packet needs
//! or nothing, so that those who have begun can go on. Others wait in TCP, the newest is read first, and
//! nobody occupies the room for long while others wait: one who sends at once is served though thousands
//! send nothing.
//!
//! The room belongs to the broker and not to a shard, since a CONNECT that waits for its password has
//! moved to another one. It is not touched by anyone who is connected.

#![forbid(unsafe_code)]

use super::connection::State;
use super::core::Core;
use super::data_path::DataPath;
use crate::limits::{
    CONNECT_SIZE_MAX, UNCONNECTED_BYTES_FREE, UNCONNECTED_BYTES_MAX, UNCONNECTED_PATIENCE,
};
use crate::time::Instant;
use std::collections::VecDeque;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

/// Most that is received at once of a connection before its CONNECT.
const RECEIVE_SIZE: usize = 4096;
/// How often those who wait look for what other shards have given back.
const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Waiting connections from which those that are gone are looked for.
const PRUNE_MIN: usize = 64;

/// How many bytes are held together. Clones are the same room.
#[derive(Clone, Debug)]
pub struct Room {
    shared: Arc<Shared>,
    max: usize,
}

// Both are numbers by themselves: nothing is read because of what they say.
#[derive(Debug, Default)]
struct Shared {
    used: AtomicUsize,
    /// Connections that wait for some of it.
    waiting: AtomicUsize,
}

impl Room {
    /// For a broker of so many shards.
    #[must_use]
    pub fn new(shard_count: usize) -> Self {
        Self {
            shared: Arc::default(),
            max: shard_count * UNCONNECTED_BYTES_MAX,
        }
    }

    fn take(&self, size: usize) -> bool {
        let taken = |used: usize| Some(used + size).filter(|&used| used <= self.max);
        let used = &self.shared.used;
        used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken)
            .is_ok()
    }

    pub(super) fn give_back(&self, size: usize) {
        self.shared.used.fetch_sub(size, Ordering::Relaxed);
    }

    /// Whether nobody has any of it, or waits for it.
    #[cfg(all(test, not(loom)))]
    pub(super) fn is_free(&self) -> bool {
        self.shared.used.load(Ordering::Relaxed) == 0 && !self.is_waited_for()
    }

    fn is_waited_for(&self) -> bool {
        self.shared.waiting.load(Ordering::Relaxed) > 0
    }
}

/// A shard's connections that hold part of the room, or wait for it.
#[derive(Debug)]
pub(super) struct Unconnected {
    pub(super) room: Room,
    /// Bytes of it that this shard's connections have.
    pub(super) held: usize,
    /// Oldest first: when to look at it, slot and generation. Some may be over.
    holders: VecDeque<(Instant, u32, u32)>,
    /// Oldest first. Slot and generation. Some may be gone.
    waiting: Vec<(u32, u32)>,
    /// Size of `waiting` at which to look for those.
    prune_at: usize,
    /// When to let those who wait try again.
    look_at: Instant,
}

impl Unconnected {
    pub(super) fn new(room: Room, now: Instant) -> Self {
        Self {
            room,
            held: 0,
            holders: VecDeque::new(),
            waiting: Vec::new(),
            prune_at: PRUNE_MIN,
            look_at: now,
        }
    }

    /// When [`DataPath::handle_unconnected`] wants to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let look = (!self.waiting.is_empty()).then_some(self.look_at);
        let holder = self.holders.front().map(|&(at, ..)| at);
        look.into_iter().chain(holder).min()
    }
}

impl<C: Core> DataPath<C> {
    /// How much may be received next of a connection before its CONNECT. `None` if it has to wait for
    /// room, and will be settled again when there is some.
    pub(super) fn receive_first(&mut self, slot: u32) -> Option<NonZeroU32> {
        let connection = self.connections.get(slot);
        let held = connection.held_size();
        if let Some(free) = UNCONNECTED_BYTES_FREE
            .checked_sub(held)
            .filter(|&it| it > 0)
        {
            self.charge(slot, 0);
            return NonZeroU32::new(free.min(RECEIVE_SIZE) as u32);
        }
        let begun = connection.key.filter(|_| !connection.held.is_empty());
        let packet_size = begun.and_then(|key| self.core.packet_size(key, &connection.held));
        let by_transport = connection.transport.as_ref().map_or(0, |it| {
            let is_pending = connection.state.has(State::PENDING);
            // What its packet needs is not known before it begins.
            let unknown = packet_size.is_none() && !is_pending;
            it.held_max() + if unknown { CONNECT_SIZE_MAX } else { 0 }
        });
        let packet_size = packet_size.unwrap_or(0);
        // What has been promised once stays, so that nobody who has begun waits for others who have.
        let size = packet_size.max(connection.held.len()) + by_transport + RECEIVE_SIZE;
        let size = size.max(connection.charged() as usize);
        if !self.charge(slot, size) {
            self.wait(slot);
            return None;
        }
        let connection = self.connections.get(slot);
        let missing = packet_size.saturating_sub(connection.held.len());
        connection.held.reserve_exact(missing);
        NonZeroU32::new(RECEIVE_SIZE as u32)
    }

    /// Lets a connection have `size` bytes of the room, instead of what it has. Tells whether it does.
    pub(super) fn charge(&mut self, slot: u32, size: usize) -> bool {
        let generation = self.connections.generation(slot);
        let connection = self.connections.get(slot);
        let had = connection.charged() as usize;
        let unconnected = &mut self.unconnected;
        if size > had {
            // A shard takes no more than its share, or one could keep the others out for ever. (What
            // is handed over to it may be more.)
            let has_share = unconnected.held - had + size <= UNCONNECTED_BYTES_MAX;
            if !has_share || !unconnected.room.take(size - had) {
                return false;
            }
            if had == 0 {
                let deadline = self.now + UNCONNECTED_PATIENCE;
                unconnected.holders.push_back((deadline, slot, generation));
            }
        } else if size < had {
            unconnected.room.give_back(had - size);
            // Those who wait here need not wait for their next look.
            unconnected.look_at = self.now;
        }
        unconnected.held = unconnected.held - had + size;
        if size != had {
            connection.set_charged(size as u32);
        }
        true
    }

    fn wait(&mut self, slot: u32) {
        let generation = self.connections.generation(slot);
        let state = &mut self.connections.get(slot).state;
        if state.has(State::WAITING) {
            return;
        }
        state.set(State::WAITING);
        let unconnected = &mut self.unconnected;
        unconnected
            .room
            .shared
            .waiting
            .fetch_add(1, Ordering::Relaxed);
        if unconnected.waiting.is_empty() {
            unconnected.look_at = self.now + LOOK_EVERY;
        }
        unconnected.waiting.push((slot, generation));
        self.counters.waited_before_connect += 1;
        if unconnected.waiting.len() >= unconnected.prune_at {
            let connections = &mut self.connections;
            unconnected.waiting.retain(|&(slot, generation)| {
                connections.generation(slot) == generation
                    && connections.get(slot).state.has(State::WAITING)
            });
            unconnected.prune_at = (unconnected.waiting.len() * 2).max(PRUNE_MIN);
        }
    }

    /// A connection does not wait for room any more, whatever became of it.
    pub(super) fn end_waiting(&mut self, slot: u32) {
        let state = &mut self.connections.get(slot).state;
        if state.has(State::WAITING) {
            state.clear(State::WAITING);
            let waiting = &self.unconnected.room.shared.waiting;
            waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Reads those for whom there is room now, and lets go of those who had theirs for too long.
    pub(super) fn handle_unconnected(&mut self) {
        while let Some(&(at, slot, generation)) = self.unconnected.holders.front() {
            if at > self.now {
                break;
            }
            self.unconnected.holders.pop_front();
            if self.connections.generation(slot) != generation {
                continue;
            }
            let connection = self.connections.get(slot);
            if connection.charged() == 0 {
                continue;
            }
            // One whose password is being checked has done its part.
            let is_idle = connection.key.is_some() && !connection.state.has(State::PAUSED);
            if is_idle && self.unconnected.room.is_waited_for() {
                self.counters.refused_held_too_much += 1;
                self.let_go(slot);
            } else {
                let deadline = self.now + UNCONNECTED_PATIENCE;
                let again = (deadline, slot, generation);
                self.unconnected.holders.push_back(again);
            }
        }
        if self.unconnected.waiting.is_empty() || self.unconnected.look_at > self.now {
            return;
        }
        while let Some((slot, generation)) = self.unconnected.waiting.pop() {
            if self.connections.generation(slot) != generation
                || !self.connections.get(slot).state.has(State::WAITING)
            {
                continue;
            }
            self.settle(slot);
            if self.connections.generation(slot) == generation
                && self.connections.get(slot).state.has(State::WAITING)
            {
                self.unconnected.waiting.push((slot, generation));
                break;
            }
        }
        self.unconnected.look_at = self.now + LOOK_EVERY;
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_room_has_so_much_for_each_shard_and_not_a_byte_more() {
        let room = Room::new(2);
        let other = room.clone();
        assert!(room.take(2 * UNCONNECTED_BYTES_MAX - 1));
        assert!(!other.take(2));
        assert!(other.take(1));
        other.give_back(5);
        assert!(!room.take(6) && room.take(5));
    }
}
