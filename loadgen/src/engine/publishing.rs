//! What a publisher sends, and when: as its window allows, or as its schedule says.

use std::collections::VecDeque;
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
    /// When messages that wait for the window were due.
    pub(super) due_ns: VecDeque<u64>,
    pub(super) is_scheduled: bool,
    pub(super) quota: Option<u64>,
    pub(super) moved_ns: u64,
    pub(super) arrivals: u64,
    pub(super) surplus: u64,
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
        self.start_ns
            .saturating_add((self.issued as f64 * self.interval_ns) as u64)
    }
}

impl Publisher {
    /// Whether something is due, or under way.
    pub(super) fn has_outstanding(&self) -> bool {
        !self.due_ns.is_empty() || !self.window.is_empty(self.arrivals - self.surplus)
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
            due_ns: VecDeque::with_capacity(if plan.schedule.is_some() { 64 } else { 0 }),
            is_scheduled: plan.schedule.is_some(),
            quota: plan.quota,
            moved_ns: 0,
            arrivals: 0,
            surplus: 0,
        }
    }
    /// Whether the publisher has something to send and may.
    pub(super) fn wants_output(&self, publisher: &Publisher, now_ns: u64) -> bool {
        publisher.window.free() > 0
            && if publisher.is_scheduled {
                !publisher.due_ns.is_empty()
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
        if publisher.is_scheduled {
            while publisher.window.free() > 0
                && out.len() < BATCH_SIZE_MAX
                && let Some(due_ns) = publisher.due_ns.pop_front()
            {
                let (sequence, identifier) = publisher.window.open();
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
            loop {
                let schedule = &mut self.schedules[index];
                let due_ns = schedule.next_ns();
                if due_ns > now_ns || due_ns >= self.stop_ns {
                    break;
                }
                let turn = schedule.issued % schedule.publishers.len() as u64;
                let publisher = schedule.publishers[turn as usize];
                schedule.issued += 1;
                let publisher = &mut self.publishers[publisher as usize];
                publisher.due_ns.push_back(due_ns);
                let peer = publisher.peer;
                self.mark_dirty(peer, effects);
            }
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
