//! Which topics cross a bridge, and what they are called on its other side.

#![forbid(unsafe_code)]

use crate::config::{BridgeTopic, Direction};
use crate::message::QoS;
use crate::topic::{TopicFilter, TopicName};

/// The `topic` lines of a bridge.
#[derive(Clone, Debug)]
pub(super) struct Topics(Vec<BridgeTopic>);

/// Which way a message goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Way {
    /// From this broker to the remote one.
    Out,
    /// From the remote broker to this one.
    In,
}

impl Topics {
    pub(super) fn new(topics: &[BridgeTopic]) -> Self {
        Self(topics.to_vec())
    }

    /// Writes into `renamed` what `topic_name` is called on the other side. The first line that matches decides, as in
    /// Mosquitto.
    ///
    /// # Errors
    /// Why it does not go there.
    pub(super) fn rename(
        &self,
        way: Way,
        topic_name: &str,
        renamed: &mut String,
    ) -> Result<(), &'static str> {
        let Ok(name) = TopicName::new(topic_name) else {
            return Err("its topic has too many levels");
        };
        for topic in self.going(way) {
            let (filter, from, to) = match way {
                Way::Out => (
                    &topic.local_filter,
                    &topic.local_prefix,
                    &topic.remote_prefix,
                ),
                Way::In => (
                    &topic.remote_filter,
                    &topic.remote_prefix,
                    &topic.local_prefix,
                ),
            };
            // The configuration has checked it.
            let matches = TopicFilter::from_validated(filter.as_bytes()).matches(name);
            let Some(rest) = topic_name.strip_prefix(from.as_str()).filter(|_| matches) else {
                continue;
            };
            renamed.clear();
            renamed.push_str(to);
            renamed.push_str(rest);
            // A prefix may have made it empty or too long.
            return match TopicName::new(renamed) {
                Ok(_) => Ok(()),
                Err(_) => Err("its topic there would be empty, too long, or of too many levels"),
            };
        }
        // Of a Session that has subscriptions of an earlier configuration.
        Err("no topic of the bridge has it")
    }

    /// What this side of a bridge subscribes to at the other one, in the order of the file.
    pub(super) fn filters(&self, way: Way) -> impl Iterator<Item = (&str, QoS)> {
        self.going(way).map(move |topic| {
            let filter = match way {
                Way::Out => &topic.local_filter,
                Way::In => &topic.remote_filter,
            };
            (filter.as_str(), topic.qos)
        })
    }

    /// Whether messages of QoS 2 go that way.
    pub(super) fn have_exchanges(&self, way: Way) -> bool {
        self.going(way).any(|topic| topic.qos == QoS::ExactlyOnce)
    }

    /// All of them, with their names at the remote broker: what is subscribed to there, and what only goes there.
    pub(super) fn remote(&self) -> impl Iterator<Item = (&str, QoS, bool)> {
        let topics = self.0.iter();
        topics.map(|topic| {
            let comes = topic.direction != Direction::Out;
            (topic.remote_filter.as_str(), topic.qos, comes)
        })
    }

    /// The filters of `self` that `next` has no more.
    pub(super) fn missing_in(&self, next: &Self, way: Way) -> Vec<String> {
        let kept = |filter: &str| next.filters(way).any(|(other, _)| other == filter);
        let gone = self.filters(way).filter(|(filter, _)| !kept(filter));
        gone.map(|(filter, _)| filter.to_owned()).collect()
    }

    fn going(&self, way: Way) -> impl Iterator<Item = &BridgeTopic> {
        self.0.iter().filter(move |topic| {
            topic.direction == Direction::Both
                || topic.direction
                    == match way {
                        Way::Out => Direction::Out,
                        Way::In => Direction::In,
                    }
        })
    }
}
