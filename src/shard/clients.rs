//! Sessions and connections of one shard side by side, and the way of a message to one of them.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::ops::Bound;
use std::sync::Arc;

use smallvec::SmallVec;

use super::access::reads;
use super::connection::{Connection, Resend};
use super::directory::Directory;
use super::effects::Effects;
use super::moving::Moving;
use super::pool::MessagePool;
use super::reload::{Reload, has_moved, judged_at_once};
use super::sharing::Sharing;
use super::slab::Slab;
use super::store::Store;
use super::subscribe::ReplayRequest;
use crate::auth::{Credential, Standing};
use crate::codec::{self, PublishHeader};
use crate::key::{ConnectionKey, PacketIdentifier, SessionKey};
use crate::limits::Limits;
use crate::message::{self, Message, MessageRef, ProtocolVersion, QoS};
use crate::metrics::Counters;
use crate::origin::Identity;
use crate::policy::{Policy, Settings};
use crate::router::FilterKey;
use crate::session::{
    Delivery, Inflight, OutboundAlias, Place, Progress, Queue, Session, ShareTag, Will,
};
use crate::time::Instant;

/// A Session and what this shard's Router holds for it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) session: Session,
    subscriptions: BTreeMap<FilterKey, SubscriptionKind>,
    /// What few of them have.
    particular: Option<Box<Particular>>,
}

// A million idle Clients are as many of these: see `tests/allocation.rs`.
const _: () = assert!(size_of::<Member>() <= 120);

/// What password and access files say of a Client.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Admitted {
    /// What the access rules have for it.
    pub(super) standing: Standing,
    /// The password it was accepted with.
    pub(super) credential: Option<Credential>,
}

/// What few Sessions have, in one place that they share the pointer to.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
struct Particular {
    /// What the files of its listener say of it, if anything.
    admitted: Admitted,
    /// Its subscriptions that are shared.
    shared_count: usize,
    /// Those because of which retained messages are still to come.
    owed_count: usize,
}

impl Particular {
    /// The count that a subscription of this kind is in.
    fn count_of(&mut self, kind: SubscriptionKind) -> Option<&mut usize> {
        if kind == SubscriptionKind::Shared {
            return Some(&mut self.shared_count);
        }
        kind.is_owed_retained().then_some(&mut self.owed_count)
    }
}

impl Member {
    /// A Session without subscriptions, of which no file has been asked: see [`Clients::identify`].
    pub(super) fn new(session: Session) -> Self {
        Self {
            session,
            subscriptions: BTreeMap::new(),
            particular: None,
        }
    }

    /// What password and access files say of it.
    pub(super) fn admitted(&self) -> Admitted {
        self.particular
            .as_ref()
            .map_or(Admitted::default(), |it| it.admitted)
    }

    /// They say something else.
    pub(super) fn set_admitted(&mut self, admitted: Admitted) {
        if admitted != self.admitted() {
            self.change_particular(|particular| particular.admitted = admitted);
        }
    }

    fn change_particular(&mut self, change: impl FnOnce(&mut Particular)) {
        change(self.particular.get_or_insert_default());
        self.particular.take_if(|it| **it == Particular::default());
    }

    /// What it is subscribed to, in an order that stays.
    pub(super) fn subscriptions(&self) -> &BTreeMap<FilterKey, SubscriptionKind> {
        &self.subscriptions
    }

    /// Those behind `last`, or all of them.
    pub(super) fn subscriptions_behind(
        &self,
        last: Option<FilterKey>,
    ) -> impl Iterator<Item = (FilterKey, SubscriptionKind)> {
        let from = last.map_or(Bound::Unbounded, Bound::Excluded);
        let rest = self.subscriptions.range((from, Bound::Unbounded));
        rest.map(|(&filter, &kind)| (filter, kind))
    }

    /// How many of them are shared. Told without a look at them, as the next.
    pub(super) fn shared_count(&self) -> usize {
        self.particular.as_ref().map_or(0, |it| it.shared_count)
    }

    /// How many of them retained messages are still to come because of.
    pub(super) fn owed_count(&self) -> usize {
        self.particular.as_ref().map_or(0, |it| it.owed_count)
    }

    /// It has this subscription, from now on of this kind.
    pub(super) fn set_subscription(&mut self, filter: FilterKey, kind: SubscriptionKind) {
        let before = self.subscriptions.insert(filter, kind);
        self.recount(before, Some(kind));
    }

    /// It has this subscription no more; what it was.
    pub(super) fn remove_subscription(&mut self, filter: FilterKey) -> Option<SubscriptionKind> {
        let kind = self.subscriptions.remove(&filter)?;
        self.recount(Some(kind), None);
        Some(kind)
    }

