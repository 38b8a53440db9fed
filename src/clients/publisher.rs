//! `fastmq pub`.

#![forbid(unsafe_code)]

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::arguments::PubArguments;
use super::conversation::{Conversation, pause};
use super::failure::Failure;
use super::outgoing::{EncodedProperties, Outgoing};
use super::protocol::Event;
use super::reason::describe;
use super::settings::Settings;
use super::signals::Signals;
use crate::codec::ReasonCode;
use crate::message::{ProtocolVersion, QoS};
use crate::topic::TopicName;

/// The largest payload there can be.
const PAYLOAD_SIZE_MAX: u64 = 268_435_455;
/// Read of standard input at once.
const INPUT_SIZE: usize = 64 * 1024;
/// Before a lost connection is opened again, when lines are being published; doubled as it fails.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);

/// Publishes. Returns the exit status.
pub fn run(arguments: &PubArguments) -> u8 {
    match try_run(arguments) {
        Ok(()) => 0,
        Err(failure) => {
            failure.report("pub", arguments.connection.quiet);
            failure.exit_status()
        }
    }
}

fn try_run(arguments: &PubArguments) -> Result<(), Failure> {
    let settings = Settings::new(&arguments.connection)?;
    let topic_name = topic_name(arguments, &settings)?;
    let source = Source::new(arguments)?;
    let signals = Signals::new().map_err(Failure::Stdio)?;
    let properties = Rc::new(EncodedProperties::new(&settings.properties.publish));
    let conversation = Conversation::open(&settings, &signals, arguments.inflight_max)?;
    let mut publisher = Publisher {
        conversation,
        settings: &settings,
        signals: &signals,
        source,
        topic_name,
        qos: QoS::from_bits(arguments.qos).unwrap_or_default(),
        retain: arguments.retain,
        properties,
        is_connected: false,
        was_connected: false,
        denied: None,
    };
    let interrupted = publisher.run()?;
    let denied = publisher.denied;
    let reason_code = if interrupted && settings.will.is_some() {
        ReasonCode::DisconnectWithWillMessage
    } else {
        ReasonCode::Success
    };
    publisher.conversation.leave(reason_code)?;
    match denied {
        _ if interrupted => Err(Failure::Interrupted),
        Some(code) => Err(Failure::PublishDenied(code)),
        None => Ok(()),
    }
}

fn topic_name(arguments: &PubArguments, settings: &Settings) -> Result<Rc<str>, Failure> {
    let usage = |said: String| Err(Failure::Usage(said));
    let topic = arguments.topic.as_ref().or(settings.url_topic.as_ref());
    let Some(topic) = topic else {
        return usage("Both topic and message must be supplied.".to_owned());
    };
    match TopicName::new(topic) {
        Ok(_) => Ok(topic.as_str().into()),
        Err(error) => usage(format!("Invalid publish topic '{topic}': {error}.")),
    }
}

/// Where messages come from.
enum Source {
    /// One message, so many more times, with a delay between them.
    Message {
        payload: Bytes,
        left: u32,
        delay: Duration,
        /// Whether the last one has not been delivered yet.
        is_under_way: bool,
        /// When the next may go.
        due: Option<Instant>,
    },
    /// The lines of standard input.
    Lines {
        /// The beginning of a line that has no end yet.
        line: Vec<u8>,
        has_ended: bool,
    },
}

