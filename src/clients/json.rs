//! A message as JSON, for `%j` and `%J`.

#![forbid(unsafe_code)]

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::format::Moment;
use super::message::ReceivedMessage;
use crate::codec::UserProperties;
use crate::message::QoS;

/// How the payload stands in the object.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum PayloadAs {
    /// A string.
    Text,
    /// The value it is.
    Json,
}

#[derive(Serialize)]
struct Object<'a> {
    tst: String,
    topic: &'a str,
    qos: u8,
    retain: u8,
    payloadlen: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    mid: Option<u16>,
    #[serde(skip_serializing_if = "Properties::is_empty")]
    properties: Properties<'a>,
    payload: Option<Payload<'a>>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Text(std::borrow::Cow<'a, str>),
    Json(&'a RawValue),
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Properties<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    payload_format_indicator: Option<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    message_expiry_interval: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    topic_alias: Option<u16>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    response_topic: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    correlation_data: Option<std::borrow::Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty", serialize_with = "one_or_all")]
    subscription_identifier: Vec<u32>,
    #[serde(skip_serializing_if = "Pairs::is_empty")]
    user_properties: Pairs<'a>,
}

impl Properties<'_> {
    fn is_empty(&self) -> bool {
        self.payload_format_indicator.is_none()
            && self.message_expiry_interval.is_none()
            && self.topic_alias.is_none()
            && self.content_type.is_none()
            && self.response_topic.is_none()
            && self.correlation_data.is_none()
            && self.subscription_identifier.is_empty()
            && self.user_properties.is_empty()
    }
}

/// A number where there is one, as in Mosquitto's clients.
fn one_or_all<S: Serializer>(identifiers: &[u32], serializer: S) -> Result<S::Ok, S::Error> {
    match identifiers {
        [one] => one.serialize(serializer),
        all => all.serialize(serializer),
    }
}

/// User Properties as an object, in which a name may stand more than once.
struct Pairs<'a>(UserProperties<'a>);

impl Pairs<'_> {
    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Serialize for Pairs<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in self.0.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The object that stands for `message`.
///
/// # Errors
/// The payload is to be JSON and is not.
pub fn object(
    message: &ReceivedMessage,
    moment: &Moment,
    payload_as: PayloadAs,
    is_pretty: bool,
) -> Result<String, String> {
    let payload = match payload_as {
        _ if message.payload.is_empty() => None,
        PayloadAs::Text => Some(Payload::Text(String::from_utf8_lossy(&message.payload))),
        PayloadAs::Json => match serde_json::from_slice(&message.payload) {
            Ok(value) => Some(Payload::Json(value)),
            Err(_) => return Err("Message payload is not valid JSON".to_owned()),
        },
    };
    let fields = message.fields();
    let identifiers = message.subscription_identifiers.iter();
    let object = Object {
        tst: moment.with_microseconds(),
        topic: &message.topic_name,
        qos: message.qos as u8,
        retain: u8::from(message.retain),
        payloadlen: message.payload.len(),
        mid: (message.qos != QoS::AtMostOnce).then_some(message.packet_identifier),
        properties: Properties {
            payload_format_indicator: fields.payload_is_utf8.map(u8::from),
            message_expiry_interval: message.message_expiry_interval_s,
            topic_alias: message.topic_alias,
            content_type: fields.content_type,
            response_topic: fields.response_topic,
            correlation_data: fields.correlation_data.map(String::from_utf8_lossy),
            subscription_identifier: identifiers.map(|identifier| identifier.get()).collect(),
            user_properties: Pairs(fields.user_properties),
        },
        payload,
    };
    let text = serde_json::to_string(&object).map_err(|error| error.to_string())?;
    Ok(if is_pretty { indented(&text) } else { text })
}

