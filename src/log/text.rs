//! Text of others in a line of ours.

#![forbid(unsafe_code)]

use std::fmt::{self, Write};

/// Most bytes of one line, without its timestamp. What is longer is cut: Topic Names, Client
/// Identifiers and User Names may have 65,535 bytes each.
pub const LINE_BYTES_MAX: usize = 2048;

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

/// A line is one line, whatever it was made from: escapes what would break it, but for the tab that
/// some lines begin with, and cuts it to [`LINE_BYTES_MAX`].
pub(super) fn push_line(out: &mut String, text: &str) {
    const MORE: &str = "...";
    let start = out.len();
    let text = match text.strip_prefix('\t') {
        Some(rest) => {
            out.push('\t');
            rest
        }
        None => text,
    };
    // Cut before as well as after: escaping makes longer.
    let cut = boundary(text, LINE_BYTES_MAX);
    let _ = write!(out, "{}", Sanitised(&text[..cut]));
    if cut < text.len() || out.len() - start > LINE_BYTES_MAX {
        let end = boundary(out, start + LINE_BYTES_MAX - MORE.len());
        out.truncate(end);
        out.push_str(MORE);
    }
}

/// The last end of a character in `text` that is not behind `index`.
fn boundary(text: &str, index: usize) -> usize {
    (0..=index.min(text.len()))
        .rev()
        .find(|&index| text.is_char_boundary(index))
        .unwrap_or(0)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
    fn only_the_first_tab_of_a_line_stays() {
        let mut out = String::new();
        push_line(&mut out, "\ta\tb");
        assert_eq!(out, "\ta\\tb");
    }

    proptest! {
        #[test]
        fn any_text_becomes_one_line_of_bounded_length(text in ".{0,4000}", tail in "\\PC*") {
            let mut out = String::from("before ");
            push_line(&mut out, &format!("{text}\n{tail}"));
            prop_assert!(out.len() <= "before ".len() + LINE_BYTES_MAX);
            let controls = ['\n', '\r', '\u{1b}'];
            prop_assert!(!out.trim_start_matches("before \t").contains(controls));
        }
    }
}
