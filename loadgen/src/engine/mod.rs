//! One thread's clients: what they say, what they hear, and what became of every message.
//!
//! The engine is a [`Core`](fastmq::net::Core): the project's data path feeds it bytes and takes its output. The main
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

mod connecting;
mod data_path;
mod ending;
mod publishing;
mod receiving;
mod shared;
mod timing;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::Sender;
use std::time::Duration;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::shard::Effects;
use hdrhistogram::Histogram;

use crate::accounting::{Flow, Identifiers};
use crate::breaches::Breaches;
use crate::failure::Failure;
use crate::plan::{Client, Delivery, Plan};
use crate::transport::Transport;

use self::publishing::{Place, Publisher, Schedule};

pub use self::data_path::TICK_NS;
pub use self::ending::End;
pub use self::receiving::Delivered;
pub use self::shared::{Command, Event, Interval, Run, Status};

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
    /// Has sent PINGREQ and waits.
    is_pinged: bool,
    subacks_missing: Identifiers,
    /// Of QoS 2: delivered, and PUBREL has not come.
    unreleased: Identifiers,
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

/// What a Client hears: one flow for each topic of each of its sources.
fn flows_of(plan: &Plan, client: &Client) -> impl Iterator<Item = Flow> {
    let first = client.first_source as usize;
    let sources = &plan.publishers[first..first + client.source_count as usize];
    let is_shared = client.delivery == Delivery::Shared;
    sources.iter().flat_map(move |source| {
        source.topic_names.iter().map(move |_| {
            if is_shared {
                Flow::shared(source.window)
            } else {
                Flow::default()
            }
        })
    })
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
    breaches: Breaches,
    /// Deliveries at QoS 2 that wait for PUBREL, of all peers.
    unreleased: u64,
    /// The Packet Identifier of the delivery before in the same batch, none of which is acknowledged yet.
    previous_identifier: u16,
    overruns: u64,
    window_restarts: u64,
    /// Windows that a broker's Receive Maximum made smaller, and the smallest one.
    windows_restricted: u64,
    window_least: u64,
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
        let mut flows = Vec::new();
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
            let flow_base = flows.len() as u32;
            flows.extend(flows_of(plan, client));
            peers.push(Peer {
                client: index as u32,
                generation: 0,
                state: State::Offline,
                is_dirty: false,
                is_resuming: false,
                is_pinged: false,
                subacks_missing: Identifiers::default(),
                unreleased: Identifiers::default(),
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
        let mut publishers: Vec<Publisher> = publishers.into_iter().map(|(_, p)| p).collect();
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
        let schedules = schedules.filter(|s| !s.publishers.is_empty());
        let schedules: Vec<Schedule> = schedules.collect();
        for (schedule, members) in schedules.iter().enumerate() {
            for (turn, &publisher) in members.publishers.iter().enumerate() {
                publishers[publisher as usize].place = Some(Place {
                    schedule,
                    turn: turn as u64,
                });
            }
        }
        Self {
            thread,
            run: run.clone(),
            events,
            peers,
            publishers,
            schedules,
            flows,
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
            breaches: Breaches::default(),
            unreleased: 0,
            previous_identifier: 0,
            overruns: 0,
            window_restarts: 0,
            windows_restricted: 0,
            window_least: u64::MAX,
            has_failed: false,
            is_ending: false,
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

    fn address(&self, index: u32) -> SocketAddr {
        let client = &self.run.plan.clients[self.peers[index as usize].client as usize];
        self.run.addresses[usize::from(client.address)]
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
}

/// From 1 ns to 10 minutes with three digits.
pub fn histogram() -> Histogram<u64> {
    match Histogram::new_with_bounds(1, Duration::from_secs(600).as_nanos() as u64, 3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("bounds are constant and valid: {error}"),
    }
}
