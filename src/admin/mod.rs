//! What operators and machines see of the broker: `$SYS`, metrics, the service manager.
//!
//! **Lives on** threads of its own, beside the shards. It asks the shards for their numbers, which they
//! show at the end of a turn, and sends them messages to publish; no shard ever waits for it.
//!
//! Read next: `watch.rs` (the thread that looks), `sys_tree.rs` (`$SYS`), `metrics_text.rs`.

#![forbid(unsafe_code)]

mod http;
mod load;
mod metrics_text;
mod service;
mod sys_tree;
mod watch;

pub use http::{AdminPort, Token, listen};
pub use service::{notify_ready, notify_reloading, notify_stopping};
pub use watch::{Watch, WatchOptions};
