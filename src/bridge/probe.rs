//! Whether an address can be connected to, asked now and then while another one is in use.

#![forbid(unsafe_code)]

use std::net::{TcpStream, ToSocketAddrs};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::time::{Duration, Instant};

/// How often it is tried, as by Mosquitto.
const EVERY: Duration = Duration::from_secs(5);
/// How long an attempt may take, and how often one is looked after.
const PATIENCE: Duration = Duration::from_secs(4);
const LOOK_AFTER: Duration = Duration::from_millis(100);

/// Asks in a thread of its own, since names are looked up.
#[derive(Debug)]
pub(super) struct Probe {
    host: String,
    port: u16,
    next_at: Instant,
    answer: Option<Receiver<bool>>,
}

impl Probe {
    pub(super) fn new(host: String, port: u16) -> Self {
        Self {
            host,
            port,
            next_at: Instant::now() + EVERY,
            answer: None,
        }
    }

    /// Whether it can be connected to, as far as is known, and when to look again.
    pub(super) fn look(&mut self, now: Instant) -> (bool, Option<Instant>) {
        if let Some(answer) = &self.answer {
            match answer.try_recv() {
                Ok(true) => return (true, None),
                Err(TryRecvError::Empty) => return (false, Some(now + LOOK_AFTER)),
                Ok(false) | Err(TryRecvError::Disconnected) => {
                    self.answer = None;
                    self.next_at = now + EVERY;
                }
            }
        }
        if now < self.next_at {
            return (false, Some(self.next_at));
        }
        let (sender, answer) = channel();
        let (host, port) = (self.host.clone(), self.port);
        let ask = move || {
            let addresses = (host.as_str(), port).to_socket_addrs();
            let mut addresses = addresses.into_iter().flatten();
            let is_there = addresses.any(|to| TcpStream::connect_timeout(&to, PATIENCE).is_ok());
            // The bridge may have ended meanwhile.
            let _ = sender.send(is_there);
        };
        let asked = std::thread::Builder::new()
            .name("fastmq-probe".into())
            .spawn(ask);
        self.answer = asked.is_ok().then_some(answer);
        self.next_at = now + EVERY;
        (false, Some(now + LOOK_AFTER))
    }
}
