//! Normative statements, one test each, in the bytes of the specification.

#[path = "support/hex.rs"]
mod hex;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::limits::Limits;
use fastmq::message::{Message, MessageRef, QoS};
use fastmq::metrics::Snapshot;
use fastmq::router::Interest;
use fastmq::shard::{Effects, Envelope, Shard};
use fastmq::time::Instant;
use hex::{Broker, bytes, hex};

/// A v5 CONNECT of client `name`; `flags` and `properties` in hex.
fn v5(name: char, flags: &str, keep_alive: &str, properties: &str, rest: &str) -> String {
    let properties_size = properties.replace(' ', "").len() / 2;
    let rest_size = rest.replace(' ', "").len() / 2;
    let size = 10 + 1 + properties_size + 3 + rest_size;
    format!(
        "10 {size:02x} 0004 4d515454 05 {flags} {keep_alive} {properties_size:02x} {properties} \
         0001 {:02x} {rest}",
        name as u32
    )
}

/// A v3.1.1 CONNECT of client `name`.
fn v311(name: char, flags: &str) -> String {
    format!(
        "10 0d 0004 4d515454 04 {flags} 003c 0001 {:02x}",
        name as u32
    )
}

/// A broker, and a v5 Client that it sends at QoS 0 what is published to `t`.
fn watched() -> (Broker, ConnectionKey) {
    let mut broker = Broker::new();
    let watcher = broker.v5('w');
    broker.send(watcher, "82 07 0001 00 0001 74 00");
    (broker, watcher)
}

const PINGREQ: &[u8] = b"\xc0\0";
const PINGRESP: &[u8] = b"\xd0\0";
/// Default of [`Limits::outbox_bytes_max`].
const OUTBOX_BYTES_MAX: usize = 1 << 20;
const CLEAN: &str = "02";
const RESUME: &str = "00";
/// Session Expiry Interval, one hour.
const HOUR: &str = "11 00000e10";

/// [MQTT-3.1.0-2]
#[test]
fn a_second_connect_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(
        broker.send(client, &v5('a', CLEAN, "003c", "", "")),
        "e00182"
    );
    assert!(broker.is_closed(client));
}

/// [MQTT-3.1.2-6] [MQTT-3.2.2-7]
#[test]
fn clean_session_ends_with_its_connection_and_the_other_kind_stays() {
    let mut broker = Broker::new();
    let (client, connack) = broker.connect(&v311('a', RESUME));
    assert_eq!(connack, "20020000");
    broker.lose(client);
    let (client, connack) = broker.connect(&v311('a', RESUME));
    assert_eq!(connack, "20020100", "session present");
    broker.lose(client);
    let (client, connack) = broker.connect(&v311('a', CLEAN));
    assert_eq!(connack, "20020000");
    broker.lose(client);
    let (_, connack) = broker.connect(&v311('a', RESUME));
    assert_eq!(connack, "20020000", "the clean session left nothing");
}

/// [MQTT-3.1.2-22]
#[test]
fn silence_of_one_and_a_half_keep_alives_ends_the_connection() {
    let mut broker = Broker::new();
    let (client, _) = broker.connect(&v5('a', CLEAN, "000a", "", ""));
    broker.pass(14);
    assert_eq!(broker.send(client, "c000"), "d000");
    broker.pass(14);
    assert!(!broker.is_closed(client));
    broker.pass(1);
    assert_eq!(broker.receive(client), "e0018d");
    assert!(broker.is_closed(client));
}

#[test]
fn a_keep_alive_of_zero_never_ends_the_connection() {
    let mut broker = Broker::new();
    let (client, _) = broker.connect(&v5('a', CLEAN, "0000", "", ""));
    broker.pass(365 * 24 * 3600);
    assert!(!broker.is_closed(client));
}

#[test]
fn a_connection_without_connect_ends_after_the_time_out() {
    let mut broker = Broker::new();
    let client = broker.accept();
    assert_eq!(broker.send(client, ""), "");
    broker.pass(31);
    assert!(broker.is_closed(client));
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn a_packet_above_the_clients_maximum_is_left_out_and_the_next_one_sent() {
    let mut broker = Broker::new();
    // Maximum Packet Size 12.
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "27 0000000c", ""));
    broker.send(client, "82 07 0001 00 0001 74 02");
    let publisher = broker.v5('b');
    broker.send(publisher, "30 0d 0001 74 00 010203040506070809");
    assert_eq!(broker.receive(client), "");
    broker.send(publisher, "32 0c 0001 74 0007 00 010203040506");
    assert_eq!(
        broker.receive(client),
        "",
        "at QoS 1 neither, and no identifier is lost"
    );
    broker.send(publisher, "32 0a 0001 74 0008 00 01020304");
    assert_eq!(broker.receive(client), "320a00017400010001020304");
}

/// [MQTT-3.1.3-9]
#[test]
fn a_will_with_delay_is_not_sent_if_the_client_returns_in_time() {
    let (mut broker, watcher) = watched();
    // Will "x" to "t" after 10 s.
    let connect = v5('a', "04", "003c", HOUR, "05 18 0000000a 0001 74 0001 78");
    let (client, _) = broker.connect(&connect);
    broker.lose(client);
    broker.pass(9);
    let (client, _) = broker.connect(&connect);
    broker.pass(20);
    assert_eq!(broker.receive(watcher), "");
    broker.lose(client);
    broker.pass(9);
    assert_eq!(broker.receive(watcher), "");
    broker.pass(1);
    assert_eq!(broker.receive(watcher), "30050001740078");
}

/// [MQTT-3.1.2-8] [MQTT-3.1.2-10]
#[test]
fn a_will_is_sent_for_a_lost_connection_and_not_after_disconnect() {
    let (mut broker, watcher) = watched();
    let connect = v5('a', "06", "003c", "", "00 0001 74 0001 78");
    let (client, _) = broker.connect(&connect);
    broker.send(client, "e000");
    broker.pass(1);
    assert_eq!(broker.receive(watcher), "");
    let (client, _) = broker.connect(&connect);
    broker.lose(client);
    assert_eq!(broker.receive(watcher), "30050001740078");
    // 0x04: Disconnect with Will Message [MQTT-3.14.4-3].
    let (client, _) = broker.connect(&connect);
    broker.send(client, "e0 01 04");
    assert_eq!(broker.receive(watcher), "30050001740078");
}

/// [MQTT-3.12.4-1]
#[test]
fn a_pingreq_is_answered() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    assert_eq!(broker.send(client, "c000 c000"), "d000d000");
}

/// [MQTT-3.14.2-2]
#[test]
fn disconnect_may_not_raise_a_session_expiry_of_zero() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    let disconnect = "e0 07 00 05 11 00000e10";
    assert_eq!(broker.send(client, disconnect), "e00182");
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", HOUR, ""));
    assert_eq!(broker.send(client, disconnect), "");
    assert!(broker.is_closed(client));
}

/// [MQTT-3.14.4-1]
#[test]
fn nothing_is_handled_or_sent_after_disconnect() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "e000 c000 c000"), "");
    assert!(broker.is_closed(client));
    assert_eq!(broker.send(client, "c000"), "");
}

