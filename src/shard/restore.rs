//! A shard that goes on where an earlier process ended.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::num::NonZeroU64;
use std::sync::Arc;

use super::Shard;
use super::clients::{Member, SubscriptionKind};
use super::effects::Effects;
use super::store::Store;
use super::timers::Slot;
use crate::config::Durability;
use crate::journal::{
    Journal, Progress as Stored, ReplayedDelivery, ReplayedRetained, ReplayedSession, Suspect,
};
use crate::key::{SessionKey, ShardId};
use crate::message::QoS;
use crate::router::Interest;
use crate::session::{
    Delivery, Logged, Place, Progress, SESSION_NEVER_EXPIRES, Session, ShareTag, Will,
};
use crate::time::Instant;
use crate::topic::{TopicFilter, TopicName};

/// Places of deliveries that a Session is to have been given at most which a power failure took. Its Client may hold
/// their Packet Identifiers as those of QoS 2 messages that were not released, and takes another one for a repetition.
///
/// How many come before a sync has no bound, and Packet Identifiers go round. A quarter of them is as many as can be passed
/// over: what was in flight before has room beside them, as fewer than half may lie between its first and what is sent
/// next (`Inflight::has_room_for`), and those that are held come round no earlier than three quarters later.
const PLACES_LOST_MAX: u64 = 1 << 14;

/// What another shard will want of a filter once it is restored.
#[derive(Clone, Debug)]
pub struct RestoredInterest {
    /// The other shard.
    pub shard: ShardId,
    /// The whole filter.
    pub filter: Arc<str>,
    /// What it wants.
    pub interest: Interest,
}

impl Shard {
    /// Stores Sessions and retained messages from now on, by way of [`Shard::take_journal`] and
    /// [`Shard::handle_durable`]. To be called before anything else.
    pub fn store_in(&mut self, journal: Journal, suspects: &[Suspect]) {
        let ports = self.clients.settings.ports();
        self.clients.store = Some(Box::new(Store::new(journal, suspects, ports)));
    }

    /// The shard on which the Session of a Client lives.
    #[must_use]
    pub fn shard_of(&self, client_identifier: &str) -> ShardId {
        self.placement.shard_of(client_identifier)
    }

