//! What is said about Sessions and retained messages.

#![forbid(unsafe_code)]

use super::WallClock;
use super::bytes::{Reader, put_bytes, put_option, put_u16, put_u32, put_u64};
use crate::codec::{RetainHandling, SubscriptionOptions};
use crate::key::{PacketIdentifier, ShardId};
use crate::message::{Message, MessageRef, QoS};
use crate::origin::{Identity, ListenerId};
use crate::router::RetainedVersion;
use crate::topic::{TopicFilter, TopicName};
use std::num::NonZeroU32;

/// An Application Message as it is stored: its lifetime ends at a moment of the calendar.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoredMessage<'a> {
    /// Topic Name.
    pub topic_name: &'a str,
    /// Encoded properties, as [`MessageRef::properties`].
    pub properties: &'a [u8],
    /// Application data.
    pub payload: &'a [u8],
    /// The publisher's QoS.
    pub qos: QoS,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// When it must no longer be delivered, milliseconds since 1970.
    pub expires_at_ms: Option<u64>,
}

impl<'a> StoredMessage<'a> {
    /// The stored form of a message.
    ///
    /// # Panics
    /// If its topic is not UTF-8, which the core has checked.
    #[must_use]
    pub fn new(message: MessageRef<'a>, clock: WallClock) -> Self {
        Self {
            topic_name: std::str::from_utf8(message.topic_name).expect("a Topic Name is UTF-8"),
            properties: message.properties,
            payload: message.payload,
            qos: message.qos,
            retain: message.retain,
            expires_at_ms: message.expires_at.map(|at| clock.ms(at)),
        }
    }

    /// The message as the core has it.
    #[must_use]
    pub fn to_message(&self, clock: WallClock) -> Message {
        Message::new(MessageRef {
            topic_name: self.topic_name.as_bytes(),
            properties: self.properties,
            payload: self.payload,
            qos: self.qos,
            retain: self.retain,
            expires_at: self.expires_at_ms.map(|ms| clock.instant(ms)),
        })
    }

    /// As [`digest`].
    pub(super) fn digest(&self) -> Digest {
        digest(self.topic_name.as_bytes(), self.properties, self.payload)
    }

    fn encode(&self, out: &mut Vec<u8>) {
        out.push(self.qos as u8 | u8::from(self.retain) << 2);
        put_option(out, self.expires_at_ms);
        put_bytes(out, self.topic_name.as_bytes());
        put_bytes(out, self.properties);
        put_bytes(out, self.payload);
    }

    #[inline(always)]
    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let flags = reader.u8()?;
        let expires_at_ms = reader.option()?;
        let topic_name = reader.text()?;
        TopicName::new(topic_name).ok()?;
        Some(Self {
            topic_name,
            properties: reader.bytes()?,
            payload: reader.bytes()?,
            qos: QoS::from_bits(flags & 3)?,
            retain: flags & 4 != 0,
            expires_at_ms,
        })
    }
}

/// What tells apart the messages that a Client may send with one Packet Identifier.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Digest(pub(super) u32);

/// That of a message, which is the same whenever it is sent.
#[must_use]
pub fn digest(topic_name: &[u8], properties: &[u8], payload: &[u8]) -> Digest {
    let digest = crc32c::crc32c(topic_name);
    let digest = crc32c::crc32c_append(digest, properties);
    Digest(crc32c::crc32c_append(digest, payload))
}

/// The exchange by which a QoS 2 message reached another shard than its publisher's: what tells, after
/// a crash, whether a repeated PUBLISH has been taken before.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Origin {
    /// The publisher's Session.
    pub session: u64,
    /// Counts the QoS 2 messages of that Session.
    pub exchange: u64,
    /// Its Packet Identifier.
    pub packet_identifier: PacketIdentifier,
}

impl Origin {
    fn encode(self, out: &mut Vec<u8>) {
        put_u64(out, self.session);
        put_u64(out, self.exchange);
        put_u16(out, self.packet_identifier.get());
    }

    fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        Some(Self {
            session: reader.number()?,
            exchange: reader.number()?,
            packet_identifier: PacketIdentifier::new(reader.u16()?)?,
        })
    }
}

