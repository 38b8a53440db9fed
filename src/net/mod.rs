//! Sockets: from the listening port to plain bytes for the shard core, and back.
//!
//! **Lives on** one shard: its own `io_uring`, its own receive buffers, its own connections.
//! **Knows nothing of** MQTT. The core says what a packet is, when to close, where a connection
//! belongs; it is reached through the trait [`Core`], so that tests run this path with an echo.
//!
//! # Always true
//! - Bytes reach the core in the order they arrived. A packet that lies whole in a receive buffer is
//!   read in place; only one that was cut off is copied, and of who sends large ones not even that (`straight.rs`).
//! - A connection with nothing to say holds no buffer: neither for receiving nor for sending.
//! - A slot of the connection table is used again only when the kernel has finished with everything
//!   that was asked of it; a completion that comes late finds another generation and is ignored.
//! - Nobody waits for a slow peer: what a socket does not take at once is kept, and counted by the
//!   core, until the socket has room.
//! - Nobody waits for all that others have sent or are sent: what arrived is handled for so long (`pace.rs`), then what
//!   is to be sent is sent for so long, and the rest comes in the next turn, in the order in which it arrived.
//! - A handshake costs as much as a thousand messages, so one step of one is made a turn: a flood of
//!   them delays each other and not the Clients that are connected.
//! - What is held of peers that have not sent a CONNECT is bounded, each and all together
//!   (`unconnected.rs`).
//!
//! Between a socket and the core only plain bytes pass. A connection of a listener that wraps them (PROXY,
//! TLS, WebSocket) has a transport, which `wrapped.rs` puts between the two; one without has nothing.
//!
//! Read next: `data_path.rs`, then `uring.rs`; `transport/mod.rs` for what wraps.

mod backlog;
mod buffer_pool;
mod buffer_ring;
mod connection;
mod core;
mod data_path;
mod defer_accept;
mod listener;
mod pace;
mod patience;
mod peers;
mod straight;
#[cfg(all(test, not(loom)))]
mod tests;
pub mod tls;
pub mod transport;
mod unconnected;
mod unread;
mod uring;
mod waker;
mod wrapped;

pub use self::core::Core;
pub use connection::Adopted;
pub use data_path::DataPath;
pub use listener::{
    HANDSHAKE_TIMEOUT, IpFamily, ListenError, ListenerAddress, ListenerChange, ListenerOptions,
    Listening, PENDING_MAX, ShardListener, by_shard, check, listen, open,
};
pub use patience::{Patience, when_memory_can_be_locked};
pub use peers::{Peer, Peers};
pub use unconnected::Room;
pub use uring::{RingHandle, probe};
pub use waker::Waker;
