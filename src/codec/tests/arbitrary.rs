//! Arbitrary legal packets of every kind and version.
//!
//! A packet borrows what it is made of. What is generated here is leaked instead of carried along:
//! some megabytes in a test process, for strategies that read like the packets.

use std::num::{NonZeroU16, NonZeroU32};

use proptest::collection::vec;
use proptest::option::of;
use proptest::prelude::*;

use super::*;
use crate::message::QoS;

fn leak<T>(values: Vec<T>) -> &'static [T] {
    Box::leak(values.into_boxed_slice())
}

fn text() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => "[ -~é€😀]{0,12}", 1 => "[a-z]{120,300}"]
        .prop_map(|text: String| &*Box::leak(text.into_boxed_str()))
}

fn topic_name() -> impl Strategy<Value = &'static str> {
    prop_oneof![9 => "[a-z/$ é😀]{1,24}", 1 => "[a-z/]{100,200}"]
        .prop_map(|text: String| &*Box::leak(text.into_boxed_str()))
}

fn topic_filter() -> impl Strategy<Value = &'static str> {
    "[a-z/+#$]{1,24}".prop_map(|text: String| &*Box::leak(text.into_boxed_str()))
}

fn binary() -> impl Strategy<Value = &'static [u8]> {
    prop_oneof![9 => vec(any::<u8>(), 0..20), 1 => vec(any::<u8>(), 0..400)].prop_map(leak)
}

fn qos() -> impl Strategy<Value = QoS> {
    (0..3_u8).prop_map(|bits| QoS::from_bits(bits).unwrap())
}

fn packet_identifier() -> impl Strategy<Value = PacketIdentifier> {
    (1..=u16::MAX).prop_map(pid)
}

fn user_properties() -> impl Strategy<Value = UserProperties<'static>> {
    vec((text(), text()), 0..3).prop_map(|pairs| UserProperties::new(leak(pairs)))
}

fn subscription_identifier() -> impl Strategy<Value = NonZeroU32> {
    prop_oneof![1..200_u32, 1..=268_435_455_u32].prop_map(|value| NonZeroU32::new(value).unwrap())
}

fn forwarded() -> impl Strategy<Value = ForwardedProperties<'static>> {
    (
        of(any::<bool>()),
        of(text()),
        of(topic_name()),
        of(binary()),
        user_properties(),
    )
        .prop_map(
            |(payload_is_utf8, content_type, response_topic, correlation_data, user_properties)| {
                let mut bytes = Vec::new();
                ForwardedFields {
                    payload_is_utf8,
                    content_type,
                    response_topic,
                    correlation_data,
                    user_properties,
                }
                .encode(&mut bytes);
                ForwardedProperties::from_encoded(leak(bytes))
            },
        )
}

/// `strategy` for MQTT 5.0, nothing for MQTT 3.x.
fn v5_only<T: Clone + Default + std::fmt::Debug + 'static>(
    version: ProtocolVersion,
    strategy: impl Strategy<Value = T> + 'static,
) -> BoxedStrategy<T> {
    if version.is_v5() {
        strategy.boxed()
    } else {
        Just(T::default()).boxed()
    }
}

fn reason_code(
    version: ProtocolVersion,
    legal: &'static [ReasonCode],
) -> BoxedStrategy<ReasonCode> {
    v5_only(version, proptest::sample::select(legal))
}

