//! The reader of WebSockets for tests from outside, which give it what no client sends.

#![forbid(unsafe_code)]

use super::upgrade::WebSocketOptions;
use super::web_socket::{Received, WebSocket};

/// What one connection made of the bytes that came.
#[derive(Debug, Eq, PartialEq)]
pub struct WebSocketRead {
    /// The payload.
    pub plain: Vec<u8>,
    /// The answers, except to pings.
    pub answers: Vec<u8>,
    /// Whether more may come, or why not.
    pub end: Result<bool, String>,
    /// Bytes that are held until more come, if more may come.
    pub held_size: usize,
}

/// Reads the request and the frames that arrive in these pieces.
#[must_use]
pub fn read_web_socket(options: &WebSocketOptions, pieces: &[&[u8]]) -> WebSocketRead {
    let mut web_socket = WebSocket::default();
    let mut plain = Vec::new();
    let mut answers = Vec::new();
    let mut end = Ok(true);
    for piece in pieces {
        match web_socket.receive(options, piece, &mut plain, &mut answers) {
            Ok(Received::More) => {}
            Ok(Received::Last) => end = Ok(false),
            Err(error) => end = Err(error.to_string()),
        }
        if end != Ok(true) {
            break;
        }
    }
    let held_size = match end {
        Ok(true) => web_socket.held_size(),
        _ => 0,
    };
    WebSocketRead {
        plain,
        answers,
        end,
        held_size,
    }
}