#[test]
fn a_session_ends_after_its_expiry_interval_and_not_before() {
    let mut broker = Broker::new();
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", HOUR, ""));
    broker.lose(client);
    broker.pass(3599);
    let (client, connack) = broker.connect(&v5('a', RESUME, "003c", HOUR, ""));
    assert_eq!(&connack[4..8], "0100");
    broker.lose(client);
    broker.pass(3600);
    let (_, connack) = broker.connect(&v5('a', RESUME, "003c", HOUR, ""));
    assert_eq!(&connack[4..8], "0000");
}

/// [MQTT-3.3.1-1] [MQTT-4.4.0-1] [MQTT-4.6.0-1] [MQTT-3.3.4-9]
#[test]
fn what_was_in_flight_is_sent_again_in_order_with_dup_within_the_new_receive_maximum() {
    let mut broker = Broker::new();
    let (client, _) = broker.connect(&v311('a', RESUME));
    broker.send(client, "82 06 0001 0001 74 02");
    let publisher = broker.v311('p');
    broker.send(
        publisher,
        "32 06 0001 74 0001 41  34 06 0001 74 0002 42  32 06 0001 74 0003 43",
    );
    assert_eq!(
        broker.receive(client),
        "320600017400014134060001740002423206000174000343"
    );
    // The second message gets as far as PUBREC.
    assert_eq!(broker.send(client, "5002 0002"), "62020002");
    broker.lose(client);
    // Receive Maximum 2.
    let connect = v5('a', RESUME, "003c", "11 00000e10 21 0002", "");
    let (client, connack) = broker.connect(&connect);
    let (connack, again) = connack.split_at(32);
    assert_eq!(&connack[..8], "200e0100");
    assert_eq!(again, "3a07000174000100 41 62020002".replace(' ', ""));
    assert_eq!(
        broker.send(client, "4002 0001"),
        "3a070001740003 00 43".replace(' ', "")
    );
    // New ones wait behind them.
    broker.send(publisher, "32 06 0001 74 0004 44");
    assert_eq!(broker.receive(client), "");
    assert_eq!(
        broker.send(client, "7002 0002"),
        "3207000174000400 44".replace(' ', "")
    );
}

/// [MQTT-3.3.1-8] [MQTT-3.3.1-9] [MQTT-3.3.1-10] [MQTT-3.3.1-11]
#[test]
fn retain_handling_decides_whether_a_subscription_is_sent_retained_messages() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    broker.send(client, "31 05 0001 74 00 78");
    let retained = "31050001740078";
    let (sent, not_sent) = (
        format!("9004000100 00{retained}").replace(' ', ""),
        "900400010000",
    );
    // 0: at every SUBSCRIBE.
    assert_eq!(broker.send(client, "82 07 0001 00 0001 74 00"), sent);
    assert_eq!(broker.send(client, "82 07 0001 00 0001 74 00"), sent);
    // 1: only if the subscription is new.
    assert_eq!(broker.send(client, "82 07 0001 00 0001 74 10"), not_sent);
    assert_eq!(broker.send(client, "a2 06 0002 00 0001 74"), "b00400020000");
    assert_eq!(broker.send(client, "82 07 0001 00 0001 74 10"), sent);
    // 2: never.
    broker.send(client, "a2 06 0002 00 0001 74");
    assert_eq!(broker.send(client, "82 07 0001 00 0001 74 20"), not_sent);
}

/// [MQTT-3.3.1-12] [MQTT-3.3.1-13]
#[test]
fn retain_is_kept_on_a_live_message_only_as_the_subscription_asks() {
    let mut broker = Broker::new();
    let cleared = broker.v5('a');
    broker.send(cleared, "82 07 0001 00 0001 74 00");
    let kept = broker.v5('b');
    broker.send(kept, "82 07 0001 00 0001 74 08");
    let publisher = broker.v5('p');
    broker.send(publisher, "31 05 0001 74 00 78");
    assert_eq!(broker.receive(cleared), "30050001740078");
    assert_eq!(broker.receive(kept), "31050001740078");
}

/// [MQTT-3.3.1-5] [MQTT-3.3.1-6] [MQTT-3.3.1-7]
#[test]
fn an_empty_retained_message_clears_and_is_delivered_but_not_kept() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    broker.send(client, "31 04 0001 74 78");
    assert_eq!(
        broker.send(client, "82 06 0001 0001 74 00"),
        "90030001003104000174 78".replace(' ', "")
    );
    assert_eq!(broker.send(client, "31 03 0001 74"), "3003000174");
    assert_eq!(broker.send(client, "82 06 0001 0001 74 00"), "9003000100");
}

/// [MQTT-3.3.2-5] [MQTT-3.3.2-6]
#[test]
fn message_expiry_is_counted_down_in_the_queue_and_ends_there() {
    let mut broker = Broker::new();
    let connect = v5('a', RESUME, "003c", HOUR, "");
    let (client, _) = broker.connect(&connect);
    broker.send(client, "82 07 0001 00 0001 74 01");
    broker.lose(client);
    let publisher = broker.v5('p');
    // Expiry after 10 s and after 30 s.
    broker.send(publisher, "32 0b 0001 74 0001 05 02 0000000a");
    broker.send(publisher, "32 0b 0001 74 0002 05 02 0000001e");
    broker.pass(12);
    let (_, answer) = broker.connect(&connect);
    assert_eq!(
        &answer[32..],
        "320b000174 0001 05 02 00000012".replace(' ', "")
    );
}

/// [MQTT-3.3.2-7]
#[test]
fn a_topic_alias_does_not_outlive_its_connection() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "30 07 0001 74 03 23 0001"), "");
    assert_eq!(broker.send(client, "30 06 0000 03 23 0001"), "");
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "30 06 0000 03 23 0001"), "e00182");
}

/// [MQTT-3.3.2-9], and section 3.3.4, which tells the two apart.
#[test]
fn a_topic_alias_that_stands_for_nothing_is_a_protocol_error_and_one_above_the_maximum_invalid() {
    let mut broker = Broker::new();
    for (alias, disconnect) in [("0003", "e00182"), ("000a", "e00182"), ("000b", "e00194")] {
        let client = broker.v5('a');
        let publish = format!("30 06 0000 03 23 {alias}");
        assert_eq!(broker.send(client, &publish), disconnect, "{alias}");
        assert!(broker.is_closed(client));
    }
}

/// MQTT 3.1, section 3.6, has QoS 1 in a PUBREL and nothing that follows from it; [MQTT-2.1.3-1] is of later versions.
#[test]
fn a_pubrel_of_mqtt_3_1_is_answered_whatever_flags_it_has() {
    let mut broker = Broker::new();
    let (client, _) = broker.connect("10 0f 0006 4d5149736470 03 02 003c 0001 61");
    for flags in 0..16 {
        let publish = format!("34 05 0001 74 00{:02x}", flags + 1);
        assert_eq!(
            broker.send(client, &publish),
            format!("500200{:02x}", flags + 1)
        );
        let pubrel = format!("6{flags:x} 02 00{:02x}", flags + 1);
        assert_eq!(
            broker.send(client, &pubrel),
            format!("700200{:02x}", flags + 1)
        );
    }
    assert!(!broker.is_closed(client));
}

