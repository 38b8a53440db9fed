//! From records back to state.
//!
//! One [`Replay`] reads the log of one shard, from its first frame to its last. What it holds at the
//! end is what that shard knew. It holds the state itself and little else, however long the log is.

#![forbid(unsafe_code)]

use super::bytes::NUMBER_MAX;
use super::owed::Owed;
use super::prepared::{Prepared, Step};
use super::record::{Digest, Record, Records, UnknownRecord, digest};
use super::{Journal, Origin, WallClock};
use crate::codec::SubscriptionOptions;
use crate::key::PacketIdentifier;
use crate::limits::OPEN_EXCHANGES_MAX;
use crate::long_queue::LongQueue;
use crate::message::{Message, MessageRef, QoS};
use crate::origin::Identity;
use crate::router::RetainedVersion;
use smallvec::SmallVec;
use std::collections::hash_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::NonZeroU32;
use std::sync::Arc;

/// A Subscription as it was stored.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct ReplayedSubscription {
    /// What it asks for.
    pub options: SubscriptionOptions,
    /// Its Subscription Identifier.
    pub identifier: Option<NonZeroU32>,
    /// Whether retained messages that it asked for are not all among what its Session is owed, or was.
    pub is_replaying: bool,
}

/// How far a delivery had come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Progress {
    /// Its PUBLISH was not sent.
    Waiting,
    /// Its PUBLISH may have been sent.
    Sent,
    /// Its PUBREC has come.
    Released,
}

impl Progress {
    pub(super) const fn before_release(sent: bool) -> Self {
        if sent { Self::Sent } else { Self::Waiting }
    }
}

/// Something owed to a Session.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplayedDelivery {
    /// Its place.
    pub sequence: u64,
    /// How far it had come.
    pub progress: Progress,
    /// The message; `None` once it is released.
    pub message: Option<Arc<Message>>,
    /// Its QoS.
    pub qos: QoS,
    /// The RETAIN flag the subscriber sees.
    pub retain: bool,
    /// The shared subscription it came through.
    pub share: Option<Arc<str>>,
    /// Identifiers of the subscriptions that matched.
    pub subscription_identifiers: SmallVec<[NonZeroU32; 1]>,
}

impl ReplayedDelivery {
    /// Whether another member of a Shared Subscription may get it: not once a QoS 2 PUBLISH was sent
    /// [MQTT-4.8.2-5], which all before that place may have been.
    fn may_be_handed_on(&self, sent_before: u64) -> bool {
        match self.progress {
            Progress::Waiting => self.qos == QoS::AtLeastOnce || self.sequence >= sent_before,
            Progress::Sent => self.qos == QoS::AtLeastOnce,
            Progress::Released => false,
        }
    }
}

/// A Will that was not published.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplayedWill {
    /// The message.
    pub message: Message,
    /// Seconds from the loss of the connection to its publication.
    pub delay_interval_s: u32,
    /// Lifetime of the message.
    pub message_expiry_interval_s: Option<u32>,
}

/// A Session as it was stored.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ReplayedSession {
    /// Its name; never zero.
    pub session: u64,
    /// Whose it is. `None`: the Session had ended before the log begins.
    pub identity: Option<Arc<Identity>>,
    /// Whether it had a connection.
    pub is_connected: bool,
    /// Whether it is over: what it is owed is handed on.
    pub is_ending: bool,
    /// Seconds it outlives its connection.
    pub expiry_interval_s: u32,
    /// When it ends, if it had no connection.
    pub expires_at_ms: Option<u64>,
    /// Its Will.
    pub will: Option<ReplayedWill>,
    /// When its Will is due, if it had no connection.
    pub will_at_ms: Option<u64>,
    /// The place of its next delivery.
    pub next_sequence: u64,
    /// QoS 2 messages it has sent us, as far as is known.
    pub exchanges: u64,
    /// As that of [`Record::Session`].
    pub window: Option<u16>,
    /// As that of [`Record::Interrupted`].
    pub sent_before: u64,
    /// As that of [`Record::Interrupted`].
    pub left_before: u64,
    /// All of them up to this one were taken.
    pub taken_up_to: u64,
    /// Others that were, the last ones.
    pub taken: BTreeSet<u64>,
    /// Exchanges that are said anew, under later numbers: see [`Suspect`].
    pub renumbered: Vec<u64>,
    /// Its Subscriptions by filter.
    pub subscriptions: BTreeMap<String, ReplayedSubscription>,
    /// What it is owed, in order.
    pub deliveries: LongQueue<ReplayedDelivery>,
    /// QoS 2 messages it has sent and not released, in order.
    pub inbound: Vec<PacketIdentifier>,
    /// Places of deliveries that others have instead, as their logs say.
    pub handed_on: Vec<u64>,
}

