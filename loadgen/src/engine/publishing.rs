//! What a publisher sends, and when: as its window allows, or as its schedule says.

use std::sync::atomic::Ordering;

use fastmq::shard::Effects;

use crate::accounting::Window;
use crate::wire::{self, PublishTemplate};

use super::{Engine, Run};

/// Bytes of output of one connection at which publishing waits until they are sent.
const BATCH_SIZE_MAX: usize = 64 * 1024;
/// Of a schedule whose messages are shared out: among so many of the last ones it is seen that two have the
/// same one.
const SHARED_HISTORY: u64 = 1024;
/// A message sent so much later than it was due is an overrun.
const OVERRUN_NS: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct Publisher {
    pub(super) peer: u32,
    /// One for each topic.
    pub(super) templates: Vec<PublishTemplate>,
    /// Without the topic: once its alias is known.
    pub(super) short_templates: Vec<PublishTemplate>,
    pub(super) qos: u8,
    pub(super) window: Window,
    /// Deliveries are at QoS 0.
    pub(super) may_lose: bool,
    /// In a schedule, if it follows one.
    pub(super) place: Option<Place>,
    /// Messages that have become due. When, their place tells: nothing is kept of those that wait for the window.
    pub(super) issued: u64,
    pub(super) quota: Option<u64>,
    pub(super) moved_ns: u64,
    pub(super) arrivals: u64,
    pub(super) surplus: u64,
}

/// Which of a schedule's messages are a publisher's: `turn`, and then each as much later as there are publishers.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) schedule: usize,
    pub(super) turn: u64,
}

/// An absolute schedule: message k is due at start + k * interval, whatever happened to others.
#[derive(Debug)]
pub(super) struct Schedule {
    pub(super) publishers: Vec<u32>,
    pub(super) interval_ns: f64,
    pub(super) start_ns: u64,
    pub(super) issued: u64,
}

impl Schedule {
    pub(super) fn next_ns(&self) -> u64 {
        self.due_ns(self.issued)
    }

    /// When message k is due.
    #[inline]
    fn due_ns(&self, k: u64) -> u64 {
        self.start_ns
            .saturating_add((k as f64 * self.interval_ns) as u64)
    }

    /// How many are due until `end_ns`.
    fn due_by(&self, end_ns: u64) -> u64 {
        let mut count = (end_ns.saturating_sub(self.start_ns) as f64 / self.interval_ns) as u64;
        // The same rounding as above has the last word.
        while self.due_ns(count) <= end_ns {
            count += 1;
        }
        while count > 0 && self.due_ns(count - 1) > end_ns {
            count -= 1;
        }
        count
    }

    /// How many of the first `count` are due to whom `turn` names.
    fn share(&self, count: u64, turn: u64) -> u64 {
        count
            .saturating_sub(turn)
            .div_ceil(self.publishers.len() as u64)
    }
}

impl Publisher {
    /// Messages that are due and have not left.
    pub(super) fn waiting(&self) -> u64 {
        // What follows no schedule is never due.
        self.issued.saturating_sub(self.window.published())
    }

    /// Whether something is due, or under way.
    pub(super) fn has_outstanding(&self) -> bool {
        self.waiting() > 0 || !self.window.is_empty(self.arrivals - self.surplus)
    }
}

impl Engine {
    pub(super) fn publisher(run: &Run, global: u32, peer: u32) -> Publisher {
        let plan = &run.plan.publishers[global as usize];
        let uses_aliases = run.common.topic_aliases && run.common.protocol.is_v5();
        let template = |index: usize, has_topic: bool| {
            PublishTemplate::new(&wire::Publish {
                version: run.common.protocol,
                topic_name: if has_topic {
                    &plan.topic_names[index]
                } else {
                    ""
                },
                topic_alias: uses_aliases.then(|| index as u16 + 1),
                qos: plan.qos,
                retain: plan.retain,
                publisher: global,
                filler: &run.filler[..plan.payload - wire::STAMP_SIZE],
            })
        };
        let topics = 0..plan.topic_names.len();
        let templates = topics.clone().map(|index| template(index, true)).collect();
        let short_templates = if uses_aliases {
            topics.map(|index| template(index, false)).collect()
        } else {
            Vec::new()
        };
        Publisher {
            peer,
            templates,
            short_templates,
            qos: plan.qos,
            window: if plan.schedule.is_some() {
                let history = if plan.is_shared { SHARED_HISTORY } else { 0 };
                Window::open_loop(history, plan.window, plan.needed, plan.qos)
            } else {
                Window::new(plan.window, plan.needed, plan.qos)
            },
            may_lose: plan.may_lose,
            place: None,
            issued: 0,
            quota: plan.quota,
            moved_ns: 0,
            arrivals: 0,
            surplus: 0,
        }
    }

