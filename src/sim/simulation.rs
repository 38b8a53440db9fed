//! A whole simulation: rounds of chaos, each followed by rest, and then the end, after which nothing
//! may be left.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::time::Duration;

use super::client::Client;
use super::disk::Disk;
use super::oracle::{Oracle, Violation};
use super::plan::Plan;
use super::random::Random;
use super::world::{Event, Pace, World};
use crate::policy::Settings;
use crate::time::Instant;
use crate::wal::StoreOptions;

/// Time that passes at once, rather than bit by bit while things go on.
const LEAP_MIN: Duration = Duration::from_millis(1);
/// Things that a disk may have been asked for at once.
const REQUESTS_MAX: usize = 4;
/// Rounds of all shards and Clients in which nothing moves, after which nothing is expected to.
const STILL_ROUNDS: usize = 50;
/// Rounds within which everything must have come to rest, drop by drop.
const REST_ROUNDS: usize = 1_000_000;
/// Waits after which all is forgotten: tombstones of retained messages are asked for first.
pub(super) const UNTIL_FORGOTTEN_S: [u64; 4] = [2, 2, 2, 100 * 86_400];
/// Rounds within which everybody must have left.
const LEAVE_ROUNDS: usize = 20_000;

/// What a simulation was like.
#[derive(Clone, Debug)]
pub struct Report {
    /// Tells two runs apart: equal if and only if everything was.
    pub hash: u64,
    /// Shards simulated.
    pub shards: usize,
    /// Events that crossed the border of the broker.
    pub events: u64,
    /// PUBLISH packets delivered as new.
    pub deliveries: u64,
    /// Steps done.
    pub steps: u64,
}

#[derive(Debug)]
struct Simulation<'a> {
    random: Random,
    plan: Plan,
    world: World,
    oracle: Oracle,
    clients: Vec<Client>,
    steps: u64,
    tail: Option<&'a mut VecDeque<String>>,
}

/// Simulates what `seed` says, on `shards` shards or on as many as the seed says.
///
/// With a `tail`, it is kept filled to its capacity with descriptions of the last events, which costs
/// time.
///
/// # Errors
/// The first [`Violation`], with the step at which it was found.
pub fn simulate(
    seed: u64,
    shards: Option<usize>,
    tail: Option<&mut VecDeque<String>>,
) -> Result<Report, Violation> {
    let mut random = Random::new(seed);
    let mut plan = Plan::draw(&mut random, shards);
    // Not drawn, so that seeds which are known for something stay what they are.
    match seed % 6 {
        1 => plan.cut_filters(1),
        4 => plan.cut_filters(12),
        _ => {}
    }
    let mut settings = Settings::permissive(plan.limits.clone());
    for listener in &mut settings.listeners {
        listener.max_topic_alias = plan.max_topic_alias;
        listener.max_topic_alias_broker = plan.max_topic_alias_broker;
    }
    let world = if plan.is_stored {
        let disk = Disk::new(Random::new(random.next()));
        let options = StoreOptions {
            segment_size: *random.pick(&[1 << 10, 1 << 16]),
            ..StoreOptions::new("simulated".into())
        };
        let store = disk
            .open(&options, plan.shards, seed)
            .map_err(|error| Violation(format!("it does not start: {error}")))?;
        let now = Instant::ZERO.add_seconds(1);
        let mut world = World::with_store(store, settings, plan.ring_capacity, now);
        world.set_socket_capacity(plan.socket_capacity);
        world
    } else {
        let capacity = plan.socket_capacity;
        World::new(plan.shards, settings, seed, plan.ring_capacity, capacity)
    };
    // One more Client than the plan says cleans up.
    let clients = (0..=plan.clients)
        .map(|index| Client::new(index, &mut random))
        .collect();
    let oracle = Oracle::new(
        plan.clients + 1,
        &plan.topics,
        plan.limits.clone(),
        world.now(),
    );
    let mut simulation = Simulation {
        random,
        plan,
        world,
        oracle,
        clients,
        steps: 0,
        tail,
    };
    simulation
        .run()
        .map_err(|Violation(what)| Violation(format!("step {}: {what}", simulation.steps)))?;
    Ok(Report {
        hash: simulation.oracle.hash(),
        shards: simulation.plan.shards,
        events: simulation.oracle.events(),
        deliveries: simulation.oracle.deliveries(),
        steps: simulation.steps,
    })
}

