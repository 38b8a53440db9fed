//! A Client with all its whims: it connects and vanishes, subscribes, publishes, reads or does not.
//!
//! It keeps to the protocol. Its own Session state outlives its connections, and is dropped when the
//! broker's Session is a new one.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::oracle::{ClientIndex, MessageIndex, Oracle, Publication, Violation};
use super::plan::Plan;
use super::random::Random;
use super::world::{WireId, World, split_packet};
use crate::codec::{
    self, Acknowledgement, Connect, Disconnect, ForwardedFields, ForwardedProperties, Packet,
    PublishHeader, ReasonCode, RetainHandling, Subscribe, SubscriptionOptions, Unsubscribe,
    UserProperties, Will,
};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::time::Instant;

/// How far an exchange is that this Client began.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Stage {
    /// PUBACK or PUBREC is awaited.
    Published,
    /// PUBREC came.
    Released,
}

/// An exchange this Client began.
#[derive(Clone, Debug)]
struct Flow {
    identifier: u16,
    message: MessageIndex,
    stage: Stage,
}

/// An answer that has not been sent.
#[derive(Clone, Copy, Debug)]
#[allow(clippy::enum_variant_names)] // The packets are called that.
enum Answer {
    PubAck(u16),
    PubRec(u16),
    PubRel(u16),
    PubComp(u16),
}

