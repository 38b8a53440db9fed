//! What happened to every message: lost, duplicated, out of order, or delivered once in order.
//!
//! A [`Flow`] is one publisher seen by one subscriber. A [`Window`] is what one publisher has sent
//! and not yet seen through. [`Identifiers`] are those that something is waited for by. None of them knows of
//! sockets or clocks.

use std::collections::BTreeMap;

/// What one arrival was.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Arrival {
    /// The first time, whether in its place or late.
    Fresh,
    /// Seen before.
    Duplicate,
}

/// One publisher's sequence as one subscriber saw it.
#[derive(Debug, Default)]
pub struct Flow {
    next: u64,
    /// Sequences passed over and not seen yet: first to one past last. Empty with a good broker.
    missing: BTreeMap<u64, u64>,
    /// How many of them are not kept any more.
    lost_long_ago: u64,
    duplicated: u64,
    reordered: u64,
    /// Of a flow of which others get their share: at its sequence's place, one more than the sequence
    /// that came last there.
    recent: Vec<u64>,
}

/// Gaps that a flow keeps, to tell what is late from what is repeated. A broker that drops every second message
/// would make one for each; what fills an older one counts as repeated, and stays lost.
const GAPS_MAX: usize = 4096;

impl Flow {
    /// A flow of which others get their share, from a publisher with so many messages under way.
    pub fn shared(window: u64) -> Self {
        let places = window.clamp(1, WINDOW_MAX).next_power_of_two();
        Self {
            recent: vec![0; places as usize],
            ..Self::default()
        }
    }

    // HOT: per message received.
    #[inline]
    pub fn observe(&mut self, sequence: u64) -> Arrival {
        if sequence == self.next {
            self.next += 1;
            return Arrival::Fresh;
        }
        self.observe_out_of_place(sequence)
    }

    #[cold]
    fn observe_out_of_place(&mut self, sequence: u64) -> Arrival {
        if sequence > self.next {
            self.missing.insert(self.next, sequence);
            self.next = sequence + 1;
            if self.missing.len() > GAPS_MAX
                && let Some((start, end)) = self.missing.pop_first()
            {
                self.lost_long_ago += end - start;
            }
            return Arrival::Fresh;
        }
        let gap = self
            .missing
            .range(..=sequence)
            .next_back()
            .map(|(&start, &end)| (start, end));
        let Some((start, end)) = gap.filter(|&(_, end)| sequence < end) else {
            self.duplicated += 1;
            return Arrival::Duplicate;
        };
        self.missing.remove(&start);
        if start < sequence {
            self.missing.insert(start, sequence);
        }
        if sequence + 1 < end {
            self.missing.insert(sequence + 1, end);
        }
        self.reordered += 1;
        Arrival::Fresh
    }

    /// How many of the `published` first sequences were not seen.
    pub fn lost(&self, published: u64) -> u64 {
        let passed_over: u64 = self.missing.iter().map(|(start, end)| end - start).sum();
        self.lost_long_ago + passed_over + published.saturating_sub(self.next)
    }

    /// A message of a shared flow: it may skip any number, and not go back.
    // HOT: per message received.
    #[inline]
    pub fn observe_share(&mut self, sequence: u64) -> Arrival {
        let places = self.recent.len() as u64;
        let recent = &mut self.recent[(sequence & (places - 1)) as usize];
        if sequence >= self.next {
            self.next = sequence + 1;
        } else if *recent == sequence + 1 || sequence + places < self.next {
            // What is further back than the window was through: somebody has it.
            self.duplicated += 1;
            return Arrival::Duplicate;
        } else {
            self.reordered += 1;
        }
        *recent = sequence + 1;
        Arrival::Fresh
    }

    pub fn duplicated(&self) -> u64 {
        self.duplicated
    }

    pub fn reordered(&self) -> u64 {
        self.reordered
    }
}

/// How far the acknowledgement of one QoS 1 or 2 PUBLISH has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Handshake {
    None,
    Published,
    Released,
}

