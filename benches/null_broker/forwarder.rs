//! Bytes in, bytes out.

use std::collections::VecDeque;
use std::rc::Rc;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::net::{Core, Peers};
use fastmq::origin::Origin;
use fastmq::shard::Effects;
use fastmq::time::Instant;

const CONNECT: u8 = 0x10;
const PUBLISH: u8 = 0x30;
const SUBSCRIBE: u8 = 0x82;
const PINGREQ: u8 = 0xc0;
const DISCONNECT: u8 = 0xe0;

const CONNACK: [u8; 4] = [0x20, 2, 0, 0];
const PINGRESP: [u8; 2] = [0xd0, 0];

/// Who hears a publisher.
#[derive(Debug, Default)]
struct Route {
    subscribers: Vec<u32>,
    /// Nobody else's packets go there, so a packet need not be whole.
    is_alone: bool,
}

/// What is known of a publisher.
#[derive(Debug, Default)]
struct Publisher {
    route: Option<Rc<Route>>,
    /// Of the subscriptions when the route was found.
    found_at: u64,
    /// What is still to come of a packet that is being passed on in pieces.
    cut: usize,
}

/// Connections and who subscribed to what.
#[derive(Debug, Default)]
pub struct Forwarder {
    peers: Peers<Publisher>,
    subscriptions: Vec<(Vec<u8>, u32)>,
    /// Counts changes of the subscriptions.
    changes: u64,
    outbound: VecDeque<()>,
}

impl Forwarder {
    fn forward(&mut self, route: Option<&Route>, bytes: &[u8], effects: &mut Effects) {
        if bytes.is_empty() {
            return;
        }
        for &subscriber in route.into_iter().flat_map(|route| &route.subscribers) {
            self.peers.send(subscriber, bytes, effects);
        }
    }

    /// Where the packets of a publisher go, the first of which has the body that `body` begins.
    fn route(&mut self, index: u32, body: &[u8]) -> Option<Rc<Route>> {
        let publisher = &self.peers.get(index).state;
        if publisher.found_at == self.changes
            && let Some(route) = &publisher.route
        {
            return Some(Rc::clone(route));
        }
        let topic = text(body)?;
        let mut route = Route {
            subscribers: Vec::new(),
            is_alone: true,
        };
        for (filter, subscriber) in &self.subscriptions {
            let is_match = match filter.strip_suffix(b"#") {
                Some(start) => {
                    route.is_alone &= !topic.starts_with(start);
                    topic.starts_with(start)
                }
                None => filter == topic,
            };
            if is_match {
                route.subscribers.push(*subscriber);
            }
        }
        let route = Rc::new(route);
        let publisher = &mut self.peers.get(index).state;
        publisher.route = Some(Rc::clone(&route));
        publisher.found_at = self.changes;
        Some(route)
    }

    fn subscribe(&mut self, index: u32, body: &[u8], effects: &mut Effects) {
        let mut suback = vec![0x90, 2, body[0], body[1]];
        let mut at = 2;
        while let Some(filter) = body.get(at..).and_then(text) {
            at += 2 + filter.len() + 1;
            self.subscriptions.push((filter.to_vec(), index));
            suback.push(0);
        }
        suback[1] = u8::try_from(suback.len() - 2).expect("few filters in one SUBSCRIBE");
        self.changes += 1;
        self.peers.send(index, &suback, effects);
    }

    fn kill(&mut self, key: ConnectionKey) {
        if !self.peers.remove(key) {
            return;
        }
        let before = self.subscriptions.len();
        self.subscriptions.retain(|(_, it)| *it != key.index);
        self.changes += u64::from(before != self.subscriptions.len());
    }
}

impl Core for Forwarder {
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
        // The rest of the packet that was passed on so far, if any, goes the way of those behind it.
        let publisher = &mut self.peers.get(index).state;
        let mut at = publisher.cut.min(bytes.len());
        publisher.cut -= at;
        let mut route = if at > 0 {
            publisher.route.clone()
        } else {
            None
        };
        let mut from = 0;
        while let Some((header_size, size)) = header(&bytes[at..]) {
            let first_byte = bytes[at];
            let is_whole = bytes.len() - at >= size;
            if first_byte & 0xf0 == PUBLISH {
                if route.is_none() {
                    route = self.route(index, &bytes[at + header_size..]);
                }
                if is_whole {
                    at += size;
                    continue;
                }
                if route.as_deref().is_some_and(|route| route.is_alone) {
                    self.peers.get(index).state.cut = at + size - bytes.len();
                    at = bytes.len();
                }
                break;
            }
            if !is_whole {
                break;
            }
            self.forward(route.as_deref(), &bytes[from..at], effects);
            let body = &bytes[at + header_size..at + size];
            match first_byte {
                CONNECT => self.peers.send(index, &CONNACK, effects),
                SUBSCRIBE => self.subscribe(index, body, effects),
                PINGREQ => self.peers.send(index, &PINGRESP, effects),
                DISCONNECT => effects.closes.push(connection),
                _ => {}
            }
            at += size;
            (from, route) = (at, None);
        }
        self.forward(route.as_deref(), &bytes[from..at], effects);
        at
    }

    fn packet_size(&self, _: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        header(bytes).map(|(_, size)| size)
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

    fn handle_shutdown(&mut self, _: Instant, _: &mut Effects) {}
}

/// The size of the fixed header that `bytes` begin with, and that of its packet.
// HOT: per packet.
#[inline]
fn header(bytes: &[u8]) -> Option<(usize, usize)> {
    let mut size = 0;
    for (index, byte) in bytes.get(1..)?.iter().take(4).enumerate() {
        size |= usize::from(byte & 0x7f) << (7 * index);
        if byte & 0x80 == 0 {
            return Some((index + 2, index + 2 + size));
        }
    }
    None
}

/// The string of MQTT that `bytes` begin with.
fn text(bytes: &[u8]) -> Option<&[u8]> {
    let size = usize::from(u16::from_be_bytes([*bytes.first()?, *bytes.get(1)?]));
    bytes.get(2..2 + size)
}
