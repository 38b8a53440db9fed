//! Debian's Mosquitto, beside which this broker is tested.

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::PATIENCE;

/// Where it is; `None`, which is said, if it is not installed.
pub fn program() -> Option<PathBuf> {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&places)
        .chain(more)
        .map(|place| place.join("mosquitto"))
        .find(|program| program.is_file());
    if found.is_none() {
        eprintln!("skipped: mosquitto is not installed (Debian: apt-get install mosquitto)");
    }
    found
}

/// A process of its own on a free port, killed when this is dropped.
#[derive(Debug)]
pub struct Mosquitto {
    child: Child,
    pub port: u16,
}

impl Mosquitto {
    /// Configured with `lines` beside a listener; its files are in `folder`.
    pub fn start(program: &Path, folder: &Path, lines: &str) -> Self {
        let patience = Instant::now() + PATIENCE;
        loop {
            // Somebody else may be faster to take it.
            let probe = TcpListener::bind("127.0.0.1:0").unwrap();
            let port = probe.local_addr().unwrap().port();
            drop(probe);
            let file = folder.join("mosquitto.conf");
            fs::write(&file, format!("listener {port} 127.0.0.1\n{lines}")).unwrap();
            let log = fs::File::create(folder.join("mosquitto.log")).unwrap();
            let child = Command::new(program)
                .arg("-c")
                .arg(&file)
                .stdin(Stdio::null())
                .stdout(log.try_clone().unwrap())
                .stderr(log)
                .spawn();
            let mut broker = Self {
                child: child.unwrap(),
                port,
            };
            while broker.child.try_wait().unwrap().is_none() {
                if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                    return broker;
                }
                thread::sleep(Duration::from_millis(10));
            }
            let said = fs::read_to_string(folder.join("mosquitto.log")).unwrap();
            assert!(
                Instant::now() < patience,
                "Mosquitto does not start: {said}"
            );
        }
    }

    /// Ends it, which writes its files.
    pub fn stop(mut self) {
        let process_id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process_id, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Mosquitto {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
