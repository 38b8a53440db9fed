//! What the configuration says of one bridge: a connection of ours to another broker.

#![forbid(unsafe_code)]

use super::listener::TlsVersion;
use super::problem::{Place, Problem};
use super::value::{Arguments, FileReference};
use super::written::Written;
use crate::message::{ProtocolVersion, QoS};
use crate::topic::{TopicFilter, TopicName};
use std::net::Ipv6Addr;
use std::time::Duration;

/// The port of an address that names none, with TLS as well: it is so in Mosquitto.
pub const BRIDGE_PORT: u16 = 1883;
/// Longest name of a host in the domain name system.
const HOST_SIZE_MAX: usize = 255;

/// One bridge.
#[derive(Clone, Debug, PartialEq)]
pub struct Bridge {
    /// The line that began it.
    pub place: Place,
    /// Its directives.
    pub written: Written,
    /// What it is called (`connection`); no two have the same name.
    pub name: String,
    /// Where the other broker is, in the order of the file; one at least (`address`).
    pub addresses: Vec<BridgeAddress>,
    /// The local address of the connection (`bridge_bind_address`).
    pub bind_address: Option<String>,
    /// What crosses it; one at least (`topic`).
    pub topics: Vec<BridgeTopic>,
    /// Whether the Session at the other broker ends with the connection (`cleansession`).
    pub clean_session: bool,
    /// The same of the Session at this broker; `None` for what `clean_session` says (`local_cleansession`).
    pub local_clean_session: Option<bool>,
    /// Client Identifier at the other broker; `None` for the host's name, a full stop and the bridge's name
    /// (`remote_clientid`).
    pub remote_clientid: Option<String>,
    /// Client Identifier at this broker; `None` for `local.` and the one at the other broker (`local_clientid`).
    pub local_clientid: Option<String>,
    /// User Name at the other broker (`remote_username`).
    pub remote_username: Option<String>,
    /// Password at the other broker (`remote_password`).
    pub remote_password: Option<String>,
    /// User Name at this broker (`local_username`).
    pub local_username: Option<String>,
    /// Password at this broker (`local_password`).
    pub local_password: Option<String>,
    /// Keep Alive, in whole seconds of 5 to 65,535 (`keepalive_interval`).
    pub keepalive: Duration,
    /// Whether the state of the connection is published (`notifications`).
    pub notifications: bool,
    /// Whether it is published at this broker only (`notifications_local_only`).
    pub notifications_local_only: bool,
    /// Where it is published, a valid Topic Name; `None` for `$SYS/broker/connection/REMOTE-CLIENTID/state`
    /// (`notification_topic`).
    pub notification_topic: Option<String>,
    /// Whether the addresses are equals; otherwise the first is returned to (`round_robin`).
    pub round_robin: bool,
    /// Time between attempts to connect (`restart_timeout`).
    pub restart: RestartTimeout,
    /// When it connects (`start_type`).
    pub start_type: StartType,
    /// Whether the other broker is told that it is a bridge that connects (`try_private`).
    pub try_private: bool,
    /// Whether topics that only go out are unsubscribed from at the other broker (`bridge_attempt_unsubscribe`).
    pub attempt_unsubscribe: bool,
    /// Whether the other broker may retain what goes out; otherwise the RETAIN flag is taken away
    /// (`bridge_outgoing_retain`).
    pub outgoing_retain: bool,
    /// The version of MQTT (`bridge_protocol_version`).
    pub protocol_version: ProtocolVersion,
    /// Largest Control Packet that is sent; `None` for no bound of ours (`bridge_max_packet_size`).
    pub max_packet_size: Option<u32>,
    /// Topic Aliases that the other broker may set, MQTT 5.0 only (`bridge_max_topic_alias`).
    pub max_topic_alias: u16,
    /// QoS 1 and 2 messages that may be unacknowledged at once, MQTT 5.0 only; never 0
    /// (`bridge_receive_maximum`).
    pub receive_maximum: Option<u16>,
    /// How long the other broker keeps the Session, MQTT 5.0 only; `u32::MAX` for ever
    /// (`bridge_session_expiry_interval`).
    pub session_expiry_interval_s: Option<u32>,
    /// TCP keep alive (`bridge_tcp_keepalive`).
    pub tcp_keepalive: Option<TcpKeepAlive>,
    /// Longest time without a TCP acknowledgement, in whole milliseconds; `None` for what the system has
    /// (`bridge_tcp_user_timeout`).
    pub tcp_user_timeout: Option<Duration>,
    /// Whether a reload that changes it ends the connection, and otherwise counts from the next one on
    /// (`bridge_reload_type`).
    pub is_reloaded_at_once: bool,
    /// TLS; `Some` with authorities that the other broker is checked against (`bridge_cafile`, `bridge_capath`,
    /// `bridge_tls_use_os_certs`).
    pub tls: Option<BridgeTls>,
}

