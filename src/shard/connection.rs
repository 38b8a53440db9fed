//! One Network Connection as the core sees it: what it may send, what it is owed, why it is not read.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::num::NonZeroU32;
use std::time::Duration;

use crate::key::{PacketIdentifier, SessionKey};
use crate::limits::{Limits, REPLAY_FOUND_MAX, REPLAY_WALKS_MAX};
use crate::message::{ProtocolVersion, QoS};
use crate::origin::{CertificateIdentity, ListenerId, Origin, PeerAddress};
use crate::router::{FilterKey, RetainedWalk};
use crate::session::{InboundAliases, OutboundAliases};
use crate::time::Instant;

use super::command::Verdict;
use super::filters::Unfinished;
use super::replay_items::Found;
use super::sharing::Parts;
use super::store::Held;
use super::subscribe::ReplayRequest;

/// Why a connection is not read. It is read again when nothing of this is left.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(super) struct Pause(u8);

impl Pause {
    /// A SUBACK waits until every shard knows the interest.
    pub(super) const BARRIER: Self = Self(1);
    /// A ring to another shard is full.
    pub(super) const RING: Self = Self(2);
    /// The Client does not read what we send.
    pub(super) const OUTBOX: Self = Self(4);
    /// Its acknowledgements wait for a disk.
    pub(super) const STORE: Self = Self(16);
    /// It published what must be stored, and a disk takes nothing.
    pub(super) const DISK: Self = Self(32);
    /// Its CONNECT waits until somebody else has checked the password.
    pub(super) const AUTHENTICATION: Self = Self(8);
    /// Its CONNECT waits until it is known whether its Client is still there.
    pub(super) const PRESENCE: Self = Self(64);
    /// It has sent more Topic Filters in a packet than one turn has time for, or its Session has more of them than are
    /// visited in one.
    pub(super) const FILTERS: Self = Self(128);
    /// What it published is for more Sessions than one turn has time for, or has to wait until others have been through.
    /// The same bit: nothing is published before CONNECT is accepted.
    pub(super) const SPREAD: Self = Self::AUTHENTICATION;
    /// What a Client cannot do anything about: its silence does not count meanwhile.
    pub(super) const NOT_ITS_FAULT: Self = Self(
        Self::BARRIER.0
            | Self::RING.0
            | Self::AUTHENTICATION.0
            | Self::STORE.0
            | Self::DISK.0
            | Self::FILTERS.0
            | Self::SPREAD.0,
    );

    pub(super) fn any(self) -> bool {
        self.0 != 0
    }
    pub(super) fn contains(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
    pub(super) fn set(&mut self, other: Self) {
        self.0 |= other.0;
    }
    pub(super) fn clear(&mut self, other: Self) {
        self.0 &= !other.0;
    }
}

/// Where a connection is in its life.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Phase {
    /// Accepted; CONNECT has not been read.
    AwaitingConnect,
    /// CONNECT was accepted for this Session.
    Connected(SessionKey),
    /// Ended by us: only its last output is still wanted.
    Closing,
}

/// A new subscription whose retained messages are being looked up.
#[derive(Debug)]
pub(super) struct ReplayWalk {
    pub(super) walk: RetainedWalk,
    pub(super) request: ReplayRequest,
}

