//! Mosquitto's persistence file: a header, then chunks one after another.
//!
//! ```text
//! 00 B5 00 "mosquitto db"   checksum (unused)   version
//! type   length   fields of fixed size   texts, payload, properties    and so on to the end
//! ```
//!
//! Type, length, version and most numbers are big-endian. Moments and the names of messages are as the
//! machine that wrote them keeps numbers, padding included, since structures were written as they lay in
//! memory. Versions 5 (Mosquitto 1.6) and 6 (2.0 and 2.1) differ in what is said of a Session.
//!
//! **Knows nothing of** what a chunk means for fastmq: `sessions.rs` does.
//!
//! # Always true
//! - No bytes panic, and no length in the file is believed before that much is known to be there.
//! - A chunk is as long as its parts, or the file is refused: nothing is guessed.

#![forbid(unsafe_code)]

use std::io::{self, Read};

/// What the file begins with.
const MAGIC: &[u8; 15] = b"\x00\xB5\x00mosquitto db";
/// With the checksum, which Mosquitto neither fills in nor reads, and the version.
const HEADER_SIZE: usize = MAGIC.len() + 8;
const CHUNK_HEADER_SIZE: usize = 8;
/// Largest chunk: a message of the largest payload MQTT knows, with as much for all the rest of it.
const CHUNK_SIZE_MAX: u64 = 2 * 268_435_455;
/// Bytes that Mosquitto's names of messages have.
const NAME_SIZE: u8 = 8;
/// Seconds since 1970 that nobody means: from there on the other byte order is tried.
const MOMENT_MAX: u64 = 1 << 38;

/// The file is not what this program reads.
#[derive(Debug, thiserror::Error)]
#[error("offset {offset}: {problem}")]
pub struct DatabaseError {
    /// Where what was found begins.
    pub offset: u64,
    /// What was found.
    pub problem: Problem,
}

/// What is wrong at a place of the file.
#[derive(Debug, thiserror::Error)]
pub enum Problem {
    /// The beginning is another one.
    #[error("not a database of Mosquitto")]
    Magic,
    /// A version nobody knows here.
    #[error("version {version}; this program reads 5 and 6{}", advice(*version))]
    Version {
        /// The version.
        version: u32,
    },
    /// The end comes too early.
    #[error("the file ends in the middle of {what}: {wanted} bytes were to come, {left} are left")]
    CutOff {
        /// In what.
        what: &'static str,
        /// Bytes there should be.
        wanted: u64,
        /// Bytes there are.
        left: u64,
    },
    /// No chunk can be so large.
    #[error("a chunk of {size} bytes")]
    ChunkSize {
        /// Its size.
        size: u64,
    },
    /// A chunk of a kind nobody knows here.
    #[error("a chunk of the unknown type {kind}")]
    ChunkType {
        /// Its kind.
        kind: u32,
    },
    /// The parts of a chunk do not come to its length.
    #[error("{what} whose parts do not come to its {size} bytes")]
    ChunkParts {
        /// What it is.
        what: &'static str,
        /// Bytes of it.
        size: usize,
    },
    /// A number that does not stand for anything.
    #[error("{what} {value}, which means nothing")]
    Value {
        /// Which number.
        what: &'static str,
        /// It.
        value: i64,
    },
    /// Messages have names of another size.
    #[error("names of messages have {size} bytes; this program reads {NAME_SIZE}")]
    NameSize {
        /// Their size.
        size: u8,
    },
    /// The disk refuses.
    #[error("{0}")]
    Io(io::Error),
}

fn advice(version: u32) -> &'static str {
    match version {
        2..=4 => {
            ". Mosquitto 1.5 and older wrote it: start a Mosquitto 2 with it once, and stop it, to have it \
             written anew"
        }
        _ => "",
    }
}

