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
    /// Those of which a power failure may have taken that they were released.
    doubtful: Vec<u16>,
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

    /// Remembers a PUBLISH of before a crash that may have been released since, if its Client knows that.
    pub fn restore(&mut self, packet_identifier: PacketIdentifier, may_be_released: bool) {
        if self.publish(packet_identifier)
            && may_be_released
            && let Some(flow) = &mut self.flow
        {
            flow.doubtful.push(packet_identifier.get());
        }
    }

    /// Whether a PUBLISH without DUP, whose identifier awaits its PUBREL, is another message all the same: the end of
    /// the one before was lost. Said of each once, and only before anything else has come with it.
    pub fn begins_anew(&mut self, packet_identifier: PacketIdentifier, duplicate: bool) -> bool {
        self.settle(packet_identifier) && !duplicate
    }

    /// What came with this identifier is known from now on. Whether it was in doubt.
    fn settle(&mut self, packet_identifier: PacketIdentifier) -> bool {
        let Some(flow) = &mut self.flow else {
            return false;
        };
        let mut doubtful = flow.doubtful.iter();
        let found = doubtful.position(|&it| it == packet_identifier.get());
        found.is_some_and(|index| {
            flow.doubtful.swap_remove(index);
            true
        })
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
        self.settle(packet_identifier);
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

    /// Messages received and not released, as far as their Client knows: one whose end was lost is over for it, and may
    /// never be heard of again.
    #[must_use]
    pub fn known(&self) -> usize {
        let doubtful = self.flow.as_ref().map_or(0, |flow| flow.doubtful.len());
        self.len() - doubtful
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

    /// [MQTT-3.3.1-1]
    #[test]
    fn one_that_may_have_been_released_is_another_message_unless_it_is_said_to_be_a_repetition() {
        let mut inbound = Inbound::default();
        for (value, in_doubt) in [(1, true), (2, true), (3, true), (4, false)] {
            inbound.restore(id(value), in_doubt);
        }
        assert!(inbound.begins_anew(id(1), false) && !inbound.begins_anew(id(1), false));
        assert!(!inbound.begins_anew(id(2), true) && !inbound.begins_anew(id(2), false));
        assert!(inbound.release(id(3)) && inbound.publish(id(3)));
        assert!(!inbound.begins_anew(id(3), false));
        assert!(!inbound.begins_anew(id(4), false));
        inbound.restore(id(5), true);
        assert_eq!((inbound.len(), inbound.known()), (5, 4));
        assert!(!inbound.begins_anew(id(5), true) && inbound.release(id(5)));
        assert_eq!(inbound.len(), 4);
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