/// Who a Client was when its Session or its retained message was stored: access rules are asked about
/// it while it is away.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct StoredIdentity<'a> {
    /// Its Client Identifier.
    pub client_identifier: &'a str,
    /// Its User Name.
    pub username: Option<&'a str>,
    /// The listener it came to, by its place in the configuration.
    pub listener: u16,
    /// The port of that listener, which is more likely to stay; zero if it has none.
    pub port: u16,
}

impl<'a> StoredIdentity<'a> {
    /// The stored form of an identity, with `ports` the ports of all listeners.
    #[must_use]
    pub fn new(identity: &'a Identity, ports: &[u16]) -> Self {
        Self {
            client_identifier: &identity.client_identifier,
            username: identity.username.as_deref(),
            listener: identity.listener.0,
            port: ports
                .get(identity.listener.index())
                .copied()
                .unwrap_or_default(),
        }
    }

    /// The identity among listeners that have `ports` now. One whose listener is gone has none, and
    /// may do what those may that no listener speaks for.
    #[must_use]
    pub fn to_identity(&self, ports: &[u16]) -> Identity {
        let position = match self.port {
            0 => Some(self.listener).filter(|&it| ports.get(usize::from(it)) == Some(&0)),
            port => ports
                .iter()
                .position(|&it| it == port)
                .and_then(|index| u16::try_from(index).ok()),
        };
        Identity {
            client_identifier: self.client_identifier.into(),
            username: self.username.map(Into::into),
            listener: ListenerId(position.unwrap_or(u16::MAX)),
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.client_identifier.as_bytes());
        out.push(u8::from(self.username.is_some()));
        if let Some(username) = self.username {
            put_bytes(out, username.as_bytes());
        }
        put_u16(out, self.listener);
        put_u16(out, self.port);
    }

    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        Some(Self {
            client_identifier: reader.text()?,
            username: match reader.u8()? {
                0 => None,
                1 => Some(reader.text()?),
                _ => return None,
            },
            listener: reader.u16()?,
            port: reader.u16()?,
        })
    }
}

/// A Will that has not been published.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct WillRecord<'a> {
    /// The message; its lifetime begins when it is published.
    pub message: StoredMessage<'a>,
    /// Seconds from the loss of the connection to its publication.
    pub delay_interval_s: u32,
    /// Its lifetime.
    pub message_expiry_interval_s: Option<u32>,
}

