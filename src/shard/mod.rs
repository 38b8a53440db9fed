//! One shard: the Sessions, subscriptions and deadlines that belong to one core.
//!
//! The only place where Session and Router meet. **Lives on** exactly one core; other shards are
//! reached by [`Envelope`]. **Knows nothing of** sockets, files or clocks: `runtime` feeds it bytes,
//! envelopes and the time, and carries out its [`Effects`]; `sim` does the same with all three under
//! its control.
//!
//! # Always true
//! - One Client Identifier maps to one shard for the life of the process.
//! - Envelopes from shard A to shard B arrive in the order A sent them, which is what carries
//!   [MQTT-4.6.0-5] (Ordered Topics) across cores.
//! - What is published anywhere after a SUBACK is delivered.
//! - A QoS 0 PUBLISH to connected local subscribers allocates nothing in the steady state.
//!
//! Read next: `connect.rs`, `publish.rs`, `subscribe.rs` (what packets do), `clients.rs` (the way of
//! a message to one Client), `envelope.rs` (what crosses cores), `placement.rs`.

#![forbid(unsafe_code)]

mod access;
mod batch;
mod census;
mod choose;
mod clients;
mod command;
mod connect;
mod connection;
mod directory;
mod dump;
mod effects;
mod ended;
mod envelope;
mod filters;
mod held;
mod legacies;
mod log;
mod look_up;
mod mount_point;
mod moving;
mod notice;
mod peer;
mod placement;
mod pool;
mod publish;
mod reload;
mod replay;
mod replay_items;
mod restore;
#[cfg(test)]
mod rig;
mod run;
mod sharing;
mod slab;
mod snapshot;
mod spread;
mod store;
mod stored_publish;
mod subscribe;
mod talkers;
mod tickets;
mod timers;
mod visits;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

pub use batch::Batch;
pub use census::Census;
pub use command::{Command, Verdict};
pub use effects::{Effects, HandOver, Kept};
pub use envelope::Envelope;
pub use notice::{AuthenticationRequest, DisconnectCause, Event, Notice, RefusalCause};
pub use placement::Placement;
pub use restore::RestoredInterest;
pub use snapshot::Snapshot;

use batch::BatchPool;
use clients::{Clients, mark_dirty};
use connection::{Connection, Pause, Phase};
use filters::Presented;
use peer::Peer;
use publish::Publisher;
use subscribe::Barrier;
use talkers::{Sampled, count_messages};
use timers::{Slot, Timers};

use crate::codec::{self, DecodeError, Packet, PlainPublish, ReasonCode, packet_type};
use crate::key::{ConnectionKey, SessionKey, ShardId};
use crate::limits::{Limits, SHARDS_MAX};
use crate::message::ProtocolVersion;
use crate::metrics::Counters;
use crate::origin::Origin;
use crate::policy::{LogMask, Occupancy, Settings};
use crate::router::Router;
use crate::session::ProtocolError;
use crate::time::Instant;

/// How long a tombstone waits before the other shards are asked whether it is still needed.
const TOMBSTONE_AGE: Duration = Duration::from_secs(1);

/// Time between two rounds of removing expired retained messages.
const RETAINED_EXPIRY_PAUSE: Duration = Duration::from_millis(1);

/// What a turn has time for when thousands of deadlines fall on one moment: as many that were put off, or
/// [`DEADLINE_STEPS`] times fewer of those that end something. The next turn goes on at once.
const DEADLINE_STEPS_A_TURN: usize = 1024;
/// Of ending a connection or a Session, which may publish a Will: in the time that it takes to see that a
/// deadline was put off.
const DEADLINE_STEPS: usize = 128;

/// How far one packet brought its connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// The next packet can follow, if the connection is not paused.
    Continue,
    /// This packet could not be taken; it will be presented again.
    Blocked,
    /// The connection is ending; what follows is ignored.
    Stop,
    /// The connection moves to another shard with all its bytes.
    HandedOver,
}

/// Numbers nobody outside can guess, and a simulation can repeat: SplitMix64.
#[derive(Debug)]
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

