//! Which Clients the messages of the last moments belong to, told from a sample.
//!
//! Counters in each connection would cost memory for every silent one, and somebody would have to
//! visit a million of them to find ten. Instead one connection in so many is written down when bytes
//! of it were handled: where little happens that is every one and the numbers are exact; where much
//! happens, whoever has a share that matters is found often. Nothing is kept of a connection that is
//! silent, nothing is done for a message, and what is kept of a shard is of one size.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;

use super::{Random, Shard};
use crate::codec;
use crate::key::ConnectionKey;
use crate::metrics::{Flow, TALKERS_MAX, Talker, Talkers};
use crate::time::Instant;

/// Samples kept of one direction between two questions: of a Client that has one message in a hundred,
/// about three to five.
const SAMPLES_MAX: usize = 512;
/// Packets that are looked at to tell how many messages a piece of output has.
const PACKETS_MAX: usize = 64;

/// Bytes of one connection that were handled at once.
#[derive(Clone, Copy, Debug)]
struct Sample {
    connection: ConnectionKey,
    weight: u64,
    flow: Flow,
}

/// A sample of one direction, from which no connection is missing by more than chance.
///
/// The distance from one sample to the next is a random number of an exponential distribution, whose
/// mean doubles whenever the sample is full; half of it goes then. So each sample is known to have been
/// found with a probability, and stands for as many as it divides by that.
#[derive(Debug)]
pub(super) struct Sampler {
    /// What may pass until the next sample.
    left: i64,
    /// The mean of `left`; zero as long as everything is written down.
    distance: u64,
    samples: Vec<Sample>,
    random: Random,
}

impl Sampler {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            left: 0,
            distance: 0,
            samples: Vec::with_capacity(SAMPLES_MAX),
            random: Random(seed),
        }
    }

    // HOT: per connection per turn.
    /// Whether bytes of this size are to be written down with [`Sampler::push`].
    #[inline]
    pub(super) fn is_due(&mut self, size: usize) -> bool {
        self.left -= weight(size) as i64;
        self.left < 0
    }

    /// Writes down what [`Sampler::is_due`] asked for.
    #[cold]
    pub(super) fn push(&mut self, connection: ConnectionKey, size: usize, messages: f64) {
        if messages > 0.0 {
            self.samples.push(Sample {
                connection,
                weight: weight(size),
                flow: Flow {
                    messages,
                    bytes: size as f64,
                },
            });
        }
        while self.samples.len() == SAMPLES_MAX {
            let before = self.distance;
            self.distance = (before * 2).max(1);
            let after = self.distance;
            let random = &mut self.random;
            self.samples.retain(|sample| {
                let stays = probability(sample.weight, after) / probability(sample.weight, before);
                unit(random) < stays
            });
        }
        self.left = -(unit(&mut self.random).ln() * self.distance as f64) as i64;
    }

    /// Adds up what there is, by connection, and begins again.
    fn take(
        &mut self,
        into: &mut BTreeMap<ConnectionKey, [Flow; 2]>,
        direction: fn(&mut [Flow; 2]) -> &mut Flow,
    ) {
        for sample in self.samples.drain(..) {
            let probability = probability(sample.weight, self.distance);
            direction(into.entry(sample.connection).or_default()).add(Flow {
                messages: sample.flow.messages / probability,
                bytes: sample.flow.bytes / probability,
            });
        }
        // About as much comes again. If less does, this becomes exact within a few rounds.
        self.distance /= 4;
        self.left = -(unit(&mut self.random).ln() * self.distance as f64) as i64;
    }
}

/// What so many bytes count for. With each piece counting for something a Client of small messages is
/// not lost beside one of large ones, and with bytes counting a burst is not lost beside a trickle.
fn weight(size: usize) -> u64 {
    1 + (size as u64 >> 6)
}

/// That a piece of this weight becomes a sample.
fn probability(weight: u64, distance: u64) -> f64 {
    if distance == 0 {
        return 1.0;
    }
    -(-(weight as f64) / distance as f64).exp_m1()
}

/// More than zero and less than one.
fn unit(random: &mut Random) -> f64 {
    ((random.next() >> 11) as f64 + 0.5) / (1_u64 << 53) as f64
}

/// How many PUBLISH packets there are in `output`, which begins with a packet: told from the first of
/// them if there are very many.
pub(super) fn count_messages(output: &[u8]) -> f64 {
    let (mut rest, mut messages) = (output, 0);
    for _ in 0..PACKETS_MAX {
        let Ok(Some(header)) = codec::decode_fixed_header(rest, u32::MAX) else {
            break;
        };
        messages += u32::from(header.first_byte >> 4 == codec::packet_type::PUBLISH);
        rest = rest.get(header.total_size()..).unwrap_or_default();
    }
    let seen = output.len() - rest.len();
    f64::from(messages) * output.len() as f64 / seen.max(1) as f64
}

