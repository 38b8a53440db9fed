//! Bytes on the wire where the specification leaves a choice: Mosquitto 2.1's, because Clients and
//! their tests have come to depend on them.

#[path = "support/hex.rs"]
mod hex;

use fastmq::limits::Limits;
use hex::{Broker, hex};

#[test]
fn a_v5_connack_lists_alias_maximum_first_and_receive_maximum_last() {
    let mut broker = Broker::new();
    let client = broker.accept();
    let connack = broker.send(client, "10 0e 0004 4d515454 05 02 003c 00 0001 61");
    assert_eq!(
        connack,
        "200e 0000 0b 22000a 27001e8480 210014".replace(' ', "")
    );
}

/// [MQTT-3.1.3-6] [MQTT-3.1.3-7] [MQTT-3.2.2-16]
#[test]
fn an_assigned_client_identifier_stands_between_alias_maximum_and_packet_size() {
    let mut broker = Broker::new();
    let client = broker.accept();
    let connack = broker.send(client, "10 0d 0004 4d515454 05 02 003c 00 0000");
    assert!(connack.starts_with("203a000037"), "{connack}");
    assert_eq!(&connack[10..16], "22000a");
    assert_eq!(&connack[16..22], "120029", "an identifier of 41 bytes");
    assert!(connack.ends_with("27001e8480210014"), "{connack}");
}

/// [MQTT-3.2.2-21]
#[test]
fn a_keep_alive_above_the_maximum_is_replaced_in_the_connack() {
    let mut broker = Broker::with(Limits {
        max_keepalive_s: 30,
        ..Limits::default()
    });
    let client = broker.accept();
    let connack = broker.send(client, "10 0e 0004 4d515454 05 02 003c 00 0001 61");
    let expected = "2011 0000 0e 22000a 13001e 27001e8480 210014";
    assert_eq!(connack, expected.replace(' ', ""));
}

/// [MQTT-4.12.0-1]
#[test]
fn a_failed_connack_carries_no_properties() {
    let mut broker = Broker::new();
    let client = broker.accept();
    // Authentication Method "x".
    let connack = broker.send(client, "10 12 0004 4d515454 05 02 003c 04 15000178 0001 61");
    assert_eq!(connack, "2003008c00");
    assert!(broker.is_closed(client));
}

/// [MQTT-3.1.2-2]
#[test]
fn an_unknown_protocol_level_is_refused_as_every_client_understands() {
    let mut broker = Broker::new();
    let client = broker.accept();
    let connack = broker.send(client, "10 0d 0004 4d515454 07 02 003c 0001 61");
    assert_eq!(connack, "20020001");
    assert!(broker.is_closed(client));
}

/// [v3.1.1 MQTT-3.1.3-8]
#[test]
fn an_empty_v311_identifier_needs_clean_session() {
    let mut broker = Broker::new();
    let refused = broker.accept();
    assert_eq!(
        broker.send(refused, "10 0c 0004 4d515454 04 00 003c 0000"),
        "20020002"
    );
    assert!(broker.is_closed(refused));
    let accepted = broker.accept();
    assert_eq!(
        broker.send(accepted, "10 0c 0004 4d515454 04 02 003c 0000"),
        "20020000"
    );
}

#[test]
fn acknowledgements_have_their_shortest_form() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    // Subscribe to "t" at QoS 2.
    assert_eq!(
        broker.send(client, "82 07 0001 00 0001 74 02"),
        "90040001 00 02".replace(' ', "")
    );
    // PUBLISH QoS 1 to "t": PUBACK without a code, and the message with identifier 1.
    let answer = broker.send(client, "32 06 0001 74 0007 00");
    assert_eq!(answer, "3206 000174 0001 00 4002 0007".replace(' ', ""));
    // PUBLISH QoS 2: PUBREC, PUBREL, PUBCOMP.
    let answer = broker.send(client, "34 06 0001 74 0008 00");
    assert_eq!(answer, "3406 000174 0002 00 5002 0008".replace(' ', ""));
    assert_eq!(broker.send(client, "62 02 0008"), "70020008");
    // Its own acknowledgements of what it received.
    assert_eq!(broker.send(client, "40 02 0001 50 02 0002"), "62020002");
    assert_eq!(broker.send(client, "70 02 0002"), "");
}

