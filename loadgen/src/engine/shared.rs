//! What the main thread and all engines share: the plan, commands to them, how far they are.

use std::net::SocketAddr;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::failure::Failure;
use crate::options::Common;
use crate::plan::Plan;
use crate::transport::Wrapping;
use crate::wire;

use super::End;

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
    /// Asks every connection that is ready for a PINGRESP.
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
    /// When what is stored was asked for first; 0 before.
    pub first_ask_ns: AtomicU64,
    /// When the first message of a quota left, and when the broker last said that it has one.
    pub first_publish_ns: AtomicU64,
    pub last_acknowledged_ns: AtomicU64,
    /// Messages of a quota that the broker has said that it has.
    pub acknowledged: AtomicU64,
}

/// What all engines of a run share.
#[derive(Debug)]
pub struct Run {
    pub plan: Plan,
    pub common: Common,
    /// A client names one of them; more than one only in a self-test.
    pub addresses: Vec<SocketAddr>,
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
        addresses: Vec<SocketAddr>,
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
            addresses,
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
    pub thread: usize,
    pub start_ns: u64,
    pub end_ns: u64,
    pub published: u64,
    pub delivered: u64,
    pub cpu_ns: u64,
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
