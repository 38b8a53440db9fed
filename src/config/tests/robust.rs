//! Bytes of any kind, and the odd corners of lines.

use super::{bad, good};
use crate::config::{all, fuzz};
use proptest::prelude::*;

#[test]
fn lines_may_end_and_begin_as_they_like() {
    let config = good("\u{feff}user me\r\n\r\n   \t\n  # a comment\n\tmax_keepalive\t60\r\n");
    assert_eq!(config.user.as_deref(), Some("me"));
    assert_eq!(config.policy.limits.max_keepalive_s, 60);
}

#[test]
fn text_keeps_its_blanks_and_hashes_within() {
    let config = good("log_timestamp_format   %H:%M # not a comment \t");
    let format = config.log.timestamp_format.unwrap();
    assert_eq!(format.text, "%H:%M # not a comment");
}

#[test]
fn a_comment_begins_a_line() {
    assert!(bad("user#me").contains("Unknown configuration variable 'user#me'"));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
        fuzz(&bytes);
    }

    #[test]
    fn no_lines_of_directives_panic(lines in prop::collection::vec((any::<prop::sample::Index>(), ".{0,12}|-?[0-9x]{1,22}|true|false|[0-9]{1,4} [a-z:.0-9]{1,9}"), 0..30)) {
        let names: Vec<&str> = all().map(|directive| directive.name).collect();
        let text: String = lines
            .iter()
            .map(|(index, value)| format!("{} {value}\n", names[index.index(names.len())]))
            .collect();
        fuzz(text.as_bytes());
    }

    #[test]
    fn what_is_accepted_is_accepted_again_with_the_same_meaning(
        lines in prop::collection::vec((any::<prop::sample::Index>(), "true|false|[0-9]{1,3}"), 0..10),
    ) {
        let names: Vec<&str> = all().map(|directive| directive.name).collect();
        let text: String = std::iter::once("listener 1883\n".to_owned())
            .chain(lines.iter().map(|(index, value)| {
                format!("{} {value}\n", names[index.index(names.len())])
            }))
            .collect();
        let (one, two) = (super::parse(&text), super::parse(text.replace('\n', " \r\n")));
        prop_assert_eq!(format!("{one:?}"), format!("{two:?}"));
    }
}
