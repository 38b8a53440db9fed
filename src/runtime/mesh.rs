//! The rings between one shard and all others.

#![forbid(unsafe_code)]

use crate::key::ShardId;
use crate::limits::RING_SLOTS;
use crate::net::{Adopted, Core, DataPath, RingHandle, Waker};
use crate::ring::{Consumer, Producer, Sleep, channel};
use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};

/// What a ring carries.
enum Item<E> {
    /// From core to core.
    Core(E),
    /// A connection that belongs to the receiving shard. Boxed: it is rare, and would make every
    /// slot as large as itself.
    Adopt(Box<Adopted>),
}

/// What shards know of each other besides the rings.
struct Peer {
    sleep: Sleep,
    /// Wakes it out of a wait in its ring. Set once that ring is there, before it first sleeps.
    ring: OnceLock<RingHandle>,
    waker: Waker,
}

/// The way to one other shard.
struct Outlet<E> {
    ring: Producer<Item<E>>,
    /// Connections for which the ring had no room. As many as were accepted meanwhile.
    adopted: VecDeque<Box<Adopted>>,
    /// Room of the ring, as the core was told.
    room: usize,
}

/// The way from one other shard.
struct Inlet<E> {
    ring: Consumer<Item<E>>,
    /// What a turn had no time for of the envelope before those in the ring.
    left: Option<E>,
}

impl<E: Send> Inlet<E> {
    fn is_empty(&mut self) -> bool {
        self.left.is_none() && self.ring.is_empty()
    }
}

/// One shard's ends of all its rings.
pub(super) struct Mesh<E> {
    shard: ShardId,
    peers: Arc<[Peer]>,
    /// One for each shard; `None` for this one.
    outlets: Vec<Option<Outlet<E>>>,
    inlets: Vec<Option<Inlet<E>>>,
    /// The inlet to begin with, another one each turn.
    first: usize,
}

impl<E: Send> Mesh<E> {
    /// Makes the rings for as many shards as there are wakers: one for each ordered pair.
    pub(super) fn all(wakers: &[Waker]) -> Vec<Self> {
        let count = wakers.len();
        let peers: Arc<[Peer]> = wakers
            .iter()
            .map(|waker| Peer {
                sleep: Sleep::default(),
                ring: OnceLock::new(),
                waker: waker.clone(),
            })
            .collect();
        let mut meshes: Vec<Self> = (0..count)
            .map(|index| Self {
                shard: ShardId(index as u16),
                peers: peers.clone(),
                outlets: Vec::with_capacity(count),
                inlets: Vec::with_capacity(count),
                first: 0,
            })
            .collect();
        for from in 0..count {
            for to in 0..count {
                let (outlet, inlet) = if from == to {
                    (None, None)
                } else {
                    let (producer, consumer) = channel(RING_SLOTS);
                    let outlet = Outlet {
                        ring: producer,
                        adopted: VecDeque::new(),
                        room: 0,
                    };
                    let inlet = Inlet {
                        ring: consumer,
                        left: None,
                    };
                    (Some(outlet), Some(inlet))
                };
                meshes[from].outlets.push(outlet);
                meshes[to].inlets.push(inlet);
            }
        }
        meshes
    }

    pub(super) fn shard(&self) -> ShardId {
        self.shard
    }

    /// Lets peers wake this shard by its ring.
    pub(super) fn set_ring(&self, ring: RingHandle) {
        // A second one would be a second data path on this shard; the first stays.
        let _ = self.peers[self.shard.index()].ring.set(ring);
    }

    /// Whether there are other shards at all.
    pub(super) fn has_peers(&self) -> bool {
        self.peers.len() > 1
    }

    /// Announces that this shard is about to wait, and tells whether it may: whether no peer has
    /// published anything. If not, nothing is announced.
    pub(super) fn announce_sleep(&mut self) -> bool {
        let sleep = &self.peers[self.shard.index()].sleep;
        sleep.announce();
        if self.inlets.iter_mut().flatten().all(Inlet::is_empty) {
            return true;
        }
        sleep.retract();
        false
    }

    /// Whether everything that peers have sent so far was taken.
    pub(super) fn has_received_all(&mut self) -> bool {
        self.inlets.iter_mut().flatten().all(Inlet::is_empty)
    }

    /// This shard is awake.
    pub(super) fn retract_sleep(&self) {
        self.peers[self.shard.index()].sleep.retract();
    }

    /// Takes what peers have sent, as much as this part of the turn has time for.
    pub(super) fn receive<C: Core<Envelope = E>>(&mut self, path: &mut DataPath<C>) {
        let count = self.inlets.len();
        self.first = (self.first + 1) % count;
        for index in (self.first..count).chain(0..self.first) {
            let Some(Inlet { ring, left }) = &mut self.inlets[index] else {
                continue;
            };
            let from = ShardId(index as u16);
            let mut items = ring.drain();
            loop {
                let item = left.take().map(Item::Core).or_else(|| items.next());
                match item {
                    Some(Item::Core(envelope)) => *left = path.handle_envelope(from, envelope),
                    Some(Item::Adopt(adopted)) => path.adopt(*adopted),
                    None => break,
                }
                if path.is_part_over() {
                    // What is left keeps this shard from sleeping.
                    return;
                }
            }
        }
    }

    /// Sends what the core and the data path have for peers, as far as the rings have room, and
    /// wakes those that sleep. Tells whether something is left.
    pub(super) fn send<C: Core<Envelope = E>>(&mut self, path: &mut DataPath<C>) -> bool {
        for (to, adopted) in path.handed_over() {
            match &mut self.outlets[to.index()] {
                Some(outlet) => outlet.adopted.push_back(Box::new(adopted)),
                None => unreachable!("shard {to} hands a connection over to itself"),
            }
        }
        let (mut is_left, mut is_moved) = (false, false);
        for (index, outlet) in self.outlets.iter_mut().enumerate() {
            let Some(outlet) = outlet else { continue };
            let to = ShardId(index as u16);
            while let Some(adopted) = outlet.adopted.pop_front() {
                if let Err(Item::Adopt(adopted)) = outlet.ring.push(Item::Adopt(adopted)) {
                    outlet.adopted.push_front(adopted);
                    break;
                }
            }
            let waiting = path.core_mut().outbound(to);
            let mut moved = 0;
            if !waiting.is_empty() {
                moved = waiting.len().min(outlet.ring.free_slots());
                outlet.ring.extend(waiting.drain(..moved).map(Item::Core));
            }
            is_left |= !waiting.is_empty() || !outlet.adopted.is_empty();
            // A ring that was empty is no fuller than this shard makes it.
            if moved > 0 || outlet.room < outlet.ring.capacity() {
                outlet.room = outlet.ring.free_slots();
                path.core_mut().set_ring_room(to, outlet.room);
            }
            if outlet.ring.publish() {
                let peer = &self.peers[index];
                if peer.sleep.take_wake() {
                    match peer.ring.get() {
                        Some(ring) => path.wake(ring),
                        None => peer.waker.wake(),
                    }
                }
            }
            is_moved |= moved > 0;
        }
        if is_moved {
            path.handle_ring_room();
        }
        is_left
    }
}