/// One thing that is so from now on.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Record<'a> {
    /// A Session exists and has a Network Connection.
    Session {
        /// Its name.
        session: u64,
        /// Whose it is.
        identity: StoredIdentity<'a>,
        /// Seconds it outlives its connection.
        expiry_interval_s: u32,
        /// The place of its next delivery.
        next_sequence: u64,
        /// All of its QoS 2 messages up to this one were taken.
        exchanges: u64,
        /// Messages of QoS 1 and 2 that may be on their way to its Client at a time. `None`: an earlier version of
        /// this program did not say.
        window: Option<u16>,
        /// Its Will.
        will: Option<WillRecord<'a>>,
    },
    /// A Session has no connection any more.
    Detached {
        /// Its name.
        session: u64,
        /// When it ends; `None`: never.
        expires_at_ms: Option<u64>,
        /// When its Will is due; `None`: it has none left.
        will_at_ms: Option<u64>,
    },
    /// The process before ended while a Session had a connection: what waited for it may have been sent, which was not
    /// written down.
    Interrupted {
        /// Its name.
        session: u64,
        /// Of QoS 2, what comes before this place.
        sent_before: u64,
        /// Of QoS 1, what comes before this place.
        left_before: u64,
    },
    /// A Session is over, but what it has left of Shared Subscriptions is on its way to members on
    /// other shards.
    ///
    /// With a [`Record::Session`] behind it, it never was more than a Will on its way to other shards, whose
    /// lifetime has begun. The place of its next delivery is the clock of what that retains.
    Ending {
        /// Its name.
        session: u64,
    },
    /// A Session and all that belongs to it is gone.
    Ended {
        /// Its name.
        session: u64,
    },
    /// A Session has a Subscription.
    Subscribed {
        /// Its name.
        session: u64,
        /// The whole filter.
        filter: &'a str,
        /// What it asks for.
        options: SubscriptionOptions,
        /// Its Subscription Identifier.
        identifier: Option<NonZeroU32>,
        /// Whether it asked for retained messages that no record before this one has all of.
        is_replaying: bool,
    },
    /// It has not any more.
    Unsubscribed {
        /// Its name.
        session: u64,
        /// The whole filter.
        filter: &'a str,
    },
    /// A message that deliveries refer to: those in the same frame, or, if it is `shared`, those until
    /// the next [`Record::SnapshotEnded`].
    Message {
        /// What they call it.
        message: u64,
        /// Whether they come in several frames.
        shared: bool,
        /// The exchange that brought it from another shard.
        origin: Option<Origin>,
        /// The message itself.
        content: StoredMessage<'a>,
    },
    /// A message is owed to a Session.
    Delivery {
        /// The Session.
        session: u64,
        /// Its place. The Packet Identifier follows from it.
        sequence: u64,
        /// The message.
        message: u64,
        /// The QoS of the delivery.
        qos: QoS,
        /// The RETAIN flag the subscriber sees.
        retain: bool,
        /// Whether its PUBLISH may have been sent.
        sent: bool,
        /// The shared subscription it came through, whole.
        share: Option<&'a str>,
        /// Subscription Identifiers, four bytes each, little-endian.
        subscription_identifiers: &'a [[u8; 4]],
    },
    /// The PUBLISH of a delivery is being sent for the first time.
    Sent {
        /// The Session.
        session: u64,
        /// The delivery.
        sequence: u64,
    },
    /// PUBREC has come: PUBCOMP is awaited, the message is no longer needed.
    Released {
        /// The Session.
        session: u64,
        /// The delivery.
        sequence: u64,
    },
    /// A delivery is over, whatever became of it.
    Done {
        /// The Session.
        session: u64,
        /// The delivery.
        sequence: u64,
    },
    /// A QoS 2 message was taken from a Session; its PUBREL is awaited.
    Received {
        /// The Session.
        session: u64,
        /// Its Packet Identifier.
        packet_identifier: PacketIdentifier,
        /// Counts them.
        exchange: u64,
    },
    /// A QoS 2 message of a Session was taken, whatever became of it since.
    Taken {
        /// The Session.
        session: u64,
        /// Which of its messages.
        exchange: u64,
    },
    /// A Session has had the message of an exchange that is not known to have been taken.
    Had {
        /// The exchange.
        origin: Origin,
        /// That of the message. `None`: an earlier version of this program did not say.
        digest: Option<Digest>,
        /// The Session.
        session: u64,
    },
    /// A member of a Shared Subscription has had it, whichever that was.
    GroupHad {
        /// The exchange.
        origin: Origin,
        /// As that of [`Record::Had`].
        digest: Option<Digest>,
        /// The Shared Subscription, whole.
        share: &'a str,
    },
    /// A delivery that a Session of another shard was owed is a delivery of this frame instead.
    HandedOn {
        /// That Session.
        session: u64,
        /// The delivery as that Session has it.
        sequence: u64,
    },
    /// PUBREL has come, or the message was refused: the identifier is free.
    Freed {
        /// The Session.
        session: u64,
        /// The Packet Identifier.
        packet_identifier: PacketIdentifier,
    },
    /// A topic has this retained message; without payload, none.
    Retained {
        /// Which of several writes is the last.
        version: RetainedVersion,
        /// Who published it; `None`: the broker itself.
        source: Option<StoredIdentity<'a>>,
        /// The message.
        content: StoredMessage<'a>,
    },
    /// What still is will be said again.
    SnapshotBegan,
    /// All of it has been.
    SnapshotEnded,
}

const SESSION: u8 = 1;
const DETACHED: u8 = 2;
const ENDED: u8 = 3;
const SUBSCRIBED: u8 = 4;
const UNSUBSCRIBED: u8 = 5;
const MESSAGE: u8 = 6;
const DELIVERY: u8 = 7;
const SENT: u8 = 8;
const RELEASED: u8 = 9;
const DONE: u8 = 10;
const RECEIVED: u8 = 11;
const FREED: u8 = 12;
const RETAINED: u8 = 13;
const SNAPSHOT_BEGAN: u8 = 14;
const SNAPSHOT_ENDED: u8 = 15;
const TAKEN: u8 = 16;
const HAD: u8 = 17;
const ENDING: u8 = 18;
const HANDED_ON: u8 = 19;
const GROUP_HAD: u8 = 20;
const HAD_MESSAGE: u8 = 21;
const GROUP_HAD_MESSAGE: u8 = 22;
const SESSION_WITH_WINDOW: u8 = 23;
const INTERRUPTED: u8 = 24;

