//! fastmq: a thread-per-core MQTT 3.1, 3.1.1 and 5.0 broker for Linux with io_uring.
//!
//! Bytes become Control Packets, packets move a Session, a Session asks the Router, the Router fills
//! out-queues, out-queues become bytes. Each hop is a module that can be read alone; imports point
//! down only. `src/ARCHITECTURE.md` is the map.

pub mod admin;
pub mod auth;
pub mod bridge;
mod chunks;
pub mod cli;
pub mod clients;
pub mod codec;
pub mod config;
mod id_table;
pub mod import;
pub mod journal;
pub mod key;
pub mod limits;
pub mod log;
pub mod long_queue;
pub mod manual;
pub mod message;
pub mod metrics;
pub mod net;
pub mod origin;
pub mod passwd;
pub mod policy;
pub mod ring;
pub mod router;
pub mod runtime;
pub mod server;
pub mod session;
pub mod shard;
mod shown;
pub mod sim;
pub mod time;
pub mod topic;
pub mod wal;
