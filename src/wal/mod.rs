//! The disk side of what a shard remembers: one log a shard, in segments.
//!
//! `journal` says what is written, `shard` when; this room brings it to a disk and back.
//!
//! # What is written before what is sent
//!
//! | what leaves | what is as safe as was promised by then |
//! | --- | --- |
//! | PUBACK to a publisher | the message for every stored Session that it matched, on every shard; its retained form |
//! | PUBREC to a publisher | the same, and that the Packet Identifier was taken, if its Session is stored |
//! | PUBCOMP to a publisher | that the identifier is free, if its Session is stored |
//! | SUBACK, UNSUBACK | the Subscriptions of a stored Session, and that retained messages are on their way, or their removal |
//! | CONNACK | that the Session exists, with its Will, or that those before it have ended |
//! | QoS 1 PUBLISH to a subscriber | nothing: it may come again after a crash, with its identifier and maybe without DUP |
//! | QoS 2 PUBLISH to a subscriber | the delivery, whose Packet Identifier follows from its place |
//! | PUBREL to a subscriber | that PUBREC has come |
//! | anything of QoS 0, or of a Session that ends with its connection | nothing, and it never waits |
//!
//! The Will of a stored Session, unless it is of QoS 0, is the log's until every shard has stored what that has to
//! have of it. A crash before that publishes it again: who had it already gets it twice.
//!
//! Retained messages that a Subscription has asked for are sent again from the first one if a crash comes before the log has
//! them all, when the Client comes back: which of them it had is not known.
//!
//! What a Session has handed on to a member of a shared subscription leaves its log once whoever has it instead
//! has it stored: in the same frame here, as soon as the other shard has said so elsewhere.
//!
//! `shard/held.rs` holds what waits; what waits behind it on the same connection keeps its order.
//!
//! # Always true
//! - One write and one `fdatasync` a shard are under way. What comes meanwhile shares the next one.
//! - A segment that failed is not written to again: see `writer.rs`.
//! - The log is shortened by snapshots that go on beside everything else: see `log.rs`.
//! - A start notices a file that is lost or emptied, whatever was under way when the one before ended: see
//!   `inventory.rs`.
//!
//! Read next: `writer.rs` (frames to disk), `recover.rs` (and back), `directory.rs` (what lies where),
//! `inventory.rs` (what must be there), `storage.rs` (what is asked of a disk), `install.rs` (a store that
//! begins with what another broker had).

#![forbid(unsafe_code)]

mod blocks;
mod directory;
mod install;
mod inventory;
mod log;
mod options;
mod recover;
mod rewrite;
mod segment;
mod storage;
#[cfg(all(test, not(loom)))]
mod tests;
mod writer;

pub use directory::{Directory, DirectoryError, Manifest, SegmentName};
pub use install::{InstallError, install};
pub use inventory::Extent;
pub use log::Log;
pub use options::{SEGMENT_SIZE, StoreOptions};
pub use recover::{Common, OpenError, Report, ShardStore, Store, open};
pub use segment::{
    Damage, FORMAT_VERSION, HeaderError, SEGMENT_HEADER_SIZE, Scanned, SegmentHeader, scan,
};
pub use storage::{Source, Storage, StoredFile};
pub use writer::Writer;
