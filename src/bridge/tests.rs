//! A [`Relay`] between two brokers that the tests play.

#![forbid(unsafe_code)]

use super::options::{LocalLimits, RemoteOptions};
use super::relay::{Ended, Event, Orphans, Relay, Side};
use super::topics::{Topics, Way};
use crate::codec::{
    Acknowledgement, ConnAck, ConnAckProperties, Connect, ForwardedProperties, Packet, Publish,
    PublishHeader, PublishProperties, ReasonCode, SubAck, SubscriptionIdentifiers, UnsubAck,
    decode, decode_fixed_header, encode, encode_publish,
};
use crate::config::{BridgeTopic, Direction};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::{Duration, Instant};

const V311: ProtocolVersion = ProtocolVersion::V311;
const V5: ProtocolVersion = ProtocolVersion::V5;

fn topic(pattern: &str, direction: Direction, local: &str, remote: &str) -> BridgeTopic {
    BridgeTopic {
        direction,
        qos: QoS::ExactlyOnce,
        local_filter: format!("{local}{pattern}"),
        remote_filter: format!("{remote}{pattern}"),
        local_prefix: local.to_owned(),
        remote_prefix: remote.to_owned(),
    }
}

fn options(version: ProtocolVersion) -> RemoteOptions {
    RemoteOptions {
        version,
        try_private: true,
        clean_start: false,
        keep_alive: Duration::from_secs(60),
        client_identifier: "host.bridge".to_owned(),
        username: None,
        password: None,
        notification_topic: None,
        session_expiry_interval_s: None,
        receive_maximum: None,
        packet_size_max: None,
        max_topic_alias: 2,
        outgoing_retain: true,
        attempt_unsubscribe: true,
        local_client_identifier: "local.host.bridge".to_owned(),
        local_clean_start: false,
        local_username: None,
        local_password: None,
    }
}

const LIMITS: LocalLimits = LocalLimits {
    packet_size_max: 100_000,
    receive_maximum: 20,
    retain_available: true,
    max_keep_alive_s: 0,
};

/// A relay and the brokers at its ends.
struct Rig {
    relay: Relay,
    version: ProtocolVersion,
    now: Instant,
}

impl Rig {
    fn new(options: RemoteOptions, topics: &[BridgeTopic]) -> Self {
        let now = Instant::now();
        let version = options.version;
        let relay = Relay::new(
            &Arc::new(options),
            &Topics::new(topics),
            &[],
            Orphans::default(),
            LIMITS,
            &Arc::default(),
            now,
        );
        Self {
            relay,
            version,
            now,
        }
    }

    /// Connected on both sides, and nothing of that is left to be sent.
    fn linked(options: RemoteOptions, topics: &[BridgeTopic]) -> Self {
        let mut rig = Self::new(options, topics);
        rig.connack(Side::Remote, ConnAckProperties::default());
        rig.connack(Side::Local, ConnAckProperties::default());
        rig.answer();
        for side in [Side::Remote, Side::Local] {
            rig.relay.output(side).clear();
        }
        assert_eq!(rig.events(), [Event::Linked]);
        rig
    }

    fn connack(&mut self, side: Side, properties: ConnAckProperties<'_>) {
        self.connack_of(side, false, properties);
    }

    fn connack_of(&mut self, side: Side, session_present: bool, properties: ConnAckProperties<'_>) {
        let connack = ConnAck {
            session_present,
            reason_code: ReasonCode::Success,
            properties,
        };
        self.say(side, Packet::ConnAck(connack)).unwrap();
    }

    fn local_version(&self) -> ProtocolVersion {
        if self.version.is_v5() { V5 } else { V311 }
    }

    fn version(&self, side: Side) -> ProtocolVersion {
        match side {
            Side::Remote => self.version,
            Side::Local => self.local_version(),
        }
    }

    /// The remote broker answers what it was asked.
    fn answer(&mut self) {
        let codes = [ReasonCode::GrantedQoS2];
        for identifier in 1..=3 {
            let identifier = PacketIdentifier::new(identifier).unwrap();
            let answer = match identifier.get() {
                1 => Packet::UnsubAck(UnsubAck::new(identifier, &[ReasonCode::Success])),
                _ => Packet::SubAck(SubAck::new(identifier, &codes)),
            };
            self.say(Side::Remote, answer).unwrap();
        }
    }