impl Bridge {
    /// A bridge of which nothing is known yet but its name.
    pub fn new(name: String, place: Place) -> Self {
        Self {
            place,
            written: Written::default(),
            name,
            addresses: Vec::new(),
            bind_address: None,
            topics: Vec::new(),
            clean_session: false,
            local_clean_session: None,
            remote_clientid: None,
            local_clientid: None,
            remote_username: None,
            remote_password: None,
            local_username: None,
            local_password: None,
            keepalive: Duration::from_secs(60),
            notifications: true,
            notifications_local_only: false,
            notification_topic: None,
            round_robin: false,
            restart: RestartTimeout::default(),
            start_type: StartType::default(),
            try_private: true,
            attempt_unsubscribe: true,
            outgoing_retain: true,
            protocol_version: ProtocolVersion::V311,
            max_packet_size: None,
            max_topic_alias: 10,
            receive_maximum: None,
            session_expiry_interval_s: None,
            tcp_keepalive: None,
            tcp_user_timeout: None,
            is_reloaded_at_once: false,
            tls: None,
        }
    }

    /// Whether a bridge of `other` would do the same.
    pub fn says_the_same_as(&self, other: &Self) -> bool {
        let without_lines = |bridge: &Self| Self {
            place: self.place.clone(),
            written: Written::default(),
            ..bridge.clone()
        };
        without_lines(self) == without_lines(other)
    }

    /// The line of the directive of this name, or of the bridge where it has none.
    pub fn place_of(&self, name: &str) -> &Place {
        self.written.place(name).unwrap_or(&self.place)
    }
}

/// Where another broker is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BridgeAddress {
    /// An IP address, without brackets, or a host name.
    pub host: String,
    /// Not 0.
    pub port: u16,
}

impl BridgeAddress {
    /// `HOST`, `HOST:PORT`, `[IPv6]` or `[IPv6]:PORT`. As in Mosquitto, what follows the last colon of an IPv6 address
    /// without brackets is its port.
    pub(super) fn read(word: &str, arguments: &Arguments<'_>) -> Result<Self, Problem> {
        let (host, port) = match word.strip_prefix('[') {
            Some(rest) => {
                let Some((host, rest)) = rest.split_once(']').filter(|(host, _)| is_ipv6(host))
                else {
                    return Err(
                        arguments.invalid(word, "an IPv6 address has to be in the brackets")
                    );
                };
                match rest.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if rest.is_empty() => (host, None),
                    None => {
                        return Err(arguments.invalid(word, "it must be HOST or HOST:PORT"));
                    }
                }
            }
            None => match word.rsplit_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (word, None),
            },
        };
        if host.contains(':') && !is_ipv6(host) {
            return Err(arguments.invalid(
                word,
                "an IPv6 address stands in brackets: [2001:db8::1] or [2001:db8::1]:1883",
            ));
        }
        if host.is_empty() || host.len() > HOST_SIZE_MAX || host.chars().any(char::is_control) {
            return Err(arguments.invalid(word, "it must be HOST or HOST:PORT"));
        }
        let port = match port {
            None => BRIDGE_PORT,
            Some(text) => {
                let is_number = text.bytes().all(|byte| byte.is_ascii_digit());
                let port = text.parse().ok().filter(|&port| is_number && port != 0);
                port.ok_or_else(|| arguments.invalid(word, "the port must be from 1 to 65535"))?
            }
        };
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

/// Whether it is an IPv6 address, which may name an interface behind a `%`.
fn is_ipv6(text: &str) -> bool {
    let address = text.split_once('%').map_or(text, |(address, _)| address);
    address.parse::<Ipv6Addr>().is_ok()
}

/// Messages that cross a bridge, and their topics on both sides.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct BridgeTopic {
    /// Which way.
    pub direction: Direction,
    /// Of the subscription on the side that messages come from.
    pub qos: QoS,
    /// A valid Topic Filter, `local_prefix` before the pattern. Never a Shared Subscription.
    pub local_filter: String,
    /// A valid Topic Filter, `remote_prefix` before the same pattern. Never a Shared Subscription.
    pub remote_filter: String,
    /// What `local_filter` begins with: no wildcards, empty for nothing.
    pub local_prefix: String,
    /// What `remote_filter` begins with: no wildcards, empty for nothing.
    pub remote_prefix: String,
}

/// What stands for nothing where something has to stand.
const NOTHING: &str = "\"\"";

