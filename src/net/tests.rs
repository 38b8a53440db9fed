//! The data path alone, turn by turn, with a clock of the test's: what circulates, and what is given up.

#![forbid(unsafe_code)]

use super::connection::State;
use super::data_path::CLOSE_LINGER;
use super::pace::{BATCH_MIN, BATCH_SIZE_MAX, SENDS_MANY, SLICE_SIZE};
use super::straight::LARGE_MIN;
use super::tls::tests::{Authority, Folder, settings};
use super::tls::{Prepared, TlsAcceptor};
use super::transport::Wrapping;
use super::{Core, DataPath, ListenerChange, Peers, Room, Waker, listen};
use crate::key::{ConnectionKey, ShardId};
use crate::limits::{UNCONNECTED_BYTES_FREE, UNCONNECTED_BYTES_MAX, UNCONNECTED_PATIENCE};
use crate::origin::Origin;
use crate::shard::{Effects, Kept};
use crate::time::Instant;
use std::cell::Cell;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

/// Says whatever is said to it. Who ends with "!" is let go, and "." says that nothing more follows.
#[derive(Default)]
struct Echo {
    /// Their state: whether they are to have more again.
    peers: Peers<bool>,
    outbound: VecDeque<()>,
    /// How often it was asked what is to be sent.
    asked: Rc<Cell<usize>>,
    is_paused: bool,
    /// Turns are cut short as soon as they can be.
    is_hurried: bool,
    /// Hears packets, which begin with their size.
    is_framed: bool,
    /// How often it was given packets in a buffer that it might keep.
    whole: usize,
    /// Says what becomes of such a buffer.
    kept: Kept,
    /// Messages in each envelope.
    batch: usize,
    flood: Option<Flood>,
    /// Who was sent as much has as much to be sent again, as soon as all of that was taken.
    again: Vec<u8>,
    /// Bytes that were taken to be sent, and what was then when few were last taken.
    taken: Rc<Cell<usize>>,
    taken_before: Rc<Cell<usize>>,
}

/// Bytes that are told apart by their place, more of them whenever all before them were taken.
#[derive(Default)]
struct Flood {
    begun: usize,
    unsent: usize,
}

impl Flood {
    const SIZE: usize = 20_000_000;

    fn byte(place: usize) -> u8 {
        (place % 251) as u8
    }

    fn go_on(&mut self, size: usize, bytes: &mut Vec<u8>) {
        let end = (self.begun + size).min(Self::SIZE);
        bytes.extend((self.begun..end).map(Self::byte));
        self.begun = end;
    }
}

impl Core for Echo {
    type Envelope = ();

    /// No turn of most tests is cut short.
    fn turn_max(&self) -> Duration {
        Duration::from_secs(if self.is_hurried { 0 } else { 3600 })
    }

    fn handle_accept(&mut self, _: Origin, _: Instant) -> Option<ConnectionKey> {
        Some(self.peers.accept())
    }

    fn handle_bytes(
        &mut self,
        key: ConnectionKey,
        bytes: &[u8],
        _: Instant,
        effects: &mut Effects,
    ) -> usize {
        let mut end = bytes.len();
        if self.is_framed {
            end = 0;
            while let Some(size) = framed_size(&bytes[end..])
                && size <= bytes.len() - end
            {
                end += size;
            }
        }
        let bytes = &bytes[..end];
        self.peers.send(key.index, bytes, effects);
        if bytes.ends_with(b"!") || bytes.ends_with(b".") {
            effects.closes.push(key);
        }
        if bytes.ends_with(b".") {
            effects.left.push(key);
        }
        bytes.len()
    }

    fn handle_packets_in(
        &mut self,
        key: ConnectionKey,
        packets: &mut Vec<u8>,
        now: Instant,
        effects: &mut Effects,
    ) -> usize {
        self.whole += 1;
        effects.kept = self.kept;
        self.handle_bytes(key, packets, now, effects)
    }

    fn packet_size(&self, _: ConnectionKey, bytes: &[u8]) -> Option<usize> {
        framed_size(bytes).filter(|_| self.is_framed)
    }

    fn is_paused(&self, _: ConnectionKey) -> bool {
        self.is_paused
    }

    fn handle_closed(&mut self, key: ConnectionKey, _: Instant, _: &mut Effects) {
        self.peers.remove(key);
    }

    fn handle_envelope(
        &mut self,
        _: ShardId,
        (): (),
        _: usize,
        _: Instant,
        effects: &mut Effects,
    ) -> Option<()> {
        effects.messages = self.batch;
        None
    }

    fn handle_timeout(&mut self, _: Instant, _: &mut Effects) {}

    fn next_deadline(&self) -> Option<Instant> {
        None
    }

    fn take_output(&mut self, key: ConnectionKey, buffer: &mut Vec<u8>) {
        self.asked.set(self.asked.get() + 1);
        self.peers.take_output(key, buffer);
        if (1..100).contains(&buffer.len()) {
            self.taken_before.set(self.taken.get());
        }
        self.taken.set(self.taken.get() + buffer.len());
        if !self.again.is_empty() && buffer.len() == self.again.len() {
            self.peers.get(key.index).state = true;
        }
        if let Some(flood) = &mut self.flood
            && flood.unsent == 0
        {
            flood.go_on(50_000, buffer);
        }
    }

    fn output_size(&self, key: ConnectionKey) -> usize {
        self.peers.output_size(key)
    }

