//! A blocking face for rumqttc, the same for MQTT 3.1.1 and 5.0.
//!
//! rumqttc was written by others from the same specification: where it and the broker agree, both
//! are more likely to be right. A thread per Client drives its connection and never reconnects.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rumqttc::{mqttbytes, v5};

use super::PATIENCE;

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Version {
    V311,
    V5,
}

pub const VERSIONS: [Version; 2] = [Version::V311, Version::V5];

/// How to connect.
#[derive(Clone, Debug)]
pub struct Options {
    pub version: Version,
    pub client_identifier: String,
    /// Clean Session of MQTT 3.1.1; with MQTT 5.0 Clean Start, and no Session Expiry Interval.
    pub clean: bool,
    pub will: Option<Will>,
}

#[derive(Clone, Debug)]
pub struct Will {
    pub topic_name: &'static str,
    pub payload: &'static str,
    pub qos: u8,
    pub retain: bool,
}

impl Options {
    pub fn new(version: Version, client_identifier: &str) -> Self {
        let client_identifier = client_identifier.to_owned();
        Self {
            version,
            client_identifier,
            clean: true,
            will: None,
        }
    }

    /// A Session that outlives its Network Connection.
    pub fn persistent(mut self) -> Self {
        self.clean = false;
        self
    }

    pub fn will(mut self, will: Will) -> Self {
        self.will = Some(will);
        self
    }

    pub fn connect(self, port: u16) -> Client {
        Client::connect(port, self)
    }
}

/// What arrived in a PUBLISH.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    pub topic_name: String,
    pub payload: String,
    pub qos: u8,
    pub retain: bool,
}

/// What the connection's thread reports.
#[derive(Debug)]
enum Event {
    Connected { session_present: bool },
    Subscribed { granted: Vec<String> },
    Unsubscribed,
    Acknowledged,
    Message(Message),
    Closed { why: String },
}

enum Requests {
    V311(rumqttc::Client),
    V5(v5::Client),
}

pub struct Client {
    name: String,
    requests: Requests,
    events: Receiver<Event>,
    /// Messages that came while something else was waited for.
    early: VecDeque<Message>,
    session_present: bool,
    abort: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// The two versions have the same events under different types.
macro_rules! drive {
    ($connection:ident, $said:ident, $abort:ident, $protocol:path, $rumqttc:path) => {{
        use $protocol as protocol;
        use $rumqttc as api;
        // Giving up a connection attempt would start another one, and two attempts with one Client
        // Identifier take each other's Session: the first event, CONNACK, is waited for in one go.
        let mut patience = PATIENCE;
        loop {
            if $abort.load(Ordering::Relaxed) {
                return;
            }
            let event = match $connection.recv_timeout(patience) {
                Ok(Ok(event)) => event,
                Ok(Err(error)) => {
                    let _ = $said.send(Event::Closed {
                        why: format!("{error:?}"),
                    });
                    return;
                }
                Err(api::RecvTimeoutError::Timeout) => continue,
                Err(api::RecvTimeoutError::Disconnected) => return,
            };
            patience = Duration::from_millis(20);
            let event = match event {
                api::Event::Incoming(protocol::Packet::ConnAck(connack)) => Event::Connected {
                    session_present: connack.session_present,
                },
                api::Event::Incoming(protocol::Packet::SubAck(suback)) => {
                    let codes = suback.return_codes.iter();
                    Event::Subscribed {
                        granted: codes.map(|code| format!("{code:?}")).collect(),
                    }
                }
                api::Event::Incoming(protocol::Packet::UnsubAck(_)) => Event::Unsubscribed,
                api::Event::Incoming(
                    protocol::Packet::PubAck(_) | protocol::Packet::PubComp(_),
                ) => Event::Acknowledged,
                api::Event::Incoming(protocol::Packet::Publish(publish)) => {
                    Event::Message(Message {
                        topic_name: text(&publish.topic),
                        payload: text(&publish.payload),
                        qos: publish.qos as u8,
                        retain: publish.retain,
                    })
                }
                api::Event::Outgoing(::rumqttc::Outgoing::Disconnect) => {
                    // It has been flushed; leaving closes the socket.
                    return;
                }
                _ => continue,
            };
            let _ = $said.send(event);
        }
    }};
}

fn text(bytes: impl AsRef<[u8]>) -> String {
    String::from_utf8(bytes.as_ref().to_vec()).unwrap()
}

impl Client {
    pub fn connect(port: u16, options: Options) -> Self {
        let mut client = Self::connect_unchecked(port, options);
        match client.next_event(PATIENCE) {
            Some(Event::Connected { session_present }) => client.session_present = session_present,
            other => panic!("{} wanted CONNACK and got {other:?}", client.name),
        }
        client
    }

