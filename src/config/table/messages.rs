//! Messages, sessions and their bounds.

#![forbid(unsafe_code)]

use super::Section;
use crate::config::directive::{Directive, Scope};
use crate::config::value::{Value, at_least, integer};
use crate::limits::PACKET_SIZE_MAX;

/// Counts and sizes that fill a C `int`, in which Mosquitto keeps them.
const INT_MAX: i64 = i32::MAX as i64;
/// Sizes that fill memory.
const SIZE_MAX: i64 = i64::MAX;

/// A bound for which zero means that there is none.
fn or_unbounded(number: i64) -> usize {
    match usize::try_from(number) {
        Ok(0) | Err(_) => usize::MAX,
        Ok(number) => number,
    }
}

/// A bound of clients or connections: a number that is not above zero means that there is none.
pub(super) fn above_zero(number: i64) -> Option<usize> {
    usize::try_from(number).ok().filter(|&number| number > 0)
}

pub(super) const SECTION: Section = Section {
    title: "Messages, sessions and bounds",
    introduction: "Reaching a bound is counted, and never silent.",
    directives: &[
        Directive::new(
            "max_inflight_messages",
            "COUNT",
            Scope::Global(at_least(0, 65_535, |config, count| {
                // 65,535 is what MQTT can express, and so is no bound.
                config.policy.limits.max_inflight_messages = match u16::try_from(count) {
                    Ok(0) | Err(_) => u16::MAX,
                    Ok(count) => count,
                };
            })),
        )
        .default("20")
        .text(
            "QoS 1 and 2 messages that a client may have unacknowledged at once, each way. The next ones \
             wait in the queue. With 1, no message can overtake another even when it is sent again. 0 is \
             no bound.",
        ),
        Directive::new(
            "max_inflight_bytes",
            "BYTES",
            Scope::Global(at_least(0, INT_MAX, |config, bytes| {
                config.policy.max_inflight_bytes = or_unbounded(bytes);
            })),
        )
        .default("0")
        .text(
            "Bytes of the QoS 1 and 2 messages to one client that may be unacknowledged at once, of topic, \
             properties and payload; Mosquitto counts the payload alone. A larger message travels alone. 0 is no \
             bound.",
        ),
        Directive::new(
            "max_queued_messages",
            "COUNT",
            Scope::Global(at_least(0, INT_MAX, |config, count| {
                config.policy.limits.max_queued_messages = or_unbounded(count);
            })),
        )
        .default("1000")
        .text(
            "QoS 1 and 2 messages that wait for one client behind those in flight. Beyond it new ones are \
             dropped and counted, and those of QoS 0 (see fastmq_max_outbox_bytes). 0 is no bound but \
             memory_limit.",
        ),
        Directive::new(
            "max_queued_bytes",
            "BYTES",
            Scope::Global(at_least(0, INT_MAX, |config, bytes| {
                config.policy.limits.max_queued_bytes = or_unbounded(bytes);
            })),
        )
        .default("67108864")
        .text(
            "Bytes of the messages that wait for one client, of topic, properties and payload; Mosquitto counts \
             the payload alone. Beyond it new ones are dropped and counted. \
             0 is no bound but memory_limit. Mosquitto's default is 0.",
        ),
        Directive::new(
            "queue_qos0_messages",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| {
                config.policy.queue_qos0_messages = yes;
            })),
        )
        .default("false")
        .text("Whether QoS 0 messages wait for a persistent client that is not connected."),
        Directive::new(
            "upgrade_outgoing_qos",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| {
                config.policy.upgrade_outgoing_qos = yes;
            })),
        )
        .default("false")
        .text(
            "Whether a message is delivered with the QoS of the subscription even if it was published \
             with a lower one, which MQTT does not provide for.",
        ),
        Directive::new(
            "max_packet_size",
            "BYTES",
            Scope::Global(integer(20, PACKET_SIZE_MAX as i64, |config, bytes| {
                config.policy.limits.max_packet_size =
                    u32::try_from(bytes).unwrap_or(PACKET_SIZE_MAX);
            })),
        )
        .default("2000000")
        .text(
            "Largest packet that is accepted, a CONNECT with its will among them. MQTT 5 clients are told; whoever \
             sends a larger one is disconnected. A CONNECT never has more than 131072 bytes.",
        ),
        Directive::new(
            "message_size_limit",
            "BYTES",
            Scope::Global(integer(0, 268_435_455, |config, bytes| {
                config.policy.message_size_limit = or_unbounded(bytes);
            })),
        )
        .default("0")
        .text(
            "Largest payload that is accepted. A larger one is acknowledged, to MQTT 5 clients with an \
             error, and goes nowhere. 0 is no bound but max_packet_size, which is the better one since \
             clients learn of it.",
        ),
        Directive::new(
            "memory_limit",
            "BYTES",
            Scope::Global(integer(0, SIZE_MAX, |config, bytes| {
                config.memory_limit = or_unbounded(bytes);
            })),
        )
        .default("0")
        .text(
            "Bytes of messages in the whole broker: half of it for those that wait for clients, which the \
             cores share equally, and half for retained ones. Wills wait as well. Beyond it new messages, \
             and connections with a will, are dropped or refused, and counted. 0 is 2 GiB for each core, and fastmq_max_retained_bytes. Mosquitto \
             counts all memory that it allocates.",
        ),
        Directive::new(
            "max_keepalive",
            "SECONDS",
            Scope::Global(integer(0, 65_535, |config, seconds| {
                config.policy.limits.max_keepalive_s = u16::try_from(seconds).unwrap_or(u16::MAX);
            })),
        )
        .default("0")
        .text(
            "Longest keep alive. An MQTT 5 client that asks for more, or for none, is told this one; an \
             older client is refused. 0 is no bound.",
        ),
        Directive::new(
            "global_max_clients",
            "COUNT",
            Scope::Global(at_least(-1, INT_MAX, |config, count| {
                config.policy.global_max_clients = above_zero(count);
            })),
        )
        .default("-1")
        .text("Sessions of the whole broker, connected or not. -1 and 0 are no bound."),
        Directive::new(
            "global_max_connections",
            "COUNT",
            Scope::Global(at_least(-1, INT_MAX, |config, count| {
                config.policy.global_max_connections = above_zero(count);
            })),
        )
        .default("-1")
        .text("Connections to the whole broker at one time. -1 and 0 are no bound."),
        Directive::new(
            "persistent_client_expiration",
            "NUMBER(s|h|d|w|m|y)",
            Scope::Global(Value::Duration(|config, duration| {
                config.policy.limits.persistent_client_expiration = Some(duration);
            })),
        )
        .text(
            "A session that nobody came back to for so long ends, whatever its client asked for. A month \
             (m) has 30 days and a year (y) 365. A reload that changes it holds for connections that end later; at a \
             start it holds for all sessions, of which those that nobody has come back to yet count from then on.",
        ),
        Directive::new(
            "retain_available",
            "true|false",
            Scope::Global(Value::Boolean(|config, yes| {
                config.policy.retain_available = yes;
            })),
        )
        .default("true")
        .text("With false, a client that publishes a retained message is disconnected."),
        Directive::no_effect(
            "retain_expiry_interval",
            "MINUTES",
            "expired retained messages are removed when their time is over, without a search for them.",
        )
        .text("Mosquitto looks for expired retained messages in this interval."),
        Directive::no_effect(
            "allow_duplicate_messages",
            "true|false",
            "a client with overlapping subscriptions gets one copy of a message, with the highest QoS.",
        )
        .default("true")
        .text("Deprecated in Mosquitto: whether overlapping subscriptions each get a copy."),
    ],
};