/// One shard of the broker, as a state machine.
#[derive(Debug)]
pub struct Shard {
    id: ShardId,
    placement: Placement,
    random: Random,
    clients: Clients,
    router: Router,
    timers: Timers,
    /// One for each shard of the broker, this one's unused.
    peers: Vec<Peer>,
    batches: BatchPool,
    /// Set when an envelope found a full backlog, until every backlog has room again.
    ring_is_full: bool,
    /// Connections not read because of that.
    waiting_for_ring: Vec<ConnectionKey>,
    /// Connections not read because a disk takes nothing.
    waiting_for_disk: Vec<ConnectionKey>,
    /// Since when some shard's disk takes nothing.
    disk_stalled_at: Option<Instant>,
    /// Counts this shard's interest announcements.
    announced: u64,
    /// SUBACKs that wait for other shards, oldest first.
    barriers: VecDeque<Barrier>,
    /// Lamport clock of retained versions.
    clock: u64,
    /// Counts changes of the retained replica.
    retained_changes: u64,
    /// Connections with retained messages that a turn had no time for, in the order in which they go on.
    replaying: VecDeque<ConnectionKey>,
    replay_budget: replay::Budget,
    /// Requests for retained messages since the start, by which they are told apart.
    replays_asked: u64,
    /// Connections whose Topic Filters are more than one turn has time for, in the order in which they go on.
    filtering: VecDeque<ConnectionKey>,
    /// What Sessions that have ended left behind.
    ended: ended::Ended,
    /// What Sessions have left to other members of their Shared Subscriptions.
    legacies: legacies::Legacies,
    /// Topics that take longer than a turn to look up.
    look_ups: look_up::LookUps,
    /// Sessions whose connection has come or gone.
    visits: visits::Visits,
    /// Messages that are on their way to more Sessions than one turn has time for.
    spreads: spread::Spreads,
    /// No retained version below this clock can arrive any more.
    tombstones_below: u64,
    /// What the operator asked to see and has not seen yet.
    dump: Option<dump::Cursor>,
    /// Events that no effects were at hand for.
    unreported: Vec<Event>,
    /// What is counted for all shards together.
    occupancy: Arc<Occupancy>,
    /// Which Clients the messages belong to.
    sampled: Sampled,
    /// Memory for the places of those who are not sent a run as it is.
    others_of_run: Vec<u32>,
}

impl Shard {
    /// A shard of a broker with one listener that lets everybody do everything.
    ///
    /// # Panics
    /// As [`Shard::with_settings`].
    #[must_use]
    pub fn new(id: ShardId, shard_count: usize, limits: Limits, seed: u64) -> Self {
        let settings = Arc::new(Settings::permissive(limits));
        Self::with_settings(id, shard_count, settings, seed)
    }

    /// Shard `id` of `shard_count`. `settings` and `seed` are the same on all shards of a broker, and
    /// `seed` is secret.
    ///
    /// # Panics
    /// If there are no shards, more than [`SHARDS_MAX`], or `id` is none of them.
    #[must_use]
    pub fn with_settings(
        id: ShardId,
        shard_count: usize,
        settings: Arc<Settings>,
        seed: u64,
    ) -> Self {
        assert!(
            (1..=SHARDS_MAX).contains(&shard_count),
            "1 to {SHARDS_MAX} shards"
        );
        assert!(id.index() < shard_count, "shard {id} of {shard_count}");
        let mut random = Random(seed ^ (u64::from(id.0) + 1).wrapping_mul(0xa076_1d64_78bd_642f));
        let secret = random.next();
        let sampled = Sampled::new(seed ^ u64::from(id.0));
        Self {
            id,
            occupancy: settings.occupancy.clone(),
            placement: Placement::new(shard_count, seed),
            random,
            spreads: spread::Spreads::new(&settings.policy.limits),
            clients: Clients::new(settings, secret),
            router: Router::with_seed(id, shard_count, secret),
            timers: Timers::new(),
            peers: (0..shard_count).map(|_| Peer::default()).collect(),
            batches: BatchPool::default(),
            ring_is_full: false,
            waiting_for_ring: Vec::new(),
            waiting_for_disk: Vec::new(),
            disk_stalled_at: None,
            announced: 0,
            barriers: VecDeque::new(),
            clock: 0,
            retained_changes: 0,
            replaying: VecDeque::new(),
            replay_budget: replay::Budget::default(),
            replays_asked: 0,
            filtering: VecDeque::new(),
            ended: ended::Ended::default(),
            legacies: legacies::Legacies::default(),
            look_ups: look_up::LookUps::default(),
            visits: visits::Visits::default(),
            tombstones_below: 0,
            dump: None,
            unreported: Vec::new(),
            sampled,
            others_of_run: Vec::new(),
        }
    }

