//! The Client's half of MQTT over one Network Connection after the other: bytes in, events out.
//!
//! **Knows nothing of** sockets and clocks: whoever owns it feeds it bytes and the time, sends what is
//! in [`Protocol::output`], and takes the events one by one. That they are taken one by one matters: a
//! packet is only handled, and so only acknowledged, when its event is asked for. Who stops asking
//! leaves the rest of what arrived to the Session.
//!
//! Messages of QoS 2 are handed out at PUBREL, so that a client that ends after its last message has
//! finished the exchange (method A in MQTT 5.0, figure 4.3).

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use super::failure::Failure;
use super::message::ReceivedMessage;
use super::outgoing::{Outgoing, Step};
use super::properties::pairs;
use super::settings::Settings;
use crate::codec::{
    Acknowledgement, ConnAck, Disconnect, Packet, Publish, ReasonCode, Subscribe,
    SubscriptionOptions, Unsubscribe, UserProperties, decode, decode_fixed_header, encode,
    encode_puback, encode_pubcomp, encode_pubrec, encode_pubrel,
};
use crate::key::PacketIdentifier;
use crate::limits::PACKET_SIZE_MAX;
use crate::message::{ProtocolVersion, QoS};

/// What happened.
#[derive(Debug)]
pub enum Event {
    /// CONNACK accepted the connection.
    Connected,
    /// A message arrived, and is acknowledged.
    Message(ReceivedMessage),
    /// SUBACK, with one Reason Code for each Topic Filter.
    Subscribed(Vec<ReasonCode>),
    /// UNSUBACK.
    Unsubscribed,
    /// A message of QoS 1 or 2 has been delivered, or refused.
    Published {
        packet_identifier: u16,
        reason_code: ReasonCode,
    },
    /// A line for `--debug`.
    Trace(String),
}

/// One Client.
#[derive(Debug)]
pub struct Protocol {
    version: ProtocolVersion,
    /// What `--debug` calls this client.
    name: String,
    is_traced: bool,
    output: Vec<u8>,
    /// Arrived and not handled, from `unread_start` on.
    unread: Vec<u8>,
    unread_start: usize,
    events: VecDeque<Event>,
    state: State,
    keep_alive: Duration,
    last_sent: Instant,
    last_received: Instant,
    /// When a PINGREQ was sent that has no answer yet.
    pinged: Option<Instant>,
    broker: Broker,
    /// Of this client.
    topic_alias_maximum: u16,
    packet_size_max: u32,
    last_identifier: u16,
    inflight_max: u16,
    /// Messages to be published that wait for room in the window, then those that are under way.
    waiting: VecDeque<Outgoing>,
    under_way: VecDeque<Outgoing>,
    /// QoS 2 messages that wait for PUBREL.
    receiving: BTreeMap<u16, ReceivedMessage>,
    aliases: BTreeMap<u16, String>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Connecting,
    Connected,
    /// DISCONNECT is on its way, or soon will be: what arrives is left to the Session.
    Closing,
}

/// What CONNACK said of the broker.
#[derive(Clone, Copy, Debug)]
struct Broker {
    maximum_qos: QoS,
    retain_available: bool,
    maximum_packet_size: u32,
    receive_maximum: u16,
}

impl Default for Broker {
    fn default() -> Self {
        Self {
            maximum_qos: QoS::ExactlyOnce,
            retain_available: true,
            maximum_packet_size: PACKET_SIZE_MAX,
            receive_maximum: u16::MAX,
        }
    }
}

/// For how long CONNACK is waited for.
const CONNACK_PATIENCE: Duration = Duration::from_secs(30);

