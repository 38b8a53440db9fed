//! A WebSocket, the server's side of it: frames around a stream of MQTT Control Packets.
//!
//! A packet may be cut by frames and a frame may hold many packets [MQTT-6.0.0-2], so payload goes on as
//! it comes and no frame is ever held. What is sent has a frame for each packet. The header is read and written by tungstenite's codec; its
//! message layer would hold whole messages.

#![forbid(unsafe_code)]

use super::upgrade::{self, Granted, Refusal, WebSocketOptions};
use crate::codec::decode_fixed_header;
use crate::limits::PACKET_SIZE_MAX;
use bytes::Bytes;
use smallvec::SmallVec;
use std::io::Cursor;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};

/// Longest frame header: two bytes, a length of eight, a mask of four.
const HEADER_SIZE_MAX: usize = 14;
/// First byte of a frame that is a whole binary message, and size of a payload from which on more than the second byte
/// tells its length.
const FINAL_BINARY: u8 = 0x82;
const LONG_PAYLOAD: u8 = 126;
/// Bytes that there is room for at once for the frame headers of small packets.
const FRAMES_ROOM: usize = 4096;
/// Longest fixed header of a packet.
const FIXED_HEADER_SIZE_MAX: usize = 5;
/// Largest payload of a control frame.
const CONTROL_SIZE_MAX: usize = 125;
/// Largest frame, and all fragments of a message together. Nothing is held of them, but a peer that
/// announces more than the largest packet does not speak MQTT.
const MESSAGE_SIZE_MAX: u64 = PACKET_SIZE_MAX as u64;

/// The peer does not speak MQTT over a WebSocket. It is told so, and the connection ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum WebSocketError {
    /// Its request was not granted.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// It broke RFC 6455.
    #[error("WebSocket protocol error: {0}")]
    Protocol(&'static str),
    /// It sent a text frame [MQTT-6.0.0-1].
    #[error("WebSocket frame that is not binary")]
    NotBinary,
    /// A frame or message larger than the largest packet.
    #[error("WebSocket message larger than any packet")]
    TooLarge,
}

impl WebSocketError {
    fn close_code(self) -> CloseCode {
        match self {
            Self::Refused(_) | Self::Protocol(_) => CloseCode::Protocol,
            Self::NotBinary => CloseCode::Unsupported,
            Self::TooLarge => CloseCode::Size,
        }
    }
}

/// Whether more is to come from the peer.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Received {
    More,
    /// The peer has closed, or is served: it gets no more than the answers that are there.
    Last,
}

/// One connection's WebSocket, or what is to become one.
#[derive(Debug, Default)]
pub(super) struct WebSocket {
    state: State,
    /// The start of a request, or of a frame header.
    held: Vec<u8>,
    /// Of the request, at which size to look at it again.
    look_at: usize,
    /// What is left of the payload of the frame.
    payload_left: u64,
    /// Of the message so far.
    message_size: u64,
    /// The frame's mask, turned to its next byte.
    mask: [u8; 4],
    /// `None` within a data frame.
    control: Option<ControlFrame>,
    /// A data message has begun and not ended.
    is_fragmented: bool,
    /// Payload of the last ping, to be answered. A peer that sends many and reads none gets one pong,
    /// as RFC 6455 5.5.3 allows, so that they cannot pile up.
    ping: Option<Vec<u8>>,
    /// Where packets end in what is sent.
    outgoing: Packets,
    /// What is left of the file that is served.
    file: Option<Bytes>,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
enum State {
    #[default]
    Requested,
    Open,
    /// A close frame has been written, or the connection never became a WebSocket.
    Closed,
}

/// Where packets end in bytes that come in pieces of any size.
#[derive(Debug, Default)]
struct Packets {
    /// What is left of the packet that has begun.
    left: usize,
    /// The start of a packet whose size it does not tell yet.
    head: SmallVec<[u8; FIXED_HEADER_SIZE_MAX]>,
}

impl Packets {
    /// How many of the next `bytes`, which are some, belong to one packet.
    fn advance(&mut self, bytes: &[u8]) -> usize {
        if self.left == 0 {
            let before = self.head.len();
            let header = if before == 0 {
                decode_fixed_header(bytes, u32::MAX)
            } else {
                let missing = FIXED_HEADER_SIZE_MAX - before;
                self.head
                    .extend_from_slice(&bytes[..bytes.len().min(missing)]);
                decode_fixed_header(&self.head, u32::MAX)
            };
            self.left = match header {
                Ok(Some(header)) => {
                    self.head.clear();
                    header.total_size() - before
                }
                Ok(None) => {
                    if before == 0 {
                        self.head.extend_from_slice(bytes);
                    }
                    return bytes.len();
                }
                // No packet: who sends it knows why.
                Err(_) => {
                    self.head.clear();
                    return bytes.len();
                }
            };
        }
        let count = self.left.min(bytes.len());
        self.left -= count;
        count
    }
}

#[derive(Debug)]
struct ControlFrame {
    kind: Control,
    payload: Vec<u8>,
}

impl WebSocket {
    /// Whether the upgrade is done.
    pub(super) fn is_open(&self) -> bool {
        self.state == State::Open
    }

