//! A broker that keeps every promise but one: what it gets wrong, a test chooses.
//!
//! A thread for each connection, one lock for all of them: it is never fast, and always in order.

#![allow(dead_code)]

use std::collections::{BTreeMap, HashMap};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Few enough that a machine that is busy comes so far.
pub const STRUCK: usize = 10;

/// What the broker does wrong, with message number [`STRUCK`] where it is about a message.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Defect {
    None,
    /// Takes and delivers it, and never answers that step.
    NoPuback,
    /// Delivers everything, and answers nothing.
    NoPubacks,
    NoPubrec,
    NoPubcomp,
    /// Never answers a PUBREC.
    NoPubrel,
    /// PUBREL of what was never delivered.
    UnaskedPubrel,
    /// Acknowledges it twice, or as another QoS would be.
    PubackTwice,
    PubrecTwice,
    PubcompInsteadOfPuback,
    /// A PINGRESP behind every SUBACK.
    UnaskedPingresp,
    /// Two PINGRESP for the first PINGREQ, and none for any other.
    PingrespForAnother,
    SubackShort,
    SubackEmpty,
    SubackLong,
    SubackTwice,
    /// With another Packet Identifier than the SUBSCRIBE.
    SubackOther,
    /// Grants QoS 2 whatever is asked for.
    GrantsMore,
    /// Leaves the RETAIN of a live message, or of a retained one, as it should not be.
    RetainInverted,
    /// DUP set where it is delivered for the first time.
    Dup,
    /// Delivered at QoS 0.
    WrongQos,
    /// Every delivery has the same Packet Identifier.
    SameIdentifier,
    /// Every delivery has Packet Identifier 0.
    IdentifierZero,
    /// Says that there was a Session.
    SessionPresent,
    /// Takes one message of QoS 1 or 2 at a time [MQTT-3.3.4-7]: it may.
    ReceiveMaximum1,
    /// Delivers nothing for so many milliseconds after the first message, and then everything.
    HoldsBack(u64),
    /// Delivers every second message only.
    DropsHalf,
    /// Drops it.
    Drop,
}

#[derive(Default)]
struct Session {
    topic_filters: Vec<(Vec<u8>, u8)>,
    stream: Option<TcpStream>,
    is_v5: bool,
    identifier: u16,
    queued: Vec<Message>,
}

#[derive(Clone)]
struct Message {
    topic_name: Vec<u8>,
    payload: Vec<u8>,
    qos: u8,
    is_struck: bool,
}

#[derive(Default)]
struct State {
    sessions: HashMap<Vec<u8>, Session>,
    retained: BTreeMap<Vec<u8>, Message>,
    published: usize,
    began: Option<Instant>,
    held_back: Vec<Message>,
    pings: usize,
    struck_identifier: Option<[u8; 2]>,
}

/// Its port. The threads end with the test process, or earlier when their Client closes.
pub fn start(defect: Defect) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let state = Arc::new(Mutex::new(State::default()));
    if let Defect::HoldsBack(_) = defect {
        let state = Arc::clone(&state);
        thread::spawn(move || {
            loop {
                thread::sleep(Duration::from_millis(5));
                state.lock().unwrap().let_go(defect);
            }
        });
    }
    thread::spawn(move || {
        for stream in listener.incoming() {
            let state = Arc::clone(&state);
            thread::spawn(move || serve(stream.unwrap(), &state, defect));
        }
    });
    port
}

fn serve(mut stream: TcpStream, state: &Mutex<State>, defect: Defect) {
    stream.set_nodelay(true).unwrap();
    let mut buffer = Vec::new();
    let mut read = vec![0; 1 << 16];
    let mut client = Vec::new();
    loop {
        let size = stream.read(&mut read).unwrap_or(0);
        if size == 0 {
            if let Some(session) = state.lock().unwrap().sessions.get_mut(&client) {
                session.stream = None;
            }
            return;
        }
        buffer.extend_from_slice(&read[..size]);
        let mut at = 0;
        let mut state = state.lock().unwrap();
        while let Some((start, end)) = packet(&buffer, at) {
            let first_byte = buffer[at];
            let body = buffer[start..end].to_vec();
            at = end;
            if first_byte == 0x10 {
                client = state.connect(&body, &stream, defect);
            } else if first_byte == 0xe0 {
                let _ = stream.shutdown(std::net::Shutdown::Both);
            } else {
                state.handle(&client, first_byte, &body, defect);
            }
        }
        buffer.drain(..at);
    }
}

