//! What happened on a shard, in Mosquitto's words.
//!
//! Those of its version 2.0 for Clients that had a Session, which is what people's filters look for;
//! for connections that never had one those of 2.1, because 2.0 does not say where they came from.

#![forbid(unsafe_code)]

use super::kind::Kind;
use crate::codec::{DecodeError, ReasonCode};
use crate::message::ProtocolVersion;
use crate::origin::PeerAddress;
use crate::session::ProtocolError;
use crate::shard::{DisconnectCause, Event, RefusalCause};
use crate::shown::Sanitised;
use std::fmt::Write;

/// Whether `connection_messages false` keeps it out of the log.
pub(super) fn is_connection_message(event: &Event) -> bool {
    matches!(
        event,
        Event::Accepted { .. }
            | Event::Denied { .. }
            | Event::Connected { .. }
            | Event::Disconnected { .. }
            | Event::Refused { .. }
    )
}

/// Puts `event` into words and says what kind of line that is. `ports` are those of the listeners.
pub(super) fn describe(event: &Event, ports: &[u16], out: &mut String) -> Kind {
    let mut kind = Kind::Notice;
    // Writing to a `String` does not fail.
    let _ = match event {
        Event::Accepted { peer, listener } => {
            let port = ports.get(listener.index()).copied().unwrap_or_default();
            write!(out, "New connection from {peer} on port {port}.")
        }
        Event::Denied { peer } => {
            let address = match peer {
                PeerAddress::Ip(address, _) => address.to_canonical().to_string(),
                PeerAddress::Local => peer.to_string(),
            };
            write!(
                out,
                "Client connection from {address} denied: max_connections exceeded."
            )
        }
        Event::Connected {
            client_identifier,
            peer,
            version,
            is_bridge,
            clean_start,
            keep_alive_s,
            username,
        } => {
            // Mosquitto numbers protocols in the order in which it learned them.
            let protocol = match version {
                ProtocolVersion::V3 => 1,
                ProtocolVersion::V311 => 2,
                ProtocolVersion::V5 => 5,
            };
            let what = if *is_bridge { "bridge" } else { "client" };
            let client = Sanitised(client_identifier);
            let clean = u8::from(*clean_start);
            let _ = write!(
                out,
                "New {what} connected from {peer} as {client} (p{protocol}, c{clean}, k{keep_alive_s}"
            );
            match username {
                Some(username) => write!(out, ", u'{}').", Sanitised(username)),
                None => write!(out, ")."),
            }
        }
        Event::Disconnected {
            client_identifier,
            cause,
            ..
        } => {
            let client = Sanitised(client_identifier);
            match disconnected(*cause) {
                Words::Whole(words) => write!(out, "Client {client} {words}"),
                Words::Reason(reason) => write!(out, "Client {client} disconnected: {reason}."),
            }
        }
        Event::Refused {
            client_identifier,
            peer,
            cause,
        } => {
            let why = match cause {
                RefusalCause::Closed => "connection closed by client",
                RefusalCause::Protocol(error) => broken(*error),
                RefusalCause::NotConnect => "protocol error",
                RefusalCause::Refused(code) => reason(*code),
            };
            match client_identifier {
                Some(client) => {
                    let client = Sanitised(client);
                    write!(out, "Client {client} [{peer}] disconnected: {why}.")
                }
                None => write!(out, "Client {peer} disconnected: {why}."),
            }
        }
        Event::Subscribed {
            client_identifier,
            topic_filter,
            reason_code,
        } => {
            kind = Kind::Subscribe;
            let (client, filter) = (Sanitised(client_identifier), Sanitised(topic_filter));
            write!(out, "{client} {} {filter}", reason_code.as_u8())
        }
        Event::Unsubscribed {
            client_identifier,
            topic_filter,
        } => {
            kind = Kind::Unsubscribe;
            let (client, filter) = (Sanitised(client_identifier), Sanitised(topic_filter));
            write!(out, "{client} {filter}")
        }
        Event::Received {
            client_identifier,
            name,
            packet_identifier,
        } => {
            kind = Kind::Debug;
            let client = Sanitised(client_identifier);
            match packet_identifier {
                Some(number) => write!(out, "Received {name} from {client} (Mid: {number})"),
                None => write!(out, "Received {name} from {client}"),
            }
        }
        Event::Published {
            client_identifier,
            topic_name,
            duplicate,
            packet_identifier,
            qos,
            retain,
            payload_size,
            refused,
        } => {
            kind = Kind::Debug;
            let what = match refused {
                Some(_) => "Denied",
                None => "Received",
            };
            let (client, topic) = (Sanitised(client_identifier), Sanitised(topic_name));
            let (duplicate, qos, retain) = (u8::from(*duplicate), *qos as u8, u8::from(*retain));
            // Zero is none, as Mosquitto has it.
            let identifier = packet_identifier.map_or(0, |it| it.get());
            write!(
                out,
                "{what} PUBLISH from {client} (d{duplicate}, q{qos}, r{retain}, m{identifier}, '{topic}', \
                 ... ({payload_size} bytes))"
            )
        }
    };
    kind
}

