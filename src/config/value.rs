//! Values of directives: from words of a line to what they mean.

#![forbid(unsafe_code)]

use super::problem::{Place, Problem, Severity};
use std::borrow::Cow;
use std::path::PathBuf;
use std::time::Duration;

/// What a directive takes, and where it puts it.
pub enum Value<T: 'static> {
    /// `true` or `false`; `1` or `0`.
    Boolean(fn(&mut T, bool)),
    /// A number of a range.
    Integer {
        /// The smallest that is taken.
        min: i64,
        /// The largest that is taken.
        max: i64,
        /// Whether a number below the range means `min`, as it does for some in Mosquitto.
        below_is_min: bool,
        /// Puts it where it belongs.
        set: fn(&mut T, i64),
    },
    /// The rest of the line, blanks included.
    Text(fn(&mut T) -> &mut Option<String>),
    /// The rest of the line, as the name of a file that is read later.
    File(fn(&mut T) -> &mut Option<FileReference>),
    /// A number and a unit: s, h, d, w, m (30 days) or y.
    Duration(fn(&mut T, Duration)),
    /// Anything else.
    Words(fn(&mut T, &mut Arguments<'_>) -> Result<(), Problem>),
}

// Written out because a derive would ask it of `T`.
impl<T> std::fmt::Debug for Value<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Boolean(_) => "Boolean",
            Self::Integer { .. } => "Integer",
            Self::Text(_) => "Text",
            Self::File(_) => "File",
            Self::Duration(_) => "Duration",
            Self::Words(_) => "Words",
        })
    }
}

/// A file that a directive names, and where it does.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FileReference {
    /// The file.
    pub path: PathBuf,
    /// The directive.
    pub directive: &'static str,
    /// Its line.
    pub place: Place,
}

/// A number of `min` to `max`; anything else is an error.
pub(super) const fn integer<T>(min: i64, max: i64, set: fn(&mut T, i64)) -> Value<T> {
    Value::Integer {
        min,
        max,
        below_is_min: false,
        set,
    }
}

/// A number of `min` to `max`, where a smaller one means `min`.
pub(super) const fn at_least<T>(min: i64, max: i64, set: fn(&mut T, i64)) -> Value<T> {
    Value::Integer {
        min,
        max,
        below_is_min: true,
        set,
    }
}

impl<T> Value<T> {
    /// Reads the value from a line and puts it where it belongs.
    pub(super) fn apply(
        &self,
        target: &mut T,
        arguments: &mut Arguments<'_>,
    ) -> Result<(), Problem> {
        match self {
            Self::Boolean(set) => set(target, arguments.boolean()?),
            &Self::Integer {
                min,
                max,
                below_is_min,
                set,
            } => {
                let number = arguments.integer()?;
                if number > max || (number < min && !below_is_min) {
                    let expected = format!("it must be from {min} to {max}");
                    return Err(arguments.invalid(number.to_string(), expected));
                }
                set(target, number.max(min));
            }
            Self::Text(field) => *field(target) = Some(arguments.rest()?.to_owned()),
            Self::File(field) => {
                let path = arguments.path()?;
                *field(target) = Some(FileReference {
                    path,
                    directive: arguments.directive,
                    place: arguments.place.clone(),
                });
            }
            Self::Duration(set) => set(target, arguments.duration()?),
            Self::Words(set) => set(target, arguments)?,
        }
        Ok(())
    }

    pub(super) fn range(&self) -> Option<(i64, i64)> {
        match *self {
            Self::Integer { min, max, .. } => Some((min, max)),
            _ => None,
        }
    }
}

/// What follows a directive's name on its line.
#[derive(Debug)]
pub struct Arguments<'a> {
    /// The row of the table.
    pub(super) directive: &'static str,
    /// As it was written, which differs for names that end in `*`.
    pub(super) name: &'a str,
    /// What has not been read yet.
    pub(super) unread: &'a str,
    /// The line.
    pub(super) place: Place,
    /// What is to be remarked about it.
    pub(super) said: Vec<(Severity, String)>,
}

const BLANKS: [char; 2] = [' ', '\t'];
/// What Linux takes of a name, the zero at its end left out (`PATH_MAX`).
const PATH_SIZE_MAX: usize = 4095;

