//! One Network Connection to a broker: TCP or a unix socket, TLS around it, a WebSocket around that.
//!
//! Opening blocks, with a limit; after that nothing here does.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use socket2::{Domain, Socket as RawSocket, Type};
use tungstenite::client::ClientRequestBuilder;
use tungstenite::http::Uri;
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{HandshakeError, Message, WebSocket};

use super::failure::Failure;
use super::settings::{Endpoint, Target};

/// How long the broker may take for each step of opening a connection.
const OPENING_PATIENCE: Duration = Duration::from_secs(30);
/// Read at once at most.
const READ_SIZE: usize = 64 * 1024;

/// An open connection.
#[derive(Debug)]
pub struct Link {
    stream: Stream,
    buffer: Vec<u8>,
    /// Whether something that was written still waits in the layers for the socket.
    is_blocked: bool,
}

#[derive(Debug)]
enum Stream {
    Bytes(Secured),
    WebSocket(Box<WebSocket<Secured>>),
}

#[derive(Debug)]
enum Secured {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// What a read brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Received {
    /// Bytes; there may be more.
    Bytes,
    /// Nothing is there.
    Nothing,
    /// The broker closed the connection.
    End,
}

impl Link {
    /// Connects, and opens every layer that `endpoint` asks for.
    ///
    /// # Errors
    /// [`Failure`] names the layer that failed.
    pub fn open(endpoint: &Endpoint, tls: Option<&Arc<ClientConfig>>) -> Result<Self, Failure> {
        let address = endpoint.target.to_string();
        let unreachable = |error: io::Error| Failure::Unreachable {
            address: address.clone(),
            reason: error.to_string(),
        };
        let socket = Socket::open(endpoint).map_err(unreachable)?;
        socket
            .set_patience(Some(OPENING_PATIENCE))
            .map_err(unreachable)?;
        let secured = match tls {
            Some(config) => {
                let failure = |reason: String| Failure::Tls {
                    address: address.clone(),
                    reason,
                };
                Secured::open_tls(socket, config, endpoint.target.host()).map_err(failure)?
            }
            None => Secured::Plain(socket),
        };
        let stream = match &endpoint.web_socket {
            Some(path) => {
                let web_socket = open_web_socket(secured, endpoint, path);
                Stream::WebSocket(Box::new(web_socket.map_err(|reason| {
                    Failure::WebSocket {
                        address: address.clone(),
                        reason,
                    }
                })?))
            }
            None => Stream::Bytes(secured),
        };
        let link = Self {
            stream,
            buffer: vec![0; READ_SIZE],
            is_blocked: false,
        };
        let socket = link.socket();
        socket.set_patience(None).map_err(unreachable)?;
        socket.set_nonblocking(true).map_err(unreachable)?;
        Ok(link)
    }