    fn handle_unsent(
        &mut self,
        key: ConnectionKey,
        unsent: usize,
        _: Instant,
        effects: &mut Effects,
    ) {
        if unsent == 0 && std::mem::take(&mut self.peers.get(key.index).state) {
            self.peers.send(key.index, &self.again, effects);
        }
        if let Some(flood) = &mut self.flood {
            flood.unsent = unsent;
            if unsent == 0 {
                self.peers.mark_dirty(key.index, effects);
            }
        }
    }

    fn forget(&mut self, key: ConnectionKey) {
        self.peers.remove(key);
    }

    fn outbound(&mut self, _: ShardId) -> &mut VecDeque<()> {
        &mut self.outbound
    }

    fn handle_ring_room(&mut self, _: &mut Effects) {}

    fn handle_shutdown(&mut self, _: Instant, effects: &mut Effects) {
        effects.closes.extend(self.peers.keys());
    }
}

fn framed_size(bytes: &[u8]) -> Option<usize> {
    Some(u32::from_le_bytes(*bytes.first_chunk()?) as usize)
}

/// A packet of that size, at least its four bytes, unlike others of its size.
fn framed(size: usize, salt: usize) -> Vec<u8> {
    let mut packet = (size as u32).to_le_bytes().to_vec();
    packet.extend((0..size - 4).map(|at| b'A' + ((at + salt) % 26) as u8));
    packet
}

struct Rig {
    path: DataPath<Echo>,
    address: SocketAddr,
    now: Instant,
    asked: Rc<Cell<usize>>,
    taken: Rc<Cell<usize>>,
}

impl Rig {
    fn new() -> Self {
        Self::with_room(Room::new(1))
    }

    fn with_room(room: Room) -> Self {
        let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let waker = Waker::new().unwrap();
        let echo = Echo::default();
        let (asked, taken) = (echo.asked.clone(), echo.taken.clone());
        let path = DataPath::new(echo, listeners, waker, room, Instant::ZERO);
        Self {
            path: path.unwrap(),
            address,
            now: Instant::ZERO,
            asked,
            taken,
        }
    }

    fn turn(&mut self) {
        self.turn_within(Some(Duration::from_millis(50)));
    }

    fn turn_within(&mut self, wait: Option<Duration>) {
        self.path.flush();
        self.path.enter(wait);
        self.path.begin_turn(std::time::Instant::now());
        self.path.handle_completions(self.now);
        self.path.handle_timeouts(self.now);
        self.path.handle_resumed();
    }

    /// The core has something for a Client.
    fn say(&mut self, key: ConnectionKey, words: &[u8]) {
        let effects = &mut self.path.effects;
        self.path.core.peers.send(key.index, words, effects);
        self.path.carry_out_effects();
    }

    /// A Client that is read with many receives from now on.
    fn connect(&mut self) -> TcpStream {
        let mut client = TcpStream::connect(self.address).unwrap();
        client.set_nonblocking(true).unwrap();
        client.write_all(b"hello").unwrap();
        self.expect(&mut client, b"hello");
        client
    }

    /// Goes on until `client` has received `expected`.
    fn expect(&mut self, client: &mut TcpStream, expected: &[u8]) {
        let mut received = vec![0; expected.len()];
        let mut filled = 0;
        for _ in 0..1000 {
            self.turn();
            while filled < expected.len() {
                match client.read(&mut received[filled..]) {
                    Ok(0) => panic!("{filled} bytes of {} came back", expected.len()),
                    Ok(size) => filled += size,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::WouldBlock);
                        break;
                    }
                }
            }
            if filled == expected.len() {
                assert_eq!(received, expected);
                return;
            }
        }
        panic!("{filled} bytes of {} came back", expected.len());
    }
}

#[test]
fn more_receive_buffers_circulate_after_a_turn_in_which_most_receives_found_none() {
    const CLIENTS: u32 = 128;
    let mut rig = Rig::new();
    let mut clients: Vec<TcpStream> = (0..CLIENTS).map(|_| rig.connect()).collect();
    let before = rig.path.uring.buffers().circulating();
    assert!(u32::from(before) < CLIENTS / 2, "too many to be missed");
    for client in &mut clients {
        client.write_all(b"all at once").unwrap();
    }
    rig.path.flush();
    rig.path.uring.enter(CLIENTS, Some(Duration::from_secs(10)));
    rig.path.begin_turn(std::time::Instant::now());
    rig.path.handle_completions(rig.now);
    assert_eq!(rig.path.uring.buffers().circulating(), before * 2);
    // Those that found none are not forgotten.
    for client in &mut clients {
        rig.expect(client, b"all at once");
    }
}

#[test]
fn spare_buffers_are_given_up_once_the_connections_that_used_them_are_silent() {
    const SPARE: usize = 100;
    let mut rig = Rig::new();
    for _ in 0..SPARE {
        rig.path.pool.put(vec![0; 100]);
    }
    let _client = rig.connect();
    while let Some(at) = rig.path.next_deadline() {
        rig.now = at;
        rig.path.handle_timeouts(at);
        assert!(
            at < Instant::ZERO + Duration::from_secs(60),
            "it comes to rest"
        );
    }
    let takes = 0..SPARE;
    let left = takes.filter(|_| rig.path.pool.take(0).capacity() > 0);
    assert!(
        left.count() <= 2,
        "but for what the last look has found in use"
    );
}

