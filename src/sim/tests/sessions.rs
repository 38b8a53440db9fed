//! CONNECT, takeover, resumption, expiry, keep alive.

#![forbid(unsafe_code)]

use super::super::Pace;
use super::*;
use crate::codec::{Auth, ConnectProperties};

/// [MQTT-3.1.4-3]
#[test]
fn second_connection_of_a_client_ends_the_first_with_session_taken_over() {
    on_shards(|bench| {
        let first = bench.connect(v5("a"));
        let second = bench.connect(v5("a"));
        assert_eq!(bench.hear(first), ["disconnect SessionTakenOver", "closed"]);
        bench.send(second, &Packet::PingReq);
        assert_eq!(bench.hear(second), ["pingresp"]);
        assert_eq!(bench.world.wires_held(), 1);
    });
}

/// [v3.1.1 MQTT-3.1.4-2]
#[test]
fn takeover_of_a_v311_client_closes_without_a_word() {
    on_shards(|bench| {
        let first = bench.connect(v311("a"));
        bench.connect(v311("a"));
        assert_eq!(bench.hear(first), ["closed"]);
    });
}

/// [MQTT-3.2.2-2] [MQTT-3.2.2-3]
#[test]
fn session_is_present_until_its_expiry_interval_has_passed() {
    on_shards(|bench| {
        let link = bench.connect(lasting("a"));
        bench.lose(link);
        bench.pass(3599.0);
        let (link, heard) = bench.connect_and_hear(lasting("a"));
        assert_eq!(heard, ["connack Success present"]);
        bench.lose(link);
        bench.pass(3600.0);
        let (_, heard) = bench.connect_and_hear(lasting("a"));
        assert_eq!(heard, ["connack Success"]);
    });
}

/// A Session without end costs nothing to simulate.
#[test]
fn session_that_never_expires_is_there_after_ten_years() {
    on_shards(|bench| {
        let mut connect = lasting("a");
        connect.properties.session_expiry_interval = Some(u32::MAX);
        let link = bench.connect(connect);
        bench.subscribe(link, "t", options(Q1));
        bench.lose(link);
        bench.pass(10.0 * 365.0 * 86_400.0);
        let other = bench.connect(v5("b"));
        bench.publish(other, "t", "late", Q1, 1);
        let (_, heard) = bench.connect_and_hear(connect);
        assert_eq!(heard, ["connack Success present", "publish q1 #1 t=late"]);
    });
}

/// [MQTT-3.1.2-4]
#[test]
fn clean_start_forgets_the_session_and_its_subscriptions() {
    on_shards(|bench| {
        let link = bench.connect(lasting("a"));
        bench.subscribe(link, "t", options(Q1));
        bench.lose(link);
        let (link, heard) = bench.connect_and_hear(Connect {
            clean_start: true,
            ..lasting("a")
        });
        assert_eq!(heard, ["connack Success"]);
        bench.publish(link, "t", "x", Q1, 1);
        assert_eq!(bench.hear(link), ["puback #1 NoMatchingSubscribers"]);
    });
}

/// [MQTT-3.1.2-22]
#[test]
fn silence_of_one_and_a_half_keep_alive_ends_the_connection_and_less_does_not() {
    on_shards(|bench| {
        let link = bench.connect(Connect {
            keep_alive_s: 10,
            ..v5("a")
        });
        bench.pass(14.9);
        assert!(bench.hear(link).is_empty());
        bench.send(link, &Packet::PingReq);
        assert_eq!(bench.hear(link), ["pingresp"]);
        bench.pass(14.9);
        assert!(bench.hear(link).is_empty());
        bench.pass(0.1);
        assert_eq!(bench.hear(link), ["disconnect KeepAliveTimeout", "closed"]);
    });
}

#[test]
fn keep_alive_of_zero_never_ends_a_connection() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        bench.pass(1e8);
        bench.send(link, &Packet::PingReq);
        assert_eq!(bench.hear(link), ["pingresp"]);
    });
}

#[test]
fn connection_without_connect_is_closed_after_the_connect_timeout() {
    on_shards(|bench| {
        let wire = bench.world.open(0);
        bench.partial.push(Vec::new());
        let link = Link {
            wire,
            version: ProtocolVersion::V5,
        };
        bench.world.send(wire, &[0x10]);
        bench.settle();
        bench.pass(29.9);
        assert!(bench.hear(link).is_empty());
        bench.pass(0.1);
        assert_eq!(bench.hear(link), ["closed"]);
        assert_eq!(bench.world.wires_held(), 0);
    });
}

