//! The time in front of a line.

#![forbid(unsafe_code)]

use jiff::fmt::strtime;
use jiff::tz::TimeZone;
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

/// The time in front of a line: the directives `log_timestamp` and `log_timestamp_format`.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub enum Timestamp {
    /// None.
    Off,
    /// Seconds since 1970.
    #[default]
    Epoch,
    /// As strftime(3) has it, in local time.
    Format(TimestampFormat),
}

/// A format of strftime(3) that is known to work.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TimestampFormat(String);

/// A format that strftime does not know.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the format \"{format}\" cannot be used: {reason}")]
pub struct TimestampFormatError {
    format: String,
    reason: String,
}

impl TimestampFormat {
    /// Checks `format`.
    ///
    /// # Errors
    /// When it holds a conversion that does not exist, or its result is not a piece of one line.
    pub fn new(format: &str) -> Result<Self, TimestampFormatError> {
        let error = |reason: String| TimestampFormatError {
            format: format.to_owned(),
            reason,
        };
        let expanded = with_c_locale(format);
        let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
        let text =
            strtime::format(&expanded, &sample).map_err(|reason| error(reason.to_string()))?;
        if text.chars().any(char::is_control) {
            return Err(error("it would break the line".to_owned()));
        }
        Ok(Self(expanded))
    }
}

/// The conversions that depend on the locale, as the C locale has them: there is no other here.
fn with_c_locale(format: &str) -> String {
    let mut expanded = String::with_capacity(format.len() + 16);
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            expanded.push(character);
            continue;
        }
        match characters.next() {
            Some('c') => expanded.push_str("%a %b %e %H:%M:%S %Y"),
            Some('D' | 'x') => expanded.push_str("%m/%d/%y"),
            Some('X') => expanded.push_str("%H:%M:%S"),
            Some('r') => expanded.push_str("%I:%M:%S %p"),
            // Alternative forms, which the C locale does not have.
            Some('E' | 'O') => expanded.push('%'),
            Some(other) => expanded.extend(['%', other]),
            None => expanded.push('%'),
        }
    }
    expanded
}

impl Timestamp {
    /// Appends the time `at` and the separator, or nothing.
    pub(super) fn write(&self, at: SystemTime, out: &mut String) {
        match self {
            Self::Off => return,
            Self::Epoch => {
                let seconds = at.duration_since(UNIX_EPOCH).map_or(0, |age| age.as_secs());
                // Writing to a `String` does not fail.
                let _ = write!(out, "{seconds}");
            }
            Self::Format(format) => match local(at, &format.0) {
                Some(text) => out.push_str(&text),
                None => out.push_str("Time error"),
            },
        }
        out.push_str(": ");
    }
}

/// `at` in local time.
pub(super) fn local(at: SystemTime, format: &str) -> Option<String> {
    let at = jiff::Timestamp::try_from(at).ok()?;
    strtime::format(format, &at.to_zoned_datetime(TimeZone::system())).ok()
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use std::time::Duration;

    fn written(timestamp: &Timestamp, seconds: u64) -> String {
        let mut out = String::new();
        timestamp.write(UNIX_EPOCH + Duration::from_secs(seconds), &mut out);
        out
    }

    #[test]
    fn the_default_is_seconds_since_1970() {
        assert_eq!(
            written(&Timestamp::default(), 1_795_637_132),
            "1795637132: "
        );
        assert_eq!(written(&Timestamp::Off, 1_795_637_132), "");
    }

    #[test]
    fn the_manual_s_example_gives_iso_8601() {
        let format = TimestampFormat::new("%Y-%m-%dT%H:%M:%S").unwrap();
        let text = written(&Timestamp::Format(format), 86_400 * 20_000);
        // The day may differ by the zone of the machine.
        let parsed: jiff::civil::DateTime = text.strip_suffix(": ").unwrap().parse().unwrap();
        assert_eq!(parsed.year(), 2024);
    }

    #[test]
    fn locale_conversions_are_the_c_locale_s() {
        let sample = jiff::Timestamp::UNIX_EPOCH.to_zoned_datetime(TimeZone::UTC);
        let text = |format: &str| {
            strtime::format(TimestampFormat::new(format).unwrap().0, &sample).unwrap()
        };
        assert_eq!(text("%c"), "Thu Jan  1 00:00:00 1970");
        assert_eq!(text("%D %r"), "01/01/70 12:00:00 AM");
        assert_eq!(text("100%% %Ey"), "100% 70");
    }

    #[test]
    fn what_strftime_does_not_know_is_refused_by_name() {
        for format in ["%", "%!", "%Y%", "%n"] {
            let error = TimestampFormat::new(format).unwrap_err().to_string();
            assert!(error.contains(&format!("\"{format}\"")), "{error}");
        }
    }
}