#[test]
fn spare_buffers_are_given_up_once_the_connections_that_used_them_have_all_left() {
    const SPARE: usize = 20;
    const SIZE: usize = 100_000;
    let mut rig = Rig::new();
    let client = rig.connect();
    for _ in 0..SPARE {
        rig.path.pool.put(vec![0; SIZE]);
    }
    // All of them are in use when it is looked for what is not.
    let used: Vec<_> = (0..SPARE).map(|_| rig.path.pool.take(SIZE)).collect();
    for buffer in used {
        rig.path.pool.put(buffer);
    }
    drop(client);
    while rig.path.connections.count() > 0 {
        rig.turn();
    }
    let mut looks = 0;
    while let Some(at) = rig.path.next_deadline() {
        rig.now = rig.now.max(at);
        rig.path.handle_timeouts(rig.now);
        looks += 1;
        assert!(looks < 10, "it comes to rest");
    }
    let left = rig.path.pool.size();
    assert!(left < SIZE, "{left} bytes");
}

#[test]
fn the_list_of_closing_connections_is_short_again_after_thousands_have_left_at_once() {
    const CLIENTS: usize = 10_000;
    let mut rig = Rig::new();
    let client = rig.connect();
    for _ in 0..CLIENTS {
        // As if it were another one each time.
        rig.path.linger(0);
    }
    assert!(rig.path.closing.capacity() >= CLIENTS);
    drop(client);
    while rig.path.connections.count() > 0 {
        rig.turn();
    }
    rig.now = rig.now + CLOSE_LINGER;
    for _ in 0..CLIENTS {
        rig.path.handle_timeouts(rig.now);
    }
    assert!(rig.path.closing.is_empty());
    let room = rig.path.closing.capacity();
    assert!(room < CLIENTS / 10, "room for {room}");
}

/// A step with a large key takes longer than a turn has for all.
#[test]
fn what_comes_behind_the_handshakes_of_others_is_handled_before_the_first_step_of_theirs() {
    const HELLOS: usize = 5;
    let (authority, folder) = (Authority::new(), Folder::new());
    let prepared = Prepared::load(&settings(&authority, &folder)).unwrap();
    let wrapping = Wrapping {
        tls: Some(TlsAcceptor::new(prepared)),
        ..Wrapping::default()
    };
    let mut rig = Rig::new();
    let mut client = rig.connect();
    let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    for mut listener in listeners {
        listener.wrapping = wrapping.clone().into();
        rig.path.change_listener(ListenerChange::Open(listener));
    }
    let flood: Vec<TcpStream> = (0..HELLOS)
        .map(|_| {
            let mut stream = TcpStream::connect(address).unwrap();
            let mut session = authority.client_session(None);
            session.write_tls(&mut stream).unwrap();
            stream
        })
        .collect();
    client.write_all(b"in a hurry").unwrap();
    let looks = (1..1000).find(|_| {
        rig.path.enter(Some(Duration::from_millis(50)));
        rig.path.begin_turn(std::time::Instant::now());
        rig.path.handle_completions(rig.now);
        rig.path.handshakes.deferred.len() == HELLOS
    });
    assert!(looks.is_some(), "all of them wait");
    rig.turn();
    assert_eq!(rig.path.handshakes.deferred.len(), HELLOS - 1);
    rig.expect(&mut client, b"in a hurry");
    drop(flood);
}