// Of a Subscription, beside its options.
const IS_REPLAYING: u8 = 1 << 6;

// Of a message.
const IS_SHARED: u8 = 1;
const HAS_ORIGIN: u8 = 1 << 1;

// Of a delivery, beside its QoS.
const IS_RETAINED: u8 = 1 << 2;
const IS_SENT: u8 = 1 << 3;
const HAS_SHARE: u8 = 1 << 4;
const HAS_IDENTIFIERS: u8 = 1 << 5;

impl<'a> Record<'a> {
    /// Appends the record.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let put_two = |out: &mut Vec<u8>, kind: u8, one: u64, two: u64| {
            out.push(kind);
            put_u64(out, one);
            put_u64(out, two);
        };
        match self {
            Self::Session {
                session,
                identity,
                expiry_interval_s,
                next_sequence,
                exchanges,
                window,
                will,
            } => {
                out.push(match window {
                    Some(_) => SESSION_WITH_WINDOW,
                    None => SESSION,
                });
                put_u64(out, *session);
                identity.encode(out);
                put_u32(out, *expiry_interval_s);
                put_u64(out, *next_sequence);
                put_u64(out, *exchanges);
                if let Some(window) = window {
                    put_u16(out, *window);
                }
                out.push(u8::from(will.is_some()));
                if let Some(will) = will {
                    put_u32(out, will.delay_interval_s);
                    put_option(out, will.message_expiry_interval_s.map(u64::from));
                    will.message.encode(out);
                }
            }
            Self::Detached {
                session,
                expires_at_ms,
                will_at_ms,
            } => {
                out.push(DETACHED);
                put_u64(out, *session);
                put_option(out, *expires_at_ms);
                put_option(out, *will_at_ms);
            }
            Self::Interrupted {
                session,
                sent_before,
                left_before,
            } => {
                put_two(out, INTERRUPTED, *session, *sent_before);
                put_u64(out, *left_before);
            }
            Self::Ending { session } => {
                out.push(ENDING);
                put_u64(out, *session);
            }
            Self::Ended { session } => {
                out.push(ENDED);
                put_u64(out, *session);
            }
            Self::Subscribed {
                session,
                filter,
                options,
                identifier,
                is_replaying,
            } => {
                out.push(SUBSCRIBED);
                put_u64(out, *session);
                out.push(options_to_u8(*options) | flag(*is_replaying, IS_REPLAYING));
                put_u32(out, identifier.map_or(0, NonZeroU32::get));
                put_bytes(out, filter.as_bytes());
            }
            Self::Unsubscribed { session, filter } => {
                out.push(UNSUBSCRIBED);
                put_u64(out, *session);
                put_bytes(out, filter.as_bytes());
            }
            Self::Message {
                message,
                shared,
                origin,
                content,
            } => {
                out.push(MESSAGE);
                put_u64(out, *message);
                out.push(flag(*shared, IS_SHARED) | flag(origin.is_some(), HAS_ORIGIN));
                if let Some(origin) = origin {
                    origin.encode(out);
                }
                content.encode(out);
            }
            Self::Delivery {
                session,
                sequence,
                message,
                qos,
                retain,
                sent,
                share,
                subscription_identifiers,
            } => {
                put_two(out, DELIVERY, *session, *sequence);
                put_u64(out, *message);
                let flags = flag(*retain, IS_RETAINED)
                    | flag(*sent, IS_SENT)
                    | flag(share.is_some(), HAS_SHARE)
                    | flag(!subscription_identifiers.is_empty(), HAS_IDENTIFIERS);
                out.push(*qos as u8 | flags);
                if let Some(share) = share {
                    put_bytes(out, share.as_bytes());
                }
                if !subscription_identifiers.is_empty() {
                    put_bytes(out, subscription_identifiers.as_flattened());
                }
            }
            Self::Sent { session, sequence } => put_two(out, SENT, *session, *sequence),
            Self::HandedOn { session, sequence } => put_two(out, HANDED_ON, *session, *sequence),
            Self::Released { session, sequence } => put_two(out, RELEASED, *session, *sequence),
            Self::Done { session, sequence } => put_two(out, DONE, *session, *sequence),
            Self::Received {
                session,
                packet_identifier,
                exchange,
            } => {
                put_two(out, RECEIVED, *session, *exchange);
                put_u16(out, packet_identifier.get());
            }
            Self::Taken { session, exchange } => put_two(out, TAKEN, *session, *exchange),
            Self::Had {
                origin,
                digest,
                session,
            } => {
                put_had(out, [HAD, HAD_MESSAGE], *origin, *digest);
                put_u64(out, *session);
            }
            Self::GroupHad {
                origin,
                digest,
                share,
            } => {
                put_had(out, [GROUP_HAD, GROUP_HAD_MESSAGE], *origin, *digest);
                put_bytes(out, share.as_bytes());
            }
            Self::Freed {
                session,
                packet_identifier,
            } => {
                out.push(FREED);
                put_u64(out, *session);
                put_u16(out, packet_identifier.get());
            }
            Self::Retained {
                version,
                source,
                content,
            } => {
                out.push(RETAINED);
                put_u64(out, version.clock);
                put_u16(out, version.shard.0);
                out.push(u8::from(source.is_some()));
                if let Some(source) = source {
                    source.encode(out);
                }
                content.encode(out);
            }
            Self::SnapshotBegan => out.push(SNAPSHOT_BEGAN),
            Self::SnapshotEnded => out.push(SNAPSHOT_ENDED),
        }
    }

    fn decode(reader: &mut Reader<'a>) -> Option<Self> {
        let kind = reader.u8()?;
        Some(match kind {
            SESSION | SESSION_WITH_WINDOW => Self::Session {
                session: reader.number()?,
                identity: StoredIdentity::decode(reader)?,
                expiry_interval_s: reader.u32()?,
                next_sequence: reader.number()?,
                exchanges: reader.number()?,
                window: match kind {
                    SESSION_WITH_WINDOW => Some(reader.u16()?),
                    _ => None,
                },
                will: match reader.u8()? {
                    0 => None,
                    1 => Some(WillRecord {
                        delay_interval_s: reader.u32()?,
                        message_expiry_interval_s: match reader.option()? {
                            Some(seconds) => Some(u32::try_from(seconds).ok()?),
                            None => None,
                        },
                        message: StoredMessage::decode(reader)?,
                    }),
                    _ => return None,
                },
            },
            DETACHED => Self::Detached {
                session: reader.number()?,
                expires_at_ms: reader.option()?,
                will_at_ms: reader.option()?,
            },
            INTERRUPTED => Self::Interrupted {
                session: reader.number()?,
                sent_before: reader.number()?,
                left_before: reader.number()?,
            },
            ENDING => Self::Ending {
                session: reader.number()?,
            },
            HANDED_ON => Self::HandedOn {
                session: reader.number()?,
                sequence: reader.number()?,
            },
            ENDED => Self::Ended {
                session: reader.number()?,
            },
            SUBSCRIBED => {
                let session = reader.number()?;
                let flags = reader.u8()?;
                Self::Subscribed {
                    session,
                    options: options_from_u8(flags & !IS_REPLAYING)?,
                    is_replaying: flags & IS_REPLAYING != 0,
                    identifier: NonZeroU32::new(reader.u32()?),
                    filter: filter(reader)?,
                }
            }
            UNSUBSCRIBED => Self::Unsubscribed {
                session: reader.number()?,
                filter: filter(reader)?,
            },
            MESSAGE => {
                let (message, flags) = message_head(reader)?;
                let origin = if flags & HAS_ORIGIN != 0 {
                    Some(Origin::decode(reader)?)
                } else {
                    None
                };
                Self::Message {
                    message,
                    shared: flags & IS_SHARED != 0,
                    origin,
                    content: StoredMessage::decode(reader)?,
                }
            }
            DELIVERY => {
                let ([session, sequence, message], flags) = delivery_head(reader)?;
                let share = if flags & HAS_SHARE != 0 {
                    Some(filter(reader)?)
                } else {
                    None
                };
                let identifiers = if flags & HAS_IDENTIFIERS != 0 {
                    reader.bytes()?
                } else {
                    &[]
                };
                let (subscription_identifiers, []) = identifiers.as_chunks::<4>() else {
                    return None;
                };
                Self::Delivery {
                    session,
                    sequence,
                    message,
                    qos: QoS::from_bits(flags & 3)?,
                    retain: flags & IS_RETAINED != 0,
                    sent: flags & IS_SENT != 0,
                    share,
                    subscription_identifiers,
                }
            }
            SENT => Self::Sent {
                session: reader.number()?,
                sequence: reader.number()?,
            },
            RELEASED => Self::Released {
                session: reader.number()?,
                sequence: reader.number()?,
            },
            DONE => Self::Done {
                session: reader.number()?,
                sequence: reader.number()?,
            },
            RECEIVED => Self::Received {
                session: reader.number()?,
                exchange: reader.number()?,
                packet_identifier: PacketIdentifier::new(reader.u16()?)?,
            },
            TAKEN => Self::Taken {
                session: reader.number()?,
                exchange: reader.number()?,
            },
            HAD | HAD_MESSAGE => Self::Had {
                origin: Origin::decode(reader)?,
                digest: had_digest(reader, kind == HAD_MESSAGE)?,
                session: reader.number()?,
            },
            GROUP_HAD | GROUP_HAD_MESSAGE => Self::GroupHad {
                origin: Origin::decode(reader)?,
                digest: had_digest(reader, kind == GROUP_HAD_MESSAGE)?,
                share: filter(reader)?,
            },
            FREED => Self::Freed {
                session: reader.number()?,
                packet_identifier: PacketIdentifier::new(reader.u16()?)?,
            },
            RETAINED => Self::Retained {
                version: RetainedVersion {
                    clock: reader.number()?,
                    shard: ShardId(reader.u16()?),
                },
                source: match reader.u8()? {
                    0 => None,
                    1 => Some(StoredIdentity::decode(reader)?),
                    _ => return None,
                },
                content: StoredMessage::decode(reader)?,
            },
            SNAPSHOT_BEGAN => Self::SnapshotBegan,
            SNAPSHOT_ENDED => Self::SnapshotEnded,
            _ => return None,
        })
    }
}

