//! From what the configuration says of listeners to listeners that listen.

#![forbid(unsafe_code)]

use super::{Failure, name_of};
use crate::config::{Config, ListenAddress, Listener, Protocol, ProxyProtocol, SocketDomain};
use crate::log::Owner;
use crate::net::tls::TlsAcceptor;
use crate::net::transport::{ProxyOptions, ProxyVersion, StaticFiles, WebSocketOptions, Wrapping};
use crate::net::{
    IpFamily, ListenError, ListenerAddress, ListenerChange, ListenerOptions, Listening, Patience,
    ShardListener, by_shard, check as check_listener, open as open_listener,
};
use crate::origin::ListenerId;
use crate::policy::Settings;
use crate::runtime::Mailbox;
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::lchown;
use std::sync::Arc;

/// One listener.
#[derive(Debug)]
struct Slot {
    /// The one that was asked for, or that the system chose; zero for a unix socket.
    port: u16,
    /// Absent once it was closed.
    listening: Option<Listening>,
}

/// What connections are to be wrapped in from now on, by listener.
#[derive(Debug)]
pub(super) struct Wrappings(Vec<(ListenerId, Arc<Wrapping>)>);

impl Wrappings {
    /// Tells the shards.
    pub(super) fn install(&self, mailboxes: &[Mailbox]) {
        for (id, wrapping) in &self.0 {
            for mailbox in mailboxes {
                mailbox.change_listener(ListenerChange::Wrap(*id, wrapping.clone()));
            }
        }
    }
}

/// The listeners of the broker by their numbers, those included that a reload has closed: connections
/// refer to them.
#[derive(Debug, Default)]
pub(super) struct AllListening {
    slots: Vec<Slot>,
}

impl AllListening {
    /// How many there are or were.
    pub(super) fn count(&self) -> usize {
        self.slots.len()
    }

    /// The port of each listener, by its number.
    pub(super) fn ports(&self) -> Box<[u16]> {
        self.slots.iter().map(|slot| slot.port).collect()
    }

    /// Where those listen that come from number `first` on, in words.
    pub(super) fn places(&self, first: usize) -> Vec<String> {
        let slots = self.slots.iter().skip(first);
        let mut places = Vec::new();
        for listening in slots.filter_map(|slot| slot.listening.as_ref()) {
            places.extend(listening.addresses().iter().map(ToString::to_string));
            places.extend(listening.path().map(|path| path.display().to_string()));
        }
        places
    }

    /// Tells whether the listeners of `config` could be opened, as far as that can be known without doing it, and
    /// reads the files that they serve.
    ///
    /// # Errors
    /// The first that could not.
    pub(super) fn check(config: &Config) -> Result<(), Failure> {
        let is_opened = |it: &&Listener| it.address != ListenAddress::Bridges;
        for listener in config.listeners.iter().filter(is_opened) {
            let options = options(config, listener, None, None)?;
            check_listener(&options).map_err(|error| refused(listener, &error))?;
        }
        Ok(())
    }

    /// Has `owner` own the unix sockets, as the user that the process becomes.
    ///
    /// # Errors
    /// When that is refused.
    pub(super) fn give_paths(&self, owner: Owner) -> io::Result<()> {
        let all = self.slots.iter().filter_map(|slot| slot.listening.as_ref());
        for path in all.filter_map(Listening::path) {
            lchown(path, Some(owner.user), Some(owner.group))?;
        }
        Ok(())
    }

    /// The parts of all, for each shard.
    pub(super) fn take_parts(&mut self, shard_count: usize) -> Vec<Vec<ShardListener>> {
        let slots = self.slots.iter_mut();
        by_shard(
            slots.filter_map(|slot| slot.listening.as_mut()),
            shard_count,
        )
    }

    /// Tells `settings` the ports, some of which the system has chosen.
    pub(super) fn name_ports(&self, settings: &mut Settings) {
        for (policy, slot) in settings.listeners.iter_mut().zip(&self.slots) {
            policy.port = slot.port;
        }
    }