    /// The broker at `side` says this.
    fn say(&mut self, side: Side, packet: Packet<'_>) -> Result<(), Ended> {
        let mut bytes = Vec::new();
        encode(&packet, self.version(side), &mut bytes);
        self.say_bytes(side, &bytes)
    }

    fn say_bytes(&mut self, side: Side, bytes: &[u8]) -> Result<(), Ended> {
        self.relay.receive(side, bytes, self.now);
        self.relay.advance(self.now)
    }

    fn publish(&mut self, side: Side, qos: QoS, topic_name: &str, payload: &[u8]) {
        let bytes = publish_bytes(self.version(side), qos, topic_name, payload);
        self.say_bytes(side, &bytes).unwrap();
    }

    /// What the broker at `side` hears, shown by `show`.
    fn heard(&mut self, side: Side) -> Vec<String> {
        let version = self.version(side);
        let bytes = std::mem::take(self.relay.output(side));
        let mut rest = bytes.as_slice();
        let mut shown = Vec::new();
        while let Some(header) = decode_fixed_header(rest, u32::MAX).unwrap() {
            let (packet, others) = rest.split_at(header.total_size());
            let body = &packet[header.header_size..];
            shown.push(show(&decode(version, header.first_byte, body).unwrap()));
            rest = others;
        }
        assert!(rest.is_empty());
        shown
    }

    fn events(&mut self) -> Vec<Event> {
        self.relay.events().collect()
    }
}

fn publish_bytes(version: ProtocolVersion, qos: QoS, topic_name: &str, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let header = PublishHeader {
        duplicate: false,
        qos,
        retain: false,
        packet_identifier: PacketIdentifier::new(7),
        topic_name: topic_name.as_bytes(),
        topic_alias: None,
        message_expiry_interval_s: None,
        forwarded: &[],
        subscription_identifiers: &[],
        payload,
    };
    encode_publish(version, &header, &mut bytes);
    bytes
}

fn show(packet: &Packet<'_>) -> String {
    let ack = |name: &str, ack: &Acknowledgement<'_>| {
        format!(
            "{name} {} {:?}",
            ack.packet_identifier.get(),
            ack.reason_code
        )
    };
    match packet {
        Packet::Connect(connect) => format!("CONNECT {}", connect.client_identifier),
        Packet::Publish(publish) => format!(
            "PUBLISH {} q{} r{} {} {}",
            publish.topic_name,
            publish.qos as u8,
            u8::from(publish.retain),
            publish.packet_identifier.map_or(0, PacketIdentifier::get),
            String::from_utf8_lossy(publish.payload),
        ),
        Packet::PubAck(it) => ack("PUBACK", it),
        Packet::PubRec(it) => ack("PUBREC", it),
        Packet::PubRel(it) => ack("PUBREL", it),
        Packet::PubComp(it) => ack("PUBCOMP", it),
        Packet::Subscribe(subscribe) => {
            let filters = subscribe.filters();
            let filters = filters.map(|(filter, it)| format!(" {filter}:{}", it.qos as u8));
            format!("SUBSCRIBE{}", filters.collect::<String>())
        }
        Packet::Unsubscribe(unsubscribe) => {
            let filters: Vec<_> = unsubscribe.filters().collect();
            format!("UNSUBSCRIBE {}", filters.join(" "))
        }
        Packet::PingReq => "PINGREQ".to_owned(),
        Packet::Disconnect(_) => "DISCONNECT".to_owned(),
        other => format!("{other:?}"),
    }
}

fn topics() -> Vec<BridgeTopic> {
    vec![
        topic("out/#", Direction::Out, "here/", "there/"),
        topic("in/#", Direction::In, "here/", "there/"),
        topic("both/#", Direction::Both, "", ""),
    ]
}

fn acknowledgement(reason_code: ReasonCode) -> Acknowledgement<'static> {
    Acknowledgement::new(PacketIdentifier::new(7).unwrap(), reason_code)
}

