//! Listening sockets: one for each shard on the same port, so that the kernel spreads connections.
//!
//! [`ListenerOptions`] is what an operator says of one listener, [`open`] makes it listen, and each
//! shard gets its [`ShardListener`]: at the start, or later through its mailbox, as a
//! [`ListenerChange`].

#![forbid(unsafe_code)]

use super::defer_accept::defer_accept;
use super::transport::Wrapping;
use crate::origin::ListenerId;
use crate::shown::shown;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};
use std::fmt;
use std::fs;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Who may connect to a unix socket: its owner and its group.
const SOCKET_MODE: u32 = 0o770;
/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;
/// Default of [`ListenerOptions::pending_max`].
pub const PENDING_MAX: usize = 1024;
/// Default of [`ListenerOptions::handshake_timeout`].
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// Where a listener is to be found.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum ListenerAddress {
    /// A port on every address of this machine: `listener 1883`.
    Any {
        /// The port.
        port: u16,
    },
    /// A port that only this machine reaches: what Mosquitto does without a configuration.
    Loopback {
        /// The port.
        port: u16,
    },
    /// A port on all addresses of a host: `listener 1883 localhost`. An IP address is one, too.
    Host {
        /// Its name, looked up when the listener is opened, or an IP address.
        host: String,
        /// The port.
        port: u16,
    },
    /// One address and port.
    Ip(SocketAddr),
    /// A unix socket: `listener 0 /run/mqtt.sock`, for its owner and group. One that nobody listens on is
    /// replaced, anything else that has its name is an error.
    Unix(PathBuf),
}

impl fmt::Display for ListenerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any { port } => write!(f, "port {port}"),
            Self::Loopback { port } => write!(f, "port {port} of localhost"),
            Self::Host { host, port } => write!(f, "{host}:{port}"),
            Self::Ip(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// One kind of IP address.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IpFamily {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// What an operator says of one listener, as far as sockets are concerned. What the core obeys is in
/// [`crate::policy::ListenerPolicy`] under the same [`ListenerId`].
///
/// A configuration makes one for each `listener`, opens it with [`open`], and hands the parts to the
/// shards. When it is read again: what [`TlsAcceptor::install`](super::tls::TlsAcceptor::install)
/// replaces holds for the next connections at once; other changes of [`ListenerOptions::wrapping`] are
/// a [`ListenerChange::Wrap`]; a listener that is new is opened and sent as [`ListenerChange::Open`]; one
/// that is gone is a [`ListenerChange::Close`], which leaves its connections alone. An identifier
/// stays with its listener for the life of the process and is not used again: connections refer to it.
#[derive(Clone, Debug)]
pub struct ListenerOptions {
    /// Where it listens.
    pub address: ListenerAddress,
    /// Only addresses of this kind (`socket_domain`); otherwise all that there are.
    pub family: Option<IpFamily>,
    /// Only connections that come through this network interface (`bind_interface`).
    pub interface: Option<String>,
    /// PROXY header (`enable_proxy_protocol`), TLS (`certfile` and so on), WebSocket (`protocol
    /// websockets`, `websockets_origin`, `http_dir`), or nothing.
    pub wrapping: Wrapping,
    /// Whether small packets leave at once (`set_tcp_nodelay`). On by default, unlike Mosquitto's:
    /// what a turn has for a connection is one send anyway, and waiting would only add latency.
    pub tcp_nodelay: bool,
    /// Connections whose handshakes are not over, for each shard. When there are as many, the one that
    /// has been at it the longest is let go for the next.
    pub pending_max: usize,
    /// Time from accept to the end of all handshakes. Without any, only the core's time-out of
    /// CONNECT counts.
    pub handshake_timeout: Duration,
}

impl ListenerOptions {
    /// For plain MQTT at `address`.
    #[must_use]
    pub fn new(address: ListenerAddress) -> Self {
        Self {
            address,
            family: None,
            interface: None,
            wrapping: Wrapping::default(),
            tcp_nodelay: true,
            pending_max: PENDING_MAX,
            handshake_timeout: HANDSHAKE_TIMEOUT,
        }
    }

    fn refused(&self, source: io::Error) -> ListenError {
        ListenError {
            address: self.address.clone(),
            interface: self.interface.clone(),
            source,
        }
    }
}

/// A listener could not be opened.
#[derive(Debug, thiserror::Error)]
#[error(
    "cannot listen on {}{}: {source}",
    shown(&address.to_string()),
    of_interface(interface.as_deref())
)]
pub struct ListenError {
    /// What was asked for.
    pub address: ListenerAddress,
    /// On which interface.
    pub interface: Option<String>,
    /// What the system said.
    pub source: io::Error,
}

