//! What a listener's connections are wrapped in, from the outside in: a PROXY header, TLS, a WebSocket.
//!
//! No I/O in here: received bytes go in and plain bytes come out, plain bytes go in and bytes to be sent
//! come out. A connection of a listener that wraps nothing has no `Transport` at all.
//!
//! # Always true
//! - What is held of a peer that has not completed anything is bounded by constants.
//! - Answers that nobody asked the core for (handshake, pong, close) wait here until the socket has room,
//!   and do not grow while a peer does not read.
//!
//! Read next: `tls.rs`, `web_socket.rs`, `proxy.rs`.

#![forbid(unsafe_code)]

pub mod fuzz;
mod identity;
pub mod proxy;
mod static_files;
#[cfg(all(test, not(loom)))]
mod tests;
mod tls;
mod upgrade;
mod web_socket;

pub use proxy::ProxyVersion;
pub use static_files::{StaticFile, StaticFiles, StaticFilesError};
pub use upgrade::{Refusal, WebSocketOptions};

use super::tls::TlsAcceptor;
use crate::origin::{CertificateIdentity, PeerAddress};
use proxy::ProxyError;
use std::sync::Arc;
use tls::{Tls, TlsError};
use web_socket::{Received, WebSocket, WebSocketError};

/// Bytes of answers that may wait for the socket; a peer that causes more without reading any is let go.
const ANSWERS_SIZE_MAX: usize = 64 * 1024;

/// How often a peer that is served a file, and reads it, is given more time: about five minutes.
const REPRIEVES_MAX: u16 = 150;

/// What a listener wraps its connections in.
#[derive(Clone, Debug, Default)]
pub struct Wrapping {
    /// A header of the PROXY protocol comes first.
    pub proxy: Option<ProxyOptions>,
    /// Then everything is TLS.
    pub tls: Option<TlsAcceptor>,
    /// And MQTT is in a WebSocket.
    pub web_socket: Option<WebSocketOptions>,
}

impl Wrapping {
    /// Whether bytes are MQTT as they come.
    pub fn is_plain(&self) -> bool {
        self.proxy.is_none() && self.tls.is_none() && self.web_socket.is_none()
    }
}

/// What a listener behind a proxy demands of it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ProxyOptions {
    /// Of its header.
    pub version: ProxyVersion,
    /// The client must have spoken TLS to the proxy.
    pub require_tls: bool,
    /// And have shown it a certificate that it found valid.
    pub require_certificate: bool,
}

/// The connection ends because of what the peer sent.
#[derive(Debug, thiserror::Error)]
pub(super) enum TransportError {
    #[error(transparent)]
    Proxy(#[from] ProxyError),
    #[error("client did not connect using TLS")]
    ProxyWithoutTls,
    #[error("client did not provide a certificate")]
    ProxyWithoutCertificate,
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    WebSocket(#[from] WebSocketError),
    #[error("the client causes answers and does not read them")]
    AnswersUnread,
}

impl TransportError {
    /// Whether what the proxy says, or does not say, is the reason.
    pub(super) const fn is_of_proxy(&self) -> bool {
        matches!(
            self,
            Self::Proxy(_) | Self::ProxyWithoutTls | Self::ProxyWithoutCertificate
        )
    }
}

/// What a transport has learned of the peer.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Revealed {
    /// Its address, if it is not the socket's.
    pub(super) peer: Option<PeerAddress>,
    pub(super) certificate: Option<CertificateIdentity>,
}

/// One connection's wrapping.
#[derive(Debug)]
pub(super) struct Transport {
    wrapping: Arc<Wrapping>,
    /// The start of a PROXY header; `None` when there is none to come.
    header: Option<Vec<u8>>,
    tls: Option<Tls>,
    web_socket: Option<WebSocket>,
    /// To be sent before anything else.
    answers: Vec<u8>,
    /// Received, and waits for its turn.
    deferred: Vec<u8>,
    revealed: Option<Revealed>,
    has_ended: bool,
    /// How often its end was put off.
    reprieves: u16,
    /// What the peer had not read of it the last time.
    unread: usize,
}

impl Transport {
    /// For a new connection. `None` if it is not wrapped.
    pub(super) fn new(wrapping: &Arc<Wrapping>) -> Option<Box<Self>> {
        let transport = || Self {
            wrapping: wrapping.clone(),
            header: wrapping.proxy.map(|_| Vec::new()),
            tls: wrapping.tls.as_ref().map(|tls| Tls::new(tls.prepared())),
            web_socket: wrapping.web_socket.as_ref().map(|_| WebSocket::default()),
            answers: Vec::new(),
            deferred: Vec::new(),
            revealed: None,
            has_ended: false,
            reprieves: 0,
            unread: 0,
        };
        (!wrapping.is_plain()).then(|| Box::new(transport()))
    }