    fn connect_unchecked(port: u16, options: Options) -> Self {
        let (said, events) = channel();
        let abort = Arc::new(AtomicBool::new(false));
        let stop = Arc::clone(&abort);
        let name = options.client_identifier.clone();
        let (requests, thread) = match options.version {
            Version::V311 => Self::start_v311(port, options, said, stop),
            Version::V5 => Self::start_v5(port, options, said, stop),
        };
        Self {
            name,
            requests,
            events,
            early: VecDeque::new(),
            session_present: false,
            abort,
            thread: Some(thread),
        }
    }

    fn start_v311(
        port: u16,
        options: Options,
        said: Sender<Event>,
        abort: Arc<AtomicBool>,
    ) -> (Requests, JoinHandle<()>) {
        let mut settings = rumqttc::MqttOptions::new(options.client_identifier, "127.0.0.1", port);
        settings.set_clean_session(options.clean);
        if let Some(will) = options.will {
            settings.set_last_will(rumqttc::LastWill::new(
                will.topic_name,
                will.payload,
                qos_v311(will.qos),
                will.retain,
            ));
        }
        let (requests, mut connection) = rumqttc::Client::new(settings, 1000);
        let thread = thread::spawn(move || {
            drive!(connection, said, abort, ::rumqttc::mqttbytes::v4, ::rumqttc)
        });
        (Requests::V311(requests), thread)
    }

    fn start_v5(
        port: u16,
        options: Options,
        said: Sender<Event>,
        abort: Arc<AtomicBool>,
    ) -> (Requests, JoinHandle<()>) {
        let mut settings = v5::MqttOptions::new(options.client_identifier, "127.0.0.1", port);
        settings.set_clean_start(options.clean);
        settings.set_session_expiry_interval((!options.clean).then_some(3600));
        if let Some(will) = options.will {
            settings.set_last_will(v5::mqttbytes::v5::LastWill::new(
                will.topic_name,
                will.payload,
                qos_v5(will.qos),
                will.retain,
                None,
            ));
        }
        let (requests, mut connection) = v5::Client::new(settings, 1000);
        let thread = thread::spawn(move || {
            drive!(
                connection,
                said,
                abort,
                ::rumqttc::v5::mqttbytes::v5,
                ::rumqttc::v5
            )
        });
        (Requests::V5(requests), thread)
    }

    pub fn session_present(&self) -> bool {
        self.session_present
    }

    /// Subscribes and waits for a SUBACK that grants it.
    pub fn subscribe(&mut self, topic_filter: &str, qos: u8) {
        let requested = match &self.requests {
            Requests::V311(client) => client.subscribe(topic_filter, qos_v311(qos)).is_ok(),
            Requests::V5(client) => client.subscribe(topic_filter, qos_v5(qos)).is_ok(),
        };
        self.assert_requested(requested, "subscribe");
        let granted = self.wait_for("SUBACK", |event| match event {
            Event::Subscribed { granted } => Some(granted.clone()),
            _ => None,
        });
        assert!(
            granted.len() == 1 && granted[0].starts_with("Success"),
            "{} subscribed to {topic_filter} and got {granted:?}",
            self.name
        );
    }

    /// Unsubscribes and waits for UNSUBACK.
    pub fn unsubscribe(&mut self, topic_filter: &str) {
        let requested = match &self.requests {
            Requests::V311(client) => client.unsubscribe(topic_filter).is_ok(),
            Requests::V5(client) => client.unsubscribe(topic_filter).is_ok(),
        };
        self.assert_requested(requested, "unsubscribe");
        self.wait_for("UNSUBACK", |event| {
            matches!(event, Event::Unsubscribed).then_some(())
        });
    }