#[test]
fn a_bridge_says_that_it_is_one_and_leaves_a_will_where_its_state_is_told() {
    let mut options = options(V311);
    options.notification_topic = Some("$SYS/broker/connection/x/state".to_owned());
    options.username = Some("user".to_owned());
    options.password = Some("secret".to_owned());
    let mut rig = Rig::new(options, &topics());
    let bytes = std::mem::take(rig.relay.output(Side::Remote));
    let header = decode_fixed_header(&bytes, u32::MAX).unwrap().unwrap();
    let packet = decode(V311, header.first_byte, &bytes[header.header_size..]).unwrap();
    let Packet::Connect(connect) = packet else {
        panic!("{packet:?}");
    };
    assert!(connect.is_bridge && !connect.clean_start);
    let expected = Connect {
        username: Some("user"),
        password: Some(b"secret"),
        ..connect
    };
    assert_eq!(connect, expected);
    let will = connect.will.unwrap();
    assert_eq!(will.topic_name, "$SYS/broker/connection/x/state");
    assert_eq!((will.payload, will.retain), (&b"0"[..], true));
}

#[test]
fn both_brokers_are_subscribed_to_once_both_have_accepted() {
    let mut options = options(V311);
    options.notification_topic = Some("state".to_owned());
    let mut rig = Rig::new(options, &topics());
    assert_eq!(rig.heard(Side::Remote), ["CONNECT host.bridge"]);
    assert_eq!(rig.heard(Side::Local), ["CONNECT local.host.bridge"]);
    // What it has to say from then on waits for the other one.
    rig.connack(Side::Local, ConnAckProperties::default());
    assert!(!rig.relay.wants(Side::Local) && rig.relay.wants(Side::Remote));
    assert!(rig.events().is_empty());
    rig.connack(Side::Remote, ConnAckProperties::default());
    assert_eq!(rig.events(), [Event::Linked]);
    let said = [
        "PUBLISH state q0 r1 0 1",
        "UNSUBSCRIBE there/out/#",
        "SUBSCRIBE there/in/#:2",
        "SUBSCRIBE both/#:2",
    ];
    assert_eq!(rig.heard(Side::Remote), said);
    let said = ["SUBSCRIBE here/out/#:2 both/#:2"];
    assert_eq!(rig.heard(Side::Local), said);
    rig.relay.leave();
    let said = ["PUBLISH state q0 r1 0 0", "DISCONNECT"];
    assert_eq!(rig.heard(Side::Remote), said);
}

#[test]
fn what_an_earlier_configuration_subscribed_to_ends_where_the_session_is_still_there() {
    let stale = ["old/there".to_owned()];
    let topics = [topic("x", Direction::Both, "", "")];
    for session_present in [true, false] {
        let mut rig = Rig::new(options(V311), &topics);
        let options = Arc::new(options(V311));
        let topics = Topics::new(&topics);
        let orphans = Orphans::default();
        rig.relay = Relay::new(
            &options,
            &topics,
            &stale,
            orphans,
            LIMITS,
            &Arc::default(),
            rig.now,
        );
        for side in [Side::Remote, Side::Local] {
            let connack = ConnAck {
                session_present,
                reason_code: ReasonCode::Success,
                properties: ConnAckProperties::default(),
            };
            rig.relay.output(side).clear();
            rig.say(side, Packet::ConnAck(connack)).unwrap();
        }
        let mut said = vec!["SUBSCRIBE x:2".to_owned()];
        assert_eq!(rig.heard(Side::Local), said);
        if session_present {
            said.insert(0, "UNSUBSCRIBE old/there".to_owned());
        }
        assert_eq!(rig.heard(Side::Remote), said);
    }
}

/// [MQTT-3.3.4-9]
#[test]
fn this_broker_is_told_what_the_remote_one_takes_at_once() {
    for (theirs, is_less) in [(LIMITS.receive_maximum, false), (3, true)] {
        let mut rig = Rig::new(options(V5), &topics());
        rig.heard(Side::Local);
        rig.connack(Side::Local, ConnAckProperties::default());
        let properties = ConnAckProperties {
            receive_maximum: NonZeroU16::new(theirs),
            ..ConnAckProperties::default()
        };
        rig.connack(Side::Remote, properties);
        if !is_less {
            assert_eq!(rig.events(), [Event::Linked]);
            continue;
        }
        assert_eq!(rig.events(), [Event::Rejoin]);
        let bytes = std::mem::take(rig.relay.output(Side::Local));
        let header = decode_fixed_header(&bytes, u32::MAX).unwrap().unwrap();
        let packet = decode(V5, header.first_byte, &bytes[header.header_size..]).unwrap();
        let Packet::Connect(connect) = packet else {
            panic!("{packet:?}");
        };
        assert_eq!(connect.properties.receive_maximum, NonZeroU16::new(theirs));
        rig.connack(Side::Local, ConnAckProperties::default());
        assert_eq!(rig.events(), [Event::Linked]);
    }
}

