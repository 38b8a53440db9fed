//! What a bridge does with packets: takes them from one broker and gives them to the other.
//!
//! It is a Client of both, and has no Session of its own: a Packet Identifier is the same on both sides, and an
//! acknowledgement goes on to whom it is for. So a message is acknowledged to one broker when the other one has it, each
//! repeats to the bridge what was not acknowledged, and neither a connection that is lost nor a crash loses or
//! doubles anything that the Sessions at both ends survive.
//!
//! **Knows nothing of** sockets and clocks: bytes and the time in, bytes and [`Event`]s out.

#![forbid(unsafe_code)]

use super::numbers::BridgeNumbers;
use super::options::{LocalLimits, RemoteOptions};
use super::topics::{Topics, Way};
use crate::codec::{
    Acknowledgement, ConnAck, Connect, ConnectProperties, DecodeError, Disconnect, FixedHeader,
    ForwardedProperties, PINGREQ, PINGRESP, Packet, Publish, PublishHeader, ReasonCode,
    RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe, Will, decode, decode_fixed_header,
    encode, encode_puback, encode_pubcomp, encode_publish, encode_pubrec, encode_pubrel,
    packet_type, publish_size,
};
use crate::key::PacketIdentifier;
use crate::limits::PACKET_SIZE_MAX;
use crate::message::{ProtocolVersion, QoS};
use std::borrow::Cow;
use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What waits to be sent to one broker, beyond which nothing more is taken from the other. A packet may go beyond it.
const OUTPUT_MAX: usize = 256 * 1024;
/// The largest packet but a PUBLISH that a broker may send, and what may stand before the payload of one that is passed over.
const OTHERS_SIZE_MAX: usize = 256 * 1024;
/// For how long answers to what the bridge asks the remote broker are waited for before it publishes there.
const ANSWER_PATIENCE: Duration = Duration::from_secs(10);
/// For how long CONNACK is waited for.
const CONNACK_PATIENCE: Duration = Duration::from_secs(30);
/// Topic Filters in one SUBSCRIBE to this broker.
const FILTERS_MAX: usize = 100;
/// Events that are remembered; beyond that they are not told one by one.
const EVENTS_MAX: usize = 64;

/// What happened.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Event {
    /// This broker is to be connected to anew: what the remote broker takes at once is less than was thought.
    Rejoin,
    /// Both are connected.
    Linked,
    /// Subscriptions were refused: this one first, and so many others.
    Refused {
        way: Way,
        filter: String,
        reason_code: ReasonCode,
        others: usize,
    },
    /// A message was not passed on.
    Dropped {
        way: Way,
        topic_name: String,
        why: &'static str,
    },
}

/// Why a connection ends.
#[derive(Debug, Eq, PartialEq)]
pub(super) enum Ended {
    /// CONNACK says no.
    Refused(Side, ReasonCode, ProtocolVersion),
    /// DISCONNECT of MQTT 5.0.
    Disconnected(Side, ReasonCode),
    /// It is not MQTT.
    Malformed(Side, String),
    /// The broker says nothing.
    Silent(Side),
}

/// One of the two brokers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Side {
    Remote,
    Local,
}

impl Side {
    /// The way that messages go which come from there.
    const fn way(self) -> Way {
        match self {
            Self::Remote => Way::In,
            Self::Local => Way::Out,
        }
    }

    const fn other(self) -> Self {
        match self {
            Self::Remote => Self::Local,
            Self::Local => Self::Remote,
        }
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Remote => "the remote broker",
            Self::Local => "this broker",
        })
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(side, reason_code, version) => {
                let code = if version.is_v5() {
                    reason_code.as_u8()
                } else {
                    reason_code.as_connect_return_code()
                };
                write!(f, "{side} refused the connection ({code}: {reason_code:?})")
            }
            Self::Disconnected(side, reason_code) => {
                write!(f, "{side} ended the connection ({reason_code:?})")
            }
            Self::Malformed(side, what) => write!(f, "{side}: {what}"),
            Self::Silent(side) => write!(f, "{side} does not answer"),
        }
    }
}

/// Sides that may know of exchanges of QoS 2 which the other one has lost with its Session. Their Packet Identifiers are
/// given to other messages next, which would be taken for repetitions, or for more than is taken at once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Orphans {
    pub(super) local: bool,
    pub(super) remote: bool,
}

impl Orphans {
    fn at(&mut self, side: Side) -> &mut bool {
        match side {
            Side::Remote => &mut self.remote,
            Side::Local => &mut self.local,
        }
    }
}

