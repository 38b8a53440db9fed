//! `-D`: properties of MQTT 5 for the packets that a client sends.

#![forbid(unsafe_code)]

use std::num::{NonZeroU16, NonZeroU32};
use std::str::FromStr;

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};

use super::failure::Failure;
use crate::codec::{ForwardedFields, UserProperties};
use crate::topic::TopicName;

/// The occurrences of `-D`, each with its three or four values.
#[derive(Clone, Debug, Default)]
pub struct PropertyArguments(Vec<Vec<String>>);

const ARGUMENT: &str = "property";

// Written by hand because a derived one would run the values of all occurrences together.
impl Args for PropertyArguments {
    fn augment_args(command: Command) -> Command {
        command.arg(
            Arg::new(ARGUMENT)
                .short('D')
                .long(ARGUMENT)
                .value_name("PACKET NAME VALUE")
                .num_args(3..=4)
                .action(ArgAction::Append)
                .help(
                    "Property of MQTT 5: which packet (connect, publish, subscribe, unsubscribe, \
                     disconnect, will), name of the property with hyphens, value; a user-property \
                     has a name and a value. May be given more than once",
                ),
        )
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for PropertyArguments {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        let occurrences = matches.get_occurrences::<String>(ARGUMENT);
        let occurrences = occurrences.into_iter().flatten();
        Ok(Self(
            occurrences
                .map(|values| values.cloned().collect())
                .collect(),
        ))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

/// All properties, by the packet they are for.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Properties {
    pub connect: ConnectProperties,
    pub publish: MessageProperties,
    pub will: MessageProperties,
    pub will_delay_interval_s: u32,
    pub subscribe: Vec<UserProperty>,
    pub subscription_identifier: Option<NonZeroU32>,
    pub unsubscribe: Vec<UserProperty>,
    pub disconnect: Vec<UserProperty>,
    pub disconnect_session_expiry: Option<u32>,
    pub disconnect_reason: Option<String>,
}

/// Name and value.
pub type UserProperty = (String, String);

/// Those of CONNECT.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct ConnectProperties {
    pub session_expiry: Option<u32>,
    pub receive_maximum: Option<NonZeroU16>,
    pub maximum_packet_size: Option<NonZeroU32>,
    pub topic_alias_maximum: u16,
    pub request_response_information: bool,
    pub omit_problem_information: bool,
    pub authentication_method: Option<String>,
    pub authentication_data: Option<Vec<u8>>,
    pub user_properties: Vec<UserProperty>,
}

/// Those of PUBLISH and of a Will.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct MessageProperties {
    pub payload_is_utf8: Option<bool>,
    pub message_expiry_interval_s: Option<u32>,
    pub content_type: Option<String>,
    pub response_topic: Option<String>,
    pub correlation_data: Option<Vec<u8>>,
    /// Not in a Will.
    pub topic_alias: Option<NonZeroU16>,
    pub user_properties: Vec<UserProperty>,
}

/// Pairs as the codec takes them.
pub fn pairs<'a>(properties: &'a [UserProperty]) -> Vec<(&'a str, &'a str)> {
    let pair = |(name, value): &'a UserProperty| (name.as_str(), value.as_str());
    properties.iter().map(pair).collect()
}

impl MessageProperties {
    /// Those that a broker passes on, encoded.
    pub fn forwarded(&self) -> Vec<u8> {
        let mut encoded = Vec::new();
        ForwardedFields {
            payload_is_utf8: self.payload_is_utf8,
            content_type: self.content_type.as_deref(),
            response_topic: self.response_topic.as_deref(),
            correlation_data: self.correlation_data.as_deref(),
            user_properties: UserProperties::new(&pairs(&self.user_properties)),
        }
        .encode(&mut encoded);
        encoded
    }

    fn set(&mut self, name: &str, given: &Given<'_>) -> Result<(), Failure> {
        match name {
            "payload-format-indicator" => self.payload_is_utf8 = Some(given.flag()?),
            "message-expiry-interval" => self.message_expiry_interval_s = Some(given.number()?),
            "content-type" => self.content_type = Some(given.text()?),
            "response-topic" => {
                let topic = given.text()?;
                if TopicName::new(&topic).is_err() {
                    return Err(given.wrong("is no Topic Name"));
                }
                self.response_topic = Some(topic);
            }
            "correlation-data" => self.correlation_data = Some(given.text()?.into_bytes()),
            "user-property" => self.user_properties.push(given.pair()?),
            _ => return Err(given.unknown(MESSAGE_NAMES)),
        }
        Ok(())
    }
}

