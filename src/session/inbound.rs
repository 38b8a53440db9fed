//! QoS 2 messages sent to us, between PUBLISH and PUBREL.
//!
//! A message is routed when its PUBLISH arrives and only its Packet Identifier is remembered
//! (method B of MQTT 5, figure 4.3), so the state is two bytes a message. Most Clients publish none, and have
//! a pointer for it.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use crate::key::PacketIdentifier;

/// Packet Identifiers that must not be routed again until their PUBREL [MQTT-4.3.3-10].
#[derive(Debug, Default)]
pub struct Inbound {
    /// Stays, once something has come.
    flow: Option<Box<Flow>>,
}

#[derive(Debug, Default)]
struct Flow {
    /// In arrival order. Clients release in that order, so that nearly every search ends at the
    /// front; there are at most 65,535.
    awaiting_pubrel: VecDeque<u16>,
    /// Those of messages that other shards have yet to store: see `shard`. Answered in this order nearly always.
    tickets: VecDeque<u64>,
}

impl Inbound {
    /// Remembers a received PUBLISH. False if it is a repetition, which is not routed again.
    pub fn publish(&mut self, packet_identifier: PacketIdentifier) -> bool {
        let new = !self.contains(packet_identifier);
        if new {
            let flow = self.flow.get_or_insert_default();
            flow.awaiting_pubrel.push_back(packet_identifier.get());
        }
        new
    }

    /// Whether the PUBLISH with this identifier was received and not yet released.
    #[must_use]
    pub fn contains(&self, packet_identifier: PacketIdentifier) -> bool {
        let wanted = packet_identifier.get();
        let flow = self.flow.as_ref();
        flow.is_some_and(|flow| flow.awaiting_pubrel.contains(&wanted))
    }

    /// Forgets an identifier at its PUBREL. False if it was unknown.
    pub fn release(&mut self, packet_identifier: PacketIdentifier) -> bool {
        let wanted = packet_identifier.get();
        let Some(flow) = &mut self.flow else {
            return false;
        };
        let awaiting = &mut flow.awaiting_pubrel;
        if awaiting.front() == Some(&wanted) {
            awaiting.pop_front();
            return true;
        }
        let position = awaiting.iter().position(|&id| id == wanted);
        position.is_some_and(|index| awaiting.remove(index).is_some())
    }

    /// The identifiers that await their PUBREL, in arrival order.
    pub fn iter(&self) -> impl Iterator<Item = PacketIdentifier> {
        self.flow
            .iter()
            .flat_map(|flow| flow.awaiting_pubrel.iter())
            .filter_map(|&identifier| PacketIdentifier::new(identifier))
    }

    /// Remembers the ticket of a message that other shards have to store.
    pub fn add_ticket(&mut self, ticket: u64) {
        let flow = self.flow.get_or_insert_default();
        flow.tickets.push_back(ticket);
    }

    /// They have.
    pub fn remove_ticket(&mut self, ticket: u64) {
        if let Some(flow) = &mut self.flow
            && let Some(index) = flow.tickets.iter().position(|&it| it == ticket)
        {
            flow.tickets.remove(index);
        }
    }

    /// The tickets of those that they have not, in order.
    pub fn tickets(&self) -> impl Iterator<Item = u64> {
        let flow = self.flow.iter();
        flow.flat_map(|flow| flow.tickets.iter().copied())
    }

    /// Messages received and not released.
    #[must_use]
    pub fn len(&self) -> usize {
        let flow = self.flow.as_ref();
        flow.map_or(0, |flow| flow.awaiting_pubrel.len())
    }

    /// Whether nothing awaits its PUBREL.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(value: u16) -> PacketIdentifier {
        PacketIdentifier::new(value).unwrap()
    }

    /// [MQTT-4.3.3-10]
    #[test]
    fn a_repeated_publish_is_new_again_only_after_its_pubrel() {
        let mut inbound = Inbound::default();
        assert!(inbound.publish(id(7)));
        assert!(!inbound.publish(id(7)));
        assert!(inbound.release(id(7)));
        assert!(!inbound.release(id(7)));
        assert!(inbound.publish(id(7)));
    }

    #[test]
    fn release_out_of_order_forgets_only_the_named_identifier() {
        let mut inbound = Inbound::default();
        for value in 1..=5 {
            inbound.publish(id(value));
        }
        assert!(inbound.release(id(3)));
        assert!(inbound.contains(id(1)) && !inbound.contains(id(3)) && inbound.contains(id(5)));
        assert_eq!(inbound.len(), 4);
    }
}