/// Where the body of the packet that begins at `at` begins and ends, if it is there whole.
pub fn packet(bytes: &[u8], at: usize) -> Option<(usize, usize)> {
    let (mut size, mut shift) = (0, 0);
    for (index, byte) in bytes.get(at + 1..)?.iter().enumerate() {
        size |= usize::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            let start = at + 2 + index;
            return (start + size <= bytes.len()).then_some((start, start + size));
        }
    }
    None
}

fn field(bytes: &[u8], at: usize) -> Vec<u8> {
    let size = usize::from(bytes[at]) << 8 | usize::from(bytes[at + 1]);
    bytes[at + 2..at + 2 + size].to_vec()
}

fn write(stream: &mut TcpStream, first_byte: u8, body: &[u8]) {
    let mut packet = vec![first_byte];
    let mut size = body.len();
    while size > 127 {
        packet.push(size as u8 | 0x80);
        size >>= 7;
    }
    packet.push(size as u8);
    packet.extend_from_slice(body);
    // A Client that has gone is no fault of ours.
    let _ = stream.write_all(&packet);
}

fn matches(topic_filter: &[u8], topic_name: &[u8]) -> bool {
    match topic_filter
        .strip_suffix(b"#")
        .or(topic_filter.strip_suffix(b"+"))
    {
        Some(start) => topic_name.starts_with(start),
        None => topic_filter == topic_name,
    }
}

impl State {
    fn connect(&mut self, body: &[u8], stream: &TcpStream, defect: Defect) -> Vec<u8> {
        let is_v5 = body[6] == 5;
        let is_clean = body[7] & 2 != 0;
        // The generator's properties are shorter than 128 bytes.
        let client = field(body, 10 + if is_v5 { 1 + usize::from(body[10]) } else { 0 });
        let mut stream = stream.try_clone().unwrap();
        if is_clean {
            self.sessions.remove(&client);
        }
        let mut is_present = u8::from(self.sessions.contains_key(&client));
        if defect == Defect::SessionPresent {
            is_present = 1;
        }
        match (is_v5, defect) {
            (false, _) => write(&mut stream, 0x20, &[is_present, 0]),
            (true, Defect::ReceiveMaximum1) => {
                write(&mut stream, 0x20, &[is_present, 0, 3, 0x21, 0, 1]);
            }
            (true, _) => write(&mut stream, 0x20, &[is_present, 0, 0]),
        }
        let session = self.sessions.entry(client.clone()).or_default();
        session.stream = Some(stream);
        session.is_v5 = is_v5;
        for message in std::mem::take(&mut session.queued) {
            session.deliver(&message, false, defect);
        }
        client
    }

    fn handle(&mut self, client: &[u8], first_byte: u8, body: &[u8], defect: Defect) {
        let session = self.sessions.get_mut(client).unwrap();
        let is_v5 = session.is_v5;
        let mut stream = session.stream.as_ref().unwrap().try_clone().unwrap();
        match first_byte & 0xf0 {
            0x30 => self.publish(first_byte, body, is_v5, &mut stream, defect),
            0x50 if defect == Defect::NoPubrel => {}
            0x50 => write(&mut stream, 0x62, &body[..2]),
            0x60 => {
                let is_struck = self.struck_identifier == Some([body[0], body[1]]);
                if defect == Defect::NoPubcomp && is_struck {
                    self.struck_identifier = None;
                } else {
                    write(&mut stream, 0x70, &body[..2]);
                }
            }
            0x80 => {
                let at = if is_v5 { 3 } else { 2 };
                self.subscribe(client, &body[..2], &body[at..], &mut stream, defect);
            }
            0xc0 => {
                self.pings += 1;
                let count = match defect {
                    Defect::PingrespForAnother if self.pings == 1 => 2,
                    Defect::PingrespForAnother => 0,
                    _ => 1,
                };
                for _ in 0..count {
                    write(&mut stream, 0xd0, &[]);
                }
            }
            _ => {}
        }
    }