impl PropertyArguments {
    /// Whether there are any, which makes a client speak MQTT 5.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Reads all of them.
    ///
    /// # Errors
    /// [`Failure::Usage`] that names the property and what is wrong with it.
    pub fn parse(&self) -> Result<Properties, Failure> {
        let mut properties = Properties::default();
        for values in &self.0 {
            let [packet, name, values @ ..] = values.as_slice() else {
                // Not by clap's grace.
                let said = "-D needs a packet, the name of a property and its value";
                return Err(Failure::Usage(said.to_owned()));
            };
            let given = Given {
                packet,
                name,
                values,
            };
            properties.set(&given)?;
        }
        Ok(properties)
    }
}

impl Properties {
    fn set(&mut self, given: &Given<'_>) -> Result<(), Failure> {
        match (given.packet, given.name) {
            ("connect", name) => self.connect.set(name, given)?,
            ("publish", "topic-alias") => self.publish.topic_alias = Some(given.number()?),
            ("publish", name) => self.publish.set(name, given)?,
            ("will", "will-delay-interval") => self.will_delay_interval_s = given.number()?,
            ("will", name) => self.will.set(name, given)?,
            ("subscribe", "subscription-identifier") => {
                let identifier: NonZeroU32 = given.number()?;
                if identifier.get() > SUBSCRIPTION_IDENTIFIER_MAX {
                    return Err(given.wrong("is out of range"));
                }
                self.subscription_identifier = Some(identifier);
            }
            ("subscribe", "user-property") => self.subscribe.push(given.pair()?),
            ("subscribe", _) => {
                return Err(given.unknown("subscription-identifier, user-property"));
            }
            ("unsubscribe", "user-property") => self.unsubscribe.push(given.pair()?),
            ("unsubscribe", _) => return Err(given.unknown("user-property")),
            ("disconnect", "session-expiry-interval") => {
                self.disconnect_session_expiry = Some(given.number()?);
            }
            ("disconnect", "reason-string") => self.disconnect_reason = Some(given.text()?),
            ("disconnect", "user-property") => self.disconnect.push(given.pair()?),
            ("disconnect", _) => {
                return Err(given.unknown("reason-string, session-expiry-interval, user-property"));
            }
            _ => {
                return Err(Failure::Usage(format!(
                    "-D {}: the packet is none of connect, publish, subscribe, unsubscribe, \
                     disconnect and will",
                    given.packet
                )));
            }
        }
        Ok(())
    }
}

impl ConnectProperties {
    fn set(&mut self, name: &str, given: &Given<'_>) -> Result<(), Failure> {
        match name {
            "session-expiry-interval" => self.session_expiry = Some(given.number()?),
            "receive-maximum" => self.receive_maximum = Some(given.number()?),
            "maximum-packet-size" => self.maximum_packet_size = Some(given.number()?),
            "topic-alias-maximum" => self.topic_alias_maximum = given.number()?,
            "request-response-information" => self.request_response_information = given.flag()?,
            "request-problem-information" => self.omit_problem_information = !given.flag()?,
            "authentication-method" => self.authentication_method = Some(given.text()?),
            "authentication-data" => self.authentication_data = Some(given.text()?.into_bytes()),
            "user-property" => self.user_properties.push(given.pair()?),
            _ => return Err(given.unknown(CONNECT_NAMES)),
        }
        Ok(())
    }
}

/// A Subscription Identifier is a Variable Byte Integer.
const SUBSCRIPTION_IDENTIFIER_MAX: u32 = 268_435_455;

const CONNECT_NAMES: &str = "authentication-data, authentication-method, maximum-packet-size, \
     receive-maximum, request-problem-information, request-response-information, \
     session-expiry-interval, topic-alias-maximum, user-property";

