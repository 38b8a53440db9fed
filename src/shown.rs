//! What an operator is shown again of what is written in a file.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Most bytes of one value that are shown: enough to know it by. A line may have a megabyte.
const SHOWN_MAX: usize = 200;

/// The beginning of `text`, and all of it if it is not long.
pub(crate) fn beginning(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_MAX {
        return Cow::Borrowed(text);
    }
    let mut ends = (0..=SHOWN_MAX).rev();
    let end = ends.find(|&end| text.is_char_boundary(end)).unwrap_or(0);
    Cow::Owned(format!("{}...", &text[..end]))
}

/// The same so that it can be shown within a line: what could end the line or drive a terminal is escaped.
pub(crate) fn shown(text: &str) -> String {
    let mut shown = String::new();
    for character in beginning(text).chars() {
        if character.is_control() {
            shown.extend(character.escape_default());
        } else {
            shown.push(character);
        }
    }
    shown
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn what_fits_is_shown_as_it_is_and_what_is_long_is_cut_between_two_characters() {
        assert_eq!(shown("a b/ü"), "a b/ü");
        assert_eq!(shown("a\u{1b}[2J\n"), "a\\u{1b}[2J\\n");
        assert_eq!(shown(&"a".repeat(SHOWN_MAX)), "a".repeat(SHOWN_MAX));
        let long = "ü".repeat(1 << 20);
        let cut = shown(&format!("a{long}"));
        assert_eq!(cut, format!("a{}...", "ü".repeat(99)));
    }
}
