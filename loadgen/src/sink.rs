//! A peer that costs next to nothing: it takes everything, checks nothing, and hands each message on
//! as it came. What the generator reaches against it is the generator's own ceiling.

use std::collections::{HashMap, VecDeque};
use std::net::{Ipv4Addr, SocketAddr};

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::net::{self, Core};
use fastmq::origin::Origin;
use fastmq::runtime::{self, NoticesSender, Placed, Running};
use fastmq::shard::Effects;
use fastmq::time::Instant;

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
struct Peer {
    generation: u32,
    is_alive: bool,
    is_dirty: bool,
    is_v5: bool,
    out: Vec<u8>,
    /// Where its last message went, and by which topic.
    topic: Vec<u8>,
    target: Option<u32>,
}

#[derive(Debug, Default)]
struct Sink {
    peers: Vec<Peer>,
    free: Vec<u32>,
    subscribers: HashMap<Vec<u8>, u32>,
    outbound: VecDeque<()>,
}

impl Sink {
    fn mark_dirty(&mut self, index: u32, effects: &mut Effects) {
        let peer = &mut self.peers[index as usize];
        if peer.is_alive && !peer.is_dirty {
            peer.is_dirty = true;
            effects.dirty.push(ConnectionKey {
                index,
                generation: peer.generation,
            });
        }
    }

    fn kill(&mut self, key: ConnectionKey) {
        let peer = &mut self.peers[key.index as usize];
        if peer.is_alive && peer.generation == key.generation {
            *peer = Peer {
                generation: peer.generation.wrapping_add(1),
                ..Peer::default()
            };
            self.free.push(key.index);
            self.subscribers.retain(|_, &mut index| index != key.index);
        }
    }

    /// Where a message of this peer goes.
    #[inline]
    fn target(&mut self, index: u32, body: &[u8]) -> Option<u32> {
        let size = usize::from(u16::from_be_bytes([*body.first()?, *body.get(1)?]));
        let topic = body.get(2..2 + size)?;
        let peer = &mut self.peers[index as usize];
        if peer.topic != topic {
            peer.topic = topic.to_vec();
            peer.target = self.subscribers.get(topic).copied();
        }
        peer.target
    }

    fn forward(&mut self, target: Option<u32>, packets: &[u8], effects: &mut Effects) {
        if let Some(target) = target
            && !packets.is_empty()
        {
            self.peers[target as usize].out.extend_from_slice(packets);
            self.mark_dirty(target, effects);
        }
    }

    /// Answers everything but PUBLISH.
    fn answer(&mut self, index: u32, first_byte: u8, body: &[u8]) {
        let peer = &mut self.peers[index as usize];
        let identifier = match *body {
            [high, low, ..] => u16::from_be_bytes([high, low]),
            _ => 0,
        };
        match first_byte {
            0x10 => {
                peer.is_v5 = body.get(6) == Some(&5);
                if peer.is_v5 {
                    // Topic Alias Maximum 0xffff: they are never looked at.
                    peer.out
                        .extend_from_slice(&[wire::CONNACK, 6, 0, 0, 3, 0x22, 0xff, 0xff]);
                } else {
                    peer.out.extend_from_slice(&[wire::CONNACK, 2, 0, 0]);
                }
            }
            0x82 => {
                let at = if peer.is_v5 { 3 } else { 2 };
                let [high, low] = identifier.to_be_bytes();
                if peer.is_v5 {
                    peer.out
                        .extend_from_slice(&[wire::SUBACK, 4, high, low, 0, 2]);
                } else {
                    peer.out.extend_from_slice(&[wire::SUBACK, 3, high, low, 2]);
                }
                if let Some(topic) = body.get(at + 2..body.len() - 1) {
                    self.subscribers.insert(topic.to_vec(), index);
                }
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
        let index = self.free.pop().unwrap_or_else(|| {
            self.peers.push(Peer::default());
            self.peers.len() as u32 - 1
        });
        let peer = &mut self.peers[index as usize];
        peer.is_alive = true;
        Some(ConnectionKey {
            index,
            generation: peer.generation,
        })
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
        let mut target = None;
        while let Ok(Some(frame)) = wire::frame(bytes, at) {
            let body = &bytes[frame.body.clone()];
            if frame.first_byte & 0xf0 == wire::PUBLISH {
                let next = self.target(index, body);
                if next != target {
                    self.forward(target, &bytes[from..at], effects);
                    (from, target) = (at, next);
                }
                let qos = (frame.first_byte >> 1) & 3;
                if qos > 0 {
                    let topic = usize::from(body[1]) | usize::from(body[0]) << 8;
                    let identifier = body.get(topic + 2..topic + 4).unwrap_or(&[0, 0]);
                    let identifier = u16::from_be_bytes([identifier[0], identifier[1]]);
                    let answer = if qos == 1 { wire::PUBACK } else { wire::PUBREC };
                    let out = &mut self.peers[index as usize].out;
                    wire::write_acknowledgement(answer, identifier, out);
                }
                at = frame.body.end;
            } else {
                self.forward(target, &bytes[from..at], effects);
                self.answer(index, frame.first_byte, body);
                at = frame.body.end;
                (from, target) = (at, None);
            }
        }
        self.forward(target, &bytes[from..at], effects);
        if !self.peers[index as usize].out.is_empty() {
            self.mark_dirty(index, effects);
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

    fn handle_envelope(&mut self, _: ShardId, (): (), _: Instant, _: &mut Effects) {}

    fn handle_timeout(&mut self, _: Instant, _: &mut Effects) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn take_output(&mut self, connection: ConnectionKey, buffer: &mut Vec<u8>) {
        let peer = &mut self.peers[connection.index as usize];
        if peer.generation == connection.generation {
            peer.is_dirty = false;
            std::mem::swap(&mut peer.out, buffer);
        }
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
        for (index, peer) in self.peers.iter().enumerate() {
            if peer.is_alive {
                effects.closes.push(ConnectionKey {
                    index: index as u32,
                    generation: peer.generation,
                });
            }
        }
    }
}
