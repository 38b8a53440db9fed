//! Bridges, which there are not.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Scope};

/// A broker that left out a bridge in silence would lose messages.
const NO_BRIDGES: &str = "there are no bridges, and without one its messages would be lost. Let a Mosquitto \
     beside this broker be the bridge, with this broker as one of its two ends.";

/// A directive of a bridge.
const fn of_bridge(name: &'static str, syntax: &'static str, text: &'static str) -> Directive {
    Directive::refused(name, syntax, Scope::Bridge, NO_BRIDGES).text(text)
}

pub(super) const SECTION: Section = Section {
    title: "Bridges",
    introduction: "There are no bridges to other brokers, and the broker does not start with a configuration \
                   that has one.",
    directives: &[
        of_bridge("connection", "NAME", "Begins a bridge."),
        of_bridge("address", "HOST[:PORT] ...", "The other broker."),
        of_bridge("addresses", "HOST[:PORT] ...", "The same as address."),
        of_bridge(
            "topic",
            "PATTERN [[out|in|both] QOS [LOCAL-PREFIX REMOTE-PREFIX]]",
            "Messages that cross the bridge.",
        ),
        of_bridge(
            "bridge_alpn",
            "NAME",
            "The protocol named in the TLS handshake.",
        ),
        of_bridge(
            "bridge_attempt_unsubscribe",
            "true|false",
            "Whether topics that only go out are unsubscribed from at the other broker.",
        ),
        of_bridge(
            "bridge_bind_address",
            "ADDRESS",
            "The local address of the connection.",
        ),
        of_bridge(
            "bridge_cafile",
            "FILE",
            "Certificates of authorities that the other broker is checked against.",
        ),
        of_bridge(
            "bridge_capath",
            "DIRECTORY",
            "A directory of such certificates.",
        ),
        of_bridge("bridge_certfile", "FILE", "The bridge's certificate."),
        of_bridge(
            "bridge_ciphers",
            "CIPHER:CIPHER...",
            "The cipher suites of TLS 1.2.",
        ),
        of_bridge(
            "bridge_ciphers_tls1.3",
            "CIPHER:CIPHER...",
            "The cipher suites of TLS 1.3.",
        ),
        of_bridge(
            "bridge_identity",
            "IDENTITY",
            "The identity of its pre-shared key.",
        ),
        of_bridge(
            "bridge_insecure",
            "true|false",
            "Whether the name in the other broker's certificate does not matter.",
        ),
        of_bridge(
            "bridge_keyfile",
            "FILE",
            "The private key of bridge_certfile.",
        ),
        of_bridge(
            "bridge_max_packet_size",
            "BYTES",
            "Largest packet that is sent over the bridge.",
        ),
        of_bridge(
            "bridge_max_topic_alias",
            "COUNT",
            "Topic aliases that the other broker may set.",
        ),
        of_bridge(
            "bridge_outgoing_retain",
            "true|false",
            "Whether messages are retained by the other broker.",
        ),
        of_bridge(
            "bridge_protocol_version",
            "mqttv50|mqttv311|mqttv31",
            "The version of MQTT.",
        ),
        of_bridge("bridge_psk", "KEY", "The pre-shared key."),
        of_bridge(
            "bridge_receive_maximum",
            "COUNT",
            "QoS 1 and 2 messages that may be unacknowledged at once.",
        ),
        of_bridge(
            "bridge_reload_type",
            "lazy|immediate",
            "When a changed bridge connects anew.",
        ),
        of_bridge(
            "bridge_require_ocsp",
            "true|false",
            "Whether the other broker has to prove that its certificate is not revoked.",
        ),
        of_bridge(
            "bridge_session_expiry_interval",
            "SECONDS",
            "How long the other broker keeps the session.",
        ),
        of_bridge(
            "bridge_tcp_keepalive",
            "IDLE INTERVAL COUNT",
            "TCP keep alive of the connection.",
        ),
        of_bridge(
            "bridge_tcp_user_timeout",
            "MILLISECONDS",
            "Longest time without a TCP acknowledgement.",
        ),
        of_bridge(
            "bridge_tls_use_os_certs",
            "true|false",
            "Whether the system's authorities are trusted.",
        ),
        of_bridge(
            "bridge_tls_version",
            "tlsv1.3|tlsv1.2",
            "The version of TLS.",
        ),
        of_bridge(
            "cleansession",
            "true|false",
            "Whether the session ends with the connection.",
        ),
        of_bridge("clientid", "ID", "An old name of remote_clientid."),
        of_bridge(
            "idle_timeout",
            "SECONDS",
            "Time without messages after which a lazy bridge disconnects.",
        ),
        of_bridge(
            "keepalive_interval",
            "SECONDS",
            "The keep alive of the connection.",
        ),
        of_bridge(
            "local_cleansession",
            "true|false",
            "As cleansession, for this broker's side.",
        ),
        of_bridge(
            "local_clientid",
            "ID",
            "The bridge's client identifier at this broker.",
        ),
        of_bridge("local_password", "PASSWORD", "Its password at this broker."),
        of_bridge("local_username", "NAME", "Its user name at this broker."),
        of_bridge(
            "notification_topic",
            "TOPIC",
            "Where the state of the bridge is published.",
        ),
        of_bridge(
            "notifications",
            "true|false",
            "Whether the state of the bridge is published.",
        ),
        of_bridge(
            "notifications_local_only",
            "true|false",
            "Whether it is published at this broker only.",
        ),
        of_bridge("password", "PASSWORD", "An old name of remote_password."),
        of_bridge(
            "remote_clientid",
            "ID",
            "The bridge's client identifier at the other broker.",
        ),
        of_bridge(
            "remote_password",
            "PASSWORD",
            "Its password at the other broker.",
        ),
        of_bridge(
            "remote_username",
            "NAME",
            "Its user name at the other broker.",
        ),
        of_bridge(
            "restart_timeout",
            "BASE [CAP [STABLE]]",
            "Time between attempts to connect, in seconds.",
        ),
        of_bridge(
            "round_robin",
            "true|false",
            "Whether the addresses are equals.",
        ),
        of_bridge(
            "start_type",
            "automatic|lazy|once",
            "When the bridge connects.",
        ),
        of_bridge(
            "threshold",
            "COUNT",
            "Waiting messages with which a lazy bridge connects.",
        ),
        of_bridge(
            "try_private",
            "true|false",
            "Whether the bridge tells the other broker that it is one.",
        ),
        of_bridge("username", "NAME", "An old name of remote_username."),
    ],
};