impl ReplayedSession {
    /// Whether the QoS 2 message `exchange` is known to have been taken.
    #[must_use]
    pub fn has_taken(&self, exchange: u64) -> bool {
        exchange <= self.taken_up_to || self.taken.contains(&exchange)
    }

    fn take(&mut self, exchange: u64) {
        self.exchanges = self.exchanges.max(exchange);
        if exchange > self.taken_up_to {
            self.taken.insert(exchange);
        }
        // Nothing older is under way still.
        if self.taken.len() > OPEN_EXCHANGES_MAX
            && let Some(oldest) = self.taken.pop_first()
        {
            self.taken_up_to = self.taken_up_to.max(oldest);
        }
    }

    /// Others have what this one was owed at these places.
    pub fn hand_on(&mut self, sequences: &BTreeSet<u64>) {
        // What is owed at a place is not known if its own log was late. Used again, the place would be taken
        // for the one that others have.
        if let Some(last) = sequences.last() {
            let next = last.saturating_add(1).min(NUMBER_MAX);
            self.next_sequence = self.next_sequence.max(next);
        }
        let handed_on = &mut self.handed_on;
        self.deliveries.retain(|it| {
            let is_kept = !sequences.contains(&it.sequence);
            if !is_kept {
                handed_on.push(it.sequence);
            }
            is_kept
        });
    }

    /// Whose it is.
    #[must_use]
    pub fn client_identifier(&self) -> &str {
        self.identity
            .as_ref()
            .map_or("", |identity| &identity.client_identifier)
    }
}

/// A topic's retained message, or that it has none.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ReplayedRetained {
    /// Which write it is.
    pub version: RetainedVersion,
    /// Without payload: there is none.
    pub message: Arc<Message>,
}

impl ReplayedRetained {
    /// Whether it says that the topic has none.
    #[must_use]
    pub fn is_removal(&self) -> bool {
        self.message.as_ref().as_ref().payload.is_empty()
    }
}

/// A QoS 2 message that some Sessions were given, though its publisher may not be remembered to have
/// sent it. As long as its publisher may send it again this is said anew at every start, in the log of
/// the publisher's shard.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Suspect {
    /// The exchange that brought it.
    pub origin: Origin,
    /// What tells it from another message with its Packet Identifier, if that is known.
    pub digest: Option<Digest>,
    /// Who was given it for Subscriptions of their own.
    pub sessions: Vec<u64>,
    /// The Shared Subscriptions of which a member was given it: each is one receiver, as the next choice
    /// may be another member.
    pub groups: Vec<Arc<str>>,
}

impl Suspect {
    pub(super) const fn new(origin: Origin, digest: Option<Digest>) -> Self {
        Self {
            origin,
            digest,
            sessions: Vec::new(),
            groups: Vec::new(),
        }
    }

    /// Whether it is this message. DUP does not tell: a Client that was refused it, or forgot it, uses its Packet
    /// Identifier for another one, and may have to send that twice before anything of it is on a disk.
    #[must_use]
    pub fn is_message(&self, message: MessageRef<'_>) -> bool {
        let digest = || digest(message.topic_name, message.properties, message.payload);
        self.digest.is_none_or(|own| own == digest())
    }

    /// Writes it down.
    pub fn append_to(&self, journal: &mut Journal) {
        let Self { origin, digest, .. } = *self;
        for &session in &self.sessions {
            journal.append(&Record::Had {
                origin,
                digest,
                session,
            });
        }
        for share in &self.groups {
            journal.append(&Record::GroupHad {
                origin,
                digest,
                share,
            });
        }
    }
}

/// A Session as far as its log was read.
#[derive(Debug, Default)]
struct Open {
    /// Without what it is owed.
    state: ReplayedSession,
    owed: Owed,
}

