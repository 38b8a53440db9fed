//! What a shard writes down, while it does it. There is none of this if nothing is to be stored.
//!
//! The records of a packet go into the journal while the packet is dealt with; what may leave only
//! once they are durable waits in `held.rs`. What that is stands in the table of `wal`.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::num::{NonZeroU32, NonZeroU64};
use std::sync::Arc;

use smallvec::SmallVec;

use super::Shard;
use super::clients::{Clients, Fanout, Member, Recipient, copy_or_write, mark_dirty};
use super::effects::Effects;
use super::reload::has_moved;
use super::tickets::Tickets;
use super::timers::Slot;
use crate::codec::{Publish, SubscriptionOptions};
use crate::config::Durability;
use crate::journal::{
    Journal, Lsn, Origin, Record, StoredIdentity, StoredMessage, Suspect, WallClock, WillRecord,
};
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey, ShardId};
use crate::limits::{DISK_PATIENCE, OPEN_EXCHANGES_MAX};
use crate::message::{Message, MessageRef, QoS};
use crate::origin::Identity;
use crate::router::RetainedVersion;
use crate::session::{Delivery, Inflight, Logged, Place, Progress, Session, ShareTag};
use crate::time::Instant;

pub(super) use super::held::{Held, HeldPacket};

/// Milliseconds. A calendar that differs by less was read at another moment, and not set.
const CALENDAR_STEP_MIN_MS: u64 = 1000;

/// What a peer said of the envelope that follows.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) ticket: u64,
    pub(super) origin: Option<Origin>,
    pub(super) repeats: bool,
}

/// A delivery that a stored Session was owed and that a member of a Shared Subscription gets instead.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct HandedOn {
    /// The Session that was owed it.
    pub(super) session: u64,
    /// The delivery.
    pub(super) sequence: u64,
}

/// Deliveries that one more takes the place of: none, or one, or a chain of those that were handed on again
/// before they were durable.
pub(super) type Replaced = SmallVec<[HandedOn; 1]>;

/// Where a delivery to a member of a Shared Subscription comes from that is not durable. Whoever gets it
/// instead writes that down too: if the record of this one is lost, it alone says so.
#[derive(Clone, Debug)]
struct Brought {
    lsn: Lsn,
    delivery: HandedOn,
    /// The QoS 2 exchange, which would be routed to the group again.
    origin: Option<Origin>,
    repeats: bool,
    /// Who was owed it before, and would be again.
    replaced: Replaced,
}

/// What was written down last of messages, by which more deliveries of its frame can call it.
#[derive(Debug)]
struct LastMessage {
    /// Held, so that its memory is not used for another one meanwhile.
    message: Arc<Message>,
    name: u64,
    /// A group's message that was handed on does not name the exchange that brings it to others.
    origin: Option<Origin>,
    frame: Lsn,
}

/// What a Session has handed on to other shards.
#[derive(Clone, Copy, Debug, Default)]
struct HandingOn {
    /// Deliveries that those have not stored, and one for each of what it has left to others of which some was not handed
    /// on.
    missing: u64,
    /// The Session is over, and gone with the last of them.
    is_ending: bool,
}

/// Who waits for a ticket.
#[derive(Clone, Copy, Debug)]
pub(super) enum Waiter {
    /// An acknowledgement held for this connection.
    Connection(ConnectionKey),
    /// A shard that gave us a message which we gave to another one.
    Shard { to: ShardId, ticket: u64, lsn: Lsn },
    /// A Session that was owed it until then.
    Session(HandedOn),
    /// A Will, by the name of the Session that has it until then.
    Will(u64),
}

/// A message that other shards must store before it is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pending {
    /// Answers that have not come.
    pub(super) missing: u32,
    pub(super) waiter: Waiter,
    /// What is written down once they have.
    pub(super) received: Option<Received>,
}

impl Pending {
    /// One shard has answered; whether it was the last one.
    pub(super) const fn take_answer(&mut self) -> bool {
        let was_missing = self.missing;
        self.missing = was_missing.saturating_sub(1);
        was_missing == 1
    }
}

/// A QoS 2 message of a stored Session that was taken, as is written down once every other shard has
/// what it has to have of it: written earlier, a crash would leave a message that counts as taken and
/// that some subscribers never get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Received {
    pub(super) session: SessionKey,
    pub(super) name: NonZeroU64,
    pub(super) packet_identifier: PacketIdentifier,
    pub(super) exchange: u64,
    /// The exchange from before a crash that this one repeats; zero: none.
    pub(super) repeats: u64,
}

/// Somebody wants to know when every exchange that is under way now is written down.
#[derive(Clone, Copy, Debug)]
struct Settle {
    /// Who does, and which of its questions it is.
    from: ShardId,
    round: u64,
    /// Tickets before this one have to be answered.
    ticket: u64,
    /// What Sessions have left to others before has to have come to them, which takes more tickets.
    legacies: u64,
    has_waited_for_legacies: bool,
    /// What has to be over then, once they are: see [`Keeping`].
    kept: Option<u64>,
    /// What must be durable then, once that is.
    lsn: Option<Lsn>,
}

/// What is this log's until what came of it is another's.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kept {
    /// A delivery that another Session has instead.
    HandedOn(HandedOn),
    /// The Will that a Session of this name was.
    Will(u64),
}

/// What another log has instead, where logs are brought to stable storage only after a while: this one keeps it until
/// then. It may be there for long, and a power failure that took what came of it, but not its end, would lose it.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// What came since all shards were last asked.
    next: Vec<Kept>,
    /// What they were asked for, and how many have not answered.
    asked: Vec<Kept>,
    missing: usize,
    /// How many there were so far, and how many of them are over.
    begun: u64,
    ended: u64,
}

/// An answer to another shard that waits for our disk.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reply {
    pub(super) lsn: Lsn,
    pub(super) to: ShardId,
    pub(super) ticket: u64,
}

