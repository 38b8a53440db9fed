//! Frames that are made ready to be replayed, by the thread that replays them or by another one ahead of it.
//!
//! Most of what a long log says is messages and deliveries of them, and most of the work is to make these.
//! The rest is left to the replay, which reads it where it stands in the frame.

#![forbid(unsafe_code)]

use super::WallClock;
use super::record::{Common, Record, Records};
use super::replay::{FrameMessages, Progress, ReplayedDelivery};
use crate::message::Message;
use smallvec::SmallVec;
use std::collections::VecDeque;
use std::sync::Arc;

/// What frames say, in order.
#[derive(Debug, Default)]
pub struct Prepared {
    pub(super) steps: VecDeque<Step>,
    /// Those of [`Step::Deliveries`], in order.
    pub(super) deliveries: VecDeque<ReplayedDelivery>,
    /// Messages of the frame at hand that were made, and whether the replay was told their names.
    messages: FrameMessages<bool>,
}

/// What the replay of a frame does next.
#[derive(Debug)]
pub(super) enum Step {
    /// So many [`Record::Delivery`] in a row for one Session that refer to messages of their frame and say
    /// nothing rare.
    Deliveries { session: u64, count: usize },
    /// Records that are left to the replay refer to this message.
    Message { name: u64, message: Arc<Message> },
    /// Records from `begin` to `end` of the frame.
    Records { begin: usize, end: usize },
    /// The frame is over. How many records were made ready, how many of them are deliveries, and how large.
    End {
        records: u64,
        deliveries: u64,
        bytes: u64,
    },
}

impl Prepared {
    /// Makes the next frame ready. `clock` is that of the [`Replay`](super::Replay).
    pub fn prepare(&mut self, payload: &[u8], clock: WallClock) {
        self.messages.clear();
        let (mut made, mut deliveries, mut bytes) = (0, 0, 0);
        let mut records = Records::new(payload);
        let mut left = None;
        loop {
            let begin = payload.len() - records.left();
            match records.next_common() {
                Some(Common::Message { message, content }) => {
                    self.leave(&mut left, begin);
                    let content = Arc::new(content.to_message(clock));
                    self.messages.insert(message, content, false);
                }
                Some(Common::Delivery {
                    session,
                    sequence,
                    message,
                    qos,
                    retain,
                    sent,
                }) => {
                    let Some((message, _)) = self.messages.get(message) else {
                        left.get_or_insert(begin);
                        continue;
                    };
                    self.leave(&mut left, begin);
                    self.count_delivery(session);
                    self.deliveries.push_back(ReplayedDelivery {
                        sequence,
                        progress: Progress::before_release(sent),
                        message: Some(message),
                        qos,
                        retain,
                        share: None,
                        subscription_identifiers: SmallVec::new(),
                    });
                    deliveries += 1;
                }
                None => {
                    match records.next() {
                        None => break,
                        Some(Ok(Record::Message { message, .. })) => self.messages.remove(message),
                        Some(Ok(Record::Delivery { message, .. })) => {
                            if let Some((content, false)) = self.messages.get(message) {
                                self.leave(&mut left, begin);
                                self.messages.insert(message, content.clone(), true);
                                self.steps.push_back(Step::Message {
                                    name: message,
                                    message: content,
                                });
                            }
                        }
                        // One that cannot be read is the last: the replay finds it there.
                        Some(_) => {}
                    }
                    left.get_or_insert(begin);
                    continue;
                }
            }
            made += 1;
            bytes += payload.len() - records.left() - begin;
        }
        self.leave(&mut left, payload.len());
        self.steps.push_back(Step::End {
            records: made,
            deliveries,
            bytes: bytes as u64,
        });
    }

    fn count_delivery(&mut self, session: u64) {
        if let Some(Step::Deliveries {
            session: last,
            count,
        }) = self.steps.back_mut()
            && *last == session
        {
            *count += 1;
        } else {
            self.steps.push_back(Step::Deliveries { session, count: 1 });
        }
    }

    /// Leaves the records from `begin` to `end` to the replay, if there are any.
    fn leave(&mut self, begin: &mut Option<usize>, end: usize) {
        if let Some(begin) = begin.take() {
            self.steps.push_back(Step::Records { begin, end });
        }
    }

