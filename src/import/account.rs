//! What was taken and what was not, in words.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::fmt;

/// Examples that are named of each kind of loss.
const EXAMPLES_MAX: usize = 3;

/// Something of the file that cannot be kept.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Loss {
    /// A Session whose time was over.
    ExpiredSession,
    /// A Session with a Client Identifier or User Name that MQTT does not know.
    SessionName,
    /// A Subscription that MQTT does not know, or with more levels than this broker has.
    Subscription,
    /// A Subscription of a Session that is not in the file.
    StraySubscription,
    /// A message for or from a Session that is not in the file.
    StrayMessage,
    /// A message owed to a Session, expired.
    ExpiredMessage,
    /// A message owed to a Session, and not in the file.
    MissingMessage,
    /// A message owed to a Session, with a Topic Name or properties that MQTT does not know.
    Message,
    /// A message in flight with the Packet Identifier of another one, or so far behind the others that
    /// this broker would mix them up.
    PacketIdentifier,
    /// A retained message, expired.
    ExpiredRetained,
    /// A retained message, not in the file.
    MissingRetained,
    /// A retained message with a Topic Name or properties that MQTT does not know.
    Retained,
}

impl Loss {
    fn text(self) -> &'static str {
        match self {
            Self::ExpiredSession => "sessions that had expired",
            Self::SessionName => "sessions with an invalid client identifier or user name",
            Self::Subscription => {
                "subscriptions with an invalid topic filter, option or identifier"
            }
            Self::StraySubscription => "subscriptions of sessions that the file does not hold",
            Self::StrayMessage => "messages of sessions that the file does not hold",
            Self::ExpiredMessage => "queued messages that had expired",
            Self::MissingMessage => {
                "messages owed to sessions whose content the file does not hold"
            }
            Self::Message => {
                "messages owed to sessions with an invalid topic or invalid properties"
            }
            Self::PacketIdentifier => "messages in flight whose packet identifiers cannot be kept",
            Self::ExpiredRetained => "retained messages that had expired",
            Self::MissingRetained => "retained messages whose content the file does not hold",
            Self::Retained => "retained messages with an invalid topic or invalid properties",
        }
    }
}

#[derive(Clone, Debug, Default, Eq, PartialEq)]
struct Lost {
    count: u64,
    examples: Vec<String>,
}

/// What came of a file.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Account {
    /// Sessions.
    pub sessions: usize,
    /// Their Subscriptions.
    pub subscriptions: usize,
    /// Messages that wait for them.
    pub queued: usize,
    /// Messages that were sent to them and not acknowledged to the end.
    pub in_flight: usize,
    /// QoS 2 messages from them that they have not released.
    pub incoming: usize,
    /// Retained messages.
    pub retained: usize,
    /// Whether Mosquitto wrote the file when it ended.
    pub is_last: bool,
    lost: BTreeMap<Loss, Lost>,
}

impl Account {
    /// Counts a loss. `example` tells an operator which one it was.
    pub fn lose(&mut self, loss: Loss, example: impl FnOnce() -> String) {
        let lost = self.lost.entry(loss).or_default();
        lost.count += 1;
        if lost.examples.len() < EXAMPLES_MAX {
            lost.examples.push(example());
        }
    }

    /// Counts `count` losses of one owner.
    pub fn lose_many(&mut self, loss: Loss, count: usize, example: impl FnOnce() -> String) {
        if count > 0 {
            self.lose(loss, example);
            self.lost.entry(loss).or_default().count += count as u64 - 1;
        }
    }

    /// Whether everything was taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.lost.is_empty()
    }

    /// How often something was lost in this way.
    #[must_use]
    pub fn lost(&self, loss: Loss) -> u64 {
        self.lost.get(&loss).map_or(0, |lost| lost.count)
    }

    /// A line for each kind of loss.
    pub fn losses(&self) -> impl Iterator<Item = String> {
        self.lost.iter().map(|(loss, lost)| {
            let more = if lost.count > lost.examples.len() as u64 {
                ", ..."
            } else {
                ""
            };
            let examples = lost.examples.join(", ");
            format!("{} {}: {examples}{more}", lost.count, loss.text())
        })
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} sessions, {} subscriptions, {} queued messages, {} messages in flight to clients, \
             {} from clients, {} retained messages",
            self.sessions,
            self.subscriptions,
            self.queued,
            self.in_flight,
            self.incoming,
            self.retained
        )
    }
}