/// The message at hand: set for the time it is routed.
#[derive(Debug, Default)]
pub(super) struct Routing {
    /// Who wants to know when all is stored; without one, nobody does.
    pub(super) waiter: Option<Waiter>,
    /// Something below is set, which most messages have no need of.
    is_marked: bool,
    /// The ticket that other shards were given; zero: none yet.
    pub(super) ticket: u64,
    /// The exchange that brings it.
    pub(super) origin: Option<Origin>,
    /// Whether that exchange is with another shard, so that its deliveries here must name it.
    pub(super) is_forwarded: bool,
    /// Whether it repeats one from before a crash, which some have had.
    repeats: bool,
    /// The deliveries that this one takes the place of.
    pub(super) handed_on: Replaced,
    /// What is to be written down of the publisher's exchange.
    pub(super) received: Option<Received>,
    /// Who has had it before a crash.
    pub(super) skipped: Option<Box<Suspect>>,
    /// A later write to its topic, which may not be durable, is what is written down in its place.
    is_superseded: bool,
    /// Size of the journal when it began.
    size: usize,
}

/// Whose Sessions have ended, as long as the disk may not know.
#[derive(Debug)]
pub(super) struct Endings {
    /// By a hash of the Client Identifier: who shares one only waits longer.
    last: HashMap<u64, Lsn, ahash::RandomState>,
    /// In the order of the log.
    all: VecDeque<(Lsn, u64)>,
}

impl Endings {
    fn hash(&self, client_identifier: &str) -> u64 {
        self.last.hasher().hash_one(client_identifier)
    }

    pub(super) fn push(&mut self, client_identifier: &str, lsn: Lsn) {
        let hash = self.hash(client_identifier);
        self.last.insert(hash, lsn);
        self.all.push_back((lsn, hash));
    }

    fn set_durable(&mut self, durable: Lsn) {
        while let Some(&(lsn, hash)) = self.all.front()
            && lsn <= durable
        {
            self.all.pop_front();
            if self.last.get(&hash).is_some_and(|&last| last <= durable) {
                self.last.remove(&hash);
            }
        }
    }

    /// What must be durable for no Session that this Client had to come back, or zero.
    pub(super) fn last(&self, client_identifier: &str) -> Lsn {
        if self.all.is_empty() {
            return 0;
        }
        let last = self.last.get(&self.hash(client_identifier));
        last.copied().unwrap_or_default()
    }
}

/// Everything about one shard's log that is not in it.
#[derive(Debug)]
pub(super) struct Store {
    pub(super) journal: Journal,
    /// Ports of the listeners.
    ports: Vec<u16>,
    pub(super) tickets: Tickets,
    pub(super) replies: VecDeque<Reply>,
    pub(super) routing: Routing,
    /// Connections that hold something.
    pub(super) holding: Vec<ConnectionKey>,
    /// Sessions with a QoS 2 delivery that is not durable.
    pub(super) awaiting: Vec<SessionKey>,
    /// The texts of shared subscriptions of stored Sessions.
    ///
    /// A hash table that grows would move all of them in one turn.
    shares: BTreeMap<u32, Arc<str>>,
    /// Messages that may come again, by their publishers' Sessions: as many as a start has found. Those of other shards'
    /// Sessions that are never heard of again stay until the process ends.
    suspects: HashMap<u64, Vec<Suspect>, ahash::RandomState>,
    /// What Sessions have handed on and is not known to be stored elsewhere, by their names.
    handing_on: HashMap<u64, HandingOn, ahash::RandomState>,
    /// In the order of the log.
    brought: VecDeque<Brought>,
    pub(super) endings: Endings,
    settles: VecDeque<Settle>,
    /// Shards whose word is missing that all they had under way when they were asked is settled.
    unsettled: usize,
    /// How many times they were asked.
    settling: u64,
    /// When a message counts as stored.
    pub(super) durability: Durability,
    pub(super) keeping: Keeping,
    /// Who wants to know when everything up to there is on stable storage.
    syncs: VecDeque<(ShardId, Lsn)>,
    /// The last message written, while its frame is open.
    last_message: Option<LastMessage>,
    /// The disk takes nothing.
    pub(super) stalled: bool,
    pub(super) snapshot: Option<super::snapshot::Cursor>,
}

impl Store {
    pub(super) fn new(journal: Journal, suspects: &[Suspect], ports: Vec<u16>) -> Self {
        let hasher = || ahash::RandomState::with_seeds(1, 2, 3, 4);
        let mut table: HashMap<_, Vec<Suspect>, _> = HashMap::with_hasher(hasher());
        for suspect in suspects {
            let of_publisher = table.entry(suspect.origin.session).or_default();
            of_publisher.push(suspect.clone());
        }
        Self {
            journal,
            ports,
            tickets: Tickets::new(),
            replies: VecDeque::new(),
            routing: Routing::default(),
            holding: Vec::new(),
            awaiting: Vec::new(),
            shares: BTreeMap::new(),
            suspects: table,
            handing_on: HashMap::with_hasher(hasher()),
            brought: VecDeque::new(),
            endings: Endings {
                last: HashMap::with_hasher(hasher()),
                all: VecDeque::new(),
            },
            settles: VecDeque::new(),
            unsettled: 0,
            settling: 0,
            durability: Durability::Always,
            keeping: Keeping::default(),
            syncs: VecDeque::new(),
            last_message: None,
            stalled: false,
            snapshot: None,
        }
    }

    /// Things that wait for disks.
    pub(super) fn unsettled(&self) -> usize {
        self.tickets.len()
            + self.holding.len()
            + self.awaiting.len()
            + self.replies.len()
            + self.handing_on.len()
            + self.brought.len()
            + self.endings.all.len()
            + self.settles.len()
            + self.keeping.next.len()
            + self.keeping.asked.len()
            + self.syncs.len()
    }

