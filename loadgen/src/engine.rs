//! Runs a plan: one thread, one poll, read everything, then publish what the windows allow.
//!
//! # Always true
//! - A message is published only into a free place of its publisher's window, so a saturating load
//!   stays within what the broker holds, at every QoS.
//! - Warm-up, measured interval and drain are one uninterrupted load; the truth (lost, duplicated,
//!   reordered) is counted over all three, speed and cost over the second.
//! - Latency counts from when a message was due; with a saturating pace that is when it was encoded.

use std::collections::VecDeque;
use std::time::Duration;

use hdrhistogram::Histogram;
use mio::{Events, Token};

use crate::accounting::{Arrival, Flow, Window};
use crate::clock::{Clock, Timer};
use crate::connection::{Connection, Received};
use crate::failure::Failure;
use crate::options::Common;
use crate::process;
use crate::report::{Cost, Report, Truth};
use crate::setup::{self, Connected};
use crate::wire::{self, Frame, PublishTemplate, Stamp, Version};
use crate::workload::{Client, Pace, Plan, client_identifier};

const TIMER: Token = Token(usize::MAX - 1);
/// Unwritten bytes of one connection at which publishing waits for the socket.
const BATCH_SIZE_MAX: usize = 64 * 1024;
/// A QoS 0 window that has not moved for so long is waiting for messages that are lost.
const STALL_NS: u64 = 1_000_000_000;
/// Quiet time after the last expected message, in which duplicates would show.
const QUIET_NS: u64 = 100_000_000;
/// The whole drain, however slowly it moves.
const DRAIN_NS_MAX: u64 = 60_000_000_000;

pub fn run(common: &Common, plan: Plan) -> Result<Report, Failure> {
    let clock = Clock::start();
    let filters = plan
        .clients
        .iter()
        .map(|client| client.topic_filter.as_deref());
    let connected = setup::connect_all(common, clock, filters)?;
    let timer = Timer::new(TIMER, connected.poll.registry())?;
    let mut engine = Engine::new(common, plan, clock, connected);
    let outcome = engine.drive(&timer)?;
    for connection in &mut engine.connections {
        connection.out.extend_from_slice(&wire::DISCONNECT_PACKET);
        // The run is over and its figures stand, whatever becomes of the farewell.
        let _ = connection.flush();
    }
    Ok(engine.report(common, outcome))
}

struct Engine<'a> {
    common: &'a Common,
    poll: mio::Poll,
    connections: Vec<Connection>,
    load: Load,
    schedule: Option<Schedule>,
    buffer: Vec<u8>,
}

/// What the measured interval cost.
struct Outcome {
    seconds: f64,
    published: u64,
    delivered: u64,
    cost: Cost,
}

/// Everything but the sockets: who published what, and what became of it.
struct Load {
    name: &'static str,
    version: Version,
    qos: u8,
    clock: Clock,
    filler: Vec<u8>,
    clients: Vec<Client>,
    /// One for each source of each Client, beginning at `flow_base` of that Client.
    flows: Vec<Flow>,
    flow_base: Vec<u32>,
    publishers: Vec<Publisher>,
    /// Publishers that may have something to send.
    ready: Vec<u32>,
    latency_ns: Histogram<u64>,
    lag_ns: Histogram<u64>,
    /// Messages due in this interval are in the histograms.
    measured_ns: std::ops::Range<u64>,
    /// Equal latencies in a row, which a batch has, go into the histogram together.
    run_of_latency: (u64, u64),
    delivered: u64,
    corrupt: u64,
    window_restarts: u64,
    stall_check_ns: u64,
}

struct Publisher {
    client: u32,
    template: PublishTemplate,
    window: Window,
    /// When messages that wait for the window were due. Unused when saturating.
    due_ns: VecDeque<u64>,
    is_ready: bool,
    moved_ns: u64,
}

/// An absolute schedule: message k is due at start + k / rate, whatever happened to those before.
struct Schedule {
    start_ns: u64,
    end_ns: u64,
    interval_ns: f64,
    issued: u64,
}

impl Schedule {
    fn next_ns(&self) -> u64 {
        self.start_ns + (self.issued as f64 * self.interval_ns) as u64
    }
}

