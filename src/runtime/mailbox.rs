//! The way from any thread to a shard.

#![forbid(unsafe_code)]

use crate::message::{Message, MessageRef, QoS};
use crate::net::{ListenerChange, Waker};
use crate::origin::ListenerId;
use crate::shard::Command;
use crossbeam::channel::{Receiver, Sender, bounded};
use std::os::fd::OwnedFd;
use std::sync::Arc;

/// Commands that may wait for one shard. It takes some of them each turn at least, so a sender that finds
/// no room waits for some turns at most.
const COMMANDS_MAX: usize = 1024;

/// What may be sent to a shard.
#[derive(Debug)]
pub(super) enum Letter {
    /// For its core.
    Command(Command),
    /// For its sockets.
    Listener(ListenerChange),
    /// A connection that this process has made to itself.
    Connection(ListenerId, OwnedFd),
}

/// Sends commands to one shard, from any thread but a shard's own. Clones send to the same shard.
#[derive(Clone, Debug)]
pub struct Mailbox {
    letters: Sender<Letter>,
    waker: Waker,
}

impl Mailbox {
    /// Hands `command` to the shard and wakes it, waiting for room if it must. False if the shard has
    /// ended.
    pub fn send(&self, command: Command) -> bool {
        self.post(Letter::Command(command))
    }

    /// Has the shard publish a message of the broker itself, as [`Mailbox::send`].
    pub fn publish(&self, topic_name: &str, payload: &[u8], qos: QoS, retain: bool) -> bool {
        let message = Message::new(MessageRef {
            topic_name: topic_name.as_bytes(),
            properties: &[],
            payload,
            qos,
            retain,
            expires_at: None,
        });
        self.send(Command::Publish(Arc::new(message)))
    }

    /// Has the shard open, change or close a listener, as [`Mailbox::send`].
    pub fn change_listener(&self, change: ListenerChange) -> bool {
        self.post(Letter::Listener(change))
    }

    /// Has the shard serve `socket`, whose other end this process has, as a connection that came to `listener`; as
    /// [`Mailbox::send`].
    pub fn join(&self, listener: ListenerId, socket: OwnedFd) -> bool {
        self.post(Letter::Connection(listener, socket))
    }

    fn post(&self, letter: Letter) -> bool {
        let sent = self.letters.send(letter).is_ok();
        self.waker.wake();
        sent
    }
}

/// A shard's end of its mailbox.
#[derive(Debug)]
pub(super) struct Inbox {
    letters: Receiver<Letter>,
}

impl Inbox {
    /// What has come.
    pub(super) fn letters(&self) -> impl Iterator<Item = Letter> + '_ {
        self.letters.try_iter()
    }
}

/// A mailbox for the shard that `waker` wakes, and that shard's end of it.
pub(super) fn mailbox(waker: Waker) -> (Mailbox, Inbox) {
    let (sender, receiver) = bounded(COMMANDS_MAX);
    let mailbox = Mailbox {
        letters: sender,
        waker,
    };
    (mailbox, Inbox { letters: receiver })
}
