//! Single situations, scripted: what a Client sends, how time passes, what each Client hears.
//!
//! Each runs on one shard and on three, where most Clients connect to a shard that is not theirs.

#![forbid(unsafe_code)]

mod access;
mod crossing;
mod delivery;
mod disk;
mod ending;
mod runs;
mod sessions;
mod spread;
mod stored;
mod subscriptions;

use std::num::{NonZeroU16, NonZeroU32};
use std::time::Duration;

use super::world::{WireId, World};
use crate::codec::{
    self, Acknowledgement, Connect, Disconnect, ForwardedProperties, Packet, Publish,
    PublishProperties, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe, Will,
};
use crate::key::PacketIdentifier;
use crate::limits::{Limits, PACKET_SIZE_MAX};
use crate::message::{ProtocolVersion, QoS};
use crate::policy::Settings;

const Q0: QoS = QoS::AtMostOnce;
const Q1: QoS = QoS::AtLeastOnce;
const Q2: QoS = QoS::ExactlyOnce;

/// Rounds within which everything comes to rest.
const ROUNDS: usize = 10_000;

/// One connection of a Client of the script.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Link {
    wire: WireId,
    version: ProtocolVersion,
}

/// A broker and what its Clients have received so far.
struct Bench {
    world: World,
    opened: usize,
    /// By connection, bytes of packets that are not complete.
    partial: Vec<Vec<u8>>,
    limits: Limits,
}

/// Runs a script on one shard and on three.
fn on_shards(script: impl Fn(&mut Bench)) {
    on_shards_with(&Limits::default(), script);
}

fn on_shards_with(limits: &Limits, script: impl Fn(&mut Bench)) {
    for shards in [1, 3] {
        script(&mut Bench::new(shards, limits));
    }
}

fn v5(client_identifier: &str) -> Connect<'_> {
    Connect::new(ProtocolVersion::V5, client_identifier)
}

fn v311(client_identifier: &str) -> Connect<'_> {
    Connect::new(ProtocolVersion::V311, client_identifier)
}

/// A v5 CONNECT that resumes a Session, which is to last.
fn lasting(client_identifier: &str) -> Connect<'_> {
    let mut connect = v5(client_identifier);
    connect.clean_start = false;
    connect.properties.session_expiry_interval = Some(3600);
    connect
}

fn will<'a>(topic_name: &'a str, delay_interval_s: u32) -> Option<Will<'a>> {
    Some(Will {
        qos: Q1,
        retain: false,
        topic_name,
        payload: b"gone",
        delay_interval_s,
        message_expiry_interval_s: None,
        properties: ForwardedProperties::default(),
    })
}

fn identifier(value: u16) -> PacketIdentifier {
    PacketIdentifier::new(value).expect("not zero")
}

fn message<'a>(topic_name: &'a str, payload: &'a str, qos: QoS, id: u16) -> Publish<'a> {
    Publish {
        duplicate: false,
        qos,
        retain: false,
        topic_name,
        packet_identifier: PacketIdentifier::new(id).filter(|_| qos != Q0),
        payload: payload.as_bytes(),
        properties: PublishProperties::default(),
    }
}

fn puback(id: u16) -> Packet<'static> {
    Packet::PubAck(Acknowledgement::new(identifier(id), ReasonCode::Success))
}

fn pubrec(id: u16) -> Packet<'static> {
    Packet::PubRec(Acknowledgement::new(identifier(id), ReasonCode::Success))
}

fn pubrel(id: u16) -> Packet<'static> {
    Packet::PubRel(Acknowledgement::new(identifier(id), ReasonCode::Success))
}

fn pubcomp(id: u16) -> Packet<'static> {
    Packet::PubComp(Acknowledgement::new(identifier(id), ReasonCode::Success))
}

fn options(qos: QoS) -> SubscriptionOptions {
    SubscriptionOptions::new(qos)
}

impl Bench {
    fn new(shards: usize, limits: &Limits) -> Self {
        Self {
            world: World::new(shards, Settings::permissive(limits.clone()), 7, 64, 1 << 16),
            opened: 0,
            partial: Vec::new(),
            limits: limits.clone(),
        }
    }

    /// Connects and returns the connection, before the answer is read.
    fn open(&mut self, connect: Connect<'_>) -> Link {
        let wire = self.world.open(self.opened % self.world.shard_count());
        self.opened += 1;
        self.partial.push(Vec::new());
        let link = Link {
            wire,
            version: connect.version,
        };
        self.send(link, &Packet::Connect(connect));
        link
    }

    /// Connects, successfully.
    fn connect(&mut self, connect: Connect<'_>) -> Link {
        let link = self.open(connect);
        let heard = self.hear(link);
        assert!(heard[0].starts_with("connack Success"), "{heard:?}");
        link
    }

    /// Connects and returns what is heard, CONNACK included.
    fn connect_and_hear(&mut self, connect: Connect<'_>) -> (Link, Vec<String>) {
        let link = self.open(connect);
        let heard = self.hear(link);
        (link, heard)
    }

    /// Sends without letting the broker work.
    fn push(&mut self, link: Link, packet: &Packet<'_>) {
        let mut bytes = Vec::new();
        codec::encode(packet, link.version, &mut bytes);
        self.world.send(link.wire, &bytes);
    }

    fn send(&mut self, link: Link, packet: &Packet<'_>) {
        self.push(link, packet);
        self.settle();
    }

    fn settle(&mut self) {
        assert!(self.world.settle(ROUNDS), "the broker comes to rest");
    }

