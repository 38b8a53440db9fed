//! The tree of rules against a list of them: each pattern written out for the Client, each rule
//! compared with the topic from the first to the last.

#![forbid(unsafe_code)]

use proptest::prelude::*;

use super::{acl, subject};
use crate::auth::{Access, Acl};
use crate::topic::{TopicFilter, TopicName};

#[derive(Clone, Debug)]
struct Rule {
    /// `None`: a pattern. Otherwise the index of the user in [`USERS`].
    section: Option<usize>,
    access: &'static str,
    topic: String,
}

/// The first one is nobody.
const USERS: [Option<&str>; 6] = [
    None,
    Some("ann"),
    Some("bob"),
    Some("a/b"),
    Some("+"),
    Some(""),
];
const CLIENTS: [&str; 7] = ["ann", "c", "a", "a/b", "#", "", "$x"];

fn rules() -> impl Strategy<Value = Vec<Rule>> {
    let level = prop::sample::select(vec![
        "a", "b", "ann", "", "$x", "c", "%c", "%u", "a%c", "%u%c", "%", "+", "+",
    ]);
    let topic = (prop::collection::vec(level, 1..5), any::<bool>()).prop_map(|(levels, multi)| {
        let mut topic = levels.join("/");
        if multi {
            topic.push_str("/#");
        }
        // An empty topic is none.
        if topic.is_empty() { "#".into() } else { topic }
    });
    // No file has a section for the last one, whose name is empty.
    let section = prop_oneof![Just(None), (0..USERS.len() - 1).prop_map(Some)];
    let access = prop::sample::select(vec!["read", "write", "readwrite", "deny"]);
    let rule = (section, access, topic).prop_map(|(section, access, topic)| Rule {
        section,
        access,
        topic,
    });
    prop::collection::vec(rule, 0..12)
}

fn topics() -> impl Strategy<Value = String> {
    let level = prop::sample::select(vec![
        "a", "b", "ann", "", "$x", "c", "aa", "bobc", "%c", "%",
    ]);
    prop::collection::vec(level, 1..6)
        .prop_map(|levels| levels.join("/"))
        .prop_filter("a topic has a character", |topic| !topic.is_empty())
}

/// The file in which these rules stand.
fn text(rules: &[Rule]) -> String {
    let mut text = String::new();
    // Anonymous rules come before the first user.
    let mut sorted: Vec<_> = rules.iter().collect();
    sorted.sort_by_key(|rule| rule.section != Some(0));
    for rule in sorted {
        match rule.section {
            None => text.push_str(&format!("pattern {} {}\n", rule.access, rule.topic)),
            Some(section) => {
                if let Some(user) = USERS[section] {
                    text.push_str(&format!("user {user}\n"));
                }
                text.push_str(&format!("topic {} {}\n", rule.access, rule.topic));
            }
        }
    }
    text
}

/// Whether `filter`, with names written out, matches.
fn matches(rule: &str, written_out: &str, topic: &str) -> bool {
    if rule.starts_with('$') != topic.starts_with('$') {
        return false;
    }
    // `$` has been dealt with; what follows is about levels only.
    let filter = format!("x/{written_out}");
    let topic = format!("x/{topic}");
    let filter = TopicFilter::new(&filter).expect("a rule is a filter");
    filter.matches(TopicName::new(&topic).expect("a topic is a name"))
}

/// What Mosquitto's manual says, in order.
fn model(rules: &[Rule], user: usize, client: &str, access: &str, topic: &str) -> bool {
    let username = USERS[user];
    let of_user = rules
        .iter()
        .filter(|rule| rule.section == Some(user))
        .filter(|rule| matches(&rule.topic, &rule.topic, topic));
    let mut granted = false;
    for rule in of_user {
        if rule.access == "deny" {
            return false;
        }
        granted |= rule.access.contains(access);
    }
    if granted {
        return true;
    }
    let is_dangerous = |name: &str| name.contains(['+', '#']);
    if is_dangerous(client) || username.is_some_and(is_dangerous) {
        return false;
    }
    let mut granted = false;
    for rule in rules.iter().filter(|rule| rule.section.is_none()) {
        // A name that is not there makes the pattern nobody's, and one that is no level lets it
        // grant nothing.
        let is_usable = |name: Option<&str>, sign: &str| {
            let is_level = |name: &str| !name.is_empty() && !name.contains('/');
            !rule.topic.contains(sign)
                || name.is_some_and(|name| rule.access == "deny" || is_level(name))
        };
        if !is_usable(username, "%u") || !is_usable(Some(client), "%c") {
            continue;
        }
        let written_out = rule
            .topic
            .replace("%c", client)
            .replace("%u", username.unwrap_or_default());
        if matches(&rule.topic, &written_out, topic) {
            if rule.access == "deny" {
                return false;
            }
            granted |= rule.access.contains(access);
        }
    }
    granted
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_tree_decides_as_the_list_does(
        rules in rules(),
        user in 0..USERS.len(),
        client in prop::sample::select(CLIENTS.to_vec()),
        topics in prop::collection::vec(topics(), 1..8),
    ) {
        let text = text(&rules);
        let acl = acl(&text);
        let client = subject(USERS[user], client);
        let standing = acl.standing(&client);
        for topic in &topics {
            for (access, name) in [(Access::Read, "read"), (Access::Write, "write")] {
                let expected = model(&rules, user, client.client_identifier, name, topic);
                let got = acl.check_with(standing, &client, access, topic.as_bytes());
                prop_assert_eq!(got, expected, "{} {} of {:?} in\n{}", name, topic, client, text);
            }
        }
    }

    #[test]
    fn any_bytes_are_a_file_or_an_error(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = Acl::parse("acl", &text);
    }

    #[test]
    fn any_lines_are_a_file_or_an_error(
        text in r"((user|topic|pattern|topic read|pattern deny| |#)[ a-z%#+/$\t]{0,12}\n){0,8}",
    ) {
        if let Ok(acl) = Acl::parse("acl", text.as_bytes()) {
            let client = subject("a", "b");
            let _ = acl.check(&client, Access::Read, b"a/b");
        }
    }
}
