//! One shard's turns: send, wait, receive.

#![forbid(unsafe_code)]

use super::affinity::Member;
use super::clock::Clock;
use super::departure::{Departure, Duty};
use super::lapse::Lapse;
use super::mailbox::{Inbox, Letter};
use super::mesh::Mesh;
use super::notices::ShardNotices;
use super::own_time::OwnTime;
use super::streams::{RECEIVES_WANTED, Streams, WAIT_FOR_MORE};
use crate::metrics::{Slot, Snapshot, Turns};
use crate::net::{Core, DataPath};
use crate::time::Instant;
use std::sync::Arc;
use std::time::Duration;

/// Longest wait in the ring. Whatever happens posts a completion there, so this only keeps the
/// kernel's arithmetic away from its limits.
const WAIT_MAX: Duration = Duration::from_secs(3600);
/// Wait while envelopes are left for a peer whose ring is full: it is at work to make room.
const WAIT_FOR_ROOM: Duration = Duration::from_micros(50);
/// As many completions at once mean that more are on their way: look again before sending.
const COMPLETIONS_MANY: usize = 64;
/// How often to look again.
const ROUNDS_MAX: usize = 4;
/// After a turn with this many completions the next one will not have to wait. It looks without
/// announcing sleep, so that peers do not spend time on waking a busy shard.
const COMPLETIONS_BUSY: usize = 8;
/// Wait while the broker ends: what other shards have done by then wakes nobody.
const WAIT_TO_END: Duration = Duration::from_millis(1);

/// One shard with its sockets, its rings and its clock.
pub(super) struct ShardLoop<C: Core> {
    path: DataPath<C>,
    mesh: Mesh<C::Envelope>,
    inbox: Inbox,
    notices: ShardNotices,
    clock: Clock,
    departure: Departure,
    slot: Arc<Slot>,
    turns: Turns,
    now: Instant,
    own: OwnTime,
    member: Member,
    lapse: Lapse,
    streams: Streams,
}

impl<C: Core> ShardLoop<C> {
    #[allow(clippy::too_many_arguments)] // One call site; a struct would only rename them.
    pub(super) fn new(
        path: DataPath<C>,
        mesh: Mesh<C::Envelope>,
        inbox: Inbox,
        notices: ShardNotices,
        clock: Clock,
        departure: Departure,
        slot: Arc<Slot>,
        member: Member,
    ) -> Self {
        mesh.set_ring(path.ring_handle());
        let now = clock.now();
        Self {
            path,
            mesh,
            inbox,
            notices,
            clock,
            departure,
            slot,
            turns: Turns::default(),
            now,
            own: OwnTime::start(now),
            streams: Streams::new(now),
            member,
            lapse: Lapse::default(),
        }
    }