const fn flag(is_set: bool, flag: u8) -> u8 {
    if is_set { flag } else { 0 }
}

/// Who has had which message: of the second kind if it is known which.
fn put_had(out: &mut Vec<u8>, kinds: [u8; 2], origin: Origin, digest: Option<Digest>) {
    out.push(kinds[usize::from(digest.is_some())]);
    origin.encode(out);
    if let Some(Digest(digest)) = digest {
        put_u32(out, digest);
    }
}

fn had_digest(reader: &mut Reader<'_>, is_known: bool) -> Option<Option<Digest>> {
    if is_known {
        reader.u32().map(|digest| Some(Digest(digest)))
    } else {
        Some(None)
    }
}

/// The name of a message and the flags of its record.
#[inline(always)]
fn message_head(reader: &mut Reader<'_>) -> Option<(u64, u8)> {
    Some((reader.number()?, reader.u8()?))
}

/// Session, place and message of a delivery, and the flags of its record.
#[inline(always)]
fn delivery_head(reader: &mut Reader<'_>) -> Option<([u64; 3], u8)> {
    let names = [reader.number()?, reader.number()?, reader.number()?];
    Some((names, reader.u8()?))
}

fn filter<'a>(reader: &mut Reader<'a>) -> Option<&'a str> {
    let filter = reader.text()?;
    TopicFilter::new(filter).ok()?;
    Some(filter)
}