    fn subscribe(
        &mut self,
        client: &[u8],
        identifier: &[u8],
        asked: &[u8],
        stream: &mut TcpStream,
        defect: Defect,
    ) {
        let session = self.sessions.get_mut(client).unwrap();
        let mut suback = identifier.to_vec();
        suback.extend(session.is_v5.then_some(0));
        let codes_at = suback.len();
        let mut at = 0;
        let mut topic_filters = Vec::new();
        while at < asked.len() {
            let topic_filter = field(asked, at);
            at += 3 + topic_filter.len();
            let qos = asked[at - 1];
            suback.push(if defect == Defect::GrantsMore { 2 } else { qos });
            topic_filters.push((topic_filter, qos));
        }
        match defect {
            Defect::SubackShort => drop(suback.pop()),
            Defect::SubackEmpty => suback.truncate(codes_at),
            Defect::SubackLong => suback.push(suback[codes_at]),
            Defect::SubackOther => suback[0] ^= 0x40,
            _ => {}
        }
        write(stream, 0x90, &suback);
        match defect {
            Defect::SubackTwice => write(stream, 0x90, &suback),
            Defect::SubackOther => {
                suback[0] ^= 0x40;
                write(stream, 0x90, &suback);
            }
            Defect::UnaskedPingresp => write(stream, 0xd0, &[]),
            Defect::UnaskedPubrel => write(stream, 0x62, &[0x7f, 1]),
            _ => {}
        }
        for (topic_filter, qos) in &topic_filters {
            for (topic_name, message) in &self.retained {
                if matches(topic_filter, topic_name) {
                    let qos = message.qos.min(*qos);
                    let message = Message {
                        qos,
                        ..message.clone()
                    };
                    session.deliver(&message, true, defect);
                }
            }
        }
        session.topic_filters.extend(topic_filters);
    }

    fn publish(
        &mut self,
        first_byte: u8,
        body: &[u8],
        is_v5: bool,
        stream: &mut TcpStream,
        defect: Defect,
    ) {
        self.published += 1;
        let is_struck = self.published == STRUCK;
        let qos = (first_byte >> 1) & 3;
        let topic_name = field(body, 0);
        let mut at = 2 + topic_name.len();
        if qos > 0 {
            let identifier = &body[at..at + 2];
            at += 2;
            let answer = if qos == 1 { 0x40 } else { 0x50 };
            match defect {
                Defect::NoPuback | Defect::NoPubrec if is_struck => {}
                Defect::NoPubacks => {}
                Defect::PubackTwice | Defect::PubrecTwice if is_struck => {
                    write(stream, answer, identifier);
                    write(stream, answer, identifier);
                }
                Defect::PubcompInsteadOfPuback if is_struck => write(stream, 0x70, identifier),
                _ => write(stream, answer, identifier),
            }
            if is_struck {
                self.struck_identifier = Some([identifier[0], identifier[1]]);
            }
        }
        // No properties but an alias, which these tests do not use.
        at += usize::from(is_v5);
        let message = Message {
            topic_name,
            payload: body[at..].to_vec(),
            qos,
            is_struck,
        };
        if first_byte & 1 != 0 {
            self.retained
                .insert(message.topic_name.clone(), message.clone());
        }
        match defect {
            Defect::Drop if is_struck => {}
            Defect::DropsHalf if self.published.is_multiple_of(2) => {}
            Defect::HoldsBack(_) => {
                self.began.get_or_insert_with(Instant::now);
                self.held_back.push(message);
            }
            _ => self.deliver(&message, defect),
        }
    }

    fn let_go(&mut self, defect: Defect) {
        let Defect::HoldsBack(milliseconds) = defect else {
            return;
        };
        let time = Duration::from_millis(milliseconds);
        if self.began.is_some_and(|began| began.elapsed() >= time) {
            for message in std::mem::take(&mut self.held_back) {
                self.deliver(&message, defect);
            }
        }
    }

    fn deliver(&mut self, message: &Message, defect: Defect) {
        for session in self.sessions.values_mut() {
            let found = session.topic_filters.iter();
            let mut found = found.filter(|(filter, _)| matches(filter, &message.topic_name));
            if let Some(&(_, qos)) = found.next() {
                let qos = message.qos.min(qos);
                let message = Message {
                    qos,
                    ..message.clone()
                };
                session.deliver(&message, false, defect);
            }
        }
    }
}

impl Session {
    fn deliver(&mut self, message: &Message, is_retained: bool, defect: Defect) {
        let Some(stream) = &mut self.stream else {
            self.queued.push(message.clone());
            return;
        };
        let mut qos = message.qos;
        let mut flags = u8::from(is_retained);
        match defect {
            Defect::RetainInverted if message.is_struck => flags ^= 1,
            Defect::Dup if message.is_struck => flags |= 8,
            Defect::WrongQos if message.is_struck => qos = 0,
            _ => {}
        }
        let mut body = (message.topic_name.len() as u16).to_be_bytes().to_vec();
        body.extend_from_slice(&message.topic_name);
        if qos > 0 {
            self.identifier = match defect {
                Defect::SameIdentifier => 1,
                Defect::IdentifierZero => 0,
                _ => self.identifier % u16::MAX + 1,
            };
            body.extend_from_slice(&self.identifier.to_be_bytes());
        }
        body.extend(self.is_v5.then_some(0));
        body.extend_from_slice(&message.payload);
        write(stream, 0x30 | qos << 1 | flags, &body);
    }
}
