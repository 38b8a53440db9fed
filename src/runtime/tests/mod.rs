//! Sockets, rings and shutdown, over real connections, with a core that echoes.

#![forbid(unsafe_code)]

mod affinity;
mod logins;
mod ring_room;
mod transports;

use super::{NoticesSender, Placed, Running, exit_on_panic, start};
use crate::key::{ConnectionKey, ShardId};
use crate::net::{Core, listen};
use crate::origin::Origin;
use crate::shard::{Effects, HandOver};
use crate::time::Instant;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::Barrier;
use std::time::Duration;

/// Unsent bytes above which the core no longer reads a connection.
const UNSENT_MAX: usize = 64 * 1024;
const PAUSE: Duration = Duration::from_millis(30);
const BUSY: Duration = Duration::from_millis(5);
/// Where a shard stands still, and whoever lets it go on.
static STANDSTILL: Barrier = Barrier::new(2);

/// A packet is a length of four bytes, then a command and its argument.
///
/// The first packet of a connection is `H` and the shard it belongs to. The answer to each says the
/// same again, except where the command is to do something else.
struct Echo {
    shard: ShardId,
    connections: Vec<Peer>,
    free: Vec<u32>,
    outbound: Vec<VecDeque<Vec<u8>>>,
    /// Of each other shard, the envelope that has to come again before any other.
    left: Vec<Option<Vec<u8>>>,
    /// What it was told about rings.
    rooms: Vec<(ShardId, usize)>,
}

#[derive(Default)]
struct Peer {
    alive: bool,
    generation: u32,
    settled: bool,
    closing: bool,
    output: Vec<u8>,
    unsent: usize,
    unsent_peak: usize,
    /// Not read because it does not take its output.
    blocked: bool,
    paused_until: Option<Instant>,
    due_at: Option<Instant>,
    origin: Origin,
}

fn packet(command: u8, argument: &[u8]) -> Vec<u8> {
    let mut bytes = ((argument.len() + 1) as u32).to_le_bytes().to_vec();
    bytes.push(command);
    bytes.extend_from_slice(argument);
    bytes
}

impl Echo {
    fn new(shard: ShardId, shard_count: usize) -> Self {
        Self {
            shard,
            connections: Vec::new(),
            free: Vec::new(),
            outbound: (0..shard_count).map(|_| VecDeque::new()).collect(),
            left: vec![None; shard_count],
            rooms: Vec::new(),
        }
    }

    fn peer(&mut self, key: ConnectionKey) -> &mut Peer {
        let peer = &mut self.connections[key.index as usize];
        assert!(
            peer.alive && peer.generation == key.generation,
            "{key:?} is dead"
        );
        peer
    }

    fn kill(&mut self, key: ConnectionKey) {
        let peer = self.peer(key);
        *peer = Peer {
            generation: peer.generation + 1,
            ..Peer::default()
        };
        self.free.push(key.index);
    }

    fn say(&mut self, key: ConnectionKey, bytes: &[u8], effects: &mut Effects) {
        let peer = self.peer(key);
        if peer.output.is_empty() {
            effects.dirty.push(key);
        }
        peer.output.extend_from_slice(bytes);
    }

    fn alive(&self) -> Vec<ConnectionKey> {
        let keys = self.connections.iter().enumerate();
        keys.filter(|(_, peer)| peer.alive && peer.settled && !peer.closing)
            .map(|(index, peer)| ConnectionKey {
                index: index as u32,
                generation: peer.generation,
            })
            .collect()
    }