/// MQTT 3.1, section 3.1 and others: "not used". [MQTT-2.1.3-1] is of later versions.
#[test]
fn flags_that_mqtt_3_1_does_not_use_are_ignored_in_its_packets_and_refused_in_later_ones() {
    let mut broker = Broker::new();
    for first in ["10", "12", "14", "18", "1f"] {
        let client = broker.accept();
        let v3 = format!("{first} 0f 0006 4d5149736470 03 02 003c 0001 61");
        assert_eq!(broker.send(client, &v3), "20020000", "{first}");
        assert_eq!(broker.send(client, "e8 00"), "", "DISCONNECT");
        assert!(broker.is_closed(client));
        let later = broker.accept();
        broker.send(later, &format!("{first}{}", &v311('a', CLEAN)[2..]));
        assert_eq!(broker.is_closed(later), first != "10", "{first}");
    }
}

#[test]
fn a_client_that_takes_aliases_is_sent_a_topic_once() {
    let mut broker = Broker::new();
    // Topic Alias Maximum 1.
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "22 0001", ""));
    broker.send(client, "82 07 0001 00 0001 23 00");
    let publisher = broker.v311('p');
    for (publish, received) in [
        ("30 03 0001 74", "3007 000174 03 230001"),
        ("30 03 0001 74", "3006 0000 03 230001"),
        ("30 03 0001 75", "3004 000175 00"),
    ] {
        broker.send(publisher, publish);
        assert_eq!(broker.receive(client), received.replace(' ', ""));
    }
}

/// [MQTT-3.3.4-6]
#[test]
fn a_subscription_identifier_from_a_client_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "30 06 0001 74 02 0b 01"), "e00182");
}

/// [MQTT-3.3.4-2] [MQTT-3.3.4-3] [MQTT-3.3.4-4]
#[test]
fn overlapping_subscriptions_deliver_once_at_the_highest_qos_with_all_identifiers() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    broker.send(client, "82 09 0001 02 0b01 0001 74 00");
    broker.send(client, "82 09 0002 02 0b02 0001 23 01");
    let publisher = broker.v5('p');
    broker.send(publisher, "34 07 0001 74 0009 00 78");
    let received = broker.receive(client);
    let either = ["320b0001740001040b010b0278", "320b0001740001040b020b0178"];
    assert!(either.contains(&received.as_str()), "{received}");
}

/// [MQTT-3.8.3-3]
#[test]
fn no_local_keeps_a_clients_own_messages_away() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    broker.send(client, "82 07 0001 00 0001 74 04");
    assert_eq!(broker.send(client, "30 04 0001 74 00"), "");
    let publisher = broker.v5('p');
    broker.send(publisher, "30 04 0001 74 00");
    assert_eq!(broker.receive(client), "300400017400");
}

/// [MQTT-3.8.3-3] [MQTT-3.3.4-2] [MQTT-3.3.4-3]
#[test]
fn a_subscription_with_no_local_adds_nothing_to_an_own_message_that_comes_because_of_another() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    // Identifier 1, QoS 1 and No Local; identifier 2, QoS 0.
    broker.send(client, "82 09 0001 02 0b01 0001 74 05");
    broker.send(client, "82 09 0002 02 0b02 0001 2b 00");
    let own = broker.send(client, "32 07 0001 74 0001 00 78");
    assert_eq!(own, "3007 0001 74 02 0b02 78 4002 0001".replace(' ', ""));
    let publisher = broker.v5('p');
    broker.send(publisher, "32 07 0001 74 0001 00 78");
    let received = broker.receive(client);
    let either = ["320b0001740001040b010b0278", "320b0001740001040b020b0178"];
    assert!(either.contains(&received.as_str()), "{received}");
}

/// [MQTT-3.8.4-1] [MQTT-3.8.4-8] [MQTT-3.9.3-1]
#[test]
fn a_suback_answers_every_filter_in_order_with_the_qos_granted() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    let subscribe = "82 0e 0007 0001 61 02 0001 62 00 0001 63 01";
    assert_eq!(
        broker.send(client, subscribe),
        "9005 0007 020001".replace(' ', "")
    );
}

/// [MQTT-3.10.4-1] [MQTT-3.11.3-1]
#[test]
fn an_unsuback_answers_every_filter_in_order() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    broker.send(client, "82 07 0001 00 0001 62 00");
    let unsubscribe = "a2 0c 0008 00 0001 61 0001 62 0001 63";
    assert_eq!(
        broker.send(client, unsubscribe),
        "b006 0008 00 110011".replace(' ', "")
    );
}

/// [MQTT-4.3.3-11] [MQTT-4.3.3-10]
#[test]
fn a_qos2_identifier_is_free_again_after_pubrel() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    broker.send(client, "82 06 0001 0001 74 00");
    let publish = "34 06 0001 74 0009 78";
    let (message, pubrec) = ("300400017478", "50020009");
    assert_eq!(broker.send(client, publish), format!("{message}{pubrec}"));
    let repeated = "3c 06 0001 74 0009 78";
    assert_eq!(broker.send(client, repeated), pubrec, "not delivered again");
    assert_eq!(broker.send(client, "62 02 0009"), "70020009");
    assert_eq!(broker.send(client, publish), format!("{message}{pubrec}"));
}

#[test]
fn acknowledgements_of_unknown_identifiers_are_answered_with_0x92_or_ignored() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    assert_eq!(broker.send(client, "40 02 0009"), "", "PUBACK");
    assert_eq!(broker.send(client, "50 02 0009"), "6203000992", "PUBREC");
    assert_eq!(broker.send(client, "62 02 0009"), "7003000992", "PUBREL");
    assert_eq!(broker.send(client, "70 02 0009"), "", "PUBCOMP");
    assert!(!broker.is_closed(client));
}

/// [MQTT-4.12.0-6]
#[test]
fn auth_without_a_method_is_a_protocol_error() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    // Re-authenticate, Authentication Method "x".
    assert_eq!(broker.send(client, "f0 06 19 04 15 0001 78"), "e00182");
    assert!(broker.is_closed(client));
}

/// [MQTT-4.13.1-1] [MQTT-3.6.1-1] [MQTT-3.8.1-1] [MQTT-3.10.1-1] [MQTT-2.2.1-2]
#[test]
fn malformed_packets_end_their_connection_with_the_code_and_nobody_elses() {
    let mut broker = Broker::new();
    let bystander = broker.v5('z');
    for (malformed, disconnect) in [
        ("60 02 0001", "e00181"),               // PUBREL with flags 0000.
        ("80 07 0001 00 0001 74 00", "e00181"), // SUBSCRIBE with flags 0000.
        ("a0 06 0001 00 0001 74", "e00181"),    // UNSUBSCRIBE with flags 0000.
        ("36 06 0001 74 0001 00", "e00181"),    // QoS 3.
        ("32 06 0001 74 0000 00", "e00182"),    // QoS 1 with Packet Identifier 0.
        ("82 03 0001 00", "e00182"),            // SUBSCRIBE without a filter.
    ] {
        let client = broker.v5('a');
        let answer = broker.send(client, malformed);
        assert_eq!(&answer[..4], &disconnect[..4], "{malformed}");
        assert!(
            ["81", "82"].contains(&&answer[4..]),
            "{malformed}: {answer}"
        );
        assert!(broker.is_closed(client));
    }
    // [v3.1.1 MQTT-3.1.4-1]: an earlier Client is told nothing.
    let client = broker.v311('b');
    assert_eq!(broker.send(client, "36 05 0001 74 0001"), "");
    assert!(broker.is_closed(client));
    assert_eq!(broker.send(bystander, "c000"), "d000");
}

