//! `-F`: what to print of a message, as a format string.

#![forbid(unsafe_code)]

use std::fmt::Write;

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ZonedDateTime};

use super::json::{self, PayloadAs};
use super::message::ReceivedMessage;

/// A format string, checked and taken apart.
#[derive(Clone, Debug)]
pub struct Format {
    parts: Vec<Part>,
    is_pretty: bool,
}

#[derive(Clone, Debug)]
enum Part {
    Text(Vec<u8>),
    Field(Field),
    /// What strftime makes of `%` and this character.
    Time(String),
    Nanoseconds,
}

/// `%`, flags and widths, and a letter.
#[derive(Clone, Debug)]
struct Field {
    letter: char,
    is_left: bool,
    is_zero_padded: bool,
    width: usize,
    size_max: Option<usize>,
}

/// A wider field is a mistake.
const WIDTH_MAX: usize = 10_000;

/// When a message was received.
#[derive(Clone, Debug)]
pub struct Moment(ZonedDateTime);

impl Moment {
    /// The present, in the zone of the system.
    pub fn now() -> Self {
        Self(ZonedDateTime::now())
    }

    /// As RFC 3339 has it, but for a colon, with microseconds.
    pub fn with_microseconds(&self) -> String {
        self.strftime("%Y-%m-%dT%H:%M:%S.%6f%z")
    }

    fn strftime(&self, format: &str) -> String {
        // What cannot be formatted was refused with the format string.
        strtime::format(format, &self.0).unwrap_or_default()
    }

    fn nanoseconds(&self) -> i32 {
        self.0.subsec_nanosecond()
    }
}

impl Format {
    /// Takes `text` apart.
    ///
    /// # Errors
    /// A sentence that names the sequence that means nothing.
    pub fn parse(text: &str, is_pretty: bool) -> Result<Self, String> {
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut rest = text.chars().peekable();
        while let Some(character) = rest.next() {
            let part = match character {
                '%' => Self::parse_field(&mut rest)?,
                '@' => {
                    let letter = rest.next().ok_or("-F ends with a lone @")?;
                    Self::parse_time(letter)?
                }
                '\\' => {
                    let letter = rest.next().ok_or("-F ends with a lone \\")?;
                    literal.push(escape(letter)?);
                    continue;
                }
                other => {
                    literal.extend_from_slice(other.encode_utf8(&mut [0; 4]).as_bytes());
                    continue;
                }
            };
            if !literal.is_empty() {
                parts.push(Part::Text(std::mem::take(&mut literal)));
            }
            parts.push(part);
        }
        if !literal.is_empty() {
            parts.push(Part::Text(literal));
        }
        Ok(Self { parts, is_pretty })
    }