/// Retained messages on their way: looked up some at a time, then sent as fast as the Client reads, so that
/// a subscription to a million topics needs a pointer each, no outbox of that size, and no long turn.
#[derive(Debug, Default)]
pub(super) struct Replay {
    /// Subscriptions that have asked, and of which nothing below knows yet: there were many at once.
    pub(super) asked: VecDeque<ReplayRequest>,
    /// Oldest subscription first. The index frees nothing until they have ended, so they do not wait for the Client.
    pub(super) walks: VecDeque<ReplayWalk>,
    /// Subscriptions beyond [`REPLAY_WALKS_MAX`], for which nothing is looked up yet.
    pub(super) waiting: BTreeMap<FilterKey, ReplayRequest>,
    /// What was found and waits to be sent.
    pub(super) found: Found,
    /// What does not count of `asked`.
    pub(super) forgotten: Forgotten,
    /// All that have asked since it began, but for those in `asked`; when it is over, those that do not know of it yet.
    pub(super) filters: BTreeSet<FilterKey>,
    /// Goes on when it is this connection's turn among those that have more than one turn can do.
    pub(super) is_waiting: bool,
    /// Whether any of what was found may be sent is to be asked again.
    pub(super) is_doubted: bool,
    pub(super) since: Since,
}

/// What may have happened to items since they were looked up.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Since {
    /// Changes of the retained store by then: as long as it is the same, no item can be out of date.
    pub(super) store_changes: u64,
    /// A change of QoS 0 may have been dropped, since the Client does not read.
    pub(super) is_lossy: bool,
}

impl Replay {
    pub(super) fn is_over(&self) -> bool {
        self.asked.is_empty()
            && self.waiting.is_empty()
            && self.walks.is_empty()
            && self.found.is_empty()
    }

    /// Whether more is to be looked up now: those that wait do as long as the Client has this much to read.
    pub(super) fn looks_up(&self) -> bool {
        !self.asked.is_empty()
            || !self.walks.is_empty()
            || !self.waiting.is_empty() && self.found.count() < REPLAY_FOUND_MAX
    }

    /// Whether one more may be begun with at once.
    pub(super) fn has_room(&self) -> bool {
        self.walks.len() < REPLAY_WALKS_MAX && self.waiting.is_empty()
    }

    /// Nothing of it comes any more because of this subscription, which was asked for before so many requests. How many
    /// things were looked at.
    pub(super) fn forget(&mut self, filter: FilterKey, asked_before: u64) -> usize {
        if !self.asked.is_empty() {
            self.forgotten.insert(filter, asked_before);
        }
        if !self.filters.remove(&filter) {
            return 1;
        }
        self.waiting.remove(&filter);
        self.walks.retain(|walk| walk.request.filter != filter);
        1 + self.walks.len() + self.found.forget(filter)
    }

    /// The next of those that have asked at once; an empty one if its subscription has ended since.
    pub(super) fn next_asked(&mut self) -> Option<Option<ReplayRequest>> {
        let request = self.asked.pop_front()?;
        let is_wanted = !self.forgotten.contains(&request);
        if self.asked.is_empty() {
            self.forgotten = Forgotten::default();
        }
        Some(is_wanted.then_some(request))
    }
}

/// Subscriptions that have ended while their requests stood among many others, where each is left until its turn comes:
/// to look for it would take a look at all of them for each.
#[derive(Clone, Debug, Default)]
pub(super) struct Forgotten {
    /// Of what each has asked for, all before so many requests. One that has come again may have asked since.
    before: BTreeMap<FilterKey, u64>,
}

impl Forgotten {
    pub(super) fn is_empty(&self) -> bool {
        self.before.is_empty()
    }

    /// Nothing comes because of this subscription that was asked for before so many requests.
    pub(super) fn insert(&mut self, filter: FilterKey, asked_before: u64) {
        self.before.insert(filter, asked_before);
    }

    /// Whether nothing is to come because of this request.
    pub(super) fn contains(&self, request: &ReplayRequest) -> bool {
        let before = self.before.get(&request.filter);
        before.is_some_and(|&before| request.number < before)
    }

    /// These as well, which are no older.
    pub(super) fn append(&mut self, mut others: Self) {
        self.before.append(&mut others.before);
    }
}

/// Exchanges in flight that are to be repeated, oldest first. None, if there is only CONNACK to be waited for.
#[derive(Debug, Default)]
pub(super) struct Resend {
    pub(super) identifiers: VecDeque<PacketIdentifier>,
}

