//! From the chunks of Mosquitto's file to Sessions and retained messages as the journal has them.
//!
//! Pure: the time is an argument. What is different in Mosquitto, and what becomes of it:
//!
//! - **A QoS 2 message from a Client waits for its PUBREL before it is routed.** Here it is routed when it
//!   comes, and only its Packet Identifier is kept. So those that wait are routed now: into the queues of
//!   the Sessions of this file, and among its retained messages.
//! - **Packet Identifiers are counted on, whatever they are used for.** Here they follow from places in the
//!   sequence of deliveries. So what is in flight gets the places that yield its identifiers; what was
//!   never sent has none yet and gets the places after them.
//! - **Wills and Shared Subscriptions are not in the file.** Mosquitto forgets them when it ends.
//!
//! What is in flight is taken as sent, though it may wait to be sent again: DUP may be set on a PUBLISH
//! that never arrived, and is never missing on one that did.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, HashMap, HashSet};
use std::num::NonZeroU32;
use std::sync::Arc;

use smallvec::SmallVec;

use super::account::{Account, Loss};
use super::mosquitto_db::{
    Chunk, DeliveryChunk, DeliveryState, MessageChunk, SessionChunk, SubscriptionChunk,
};
use crate::codec::{Publish, RetainHandling, SubscriptionOptions, decode_publish};
use crate::journal::{
    Progress, Replayed, ReplayedDelivery, ReplayedRetained, ReplayedSession, ReplayedSubscription,
    WallClock,
};
use crate::key::{PacketIdentifier, SessionKey, ShardId};
use crate::message::{Message, MessageRef, ProtocolVersion, QoS};
use crate::origin::{Identity, ListenerId};
use crate::router::{Pick, RetainedVersion, Router};
use crate::session::{Inflight, SESSION_NEVER_EXPIRES};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};

/// Packet Identifiers there are: 1 to 65,535.
const IDENTIFIERS: u64 = 65_535;
/// First byte of a PUBLISH at QoS 0.
const PUBLISH: u8 = 0x30;
/// The largest Subscription Identifier, which is a Variable Byte Integer.
const SUBSCRIPTION_IDENTIFIER_MAX: u32 = 268_435_455;

/// What a file amounts to.
#[derive(Debug, Default)]
pub struct Imported {
    /// As if a log had said it.
    pub replayed: Replayed,
    /// What was taken and what was not.
    pub account: Account,
    /// The ports of the listeners that identities of `replayed` name.
    pub ports: Vec<u16>,
}

/// Takes the chunks of a file, in order.
#[derive(Debug)]
pub struct Importer {
    clock: WallClock,
    now: Instant,
    account: Account,
    /// By their names in the file; `None` for those that MQTT does not know.
    messages: HashMap<u64, Option<Arc<Message>>>,
    /// By Client Identifier.
    sessions: BTreeMap<Box<[u8]>, Pending>,
    /// Names of the messages that are retained.
    retained: Vec<u64>,
    /// Ports of listeners, and the numbers that these have.
    ports: BTreeMap<u16, ListenerId>,
    /// Everybody who published something.
    sources: HashMap<Source, Arc<Identity>>,
    scratch: Vec<u8>,
}

#[derive(Debug, Eq, Hash, PartialEq)]
struct Source {
    client_identifier: Box<[u8]>,
    username: Box<[u8]>,
    port: u16,
}

/// A Session of which more may come.
#[derive(Debug, Default)]
struct Pending {
    /// `None` until its own chunk has come.
    own: Option<Own>,
    subscriptions: BTreeMap<String, ReplayedSubscription>,
    outgoing: Vec<Outgoing>,
    /// Packet Identifiers and names of messages.
    incoming: Vec<(PacketIdentifier, u64)>,
}

/// What its own chunk says of a Session.
#[derive(Debug)]
struct Own {
    username: Box<[u8]>,
    listener_port: u16,
    expires_at_ms: Option<u64>,
    is_over: bool,
    expiry_interval_s: u32,
    last_packet_identifier: u16,
}

