//! The engine as the data path sees it: connections to make, bytes in, output to take, deadlines.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::Ordering;

use fastmq::key::{ConnectionKey, ShardId};
use fastmq::net::Core;
use fastmq::origin::Origin;
use fastmq::shard::Effects;
use fastmq::time::Instant;

use crate::failure::Failure;
use crate::plan::{Script, client_identifier};
use crate::transport::Transport;
use crate::wire;

use super::{Delivered, Engine, Event, State};

/// How often an engine looks for commands and stalls.
pub const TICK_NS: u64 = 10_000_000;

impl Core for Engine {
    type Envelope = Delivered;

    fn handle_accept(&mut self, _: Origin, _: Instant) -> Option<ConnectionKey> {
        None
    }

    fn next_connect(&mut self) -> Option<(ConnectionKey, SocketAddr)> {
        if self.waiting.is_empty() || self.under_way >= self.under_way_max || self.has_failed {
            return None;
        }
        let now_ns = self.run.clock.now_ns();
        let due_ns = self.connect_due_ns();
        if self.run.plan.script == Script::Visits && now_ns >= self.stop_ns {
            self.waiting.clear();
            return None;
        }
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
        peer.is_pinged = false;
        if !peer.is_resuming {
            // What a Session that ended was to release is never released.
            self.unreleased -= u64::from(peer.unreleased.len());
            peer.unreleased.clear();
        }
        peer.since_ns = now_ns;
        peer.due_ns = if due_ns == 0 { now_ns } else { due_ns };
        match wrapping {
            Ok(transport) => peer.transport = transport.map(Box::new),
            Err(failure) => {
                self.fail(failure);
                return None;
            }
        }
        Some((self.key(index), self.address(index)))
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
                let address = self.address(connection.index);
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
        _: usize,
        _: Instant,
        effects: &mut Effects,
    ) -> Option<Delivered> {
        let now_ns = self.run.clock.now_ns();
        self.handle_delivered(envelope, now_ns, effects);
        None
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
                .filter(|publisher| publisher.has_outstanding())
                .count() as u64
                + self.unreleased;
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