impl Protocol {
    /// A client that has its CONNECT to send. `inflight_max` bounds the messages of QoS 1 and 2 that
    /// are under way.
    pub fn new(settings: &Settings, inflight_max: u16, now: Instant) -> Self {
        let of_connect = &settings.properties.connect;
        let name = if settings.client_identifier.is_empty() {
            "(null)".to_owned()
        } else {
            settings.client_identifier.clone()
        };
        let mut protocol = Self {
            version: settings.version,
            name,
            is_traced: settings.debug,
            output: Vec::new(),
            unread: Vec::new(),
            unread_start: 0,
            events: VecDeque::new(),
            state: State::Connecting,
            keep_alive: Duration::ZERO,
            last_sent: now,
            last_received: now,
            pinged: None,
            broker: Broker::default(),
            topic_alias_maximum: of_connect.topic_alias_maximum,
            packet_size_max: of_connect
                .maximum_packet_size
                .map_or(PACKET_SIZE_MAX, |size| size.get().min(PACKET_SIZE_MAX)),
            last_identifier: 0,
            inflight_max,
            waiting: VecDeque::new(),
            under_way: VecDeque::new(),
            receiving: BTreeMap::new(),
            aliases: BTreeMap::new(),
        };
        protocol.restart(settings, now);
        protocol
    }

    /// Begins another Network Connection. What was not acknowledged will be sent again.
    pub fn restart(&mut self, settings: &Settings, now: Instant) {
        self.output.clear();
        self.unread.clear();
        self.unread_start = 0;
        self.events.clear();
        self.state = State::Connecting;
        self.keep_alive = Duration::from_secs(settings.keep_alive_s.into());
        self.last_sent = now;
        self.last_received = now;
        self.pinged = None;
        self.broker = Broker::default();
        self.aliases.clear();
        self.trace(|name| format!("Client {name} sending CONNECT"));
        settings.with_connect(|connect| {
            encode(&Packet::Connect(*connect), self.version, &mut self.output);
        });
    }

    /// Bytes to be sent; whoever sends some takes them out.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// Whether messages are on their way that the broker has not acknowledged.
    pub fn is_publishing(&self) -> bool {
        !self.under_way.is_empty() || !self.waiting.is_empty()
    }

    /// Whether a message to be published would have to wait for others.
    pub fn is_window_full(&self) -> bool {
        !self.waiting.is_empty() || self.under_way.len() >= self.window()
    }

    fn window(&self) -> usize {
        // [MQTT-3.3.4-7]
        usize::from(self.inflight_max.min(self.broker.receive_maximum))
    }

    /// Takes bytes that arrived.
    pub fn receive(&mut self, bytes: &[u8], now: Instant) {
        self.last_received = now;
        if self.unread_start == self.unread.len() {
            self.unread.clear();
            self.unread_start = 0;
        }
        self.unread.extend_from_slice(bytes);
    }

