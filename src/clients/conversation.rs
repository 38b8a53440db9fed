//! One thread's conversation with a broker: sends what [`Protocol`] has to say, waits, and brings it
//! what arrived.

#![forbid(unsafe_code)]

use std::io::{self, ErrorKind, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustls::ClientConfig;

use super::failure::Failure;
use super::link::{Link, Received};
use super::protocol::{Event, Protocol};
use super::settings::Settings;
use super::signals::Signals;
use super::tls;
use crate::codec::ReasonCode;

/// A client that is connected to a broker, or was.
#[derive(Debug)]
pub struct Conversation<'a> {
    settings: &'a Settings,
    signals: &'a Signals,
    tls: Option<Arc<ClientConfig>>,
    link: Link,
    protocol: Protocol,
    /// More may have arrived than was read: what is in the layers of the link no wait for the socket tells of.
    has_more: bool,
    /// Why nothing more can be sent or received, once that is so.
    ended: Option<Failure>,
}

/// Who ended a wait, beside the broker and the time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Woken {
    /// The process is asked to end.
    pub by_signal: bool,
    /// The file that was waited for has something to read.
    pub by_input: bool,
}

/// Reads in a row before what is to be sent has its turn.
const READS_MAX: usize = 16;
/// How long the end of a conversation may take: for what has to leave, and for the broker to close.
const LEAVING_PATIENCE: Duration = Duration::from_secs(10);
const CLOSING_PATIENCE: Duration = Duration::from_secs(1);

impl<'a> Conversation<'a> {
    /// Connects and sends CONNECT.
    ///
    /// # Errors
    /// [`Failure`] says which part of it failed.
    pub fn open(
        settings: &'a Settings,
        signals: &'a Signals,
        inflight_max: u16,
    ) -> Result<Self, Failure> {
        let tls = settings.endpoint.tls.as_ref();
        let tls = tls.map(tls::client_config).transpose()?;
        let link = Link::open(&settings.endpoint, tls.as_ref())?;
        signals.hold_back();
        let protocol = Protocol::new(settings, inflight_max, Instant::now());
        Ok(Self {
            settings,
            signals,
            tls,
            link,
            protocol,
            has_more: false,
            ended: None,
        })
    }

    /// Connects again; what was not acknowledged will be sent again.
    ///
    /// # Errors
    /// [`Failure`] says which part of it failed.
    pub fn reopen(&mut self) -> Result<(), Failure> {
        self.signals.let_through();
        self.link = Link::open(&self.settings.endpoint, self.tls.as_ref())?;
        self.signals.hold_back();
        self.has_more = false;
        self.ended = None;
        self.protocol.restart(self.settings, Instant::now());
        Ok(())
    }

    /// What is said to the broker goes here, and is sent in the next [`turn`](Self::turn).
    pub fn protocol(&mut self) -> &mut Protocol {
        &mut self.protocol
    }

    /// The next thing that happened, of what has arrived.
    ///
    /// # Errors
    /// [`Failure`] ends the Network Connection.
    pub fn next_event(&mut self) -> Result<Option<Event>, Failure> {
        self.protocol.next_event(Instant::now())
    }

    /// Whether the broker reads so slowly that no more should be added to what is to be sent.
    pub fn is_congested(&self) -> bool {
        self.link.is_blocked()
    }

    /// Sends, then waits: until the broker says something, `until`, or one of [`Woken`].
    ///
    /// # Errors
    /// [`Failure`] ends the Network Connection.
    pub fn turn(
        &mut self,
        until: Option<Instant>,
        input: Option<BorrowedFd<'_>>,
    ) -> Result<Woken, Failure> {
        self.send();
        if let Some(failure) = self.ended.take() {
            return Err(failure);
        }
        let now = self.has_more.then(Instant::now);
        let deadlines = [until, self.protocol.next_deadline(), now];
        let until = deadlines.into_iter().flatten().min();
        let socket = if self.link.is_blocked() {
            PollFlags::IN | PollFlags::OUT
        } else {
            PollFlags::IN
        };
        let mut files = vec![
            PollFd::from_borrowed_fd(self.link.as_fd(), socket),
            PollFd::from_borrowed_fd(self.signals.as_fd(), PollFlags::IN),
        ];
        files.extend(input.map(|input| PollFd::from_borrowed_fd(input, PollFlags::IN)));
        wait(&mut files, until).map_err(Failure::Stdio)?;
        let has_news = |index: usize| {
            files
                .get(index)
                .is_some_and(|file| !file.revents().is_empty())
        };
        let (by_broker, by_signal, by_input) = (has_news(0), has_news(1), has_news(2));
        if by_broker || self.has_more {
            self.read();
        }
        self.protocol.handle_timeout(Instant::now())?;
        Ok(Woken {
            by_signal,
            by_input,
        })
    }