#[test]
fn messages_have_the_name_of_the_side_they_go_to_and_are_acknowledged_by_it() {
    for version in [ProtocolVersion::V3, V311, V5] {
        for (from, to, name, renamed) in [
            (Side::Local, Side::Remote, "here/out/a", "there/out/a"),
            (Side::Remote, Side::Local, "there/in/a/b", "here/in/a/b"),
            (Side::Local, Side::Remote, "both/x", "both/x"),
            (Side::Remote, Side::Local, "both/x", "both/x"),
        ] {
            let mut rig = Rig::linked(options(version), &topics());
            rig.publish(from, QoS::AtMostOnce, name, b"zero");
            rig.publish(from, QoS::AtLeastOnce, name, b"one");
            let said = [
                format!("PUBLISH {renamed} q0 r0 0 zero"),
                format!("PUBLISH {renamed} q1 r0 7 one"),
            ];
            assert_eq!(rig.heard(to), said);
            // [MQTT-4.3.2-4]: not before the other one has.
            assert!(rig.heard(from).is_empty());
            let ack = Packet::PubAck(acknowledgement(ReasonCode::Success));
            rig.say(to, ack).unwrap();
            assert_eq!(rig.heard(from), ["PUBACK 7 Success"]);
            assert!(rig.events().is_empty());
        }
    }
}

#[test]
fn each_step_of_qos_2_goes_to_the_other_broker() {
    for (from, to, name) in [
        (Side::Local, Side::Remote, "here/out/a"),
        (Side::Remote, Side::Local, "there/in/a"),
    ] {
        let mut rig = Rig::linked(options(V5), &topics());
        rig.publish(from, QoS::ExactlyOnce, name, b"");
        assert_eq!(rig.heard(to).len(), 1);
        let success = acknowledgement(ReasonCode::Success);
        rig.say(to, Packet::PubRec(success)).unwrap();
        assert_eq!(rig.heard(from), ["PUBREC 7 Success"]);
        rig.say(from, Packet::PubRel(success)).unwrap();
        assert_eq!(rig.heard(to), ["PUBREL 7 Success"]);
        let unknown = acknowledgement(ReasonCode::PacketIdentifierNotFound);
        rig.say(to, Packet::PubComp(unknown)).unwrap();
        let said = ["PUBCOMP 7 PacketIdentifierNotFound"];
        assert_eq!(rig.heard(from), said);
    }
}

/// [MQTT-4.3.3-10]: what would be one more of an exchange that its sender knows nothing of.
#[test]
fn exchanges_that_one_broker_has_lost_are_ended_at_the_other_one_before_anything_else() {
    for (version, new, old, name) in [
        (V311, Side::Remote, Side::Local, "there/in/a"),
        (V5, Side::Remote, Side::Local, "there/in/a"),
        (V311, Side::Local, Side::Remote, "here/out/a"),
        (V5, Side::Local, Side::Remote, "here/out/a"),
    ] {
        for order in [[new, old], [old, new]] {
            let mut rig = Rig::new(options(version), &topics());
            rig.heard(old);
            for side in order {
                rig.connack_of(side, side == old, ConnAckProperties::default());
            }
            rig.answer();
            let said = rig.heard(old);
            let ends: Vec<_> = (1..=u16::MAX)
                .map(|it| format!("PUBREL {it} Success"))
                .collect();
            assert!(said.starts_with(&ends));
            assert!(!rig.heard(new).iter().any(|it| it.starts_with("PUBREL")));
            // Whether it knows them or not is nobody's matter.
            for identifier in 1..=u16::MAX {
                let identifier = PacketIdentifier::new(identifier).unwrap();
                let unknown = ReasonCode::PacketIdentifierNotFound;
                let ack = Acknowledgement::new(identifier, unknown);
                if identifier.get() > u16::MAX - 9 {
                    assert_ne!(rig.relay.orphans(), Orphans::default());
                }
                rig.say(old, Packet::PubComp(ack)).unwrap();
            }
            assert_eq!(rig.relay.orphans(), Orphans::default());
            assert!(rig.heard(new).is_empty());
            rig.publish(new, QoS::ExactlyOnce, name, b"");
            assert_eq!(rig.heard(old).len(), 1);
            let success = acknowledgement(ReasonCode::Success);
            rig.say(old, Packet::PubComp(success)).unwrap();
            assert_eq!(rig.heard(new), ["PUBCOMP 7 Success"]);
        }
    }
    // Where none is lost, or both are, nothing has to end.
    for session_present in [true, false] {
        let mut rig = Rig::new(options(V5), &topics());
        for side in [Side::Remote, Side::Local] {
            rig.connack_of(side, session_present, ConnAckProperties::default());
        }
        for side in [Side::Remote, Side::Local] {
            assert!(!rig.heard(side).iter().any(|it| it.starts_with("PUBREL")));
        }
    }
}