/// The messages of one publisher that are not through: a message is through when every subscriber
/// has it and, at QoS 1 and 2, its acknowledgement is complete.
///
/// Limiting both keeps a saturating load within what the broker promises to hold: neither side can
/// run ahead until something must be dropped. A schedule waits as well, but not for what others have
/// overtaken: a message that is lost must not move what is due after it.
#[derive(Debug)]
pub struct Window {
    limit: u64,
    /// What was overtaken holds nothing back.
    is_open: bool,
    mask: u64,
    /// Deliveries each message needs.
    needed: u32,
    is_acknowledged: bool,
    deliveries: Vec<u32>,
    handshakes: Vec<Handshake>,
    head: u64,
    next: u64,
    /// All before it are acknowledged.
    acknowledged_to: u64,
    /// One more than the last one that reached all its subscribers: what is missing before it is lost, or
    /// out of order.
    complete_to: u64,
    /// The first one that was not given up: older ones may still arrive.
    kept_from: u64,
}

/// Packet Identifiers are slots, so the window must leave room for its power of two.
pub const WINDOW_MAX: u64 = 32_768;

impl Window {
    pub fn new(limit: u64, needed: u32, qos: u8) -> Self {
        Self::with_places(limit, limit, needed, qos)
    }

    fn with_places(places: u64, limit: u64, needed: u32, qos: u8) -> Self {
        let limit = limit.clamp(1, WINDOW_MAX);
        let slots = places.clamp(limit, WINDOW_MAX).next_power_of_two();
        Self {
            limit,
            is_open: false,
            mask: slots - 1,
            needed,
            is_acknowledged: qos > 0,
            deliveries: vec![0; slots as usize],
            handshakes: vec![Handshake::None; slots as usize],
            head: 0,
            next: 0,
            acknowledged_to: 0,
            complete_to: 0,
            kept_from: 0,
        }
    }

    /// One of a schedule. Deliveries that are too many are seen among so many of the last messages.
    pub fn open_loop(history: u64, limit: u64, needed: u32, qos: u8) -> Self {
        Self {
            is_open: true,
            ..Self::with_places(history, limit, needed, qos)
        }
    }

    /// Never grows the window: a broker's Receive Maximum may be smaller than what was asked for. Tells whether it
    /// was.
    pub fn restrict(&mut self, limit: u64) -> bool {
        let is_smaller = limit < self.limit;
        self.limit = self.limit.min(limit.max(1));
        is_smaller
    }

    /// Messages published so far.
    pub fn published(&self) -> u64 {
        self.next
    }

    /// Messages that may be published now.
    #[inline]
    pub fn free(&self) -> u64 {
        let waited_for = if self.is_open {
            self.acknowledged_to.min(self.complete_to.max(self.head))
        } else {
            self.head
        };
        self.limit.saturating_sub(self.next - waited_for)
    }

    /// Whether nothing is under way, where `arrived` deliveries were not too many.
    pub fn is_empty(&self, arrived: u64) -> bool {
        if self.is_open {
            self.acknowledged_to == self.next && arrived >= self.next * u64::from(self.needed)
        } else {
            self.head == self.next
        }
    }

    /// Takes the next sequence and its Packet Identifier.
    // HOT: per PUBLISH sent.
    #[inline]
    pub fn open(&mut self) -> (u64, u16) {
        debug_assert!(self.free() > 0);
        let sequence = self.next;
        let slot = sequence & self.mask;
        if self.next - self.head > self.mask {
            // Only in an open loop: the oldest makes room, and its deliveries are not looked at any more.
            self.deliveries[slot as usize] = 0;
            self.head += 1;
            self.kept_from = self.head;
        }
        self.next += 1;
        if self.needed == 0 {
            // Nobody will ever say that it arrived.
            self.complete_to = self.next;
        }
        if self.is_acknowledged {
            self.handshakes[slot as usize] = Handshake::Published;
        } else {
            self.acknowledged_to = self.next;
            if self.needed == 0 {
                self.head = self.next;
            }
        }
        (sequence, slot as u16 + 1)
    }

