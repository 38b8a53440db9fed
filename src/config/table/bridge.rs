//! Bridges.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::bridge::{
    Bridge, BridgeAddress, BridgeTls, BridgeTopic, RestartTimeout, StartType, TcpKeepAlive,
};
use crate::config::directive::{Directive, Place, Scope};
use crate::config::listener::TlsVersion;
use crate::config::problem::{Problem, Severity};
use crate::config::value::{Arguments, Value, at_least, integer};
use crate::limits::{BRIDGE_ADDRESSES_MAX, BRIDGE_TOPICS_MAX};
use crate::message::ProtocolVersion;
use std::time::Duration;

const NO_LAZY: &str = "a bridge is connected all the time. Leave it out, and start_type lazy.";
const NO_PSK: &str = "the TLS library has no pre-shared keys, and without them the connection would not be \
     protected. Use certificates: bridge_cafile, and bridge_certfile with bridge_keyfile.";
const NO_OCSP: &str = "the TLS library does not ask whether a certificate is revoked, so one that is would be taken \
     for valid. Leave it out, and use bridge_cafile with an authority of your own.";
/// A directive of a bridge.
const fn of_bridge(name: &'static str, syntax: &'static str, value: Value<Bridge>) -> Directive {
    Directive::new(name, syntax, Scope::Bridge(value))
}

/// A directive of a bridge that the broker does not start with.
const fn refused(name: &'static str, syntax: &'static str, why: &'static str) -> Directive {
    Directive::refused(name, syntax, Scope::Nowhere(Place::Bridge), why)
}

