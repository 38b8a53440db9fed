//! The broker under control: shards, the rings between them, the network and the clock.
//!
//! Does what `runtime` and `net` do, with nothing left to chance but what [`Pace`] draws: how many
//! envelopes move, how many bytes arrive, which shard's turn it is. Everything that crosses the border
//! of the broker is logged as an [`Event`], in an order that [`super::oracle`] can follow.
//!
//! **Knows nothing of** MQTT beyond where one packet ends: what is right is for the oracle to say.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use super::oracle::Violation;
use super::random::Random;
use crate::codec::{self, FixedHeader};
use crate::key::{ConnectionKey, ShardId};
use crate::limits::{Limits, PACKET_SIZE_MAX};
use crate::origin::Origin;
use crate::policy::Settings;
use crate::shard::{Census, Command, Effects, Envelope, Notice, Shard, Verdict};
use crate::time::Instant;
use crate::wal::{Log, Store, Writer};

/// Turns of all shards in which what they have for each other as they stop is taken.
const STOPPING_ROUNDS_MAX: usize = 1000;

/// A Network Connection, counted from 0 over the whole simulation.
pub type WireId = usize;

/// Something that crossed the border of the broker.
#[derive(Clone, Debug)]
pub enum Event {
    /// A Client has left before its CONNECT could end a connection that it may have made later.
    GivenUp {
        /// Which one.
        wire: WireId,
    },
    /// A shard is about to be told that time has passed.
    Timeout {
        /// Which one.
        shard: ShardId,
    },
    /// A shard was told what the operator decided anew.
    Configured {
        /// Which one.
        shard: ShardId,
    },
    /// A shard took one whole packet from a connection.
    Consumed {
        /// The connection.
        wire: WireId,
        /// Who took it.
        shard: ShardId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// A shard has begun with a SUBSCRIBE or UNSUBSCRIBE: what it says may be in force or not, until it is taken.
    Begun {
        /// The connection.
        wire: WireId,
        /// The packet.
        packet: Vec<u8>,
    },
    /// A shard gave out packets for a connection.
    Output {
        /// The connection.
        wire: WireId,
        /// Whole packets.
        bytes: Vec<u8>,
        /// When the first of them may have been written, if not just now.
        since: Option<Instant>,
    },
    /// A shard ended a connection.
    Closing {
        /// The connection.
        wire: WireId,
    },
    /// A shard was told that a connection is lost.
    Lost {
        /// The connection.
        wire: WireId,
    },
    /// A shard gave a connection to another one.
    HandedOver {
        /// The connection.
        wire: WireId,
        /// The new owner.
        to: ShardId,
    },
}

/// How much of what could happen happens in one turn.
#[derive(Debug)]
pub enum Pace<'a> {
    /// All of it.
    Full,
    /// Some of it.
    Random(&'a mut Random),
}

impl Pace<'_> {
    fn amount(&mut self, available: usize) -> usize {
        match self {
            Self::Full => available,
            Self::Random(random) => match random.below(4) {
                0 => random.below(available + 1),
                1 => random.below(available.min(4) + 1),
                _ => available,
            },
        }
    }

    fn often(&mut self) -> bool {
        match self {
            Self::Full => true,
            Self::Random(random) => random.chance(80),
        }
    }

    fn seldom(&mut self) -> bool {
        match self {
            Self::Full => false,
            Self::Random(random) => random.chance(20),
        }
    }

    fn order<T>(&mut self, items: &mut [T]) {
        if let Self::Random(random) = self {
            random.shuffle(items);
        }
    }
}

/// The whole packet that `bytes` begins with: its header, its body and what follows it.
pub(super) fn split_packet(bytes: &[u8]) -> Option<(FixedHeader, &[u8], &[u8])> {
    let header = codec::decode_fixed_header(bytes, PACKET_SIZE_MAX).ok()??;
    let body = bytes.get(header.header_size..header.total_size())?;
    Some((header, body, &bytes[header.total_size()..]))
}

/// Where the broker's end of a connection is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Place {
    /// In the backlog of a listener, or on its way from another shard.
    Waiting,
    /// With a shard.
    At(ShardId, ConnectionKey),
    /// No longer with any.
    Gone,
}