    /// A connection that is there already, within this process.
    ///
    /// # Errors
    /// The system's.
    pub fn over(socket: UnixStream) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self {
            stream: Stream::Bytes(Secured::Plain(Socket::Unix(socket))),
            buffer: vec![0; READ_SIZE],
            is_blocked: false,
        })
    }

    /// Sends what it can of `output` and takes it out. Whether everything has left.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn send(&mut self, output: &mut Vec<u8>) -> io::Result<bool> {
        match self.try_send(output) {
            Ok(()) => self.is_blocked = false,
            Err(error) if error.kind() == ErrorKind::WouldBlock => self.is_blocked = true,
            Err(error) => return Err(error),
        }
        Ok(!self.is_blocked && output.is_empty())
    }

    fn try_send(&mut self, output: &mut Vec<u8>) -> io::Result<()> {
        match &mut self.stream {
            Stream::Bytes(secured) => {
                let mut sent = 0;
                let result = loop {
                    let rest = output.get(sent..).unwrap_or_default();
                    if rest.is_empty() {
                        break secured.flush();
                    }
                    match secured.write(rest) {
                        Ok(0) => break Err(ErrorKind::WriteZero.into()),
                        Ok(count) => sent += count,
                        Err(error) if error.kind() == ErrorKind::Interrupted => {}
                        Err(error) => break Err(error),
                    }
                };
                output.drain(..sent);
                result
            }
            Stream::WebSocket(web_socket) => {
                // What is in the layer already goes first, so that it cannot grow without end.
                web_socket.flush().map_err(from_web_socket)?;
                if output.is_empty() {
                    return Ok(());
                }
                let message = Message::Binary(std::mem::take(output).into());
                web_socket.write(message).map_err(from_web_socket)?;
                web_socket.flush().map_err(from_web_socket)
            }
        }
    }

    /// Whether the socket has to become writable before more can leave.
    pub fn is_blocked(&self) -> bool {
        self.is_blocked
    }

    /// Reads once, and gives `take` what has come.
    ///
    /// # Errors
    /// The connection is lost.
    pub fn receive(&mut self, take: impl FnOnce(&[u8])) -> io::Result<Received> {
        match &mut self.stream {
            Stream::Bytes(secured) => loop {
                match secured.read(&mut self.buffer) {
                    Ok(0) => return Ok(Received::End),
                    Ok(count) => {
                        take(self.buffer.get(..count).unwrap_or_default());
                        return Ok(Received::Bytes);
                    }
                    Err(error) => match error.kind() {
                        ErrorKind::Interrupted => {}
                        ErrorKind::WouldBlock => return Ok(Received::Nothing),
                        // TLS that ends without saying so.
                        ErrorKind::UnexpectedEof => return Ok(Received::End),
                        _ => return Err(error),
                    },
                }
            },
            Stream::WebSocket(web_socket) => match web_socket.read() {
                Ok(Message::Binary(bytes)) => {
                    take(&bytes);
                    Ok(Received::Bytes)
                }
                Ok(Message::Close(_)) => Ok(Received::End),
                // [MQTT-6.0.0-1]
                Ok(Message::Text(_)) => Err(io::Error::new(
                    ErrorKind::InvalidData,
                    "the broker sent text, which is not MQTT",
                )),
                Ok(_) => Ok(Received::Bytes),
                Err(error) => {
                    let error = from_web_socket(error);
                    match error.kind() {
                        ErrorKind::WouldBlock => Ok(Received::Nothing),
                        ErrorKind::UnexpectedEof => Ok(Received::End),
                        _ => Err(error),
                    }
                }
            },
        }
    }

    /// Ends the sending direction, layer by layer. What was sent must have left.
    pub fn finish(&mut self) {
        // The broker may be gone already, which is as good an end.
        if let Stream::WebSocket(web_socket) = &mut self.stream {
            let _ = web_socket.close(None);
            let _ = web_socket.flush();
        }
        let secured = match &mut self.stream {
            Stream::Bytes(secured) => secured,
            Stream::WebSocket(web_socket) => web_socket.get_mut(),
        };
        if let Secured::Tls(tls) = secured {
            tls.conn.send_close_notify();
            let _ = tls.flush();
        }
        let _ = match self.socket() {
            Socket::Tcp(socket) => socket.shutdown(Shutdown::Write),
            Socket::Unix(socket) => socket.shutdown(Shutdown::Write),
        };
    }

    fn socket(&self) -> &Socket {
        let secured = match &self.stream {
            Stream::Bytes(secured) => secured,
            Stream::WebSocket(web_socket) => web_socket.get_ref(),
        };
        match secured {
            Secured::Plain(socket) => socket,
            Secured::Tls(tls) => &tls.sock,
        }
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self.socket() {
            Socket::Tcp(socket) => socket.as_fd(),
            Socket::Unix(socket) => socket.as_fd(),
        }
    }
}

fn open_web_socket(
    secured: Secured,
    endpoint: &Endpoint,
    path: &str,
) -> Result<WebSocket<Secured>, String> {
    let scheme = if endpoint.tls.is_some() { "wss" } else { "ws" };
    let uri = format!("{scheme}://{}{path}", endpoint.target.authority());
    let uri: Uri = uri.parse().map_err(|error| format!("{uri}: {error}"))?;
    // [MQTT-6.0.0-3]
    let request = ClientRequestBuilder::new(uri).with_sub_protocol("mqtt");
    // A packet may be as large as MQTT allows, and a frame hold many.
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    match tungstenite::client::client_with_config(request, secured, Some(config)) {
        Ok((web_socket, _)) => Ok(web_socket),
        Err(HandshakeError::Failure(error)) => Err(error.to_string()),
        Err(HandshakeError::Interrupted(_)) => Err("the broker does not answer".to_owned()),
    }
}