    /// A connection was accepted here, or handed over by the shard that accepted it. `None` when
    /// its listener, this shard or the broker has as many as it may have: it is to be closed.
    pub fn handle_accept(&mut self, origin: Origin, now: Instant) -> Option<ConnectionKey> {
        self.clients.counters.connections_accepted += u64::from(!origin.is_handed_over);
        let listener_max = self
            .clients
            .listener(origin.listener)
            .map_or(Some(0), |listener| listener.max_connections);
        let broker_max = self.clients.settings.policy.global_max_connections;
        if self.clients.connections.len() >= self.clients.limits.max_connections
            || !self
                .occupancy
                .enter(origin.listener, listener_max, broker_max)
        {
            self.clients.counters.connections_refused += 1;
            self.log_denied(&origin);
            return None;
        }
        self.log_accepted(&origin);
        let connection = Connection::new(origin, self.clients.limits.connect_timeout, now);
        let deadline = connection.deadline();
        let key = self.clients.connections.insert_with(|_| connection);
        if let Some(deadline) = deadline {
            self.timers.arm(Slot::Connection(key.index), deadline);
        }
        Some(key)
    }

    /// More is known of where a connection comes from: what TLS or a proxy said. Before its first
    /// byte.
    pub fn handle_origin(&mut self, key: ConnectionKey, origin: Origin) {
        if let Some(connection) = self.clients.connections.get_mut(key) {
            connection.set_origin(origin);
        }
    }

    /// Something from outside of the message path.
    pub fn handle_command(&mut self, command: Command, now: Instant, effects: &mut Effects) {
        match command {
            Command::Authenticated {
                connection,
                verdict,
                security,
            } => self.handle_verdict(connection, verdict, &security, effects),
            Command::Configure(settings) => self.configure(settings, now, effects),
            Command::Publish(message) => {
                let message = message.as_ref().as_ref();
                self.make_way(message, now, effects);
                self.route(message, Publisher::Broker, now, effects);
                self.take_cost();
            }
            Command::DumpTree => self.begin_dump(now, effects),
        }
    }

    /// Forgets a connection.
    fn remove_connection(&mut self, key: ConnectionKey) -> Option<Connection> {
        let connection = self.clients.connections.remove(key)?;
        self.clients.beyond_outboxes -= connection.beyond_outbox();
        self.occupancy.leave(connection.listener);
        Some(connection)
    }

    /// Takes received bytes and returns how many were consumed, in whole packets.
    ///
    /// The caller keeps the rest and presents it again as it is, followed by what came since. If the
    /// connection [is paused](Shard::is_paused) afterwards, the caller stops reading its socket and
    /// calls again when [`Effects::resumed`] names it.
    pub fn handle_bytes(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let mut consumed = 0;
        let received_before = self.clients.counters.publish_received;
        if self.clients.reload.is_some() {
            self.reload_first(key, now, effects);
        }
        loop {
            let Some(connection) = self.clients.connections.get(key) else {
                self.count_last(consumed, 0);
                return bytes.len();
            };
            if connection.phase == Phase::Closing {
                self.count_last(consumed, 0);
                return bytes.len();
            }
            if connection.pause.any() {
                break;
            }
            let (phase, version, vetted) =
                (connection.phase, connection.version, connection.vetted);
            let rest = &bytes[consumed..];
            // What does not begin as a CONNECT is not waited for: its length means nothing
            // [MQTT-3.1.0-1].
            if phase == Phase::AwaitingConnect && rest.first().is_some_and(|&first| first >> 4 != 1)
            {
                self.clients.counters.protocol_errors += 1;
                self.report(effects);
                self.log_refused(key, None, RefusalCause::NotConnect, effects);
                self.close(key, effects);
                return bytes.len();
            }
            let size_max = match phase {
                Phase::Connected(_) => self.clients.limits.max_packet_size,
                _ => self.clients.limits.connect_size_max(),
            };
            // HOT: per PUBLISH of QoS 0.
            if let Phase::Connected(session) = phase
                && rest.first() == Some(&PlainPublish::FIRST_BYTE)
                && !vetted
                && let Some(run) = self.handle_run(session, version, rest, size_max, now, effects)
            {
                consumed += run.size.get();
                self.end_packets(key, run.count, now);
                continue;
            }
            let (header, body) = match split_packet(rest, size_max) {
                Ok(Some(packet)) => packet,
                Ok(None) => break,
                Err(error) => {
                    self.count_last(consumed, 0);
                    self.fail(key, error.into(), now, effects);
                    return bytes.len();
                }
            };
            let size = header.total_size();
            let step = match phase {
                // HOT: per PUBLISH.
                Phase::Connected(session) if header.first_byte >> 4 == packet_type::PUBLISH => {
                    // Handed on where it was decoded: it is large, and was just written.
                    match &codec::decode_publish(version, header.first_byte, body) {
                        Ok(publish) => {
                            self.handle_publish(key, session, publish, vetted, now, effects)
                        }
                        Err(error) => Err(ProtocolError::from(*error)),
                    }
                }
                Phase::Connected(session) => {
                    // Where packets are logged, everybody is vetted.
                    if vetted && self.logs(LogMask::PACKETS) {
                        self.log_packet(key, session, header.first_byte, body, effects);
                    }
                    self.handle_packet(key, session, version, header.first_byte, body, now, effects)
                }
                _ => Ok(self.handle_first_packet(key, header.first_byte, body, now, effects)),
            };
            match step {
                Ok(Step::Continue) => consumed += size,
                Ok(Step::Blocked) => break,
                Ok(Step::Stop) => {
                    self.count_last(consumed, size);
                    return bytes.len();
                }
                Ok(Step::HandedOver) => return 0,
                Err(error) => {
                    self.count_last(consumed, size);
                    self.fail(key, error, now, effects);
                    return bytes.len();
                }
            }
            self.end_packets(key, 1, now);
        }
        self.clients.counters.bytes_received += consumed as u64;
        if consumed > 0
            && let Some(connection) = self.clients.connections.get_mut(key)
        {
            connection.last_packet_at = now;
            let received = self.clients.counters.publish_received - received_before;
            if received > 0 && self.sampled.received.is_due(consumed) {
                self.sampled.received.push(key, consumed, received as f64);
            }
        }
        consumed
    }

