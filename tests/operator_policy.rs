//! What an operator may decide, one decision at a time, as Clients see it.

#[path = "support/hex.rs"]
mod hex;

use std::slice::from_ref;
use std::sync::Arc;
use std::time::Duration;

use fastmq::auth::{Acl, PasswordFile, Security};
use fastmq::codec::{self, ConnAck, Packet, ReasonCode};
use fastmq::key::ConnectionKey;
use fastmq::limits::Limits;
use fastmq::message::{ProtocolVersion, QoS};
use fastmq::metrics::{Counters, Snapshot};
use fastmq::origin::{CertificateIdentity, ListenerId, Origin};
use fastmq::policy::{ListenerPolicy, LogMask, Policy, ProtocolVersions, Settings};
use fastmq::shard::{Command, DisconnectCause, Event, Notice, RefusalCause, Verdict};

use hex::{Broker, bytes, hex};

/// Session Expiry Interval, one hour.
const HOUR: &str = "11 00000e10";

fn settings() -> Settings {
    Settings::permissive(Limits::default())
}

/// A broker whose only listener is as `change` makes it.
fn with_listener(change: impl FnOnce(&mut ListenerPolicy)) -> Broker {
    let mut settings = settings();
    change(&mut settings.listeners[0]);
    Broker::with_settings(settings)
}

/// A broker whose policy is as `change` makes it.
fn with_policy(change: impl FnOnce(&mut Policy)) -> Broker {
    let mut settings = settings();
    change(&mut settings.policy);
    Broker::with_settings(settings)
}

fn string(text: &str) -> String {
    format!("{:04x}{}", text.len(), hex(text.as_bytes()))
}

fn packet(first_byte: u8, body: &str) -> String {
    let size = bytes(body).len();
    assert!(size < 128, "one byte of Remaining Length");
    format!("{first_byte:02x}{size:02x}{body}")
}

/// A CONNECT without Keep Alive, its payload after the Client Identifier in `rest`.
fn connect(version: u8, flags: &str, properties: &str, name: &str, rest: &str) -> String {
    let protocol = if version == 3 { "MQIsdp" } else { "MQTT" };
    let properties = match version {
        5 => format!("{:02x}{properties}", bytes(properties).len()),
        _ => String::new(),
    };
    let body = format!(
        "{}{version:02x}{flags}0000{properties}{}{rest}",
        string(protocol),
        string(name)
    );
    packet(0x10, &body)
}

/// A v5 PUBLISH without properties; an identifier of zero is none.
fn publish(flags: u8, topic: &str, identifier: u16, payload: &str) -> String {
    publish_with(flags, topic, identifier, "", payload)
}

fn publish_with(
    flags: u8,
    topic: &str,
    identifier: u16,
    properties: &str,
    payload: &str,
) -> String {
    let identifier = match identifier {
        0 => String::new(),
        identifier => format!("{identifier:04x}"),
    };
    let size = bytes(properties).len();
    let body = format!(
        "{}{identifier}{size:02x}{properties}{}",
        string(topic),
        hex(payload.as_bytes())
    );
    packet(0x30 | flags, &body.replace(' ', ""))
}

/// A v5 SUBSCRIBE of one Topic Filter.
fn subscribe(filter: &str, options: &str) -> String {
    packet(0x82, &format!("000100{}{options}", string(filter)))
}

const QOS_0: u8 = 0;
const QOS_1: u8 = 2;
const QOS_2: u8 = 4;
const RETAIN: u8 = 1;