    /// Sends what it can. Whether everything has left.
    pub fn send(&mut self) -> bool {
        match self.link.send(self.protocol.output()) {
            Ok(has_left) => has_left,
            Err(error) => {
                // What the broker said last may explain why it does not listen any more.
                self.read();
                self.ended.get_or_insert_with(|| failure_of(&error));
                false
            }
        }
    }

    fn read(&mut self) {
        let now = Instant::now();
        self.has_more = false;
        for _ in 0..READS_MAX {
            let protocol = &mut self.protocol;
            // What it said before it ended is still to be heard.
            match self.link.receive(|bytes| protocol.receive(bytes, now)) {
                Ok(Received::Bytes) => {}
                Ok(Received::Nothing) => return,
                Ok(Received::End) => {
                    self.ended = Some(Failure::Lost("the broker closed it".to_owned()));
                    return;
                }
                Err(error) => {
                    self.ended = Some(failure_of(&error));
                    return;
                }
            }
        }
        self.has_more = true;
    }

    /// Says goodbye, sends everything and waits a moment for the broker to close: bytes that nobody
    /// has read would make the system take back what was sent last.
    ///
    /// # Errors
    /// What was to be sent could not be.
    pub fn leave(mut self, reason_code: ReasonCode) -> Result<(), Failure> {
        self.protocol.disconnect(reason_code, self.settings);
        self.say_traces();
        let deadline = Instant::now() + LEAVING_PATIENCE;
        while !self.send() {
            if let Some(failure) = self.ended {
                return Err(failure);
            }
            if Instant::now() >= deadline {
                return Err(Failure::Lost("the broker does not read".to_owned()));
            }
            self.wait_for(PollFlags::OUT, deadline)?;
        }
        self.link.finish();
        let deadline = Instant::now() + CLOSING_PATIENCE;
        while self.ended.is_none() && Instant::now() < deadline {
            self.wait_for(PollFlags::IN, deadline)?;
            match self.link.receive(|_| {}) {
                Ok(Received::Bytes | Received::Nothing) => {}
                Ok(Received::End) | Err(_) => break,
            }
        }
        Ok(())
    }

    fn wait_for(&self, what: PollFlags, until: Instant) -> Result<(), Failure> {
        let mut files = [PollFd::from_borrowed_fd(self.link.as_fd(), what)];
        wait(&mut files, Some(until)).map_err(Failure::Stdio)
    }

    /// Prints what `--debug` is for and nobody will ask for any more.
    fn say_traces(&mut self) {
        for event in self.protocol.take_events() {
            if let Event::Trace(line) = event {
                // Nobody may be reading any more.
                let _ = writeln!(io::stdout(), "{line}");
            }
        }
    }
}

/// What an error of the link means: a connection that is lost, or a broker that cannot be understood.
fn failure_of(error: &io::Error) -> Failure {
    match error.kind() {
        ErrorKind::InvalidData => Failure::Protocol(error.to_string()),
        _ => Failure::Lost(error.to_string()),
    }
}

/// Waits so long, or until the process is asked to end, which is what it returns.
///
/// # Errors
/// The system's.
pub fn pause(signals: &Signals, until: Instant) -> io::Result<bool> {
    signals.hold_back();
    let mut files = [PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN)];
    while Instant::now() < until {
        wait(&mut files, Some(until))?;
        if files.iter().any(|file| !file.revents().is_empty()) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// `poll(2)` until something happens or the time has come.
pub(crate) fn wait(files: &mut [PollFd<'_>], until: Option<Instant>) -> io::Result<()> {
    let timeout = until.map(|until| {
        let left = until.saturating_duration_since(Instant::now());
        Timespec {
            // A wait of many years ends with one that is as good.
            tv_sec: left.as_secs().min(u32::MAX.into()) as i64,
            tv_nsec: left.subsec_nanos().into(),
        }
    });
    match poll(files, timeout.as_ref()) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}