/// What arrived from one broker and what is to be sent to it.
#[derive(Debug)]
struct End {
    version: ProtocolVersion,
    /// Its CONNACK has come.
    is_connected: bool,
    /// With a Session that has just begun.
    is_new: bool,
    /// By Packet Identifier: a PUBCOMP is to come of an exchange that the bridge itself has ended. Empty for none.
    freed: Vec<bool>,
    /// Arrived and not handled, from `unread_start` on.
    unread: Vec<u8>,
    unread_start: usize,
    /// There may be packets in it that wait for the other one to read.
    is_behind: bool,
    /// Bytes of a packet that is too large, which are still to come.
    skipped: usize,
    output: Vec<u8>,
    /// Bytes of it, at most, that answer itself and that no other broker waits for.
    answers_size: usize,
    /// The largest packet that goes on from here.
    packet_size_max: u32,
}

impl End {
    fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            is_connected: false,
            is_new: false,
            freed: Vec::new(),
            unread: Vec::new(),
            unread_start: 0,
            is_behind: false,
            skipped: 0,
            output: Vec::new(),
            answers_size: 0,
            packet_size_max: PACKET_SIZE_MAX,
        }
    }

    fn receive(&mut self, mut bytes: &[u8]) {
        let skipped = self.skipped.min(bytes.len());
        self.skipped -= skipped;
        bytes = bytes.get(skipped..).unwrap_or_default();
        if self.unread_start == self.unread.len() {
            self.unread.clear();
            self.unread_start = 0;
        }
        self.unread.extend_from_slice(bytes);
    }

    /// Ends all exchanges of QoS 2 that it may know of as a receiver.
    fn free(&mut self) {
        self.freed = vec![true; 1 << 16];
        for identifier in (1..=u16::MAX).filter_map(PacketIdentifier::new) {
            encode_pubrel(
                self.version,
                identifier,
                ReasonCode::Success,
                &mut self.output,
            );
        }
    }

    /// Whether the end of the exchange is the bridge's own doing, and nobody else's matter. That is so once.
    fn take_freed(&mut self, identifier: PacketIdentifier) -> bool {
        let freed = self.freed.get_mut(usize::from(identifier.get()));
        freed.is_some_and(std::mem::take)
    }

    /// Whether it has ended them.
    fn is_free(&self) -> bool {
        // There is no identifier 0.
        !self.freed.is_empty() && !self.freed.iter().skip(1).any(|&it| it)
    }

    /// Moves what is left to the beginning.
    fn compact(&mut self) {
        self.unread.drain(..self.unread_start);
        self.unread_start = 0;
    }
}

/// The next thing in what has arrived.
enum Next {
    /// Not all of it is there.
    Nothing,
    /// A packet, all of it.
    Packet(FixedHeader),
    /// A PUBLISH that is larger than what may go on. What stands before its payload is there.
    TooLarge(FixedHeader),
}

/// The packets of one bridge, from one connection on.
#[derive(Debug)]
pub(super) struct Relay {
    options: Arc<RemoteOptions>,
    topics: Topics,
    /// Subscriptions of an earlier configuration at the remote broker.
    stale: Vec<String>,
    orphans: Orphans,
    limits: LocalLimits,
    numbers: Arc<BridgeNumbers>,
    remote: End,
    local: End,
    /// Of the remote broker.
    maximum_qos: QoS,
    retain_available: bool,
    /// Packet Identifiers of messages of QoS 2 that have gone to a remote broker which takes QoS 1 at most.
    lowered: HashSet<PacketIdentifier>,
    /// When something was sent to this broker last.
    told_local: Instant,
    /// Messages of QoS 1 and 2 that it takes at once.
    window: Option<NonZeroU16>,
    keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    /// When something was sent that has no answer yet: CONNECT or PINGREQ.
    asked: Option<Instant>,
    /// What the remote broker has given Topic Aliases to; the first one is 1.
    aliases: Vec<String>,
    /// Of the next own packet to each.
    identifiers: u16,
    /// What was subscribed to, or unsubscribed from, and is not answered yet.
    unanswered: VecDeque<(Way, u16, Vec<String>)>,
    /// Of those, what was refused: first, and how often further.
    refused: Vec<(Way, String, ReasonCode, usize)>,
    /// Until when this broker is not listened to because of that: it goes by its own Packet Identifiers, and none may be in
    /// use twice [MQTT-2.2.1-3].
    asking_until: Option<Instant>,
    renamed: String,
    forwarded: Vec<u8>,
    events: VecDeque<Event>,
}

impl Relay {
    /// A bridge that has its CONNECT to send to both brokers. Its Session at the remote one may have subscriptions to `stale`,
    /// which are to end, as are the exchanges of `orphans`.
    pub(super) fn new(
        options: &Arc<RemoteOptions>,
        topics: &Topics,
        stale: &[String],
        orphans: Orphans,
        limits: LocalLimits,
        numbers: &Arc<BridgeNumbers>,
        now: Instant,
    ) -> Self {
        let version = options.version;
        let mut relay = Self {
            options: options.clone(),
            topics: topics.clone(),
            stale: stale.to_vec(),
            orphans,
            limits,
            numbers: numbers.clone(),
            remote: End::new(version),
            local: End::new(options.local_version()),
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            lowered: HashSet::new(),
            told_local: now,
            window: None,
            keep_alive: options.keep_alive,
            last_sent: now,
            last_received: now,
            asked: Some(now),
            aliases: Vec::new(),
            identifiers: 0,
            unanswered: VecDeque::new(),
            refused: Vec::new(),
            asking_until: None,
            renamed: String::new(),
            forwarded: Vec::new(),
            events: VecDeque::new(),
        };
        relay.write_remote_connect();
        relay.rejoin(now);
        relay
    }

