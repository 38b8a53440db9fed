//! `fastmq sub` and `fastmq pub`: a subscriber and a publisher for the command line, with the options,
//! the output and the exit statuses of `mosquitto_sub` and `mosquitto_pub`.
//!
//! They speak through the broker's own codec, from the Client's side. Where they differ from
//! Mosquitto's clients, which the end of their help lists, it is so that nothing is ignored without a
//! word: a PUBLISH or a subscription that was refused ends with the Reason Code as exit status, and a
//! Session that somebody else has taken over is not fought for.
//!
//! ```text
//! arguments -> settings -> subscriber | publisher -> conversation -> protocol   (pure: bytes and time)
//!                                                                 -> link       (TCP, unix, TLS, WebSocket)
//! ```
//!
//! One thread, one `poll`: the connection, the end by a signal, and standard input of the publisher.
//!
//! Read next: `protocol.rs` (the Client's half of MQTT), `subscriber.rs`, `publisher.rs`.

#![forbid(unsafe_code)]

mod arguments;
mod conversation;
mod defaults;
mod failure;
mod format;
mod json;
mod link;
mod message;
mod outgoing;
mod properties;
mod protocol;
mod publisher;
mod reason;
mod refused;
mod settings;
mod signals;
mod subscriber;
mod tls;
mod url;

pub use arguments::{PubArguments, SubArguments};
pub(crate) use conversation::wait;
pub use defaults::with_defaults;
pub use failure::EXIT_USAGE;
pub(crate) use link::{Link, Received};
pub use publisher::run as run_pub;
pub(crate) use settings::{Endpoint, Target, TlsSettings};
pub use subscriber::run as run_sub;
pub(crate) use tls::client_config_with;
