use super::super::{StaticFiles, WebSocketOptions, Wrapping};
use super::Server;
use crate::net::tls::tests::Folder;
use proptest::prelude::*;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::sync::Arc;
use tungstenite::handshake::derive_accept_key;
use tungstenite::protocol::frame::FrameHeader;
use tungstenite::protocol::frame::coding::{Control, Data, OpCode};
use tungstenite::protocol::{Message, Role, WebSocket, WebSocketConfig};

const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

fn server(options: WebSocketOptions) -> Server {
    Server::new(Wrapping {
        web_socket: Some(options),
        ..Wrapping::default()
    })
}

fn open() -> Server {
    let mut server = server(WebSocketOptions::default());
    let answer = server.receive(request(&[]).as_bytes(), 10_000);
    assert!(answer.starts_with(b"HTTP/1.1 101 "));
    assert!(server.transport.is_ready());
    server
}

/// An upgrade; `(name, "")` leaves a field out.
fn request(changes: &[(&str, &str)]) -> String {
    let mut out = String::from("GET /mqtt HTTP/1.1\r\n");
    let fields = [
        ("Host", "localhost"),
        ("Upgrade", "websocket"),
        ("Connection", "keep-alive, Upgrade"),
        ("Sec-WebSocket-Key", KEY),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Protocol", "mqtt"),
    ];
    for (name, value) in fields {
        let change = changes.iter().find(|change| change.0 == name);
        match change.map_or(value, |change| change.1) {
            "" => {}
            value => write!(out, "{name}: {value}\r\n").unwrap(),
        }
    }
    for (name, value) in changes {
        if fields.iter().all(|field| field.0 != *name) {
            write!(out, "{name}: {value}\r\n").unwrap();
        }
    }
    out + "\r\n"
}

fn status(options: WebSocketOptions, request: &str) -> String {
    let answer = server(options).receive(request.as_bytes(), 10_000);
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).unwrap_or_default().to_owned()
}

fn frame(opcode: OpCode, is_final: bool, payload: &[u8]) -> Vec<u8> {
    let mask = [0x11, 0x22, 0x33, 0x44];
    let header = FrameHeader {
        opcode,
        is_final,
        mask: Some(mask),
        ..FrameHeader::default()
    };
    let mut bytes = Vec::new();
    header.format(payload.len() as u64, &mut bytes).unwrap();
    let masked = payload.iter().zip(mask.into_iter().cycle());
    bytes.extend(masked.map(|(byte, mask)| byte ^ mask));
    bytes
}

const BINARY: OpCode = OpCode::Data(Data::Binary);
const CONTINUE: OpCode = OpCode::Data(Data::Continue);
const PING: OpCode = OpCode::Control(Control::Ping);
const CLOSE: OpCode = OpCode::Control(Control::Close);

#[test]
fn an_upgrade_is_granted_whatever_pieces_it_comes_in() {
    for piece in [1, 2, 100, 10_000] {
        let mut server = server(WebSocketOptions::default());
        assert!(!server.transport.is_ready());
        let answer = String::from_utf8(server.receive(request(&[]).as_bytes(), piece)).unwrap();
        assert!(answer.starts_with("HTTP/1.1 101 Switching Protocols\r\n"));
        assert!(answer.contains(&derive_accept_key(KEY.as_bytes())));
        assert!(answer.ends_with("Sec-WebSocket-Protocol: mqtt\r\n\r\n"));
        assert!(!answer.to_lowercase().contains("extensions"));
        assert!(server.transport.is_ready());
    }
}

#[test]
fn frames_that_come_before_the_upgrade_is_granted_are_read_whatever_pieces_they_come_in() {
    for start in ["", "\r\n\r\n"] {
        let mut bytes = start.as_bytes().to_vec();
        bytes.extend(request(&[]).as_bytes());
        bytes.extend(frame(BINARY, true, b"first"));
        for piece in [1, 7, 100, bytes.len() - 8, bytes.len()] {
            let mut server = server(WebSocketOptions::default());
            server.receive(&bytes, piece);
            assert_eq!(server.plain, b"first", "in pieces of {piece} bytes");
        }
    }
}