    /// Tells whether the packet was consumed.
    fn handle_packet(
        &mut self,
        key: ConnectionKey,
        body: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> bool {
        let (command, argument) = body.split_first().expect("no empty packets");
        self.peer(key).due_at = None;
        match command {
            b'H' => {
                let to = ShardId(u16::from(argument[0]));
                if to != self.shard {
                    let origin = self.peer(key).origin.clone();
                    self.kill(key);
                    effects.hand_overs.push(HandOver {
                        connection: key,
                        to,
                        origin,
                    });
                    return false;
                }
                self.peer(key).settled = true;
                self.say(key, &packet(b'H', &[self.shard.0 as u8]), effects);
            }
            // Where the connection comes from.
            b'O' => {
                let origin = &self.peer(key).origin;
                let certificate = origin.certificate.as_ref();
                let name = certificate.and_then(|it| it.common_name.as_deref());
                let (listener, peer) = (origin.listener.0, origin.peer);
                let said = format!("{listener} {peer} {}", name.unwrap_or("-"));
                self.say(key, &packet(b'O', said.as_bytes()), effects);
            }
            b'C' => {
                self.say(key, &packet(b'C', argument), effects);
                self.peer(key).closing = true;
                effects.closes.push(key);
            }
            b'P' => {
                self.peer(key).paused_until = Some(now + PAUSE);
                self.say(key, &packet(b'P', argument), effects);
            }
            // A flood of the given size in one packet.
            b'F' => {
                let size = u32::from_le_bytes(argument.try_into().unwrap()) as usize;
                let flood: Vec<u8> = (0..size).map(|at| at as u8).collect();
                self.say(key, &packet(b'F', &flood), effects);
            }
            b'U' => {
                let peak = self.peer(key).unsent_peak as u32;
                self.say(key, &packet(b'U', &peak.to_le_bytes()), effects);
            }
            // To everybody on all shards.
            b'B' => {
                for (index, outbound) in self.outbound.iter_mut().enumerate() {
                    if index != self.shard.index() {
                        outbound.push_back(body.to_vec());
                    }
                }
                self.broadcast(body, effects);
            }
            // Closes everybody else on this shard.
            b'X' => {
                for other in self.alive().into_iter().filter(|&it| it != key) {
                    self.peer(other).closing = true;
                    effects.closes.push(other);
                }
                self.say(key, &packet(b'X', argument), effects);
            }
            // Works for longer than a shard may that shares its CPU.
            b'W' => {
                let end = std::time::Instant::now() + BUSY;
                while std::time::Instant::now() < end {
                    std::hint::spin_loop();
                }
                self.say(key, &packet(b'W', argument), effects);
            }
            // Is due after so many milliseconds, unless something comes before.
            b'D' => {
                let ms = Duration::from_millis(argument[0].into());
                self.peer(key).due_at = Some(now + ms);
                self.say(key, &packet(b'D', argument), effects);
            }
            // Does not run until it is let.
            b'Z' => {
                STANDSTILL.wait();
                STANDSTILL.wait();
                self.say(key, &packet(b'Z', argument), effects);
            }
            b'K' => panic!("told to panic"),
            _ => self.say(key, &packet(*command, argument), effects),
        }
        true
    }

    fn broadcast(&mut self, body: &[u8], effects: &mut Effects) {
        let bytes = packet(body[0], &body[1..]);
        for key in self.alive() {
            self.say(key, &bytes, effects);
        }
    }
}

impl Core for Echo {
    type Envelope = Vec<u8>;

    /// Every other shard ends each part of a turn as soon as it looks at the clock: so everything is cut
    /// where it can be.
    fn turn_max(&self) -> Duration {
        Duration::from_secs(u64::from(self.shard.0 % 2))
    }

    fn handle_accept(&mut self, origin: Origin, _now: Instant) -> Option<ConnectionKey> {
        let index = self.free.pop().unwrap_or_else(|| {
            self.connections.push(Peer::default());
            self.connections.len() as u32 - 1
        });
        let peer = &mut self.connections[index as usize];
        peer.alive = true;
        peer.origin = origin;
        Some(ConnectionKey {
            index,
            generation: peer.generation,
        })
    }

    fn handle_origin(&mut self, key: ConnectionKey, origin: Origin) {
        self.peer(key).origin = origin;
    }

    fn handle_bytes(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        let mut consumed = 0;
        while let Some(size) = bytes[consumed..].first_chunk::<4>() {
            if self.is_paused(key) || self.connections[key.index as usize].closing {
                break;
            }
            let size = u32::from_le_bytes(*size) as usize;
            let Some(body) = bytes.get(consumed + 4..consumed + 4 + size) else {
                break;
            };
            if !self.handle_packet(key, body, now, effects) {
                break;
            }
            consumed += 4 + size;
            let peer = &mut self.connections[key.index as usize];
            peer.blocked = peer.output.len() + peer.unsent > UNSENT_MAX;
        }
        consumed
    }

