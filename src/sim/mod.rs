//! A seeded simulation of a whole broker: N shards, their rings, the network and the Clients, with
//! an oracle that knows what MQTT promises.
//!
//! One [`Random`] decides everything and one virtual clock moves everything, so a seed replays a
//! failure exactly and a Session Expiry Interval of a month costs nothing. The shards are the real
//! ones; rings, sockets and time are the simulation's.
//!
//! **Knows nothing of** threads, sockets and clocks; whoever runs it may.
//!
//! Read next: `world.rs` (shards, rings, network), `client.rs` (what Clients do), `oracle.rs` (what
//! is right), `simulation.rs` (chaos, rest, the end); `disk.rs` and `durable/` (brokers that crash).

#![forbid(unsafe_code)]

mod client;
mod disk;
mod durable;
mod oracle;
mod plan;
mod random;
mod simulation;
#[cfg(test)]
mod tests;
mod world;

pub use disk::{Disk, Faults};
pub use durable::{DurableReport, simulate_durable};
pub use oracle::Violation;
pub use plan::Plan;
pub use random::Random;
pub use simulation::{Report, simulate};
pub use world::{Event, Pace, Traffic, WireId, World};