    /// Takes over a Session that lives here. Nothing is announced: other shards are told by
    /// [`Shard::restore_interest`]. `origins`: the QoS 2 exchanges it began, as others know them.
    pub fn restore_session(&mut self, replayed: ReplayedSession, now: Instant) {
        let Some(identity) = replayed.identity.clone() else {
            return;
        };
        let Some(store) = &self.clients.store else {
            return;
        };
        let clock = store.journal.clock();
        // If there was a power failure.
        let may_have_lost = store.durability != Durability::Always;
        let places_lost = if may_have_lost { PLACES_LOST_MAX } else { 0 };
        let mut state = Session::new(identity.clone());
        state.log = NonZeroU64::new(replayed.session).map(|name| {
            Box::new(Logged {
                next_sequence: replayed.next_sequence + places_lost,
                exchanges: replayed.exchanges,
                ..Logged::new(name)
            })
        });
        state.expiry_interval_s = replayed.expiry_interval_s;
        // The connection was lost when the process ended, and it is told that now.
        let limit = self.clients.limits.persistent_client_expiration;
        let asked = (replayed.expiry_interval_s != SESSION_NEVER_EXPIRES)
            .then(|| std::time::Duration::from_secs(replayed.expiry_interval_s.into()));
        let lifetime = match (asked, limit) {
            (Some(asked), Some(limit)) => Some(asked.min(limit)),
            (one, other) => one.or(other),
        };
        let written = replayed.expires_at_ms.map(|ms| clock.instant(ms));
        // What the operator has decided since counts from now on, as nobody has written down when the connection
        // was lost.
        let decided = limit.map(|limit| now + limit);
        state.expires_at = if replayed.is_connected {
            lifetime.map(|lifetime| now + lifetime)
        } else if asked.is_none() && limit.is_none() {
            None
        } else {
            match (written, decided) {
                (Some(written), Some(decided)) => Some(written.min(decided)),
                (one, other) => one.or(other),
            }
        };
        // Or each start would put it off.
        let has_moved = replayed.is_connected || state.expires_at != written;
        let will = replayed.will.map(|will| {
            let due = match replayed.will_at_ms {
                Some(ms) if !replayed.is_connected => clock.instant(ms),
                _ => now.add_seconds(will.delay_interval_s.into()),
            };
            state.will_at = Some(state.expires_at.map_or(due, |end| end.min(due)));
            let (delay, expiry) = (will.delay_interval_s, will.message_expiry_interval_s);
            Box::new(Will::from_stored(will.message, delay, expiry))
        });
        for packet_identifier in replayed.inbound {
            state.inbound.restore(packet_identifier, may_have_lost);
        }
        let deadline = state.deadline();
        let member = Member::new(state);
        let key = self.clients.insert(member);
        self.clients.set_will(key, will);
        // What the operator allows at a time was decided when it began.
        let _ = self.occupancy.begin_session(None);
        self.clients.identify(key, identity);
        for (text, subscription) in &replayed.subscriptions {
            let Ok(filter) = TopicFilter::new(text) else {
                continue;
            };
            let subscribed = self.router.subscribe(
                &filter,
                key,
                subscription.options,
                subscription.identifier,
                false,
            );
            let is_shared = filter.share_group().is_some();
            if is_shared && let Some(store) = &mut self.clients.store {
                store.name_share(ShareTag(subscribed.filter.0), text);
            }
            if let Some(member) = self.clients.members.get_mut(key) {
                let kind = match SubscriptionKind::new(is_shared, subscription.is_replaying) {
                    SubscriptionKind::Replaying => SubscriptionKind::Interrupted,
                    kind => kind,
                };
                member.set_subscription(subscribed.filter, kind);
            }
        }
        // What was sent to a Client may not have been written down, but what allowed more to be sent was:
        // PUBREL waits for that. So only a window full of QoS 2 can be more than the log knows of, and only
        // to a Client that was there to the end.
        let mut unknown = match replayed.window {
            _ if !replayed.is_connected => 0,
            Some(window) => window,
            None => match self.clients.limits.max_inflight_messages {
                0 => u16::MAX,
                window => window,
            },
        };
        let (mut sent_before, mut left_before) = (replayed.sent_before, replayed.left_before);
        let mut deliveries = replayed.deliveries;
        while let Some(chunk) = deliveries.pop_chunk() {
            for delivery in &chunk {
                if delivery.qos == QoS::ExactlyOnce && delivery.progress != Stored::Released {
                    if unknown > 0 || delivery.progress == Stored::Sent {
                        sent_before = sent_before.max(delivery.sequence + 1);
                    }
                    unknown = unknown.saturating_sub(1);
                }
                if replayed.is_connected {
                    left_before = left_before.max(delivery.sequence + 1);
                }
            }
            self.restore_deliveries(key, chunk);
        }
        if let Some(member) = self.clients.members.get_mut(key)
            && let Some(log) = &mut member.session.log
        {
            log.sent_before = sent_before;
            log.left_before = left_before;
        }
        if let Some(deadline) = deadline {
            self.timers.arm(Slot::Session(key.index), deadline);
        }
        if has_moved {
            // What may have been sent first: once it counts as one that had no connection, nobody asks.
            self.store(key, |store, session| {
                store.interrupted(session);
                store.detached(session);
            });
        }
        if let Some(store) = &mut self.clients.store
            && let Some(name) = NonZeroU64::new(replayed.session)
        {
            store.renumbered(name, &replayed.renumbered);
            store.say_handed_on(name, &replayed.handed_on);
            // What is said of a million of them is not one frame.
            store.journal.end_packet();
        }
    }

    /// Goes on handing on what a Session that is over has left to members of its shared subscriptions,
    /// all of which are there again; or publishes its Will again.
    pub fn restore_ending(&mut self, replayed: ReplayedSession, now: Instant) {
        let Some(name) = NonZeroU64::new(replayed.session) else {
            return;
        };
        // Nobody is connected: nothing comes of it but what is stored.
        let effects = &mut Effects::default();
        if let (Some(will), Some(identity)) = (&replayed.will, &replayed.identity) {
            return self.restore_will(name.get(), identity, will, now, effects);
        }
        let mut deliveries = replayed.deliveries;
        while let Some(delivery) = deliveries.pop_front() {
            let (Some(message), Some(share)) = (delivery.message, delivery.share) else {
                continue;
            };
            let Some(store) = &mut self.clients.store else {
                return;
            };
            let sequence = delivery.sequence;
            store.begin_handing_on(name, Place { sequence, lsn: 0 });
            let filter = Arc::from(share.as_bytes());
            self.handle_forwarded_shared(&message, &filter, self.id, now, effects);
            if let Some(store) = &mut self.clients.store {
                store.end_handing_on();
            }
        }
        if let Some(store) = &mut self.clients.store {
            store.say_handed_on(name, &replayed.handed_on);
            store.ended(name);
        }
    }