    pub(super) fn name_share(&mut self, share: ShareTag, filter: &str) {
        self.shares.insert(share.0, filter.into());
    }

    /// Writes the message down, unless it just was, and returns its name.
    fn message(&mut self, message: &Arc<Message>) -> u64 {
        let origin = if self.routing.is_forwarded {
            self.routing.origin
        } else {
            None
        };
        if let Some(last) = &self.last_message
            && last.frame == self.journal.frame()
            && last.origin == origin
            && Arc::ptr_eq(&last.message, message)
        {
            return last.name;
        }
        let name = self.journal.name_message();
        self.journal.append(&Record::Message {
            message: name,
            shared: false,
            origin,
            content: StoredMessage::new(message.as_ref().as_ref(), self.journal.clock()),
        });
        self.last_message = Some(LastMessage {
            message: message.clone(),
            name,
            origin,
            frame: self.journal.frame(),
        });
        name
    }

    /// Writes down that a message is owed, and gives the delivery its place.
    pub(super) fn delivery(&mut self, session: &mut Session, delivery: &mut Delivery, sent: bool) {
        let Some(log) = &mut session.log else { return };
        let (name, sequence) = (log.name, log.next_sequence);
        log.next_sequence += 1;
        let message = self.message(&delivery.message);
        self.put_delivery(name, sequence, message, delivery, sent);
        let lsn = self.journal.position();
        delivery.place = Place { sequence, lsn };
        let routing = &self.routing;
        if delivery.share.is_some() && (routing.origin.is_some() || !routing.handed_on.is_empty()) {
            let session = name.get();
            self.brought.push_back(Brought {
                lsn,
                delivery: HandedOn { session, sequence },
                origin: routing.origin,
                repeats: routing.repeats,
                replaced: routing.handed_on.clone(),
            });
        }
    }

    /// The disk has everything up to `lsn`.
    pub(super) fn set_durable(&mut self, lsn: Lsn) {
        self.journal.set_durable(lsn);
        self.forget_brought();
        self.endings.set_durable(lsn);
    }

    /// Stable storage has everything up to `lsn`.
    pub(super) fn set_synced(&mut self, lsn: Lsn) {
        self.journal.set_synced(lsn);
        self.forget_brought();
    }

    fn forget_brought(&mut self) {
        let kept = self.brought.partition_point(|it| self.is_kept(it.lsn));
        self.brought.drain(..kept);
    }

    /// Whether no failure takes what is up to `lsn`, but for what was promised to nobody.
    const fn is_kept(&self, lsn: Lsn) -> bool {
        if self.syncs_later() {
            self.journal.is_synced(lsn)
        } else {
            self.journal.is_durable(lsn)
        }
    }

    pub(super) fn put_delivery(
        &mut self,
        session: NonZeroU64,
        sequence: u64,
        message: u64,
        delivery: &Delivery,
        sent: bool,
    ) {
        let identifiers: SmallVec<[[u8; 4]; 4]> = delivery
            .subscription_identifiers
            .iter()
            .map(|identifier| identifier.get().to_le_bytes())
            .collect();
        let share = delivery
            .share
            .and_then(|share| self.shares.get(&share.0).cloned());
        self.journal.append(&Record::Delivery {
            session: session.get(),
            sequence,
            message,
            qos: delivery.qos,
            retain: delivery.retain,
            sent,
            share: share.as_deref(),
            subscription_identifiers: &identifiers,
        });
    }

    /// Writes down a Session with its connection.
    pub(super) fn session(&mut self, member: &Member) {
        let session = &member.session;
        let Some(log) = &session.log else { return };
        let clock = self.journal.clock();
        let will = session.will.as_ref().map(|will| WillRecord {
            message: StoredMessage::new(will.stored().as_ref(), clock),
            delay_interval_s: will.delay_interval_s,
            message_expiry_interval_s: will.message_expiry_interval_s(),
        });
        self.journal.append(&Record::Session {
            session: log.name.get(),
            identity: StoredIdentity::new(&session.identity, &self.ports),
            expiry_interval_s: session.expiry_interval_s,
            next_sequence: log.next_sequence,
            exchanges: self.taken_up_to(session, log),
            window: Some(log.window),
            will,
        });
    }

    /// Writes down what of the queue may have been sent before this process began, if any of that still waits.
    pub(super) fn interrupted(&mut self, session: &Session) {
        if let Some(log) = &session.log
            && session.queue.first().is_some_and(|it| log.may_repeat(it))
        {
            self.journal.append(&Record::Interrupted {
                session: log.name.get(),
                sent_before: log.sent_before,
                left_before: log.left_before,
            });
        }
    }

    /// Writes down that a Session has no connection, and when it and its Will are due.
    pub(super) fn detached(&mut self, session: &Session) {
        let Some(name) = session.stored() else { return };
        let clock = self.journal.clock();
        let will_at = session.will_at.filter(|_| session.will.is_some());
        self.journal.append(&Record::Detached {
            session: name.get(),
            expires_at_ms: session.expires_at.map(|at| clock.ms(at)),
            will_at_ms: will_at.map(|at| clock.ms(at)),
        });
    }

    pub(super) fn retained(&mut self, message: &Arc<Message>, version: RetainedVersion) {
        let content = StoredMessage::new(message.as_ref().as_ref(), self.journal.clock());
        let source = message.source();
        self.journal.append(&Record::Retained {
            version,
            source: source.map(|source| StoredIdentity::new(source, &self.ports)),
            content,
        });
    }

    /// A retained message comes after a later one of its topic. Were it acknowledged before that is
    /// durable, a crash could bring back one that is older than both.
    pub(super) fn superseded(&mut self) {
        // Of QoS 0 nothing is acknowledged.
        if self.routing.waiter.is_some() {
            self.routing.is_marked = true;
            self.routing.is_superseded = true;
        }
    }

