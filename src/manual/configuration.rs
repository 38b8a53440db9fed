//! The table of directives as a manual page, and as an example configuration.

#![forbid(unsafe_code)]

use std::fmt::Write;

use clap_mangen::roff::{Roff, bold, italic, roman};

use crate::config::{DIRECTIVES, Directive, Reload, Repeat, Status};

/// fastmq.conf(5), in roff.
pub fn page() -> String {
    let version = concat!("fastmq ", env!("CARGO_PKG_VERSION"));
    let mut page = Roff::new();
    page.control(
        "TH",
        ["fastmq.conf", "5", "", version, "File Formats Manual"],
    );
    page.control("SH", ["NAME"]);
    page.text([roman(
        "fastmq.conf - the configuration of the fastmq broker",
    )]);
    page.control("SH", ["SYNOPSIS"]);
    page.text([bold("fastmq -c"), roman(" "), italic("FILE")]);
    page.control("SH", ["DESCRIPTION"]);
    for paragraph in DESCRIPTION {
        page.control("PP", []);
        page.text([roman(*paragraph)]);
    }
    for section in &DIRECTIVES {
        page.control("SH", [section.title.to_uppercase().as_str()]);
        page.text([roman(section.introduction)]);
        for directive in section.directives {
            page.control("TP", []);
            page.text([bold(directive.name), roman(" "), italic(directive.syntax)]);
            page.text([roman(directive.text)]);
            page.control("br", []);
            page.text([roman(facts(directive))]);
        }
    }
    page.control("SH", ["SEE ALSO"]);
    page.text([
        bold("fastmq"),
        roman("(1), "),
        bold("fastmq-passwd"),
        roman("(1)"),
    ]);
    page.to_roff()
}

const DESCRIPTION: &[&str] = &[
    "The directives are those of mosquitto.conf(5), with a few of fastmq's own, which begin with fastmq_. One \
     stands on a line: its name, blanks, its value. A line that begins with # is a comment.",
    "Nothing is ignored without a word. A directive that would change nothing here is said at the start, with \
     the reason; one without which the broker would not do what the file asks for is refused, and so are \
     unknown ones, with file and line.",
    "SIGHUP reads the file again. If anything in it is wrong, what held before goes on, and the log says what \
     is wrong. A change that needs a restart is warned of at each reload until there is one, or until it is taken \
     back.",
];

/// What the table knows beside the text, in one line.
fn facts(directive: &Directive) -> String {
    let mut facts = Vec::new();
    match directive.status {
        Status::Supported => {}
        Status::Deprecated { instead } => facts.push(format!("Deprecated: {instead}")),
        Status::NoEffect { why } => facts.push(format!("Changes nothing: {why}")),
        Status::Refused { why } => facts.push(format!("Refused: {why}")),
    }
    if !directive.default.is_empty() {
        facts.push(format!("Default: {}.", directive.default));
    }
    if let Some((lowest, highest)) = directive.range() {
        facts.push(format!("Range: {lowest} to {highest}."));
    }
    facts.push(format!("Scope: {}.", directive.scope_name()));
    if matches!(
        directive.status,
        Status::Supported | Status::Deprecated { .. }
    ) {
        if directive.repeat == Repeat::Adds {
            facts.push("May be given more than once.".to_owned());
        }
        facts.push(match directive.reload {
            Reload::Applied => "Applied by a reload.".to_owned(),
            Reload::Restart => "Needs a restart.".to_owned(),
        });
    }
    facts.join(" ")
}

/// Columns of the example.
const WIDTH: usize = 100;

/// A configuration file in which every directive that does something is explained, and none is active.
pub fn example() -> String {
    let mut example = String::from(
        "# Every directive that fastmq obeys, with its default. See fastmq.conf(5) for those of Mosquitto's\n\
         # that are deprecated, change nothing here or are refused.\n",
    );
    for section in &DIRECTIVES {
        let obeyed = section
            .directives
            .iter()
            .filter(|directive| directive.status == Status::Supported);
        let mut is_first = true;
        for directive in obeyed {
            if std::mem::take(&mut is_first) {
                let title = section.title;
                let _ = write!(example, "\n\n# === {title} ===\n");
                comment(section.introduction, &mut example);
            }
            example.push('\n');
            comment(directive.text, &mut example);
            comment(&facts(directive), &mut example);
            let _ = writeln!(example, "#{} {}", directive.name, directive.syntax);
        }
    }
    example
}

/// `text` in lines of a comment.
fn comment(text: &str, example: &mut String) {
    let mut column = 0;
    for word in text.split_whitespace() {
        if column > 0 && column + 1 + word.len() > WIDTH {
            example.push('\n');
            column = 0;
        }
        if column == 0 {
            example.push('#');
            column = 1;
        }
        example.push(' ');
        example.push_str(word);
        column += 1 + word.len();
    }
    if column > 0 {
        example.push('\n');
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::config::{Config, Files, all};

    struct Only(&'static str, String);

    impl Files for Only {
        fn read(&self, file: &str) -> Result<Vec<u8>, String> {
            match file == self.0 {
                true => Ok(self.1.clone().into_bytes()),
                false => Err("no such file".to_owned()),
            }
        }
        fn names(&self, _: &str) -> Result<Vec<String>, String> {
            Err("no such folder".to_owned())
        }
    }

    #[test]
    fn every_directive_is_in_the_manual_with_what_becomes_of_it() {
        let page = page();
        for directive in all() {
            let name = directive.name.replace('-', r"\-");
            assert!(page.contains(&format!(r"\fB{name}\fR")), "{name}");
        }
        assert!(page.contains("Refused: "));
    }

    #[test]
    fn the_example_explains_what_is_obeyed_and_says_nothing() {
        let example = example();
        for directive in all() {
            let is_there = example.contains(&format!("\n#{} ", directive.name));
            let is_obeyed = directive.status == Status::Supported;
            assert_eq!(is_there, is_obeyed, "{}", directive.name);
        }
        for line in example.lines() {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
        let config = Config::parse("example", &Only("example", example)).unwrap();
        assert!(config.remarks.is_empty(), "{:?}", config.remarks);
        assert!(config.listeners.is_empty());
    }

    #[test]
    fn the_packaged_configuration_is_read_without_a_remark() {
        let text = include_str!("../../packaging/fastmq.conf");
        // Its own folder of further files is empty.
        let text = text.replace("include_dir ", "#include_dir ");
        let config = Config::parse("packaged", &Only("packaged", text)).unwrap();
        assert!(config.remarks.is_empty(), "{:?}", config.remarks);
        assert_eq!(config.listeners.len(), 1);
    }
}