impl BridgeTopic {
    /// `PATTERN [out|in|both [QOS [LOCAL-PREFIX [REMOTE-PREFIX]]]]`
    pub(super) fn read(arguments: &mut Arguments<'_>) -> Result<Self, Problem> {
        let pattern = arguments.quoted_word()?;
        let direction = match arguments.next_word() {
            None => Direction::Out,
            Some(word) if word.eq_ignore_ascii_case("out") => Direction::Out,
            Some(word) if word.eq_ignore_ascii_case("in") => Direction::In,
            Some(word) if word.eq_ignore_ascii_case("both") => Direction::Both,
            Some(word) => {
                return Err(arguments.invalid(word, "the direction must be out, in or both"));
            }
        };
        let qos = match arguments.next_word() {
            None | Some("0") => QoS::AtMostOnce,
            Some("1") => QoS::AtLeastOnce,
            Some("2") => QoS::ExactlyOnce,
            Some(word) => return Err(arguments.invalid(word, "the QoS must be from 0 to 2")),
        };
        let local_prefix = Self::read_prefix(arguments)?;
        let remote_prefix = Self::read_prefix(arguments)?;
        if let Some(word) = arguments.next_word() {
            return Err(arguments.invalid(
                word,
                "nothing may follow the prefixes; a pattern with blanks stands in double quotes",
            ));
        }
        if pattern.is_empty() && (local_prefix.is_empty() || remote_prefix.is_empty()) {
            return Err(arguments.invalid(
                NOTHING,
                "a pattern of nothing needs both prefixes, which are the two topics then",
            ));
        }
        Ok(Self {
            direction,
            qos,
            local_filter: Self::filter(local_prefix, pattern, arguments)?,
            remote_filter: Self::filter(remote_prefix, pattern, arguments)?,
            local_prefix: local_prefix.to_owned(),
            remote_prefix: remote_prefix.to_owned(),
        })
    }

    fn read_prefix<'a>(arguments: &mut Arguments<'a>) -> Result<&'a str, Problem> {
        let Some(word) = arguments.next_word().filter(|&word| word != NOTHING) else {
            return Ok("");
        };
        if word.starts_with('"') {
            return Err(arguments.invalid(word, "a prefix cannot stand in quotes"));
        }
        match TopicName::new(word) {
            Ok(_) => Ok(word),
            Err(error) => Err(arguments.invalid(word, format!("as a prefix, {error}"))),
        }
    }

    fn filter(prefix: &str, pattern: &str, arguments: &Arguments<'_>) -> Result<String, Problem> {
        let text = format!("{prefix}{pattern}");
        if text.chars().any(char::is_control) {
            return Err(arguments.invalid(text, "it holds a control character"));
        }
        let is_shared = match TopicFilter::new(&text) {
            Ok(filter) => filter.share_group().is_some(),
            Err(error) => return Err(arguments.invalid(text, error.to_string())),
        };
        if is_shared {
            return Err(arguments.invalid(
                text,
                "a shared subscription would lose messages whenever the bridge is down, and its prefixes would \
                 mean nothing. Use the topic filter behind $share/ShareName/",
            ));
        }
        Ok(text)
    }
}

/// Which way messages cross a bridge.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Direction {
    /// From the other broker to this one.
    In,
    /// From this broker to the other one.
    Out,
    /// Both ways.
    Both,
}

/// Time between two attempts to connect.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RestartTimeout {
    /// Always the same.
    Constant(Duration),
    /// Random, and longer and longer ("decorrelated jitter"); from the beginning after each connection.
    Backoff {
        /// The shortest, and the first.
        base: Duration,
        /// The longest, `base` at least.
        cap: Duration,
    },
}

impl Default for RestartTimeout {
    fn default() -> Self {
        Self::Backoff {
            base: Duration::from_secs(5),
            cap: Duration::from_secs(30),
        }
    }
}

/// When a bridge connects.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum StartType {
    /// At the start, and again whenever it is not connected.
    #[default]
    Automatic,
    /// At the start only.
    Once,
}

/// TCP keep alive: whether the other side is still there while nothing is sent.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct TcpKeepAlive {
    /// Time without anything until the first probe, in whole seconds (`TCP_KEEPIDLE`).
    pub idle: Duration,
    /// Time between probes, in whole seconds (`TCP_KEEPINTVL`).
    pub interval: Duration,
    /// Probes without an answer that end the connection (`TCP_KEEPCNT`).
    pub counter: u32,
}

/// TLS of a bridge. One of `cafile`, `capath` and `use_os_certs` is there at least.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct BridgeTls {
    /// Certificates of authorities that the other broker is checked against (`bridge_cafile`).
    pub cafile: Option<FileReference>,
    /// A directory of such certificates (`bridge_capath`).
    pub capath: Option<FileReference>,
    /// The bridge's certificate and the chain above it (`bridge_certfile`).
    pub certfile: Option<FileReference>,
    /// Its private key, there if and only if `certfile` is (`bridge_keyfile`).
    pub keyfile: Option<FileReference>,
    /// Whether the system's authorities are trusted (`bridge_tls_use_os_certs`).
    pub use_os_certs: bool,
    /// Whether the name in the other broker's certificate does not matter (`bridge_insecure`).
    pub insecure: bool,
    /// The protocol that is asked for by ALPN, of 1 to 255 bytes (`bridge_alpn`).
    pub alpn: Option<String>,
    /// The lowest version spoken (`bridge_tls_version`).
    pub version_min: TlsVersion,
    /// Cipher suites of TLS 1.2, with OpenSSL's names and colons between (`bridge_ciphers`).
    pub ciphers: Option<String>,
    /// Cipher suites of TLS 1.3, with colons between (`bridge_ciphers_tls1.3`).
    pub ciphers_tls13: Option<String>,
}