    fn packet_size(&self, _: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        let size = bytes.first_chunk::<4>()?;
        Some(4 + u32::from_le_bytes(*size) as usize)
    }

    fn is_paused(&self, key: ConnectionKey) -> bool {
        let peer = &self.connections[key.index as usize];
        peer.generation == key.generation && (peer.paused_until.is_some() || peer.blocked)
    }

    fn handle_closed(&mut self, key: ConnectionKey, _: Instant, _: &mut Effects) {
        self.kill(key);
    }

    /// Leaves each envelope for a second time, which has to come before anything else of that shard.
    fn handle_envelope(
        &mut self,
        from: ShardId,
        envelope: Vec<u8>,
        _: usize,
        _: Instant,
        effects: &mut Effects,
    ) -> Option<Vec<u8>> {
        let left = &mut self.left[from.index()];
        if left.is_none() {
            *left = Some(envelope.clone());
            return Some(envelope);
        }
        assert_eq!(left.take(), Some(envelope.clone()));
        self.broadcast(&envelope, effects);
        None
    }

    fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        for key in self.alive() {
            let peer = self.peer(key);
            if peer.paused_until.is_some_and(|until| until <= now) {
                peer.paused_until = None;
                effects.resumed.push(key);
            }
            if peer.due_at.is_some_and(|at| at <= now) {
                peer.due_at = None;
                self.say(key, &packet(b'T', b"too late"), effects);
            }
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let deadlines = |p: &Peer| [p.paused_until, p.due_at];
        self.connections.iter().flat_map(deadlines).flatten().min()
    }

    fn take_output(&mut self, key: ConnectionKey, buffer: &mut Vec<u8>) {
        std::mem::swap(&mut self.peer(key).output, buffer);
    }

    fn handle_unsent(
        &mut self,
        key: ConnectionKey,
        unsent: usize,
        _: Instant,
        effects: &mut Effects,
    ) {
        let peer = self.peer(key);
        peer.unsent = unsent;
        peer.unsent_peak = peer.unsent_peak.max(unsent);
        if peer.blocked && peer.output.len() + unsent <= UNSENT_MAX {
            peer.blocked = false;
            effects.resumed.push(key);
        }
    }

    fn forget(&mut self, key: ConnectionKey) {
        self.kill(key);
    }

    fn outbound(&mut self, to: ShardId) -> &mut VecDeque<Vec<u8>> {
        &mut self.outbound[to.index()]
    }

    fn set_ring_room(&mut self, to: ShardId, room: usize) {
        self.rooms.push((to, room));
    }

    fn handle_ring_room(&mut self, _: &mut Effects) {}

    fn handle_shutdown(&mut self, _: Instant, effects: &mut Effects) {
        let keys = self.connections.iter().enumerate();
        let keys: Vec<ConnectionKey> = keys
            .filter(|(_, peer)| peer.alive && !peer.closing)
            .map(|(index, peer)| ConnectionKey {
                index: index as u32,
                generation: peer.generation,
            })
            .collect();
        for key in keys {
            self.say(key, &packet(b'S', b"shutdown"), effects);
            self.peer(key).closing = true;
            effects.closes.push(key);
        }
    }
}

fn serve(shard_count: usize) -> (SocketAddr, Running) {
    let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), shard_count).unwrap();
    let listeners = listeners.into_iter().map(|socket| vec![socket]).collect();
    let placed = vec![Placed::Anywhere; shard_count];
    (
        address,
        start(&placed, listeners, &NoticesSender::nowhere(), Echo::new).unwrap(),
    )
}

fn stop(running: Running) {
    running.stopper().stop();
    running.join().unwrap();
}

/// A client on the given shard.
struct Client {
    stream: TcpStream,
}

impl Client {
    fn connect(address: SocketAddr, shard: u8) -> Self {
        let mut client = Self::raw(address);
        client.send(b'H', &[shard]);
        assert_eq!(client.receive(), [b'H', shard]);
        client
    }

    fn raw(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        stream
            .set_write_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self { stream }
    }

    fn send(&mut self, command: u8, argument: &[u8]) {
        self.stream.write_all(&packet(command, argument)).unwrap();
    }

