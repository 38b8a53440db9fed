//! Members of a Shared Subscription whose Sessions come and go while the broker crashes.
//!
//! One member stays, so that there is always somebody: then every message that was acknowledged has to
//! come to one of them. Others end their Sessions, or unsubscribe, and hand on what they have left. None does
//! both: what it was sent before it unsubscribed stays with its Session and would end with it.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use super::content::{Content, Sort};
use super::link::Link;
use crate::codec::{
    self, Connect, Disconnect, Packet, ReasonCode, Subscribe, SubscriptionOptions, Unsubscribe,
};
use crate::key::PacketIdentifier;
use crate::message::{ProtocolVersion, QoS};
use crate::sim::oracle::Violation;
use crate::sim::random::Random;
use crate::sim::world::World;

/// What all members subscribe to, and where its messages are published.
const FILTER: &str = "$share/group/s/#";
/// What ends with the Session though it was sent only, as QoS 2 does, would not be missed. So all of it
/// is delivered with QoS 1, whatever it is published with.
const QOS: QoS = QoS::AtLeastOnce;
const VERSION: ProtocolVersion = ProtocolVersion::V5;

/// Asks for one thing at a time.
fn identifier() -> PacketIdentifier {
    PacketIdentifier::new(1).expect("not zero")
}

/// One member.
#[derive(Debug)]
pub(super) struct GroupMember {
    index: usize,
    pub(super) link: Link,
    /// The broker has said that it is subscribed.
    is_subscribed: bool,
    /// Counts what Clients do, all over the simulation, and when its Subscription last changed.
    pub(super) moment: u64,
    subscribed_since: u64,
    is_asking: bool,
    /// What came, by publisher.
    got: BTreeMap<usize, BTreeSet<u32>>,
}

impl GroupMember {
    pub(super) fn new(index: usize) -> Self {
        Self {
            index,
            link: Link::new(VERSION),
            is_subscribed: false,
            moment: 0,
            subscribed_since: 0,
            is_asking: false,
            got: BTreeMap::new(),
        }
    }

    /// Its Client Identifier.
    pub(super) fn name(&self) -> String {
        format!("member-{}", self.index)
    }

    /// Whether its Session stays.
    pub(super) const fn stays(&self) -> bool {
        self.index == 0
    }

    const fn unsubscribes(&self) -> bool {
        self.index == 2
    }

    pub(super) const fn is_subscribed(&self) -> bool {
        self.is_subscribed
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.link.is_connected && self.is_subscribed && !self.link.has_answers()
    }

    /// What this one got of a publisher.
    pub(super) fn got(&self, publisher: usize) -> impl Iterator<Item = u32> {
        self.got.get(&publisher).into_iter().flatten().copied()
    }

    fn violation(&self, what: &str) -> Violation {
        Violation(format!("member {}: {what}", self.index))
    }

    /// The connection is gone.
    pub(super) fn drop_connection(&mut self) {
        self.link.drop();
        self.is_asking = false;
    }

    /// The power has failed, and what came after the moment `safe` may be gone with it. Whether that may be the
    /// Subscription of who stays.
    pub(super) fn lose(&mut self, safe: u64) -> bool {
        let is_lost = self.is_subscribed && self.subscribed_since > safe;
        self.is_subscribed &= !is_lost;
        is_lost && self.stays()
    }

    fn connect(&mut self, world: &mut World, random: &mut Random, clean_start: bool) {
        self.link.open(world, random);
        let identifier = self.name();
        let mut connect = Connect::new(VERSION, &identifier);
        connect.clean_start = clean_start;
        connect.properties.session_expiry_interval = Some(u32::MAX);
        self.link.send(world, &Packet::Connect(connect));
    }

    /// Does one thing. `may_leave`: its Session may end, or it may unsubscribe, if it does that.
    pub(super) fn act(&mut self, world: &mut World, random: &mut Random, may_leave: bool) {
        let may_unsubscribe = may_leave && self.unsubscribes();
        let may_leave = may_leave && !self.stays() && !self.unsubscribes();
        let Some(wire) = self.link.wire() else {
            let clean_start = may_leave && random.chance(30);
            return self.connect(world, random, clean_start);
        };
        if may_leave && random.one_in(60) || random.one_in(150) {
            world.cut(wire, random);
            return self.drop_connection();
        }
        if !self.link.is_connected {
            return;
        }
        if may_leave && random.one_in(60) {
            let mut disconnect = Disconnect::new(ReasonCode::Success);
            disconnect.session_expiry_interval = Some(0);
            self.link.send(world, &Packet::Disconnect(disconnect));
            world.close(wire);
            return self.drop_connection();
        }
        if self.is_asking {
            // One thing at a time.
        } else if !self.is_subscribed {
            let filters = [(FILTER, SubscriptionOptions::new(QOS))];
            self.link.send(
                world,
                &Packet::Subscribe(Subscribe::new(identifier(), &filters)),
            );
            self.is_asking = true;
        } else if may_unsubscribe && random.one_in(10) {
            let filters = [FILTER];
            let unsubscribe = Unsubscribe::new(identifier(), &filters);
            self.link.send(world, &Packet::Unsubscribe(unsubscribe));
            self.is_asking = true;
        }
        // It is in no hurry, so that there is something to be handed on.
        if random.chance(20) {
            self.link.answer_one(world);
        }
    }

    pub(super) fn read(&mut self, world: &mut World, count: usize) -> Result<(), Violation> {
        for packet in self.link.read(world, count).iter() {
            self.hear(&packet?)?;
        }
        if self.link.is_ended(world) {
            self.drop_connection();
        }
        Ok(())
    }

    fn hear(&mut self, packet: &Packet<'_>) -> Result<(), Violation> {
        match packet {
            Packet::ConnAck(connack) if !connack.reason_code.is_error() => {
                if self.stays() && self.is_subscribed && !connack.session_present {
                    return Err(self.violation("its session is gone"));
                }
                self.link.is_connected = true;
                // What became of the last thing it asked for is not known.
                self.is_subscribed &= self.stays();
            }
            Packet::SubAck(suback) => {
                self.is_asking = false;
                self.subscribed_since = self.moment;
                self.is_subscribed = suback.reason_codes.iter().all(|code| !code.is_error());
            }
            Packet::UnsubAck(_) => {
                self.is_asking = false;
                self.is_subscribed = false;
            }
            Packet::Publish(publish) => self.take(publish)?,
            _ => {}
        }
        Ok(())
    }

    /// A message has come.
    fn take(&mut self, publish: &codec::Publish<'_>) -> Result<(), Violation> {
        let content = Content::read(publish, VERSION).map_err(|what| self.violation(&what))?;
        if publish.qos != QOS || content.sort != Sort::Shared {
            return Err(self.violation(&format!("{publish:?} has come")));
        }
        self.link.take(publish, &mut BTreeSet::new());
        let got = self.got.entry(content.publisher).or_default();
        got.insert(content.number);
        Ok(())
    }
}
