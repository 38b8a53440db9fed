//! The port for people and machines that watch the broker.

#![forbid(unsafe_code)]

use super::value::FileReference;
use std::net::SocketAddr;

/// The configuration of the admin port: metrics, health and dashboard.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct AdminOptions {
    /// Where it listens; `None` if there is none (`fastmq_admin_listener`).
    pub listener: Option<SocketAddr>,
    /// A file whose first line every request has to show as a bearer token; `None` is only
    /// accepted on a loopback address (`fastmq_admin_token_file`).
    pub token_file: Option<FileReference>,
}