    /// It has none any more; all of them, and how many are shared.
    pub(super) fn take_subscriptions(&mut self) -> (BTreeMap<FilterKey, SubscriptionKind>, usize) {
        let shared_count = self.shared_count();
        if self.particular.is_some() {
            self.change_particular(|it| (it.shared_count, it.owed_count) = (0, 0));
        }
        (std::mem::take(&mut self.subscriptions), shared_count)
    }

    fn recount(&mut self, before: Option<SubscriptionKind>, after: Option<SubscriptionKind>) {
        let is_counted = |kind: SubscriptionKind| kind != SubscriptionKind::Own;
        let [before, after] = [before, after].map(|kind| kind.filter(|&kind| is_counted(kind)));
        if before == after {
            return;
        }
        self.change_particular(|particular| {
            if let Some(count) = after.and_then(|kind| particular.count_of(kind)) {
                *count += 1;
            }
            if let Some(count) = before.and_then(|kind| particular.count_of(kind)) {
                *count -= 1;
            }
        });
    }
}

/// Whether a subscription is the Client's alone.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum SubscriptionKind {
    Own,
    /// The same, and not all retained messages that it asked for are on their way.
    Replaying,
    /// The same, and the connection has ended before its SUBACK left: a Client that comes back asks again.
    Unanswered,
    /// The same, and nobody is at it: that ended with an earlier connection, or before the process began.
    Interrupted,
    Shared,
}

impl SubscriptionKind {
    pub(super) const fn new(is_shared: bool, is_owed_retained: bool) -> Self {
        match is_owed_retained {
            _ if is_shared => Self::Shared,
            true => Self::Replaying,
            false => Self::Own,
        }
    }

    /// Whether retained messages are still to come because of it.
    pub(super) const fn is_owed_retained(self) -> bool {
        matches!(self, Self::Replaying | Self::Unanswered | Self::Interrupted)
    }
}

/// Everything about the Clients of one shard.
#[derive(Debug)]
pub(super) struct Clients {
    pub(super) members: Slab<SessionKey, Member>,
    pub(super) connections: Slab<ConnectionKey, Connection>,
    /// Asked at CONNECT only.
    by_client_identifier: Directory,
    /// Those of `settings`, at hand.
    pub(super) limits: Limits,
    /// With so many bytes of answers unsent a Client is not read any more. Nothing, so that somebody looks, while what was
    /// done at once has not been counted.
    pub(super) answers_max: usize,
    pub(super) settings: Arc<Settings>,
    /// Whether access rules or mount points can deny anything: see [`Clients::may_read`].
    pub(super) guarded: bool,
    /// Whether packets of a run may be copied as they are: nothing of QoS 0 is kept, and no connection has a mount point that
    /// holds no more.
    pub(super) copies_runs: bool,
    /// Who has still to be told of these settings.
    pub(super) reload: Option<Box<Reload>>,
    /// What a QoS is raised to before the subscription bounds it (`upgrade_outgoing_qos`).
    pub(super) qos_min: QoS,
    pub(super) counters: Counters,
    pub(super) pool: MessagePool,
    /// What is written down, if anything is.
    pub(super) store: Option<Box<Store>>,
    /// Bytes in the queues of all Sessions here.
    pub(super) queued_bytes: usize,
    /// Messages in the queues of all Sessions here.
    pub(super) queued_messages: usize,
    /// Bytes in the outboxes here beyond `outbox_bytes_max`.
    pub(super) beyond_outboxes: usize,
    /// Bytes of the Wills of all Sessions here.
    pub(super) will_bytes: usize,
    /// Sessions with a connection.
    pub(super) connected: usize,
    /// Buffer of [`Fanout`], kept between messages.
    scratch: Vec<u8>,
    pub(super) moving: Moving,
    pub(super) sharing: Sharing,
}

/// Who gets a message and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Recipient<'a> {
    pub(super) session: SessionKey,
    /// Highest QoS of the subscriptions that matched.
    pub(super) qos: QoS,
    /// The RETAIN flag this recipient sees.
    pub(super) retain: bool,
    pub(super) share: Option<ShareTag>,
    pub(super) subscription_identifiers: &'a [NonZeroU32],
}

/// One encoding of a message, in the scratch buffer.
#[derive(Clone, Copy)]
struct Encoded {
    start: usize,
    end: usize,
    identifier_at: Option<usize>,
}

/// How far what is sent again has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Again {
    All,
    /// The rest follows as the Client reads and acknowledges.
    Blocked,
    /// Much of it may not be read any more: the rest follows in the next turn.
    Paused,
}

/// Classes of recipients whose packets differ in the Packet Identifier only: version, QoS, retain.
const CLASSES: usize = 2 * 3 * 2;