/// The end that a Client which has left still owes [MQTT-3.14.4-2] is not waited for.
#[test]
fn nobody_waits_for_the_end_of_a_client_that_has_left_but_for_that_of_others() {
    let mut rig = Rig::new();
    // As much as has to wait for room in the socket.
    let mut much = vec![b'x'; 8 << 20];
    much.push(b'.');
    for (words, is_closed) in [(&b"leave!"[..], false), (b"bye.", true), (&much, true)] {
        let mut client = rig.connect();
        let mut said = 0;
        while said < words.len() {
            match client.write(&words[said..]) {
                Ok(size) => said += size,
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            rig.turn();
        }
        rig.expect(&mut client, words);
        let end = std::iter::repeat_with(|| {
            rig.turn();
            client.read(&mut [0])
        });
        // Everything that was said to it arrives, and then the end.
        let end = end.take(1000).find(Result::is_ok);
        assert_eq!(end.expect("an end").unwrap(), 0);
        let closed = std::iter::repeat_with(|| {
            rig.turn();
            rig.path.is_empty()
        });
        let turns = if is_closed { 1000 } else { 3 };
        assert_eq!(closed.take(turns).any(|it| it), is_closed);
        drop(client);
        while !rig.path.is_empty() {
            rig.turn();
        }
    }
}

#[test]
fn thousands_of_clients_that_fall_silent_lose_their_buffers_a_few_in_each_turn() {
    const CLIENTS: usize = 400;
    let mut rig = Rig::new();
    let connect = |_| TcpStream::connect(rig.address).unwrap();
    let mut clients: Vec<_> = (0..CLIENTS).map(connect).collect();
    // The first time each takes the place of what it was first sent in: the second one leaves something.
    for words in [b"hello", b"again"] {
        for client in &mut clients {
            client.set_nonblocking(true).unwrap();
            client.write_all(words).unwrap();
        }
        for client in &mut clients {
            while client.read_exact(&mut [0; 5]).is_err() {
                rig.turn();
            }
        }
    }
    rig.asked.set(0);
    let (mut most, mut turns) = (0, 0);
    // Used since anybody looked, then not used, each in a second of its own.
    while rig.path.next_deadline().is_some() {
        rig.now = rig.now.max(rig.path.next_deadline().unwrap());
        let before = rig.asked.get();
        rig.path.handle_timeouts(rig.now);
        most = most.max(rig.asked.get() - before);
        turns += 1;
        assert!(turns < 1000, "an end");
    }
    assert_eq!(rig.asked.get(), CLIENTS);
    assert!(most <= 128, "{most} in one turn");
    assert!((Duration::from_secs(1)..Duration::from_secs(3)).contains(&(rig.now - Instant::ZERO)));
}

#[test]
fn a_client_that_does_not_read_gets_everything_in_its_order_once_it_does_and_nobody_moves_it_meanwhile()
 {
    const ROUNDS: usize = 600;
    let mut rig = Rig::new();
    for ending in ["", "."] {
        let mut client = rig.connect();
        let key = rig.path.core.peers.keys().next().unwrap();
        let slot = rig.path.connections.find(key).unwrap();
        // Fills what the kernel takes, and then what is kept here.
        let mut expected = Vec::new();
        let mut round = 0;
        while round < ROUNDS {
            let is_blocked = rig.path.connections.get(slot).unsent_size() > 0;
            let size = if is_blocked { 900 + round } else { 100_000 };
            let words: Vec<u8> = (0..size).map(|at| (at % 250 + round % 7) as u8).collect();
            rig.say(key, &words);
            rig.path.flush();
            rig.path.enter(None);
            rig.path.handle_completions(rig.now);
            expected.extend_from_slice(&words);
            round += usize::from(is_blocked);
        }
        let unsent = rig.path.connections.get(slot).backlog_size();
        assert!(unsent >= ROUNDS * 900, "{unsent}");
        client.write_all(ending.as_bytes()).unwrap();
        expected.extend_from_slice(ending.as_bytes());
        rig.expect(&mut client, &expected);
        assert_eq!(rig.path.connections.get(slot).unsent_size(), 0);
        drop(client);
        while !rig.path.is_empty() {
            rig.turn();
        }
    }
}

#[test]
fn what_a_core_adds_when_it_is_asked_and_while_it_waits_arrives_in_its_order_at_a_client_that_reads_slowly()
 {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    let key = rig.path.core.peers.keys().next().unwrap();
    rig.path.core.flood = Some(Flood::default());
    let mut received = 0;
    let mut part = vec![0; 70_000];
    for round in 0_usize.. {
        let core = &mut rig.path.core;
        if let Some(flood) = &mut core.flood {
            flood.go_on(100 + round % 500, &mut core.peers.get(key.index).out);
        }
        core.peers.mark_dirty(key.index, &mut rig.path.effects);
        rig.path.carry_out_effects();
        rig.path.flush();
        rig.path.enter(None);
        rig.path.begin_turn(std::time::Instant::now());
        rig.path.handle_completions(rig.now);
        match client.read(&mut part[..1 + round * 7919 % 69_999]) {
            Ok(0) => panic!("closed after {received} bytes"),
            Ok(size) => {
                let wrong = (0..size).find(|at| part[*at] != Flood::byte(received + at));
                assert_eq!(wrong, None, "after {received} bytes");
                received += size;
            }
            Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
        }
        if received == Flood::SIZE {
            return;
        }
    }
}

#[test]
fn what_is_held_of_a_connection_that_was_paused_is_handled_over_many_turns_and_in_its_order() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    let key = rig.path.core.peers.keys().next().unwrap();
    let slot = rig.path.connections.find(key).unwrap();
    rig.path.core.is_paused = true;
    let words: Vec<u8> = (0..60_000).map(|at| b'a' + (at % 23) as u8).collect();
    let (held, late) = words.split_at(50_000);
    client.write_all(held).unwrap();
    // One is handled before it is seen that it is paused.
    let mut heard = 0;
    while heard + rig.path.connections.get(slot).held.len() < held.len() {
        rig.turn();
        heard = rig.path.core.peers.get(key.index).out.len();
    }
    rig.path.core.is_paused = false;
    rig.path.core.is_hurried = true;
    client.write_all(late).unwrap();
    rig.path.effects.resumed.push(key);
    rig.path.carry_out_effects();
    let mut turns = 0;
    while !rig.path.connections.get(slot).held.is_empty() {
        let before = rig.path.connections.get(slot).held.len();
        rig.path.begin_turn(std::time::Instant::now());
        rig.path.handle_resumed();
        let after = rig.path.connections.get(slot).held.len();
        assert!(before - after <= SLICE_SIZE, "{before} to {after}");
        turns += 1;
    }
    assert!(turns >= held.len() / SLICE_SIZE / 2, "{turns} turns");
    rig.expect(&mut client, &words);
}

#[test]
fn the_socket_of_who_sends_large_packets_is_read_straight_until_as_many_small_ones_have_come() {
    let mut rig = Rig::new();
    let mut client = rig.connect();
    rig.path.core.is_framed = true;
    let key = rig.path.core.peers.keys().next().unwrap();
    let slot = rig.path.connections.find(key).unwrap();
    let mut say = |rig: &mut Rig, size| {
        let packet = framed(size, size);
        client.write_all(&packet).unwrap();
        rig.expect(&mut client, &packet);
        // What was to be cancelled ends in the next turn.
        rig.turn();
        let state = rig.path.connections.get(slot).state;
        assert_eq!(state.has(State::STRAIGHT), state.has(State::POLLED));
        state.has(State::STRAIGHT)
    };
    for _ in 0..3 {
        assert!(!say(&mut rig, LARGE_MIN));
        assert!(!say(&mut rig, LARGE_MIN - 1));
    }
    assert!(say(&mut rig, LARGE_MIN));
    for size in [5, 2 * LARGE_MIN, 100, 3 * LARGE_MIN + 1, LARGE_MIN - 1, 4] {
        assert!(say(&mut rig, size), "{size}");
    }
    let held = &rig.path.connections.get(slot).held;
    assert_eq!(held.capacity(), 0, "nothing while nothing comes");
    assert!(say(&mut rig, 10));
    assert!(!say(&mut rig, 10));
    assert!(!say(&mut rig, LARGE_MIN));
}

