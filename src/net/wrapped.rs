//! Connections with a transport: their bytes on the way to the core and back, and their handshakes.
//!
//! Handshakes are what strangers can make a shard spend most on. One step is made a turn, once what has arrived was handled,
//! and the others wait; each listener has so many that are not over and no more, and each has its time.

#![forbid(unsafe_code)]

use super::connection::{Connection, Connections, State};
use super::core::Core;
use super::data_path::{DataPath, Listener, consume, peer_address};
use super::transport::{Transport, TransportError};
use super::unread::unread_size;
use super::uring::{Operation, Report};
use crate::key::ConnectionKey;
use crate::log::{NOTICE_TARGET, WEBSOCKETS_TARGET};
use crate::metrics::Snapshot;
use crate::origin::{Origin, PeerAddress};
use crate::time::Instant;
use std::collections::VecDeque;
use std::os::fd::AsFd;
use std::time::Duration;

/// Costly steps of handshakes in one turn: a signature takes from a twentieth of a millisecond to a whole
/// one. Turns follow each other without a wait as long as some are left, so a shard that has nothing else
/// to do makes as many as it can.
const STEPS_PER_TURN: usize = 1;
/// Bytes of a file that are sent at once.
const FILE_PART_SIZE: usize = 64 * 1024;

/// At most one line in this time about handshakes that fail and PROXY headers that are refused, of each listening socket.
const FAILURE_LOG_EVERY: Duration = Duration::from_secs(1);

impl Listener {
    /// Whether the log is to hear of one more handshake that failed, and what of those before.
    fn says_failure(&mut self, now: Instant) -> Option<String> {
        let last = self.failure_logged_at;
        if last.is_some_and(|at| now - at < FAILURE_LOG_EVERY) {
            self.failures_unsaid += 1;
            return None;
        }
        self.failure_logged_at = Some(now);
        Some(match std::mem::take(&mut self.failures_unsaid) {
            0 => String::new(),
            count => format!(" ({count} more since the last such line)"),
        })
    }
}

/// What a shard has to do for handshakes.
#[derive(Debug, Default)]
pub(super) struct Handshakes {
    /// Those whose next step waits for a turn. Slot and generation.
    pub(super) deferred: VecDeque<(u32, u32)>,
    /// Holds what was unwrapped on its way to the core.
    plain: Vec<u8>,
}

/// The connections of a listening socket whose handshakes are not over.
#[derive(Debug)]
pub(super) struct Pending {
    max: usize,
    timeout: Duration,
    count: usize,
    /// Oldest first: when to let go of it, slot and generation. Some may be over.
    queue: VecDeque<(Instant, u32, u32)>,
}

impl Pending {
    pub(super) fn new(max: usize, timeout: Duration) -> Self {
        Self {
            max,
            timeout,
            count: 0,
            queue: VecDeque::new(),
        }
    }

    /// When the oldest has to be over.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.queue.front().map(|&(at, ..)| at)
    }

    /// Takes out the oldest one, if its time has come.
    fn pop_late(&mut self, now: Instant) -> Option<(u32, u32)> {
        let &(at, slot, generation) = self.queue.front()?;
        if at > now {
            return None;
        }
        self.queue.pop_front();
        Some((slot, generation))
    }

    /// Takes out those that are over, up to the first that is not.
    fn prune(&mut self, connections: &mut Connections) {
        while let Some(&(_, slot, generation)) = self.queue.front()
            && !is_pending(connections, slot, generation)
        {
            self.queue.pop_front();
        }
    }
}

fn is_pending(connections: &mut Connections, slot: u32, generation: u32) -> bool {
    connections.generation(slot) == generation && connections.get(slot).state.has(State::PENDING)
}

impl<C: Core> DataPath<C> {
    /// Fills in what is known of the core, and of its connections before they reached it.
    pub fn show(&self, snapshot: &mut Snapshot) {
        self.core.show(snapshot);
        snapshot.counters = snapshot.counters.plus(&self.counters);
        snapshot.gauges.held_before_connect = self.unconnected.held as u64;
        snapshot.gauges.spare_buffer_bytes = self.pool.size() as u64;
    }

