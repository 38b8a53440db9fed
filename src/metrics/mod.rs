//! Numbers of one shard: plain integers that only its own core touches, and a slot in which it shows
//! them to others when it is asked.

#![forbid(unsafe_code)]

mod slot;
mod talkers;
mod turns;

pub use slot::{Slot, Snapshot};
pub use talkers::{Flow, TALKERS_MAX, Talker, Talkers};
pub use turns::{TURN_BUCKETS, Turns};

/// A struct of numbers that also knows their names, and what its documentation says of each.
macro_rules! numbers {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident {
            $($(#[doc = $doc:literal])+ pub $field:ident: u64,)+
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
        pub struct $Name {
            $($(#[doc = $doc])+ pub $field: u64,)+
        }

        impl $Name {
            /// Name and meaning of each, in the order of [`Self::values`].
            pub const FIELDS: &'static [(&'static str, &'static str)] =
                &[$((stringify!($field), concat!($($doc),+)),)+];

            /// All of them.
            #[must_use]
            pub fn values(&self) -> [u64; Self::FIELDS.len()] {
                [$(self.$field,)+]
            }

            /// From [`Self::values`].
            #[must_use]
            pub fn from_values(values: [u64; Self::FIELDS.len()]) -> Self {
                let [$($field,)+] = values;
                Self { $($field,)+ }
            }

            /// These and `others`, each added up.
            #[must_use]
            pub fn plus(&self, others: &Self) -> Self {
                Self { $($field: self.$field.saturating_add(others.$field),)+ }
            }
        }
    };
}

// Not indented, so that the lines of this list are easy to follow through its history.
numbers! {
/// What a shard has done and refused since it started. What is refused, dropped or made to wait at a bound of
/// [`crate::limits`] has its row; a Client that breaks one that it was told of counts as a protocol error.
pub struct Counters {
    /// Connections accepted here, and those that were refused there and then.
    pub connections_accepted: u64,
    /// Connections refused because their listener or the broker had as many as it may have.
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
    /// QoS 1 and 2 deliveries dropped: the queues of the shard's Sessions hold all that `memory_limit` leaves them.
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
    /// CONNECT packets refused, those that break the protocol included.
    pub connects_refused: u64,
    /// Deliveries larger than the Client's Maximum Packet Size [MQTT-3.1.2-25].
    pub dropped_packet_too_large: u64,
    /// Queued messages dropped with their Session, whose Client did not come back in time.
    pub dropped_session_expired: u64,
    /// Queued messages dropped with their Session, whose Client began a new one (Clean Start).
    pub dropped_clean_start: u64,
    /// Queued messages dropped with their Session, which ended with its connection.
    pub dropped_session_closed: u64,
    /// Queued messages of a Shared Subscription dropped because its last member unsubscribed.
    pub dropped_unsubscribed: u64,
    /// Messages that were sent, and not acknowledged when their Session ended: they may have come or not.
    pub ended_unacknowledged: u64,
    /// Retained messages refused: the store was full.
    pub retained_refused: u64,
    /// Retained messages removed because their lifetime was over.
    pub retained_expired: u64,
    /// Subscriptions refused: by the access rules, because of `fastmq_max_subscriptions` or
    /// `fastmq_max_filter_bytes`, or because a disk took nothing.
    pub subscriptions_refused: u64,
    /// Times a publisher was not read because a ring was full.
    pub paused_ring_full: u64,
    /// Messages for more Sessions and Shared Subscriptions of a shard than one turn has time for.
    pub spread: u64,
    /// Times a publisher was not read because of those: as many as may be were on their way, or one that its own had to
    /// come behind.
    pub paused_spreads: u64,
    /// Times a publisher was not read before the next turn because what it sent had taken the time of one: it was for many at
    /// once, or many filters had to be looked at. Or before it was known who wants that, as that takes longer.
    pub paused_costly: u64,
    /// Times there was no time to send to a Client what came for it in a turn, so that it left in a later one.
    pub late_sends: u64,
    /// Times a Client was not read because it did not read what we sent.
    pub paused_outbox_full: u64,
    /// Times a Client was not read because its acknowledgements waited for a disk.
    pub paused_held_full: u64,
    /// Times a publisher was not read because a disk took nothing.
    pub paused_disk_stalled: u64,
    /// Times the disk of a shard took nothing, or not for too long, or not enough, and what must be stored was not taken.
    pub store_stalls: u64,
    /// Times the folder of the store was found to have been moved away or replaced while it is written to.
    pub store_moves: u64,
    /// Publications refused because a disk took nothing for five seconds.
    pub refused_disk_stalled: u64,
    /// Messages handed on from a leaving member of a shared subscription.
    pub shared_handed_on: u64,
    /// Control Packets received, of any kind.
    pub packets_received: u64,
    /// Control Packets sent, but for PUBLISH.
    pub packets_sent: u64,
    /// Bytes received in Control Packets.
    pub bytes_received: u64,
    /// Bytes sent in Control Packets.
    pub bytes_sent: u64,
    /// Bytes of the payloads of PUBLISH packets received.
    pub publish_bytes_received: u64,
    /// Bytes of the payloads of PUBLISH packets sent.
    pub publish_bytes_sent: u64,
    /// Sessions that ended because nobody resumed them in time.
    pub sessions_expired: u64,
    /// Handshakes (PROXY, TLS, WebSocket) that came to a good end.
    pub handshakes_completed: u64,
    /// Handshakes whose peer broke the protocol, or is not who it should be.
    pub handshakes_failed: u64,
    /// Handshakes that took longer than a listener's `fastmq_handshake_timeout`.
    pub handshakes_timed_out: u64,
    /// Handshakes let go for a newer one: the listener had `fastmq_max_pending_connections` of them.
    pub handshakes_displaced: u64,
    /// Connections that broke their transport's protocol after the handshake.
    pub transport_errors: u64,
    /// Times a connection was not read before its CONNECT was whole, because all that may be held then
    /// was held.
    pub waited_before_connect: u64,
    /// Connections let go because they were slow to complete a large CONNECT or handshake while others
    /// waited for the memory.
    pub refused_held_too_much: u64,
}
}

numbers! {
/// What there is on a shard at this moment.
pub struct Gauges {
    /// Open connections, those without a Session included.
    pub connections: u64,
    /// Sessions with a connection.
    pub clients_connected: u64,
    /// Sessions, with and without a connection.
    pub sessions: u64,
    /// Subscriptions of those Sessions, shared ones included.
    pub subscriptions: u64,
    /// Shared subscriptions among them.
    pub shared_subscriptions: u64,
    /// Retained messages in this shard's replica: the same on every shard.
    pub retained_messages: u64,
    /// Bytes of topics, properties and payloads of the retained messages.
    pub retained_bytes: u64,
    /// Messages waiting in the queues of Sessions.
    pub queued_messages: u64,
    /// Bytes of the messages waiting in the queues of Sessions, each counted in full.
    pub queued_bytes: u64,
    /// Bytes of the Wills of Sessions.
    pub will_bytes: u64,
    /// Envelopes that wait for room in a ring to another shard.
    pub ring_backlog: u64,
    /// Connections that are not read because a ring is full.
    pub waiting_for_ring: u64,
    /// Bytes that connections may hold for CONNECTs that are not whole or wait for their password, but
    /// for the first few KiB of each.
    pub held_before_connect: u64,
    /// Bytes of the filters that this shard knows, and of what finds them, of which there may be
    /// `fastmq_max_filter_bytes`.
    pub filter_bytes: u64,
    /// Bytes of the tables for filters, which do not get smaller while there are any.
    pub filter_table_bytes: u64,
    /// Bytes of the tables for retained messages, which do not get smaller while there are any.
    pub retained_table_bytes: u64,
    /// Topics of which is remembered who wants them.
    pub remembered_topics: u64,
    /// Bytes of what is remembered of topics, 64 MiB at most.
    pub remembered_topics_bytes: u64,
    /// Places in the table of Sessions: as many as there have been at once.
    pub session_places: u64,
    /// Places in the table of connections: as many as there have been at once.
    pub connection_places: u64,
    /// Bytes of buffers for output that no connection has, 8 MiB at most.
    pub spare_buffer_bytes: u64,
}
}

impl Counters {
    /// A PUBLISH with a payload of so many bytes was sent.
    // HOT: per delivery.
    #[inline]
    pub fn count_publish_sent(&mut self, payload_size: usize) {
        self.count_publishes_sent(1, payload_size);
    }

    /// As many were, with payloads of so many bytes together.
    #[inline]
    pub fn count_publishes_sent(&mut self, count: usize, payload_bytes: usize) {
        self.publish_sent += count as u64;
        self.publish_bytes_sent += payload_bytes as u64;
    }

    /// Messages that a subscriber should have got and did not, for whatever reason.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped_outbox_full
            + self.dropped_queue_full
            + self.dropped_memory_full
            + self.dropped_ring_full
            + self.dropped_packet_too_large
            + self.dropped_session_expired
            + self.dropped_clean_start
            + self.dropped_session_closed
            + self.dropped_unsubscribed
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn names_and_values_are_in_one_order() {
        let counters = Counters {
            connects: 7,
            shared_handed_on: 9,
            ..Counters::default()
        };
        let named: Vec<_> = Counters::FIELDS
            .iter()
            .zip(counters.values())
            .filter(|&(_, value)| value > 0)
            .map(|(&(name, _), value)| (name, value))
            .collect();
        assert_eq!(named, [("connects", 7), ("shared_handed_on", 9)]);
        assert_eq!(Counters::from_values(counters.values()), counters);
    }

    #[test]
    fn the_documentation_of_a_counter_is_its_help() {
        let (_, help) = Counters::FIELDS
            .iter()
            .find(|(name, _)| *name == "connects")
            .unwrap();
        assert_eq!(help.trim(), "CONNECT packets answered with success.");
    }
}
