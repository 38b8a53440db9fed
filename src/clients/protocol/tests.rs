//! The client against packets that a broker might send.

use super::super::SubArguments;
use super::super::settings::Settings;
use super::*;
use crate::codec::{
    ConnAckProperties, ForwardedProperties, PublishProperties, encode_connack, encode_disconnect,
    encode_suback,
};
use bytes::Bytes;
use clap::Parser;
use std::num::NonZeroU16;

#[derive(Parser)]
struct Command {
    #[command(flatten)]
    sub: SubArguments,
}

/// A client, and a broker that says what the test wants.
struct Rig {
    settings: Settings,
    client: Protocol,
    now: Instant,
}

impl Rig {
    /// A client that has been connected with these options.
    fn connected(arguments: &[&str]) -> Self {
        let mut rig = Self::connecting(arguments);
        rig.accept(false);
        rig
    }

    fn connecting(arguments: &[&str]) -> Self {
        let all = std::iter::once(&"sub").chain(arguments);
        let parsed = Command::parse_from(all);
        let settings = Settings::new(&parsed.sub.connection).unwrap();
        let now = Instant::now();
        let client = Protocol::new(&settings, 2, now);
        let mut rig = Self {
            settings,
            client,
            now,
        };
        assert_eq!(rig.sent()[0] >> 4, 1, "CONNECT comes first");
        rig
    }

    fn accept(&mut self, session_present: bool) {
        let connack = ConnAck {
            session_present,
            ..ConnAck::default()
        };
        self.connack(&connack).unwrap();
    }

    fn connack(&mut self, connack: &ConnAck<'_>) -> Result<(), Failure> {
        let mut bytes = Vec::new();
        encode_connack(self.client.version, connack, &mut bytes);
        let events = self.hear(&bytes)?;
        assert!(matches!(events[..], [Event::Connected]), "{events:?}");
        Ok(())
    }

    fn say(&mut self, packet: &Packet<'_>) -> Result<Vec<Event>, Failure> {
        let mut bytes = Vec::new();
        encode(packet, self.client.version, &mut bytes);
        self.hear(&bytes)
    }

    /// Byte by byte, so that every packet is cut everywhere.
    fn hear(&mut self, bytes: &[u8]) -> Result<Vec<Event>, Failure> {
        let mut events = Vec::new();
        for byte in bytes {
            self.client.receive(&[*byte], self.now);
            while let Some(event) = self.client.next_event(self.now)? {
                events.push(event);
            }
        }
        Ok(events)
    }

    fn sent(&mut self) -> Vec<u8> {
        std::mem::take(self.client.output())
    }

    fn publish(&mut self, payload: &str, qos: QoS) -> Result<u16, Failure> {
        let payload = Bytes::copy_from_slice(payload.as_bytes());
        let message = Outgoing::new("t".into(), payload, qos, false);
        self.client.publish(message, self.now)
    }

    fn reconnect(&mut self, session_present: bool) {
        self.client.restart(&self.settings, self.now);
        self.sent();
        self.accept(session_present);
    }
}

fn identifier(value: u16) -> PacketIdentifier {
    PacketIdentifier::new(value).unwrap()
}

fn acknowledgement(value: u16) -> Acknowledgement<'static> {
    Acknowledgement::new(identifier(value), ReasonCode::Success)
}

fn publish(topic_name: &str, qos: QoS, packet_identifier: u16) -> Publish<'_> {
    Publish {
        duplicate: false,
        qos,
        retain: false,
        topic_name,
        packet_identifier: PacketIdentifier::new(packet_identifier),
        payload: b"p",
        properties: PublishProperties::default(),
    }
}

#[test]
fn qos1_message_is_acknowledged_when_it_is_taken() {
    let mut rig = Rig::connected(&[]);
    let mut bytes = Vec::new();
    for value in [1, 2] {
        let packet = Packet::Publish(publish("t", QoS::AtLeastOnce, value));
        encode(&packet, ProtocolVersion::V311, &mut bytes);
    }
    rig.client.receive(&bytes, rig.now);
    let event = rig.client.next_event(rig.now).unwrap();
    assert!(matches!(event, Some(Event::Message(message)) if message.packet_identifier == 1));
    // Who stops here leaves the second one to the Session.
    assert_eq!(rig.sent(), [0x40, 2, 0, 1]);
    rig.client.disconnect(ReasonCode::Success, &rig.settings);
    assert!(rig.client.next_event(rig.now).unwrap().is_none());
    assert_eq!(rig.sent(), [0xE0, 0]);
}

#[test]
fn a_disconnect_carries_the_reason_that_was_given() {
    let reason = ["-D", "disconnect", "reason-string", "done"];
    let mut rig = Rig::connected(&reason);
    rig.client.disconnect(ReasonCode::Success, &rig.settings);
    assert_eq!(rig.sent(), b"\xE0\x09\x00\x07\x1F\x00\x04done");
}

