//! What an operator decides about the store.

#![forbid(unsafe_code)]

use crate::config::Durability;
use std::path::PathBuf;

/// Bytes of a segment, unless the disk has not that much room in one piece.
pub const SEGMENT_SIZE: u64 = 16 << 20;

/// Where and how Sessions and retained messages are stored.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// The directory. Made if it is not there.
    pub directory: PathBuf,
    /// When a message counts as stored.
    pub durability: Durability,
    /// Take what can be read of a damaged log, instead of refusing to start.
    pub recover: bool,
    /// Bytes of a segment.
    pub segment_size: u64,
}

impl StoreOptions {
    /// The defaults for a directory.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self {
            directory,
            durability: Durability::default(),
            recover: false,
            segment_size: SEGMENT_SIZE,
        }
    }
}
