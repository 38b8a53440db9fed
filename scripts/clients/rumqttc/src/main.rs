//! rumqttc against a broker, given as JSON in the first argument.
//!
//! What is checked is the same as in the other files of this folder: every QoS in order, a large payload,
//! retained messages, a session that is kept, a Will, and the properties of MQTT 5.

use rumqttc::{Transport, v5};
use serde_json::Value;
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinHandle;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(15);
const COUNT: usize = 20;
const SIZE: usize = 300_000;

/// What the task of a connection reports.
enum Seen {
    Connected { session_present: bool },
    Subscribed,
    Acknowledged,
    Message(Message),
}

struct Message {
    payload: Vec<u8>,
    qos: u8,
    retain: bool,
    content_type: Option<String>,
    user_properties: Vec<(String, String)>,
}

/// Host and port, as rumqttc has them, and the transport. For a WebSocket the host is an address on the
/// web, and the port is in it.
fn address(target: &Value) -> (String, u16, Transport) {
    let text = |name: &str| target[name].as_str().expect(name).to_owned();
    let port = target["port"].as_u64().unwrap_or(0) as u16;
    let ca = || std::fs::read(text("cafile")).expect("cafile");
    let url = |scheme: &str| format!("{scheme}://{}:{port}/mqtt", text("host"));
    match target["transport"].as_str().expect("transport") {
        "tcp" => (text("host"), port, Transport::tcp()),
        "tls" => (text("host"), port, Transport::tls(ca(), None, None)),
        "ws" => (url("ws"), port, Transport::ws()),
        "wss" => (url("wss"), port, Transport::wss(ca(), None, None)),
        "unix" => (text("path"), 1, Transport::unix()),
        other => panic!("{other} is no transport of this client"),
    }
}