/// State of one Network Connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) phase: Phase,
    pub(super) version: ProtocolVersion,
    pub(super) pause: Pause,
    /// Named in [`super::Effects::dirty`] since its output was last taken.
    pub(super) dirty: bool,
    /// Encoded packets for the Client.
    pub(super) outbox: Vec<u8>,
    /// Bytes that come before the outbox: taken, and not accepted by the socket, or of `Rare::parts`.
    pub(super) unsent: usize,
    /// QoS 1 and 2 messages the Client lets us have in flight.
    pub(super) window: u16,
    /// Largest packet the Client takes [MQTT-3.1.2-24].
    pub(super) maximum_packet_size: u32,
    /// Milliseconds of silence after which the connection ends; `None` for ever.
    patience_ms: Option<NonZeroU32>,
    /// When the last packet came, or the connection was accepted.
    pub(super) last_packet_at: Instant,
    /// What most connections do not have.
    rare: Option<Box<Rare>>,
    /// What it publishes has to be looked at: its listener has access rules or a mount point, or does
    /// not take everything.
    pub(super) vetted: bool,
    /// What it is sent cannot be copied from what others are sent.
    pub(super) particular: bool,
    /// Topic Aliases it may set.
    pub(super) topic_alias_maximum: u16,
    /// Highest QoS it may publish with.
    pub(super) maximum_qos: QoS,
    /// Bytes of its listener's mount point, which it does not see.
    pub(super) mount_point_size: u16,
    /// The listener it came to.
    pub(super) listener: ListenerId,
    /// Its other end.
    pub(super) peer: PeerAddress,
    /// What became of its password, once that was checked.
    pub(super) verdict: Option<Verdict>,
    /// Its Client was there when its CONNECT was about to end another connection.
    pub(super) is_vouched_for: bool,
}

// A million idle Clients are as many of these: see `tests/allocation.rs`.
const _: () = assert!(size_of::<Connection>() <= 104);

/// What few connections have, in one place that they share the pointer to.
#[derive(Debug, Default)]
pub(super) struct Rare {
    pub(super) inbound_aliases: Option<Box<InboundAliases>>,
    pub(super) outbound_aliases: Option<Box<OutboundAliases>>,
    pub(super) replay: Option<Box<Replay>>,
    /// The packet that it presents next, if that was begun with.
    pub(super) unfinished: Option<Box<Unfinished>>,
    /// What an earlier connection of the Session left in flight and this one has not been sent.
    pub(super) resend: Option<Box<Resend>>,
    /// What waits for a disk.
    pub(super) held: Option<Box<Held>>,
    /// What the transport knows of the Client.
    pub(super) certificate: Option<Box<CertificateIdentity>>,
    /// Its part of [`Clients::beyond_outboxes`].
    ///
    /// [`Clients::beyond_outboxes`]: super::clients::Clients::beyond_outboxes
    pub(super) beyond_outbox: usize,
    /// About how many messages that is, in parts of [`ONE_MESSAGE`].
    pub(super) beyond_count: u64,
    /// QoS 2 messages it may have in flight, as its CONNACK said, if the operator has decided otherwise since; zero: any
    /// number.
    pub(super) receive_maximum: Option<u16>,
    /// It is another broker's bridge.
    pub(super) is_bridge: bool,
    /// Large payloads, and what comes between them.
    pub(super) parts: Option<Box<Parts>>,
}

/// A message, where parts of one count.
const ONE_MESSAGE: u64 = 1 << 20;

impl Rare {
    fn is_empty(&self) -> bool {
        let Self {
            inbound_aliases,
            outbound_aliases,
            replay,
            unfinished,
            resend,
            held,
            certificate,
            beyond_outbox,
            beyond_count: _,
            receive_maximum,
            is_bridge,
            parts,
        } = self;
        inbound_aliases.is_none()
            && outbound_aliases.is_none()
            && replay.is_none()
            && unfinished.is_none()
            && resend.is_none()
            && held.is_none()
            && certificate.is_none()
            && receive_maximum.is_none()
            && !is_bridge
            && parts.is_none()
            && *beyond_outbox == 0
    }
}