const MESSAGE_NAMES: &str = "content-type, correlation-data, message-expiry-interval, \
     payload-format-indicator, response-topic, user-property, and topic-alias of publish or \
     will-delay-interval of will";

/// One `-D`.
struct Given<'a> {
    packet: &'a str,
    name: &'a str,
    values: &'a [String],
}

impl Given<'_> {
    fn wrong(&self, what: &str) -> Failure {
        let Self { packet, name, .. } = self;
        let value = self.values.join(" ");
        Failure::Usage(format!("-D {packet} {name} {value}: the value {what}"))
    }

    fn unknown(&self, known: &str) -> Failure {
        let Self { packet, name, .. } = self;
        Failure::Usage(format!(
            "-D {packet} {name}: there is no such property; there are {known}"
        ))
    }

    fn text(&self) -> Result<String, Failure> {
        let [value] = self.values else {
            return Err(self.wrong("has to be one"));
        };
        if value.len() > usize::from(u16::MAX) {
            return Err(self.wrong("is longer than 65535 bytes"));
        }
        Ok(value.clone())
    }

    fn pair(&self) -> Result<UserProperty, Failure> {
        let [name, value] = self.values else {
            return Err(self.wrong("has to be a name and a value"));
        };
        if name.len().max(value.len()) > usize::from(u16::MAX) {
            return Err(self.wrong("is longer than 65535 bytes"));
        }
        Ok((name.clone(), value.clone()))
    }

    fn number<T: FromStr>(&self) -> Result<T, Failure> {
        let text = self.text()?;
        text.parse().map_err(|_| self.wrong("is out of range"))
    }

    fn flag(&self) -> Result<bool, Failure> {
        match self.text()?.as_str() {
            "0" => Ok(false),
            "1" => Ok(true),
            _ => Err(self.wrong("is neither 0 nor 1")),
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn parse(arguments: &[&str]) -> Result<Properties, String> {
        let command = PropertyArguments::augment_args(Command::new("test"));
        let command = command.arg(Arg::new("t").short('t'));
        let all = std::iter::once(&"test").chain(arguments);
        let matches = command.try_get_matches_from(all);
        let matches = matches.map_err(|error| error.to_string())?;
        let arguments = PropertyArguments::from_arg_matches(&matches).unwrap();
        arguments.parse().map_err(|error| error.to_string())
    }

    #[test]
    fn occurrences_of_three_and_four_values_stay_apart() {
        let properties = parse(&[
            "-D",
            "publish",
            "user-property",
            "a",
            "b",
            "-D",
            "publish",
            "content-type",
            "text/plain",
            "-t",
            "x",
            "-D",
            "connect",
            "receive-maximum",
            "7",
        ]);
        let properties = properties.unwrap();
        let pair = ("a".to_owned(), "b".to_owned());
        assert_eq!(properties.publish.user_properties, [pair]);
        assert_eq!(
            properties.publish.content_type.as_deref(),
            Some("text/plain")
        );
        assert_eq!(properties.connect.receive_maximum, NonZeroU16::new(7));
    }

    #[test]
    fn what_is_wrong_is_said() {
        let cases: [(&[&str], &str); 10] = [
            (&["publish", "bogus", "1"], "no such property"),
            (
                &["bogus", "user-property", "1", "2"],
                "the packet is none of",
            ),
            (&["connect", "receive-maximum", "0"], "out of range"),
            (&["connect", "receive-maximum", "65536"], "out of range"),
            (
                &["publish", "payload-format-indicator", "2"],
                "neither 0 nor 1",
            ),
            (&["publish", "user-property", "1"], "a name and a value"),
            (&["publish", "content-type", "1", "2"], "has to be one"),
            (&["publish", "response-topic", "a/#"], "no Topic Name"),
            (
                &["subscribe", "subscription-identifier", "268435456"],
                "out of range",
            ),
            (&["will", "topic-alias", "1"], "no such property"),
        ];
        for (values, named) in cases {
            let arguments = [&["-D"], values].concat();
            let error = parse(&arguments).unwrap_err();
            assert!(error.contains(named), "{values:?}: {error}");
        }
        assert!(parse(&["-D", "publish", "content-type"]).is_err());
    }
}