    /// `count` messages from `first` on have reached one subscriber. Tells how many of them it was
    /// too many deliveries for.
    // HOT: per run of messages received.
    #[inline]
    pub fn deliver(&mut self, first: u64, count: u64) -> u64 {
        let mut surplus = 0;
        for sequence in first..first + count {
            if sequence < self.head || sequence >= self.next {
                // What was given up after a stall may still arrive late.
                surplus += u64::from(sequence >= self.kept_from);
                continue;
            }
            let deliveries = &mut self.deliveries[(sequence & self.mask) as usize];
            surplus += u64::from(*deliveries >= self.needed);
            *deliveries += 1;
            if *deliveries >= self.needed && sequence >= self.complete_to {
                self.complete_to = sequence + 1;
            }
        }
        self.advance();
        surplus
    }

    #[inline]
    fn advance(&mut self) {
        while self.head < self.next {
            let slot = (self.head & self.mask) as usize;
            if self.deliveries[slot] < self.needed || self.handshakes[slot] != Handshake::None {
                break;
            }
            self.deliveries[slot] = 0;
            self.head += 1;
        }
    }

    fn slot(&self, packet_identifier: u16) -> Option<u64> {
        let slot = u64::from(packet_identifier).checked_sub(1)?;
        let sequence = self.head + (slot.wrapping_sub(self.head) & self.mask);
        (slot <= self.mask && sequence < self.next).then_some(sequence)
    }

    /// PUBACK or PUBCOMP arrived. False when nothing waits for it.
    pub fn acknowledge(&mut self, packet_identifier: u16, qos: u8) -> bool {
        let Some(sequence) = self.slot(packet_identifier) else {
            return false;
        };
        let handshake = &mut self.handshakes[(sequence & self.mask) as usize];
        let expected = if qos == 2 {
            Handshake::Released
        } else {
            Handshake::Published
        };
        if *handshake != expected {
            return false;
        }
        *handshake = Handshake::None;
        while self.acknowledged_to < self.next
            && self.handshakes[(self.acknowledged_to & self.mask) as usize] == Handshake::None
        {
            self.acknowledged_to += 1;
        }
        self.advance();
        true
    }

    /// PUBREC arrived. False when nothing waits for it.
    pub fn release(&mut self, packet_identifier: u16) -> bool {
        let Some(sequence) = self.slot(packet_identifier) else {
            return false;
        };
        let handshake = &mut self.handshakes[(sequence & self.mask) as usize];
        let expected = *handshake == Handshake::Published;
        if expected {
            *handshake = Handshake::Released;
        }
        expected
    }

    /// Messages whose acknowledgement is not complete: those that wait for PUBACK or PUBREC, and for PUBCOMP.
    pub fn unacknowledged(&self) -> (u64, u64) {
        let outstanding = self.head..self.next;
        let slots = outstanding.map(|sequence| (sequence & self.mask) as usize);
        slots.fold((0, 0), |(published, released), slot| {
            match self.handshakes[slot] {
                Handshake::None => (published, released),
                Handshake::Published => (published + 1, released),
                Handshake::Released => (published, released + 1),
            }
        })
    }

    /// Whether every message is acknowledged, as far as messages are.
    pub fn is_acknowledged(&self) -> bool {
        self.acknowledged_to == self.next
    }

    /// Stops waiting for everything outstanding. Only where loss is allowed, and nothing else is waited for.
    pub fn give_up(&mut self) {
        self.head = self.next;
        self.acknowledged_to = self.next;
        self.complete_to = self.next;
        self.kept_from = self.next;
        self.deliveries.fill(0);
        self.handshakes.fill(Handshake::None);
    }
}

/// Packet Identifiers that something is waited for by: a bit for each, as far as the highest one.
#[derive(Debug, Default)]
pub struct Identifiers {
    words: Vec<u64>,
    count: u32,
}

impl Identifiers {
    /// False where it was there before.
    #[inline]
    pub fn insert(&mut self, packet_identifier: u16) -> bool {
        let word = usize::from(packet_identifier / 64);
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (packet_identifier % 64);
        let is_new = self.words[word] & bit == 0;
        self.words[word] |= bit;
        self.count += u32::from(is_new);
        is_new
    }