    /// Nothing more is taken of a connection that ends: so many bytes were, and the packet of `size` that ended it, if
    /// it was one. That one was received as well, whatever it was.
    #[cold]
    #[inline(never)]
    fn count_last(&mut self, consumed: usize, size: usize) {
        let counters = &mut self.clients.counters;
        counters.bytes_received += (consumed + size) as u64;
        counters.packets_received += u64::from(size > 0);
    }

    /// So many packets have been dealt with.
    #[inline]
    fn end_packets(&mut self, key: ConnectionKey, count: usize, now: Instant) {
        self.clients.counters.packets_received += count as u64;
        self.look_after(key, now);
        self.end_frame();
    }

    /// What is written down from here on may be part of another frame.
    #[inline]
    pub(super) fn end_frame(&mut self) {
        if let Some(store) = &mut self.clients.store {
            store.journal.end_packet();
        }
    }

    /// Size of the packet that `bytes` begins with, if that much of it is there: what a caller with
    /// a part of it may reserve. Zero if it cannot be told.
    #[must_use]
    pub fn packet_size(&self, key: ConnectionKey, bytes: &[u8]) -> usize {
        let size_max = match self
            .clients
            .connections
            .get(key)
            .map(|connection| connection.phase)
        {
            Some(Phase::Connected(_)) => self.clients.limits.max_packet_size,
            _ => self.clients.limits.connect_size_max(),
        };
        match codec::decode_fixed_header(bytes, size_max) {
            Ok(Some(header)) => header.total_size(),
            _ => 0,
        }
    }