#[derive(Debug)]
struct Outgoing {
    message: u64,
    packet_identifier: u16,
    qos: QoS,
    retain: bool,
    state: DeliveryState,
    subscription_identifiers: SmallVec<[NonZeroU32; 1]>,
}

fn shown(text: &[u8]) -> String {
    format!("{:?}", String::from_utf8_lossy(text))
}

fn qos(bits: u8) -> QoS {
    QoS::from_bits(bits & 0b11).unwrap_or(QoS::ExactlyOnce)
}

impl Importer {
    /// Nothing yet. `clock` says what day it is, `now` how late.
    #[must_use]
    pub fn new(clock: WallClock, now: Instant) -> Self {
        Self {
            clock,
            now,
            account: Account::default(),
            messages: HashMap::new(),
            sessions: BTreeMap::new(),
            retained: Vec::new(),
            ports: BTreeMap::new(),
            sources: HashMap::new(),
            scratch: Vec::new(),
        }
    }

    /// Takes the next chunk.
    pub fn chunk(&mut self, chunk: &Chunk<'_>) {
        match chunk {
            Chunk::Configuration { is_last } => self.account.is_last = *is_last,
            Chunk::Message(message) => {
                let content = self.message(message);
                self.messages.insert(message.message, content);
            }
            Chunk::Delivery(delivery) => self.delivery(delivery),
            Chunk::Retained { message } => self.retained.push(*message),
            Chunk::Subscription(subscription) => self.subscription(subscription),
            Chunk::Session(session) => self.session(session),
        }
    }

    fn pending(&mut self, client_identifier: &[u8]) -> &mut Pending {
        self.sessions.entry(client_identifier.into()).or_default()
    }

    /// The listener with this port, which gets a number if it has none.
    fn listener(&mut self, port: u16) -> ListenerId {
        if port == 0 {
            return ListenerId(u16::MAX);
        }
        // There are fewer ports than that.
        let next = ListenerId(self.ports.len() as u16);
        *self.ports.entry(port).or_insert(next)
    }

    fn message(&mut self, chunk: &MessageChunk<'_>) -> Option<Arc<Message>> {
        let mut forwarded = Vec::new();
        // The file has the properties as a PUBLISH has them.
        let publish = self.publish(chunk.topic_name, chunk.properties)?;
        publish.properties.forwarded.copy_to(&mut forwarded);
        let source = self.source(chunk);
        let message = Message::new(MessageRef {
            topic_name: chunk.topic_name,
            properties: &forwarded,
            payload: chunk.payload,
            qos: qos(chunk.qos),
            retain: chunk.retain,
            expires_at: chunk
                .expires_at_s
                .map(|at| self.clock.instant(at.saturating_mul(1000))),
        });
        Some(Arc::new(message.from_source(source)))
    }