/// One thing that the file says.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Chunk<'a> {
    /// About the file itself.
    Configuration {
        /// Whether Mosquitto wrote it when it ended, so that nothing came after it.
        is_last: bool,
    },
    /// An Application Message that others refer to.
    Message(MessageChunk<'a>),
    /// A message on its way to or from a Client.
    Delivery(DeliveryChunk<'a>),
    /// A topic has this retained message.
    Retained {
        /// The name of the message.
        message: u64,
    },
    /// A Subscription.
    Subscription(SubscriptionChunk<'a>),
    /// A Session.
    Session(SessionChunk<'a>),
}

/// An Application Message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct MessageChunk<'a> {
    /// Its name in this file.
    pub message: u64,
    /// When it must no longer be delivered, seconds since 1970.
    pub expires_at_s: Option<u64>,
    /// Client Identifier of who published it; empty for Mosquitto itself.
    pub source: &'a [u8],
    /// User Name of who published it; empty for none.
    pub source_username: &'a [u8],
    /// Port of the listener that it came to; zero for none.
    pub source_port: u16,
    /// The publisher's QoS.
    pub qos: u8,
    /// The publisher's RETAIN flag.
    pub retain: bool,
    /// Topic Name.
    pub topic_name: &'a [u8],
    /// Application data.
    pub payload: &'a [u8],
    /// Properties with their length in front, or nothing.
    pub properties: &'a [u8],
}

/// A message on its way to or from a Client.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct DeliveryChunk<'a> {
    /// Whose it is.
    pub client_identifier: &'a [u8],
    /// The name of the message.
    pub message: u64,
    /// Packet Identifier; of a message that was never sent it binds nobody.
    pub packet_identifier: u16,
    /// Its QoS.
    pub qos: u8,
    /// The RETAIN flag that the Client sees.
    pub retain: bool,
    /// From the Client, rather than to it.
    pub is_incoming: bool,
    /// How far it has come.
    pub state: DeliveryState,
    /// Properties with their length in front, or nothing: the Subscription Identifiers.
    pub properties: &'a [u8],
}

/// How far a message has come.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum DeliveryState {
    /// It waits for room or for a connection.
    Queued,
    /// PUBLISH may have been sent, or has come.
    Published,
    /// PUBREL may have been sent: PUBCOMP is awaited.
    Released,
}

/// A Subscription.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SubscriptionChunk<'a> {
    /// Whose it is.
    pub client_identifier: &'a [u8],
    /// Its Topic Filter.
    pub topic_filter: &'a [u8],
    /// Its Subscription Identifier; zero for none.
    pub identifier: u32,
    /// Its Subscription Options, as in SUBSCRIBE.
    pub options: u8,
}

/// A Session.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct SessionChunk<'a> {
    /// Whose it is.
    pub client_identifier: &'a [u8],
    /// The User Name it had; empty for none, and in version 5.
    pub username: &'a [u8],
    /// Port of the listener that it came to; zero for none, and in version 5.
    pub listener_port: u16,
    /// When it ends, seconds since 1970.
    pub expires_at_s: Option<u64>,
    /// Session Expiry Interval.
    pub expiry_interval_s: u32,
    /// The Packet Identifier that was given out last.
    pub last_packet_identifier: u16,
}

/// The chunks of a file, one at a time.
#[derive(Debug)]
pub struct Database<R> {
    input: R,
    /// Bytes of the file.
    size: u64,
    /// Bytes read.
    offset: u64,
    version: u32,
    body: Vec<u8>,
}

impl<R: Read> Database<R> {
    /// Reads the header of `input`, a file of `size` bytes.
    ///
    /// # Errors
    /// [`DatabaseError`].
    pub fn open(input: R, size: u64) -> Result<Self, DatabaseError> {
        let mut database = Self {
            input,
            size,
            offset: 0,
            version: 0,
            body: Vec::new(),
        };
        let mut header = [0; HEADER_SIZE];
        let known = size.min(MAGIC.len() as u64) as usize;
        // Of a short file that begins as one should, it is the end that is missing.
        if let Some(magic) = header.get_mut(..known) {
            database.read(magic)?;
        }
        if header.get(..known) != MAGIC.get(..known) || known == 0 {
            return Err(database.error(0, Problem::Magic));
        }
        database.expect(0, "the header", HEADER_SIZE as u64, size)?;
        let mut rest = [0; HEADER_SIZE - MAGIC.len()];
        database.read(&mut rest)?;
        let [_, _, _, _, version @ ..] = rest;
        database.version = u32::from_be_bytes(version);
        match database.version {
            5 | 6 => Ok(database),
            version => Err(database.error(MAGIC.len() as u64 + 4, Problem::Version { version })),
        }
    }

    /// The version of the file.
    #[must_use]
    pub fn version(&self) -> u32 {
        self.version
    }

