//! The table of sockets: what is under way on each, and what it could not take yet.

#![forbid(unsafe_code)]

use super::backlog::Backlog;
use super::buffer_pool::BufferPool;
use super::straight::Large;
use super::transport::Transport;
use super::uring::{Operation, Token};
use crate::chunks::Chunks;
use crate::key::ConnectionKey;
use crate::origin::Origin;
use crate::shard::Kept;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};

/// A connection on its way from the shard that accepted it to the shard that owns it.
#[derive(Debug)]
pub struct Adopted {
    /// The socket; nothing is under way on it.
    pub socket: OwnedFd,
    /// What was received, from the first byte of CONNECT on.
    pub bytes: Vec<u8>,
    /// Where it comes from.
    pub origin: Origin,
    /// Bytes it has of what all connections may hold before their CONNECT.
    pub(super) charged: u32,
    /// What it is wrapped in, with its keys and whatever is half received.
    pub(super) transport: Option<Box<Transport>>,
}

/// What is true of a connection, one bit each.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct State(u32);

impl State {
    /// A receive is under way: its last completion has not been seen.
    pub(super) const RECEIVING: Self = Self(1 << 0);
    /// That receive has been cancelled.
    pub(super) const CANCELLED: Self = Self(1 << 1);
    /// A poll for room in the socket is under way, or the connection is still being made: both end
    /// with the socket able to send.
    pub(super) const POLLING: Self = Self(1 << 2);
    /// `unsent` is not empty.
    pub(super) const BLOCKED: Self = Self(1 << 3);
    /// More output came while blocked.
    pub(super) const DIRTY: Self = Self(1 << 4);
    /// Consumed a packet here, so it will not be handed over any more: receives until told otherwise.
    pub(super) const SETTLED: Self = Self(1 << 5);
    /// The core does not want more of it for now.
    pub(super) const PAUSED: Self = Self(1 << 6);
    /// The core has done with it. What is unsent is sent, what arrives is discarded.
    pub(super) const CLOSING: Self = Self(1 << 7);
    /// Everything was sent and the peer has been told that nothing will follow.
    pub(super) const SHUT: Self = Self(1 << 8);
    /// The peer will send nothing more.
    pub(super) const ENDED: Self = Self(1 << 9);
    /// The socket is useless: it is closed once nothing is under way on it.
    pub(super) const BROKEN: Self = Self(1 << 10);
    /// The core holds a buffer with capacity for its output.
    pub(super) const WARM: Self = Self(1 << 11);
    /// That buffer was used since somebody last looked.
    pub(super) const USED: Self = Self(1 << 12);
    /// Its last output was large.
    pub(super) const LARGE: Self = Self(1 << 13);
    /// A send is under way, until the end of this turn. There is one at a time: what follows it waits.
    pub(super) const SENDING: Self = Self(1 << 14);
    /// The socket has failed: nothing can be sent either.
    pub(super) const FAILED: Self = Self(1 << 15);
    /// The handshakes of its transport are not over: it is one of its listener's pending ones.
    pub(super) const PENDING: Self = Self(1 << 16);
    /// What it sent in a handshake waits until it is its turn to cost something.
    pub(super) const DEFERRED: Self = Self(1 << 17);
    /// Its transport has come to an end, though the socket has not.
    pub(super) const OVER: Self = Self(1 << 18);
    /// While closing: the socket took something since somebody last looked.
    pub(super) const PROGRESSED: Self = Self(1 << 19);
    /// Before its CONNECT, and not read until others hold less.
    pub(super) const WAITING: Self = Self(1 << 20);
    /// Its peer has said that it sends nothing more, whenever its socket says so.
    pub(super) const LEFT: Self = Self(1 << 21);
    /// Its peer sends large packets: the socket is polled, and read straight into `held`.
    pub(super) const STRAIGHT: Self = Self(1 << 22);
    /// What counts as its receive is such a poll.
    pub(super) const POLLED: Self = Self(1 << 23);
    /// What it last received was much.
    pub(super) const BULK: Self = Self(1 << 24);
    /// It has received something since it last began to.
    pub(super) const FED: Self = Self(1 << 25);

