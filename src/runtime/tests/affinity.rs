//! Shards that run on one CPU and go back to their own, over real threads and connections.

#![forbid(unsafe_code)]

use super::{Client, Echo, NoticesSender, Placed, Running, stop};
use crate::net::listen;
use crate::runtime::{Affinity, Place, Whereabouts, place, start};
use rustix::thread::CpuSet;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

const PATIENCE: Duration = Duration::from_secs(20);

/// Two shards, each on a CPU of its own if there are two.
fn serve() -> (SocketAddr, Running) {
    let (address, listeners) = listen("127.0.0.1:0".parse().unwrap(), 2).unwrap();
    let listeners = listeners.into_iter().map(|socket| vec![socket]).collect();
    let placed = place(Some(2), true).unwrap();
    let running = start(&placed, listeners, &NoticesSender::nowhere(), Echo::new).unwrap();
    (address, running)
}

/// Somebody who looks at shards and sees that they have done nothing, once a minute by a clock of their own.
struct Looker {
    affinity: Affinity,
    now: Instant,
}

impl Looker {
    fn of(running: &Running) -> Self {
        Self {
            affinity: running.affinity(),
            now: Instant::now(),
        }
    }

    fn is_gathered(&self) -> bool {
        self.affinity.whereabouts().place == Place::Gathered
    }

    fn look(&mut self) {
        self.now += Duration::from_secs(60);
        let nothing = Some(Duration::ZERO);
        self.affinity.handle_look(nothing, self.now);
    }

    /// Looks until they are gathered, and says where; `None` if all of them have only one CPU. Something else that takes
    /// that CPU may spread them again.
    fn gather(&mut self) -> Option<CpuSet> {
        let homes = self.affinity.homes();
        if homes
            .iter()
            .all(|home| home.count() == 1 && *home == homes[0])
        {
            for _ in 0..9 {
                self.look();
            }
            assert!(!self.is_gathered());
            return None;
        }
        let patience = Instant::now() + PATIENCE;
        loop {
            self.look();
            let at = self.affinity.affinities();
            if at[0].count() == 1 && at[0] == at[1] && self.is_gathered() {
                return Some(at[0]);
            }
            assert!(Instant::now() < patience, "never gathered: {at:?}");
        }
    }

    fn until_spread(&self) {
        let patience = Instant::now() + PATIENCE;
        while self.is_gathered() {
            assert!(Instant::now() < patience, "never spread");
            std::thread::sleep(Duration::from_millis(1));
        }
        assert_eq!(self.affinity.affinities(), self.affinity.homes());
    }
}

#[test]
fn gathered_shards_serve_and_one_that_is_busy_spreads_them() {
    let (address, running) = serve();
    let mut looker = Looker::of(&running);
    assert_eq!(looker.affinity.affinities(), looker.affinity.homes());
    let mut clients = [0, 1].map(|shard| Client::connect(address, shard));
    for shard in [0, 1, 1, 0] {
        let meeting_place = looker.gather();
        for number in 0..50_u8 {
            clients[usize::from(number % 2)].send(b'B', &[number]);
            for client in &mut clients {
                client.expect(b'B', &[number]);
            }
        }
        if meeting_place.is_some() {
            looker.gather();
        }
        clients[shard].send(b'W', b"busy");
        clients[shard].expect(b'W', b"busy");
        looker.until_spread();
    }
    stop(running);
}

#[test]
fn shards_that_nobody_looks_at_stay_on_their_own_cpus() {
    let (address, running) = serve();
    let affinity = running.affinity();
    let mut client = Client::connect(address, 1);
    client.send(b'W', b"busy");
    client.expect(b'W', b"busy");
    assert_eq!(affinity.whereabouts(), Whereabouts::default());
    assert_eq!(affinity.affinities(), affinity.homes());
    stop(running);
}

#[test]
fn one_shard_has_nobody_to_gather_with_and_shards_that_have_ended_are_not_moved() {
    let (_, listeners) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
    let nowhere = NoticesSender::nowhere();
    let one = start(&[Placed::Anywhere], vec![listeners], &nowhere, Echo::new).unwrap();
    let (_, two) = serve();
    let mut lookers = [Looker::of(&one), Looker::of(&two)];
    stop(two);
    for looker in &mut lookers {
        for _ in 0..9 {
            looker.look();
        }
        assert!(!looker.is_gathered());
    }
    assert_eq!(lookers[1].affinity.affinities(), []);
    stop(one);
}
