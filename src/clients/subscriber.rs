//! `fastmq sub`.

#![forbid(unsafe_code)]

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::io::{self, BufWriter, ErrorKind, Stdout, Write};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::arguments::SubArguments;
use super::conversation::{Conversation, pause};
use super::failure::Failure;
use super::format::{Format, Moment};
use super::message::ReceivedMessage;
use super::outgoing::Outgoing;
use super::protocol::Event;
use super::settings::Settings;
use super::signals::Signals;
use crate::codec::{ReasonCode, RetainHandling, SubscriptionOptions};
use crate::message::QoS;
use crate::topic::{TopicFilter, TopicName};

/// Before a lost connection is opened again; doubled after every attempt that fails.
const RETRY_DELAY_MIN: Duration = Duration::from_secs(1);
const RETRY_DELAY_MAX: Duration = Duration::from_secs(30);
/// Window of the messages that clear retained ones.
const INFLIGHT_MAX: u16 = 20;

/// Subscribes and prints until there is a reason to end. Returns the exit status.
pub fn run(arguments: &SubArguments) -> u8 {
    match try_run(arguments) {
        Ok(()) => 0,
        // Nobody reads any more, as in `fastmq sub | head`: a good reason to end.
        Err(Failure::Stdio(error)) if error.kind() == ErrorKind::BrokenPipe => 0,
        Err(failure) => {
            failure.report("sub", arguments.connection.quiet);
            failure.exit_status()
        }
    }
}

fn try_run(arguments: &SubArguments) -> Result<(), Failure> {
    let settings = Settings::new(&arguments.connection)?;
    let wish = Wish::new(arguments, &settings)?;
    let signals = Signals::new().map_err(Failure::Stdio)?;
    let conversation = Conversation::open(&settings, &signals, INFLIGHT_MAX)?;
    let mut subscriber = Subscriber {
        deadline: arguments
            .timeout_s
            .map(|seconds| Instant::now() + Duration::from_secs(seconds.into())),
        wish,
        settings: &settings,
        signals: &signals,
        conversation,
        stdout: BufWriter::new(io::stdout()),
        printed: 0,
        was_connected: false,
        acknowledgements_missing: 0,
        random: RandomState::new(),
        seen: 0,
    };
    let end = subscriber.run()?;
    subscriber.end(end)
}

/// What is wanted, checked.
struct Wish<'a> {
    topics: Vec<(String, SubscriptionOptions)>,
    unsubscribe: &'a [String],
    filters_out: &'a [String],
    format: Option<Format>,
    arguments: &'a SubArguments,
}

/// Why to end, when nothing went wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// What was asked for is done.
    Done,
    /// SIGINT or SIGTERM.
    Signal,
    /// `-W`.
    Timeout,
    /// SUBACK refused everything.
    Denied(ReasonCode),
}

struct Subscriber<'a> {
    wish: Wish<'a>,
    settings: &'a Settings,
    signals: &'a Signals,
    conversation: Conversation<'a>,
    stdout: BufWriter<Stdout>,
    deadline: Option<Instant>,
    printed: u64,
    was_connected: bool,
    /// SUBACK and UNSUBACK that have not come yet.
    acknowledgements_missing: usize,
    random: RandomState,
    seen: u64,
}

impl<'a> Wish<'a> {
    fn new(arguments: &'a SubArguments, settings: &Settings) -> Result<Self, Failure> {
        let usage = |said: String| Err(Failure::Usage(said));
        let version = settings.version;
        for (given, name) in [
            (arguments.retain_as_published, "--retain-as-published"),
            (arguments.retain_handling != "always", "--retain-handling"),
        ] {
            if given && !version.is_v5() {
                return usage(format!("{name} needs -V mqttv5"));
            }
        }
        if arguments.no_retained && arguments.retained_only {
            return usage("-R and --retained-only leave nothing to print".to_owned());
        }
        if let Some(percent) = arguments.random_filter
            && !(0.1..=100.0).contains(&percent)
        {
            return usage("--random-filter has to be 0.1 to 100".to_owned());
        }
        let options = SubscriptionOptions {
            qos: QoS::from_bits(arguments.qos).unwrap_or_default(),
            no_local: false,
            retain_as_published: arguments.retain_as_published,
            retain_handling: match arguments.retain_handling.as_str() {
                "new" => RetainHandling::SendIfNew,
                "never" => RetainHandling::DoNotSend,
                _ => RetainHandling::Send,
            },
        };
        let topics: Vec<_> = arguments
            .topics
            .iter()
            .chain(&settings.url_topic)
            .map(|topic| (topic.clone(), options))
            .collect();
        if topics.is_empty() && arguments.unsubscribe.is_empty() {
            return usage("You must specify a topic to subscribe to.".to_owned());
        }
        let all = topics.iter().map(|(topic, _)| topic);
        for topic in all
            .chain(&arguments.unsubscribe)
            .chain(&arguments.filters_out)
        {
            if let Err(error) = TopicFilter::new(topic) {
                return usage(format!("Invalid subscription topic '{topic}': {error}."));
            }
        }
        let format = match &arguments.format {
            Some(text) => Some(Format::parse(text, arguments.pretty).map_err(Failure::Usage)?),
            None if arguments.pretty => {
                return usage("--pretty needs -F with %j or %J".to_owned());
            }
            None => None,
        };
        Ok(Self {
            topics,
            unsubscribe: &arguments.unsubscribe,
            filters_out: &arguments.filters_out,
            format,
            arguments,
        })
    }