/// One message on its way to many recipients: what they have in common is encoded once.
pub(super) struct Fanout<'m> {
    pub(super) message: MessageRef<'m>,
    owned: Option<Arc<Message>>,
    encoded: [Option<Encoded>; CLASSES],
    scratch: Vec<u8>,
    /// Whether more than one recipient is expected, so that encoding aside and copying pays.
    many: bool,
    /// Whether outboxes share its payload.
    is_shared: bool,
    /// Whether the packet it came in may become an outbox.
    pub(super) may_move: bool,
    pub(super) now: Instant,
}

impl Fanout<'_> {
    /// The message, if outboxes share its payload.
    #[inline]
    fn shared(&self) -> Option<&Arc<Message>> {
        self.owned.as_ref().filter(|_| self.is_shared)
    }

    pub(super) fn header<'a>(
        &'a self,
        qos: QoS,
        retain: bool,
        packet_identifier: Option<PacketIdentifier>,
        subscription_identifiers: &'a [NonZeroU32],
    ) -> PublishHeader<'a> {
        header(
            &self.message,
            qos,
            retain,
            packet_identifier,
            subscription_identifiers,
            self.now,
        )
    }
}

fn header<'a>(
    message: &MessageRef<'a>,
    qos: QoS,
    retain: bool,
    packet_identifier: Option<PacketIdentifier>,
    subscription_identifiers: &'a [NonZeroU32],
    now: Instant,
) -> PublishHeader<'a> {
    PublishHeader {
        duplicate: false,
        qos,
        retain,
        packet_identifier,
        topic_name: message.topic_name,
        topic_alias: None,
        // What is left of the lifetime travels on [MQTT-3.3.2-6].
        message_expiry_interval_s: message
            .expires_at
            .map(|at| message::expiry_interval_s(at, now)),
        forwarded: message.properties,
        subscription_identifiers,
        payload: message.payload,
    }
}

/// Appends one PUBLISH to `connection`'s outbox, which has the payload of its own or that of `shared`. False if the Client does not
/// take a packet of that size, in which case it gets nothing [MQTT-3.1.2-24] [MQTT-3.1.2-25].
fn write(
    connection: &mut Connection,
    mut header: PublishHeader<'_>,
    shared: Option<&Arc<Message>>,
) -> bool {
    if connection.particular && connection.mount_point_size > 0 {
        // Only what lies below its mount point is on its way to a Client.
        let Some(seen) = header.topic_name.get(connection.mount_point_size.into()..) else {
            return false;
        };
        header.topic_name = seen;
    }
    if connection.particular
        && let (version, size_max) = (connection.version, connection.maximum_packet_size as usize)
        && let Some(rare) = connection.rare_mut()
        && let Some(aliases) = &mut rare.outbound_aliases
    {
        // Sized first: an alias must not be promised in a packet that is not sent, and a packet that
        // only an alias would make too large goes without.
        let size = codec::publish_size(version, &header) + TOPIC_ALIAS_SIZE;
        if size <= size_max {
            match aliases.alias(header.topic_name) {
                OutboundAlias::None => {}
                OutboundAlias::New(alias) => header.topic_alias = Some(alias),
                OutboundAlias::Known(alias) => {
                    header.topic_alias = Some(alias);
                    header.topic_name = b"";
                }
            }
        }
    }
    let start = connection.outbox.len();
    let (version, size_max) = (connection.version, connection.maximum_packet_size as usize);
    if let Some(message) = shared {
        if codec::publish_size(version, &header) > size_max {
            return false;
        }
        codec::encode_publish_head(version, &header, &mut connection.outbox);
        connection.share_payload(message);
        return true;
    }
    codec::encode_publish(version, &header, &mut connection.outbox);
    if connection.outbox.len() - start > size_max {
        connection.outbox.truncate(start);
        return false;
    }
    true
}

/// Bytes a Topic Alias property can add to a packet, a longer length field included.
const TOPIC_ALIAS_SIZE: usize = 3 + 2;

impl Clients {
    pub(super) fn new(settings: Arc<Settings>, seed: u64) -> Self {
        Self {
            members: Slab::new(),
            connections: Slab::new(),
            by_client_identifier: Directory::new(seed),
            limits: settings.policy.limits.clone(),
            answers_max: answers_max(&settings.policy.limits),
            copies_runs: !settings.policy.queue_qos0_messages,
            guarded: Self::is_guarded(&settings),
            reload: None,
            qos_min: qos_min(&settings),
            settings,
            counters: Counters::default(),
            pool: MessagePool::default(),
            store: None,
            queued_bytes: 0,
            will_bytes: 0,
            queued_messages: 0,
            beyond_outboxes: 0,
            connected: 0,
            scratch: Vec::new(),
            moving: Moving::default(),
            sharing: Sharing::default(),
        }
    }