#[test]
fn qos2_message_is_handed_out_once_at_pubrel() {
    let mut rig = Rig::connected(&[]);
    let first = publish("t", QoS::ExactlyOnce, 7);
    let again = Publish {
        duplicate: true,
        ..first
    };
    for packet in [first, again] {
        assert!(rig.say(&Packet::Publish(packet)).unwrap().is_empty());
        assert_eq!(rig.sent(), [0x50, 2, 0, 7], "PUBREC");
    }
    let events = rig.say(&Packet::PubRel(acknowledgement(7))).unwrap();
    assert!(matches!(&events[..], [Event::Message(message)] if message.topic_name == "t"));
    assert_eq!(rig.sent(), [0x70, 2, 0, 7], "PUBCOMP");
    // A PUBREL that is sent again finds nothing, and is answered all the same.
    assert!(
        rig.say(&Packet::PubRel(acknowledgement(7)))
            .unwrap()
            .is_empty()
    );
    assert_eq!(rig.sent(), [0x70, 2, 0, 7]);
}

#[test]
fn window_holds_messages_back_until_others_are_delivered() {
    let mut rig = Rig::connected(&[]);
    for payload in ["a", "b", "c"] {
        rig.publish(payload, QoS::AtLeastOnce).unwrap();
    }
    assert!(rig.client.is_window_full());
    assert_eq!(
        rig.sent(),
        [
            0x32, 6, 0, 1, b't', 0, 1, b'a', 0x32, 6, 0, 1, b't', 0, 2, b'b'
        ]
    );
    let events = rig.say(&Packet::PubAck(acknowledgement(1))).unwrap();
    assert!(matches!(
        events[..],
        [Event::Published {
            packet_identifier: 1,
            ..
        }]
    ));
    rig.client.fill_window(rig.now).unwrap();
    assert_eq!(rig.sent(), [0x32, 6, 0, 1, b't', 0, 3, b'c']);
    rig.say(&Packet::PubAck(acknowledgement(2))).unwrap();
    rig.say(&Packet::PubAck(acknowledgement(3))).unwrap();
    assert!(!rig.client.is_publishing());
}

#[test]
fn receive_maximum_of_the_broker_is_kept() {
    // [MQTT-3.3.4-7]
    let mut rig = Rig::connecting(&["-V", "5"]);
    let mut connack = ConnAck::default();
    connack.properties.receive_maximum = NonZeroU16::new(1);
    rig.connack(&connack).unwrap();
    rig.publish("a", QoS::ExactlyOnce).unwrap();
    rig.publish("b", QoS::ExactlyOnce).unwrap();
    assert_eq!(rig.sent(), [0x34, 7, 0, 1, b't', 0, 1, 0, b'a']);
}

#[test]
fn what_was_not_acknowledged_is_sent_again() {
    // [MQTT-4.4.0-1]
    let mut rig = Rig::connected(&["-c", "-i", "x"]);
    rig.publish("a", QoS::AtLeastOnce).unwrap();
    rig.publish("b", QoS::ExactlyOnce).unwrap();
    rig.say(&Packet::PubRec(acknowledgement(2))).unwrap();
    rig.sent();
    rig.reconnect(true);
    assert_eq!(
        rig.sent(),
        [0x3A, 6, 0, 1, b't', 0, 1, b'a', 0x62, 2, 0, 2],
        "PUBLISH with DUP, and PUBREL"
    );
    rig.reconnect(false);
    assert_eq!(
        rig.sent(),
        [
            0x32, 6, 0, 1, b't', 0, 1, b'a', 0x34, 6, 0, 1, b't', 0, 2, b'b'
        ],
        "to a broker that knows nothing, both anew"
    );
}

#[test]
fn refused_qos2_message_ends_at_pubrec() {
    let mut rig = Rig::connected(&["-V", "5"]);
    rig.publish("a", QoS::ExactlyOnce).unwrap();
    let refusal = Acknowledgement::new(identifier(1), ReasonCode::NotAuthorized);
    let events = rig.say(&Packet::PubRec(refusal)).unwrap();
    assert!(matches!(
        events[..],
        [Event::Published {
            reason_code: ReasonCode::NotAuthorized,
            ..
        }]
    ));
    assert!(!rig.client.is_publishing());
}

