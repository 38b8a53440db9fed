//! One shard's sockets, from completions to the core and from its output to sends.
//!
//! The runtime drives it in turns: [`DataPath::flush`] queues one send for each connection that has
//! output, as far as the turn has time for that, [`DataPath::enter`] hands everything that was queued
//! to the kernel in one system call and waits, [`DataPath::handle_completions`] passes what arrived to
//! the core. Draining first and sending once is worth more than any interface: what ten packets caused
//! leaves in one send.

use super::buffer_pool::{BufferPool, SMALL_MAX};
use super::buffer_ring::BUFFER_SIZE;
use super::connection::{Adopted, Connection, Connections, State};
use super::core::Core;
use super::listener::{ListenerChange, ShardListener};
use super::pace::{BATCH_SIZE_MAX, BULK_SEND_MIN, EVENT_WEIGHT, Pace, SENDS_MANY, SLICE_SIZE};
use super::straight::{LARGE_MIN, large_packets};
use super::transport::{Transport, Wrapping};
use super::unconnected::{Room, Unconnected};
use super::uring::{Operation, Report, RingHandle, Token, Uring};
use super::waker::Waker;
use super::wrapped::{Handshakes, Pending};
use crate::key::{ConnectionKey, ShardId};
use crate::limits::{FILES_RESERVED_MAX, FILES_RESERVED_SHARE};
use crate::metrics::Counters;
use crate::origin::{ListenerId, Origin, PeerAddress};
use crate::shard::{Command, Effects, HandOver, Kept, Notice};
use crate::time::Instant;
use io_uring::cqueue;
use rustix::process::{Resource, getrlimit};
use socket2::{Domain, Protocol, SockAddr, SockRef, Socket, Type};
use std::collections::VecDeque;
use std::io;
use std::net::{Shutdown, SocketAddr};
use std::num::NonZeroU32;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::sync::Arc;
use std::time::Duration;

/// From the core's wish to close until the socket is closed whatever the peer does: for what is
/// unsent to leave, and for the peer to read it. Closing while the peer still sends would answer with
/// a reset, which takes the last packet away from a peer that has not read it yet.
pub(super) const CLOSE_LINGER: Duration = Duration::from_secs(2);
/// Connections closed in one turn because of that; each is a system call. The next one goes on at once.
const ABANDONED_A_TURN: usize = 32;
/// Closing connections for which there is always room.
const CLOSING_ROOM: usize = 256;
/// How long accepting rests when the process or the system has no file descriptor left.
const ACCEPT_REST: Duration = Duration::from_millis(250);
/// At most one log line in this time about accepting.
const ACCEPT_LOG_EVERY: Duration = Duration::from_secs(10);
/// How often output buffers are taken from connections that no longer use them.
const COOL_DOWN_EVERY: Duration = Duration::from_secs(1);
/// Connections that are looked at for that in one turn, and how long the next ones wait: with thousands of
/// them all at once would be a pause for everybody.
const COOL_DOWN_STEP: usize = 128;
const COOL_DOWN_PAUSE: Duration = Duration::from_millis(1);

/// A send whose bytes the kernel may still read: it ends within the next `enter`.
#[derive(Debug)]
struct Send {
    slot: u32,
    /// What the completion said; without one, all was sent.
    result: Option<i32>,
    bytes: Vec<u8>,
    offset: usize,
}

/// Something to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Next {
    /// In the core, or behind what was unsent.
    New(ConnectionKey),
    /// Unsent, of the connection in this slot, whose socket has room for it.
    Unsent(u32),
}

/// Whose output is sent next.
#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Who has something new.
    New,
    Late,
    Bulk,
}

/// What a receive takes that is for one buffer only.
const ONE_BUFFER: NonZeroU32 = NonZeroU32::new(BUFFER_SIZE as u32).unwrap();

/// A send of much takes as long as so many others, or longer.
const BULK_SENDS: usize = 8;

/// Who has so much to say at once has more, as a rule.
const BULK_MIN: usize = BUFFER_SIZE / 2;

/// One listening socket. Its place in the list is its name to the kernel, so it stays there.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) id: ListenerId,
    wrapping: Arc<Wrapping>,
    pub(super) pending: Pending,
    socket: Option<OwnedFd>,
    /// Accepting rests until then.
    rests_until: Option<Instant>,
    /// When a connection that a transport refused was last in the log, and how many were left out since.
    pub(super) failure_logged_at: Option<Instant>,
    pub(super) failures_unsaid: u64,
}

/// Connections whose receive found no buffer, in the order in which they go on.
#[derive(Debug, Default)]
struct Hungry {
    /// Had little to say last time.
    quiet: Vec<Token>,
    /// Have not received anything since they began to.
    starved: Vec<Token>,
    fed: Vec<Token>,
}

impl Hungry {
    const fn is_empty(&self) -> bool {
        self.quiet.is_empty() && self.starved.is_empty() && self.fed.is_empty()
    }
}

/// The sockets of one shard and the core that they feed.
pub struct DataPath<C: Core> {
    pub(super) core: C,
    pub(super) uring: Uring,
    /// By which threads without a ring end a wait.
    waker: Waker,
    pub(super) connections: Connections,
    pub(super) pool: BufferPool,
    pub(super) effects: Effects,
    /// The time of this turn.
    pub(super) now: Instant,
    pub(super) listeners: Vec<Listener>,
    accept_logged_at: Option<Instant>,
    /// The first file descriptor that is not for Clients.
    reserved_from: RawFd,
    /// What the kernel has completed and the shard has not handled, from `handled` on.
    completions: Vec<cqueue::Entry>,
    handled: usize,
    /// Empty, to put others before those of one connection.
    postponed: Vec<cqueue::Entry>,
    pub(super) pace: Pace,
    sends: Vec<Send>,
    /// Where this turn's new connections go. Boxed: the kernel reads them in `enter`, and they may
    /// not move until then, though the list grows.
    #[allow(clippy::vec_box)]
    connecting: Vec<Box<SockAddr>>,
    /// Have new output.
    pub(super) dirty: Vec<ConnectionKey>,
    /// Had it in turns before, which had no time to send it.
    pub(super) late: VecDeque<ConnectionKey>,
    /// Have much to be sent, and are sent some of it by turns: what is small, or new, does not wait for all of them.
    pub(super) bulk: VecDeque<Next>,
    pub(super) handshakes: Handshakes,
    /// Zero but for those of what happens here.
    pub(super) counters: Counters,
    pub(super) unconnected: Unconnected,
    /// Can send what they hold unsent, or finish closing.
    writable: Vec<u32>,
    /// Are to be read again.
    resumed: Vec<ConnectionKey>,
    /// Have found no buffer to receive into.
    hungry: Hungry,
    handed_over: Vec<(ShardId, Adopted)>,
    /// When to stop waiting for a closing connection; oldest first. Slot and generation.
    pub(super) closing: VecDeque<(Instant, u32, u32)>,
    /// Hold a buffer in the core. Slot and generation.
    warm: VecDeque<(u32, u32)>,
    /// Those at its front that are yet to be looked at this time.
    warm_left: usize,
    cool_down_at: Instant,
    cool_down_next: Instant,
}