fn options_to_u8(options: SubscriptionOptions) -> u8 {
    options.qos as u8
        | u8::from(options.no_local) << 2
        | u8::from(options.retain_as_published) << 3
        | (options.retain_handling as u8) << 4
}

fn options_from_u8(value: u8) -> Option<SubscriptionOptions> {
    Some(SubscriptionOptions {
        qos: QoS::from_bits(value & 3)?,
        no_local: value & 4 != 0,
        retain_as_published: value & 8 != 0,
        retain_handling: match value >> 4 {
            0 => RetainHandling::Send,
            1 => RetainHandling::SendIfNew,
            2 => RetainHandling::DoNotSend,
            _ => return None,
        },
    })
}

/// What most of a long log is, without what is rare.
pub(super) enum Common<'a> {
    /// A [`Record::Message`] of which nobody else knows.
    Message {
        message: u64,
        content: StoredMessage<'a>,
    },
    /// A [`Record::Delivery`] for a Subscription of the Session's own, without Subscription Identifiers.
    Delivery {
        session: u64,
        sequence: u64,
        message: u64,
        qos: QoS,
        retain: bool,
        sent: bool,
    },
}

/// The records of a frame. Ends with one that cannot be read.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: Reader<'a>,
    is_broken: bool,
}

/// A record whose checksum is right and that makes no sense: it was written by something else.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("a record that no version of this program writes")]
pub struct UnknownRecord;