    /// A delivery has left the queue: its PUBLISH is being sent, or it cannot be sent at all.
    pub(super) fn sent(&mut self, session: &mut Session, delivery: Delivery, was_written: bool) {
        let sequence = delivery.place.sequence;
        if !was_written {
            return self.passed_over(session, sequence, delivery.qos);
        }
        if let Some(name) = session.stored() {
            let session = name.get();
            self.journal.append(&Record::Sent { session, sequence });
        }
        session
            .inflight
            .push_at(sequence, Progress::Published(delivery));
    }

    pub(super) fn subscribed(
        &mut self,
        session: NonZeroU64,
        filter: &str,
        options: SubscriptionOptions,
        identifier: Option<NonZeroU32>,
        is_owed_retained: bool,
    ) {
        // Of QoS 0 nothing is promised to a Session.
        let is_replaying = is_owed_retained && options.qos > QoS::AtMostOnce;
        self.journal.append(&Record::Subscribed {
            session: session.get(),
            filter,
            options,
            identifier,
            is_replaying,
        });
    }

    pub(super) fn unsubscribed(&mut self, session: NonZeroU64, filter: &[u8]) {
        let filter = std::str::from_utf8(filter).expect("a Topic Filter is UTF-8");
        let session = session.get();
        self.journal
            .append(&Record::Unsubscribed { session, filter });
    }

    /// PUBREC has come.
    pub(super) fn released(&mut self, session: &Session, sequence: u64) {
        if let Some(name) = session.stored() {
            let session = name.get();
            self.journal.append(&Record::Released { session, sequence });
        }
    }

    pub(super) fn done(&mut self, session: &Session, sequence: u64) {
        if let Some(name) = session.stored() {
            let session = name.get();
            self.journal.append(&Record::Done { session, sequence });
        }
    }

    /// A delivery has ended though its Client has not taken it. PUBREL, which makes room for other ones of QoS 2, waits for
    /// the disk, and this does not: so the next one waits for it, as one may that is to stay with its Session.
    #[cold]
    pub(super) fn passed_over(&mut self, session: &mut Session, sequence: u64, qos: QoS) {
        self.done(session, sequence);
        if qos == QoS::ExactlyOnce
            && let Some(log) = &mut session.log
        {
            log.passed_over = self.journal.position();
        }
    }

    /// A message that somebody wants to know of begins its way.
    #[inline]
    pub(super) fn begin(&mut self, waiter: Waiter) {
        let routing = &mut self.routing;
        debug_assert!(!routing.is_marked, "another message is at hand");
        routing.waiter = Some(waiter);
        routing.size = self.journal.size();
    }

    /// The same of one that another shard gave us, and wants to know of.
    #[inline]
    pub(super) fn begin_forwarded(
        &mut self,
        waiter: Waiter,
        ticket: Ticket,
        message: MessageRef<'_>,
    ) {
        self.begin(waiter);
        self.routing.is_marked = true;
        self.routing.is_forwarded = true;
        if let Some(origin) = ticket.origin {
            self.set_origin(origin, ticket.repeats, message);
        }
    }

    /// The message at hand comes by a QoS 2 exchange of another shard's Session.
    fn set_origin(&mut self, origin: Origin, repeats: bool, message: MessageRef<'_>) {
        self.routing.origin = Some(origin);
        self.routing.repeats = repeats;
        if self.suspects.is_empty() {
            return;
        }
        if repeats {
            // Not taken: what else comes by it may be under way, by way of a third shard.
            let skipped = self
                .suspects_of(origin.session, origin.packet_identifier)
                .find(|it| it.is_message(message));
            self.routing.skipped = skipped.cloned().map(Box::new);
        } else {
            self.take_suspects(origin);
        }
    }

    /// The message at hand comes by a QoS 2 exchange of a Session of this shard. The exchange before a
    /// crash that it repeats, or zero.
    pub(super) fn begin_exchange(
        &mut self,
        origin: Origin,
        duplicate: bool,
        message: MessageRef<'_>,
    ) -> u64 {
        self.routing.is_marked = true;
        self.routing.origin = Some(origin);
        let mut repeated = 0;
        for mut suspect in self.take_suspects(origin) {
            if repeated != 0 || !duplicate || !suspect.is_message(message) {
                // Its Client has given it up.
                self.settled(origin.session, suspect.origin.exchange);
                continue;
            }
            repeated = std::mem::replace(&mut suspect.origin, origin).exchange;
            // Written down before anything of this exchange can be: whatever a crash leaves of it, who has
            // had the message is known.
            suspect.append_to(&mut self.journal);
            self.routing.repeats = true;
            self.routing.skipped = Some(Box::new(suspect));
        }
        repeated
    }

    /// Whether some may have had a message with this Packet Identifier before a crash. Its Client must not be told
    /// that it was refused.
    pub(super) fn is_suspect(&self, session: &Session, identifier: PacketIdentifier) -> bool {
        let name = session.stored().map_or(0, NonZeroU64::get);
        self.suspects_of(name, identifier).next().is_some()
    }

    /// What is known of the messages that a Session may send again with this Packet Identifier.
    fn suspects_of(
        &self,
        session: u64,
        packet_identifier: PacketIdentifier,
    ) -> impl Iterator<Item = &Suspect> {
        let suspects = self.suspects.get(&session).into_iter().flatten();
        suspects.filter(move |it| it.origin.packet_identifier == packet_identifier)
    }

    /// Whether a member of a Shared Subscription has had the message at hand before a crash. It is one
    /// receiver, of which only the publisher's shard knows before somebody else is chosen.
    pub(super) fn has_group_had(&self, filter: &[u8]) -> bool {
        let skipped = self.routing.skipped.as_ref();
        skipped.is_some_and(|it| it.groups.iter().any(|share| share.as_bytes() == filter))
    }