    /// Whether all handshakes are over: the next bytes are MQTT's.
    pub(super) fn is_ready(&self) -> bool {
        self.header.is_none()
            && !self.is_costly()
            && self.web_socket.as_ref().is_none_or(WebSocket::is_open)
    }

    /// Whether MQTT is in a WebSocket.
    pub(super) fn is_web_socket(&self) -> bool {
        self.web_socket.is_some()
    }

    /// Whether what arrives next may cost as much as a thousand messages.
    pub(super) fn is_costly(&self) -> bool {
        self.tls.as_ref().is_some_and(Tls::is_handshaking)
    }

    /// Whether nothing is left to unwrap, for ever: there was only a PROXY header.
    pub(super) fn is_spent(&self) -> bool {
        self.header.is_none()
            && self.tls.is_none()
            && self.web_socket.is_none()
            && self.revealed.is_none()
    }

    /// Keeps what arrived until [`Transport::take_deferred`].
    pub(super) fn defer(&mut self, bytes: &[u8]) {
        self.deferred.extend_from_slice(bytes);
    }

    /// What was kept.
    pub(super) fn take_deferred(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.deferred)
    }

    /// Whether a peer that is slow to read what is served to it may have more time: it reads, so the socket took more
    /// or has less `unread`.
    pub(super) fn take_reprieve(&mut self, has_taken: bool, unread: usize) -> bool {
        let has_read = has_taken || unread < self.unread;
        self.unread = unread;
        self.reprieves += 1;
        has_read && self.reprieves <= REPRIEVES_MAX
    }

    /// Bytes held of what the peer sent.
    pub(super) fn held_size(&self) -> usize {
        self.deferred.len()
            + self.header.as_ref().map_or(0, Vec::len)
            + self.tls.as_ref().map_or(0, Tls::held_size)
            + self.web_socket.as_ref().map_or(0, WebSocket::held_size)
    }

    /// Most that may come to be held before this stage of its handshakes is over, or of a record after
    /// them.
    pub(super) fn held_max(&self) -> usize {
        let request_max = || {
            let options = self.wrapping.web_socket.as_ref();
            options.map_or(0, |options| options.headers_size_max)
        };
        let is_requested = self.web_socket.as_ref().is_some_and(|it| !it.is_open());
        self.header.as_ref().map_or(0, |_| proxy::V2_SIZE_MAX)
            + self.tls.as_ref().map_or(0, Tls::held_max)
            + if is_requested { request_max() } else { 0 }
    }

    /// What was learned of the peer since this was last asked. Comes before the first plain byte.
    pub(super) fn take_revealed(&mut self) -> Option<Revealed> {
        self.revealed.take()
    }

    /// The peer's address, if that was learned since and is not the socket's.
    pub(super) fn revealed_peer(&self) -> Option<PeerAddress> {
        self.revealed.as_ref().and_then(|revealed| revealed.peer)
    }

    /// Whether the peer will send nothing more, though the socket may be open.
    pub(super) fn has_ended(&self) -> bool {
        self.has_ended
    }