/// A client that has sent so many large packets of one size that its socket is read straight, and such a packet.
fn large_sender(rig: &mut Rig) -> (TcpStream, Vec<u8>) {
    let mut client = rig.connect();
    rig.path.core.is_framed = true;
    let packet = framed(2 * LARGE_MIN, 0);
    for _ in 0..5 {
        client.write_all(&packet).unwrap();
        rig.expect(&mut client, &packet);
    }
    // What was to be cancelled ends in the next turn.
    rig.turn();
    (client, packet)
}

#[test]
fn large_packets_of_one_size_behind_each_other_are_read_one_by_one_also_after_a_part_of_a_header() {
    let mut rig = Rig::new();
    let (mut client, packet) = large_sender(&mut rig);
    let before = rig.path.core.whole;
    let three = packet.repeat(3);
    let (start, rest) = three.split_at(packet.len() + 2);
    client.write_all(start).unwrap();
    rig.expect(&mut client, &packet);
    // Reads the part of the next header that is there.
    rig.turn();
    client.write_all(rest).unwrap();
    rig.expect(&mut client, &three[packet.len()..]);
    assert_eq!(rig.path.core.whole - before, 3);
}

#[test]
fn large_packets_that_come_faster_than_they_are_read_are_read_together_if_they_may_be_passed_on_so()
{
    // How many have come by the next turn is the system's: about a dozen reads, and one or two more on a busy machine.
    for (kept, most) in [(Kept::Run, 24), (Kept::Packet, 32), (Kept::No, 32)] {
        let mut rig = Rig::new();
        rig.path.core.kept = kept;
        let (mut client, packet) = large_sender(&mut rig);
        let before = rig.path.core.whole;
        let many = packet.repeat(32);
        let mut said = 0;
        let mut heard = Vec::new();
        while heard.len() < many.len() {
            said += client.write(&many[said..]).unwrap_or(0);
            // A part of the last one that has arrived is not there yet, now and then.
            rig.turn();
            let mut part = vec![0; 1 << 20];
            if let Ok(size) = client.read(&mut part) {
                heard.extend_from_slice(&part[..size]);
            }
        }
        assert_eq!(heard, many);
        let reads = rig.path.core.whole - before;
        assert!(reads <= most, "{kept:?}: {reads}");
        assert!(kept == Kept::Run || reads == 32, "{kept:?}: {reads}");
    }
}

/// Sizes, cuts, pauses and turns that are too short, as chance has it.
#[test]
fn large_and_small_packets_arrive_whole_and_in_their_order_however_they_are_cut_and_paused() {
    let mut straight = 0;
    for seed in 0..30_u64 {
        let mut state = seed;
        let mut below = |bound: usize| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(seed | 1);
            (state >> 33) as usize % bound
        };
        let mut rig = Rig::new();
        let mut client = rig.connect();
        rig.path.core.is_framed = true;
        rig.path.core.is_hurried = seed % 2 == 1;
        rig.path.core.kept = [Kept::No, Kept::Packet, Kept::Run][seed as usize % 3];
        let key = rig.path.core.peers.keys().next().unwrap();
        let slot = rig.path.connections.find(key).unwrap();
        let mut words = Vec::new();
        let mut size = 0;
        while words.len() < 3_000_000 {
            // Seldom between the two kinds, so that both have their time.
            let is_large = words.len() / 500_000 % 2 == 0;
            // Often as the one before, so that several are read at once.
            if is_large != (size >= LARGE_MIN) || below(3) == 0 {
                size = if is_large != (below(20) == 0) {
                    below(200_000)
                } else {
                    below(1000)
                };
            }
            words.extend(framed(size + 4, words.len()));
        }
        let (mut said, mut heard, mut turns) = (0, Vec::new(), 0);
        while heard.len() < words.len() {
            let end = words.len().min(said + 1 + below(150_000));
            match client.write(&words[said..end]) {
                Ok(size) => said += size,
                Err(error) if said < end => assert_eq!(error.kind(), ErrorKind::WouldBlock),
                Err(_) => {}
            }
            if below(10) == 0 {
                rig.path.core.is_paused = true;
            } else if rig.path.core.is_paused && below(3) == 0 {
                rig.path.core.is_paused = false;
                rig.path.effects.resumed.push(key);
                rig.path.carry_out_effects();
            }
            rig.turn_within(None);
            let state = rig.path.connections.get(slot).state;
            straight += usize::from(state.has(State::POLLED));
            let mut part = vec![0; 100_000];
            match client.read(&mut part) {
                Ok(0) => panic!("seed {seed}: closed"),
                Ok(size) => heard.extend_from_slice(&part[..size]),
                Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock),
            }
            turns += 1;
            assert!(
                turns < 200_000,
                "seed {seed}: {} of {}",
                heard.len(),
                words.len()
            );
        }
        let wrong = (0..words.len()).find(|at| heard[*at] != words[*at]);
        assert_eq!(wrong, None, "seed {seed}");
    }
    assert!(straight > 100, "{straight} turns");
}