/// One Client.
#[derive(Debug)]
pub struct Client {
    index: ClientIndex,
    identifier: String,
    version: ProtocolVersion,
    wire: Option<WireId>,
    /// Connections it has given up and not closed.
    stale: Vec<WireId>,
    is_connected: bool,
    buffer: Vec<u8>,
    epoch: u64,
    flows: VecDeque<Flow>,
    next_identifier: u16,
    /// QoS 2 messages received and not released.
    received: BTreeSet<u16>,
    /// QoS 2 messages received in this Session.
    exactly_once: u64,
    answers: VecDeque<Answer>,
    subscribed: BTreeSet<&'static str>,
    subscribing: Option<(u16, Vec<&'static str>)>,
    unsubscribing: Option<(u16, Vec<&'static str>)>,
    aliases: BTreeMap<u16, String>,
    aliases_set: BTreeMap<&'static str, u16>,
    alias_maximum: u16,
    receive_maximum: usize,
    keep_alive_s: u16,
    pings: bool,
    expiry_interval_s: u32,
    last_sent_at: Instant,
    is_reading: bool,
}

impl Client {
    /// Client `index` of a simulation.
    pub fn new(index: ClientIndex, random: &mut Random) -> Self {
        let versions = [
            ProtocolVersion::V5,
            ProtocolVersion::V5,
            ProtocolVersion::V5,
            ProtocolVersion::V311,
            ProtocolVersion::V311,
            ProtocolVersion::V3,
        ];
        Self {
            index,
            identifier: format!("client-{index}"),
            version: *random.pick(&versions),
            wire: None,
            stale: Vec::new(),
            is_connected: false,
            buffer: Vec::new(),
            epoch: 0,
            flows: VecDeque::new(),
            next_identifier: 1,
            received: BTreeSet::new(),
            exactly_once: 0,
            answers: VecDeque::new(),
            subscribed: BTreeSet::new(),
            subscribing: None,
            unsubscribing: None,
            aliases: BTreeMap::new(),
            aliases_set: BTreeMap::new(),
            alias_maximum: 0,
            receive_maximum: 0,
            keep_alive_s: 0,
            pings: false,
            expiry_interval_s: 0,
            last_sent_at: Instant::ZERO,
            is_reading: true,
        }
    }

    /// Does one thing, whatever comes to its mind.
    ///
    /// # Errors
    /// A [`Violation`] only a Client can see.
    pub fn act(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) -> Result<(), Violation> {
        if random.one_in(20) {
            self.is_reading = !random.chance(plan.slowness);
        }
        if self.is_reading {
            self.read(world, oracle, random.below(2000))?;
        }
        self.ping(world);
        if random.one_in(3) {
            for wire in self.stale.drain(..) {
                world.cut(wire, random);
            }
        }
        let Some(wire) = self.wire else {
            if random.one_in(4) {
                let clean = random.chance(25);
                self.connect(world, oracle, random, plan, clean);
            }
            return Ok(());
        };
        if random.below(1000) < plan.loss {
            world.cut(wire, random);
            // It may still read what arrived, and find the end behind it.
            if random.chance(50) {
                self.drop_connection();
            }
            return Ok(());
        }
        if random.below(1000) < plan.loss {
            let clean = random.chance(25);
            self.connect(world, oracle, random, plan, clean);
            return Ok(());
        }
        if !self.is_connected {
            return Ok(());
        }
        match random.below(100) {
            0..40 => self.publish(world, oracle, random, plan),
            40..55 => self.subscribe(world, random, plan),
            55..60 => self.unsubscribe(world, random, plan),
            60..62 => self.disconnect(world, random),
            62..64 if self.version != ProtocolVersion::V5 => {
                self.repeat_qos2(world, oracle, random);
            }
            64..67 => self.publish_together(world, oracle, random, plan),
            _ => self.answer(world, random.below(8)),
        }
        Ok(())
    }

    /// Does only what brings things to an end: connects, reads, answers.
    ///
    /// # Errors
    /// A [`Violation`] only a Client can see.
    pub fn come_to_rest(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) -> Result<(), Violation> {
        for wire in self.stale.drain(..) {
            world.cut(wire, random);
        }
        self.is_reading = true;
        if self.wire.is_none() {
            self.connect(world, oracle, random, plan, false);
        }
        self.read(world, oracle, usize::MAX)?;
        self.answer(world, usize::MAX);
        Ok(())
    }

    /// What is unfinished for this Client, if anything.
    #[must_use]
    pub fn is_at_rest(&self) -> bool {
        self.is_connected
            && self.flows.is_empty()
            && self.answers.is_empty()
            && self.subscribing.is_none()
            && self.unsubscribing.is_none()
    }

    /// Compares what this Client received with what the broker says it was given.
    ///
    /// # Errors
    /// [`Violation`] if a QoS 2 message came never or twice.
    pub fn check_rest(&self, oracle: &Oracle) -> Result<(), Violation> {
        let given = oracle.exactly_once(self.index);
        if given.is_none_or(|given| given == self.exactly_once && self.received.is_empty()) {
            return Ok(());
        }
        Err(Violation(format!(
            "client {}: {given:?} QoS 2 messages given, {} received, {:?} not released",
            self.index, self.exactly_once, self.received
        )))
    }

    /// Connects anew if its Session would outlive it otherwise, then disconnects for good. False as
    /// long as that is under way.
    ///
    /// # Errors
    /// A [`Violation`] only a Client can see.
    pub fn leave(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) -> Result<bool, Violation> {
        for wire in self.stale.drain(..) {
            world.cut(wire, random);
        }
        self.read(world, oracle, usize::MAX)?;
        if self.wire.is_none() && !oracle.has_session(self.index) {
            return Ok(true);
        }
        if self.wire.is_none() {
            self.connect(world, oracle, random, plan, true);
        } else if self.is_connected {
            self.answers.clear();
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            disconnect.session_expiry_interval = Some(0);
            self.send(world, &Packet::Disconnect(disconnect));
            if let Some(wire) = self.wire {
                world.close(wire);
            }
            self.drop_connection();
        }
        Ok(false)
    }

    fn drop_connection(&mut self) {
        self.wire = None;
        self.is_connected = false;
        self.answers.clear();
        self.buffer.clear();
        self.subscribing = None;
        self.unsubscribing = None;
    }

    fn send(&mut self, world: &mut World, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, self.version, &mut bytes);
        self.send_bytes(world, &bytes);
    }

    fn send_bytes(&mut self, world: &mut World, bytes: &[u8]) {
        if let Some(wire) = self.wire {
            world.send(wire, bytes);
            self.last_sent_at = world.now();
        }
    }

    fn identifier(&mut self) -> u16 {
        loop {
            let identifier = self.next_identifier;
            self.next_identifier = if identifier == 200 { 1 } else { identifier + 1 };
            let pending = |it: &Option<(u16, Vec<_>)>| {
                it.as_ref()
                    .is_some_and(|(pending, _)| *pending == identifier)
            };
            if self.flows.iter().all(|flow| flow.identifier != identifier)
                && !pending(&self.subscribing)
                && !pending(&self.unsubscribing)
            {
                return identifier;
            }
        }
    }

    // --- Connecting.

    fn connect(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
        clean_start: bool,
    ) {
        self.stale.extend(self.wire);
        self.drop_connection();
        let wire = world.open(random.below(plan.shards));
        oracle.open(wire, self.index);
        self.wire = Some(wire);
        self.aliases.clear();
        self.aliases_set.clear();
        let identifier = self.identifier.clone();
        let mut connect = Connect::new(self.version, &identifier);
        connect.clean_start = clean_start;
        if plan.keep_alive && random.chance(40) {
            connect.keep_alive_s = random.between(1, 60) as u16;
        }
        self.keep_alive_s = connect.keep_alive_s;
        self.pings = random.chance(70);
        let properties = &mut connect.properties;
        if self.version.is_v5() {
            let intervals = [
                None,
                Some(0),
                Some(1),
                Some(60),
                Some(100_000),
                Some(u32::MAX),
            ];
            properties.session_expiry_interval = *random.pick(&intervals);
            if random.chance(40) {
                properties.receive_maximum = NonZeroU16::new(random.between(1, 5) as u16);
            }
            if plan.small_packets && random.chance(40) {
                properties.maximum_packet_size =
                    NonZeroU32::new(random.between(60, 60 + plan.payload_max) as u32);
            }
            if random.chance(50) {
                properties.topic_alias_maximum = random.between(1, 20) as u16;
            }
        }
        self.expiry_interval_s = properties.session_expiry_interval.unwrap_or(0);
        let will = random
            .chance(plan.wills)
            .then(|| self.make_will(oracle, random, plan));
        let payload = will
            .map(|index| oracle.message(index).payload(index))
            .unwrap_or_default();
        connect.will = will.map(|index| {
            let message = oracle.message(index);
            Will {
                qos: message.qos,
                retain: message.retain,
                topic_name: message.topic,
                payload: &payload,
                delay_interval_s: if self.version.is_v5() {
                    *random.pick(&[0, 0, 1, 30, 100_000])
                } else {
                    0
                },
                message_expiry_interval_s: message.expiry_s,
                properties: ForwardedProperties::default(),
            }
        });
        self.send(world, &Packet::Connect(connect));
    }

    fn make_will(&self, oracle: &mut Oracle, random: &mut Random, plan: &Plan) -> MessageIndex {
        let qos = QoS::from_bits(random.below(3) as u8).unwrap_or_default();
        let retain = random.chance(plan.retained);
        let topic = random.pick(&plan.topics);
        let filler = random.below(plan.payload_max);
        let mut will = Publication::new(self.index, topic, qos, retain, Some(filler));
        will.is_will = true;
        if self.version.is_v5() && plan.expiry && random.chance(30) {
            will.expiry_s = Some(random.between(0, 100) as u32);
        }
        oracle.publish(will)
    }

    // --- Saying things.

    fn ping(&mut self, world: &mut World) {
        let due = self.last_sent_at + Duration::from_secs(self.keep_alive_s.into());
        if self.is_connected && self.pings && self.keep_alive_s > 0 && due <= world.now() {
            self.send(world, &Packet::PingReq);
        }
    }

    fn publish(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) {
        let qos = QoS::from_bits(random.below(3) as u8).unwrap_or_default();
        let window = if self.version.is_v5() {
            self.receive_maximum
        } else {
            plan.v3_window
        };
        if qos != QoS::AtMostOnce && self.flows.len() >= window {
            return;
        }
        let retain = random.chance(plan.retained);
        let clears = retain && random.chance(25);
        let filler = (!clears).then(|| random.below(plan.payload_max));
        let topic = random.pick(&plan.topics);
        let mut message = Publication::new(self.index, topic, qos, retain, filler);
        if self.version.is_v5() && !clears {
            if plan.expiry && random.chance(30) {
                message.expiry_s = Some(random.between(0, 100) as u32);
            }
            if random.chance(30) {
                let pairs = [("from", self.identifier.as_str()), ("from", "again")];
                let fields = ForwardedFields {
                    payload_is_utf8: Some(false),
                    correlation_data: Some(b"which"),
                    user_properties: UserProperties::new(&pairs),
                    ..ForwardedFields::default()
                };
                fields.encode(&mut message.properties);
            }
        }
        let index = oracle.publish(message);
        let identifier = (qos != QoS::AtMostOnce).then(|| self.identifier());
        if let Some(identifier) = identifier {
            self.flows.push_back(Flow {
                identifier,
                message: index,
                stage: Stage::Published,
            });
        }
        let alias = self.alias_for(topic, clears, random);
        self.send_publish(world, oracle, index, identifier, false, alias);
    }

    /// Publishes many small messages at once to one topic, with nothing in between.
    fn publish_together(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) {
        let topic = random.pick(&plan.topics);
        for _ in 0..random.between(2, 30) {
            let filler = Some(random.below(plan.payload_max.min(100)));
            let message = Publication::new(self.index, topic, QoS::AtMostOnce, false, filler);
            let index = oracle.publish(message);
            self.send_publish(world, oracle, index, None, false, None);
        }
    }

    /// A Topic Alias to use, and whether the broker knows it.
    fn alias_for(
        &mut self,
        topic: &'static str,
        clears: bool,
        random: &mut Random,
    ) -> Option<(u16, bool)> {
        if self.alias_maximum == 0 || clears || random.chance(60) {
            return None;
        }
        if let Some(&alias) = self.aliases_set.get(topic)
            && random.chance(80)
        {
            return Some((alias, true));
        }
        let alias = random.between(1, self.alias_maximum.into()) as u16;
        self.aliases_set.retain(|_, known| *known != alias);
        self.aliases_set.insert(topic, alias);
        Some((alias, false))
    }

    fn send_publish(
        &mut self,
        world: &mut World,
        oracle: &Oracle,
        index: MessageIndex,
        identifier: Option<u16>,
        duplicate: bool,
        alias: Option<(u16, bool)>,
    ) {
        let message = oracle.message(index);
        let is_known = alias.is_some_and(|(_, is_known)| is_known);
        let header = PublishHeader {
            duplicate,
            qos: message.qos,
            retain: message.retain,
            packet_identifier: identifier.and_then(PacketIdentifier::new),
            topic_name: if is_known {
                b""
            } else {
                message.topic.as_bytes()
            },
            topic_alias: alias.and_then(|(alias, _)| NonZeroU16::new(alias)),
            message_expiry_interval_s: message.expiry_s,
            forwarded: &message.properties,
            subscription_identifiers: &[],
            payload: &message.payload(index),
        };
        let mut bytes = Vec::new();
        codec::encode_publish(self.version, &header, &mut bytes);
        self.send_bytes(world, &bytes);
    }

    /// Earlier versions allow to repeat a PUBLISH on the same connection.
    fn repeat_qos2(&mut self, world: &mut World, oracle: &Oracle, random: &mut Random) {
        let waiting: Vec<Flow> = self
            .flows
            .iter()
            .filter(|flow| {
                flow.stage == Stage::Published
                    && oracle.message(flow.message).qos == QoS::ExactlyOnce
            })
            .cloned()
            .collect();
        if !waiting.is_empty() {
            let flow = random.pick(&waiting);
            self.send_publish(
                world,
                oracle,
                flow.message,
                Some(flow.identifier),
                true,
                None,
            );
        }
    }

    fn subscribe(&mut self, world: &mut World, random: &mut Random, plan: &Plan) {
        if self.subscribing.is_some() || self.unsubscribing.is_some() {
            return;
        }
        let mut filters = BTreeMap::new();
        for _ in 0..random.between(1, 3) {
            let filter = *random.pick(&plan.filters);
            let is_shared = filter.starts_with("$share/");
            let mut options =
                SubscriptionOptions::new(QoS::from_bits(random.below(3) as u8).unwrap_or_default());
            if is_shared && !plan.shared_qos0 {
                options.qos = options.qos.max(QoS::AtLeastOnce);
            }
            if self.version.is_v5() {
                // [MQTT-3.8.3-4]
                options.no_local = !is_shared && random.chance(20);
                options.retain_as_published = random.chance(30);
                options.retain_handling = *random.pick(&[
                    RetainHandling::Send,
                    RetainHandling::SendIfNew,
                    RetainHandling::DoNotSend,
                ]);
            }
            filters.insert(filter, options);
        }
        let identifier = self.identifier();
        let filters: Vec<_> = filters.into_iter().collect();
        let names = filters.iter().map(|(filter, _)| *filter).collect();
        let mut subscribe =
            Subscribe::new(PacketIdentifier::new(identifier).expect("from 1"), &filters);
        if self.version.is_v5() && random.chance(50) {
            subscribe.subscription_identifier = NonZeroU32::new(random.between(1, 300) as u32);
        }
        self.subscribing = Some((identifier, names));
        self.send(world, &Packet::Subscribe(subscribe));
    }

    fn unsubscribe(&mut self, world: &mut World, random: &mut Random, plan: &Plan) {
        if self.subscribing.is_some() || self.unsubscribing.is_some() || self.subscribed.is_empty()
        {
            return;
        }
        let known: Vec<&'static str> = self.subscribed.iter().copied().collect();
        let mut filters = BTreeSet::from([*random.pick(&known)]);
        for _ in 1..plan.unsubscribed_at_once {
            filters.insert(*random.pick(&known));
        }
        let filters: Vec<_> = filters.into_iter().collect();
        let identifier = self.identifier();
        let unsubscribe =
            Unsubscribe::new(PacketIdentifier::new(identifier).expect("from 1"), &filters);
        self.send(world, &Packet::Unsubscribe(unsubscribe));
        self.unsubscribing = Some((identifier, filters));
    }

    fn disconnect(&mut self, world: &mut World, random: &mut Random) {
        let mut disconnect = Disconnect::new(ReasonCode::Success);
        if self.version.is_v5() {
            if random.chance(30) {
                disconnect.reason_code = ReasonCode::DisconnectWithWillMessage;
            }
            // Zero may not be raised [MQTT-3.14.2-2].
            if random.chance(30) && self.expiry_interval_s > 0 {
                disconnect.session_expiry_interval = Some(random.below(100) as u32);
            }
        }
        self.send(world, &Packet::Disconnect(disconnect));
        if let Some(wire) = self.wire {
            world.close(wire);
        }
        self.drop_connection();
    }

    /// Sends up to `count` answers, in order [MQTT-4.6.0-2] [MQTT-4.6.0-3].
    fn answer(&mut self, world: &mut World, count: usize) {
        for _ in 0..count {
            let Some(answer) = self.answers.pop_front() else {
                return;
            };
            let acknowledgement = |identifier| {
                let identifier = PacketIdentifier::new(identifier).expect("received or from 1");
                Acknowledgement::new(identifier, ReasonCode::Success)
            };
            let packet = match answer {
                Answer::PubAck(identifier) => Packet::PubAck(acknowledgement(identifier)),
                Answer::PubRec(identifier) => Packet::PubRec(acknowledgement(identifier)),
                Answer::PubRel(identifier) => Packet::PubRel(acknowledgement(identifier)),
                Answer::PubComp(identifier) => Packet::PubComp(acknowledgement(identifier)),
            };
            self.send(world, &packet);
        }
    }

    // --- Hearing things.

    fn read(&mut self, world: &mut World, oracle: &Oracle, count: usize) -> Result<(), Violation> {
        let Some(wire) = self.wire else { return Ok(()) };
        self.buffer.extend(world.receive(wire, count));
        let buffer = std::mem::take(&mut self.buffer);
        let mut rest = buffer.as_slice();
        while let Some((header, body, after)) = split_packet(rest) {
            let packet = codec::decode(self.version, header.first_byte, body)
                .map_err(|error| self.violation(&format!("{error} in {rest:?}")))?;
            rest = after;
            self.hear(world, oracle, &packet)?;
        }
        self.buffer = rest.to_vec();
        if world.is_ended(wire) {
            self.drop_connection();
        }
        Ok(())
    }

    fn violation(&self, what: &str) -> Violation {
        Violation(format!("client {}: {what}", self.index))
    }

    fn hear(
        &mut self,
        world: &mut World,
        oracle: &Oracle,
        packet: &Packet<'_>,
    ) -> Result<(), Violation> {
        match packet {
            Packet::ConnAck(connack) => {
                self.is_connected = true;
                self.alias_maximum = connack.properties.topic_alias_maximum.unwrap_or(0);
                self.receive_maximum = connack
                    .properties
                    .receive_maximum
                    .map_or(65_535, |it| usize::from(it.get()));
                self.resume(world, oracle);
            }
            Packet::Publish(publish) => {
                let Some(identifier) = publish.packet_identifier.map(PacketIdentifier::get) else {
                    return Ok(());
                };
                if publish.qos == QoS::AtLeastOnce {
                    self.answers.push_back(Answer::PubAck(identifier));
                } else {
                    self.exactly_once += u64::from(self.received.insert(identifier));
                    self.answers.push_back(Answer::PubRec(identifier));
                }
            }
            Packet::PubRel(ack) => {
                let identifier = ack.packet_identifier.get();
                self.received.remove(&identifier);
                self.answers.push_back(Answer::PubComp(identifier));
            }
            Packet::PubAck(ack) | Packet::PubComp(ack) => {
                let identifier = ack.packet_identifier.get();
                let found = self
                    .flows
                    .iter()
                    .position(|flow| flow.identifier == identifier);
                let Some(position) = found else {
                    return Err(self.violation(&format!("{packet:?} of nothing")));
                };
                self.flows.remove(position);
            }
            Packet::PubRec(ack) => {
                let identifier = ack.packet_identifier.get();
                let found = self
                    .flows
                    .iter_mut()
                    .find(|flow| flow.identifier == identifier);
                let Some(flow) = found else {
                    return Err(self.violation(&format!("{packet:?} of nothing")));
                };
                if ack.reason_code.is_error() {
                    return Err(self.violation(&format!("{packet:?}")));
                }
                if flow.stage == Stage::Published {
                    flow.stage = Stage::Released;
                    self.answers.push_back(Answer::PubRel(identifier));
                }
            }
            Packet::SubAck(suback) => match self.subscribing.take() {
                Some((identifier, filters)) if identifier == suback.packet_identifier.get() => {
                    self.subscribed.extend(filters);
                }
                other => return Err(self.violation(&format!("{suback:?} for {other:?}"))),
            },
            Packet::UnsubAck(unsuback) => match self.unsubscribing.take() {
                Some((identifier, filters)) if identifier == unsuback.packet_identifier.get() => {
                    self.subscribed.retain(|filter| !filters.contains(filter));
                }
                other => return Err(self.violation(&format!("{unsuback:?} for {other:?}"))),
            },
            _ => {}
        }
        Ok(())
    }

    /// Goes on with the Session, or begins anew if the broker did.
    fn resume(&mut self, world: &mut World, oracle: &Oracle) {
        let epoch = self.wire.map_or(0, |wire| oracle.epoch(wire));
        if epoch != self.epoch {
            self.epoch = epoch;
            self.flows.clear();
            self.received.clear();
            self.exactly_once = 0;
            self.subscribed.clear();
        }
        // [MQTT-4.4.0-1]
        for flow in self.flows.clone() {
            match flow.stage {
                Stage::Published => {
                    let identifier = Some(flow.identifier);
                    self.send_publish(world, oracle, flow.message, identifier, true, None);
                }
                Stage::Released => {
                    let identifier = PacketIdentifier::new(flow.identifier).expect("from 1");
                    let pubrel = Acknowledgement::new(identifier, ReasonCode::Success);
                    self.send(world, &Packet::PubRel(pubrel));
                }
            }
        }
    }

    /// Removes retained messages of every topic, then leaves.
    ///
    /// # Errors
    /// A [`Violation`] only a Client can see.
    pub fn clear_retained(
        &mut self,
        world: &mut World,
        oracle: &mut Oracle,
        random: &mut Random,
        plan: &Plan,
    ) -> Result<bool, Violation> {
        self.read(world, oracle, usize::MAX)?;
        if self.wire.is_none() {
            self.connect(world, oracle, random, plan, true);
            return Ok(false);
        }
        if !self.is_connected {
            return Ok(false);
        }
        for topic in &plan.topics {
            let message = Publication::new(self.index, topic, QoS::AtMostOnce, true, None);
            let index = oracle.publish(message);
            self.send_publish(world, oracle, index, None, false, None);
        }
        self.leave(world, oracle, random, plan)?;
        Ok(true)
    }
}