impl Open {
    fn put(&mut self, delivery: ReplayedDelivery) {
        self.goes_on_after(delivery.sequence);
        self.owed.put(delivery);
    }

    fn put_all(&mut self, deliveries: impl Iterator<Item = ReplayedDelivery>) {
        let mut last = None;
        let deliveries = deliveries.inspect(|it| last = last.max(Some(it.sequence)));
        self.owed.put_all(deliveries);
        if let Some(last) = last {
            self.goes_on_after(last);
        }
    }

    fn goes_on_after(&mut self, sequence: u64) {
        let next = sequence.saturating_add(1).min(NUMBER_MAX);
        self.state.next_sequence = self.state.next_sequence.max(next);
    }
}

/// The messages of one frame by name. Names count up, and a delivery is of the last one nearly always.
#[derive(Debug)]
pub(super) struct FrameMessages<T>(Vec<(u64, Arc<Message>, T)>);

impl<T> Default for FrameMessages<T> {
    fn default() -> Self {
        Self(Vec::new())
    }
}

impl<T: Copy> FrameMessages<T> {
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    fn position(&self, name: u64) -> Result<usize, usize> {
        match self.0.last() {
            Some((last, ..)) if *last < name => Err(self.0.len()),
            Some((last, ..)) if *last == name => Ok(self.0.len() - 1),
            _ => self.0.binary_search_by_key(&name, |it| it.0),
        }
    }

    pub(super) fn insert(&mut self, name: u64, message: Arc<Message>, about: T) {
        let named = (name, message, about);
        match self.position(name) {
            Ok(index) => self.0[index] = named,
            Err(index) => self.0.insert(index, named),
        }
    }

    pub(super) fn remove(&mut self, name: u64) {
        if let Ok(index) = self.position(name) {
            self.0.remove(index);
        }
    }

    pub(super) fn get(&self, name: u64) -> Option<(Arc<Message>, T)> {
        let index = self.position(name).ok()?;
        let (_, message, about) = self.0.get(index)?;
        Some((message.clone(), *about))
    }
}

/// The state that the records read so far describe.
#[derive(Debug, Default)]
pub struct Replay {
    clock: WallClock,
    /// Ports of the listeners there are now.
    ports: Vec<u16>,
    sessions: HashMap<u64, Open, ahash::RandomState>,
    retained: HashMap<Box<[u8]>, ReplayedRetained, ahash::RandomState>,
    /// Messages that deliveries of later frames refer to.
    shared: HashMap<u64, Arc<Message>, ahash::RandomState>,
    /// Messages of the frame at hand, and what brought those that may be sent again.
    messages: FrameMessages<Option<(Origin, Digest)>>,
    shares: HashMap<Box<str>, Arc<str>, ahash::RandomState>,
    suspects: HashMap<u64, VecDeque<Suspect>, ahash::RandomState>,
    handed_on: Vec<(u64, u64)>,
    session_max: u64,
    records: u64,
    said_deliveries: Said,
    said_retained: Said,
}

/// How much a log said of one kind of thing, some of which is over.
#[derive(Clone, Copy, Debug, Default)]
struct Said {
    count: u64,
    bytes: u64,
}

impl Said {
    fn add(&mut self, size: u64) {
        self.count += 1;
        self.bytes += size;
    }

    /// Bytes it takes to say `count` of them, if they are like the others.
    fn size_of(self, count: usize) -> u64 {
        let size = self.bytes as f64 / self.count.max(1) as f64 * count as f64;
        size as u64
    }
}

/// Bytes it takes to say that there is a Session, about.
const SESSION_SIZE: u64 = 256;

/// Everything a log said.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Sessions by name.
    pub sessions: BTreeMap<u64, ReplayedSession>,
    /// Retained messages and removals.
    pub retained: Vec<ReplayedRetained>,
    /// What may be repeated though some have got it.
    pub suspects: Vec<Suspect>,
    /// Deliveries that Sessions of this log have instead of others: those Sessions, and their places.
    pub handed_on: Vec<(u64, u64)>,
    /// The largest name of a Session.
    pub session_max: u64,
    /// Bytes it takes to say all of it again, about.
    pub size: u64,
}

