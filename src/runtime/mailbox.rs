//! The way from any thread to a shard.

#![forbid(unsafe_code)]

use crate::net::Waker;
use crate::shard::Command;
use crossbeam::channel::{Receiver, Sender, bounded};

/// Commands that may wait for one shard. It takes all of them each turn, so a sender that finds no
/// room waits for microseconds.
const COMMANDS_MAX: usize = 1024;

/// Sends commands to one shard, from any thread but a shard's own. Clones send to the same shard.
#[derive(Clone, Debug)]
pub struct Mailbox {
    commands: Sender<Command>,
    waker: Waker,
}

impl Mailbox {
    /// Hands `command` to the shard and wakes it, waiting for room if it must. False if the shard has
    /// ended.
    pub fn send(&self, command: Command) -> bool {
        let sent = self.commands.send(command).is_ok();
        self.waker.wake();
        sent
    }
}

/// A shard's end of its mailbox.
#[derive(Debug)]
pub(super) struct Inbox {
    commands: Receiver<Command>,
}

impl Inbox {
    /// What has come.
    pub(super) fn commands(&self) -> impl Iterator<Item = Command> + '_ {
        self.commands.try_iter()
    }
}

/// A mailbox for the shard that `waker` wakes, and that shard's end of it.
pub(super) fn mailbox(waker: Waker) -> (Mailbox, Inbox) {
    let (sender, receiver) = bounded(COMMANDS_MAX);
    let mailbox = Mailbox {
        commands: sender,
        waker,
    };
    (mailbox, Inbox { commands: receiver })
}
