//! One shard and Clients that speak hex: packets as the specification prints them.

#![allow(dead_code, missing_docs)] // Shared by several tests, none of which needs all of it.

use std::sync::Arc;
use std::time::Duration;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::limits::Limits;
use fastmq::origin::Origin;
use fastmq::policy::Settings;
use fastmq::shard::{Command, Effects, Shard};
use fastmq::time::Instant;

/// One shard, and Clients that speak hex.
pub struct Broker {
    pub shard: Shard,
    pub effects: Effects,
    pub now: Instant,
}

/// What `hex` stands for; spaces are for the reader.
pub fn bytes(hex: &str) -> Vec<u8> {
    let digits: String = hex.split_whitespace().collect();
    (0..digits.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&digits[at..at + 2], 16).expect("hex"))
        .collect()
}

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Broker {
    pub fn new() -> Self {
        Self::with(Limits::default())
    }

    pub fn with(limits: Limits) -> Self {
        Self::with_settings(Settings::permissive(limits))
    }

    pub fn with_settings(settings: Settings) -> Self {
        Self {
            shard: Shard::with_settings(ShardId(0), 1, Arc::new(settings), 1),
            effects: Effects::default(),
            now: Instant::ZERO,
        }
    }

    pub fn accept(&mut self) -> ConnectionKey {
        self.shard
            .handle_accept(Origin::default(), self.now)
            .expect("there is room")
    }

    /// The operator has the configuration read again.
    pub fn configure(&mut self, settings: Settings) {
        let command = Command::Configure(Arc::new(settings));
        self.shard
            .handle_command(command, self.now, &mut self.effects);
    }

    /// Sends `packets` and returns, in hex, what this Client is sent in answer.
    pub fn send(&mut self, client: ConnectionKey, packets: &str) -> String {
        self.submit(client, &bytes(packets));
        self.receive(client)
    }

    /// Sends `packets`, and leaves what the Client is sent in answer where it is.
    pub fn submit(&mut self, client: ConnectionKey, packets: &[u8]) {
        let consumed = self
            .shard
            .handle_bytes(client, packets, self.now, &mut self.effects);
        assert_eq!(consumed, packets.len(), "all of it is taken");
    }

    pub fn receive(&mut self, client: ConnectionKey) -> String {
        let mut output = Vec::new();
        self.shard.take_output(client, &mut output);
        self.shard
            .handle_unsent(client, 0, self.now, &mut self.effects);
        hex(&output)
    }

    pub fn is_closed(&self, client: ConnectionKey) -> bool {
        self.effects.closes.contains(&client)
    }

    /// A Client named `a`, `b`, ... that speaks 5.0.
    pub fn v5(&mut self, name: char) -> ConnectionKey {
        let client = self.accept();
        let connect = format!("10 0e 0004 4d515454 05 02 003c 00 0001 {:02x}", name as u32);
        assert!(self.send(client, &connect).starts_with("20"));
        client
    }

    /// The same in 3.1.1.
    pub fn v311(&mut self, name: char) -> ConnectionKey {
        let client = self.accept();
        let connect = format!("10 0d 0004 4d515454 04 02 003c 0001 {:02x}", name as u32);
        assert_eq!(self.send(client, &connect), "20020000");
        client
    }

    /// Lets time pass, and what it brings happen.
    pub fn pass(&mut self, seconds: u64) {
        self.now = self.now + Duration::from_secs(seconds);
        self.shard.handle_timeout(self.now, &mut self.effects);
    }

    /// The network loses this connection.
    pub fn lose(&mut self, client: ConnectionKey) {
        self.shard
            .handle_closed(client, self.now, &mut self.effects);
    }

    /// Connects with this whole CONNECT and returns the client and the CONNACK.
    pub fn connect(&mut self, connect: &str) -> (ConnectionKey, String) {
        let client = self.accept();
        let connack = self.send(client, connect);
        (client, connack)
    }
}
