//! One thread's clients: what they say, what they hear, and what became of every message.
//!
//! The engine is a [`Core`]: the project's data path feeds it bytes and takes its output. The main
//! thread ([`mod@crate::run`]) commands all engines and collects what they found.
//!
//! # Always true
//! - A message is published only into a free place of its publisher's window, so a saturating load
//!   stays within what the broker holds, at every QoS.
//! - Warm-up, measured interval and drain are one uninterrupted load; the truth (lost, duplicated,
//!   reordered) is counted over all three, speed and cost over the second.
//! - A publisher and its window belong to one thread. What its subscribers on other threads have
//!   received comes as runs of sequences, through the rings between the threads.
//! - Once all clients are connected, no message allocates.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::net::Core;
use fastmq::shard::Effects;
use fastmq::time::Instant;
use hdrhistogram::Histogram;
use rustix::time::{ClockId, clock_gettime};

use crate::accounting::{Arrival, Flow, Window};
use crate::clock::Clock;
use crate::failure::Failure;
use crate::options::Common;
use crate::plan::{Delivery, Plan, Script, client_identifier};
use crate::transport::{Transport, Wrapping};
use crate::wire::{self, Connect, PublishTemplate, Stamp};

/// Bytes of output of one connection at which publishing waits until they are sent.
const BATCH_SIZE_MAX: usize = 64 * 1024;
/// A QoS 0 window that has not moved for so long is waiting for messages that are lost.
const STALL_NS: u64 = 1_000_000_000;
/// How often an engine looks for commands and stalls.
const TICK_NS: u64 = 10_000_000;
/// Length of one line of the timeline.
pub const INTERVAL_NS: u64 = 1_000_000_000;
/// A message sent so much later than it was due is an overrun.
const OVERRUN_NS: u64 = 1_000_000;
/// Topic Filters in one SUBSCRIBE.
const FILTERS_MAX: usize = 100;

/// What the main thread tells all engines, in this order.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    /// Connects the clients of this stage.
    Connect(u8),
    /// Disconnects them; their Sessions stay.
    Disconnect(u8),
    /// Connects them again, to the Sessions they had.
    Resume(u8),
    /// Publishes from `start_ns` on, measures from `from_ns` on.
    Begin { start_ns: u64, from_ns: u64 },
    /// Publishes and measures until then.
    Stop(u64),
    /// Asks every connection for a PINGRESP.
    Ping,
}

/// How far one engine is. Written by it, read by the main thread.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct Status {
    pub ready: AtomicU64,
    /// Disconnected as they were told.
    pub left: AtomicU64,
    pub pongs: AtomicU64,
    pub published: AtomicU64,
    pub delivered: AtomicU64,
    /// Publishers with messages that are not through, at the last tick.
    pub outstanding: AtomicU64,
    pub last_delivery_ns: AtomicU64,
}

/// What all engines of a run share.
#[derive(Debug)]
pub struct Run {
    pub plan: Plan,
    pub common: Common,
    pub address: SocketAddr,
    pub wrapping: Option<Wrapping>,
    pub clock: Clock,
    pub filler: Vec<u8>,
    /// Thread of each publisher, and its index there.
    pub owners: Vec<(u16, u32)>,
    pub commands: Mutex<Vec<Command>>,
    pub command_count: AtomicUsize,
    pub status: Vec<Status>,
}

impl Run {
    pub fn new(
        plan: Plan,
        common: &Common,
        address: SocketAddr,
        clock: Clock,
    ) -> Result<Self, Failure> {
        let mut counts = vec![0; plan.threads.into()];
        let owners = plan.publishers.iter().map(|publisher| {
            let thread = plan.clients[publisher.client as usize].thread;
            let count: &mut u32 = &mut counts[usize::from(thread)];
            *count += 1;
            (thread, *count - 1)
        });
        let owners = owners.collect();
        let largest = plan.publishers.iter().map(|publisher| publisher.payload);
        let filler = wire::filler(largest.max().unwrap_or(0), common.seed);
        let status = (0..plan.threads).map(|_| Status::default()).collect();
        Ok(Self {
            plan,
            common: common.clone(),
            address,
            wrapping: Wrapping::new(common)?,
            clock,
            filler,
            owners,
            commands: Mutex::default(),
            command_count: AtomicUsize::new(0),
            status,
        })
    }

    pub fn command(&self, command: Command) {
        if let Ok(mut commands) = self.commands.lock() {
            commands.push(command);
            self.command_count.store(commands.len(), Ordering::Release);
        }
    }

    pub fn sum(&self, field: impl Fn(&Status) -> &AtomicU64) -> u64 {
        let values = self.status.iter();
        values.map(|s| field(s).load(Ordering::Relaxed)).sum()
    }
}

/// One thread's part of one interval.
#[derive(Debug)]
pub struct Interval {
    pub index: u64,
    pub start_ns: u64,
    pub end_ns: u64,
    pub published: u64,
    pub delivered: u64,
    pub cpu_ns: u64,
    pub intended: Histogram<u64>,
    pub actual: Histogram<u64>,
}

