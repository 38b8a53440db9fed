//! What operators and machines see of the broker: `$SYS`, metrics, the service manager.
//!
//! **Lives on** threads of its own, beside the shards. It asks the shards for their numbers, which they
//! show at the end of a turn, and sends them messages to publish; no shard ever waits for it.
//!
//! # Always true
//! - What is served over HTTP only reads. Nothing can be changed through it.
//! - On an address that other machines reach, no number is served without the token.
//! - Connections, their lifetimes and the sizes of requests are bounded.
//!
//! Read next: `watch.rs` (the thread that looks), `sys_tree.rs` (`$SYS`), `http.rs` (who may see
//! what), `dashboard.html`.

#![forbid(unsafe_code)]

mod api;
mod http;
mod load;
mod metrics_text;
mod service;
mod sys_tree;
mod talkers;
#[cfg(all(test, not(loom)))]
mod tests;
mod token;
mod watch;

pub use http::{AdminPort, listen};
pub use service::{notify_ready, notify_reloading, notify_stopping};
pub use token::{Token, TokenError, parse_token};
pub use watch::{Watch, WatchOptions};
