//! Text for the page: escaping, numbers, dates, command lines.

use std::fmt::{self, Display, Write as _};

/// What a figure that does not exist looks like.
pub const NONE: &str = "–";

/// Text from outside, safe between tags and in quoted attributes.
pub struct Escaped<'a>(pub &'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for character in self.0.chars() {
            match character {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' | '\t' => f.write_char(character)?,
                // HTML has no way to say them.
                _ if character.is_control() => f.write_char('\u{fffd}')?,
                _ => f.write_char(character)?,
            }
        }
        Ok(())
    }
}

/// `1234567` as `1,234,567`.
pub fn count(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// Three significant digits where that matters, whole numbers above.
pub fn figure(value: Option<f64>) -> String {
    match value {
        Some(value) if value.is_finite() && (0.0..1e18).contains(&value) => {
            if value == 0.0 {
                "0".to_owned()
            } else if value < 0.01 {
                format!("{value:.4}")
            } else if value < 9.995 {
                format!("{value:.2}")
            } else if value < 99.95 {
                format!("{value:.1}")
            } else {
                count(value.round() as u64)
            }
        }
        _ => NONE.to_owned(),
    }
}

/// A rate is counted: no fractions unless it is tiny.
pub fn rate(value: Option<f64>) -> String {
    match value {
        Some(value) if value >= 100.0 => figure(Some(value.round())),
        other => figure(other),
    }
}

/// For axes: `250 k`, `1.5 M`.
pub fn short(value: f64) -> String {
    let (scaled, unit) = match value {
        _ if value >= 1e9 => (value / 1e9, " G"),
        _ if value >= 1e6 => (value / 1e6, " M"),
        _ if value >= 1e3 => (value / 1e3, " k"),
        _ => (value, ""),
    };
    format!("{}{unit}", trimmed(scaled))
}

/// For axes: microseconds in the unit that suits.
pub fn duration_us(value: f64) -> String {
    let (scaled, unit) = match value {
        _ if value >= 999_999.5 => (value / 1e6, "s"),
        _ if value >= 999.9995 => (value / 1e3, "ms"),
        _ if value >= 0.999_999 => (value, "µs"),
        _ => (value * 1e3, "ns"),
    };
    format!("{} {unit}", trimmed(scaled))
}

/// At most three decimals, and none that say nothing.
pub fn trimmed(value: f64) -> String {
    let text = format!("{value:.3}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

pub fn kib(value: u64) -> String {
    match value {
        0..1024 => format!("{value} KiB"),
        1024..1_048_576 => format!("{:.1} MiB", value as f64 / 1024.0),
        _ => format!("{:.2} GiB", value as f64 / 1_048_576.0),
    }
}

/// `2026-09-21 14:13:20 UTC`.
pub fn utc(unix_s: u64) -> String {
    /// The first second of the year 10000.
    const END: u64 = 253_402_300_800;
    if unix_s >= END {
        return format!("{unix_s} s after 1970");
    }
    // Civil from days, with years that begin in March so that the leap day comes last.
    let days = unix_s / 86_400 + 719_468;
    let era = days / 146_097;
    let day_of_era = days % 146_097;
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 {
        month_from_march + 3
    } else {
        month_from_march - 9
    };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let second = unix_s % 86_400;
    format!(
        "{year}-{month:02}-{day:02} {:02}:{:02}:{:02} UTC",
        second / 3600,
        second / 60 % 60,
        second % 60
    )
}

/// The word as a shell reads it back.
pub fn shell_word(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@%+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn markup_and_control_characters_are_escaped() {
        assert_eq!(
            Escaped("<a href=\"x\" id='y'>&\u{0}\u{1b}é</a>").to_string(),
            "&lt;a href=&quot;x&quot; id=&#39;y&#39;&gt;&amp;\u{fffd}\u{fffd}é&lt;/a&gt;"
        );
    }

    #[test]
    fn numbers_are_readable() {
        assert_eq!(count(0), "0");
        assert_eq!(count(999), "999");
        assert_eq!(count(1_234_567), "1,234,567");
        assert_eq!(figure(Some(0.456)), "0.46");
        assert_eq!(figure(Some(0.0012)), "0.0012");
        assert_eq!(figure(Some(45.67)), "45.7");
        assert_eq!(figure(Some(99.96)), "100");
        assert_eq!(figure(Some(f64::NAN)), NONE);
        assert_eq!(figure(Some(-1.0)), NONE);
        assert_eq!(figure(None), NONE);
        assert_eq!(short(1_500_000.0), "1.5 M");
        assert_eq!(short(250_000.0), "250 k");
        assert_eq!(duration_us(0.5), "500 ns");
        assert_eq!(duration_us(1000.0), "1 ms");
        assert_eq!(duration_us(2e6), "2 s");
        assert_eq!(kib(2048), "2.0 MiB");
    }

    #[test]
    fn seconds_since_1970_are_dates() {
        assert_eq!(utc(0), "1970-01-01 00:00:00 UTC");
        assert_eq!(utc(951_782_400), "2000-02-29 00:00:00 UTC");
        assert_eq!(utc(1_790_000_000), "2026-09-21 14:13:20 UTC");
        assert_eq!(utc(u64::MAX), "18446744073709551615 s after 1970");
    }

    #[test]
    fn words_of_a_command_can_be_pasted_back() {
        let quoted = ["a", "--b=c", "", "d e", "it's"].map(shell_word);
        assert_eq!(quoted, ["a", "--b=c", "''", "'d e'", r"'it'\''s'"]);
    }
}
