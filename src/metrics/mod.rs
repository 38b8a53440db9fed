//! Counters of one shard: plain integers that only its own core touches.

#![forbid(unsafe_code)]

/// What a shard has done and refused since it started. Every bound of [`crate::limits`] has its row.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Counters {
    /// Connections accepted here.
    pub connections_accepted: u64,
    /// Connections refused because `max_connections` was reached.
    pub connections_refused: u64,
    /// Connections handed to the shard that owns their Client Identifier.
    pub connections_handed_over: u64,
    /// CONNECT packets answered with success.
    pub connects: u64,
    /// Connections ended because the Client broke the protocol.
    pub protocol_errors: u64,
    /// PUBLISH packets received.
    pub publish_received: u64,
    /// PUBLISH packets sent, repetitions included.
    pub publish_sent: u64,
    /// QoS 0 deliveries dropped: the subscriber's outbox was full.
    pub dropped_outbox_full: u64,
    /// QoS 1 and 2 deliveries dropped: the Session's queue was full.
    pub dropped_queue_full: u64,
    /// QoS 1 and 2 deliveries dropped: the queues of the shard's Sessions hold `memory_bytes_max`.
    pub dropped_memory_full: u64,
    /// QoS 0 messages dropped: the ring to another shard was full.
    pub dropped_ring_full: u64,
    /// Messages whose Message Expiry Interval passed before they were sent.
    pub dropped_expired: u64,
    /// Messages dropped because an access rule or a mount point denies them: published, or waiting when
    /// the rules changed, or of a Shared Subscription none of whose members may read them.
    pub dropped_denied: u64,
    /// PUBLISH packets not taken because their payload exceeds `message_size_limit`.
    pub dropped_payload_too_large: u64,
    /// CONNECT packets refused.
    pub connects_refused: u64,
    /// Deliveries larger than the Client's Maximum Packet Size [MQTT-3.1.2-25].
    pub dropped_packet_too_large: u64,
    /// Retained messages refused: the store was full.
    pub retained_refused: u64,
    /// Retained messages removed because their lifetime was over.
    pub retained_expired: u64,
    /// Subscriptions refused: the Session had `max_subscriptions`.
    pub subscriptions_refused: u64,
    /// Times a publisher was not read because a ring was full.
    pub paused_ring_full: u64,
    /// Times a Client was not read because it did not read what we sent.
    pub paused_outbox_full: u64,
    /// Messages handed on from a leaving member of a shared subscription.
    pub shared_handed_on: u64,
}