    fn receive(&mut self) -> Vec<u8> {
        let mut size = [0; 4];
        self.stream.read_exact(&mut size).unwrap();
        let mut body = vec![0; u32::from_le_bytes(size) as usize];
        self.stream.read_exact(&mut body).unwrap();
        body
    }

    fn expect(&mut self, command: u8, argument: &[u8]) {
        let body = self.receive();
        assert_eq!(body[0], command);
        assert!(body[1..] == *argument, "{} bytes differ", body.len() - 1);
    }

    fn expect_end(&mut self) {
        assert_eq!(self.stream.read(&mut [0; 1]).unwrap(), 0);
    }
}

#[test]
fn packets_cut_anywhere_arrive_whole_and_in_order() {
    let (address, running) = serve(1);
    let mut client = Client::raw(address);
    let mut bytes = packet(b'H', &[0]);
    for size in [0, 1, 3, 20, 200] {
        bytes.extend(packet(b'E', &vec![size as u8; size]));
    }
    // Byte by byte, each its own segment.
    for byte in &bytes {
        client.stream.write_all(&[*byte]).unwrap();
    }
    client.expect(b'H', &[0]);
    for size in [0, 1, 3, 20, 200] {
        client.expect(b'E', &vec![size as u8; size]);
    }
    stop(running);
}

#[test]
fn packets_behind_one_that_closes_another_connection_do_not_wait_for_more() {
    let (address, running) = serve(1);
    for cut in [1, 3, 6] {
        let mut other = Client::connect(address, 0);
        let mut client = Client::connect(address, 0);
        let mut bytes = packet(b'X', b"them");
        bytes.extend(packet(b'E', b"behind"));
        client.stream.write_all(&bytes[..cut]).unwrap();
        std::thread::sleep(Duration::from_millis(5));
        client.stream.write_all(&bytes[cut..]).unwrap();
        client.expect(b'X', b"them");
        client.expect(b'E', b"behind");
        other.expect_end();
    }
    stop(running);
}

/// What one says fills many receives, each of which is more than its shard handles at once.
#[test]
fn a_shard_that_is_always_out_of_time_handles_everything_in_order() {
    let (address, running) = serve(3);
    let clients: Vec<Client> = (0..12)
        .map(|number| Client::connect(address, number % 3))
        .collect();
    let threads: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                let body = |number: u32| {
                    let mut body = number.to_le_bytes().to_vec();
                    // Now and then larger than a slice, and than a receive buffer.
                    let size = [3, 17, 60, 900, 5_000, 20_000];
                    body.resize(
                        4 + size[if number % 50 < 5 {
                            number as usize % 6
                        } else {
                            1
                        }],
                        7,
                    );
                    body
                };
                let bytes: Vec<u8> = (0..10_000)
                    .flat_map(|number| packet(b'E', &body(number)))
                    .collect();
                let mut writer = client.stream.try_clone().unwrap();
                let thread = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
                for number in 0..10_000 {
                    client.expect(b'E', &body(number));
                }
                thread.join().unwrap();
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    stop(running);
}

#[test]
fn packets_larger_than_a_receive_buffer_arrive_whole() {
    let (address, running) = serve(1);
    let mut client = Client::connect(address, 0);
    for size in [10_000_usize, 16_384, 40_000, 1_000_000, 7] {
        let payload: Vec<u8> = (0..size).map(|at| (at / 251) as u8).collect();
        // Three at once, so that one ends and the next begins within a buffer.
        let mut writer = client.stream.try_clone().unwrap();
        let bytes = packet(b'E', &payload).repeat(3);
        let thread = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
        for _ in 0..3 {
            client.expect(b'E', &payload);
        }
        thread.join().unwrap();
    }
    stop(running);
}

