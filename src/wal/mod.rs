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
//! # As safe as was promised
//!
//! | `fastmq_durability` | waited for | a power failure leaves |
//! | --- | --- | --- |
//! | `always` | the sync of the frame, on every shard that has to remember | everything that was acknowledged |
//! | `interval` | that the system has the frame; its sync begins an interval after the first one that is not synced | of each log a beginning, with all that was acknowledged before the last interval and that a disk took meanwhile |
//! | `os` | that the system has the frame; a segment is synced when it is full | of each log a beginning, with all segments but the last |
//!
//! The end of the process alone takes nothing that was acknowledged. In no case does a start need help after either.
//!
//! Logs are synced one by one, so of something that two of them say a power failure may leave half, if it came in the last
//! interval: a QoS 2 message counts as taken, and a subscriber on another shard has not got it; or it has, its
//! publisher's shard does not know, and a repetition comes again. What is older has its sync on all of them. So what ends
//! something old in one log has to wait for the sync of what comes of it in another (`shard/store.rs`, `Keeping`): what was
//! handed on, Wills, and what a snapshot is to replace.
//!
//! Not covered, because nothing on the disk tells of it: a QoS 2 message whose first PUBLISH came right before another end
//! of the process, under a Packet Identifier whose last end a power failure took, is taken for a repetition of the one
//! before; and where a power failure takes all that a session was given since a start, the next start gives it the same
//! Packet Identifiers again, and a subscriber that still holds one may take the message for a repetition. What it holds of
//! those that a power failure took it holds for good, so it may take one for a repetition when they have come round, some
//! 49,000 messages later, or at once if it had been given more than 16,384 that no disk had.
//!
//! # Which sync stands before what
//!
//! | before | is on stable storage |
//! | --- | --- |
//! | a segment has its name | its header |
//! | the inventory names it | the name |
//! | it gets frames | the inventory, and but for `always` all frames of the segment before it |
//! | the part of a segment that failed has a new one | all frames of that part, in the new one |
//! | the inventory forgets old segments | the snapshot that replaces them, and what other shards had under way |
//! | old segments are removed, in any order | the inventory |
//! | `STORE` names another generation | all frames and names of that one, and `STORE.new` |
//! | the generation before is removed | `STORE` |
//! | a broker that starts promises anything | all it has found, written again where nobody says that it was synced; the inventories |
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
pub use install::{InstallError, install, install_into};
pub use inventory::Extent;
pub use log::Log;
pub use options::{SEGMENT_SIZE, StoreOptions};
pub use recover::{Common, OpenError, Report, ShardStore, Store, open};
pub use segment::{
    Damage, FORMAT_VERSION, HeaderError, SEGMENT_HEADER_SIZE, Scanned, SegmentHeader, scan,
};
pub use storage::{Move, Source, Storage, StoredFile};
pub use writer::Writer;