    #[inline]
    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    #[inline]
    pub(super) const fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }

    #[inline]
    pub(super) const fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }

    pub(super) const fn or(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// One socket.
#[derive(Debug, Default)]
pub(super) struct Connection {
    socket: Option<OwnedFd>,
    generation: u32,
    pub(super) state: State,
    /// What the core calls it, until it is handed over or dead there.
    pub(super) key: Option<ConnectionKey>,
    /// Received and not consumed: the start of a packet, or anything while paused.
    pub(super) held: Vec<u8>,
    /// What most connections do not have.
    rare: Option<Box<Rare>>,
    /// What is between the socket and the core, if anything is.
    pub(super) transport: Option<Box<Transport>>,
}

// A million idle connections should cost less than the kernel needs for ten thousand of them.
const _: () = assert!(size_of::<Connection>() <= 64);

/// What few connections have, or have for a short time.
#[derive(Debug, Default)]
struct Rare {
    /// Taken from the core and not accepted by the socket, from `offset` on.
    unsent: Vec<u8>,
    offset: usize,
    /// Taken from the core as well, to be sent after that, and wrapped then.
    backlog: Option<Box<Backlog>>,
    /// The transport's good-bye comes behind the backlog.
    is_last: bool,
    /// Bytes it has of what all connections may hold before their CONNECT.
    charged: u32,
    /// The listening socket that it was accepted from, if it is wrapped in something.
    listener: u32,
    /// What its peer has sent of large packets.
    large: Large,
}

impl Connection {
    /// The socket's descriptor.
    ///
    /// # Panics
    /// If the slot is free.
    #[inline]
    pub(super) fn fd(&self) -> RawFd {
        match &self.socket {
            Some(socket) => socket.as_raw_fd(),
            None => panic!("a free slot of the connection table has no socket"),
        }
    }

    /// The socket.
    pub(super) fn socket(&self) -> Option<&OwnedFd> {
        self.socket.as_ref()
    }

    /// Whether the peer has not closed yet, whatever is still to be received of it.
    pub(super) fn has_peer(&self) -> bool {
        let Some(socket) = self.socket() else {
            return false;
        };
        let mut polled = [PollFd::new(socket, PollFlags::RDHUP)];
        let at_once = Timespec::default();
        // What cannot be asked is taken for there: then the CONNECT that comes last counts, as ever.
        !matches!(poll(&mut polled, Some(&at_once)), Ok(1..))
    }

    /// Appends the core's last output to what is unsent, and the transport's good-bye.
    pub(super) fn append_last(&mut self, output: &[u8]) {
        if output.is_empty() && self.transport.is_none() {
            return;
        }
        let rare = self.rare.get_or_insert_default();
        match (&mut rare.backlog, &mut self.transport) {
            (Some(backlog), transport) => {
                backlog.push_last(output);
                rare.is_last = transport.is_some();
            }
            (None, None) => rare.unsent.extend_from_slice(output),
            // A transport that cannot carry it any more is closed all the same.
            (None, Some(transport)) => {
                transport.wrap(output, &mut rare.unsent);
                transport.close(&mut rare.unsent);
            }
        }
    }

    /// Keeps what the socket has not accepted of `bytes`, from `offset` on.
    pub(super) fn keep_unsent(&mut self, mut bytes: Vec<u8>, offset: usize) {
        let rare = self.rare.get_or_insert_default();
        // What became unsent in the same turn, such as the last words of a connection.
        bytes.extend_from_slice(&rare.unsent);
        rare.unsent = bytes;
        rare.offset = offset;
    }

    /// Keeps output that can only be sent after what is unsent.
    pub(super) fn keep_behind(&mut self, bytes: Vec<u8>, pool: &mut BufferPool) {
        let rare = self.rare.get_or_insert_default();
        rare.backlog.get_or_insert_default().push(bytes, pool);
    }

    /// Whether there is some of that.
    #[inline]
    pub(super) fn has_backlog(&self) -> bool {
        self.backlog_size() > 0
    }

    /// Bytes of it.
    #[inline]
    pub(super) fn backlog_size(&self) -> usize {
        let backlog = self.rare.as_ref().and_then(|rare| rare.backlog.as_ref());
        backlog.map_or(0, |backlog| backlog.size())
    }

    /// Takes out the oldest piece of it, wrapped; empty if there is none. `None` if the transport cannot carry it any
    /// more.
    pub(super) fn take_piece(&mut self, pool: &mut BufferPool) -> Option<Vec<u8>> {
        let Some(rare) = &mut self.rare else {
            return Some(Vec::new());
        };
        let Some(piece) = rare.backlog.as_mut().and_then(|backlog| backlog.pop()) else {
            return Some(Vec::new());
        };
        rare.backlog.take_if(|backlog| backlog.size() == 0);
        let is_end = rare.is_last && rare.backlog.is_none();
        let mut wrapped = self.wrap(piece, pool)?;
        if let Some(transport) = &mut self.transport
            && is_end
        {
            transport.close(&mut wrapped);
        }
        Some(wrapped)
    }

    /// Output as it is to be sent. `None` if the transport cannot carry it any more: its keys are used up.
    pub(super) fn wrap(&mut self, plain: Vec<u8>, pool: &mut BufferPool) -> Option<Vec<u8>> {
        let Some(transport) = &mut self.transport else {
            return Some(plain);
        };
        let mut wrapped = pool.take(plain.len());
        let is_carried = transport.wrap(&plain, &mut wrapped);
        pool.put(plain);
        is_carried.then_some(wrapped)
    }

    /// Takes out what is to be sent next, and where in it that begins. `None` if the transport cannot carry it any
    /// more.
    pub(super) fn take_unsent(&mut self, pool: &mut BufferPool) -> Option<(Vec<u8>, usize)> {
        match &mut self.rare {
            // The rest of it may come back: [`Connection::tidy_rare`] is for when it has not.
            Some(rare) if !rare.unsent.is_empty() => Some((
                std::mem::take(&mut rare.unsent),
                std::mem::take(&mut rare.offset),
            )),
            _ => self.take_piece(pool).map(|piece| (piece, 0)),
        }
    }

    /// Gives up what is unsent.
    pub(super) fn discard_unsent(&mut self, pool: &mut BufferPool) {
        if let Some(rare) = &mut self.rare {
            rare.offset = 0;
            pool.put(std::mem::take(&mut rare.unsent));
            for piece in rare
                .backlog
                .take()
                .into_iter()
                .flat_map(|it| it.into_pieces())
            {
                pool.put(piece);
            }
        }
    }

    /// Bytes it has of what all connections may hold before their CONNECT.
    pub(super) fn charged(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.charged)
    }

    pub(super) fn set_charged(&mut self, charged: u32) {
        if charged > 0 {
            self.rare.get_or_insert_default().charged = charged;
        } else if let Some(rare) = &mut self.rare {
            rare.charged = 0;
            self.tidy_rare();
        }
    }

    /// The listening socket that it was accepted from, if it is wrapped in something.
    pub(super) fn listener(&self) -> u32 {
        self.rare.as_ref().map_or(0, |rare| rare.listener)
    }

    pub(super) fn set_listener(&mut self, listener: u32) {
        self.rare.get_or_insert_default().listener = listener;
    }

    /// Gives up the memory of what it has no longer.
    pub(super) fn tidy_rare(&mut self) {
        let is_wrapped = self.transport.is_some();
        self.rare.take_if(|rare| {
            !is_wrapped
                && rare.charged == 0
                && rare.unsent.is_empty()
                && rare.backlog.is_none()
                && rare.large.are_none()
        });
    }

    /// A packet of that size has arrived. Of small ones only those need to be told that were received straight.
    #[cold]
    pub(super) fn count_packet(&mut self, size: usize) {
        // What unwraps it reads it from the kernel's buffers.
        if self.transport.is_some() {
            return;
        }
        let large = &mut self.rare.get_or_insert_default().large;
        large.count(size);
        if large.are_many() {
            self.state.set(State::STRAIGHT);
        } else if large.are_none() {
            self.state.clear(State::STRAIGHT);
            self.tidy_rare();
        }
    }

    /// Size of its last large packet, and how many of these to ask for at once.
    pub(super) fn large(&self) -> (usize, usize) {
        self.rare
            .as_ref()
            .map_or((0, 1), |rare| (rare.large.size(), rare.large.at_once()))
    }

    /// Something was read of large packets.
    pub(super) fn learn_of_large(&mut self, is_full: bool, packets: usize, kept: Kept) {
        if let Some(rare) = &mut self.rare {
            rare.large.learn(is_full, packets, kept);
        }
    }

    /// Bytes held of what the peer has sent.
    pub(super) fn held_size(&self) -> usize {
        let by_transport = self.transport.as_ref().map_or(0, |it| it.held_size());
        self.held.len() + by_transport
    }

    /// Bytes taken from the core that the socket has not accepted.
    pub(super) fn unsent_size(&self) -> usize {
        let rare = self.rare.as_ref();
        rare.map_or(0, |rare| rare.unsent.len() - rare.offset) + self.backlog_size()
    }
}