fn publish(version: ProtocolVersion) -> impl Strategy<Value = Publish<'static>> {
    let properties = (
        of((1..=u16::MAX).prop_map(|value| NonZeroU16::new(value).unwrap())),
        of(any::<u32>()),
        forwarded(),
        vec(subscription_identifier(), 0..4),
    )
        .prop_map(
            |(topic_alias, message_expiry_interval_s, forwarded, identifiers)| PublishProperties {
                topic_alias,
                message_expiry_interval_s,
                forwarded,
                subscription_identifiers: SubscriptionIdentifiers::new(leak(identifiers)),
            },
        );
    (
        any::<bool>(),
        qos(),
        any::<bool>(),
        topic_name(),
        any::<bool>(),
        packet_identifier(),
        binary(),
        v5_only(version, properties),
    )
        .prop_map(
            |(
                duplicate,
                qos,
                retain,
                topic_name,
                no_topic,
                packet_identifier,
                payload,
                properties,
            )| {
                let acknowledged = qos != QoS::AtMostOnce;
                Publish {
                    duplicate: duplicate && acknowledged,
                    qos,
                    retain,
                    topic_name: if no_topic && properties.topic_alias.is_some() {
                        ""
                    } else {
                        topic_name
                    },
                    packet_identifier: acknowledged.then_some(packet_identifier),
                    payload,
                    properties,
                }
            },
        )
}

fn will(version: ProtocolVersion) -> impl Strategy<Value = Will<'static>> {
    (
        qos(),
        any::<bool>(),
        topic_name(),
        binary(),
        v5_only(version, any::<u32>()),
        v5_only(version, of(any::<u32>())),
        v5_only(version, forwarded()),
    )
        .prop_map(
            |(
                qos,
                retain,
                topic_name,
                payload,
                delay_interval_s,
                message_expiry_interval_s,
                properties,
            )| Will {
                qos,
                retain,
                topic_name,
                payload,
                delay_interval_s,
                message_expiry_interval_s,
                properties,
            },
        )
}

fn authentication() -> impl Strategy<Value = (Option<&'static str>, Option<&'static [u8]>)> {
    of((text(), of(binary()))).prop_map(|both| match both {
        Some((method, data)) => (Some(method), data),
        None => (None, None),
    })
}

fn connect(version: ProtocolVersion) -> impl Strategy<Value = Connect<'static>> {
    let properties = (
        of(any::<u32>()),
        any::<u16>(),
        any::<u32>(),
        any::<u16>(),
        any::<(bool, bool)>(),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(
                session_expiry_interval,
                receive,
                size,
                topic_alias_maximum,
                request,
                user_properties,
                auth,
            )| {
                ConnectProperties {
                    session_expiry_interval,
                    receive_maximum: NonZeroU16::new(receive),
                    maximum_packet_size: NonZeroU32::new(size),
                    topic_alias_maximum,
                    request_response_information: request.0,
                    request_problem_information: request.1,
                    user_properties,
                    authentication_method: auth.0,
                    authentication_data: auth.1,
                }
            },
        );
    (
        any::<bool>(),
        any::<u16>(),
        text(),
        of(text()),
        of(binary()),
        of(will(version)),
        v5_only(version, properties),
        any::<bool>(),
    )
        .prop_map(
            move |(
                clean_start,
                keep_alive_s,
                client_identifier,
                username,
                password,
                will,
                properties,
                is_bridge,
            )| {
                Connect {
                    version,
                    is_bridge: is_bridge && !version.is_v5(),
                    clean_start,
                    keep_alive_s,
                    client_identifier,
                    username,
                    password: password.filter(|_| username.is_some() || version.is_v5()),
                    will,
                    properties,
                }
            },
        )
}