/// What became of one publisher's messages to one subscriber.
#[derive(Debug)]
pub struct FlowEnd {
    pub publisher: u32,
    pub topic: u64,
    /// The lower one of publisher and subscriber.
    pub qos: u8,
    pub is_shared: bool,
    pub flow: Flow,
}

#[derive(Debug)]
pub struct PublisherEnd {
    pub publisher: u32,
    pub published: u64,
    pub unsent: u64,
    /// Of a shared subscription: deliveries in all, and those that were too many.
    pub arrivals: u64,
    pub surplus: u64,
}

/// What one engine found.
#[derive(Debug)]
pub struct End {
    pub flows: Vec<FlowEnd>,
    pub publishers: Vec<PublisherEnd>,
    pub corrupt: u64,
    pub overruns: u64,
    pub window_restarts: u64,
    /// Latencies since the last interval.
    pub intended: Histogram<u64>,
    pub actual: Histogram<u64>,
}

/// From an engine to the main thread.
#[derive(Debug)]
pub enum Event {
    Interval(Box<Interval>),
    Failed(Failure),
    End(Box<End>),
}

/// Messages `first` and `count` after it have reached one subscriber of a publisher.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered {
    /// Its index on the thread that gets this.
    publisher: u32,
    first: u64,
    count: u64,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum State {
    Offline,
    Connecting,
    AwaitingConnAck,
    AwaitingSubAck,
    Ready,
    /// Has sent DISCONNECT and waits for the broker to close.
    Leaving,
}

/// One connection.
#[derive(Debug)]
struct Peer {
    client: u32,
    generation: u32,
    state: State,
    is_dirty: bool,
    is_resuming: bool,
    subacks_missing: u16,
    qos: u8,
    delivery: Delivery,
    publisher: Option<u32>,
    first_source: u32,
    source_count: u32,
    flow_base: u32,
    unsent: usize,
    /// When connecting was due, and when it began.
    due_ns: u64,
    since_ns: u64,
    out: Vec<u8>,
    transport: Option<Box<Transport>>,
}

#[derive(Debug)]
struct Publisher {
    peer: u32,
    /// One for each topic.
    templates: Vec<PublishTemplate>,
    /// Without the topic: once its alias is known.
    short_templates: Vec<PublishTemplate>,
    qos: u8,
    window: Window,
    /// When messages that wait for the window were due.
    due_ns: VecDeque<u64>,
    is_scheduled: bool,
    quota: Option<u64>,
    moved_ns: u64,
    arrivals: u64,
    surplus: u64,
}

/// An absolute schedule: message k is due at start + k * interval, whatever happened to others.
#[derive(Debug)]
struct Schedule {
    publishers: Vec<u32>,
    interval_ns: f64,
    start_ns: u64,
    issued: u64,
}

impl Schedule {
    fn next_ns(&self) -> u64 {
        self.start_ns
            .saturating_add((self.issued as f64 * self.interval_ns) as u64)
    }
}

/// What hears only part of the sources needs to know which flows are whose.
fn flows_of(plan: &Plan, first: u32, count: u32) -> u32 {
    let sources = &plan.publishers[first as usize..(first + count) as usize];
    sources.iter().map(|p| p.topic_names.len() as u32).sum()
}

/// The clients of one thread.
#[derive(Debug)]
pub struct Engine {
    thread: usize,
    run: Arc<Run>,
    events: Sender<Event>,
    peers: Vec<Peer>,
    publishers: Vec<Publisher>,
    schedules: Vec<Schedule>,
    flows: Vec<Flow>,
    /// Are to be connected, oldest first.
    waiting: VecDeque<u32>,
    under_way: usize,
    under_way_max: usize,
    connect_interval_ns: Option<f64>,
    connect_start_ns: u64,
    connects_begun: u64,
    outbound: Vec<VecDeque<Delivered>>,
    /// Deliveries of one publisher in a row, not told to its window yet. Names it globally.
    delivered_run: Delivered,
    commands_done: usize,
    start_ns: u64,
    from_ns: u64,
    stop_ns: u64,
    tick_ns: u64,
    stall_check_ns: u64,
    deadline_ns: u64,
    /// What the data path's clock shows more than ours.
    clock_offset_ns: i64,
    interval: Option<(u64, u64, u64, u64, u64)>,
    intended: Histogram<u64>,
    actual: Histogram<u64>,
    /// Equal latencies in a row, which a batch has, go into the histogram together.
    latency_run: (u64, u64, u64),
    published: u64,
    delivered: u64,
    corrupt: u64,
    overruns: u64,
    window_restarts: u64,
    pings_sent: bool,
    has_failed: bool,
    is_ending: bool,
}

