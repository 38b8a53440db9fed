//! The bounds of what Clients can make the broker do and keep, their defaults and the relations between them.
//!
//! Reaching a bound is a decision, named at the field; what becomes of it is counted in
//! [`crate::metrics::Counters`]. Defaults are Mosquitto 2.1's where it has the bound. What is no Client's to reach, such
//! as the lines of a log that wait, has its bound where it is kept.

#![forbid(unsafe_code)]

use std::time::Duration;

/// Most shards one broker can have: one bit each in [`crate::router::ShardSet`].
pub const SHARDS_MAX: usize = 256;
/// Most listeners of one broker, those included that a reload has closed. With more it does not start, and a reload changes
/// nothing.
pub const LISTENERS_MAX: usize = 1024;
/// Most bridges of one broker. With more it does not start.
pub const BRIDGES_MAX: usize = 64;
/// Most topics of one bridge. With more the broker does not start.
pub const BRIDGE_TOPICS_MAX: usize = 1000;
/// Most addresses of one bridge. With more the broker does not start.
pub const BRIDGE_ADDRESSES_MAX: usize = 64;
/// Slots of the ring from one shard to another. Each is an envelope, of one message or of a batch of small ones: of 32
/// at most, and of 4.5 KiB with their topics, beside 2.8 KiB that say where they lie and who waits for them.
pub const RING_SLOTS: usize = 4096;
/// Default of [`Limits::peer_backlog_max`].
pub const PEER_BACKLOG_MAX: usize = 4096;
/// Default of [`Limits::replay_steps_max`].
pub const REPLAY_STEPS_MAX: usize = 512;
/// Default of [`Limits::filter_steps_max`].
pub const FILTER_STEPS_MAX: usize = 2048;
/// Default of [`Limits::ending_steps_max`].
pub const ENDING_STEPS_MAX: usize = 256;
/// Default of [`Limits::spread_steps_max`].
pub const SPREAD_STEPS_MAX: usize = 4096;
/// Subscriptions of one Client whose retained messages are looked up at once, whether it reads or not. Further ones wait
/// until it has read most of those.
pub const REPLAY_WALKS_MAX: usize = 8;
/// What it may have left to read of them: beyond it no other subscription is looked up. What one matches is found as a
/// whole.
pub const REPLAY_FOUND_MAX: usize = 4096;
/// Of those, what joins the queue of a Session whose connection ends, and what is looked up for that. With more, all of it
/// is looked up again once its Client is back.
pub const REPLAY_KEPT_MAX: usize = 1024;
/// Steps of that look-up.
pub const REPLAY_KEPT_STEPS_MAX: usize = 4096;
/// Topic levels of a Topic Name or Topic Filter: what 200 separators part, which is Mosquitto's bound. With more the
/// connection ends.
pub const TOPIC_LEVELS_MAX: usize = 201;
/// Of the files that the process may have open (`ulimit -n`), those that no Client gets: this part of all, and no more than
/// so many. They are for the store, the log, a reload and the admin port. Further Clients wait to be accepted.
pub const FILES_RESERVED_SHARE: i32 = 16;
/// The most of them.
pub const FILES_RESERVED_MAX: i32 = 32;
/// Largest CONNECT, if packets may be so large. A larger one is refused.
pub const CONNECT_SIZE_MAX: usize = 128 * 1024;
/// Bytes held for a connection before its CONNECT is whole, whatever the others do: more than a CONNECT
/// without a large Will has, and all that handshakes have but for a long chain of certificates.
pub const UNCONNECTED_BYTES_FREE: usize = 4 * 1024;
/// Bytes, for each shard of the broker, that connections which need more may hold together. Beyond it
/// they are not read until there is room (`waited_before_connect`), at most until their CONNECT is late.
pub const UNCONNECTED_BYTES_MAX: usize = 1 << 20;
/// How long one of those may take while others wait. Then it is let go (`refused_held_too_much`).
pub const UNCONNECTED_PATIENCE: Duration = Duration::from_secs(2);
/// Acknowledgements of one Client that may wait for a disk. Beyond it the Client is not read until half
/// of them have left.
pub const HELD_ACKNOWLEDGEMENTS_MAX: usize = 1024;
/// QoS 2 messages of one Session of which it may be open, before and after crashes, whether they were
/// taken: an older one is over. Those under way when the process ended, the same ones coming again, and
/// some room.
pub const OPEN_EXCHANGES_MAX: usize = 4 * HELD_ACKNOWLEDGEMENTS_MAX;
/// How long publishers of what must be stored wait in TCP for a disk that takes nothing. Then MQTT 5
/// Clients are told.
pub const DISK_PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of one shard's records that may wait for a write under way. Beyond it, and when that write takes
/// [`DISK_PATIENCE`], the disk counts as one that takes nothing (`store_stalls`): publishers of what must be stored wait.
pub const JOURNAL_BYTES_MAX: usize = 128 << 20;
/// Largest Control Packet MQTT can express.
pub const PACKET_SIZE_MAX: u32 = 268_435_455 + 5;

const _: () = assert!(RING_SLOTS.is_power_of_two());
const _: () = assert!(PEER_BACKLOG_MAX >= RING_SLOTS);
const _: () = assert!(CONNECT_SIZE_MAX < PACKET_SIZE_MAX as usize);
const _: () = assert!(UNCONNECTED_BYTES_MAX >= 4 * CONNECT_SIZE_MAX);

