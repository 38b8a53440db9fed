//! From what the configuration says of listeners to listeners that listen.

#![forbid(unsafe_code)]

use super::{Failure, name_of};
use crate::config::{Config, ListenAddress, Listener, Protocol, ProxyProtocol, SocketDomain};
use crate::net::tls::TlsAcceptor;
use crate::net::transport::{ProxyOptions, ProxyVersion, StaticFiles, WebSocketOptions, Wrapping};
use crate::net::{IpFamily, ListenerAddress, ListenerOptions, Listening, open as open_listener};
use crate::origin::ListenerId;
use std::sync::Arc;

/// All listeners of the broker.
#[derive(Debug)]
pub(super) struct AllListening {
    /// Those that listen, in the order of the configuration.
    pub(super) open: Vec<Listening>,
    /// By listener, those included that this machine has no address for.
    ports: Vec<u16>,
}

impl AllListening {
    /// The port of each listener, by its number.
    pub(super) fn ports(&self) -> &[u16] {
        &self.ports
    }

    /// Where they listen, in words.
    pub(super) fn places(&self) -> impl Iterator<Item = String> + '_ {
        self.open.iter().flat_map(|listening| {
            let addresses = listening.addresses().iter().map(ToString::to_string);
            let path = listening.path().map(|path| path.display().to_string());
            addresses.chain(path)
        })
    }
}

/// Opens all listeners of `config`.
///
/// # Errors
/// The first that cannot be opened, but for one that only matters on a machine with IPv6.
pub(super) fn open(
    config: &Config,
    acceptors: &[Option<TlsAcceptor>],
    shard_count: usize,
) -> Result<AllListening, Failure> {
    let mut all = AllListening {
        open: Vec::new(),
        ports: Vec::new(),
    };
    for (index, listener) in config.listeners.iter().enumerate() {
        let acceptor = acceptors.get(index).cloned().flatten();
        // With port 0 both loopback addresses have the port that the system chose for the first.
        let chosen = all.ports.last().copied().filter(|_| config.is_local_only);
        let options = options(config, listener, acceptor, chosen)?;
        let id = u16::try_from(index).map(ListenerId).unwrap_or_default();
        match open_listener(id, &options, shard_count) {
            Ok(listening) => {
                let port = listening
                    .addresses()
                    .first()
                    .map(std::net::SocketAddr::port);
                all.ports.push(port.unwrap_or_default());
                all.open.push(listening);
            }
            Err(error) if listener.is_optional => {
                tracing::debug!("{error}");
                all.ports.push(chosen.unwrap_or_default());
            }
            Err(error) => return Err(Failure::start(format!("{}: {error}", name_of(listener)))),
        }
    }
    Ok(all)
}

fn options(
    config: &Config,
    listener: &Listener,
    acceptor: Option<TlsAcceptor>,
    chosen_port: Option<u16>,
) -> Result<ListenerOptions, Failure> {
    let address = match &listener.address {
        ListenAddress::Tcp { host: None, port } => ListenerAddress::Any { port: *port },
        ListenAddress::Tcp {
            host: Some(host),
            port,
        } => ListenerAddress::Host {
            host: host.clone(),
            port: match (port, chosen_port) {
                (0, Some(chosen)) => chosen,
                _ => *port,
            },
        },
        ListenAddress::Unix(path) => ListenerAddress::Unix(path.clone()),
    };
    let mut options = ListenerOptions::new(address);
    options.family = listener.socket_domain.map(|domain| match domain {
        SocketDomain::Ipv4 => IpFamily::V4,
        SocketDomain::Ipv6 => IpFamily::V6,
    });
    options.interface.clone_from(&listener.bind_interface);
    options.tcp_nodelay = config.set_tcp_nodelay;
    options.pending_max = listener.max_pending_connections;
    options.handshake_timeout = listener.handshake_timeout;
    options.wrapping = wrapping(listener, acceptor)?;
    Ok(options)
}

fn wrapping(listener: &Listener, acceptor: Option<TlsAcceptor>) -> Result<Wrapping, Failure> {
    let web_socket = match listener.protocol {
        Protocol::Mqtt => None,
        Protocol::Websockets => {
            let files = match &listener.http_dir {
                Some(directory) => {
                    let files = StaticFiles::load(directory).map_err(|error| {
                        let listener = name_of(listener);
                        Failure::configuration(format!("Error: {listener}: http_dir: {error}."))
                    })?;
                    Some(Arc::new(files))
                }
                None => None,
            };
            Some(WebSocketOptions {
                origins: listener.websockets_origins.clone(),
                files,
                ..WebSocketOptions::default()
            })
        }
    };
    Ok(Wrapping {
        proxy: listener.proxy_protocol.map(|version| ProxyOptions {
            version: match version {
                ProxyProtocol::V1 => ProxyVersion::V1,
                ProxyProtocol::V2 => ProxyVersion::V2,
            },
            require_tls: listener.proxy_protocol_v2_require_tls,
            require_certificate: listener.tls.require_certificate && acceptor.is_none(),
        }),
        tls: acceptor,
        web_socket,
    })
}
