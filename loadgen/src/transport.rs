//! TLS and WebSocket around the plain bytes of a connection, without I/O of their own.

use std::fs::File;
use std::io::{BufReader, Cursor, Read, Write};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, ring, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    ClientConfig, ClientConnection, DigitallySignedStruct, RootCertStore, SignatureScheme,
};
use tungstenite::handshake::client::generate_key;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};

use crate::failure::Failure;
use crate::options::Common;

/// An HTTP answer larger than this is none.
const ANSWER_SIZE_MAX: usize = 16 * 1024;

/// What every connection of a run is wrapped in.
#[derive(Clone, Debug)]
pub struct Wrapping {
    tls: Option<(Arc<ClientConfig>, ServerName<'static>)>,
    /// Host and path of the upgrade request.
    web_socket: Option<(String, String)>,
}

impl Wrapping {
    /// `None` when the bytes go as they are.
    pub fn new(common: &Common) -> Result<Option<Self>, Failure> {
        if !common.tls && !common.ws {
            return Ok(None);
        }
        let tls = common.tls.then(|| tls_config(common)).transpose()?;
        let web_socket = common.ws.then(|| {
            let host = format!("{}:{}", common.host, common.port);
            (host, common.ws_path.clone())
        });
        Ok(Some(Self { tls, web_socket }))
    }
}

fn tls_config(common: &Common) -> Result<(Arc<ClientConfig>, ServerName<'static>), Failure> {
    let failure = |error: &dyn std::fmt::Display| Failure::Tls(error.to_string());
    let provider = Arc::new(ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| failure(&error))?;
    let config = if common.insecure {
        builder
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Unchecked(provider)))
            .with_no_client_auth()
    } else {
        let Some(path) = &common.cafile else {
            let said = "--tls needs --cafile FILE to check the broker by, or --insecure";
            return Err(Failure::Options(said.to_owned()));
        };
        let unreadable = |reason: String| Failure::File {
            path: path.display().to_string(),
            reason,
        };
        let file = File::open(path).map_err(|error| unreadable(error.to_string()))?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_reader_iter(BufReader::new(file)) {
            let certificate = certificate.map_err(|error| unreadable(error.to_string()))?;
            roots.add(certificate).map_err(|error| failure(&error))?;
        }
        builder.with_root_certificates(roots).with_no_client_auth()
    };
    let name = ServerName::try_from(common.host.clone()).map_err(|error| failure(&error))?;
    Ok((Arc::new(config), name))
}

/// Believes every certificate, but still checks that the peer holds its key.
#[derive(Debug)]
struct Unchecked(Arc<CryptoProvider>);

impl ServerCertVerifier for Unchecked {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// One connection's wrapping.
#[derive(Debug)]
pub struct Transport {
    tls: Option<Box<ClientConnection>>,
    web_socket: Option<WebSocket>,
    /// Plain bytes that have arrived and are not consumed.
    pub plain: Vec<u8>,
    /// Between the two layers.
    between: Vec<u8>,
}

impl Transport {
    pub fn new(wrapping: &Wrapping) -> Result<Self, Failure> {
        let tls = match &wrapping.tls {
            Some((config, name)) => {
                let mut tls = ClientConnection::new(config.clone(), name.clone())
                    .map_err(|error| Failure::Tls(error.to_string()))?;
                // What is published waits here until the handshake is over.
                tls.set_buffer_limit(None);
                Some(Box::new(tls))
            }
            None => None,
        };
        let web_socket = wrapping
            .web_socket
            .as_ref()
            .map(|(host, path)| WebSocket::new(host, path));
        Ok(Self {
            tls,
            web_socket,
            plain: Vec::new(),
            between: Vec::new(),
        })
    }

    /// Whether [`Transport::wrap`] would give something without having been given anything.
    pub fn has_output(&self) -> bool {
        let tls = self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let web_socket = self.web_socket.as_ref();
        tls || web_socket.is_some_and(WebSocket::has_output)
    }

    /// Appends to `out` what has to be sent to carry `plain`.
    pub fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else {
            if let Some(web_socket) = &mut self.web_socket {
                web_socket.wrap(plain, out);
            }
            return Ok(());
        };
        let failure = |error: std::io::Error| Failure::Tls(error.to_string());
        let framed = match &mut self.web_socket {
            Some(web_socket) => {
                self.between.clear();
                web_socket.wrap(plain, &mut self.between);
                &self.between[..]
            }
            None => plain,
        };
        tls.writer().write_all(framed).map_err(failure)?;
        // What arrives goes through the same buffer.
        self.between.clear();
        while tls.wants_write() {
            tls.write_tls(out).map_err(failure)?;
        }
        Ok(())
    }