fn connack(version: ProtocolVersion) -> impl Strategy<Value = ConnAck<'static>> {
    let flags = (
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
        of(any::<bool>()),
    );
    let texts = (of(text()), of(text()), of(text()), of(text()));
    let numbers = (
        of(any::<u32>()),
        of(any::<u16>()),
        of(any::<u16>()),
        any::<u16>(),
        any::<u32>(),
    );
    let properties = (
        flags,
        texts,
        numbers,
        any::<Option<bool>>(),
        user_properties(),
        authentication(),
    )
        .prop_map(
            |(flags, texts, numbers, qos, user_properties, auth)| ConnAckProperties {
                session_expiry_interval: numbers.0,
                receive_maximum: NonZeroU16::new(numbers.3),
                maximum_qos: qos.and_then(|one| QoS::from_bits(u8::from(one))),
                retain_available: flags.0,
                maximum_packet_size: NonZeroU32::new(numbers.4),
                assigned_client_identifier: texts.0,
                topic_alias_maximum: numbers.1,
                reason_string: texts.1,
                user_properties,
                wildcard_subscription_available: flags.1,
                subscription_identifiers_available: flags.2,
                shared_subscription_available: flags.3,
                server_keep_alive_s: numbers.2,
                response_information: texts.2,
                server_reference: texts.3,
                authentication_method: auth.0,
                authentication_data: auth.1,
            },
        );
    let code = proptest::sample::select(&[
        ReasonCode::Success,
        ReasonCode::UnsupportedProtocolVersion,
        ReasonCode::ClientIdentifierNotValid,
        ReasonCode::ServerUnavailable,
        ReasonCode::BadUserNameOrPassword,
        ReasonCode::NotAuthorized,
    ]);
    (any::<bool>(), code, v5_only(version, properties)).prop_map(
        move |(session_present, reason_code, properties)| ConnAck {
            session_present: session_present && reason_code == ReasonCode::Success && version != V3,
            reason_code,
            properties,
        },
    )
}

fn acknowledgement(
    version: ProtocolVersion,
    legal: &'static [ReasonCode],
) -> impl Strategy<Value = Acknowledgement<'static>> {
    (
        packet_identifier(),
        reason_code(version, legal),
        v5_only(version, of(text())),
        v5_only(version, user_properties()),
    )
        .prop_map(
            |(packet_identifier, reason_code, reason_string, user_properties)| Acknowledgement {
                packet_identifier,
                reason_code,
                reason_string,
                user_properties,
            },
        )
}

fn subscription_options(version: ProtocolVersion) -> impl Strategy<Value = SubscriptionOptions> {
    let handling = proptest::sample::select(&[
        RetainHandling::Send,
        RetainHandling::SendIfNew,
        RetainHandling::DoNotSend,
    ]);
    (
        qos(),
        v5_only(version, any::<bool>()),
        v5_only(version, any::<bool>()),
        v5_only(version, handling),
    )
        .prop_map(|(qos, no_local, retain_as_published, retain_handling)| {
            SubscriptionOptions {
                qos,
                no_local,
                retain_as_published,
                retain_handling,
            }
        })
}

fn subscribe(version: ProtocolVersion) -> impl Strategy<Value = Subscribe<'static>> {
    let filter =
        (topic_filter(), subscription_options(version)).prop_map(|(filter, mut options)| {
            options.no_local &= !filter.starts_with("$share/");
            (filter, options)
        });
    (
        packet_identifier(),
        vec(filter, 1..5),
        v5_only(version, of(subscription_identifier())),
        v5_only(version, user_properties()),
    )
        .prop_map(
            |(packet_identifier, filters, subscription_identifier, user_properties)| {
                let mut subscribe = Subscribe::new(packet_identifier, leak(filters));
                subscribe.subscription_identifier = subscription_identifier;
                subscribe.user_properties = user_properties;
                subscribe
            },
        )
}

fn unsubscribe(version: ProtocolVersion) -> impl Strategy<Value = Unsubscribe<'static>> {
    (
        packet_identifier(),
        vec(topic_filter(), 1..5),
        v5_only(version, user_properties()),
    )
        .prop_map(|(packet_identifier, filters, user_properties)| {
            let mut unsubscribe = Unsubscribe::new(packet_identifier, leak(filters));
            unsubscribe.user_properties = user_properties;
            unsubscribe
        })
}