#[test]
fn a_slow_reader_gets_everything_and_holds_up_nobody() {
    const SIZE: usize = 24 << 20;
    let (address, running) = serve(1);
    let mut slow = Client::connect(address, 0);
    let mut quick = Client::connect(address, 0);
    slow.send(b'F', &(SIZE as u32).to_le_bytes());
    // Once the flood has been made, which is the core's work and takes its time.
    std::thread::sleep(Duration::from_millis(50));
    quick.send(b'E', b"ready");
    quick.expect(b'E', b"ready");
    for _ in 0..100 {
        let start = std::time::Instant::now();
        quick.send(b'E', b"hello");
        quick.expect(b'E', b"hello");
        assert!(start.elapsed() < Duration::from_secs(1));
    }
    // Not read while so much is unsent; answered once it has left.
    slow.send(b'U', b"");
    let flood: Vec<u8> = (0..SIZE).map(|at| at as u8).collect();
    slow.expect(b'F', &flood);
    let answer = slow.receive();
    let peak = u32::from_le_bytes(answer[1..].try_into().unwrap());
    assert!(
        peak as usize > UNSENT_MAX,
        "unsent bytes were not reported: {peak}"
    );
    stop(running);
}

#[test]
fn a_client_that_does_not_read_is_no_longer_read() {
    const PACKETS_MAX: u32 = 20_000;
    let (address, running) = serve(1);
    let mut client = Client::connect(address, 0);
    client
        .stream
        .set_write_timeout(Some(Duration::from_millis(300)))
        .unwrap();
    let mut sent = 0_u32;
    let mut rest = Vec::new();
    while sent < PACKETS_MAX {
        let mut argument = vec![0; 4096];
        argument[..4].copy_from_slice(&sent.to_le_bytes());
        let bytes = packet(b'E', &argument);
        sent += 1;
        let mut written = 0;
        while written < bytes.len() {
            match client.stream.write(&bytes[written..]) {
                Ok(size) => written += size,
                Err(error) => {
                    assert!(matches!(
                        error.kind(),
                        ErrorKind::WouldBlock | ErrorKind::TimedOut
                    ));
                    rest = bytes[written..].to_vec();
                    break;
                }
            }
        }
        if !rest.is_empty() {
            break;
        }
    }
    assert!(
        sent < PACKETS_MAX,
        "80 MB were read from a client that reads nothing"
    );
    let mut writer = client.stream.try_clone().unwrap();
    writer
        .set_write_timeout(Some(Duration::from_secs(10)))
        .unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&rest).unwrap());
    for number in 0..sent {
        let body = client.receive();
        assert_eq!(body[1..5], number.to_le_bytes());
    }
    thread.join().unwrap();
    client.send(b'E', b"still there");
    client.expect(b'E', b"still there");
    stop(running);
}

#[test]
fn a_client_is_read_on_once_its_output_is_sent_though_nothing_else_happens() {
    let (address, running) = serve(1);
    for _ in 0..20 {
        let mut client = Client::connect(address, 0);
        let size = UNSENT_MAX as u32 + 1;
        let mut bytes = packet(b'F', &size.to_le_bytes());
        bytes.extend(packet(b'E', b"held back"));
        client.stream.write_all(&bytes).unwrap();
        assert_eq!(client.receive().len(), 1 + size as usize);
        client.expect(b'E', b"held back");
    }
    stop(running);
}

#[test]
fn a_blocked_client_gets_what_was_added_meanwhile_though_nothing_else_happens() {
    const SIZE: u32 = 16 << 20;
    let (address, running) = serve(1);
    let mut slow = Client::connect(address, 0);
    let mut other = Client::connect(address, 0);
    slow.send(b'F', &SIZE.to_le_bytes());
    std::thread::sleep(Duration::from_millis(50));
    other.send(b'B', b"to all");
    other.expect(b'B', b"to all");
    assert_eq!(slow.receive().len(), 1 + SIZE as usize);
    slow.expect(b'B', b"to all");
    stop(running);
}

#[test]
fn what_arrives_during_a_pause_is_handled_after_it() {
    let (address, running) = serve(1);
    let mut client = Client::connect(address, 0);
    for round in 0..5_u8 {
        let start = std::time::Instant::now();
        client.send(b'P', &[round]);
        for number in 0..100 {
            client.send(b'E', &[round, number]);
        }
        client.expect(b'P', &[round]);
        for number in 0..100 {
            client.expect(b'E', &[round, number]);
        }
        assert!(start.elapsed() >= PAUSE);
    }
    // The end of the stream does not overtake what was held.
    client.send(b'P', b"last");
    client.send(b'E', b"after the pause");
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect(b'P', b"last");
    client.expect(b'E', b"after the pause");
    client.expect_end();
    stop(running);
}