    fn is_filtered_out(&self, topic_name: &str) -> bool {
        let Ok(topic_name) = TopicName::new(topic_name) else {
            return false;
        };
        let mut filters = self.filters_out.iter();
        filters
            .any(|filter| TopicFilter::new(filter).is_ok_and(|filter| filter.matches(topic_name)))
    }
}

impl Subscriber<'_> {
    /// Listens, over as many connections as it takes.
    fn run(&mut self) -> Result<End, Failure> {
        let mut delay = RETRY_DELAY_MIN;
        loop {
            let was_connected = std::mem::take(&mut self.was_connected);
            let failure = match self.listen() {
                Ok(end) => return Ok(end),
                Err(failure) => failure,
            };
            let has_worked = was_connected || self.was_connected;
            if !has_worked || !failure.is_worth_a_retry() {
                return Err(failure);
            }
            if self.was_connected {
                delay = RETRY_DELAY_MIN;
                if !self.settings.quiet {
                    eprintln!("Warning: {failure}; connecting again");
                }
            }
            self.was_connected = true;
            loop {
                if let Some(end) = self.wait(delay)? {
                    return Ok(end);
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

    /// Lets `delay` pass, but not more than there is time.
    fn wait(&mut self, delay: Duration) -> Result<Option<End>, Failure> {
        let after = Instant::now() + delay;
        let until = self.deadline.map_or(after, |deadline| deadline.min(after));
        if pause(self.signals, until).map_err(Failure::Stdio)? {
            return Ok(Some(End::Signal));
        }
        Ok(self.is_over().then_some(End::Timeout))
    }

    fn is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() >= deadline)
    }

    /// Listens until one connection ends.
    fn listen(&mut self) -> Result<End, Failure> {
        loop {
            while let Some(event) = self.conversation.next_event()? {
                if let Some(end) = self.handle(event)? {
                    return Ok(end);
                }
            }
            self.flush()?;
            let woken = self.conversation.turn(self.deadline, None)?;
            if woken.by_signal {
                return Ok(End::Signal);
            }
            if self.is_over() {
                return Ok(End::Timeout);
            }
        }
    }

    fn handle(&mut self, event: Event) -> Result<Option<End>, Failure> {
        match event {
            Event::Connected => {
                self.was_connected = true;
                self.subscribe();
            }
            Event::Subscribed(codes) => {
                self.acknowledgements_missing = self.acknowledgements_missing.saturating_sub(1);
                if codes.iter().all(|code| code.is_error()) {
                    return Ok(codes.first().copied().map(End::Denied));
                }
                return Ok(self.end_after_subscribing());
            }
            Event::Unsubscribed => {
                self.acknowledgements_missing = self.acknowledgements_missing.saturating_sub(1);
                return Ok(self.end_after_subscribing());
            }
            Event::Message(message) => return self.handle_message(&message),
            Event::Published { .. } => self.conversation.protocol().fill_window(Instant::now())?,
            Event::Trace(line) => self.print(|out| writeln!(out, "{line}"))?,
        }
        Ok(None)
    }

    fn subscribe(&mut self) {
        let now = Instant::now();
        let protocol = self.conversation.protocol();
        self.acknowledgements_missing = 0;
        if !self.wish.topics.is_empty() {
            let topics = self.wish.topics.iter();
            let filters: Vec<_> = topics
                .map(|(topic, options)| (topic.as_str(), *options))
                .collect();
            protocol.subscribe(&filters, self.settings, now);
            self.acknowledgements_missing += 1;
        }
        if !self.wish.unsubscribe.is_empty() {
            let filters: Vec<_> = self.wish.unsubscribe.iter().map(String::as_str).collect();
            protocol.unsubscribe(&filters, self.settings, now);
            self.acknowledgements_missing += 1;
        }
    }

    fn end_after_subscribing(&self) -> Option<End> {
        let ends = self.wish.arguments.exit_after_subscribing && self.acknowledgements_missing == 0;
        ends.then_some(End::Done)
    }

    fn handle_message(&mut self, message: &ReceivedMessage) -> Result<Option<End>, Failure> {
        let arguments = self.wish.arguments;
        if arguments.retained_only && !message.retain {
            return Ok(Some(End::Done));
        }
        if self.wish.is_filtered_out(&message.topic_name) {
            return Ok(None);
        }
        if arguments.remove_retained && message.retain {
            let topic_name = Rc::from(message.topic_name.as_str());
            let empty = Outgoing::new(topic_name, Bytes::new(), QoS::AtLeastOnce, true);
            self.conversation
                .protocol()
                .publish(empty, Instant::now())?;
        }
        if arguments.no_retained && message.retain || !self.is_picked() {
            return Ok(None);
        }
        self.print_message(message)?;
        self.printed += 1;
        Ok((arguments.count == Some(self.printed)).then_some(End::Done))
    }

    /// Whether chance lets this message through.
    fn is_picked(&mut self) -> bool {
        let Some(percent) = self.wish.arguments.random_filter else {
            return true;
        };
        self.seen += 1;
        let chance = self.random.hash_one(self.seen) as f64 / u64::MAX as f64;
        chance * 100.0 < percent
    }

    fn print_message(&mut self, message: &ReceivedMessage) -> Result<(), Failure> {
        let arguments = self.wish.arguments;
        let end: &[u8] = if arguments.no_newline { b"" } else { b"\n" };
        let mut line = Vec::with_capacity(message.topic_name.len() + message.payload.len() + 2);
        match &self.wish.format {
            Some(format) => {
                if let Err(error) = format.write(message, &Moment::now(), &mut line)
                    && !self.settings.quiet
                {
                    eprintln!("Error: {error} on topic {}.", message.topic_name);
                }
                line.extend_from_slice(end);
            }
            // As Mosquitto has it, of an empty message there is nothing to print but a line of its own.
            None if message.payload.is_empty() => {
                if arguments.verbose && !arguments.no_newline {
                    line = format!("{} (null)\n", message.topic_name).into_bytes();
                }
            }
            None => {
                if arguments.verbose {
                    line.extend_from_slice(message.topic_name.as_bytes());
                    line.push(b' ');
                }
                line.extend_from_slice(&message.payload);
                line.extend_from_slice(end);
            }
        }
        self.print(|out| out.write_all(&line))
    }

    fn print(
        &mut self,
        print: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        print(&mut self.stdout).map_err(Failure::Stdio)
    }

    fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(Failure::Stdio)
    }

    /// Waits for what was published to clear retained messages, and says goodbye.
    fn end(mut self, end: End) -> Result<(), Failure> {
        self.flush()?;
        self.conversation.protocol().close();
        let deadline = Instant::now() + CLEARING_PATIENCE;
        while self.conversation.protocol().is_publishing() && Instant::now() < deadline {
            match self.conversation.next_event()? {
                Some(Event::Published { .. }) => {
                    self.conversation.protocol().fill_window(Instant::now())?;
                }
                Some(Event::Trace(line)) => self.print(|out| writeln!(out, "{line}"))?,
                Some(_) => {}
                None => {
                    self.conversation.turn(Some(deadline), None)?;
                }
            }
        }
        self.flush()?;
        // As Mosquitto's: what was interrupted does not count as a normal end in MQTT 5.
        let interrupted = matches!(end, End::Signal | End::Timeout);
        let reason_code = if interrupted && self.settings.will.is_some() {
            ReasonCode::DisconnectWithWillMessage
        } else {
            ReasonCode::Success
        };
        self.conversation.leave(reason_code)?;
        match end {
            End::Done | End::Signal => Ok(()),
            End::Timeout => Err(Failure::TimedOut),
            End::Denied(code) => Err(Failure::SubscriptionsDenied(code)),
        }
    }
}

/// How long the end may wait for the broker to acknowledge what cleared retained messages.
const CLEARING_PATIENCE: Duration = Duration::from_secs(10);