    /// Opens the listeners of `config` that come behind those there are, with `patience` for addresses that are in use.
    ///
    /// # Errors
    /// The first that cannot be opened; none of the new ones stays open.
    pub(super) fn open(
        &mut self,
        config: &Config,
        acceptors: &[Option<TlsAcceptor>],
        shard_count: usize,
        patience: Patience,
    ) -> Result<(), Failure> {
        let first = self.slots.len();
        for (index, listener) in config.listeners.iter().enumerate().skip(first) {
            if listener.address == ListenAddress::Bridges {
                self.slots.push(Slot {
                    port: 0,
                    listening: None,
                });
                continue;
            }
            let acceptor = acceptors.get(index).cloned().flatten();
            // With port 0 several addresses have the port that the system chose for the first.
            let first_port = self.slots.first().map(|slot| slot.port);
            let chosen = first_port.filter(|_| config.is_local_only);
            let opened = options(config, listener, acceptor, chosen).and_then(|options| {
                open_patiently(number(index), &options, shard_count, patience)
                    .map_err(|error| refused(listener, &error))
            });
            match opened {
                Ok(slot) => self.slots.push(slot),
                Err(failure) => {
                    self.slots.truncate(first);
                    return Err(failure);
                }
            }
        }
        Ok(())
    }

    /// What connections to the listeners before number `first` are to be wrapped in, as `config` has it
    /// now: files to be served are read again.
    ///
    /// # Errors
    /// When these files cannot be read.
    pub(super) fn wrappings(
        &self,
        config: &Config,
        acceptors: &[Option<TlsAcceptor>],
        first: usize,
    ) -> Result<Wrappings, Failure> {
        let mut wrappings = Vec::new();
        for (index, listener) in config.listeners.iter().enumerate().take(first) {
            if !listener.is_closed {
                let acceptor = acceptors.get(index).cloned().flatten();
                wrappings.push((number(index), Arc::new(wrapping(listener, acceptor)?)));
            }
        }
        Ok(Wrappings(wrappings))
    }

    /// Has the shards accept on the listeners from number `first` on.
    pub(super) fn hand_over(&mut self, first: usize, mailboxes: &[Mailbox]) {
        for slot in self.slots.iter_mut().skip(first) {
            let parts = slot.listening.as_mut().map(Listening::take_shards);
            for (mailbox, part) in mailboxes.iter().zip(parts.into_iter().flatten()) {
                mailbox.change_listener(ListenerChange::Open(part));
            }
        }
    }

    /// Closes those that `config` has no more. Their connections stay.
    pub(super) fn close(&mut self, config: &Config, mailboxes: &[Mailbox]) {
        let slots = self.slots.iter_mut().zip(&config.listeners);
        for (index, (slot, listener)) in slots.enumerate() {
            if listener.is_closed && slot.listening.take().is_some() {
                for mailbox in mailboxes {
                    mailbox.change_listener(ListenerChange::Close(number(index)));
                }
                tracing::info!("no longer listening on {}", listener.address);
            }
        }
    }
}

fn refused(listener: &Listener, error: &ListenError) -> Failure {
    Failure::start(format!("{}: {error}", name_of(listener)))
}

/// There are at most `LISTENERS_MAX`.
fn number(index: usize) -> ListenerId {
    u16::try_from(index).map(ListenerId).unwrap_or_default()
}

/// Opens a listener, as soon as nobody else uses its address.
fn open_patiently(
    id: ListenerId,
    options: &ListenerOptions,
    shard_count: usize,
    patience: Patience,
) -> Result<Slot, ListenError> {
    let passing = |error: &ListenError| {
        (error.source.kind() == ErrorKind::AddrInUse).then(|| error.to_string())
    };
    let listening = patience.wait(passing, || open_listener(id, options, shard_count))?;
    let port = listening.addresses().first().map(SocketAddr::port);
    Ok(Slot {
        port: port.unwrap_or_default(),
        listening: Some(listening),
    })
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
        &ListenAddress::Loopback { port } => ListenerAddress::Loopback { port },
        ListenAddress::Unix(path) => ListenerAddress::Unix(path.clone()),
        // Left out before: there is nothing to be opened.
        ListenAddress::Bridges => {
            return Err(Failure::start("bridges come from within"));
        }
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
                    let files = StaticFiles::load(&directory.path).map_err(|error| {
                        let listener = name_of(listener);
                        Failure::configuration(format!(
                            "Error: {listener}: http_dir: {error}.\nError found at {}.",
                            directory.place
                        ))
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