/// [MQTT-3.1.3-6] [MQTT-3.2.2-16]
#[test]
fn assigned_identifier_belongs_to_the_accepting_shard() {
    let mut bench = Bench::new(8, &Limits::default());
    for shard in 0..8 {
        let link = bench.connect(v5(""));
        assert_eq!(bench.world.shard_of(link.wire), Some(shard));
    }
    assert_eq!(bench.world.sum(|it| it.connections_handed_over), 0);
}

#[test]
fn client_is_handed_over_to_the_shard_of_its_identifier_with_all_its_bytes() {
    let mut bench = Bench::new(3, &Limits::default());
    let mut shards = Vec::new();
    for shard in 0..3 {
        let wire = bench.world.open(shard);
        bench.partial.push(Vec::new());
        let link = Link {
            wire,
            version: ProtocolVersion::V5,
        };
        // Everything at once: what follows CONNECT moves along.
        bench.push(link, &Packet::Connect(v5("same")));
        bench.push(link, &Packet::PingReq);
        bench.settle();
        assert_eq!(bench.hear(link), ["connack Success", "pingresp"]);
        shards.push(bench.world.shard_of(wire));
    }
    assert!(
        shards[0].is_some() && shards.iter().all(|it| *it == shards[0]),
        "{shards:?}"
    );
    assert_eq!(bench.world.sum(|it| it.connections_handed_over), 2);
    // One that moved was accepted once.
    assert_eq!(bench.world.sum(|it| it.connections_accepted), 3);
    assert_eq!(bench.world.wires_held(), 1, "the others were taken over");
}

/// [MQTT-3.1.4-3]
#[test]
fn a_connection_that_was_given_up_does_not_take_over_the_one_after_it_though_it_arrives_later() {
    for (password, shards) in [(false, 2), (true, 2), (false, 8)] {
        let mut bench = Bench::new(shards, &Limits::default());
        let mut connect = v5("same");
        if password {
            connect.username = Some("same");
            connect.password = Some(b"same");
        }
        let owner = bench.connect(connect);
        let owner = bench.world.shard_of(owner.wire).unwrap();
        let open = |bench: &mut Bench, shard| {
            let wire = bench.world.open(shard);
            bench.partial.push(Vec::new());
            let version = ProtocolVersion::V5;
            let link = Link { wire, version };
            bench.push(link, &Packet::Connect(connect));
            link
        };
        let given_up = open(&mut bench, (owner + 1) % shards);
        bench.world.close(given_up.wire);
        let newer = open(&mut bench, owner);
        for _ in 0..3 {
            // The shard of the first one does nothing meanwhile.
            bench.world.turn(owner, &mut Pace::Full);
        }
        assert_eq!(bench.hear(newer), ["connack Success"]);
        bench.settle();
        bench.send(newer, &Packet::PingReq);
        assert_eq!(bench.hear(newer), ["pingresp"], "of {shards} shards");
        // One that is there takes over, whichever way it comes.
        let newest = open(&mut bench, (owner + 1) % shards);
        bench.settle();
        assert_eq!(bench.hear(newest), ["connack Success"]);
        assert_eq!(bench.hear(newer), ["disconnect SessionTakenOver", "closed"]);
        assert_eq!(bench.world.wires_held(), 1);
    }
}

/// [MQTT-4.12.0-1]
#[test]
fn authentication_method_nobody_configured_is_refused() {
    on_shards(|bench| {
        let mut connect = v5("a");
        connect.properties = ConnectProperties {
            authentication_method: Some("dance"),
            ..connect.properties
        };
        let (_, heard) = bench.connect_and_hear(connect);
        assert_eq!(heard, ["connack BadAuthenticationMethod", "closed"]);
    });
}

/// [MQTT-4.12.0-6]
#[test]
fn auth_without_an_authentication_method_is_a_protocol_error() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        let auth = Auth {
            reason_code: ReasonCode::Reauthenticate,
            ..Auth::default()
        };
        bench.send(link, &Packet::Auth(auth));
        assert_eq!(bench.hear(link), ["disconnect ProtocolError", "closed"]);
    });
}

/// [MQTT-3.1.0-2]
#[test]
fn second_connect_on_a_connection_is_a_protocol_error() {
    on_shards(|bench| {
        let link = bench.connect(v5("a"));
        bench.send(link, &Packet::Connect(v5("a")));
        assert_eq!(bench.hear(link), ["disconnect ProtocolError", "closed"]);
    });
}

#[test]
fn shutdown_is_told_to_v5_and_closes_everybody() {
    on_shards(|bench| {
        let five = bench.connect(v5("a"));
        let three = bench.connect(v311("b"));
        bench.world.shut_down();
        bench.settle();
        assert_eq!(
            bench.hear(five),
            ["disconnect ServerShuttingDown", "closed"]
        );
        assert_eq!(bench.hear(three), ["closed"]);
        assert_eq!(bench.world.wires_held(), 0);
    });
}