    /// The Session of the Client `client_identifier`.
    pub(super) fn find(&self, client_identifier: &str) -> Option<SessionKey> {
        self.by_client_identifier
            .find(client_identifier, &self.members)
    }

    /// The Network Connection of a Session, if it has one.
    #[inline]
    pub(super) fn connection_of(&self, session: SessionKey) -> Option<ConnectionKey> {
        self.members.get(session)?.session.connection
    }

    /// Adds a Session. There is none of that Client.
    pub(super) fn insert(&mut self, member: Member) -> SessionKey {
        let session = self.members.insert_with(|_| member);
        self.by_client_identifier.insert(session, &self.members);
        session
    }

    /// Takes a Session out.
    pub(super) fn remove(&mut self, session: SessionKey) -> Option<Member> {
        self.by_client_identifier.remove(session, &self.members);
        self.set_will(session, None);
        self.members.remove(session)
    }

    /// Gives a Session this Will, and takes the one that it had.
    pub(super) fn set_will(
        &mut self,
        session: SessionKey,
        will: Option<Box<Will>>,
    ) -> Option<Box<Will>> {
        let size = |will: &Option<Box<Will>>| will.as_ref().map_or(0, |will| will.stored().size());
        let member = self.members.get_mut(session)?;
        self.will_bytes += size(&will);
        let before = std::mem::replace(&mut member.session.will, will);
        self.will_bytes -= size(&before);
        before
    }

    /// Whether as many bytes more may be kept for Clients.
    pub(super) fn has_memory_for(&self, size: usize) -> bool {
        let used = self.queued_bytes + self.will_bytes + self.beyond_outboxes;
        used + size <= self.limits.memory_bytes_max
    }

    /// Takes over what the operator decided anew.
    pub(super) fn configure(&mut self, settings: Arc<Settings>) {
        self.limits = settings.policy.limits.clone();
        self.answers_max = answers_max(&self.limits);
        self.guarded = Self::is_guarded(&settings);
        self.qos_min = qos_min(&settings);
        self.settings = settings;
    }

    /// The settings, or who has still to be told of them, have changed: [`Self::copies_runs`] may have.
    pub(super) fn look_at_runs(&mut self) {
        let keeps_qos0 = self.settings.policy.queue_qos0_messages;
        self.copies_runs = !keeps_qos0 && !self.is_remounting();
    }

