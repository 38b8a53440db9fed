//! Listeners.

#![forbid(unsafe_code)]

use super::Section;
use super::messages::above_zero;
use crate::config::directive::{Directive, Scope};
use crate::config::listener::{Listener, Protocol, ProxyProtocol, SocketDomain};
use crate::config::problem::Problem;
use crate::config::value::{Arguments, Value, at_least, integer};
use crate::message::{ProtocolVersion, QoS};
use crate::policy::ProtocolVersions;
use crate::topic::TopicName;

pub(super) const SECTION: Section = Section {
    title: "Listeners",
    introduction: "Without a listener the broker listens on port 1883 of the loopback addresses, or on the \
                   ports that the command line names, and anonymous clients may connect. The directives \
                   of a listener stand below it. A reload opens listeners that are new and closes those \
                   that are gone, whose connections stay.",
    directives: &[
        Directive::new(
            "listener",
            "PORT [ADDRESS|PATH]",
            Scope::Structure(|parser, arguments| parser.begin_listener(arguments)),
        )
        .adds()
        .text(
            "Listens on PORT of ADDRESS, which is an IP address or a host name, or of all addresses. With \
             port 0, listens on the unix socket PATH, which then belongs to the user and the group that the \
             broker runs as, and nobody else may connect to it (mode 0770, whatever the umask); with port 0 \
             and an IP address, on a port that the system chooses.",
        ),
        Directive::new(
            "port",
            "PORT",
            Scope::Structure(|parser, arguments| parser.set_default_port(arguments)),
        )
        .default("1883")
        .deprecated("Please use 'listener' instead.")
        .text("The port of the default listener, which is there besides those begun with listener."),
        Directive::new(
            "bind_address",
            "ADDRESS",
            Scope::Structure(|parser, arguments| parser.set_default_host(arguments)),
        )
        .once()
        .deprecated("Please use 'listener' instead.")
        .text("The address of the default listener."),
        Directive::new(
            "bind_interface",
            "DEVICE",
            Scope::Listener(Value::Text(|listener| &mut listener.bind_interface)),
        )
        .once()
        .at_restart()
        .text("Accepts only what arrives on this network interface."),
        Directive::new(
            "socket_domain",
            "ipv4|ipv6",
            Scope::Listener(Value::Words(|listener, arguments| {
                listener.socket_domain = Some(match arguments.word()? {
                    "ipv4" => SocketDomain::Ipv4,
                    "ipv6" => SocketDomain::Ipv6,
                    other => return Err(arguments.invalid(other, "it must be ipv4 or ipv6")),
                });
                Ok(())
            })),
        )
        .at_restart()
        .text("Listens on addresses of this family only. Without it, on both."),
        Directive::new(
            "protocol",
            "mqtt|websockets",
            Scope::Listener(Value::Words(read_protocol)),
        )
        .default("mqtt")
        .text(
            "What is spoken on the listener. Mosquitto's http_api is refused; fastmq_admin_listener serves \
             metrics and health.",
        ),
        Directive::new(
            "accept_protocol_versions",
            "3, 4, 5",
            Scope::OwnListener(Value::Words(read_versions)),
        )
        .default("3, 4, 5")
        .text("The versions of MQTT that are accepted: 3 is 3.1, 4 is 3.1.1 and 5 is 5.0."),
        Directive::new(
            "mount_point",
            "PREFIX",
            Scope::OwnListener(Value::Words(read_mount_point)),
        )
        .at_restart()
        .text(
            "Puts PREFIX before every topic of the listener's clients, and takes it away from what they \
             receive. They see nothing else.",
        ),
        Directive::new(
            "max_connections",
            "COUNT",
            Scope::Listener(at_least(-1, i32::MAX as i64, |listener, count| {
                listener.policy.max_connections = above_zero(count);
            })),
        )
        .default("-1")
        .text("Connections to the listener at one time. -1 and 0 are no bound. Each connection beyond it is closed, with \
             a line in the log of type notice."),
        Directive::new(
            "max_qos",
            "0|1|2",
            Scope::Listener(integer(0, 2, set_max_qos)),
        )
        .default("2")
        .text(
            "Highest QoS with which the listener's clients may publish. MQTT 5 clients are told; whoever \
             publishes with a higher one is disconnected.",
        ),
        Directive::new(
            "maximum_qos",
            "0|1|2",
            Scope::Listener(integer(0, 2, set_max_qos)),
        )
        .default("2")
        .text("The same as max_qos."),
        Directive::new(
            "max_topic_alias",
            "COUNT",
            Scope::OwnListener(integer(0, 65_535, |listener, count| {
                listener.policy.max_topic_alias = u16::try_from(count).unwrap_or(u16::MAX);
            })),
        )
        .default("10")
        .text("Topic aliases that an MQTT 5 client may set. With 0, none."),
        Directive::new(
            "max_topic_alias_broker",
            "COUNT",
            Scope::OwnListener(integer(0, 65_535, |listener, count| {
                listener.policy.max_topic_alias_broker = u16::try_from(count).unwrap_or(u16::MAX);
            })),
        )
        .default("10")
        .text("Topic aliases that the broker sets towards an MQTT 5 client that allows as many."),
        Directive::new(
            "use_username_as_clientid",
            "true|false",
            Scope::Listener(Value::Boolean(|listener, yes| {
                listener.policy.use_username_as_clientid = yes;
            })),
        )
        .default("false")
        .text(
            "The user name replaces the client identifier, so that no user can take the session of \
             another one. Clients without a user name are refused.",
        ),
        Directive::new(
            "enable_proxy_protocol",
            "1|2",
            Scope::OwnListener(integer(1, 2, |listener, version| {
                listener.proxy_protocol = Some(if version == 1 {
                    ProxyProtocol::V1
                } else {
                    ProxyProtocol::V2
                });
            })),
        )
        .text(
            "Each connection begins with a PROXY header, in which a load balancer says whose connection it \
             passes on. Whoever can reach the listener past the load balancer can claim anything. With \
             version 2 the header may tell of TLS between client and proxy: require_certificate and \
             use_identity_as_username then go by what it says.",
        ),
        Directive::new(
            "proxy_protocol_v2_require_tls",
            "true|false",
            Scope::OwnListener(Value::Boolean(|listener, yes| {
                listener.proxy_protocol_v2_require_tls = yes;
            })),
        )
        .default("false")
        .text("Refuses connections whose PROXY header does not say that the client speaks TLS."),
        Directive::new(
            "websockets_origin",
            "ORIGIN",
            Scope::OwnListener(Value::Words(|listener, arguments| {
                let origin = arguments.rest()?.to_owned();
                listener.websockets_origins.push(origin);
                Ok(())
            })),
        )
        .adds()
        .text(
            "Accepts WebSocket handshakes with this Origin header only, as a browser writes it, for example \
             http://example.com:8080. Several may be given; without any, every origin is accepted. A handshake without \
             the header is no browser's, and accepted.",
        ),
        Directive::no_effect(
            "websockets_headers_size",
            "BYTES",
            "the head of a WebSocket handshake has a fixed bound.",
        )
        .text("An old name of packet_buffer_size."),
        Directive::new(
            "http_dir",
            "DIRECTORY",
            Scope::OwnListener(Value::File(|listener| &mut listener.http_dir)),
        )
        .once()
        .text(
            "On a listener with protocol websockets, answers requests that are no WebSocket handshakes with \
             the files in DIRECTORY. They are read into memory at the start and at every reload, 10,000 files of \
             64 MiB together at most. Links that lead out of DIRECTORY are left out.",
        ),
    ],
};