    /// The next chunk; `None` at the end.
    ///
    /// # Errors
    /// [`DatabaseError`]; there is nothing to be had of the file after it.
    pub fn next_chunk(&mut self) -> Result<Option<Chunk<'_>>, DatabaseError> {
        let start = self.offset;
        let left = self.size.saturating_sub(start);
        if left == 0 {
            return Ok(None);
        }
        self.expect(start, "the head of a chunk", CHUNK_HEADER_SIZE as u64, left)?;
        let mut header = [0; CHUNK_HEADER_SIZE];
        self.read(&mut header)?;
        let [a, b, c, d, size @ ..] = header;
        let kind = u32::from_be_bytes([a, b, c, d]);
        let size = u64::from(u32::from_be_bytes(size));
        let what = match kind {
            1 => "the file's own chunk",
            2 => "a message",
            3 => "a message of a client",
            4 => "a retained message",
            5 => "a subscription",
            6 => "a client",
            _ => return Err(self.error(start, Problem::ChunkType { kind })),
        };
        self.expect(start, what, size, left - CHUNK_HEADER_SIZE as u64)?;
        if size > CHUNK_SIZE_MAX {
            return Err(self.error(start, Problem::ChunkSize { size }));
        }
        let mut body = std::mem::take(&mut self.body);
        body.clear();
        body.resize(size as usize, 0);
        let result = self.read(&mut body);
        self.body = body;
        result?;
        let fields = Fields(&self.body);
        let chunk = match kind {
            1 => configuration(fields),
            2 => message(fields),
            3 => delivery(fields),
            4 => retained(fields),
            5 => subscription(fields),
            _ => session(fields, self.version),
        };
        match chunk {
            Ok(chunk) => Ok(Some(chunk)),
            Err(wrong) => Err(DatabaseError {
                offset: start,
                problem: match wrong {
                    Wrong::Parts => Problem::ChunkParts {
                        what,
                        size: self.body.len(),
                    },
                    Wrong::Other(problem) => problem,
                },
            }),
        }
    }

    fn expect(
        &self,
        offset: u64,
        what: &'static str,
        wanted: u64,
        left: u64,
    ) -> Result<(), DatabaseError> {
        if wanted > left {
            return Err(self.error(offset, Problem::CutOff { what, wanted, left }));
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<(), DatabaseError> {
        let result = self.input.read_exact(buffer);
        result.map_err(|error| self.error(self.offset, Problem::Io(error)))?;
        self.offset += buffer.len() as u64;
        Ok(())
    }

    fn error(&self, offset: u64, problem: Problem) -> DatabaseError {
        DatabaseError { offset, problem }
    }
}

/// Why a chunk was not read.
enum Wrong {
    Parts,
    Other(Problem),
}

fn value<T>(what: &'static str, value: impl Into<i64>) -> Result<T, Wrong> {
    let value = value.into();
    Err(Wrong::Other(Problem::Value { what, value }))
}

/// What of a chunk has not been read.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn bytes(&mut self, size: impl Into<u64>) -> Result<&'a [u8], Wrong> {
        let size = usize::try_from(size.into()).map_err(|_| Wrong::Parts)?;
        let (bytes, rest) = self.0.split_at_checked(size).ok_or(Wrong::Parts)?;
        self.0 = rest;
        Ok(bytes)
    }

    fn array<const SIZE: usize>(&mut self) -> Result<[u8; SIZE], Wrong> {
        let (bytes, rest) = self.0.split_first_chunk().ok_or(Wrong::Parts)?;
        self.0 = rest;
        Ok(*bytes)
    }

    fn u8(&mut self) -> Result<u8, Wrong> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, Wrong> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, Wrong> {
        self.array().map(u32::from_be_bytes)
    }

    /// The name of a message, which is only ever compared: its byte order does not matter.
    fn name(&mut self) -> Result<u64, Wrong> {
        self.array().map(u64::from_le_bytes)
    }

    /// Seconds since 1970; `None` for zero. Of the two byte orders the one that makes sense.
    fn moment(&mut self, what: &'static str) -> Result<Option<u64>, Wrong> {
        let bytes = self.array()?;
        match [u64::from_le_bytes(bytes), u64::from_be_bytes(bytes)] {
            [0, _] => Ok(None),
            [seconds @ ..MOMENT_MAX, _] | [_, seconds @ ..MOMENT_MAX] => Ok(Some(seconds)),
            _ => value(what, i64::from_le_bytes(bytes)),
        }
    }

    fn qos(&mut self) -> Result<u8, Wrong> {
        match self.u8()? {
            qos @ 0..=2 => Ok(qos),
            qos => value("QoS", qos),
        }
    }

    fn end(self) -> Result<(), Wrong> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(Wrong::Parts)
        }
    }
}