impl Replayed {
    /// One Session that subscribes to `t`, for tests.
    #[cfg(test)]
    pub(crate) fn of_one_session(client_identifier: &str) -> Self {
        let identity = Identity {
            client_identifier: client_identifier.into(),
            username: None,
            listener: Default::default(),
        };
        let subscription = ReplayedSubscription {
            options: Default::default(),
            identifier: None,
            is_replaying: false,
        };
        let session = ReplayedSession {
            session: 1,
            identity: Some(identity.into()),
            expiry_interval_s: u32::MAX,
            subscriptions: [("t".to_owned(), subscription)].into(),
            ..ReplayedSession::default()
        };
        Self {
            sessions: [(1, session)].into(),
            session_max: 1,
            ..Self::default()
        }
    }

    /// Topics with a retained message.
    #[must_use]
    pub fn retained_count(&self) -> usize {
        self.retained.iter().filter(|it| !it.is_removal()).count()
    }
}

impl Replay {
    /// Nothing yet. `clock` is that of the process that reads, `ports` those of its listeners.
    #[must_use]
    pub fn new(clock: WallClock, ports: &[u16]) -> Self {
        Self {
            clock,
            ports: ports.to_vec(),
            ..Self::default()
        }
    }

    /// Records read.
    #[must_use]
    pub const fn records(&self) -> u64 {
        self.records
    }

    /// Reads the records of the next frame.
    ///
    /// # Errors
    /// [`UnknownRecord`]; the records before it have been read.
    pub fn frame(&mut self, payload: &[u8]) -> Result<(), UnknownRecord> {
        self.messages.clear();
        self.some_of_frame(payload)
    }