fn of_interface(name: Option<&str>) -> String {
    name.map_or_else(String::new, |name| format!(" (interface {})", shown(name)))
}

/// One shard's part of a listener.
#[derive(Debug)]
pub struct ShardListener {
    pub(super) id: ListenerId,
    pub(super) sockets: Vec<OwnedFd>,
    pub(super) wrapping: Arc<Wrapping>,
    pub(super) pending_max: usize,
    pub(super) handshake_timeout: Duration,
}

/// A change to a shard's listeners while it runs.
#[derive(Debug)]
pub enum ListenerChange {
    /// Accepts on one more.
    Open(ShardListener),
    /// Wraps connections that come from now on in this.
    Wrap(ListenerId, Arc<Wrapping>),
    /// Accepts no more. Connections stay.
    Close(ListenerId),
}

/// A listener that listens. Connections are accepted once the shards have their parts. The name of a
/// unix socket is removed when this is dropped.
#[derive(Debug)]
pub struct Listening {
    addresses: Vec<SocketAddr>,
    path: Option<SocketPath>,
    shards: Vec<ShardListener>,
}

impl Listening {
    /// Its addresses, with the port that was chosen if port 0 was asked for. None of a unix socket.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where its unix socket is.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_ref().map(|path| path.path.as_path())
    }

    /// The parts, one for each shard, in their order; none the second time.
    pub fn take_shards(&mut self) -> Vec<ShardListener> {
        std::mem::take(&mut self.shards)
    }
}

/// The parts of several listeners, by shard: what [`crate::runtime::start`] takes.
pub fn by_shard<'a>(
    listening: impl IntoIterator<Item = &'a mut Listening>,
    shard_count: usize,
) -> Vec<Vec<ShardListener>> {
    let mut shards: Vec<Vec<ShardListener>> = Vec::new();
    shards.resize_with(shard_count, Vec::new);
    for listening in listening {
        for (shard, part) in shards.iter_mut().zip(listening.take_shards()) {
            shard.push(part);
        }
    }
    shards
}

/// Makes a listener listen, with a part for each of `shard_count` shards.
///
/// # Errors
/// [`ListenError`], also when another process listens there with `SO_REUSEPORT`: two brokers that
/// share a port by accident would each see half of the clients.
pub fn open(
    id: ListenerId,
    options: &ListenerOptions,
    shard_count: usize,
) -> Result<Listening, ListenError> {
    let bind = || match &options.address {
        ListenerAddress::Unix(path) => bind_path(path, shard_count),
        _ => bind_ports(options, shard_count),
    };
    let bound = bind().map_err(|source| options.refused(source))?;
    let wrapping = Arc::new(options.wrapping.clone());
    Ok(Listening {
        addresses: bound.addresses,
        path: bound.path,
        shards: bound
            .sockets
            .into_iter()
            .map(|sockets| ShardListener {
                id,
                sockets,
                wrapping: wrapping.clone(),
                pending_max: options.pending_max,
                handshake_timeout: options.handshake_timeout,
            })
            .collect(),
    })
}

/// Tells whether [`open`] could do as it is told, whether or not somebody listens there already.
///
/// # Errors
/// [`ListenError`], when it could not.
pub fn check(options: &ListenerOptions) -> Result<(), ListenError> {
    let check = || match &options.address {
        ListenerAddress::Unix(path) => check_path(path),
        _ => for_addresses(options, |mut address| {
            address.set_port(0);
            bind(address, options, false).map(drop)
        }),
    };
    check().map_err(|source| options.refused(source))
}