    fn parse_field(rest: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Result<Part, String> {
        let mut field = Field {
            letter: '%',
            is_left: false,
            is_zero_padded: false,
            width: 0,
            size_max: None,
        };
        while let Some(flag) = rest.next_if(|&character| matches!(character, '-' | '0')) {
            field.is_left |= flag == '-';
            field.is_zero_padded |= flag == '0';
        }
        let mut number = || {
            let mut number = None;
            while let Some(digit) = rest.peek().and_then(|character| character.to_digit(10)) {
                rest.next();
                let value = number.unwrap_or(0_usize) * 10 + digit as usize;
                if value > WIDTH_MAX {
                    return Err(format!("-F has a width of more than {WIDTH_MAX}"));
                }
                number = Some(value);
            }
            Ok(number)
        };
        field.width = number()?.unwrap_or(0);
        if rest.next_if_eq(&'.').is_some() {
            let mut size_max = 0;
            while let Some(digit) = rest.peek().and_then(|character| character.to_digit(10)) {
                rest.next();
                size_max = (size_max * 10 + digit as usize).min(WIDTH_MAX);
            }
            field.size_max = Some(size_max);
        }
        field.letter = rest.next().ok_or("-F ends in the middle of a % sequence")?;
        match field.letter {
            '%' => Ok(Part::Text(b"%".to_vec())),
            'A' | 'C' | 'D' | 'E' | 'F' | 'I' | 'J' | 'P' | 'R' | 'S' | 'U' | 'X' | 'j' | 'l'
            | 'm' | 'p' | 'q' | 'r' | 't' | 'x' => Ok(Part::Field(field)),
            letter => Err(format!("-F knows no %{letter}")),
        }
    }

    fn parse_time(letter: char) -> Result<Part, String> {
        match letter {
            '@' => return Ok(Part::Text(b"@".to_vec())),
            'N' => return Ok(Part::Nanoseconds),
            _ => {}
        }
        let format = format!("%{letter}");
        let sample = Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
        match strtime::format(&format, &sample) {
            Ok(_) => Ok(Part::Time(format)),
            Err(_) => Err(format!(
                "-F: strftime knows no {format}, so there is no @{letter}"
            )),
        }
    }

    /// Appends what the format makes of `message`.
    ///
    /// # Errors
    /// A sentence, for `%J` and a payload that is not JSON.
    pub fn write(
        &self,
        message: &ReceivedMessage,
        moment: &Moment,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        for part in &self.parts {
            match part {
                Part::Text(text) => out.extend_from_slice(text),
                Part::Time(format) => out.extend_from_slice(moment.strftime(format).as_bytes()),
                Part::Nanoseconds => {
                    out.extend_from_slice(format!("{:09}", moment.nanoseconds()).as_bytes());
                }
                Part::Field(field) => self.write_field(field, message, moment, out)?,
            }
        }
        Ok(())
    }

    fn write_field(
        &self,
        field: &Field,
        message: &ReceivedMessage,
        moment: &Moment,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let fields = message.fields();
        let text = |text: Option<&str>| text.unwrap_or_default().to_owned();
        let number = |number: Option<u32>| number.map_or_else(String::new, |it| it.to_string());
        let value = match field.letter {
            'A' => number(message.topic_alias.map(u32::from)),
            'C' => text(fields.content_type),
            'D' => {
                out.extend_from_slice(fields.correlation_data.unwrap_or_default());
                return Ok(());
            }
            'E' => number(message.message_expiry_interval_s),
            'F' => number(fields.payload_is_utf8.map(u32::from)),
            'I' => moment.strftime("%Y-%m-%dT%H:%M:%S%z"),
            'J' => json::object(message, moment, PayloadAs::Json, self.is_pretty)?,
            'P' => {
                let pairs = fields.user_properties.iter();
                let pairs: Vec<_> = pairs
                    .map(|(name, value)| format!("{name}:{value}"))
                    .collect();
                pairs.join(" ")
            }
            'R' => text(fields.response_topic),
            'S' => {
                let identifiers = message.subscription_identifiers.iter();
                let identifiers: Vec<_> = identifiers.map(ToString::to_string).collect();
                identifiers.join(" ")
            }
            'U' => format!(
                "{}.{:09}",
                moment.0.timestamp().as_second(),
                moment.nanoseconds()
            ),
            'X' => hexadecimal(field.cut(&message.payload, 2), true),
            'j' => json::object(message, moment, PayloadAs::Text, self.is_pretty)?,
            'l' => message.payload.len().to_string(),
            'm' => message.packet_identifier.to_string(),
            'p' => {
                field.pad(field.cut(&message.payload, 1), out);
                return Ok(());
            }
            'q' => {
                out.push(b'0' + message.qos as u8);
                return Ok(());
            }
            'r' => {
                out.push(b'0' + u8::from(message.retain));
                return Ok(());
            }
            't' => message.topic_name.clone(),
            _ => hexadecimal(field.cut(&message.payload, 2), false),
        };
        match field.letter {
            'I' | 'C' | 'R' | 't' => {
                let size_max = field.size_max.unwrap_or(usize::MAX);
                let end = value
                    .char_indices()
                    .nth(size_max)
                    .map_or(value.len(), |(at, _)| at);
                field.pad(value.get(..end).unwrap_or_default().as_bytes(), out);
            }
            'J' | 'P' | 'U' | 'j' => out.extend_from_slice(value.as_bytes()),
            _ => field.pad(value.as_bytes(), out),
        }
        Ok(())
    }
}

impl Field {
    /// What of a payload has room, at so many characters a byte: here a width cuts too, as in Mosquitto.
    fn cut<'a>(&self, payload: &'a [u8], each: usize) -> &'a [u8] {
        match self.width {
            0 => payload,
            width => payload.get(..width / each).unwrap_or(payload),
        }
    }

    /// Appends `value`, filled up to the width.
    fn pad(&self, value: &[u8], out: &mut Vec<u8>) {
        let size = match std::str::from_utf8(value) {
            // A payload is bytes, whatever they mean.
            Ok(text) if self.letter != 'p' => text.chars().count(),
            _ => value.len(),
        };
        let missing = self.width.saturating_sub(size);
        let with_zeros = matches!(
            self.letter,
            'A' | 'E' | 'F' | 'l' | 'm' | 'p' | 'S' | 'X' | 'x'
        );
        if self.is_left {
            out.extend_from_slice(value);
            out.extend(std::iter::repeat_n(b' ', missing));
        } else {
            let padding = if self.is_zero_padded && with_zeros {
                b'0'
            } else {
                b' '
            };
            out.extend(std::iter::repeat_n(padding, missing));
            out.extend_from_slice(value);
        }
    }
}