pub(super) const SECTION: Section = Section {
    title: "Bridges",
    introduction: "A bridge is a client of this broker and of another one, and carries messages between them. Its \
                   directives stand below its connection line, in the same file; those of a listener belong to the \
                   listener above them, whatever bridges stand between.",
    directives: &[
        Directive::new("connection", "NAME", Scope::BeginsBridge)
            .adds()
            .text("Begins a bridge, whose name is no other's. There may be 64."),
        of_bridge(
            "address",
            "HOST[:PORT] ...",
            Value::Words(read_addresses),
        )
        .once()
        .text(
            "The other broker, needed: an IP address or a host name. An IPv6 address stands in brackets, or has its \
             port behind it. The port is 1883 unless given, with TLS as well. Of several, each is tried when the one \
             before cannot be reached; see round_robin.",
        ),
        of_bridge(
            "addresses",
            "HOST[:PORT] ...",
            Value::Words(read_addresses),
        )
        .once()
        .text("The same as address."),
        of_bridge(
            "topic",
            "PATTERN [out|in|both [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]",
            Value::Words(read_topic),
        )
        .adds()
        .text(
            "Messages that cross the bridge, needed: those of topics that match PATTERN go out to the other broker, \
             come in from it, or both, with QOS at most. Unless given, they go out with QoS 0. At this broker their \
             topics have LOCAL-PREFIX before what PATTERN matches, at the other one REMOTE-PREFIX; \"\" stands for \
             nothing. With both of them PATTERN may be \"\": they are the two topics then. A PATTERN with blanks \
             stands in double quotes. Shared subscriptions are refused. A bridge may have 1,000 topics.",
        ),
        of_bridge(
            "bridge_alpn",
            "NAME",
            Value::Text(|bridge| &mut tls(bridge).alpn),
        )
        .once()
        .text("The protocol that is asked for in the TLS handshake."),
        of_bridge(
            "bridge_attempt_unsubscribe",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.attempt_unsubscribe = yes),
        )
        .default("true")
        .text(
            "Whether topics that only go out are unsubscribed from at the other broker, so that a session that is \
             still there brings nothing of a topic that came in before.",
        ),
        of_bridge(
            "bridge_bind_address",
            "ADDRESS",
            Value::Text(|bridge| &mut bridge.bind_address),
        )
        .once()
        .text("The local address of the connection."),
        of_bridge(
            "bridge_cafile",
            "FILE",
            Value::File(|bridge| &mut tls(bridge).cafile),
        )
        .once()
        .text(
            "Certificates of authorities that the other broker is checked against. With it, bridge_capath or \
             bridge_tls_use_os_certs the bridge speaks TLS.",
        ),
        of_bridge(
            "bridge_capath",
            "DIRECTORY",
            Value::File(|bridge| &mut tls(bridge).capath),
        )
        .once()
        .text("A directory of such certificates, as `openssl rehash` leaves it."),
        of_bridge(
            "bridge_certfile",
            "FILE",
            Value::File(|bridge| &mut tls(bridge).certfile),
        )
        .once()
        .text("The bridge's certificate, followed by those between it and the authority."),
        of_bridge(
            "bridge_ciphers",
            "CIPHER:CIPHER...",
            Value::Text(|bridge| &mut tls(bridge).ciphers),
        )
        .once()
        .text("The cipher suites of TLS 1.2, as ciphers has them for listeners."),
        of_bridge(
            "bridge_ciphers_tls1.3",
            "CIPHER:CIPHER...",
            Value::Text(|bridge| &mut tls(bridge).ciphers_tls13),
        )
        .once()
        .text("The cipher suites of TLS 1.3."),
        refused("bridge_identity", "IDENTITY", NO_PSK).text("The identity of its pre-shared key."),
        of_bridge(
            "bridge_insecure",
            "true|false",
            Value::Boolean(|bridge, yes| tls(bridge).insecure = yes),
        )
        .default("false")
        .text(
            "Whether the name in the other broker's certificate does not matter. With true, whoever has any \
             certificate of the authorities can be the other broker.",
        ),
        of_bridge(
            "bridge_keyfile",
            "FILE",
            Value::File(|bridge| &mut tls(bridge).keyfile),
        )
        .once()
        .text("The private key of bridge_certfile, without a password."),
        of_bridge(
            "bridge_max_packet_size",
            "BYTES",
            at_least(0, i32::MAX as i64, |bridge, bytes| {
                bridge.max_packet_size = u32::try_from(bytes).ok().filter(|&bytes| bytes != 0);
            }),
        )
        .default("0")
        .text(
            "Largest packet that is sent over the bridge. 0 is no bound. An MQTT 5 broker may have a smaller one of \
             its own, which counts then.",
        ),
        of_bridge(
            "bridge_max_topic_alias",
            "COUNT",
            integer(0, 65_535, |bridge, count| {
                bridge.max_topic_alias = u16::try_from(count).unwrap_or(u16::MAX);
            }),
        )
        .default("10")
        .text("Topic aliases that an MQTT 5 broker may set. With 0, none."),
        of_bridge(
            "bridge_outgoing_retain",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.outgoing_retain = yes),
        )
        .default("true")
        .text(
            "Whether messages that are retained here are sent as such. With false none are, for brokers that do not \
             retain anything.",
        ),
        of_bridge(
            "bridge_protocol_version",
            "mqttv50|mqttv311|mqttv31",
            Value::Words(read_protocol_version),
        )
        .default("mqttv311")
        .text("The version of MQTT: 5.0, 3.1.1 or 3.1."),
        refused("bridge_psk", "KEY", NO_PSK).text("The pre-shared key."),
        of_bridge(
            "bridge_receive_maximum",
            "COUNT",
            integer(1, 65_535, |bridge, count| {
                bridge.receive_maximum = u16::try_from(count).ok();
            }),
        )
        .text("QoS 1 and 2 messages of an MQTT 5 broker that may be unacknowledged at once."),
        of_bridge(
            "bridge_reload_type",
            "lazy|immediate",
            Value::Words(read_reload_type),
        )
        .default("lazy")
        .text(
            "When a reload that has changed the bridge takes effect for it: with lazy at its next connection, with \
             immediate it connects anew. One that is new is connected, and one that is gone ended, in any case; so is \
             its session here.",
        ),
        refused("bridge_require_ocsp", "true|false", NO_OCSP).text(
            "Whether the other broker has to prove that its certificate is not revoked.",
        ),
        of_bridge(
            "bridge_session_expiry_interval",
            "SECONDS",
            integer(0, u32::MAX as i64, |bridge, seconds| {
                bridge.session_expiry_interval_s = u32::try_from(seconds).ok();
            }),
        )
        .text("How long an MQTT 5 broker keeps the session of a bridge that is gone. 4294967295 is for ever."),
        of_bridge(
            "bridge_tcp_keepalive",
            "IDLE INTERVAL COUNT",
            Value::Words(read_tcp_keepalive),
        )
        .text(
            "TCP keep alive of the connection: after IDLE seconds without anything there is a probe each INTERVAL \
             seconds, and COUNT of them without an answer end the connection.",
        ),
        of_bridge(
            "bridge_tcp_user_timeout",
            "MILLISECONDS",
            integer(0, i32::MAX as i64, |bridge, milliseconds| {
                let timeout = u64::try_from(milliseconds).ok().filter(|&it| it != 0);
                bridge.tcp_user_timeout = timeout.map(Duration::from_millis);
            }),
        )
        .text("Longest time without a TCP acknowledgement. 0 is what the system has."),
        of_bridge(
            "bridge_tls_use_os_certs",
            "true|false",
            Value::Boolean(|bridge, yes| tls(bridge).use_os_certs = yes),
        )
        .default("false")
        .text("Whether the authorities that the system trusts are trusted."),
        of_bridge(
            "bridge_tls_version",
            "tlsv1.3|tlsv1.2",
            Value::Words(read_tls_version),
        )
        .default("tlsv1.2")
        .text("The lowest version of TLS that is spoken."),
        of_bridge(
            "cleansession",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.clean_session = yes),
        )
        .default("false")
        .text(
            "Whether the session at the other broker ends with the connection. What comes in is lost then while there \
             is none.",
        ),
        of_bridge(
            "clientid",
            "ID",
            Value::Words(read_remote_clientid),
        )
        .once()
        .deprecated("Please use 'remote_clientid' instead.")
        .text("An old name of remote_clientid."),
        refused("idle_timeout", "SECONDS", NO_LAZY)
            .text("Time without messages after which a lazy bridge disconnects."),
        of_bridge(
            "keepalive_interval",
            "SECONDS",
            Value::Words(read_keepalive),
        )
        .default("60")
        .text("Time without packets after which the other broker is asked whether it is still there: from 5 to 65535."),
        of_bridge(
            "local_cleansession",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.local_clean_session = Some(yes)),
        )
        .text(
            "Whether the session at this broker ends with the connection. What goes out is lost then while there is \
             none. Unless given, what cleansession says.",
        ),
        of_bridge(
            "local_clientid",
            "ID",
            Value::Text(|bridge| &mut bridge.local_clientid),
        )
        .once()
        .text(
            "The bridge's client identifier at this broker, which is no other bridge's. Unless given, local. and \
             remote_clientid.",
        ),
        of_bridge(
            "local_password",
            "PASSWORD",
            Value::Text(|bridge| &mut bridge.local_password),
        )
        .once()
        .text("Its password at this broker."),
        of_bridge(
            "local_username",
            "NAME",
            Value::Text(|bridge| &mut bridge.local_username),
        )
        .once()
        .text("Its user name at this broker."),
        of_bridge(
            "notification_topic",
            "TOPIC",
            Value::Text(|bridge| &mut bridge.notification_topic),
        )
        .once()
        .text(
            "Where the state of the bridge is published. Unless given, $SYS/broker/connection/, remote_clientid and \
             /state.",
        ),
        of_bridge(
            "notifications",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.notifications = yes),
        )
        .default("true")
        .text(
            "Whether the state of the bridge is published at both brokers, as a retained message: 1 while it is \
             connected, 0 while it is not.",
        ),
        of_bridge(
            "notifications_local_only",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.notifications_local_only = yes),
        )
        .default("false")
        .text("Whether it is published at this broker only."),
        of_bridge(
            "password",
            "PASSWORD",
            Value::Words(read_remote_password),
        )
        .once()
        .deprecated("Please use 'remote_password' instead.")
        .text("An old name of remote_password."),
        of_bridge(
            "remote_clientid",
            "ID",
            Value::Words(read_remote_clientid),
        )
        .once()
        .text(
            "The bridge's client identifier at the other broker. Unless given, the name of this machine, a full stop \
             and the name of the bridge.",
        ),
        of_bridge(
            "remote_password",
            "PASSWORD",
            Value::Words(read_remote_password),
        )
        .once()
        .text("Its password at the other broker."),
        of_bridge(
            "remote_username",
            "NAME",
            Value::Words(read_remote_username),
        )
        .once()
        .text("Its user name at the other broker."),
        of_bridge(
            "restart_timeout",
            "CONSTANT | BASE CAP",
            Value::Words(read_restart),
        )
        .default("5 30")
        .text(
            "Time between attempts to connect: always CONSTANT seconds, of 1 to 3600; or random, from BASE seconds, of \
             1 to 3600, growing to CAP, of up to 7200. Mosquitto's third number is refused: the time is BASE again after \
             each connection.",
        ),
        of_bridge(
            "round_robin",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.round_robin = yes),
        )
        .default("false")
        .text(
            "Whether all addresses are equals. With false the first is the main one: while another one is in use, it is \
             tried now and then, and returned to.",
        ),
        of_bridge(
            "start_type",
            "automatic|once",
            Value::Words(read_start_type),
        )
        .default("automatic")
        .text(
            "With automatic the bridge connects at the start and again whenever it is not connected, with once at the \
             start and at a reload that changes it only. Mosquitto's lazy is refused.",
        ),
        refused("threshold", "COUNT", NO_LAZY)
            .text("Waiting messages with which a lazy bridge connects."),
        of_bridge(
            "try_private",
            "true|false",
            Value::Boolean(|bridge, yes| bridge.try_private = yes),
        )
        .default("true")
        .text(
            "Whether the other broker is told that it is a bridge that connects, which keeps messages from coming back \
             and lets those that are retained come as such. Where it is refused the bridge goes on without.",
        ),
        of_bridge(
            "username",
            "NAME",
            Value::Words(read_remote_username),
        )
        .once()
        .deprecated("Please use 'remote_username' instead.")
        .text("An old name of remote_username."),
    ],
};