// [MQTT-6.0.0-3] [MQTT-6.0.0-4]
#[test]
fn the_subprotocol_is_one_that_carries_mqtt() {
    for (offered, chosen) in [
        ("mqtt", "mqtt"),
        ("mqttv3.1", "mqttv3.1"),
        ("mqttv3.1, mqtt", "mqtt"),
        ("chat,mqttv3.1 , soap", "mqttv3.1"),
    ] {
        let request = request(&[("Sec-WebSocket-Protocol", offered)]);
        let mut server = server(WebSocketOptions::default());
        let answer = String::from_utf8(server.receive(request.as_bytes(), 10_000)).unwrap();
        assert!(
            answer.contains(&format!("Sec-WebSocket-Protocol: {chosen}\r\n")),
            "{answer}"
        );
    }
    for offered in ["", "chat", "MQTT", "mqtts"] {
        let request = request(&[("Sec-WebSocket-Protocol", offered)]);
        assert_eq!(
            status(WebSocketOptions::default(), &request),
            "400",
            "{offered}"
        );
    }
}

#[test]
fn requests_that_are_no_upgrade_are_refused_each_in_its_way() {
    let refused = |changes: &[(&str, &str)]| status(WebSocketOptions::default(), &request(changes));
    assert_eq!(refused(&[("Sec-WebSocket-Key", "")]), "400");
    assert_eq!(refused(&[("Sec-WebSocket-Key", "c2hvcnQ=")]), "400");
    assert_eq!(refused(&[("Sec-WebSocket-Version", "8")]), "426");
    assert_eq!(refused(&[("Sec-WebSocket-Version", "")]), "426");
    assert_eq!(refused(&[("Connection", "close")]), "400");
    assert_eq!(refused(&[("Upgrade", "")]), "404");
    let post = request(&[]).replacen("GET", "POST", 1);
    assert_eq!(status(WebSocketOptions::default(), &post), "405");
    let old = request(&[]).replacen("HTTP/1.1", "HTTP/1.0", 1);
    assert_eq!(status(WebSocketOptions::default(), &old), "400");
    assert_eq!(
        status(WebSocketOptions::default(), "\x16\x03\x01\x02\0\x01\0\x01"),
        "400"
    );
    assert_eq!(
        status(WebSocketOptions::default(), "\x10\x10\0\x04MQTT"),
        "400"
    );
}