impl Engine {
    pub fn new(shard: ShardId, run: &Arc<Run>, events: Sender<Event>) -> Self {
        let thread = shard.index();
        let plan = &run.plan;
        let threads = usize::from(plan.threads);
        let mut peers = Vec::new();
        let mut publishers = Vec::new();
        let mut flow_count = 0;
        for (index, client) in plan.clients.iter().enumerate() {
            if usize::from(client.thread) != thread {
                continue;
            }
            let publisher = client.publisher.map(|publisher| {
                let owner = run.owners[publisher as usize];
                debug_assert_eq!(usize::from(owner.0), thread);
                owner.1
            });
            let peer = peers.len() as u32;
            if let Some(global) = client.publisher {
                publishers.push((global, Self::publisher(run, global, peer)));
            }
            let flow_base = flow_count;
            flow_count += flows_of(plan, client.first_source, client.source_count);
            peers.push(Peer {
                client: index as u32,
                generation: 0,
                state: State::Offline,
                is_dirty: false,
                is_resuming: false,
                subacks_missing: 0,
                qos: client.qos,
                delivery: client.delivery,
                publisher,
                first_source: client.first_source,
                source_count: client.source_count,
                flow_base,
                unsent: 0,
                due_ns: 0,
                since_ns: 0,
                out: Vec::new(),
                transport: None,
            });
        }
        // In the order of the plan, which is what `owners` counts in.
        publishers.sort_by_key(|&(global, _)| global);
        let publishers: Vec<Publisher> = publishers.into_iter().map(|(_, p)| p).collect();
        let schedules = plan.schedules.iter().enumerate().map(|(schedule, &rate)| {
            let takes_part = |p: &&crate::plan::Publisher| p.schedule == Some(schedule as u16);
            let total = plan.publishers.iter().filter(takes_part).count();
            let members: Vec<u32> = (0..plan.publishers.len())
                .filter(|&p| plan.publishers[p].schedule == Some(schedule as u16))
                .map(|p| run.owners[p])
                .filter(|owner| usize::from(owner.0) == thread)
                .map(|owner| owner.1)
                .collect();
            let share = members.len() as f64 / total.max(1) as f64;
            Schedule {
                publishers: members,
                interval_ns: 1e9 / (rate * share).max(1e-9),
                start_ns: u64::MAX,
                issued: 0,
            }
        });
        let schedules = schedules.filter(|s| !s.publishers.is_empty()).collect();
        Self {
            thread,
            run: run.clone(),
            events,
            peers,
            publishers,
            schedules,
            flows: std::iter::repeat_with(Flow::default)
                .take(flow_count as usize)
                .collect(),
            waiting: VecDeque::new(),
            under_way: 0,
            under_way_max: (plan.under_way_max / threads).max(1),
            connect_interval_ns: plan.connect_rate.map(|rate| 1e9 * threads as f64 / rate),
            connect_start_ns: 0,
            connects_begun: 0,
            outbound: (0..threads)
                .map(|_| VecDeque::with_capacity(1024))
                .collect(),
            delivered_run: Delivered::default(),
            commands_done: 0,
            start_ns: u64::MAX,
            from_ns: u64::MAX,
            stop_ns: u64::MAX,
            tick_ns: 0,
            stall_check_ns: 0,
            deadline_ns: 0,
            clock_offset_ns: i64::MIN,
            interval: None,
            intended: histogram(),
            actual: histogram(),
            latency_run: (0, 0, 0),
            published: 0,
            delivered: 0,
            corrupt: 0,
            overruns: 0,
            window_restarts: 0,
            pings_sent: false,
            has_failed: false,
            is_ending: false,
        }
    }

