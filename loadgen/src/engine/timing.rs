//! What happens by the clock: commands, intervals of the timeline, stalls, the next deadline.

use fastmq::shard::Effects;
use rustix::time::{ClockId, clock_gettime};

use super::{Command, Engine, Event, Interval, State, histogram};
use crate::wire;

/// A window that has not moved for so long, and waits for deliveries at QoS 0, waits for messages that are lost.
const STALL_NS: u64 = 1_000_000_000;
/// Length of one line of the timeline.
const INTERVAL_NS: u64 = 1_000_000_000;

impl Engine {
    pub(super) fn handle_command(&mut self, command: Command, now_ns: u64, effects: &mut Effects) {
        match command {
            Command::Connect(stage) => self.begin_connecting(stage, false, now_ns),
            Command::Resume(stage) => self.begin_connecting(stage, true, now_ns),
            Command::Begin { start_ns, from_ns } => {
                self.start_ns = start_ns;
                self.from_ns = from_ns;
                let threads = f64::from(self.run.plan.threads);
                for schedule in &mut self.schedules {
                    let turn = schedule.interval_ns * self.thread as f64 / threads;
                    schedule.start_ns = start_ns + turn as u64;
                }
            }
            Command::Stop(at_ns) => self.stop_ns = at_ns,
            Command::Disconnect(stage) => {
                for index in 0..self.peers.len() {
                    let peer = &mut self.peers[index];
                    let plan = &self.run.plan.clients[peer.client as usize];
                    if plan.stage == stage && peer.state == State::Ready {
                        peer.out.extend_from_slice(&wire::DISCONNECT_PACKET);
                        peer.state = State::Leaving;
                        self.mark_dirty(index as u32, effects);
                    }
                }
            }
            Command::Ping => {
                for index in 0..self.peers.len() {
                    if self.peers[index].state != State::Ready {
                        continue;
                    }
                    self.peers[index].is_pinged = true;
                    self.peers[index]
                        .out
                        .extend_from_slice(&wire::PINGREQ_PACKET);
                    self.mark_dirty(index as u32, effects);
                }
            }
        }
    }

    /// Begins and ends the intervals of the timeline.
    pub(super) fn handle_interval(&mut self, now_ns: u64) {
        let cpu_ns = || {
            let time = clock_gettime(ClockId::ThreadCPUTime);
            time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
        };
        if let Some((index, start_ns, published, delivered, cpu_before)) = self.interval {
            let end_ns = (self.from_ns + (index + 1) * INTERVAL_NS).min(self.stop_ns);
            if now_ns < end_ns {
                return;
            }
            self.record_latencies();
            let cpu_now = cpu_ns();
            let _ = self.events.send(Event::Interval(Box::new(Interval {
                index,
                thread: self.thread,
                start_ns,
                end_ns: now_ns,
                published: self.published - published,
                delivered: self.delivered - delivered,
                cpu_ns: cpu_now - cpu_before,
                intended: std::mem::replace(&mut self.intended, histogram()),
                actual: std::mem::replace(&mut self.actual, histogram()),
            })));
            self.interval = (now_ns < self.stop_ns).then_some((
                (now_ns - self.from_ns) / INTERVAL_NS,
                now_ns,
                self.published,
                self.delivered,
                cpu_now,
            ));
        } else if now_ns >= self.from_ns && now_ns < self.stop_ns {
            self.interval = Some((0, now_ns, self.published, self.delivered, cpu_ns()));
        }
    }

    pub(super) fn next_deadline_ns(&self, now_ns: u64) -> u64 {
        let mut deadline_ns = self.tick_ns;
        for schedule in &self.schedules {
            let next_ns = schedule.next_ns();
            if next_ns < self.stop_ns {
                deadline_ns = deadline_ns.min(next_ns);
            }
        }
        if let Some((index, ..)) = self.interval {
            let end_ns = self.from_ns + (index + 1) * INTERVAL_NS;
            deadline_ns = deadline_ns.min(end_ns.min(self.stop_ns));
        }
        for at_ns in [self.start_ns, self.from_ns, self.stop_ns] {
            if at_ns > now_ns {
                deadline_ns = deadline_ns.min(at_ns);
            }
        }
        if !self.waiting.is_empty() && self.under_way < self.under_way_max {
            deadline_ns = deadline_ns.min(self.connect_due_ns().max(now_ns));
        }
        deadline_ns
    }

    /// Where deliveries are at QoS 0, a lost one would hold its place in the window for ever.
    pub(super) fn restart_stalled_windows(&mut self, now_ns: u64, effects: &mut Effects) {
        if now_ns < self.stall_check_ns {
            return;
        }
        self.stall_check_ns = now_ns + STALL_NS / 4;
        for index in 0..self.publishers.len() {
            let publisher = &mut self.publishers[index];
            let may_lose = publisher.may_lose && publisher.window.is_acknowledged();
            if !may_lose || publisher.window.free() > 0 {
                // Only what is full can be stalled.
                publisher.moved_ns = now_ns;
            } else if now_ns.saturating_sub(publisher.moved_ns) > STALL_NS {
                publisher.window.give_up();
                publisher.moved_ns = now_ns;
                self.window_restarts += 1;
                self.wake_publisher(index as u32, now_ns, effects);
            }
        }
    }
}