    /// The next thing that happened, or `None` until more bytes are here.
    ///
    /// # Errors
    /// [`Failure`] ends the Network Connection.
    pub fn next_event(&mut self, now: Instant) -> Result<Option<Event>, Failure> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            // Taken out, so that a packet can borrow from it while the rest changes.
            let unread = std::mem::take(&mut self.unread);
            let handled = self.handle_packet(&unread, now);
            self.unread = unread;
            if !handled? {
                if self.unread_start > 0 {
                    self.unread.drain(..self.unread_start);
                    self.unread_start = 0;
                }
                return Ok(None);
            }
        }
    }

    /// All that happened and was not asked for.
    pub fn take_events(&mut self) -> VecDeque<Event> {
        std::mem::take(&mut self.events)
    }

    fn handle_packet(&mut self, unread: &[u8], now: Instant) -> Result<bool, Failure> {
        let bytes = unread.get(self.unread_start..).unwrap_or_default();
        let Some(header) = decode_fixed_header(bytes, self.packet_size_max)? else {
            return Ok(false);
        };
        let Some(body) = bytes.get(header.header_size..header.total_size()) else {
            return Ok(false);
        };
        let packet = decode(self.version, header.first_byte, body)?;
        self.unread_start += header.total_size();
        match (self.state, packet) {
            (State::Connecting, Packet::ConnAck(connack)) => self.handle_connack(&connack, now)?,
            (State::Connecting, _) => {
                return Err(Failure::Protocol(
                    "something came before CONNACK".to_owned(),
                ));
            }
            (_, Packet::Publish(publish)) => self.handle_publish(&publish, now)?,
            (_, Packet::PubAck(ack)) => self.handle_puback(ack),
            (_, Packet::PubRec(ack)) => self.handle_pubrec(ack, now),
            (_, Packet::PubRel(ack)) => self.handle_pubrel(ack, now),
            (_, Packet::PubComp(ack)) => self.handle_pubcomp(ack),
            (_, Packet::SubAck(suback)) => {
                self.trace(|name| format!("Client {name} received SUBACK"));
                let codes: Vec<_> = suback.reason_codes.iter().collect();
                let identifier = suback.packet_identifier.get();
                let listed: Vec<_> = codes.iter().map(|code| code.as_u8().to_string()).collect();
                let listed = listed.join(", ");
                self.trace(|_| format!("Subscribed (mid: {identifier}): {listed}"));
                self.events.push_back(Event::Subscribed(codes));
            }
            (_, Packet::UnsubAck(_)) => {
                self.trace(|name| format!("Client {name} received UNSUBACK"));
                self.events.push_back(Event::Unsubscribed);
            }
            (_, Packet::PingResp) => {
                self.trace(|name| format!("Client {name} received PINGRESP"));
                self.pinged = None;
            }
            (_, Packet::Disconnect(disconnect)) if self.version.is_v5() => {
                let reason_code = disconnect.reason_code;
                return Err(Failure::Disconnected { reason_code });
            }
            (_, Packet::Auth(_)) => {
                let said = "it asks for enhanced authentication, which this client cannot do";
                return Err(Failure::Protocol(said.to_owned()));
            }
            _ => {
                return Err(Failure::Protocol(
                    "it sent a packet that is the client's to send".to_owned(),
                ));
            }
        }
        Ok(true)
    }

    fn handle_connack(&mut self, connack: &ConnAck<'_>, now: Instant) -> Result<(), Failure> {
        let properties = &connack.properties;
        if let Some(assigned) = properties.assigned_client_identifier {
            self.name = assigned.to_owned();
        }
        let code = if self.version.is_v5() {
            connack.reason_code.as_u8()
        } else {
            connack.reason_code.as_connect_return_code()
        };
        self.trace(|name| format!("Client {name} received CONNACK ({code})"));
        if connack.reason_code.is_error() {
            return Err(Failure::Refused {
                reason_code: connack.reason_code,
                version: self.version,
            });
        }
        self.state = State::Connected;
        self.broker = Broker {
            maximum_qos: properties.maximum_qos.unwrap_or(QoS::ExactlyOnce),
            retain_available: properties.retain_available.unwrap_or(true),
            maximum_packet_size: properties
                .maximum_packet_size
                .map_or(PACKET_SIZE_MAX, |size| size.get()),
            receive_maximum: properties
                .receive_maximum
                .map_or(u16::MAX, |count| count.get()),
        };
        // [MQTT-3.2.2-21]
        if let Some(seconds) = properties.server_keep_alive_s {
            self.keep_alive = Duration::from_secs(seconds.into());
        }
        if !connack.session_present {
            // The broker has forgotten what it had begun to deliver.
            self.receiving.clear();
        }
        self.resume(connack.session_present, now)?;
        self.events.push_back(Event::Connected);
        Ok(())
    }

    /// Sends again what was under way when the last connection ended [MQTT-4.4.0-1].
    fn resume(&mut self, session_present: bool, now: Instant) -> Result<(), Failure> {
        let mut interrupted = std::mem::take(&mut self.under_way);
        if !session_present {
            // Nothing is known of them: they are published anew, before what waits.
            for mut message in interrupted.into_iter().rev() {
                message.step = Step::Publish {
                    is_duplicate: false,
                };
                self.waiting.push_front(message);
            }
            return self.fill_window(now);
        }
        for message in &mut interrupted {
            self.check(message)?;
            match message.step {
                Step::Publish { .. } => {
                    message.step = Step::Publish { is_duplicate: true };
                    self.send_publish(message, now);
                }
                Step::Release => self.send_pubrel(message.packet_identifier, now),
            }
        }
        self.under_way = interrupted;
        self.fill_window(now)
    }

    fn handle_publish(&mut self, publish: &Publish<'_>, now: Instant) -> Result<(), Failure> {
        let topic_name = self.resolve_topic(publish)?;
        let message = ReceivedMessage::new(publish, topic_name);
        let is_duplicate = u8::from(publish.duplicate);
        self.trace(|name| {
            format!(
                "Client {name} received PUBLISH (d{is_duplicate}, q{}, r{}, m{}, '{}', ... ({} bytes))",
                message.qos as u8,
                u8::from(message.retain),
                message.packet_identifier,
                message.topic_name,
                message.payload.len(),
            )
        });
        if self.state == State::Closing {
            return Ok(());
        }
        match publish.packet_identifier {
            Some(identifier) if publish.qos == QoS::ExactlyOnce => {
                // A duplicate replaces nothing [MQTT-4.3.3-10].
                self.receiving.entry(identifier.get()).or_insert(message);
                encode_pubrec(
                    self.version,
                    identifier,
                    ReasonCode::Success,
                    &mut self.output,
                );
                self.trace_sent("PUBREC", identifier, now);
            }
            Some(identifier) => {
                encode_puback(
                    self.version,
                    identifier,
                    ReasonCode::Success,
                    &mut self.output,
                );
                self.trace_sent("PUBACK", identifier, now);
                self.events.push_back(Event::Message(message));
            }
            None => self.events.push_back(Event::Message(message)),
        }
        Ok(())
    }

    fn resolve_topic(&mut self, publish: &Publish<'_>) -> Result<String, Failure> {
        let Some(alias) = publish.properties.topic_alias else {
            return Ok(publish.topic_name.to_owned());
        };
        if alias.get() > self.topic_alias_maximum {
            return Err(Failure::Protocol(
                "its Topic Alias is above the maximum".to_owned(),
            ));
        }
        if !publish.topic_name.is_empty() {
            let topic_name = publish.topic_name.to_owned();
            self.aliases.insert(alias.get(), topic_name);
        }
        match self.aliases.get(&alias.get()) {
            Some(topic_name) => Ok(topic_name.clone()),
            None => Err(Failure::Protocol(
                "its Topic Alias stands for nothing".to_owned(),
            )),
        }
    }

    fn handle_pubrel(&mut self, ack: Acknowledgement<'_>, now: Instant) {
        let identifier = ack.packet_identifier;
        let mid = identifier.get();
        self.trace(|name| format!("Client {name} received PUBREL (Mid: {mid})"));
        if self.state == State::Closing {
            return;
        }
        let message = self.receiving.remove(&mid);
        let reason_code = match message {
            Some(_) => ReasonCode::Success,
            None => ReasonCode::PacketIdentifierNotFound,
        };
        encode_pubcomp(self.version, identifier, reason_code, &mut self.output);
        self.trace_sent("PUBCOMP", identifier, now);
        self.events.extend(message.map(Event::Message));
    }

    fn handle_puback(&mut self, ack: Acknowledgement<'_>) {
        let (mid, code) = (ack.packet_identifier.get(), ack.reason_code.as_u8());
        self.trace(|name| format!("Client {name} received PUBACK (Mid: {mid}, RC:{code})"));
        if self
            .message_under_way(mid)
            .is_some_and(|message| message.qos == QoS::AtLeastOnce)
        {
            self.finish(mid, ack.reason_code);
        }
    }

    fn handle_pubrec(&mut self, ack: Acknowledgement<'_>, now: Instant) {
        let mid = ack.packet_identifier.get();
        self.trace(|name| format!("Client {name} received PUBREC (Mid: {mid})"));
        let message = self.message_under_way(mid);
        match message.filter(|message| message.qos == QoS::ExactlyOnce) {
            Some(_) if ack.reason_code.is_error() => self.finish(mid, ack.reason_code),
            Some(message) => {
                message.step = Step::Release;
                self.send_pubrel(mid, now);
            }
            None => {
                let reason_code = ReasonCode::PacketIdentifierNotFound;
                let identifier = ack.packet_identifier;
                encode_pubrel(self.version, identifier, reason_code, &mut self.output);
                self.last_sent = now;
            }
        }
    }

    fn handle_pubcomp(&mut self, ack: Acknowledgement<'_>) {
        let (mid, code) = (ack.packet_identifier.get(), ack.reason_code.as_u8());
        self.trace(|name| format!("Client {name} received PUBCOMP (Mid: {mid}, RC:{code})"));
        let step = self.message_under_way(mid).map(|message| message.step);
        if step == Some(Step::Release) {
            self.finish(mid, ack.reason_code);
        }
    }

    fn message_under_way(&mut self, packet_identifier: u16) -> Option<&mut Outgoing> {
        let mut under_way = self.under_way.iter_mut();
        under_way.find(|message| message.packet_identifier == packet_identifier)
    }

    fn finish(&mut self, packet_identifier: u16, reason_code: ReasonCode) {
        let mut under_way = self.under_way.iter();
        let found = under_way.position(|message| message.packet_identifier == packet_identifier);
        if let Some(index) = found {
            self.under_way.remove(index);
        }
        self.events.push_back(Event::Published {
            packet_identifier,
            reason_code,
        });
    }

    /// Publishes a message, or lets it wait for its turn. Gives it its Packet Identifier.
    ///
    /// # Errors
    /// [`Failure`] if the broker has said that it would not take it.
    pub fn publish(&mut self, mut message: Outgoing, now: Instant) -> Result<u16, Failure> {
        let packet_identifier = self.next_identifier().get();
        message.packet_identifier = packet_identifier;
        self.waiting.push_back(message);
        if self.state == State::Connected {
            self.fill_window(now)?;
        }
        Ok(packet_identifier)
    }

    /// Sends what waits and has room. To be called after events of messages that were delivered.
    ///
    /// # Errors
    /// [`Failure`] if the broker has said that it would not take a message.
    pub fn fill_window(&mut self, now: Instant) -> Result<(), Failure> {
        while let Some(message) = self.waiting.front() {
            if message.qos != QoS::AtMostOnce && self.under_way.len() >= self.window() {
                break;
            }
            self.check(message)?;
            let Some(message) = self.waiting.pop_front() else {
                break;
            };
            self.send_publish(&message, now);
            if message.qos != QoS::AtMostOnce {
                self.under_way.push_back(message);
            }
        }
        Ok(())
    }

    /// What the broker said it takes, a message has to keep to [MQTT-3.2.2-11], [MQTT-3.2.2-14],
    /// [MQTT-3.2.2-15].
    fn check(&self, message: &Outgoing) -> Result<(), Failure> {
        if message.qos as u8 > self.broker.maximum_qos as u8 {
            return Err(Failure::QoS(message.qos as u8));
        }
        if message.retain && !self.broker.retain_available {
            return Err(Failure::Retain);
        }
        let size = message.size(self.version);
        let size_max = self.broker.maximum_packet_size;
        if size > size_max as usize {
            return Err(Failure::TooLarge { size, size_max });
        }
        Ok(())
    }

    fn send_publish(&mut self, message: &Outgoing, now: Instant) {
        self.trace(|name| {
            let is_duplicate = matches!(message.step, Step::Publish { is_duplicate: true });
            format!(
                "Client {name} sending PUBLISH (d{}, q{}, r{}, m{}, '{}', ... ({} bytes))",
                u8::from(is_duplicate),
                message.qos as u8,
                u8::from(message.retain),
                message.packet_identifier,
                message.topic_name,
                message.payload.len(),
            )
        });
        message.encode(self.version, &mut self.output);
        self.last_sent = now;
    }

    fn send_pubrel(&mut self, packet_identifier: u16, now: Instant) {
        let Some(identifier) = PacketIdentifier::new(packet_identifier) else {
            return;
        };
        self.trace(|name| format!("Client {name} sending PUBREL (m{packet_identifier})"));
        encode_pubrel(
            self.version,
            identifier,
            ReasonCode::Success,
            &mut self.output,
        );
        self.last_sent = now;
    }

    /// Subscribes to all of these at once.
    pub fn subscribe(
        &mut self,
        filters: &[(&str, SubscriptionOptions)],
        settings: &Settings,
        now: Instant,
    ) {
        let identifier = self.next_identifier();
        for (filter, options) in filters {
            let qos = options.qos as u8;
            let bits = u8::from(options.no_local) << 2
                | u8::from(options.retain_as_published) << 3
                | (options.retain_handling as u8) << 4;
            let mid = identifier.get();
            self.trace(|name| {
                format!(
                    "Client {name} sending SUBSCRIBE (Mid: {mid}, Topic: {filter}, QoS: {qos}, \
                     Options: 0x{bits:02x})"
                )
            });
        }
        let user_properties = pairs(&settings.properties.subscribe);
        let mut subscribe = Subscribe::new(identifier, filters);
        subscribe.subscription_identifier = settings.properties.subscription_identifier;
        subscribe.user_properties = UserProperties::new(&user_properties);
        encode(
            &Packet::Subscribe(subscribe),
            self.version,
            &mut self.output,
        );
        self.last_sent = now;
    }

    /// Unsubscribes from all of these at once.
    pub fn unsubscribe(&mut self, filters: &[&str], settings: &Settings, now: Instant) {
        let identifier = self.next_identifier();
        let mid = identifier.get();
        for filter in filters {
            self.trace(|name| {
                format!("Client {name} sending UNSUBSCRIBE (Mid: {mid}, Topic: {filter})")
            });
        }
        let user_properties = pairs(&settings.properties.unsubscribe);
        let mut unsubscribe = Unsubscribe::new(identifier, filters);
        unsubscribe.user_properties = UserProperties::new(&user_properties);
        encode(
            &Packet::Unsubscribe(unsubscribe),
            self.version,
            &mut self.output,
        );
        self.last_sent = now;
    }

    /// From now on messages that arrive are not acknowledged any more.
    pub fn close(&mut self) {
        self.state = State::Closing;
    }

    /// Sends DISCONNECT.
    pub fn disconnect(&mut self, reason_code: ReasonCode, settings: &Settings) {
        self.close();
        self.trace(|name| format!("Client {name} sending DISCONNECT"));
        let user_properties = pairs(&settings.properties.disconnect);
        let mut disconnect = Disconnect::new(reason_code);
        disconnect.session_expiry_interval = settings.properties.disconnect_session_expiry;
        disconnect.reason_string = settings.properties.disconnect_reason.as_deref();
        disconnect.user_properties = UserProperties::new(&user_properties);
        encode(
            &Packet::Disconnect(disconnect),
            self.version,
            &mut self.output,
        );
    }

    /// When [`handle_timeout`](Self::handle_timeout) wants to be called.
    pub fn next_deadline(&self) -> Option<Instant> {
        match (self.state, self.pinged) {
            (State::Connecting, _) => Some(self.last_sent + CONNACK_PATIENCE),
            _ if self.keep_alive.is_zero() => None,
            (_, Some(pinged)) => Some(pinged + self.keep_alive),
            (_, None) => Some(self.last_sent.min(self.last_received) + self.keep_alive),
        }
    }

    /// Lets time pass: sends PINGREQ, or gives a broker up that does not answer.
    ///
    /// # Errors
    /// [`Failure::Lost`] ends the Network Connection.
    pub fn handle_timeout(&mut self, now: Instant) -> Result<(), Failure> {
        if self.next_deadline().is_none_or(|deadline| now < deadline) {
            return Ok(());
        }
        let lost = |said: &str| Err(Failure::Lost(said.to_owned()));
        match (self.state, self.pinged) {
            (State::Connecting, _) => lost("no CONNACK came"),
            (_, Some(_)) => lost("the broker does not answer PINGREQ"),
            (_, None) => {
                self.trace(|name| format!("Client {name} sending PINGREQ"));
                encode(&Packet::PingReq, self.version, &mut self.output);
                self.last_sent = now;
                self.pinged = Some(now);
                Ok(())
            }
        }
    }

    /// One that no message under way has.
    fn next_identifier(&mut self) -> PacketIdentifier {
        loop {
            self.last_identifier = self.last_identifier.wrapping_add(1);
            let value = self.last_identifier;
            let is_used = |message: &Outgoing| message.packet_identifier == value;
            if let Some(identifier) = PacketIdentifier::new(value)
                && !self.under_way.iter().chain(&self.waiting).any(is_used)
            {
                return identifier;
            }
        }
    }

    fn trace_sent(&mut self, what: &str, identifier: PacketIdentifier, now: Instant) {
        self.last_sent = now;
        let mid = identifier.get();
        self.trace(|name| format!("Client {name} sending {what} (m{mid}, rc0)"));
    }

    fn trace(&mut self, line: impl FnOnce(&str) -> String) {
        if self.is_traced {
            let line = line(&self.name);
            self.events.push_back(Event::Trace(line));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests;