impl<'a> Engine<'a> {
    fn new(common: &'a Common, plan: Plan, clock: Clock, connected: Connected) -> Self {
        let mut publishers: Vec<_> = Vec::with_capacity(plan.publishers.len());
        for (index, publisher) in plan.publishers.iter().enumerate() {
            let template = PublishTemplate::new(
                common.protocol,
                &publisher.topic_name,
                common.qos,
                index as u32,
                common.payload,
            );
            let mut window = Window::new(plan.window, publisher.subscriber_count, common.qos);
            if common.qos > 0 {
                window.restrict(connected.receive_maximum.into());
            }
            publishers.push(Publisher {
                client: publisher.client,
                template,
                window,
                due_ns: VecDeque::new(),
                is_ready: false,
                moved_ns: 0,
            });
        }
        let mut flow_count = 0;
        let flow_base = plan.clients.iter().map(|client| {
            let base = flow_count;
            flow_count += client.source_count;
            base
        });
        let flow_base = flow_base.collect();
        let start_ns = clock.now_ns();
        let measured_start_ns = start_ns + nanoseconds(common.warmup);
        let end_ns = measured_start_ns + nanoseconds(common.duration);
        let schedule = match plan.pace {
            Pace::Saturate => None,
            Pace::Schedule { rate } => Some(Schedule {
                start_ns,
                end_ns,
                interval_ns: 1e9 / rate,
                issued: 0,
            }),
        };
        let load = Load {
            name: plan.name,
            version: common.protocol,
            qos: common.qos,
            clock,
            filler: wire::filler(common.payload),
            flows: std::iter::repeat_with(Flow::default)
                .take(flow_count as usize)
                .collect(),
            flow_base,
            clients: plan.clients,
            publishers,
            ready: Vec::new(),
            latency_ns: histogram(),
            lag_ns: histogram(),
            measured_ns: measured_start_ns..end_ns,
            run_of_latency: (0, 0),
            delivered: 0,
            corrupt: 0,
            window_restarts: 0,
            stall_check_ns: 0,
        };
        Self {
            common,
            poll: connected.poll,
            connections: connected.connections,
            load,
            schedule,
            buffer: vec![0; setup::BUFFER_SIZE],
        }
    }

    /// Warm-up, measured interval, drain.
    fn drive(&mut self, timer: &Timer) -> Result<Outcome, Failure> {
        let mut events = Events::with_capacity(1024);
        let measured_ns = self.load.measured_ns.clone();
        if self.schedule.is_none() {
            for index in 0..self.load.publishers.len() {
                self.load.make_ready(index);
            }
        }
        while self.load.clock.now_ns() < measured_ns.start {
            self.turn(timer, &mut events, true)?;
        }

        let before = Cost::sample(self.common.broker_pid)?;
        let start_ns = self.load.clock.now_ns();
        let (published, delivered) = (self.load.published(), self.load.delivered);
        while self.load.clock.now_ns() < measured_ns.end {
            self.turn(timer, &mut events, true)?;
        }
        let after = Cost::sample(self.common.broker_pid)?;
        let seconds = (self.load.clock.now_ns() - start_ns) as f64 / 1e9;
        let outcome = Outcome {
            seconds,
            published: self.load.published() - published,
            delivered: self.load.delivered - delivered,
            cost: after.since(&before),
        };
        self.drain(timer, &mut events)?;
        Ok(outcome)
    }

    /// Publishes nothing new and waits for what is under way.
    fn drain(&mut self, timer: &Timer, events: &mut Events) -> Result<(), Failure> {
        let start_ns = self.load.clock.now_ns();
        let mut moved = (start_ns, self.load.delivered);
        let mut quiet_since_ns = None;
        loop {
            self.turn(timer, events, false)?;
            let now_ns = self.load.clock.now_ns();
            if self.load.is_drained() {
                if now_ns - *quiet_since_ns.get_or_insert(now_ns) > QUIET_NS {
                    return Ok(());
                }
            } else if moved.1 != self.load.delivered {
                moved = (now_ns, self.load.delivered);
            } else if now_ns - moved.0 > nanoseconds(self.common.drain) {
                return Ok(());
            }
            if now_ns - start_ns > DRAIN_NS_MAX {
                return Ok(());
            }
        }
    }