/// What a CONNACK says, as v5 unless it is told otherwise.
fn read_connack(output: &str, check: impl FnOnce(ConnAck<'_>)) {
    let output = bytes(output);
    assert!(output.len() > 2, "no CONNACK");
    let size = usize::from(output[1]);
    match codec::decode(ProtocolVersion::V5, output[0], &output[2..2 + size]) {
        Ok(Packet::ConnAck(connack)) => check(connack),
        other => panic!("{other:?}"),
    }
}

impl Broker {
    /// A v5 Client with a Clean Start; its CONNACK is looked at by `check`.
    fn named(&mut self, name: &str, check: impl FnOnce(ConnAck<'_>)) -> ConnectionKey {
        let (client, connack) = self.connect(&connect(5, "02", "", name, ""));
        read_connack(&connack, check);
        client
    }

    fn client(&mut self, name: &str) -> ConnectionKey {
        self.named(name, |connack| {
            assert_eq!(connack.reason_code, ReasonCode::Success, "{name}");
        })
    }

    fn refused(&mut self, connect: &str) -> ReasonCode {
        let (client, connack) = self.connect(connect);
        assert!(self.is_closed(client));
        let mut reason_code = ReasonCode::Success;
        read_connack(&connack, |connack| reason_code = connack.reason_code);
        reason_code
    }

    fn client_at(&mut self, origin: Origin, name: &str) -> ConnectionKey {
        let client = self.shard.handle_accept(origin, self.now).expect("room");
        let connack = self.send(client, &connect(5, "02", "", name, ""));
        assert!(
            connack.starts_with("20") && &connack[6..8] == "00",
            "{name}: {connack}"
        );
        client
    }

    /// Events since the last call.
    fn events(&mut self) -> Vec<Event> {
        let notices = std::mem::take(&mut self.effects.notices);
        let event = |notice| match notice {
            Notice::Log(event) => Some(*event),
            _ => None,
        };
        notices.into_iter().filter_map(event).collect()
    }

    /// What an in-flight password check is answered.
    fn answer(&mut self, verdict: Verdict) -> (ConnectionKey, String) {
        let request = self
            .effects
            .notices
            .drain(..)
            .find_map(|notice| match notice {
                Notice::Authenticate(request) => Some(request),
                _ => None,
            });
        let request = request.expect("somebody is asked");
        let connection = request.connection;
        let verdict = Command::Authenticated {
            connection,
            verdict,
            security: request.security,
        };
        self.shard
            .handle_command(verdict, self.now, &mut self.effects);
        assert!(self.effects.resumed.contains(&connection));
        (connection, request.username.to_string())
    }
}

// --- maximum QoS and retained messages ---

/// [MQTT-3.2.2-9] [MQTT-3.2.2-11]
#[test]
fn a_publish_above_the_maximum_qos_ends_the_connection_and_reaches_nobody() {
    let mut broker = with_listener(|listener| listener.max_qos = QoS::AtLeastOnce);
    let watcher = broker.named("w", |connack| {
        assert_eq!(connack.properties.maximum_qos, Some(QoS::AtLeastOnce));
    });
    // What it subscribes to is granted as far as the listener goes [MQTT-3.2.2-10].
    assert_eq!(broker.send(watcher, &subscribe("t", "02")), "900400010001");
    let client = broker.client("c");
    assert_eq!(
        broker.send(client, &publish(QOS_1, "t", 1, "x")),
        "40020001"
    );
    assert_eq!(broker.receive(watcher), publish(QOS_1, "t", 1, "x"));
    assert_eq!(broker.send(client, &publish(QOS_2, "t", 2, "y")), "e0019b");
    assert!(broker.is_closed(client));
    assert_eq!(broker.receive(watcher), "");
}

/// [MQTT-3.2.2-12]
#[test]
fn a_will_above_the_maximum_qos_is_refused_with_its_connect() {
    let mut broker = with_listener(|listener| listener.max_qos = QoS::AtMostOnce);
    let will = |flags: &str| connect(5, flags, "", "c", "00 0001 74 0001 78");
    assert_eq!(broker.refused(&will("0e")), ReasonCode::QoSNotSupported);
    let (client, connack) = broker.connect(&will("06"));
    read_connack(&connack, |connack| {
        assert_eq!(connack.properties.maximum_qos, Some(QoS::AtMostOnce));
    });
    assert!(!broker.is_closed(client));
}

/// Its Client learns of Maximum Packet Size from CONNACK, but nothing that is larger comes in with a CONNECT.
#[test]
fn a_connect_larger_than_any_packet_may_be_ends_its_connection_and_its_will_goes_nowhere() {
    let mut broker = with_policy(|policy| policy.limits.max_packet_size = 64);
    let watcher = broker.client("w");
    broker.send(watcher, &subscribe("t", "00"));
    for version in [3, 4, 5] {
        let will = |size: usize| {
            let properties = if version == 5 { "00" } else { "" };
            let rest = format!("{properties} {} {}", string("t"), string(&"x".repeat(size)));
            connect(version, "06", "", "c", &rest)
        };
        let fits = 64 - bytes(&will(0)).len();
        let (client, connack) = broker.connect(&will(fits));
        assert!(connack.starts_with("20"), "{version}: {connack}");
        assert!(!broker.is_closed(client), "{version}");
        broker.send(client, "e000");
        let (client, connack) = broker.connect(&will(fits + 1));
        assert_eq!(connack, "", "{version}");
        assert!(broker.is_closed(client), "{version}");
    }
    assert_eq!(broker.receive(watcher), "");
}

/// [MQTT-3.2.2-13] [MQTT-3.2.2-14]
#[test]
fn without_retained_messages_a_retained_publish_or_will_is_refused() {
    let mut broker = with_policy(|policy| policy.retain_available = false);
    let client = broker.named("c", |connack| {
        assert_eq!(connack.properties.retain_available, Some(false));
    });
    assert_eq!(
        broker.send(client, &publish(QOS_1, "t", 1, "x")),
        "4003000110"
    );
    assert_eq!(
        broker.send(client, &publish(QOS_0 | RETAIN, "t", 0, "x")),
        "e0019a"
    );
    assert!(broker.is_closed(client));
    let will = connect(5, "26", "", "w", "00 0001 74 0001 78");
    assert_eq!(broker.refused(&will), ReasonCode::RetainNotSupported);
    let reader = broker.client("r");
    assert_eq!(broker.send(reader, &subscribe("#", "00")), "900400010000");
}

#[test]
fn a_listener_without_limits_says_nothing_of_them() {
    let mut broker = Broker::new();
    broker.named("c", |connack| {
        assert_eq!(connack.properties.maximum_qos, None);
        assert_eq!(connack.properties.retain_available, None);
        assert_eq!(connack.properties.server_keep_alive_s, None);
    });
}

// --- who may connect ---

#[test]
fn a_listener_speaks_the_versions_it_is_told_and_refuses_the_others_in_their_words() {
    for version in [3_u8, 4, 5] {
        let all = [
            ProtocolVersion::V3,
            ProtocolVersion::V311,
            ProtocolVersion::V5,
        ];
        let only = all.into_iter().find(|&it| it as u8 == version).unwrap();
        let mut broker = with_listener(|listener| {
            listener.accept_protocol_versions = ProtocolVersions::NONE.with(only);
        });
        for other in [3, 4, 5] {
            let (client, connack) = broker.connect(&connect(other, "02", "", "c", ""));
            let accepted = other == version;
            assert_eq!(
                broker.is_closed(client),
                !accepted,
                "{other} where {version}"
            );
            let code = match other {
                _ if accepted => "00",
                5 => "84",
                _ => "01",
            };
            assert_eq!(&connack[6..8], code, "{other} where {version}: {connack}");
        }
    }
}

#[test]
fn client_identifiers_without_the_prefix_are_not_authorized() {
    let mut broker = with_policy(|policy| policy.clientid_prefixes = Some("dev-".into()));
    broker.client("dev-1");
    let refused = |name| connect(5, "02", "", name, "");
    assert_eq!(broker.refused(&refused("ops-1")), ReasonCode::NotAuthorized);
    assert_eq!(broker.refused(&refused("dev")), ReasonCode::NotAuthorized);
}

/// [MQTT-3.1.3-6] [MQTT-3.2.2-16]
#[test]
fn a_made_up_identifier_begins_with_the_prefix_and_is_told() {
    let mut broker = with_listener(|listener| listener.auto_id_prefix = "here-".into());
    let mut names = Vec::new();
    for _ in 0..2 {
        broker.named("", |connack| {
            let name = connack.properties.assigned_client_identifier;
            names.push(name.expect("a name").to_owned());
        });
    }
    assert!(names.iter().all(|name| name.starts_with("here-")));
    assert_ne!(names[0], names[1]);
}

#[test]
fn no_identifier_is_made_up_where_that_is_not_allowed() {
    let mut broker = with_listener(|listener| listener.allow_zero_length_clientid = false);
    let refused = connect(5, "02", "", "", "");
    assert_eq!(
        broker.refused(&refused),
        ReasonCode::ClientIdentifierNotValid
    );
    let (_, connack) = broker.connect(&connect(4, "02", "", "", ""));
    assert_eq!(connack, "20020002");
}

#[test]
fn the_user_name_replaces_the_client_identifier_where_it_should() {
    let mut broker = with_listener(|listener| listener.use_username_as_clientid = true);
    let user = format!("82 {}", string("bob")).replace(' ', "");
    let bob = connect(5, &user[..2], "", "one", &user[2..]);
    let (first, connack) = broker.connect(&bob);
    read_connack(&connack, |it| {
        assert_eq!(it.reason_code, ReasonCode::Success)
    });
    // The same Client, whatever it calls itself [MQTT-3.1.4-3].
    let (second, _) = broker.connect(&connect(5, "82", "", "two", &string("bob")));
    assert_eq!(broker.receive(first), "e0018e");
    assert!(broker.is_closed(first) && !broker.is_closed(second));
    let nobody = connect(5, "02", "", "three", "");
    assert_eq!(broker.refused(&nobody), ReasonCode::NotAuthorized);
}

#[test]
fn the_certificate_names_the_user_where_it_should_and_is_required_there() {
    let acl = "user alice\ntopic write a\nuser CN=alice,O=x\ntopic write b\n";
    let certificate = || {
        Some(Box::new(CertificateIdentity {
            common_name: Some("alice".into()),
            subject: "CN=alice,O=x".into(),
        }))
    };
    for (whole_subject, may, may_not) in [(false, "a", "b"), (true, "b", "a")] {
        let mut broker = with_listener(|listener| {
            listener.allow_anonymous = false;
            listener.use_identity_as_username = !whole_subject;
            listener.use_subject_as_username = whole_subject;
            listener.security = security(None, Some(acl));
        });
        let origin = Origin {
            certificate: certificate(),
            ..Origin::default()
        };
        let client = broker.client_at(origin, "c");
        // No subscribers, and not authorized.
        assert_eq!(
            broker.send(client, &publish(QOS_1, may, 1, "x")),
            "4003000110"
        );
        assert_eq!(
            broker.send(client, &publish(QOS_1, may_not, 2, "x")),
            "4003000287"
        );
        let without = connect(5, "82", "", "d", &string("alice"));
        assert_eq!(broker.refused(&without), ReasonCode::BadUserNameOrPassword);
    }
}

// --- how many ---

#[test]
fn a_listener_takes_as_many_connections_as_it_may_and_one_more_when_one_leaves() {
    let mut settings = settings();
    settings.listeners.push(settings.listeners[0].clone());
    settings.listeners[0].max_connections = Some(1);
    settings.policy.log = LogMask::CONNECTIONS;
    let mut broker = Broker::with_settings(settings);
    let first = broker.client("a");
    broker.events();
    assert!(
        broker
            .shard
            .handle_accept(Origin::default(), broker.now)
            .is_none()
    );
    broker.pass(0);
    let peer = Origin::default().peer;
    assert_eq!(broker.events(), [Event::Denied { peer }]);
    let other = Origin {
        listener: ListenerId(1),
        ..Origin::default()
    };
    broker.client_at(other, "b");
    broker.lose(first);
    broker.client("a");
}

#[test]
fn the_broker_takes_as_many_connections_and_sessions_as_it_may() {
    let mut broker = with_policy(|policy| {
        policy.global_max_connections = Some(2);
        policy.global_max_clients = Some(2);
    });
    let (stays, _) = broker.connect(&connect(5, "02", HOUR, "a", ""));
    let clean = broker.client("b");
    assert!(
        broker
            .shard
            .handle_accept(Origin::default(), broker.now)
            .is_none()
    );
    // A connection is free, but what it left behind is not.
    broker.lose(stays);
    assert_eq!(
        broker.refused(&connect(5, "02", "", "c", "")),
        ReasonCode::ServerBusy
    );
    let refused = broker.effects.closes.pop().unwrap();
    broker.shard.forget(refused);
    // A Client that takes no CONNACK is not sent one [MQTT-3.1.2-24].
    let takes_four_bytes = connect(5, "02", "27 00000004", "d", "");
    let (refused, answer) = broker.connect(&takes_four_bytes);
    assert_eq!(answer, "");
    assert_eq!(broker.effects.closes.pop(), Some(refused));
    broker.shard.forget(refused);
    broker.lose(clean);
    broker.client("c");
}

/// A Will waits in the memory that messages wait in, until it is published, forgotten or replaced.
#[test]
fn a_client_whose_will_finds_no_memory_is_refused_until_others_are_over() {
    let mut broker = with_policy(|policy| policy.limits.memory_bytes_max = 10);
    // Topic t, and as much payload; with a delay of a second, and a Session that outlasts it.
    let will = |name: &str, size: usize| {
        let payload = string(&"x".repeat(size));
        connect(
            5,
            "06",
            HOUR,
            name,
            &("05 18 00000001 0001 74".to_owned() + &payload),
        )
    };
    let will_bytes = |broker: &Broker| {
        let mut snapshot = Snapshot::default();
        broker.shard.show(&mut snapshot);
        snapshot.gauges.will_bytes
    };
    assert_eq!(broker.refused(&will("a", 11)), ReasonCode::QuotaExceeded);
    let (a, _) = broker.connect(&will("a", 6));
    assert_eq!(will_bytes(&broker), 7);
    assert_eq!(broker.refused(&will("b", 4)), ReasonCode::QuotaExceeded);
    assert_eq!(will_bytes(&broker), 7);
    let (b, _) = broker.connect(&will("b", 2));
    assert_eq!(will_bytes(&broker), 10);
    broker.send(b, "e000");
    assert_eq!(will_bytes(&broker), 7, "forgotten");
    broker.lose(a);
    assert_eq!(will_bytes(&broker), 7, "not due yet");
    broker.pass(1);
    assert_eq!(will_bytes(&broker), 0, "published");
    let (a, _) = broker.connect(&will("a", 8));
    assert_eq!(will_bytes(&broker), 9);
    broker.lose(a);
    broker.connect(&connect(5, "02", "", "a", ""));
    assert_eq!(will_bytes(&broker), 0, "replaced by none");
}

// --- what a connection may ask for ---

/// [MQTT-3.3.2-9]
#[test]
fn topic_aliases_go_as_far_as_the_listener_says_each_way() {
    let mut broker = with_listener(|listener| {
        listener.max_topic_alias = 1;
        listener.max_topic_alias_broker = 2;
    });
    // Topic Alias Maximum 9.
    let (watcher, connack) = broker.connect(&connect(5, "02", "22 0009", "w", ""));
    read_connack(&connack, |it| {
        assert_eq!(it.properties.topic_alias_maximum, Some(1))
    });
    broker.send(watcher, &subscribe("#", "00"));
    let client = broker.client("c");
    for topic in ["a", "b", "c"] {
        broker.send(client, &publish(QOS_0, topic, 0, "x"));
    }
    let expected = [
        publish_with(QOS_0, "a", 0, "23 0001", "x"),
        publish_with(QOS_0, "b", 0, "23 0002", "x"),
        publish(QOS_0, "c", 0, "x"),
    ];
    assert_eq!(broker.receive(watcher), expected.concat());
    broker.send(client, &publish_with(QOS_0, "a", 0, "23 0001", "y"));
    assert!(!broker.is_closed(client));
    assert_eq!(
        broker.send(client, &publish_with(QOS_0, "a", 0, "23 0002", "y")),
        "e00194"
    );
}

/// [MQTT-3.3.2-12] What a PUBLISH says of an alias holds though the rules take it nowhere.
#[test]
fn a_topic_alias_stands_for_its_topic_though_nobody_may_publish_there() {
    let mut broker = Broker::with_settings(guarded("topic read #\ntopic open\n"));
    let watcher = broker.client("w");
    broker.send(watcher, &subscribe("#", "00"));
    let client = broker.client("c");
    let send = |broker: &mut Broker, topic, alias| {
        broker.send(client, &publish_with(QOS_1, topic, 1, alias, "x"))
    };
    assert_eq!(send(&mut broker, "open", "23 0001"), "40020001");
    assert_eq!(send(&mut broker, "secret", "23 0002"), "4003000187");
    assert_eq!(send(&mut broker, "", "23 0002"), "4003000187");
    assert_eq!(send(&mut broker, "", "23 0001"), "40020001");
    let heard = broker.receive(watcher);
    assert_eq!(heard, publish(QOS_0, "open", 0, "x").repeat(2));
}

/// [MQTT-3.2.2-21]
#[test]
fn a_longer_keep_alive_than_the_operators_is_replaced_or_refused() {
    let mut broker = with_policy(|policy| policy.limits.max_keepalive_s = 10);
    // Zero would be for ever.
    let client = broker.named("c", |connack| {
        assert_eq!(connack.properties.server_keep_alive_s, Some(10));
    });
    broker.pass(14);
    assert!(!broker.is_closed(client));
    broker.pass(1);
    assert_eq!(broker.receive(client), "e0018d");
    // Earlier versions cannot be told another.
    let (_, connack) = broker.connect(&connect(4, "02", "", "d", ""));
    assert_eq!(connack, "20020002");
}

#[test]
fn a_payload_above_the_limit_is_acknowledged_and_goes_nowhere() {
    let mut broker = with_policy(|policy| policy.message_size_limit = 2);
    let watcher = broker.client("w");
    broker.send(watcher, &subscribe("t", "00"));
    let client = broker.client("c");
    assert_eq!(
        broker.send(client, &publish(QOS_1, "t", 1, "abc")),
        "4003000183"
    );
    assert_eq!(
        broker.send(client, &publish(QOS_2, "t", 2, "abc")),
        "5003000283"
    );
    assert_eq!(broker.receive(watcher), "");
    assert_eq!(
        broker.send(client, &publish(QOS_1, "t", 3, "ab")),
        "40020003"
    );
    assert_eq!(broker.receive(watcher), publish(QOS_0, "t", 0, "ab"));
    let will = connect(5, "06", "", "d", "00 0001 74 0003 616263");
    assert_eq!(broker.refused(&will), ReasonCode::PacketTooLarge);
    assert_eq!(broker.shard.counters().dropped_payload_too_large, 2);
}

// --- delivery ---

#[test]
fn an_upgraded_qos_is_that_of_the_subscription_for_live_and_retained_messages() {
    for (upgrade, expected) in [(false, QOS_0), (true, QOS_1)] {
        let mut broker = with_policy(|policy| policy.upgrade_outgoing_qos = upgrade);
        let watcher = broker.client("w");
        broker.send(watcher, &subscribe("t", "01"));
        let client = broker.client("c");
        broker.send(client, &publish(QOS_0 | RETAIN, "t", 0, "x"));
        let identifier = u16::from(upgrade);
        assert_eq!(
            broker.receive(watcher),
            publish(expected, "t", identifier, "x")
        );
        let late = broker.client("l");
        let retained = publish(expected | RETAIN, "t", identifier, "x");
        let suback = "900400010001";
        assert_eq!(
            broker.send(late, &subscribe("t", "01")),
            format!("{suback}{retained}")
        );
        // The bytes of both payloads, live and retained.
        let counters = broker.shard.counters();
        assert_eq!((counters.publish_sent, counters.publish_bytes_sent), (2, 2));
    }
}

/// All of those that come together have the subscription's QoS, not only one of a topic that was not seen before.
#[test]
fn an_upgraded_qos_is_that_of_all_messages_that_come_together() {
    let mut broker = with_policy(|policy| policy.upgrade_outgoing_qos = true);
    let watcher = broker.client("w");
    broker.send(watcher, &subscribe("t", "01"));
    let client = broker.client("c");
    for _ in 0..2 {
        let both = publish(QOS_0, "t", 0, "x") + &publish(QOS_0, "t", 0, "y");
        broker.send(client, &both);
    }
    let sent = |identifier, payload| publish(QOS_1, "t", identifier, payload);
    let expected = [sent(1, "x"), sent(2, "y"), sent(3, "x"), sent(4, "y")];
    assert_eq!(broker.receive(watcher), expected.concat());
}

#[test]
fn qos_0_waits_for_an_absent_session_only_if_the_operator_wants_it() {
    for wanted in [false, true] {
        let mut broker = with_policy(|policy| policy.queue_qos0_messages = wanted);
        let again = connect(5, "00", HOUR, "w", "");
        let (watcher, _) = broker.connect(&again);
        broker.send(watcher, &subscribe("t", "01"));
        broker.lose(watcher);
        let client = broker.client("c");
        broker.send(client, &publish(QOS_0, "t", 0, "x"));
        broker.send(client, &publish(QOS_1, "t", 1, "y"));
        let (_, output) = broker.connect(&again);
        let waited = if wanted {
            publish(QOS_0, "t", 0, "x")
        } else {
            String::new()
        };
        let expected = waited + &publish(QOS_1, "t", 1, "y");
        assert!(output.ends_with(&expected), "{wanted}: {output}");
        assert_eq!(
            output.matches(&publish(QOS_0, "t", 0, "x")).count(),
            usize::from(wanted)
        );
    }
}

/// What is published later does not come before what waits [MQTT-4.6.0-6].
#[test]
fn qos_0_waits_behind_qos_0_that_waits_if_the_operator_wants_it_to_wait_at_all() {
    let mut broker = with_policy(|policy| policy.queue_qos0_messages = true);
    // Receive Maximum 1.
    let again = connect(5, "00", &format!("{HOUR} 21 0001"), "w", "");
    let (watcher, _) = broker.connect(&again);
    broker.send(watcher, &subscribe("t", "01"));
    broker.lose(watcher);
    let client = broker.client("c");
    for (flags, identifier, payload) in [(QOS_1, 1, "a"), (QOS_1, 2, "b"), (QOS_0, 0, "c")] {
        broker.send(client, &publish(flags, "t", identifier, payload));
    }
    let (watcher, output) = broker.connect(&again);
    assert!(output.ends_with(&publish(QOS_1, "t", 1, "a")), "{output}");
    broker.send(client, &publish(QOS_0, "t", 0, "d"));
    assert_eq!(broker.receive(watcher), "");
    let rest = ["b", "c", "d"].map(|payload| match payload {
        "b" => publish(QOS_1, "t", 2, payload),
        _ => publish(QOS_0, "t", 0, payload),
    });
    assert_eq!(broker.send(watcher, "40020001"), rest.concat());
    // Nothing waits any more.
    broker.send(client, &publish(QOS_0, "t", 0, "e"));
    assert_eq!(broker.receive(watcher), publish(QOS_0, "t", 0, "e"));
}

/// Whoever is connected has QoS 0 as if it waited for nobody: a queue that is full of what waits for acknowledgements costs none.
#[test]
fn qos_0_for_a_client_that_is_slow_to_acknowledge_is_not_held_up_whatever_the_operator_wants() {
    for wanted in [false, true] {
        let mut broker = with_policy(|policy| {
            policy.queue_qos0_messages = wanted;
            policy.limits.max_queued_messages = 2;
        });
        // Receive Maximum 1.
        let (watcher, _) = broker.connect(&connect(5, "02", "21 0001", "w", ""));
        broker.send(watcher, &subscribe("#", "01"));
        let client = broker.client("c");
        for identifier in 1..=4 {
            broker.send(client, &publish(QOS_1, "t", identifier, "x"));
        }
        assert_eq!(broker.receive(watcher), publish(QOS_1, "t", 1, "x"));
        for payload in ["a", "b"] {
            broker.send(client, &publish(QOS_0, "u", 0, payload));
            let sent = publish(QOS_0, "u", 0, payload);
            assert_eq!(broker.receive(watcher), sent, "{wanted}");
        }
        let next = broker.send(watcher, "40020001");
        assert_eq!(next, publish(QOS_1, "t", 2, "x"), "{wanted}");
    }
}

/// Retained messages wait for the bytes in flight as others do.
#[test]
fn retained_messages_are_in_flight_with_no_more_bytes_than_the_operator_allows() {
    let mut broker = with_policy(|policy| policy.max_inflight_bytes = 62);
    let client = broker.client("c");
    let payload = "x".repeat(30);
    for topic in ["a", "b", "c"] {
        broker.send(client, &publish(QOS_1 | RETAIN, topic, 1, &payload));
    }
    let watcher = broker.client("w");
    let output = broker.send(watcher, &subscribe("#", "01"));
    let sent = |identifier, topic| publish(QOS_1 | RETAIN, topic, identifier, &payload);
    assert_eq!(
        output,
        "900400010001".to_owned() + &sent(1, "a") + &sent(2, "b")
    );
    assert_eq!(broker.send(watcher, "40020001"), sent(3, "c"));
}

/// A topic that has a retained message keeps its place, though there is none for others.
#[test]
fn a_retained_message_that_takes_the_place_of_one_as_large_always_fits() {
    let with_bytes = |max_retained_bytes| {
        let mut settings = settings();
        settings.policy.limits.max_retained_bytes = max_retained_bytes;
        settings
    };
    let mut broker = Broker::with_settings(with_bytes(20));
    let client = broker.client("c");
    let retain = |broker: &mut Broker, topic: &str, size: usize| {
        let packet = publish(QOS_1 | RETAIN, topic, 1, &"x".repeat(size));
        let answer = broker.send(client, &packet);
        // No matching subscribers, or quota exceeded.
        assert!(["4003000110", "4003000197"].contains(&&*answer), "{answer}");
        answer == "4003000110"
    };
    assert!(retain(&mut broker, "a", 9));
    assert!(retain(&mut broker, "b", 8));
    assert!(!retain(&mut broker, "c", 1));
    assert!(retain(&mut broker, "b", 9), "to the byte");
    assert!(!retain(&mut broker, "b", 10));
    broker.configure(with_bytes(5));
    assert!(retain(&mut broker, "a", 9), "as large");
    assert!(!retain(&mut broker, "a", 10));
    assert!(retain(&mut broker, "a", 0), "cleared");
}

/// Three messages that a session of `policy` misses; which come when it is back, and what was dropped.
fn missed_by_a_session(policy: impl FnOnce(&mut Policy)) -> (Vec<bool>, Counters) {
    let mut broker = with_policy(policy);
    let again = connect(5, "00", HOUR, "w", "");
    let (watcher, _) = broker.connect(&again);
    broker.send(watcher, &subscribe("t", "01"));
    broker.lose(watcher);
    let client = broker.client("c");
    for index in 1..=3 {
        let payload = index.to_string().repeat(30);
        broker.send(client, &publish(QOS_1, "t", index, &payload));
    }
    let (_, output) = broker.connect(&again);
    let came =
        (1..=3).map(|index: u16| output.contains(&hex(index.to_string().repeat(30).as_bytes())));
    (came.collect(), *broker.shard.counters())
}

#[test]
fn messages_beyond_the_bounds_of_a_queue_or_of_all_are_dropped_newest_first_and_counted() {
    let (came, counters) = missed_by_a_session(|_| {});
    assert_eq!(came, [true, true, true]);
    assert_eq!(
        (counters.dropped_queue_full, counters.dropped_memory_full),
        (0, 0)
    );

    let (came, counters) = missed_by_a_session(|policy| policy.limits.max_queued_messages = 2);
    assert_eq!(came, [true, true, false]);
    assert_eq!(
        (counters.dropped_queue_full, counters.dropped_memory_full),
        (1, 0)
    );

    // Two of 30 bytes and a topic fit, to the byte.
    let (came, counters) = missed_by_a_session(|policy| policy.limits.max_queued_bytes = 62);
    assert_eq!(came, [true, true, false]);
    assert_eq!(
        (counters.dropped_queue_full, counters.dropped_memory_full),
        (1, 0)
    );

    let (came, counters) = missed_by_a_session(|policy| policy.limits.memory_bytes_max = 62);
    assert_eq!(came, [true, true, false]);
    assert_eq!(
        (counters.dropped_queue_full, counters.dropped_memory_full),
        (0, 1)
    );
}

#[test]
fn no_more_bytes_are_in_flight_to_a_client_than_the_operator_allows_but_one_message_is() {
    let mut broker = with_policy(|policy| policy.max_inflight_bytes = 62);
    let watcher = broker.client("w");
    broker.send(watcher, &subscribe("t", "01"));
    let client = broker.client("c");
    // Two of 30 bytes and a topic fit, to the byte.
    let (small, large) = ("s".repeat(30), "l".repeat(100));
    for (identifier, payload) in [(1, &small), (2, &small), (3, &small), (4, &large)] {
        broker.send(client, &publish(QOS_1, "t", identifier, payload));
    }
    let sent = |identifier, payload| publish(QOS_1, "t", identifier, payload);
    assert_eq!(broker.receive(watcher), sent(1, &small) + &sent(2, &small));
    assert_eq!(broker.send(watcher, "40020001"), sent(3, &small));
    // The large one waits until it travels alone.
    assert_eq!(broker.send(watcher, "40020002"), "");
    assert_eq!(broker.send(watcher, "40020003"), sent(4, &large));
}

#[test]
fn a_session_nobody_resumes_ends_when_the_operator_says() {
    let mut broker = with_policy(|policy| {
        policy.limits.persistent_client_expiration = Some(Duration::from_secs(60));
    });
    for (version, properties) in [(5, "11 ffffffff"), (5, HOUR), (4, "")] {
        let stays = connect(version, "00", properties, "c", "");
        let (client, _) = broker.connect(&stays);
        broker.lose(client);
        broker.pass(59);
        let (client, connack) = broker.connect(&stays);
        assert_eq!(&connack[4..6], "01", "still there after 59 s");
        broker.lose(client);
        broker.pass(60);
        assert_eq!(broker.shard.census().sessions, 0);
    }
}

// --- mount points ---

/// Two listeners: the first is mounted, the second sees everything.
fn mounted() -> Broker {
    let mut settings = settings();
    settings.listeners.push(settings.listeners[0].clone());
    settings.listeners[0].mount_point = Some("m/".into());
    Broker::with_settings(settings)
}

fn outside() -> Origin {
    Origin {
        listener: ListenerId(1),
        ..Origin::default()
    }
}

#[test]
fn a_mount_point_stands_before_what_is_published_and_subscribed_and_is_not_seen() {
    let mut broker = mounted();
    let (inside, all) = (broker.client("i"), broker.client_at(outside(), "a"));
    broker.send(inside, &subscribe("#", "00"));
    broker.send(all, &subscribe("#", "00"));
    let message = publish(QOS_0, "t", 0, "x");
    assert_eq!(broker.send(inside, &message), message);
    assert_eq!(broker.receive(all), publish(QOS_0, "m/t", 0, "x"));
    broker.send(all, &publish(QOS_0, "m/u", 0, "y"));
    assert_eq!(broker.receive(inside), publish(QOS_0, "u", 0, "y"));
    broker.receive(all);
    broker.send(all, &publish(QOS_0, "t", 0, "z"));
    assert_eq!(broker.receive(inside), "", "what is elsewhere is not there");
    broker.send(all, &publish(QOS_0, "m/", 0, "z"));
    assert_eq!(broker.receive(inside), "", "no topic would be left");
    // UNSUBSCRIBE means the same filter.
    assert_eq!(
        broker.send(inside, "a2 06 0002 00 0001 23"),
        "b0040002 00 00".replace(' ', "")
    );
}

/// Also not by those whose packet goes on in the buffer that it came in.
#[test]
fn a_mount_point_is_not_seen_by_who_is_sent_a_large_message() {
    let mut broker = mounted();
    broker.shard.set_moved_payload_min(1);
    let inside = broker.client("i");
    broker.send(inside, &subscribe("t", "00"));
    let outside = broker.client_at(outside(), "o");
    let mut packet = bytes(&publish(QOS_0, "m/t", 0, "xyz"));
    let consumed =
        broker
            .shard
            .handle_packets_in(outside, &mut packet, broker.now, &mut broker.effects);
    assert_eq!(consumed, bytes(&publish(QOS_0, "m/t", 0, "xyz")).len());
    assert_eq!(broker.receive(inside), publish(QOS_0, "t", 0, "xyz"));
}

#[test]
fn a_mount_point_holds_for_wills_retained_messages_and_shared_subscriptions() {
    let mut broker = mounted();
    let all = broker.client_at(outside(), "a");
    broker.send(all, &subscribe("m/#", "00"));
    // Will "x" to "t", retained.
    let (dying, _) = broker.connect(&connect(5, "26", "", "d", "00 0001 74 0001 78"));
    broker.lose(dying);
    assert_eq!(broker.receive(all), publish(QOS_0, "m/t", 0, "x"));
    let inside = broker.client("i");
    assert_eq!(
        broker.send(inside, &subscribe("t", "00")),
        format!("900400010000{}", publish(QOS_0 | RETAIN, "t", 0, "x"))
    );
    let member = broker.client("g");
    broker.send(member, &subscribe("$share/g/s", "00"));
    broker.send(all, &publish(QOS_0, "s", 0, "y"));
    assert_eq!(broker.receive(member), "");
    broker.send(all, &publish(QOS_0, "m/s", 0, "z"));
    assert_eq!(broker.receive(member), publish(QOS_0, "s", 0, "z"));
}

#[test]
fn a_response_topic_is_below_the_same_mount_point_for_whoever_answers_there() {
    let mut broker = mounted();
    let (asks, answers) = (broker.client("a"), broker.client("b"));
    broker.send(asks, &subscribe("r", "00"));
    broker.send(answers, &subscribe("q", "00"));
    let request = publish_with(QOS_0, "q", 0, "08 0001 72", "?");
    broker.send(asks, &request);
    assert_eq!(broker.receive(answers), request);
    broker.send(answers, &publish(QOS_0, "r", 0, "!"));
    assert_eq!(broker.receive(asks), publish(QOS_0, "r", 0, "!"));
}

#[test]
fn a_mount_point_that_changes_ends_the_connections_below_it() {
    let mut broker = mounted();
    let client = broker.client("i");
    let all = broker.client_at(outside(), "a");
    broker.send(client, &subscribe("#", "00"));
    let mut other = settings();
    other.listeners.push(other.listeners[0].clone());
    other.listeners[0].mount_point = Some("elsewhere/".into());
    broker.configure(other);
    assert_eq!(broker.receive(client), "e00198");
    assert!(broker.is_closed(client) && !broker.is_closed(all));
}

// --- passwords, rules and reloads ---

fn security(passwords: Option<&str>, acl: Option<&str>) -> Option<Arc<Security>> {
    Some(Arc::new(Security {
        passwords: passwords.map(|text| {
            PasswordFile::parse("passwords", text.as_bytes()).expect("a password file")
        }),
        acl: acl.map(|text| Acl::parse("acl", text.as_bytes()).expect("an ACL file")),
    }))
}

fn guarded(acl: &str) -> Settings {
    let mut settings = settings();
    settings.listeners[0].security = security(None, Some(acl));
    settings
}

/// Of `password`, as `mosquitto_passwd -H sha512` writes it; nobody computes it here.
const BOB: &str = "bob:$6$c2FsdHNhbHRzYWx0$\
    AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n";

fn with_passwords(text: &str) -> Settings {
    let mut settings = settings();
    settings.listeners[0].allow_anonymous = false;
    settings.listeners[0].security = security(Some(text), None);
    settings
}

/// A CONNECT with the password of Bob, who says that it waits for the verdict.
fn ask(broker: &mut Broker, client: ConnectionKey) -> String {
    let connect = connect(5, "c2", "", "c", &(string("bob") + &string("pw")));
    let packet = bytes(&connect);
    let consumed = broker
        .shard
        .handle_bytes(client, &packet, broker.now, &mut broker.effects);
    assert_eq!(consumed, 0, "CONNECT waits for the verdict");
    assert!(broker.shard.is_paused(client));
    connect
}

fn login(broker: &mut Broker, verdict: Verdict) -> (ConnectionKey, String) {
    let client = broker.accept();
    let connect = ask(broker, client);
    // Longer than a CONNECT may take, which has come.
    broker.pass(31);
    let (asked, username) = broker.answer(verdict);
    assert_eq!((asked, &*username), (client, "bob"));
    let connack = broker.send(client, &connect);
    (client, connack)
}

#[test]
fn a_password_is_checked_again_if_a_reload_comes_between_the_verdict_and_its_connect() {
    let mut broker = Broker::with_settings(with_passwords(BOB));
    let client = broker.accept();
    ask(&mut broker, client);
    broker.answer(Verdict::Accepted);
    broker.configure(with_passwords(BOB));
    let connect = ask(&mut broker, client);
    broker.answer(Verdict::Refused);
    let connack = broker.send(client, &connect);
    read_connack(&connack, |it| {
        assert_eq!(it.reason_code, ReasonCode::NotAuthorized)
    });
    // The same if the reload comes first.
    let client = broker.accept();
    ask(&mut broker, client);
    broker.configure(with_passwords(BOB));
    broker.answer(Verdict::Accepted);
    ask(&mut broker, client);
}

#[test]
fn a_password_is_checked_elsewhere_and_the_connection_waits() {
    let mut broker = Broker::with_settings(with_passwords(BOB));
    let (client, connack) = login(&mut broker, Verdict::Accepted);
    read_connack(&connack, |it| {
        assert_eq!(it.reason_code, ReasonCode::Success)
    });
    assert!(!broker.is_closed(client));
    let (client, connack) = login(&mut broker, Verdict::Refused);
    read_connack(&connack, |it| {
        assert_eq!(it.reason_code, ReasonCode::NotAuthorized)
    });
    assert!(broker.is_closed(client));
    let anonymous = connect(5, "02", "", "d", "");
    assert_eq!(broker.refused(&anonymous), ReasonCode::NotAuthorized);
}

#[test]
fn an_empty_user_name_is_none_where_anonymous_clients_may_come_in_and_where_they_may_not() {
    for (allow_anonymous, expected) in [
        (true, ReasonCode::Success),
        (false, ReasonCode::NotAuthorized),
    ] {
        let mut settings = with_passwords(BOB);
        settings.listeners[0].allow_anonymous = allow_anonymous;
        settings.listeners[0].security = security(Some(BOB), Some("topic write a\n"));
        let mut broker = Broker::with_settings(settings);
        for (flags, credentials) in [
            ("82", string("")),
            ("c2", string("") + &string("")),
            ("c2", string("") + &string("pw")),
        ] {
            let (client, connack) = broker.connect(&connect(5, flags, "", "c", &credentials));
            read_connack(&connack, |it| assert_eq!(it.reason_code, expected));
            if allow_anonymous {
                // By the rule for Clients without a User Name; there are no subscribers.
                let answer = broker.send(client, &publish(QOS_1, "a", 1, "x"));
                assert_eq!(answer, "4003000110");
            }
        }
    }
}

#[test]
fn a_user_with_an_empty_password_is_refused_without_a_look_at_its_hash() {
    let mut broker = Broker::with_settings(with_passwords(BOB));
    for (flags, credentials) in [("82", string("bob")), ("c2", string("bob") + &string(""))] {
        let nothing = connect(5, flags, "", "c", &credentials);
        assert_eq!(broker.refused(&nothing), ReasonCode::NotAuthorized);
    }
}

#[test]
fn a_reload_ends_the_connections_of_users_that_are_gone_and_of_no_others() {
    let mut broker = Broker::with_settings(with_passwords(BOB));
    let (client, _) = login(&mut broker, Verdict::Accepted);
    broker.configure(with_passwords(BOB));
    assert!(!broker.is_closed(client));
    broker.configure(with_passwords(""));
    assert_eq!(broker.receive(client), "e00198");
    assert!(broker.is_closed(client));
}

#[test]
fn a_reload_that_names_users_by_certificate_ends_connections_without_one_of_that_name() {
    let certificate = |common_name: &str| {
        Some(Box::new(CertificateIdentity {
            common_name: Some(common_name.into()),
            subject: format!("CN={common_name},O=x"),
        }))
    };
    let by_certificate = |whole_subject: bool| {
        let mut settings = settings();
        settings.listeners[0].use_identity_as_username = !whole_subject;
        settings.listeners[0].use_subject_as_username = whole_subject;
        settings
    };
    for whole_subject in [false, true] {
        let mut broker = Broker::with_settings(settings());
        let named = match whole_subject {
            false => "alice",
            true => "CN=alice,O=x",
        };
        let mut come = |name: &str, certificate| {
            let origin = Origin {
                certificate,
                ..Origin::default()
            };
            let client = broker.shard.handle_accept(origin, broker.now).unwrap();
            broker.send(client, &connect(5, "82", "", name, &string(named)));
            client
        };
        let plain = come("plain", None);
        let other = come("other", certificate("bob"));
        let alice = come("alice", certificate("alice"));
        let nameless = broker.client("nameless");
        broker.configure(by_certificate(whole_subject));
        for client in [plain, other, nameless] {
            assert_eq!(broker.receive(client), "e00198");
            assert!(broker.is_closed(client));
        }
        assert!(!broker.is_closed(alice));
    }
}

/// What few connections have is forgotten together, once none of it is left.
#[test]
fn what_is_known_of_a_connection_stays_when_it_has_been_sent_its_retained_messages() {
    let mut settings = settings();
    settings.listeners[0].max_topic_alias_broker = 2;
    let mut broker = Broker::with_settings(settings.clone());
    let publisher = broker.client("p");
    broker.send(publisher, &publish(QOS_0 | RETAIN, "t", 0, "x"));
    let suback = "900400010000".to_owned();

    // Its aliases: Topic Alias Maximum 2.
    let (client, _) = broker.connect(&connect(5, "02", "22 0002", "a", ""));
    let retained = publish_with(QOS_0 | RETAIN, "t", 0, "23 0001", "x");
    let heard = broker.send(client, &subscribe("t", "00"));
    assert_eq!(heard, suback.clone() + &retained);
    broker.send(publisher, &publish(QOS_0, "t", 0, "y"));
    let by_alias = publish_with(QOS_0, "", 0, "23 0001", "y");
    assert_eq!(broker.receive(client), by_alias);

    // How many messages it may have in flight.
    let client = broker.client("b");
    settings.policy.limits.max_inflight_messages = 1;
    broker.configure(settings.clone());
    let retained = publish(QOS_0 | RETAIN, "t", 0, "x");
    let heard = broker.send(client, &subscribe("t", "00"));
    assert_eq!(heard, suback.clone() + &retained);
    for identifier in 1..=2 {
        let answer = broker.send(client, &publish(QOS_2, "u", identifier, "x"));
        assert_eq!(answer, format!("5003{identifier:04x}10"));
    }

    // Who it is.
    let origin = Origin {
        certificate: Some(Box::new(CertificateIdentity {
            common_name: Some("alice".into()),
            subject: "CN=alice".into(),
        })),
        ..Origin::default()
    };
    settings.listeners[0].use_identity_as_username = true;
    broker.configure(settings.clone());
    let client = broker.client_at(origin, "c");
    let heard = broker.send(client, &subscribe("t", "00"));
    assert_eq!(heard, suback + &retained);
    settings.listeners[0].allow_anonymous = false;
    broker.configure(settings);
    assert!(!broker.is_closed(client));
}

#[test]
fn rules_decide_about_each_way_of_a_message() {
    let mut broker = Broker::with_settings(guarded("topic read r/#\ntopic write w/#\n"));
    let client = broker.client("c");
    assert_eq!(
        broker.send(client, &publish(QOS_1, "r/1", 1, "x")),
        "4003000187"
    );
    assert_eq!(
        broker.send(client, &publish(QOS_2, "r/1", 1, "x")),
        "5003000187"
    );
    broker.send(client, &subscribe("#", "00"));
    assert_eq!(
        broker.send(client, &publish(QOS_0 | RETAIN, "w/1", 0, "x")),
        ""
    );
    // The broker itself may publish what it likes.
    assert_eq!(broker.send(client, &subscribe("#", "00")), "900400010000");
    // A Will that may not be written is not.
    let (dying, _) = broker.connect(&connect(5, "06", "", "d", "00 0003 722f31 0001 78"));
    broker.lose(dying);
    assert_eq!(broker.receive(client), "");
    assert_eq!(broker.shard.counters().dropped_denied, 3);
}

#[test]
fn what_waits_is_not_delivered_after_a_reload_that_revokes_it() {
    let mut broker = Broker::with_settings(guarded("topic #\n"));
    let again = connect(5, "00", HOUR, "w", "");
    let (watcher, _) = broker.connect(&again);
    broker.send(watcher, &subscribe("#", "01"));
    let client = broker.client("c");
    // One in flight, unacknowledged; one more of each topic in the queue.
    broker.send(client, &publish(QOS_1 | RETAIN, "secret", 1, "x"));
    broker.receive(watcher);
    broker.lose(watcher);
    for topic in ["secret", "open"] {
        broker.send(client, &publish(QOS_1, topic, 2, "y"));
    }
    broker.configure(guarded("topic open\n"));
    let (watcher, output) = broker.connect(&again);
    assert_eq!(output.matches(&hex(b"secret")).count(), 0, "{output}");
    assert!(
        output.ends_with(&publish(QOS_1, "open", 2, "y")),
        "{output}"
    );
    let mut shown = Snapshot::default();
    broker.shard.show(&mut shown);
    assert_eq!(
        (shown.gauges.queued_bytes, shown.gauges.queued_messages),
        (0, 0)
    );
    // Retained, and live.
    let suback = broker.send(watcher, &subscribe("#", "01"));
    assert_eq!(suback, "900400010001");
    assert_eq!(
        broker.send(client, &publish(QOS_1, "secret", 3, "z")),
        "4003000387"
    );
}

#[test]
fn a_reload_that_brings_rules_holds_for_who_is_connected_and_topics_that_were_published_to() {
    let mut broker = Broker::with_settings(settings());
    let (watcher, client) = (broker.client("w"), broker.client("c"));
    broker.send(watcher, &subscribe("#", "00"));
    for topic in ["read", "write"] {
        broker.send(client, &publish(QOS_1, topic, 1, "x"));
        assert!(!broker.receive(watcher).is_empty());
    }
    broker.configure(guarded("topic read read\ntopic write write\n"));
    let denied = broker.send(client, &publish(QOS_1, "read", 1, "x"));
    assert_eq!(denied, "4003000187");
    // It may be written, and nobody who is there may read it.
    broker.send(client, &publish(QOS_1, "write", 1, "x"));
    assert_eq!(broker.receive(watcher), "");
}

#[test]
fn a_reload_takes_what_it_denies_from_a_reader_of_retained_messages_and_nothing_else() {
    let mut broker = Broker::with_settings(guarded("topic #\n"));
    let client = broker.client("c");
    for topic in ["a", "b", "secret", "z"] {
        broker.send(client, &publish(QOS_1 | RETAIN, topic, 1, "x"));
    }
    // Receive Maximum 1.
    let (watcher, _) = broker.connect(&connect(5, "02", "21 0001", "w", ""));
    let sent = |identifier, topic| publish(QOS_1 | RETAIN, topic, identifier, "x");
    let heard = broker.send(watcher, &subscribe("#", "01"));
    assert_eq!(heard, "900400010001".to_owned() + &sent(1, "a"));
    let acl = "topic a\ntopic b\ntopic z\n";
    broker.configure(guarded(acl));
    assert_eq!(broker.send(watcher, "40020001"), sent(2, "b"));
    assert_eq!(broker.send(watcher, "40020002"), sent(3, "z"));
    assert_eq!(broker.send(watcher, "40020003"), "");
    assert_eq!(broker.shard.counters().dropped_denied, 1);
}

#[test]
fn what_was_sent_before_a_reload_that_revokes_it_is_not_sent_again() {
    let mut broker = Broker::with_settings(guarded("topic #\n"));
    let again = connect(5, "00", HOUR, "w", "");
    let (watcher, _) = broker.connect(&again);
    broker.send(watcher, &subscribe("#", "01"));
    let client = broker.client("c");
    broker.send(client, &publish(QOS_1, "secret", 1, "x"));
    assert_eq!(broker.receive(watcher), publish(QOS_1, "secret", 1, "x"));
    // Its acknowledgement may be on the way, so it stays in flight as long as the connection does.
    broker.configure(guarded("topic open\n"));
    assert_eq!(broker.shard.census().inflight, 1);
    broker.lose(watcher);
    let (_, output) = broker.connect(&again);
    assert_eq!(output.matches(&hex(b"secret")).count(), 0, "{output}");
}

#[test]
fn a_retained_message_goes_with_the_right_of_who_published_it() {
    let allowed = "topic read #\nuser bob\ntopic readwrite t\n";
    let revoked = "topic read #\nuser bob\ntopic read t\n";
    for (checked, expected) in [(true, 0), (false, 1)] {
        let settings = |acl| {
            let mut settings = guarded(acl);
            settings.policy.check_retain_source = checked;
            settings
        };
        let mut broker = Broker::with_settings(settings(allowed));
        let (bob, _) = broker.connect(&connect(5, "82", "", "b", &string("bob")));
        broker.send(bob, &publish(QOS_0 | RETAIN, "t", 0, "x"));
        broker.configure(settings(revoked));
        let reader = broker.client("r");
        let output = broker.send(reader, &subscribe("t", "00"));
        let retained = publish(QOS_0 | RETAIN, "t", 0, "x");
        assert_eq!(
            output.matches(&retained).count(),
            expected,
            "{checked}: {output}"
        );
    }
}

/// A Client Identifier is not a right: who comes with another User Name reads what that may read.
#[test]
fn a_session_that_another_user_resumes_is_sent_what_that_one_may_read() {
    let acl = "topic write t\nuser bob\ntopic readwrite t\nuser eve\ntopic write t\n";
    let mut broker = Broker::with_settings(guarded(acl));
    let client = broker.client("c");
    let connect = |user: &str| connect(5, "80", HOUR, "w", &string(user));
    let (bob, _) = broker.connect(&connect("bob"));
    broker.send(bob, &subscribe("t", "00"));
    for (user, is_sent) in [("bob", true), ("eve", false), ("bob", true)] {
        let (watcher, _) = broker.connect(&connect(user));
        broker.send(client, &publish(QOS_0, "t", 0, "x"));
        let expected = if is_sent {
            publish(QOS_0, "t", 0, "x")
        } else {
            String::new()
        };
        assert_eq!(broker.receive(watcher), expected, "{user}");
    }
}

#[test]
fn a_shared_message_goes_to_a_member_that_may_read_it() {
    let acl = "user bob\ntopic read t\nuser eve\ntopic read u\ntopic write t\n";
    let mut broker = Broker::with_settings(guarded(acl));
    let (bob, _) = broker.connect(&connect(5, "82", "", "b", &string("bob")));
    let (eve, _) = broker.connect(&connect(5, "82", "", "e", &string("eve")));
    for member in [bob, eve] {
        broker.send(member, &subscribe("$share/g/t", "00"));
    }
    for _ in 0..4 {
        broker.send(eve, &publish(QOS_0, "t", 0, "x"));
    }
    assert_eq!(broker.receive(bob), publish(QOS_0, "t", 0, "x").repeat(4));
    assert_eq!(broker.receive(eve), "");
    assert_eq!(broker.shard.counters().dropped_denied, 0);
    // Nobody else is left.
    broker.lose(bob);
    broker.send(eve, &publish(QOS_0, "t", 0, "x"));
    assert_eq!(broker.receive(eve), "");
    assert_eq!(broker.shard.counters().dropped_denied, 1);
}

// --- notices ---

#[test]
fn connections_come_and_go_in_the_log_and_only_if_it_is_wanted() {
    for wanted in [false, true] {
        let mut broker = with_policy(|policy| {
            policy.clientid_prefixes = Some("c".into());
            policy.log = if wanted {
                LogMask::CONNECTIONS
            } else {
                LogMask::NONE
            };
        });
        let client = broker.client("c");
        broker.send(client, "e000");
        let refused = connect(5, "02", "", "x", "");
        broker.refused(&refused);
        let events = broker.events();
        if !wanted {
            assert_eq!(events, []);
            continue;
        }
        let kinds: Vec<_> = events
            .iter()
            .map(|event| match event {
                Event::Accepted { .. } => "accepted".to_owned(),
                Event::Connected {
                    client_identifier,
                    keep_alive_s,
                    ..
                } => {
                    format!("{client_identifier} connected, {keep_alive_s} s")
                }
                Event::Disconnected {
                    cause: DisconnectCause::Client(code),
                    ..
                } => {
                    format!("disconnected {code:?}")
                }
                Event::Refused {
                    cause: RefusalCause::Refused(code),
                    ..
                } => {
                    format!("refused {code:?}")
                }
                other => format!("{other:?}"),
            })
            .collect();
        let expected = [
            "accepted",
            "c connected, 0 s",
            "disconnected Success",
            "accepted",
            "refused NotAuthorized",
        ];
        assert_eq!(kinds, expected);
    }
}

#[test]
fn what_connects_and_is_silent_or_no_client_is_in_the_log_as_well() {
    let mut broker = with_policy(|policy| policy.log = LogMask::CONNECTIONS);
    let origin = Origin::default();
    let accepted = Event::Accepted {
        peer: origin.peer,
        listener: origin.listener,
    };
    let client = broker.accept();
    broker.pass(0);
    assert_eq!(broker.events(), from_ref(&accepted), "it has said nothing");
    assert!(
        broker
            .shard
            .next_deadline()
            .is_some_and(|at| at > broker.now)
    );
    let refused = Event::Refused {
        client_identifier: None,
        peer: origin.peer,
        cause: RefusalCause::NotConnect,
    };
    // PINGREQ, and what asks for a page.
    broker.send(client, "c000");
    assert_eq!(broker.events(), from_ref(&refused));
    let client = broker.accept();
    broker.send(client, &hex(b"GET / HTTP/1.0"));
    assert_eq!(broker.events(), [accepted, refused]);
}

#[test]
fn packets_are_in_the_log_and_topics_with_their_mount_point() {
    let mut settings = settings();
    settings.policy.log = LogMask::SUBSCRIBE
        .or(LogMask::UNSUBSCRIBE)
        .or(LogMask::PACKETS);
    settings.listeners[0].mount_point = Some("m/".into());
    let mut broker = Broker::with_settings(settings);
    let client = broker.client("c");
    broker.send(client, &subscribe("t", "01"));
    broker.send(client, &publish(QOS_0, "t", 0, "abc"));
    broker.send(client, "a2 06 0002 00 0001 74");
    broker.send(client, "62 02 0003");
    broker.send(client, "c000");
    broker.send(client, "e000");
    let name: Arc<str> = "c".into();
    let received = |packet, packet_identifier| Event::Received {
        client_identifier: name.clone(),
        name: packet,
        packet_identifier,
    };
    let expected = [
        received("SUBSCRIBE", None),
        Event::Subscribed {
            client_identifier: name.clone(),
            topic_filter: "m/t".into(),
            reason_code: ReasonCode::GrantedQoS1,
        },
        Event::Published {
            client_identifier: name.clone(),
            topic_name: "m/t".into(),
            duplicate: false,
            packet_identifier: None,
            qos: QoS::AtMostOnce,
            retain: false,
            payload_size: 3,
            refused: None,
        },
        received("UNSUBSCRIBE", None),
        Event::Unsubscribed {
            client_identifier: name.clone(),
            topic_filter: "m/t".into(),
        },
        received("PUBREL", Some(3)),
        received("PINGREQ", None),
        received("DISCONNECT", None),
    ];
    assert_eq!(broker.events(), expected);
}