/// What the bridge says of TLS so far. Whether it has TLS at all is decided when all of it is known.
fn tls(bridge: &mut Bridge) -> &mut BridgeTls {
    bridge.tls.get_or_insert_default()
}

/// # Errors
/// When a directive was given already, by any of its names.
fn once(bridge: &Bridge, arguments: &Arguments<'_>, names: [&str; 2]) -> Result<(), Problem> {
    match names.iter().find_map(|name| bridge.written.place(name)) {
        None => Ok(()),
        Some(first) => Err(Problem::Duplicate {
            directive: arguments.name.to_owned(),
            first: first.clone(),
        }),
    }
}

fn read_addresses(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    once(bridge, arguments, ["address", "addresses"])?;
    while let Some(word) = arguments.next_word() {
        if bridge.addresses.len() == BRIDGE_ADDRESSES_MAX {
            let expected = format!("there may be {BRIDGE_ADDRESSES_MAX} addresses of a bridge");
            return Err(arguments.invalid(word, expected));
        }
        let address = BridgeAddress::read(word, arguments)?;
        bridge.addresses.push(address);
    }
    if bridge.addresses.is_empty() {
        return Err(arguments.empty());
    }
    Ok(())
}

fn read_topic(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let topic = BridgeTopic::read(arguments)?;
    if bridge.topics.contains(&topic) {
        arguments.say(
            Severity::Notice,
            "this 'topic' is there already, and counts once",
        );
        return Ok(());
    }
    if bridge.topics.len() == BRIDGE_TOPICS_MAX {
        return Err(Problem::Contradiction(
            format!("More than {BRIDGE_TOPICS_MAX} topics of a bridge.").into(),
        ));
    }
    bridge.topics.push(topic);
    Ok(())
}