impl Source {
    fn new(arguments: &PubArguments) -> Result<Self, Failure> {
        let usage = |said: &str| Err(Failure::Usage(said.to_owned()));
        let given = [
            arguments.message.is_some(),
            arguments.file.is_some(),
            arguments.stdin_line,
            arguments.null_message,
            arguments.stdin_file,
        ];
        match given.iter().filter(|&&given| given).count() {
            0 => {
                let said = "Both topic and message must be supplied: one of -m, -f, -l, -n and -s.";
                return usage(said);
            }
            1 => {}
            _ => return usage("only one of -m, -f, -l, -n and -s can be given"),
        }
        let delay = Duration::try_from_secs_f64(arguments.repeat_delay);
        let Ok(delay) = delay else {
            return usage("--repeat-delay has to be a number of seconds that is not negative");
        };
        if arguments.stdin_line {
            if arguments.repeat != 1 {
                return usage("--repeat cannot repeat the lines of -l");
            }
            let line = Vec::new();
            return Ok(Self::Lines {
                line,
                has_ended: false,
            });
        }
        let payload = if let Some(text) = &arguments.message {
            text.as_bytes().to_vec()
        } else if let Some(path) = &arguments.file {
            let file = File::open(path).map_err(|error| Failure::file(path, error))?;
            read_whole(file, path)?
        } else if arguments.stdin_file {
            let input = Path::new("standard input");
            let payload = read_whole(io::stdin().lock(), input)?;
            if payload.is_empty() {
                // Of a command that failed before the pipe; with -r it would clear what is retained.
                return Err(Failure::file(
                    input,
                    "Zero length input; -n publishes nothing",
                ));
            }
            payload
        } else {
            Vec::new()
        };
        Ok(Self::Message {
            payload: payload.into(),
            left: arguments.repeat,
            delay,
            is_under_way: false,
            due: None,
        })
    }

    fn has_ended(&self) -> bool {
        match self {
            Self::Message { left, .. } => *left == 0,
            Self::Lines { has_ended, .. } => *has_ended,
        }
    }
}

/// Everything, or nothing if it is more than a message can hold.
fn read_whole(input: impl Read, path: &Path) -> Result<Vec<u8>, Failure> {
    let mut payload = Vec::new();
    let read = input.take(PAYLOAD_SIZE_MAX + 1).read_to_end(&mut payload);
    read.map_err(|error| Failure::file(path, error))?;
    if payload.len() as u64 > PAYLOAD_SIZE_MAX {
        let said = format!("more than the {PAYLOAD_SIZE_MAX} bytes that a message can hold");
        return Err(Failure::file(path, said));
    }
    Ok(payload)
}

struct Publisher<'a> {
    conversation: Conversation<'a>,
    settings: &'a Settings,
    signals: &'a Signals,
    source: Source,
    topic_name: Rc<str>,
    qos: QoS,
    retain: bool,
    properties: Rc<EncodedProperties>,
    is_connected: bool,
    was_connected: bool,
    /// The first refusal of a message.
    denied: Option<ReasonCode>,
}