fn from_web_socket(error: tungstenite::Error) -> io::Error {
    match error {
        tungstenite::Error::Io(error) => error,
        tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed => {
            ErrorKind::UnexpectedEof.into()
        }
        // Brokers close the socket without a closing handshake.
        tungstenite::Error::Protocol(
            tungstenite::error::ProtocolError::ResetWithoutClosingHandshake,
        ) => ErrorKind::UnexpectedEof.into(),
        error => io::Error::new(ErrorKind::InvalidData, error),
    }
}

impl Secured {
    fn open_tls(
        mut socket: Socket,
        config: &Arc<ClientConfig>,
        host: &str,
    ) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned());
        let name = name.map_err(|error| format!("{host}: {error}"))?;
        let mut tls =
            ClientConnection::new(Arc::clone(config), name).map_err(|error| error.to_string())?;
        let until = Instant::now() + OPENING_PATIENCE;
        while tls.is_handshaking() {
            let result = if Instant::now() >= until {
                Err(ErrorKind::WouldBlock.into())
            } else {
                shake_hands(&mut tls, &mut socket)
            };
            result.map_err(|error| match error.kind() {
                ErrorKind::WouldBlock => "the broker does not answer".to_owned(),
                ErrorKind::UnexpectedEof => "the broker closed the connection".to_owned(),
                _ => error.to_string(),
            })?;
        }
        Ok(Self::Tls(Box::new(StreamOwned::new(tls, socket))))
    }
}

/// A step of the TLS handshake: so a broker that sends a byte now and then does not begin its patience anew.
fn shake_hands(tls: &mut ClientConnection, socket: &mut Socket) -> io::Result<()> {
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    if tls.is_handshaking() && tls.read_tls(socket)? == 0 {
        return Err(ErrorKind::UnexpectedEof.into());
    }
    let processed = tls.process_new_packets();
    // What ends the handshake, or why it fails.
    while tls.wants_write() {
        tls.write_tls(socket)?;
    }
    processed.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
    Ok(())
}

impl Read for Secured {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(tls) => tls.read(buffer),
        }
    }
}

impl Write for Secured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(tls) => tls.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(socket) => socket.flush(),
            Self::Tls(tls) => tls.flush(),
        }
    }
}

impl Socket {
    fn open(endpoint: &Endpoint) -> io::Result<Self> {
        let (host, port) = match &endpoint.target {
            Target::Unix(path) => return UnixStream::connect(path).map(Self::Unix),
            Target::Tcp { host, port } => (host.as_str(), *port),
        };
        let from = match &endpoint.bind_address {
            Some(address) => (address.as_str(), 0).to_socket_addrs()?.collect(),
            None => Vec::new(),
        };
        let mut failure = io::Error::new(ErrorKind::NotFound, "the host name has no address");
        for to in (host, port).to_socket_addrs()? {
            match connect(to, &from) {
                Ok(socket) => {
                    socket.set_nodelay(endpoint.nodelay)?;
                    return Ok(Self::Tcp(socket));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    fn set_patience(&self, patience: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => {
                socket.set_read_timeout(patience)?;
                socket.set_write_timeout(patience)
            }
            Self::Unix(socket) => {
                socket.set_read_timeout(patience)?;
                socket.set_write_timeout(patience)
            }
        }
    }

    fn set_nonblocking(&self, nonblocking: bool) -> io::Result<()> {
        match self {
            Self::Tcp(socket) => socket.set_nonblocking(nonblocking),
            Self::Unix(socket) => socket.set_nonblocking(nonblocking),
        }
    }
}

/// Connects from one of the local addresses `from` that has the right family, if there are any.
fn connect(to: SocketAddr, from: &[SocketAddr]) -> io::Result<TcpStream> {
    let socket = RawSocket::new(Domain::for_address(to), Type::STREAM, None)?;
    if !from.is_empty() {
        let same_family = from.iter().find(|from| from.is_ipv4() == to.is_ipv4());
        let local = same_family.ok_or_else(|| {
            io::Error::new(
                ErrorKind::AddrNotAvailable,
                "the local address is of another family",
            )
        })?;
        socket.bind(&(*local).into())?;
    }
    socket.connect_timeout(&to.into(), OPENING_PATIENCE)?;
    Ok(socket.into())
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.read(buffer),
            Self::Unix(socket) => socket.read(buffer),
        }
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(socket) => socket.write(bytes),
            Self::Unix(socket) => socket.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
