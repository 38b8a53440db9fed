//! The command line.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::wire::Version;

/// An MQTT load generator that states only delivered, verified figures.
///
/// Every message carries its publisher, its sequence and when it was sent; what was lost,
/// duplicated or reordered is counted for every pair of publisher and subscriber. Exit status: 0 when
/// the broker kept its promises, 1 when it broke one, 2 when the run could not be made.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true)]
pub struct Options {
    #[command(subcommand)]
    pub workload: Workload,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Debug, Args)]
pub struct Common {
    /// Host name or address of the broker.
    #[arg(long, global = true, default_value = "127.0.0.1")]
    pub host: String,
    /// TCP port of the broker.
    #[arg(long, global = true, default_value_t = 1883)]
    pub port: u16,
    /// Seconds measured.
    #[arg(long, global = true, default_value_t = 10.0, value_parser = seconds)]
    pub duration: f64,
    /// Seconds of the same load before that.
    #[arg(long, global = true, default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// Bytes of payload, at least 20: publisher, sequence and send time are in it.
    #[arg(long, global = true, default_value_t = 64, value_parser = payload_size)]
    pub payload: usize,
    /// Quality of Service of publishers and subscribers.
    #[arg(long, global = true, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// 4 for MQTT 3.1.1, 5 for MQTT 5.0.
    #[arg(long = "version", id = "protocol", global = true, default_value = "4", value_parser = version)]
    pub protocol: Version,
    /// Messages one publisher may have under way: published and not yet with every subscriber, nor
    /// (QoS 1 and 2) acknowledged. Default: 1000 at QoS 0 (fan-out: 100), 16 otherwise; fan-in: 1000
    /// shared by all publishers at most.
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..=crate::accounting::WINDOW_MAX))]
    pub window: Option<u64>,
    /// Pin the generator to this CPU.
    #[arg(long, global = true)]
    pub cpu: Option<usize>,
    /// Process id of the broker, on this machine: CPU time per message and memory are reported.
    #[arg(long, global = true)]
    pub broker_pid: Option<u32>,
    /// Seconds without any delivery after which the rest counts as lost.
    #[arg(long, global = true, default_value_t = 5.0, value_parser = seconds)]
    pub drain: f64,
    /// Print the report as JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    /// Write the report as JSON to this file as well.
    #[arg(long, global = true)]
    pub json_file: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
pub enum Workload {
    /// Pairs of one publisher and one subscriber, each with a topic of its own; saturating.
    Pairs {
        #[arg(long, default_value_t = 1, value_parser = count)]
        pairs: u32,
    },
    /// One publisher, many subscribers; saturating.
    FanOut {
        #[arg(long, default_value_t = 100, value_parser = count)]
        subscribers: u32,
    },
    /// Many publishers, one subscriber; saturating.
    FanIn {
        #[arg(long, default_value_t = 100, value_parser = count)]
        publishers: u32,
    },
    /// Many Clients in a circle, each publishing to the next, at a fixed total rate on an absolute
    /// schedule; latency counts from the time a message was due.
    Trickle {
        #[arg(long, default_value_t = 1000, value_parser = count)]
        connections: u32,
        /// Messages a second, all Clients together.
        #[arg(long, default_value_t = 1000.0, value_parser = rate)]
        rate: f64,
    },
    /// Connect, hold, then ask every connection for a PINGRESP; reports memory per connection.
    Idle {
        #[arg(long, default_value_t = 1000, value_parser = count)]
        connections: u32,
        /// Each Client subscribes to a topic of its own as well.
        #[arg(long)]
        subscribe: bool,
    },
    /// Connect, CONNACK, DISCONNECT, again and again.
    Connect {
        #[arg(long, default_value_t = 10_000, value_parser = count)]
        count: u32,
        /// Connections under way at once.
        #[arg(long, default_value_t = 16, value_parser = count)]
        concurrency: u32,
    },
}

fn seconds(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let allowed = (0.0..=86_400.0).contains(&value);
    allowed
        .then_some(value)
        .ok_or("from 0 to 86400 seconds".to_owned())
}

fn rate(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let allowed = (0.001..=1e8).contains(&value);
    allowed
        .then_some(value)
        .ok_or("from 0.001 to 100000000 messages a second".to_owned())
}

fn payload_size(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    let allowed = (crate::wire::STAMP_SIZE..=100_000_000).contains(&value);
    allowed
        .then_some(value)
        .ok_or("from 20 to 100000000 bytes".to_owned())
}

fn count(text: &str) -> Result<u32, String> {
    let value: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (1..=1_000_000)
        .contains(&value)
        .then_some(value)
        .ok_or("from 1 to 1000000".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "4" => Ok(Version::V311),
        "5" => Ok(Version::V5),
        _ => Err("4 (MQTT 3.1.1) or 5 (MQTT 5.0)".to_owned()),
    }
}
