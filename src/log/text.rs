//! Text of others in a line of ours.

#![forbid(unsafe_code)]

use crate::shown::{Sanitised, boundary};
use std::fmt::Write;

/// Most bytes of one line, without its timestamp. What is longer is cut: Topic Names, Client
/// Identifiers and User Names may have 65,535 bytes each.
pub const LINE_BYTES_MAX: usize = 2048;

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

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

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