#[test]
fn a_broker_that_does_not_answer_for_exchanges_unknown_to_it_is_listened_to_all_the_same() {
    let mut rig = Rig::new(options(V311), &topics());
    rig.connack_of(Side::Remote, true, ConnAckProperties::default());
    rig.connack_of(Side::Local, false, ConnAckProperties::default());
    rig.answer();
    rig.heard(Side::Remote);
    rig.heard(Side::Local);
    rig.publish(Side::Local, QoS::ExactlyOnce, "both/x", b"");
    let success = acknowledgement(ReasonCode::Success);
    rig.say(Side::Remote, Packet::PubRec(success)).unwrap();
    rig.say(Side::Local, Packet::PubRel(success)).unwrap();
    rig.say(Side::Remote, Packet::PubComp(success)).unwrap();
    let said = ["PUBREC 7 Success", "PUBCOMP 7 Success"];
    assert_eq!(rig.heard(Side::Local), said);
}

#[test]
fn what_no_topic_has_is_acknowledged_and_told() {
    let mut rig = Rig::linked(options(V311), &topics());
    for (side, way, name) in [
        // Out only, and in only.
        (Side::Remote, Way::In, "there/out/a"),
        (Side::Local, Way::Out, "here/in/a"),
        (Side::Local, Way::Out, "elsewhere"),
    ] {
        for (qos, said) in [
            (QoS::AtMostOnce, None),
            (QoS::AtLeastOnce, Some("PUBACK 7 Success")),
            (QoS::ExactlyOnce, Some("PUBREC 7 Success")),
        ] {
            rig.publish(side, qos, name, b"x");
            assert_eq!(rig.heard(side), said.into_iter().collect::<Vec<_>>());
            let told = rig.events();
            assert!(
                matches!(&told[..], [Event::Dropped { way: it, topic_name, .. }]
                    if *it == way && topic_name == name),
                "{told:?}"
            );
        }
    }
    assert!(rig.heard(Side::Remote).is_empty() && rig.heard(Side::Local).is_empty());
}

#[test]
fn a_topic_that_cannot_be_called_that_on_the_other_side_is_told_for_what_it_is() {
    let deep = "x/".repeat(199) + "x";
    let long = "x".repeat(65_535);
    for (name, why) in [
        (deep.clone() + "/x/x/x", "its topic has"),
        (deep, "its topic there would be"),
        (long, "its topic there would be"),
    ] {
        let topics = [topic("#", Direction::In, "a/b/", "")];
        let mut rig = Rig::linked(options(V311), &topics);
        rig.publish(Side::Remote, QoS::AtLeastOnce, &name, b"");
        assert_eq!(rig.heard(Side::Remote), ["PUBACK 7 Success"]);
        assert!(rig.heard(Side::Local).is_empty());
        let told = rig.events();
        assert!(
            matches!(&told[..], [Event::Dropped { why: it, .. }] if it.starts_with(why)),
            "{told:?}"
        );
    }
}

