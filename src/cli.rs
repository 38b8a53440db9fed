//! The command line: the broker's options, and the commands beside it.

#![forbid(unsafe_code)]

use crate::config::Durability;
use clap::error::ErrorKind;
use clap::{CommandFactory, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::clients::{self, PubArguments, SubArguments};
use crate::import::{self, ImportArguments};
use crate::manual;
use crate::passwd::{self, PasswdArguments};

/// Exit status for arguments that make no sense, as Mosquitto's.
pub const EXIT_BAD_ARGUMENTS: u8 = 3;

/// An MQTT 3.1, 3.1.1 and 5.0 broker: one shard per core, io_uring, nothing shared on the way.
#[derive(Clone, Debug, Parser)]
#[command(name = "fastmq", version, args_conflicts_with_subcommands = true)]
pub struct Arguments {
    /// What to do instead of being a broker
    #[command(subcommand)]
    pub command: Option<Command>,

    /// Read the configuration from FILE, which is written as Mosquitto's
    #[arg(short, long, value_name = "FILE")]
    pub config_file: Option<PathBuf>,

    /// Number of shards, each on a core of its own [default: one for each CPU the process may use]
    #[arg(long, value_name = "N")]
    pub cores: Option<usize>,

    /// Port to listen on, of this machine only, if the configuration has no listener; may be given more
    /// than once; 0 lets the system choose [default: 1883]
    #[arg(short, long = "port", value_name = "PORT")]
    pub ports: Vec<u16>,

    /// Address to listen on instead, if the configuration has no listener, for anonymous clients as well unless it
    /// says otherwise; may be given more than once [default: 127.0.0.1 and ::1]
    #[arg(long, value_name = "ADDR")]
    pub bind: Vec<IpAddr>,

    /// Allow more shards than CPUs, which are then not pinned
    #[arg(long)]
    pub oversubscribe: bool,

    /// Whether shards leave their CPUs where that is better for all of them
    #[arg(long, value_name = "HOW", value_enum, default_value_t = CpuAffinity::Auto)]
    pub affinity: CpuAffinity,

    /// Directory in which sessions and retained messages are stored, as with `persistence true` [default:
    /// nothing is stored]
    #[arg(long, value_name = "DIR")]
    pub persistence_location: Option<PathBuf>,

    /// When a message counts as stored: always (on the disk), `interval <ms>` (of 1 to 60000), os [default: always]
    #[arg(long, value_name = "WHEN")]
    pub durability: Option<Durability>,

    /// Take what can be read of a damaged store, and report what was lost
    #[arg(long)]
    pub recover: bool,

    /// Log everything, whatever log_type says
    #[arg(short, long)]
    pub verbose: bool,

    /// Log nothing, whatever log_dest says
    #[arg(short, long, conflicts_with = "verbose")]
    pub quiet: bool,

    /// Go on in the background; the log goes to syslog, unless log_dest says otherwise
    #[arg(short, long)]
    pub daemon: bool,

    /// Check the configuration, the files it names and whether a start could use what else it names, and end
    #[arg(long)]
    pub test_config: bool,

    /// Append the secrets of TLS connections to FILE, for Wireshark
    #[arg(long, value_name = "FILE")]
    pub tls_keylog: Option<PathBuf>,

    /// This is the process in the background
    #[arg(long, hide = true)]
    pub in_background: bool,
}

/// Where shards run.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub enum CpuAffinity {
    /// All on one CPU while together they need little of it: no other one has to be woken for a message that crosses
    /// shards. Wherever the system finds room while something else keeps busy the CPU of one. Otherwise each on its own
    Auto,
    /// Each on its own CPU, whatever happens
    Fixed,
}