    /// What is known of messages that may come again, when their Packet Identifier is used: it is one of them, or
    /// they are over.
    fn take_suspects(&mut self, origin: Origin) -> Vec<Suspect> {
        if self.suspects.is_empty() {
            return Vec::new();
        }
        let Some(suspects) = self.suspects.get_mut(&origin.session) else {
            return Vec::new();
        };
        // Nothing older is under way still.
        suspects.retain(|it| it.origin.exchange + OPEN_EXCHANGES_MAX as u64 >= origin.exchange);
        let is_taken = |it: &mut Suspect| it.origin.packet_identifier == origin.packet_identifier;
        let taken = suspects.extract_if(.., is_taken).collect();
        if suspects.is_empty() {
            self.suspects.remove(&origin.session);
        }
        taken
    }

    /// It is no longer open whether an exchange was taken. Nothing for zero.
    pub(super) fn settled(&mut self, session: u64, exchange: u64) {
        if exchange != 0 {
            self.journal.append(&Record::Taken { session, exchange });
        }
    }

    /// Says anew what is known of the messages that a Session may send again, under the numbers that
    /// they were given.
    pub(super) fn renumbered(&mut self, session: NonZeroU64, exchanges: &[u64]) {
        for &exchange in exchanges {
            self.settled(session.get(), exchange);
        }
        self.had(session);
    }

    /// Writes down who has had messages that a Session may send again.
    fn had(&mut self, session: NonZeroU64) {
        let suspects = self.suspects.get(&session.get());
        for suspect in suspects.into_iter().flatten() {
            suspect.append_to(&mut self.journal);
        }
    }

    /// A Session has ended: nobody sends anything again. What it has handed on to other shards is its own
    /// until they have stored it.
    pub(super) fn ended(&mut self, session: NonZeroU64) {
        self.suspects.remove(&session.get());
        let session = session.get();
        if let Some(handing_on) = self.handing_on.get_mut(&session) {
            handing_on.is_ending = true;
            self.journal.append(&Record::Ending { session });
        } else {
            self.journal.append(&Record::Ended { session });
        }
    }

    /// What a Session was owed at this place is about to be given to somebody else.
    pub(super) fn begin_handing_on(&mut self, session: NonZeroU64, place: Place) {
        let handed_on = HandedOn {
            session: session.get(),
            sequence: place.sequence,
        };
        self.begin(Waiter::Session(handed_on));
        if !self.is_kept(place.lsn) {
            let first = self.brought.partition_point(|it| it.lsn < place.lsn);
            let mut brought = self.brought.range(first..);
            if let Some(brought) = brought.find(|it| it.delivery == handed_on) {
                self.routing.origin = brought.origin;
                self.routing.repeats = brought.repeats;
                self.routing.handed_on.clone_from(&brought.replaced);
            }
        }
        self.routing.is_marked = true;
        self.routing.handed_on.push(handed_on);
    }

    /// It was. Here that is in one frame with the end of what it replaces; another shard is waited for.
    pub(super) fn end_handing_on(&mut self) {
        let handed_on = std::mem::take(&mut self.routing.handed_on).pop();
        let (_, ticket) = self.end();
        let Some(handed_on) = handed_on else { return };
        if ticket == 0 {
            self.forget_handed_on(handed_on);
        } else {
            let handing_on = self.handing_on.entry(handed_on.session).or_default();
            handing_on.missing += 1;
        }
        // However much a Session has left, frames end.
        self.journal.end_packet();
    }

    /// A Will is on its way to other shards. Until they have it, a Session of its own has it that is over. `clock` is
    /// that of what it retains.
    pub(super) fn will_under_way(
        &mut self,
        name: u64,
        identity: &Identity,
        message: MessageRef<'_>,
        clock: u64,
    ) {
        self.journal.append(&Record::Ending { session: name });
        let will = WillRecord {
            message: StoredMessage::new(message, self.journal.clock()),
            delay_interval_s: 0,
            message_expiry_interval_s: None,
        };
        self.journal.append(&Record::Session {
            session: name,
            identity: StoredIdentity::new(identity, &self.ports),
            expiry_interval_s: 0,
            next_sequence: clock,
            exchanges: 0,
            window: None,
            will: Some(will),
        });
    }

    /// What came of something is written down by other shards. It is over here, at once or when that is on stable
    /// storage.
    pub(super) fn written_elsewhere(&mut self, kept: Kept) {
        if self.syncs_later() {
            self.keeping.next.push(kept);
            self.keeping.begun += 1;
        } else {
            self.end_kept(kept);
        }
    }

    /// Whether stable storage has what counts as stored only after a while.
    const fn syncs_later(&self) -> bool {
        matches!(self.durability, Durability::Interval(_))
    }

    fn end_kept(&mut self, kept: Kept) {
        match kept {
            Kept::HandedOn(handed_on) => self.handed_on(handed_on),
            Kept::Will(name) => self.will_has_come(name),
        }
    }

    /// It has come everywhere.
    pub(super) fn will_has_come(&mut self, name: u64) {
        self.journal.append(&Record::Ended { session: name });
    }

    fn forget_handed_on(&mut self, handed_on: HandedOn) {
        let HandedOn { session, sequence } = handed_on;
        self.journal.append(&Record::Done { session, sequence });
    }

    /// Not all that a Session has left to others has been handed on.
    pub(super) fn begin_legacy(&mut self, session: NonZeroU64) {
        self.handing_on.entry(session.get()).or_default().missing += 1;
    }

    /// It has.
    pub(super) fn end_legacy(&mut self, session: NonZeroU64) {
        self.end_one_of(session.get());
    }

    /// Another shard has stored what a Session had handed on.
    pub(super) fn handed_on(&mut self, handed_on: HandedOn) {
        self.forget_handed_on(handed_on);
        self.end_one_of(handed_on.session);
    }