/// One Network Connection: two pipes of bytes.
#[derive(Debug)]
struct Wire {
    place: Place,
    origin: Origin,
    /// Client to broker, in the network.
    up: VecDeque<u8>,
    /// Nothing follows `up`.
    up_ended: bool,
    /// Received by the broker and not consumed.
    held: Vec<u8>,
    /// The shard has begun with the first packet of it.
    is_begun: bool,
    /// Taken from the shard and not accepted by the socket.
    sending: Vec<u8>,
    /// What the shard knows of `sending`.
    reported_unsent: usize,
    /// Output was taken since the shard was last told of `sending`.
    taken: bool,
    /// Of the output that was taken, the beginning of a packet whose rest was not.
    cut: Vec<u8>,
    /// When output was left to the next time first, if there is some.
    left_since: Option<Instant>,
    /// Broker to Client, in the network.
    down: VecDeque<u8>,
    /// Nothing follows `down`: the broker closed, or the Client is gone.
    down_ended: bool,
}

/// What was read of a connection: whole packets that the shard took, and what it left.
#[derive(Clone, Copy)]
struct Read<'a> {
    wire: WireId,
    consumed: &'a [u8],
    rest: &'a [u8],
}

/// What crossed from shard to shard.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Traffic {
    /// Messages for subscribers or replicas, by the shard they went to.
    pub messages: Vec<u64>,
    /// Envelopes that they were in.
    pub message_envelopes: u64,
    /// Changes of what a shard wants of a filter.
    pub announcements: u64,
    /// Their acknowledgements.
    pub acknowledgements: u64,
    /// Every other envelope.
    pub others: u64,
    /// Shards that were asleep and had to be woken for an envelope.
    pub wakes: u64,
}

impl Traffic {
    fn count(&mut self, to: usize, envelope: &Envelope) {
        match envelope {
            Envelope::Batch { batch, .. } => self.count_messages(to, batch.len() as u64),
            Envelope::Publish { .. } | Envelope::PublishShared { .. } => self.count_messages(to, 1),
            Envelope::Interest { .. } => self.announcements += 1,
            Envelope::InterestAck { .. } => self.acknowledgements += 1,
            _ => self.others += 1,
        }
    }

    fn count_messages(&mut self, to: usize, count: u64) {
        self.messages.resize(self.messages.len().max(to + 1), 0);
        self.messages[to] += count;
        self.message_envelopes += 1;
    }
}

/// A shard and what its runtime would hold for it.
#[derive(Debug)]
struct Host {
    shard: Shard,
    /// Found nothing to do at the end of its turn, and was not woken since.
    is_asleep: bool,
    effects: Effects,
    wires: BTreeMap<ConnectionKey, WireId>,
    waiting: VecDeque<WireId>,
    dirty: Vec<WireId>,
    resumed: VecDeque<WireId>,
    /// Closed connections whose keys are still to be freed.
    forgets: Vec<ConnectionKey>,
    /// What side threads have for it.
    commands: VecDeque<Command>,
    /// Its log, if Sessions are stored.
    log: Option<(Log, Writer)>,
}

/// A whole broker, its network and its clock.
#[derive(Debug)]
pub struct World {
    now: Instant,
    hosts: Vec<Host>,
    /// Ring from shard to shard, at `from * shards + to`.
    rings: Vec<VecDeque<Envelope>>,
    ring_capacity: usize,
    /// Bytes a socket accepts before its Client reads.
    socket_capacity: usize,
    limits: Limits,
    wires: Vec<Wire>,
    log: Vec<Event>,
    /// Counts everything that moved.
    moved: u64,
    /// Most bytes any connection held unsent.
    unsent_max: usize,
    /// What shards told the threads beside them, requests for password checks apart.
    notices: Vec<(ShardId, Notice)>,
    traffic: Traffic,
}

impl World {
    /// A broker of `shard_count` shards.
    #[must_use]
    pub fn new(
        shard_count: usize,
        settings: Settings,
        seed: u64,
        ring_capacity: usize,
        socket_capacity: usize,
    ) -> Self {
        let limits = settings.policy.limits.clone();
        let settings = Arc::new(settings);
        let shard = |index: usize| {
            let id = ShardId(index as u16);
            let mut shard = Shard::with_settings(id, shard_count, settings.clone(), seed);
            // In half of them nearly all that comes alone goes on in the buffer it came in.
            if seed.is_multiple_of(2) {
                shard.set_moved_payload_min(1);
            }
            // And in a third of them nearly all that goes to several is shared.
            if seed.is_multiple_of(3) {
                let piece_size = 1 + (seed / 3 % 40) as usize;
                shard.set_sharing(1 + (seed / 7 % 30) as usize, piece_size);
            }
            shard
        };
        let host = |index| Host {
            shard: shard(index),
            is_asleep: false,
            effects: Effects::default(),
            wires: BTreeMap::new(),
            waiting: VecDeque::new(),
            dirty: Vec::new(),
            resumed: VecDeque::new(),
            forgets: Vec::new(),
            commands: VecDeque::new(),
            log: None,
        };
        Self {
            now: Instant::ZERO.add_seconds(1),
            hosts: (0..shard_count).map(host).collect(),
            rings: vec![VecDeque::new(); shard_count * shard_count],
            ring_capacity,
            socket_capacity,
            limits,
            wires: Vec::new(),
            log: Vec::new(),
            moved: 0,
            unsent_max: 0,
            notices: Vec::new(),
            traffic: Traffic::default(),
        }
    }

