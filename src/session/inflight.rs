//! QoS 1 and 2 messages we sent, until they are acknowledged to the end.
//!
//! Packet Identifiers are given out in sequence from 1, so the messages in flight lie side by side
//! in a deque and an identifier is an index: no search, no hash, no order to keep beside it. An
//! acknowledged message in the middle leaves a hole until everything before it is acknowledged too.
//! A Client that was sent QoS 0 only has a pointer instead of a deque.

#![forbid(unsafe_code)]

use std::collections::VecDeque;

use super::delivery::{Delivery, ShareTag};
use super::error::ProtocolError;
use crate::key::PacketIdentifier;
use crate::message::QoS;

/// Packet Identifiers there are: 1 to 65,535.
const IDENTIFIERS: u32 = 65_535;

/// Where one exchange stands.
#[derive(Debug)]
pub enum Progress {
    /// PUBLISH sent: PUBACK (QoS 1) or PUBREC (QoS 2) is awaited.
    Published(Delivery),
    /// PUBREL sent: PUBCOMP is awaited. The message itself is no longer needed.
    Released,
}

/// The outgoing exchanges of one Session, in the order their PUBLISH was sent.
#[derive(Debug)]
pub struct Inflight {
    /// Stays, once something was sent.
    window: Option<Box<Window>>,
    /// Identifier of the first exchange, or of the next one if there is none.
    first: u16,
    /// Exchanges that are not a hole.
    used: u16,
}

#[derive(Debug, Default)]
struct Window {
    /// `None`: acknowledged, but something before it is not.
    exchanges: VecDeque<Option<Progress>>,
    /// Place of the first exchange, if the Session is stored.
    first_sequence: u64,
}

impl Default for Inflight {
    fn default() -> Self {
        Self {
            window: None,
            first: 1,
            used: 0,
        }
    }
}

impl Inflight {
    /// Exchanges, holes included.
    fn span(&self) -> usize {
        self.window.as_ref().map_or(0, |it| it.exchanges.len())
    }

    /// Exchanges under way: what Receive Maximum bounds [MQTT-3.3.4-9].
    #[must_use]
    pub fn len(&self) -> u16 {
        self.used
    }

    /// Bytes of the messages whose PUBLISH was sent and not acknowledged. Visits each.
    #[must_use]
    pub fn published_bytes(&self) -> usize {
        self.window
            .iter()
            .flat_map(|window| window.exchanges.iter())
            .map(|exchange| match exchange {
                Some(Progress::Published(delivery)) => delivery.message.size(),
                Some(Progress::Released) | None => 0,
            })
            .sum()
    }