    /// The PUBLISH that has this topic and these properties, if there can be one.
    fn publish(&mut self, topic_name: &[u8], properties: &[u8]) -> Option<Publish<'_>> {
        let text = std::str::from_utf8(topic_name).ok()?;
        TopicName::new(text).ok()?;
        let body = &mut self.scratch;
        body.clear();
        body.extend(u16::try_from(topic_name.len()).ok()?.to_be_bytes());
        body.extend(topic_name);
        if properties.is_empty() {
            body.push(0);
        } else {
            body.extend(properties);
        }
        let publish = decode_publish(ProtocolVersion::V5, PUBLISH, body).ok()?;
        publish.payload.is_empty().then_some(publish)
    }

    /// Who published a message; `None` for Mosquitto itself.
    fn source(&mut self, chunk: &MessageChunk<'_>) -> Option<Arc<Identity>> {
        if chunk.source.is_empty() {
            return None;
        }
        let key = Source {
            client_identifier: chunk.source.into(),
            username: chunk.source_username.into(),
            port: chunk.source_port,
        };
        if let Some(known) = self.sources.get(&key) {
            return Some(known.clone());
        }
        let listener = self.listener(chunk.source_port);
        // Asked about by access rules only, which match text: one that is no text matches none.
        let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
        let username = (!key.username.is_empty()).then(|| text(&key.username).into());
        let identity = Arc::new(Identity {
            client_identifier: text(&key.client_identifier).into(),
            username,
            listener,
        });
        self.sources.insert(key, identity.clone());
        Some(identity)
    }

    fn session(&mut self, chunk: &SessionChunk<'_>) {
        let never = chunk.expiry_interval_s == SESSION_NEVER_EXPIRES;
        let now_ms = self.clock.ms(self.now);
        let expires_at_ms = match chunk.expires_at_s {
            Some(seconds) => Some(seconds.saturating_mul(1000)),
            None if never => None,
            None => Some(now_ms.saturating_add(u64::from(chunk.expiry_interval_s) * 1000)),
        };
        self.pending(chunk.client_identifier).own = Some(Own {
            username: chunk.username.into(),
            listener_port: chunk.listener_port,
            expires_at_ms,
            is_over: expires_at_ms.is_some_and(|at| at <= now_ms),
            expiry_interval_s: chunk.expiry_interval_s,
            last_packet_identifier: chunk.last_packet_identifier,
        });
    }

    fn subscription(&mut self, chunk: &SubscriptionChunk<'_>) {
        let read = || {
            let text = std::str::from_utf8(chunk.topic_filter).ok()?;
            TopicFilter::new(text).ok()?;
            let retain_handling = match chunk.options >> 4 & 0b11 {
                0 => RetainHandling::Send,
                1 => RetainHandling::SendIfNew,
                2 => RetainHandling::DoNotSend,
                _ => return None,
            };
            let options = SubscriptionOptions {
                qos: QoS::from_bits(chunk.options & 0b11)?,
                no_local: chunk.options & 1 << 2 != 0,
                retain_as_published: chunk.options & 1 << 3 != 0,
                retain_handling,
            };
            let identifier = NonZeroU32::new(chunk.identifier);
            (chunk.identifier <= SUBSCRIPTION_IDENTIFIER_MAX).then_some((
                text,
                ReplayedSubscription {
                    options,
                    identifier,
                    is_replaying: false,
                },
            ))
        };
        match read() {
            Some((filter, subscription)) => {
                self.pending(chunk.client_identifier)
                    .subscriptions
                    .insert(filter.to_owned(), subscription);
            }
            None => self.account.lose(Loss::Subscription, || {
                let (client, filter) = (shown(chunk.client_identifier), shown(chunk.topic_filter));
                format!("client {client} to {filter}")
            }),
        }
    }

    fn delivery(&mut self, chunk: &DeliveryChunk<'_>) {
        if chunk.is_incoming {
            // Only QoS 2 is kept until the Client says more.
            match PacketIdentifier::new(chunk.packet_identifier) {
                Some(packet_identifier) if chunk.qos == 2 => {
                    self.pending(chunk.client_identifier)
                        .incoming
                        .push((packet_identifier, chunk.message));
                }
                _ => self.lose_delivery(Loss::PacketIdentifier, chunk.client_identifier),
            }
            return;
        }
        let publish = self.publish(b"t", chunk.properties);
        let Some(publish) = publish else {
            return self.lose_delivery(Loss::Message, chunk.client_identifier);
        };
        let subscription_identifiers = publish.properties.subscription_identifiers.iter();
        let subscription_identifiers = subscription_identifiers.collect();
        let qos = qos(chunk.qos);
        self.pending(chunk.client_identifier)
            .outgoing
            .push(Outgoing {
                message: chunk.message,
                packet_identifier: chunk.packet_identifier,
                qos,
                retain: chunk.retain,
                state: match chunk.state {
                    // Nobody acknowledges it, so it is still there because it was not sent.
                    _ if qos == QoS::AtMostOnce => DeliveryState::Queued,
                    state => state,
                },
                subscription_identifiers,
            });
    }

    fn lose_delivery(&mut self, loss: Loss, client_identifier: &[u8]) {
        self.account
            .lose(loss, || format!("client {}", shown(client_identifier)));
    }

    /// What all of it amounts to.
    #[must_use]
    pub fn finish(mut self) -> Imported {
        let mut replayed = Replayed::default();
        let mut incoming = Vec::new();
        for (identifier, pending) in std::mem::take(&mut self.sessions) {
            let name = replayed.session_max + 1;
            let session = self.finish_session(name, &identifier, pending, &mut incoming);
            if let Some(session) = session {
                replayed.session_max = name;
                replayed.sessions.insert(name, session);
            }
        }
        let mut retained = self.finish_retained();
        self.route(incoming, &mut replayed.sessions, &mut retained);
        let clocks = 1..;
        replayed.retained = retained
            .into_values()
            .zip(clocks)
            .map(|(message, clock)| ReplayedRetained {
                version: RetainedVersion {
                    clock,
                    shard: ShardId(0),
                },
                message,
            })
            .collect();
        let account = &mut self.account;
        account.sessions = replayed.sessions.len();
        account.retained = replayed.retained.len();
        for session in replayed.sessions.values() {
            let deliveries = session.deliveries.iter();
            let queued = deliveries.filter(|it| it.progress == Progress::Waiting);
            let queued = queued.count();
            account.subscriptions += session.subscriptions.len();
            account.queued += queued;
            account.in_flight += session.deliveries.len() - queued;
            account.incoming += session.inbound.len();
        }
        let mut ports = vec![0; self.ports.len()];
        for (port, listener) in self.ports {
            if let Some(row) = ports.get_mut(listener.index()) {
                *row = port;
            }
        }
        Imported {
            replayed,
            account: self.account,
            ports,
        }
    }

    fn finish_session(
        &mut self,
        name: u64,
        client_identifier: &[u8],
        mut pending: Pending,
        incoming: &mut Vec<(u64, u64)>,
    ) -> Option<ReplayedSession> {
        let client = || format!("client {}", shown(client_identifier));
        let Some(own) = pending.own else {
            let account = &mut self.account;
            let messages = pending.outgoing.len() + pending.incoming.len();
            account.lose_many(Loss::StraySubscription, pending.subscriptions.len(), client);
            account.lose_many(Loss::StrayMessage, messages, client);
            return None;
        };
        if own.is_over {
            self.account.lose(Loss::ExpiredSession, client);
            return None;
        }
        let text = |bytes| std::str::from_utf8(bytes).ok();
        let names = text(client_identifier).zip(text(&own.username));
        let Some((client_identifier, username)) = names.filter(|(it, _)| !it.is_empty()) else {
            self.account.lose(Loss::SessionName, client);
            return None;
        };
        let identity = Identity {
            client_identifier: client_identifier.into(),
            username: (!username.is_empty()).then(|| username.into()),
            listener: self.listener(own.listener_port),
        };
        let mut seen = HashSet::new();
        pending.incoming.retain(|&(it, _)| seen.insert(it.get()));
        let exchanges = pending.incoming.len() as u64;
        let mut session = ReplayedSession {
            session: name,
            identity: Some(Arc::new(identity)),
            expiry_interval_s: own.expiry_interval_s,
            expires_at_ms: own.expires_at_ms,
            exchanges,
            taken_up_to: exchanges,
            subscriptions: pending.subscriptions,
            inbound: pending.incoming.iter().map(|&(it, _)| it).collect(),
            ..ReplayedSession::default()
        };
        incoming.extend(pending.incoming.iter().map(|&(_, message)| (name, message)));
        self.place(&mut session, pending.outgoing, own.last_packet_identifier);
        Some(session)
    }

    /// Gives everything that is owed to a Session its place.
    fn place(&mut self, session: &mut ReplayedSession, outgoing: Vec<Outgoing>, last: u16) {
        // The place that yields the identifier after the last one, and so is behind all that are in use.
        let behind_last = u64::from(last) % IDENTIFIERS + IDENTIFIERS;
        let (queued, mut in_flight): (Vec<_>, Vec<_>) = outgoing
            .into_iter()
            .partition(|it| it.state == DeliveryState::Queued);
        let place_of = |packet_identifier: u16| {
            let zero_based = u64::from(packet_identifier).saturating_sub(1);
            let back = (behind_last - 1 + IDENTIFIERS - zero_based) % IDENTIFIERS;
            behind_last - 1 - back
        };
        in_flight.sort_by_key(|it| place_of(it.packet_identifier));
        session.next_sequence = behind_last;
        let mut before: Option<(u64, u64)> = None;
        for it in in_flight {
            let sequence = place_of(it.packet_identifier);
            let first = before.map_or(sequence, |(first, _)| first);
            // The distance between two in use says which is the earlier one.
            let is_too_far = sequence - first >= IDENTIFIERS / 2;
            if is_too_far || before.is_some_and(|(_, last)| last == sequence) {
                self.lose_delivery(
                    Loss::PacketIdentifier,
                    session.client_identifier().as_bytes(),
                );
                continue;
            }
            debug_assert_eq!(
                Inflight::identifier_of(sequence).get(),
                it.packet_identifier
            );
            if self.owe(session, sequence, it) {
                before = Some((first, sequence));
            }
        }
        if let Some((_, last)) = before {
            session.next_sequence = last + 1;
        }
        for it in queued {
            let sequence = session.next_sequence;
            session.next_sequence += u64::from(self.owe(session, sequence, it));
        }
    }

    /// Puts a delivery behind the others. False if there is nothing to deliver.
    fn owe(&mut self, session: &mut ReplayedSession, sequence: u64, it: Outgoing) -> bool {
        let client = || format!("client {}", shown(session.client_identifier().as_bytes()));
        let (progress, message) = match it.state {
            DeliveryState::Released => (Progress::Released, None),
            state => {
                let message = match self.messages.get(&it.message) {
                    None => Err(Loss::MissingMessage),
                    Some(None) => Err(Loss::Message),
                    // A delivery that has begun goes on to its end.
                    Some(Some(message))
                        if state == DeliveryState::Queued && message.is_expired(self.now) =>
                    {
                        Err(Loss::ExpiredMessage)
                    }
                    Some(Some(message)) => Ok(message.clone()),
                };
                match message {
                    Ok(message) if state == DeliveryState::Queued => {
                        (Progress::Waiting, Some(message))
                    }
                    Ok(message) => (Progress::Sent, Some(message)),
                    Err(loss) => {
                        self.account.lose(loss, client);
                        return false;
                    }
                }
            }
        };
        session.deliveries.push_back(ReplayedDelivery {
            sequence,
            progress,
            message,
            qos: it.qos,
            retain: it.retain,
            share: None,
            subscription_identifiers: it.subscription_identifiers,
        });
        true
    }

    fn finish_retained(&mut self) -> BTreeMap<Vec<u8>, Arc<Message>> {
        let mut retained = BTreeMap::new();
        for name in std::mem::take(&mut self.retained) {
            let loss = match self.messages.get(&name) {
                None => Loss::MissingRetained,
                Some(None) => Loss::Retained,
                Some(Some(message)) if message.is_expired(self.now) => Loss::ExpiredRetained,
                Some(Some(message)) => {
                    retain(&mut retained, message);
                    continue;
                }
            };
            let message = self.messages.get(&name).cloned().flatten();
            self.account.lose(loss, || match message {
                Some(message) => format!("topic {}", shown(message.topic_name())),
                None => format!("message {name:#x}"),
            });
        }
        retained
    }

    /// Routes messages that Clients have sent and not released: pairs of who and what.
    fn route(
        &mut self,
        incoming: Vec<(u64, u64)>,
        sessions: &mut BTreeMap<u64, ReplayedSession>,
        retained: &mut BTreeMap<Vec<u8>, Arc<Message>>,
    ) {
        if incoming.is_empty() {
            return;
        }
        let mut router = Router::new(ShardId(0), 1);
        let key = |session: u64| SessionKey {
            index: session as u32,
            generation: 0,
        };
        for (&name, session) in sessions.iter() {
            for (text, it) in &session.subscriptions {
                if let Ok(filter) = TopicFilter::new(text) {
                    router.subscribe(&filter, key(name), it.options, it.identifier, false);
                }
            }
        }
        for (publisher, name) in incoming {
            let message = match self.messages.get(&name) {
                Some(Some(message)) => message.clone(),
                found => {
                    let loss = match found {
                        Some(_) => Loss::Message,
                        None => Loss::MissingMessage,
                    };
                    let client = sessions.get(&publisher);
                    let client = client.map_or("", ReplayedSession::client_identifier);
                    self.account
                        .lose(loss, || format!("from client {}", shown(client.as_bytes())));
                    continue;
                }
            };
            let parts = message.as_ref().as_ref();
            if parts.retain {
                retain(retained, &message);
            }
            let topic_name = String::from_utf8_lossy(parts.topic_name);
            let Ok(topic_name) = TopicName::new(&topic_name) else {
                continue;
            };
            if message.is_expired(self.now) {
                continue;
            }
            let matches = router.matches(topic_name);
            for target in &matches.targets {
                let session = u64::from(target.session.index);
                let is_own = session == publisher;
                if !target.is_for(is_own.then_some(target.session)) {
                    continue;
                }
                let retain = parts.retain && target.retain_as_published;
                let identifiers = target.subscription_identifiers.clone();
                let session = sessions.get_mut(&session);
                queue(session, &message, target.qos, retain, None, identifiers);
            }
            for &group in &matches.groups {
                let filter = router.filter_arc(group.filter());
                let Some(Pick::Local(target)) = router.pick(group) else {
                    continue;
                };
                let retain = parts.retain && target.retain_as_published;
                let identifiers = target.subscription_identifier.into_iter().collect();
                let share = String::from_utf8_lossy(&filter).as_ref().into();
                let session = sessions.get_mut(&u64::from(target.session.index));
                queue(
                    session,
                    &message,
                    target.qos,
                    retain,
                    Some(share),
                    identifiers,
                );
            }
        }
    }
}

