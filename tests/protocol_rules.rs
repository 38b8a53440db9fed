//! Normative statements, one test each, in the bytes of the specification.

#[path = "support/hex.rs"]
mod hex;

use fastmq::key::ConnectionKey;
use fastmq::limits::Limits;
use hex::{Broker, hex};

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
    let mut broker = Broker::new();
    let watcher = broker.v5('w');
    broker.send(watcher, "82 07 0001 00 0001 74 00");
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
    let mut broker = Broker::new();
    let watcher = broker.v5('w');
    broker.send(watcher, "82 07 0001 00 0001 74 00");
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