    /// Runs until the broker is to end and all connections are closed.
    ///
    /// The shard waits in its own ring and never in the executor's. Other shards, other threads,
    /// sockets and deadlines all end that wait, it costs one system call, and the executor has no
    /// other task to run. (It could not be relied on to wake up, either: when its preemption timer
    /// fires between its look at the ring and its look at the task queues, glommio 0.9 parks with
    /// tasks ready to run. A task of glommio's beside this one needs an armed timer to be safe.)
    pub(super) fn run(mut self) {
        let mut completed = 0;
        let mut is_left = false;
        let mut has_letters = false;
        loop {
            self.path.flush();
            let flushed = self.clock.now();
            self.turns.record(flushed - self.now);
            self.lapse.handle_look(self.now, flushed);
            self.member.handle_turn_end(flushed, &self.own);
            let pending = self.path.pending();
            let waited = self.enter(completed, is_left, has_letters);
            // This and the look after `flush` are all that a turn needs, unless it has much to do.
            let start = std::time::Instant::now();
            self.now = self.clock.at(start);
            self.lapse
                .handle_look(flushed + waited.unwrap_or_default(), self.now);
            if waited.is_some() {
                self.member.handle_waited(self.now);
            } else {
                self.path.submitted(pending, self.now - flushed);
            }
            self.own.end_turn(self.now);
            self.path.begin_turn(start);
            completed = self.path.handle_completions(self.now);
            let mut last = completed;
            for _ in 1..ROUNDS_MAX {
                if last < COMPLETIONS_MANY || self.path.is_behind() {
                    break;
                }
                self.path.enter(None);
                last = self.path.handle_completions(self.now);
                completed += last;
            }
            self.path.begin_part();
            self.mesh.receive(&mut self.path);
            // A wake comes behind each command, so a shard that waits does not miss one.
            has_letters = false;
            for letter in self.inbox.letters() {
                match letter {
                    Letter::Command(command) => self.path.handle_command(command),
                    Letter::Listener(change) => self.path.change_listener(change),
                    Letter::Connection(listener, socket) => self.path.join(listener, socket),
                }
                has_letters = self.path.is_part_over();
                if has_letters {
                    // The rest is for the next turn, which comes without a wait.
                    break;
                }
            }
            let counters = self.path.core_mut().counters();
            self.streams.handle_turn(completed, counters, self.now);
            let is_quiet = completed == 0 && !self.path.is_behind();
            if self.lapse.is_over(self.now, is_quiet) {
                self.path.handle_timeouts(self.now);
            }
            self.path.handle_turn();
            self.path.begin_part();
            self.path.handle_resumed();
            is_left = self.mesh.send(&mut self.path);
            for notice in self.path.notices() {
                self.notices.send(notice);
            }

            if self.slot.is_asked() {
                self.show();
            }

            match self.duty(is_left) {
                Duty::Turn => {}
                Duty::Publish => self.path.handle_stopping(self.now),
                Duty::Close => self.path.handle_shutdown(self.now),
                Duty::End => {
                    self.path.core_mut().finish(self.now);
                    return;
                }
            }
        }
    }

    /// What the end asks for, if the broker ends. `is_left`: not all was sent to peers.
    fn duty(&mut self, is_left: bool) -> Duty {
        if self.departure.is_under_way() {
            let is_quiet = !is_left && self.mesh.has_received_all();
            let is_empty = self.path.is_empty();
            return self.departure.advance(self.now, is_quiet, is_empty);
        }
        self.departure.look(self.now)
    }

    /// Answers those who asked how this shard is.
    fn show(&mut self) {
        let mut snapshot = Snapshot {
            turns: self.turns,
            own: self.own.turns(),
            ..Snapshot::default()
        };
        self.path.show(&mut snapshot);
        let talkers = self.path.core_mut().talkers(self.now);
        self.slot.show_talkers(talkers);
        self.slot.answer(&snapshot);
    }

    /// Hands the turn's submissions to the kernel, and waits if there is nothing else to do. Tells for how long at most it
    /// did, if it did.
    fn enter(&mut self, completed: usize, is_left: bool, has_letters: bool) -> Option<Duration> {
        let until_deadline = self
            .path
            .next_deadline()
            .map_or(WAIT_MAX, |at| at - self.now);
        let wait_max = match is_left {
            true => WAIT_FOR_ROOM,
            false if self.departure.is_under_way() => WAIT_TO_END,
            false => WAIT_MAX,
        };
        let wait = until_deadline.min(wait_max);
        let is_busy = completed >= COMPLETIONS_BUSY && self.mesh.has_peers();
        if self.path.has_work() || has_letters || wait.is_zero() || is_busy {
            self.path.enter(None);
            return None;
        }
        let may_wait = self.mesh.announce_sleep();
        if may_wait {
            if self.streams.is_streaming() && wait > WAIT_FOR_MORE {
                self.path
                    .enter_for_many(RECEIVES_WANTED, WAIT_FOR_MORE, wait);
            } else {
                self.path.enter(Some(wait));
            }
            self.mesh.retract_sleep();
        } else {
            self.path.enter(None);
        }
        may_wait.then_some(wait)
    }
}