    fn write_remote_connect(&mut self) {
        let options = &self.options;
        let receive_maximum = match (options.receive_maximum, self.limits.receive_maximum) {
            (Some(asked), 0) => Some(asked),
            // What this broker does not take at once it must not be sent.
            (Some(asked), ours) => Some(asked.min(ours)),
            (None, ours) => (ours > 0).then_some(ours),
        };
        let will = options
            .notification_topic
            .as_deref()
            .map(|topic_name| Will {
                qos: QoS::AtLeastOnce,
                retain: true,
                topic_name,
                payload: b"0",
                delay_interval_s: 0,
                message_expiry_interval_s: None,
                properties: ForwardedProperties::default(),
            });
        let connect = Connect {
            is_bridge: options.try_private && !options.version.is_v5(),
            clean_start: options.clean_start,
            keep_alive_s: u16::try_from(options.keep_alive.as_secs()).unwrap_or(u16::MAX),
            username: options.username.as_deref(),
            password: options.password.as_deref().map(str::as_bytes),
            will,
            properties: ConnectProperties {
                session_expiry_interval: options.session_expiry_interval_s,
                receive_maximum: receive_maximum.and_then(NonZeroU16::new),
                topic_alias_maximum: options.max_topic_alias,
                ..ConnectProperties::default()
            },
            ..Connect::new(options.version, &options.client_identifier)
        };
        encode(
            &Packet::Connect(connect),
            options.version,
            &mut self.remote.output,
        );
    }

    /// Begins the connection to this broker, by a new socket.
    fn rejoin(&mut self, now: Instant) {
        let options = &self.options;
        self.local = End::new(options.local_version());
        self.local.packet_size_max = self.limits.packet_size_max;
        self.told_local = now;
        let mut connect = local_connect(options, self.local.version, options.local_clean_start);
        connect.properties.receive_maximum = self.window;
        connect.keep_alive_s = self.limits.max_keep_alive_s;
        let output = &mut self.local.output;
        encode(&Packet::Connect(connect), self.local.version, output);
    }

    /// Takes bytes that arrived.
    pub(super) fn receive(&mut self, side: Side, bytes: &[u8], now: Instant) {
        if side == Side::Remote {
            self.last_received = now;
        }
        self.end(side).receive(bytes);
    }

    /// Whether it takes more from `side`, which depends on what the other one has still to be sent, and on the answers that it
    /// does not read itself.
    pub(super) fn wants(&self, side: Side) -> bool {
        let (end, other) = match side {
            Side::Remote => (&self.remote, &self.local),
            Side::Local => (&self.local, &self.remote),
        };
        if !end.is_connected {
            return true;
        }
        let is_asking = side == Side::Local && self.asking_until.is_some();
        let has_room = other.output.len() < OUTPUT_MAX && end.answers_size < OUTPUT_MAX;
        other.is_connected && !is_asking && has_room
    }

    /// Whether [`Relay::advance`] has something to do by now, since what had to be sent before has left.
    pub(super) fn is_behind(&self) -> bool {
        let sides = [(Side::Remote, &self.remote), (Side::Local, &self.local)];
        sides
            .into_iter()
            .any(|(side, end)| end.is_behind && self.wants(side))
    }

    /// Bytes to be sent; whoever sends some takes them out.
    pub(super) fn output(&mut self, side: Side) -> &mut Vec<u8> {
        &mut self.end(side).output
    }

    /// So many bytes have left for `side`.
    pub(super) fn handle_sent(&mut self, side: Side, size: usize, now: Instant) {
        let end = self.end(side);
        end.answers_size = end.answers_size.saturating_sub(size);
        match side {
            Side::Remote => self.last_sent = now,
            Side::Local => self.told_local = now,
        }
    }

