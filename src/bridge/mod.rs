//! Bridges: connections of the broker's own to other brokers, over which some topics are exchanged.
//!
//! ```text
//! remote broker <-> Link <-> Relay <-> socket pair <-> a shard, as the Client that the bridge is
//! ```
//!
//! To the shards a bridge is a Client like others, on a listener that only bridges have: its Session keeps what the remote
//! broker has not acknowledged, on disk if there is a store. A thread for each bridge carries packets between the two
//! connections. Of itself it keeps nothing that would have to survive.
//!
//! # Always true
//! - A message is acknowledged to the broker that it came from when the other one has acknowledged it.
//! - Nothing that a broker says is waited for by the other one's Clients, or by a shard.
//! - Nothing is read from a broker while what it said before waits for the other one.
//!
//! Read next: `relay.rs` (packets), `visit.rs` (one connection), `runner.rs` (one after the other).

#![forbid(unsafe_code)]

mod control;
mod numbers;
mod options;
mod presence;
mod probe;
mod relay;
mod runner;
#[cfg(test)]
mod tests;
mod topics;
mod visit;

pub use numbers::{BridgePicture, BridgeTable};
pub use runner::{Bridges, PreparedBridge};