    fn handle_first_packet(
        &mut self,
        key: ConnectionKey,
        first_byte: u8,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Step {
        self.report(effects);
        match codec::decode(ProtocolVersion::V5, first_byte, body) {
            Ok(Packet::Connect(connect)) => self.handle_connect(key, &connect, now, effects),
            Ok(_) => Step::Stop,
            Err(error) => {
                self.clients.counters.protocol_errors += 1;
                self.refuse_connect(key, body, error.into(), effects);
                Step::Stop
            }
        }
    }

    // HOT: per acknowledgement.
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    fn handle_packet(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        version: ProtocolVersion,
        first_byte: u8,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        // The packets of a message's way are decoded by themselves: `Packet` is large.
        let acknowledgement = || codec::decode_acknowledgement(version, first_byte, body);
        match first_byte >> 4 {
            packet_type::PUBACK => {
                self.handle_puback(session, &acknowledgement()?, now, effects)?
            }
            packet_type::PUBREC => {
                self.handle_pubrec(key, session, &acknowledgement()?, now, effects)?;
            }
            packet_type::PUBREL => {
                self.handle_pubrel(key, session, &acknowledgement()?, now, effects);
            }
            packet_type::PUBCOMP => {
                self.handle_pubcomp(session, &acknowledgement()?, now, effects)?;
            }
            _ => {
                return self
                    .handle_rare_packet(key, session, version, first_byte, body, now, effects);
            }
        }
        Ok(Step::Continue)
    }

    #[inline(never)] // Acknowledgements do not pay for it.
    #[allow(clippy::too_many_arguments)] // As `handle_packet`, whose second half it is.
    fn handle_rare_packet(
        &mut self,
        key: ConnectionKey,
        session: SessionKey,
        version: ProtocolVersion,
        first_byte: u8,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> Result<Step, ProtocolError> {
        if let packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE = first_byte >> 4 {
            let packet = Presented {
                version,
                first_byte,
                body,
            };
            return self.handle_filters(key, session, packet, now, effects);
        }
        match codec::decode(version, first_byte, body)? {
            Packet::PingReq => {
                if let Some(connection) = self.clients.connections.get_mut(key) {
                    // [MQTT-3.12.4-1]
                    connection.outbox.extend_from_slice(&codec::PINGRESP);
                    self.clients.counters.packets_sent += 1;
                    mark_dirty(connection, key, effects);
                }
            }
            Packet::Disconnect(disconnect) => {
                self.handle_disconnect(key, &disconnect, now, effects)?;
                return Ok(Step::Stop);
            }
            Packet::Connect(_) => return Err(ProtocolError::SecondConnect),
            Packet::Auth(_) => return Err(ProtocolError::UnexpectedAuth),
            Packet::ConnAck(_) | Packet::SubAck(_) | Packet::UnsubAck(_) | Packet::PingResp => {
                return Err(ProtocolError::ServerPacket);
            }
            Packet::Publish(_)
            | Packet::PubAck(_)
            | Packet::PubRec(_)
            | Packet::PubRel(_)
            | Packet::PubComp(_)
            | Packet::Subscribe(_)
            | Packet::Unsubscribe(_) => unreachable!("decoded by themselves"),
        }
        Ok(Step::Continue)
    }

    /// Ends a connection whose Client broke the protocol.
    fn fail(
        &mut self,
        key: ConnectionKey,
        error: ProtocolError,
        now: Instant,
        effects: &mut Effects,
    ) {
        self.clients.counters.protocol_errors += 1;
        self.disconnect(key, DisconnectCause::Protocol(error), now, effects);
    }

    /// The peer closed, or the socket failed. Not for connections that [`Effects::closes`] named.
    pub fn handle_closed(&mut self, key: ConnectionKey, now: Instant, effects: &mut Effects) {
        let session = self
            .clients
            .connections
            .get(key)
            .and_then(|connection| connection.session());
        self.report(effects);
        self.log_end(key, DisconnectCause::Closed, effects);
        if let Some(session) = session {
            self.detach(session, now, effects);
        }
        self.remove_connection(key);
    }

    /// Frees the key of a connection that [`Effects::closes`] named.
    pub fn forget(&mut self, key: ConnectionKey) {
        self.remove_connection(key);
    }

    /// An envelope from shard `from`, in the order it sent them. What is left of it after `most` messages comes
    /// back, to be handled before anything else from there.
    pub fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Envelope,
        most: usize,
        now: Instant,
        effects: &mut Effects,
    ) -> Option<Envelope> {
        if self.is_spread_from(from) {
            self.spread_before(most, now, effects);
            if self.is_spread_from(from) {
                return Some(envelope);
            }
        }
        match envelope {
            Envelope::Batch {
                batch,
                next,
                handled,
            } => {
                return self.handle_batch(from, batch, (next, handled), most, now, effects);
            }
            Envelope::Publish {
                message,
                retained,
                deliver,
            } => {
                let mut matches = None;
                if deliver {
                    matches = self.matches_in_time(message.topic_name(), None, now);
                    if matches.is_none() {
                        self.look_up_before(most, now, effects);
                        effects.messages = most.max(1);
                        return Some(Envelope::Publish {
                            message,
                            retained,
                            deliver,
                        });
                    }
                }
                let ticket = self.peers[from.index()].ticket.take();
                self.begin_forwarded(from, ticket, message.as_ref().as_ref(), now, effects);
                self.handle_forwarded(from, message, retained, matches, now, effects);
                self.end_forwarded(from, ticket, now, effects);
            }
            Envelope::PublishShared {
                message,
                filter,
                first,
            } => {
                let ticket = self.peers[from.index()].ticket.take();
                if !self.legacies.is_empty() && self.is_left_to(&filter) {
                    self.fall_in(from, ticket, message, filter, first, now, effects);
                } else {
                    self.begin_forwarded(from, ticket, message.as_ref().as_ref(), now, effects);
                    self.handle_forwarded_shared(&message, &filter, first, now, effects);
                    self.end_forwarded(from, ticket, now, effects);
                }
            }
            Envelope::Ticket {
                ticket,
                origin,
                repeats,
            } => {
                self.peers[from.index()].ticket = Some(store::Ticket {
                    ticket,
                    origin,
                    repeats,
                });
            }
            Envelope::HandedOn { session, sequence } => {
                let handed_on = store::HandedOn { session, sequence };
                self.peers[from.index()].handed_on.push(handed_on);
            }
            Envelope::Settle { round } => self.handle_settle(from, round),
            Envelope::Settled { round } => self.handle_settled(round),
            Envelope::Sync => self.handle_sync(from),
            Envelope::Synced => self.handle_others_synced(),
            Envelope::Stored { ticket, more } => {
                self.handle_stored(ticket, now, effects);
                let mut left = more;
                while left != 0 {
                    let behind = u64::from(left.trailing_zeros());
                    self.handle_stored(ticket + 1 + behind, now, effects);
                    left &= left - 1;
                }
            }
            Envelope::StoreStalled { stalled } => {
                self.peers[from.index()].stalled = stalled;
                self.handle_stalls_changed(now, effects);
            }
            Envelope::Interest {
                sequence,
                filter,
                interest,
            } => {
                self.handle_interest(from, sequence, &filter, interest);
            }
            Envelope::InterestAck { sequence } => {
                self.handle_interest_ack(from, sequence, now, effects);
            }
            Envelope::ClockRequest { clock } => {
                self.observe_clock(from, clock);
                let clock = self.clock;
                self.post(from, Envelope::Clock { clock });
            }
            Envelope::Clock { clock } => self.handle_clock(from, clock, now),
        }
        effects.messages += self.take_cost_in_messages();
        self.end_frame();
        None
    }

    /// Time has passed: ends silent connections, publishes Wills, ends Sessions. Some at a time:
    /// [`Shard::next_deadline`] is not later than `now` while there are more.
    pub fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        self.report(effects);
        let mut steps = 0;
        while steps < DEADLINE_STEPS_A_TURN
            && let Some(slot) = self.timers.pop_due(now)
        {
            steps += 1;
            match slot {
                Slot::Connection(index) => {
                    if let Some(key) = self.clients.connections.key_at(index)
                        && self.handle_silence(key, now, effects)
                    {
                        steps += DEADLINE_STEPS - 1;
                    }
                }
                Slot::Session(index) => {
                    if let Some(session) = self.clients.members.key_at(index) {
                        self.handle_session_deadline(session, now, effects);
                        steps += DEADLINE_STEPS - 1;
                    }
                }
                Slot::Tombstones => self.request_clocks(now),
                Slot::RetainedExpiry => self.expire_retained(now),
                Slot::DiskPatience => self.resume_waiting_for_disk(effects),
                Slot::Replays => self.continue_replays(now, effects),
                Slot::Filters => self.continue_filters(now, effects),
                Slot::Ended => {
                    self.continue_legacies(now, effects);
                    self.forget_ended(now);
                }
                Slot::Visits => self.continue_visits(now, effects),
                Slot::Spreads => {
                    self.resume_resting(effects);
                    self.continue_look_up(now, effects);
                    self.continue_spreads(now, effects);
                }
                Slot::Tidying => self.tidy(now),
                Slot::Dump => self.continue_dump(now, effects),
                Slot::Reload => self.continue_reload(now, effects),
            }
            self.end_frame();
            if self.has_made_way() {
                break;
            }
        }
    }