    fn publish(&mut self, link: Link, topic: &str, payload: &str, qos: QoS, id: u16) {
        self.send(link, &Packet::Publish(message(topic, payload, qos, id)));
    }

    fn retain(&mut self, link: Link, topic: &str, payload: &str) {
        let publish = Publish {
            retain: true,
            ..message(topic, payload, Q0, 0)
        };
        self.send(link, &Packet::Publish(publish));
    }

    /// Subscribes and returns what is heard from SUBACK on.
    fn subscribe(&mut self, link: Link, filter: &str, options: SubscriptionOptions) -> Vec<String> {
        self.subscribe_with_identifier(link, filter, options, None)
    }

    fn subscribe_with_identifier(
        &mut self,
        link: Link,
        filter: &str,
        options: SubscriptionOptions,
        subscription_identifier: Option<u32>,
    ) -> Vec<String> {
        let filters = [(filter, options)];
        let mut subscribe = Subscribe::new(identifier(9), &filters);
        subscribe.subscription_identifier = subscription_identifier.and_then(NonZeroU32::new);
        self.send(link, &Packet::Subscribe(subscribe));
        self.hear(link)
    }

    fn unsubscribe(&mut self, link: Link, filter: &str) -> Vec<String> {
        let filters = [filter];
        self.send(
            link,
            &Packet::Unsubscribe(Unsubscribe::new(identifier(8), &filters)),
        );
        self.hear(link)
    }

    fn disconnect(&mut self, link: Link, reason_code: ReasonCode) {
        self.push(link, &Packet::Disconnect(Disconnect::new(reason_code)));
        self.world.close(link.wire);
        self.settle();
    }

    /// The network loses the connection.
    fn lose(&mut self, link: Link) {
        self.world.close(link.wire);
        self.settle();
    }

    fn pass(&mut self, seconds: f64) {
        self.world.pass(Duration::from_secs_f64(seconds));
        self.settle();
    }

    /// What the Client has received since it last listened.
    fn hear(&mut self, link: Link) -> Vec<String> {
        let mut heard = Vec::new();
        loop {
            self.settle();
            let bytes = self.world.receive(link.wire, usize::MAX);
            if bytes.is_empty() {
                break;
            }
            self.partial[link.wire].extend(bytes);
        }
        let buffer = std::mem::take(&mut self.partial[link.wire]);
        let mut rest = buffer.as_slice();
        while let Ok(Some(header)) = codec::decode_fixed_header(rest, PACKET_SIZE_MAX)
            && let Some(body) = rest.get(header.header_size..header.total_size())
        {
            let packet = codec::decode(link.version, header.first_byte, body).expect("well-formed");
            heard.push(tell(&packet));
            rest = &rest[header.total_size()..];
        }
        self.partial[link.wire] = rest.to_vec();
        if self.world.is_ended(link.wire) {
            heard.push("closed".to_owned());
        }
        heard
    }

    /// Payloads of the PUBLISH packets heard.
    fn hear_payloads(&mut self, link: Link) -> Vec<String> {
        let heard = self.hear(link).into_iter();
        heard
            .filter(|it| it.starts_with("publish"))
            .filter_map(|it| it.split_once('=').map(|(_, rest)| rest.to_owned()))
            .map(|it| it.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }
}

/// A packet in few words.
fn tell(packet: &Packet<'_>) -> String {
    let answer = |name: &str, ack: &Acknowledgement<'_>| {
        let id = ack.packet_identifier.get();
        match ack.reason_code {
            ReasonCode::Success => format!("{name} #{id}"),
            reason_code => format!("{name} #{id} {reason_code:?}"),
        }
    };
    match packet {
        Packet::ConnAck(connack) => {
            let present = if connack.session_present {
                " present"
            } else {
                ""
            };
            format!("connack {:?}{present}", connack.reason_code)
        }
        Packet::Publish(publish) => {
            let mut text = format!("publish q{}", publish.qos as u8);
            if let Some(id) = publish.packet_identifier {
                text += &format!(" #{}", id.get());
            }
            let payload = String::from_utf8_lossy(publish.payload);
            text += &format!(" {}={payload}", publish.topic_name);
            for (is_set, flag) in [(publish.duplicate, " dup"), (publish.retain, " retain")] {
                text += if is_set { flag } else { "" };
            }
            if let Some(alias) = publish.properties.topic_alias {
                text += &format!(" alias {alias}");
            }
            if let Some(seconds) = publish.properties.message_expiry_interval_s {
                text += &format!(" expiry {seconds}");
            }
            let identifiers: Vec<_> = publish.properties.subscription_identifiers.iter().collect();
            if !identifiers.is_empty() {
                text += &format!(" ids {identifiers:?}");
            }
            text
        }
        Packet::PubAck(ack) => answer("puback", ack),
        Packet::PubRec(ack) => answer("pubrec", ack),
        Packet::PubRel(ack) => answer("pubrel", ack),
        Packet::PubComp(ack) => answer("pubcomp", ack),
        Packet::SubAck(suback) => {
            format!(
                "suback {:?}",
                suback.reason_codes.iter().collect::<Vec<_>>()
            )
        }
        Packet::UnsubAck(unsuback) => {
            format!(
                "unsuback {:?}",
                unsuback.reason_codes.iter().collect::<Vec<_>>()
            )
        }
        Packet::PingResp => "pingresp".to_owned(),
        Packet::Disconnect(disconnect) => format!("disconnect {:?}", disconnect.reason_code),
        other => format!("{other:?}"),
    }
}

fn window(receive_maximum: u16) -> Option<NonZeroU16> {
    NonZeroU16::new(receive_maximum)
}