/// The rest of a sentence that begins with the Client.
enum Words {
    Whole(&'static str),
    Reason(&'static str),
}

fn disconnected(cause: DisconnectCause) -> Words {
    Words::Whole(match cause {
        DisconnectCause::Client(_) => "disconnected.",
        DisconnectCause::Closed => "closed its connection.",
        DisconnectCause::Protocol(ProtocolError::KeepAliveTimeout) => {
            "has exceeded timeout, disconnecting."
        }
        DisconnectCause::Protocol(ProtocolError::Decode(DecodeError::PacketTooLarge {
            ..
        }))
        | DisconnectCause::Server(ReasonCode::PacketTooLarge) => {
            "disconnected due to oversize packet."
        }
        DisconnectCause::Protocol(ProtocolError::Decode(_)) => {
            "disconnected due to malformed packet."
        }
        DisconnectCause::Protocol(error @ ProtocolError::ReceiveMaximumExceeded { .. }) => {
            return Words::Reason(reason(error.reason_code()));
        }
        DisconnectCause::Protocol(_) => "disconnected due to protocol error.",
        DisconnectCause::Server(code) => match code {
            ReasonCode::SessionTakenOver => "already connected, closing old connection.",
            ReasonCode::NotAuthorized => "disconnected, not authorised.",
            ReasonCode::AdministrativeAction => "been disconnected by administrative action.",
            ReasonCode::QoSNotSupported | ReasonCode::RetainNotSupported => {
                "disconnected due to QoS too high or retain not supported."
            }
            code => return Words::Reason(reason(code)),
        },
    })
}

fn broken(error: ProtocolError) -> &'static str {
    match error {
        ProtocolError::Decode(DecodeError::PacketTooLarge { .. }) => "oversize packet",
        ProtocolError::Decode(_) => "malformed packet",
        ProtocolError::KeepAliveTimeout | ProtocolError::ConnectTimeout => "exceeded timeout",
        _ => "protocol error",
    }
}

fn reason(code: ReasonCode) -> &'static str {
    match code {
        ReasonCode::MalformedPacket => "malformed packet",
        ReasonCode::ProtocolError => "protocol error",
        ReasonCode::ImplementationSpecificError => "implementation specific error",
        ReasonCode::UnsupportedProtocolVersion => "unacceptable protocol version",
        ReasonCode::ClientIdentifierNotValid => "client identifier not valid",
        // A guesser learns the same from both, in the log as on the wire.
        ReasonCode::BadUserNameOrPassword | ReasonCode::NotAuthorized => "not authorised",
        ReasonCode::ServerUnavailable => "server unavailable",
        ReasonCode::ServerBusy => "server busy",
        ReasonCode::Banned => "client banned",
        ReasonCode::ServerShuttingDown => "server shutting down",
        ReasonCode::BadAuthenticationMethod => "bad authentication method",
        ReasonCode::KeepAliveTimeout => "exceeded timeout",
        ReasonCode::SessionTakenOver => "session taken over",
        ReasonCode::ReceiveMaximumExceeded => "receive maximum exceeded",
        ReasonCode::TopicAliasInvalid => "topic alias invalid",
        ReasonCode::PacketTooLarge => "oversize packet",
        ReasonCode::QuotaExceeded => "quota exceeded",
        ReasonCode::AdministrativeAction => "administrative action",
        ReasonCode::QoSNotSupported | ReasonCode::RetainNotSupported => {
            "QoS too high or retain not supported"
        }
        ReasonCode::ConnectionRateExceeded => "connection rate exceeded",
        _ => "unknown reason",
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::key::PacketIdentifier;
    use crate::origin::ListenerId;
    use std::sync::Arc;

    fn peer() -> PeerAddress {
        PeerAddress::Ip([192, 0, 2, 7].into(), 35658)
    }

    fn line(event: &Event) -> String {
        let mut out = String::new();
        assert_eq!(describe(event, &[1883, 8883], &mut out), Kind::Notice);
        out
    }

    fn ended(cause: DisconnectCause) -> String {
        line(&Event::Disconnected {
            client_identifier: Arc::from("subber"),
            peer: peer(),
            cause,
        })
    }

    fn refused(client: Option<&str>, cause: RefusalCause) -> String {
        line(&Event::Refused {
            client_identifier: client.map(Box::from),
            peer: peer(),
            cause,
        })
    }

    /// Each as Mosquitto 2.0.11 was seen to write it.
    #[test]
    fn connections_are_told_in_mosquitto_s_words() {
        let accepted = Event::Accepted {
            peer: peer(),
            listener: ListenerId(1),
        };
        assert_eq!(
            line(&accepted),
            "New connection from 192.0.2.7:35658 on port 8883."
        );
        let connected = |version, is_bridge, clean_start, keep_alive_s, username: Option<&str>| {
            line(&Event::Connected {
                client_identifier: Arc::from("subber"),
                peer: peer(),
                version,
                is_bridge,
                clean_start,
                keep_alive_s,
                username: username.map(Arc::from),
            })
        };
        assert_eq!(
            connected(ProtocolVersion::V5, false, false, 42, Some("joe")),
            "New client connected from 192.0.2.7:35658 as subber (p5, c0, k42, u'joe')."
        );
        assert_eq!(
            connected(ProtocolVersion::V311, false, true, 60, None),
            "New client connected from 192.0.2.7:35658 as subber (p2, c1, k60)."
        );
        assert_eq!(
            connected(ProtocolVersion::V311, true, false, 60, None),
            "New bridge connected from 192.0.2.7:35658 as subber (p2, c0, k60)."
        );
    }

    #[test]
    fn endings_are_told_in_mosquitto_s_words() {
        for (cause, expected) in [
            (
                DisconnectCause::Client(ReasonCode::Success),
                "Client subber disconnected.",
            ),
            (
                DisconnectCause::Closed,
                "Client subber closed its connection.",
            ),
            (
                DisconnectCause::Protocol(ProtocolError::KeepAliveTimeout),
                "Client subber has exceeded timeout, disconnecting.",
            ),
            (
                DisconnectCause::Protocol(ProtocolError::SecondConnect),
                "Client subber disconnected due to protocol error.",
            ),
            (
                DisconnectCause::Protocol(DecodeError::Truncated.into()),
                "Client subber disconnected due to malformed packet.",
            ),
            (
                DisconnectCause::Server(ReasonCode::SessionTakenOver),
                "Client subber already connected, closing old connection.",
            ),
            (
                DisconnectCause::Server(ReasonCode::NotAuthorized),
                "Client subber disconnected, not authorised.",
            ),
            (
                DisconnectCause::Server(ReasonCode::ServerShuttingDown),
                "Client subber disconnected: server shutting down.",
            ),
        ] {
            assert_eq!(ended(cause), expected);
        }
    }

    #[test]
    fn a_refusal_says_where_it_came_from() {
        assert_eq!(
            refused(
                Some("bad"),
                RefusalCause::Refused(ReasonCode::NotAuthorized)
            ),
            "Client bad [192.0.2.7:35658] disconnected: not authorised."
        );
        assert_eq!(
            refused(None, RefusalCause::Protocol(ProtocolError::ConnectTimeout)),
            "Client 192.0.2.7:35658 disconnected: exceeded timeout."
        );
        assert_eq!(
            refused(None, RefusalCause::NotConnect),
            "Client 192.0.2.7:35658 disconnected: protocol error."
        );
        assert_eq!(
            line(&Event::Denied { peer: peer() }),
            "Client connection from 192.0.2.7 denied: max_connections exceeded."
        );
    }

    #[test]
    fn subscriptions_and_messages_are_lines_of_their_own_kinds() {
        let client_identifier: std::sync::Arc<str> = "c".into();
        let subscribed = Event::Subscribed {
            client_identifier: client_identifier.clone(),
            topic_filter: "a/#".into(),
            reason_code: ReasonCode::GrantedQoS1,
        };
        let unsubscribed = Event::Unsubscribed {
            client_identifier: client_identifier.clone(),
            topic_filter: "a/#".into(),
        };
        let received = |name, packet_identifier| Event::Received {
            client_identifier: client_identifier.clone(),
            name,
            packet_identifier,
        };
        let published = |refused| Event::Published {
            client_identifier: client_identifier.clone(),
            topic_name: "a".into(),
            duplicate: true,
            packet_identifier: PacketIdentifier::new(7),
            qos: crate::message::QoS::AtLeastOnce,
            retain: true,
            payload_size: 3,
            refused,
        };
        for (event, kind, words) in [
            (subscribed, Kind::Subscribe, "c 1 a/#"),
            (unsubscribed, Kind::Unsubscribe, "c a/#"),
            (
                received("PINGREQ", None),
                Kind::Debug,
                "Received PINGREQ from c",
            ),
            (
                received("PUBREL", Some(7)),
                Kind::Debug,
                "Received PUBREL from c (Mid: 7)",
            ),
            (
                published(None),
                Kind::Debug,
                "Received PUBLISH from c (d1, q1, r1, m7, 'a', ... (3 bytes))",
            ),
            (
                published(Some(ReasonCode::NotAuthorized)),
                Kind::Debug,
                "Denied PUBLISH from c (d1, q1, r1, m7, 'a', ... (3 bytes))",
            ),
        ] {
            let mut out = String::new();
            assert_eq!(describe(&event, &[], &mut out), kind);
            assert_eq!(out, words);
        }
    }

    #[test]
    fn a_client_identifier_cannot_forge_a_line() {
        let event = Event::Disconnected {
            client_identifier: Arc::from("a disconnected.\n1: Client b"),
            peer: peer(),
            cause: DisconnectCause::Closed,
        };
        assert_eq!(
            line(&event),
            "Client a disconnected.\\n1: Client b closed its connection."
        );
    }

    #[test]
    fn every_reason_to_refuse_has_words() {
        for &code in ReasonCode::ALL {
            if code as u8 >= 0x84 && reason(code) == "unknown reason" {
                // What only answers to SUBSCRIBE, PUBLISH or AUTH can say.
                assert!(
                    !matches!(code, ReasonCode::ServerBusy | ReasonCode::QuotaExceeded),
                    "{code:?}"
                );
            }
        }
    }
}