    fn end_one_of(&mut self, session: u64) {
        let Some(handing_on) = self.handing_on.get_mut(&session) else {
            return;
        };
        handing_on.missing = handing_on.missing.saturating_sub(1);
        if handing_on.missing > 0 {
            return;
        }
        let is_ending = handing_on.is_ending;
        self.handing_on.remove(&session);
        if is_ending {
            self.journal.append(&Record::Ended { session });
        }
    }

    /// Says anew which deliveries of a Session others have instead: their logs may forget it.
    pub(super) fn say_handed_on(&mut self, session: NonZeroU64, sequences: &[u64]) {
        let session = session.get();
        for &sequence in sequences {
            self.forget_handed_on(HandedOn { session, sequence });
        }
    }

    /// It has come everywhere: what must be durable here, or zero, and the ticket others were given,
    /// or zero.
    pub(super) fn end(&mut self) -> (Lsn, u64) {
        let routing = &mut self.routing;
        routing.waiter = None;
        let is_written = self.journal.size() != routing.size;
        if !routing.is_marked {
            let lsn = if is_written {
                self.journal.position()
            } else {
                0
            };
            return (lsn, 0);
        }
        if is_written {
            for HandedOn { session, sequence } in routing.handed_on.drain(..) {
                self.journal.append(&Record::HandedOn { session, sequence });
            }
        }
        let lsn = if is_written || routing.is_superseded {
            self.journal.position()
        } else {
            0
        };
        let ended = std::mem::take(routing);
        // Whoever began it asks for that.
        routing.received = ended.received;
        (lsn, ended.ticket)
    }

    /// A ticket for one more shard, if anybody waits.
    pub(super) fn ticket(&mut self) -> Option<Ticket> {
        let waiter = self.routing.waiter?;
        if self.routing.ticket == 0 {
            self.routing.is_marked = true;
            self.routing.ticket = self.tickets.push(Pending {
                missing: 0,
                waiter,
                received: None,
            });
        }
        if let Some(pending) = self.tickets.last_mut() {
            pending.missing += 1;
        }
        Some(Ticket {
            ticket: self.routing.ticket,
            origin: self.routing.origin,
            repeats: self.routing.repeats,
        })
    }

    /// QoS 2 messages of a Session that are on their way to other shards' disks, and their tickets.
    fn under_way(&self, session: &Session) -> impl Iterator<Item = (u64, Received)> {
        session.inbound.tickets().filter_map(|ticket| {
            let received = self.tickets.received(ticket)?;
            Some((ticket, received))
        })
    }

    /// The ticket of the last QoS 2 message with this Packet Identifier, or zero: it is stored.
    pub(super) fn ticket_of(&self, session: &Session, identifier: PacketIdentifier) -> u64 {
        let under_way = self.under_way(session);
        let of_identifier = under_way.filter(|(_, it)| it.packet_identifier == identifier);
        of_identifier.last().map_or(0, |(ticket, _)| ticket)
    }

    /// All QoS 2 messages of a Session up to this one are known to have been taken.
    fn taken_up_to(&self, session: &Session, log: &Logged) -> u64 {
        let first = self.open_exchanges(session).min();
        first.map_or(log.exchanges, |first| first.saturating_sub(1))
    }

    /// QoS 2 messages of a Session that are not known to have been taken.
    fn open_exchanges(&self, session: &Session) -> impl Iterator<Item = u64> {
        let name = session.stored().map_or(0, NonZeroU64::get);
        let suspects = self.suspects.get(&name).into_iter().flatten();
        let under_way = self.under_way(session);
        let under_way = under_way.flat_map(|(_, it)| [it.exchange, it.repeats]);
        let open = under_way.chain(suspects.map(|it| it.origin.exchange));
        open.filter(|&exchange| exchange != 0)
    }

    /// Writes down what is taken of the QoS 2 messages of a Session, for a snapshot.
    pub(super) fn taken(&mut self, session: &Session) {
        let Some(log) = &session.log else { return };
        let name = log.name;
        let up_to = self.taken_up_to(session, log);
        let under_way: SmallVec<[_; 4]> = self.under_way(session).collect();
        for packet_identifier in session.inbound.iter() {
            let is_under_way = under_way
                .iter()
                .any(|(_, received)| received.packet_identifier == packet_identifier);
            if !is_under_way {
                self.journal.append(&Record::Received {
                    session: name.get(),
                    packet_identifier,
                    exchange: up_to,
                });
            }
        }
        let open: BTreeSet<u64> = self.open_exchanges(session).collect();
        for exchange in up_to + 1..=log.exchanges {
            if !open.contains(&exchange) {
                self.settled(name.get(), exchange);
            }
        }
        self.had(name);
    }

    /// Writes down that the PUBLISH of a QoS 2 exchange was taken.
    pub(super) fn received(&mut self, received: Received) {
        self.journal.append(&Record::Received {
            session: received.name.get(),
            packet_identifier: received.packet_identifier,
            exchange: received.exchange,
        });
        self.settled(received.name.get(), received.repeats);
    }

    fn settle(&mut self, from: ShardId, round: u64, legacies: u64) {
        self.settles.push_back(Settle {
            from,
            round,
            ticket: self.tickets.next(),
            legacies,
            has_waited_for_legacies: false,
            kept: None,
            lsn: None,
        });
    }

    /// The next one who can be told that what was under way is written down, and which of its questions that answers.
    fn next_settled(&mut self, first_legacy: u64) -> Option<(ShardId, u64)> {
        let position = self.journal.position();
        let first = self.settles.front_mut()?;
        if first_legacy < first.legacies {
            first.has_waited_for_legacies = true;
            return None;
        }
        if std::mem::take(&mut first.has_waited_for_legacies) {
            first.ticket = self.tickets.next();
        }
        if self.tickets.first_open() < first.ticket {
            return None;
        }
        if self.keeping.ended < *first.kept.get_or_insert(self.keeping.begun) {
            return None;
        }
        let lsn = *first.lsn.get_or_insert(position);
        if !self.is_kept(lsn) {
            return None;
        }
        self.settles.pop_front().map(|it| (it.from, it.round))
    }