impl Connection {
    pub(super) fn new(origin: Origin, connect_timeout: Duration, now: Instant) -> Self {
        let mut connection = Self {
            phase: Phase::AwaitingConnect,
            version: ProtocolVersion::V311,
            pause: Pause::default(),
            dirty: false,
            outbox: Vec::new(),
            unsent: 0,
            window: 0,
            maximum_packet_size: u32::MAX,
            patience_ms: None,
            last_packet_at: now,
            rare: None,
            vetted: false,
            particular: false,
            topic_alias_maximum: 0,
            maximum_qos: QoS::ExactlyOnce,
            mount_point_size: 0,
            listener: origin.listener,
            peer: origin.peer,
            verdict: None,
            is_vouched_for: false,
        };
        connection.set_patience(Some(connect_timeout));
        connection.set_certificate(origin.certificate);
        connection
    }

    /// What it has that most have not.
    #[inline]
    pub(super) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    /// The same, if there is anything.
    #[inline]
    pub(super) fn rare_mut(&mut self) -> Option<&mut Rare> {
        self.rare.as_deref_mut()
    }

    /// The same, made if need be.
    pub(super) fn make_rare(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }

    /// Gives up the memory of what it has no longer.
    pub(super) fn tidy_rare(&mut self) {
        self.rare.take_if(|rare| rare.is_empty());
    }

    /// Whether CONNACK waits for the disk, and everything behind it.
    pub(super) fn is_gated(&self) -> bool {
        self.held().is_some_and(|held| held.gate != 0)
    }

    /// Whether some of what an earlier connection left in flight is still to be sent, or CONNACK is.
    #[inline]
    pub(super) fn is_resending(&self) -> bool {
        self.rare().is_some_and(|rare| rare.resend.is_some())
    }

    /// Whether something that its Session's queue does not have is on its way: what is sent again, and retained messages.
    pub(super) fn is_behind(&self) -> bool {
        self.rare()
            .is_some_and(|rare| rare.resend.is_some() || rare.replay.is_some())
    }

    /// Retained messages on their way, if there are any.
    pub(super) fn replay_mut(&mut self) -> Option<&mut Replay> {
        self.rare_mut()?.replay.as_deref_mut()
    }

    /// A message of QoS 0 found no room.
    #[cold]
    pub(super) fn note_loss(&mut self) {
        if let Some(replay) = self.rare_mut().and_then(|rare| rare.replay.as_mut()) {
            replay.since.is_lossy = true;
        }
    }

    /// Takes them out.
    pub(super) fn take_replay(&mut self) -> Option<Box<Replay>> {
        self.rare_mut()?.replay.take()
    }

    /// What waits for a disk, if anything has.
    #[inline]
    pub(super) fn held(&self) -> Option<&Held> {
        self.rare()?.held.as_deref()
    }

    /// The same.
    #[inline]
    pub(super) fn held_mut(&mut self) -> Option<&mut Held> {
        self.rare_mut()?.held.as_deref_mut()
    }

    /// Whether it is another broker's bridge.
    pub(super) fn is_bridge(&self) -> bool {
        self.rare().is_some_and(|rare| rare.is_bridge)
    }

    /// What the transport knows of the Client.
    pub(super) fn certificate(&self) -> Option<&CertificateIdentity> {
        self.rare()?.certificate.as_deref()
    }

    fn set_certificate(&mut self, certificate: Option<Box<CertificateIdentity>>) {
        if certificate.is_some() || self.rare.is_some() {
            self.make_rare().certificate = certificate;
        }
    }

    /// More is known of where it comes from.
    pub(super) fn set_origin(&mut self, origin: Origin) {
        self.listener = origin.listener;
        self.peer = origin.peer;
        self.set_certificate(origin.certificate);
    }