fn hexadecimal(bytes: &[u8], is_upper: bool) -> String {
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        // Writing to a String does not fail.
        let _ = if is_upper {
            write!(text, "{byte:02X}")
        } else {
            write!(text, "{byte:02x}")
        };
    }
    text
}

fn escape(letter: char) -> Result<u8, String> {
    Ok(match letter {
        '\\' => b'\\',
        '0' => 0,
        'a' => 0x07,
        'e' => 0x1B,
        'n' => b'\n',
        'r' => b'\r',
        't' => b'\t',
        'v' => 0x0B,
        other => return Err(format!("-F knows no \\{other}")),
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::codec::{ForwardedFields, UserProperties};
    use crate::message::QoS;
    use std::num::NonZeroU32;

    fn message() -> ReceivedMessage {
        ReceivedMessage {
            topic_name: "a/b".to_owned(),
            payload: b"hi\xff".to_vec(),
            qos: QoS::AtLeastOnce,
            retain: true,
            packet_identifier: 7,
            topic_alias: None,
            message_expiry_interval_s: Some(60),
            subscription_identifiers: vec![NonZeroU32::new(3).unwrap()],
            ..ReceivedMessage::default()
        }
        .with_fields(&ForwardedFields {
            payload_is_utf8: Some(true),
            content_type: Some("text/plain"),
            response_topic: Some("re"),
            correlation_data: Some(b"\x01"),
            user_properties: UserProperties::new(&[("k", "v"), ("k", "w")]),
        })
    }

    fn moment() -> Moment {
        let at = Timestamp::new(1_470_818_943, 786_368_637).unwrap();
        Moment(at.to_zoned_datetime(TimeZone::UTC))
    }

    fn print(format: &str, message: &ReceivedMessage) -> Vec<u8> {
        let mut out = Vec::new();
        let format = Format::parse(format, false).unwrap();
        format.write(message, &moment(), &mut out).unwrap();
        out
    }

    #[test]
    fn every_sequence_prints_its_part() {
        for (format, expected) in [
            ("%t %p", &b"a/b hi\xff"[..]),
            (
                "%A|%C|%D|%E|%F|%P|%R|%S",
                b"|text/plain|\x01|60|1|k:v k:w|re|3",
            ),
            ("%l %m %q %r", b"3 7 1 1"),
            ("%x %X", b"6869ff 6869FF"),
            ("%I", b"2016-08-10T08:49:03+0000"),
            ("%U", b"1470818943.786368637"),
            ("@Y-@m-@d @N", b"2016-08-10 786368637"),
            (
                "%% @@ \\\\ \\t\\n\\r\\v\\a\\e\\0",
                b"% @ \\ \t\n\r\x0b\x07\x1b\0",
            ),
            ("plain é", "plain é".as_bytes()),
        ] {
            let printed = print(format, &message());
            assert_eq!(printed, expected, "{format}: {}", printed.escape_ascii());
        }
    }

    #[test]
    fn widths_pad_and_cut() {
        for (format, expected) in [
            ("%10t|", "       a/b|"),
            ("%-10t|", "a/b       |"),
            ("%.2t|", "a/|"),
            ("%5.1t|", "    a|"),
            ("%010l|%-10l|", "0000000003|3         |"),
            ("%04m|%05A|%5S|", "0007|00000|    3|"),
            // No zeros before a topic, as in Mosquitto.
            ("%05t|", "  a/b|"),
            ("%08x|", "006869ff|"),
            ("%-012l|", "3           |"),
            ("%3.3C|", "tex|"),
        ] {
            let printed = String::from_utf8(print(format, &message())).unwrap();
            assert_eq!(printed, expected, "{format}");
        }
    }

    #[test]
    fn a_width_cuts_a_payload_as_well() {
        let message = ReceivedMessage {
            payload: "grün".into(),
            ..message()
        };
        for (format, expected) in [
            ("%2p|", "gr|"),
            ("%7p|", "  grün|"),
            ("%-7p|", "grün  |"),
            ("%.2p|", "grün|"),
            ("%07p|", "00grün|"),
            ("%5x|", " 6772|"),
            ("%12X|", "  6772C3BC6E|"),
            ("%.4x|", "6772c3bc6e|"),
        ] {
            let printed = String::from_utf8(print(format, &message)).unwrap();
            assert_eq!(printed, expected, "{format}");
        }
    }

    #[test]
    fn what_means_nothing_is_refused() {
        for format in ["%", "%Z", "%3", "%5.", "@", "@!", "\\", "\\q", "%99999t"] {
            assert!(Format::parse(format, false).is_err(), "{format}");
        }
    }
}