    /// False where it was not there.
    #[inline]
    pub fn remove(&mut self, packet_identifier: u16) -> bool {
        let Some(word) = self.words.get_mut(usize::from(packet_identifier / 64)) else {
            return false;
        };
        let bit = 1 << (packet_identifier % 64);
        let was_there = *word & bit != 0;
        *word &= !bit;
        self.count -= u32::from(was_there);
        was_there
    }

    pub fn len(&self) -> u32 {
        self.count
    }

    pub fn clear(&mut self) {
        self.words.fill(0);
        self.count = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn observe(flow: &mut Flow, sequences: &[u64]) {
        for &sequence in sequences {
            flow.observe(sequence);
        }
    }

    #[test]
    fn flow_in_order_has_nothing_to_report() {
        let mut flow = Flow::default();
        observe(&mut flow, &[0, 1, 2, 3]);
        assert_eq!(
            (flow.lost(4), flow.duplicated(), flow.reordered()),
            (0, 0, 0)
        );
        assert_eq!(flow.lost(6), 2, "the tail counts");
    }

    #[test]
    fn late_arrival_is_reordered_not_lost_and_a_second_one_is_a_duplicate() {
        let mut flow = Flow::default();
        observe(&mut flow, &[0, 5, 2, 2, 0, 4, 6]);
        assert_eq!(
            (flow.lost(7), flow.duplicated(), flow.reordered()),
            (2, 2, 2)
        );
        observe(&mut flow, &[1, 3]);
        assert_eq!(
            (flow.lost(7), flow.duplicated(), flow.reordered()),
            (0, 2, 4)
        );
    }

    #[test]
    fn window_needs_every_subscriber_and_the_acknowledgement() {
        let mut window = Window::new(2, 2, 1);
        let (first, first_identifier) = window.open();
        let (second, _) = window.open();
        assert_eq!(window.free(), 0);
        window.deliver(first, 2);
        assert!(window.acknowledge(first_identifier, 1));
        assert!(
            !window.acknowledge(first_identifier, 1),
            "acknowledged twice"
        );
        window.deliver(second, 1);
        assert_eq!(window.free(), 0);
        assert_eq!(window.unacknowledged(), (1, 0), "the second one");
        assert_eq!(window.deliver(first, 1), 0);
        assert_eq!(window.free(), 1);
        assert_eq!(window.deliver(first, 1), 1, "one too many");
    }

    #[test]
    fn in_an_open_loop_what_is_late_is_waited_for_and_what_was_overtaken_is_not() {
        let mut window = Window::open_loop(0, 2, 1, 0);
        for _ in 0..2 {
            window.open();
        }
        assert_eq!(window.free(), 0);
        assert_eq!(window.deliver(1, 1), 0);
        assert_eq!(window.free(), 2);
    }

    #[test]
    fn in_an_open_loop_one_that_is_lost_holds_nothing_back() {
        for qos in [0, 1] {
            let mut window = Window::open_loop(0, 2, 1, qos);
            for arrived in 0..100 {
                assert!(window.free() > 0, "QoS {qos}, after {arrived}");
                let (sequence, identifier) = window.open();
                if qos > 0 {
                    assert!(window.acknowledge(identifier, qos));
                }
                if sequence > 0 {
                    assert_eq!(window.deliver(sequence, 1), 0);
                }
                // The first one never comes.
                assert!(!window.is_empty(arrived));
            }
            assert!(window.is_empty(100));
            assert_eq!(window.deliver(0, 1), 0, "late, and not one too many");
        }
    }

    #[test]
    fn in_an_open_loop_what_is_not_acknowledged_holds_the_rest_back() {
        let mut window = Window::open_loop(0, 2, 0, 1);
        let (_, first) = window.open();
        let (_, second) = window.open();
        assert!(window.acknowledge(second, 1));
        assert_eq!(window.free(), 0);
        assert_eq!(window.unacknowledged(), (1, 0));
        assert!(window.acknowledge(first, 1));
        assert_eq!(window.free(), 2);
        assert!(!window.acknowledge(first, 1), "acknowledged twice");
    }

    #[test]
    fn in_an_open_loop_a_delivery_too_many_is_seen_among_the_last_messages() {
        let mut window = Window::open_loop(8, 1, 1, 1);
        for _ in 0..20 {
            let (sequence, identifier) = window.open();
            assert!(window.acknowledge(identifier, 1));
            assert_eq!(window.deliver(sequence, 1), 0);
            if let Some(earlier) = sequence.checked_sub(5) {
                assert_eq!(window.deliver(earlier, 1), 1);
            }
        }
    }

    #[test]
    fn qos2_handshake_has_two_steps_and_identifiers_are_used_again() {
        let mut window = Window::new(3, 1, 2);
        for _ in 0..100 {
            let (sequence, identifier) = window.open();
            assert!(!window.acknowledge(identifier, 2), "PUBCOMP before PUBREC");
            assert!(window.release(identifier));
            assert!(!window.release(identifier), "PUBREC twice");
            assert_eq!(window.unacknowledged(), (0, 1));
            window.deliver(sequence, 1);
            assert!(!window.is_empty(0));
            assert!(window.acknowledge(identifier, 2));
        }
        assert!(window.is_empty(0));
        assert!(!window.release(1), "PUBREC of what is through");
        assert!(window.is_acknowledged());
        assert!(!window.acknowledge(0, 1));
    }

    #[test]
    fn a_flow_with_a_gap_for_every_message_counts_all_of_them_and_keeps_the_last_ones() {
        let mut flow = Flow::default();
        let count = 3 * GAPS_MAX as u64;
        for sequence in 0..count {
            flow.observe(2 * sequence + 1);
        }
        assert_eq!(flow.missing.len(), GAPS_MAX);
        assert_eq!(flow.lost(2 * count), count);
        assert_eq!(flow.observe(2 * count - 2), Arrival::Fresh);
        assert_eq!((flow.lost(2 * count), flow.reordered()), (count - 1, 1));
    }

    #[test]
    fn identifiers_are_there_once_and_gone_when_they_were_taken() {
        let mut identifiers = Identifiers::default();
        for identifier in [0, 63, 64, u16::MAX] {
            assert!(!identifiers.remove(identifier));
            assert!(identifiers.insert(identifier));
            assert!(!identifiers.insert(identifier));
        }
        assert_eq!(identifiers.len(), 4);
        assert!(identifiers.remove(64));
        assert!(!identifiers.remove(64));
        assert_eq!(identifiers.len(), 3);
        identifiers.clear();
        assert_eq!(identifiers.len(), 0);
        assert!(identifiers.insert(63));
    }

    #[test]
    fn given_up_messages_do_not_complete_later_ones() {
        let mut window = Window::new(4, 1, 0);
        let (old, _) = window.open();
        window.give_up();
        assert_eq!(window.free(), 4);
        assert_eq!(window.deliver(old, 1), 0, "late, and not one too many");
        assert!(window.is_empty(0));
        let (new, _) = window.open();
        window.deliver(new, 1);
        assert!(window.is_empty(0));
        assert_eq!(window.deliver(new, 1), 1, "one too many");
    }

    #[test]
    fn without_subscribers_and_acknowledgements_nothing_is_waited_for() {
        let mut window = Window::new(1, 0, 0);
        for _ in 0..3 {
            assert_eq!(window.free(), 1);
            window.open();
        }
        assert!(window.is_empty(0));
    }

    #[test]
    fn shares_may_skip_and_not_go_back() {
        let mut flow = Flow::shared(16);
        for sequence in [1, 4, 9, 7] {
            assert_eq!(flow.observe_share(sequence), Arrival::Fresh);
        }
        assert_eq!((flow.duplicated(), flow.reordered()), (0, 1));
    }

    #[test]
    fn a_share_that_comes_again_is_a_duplicate_not_out_of_order() {
        let mut flow = Flow::shared(4);
        for sequence in [0, 5, 7] {
            flow.observe_share(sequence);
        }
        // The last one, one before it, and one that was through before the last one was published.
        for sequence in [7, 5, 2] {
            assert_eq!(flow.observe_share(sequence), Arrival::Duplicate);
        }
        assert_eq!((flow.duplicated(), flow.reordered()), (3, 0));
    }
}