    /// What another shard is to know of where it comes from.
    pub(super) fn into_origin(mut self) -> Origin {
        Origin {
            listener: self.listener,
            peer: self.peer,
            certificate: self.rare_mut().and_then(|rare| rare.certificate.take()),
            is_handed_over: true,
        }
    }

    /// Silence of more than that ends it; `None`: no silence does.
    pub(super) fn set_patience(&mut self, patience: Option<Duration>) {
        self.patience_ms = patience.map(|patience| {
            let ms = patience.as_nanos().div_ceil(1_000_000);
            let ms = u32::try_from(ms).unwrap_or(u32::MAX);
            NonZeroU32::new(ms).unwrap_or(NonZeroU32::MIN)
        });
    }

    /// The Session of a connection whose CONNECT was accepted.
    pub(super) fn session(&self) -> Option<SessionKey> {
        match self.phase {
            Phase::Connected(session) => Some(session),
            Phase::AwaitingConnect | Phase::Closing => None,
        }
    }

    /// Bytes the Client has not been sent.
    pub(super) fn pending(&self) -> usize {
        self.outbox.len() + self.unsent
    }

    /// Makes room for one more QoS 0 message, of `size` bytes, beyond an outbox that is full, if fewer wait in it than
    /// might in a queue. `beyond` is what all connections have in this way, `used` what is in all queues and Wills.
    #[cold]
    #[inline(never)]
    pub(super) fn reach_beyond_outbox(
        &mut self,
        size: usize,
        limits: &Limits,
        used: usize,
        beyond: &mut usize,
    ) -> bool {
        let pending = self.pending();
        // What fills the outbox counts as one.
        let count = self.rare().map_or(0, |rare| rare.beyond_count);
        let count = count.div_ceil(ONE_MESSAGE) as usize + 1;
        if count >= limits.max_queued_messages || pending + size > limits.max_queued_bytes {
            return false;
        }
        let had = self.beyond_outbox();
        let has = pending + size - limits.outbox_bytes_max;
        let all = *beyond - had + has;
        if used.saturating_add(all) > limits.memory_bytes_max {
            return false;
        }
        *beyond = all;
        let rare = self.make_rare();
        rare.beyond_outbox = has;
        rare.beyond_count += ONE_MESSAGE;
        true
    }

    /// Bytes it has in this way.
    pub(super) fn beyond_outbox(&self) -> usize {
        self.rare().map_or(0, |rare| rare.beyond_outbox)
    }

    /// Bytes that it has not been sent without those, of which answers to what it sends are the part that has no other bound.
    #[inline]
    pub(super) fn answers(&self) -> usize {
        self.pending().saturating_sub(self.beyond_outbox())
    }

    /// Gives back what it has of that and does not need any more.
    // HOT: per connection and turn.
    #[inline]
    pub(super) fn leave_beyond_outbox(&mut self, outbox_bytes_max: usize, beyond: &mut usize) {
        if let Some(rare) = &mut self.rare
            && rare.beyond_outbox > 0
        {
            let pending = self.outbox.len() + self.unsent;
            let needs = pending.saturating_sub(outbox_bytes_max);
            let has = rare.beyond_outbox.min(needs);
            // As many have left as the bytes say, if all are of one size. Never more: they would be without end.
            let left = u128::from(rare.beyond_count) * has as u128;
            rare.beyond_count = left.div_ceil(rare.beyond_outbox as u128) as u64;
            *beyond -= rare.beyond_outbox - has;
            rare.beyond_outbox = has;
        }
    }

    /// When silence becomes a time-out.
    pub(super) fn deadline(&self) -> Option<Instant> {
        let patience_ms = u64::from(self.patience_ms?.get());
        Some(self.last_packet_at + Duration::from_millis(patience_ms))
    }
}