    /// A broker that goes on with what is stored.
    #[must_use]
    pub fn with_store(
        store: Store,
        settings: Settings,
        ring_capacity: usize,
        now: Instant,
    ) -> Self {
        let count = store.shards.len();
        let mut world = Self::new(count, settings, store.seed, ring_capacity, 1 << 16);
        world.now = now;
        let logs = store.shards.into_iter().zip(store.logs);
        for (index, (host, (part, mut log))) in world.hosts.iter_mut().zip(logs).enumerate() {
            part.restore(&mut host.shard, index, count, now);
            host.log = log.take_writer().map(|writer| (log, writer));
        }
        world
    }

    /// A side thread sends `command` to one shard.
    pub fn command(&mut self, shard: usize, command: Command) {
        self.hosts[shard].commands.push_back(command);
        self.moved += 1;
    }

    /// What shards have told since this was last asked.
    pub fn take_notices(&mut self) -> Vec<(ShardId, Notice)> {
        std::mem::take(&mut self.notices)
    }

    /// The time.
    #[must_use]
    pub const fn now(&self) -> Instant {
        self.now
    }

    /// Lets time pass.
    pub fn pass(&mut self, duration: Duration) {
        self.now = self.now + duration;
    }

    /// Lets time pass until `at`, if that is still to come.
    pub fn pass_until(&mut self, at: Instant) {
        self.now = self.now.max(at);
    }

