//! What the configuration says of one listener.

#![forbid(unsafe_code)]

use super::problem::Place;
use super::security::SecurityOptions;
use super::value::FileReference;
use super::written::Written;
use crate::policy::ListenerPolicy;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The port of a listener that names none.
pub const PORT: u16 = 1883;

/// One listener.
#[derive(Clone, Debug)]
pub struct Listener {
    /// The line that began it; `None` for what the command line or nobody asked for.
    pub place: Option<Place>,
    /// Its directives.
    pub written: Written,
    /// Where it listens.
    pub address: ListenAddress,
    /// Whether a reload has taken it away. Its connections are still there, and refer to its place among
    /// the listeners.
    pub is_closed: bool,
    /// The network interface it is bound to (`bind_interface`).
    pub bind_interface: Option<String>,
    /// The only address family it listens on (`socket_domain`).
    pub socket_domain: Option<SocketDomain>,
    /// What is spoken on it (`protocol`).
    pub protocol: Protocol,
    /// What the shards have to obey; security is added when the files have been read.
    pub policy: ListenerPolicy,
    /// Its own security settings.
    pub security: SecurityOptions,
    /// TLS, if there is a `certfile`.
    pub tls: TlsOptions,
    /// Whether and which PROXY header begins each connection (`enable_proxy_protocol`).
    pub proxy_protocol: Option<ProxyProtocol>,
    /// Whether the proxy has to have spoken TLS with the Client (`proxy_protocol_v2_require_tls`).
    pub proxy_protocol_v2_require_tls: bool,
    /// Origins that a browser's page may come from; empty for any (`websockets_origin`).
    pub websockets_origins: Vec<String>,
    /// Files served to requests that are no WebSocket handshakes (`http_dir`).
    pub http_dir: Option<FileReference>,
    /// Connections of one shard whose CONNECT has not come yet (`fastmq_max_pending_connections`).
    pub max_pending_connections: usize,
    /// From accept to the end of a TLS or WebSocket handshake (`fastmq_handshake_timeout`).
    pub handshake_timeout: Duration,
}

impl Default for Listener {
    fn default() -> Self {
        Self {
            place: None,
            written: Written::default(),
            address: ListenAddress::default(),
            is_closed: false,
            bind_interface: None,
            socket_domain: None,
            protocol: Protocol::default(),
            policy: ListenerPolicy::default(),
            security: SecurityOptions::default(),
            tls: TlsOptions::default(),
            proxy_protocol: None,
            proxy_protocol_v2_require_tls: false,
            websockets_origins: Vec::new(),
            http_dir: None,
            max_pending_connections: 4096,
            handshake_timeout: Duration::from_secs(10),
        }
    }
}

/// Where a listener listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenAddress {
    /// A TCP port.
    Tcp {
        /// An IP address or a host name; `None` for all addresses of the machine.
        host: Option<String>,
        /// Zero lets the system choose.
        port: u16,
    },
    /// A TCP port that only this machine reaches.
    Loopback {
        /// Zero lets the system choose.
        port: u16,
    },
    /// A unix socket.
    Unix(PathBuf),
    /// Nowhere: the bridges of this broker come to it, from within the process.
    Bridges,
}

impl Default for ListenAddress {
    fn default() -> Self {
        Self::Tcp {
            host: None,
            port: PORT,
        }
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host: None, port } => write!(f, "{port}"),
            Self::Tcp {
                host: Some(host),
                port,
            } => write!(f, "{port} {host}"),
            Self::Loopback { port } => write!(f, "{port} localhost"),
            Self::Unix(path) => write!(f, "0 {}", path.display()),
            Self::Bridges => f.write_str("for bridges"),
        }
    }
}

impl Listener {
    /// A listener at one port of one address.
    pub fn at(address: IpAddr, port: u16) -> Self {
        Self {
            address: ListenAddress::Tcp {
                host: Some(address.to_string()),
                port,
            },
            ..Self::default()
        }
    }

    /// The line of the directive of this name, or of the listener where it has none.
    pub fn place_of(&self, name: &str) -> Option<&Place> {
        self.written.place(name).or(self.place.as_ref())
    }

    /// Whether connections to it are encrypted by us.
    pub fn has_tls(&self) -> bool {
        self.tls.certfile.is_some()
    }
}

/// An address family.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum SocketDomain {
    /// IPv4.
    Ipv4,
    /// IPv6.
    Ipv6,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Protocol {
    /// MQTT.
    #[default]
    Mqtt,
    /// MQTT in WebSocket messages.
    Websockets,
}

/// A version of the PROXY header.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum ProxyProtocol {
    /// A line of text.
    V1,
    /// Binary, with TLS fields.
    V2,
}

/// TLS of a listener. It is spoken if there is a certificate.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct TlsOptions {
    /// Certificates of authorities that client certificates are checked against.
    pub cafile: Option<FileReference>,
    /// A directory of such certificates.
    pub capath: Option<FileReference>,
    /// Our certificate and the chain above it.
    pub certfile: Option<FileReference>,
    /// Its private key.
    pub keyfile: Option<FileReference>,
    /// Revoked client certificates.
    pub crlfile: Option<FileReference>,
    /// Cipher suites of TLS 1.2, with OpenSSL's names and colons between.
    pub ciphers: Option<String>,
    /// Cipher suites of TLS 1.3, with colons between.
    pub ciphers_tls13: Option<String>,
    /// The lowest version spoken.
    pub version_min: TlsVersion,
    /// Whether a Client has to show a certificate.
    pub require_certificate: bool,
    /// Whether its time of validity does not matter.
    pub disable_client_cert_date_checks: bool,
}

/// A version of TLS.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub enum TlsVersion {
    /// 1.2
    #[default]
    V12,
    /// 1.3
    V13,
}
