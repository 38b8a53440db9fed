//! What is right: a model of every Session that follows what crosses the border of the broker.
//!
//! It sees each packet at the moment a shard takes it or gives it out, so it knows exactly when a
//! message was published and what a Session was owed at that moment. What only depends on how far
//! messages had come between shards is allowed either way; everything else is required or forbidden.
//!
//! # What is owed
//! - A message published after a SUBACK is delivered once for each time it was published, as long as
//!   the Session and one of the subscriptions that were in force stay.
//! - One that only a subscription without SUBACK, or one that was removed since, can explain may be.
//! - Anything else must not be.
//!
//! **Knows nothing of** how shards work: placement, rings, queues.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::world::{Event, WireId, World};
use crate::codec::{
    self, Connect, Packet, Publish, PublishHeader, ReasonCode, RetainHandling, Subscribe,
    SubscriptionOptions, Unsubscribe,
};
use crate::key::{PacketIdentifier, ShardId};
use crate::limits::{Limits, PACKET_SIZE_MAX};
use crate::message::{self, ProtocolVersion, QoS};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};

/// Bytes that one more Subscription Identifier adds to a PUBLISH at most: the property, four bytes of
/// value, and one of the properties' length.
const SUBSCRIPTION_IDENTIFIER_SIZE_MAX: usize = 6;

/// A Client, counted from 0.
pub type ClientIndex = usize;
/// A message, counted from 0.
pub type MessageIndex = u32;

/// The broker did something it must not do, or did not do what it must.
#[derive(Clone, Debug)]
pub struct Violation(pub String);

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

macro_rules! violation {
    ($($argument:tt)*) => { return Err(Violation(format!($($argument)*))) };
}

type Checked = Result<(), Violation>;

/// A message some Client made.
#[derive(Clone, Debug)]
pub struct Publication {
    /// Who publishes it.
    pub publisher: ClientIndex,
    /// Where.
    pub topic: &'static str,
    /// Its QoS.
    pub qos: QoS,
    /// Its RETAIN flag.
    pub retain: bool,
    /// Filler bytes of its payload; `None` for a message without payload.
    pub filler: Option<usize>,
    /// Message Expiry Interval.
    pub expiry_s: Option<u32>,
    /// Encoded properties that travel with it.
    pub properties: Vec<u8>,
    /// Whether it is a Will.
    pub is_will: bool,
    /// Counts messages of one publisher, topic and QoS.
    pub sequence: u64,
    /// How often the broker took it as new.
    routings: u32,
    /// When it first did, counted in events.
    first_routed: u64,
    /// When it expires, if it was taken once.
    expires_at: Option<Instant>,
}

impl Publication {
    /// A new message.
    #[must_use]
    pub const fn new(
        publisher: ClientIndex,
        topic: &'static str,
        qos: QoS,
        retain: bool,
        filler: Option<usize>,
    ) -> Self {
        Self {
            publisher,
            topic,
            qos,
            retain,
            filler,
            expiry_s: None,
            properties: Vec::new(),
            is_will: false,
            sequence: 0,
            routings: 0,
            first_routed: 0,
            expires_at: None,
        }
    }

    /// Whether a copy may have expired before `now`. One that was published twice has two lifetimes.
    fn may_have_expired(&self, now: Instant) -> bool {
        self.expires_at
            .is_some_and(|at| at <= now || self.routings > 1)
    }

    /// The payload of the message `index`, which says which message it is.
    #[must_use]
    pub fn payload(&self, index: MessageIndex) -> Vec<u8> {
        let Some(filler) = self.filler else {
            return Vec::new();
        };
        let mut payload = index.to_be_bytes().to_vec();
        payload.resize(4 + filler, index as u8);
        payload
    }
}

fn message_of(payload: &[u8]) -> Option<MessageIndex> {
    let (index, _) = payload.split_first_chunk::<4>()?;
    Some(MessageIndex::from_be_bytes(*index))
}

#[derive(Clone, Debug)]
struct Subscription {
    options: SubscriptionOptions,
    identifier: Option<u32>,
    /// Its SUBACK was given out.
    in_force: bool,
}

/// Copies a Session must still get.
#[derive(Clone, Debug, Default)]
struct Owed {
    count: u32,
    /// Not owed to a Client that is away.
    at_most_once: bool,
    /// Subscriptions in force that explain it.
    filters: BTreeSet<String>,
    /// Size of its largest form.
    size: usize,
}

/// What a Session got of one message.
#[derive(Clone, Copy, Debug, Default)]
struct Got {
    live: u32,
    replayed: u32,
}

/// An exchange the broker began.
#[derive(Clone, Debug)]
struct Exchange {
    message: Option<MessageIndex>,
    qos: QoS,
    is_released: bool,
    /// The connection its PUBLISH was last sent on.
    wire: WireId,
    /// Order of its first PUBLISH.
    order: u64,
    group: Option<String>,
    /// Size of its PUBLISH without a Topic Alias.
    size: usize,
    /// The Client may not take a packet of that size any more: then the exchange ends unfinished.
    is_doubtful: bool,
}