    fn publisher(run: &Run, global: u32, peer: u32) -> Publisher {
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
                topic_alias: uses_aliases.then_some(index as u16 + 1),
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
            window: Window::new(plan.window, plan.needed, plan.qos),
            due_ns: VecDeque::with_capacity(if plan.schedule.is_some() { 64 } else { 0 }),
            is_scheduled: plan.schedule.is_some(),
            quota: plan.quota,
            moved_ns: 0,
            arrivals: 0,
            surplus: 0,
        }
    }

    fn status(&self) -> &Status {
        &self.run.status[self.thread]
    }

    fn key(&self, index: u32) -> ConnectionKey {
        ConnectionKey {
            index,
            generation: self.peers[index as usize].generation,
        }
    }

    fn is_current(&self, key: ConnectionKey) -> bool {
        let peer = &self.peers[key.index as usize];
        peer.generation == key.generation && peer.state != State::Offline
    }

    #[inline]
    fn mark_dirty(&mut self, index: u32, effects: &mut Effects) {
        let peer = &mut self.peers[index as usize];
        if !peer.is_dirty && peer.state != State::Offline {
            peer.is_dirty = true;
            effects.dirty.push(ConnectionKey {
                index,
                generation: peer.generation,
            });
        }
    }

    #[cold]
    fn fail(&mut self, failure: Failure) {
        if !self.has_failed && !self.is_ending {
            self.has_failed = true;
            let _ = self.events.send(Event::Failed(failure));
        }
    }

    // --- connecting ---

    fn begin_connecting(&mut self, stage: u8, is_resuming: bool, now_ns: u64) {
        self.connect_start_ns = now_ns;
        self.connects_begun = 0;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if self.run.plan.clients[peer.client as usize].stage == stage {
                peer.is_resuming = is_resuming;
                self.waiting.push_back(index as u32);
            }
        }
    }

    fn connect_due_ns(&self) -> u64 {
        match self.connect_interval_ns {
            Some(interval) => {
                // Threads take turns.
                let turn = self.connects_begun as f64
                    + self.thread as f64 / f64::from(self.run.plan.threads);
                self.connect_start_ns + (turn * interval) as u64
            }
            None => 0,
        }
    }

    fn is_timed(&self) -> bool {
        matches!(
            self.run.plan.script,
            Script::Visits | Script::Hold { timed: true }
        )
    }

    fn write_connect(&mut self, index: u32) {
        let run = self.run.clone();
        let peer = &mut self.peers[index as usize];
        let plan = &run.plan.clients[peer.client as usize];
        let connect = Connect {
            version: run.common.protocol,
            client_identifier: &client_identifier(peer.client),
            user: run.common.user.as_deref(),
            password: run.common.password.as_deref(),
            is_persistent: plan.is_persistent,
            is_clean: !plan.is_persistent,
            topic_alias_maximum: if run.common.topic_aliases { 64 } else { 0 },
        };
        wire::write_connect(&connect, &mut peer.out);
        peer.state = State::AwaitingConnAck;
    }

    fn handle_connack(&mut self, index: u32, body: &[u8], now_ns: u64) -> Result<(), Failure> {
        let run = self.run.clone();
        let connack = wire::read_connack(run.common.protocol, body)?;
        let peer = &mut self.peers[index as usize];
        let client = peer.client;
        let plan = &run.plan.clients[client as usize];
        if connack.reason_code != 0 {
            return Err(Failure::ConnectRefused {
                client: client_identifier(client),
                code: connack.reason_code,
            });
        }
        if let Some(publisher) = peer.publisher {
            let publisher = &mut self.publishers[publisher as usize];
            if publisher.qos > connack.maximum_qos {
                return Err(Failure::QosTooHigh {
                    supported: connack.maximum_qos,
                });
            }
            if publisher.qos > 0 {
                publisher.window.restrict(connack.receive_maximum.into());
            }
            if usize::from(connack.topic_alias_maximum) < publisher.templates.len()
                && !publisher.short_templates.is_empty()
            {
                return Err(Failure::Options(format!(
                    "--topic-aliases: the broker takes {} and there are {} topics",
                    connack.topic_alias_maximum,
                    publisher.templates.len()
                )));
            }
        }
        if peer.is_resuming && !connack.session_present {
            return Err(Failure::SessionLost {
                client: client_identifier(client),
            });
        }
        if plan.topic_filters.is_empty() || peer.is_resuming {
            self.become_ready(index, now_ns);
            return Ok(());
        }
        peer.state = State::AwaitingSubAck;
        peer.since_ns = now_ns;
        for (chunk, filters) in plan.topic_filters.chunks(FILTERS_MAX).enumerate() {
            let identifier = chunk as u16 + 1;
            let version = run.common.protocol;
            wire::write_subscribe(version, identifier, filters, plan.qos, &mut peer.out);
            peer.subacks_missing += 1;
        }
        Ok(())
    }

    fn handle_suback(&mut self, index: u32, body: &[u8], now_ns: u64) -> Result<(), Failure> {
        let code = wire::read_suback(self.run.common.protocol, body)?;
        let peer = &mut self.peers[index as usize];
        if code >= 0x80 {
            return Err(Failure::SubscribeRefused {
                client: client_identifier(peer.client),
                code,
            });
        }
        if peer.state != State::AwaitingSubAck {
            return Err(Failure::Unexpected(wire::SUBACK));
        }
        peer.subacks_missing -= 1;
        if peer.subacks_missing == 0 {
            self.become_ready(index, now_ns);
        }
        Ok(())
    }

    fn become_ready(&mut self, index: u32, now_ns: u64) {
        let script = self.run.plan.script;
        let is_timed = self.is_timed();
        let peer = &mut self.peers[index as usize];
        peer.state = State::Ready;
        let (due_ns, since_ns) = (peer.due_ns, peer.since_ns);
        if script == Script::Visits {
            peer.out.extend_from_slice(&wire::DISCONNECT_PACKET);
            peer.state = State::Leaving;
        } else {
            self.under_way -= 1;
        }
        self.status().ready.fetch_add(1, Ordering::Relaxed);
        if is_timed {
            self.delivered += 1;
            self.intended.saturating_record(now_ns - due_ns);
            self.actual.saturating_record(now_ns - since_ns);
            self.publish_progress(now_ns);
        }
    }

    // --- publishing ---

    /// Whether the publisher has something to send and may.
    fn wants_output(&self, publisher: &Publisher, now_ns: u64) -> bool {
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
    fn fill(&mut self, index: u32) {
        let now_ns = self.run.clock.now_ns();
        if !self.wants_output(&self.publishers[index as usize], now_ns) {
            return;
        }
        let publisher = &mut self.publishers[index as usize];
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
    fn issue(&mut self, now_ns: u64, effects: &mut Effects) {
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

    // --- receiving ---

    fn handle_packets(
        &mut self,
        index: u32,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Result<usize, Failure> {
        let now_ns = self.run.clock.now_ns();
        let delivered = self.delivered;
        let mut at = 0;
        while let Some(frame) = wire::frame(bytes, at)? {
            at = frame.body.end;
            let body = &bytes[frame.body];
            if frame.first_byte & 0xf0 == wire::PUBLISH {
                self.handle_publish(index, frame.first_byte, body, now_ns, effects)?;
            } else {
                self.handle_control(index, frame.first_byte, body, now_ns, effects)?;
            }
        }
        self.flush_delivered(now_ns, effects);
        self.record_latencies();
        if self.delivered != delivered {
            self.publish_progress(now_ns);
        }
        if !self.peers[index as usize].out.is_empty() {
            self.mark_dirty(index, effects);
        }
        Ok(at)
    }

    fn publish_progress(&self, now_ns: u64) {
        let status = self.status();
        status.delivered.store(self.delivered, Ordering::Relaxed);
        status.last_delivery_ns.store(now_ns, Ordering::Relaxed);
    }

    fn handle_control(
        &mut self,
        index: u32,
        first_byte: u8,
        body: &[u8],
        now_ns: u64,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let peer = &mut self.peers[index as usize];
        match first_byte {
            wire::PUBACK | wire::PUBREC | wire::PUBCOMP => {
                let (identifier, code) = wire::read_acknowledgement(body)?;
                if code >= 0x80 {
                    return Err(Failure::PublishRefused { code });
                }
                self.handle_acknowledgement(index, first_byte, identifier, effects)
            }
            wire::PUBREL => {
                let (identifier, _) = wire::read_acknowledgement(body)?;
                wire::write_acknowledgement(wire::PUBCOMP, identifier, &mut peer.out);
                Ok(())
            }
            wire::CONNACK if peer.state == State::AwaitingConnAck => {
                self.handle_connack(index, body, now_ns)?;
                self.mark_dirty(index, effects);
                Ok(())
            }
            wire::SUBACK => {
                self.handle_suback(index, body, now_ns)?;
                self.mark_dirty(index, effects);
                Ok(())
            }
            wire::PINGRESP if self.pings_sent => {
                self.status().pongs.fetch_add(1, Ordering::Relaxed);
                Ok(())
            }
            wire::SERVER_DISCONNECT => Err(Failure::Disconnected {
                client: client_identifier(peer.client),
                code: body.first().copied().unwrap_or(0),
            }),
            unexpected => Err(Failure::Unexpected(unexpected)),
        }
    }

    // HOT: per PUBLISH received.
    #[inline]
    fn handle_publish(
        &mut self,
        index: u32,
        first_byte: u8,
        body: &[u8],
        now_ns: u64,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let run = &*self.run;
        let peer = &mut self.peers[index as usize];
        let received = wire::read_publish(run.common.protocol, first_byte, body)?;
        match received.qos {
            0 => {}
            1 => {
                wire::write_acknowledgement(wire::PUBACK, received.packet_identifier, &mut peer.out)
            }
            _ => {
                wire::write_acknowledgement(wire::PUBREC, received.packet_identifier, &mut peer.out)
            }
        }
        let payload = received.payload;
        let stamp = Stamp::read(payload).filter(|stamp| {
            let source = stamp.publisher.wrapping_sub(peer.first_source);
            if source >= peer.source_count {
                return false;
            }
            let publisher = &run.plan.publishers[stamp.publisher as usize];
            payload.len() == publisher.payload
                && received.qos == publisher.qos.min(peer.qos)
                && payload[wire::STAMP_SIZE..] == run.filler[..payload.len() - wire::STAMP_SIZE]
        });
        let Some(stamp) = stamp else {
            self.corrupt += 1;
            return Ok(());
        };
        let publisher = &run.plan.publishers[stamp.publisher as usize];
        let topics = publisher.topic_names.len() as u64;
        let source = u64::from(stamp.publisher - peer.first_source);
        let (flow, sequence) = if topics == 1 {
            (source, stamp.sequence)
        } else {
            // All publishers that one Client hears have as many topics.
            let topic = stamp.sequence % topics;
            (source * topics + topic, stamp.sequence / topics)
        };
        let flow = &mut self.flows[peer.flow_base as usize + flow as usize];
        if peer.delivery == Delivery::Shared {
            flow.observe_share(sequence);
        } else if flow.observe(sequence) == Arrival::Duplicate {
            return Ok(());
        }
        self.delivered += 1;
        let (intended_ns, actual_ns, is_measured) = if peer.delivery.is_stored() {
            let latency_ns = now_ns.saturating_sub(peer.since_ns);
            (latency_ns, latency_ns, now_ns >= self.from_ns)
        } else {
            let is_measured = (self.from_ns..self.stop_ns).contains(&stamp.due_ns);
            let actual_ns = now_ns.saturating_sub(stamp.sent_ns);
            (now_ns.saturating_sub(stamp.due_ns), actual_ns, is_measured)
        };
        if is_measured {
            if (intended_ns, actual_ns) != (self.latency_run.0, self.latency_run.1) {
                self.record_latencies();
                (self.latency_run.0, self.latency_run.1) = (intended_ns, actual_ns);
            }
            self.latency_run.2 += 1;
        }
        let delivered = &mut self.delivered_run;
        if delivered.publisher == stamp.publisher
            && delivered.first + delivered.count == stamp.sequence
        {
            delivered.count += 1;
        } else {
            self.flush_delivered(now_ns, effects);
            self.delivered_run = Delivered {
                publisher: stamp.publisher,
                first: stamp.sequence,
                count: 1,
            };
        }
        Ok(())
    }

    #[inline]
    fn record_latencies(&mut self) {
        let (intended_ns, actual_ns, count) = self.latency_run;
        if count > 0 {
            self.intended.saturating_record_n(intended_ns, count);
            if !self.run.plan.schedules.is_empty() {
                self.actual.saturating_record_n(actual_ns, count);
            }
        }
        self.latency_run.2 = 0;
    }

    /// Tells the publisher's window what its subscriber has received.
    #[inline]
    fn flush_delivered(&mut self, now_ns: u64, effects: &mut Effects) {
        let mut delivered = self.delivered_run;
        if delivered.count == 0 {
            return;
        }
        self.delivered_run.count = 0;
        let (thread, publisher) = self.run.owners[delivered.publisher as usize];
        delivered.publisher = publisher;
        if usize::from(thread) == self.thread {
            self.handle_delivered(delivered, now_ns, effects);
        } else {
            self.outbound[usize::from(thread)].push_back(delivered);
        }
    }

    #[inline]
    fn handle_delivered(&mut self, delivered: Delivered, now_ns: u64, effects: &mut Effects) {
        let publisher = &mut self.publishers[delivered.publisher as usize];
        publisher.arrivals += delivered.count;
        publisher.surplus += publisher.window.deliver(delivered.first, delivered.count);
        publisher.moved_ns = now_ns;
        self.wake_publisher(delivered.publisher, now_ns, effects);
    }

    /// Its window has moved, or its socket has room.
    #[inline]
    fn wake_publisher(&mut self, index: u32, now_ns: u64, effects: &mut Effects) {
        let publisher = &self.publishers[index as usize];
        if self.wants_output(publisher, now_ns) {
            self.mark_dirty(publisher.peer, effects);
        }
    }

    fn handle_acknowledgement(
        &mut self,
        index: u32,
        first_byte: u8,
        identifier: u16,
        effects: &mut Effects,
    ) -> Result<(), Failure> {
        let unexpected = Failure::UnexpectedAcknowledgement(identifier);
        let peer = &mut self.peers[index as usize];
        let Some(local) = peer.publisher else {
            return Err(unexpected);
        };
        let publisher = &mut self.publishers[local as usize];
        if first_byte == wire::PUBREC {
            if publisher.qos != 2 || !publisher.window.release(identifier) {
                return Err(unexpected);
            }
            wire::write_acknowledgement(wire::PUBREL, identifier, &mut peer.out);
            return Ok(());
        }
        let of_qos = if first_byte == wire::PUBACK { 1 } else { 2 };
        if of_qos != publisher.qos || !publisher.window.acknowledge(identifier, of_qos) {
            return Err(unexpected);
        }
        // Its own packet was the cause, so its output is looked at anyway.
        self.mark_dirty(index, effects);
        Ok(())
    }

    // --- time ---

    fn handle_command(&mut self, command: Command, now_ns: u64, effects: &mut Effects) {
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
                self.pings_sent = true;
                for index in 0..self.peers.len() {
                    self.peers[index]
                        .out
                        .extend_from_slice(&wire::PINGREQ_PACKET);
                    self.mark_dirty(index as u32, effects);
                }
            }
        }
    }

    /// Begins and ends the intervals of the timeline.
    fn handle_interval(&mut self, now_ns: u64) {
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

    fn next_deadline_ns(&self, now_ns: u64) -> u64 {
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

    /// At QoS 0 a lost message would hold its place in the window for ever.
    fn restart_stalled_windows(&mut self, now_ns: u64, effects: &mut Effects) {
        if now_ns < self.stall_check_ns {
            return;
        }
        self.stall_check_ns = now_ns + STALL_NS / 4;
        for index in 0..self.publishers.len() {
            let publisher = &mut self.publishers[index];
            if publisher.qos > 0 || publisher.window.free() > 0 {
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

    fn end(&mut self) -> End {
        self.record_latencies();
        let plan = &self.run.plan;
        let mut flows = Vec::new();
        let mut all = std::mem::take(&mut self.flows).into_iter();
        for peer in &self.peers {
            for publisher in peer.first_source..peer.first_source + peer.source_count {
                let source = &plan.publishers[publisher as usize];
                for topic in 0..source.topic_names.len() as u64 {
                    flows.extend(all.next().map(|flow| FlowEnd {
                        publisher,
                        topic,
                        qos: source.qos.min(peer.qos),
                        is_shared: source.is_shared,
                        flow,
                    }));
                }
            }
        }
        let publishers = self.publishers.iter().map(|publisher| PublisherEnd {
            publisher: plan.clients[self.peers[publisher.peer as usize].client as usize]
                .publisher
                .unwrap_or(0),
            published: publisher.window.published(),
            unsent: publisher.due_ns.len() as u64,
            arrivals: publisher.arrivals,
            surplus: publisher.surplus,
        });
        End {
            flows,
            publishers: publishers.collect(),
            corrupt: self.corrupt,
            overruns: self.overruns,
            window_restarts: self.window_restarts,
            intended: std::mem::replace(&mut self.intended, histogram()),
            actual: std::mem::replace(&mut self.actual, histogram()),
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

impl Core for Engine {
    type Envelope = Delivered;

    fn handle_accept(&mut self, _: Instant) -> Option<ConnectionKey> {
        None
    }

    fn next_connect(&mut self) -> Option<(ConnectionKey, SocketAddr)> {
        if self.waiting.is_empty() || self.under_way >= self.under_way_max || self.has_failed {
            return None;
        }
        let now_ns = self.run.clock.now_ns();
        let due_ns = self.connect_due_ns();
        if due_ns > now_ns {
            return None;
        }
        let index = self.waiting.pop_front()?;
        self.connects_begun += 1;
        self.under_way += 1;
        if self.is_timed() {
            self.published += 1;
        }
        let wrapping = self.run.wrapping.as_ref().map(Transport::new).transpose();
        let peer = &mut self.peers[index as usize];
        peer.generation = peer.generation.wrapping_add(1);
        peer.state = State::Connecting;
        peer.is_dirty = false;
        peer.unsent = 0;
        peer.out.clear();
        peer.since_ns = now_ns;
        peer.due_ns = if due_ns == 0 { now_ns } else { due_ns };
        match wrapping {
            Ok(transport) => peer.transport = transport.map(Box::new),
            Err(failure) => {
                self.fail(failure);
                return None;
            }
        }
        Some((self.key(index), self.run.address))
    }

    fn handle_connected(
        &mut self,
        connection: ConnectionKey,
        result: std::io::Result<()>,
        _: Instant,
        effects: &mut Effects,
    ) {
        match result {
            Ok(()) => {
                self.write_connect(connection.index);
                self.mark_dirty(connection.index, effects);
            }
            Err(source) => {
                self.peers[connection.index as usize].state = State::Offline;
                let address = self.run.address;
                self.fail(match source.kind() {
                    std::io::ErrorKind::ConnectionRefused => Failure::Refused(address),
                    _ => Failure::Connect { address, source },
                });
            }
        }
    }

    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        _: Instant,
        effects: &mut Effects,
    ) -> usize {
        let index = connection.index;
        let transport = self.peers[index as usize].transport.take();
        let result = match transport {
            None => self.handle_packets(index, bytes, effects),
            Some(mut transport) => {
                let result = transport.unwrap(bytes).and_then(|()| {
                    let plain = std::mem::take(&mut transport.plain);
                    let consumed = self.handle_packets(index, &plain, effects);
                    transport.plain = plain;
                    consumed.map(|consumed| drop(transport.plain.drain(..consumed)))
                });
                if transport.has_output() {
                    self.mark_dirty(index, effects);
                }
                self.peers[index as usize].transport = Some(transport);
                result.map(|()| bytes.len())
            }
        };
        match result {
            Ok(consumed) => consumed,
            Err(failure) => {
                self.fail(failure);
                effects.closes.push(connection);
                bytes.len()
            }
        }
    }

    fn packet_size(&self, connection: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        if self.peers[connection.index as usize].transport.is_some() {
            return None;
        }
        wire::packet_size(bytes)
    }

    fn is_paused(&self, _: ConnectionKey) -> bool {
        false
    }

    fn handle_closed(&mut self, connection: ConnectionKey, now: Instant, _: &mut Effects) {
        let _ = now;
        let peer = &mut self.peers[connection.index as usize];
        let state = std::mem::replace(&mut peer.state, State::Offline);
        let client = client_identifier(peer.client);
        peer.transport = None;
        match state {
            State::Leaving => {
                if self.run.plan.script == Script::Visits {
                    self.under_way -= 1;
                }
                self.status().left.fetch_add(1, Ordering::Relaxed);
            }
            State::Offline => {}
            State::Ready => self.fail(Failure::Closed {
                client,
                when: "during the run",
            }),
            _ => self.fail(Failure::Closed {
                client,
                when: "before it was ready",
            }),
        }
    }

    fn handle_envelope(
        &mut self,
        _: ShardId,
        envelope: Delivered,
        _: Instant,
        effects: &mut Effects,
    ) {
        let now_ns = self.run.clock.now_ns();
        self.handle_delivered(envelope, now_ns, effects);
    }

    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        let now_ns = self.run.clock.now_ns();
        // Theirs was read a moment before ours: the largest difference is the nearest.
        let offset_ns = now.as_nanos() as i64 - now_ns as i64;
        self.clock_offset_ns = self.clock_offset_ns.max(offset_ns);
        self.handle_interval(now_ns);
        self.issue(now_ns, effects);
        if now_ns >= self.tick_ns {
            self.tick_ns = now_ns + TICK_NS;
            let count = self.run.command_count.load(Ordering::Acquire);
            while self.commands_done < count {
                let command = match self.run.commands.lock() {
                    Ok(commands) => commands[self.commands_done],
                    Err(_) => break,
                };
                self.commands_done += 1;
                self.handle_command(command, now_ns, effects);
            }
            self.restart_stalled_windows(now_ns, effects);
            let outstanding = self
                .publishers
                .iter()
                .filter(|p| !p.window.is_empty() || !p.due_ns.is_empty())
                .count() as u64;
            let status = self.status();
            status.outstanding.store(outstanding, Ordering::Relaxed);
            status.published.store(self.published, Ordering::Relaxed);
            // A load may have begun, or a quota may wait for its connection.
            for index in 0..self.publishers.len() as u32 {
                self.wake_publisher(index, now_ns, effects);
            }
        }
        self.deadline_ns = self.next_deadline_ns(now_ns);
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadline_ns = self.deadline_ns as i64;
        let theirs = deadline_ns.saturating_add(self.clock_offset_ns);
        Some(Instant::from_nanos(theirs.max(0) as u64))
    }

    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        if !self.is_current(connection) {
            return;
        }
        let peer = &mut self.peers[connection.index as usize];
        peer.is_dirty = false;
        if peer.out.is_empty() {
            // Its capacity is as good as what the data path brought.
            std::mem::swap(&mut peer.out, buffer);
        }
        if let Some(publisher) = peer.publisher
            && peer.state == State::Ready
            && peer.unsent == 0
        {
            self.fill(publisher);
            let now_ns = self.run.clock.now_ns();
            if self.wants_output(&self.publishers[publisher as usize], now_ns) {
                // The batch was full, and a send that succeeds has no completion to wait for.
                self.deadline_ns = 0;
            }
        }
        let peer = &mut self.peers[connection.index as usize];
        let Some(transport) = &mut peer.transport else {
            std::mem::swap(&mut peer.out, buffer);
            return;
        };
        let wrapped = transport.wrap(&peer.out, buffer);
        peer.out.clear();
        if let Err(failure) = wrapped {
            self.fail(failure);
        }
    }

    fn handle_unsent(
        &mut self,
        connection: ConnectionKey,
        unsent: usize,
        _: Instant,
        effects: &mut Effects,
    ) {
        let peer = &mut self.peers[connection.index as usize];
        if peer.generation != connection.generation {
            return;
        }
        peer.unsent = unsent;
        if unsent == 0
            && let Some(publisher) = peer.publisher
            && peer.state == State::Ready
        {
            let now_ns = self.run.clock.now_ns();
            self.wake_publisher(publisher, now_ns, effects);
        }
    }

    fn forget(&mut self, connection: ConnectionKey) {
        let peer = &mut self.peers[connection.index as usize];
        peer.state = State::Offline;
        peer.transport = None;
    }

    fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Delivered> {
        &mut self.outbound[to.index()]
    }

    fn handle_ring_room(&mut self, _: &mut Effects) {}

    fn handle_shutdown(&mut self, _: Instant, effects: &mut Effects) {
        self.is_ending = true;
        self.waiting.clear();
        for index in 0..self.peers.len() {
            let peer = &mut self.peers[index];
            match peer.state {
                State::Offline => continue,
                State::Connecting | State::AwaitingConnAck | State::Leaving => {}
                State::AwaitingSubAck | State::Ready => {
                    peer.out.extend_from_slice(&wire::DISCONNECT_PACKET);
                }
            }
            // Nothing more is published; what is taken now is the farewell.
            peer.state = State::Leaving;
            effects.closes.push(ConnectionKey {
                index: index as u32,
                generation: peer.generation,
            });
        }
        let end = self.end();
        let _ = self.events.send(Event::End(Box::new(end)));
    }
}

/// From 1 ns to 10 minutes with three digits.
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, Duration::from_secs(600).as_nanos() as u64, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("bounds are constant and valid: {error}"),
    }
}