#[test]
fn a_client_whose_socket_is_read_straight_leaves_and_is_closed_as_others_are() {
    let mut rig = Rig::new();
    rig.path.core.is_framed = true;
    let packet = framed(2 * LARGE_MIN, 0);
    // The whole of the last one, a part of it, a word that ends it, and with the peer's end to come.
    for last in [
        &packet[..],
        &packet[..LARGE_MIN],
        b"\x05\0\0\0!",
        b"\x05\0\0\0.",
    ] {
        let mut client = TcpStream::connect(rig.address).unwrap();
        client.set_nonblocking(true).unwrap();
        for _ in 0..5 {
            client.write_all(&packet).unwrap();
            rig.expect(&mut client, &packet);
        }
        rig.turn();
        let key = rig.path.core.peers.keys().next().unwrap();
        let slot = rig.path.connections.find(key).unwrap();
        assert!(rig.path.connections.get(slot).state.has(State::POLLED));
        client.write_all(last).unwrap();
        if last.len() == packet.len() || last.len() == 5 {
            rig.expect(&mut client, last);
        } else {
            rig.turn();
        }
        drop(client);
        let mut turns = 0;
        while !rig.path.is_empty() {
            rig.turn();
            turns += 1;
            assert!(turns < 1000, "for ever");
        }
        assert_eq!(rig.path.core.peers.keys().count(), 0);
    }
}

#[test]
fn each_message_of_a_batch_counts_towards_the_next_look_at_the_clock() {
    for (batch, envelopes) in [(0, 8), (1, 8), (4, 2), (8, 1)] {
        // A new one each: after the look it may look more often, as this machine is fast or slow.
        let mut rig = Rig::new();
        rig.path.core.is_hurried = true;
        rig.path.core.batch = batch;
        rig.path.begin_turn(std::time::Instant::now());
        let mut handled = 0;
        loop {
            handled += 1;
            assert_eq!(rig.path.handle_envelope(ShardId(1), ()), None);
            if rig.path.is_part_over() {
                break;
            }
        }
        assert_eq!(handled, envelopes, "{batch} in each");
    }
}

#[test]
fn a_shard_hears_of_a_connection_once_its_peer_has_spoken_and_of_a_silent_one_later() {
    let mut rig = Rig::new();
    let mut talkative = TcpStream::connect(rig.address).unwrap();
    let _silent = TcpStream::connect(rig.address).unwrap();
    for _ in 0..4 {
        rig.turn();
    }
    assert_eq!(rig.path.connections.count(), 0);
    talkative.set_nonblocking(true).unwrap();
    talkative.write_all(b"hello").unwrap();
    rig.expect(&mut talkative, b"hello");
    assert_eq!(rig.path.connections.count(), 1);
    let start = std::time::Instant::now();
    while rig.path.connections.count() < 2 {
        rig.turn();
        assert!(start.elapsed() < Duration::from_secs(10), "for ever");
    }
}

/// So many Clients, and the names of their connections.
fn crowd(rig: &mut Rig, count: usize) -> Vec<(TcpStream, ConnectionKey)> {
    let known = |rig: &Rig| rig.path.core.peers.keys().collect::<Vec<_>>();
    let mut crowd = Vec::new();
    for _ in 0..count {
        let before = known(rig);
        let client = rig.connect();
        let mut new = known(rig).into_iter().filter(|key| !before.contains(key));
        crowd.push((client, new.next().unwrap()));
    }
    crowd
}

#[test]
fn a_turn_whose_time_is_over_sends_to_a_few_of_the_new_and_of_the_late_and_all_have_it_in_order() {
    const CLIENTS: usize = 150;
    let mut rig = Rig::new();
    let mut clients = crowd(&mut rig, CLIENTS);
    rig.path.core.is_hurried = true;
    rig.turn_within(None);
    // One message to all.
    for (_, key) in &clients {
        rig.say(*key, b"one ");
    }
    rig.turn_within(None);
    assert_eq!(rig.path.late.len(), CLIENTS - BATCH_MIN);
    assert!(rig.path.has_work(), "nothing waits for more to come");
    // Those who are late are not named twice, and what they are sent next stands behind.
    for (_, key) in &clients {
        rig.say(*key, b"two ");
    }
    assert_eq!(rig.path.dirty.len(), BATCH_MIN);
    rig.turn_within(None);
    assert_eq!(rig.path.late.len(), CLIENTS - 2 * BATCH_MIN);
    // Who is new does not wait for all of them, and they do not wait for who is new.
    for (_, key) in &clients[..BATCH_MIN] {
        rig.say(*key, b"three");
    }
    rig.turn_within(None);
    assert_eq!(rig.path.late.len(), CLIENTS - 3 * BATCH_MIN);
    let mut received = [0; 13];
    let size = clients[0].0.read(&mut received).unwrap();
    assert_eq!(&received[..size], b"one two three");
    // Who leaves meanwhile is forgotten.
    let (gone, _) = clients.pop().unwrap();
    drop(gone);
    let mut turns = 0;
    while rig.path.has_work() {
        rig.turn_within(None);
        turns += 1;
    }
    assert!(turns >= (CLIENTS - 3 * BATCH_MIN) / BATCH_MIN, "{turns}");
    for (client, _) in &mut clients[BATCH_MIN..] {
        let size = client.read(&mut received).unwrap();
        assert_eq!(&received[..size], b"one two ");
    }
    while rig.path.core.peers.keys().count() == CLIENTS {
        rig.turn();
    }
    // Each of these was late once, what came behind that included.
    assert_eq!(rig.path.counters.late_sends, (CLIENTS - BATCH_MIN) as u64);
}