/// What the program does beside being a broker.
#[derive(Clone, Debug, Subcommand)]
pub enum Command {
    /// Subscribe to topics and print the messages that arrive
    ///
    /// Options, output and exit statuses are those of mosquitto_sub, but for what the end of this says.
    /// With a connection that is lost it connects again, at growing intervals.
    Sub(Box<SubArguments>),
    /// Publish messages to a topic
    ///
    /// Options, output and exit statuses are those of mosquitto_pub, but for what the end of this says.
    /// Exactly one of -f, -l, -m, -n and -s says what to publish.
    Pub(Box<PubArguments>),
    /// Create and change password files
    ///
    /// Options, messages and exit statuses are those of mosquitto_passwd, which reads the same files.
    /// Without -b the password is asked for, or read twice from standard input. The running broker reads
    /// a changed file when it gets SIGHUP.
    Passwd(PasswdArguments),
    /// Take over the sessions and retained messages of a Mosquitto
    ///
    /// FILE is Mosquitto's persistence file, of Mosquitto 1.6 to 2.1, which is left as it is. Sessions,
    /// subscriptions, queued messages, messages in flight in both directions and retained messages become
    /// a store of fastmq. A store that holds something already is refused, and so is one that a broker
    /// uses. Wills and shared subscriptions are not in the file; clients bring them again. Stop Mosquitto
    /// before: what comes after it wrote the file is lost. Run by root, the store belongs to the user that
    /// the broker becomes.
    ///
    /// The exit status is 0 if everything was taken; 1 if something could not be, which is named, or if
    /// nothing was.
    Import(ImportArguments),
    /// Print the completions of a shell, to be read by it when it starts
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Write manual pages, completions and an example configuration to a folder, for packages
    #[command(hide = true)]
    Manual {
        /// The folder, which is made if it is not there
        folder: PathBuf,
    },
}

impl Command {
    /// Does it, and returns the exit status.
    #[must_use]
    pub fn run(&self) -> u8 {
        match self {
            Self::Sub(arguments) => clients::run_sub(arguments),
            Self::Pub(arguments) => clients::run_pub(arguments),
            Self::Passwd(arguments) => passwd::run(arguments),
            Self::Import(arguments) => import::run(arguments),
            Self::Completions { shell } => {
                status(manual::print_completions(&Arguments::command(), *shell))
            }
            Self::Manual { folder } => status(
                manual::write(&Arguments::command(), folder)
                    .and_then(|()| manual::write_configuration(folder)),
            ),
        }
    }
}

/// The exit status of a command that writes something, of which a mistake is said here.
fn status(written: io::Result<()>) -> u8 {
    match written {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("fastmq: {error}");
            1
        }
    }
}

impl Arguments {
    /// Parses the process's arguments. On bad ones, and for help and version, says what is to be
    /// said and gives the exit status.
    ///
    /// # Errors
    /// The exit status.
    pub fn parse_process() -> Result<Self, u8> {
        let arguments: Vec<OsString> = std::env::args_os().collect();
        let status_of_mistakes = match arguments.get(1).and_then(|argument| argument.to_str()) {
            Some("sub" | "pub") => clients::EXIT_USAGE,
            Some("passwd") => passwd::EXIT_FAILURE,
            Some("import") => import::EXIT_FAILURE,
            _ => EXIT_BAD_ARGUMENTS,
        };
        let arguments = clients::with_defaults(arguments).map_err(|error| {
            eprintln!("Error: {error}");
            status_of_mistakes
        })?;
        Self::try_parse_from(arguments).map_err(|error| {
            // Nothing can be done about a closed terminal.
            let _ = error.print();
            match error.kind() {
                ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => 0,
                _ => status_of_mistakes,
            }
        })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn nothing_has_to_be_said() {
        let arguments = Arguments::try_parse_from(["fastmq"]).unwrap();
        assert!(arguments.ports.is_empty());
        assert!(arguments.bind.is_empty());
        assert_eq!(arguments.cores, None);
    }

    #[test]
    fn an_unknown_option_is_refused() {
        assert!(Arguments::try_parse_from(["fastmq", "--frobnicate"]).is_err());
    }
}