/// [MQTT-4.8.2-5]
#[test]
fn a_leaving_member_hands_on_its_unacknowledged_messages_but_no_started_qos2() {
    let mut broker = Broker::new();
    let subscribe = format!("82 10 0001 00 000a {} 02", hex(b"$share/g/t"));
    let first = broker.v5('a');
    broker.send(first, &subscribe);
    let publisher = broker.v5('p');
    broker.send(
        publisher,
        "32 07 0001 74 0001 00 41  34 07 0001 74 0002 00 42",
    );
    assert_eq!(
        broker.receive(first),
        "3207000174000100413407000174000200 42".replace(' ', "")
    );
    let second = broker.v5('b');
    broker.send(second, &subscribe);
    assert_eq!(broker.receive(second), "");
    broker.lose(first);
    assert_eq!(broker.receive(second), "320700017400010041");
}

/// A QoS 0 PUBLISH to topic `t` with a payload of `size` bytes.
fn large_publish(size: usize) -> Vec<u8> {
    let mut packet = vec![0x30];
    let mut rest = size + 3;
    while rest > 0 {
        let more = if rest > 127 { 0x80 } else { 0 };
        packet.push((rest % 128) as u8 | more);
        rest /= 128;
    }
    packet.extend_from_slice(&[0, 1, b't']);
    packet.resize(packet.len() + size, b'x');
    packet
}

/// As much of what was taken as an outbox may have has not left the socket.
fn leave_unsent(broker: &mut Broker, client: ConnectionKey) {
    broker
        .shard
        .handle_unsent(client, OUTBOX_BYTES_MAX, broker.now, &mut broker.effects);
}

/// A broker with a publisher, and a subscriber to `t` who has not read what fills an outbox.
fn broker_with_a_slow_reader(limits: Limits) -> (Broker, ConnectionKey, ConnectionKey) {
    let mut broker = Broker::with(limits);
    let client = broker.v311('a');
    broker.send(client, "82 06 0001 0001 74 00");
    let publisher = broker.v311('p');
    leave_unsent(&mut broker, client);
    (broker, client, publisher)
}

#[test]
fn of_large_messages_a_slow_reader_gets_as_many_as_a_queue_has_though_one_fills_its_outbox() {
    let by_count = Limits {
        max_queued_messages: 8,
        ..Limits::default()
    };
    let by_bytes = Limits {
        max_queued_bytes: 8 * OUTBOX_BYTES_MAX + 100,
        ..Limits::default()
    };
    for limits in [by_count, by_bytes] {
        let (mut broker, client, publisher) = broker_with_a_slow_reader(limits);
        let large = large_publish(OUTBOX_BYTES_MAX);
        let dropped = |broker: &Broker| broker.shard.counters().dropped_outbox_full;
        // What is unsent counts as the first of them.
        for _ in 1..8 {
            broker.submit(publisher, &large);
        }
        assert_eq!(dropped(&broker), 0);
        broker.submit(publisher, &large);
        assert_eq!(dropped(&broker), 1, "no more than that");
        // Whoever sends before it reads must not wait for itself.
        broker.submit(client, PINGREQ);
        assert!(!broker.shard.is_paused(client), "it is still read");
        let mut output = Vec::new();
        broker.shard.take_output(client, &mut output);
        assert_eq!(output, [&large.repeat(7)[..], PINGRESP].concat());
    }
}

#[test]
fn small_messages_behind_large_ones_are_not_lost_before_as_many_wait_as_a_queue_has() {
    let (mut broker, client, publisher) = broker_with_a_slow_reader(Limits {
        max_queued_messages: 20,
        ..Limits::default()
    });
    let large = large_publish(OUTBOX_BYTES_MAX);
    let small = large_publish(1);
    broker.submit(publisher, &large);
    for _ in 0..18 {
        broker.submit(publisher, &small);
    }
    let dropped = |broker: &Broker| broker.shard.counters().dropped_outbox_full;
    assert_eq!(dropped(&broker), 0);
    broker.submit(publisher, &small);
    assert_eq!(dropped(&broker), 1);
    let mut output = Vec::new();
    broker.shard.take_output(client, &mut output);
    assert_eq!(output, [large, small.repeat(18)].concat());
}

#[test]
fn large_messages_beyond_outboxes_share_one_bound_and_give_back_what_was_read_or_left() {
    let limits = Limits {
        // Three payloads and what stands before them.
        memory_bytes_max: 3 * OUTBOX_BYTES_MAX + 100,
        ..Limits::default()
    };
    let (mut broker, first, publisher) = broker_with_a_slow_reader(limits);
    let second = broker.v311('b');
    let large = large_publish(OUTBOX_BYTES_MAX);
    let dropped = |broker: &Broker| broker.shard.counters().dropped_outbox_full;
    for _ in 0..3 {
        broker.submit(publisher, &large);
    }
    assert_eq!(dropped(&broker), 0);
    broker.submit(publisher, &large);
    assert_eq!(dropped(&broker), 1, "the bound of all");
    // Another has none of it either, and some once the first has read.
    broker.send(second, "82 06 0001 0001 74 00");
    leave_unsent(&mut broker, second);
    broker.submit(publisher, &large);
    assert_eq!(dropped(&broker), 3);
    broker.receive(first);
    leave_unsent(&mut broker, first);
    broker.submit(publisher, &large);
    assert_eq!(dropped(&broker), 3);
    // Who leaves gives back what it has.
    broker.lose(second);
    broker.submit(publisher, &large);
    broker.submit(publisher, &large);
    assert_eq!(dropped(&broker), 3);
    broker.submit(publisher, &large);
    assert_eq!(dropped(&broker), 4);
}

#[test]
fn a_slow_reader_loses_qos0_beyond_its_outbox_and_gets_qos1_when_it_reads_again() {
    let mut broker = Broker::with(Limits {
        max_queued_messages: 1,
        ..Limits::default()
    });
    let client = broker.v311('a');
    broker.send(client, "82 06 0001 0001 74 01");
    let publisher = broker.v311('p');
    leave_unsent(&mut broker, client);
    broker.send(publisher, "30 03 0001 74");
    broker.send(publisher, "32 05 0001 74 0001");
    assert_eq!(broker.shard.counters().dropped_outbox_full, 1);
    assert_eq!(broker.receive(client), "", "both wait or are gone");
    assert_eq!(
        broker.receive(client),
        "3205000174 0001".replace(' ', ""),
        "once it has"
    );
    assert_eq!(broker.shard.counters().dropped_queue_full, 0);
}