#[derive(Debug, Default)]
struct Session {
    exists: bool,
    epoch: u64,
    wire: Option<WireId>,
    shard: ShardId,
    expiry_interval_s: u32,
    expires_at: Option<Instant>,
    will: Option<(MessageIndex, u32)>,
    will_at: Option<Instant>,
    keep_alive_s: u16,
    last_packet_at: Instant,
    maximum_packet_size: usize,
    subscriptions: BTreeMap<String, Subscription>,
    /// Subscriptions that ended or were replaced, when, and whether they asked for RETAIN as published.
    removed: Vec<(String, u64, bool)>,
    changed_at: u64,
    /// SUBSCRIBE packets without SUBACK: filters, and whether they want retained messages.
    subscribing: BTreeMap<u16, Vec<(String, QoS, bool)>>,
    /// Filters of subscriptions that wanted retained messages, one for each time.
    replays: Vec<String>,
    inbound: BTreeSet<u16>,
    outbound: BTreeMap<u16, Exchange>,
    exchanges: u64,
    owed: BTreeMap<MessageIndex, Owed>,
    /// Retained messages owed to new subscriptions, by topic.
    owed_retained: BTreeMap<&'static str, (MessageIndex, bool, String)>,
    got: BTreeMap<MessageIndex, Got>,
    /// Last sequence number by publisher, topic, QoS published and QoS delivered.
    order: BTreeMap<(ClientIndex, &'static str, QoS, QoS), u64>,
    /// The same of retained messages alone.
    retained_order: BTreeMap<(ClientIndex, &'static str, QoS, QoS), u64>,
    /// QoS 2 exchanges begun.
    exactly_once: u64,
    /// Some of them may have ended unfinished.
    is_inexact: bool,
    /// The broker has begun with a packet about its subscriptions.
    is_in_doubt: bool,
}

/// Later than every event: a subscription that may be removed or replaced, or not.
const IN_DOUBT: u64 = u64::MAX;

impl Session {
    /// What is on its way meets the subscriptions there are when it arrives: where none of them is
    /// above QoS 0, it is no longer owed to a Client that is away.
    fn weaken_owed(&mut self, messages: &[Publication]) {
        for (message, owed) in &mut self.owed {
            let topic = messages[*message as usize].topic;
            let is_kept = self.subscriptions.iter().any(|(filter, it)| {
                self.removed
                    .iter()
                    .all(|(doubtful, at, _)| *at != IN_DOUBT || doubtful != filter)
                    && it.options.qos > QoS::AtMostOnce
                    && !is_shared(filter)
                    && matches(filter, topic)
            });
            owed.at_most_once |= !is_kept;
        }
    }

    /// What these filters stand for is known again. Whether the broker had begun with the packet that names them.
    fn end_doubt<'a>(&mut self, filters: impl Iterator<Item = &'a str>, events: u64) -> bool {
        for filter in filters {
            for (doubtful, at, _) in &mut self.removed {
                if *at == IN_DOUBT && doubtful == filter {
                    *at = events;
                }
            }
        }
        std::mem::take(&mut self.is_in_doubt)
    }
}

#[derive(Debug)]
struct Wire {
    client: ClientIndex,
    opened_at: Instant,
    version: ProtocolVersion,
    epoch: u64,
    /// CONNECT was taken.
    connected: bool,
    session_present: bool,
    /// When CONNACK left.
    connacked_at: Option<Instant>,
    /// What left last has not been written before.
    written_since: Instant,
    /// Nothing it sends matters any more, and the broker may close it.
    ended: bool,
    inbound_aliases: BTreeMap<u16, String>,
    aliases: BTreeMap<u16, String>,
    alias_maximum: u16,
    receive_maximum: usize,
    maximum_packet_size: usize,
    /// PUBLISH packets sent on this connection and not acknowledged to the end.
    unacknowledged: BTreeSet<u16>,
    resent: Option<u64>,
}

#[derive(Debug, Default)]
struct Group {
    /// Messages owed to the group and the members in force since they were published.
    owed: BTreeMap<MessageIndex, (u32, BTreeSet<ClientIndex>)>,
    got: BTreeMap<MessageIndex, u32>,
    /// When members left.
    leaves: Vec<u64>,
    /// A member of QoS 0 was seen: what it does not get nobody gets.
    is_weak: bool,
    /// Messages of which a member may have got a copy for another reason.
    ambiguous: BTreeSet<MessageIndex>,
}

#[derive(Debug, Default)]
struct Topic {
    /// The value when the broker last was at rest.
    settled: Option<MessageIndex>,
    /// The writes of each shard since that may be its last.
    writes: BTreeMap<ShardId, Vec<Write>>,
}

/// A retained message that was set or, with `None`, cleared.
#[derive(Debug)]
struct Write {
    message: Option<MessageIndex>,
    /// The event that did it. What one timeout causes has no order: MQTT gives none to Wills of two
    /// Clients, and a shard that is late takes deadlines that were put off where they stood before.
    event: u64,
}

/// The model.
#[derive(Debug)]
pub struct Oracle {
    limits: Limits,
    now: Instant,
    events: u64,
    /// The timeout whose connections are being closed.
    timeout: Option<u64>,
    hash: u64,
    messages: Vec<Publication>,
    sequences: BTreeMap<(ClientIndex, &'static str, QoS), u64>,
    sessions: Vec<Session>,
    wires: BTreeMap<WireId, Wire>,
    groups: BTreeMap<String, Group>,
    topics: BTreeMap<&'static str, Topic>,
    deliveries: u64,
    /// Owed copies that did not come and that a counter of drops explains.
    excused_queue: u64,
    excused_outbox: u64,
}

fn matches(filter: &str, topic: &str) -> bool {
    let filter = TopicFilter::from_validated(filter.as_bytes());
    filter.matches(TopicName::from_validated(topic.as_bytes()))
}

fn is_shared(filter: &str) -> bool {
    filter.starts_with("$share/")
}

impl Oracle {
    /// A model of a broker nobody has used yet.
    #[must_use]
    pub fn new(clients: usize, topics: &[&'static str], limits: Limits, now: Instant) -> Self {
        Self {
            limits,
            now,
            events: 0,
            timeout: None,
            hash: 0xcbf2_9ce4_8422_2325,
            messages: Vec::new(),
            sequences: BTreeMap::new(),
            sessions: (0..clients).map(|_| Session::default()).collect(),
            wires: BTreeMap::new(),
            groups: BTreeMap::new(),
            topics: topics
                .iter()
                .map(|&topic| (topic, Topic::default()))
                .collect(),
            deliveries: 0,
            excused_queue: 0,
            excused_outbox: 0,
        }
    }

    /// A number that tells two different runs apart.
    #[must_use]
    pub const fn hash(&self) -> u64 {
        self.hash
    }

    /// Events seen.
    #[must_use]
    pub const fn events(&self) -> u64 {
        self.events
    }

    /// PUBLISH packets that were delivered as new.
    #[must_use]
    pub const fn deliveries(&self) -> u64 {
        self.deliveries
    }

    /// Makes a message known before it is sent.
    pub fn publish(&mut self, mut publication: Publication) -> MessageIndex {
        let key = (publication.publisher, publication.topic, publication.qos);
        let sequence = self.sequences.entry(key).or_default();
        *sequence += 1;
        publication.sequence = *sequence;
        self.messages.push(publication);
        self.messages.len() as MessageIndex - 1
    }

    /// A message.
    #[must_use]
    pub fn message(&self, index: MessageIndex) -> &Publication {
        &self.messages[index as usize]
    }

    /// Makes a connection known before it is used.
    pub fn open(&mut self, wire: WireId, client: ClientIndex) {
        let state = Wire {
            client,
            opened_at: self.now,
            version: ProtocolVersion::V5,
            epoch: 0,
            connected: false,
            session_present: false,
            connacked_at: None,
            written_since: self.now,
            ended: false,
            inbound_aliases: BTreeMap::new(),
            aliases: BTreeMap::new(),
            alias_maximum: 0,
            receive_maximum: usize::from(u16::MAX),
            maximum_packet_size: usize::MAX,
            unacknowledged: BTreeSet::new(),
            resent: None,
        };
        self.wires.insert(wire, state);
    }

    /// Counts the Sessions of a Client up to the one that a connection belongs to. What the Client
    /// knows of another one is void.
    #[must_use]
    pub fn epoch(&self, wire: WireId) -> u64 {
        self.wires.get(&wire).map_or(0, |wire| wire.epoch)
    }

    /// Whether the broker keeps a Session for a Client.
    #[must_use]
    pub fn has_session(&self, client: ClientIndex) -> bool {
        self.sessions[client].exists
    }

    /// QoS 2 messages the Session of a Client was given, if all of them were brought to their end.
    #[must_use]
    pub fn exactly_once(&self, client: ClientIndex) -> Option<u64> {
        let session = &self.sessions[client];
        (!session.is_inexact).then_some(session.exactly_once)
    }

    fn mix(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.hash = (self.hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    /// Follows one event.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn handle(&mut self, event: &Event, now: Instant) -> Checked {
        self.now = now;
        self.events += 1;
        self.mix(&now.as_nanos().to_be_bytes());
        self.timeout = match event {
            Event::Timeout { .. } => Some(self.events),
            Event::Closing { .. } => self.timeout,
            _ => None,
        };
        match event {
            Event::Timeout { shard } => {
                self.mix(&shard.0.to_be_bytes());
                self.time_out(*shard)
            }
            Event::Consumed {
                wire,
                shard,
                packet,
            } => {
                self.mix(&wire.to_be_bytes());
                self.mix(packet);
                self.consumed(*wire, *shard, packet)
            }
            Event::Begun { wire, packet } => {
                self.mix(&wire.to_be_bytes());
                self.begun(*wire, packet)
            }
            Event::Output { wire, bytes, since } => {
                if let Some(wire) = self.wires.get_mut(wire) {
                    wire.written_since = since.unwrap_or(now);
                }
                self.mix(&wire.to_be_bytes());
                self.mix(bytes);
                self.output(*wire, bytes)
            }
            // Its Clients have every right there is.
            Event::Configured { .. } => Ok(()),
            Event::Closing { wire } => self.closing(*wire),
            Event::Lost { wire } => self.lost(*wire),
            Event::GivenUp { wire } => {
                let Some(state) = self.wires.get(wire) else {
                    violation!("an unknown wire {wire}")
                };
                let session = &self.sessions[state.client];
                if session.wire.is_none() || session.wire == Some(*wire) {
                    violation!("client {}: nothing to take over", state.client);
                }
                self.lost(*wire)
            }
            Event::HandedOver { wire, .. } => {
                if let Some(wire) = self.wires.get_mut(wire) {
                    wire.opened_at = now;
                }
                Ok(())
            }
        }
    }

    // --- Connections.

    fn time_out(&mut self, shard: ShardId) -> Checked {
        for client in 0..self.sessions.len() {
            if self.sessions[client].exists && self.sessions[client].shard == shard {
                self.pass_deadlines(client);
            }
        }
        Ok(())
    }

    /// Publishes a Will that is due and ends a Session whose time is over.
    fn pass_deadlines(&mut self, client: ClientIndex) {
        let session = &mut self.sessions[client];
        if session.wire.is_some() {
            return;
        }
        if session.will_at.is_some_and(|at| at <= self.now) {
            session.will_at = None;
            self.publish_will(client);
        }
        if self.sessions[client]
            .expires_at
            .is_some_and(|at| at <= self.now)
        {
            self.end_session(client);
        }
    }

    fn publish_will(&mut self, client: ClientIndex) {
        let session = &mut self.sessions[client];
        let shard = session.shard;
        if let Some((message, _)) = session.will.take() {
            self.route(message, shard);
        }
    }

    fn detach(&mut self, client: ClientIndex) {
        let now = self.now;
        let session = &mut self.sessions[client];
        let Some(wire) = session.wire.take() else {
            return;
        };
        session.is_in_doubt = false;
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.ended = true;
        }
        session.expires_at = match session.expiry_interval_s {
            u32::MAX => None,
            seconds => Some(now.add_seconds(seconds.into())),
        };
        if let Some((_, delay_s)) = session.will {
            let due = now.add_seconds(delay_s.into());
            session.will_at = Some(session.expires_at.map_or(due, |end| end.min(due)));
        }
        session.owed.retain(|_, owed| !owed.at_most_once);
        session
            .owed_retained
            .retain(|_, (_, at_most_once, _)| !*at_most_once);
        self.pass_deadlines(client);
    }

    fn end_session(&mut self, client: ClientIndex) {
        if self.sessions[client].will_at.take().is_some() {
            self.publish_will(client);
        }
        let session = &mut self.sessions[client];
        let epoch = session.epoch;
        let old = std::mem::take(session);
        session.epoch = epoch;
        // Members that stay get what this one did not acknowledge.
        for exchange in old.outbound.values() {
            let (Some(group), Some(message)) = (&exchange.group, exchange.message) else {
                continue;
            };
            let is_member = old.subscriptions.contains_key(group);
            if exchange.qos == QoS::AtLeastOnce && is_member && !exchange.is_doubtful {
                self.owe_group(group, message);
            }
        }
        for filter in old.subscriptions.keys().filter(|filter| is_shared(filter)) {
            self.leave(filter, client);
        }
    }

    fn leave(&mut self, filter: &str, client: ClientIndex) {
        let at = self.events;
        let Some(group) = self.groups.get_mut(filter) else {
            return;
        };
        group.leaves.push(at);
        group.owed.retain(|_, (_, members)| {
            members.remove(&client);
            !members.is_empty()
        });
    }

    fn closing(&mut self, wire: WireId) -> Checked {
        let Some(state) = self.wires.get(&wire) else {
            violation!("an unknown wire {wire}")
        };
        if state.ended {
            let client = state.client;
            if self.sessions[client].wire == Some(wire) {
                self.detach(client);
            }
            return Ok(());
        }
        let client = state.client;
        let session = &self.sessions[client];
        if session.wire != Some(wire) {
            let silence = self.now - state.opened_at;
            if state.connected || silence < self.limits.connect_timeout {
                violation!("client {client}: closed before CONNECT after {silence:?}");
            }
            return Ok(());
        }
        // [MQTT-3.1.2-22]
        let silence = self.now - session.last_packet_at;
        let patience = Duration::from_millis(u64::from(session.keep_alive_s) * 1500);
        if session.keep_alive_s == 0 || silence < patience {
            violation!("client {client}: wire {wire} closed for no reason after {silence:?}");
        }
        self.detach(client);
        Ok(())
    }

    fn lost(&mut self, wire: WireId) -> Checked {
        let Some(state) = self.wires.get_mut(&wire) else {
            return Ok(());
        };
        state.ended = true;
        let client = state.client;
        if self.sessions[client].wire == Some(wire) {
            self.detach(client);
        }
        Ok(())
    }

    fn connect(&mut self, wire: WireId, shard: ShardId, connect: &Connect<'_>) -> Checked {
        let Some(client) = self.wires.get(&wire).map(|wire| wire.client) else {
            violation!("an unknown wire {wire}")
        };
        self.pass_deadlines(client);
        self.detach(client);
        if self.sessions[client].exists && connect.clean_start {
            // [MQTT-3.1.2-4]
            self.end_session(client);
        }
        let will = match &connect.will {
            None => None,
            Some(will) => match message_of(will.payload) {
                Some(message) => Some((message, will.delay_interval_s)),
                None => violation!("client {client}: a Will without a number"),
            },
        };
        let is_present = self.sessions[client].exists;
        let maximum_packet_size = connect
            .properties
            .maximum_packet_size
            .map_or(usize::MAX, |maximum| maximum.get() as usize);
        let session = &mut self.sessions[client];
        session.epoch += u64::from(!is_present);
        session.exists = true;
        session.wire = Some(wire);
        session.shard = shard;
        session.expiry_interval_s = match connect.version {
            ProtocolVersion::V5 => connect.properties.session_expiry_interval.unwrap_or(0),
            _ if connect.clean_start => 0,
            _ => u32::MAX,
        };
        session.expires_at = None;
        session.subscribing.clear();
        session.will = will;
        session.will_at = None;
        session.keep_alive_s = connect.keep_alive_s;
        session.last_packet_at = self.now;
        session.maximum_packet_size = maximum_packet_size;
        session
            .owed
            .retain(|_, owed| owed.size <= maximum_packet_size);
        for exchange in session.outbound.values_mut().filter(|it| !it.is_released) {
            exchange.is_doubtful |= exchange.size > maximum_packet_size;
            session.is_inexact |= exchange.is_doubtful && exchange.qos == QoS::ExactlyOnce;
        }
        let messages = &self.messages;
        session.owed_retained.retain(|_, (message, ..)| {
            size_of_message(&messages[*message as usize], *message, &[300]) <= maximum_packet_size
        });
        for (filter, group) in &mut self.groups {
            if session.subscriptions.contains_key(filter) {
                group.owed.retain(|message, _| {
                    let publication = &messages[*message as usize];
                    size_of_message(publication, *message, &[300]) <= maximum_packet_size
                });
            }
        }
        let epoch = session.epoch;
        if let Some(state) = self.wires.get_mut(&wire) {
            state.connected = true;
            state.version = connect.version;
            state.epoch = epoch;
            state.session_present = is_present;
            state.alias_maximum = connect.properties.topic_alias_maximum;
            state.receive_maximum = connect
                .properties
                .receive_maximum
                .map_or(usize::from(u16::MAX), |maximum| usize::from(maximum.get()));
            state.maximum_packet_size = maximum_packet_size;
        }
        Ok(())
    }

    // --- What Clients say.

    fn consumed(&mut self, wire: WireId, shard: ShardId, packet: &[u8]) -> Checked {
        let Some(state) = self.wires.get(&wire) else {
            violation!("an unknown wire {wire}")
        };
        if state.ended {
            return Ok(());
        }
        let (version, client) = (state.version, state.client);
        let packet = match parse(version, packet) {
            Ok((packet, _)) => packet,
            Err(violation) => return Err(violation),
        };
        if let Packet::Connect(connect) = &packet {
            return self.connect(wire, shard, connect);
        }
        let now = self.now;
        let events = self.events;
        let session = &mut self.sessions[client];
        if session.wire != Some(wire) {
            violation!("client {client}: a packet was taken from wire {wire} without a Session");
        }
        session.last_packet_at = now;
        match packet {
            Packet::Publish(publish) => self.published(wire, client, shard, &publish),
            Packet::Subscribe(subscribe) => {
                let was_begun = session.end_doubt(subscribe.filters().map(|it| it.0), events);
                if was_begun {
                    self.meet_new_options(client, &subscribe);
                } else {
                    self.subscribe(client, &subscribe);
                }
                Ok(())
            }
            Packet::Unsubscribe(unsubscribe) => {
                session.end_doubt(unsubscribe.filters(), events);
                for filter in unsubscribe.filters() {
                    if let Some(old) = session.subscriptions.remove(filter) {
                        let as_published = old.options.retain_as_published;
                        session
                            .removed
                            .push((filter.to_owned(), events, as_published));
                    }
                }
                self.unsubscribe(client, &unsubscribe);
                Ok(())
            }
            Packet::PubAck(ack) => self.acknowledged(wire, client, ack.packet_identifier),
            Packet::PubComp(ack) => self.acknowledged(wire, client, ack.packet_identifier),
            Packet::PubRec(ack) => {
                let identifier = ack.packet_identifier.get();
                if let Some(exchange) = session.outbound.get_mut(&identifier) {
                    exchange.is_released = true;
                }
                Ok(())
            }
            Packet::PubRel(ack) => {
                session.inbound.remove(&ack.packet_identifier.get());
                Ok(())
            }
            Packet::Disconnect(disconnect) => {
                if let Some(interval) = disconnect.session_expiry_interval {
                    session.expiry_interval_s = interval;
                }
                if disconnect.reason_code != ReasonCode::DisconnectWithWillMessage {
                    session.will = None;
                }
                self.detach(client);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// A SUBSCRIBE or UNSUBSCRIBE is on its way to be in force: what it names may be as it was, or as it says, and may
    /// stay as it is should the connection end.
    fn begun(&mut self, wire: WireId, packet: &[u8]) -> Checked {
        let Some(state) = self.wires.get(&wire) else {
            violation!("an unknown wire {wire}")
        };
        let client = state.client;
        let (packet, _) = parse(state.version, packet)?;
        let mut doubtful = Vec::new();
        match &packet {
            Packet::Subscribe(subscribe) => {
                self.subscribe(client, subscribe);
                doubtful.extend(subscribe.filters().map(|(filter, _)| filter));
            }
            Packet::Unsubscribe(unsubscribe) => {
                self.unsubscribe(client, unsubscribe);
                doubtful.extend(unsubscribe.filters());
            }
            packet => violation!("client {client}: {packet:?} is in doubt"),
        }
        let session = &mut self.sessions[client];
        session.is_in_doubt = true;
        for filter in doubtful {
            let Some(subscription) = session.subscriptions.get_mut(filter) else {
                continue;
            };
            subscription.in_force = false;
            for as_published in [true, false] {
                session
                    .removed
                    .push((filter.to_owned(), IN_DOUBT, as_published));
            }
        }
        session.weaken_owed(&self.messages);
        Ok(())
    }

    /// Nothing is owed any more because of these, or because of what was there before.
    fn unsubscribe(&mut self, client: ClientIndex, unsubscribe: &Unsubscribe<'_>) {
        let session = &mut self.sessions[client];
        for filter in unsubscribe.filters() {
            session.owed.retain(|_, owed| {
                owed.filters.remove(filter);
                !owed.filters.is_empty()
            });
            session.owed_retained.retain(|_, (_, _, by)| by != filter);
            // What it has not acknowledged stays with it.
            for exchange in session.outbound.values_mut() {
                exchange.group = exchange.group.take().filter(|group| group != filter);
            }
        }
        session.weaken_owed(&self.messages);
        session.changed_at = self.events;
        for filter in unsubscribe.filters().filter(|filter| is_shared(filter)) {
            self.leave(filter, client);
        }
    }

    fn acknowledged(
        &mut self,
        wire: WireId,
        client: ClientIndex,
        packet_identifier: PacketIdentifier,
    ) -> Checked {
        self.sessions[client]
            .outbound
            .remove(&packet_identifier.get());
        if let Some(wire) = self.wires.get_mut(&wire) {
            wire.unacknowledged.remove(&packet_identifier.get());
        }
        Ok(())
    }

    fn published(
        &mut self,
        wire: WireId,
        client: ClientIndex,
        shard: ShardId,
        publish: &Publish<'_>,
    ) -> Checked {
        let session = &mut self.sessions[client];
        if let (QoS::ExactlyOnce, Some(identifier)) = (publish.qos, publish.packet_identifier)
            && !session.inbound.insert(identifier.get())
        {
            // A duplicate is not new [MQTT-4.3.3-10].
            return Ok(());
        }
        let Some(state) = self.wires.get_mut(&wire) else {
            return Ok(());
        };
        let mut topic = publish.topic_name.to_owned();
        if let Some(alias) = publish.properties.topic_alias {
            if topic.is_empty() {
                topic = state
                    .inbound_aliases
                    .get(&alias.get())
                    .cloned()
                    .unwrap_or_default();
            } else {
                state.inbound_aliases.insert(alias.get(), topic.clone());
            }
        }
        let Some(message) = message_of(publish.payload) else {
            if publish.retain
                && let Some(topic) = self.topics.keys().copied().find(|known| *known == topic)
            {
                self.write_retained(topic, shard, None);
            }
            return Ok(());
        };
        if self.message(message).topic != topic {
            violation!("message {message}: published to {topic}");
        }
        self.route(message, shard);
        Ok(())
    }

    fn write_retained(
        &mut self,
        topic: &'static str,
        shard: ShardId,
        message: Option<MessageIndex>,
    ) {
        let event = self.timeout.unwrap_or(self.events);
        let state = self.topics.entry(topic).or_default();
        let writes = state.writes.entry(shard).or_default();
        writes.retain(|other| self.timeout == Some(other.event));
        writes.push(Write { message, event });
        for session in &mut self.sessions {
            session.owed_retained.remove(topic);
        }
    }

    /// The broker took a message as new.
    fn route(&mut self, index: MessageIndex, shard: ShardId) {
        let (events, now) = (self.events, self.now);
        let message = &mut self.messages[index as usize];
        if message.routings == 0 {
            message.first_routed = events;
        }
        message.routings += 1;
        message.expires_at = message
            .expiry_s
            .map(|interval_s| message::expires_at(interval_s, now));
        let message = message.clone();
        if message.retain {
            self.write_retained(message.topic, shard, Some(index));
        }
        for (client, session) in self.sessions.iter_mut().enumerate() {
            // What is kept away from its publisher adds nothing to what others bring [MQTT-3.8.3-3].
            let is_own = client == message.publisher;
            let matching = session
                .subscriptions
                .iter()
                .filter(|(filter, subscription)| {
                    let is_excluded = subscription.options.no_local && is_own;
                    !is_shared(filter) && matches(filter, message.topic) && !is_excluded
                });
            let mut qos = QoS::AtMostOnce;
            let mut identifiers = Vec::new();
            let mut filters = BTreeSet::new();
            let mut doubtful_size = 0;
            for (filter, subscription) in matching {
                // One that may not be there raises nothing. The one before it may be, with another identifier.
                if session
                    .removed
                    .iter()
                    .any(|it| it.1 == IN_DOUBT && it.0 == *filter)
                {
                    doubtful_size += SUBSCRIPTION_IDENTIFIER_SIZE_MAX;
                } else {
                    qos = qos.max(subscription.options.qos);
                }
                identifiers.extend(subscription.identifier);
                if subscription.in_force {
                    filters.insert(filter.clone());
                }
            }
            let at_most_once = qos.min(message.qos) == QoS::AtMostOnce;
            let size = size_of_message(&message, index, &identifiers) + doubtful_size;
            if filters.is_empty()
                || (at_most_once && session.wire.is_none())
                || size > session.maximum_packet_size
            {
                continue;
            }
            let owed = session.owed.entry(index).or_default();
            owed.count += 1;
            owed.at_most_once |= at_most_once;
            owed.filters.extend(filters);
            owed.size = owed.size.max(size);
        }
        let filters: Vec<String> = self
            .groups
            .keys()
            .filter(|filter| matches(filter, message.topic))
            .cloned()
            .collect();
        for filter in filters {
            self.owe_group(&filter, index);
        }
    }

    /// A message is owed to some member of a Shared Subscription.
    fn owe_group(&mut self, filter: &str, index: MessageIndex) {
        let message = &self.messages[index as usize];
        let size = size_of_message(message, index, &[300]);
        let mut members = BTreeSet::new();
        let mut fits = true;
        for (client, session) in self.sessions.iter().enumerate() {
            let Some(subscription) = session.subscriptions.get(filter) else {
                continue;
            };
            fits &= size <= session.maximum_packet_size;
            if subscription.in_force {
                members.insert(client);
            }
        }
        let is_at_most_once = message.qos == QoS::AtMostOnce;
        let group = self.groups.entry(filter.to_owned()).or_default();
        if members.is_empty() || !fits || group.is_weak || is_at_most_once {
            return;
        }
        let owed = group.owed.entry(index).or_default();
        owed.0 += 1;
        owed.1 = members;
    }

    fn subscribe(&mut self, client: ClientIndex, subscribe: &Subscribe<'_>) {
        let events = self.events;
        let session = &mut self.sessions[client];
        let mut requests = Vec::new();
        for (filter, options) in subscribe.filters() {
            let identifier = subscribe
                .subscription_identifier
                .map(|identifier| identifier.get());
            let subscription = Subscription {
                options,
                identifier,
                in_force: false,
            };
            let existing = session
                .subscriptions
                .insert(filter.to_owned(), subscription);
            let existed = existing.is_some();
            let is_known = existing.as_ref().is_some_and(|it| it.in_force);
            if let (Some(old), Some(new)) = (existing, session.subscriptions.get_mut(filter)) {
                new.in_force = old.in_force;
                let as_published = old.options.retain_as_published;
                session
                    .removed
                    .push((filter.to_owned(), events, as_published));
            }
            let wants_retained = match options.retain_handling {
                RetainHandling::Send => true,
                RetainHandling::SendIfNew => !existed,
                RetainHandling::DoNotSend => false,
            };
            let wants_retained = wants_retained && !is_shared(filter);
            // What never was answered may not exist.
            let may_be_new = options.retain_handling == RetainHandling::SendIfNew && !is_known;
            if wants_retained || may_be_new && !is_shared(filter) {
                session.replays.push(filter.to_owned());
            }
            requests.push((filter.to_owned(), options.qos, wants_retained));
        }
        session
            .subscribing
            .insert(subscribe.packet_identifier.get(), requests);
        self.meet_new_options(client, subscribe);
    }

    /// What is on its way meets the new options.
    fn meet_new_options(&mut self, client: ClientIndex, subscribe: &Subscribe<'_>) {
        let events = self.events;
        let session = &mut self.sessions[client];
        for (filter, options) in subscribe.filters() {
            let identifier = subscribe.subscription_identifier;
            let largest = session.maximum_packet_size;
            for (message, owed) in &mut session.owed {
                if options.no_local && self.messages[*message as usize].publisher == client {
                    owed.filters.remove(filter);
                }
                if owed.size.saturating_add(20) > largest {
                    owed.filters.clear();
                }
                // Its new identifier may come along, which a later connection may not take.
                if identifier.is_some() && matches(filter, self.messages[*message as usize].topic) {
                    owed.size = owed.size.saturating_add(SUBSCRIPTION_IDENTIFIER_SIZE_MAX);
                }
            }
            session.owed.retain(|_, owed| !owed.filters.is_empty());
            if is_shared(filter) {
                let group = self.groups.entry(filter.to_owned()).or_default();
                if options.qos == QoS::AtMostOnce {
                    group.is_weak = true;
                    group.owed.clear();
                }
                let messages = &self.messages;
                group.owed.retain(|message, _| {
                    let publication = &messages[*message as usize];
                    size_of_message(publication, *message, &[300]) <= largest
                });
            }
        }
        session.weaken_owed(&self.messages);
        session.changed_at = events;
    }

    // --- What the broker says.

    fn output(&mut self, wire: WireId, mut bytes: &[u8]) -> Checked {
        while !bytes.is_empty() {
            let Some(state) = self.wires.get(&wire) else {
                violation!("an unknown wire {wire}")
            };
            let (packet, rest) = parse(state.version, bytes)?;
            let size = bytes.len() - rest.len();
            bytes = rest;
            if size > state.maximum_packet_size {
                // [MQTT-3.1.2-24]
                violation!(
                    "wire {wire}: {size} bytes exceed {}",
                    state.maximum_packet_size
                );
            }
            let client = state.client;
            let session = &self.sessions[client];
            let is_first = state.connacked_at.is_none();
            if is_first != matches!(packet, Packet::ConnAck(_)) {
                // [MQTT-3.2.0-1]
                violation!("wire {wire}: the first packet and no other is CONNACK: {packet:?}");
            }
            if !session.exists
                || state.epoch != session.epoch
                || session.wire.is_some_and(|it| it != wire)
            {
                // The last words of a connection whose Session has ended. A message among them may go to
                // no other member of a shared subscription: not if its QoS is 2 [MQTT-4.8.2-5], and
                // not if the Client had unsubscribed.
                if let Packet::Publish(publish) = &packet
                    && let Some(message) = message_of(publish.payload)
                {
                    for group in self.groups.values_mut() {
                        group.ambiguous.insert(message);
                    }
                }
                if let Some(state) = self.wires.get_mut(&wire) {
                    state.connacked_at.get_or_insert(self.now);
                }
                continue;
            }
            match packet {
                Packet::ConnAck(connack) => {
                    if connack.reason_code != ReasonCode::Success {
                        violation!("client {client}: refused, {:?}", connack.reason_code);
                    }
                    // [MQTT-3.2.2-2] [MQTT-3.2.2-3]
                    if connack.session_present != state.session_present
                        && state.version != ProtocolVersion::V3
                    {
                        violation!(
                            "client {client}: Session Present {}",
                            connack.session_present
                        );
                    }
                    if let Some(state) = self.wires.get_mut(&wire) {
                        state.connacked_at = Some(self.now);
                    }
                }
                Packet::Publish(publish) => self.delivered(wire, client, &publish)?,
                Packet::SubAck(suback) => {
                    let codes: Vec<_> = suback.reason_codes.iter().collect();
                    self.subscribed(client, suback.packet_identifier, &codes)?;
                }
                Packet::PubRel(ack) => {
                    let known = session.outbound.get(&ack.packet_identifier.get());
                    let known = known.is_some_and(|exchange| exchange.is_released);
                    if !known && ack.reason_code == ReasonCode::Success {
                        violation!(
                            "client {client}: PUBREL {:?} unasked",
                            ack.packet_identifier
                        );
                    }
                }
                Packet::Disconnect(disconnect) => match disconnect.reason_code {
                    ReasonCode::SessionTakenOver
                    | ReasonCode::KeepAliveTimeout
                    | ReasonCode::ServerShuttingDown => {}
                    reason_code => violation!("client {client}: DISCONNECT {reason_code:?}"),
                },
                _ => {}
            }
        }
        Ok(())
    }

    fn subscribed(
        &mut self,
        client: ClientIndex,
        packet_identifier: PacketIdentifier,
        codes: &[ReasonCode],
    ) -> Checked {
        let session = &mut self.sessions[client];
        let Some(requests) = session.subscribing.remove(&packet_identifier.get()) else {
            // The connection that asked is gone, or the answer was given out as it went.
            return Ok(());
        };
        if requests.len() != codes.len() {
            violation!(
                "client {client}: {} codes for {} filters",
                codes.len(),
                requests.len()
            );
        }
        session.changed_at = self.events;
        for ((filter, qos, wants_retained), code) in requests.into_iter().zip(codes) {
            if *code != ReasonCode::granted(qos) {
                violation!("client {client}: {filter} {qos:?} answered with {code:?}");
            }
            let Some(subscription) = session.subscriptions.get_mut(&filter) else {
                continue;
            };
            subscription.in_force = true;
            // An answer that was given out as the connection went brings nothing.
            let wants_retained = wants_retained && session.wire.is_some();
            for (&topic, state) in self.topics.iter().filter(|_| wants_retained) {
                let Some(message) = state.settled.filter(|_| state.writes.is_empty()) else {
                    continue;
                };
                let publication = &self.messages[message as usize];
                let size = size_of_message(publication, message, &[300]);
                if !matches(&filter, topic)
                    || publication.expiry_s.is_some()
                    || size > session.maximum_packet_size
                {
                    continue;
                }
                let at_most_once = publication.qos.min(qos) == QoS::AtMostOnce;
                let owed = (message, at_most_once, filter.clone());
                session.owed_retained.insert(topic, owed);
            }
        }
        Ok(())
    }

    /// A PUBLISH to a Client.
    fn delivered(&mut self, wire: WireId, client: ClientIndex, publish: &Publish<'_>) -> Checked {
        let who = format!("client {client}, wire {wire}");
        let state = self.wires.get_mut(&wire).expect("the caller found it");
        let session = &mut self.sessions[client];
        let mut topic = publish.topic_name.to_owned();
        if let Some(alias) = publish.properties.topic_alias {
            // [MQTT-3.1.2-26] [MQTT-3.1.2-27]
            if alias.get() > state.alias_maximum {
                violation!("{who}: alias {alias} above {}", state.alias_maximum);
            }
            if topic.is_empty() {
                let Some(known) = state.aliases.get(&alias.get()) else {
                    violation!("{who}: alias {alias} stands for nothing")
                };
                topic.clone_from(known);
            } else {
                state.aliases.insert(alias.get(), topic.clone());
            }
        }
        let index = message_of(publish.payload);
        let mut qos2 = false;
        if let Some(packet_identifier) = publish.packet_identifier {
            let identifier = packet_identifier.get();
            if publish.duplicate {
                // Sent again: only what was sent before, on another connection, in the same order
                // [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT-4.6.0-1].
                let Some(exchange) = session.outbound.get_mut(&identifier) else {
                    violation!("{who}: DUP on {identifier}, which is not in flight")
                };
                if exchange.message != index || exchange.qos != publish.qos {
                    violation!("{who}: {identifier} repeats another message: {exchange:?}");
                }
                if exchange.is_released || exchange.wire == wire {
                    violation!("{who}: {identifier} is not to be repeated: {exchange:?}");
                }
                if state.resent.is_some_and(|last| last > exchange.order) {
                    violation!("{who}: {identifier} is repeated out of order");
                }
                state.resent = Some(exchange.order);
                exchange.wire = wire;
                exchange.is_doubtful = false;
            } else {
                // [MQTT-2.2.1-4]
                if let Some(exchange) = session.outbound.get(&identifier)
                    && !exchange.is_doubtful
                {
                    violation!("{who}: {identifier} is in use: {exchange:?}");
                }
                let waiting = session
                    .outbound
                    .iter()
                    .find(|(_, it)| it.wire != wire && !it.is_released && !it.is_doubtful);
                if let Some((waiting, _)) = waiting {
                    violation!("{who}: a new message before {waiting} was repeated");
                }
                let exchange = Exchange {
                    message: index,
                    qos: publish.qos,
                    is_released: false,
                    wire,
                    order: session.exchanges,
                    group: None,
                    size: size_without_alias(publish, &topic),
                    is_doubtful: false,
                };
                session.exchanges += 1;
                session.outbound.insert(identifier, exchange);
                qos2 = publish.qos == QoS::ExactlyOnce;
            }
            state.unacknowledged.insert(identifier);
            // [MQTT-3.3.4-9]
            if state.unacknowledged.len() > state.receive_maximum {
                violation!(
                    "{who}: Receive Maximum {} is exceeded",
                    state.receive_maximum
                );
            }
        }
        session.exactly_once += u64::from(qos2);
        let Some(index) = index else {
            // A message that removed a retained one carries no number.
            let matched = session
                .subscriptions
                .keys()
                .chain(session.removed.iter().map(|(filter, ..)| filter))
                .any(|filter| matches(filter, &topic));
            if !matched {
                violation!("{who}: {topic} was never subscribed to");
            }
            return Ok(());
        };
        let Some(message) = self.messages.get(index as usize) else {
            violation!("{who}: message {index} does not exist")
        };
        let version = state.version;
        // When the broker may have encoded it: of QoS 0, that is behind a CONNACK which waits for the disk, or until its
        // Shared Subscriptions know of it.
        let is_late =
            publish.qos == QoS::AtMostOnce && state.connacked_at >= Some(state.written_since);
        let since = if is_late {
            state.opened_at
        } else {
            state.written_since
        };
        let encoded = since..=self.now;
        check_content(&who, index, message, &topic, publish, version, &encoded)?;
        if publish.duplicate {
            return Ok(());
        }
        self.deliveries += 1;
        self.explain(&who, client, index, publish, version)
    }

    /// Finds the reason why a Session got a new copy of a message.
    fn explain(
        &mut self,
        who: &str,
        client: ClientIndex,
        index: MessageIndex,
        publish: &Publish<'_>,
        version: ProtocolVersion,
    ) -> Checked {
        let message = &self.messages[index as usize];
        let (topic, first_routed) = (message.topic, message.first_routed);
        let session = &mut self.sessions[client];
        let current: Vec<(&String, &Subscription)> = session
            .subscriptions
            .iter()
            .filter(|(filter, _)| matches(filter, topic))
            .collect();
        let removed = |shared: bool| {
            session.removed.iter().filter(move |(filter, at, _)| {
                is_shared(filter) == shared && *at >= first_routed && matches(filter, topic)
            })
        };
        let is_local = message.publisher == client;
        // [MQTT-3.8.3-3]
        let own: Vec<&Subscription> = current
            .iter()
            .filter(|(filter, it)| !(is_shared(filter) || it.options.no_local && is_local))
            .map(|(_, subscription)| *subscription)
            .collect();
        let own_may = !own.is_empty() || removed(false).next().is_some();
        let groups: BTreeSet<String> = current
            .iter()
            .map(|(filter, _)| *filter)
            .chain(removed(true).map(|(filter, ..)| filter))
            .filter(|filter| is_shared(filter))
            .cloned()
            .collect();
        let as_published = own.iter().any(|it| it.options.retain_as_published)
            || current
                .iter()
                .any(|(filter, it)| is_shared(filter) && it.options.retain_as_published)
            || removed(false)
                .chain(removed(true))
                .any(|(.., as_published)| *as_published);
        let owed = session.owed.get(&index).map_or(0, |owed| owed.count);
        let asked: Vec<&String> = session
            .replays
            .iter()
            .filter(|filter| matches(filter, topic))
            .collect();
        let requested = asked.len() as u32;
        let got = session.got.entry(index).or_default();
        // What may as well be a retained message for a new subscription has no place in the order.
        let is_first = got.live + got.replayed == 0 && !(publish.retain && requested > 0);
        let is_settled = session.changed_at < first_routed
            && groups.is_empty()
            && removed(false).next().is_none();

        let qos = own.iter().map(|it| it.options.qos).max();
        let qos = qos.unwrap_or_default();
        let has_live_qos = publish.qos == qos.min(message.qos);
        let mut expected: Vec<u32> = own.iter().filter_map(|it| it.identifier).collect();
        expected.sort_unstable();
        let found = publish.properties.subscription_identifiers.iter();
        let mut found: Vec<u32> = found.map(|it| it.get()).collect();
        found.sort_unstable();
        // A copy that came before may have been taken for this one.
        let may_be_asked_for = publish.retain
            && asked.iter().any(|filter| {
                let identifier = session.subscriptions.get(*filter).map(|it| it.identifier);
                identifier.is_some_and(|it| it.into_iter().eq(found.iter().copied()))
            });
        // What one subscription asked for may overtake what comes live because of another one, which grants more or has an
        // identifier as well.
        let has_identifiers = !version.is_v5() || found == expected;
        let is_of_one = is_settled && !(has_live_qos && has_identifiers);
        // [MQTT-3.3.1-8] [MQTT-3.3.1-12] [MQTT-3.3.1-13]
        let replay = publish.retain && (!as_published || owed == 0 || is_of_one);
        if replay && got.replayed < requested {
            got.replayed += 1;
            for group in groups.iter().filter(|_| as_published) {
                if let Some(group) = self.groups.get_mut(group) {
                    group.ambiguous.insert(index);
                }
            }
            let key = (message.publisher, topic, message.qos, publish.qos);
            let newest = session.retained_order.get(&key).copied().unwrap_or(0);
            // What came through a Shared Subscription instead has waited for another member.
            let may_be_shared = as_published && !groups.is_empty();
            let is_ordered = !message.is_will && message.routings == 1 && !may_be_shared;
            if message.sequence < newest && is_ordered {
                violation!(
                    "{who}: retained message {index} ({}) after a newer one ({newest})",
                    message.sequence
                );
            }
            session
                .owed_retained
                .retain(|_, (message, ..)| *message != index);
            return Ok(());
        }
        if replay && !as_published {
            violation!("{who}: retained message {index} was not asked for");
        }
        if let Some(owed) = session.owed.get_mut(&index) {
            owed.count -= 1;
            if owed.count == 0 {
                session.owed.remove(&index);
            }
        } else if !own_may
            || got.live + got.replayed >= message.routings + requested
            || !groups.is_empty()
        {
            // Then it came through a Shared Subscription, or for no reason.
            let is_ambiguous = !own.is_empty() || removed(false).next().is_some();
            if groups.is_empty() {
                violation!(
                    "{who}: message {index} to {topic} ({} times published, {} got) for no reason: \
                     {current:?}",
                    message.routings,
                    got.live
                );
            }
            return self.explain_shared(who, client, index, publish, &groups, is_ambiguous);
        }
        got.live += 1;
        session
            .owed_retained
            .retain(|_, (message, ..)| *message != index);
        for group in &groups {
            if let Some(group) = self.groups.get_mut(group) {
                group.ambiguous.insert(index);
            }
        }
        if is_settled {
            // [MQTT-3.8.4-8] [MQTT-3.3.4-2]
            if !has_live_qos && !is_local {
                violation!(
                    "{who}: message {index} at {:?}, {qos:?} subscribed",
                    publish.qos
                );
            }
            let retain = message.retain && own.iter().any(|it| it.options.retain_as_published);
            if publish.retain != retain && !is_local {
                violation!("{who}: message {index} with RETAIN {}", publish.retain);
            }
            // [MQTT-3.3.4-3] [MQTT-3.3.4-4]
            if !has_identifiers && !may_be_asked_for {
                violation!("{who}: message {index} with identifiers {found:?}, not {expected:?}");
            }
        }
        // [MQTT-4.6.0-5]. What its publisher sent again may come behind what followed it at first.
        let key = (message.publisher, topic, message.qos, publish.qos);
        if is_first && groups.is_empty() && !message.is_will && message.routings == 1 {
            let last = session.order.entry(key).or_default();
            if message.sequence <= *last {
                violation!(
                    "{who}: message {index} to {topic}, number {} of its publisher, after {last}",
                    message.sequence
                );
            }
            *last = message.sequence;
            if message.retain {
                session.retained_order.insert(key, message.sequence);
            }
        }
        Ok(())
    }

    fn explain_shared(
        &mut self,
        who: &str,
        client: ClientIndex,
        index: MessageIndex,
        publish: &Publish<'_>,
        groups: &BTreeSet<String>,
        is_ambiguous: bool,
    ) -> Checked {
        let message = &self.messages[index as usize];
        let is_owed = |filter: &&String| {
            self.groups
                .get(*filter)
                .is_some_and(|group| group.owed.contains_key(&index))
        };
        let Some(filter) = groups
            .iter()
            .find(is_owed)
            .or_else(|| groups.first())
            .cloned()
        else {
            return Ok(());
        };
        let group = self.groups.entry(filter.clone()).or_default();
        let leaves = group
            .leaves
            .iter()
            .filter(|&&at| at >= message.first_routed)
            .count() as u32;
        let got = group.got.entry(index).or_default();
        *got += 1;
        if is_ambiguous || groups.len() > 1 {
            group.ambiguous.insert(index);
        }
        // [MQTT-4.8.2-4]. A member that left may have handed on all it had.
        if *got > message.routings * (1 + leaves) && !group.ambiguous.contains(&index) {
            violation!("{who}: {filter} got message {index} {got} times");
        }
        if let Some((count, _)) = group.owed.get_mut(&index) {
            *count -= 1;
            if *count == 0 {
                group.owed.remove(&index);
            }
        }
        for other in groups {
            if let Some(other) = self.groups.get_mut(other).filter(|_| groups.len() > 1) {
                other.ambiguous.insert(index);
            }
        }
        if let Some(identifier) = publish.packet_identifier.map(PacketIdentifier::get) {
            // Given out before the Client left the group, and seen after: it stays with the Client.
            let member = self.sessions[client].subscriptions.get(&filter);
            let has_left = member.is_none_or(|it| !it.in_force);
            if let Some(exchange) = self.sessions[client].outbound.get_mut(&identifier) {
                exchange.group = Some(filter).filter(|_| !has_left);
            }
        }
        Ok(())
    }

    // --- Rest.

    /// Checks what must be true when nothing moves and every Client is connected.
    ///
    /// # Errors
    /// The first [`Violation`].
    pub fn check_rest(&mut self, world: &World) -> Checked {
        for (client, session) in self.sessions.iter_mut().enumerate() {
            if session.wire.is_none() {
                let overdue = session
                    .will_at
                    .or(session.expires_at)
                    .filter(|at| *at <= self.now);
                if let Some(at) = overdue {
                    violation!("client {client}: something was due at {at:?}");
                }
                continue;
            }
            session.outbound.retain(|_, exchange| !exchange.is_doubtful);
            if let Some((identifier, exchange)) = session.outbound.first_key_value() {
                violation!("client {client}: {identifier} is still in flight: {exchange:?}");
            }
            if !session.subscribing.is_empty() {
                violation!("client {client}: no SUBACK for {:?}", session.subscribing);
            }
            for (index, owed) in std::mem::take(&mut session.owed) {
                let message = &self.messages[index as usize];
                if message.may_have_expired(self.now) {
                    continue;
                }
                if owed.at_most_once {
                    self.excused_outbox += u64::from(owed.count);
                    let dropped = world.sum(|it| it.dropped_outbox_full + it.dropped_queue_full);
                    if world.sum(|it| it.dropped_ring_full) == 0 && dropped < self.excused_outbox {
                        violation!(
                            "client {client}: message {index} is lost: {owed:?} {message:?}"
                        );
                    }
                } else {
                    self.excused_queue += u64::from(owed.count);
                    if world.sum(|it| it.dropped_queue_full) < self.excused_queue {
                        violation!(
                            "client {client}: message {index} is lost: {owed:?} {message:?}"
                        );
                    }
                }
            }
            if let Some((topic, owed)) = session.owed_retained.pop_first() {
                self.excused_queue += 1;
                if world.sum(|it| it.dropped_queue_full) < self.excused_queue {
                    violation!("client {client}: retained message of {topic} is lost: {owed:?}");
                }
            }
            session.owed_retained.clear();
        }
        for (filter, group) in &mut self.groups {
            for (index, (count, members)) in std::mem::take(&mut group.owed) {
                let message = &self.messages[index as usize];
                if message.may_have_expired(self.now) || group.ambiguous.contains(&index) {
                    continue;
                }
                self.excused_queue += u64::from(count);
                if world.sum(|it| it.dropped_queue_full) < self.excused_queue {
                    violation!("{filter}: message {index} is lost, {members:?} stayed");
                }
            }
        }
        self.check_retained(world)
    }

    /// All replicas are the same, and hold what the last write of some shard left.
    fn check_retained(&mut self, world: &World) -> Checked {
        let values = |shard: usize| -> BTreeMap<Vec<u8>, (u64, u16, Vec<u8>)> {
            let messages = world.shard(shard).retained_messages().into_iter();
            messages
                .map(|(version, message)| {
                    let topic = message.topic_name().to_vec();
                    let payload = message.as_ref().as_ref().payload.to_vec();
                    (topic, (version.clock, version.shard.0, payload))
                })
                .collect()
        };
        let first = values(0);
        for shard in 1..world.shard_count() {
            let other = values(shard);
            if other != first {
                violation!("retained replicas 0 and {shard} differ: {first:?} {other:?}");
            }
        }
        for (name, topic) in &mut self.topics {
            let value = first
                .get(name.as_bytes())
                .and_then(|(_, _, it)| message_of(it));
            let allowed: Vec<Option<MessageIndex>> = if topic.writes.is_empty() {
                vec![topic.settled]
            } else {
                let writes = topic.writes.values().flatten();
                writes.map(|write| write.message).collect()
            };
            let may_have_expired = |index: &Option<MessageIndex>| {
                index.is_some_and(|index| self.messages[index as usize].expiry_s.is_some())
            };
            let is_gone = value.is_none() && allowed.iter().any(may_have_expired);
            if !allowed.contains(&value) && !is_gone {
                violation!("{name} retains {value:?}, one of {allowed:?} was last");
            }
            topic.settled = value;
            topic.writes.clear();
        }
        Ok(())
    }
}

/// Size of the largest form of a message, without a Topic Alias.
fn size_of_message(message: &Publication, index: MessageIndex, identifiers: &[u32]) -> usize {
    let identifiers: Vec<_> = identifiers
        .iter()
        .filter_map(|&it| std::num::NonZeroU32::new(it))
        .collect();
    let header = PublishHeader {
        duplicate: false,
        qos: message.qos,
        retain: message.retain,
        packet_identifier: PacketIdentifier::new(1).filter(|_| message.qos != QoS::AtMostOnce),
        topic_name: message.topic.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: message.expiry_s,
        forwarded: &message.properties,
        subscription_identifiers: &identifiers,
        payload: &message.payload(index),
    };
    codec::publish_size(ProtocolVersion::V5, &header)
}

/// Size of a PUBLISH as it would be on a connection that knows no Topic Alias.
fn size_without_alias(publish: &Publish<'_>, topic: &str) -> usize {
    let mut properties = Vec::new();
    publish.properties.forwarded.copy_to(&mut properties);
    let identifiers: Vec<_> = publish.properties.subscription_identifiers.iter().collect();
    let header = PublishHeader {
        duplicate: false,
        qos: publish.qos,
        retain: publish.retain,
        packet_identifier: publish.packet_identifier,
        topic_name: topic.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: publish.properties.message_expiry_interval_s,
        forwarded: &properties,
        subscription_identifiers: &identifiers,
        payload: publish.payload,
    };
    codec::publish_size(ProtocolVersion::V5, &header)
}

/// A delivered message is the one that was published, as far as its content goes.
fn check_content(
    who: &str,
    index: MessageIndex,
    message: &Publication,
    topic: &str,
    publish: &Publish<'_>,
    version: ProtocolVersion,
    encoded: &RangeInclusive<Instant>,
) -> Checked {
    if message.routings == 0 {
        violation!("{who}: message {index} was not published yet: {message:?}");
    }
    if message.topic != topic || message.payload(index) != publish.payload {
        violation!(
            "{who}: message {index} came to {topic} with {} bytes",
            publish.payload.len()
        );
    }
    if publish.qos > message.qos {
        violation!("{who}: message {index} at {:?}", publish.qos);
    }
    if publish.retain && !message.retain {
        violation!("{who}: message {index} was not retained");
    }
    if !version.is_v5() {
        return check_expiry(who, index, message, publish, None, encoded);
    }
    let mut properties = Vec::new();
    publish.properties.forwarded.copy_to(&mut properties);
    if properties != message.properties {
        // [MQTT-3.3.2-17] [MQTT-3.3.2-18]
        violation!("{who}: message {index} has lost properties");
    }
    check_expiry(
        who,
        index,
        message,
        publish,
        publish.properties.message_expiry_interval_s,
        encoded,
    )
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
fn check_expiry(
    who: &str,
    index: MessageIndex,
    message: &Publication,
    publish: &Publish<'_>,
    remaining_s: Option<u32>,
    encoded: &RangeInclusive<Instant>,
) -> Checked {
    let (Some(at), 1) = (message.expires_at, message.routings) else {
        return Ok(());
    };
    let (first, last) = (*encoded.start(), *encoded.end());
    if at <= first && !publish.duplicate {
        violation!("{who}: message {index} expired {:?} ago", first - at);
    }
    let left = message::expiry_interval_s(at, last)..=message::expiry_interval_s(at, first);
    if let Some(remaining_s) = remaining_s
        && !left.contains(&remaining_s)
    {
        violation!("{who}: message {index} says {remaining_s} s, {left:?} are left");
    }
    Ok(())
}

/// The packet that `bytes` begins with, and what follows it.
fn parse(version: ProtocolVersion, bytes: &[u8]) -> Result<(Packet<'_>, &[u8]), Violation> {
    let malformed = |reason: String| Violation(format!("malformed packet: {reason} in {bytes:?}"));
    let header = codec::decode_fixed_header(bytes, PACKET_SIZE_MAX)
        .map_err(|error| malformed(error.to_string()))?
        .ok_or_else(|| malformed("no header".to_owned()))?;
    let body = bytes
        .get(header.header_size..header.total_size())
        .ok_or_else(|| malformed("a part is missing".to_owned()))?;
    let packet = codec::decode(version, header.first_byte, body)
        .map_err(|error| malformed(error.to_string()))?;
    Ok((packet, &bytes[header.total_size()..]))
}