    /// Takes what arrived, which may be overwritten, and appends what it carried to `plain`.
    ///
    /// # Errors
    /// [`TransportError`]. What came before the offence has been appended, the answers hold the last
    /// words, and the peer counts as ended.
    pub(super) fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
    ) -> Result<(), TransportError> {
        if self.has_ended {
            return Ok(());
        }
        let mut result = self.unwrap(bytes, plain);
        if self.answers.len() > ANSWERS_SIZE_MAX {
            self.answers = Vec::new();
            result = Err(TransportError::AnswersUnread);
        }
        self.has_ended |= result.is_err();
        result
    }

    fn unwrap(&mut self, bytes: &mut [u8], plain: &mut Vec<u8>) -> Result<(), TransportError> {
        let mut after_header;
        let bytes = match &mut self.header {
            None => bytes,
            Some(held) => {
                held.extend_from_slice(bytes);
                let Some(size) = self.read_header()? else {
                    return Ok(());
                };
                after_header = self.header.take().unwrap_or_default();
                after_header.get_mut(size..).unwrap_or_default()
            }
        };
        let answers = &mut self.answers;
        let options = self.wrapping.web_socket.as_ref();
        match (&mut self.tls, self.web_socket.as_mut().zip(options)) {
            (None, None) => plain.extend_from_slice(bytes),
            (None, Some((web_socket, options))) => {
                let received = web_socket.receive(options, bytes, plain, answers)?;
                self.has_ended = received == Received::Last;
            }
            (Some(tls), web_socket) => {
                let was_handshaking = tls.is_handshaking();
                let mut framed = Vec::new();
                let target = match web_socket {
                    None => &mut *plain,
                    Some(_) => &mut framed,
                };
                let result = tls.receive(bytes, target, answers);
                if was_handshaking
                    && !tls.is_handshaking()
                    && let Some(certificate) = tls.certificate()
                {
                    let revealed = self.revealed.get_or_insert_default();
                    revealed.certificate = Some(certificate);
                }
                if let Some((web_socket, options)) = web_socket
                    && !framed.is_empty()
                {
                    let mut said = Vec::new();
                    let received = web_socket.receive(options, &framed, plain, &mut said);
                    tls.wrap(&said, answers)?;
                    self.has_ended = received? == Received::Last;
                }
                self.has_ended |= result?;
            }
        }
        Ok(())
    }

    /// Reads the PROXY header if it is complete, and returns its size.
    fn read_header(&mut self) -> Result<Option<usize>, TransportError> {
        let (Some(held), Some(options)) = (&self.header, &self.wrapping.proxy) else {
            return Ok(Some(0));
        };
        let Some((header, size)) = proxy::parse(options.version, held)? else {
            return Ok(None);
        };
        // From here on the log can tell who is refused.
        let revealed = Revealed {
            peer: header.peer,
            certificate: header.certificate,
        };
        self.revealed = (revealed != Revealed::default()).then_some(revealed);
        if options.require_tls && !header.is_tls {
            return Err(TransportError::ProxyWithoutTls);
        }
        if options.require_certificate && !header.has_certificate {
            return Err(TransportError::ProxyWithoutCertificate);
        }
        Ok(Some(size))
    }

    /// Whether there is something to send that the core has not said.
    pub(super) fn has_answers(&self) -> bool {
        let web_socket = self.web_socket.as_ref();
        !self.answers.is_empty() || web_socket.is_some_and(WebSocket::has_answers)
    }

    /// Appends it to `out`.
    pub(super) fn take_answers(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.answers);
        if let Some(web_socket) = &mut self.web_socket {
            let mut said = Vec::new();
            web_socket.write_answers(&mut said);
            self.seal(&said, out);
        }
    }

    /// Appends what has to be sent to carry `plain`, after any answers.
    ///
    /// Returns whether that is possible at all: a connection that cannot send has to be closed.
    pub(super) fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) -> bool {
        self.take_answers(out);
        match &mut self.web_socket {
            None => self.seal(plain, out),
            Some(web_socket) if self.tls.is_none() => {
                web_socket.wrap(plain, out);
                true
            }
            Some(web_socket) => {
                let mut framed = Vec::new();
                web_socket.wrap(plain, &mut framed);
                self.seal(&framed, out)
            }
        }
    }

    /// Appends `bytes` under TLS if there is any.
    fn seal(&mut self, bytes: &[u8], out: &mut Vec<u8>) -> bool {
        match &mut self.tls {
            Some(tls) => tls.wrap(bytes, out).is_ok(),
            None => {
                out.extend_from_slice(bytes);
                true
            }
        }
    }

    /// Appends what says that nothing will follow, after any answers. With a file that is still being
    /// served, says it when that is over.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.take_answers(out);
        self.has_ended = true;
        if self.web_socket.as_ref().is_some_and(WebSocket::has_file) {
            return;
        }
        if let Some(web_socket) = &mut self.web_socket {
            let mut said = Vec::new();
            web_socket.close(&mut said);
            self.seal(&said, out);
        }
        if let Some(tls) = &mut self.tls {
            tls.close(out);
        }
    }

    /// Appends the next part, of about `size` bytes, of what is sent after [`Transport::close`]. Nothing
    /// when all was.
    pub(super) fn write_rest(&mut self, size: usize, out: &mut Vec<u8>) {
        let Some(web_socket) = &mut self.web_socket else {
            return;
        };
        if web_socket.has_file() {
            let mut part = Vec::new();
            web_socket.write_file(size, &mut part);
            self.seal(&part, out);
            self.close(out);
        }
    }
}
