//! TLS, the server's side of it, around rustls's unbuffered connection: no copy of its own of what
//! arrives, and nothing held for an idle connection but its keys.

#![forbid(unsafe_code)]

use super::identity;
use crate::net::tls::Prepared;
use crate::origin::CertificateIdentity;
use rustls::server::{Acceptor, ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncodeTlsData, EncryptError, InsufficientSizeError,
    UnbufferedStatus,
};
use rustls::{CertificateError, OtherError};
use std::sync::Arc;

/// What a record adds to its payload, at most: header, nonce, content type, tag.
const RECORD_OVERHEAD: usize = 5 + 8 + 1 + 16;
/// Largest payload of a record.
const RECORD_PAYLOAD_MAX: usize = 16 * 1024;
/// Bytes of records held until they, or the handshake message in them, are complete. A record, and as
/// much again for a chain of certificates that comes in several.
const HELD_MAX: usize = 2 * (RECORD_PAYLOAD_MAX + RECORD_OVERHEAD + 256);

/// The connection cannot go on under TLS.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The peer broke the protocol, showed no valid certificate, or has nothing in common with us.
    #[error("{}", said(.0))]
    Peer(#[from] rustls::Error),
    /// A message of the handshake is larger than any that makes sense.
    #[error("TLS handshake message of more than {HELD_MAX} bytes")]
    TooLarge,
    /// As many records were sent as one key may protect.
    #[error("TLS keys exhausted")]
    Exhausted,
}

/// In an operator's words what rustls only has a name for.
fn said(error: &rustls::Error) -> String {
    match error {
        rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(source)))
            if source.to_string() == "UnsupportedCertVersion" =>
        {
            "the client's certificate, or one that it leads to, is of X.509 version 1 or 2, and only \
             version 3 is accepted"
                .to_owned()
        }
        error => error.to_string(),
    }
}

/// One connection's TLS.
#[derive(Debug)]
pub(super) struct Tls {
    state: State,
    /// Received and not processed: the start of a record, or records of a handshake message.
    held: Vec<u8>,
}

enum State {
    /// Waits for the client's first message, which tells which of two configurations serves it.
    Hello {
        acceptor: Box<Acceptor>,
        prepared: Arc<Prepared>,
    },
    Open(Box<UnbufferedServerConnection>),
    /// It failed, and the last words are written.
    Failed,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Hello { .. } => "Hello",
            Self::Open(_) => "Open",
            Self::Failed => "Failed",
        })
    }
}

/// What [`drive`] is to do besides reading.
#[derive(Clone, Copy)]
enum Wish<'a> {
    Read,
    Write(&'a [u8]),
    Close,
}

impl Tls {
    pub(super) fn new(prepared: Arc<Prepared>) -> Self {
        Self {
            state: State::Hello {
                acceptor: Box::default(),
                prepared,
            },
            held: Vec::new(),
        }
    }

    /// Whether the handshake goes on: what arrives may cost a signature.
    pub(super) fn is_handshaking(&self) -> bool {
        match &self.state {
            State::Hello { .. } => true,
            State::Open(connection) => connection.is_handshaking(),
            State::Failed => false,
        }
    }

    pub(super) fn held_size(&self) -> usize {
        match self.state {
            // rustls's acceptor has a copy of its own.
            State::Hello { .. } => 2 * self.held.len(),
            State::Open(_) | State::Failed => self.held.len(),
        }
    }

    /// Most that may come to be held of the handshake, or of a record after it.
    pub(super) fn held_max(&self) -> usize {
        if self.is_handshaking() {
            HELD_MAX
        } else {
            RECORD_PAYLOAD_MAX + RECORD_OVERHEAD
        }
    }

    /// Names in the certificate that the client has proven to hold.
    pub(super) fn certificate(&self) -> Option<CertificateIdentity> {
        let State::Open(connection) = &self.state else {
            return None;
        };
        let certificates = connection.peer_certificates()?;
        // One that was verified can be read.
        certificates.first().and_then(|leaf| identity::of(leaf))
    }