    /// Whether the publisher has something to send and may.
    pub(super) fn wants_output(&self, publisher: &Publisher, now_ns: u64) -> bool {
        publisher.window.free() > 0
            && if publisher.place.is_some() {
                publisher.waiting() > 0
            } else if let Some(quota) = publisher.quota {
                publisher.window.published() < quota
            } else {
                (self.start_ns..self.stop_ns).contains(&now_ns)
            }
    }

    /// Encodes a batch.
    // HOT: per PUBLISH sent.
    pub(super) fn fill(&mut self, index: u32) {
        let now_ns = self.run.clock.now_ns();
        if !self.wants_output(&self.publishers[index as usize], now_ns) {
            return;
        }
        let publisher = &mut self.publishers[index as usize];
        if publisher.quota.is_some() && publisher.window.published() == 0 {
            let first_ns = &self.run.status[self.thread].first_publish_ns;
            let _ = first_ns.compare_exchange(0, now_ns, Ordering::Relaxed, Ordering::Relaxed);
        }
        let out = &mut self.peers[publisher.peer as usize].out;
        let before = publisher.window.published();
        let topics = publisher.templates.len() as u64;
        if let Some(place) = publisher.place {
            let schedule = &self.schedules[place.schedule];
            let publishers = schedule.publishers.len() as u64;
            while publisher.window.free() > 0
                && out.len() < BATCH_SIZE_MAX
                && publisher.waiting() > 0
            {
                let (sequence, identifier) = publisher.window.open();
                let due_ns = schedule.due_ns(sequence * publishers + place.turn);
                let template = template(publisher, sequence, topics);
                template.append(identifier, sequence, due_ns, now_ns, out);
                if now_ns > due_ns + OVERRUN_NS && (self.from_ns..self.stop_ns).contains(&due_ns) {
                    self.overruns += 1;
                }
            }
        } else {
            let left = publisher.quota.map_or(u64::MAX, |quota| quota - before);
            let room = BATCH_SIZE_MAX / publisher.templates[0].size();
            let count = publisher.window.free().min(left).min(room.max(1) as u64);
            for _ in 0..count {
                let (sequence, identifier) = publisher.window.open();
                let template = template(publisher, sequence, topics);
                template.append(identifier, sequence, now_ns, now_ns, out);
            }
        }
        self.published += publisher.window.published() - before;
    }

    /// Puts what is due by now on its publishers, in turn.
    pub(super) fn issue(&mut self, now_ns: u64, effects: &mut Effects) {
        for index in 0..self.schedules.len() {
            let schedule = &self.schedules[index];
            let end_ns = now_ns.min(self.stop_ns.saturating_sub(1));
            if schedule.next_ns() > end_ns {
                continue;
            }
            let (first, due) = (schedule.issued, schedule.due_by(end_ns));
            let publishers = schedule.publishers.len() as u64;
            // Of those whose turn it was, however often: a rate beyond all that can be done costs no more.
            for turn in first..due.min(first + publishers) {
                let turn = turn % publishers;
                let schedule = &self.schedules[index];
                let publisher = schedule.publishers[turn as usize];
                let issued = schedule.share(due, turn);
                let publisher = &mut self.publishers[publisher as usize];
                publisher.issued = issued;
                let peer = publisher.peer;
                self.mark_dirty(peer, effects);
            }
            self.schedules[index].issued = due;
        }
    }
}

#[inline]
fn template(publisher: &Publisher, sequence: u64, topics: u64) -> &PublishTemplate {
    let topic = if topics == 1 { 0 } else { sequence % topics };
    // The first of each topic introduces its alias.
    if publisher.short_templates.is_empty() || sequence < topics {
        &publisher.templates[topic as usize]
    } else {
        &publisher.short_templates[topic as usize]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_message_of_a_schedule_is_due_to_one_publisher_at_its_time() {
        for (publishers, interval_ns, start_ns) in [
            (1, 1000.0, 7),
            (3, 0.7, 10_000),
            (7, 333.3, 0),
            (1000, 10.0, 99),
        ] {
            let schedule = Schedule {
                publishers: (0..publishers).collect(),
                interval_ns,
                start_ns,
                issued: 0,
            };
            let mut due = 0;
            for end_ns in start_ns.saturating_sub(2)..start_ns + 5000 {
                while schedule.due_ns(due) <= end_ns {
                    due += 1;
                }
                assert_eq!(schedule.due_by(end_ns), due, "{schedule:?} until {end_ns}");
            }
            let turns = 0..u64::from(publishers);
            let shares = turns.clone().map(|turn| schedule.share(due, turn));
            assert_eq!(shares.sum::<u64>(), due);
            for turn in turns {
                let (share, count) = (schedule.share(due, turn), u64::from(publishers));
                assert!(share == 0 || (share - 1) * count + turn < due);
                assert!(share * count + turn >= due);
            }
        }
    }
}
