//! What arrives: checked, counted, timed, acknowledged, and told to the publisher's window.

use std::sync::atomic::Ordering;

use fastmq::shard::Effects;

use crate::accounting::Arrival;
use crate::failure::Failure;
use crate::plan::{Delivery, client_identifier};
use crate::wire::{self, Stamp};

use super::{Engine, State};

/// Messages `first` and `count` after it have reached one subscriber of a publisher.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delivered {
    /// Its index on the thread that gets this.
    publisher: u32,
    first: u64,
    count: u64,
}

impl Engine {
    pub(super) fn handle_packets(
        &mut self,
        index: u32,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> Result<usize, Failure> {
        let now_ns = self.run.clock.now_ns();
        let delivered = self.delivered;
        self.previous_identifier = 0;
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

    pub(super) fn publish_progress(&self, now_ns: u64) {
        let status = self.status();
        status.delivered.store(self.delivered, Ordering::Relaxed);
        status.last_delivery_ns.store(now_ns, Ordering::Relaxed);
    }

    pub(super) fn handle_control(
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
                self.handle_acknowledgement(index, first_byte, identifier, now_ns, effects);
                Ok(())
            }
            wire::PUBREL => {
                let (identifier, _) = wire::read_acknowledgement(body)?;
                // Answered in any case [MQTT-4.3.3-11].
                wire::write_acknowledgement(wire::PUBCOMP, identifier, &mut peer.out);
                if peer.unreleased.remove(identifier) {
                    self.unreleased -= 1;
                } else {
                    self.breaches.pubrel_unasked += 1;
                }
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
            wire::PINGRESP if !peer.is_pinged => {
                self.breaches.pingresps_unasked += 1;
                Ok(())
            }
            wire::PINGRESP => {
                peer.is_pinged = false;
                let status = self.status();
                status.last_acknowledged_ns.store(now_ns, Ordering::Relaxed);
                status.pongs.fetch_add(1, Ordering::Relaxed);
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
    pub(super) fn handle_publish(
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
                let identifier = received.packet_identifier;
                wire::write_acknowledgement(wire::PUBACK, identifier, &mut peer.out);
                if identifier == self.previous_identifier || identifier == 0 {
                    // Sent again it may be the same one.
                    self.breaches.identifiers_reused += u64::from(first_byte & wire::DUP == 0);
                }
                self.previous_identifier = identifier;
            }
            _ => {
                let identifier = received.packet_identifier;
                wire::write_acknowledgement(wire::PUBREC, identifier, &mut peer.out);
                let is_new = peer.unreleased.insert(identifier);
                self.unreleased += u64::from(is_new);
                if !is_new || identifier == 0 {
                    self.breaches.identifiers_reused += u64::from(first_byte & wire::DUP == 0);
                }
            }
        }
        let payload = received.payload;
        let stamp = Stamp::read(payload).filter(|stamp| {
            let source = stamp.publisher.wrapping_sub(peer.first_source);
            if source >= peer.source_count {
                return false;
            }
            let publisher = &run.plan.publishers[stamp.publisher as usize];
            let topic_name = publisher.topic_name(stamp.sequence).as_bytes();
            let is_aliased = received.topic_name.is_empty() && run.common.topic_aliases;
            (received.topic_name == topic_name || is_aliased)
                && payload.len() == publisher.payload
                && payload[wire::STAMP_SIZE..] == run.filler[..payload.len() - wire::STAMP_SIZE]
        });
        let Some(stamp) = stamp else {
            self.corrupt += 1;
            return Ok(());
        };
        let publisher = &run.plan.publishers[stamp.publisher as usize];
        let is_retained = u8::from(peer.delivery == Delivery::Retained) * wire::RETAIN;
        let expected = wire::PUBLISH | (publisher.qos.min(peer.qos) << 1) | is_retained;
        let odd = first_byte ^ expected;
        if odd & wire::QOS != 0 {
            // No delivery of what was asked for.
            self.breaches.wrong_qos += 1;
            return Ok(());
        }
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
        let arrival = if peer.delivery == Delivery::Shared {
            flow.observe_share(sequence)
        } else {
            flow.observe(sequence)
        };
        if arrival == Arrival::Duplicate {
            return Ok(());
        }
        if odd != 0 {
            self.breaches.count_flags(odd, is_retained != 0);
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
    pub(super) fn record_latencies(&mut self) {
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
    pub(super) fn flush_delivered(&mut self, now_ns: u64, effects: &mut Effects) {
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
    pub(super) fn handle_delivered(
        &mut self,
        delivered: Delivered,
        now_ns: u64,
        effects: &mut Effects,
    ) {
        let publisher = &mut self.publishers[delivered.publisher as usize];
        publisher.arrivals += delivered.count;
        publisher.surplus += publisher.window.deliver(delivered.first, delivered.count);
        publisher.moved_ns = now_ns;
        self.wake_publisher(delivered.publisher, now_ns, effects);
    }

    /// Its window has moved, or its socket has room.
    #[inline]
    pub(super) fn wake_publisher(&mut self, index: u32, now_ns: u64, effects: &mut Effects) {
        let publisher = &self.publishers[index as usize];
        if self.wants_output(publisher, now_ns) {
            self.mark_dirty(publisher.peer, effects);
        }
    }

    pub(super) fn handle_acknowledgement(
        &mut self,
        index: u32,
        first_byte: u8,
        identifier: u16,
        now_ns: u64,
        effects: &mut Effects,
    ) {
        let peer = &mut self.peers[index as usize];
        let Some(local) = peer.publisher else {
            self.breaches.acknowledgements_unasked += 1;
            return;
        };
        let publisher = &mut self.publishers[local as usize];
        if first_byte == wire::PUBREC {
            if publisher.qos != 2 || !publisher.window.release(identifier) {
                self.breaches.acknowledgements_unasked += 1;
                return;
            }
            wire::write_acknowledgement(wire::PUBREL, identifier, &mut peer.out);
            return;
        }
        let of_qos = if first_byte == wire::PUBACK { 1 } else { 2 };
        if of_qos != publisher.qos || !publisher.window.acknowledge(identifier, of_qos) {
            self.breaches.acknowledgements_unasked += 1;
            return;
        }
        if publisher.quota.is_some() {
            let status = &self.run.status[self.thread];
            status.last_acknowledged_ns.store(now_ns, Ordering::Relaxed);
            status.acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        // Its own packet was the cause, so its output is looked at anyway.
        self.mark_dirty(index, effects);
    }
}
