//! Text of others in what an operator reads: of Clients in the log, of files in what is wrong with them.

#![forbid(unsafe_code)]

use std::borrow::Cow;
use std::fmt;

/// Most bytes of one value that are shown: enough to know it by. A line may have a megabyte.
const SHOWN_MAX: usize = 200;

/// Shows text that a Client has chosen so that it can neither end the line nor drive a terminal, nor
/// turn the order in which the line is read.
#[derive(Clone, Copy, Debug)]
pub struct Sanitised<'a>(pub &'a str);

impl fmt::Display for Sanitised<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut rest = self.0;
        while let Some(at) = rest.find(is_harmful) {
            let (plain, tail) = rest.split_at(at);
            f.write_str(plain)?;
            let mut characters = tail.chars();
            if let Some(character) = characters.next() {
                write!(f, "{}", character.escape_default())?;
            }
            rest = characters.as_str();
        }
        f.write_str(rest)
    }
}

fn is_harmful(character: char) -> bool {
    character.is_control()
        || matches!(character,
            // Line and paragraph separators; marks, embeddings and isolates of direction.
            '\u{2028}' | '\u{2029}' | '\u{200e}' | '\u{200f}' | '\u{061c}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The beginning of `text`, and all of it if it is not long.
pub(crate) fn beginning(text: &str) -> Cow<'_, str> {
    if text.len() <= SHOWN_MAX {
        return Cow::Borrowed(text);
    }
    Cow::Owned(format!("{}...", &text[..boundary(text, SHOWN_MAX)]))
}

/// The same so that it can be shown within a line.
pub(crate) fn shown(text: &str) -> String {
    Sanitised(&beginning(text)).to_string()
}

/// The last end of a character in `text` that is not behind `index`.
pub(crate) fn boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_client_identifier_cannot_forge_a_line() {
        let shown = Sanitised("a\n1795637132: Client b disconnected.\u{1b}[2J").to_string();
        assert_eq!(shown, "a\\n1795637132: Client b disconnected.\\u{1b}[2J");
    }

    #[test]
    fn a_client_identifier_cannot_turn_the_line_around() {
        assert_eq!(
            Sanitised("a\u{202e}b\u{2028}").to_string(),
            "a\\u{202e}b\\u{2028}"
        );
        assert_eq!(Sanitised("Käse/日本").to_string(), "Käse/日本");
    }

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
