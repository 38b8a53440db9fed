//! Control Packets from bytes and to bytes: MQTT 3.1, 3.1.1 and 5.0, both directions.
//!
//! One file for each packet. A decoded packet borrows from the bytes it came from.
//!
//! **Knows nothing of** Sessions, Clients and order: [`decode`] refuses what can be known to be wrong
//! from the bytes of one packet and its protocol version. Whether the packet may come now, and from
//! this side, is for the caller.
//!
//! # Always true
//! - No bytes make decoding panic.
//! - Decoding allocates nothing.
//! - What was decoded and is encoded again decodes to the same packet.
//!
//! Read next: `properties.rs` (which property is allowed where), `publish.rs` (the hot one),
//! `error.rs` (what can be wrong, and the Reason Code for it).

#![forbid(unsafe_code)]

mod acknowledgement;
mod auth;
mod connack;
mod connect;
mod disconnect;
mod error;
mod fixed_header;
mod forwarded_properties;
mod ping;
mod primitives;
mod properties;
mod publish;
mod reason_code;
mod suback;
mod subscribe;
mod subscription_identifiers;
mod topic_filters;
mod unsuback;
mod unsubscribe;
mod user_properties;

pub use acknowledgement::{
    Acknowledgement, encode_puback, encode_pubcomp, encode_pubrec, encode_pubrel,
};
pub use auth::Auth;
pub use connack::{ConnAck, ConnAckProperties, encode_connack};
pub use connect::{Connect, ConnectProperties, Will, connect_version};
pub use disconnect::{Disconnect, encode_disconnect};
pub use error::DecodeError;
pub use fixed_header::{FixedHeader, decode_fixed_header, packet_type};
pub use forwarded_properties::{ForwardedFields, ForwardedProperties};
pub use ping::{PINGREQ, PINGRESP};
pub use publish::{
    PlainPublish, Publish, PublishHeader, PublishProperties, decode_publish, encode_publish,
    encode_publish_head, publish_size,
};
pub use reason_code::ReasonCode;
pub use suback::{ReasonCodes, SubAck, encode_suback};
pub use subscribe::{RetainHandling, Subscribe, SubscriptionOptions};
pub use subscription_identifiers::{SubscriptionIdentifiers, SubscriptionIdentifiersIter};
pub use topic_filters::{FiltersHead, TopicFilters, decode_filters_head};
pub use unsuback::{UnsubAck, encode_unsuback};
pub use unsubscribe::Unsubscribe;
pub use user_properties::{UserProperties, UserPropertiesIter};

use crate::message::ProtocolVersion;