    /// Puts `transport` between a new connection and the core, and lets the oldest handshake of its
    /// listener go if there are too many.
    pub(super) fn wrap(&mut self, slot: u32, listener: u32, transport: Box<Transport>) {
        let generation = self.connections.generation(slot);
        let connection = self.connections.get(slot);
        connection.transport = Some(transport);
        connection.set_listener(listener);
        connection.state.set(State::PENDING);
        let pending = &mut self.listeners[listener as usize].pending;
        let deadline = self.now + pending.timeout;
        pending.queue.push_back((deadline, slot, generation));
        pending.count += 1;
        while self.listeners[listener as usize].pending.count > self.max_pending(listener)
            && let Some((_, slot, generation)) =
                self.listeners[listener as usize].pending.queue.pop_front()
        {
            if is_pending(&mut self.connections, slot, generation) {
                self.counters.handshakes_displaced += 1;
                self.let_go(slot);
            }
        }
    }

    /// The newest one is always let try.
    fn max_pending(&self, listener: u32) -> usize {
        self.listeners[listener as usize].pending.max.max(1)
    }

    /// The handshakes of a connection are over, well or not.
    pub(super) fn end_handshakes(&mut self, slot: u32) {
        let connection = self.connections.get(slot);
        if connection.state.has(State::PENDING) {
            connection.state.clear(State::PENDING);
            let listener = connection.listener() as usize;
            let pending = &mut self.listeners[listener].pending;
            pending.count -= 1;
            pending.prune(&mut self.connections);
        }
    }

    /// Lets go of connections whose handshakes take too long.
    pub(super) fn end_late_handshakes(&mut self) {
        for index in 0..self.listeners.len() {
            while let Some((slot, generation)) = self.listeners[index].pending.pop_late(self.now) {
                if is_pending(&mut self.connections, slot, generation) {
                    self.counters.handshakes_timed_out += 1;
                    self.let_go(slot);
                }
            }
        }
    }

    // --- inwards ---

    /// Unwraps what is in `buffer` and gives it to the core. The caller carries out the effects.
    pub(super) fn feed_wrapped(&mut self, slot: u32, buffer: u16, size: usize) {
        let generation = self.connections.generation(slot);
        let connection = self.connections.get(slot);
        let Some(transport) = &mut connection.transport else {
            return;
        };
        let bytes = self.uring.buffers_mut().bytes_mut(buffer, size);
        if transport.is_costly() {
            // Made here, each would take a turn, and what came behind it would wait for all of them.
            transport.defer(bytes);
            // Nothing is received meanwhile, so it is there once.
            connection.state.set(State::DEFERRED);
            self.handshakes.deferred.push_back((slot, generation));
            return;
        }
        let mut plain = std::mem::take(&mut self.handshakes.plain);
        let result = transport.receive(bytes, &mut plain);
        self.feed_unwrapped(slot, plain, result);
    }

    /// Makes the steps of handshakes that have their turn.
    pub(super) fn continue_handshakes(&mut self) {
        let mut steps_left = STEPS_PER_TURN;
        while steps_left > 0
            && let Some((slot, generation)) = self.handshakes.deferred.pop_front()
        {
            if self.connections.generation(slot) != generation {
                continue;
            }
            let token = self.connections.token(Operation::Receive, slot);
            let connection = self.connections.get(slot);
            connection.state.clear(State::DEFERRED);
            if let (Some(transport), Some(_)) = (&mut connection.transport, connection.key) {
                steps_left -= 1;
                let mut bytes = transport.take_deferred();
                let mut plain = std::mem::take(&mut self.handshakes.plain);
                let result = transport.receive(&mut bytes, &mut plain);
                self.feed_unwrapped(slot, plain, result);
                self.carry_out_effects();
            }
            if let Some(slot) = self.connections.find_token(token) {
                self.settle(slot);
            }
        }
    }