/// Makes `message` what its topic has retained; without payload, nothing.
fn retain(retained: &mut BTreeMap<Vec<u8>, Arc<Message>>, message: &Arc<Message>) {
    let parts = message.as_ref().as_ref();
    let topic_name = parts.topic_name.to_vec();
    if parts.payload.is_empty() {
        retained.remove(&topic_name);
        return;
    }
    let message = if parts.retain {
        message.clone()
    } else {
        let parts = MessageRef {
            retain: true,
            ..parts
        };
        let source = message.source().cloned().map(Arc::new);
        Arc::new(Message::new(parts).from_source(source))
    };
    retained.insert(topic_name, message);
}

/// Puts a message behind everything that a Session is owed. At QoS 0 nothing is owed to those away.
fn queue(
    session: Option<&mut ReplayedSession>,
    message: &Arc<Message>,
    qos_max: QoS,
    retain: bool,
    share: Option<Arc<str>>,
    subscription_identifiers: SmallVec<[NonZeroU32; 1]>,
) {
    let qos = message.qos().min(qos_max);
    let Some(session) = session.filter(|_| qos > QoS::AtMostOnce) else {
        return;
    };
    session.deliveries.push_back(ReplayedDelivery {
        sequence: session.next_sequence,
        progress: Progress::Waiting,
        message: Some(message.clone()),
        qos,
        retain,
        share,
        subscription_identifiers,
    });
    session.next_sequence += 1;
}