/// [MQTT-3.1.2-24] What a CONNACK need not say is left out for a Client that takes little; with less it hears nothing.
#[test]
fn answers_are_never_larger_than_the_client_takes() {
    for (largest, is_accepted) in [(7, false), (8, true), (15, true), (16, true)] {
        let mut broker = Broker::new();
        let limit = format!("27 {largest:08x}");
        let (client, connack) = broker.connect(&v5('a', CLEAN, "003c", &limit, ""));
        assert!(connack.len() / 2 <= largest, "{largest}: {connack}");
        assert_eq!(connack.starts_with("20"), is_accepted, "{largest}");
        assert_eq!(broker.is_closed(client), !is_accepted, "{largest}");
    }
    let mut broker = Broker::new();
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "27 00000010", ""));
    let filters = "0001 74 00".repeat(9);
    assert_eq!(
        broker.send(client, &format!("82 27 0001 00 {filters}")),
        "e00195"
    );
    assert!(broker.is_closed(client));
}

/// [MQTT-4.3.3-4] A Client that sends PUBREC again has not had PUBREL, and it is still under way.
#[test]
fn a_pubrec_that_comes_twice_is_answered_with_the_same_pubrel() {
    let mut broker = Broker::new();
    let client = broker.v5('a');
    broker.send(client, "82 07 0001 00 0001 74 02");
    let publisher = broker.v311('p');
    broker.send(publisher, "34 06 0001 74 0001 78");
    assert!(broker.receive(client).starts_with("34"));
    assert_eq!(broker.send(client, "50020001"), "62020001");
    assert_eq!(broker.send(client, "50020001"), "62020001");
    broker.send(client, "70020001");
    assert_eq!(broker.send(client, "50020001"), "6203000192", "it is over");
}

/// [MQTT-4.3.3-4] A message that its Client refuses has ended, and makes room for the next one.
#[test]
fn a_refused_qos2_message_lets_the_next_one_go_in_its_place() {
    let mut broker = Broker::new();
    // Receive Maximum 1.
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "21 0001", ""));
    broker.send(client, "82 07 0001 00 0001 74 02");
    let publisher = broker.v311('p');
    broker.send(publisher, "34 06 0001 74 0001 78 34 06 0001 74 0002 79");
    assert_eq!(
        broker.receive(client),
        "34070001740001 0078".replace(' ', "")
    );
    let next = broker.send(client, "50 03 0001 80");
    assert_eq!(next, "34070001740002 0079".replace(' ', ""));
}

/// The Will's Message Expiry Interval is the lifetime of what is published, which begins then.
#[test]
fn a_will_lives_as_long_as_it_says_from_its_publication_on() {
    let (mut broker, watcher) = watched();
    // Will Delay Interval 3, Message Expiry Interval 5.
    let will = "0a 18 00000003 02 00000005 0001 74 0001 78";
    let (client, _) = broker.connect(&v5('a', "06", "003c", HOUR, will));
    broker.lose(client);
    broker.pass(2);
    assert_eq!(broker.receive(watcher), "");
    broker.pass(1);
    let published = "300a00017405 0200000005 78".replace(' ', "");
    assert_eq!(broker.receive(watcher), published);
}

/// [MQTT-3.1.2-24] An alias may make the lengths in front of a packet longer as well.
#[test]
fn a_packet_that_an_alias_would_make_longer_by_its_length_too_is_sent_without_one() {
    let mut broker = Broker::new();
    // Maximum Packet Size 130, Topic Alias Maximum 1.
    let properties = "27 00000082 22 0001";
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", properties, ""));
    broker.send(client, "82 07 0001 00 0001 74 00");
    let publisher = broker.v5('p');
    // 127 bytes; with an alias there are 128 behind the fixed header, which is a byte longer then.
    let packet = format!("30 7d 0001 74 00 {}", "78".repeat(121));
    broker.send(publisher, &packet);
    assert_eq!(broker.receive(client), packet.replace(' ', ""));
    assert_eq!(broker.shard.counters().dropped_packet_too_large, 0);
    broker.send(publisher, "30 05 0001 74 00 79");
    let with_alias = "3008000174 03 230001 79".replace(' ', "");
    assert_eq!(broker.receive(client), with_alias, "none was used up");
}

/// A window of many messages must not fill an outbox beyond its bound when it is sent again.
#[test]
fn what_was_in_flight_is_sent_again_no_faster_than_it_is_read() {
    let mut broker = Broker::with(Limits {
        outbox_bytes_max: 50,
        ..Limits::default()
    });
    let (client, _) = broker.connect(&v311('a', RESUME));
    broker.send(client, "82 06 0001 0001 74 01");
    let publisher = broker.v311('p');
    for id in 1..=9 {
        let padding = "00".repeat(30);
        broker.send(publisher, &format!("32 23 0001 74 {id:04x} {padding}"));
        assert!(!broker.receive(client).is_empty());
    }
    broker.lose(client);
    let (client, mut output) = broker.connect(&v311('a', RESUME));
    let mut packets = String::new();
    while !output.is_empty() {
        assert!(output.len() / 2 <= 4 + 50 + 37, "{}", output.len() / 2);
        packets += &output;
        output = broker.receive(client);
    }
    assert_eq!(packets.matches("3a23000174").count(), 9);
}

/// What waits in outboxes beyond their bound, in queues and as Wills has one memory.
#[test]
fn a_message_for_a_client_that_is_away_finds_no_memory_if_others_do_not_read() {
    let limits = Limits {
        memory_bytes_max: 3 * OUTBOX_BYTES_MAX,
        ..Limits::default()
    };
    let (mut broker, reader, publisher) = broker_with_a_slow_reader(limits);
    let (away, _) = broker.connect(&v311('b', RESUME));
    broker.send(away, "82 06 0001 0001 71 01");
    broker.lose(away);
    let large = large_publish(OUTBOX_BYTES_MAX);
    broker.submit(publisher, &large);
    broker.submit(publisher, &large);
    let mut message = large_publish(OUTBOX_BYTES_MAX);
    let topic = message.len() - OUTBOX_BYTES_MAX - 1;
    message[topic] = b'q';
    message[0] |= 2;
    let dropped = |broker: &Broker| broker.shard.counters().dropped_memory_full;
    broker.submit(publisher, &message);
    assert_eq!(dropped(&broker), 1);
    broker.receive(reader);
    broker.submit(publisher, &message);
    assert_eq!(dropped(&broker), 1, "it has read");
}

/// [MQTT-3.3.2-5] It may have waited for its reader, and its lifetime have ended since the last look at such.
#[test]
fn a_retained_message_that_expires_while_it_waits_to_be_read_is_not_sent() {
    let mut broker = Broker::new();
    let publisher = broker.v5('p');
    // Message Expiry Interval 5.
    for publish in [
        "33 0c 0001 31 0001 05 02 00000005 78",
        "33 0c 0001 32 0002 05 02 00000005 79",
    ] {
        broker.send(publisher, publish);
    }
    // Receive Maximum 1.
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "21 0001", ""));
    let first = broker.send(client, "82 07 0001 00 0001 23 01");
    assert!(first.ends_with("05020000000578"), "{first}");
    broker.now = broker.now.add_seconds(5);
    assert_eq!(broker.send(client, "40020001"), "");
    assert_eq!(broker.shard.counters().dropped_expired, 1);
}