#[test]
fn a_message_too_large_for_the_other_broker_is_passed_over_and_the_next_one_goes_on() {
    let large = vec![b'x'; 400_000];
    for pieces in [1_000_000, 70_000, 7] {
        for (side, other, name) in [
            (Side::Local, Side::Remote, "both/large"),
            (Side::Remote, Side::Local, "both/large"),
        ] {
            let mut options = options(V311);
            // What this broker takes is in its limits.
            options.packet_size_max = Some(100);
            let mut rig = Rig::linked(options, &topics());
            let mut bytes = publish_bytes(V311, QoS::AtLeastOnce, name, &large);
            bytes.extend(publish_bytes(V311, QoS::AtMostOnce, "both/small", b"y"));
            for piece in bytes.chunks(pieces) {
                rig.say_bytes(side, piece).unwrap();
            }
            assert_eq!(rig.heard(side), ["PUBACK 7 Success"]);
            assert_eq!(rig.heard(other), ["PUBLISH both/small q0 r0 0 y"]);
            let told = rig.events();
            assert!(matches!(&told[..], [Event::Dropped { topic_name, .. }] if topic_name == name));
        }
    }
}

#[test]
fn what_no_broker_would_have_to_say_is_not_waited_for_however_long_it_is() {
    // 256 MB of CONNACK, SUBACK and PUBLISH.
    for (is_linked, first_byte) in [(false, 0x20), (false, 0x30), (true, 0x90)] {
        let mut rig = match is_linked {
            true => Rig::linked(options(V311), &topics()),
            false => Rig::new(options(V311), &topics()),
        };
        let ended = rig.say_bytes(Side::Remote, &[first_byte, 0xff, 0xff, 0xff, 0x7f]);
        assert!(matches!(ended, Err(Ended::Malformed(Side::Remote, _))));
    }
}

#[test]
fn nothing_is_taken_from_a_broker_while_the_other_one_does_not_read() {
    let mut rig = Rig::linked(options(V311), &topics());
    let payload = vec![b'x'; 50_000];
    let mut sent = 0;
    while rig.relay.wants(Side::Local) {
        rig.publish(Side::Local, QoS::AtMostOnce, "both/x", &payload);
        sent += 1;
        assert!(sent < 100);
    }
    let waiting = rig.relay.output(Side::Remote).len();
    assert!(waiting < 400_000, "{waiting}");
    // What was on its way all the same waits unread.
    rig.publish(Side::Local, QoS::AtMostOnce, "both/last", b"");
    assert_eq!(rig.relay.output(Side::Remote).len(), waiting);
    assert!(rig.relay.wants(Side::Remote));
    assert!(!rig.relay.is_behind());
    assert_eq!(rig.heard(Side::Remote).len(), sent);
    // No socket would tell.
    assert!(rig.relay.is_behind());
    rig.relay.advance(rig.now).unwrap();
    assert!(!rig.relay.is_behind());
    assert_eq!(rig.heard(Side::Remote), ["PUBLISH both/last q0 r0 0 "]);
}

#[test]
fn a_broker_that_does_not_read_its_answers_is_not_listened_to_for_ever() {
    let mut bytes = publish_bytes(V311, QoS::AtLeastOnce, "elsewhere", b"");
    let ping = [0xc0, 0];
    for said in [&mut bytes[..], &mut ping.clone()] {
        let mut rig = Rig::linked(options(V311), &topics());
        let mut count = 0;
        while rig.relay.wants(Side::Remote) {
            rig.say_bytes(Side::Remote, said).unwrap();
            count += 1;
            assert!(count < 200_000);
        }
        let size = rig.relay.output(Side::Remote).len();
        assert!(size < 300_000, "{size}");
        rig.relay.handle_sent(Side::Remote, size, rig.now);
        assert!(rig.relay.wants(Side::Remote));
    }
}