impl Simulation<'_> {
    fn run(&mut self) -> Result<(), Violation> {
        for _ in 0..self.plan.rounds {
            for _ in 0..self.plan.steps {
                self.step()?;
            }
            self.rest()?;
        }
        self.end()
    }

    /// Lets the oracle see what happened.
    fn observe(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        let now = self.world.now();
        for event in self.world.take_log() {
            if let Some(tail) = &mut self.tail {
                if tail.len() == tail.capacity() {
                    tail.pop_front();
                }
                tail.push_back(format!("{} {now:?} {}", self.steps, describe(&event)));
            }
            self.oracle.handle(&event, now)?;
        }
        Ok(())
    }

    fn step(&mut self) -> Result<(), Violation> {
        if self.random.chance(55) {
            let shard = self.random.below(self.plan.shards);
            self.world.turn(shard, &mut Pace::Random(&mut self.random));
            if self.plan.is_stored && self.random.chance(30) {
                let shard = self.random.below(self.plan.shards);
                self.world.turn_disk(shard);
            }
        } else {
            let client = self.random.below(self.plan.clients);
            let client = &mut self.clients[client];
            client.act(
                &mut self.world,
                &mut self.oracle,
                &mut self.random,
                &self.plan,
            )?;
        }
        self.observe()?;
        let queued = self.world.shard(0).census().queued_max;
        let limits = &self.plan.limits;
        let mut queued_max = limits.max_queued_messages;
        if self.plan.is_stored {
            // What only waits for the disk has room of its own.
            queued_max += usize::from(limits.max_inflight_messages);
        }
        if queued > queued_max {
            return Err(Violation(format!("{queued} messages queued")));
        }
        let bound = self.world.unsent_bound(self.plan.payload_max + 300);
        if self.world.unsent_max() > bound {
            let unsent = self.world.unsent_max();
            return Err(Violation(format!("{unsent} bytes unsent, {bound} allowed")));
        }
        self.pass_time();
        Ok(())
    }

    fn pass_time(&mut self) {
        let duration = if self.random.below(10_000) < self.plan.leaps {
            match self.random.below(if self.plan.long_leaps { 10 } else { 6 }) {
                0..4 => Duration::from_millis(self.random.between(10, 3000) as u64),
                4..6 => Duration::from_secs(self.random.between(1, 100) as u64),
                6..9 => Duration::from_secs(self.random.between(1, 200_000) as u64),
                _ => Duration::from_secs(60 * 86_400),
            }
        } else {
            Duration::from_nanos(self.random.below(200_000) as u64)
        };
        let duration = if duration >= LEAP_MIN && self.is_under_way() {
            // What waits behind a CONNACK is on its way. It does not wait that long.
            LEAP_MIN
        } else {
            duration
        };
        if duration >= LEAP_MIN {
            self.let_disks_work();
        }
        self.world.pass(duration);
        // Sometimes to the moment itself.
        if self.random.one_in(500)
            && let Some(at) = self.world.next_deadline()
            && (self.plan.long_leaps || at - self.world.now() < Duration::from_secs(100))
        {
            self.let_disks_work();
            self.world.pass_until(at);
        }
    }

    /// Whether there are Sessions whose subscriptions have not all heard that a connection has come or gone, or messages that
    /// have not come to all of theirs.
    fn is_under_way(&self) -> bool {
        let censuses = self.world.censuses();
        censuses
            .iter()
            .any(|it| it.visited + it.spreading + it.left > 0)
    }

    /// Disks do not hang here: what they are at is done before time passes.
    fn let_disks_work(&mut self) {
        for _ in 0..REQUESTS_MAX {
            for shard in 0..self.plan.shards {
                self.world.turn_disk(shard);
            }
        }
    }

    /// Everybody connects, reads and answers until nothing moves; then everything owed has come.
    fn rest(&mut self) -> Result<(), Violation> {
        if self.random.chance(80) {
            // A network of drops and sips would take long.
            self.world.set_socket_capacity(1 << 16);
        }
        let mut still = 0;
        for _ in 0..REST_ROUNDS {
            if still == STILL_ROUNDS {
                break;
            }
            let before = self.world.moved();
            for client in &mut self.clients[..self.plan.clients] {
                client.come_to_rest(
                    &mut self.world,
                    &mut self.oracle,
                    &mut self.random,
                    &self.plan,
                )?;
            }
            self.turn_all()?;
            self.world.pass(Duration::from_micros(100));
            // What is left of Sessions is left over many turns, in which nothing moves.
            let is_still = self.world.moved() == before && !self.is_under_way();
            let clients = &self.clients[..self.plan.clients];
            still = if is_still { still + 1 } else { 0 };
            if still > 0 && clients.iter().all(Client::is_at_rest) {
                self.world.set_socket_capacity(self.plan.socket_capacity);
                return self.check_rest();
            }
        }
        let restless: Vec<&Client> = self.clients[..self.plan.clients]
            .iter()
            .filter(|it| !it.is_at_rest())
            .collect();
        Err(Violation(format!(
            "stuck, or never still: {restless:?}, rings hold {}, shards {:?}",
            self.world.ring_used(),
            self.world.censuses()
        )))
    }

    fn turn_all(&mut self) -> Result<(), Violation> {
        for shard in 0..self.plan.shards {
            self.world.turn(shard, &mut Pace::Full);
            self.world.turn_disk(shard);
            self.observe()?;
        }
        Ok(())
    }

    fn check_rest(&mut self) -> Result<(), Violation> {
        self.oracle.check_rest(&self.world)?;
        for client in &self.clients[..self.plan.clients] {
            client.check_rest(&self.oracle)?;
        }
        for (shard, census) in self.world.censuses().into_iter().enumerate() {
            let busy = census.barriers
                + census.unfinished
                + census.visited
                + census.spreading
                + census.left
                + census.beyond_outboxes
                + census.waiting_for_ring
                + census.outbound
                + census.queued
                + census.inflight
                + census.inbound;
            if busy != 0 || census.will_bytes != census.will_bytes_there {
                return Err(Violation(format!(
                    "shard {shard} is not at rest: {census:?}"
                )));
            }
        }
        Ok(())
    }

    /// Everybody leaves, retained messages are removed, time passes: nothing may be left.
    fn end(&mut self) -> Result<(), Violation> {
        let mut everybody_left = false;
        for _ in 0..LEAVE_ROUNDS {
            everybody_left = true;
            for client in &mut self.clients[..self.plan.clients] {
                everybody_left &= client.leave(
                    &mut self.world,
                    &mut self.oracle,
                    &mut self.random,
                    &self.plan,
                )?;
            }
            self.turn_all()?;
            if everybody_left {
                break;
            }
        }
        if !everybody_left {
            return Err(Violation("a Client cannot leave".to_owned()));
        }
        let mut is_cleared = false;
        for _ in 0..1000 {
            let before = self.world.moved();
            if !is_cleared {
                let cleaner = &mut self.clients[self.plan.clients];
                is_cleared = cleaner.clear_retained(
                    &mut self.world,
                    &mut self.oracle,
                    &mut self.random,
                    &self.plan,
                )?;
            }
            self.turn_all()?;
            self.world.pass(Duration::from_micros(1));
            if is_cleared && self.world.moved() == before && !self.is_under_way() {
                break;
            }
        }
        for wait in UNTIL_FORGOTTEN_S {
            self.world.pass(Duration::from_secs(wait));
            self.turn_until_still()?;
        }
        // Each turn forgets some.
        while self.world.has_more_turns_to_do() {
            self.world.pass(Duration::from_millis(1));
            self.turn_until_still()?;
        }
        self.world.check_empty()
    }

    fn turn_until_still(&mut self) -> Result<(), Violation> {
        let mut before = 0;
        for _ in 0..LEAVE_ROUNDS {
            if self.world.moved() == before {
                break;
            }
            before = self.world.moved();
            self.turn_all()?;
        }
        Ok(())
    }
}