    /// Whether nothing awaits an acknowledgement.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.used == 0
    }

    /// Whether one more message may be sent to a Client that allows `window` of them.
    #[must_use]
    pub fn has_room(&self, window: u16) -> bool {
        self.used < window && (self.span() as u32) < IDENTIFIERS
    }

    /// The identifier the next [`Inflight::push`] will use.
    #[must_use]
    pub fn next_identifier(&self) -> PacketIdentifier {
        let zero_based = (u32::from(self.first) - 1 + self.span() as u32) % IDENTIFIERS;
        PacketIdentifier::new(zero_based as u16 + 1).expect("one more than something is not zero")
    }

    /// The identifier of the delivery at place `sequence` of a Session that is stored. They follow one
    /// another as places do, so that both ends call a delivery the same after a crash.
    #[must_use]
    pub fn identifier_of(sequence: u64) -> PacketIdentifier {
        let zero_based = sequence % u64::from(IDENTIFIERS);
        PacketIdentifier::new(zero_based as u16 + 1).expect("one more than something is not zero")
    }

    /// As [`Inflight::has_room`], for the delivery at place `sequence`, which has its identifier already.
    #[must_use]
    pub fn has_room_for(&self, sequence: u64, window: u16) -> bool {
        // By places, not by identifiers: any number of places may have been given up in between.
        self.used < window && self.places_to(sequence) < u64::from(IDENTIFIERS) / 2
    }

    /// How far behind the first exchange the place `sequence` is.
    fn places_to(&self, sequence: u64) -> u64 {
        let window = self.window.as_ref().filter(|it| !it.exchanges.is_empty());
        window.map_or(0, |window| {
            debug_assert!(sequence >= window.first_sequence, "places go forward");
            sequence.saturating_sub(window.first_sequence)
        })
    }

    /// Starts an exchange, or goes on with one, at a place that was given out before. The identifiers
    /// between the last exchange and this one are not in use.
    pub fn push_at(&mut self, sequence: u64, progress: Progress) {
        if self.span() == 0 {
            self.first = Self::identifier_of(sequence).get();
        }
        let distance = self.places_to(sequence) as usize;
        let Window {
            exchanges,
            first_sequence,
        } = &mut **self.window.get_or_insert_default();
        if exchanges.is_empty() {
            *first_sequence = sequence;
        }
        debug_assert!(distance >= exchanges.len(), "places go forward");
        while exchanges.len() < distance {
            exchanges.push_back(None);
        }
        exchanges.push_back(Some(progress));
        self.used += 1;
    }

    /// The place of the exchange `packet_identifier`, if the Session is stored.
    #[must_use]
    pub fn sequence_of(&self, packet_identifier: PacketIdentifier) -> u64 {
        let first_sequence = self.window.as_ref().map_or(0, |it| it.first_sequence);
        first_sequence + self.distance(packet_identifier) as u64
    }

    /// Starts an exchange. The caller has asked [`Inflight::has_room`].
    pub fn push(&mut self, delivery: Delivery) -> PacketIdentifier {
        debug_assert!(
            (self.span() as u32) < IDENTIFIERS,
            "no Packet Identifier is free"
        );
        let packet_identifier = self.next_identifier();
        let window = self.window.get_or_insert_default();
        let exchanges = &mut window.exchanges;
        exchanges.push_back(Some(Progress::Published(delivery)));
        self.used += 1;
        packet_identifier
    }

    fn distance(&self, packet_identifier: PacketIdentifier) -> usize {
        let distance = u32::from(packet_identifier.get()) + IDENTIFIERS - u32::from(self.first);
        (distance % IDENTIFIERS) as usize
    }

    fn slot(&mut self, packet_identifier: PacketIdentifier) -> Option<&mut Option<Progress>> {
        let distance = self.distance(packet_identifier);
        self.window.as_mut()?.exchanges.get_mut(distance)
    }

    fn finish(&mut self, packet_identifier: PacketIdentifier) {
        if let Some(slot) = self.slot(packet_identifier)
            && slot.take().is_some()
        {
            self.used -= 1;
        }
        let Some(window) = &mut self.window else {
            return;
        };
        while let Some(None) = window.exchanges.front() {
            window.exchanges.pop_front();
            window.first_sequence += 1;
            self.first = if self.first == u16::MAX {
                1
            } else {
                self.first + 1
            };
        }
    }

    /// PUBACK ends a QoS 1 exchange. False if the identifier is not in use.
    ///
    /// # Errors
    /// [`ProtocolError::WrongAcknowledgement`] if the exchange is not QoS 1.
    pub fn puback(&mut self, packet_identifier: PacketIdentifier) -> Result<bool, ProtocolError> {
        match self.slot(packet_identifier) {
            Some(Some(Progress::Published(delivery))) if delivery.qos == QoS::AtLeastOnce => {
                self.finish(packet_identifier);
                Ok(true)
            }
            Some(Some(_)) => Err(ProtocolError::WrongAcknowledgement),
            Some(None) | None => Ok(false),
        }
    }

    /// PUBREC moves a QoS 2 exchange to PUBREL, or ends it if it `failed` [MQTT-4.3.3-4]. False if
    /// the identifier is not in use.
    ///
    /// # Errors
    /// [`ProtocolError::WrongAcknowledgement`] if the exchange is not QoS 2.
    pub fn pubrec(
        &mut self,
        packet_identifier: PacketIdentifier,
        failed: bool,
    ) -> Result<bool, ProtocolError> {
        match self.slot(packet_identifier) {
            Some(Some(Progress::Published(delivery))) if delivery.qos != QoS::ExactlyOnce => {
                Err(ProtocolError::WrongAcknowledgement)
            }
            Some(Some(_)) if failed => {
                self.finish(packet_identifier);
                Ok(true)
            }
            Some(Some(progress)) => {
                *progress = Progress::Released;
                Ok(true)
            }
            Some(None) | None => Ok(false),
        }
    }

    /// PUBCOMP ends a QoS 2 exchange. False if the identifier is not in use.
    ///
    /// # Errors
    /// [`ProtocolError::WrongAcknowledgement`] if no PUBREL was sent for it.
    pub fn pubcomp(&mut self, packet_identifier: PacketIdentifier) -> Result<bool, ProtocolError> {
        match self.slot(packet_identifier) {
            Some(Some(Progress::Released)) => {
                self.finish(packet_identifier);
                Ok(true)
            }
            Some(Some(Progress::Published(_))) => Err(ProtocolError::WrongAcknowledgement),
            Some(None) | None => Ok(false),
        }
    }

    /// How far the exchange `packet_identifier` is, if there is one.
    #[must_use]
    pub fn progress(&self, packet_identifier: PacketIdentifier) -> Option<&Progress> {
        let distance = self.distance(packet_identifier);
        self.window.as_ref()?.exchanges.get(distance)?.as_ref()
    }

    /// Ends an exchange that can no longer be completed, whatever its progress.
    pub fn abandon(&mut self, packet_identifier: PacketIdentifier) {
        self.finish(packet_identifier);
    }

    /// Every exchange under way, oldest first: what a new connection must repeat [MQTT-4.4.0-1], in
    /// the order it was sent [MQTT-4.6.0-1].
    pub fn iter(&self) -> impl Iterator<Item = (PacketIdentifier, &Progress)> {
        let first = u32::from(self.first) - 1;
        self.window
            .iter()
            .flat_map(|window| window.exchanges.iter())
            .enumerate()
            .filter_map(move |(index, progress)| {
                let zero_based = (first + index as u32) % IDENTIFIERS;
                Some((
                    PacketIdentifier::new(zero_based as u16 + 1)?,
                    progress.as_ref()?,
                ))
            })
    }

    /// Forgets that messages came through a shared subscription the Session has left: its name may
    /// soon be another's.
    pub fn forget_share(&mut self, share: ShareTag) {
        let Some(window) = &mut self.window else {
            return;
        };
        for exchange in &mut window.exchanges {
            if let Some(Progress::Published(delivery)) = exchange
                && delivery.share == Some(share)
            {
                delivery.share = None;
            }
        }
    }

    /// Takes out every message whose PUBLISH was sent and not acknowledged.
    pub fn take_published(&mut self) -> impl Iterator<Item = Delivery> {
        let window = std::mem::take(self).window;
        let exchanges = window.into_iter().flat_map(|window| window.exchanges);
        exchanges.filter_map(|progress| match progress {
            Some(Progress::Published(delivery)) => Some(delivery),
            Some(Progress::Released) | None => None,
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::message::Message;

    fn id(value: u16) -> PacketIdentifier {
        PacketIdentifier::new(value).unwrap()
    }

    fn delivery(qos: QoS) -> Delivery {
        Delivery {
            message: Arc::new(Message::default()),
            qos,
            retain: false,
            share: None,
            subscription_identifiers: Default::default(),
            place: Default::default(),
        }
    }

    #[test]
    fn identifiers_that_follow_from_places_leave_holes_that_are_not_in_use() {
        let mut inflight = Inflight::default();
        for sequence in [65_530, 65_534, 65_537] {
            assert!(inflight.has_room_for(sequence, 20));
            inflight.push_at(sequence, Progress::Published(delivery(QoS::AtLeastOnce)));
        }
        assert_eq!(inflight.len(), 3);
        let identifiers: Vec<_> = inflight.iter().map(|(id, _)| id.get()).collect();
        assert_eq!(identifiers, [65_531, 65_535, 3]);
        assert_eq!(inflight.puback(id(1)), Ok(false));
        assert_eq!(inflight.sequence_of(id(3)), 65_537);
        assert_eq!(inflight.puback(id(65_531)), Ok(true));
        assert_eq!(inflight.sequence_of(id(3)), 65_537);
        assert_eq!(inflight.puback(id(3)), Ok(true));
        assert_eq!(inflight.puback(id(65_535)), Ok(true));
        assert!(inflight.is_empty());
        assert!(inflight.has_room_for(65_543, 20));
        inflight.push_at(65_543, Progress::Released);
        // The same identifier, and one that is in use, if places between were given up.
        assert!(inflight.has_room_for(65_543 + 32_766, 20));
        for places in [32_767, 65_535, 65_540, 1 << 40] {
            assert!(!inflight.has_room_for(65_543 + places, 20), "{places}");
        }
        assert_eq!(inflight.iter().next().map(|(id, _)| id), Some(id(9)));
        assert_eq!(inflight.sequence_of(id(9)), 65_543);
    }

    /// [MQTT-2.2.1-3] [MQTT-2.2.1-4]
    #[test]
    fn identifiers_count_from_one_and_skip_zero_when_they_wrap() {
        let mut inflight = Inflight::default();
        for round in 0..70_000u32 {
            let expected = (round % 65_535) as u16 + 1;
            assert_eq!(inflight.push(delivery(QoS::AtLeastOnce)), id(expected));
            assert_eq!(inflight.puback(id(expected)), Ok(true));
        }
        assert!(inflight.is_empty());
    }

    /// [MQTT-2.2.1-4]
    #[test]
    fn an_identifier_in_use_is_never_given_out_again() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::AtLeastOnce));
        for _ in 1..65_535u32 {
            let used = inflight.push(delivery(QoS::AtLeastOnce));
            assert_ne!(used, id(1));
            inflight.puback(used).unwrap();
        }
        assert!(
            !inflight.has_room(20),
            "the next identifier would be 1 again"
        );
        inflight.puback(id(1)).unwrap();
        assert!(inflight.has_room(20));
    }

    #[test]
    fn acknowledgements_out_of_order_free_room_at_once() {
        let mut inflight = Inflight::default();
        for _ in 0..3 {
            inflight.push(delivery(QoS::AtLeastOnce));
        }
        assert!(!inflight.has_room(3));
        assert_eq!(inflight.puback(id(2)), Ok(true));
        assert_eq!(inflight.puback(id(2)), Ok(false));
        assert!(inflight.has_room(3));
        assert_eq!(
            inflight.iter().map(|(id, _)| id.get()).collect::<Vec<_>>(),
            [1, 3]
        );
    }

    /// [MQTT-4.3.3-4] [MQTT-4.4.0-1]
    #[test]
    fn qos2_is_repeated_as_publish_before_pubrec_and_as_pubrel_after() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.push(delivery(QoS::ExactlyOnce));
        assert_eq!(inflight.pubrec(id(1), false), Ok(true));
        let states: Vec<_> = inflight
            .iter()
            .map(|(_, progress)| matches!(progress, Progress::Released))
            .collect();
        assert_eq!(states, [true, false]);
        assert_eq!(inflight.pubcomp(id(1)), Ok(true));
        assert_eq!(inflight.pubrec(id(2), true), Ok(true));
        assert!(inflight.is_empty());
    }

    #[test]
    fn an_acknowledgement_of_the_wrong_kind_is_a_protocol_error() {
        let mut inflight = Inflight::default();
        inflight.push(delivery(QoS::ExactlyOnce));
        inflight.push(delivery(QoS::AtLeastOnce));
        assert_eq!(
            inflight.puback(id(1)),
            Err(ProtocolError::WrongAcknowledgement)
        );
        assert_eq!(
            inflight.pubcomp(id(1)),
            Err(ProtocolError::WrongAcknowledgement)
        );
        assert_eq!(
            inflight.pubrec(id(2), false),
            Err(ProtocolError::WrongAcknowledgement)
        );
        assert_eq!(inflight.puback(id(9)), Ok(false));
    }
}