impl<'a> Arguments<'a> {
    /// The next word, if there is one. A `#` at the beginning of a word ends the line.
    pub(super) fn next_word(&mut self) -> Option<&'a str> {
        let text = self.unread.trim_start_matches(BLANKS);
        if text.is_empty() || text.starts_with('#') {
            return None;
        }
        let end = text.find(BLANKS).unwrap_or(text.len());
        let (word, unread) = text.split_at(end);
        self.unread = unread;
        Some(word)
    }

    /// The next word.
    pub(super) fn word(&mut self) -> Result<&'a str, Problem> {
        self.next_word().ok_or_else(|| self.empty())
    }

    /// The next word, or what stands in double quotes. Neither is a comment if it begins with `#`.
    pub(super) fn quoted_word(&mut self) -> Result<&'a str, Problem> {
        let text = self.unread.trim_start_matches(BLANKS);
        let Some(quoted) = text.strip_prefix('"') else {
            let end = text.find(BLANKS).unwrap_or(text.len());
            let (word, unread) = text.split_at(end);
            self.unread = unread;
            return match word {
                "" => Err(self.empty()),
                word => Ok(word),
            };
        };
        let Some((word, unread)) = quoted.split_once('"') else {
            return Err(self.invalid(text, "the closing quote is missing"));
        };
        if !unread.is_empty() && !unread.starts_with(BLANKS) {
            return Err(self.invalid(text, "a blank has to follow the closing quote"));
        }
        self.unread = unread;
        Ok(word)
    }

    /// Has something remarked about the line, once it has turned out to be right.
    pub(super) fn say(&mut self, severity: Severity, text: impl Into<String>) {
        self.said.push((severity, text.into()));
    }

    /// The rest of the line, without the blanks around it. A `#` in it is part of it.
    pub(super) fn rest(&mut self) -> Result<&'a str, Problem> {
        let text = self.unread.trim_matches(BLANKS);
        self.unread = "";
        if text.is_empty() {
            return Err(self.empty());
        }
        if text.chars().any(char::is_control) {
            return Err(self.invalid(text, "it holds a control character"));
        }
        Ok(text)
    }

    /// The same as the name of a file.
    pub(super) fn path(&mut self) -> Result<PathBuf, Problem> {
        let text = self.rest()?;
        if text.len() > PATH_SIZE_MAX {
            let expected = format!("no file has a name of more than {PATH_SIZE_MAX} bytes");
            return Err(self.invalid(text, expected));
        }
        Ok(PathBuf::from(text))
    }

    pub(super) fn boolean(&mut self) -> Result<bool, Problem> {
        match self.word()? {
            "true" | "1" => Ok(true),
            "false" | "0" => Ok(false),
            other => Err(self.invalid(other, "it must be true or false")),
        }
    }

    pub(super) fn integer(&mut self) -> Result<i64, Problem> {
        let word = self.word()?;
        self.number(word)
    }

    /// A word that was read, as a number.
    pub(super) fn number(&self, word: &str) -> Result<i64, Problem> {
        parse_integer(word).ok_or_else(|| Problem::NotANumber {
            directive: self.name.to_owned(),
            value: word.to_owned(),
        })
    }

    fn duration(&mut self) -> Result<Duration, Problem> {
        let word = self.word()?;
        parse_duration(word).ok_or_else(|| {
            self.invalid(
                word,
                "it must be a number above 0 followed by s, h, d, w, m or y",
            )
        })
    }

    pub(super) fn empty(&self) -> Problem {
        Problem::Empty {
            directive: self.name.to_owned(),
        }
    }

    pub(super) fn invalid(
        &self,
        value: impl ToString,
        expected: impl Into<Cow<'static, str>>,
    ) -> Problem {
        Problem::Invalid {
            directive: self.name.to_owned(),
            value: value.to_string(),
            expected: expected.into(),
        }
    }
}

/// A number as C's `strtol` reads it with base 0, whole: decimal, `0x` hexadecimal, `0` octal.
fn parse_integer(word: &str) -> Option<i64> {
    let (negative, digits) = match word.as_bytes().first()? {
        b'-' => (true, &word[1..]),
        b'+' => (false, &word[1..]),
        _ => (false, word),
    };
    let (radix, digits) = if let Some(hex) = digits
        .strip_prefix("0x")
        .or_else(|| digits.strip_prefix("0X"))
    {
        (16, hex)
    } else if digits.len() > 1 && digits.starts_with('0') {
        (8, &digits[1..])
    } else {
        (10, digits)
    };
    // `from_str_radix` would take a second sign.
    if !digits.starts_with(|c: char| c.is_digit(radix)) {
        return None;
    }
    let number = i64::from_str_radix(digits, radix).ok()?;
    Some(if negative { -number } else { number })
}

fn parse_duration(word: &str) -> Option<Duration> {
    let unit = word.chars().next_back()?;
    let number: u64 = word.strip_suffix(unit)?.parse().ok()?;
    let seconds: u64 = match unit {
        's' => 1,
        'h' => 3600,
        'd' => 86_400,
        'w' => 7 * 86_400,
        'm' => 30 * 86_400,
        'y' => 365 * 86_400,
        _ => return None,
    };
    match number.checked_mul(seconds)? {
        0 => None,
        seconds => Some(Duration::from_secs(seconds)),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_read_as_c_reads_them() {
        let cases = [
            ("0", Some(0)),
            ("1883", Some(1883)),
            ("-1", Some(-1)),
            ("+7", Some(7)),
            ("0x10", Some(16)),
            ("0XfF", Some(255)),
            ("010", Some(8)),
            ("08", None),
            ("", None),
            ("-", None),
            ("+-1", None),
            ("--1", None),
            ("0x", None),
            ("0x-1", None),
            ("12a", None),
            ("1.5", None),
            ("9223372036854775808", None),
            ("ü", None),
        ];
        for (word, number) in cases {
            assert_eq!(parse_integer(word), number, "{word}");
        }
    }

    #[test]
    fn durations_have_a_unit_and_are_not_nothing() {
        let hour = 3600;
        let cases = [
            ("90s", Some(90)),
            ("2h", Some(2 * hour)),
            ("14d", Some(14 * 24 * hour)),
            ("1w", Some(7 * 24 * hour)),
            ("2m", Some(60 * 24 * hour)),
            ("1y", Some(365 * 24 * hour)),
            ("0d", None),
            ("10", None),
            ("d", None),
            ("", None),
            ("-1d", None),
            ("1 d", None),
            ("1ü", None),
            ("18446744073709551615y", None),
        ];
        for (word, seconds) in cases {
            assert_eq!(
                parse_duration(word),
                seconds.map(Duration::from_secs),
                "{word}"
            );
        }
    }
}