/// Listens for plain MQTT on `address`, as the first listener: the address, with the port that was
/// chosen if it was asked for port 0, and a part for each shard.
///
/// # Errors
/// As [`open`].
pub fn listen(
    address: SocketAddr,
    shard_count: usize,
) -> Result<(SocketAddr, Vec<ShardListener>), ListenError> {
    let options = ListenerOptions::new(ListenerAddress::Ip(address));
    let mut listening = open(ListenerId::default(), &options, shard_count)?;
    let bound = listening.addresses.first().copied().unwrap_or(address);
    Ok((bound, listening.take_shards()))
}

#[derive(Default)]
struct Bound {
    addresses: Vec<SocketAddr>,
    path: Option<SocketPath>,
    /// Of each shard.
    sockets: Vec<Vec<OwnedFd>>,
}

fn bind_ports(options: &ListenerOptions, shard_count: usize) -> io::Result<Bound> {
    let mut bound = Bound::default();
    bound.sockets.resize_with(shard_count, Vec::new);
    for_addresses(options, |mut address| {
        // With port 0 all addresses share the port that the system chose for the first.
        if let (0, Some(first)) = (address.port(), bound.addresses.first()) {
            address.set_port(first.port());
        }
        bind_port(address, options, &mut bound)
    })?;
    Ok(bound)
}

/// Binds the addresses that are meant, of which one has to be there.
fn for_addresses(
    options: &ListenerOptions,
    mut bind: impl FnMut(SocketAddr) -> io::Result<()>,
) -> io::Result<()> {
    let (mut skipped, mut is_bound) = (None, false);
    for address in addresses(options)? {
        match bind(address) {
            // One of several, of a kind that this machine does not have.
            Err(error) if is_without_family(&error) => skipped = Some(error),
            result => {
                result?;
                is_bound = true;
            }
        }
    }
    match skipped {
        Some(error) if !is_bound => Err(error),
        _ => Ok(()),
    }
}

/// The addresses that are meant, of which there is at least one.
fn addresses(options: &ListenerOptions) -> io::Result<Vec<SocketAddr>> {
    let both = |v4: Ipv4Addr, v6: Ipv6Addr, port| {
        vec![
            SocketAddr::new(IpAddr::V4(v4), port),
            SocketAddr::new(IpAddr::V6(v6), port),
        ]
    };
    let mut addresses = match &options.address {
        ListenerAddress::Any { port } => both(Ipv4Addr::UNSPECIFIED, Ipv6Addr::UNSPECIFIED, *port),
        ListenerAddress::Loopback { port } => both(Ipv4Addr::LOCALHOST, Ipv6Addr::LOCALHOST, *port),
        ListenerAddress::Host { host, port } => (host.as_str(), *port).to_socket_addrs()?.collect(),
        ListenerAddress::Ip(address) => vec![*address],
        ListenerAddress::Unix(_) => Vec::new(),
    };
    addresses.retain(|address| match options.family {
        None => true,
        Some(IpFamily::V4) => address.is_ipv4(),
        Some(IpFamily::V6) => address.is_ipv6(),
    });
    // A name may be listed twice.
    addresses.sort_by_key(SocketAddr::is_ipv6);
    addresses.dedup();
    if addresses.is_empty() {
        let said = "there is no address of the wanted kind";
        return Err(io::Error::new(io::ErrorKind::AddrNotAvailable, said));
    }
    Ok(addresses)
}

/// Whether binding failed because this machine has no IPv6, or no IPv4.
fn is_without_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(libc::EAFNOSUPPORT)
}