fn suback(version: ProtocolVersion) -> impl Strategy<Value = SubAck<'static>> {
    let codes = proptest::sample::select(&[
        ReasonCode::Success,
        ReasonCode::GrantedQoS1,
        ReasonCode::GrantedQoS2,
        ReasonCode::UnspecifiedError,
    ]);
    (
        packet_identifier(),
        vec(codes, 1..5),
        v5_only(version, of(text())),
        v5_only(version, user_properties()),
    )
        .prop_map(
            |(packet_identifier, codes, reason_string, user_properties)| SubAck {
                reason_string,
                user_properties,
                ..SubAck::new(packet_identifier, leak(codes))
            },
        )
}

fn unsuback(version: ProtocolVersion) -> impl Strategy<Value = UnsubAck<'static>> {
    let codes = proptest::sample::select(&[ReasonCode::Success, ReasonCode::NoSubscriptionExisted]);
    (
        packet_identifier(),
        v5_only(version, vec(codes, 1..5)),
        v5_only(version, of(text())),
        v5_only(version, user_properties()),
    )
        .prop_map(
            |(packet_identifier, codes, reason_string, user_properties)| UnsubAck {
                reason_string,
                user_properties,
                ..UnsubAck::new(packet_identifier, leak(codes))
            },
        )
}

fn disconnect(version: ProtocolVersion) -> impl Strategy<Value = Disconnect<'static>> {
    let code = reason_code(
        version,
        &[
            ReasonCode::Success,
            ReasonCode::DisconnectWithWillMessage,
            ReasonCode::SessionTakenOver,
        ],
    );
    (
        code,
        v5_only(version, of(any::<u32>())),
        v5_only(version, of(text())),
        v5_only(version, of(text())),
        v5_only(version, user_properties()),
    )
        .prop_map(
            |(
                reason_code,
                session_expiry_interval,
                reason_string,
                server_reference,
                user_properties,
            )| {
                Disconnect {
                    reason_code,
                    session_expiry_interval,
                    reason_string,
                    server_reference,
                    user_properties,
                }
            },
        )
}

fn auth() -> impl Strategy<Value = Auth<'static>> {
    let code = proptest::sample::select(&[
        ReasonCode::Success,
        ReasonCode::ContinueAuthentication,
        ReasonCode::Reauthenticate,
    ]);
    let auth = (code, text(), of(binary()), of(text()), user_properties()).prop_map(
        |(reason_code, method, authentication_data, reason_string, user_properties)| Auth {
            reason_code,
            authentication_method: Some(method),
            authentication_data,
            reason_string,
            user_properties,
        },
    );
    prop_oneof![1 => Just(Auth::default()), 9 => auth]
}

pub(super) fn version() -> impl Strategy<Value = ProtocolVersion> {
    proptest::sample::select(&[V3, V311, V5])
}

/// Any packet that `version` can express.
pub(super) fn packet(version: ProtocolVersion) -> BoxedStrategy<Packet<'static>> {
    const PUBACK: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::QuotaExceeded];
    const PUBREL: &[ReasonCode] = &[ReasonCode::Success, ReasonCode::PacketIdentifierNotFound];
    let any_version = prop_oneof![
        3 => publish(version).prop_map(Packet::Publish),
        1 => connect(version).prop_map(Packet::Connect),
        1 => connack(version).prop_map(Packet::ConnAck),
        1 => acknowledgement(version, PUBACK).prop_map(Packet::PubAck),
        1 => acknowledgement(version, PUBACK).prop_map(Packet::PubRec),
        1 => acknowledgement(version, PUBREL).prop_map(Packet::PubRel),
        1 => acknowledgement(version, PUBREL).prop_map(Packet::PubComp),
        1 => subscribe(version).prop_map(Packet::Subscribe),
        1 => suback(version).prop_map(Packet::SubAck),
        1 => unsubscribe(version).prop_map(Packet::Unsubscribe),
        1 => unsuback(version).prop_map(Packet::UnsubAck),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::PingResp),
        1 => disconnect(version).prop_map(Packet::Disconnect),
    ];
    if version.is_v5() {
        prop_oneof![14 => any_version, 1 => auth().prop_map(Packet::Auth)].boxed()
    } else {
        any_version.boxed()
    }
}
