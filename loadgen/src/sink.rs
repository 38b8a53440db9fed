//! A peer that costs next to nothing: it takes everything, checks nothing, and hands each message on
//! as it came. What the generator reaches against it is the generator's own ceiling.
//!
//! A topic's subscribers are found once for each publisher and topic, by comparing every filter; a
//! shared subscription goes to its members in turn. Sessions, retained messages and the QoS of a
//! subscriber are not kept.

use std::cell::Cell;
use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::net::{self, Core, Peers};
use fastmq::origin::Origin;
use fastmq::runtime::{self, NoticesSender, Placed, Running};
use fastmq::shard::Effects;
use fastmq::time::Instant;
use fastmq::topic::{TopicFilter, TopicName};

use crate::failure::Failure;
use crate::wire;

/// Starts one on a thread of its own.
pub fn start(placed: Placed) -> Result<(SocketAddr, Running), Failure> {
    let (address, listeners) = net::listen((Ipv4Addr::LOCALHOST, 0).into(), 1)
        .map_err(|error| Failure::Io(error.source))?;
    let running = runtime::start(
        &[placed],
        vec![listeners],
        &NoticesSender::nowhere(),
        |_, _| Sink::default(),
    )?;
    Ok((address, running))
}

#[derive(Debug, Default)]
struct Client {
    is_v5: bool,
    /// The topic of its last message, and who hears that.
    topic: Vec<u8>,
    targets: Rc<Targets>,
    /// Of the subscriptions when they were looked at.
    looked_at: u64,
}

/// Who hears a topic: each of some, and one of each group.
#[derive(Debug, Default)]
struct Targets {
    each: Vec<u32>,
    groups: Vec<Group>,
}

#[derive(Debug, Default)]
struct Group {
    members: Vec<u32>,
    next: Cell<usize>,
}

#[derive(Debug)]
struct Pattern {
    filter: Vec<u8>,
    subscriber: u32,
}

#[derive(Debug, Default)]
struct Sink {
    peers: Peers<Client>,
    /// Subscribers by Topic Filters without wildcard, and the other subscriptions.
    exact: HashMap<Vec<u8>, Vec<u32>>,
    patterns: Vec<Pattern>,
    /// Counts changes of the subscriptions.
    changes: u64,
    outbound: VecDeque<()>,
}

impl Sink {
    fn kill(&mut self, key: ConnectionKey) {
        if self.peers.remove(key) {
            for subscribers in self.exact.values_mut() {
                subscribers.retain(|&subscriber| subscriber != key.index);
            }
            self.patterns
                .retain(|pattern| pattern.subscriber != key.index);
            self.changes += 1;
        }
    }

    /// Where a message of this peer goes.
    #[inline]
    fn targets(&mut self, index: u32, body: &[u8]) -> Option<Rc<Targets>> {
        let size = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
        let topic = body.get(2..2 + size)?;
        let client = &self.peers.get(index).state;
        if client.topic != topic || client.looked_at != self.changes {
            let targets = Rc::new(self.find(topic));
            let client = &mut self.peers.get(index).state;
            client.topic = topic.to_vec();
            client.targets = targets;
            client.looked_at = self.changes;
        }
        Some(Rc::clone(&self.peers.get(index).state.targets))
    }

    fn subscribe(&mut self, subscriber: u32, filters: Vec<Vec<u8>>) {
        self.changes += 1;
        for filter in filters {
            let read = TopicFilter::from_validated(&filter);
            if read.is_exact() && read.share_group().is_none() {
                self.exact.entry(filter).or_default().push(subscriber);
            } else {
                self.patterns.push(Pattern { filter, subscriber });
            }
        }
    }

    fn find(&self, topic: &[u8]) -> Targets {
        let mut targets = Targets {
            each: self.exact.get(topic).cloned().unwrap_or_default(),
            groups: Vec::new(),
        };
        let topic = TopicName::from_validated(topic);
        let mut groups: HashMap<&[u8], Vec<u32>> = HashMap::new();
        for pattern in &self.patterns {
            let filter = TopicFilter::from_validated(&pattern.filter);
            if !filter.matches(topic) {
                continue;
            }
            match filter.share_group() {
                Some(group) => groups.entry(group).or_default().push(pattern.subscriber),
                None => targets.each.push(pattern.subscriber),
            }
        }
        targets.groups = groups
            .into_values()
            .map(|members| Group {
                members,
                next: Cell::new(0),
            })
            .collect();
        targets
    }

    fn forward(&mut self, targets: Option<&Targets>, packets: &[u8], effects: &mut Effects) {
        let Some(targets) = targets.filter(|_| !packets.is_empty()) else {
            return;
        };
        for &target in &targets.each {
            self.peers.send(target, packets, effects);
        }
        for group in &targets.groups {
            let at = group.next.get();
            group.next.set((at + 1) % group.members.len());
            self.peers.send(group.members[at], packets, effects);
        }
    }