    /// The same for the first frame that is ready and was not replayed.
    ///
    /// # Errors
    /// As for [`Replay::frame`].
    pub fn prepared(
        &mut self,
        payload: &[u8],
        prepared: &mut Prepared,
    ) -> Result<(), UnknownRecord> {
        self.messages.clear();
        while let Some(step) = prepared.steps.pop_front() {
            match step {
                Step::Deliveries { session, count } => {
                    let deliveries = prepared.deliveries.drain(..count);
                    self.open(session).put_all(deliveries);
                }
                Step::Message { name, message } => self.messages.insert(name, message, None),
                Step::Records { begin, end } => {
                    self.some_of_frame(payload.get(begin..end).unwrap_or_default())?;
                }
                Step::End {
                    records,
                    deliveries,
                    bytes,
                } => {
                    self.records += records;
                    self.said_deliveries.count += deliveries;
                    self.said_deliveries.bytes += bytes;
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn some_of_frame(&mut self, payload: &[u8]) -> Result<(), UnknownRecord> {
        let mut records = Records::new(payload);
        let mut left = records.left();
        while let Some(record) = records.next() {
            let record = record?;
            let size = (left - records.left()) as u64;
            left = records.left();
            match record {
                Record::Message { .. } => self.said_deliveries.bytes += size,
                Record::Delivery { .. } => self.said_deliveries.add(size),
                Record::Retained { .. } => self.said_retained.add(size),
                _ => {}
            }
            self.record(&record);
            self.records += 1;
        }
        Ok(())
    }

    fn open(&mut self, name: u64) -> &mut Open {
        self.session_max = self.session_max.max(name);
        let open = self.sessions.entry(name).or_default();
        open.state.session = name;
        open
    }

    fn session(&mut self, name: u64) -> &mut ReplayedSession {
        &mut self.open(name).state
    }

    fn record(&mut self, record: &Record<'_>) {
        match *record {
            Record::Session {
                session,
                identity,
                expiry_interval_s,
                next_sequence,
                exchanges,
                window,
                will,
            } => {
                let will = will.map(|will| ReplayedWill {
                    message: will.message.to_message(self.clock),
                    delay_interval_s: will.delay_interval_s,
                    message_expiry_interval_s: will.message_expiry_interval_s,
                });
                let identity = Arc::new(identity.to_identity(&self.ports));
                let state = self.session(session);
                state.identity = Some(identity);
                state.is_connected = true;
                state.expiry_interval_s = expiry_interval_s;
                state.next_sequence = state.next_sequence.max(next_sequence);
                state.exchanges = state.exchanges.max(exchanges);
                state.window = window;
                state.taken_up_to = state.taken_up_to.max(exchanges);
                state.will = will;
                state.will_at_ms = None;
                state.expires_at_ms = None;
            }
            Record::Detached {
                session,
                expires_at_ms,
                will_at_ms,
            } => {
                let state = self.session(session);
                state.is_connected = false;
                state.expires_at_ms = expires_at_ms;
                state.will_at_ms = will_at_ms;
                if will_at_ms.is_none() {
                    state.will = None;
                }
            }
            Record::Interrupted {
                session,
                sent_before,
                left_before,
            } => {
                let state = self.session(session);
                state.sent_before = state.sent_before.max(sent_before);
                state.left_before = state.left_before.max(left_before);
            }
            Record::Ending { session } => {
                let open = self.open(session);
                let state = &mut open.state;
                let sent_before = state.sent_before;
                state.is_ending = true;
                state.is_connected = false;
                state.will = None;
                state.subscriptions.clear();
                state.inbound.clear();
                open.owed
                    .retain(|it| it.share.is_some() && it.may_be_handed_on(sent_before));
            }
            Record::HandedOn { session, sequence } => {
                self.session_max = self.session_max.max(session);
                self.handed_on.push((session, sequence));
            }
            Record::Ended { session } => {
                self.session_max = self.session_max.max(session);
                self.sessions.remove(&session);
            }
            Record::Subscribed {
                session,
                filter,
                options,
                identifier,
                is_replaying,
            } => {
                let subscription = ReplayedSubscription {
                    options,
                    identifier,
                    is_replaying,
                };
                self.session(session)
                    .subscriptions
                    .insert(filter.to_owned(), subscription);
            }
            Record::Unsubscribed { session, filter } => {
                self.session(session).subscriptions.remove(filter);
            }
            Record::Message {
                message,
                shared,
                origin,
                content,
            } => {
                let brought_by = origin.map(|origin| (origin, content.digest()));
                let content = Arc::new(content.to_message(self.clock));
                if shared {
                    self.shared.insert(message, content.clone());
                }
                self.messages.insert(message, content, brought_by);
            }
            Record::Delivery {
                session,
                sequence,
                message,
                qos,
                retain,
                sent,
                share,
                subscription_identifiers,
            } => {
                let (content, brought_by) = match self.messages.get(message) {
                    Some(found) => found,
                    None => match self.shared.get(&message) {
                        Some(content) => (content.clone(), None),
                        // Its message was said before the log begins, so this is said again later.
                        None => return,
                    },
                };
                let share = share.map(|share| self.share(share));
                if let Some((origin, digest)) = brought_by {
                    let suspect = self.suspect(origin, Some(digest));
                    match &share {
                        Some(share) => suspect.groups.push(share.clone()),
                        None => suspect.sessions.push(session),
                    }
                }
                self.open(session).put(ReplayedDelivery {
                    sequence,
                    progress: Progress::before_release(sent),
                    message: Some(content),
                    qos,
                    retain,
                    share,
                    subscription_identifiers: subscription_identifiers
                        .iter()
                        .filter_map(|&bytes| NonZeroU32::new(u32::from_le_bytes(bytes)))
                        .collect(),
                });
            }
            Record::Sent { session, sequence } => {
                if let Some(delivery) = self.open(session).owed.get_mut(sequence)
                    && delivery.progress == Progress::Waiting
                {
                    delivery.progress = Progress::Sent;
                }
            }
            Record::Released { session, sequence } => {
                self.open(session).put(ReplayedDelivery {
                    sequence,
                    progress: Progress::Released,
                    message: None,
                    qos: QoS::ExactlyOnce,
                    retain: false,
                    share: None,
                    subscription_identifiers: SmallVec::new(),
                });
            }
            Record::Done { session, sequence } => {
                let open = self.open(session);
                open.goes_on_after(sequence);
                open.owed.remove(sequence);
            }
            Record::Received {
                session,
                packet_identifier,
                exchange,
            } => {
                let state = self.session(session);
                state.take(exchange);
                if !state.inbound.contains(&packet_identifier) {
                    state.inbound.push(packet_identifier);
                }
            }
            Record::Taken { session, exchange } => self.session(session).take(exchange),
            Record::Had {
                origin,
                digest,
                session,
            } => self.suspect(origin, digest).sessions.push(session),
            Record::GroupHad {
                origin,
                digest,
                share,
            } => {
                let share = self.share(share);
                self.suspect(origin, digest).groups.push(share);
            }
            Record::Freed {
                session,
                packet_identifier,
            } => {
                self.session(session)
                    .inbound
                    .retain(|&it| it != packet_identifier);
            }
            Record::Retained {
                version,
                source,
                content,
            } => {
                let source = source.map(|source| Arc::new(source.to_identity(&self.ports)));
                let message = Arc::new(content.to_message(self.clock).from_source(source));
                match self.retained.entry(content.topic_name.as_bytes().into()) {
                    Entry::Vacant(entry) => {
                        entry.insert(ReplayedRetained { version, message });
                    }
                    Entry::Occupied(mut entry) if entry.get().version <= version => {
                        entry.insert(ReplayedRetained { version, message });
                    }
                    Entry::Occupied(_) => {}
                }
            }
            Record::SnapshotBegan | Record::SnapshotEnded => self.shared.clear(),
        }
    }

    fn share(&mut self, filter: &str) -> Arc<str> {
        if let Some(known) = self.shares.get(filter) {
            return known.clone();
        }
        let share: Arc<str> = filter.into();
        self.shares.insert(filter.into(), share.clone());
        share
    }

    /// Who was given a message, as far as is known. As many exchanges of one publisher as may be open.
    fn suspect(&mut self, origin: Origin, digest: Option<Digest>) -> &mut Suspect {
        let suspects = self.suspects.entry(origin.session).or_default();
        while let Some(first) = suspects.front()
            && first.origin.exchange + (OPEN_EXCHANGES_MAX as u64) < origin.exchange
        {
            suspects.pop_front();
        }
        let known = suspects.iter().rposition(|it| it.origin == origin);
        let index = known.unwrap_or_else(|| {
            suspects.push_back(Suspect::new(origin, digest));
            suspects.len() - 1
        });
        &mut suspects[index]
    }

    /// What all of it amounts to.
    #[must_use]
    pub fn finish(mut self) -> Replayed {
        self.sessions.retain(|_, it| it.state.identity.is_some());
        let sessions = self.sessions.drain().map(|(name, open)| {
            let Open { mut state, owed } = open;
            state.deliveries = owed.finish();
            (name, state)
        });
        let sessions: BTreeMap<u64, ReplayedSession> = sessions.collect();
        let owed = sessions.values().map(|it| it.deliveries.len()).sum();
        Replayed {
            size: self.said_deliveries.size_of(owed)
                + self.said_retained.size_of(self.retained.len())
                + SESSION_SIZE * sessions.len() as u64,
            sessions,
            retained: self.retained.into_values().collect(),
            suspects: self.suspects.into_values().flatten().collect(),
            handed_on: self.handed_on,
            session_max: self.session_max,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::{Origins, StoredIdentity, StoredMessage, WillRecord, next_frame};
    use crate::key::ShardId;

    fn content(payload: &'static [u8]) -> StoredMessage<'static> {
        StoredMessage {
            topic_name: "t",
            properties: b"",
            payload,
            qos: QoS::AtLeastOnce,
            retain: false,
            expires_at_ms: None,
        }
    }

    fn session(session: u64) -> Record<'static> {
        Record::Session {
            session,
            identity: StoredIdentity {
                client_identifier: "c",
                username: None,
                listener: 0,
                port: 0,
            },
            expiry_interval_s: 60,
            next_sequence: 0,
            exchanges: 0,
            window: Some(20),
            will: None,
        }
    }

    fn message(message: u64, shared: bool, payload: &'static [u8]) -> Record<'static> {
        Record::Message {
            message,
            shared,
            origin: None,
            content: content(payload),
        }
    }

    fn delivery(session: u64, sequence: u64, message: u64) -> Record<'static> {
        Record::Delivery {
            session,
            sequence,
            message,
            qos: QoS::AtLeastOnce,
            retain: false,
            sent: false,
            share: None,
            subscription_identifiers: &[],
        }
    }

    fn replay(frames: &[&[Record<'_>]]) -> Replayed {
        let mut replay = Replay::new(WallClock::default(), &[0]);
        for frame in frames {
            let mut bytes = Vec::new();
            for record in *frame {
                record.encode(&mut bytes);
            }
            replay.frame(&bytes).unwrap();
        }
        replay.finish()
    }

    fn places(replayed: &Replayed, session: u64) -> Vec<u64> {
        let deliveries = &replayed.sessions[&session].deliveries;
        deliveries.iter().map(|it| it.sequence).collect()
    }

    #[test]
    fn deliveries_come_back_in_order_without_those_that_are_done() {
        let replayed = replay(&[
            &[session(1), message(1, false, b"a"), delivery(1, 0, 1)],
            &[message(1, false, b"b"), delivery(1, 1, 1)],
            &[message(2, false, b"c"), delivery(1, 2, 2)],
            &[Record::Done {
                session: 1,
                sequence: 1,
            }],
            &[Record::Sent {
                session: 1,
                sequence: 0,
            }],
        ]);
        assert_eq!(places(&replayed, 1), [0, 2]);
        let state = &replayed.sessions[&1];
        assert_eq!(state.next_sequence, 3);
        assert_eq!(state.deliveries[0].progress, Progress::Sent);
        assert_eq!(state.deliveries[1].progress, Progress::Waiting);
    }

    #[test]
    fn saying_everything_again_changes_nothing() {
        let once: &[&[Record<'_>]] = &[
            &[session(1), message(1, false, b"a"), delivery(1, 0, 1)],
            &[message(2, false, b"b"), delivery(1, 1, 2)],
            &[Record::Released {
                session: 1,
                sequence: 0,
            }],
        ];
        let again: &[&[Record<'_>]] = &[
            &[
                Record::SnapshotBegan,
                session(1),
                Record::Released {
                    session: 1,
                    sequence: 0,
                },
            ],
            &[message(9, true, b"b")],
            &[delivery(1, 1, 9), Record::SnapshotEnded],
        ];
        let both = [once, again].concat();
        let only_again = replay(again);
        let (whole, both) = (replay(once), replay(&both));
        assert_eq!(whole.sessions[&1].deliveries, both.sessions[&1].deliveries);
        assert_eq!(
            both.sessions[&1].deliveries,
            only_again.sessions[&1].deliveries
        );
    }

    #[test]
    fn a_session_goes_on_behind_every_place_that_its_log_names() {
        let done = Record::Done {
            session: 1,
            sequence: 7,
        };
        let next = |frames: &[&[Record<'_>]]| replay(frames).sessions[&1].next_sequence;
        // What was owed there was said before the log begins.
        assert_eq!(next(&[&[session(1), done]]), 8);
        // It comes back.
        assert_eq!(next(&[&[session(1), done], &[session(1)]]), 8);
        let owed = [session(1), message(1, false, b"a"), delivery(1, 4, 1)];
        assert_eq!(next(&[&owed, &[session(1)]]), 5);
    }

    /// [MQTT-4.8.2-5]
    #[test]
    fn a_session_that_is_over_keeps_what_it_may_hand_on_and_nothing_else() {
        let owed = |sequence, qos, sent, share| Record::Delivery {
            session: 1,
            sequence,
            message: 1,
            qos,
            retain: false,
            sent,
            share,
            subscription_identifiers: &[],
        };
        let Record::Session {
            session,
            identity,
            expiry_interval_s,
            next_sequence,
            exchanges,
            window,
            ..
        } = session(1)
        else {
            panic!("it is a Session");
        };
        let with_will = Record::Session {
            session,
            identity,
            expiry_interval_s,
            next_sequence,
            exchanges,
            window,
            will: Some(WillRecord {
                message: content(b"will"),
                delay_interval_s: 0,
                message_expiry_interval_s: None,
            }),
        };
        let share = Some("$share/g/t");
        let frame = [
            with_will,
            Record::Subscribed {
                session: 1,
                filter: "t",
                options: SubscriptionOptions::default(),
                identifier: None,
                is_replaying: false,
            },
            Record::Received {
                session: 1,
                packet_identifier: PacketIdentifier::new(1).unwrap(),
                exchange: 1,
            },
            message(1, false, b"x"),
            owed(0, QoS::AtLeastOnce, false, None),
            owed(1, QoS::AtLeastOnce, true, share),
            owed(2, QoS::ExactlyOnce, false, share),
            owed(3, QoS::ExactlyOnce, true, share),
            owed(4, QoS::ExactlyOnce, true, share),
            Record::Released {
                session: 1,
                sequence: 4,
            },
        ];
        let before = replay(&[&frame]);
        let state = &before.sessions[&1];
        assert!(state.is_connected && state.will.is_some() && !state.is_ending);
        assert_eq!((state.subscriptions.len(), state.inbound.len()), (1, 1));
        assert_eq!(places(&before, 1), [0, 1, 2, 3, 4]);
        let over = replay(&[&frame, &[Record::Ending { session: 1 }]]);
        let state = &over.sessions[&1];
        assert!(!state.is_connected && state.will.is_none() && state.is_ending);
        assert!(state.subscriptions.is_empty() && state.inbound.is_empty());
        assert_eq!(places(&over, 1), [1, 2]);
        // One of QoS 2 that may have been sent before an earlier crash.
        let interrupted = Record::Interrupted {
            session: 1,
            sent_before: 3,
            left_before: 3,
        };
        let over = replay(&[&frame, &[interrupted, Record::Ending { session: 1 }]]);
        assert_eq!(places(&over, 1), [1]);
    }

    #[test]
    fn what_a_shortened_log_says_of_a_session_that_ended_is_forgotten() {
        let replayed = replay(&[
            &[Record::Done {
                session: 1,
                sequence: 7,
            }],
            &[delivery(1, 8, 3)],
            &[Record::Received {
                session: 1,
                packet_identifier: PacketIdentifier::new(1).unwrap(),
                exchange: 1,
            }],
        ]);
        assert!(replayed.sessions.is_empty());
        assert_eq!(replayed.session_max, 1);
    }

    #[test]
    fn the_later_version_of_a_retained_message_stays_whatever_came_last() {
        let retained = |clock, payload| Record::Retained {
            version: RetainedVersion {
                clock,
                shard: ShardId(0),
            },
            source: None,
            content: content(payload),
        };
        let replayed = replay(&[&[retained(2, b"new"), retained(1, b"old")]]);
        assert_eq!(replayed.retained.len(), 1);
        assert_eq!(replayed.retained[0].version.clock, 2);
    }

    #[test]
    fn sessions_that_were_given_a_message_of_another_shard_are_known_by_its_origin() {
        let origin = |exchange| Origin {
            session: 5,
            exchange,
            packet_identifier: PacketIdentifier::new(3).unwrap(),
        };
        let from = |exchange| Record::Message {
            message: 1,
            shared: false,
            origin: Some(origin(exchange)),
            content: content(b"x"),
        };
        let replayed = replay(&[
            &[from(1), delivery(1, 0, 1), delivery(2, 0, 1)],
            &[from(2), delivery(2, 1, 1)],
        ]);
        let sessions = |replayed: &Replayed| -> Vec<_> {
            let suspects = replayed.suspects.iter();
            suspects
                .map(|it| (it.origin.exchange, it.sessions.clone()))
                .collect()
        };
        assert_eq!(sessions(&replayed), [(1, vec![1, 2]), (2, vec![2])]);
        // A member of a group stands for the group.
        let shared = Record::Delivery {
            session: 1,
            sequence: 1,
            message: 1,
            qos: QoS::ExactlyOnce,
            retain: false,
            sent: false,
            share: Some("$share/g/t"),
            subscription_identifiers: &[],
        };
        let replayed = replay(&[&[from(1), delivery(2, 0, 1), shared]]);
        assert_eq!(sessions(&replayed), [(1, vec![2])]);
        assert_eq!(replayed.suspects[0].groups, ["$share/g/t".into()]);
        let mut journal = Journal::new(0, 1, Origins::default(), WallClock::default());
        replayed.suspects[0].append_to(&mut journal);
        let mut frame = Vec::new();
        journal.take(&mut frame).unwrap();
        let frame = frame.concat();
        let (frame, _) = next_frame(&frame, 1).unwrap().unwrap();
        let mut again = Replay::new(WallClock::default(), &[]);
        again.frame(frame.payload).unwrap();
        assert_eq!(again.finish().suspects, replayed.suspects);
        let late = OPEN_EXCHANGES_MAX as u64 + 2;
        let replayed = replay(&[
            &[from(1), delivery(1, 0, 1)],
            &[from(late), delivery(1, 1, 1)],
        ]);
        assert_eq!(replayed.suspects.len(), 1);
    }
}