fn bind_port(
    mut address: SocketAddr,
    options: &ListenerOptions,
    bound: &mut Bound,
) -> io::Result<()> {
    // Without SO_REUSEPORT this fails when anybody is there; it is gone before we bind.
    if address.port() != 0 {
        drop(bind(address, options, false)?);
    }
    for sockets in &mut bound.sockets {
        let socket = bind(address, options, true)?;
        defer_accept(&socket);
        socket.listen(BACKLOG)?;
        if let Some(chosen) = socket.local_addr()?.as_socket() {
            address.set_port(chosen.port());
        }
        sockets.push(socket.into());
    }
    bound.addresses.push(address);
    Ok(())
}

fn bind(address: SocketAddr, options: &ListenerOptions, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `::` must not take the IPv4 port as well, which has a listener of its own.
        socket.set_only_v6(true)?;
    }
    if let Some(interface) = &options.interface {
        socket.bind_device(Some(interface.as_bytes()))?;
    }
    // A broker that was restarted need not wait for its old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(options.tcp_nodelay)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

/// Unix sockets cannot share a name: all shards accept from the one socket, and the kernel wakes one of
/// them for each connection.
fn bind_path(path: &Path, shard_count: usize) -> io::Result<Bound> {
    remove_stale(path)?;
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None)?;
    socket.bind(&SockAddr::unix(path)?)?;
    // As Mosquitto has it, whatever the umask says.
    fs::set_permissions(path, fs::Permissions::from_mode(SOCKET_MODE))?;
    let path = SocketPath::of(path)?;
    socket.listen(BACKLOG)?;
    let socket = OwnedFd::from(socket);
    let shards = (0..shard_count).map(|_| Ok(vec![socket.try_clone()?]));
    Ok(Bound {
        addresses: Vec::new(),
        path: Some(path),
        sockets: shards.collect::<io::Result<_>>()?,
    })
}