    /// Forgets all frames.
    pub fn clear(&mut self) {
        self.steps.clear();
        self.deliveries.clear();
        self.messages.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{
        NUMBER_MAX, Origin, Replay, Replayed, StoredIdentity, StoredMessage, UnknownRecord,
    };
    use crate::key::PacketIdentifier;
    use crate::message::QoS;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const CLOCK: WallClock = WallClock { start_ms: 1000 };

    /// One of few, so that they meet.
    fn record(choice: (u8, u64, u64, u64, u8), payload: &[u8]) -> Vec<u8> {
        let (kind, session, sequence, message, flags) = choice;
        let content = StoredMessage {
            topic_name: "t",
            properties: b"",
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at_ms: (flags & 64 != 0).then_some(5000),
        };
        let origin = Origin {
            session,
            exchange: sequence,
            packet_identifier: PacketIdentifier::new(7).unwrap(),
        };
        let record = match kind {
            0..5 => Record::Delivery {
                session,
                sequence,
                message,
                qos: QoS::AtLeastOnce,
                retain: flags & 1 != 0,
                sent: flags & 2 != 0,
                share: (flags & 12 == 12).then_some("$share/g/t"),
                subscription_identifiers: match flags & 48 {
                    48 => &[[1, 0, 0, 0], [2, 0, 0, 0]],
                    _ => &[],
                },
            },
            5..9 => Record::Message {
                message,
                shared: flags & 3 == 3,
                origin: (flags & 12 == 12).then_some(origin),
                content,
            },
            9 => Record::Done { session, sequence },
            10 => Record::Sent { session, sequence },
            11 => Record::Released { session, sequence },
            12 => Record::SnapshotEnded,
            _ => Record::Session {
                session,
                identity: StoredIdentity {
                    client_identifier: "c",
                    username: None,
                    listener: 0,
                    port: 0,
                },
                expiry_interval_s: 60,
                next_sequence: sequence,
                exchanges: 0,
                window: (flags & 1 != 0).then_some(20),
                will: None,
            },
        };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
        bytes
    }

    /// What there is, how many objects the messages are, and how many records were read.
    fn outcome(replay: Replay) -> (String, usize, u64) {
        let records = replay.records();
        let mut replayed: Replayed = replay.finish();
        replayed
            .suspects
            .sort_by_key(|it| (it.origin.session, it.origin.exchange));
        let deliveries = replayed.sessions.values().flat_map(|it| &it.deliveries);
        let messages: BTreeSet<_> = deliveries
            .flat_map(|it| &it.message)
            .map(Arc::as_ptr)
            .collect();
        let messages = messages.len();
        (format!("{replayed:?}"), messages, records)
    }

    fn check(frames: &[Vec<u8>], left: &[bool]) {
        let mut plain = Replay::new(CLOCK, &[]);
        let expected: Result<(), UnknownRecord> =
            frames.iter().try_for_each(|payload| plain.frame(payload));
        let mut prepared = Prepared::default();
        let frames = || frames.iter().zip(left.iter().cycle());
        for (payload, _) in frames().filter(|(_, left)| !**left) {
            prepared.prepare(payload, CLOCK);
        }
        let mut replay = Replay::new(CLOCK, &[]);
        let mut own = Prepared::default();
        let result = frames().try_for_each(|(payload, left)| {
            if !left {
                return replay.prepared(payload, &mut prepared);
            }
            own.prepare(payload, CLOCK);
            replay.prepared(payload, &mut own)
        });
        assert_eq!(result, expected);
        if result.is_ok() {
            assert!(prepared.steps.is_empty());
            assert_eq!(outcome(replay), outcome(plain));
        } else {
            // Nobody asks how many there were.
            let [(found, messages, _), (expected, objects, _)] = [outcome(replay), outcome(plain)];
            let without_size = |text: &str| text[..text.rfind("size").unwrap()].to_owned();
            assert_eq!(
                (without_size(&found), messages),
                (without_size(&expected), objects)
            );
        }
    }

    proptest! {
        #[test]
        fn what_is_prepared_is_replayed_as_if_it_was_not(
            frames in prop::collection::vec(
                prop::collection::vec((0_u8..14, 1_u64..3, 0_u64..5, 1_u64..4, any::<u8>()), 1..30),
                1..5,
            ),
            left in prop::collection::vec(prop::bool::weighted(0.3), 1..5),
            damage in prop::option::of((any::<prop::sample::Index>(), any::<u8>())),
        ) {
            let mut frames: Vec<Vec<u8>> = frames
                .into_iter()
                .map(|records| {
                    let records = records.into_iter().zip(0_u8..);
                    records.flat_map(|(choice, number)| record(choice, &[number])).collect()
                })
                .collect();
            if let Some((at, value)) = damage {
                let frame = at.index(frames.len());
                let at = at.index(frames[frame].len());
                frames[frame][at] = value;
            }
            check(&frames, &left);
        }
    }

    #[test]
    fn a_number_that_cannot_be_ends_a_prepared_frame_as_it_ends_another() {
        let mut bytes = record((5, 0, 0, 1, 0), b"x");
        bytes.extend(record((0, 1, NUMBER_MAX, 1, 0), b""));
        bytes.extend(record((0, 1, NUMBER_MAX + 1, 1, 0), b""));
        bytes.extend(record((0, 1, 3, 1, 0), b""));
        check(&[record((13, 1, 0, 0, 0), b""), bytes], &[false]);
    }
}