/// JSON over several lines, as Mosquitto's clients print it: members of objects on lines of their own
/// behind tabs, elements of arrays on one. Numbers and strings stay as they are written.
fn indented(json: &str) -> String {
    let mut text = String::with_capacity(json.len() * 2);
    let new_line = |text: &mut String, depth: usize| {
        text.push('\n');
        text.extend(std::iter::repeat_n('\t', depth));
    };
    // The brackets that are open.
    let mut open = Vec::new();
    let mut characters = json.chars();
    while let Some(character) = characters.next() {
        match character {
            ' ' | '\t' | '\n' | '\r' => continue,
            '}' => {
                open.pop();
                // Without members the line has begun already, one tab too far.
                if text.ends_with('\t') {
                    text.pop();
                } else {
                    new_line(&mut text, open.len());
                }
            }
            ']' => _ = open.pop(),
            _ => {}
        }
        text.push(character);
        match character {
            '{' => {
                open.push(character);
                new_line(&mut text, open.len());
            }
            '[' => open.push(character),
            ':' => text.push('\t'),
            ',' if open.last() == Some(&'{') => new_line(&mut text, open.len()),
            ',' => text.push(' '),
            '"' => {
                let mut is_escaped = false;
                for character in characters.by_ref() {
                    text.push(character);
                    if character == '"' && !is_escaped {
                        break;
                    }
                    is_escaped = character == '\\' && !is_escaped;
                }
            }
            _ => {}
        }
    }
    text
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::codec::ForwardedFields;
    use std::num::NonZeroU32;

    fn print(message: &ReceivedMessage, payload_as: PayloadAs) -> Result<String, String> {
        let text = object(message, &Moment::now(), payload_as, false)?;
        // The time is another one in every run.
        let (_, rest) = text.split_once(',').unwrap();
        Ok(rest.to_owned())
    }

    #[test]
    fn a_message_becomes_an_object() {
        let message = ReceivedMessage {
            topic_name: "a".to_owned(),
            payload: b"say \"hi\"\n".to_vec(),
            ..ReceivedMessage::default()
        };
        assert_eq!(
            print(&message, PayloadAs::Text).unwrap(),
            r#""topic":"a","qos":0,"retain":0,"payloadlen":9,"payload":"say \"hi\"\n"}"#
        );
        let with_properties = ReceivedMessage {
            qos: QoS::ExactlyOnce,
            packet_identifier: 9,
            ..message
        }
        .with_fields(&ForwardedFields {
            content_type: Some("text/plain"),
            user_properties: UserProperties::new(&[("k", "v"), ("k", "w")]),
            ..ForwardedFields::default()
        });
        assert_eq!(
            print(&with_properties, PayloadAs::Text).unwrap(),
            r#""topic":"a","qos":2,"retain":0,"payloadlen":9,"mid":9,"properties":{"content-type":"text/plain","user-properties":{"k":"v","k":"w"}},"payload":"say \"hi\"\n"}"#
        );
    }

    #[test]
    fn one_subscription_identifier_is_a_number_and_several_are_an_array() {
        for (identifiers, printed) in [
            (&[3][..], r#"{"subscription-identifier":3}"#),
            (&[3, 4], r#"{"subscription-identifier":[3,4]}"#),
        ] {
            let identifiers = identifiers.iter().map(|&it| NonZeroU32::new(it).unwrap());
            let message = ReceivedMessage {
                subscription_identifiers: identifiers.collect(),
                ..ReceivedMessage::default()
            };
            let text = print(&message, PayloadAs::Text).unwrap();
            assert!(text.contains(printed), "{text}");
        }
    }

    #[test]
    fn pretty_json_is_indented_with_tabs_payload_and_all() {
        let payload = r#" {"a": [1, 2.50, {}, {"x":"{,\\\"}"} ], "b": {}, "c": []}"#;
        let message = ReceivedMessage {
            payload: payload.into(),
            ..ReceivedMessage::default()
        };
        let text = object(&message, &Moment::now(), PayloadAs::Json, true).unwrap();
        let (_, rest) = text.split_once("payloadlen").unwrap();
        let size = payload.len();
        let expected = format!(
            "\":\t{size},\n\t\"payload\":\t{{\n\t\t\"a\":\t[1, 2.50, {{\n\t\t\t}}, {{\n\t\t\t\t\"x\":\t\"{{,\\\\\\\"}}\"\n\t\t\t}}],\n\
             \t\t\"b\":\t{{\n\t\t}},\n\t\t\"c\":\t[]\n\t}}\n}}"
        );
        assert_eq!(rest, expected);
    }

    #[test]
    fn json_stays_as_it_was_written() {
        let mut message = ReceivedMessage {
            payload: b" [1, 2.50] ".to_vec(),
            ..ReceivedMessage::default()
        };
        let text = print(&message, PayloadAs::Json).unwrap();
        assert!(text.ends_with(r#""payload":[1, 2.50]}"#), "{text}");
        message.payload = b"[1,".to_vec();
        assert!(print(&message, PayloadAs::Json).is_err());
        message.payload.clear();
        let text = print(&message, PayloadAs::Json).unwrap();
        assert!(text.ends_with(r#""payload":null}"#), "{text}");
    }
}