/// Samples of both directions.
#[derive(Debug)]
pub(super) struct Sampled {
    pub(super) received: Sampler,
    pub(super) sent: Sampler,
    since: Instant,
}

impl Sampled {
    pub(super) fn new(seed: u64) -> Self {
        Self {
            received: Sampler::new(seed),
            sent: Sampler::new(!seed),
            since: Instant::ZERO,
        }
    }
}

impl Shard {
    /// The Clients with most messages since this was last asked, of those that are still connected.
    /// Takes time for the sample, whatever the number of connections.
    pub fn talkers(&mut self, now: Instant) -> Talkers {
        let mut flows = BTreeMap::new();
        let sampled = &mut self.sampled;
        sampled.received.take(&mut flows, |[received, _]| received);
        sampled.sent.take(&mut flows, |[_, sent]| sent);
        let window = now - std::mem::replace(&mut sampled.since, now);
        let mut loudest: Vec<_> = flows.into_iter().collect();
        let messages = |[received, sent]: &[Flow; 2]| received.messages + sent.messages;
        loudest.sort_by(|(_, one), (_, other)| messages(other).total_cmp(&messages(one)));
        let talkers = loudest
            .into_iter()
            .filter_map(|(key, [received, sent])| {
                let connection = self.clients.connections.get(key)?;
                let session = &self.clients.members.get(connection.session()?)?.session;
                let listener = self.clients.listener(connection.listener);
                Some(Talker {
                    client_identifier: session.identity.client_identifier.clone(),
                    port: listener.map_or(0, |listener| listener.port),
                    peer: connection.peer,
                    received,
                    sent,
                })
            })
            .take(TALKERS_MAX)
            .collect();
        Talkers { window, talkers }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: 0,
        }
    }

    /// What is said of pieces of `size` bytes with `messages` each, by connection.
    fn sampled(pieces: impl Iterator<Item = (u32, usize, f64)>) -> BTreeMap<u32, Flow> {
        let mut sampler = Sampler::new(7);
        for (index, size, messages) in pieces {
            if sampler.is_due(size) {
                sampler.push(key(index), size, messages);
            }
            assert!(sampler.samples.len() < SAMPLES_MAX);
        }
        let mut flows = BTreeMap::new();
        sampler.take(&mut flows, |[received, _]| received);
        let flows = flows.into_iter();
        flows.map(|(key, [flow, _])| (key.index, flow)).collect()
    }

    #[test]
    fn where_little_happens_every_message_is_counted() {
        let flows = sampled((0..300).map(|index| (index % 3, 100, 2.0)));
        let expected = Flow {
            messages: 200.0,
            bytes: 10_000.0,
        };
        assert_eq!(flows, (0..3).map(|index| (index, expected)).collect());
    }

    #[test]
    fn where_much_happens_shares_and_sum_are_about_right() {
        // One has 60 %, one 20 % in pieces of a hundred messages, and a thousand share the rest.
        let pieces = (0..500_000_u32).flat_map(|index| {
            let small = (2 + index % 1000, 40, 1.0);
            let large = (index % 500 == 0).then_some((1, 4000, 100.0));
            [(0, 40, 3.0), small].into_iter().chain(large)
        });
        let flows = sampled(pieces);
        let near = |value: f64, expected: f64, percent: f64| {
            let off = (value / expected - 1.0).abs() * 100.0;
            assert!(off < percent, "{value} instead of {expected}: {off} %");
        };
        near(flows[&0].messages, 1_500_000.0, 15.0);
        near(flows[&0].bytes, 20_000_000.0, 15.0);
        near(flows[&1].messages, 100_000.0, 40.0);
        let rest = flows.iter().filter(|&(&index, _)| index > 1);
        near(rest.map(|(_, flow)| flow.messages).sum(), 500_000.0, 15.0);
        assert!(flows.len() < SAMPLES_MAX);
    }

    #[test]
    fn after_a_storm_the_numbers_become_exact_again() {
        let mut sampler = Sampler::new(7);
        let mut flows = BTreeMap::new();
        for _ in 0..1_000_000 {
            if sampler.is_due(40) {
                sampler.push(key(0), 40, 1.0);
            }
        }
        assert!(sampler.distance > 1000);
        for _ in 0..8 {
            flows.clear();
            sampler.take(&mut flows, |[received, _]| received);
        }
        assert_eq!((sampler.distance, sampler.left), (0, 0));
    }

    #[test]
    fn messages_are_counted_among_other_packets_and_guessed_beyond_many() {
        let packets = b"\x20\x02\0\0\x30\x05\0\x01tHi\xd0\0";
        assert_eq!(count_messages(packets), 1.0);
        assert_eq!(count_messages(&packets.repeat(10)), 10.0);
        let guessed = count_messages(&packets.repeat(1000));
        assert!((900.0..1100.0).contains(&guessed), "{guessed}");
        assert_eq!(count_messages(b""), 0.0);
        assert_eq!(count_messages(b"\x30"), 0.0);
    }
}