impl<C: Core> DataPath<C> {
    /// Sets up the ring and starts to accept. Must be called on the thread that will drive it. All
    /// shards of a broker have the same `room`.
    ///
    /// # Errors
    /// What the kernel said to setting up the ring.
    pub fn new(
        core: C,
        listeners: Vec<ShardListener>,
        waker: Waker,
        room: Room,
        now: Instant,
    ) -> io::Result<Self> {
        let mut path = Self {
            core,
            uring: Uring::new()?,
            waker,
            connections: Connections::default(),
            pool: BufferPool::default(),
            effects: Effects::default(),
            now,
            listeners: Vec::new(),
            accept_logged_at: None,
            reserved_from: reserved_from(open_files_max()),
            completions: Vec::new(),
            handled: 0,
            postponed: Vec::new(),
            pace: Pace::new(),
            sends: Vec::new(),
            connecting: Vec::new(),
            dirty: Vec::new(),
            late: VecDeque::new(),
            bulk: VecDeque::new(),
            handshakes: Handshakes::default(),
            counters: Counters::default(),
            unconnected: Unconnected::new(room, now),
            writable: Vec::new(),
            resumed: Vec::new(),
            hungry: Hungry::default(),
            handed_over: Vec::new(),
            closing: VecDeque::new(),
            warm: VecDeque::new(),
            warm_left: 0,
            cool_down_at: now,
            cool_down_next: now,
        };
        path.uring.poll_wakes(path.waker.raw_fd());
        for listener in listeners {
            path.open_listener(listener);
        }
        Ok(path)
    }

    fn open_listener(&mut self, part: ShardListener) {
        for socket in part.sockets {
            let index = self.listeners.len() as u32;
            self.listeners.push(Listener {
                id: part.id,
                wrapping: part.wrapping.clone(),
                pending: Pending::new(part.pending_max, part.handshake_timeout),
                socket: Some(socket),
                rests_until: None,
                failure_logged_at: None,
                failures_unsaid: 0,
            });
            self.accept(index);
        }
    }

    /// Opens, changes or closes a listener.
    pub fn change_listener(&mut self, change: ListenerChange) {
        match change {
            ListenerChange::Open(part) => self.open_listener(part),
            ListenerChange::Wrap(id, wrapping) => {
                let listeners = self.listeners.iter_mut();
                for listener in listeners.filter(|listener| listener.id == id) {
                    listener.wrapping = wrapping.clone();
                }
            }
            ListenerChange::Close(id) => {
                for index in 0..self.listeners.len() {
                    if self.listeners[index].id == id {
                        self.close_listener(index);
                    }
                }
            }
        }
    }

    fn close_listener(&mut self, index: usize) {
        let listener = &mut self.listeners[index];
        listener.rests_until = None;
        if listener.socket.take().is_some() {
            let accept = Token::new(Operation::Accept, index as u32, 0);
            self.uring
                .cancel(accept, Token::new(Operation::Ignored, 0, 0));
        }
    }

    /// The core, for what the runtime itself asks of it.
    pub fn core_mut(&mut self) -> &mut C {
        &mut self.core
    }

    /// By which peers wake this shard while it waits in [`DataPath::enter`].
    pub fn ring_handle(&self) -> RingHandle {
        self.uring.handle().clone()
    }

    /// Wakes a peer with the next [`DataPath::enter`].
    pub fn wake(&mut self, peer: &RingHandle) {
        self.uring.wake(peer);
    }

