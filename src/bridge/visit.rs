//! One connection of a bridge, from its beginning to its end: two sockets, and a [`Relay`] between them.

#![forbid(unsafe_code)]

use super::control::{Asked, Control};
use super::relay::{Ended, Event, Orphans, Relay, Side};
use crate::clients::{Link, Received, wait};
use crate::codec::ReasonCode;
use rustix::event::{PollFd, PollFlags};
use std::io;
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Reads in a row before what is to be sent has its turn.
const READS_MAX: usize = 16;
/// How long a goodbye may take to leave.
const LEAVING_PATIENCE: Duration = Duration::from_secs(1);

/// Why a visit is over.
#[derive(Debug)]
pub(super) enum End {
    /// The bridge is asked for that.
    Asked(Asked),
    /// A better address can be reached again.
    Preferred,
    /// It was lost.
    Lost(String),
    /// One of the brokers ended it, or cannot be understood.
    Ended(Ended),
}

impl End {
    /// Whether the remote broker may let in a Client that does not say that it is a bridge.
    pub(super) fn is_for_bridges(&self) -> bool {
        let unknown = ReasonCode::UnsupportedProtocolVersion;
        matches!(self, Self::Ended(Ended::Refused(Side::Remote, code, version))
            if *code == unknown && !version.is_v5())
    }
}

/// One of the two connections.
#[derive(Debug)]
struct Line {
    side: Side,
    link: Link,
    /// More may have arrived than was read: what is in the layers of the link no wait for the socket tells of.
    has_more: bool,
}

/// Two connections and what goes between them.
#[derive(Debug)]
pub(super) struct Visit {
    relay: Relay,
    remote: Line,
    local: Line,
}

impl Visit {
    pub(super) fn new(relay: Relay, remote: Link, local: Link) -> Self {
        Self {
            relay,
            remote: Line::new(Side::Remote, remote),
            local: Line::new(Side::Local, local),
        }
    }

    /// Carries packets until it is over. `join` connects to this broker; `tell` hears what happens; `is_preferred` is asked
    /// again and again whether a better address is to be had.
    pub(super) fn run(
        &mut self,
        control: &Control,
        join: &mut dyn FnMut() -> io::Result<Link>,
        tell: &mut dyn FnMut(Event),
        is_preferred: &mut dyn FnMut(Instant) -> (bool, Option<Instant>),
    ) -> End {
        loop {
            let now = Instant::now();
            if let Err(ended) = self.relay.advance(now) {
                // Whoever is told of it later than the other one may be told why.
                return End::Ended(ended);
            }
            for event in self.relay.events() {
                if event == Event::Rejoin {
                    self.local.link.finish();
                    match join() {
                        Ok(link) => self.local = Line::new(Side::Local, link),
                        Err(error) => return End::Lost(format!("this broker: {error}")),
                    }
                } else {
                    tell(event);
                }
            }
            if let Err(end) = self.send(now) {
                return end;
            }
            let (is_preferred, look_again) = is_preferred(now);
            if is_preferred {
                return End::Preferred;
            }
            match self.wait(control, look_again) {
                Ok(Some(asked)) => return End::Asked(asked),
                Ok(None) => {}
                Err(error) => return End::Lost(error.to_string()),
            }
            let now = Instant::now();
            for line in [&mut self.remote, &mut self.local] {
                if let Err(lost) = line.read(&mut self.relay, now) {
                    // What it said before it ended may say why.
                    if let Err(ended) = self.relay.advance(now) {
                        return End::Ended(ended);
                    }
                    return End::Lost(lost);
                }
            }
            if let Err(ended) = self.relay.handle_timeout(now) {
                return End::Ended(ended);
            }
        }
    }

