//! Bridges: what each directive sets, what belongs to which, and what is wrong.

use super::{Memory, bad, good, parse, remarks};
use crate::config::{
    Bridge, BridgeAddress, BridgeTls, BridgeTopic, Config, Direction, FileReference,
    RestartTimeout, Severity, StartType, TcpKeepAlive, TlsVersion,
};
use crate::limits::{BRIDGE_ADDRESSES_MAX, BRIDGE_TOPICS_MAX, BRIDGES_MAX};
use crate::message::{ProtocolVersion, QoS};
use std::time::Duration;

/// A bridge that is complete.
const PLAIN: &str = "connection b\naddress h\ntopic #\n";

/// The one bridge of a configuration.
fn only(text: &str) -> Bridge {
    let mut config = good(text);
    assert_eq!(config.bridges.len(), 1, "{text}");
    config.bridges.remove(0)
}

fn tls(bridge: &Bridge) -> &BridgeTls {
    bridge.tls.as_ref().unwrap()
}

fn is(file: &Option<FileReference>, path: &str) -> bool {
    file.as_ref()
        .is_some_and(|file| file.path.to_str() == Some(path))
}

fn seconds(number: u64) -> Duration {
    Duration::from_secs(number)
}

fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref()
}

/// A directive and what else it needs, as written below [`PLAIN`], and whether the bridge has what it asks for. Without
/// its first line it has not.
type Row = (&'static str, fn(&Bridge) -> bool);

pub(super) const ROWS: &[Row] = &[
    ("bridge_alpn mqtt\nbridge_cafile a", |it| {
        text(&tls(it).alpn) == Some("mqtt")
    }),
    ("bridge_attempt_unsubscribe false", |it| {
        !it.attempt_unsubscribe
    }),
    ("bridge_bind_address 10.0.0.1", |it| {
        text(&it.bind_address) == Some("10.0.0.1")
    }),
    ("bridge_cafile a b.pem\nbridge_capath c", |it| {
        is(&tls(it).cafile, "a b.pem")
    }),
    ("bridge_capath c\nbridge_cafile a", |it| {
        is(&tls(it).capath, "c")
    }),
    (
        "bridge_certfile c\nbridge_keyfile k\nbridge_cafile a",
        |it| is(&tls(it).certfile, "c"),
    ),
    (
        "bridge_keyfile k\nbridge_certfile c\nbridge_cafile a",
        |it| is(&tls(it).keyfile, "k"),
    ),
    ("bridge_ciphers A:B\nbridge_cafile a", |it| {
        text(&tls(it).ciphers) == Some("A:B")
    }),
    ("bridge_ciphers_tls1.3 A:B\nbridge_cafile a", |it| {
        text(&tls(it).ciphers_tls13) == Some("A:B")
    }),
    ("bridge_insecure true\nbridge_cafile a", |it| {
        tls(it).insecure
    }),
    ("bridge_tls_use_os_certs true\nbridge_cafile a", |it| {
        tls(it).use_os_certs
    }),
    ("bridge_tls_version tlsv1.3\nbridge_cafile a", |it| {
        tls(it).version_min == TlsVersion::V13
    }),
    ("bridge_max_packet_size 1000", |it| {
        it.max_packet_size == Some(1000)
    }),
    ("bridge_max_topic_alias 0", |it| it.max_topic_alias == 0),
    ("bridge_outgoing_retain false", |it| !it.outgoing_retain),
    ("bridge_reload_type immediate", |it| it.is_reloaded_at_once),
    ("bridge_protocol_version mqttv50", |it| {
        it.protocol_version == ProtocolVersion::V5
    }),
    ("bridge_receive_maximum 65535", |it| {
        it.receive_maximum == Some(65_535)
    }),
    ("bridge_session_expiry_interval 0xFFFFFFFF", |it| {
        it.session_expiry_interval_s == Some(u32::MAX)
    }),
    ("bridge_tcp_keepalive 60 10 3", |it| {
        it.tcp_keepalive
            == Some(TcpKeepAlive {
                idle: seconds(60),
                interval: seconds(10),
                counter: 3,
            })
    }),
    ("bridge_tcp_user_timeout 1500", |it| {
        it.tcp_user_timeout == Some(Duration::from_millis(1500))
    }),
    ("cleansession true", |it| it.clean_session),
    ("clientid x y", |it| {
        text(&it.remote_clientid) == Some("x y")
    }),
    ("remote_clientid x y", |it| {
        text(&it.remote_clientid) == Some("x y")
    }),
    ("local_clientid x", |it| {
        text(&it.local_clientid) == Some("x")
    }),
    ("username x", |it| text(&it.remote_username) == Some("x")),
    ("remote_username x", |it| {
        text(&it.remote_username) == Some("x")
    }),
    ("password # x\nusername u", |it| {
        text(&it.remote_password) == Some("# x")
    }),
    ("remote_password p\nusername u", |it| {
        text(&it.remote_password) == Some("p")
    }),
    ("local_username x", |it| {
        text(&it.local_username) == Some("x")
    }),
    ("local_password p\nlocal_username x", |it| {
        text(&it.local_password) == Some("p")
    }),
    ("keepalive_interval 5", |it| it.keepalive == seconds(5)),
    ("local_cleansession false", |it| {
        it.local_clean_session == Some(false)
    }),
    ("notification_topic a/b", |it| {
        text(&it.notification_topic) == Some("a/b")
    }),
    ("notifications false", |it| !it.notifications),
    ("notifications_local_only true", |it| {
        it.notifications_local_only
    }),
    ("restart_timeout 20", |it| {
        it.restart == RestartTimeout::Constant(seconds(20))
    }),
    ("round_robin true", |it| it.round_robin),
    ("start_type once", |it| it.start_type == StartType::Once),
    ("try_private false", |it| !it.try_private),
];

/// They are in every bridge, or tested below.
pub(super) const ELSEWHERE: [&str; 4] = ["connection", "address", "addresses", "topic"];

#[test]
fn each_directive_sets_what_it_is_for() {
    for (text, has) in ROWS {
        let bridge = only(&format!("{PLAIN}{text}"));
        assert!(has(&bridge), "{text}");
        let name = text.split(' ').next().unwrap();
        assert_eq!(bridge.place_of(name).line, 4, "{text}");
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        if let Ok(without) = parse(format!("{PLAIN}{rest}")) {
            let without = &without.bridges[0];
            assert!(
                without.tls.is_none() && name.starts_with("bridge_ca") || !has(without),
                "so without it: {text}"
            );
            assert_eq!(*without.place_of(name), without.place, "{text}");
        }
    }
}

#[test]
fn a_bridge_that_says_little_is_as_in_mosquitto() {
    let bridge = only("connection b\naddress h\ntopic #");
    assert_eq!(bridge.name, "b");
    assert_eq!(bridge.place.to_string(), "m.conf:1");
    assert_eq!(bridge.keepalive, seconds(60));
    let (base, cap) = (seconds(5), seconds(30));
    assert_eq!(bridge.restart, RestartTimeout::Backoff { base, cap });
    assert_eq!(bridge.start_type, StartType::Automatic);
    assert_eq!(bridge.protocol_version, ProtocolVersion::V311);
    assert_eq!(bridge.max_topic_alias, 10);
    assert_eq!(bridge.max_packet_size, None);
    assert!(bridge.notifications && !bridge.notifications_local_only);
    assert!(bridge.try_private && bridge.attempt_unsubscribe && bridge.outgoing_retain);
    assert!(!bridge.clean_session && !bridge.round_robin);
    assert_eq!(bridge.local_clean_session, None);
    assert_eq!(bridge.tls, None);
}

#[test]
fn addresses_are_hosts_with_and_without_ports() {
    let at = |host: &str, port| BridgeAddress {
        host: host.to_owned(),
        port,
    };
    for name in ["address", "addresses"] {
        let bridge = only(&format!(
            "connection b\ntopic #\n{name} h example.org:1 10.0.0.1:65535 [::1] [2001:db8::1]:2 ::1:1884 \
             [fe80::1%eth0]:3 # comment"
        ));
        assert_eq!(
            bridge.addresses,
            [
                at("h", 1883),
                at("example.org", 1),
                at("10.0.0.1", 65_535),
                at("::1", 1883),
                at("2001:db8::1", 2),
                at("::1", 1884),
                at("fe80::1%eth0", 3),
            ]
        );
    }
    for wrong in [
        "h:0",
        "h:65536",
        "h:",
        "h:+1",
        "h:x",
        ":1",
        "::1",
        "[::1",
        "[::1]x",
        "[h]:1",
        "[]",
        "1:2:3:4:5:6:7:8",
        "h:1:2",
    ] {
        let said = bad(format!("connection b\ntopic #\naddress h {wrong}"));
        assert!(
            said.starts_with(&format!("Error: Invalid 'address' value ({wrong}): "))
                && said.ends_with("m.conf:3."),
            "{said}"
        );
    }
    // With TLS as well.
    let bridge = only("connection b\ntopic #\nbridge_cafile a\naddress h");
    assert_eq!(bridge.addresses, [at("h", 1883)]);
    let many = "h ".repeat(BRIDGE_ADDRESSES_MAX);
    good(&format!("connection b\ntopic #\naddress {many}"));
    assert!(bad(format!("connection b\ntopic #\naddress {many} h")).contains("may be 64"));
}

fn topic(line: &str) -> BridgeTopic {
    let mut bridge = only(&format!("connection b\naddress h\n{line}"));
    assert_eq!(bridge.topics.len(), 1, "{line}");
    bridge.topics.remove(0)
}

#[test]
fn topics_have_a_direction_a_qos_and_a_filter_on_each_side() {
    use Direction::{Both, In, Out};
    use QoS::{AtLeastOnce, AtMostOnce, ExactlyOnce};
    for (line, direction, qos, local, remote) in [
        ("topic #", Out, AtMostOnce, ("", "#"), ("", "#")),
        ("topic # # all", Out, AtMostOnce, ("", "#"), ("", "#")),
        ("topic a/+ in", In, AtMostOnce, ("", "a/+"), ("", "a/+")),
        ("topic # OUT 1", Out, AtLeastOnce, ("", "#"), ("", "#")),
        (
            "topic\t#  both 2 l/ r/",
            Both,
            ExactlyOnce,
            ("l/", "l/#"),
            ("r/", "r/#"),
        ),
        ("topic p in 0 l/", In, AtMostOnce, ("l/", "l/p"), ("", "p")),
        (
            "topic p in 0 l/ \"\"",
            In,
            AtMostOnce,
            ("l/", "l/p"),
            ("", "p"),
        ),
        (
            "topic p in 0 \"\" r/ # x",
            In,
            AtMostOnce,
            ("", "p"),
            ("r/", "r/p"),
        ),
        (
            "topic p in 0 \"\" \"\"",
            In,
            AtMostOnce,
            ("", "p"),
            ("", "p"),
        ),
        (
            "topic \"\" in 0 l/x r/y",
            In,
            AtMostOnce,
            ("l/x", "l/x"),
            ("r/y", "r/y"),
        ),
        (
            "topic \"a b/#\" in 1",
            In,
            AtLeastOnce,
            ("", "a b/#"),
            ("", "a b/#"),
        ),
        (
            "topic \"a b\" in 1 l/ r/",
            In,
            AtLeastOnce,
            ("l/", "l/a b"),
            ("r/", "r/a b"),
        ),
        (
            "topic clients/+ in 0 m/ $SYS/broker/",
            In,
            AtMostOnce,
            ("m/", "m/clients/+"),
            ("$SYS/broker/", "$SYS/broker/clients/+"),
        ),
        ("topic p in 0 a b", In, AtMostOnce, ("a", "ap"), ("b", "bp")),
    ] {
        let expected = BridgeTopic {
            direction,
            qos,
            local_filter: local.1.to_owned(),
            remote_filter: remote.1.to_owned(),
            local_prefix: local.0.to_owned(),
            remote_prefix: remote.0.to_owned(),
        };
        assert_eq!(topic(line), expected, "{line}");
    }
}

#[test]
fn a_topic_that_mosquitto_would_not_take_or_take_for_another_one_is_an_error() {
    for (value, said) in [
        ("", "Empty 'topic' value"),
        (
            "a/#/b",
            "Invalid 'topic' value (a/#/b): # must be the whole last level",
        ),
        ("a+", "Invalid 'topic' value (a+): + must be a whole level"),
        ("a up", "(up): the direction must be out, in or both"),
        ("a in 3", "(3): the QoS must be from 0 to 2"),
        ("a in x", "(x): the QoS must be from 0 to 2"),
        ("a in -1", "(-1): the QoS must be from 0 to 2"),
        (
            "a in 0 l/+/",
            "(l/+/): as a prefix, a Topic Name has no wildcards",
        ),
        (
            "a in 0 l r/#",
            "(r/#): as a prefix, a Topic Name has no wildcards",
        ),
        ("# in 0 l", "(l#): # must be the whole last level"),
        ("# in 0 l/ r", "(r#): # must be the whole last level"),
        ("+/x in 0 \"\" r", "(r+/x): + must be a whole level"),
        (
            "a in 0 l/ r/ more",
            "(more): nothing may follow the prefixes",
        ),
        (
            "a in 0 \"my l/\" r/",
            "(\"my): a prefix cannot stand in quotes",
        ),
        ("\"\"", "(\"\"): a pattern of nothing needs both prefixes"),
        (
            "\"\" in 0 l",
            "(\"\"): a pattern of nothing needs both prefixes",
        ),
        (
            "\"\" in 0 \"\" r",
            "(\"\"): a pattern of nothing needs both prefixes",
        ),
        (
            "\"\" in 0 \"\" \"\"",
            "(\"\"): a pattern of nothing needs both prefixes",
        ),
        ("\"a b in 0", "(\"a b in 0): the closing quote is missing"),
        (
            "\"a b\"in 0",
            "(\"a b\"in 0): a blank has to follow the closing quote",
        ),
        (
            "$share/g/a in",
            "($share/g/a): a shared subscription would lose messages",
        ),
        (
            "g/a in 0 \"\" $share/",
            "($share/g/a): a shared subscription",
        ),
        ("a\u{7}b", "it holds a control character"),
    ] {
        let error = bad(format!("connection b\naddress h\ntopic {value}"));
        assert!(error.contains(said), "{value}: {error}");
        assert!(error.ends_with("m.conf:3."), "{value}: {error}");
    }
    let deep = "a/".repeat(201);
    assert!(bad(format!("connection b\naddress h\ntopic {deep}x")).contains("more than 201"));
    let long = "a".repeat(65_530);
    good(&format!("connection b\naddress h\ntopic {long}"));
    assert!(
        bad(format!("connection b\naddress h\ntopic {long} in 0 abcdef")).contains("65535 bytes")
    );
}

#[test]
fn a_topic_given_twice_counts_once_and_is_said() {
    let config = good(&format!(
        "{PLAIN}topic # out 0\ntopic # out 1\ntopic # in 0 a/"
    ));
    assert_eq!(config.bridges[0].topics.len(), 3);
    assert_eq!(
        remarks(&config, Severity::Notice),
        ["this 'topic' is there already, and counts once (m.conf:4)"]
    );
}

#[test]
fn times_between_attempts_are_constant_or_grow() {
    let restart = |text| only(&format!("{PLAIN}restart_timeout {text}")).restart;
    let backoff = |base, cap| RestartTimeout::Backoff {
        base: seconds(base),
        cap: seconds(cap),
    };
    assert_eq!(restart("3600"), RestartTimeout::Constant(seconds(3600)));
    assert_eq!(restart("10 60 # x"), backoff(10, 60));
    assert_eq!(restart("10 10"), backoff(10, 10));
    assert_eq!(restart("3600 7200"), backoff(3600, 7200));
    for (text, said) in [
        ("10 9", "(9): CAP must not be lower than BASE"),
        ("10 -9", "(-9): CAP must not be lower than BASE"),
        ("10 60 30", "(30): a third number is refused"),
        ("x", "'restart_timeout' value not a number (x)"),
        ("10 x", "'restart_timeout' value not a number (x)"),
        ("", "Empty 'restart_timeout' value"),
    ] {
        let error = bad(format!("{PLAIN}restart_timeout {text}"));
        assert!(
            error.contains(said) && error.ends_with("m.conf:4."),
            "{error}"
        );
    }
}

#[test]
fn numbers_that_mosquitto_moves_into_their_range_are_moved_and_said() {
    for (text, expected, said) in [
        (
            "keepalive_interval 4",
            (5, 5, 30),
            "keepalive_interval 4 is too low, using 5 seconds",
        ),
        (
            "keepalive_interval -1",
            (5, 5, 30),
            "keepalive_interval -1 is too low, using 5 seconds",
        ),
        (
            "restart_timeout 0 9",
            (60, 1, 9),
            "restart_timeout 0 is too low, using 1 seconds",
        ),
        (
            "restart_timeout 9999 7200",
            (60, 3600, 7200),
            "restart_timeout 9999 is too high, using 3600 seconds",
        ),
        (
            "restart_timeout 1 7201",
            (60, 1, 7200),
            "CAP of restart_timeout 7201 is too high, using 7200 seconds",
        ),
    ] {
        let config = good(&format!("{PLAIN}{text}"));
        let (keepalive, base, cap) = expected;
        assert_eq!(config.bridges[0].keepalive, seconds(keepalive), "{text}");
        let (base, cap) = (seconds(base), seconds(cap));
        assert_eq!(
            config.bridges[0].restart,
            RestartTimeout::Backoff { base, cap },
            "{text}"
        );
        assert_eq!(
            remarks(&config, Severity::Notice),
            [format!("{said} (m.conf:4)")]
        );
    }
    let bridge = only(&format!(
        "{PLAIN}bridge_max_packet_size -1\nbridge_tcp_user_timeout 0"
    ));
    assert_eq!(
        (bridge.max_packet_size, bridge.tcp_user_timeout),
        (None, None)
    );
}

#[test]
fn what_is_wrong_with_a_bridge_is_said_with_its_line() {
    let plain = |rest: &str| format!("{PLAIN}{rest}");
    let long = "x".repeat(65_536);
    let cases = [
        ("connection".into(), 1, "Empty 'connection' value"),
        (
            "address h".into(),
            1,
            "The 'address' option requires a bridge to be defined first: it belongs below the 'connection' line",
        ),
        (
            "listener 1\ntopic #".into(),
            2,
            "The 'topic' option requires a bridge",
        ),
        (
            "connection b\ntopic #".into(),
            1,
            "the bridge 'b' has no 'address'",
        ),
        (
            "connection b\naddress h".into(),
            1,
            "the bridge 'b' has no 'topic'",
        ),
        ("connection b\naddress".into(), 2, "Empty 'address' value"),
        (
            plain("connection b"),
            4,
            "There is a bridge 'b' already, at m.conf:1.",
        ),
        (
            plain("address i"),
            4,
            "Duplicate 'address' value in configuration: it was given at m.conf:2 already.",
        ),
        (
            plain("addresses i"),
            4,
            "Duplicate 'addresses' value in configuration: it was given at m.conf:2 already.",
        ),
        (
            plain("remote_clientid x\nclientid y"),
            5,
            "Duplicate 'clientid' value in configuration: it was given at m.conf:4",
        ),
        (
            plain("username x\nremote_username y"),
            5,
            "Duplicate 'remote_username' value",
        ),
        (
            plain("password x\nremote_password y"),
            5,
            "Duplicate 'remote_password' value",
        ),
        (
            plain("local_clientid x\nlocal_clientid y"),
            5,
            "Duplicate 'local_clientid' value",
        ),
        (
            plain("bridge_cafile x\nbridge_cafile y"),
            5,
            "Duplicate 'bridge_cafile' value",
        ),
        (
            plain("keepalive_interval 65536"),
            4,
            "(65536): it must be from 5 to 65535",
        ),
        (
            plain("keepalive_interval x"),
            4,
            "'keepalive_interval' value not a number (x)",
        ),
        (
            plain("start_type lazy"),
            4,
            "(lazy): a bridge is connected all the time",
        ),
        (
            plain("start_type manual"),
            4,
            "(manual): it must be automatic or once",
        ),
        (
            plain("bridge_protocol_version mqttv3"),
            4,
            "it must be mqttv50, mqttv311 or mqttv31",
        ),
        (
            plain("bridge_max_packet_size 2147483648"),
            4,
            "it must be from 0 to 2147483647",
        ),
        (
            plain("bridge_max_topic_alias 65536"),
            4,
            "it must be from 0 to 65535",
        ),
        (
            plain("bridge_max_topic_alias -1"),
            4,
            "it must be from 0 to 65535",
        ),
        (
            plain("bridge_receive_maximum 0"),
            4,
            "it must be from 1 to 65535",
        ),
        (
            plain("bridge_receive_maximum 65536"),
            4,
            "it must be from 1 to 65535",
        ),
        (
            plain("bridge_session_expiry_interval -1"),
            4,
            "it must be from 0 to 4294967295",
        ),
        (
            plain("bridge_session_expiry_interval 4294967296"),
            4,
            "it must be from 0 to 4294967295",
        ),
        (
            plain("bridge_tcp_keepalive 0 1 1"),
            4,
            "(0): IDLE must be from 1 to 32767",
        ),
        (
            plain("bridge_tcp_keepalive 1 32768 1"),
            4,
            "(32768): INTERVAL must be from 1 to 32767",
        ),
        (
            plain("bridge_tcp_keepalive 1 1 128"),
            4,
            "(128): COUNT must be from 1 to 127",
        ),
        (
            plain("bridge_tcp_keepalive 1 1"),
            4,
            "Empty 'bridge_tcp_keepalive' value",
        ),
        (
            plain("bridge_tcp_user_timeout -1"),
            4,
            "it must be from 0 to 2147483647",
        ),
        (
            plain("bridge_tls_version tlsv1.1\nbridge_cafile a"),
            4,
            "it must be tlsv1.3 or tlsv1.2",
        ),
        (
            plain("bridge_cafile a\nbridge_certfile c"),
            5,
            "bridge_certfile and bridge_keyfile need each other.",
        ),
        (
            plain("bridge_cafile a\nbridge_keyfile k"),
            5,
            "bridge_certfile and bridge_keyfile need each other.",
        ),
        (
            plain("bridge_certfile c\nbridge_keyfile k"),
            4,
            "bridge_certfile needs bridge_cafile, bridge_capath or bridge_tls_use_os_certs",
        ),
        (
            plain("bridge_keyfile k"),
            4,
            "bridge_keyfile needs bridge_cafile",
        ),
        (plain("bridge_alpn a"), 4, "bridge_alpn needs bridge_cafile"),
        (
            plain("bridge_ciphers a"),
            4,
            "bridge_ciphers needs bridge_cafile",
        ),
        (
            plain("bridge_ciphers_tls1.3 a"),
            4,
            "bridge_ciphers_tls1.3 needs bridge_cafile",
        ),
        (
            plain("bridge_tls_version tlsv1.2"),
            4,
            "bridge_tls_version needs bridge_cafile",
        ),
        (
            plain("bridge_insecure true\nbridge_tls_use_os_certs false"),
            4,
            "bridge_insecure needs bridge_cafile",
        ),
        (
            plain(&format!("bridge_cafile a\nbridge_alpn {}", "x".repeat(256))),
            5,
            "bridge_alpn is longer than 255 bytes.",
        ),
        (
            plain("remote_password p"),
            4,
            "remote_password needs remote_username.",
        ),
        (
            plain("password p"),
            4,
            "remote_password needs remote_username.",
        ),
        (
            plain("local_password p"),
            4,
            "local_password needs local_username.",
        ),
        (
            plain("notification_topic a/#"),
            4,
            "notification_topic 'a/#': a Topic Name has no wildcards.",
        ),
        (
            "connection a+b\naddress h\ntopic #".into(),
            1,
            "The bridge 'a+b' cannot publish its state to '$SYS/broker/connection/a+b/state'",
        ),
        (
            plain("remote_clientid #"),
            1,
            "The bridge 'b' cannot publish its state",
        ),
        (
            plain(&format!("remote_username {long}")),
            4,
            "remote_username is longer than 65535 bytes.",
        ),
        (
            plain(&format!("username {long}")),
            4,
            "username is longer than 65535 bytes.",
        ),
        (
            plain(&format!("local_clientid {long}")),
            4,
            "local_clientid is longer than 65535 bytes.",
        ),
        (
            plain(&format!(
                "remote_clientid {}\nnotifications false",
                &long[1..]
            )),
            1,
            "local_clientid has to be given",
        ),
        (
            format!("connection {}", "x".repeat(1025)),
            1,
            "a name has 1024 bytes at most",
        ),
        (
            "connection a\u{1}".into(),
            1,
            "a name has 1024 bytes at most and no control character",
        ),
    ];
    for (text, line, said) in cases {
        let error = bad(&text);
        let text = &text[..text.len().min(200)];
        assert!(error.contains(said), "{text:?} said {error:?}");
        let place = format!("\nError found at m.conf:{line}.");
        assert!(error.ends_with(&place), "{text:?} said {error:?}");
    }
}

#[test]
fn there_are_as_many_bridges_and_topics_as_the_limits_say() {
    let bridge = |index: usize| format!("connection b{index}\naddress h\ntopic #\n");
    let bridges: String = (0..BRIDGES_MAX).map(bridge).collect();
    assert_eq!(good(&bridges).bridges.len(), BRIDGES_MAX);
    assert!(bad(format!("{bridges}connection more")).contains("More than 64 bridges."));
    let topics: String = (0..BRIDGE_TOPICS_MAX)
        .map(|index| format!("topic a/{index}\n"))
        .collect();
    let text = format!("connection b\naddress h\n{topics}");
    assert_eq!(only(&text).topics.len(), BRIDGE_TOPICS_MAX);
    good(&format!("{text}topic a/0"));
    assert!(bad(format!("{text}topic b")).contains("More than 1000 topics of a bridge."));
}

#[test]
fn no_two_bridges_are_one_client_of_this_broker() {
    let two = |first, second| {
        parse(format!(
            "connection a\naddress h\ntopic #\n{first}\nconnection b\naddress h\ntopic #\n{second}"
        ))
        .map_err(|error| error.to_string())
    };
    for (first, second, line) in [
        ("local_clientid x", "local_clientid x", 8),
        ("remote_clientid x", "remote_clientid x", 5),
        ("remote_clientid x", "local_clientid local.x", 8),
        ("local_clientid local.x", "clientid x", 5),
    ] {
        let error = two(first, second).unwrap_err();
        assert!(
            error.contains("The bridges 'a' and 'b' are both '"),
            "{error}"
        );
        assert!(error.ends_with(&format!("m.conf:{line}.")), "{error}");
    }
    two("", "").unwrap();
    two("remote_clientid x", "remote_clientid y").unwrap();
    two(
        "remote_clientid x\nlocal_clientid a",
        "remote_clientid x\nlocal_clientid b",
    )
    .unwrap();
}

#[test]
fn directives_belong_to_the_bridge_and_to_the_listener_above_them() {
    let config = good(
        "listener 1\nconnection a\naddress h\nmax_connections 7\ntopic #\nlistener 2\nround_robin true\n\
         connection b\ntopic #\naddress i\nmax_connections 8",
    );
    let [a, b] = &config.bridges[..] else {
        panic!("two bridges");
    };
    assert!(a.round_robin && !b.round_robin);
    assert_eq!((&*a.addresses[0].host, &*b.addresses[0].host), ("h", "i"));
    let connections: Vec<_> = config
        .listeners
        .iter()
        .map(|listener| listener.policy.max_connections)
        .collect();
    assert_eq!(connections, [Some(7), Some(8)]);
    assert!(config.remarks.is_empty(), "{:?}", config.remarks);
}

#[test]
fn a_bridge_does_not_reach_into_other_files() {
    let files = |included: &str, after: &str| {
        let main = format!("{PLAIN}include_dir d\n{after}");
        let files = Memory::default()
            .with("m.conf", main)
            .with("d/a.conf", included)
            .with("d/b.conf", "sys_interval 1");
        Config::parse("m.conf", &files).map_err(|error| error.to_string())
    };
    let error = files("round_robin true", "").unwrap_err();
    assert!(error.contains("requires a bridge"), "{error}");
    assert!(error.ends_with("d/a.conf:1."), "{error}");
    let config = files("connection c\naddress i\ntopic a", "round_robin true").unwrap();
    let is_round: Vec<_> = config.bridges.iter().map(|it| it.round_robin).collect();
    assert_eq!(is_round, [true, false]);
    let files = Memory::default()
        .with("m.conf", "include_dir d")
        .with("d/a.conf", PLAIN)
        .with("d/b.conf", "round_robin true");
    assert!(Config::parse("m.conf", &files).is_err());
}

#[test]
fn what_changes_nothing_or_protects_less_is_said() {
    let said = |text: &str| remarks(&good(&format!("{PLAIN}{text}")), Severity::Warning);
    assert_eq!(
        said("bridge_receive_maximum 5"),
        [
            "Warning: bridge_receive_maximum has no effect without `bridge_protocol_version mqttv50` (m.conf:4)"
        ]
    );
    assert_eq!(
        said("bridge_max_topic_alias 5\nbridge_session_expiry_interval 1").len(),
        2
    );
    assert!(
        said(
            "bridge_receive_maximum 5\nbridge_max_topic_alias 5\nbridge_session_expiry_interval 1\n\
              bridge_protocol_version mqttv50"
        )
        .is_empty()
    );
    assert_eq!(
        said("notification_topic a\nnotifications false"),
        ["Warning: notification_topic has no effect with `notifications false` (m.conf:4)"]
    );
    assert_eq!(
        said("bridge_cafile a\nbridge_ciphers x\nbridge_tls_version tlsv1.3"),
        ["Warning: bridge_ciphers has no effect with `bridge_tls_version tlsv1.3` (m.conf:5)"]
    );
    let insecure = said("bridge_cafile a\nbridge_insecure true");
    assert!(
        insecure[0].contains("the bridge 'b' connects to (m.conf:5)"),
        "{insecure:?}"
    );
    assert!(said("bridge_insecure false\nbridge_tls_use_os_certs false").is_empty());
}

#[test]
fn a_password_alone_is_for_mqtt_5() {
    let bridge = only(&format!(
        "{PLAIN}remote_password p\nbridge_protocol_version mqttv50"
    ));
    assert_eq!(text(&bridge.remote_password), Some("p"));
}

#[test]
fn a_bridge_opens_no_listener_and_leaves_the_broker_local() {
    let config = good(PLAIN);
    assert!(config.is_local_only);
    assert!(config.listeners.is_empty());
}