fn read_protocol(listener: &mut Listener, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    listener.protocol = match arguments.word()? {
        "mqtt" => Protocol::Mqtt,
        "websockets" => Protocol::Websockets,
        other => return Err(arguments.invalid(other, "it must be mqtt or websockets")),
    };
    Ok(())
}

fn read_versions(listener: &mut Listener, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let mut versions = ProtocolVersions::NONE;
    while let Some(word) = arguments.next_word() {
        for number in word.split(',').filter(|number| !number.is_empty()) {
            versions = versions.with(match number {
                "3" => ProtocolVersion::V3,
                "4" => ProtocolVersion::V311,
                "5" => ProtocolVersion::V5,
                other => return Err(arguments.invalid(other, "it must be of 3, 4 and 5")),
            });
        }
    }
    if versions == ProtocolVersions::NONE {
        return Err(arguments.empty());
    }
    listener.policy.accept_protocol_versions = versions;
    Ok(())
}

fn read_mount_point(listener: &mut Listener, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let prefix = arguments.rest()?;
    if TopicName::new(prefix).is_err() {
        return Err(arguments.invalid(
            prefix,
            "it must be the beginning of a topic, without + and #",
        ));
    }
    listener.policy.mount_point = Some(prefix.into());
    Ok(())
}

fn set_max_qos(listener: &mut Listener, qos: i64) {
    listener.policy.max_qos = match qos {
        0 => QoS::AtMostOnce,
        1 => QoS::AtLeastOnce,
        _ => QoS::ExactlyOnce,
    };
}