    /// One round: wait, read, publish.
    fn turn(&mut self, timer: &Timer, events: &mut Events, more: bool) -> Result<(), Failure> {
        let mut timeout = Duration::from_millis(20);
        if !self.load.ready.is_empty() {
            timeout = Duration::ZERO;
        } else if let Some(schedule) = &self.schedule
            && more
        {
            let delay_ns = schedule.next_ns().saturating_sub(self.load.clock.now_ns());
            timer.set(Duration::from_nanos(delay_ns))?;
        }
        setup::wait(&mut self.poll, events, timeout)?;
        for event in &*events {
            if event.token() != TIMER {
                self.handle_event(event.token().0, event.is_writable())?;
            }
        }
        if let Some(schedule) = &mut self.schedule {
            self.load.issue(schedule);
        }
        self.load.restart_stalled_windows();
        self.publish(more)
    }

    fn handle_event(&mut self, index: usize, is_writable: bool) -> Result<(), Failure> {
        let Self {
            connections,
            load,
            buffer,
            common,
            ..
        } = self;
        let connection = &mut connections[index];
        let was_blocked = connection.is_blocked();
        if is_writable && connection.handle_writable().is_err() {
            return Err(lost(common, index));
        }
        if was_blocked
            && !connection.is_blocked()
            && let Some(publisher) = load.clients[index].publisher
        {
            load.make_ready(publisher as usize);
        }
        let now_ns = load.clock.now_ns();
        let received = connection.receive(buffer, |out, frame, bytes| {
            load.handle_packet(index, frame, bytes, now_ns, out)
        })?;
        load.record_latencies();
        if received == Received::Closed || connection.flush().is_err() {
            return Err(lost(common, index));
        }
        Ok(())
    }

    fn publish(&mut self, more: bool) -> Result<(), Failure> {
        let mut ready = std::mem::take(&mut self.load.ready);
        for index in ready.drain(..) {
            let saturate = self.schedule.is_none();
            self.load.publishers[index as usize].is_ready = false;
            let client = self.load.publishers[index as usize].client as usize;
            let connection = &mut self.connections[client];
            while !connection.is_blocked() {
                let wrote = match saturate {
                    true if more => self.load.fill(index as usize, &mut connection.out),
                    true => false,
                    false => self.load.fill_due(index as usize, &mut connection.out),
                };
                if connection.flush().is_err() {
                    let client = client_identifier(client);
                    return Err(Failure::Closed {
                        client,
                        when: "during the run",
                    });
                }
                if !wrote {
                    break;
                }
            }
        }
        // Nothing became ready meanwhile, so this only keeps the allocation.
        self.load.ready = ready;
        Ok(())
    }

    fn report(self, common: &Common, outcome: Outcome) -> Report {
        let Self {
            load,
            connections,
            schedule,
            ..
        } = self;
        let truth = load.truth();
        let mut report = Report::new(load.name, common, connections.len() as u64);
        report.seconds = outcome.seconds;
        report.window = load
            .publishers
            .first()
            .map(|publisher| publisher.window.limit());
        report.published_per_second = Some(outcome.published as f64 / outcome.seconds);
        report.delivered = Some(outcome.delivered);
        report.delivered_per_second = Some(outcome.delivered as f64 / outcome.seconds);
        report.rate = schedule.map(|schedule| 1e9 / schedule.interval_ns);
        report.set_latency(&load.latency_ns);
        if report.rate.is_some() {
            report.lag_us_p99 = Some(load.lag_ns.value_at_quantile(0.99) as f64 / 1e3);
        }
        report.window_restarts = load.window_restarts;
        report.set_cost(&outcome.cost, outcome.seconds, outcome.delivered);
        report.set_truth(truth, common.qos);
        report
    }
}

/// Why a connection ended. A dead broker says more than a closed connection.
fn lost(common: &Common, index: usize) -> Failure {
    if let Some(process_id) = common.broker_pid {
        // Its sockets close a moment before it is gone.
        std::thread::sleep(Duration::from_millis(200));
        if !process::is_alive(process_id) {
            return Failure::BrokerDied(process_id);
        }
    }
    Failure::Closed {
        client: client_identifier(index),
        when: "during the run",
    }
}