/// [MQTT-3.3.1-8] [MQTT-3.3.4-3] What was in flight, and what still waited to be read.
#[test]
fn retained_messages_of_a_subscription_come_with_retain_and_its_identifier_on_the_next_connection_too()
 {
    let mut broker = Broker::new();
    let publisher = broker.v5('p');
    for topic in ["72", "73"] {
        broker.send(publisher, &format!("33 07 0001 {topic} 0001 00 78"));
    }
    // Receive Maximum 1.
    let connect = v5('a', RESUME, "003c", &format!("{HOUR} 21 0001"), "");
    let (client, _) = broker.connect(&connect);
    // Subscription Identifier 9.
    let heard = broker.send(client, "82 09 0001 02 0b09 0001 23 01");
    assert!(heard.ends_with("3309000172 0001 020b09 78".replace(' ', "").as_str()));
    broker.lose(client);
    let (client, heard) = broker.connect(&connect);
    let again = "3b09000172 0001 020b09 78".replace(' ', "");
    assert!(heard.ends_with(&again), "{heard}");
    let heard = broker.send(client, "40 02 0001");
    assert_eq!(heard, "3309000173 0002 020b09 78".replace(' ', ""));
}

/// [MQTT-3.8.3-3] is for what its own Client publishes: what others change comes as it changes, and once.
#[test]
fn a_retained_message_that_others_change_while_it_waits_to_be_read_comes_once_though_no_local_is_asked_for()
 {
    let mut broker = Broker::new();
    let publisher = broker.v5('p');
    for topic in ["72", "73"] {
        broker.send(publisher, &format!("33 07 0001 {topic} 0001 00 78"));
    }
    // Receive Maximum 1.
    let (client, _) = broker.connect(&v5('a', CLEAN, "003c", "21 0001", ""));
    let heard = broker.send(client, "82 07 0001 00 0001 23 05");
    assert_eq!(heard, "9004000100013307000172000100 78".replace(' ', ""));
    broker.send(publisher, "33 07 0001 73 0001 00 79");
    let heard = broker.send(client, "40 02 0001");
    assert_eq!(heard, "3207000173000200 79".replace(' ', ""));
    assert_eq!(broker.send(client, "40 02 0002"), "");
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25] The same of one that all of them would share.
#[test]
fn a_large_packet_for_many_goes_to_those_who_take_one_of_its_size_and_to_no_others() {
    let mut broker = Broker::new();
    // Maximum Packet Size 200,000.
    let does_not = broker.connect(&v5('a', CLEAN, "003c", "27 00030d40", "")).0;
    let takes_it = broker.v5('b');
    for client in [does_not, takes_it] {
        broker.send(client, "82 07 0001 00 0001 74 00");
    }
    let publisher = broker.v311('p');
    broker.submit(publisher, &large_publish(200_000));
    assert_eq!(broker.receive(does_not), "");
    assert_eq!(broker.shard.counters().dropped_packet_too_large, 1);
    // Without properties, whose length takes a byte.
    broker.submit(publisher, &large_publish(200_000 - 4 - 3 - 1));
    let piece = |_| Some(broker.receive(does_not).len() / 2).filter(|&size| size > 0);
    assert_eq!((0..).map_while(piece).sum::<usize>(), 200_000);
    assert_eq!(broker.shard.counters().dropped_packet_too_large, 1);
}

/// [MQTT-3.3.2-9] A Client that was told of no Topic Alias Maximum because it takes no CONNACK of that size has none.
#[test]
fn a_client_whose_connack_had_no_room_for_it_may_use_no_topic_alias() {
    for (largest, answer, is_closed) in [("0000000f", "e00194", true), ("00000010", "", false)] {
        let mut broker = Broker::new();
        let limit = format!("27 {largest}");
        let (client, _) = broker.connect(&v5('a', CLEAN, "003c", &limit, ""));
        let heard = broker.send(client, "30 08 0001 74 03 23 0001 78");
        assert_eq!(heard, answer, "{largest}");
        assert_eq!(broker.is_closed(client), is_closed, "{largest}");
    }
}

/// [MQTT-3.1.2-24] [MQTT-3.1.2-25]
#[test]
fn a_packet_for_many_goes_to_those_who_take_one_of_its_size_and_to_no_others() {
    let mut broker = Broker::new();
    // A PUBLISH of 12 bytes; Maximum Packet Size 12 and 11.
    let takes_it = broker.connect(&v5('a', CLEAN, "003c", "27 0000000c", "")).0;
    let does_not = broker.connect(&v5('b', CLEAN, "003c", "27 0000000b", "")).0;
    for client in [takes_it, does_not] {
        broker.send(client, "82 07 0001 00 0001 74 01");
    }
    let publisher = broker.v5('p');
    broker.send(publisher, "32 0a 0001 74 0007 00 01020304");
    assert_eq!(broker.receive(takes_it), "320a00017400010001020304");
    assert_eq!(broker.receive(does_not), "");
    assert_eq!(broker.shard.counters().dropped_packet_too_large, 1);
}

/// [MQTT-4.3.3-4]
#[test]
fn the_identifier_of_a_qos2_message_that_is_refused_is_free_for_the_next_one() {
    let mut broker = Broker::with(Limits {
        max_retained_messages: 0,
        ..Limits::default()
    });
    let watcher = broker.v5('w');
    broker.send(watcher, "82 07 0001 00 0001 74 00");
    let publisher = broker.v5('p');
    let refused = broker.send(publisher, "35 07 0001 74 0001 00 78");
    assert_eq!(refused, "5003000197");
    assert_eq!(
        broker.send(publisher, "34 07 0001 74 0001 00 79"),
        "50020001"
    );
    assert_eq!(broker.receive(watcher), "300500017400 79".replace(' ', ""));
}

fn queued(broker: &Broker) -> (u64, u64) {
    let mut shown = Snapshot::default();
    broker.shard.show(&mut shown);
    (shown.gauges.queued_messages, shown.gauges.queued_bytes)
}

/// What is handed on waits with its new owner and nowhere else.
#[test]
fn what_a_member_that_unsubscribes_or_ends_hands_on_counts_once() {
    let mut broker = Broker::new();
    // Receive Maximum 1: the second message waits.
    let connect = |name, flags| v5(name, flags, "0000", &format!("{HOUR} 21 0001"), "");
    let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74 01";
    let unsubscribe = "a2 0f 0001 00 000a 24736861 72652f67 2f74";
    let (first, _) = broker.connect(&connect('a', CLEAN));
    broker.send(first, subscribe);
    let publisher = broker.v311('p');
    for id in 1..=3 {
        broker.send(publisher, &format!("32 06 0001 74 {id:04x} 78"));
    }
    assert_eq!(queued(&broker), (2, 4));
    let (second, _) = broker.connect(&connect('b', CLEAN));
    broker.send(second, subscribe);
    broker.send(first, unsubscribe);
    assert_eq!(queued(&broker), (1, 2), "one is on its way to the second");
    let (third, _) = broker.connect(&connect('c', CLEAN));
    broker.send(third, subscribe);
    broker.lose(second);
    // It is gone for good: what it had not acknowledged goes on too.
    broker.connect(&connect('b', CLEAN));
    assert_eq!(queued(&broker), (1, 2), "one is on its way to the third");
    broker.receive(third);
    broker.send(third, "40020001 40020002");
    assert_eq!(queued(&broker), (0, 0));
    // There is nobody to have what waits for it.
    for id in 1..=3 {
        broker.send(publisher, &format!("32 06 0001 74 {id:04x} 78"));
    }
    assert_eq!(broker.shard.counters().dropped_unsubscribed, 0);
    broker.send(third, unsubscribe);
    assert_eq!(queued(&broker), (0, 0));
    assert_eq!(broker.shard.counters().dropped_unsubscribed, 2);
}