#[test]
fn a_topic_alias_of_the_remote_broker_stands_for_its_topic() {
    let mut rig = Rig::linked(options(V5), &topics());
    let publish = |topic_name, alias| {
        Packet::Publish(Publish {
            duplicate: false,
            qos: QoS::AtMostOnce,
            retain: false,
            topic_name,
            packet_identifier: None,
            payload: b"x",
            properties: PublishProperties {
                topic_alias: NonZeroU16::new(alias),
                message_expiry_interval_s: None,
                forwarded: ForwardedProperties::default(),
                subscription_identifiers: SubscriptionIdentifiers::default(),
            },
        })
    };
    for (name, alias) in [("both/a", 2), ("", 2), ("both/b", 1), ("", 1), ("", 2)] {
        rig.say(Side::Remote, publish(name, alias)).unwrap();
    }
    // One that is passed over gives it a meaning as well.
    let large = vec![b'x'; LIMITS.packet_size_max as usize + 70_000];
    let mut bytes = Vec::new();
    let Packet::Publish(mut too_large) = publish("both/c", 2) else {
        unreachable!();
    };
    too_large.payload = &large;
    encode(&Packet::Publish(too_large), V5, &mut bytes);
    for piece in bytes.chunks(7) {
        rig.say_bytes(Side::Remote, piece).unwrap();
    }
    rig.say(Side::Remote, publish("", 2)).unwrap();
    let said = ["both/a", "both/a", "both/b", "both/b", "both/a", "both/c"];
    let said = said.map(|name| format!("PUBLISH {name} q0 r0 0 x"));
    assert_eq!(rig.heard(Side::Local), said);
    for (name, alias) in [("both/a", 3), ("", 3)] {
        let mut rig = Rig::linked(options(V5), &topics());
        let ended = rig.say(Side::Remote, publish(name, alias));
        assert!(matches!(ended, Err(Ended::Malformed(Side::Remote, _))));
    }
}

#[test]
fn a_remote_broker_that_says_nothing_is_asked_and_then_given_up() {
    let mut rig = Rig::linked(options(V311), &topics());
    let minute = Duration::from_secs(60);
    let deadline = rig.relay.deadline().unwrap();
    assert_eq!(deadline, rig.now + minute);
    rig.relay.handle_timeout(deadline).unwrap();
    assert_eq!(rig.heard(Side::Remote), ["PINGREQ"]);
    rig.now = deadline;
    rig.relay.handle_sent(Side::Remote, 2, rig.now);
    rig.say(Side::Remote, Packet::PingResp).unwrap();
    let deadline = rig.relay.deadline().unwrap();
    assert_eq!(deadline, rig.now + minute);
    rig.relay.handle_timeout(deadline).unwrap();
    let deadline = rig.relay.deadline().unwrap();
    let ended = rig.relay.handle_timeout(deadline);
    assert_eq!(ended, Err(Ended::Silent(Side::Remote)));
}

#[test]
fn subscriptions_that_are_refused_are_told_of_once_with_the_first_filter() {
    let topics: Vec<_> = (0..200)
        .map(|it| topic(&format!("t{it}"), Direction::In, "", ""))
        .collect();
    let mut rig = Rig::new(options(V311), &topics);
    rig.connack(Side::Remote, ConnAckProperties::default());
    rig.connack(Side::Local, ConnAckProperties::default());
    rig.events();
    for identifier in 1..=200 {
        assert!(rig.events().is_empty());
        let codes = [match identifier {
            1 => ReasonCode::GrantedQoS1,
            _ => ReasonCode::UnspecifiedError,
        }];
        let identifier = PacketIdentifier::new(identifier).unwrap();
        let suback = Packet::SubAck(SubAck::new(identifier, &codes));
        rig.say(Side::Remote, suback).unwrap();
    }
    let told = [Event::Refused {
        way: Way::In,
        filter: "t1".to_owned(),
        reason_code: ReasonCode::UnspecifiedError,
        others: 198,
    }];
    assert_eq!(rig.events(), told);
}

/// [MQTT-2.2.1-3]
#[test]
fn this_broker_is_not_listened_to_while_the_remote_one_has_questions_to_answer() {
    let mut rig = Rig::new(options(V311), &topics());
    rig.connack(Side::Remote, ConnAckProperties::default());
    rig.connack(Side::Local, ConnAckProperties::default());
    rig.relay.output(Side::Remote).clear();
    assert!(!rig.relay.wants(Side::Local));
    rig.publish(Side::Local, QoS::AtLeastOnce, "both/x", b"");
    assert!(rig.heard(Side::Remote).is_empty());
    rig.answer();
    assert!(rig.relay.wants(Side::Local));
    rig.relay.advance(rig.now).unwrap();
    assert_eq!(rig.heard(Side::Remote), ["PUBLISH both/x q1 r0 7 "]);
}

#[test]
fn a_remote_broker_that_does_not_answer_is_published_to_after_a_while_all_the_same() {
    let mut rig = Rig::new(options(V311), &topics());
    rig.connack(Side::Remote, ConnAckProperties::default());
    rig.connack(Side::Local, ConnAckProperties::default());
    let deadline = rig.relay.deadline().unwrap();
    assert!(deadline < rig.now + Duration::from_secs(30));
    rig.relay.handle_timeout(deadline).unwrap();
    assert!(rig.relay.wants(Side::Local));
}