    /// Gives the core what was unwrapped, and does what else has come of it.
    fn feed_unwrapped(
        &mut self,
        slot: u32,
        mut plain: Vec<u8>,
        result: Result<(), TransportError>,
    ) {
        let connection = self.connections.get(slot);
        let has_failed = result.is_err();
        if let Err(error) = result {
            let counters = &mut self.counters;
            let is_pending = connection.state.has(State::PENDING);
            if is_pending {
                counters.handshakes_failed += 1;
            } else {
                counters.transport_errors += 1;
            }
            let transport = connection.transport.as_ref();
            let peer = transport.and_then(|it| it.revealed_peer());
            let peer = peer.unwrap_or_else(|| peer_of(connection));
            let listener = connection.listener() as usize;
            match error {
                TransportError::WebSocket(error) => tracing::debug!(
                    target: WEBSOCKETS_TARGET,
                    "WebSocket from {peer} ends: {error}"
                ),
                // As Mosquitto says it. A flood of them is no reason for a flood of lines.
                TransportError::Tls(error) if is_pending => {
                    if let Some(more) = self.listeners[listener].says_failure(self.now) {
                        tracing::info!(
                            target: NOTICE_TARGET,
                            "Client connection from {peer} failed: {error}.{more}"
                        );
                    }
                }
                error if error.is_of_proxy() => {
                    if let Some(more) = self.listeners[listener].says_failure(self.now) {
                        tracing::info!(
                            target: NOTICE_TARGET,
                            "Connection from {peer} rejected, {error}.{more}"
                        );
                    }
                }
                error => tracing::debug!("connection from {peer} ends: {error}"),
            }
        }
        if let (Some(transport), Some(key)) = (&connection.transport, connection.key)
            && connection.state.has(State::PENDING)
            && transport.is_ready()
        {
            // One that has failed goes on no more either, and has shown nothing.
            if !has_failed {
                self.counters.handshakes_completed += 1;
                if transport.is_web_socket() {
                    let peer = peer_of(connection);
                    tracing::debug!(target: WEBSOCKETS_TARGET, "WebSocket from {peer} begins");
                }
                self.reveal(slot, key);
            }
            self.end_handshakes(slot);
        }
        let connection = self.connections.get(slot);
        if let (Some(transport), Some(key)) = (&connection.transport, connection.key) {
            if transport.has_answers() {
                self.dirty.push(key);
            }
            if transport.has_ended() {
                connection.state.set(State::OVER);
            }
            if transport.is_spent() {
                connection.transport = None;
                connection.tidy_rare();
            }
            if !plain.is_empty() {
                let (core, pool, effects) = (&mut self.core, &mut self.pool, &mut self.effects);
                consume(
                    core,
                    pool,
                    effects,
                    self.now,
                    connection,
                    &plain,
                    usize::MAX,
                );
            }
        }
        plain.clear();
        self.handshakes.plain = plain;
    }

    /// Tells the core what handshakes have shown of the peer.
    fn reveal(&mut self, slot: u32, key: ConnectionKey) {
        let connection = self.connections.get(slot);
        let revealed = connection
            .transport
            .as_mut()
            .and_then(|it| it.take_revealed());
        let Some(revealed) = revealed else { return };
        let peer = revealed.peer.unwrap_or_else(|| peer_of(connection));
        let listener = self.listeners[connection.listener() as usize].id;
        let mut origin = Origin::new(listener, peer);
        origin.certificate = revealed.certificate.map(Box::new);
        self.core.handle_origin(key, origin);
    }

    // --- outwards ---

    /// Wraps output and answers of a connection that has nothing unsent, and queues a send of it.
    pub(super) fn send_wrapped(&mut self, slot: u32, key: ConnectionKey, plain: Vec<u8>) {
        let Some(bytes) = self.connections.get(slot).wrap(plain, &mut self.pool) else {
            self.let_go(slot);
            return;
        };
        if bytes.is_empty() {
            self.pool.put(bytes);
            self.core.handle_unsent(key, 0, self.now, &mut self.effects);
        } else {
            self.send_first(slot, key, bytes);
        }
    }

    /// Sends the next part of what is served to a closing connection. Tells whether there is one.
    pub(super) fn serve_on(&mut self, slot: u32) -> bool {
        let connection = self.connections.get(slot);
        let Some(transport) = &mut connection.transport else {
            return false;
        };
        let mut part = self.pool.take(FILE_PART_SIZE);
        transport.write_rest(FILE_PART_SIZE, &mut part);
        if part.is_empty() {
            self.pool.put(part);
            return false;
        }
        self.send(slot, part, 0, Report::Always);
        true
    }

    /// Whether a closing connection whose time is over gets more, because it reads what is served.
    pub(super) fn put_off(&mut self, slot: u32) -> bool {
        let connection = self.connections.get(slot);
        let has_progressed = connection.state.has(State::PROGRESSED);
        connection.state.clear(State::PROGRESSED);
        if connection.state.has(State::SHUT) || connection.transport.is_none() {
            return false;
        }
        let socket = connection.socket();
        let unread = socket.map_or(0, |socket| unread_size(socket.as_fd()));
        let transport = connection.transport.as_mut();
        if transport.is_some_and(|it| it.take_reprieve(has_progressed, unread)) {
            self.linger(slot);
            return true;
        }
        false
    }
}

/// The address of the socket's other end, which may be a proxy.
fn peer_of(connection: &Connection) -> PeerAddress {
    let address = connection.socket().map(peer_address);
    address.and_then(Result::ok).unwrap_or_default()
}
