//! What the files mean: tables taken from Mosquitto's tools, rules one by one, and the tree of rules
//! against a list of them that is read from top to bottom.

#![forbid(unsafe_code)]

mod acl_model;
mod acl_rules;
mod passwords;

use super::*;

fn acl(text: &str) -> Acl {
    Acl::parse("acl", text.as_bytes()).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

fn subject<'a>(username: impl Into<Option<&'a str>>, client_identifier: &'a str) -> Subject<'a> {
    Subject {
        username: username.into(),
        client_identifier,
    }
}

#[test]
fn anonymous_clients_come_in_if_they_are_allowed_to() {
    let passwords = PasswordFile::parse("passwords", b"").unwrap();
    let with_passwords = Security {
        passwords: Some(passwords),
        acl: None,
    };
    let without = Security::default();
    use Admission::{Accept, Refuse, Verify};
    for (security, allow_anonymous, username, password, expected) in [
        (None, true, None, None, Accept),
        (None, false, None, None, Refuse),
        // No password file: a User Name is a label that anybody may wear.
        (None, true, Some("ann"), Some("x"), Accept),
        (Some(&without), true, Some("ann"), None, Accept),
        (Some(&without), false, Some("ann"), Some("x"), Refuse),
        (Some(&with_passwords), true, None, None, Accept),
        (Some(&with_passwords), true, None, Some("x"), Accept),
        (Some(&with_passwords), false, None, None, Refuse),
        (Some(&with_passwords), true, Some("ann"), Some("x"), Verify),
        (Some(&with_passwords), false, Some("ann"), Some(""), Verify),
        (Some(&with_passwords), true, Some("ann"), None, Refuse),
        (Some(&with_passwords), true, Some(""), None, Refuse),
    ] {
        let password = password.map(str::as_bytes);
        let got = admission(security, allow_anonymous, username, password);
        assert_eq!(
            got, expected,
            "{security:?} {allow_anonymous} {username:?} {password:?}"
        );
    }
}

#[test]
fn files_that_let_in_the_same_users_with_the_same_rules_are_equal_and_others_are_not() {
    const ANN: &str = "ann:$6$HpZgaXJGgxKnUGtB$a2Dl04mHsYW3c1lnZR7nBuhKXXYAhMnMqnGHc5VbB8fvIu3i8Wf2jMNvVNzNQ4zCs0qW2vLk1cMIkb0JyS7E9Q==";
    let ben = ANN.replace("ann:", "ben:");
    let other = ANN.replace("a2Dl04", "b2Dl04");
    let read = |text: &str, rules: &str| Security {
        passwords: Some(PasswordFile::parse("passwords", text.as_bytes()).unwrap()),
        acl: Some(Acl::parse("acl", rules.as_bytes()).unwrap()),
    };
    let first = read(&format!("{ANN}\n{ben}\n"), "topic a\n");
    assert_eq!(first, read(&format!("# a\n{ben}\n{ANN}\n"), "topic a\n"));
    for (passwords, rules) in [
        (format!("{ANN}\n"), "topic a\n"),
        (format!("{other}\n{ben}\n"), "topic a\n"),
        (format!("{ANN}\n{ben}\n"), "topic b\n"),
        (format!("{ANN}\n{ben}\n"), ""),
    ] {
        assert_ne!(first, read(&passwords, rules), "{passwords} {rules}");
    }
    let without = Security {
        passwords: None,
        ..read(ANN, "topic a\n")
    };
    assert_ne!(without, read(ANN, "topic a\n"));
}

#[test]
fn broker_topics_are_protected_without_any_file() {
    let ann = subject("ann", "c1");
    for (access, topic, expected) in [
        (Access::Write, "a/b", true),
        (Access::Read, "$SYS/broker/uptime", true),
        (Access::Subscribe, "$SYS/#", true),
        (Access::Write, "$SYS/broker/uptime", false),
        (Access::Write, "$SYS", false),
        (Access::Write, "$SYSTEM", false),
        // Where a bridge of another Mosquitto reports by default.
        (Access::Write, "$SYS/broker/connection/house/state", true),
        (Access::Write, "$SYS/broker/connection/a/b/state", false),
        (Access::Write, "$SYS/broker/connection/state", false),
        (Access::Write, "$share/group/a", false),
        (Access::Read, "$share/group/a", false),
        (Access::Subscribe, "$share/group/a", true),
        (Access::Unsubscribe, "$share/group/a", true),
        (Access::Write, "$other", true),
    ] {
        let got = permits(None, Standing::default(), &ann, access, topic.as_bytes());
        assert_eq!(got, expected, "{access:?} {topic}");
    }
}

#[test]
fn an_acl_file_does_not_open_what_is_protected() {
    let security = Security {
        passwords: None,
        acl: Some(acl("topic readwrite $SYS/#\ntopic #\ntopic $other/#\n")),
    };
    let nobody = subject(None, "c1");
    let standing = security.standing(&nobody);
    let may =
        |access, topic: &str| permits(Some(&security), standing, &nobody, access, topic.as_bytes());
    assert!(may(Access::Read, "$SYS/broker/uptime"));
    assert!(!may(Access::Write, "$SYS/broker/uptime"));
    assert!(may(Access::Write, "$SYS/broker/connection/x/state"));
    assert!(may(Access::Write, "$other/x"));
    assert!(!may(Access::Write, "$else"));
    assert!(may(Access::Write, "else"));
}