#[test]
fn what_the_broker_does_not_take_is_not_sent() {
    // [MQTT-3.2.2-11], [MQTT-3.2.2-14], [MQTT-3.2.2-15]
    let properties = ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        maximum_packet_size: std::num::NonZeroU32::new(20),
        ..ConnAckProperties::default()
    };
    let connack = ConnAck {
        properties,
        ..ConnAck::default()
    };
    let refusal = |send: &dyn Fn(&mut Rig) -> Result<u16, Failure>| {
        let mut rig = Rig::connecting(&["-V", "5"]);
        rig.connack(&connack).unwrap();
        let failure = send(&mut rig).unwrap_err();
        assert!(rig.sent().is_empty());
        failure.exit_status()
    };
    assert_eq!(refusal(&|rig| rig.publish("a", QoS::ExactlyOnce)), 24);
    let long = "a".repeat(20);
    assert_eq!(refusal(&|rig| rig.publish(&long, QoS::AtMostOnce)), 25);
    let retained = Outgoing::new("t".into(), Bytes::from_static(b"a"), QoS::AtMostOnce, true);
    assert_eq!(
        refusal(&|rig| rig.client.publish(retained.clone(), rig.now)),
        28
    );
}

#[test]
fn topic_aliases_stand_for_their_topics() {
    let alias = |topic_name, value| Publish {
        properties: PublishProperties {
            topic_alias: NonZeroU16::new(value),
            forwarded: ForwardedProperties::default(),
            ..PublishProperties::default()
        },
        ..publish(topic_name, QoS::AtMostOnce, 0)
    };
    let arguments = ["-D", "connect", "topic-alias-maximum", "3"];
    let mut rig = Rig::connected(&arguments);
    for topic_name in ["long/topic", ""] {
        let events = rig.say(&Packet::Publish(alias(topic_name, 3))).unwrap();
        assert!(
            matches!(&events[..], [Event::Message(message)] if message.topic_name == "long/topic")
        );
    }
    assert!(
        rig.say(&Packet::Publish(alias("", 2))).is_err(),
        "it stands for nothing"
    );
    let mut rig = Rig::connected(&arguments);
    assert!(
        rig.say(&Packet::Publish(alias("t", 4))).is_err(),
        "it is above the maximum"
    );
}

#[test]
fn refusals_become_exit_statuses() {
    for (version, status) in [("311", 5), ("5", 135)] {
        let mut rig = Rig::connecting(&["-V", version]);
        let connack = ConnAck {
            reason_code: ReasonCode::NotAuthorized,
            ..ConnAck::default()
        };
        let failure = rig.connack(&connack).unwrap_err();
        assert_eq!(failure.exit_status(), status);
    }
    let mut rig = Rig::connected(&["-V", "5"]);
    let mut bytes = Vec::new();
    let disconnect = Disconnect::new(ReasonCode::SessionTakenOver);
    encode_disconnect(ProtocolVersion::V5, &disconnect, &mut bytes);
    let failure = rig.hear(&bytes).unwrap_err();
    assert_eq!(failure.exit_status(), 142);
}

#[test]
fn what_a_broker_must_not_send_ends_the_connection() {
    let mut bytes = Vec::new();
    let codes = [ReasonCode::Success];
    encode_suback(ProtocolVersion::V311, identifier(1), &codes, &mut bytes);
    let mut rig = Rig::connecting(&[]);
    assert!(rig.hear(&bytes).is_err(), "SUBACK before CONNACK");
    let mut rig = Rig::connected(&[]);
    assert!(rig.say(&Packet::PingReq).is_err());
    let mut rig = Rig::connected(&[]);
    assert!(rig.hear(&[0xFF; 5]).is_err());
}

#[test]
fn silence_is_broken_by_pingreq_and_then_ends_the_connection() {
    let mut rig = Rig::connected(&["-k", "10"]);
    rig.sent();
    let step = Duration::from_secs(10);
    assert_eq!(rig.client.next_deadline(), Some(rig.now + step));
    rig.now += step;
    rig.client.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.sent(), [0xC0, 0]);
    rig.say(&Packet::PingResp).unwrap();
    rig.now += step;
    rig.client.handle_timeout(rig.now).unwrap();
    assert_eq!(rig.sent(), [0xC0, 0]);
    rig.now += step;
    let failure = rig.client.handle_timeout(rig.now).unwrap_err();
    assert!(failure.is_worth_a_retry(), "{failure}");
}

#[test]
fn keep_alive_of_the_broker_replaces_ours() {
    // [MQTT-3.2.2-21]
    let mut rig = Rig::connecting(&["-V", "5"]);
    let mut connack = ConnAck::default();
    connack.properties.server_keep_alive_s = Some(7);
    rig.connack(&connack).unwrap();
    assert_eq!(
        rig.client.next_deadline(),
        Some(rig.now + Duration::from_secs(7))
    );
    let mut rig = Rig::connected(&["-k", "0"]);
    assert_eq!(rig.client.next_deadline(), None);
    assert!(
        rig.client
            .handle_timeout(rig.now + CONNACK_PATIENCE * 9)
            .is_ok()
    );
}