    /// Deliveries that lie together. Where all of them wait, which most do that come after a Client has
    /// left, they become the queue where they lie.
    fn restore_deliveries(&mut self, key: SessionKey, replayed: VecDeque<ReplayedDelivery>) {
        let waits = |it: &ReplayedDelivery| it.progress == Stored::Waiting && it.message.is_some();
        if !replayed.iter().all(waits) {
            for delivery in replayed {
                self.restore_delivery(key, delivery);
            }
            return;
        }
        // In a loop of its own, so that many are fetched into the cache at a time.
        let messages = replayed.iter().flat_map(|it| &it.message);
        let bytes = messages.map(|message| message.size()).sum();
        // Collected in place: a delivery is as large as what it is made of.
        let deliveries = Vec::from(replayed).into_iter().filter_map(|it| {
            Some(Delivery {
                message: it.message?,
                qos: it.qos,
                retain: it.retain,
                share: self.share_tag(it.share.as_deref()),
                subscription_identifiers: it.subscription_identifiers,
                place: Place {
                    sequence: it.sequence,
                    lsn: 0,
                },
            })
        });
        let deliveries: Vec<Delivery> = deliveries.collect();
        let Some(member) = self.clients.members.get_mut(key) else {
            return;
        };
        self.clients.queued_bytes += bytes;
        self.clients.queued_messages += deliveries.len();
        member.session.queue.push_chunk(deliveries.into(), bytes);
    }

    fn share_tag(&self, share: Option<&str>) -> Option<ShareTag> {
        let filter = TopicFilter::new(share?).ok()?;
        self.router.find(&filter).map(|filter| ShareTag(filter.0))
    }

    fn restore_delivery(&mut self, key: SessionKey, replayed: ReplayedDelivery) {
        let share = self.share_tag(replayed.share.as_deref());
        let Some(member) = self.clients.members.get_mut(key) else {
            return;
        };
        let session = &mut member.session;
        let sequence = replayed.sequence;
        let progress = match (replayed.progress, replayed.message) {
            (Stored::Released, _) | (_, None) => Progress::Released,
            (stored, Some(message)) => {
                let delivery = Delivery {
                    message,
                    qos: replayed.qos,
                    retain: replayed.retain,
                    share,
                    subscription_identifiers: replayed.subscription_identifiers,
                    place: Place { sequence, lsn: 0 },
                };
                if stored == Stored::Waiting {
                    self.clients.queued_bytes += delivery.message.size();
                    self.clients.queued_messages += 1;
                    return session.queue.push(delivery);
                }
                Progress::Published(delivery)
            }
        };
        if session.queue.is_empty() && session.inflight.has_room_for(sequence, u16::MAX) {
            session.inflight.push_at(sequence, progress);
        } else if let Progress::Published(delivery) = progress {
            self.clients.queued_bytes += delivery.message.size();
            self.clients.queued_messages += 1;
            session.queue.push(delivery);
        }
    }

    /// What another shard wants, before it could say so itself.
    pub fn restore_interest(&mut self, restored: &RestoredInterest) {
        if restored.shard != self.id
            && let Ok(filter) = TopicFilter::new(&restored.filter)
        {
            self.router
                .set_interest(restored.shard, &filter, restored.interest);
        }
    }

    /// Takes a retained message into this shard's replica.
    pub fn restore_retained(&mut self, retained: &ReplayedRetained, now: Instant) {
        self.clock = self.clock.max(retained.version.clock);
        if retained.is_removal() || retained.message.is_expired(now) {
            return;
        }
        let topic_name = retained.message.topic_name();
        debug_assert!(TopicName::new(&String::from_utf8_lossy(topic_name)).is_ok());
        self.router.retain(&retained.message, retained.version);
        if let Some(at) = self.router.next_retained_expiry() {
            self.timers.arm(Slot::RetainedExpiry, at);
        }
    }
}
