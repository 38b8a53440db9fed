//! The ring from one shard to another, and the flag by which a shard announces that it sleeps.
//!
//! **Lives on** two cores: the [`Producer`] on one shard, the [`Consumer`] on another. Both ends are
//! `!Clone`, so that "single producer, single consumer" is a type and not a promise.
//! **Knows nothing of** envelopes, shards, or how a sleeping shard is woken.
//!
//! # Always true
//! - Items come out in the order they went in, each once; what is left is dropped with the ring.
//! - A pushed item is visible after [`Producer::publish`], which is one store for any number of items.
//! - A taken slot is free for the producer at the latest when the consumer finds the ring empty.
//! - A shard that slept after [`Sleep::announce`] is told of every item published since: no wake-up
//!   is lost (`sleep.rs` says why, a loom test holds it).
//!
//! Read next: `spsc.rs`, then `sleep.rs`.

mod sleep;
mod spsc;
mod sync;

pub use sleep::Sleep;
pub use spsc::{Consumer, Drain, Producer, channel};