    /// Connections that wait to be carried to another shard.
    pub fn handed_over(&mut self) -> impl Iterator<Item = (ShardId, Adopted)> + '_ {
        self.handed_over.drain(..)
    }

    /// Whether there is something to do before waiting for completions makes sense.
    pub fn has_work(&self) -> bool {
        !(self.dirty.is_empty()
            && self.late.is_empty()
            && self.bulk.is_empty()
            && self.writable.is_empty()
            && self.resumed.is_empty()
            && self.handshakes.deferred.is_empty())
            || self.is_behind()
            || self.core.has_work()
    }

    /// When [`DataPath::handle_timeouts`] wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        let rests = self.listeners.iter().filter_map(|l| l.rests_until);
        let handshakes = self.listeners.iter().filter_map(|l| l.pending.deadline());
        let closing = self.closing.front().map(|&(at, ..)| at);
        let cool_down = self.has_to_cool().then_some(self.cool_down_at);
        rests
            .chain(handshakes)
            .chain(self.unconnected.deadline())
            .chain(closing)
            .chain(cool_down)
            .chain(self.core.next_deadline())
            .min()
    }

    // --- one turn ---

    /// Queues one send for every connection that has output and whose socket has room, or sends what the turn has
    /// time for.
    // HOT: per connection and turn.
    pub fn flush(&mut self) {
        self.receive_in_turn();
        while let Some((key, address)) = self.core.next_connect() {
            self.connect(key, address);
        }
        if !self.writable.is_empty() {
            let mut writable = std::mem::take(&mut self.writable);
            for slot in writable.drain(..) {
                if self.connections.get(slot).unsent_size() >= BULK_SEND_MIN {
                    self.bulk.push_back(Next::Unsent(slot));
                } else {
                    self.continue_sending(slot);
                }
            }
            self.writable = writable;
        }
        let mut dirty = std::mem::take(&mut self.dirty);
        let is_late = !self.late.is_empty() || !self.bulk.is_empty();
        let size = match dirty.len() < SENDS_MANY && !is_late {
            true => self.send_few(&mut dirty),
            false => 0,
        };
        if is_late || !dirty.is_empty() {
            self.send_in_time(&mut dirty, size);
        }
        // Nobody is lost who was named meanwhile.
        dirty.append(&mut self.dirty);
        self.dirty = dirty;
        // What was waiting for its turn to be sent waits for the next one.
        self.carry_out_effects();
        self.set_bulk_aside();
    }

    /// Sends to those who have something new, until that is a batch. Its size.
    // HOT: per connection and turn.
    fn send_few(&mut self, dirty: &mut Vec<ConnectionKey>) -> usize {
        let (mut count, mut size) = (0, 0);
        while size < BATCH_SIZE_MAX
            && let Some(&key) = dirty.get(count)
        {
            size += self.send_to(key);
            count += 1;
        }
        dirty.drain(..count);
        size
    }

    /// Sends to those who have something new, to those who are late and to those who have much, by turns, until the time
    /// of the turn is over. A few of each in any case. Who has something new is late then, or one of those who have much.
    /// `sent` bytes have left to the first of those who have something new.
    // HOT: per connection and turn.
    fn send_in_time(&mut self, dirty: &mut Vec<ConnectionKey>, mut sent: usize) {
        let mut dirty = dirty.drain(..);
        let mut looked = std::time::Instant::now();
        let mut put_off = 0;
        loop {
            for kind in [Kind::New, Kind::Late, Kind::Bulk] {
                let waiting = match kind {
                    Kind::New => dirty.len(),
                    Kind::Late => self.late.len(),
                    Kind::Bulk => self.bulk.len(),
                };
                let mut size = std::mem::take(&mut sent);
                for _ in 0..self.pace.batch(waiting, looked) {
                    if size >= BATCH_SIZE_MAX {
                        break;
                    }
                    let next = match kind {
                        Kind::New => dirty.next().map(Next::New),
                        Kind::Late => self.late.pop_front().map(Next::New),
                        Kind::Bulk => self.bulk.pop_front(),
                    };
                    size += match next {
                        Some(Next::New(key)) => self.send_to(key),
                        Some(Next::Unsent(slot)) => self.sized(|this| this.continue_sending(slot)),
                        None => break,
                    };
                }
                if size >= BATCH_SIZE_MAX && matches!(kind, Kind::New) {
                    // Others may have little behind those.
                    put_off += self.put_off_sends(&mut dirty);
                }
                if self.late.is_empty() && self.bulk.is_empty() && dirty.len() == 0 {
                    return;
                }
                looked = self.submit_batch(looked, size);
            }
            if self.pace.time_to_send(looked).is_zero() {
                break;
            }
        }
        put_off += self.put_off_sends(&mut dirty);
        // Of those that were put off some have had their turn by now.
        self.counters.late_sends += put_off.min(self.late.len() + self.bulk.len()) as u64;
    }

    /// Has those who had something new wait, the ones with much and the others by themselves. Returns how many.
    #[cold]
    fn put_off_sends(&mut self, dirty: &mut std::vec::Drain<'_, ConnectionKey>) -> usize {
        let count = dirty.len();
        for key in dirty {
            if self.is_bulk(key) {
                self.bulk.push_back(Next::New(key));
            } else {
                self.late.push_back(key);
            }
        }
        count
    }

    /// Has those with much wait for their turn among each other, who are named because some of it was sent.
    // HOT: per turn.
    #[inline]
    fn set_bulk_aside(&mut self) {
        if !self.dirty.is_empty() {
            let mut dirty = std::mem::take(&mut self.dirty);
            dirty.retain(|&key| {
                let is_bulk = self.is_bulk(key);
                if is_bulk {
                    self.bulk.push_back(Next::New(key));
                }
                !is_bulk
            });
            self.dirty = dirty;
        }
    }

    fn is_bulk(&mut self, key: ConnectionKey) -> bool {
        let slot = self.connections.find(key);
        let behind = slot.map_or(0, |slot| self.connections.get(slot).backlog_size());
        behind + self.core.output_size(key) >= BULK_SEND_MIN
    }

    /// Submits what was queued since `looked`, of this size, and looks at the clock.
    fn submit_batch(&mut self, looked: std::time::Instant, size: usize) -> std::time::Instant {
        let count = self.uring.pending();
        if count == 0 {
            return looked;
        }
        self.uring.submit();
        let now = std::time::Instant::now();
        // Many bytes do not tell what a send takes.
        if size < BATCH_SIZE_MAX {
            self.pace.batch_submitted(count, now - looked);
        }
        now
    }

    /// Submits what this connection has to be sent, if it can be; how much that is.
    // HOT: per connection and turn.
    #[inline]
    fn send_to(&mut self, key: ConnectionKey) -> usize {
        match self.connections.find(key) {
            Some(slot) => self.sized(|this| this.send_output(slot, key)),
            None => 0,
        }
    }

    /// The size of the send that `submit` submits, if it does.
    #[inline]
    fn sized(&mut self, submit: impl FnOnce(&mut Self)) -> usize {
        let before = self.sends.len();
        submit(self);
        let send = self.sends.get(before);
        send.map_or(0, |send| send.bytes.len() - send.offset)
    }

    /// Submits all that was queued. With `wait`, waits that long for something to arrive.
    pub fn enter(&mut self, wait: Option<Duration>) {
        self.uring.enter(u32::from(wait.is_some()), wait);
    }

    /// The same; waits for `many` completions that long, and for one after that.
    pub fn enter_for_many(&mut self, many: u32, for_many: Duration, wait: Duration) {
        self.uring.enter_for_many(many, for_many, wait);
    }

    /// How much the next [`DataPath::enter`] submits.
    pub fn pending(&mut self) -> usize {
        self.uring.pending()
    }

    /// An [`DataPath::enter`] that did not wait submitted so much, and took that long.
    pub fn submitted(&mut self, count: usize, took: Duration) {
        self.pace.submitted(count, took);
    }

    /// A turn began at `start`: [`DataPath::handle_completions`] follows.
    pub fn begin_turn(&mut self, start: std::time::Instant) {
        let late = self.late.len() + self.bulk.len() * BULK_SENDS;
        self.pace.begin_turn(start, self.core.turn_max(), late);
    }

    /// Its next part begins, which has some time of its own.
    pub fn begin_part(&mut self) {
        self.pace.begin_part(self.core.turn_max());
    }

    /// Whether this part of the turn is to end, after one more envelope or the like.
    #[inline]
    pub fn is_part_over(&mut self) -> bool {
        self.pace.is_over(EVENT_WEIGHT)
    }

    /// Whether something has arrived that no turn had time for.
    pub fn is_behind(&self) -> bool {
        !self.completions.is_empty()
    }

    /// Carries out what the kernel has completed, for as long as this part of the turn may take. Returns
    /// how much is new.
    pub fn handle_completions(&mut self, now: Instant) -> usize {
        self.now = now;
        let mut completions = std::mem::take(&mut self.completions);
        let before = completions.len();
        self.uring.reap(&mut completions);
        let count = completions.len() - before;
        if !self.sends.is_empty() {
            self.finish_sends(&completions[before..]);
        }
        while let Some(completion) = completions.get(self.handled) {
            if !self.handle_completion(completion) {
                let index = Token::decode(completion.user_data()).index;
                self.let_others_go_first(index, &mut completions);
                break;
            }
            self.handled += 1;
            self.pace.handled(self.dirty.len() + self.uring.pending());
            let kept = std::mem::take(&mut self.effects.kept);
            if kept != Kept::No || self.is_part_over() {
                break;
            }
        }
        self.uring.buffers_mut().publish();
        self.connecting.clear();
        if self.handled == completions.len() {
            completions.clear();
            self.handled = 0;
        } else if self.handled > completions.len() / 2 {
            completions.drain(..self.handled);
            self.handled = 0;
        }
        self.completions = completions;
        count
    }

    /// What a turn has no time for to its end goes on behind what came from others meanwhile: a burst of one Client keeps
    /// nobody waiting for more than a turn.
    fn let_others_go_first(&mut self, index: u32, completions: &mut Vec<cqueue::Entry>) {
        let mut kept = self.handled;
        for at in self.handled..completions.len() {
            let is_own = Token::decode(completions[at].user_data()).index == index;
            if is_own {
                self.postponed.push(completions[at].clone());
            } else {
                completions.swap(kept, at);
                kept += 1;
            }
        }
        completions.truncate(kept);
        completions.append(&mut self.postponed);
    }

    /// Goes on with a handshake, and reads on where the core had paused and has room again.
    pub fn handle_resumed(&mut self) {
        self.continue_handshakes();
        // What this resumes waits for the next turn: one pass, so that it ends.
        let mut resumed = std::mem::take(&mut self.resumed);
        let mut count = 0;
        for &key in &resumed {
            self.resume(key);
            count += 1;
            if self.pace.is_over(SLICE_SIZE) {
                break;
            }
        }
        resumed.drain(..count);
        resumed.append(&mut self.resumed);
        self.resumed = resumed;
    }

    /// Does what is due at `now`.
    pub fn handle_timeouts(&mut self, now: Instant) {
        self.now = now;
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            self.core.handle_timeout(now, &mut self.effects);
            self.carry_out_effects();
        }
        for _ in 0..ABANDONED_A_TURN {
            let Some(&(at, slot, generation)) = self.closing.front() else {
                break;
            };
            if at > now {
                break;
            }
            self.closing.pop_front();
            if self.connections.generation(slot) == generation && !self.put_off(slot) {
                self.abandon(slot);
            }
        }
        if self.closing.is_empty() {
            // Thousands may have left within two seconds.
            self.closing.shrink_to(CLOSING_ROOM);
        }
        self.end_late_handshakes();
        self.handle_unconnected();
        for index in 0..self.listeners.len() {
            if self.listeners[index]
                .rests_until
                .is_some_and(|at| at <= now)
            {
                self.accept_again(index as u32);
            }
        }
        if self.has_to_cool() && self.cool_down_at <= now {
            self.cool_down();
        }
    }

    /// Lets the core do what it does once a turn.
    pub fn handle_turn(&mut self) {
        self.core.handle_turn(self.now, &mut self.effects);
        self.carry_out_effects();
    }

    /// Passes on what another shard sent. What is left of it comes back, to be passed on before anything else
    /// from there.
    pub fn handle_envelope(&mut self, from: ShardId, envelope: C::Envelope) -> Option<C::Envelope> {
        let left = self.core.handle_envelope(
            from,
            envelope,
            self.pace.messages(),
            self.now,
            &mut self.effects,
        );
        // The first counts with the envelope.
        let messages = std::mem::take(&mut self.effects.messages);
        self.pace.add(messages.saturating_sub(1) * EVENT_WEIGHT);
        self.carry_out_effects();
        left
    }

    /// Passes on what a side thread wants.
    pub fn handle_command(&mut self, command: Command) {
        self.core
            .handle_command(command, self.now, &mut self.effects);
        self.carry_out_effects();
    }

    /// What the core has to tell to the threads beside the shard.
    pub fn notices(&mut self) -> impl Iterator<Item = Notice> + '_ {
        self.effects.notices.drain(..)
    }

    /// Tells the core that envelopes have left for other shards.
    pub fn handle_ring_room(&mut self) {
        self.core.handle_ring_room(&mut self.effects);
        self.carry_out_effects();
    }

    /// Takes over a connection that another shard has accepted.
    pub fn adopt(&mut self, adopted: Adopted) {
        // It comes with what it has of the room, which is the same for all shards.
        let Some(slot) = self.admit(adopted.socket, adopted.origin) else {
            self.unconnected.room.give_back(adopted.charged as usize);
            return;
        };
        let connection = self.connections.get(slot);
        connection.set_charged(adopted.charged);
        self.unconnected.held += adopted.charged as usize;
        connection.held = adopted.bytes;
        connection.transport = adopted.transport;
        connection.state.set(State::PAUSED);
        if let Some(key) = connection.key {
            if let Some(transport) = &connection.transport {
                if transport.has_answers() {
                    self.dirty.push(key);
                }
                if transport.has_ended() {
                    connection.state.set(State::OVER);
                }
            }
            self.resume(key);
        }
    }

    /// Serves a connection that another thread of this process has made, and that is wrapped in nothing.
    pub fn join(&mut self, listener: ListenerId, socket: OwnedFd) {
        let origin = Origin::new(listener, PeerAddress::Local);
        if let Some(slot) = self.admit(socket, origin) {
            self.settle(slot);
        }
    }

    /// Stops accepting; the core sends what is still to be sent.
    pub fn handle_stopping(&mut self, now: Instant) {
        self.now = now;
        for index in 0..self.listeners.len() {
            self.close_listener(index);
        }
        self.core.handle_stopping(now, &mut self.effects);
        self.carry_out_effects();
    }

    /// Closes every connection as the core says.
    pub fn handle_shutdown(&mut self, now: Instant) {
        self.now = now;
        self.core.handle_shutdown(now, &mut self.effects);
        self.carry_out_effects();
    }

    /// Whether every socket is closed.
    pub fn is_empty(&self) -> bool {
        self.connections.count() == 0
    }

    // --- completions ---

    /// Tells whether it has been handled to its end: a receive may be more than a turn has time for.
    fn handle_completion(&mut self, completion: &cqueue::Entry) -> bool {
        let token = Token::decode(completion.user_data());
        match token.operation {
            Operation::Receive => return self.handle_received(token, completion),
            Operation::Writable => {
                if let Some(slot) = self.connections.find_token(token) {
                    let state = &mut self.connections.get(slot).state;
                    state.clear(State::POLLING);
                    if state.has(State::BROKEN) {
                        self.release(slot);
                    } else {
                        // A socket that failed says so to the send.
                        self.writable.push(slot);
                    }
                }
            }
            Operation::Accept => self.handle_accepted(token, completion),
            Operation::CancelFailed => {
                if let Some(slot) = self.connections.find_token(token) {
                    self.handle_cancel_failed(slot);
                }
            }
            Operation::Connect => self.handle_connected(token, completion.result()),
            // To be awake is all there is to it.
            Operation::Wake => {
                if !cqueue::more(completion.flags()) {
                    self.uring.poll_wakes(self.waker.raw_fd());
                }
            }
            Operation::Send | Operation::Ignored => {}
        }
        true
    }

    fn accept(&mut self, index: u32) {
        if let Some(socket) = &self.listeners[index as usize].socket {
            let token = Token::new(Operation::Accept, index, 0);
            self.uring.accept(socket.as_raw_fd(), token);
        }
    }

    fn handle_accepted(&mut self, token: Token, completion: &cqueue::Entry) {
        let mut result = completion.result();
        if result >= 0 {
            // SAFETY: the kernel has just made this descriptor for us.
            let socket = unsafe { OwnedFd::from_raw_fd(result) };
            // The system gives the lowest that is free.
            if result >= self.reserved_from {
                result = -libc::EMFILE;
            } else {
                self.handle_peer(token.index, socket);
            }
        }
        let has_more = cqueue::more(completion.flags());
        let out_of_room = [libc::EMFILE, libc::ENFILE, libc::ENOBUFS, libc::ENOMEM];
        if out_of_room.contains(&-result) {
            if has_more {
                self.uring
                    .cancel(token, Token::new(Operation::Ignored, 0, 0));
            }
            if self
                .accept_logged_at
                .is_none_or(|at| self.now - at >= ACCEPT_LOG_EVERY)
            {
                self.accept_logged_at = Some(self.now);
                tracing::warn!(
                    "cannot accept connections: {}; {} are open on this shard. \
                     More files may be opened after raising `ulimit -n` (systemd: LimitNOFILE)",
                    io::Error::from_raw_os_error(-result),
                    self.connections.count()
                );
            }
            self.listeners[token.index as usize].rests_until = Some(self.now + ACCEPT_REST);
        } else if !has_more && result != -libc::ECANCELED {
            self.accept(token.index);
        }
    }

    /// A peer has come to a listener.
    fn handle_peer(&mut self, index: u32, socket: OwnedFd) {
        // One that has already gone has no address any more.
        let Ok(peer) = peer_address(&socket) else {
            return;
        };
        let listener = &self.listeners[index as usize];
        let transport = Transport::new(&listener.wrapping);
        let origin = Origin::new(listener.id, peer);
        if let Some(slot) = self.admit(socket, origin) {
            if let Some(transport) = transport {
                self.wrap(slot, index, transport);
            }
            self.settle(slot);
        }
    }

    /// Goes on accepting after a rest, if there is a file descriptor for it by now.
    fn accept_again(&mut self, index: u32) {
        let listener = &mut self.listeners[index as usize];
        listener.rests_until = None;
        // One that is closed meanwhile stays so.
        let Some(socket) = &listener.socket else {
            return;
        };
        let free = socket.try_clone();
        if free.is_ok_and(|free| free.as_raw_fd() < self.reserved_from) {
            self.accept(index);
        } else {
            listener.rests_until = Some(self.now + ACCEPT_REST);
        }
    }

    /// Begins a connection that the core asked for.
    fn connect(&mut self, key: ConnectionKey, address: SocketAddr) {
        let socket = match connecting_socket(address) {
            Ok(socket) => socket,
            Err(error) => {
                self.core
                    .handle_connected(key, Err(error), self.now, &mut self.effects);
                self.carry_out_effects();
                return;
            }
        };
        let slot = self.connections.insert(socket, key);
        let token = self.connections.token(Operation::Connect, slot);
        let connection = self.connections.get(slot);
        // Output waits, as it does for a socket without room. It is settled from the start: a
        // connection that was made here is not handed over.
        let state = State::POLLING.or(State::BLOCKED).or(State::SETTLED);
        connection.state.set(state);
        let address = Box::new(SockAddr::from(address));
        // SAFETY: the address goes into `connecting` now and leaves it in `handle_completions`,
        // which comes after `enter` has returned; moving the `Box` does not move it.
        unsafe { self.uring.connect(connection.fd(), &address, token) };
        self.connecting.push(address);
    }

    fn handle_connected(&mut self, token: Token, result: i32) {
        let Some(slot) = self.connections.find_token(token) else {
            return;
        };
        let connection = self.connections.get(slot);
        connection.state.clear(State::POLLING.or(State::BLOCKED));
        if connection.state.has(State::BROKEN) {
            self.release(slot);
            return;
        }
        // Without a key the core has given it up meanwhile, and it is closing.
        match connection.key {
            Some(key) if result < 0 => {
                connection.key = None;
                connection.state.set(State::ENDED.or(State::FAILED));
                let error = io::Error::from_raw_os_error(-result);
                self.core
                    .handle_connected(key, Err(error), self.now, &mut self.effects);
                self.abandon(slot);
            }
            Some(key) => {
                if connection.state.has(State::DIRTY) {
                    connection.state.clear(State::DIRTY);
                    self.dirty.push(key);
                }
                self.core
                    .handle_connected(key, Ok(()), self.now, &mut self.effects);
                self.settle(slot);
            }
            None if result < 0 => self.abandon(slot),
            None => {
                self.writable.push(slot);
                self.settle(slot);
            }
        }
        self.carry_out_effects();
    }

    /// Makes a connection of a socket, if the core takes it.
    fn admit(&mut self, socket: OwnedFd, origin: Origin) -> Option<u32> {
        let key = self.core.handle_accept(origin, self.now)?;
        Some(self.connections.insert(socket, key))
    }

    // HOT: per receive.
    fn handle_received(&mut self, token: Token, completion: &cqueue::Entry) -> bool {
        let (result, flags) = (completion.result(), completion.flags());
        let buffer = cqueue::buffer_select(flags);
        if let Some(slot) = self.connections.find_token(token) {
            let state = &mut self.connections.get(slot).state;
            // What a receive that was begun in the meantime is about is not said by this one.
            let is_begun = buffer.is_some_and(|it| self.uring.buffers().begun(it).is_some());
            if !is_begun && !cqueue::more(flags) {
                state.clear(State::RECEIVING.or(State::CANCELLED).or(State::POLLED));
            }
            match (buffer, -result) {
                (Some(buffer), ..0) => {
                    state.set(State::FED);
                    if result as usize >= BULK_MIN {
                        state.set(State::BULK);
                    } else {
                        state.clear(State::BULK);
                    }
                    let is_done = self.feed(slot, buffer, result as usize);
                    self.carry_out_effects();
                    if !is_done {
                        return false;
                    }
                }
                // A poll: what it says is said by the socket as well.
                (None, ..0) => self.receive_straight(slot),
                (_, 0) => state.set(State::ENDED),
                // Nothing is wrong with the socket: armed again if it is still to be read.
                (_, libc::ENOBUFS | libc::ECANCELED | libc::EINTR | libc::EAGAIN) => {}
                _ => state.set(State::ENDED.or(State::FAILED)),
            }
            // The effects may have handed the connection over.
            if let Some(slot) = self.connections.find_token(token) {
                if -result == libc::ENOBUFS {
                    self.wait_for_buffer(slot, token);
                } else {
                    self.settle(slot);
                }
            }
        }
        if let Some(buffer) = buffer {
            self.uring.buffers_mut().put(buffer, result.max(0) as usize);
        }
        true
    }

    /// Gives the core what is in `buffer`, from where it is unless a packet before it was cut off, and
    /// tells whether that was all: it goes on in the next turn otherwise. The caller carries out the effects.
    fn feed(&mut self, slot: u32, buffer: u16, size: usize) -> bool {
        let connection = self.connections.get(slot);
        if connection.key.is_none() {
            return true; // Closing: discarded.
        }
        if connection.transport.is_some() {
            self.feed_wrapped(slot, buffer, size);
            return true;
        }
        let bytes = self.uring.buffers().bytes(buffer, size);
        let (core, pool, effects) = (&mut self.core, &mut self.pool, &mut self.effects);
        let mut fed = self.uring.buffers().begun(buffer).unwrap_or(0);
        loop {
            let (bytes, slice) = (&bytes[fed..], self.pace.slice());
            let taken = consume(core, pool, effects, self.now, connection, bytes, slice);
            if taken == bytes.len() {
                return true;
            }
            fed += taken;
            if self.pace.is_over(taken) {
                self.uring.buffers_mut().begin(buffer, fed);
                return false;
            }
        }
    }

    /// Feeds what is held of a connection that was paused, as much as there is time for, and reads on after that.
    pub(super) fn resume(&mut self, key: ConnectionKey) {
        let Some(slot) = self.connections.find(key) else {
            return;
        };
        let connection = self.connections.get(slot);
        connection.state.clear(State::PAUSED);
        let mut is_cut = false;
        if !connection.held.is_empty() {
            let (core, effects) = (&mut self.core, &mut self.effects);
            let mut consumed = 0;
            loop {
                let rest = &connection.held[consumed..];
                let taken = handle_slice(core, effects, self.now, key, rest, self.pace.slice());
                consumed += taken;
                if taken == 0 || taken == rest.len() || is_stopped(core, effects, key) {
                    break;
                }
                is_cut = self.pace.is_over(taken);
                if is_cut {
                    break;
                }
            }
            if consumed > 0 {
                connection.state.set(State::SETTLED);
                connection.held.drain(..consumed);
            }
            if connection.held.is_empty() {
                self.pool.put(std::mem::take(&mut connection.held));
            }
        }
        if is_cut {
            // What arrives meanwhile comes behind it.
            self.resumed.push(key);
        }
        if is_cut || self.core.is_paused(key) {
            connection.state.set(State::PAUSED);
        }
        let token = self.connections.token(Operation::Receive, slot);
        self.carry_out_effects();
        if let Some(slot) = self.connections.find_token(token) {
            self.settle(slot);
        }
    }

    /// Goes on with a connection whose receive found no buffer: in the next turn, when those of this one are back.
    ///
    /// A receive for many takes all buffers there are while its peer has more. So who had little to say comes first, each
    /// with one receive; then who got none, and behind all of them who did.
    fn wait_for_buffer(&mut self, slot: u32, token: Token) {
        self.uring.buffers_mut().miss();
        let state = self.connections.get(slot).state;
        let waiting = match state.has(State::BULK) {
            false => &mut self.hungry.quiet,
            true if state.has(State::FED) => &mut self.hungry.fed,
            true => &mut self.hungry.starved,
        };
        waiting.push(token);
    }

    /// Receives again on connections that have waited for buffers.
    // HOT: per turn.
    #[inline]
    fn receive_in_turn(&mut self) {
        if !self.hungry.is_empty() {
            self.receive_hungry();
        }
    }

    fn receive_hungry(&mut self) {
        let mut hungry = std::mem::take(&mut self.hungry);
        for (waiting, is_quiet) in [
            (&mut hungry.quiet, true),
            (&mut hungry.starved, false),
            (&mut hungry.fed, false),
        ] {
            for token in waiting.drain(..) {
                if let Some(slot) = self.connections.find_token(token) {
                    self.settle_with(slot, is_quiet.then_some(ONE_BUFFER));
                }
            }
        }
        self.hungry = hungry;
    }

    /// Reads the socket, or stops reading it, as its state demands.
    pub(super) fn settle(&mut self, slot: u32) {
        self.settle_with(slot, None);
    }

    /// The same; if it is to be read, then `most` at once, or as much as there is.
    fn settle_with(&mut self, slot: u32, most: Option<NonZeroU32>) {
        let token = self.connections.token(Operation::Receive, slot);
        let connection = self.connections.get(slot);
        let state = connection.state;
        let receiving = state.has(State::RECEIVING);
        let paused = state.has(State::PAUSED) && connection.key.is_some();
        if state.has(State::BROKEN) {
            self.release(slot);
        } else if state.has(State::ENDED.or(State::OVER).or(State::DEFERRED)) {
            // What was received before the end is consumed before the end.
            let waits = connection.key.is_some() && state.has(State::DEFERRED)
                || paused && !connection.held.is_empty();
            if !waits || state.has(State::FAILED) {
                self.end(slot);
            }
        } else if paused {
            if receiving && !state.has(State::CANCELLED) {
                self.cancel_receive(slot);
            }
        } else if !receiving {
            // Before CONNECT one receive at a time: then nothing is under way when the connection
            // turns out to belong to another shard.
            let many = state.has(State::SETTLED.or(State::CLOSING));
            let at_most = if many {
                self.charge(slot, 0);
                most
            } else {
                let Some(size) = self.receive_first(slot) else {
                    return;
                };
                Some(size)
            };
            self.end_waiting(slot);
            let connection = self.connections.get(slot);
            connection.state.set(State::RECEIVING);
            connection.state.clear(State::FED);
            if connection.state.has(State::STRAIGHT) && connection.key.is_some() {
                connection.state.set(State::POLLED);
                self.uring.poll_readable(connection.fd(), token);
            } else {
                self.uring.receive(connection.fd(), at_most, token);
            }
        } else if state.has(State::STRAIGHT) && !state.has(State::POLLED.or(State::CANCELLED)) {
            // Polled as soon as that has ended.
            self.cancel_receive(slot);
        }
    }

    /// Cancels the receive that is under way.
    fn cancel_receive(&mut self, slot: u32) {
        let receive = self.connections.token(Operation::Receive, slot);
        let failed = self.connections.token(Operation::CancelFailed, slot);
        self.connections.get(slot).state.set(State::CANCELLED);
        self.uring.cancel(receive, failed);
    }

    /// Ends a connection without a word.
    pub(super) fn let_go(&mut self, slot: u32) {
        let state = &mut self.connections.get(slot).state;
        state.set(State::ENDED.or(State::FAILED));
        self.end(slot);
    }

    /// A receive or poll was completing when it was to be cancelled. With a multishot receive that
    /// may not have been its last completion.
    fn handle_cancel_failed(&mut self, slot: u32) {
        let state = &mut self.connections.get(slot).state;
        if !state.has(State::RECEIVING) {
            return;
        }
        state.clear(State::CANCELLED);
        if state.has(State::BROKEN) {
            self.cancel_receive(slot);
        } else {
            self.settle(slot);
        }
    }

    /// The peer will send nothing more, or the socket has failed.
    fn end(&mut self, slot: u32) {
        let connection = self.connections.get(slot);
        let failed = connection.state.has(State::FAILED);
        if connection.state.has(State::CLOSING) {
            if failed || connection.state.has(State::SHUT) {
                self.abandon(slot);
            }
            return;
        }
        if let Some(key) = connection.key.take() {
            if !failed {
                // A peer that ended its half may still wait for the answers.
                let mut output = self.pool.take(0);
                self.core.take_last_output(key, &mut output);
                connection.append_last(&output);
                self.pool.put(output);
            }
            self.core.handle_closed(key, self.now, &mut self.effects);
        }
        // If only the transport has ended, what else arrives is discarded.
        connection.state.clear(State::OVER.or(State::DEFERRED));
        let is_done = failed || connection.unsent_size() == 0;
        self.end_handshakes(slot);
        if is_done {
            self.abandon(slot);
        } else {
            self.begin_closing(slot);
            if !self.connections.get(slot).state.has(State::ENDED) {
                self.settle(slot);
            }
        }
        self.carry_out_effects();
    }

    // --- effects ---

    pub(super) fn carry_out_effects(&mut self) {
        while let Some(key) = self.effects.suspects.pop() {
            let slot = self.connections.find(key);
            let is_there = slot.is_some_and(|slot| self.connections.get(slot).has_peer());
            self.core.handle_presence(key, is_there, &mut self.effects);
        }
        self.dirty.append(&mut self.effects.dirty);
        self.resumed.append(&mut self.effects.resumed);
        while let Some(hand_over) = self.effects.hand_overs.pop() {
            self.hand_over(hand_over);
        }
        while let Some(key) = self.effects.left.pop() {
            if let Some(slot) = self.connections.find(key) {
                self.connections.get(slot).state.set(State::LEFT);
            }
        }
        while let Some(key) = self.effects.closes.pop() {
            self.close(key);
        }
    }

    fn hand_over(&mut self, hand_over: HandOver) {
        let Some(slot) = self.connections.find(hand_over.connection) else {
            return;
        };
        let connection = self.connections.get(slot);
        connection.key = None;
        if connection.state.has(State::POLLING) {
            // It has filled its socket with answers to handshakes and pings, and not read them: no
            // Client does.
            self.let_go(slot);
            return;
        }
        let under_way = State::RECEIVING.or(State::SENDING);
        assert!(
            !connection.state.has(under_way),
            "hand-over of a connection with operations under way: {:?}",
            connection.state
        );
        let bytes = std::mem::take(&mut connection.held);
        let charged = connection.charged();
        connection.set_charged(0);
        let transport = connection.transport.take();
        self.unconnected.held -= charged as usize;
        if let Some(socket) = self.remove(slot) {
            let adopted = Adopted {
                socket,
                bytes,
                charged,
                origin: hand_over.origin,
                transport,
            };
            self.handed_over.push((hand_over.to, adopted));
        }
    }

    fn close(&mut self, key: ConnectionKey) {
        let mut output = self.pool.take(0);
        self.core.take_last_output(key, &mut output);
        self.core.forget(key);
        if let Some(slot) = self.connections.find(key) {
            let connection = self.connections.get(slot);
            connection.key = None;
            connection.state.clear(State::OVER.or(State::DEFERRED));
            connection.append_last(&output);
            self.pool.put(std::mem::take(&mut connection.held));
            self.begin_closing(slot);
            self.settle(slot);
        }
        self.pool.put(output);
    }

    /// Sends what is unsent, and closes after that or when it takes too long.
    fn begin_closing(&mut self, slot: u32) {
        self.linger(slot);
        let connection = self.connections.get(slot);
        connection.state.set(State::CLOSING);
        if !connection.state.has(State::POLLING) {
            self.writable.push(slot);
        }
    }

    /// Waits for a closing connection, but not for ever.
    pub(super) fn linger(&mut self, slot: u32) {
        let generation = self.connections.generation(slot);
        let deadline = self.now + CLOSE_LINGER;
        self.closing.push_back((deadline, slot, generation));
    }

    /// Everything was sent: tells the peer, and waits for it to close as well unless it has left.
    fn shut(&mut self, slot: u32) {
        let connection = self.connections.get(slot);
        if connection.state.has(State::SHUT) {
            return;
        }
        connection.state.set(State::SHUT);
        if let Some(socket) = connection.socket() {
            // Its end would wake the shard once more. What wraps a connection has a farewell of its own.
            let is_over = connection.state.has(State::LEFT) && connection.transport.is_none();
            let how = if is_over {
                Shutdown::Both
            } else {
                Shutdown::Write
            };
            // A socket that is not connected any more needs no telling.
            let _ = SockRef::from(socket).shutdown(how);
        }
        self.settle(slot);
    }

    /// Closes the socket as soon as nothing is under way on it.
    fn abandon(&mut self, slot: u32) {
        let writable = self.connections.token(Operation::Writable, slot);
        let connect = self.connections.token(Operation::Connect, slot);
        let ignored = self.connections.token(Operation::Ignored, slot);
        let connection = self.connections.get(slot);
        let state = connection.state;
        connection.state.set(State::BROKEN);
        if state.has(State::RECEIVING) && !state.has(State::CANCELLED) {
            self.cancel_receive(slot);
        }
        if state.has(State::POLLING) && !state.has(State::BROKEN) {
            // One of the two is under way.
            self.uring.cancel(writable, ignored);
            self.uring.cancel(connect, ignored);
        }
        let connection = self.connections.get(slot);
        self.pool.put(std::mem::take(&mut connection.held));
        connection.discard_unsent(&mut self.pool);
        self.release(slot);
    }

    /// Closes a broken socket if nothing is under way on it.
    fn release(&mut self, slot: u32) {
        let under_way = State::RECEIVING.or(State::POLLING).or(State::SENDING);
        if !self.connections.get(slot).state.has(under_way) {
            drop(self.remove(slot));
        }
    }

    /// Takes a socket out of the table, and out of everything that counts.
    fn remove(&mut self, slot: u32) -> Option<OwnedFd> {
        self.end_handshakes(slot);
        self.end_waiting(slot);
        self.charge(slot, 0);
        self.connections.remove(slot)
    }

    // --- output ---

    /// Takes what the core has for a connection and queues a send of it.
    // HOT: per connection and turn.
    fn send_output(&mut self, slot: u32, key: ConnectionKey) {
        let connection = self.connections.get(slot);
        let is_behind = connection.state.has(State::BLOCKED.or(State::SENDING));
        if is_behind || connection.has_backlog() {
            self.send_behind(slot, key);
            return;
        }
        // The core gets an empty buffer of about the size it used last; an idle connection loses it
        // again in `cool_down`.
        let size_hint = if connection.state.has(State::LARGE) {
            SMALL_MAX
        } else {
            0
        };
        let mut bytes = self.pool.take(size_hint);
        let leaves_capacity = bytes.capacity() > 0;
        self.core.take_output(key, &mut bytes);
        if leaves_capacity {
            connection.state.set(State::USED);
            if !connection.state.has(State::WARM) {
                connection.state.set(State::WARM);
                if self.warm.is_empty() {
                    self.cool_down_at = self.now + COOL_DOWN_EVERY;
                }
                let generation = self.connections.generation(slot);
                self.warm.push_back((slot, generation));
            }
        }
        let connection = self.connections.get(slot);
        let has_answers = match &connection.transport {
            None => false,
            Some(transport) => transport.has_answers(),
        };
        if bytes.is_empty() && !has_answers {
            self.pool.put(bytes);
            return;
        }
        let state = &mut connection.state;
        if bytes.len() >= SMALL_MAX / 2 {
            state.set(State::LARGE);
        } else {
            state.clear(State::LARGE);
        }
        if connection.transport.is_some() {
            self.send_wrapped(slot, key, bytes);
        } else {
            self.send_first(slot, key, bytes);
        }
    }

    /// Takes what the core has for a connection whose socket had no room for what comes before it, and sends the
    /// next piece of that if there is room now.
    fn send_behind(&mut self, slot: u32, key: ConnectionKey) {
        let mut bytes = self.pool.take(0);
        self.core.take_output(key, &mut bytes);
        let connection = self.connections.get(slot);
        if bytes.is_empty() {
            self.pool.put(bytes);
        } else {
            connection.keep_behind(bytes, &mut self.pool);
        }
        if let Some(transport) = &connection.transport
            && transport.has_answers()
        {
            // There may be nothing else to be sent then.
            connection.state.set(State::DIRTY);
        }
        if connection.state.has(State::SENDING) {
            return; // What becomes of that is told when it ends.
        }
        if connection.state.has(State::BLOCKED) {
            let unsent = connection.unsent_size();
            self.core
                .handle_unsent(key, unsent, self.now, &mut self.effects);
            return;
        }
        match connection.take_piece(&mut self.pool) {
            Some(piece) => self.send(slot, piece, 0, Report::Always),
            None => self.let_go(slot),
        }
    }

    /// Sends output of a connection that has nothing unsent.
    pub(super) fn send_first(&mut self, slot: u32, key: ConnectionKey, bytes: Vec<u8>) {
        self.send(slot, bytes, 0, Report::Failure);
        // Most sends succeed, and a success has no completion that would end the wait for the next
        // event: the core is told at once, and told better if the socket did not take everything.
        self.core.handle_unsent(key, 0, self.now, &mut self.effects);
    }

    fn continue_sending(&mut self, slot: u32) {
        let connection = self.connections.get(slot);
        let busy = State::BROKEN.or(State::POLLING).or(State::SENDING);
        if connection.state.has(busy) {
            return;
        }
        if connection.unsent_size() > 0 {
            match connection.take_unsent(&mut self.pool) {
                Some((bytes, offset)) => self.send(slot, bytes, offset, Report::Always),
                None => self.let_go(slot),
            }
        } else if connection.state.has(State::CLOSING) && !self.serve_on(slot) {
            self.shut(slot);
        }
    }

    pub(super) fn send(&mut self, slot: u32, bytes: Vec<u8>, offset: usize, report: Report) {
        let token = Token::new(Operation::Send, self.sends.len() as u32, 0);
        let connection = self.connections.get(slot);
        // Of two the first may be cut short, and the second be sent all the same.
        debug_assert!(!connection.state.has(State::SENDING));
        connection.state.set(State::SENDING);
        let socket = connection.fd();
        // SAFETY: the bytes go into `sends` now and leave it in `finish_sends`, which comes after
        // `enter` has returned; moving the `Vec` does not move them.
        unsafe { self.uring.send(socket, &bytes[offset..], report, token) };
        self.sends.push(Send {
            slot,
            result: None,
            bytes,
            offset,
        });
    }

    fn finish_sends(&mut self, completions: &[cqueue::Entry]) {
        let mut sends = std::mem::take(&mut self.sends);
        for completion in completions {
            let token = Token::decode(completion.user_data());
            if token.operation == Operation::Send {
                sends[token.index as usize].result = Some(completion.result());
            }
        }
        for send in sends.drain(..) {
            match send.result {
                None => self.finish_whole_send(send),
                Some(result) => self.finish_send(send, result),
            }
        }
        self.carry_out_effects();
        self.set_bulk_aside();
        self.sends = sends;
    }

    /// A send whose success was not reported.
    // HOT: per send.
    #[inline]
    fn finish_whole_send(&mut self, send: Send) {
        let connection = self.connections.get(send.slot);
        let more = State::DIRTY.or(State::CLOSING).or(State::BROKEN);
        if connection.state.has(more) || connection.has_backlog() {
            let sent = send.bytes.len() - send.offset;
            self.finish_send(send, sent as i32);
        } else {
            connection.state.clear(State::SENDING);
            self.pool.put(send.bytes);
        }
    }

    /// A send that was cut short, or of a connection that was blocked or is closing.
    fn finish_send(&mut self, send: Send, result: i32) {
        let writable = self.connections.token(Operation::Writable, send.slot);
        let connection = self.connections.get(send.slot);
        connection.state.clear(State::SENDING);
        if connection.state.has(State::BROKEN) {
            self.pool.put(send.bytes);
            self.release(send.slot);
            return;
        }
        let sent = match -result {
            ..=0 => result as usize,
            // No room in the socket, or no memory for it: again when it says so.
            libc::EAGAIN | libc::EINTR | libc::ENOBUFS | libc::ENOMEM => 0,
            _ => {
                connection.state.set(State::ENDED.or(State::FAILED));
                self.pool.put(send.bytes);
                self.settle(send.slot);
                return;
            }
        };
        let offset = send.offset + sent;
        let unsent = send.bytes.len() - offset;
        let closing = connection.state.has(State::CLOSING);
        let key = connection.key;
        let behind = connection.backlog_size();
        if unsent > 0 {
            if closing && sent > 0 {
                connection.state.set(State::PROGRESSED);
            }
            connection.state.set(State::BLOCKED.or(State::POLLING));
            connection.keep_unsent(send.bytes, offset);
            self.uring.poll_writable(connection.fd(), writable);
        } else {
            self.pool.put(send.bytes);
            connection.tidy_rare();
            if connection.state.has(State::DIRTY) || behind > 0 {
                self.dirty.extend(key);
            }
            connection.state.clear(State::BLOCKED.or(State::DIRTY));
            if closing && (connection.transport.is_some() || connection.unsent_size() > 0) {
                // There is more, or may be more of what is served.
                connection.state.set(State::PROGRESSED);
                self.writable.push(send.slot);
            } else if closing {
                self.shut(send.slot);
            }
        }
        if let Some(key) = key {
            self.core
                .handle_unsent(key, unsent + behind, self.now, &mut self.effects);
        }
    }

    /// Whether there may be buffers that nobody uses any more: with connections, or, once those have left, in the pool.
    #[inline]
    fn has_to_cool(&self) -> bool {
        !self.warm.is_empty() || self.pool.is_large()
    }

    /// Takes output buffers from connections that have not used them lately.
    fn cool_down(&mut self) {
        if self.warm_left == 0 {
            self.warm_left = self.warm.len();
            self.cool_down_next = self.now + COOL_DOWN_EVERY;
        }
        let step = self.warm_left.min(COOL_DOWN_STEP);
        self.warm_left -= step;
        for _ in 0..step {
            if let Some((slot, generation)) = self.warm.pop_front()
                && self.is_still_warm(slot, generation)
            {
                self.warm.push_back((slot, generation));
            }
        }
        self.cool_down_at = self.now + COOL_DOWN_PAUSE;
        if self.warm_left == 0 {
            self.cool_down_at = self.cool_down_at.max(self.cool_down_next);
            self.warm.shrink_to(2 * self.warm.len());
            self.pool.trim();
        }
        self.carry_out_effects();
    }

    /// Whether a connection has used its buffer since it was last asked. Otherwise it has none any more.
    fn is_still_warm(&mut self, slot: u32, generation: u32) -> bool {
        if self.connections.generation(slot) != generation {
            return false;
        }
        let connection = self.connections.get(slot);
        if connection.state.has(State::USED) {
            connection.state.clear(State::USED);
            return true;
        }
        connection.state.clear(State::WARM);
        if let Some(key) = connection.key
            && !connection.state.has(State::BLOCKED.or(State::SENDING))
            && !connection.has_backlog()
        {
            let mut bytes = Vec::new();
            self.core.take_output(key, &mut bytes);
            if bytes.is_empty() {
                self.pool.put_unused(bytes);
            } else if connection.transport.is_some() {
                self.send_wrapped(slot, key, bytes);
            } else {
                self.send_first(slot, key, bytes);
            }
        }
        false
    }
}

