//! Directives that Mosquitto does not have.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::Config;
use crate::config::directive::{Directive, Scope};
use crate::config::problem::Problem;
use crate::config::value::{Arguments, Value, integer};
use crate::limits::{RING_SLOTS, SHARDS_MAX};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

/// Largest size or count of the bounds here, so that sums of them cannot overflow.
const MANY: i64 = 1 << 48;

fn size(number: i64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn seconds(number: i64) -> Duration {
    Duration::from_secs(u64::try_from(number).unwrap_or(0))
}

pub(super) const SECTION: Section = Section {
    title: "Only in fastmq",
    introduction: "Mosquitto does not know these, and does not start with them.",
    directives: &[
        Directive::new(
            "fastmq_cores",
            "COUNT",
            Scope::Global(integer(1, SHARDS_MAX as i64, |config, count| {
                config.cores = usize::try_from(count).ok();
            })),
        )
        .default("one for each CPU")
        .at_restart()
        .text(
            "Number of shards, each on a core of its own. The option --cores of the command line wins.",
        ),
        Directive::new(
            "fastmq_admin_listener",
            "PORT [ADDRESS]",
            Scope::Global(Value::Words(read_admin_listener)),
        )
        .at_restart()
        .text(
            "Serves metrics for Prometheus (/metrics), health (/healthz, /readyz) and a dashboard (/) over \
             HTTP. ADDRESS is 127.0.0.1 unless given; for one that is not of the loopback interface, \
             fastmq_admin_token_file is needed.",
        ),
        Directive::new(
            "fastmq_admin_token_file",
            "FILE",
            Scope::Global(Value::File(|config| &mut config.admin.token_file)),
        )
        .text(
            "The first line of FILE, of 16 characters or more, has to be shown by whoever reads numbers from \
             the admin port, as Authorization: Bearer TOKEN; the dashboard asks for it.",
        ),
        Directive::new(
            "fastmq_connect_timeout",
            "SECONDS",
            Scope::Global(integer(1, 3600, |config, number| {
                config.policy.limits.connect_timeout = seconds(number);
            })),
        )
        .default("30")
        .text("Time that a client has from the beginning of its connection to the end of its CONNECT."),
        Directive::new(
            "fastmq_handshake_timeout",
            "SECONDS",
            Scope::Listener(integer(1, 3600, |listener, number| {
                listener.handshake_timeout = seconds(number);
            })),
        )
        .default("10")
        .at_restart()
        .text("Time that a client has for the TLS and WebSocket handshakes and the PROXY header."),
        Directive::new(
            "fastmq_max_pending_connections",
            "COUNT",
            Scope::Listener(integer(1, 1 << 20, |listener, count| {
                listener.max_pending_connections = size(count);
            })),
        )
        .default("4096")
        .at_restart()
        .text(
            "Connections to the listener, for each core, that are still in a handshake. Beyond it the one \
             that has been at it the longest is closed for the next, so that a flood of them takes no more \
             memory and keeps nobody out for long.",
        ),
        Directive::new(
            "fastmq_max_subscriptions",
            "COUNT",
            Scope::Global(integer(1, MANY, |config, count| {
                config.policy.limits.max_subscriptions = size(count);
            })),
        )
        .default("100000")
        .text("Subscriptions of one session. Beyond it, SUBSCRIBE is refused with 0x97."),
        Directive::new(
            "fastmq_max_filter_bytes",
            "BYTES",
            Scope::Global(integer(0, MANY, |config, bytes| {
                config.policy.limits.max_filter_bytes = size(bytes);
            })),
        )
        .default("2147483648")
        .text(
            "Bytes that each core takes for the topic filters of all clients. Beyond it, filters to which nobody \
             has subscribed yet are refused with 0x97.",
        ),
        Directive::new(
            "fastmq_max_retained_messages",
            "COUNT",
            Scope::Global(integer(0, MANY, |config, count| {
                config.policy.limits.max_retained_messages = size(count);
            })),
        )
        .default("10000000")
        .text("Retained messages of the broker. Beyond it, new topics are refused with 0x97."),
        Directive::new(
            "fastmq_max_retained_bytes",
            "BYTES",
            Scope::Global(integer(0, MANY, |config, bytes| {
                config.policy.limits.max_retained_bytes = size(bytes);
            })),
        )
        .default("2147483648")
        .text(
            "Bytes of the retained messages of the broker, and of the index beyond eight levels of a topic. Beyond \
             it, new ones are refused with 0x97.",
        ),
        Directive::new(
            "fastmq_max_outbox_bytes",
            "BYTES",
            Scope::Global(integer(65_536, 1 << 30, |config, bytes| {
                config.policy.limits.outbox_bytes_max = size(bytes);
            })),
        )
        .default("1048576")
        .text(
            "Bytes that wait for one client to read them. Beyond it, messages of QoS 1 and 2 wait in its queue, and \
             it is not read itself. Those of QoS 0 are dropped if they are also more than max_queued_messages or \
             max_queued_bytes.",
        ),
        Directive::new(
            "fastmq_max_peer_backlog",
            "COUNT",
            Scope::Global(integer(RING_SLOTS as i64, 1 << 24, |config, count| {
                config.policy.limits.peer_backlog_max = size(count);
            })),
        )
        .default("4096")
        .text(
            "What waits for room in the ring from one core to another, each a message or a batch of up to 32 small ones. \
             Beyond it, QoS 0 messages to that core are dropped and publishers of others are not read until there is room.",
        ),
    ],
};

fn read_admin_listener(config: &mut Config, arguments: &mut Arguments<'_>) -> Result<(), Problem> {
    let port = arguments.integer()?;
    let Ok(port) = u16::try_from(port) else {
        return Err(arguments.invalid(port, "the port must be from 0 to 65535"));
    };
    let address = match arguments.next_word() {
        None => IpAddr::V4(Ipv4Addr::LOCALHOST),
        Some(word) => word
            .parse()
            .map_err(|_| arguments.invalid(word, "the address must be an IP address"))?,
    };
    config.admin.listener = Some(SocketAddr::new(address, port));
    Ok(())
}