    /// Whether this delivery may be sent to `session` for the first time.
    pub(super) fn may_send(&self, session: &Session, delivery: &Delivery) -> bool {
        if delivery.qos < QoS::ExactlyOnce {
            return true;
        }
        // Of what came by no Shared Subscription nothing is ever handed on.
        let passed_over = match &session.log {
            Some(log) if delivery.share.is_some() => log.passed_over,
            _ => 0,
        };
        self.journal.is_durable(delivery.place.lsn.max(passed_over))
    }

    /// More may be sent to this Session once its log is durable.
    pub(super) fn await_durable(&mut self, key: SessionKey, session: &mut Session) {
        if let Some(log) = &mut session.log
            && !std::mem::replace(&mut log.is_awaited, true)
        {
            self.awaiting.push(key);
        }
    }
}

impl Clients {
    /// Gives a message of QoS 1 or 2 to a Session that is stored. QoS 1 is sent at once: the Client may
    /// get it again. QoS 2 waits until the disk knows its Packet Identifier.
    pub(super) fn deliver_stored(
        &mut self,
        recipient: Recipient<'_>,
        qos: QoS,
        fanout: &mut Fanout<'_>,
        effects: &mut Effects,
    ) {
        let message = self.own(fanout);
        let (Some(member), Some(store)) =
            (self.members.get_mut(recipient.session), &mut self.store)
        else {
            return;
        };
        let session = &mut member.session;
        if let Some(skipped) = &store.routing.skipped
            && recipient.share.is_none()
            && let Some(name) = session.stored()
            && skipped.sessions.contains(&name.get())
        {
            return;
        }
        let mut delivery = Delivery {
            message,
            qos,
            retain: recipient.retain,
            share: recipient.share,
            subscription_identifiers: SmallVec::from_slice(recipient.subscription_identifiers),
            place: Place::default(),
        };
        let sequence = session.log.as_ref().map_or(0, |log| log.next_sequence);
        let packet_identifier = Inflight::identifier_of(sequence);
        if qos == QoS::AtLeastOnce
            && session.queue.is_empty()
            && let Some(key) = session.connection
            && let Some(connection) = self.connections.get_mut(key)
            && !has_moved(&self.reload, key, connection)
            && !connection.is_resending()
            && session.inflight.has_room_for(sequence, connection.window)
            && connection.pending() < self.limits.outbox_bytes_max
            && Self::has_inflight_bytes(&self.settings.policy, session, delivery.message.size())
        {
            let identifier = Some(packet_identifier);
            if fanout.may_move
                && self
                    .moving
                    .claim(key, connection, fanout, qos, &recipient, identifier)
                || copy_or_write(connection, fanout, qos, &recipient, identifier)
            {
                store.delivery(session, &mut delivery, true);
                let sequence = delivery.place.sequence;
                session
                    .inflight
                    .push_at(sequence, Progress::Published(delivery));
                self.counters
                    .count_publish_sent(fanout.message.payload.len());
                mark_dirty(connection, key, effects);
            } else {
                self.counters.dropped_packet_too_large += 1;
            }
            return;
        }
        let now = fanout.now;
        self.enqueue(recipient.session, delivery, now);
    }
}

impl Shard {
    /// Writes down what has happened to a Session, if it is stored.
    pub(super) fn store(&mut self, session: SessionKey, record: impl FnOnce(&mut Store, &Session)) {
        if let Some(store) = &mut self.clients.store
            && let Some(member) = self.clients.members.get(session)
            && member.session.is_stored()
        {
            record(store, &member.session);
        }
    }

    /// Swaps what is to be written with `pieces`, as [`Journal::take`](crate::journal::Journal::take) does; the number
    /// of the last frame.
    pub fn take_journal(&mut self, pieces: &mut Vec<Vec<u8>>) -> Option<Lsn> {
        let store = self.clients.store.as_mut()?;
        // The message is in a frame that ends.
        store.last_message = None;
        store.journal.take(pieces)
    }

    /// Whether there is something to be written.
    #[must_use]
    pub fn has_journal(&self) -> bool {
        self.clients
            .store
            .as_ref()
            .is_some_and(|store| !store.journal.is_empty())
    }

    /// Asks every shard, this one too, to say when all exchanges that are under way now are written
    /// down where their publishers are. What a snapshot says of a message does not name its exchange, so
    /// what was said before that must stay until then.
    ///
    /// It may ask once more before all have answered, if what it asked for was lost: answers to what it asked before
    /// do not count then, since more may have come under way.
    pub fn begin_settling(&mut self) {
        let shard_count = self.peers.len();
        let Some(store) = &mut self.clients.store else {
            return;
        };
        store.unsettled = shard_count;
        store.settling += 1;
        let round = store.settling;
        for to in self.peer_ids() {
            self.post(to, super::Envelope::Settle { round });
        }
        self.handle_settle(self.id, round);
    }

