//! Saying again what still is, a little at a time, so that the beginning of the log can be forgotten.
//!
//! A snapshot visits every Session and every retained message of this shard's keeping once. What
//! changes while it is under way is written down as always, before or after the visit; records may be
//! said twice, so both are right.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::sync::Arc;

use super::Shard;
use super::clients::Member;
use super::store::Store;
use crate::journal::{Lsn, Record, StoredMessage};
use crate::key::SessionKey;
use crate::message::Message;
use crate::router::{FilterKey, Router};
use crate::session::{Delivery, Progress};

/// Sessions visited at a time at most, whatever they hold: about three microseconds each, as nobody else has
/// looked at them lately.
const SESSIONS_A_STEP: usize = 32;
/// Subscriptions said at a time.
const SUBSCRIPTIONS_A_STEP: usize = 64;
/// Rows of the retained table visited at a time.
const RETAINED_A_STEP: usize = 256;
/// Messages that are let go of at a time, each of which may be the last to be known here.
const SHARED_A_STEP: usize = 256;

/// How far a snapshot has come.
#[derive(Debug)]
pub(super) struct Cursor {
    /// Every frame before this one can be forgotten when it is done and durable.
    began: Lsn,
    /// Slot of the Session at hand.
    slot: u32,
    /// That Session, and what of it comes next, once its head is written.
    session: Option<(SessionKey, Next)>,
    /// Row of the retained table.
    row: u32,
    /// Names of messages that other Sessions may be owed too. No table that has to move as a whole when it grows.
    shared: BTreeMap<usize, (Arc<Message>, u64)>,
}

/// What is to be said of a Session.
#[derive(Clone, Copy, Debug)]
enum Next {
    /// Its subscriptions behind this one.
    Subscriptions(Option<FilterKey>),
    /// What it is owed from this place on.
    Deliveries(u64),
}

/// What a finished snapshot makes possible.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Snapshot {
    /// Once this frame is durable,
    pub ended: Lsn,
    /// frames before this one are no longer needed.
    pub began: Lsn,
}

impl Shard {
    /// Begins a snapshot, unless one is under way.
    pub fn begin_snapshot(&mut self) {
        if let Some(store) = &mut self.clients.store
            && store.snapshot.is_none()
        {
            store.journal.append(&Record::SnapshotBegan);
            let began = store.journal.position();
            store.snapshot = Some(Cursor {
                began,
                slot: 0,
                session: None,
                row: 0,
                shared: BTreeMap::new(),
            });
        }
    }

    /// Whether a snapshot is under way.
    #[must_use]
    pub fn is_in_snapshot(&self) -> bool {
        self.clients
            .store
            .as_ref()
            .is_some_and(|store| store.snapshot.is_some())
    }