    /// The next turn goes on with it; nobody wakes the shard for that.
    fn arm_next_turn(&mut self, slot: Slot, now: Instant) {
        self.timers.arm(slot, now + Duration::from_nanos(1));
    }

    /// Ends a connection that has been silent for too long; whether it was.
    fn handle_silence(&mut self, key: ConnectionKey, now: Instant, effects: &mut Effects) -> bool {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return false;
        };
        if connection.phase == Phase::Closing {
            return false;
        }
        // A Client that we do not read cannot show that it is alive.
        if connection.pause.contains(Pause::NOT_ITS_FAULT) {
            connection.last_packet_at = now;
        }
        let Some(deadline) = connection.deadline() else {
            return false;
        };
        if deadline > now {
            self.timers.arm(Slot::Connection(key.index), deadline);
            return false;
        }
        let error = match connection.phase {
            Phase::AwaitingConnect => ProtocolError::ConnectTimeout,
            _ => ProtocolError::KeepAliveTimeout,
        };
        self.fail(key, error, now, effects);
        true
    }

    /// When [`Shard::handle_timeout`] is next worth a call.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        if self.unreported.is_empty() {
            self.timers.next_deadline()
        } else {
            // Whoever says nothing is in the log as well.
            Some(Instant::ZERO)
        }
    }

    /// Swaps the pending output of a connection with `buffer`, which is empty and whose capacity is
    /// used again. Of large payloads it is a piece: once that is sent, the connection is named in
    /// [`Effects::dirty`] again.
    pub fn take_output(&mut self, key: ConnectionKey, buffer: &mut Vec<u8>) {
        let piece_size = self.clients.sharing.piece_size;
        self.take_output_in_pieces(key, piece_size, buffer);
    }

    /// Bytes that a connection has to be sent, in its outbox and before it.
    #[must_use]
    pub fn output_size(&self, key: ConnectionKey) -> usize {
        let connection = self.clients.connections.get(key);
        connection.map_or(0, |connection| {
            connection.outbox.len() + connection.parts_size()
        })
    }

    /// As [`Shard::take_output`], of everything: nobody will ask again.
    pub fn take_last_output(&mut self, key: ConnectionKey, buffer: &mut Vec<u8>) {
        self.take_output_in_pieces(key, usize::MAX, buffer);
    }

    #[inline]
    fn take_output_in_pieces(
        &mut self,
        key: ConnectionKey,
        piece_size: usize,
        buffer: &mut Vec<u8>,
    ) {
        debug_assert!(buffer.is_empty(), "output would be lost");
        if let Some(connection) = self.clients.connections.get_mut(key) {
            connection.dirty = false;
            if connection.is_gated() {
                return;
            }
            let ended = if connection.has_parts() {
                if !connection.wants_piece(piece_size) {
                    return;
                }
                Some(connection.take_piece(piece_size, buffer))
            } else {
                std::mem::swap(&mut connection.outbox, buffer);
                connection.unsent += buffer.len();
                None
            };
            self.clients.counters.bytes_sent += buffer.len() as u64;
            if self.sampled.sent.is_due(buffer.len()) {
                let messages = ended.map_or_else(|| count_messages(buffer), |ended| ended as f64);
                self.sampled.sent.push(key, buffer.len(), messages);
            }
        }
    }

    /// The socket of a connection still has `unsent` of the bytes taken. Told at the end of a turn
    /// in which that changed or output was taken.
    pub fn handle_unsent(
        &mut self,
        key: ConnectionKey,
        unsent: usize,
        now: Instant,
        effects: &mut Effects,
    ) {
        let outbox_bytes_max = self.clients.limits.outbox_bytes_max;
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        connection.unsent = unsent;
        if connection.has_parts() {
            connection.unsent += connection.parts_size();
            if connection.wants_piece(self.clients.sharing.piece_size) {
                mark_dirty(connection, key, effects);
            }
        }
        connection.leave_beyond_outbox(outbox_bytes_max, &mut self.clients.beyond_outboxes);
        if connection.pending() > outbox_bytes_max / 2 {
            return;
        }
        if let Some(session) = connection.session()
            && (connection
                .rare()
                .is_some_and(|rare| rare.replay.is_some() || rare.resend.is_some())
                || self
                    .clients
                    .members
                    .get(session)
                    .is_some_and(|m| !m.session.queue.is_empty()))
        {
            self.send_pending(session, now, effects);
        }
        self.resume(key, Pause::OUTBOX, effects);
    }

    /// Envelopes for shard `to`, oldest first. The runtime moves as many as the ring has room for,
    /// then calls [`Shard::handle_ring_room`].
    pub fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Envelope> {
        let peer = &mut self.peers[to.index()];
        peer.close(&mut self.batches);
        &mut peer.outbound
    }

    /// So many envelopes for shard `to` can be moved when the runtime next does. A turn may bring more than
    /// the backlog is to hold, and what the ring is about to take is no backlog.
    pub fn set_ring_room(&mut self, to: ShardId, room: usize) {
        self.peers[to.index()].ring_room = room;
    }

    /// Envelopes were moved into rings: publishers that waited for room are read again.
    pub fn handle_ring_room(&mut self, effects: &mut Effects) {
        let backlog_max = self.clients.limits.peer_backlog_max;
        if self.ring_is_full && self.peers.iter().all(|peer| peer.has_room(backlog_max)) {
            self.ring_is_full = false;
            for key in std::mem::take(&mut self.waiting_for_ring) {
                self.resume(key, Pause::RING, effects);
            }
        }
    }

    /// The broker is about to stop. Wills that would be published as their connections end, or that nobody could publish
    /// later, are published while their subscribers are still there [MQTT-3.1.2-8].
    pub fn handle_stopping(&mut self, now: Instant, effects: &mut Effects) {
        let sessions: Vec<_> = self.clients.members.keys().collect();
        for session in sessions {
            let is_due = self.clients.members.get(session).is_some_and(|member| {
                let session = &member.session;
                let outlasts = session.is_stored() && session.expiry_interval_s > 0;
                let will = session.will.as_ref();
                will.is_some_and(|will| !outlasts || will.delay_interval_s == 0)
            });
            if is_due {
                self.publish_will(session, now, effects);
                self.end_frame();
            }
        }
    }

    /// The broker stops: every v5 Client is told so, every connection is closed.
    pub fn handle_shutdown(&mut self, now: Instant, effects: &mut Effects) {
        self.finish_spreads(now, effects);
        self.finish_legacies(now, effects);
        let keys: Vec<_> = self.clients.connections.keys().collect();
        for key in keys {
            self.disconnect(
                key,
                DisconnectCause::Server(ReasonCode::ServerShuttingDown),
                now,
                effects,
            );
        }
        // Wills of those who had come since, and what they have left.
        self.finish_spreads(now, effects);
        self.finish_legacies(now, effects);
    }

    /// Whether `key` is not to be read for now.
    #[must_use]
    pub fn is_paused(&self, key: ConnectionKey) -> bool {
        self.clients
            .connections
            .get(key)
            .is_some_and(|connection| connection.pause.any())
    }

    /// Whether the CONNECT of `key` was accepted here.
    #[must_use]
    pub fn is_connected(&self, key: ConnectionKey) -> bool {
        self.clients
            .connections
            .get(key)
            .is_some_and(|connection| connection.session().is_some())
    }

    /// What this shard has done and refused.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.clients.counters
    }

    fn peer_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        let own = self.id;
        (0..self.peers.len() as u16)
            .map(ShardId)
            .filter(move |&peer| peer != own)
    }

    fn post(&mut self, to: ShardId, envelope: Envelope) {
        let peer = &mut self.peers[to.index()];
        peer.post(envelope, &mut self.batches);
        self.ring_is_full |= peer.is_full(self.clients.limits.peer_backlog_max);
    }

    fn resume(&mut self, key: ConnectionKey, reason: Pause, effects: &mut Effects) {
        let Some(connection) = self.clients.connections.get_mut(key) else {
            return;
        };
        if connection.pause.contains(reason) {
            connection.pause.clear(reason);
            if !connection.pause.any() {
                effects.resumed.push(key);
            }
        }
    }

    /// Looks whether a Client may go on that has sent something.
    // HOT: per packet.
    #[inline]
    fn look_after(&mut self, key: ConnectionKey, now: Instant) {
        let limit = self.clients.answers_max;
        if let Some(connection) = self.clients.connections.get(key)
            && connection.answers() >= limit
        {
            self.pause_after(key, now);
        }
    }

    #[cold]
    #[inline(never)]
    fn pause_after(&mut self, key: ConnectionKey, now: Instant) {
        let cost = self.take_cost();
        if let Some(connection) = self.clients.connections.get_mut(key)
            && connection.answers() >= self.clients.answers_max
        {
            connection.pause.set(Pause::OUTBOX);
            self.clients.counters.paused_outbox_full += 1;
        }
        if cost > 0 {
            self.rest(key, cost, now);
        }
    }
}

/// The packet that `bytes` begins with, if all of it is there.
fn split_packet(
    bytes: &[u8],
    size_max: u32,
) -> Result<Option<(codec::FixedHeader, &[u8])>, DecodeError> {
    let Some(header) = codec::decode_fixed_header(bytes, size_max)? else {
        return Ok(None);
    };
    Ok(bytes
        .get(header.header_size..header.total_size())
        .map(|body| (header, body)))
}