#[test]
fn a_turn_with_time_for_it_sends_to_all_at_once() {
    const CLIENTS: usize = 150;
    let mut rig = Rig::new();
    let mut clients = crowd(&mut rig, CLIENTS);
    for (_, key) in &clients {
        rig.say(*key, b"all");
    }
    rig.turn_within(None);
    assert!(rig.path.late.is_empty());
    for (client, _) in &mut clients {
        let mut received = [0; 8];
        assert_eq!(client.read(&mut received).unwrap(), 3);
    }
}

/// What each of a crowd is to be sent beside whom somebody else waits for a few bytes.
const MUCH: usize = 64 * 1024;
/// Bytes of others that a few bytes may wait for: a batch, and the send that was more than it may be.
const BEFORE_MAX: usize = BATCH_SIZE_MAX + MUCH;

#[test]
fn a_small_answer_waits_for_no_more_than_a_batch_of_what_is_sent_to_others_at_once() {
    let few = SENDS_MANY - 1;
    for (count, is_hurried) in [(150, true), (150, false), (few, true), (few, false)] {
        let mut rig = Rig::new();
        let mut clients = crowd(&mut rig, count);
        rig.path.core.is_hurried = is_hurried;
        rig.turn_within(None);
        let (mut other, key) = clients.pop().unwrap();
        for (_, key) in &clients {
            rig.say(*key, &[b'x'; MUCH]);
        }
        // It comes last in this turn, and is answered at its end all the same.
        rig.say(key, b"pong");
        rig.taken.set(0);
        rig.turn_within(None);
        let before = rig.path.core.taken_before.get();
        assert!(before <= BEFORE_MAX, "{before} bytes of others");
        let mut received = [0; 8];
        assert_eq!(other.read(&mut received).unwrap(), 4);
        // The others have theirs all the same.
        while rig.path.has_work() {
            rig.turn_within(None);
        }
        let mut part = vec![0; MUCH];
        for (client, _) in &mut clients {
            let mut received = 0;
            while received < MUCH {
                match client.read(&mut part) {
                    Ok(size) => received += size,
                    Err(_) => rig.turn_within(None),
                }
            }
            assert_eq!(received, MUCH);
        }
    }
}

#[test]
fn a_small_answer_waits_for_nobody_who_is_sent_more_and_more_and_all_of_them_have_the_same() {
    const CLIENTS: usize = 100;
    let mut rig = Rig::new();
    let mut clients = crowd(&mut rig, CLIENTS);
    rig.path.core.is_hurried = true;
    rig.path.core.again = vec![b'x'; MUCH];
    rig.turn_within(None);
    let (mut other, key) = clients.pop().unwrap();
    for (_, key) in &clients {
        rig.say(*key, &[b'x'; MUCH]);
    }
    let mut received = vec![0; clients.len()];
    let mut part = vec![0; MUCH];
    for _ in 0..300 {
        rig.turn_within(None);
        for (index, (client, _)) in clients.iter_mut().enumerate() {
            while let Ok(size) = client.read(&mut part) {
                received[index] += size;
            }
        }
        other.write_all(b"ping").unwrap();
        // It is heard in this turn or a later one, since none has time.
        while rig.path.core.peers.get(key.index).out.is_empty() {
            rig.path.enter(None);
            rig.path.begin_turn(std::time::Instant::now());
            rig.path.handle_completions(rig.now);
        }
        rig.taken.set(0);
        rig.path.flush();
        rig.path.enter(None);
        let size = other.read(&mut part).expect("an answer");
        assert_eq!(&part[..size], b"ping");
        let before = rig.path.core.taken_before.get();
        assert!(before <= BEFORE_MAX, "{before} bytes of others");
        let taken = rig.taken.get();
        assert!(taken <= 2 * BEFORE_MAX, "{taken} bytes without time");
        rig.path.begin_turn(std::time::Instant::now());
        rig.path.handle_completions(rig.now);
    }
    let (least, most) = (received.iter().min(), received.iter().max());
    let (least, most) = (least.unwrap(), most.unwrap());
    assert!(*most < 2 * least, "{least} to {most}");
}

/// Without that wait the socket would be closed while there is something to be read in it, and the kernel would take what
/// was said last from a peer that has not read it yet.
#[test]
fn what_was_said_last_reaches_a_client_that_goes_on_sending_and_reads_only_then() {
    const MORE: usize = 16 << 20;
    let mut rig = Rig::new();
    let mut client = rig.connect();
    client.write_all(b"bye!").unwrap();
    while rig.path.core.peers.keys().count() > 0 {
        rig.turn();
    }
    // Far more than both sockets hold: all of it is received, and goes nowhere.
    let more = vec![b'x'; 1 << 20];
    let (mut said, mut stuck) = (0, 0);
    while said < MORE {
        match client.write(&more) {
            Ok(size) => (said, stuck) = (said + size, 0),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock, "after {said} bytes");
                stuck += 1;
                assert!(stuck < 1000, "not read after {said} bytes");
            }
        }
        rig.turn();
    }
    rig.expect(&mut client, b"bye!");
    rig.turn();
    assert_eq!(client.read(&mut [0]).unwrap(), 0, "an end and no reset");
    let slot = 0;
    let held = &rig.path.connections.get(slot).held;
    assert_eq!(held.capacity(), 0, "nothing is kept of it");
    // It is waited for, but not for ever, whatever it sends.
    let began = rig.now;
    rig.now = began + (CLOSE_LINGER - Duration::from_millis(1));
    while client.write(b"more").is_err() {
        rig.turn();
    }
    rig.turn();
    assert_eq!(rig.path.connections.count(), 1);
    rig.now = began + CLOSE_LINGER;
    let mut turns = 0;
    while !rig.path.is_empty() {
        let _ = client.write(b"more");
        rig.turn();
        turns += 1;
        assert!(turns < 1000, "for ever");
    }
}

