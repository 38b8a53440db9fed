//! What survives a restart, and from when on.

#![forbid(unsafe_code)]

use std::path::PathBuf;
use std::time::Duration;

/// The configuration of the store.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PersistenceOptions {
    /// Whether anything is stored (`persistence`).
    pub enabled: bool,
    /// The directory of the store (`persistence_location`); `None` for the working directory.
    pub location: Option<PathBuf>,
    /// The name of Mosquitto's database in it, which is read when there is no store yet
    /// (`persistence_file`).
    pub file: String,
    /// What an acknowledgement promises (`fastmq_durability`).
    pub durability: Durability,
}

impl Default for PersistenceOptions {
    fn default() -> Self {
        Self {
            enabled: false,
            location: None,
            file: "mosquitto.db".to_owned(),
            durability: Durability::Always,
        }
    }
}

/// What an acknowledgement promises when persistence is on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Durability {
    /// What it acknowledges is on stable storage.
    #[default]
    Always,
    /// It will be on stable storage after this time.
    Interval(Duration),
    /// It was given to the operating system, which survives the end of the process but no power loss.
    Os,
}