    /// Takes what arrived, which is decrypted where it lies. Appends what it carried to `plain` and what
    /// has to be sent to `out`. Returns whether the peer will send nothing more.
    ///
    /// # Errors
    /// [`TlsError`]; `out` has the alert that says so.
    pub(super) fn receive(
        &mut self,
        bytes: &mut [u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<bool, TlsError> {
        if let State::Hello { acceptor, prepared } = &mut self.state {
            self.held.extend_from_slice(bytes);
            return match hello(acceptor, prepared, bytes, out) {
                Ok(None) => self.bounded(false),
                Ok(Some(connection)) => {
                    self.state = State::Open(connection);
                    self.receive(&mut [], plain, out)
                }
                Err(error) => {
                    self.state = State::Failed;
                    Err(error)
                }
            };
        }
        let State::Open(connection) = &mut self.state else {
            return Ok(true);
        };
        let (used, result) = if self.held.is_empty() {
            let (used, result) = drive(connection, bytes, Wish::Read, plain, out);
            self.held
                .extend_from_slice(bytes.get(used..).unwrap_or_default());
            (0, result)
        } else {
            self.held.extend_from_slice(bytes);
            drive(connection, &mut self.held, Wish::Read, plain, out)
        };
        self.discard(used);
        match result {
            Ok(has_ended) => self.bounded(has_ended),
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }

    fn bounded(&self, has_ended: bool) -> Result<bool, TlsError> {
        if self.held_size() > HELD_MAX {
            return Err(TlsError::TooLarge);
        }
        Ok(has_ended)
    }

    fn discard(&mut self, used: usize) {
        if used >= self.held.len() {
            // An idle connection holds nothing.
            self.held = Vec::new();
        } else {
            self.held.drain(..used);
        }
    }

    /// Appends the records that carry `plain`. Nothing if the handshake is not over.
    ///
    /// # Errors
    /// [`TlsError::Exhausted`].
    pub(super) fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), TlsError> {
        if plain.is_empty() {
            return Ok(());
        }
        self.write(Wish::Write(plain), out)
    }

    /// Appends the alert that nothing will follow.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        // A connection that fails to say good-bye is closed all the same.
        let _ = self.write(Wish::Close, out);
    }

    fn write(&mut self, wish: Wish<'_>, out: &mut Vec<u8>) -> Result<(), TlsError> {
        let State::Open(connection) = &mut self.state else {
            return Ok(());
        };
        // What is held is part of a record: nothing in it can be read yet.
        let mut plain = Vec::new();
        let (used, result) = drive(connection, &mut self.held, wish, &mut plain, out);
        debug_assert!(plain.is_empty());
        self.discard(used);
        result.map(drop)
    }
}

/// Reads the client's first message, and makes the connection that it asks for.
fn hello(
    acceptor: &mut Acceptor,
    prepared: &Prepared,
    mut bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<Box<UnbufferedServerConnection>>, TlsError> {
    while !bytes.is_empty() {
        // It takes no more than it needs at once; memory does not fail to be read.
        if acceptor.read_tls(&mut bytes).is_err() {
            return Err(TlsError::TooLarge);
        }
        let accepted = acceptor.accept().map_err(|(error, mut alert)| {
            // Writing to memory does not fail.
            let _ = alert.write(out);
            TlsError::Peer(error)
        })?;
        if let Some(accepted) = accepted {
            let hello = accepted.client_hello();
            let config = prepared.config_for(hello.alpn());
            let connection = UnbufferedServerConnection::new(config)?;
            return Ok(Some(Box::new(connection)));
        }
    }
    Ok(None)
}

/// Moves `connection` on with the records in `bytes`, and then does as is wished. Returns how many bytes
/// were used up, and whether the peer will send nothing more.
fn drive(
    connection: &mut UnbufferedServerConnection,
    bytes: &mut [u8],
    wish: Wish<'_>,
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
) -> (usize, Result<bool, TlsError>) {
    let mut used = 0;
    let mut has_ended = false;
    let result = loop {
        let rest = bytes.get_mut(used..).unwrap_or_default();
        let UnbufferedStatus { mut discard, state } = connection.process_tls_records(rest);
        let mut result = None;
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(record) = traffic.next_record() {
                    match record {
                        Ok(record) => {
                            discard += record.discard;
                            plain.extend_from_slice(record.payload);
                        }
                        Err(error) => {
                            result = Some(Err(error.into()));
                            break;
                        }
                    }
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => {
                append_encoded(&mut data, out);
            }
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                let encrypted = |result| match result {
                    Err(EncryptError::InsufficientSize(error)) => Err(Some(error)),
                    Err(EncryptError::EncryptExhausted) => Err(None),
                    Ok(size) => Ok(size),
                };
                let is_written = match wish {
                    Wish::Read => true,
                    Wish::Write(plain) => {
                        let records = plain.len().div_ceil(RECORD_PAYLOAD_MAX);
                        out.reserve(plain.len() + records * RECORD_OVERHEAD);
                        append(out, |room| encrypted(traffic.encrypt(plain, room)))
                    }
                    Wish::Close => append(out, |room| encrypted(traffic.queue_close_notify(room))),
                };
                result = Some(match is_written {
                    true => Ok(has_ended),
                    false => Err(TlsError::Exhausted),
                });
            }
            Ok(ConnectionState::PeerClosed) => has_ended = true,
            Ok(ConnectionState::Closed) => result = Some(Ok(true)),
            // More has to arrive. (Early data is not accepted, and there are no other states.)
            Ok(_) => result = Some(Ok(has_ended)),
            Err(error) => result = Some(Err(error.into())),
        }
        used += discard;
        match result {
            None => {}
            Some(Err(TlsError::Peer(error))) => {
                write_alert(connection, bytes.get_mut(used..).unwrap_or_default(), out);
                break Err(TlsError::Peer(error));
            }
            Some(result) => break result,
        }
    };
    (used, result)
}

fn append_encoded(data: &mut EncodeTlsData<'_, ServerConnectionData>, out: &mut Vec<u8>) {
    append(out, |room| match data.encode(room) {
        Err(EncodeError::InsufficientSize(error)) => Err(Some(error)),
        result => result.map_err(|_| None),
    });
}

/// Appends what `write` puts into the room that it says it needs. Returns whether it did.
fn append(
    out: &mut Vec<u8>,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Option<InsufficientSizeError>>,
) -> bool {
    let start = out.len();
    // All that is reserved, and as much as it takes otherwise.
    let mut size = out.capacity() - start;
    loop {
        out.resize(start + size, 0);
        match write(&mut out[start..]) {
            Ok(written) => {
                out.truncate(start + written);
                return true;
            }
            Err(Some(error)) if error.required_size > size => size = error.required_size,
            Err(_) => {
                out.truncate(start);
                return false;
            }
        }
    }
}

/// Appends the alert that a connection that has just failed at `bytes` wants to send.
fn write_alert(connection: &mut UnbufferedServerConnection, bytes: &mut [u8], out: &mut Vec<u8>) {
    // It comes first, before another look at `bytes`, which must still be those.
    let status = connection.process_tls_records(bytes);
    if let Ok(ConnectionState::EncodeTlsData(mut data)) = status.state {
        append_encoded(&mut data, out);
    }
}