#[test]
fn what_the_remote_broker_does_not_take_is_not_sent_to_it() {
    let mut rig = Rig::new(options(V5), &topics());
    let properties = ConnAckProperties {
        maximum_qos: Some(QoS::AtLeastOnce),
        retain_available: Some(false),
        ..ConnAckProperties::default()
    };
    rig.connack(Side::Remote, properties);
    rig.connack(Side::Local, ConnAckProperties::default());
    let said = rig.heard(Side::Remote);
    assert!(said.contains(&"SUBSCRIBE both/#:1".to_owned()), "{said:?}");
    let said = rig.heard(Side::Local);
    assert!(
        said.contains(&"SUBSCRIBE here/out/#:1 both/#:1".to_owned()),
        "{said:?}"
    );
    rig.answer();
    // [MQTT-3.2.2-14]
    let mut retained = publish_bytes(V5, QoS::AtMostOnce, "both/x", b"");
    retained[0] |= 1;
    rig.say_bytes(Side::Local, &retained).unwrap();
    assert_eq!(rig.heard(Side::Remote), ["PUBLISH both/x q0 r0 0 "]);
}

/// [MQTT-3.2.2-11]
#[test]
fn what_waited_for_a_remote_broker_of_a_lower_qos_goes_to_it_with_that() {
    let success = acknowledgement(ReasonCode::Success);
    for maximum_qos in [QoS::AtLeastOnce, QoS::AtMostOnce] {
        let mut rig = Rig::new(options(V5), &topics());
        let properties = ConnAckProperties {
            maximum_qos: Some(maximum_qos),
            ..ConnAckProperties::default()
        };
        rig.connack(Side::Remote, properties);
        rig.connack(Side::Local, ConnAckProperties::default());
        rig.answer();
        for side in [Side::Remote, Side::Local] {
            rig.heard(side);
        }
        let mut again = publish_bytes(V5, QoS::ExactlyOnce, "both/x", b"");
        again[0] |= 0b1000;
        rig.say_bytes(Side::Local, &again).unwrap();
        if maximum_qos == QoS::AtLeastOnce {
            assert_eq!(rig.heard(Side::Remote), ["PUBLISH both/x q1 r0 7 "]);
            assert!(rig.heard(Side::Local).is_empty());
            rig.say(Side::Remote, Packet::PubAck(success)).unwrap();
        } else {
            assert_eq!(rig.heard(Side::Remote), ["PUBLISH both/x q0 r0 0 "]);
        }
        assert_eq!(rig.heard(Side::Local), ["PUBREC 7 Success"]);
        rig.say(Side::Local, Packet::PubRel(success)).unwrap();
        assert_eq!(rig.heard(Side::Local), ["PUBCOMP 7 Success"]);
        // One of QoS 1, with the same Packet Identifier.
        rig.publish(Side::Local, QoS::AtLeastOnce, "both/x", b"");
        if maximum_qos == QoS::AtLeastOnce {
            rig.say(Side::Remote, Packet::PubAck(success)).unwrap();
        }
        assert_eq!(rig.heard(Side::Local), ["PUBACK 7 Success"]);
        assert!(!rig.heard(Side::Remote).concat().contains("PUBREL"));
        assert!(
            !rig.events()
                .iter()
                .any(|it| matches!(it, Event::Dropped { .. }))
        );
    }
}

#[test]
fn whatever_a_broker_says_ends_the_connection_at_most() {
    let mut state = 7_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..5_000 {
        let mut rig = Rig::linked(options(V5), &topics());
        let side = if random() % 2 == 0 {
            Side::Remote
        } else {
            Side::Local
        };
        let mut bytes = publish_bytes(V5, QoS::AtLeastOnce, "both/x", b"payload");
        for _ in 0..random() % 4 {
            let index = random() as usize % bytes.len();
            bytes[index] = random() as u8;
        }
        bytes.truncate(random() as usize % (bytes.len() + 1));
        let _ = rig.say_bytes(side, &bytes);
        let _ = rig.say_bytes(side, &[random() as u8, random() as u8, 0, 1]);
    }
}