#[test]
fn the_last_packet_is_read_before_the_end_though_more_was_sent() {
    let (address, running) = serve(1);
    for _ in 0..50 {
        let mut client = Client::connect(address, 0);
        let mut bytes = packet(b'C', b"bye");
        bytes.extend(packet(b'E', &[7; 3000]));
        client.stream.write_all(&bytes).unwrap();
        // A reset instead of an end would make this fail, or lose the answer.
        let _ = client.stream.write_all(&[1; 1000]);
        client.expect(b'C', b"bye");
        client.expect_end();
    }
    stop(running);
}

#[test]
fn a_large_answer_is_flushed_before_the_close() {
    let (address, running) = serve(1);
    let mut client = Client::connect(address, 0);
    let size = 8_u32 << 20;
    let mut bytes = packet(b'F', &size.to_le_bytes());
    bytes.extend(packet(b'C', b"bye"));
    client.stream.write_all(&bytes).unwrap();
    std::thread::sleep(Duration::from_millis(100));
    assert_eq!(client.receive().len(), 1 + size as usize);
    client.expect(b'C', b"bye");
    client.expect_end();
    stop(running);
}

#[test]
fn a_client_that_ended_its_half_still_gets_its_answers() {
    let (address, running) = serve(1);
    for _ in 0..50 {
        let mut client = Client::connect(address, 0);
        client.send(b'E', b"question");
        client.stream.shutdown(Shutdown::Write).unwrap();
        client.expect(b'E', b"question");
        client.expect_end();
    }
    stop(running);
}

#[test]
fn a_thousand_connections_come_talk_and_go() {
    let (address, running) = serve(2);
    for round in 0..3_u8 {
        let mut clients: Vec<Client> = (0..1000)
            .map(|number| {
                let mut client = Client::raw(address);
                client.send(b'H', &[number as u8 % 2]);
                client
            })
            .collect();
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(b'H', &[number as u8 % 2]);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.send(b'E', &[round, number as u8]);
        }
        for (number, client) in clients.iter_mut().enumerate() {
            client.expect(b'E', &[round, number as u8]);
        }
    }
    stop(running);
}

#[test]
fn a_connection_moves_to_its_shard_with_all_that_was_sent() {
    let (address, running) = serve(3);
    for number in 0..200_u8 {
        let shard = number % 3;
        let mut client = Client::raw(address);
        let mut bytes = packet(b'H', &[shard]);
        for size in 0..20_usize {
            bytes.extend(packet(b'E', &vec![number; size * 40]));
        }
        // The first packet may be cut as well.
        let cut = usize::from(number) % 6;
        client.stream.write_all(&bytes[..cut]).unwrap();
        std::thread::sleep(Duration::from_micros(200));
        client.stream.write_all(&bytes[cut..]).unwrap();
        client.expect(b'H', &[shard]);
        for size in 0..20_usize {
            client.expect(b'E', &vec![number; size * 40]);
        }
    }
    stop(running);
}

#[test]
fn envelopes_reach_every_shard_in_order_and_wake_it() {
    let (address, running) = serve(3);
    let mut clients: Vec<Client> = (0..3)
        .map(|shard| Client::connect(address, shard))
        .collect();
    // One at a time, so that the others sleep in between.
    for round in 0..20_u8 {
        std::thread::sleep(Duration::from_millis(u64::from(round)));
        clients[usize::from(round) % 3].send(b'B', &[round]);
        for client in &mut clients {
            client.expect(b'B', &[round]);
        }
    }
    // More at once than a ring has slots.
    const MANY: u32 = 3 * crate::limits::RING_SLOTS as u32;
    let bytes: Vec<u8> = (0..MANY)
        .flat_map(|number| packet(b'B', &number.to_le_bytes()))
        .collect();
    let mut writer = clients[0].stream.try_clone().unwrap();
    let thread = std::thread::spawn(move || writer.write_all(&bytes).unwrap());
    let readers: Vec<_> = clients
        .into_iter()
        .map(|mut client| {
            std::thread::spawn(move || {
                for number in 0..MANY {
                    client.expect(b'B', &number.to_le_bytes());
                }
                client
            })
        })
        .collect();
    thread.join().unwrap();
    let clients: Vec<_> = readers
        .into_iter()
        .map(|reader| reader.join().unwrap())
        .collect();
    drop(clients);
    stop(running);
}

