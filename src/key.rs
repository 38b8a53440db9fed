//! Names for the things the core keeps: shards, Sessions, Network Connections.
//!
//! Each is a type of its own, because two bare integers side by side are a bug waiting for a caller.

#![forbid(unsafe_code)]

use std::fmt;

/// One shard of the broker, counted from 0.
#[derive(Clone, Copy, Debug, Default, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ShardId(pub u16);

impl ShardId {
    /// Position of this shard in any table that has a row for each shard.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A Session on this shard. Generational: a key that outlives its Session finds nothing.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SessionKey {
    /// Slot in the shard's table of Sessions.
    pub index: u32,
    /// How often that slot had been freed when this key was made.
    pub generation: u32,
}

/// A Network Connection on this shard. Generational, as [`SessionKey`].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct ConnectionKey {
    /// Slot in the shard's table of connections.
    pub index: u32,
    /// How often that slot had been freed when this key was made.
    pub generation: u32,
}

/// A Packet Identifier: what two ends of a Session call one QoS 1 or 2 exchange. Never zero
/// [MQTT-2.2.1-3].
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct PacketIdentifier(pub std::num::NonZeroU16);

impl PacketIdentifier {
    /// The identifier `value`, or `None` for zero.
    #[must_use]
    pub const fn new(value: u16) -> Option<Self> {
        match std::num::NonZeroU16::new(value) {
            Some(value) => Some(Self(value)),
            None => None,
        }
    }

    /// Its value on the wire.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0.get()
    }
}