    /// Goes on with a snapshot for about `size` bytes of journal. Says so when it is finished.
    pub fn continue_snapshot(&mut self, size: usize) -> Option<Snapshot> {
        let store = self.clients.store.as_mut()?;
        let mut cursor = store.snapshot.take()?;
        let until = store.journal.size() + size;
        let mut steps = 0;
        while store.journal.size() < until && steps < SESSIONS_A_STEP {
            steps += 1;
            if let Some((key, next)) = cursor.session {
                let member = self.clients.members.get(key);
                cursor.session = member
                    .and_then(|member| match next {
                        Next::Subscriptions(last) => {
                            let next = store.say_subscriptions(&self.router, key, member, last);
                            let last = next.map(|last| Next::Subscriptions(Some(last)));
                            Some(last.unwrap_or(Next::Deliveries(0)))
                        }
                        Next::Deliveries(place) => store
                            .say_deliveries(&mut cursor, member, place, until)
                            .map(Next::Deliveries),
                    })
                    .map(|next| (key, next));
                if cursor.session.is_none() {
                    cursor.slot += 1;
                }
                store.journal.end_packet();
                continue;
            }
            if cursor.slot as usize >= self.clients.members.slots() {
                break;
            }
            let Some(key) = self.clients.members.key_at(cursor.slot) else {
                cursor.slot += 1;
                continue;
            };
            let Some(member) = self.clients.members.get(key) else {
                cursor.slot += 1;
                continue;
            };
            if !member.session.is_stored() {
                cursor.slot += 1;
                continue;
            }
            store.session(member);
            if member.session.connection.is_none() {
                store.detached(&member.session);
            }
            store.interrupted(&member.session);
            store.taken(&member.session);
            let next = store.say_subscriptions(&self.router, key, member, None);
            cursor.session = Some((
                key,
                next.map_or(Next::Deliveries(0), |last| Next::Subscriptions(Some(last))),
            ));
        }
        if cursor.session.is_some() || (cursor.slot as usize) < self.clients.members.slots() {
            store.snapshot = Some(cursor);
            return None;
        }
        // Nobody else is owed any of those.
        for _ in 0..SHARED_A_STEP {
            if cursor.shared.pop_first().is_none() {
                break;
            }
        }
        if !cursor.shared.is_empty() {
            store.snapshot = Some(cursor);
            return None;
        }
        for _ in 0..RETAINED_A_STEP {
            if store.journal.size() >= until {
                break;
            }
            let (found, is_row) = self.router.retained_in_row(cursor.row);
            if !is_row {
                store.journal.append(&Record::SnapshotEnded);
                let ended = store.journal.position();
                return Some(Snapshot {
                    ended,
                    began: cursor.began,
                });
            }
            cursor.row += 1;
            if let Some((message, version)) = found
                && self.placement.shard_of_bytes(message.topic_name()) == self.id
                && !message.topic_name().starts_with(b"$SYS/")
            {
                store.retained(message, version);
                store.journal.end_packet();
            }
        }
        store.snapshot = Some(cursor);
        None
    }
}

impl Store {
    /// Says again some subscriptions of a Session, those behind `last`. The one that was said last if there may be more.
    fn say_subscriptions(
        &mut self,
        router: &Router,
        session: SessionKey,
        member: &Member,
        last: Option<FilterKey>,
    ) -> Option<FilterKey> {
        let name = member.session.stored()?;
        let rest = member.subscriptions_behind(last);
        let (mut count, mut last) = (0, None);
        for (filter, kind) in rest.take(SUBSCRIPTIONS_A_STEP) {
            (count, last) = (count + 1, Some(filter));
            if let Some((options, identifier)) = router.subscription(filter, session)
                && let Ok(text) = std::str::from_utf8(router.filter_text(filter))
            {
                let is_owed = kind.is_owed_retained();
                self.subscribed(name, text, options, identifier, is_owed);
            }
        }
        last.filter(|_| count == SUBSCRIPTIONS_A_STEP)
    }

    /// Says again what a Session is owed from `place` on. The place where to go on, or `None`.
    fn say_deliveries(
        &mut self,
        cursor: &mut Cursor,
        member: &Member,
        place: u64,
        until: usize,
    ) -> Option<u64> {
        let session = &member.session;
        let name = session.stored()?;
        for (packet_identifier, progress) in session.inflight.iter() {
            let sequence = session.inflight.sequence_of(packet_identifier);
            if sequence < place {
                continue;
            }
            if self.journal.size() >= until {
                return Some(sequence);
            }
            match progress {
                Progress::Published(delivery) => {
                    let message = self.say_message(cursor, delivery);
                    self.put_delivery(name, sequence, message, delivery, true);
                }
                Progress::Released => self.released(session, sequence),
            }
        }
        for delivery in session.queue.from_place(place) {
            let sequence = delivery.place.sequence;
            if self.journal.size() >= until {
                return Some(sequence);
            }
            let message = self.say_message(cursor, delivery);
            self.put_delivery(name, sequence, message, delivery, false);
        }
        None
    }

    fn say_message(&mut self, cursor: &mut Cursor, delivery: &Delivery) -> u64 {
        let message = &delivery.message;
        let address = Arc::as_ptr(message) as usize;
        if let Some((_, name)) = cursor.shared.get(&address) {
            return *name;
        }
        let shared = Arc::strong_count(message) > 1;
        let name = self.journal.name_message();
        self.journal.append(&Record::Message {
            message: name,
            shared,
            origin: None,
            content: StoredMessage::new(message.as_ref().as_ref(), self.journal.clock()),
        });
        if shared {
            // Held, so that its address stays its own.
            cursor.shared.insert(address, (message.clone(), name));
        }
        name
    }
}