    /// When a shard next wants to be woken.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.hosts
            .iter()
            .filter_map(|host| host.shard.next_deadline())
            .min()
    }

    /// Lets sockets accept that many bytes before their Clients read.
    pub const fn set_socket_capacity(&mut self, capacity: usize) {
        self.socket_capacity = capacity;
    }

    /// Gives every ring that many slots.
    pub const fn set_ring_capacity(&mut self, capacity: usize) {
        self.ring_capacity = capacity;
    }

    /// Shards there are.
    #[must_use]
    pub fn shard_count(&self) -> usize {
        self.hosts.len()
    }

    /// A shard, to look at.
    #[must_use]
    pub fn shard(&self, index: usize) -> &Shard {
        &self.hosts[index].shard
    }

    /// What all shards hold.
    #[must_use]
    pub fn censuses(&self) -> Vec<Census> {
        self.hosts.iter().map(|host| host.shard.census()).collect()
    }

    /// Whether Sessions or connections that have ended have left something that is still to be forgotten, or a message has
    /// not come to everybody.
    pub(super) fn has_more_turns_to_do(&self) -> bool {
        let censuses = self.censuses();
        let is_left = |it: &Census| it.ended + it.visited + it.spreading + it.left > 0;
        censuses.iter().any(is_left)
    }

    /// Once everybody has left and all is forgotten, nothing may be left.
    pub(super) fn check_empty(&self) -> Result<(), Violation> {
        for (shard, census) in self.censuses().into_iter().enumerate() {
            if census != Census::default() {
                return Err(Violation(format!("shard {shard} still holds {census:?}")));
            }
        }
        if self.ring_used() > 0 || self.wires_held() > 0 {
            return Err(Violation(format!("rings hold {}", self.ring_used())));
        }
        Ok(())
    }

    /// A sum over the counters of all shards.
    pub fn sum(&self, counter: impl Fn(&crate::metrics::Counters) -> u64) -> u64 {
        self.hosts
            .iter()
            .map(|host| counter(host.shard.counters()))
            .sum()
    }

    /// Counts everything that moved: as long as it stands still, so does the world.
    #[must_use]
    pub const fn moved(&self) -> u64 {
        self.moved
    }

    /// Most bytes any connection ever held unsent.
    #[must_use]
    pub const fn unsent_max(&self) -> usize {
        self.unsent_max
    }

    /// Envelopes in rings.
    #[must_use]
    pub fn ring_used(&self) -> usize {
        self.rings.iter().map(VecDeque::len).sum()
    }

    /// What crossed from shard to shard since the last call.
    pub fn take_traffic(&mut self) -> Traffic {
        std::mem::take(&mut self.traffic)
    }

    /// What crossed the border since the last call.
    pub fn take_log(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.log)
    }

    // --- The Client's end of a connection.

    /// Connects to `shard`.
    pub fn open(&mut self, shard: usize) -> WireId {
        self.open_from(shard, Origin::default())
    }

    /// A Client connects from `origin`.
    pub fn open_from(&mut self, shard: usize, origin: Origin) -> WireId {
        let wire = self.wires.len();
        self.wires.push(Wire {
            place: Place::Waiting,
            origin,
            up: VecDeque::new(),
            up_ended: false,
            held: Vec::new(),
            is_begun: false,
            sending: Vec::new(),
            reported_unsent: 0,
            taken: false,
            cut: Vec::new(),
            left_since: None,
            down: VecDeque::new(),
            down_ended: false,
        });
        self.hosts[shard].waiting.push_back(wire);
        wire
    }

    /// The Client sends.
    pub fn send(&mut self, wire: WireId, bytes: &[u8]) {
        let wire = &mut self.wires[wire];
        if !wire.up_ended {
            wire.up.extend(bytes);
        }
    }

    /// The Client reads up to `count` bytes.
    pub fn receive(&mut self, wire: WireId, count: usize) -> Vec<u8> {
        let down = &mut self.wires[wire].down;
        let count = count.min(down.len());
        self.moved += count as u64;
        down.drain(..count).collect()
    }

    /// Bytes the Client could read.
    #[must_use]
    pub fn receivable(&self, wire: WireId) -> usize {
        self.wires[wire].down.len()
    }

    /// Whether the Client has read all and the broker closed.
    #[must_use]
    pub fn is_ended(&self, wire: WireId) -> bool {
        self.wires[wire].down_ended && self.wires[wire].down.is_empty()
    }

    /// The Client closes after what it has sent, and reads no more.
    pub fn close(&mut self, wire: WireId) {
        let wire = &mut self.wires[wire];
        wire.up_ended = true;
        wire.down_ended = true;
        wire.down.clear();
    }

    /// The network loses the connection, and with it any part of what is under way.
    pub fn cut(&mut self, wire: WireId, random: &mut Random) {
        let wire = &mut self.wires[wire];
        wire.up.truncate(random.below(wire.up.len() + 1));
        wire.down.truncate(random.below(wire.down.len() + 1));
        wire.up_ended = true;
        wire.down_ended = true;
    }

    /// The shard a connection is with.
    #[must_use]
    pub fn shard_of(&self, wire: WireId) -> Option<usize> {
        match self.wires[wire].place {
            Place::At(shard, _) => Some(shard.index()),
            Place::Waiting | Place::Gone => None,
        }
    }

    /// Whether the shard does not read this connection for now.
    #[must_use]
    pub fn is_paused(&self, wire: WireId) -> bool {
        match self.wires[wire].place {
            Place::At(shard, key) => self.hosts[shard.index()].shard.is_paused(key),
            Place::Waiting | Place::Gone => false,
        }
    }

    /// Connections that a shard holds.
    #[must_use]
    pub fn wires_held(&self) -> usize {
        self.hosts
            .iter()
            .map(|host| host.wires.len() + host.waiting.len())
            .sum()
    }

    // --- The broker's end.

    /// One turn of one shard, as its runtime would run it.
    pub fn turn(&mut self, index: usize, pace: &mut Pace<'_>) {
        self.hosts[index].is_asleep = false;
        self.forget(index, pace);
        while let Some(command) = self.hosts[index].commands.pop_front() {
            if matches!(command, Command::Configure(_)) {
                self.log.push(Event::Configured {
                    shard: ShardId(index as u16),
                });
            }
            let host = &mut self.hosts[index];
            host.shard
                .handle_command(command, self.now, &mut host.effects);
            self.moved += 1;
            self.carry_out(index, None);
        }
        if self.hosts[index]
            .shard
            .next_deadline()
            .is_some_and(|at| at <= self.now)
        {
            self.log.push(Event::Timeout {
                shard: ShardId(index as u16),
            });
            let host = &mut self.hosts[index];
            host.shard.handle_timeout(self.now, &mut host.effects);
            self.moved += 1;
            self.carry_out(index, None);
        }
        self.drain_rings(index, pace);
        if pace.often() {
            self.accept(index, pace);
        }
        if pace.often() {
            self.read(index, pace);
        }
        self.turn_log(index);
        self.present_resumed(index);
        self.flush(index, pace);
        self.fill_rings(index, pace);
        // A turn ends when all it has caused is done: time passes between turns only.
        while !self.hosts[index].dirty.is_empty() || !self.hosts[index].resumed.is_empty() {
            self.present_resumed(index);
            self.flush(index, pace);
        }
        // As a shard does: it announces its sleep, then looks at its inbound rings once more.
        let count = self.hosts.len();
        let mut inbound = (0..count).map(|from| &self.rings[from * count + index]);
        self.hosts[index].is_asleep = inbound.all(VecDeque::is_empty);
    }

    fn turn_log(&mut self, index: usize) {
        let host = &mut self.hosts[index];
        if let Some((log, _)) = &mut host.log {
            log.turn(&mut host.shard, self.now, &mut host.effects);
            self.carry_out(index, None);
        }
    }

    /// The disk of one shard does one thing that it was asked for, or that is due. Whether there was one.
    pub fn turn_disk(&mut self, index: usize) -> bool {
        let log = self.hosts[index].log.as_mut();
        let has_moved = log.is_some_and(|(_, writer)| writer.step(self.now));
        self.moved += u64::from(has_moved);
        has_moved
    }

    /// Whether the disk of one shard has all that it was given.
    #[must_use]
    pub fn is_stored(&self, index: usize) -> bool {
        let log = self.hosts[index].log.as_ref();
        log.is_none_or(|(_, writer)| writer.is_synced())
    }

    /// Whether the disk of one shard has a log without gaps.
    #[must_use]
    pub fn is_whole(&self, index: usize) -> bool {
        let log = self.hosts[index].log.as_ref();
        log.is_none_or(|(_, writer)| writer.is_whole())
    }

    /// Turns of all shards until nothing moves. False if that takes more than `rounds_max` of them.
    pub fn settle(&mut self, rounds_max: usize) -> bool {
        for _ in 0..rounds_max {
            let before = self.moved;
            for index in 0..self.hosts.len() {
                self.turn(index, &mut Pace::Full);
            }
            if self.moved == before {
                return true;
            }
        }
        false
    }

    /// Tells every shard that the broker stops, as `runtime` does: none closes connections before all Wills are out.
    pub fn shut_down(&mut self) {
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.shard.handle_stopping(self.now, &mut host.effects);
            self.carry_out(index, None);
        }
        self.settle(STOPPING_ROUNDS_MAX);
        for index in 0..self.hosts.len() {
            let host = &mut self.hosts[index];
            host.shard.handle_shutdown(self.now, &mut host.effects);
            self.carry_out(index, None);
        }
    }

    fn forget(&mut self, index: usize, pace: &mut Pace<'_>) {
        let host = &mut self.hosts[index];
        if !pace.seldom() {
            for key in host.forgets.drain(..) {
                host.shard.forget(key);
            }
        }
    }

    fn drain_rings(&mut self, index: usize, pace: &mut Pace<'_>) {
        let count = self.hosts.len();
        let mut froms: Vec<usize> = (0..count).filter(|&from| from != index).collect();
        pace.order(&mut froms);
        for from in froms {
            let ring = from * count + index;
            if self.rings[ring].is_empty() {
                continue;
            }
            for _ in 0..pace.amount(self.rings[ring].len()) {
                let Some(envelope) = self.rings[ring].pop_front() else {
                    break;
                };
                self.moved += 1;
                // Beyond what a batch has, so that it is all of it as well.
                let most = pace.amount(40);
                let host = &mut self.hosts[index];
                let from = ShardId(from as u16);
                let left =
                    host.shard
                        .handle_envelope(from, envelope, most, self.now, &mut host.effects);
                if let Some(left) = left {
                    self.rings[ring].push_front(left);
                }
                self.carry_out(index, None);
            }
        }
    }

    fn accept(&mut self, index: usize, pace: &mut Pace<'_>) {
        for _ in 0..pace.amount(self.hosts[index].waiting.len()) {
            let host = &mut self.hosts[index];
            let Some(wire) = host.waiting.pop_front() else {
                return;
            };
            self.moved += 1;
            let origin = self.wires[wire].origin.clone();
            match host.shard.handle_accept(origin, self.now) {
                Some(key) => {
                    host.wires.insert(key, wire);
                    self.wires[wire].place = Place::At(ShardId(index as u16), key);
                    // A connection that was handed over brings its bytes along.
                    self.present(index, wire);
                }
                None => {
                    self.wires[wire].place = Place::Gone;
                    self.wires[wire].down_ended = true;
                }
            }
        }
    }

    fn read(&mut self, index: usize, pace: &mut Pace<'_>) {
        let mut wires: Vec<WireId> = self.hosts[index].wires.values().copied().collect();
        pace.order(&mut wires);
        for wire in wires {
            let Place::At(_, key) = self.wires[wire].place else {
                continue;
            };
            if !pace.often() {
                continue;
            }
            let is_paused = self.hosts[index].shard.is_paused(key);
            let state = &mut self.wires[wire];
            if !is_paused && !state.up.is_empty() {
                let count = pace.amount(state.up.len());
                state.held.extend(state.up.drain(..count));
                self.moved += count as u64;
                self.present(index, wire);
            }
            if self.wires[wire].up_ended && self.wires[wire].up.is_empty() {
                // What was received before the end is handled before the end.
                self.present(index, wire);
            }
            let state = &self.wires[wire];
            if state.place != Place::At(ShardId(index as u16), key) || !state.up_ended {
                continue;
            }
            // The end is seen behind the last byte; a reset is seen even where nothing is read.
            let is_paused = self.hosts[index].shard.is_paused(key);
            if (state.up.is_empty() && !is_paused) || (is_paused && pace.seldom()) {
                self.lose(index, wire, key);
            }
        }
    }

    fn lose(&mut self, index: usize, wire: WireId, key: ConnectionKey) {
        // What the shard had written and nobody will send: the oracle must know of it.
        self.take_last_output(index, wire, key);
        let host = &mut self.hosts[index];
        host.wires.remove(&key);
        self.wires[wire].place = Place::Gone;
        self.wires[wire].down_ended = true;
        self.moved += 1;
        host.shard.handle_closed(key, self.now, &mut host.effects);
        self.log.push(Event::Lost { wire });
        self.carry_out(index, None);
    }

    /// Gives the shard the bytes of a connection.
    fn present(&mut self, index: usize, wire: WireId) {
        let Place::At(shard, key) = self.wires[wire].place else {
            return;
        };
        assert_eq!(
            shard.index(),
            index,
            "a connection is read by the shard it is with"
        );
        let host = &mut self.hosts[index];
        let held = std::mem::take(&mut self.wires[wire].held);
        if held.is_empty() || host.shard.is_paused(key) {
            self.wires[wire].held = held;
            return;
        }
        let mut whole = 0;
        let mut packets = 0;
        while let size @ 1.. = host.shard.packet_size(key, &held[whole..])
            && size <= held.len() - whole
        {
            whole += size;
            packets += 1;
        }
        // Several are given in a buffer that may be kept, or in one that may not.
        let consumed = if whole == held.len() && (packets == 1 || self.moved.is_multiple_of(2)) {
            let mut packets = held.clone();
            host.shard
                .handle_packets_in(key, &mut packets, self.now, &mut host.effects)
        } else {
            host.shard
                .handle_bytes(key, &held, self.now, &mut host.effects)
        };
        assert!(
            consumed <= held.len(),
            "consumed {consumed} of {} bytes",
            held.len()
        );
        self.moved += consumed as u64;
        self.wires[wire].held = held[consumed..].to_vec();
        let (consumed, rest) = held.split_at(consumed);
        let read = Read {
            wire,
            consumed,
            rest,
        };
        self.carry_out(index, Some(read));
    }

    fn present_resumed(&mut self, index: usize) {
        while let Some(wire) = self.hosts[index].resumed.pop_front() {
            self.moved += 1;
            self.present(index, wire);
        }
    }

    /// Carries out what cannot wait for the end of the turn. `read`: the connection whose bytes were
    /// just handled, and what was consumed of them and what was not.
    ///
    /// The log must let the oracle see causes before effects. What a shard gave to another connection
    /// that it closed because of a packet was given before that packet; what it gave to the connection
    /// that brought the packet, after it.
    fn carry_out(&mut self, index: usize, read: Option<Read<'_>>) {
        let mut effects = std::mem::take(&mut self.hosts[index].effects);
        let own = read.map(|read| read.wire);
        for key in std::mem::take(&mut effects.suspects) {
            let host = &mut self.hosts[index];
            let &wire = host.wires.get(&key).expect("a suspect is known");
            let state = &self.wires[wire];
            let is_there = !state.up_ended || !state.up.is_empty();
            host.shard.handle_presence(key, is_there, &mut effects);
            self.moved += 1;
            if !is_there {
                self.log.push(Event::GivenUp { wire });
            }
        }
        // Only sockets have something to gain by it.
        effects.left.clear();
        let closing: Vec<(WireId, ConnectionKey)> = effects
            .closes
            .drain(..)
            .map(|key| {
                let wire = self.hosts[index].wires.remove(&key);
                (wire.expect("a connection that is closed is known"), key)
            })
            .collect();
        for &(wire, key) in closing.iter().filter(|_| read.is_some()) {
            if Some(wire) != own {
                self.take_last_output(index, wire, key);
            }
        }
        if let Some(read) = read {
            self.log_packets(index, read.wire, read.consumed);
            self.log_begun(index, read);
        }
        for &(wire, _) in &closing {
            self.log.push(Event::Closing { wire });
        }
        for &(wire, key) in &closing {
            if read.is_none() || Some(wire) == own {
                self.take_last_output(index, wire, key);
            }
            self.finish(index, wire, key);
        }
        for hand_over in effects.hand_overs.drain(..) {
            let wire = self.hosts[index].wires.remove(&hand_over.connection);
            let wire = wire.expect("a connection that is handed over is known");
            let to = hand_over.to;
            assert_ne!(
                to.index(),
                index,
                "a connection is handed over to another shard"
            );
            self.wires[wire].place = Place::Waiting;
            self.wires[wire].origin = hand_over.origin;
            self.wires[wire].reported_unsent = 0;
            self.hosts[to.index()].waiting.push_back(wire);
            self.log.push(Event::HandedOver { wire, to });
        }
        for notice in effects.notices.drain(..) {
            self.moved += 1;
            match notice {
                Notice::Authenticate(request) => {
                    // Everybody's password is their name.
                    let verdict = if *request.password == *request.username.as_bytes() {
                        Verdict::Accepted
                    } else {
                        Verdict::Refused
                    };
                    let connection = request.connection;
                    self.hosts[index]
                        .commands
                        .push_back(Command::Authenticated {
                            connection,
                            verdict,
                            security: request.security,
                        });
                }
                other => self.notices.push((ShardId(index as u16), other)),
            }
        }
        let host = &mut self.hosts[index];
        self.moved += (effects.resumed.len() + effects.dirty.len()) as u64;
        // A connection may have been closed after it was named.
        for key in effects.resumed.drain(..) {
            host.resumed.extend(host.wires.get(&key));
        }
        for key in effects.dirty.drain(..) {
            host.dirty.extend(host.wires.get(&key));
        }
        host.effects = effects;
    }

    fn log_packets(&mut self, index: usize, wire: WireId, mut bytes: &[u8]) {
        while let Some((header, _, rest)) = split_packet(bytes) {
            let packet = &bytes[..header.total_size()];
            let shard = ShardId(index as u16);
            self.log.push(Event::Consumed {
                wire,
                shard,
                packet: packet.to_vec(),
            });
            bytes = rest;
        }
    }

    /// Logs a packet that the shard has begun with, once.
    fn log_begun(&mut self, index: usize, read: Read<'_>) {
        let Read {
            wire,
            consumed,
            rest,
        } = read;
        let state = &mut self.wires[wire];
        let Place::At(_, key) = state.place else {
            return;
        };
        let is_begun = self.hosts[index].shard.is_unfinished(key);
        let was_begun = std::mem::replace(&mut state.is_begun, is_begun);
        if is_begun && (!was_begun || !consumed.is_empty()) {
            let (header, ..) = split_packet(rest).expect("a whole packet was begun with");
            let packet = rest[..header.total_size()].to_vec();
            self.log.push(Event::Begun { wire, packet });
        }
    }

    fn take_last_output(&mut self, index: usize, wire: WireId, key: ConnectionKey) {
        let mut buffer = Vec::new();
        let shard = &mut self.hosts[index].shard;
        shard.take_last_output(key, &mut buffer);
        self.begin_sending(wire, &buffer, false);
    }

    fn take_output(&mut self, index: usize, wire: WireId, key: ConnectionKey) {
        let mut buffer = Vec::new();
        let shard = &mut self.hosts[index].shard;
        shard.take_output(key, &mut buffer);
        let has_left = shard.has_left_output(key);
        self.begin_sending(wire, &buffer, has_left);
    }

    fn begin_sending(&mut self, wire: WireId, buffer: &[u8], has_left: bool) {
        let state = &mut self.wires[wire];
        let since = state.left_since;
        state.left_since = has_left.then(|| since.unwrap_or(self.now));
        if buffer.is_empty() {
            return;
        }
        state.sending.extend_from_slice(buffer);
        state.taken = true;
        state.cut.extend_from_slice(buffer);
        let mut rest = &state.cut[..];
        while let Some((_, _, behind)) = split_packet(rest) {
            rest = behind;
        }
        let whole = state.cut.len() - rest.len();
        let bytes: Vec<u8> = state.cut.drain(..whole).collect();
        if !bytes.is_empty() {
            self.log.push(Event::Output { wire, bytes, since });
        }
    }

    /// Sends what is left and closes.
    fn finish(&mut self, index: usize, wire: WireId, key: ConnectionKey) {
        let state = &mut self.wires[wire];
        let rest = std::mem::take(&mut state.sending);
        if !state.down_ended {
            state.down.extend(rest);
        }
        state.down_ended = true;
        state.up_ended = true;
        state.up.clear();
        state.held.clear();
        state.place = Place::Gone;
        self.hosts[index].forgets.push(key);
        self.moved += 1;
    }

    /// Sends what connections have to send.
    fn flush(&mut self, index: usize, pace: &mut Pace<'_>) {
        for wire in std::mem::take(&mut self.hosts[index].dirty) {
            let Place::At(_, key) = self.wires[wire].place else {
                continue;
            };
            self.take_output(index, wire, key);
            self.unsent_max = self.unsent_max.max(self.wires[wire].sending.len());
        }
        let wires: Vec<(ConnectionKey, WireId)> = self.hosts[index]
            .wires
            .iter()
            .map(|(&key, &wire)| (key, wire))
            .collect();
        for (key, wire) in wires {
            let state = &mut self.wires[wire];
            if state.down_ended {
                // Nobody is there; the kernel takes bytes until it finds out.
                self.moved += state.sending.len() as u64;
                state.sending.clear();
            } else if !state.sending.is_empty() {
                let room = self.socket_capacity.saturating_sub(state.down.len());
                let count = pace.amount(room.min(state.sending.len()));
                state.down.extend(state.sending.drain(..count));
                self.moved += count as u64;
            }
            let unsent = state.sending.len();
            if state.taken || unsent != state.reported_unsent {
                state.taken = false;
                state.reported_unsent = unsent;
                let host = &mut self.hosts[index];
                host.shard
                    .handle_unsent(key, unsent, self.now, &mut host.effects);
                self.carry_out(index, None);
            }
        }
    }

    /// Moves envelopes into rings.
    fn fill_rings(&mut self, index: usize, pace: &mut Pace<'_>) {
        let count = self.hosts.len();
        let mut moved = false;
        for to in (0..count).filter(|&to| to != index) {
            let ring = &mut self.rings[index * count + to];
            let shard = &mut self.hosts[index].shard;
            let to = ShardId(to as u16);
            let room = self.ring_capacity.saturating_sub(ring.len());
            let outbound = shard.outbound(to);
            let amount = pace.amount(room.min(outbound.len()));
            for envelope in outbound.drain(..amount) {
                self.traffic.count(to.index(), &envelope);
                ring.push_back(envelope);
            }
            shard.set_ring_room(to, room - amount);
            if amount > 0 && std::mem::take(&mut self.hosts[to.index()].is_asleep) {
                self.traffic.wakes += 1;
            }
            self.moved += amount as u64;
            moved |= amount > 0;
        }
        if moved {
            let host = &mut self.hosts[index];
            host.shard.handle_ring_room(&mut host.effects);
            self.carry_out(index, None);
        }
    }

    /// Bytes a connection may hold unsent at most, when no packet is larger than `packet_size`.
    #[must_use]
    pub fn unsent_bound(&self, packet_size: usize) -> usize {
        // Answers are stopped at twice the bound, after the packet that reached it, and QoS 0 beyond it as in a queue.
        let queue = self.limits.max_queued_messages.saturating_mul(packet_size);
        let queue = queue.min(self.limits.max_queued_bytes);
        queue + self.limits.outbox_bytes_max * 2 + 2 * packet_size
    }
}