    /// Starts the way of `message` to `recipients` recipients.
    pub(super) fn fanout<'m>(
        &mut self,
        message: MessageRef<'m>,
        owned: Option<Arc<Message>>,
        recipients: usize,
        now: Instant,
    ) -> Fanout<'m> {
        let mut scratch = std::mem::take(&mut self.scratch);
        scratch.clear();
        let many = recipients > 1;
        let is_shared = many && message.payload.len() >= self.sharing.payload_min;
        Fanout {
            message,
            owned: if is_shared && owned.is_none() {
                Some(self.pool.share(message))
            } else {
                owned
            },
            encoded: [None; CLASSES],
            scratch,
            many: many && !is_shared,
            is_shared,
            may_move: !many && self.moving.is_worth(message.payload.len()),
            now,
        }
    }

    /// Ends it, keeping the buffer unless one huge message grew it.
    pub(super) fn end_fanout(&mut self, fanout: Fanout<'_>) {
        const SCRATCH_KEPT_MAX: usize = 1 << 20;
        if fanout.scratch.capacity() <= SCRATCH_KEPT_MAX {
            self.scratch = fanout.scratch;
        }
    }

    /// The message of `fanout`, owned.
    pub(super) fn own(&mut self, fanout: &mut Fanout<'_>) -> Arc<Message> {
        fanout
            .owned
            .get_or_insert_with(|| self.pool.share(fanout.message))
            .clone()
    }

    // HOT: per PUBLISH per subscriber.
    /// Gives the message of `fanout` to one recipient: into its outbox, its queue, or nowhere with a
    /// counter that says why.
    pub(super) fn deliver(
        &mut self,
        recipient: Recipient<'_>,
        fanout: &mut Fanout<'_>,
        effects: &mut Effects,
    ) {
        let Some(member) = self.members.get_mut(recipient.session) else {
            return;
        };
        let session = &mut member.session;
        let connection = session.connection.and_then(|key| {
            self.connections
                .get_mut(key)
                .map(|connection| (key, connection))
        });
        // What leaves by a mount point that holds no more has a name of its own: until that connection ends, which is
        // soon, it is as good as gone.
        let connection = match &self.reload {
            None => connection,
            Some(_) => connection.filter(|(key, it)| !has_moved(&self.reload, *key, it)),
        };
        let qos = fanout.message.qos.max(self.qos_min).min(recipient.qos);
        if qos == QoS::AtMostOnce {
            // QoS 0 is not queued for a Client that is away, unless the operator wants it.
            let Some((key, connection)) = connection else {
                if self.settings.policy.queue_qos0_messages {
                    self.enqueue_shared(&recipient, qos, fanout);
                }
                return;
            };
            // What waited for it comes first, in the order of its QoS. What waits for acknowledgements holds up none of it:
            // who is slow with those would lose it once the queue is full, and not if QoS 0 did not wait for anybody.
            if self.settings.policy.queue_qos0_messages && session.queue.may_hold_qos0() {
                self.enqueue_shared(&recipient, qos, fanout);
                return;
            }
            if connection.pending() >= self.limits.outbox_bytes_max {
                let size = fanout.message.payload.len();
                let (used, beyond) = (
                    self.queued_bytes + self.will_bytes,
                    &mut self.beyond_outboxes,
                );
                if !connection.reach_beyond_outbox(size, &self.limits, used, beyond) {
                    self.counters.dropped_outbox_full += 1;
                    connection.note_loss();
                    return;
                }
            }
            if fanout.may_move
                && self
                    .moving
                    .claim(key, connection, fanout, qos, &recipient, None)
                || copy_or_write(connection, fanout, qos, &recipient, None)
            {
                self.counters
                    .count_publish_sent(fanout.message.payload.len());
                mark_dirty(connection, key, effects);
            } else {
                self.counters.dropped_packet_too_large += 1;
            }
            return;
        }
        if session.is_stored() {
            return self.deliver_stored(recipient, qos, fanout, effects);
        }
        let message = fanout
            .owned
            .get_or_insert_with(|| self.pool.share(fanout.message))
            .clone();
        let delivery = Delivery {
            message,
            qos,
            retain: recipient.retain,
            share: recipient.share,
            subscription_identifiers: SmallVec::from_slice(recipient.subscription_identifiers),
            place: Place::default(),
        };
        if let Some((key, connection)) = connection
            && session.queue.is_empty()
            && !connection.is_resending()
            && session.inflight.has_room(connection.window)
            && connection.pending() < self.limits.outbox_bytes_max
            && Self::has_inflight_bytes(&self.settings.policy, session, delivery.message.size())
        {
            let packet_identifier = session.inflight.next_identifier();
            let identifier = Some(packet_identifier);
            if fanout.may_move
                && self
                    .moving
                    .claim(key, connection, fanout, qos, &recipient, identifier)
                || copy_or_write(connection, fanout, qos, &recipient, identifier)
            {
                session.inflight.push(delivery);
                self.counters
                    .count_publish_sent(fanout.message.payload.len());
                mark_dirty(connection, key, effects);
            } else {
                self.counters.dropped_packet_too_large += 1;
            }
        } else {
            let now = fanout.now;
            self.enqueue(recipient.session, delivery, now);
        }
    }

    /// Queues the message of `fanout` for a recipient.
    fn enqueue_shared(&mut self, recipient: &Recipient<'_>, qos: QoS, fanout: &mut Fanout<'_>) {
        let delivery = Delivery {
            message: self.own(fanout),
            qos,
            retain: recipient.retain,
            share: recipient.share,
            subscription_identifiers: SmallVec::from_slice(recipient.subscription_identifiers),
            place: Place::default(),
        };
        self.enqueue(recipient.session, delivery, fanout.now);
    }

    /// Whether the bytes in flight to a Client leave room for a message of `size` bytes
    /// (`max_inflight_bytes`). One message always may be.
    pub(super) fn has_inflight_bytes(policy: &Policy, session: &Session, size: usize) -> bool {
        policy.max_inflight_bytes == usize::MAX
            || session.inflight.is_empty()
            || session.inflight.published_bytes() + size <= policy.max_inflight_bytes
    }

    /// Puts a delivery behind what waits for `session`. Beyond `max_queued_messages`, or where it
    /// would exceed `max_queued_bytes` or `memory_bytes_max`, it is dropped, unless what is first in
    /// the queue has expired and makes room.
    pub(super) fn enqueue(&mut self, key: SessionKey, mut delivery: Delivery, now: Instant) {
        let size = delivery.message.size();
        let is_memory_full = !self.has_memory_for(size);
        let Some(member) = self.members.get_mut(key) else {
            return;
        };
        let session = &mut member.session;
        let (before, count_before) = (session.queue.bytes(), session.queue.len());
        let limits = &self.limits;
        // What only waits for the disk does not wait behind the window.
        let window = match session.connection.filter(|_| session.is_stored()) {
            Some(key) => self.connections.get(key).map_or(0, |it| it.window),
            None => 0,
        };
        let room = usize::from(window.saturating_sub(session.inflight.len()));
        let count_max = limits.max_queued_messages.saturating_add(room);
        let is_full = |queue: &Queue| {
            queue.len() >= count_max
                || queue.len() >= room && queue.bytes() + size > limits.max_queued_bytes
        };
        while is_full(&session.queue)
            && let Some(first) = session.queue.first()
            && first.message.is_expired(now)
        {
            let (sequence, qos) = (first.place.sequence, first.qos);
            session.queue.pop();
            if let Some(store) = &mut self.store {
                store.passed_over(session, sequence, qos);
            }
            self.counters.dropped_expired += 1;
        }
        if session.is_stored()
            && let Some(store) = &mut self.store
            && !is_full(&session.queue)
            && !is_memory_full
        {
            store.delivery(session, &mut delivery, false);
            if session.connection.is_some() {
                store.await_durable(key, session);
            }
        }
        let queue = &mut session.queue;
        if is_full(queue) {
            self.counters.dropped_queue_full += 1;
        } else if is_memory_full {
            self.counters.dropped_memory_full += 1;
        } else {
            queue.push(delivery);
        }
        self.queued_bytes = self.queued_bytes + queue.bytes() - before;
        self.queued_messages = self.queued_messages + queue.len() - count_before;
    }

    /// Whether there may be something that waits for `session`, to be sent or to be judged.
    // HOT: per acknowledgement.
    #[inline]
    pub(super) fn has_pending(&self, session: SessionKey) -> bool {
        let Some(member) = self.members.get(session) else {
            return false;
        };
        let is_behind = |key| self.connections.get(key).is_some_and(Connection::is_behind);
        !member.session.queue.is_empty()
            || member.session.connection.is_some_and(is_behind)
            || self.reload.is_some()
    }

    /// Sends what waits for `session` as far as its window and outbox have room: first what a lost
    /// connection left in flight, then its queue.
    pub(super) fn send_queued(&mut self, owner: SessionKey, now: Instant, effects: &mut Effects) {
        let Some(member) = self.members.get_mut(owner) else {
            return;
        };
        let session = &mut member.session;
        let Some(key) = session.connection else {
            return;
        };
        let Some(connection) = self.connections.get_mut(key).filter(|it| !it.is_gated()) else {
            return;
        };
        let mut again = Again::All;
        if connection.is_resending() {
            let admitted = member.particular.as_ref().map(|it| it.admitted);
            let standing = admitted.unwrap_or_default().standing;
            let may_read = |identity: &Identity, topic: &[u8]| {
                !self.guarded || reads(&self.settings, identity, standing, topic)
            };
            again = Self::send_inflight_again(
                session,
                connection,
                &mut self.counters,
                &mut self.store,
                self.sharing,
                &self.limits,
                may_read,
                now,
            );
        }
        if !connection.outbox.is_empty() || connection.has_parts() {
            mark_dirty(connection, key, effects);
        }
        match again {
            Again::All => {}
            Again::Blocked => return,
            Again::Paused => return self.list_doubted(owner),
        }
        let (before, count_before) = (session.queue.bytes(), session.queue.len());
        // What the session's log says of it, if it has one.
        let mut stored = self.store.as_mut().filter(|_| session.is_stored());
        while let Some(first) = session.queue.ready()
            && connection.pending() < self.limits.outbox_bytes_max
            && (first.qos == QoS::AtMostOnce
                || session.inflight.has_room(connection.window)
                    && Self::has_inflight_bytes(
                        &self.settings.policy,
                        session,
                        first.message.size(),
                    ))
        {
            let packet_identifier = match &mut stored {
                _ if first.qos == QoS::AtMostOnce => None,
                None => Some(session.inflight.next_identifier()),
                Some(store) => {
                    let sequence = first.place.sequence;
                    if !session.inflight.has_room_for(sequence, connection.window) {
                        break;
                    }
                    if !store.may_send(session, first) {
                        store.await_durable(owner, session);
                        break;
                    }
                    Some(Inflight::identifier_of(sequence))
                }
            };
            let Some(delivery) = session.queue.pop() else {
                break;
            };
            // Too late to begin with its delivery [MQTT-3.3.2-5].
            if delivery.message.is_expired(now) {
                self.counters.dropped_expired += 1;
                if let Some(store) = &mut stored {
                    store.passed_over(session, delivery.place.sequence, delivery.qos);
                }
                continue;
            }
            let acknowledged = delivery.qos > QoS::AtMostOnce;
            let mut header = header(
                &delivery.message.as_ref().as_ref(),
                delivery.qos,
                delivery.retain,
                packet_identifier,
                &delivery.subscription_identifiers,
                now,
            );
            // What was sent before a crash may not have been written down.
            if let Some(log) = &session.log {
                header.duplicate = log.may_repeat(&delivery);
            }
            let payload_size = header.payload.len();
            let was_written = write(connection, header, self.sharing.of(&delivery.message));
            if was_written {
                self.counters.count_publish_sent(payload_size);
                mark_dirty(connection, key, effects);
            } else {
                self.counters.dropped_packet_too_large += 1;
            }
            match &mut stored {
                None if was_written && acknowledged => {
                    session.inflight.push(delivery);
                }
                None => {}
                Some(store) => store.sent(session, delivery, was_written && acknowledged),
            }
        }
        self.queued_bytes = self.queued_bytes + session.queue.bytes() - before;
        self.queued_messages = self.queued_messages + session.queue.len() - count_before;
    }

    /// Sends again, on a new connection, what is in flight: PUBLISH with DUP set, in its first order,
    /// and PUBREL [MQTT-4.4.0-1] [MQTT-3.3.1-1] [MQTT-4.6.0-1]. What exceeds the window of the new
    /// connection follows as acknowledgements come [MQTT-3.3.4-9]. What may not be read any more is dropped.
    #[cold]
    #[inline(never)]
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    fn send_inflight_again(
        session: &mut Session,
        connection: &mut Connection,
        counters: &mut Counters,
        store: &mut Option<Box<Store>>,
        sharing: Sharing,
        limits: &Limits,
        may_read: impl Fn(&Identity, &[u8]) -> bool,
        now: Instant,
    ) -> Again {
        let resend = connection.rare_mut().and_then(|it| it.resend.as_mut());
        let Some(resend) = resend else {
            return Again::All;
        };
        let mut identifiers = std::mem::take(&mut resend.identifiers);
        let mut denied = 0;
        while let Some(&packet_identifier) = identifiers.front() {
            let sent = usize::from(session.inflight.len()).saturating_sub(identifiers.len());
            let is_blocked = sent >= usize::from(connection.window)
                || connection.pending() >= limits.outbox_bytes_max;
            if is_blocked || denied >= judged_at_once(limits) {
                connection.make_rare().resend = Some(Box::new(Resend { identifiers }));
                return if is_blocked {
                    Again::Blocked
                } else {
                    Again::Paused
                };
            }
            identifiers.pop_front();
            match session.inflight.progress(packet_identifier) {
                // Acknowledged before we came to repeat it.
                None => {}
                Some(Progress::Released) => {
                    counters.packets_sent += 1;
                    codec::encode_pubrel(
                        connection.version,
                        packet_identifier,
                        codec::ReasonCode::Success,
                        &mut connection.outbox,
                    );
                }
                Some(Progress::Published(delivery))
                    if !may_read(&session.identity, delivery.message.topic_name()) =>
                {
                    let qos = delivery.qos;
                    denied += 1;
                    counters.dropped_denied += 1;
                    if let Some(store) = store {
                        let sequence = session.inflight.sequence_of(packet_identifier);
                        store.passed_over(session, sequence, qos);
                    }
                    session.inflight.abandon(packet_identifier);
                }
                Some(Progress::Published(delivery)) => {
                    let mut header = header(
                        &delivery.message.as_ref().as_ref(),
                        delivery.qos,
                        delivery.retain,
                        Some(packet_identifier),
                        &delivery.subscription_identifiers,
                        now,
                    );
                    header.duplicate = true;
                    let qos = delivery.qos;
                    let payload_size = header.payload.len();
                    if write(connection, header, sharing.of(&delivery.message)) {
                        counters.count_publish_sent(payload_size);
                    } else {
                        // The Client takes smaller packets now than when this was first sent.
                        counters.dropped_packet_too_large += 1;
                        if let Some(store) = store {
                            let sequence = session.inflight.sequence_of(packet_identifier);
                            store.passed_over(session, sequence, qos);
                        }
                        session.inflight.abandon(packet_identifier);
                    }
                }
            }
        }
        if let Some(rare) = connection.rare_mut() {
            rare.resend = None;
        }
        connection.tidy_rare();
        Again::All
    }

    /// One retained message for a new subscription. False if it has to wait.
    pub(super) fn send_retained(
        &mut self,
        key: ConnectionKey,
        found: &Arc<Message>,
        request: ReplayRequest,
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let Some(connection) = self.connections.get_mut(key) else {
            return true;
        };
        let Some(session) = connection.session() else {
            return true;
        };
        let Some(member) = self.members.get_mut(session) else {
            return true;
        };
        if connection.pending() >= self.limits.outbox_bytes_max {
            return false;
        }
        let message = found.as_ref().as_ref();
        if found.is_expired(now) {
            self.counters.dropped_expired += 1;
            return true;
        }
        let qos = request.qos_of(message.qos, self.qos_min);
        let identifiers: &[NonZeroU32] = request.subscription_identifier.as_slice();
        if qos > QoS::AtMostOnce && member.session.is_stored() {
            // By way of the queue, which knows what may be sent when.
            let used = usize::from(member.session.inflight.len()) + member.session.queue.len();
            if used >= usize::from(connection.window) || connection.is_resending() {
                return false;
            }
            let delivery = Delivery {
                message: found.clone(),
                qos,
                retain: true,
                share: None,
                subscription_identifiers: SmallVec::from_slice(identifiers),
                place: Place::default(),
            };
            self.enqueue(session, delivery, now);
            self.send_queued(session, now, effects);
            return true;
        }
        let packet_identifier = if qos == QoS::AtMostOnce {
            None
        } else if member.session.queue.is_empty()
            && !connection.is_resending()
            && member.session.inflight.has_room(connection.window)
            && Self::has_inflight_bytes(&self.settings.policy, &member.session, found.size())
        {
            Some(member.session.inflight.next_identifier())
        } else {
            return false;
        };
        // Sent because of a subscription, not as published: RETAIN is set [MQTT-3.3.1-8].
        if write(
            connection,
            header(&message, qos, true, packet_identifier, identifiers, now),
            self.sharing.of(found),
        ) {
            if packet_identifier.is_some() {
                member.session.inflight.push(Delivery {
                    message: found.clone(),
                    qos,
                    retain: true,
                    share: None,
                    subscription_identifiers: SmallVec::from_slice(identifiers),
                    place: Place::default(),
                });
            }
            self.counters.count_publish_sent(message.payload.len());
            mark_dirty(connection, key, effects);
        } else {
            self.counters.dropped_packet_too_large += 1;
        }
        true
    }
}

