//! Listening sockets: one for each shard on the same port, so that the kernel spreads connections.

#![forbid(unsafe_code)]

use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A port could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {source}")]
pub struct ListenError {
    /// The address that was asked for.
    pub address: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Listens on `address` once for each of `shard_count` shards, and tells the address, with the port
/// that was chosen if it was asked for port 0.
///
/// # Errors
/// [`ListenError`], also when another process listens there with `SO_REUSEPORT`: two brokers that
/// share a port by accident would each see half of the clients.
pub fn listen(
    address: SocketAddr,
    shard_count: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), ListenError> {
    let attempt = || -> io::Result<(SocketAddr, Vec<TcpListener>)> {
        // Without SO_REUSEPORT this fails when anybody is there; it is gone before we bind.
        if address.port() != 0 {
            drop(bind(address, false)?);
        }
        let mut bound = address;
        let mut listeners = Vec::with_capacity(shard_count);
        for _ in 0..shard_count {
            let socket = bind(bound, true)?;
            socket.listen(BACKLOG)?;
            let listener = TcpListener::from(socket);
            bound.set_port(listener.local_addr()?.port());
            listeners.push(listener);
        }
        Ok((bound, listeners))
    };
    attempt().map_err(|source| ListenError { address, source })
}

fn bind(address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if address.is_ipv6() {
        // `::` must not take the IPv4 port as well, which has a listener of its own.
        socket.set_only_v6(true)?;
    }
    // A broker that was restarted need not wait for its old connections to time out.
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    // Accepted sockets inherit it, which saves a system call for each.
    socket.set_tcp_nodelay(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::listen;
    use std::net::TcpStream;

    #[test]
    fn all_shards_listen_on_the_one_port_that_was_chosen() {
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        assert_ne!(address.port(), 0);
        assert_eq!(listeners.len(), 3);
        for listener in &listeners {
            assert_eq!(listener.local_addr().unwrap(), address);
        }
    }

    #[test]
    fn a_port_in_use_is_an_error_even_if_its_owner_shares_it() {
        let (address, _listeners) = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
        let error = listen(address, 2).unwrap_err();
        assert_eq!(error.source.kind(), std::io::ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&address.to_string()));
    }

    #[test]
    fn accepted_sockets_have_nodelay() {
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let _client = TcpStream::connect(address).unwrap();
        let (accepted, _) = listeners[0].accept().unwrap();
        assert!(accepted.nodelay().unwrap());
    }
}