    /// Publishes and waits for PUBACK or PUBCOMP, as the QoS has it.
    pub fn publish(&mut self, topic_name: &str, payload: &str, qos: u8) {
        self.publish_with_retain(topic_name, payload, qos, false);
    }

    pub fn publish_with_retain(&mut self, topic_name: &str, payload: &str, qos: u8, retain: bool) {
        let payload = payload.to_owned();
        let requested = match &self.requests {
            Requests::V311(client) => client
                .publish(topic_name, qos_v311(qos), retain, payload)
                .is_ok(),
            Requests::V5(client) => client
                .publish(topic_name, qos_v5(qos), retain, payload)
                .is_ok(),
        };
        self.assert_requested(requested, "publish");
        if qos > 0 {
            self.wait_for("the acknowledgement of a PUBLISH", |event| {
                matches!(event, Event::Acknowledged).then_some(())
            });
        }
    }

    /// The next message, which must come.
    pub fn receive(&mut self) -> Message {
        if let Some(message) = self.early.pop_front() {
            return message;
        }
        self.wait_for("a message", |event| match event {
            Event::Message(message) => Some(message.clone()),
            _ => None,
        })
    }

    /// The next message if one comes in time.
    pub fn receive_within(&mut self, patience: Duration) -> Option<Message> {
        if let Some(message) = self.early.pop_front() {
            return Some(message);
        }
        let deadline = Instant::now() + patience;
        loop {
            match self.next_event(deadline.saturating_duration_since(Instant::now()))? {
                Event::Message(message) => return Some(message),
                Event::Closed { why } => panic!("{} lost its connection: {why}", self.name),
                _ => {}
            }
        }
    }

    /// Asserts that nothing comes for a moment.
    pub fn receive_nothing(&mut self) {
        let message = self.receive_within(Duration::from_millis(300));
        assert_eq!(message, None, "{} should have received nothing", self.name);
    }

    /// Waits until the broker closes the connection, and says how the client library saw it.
    pub fn wait_for_close(&mut self) -> String {
        self.wait_for("the end of its connection", |event| match event {
            Event::Closed { why } => Some(why.clone()),
            _ => None,
        })
    }

    /// Sends DISCONNECT and closes.
    pub fn disconnect(mut self) {
        let requested = match &self.requests {
            Requests::V311(client) => client.disconnect().is_ok(),
            Requests::V5(client) => client.disconnect().is_ok(),
        };
        self.assert_requested(requested, "disconnect");
        self.thread.take().unwrap().join().unwrap();
    }

    /// Closes the socket without DISCONNECT.
    pub fn abort(mut self) {
        self.end();
    }

    /// A request fails only when the connection's thread has ended.
    fn assert_requested(&mut self, requested: bool, what: &str) {
        if !requested {
            let why = self.wait_for_close();
            panic!(
                "{} could not {what}, its connection was lost: {why}",
                self.name
            );
        }
    }

    fn end(&mut self) {
        self.abort.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }

    fn next_event(&mut self, patience: Duration) -> Option<Event> {
        match self.events.recv_timeout(patience) {
            Ok(event) => Some(event),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Event::Closed {
                why: "its thread has ended".to_owned(),
            }),
        }
    }

    fn wait_for<T>(&mut self, what: &str, wanted: impl Fn(&Event) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(event) = self.next_event(left) else {
                panic!("{} waited for {what} in vain", self.name)
            };
            if let Some(found) = wanted(&event) {
                return found;
            }
            match event {
                Event::Message(message) => self.early.push_back(message),
                Event::Closed { why } => {
                    panic!(
                        "{} waited for {what} and lost its connection: {why}",
                        self.name
                    )
                }
                _ => {}
            }
        }
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        self.end();
    }
}

fn qos_v311(qos: u8) -> rumqttc::QoS {
    mqttbytes::qos(qos).unwrap()
}

fn qos_v5(qos: u8) -> v5::mqttbytes::QoS {
    v5::mqttbytes::qos(qos).unwrap()
}