/// The two versions have the same names under different paths.
macro_rules! version {
    ($module:ident, $api:path, $packets:path, $qos:path, $set_up:expr, $will:expr, $properties:expr) => {
        mod $module {
            use super::*;
            use $api as api;
            use $packets as packets;
            use $qos as quality;

            pub struct Client {
                pub requests: api::AsyncClient,
                seen: UnboundedReceiver<Seen>,
                early: std::collections::VecDeque<Message>,
                pub session_present: bool,
                task: JoinHandle<()>,
            }

            async fn run(mut events: api::EventLoop, seen: UnboundedSender<Seen>) {
                loop {
                    let event = match events.poll().await {
                        Ok(event) => event,
                        // It would connect again.
                        Err(error) => return eprintln!("{error:?}"),
                    };
                    let what = match event {
                        api::Event::Incoming(packets::Packet::ConnAck(it)) => Seen::Connected {
                            session_present: it.session_present,
                        },
                        api::Event::Incoming(packets::Packet::SubAck(_)) => Seen::Subscribed,
                        api::Event::Incoming(packets::Packet::PubAck(_) | packets::Packet::PubComp(_)) => {
                            Seen::Acknowledged
                        }
                        api::Event::Incoming(packets::Packet::Publish(it)) => {
                            let (content_type, user_properties) = $properties(&it);
                            Seen::Message(Message {
                                payload: it.payload.to_vec(),
                                qos: it.qos as u8,
                                retain: it.retain,
                                content_type,
                                user_properties,
                            })
                        }
                        api::Event::Outgoing(rumqttc::Outgoing::Disconnect) => return,
                        _ => continue,
                    };
                    if seen.send(what).is_err() {
                        return;
                    }
                }
            }

            impl Client {
                pub async fn connect(target: &Value, name: &str, is_clean: bool, will: Option<&str>) -> Self {
                    let (host, port, transport) = address(target);
                    let mut options = api::MqttOptions::new(name, host, port);
                    options.set_transport(transport);
                    $set_up(&mut options, is_clean);
                    if let Some(topic) = will {
                        options.set_last_will($will(topic));
                    }
                    let (requests, events) = api::AsyncClient::new(options, 100);
                    let (sender, seen) = unbounded_channel();
                    let mut client = Self {
                        requests,
                        seen,
                        early: Default::default(),
                        session_present: false,
                        task: tokio::spawn(run(events, sender)),
                    };
                    client.session_present = client
                        .until(|seen| match seen {
                            Seen::Connected { session_present } => Some(*session_present),
                            _ => None,
                        })
                        .await;
                    client
                }

                async fn until<T>(&mut self, wanted: impl Fn(&Seen) -> Option<T>) -> T {
                    loop {
                        let seen = timeout(PATIENCE, self.seen.recv()).await.expect("in time");
                        let seen = seen.expect("the connection stays");
                        if let Some(found) = wanted(&seen) {
                            return found;
                        }
                        if let Seen::Message(message) = seen {
                            self.early.push_back(message);
                        }
                    }
                }

                fn quality(qos: u8) -> quality::QoS {
                    quality::qos(qos).expect("0, 1 or 2")
                }

                pub async fn subscribe(mut self, filter: &str, qos: u8) -> Self {
                    self.requests.subscribe(filter, Self::quality(qos)).await.unwrap();
                    self.until(|seen| matches!(seen, Seen::Subscribed).then_some(()))
                        .await;
                    self
                }

                pub async fn publish(&mut self, topic: &str, payload: impl Into<Vec<u8>>, qos: u8, retain: bool) {
                    let payload = payload.into();
                    self.requests
                        .publish(topic, Self::quality(qos), retain, payload)
                        .await
                        .unwrap();
                    if qos > 0 {
                        self.until(|seen| matches!(seen, Seen::Acknowledged).then_some(()))
                            .await;
                    }
                }

                pub async fn next(&mut self) -> Message {
                    if let Some(message) = self.early.pop_front() {
                        return message;
                    }
                    loop {
                        let seen = timeout(PATIENCE, self.seen.recv())
                            .await
                            .expect("a message in time");
                        if let Seen::Message(message) = seen.expect("the connection stays") {
                            return message;
                        }
                    }
                }

                pub async fn leave(self) {
                    self.requests.disconnect().await.unwrap();
                    self.task.await.unwrap();
                }

                /// Ends the connection without DISCONNECT.
                pub fn die(self) {
                    self.task.abort();
                }
            }

            pub async fn check(target: &Value, version: u8) {
                let base = format!("rumqttc/{}/{version}", target["transport"].as_str().unwrap());
                let name = base.replace('/', "-");
                let connect = |who: &str, is_clean| {
                    let name = format!("{name}-{who}");
                    async move { Client::connect(target, &name, is_clean, None).await }
                };
                let mut publisher = connect("pub", true).await;
                let mut subscriber = connect("sub", true)
                    .await
                    .subscribe(&format!("{base}/+/x"), 2)
                    .await;
                for qos in 0..=2 {
                    for index in 0..COUNT {
                        publisher
                            .publish(&format!("{base}/{qos}/x"), format!("{qos} {index}"), qos, false)
                            .await;
                    }
                }
                let mut by_qos = [const { Vec::new() }; 3];
                for _ in 0..3 * COUNT {
                    let message = subscriber.next().await;
                    by_qos[usize::from(message.qos)].push(String::from_utf8(message.payload).unwrap());
                }
                for (qos, payloads) in by_qos.iter().enumerate() {
                    let expected: Vec<_> = (0..COUNT).map(|index| format!("{qos} {index}")).collect();
                    assert_eq!(*payloads, expected);
                }

                let large: Vec<_> = (0..SIZE).map(|index| (index * 7 % 251) as u8).collect();
                publisher
                    .publish(&format!("{base}/large/x"), large.clone(), 1, false)
                    .await;
                assert!(subscriber.next().await.payload == large, "a large payload");

                let kept = format!("{base}/kept");
                publisher.publish(&kept, "kept", 1, true).await;
                let mut late = connect("late", true).await.subscribe(&kept, 1).await;
                let message = late.next().await;
                assert_eq!((&*message.payload, message.retain), (&b"kept"[..], true));
                publisher.publish(&kept, "", 1, true).await;
                late.leave().await;

                let missed = format!("{base}/missed");
                connect("keeper", false)
                    .await
                    .subscribe(&missed, 1)
                    .await
                    .leave()
                    .await;
                for index in 0..3 {
                    publisher.publish(&missed, index.to_string(), 1, false).await;
                }
                let mut keeper = connect("keeper", false).await;
                assert!(keeper.session_present, "its session was kept");
                for index in 0..3 {
                    assert_eq!(keeper.next().await.payload, index.to_string().into_bytes());
                }
                keeper.leave().await;
                connect("keeper", true).await.leave().await;

                let will = format!("{base}/will");
                let mut observer = connect("observer", true).await.subscribe(&will, 1).await;
                Client::connect(target, &format!("{name}-mortal"), true, Some(&will))
                    .await
                    .die();
                assert_eq!(observer.next().await.payload, b"gone");
                for client in [publisher, subscriber, observer] {
                    client.leave().await;
                }
            }
        }
    };
}