fn read_remote_clientid(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    once(bridge, arguments, ["remote_clientid", "clientid"])?;
    bridge.remote_clientid = Some(arguments.rest()?.to_owned());
    Ok(())
}

fn read_remote_username(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    once(bridge, arguments, ["remote_username", "username"])?;
    bridge.remote_username = Some(arguments.rest()?.to_owned());
    Ok(())
}

fn read_remote_password(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    once(bridge, arguments, ["remote_password", "password"])?;
    bridge.remote_password = Some(arguments.rest()?.to_owned());
    Ok(())
}

fn read_protocol_version(
    bridge: &mut Bridge,
    arguments: &mut Arguments<'_>,
) -> Result<(), Problem> {
    bridge.protocol_version = match arguments.word()? {
        "mqttv50" => ProtocolVersion::V5,
        "mqttv311" => ProtocolVersion::V311,
        "mqttv31" => ProtocolVersion::V3,
        other => {
            return Err(arguments.invalid(other, "it must be mqttv50, mqttv311 or mqttv31"));
        }
    };
    Ok(())
}

fn read_tls_version(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    tls(bridge).version_min = match arguments.word()? {
        "tlsv1.3" => TlsVersion::V13,
        "tlsv1.2" => TlsVersion::V12,
        other => return Err(arguments.invalid(other, "it must be tlsv1.3 or tlsv1.2")),
    };
    Ok(())
}