#[test]
fn shutdown_tells_everybody_and_ends_within_its_time() {
    let (address, running) = serve(2);
    let mut clients: Vec<Client> = (0..20).map(|n| Client::connect(address, n % 2)).collect();
    let mut silent = Client::raw(address);
    silent.send(b'E', b"x");
    silent.expect(b'E', b"x");
    std::thread::sleep(Duration::from_millis(50));
    let start = std::time::Instant::now();
    running.stopper().stop();
    for client in &mut clients {
        client.expect(b'S', b"shutdown");
        client.expect_end();
    }
    // This one does not close its end.
    silent.expect(b'S', b"shutdown");
    drop(clients);
    running.join().unwrap();
    assert!(start.elapsed() < Duration::from_secs(5));
    assert!(TcpStream::connect(address).is_err());
}

#[test]
fn a_shard_that_panics_is_reported() {
    let (address, running) = serve(1);
    let mut client = Client::connect(address, 0);
    client.send(b'K', b"");
    let error = running.join().unwrap_err();
    assert!(error.to_string().starts_with("shard 0"), "{error}");
}

/// Says to the process of a test that it is the one to panic.
const TO_PANIC: &str = "FASTMQ_TEST_PANICS";

#[test]
fn a_panic_is_told_to_the_log_before_it_ends_the_process() {
    if std::env::var_os(TO_PANIC).is_some() {
        exit_on_panic(|panic| print!("last words: {panic}"));
        let _ = std::thread::spawn(|| panic!("no way on")).join();
        std::process::exit(0);
    }
    let name = "a_panic_is_told_to_the_log_before_it_ends_the_process";
    let module = module_path!().split_once("::").unwrap().1;
    let other = std::process::Command::new(std::env::current_exe().unwrap())
        .args([
            &format!("{module}::{name}"),
            "--exact",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(TO_PANIC, "1")
        .output()
        .unwrap();
    assert_eq!(other.status.code(), Some(101));
    let said = String::from_utf8(other.stdout).unwrap();
    assert!(
        said.contains("last words: panicked at ") && said.contains("no way on"),
        "{said}"
    );
    let reported = String::from_utf8(other.stderr).unwrap();
    assert!(reported.contains("no way on"), "{reported}");
}

#[test]
fn an_idle_shard_sleeps_and_is_woken_by_what_comes() {
    let (address, running) = serve(2);
    let mut client = Client::connect(address, 1);
    let before = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    for _ in 0..5 {
        std::thread::sleep(Duration::from_millis(100));
        client.send(b'E', b"awake?");
        // A wait that nothing ends takes an hour, which is longer than the client waits.
        client.expect(b'E', b"awake?");
    }
    // Other tests share the process, so its CPU time says nothing unless this one runs alone.
    let after = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    let spent_ms =
        (after.tv_sec - before.tv_sec) * 1000 + (after.tv_nsec - before.tv_nsec) / 1_000_000;
    println!("CPU time while idle, both shards and client: {spent_ms} ms in 500 ms");
    stop(running);
}

#[test]
fn what_came_in_time_while_the_shard_did_not_run_is_read_before_anything_is_late() {
    const DUE_MS: u8 = 250;
    // More than one look at the sockets finds.
    let (address, running) = serve(1);
    let mut clients: Vec<_> = (0..100).map(|_| Client::connect(address, 0)).collect();
    let mut stopper = Client::connect(address, 0);
    for client in &mut clients {
        client.send(b'D', &[DUE_MS]);
        client.expect(b'D', &[DUE_MS]);
    }
    let all_are_due = std::time::Instant::now() + Duration::from_millis(DUE_MS.into());
    stopper.send(b'Z', b"");
    STANDSTILL.wait();
    for client in &mut clients {
        client.send(b'E', b"in time");
    }
    // By the clock it is later than a shard ever is that runs.
    let patience = Duration::from_millis(100);
    std::thread::sleep(
        (all_are_due + patience).saturating_duration_since(std::time::Instant::now()),
    );
    STANDSTILL.wait();
    for client in &mut clients {
        client.expect(b'E', b"in time");
    }
    stopper.expect(b'Z', b"");
    stop(running);
}