    /// Whether all that [`Shard::begin_settling`] asked have said so.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let store = self.clients.store.as_ref();
        store.is_none_or(|store| store.unsettled == 0)
    }

    /// A shard wants to know when all exchanges that are under way now are written down.
    pub(super) fn handle_settle(&mut self, from: ShardId, round: u64) {
        if let Some(store) = &mut self.clients.store {
            store.settle(from, round, self.legacies.begun());
        }
        self.advance_settling();
    }

    /// A shard says that all it had under way when it was asked is written down.
    pub(super) fn handle_settled(&mut self, round: u64) {
        if let Some(store) = &mut self.clients.store
            && store.settling == round
        {
            store.unsettled = store.unsettled.saturating_sub(1);
        }
    }

    /// Tells those who have asked.
    pub(super) fn advance_settling(&mut self) {
        while let Some(store) = &mut self.clients.store
            && let Some((to, round)) = store.next_settled(self.legacies.first_open())
        {
            if to == self.id {
                self.handle_settled(round);
            } else {
                self.post(to, super::Envelope::Settled { round });
            }
        }
    }

    /// What counts as stored is that from now on.
    pub fn set_durability(&mut self, durability: Durability) {
        if let Some(store) = &mut self.clients.store {
            store.durability = durability;
        }
    }

    /// Asks all others when they have on stable storage what came of what this log keeps, unless they are being asked.
    pub(super) fn advance_keeping(&mut self) {
        let peer_count = self.peers.len() - 1;
        let Some(store) = &mut self.clients.store else {
            return;
        };
        let keeping = &mut store.keeping;
        if keeping.missing > 0 || keeping.next.is_empty() {
            return;
        }
        std::mem::swap(&mut keeping.asked, &mut keeping.next);
        keeping.missing = peer_count;
        for to in self.peer_ids() {
            self.post(to, super::Envelope::Sync);
        }
    }

    /// A shard wants to know when what was written down here so far is on stable storage.
    pub(super) fn handle_sync(&mut self, from: ShardId) {
        if let Some(store) = &mut self.clients.store {
            let position = store.journal.position();
            store.syncs.push_back((from, position));
        }
        self.advance_syncs();
    }

    /// Tells those who have asked.
    pub(super) fn advance_syncs(&mut self) {
        while let Some(store) = &mut self.clients.store
            && let Some(&(to, lsn)) = store.syncs.front()
            && store.journal.is_synced(lsn)
        {
            store.syncs.pop_front();
            self.post(to, super::Envelope::Synced);
        }
    }

    /// A shard says that it has what was asked for.
    pub(super) fn handle_others_synced(&mut self) {
        let Some(store) = &mut self.clients.store else {
            return;
        };
        store.keeping.missing = store.keeping.missing.saturating_sub(1);
        if store.keeping.missing > 0 {
            return;
        }
        for kept in std::mem::take(&mut store.keeping.asked) {
            store.end_kept(kept);
            store.keeping.ended += 1;
            // However many there are, frames end.
            store.journal.end_packet();
        }
        self.advance_keeping();
        self.advance_settling();
    }

    /// Whether Sessions outlive the process.
    #[must_use]
    pub fn is_stored(&self) -> bool {
        self.clients.store.is_some()
    }

    /// Whether a message needs a disk that takes nothing. Asked only while there is such a disk.
    pub(super) fn needs_stalled_disk(
        &mut self,
        session: SessionKey,
        publish: &Publish<'_>,
        topic_name: &[u8],
    ) -> bool {
        let Some(store) = &self.clients.store else {
            return false;
        };
        let stalled = store.stalled;
        let member = self.clients.members.get(session);
        // A QoS 2 message that was taken before must not be refused now: its identifier stays in use.
        if publish.qos == QoS::ExactlyOnce
            && publish.packet_identifier.is_some_and(|identifier| {
                member.is_some_and(|member| member.session.inbound.contains(identifier))
            })
        {
            return false;
        }
        // Its PUBREC would be a promise too.
        let is_stored = member.is_some_and(|member| member.session.is_stored());
        if publish.retain || stalled && is_stored && publish.qos == QoS::ExactlyOnce {
            return true;
        }
        let topic_name = crate::topic::TopicName::from_validated(topic_name);
        let clients = &self.clients;
        let may_read = |session| clients.may_read(session, topic_name.as_bytes());
        let matches = self.router.matches_of(topic_name, may_read);
        let here = stalled
            && matches.targets.iter().any(|target| {
                let member = self.clients.members.get(target.session);
                member.is_some_and(|member| member.session.is_stored())
            });
        here || !matches.groups.is_empty()
            || matches
                .shards
                .iter()
                .any(|shard| self.peers[shard.index()].stalled)
    }

    /// Looks whether the calendar has been set, and goes by it from then on. If so, times that are on the disk are wrong
    /// until everything is said anew.
    pub fn handle_calendar(&mut self, calendar: WallClock) -> bool {
        let Some(store) = &mut self.clients.store else {
            return false;
        };
        let known = store.journal.clock();
        let is_set = known.start_ms.abs_diff(calendar.start_ms) >= CALENDAR_STEP_MIN_MS;
        if is_set {
            store.journal.set_clock(calendar);
        }
        is_set
    }

    /// The disk takes nothing, or takes something again.
    pub fn handle_store_stalled(&mut self, stalled: bool, now: Instant, effects: &mut Effects) {
        let Some(store) = &mut self.clients.store else {
            return;
        };
        if store.stalled == stalled {
            return;
        }
        store.stalled = stalled;
        self.clients.counters.store_stalls += u64::from(stalled);
        for to in self.peer_ids() {
            self.post(to, super::Envelope::StoreStalled { stalled });
        }
        self.handle_stalls_changed(now, effects);
    }

    /// Somebody has moved the store away.
    pub fn handle_store_moved(&mut self) {
        self.clients.counters.store_moves += 1;
    }

    /// Publishers that were stopped by a disk are read again once no disk stops them.
    pub(super) fn handle_stalls_changed(&mut self, now: Instant, effects: &mut Effects) {
        let own = self.clients.store.as_ref().is_some_and(|it| it.stalled);
        if own || self.peers.iter().any(|peer| peer.stalled) {
            let since = *self.disk_stalled_at.get_or_insert(now);
            self.timers.arm(Slot::DiskPatience, since + DISK_PATIENCE);
            return;
        }
        self.disk_stalled_at = None;
        self.resume_waiting_for_disk(effects);
    }

    /// Publishers that were stopped by a disk are read again: what they want is taken, or some are told
    /// that it is not.
    pub(super) fn resume_waiting_for_disk(&mut self, effects: &mut Effects) {
        for key in std::mem::take(&mut self.waiting_for_disk) {
            self.resume(key, super::Pause::DISK, effects);
        }
    }
}