version!(
    v311,
    rumqttc,
    rumqttc::mqttbytes::v4,
    rumqttc::mqttbytes,
    |options: &mut rumqttc::MqttOptions, is_clean| {
        options.set_clean_session(is_clean);
        options.set_max_packet_size(2 * SIZE, 2 * SIZE);
    },
    |topic: &str| rumqttc::LastWill::new(topic, "gone", rumqttc::QoS::AtLeastOnce, false),
    |_: &rumqttc::Publish| (None, Vec::new())
);
version!(
    v50,
    rumqttc::v5,
    rumqttc::v5::mqttbytes::v5,
    rumqttc::v5::mqttbytes,
    |options: &mut v5::MqttOptions, is_clean: bool| {
        options.set_clean_start(is_clean);
        options.set_max_packet_size(Some(2 * SIZE as u32));
        options.set_session_expiry_interval(Some(if is_clean { 0 } else { 60 }));
    },
    |topic: &str| {
        let qos = v5::mqttbytes::QoS::AtLeastOnce;
        v5::mqttbytes::v5::LastWill::new(topic, "gone", qos, false, None)
    },
    |publish: &v5::mqttbytes::v5::Publish| {
        let properties = publish.properties.clone().unwrap_or_default();
        (properties.content_type, properties.user_properties)
    }
);

/// Of MQTT 5 alone.
async fn check_properties(target: &Value) {
    let topic = format!("rumqttc/{}/properties", target["transport"].as_str().unwrap());
    let name = topic.replace('/', "-");
    let client = v50::Client::connect(target, &name, true, None).await;
    let mut client = client.subscribe(&topic, 1).await;
    let properties = v5::mqttbytes::v5::PublishProperties {
        content_type: Some("text".into()),
        user_properties: vec![("a".into(), "b".into())],
        ..Default::default()
    };
    let qos = v5::mqttbytes::QoS::AtLeastOnce;
    let requests = &client.requests;
    requests
        .publish_with_properties(&topic, qos, false, "p", properties)
        .await
        .unwrap();
    let message = client.next().await;
    assert_eq!(message.content_type.as_deref(), Some("text"));
    assert_eq!(message.user_properties, [("a".to_owned(), "b".to_owned())]);
    client.leave().await;
}

#[tokio::main(flavor = "current_thread")]
async fn main() {
    let target = std::env::args().nth(1).expect("a broker as JSON");
    let target: Value = serde_json::from_str(&target).expect("a broker as JSON");
    v311::check(&target, 4).await;
    v50::check(&target, 5).await;
    check_properties(&target).await;
}