/// A Control Packet, borrowed from its bytes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Packet<'a> {
    /// A Client asks to be connected.
    Connect(Connect<'a>),
    /// The answer to CONNECT.
    ConnAck(ConnAck<'a>),
    /// An Application Message.
    Publish(Publish<'a>),
    /// A QoS 1 message was received.
    PubAck(Acknowledgement<'a>),
    /// A QoS 2 message was received, part 1.
    PubRec(Acknowledgement<'a>),
    /// A QoS 2 message was received, part 2.
    PubRel(Acknowledgement<'a>),
    /// A QoS 2 message was received, part 3.
    PubComp(Acknowledgement<'a>),
    /// A Client subscribes.
    Subscribe(Subscribe<'a>),
    /// The answer to SUBSCRIBE.
    SubAck(SubAck<'a>),
    /// A Client unsubscribes.
    Unsubscribe(Unsubscribe<'a>),
    /// The answer to UNSUBSCRIBE.
    UnsubAck(UnsubAck<'a>),
    /// A Client shows that it lives.
    PingReq,
    /// The answer to PINGREQ.
    PingResp,
    /// The last packet of a Network Connection.
    Disconnect(Disconnect<'a>),
    /// Enhanced authentication.
    Auth(Auth<'a>),
}

/// Reads the packet that consists of `first_byte` and, after its Remaining Length, `body`.
///
/// A CONNECT says its own version; `version` does not matter for it.
///
/// # Errors
/// [`DecodeError`] for everything that no state is needed to know.
pub fn decode(
    version: ProtocolVersion,
    first_byte: u8,
    body: &[u8],
) -> Result<Packet<'_>, DecodeError> {
    let packet_type = first_byte >> 4;
    if packet_type == packet_type::PUBLISH {
        return decode_publish(version, first_byte, body).map(Packet::Publish);
    }
    let flags_version = match packet_type {
        // It says itself what it is written in.
        packet_type::CONNECT => connect_version(body).unwrap_or(version),
        _ => version,
    };
    check_flags(flags_version, first_byte)?;
    let acknowledgement = || Acknowledgement::decode(version, packet_type, body);
    Ok(match packet_type {
        packet_type::CONNECT => Packet::Connect(Connect::decode(body)?),
        packet_type::CONNACK => Packet::ConnAck(ConnAck::decode(version, body)?),
        packet_type::PUBACK => Packet::PubAck(acknowledgement()?),
        packet_type::PUBREC => Packet::PubRec(acknowledgement()?),
        packet_type::PUBREL => Packet::PubRel(acknowledgement()?),
        packet_type::PUBCOMP => Packet::PubComp(acknowledgement()?),
        packet_type::SUBSCRIBE => Packet::Subscribe(Subscribe::decode(version, body)?),
        packet_type::SUBACK => Packet::SubAck(SubAck::decode(version, body)?),
        packet_type::UNSUBSCRIBE => Packet::Unsubscribe(Unsubscribe::decode(version, body)?),
        packet_type::UNSUBACK => Packet::UnsubAck(UnsubAck::decode(version, body)?),
        packet_type::PINGREQ if body.is_empty() => Packet::PingReq,
        packet_type::PINGRESP if body.is_empty() => Packet::PingResp,
        packet_type::PINGREQ | packet_type::PINGRESP => return Err(DecodeError::TrailingBytes),
        packet_type::DISCONNECT => Packet::Disconnect(Disconnect::decode(version, body)?),
        packet_type::AUTH if version.is_v5() => Packet::Auth(Auth::decode(body)?),
        _ => return Err(DecodeError::PacketType { packet_type }),
    })
}

/// Reads a PUBACK, PUBREC, PUBREL or PUBCOMP, as [`decode`] does, which has to move a [`Packet`] as
/// large as the largest one.
///
/// # Errors
/// [`DecodeError`] for everything that no state is needed to know, and for any other packet.
// HOT: per QoS 1 and 2 delivery.
#[inline]
pub fn decode_acknowledgement(
    version: ProtocolVersion,
    first_byte: u8,
    body: &[u8],
) -> Result<Acknowledgement<'_>, DecodeError> {
    let packet_type = first_byte >> 4;
    if !(packet_type::PUBACK..=packet_type::PUBCOMP).contains(&packet_type) {
        return Err(DecodeError::PacketType { packet_type });
    }
    check_flags(version, first_byte)?;
    Acknowledgement::decode(version, packet_type, body)
}

/// Flags of every packet but PUBLISH are fixed [MQTT-2.1.3-1]. What later versions call reserved is DUP and QoS in MQTT 3.1:
/// no packet but PUBLISH has a use for them, and Clients that do not set them as it says are served by Mosquitto.
#[inline]
fn check_flags(version: ProtocolVersion, first_byte: u8) -> Result<(), DecodeError> {
    let required = match first_byte >> 4 {
        packet_type::PUBREL | packet_type::SUBSCRIBE | packet_type::UNSUBSCRIBE => 0b0010,
        _ => 0,
    };
    if version == ProtocolVersion::V3 || first_byte & 0x0F == required {
        Ok(())
    } else {
        Err(DecodeError::FixedHeaderFlags { first_byte })
    }
}

/// Appends any packet, in its shortest form.
///
/// What `version` cannot express is left out: properties and Reason Codes in MQTT 3.x. A CONNECT is
/// written in its own version.
///
/// # Panics
/// If a string is longer than 65,535 bytes or the packet larger than 268,435,455.
pub fn encode(packet: &Packet<'_>, version: ProtocolVersion, out: &mut Vec<u8>) {
    match packet {
        Packet::Connect(connect) => connect.encode(out),
        Packet::ConnAck(connack) => encode_connack(version, connack, out),
        Packet::Publish(publish) => publish.encode(version, out),
        Packet::PubAck(ack) => ack.encode(version, acknowledgement::PUBACK_FIRST_BYTE, out),
        Packet::PubRec(ack) => ack.encode(version, acknowledgement::PUBREC_FIRST_BYTE, out),
        Packet::PubRel(ack) => ack.encode(version, acknowledgement::PUBREL_FIRST_BYTE, out),
        Packet::PubComp(ack) => ack.encode(version, acknowledgement::PUBCOMP_FIRST_BYTE, out),
        Packet::Subscribe(subscribe) => subscribe.encode(version, out),
        Packet::SubAck(suback) => suback.encode(version, out),
        Packet::Unsubscribe(unsubscribe) => unsubscribe.encode(version, out),
        Packet::UnsubAck(unsuback) => unsuback.encode(version, out),
        Packet::PingReq => out.extend_from_slice(&PINGREQ),
        Packet::PingResp => out.extend_from_slice(&PINGRESP),
        Packet::Disconnect(disconnect) => encode_disconnect(version, disconnect, out),
        Packet::Auth(auth) => auth.encode(out),
    }
}

#[cfg(test)]
mod tests;