    /// What has happened since it was asked last.
    pub(super) fn events(&mut self) -> impl Iterator<Item = Event> + '_ {
        self.events.drain(..)
    }

    /// What the next connection has to see to.
    pub(super) fn orphans(&self) -> Orphans {
        Orphans {
            local: self.orphans.local && !self.local.is_free(),
            remote: self.orphans.remote && !self.remote.is_free(),
        }
    }

    fn end(&mut self, side: Side) -> &mut End {
        match side {
            Side::Remote => &mut self.remote,
            Side::Local => &mut self.local,
        }
    }

    /// Handles what has arrived, as far as there is room for what follows from it.
    ///
    /// # Errors
    /// Why the connections are to be ended.
    pub(super) fn advance(&mut self, now: Instant) -> Result<(), Ended> {
        for side in [Side::Remote, Side::Local] {
            // Taken out, so that a packet can borrow from it while the rest changes.
            let unread = std::mem::take(&mut self.end(side).unread);
            let mut result = Ok(true);
            while self.wants(side) && matches!(result, Ok(true)) {
                result = self.handle_next(side, &unread, now);
            }
            let end = self.end(side);
            end.unread = unread;
            end.compact();
            end.is_behind = matches!(result, Ok(true)) && !end.unread.is_empty();
            result?;
        }
        Ok(())
    }

    /// Handles the next packet. False if there is none.
    fn handle_next(&mut self, side: Side, unread: &[u8], now: Instant) -> Result<bool, Ended> {
        let start = self.end(side).unread_start;
        let bytes = unread.get(start..).unwrap_or_default();
        let malformed = |error: DecodeError| Ended::Malformed(side, error.to_string());
        let (header, is_whole) = match self.next(side, bytes).map_err(malformed)? {
            Next::Nothing => return Ok(false),
            Next::Packet(header) => (header, true),
            Next::TooLarge(header) => (header, false),
        };
        let size = header.total_size();
        let end = self.end(side);
        let version = end.version;
        if is_whole {
            end.unread_start += size;
            let body = bytes.get(header.header_size..size).unwrap_or_default();
            let packet = decode(version, header.first_byte, body).map_err(malformed)?;
            return self.handle(side, packet, now).map(|()| true);
        }
        let here = size.min(bytes.len());
        end.unread_start += here;
        end.skipped = size - here;
        let body = bytes.get(header.header_size..).unwrap_or_default();
        let beginning = beginning(version, header.first_byte, body).unwrap_or_default();
        let packet = decode(version, header.first_byte, beginning).map_err(malformed)?;
        if let Packet::Publish(publish) = packet {
            self.drop_too_large(side, &publish)?;
        }
        Ok(true)
    }

    fn next(&mut self, side: Side, bytes: &[u8]) -> Result<Next, DecodeError> {
        let largest = self.end(side.other()).packet_size_max as usize;
        let is_publish = bytes
            .first()
            .is_some_and(|it| it >> 4 == packet_type::PUBLISH);
        // Nothing large can be meant but a message, and that not before CONNACK.
        let size_max = match is_publish && self.end(side).is_connected {
            true => PACKET_SIZE_MAX,
            false => OTHERS_SIZE_MAX as u32,
        };
        let Some(header) = decode_fixed_header(bytes, size_max)? else {
            return Ok(Next::Nothing);
        };
        if bytes.len() >= header.total_size() {
            return Ok(Next::Packet(header));
        }
        // With another name it may be smaller.
        if !is_publish || header.total_size() <= largest.saturating_add(TOPIC_SIZE_MAX) {
            return Ok(Next::Nothing);
        }
        let body = bytes.get(header.header_size..).unwrap_or_default();
        match beginning(self.end(side).version, header.first_byte, body) {
            Some(_) => Ok(Next::TooLarge(header)),
            None if body.len() < OTHERS_SIZE_MAX => Ok(Next::Nothing),
            None => Err(DecodeError::PacketTooLarge {
                size: header.total_size() as u32,
                size_max: OTHERS_SIZE_MAX as u32,
            }),
        }
    }

    fn handle(&mut self, side: Side, packet: Packet<'_>, now: Instant) -> Result<(), Ended> {
        let unexpected = |what: &str| Err(Ended::Malformed(side, what.to_owned()));
        if !self.end(side).is_connected {
            return match packet {
                Packet::ConnAck(connack) => self.handle_connack(side, &connack, now),
                _ => unexpected("something came before CONNACK"),
            };
        }
        match (side, packet) {
            (_, Packet::Publish(publish)) => self.handle_publish(side, &publish),
            (Side::Remote, Packet::PubAck(ack)) if self.lowered.remove(&ack.packet_identifier) => {
                self.pass_on(side, ack, encode_pubrec)
            }
            (_, Packet::PubAck(ack)) => self.pass_on(side, ack, encode_puback),
            (_, Packet::PubRec(ack)) => {
                // Whatever had to come before it has come.
                self.end(side).take_freed(ack.packet_identifier);
                self.pass_on(side, ack, encode_pubrec)
            }
            // The remote broker has nothing that this could end.
            (Side::Local, Packet::PubRel(ack)) if self.maximum_qos < QoS::ExactlyOnce => {
                let (version, identifier) = (self.local.version, ack.packet_identifier);
                let output = &mut self.local.output;
                encode_pubcomp(version, identifier, ReasonCode::Success, output);
                Ok(())
            }
            (_, Packet::PubRel(ack)) => self.pass_on(side, ack, encode_pubrel),
            (_, Packet::PubComp(ack)) if self.end(side).take_freed(ack.packet_identifier) => Ok(()),
            (_, Packet::PubComp(ack)) => self.pass_on(side, ack, encode_pubcomp),
            (_, Packet::SubAck(suback)) => {
                let identifier = suback.packet_identifier.get();
                let codes: Vec<_> = suback.reason_codes.iter().collect();
                self.handle_suback(side, identifier, &codes);
                Ok(())
            }
            (_, Packet::UnsubAck(unsuback)) => {
                self.handle_suback(side, unsuback.packet_identifier.get(), &[]);
                Ok(())
            }
            // Nothing that a broker would ask; but those who do so get an answer from Mosquitto's bridges.
            (Side::Remote, Packet::PingReq) => {
                self.remote.output.extend_from_slice(&PINGRESP);
                self.remote.answers_size += PINGRESP.len();
                Ok(())
            }
            (Side::Remote, Packet::PingResp) => {
                self.asked = None;
                Ok(())
            }
            (Side::Local, Packet::PingResp) => Ok(()),
            (_, Packet::Disconnect(disconnect)) if self.end(side).version.is_v5() => {
                Err(Ended::Disconnected(side, disconnect.reason_code))
            }
            (_, Packet::Auth(_)) => {
                unexpected("it asks for enhanced authentication, which a bridge does not have")
            }
            _ => unexpected("it sent a packet that is a Client's to send"),
        }
    }

    fn handle_connack(
        &mut self,
        side: Side,
        connack: &ConnAck<'_>,
        now: Instant,
    ) -> Result<(), Ended> {
        let end = self.end(side);
        if connack.reason_code.is_error() {
            return Err(Ended::Refused(side, connack.reason_code, end.version));
        }
        end.is_connected = true;
        if !connack.session_present {
            end.is_new = true;
            let (other, is_new) = match side {
                Side::Remote => (Side::Local, self.local.is_new),
                Side::Local => (Side::Remote, self.remote.is_new),
            };
            *self.orphans.at(side) = false;
            *self.orphans.at(other) = !is_new;
        }
        match side {
            Side::Remote => self.handle_remote_connack(connack, now),
            Side::Local => {}
        }
        if self.is_linked() {
            self.link(now);
        }
        Ok(())
    }

    fn is_linked(&self) -> bool {
        self.remote.is_connected && self.local.is_connected
    }

    fn handle_remote_connack(&mut self, connack: &ConnAck<'_>, now: Instant) {
        let properties = &connack.properties;
        self.maximum_qos = properties.maximum_qos.unwrap_or(QoS::ExactlyOnce);
        self.retain_available = properties.retain_available.unwrap_or(true);
        let theirs = properties.maximum_packet_size.map(NonZeroU32::get);
        let ours = self.options.packet_size_max;
        self.remote.packet_size_max = [theirs, ours]
            .into_iter()
            .flatten()
            .fold(PACKET_SIZE_MAX, u32::min);
        // [MQTT-3.2.2-21]
        if let Some(seconds) = properties.server_keep_alive_s {
            self.keep_alive = Duration::from_secs(seconds.into());
        }
        self.window = properties.receive_maximum;
        if !connack.session_present {
            self.stale.clear();
        }
        self.asked = None;
        let ours = match self.limits.receive_maximum {
            0 => u16::MAX,
            ours => ours,
        };
        // [MQTT-3.3.4-9]: this broker goes by what it is told at CONNECT.
        if self.window.is_some_and(|theirs| theirs.get() < ours) {
            self.rejoin(now);
            self.tell(Event::Rejoin);
        }
    }

    /// Both have accepted: now each is asked for what is to go to the other one.
    fn link(&mut self, now: Instant) {
        self.last_received = now;
        for (side, way) in [(Side::Local, Way::In), (Side::Remote, Way::Out)] {
            if *self.orphans.at(side) && self.have_exchanges(way) {
                self.end(side).free();
            }
        }
        self.notify(b"1");
        self.ask_remote();
        self.asking_until = (!self.unanswered.is_empty()).then(|| now + ANSWER_PATIENCE);
        self.ask_local();
        self.numbers.set_connected(true);
        self.tell(Event::Linked);
    }

    fn have_exchanges(&self, way: Way) -> bool {
        let is_taken = way == Way::In || self.maximum_qos == QoS::ExactlyOnce;
        is_taken && self.topics.have_exchanges(way)
    }

    /// Subscribes at the remote broker to what comes from there.
    fn ask_remote(&mut self) {
        let topics = self.topics.clone();
        for filter in std::mem::take(&mut self.stale) {
            self.unsubscribe_at_remote(&filter);
        }
        for (filter, qos, comes) in topics.remote() {
            if comes {
                self.subscribe_at_remote(filter, qos.min(self.maximum_qos));
            } else if self.options.attempt_unsubscribe {
                // Before the last start the configuration may have been another one.
                self.unsubscribe_at_remote(filter);
            }
        }
    }

    fn subscribe_at_remote(&mut self, filter: &str, qos: QoS) {
        if let Some(identifier) = self.next_identifier(vec![filter.to_owned()]) {
            let filters = [(filter, subscription(qos))];
            let subscribe = Packet::Subscribe(Subscribe::new(identifier, &filters));
            encode(&subscribe, self.remote.version, &mut self.remote.output);
        }
    }

    fn unsubscribe_at_remote(&mut self, filter: &str) {
        if let Some(identifier) = self.next_identifier(Vec::new()) {
            let filters = [filter];
            let unsubscribe = Packet::Unsubscribe(Unsubscribe::new(identifier, &filters));
            encode(&unsubscribe, self.remote.version, &mut self.remote.output);
        }
    }

    /// The Packet Identifier of what the remote broker is asked next: to subscribe to these, or to something else. There are
    /// fewer topics than identifiers.
    fn next_identifier(&mut self, filters: Vec<String>) -> Option<PacketIdentifier> {
        self.identifiers = self.identifiers.checked_add(1)?;
        let identifier = PacketIdentifier::new(self.identifiers)?;
        let unanswered = (Way::In, identifier.get(), filters);
        self.unanswered.push_back(unanswered);
        Some(identifier)
    }

    /// Subscribes at this broker to what goes out.
    fn ask_local(&mut self) {
        let version = self.local.version;
        let identifiers = (1..=u16::MAX).filter_map(PacketIdentifier::new);
        let topics = self.topics.clone();
        let filters: Vec<_> = topics.filters(Way::Out).collect();
        for (identifier, chunk) in identifiers.zip(filters.chunks(FILTERS_MAX)) {
            let names = chunk.iter().map(|(filter, _)| (*filter).to_owned());
            let unanswered = (Way::Out, identifier.get(), names.collect());
            self.unanswered.push_back(unanswered);
            let qos_max = self.maximum_qos;
            let options = chunk
                .iter()
                .map(|&(filter, qos)| (filter, subscription(qos.min(qos_max))));
            let options: Vec<_> = options.collect();
            let subscribe = Packet::Subscribe(Subscribe::new(identifier, &options));
            encode(&subscribe, version, &mut self.local.output);
        }
    }

    fn handle_suback(&mut self, side: Side, identifier: u16, codes: &[ReasonCode]) {
        let way = side.way();
        let mut unanswered = self.unanswered.iter();
        let found = unanswered.position(|it| (it.0, it.1) == (way, identifier));
        let Some((_, _, filters)) = found.and_then(|index| self.unanswered.remove(index)) else {
            return;
        };
        if !self.unanswered.iter().any(|it| it.0 == Way::In) {
            self.asking_until = None;
        }
        for (filter, &reason_code) in filters.into_iter().zip(codes) {
            if !reason_code.is_error() {
                continue;
            }
            match self.refused.iter_mut().find(|it| it.0 == way) {
                Some((_, _, _, others)) => *others += 1,
                None => self.refused.push((way, filter, reason_code, 0)),
            }
        }
        if self.unanswered.is_empty() {
            self.tell_refused();
        }
    }

    /// Once for all of them: there may be a thousand, each time that it connects.
    fn tell_refused(&mut self) {
        for (way, filter, reason_code, others) in std::mem::take(&mut self.refused) {
            self.tell(Event::Refused {
                way,
                filter,
                reason_code,
                others,
            });
        }
    }

    fn handle_publish(&mut self, from: Side, publish: &Publish<'_>) -> Result<(), Ended> {
        let topic_name = self.resolve(from, publish)?;
        let way = from.way();
        let mut renamed = std::mem::take(&mut self.renamed);
        let name = self.topics.rename(way, &topic_name, &mut renamed);
        // What was queued before the remote broker was known may be of a higher QoS than it takes [MQTT-3.2.2-11].
        let qos = match way {
            Way::Out => publish.qos.min(self.maximum_qos),
            Way::In => publish.qos,
        };
        let written = name.and_then(|()| self.write_publish(way, publish, qos, &renamed));
        let why = written.err();
        self.renamed = renamed;
        if why.is_none() {
            self.numbers.count(way);
        }
        if why.is_none() && qos < publish.qos {
            match publish.packet_identifier {
                Some(identifier) if qos == QoS::AtLeastOnce => {
                    self.lowered.insert(identifier);
                }
                identifier => self.answer(from, publish.qos, identifier),
            }
        }
        if let Some(why) = why {
            self.answer(from, publish.qos, publish.packet_identifier);
            self.tell(Event::Dropped {
                way,
                topic_name: topic_name.into_owned(),
                why,
            });
        }
        Ok(())
    }

    /// The Topic Name, which a Topic Alias may stand for.
    fn resolve<'a>(&mut self, from: Side, publish: &Publish<'a>) -> Result<Cow<'a, str>, Ended> {
        let name = publish.topic_name;
        let Some(alias) = publish.properties.topic_alias else {
            return Ok(Cow::Borrowed(name));
        };
        let malformed = |what: &str| Ended::Malformed(from, what.to_owned());
        let index = usize::from(alias.get()) - 1;
        // Only the remote broker was told that it may have any.
        if from == Side::Local || alias.get() > self.options.max_topic_alias {
            return Err(malformed("its Topic Alias is above the maximum"));
        }
        if !name.is_empty() {
            if self.aliases.len() <= index {
                self.aliases.resize(index + 1, String::new());
            }
            if let Some(slot) = self.aliases.get_mut(index) {
                name.clone_into(slot);
            }
            return Ok(Cow::Borrowed(name));
        }
        match self.aliases.get(index) {
            Some(name) if !name.is_empty() => Ok(Cow::Owned(name.clone())),
            _ => Err(malformed("its Topic Alias stands for nothing")),
        }
    }

    fn write_publish(
        &mut self,
        way: Way,
        publish: &Publish<'_>,
        qos: QoS,
        topic_name: &str,
    ) -> Result<(), &'static str> {
        let may_retain = match way {
            Way::Out => self.options.outgoing_retain && self.retain_available,
            Way::In => self.limits.retain_available,
        };
        self.forwarded.clear();
        publish.properties.forwarded.copy_to(&mut self.forwarded);
        let header = PublishHeader {
            duplicate: publish.duplicate && qos > QoS::AtMostOnce,
            qos,
            retain: publish.retain && may_retain,
            packet_identifier: publish.packet_identifier.filter(|_| qos > QoS::AtMostOnce),
            topic_name: topic_name.as_bytes(),
            topic_alias: None,
            message_expiry_interval_s: publish.properties.message_expiry_interval_s,
            forwarded: &self.forwarded,
            subscription_identifiers: &[],
            payload: publish.payload,
        };
        let end = match way {
            Way::Out => &mut self.remote,
            Way::In => &mut self.local,
        };
        let size = publish_size(end.version, &header);
        if size > end.packet_size_max as usize {
            return Err(TOO_LARGE);
        }
        end.output.reserve(size);
        let at = end.output.len();
        let offset = encode_publish(end.version, &header, &mut end.output);
        debug_assert_eq!(offset.is_some(), qos != QoS::AtMostOnce);
        debug_assert_eq!(end.output.len() - at, size);
        Ok(())
    }

    /// Of a message of which no more than that is here.
    fn drop_too_large(&mut self, from: Side, publish: &Publish<'_>) -> Result<(), Ended> {
        // Later messages may have its Topic Alias only.
        let topic_name = self.resolve(from, publish)?.into_owned();
        self.answer(from, publish.qos, publish.packet_identifier);
        let way = from.way();
        self.tell(Event::Dropped {
            way,
            topic_name,
            why: TOO_LARGE,
        });
        Ok(())
    }

    /// Acknowledges what nobody else will. Of QoS 2 it does the first step only: PUBREL goes to the other broker, which knows
    /// nothing of it and says that it is complete.
    fn answer(&mut self, to: Side, qos: QoS, identifier: Option<PacketIdentifier>) {
        let end = self.end(to);
        let before = end.output.len();
        let (version, success) = (end.version, ReasonCode::Success);
        match (qos, identifier) {
            (QoS::AtLeastOnce, Some(it)) => encode_puback(version, it, success, &mut end.output),
            (QoS::ExactlyOnce, Some(it)) => encode_pubrec(version, it, success, &mut end.output),
            _ => {}
        }
        end.answers_size += end.output.len() - before;
    }

    fn pass_on(
        &mut self,
        from: Side,
        ack: Acknowledgement<'_>,
        write: fn(ProtocolVersion, PacketIdentifier, ReasonCode, &mut Vec<u8>),
    ) -> Result<(), Ended> {
        let to = self.end(from.other());
        write(
            to.version,
            ack.packet_identifier,
            ack.reason_code,
            &mut to.output,
        );
        Ok(())
    }

    /// Publishes at the remote broker whether the bridge is connected.
    fn notify(&mut self, payload: &[u8]) {
        let Some(topic_name) = &self.options.notification_topic else {
            return;
        };
        let header = PublishHeader {
            duplicate: false,
            qos: QoS::AtMostOnce,
            retain: self.retain_available,
            packet_identifier: None,
            topic_name: topic_name.as_bytes(),
            topic_alias: None,
            message_expiry_interval_s: None,
            forwarded: &[],
            subscription_identifiers: &[],
            payload,
        };
        encode_publish(self.remote.version, &header, &mut self.remote.output);
    }

    /// Says goodbye to both.
    pub(super) fn leave(&mut self) {
        if self.is_linked() {
            // DISCONNECT takes the Will back.
            self.notify(b"0");
        }
        let goodbye = Packet::Disconnect(Disconnect::new(ReasonCode::Success));
        for end in [&mut self.remote, &mut self.local] {
            encode(&goodbye, end.version, &mut end.output);
        }
    }

    /// When [`Relay::handle_timeout`] is to be called.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let deadlines = [
            self.remote_deadline(),
            self.local_deadline(),
            self.asking_until,
        ];
        deadlines.into_iter().flatten().min()
    }

    /// When this broker has to have answered CONNECT, or is to be told that the bridge lives, which it only wants to know
    /// where the operator bounds the Keep Alive of everybody.
    fn local_deadline(&self) -> Option<Instant> {
        if !self.local.is_connected {
            return Some(self.told_local + CONNACK_PATIENCE);
        }
        let keep_alive = Duration::from_secs(self.limits.max_keep_alive_s.into());
        (!keep_alive.is_zero()).then(|| self.told_local + keep_alive)
    }

    fn remote_deadline(&self) -> Option<Instant> {
        if let Some(asked) = self.asked {
            return Some(asked + self.patience());
        }
        let quiet_since = self.last_sent.min(self.last_received);
        (!self.keep_alive.is_zero()).then(|| quiet_since + self.keep_alive)
    }

    fn patience(&self) -> Duration {
        if self.remote.is_connected {
            self.keep_alive
        } else {
            CONNACK_PATIENCE
        }
    }

    /// Asks the remote broker for a sign of life when it is time.
    ///
    /// # Errors
    /// It gave none.
    pub(super) fn handle_timeout(&mut self, now: Instant) -> Result<(), Ended> {
        let is_due = |deadline: Option<Instant>| deadline.is_some_and(|deadline| now >= deadline);
        if is_due(self.asking_until) {
            self.asking_until = None;
            self.tell_refused();
        }
        if is_due(self.local_deadline()) {
            if !self.local.is_connected {
                return Err(Ended::Silent(Side::Local));
            }
            self.local.output.extend_from_slice(&PINGREQ);
            self.told_local = now;
        }
        if !is_due(self.remote_deadline()) {
            return Ok(());
        }
        match self.asked {
            // What it has said since then may have had to wait in front of its answer, or still does.
            Some(asked)
                if !self.remote.is_connected
                    || self.last_received <= asked && self.wants(Side::Remote) =>
            {
                Err(Ended::Silent(Side::Remote))
            }
            asked => {
                if asked.is_none() {
                    self.remote.output.extend_from_slice(&PINGREQ);
                }
                self.asked = Some(now);
                Ok(())
            }
        }
    }

    fn tell(&mut self, event: Event) {
        if matches!(event, Event::Dropped { .. }) {
            self.numbers.count_dropped();
        }
        if self.events.len() < EVENTS_MAX {
            self.events.push_back(event);
        }
    }
}