pub(super) fn describe(event: &Event) -> String {
    let mut text = format!("{event:?}");
    if let Event::Consumed {
        wire,
        shard,
        packet,
    } = event
    {
        text = format!("wire {wire} -> shard {shard}: {}", packets(packet));
    }
    if let Event::Output { wire, bytes, .. } = event {
        text = format!("wire {wire} <- {}", packets(bytes));
    }
    text
}

/// A short form of whole packets: type, flags, size and first bytes.
fn packets(mut bytes: &[u8]) -> String {
    const NAMES: [&str; 16] = [
        "?",
        "CONNECT",
        "CONNACK",
        "PUBLISH",
        "PUBACK",
        "PUBREC",
        "PUBREL",
        "PUBCOMP",
        "SUBSCRIBE",
        "SUBACK",
        "UNSUBSCRIBE",
        "UNSUBACK",
        "PINGREQ",
        "PINGRESP",
        "DISCONNECT",
        "AUTH",
    ];
    let mut text = String::new();
    while let Ok(Some(header)) =
        crate::codec::decode_fixed_header(bytes, crate::limits::PACKET_SIZE_MAX)
    {
        let size = header.total_size().min(bytes.len());
        let name = NAMES[usize::from(header.first_byte >> 4)];
        let shown =
            bytes[header.header_size.min(size)..size.min(header.header_size + 40)].escape_ascii();
        text += &format!("{name}/{:x} {size} {shown} | ", header.first_byte & 15);
        bytes = &bytes[size..];
    }
    text
}