/// [MQTT-3.3.2-5]
#[test]
fn what_has_expired_is_not_handed_on() {
    let mut broker = Broker::new();
    let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74 01";
    let (away, _) = broker.connect(&v5('a', CLEAN, "0000", HOUR, ""));
    broker.send(away, subscribe);
    broker.lose(away);
    let publisher = broker.v5('p');
    broker.send(publisher, "32 0c 0001 74 0001 05 02 00000001 78");
    let member = broker.v5('b');
    broker.send(member, subscribe);
    broker.pass(1);
    broker.connect(&v5('a', CLEAN, "0000", "", ""));
    assert_eq!(broker.receive(member), "");
    let counters = broker.shard.counters();
    assert_eq!(
        (counters.dropped_expired, counters.shared_handed_on),
        (1, 0)
    );
}

/// [MQTT-3.8.4-4] is for subscriptions that are not shared: those are sent nothing that is retained.
#[test]
fn a_member_of_a_group_is_sent_no_retained_messages_when_it_subscribes() {
    let mut broker = Broker::new();
    let publisher = broker.v311('p');
    broker.send(publisher, "33 06 0001 74 0001 78");
    let member = broker.v5('a');
    let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74 01";
    for _ in 0..2 {
        assert_eq!(broker.send(member, subscribe), "900400010001");
    }
}

/// [MQTT-3.3.1-12]
#[test]
fn a_member_of_a_group_is_told_that_a_message_is_retained_only_if_it_asks_for_that() {
    let mut broker = Broker::new();
    let publisher = broker.v311('p');
    // Retain As Published is the fourth bit.
    for (options, first_byte) in [("00", "30"), ("08", "31")] {
        let member = broker.v5('a');
        let subscribe = "82 10 0001 00 000a 24736861 72652f67 2f74";
        broker.send(member, &format!("{subscribe} {options}"));
        broker.send(publisher, "31 04 0001 74 78");
        assert_eq!(
            broker.receive(member),
            format!("{first_byte}0500017400 78").replace(' ', "")
        );
        broker.lose(member);
    }
}

/// [MQTT-3.1.2-23] An interval that was interrupted says nothing of the next one.
#[test]
fn a_session_that_is_resumed_in_time_does_not_end_while_it_is_connected() {
    let mut broker = Broker::new();
    // Session Expiry Interval 10.
    let connect = v5('a', RESUME, "0000", "11 0000000a", "");
    let (client, _) = broker.connect(&connect);
    broker.send(client, "82 07 0001 00 0001 74 00");
    broker.lose(client);
    broker.pass(5);
    let (client, _) = broker.connect(&connect);
    broker.pass(10);
    let publisher = broker.v311('p');
    broker.send(publisher, "30 04 0001 74 78");
    assert_eq!(broker.receive(client), "30050001740078");
    broker.lose(client);
    broker.pass(9);
    assert_eq!(broker.shard.census().sessions, 2);
    broker.pass(1);
    assert_eq!(broker.shard.census().sessions, 1);
    // What ends with its connection does not count as expired.
    broker.lose(publisher);
    assert_eq!(broker.shard.counters().sessions_expired, 1);
}

/// [MQTT-3.1.2-8] A Session that another CONNECT ends has a Will to be published before its delay is over.
#[test]
fn a_will_that_waits_is_published_when_a_clean_start_ends_its_session() {
    let (mut broker, watcher) = watched();
    let will = "05 18 0000000a 0001 74 0001 78";
    let (client, _) = broker.connect(&v5('a', "06", "003c", HOUR, will));
    broker.lose(client);
    assert_eq!(broker.receive(watcher), "");
    broker.connect(&v5('a', CLEAN, "003c", HOUR, ""));
    assert_eq!(broker.receive(watcher), "30050001740078");
}

/// [MQTT-3.1.2-24] Without CONNACK nothing was promised, and nobody hears of a Will.
#[test]
fn a_client_that_takes_no_connack_leaves_no_will() {
    let (mut broker, watcher) = watched();
    let will = "00 0001 74 0001 78";
    let (client, connack) = broker.connect(&v5('a', "06", "003c", "27 00000007", will));
    assert_eq!((connack.as_str(), broker.is_closed(client)), ("", true));
    broker.pass(1);
    assert_eq!(broker.receive(watcher), "");
}

/// [MQTT-4.8.2-4] Who is back is one of them again.
#[test]
fn a_member_of_a_group_that_comes_back_has_its_turns_again() {
    let mut broker = Broker::new();
    let connect = |name| v5(name, RESUME, "0000", HOUR, "");
    let members = ['a', 'b'].map(|name| {
        let (client, _) = broker.connect(&connect(name));
        broker.send(client, "82 10 0001 00 000a 24736861 72652f67 2f74 00");
        client
    });
    broker.lose(members[1]);
    let (again, _) = broker.connect(&connect('b'));
    let publisher = broker.v311('p');
    for _ in 0..4 {
        broker.send(publisher, "30 04 0001 74 78");
    }
    for member in [members[0], again] {
        assert_eq!(broker.receive(member), "30050001740078".repeat(2));
    }
}

/// One of two shards, and a Client of it.
fn half_a_broker(limits: Limits) -> (Broker, ConnectionKey) {
    let mut broker = Broker {
        shard: Shard::new(ShardId(0), 2, limits, 1),
        effects: Effects::default(),
        now: Instant::ZERO,
    };
    let names = ('a'..='z').find(|name| broker.shard.shard_of(&name.to_string()) == ShardId(0));
    let client = broker.v311(names.expect("one of many"));
    (broker, client)
}

/// The other shard says what it wants.
fn hear_of_interest(broker: &mut Broker, filter: &[u8]) {
    let interest = Envelope::Interest {
        sequence: 1,
        filter: filter.into(),
        interest: Interest::PLAIN,
    };
    let Broker {
        shard,
        effects,
        now,
    } = broker;
    shard.handle_envelope(ShardId(1), interest, usize::MAX, *now, effects);
    shard.outbound(ShardId(1)).clear();
}

/// Sends as many of a packet as it takes, and tells how many of `count` were taken.
fn taken(broker: &mut Broker, client: ConnectionKey, packet: &str, count: usize) -> usize {
    let packet = bytes(packet);
    let Broker {
        shard,
        effects,
        now,
    } = broker;
    let consumed = shard.handle_bytes(client, &packet.repeat(count), *now, effects);
    consumed / packet.len()
}

