//! The lines of an ACL file.

#![forbid(unsafe_code)]

use super::rules::Grants;
use super::{ANONYMOUS, Acl, Builder};
use crate::auth::error::{FileError, Problem, Warning, lines, trim, trim_end};
use crate::auth::password_file::hasher;
use crate::shown::beginning;
use crate::topic::{TopicError, TopicFilter};

/// What stands for the Client Identifier and the User Name in a pattern.
pub(super) const CLIENT_IDENTIFIER: &str = "%c";
pub(super) const USERNAME: &str = "%u";

pub(super) fn parse(file: &str, text: &[u8]) -> Result<Acl, FileError> {
    let mut builder = Builder::new();
    let mut section = ANONYMOUS;
    for line in lines(file, text) {
        let (number, line) = line?;
        let warnings = builder.warnings.len();
        match parse_line(trim_end(line), &mut builder, section) {
            Ok(Some(next)) => section = next,
            Ok(None) => {}
            Err(problem) => {
                return Err(FileError {
                    file: file.into(),
                    line: number,
                    problem,
                });
            }
        }
        for warning in builder.warnings.iter_mut().skip(warnings) {
            warning.line = number;
        }
    }
    // Zero is for Clients that no file was asked about.
    let fingerprint = std::hash::BuildHasher::hash_one(&hasher(), text) | 1;
    Ok(builder.build(fingerprint))
}

/// Takes one line, without space at its end, into `builder`. Returns the section of the lines after
/// it if that is another one.
fn parse_line(line: &str, builder: &mut Builder, section: u32) -> Result<Option<u32>, Problem> {
    // Only a line that begins with # is a comment: topics may have one.
    if line.starts_with('#') {
        return Ok(None);
    }
    let (word, rest) = next_word(line);
    match word {
        "" => Ok(None),
        "user" => match trim(rest) {
            "" => Err(Problem::MissingUsername),
            username => Ok(Some(builder.section(username))),
        },
        "topic" => {
            let (grants, topic) = parse_rule(rest)?;
            if let Some(rules) = builder.sections.get_mut(section as usize) {
                rules.insert_topic(topic, grants);
            }
            Ok(None)
        }
        "pattern" => {
            let (grants, topic) = parse_rule(rest)?;
            builder.patterns.insert_pattern(topic, grants);
            if let Some(text) = doubt_pattern(topic) {
                builder.warnings.push(Warning { line: 0, text });
            }
            Ok(None)
        }
        other => Err(Problem::Line(other.into())),
    }
}

/// `[read|write|readwrite|deny] topic`, where a topic with spaces needs the access before it.
fn parse_rule(text: &str) -> Result<(Grants, &str), Problem> {
    let (word, rest) = next_word(text);
    if word.is_empty() {
        return Err(Problem::EmptyTopic);
    }
    let topic = trim(rest);
    let (grants, topic) = if topic.is_empty() {
        (Grants::READ_WRITE, word)
    } else {
        let grants = match word {
            "read" => Grants::READ,
            "write" => Grants::WRITE,
            "readwrite" => Grants::READ_WRITE,
            "deny" => Grants::DENY,
            other => return Err(Problem::AccessType(other.into())),
        };
        (grants, topic)
    };
    check_topic(topic).map_err(|error| Problem::Topic {
        topic: topic.into(),
        error,
    })?;
    Ok((grants, topic))
}

/// Whether `topic` has its wildcards where they may be. `$share` means nothing here.
fn check_topic(topic: &str) -> Result<(), TopicError> {
    let is_shared = topic.starts_with("$share/");
    let filter = if is_shared { &topic[1..] } else { topic };
    TopicFilter::new(filter).map(|_| ())
}

/// What a pattern says that its author hardly meant.
fn doubt_pattern(pattern: &str) -> Option<String> {
    let has = |text: &str| text.contains(CLIENT_IDENTIFIER) || text.contains(USERNAME);
    if !has(pattern) {
        return Some(format!(
            "ACL pattern '{}' does not contain '%c' or '%u'",
            beginning(pattern)
        ));
    }
    let is_partial = |level: &str| has(level) && level != CLIENT_IDENTIFIER && level != USERNAME;
    pattern.split('/').any(is_partial).then(|| {
        format!(
            "ACL pattern '{}' has '%c' or '%u' beside other text in a level, \
             which Mosquitto 2.1 does not substitute",
            beginning(pattern)
        )
    })
}

/// The first word and what follows the space after it. Only spaces come between words.
fn next_word(text: &str) -> (&str, &str) {
    let text = text.trim_start_matches(' ');
    text.split_once(' ').unwrap_or((text, ""))
}