    /// Sends what it can.
    fn send(&mut self, now: Instant) -> Result<(), End> {
        for line in [&mut self.remote, &mut self.local] {
            let output = self.relay.output(line.side);
            if output.is_empty() && !line.link.is_blocked() {
                continue;
            }
            let before = output.len();
            let sent = line.link.send(output);
            let size = before.saturating_sub(self.relay.output(line.side).len());
            if size > 0 {
                self.relay.handle_sent(line.side, size, now);
            }
            if let Err(error) = sent {
                let _ = line.read(&mut self.relay, now);
                if let Err(ended) = self.relay.advance(now) {
                    return Err(End::Ended(ended));
                }
                return Err(End::Lost(format!("{}: {error}", line.side)));
            }
        }
        Ok(())
    }

    /// Waits until there is something to do, or the bridge is asked for something.
    fn wait(&mut self, control: &Control, until: Option<Instant>) -> io::Result<Option<Asked>> {
        let lines = [&self.remote, &self.local];
        let is_ready = self.relay.is_behind()
            || lines
                .iter()
                .any(|line| line.has_more && self.relay.wants(line.side));
        let ready = is_ready.then(Instant::now);
        let deadlines = [until, self.relay.deadline(), ready];
        let until = deadlines.into_iter().flatten().min();
        let mut files = vec![PollFd::from_borrowed_fd(control.as_fd(), PollFlags::IN)];
        for line in lines {
            let mut flags = PollFlags::empty();
            flags.set(PollFlags::IN, self.relay.wants(line.side));
            flags.set(PollFlags::OUT, line.link.is_blocked());
            files.push(PollFd::from_borrowed_fd(line.link.as_fd(), flags));
        }
        wait(&mut files, until)?;
        let is_asked = files.first().is_some_and(|it| !it.revents().is_empty());
        // What is not wanted is not read, and a wait would end at once with it again and again.
        let over = PollFlags::HUP | PollFlags::ERR;
        for (line, file) in lines.into_iter().zip(files.iter().skip(1)) {
            if file.revents().intersects(over) && !self.relay.wants(line.side) {
                let said = format!("{} closed the connection", line.side);
                return Err(io::Error::other(said));
            }
        }
        Ok(if is_asked { control.asked() } else { None })
    }

    /// What the next connection has to see to.
    pub(super) fn orphans(&self) -> Orphans {
        self.relay.orphans()
    }

    /// Says goodbye, and waits a moment until it has left.
    pub(super) fn leave(mut self) {
        self.relay.leave();
        let until = Instant::now() + LEAVING_PATIENCE;
        for line in [&mut self.remote, &mut self.local] {
            while let Ok(false) = line.link.send(self.relay.output(line.side)) {
                let mut files = [PollFd::from_borrowed_fd(line.link.as_fd(), PollFlags::OUT)];
                if Instant::now() >= until || wait(&mut files, Some(until)).is_err() {
                    break;
                }
            }
            line.link.finish();
        }
        // Bytes that nobody has read would make the system take back what was sent last.
        while Instant::now() < until {
            match self.remote.link.receive(|_| {}) {
                Ok(Received::Bytes) => {}
                Ok(Received::End) | Err(_) => break,
                Ok(Received::Nothing) => {
                    let mut files = [PollFd::from_borrowed_fd(
                        self.remote.link.as_fd(),
                        PollFlags::IN,
                    )];
                    if wait(&mut files, Some(until)).is_err() {
                        break;
                    }
                }
            }
        }
    }
}

impl Line {
    fn new(side: Side, link: Link) -> Self {
        Self {
            side,
            link,
            has_more: false,
        }
    }

    /// Reads what has come, as far as it is wanted.
    fn read(&mut self, relay: &mut Relay, now: Instant) -> Result<(), String> {
        self.has_more = false;
        for _ in 0..READS_MAX {
            if !relay.wants(self.side) {
                break;
            }
            let side = self.side;
            let received = self.link.receive(|bytes| relay.receive(side, bytes, now));
            match received {
                Ok(Received::Bytes) => {}
                Ok(Received::Nothing) => return Ok(()),
                Ok(Received::End) => return Err(format!("{side} closed the connection")),
                Err(error) => return Err(format!("{side}: {error}")),
            }
        }
        self.has_more = true;
        Ok(())
    }
}