fn configuration(mut fields: Fields<'_>) -> Result<Chunk<'_>, Wrong> {
    let _last_name = fields.name()?;
    let is_last = fields.u8()? != 0;
    let size = fields.u8()?;
    if size != NAME_SIZE {
        return Err(Wrong::Other(Problem::NameSize { size }));
    }
    // As much padding as the machine wanted.
    match fields.0.len() {
        2 | 6 => Ok(Chunk::Configuration { is_last }),
        _ => Err(Wrong::Parts),
    }
}

fn message(mut fields: Fields<'_>) -> Result<Chunk<'_>, Wrong> {
    let message = fields.name()?;
    let expires_at_s = fields.moment("the expiry of a message")?;
    let payload_size = fields.u32()?;
    let _source_packet_identifier = fields.u16()?;
    let source_size = fields.u16()?;
    let source_username_size = fields.u16()?;
    let topic_size = fields.u16()?;
    let source_port = fields.u16()?;
    let qos = fields.qos()?;
    let retain = fields.u8()? != 0;
    Ok(Chunk::Message(MessageChunk {
        message,
        expires_at_s,
        source_port,
        qos,
        retain,
        source: fields.bytes(source_size)?,
        source_username: fields.bytes(source_username_size)?,
        topic_name: fields.bytes(topic_size)?,
        payload: fields.bytes(payload_size)?,
        properties: fields.0,
    }))
}

fn delivery(mut fields: Fields<'_>) -> Result<Chunk<'_>, Wrong> {
    let message = fields.name()?;
    let packet_identifier = fields.u16()?;
    let identifier_size = fields.u16()?;
    let qos = fields.qos()?;
    let state = match fields.u8()? {
        // To be sent, sent and not acknowledged, or come from the Client and in need of an answer.
        1..=5 | 7 | 8 | 10 => DeliveryState::Published,
        6 | 9 => DeliveryState::Released,
        11 => DeliveryState::Queued,
        state => return value("the state of a message", state),
    };
    let retain = fields.u8()? >> 4 != 0;
    let is_incoming = match fields.u8()? {
        0 => true,
        1 => false,
        direction => return value("the direction of a message", direction),
    };
    if packet_identifier == 0 && qos > 0 && state != DeliveryState::Queued {
        return value("the Packet Identifier of a message", packet_identifier);
    }
    Ok(Chunk::Delivery(DeliveryChunk {
        message,
        packet_identifier,
        qos,
        retain,
        is_incoming,
        state,
        client_identifier: fields.bytes(identifier_size)?,
        properties: fields.0,
    }))
}

fn retained(mut fields: Fields<'_>) -> Result<Chunk<'_>, Wrong> {
    let message = fields.name()?;
    fields.end()?;
    Ok(Chunk::Retained { message })
}

fn subscription(mut fields: Fields<'_>) -> Result<Chunk<'_>, Wrong> {
    let identifier = fields.u32()?;
    let identifier_size = fields.u16()?;
    let filter_size = fields.u16()?;
    let qos = fields.qos()?;
    let options = fields.u8()?;
    let _padding: [u8; 2] = fields.array()?;
    let client_identifier = fields.bytes(identifier_size)?;
    let topic_filter = fields.bytes(filter_size)?;
    fields.end()?;
    Ok(Chunk::Subscription(SubscriptionChunk {
        client_identifier,
        topic_filter,
        identifier,
        options: options & !0b11 | qos,
    }))
}

fn session(mut fields: Fields<'_>, version: u32) -> Result<Chunk<'_>, Wrong> {
    let expires_at_s = fields.moment("the end of a session")?;
    let expiry_interval_s = fields.u32()?;
    let last_packet_identifier = fields.u16()?;
    let identifier_size = fields.u16()?;
    let (mut listener_port, mut username_size) = (0, 0);
    if version >= 6 {
        listener_port = fields.u16()?;
        username_size = fields.u16()?;
        let texts_size = usize::from(identifier_size) + usize::from(username_size);
        // As much padding as the machine wanted.
        if fields.0.len() == texts_size + 4 {
            let _padding: [u8; 4] = fields.array()?;
        }
    }
    let client_identifier = fields.bytes(identifier_size)?;
    let username = fields.bytes(username_size)?;
    fields.end()?;
    Ok(Chunk::Session(SessionChunk {
        client_identifier,
        username,
        listener_port,
        expires_at_s,
        expiry_interval_s,
        last_packet_identifier,
    }))
}
