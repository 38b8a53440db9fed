//! The HTTP request that a WebSocket begins with, and its answer: the upgrade, a file, or a refusal.

#![forbid(unsafe_code)]

use super::static_files::{StaticFile, StaticFiles};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use httparse::{EMPTY_HEADER, Header, Request, Status};
use std::io::Write;
use std::sync::Arc;
use tungstenite::handshake::derive_accept_key;

/// Header fields of one request; Mosquitto's bound.
const HEADERS_MAX: usize = 100;

/// What a listener for WebSockets accepts.
#[derive(Clone, Debug)]
pub struct WebSocketOptions {
    /// Origins from which browsers may connect, compared byte by byte with what they say; empty: any.
    /// A request that names no origin does not come from a browser and is let through.
    pub origins: Vec<String>,
    /// Largest request, bytes. A larger one is answered 431.
    pub headers_size_max: usize,
    /// What is served to requests that are no upgrade; without it they are answered 404.
    pub files: Option<Arc<StaticFiles>>,
}

impl Default for WebSocketOptions {
    fn default() -> Self {
        Self {
            origins: Vec::new(),
            headers_size_max: 4096,
            files: None,
        }
    }
}

/// Why a request is not granted. Each has an answer of its own.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Not HTTP, or an upgrade that breaks RFC 6455.
    #[error("malformed HTTP request")]
    BadRequest,
    /// The request offers neither subprotocol that carries MQTT [MQTT-6.0.0-3].
    #[error("WebSocket request without subprotocol mqtt")]
    Subprotocol,
    /// The page that wants to connect is not from an allowed origin.
    #[error("WebSocket request from an origin that is not allowed")]
    Origin,
    /// No such file, or no files at all.
    #[error("HTTP request for a file that is not there")]
    NotFound,
    /// Neither GET nor HEAD.
    #[error("HTTP request of a method that is not served")]
    Method,
    /// Another version of the WebSocket protocol.
    #[error("WebSocket request of another version than 13")]
    Version,
    /// The request is larger than the listener takes.
    #[error("HTTP request with a head larger than is taken")]
    TooLarge,
}

impl Refusal {
    fn status(self) -> &'static str {
        match self {
            Self::BadRequest | Self::Subprotocol => "400 Bad Request",
            Self::Origin => "403 Forbidden",
            Self::NotFound => "404 Not Found",
            Self::Method => "405 Method Not Allowed\r\nAllow: GET, HEAD",
            Self::Version => "426 Upgrade Required\r\nSec-WebSocket-Version: 13",
            Self::TooLarge => "431 Request Header Fields Too Large",
        }
    }
}

/// What became of a request that was granted.
#[derive(Clone, Debug)]
pub(super) enum Granted {
    /// The answer is an upgrade; the WebSocket begins after so many bytes.
    Upgrade(usize),
    /// The answer announces this file; `None` if only its head was asked for.
    File(Option<StaticFile>),
}

/// Reads the request at the start of `bytes` and appends the head of its answer to `out`. `None` if
/// more bytes are needed.
///
/// # Errors
/// [`Refusal`]; its whole answer has been appended.
pub(super) fn answer(
    options: &WebSocketOptions,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<Granted>, Refusal> {
    grant(options, bytes, out).inspect_err(|refusal| refuse(*refusal, out))
}

fn grant(
    options: &WebSocketOptions,
    bytes: &[u8],
    out: &mut Vec<u8>,
) -> Result<Option<Granted>, Refusal> {
    let mut headers = [EMPTY_HEADER; HEADERS_MAX];
    let mut request = Request::new(&mut headers);
    let status = request.parse(bytes).map_err(|error| match error {
        httparse::Error::TooManyHeaders => Refusal::TooLarge,
        _ => Refusal::BadRequest,
    })?;
    let Status::Complete(size) = status else {
        return if bytes.len() < options.headers_size_max {
            Ok(None)
        } else {
            Err(Refusal::TooLarge)
        };
    };
    if size > options.headers_size_max {
        return Err(Refusal::TooLarge);
    }
    let is_head = match request.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Refusal::Method),
    };
    let headers = &*request.headers;
    if !lists(headers, "Upgrade", "websocket") {
        let path = request.path.unwrap_or_default();
        let file = options.files.as_ref().and_then(|files| files.find(path));
        let file = file.ok_or(Refusal::NotFound)?;
        write_file_head(&file, out);
        return Ok(Some(Granted::File((!is_head).then_some(file))));
    }
    if is_head || request.version != Some(1) || !lists(headers, "Connection", "upgrade") {
        return Err(Refusal::BadRequest);
    }
    if only(headers, "Sec-WebSocket-Version") != Some(b"13") {
        return Err(Refusal::Version);
    }
    let key = only(headers, "Sec-WebSocket-Key").ok_or(Refusal::BadRequest)?;
    if STANDARD.decode(key).map_or(0, |nonce| nonce.len()) != 16 {
        return Err(Refusal::BadRequest);
    }
    if let Some(origin) = values(headers, "Origin").next()
        && !options.origins.is_empty()
        && !options
            .origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin)
    {
        return Err(Refusal::Origin);
    }
    // The newer name is preferred, whatever comes first [MQTT-6.0.0-4].
    let offered = ["mqtt", "mqttv3.1"];
    let protocol = offered
        .into_iter()
        .find(|name| elements(headers, "Sec-WebSocket-Protocol").any(|one| one == name.as_bytes()))
        .ok_or(Refusal::Subprotocol)?;
    let accept = derive_accept_key(key);
    // Writing to memory does not fail.
    let _ = write!(
        out,
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\nSec-WebSocket-Protocol: {protocol}\r\n\r\n"
    );
    Ok(Some(Granted::Upgrade(size)))
}

fn refuse(refusal: Refusal, out: &mut Vec<u8>) {
    let body = format!("{refusal}\n");
    let _ = write!(
        out,
        "HTTP/1.1 {}\r\nConnection: close\r\nContent-Type: text/plain\r\nContent-Length: {}\r\n\r\n{body}",
        refusal.status(),
        body.len()
    );
}

fn write_file_head(file: &StaticFile, out: &mut Vec<u8>) {
    let _ = write!(
        out,
        "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: {}\r\nContent-Length: {}\r\n\
         X-Content-Type-Options: nosniff\r\n\r\n",
        file.content_type,
        file.bytes.len()
    );
}

fn values<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    let named = headers
        .iter()
        .filter(move |header| header.name.eq_ignore_ascii_case(name));
    named.map(|header| header.value.trim_ascii())
}

/// The value of a header field that may be there once.
fn only<'a>(headers: &'a [Header<'a>], name: &'a str) -> Option<&'a [u8]> {
    let mut values = values(headers, name);
    values.next().filter(|_| values.next().is_none())
}

/// Elements of the list in a header field, which may be spread over several.
fn elements<'a>(headers: &'a [Header<'a>], name: &'a str) -> impl Iterator<Item = &'a [u8]> {
    values(headers, name)
        .flat_map(|value| value.split(|&byte| byte == b','))
        .map(|element| element.trim_ascii())
}

fn lists(headers: &[Header<'_>], name: &str, wanted: &str) -> bool {
    elements(headers, name).any(|element| element.eq_ignore_ascii_case(wanted.as_bytes()))
}