impl<'a> Records<'a> {
    /// The records in `payload`.
    #[must_use]
    pub const fn new(payload: &'a [u8]) -> Self {
        Self {
            rest: Reader(payload),
            is_broken: false,
        }
    }

    /// The next record if it is one of those that most of a long log is. Any other stays where it is.
    #[inline(always)]
    pub(super) fn next_common(&mut self) -> Option<Common<'a>> {
        let mut reader = self.rest.clone();
        let common = match reader.u8()? {
            MESSAGE => {
                let (message, flags) = message_head(&mut reader)?;
                if flags & (IS_SHARED | HAS_ORIGIN) != 0 {
                    return None;
                }
                Common::Message {
                    message,
                    content: StoredMessage::decode(&mut reader)?,
                }
            }
            DELIVERY => {
                let ([session, sequence, message], flags) = delivery_head(&mut reader)?;
                if flags & (HAS_SHARE | HAS_IDENTIFIERS) != 0 {
                    return None;
                }
                Common::Delivery {
                    session,
                    sequence,
                    message,
                    qos: QoS::from_bits(flags & 3)?,
                    retain: flags & IS_RETAINED != 0,
                    sent: flags & IS_SENT != 0,
                }
            }
            _ => return None,
        };
        self.rest = reader;
        Some(common)
    }

    /// Bytes that were not read.
    pub(super) const fn left(&self) -> usize {
        self.rest.0.len()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Result<Record<'a>, UnknownRecord>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.0.is_empty() || self.is_broken {
            return None;
        }
        let record = Record::decode(&mut self.rest).ok_or(UnknownRecord);
        self.is_broken = record.is_err();
        Some(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::journal::NUMBER_MAX;
    use proptest::prelude::*;

    fn message<'a>() -> StoredMessage<'a> {
        StoredMessage {
            topic_name: "a/b",
            properties: b"\x01\x01",
            payload: b"payload",
            qos: QoS::ExactlyOnce,
            retain: true,
            expires_at_ms: Some(77),
        }
    }

    fn samples() -> Vec<Record<'static>> {
        let identifier = PacketIdentifier::new(513).unwrap();
        let origin = Origin {
            session: 3,
            exchange: 4,
            packet_identifier: identifier,
        };
        let nobody = StoredIdentity {
            client_identifier: "",
            username: None,
            listener: 0,
            port: 0,
        };
        let plain = StoredMessage {
            expires_at_ms: None,
            retain: false,
            payload: b"",
            ..message()
        };
        vec![
            Record::Session {
                session: 1,
                identity: StoredIdentity {
                    client_identifier: "client",
                    username: Some("user"),
                    listener: 2,
                    port: 1883,
                },
                expiry_interval_s: 60,
                next_sequence: 9,
                exchanges: 3,
                window: Some(20),
                will: None,
            },
            Record::Session {
                session: 1,
                identity: nobody,
                expiry_interval_s: u32::MAX,
                next_sequence: 0,
                exchanges: 0,
                window: None,
                will: Some(WillRecord {
                    message: message(),
                    delay_interval_s: 5,
                    message_expiry_interval_s: Some(0),
                }),
            },
            Record::Detached {
                session: 2,
                expires_at_ms: Some(0),
                will_at_ms: None,
            },
            Record::Interrupted {
                session: 2,
                sent_before: 3,
                left_before: 5,
            },
            Record::Ended {
                session: NUMBER_MAX,
            },
            Record::Subscribed {
                session: 4,
                filter: "$share/g/+/#",
                options: SubscriptionOptions {
                    qos: QoS::AtLeastOnce,
                    no_local: true,
                    retain_as_published: true,
                    retain_handling: RetainHandling::DoNotSend,
                },
                identifier: NonZeroU32::new(7),
                is_replaying: true,
            },
            Record::Unsubscribed {
                session: 4,
                filter: "#",
            },
            Record::Message {
                message: 8,
                shared: true,
                origin: Some(origin),
                content: message(),
            },
            Record::Message {
                message: 8,
                shared: false,
                origin: None,
                content: plain,
            },
            Record::Delivery {
                session: 1,
                sequence: 2,
                message: 8,
                qos: QoS::AtLeastOnce,
                retain: true,
                sent: true,
                share: Some("$share/g/t"),
                subscription_identifiers: &[[1, 0, 0, 0], [2, 0, 0, 0]],
            },
            Record::Delivery {
                session: 1,
                sequence: 2,
                message: 8,
                qos: QoS::ExactlyOnce,
                retain: false,
                sent: false,
                share: None,
                subscription_identifiers: &[],
            },
            Record::Sent {
                session: 1,
                sequence: 2,
            },
            Record::Released {
                session: 1,
                sequence: 2,
            },
            Record::Done {
                session: 1,
                sequence: 2,
            },
            Record::Received {
                session: 1,
                packet_identifier: identifier,
                exchange: 12,
            },
            Record::Freed {
                session: 1,
                packet_identifier: identifier,
            },
            Record::Taken {
                session: 1,
                exchange: 12,
            },
            Record::Ending { session: 1 },
            Record::HandedOn {
                session: 2,
                sequence: 5,
            },
            Record::Had {
                origin,
                digest: Some(digest(b"t", b"", b"x")),
                session: 1,
            },
            Record::Had {
                origin,
                digest: None,
                session: 1,
            },
            Record::GroupHad {
                origin,
                digest: Some(digest(b"t", b"", b"x")),
                share: "$share/g/a/+",
            },
            Record::GroupHad {
                origin,
                digest: None,
                share: "$share/g/a/+",
            },
            Record::Retained {
                version: RetainedVersion {
                    clock: 5,
                    shard: ShardId(3),
                },
                source: Some(nobody),
                content: message(),
            },
            Record::Retained {
                version: RetainedVersion {
                    clock: 0,
                    shard: ShardId(0),
                },
                source: None,
                content: message(),
            },
            Record::SnapshotBegan,
            Record::SnapshotEnded,
        ]
    }

    #[test]
    fn every_record_is_read_back_as_it_was_written() {
        let mut bytes = Vec::new();
        for record in samples() {
            record.encode(&mut bytes);
        }
        let read: Vec<_> = Records::new(&bytes).map(Result::unwrap).collect();
        assert_eq!(read, samples());
    }

    #[test]
    fn a_record_with_a_number_that_nobody_can_have_counted_to_is_refused() {
        for (session, is_read) in [
            (NUMBER_MAX, true),
            (NUMBER_MAX + 1, false),
            (u64::MAX, false),
        ] {
            let mut bytes = Vec::new();
            Record::Ended { session }.encode(&mut bytes);
            let read = Records::new(&bytes).next().unwrap();
            assert_eq!(read.is_ok(), is_read, "{session}");
        }
    }

    #[test]
    fn a_record_that_is_cut_off_is_refused() {
        for record in samples() {
            let mut bytes = Vec::new();
            record.encode(&mut bytes);
            for size in 1..bytes.len() {
                let last = Records::new(&bytes[..size]).last().unwrap();
                assert_eq!(last, Err(UnknownRecord), "{record:?} cut to {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes: Vec<u8>, index: prop::sample::Index, flip: u8) {
            for record in Records::new(&bytes) {
                let _ = record;
            }
            let mut bytes = Vec::new();
            for record in samples() {
                record.encode(&mut bytes);
            }
            let at = index.index(bytes.len());
            bytes[at] ^= flip;
            for record in Records::new(&bytes) {
                let _ = record;
            }
        }
    }
}