impl Publisher<'_> {
    /// Publishes everything. Whether it was interrupted.
    fn run(&mut self) -> Result<bool, Failure> {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let failure = match self.publish_all() {
                Ok(interrupted) => return Ok(interrupted),
                Err(failure) => failure,
            };
            // Whoever writes lines, perhaps for days, expects them to arrive; one message is better
            // sent again by whoever knows that it was not.
            let is_stream = matches!(self.source, Source::Lines { .. });
            if !is_stream || !self.was_connected || !failure.is_worth_a_retry() {
                return Err(failure);
            }
            if std::mem::take(&mut self.is_connected) {
                delay = RETRY_DELAY_MIN;
                if !self.settings.quiet {
                    eprintln!("Warning: {failure}; connecting again");
                }
            }
            loop {
                let until = Instant::now() + delay;
                if pause(self.signals, until).map_err(Failure::Stdio)? {
                    return Err(Failure::Interrupted);
                }
                delay = (delay * 2).min(RETRY_DELAY_MAX);
                match self.conversation.reopen() {
                    Ok(()) => break,
                    Err(failure) if failure.is_worth_a_retry() => {}
                    Err(failure) => return Err(failure),
                }
            }
        }
    }

    fn publish_all(&mut self) -> Result<bool, Failure> {
        let stdin = io::stdin();
        let mut buffer = vec![0; INPUT_SIZE];
        loop {
            while let Some(event) = self.conversation.next_event()? {
                self.handle(event)?;
            }
            let has_published = self.publish_next()?;
            self.conversation.send();
            let is_publishing = self.conversation.protocol().is_publishing();
            if self.is_connected && self.source.has_ended() && !is_publishing {
                // QoS 0 has been delivered when it has been sent, which the end waits for.
                return Ok(false);
            }
            let until = if has_published {
                // At QoS 0 nobody will answer.
                Some(Instant::now())
            } else {
                self.next_deadline()
            };
            let input = self.wants_lines().then(|| stdin.as_fd());
            let woken = self.conversation.turn(until, input)?;
            if woken.by_signal {
                return Ok(true);
            }
            if woken.by_input {
                let count = match rustix::io::read(&stdin, &mut buffer[..]) {
                    Ok(count) => count,
                    Err(rustix::io::Errno::INTR | rustix::io::Errno::AGAIN) => continue,
                    Err(error) => return Err(Failure::Stdio(error.into())),
                };
                self.publish_lines(buffer.get(..count).unwrap_or_default())?;
            }
        }
    }

    fn wants_lines(&mut self) -> bool {
        let Source::Lines { has_ended, .. } = self.source else {
            return false;
        };
        !has_ended
            && self.is_connected
            && !self.conversation.protocol().is_window_full()
            && !self.conversation.is_congested()
    }

    fn next_deadline(&self) -> Option<Instant> {
        match &self.source {
            Source::Message { due, left, .. } if self.is_connected && *left > 0 => *due,
            _ => None,
        }
    }

    fn handle(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Connected => {
                self.is_connected = true;
                self.was_connected = true;
            }
            Event::Published {
                packet_identifier,
                reason_code,
            } => {
                if reason_code.is_error() {
                    self.denied.get_or_insert(reason_code);
                    if !self.settings.quiet {
                        let why = describe(reason_code, ProtocolVersion::V5);
                        eprintln!("Warning: Publish {packet_identifier} failed: {why}.");
                    }
                }
                self.conversation.protocol().fill_window(Instant::now())?;
            }
            Event::Trace(line) => {
                // Nobody may be reading any more.
                let _ = writeln!(io::stdout(), "{line}");
            }
            // A session that is continued may bring some; nobody here asked for them.
            Event::Message(_) | Event::Subscribed(_) | Event::Unsubscribed => {}
        }
        Ok(())
    }

    /// Publishes the message once more, if it is due and the one before has been delivered. Whether
    /// it did.
    fn publish_next(&mut self) -> Result<bool, Failure> {
        let is_delivered =
            !self.conversation.protocol().is_publishing() && !self.conversation.is_congested();
        let Source::Message {
            payload,
            left,
            delay,
            is_under_way,
            due,
        } = &mut self.source
        else {
            return Ok(false);
        };
        if !self.is_connected || !is_delivered {
            return Ok(false);
        }
        let now = Instant::now();
        if std::mem::take(is_under_way) {
            *due = Some(now + *delay);
        }
        if *left == 0 || due.is_some_and(|due| now < due) {
            return Ok(false);
        }
        *left -= 1;
        *is_under_way = true;
        let payload = payload.clone();
        self.publish(payload)?;
        Ok(true)
    }

    fn publish_lines(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let Source::Lines { line, has_ended } = &mut self.source else {
            return Ok(());
        };
        let mut lines: Vec<Bytes> = Vec::new();
        if bytes.is_empty() {
            *has_ended = true;
            if !line.is_empty() {
                lines.push(std::mem::take(line).into());
            }
        }
        for part in bytes.split_inclusive(|&byte| byte == b'\n') {
            match part.strip_suffix(b"\n") {
                Some(end) => {
                    line.extend_from_slice(end);
                    lines.push(std::mem::take(line).into());
                }
                None => line.extend_from_slice(part),
            }
            if line.len() as u64 > PAYLOAD_SIZE_MAX {
                let said = format!("a line of more than {PAYLOAD_SIZE_MAX} bytes");
                return Err(Failure::file(Path::new("standard input"), said));
            }
        }
        for line in lines {
            self.publish(line)?;
        }
        Ok(())
    }

    fn publish(&mut self, payload: Bytes) -> Result<(), Failure> {
        let topic_name = Rc::clone(&self.topic_name);
        let mut message = Outgoing::new(topic_name, payload, self.qos, self.retain);
        message.properties = Rc::clone(&self.properties);
        let protocol = self.conversation.protocol();
        protocol.publish(message, Instant::now()).map(|_| ())
    }
}
