//! Every directive that is supported reaches what it sets: one row each, and none is missing.

use super::{bridges, good};
use crate::config::{
    Config, Durability, Facility, FileReference, LogTypes, Protocol, ProxyProtocol, Scope,
    SocketDomain, Status, TlsVersion, all,
};
use crate::message::{ProtocolVersion, QoS};
use crate::policy::{ListenerPolicy, Policy};
use std::collections::BTreeSet;
use std::time::Duration;

/// The directive as it is written below `listener 1883`, and whether a configuration has what it asks
/// for. What a configuration has by itself would be no proof.
type Row = (&'static str, fn(&Config) -> bool);

fn policy(config: &Config) -> Policy {
    config.settings(&[], 1).policy
}

fn listener(config: &Config) -> ListenerPolicy {
    config.settings(&[], 1).listeners.remove(0)
}

fn is(file: &Option<FileReference>, path: &str) -> bool {
    file.as_ref()
        .is_some_and(|file| file.path.to_str() == Some(path))
}

const ROWS: &[Row] = &[
    ("accept_protocol_versions 5", |c| {
        let versions = listener(c).accept_protocol_versions;
        versions.contains(ProtocolVersion::V5) && !versions.contains(ProtocolVersion::V311)
    }),
    ("accept_protocol_versions 3, 4", |c| {
        let versions = listener(c).accept_protocol_versions;
        versions.contains(ProtocolVersion::V3)
            && versions.contains(ProtocolVersion::V311)
            && !versions.contains(ProtocolVersion::V5)
    }),
    ("acl_file /a b", |c| is(&c.security.acl_file, "/a b")),
    ("allow_anonymous true", |c| listener(c).allow_anonymous),
    ("allow_zero_length_clientid false", |c| {
        !listener(c).allow_zero_length_clientid
    }),
    ("auto_id_prefix x-", |c| {
        &*listener(c).auto_id_prefix == "x-"
    }),
    ("bind_interface eth0", |c| {
        c.listeners[0].bind_interface.as_deref() == Some("eth0")
    }),
    ("bind_address ::1", |c| {
        c.listeners[1].address.to_string() == "1883 ::1"
    }),
    ("cafile /ca\ncertfile c\nkeyfile k", |c| {
        is(&c.listeners[0].tls.cafile, "/ca")
    }),
    ("capath /ca\ncertfile c\nkeyfile k", |c| {
        is(&c.listeners[0].tls.capath, "/ca")
    }),
    ("certfile /c\nkeyfile k", |c| {
        is(&c.listeners[0].tls.certfile, "/c")
    }),
    ("check_retain_source false", |c| {
        !policy(c).check_retain_source
    }),
    ("ciphers A:B\ncertfile c\nkeyfile k", |c| {
        c.listeners[0].tls.ciphers.as_deref() == Some("A:B")
    }),
    ("ciphers_tls1.3 A:B\ncertfile c\nkeyfile k", |c| {
        c.listeners[0].tls.ciphers_tls13.as_deref() == Some("A:B")
    }),
    ("clientid_prefixes x-", |c| {
        policy(c).clientid_prefixes.as_deref() == Some("x-")
    }),
    ("connection_messages false", |c| !c.log.connection_messages),
    (
        "crlfile /crl\ncafile a\nrequire_certificate true\ncertfile c\nkeyfile k",
        |c| is(&c.listeners[0].tls.crlfile, "/crl"),
    ),
    (
        "disable_client_cert_date_checks true\ncertfile c\nkeyfile k",
        |c| c.listeners[0].tls.disable_client_cert_date_checks,
    ),
    ("enable_proxy_protocol 1", |c| {
        c.listeners[0].proxy_protocol == Some(ProxyProtocol::V1)
    }),
    ("enable_proxy_protocol 2", |c| {
        c.listeners[0].proxy_protocol == Some(ProxyProtocol::V2)
    }),
    ("fastmq_admin_listener 9883 ::1", |c| {
        c.admin.listener == Some("[::1]:9883".parse().unwrap())
    }),
    ("fastmq_admin_listener 9883", |c| {
        c.admin.listener == Some("127.0.0.1:9883".parse().unwrap())
    }),
    (
        "fastmq_admin_token_file /t\nfastmq_admin_listener 9883",
        |c| is(&c.admin.token_file, "/t"),
    ),
    ("fastmq_connect_timeout 7", |c| {
        policy(c).limits.connect_timeout == Duration::from_secs(7)
    }),
    ("fastmq_cores 3", |c| c.cores == Some(3)),
    ("fastmq_durability os", |c| {
        c.persistence.durability == Durability::Os
    }),
    ("fastmq_durability interval 50", |c| {
        c.persistence.durability == Durability::Interval(Duration::from_millis(50))
    }),
    ("fastmq_handshake_timeout 7", |c| {
        c.listeners[0].handshake_timeout == Duration::from_secs(7)
    }),
    ("fastmq_max_filter_bytes 7", |c| {
        policy(c).limits.max_filter_bytes == 7
    }),
    ("fastmq_max_outbox_bytes 65536", |c| {
        policy(c).limits.outbox_bytes_max == 65_536
    }),
    ("fastmq_max_peer_backlog 5000", |c| {
        policy(c).limits.peer_backlog_max == 5000
    }),
    ("fastmq_max_pending_connections 7", |c| {
        c.listeners[0].max_pending_connections == 7
    }),
    ("fastmq_max_retained_bytes 7", |c| {
        policy(c).limits.max_retained_bytes == 7
    }),
    ("fastmq_max_retained_messages 7", |c| {
        policy(c).limits.max_retained_messages == 7
    }),
    ("fastmq_max_subscriptions 7", |c| {
        policy(c).limits.max_subscriptions == 7
    }),
    ("global_max_clients 7", |c| {
        policy(c).global_max_clients == Some(7)
    }),
    ("global_max_connections 7", |c| {
        policy(c).global_max_connections == Some(7)
    }),
    ("http_dir /www", |c| {
        let folder = c.listeners[0].http_dir.as_ref();
        folder.is_some_and(|it| it.path.to_str() == Some("/www"))
    }),
    ("keyfile /k\ncertfile c", |c| {
        is(&c.listeners[0].tls.keyfile, "/k")
    }),
    ("listener 1884", |c| {
        c.listeners[1].address.to_string() == "1884"
    }),
    ("listener_allow_anonymous true", |c| {
        listener(c).allow_anonymous
    }),
    ("listener_auto_id_prefix y-", |c| {
        &*listener(c).auto_id_prefix == "y-"
    }),
    ("log_dest syslog", |c| {
        c.log.destinations.syslog && !c.log.destinations.stderr
    }),
    ("log_dest stdout unbuffered", |c| {
        c.log.destinations.stdout && !c.log.destinations.stderr
    }),
    ("log_dest stdout\nlog_dest stderr", |c| {
        c.log.destinations.stdout && c.log.destinations.stderr
    }),
    ("log_dest topic", |c| c.log.destinations.topic),
    ("log_dest file /var/log/a b", |c| {
        is(&c.log.destinations.file, "/var/log/a b")
    }),
    ("log_dest topic\nlog_dest none", |c| {
        !c.log.destinations.topic && !c.log.destinations.stderr
    }),
    ("log_facility 5", |c| c.log.facility == Facility::Local(5)),
    ("log_timestamp false", |c| !c.log.timestamp),
    ("log_timestamp_format %H", |c| {
        let format = c.log.timestamp_format.as_ref();
        format.is_some_and(|it| it.text == "%H")
    }),
    ("log_type debug", |c| c.log.types == LogTypes::DEBUG),
    ("log_type error\nlog_type notice", |c| {
        c.log.types == LogTypes::ERROR.or(LogTypes::NOTICE)
    }),
    ("log_type all", |c| c.log.types == LogTypes::ALL),
    ("log_type all\nlog_type none", |c| {
        c.log.types == LogTypes::NONE
    }),
    ("max_connections 7", |c| {
        listener(c).max_connections == Some(7)
    }),
    ("max_inflight_bytes 7", |c| {
        policy(c).max_inflight_bytes == 7
    }),
    ("max_inflight_messages 7", |c| {
        policy(c).limits.max_inflight_messages == 7
    }),
    ("max_inflight_messages 0", |c| {
        policy(c).limits.max_inflight_messages == u16::MAX
    }),
    ("max_keepalive 7", |c| policy(c).limits.max_keepalive_s == 7),
    ("max_packet_size 0x100", |c| {
        policy(c).limits.max_packet_size == 256
    }),
    ("max_qos 1", |c| listener(c).max_qos == QoS::AtLeastOnce),
    ("max_qos 0", |c| listener(c).max_qos == QoS::AtMostOnce),
    ("max_queued_bytes 7", |c| {
        policy(c).limits.max_queued_bytes == 7
    }),
    ("max_queued_bytes 0", |c| {
        policy(c).limits.max_queued_bytes == usize::MAX
    }),
    ("max_queued_messages 7", |c| {
        policy(c).limits.max_queued_messages == 7
    }),
    ("max_queued_messages 0", |c| {
        policy(c).limits.max_queued_messages == usize::MAX
    }),
    ("max_topic_alias 7", |c| listener(c).max_topic_alias == 7),
    ("max_topic_alias_broker 7", |c| {
        listener(c).max_topic_alias_broker == 7
    }),
    ("maximum_qos 1", |c| listener(c).max_qos == QoS::AtLeastOnce),
    ("memory_limit 1000000", |c| {
        let limits = c.settings(&[], 4).policy.limits;
        (limits.memory_bytes_max, limits.max_retained_bytes) == (125_000, 500_000)
    }),
    ("message_size_limit 7", |c| {
        policy(c).message_size_limit == 7
    }),
    ("mount_point a/b/", |c| {
        listener(c).mount_point.as_deref() == Some("a/b/")
    }),
    ("password_file /p", |c| is(&c.security.password_file, "/p")),
    ("persistence true", |c| c.persistence.enabled),
    ("persistence_location /v", |c| {
        c.persistence.location.as_deref() == Some("/v".as_ref())
    }),
    ("persistent_client_expiration 2h", |c| {
        policy(c).limits.persistent_client_expiration == Some(Duration::from_secs(7200))
    }),
    ("pid_file /p", |c| is(&c.pid_file, "/p")),
    ("port 1884", |c| {
        c.listeners[1].address.to_string() == "1884"
    }),
    ("protocol websockets", |c| {
        c.listeners[0].protocol == Protocol::Websockets
    }),
    (
        "proxy_protocol_v2_require_tls true\nenable_proxy_protocol 2",
        |c| c.listeners[0].proxy_protocol_v2_require_tls,
    ),
    ("queue_qos0_messages true", |c| {
        policy(c).queue_qos0_messages
    }),
    (
        "require_certificate true\ncafile a\ncertfile c\nkeyfile k",
        |c| c.listeners[0].tls.require_certificate,
    ),
    ("retain_available false", |c| !policy(c).retain_available),
    ("retained_persistence true", |c| c.persistence.enabled),
    ("set_tcp_nodelay false", |c| !c.set_tcp_nodelay),
    ("socket_domain ipv6", |c| {
        c.listeners[0].socket_domain == Some(SocketDomain::Ipv6)
    }),
    ("socket_domain ipv4", |c| {
        c.listeners[0].socket_domain == Some(SocketDomain::Ipv4)
    }),
    ("sys_interval 7", |c| c.sys_interval_s == 7),
    ("tls_keyform pem", |c| !c.listeners[0].has_tls()),
    ("tls_version tlsv1.3\ncertfile c\nkeyfile k", |c| {
        c.listeners[0].tls.version_min == TlsVersion::V13
    }),
    ("upgrade_outgoing_qos true", |c| {
        policy(c).upgrade_outgoing_qos
    }),
    (
        "use_identity_as_username true\nrequire_certificate true\ncafile a\ncertfile c\nkeyfile k",
        |c| listener(c).use_identity_as_username,
    ),
    (
        "use_subject_as_username true\nrequire_certificate true\ncafile a\ncertfile c\nkeyfile k",
        |c| listener(c).use_subject_as_username,
    ),
    ("use_username_as_clientid true", |c| {
        listener(c).use_username_as_clientid
    }),
    ("user me", |c| c.user.as_deref() == Some("me")),
    (
        "websockets_origin http://a\nwebsockets_origin http://b\nprotocol websockets",
        |c| c.listeners[0].websockets_origins == ["http://a", "http://b"],
    ),
];

/// Directives that have tests of their own in `listeners.rs`, since they change what others mean, and
/// the one that says what is so anyway.
const ELSEWHERE: [&str; 3] = ["include_dir", "per_listener_settings", "tls_keyform"];

#[test]
fn each_supported_directive_sets_what_it_is_for() {
    let plain = "listener 1883\n";
    for (text, has) in ROWS {
        assert!(has(&good(&format!("{plain}{text}"))), "{text}");
        let name = text.split(' ').next().unwrap();
        // What a last line takes back it takes back without the first, too.
        if ELSEWHERE.contains(&name) || text.contains("listener 1884") || text.ends_with(" none") {
            continue;
        }
        // Without its first line the configuration has to be another one.
        let rest = text.split_once('\n').map_or("", |(_, rest)| rest);
        let without = super::parse(format!("{plain}{rest}\nlistener 9999"));
        if let Ok(without) = without {
            assert!(!has(&without), "so without it: {text}");
        }
    }
}

#[test]
fn no_supported_directive_is_left_out() {
    let tested: BTreeSet<&str> = ROWS
        .iter()
        .filter_map(|(text, _)| text.split(' ').next())
        .chain(ELSEWHERE)
        .chain(
            bridges::ROWS
                .iter()
                .filter_map(|(text, _)| text.split(' ').next()),
        )
        .chain(bridges::ELSEWHERE)
        .collect();
    for directive in all() {
        if matches!(
            directive.status,
            Status::Supported | Status::Deprecated { .. }
        ) {
            assert!(tested.contains(directive.name), "{}", directive.name);
        }
    }
}

#[test]
fn numbers_below_the_range_of_a_bound_mean_none_where_they_do_in_mosquitto() {
    let config = good(
        "max_inflight_bytes -1\nmax_queued_bytes -1\nmax_queued_messages -5\nmax_inflight_messages -1\n\
         global_max_clients -2\nglobal_max_connections -1\nlistener 1\nmax_connections -7",
    );
    let policy = policy(&config);
    assert_eq!(policy.max_inflight_bytes, usize::MAX);
    assert_eq!(policy.limits.max_queued_bytes, usize::MAX);
    assert_eq!(policy.limits.max_queued_messages, usize::MAX);
    assert_eq!(policy.limits.max_inflight_messages, u16::MAX);
    assert_eq!(policy.global_max_clients, None);
    assert_eq!(policy.global_max_connections, None);
    assert_eq!(listener(&config).max_connections, None);
}

#[test]
fn no_clients_and_no_connections_mean_as_many_as_there_are_as_in_mosquitto() {
    let config =
        good("global_max_clients 0\nglobal_max_connections 0\nlistener 1\nmax_connections 0");
    assert_eq!(policy(&config).global_max_clients, None);
    assert_eq!(policy(&config).global_max_connections, None);
    assert_eq!(listener(&config).max_connections, None);
}

/// A bridge with TLS, so that nothing of it means nothing.
const BRIDGE: &str = "connection b\naddress h\ntopic #\nbridge_cafile a\n";

#[test]
fn every_boolean_takes_mosquittos_four_words() {
    for directive in all() {
        let is_boolean = match &directive.scope {
            Scope::Global(value) => matches!(value, crate::config::Value::Boolean(_)),
            Scope::Security(value) => matches!(value, crate::config::Value::Boolean(_)),
            Scope::Listener(value) | Scope::OwnListener(value) => {
                matches!(value, crate::config::Value::Boolean(_))
            }
            Scope::Bridge(value) => matches!(value, crate::config::Value::Boolean(_)),
            _ => false,
        };
        if is_boolean {
            assert_eq!(directive.syntax, "true|false", "{}", directive.name);
            for word in ["false", "0"] {
                good(&format!("listener 1\n{BRIDGE}{} {word}", directive.name));
            }
        }
    }
}

/// The defaults that the manual names are those that there are: saying them changes nothing.
#[test]
fn the_defaults_of_the_table_change_nothing() {
    let known = |config: &Config| {
        let mut config = config.clone();
        config.remarks.clear();
        let settings = config.settings(&[], 2);
        for listener in &mut config.listeners {
            // What the settings were made of: a default that was written down is still written down.
            listener.security = crate::config::SecurityOptions::default();
            listener.written = crate::config::Written::default();
        }
        for bridge in &mut config.bridges {
            bridge.written = crate::config::Written::default();
        }
        format!(
            "{:?} {:?}",
            (settings.policy, settings.listeners),
            (
                config.listeners,
                config.bridges,
                config.log,
                config.persistence.enabled,
                config.sys_interval_s,
                config.set_tcp_nodelay
            )
        )
    };
    let plain = good(&format!("listener 1883\n{BRIDGE}"));
    for directive in all() {
        let words = [
            "",
            "one for each CPU",
            "the working directory",
            "daemon",
            "allow_anonymous",
            "mosquitto",
            "error, warning, notice, information",
        ];
        let is_settled = matches!(
            directive.status,
            Status::Supported | Status::Deprecated { .. }
        );
        if words.contains(&directive.default) || !is_settled || directive.name == "port" {
            continue;
        }
        let default = directive.default.split(';').next().unwrap();
        let config = good(&format!(
            "listener 1883\n{BRIDGE}{} {default}",
            directive.name
        ));
        assert_eq!(known(&config), known(&plain), "{}", directive.name);
    }
}