/// Removes the socket that a broker left behind which did not end in order.
fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => match UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(io::ErrorKind::AddrInUse.into()),
        },
        Ok(_) => Err(not_a_socket()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn not_a_socket() -> io::Error {
    let said = "something that is not a socket has this name";
    io::Error::new(io::ErrorKind::AlreadyExists, said)
}

/// Whether there could be a unix socket: there is one, or there is a directory for it.
fn check_path(path: &Path) -> io::Result<()> {
    SockAddr::unix(path)?;
    match fs::symlink_metadata(path) {
        Ok(metadata) if metadata.file_type().is_socket() => Ok(()),
        Ok(_) => Err(not_a_socket()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let directory = path.parent().filter(|it| !it.as_os_str().is_empty());
            fs::read_dir(directory.unwrap_or(Path::new("."))).map(drop)
        }
        Err(error) => Err(error),
    }
}

/// The name of a unix socket of ours.
#[derive(Debug)]
struct SocketPath {
    path: PathBuf,
    /// By which it is recognised: somebody else's socket may have the name by now.
    inode: u64,
}

impl SocketPath {
    fn of(path: &Path) -> io::Result<Self> {
        Ok(Self {
            path: path.to_owned(),
            inode: fs::symlink_metadata(path)?.ino(),
        })
    }
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|now| now.ino() == self.inode) {
            // What cannot be removed now is removed by the next broker as stale.
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::net::tls::tests::Folder;
    use std::net::{TcpListener, TcpStream};

    fn loopback() -> ListenerOptions {
        ListenerOptions::new(ListenerAddress::Loopback { port: 0 })
    }

    fn open(options: &ListenerOptions, shard_count: usize) -> Result<Listening, ListenError> {
        super::open(ListenerId(3), options, shard_count)
    }

    fn sockets(part: ShardListener) -> Vec<TcpListener> {
        part.sockets.into_iter().map(TcpListener::from).collect()
    }

    #[test]
    fn all_shards_listen_on_the_one_port_that_was_chosen() {
        let (address, parts) = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(parts.len(), 3);
        for part in parts {
            for socket in sockets(part) {
                assert_eq!(socket.local_addr().unwrap(), address);
            }
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_even_if_its_owner_shares_it() {
        let (address, _parts) = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = listen(address, 2).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn both_families_share_a_port_or_one_is_chosen() {
        let mut both = open(&loopback(), 2).unwrap();
        let addresses = both.addresses().to_vec();
        assert!(addresses.iter().all(|it| it.port() == addresses[0].port()));
        let parts = both.take_shards();
        assert!(
            parts
                .iter()
                .all(|part| part.sockets.len() == addresses.len())
        );
        assert!(parts.iter().all(|part| part.id == ListenerId(3)));
        for address in &addresses {
            TcpStream::connect(address).unwrap();
        }
        let only = ListenerOptions {
            family: Some(IpFamily::V4),
            ..loopback()
        };
        let only = open(&only, 1).unwrap();
        assert_eq!(only.addresses().len(), 1);
        assert!(only.addresses()[0].is_ipv4());
    }

    #[test]
    fn a_host_is_looked_up_and_an_unknown_one_is_named() {
        let host = |host: &str| {
            let host = host.to_owned();
            open(
                &ListenerOptions::new(ListenerAddress::Host { host, port: 0 }),
                1,
            )
        };
        let listening = host("127.0.0.1").unwrap();
        assert!(listening.addresses()[0].ip().is_loopback());
        let options = ListenerOptions::new(ListenerAddress::Host {
            host: "no-such-host.invalid".to_owned(),
            port: 1,
        });
        assert!(check(&options).is_err());
        let said = host("no-such-host.invalid").unwrap_err().to_string();
        assert!(
            said.starts_with("cannot listen on no-such-host.invalid:0: "),
            "{said}"
        );
    }

    #[test]
    fn an_interface_that_is_not_there_is_named() {
        let options = ListenerOptions {
            interface: Some("fastmq-none".to_owned()),
            ..loopback()
        };
        let said = open(&options, 1).unwrap_err().to_string();
        assert!(said.contains("(interface fastmq-none)"), "{said}");
    }

    #[test]
    fn what_comes_through_the_wanted_interface_is_accepted() {
        let options = ListenerOptions {
            interface: Some("lo".to_owned()),
            ..loopback()
        };
        let mut listening = open(&options, 1).unwrap();
        let _client = TcpStream::connect(listening.addresses()[0]).unwrap();
        let sockets = sockets(listening.take_shards().remove(0));
        sockets[0].accept().unwrap();
        let device = socket2::SockRef::from(&sockets[0]).device().unwrap();
        assert_eq!(device.as_deref(), Some(&b"lo"[..]));
    }

    #[test]
    fn accepted_sockets_have_nodelay_unless_told_otherwise() {
        for tcp_nodelay in [true, false] {
            let options = ListenerOptions {
                tcp_nodelay,
                ..loopback()
            };
            let mut listening = open(&options, 1).unwrap();
            let _client = TcpStream::connect(listening.addresses()[0]).unwrap();
            let sockets = sockets(listening.take_shards().remove(0));
            let (accepted, _) = sockets[0].accept().unwrap();
            assert_eq!(accepted.nodelay().unwrap(), tcp_nodelay);
        }
    }

    #[test]
    fn a_unix_socket_replaces_a_stale_one_and_nothing_else() {
        let folder = Folder::new();
        let path = folder.path().join("mqtt.sock");
        let options = ListenerOptions::new(ListenerAddress::Unix(path.clone()));
        let listening = open(&options, 2).unwrap();
        assert_eq!(listening.path(), Some(path.as_path()));
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, SOCKET_MODE);
        let error = open(&options, 2).unwrap_err();
        assert_eq!(error.source.kind(), io::ErrorKind::AddrInUse);
        drop(listening);
        assert!(!path.exists());

        // As a broker leaves it that was killed.
        drop(Socket::new(Domain::UNIX, Type::STREAM, None).map(|socket| {
            socket.bind(&SockAddr::unix(&path).unwrap()).unwrap();
        }));
        assert!(path.exists());
        let listening = open(&options, 1).unwrap();
        UnixStream::connect(&path).unwrap();
        drop(listening);

        folder.write("mqtt.sock", "precious");
        let said = open(&options, 1).unwrap_err().to_string();
        assert!(said.contains("not a socket"), "{said}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }
}