/// All sockets of a shard.
#[derive(Debug, Default)]
pub(super) struct Connections {
    slots: Chunks<Connection>,
    free: Vec<u32>,
    /// Slot of the connection that the core calls by this index.
    slots_by_key: Chunks<u32>,
}

/// No slot.
const NONE: u32 = u32::MAX;

impl Connections {
    pub(super) fn insert(&mut self, socket: OwnedFd, key: ConnectionKey) -> u32 {
        let free = self.free.pop();
        let slot = free.unwrap_or_else(|| self.slots.push(Connection::default));
        let connection = self.get(slot);
        connection.socket = Some(socket);
        connection.key = Some(key);
        *self.slots_by_key.grow_to(key.index, || NONE) = slot;
        slot
    }

    /// Takes the socket out and frees the slot.
    ///
    /// Nothing may be under way on it. Does nothing to a slot that is free.
    pub(super) fn remove(&mut self, slot: u32) -> Option<OwnedFd> {
        let connection = self.get(slot);
        let socket = connection.socket.take()?;
        debug_assert!(!connection.state.has(State::RECEIVING.or(State::POLLING)));
        *connection = Connection {
            generation: connection.generation.wrapping_add(1),
            ..Connection::default()
        };
        self.free.push(slot);
        Some(socket)
    }

