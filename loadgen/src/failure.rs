//! Why a run could not be made or finished. Broken promises are not failures: they are in the report.

use std::io;
use std::net::SocketAddr;

use crate::wire::WireError;

#[derive(Debug, thiserror::Error)]
pub enum Failure {
    #[error(
        "no rate passes: {tried:.1}/s already breaks the bound of {bound_us} us, or loses messages"
    )]
    NoRatePasses { tried: f64, bound_us: f64 },
    #[error("no address for {host}:{port}: {source}")]
    Address {
        host: String,
        port: u16,
        source: io::Error,
    },
    #[error("connection refused by {0}: is the broker running and is this its port?")]
    Refused(SocketAddr),
    #[error("connecting to {address} failed: {source}")]
    Connect {
        address: SocketAddr,
        source: io::Error,
    },
    #[error(
        "{needed} connections need {needed_files} open files and the hard limit is {limit}: \
         raise it (ulimit -Hn) or ask for fewer"
    )]
    TooFewFiles {
        needed: u64,
        needed_files: u64,
        limit: u64,
    },
    #[error("the broker refused CONNECT of {client} with code {code:#04x}")]
    ConnectRefused { client: String, code: u8 },
    #[error("the broker refused SUBSCRIBE of {client} with code {code:#04x}")]
    SubscribeRefused { client: String, code: u8 },
    #[error("the broker granted {client} QoS {granted} where QoS {asked} was asked for")]
    QosGranted {
        client: String,
        granted: u8,
        asked: u8,
    },
    #[error("the broker refused a message with code {code:#04x}")]
    PublishRefused { code: u8 },
    #[error("the broker supports QoS {supported} at most")]
    QosTooHigh { supported: u8 },
    #[error("the broker sent DISCONNECT with code {code:#04x} to {client}")]
    Disconnected { client: String, code: u8 },
    #[error("the broker closed the connection of {client} {when}")]
    Closed { client: String, when: &'static str },
    #[error("interrupted: the figures are those until then")]
    Interrupted,
    #[error("the broker died: process {0} is gone")]
    BrokerDied(u32),
    #[error("the broker sent packet type {0:#04x}, which nobody asked for")]
    Unexpected(u8),
    #[error("{done} of {wanted} {what} within {seconds:.0} s: giving up")]
    Deadline {
        what: &'static str,
        done: u64,
        wanted: u64,
        seconds: f64,
    },
    #[error("the Session of {client} is gone: the broker started a new one")]
    SessionLost { client: String },
    #[error("{path}: {reason}")]
    File { path: String, reason: String },
    #[error("TLS: {0}")]
    Tls(String),
    #[error("WebSocket: {0}")]
    WebSocket(String),
    #[error("{0}")]
    Options(String),
    #[error(transparent)]
    Preflight(#[from] fastmq::runtime::PreflightError),
    #[error(transparent)]
    Start(#[from] fastmq::runtime::StartError),
    #[error("cannot read what the broker, process {process_id}, has used: {source}")]
    Process { process_id: u32, source: io::Error },
    #[error(transparent)]
    Wire(#[from] WireError),
    #[error(transparent)]
    Io(#[from] io::Error),
}