    /// Answers everything but PUBLISH.
    fn answer(&mut self, index: u32, first_byte: u8, body: &[u8]) {
        let peer = self.peers.get(index);
        let identifier = match *body {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        match first_byte {
            0x10 => {
                peer.state.is_v5 = body.get(6) == Some(&5);
                if peer.state.is_v5 {
                    // Topic Alias Maximum 0xffff: they are never looked at.
                    peer.out
                        .extend_from_slice(&[wire::CONNACK, 6, 0, 0, 3, 0x22, 0xff, 0xff]);
                } else {
                    peer.out.extend_from_slice(&[wire::CONNACK, 2, 0, 0]);
                }
            }
            0x82 => {
                // The generator sends no properties here.
                let mut at = if peer.state.is_v5 { 3 } else { 2 };
                let mut filters = Vec::new();
                let mut suback = identifier.to_be_bytes().to_vec();
                suback.extend(peer.state.is_v5.then_some(0));
                while let Some(&[high, low]) = body.get(at..at + 2) {
                    let end = at + 2 + usize::from(u16::from_be_bytes([high, low]));
                    let Some(filter) = body.get(at + 2..end) else {
                        break;
                    };
                    filters.push(filter.to_vec());
                    // Granted as asked for.
                    suback.extend(body.get(end));
                    at = end + 1;
                }
                wire::write_packet(wire::SUBACK, &suback, &mut peer.out);
                self.subscribe(index, filters);
            }
            0xc0 => peer.out.extend_from_slice(&[wire::PINGRESP, 0]),
            wire::PUBREC => wire::write_acknowledgement(wire::PUBREL, identifier, &mut peer.out),
            wire::PUBREL => wire::write_acknowledgement(wire::PUBCOMP, identifier, &mut peer.out),
            _ => {}
        }
    }
}

impl Core for Sink {
    type Envelope = ();

    fn handle_accept(&mut self, _: Origin, _: Instant) -> Option<ConnectionKey> {
        Some(self.peers.accept())
    }

    fn handle_bytes(
        &mut self,
        connection: ConnectionKey,
        bytes: &[u8],
        _: Instant,
        effects: &mut Effects,
    ) -> usize {
        let index = connection.index;
        let (mut at, mut from) = (0, 0);
        let mut targets: Option<Rc<Targets>> = None;
        while let Ok(Some(frame)) = wire::frame(bytes, at) {
            let body = &bytes[frame.body.clone()];
            if frame.first_byte & 0xf0 == wire::PUBLISH {
                let next = self.targets(index, body);
                let is_same = match (&next, &targets) {
                    (Some(next), Some(targets)) => Rc::ptr_eq(next, targets),
                    (None, None) => true,
                    _ => false,
                };
                if !is_same {
                    self.forward(targets.as_deref(), &bytes[from..at], effects);
                    (from, targets) = (at, next);
                }
                let qos = (frame.first_byte >> 1) & 3;
                if qos > 0 {
                    let topic = usize::from(body[1]) | usize::from(body[0]) << 8;
                    let identifier = body.get(topic + 2..topic + 4).unwrap_or(&[0, 0]);
                    let identifier = u16::from_be_bytes([identifier[0], identifier[1]]);
                    let answer = if qos == 1 { wire::PUBACK } else { wire::PUBREC };
                    let out = &mut self.peers.get(index).out;
                    wire::write_acknowledgement(answer, identifier, out);
                }
                at = frame.body.end;
            } else {
                self.forward(targets.as_deref(), &bytes[from..at], effects);
                self.answer(index, frame.first_byte, body);
                at = frame.body.end;
                (from, targets) = (at, None);
            }
        }
        self.forward(targets.as_deref(), &bytes[from..at], effects);
        if !self.peers.get(index).out.is_empty() {
            self.peers.mark_dirty(index, effects);
        }
        at
    }

    fn packet_size(&self, _: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        wire::packet_size(bytes)
    }

    fn is_paused(&self, _: ConnectionKey) -> bool {
        false
    }

    fn handle_closed(&mut self, connection: ConnectionKey, _: Instant, _: &mut Effects) {
        self.kill(connection);
    }

    fn handle_envelope(
        &mut self,
        _: ShardId,
        (): (),
        _: usize,
        _: Instant,
        _: &mut Effects,
    ) -> Option<()> {
        None
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Effects) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        self.peers.take_output(connection, buffer);
    }

    fn handle_unsent(&mut self, _: ConnectionKey, _: usize, _: Instant, _: &mut Effects) {}

    fn forget(&mut self, connection: ConnectionKey) {
        self.kill(connection);
    }

    fn outbound(&mut self, _: ShardId) -> &mut VecDeque<()> {
        &mut self.outbound
    }

    fn handle_ring_room(&mut self, _: &mut Effects) {}

    fn handle_shutdown(&mut self, _: Instant, effects: &mut Effects) {
        effects.closes.extend(self.peers.keys());
    }
}
