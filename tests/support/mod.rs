//! What the tests of the whole broker share: the broker process, an independent client, raw bytes.

// Every test file compiles this on its own and uses a part of it.
#![allow(dead_code)]

pub mod client;
pub mod folder;
pub mod mosquitto;
pub mod raw;

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// Long enough for a loaded machine; no test waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A broker process of its own on a free port, killed when this is dropped.
#[derive(Debug)]
pub struct Broker {
    child: Child,
    port: u16,
    stderr: Arc<Mutex<String>>,
}

impl Broker {
    /// Starts `fastmq --port 0` with more arguments and waits until it listens.
    pub fn start(arguments: &[&str]) -> Self {
        Self::start_on(0, arguments)
    }

    /// The same on a port that is known, of a broker that was there before.
    pub fn start_on(port: u16, arguments: &[&str]) -> Self {
        let port = port.to_string();
        let mut all = vec!["--port", &port];
        all.extend(arguments);
        Self::start_configured(&all)
    }

    /// The same with nothing but these arguments, of which one is a configuration with a listener.
    pub fn start_configured(arguments: &[&str]) -> Self {
        Self::spawn(&mut command(), arguments)
    }

    /// The same from a shell that has done `first`.
    pub fn start_after(first: &str, arguments: &[&str]) -> Self {
        let script = format!("{first} && exec \"$0\" \"$@\"");
        let mut shell = Command::new("sh");
        shell.args(["-c", &script, env!("CARGO_BIN_EXE_fastmq")]);
        Self::spawn(&mut shell, arguments)
    }

    fn spawn(command: &mut Command, arguments: &[&str]) -> Self {
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the broker was built with these tests");
        let stderr = Arc::new(Mutex::new(String::new()));
        let (said, listening) = channel();
        let pipe = child.stderr.take().expect("it is piped");
        let captured = Arc::clone(&stderr);
        thread::spawn(move || {
            for line in BufReader::new(pipe).lines().map_while(Result::ok) {
                if let Some(port) = listening_port(&line) {
                    // Only the first one is waited for.
                    let _ = said.send(port);
                }
                captured.lock().unwrap().push_str(&(line + "\n"));
            }
        });
        match listening.recv_timeout(PATIENCE) {
            Ok(port) => Self {
                child,
                port,
                stderr,
            },
            Err(why) => {
                let _ = child.kill();
                let ended = why == RecvTimeoutError::Disconnected;
                let what = if ended {
                    "ended before"
                } else {
                    "never came to"
                };
                let said = stderr.lock().unwrap();
                panic!("the broker {what} listening; it was given {arguments:?} and said:\n{said}");
            }
        }
    }

    /// A broker on so many cores, even if this machine has fewer.
    pub fn on_cores(cores: usize) -> Self {
        Self::start(&["--cores", &cores.to_string(), "--oversubscribe"])
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn process_id(&self) -> u32 {
        self.child.id()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// Waits until it has written that.
    pub fn wait_to_say(&mut self, text: &str) {
        self.wait_to_say_times(text, 1);
    }

    /// Waits until it has written that so often.
    pub fn wait_to_say_times(&mut self, text: &str, times: usize) {
        let deadline = Instant::now() + PATIENCE;
        while self.stderr().matches(text).count() < times {
            assert!(self.is_running(), "it has ended");
            assert!(Instant::now() < deadline, "it does not say: {text}");
            thread::sleep(Duration::from_millis(5));
        }
    }

    pub fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal(rustix::process::Signal::TERM);
    }

    /// Sends any signal.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let process_id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(process_id, signal).unwrap();
    }

    /// Its exit status, if it ends in time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        wait(&mut self.child, patience)
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        let ended_by_itself =
            matches!(self.child.try_wait(), Ok(Some(status)) if !status.success());
        let _ = self.child.kill();
        let _ = self.child.wait();
        // A broker that fell over explains a failing test better than the client's view of it.
        if thread::panicking() || ended_by_itself {
            eprintln!("--- the broker said:\n{}---", self.stderr());
        }
    }
}

/// The broker's command, for tests that expect it not to start.
pub fn command() -> Command {
    Command::new(env!("CARGO_BIN_EXE_fastmq"))
}

/// Runs a command that has to end by itself, and returns its exit code and standard error.
pub fn run_to_end(command: &mut Command) -> (Option<i32>, String) {
    let mut child = command
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let status = wait(&mut child, PATIENCE);
    let _ = child.kill();
    let output = child.wait_with_output().unwrap();
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let status = status.unwrap_or_else(|| panic!("it should have ended; it said:\n{stderr}"));
    (status.code(), stderr)
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let deadline = Instant::now() + patience;
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if Instant::now() > deadline {
            return None;
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// The port in a line that holds `listening on 127.0.0.1:PORT`.
fn listening_port(line: &str) -> Option<u16> {
    let (_, address) = line.split_once("listening on ")?;
    let (_, port) = address.split_whitespace().next()?.rsplit_once(':')?;
    port.trim_end_matches(|character: char| !character.is_ascii_digit())
        .parse()
        .ok()
}

/// Raises this process's limit of open files, which the brokers it starts inherit.
pub fn allow_open_files(needed: u64) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let maximum = limit.maximum.unwrap_or(u64::MAX);
    assert!(
        maximum >= needed,
        "this test needs {needed} open files and the hard limit is {maximum}: raise it"
    );
    if limit.current.is_some_and(|current| current < needed) {
        setrlimit(
            Resource::Nofile,
            Rlimit {
                current: Some(needed),
                maximum: limit.maximum,
            },
        )
        .unwrap();
    }
}