    /// The connection in `slot`.
    ///
    /// # Panics
    /// If there is no such slot.
    #[inline]
    pub(super) fn get(&mut self, slot: u32) -> &mut Connection {
        self.slots.get_mut(slot).expect("a slot of the table")
    }

    /// The slot of the connection that the core calls `key`.
    #[inline]
    pub(super) fn find(&self, key: ConnectionKey) -> Option<u32> {
        let slot = *self.slots_by_key.get(key.index)?;
        let connection = self.slots.get(slot)?;
        (connection.key == Some(key)).then_some(slot)
    }

    /// The slot that `token` was made for, if that connection is still there.
    #[inline]
    pub(super) fn find_token(&self, token: Token) -> Option<u32> {
        let connection = self.slots.get(token.index)?;
        (connection.socket.is_some()
            && connection.generation & Token::GENERATION_MASK == token.generation)
            .then_some(token.index)
    }

    /// What to mark `operation` on `slot` with.
    #[inline]
    pub(super) fn token(&self, operation: Operation, slot: u32) -> Token {
        Token::new(operation, slot, self.generation(slot))
    }

    /// The generation of `slot`, for a list that outlives connections.
    pub(super) fn generation(&self, slot: u32) -> u32 {
        self.slots
            .get(slot)
            .map_or(0, |connection| connection.generation)
    }

    /// Slots in use.
    pub(super) fn count(&self) -> usize {
        self.slots.len() - self.free.len()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn socket() -> OwnedFd {
        std::net::UdpSocket::bind("127.0.0.1:0").unwrap().into()
    }

    fn key(index: u32, generation: u32) -> ConnectionKey {
        ConnectionKey { index, generation }
    }

    #[test]
    fn keys_and_tokens_of_a_freed_slot_find_nothing() {
        let mut connections = Connections::default();
        let slot = connections.insert(socket(), key(5, 0));
        let token = connections.token(Operation::Receive, slot);
        assert_eq!(connections.find(key(5, 0)), Some(slot));
        assert_eq!(connections.find_token(token), Some(slot));
        assert!(connections.remove(slot).is_some());
        assert!(connections.remove(slot).is_none());
        assert_eq!(connections.find(key(5, 0)), None);
        assert_eq!(connections.find_token(token), None);

        // The core uses its index again, the table its slot.
        assert_eq!(connections.insert(socket(), key(5, 1)), slot);
        assert_eq!(connections.find(key(5, 0)), None);
        assert_eq!(connections.find(key(5, 1)), Some(slot));
        assert_eq!(connections.find_token(token), None);
        assert_eq!(connections.find(key(900, 0)), None);
        assert_eq!(connections.count(), 1);
    }

    #[test]
    fn a_core_index_may_move_to_another_slot_while_the_old_one_lingers() {
        let mut connections = Connections::default();
        let old = connections.insert(socket(), key(0, 0));
        connections.get(old).key = None;
        let new = connections.insert(socket(), key(0, 1));
        assert_ne!(old, new);
        assert_eq!(connections.find(key(0, 1)), Some(new));
        assert_eq!(connections.find(key(0, 0)), None);
    }
}