/// Clients that have sent some of a packet of so many bytes and not its end, oldest first, and how much.
fn unconnected(rig: &mut Rig, count: usize, size: usize) -> Vec<(TcpStream, usize)> {
    rig.path.core.is_framed = true;
    let start = &framed(size, 0)[..size - 1];
    let clients = (0..count).map(|number| {
        let mut client = TcpStream::connect(rig.address).unwrap();
        client.set_nonblocking(true).unwrap();
        let said = client.write(start).unwrap();
        assert!(said > 2 * UNCONNECTED_BYTES_FREE);
        while rig.path.connections.count() <= number {
            rig.turn();
        }
        (client, said)
    });
    let clients: Vec<_> = clients.collect();
    // They are read as far as they may be.
    for _ in 0..200 {
        rig.turn_within(None);
    }
    clients
}

/// Slots of those that are there, and whether they wait for room or have some.
fn states(rig: &mut Rig, count: usize) -> Vec<(bool, u32)> {
    let states = (0..count as u32).map(|slot| {
        let connection = rig.path.connections.get(slot);
        (connection.state.has(State::WAITING), connection.charged())
    });
    states.collect()
}

#[test]
fn before_its_first_packet_a_connection_has_a_little_for_itself_and_a_shard_its_share_for_those_who_need_more()
 {
    const SIZE: usize = 100_000;
    const COUNT: usize = 40;
    let room = Room::new(2);
    let mut rig = Rig::with_room(room.clone());
    let clients = unconnected(&mut rig, COUNT, SIZE);
    let held = rig.path.unconnected.held;
    assert!(held <= UNCONNECTED_BYTES_MAX, "{held} held");
    let fitting = UNCONNECTED_BYTES_MAX / (SIZE + UNCONNECTED_BYTES_FREE);
    let mut charged = 0;
    for (slot, (is_waiting, has)) in states(&mut rig, COUNT).into_iter().enumerate() {
        // Those who came first have what their packet needs, the others wait for that.
        assert_eq!(is_waiting, slot >= fitting, "{slot}");
        assert_eq!(has > 0, slot < fitting, "{slot}");
        charged += has as usize;
        let most = if is_waiting {
            UNCONNECTED_BYTES_FREE
        } else {
            SIZE
        };
        let room = rig.path.connections.get(slot as u32).held.capacity();
        assert!(room <= most, "{slot}: {room}");
    }
    assert_eq!(charged, held);
    assert_eq!(
        rig.path.counters.waited_before_connect,
        (COUNT - fitting) as u64
    );
    // Those who have had it for long are let go, since others wait, but for one whose password is being checked.
    rig.path.connections.get(0).state.set(State::PAUSED);
    rig.now = rig.now + (UNCONNECTED_PATIENCE - Duration::from_millis(1));
    rig.turn_within(None);
    assert_eq!(rig.path.counters.refused_held_too_much, 0);
    rig.now = rig.now + Duration::from_millis(1);
    rig.path.handle_timeouts(rig.now);
    assert_eq!(rig.path.counters.refused_held_too_much, fitting as u64 - 1);
    for _ in 0..200 {
        rig.turn_within(None);
    }
    let states = states(&mut rig, COUNT);
    assert!(states[0].1 > 0);
    // Who came last is read first.
    for (slot, &(is_waiting, has)) in states.iter().enumerate().skip(fitting) {
        assert_eq!(
            (is_waiting, has > 0),
            (slot <= COUNT - fitting, slot > COUNT - fitting),
            "{slot}"
        );
    }
    // All of it is given back.
    rig.path.connections.get(0).state.clear(State::PAUSED);
    drop(clients);
    while !rig.path.is_empty() {
        rig.now = rig.now + Duration::from_millis(100);
        rig.turn();
    }
    assert_eq!(rig.path.unconnected.held, 0);
    assert!(room.is_free());
}

#[test]
fn a_slow_first_packet_may_take_its_time_as_long_as_nobody_waits_for_its_room() {
    const SIZE: usize = 100_000;
    let mut rig = Rig::new();
    let mut clients = unconnected(&mut rig, 20, SIZE);
    // Those who wait are ended by the core, as it does with those whose CONNECT is late, or go by themselves.
    let waiting: Vec<_> = states(&mut rig, 20).iter().map(|it| it.0).collect();
    assert!(waiting[10] && waiting[19] && !waiting[9]);
    let keys: Vec<_> = rig.path.core.peers.keys().collect();
    for key in &keys[10..15] {
        rig.path.effects.closes.push(*key);
    }
    rig.path.carry_out_effects();
    clients.truncate(15);
    for _ in 0..200 {
        rig.turn_within(None);
    }
    // What was waited for has not come, and who has gone in silence is noticed when it is to be read.
    for key in &keys[15..] {
        rig.path.effects.closes.push(*key);
    }
    rig.path.carry_out_effects();
    for _ in 0..5 {
        rig.now = rig.now + UNCONNECTED_PATIENCE;
        rig.turn_within(None);
    }
    assert_eq!(rig.path.counters.refused_held_too_much, 0);
    let packet = framed(SIZE, 0);
    for (client, said) in &mut clients[..10] {
        while *said < SIZE {
            *said += client.write(&packet[*said..]).unwrap_or(0);
            rig.turn();
        }
        rig.expect(client, &packet);
    }
    assert_eq!(rig.path.unconnected.held, 0);
}