/// How many files the process may have open, as far as it is bounded.
fn open_files_max() -> RawFd {
    let limit = getrlimit(Resource::Nofile).current;
    limit.map_or(RawFd::MAX, |limit| {
        RawFd::try_from(limit).unwrap_or(RawFd::MAX)
    })
}

/// The first file descriptor that is not for Clients. What they must leave is for the store, the log, a reload and whoever
/// asks whether the broker is well: a broker that has all Clients that it may have is no broker that fails.
fn reserved_from(open_files_max: RawFd) -> RawFd {
    open_files_max - (open_files_max / FILES_RESERVED_SHARE).min(FILES_RESERVED_MAX)
}

pub(super) fn peer_address(socket: &OwnedFd) -> io::Result<PeerAddress> {
    let address = SockRef::from(socket).peer_addr()?;
    Ok(address
        .as_socket()
        .map_or(PeerAddress::Local, PeerAddress::from))
}

/// A socket for a new connection to `address`.
fn connecting_socket(address: SocketAddr) -> io::Result<OwnedFd> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

/// Gives the core the next `slice` of `bytes`, or a packet that is larger, from where they are unless a packet
/// before them was cut off. Returns how many were taken: less than all only if there is a next slice.
#[inline]
pub(super) fn consume<C: Core>(
    core: &mut C,
    pool: &mut BufferPool,
    effects: &mut Effects,
    now: Instant,
    connection: &mut Connection,
    all: &[u8],
    slice: usize,
) -> usize {
    let mut bytes = all;
    let Some(key) = connection.key else {
        return all.len();
    };
    if connection.state.has(State::PAUSED) {
        connection.held.extend_from_slice(bytes);
        return all.len();
    }
    if !connection.held.is_empty() {
        // Copy no more than completes the packet; what follows it is read in place again.
        let size = loop {
            let held = connection.held.len();
            let size = core.packet_size(key, &connection.held);
            let missing = size.map_or(1, |size| size.saturating_sub(held));
            let (start, rest) = bytes.split_at(missing.min(bytes.len()));
            if start.is_empty() {
                break size;
            }
            connection.held.extend_from_slice(start);
            bytes = rest;
        };
        let whole = connection.held.len();
        // What is received straight is counted there, large or small.
        if let Some(size) = size
            && (LARGE_MIN..=whole).contains(&size)
            && !connection.state.has(State::STRAIGHT)
        {
            connection.count_packet(size);
        }
        let mut consumed = 0;
        // Only a few bytes do not tell their packet's size, or do not deserve one.
        if size == Some(whole) || large_packets(core, key, &connection.held) == whole {
            consumed = core.handle_packets_in(key, &mut connection.held, now, effects);
        } else if size.is_none_or(|size| size < whole) {
            consumed = core.handle_bytes(key, &connection.held, now, effects);
        }
        if consumed > 0 {
            connection.state.set(State::SETTLED);
            // Unless the core has kept the buffer.
            if connection.held.len() == whole {
                connection.held.drain(..consumed);
            }
        }
        if is_stopped(core, effects, key) || !connection.held.is_empty() {
            connection.held.extend_from_slice(bytes);
            bytes = &[];
        } else {
            pool.put(std::mem::take(&mut connection.held));
        }
    }
    if !bytes.is_empty() {
        let consumed = handle_slice(core, effects, now, key, bytes, slice);
        if consumed > 0 {
            connection.state.set(State::SETTLED);
        }
        let is_cut = slice < bytes.len() && consumed > 0 && consumed < bytes.len();
        if is_cut && !is_stopped(core, effects, key) {
            return all.len() - bytes.len() + consumed;
        }
        let rest = bytes.get(consumed..).unwrap_or_default();
        if !rest.is_empty() {
            connection.held = if connection.state.has(State::SETTLED) {
                pool.take(rest.len())
            } else {
                // Until its CONNECT is whole it has what is counted, and no larger buffer of others.
                Vec::with_capacity(rest.len())
            };
            connection.held.extend_from_slice(rest);
        }
    }
    if core.is_paused(key) {
        connection.state.set(State::PAUSED);
    }
    all.len()
}

/// Gives the core the next `slice` of `bytes`, or a packet that is larger. Returns how many were taken.
#[inline]
fn handle_slice<C: Core>(
    core: &mut C,
    effects: &mut Effects,
    now: Instant,
    key: ConnectionKey,
    bytes: &[u8],
    slice: usize,
) -> usize {
    let start = bytes.get(..slice).unwrap_or(bytes);
    let taken = core.handle_bytes(key, start, now, effects);
    if taken > 0 || start.len() == bytes.len() || is_stopped(core, effects, key) {
        return taken;
    }
    // A packet that is larger than a slice, and no more than that.
    let size = core.packet_size(key, bytes).unwrap_or(bytes.len());
    let packet = bytes.get(..size).unwrap_or(bytes);
    core.handle_bytes(key, packet, now, effects)
}

/// Whether the core wants no more of a connection for now, or at all. What happens to another one beside it,
/// which may be closed because of this one, does not count.
fn is_stopped<C: Core>(core: &C, effects: &Effects, key: ConnectionKey) -> bool {
    core.is_paused(key)
        || effects.closes.contains(&key)
        || effects.hand_overs.iter().any(|it| it.connection == key)
}
