//! Who is at the other end of a connection: what a transport knows before the first MQTT byte.
//!
//! A transport only reports. What follows from it, such as taking the User Name from a certificate,
//! is the policy of the listener, and the shard core applies it.

#![forbid(unsafe_code)]

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

/// One listener of the broker, in the order of the configuration.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ListenerId(pub u16);

impl ListenerId {
    /// Position of this listener in any table that has a row for each listener.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

/// Where a connection comes from.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, PartialEq)]
pub enum PeerAddress {
    /// An IP address and port: of the socket, or what a proxy said.
    Ip(IpAddr, u16),
    /// This machine, by a unix socket.
    #[default]
    Local,
}

// Each connection has one.
const _: () = assert!(size_of::<PeerAddress>() <= 20);

impl From<SocketAddr> for PeerAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Ip(address.ip(), address.port())
    }
}

/// As Mosquitto prints it, with the brackets it leaves off around an IPv6 address left off as well.
impl fmt::Display for PeerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            // A dual-stack socket shows IPv4 peers as mapped addresses.
            Self::Ip(address, port) => write!(f, "{}:{port}", address.to_canonical()),
            Self::Local => f.write_str("unix:0"),
        }
    }
}

/// What a verified client certificate says about its holder.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct CertificateIdentity {
    /// The common name of the subject.
    pub common_name: Option<String>,
    /// The whole subject, as RFC 2253 writes it.
    pub subject: String,
}

/// How a connection reached the broker.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Origin {
    /// The listener that accepted it.
    pub listener: ListenerId,
    /// Its other end.
    pub peer: PeerAddress,
    /// Of a Client that showed one.
    pub certificate: Option<Box<CertificateIdentity>>,
    /// Another shard accepted it, and told of it.
    pub is_handed_over: bool,
}

impl Origin {
    /// A connection without a certificate.
    #[must_use]
    pub const fn new(listener: ListenerId, peer: PeerAddress) -> Self {
        Self {
            listener,
            peer,
            certificate: None,
            is_handed_over: false,
        }
    }
}

/// Who a Client is, as far as access to topics goes. Outlives its connection.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Identity {
    /// Its Client Identifier.
    pub client_identifier: Arc<str>,
    /// The User Name it was accepted with; `None` for an anonymous Client.
    pub username: Option<Arc<str>>,
    /// The listener it came to last.
    pub listener: ListenerId,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_shown_as_the_ipv4_address_it_is() {
        let shown = |text: &str| PeerAddress::from(text.parse::<SocketAddr>().unwrap()).to_string();
        assert_eq!(shown("[::ffff:192.0.2.7]:1883"), "192.0.2.7:1883");
        assert_eq!(shown("192.0.2.7:1883"), "192.0.2.7:1883");
        assert_eq!(shown("[2001:db8::1]:1883"), "2001:db8::1:1883");
    }
}
