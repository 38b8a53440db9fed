//! For how many receives a shard waits while messages stream in.
//!
//! A shard with time to spare wakes for every receive, and sends at once what came with it. Where many publishers send
//! messages by the dozen, what is passed on leaves in pieces as small as they came in, and a small piece costs the kernel
//! as much as a large one. So while many such receives come a millisecond, the shard waits for some of them together, for
//! a few times ten microseconds. That a message leaves that much later costs a publisher of QoS 0 nothing; whoever waits
//! for an answer would lose time by it, so any answers to speak of end it.

#![forbid(unsafe_code)]

use crate::metrics::Counters;
use crate::time::Instant;
use std::time::Duration;

/// How many receives are waited for, and for how long.
pub(super) const RECEIVES_WANTED: u32 = 16;
pub(super) const WAIT_FOR_MORE: Duration = Duration::from_micros(50);

/// How often it is looked at what comes in.
const LOOK_EVERY: Duration = Duration::from_millis(1);
/// Receives in that time that make it worth a wait: some come while it lasts.
const RECEIVES_MIN: usize = 100;
/// Messages in each, on average. Who sends one at a time may wait for another one.
const MESSAGES_A_RECEIVE_MIN: u64 = 4;
/// Bytes in each. Larger pieces gain nothing.
const BYTES_A_RECEIVE_MAX: u64 = 4096;
/// One packet among so many messages may be something else, received or sent.
const OTHERS_SHARE: u64 = 16;

/// What there was at the last look, and what has come since.
#[derive(Debug)]
pub(super) struct Streams {
    looked_at: Instant,
    receives: usize,
    messages: u64,
    packets: u64,
    bytes: u64,
    is_streaming: bool,
}

impl Streams {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            looked_at: now,
            receives: 0,
            messages: 0,
            packets: 0,
            bytes: 0,
            is_streaming: false,
        }
    }

    /// A turn has handled so many completions.
    // HOT: per turn.
    #[inline]
    pub(super) fn handle_turn(
        &mut self,
        completed: usize,
        counters: Option<&Counters>,
        now: Instant,
    ) {
        self.receives += completed;
        if now - self.looked_at >= LOOK_EVERY {
            self.look(counters, now);
        }
    }

    /// Whether the next wait may be for many.
    #[inline]
    pub(super) fn is_streaming(&self) -> bool {
        self.is_streaming
    }

    fn look(&mut self, counters: Option<&Counters>, now: Instant) {
        let receives = std::mem::take(&mut self.receives);
        let took = now - self.looked_at;
        self.looked_at = now;
        let Some(counters) = counters else {
            return;
        };
        let messages = news(&mut self.messages, counters.publish_received);
        // What was answered is QoS 1 or 2, or wants to know whether somebody is there.
        let packets = counters.packets_received + counters.packets_sent;
        let others = news(&mut self.packets, packets).saturating_sub(messages);
        let bytes = news(&mut self.bytes, counters.bytes_received);
        let count = receives as u64;
        self.is_streaming = took < 2 * LOOK_EVERY
            && receives >= RECEIVES_MIN
            && messages >= count * MESSAGES_A_RECEIVE_MIN
            && bytes <= count * BYTES_A_RECEIVE_MAX
            && others * OTHERS_SHARE <= messages;
    }
}

/// What has come to a count since it was `before`.
fn news(before: &mut u64, count: u64) -> u64 {
    count - std::mem::replace(before, count)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Whether so many receives, messages, other packets and bytes in a millisecond are streams.
    fn is_streaming(receives: usize, messages: u64, others: u64, bytes: u64) -> bool {
        let mut now = Instant::ZERO;
        let mut streams = Streams::new(now);
        let mut counters = Counters::default();
        for _ in 0..3 {
            for _ in 0..receives {
                now =
                    now + Duration::from_nanos(LOOK_EVERY.as_nanos() as u64 / receives as u64 + 1);
                streams.handle_turn(1, Some(&counters), now);
            }
            counters.publish_received += messages;
            counters.packets_received += messages + others / 2;
            counters.packets_sent += others - others / 2;
            counters.bytes_received += bytes;
        }
        streams.is_streaming()
    }

    #[test]
    fn many_small_receives_of_many_messages_are_streams_and_nothing_else_is() {
        assert!(is_streaming(200, 2000, 0, 140_000));
        assert!(is_streaming(200, 2000, 100, 140_000));
        // Few, large ones, messages that come one at a time, and any that are answered.
        assert!(!is_streaming(50, 2000, 0, 140_000));
        assert!(!is_streaming(200, 2000, 0, 2_000_000));
        assert!(!is_streaming(200, 400, 0, 28_000));
        assert!(!is_streaming(200, 2000, 2000, 140_000));
        assert!(!is_streaming(200, 2000, 200, 140_000));
    }

    #[test]
    fn a_stream_is_none_any_more_once_nothing_came_for_a_while() {
        let mut streams = Streams::new(Instant::ZERO);
        let mut counters = Counters {
            publish_received: 2000,
            packets_received: 2000,
            ..Counters::default()
        };
        streams.handle_turn(200, Some(&counters), Instant::ZERO + LOOK_EVERY);
        assert!(streams.is_streaming());
        // As many, but in a hundred times the time.
        counters.publish_received += 2000;
        counters.packets_received += 2000;
        streams.handle_turn(200, Some(&counters), Instant::ZERO + 100 * LOOK_EVERY);
        assert!(!streams.is_streaming());
        // A core that does not count has none.
        let mut streams = Streams::new(Instant::ZERO);
        streams.handle_turn(200, None, Instant::ZERO + LOOK_EVERY);
        assert!(!streams.is_streaming());
    }
}