/// What every shard has to have, or what is acknowledged, is not read while there is no room for it, and its Client is
/// not blamed for being silent.
#[test]
fn a_full_ring_stops_who_publishes_what_must_not_be_lost_until_it_has_room() {
    // A retained message has an envelope of its own, small others one for 32.
    for (publish, expected) in [("31 04 0001 74 78", 2), ("32 06 0001 74 0001 78", 33)] {
        let (mut broker, client) = half_a_broker(Limits {
            peer_backlog_max: 2,
            ..Limits::default()
        });
        hear_of_interest(&mut broker, b"t");
        assert_eq!(
            taken(&mut broker, client, publish, 100),
            expected,
            "{publish}"
        );
        assert!(broker.shard.is_paused(client));
        broker.pass(200);
        assert!(!broker.is_closed(client), "it is not read");
        broker.shard.outbound(ShardId(1)).clear();
        broker.shard.handle_ring_room(&mut broker.effects);
        assert_eq!(broker.effects.resumed, [client]);
        assert_eq!(taken(&mut broker, client, publish, 1), 1);
        broker.pass(90);
        assert!(broker.is_closed(client), "it could have said something");
    }
}

/// [MQTT-4.8.2-4] A shard that was chosen may have no member any more.
#[test]
fn a_message_of_a_group_goes_on_if_its_last_member_left_while_it_came() {
    let (mut broker, _) = half_a_broker(Limits::default());
    let filter = b"$share/g/t";
    hear_of_interest(&mut broker, filter);
    let envelope = Envelope::PublishShared {
        message: Message::new(MessageRef {
            topic_name: b"t",
            properties: b"",
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: None,
        })
        .into(),
        filter: filter[..].into(),
        first: ShardId(0),
    };
    let Broker {
        shard,
        effects,
        now,
    } = &mut broker;
    shard.handle_envelope(ShardId(1), envelope, usize::MAX, *now, effects);
    let sent = shard.outbound(ShardId(1)).pop_front();
    let goes_on =
        matches!(sent, Some(Envelope::PublishShared { first, .. }) if first == ShardId(1));
    assert!(goes_on, "{sent:?}");
}

/// [MQTT-3.3.2-5] It may have waited for room in a ring.
#[test]
fn a_message_of_a_group_that_has_expired_on_its_way_from_another_shard_goes_to_nobody() {
    let (mut broker, member) = half_a_broker(Limits::default());
    broker.submit(member, &bytes("82 0f 0001 000a 24736861 72652f67 2f74 01"));
    let acknowledged = Envelope::InterestAck { sequence: 1 };
    broker.now = broker.now.add_seconds(10);
    let at = broker.now;
    let message = |expires_at| Envelope::PublishShared {
        message: Message::new(MessageRef {
            topic_name: b"t",
            properties: b"",
            payload: b"x",
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at: Some(expires_at),
        })
        .into(),
        filter: b"$share/g/t"[..].into(),
        first: ShardId(0),
    };
    for envelope in [acknowledged, message(at), message(at.add_seconds(1))] {
        let Broker {
            shard,
            effects,
            now,
        } = &mut broker;
        shard.handle_envelope(ShardId(1), envelope, usize::MAX, *now, effects);
    }
    let heard = broker.receive(member);
    assert_eq!(heard, "9003000101 3206000174000178".replace(' ', ""));
    assert_eq!(broker.shard.counters().dropped_expired, 1);
}

/// [MQTT-3.8.4-1] What follows a SUBSCRIBE waits with its SUBACK, however long other shards take.
#[test]
fn a_client_whose_suback_waits_for_another_shard_is_not_read_and_not_blamed_for_it() {
    let (mut broker, client) = half_a_broker(Limits::default());
    assert_eq!(broker.send(client, "82 06 0001 0001 74 00"), "");
    assert!(broker.shard.is_paused(client));
    assert_eq!(taken(&mut broker, client, "c000", 1), 0);
    broker.pass(200);
    assert!(!broker.is_closed(client));
    let Broker {
        shard,
        effects,
        now,
    } = &mut broker;
    let acknowledged = Envelope::InterestAck { sequence: 1 };
    shard.handle_envelope(ShardId(1), acknowledged, usize::MAX, *now, effects);
    assert_eq!(broker.effects.resumed, [client]);
    assert_eq!(broker.send(client, "c000"), "9003000100d000");
}

/// [MQTT-3.8.4-3] Who has as many Subscriptions as it may have can still change them.
#[test]
fn a_subscription_is_replaced_though_there_may_be_no_more_of_them() {
    let mut broker = Broker::with(Limits {
        max_subscriptions: 1,
        ..Limits::default()
    });
    let client = broker.v5('a');
    let suback = |code: &str| format!("9004000100{code}");
    assert_eq!(
        broker.send(client, "82 07 0001 00 0001 74 00"),
        suback("00")
    );
    assert_eq!(
        broker.send(client, "82 07 0001 00 0001 75 00"),
        suback("97")
    );
    assert_eq!(
        broker.send(client, "82 07 0001 00 0001 74 01"),
        suback("01")
    );
}

#[test]
fn a_reader_that_catches_up_again_and_again_loses_nothing_that_a_queue_would_have_room_for() {
    let (mut broker, client, publisher) = broker_with_a_slow_reader(Limits {
        max_queued_messages: 20,
        ..Limits::default()
    });
    for _ in 0..5 {
        leave_unsent(&mut broker, client);
        for _ in 0..18 {
            broker.submit(publisher, &large_publish(1));
        }
        broker.receive(client);
    }
    assert_eq!(broker.shard.counters().dropped_outbox_full, 0);
}

/// A removed message leaves a version behind until no older one can come, and not for longer.
#[test]
fn what_a_removed_retained_message_leaves_is_forgotten_once_the_other_shard_is_past_it() {
    let (mut broker, client) = half_a_broker(Limits::default());
    broker.send(client, "31 04 0001 74 78 31 03 0001 74");
    broker.shard.outbound(ShardId(1)).clear();
    broker.pass(1);
    let asked = broker.shard.outbound(ShardId(1)).pop_front();
    assert!(
        matches!(asked, Some(Envelope::ClockRequest { clock: 2 })),
        "{asked:?}"
    );
    let mut say = |envelope| {
        let Broker {
            shard,
            effects,
            now,
        } = &mut broker;
        shard.handle_envelope(ShardId(1), envelope, usize::MAX, *now, effects);
        let answer = shard.outbound(ShardId(1)).pop_front();
        (shard.census().tombstones, answer)
    };
    assert_eq!(say(Envelope::Clock { clock: 1 }).0, 1);
    assert_eq!(say(Envelope::Clock { clock: 2 }).0, 0);
    // Who is asked is past what the other one has written from then on.
    let (_, answer) = say(Envelope::ClockRequest { clock: 50 });
    assert!(
        matches!(answer, Some(Envelope::Clock { clock: 50 })),
        "{answer:?}"
    );
}

/// [MQTT-4.6.0-5] Who has a message by two ways has one message after the other.
#[test]
fn messages_that_come_together_are_in_order_for_who_is_in_a_group_as_well() {
    let mut broker = Broker::new();
    let client = broker.v311('a');
    broker.send(
        client,
        "82 06 0001 0001 74 00 82 0f 0001 000a 24736861 72652f67 2f74 00",
    );
    let publisher = broker.v311('p');
    let (first, second) = ("300400017478", "300400017479");
    for _ in 0..2 {
        broker.send(publisher, &format!("{first}{second}"));
        let expected = [first, first, second, second].concat();
        assert_eq!(broker.receive(client), expected);
    }
}