impl Load {
    fn published(&self) -> u64 {
        self.publishers
            .iter()
            .map(|publisher| publisher.window.published())
            .sum()
    }

    fn make_ready(&mut self, publisher: usize) {
        let publisher_state = &mut self.publishers[publisher];
        if !publisher_state.is_ready {
            publisher_state.is_ready = true;
            self.ready.push(publisher as u32);
        }
    }

    /// Puts what is due by now on its publishers, in turn.
    fn issue(&mut self, schedule: &mut Schedule) {
        let now_ns = self.clock.now_ns().min(schedule.end_ns);
        loop {
            let due_ns = schedule.next_ns();
            if due_ns > now_ns || due_ns >= schedule.end_ns {
                return;
            }
            let publisher = (schedule.issued % self.publishers.len() as u64) as usize;
            schedule.issued += 1;
            self.publishers[publisher].due_ns.push_back(due_ns);
            self.make_ready(publisher);
        }
    }

    /// Encodes a batch. True when there may be more.
    // HOT: per PUBLISH sent.
    fn fill(&mut self, publisher: usize, out: &mut Vec<u8>) -> bool {
        let Publisher {
            window, template, ..
        } = &mut self.publishers[publisher];
        let batch_max = (BATCH_SIZE_MAX / template.size()).max(1) as u64;
        let count = window.free().min(batch_max);
        let now_ns = self.clock.now_ns();
        for _ in 0..count {
            let (sequence, packet_identifier) = window.open();
            template.append(packet_identifier, sequence, now_ns, out);
        }
        count > 0
    }

    /// Encodes what is due and fits the window. True when there may be more.
    fn fill_due(&mut self, publisher: usize, out: &mut Vec<u8>) -> bool {
        let Publisher {
            window,
            template,
            due_ns,
            ..
        } = &mut self.publishers[publisher];
        let now_ns = self.clock.now_ns();
        let mut wrote = false;
        while window.free() > 0
            && out.len() < BATCH_SIZE_MAX
            && let Some(due_ns) = due_ns.pop_front()
        {
            let (sequence, packet_identifier) = window.open();
            template.append(packet_identifier, sequence, due_ns, out);
            if self.measured_ns.contains(&due_ns) {
                self.lag_ns.saturating_record(now_ns.saturating_sub(due_ns));
            }
            wrote = true;
        }
        wrote
    }

    // HOT: per packet received.
    #[inline]
    fn handle_packet(
        &mut self,
        client: usize,
        frame: Frame,
        bytes: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let body = &bytes[frame.body];
        if frame.first_byte & 0xf0 == wire::PUBLISH {
            return self.handle_publish(client, frame.first_byte, body, now_ns, out);
        }
        match frame.first_byte {
            wire::PUBACK | wire::PUBREC | wire::PUBCOMP => {
                let (packet_identifier, code) = wire::read_acknowledgement(body)?;
                if code >= 0x80 {
                    return Err(Failure::PublishRefused { code });
                }
                self.handle_acknowledgement(client, frame.first_byte, packet_identifier, out)
            }
            wire::PUBREL => {
                let (packet_identifier, _) = wire::read_acknowledgement(body)?;
                wire::write_acknowledgement(wire::PUBCOMP, packet_identifier, out);
                Ok(())
            }
            wire::SERVER_DISCONNECT => {
                let code = body.first().copied().unwrap_or(0);
                Err(Failure::Disconnected {
                    client: client_identifier(client),
                    code,
                })
            }
            unexpected => Err(Failure::Unexpected(unexpected)),
        }
    }