fn read_reload_type(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    bridge.is_reloaded_at_once = match arguments.word()? {
        "lazy" => false,
        "immediate" => true,
        other => return Err(arguments.invalid(other, "it must be lazy or immediate")),
    };
    Ok(())
}

fn read_start_type(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    bridge.start_type = match arguments.word()? {
        "automatic" => StartType::Automatic,
        "once" => StartType::Once,
        "lazy" => {
            return Err(arguments.invalid(
                "lazy",
                "a bridge is connected all the time, so it must be automatic or once",
            ));
        }
        other => return Err(arguments.invalid(other, "it must be automatic or once")),
    };
    Ok(())
}

/// `number` within `min` to `max`. What lies beyond them means the nearer one, as in Mosquitto, and that is said.
fn clamped(
    number: i64,
    what: &str,
    (min, max): (i64, i64),
    arguments: &mut Arguments<'_>,
) -> Duration {
    let seconds = number.clamp(min, max);
    if seconds != number {
        let is = if number < min { "low" } else { "high" };
        let text = format!("{what} {number} is too {is}, using {seconds} seconds");
        arguments.say(Severity::Notice, text);
    }
    Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
}

fn read_keepalive(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let (min, max) = (5, u16::MAX.into());
    let number = arguments.integer()?;
    if number > max {
        return Err(arguments.invalid(number, format!("it must be from {min} to {max}")));
    }
    bridge.keepalive = clamped(number, "keepalive_interval", (min, max), arguments);
    Ok(())
}

fn read_restart(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let base = arguments.integer()?;
    let base = clamped(base, "restart_timeout", (1, 3600), arguments);
    let Some(word) = arguments.next_word() else {
        bridge.restart = RestartTimeout::Constant(base);
        return Ok(());
    };
    let cap = arguments.number(word)?.max(0);
    let cap = clamped(cap, "CAP of restart_timeout", (0, 7200), arguments);
    if cap < base {
        return Err(arguments.invalid(word, "CAP must not be lower than BASE"));
    }
    if let Some(word) = arguments.next_word() {
        return Err(arguments.invalid(
            word,
            "a third number is refused, since the time is BASE again after each connection",
        ));
    }
    bridge.restart = RestartTimeout::Backoff { base, cap };
    Ok(())
}

/// What Linux takes for times and for the number of probes.
const TCP_KEEP_ALIVE_S_MAX: u32 = 32_767;
const TCP_KEEP_ALIVE_COUNT_MAX: u32 = 127;

fn read_tcp_keepalive(bridge: &mut Bridge, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let mut read = |what, max: u32| {
        let number = arguments.integer()?;
        match u32::try_from(number) {
            Ok(number @ 1..) if number <= max => Ok(number),
            _ => Err(arguments.invalid(number, format!("{what} must be from 1 to {max}"))),
        }
    };
    let idle = read("IDLE", TCP_KEEP_ALIVE_S_MAX)?;
    let interval = read("INTERVAL", TCP_KEEP_ALIVE_S_MAX)?;
    let counter = read("COUNT", TCP_KEEP_ALIVE_COUNT_MAX)?;
    bridge.tcp_keepalive = Some(TcpKeepAlive {
        idle: Duration::from_secs(idle.into()),
        interval: Duration::from_secs(interval.into()),
        counter,
    });
    Ok(())
}