#[test]
fn a_request_larger_than_allowed_is_refused_whether_it_ends_or_not() {
    let options = || WebSocketOptions {
        headers_size_max: 500,
        ..WebSocketOptions::default()
    };
    let long = "x".repeat(400);
    let whole = request(&[("Cookie", &long)]);
    assert_eq!(status(options(), &whole), "431");
    assert_eq!(status(options(), &whole[..500]), "431");
    assert_eq!(status(options(), &whole[..499]), "");
    let options = WebSocketOptions {
        headers_size_max: whole.len(),
        ..WebSocketOptions::default()
    };
    assert_eq!(status(options, &whole), "101");
    let many: String = (0..101).map(|index| format!("X-{index}: 1\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\n{many}\r\n");
    assert_eq!(status(WebSocketOptions::default(), &many), "431");
}

#[test]
fn browsers_connect_only_from_allowed_origins() {
    let options = || WebSocketOptions {
        origins: vec!["http://example.org:8080".to_owned(), "null".to_owned()],
        ..WebSocketOptions::default()
    };
    let from = |origin| status(options(), &request(&[("Origin", origin)]));
    assert_eq!(from("http://example.org:8080"), "101");
    assert_eq!(from("null"), "101");
    assert_eq!(from("http://example.org"), "403");
    assert_eq!(from("http://example.org:80800"), "403");
    // Not from a browser.
    assert_eq!(status(options(), &request(&[])), "101");
    let anywhere = request(&[("Origin", "http://anywhere")]);
    assert_eq!(status(WebSocketOptions::default(), &anywhere), "101");
}

/// A client's socket in memory.
#[derive(Debug, Default)]
struct Wire {
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    has_ended: bool,
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.incoming.is_empty() && self.has_ended {
            return Ok(0);
        }
        if self.incoming.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let size = buffer.len().min(self.incoming.len());
        buffer[..size].copy_from_slice(&self.incoming[..size]);
        self.incoming.drain(..size);
        Ok(size)
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.outgoing.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn client() -> WebSocket<Wire> {
    let config = WebSocketConfig::default()
        .max_message_size(None)
        .max_frame_size(None);
    WebSocket::from_raw_socket(Wire::default(), Role::Client, Some(config))
}

#[test]
fn an_independent_client_talks_pings_and_closes() {
    for piece in [1, 13, 100_000] {
        let (mut server, mut client) = (open(), client());
        for size in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
            let payload: Vec<u8> = (0..size).map(|at| at as u8).collect();
            client.send(Message::binary(payload.clone())).unwrap();
            let wire = std::mem::take(&mut client.get_mut().outgoing);
            assert!(server.receive(&wire, piece).is_empty());
            assert_eq!(std::mem::take(&mut server.plain), payload);
            let answer = packet(size);
            client.get_mut().incoming = server.send(&answer);
            assert_eq!(client.read().unwrap(), Message::binary(answer));
        }
        client
            .send(Message::Ping(b"are you there"[..].into()))
            .unwrap();
        let wire = std::mem::take(&mut client.get_mut().outgoing);
        client.get_mut().incoming = server.receive(&wire, piece);
        assert_eq!(
            client.read().unwrap(),
            Message::Pong(b"are you there"[..].into())
        );

        client.close(None).unwrap();
        let wire = std::mem::take(&mut client.get_mut().outgoing);
        client.get_mut().incoming = server.receive(&wire, piece);
        assert!(server.transport.has_ended() && server.error.is_none());
        assert_eq!(client.read().unwrap(), Message::Close(None));
        // It waits for the server to end the connection below.
        client.get_mut().has_ended = true;
        assert!(matches!(
            client.read(),
            Err(tungstenite::Error::ConnectionClosed)
        ));
        // It has been said.
        assert!(server.close().is_empty() && server.send(b"late").is_empty());
    }
}

/// A packet with so much behind its fixed header.
fn packet(remaining_length: usize) -> Vec<u8> {
    let (mut packet, mut length) = (vec![0x30], remaining_length);
    while length > 0x7F {
        packet.push(length as u8 | 0x80);
        length >>= 7;
    }
    packet.push(length as u8);
    packet.extend((0..remaining_length).map(|at| at as u8));
    packet
}

// Not demanded by [MQTT-6.0.0-2]: there are Clients that read the second packet of a frame only once something else comes.
#[test]
fn each_packet_is_sent_in_a_frame_of_its_own() {
    let (mut server, mut client) = (open(), client());
    let packets = [0, 1, 127, 128, 16_383, 16_384, 0, 70_000, 0].map(packet);
    client.get_mut().incoming = server.send(&packets.concat());
    for packet in packets {
        assert_eq!(client.read().unwrap(), Message::binary(packet));
    }
}

#[test]
fn a_close_of_ours_says_that_all_is_well() {
    let (mut server, mut client) = (open(), client());
    client.get_mut().incoming = [server.send(b"last"), server.close()].concat();
    assert_eq!(client.read().unwrap(), Message::binary(&b"last"[..]));
    let Message::Close(Some(close)) = client.read().unwrap() else {
        panic!("no close frame");
    };
    assert_eq!(u16::from(close.code), 1000);
}

// [MQTT-6.0.0-2]
#[test]
fn packets_may_lie_across_frames_and_pings_within_messages() {
    let mut server = open();
    let wire = [
        frame(BINARY, false, b"one "),
        frame(PING, true, b"hi"),
        frame(CONTINUE, false, b""),
        frame(CONTINUE, true, b"two "),
        frame(BINARY, true, b"three"),
    ];
    let answer = server.receive(&wire.concat(), 1);
    assert_eq!(server.plain, b"one two three");
    assert_eq!(answer, b"\x8A\x02hi");
}

#[test]
fn many_unread_pings_cause_one_pong() {
    let mut server = open();
    for index in 0..1000_u32 {
        let mut ping = frame(PING, true, &index.to_be_bytes());
        server
            .transport
            .receive(&mut ping, &mut server.plain)
            .unwrap();
    }
    let mut answers = Vec::new();
    server.transport.take_answers(&mut answers);
    assert_eq!(answers, [&b"\x8A\x04"[..], &999_u32.to_be_bytes()].concat());
}

/// The close code of the answer to these frames.
fn close_code(wire: &[u8]) -> u16 {
    let mut server = open();
    let answer = server.receive(wire, wire.len());
    assert!(server.transport.has_ended(), "{wire:?}");
    assert!(server.error.is_some(), "{wire:?}");
    assert_eq!(answer[..2], [0x88, 2], "{wire:?}");
    u16::from_be_bytes([answer[2], answer[3]])
}

// [MQTT-6.0.0-1]
#[test]
fn text_is_not_accepted() {
    assert_eq!(
        close_code(&frame(OpCode::Data(Data::Text), true, b"hi")),
        1003
    );
}

#[test]
fn what_breaks_the_protocol_is_told_so() {
    let mut unmasked = frame(BINARY, true, b"");
    unmasked[1] &= 0x7F;
    let mut reserved_bit = frame(BINARY, true, b"");
    reserved_bit[0] |= 0x40;
    let mut reserved_opcode = frame(BINARY, true, b"");
    reserved_opcode[0] = 0x83;
    for wire in [
        unmasked,
        reserved_bit,
        reserved_opcode,
        frame(PING, false, b""),
        frame(PING, true, &[0; 126]),
        frame(CONTINUE, true, b"of nothing"),
        [frame(BINARY, false, b"a"), frame(BINARY, true, b"b")].concat(),
        frame(CLOSE, true, &[3]),
        frame(CLOSE, true, &1005_u16.to_be_bytes()),
        frame(CLOSE, true, &[0x03, 0xE8, 0xFF]),
    ] {
        assert_eq!(close_code(&wire), 1002, "{wire:?}");
    }
}

#[test]
fn a_message_larger_than_any_packet_is_not_waited_for() {
    let announced = |opcode, is_final, size| {
        let header = FrameHeader {
            opcode,
            is_final,
            mask: Some([0; 4]),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(size, &mut bytes).unwrap();
        bytes
    };
    assert_eq!(close_code(&announced(BINARY, true, 1 << 62)), 1009);
    assert_eq!(close_code(&announced(BINARY, true, u64::MAX)), 1009);
    let first = frame(BINARY, false, &[7; 100]);
    let second = announced(CONTINUE, true, 268_435_456);
    assert_eq!(close_code(&[first, second].concat()), 1009);
}

#[test]
fn what_came_before_an_offence_is_delivered() {
    let mut server = open();
    let wire = [
        frame(BINARY, true, b"good"),
        frame(CONTINUE, true, b"bad"),
        frame(BINARY, true, b"late"),
    ];
    server.receive(&wire.concat(), 1000);
    assert_eq!(server.plain, b"good");
    server.receive(&frame(BINARY, true, b"later"), 1000);
    assert_eq!(server.plain, b"good");
}

#[test]
fn files_are_served_in_parts_and_nothing_else_is() {
    let folder = Folder::new();
    let outside = folder.write("secret", "secret");
    std::fs::create_dir_all(folder.path().join("www/sub")).unwrap();
    let page = "<p>hello</p>".repeat(10_000);
    folder.write("www/index.html", &page);
    folder.write("www/sub/a b.js", "let x;");
    std::os::unix::fs::symlink(&outside, folder.path().join("www/link")).unwrap();
    let files = Arc::new(StaticFiles::load(&folder.path().join("www")).unwrap());
    let get = |method: &str, path: &str| {
        let mut server = server(WebSocketOptions {
            files: Some(files.clone()),
            ..WebSocketOptions::default()
        });
        let mut answer =
            server.receive(format!("{method} {path} HTTP/1.1\r\n\r\n").as_bytes(), 1000);
        assert!(server.transport.has_ended());
        answer.extend(server.close());
        loop {
            let before = answer.len();
            server.transport.write_rest(1000, &mut answer);
            if answer.len() == before {
                return String::from_utf8(answer).unwrap();
            }
            assert!(answer.len() - before <= 1000);
        }
    };
    let index = get("GET", "/");
    assert!(index.starts_with("HTTP/1.1 200 OK\r\n") && index.ends_with(&page));
    assert!(index.contains("Content-Type: text/html"));
    assert!(index.contains(&format!("Content-Length: {}\r\n", page.len())));
    assert_eq!(get("GET", "/index.html?query"), index);
    assert!(get("HEAD", "/").ends_with("\r\n\r\n"));
    assert!(get("GET", "/sub/a%20b.js").ends_with("let x;"));
    for path in [
        "/secret",
        "/link",
        "/../secret",
        "/sub/../../secret",
        "/%2e%2e/secret",
        "/sub",
        "/%00",
        "/%",
        "/%zz",
        "/nothing",
        "*",
    ] {
        assert!(get("GET", path).starts_with("HTTP/1.1 404 "), "{path}");
    }
}

proptest! {
    #[test]
    fn payload_survives_any_cutting(
        messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
        fragment in 1..100_usize,
        piece in 1..200_usize,
    ) {
        let mut server = open();
        let mut wire = Vec::new();
        for message in &messages {
            let count = message.len().div_ceil(fragment);
            if count == 0 {
                wire.extend(frame(BINARY, true, b""));
            }
            for (index, part) in message.chunks(fragment).enumerate() {
                let opcode = if index == 0 { BINARY } else { CONTINUE };
                wire.extend(frame(opcode, index + 1 == count, part));
            }
        }
        server.receive(&wire, piece);
        prop_assert!(server.error.is_none());
        prop_assert_eq!(&server.plain, &messages.concat());
    }

    #[test]
    fn packets_that_are_sent_in_any_pieces_never_share_a_frame(
        lengths in prop::collection::vec(prop_oneof![0..9_usize, 120..140_usize, 16_380..16_390_usize], 1..12),
        cuts in prop::collection::vec(1..300_usize, 1..20),
    ) {
        let (mut server, mut client) = (open(), client());
        let packets: Vec<_> = lengths.into_iter().map(packet).collect();
        let sent = packets.concat();
        let (mut rest, mut cuts) = (&sent[..], cuts.iter().cycle());
        while !rest.is_empty() {
            let cut = rest.len().min(*cuts.next().unwrap());
            client.get_mut().incoming.extend(server.send(&rest[..cut]));
            rest = &rest[cut..];
        }
        let mut received = Vec::new();
        let mut ends = packets.iter().scan(0, |end, packet| {
            *end += packet.len();
            Some(*end)
        });
        let mut end = ends.next().unwrap();
        while received.len() < sent.len() {
            received.extend_from_slice(&client.read().unwrap().into_data());
            prop_assert!(received.len() <= end, "a frame has the end of one packet and the start of the next");
            if received.len() == end {
                end = ends.next().unwrap_or(end);
            }
        }
        prop_assert_eq!(received, sent);
    }

    #[test]
    fn garbage_is_never_answered_with_anything_but_an_end(
        bytes in prop::collection::vec(any::<u8>(), 0..400),
        piece in 1..50_usize,
        is_open in any::<bool>(),
    ) {
        let mut server = if is_open { open() } else { server(WebSocketOptions::default()) };
        server.receive(&bytes, piece);
        prop_assert!(server.plain.len() <= bytes.len());
        prop_assert!(server.transport.held_size() <= 4096);
        if server.error.is_some() {
            prop_assert!(server.transport.has_ended());
        }
        server.close();
    }
}