    #[inline]
    fn handle_publish(
        &mut self,
        client: usize,
        first_byte: u8,
        body: &[u8],
        now_ns: u64,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let received = wire::read_publish(self.version, first_byte, body)?;
        match received.qos {
            0 => {}
            1 => wire::write_acknowledgement(wire::PUBACK, received.packet_identifier, out),
            _ => wire::write_acknowledgement(wire::PUBREC, received.packet_identifier, out),
        }
        let Client {
            first_source,
            source_count,
            ..
        } = self.clients[client];
        let intact = received.payload.get(wire::STAMP_SIZE..) == Some(&self.filler[..]);
        let stamp = Stamp::read(received.payload).filter(|stamp| {
            let source = stamp.publisher.wrapping_sub(first_source);
            intact && source < source_count && received.qos == self.qos
        });
        let Some(stamp) = stamp else {
            self.corrupt += 1;
            return Ok(());
        };
        let source = stamp.publisher - first_source;
        let flow = &mut self.flows[(self.flow_base[client] + source) as usize];
        if flow.observe(stamp.sequence) == Arrival::Duplicate {
            return Ok(());
        }
        self.delivered += 1;
        let latency_ns = now_ns.saturating_sub(stamp.sent_ns);
        if self.measured_ns.contains(&stamp.sent_ns) {
            if latency_ns != self.run_of_latency.0 {
                self.record_latencies();
                self.run_of_latency.0 = latency_ns;
            }
            self.run_of_latency.1 += 1;
        }
        let publisher = stamp.publisher as usize;
        if self.publishers[publisher].window.complete(stamp.sequence) {
            self.publishers[publisher].moved_ns = now_ns;
            self.make_ready(publisher);
        }
        Ok(())
    }

    fn record_latencies(&mut self) {
        let (latency_ns, count) = self.run_of_latency;
        if count > 0 {
            self.latency_ns.saturating_record_n(latency_ns, count);
        }
        self.run_of_latency.1 = 0;
    }

    fn handle_acknowledgement(
        &mut self,
        client: usize,
        first_byte: u8,
        packet_identifier: u16,
        out: &mut Vec<u8>,
    ) -> Result<(), Failure> {
        let unexpected = Failure::UnexpectedAcknowledgement(packet_identifier);
        let Some(publisher) = self.clients[client].publisher else {
            return Err(unexpected);
        };
        let window = &mut self.publishers[publisher as usize].window;
        if first_byte == wire::PUBREC {
            if self.qos != 2 || !window.release(packet_identifier) {
                return Err(unexpected);
            }
            wire::write_acknowledgement(wire::PUBREL, packet_identifier, out);
            return Ok(());
        }
        let of_qos = if first_byte == wire::PUBACK { 1 } else { 2 };
        let moved = if of_qos == self.qos {
            window.acknowledge(packet_identifier, self.qos)
        } else {
            None
        };
        if moved.ok_or(unexpected)? {
            self.make_ready(publisher as usize);
        }
        Ok(())
    }

    /// At QoS 0 a lost message would hold its place in the window for ever.
    fn restart_stalled_windows(&mut self) {
        if self.qos > 0 {
            return;
        }
        let now_ns = self.clock.now_ns();
        if now_ns < self.stall_check_ns {
            return;
        }
        self.stall_check_ns = now_ns + STALL_NS / 4;
        for index in 0..self.publishers.len() {
            let Publisher {
                window, moved_ns, ..
            } = &mut self.publishers[index];
            if window.free() > 0 {
                // Only what is full can be stalled.
                *moved_ns = now_ns;
            } else if now_ns.saturating_sub(*moved_ns) > STALL_NS {
                window.give_up();
                *moved_ns = now_ns;
                self.window_restarts += 1;
                self.make_ready(index);
            }
        }
    }

    fn is_drained(&self) -> bool {
        self.publishers
            .iter()
            .all(|publisher| publisher.window.is_empty() && publisher.due_ns.is_empty())
    }

    fn truth(&self) -> Truth {
        let mut truth = Truth {
            published: self.published(),
            delivered: self.delivered,
            corrupt: self.corrupt,
            ..Truth::default()
        };
        for (client, &base) in self.clients.iter().zip(&self.flow_base) {
            for source in 0..client.source_count {
                let flow = &self.flows[(base + source) as usize];
                let publisher = &self.publishers[(client.first_source + source) as usize];
                truth.lost += flow.lost(publisher.window.published());
                truth.duplicated += flow.duplicated();
                truth.reordered += flow.reordered();
            }
        }
        let unsent = self
            .publishers
            .iter()
            .map(|publisher| publisher.due_ns.len() as u64);
        truth.unsent = unsent.sum();
        truth
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}

/// From 1 ns to 10 minutes with three digits.
fn histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000_000, 3).expect("bounds are constant and valid")
}
