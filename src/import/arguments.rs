//! The options of `fastmq import`.

#![forbid(unsafe_code)]

use std::path::PathBuf;

use clap::Args;

/// Options of `fastmq import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArguments {
    /// Import into the store of this configuration: its `persistence_location`, as its `user`
    #[arg(
        short,
        long,
        value_name = "CONFIG",
        required_unless_present = "directory",
        conflicts_with = "directory"
    )]
    pub(super) config_file: Option<PathBuf>,

    /// Import into the store in DIR, which is made if it is not there
    #[arg(long, value_name = "DIR")]
    pub(super) directory: Option<PathBuf>,

    /// Mosquitto's persistence file, such as /var/lib/mosquitto/mosquitto.db
    #[arg(value_name = "FILE")]
    pub(super) file: PathBuf,
}