    /// Takes what has arrived; [`Transport::plain`] has what it carried.
    pub fn unwrap(&mut self, mut bytes: &[u8]) -> Result<(), Failure> {
        let Some(tls) = &mut self.tls else {
            return match &mut self.web_socket {
                Some(web_socket) => web_socket.unwrap(bytes, &mut self.plain),
                None => Ok(()),
            };
        };
        while !bytes.is_empty() {
            let failure = |error: &dyn std::fmt::Display| Failure::Tls(error.to_string());
            tls.read_tls(&mut bytes).map_err(|error| failure(&error))?;
            let state = tls.process_new_packets().map_err(|error| failure(&error))?;
            let count = state.plaintext_bytes_to_read();
            let target = match &self.web_socket {
                Some(_) => &mut self.between,
                None => &mut self.plain,
            };
            let start = target.len();
            target.resize(start + count, 0);
            tls.reader()
                .read_exact(&mut target[start..])
                .map_err(|error| failure(&error))?;
            if let Some(web_socket) = &mut self.web_socket {
                web_socket.unwrap(&self.between, &mut self.plain)?;
                self.between.clear();
            }
        }
        Ok(())
    }
}

#[derive(Debug)]
struct WebSocket {
    /// What the broker must answer to the upgrade; `None` once it has.
    expected: Option<String>,
    /// To be sent before anything else: the upgrade, later pongs.
    answers: Vec<u8>,
    /// Waits for the upgrade.
    held: Vec<u8>,
    /// Arrived, and not a whole frame yet.
    raw: Vec<u8>,
    mask: u32,
}

impl WebSocket {
    fn new(host: &str, path: &str) -> Self {
        let key = generate_key();
        let request = format!(
            "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Protocol: mqtt\r\n\r\n"
        );
        Self {
            expected: Some(derive_accept_key(key.as_bytes())),
            answers: request.into_bytes(),
            held: Vec::new(),
            raw: Vec::new(),
            mask: 0x9e37_79b9,
        }
    }

    fn has_output(&self) -> bool {
        !self.answers.is_empty() || (self.expected.is_none() && !self.held.is_empty())
    }

    fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        out.append(&mut self.answers);
        if self.expected.is_some() {
            self.held.extend_from_slice(plain);
            return;
        }
        if !self.held.is_empty() {
            let held = std::mem::take(&mut self.held);
            self.frame(OpCode::Data(Data::Binary), &held, out);
        }
        if !plain.is_empty() {
            self.frame(OpCode::Data(Data::Binary), plain, out);
        }
    }

    fn frame(&mut self, opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
        self.mask = self
            .mask
            .wrapping_mul(0x0019_660d)
            .wrapping_add(0x3c6e_f35f);
        let mask = self.mask.to_ne_bytes();
        let header = FrameHeader {
            opcode,
            mask: Some(mask),
            ..FrameHeader::default()
        };
        // Writing to memory does not fail.
        let _ = header.format(payload.len() as u64, out);
        let start = out.len();
        out.extend_from_slice(payload);
        for chunk in out[start..].chunks_mut(4) {
            for (byte, mask) in chunk.iter_mut().zip(mask) {
                *byte ^= mask;
            }
        }
    }

    fn unwrap(&mut self, bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), Failure> {
        let failure = |said: &str| Failure::WebSocket(said.to_owned());
        self.raw.extend_from_slice(bytes);
        let raw = std::mem::take(&mut self.raw);
        let mut at = 0;
        if let Some(expected) = &self.expected {
            let Some(end) = raw.windows(4).position(|four| four == b"\r\n\r\n") else {
                if raw.len() > ANSWER_SIZE_MAX {
                    return Err(failure("the broker's answer to the upgrade has no end"));
                }
                self.raw = raw;
                return Ok(());
            };
            let answer = String::from_utf8_lossy(&raw[..end]);
            let status = answer.lines().next().unwrap_or_default();
            let accepts = answer.lines().any(|line| {
                line.split_once(':').is_some_and(|(name, value)| {
                    name.eq_ignore_ascii_case("sec-websocket-accept") && value.trim() == expected
                })
            });
            if status.split(' ').nth(1) != Some("101") || !accepts {
                return Err(failure(&format!(
                    "the broker refused the upgrade: {status}"
                )));
            }
            self.expected = None;
            at = end + 4;
        }
        loop {
            let mut cursor = Cursor::new(&raw[at..]);
            let parsed = FrameHeader::parse(&mut cursor);
            let parsed = parsed.map_err(|error| failure(&error.to_string()))?;
            let Some((header, size)) = parsed else { break };
            let start = at + cursor.position() as usize;
            let Some(payload) = raw.get(start..).and_then(|rest| rest.get(..size as usize)) else {
                break;
            };
            match header.opcode {
                OpCode::Data(_) => plain.extend_from_slice(payload),
                OpCode::Control(Control::Ping) => {
                    let mut answers = std::mem::take(&mut self.answers);
                    self.frame(OpCode::Control(Control::Pong), payload, &mut answers);
                    self.answers = answers;
                }
                OpCode::Control(_) => {}
            }
            at = start + size as usize;
        }
        self.raw = raw;
        self.raw.drain(..at);
        Ok(())
    }
}
