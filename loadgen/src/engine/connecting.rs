//! From a plan's client to a connection that is ready: CONNECT, SUBSCRIBE, and leaving again.

use std::sync::atomic::Ordering;

use crate::failure::Failure;
use crate::plan::{Delivery, Script, client_identifier};
use crate::wire::{self, Connect};

use super::{Engine, State};

/// Topic Filters in one SUBSCRIBE.
const FILTERS_MAX: usize = 100;

impl Engine {
    pub(super) fn begin_connecting(&mut self, stage: u8, is_resuming: bool, now_ns: u64) {
        self.connect_start_ns = now_ns;
        self.connects_begun = 0;
        for (index, peer) in self.peers.iter_mut().enumerate() {
            if self.run.plan.clients[peer.client as usize].stage == stage {
                peer.is_resuming = is_resuming;
                self.waiting.push_back(index as u32);
            }
        }
    }

    pub(super) fn connect_due_ns(&self) -> u64 {
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

    pub(super) fn is_timed(&self) -> bool {
        matches!(
            self.run.plan.script,
            Script::Visits | Script::Hold { timed: true }
        )
    }

    pub(super) fn write_connect(&mut self, index: u32) {
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

    pub(super) fn handle_connack(
        &mut self,
        index: u32,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), Failure> {
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
            let receive_maximum = u64::from(connack.receive_maximum);
            if publisher.qos > 0 && publisher.window.restrict(receive_maximum) {
                self.windows_restricted += 1;
                self.window_least = self.window_least.min(receive_maximum);
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
        // Nobody has had these Client Identifiers before.
        self.breaches.sessions_present += u64::from(!peer.is_resuming && connack.session_present);
        if peer.is_resuming || plan.delivery == Delivery::Retained {
            // Who comes back asked with its CONNECT, who is new asks now.
            let asked_ns = if peer.is_resuming {
                peer.since_ns
            } else {
                now_ns
            };
            if asked_ns >= self.from_ns {
                let status = &run.status[self.thread];
                let first_ns = status.first_ask_ns.load(Ordering::Relaxed);
                if first_ns == 0 || asked_ns < first_ns {
                    status.first_ask_ns.store(asked_ns, Ordering::Relaxed);
                }
            }
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
            peer.subacks_missing.insert(identifier);
        }
        Ok(())
    }

    pub(super) fn handle_suback(
        &mut self,
        index: u32,
        body: &[u8],
        now_ns: u64,
    ) -> Result<(), Failure> {
        let (identifier, codes) = wire::read_suback(self.run.common.protocol, body)?;
        let peer = &mut self.peers[index as usize];
        if !peer.subacks_missing.remove(identifier) {
            self.breaches.subacks_unasked += 1;
            return Ok(());
        }
        let filters = self.run.plan.clients[peer.client as usize]
            .topic_filters
            .chunks(FILTERS_MAX)
            .nth(usize::from(identifier) - 1);
        self.breaches.suback_codes += u64::from(filters.map(<[_]>::len) != Some(codes.len()));
        for &code in codes {
            if code >= 0x80 {
                return Err(Failure::SubscribeRefused {
                    client: client_identifier(peer.client),
                    code,
                });
            }
            if code < peer.qos {
                // It may, and then what arrives is not what was to be measured.
                return Err(Failure::QosGranted {
                    client: client_identifier(peer.client),
                    granted: code,
                    asked: peer.qos,
                });
            }
            self.breaches.granted_more += u64::from(code > peer.qos);
        }
        if peer.subacks_missing.len() == 0 && peer.state == State::AwaitingSubAck {
            self.become_ready(index, now_ns);
        }
        Ok(())
    }

    pub(super) fn become_ready(&mut self, index: u32, now_ns: u64) {
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
}