/// Answers to a Client that does not read them may not pile up without end.
pub(super) const fn answers_max(limits: &Limits) -> usize {
    limits.outbox_bytes_max * 2 + 1
}

fn qos_min(settings: &Settings) -> QoS {
    if settings.policy.upgrade_outgoing_qos {
        QoS::ExactlyOnce
    } else {
        QoS::AtMostOnce
    }
}

/// Names `connection` among those with output, once.
pub(super) fn mark_dirty(connection: &mut Connection, key: ConnectionKey, effects: &mut Effects) {
    if !connection.dirty {
        connection.dirty = true;
        effects.dirty.push(key);
    }
}

// HOT: per PUBLISH per subscriber.
pub(super) fn copy_or_write(
    connection: &mut Connection,
    fanout: &mut Fanout<'_>,
    qos: QoS,
    recipient: &Recipient<'_>,
    packet_identifier: Option<PacketIdentifier>,
) -> bool {
    let particular = connection.particular || !recipient.subscription_identifiers.is_empty();
    if !fanout.many || particular {
        let header = fanout.header(
            qos,
            recipient.retain,
            packet_identifier,
            recipient.subscription_identifiers,
        );
        return write(connection, header, fanout.shared());
    }
    let version = if connection.version.is_v5() {
        ProtocolVersion::V5
    } else {
        ProtocolVersion::V311
    };
    let class = usize::from(version.is_v5()) * 6 + qos as usize * 2 + usize::from(recipient.retain);
    let encoded = match fanout.encoded[class] {
        Some(encoded) => encoded,
        None => {
            let mut scratch = std::mem::take(&mut fanout.scratch);
            let start = scratch.len();
            let header = fanout.header(qos, recipient.retain, packet_identifier, &[]);
            let identifier_at = codec::encode_publish(version, &header, &mut scratch);
            let encoded = Encoded {
                start,
                end: scratch.len(),
                identifier_at,
            };
            fanout.scratch = scratch;
            fanout.encoded[class] = Some(encoded);
            encoded
        }
    };
    if encoded.end - encoded.start > connection.maximum_packet_size as usize {
        return false;
    }
    let at = connection.outbox.len();
    connection
        .outbox
        .extend_from_slice(&fanout.scratch[encoded.start..encoded.end]);
    if let (Some(offset), Some(packet_identifier)) = (encoded.identifier_at, packet_identifier) {
        connection.outbox[at + offset..at + offset + 2]
            .copy_from_slice(&packet_identifier.get().to_be_bytes());
    }
    true
}