/// Bounds that an operator can move.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Largest Control Packet accepted, bytes; advertised to v5 Clients as Maximum Packet Size.
    /// Beyond it: DISCONNECT 0x95 (Packet too large).
    pub max_packet_size: u32,
    /// QoS 1 and 2 messages a Client may have unacknowledged at once, each way. To us: advertised as
    /// Receive Maximum, beyond it DISCONNECT 0x93. From us: the rest waits in the queue.
    pub max_inflight_messages: u16,
    /// QoS 1 and 2 messages waiting behind the inflight window of one Session. Beyond it the newest
    /// is dropped.
    pub max_queued_messages: usize,
    /// Bytes of the messages waiting for one Session, each counted in full though Sessions share
    /// them. Beyond it the newest is dropped.
    pub max_queued_bytes: usize,
    /// Bytes of the messages waiting for all Sessions of one shard, counted in the same way, of their
    /// Wills, and of QoS 0 beyond `outbox_bytes_max`. Beyond it the newest is dropped, and a CONNECT with
    /// a Will refused: 0x97 (Quota exceeded).
    pub memory_bytes_max: usize,
    /// Largest Keep Alive a v5 Client may ask for, seconds; a larger one, or none, is replaced by
    /// Server Keep Alive. Zero: no bound.
    pub max_keepalive_s: u16,
    /// Unsent bytes of one connection from which QoS 0 is dropped, QoS 1 and 2 wait in the queue and
    /// the Client is no longer read. A few large messages are more than that, so QoS 0 goes on until
    /// `max_queued_messages` of the size at hand, or `max_queued_bytes`, are unsent.
    pub outbox_bytes_max: usize,
    /// Subscriptions of one Session. Beyond it: 0x97 (Quota exceeded).
    pub max_subscriptions: usize,
    /// Bytes of the filters that a shard knows, which are those of all shards, and of what finds them. Beyond it 0x97 for
    /// those that nobody wants yet. A filter counts with 150 to 220 bytes, and with its own once or twice.
    pub max_filter_bytes: usize,
    /// Retained messages of the broker. Beyond it new topics are refused: 0x97 for QoS 1 and 2,
    /// dropped for QoS 0.
    pub max_retained_messages: usize,
    /// Bytes of topics, properties and payloads of the retained messages of the broker, and of what finds topics of more
    /// than eight levels. Beyond it as beyond `max_retained_messages`.
    pub max_retained_bytes: usize,
    /// Envelopes waiting for room in the ring to one shard from which QoS 0 is dropped and publishers
    /// of QoS 1 and 2 are no longer read. One is a message or a batch, as in the ring ([`RING_SLOTS`]).
    pub peer_backlog_max: usize,
    /// What a turn of a shard does for retained messages on their way to new subscriptions, all connections
    /// together: nodes looked at and messages sent, 0.1 microseconds each where memory is near, 0.8 where it is
    /// far away. The rest waits for the next turn.
    pub replay_steps_max: usize,
    /// What a turn of a shard does for a SUBSCRIBE or UNSUBSCRIBE, and for all those together that it goes on with: a tenth of
    /// a microsecond each. To check a Topic Filter is one, to have it in force is eight, and more if it is long or there are
    /// many shards. The rest waits for the next turn.
    pub filter_steps_max: usize,
    /// Subscriptions of ended Sessions that a turn of a shard forgets, as many again of those whose connection has come
    /// or gone that it visits, and Sessions that it tells of a reload, one microsecond each; of messages that waited by other
    /// rules it judges four in that time. The rest waits for the next turn; each new subscription forgets two more.
    pub ending_steps_max: usize,
    /// Sessions and Shared Subscriptions that a turn of a shard gives a message, a tenth of a microsecond each and as much again for each KiB beyond
    /// four. The rest of its subscribers wait for the next turn, and so does whoever published it.
    pub spread_steps_max: usize,
    /// Connections of one shard.
    pub max_connections: usize,
    /// Time from accept to a whole CONNECT.
    pub connect_timeout: Duration,
    /// A Session that nobody resumed for this long ends, whatever it asked for.
    pub persistent_client_expiration: Option<Duration>,
}

impl Limits {
    /// Largest CONNECT that is accepted. It has a bound of its own, since it is held for somebody of whom nothing is known yet;
    /// but it is a packet like others: a Will that is larger than any PUBLISH may be does not come in by it.
    #[must_use]
    pub fn connect_size_max(&self) -> u32 {
        self.max_packet_size.min(CONNECT_SIZE_MAX as u32)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_packet_size: 2_000_000,
            max_inflight_messages: 20,
            max_queued_messages: 1000,
            max_queued_bytes: 64 << 20,
            memory_bytes_max: 2 << 30,
            max_keepalive_s: 0,
            outbox_bytes_max: 1 << 20,
            max_subscriptions: 100_000,
            max_filter_bytes: 2 << 30,
            max_retained_messages: 10_000_000,
            max_retained_bytes: 2 << 30,
            peer_backlog_max: PEER_BACKLOG_MAX,
            replay_steps_max: REPLAY_STEPS_MAX,
            filter_steps_max: FILTER_STEPS_MAX,
            ending_steps_max: ENDING_STEPS_MAX,
            spread_steps_max: SPREAD_STEPS_MAX,
            max_connections: 1_000_000,
            connect_timeout: Duration::from_secs(30),
            persistent_client_expiration: None,
        }
    }
}
