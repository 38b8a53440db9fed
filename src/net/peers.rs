//! The connections of a small [`Core`](super::Core), one that is no broker: a null sink, a forwarder.
//!
//! It holds what each is to be sent, under keys that find nothing once their connection is gone.

#![forbid(unsafe_code)]

use crate::key::ConnectionKey;
use crate::shard::Effects;

/// One of them.
#[derive(Debug, Default)]
pub struct Peer<S> {
    generation: u32,
    is_alive: bool,
    is_dirty: bool,
    /// What it is to be sent. Whoever appends to it also calls [`Peers::mark_dirty`].
    pub out: Vec<u8>,
    /// What else the core knows of it.
    pub state: S,
}

/// All of them, by the index of their keys.
#[derive(Debug, Default)]
pub struct Peers<S> {
    peers: Vec<Peer<S>>,
    free: Vec<u32>,
}

impl<S: Default> Peers<S> {
    /// A new connection, for [`Core::handle_accept`](super::Core::handle_accept).
    pub fn accept(&mut self) -> ConnectionKey {
        let index = self.free.pop().unwrap_or_else(|| {
            self.peers.push(Peer::default());
            self.peers.len() as u32 - 1
        });
        let peer = self.get(index);
        peer.is_alive = true;
        ConnectionKey {
            index,
            generation: peer.generation,
        }
    }

    /// Forgets a connection. False if it was forgotten already.
    pub fn remove(&mut self, key: ConnectionKey) -> bool {
        let peer = self.get(key.index);
        if !peer.is_alive || peer.generation != key.generation {
            return false;
        }
        *peer = Peer {
            generation: peer.generation.wrapping_add(1),
            ..Peer::default()
        };
        self.free.push(key.index);
        true
    }

    /// The connection of that index.
    ///
    /// # Panics
    /// If there never was one.
    #[inline]
    pub fn get(&mut self, index: u32) -> &mut Peer<S> {
        &mut self.peers[index as usize]
    }

    /// Has what a connection is to be sent taken at the end of the turn.
    #[inline]
    pub fn mark_dirty(&mut self, index: u32, effects: &mut Effects) {
        let peer = self.get(index);
        if peer.is_alive && !peer.is_dirty {
            peer.is_dirty = true;
            effects.dirty.push(ConnectionKey {
                index,
                generation: peer.generation,
            });
        }
    }

    /// Sends `bytes` to a connection.
    #[inline]
    pub fn send(&mut self, index: u32, bytes: &[u8], effects: &mut Effects) {
        self.get(index).out.extend_from_slice(bytes);
        self.mark_dirty(index, effects);
    }

    /// For [`Core::output_size`](super::Core::output_size).
    pub fn output_size(&self, key: ConnectionKey) -> usize {
        let peer = self.peers.get(key.index as usize);
        peer.filter(|peer| peer.generation == key.generation)
            .map_or(0, |peer| peer.out.len())
    }

    /// For [`Core::take_output`](super::Core::take_output).
    pub fn take_output(&mut self, key: ConnectionKey, buffer: &mut Vec<u8>) {
        let peer = self.get(key.index);
        if peer.generation == key.generation {
            peer.is_dirty = false;
            std::mem::swap(&mut peer.out, buffer);
        }
    }

    /// Those that are there.
    pub fn keys(&self) -> impl Iterator<Item = ConnectionKey> {
        let peers = self.peers.iter().enumerate();
        peers
            .filter(|(_, it)| it.is_alive)
            .map(|(index, it)| ConnectionKey {
                index: index as u32,
                generation: it.generation,
            })
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_key_finds_nothing_once_its_connection_is_gone() {
        let (mut peers, mut effects) = (Peers::<()>::default(), Effects::default());
        let old = peers.accept();
        peers.send(old.index, b"old", &mut effects);
        assert!(peers.remove(old) && !peers.remove(old));
        let new = peers.accept();
        assert_eq!(
            (old.index, peers.keys().collect::<Vec<_>>()),
            (new.index, vec![new])
        );
        peers.send(new.index, b"a", &mut effects);
        peers.send(new.index, b"b", &mut effects);
        assert_eq!(effects.dirty, [old, new], "once each");
        assert_eq!((peers.output_size(old), peers.output_size(new)), (0, 2));
        let mut out = Vec::new();
        peers.take_output(old, &mut out);
        assert!(out.is_empty());
        peers.take_output(new, &mut out);
        assert_eq!(out, b"ab");
    }
}
