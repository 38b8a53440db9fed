//! Reason Codes in words, as Mosquitto's clients print them.

#![forbid(unsafe_code)]

use crate::codec::ReasonCode;
use crate::message::ProtocolVersion;

/// What a CONNACK, an acknowledgement or a DISCONNECT says.
///
/// MQTT 3.x has return codes of CONNACK only, and words of their own for them.
pub fn describe(code: ReasonCode, version: ProtocolVersion) -> &'static str {
    if version.is_v5() {
        return describe_v5(code);
    }
    match code.as_connect_return_code() {
        0 => "Connection Accepted.",
        1 => "Connection Refused: unacceptable protocol version.",
        2 => "Connection Refused: identifier rejected.",
        3 => "Connection Refused: broker unavailable.",
        4 => "Connection Refused: bad user name or password.",
        _ => "Connection Refused: not authorised.",
    }
}

fn describe_v5(code: ReasonCode) -> &'static str {
    match code {
        ReasonCode::Success => "Success",
        ReasonCode::GrantedQoS1 => "Granted QoS 1",
        ReasonCode::GrantedQoS2 => "Granted QoS 2",
        ReasonCode::DisconnectWithWillMessage => "Disconnect with Will Message",
        ReasonCode::NoMatchingSubscribers => "No matching subscribers",
        ReasonCode::NoSubscriptionExisted => "No subscription existed",
        ReasonCode::ContinueAuthentication => "Continue authentication",
        ReasonCode::Reauthenticate => "Re-authenticate",
        ReasonCode::UnspecifiedError => "Unspecified error",
        ReasonCode::MalformedPacket => "Malformed Packet",
        ReasonCode::ProtocolError => "Protocol Error",
        ReasonCode::ImplementationSpecificError => "Implementation specific error",
        ReasonCode::UnsupportedProtocolVersion => "Unsupported Protocol Version",
        ReasonCode::ClientIdentifierNotValid => "Client Identifier not valid",
        ReasonCode::BadUserNameOrPassword => "Bad User Name or Password",
        ReasonCode::NotAuthorized => "Not authorized",
        ReasonCode::ServerUnavailable => "Server unavailable",
        ReasonCode::ServerBusy => "Server busy",
        ReasonCode::Banned => "Banned",
        ReasonCode::ServerShuttingDown => "Server shutting down",
        ReasonCode::BadAuthenticationMethod => "Bad authentication method",
        ReasonCode::KeepAliveTimeout => "Keep Alive timeout",
        ReasonCode::SessionTakenOver => "Session taken over",
        ReasonCode::TopicFilterInvalid => "Topic Filter invalid",
        ReasonCode::TopicNameInvalid => "Topic Name invalid",
        ReasonCode::PacketIdentifierInUse => "Packet Identifier in use",
        ReasonCode::PacketIdentifierNotFound => "Packet Identifier not found",
        ReasonCode::ReceiveMaximumExceeded => "Receive Maximum exceeded",
        ReasonCode::TopicAliasInvalid => "Topic Alias invalid",
        ReasonCode::PacketTooLarge => "Packet too large",
        ReasonCode::MessageRateTooHigh => "Message rate too high",
        ReasonCode::QuotaExceeded => "Quota exceeded",
        ReasonCode::AdministrativeAction => "Administrative action",
        ReasonCode::PayloadFormatInvalid => "Payload format invalid",
        ReasonCode::RetainNotSupported => "Retain not supported",
        ReasonCode::QoSNotSupported => "QoS not supported",
        ReasonCode::UseAnotherServer => "Use another server",
        ReasonCode::ServerMoved => "Server moved",
        ReasonCode::SharedSubscriptionsNotSupported => "Shared Subscriptions not supported",
        ReasonCode::ConnectionRateExceeded => "Connection rate exceeded",
        ReasonCode::MaximumConnectTime => "Maximum connect time",
        ReasonCode::SubscriptionIdentifiersNotSupported => "Subscription identifiers not supported",
        ReasonCode::WildcardSubscriptionsNotSupported => "Wildcard Subscriptions not supported",
    }
}