/// The longest Topic Name.
const TOPIC_SIZE_MAX: usize = u16::MAX as usize;
const TOO_LARGE: &str = "it is larger than the other broker takes";

/// The CONNECT by which a bridge is a Client of this broker.
pub(super) fn local_connect(
    options: &RemoteOptions,
    version: ProtocolVersion,
    clean_start: bool,
) -> Connect<'_> {
    Connect {
        is_bridge: !version.is_v5(),
        clean_start,
        username: options.local_username.as_deref(),
        password: options.local_password.as_deref().map(str::as_bytes),
        properties: ConnectProperties {
            session_expiry_interval: (!options.local_clean_start).then_some(u32::MAX),
            ..ConnectProperties::default()
        },
        ..Connect::new(version, &options.local_client_identifier)
    }
}

/// What a bridge asks for: what it brings must not come back, and what is retained is to be retained on the other side.
pub(super) fn subscription(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions {
        qos,
        no_local: true,
        retain_as_published: true,
        retain_handling: RetainHandling::Send,
    }
}

/// What stands before the payload of a PUBLISH, if all of that is in `body`.
fn beginning(version: ProtocolVersion, first_byte: u8, body: &[u8]) -> Option<&[u8]> {
    let name_size: [u8; 2] = *body.first_chunk()?;
    let mut size = 2 + usize::from(u16::from_be_bytes(name_size));
    if first_byte & 0b110 != 0 {
        size += 2;
    }
    if version.is_v5() {
        let (mut properties_size, mut shift) = (0, 0);
        loop {
            let byte = *body.get(size)?;
            size += 1;
            properties_size |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            // A longer number is wrong, which is seen by who reads it.
            if byte < 0x80 || shift == 28 {
                break;
            }
        }
        size += properties_size;
    }
    body.get(..size)
}
