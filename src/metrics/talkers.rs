//! The Clients that most messages of the last moments came from and went to.

#![forbid(unsafe_code)]

use crate::origin::PeerAddress;
use std::sync::Arc;
use std::time::Duration;

/// Most that a shard names in one answer.
pub const TALKERS_MAX: usize = 32;

/// What passed in one direction, as far as a sample tells.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Flow {
    /// PUBLISH packets.
    pub messages: f64,
    /// Bytes of the Control Packets they came with.
    pub bytes: f64,
}

impl Flow {
    /// Both, one after the other.
    pub fn add(&mut self, other: Self) {
        self.messages += other.messages;
        self.bytes += other.bytes;
    }
}

/// A connected Client and what passed between it and the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Talker {
    /// Its Client Identifier.
    pub client_identifier: Arc<str>,
    /// The port of its listener; zero of a unix socket.
    pub port: u16,
    /// Its other end.
    pub peer: PeerAddress,
    /// From it.
    pub received: Flow,
    /// To it.
    pub sent: Flow,
}

impl Talker {
    /// What they are put in order by.
    #[must_use]
    pub fn messages(&self) -> f64 {
        self.received.messages + self.sent.messages
    }
}

/// Since a shard was last asked: at most [`TALKERS_MAX`], those with most messages first.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Talkers {
    /// How long that was.
    pub window: Duration,
    /// Who they are.
    pub talkers: Vec<Talker>,
}
