//! Lines for the system's log, as syslog(3) of the C library sends them.
//!
//! That is one datagram in one format, and a way back when the daemon was restarted. A library for it
//! would bring a clock, a host name and blocking sends with it, which are not wanted here.

#![forbid(unsafe_code)]

use super::kind::Kind;
use super::timestamp::local;
use std::fmt::Write;
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

/// How long a daemon that does not read may hold up the log.
const SEND_MAX: Duration = Duration::from_millis(100);

/// The directive `log_facility`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Facility {
    /// `daemon`, without the directive.
    #[default]
    Daemon,
    /// `local0` to `local7`.
    Local(u8),
}

impl Facility {
    fn code(self) -> u8 {
        match self {
            Self::Daemon => 3,
            Self::Local(number) => 16 + (number & 7),
        }
    }
}

#[derive(Debug)]
pub(super) struct Syslog {
    path: PathBuf,
    facility: Facility,
    socket: Option<UnixDatagram>,
    datagram: String,
}

impl Syslog {
    pub(super) fn new(path: PathBuf, facility: Facility) -> Self {
        Self {
            path,
            facility,
            socket: None,
            datagram: String::new(),
        }
    }

    /// Sends one line; connects again if the daemon was restarted meanwhile.
    pub(super) fn send(&mut self, kind: Kind, line: &str, at: SystemTime) -> io::Result<()> {
        let priority = self.facility.code() << 3 | kind.severity();
        let time = local(at, "%b %e %H:%M:%S").unwrap_or_default();
        self.datagram.clear();
        let _ = write!(
            self.datagram,
            "<{priority}>{time} fastmq[{}]: {line}",
            std::process::id()
        );
        let is_new = self.socket.is_none();
        match self.try_send() {
            Err(error) if !is_new && error.kind() != io::ErrorKind::WouldBlock => {
                self.socket = None;
                self.try_send()
            }
            result => result,
        }
    }

    fn try_send(&mut self) -> io::Result<()> {
        let socket = match &self.socket {
            Some(socket) => socket,
            None => {
                let socket = UnixDatagram::unbound()?;
                socket.connect(&self.path)?;
                socket.set_write_timeout(Some(SEND_MAX))?;
                self.socket.insert(socket)
            }
        };
        socket.send(self.datagram.as_bytes()).map(drop)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn path(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("fastmq-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    fn receive(socket: &UnixDatagram) -> String {
        let mut bytes = [0; 4096];
        let size = socket.recv(&mut bytes).unwrap();
        String::from_utf8(bytes[..size].to_vec()).unwrap()
    }

    #[test]
    fn a_line_arrives_with_priority_name_and_process() {
        let path = path("syslog");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(path.clone(), Facility::Local(5));
        syslog
            .send(Kind::Notice, "Client a disconnected.", SystemTime::now())
            .unwrap();
        let line = receive(&daemon);
        // local5.notice
        assert!(line.starts_with("<173>"), "{line}");
        let end = format!(" fastmq[{}]: Client a disconnected.", std::process::id());
        assert!(line.ends_with(&end), "{line}");
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_restarted_daemon_gets_the_next_line() {
        let path = path("syslog-restart");
        let daemon = UnixDatagram::bind(&path).unwrap();
        let mut syslog = Syslog::new(path.clone(), Facility::Daemon);
        syslog.send(Kind::Error, "one", SystemTime::now()).unwrap();
        assert!(receive(&daemon).starts_with("<27>"));
        drop(daemon);
        std::fs::remove_file(&path).unwrap();
        assert!(syslog.send(Kind::Error, "two", SystemTime::now()).is_err());
        let daemon = UnixDatagram::bind(&path).unwrap();
        syslog
            .send(Kind::Error, "three", SystemTime::now())
            .unwrap();
        assert!(receive(&daemon).ends_with("three"));
        std::fs::remove_file(path).unwrap();
    }
}
