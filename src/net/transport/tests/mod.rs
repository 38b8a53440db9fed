//! Transports against clients in memory, cut anywhere, and against garbage.

mod proxy;
mod tls;
mod web_socket;

use super::{Transport, TransportError, Wrapping};
use std::sync::Arc;

/// The server's end of a connection, and what became of it.
struct Server {
    transport: Box<Transport>,
    plain: Vec<u8>,
    error: Option<TransportError>,
}

impl Server {
    fn new(wrapping: Wrapping) -> Self {
        let transport = Transport::new(&Arc::new(wrapping));
        Self {
            transport: transport.expect("it wraps something"),
            plain: Vec::new(),
            error: None,
        }
    }

    /// Receives `bytes` in pieces of `piece` and returns the answers.
    fn receive(&mut self, bytes: &[u8], piece: usize) -> Vec<u8> {
        let mut answers = Vec::new();
        for piece in bytes.chunks(piece) {
            if let Err(error) = self.transport.receive(&mut piece.to_vec(), &mut self.plain) {
                self.error.get_or_insert(error);
            }
            if self.transport.has_answers() {
                self.transport.take_answers(&mut answers);
            }
        }
        answers
    }

    fn send(&mut self, plain: &[u8]) -> Vec<u8> {
        let mut wire = Vec::new();
        assert!(self.transport.wrap(plain, &mut wire));
        wire
    }

    fn close(&mut self) -> Vec<u8> {
        let mut wire = Vec::new();
        self.transport.close(&mut wire);
        wire
    }

    fn said(&self) -> String {
        self.error.as_ref().expect("it fails").to_string()
    }
}