    /// Bytes held, of a request or a header.
    pub(super) fn held_size(&self) -> usize {
        self.held.len()
    }

    /// Takes what arrived. Appends the payload to `plain` and answers to `out`, except to a ping.
    ///
    /// # Errors
    /// [`WebSocketError`]; `out` has the last words.
    pub(super) fn receive(
        &mut self,
        options: &WebSocketOptions,
        bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Received, WebSocketError> {
        let after_request;
        let bytes = if self.state == State::Requested {
            // The end of a request may have begun in what came before.
            let seen_size = self.held.len().saturating_sub(b"\n\r".len());
            self.held.extend_from_slice(bytes);
            match self.request(options, seen_size, out)? {
                None => return Ok(Received::More),
                Some(Granted::File(file)) => {
                    self.state = State::Closed;
                    self.held = Vec::new();
                    self.file = file.map(|file| file.bytes);
                    return Ok(Received::Last);
                }
                Some(Granted::Upgrade(size)) => {
                    self.state = State::Open;
                    after_request = std::mem::take(&mut self.held);
                    after_request.get(size..).unwrap_or_default()
                }
            }
        } else {
            bytes
        };
        self.frames(bytes, plain, out).inspect_err(|error| {
            self.write_close(Some(error.close_code()), out);
        })
    }

    /// Looks at the request only when it may be complete or has doubled, so that one that comes byte by
    /// byte is not read a thousand times. No empty line ends the request within its first `seen_size` bytes.
    fn request(
        &mut self,
        options: &WebSocketOptions,
        seen_size: usize,
        out: &mut Vec<u8>,
    ) -> Result<Option<Granted>, WebSocketError> {
        let unseen = self.held.get(seen_size..).unwrap_or_default();
        let may_be_complete = unseen.windows(3).any(|end| end == b"\n\r\n")
            || unseen.windows(2).any(|end| end == b"\n\n");
        if self.held.len() < self.look_at && !may_be_complete {
            return Ok(None);
        }
        self.look_at = (self.held.len() * 2).min(options.headers_size_max);
        upgrade::answer(options, &self.held, out).map_err(|refusal| {
            self.state = State::Closed;
            refusal.into()
        })
    }

    fn frames(
        &mut self,
        mut bytes: &[u8],
        plain: &mut Vec<u8>,
        out: &mut Vec<u8>,
    ) -> Result<Received, WebSocketError> {
        while self.state == State::Open {
            if self.payload_left > 0 {
                if bytes.is_empty() {
                    return Ok(Received::More);
                }
                let size = bytes
                    .len()
                    .min(usize::try_from(self.payload_left).unwrap_or(usize::MAX));
                let (payload, rest) = bytes.split_at(size);
                bytes = rest;
                self.payload_left -= size as u64;
                let target = match &mut self.control {
                    None => &mut *plain,
                    Some(control) => &mut control.payload,
                };
                let start = target.len();
                target.extend_from_slice(payload);
                self.mask = unmask(&mut target[start..], self.mask);
            } else if !self.header(&mut bytes)? {
                return Ok(Received::More);
            }
            if self.payload_left == 0
                && let Some(control) = self.control.take()
            {
                self.handle_control(control, out)?;
            }
        }
        Ok(Received::Last)
    }

    /// Reads a frame header. Returns whether there was a whole one.
    fn header(&mut self, bytes: &mut &[u8]) -> Result<bool, WebSocketError> {
        let (header, size) = if self.held.is_empty() {
            match parse_header(bytes)? {
                Some((header, size, end)) => {
                    *bytes = bytes.get(end..).unwrap_or_default();
                    (header, size)
                }
                None => {
                    self.held.extend_from_slice(bytes);
                    *bytes = &[];
                    return Ok(false);
                }
            }
        } else {
            loop {
                let Some((&byte, rest)) = bytes.split_first() else {
                    return Ok(false);
                };
                *bytes = rest;
                self.held.push(byte);
                debug_assert!(self.held.len() <= HEADER_SIZE_MAX);
                if let Some((header, size, _)) = parse_header(&self.held)? {
                    self.held = Vec::new();
                    break (header, size);
                }
            }
        };
        self.begin_frame(&header, size)?;
        Ok(true)
    }

    fn begin_frame(&mut self, header: &FrameHeader, size: u64) -> Result<(), WebSocketError> {
        let error = |what| Err(WebSocketError::Protocol(what));
        if header.rsv1 || header.rsv2 || header.rsv3 {
            return error("reserved bit");
        }
        let Some(mask) = header.mask else {
            return error("frame without a mask");
        };
        match header.opcode {
            OpCode::Control(_) if !header.is_final => return error("fragmented control frame"),
            OpCode::Control(_) if size > CONTROL_SIZE_MAX as u64 => {
                return error("control frame of more than 125 bytes");
            }
            OpCode::Control(kind) => {
                self.control = Some(ControlFrame {
                    kind,
                    payload: Vec::new(),
                });
            }
            // [MQTT-6.0.0-1]
            OpCode::Data(Data::Text) => return Err(WebSocketError::NotBinary),
            OpCode::Data(Data::Continue) if !self.is_fragmented => {
                return error("continuation of nothing");
            }
            OpCode::Data(Data::Binary) if self.is_fragmented => {
                return error("a message within a message");
            }
            OpCode::Data(kind) => {
                if kind == Data::Binary {
                    self.message_size = 0;
                }
                self.message_size = self.message_size.saturating_add(size);
                if self.message_size > MESSAGE_SIZE_MAX {
                    return Err(WebSocketError::TooLarge);
                }
                self.is_fragmented = !header.is_final;
            }
        }
        self.mask = mask;
        self.payload_left = size;
        Ok(())
    }

    fn handle_control(
        &mut self,
        control: ControlFrame,
        out: &mut Vec<u8>,
    ) -> Result<(), WebSocketError> {
        match control.kind {
            Control::Ping => self.ping = Some(control.payload),
            Control::Close => {
                let code = match control.payload.split_first_chunk::<2>() {
                    None if control.payload.is_empty() => None,
                    None => return Err(WebSocketError::Protocol("close frame of one byte")),
                    Some((code, reason)) => {
                        let code = CloseCode::from(u16::from_be_bytes(*code));
                        if !code.is_allowed() || str::from_utf8(reason).is_err() {
                            return Err(WebSocketError::Protocol("close frame with a wrong code"));
                        }
                        Some(code)
                    }
                };
                self.write_close(code, out);
            }
            // Nobody asked for a pong, and nobody minds one.
            Control::Pong | Control::Reserved(_) => {}
        }
        Ok(())
    }

    /// Whether [`WebSocket::write_answers`] would write anything.
    pub(super) fn has_answers(&self) -> bool {
        self.ping.is_some()
    }

    /// Appends what the peer is owed without anybody having said it.
    pub(super) fn write_answers(&mut self, out: &mut Vec<u8>) {
        if let Some(payload) = self.ping.take()
            && self.is_open()
        {
            write_frame(OpCode::Control(Control::Pong), &payload, out);
        }
    }

    /// Appends frames that carry `plain`, one for each packet, or for as much of it as there is. A frame may have many,
    /// and a Client has to read them all [MQTT-6.0.0-2]; but there are some, Paho's for C among them, that read the
    /// second one only once something else arrives.
    // HOT: per packet.
    pub(super) fn wrap(&mut self, plain: &[u8], out: &mut Vec<u8>) {
        if !self.is_open() {
            return;
        }
        // Many packets are hardly larger than their frame's header, large ones have one for all that comes at once.
        out.reserve(plain.len() + plain.len().min(FRAMES_ROOM) + HEADER_SIZE_MAX);
        let mut rest = plain;
        while !rest.is_empty() {
            let (packet, behind) = rest.split_at(self.outgoing.advance(rest));
            match u8::try_from(packet.len()) {
                Ok(size) if size < LONG_PAYLOAD => {
                    out.extend_from_slice(&[FINAL_BINARY, size]);
                    out.extend_from_slice(packet);
                }
                _ => write_frame(OpCode::Data(Data::Binary), packet, out),
            }
            rest = behind;
        }
    }

    /// Appends a close frame, if the peer has not got one.
    pub(super) fn close(&mut self, out: &mut Vec<u8>) {
        self.write_close(Some(CloseCode::Normal), out);
    }

    fn write_close(&mut self, code: Option<CloseCode>, out: &mut Vec<u8>) {
        if self.is_open() {
            let code = code.map(|code| u16::from(code).to_be_bytes());
            let payload = code.as_ref().map_or(&[][..], |code| code);
            write_frame(OpCode::Control(Control::Close), payload, out);
        }
        self.state = State::Closed;
    }

    /// Whether part of a file is still to be sent.
    pub(super) fn has_file(&self) -> bool {
        self.file.is_some()
    }

    /// Appends at most `size` bytes of the file that is served.
    pub(super) fn write_file(&mut self, size: usize, out: &mut Vec<u8>) {
        if let Some(rest) = &mut self.file {
            out.extend_from_slice(&rest.split_to(rest.len().min(size)));
            if rest.is_empty() {
                self.file = None;
            }
        }
    }
}

/// The frame header at the start of `bytes`, the size of the payload and its own.
fn parse_header(bytes: &[u8]) -> Result<Option<(FrameHeader, u64, usize)>, WebSocketError> {
    let mut cursor = Cursor::new(bytes);
    let parsed = FrameHeader::parse(&mut cursor);
    let parsed = parsed.map_err(|_| WebSocketError::Protocol("reserved opcode"))?;
    Ok(parsed.map(|(header, size)| (header, size, cursor.position() as usize)))
}

fn write_frame(opcode: OpCode, payload: &[u8], out: &mut Vec<u8>) {
    let header = FrameHeader {
        opcode,
        ..FrameHeader::default()
    };
    out.reserve(HEADER_SIZE_MAX + payload.len());
    // Writing to memory does not fail.
    let _ = header.format(payload.len() as u64, out);
    out.extend_from_slice(payload);
}

/// Unmasks `bytes` and returns the mask as it goes on after them.
fn unmask(bytes: &mut [u8], mut mask: [u8; 4]) -> [u8; 4] {
    let [a, b, c, d] = mask;
    let wide = u64::from_ne_bytes([a, b, c, d, a, b, c, d]);
    let (words, rest) = bytes.as_chunks_mut::<8>();
    for word in words {
        *word = (u64::from_ne_bytes(*word) ^ wide).to_ne_bytes();
    }
    for (byte, mask) in rest.iter_mut().zip([a, b, c, d, a, b, c]) {
        *byte ^= mask;
    }
    mask.rotate_left(bytes.len() % 4);
    mask
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// A frame of that size has begun, and all of it has come.
    fn pass(web_socket: &mut WebSocket, opcode: OpCode, is_final: bool, size: u64) -> bool {
        let header = FrameHeader {
            opcode,
            is_final,
            mask: Some([0; 4]),
            ..FrameHeader::default()
        };
        let begun = web_socket.begin_frame(&header, size);
        assert!(begun.is_ok() || begun == Err(WebSocketError::TooLarge));
        web_socket.payload_left = 0;
        web_socket.control = None;
        begun.is_ok()
    }

    #[test]
    fn a_connection_carries_messages_without_end_and_each_is_bounded_by_itself_with_all_its_fragments()
     {
        const BINARY: OpCode = OpCode::Data(Data::Binary);
        const CONTINUE: OpCode = OpCode::Data(Data::Continue);
        const PING: OpCode = OpCode::Control(Control::Ping);
        let open = || WebSocket {
            state: State::Open,
            ..WebSocket::default()
        };
        let mut it = open();
        // A gigabyte and more, in frames of any size.
        for size in [
            MESSAGE_SIZE_MAX,
            1,
            MESSAGE_SIZE_MAX,
            MESSAGE_SIZE_MAX - 1,
            2,
        ] {
            assert!(pass(&mut it, BINARY, true, size), "{size}");
        }
        // And in fragments, which are counted together, but for what comes between them.
        for _ in 0..3 {
            assert!(pass(&mut it, BINARY, false, MESSAGE_SIZE_MAX / 2));
            assert!(pass(&mut it, PING, true, CONTROL_SIZE_MAX as u64));
            assert!(pass(&mut it, CONTINUE, false, MESSAGE_SIZE_MAX / 2 - 1));
            assert!(pass(&mut it, CONTINUE, true, 1));
        }
        assert!(pass(&mut it, BINARY, false, MESSAGE_SIZE_MAX));
        assert!(pass(&mut it, CONTINUE, false, 0));
        assert!(!pass(&mut it, CONTINUE, true, 1));
        assert!(!pass(&mut open(), BINARY, true, MESSAGE_SIZE_MAX + 1));
    }
}