#[test]
fn a_message_that_nobody_wants_is_acknowledged_with_0x10() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "32 06 0001 74 0007 00"), "4003000710");
    assert_eq!(broker.send(client, "34 06 0001 74 0008 00"), "5003000810");
}

/// [v3.1.1 MQTT-3.8.4-5]
#[test]
fn v311_acknowledgements_have_no_reason_codes() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    assert_eq!(broker.send(client, "32 05 0001 74 0007"), "40020007");
    assert_eq!(broker.send(client, "34 05 0001 74 0008"), "50020008");
    assert_eq!(broker.send(client, "62 02 0063"), "70020063");
    assert_eq!(broker.send(client, "a2 05 0009 0001 78"), "b0020009");
}

/// [MQTT-2.2.1-3]
#[test]
fn packet_identifiers_to_a_client_count_from_one() {
    let mut broker = Broker::new();
    let subscriber = broker.v311('s');
    broker.send(subscriber, "82 06 0001 0001 74 01");
    let publisher = broker.v311('p');
    for packet_identifier in 1..=3u8 {
        broker.send(publisher, "32 05 0001 74 0007");
        let received = broker.receive(subscriber);
        assert_eq!(received, format!("3205000174{packet_identifier:04x}"));
    }
}

/// [MQTT-3.3.4-7]
#[test]
fn the_21st_unreleased_qos2_message_ends_a_v5_client_and_no_v311_client() {
    let mut broker = Broker::new();
    let v5 = broker.v5('a');
    let v311 = broker.v311('b');
    for packet_identifier in 1..=20u8 {
        let publish = format!("34 06 0001 74 {packet_identifier:04x} 00");
        assert!(broker.send(v5, &publish).starts_with("50"));
    }
    assert_eq!(broker.send(v5, "34 06 0001 74 0015 00"), "e00193");
    assert!(broker.is_closed(v5));
    for packet_identifier in 1..=1000u16 {
        let publish = format!("34 05 0001 74 {packet_identifier:04x}");
        let pubrec = format!("5002{packet_identifier:04x}");
        assert_eq!(broker.send(v311, &publish), pubrec);
    }
}

/// [MQTT-4.8.2-1] [MQTT-4.8.2-2]
#[test]
fn malformed_shared_filters_end_the_connection() {
    let mut broker = Broker::new();
    for filter in ["$share//x", "$share/g", "$share/g/", "$share/a+b/x"] {
        let client = broker.v5('a');
        let mut subscribe = format!("82 {:02x} 0001 00 {:04x}", filter.len() + 6, filter.len());
        subscribe.push_str(&hex(filter.as_bytes()));
        subscribe.push_str("00");
        assert_eq!(broker.send(client, &subscribe), "e00181", "{filter}");
    }
}

/// [MQTT-3.1.4-3]
#[test]
fn a_taken_over_v5_client_is_told_0x8e_and_a_v311_client_nothing() {
    let mut broker = Broker::new();
    let first = broker.v5('a');
    let second = broker.v311('a');
    assert_eq!(broker.receive(first), "e0018e");
    assert!(broker.is_closed(first));
    let _third = broker.v5('a');
    assert_eq!(broker.receive(second), "");
    assert!(broker.is_closed(second));
}

/// [MQTT-3.1.0-1]
#[test]
fn anything_but_connect_is_closed_at_its_first_byte() {
    let mut broker = Broker::new();
    for first in ["47", "68", "30", "c0"] {
        let client = broker.accept();
        assert_eq!(broker.send(client, first), "");
        assert!(broker.is_closed(client));
    }
}
