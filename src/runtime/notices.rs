//! The way from the shards to the threads beside them.
//!
//! A shard never waits for one of them. What is for the log is dropped and counted when the log
//! cannot follow; a CONNECT that waits for its password is never forgotten, and there are no more of
//! those than connections.

#![forbid(unsafe_code)]

use crate::key::ShardId;
use crate::shard::{AuthenticationRequest, Event, Notice};
use crossbeam::channel::{Receiver, Sender, TrySendError, bounded, unbounded};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// Events that may wait for the log.
const EVENTS_MAX: usize = 16 * 1024;

/// The shards' end. Clones lead to the same receivers.
#[derive(Clone, Debug)]
pub struct NoticesSender {
    authentications: Sender<(ShardId, Box<AuthenticationRequest>)>,
    events: Sender<(ShardId, Box<Event>)>,
    trees: Sender<(ShardId, Box<str>)>,
    events_dropped: Arc<AtomicU64>,
}

/// What the shards have to tell, by who is to know.
#[derive(Debug)]
pub struct Notices {
    /// Passwords to check; each is answered to the shard that asks.
    pub authentications: Receiver<(ShardId, Box<AuthenticationRequest>)>,
    /// For the log.
    pub events: Receiver<(ShardId, Box<Event>)>,
    /// Answers to [`crate::shard::Command::DumpTree`].
    pub trees: Receiver<(ShardId, Box<str>)>,
    /// Events that found no room.
    pub events_dropped: Arc<AtomicU64>,
}

/// Both ends.
#[must_use]
pub fn notices() -> (NoticesSender, Notices) {
    let (authentications, authentications_out) = unbounded();
    let (events, events_out) = bounded(EVENTS_MAX);
    let (trees, trees_out) = unbounded();
    let events_dropped = Arc::new(AtomicU64::new(0));
    let sender = NoticesSender {
        authentications,
        events,
        trees,
        events_dropped: events_dropped.clone(),
    };
    let receiver = Notices {
        authentications: authentications_out,
        events: events_out,
        trees: trees_out,
        events_dropped,
    };
    (sender, receiver)
}

impl NoticesSender {
    /// For cores that have nothing to tell.
    #[must_use]
    pub fn nowhere() -> Self {
        notices().0
    }

    /// The end of one shard.
    pub(super) fn of(&self, shard: ShardId) -> ShardNotices {
        ShardNotices {
            shard,
            sender: self.clone(),
        }
    }
}

/// One shard's end.
#[derive(Debug)]
pub(super) struct ShardNotices {
    shard: ShardId,
    sender: NoticesSender,
}

impl ShardNotices {
    pub(super) fn send(&self, notice: Notice) {
        let shard = self.shard;
        match notice {
            Notice::Authenticate(request) => {
                // Without a receiver the process is ending, and its connections with it.
                let _ = self.sender.authentications.send((shard, request));
            }
            Notice::Log(event) => {
                if let Err(TrySendError::Full(_)) = self.sender.events.try_send((shard, event)) {
                    self.sender.events_dropped.fetch_add(1, Ordering::Relaxed);
                }
            }
            Notice::Tree(text) => {
                let _ = self.sender.trees.send((shard, text));
            }
        }
    }
}
