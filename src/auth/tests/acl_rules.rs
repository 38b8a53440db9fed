//! Rules of ACL files one by one.

#![forbid(unsafe_code)]

use super::{acl, subject};
use crate::auth::{Access, Acl, Problem, Standing};
use crate::topic::TopicError;

/// What of `rw` a Client may do with a topic.
fn may(acl: &Acl, username: Option<&str>, client_identifier: &str, topic: &str) -> &'static str {
    let client = subject(username, client_identifier);
    let check = |access| acl.check(&client, access, topic.as_bytes());
    match (check(Access::Read), check(Access::Write)) {
        (true, true) => "rw",
        (true, false) => "r",
        (false, true) => "w",
        (false, false) => "-",
    }
}

#[test]
fn an_empty_file_denies_everything_but_subscribing() {
    for text in ["", "\n\n", "# nothing\n", "user ann\n"] {
        let acl = acl(text);
        assert_eq!(may(&acl, None, "c", "a"), "-");
        assert_eq!(may(&acl, Some("ann"), "c", "a"), "-");
        let ann = subject("ann", "c");
        assert!(acl.check(&ann, Access::Subscribe, b"#"));
        assert!(acl.check(&ann, Access::Unsubscribe, b"#"));
    }
}

#[test]
fn sections_belong_to_their_user() {
    let acl = acl("topic read public/#\n\
         user ann\n\
         topic home/#\n\
         user bob\n\
         topic write home/bell\n\
         user ann\n\
         topic read post\n");
    for (username, topic, expected) in [
        (None, "public/x", "r"),
        (None, "home/x", "-"),
        // What anonymous Clients may do says nothing about users.
        (Some("ann"), "public/x", "-"),
        (Some("ann"), "home/x", "rw"),
        (Some("ann"), "home", "rw"),
        (Some("ann"), "post", "r"),
        (Some("bob"), "home/bell", "w"),
        (Some("bob"), "home/x", "-"),
        (Some("eve"), "home/x", "-"),
        // A User Name that is empty is one that no section has.
        (Some(""), "public/x", "-"),
    ] {
        assert_eq!(
            may(&acl, username, "c", topic),
            expected,
            "{username:?} {topic}"
        );
    }
}

#[test]
fn denials_beat_grants_wherever_they_stand() {
    let acl = acl("topic readwrite a/#\n\
         topic deny a/secret/#\n\
         topic readwrite a/secret/not\n\
         topic read b\n\
         topic write b\n");
    assert_eq!(may(&acl, None, "c", "a/x"), "rw");
    assert_eq!(may(&acl, None, "c", "a/secret"), "-");
    assert_eq!(may(&acl, None, "c", "a/secret/not"), "-");
    assert_eq!(may(&acl, None, "c", "b"), "rw");
}

#[test]
fn rules_of_the_user_come_before_patterns() {
    let acl = acl("pattern readwrite dev/%c/#\n\
         pattern deny dev/%c/lock\n\
         pattern read news\n\
         user ann\n\
         topic read dev/+/lock\n\
         topic deny news\n");
    assert_eq!(may(&acl, Some("bob"), "b1", "dev/b1/x"), "rw");
    assert_eq!(may(&acl, Some("bob"), "b1", "dev/b1/lock"), "-");
    assert_eq!(may(&acl, Some("bob"), "b1", "dev/b2/x"), "-");
    assert_eq!(may(&acl, Some("bob"), "b1", "news"), "r");
    // Granted by her own rule before the pattern that denies is looked at; writing is not.
    assert_eq!(may(&acl, Some("ann"), "a1", "dev/a1/lock"), "r");
    assert_eq!(may(&acl, Some("ann"), "a1", "dev/a1/x"), "rw");
    assert_eq!(may(&acl, Some("ann"), "a1", "news"), "-");
    // A pattern after `user` is for everybody.
    let acl = super::acl("user ann\npattern read %u/in\n");
    assert_eq!(may(&acl, Some("bob"), "c", "bob/in"), "r");
}

#[test]
fn patterns_stand_for_whole_names_only() {
    let acl = acl("pattern read c/%c\npattern write u/%u/#\npattern read both/%u/%c\n");
    for (username, client_identifier, topic, expected) in [
        (Some("ann"), "c1", "c/c1", "r"),
        (Some("ann"), "c1", "c/c", "-"),
        (Some("ann"), "c1", "c/c11", "-"),
        (Some("ann"), "c1", "c/c1/x", "-"),
        (Some("ann"), "c1", "c/%c", "-"),
        (Some("ann"), "c1", "u/ann", "w"),
        (Some("ann"), "c1", "u/ann/x/y", "w"),
        (Some("ann"), "c1", "both/ann/c1", "r"),
        // Without a User Name, %u is nobody.
        (None, "c1", "u/", "-"),
        (None, "c1", "u//x", "-"),
        (None, "c1", "u/%u", "-"),
        (None, "c1", "c/c1", "r"),
        (Some(""), "c1", "u/", "-"),
        (Some("ann"), "", "c/", "-"),
    ] {
        let got = may(&acl, username, client_identifier, topic);
        assert_eq!(got, expected, "{username:?} {client_identifier} {topic}");
    }
}

#[test]
fn names_with_wildcards_or_separators_widen_nothing() {
    let acl = acl("pattern readwrite %c/%u/x\npattern readwrite free\npattern read $SYS/%c\n");
    assert_eq!(may(&acl, Some("ann"), "c1", "c1/ann/x"), "rw");
    for (username, client_identifier, topic) in [
        ("ann", "+", "c1/ann/x"),
        ("+", "c1", "c1/ann/x"),
        ("ann", "#", "anything"),
        ("#", "c1", "c1/anything"),
        ("ann", "c1/ann", "c1/ann/ann/x"),
        ("ann/x", "c1", "c1/ann/x/x"),
        ("ann", "/", "//ann/x"),
        ("ann", "$SYS", "$SYS/ann/x"),
        ("ann", "broker/uptime", "$SYS/broker/uptime"),
        // Not even what the pattern gives to everybody.
        ("ann", "a+", "free"),
        ("a#b", "c1", "free"),
    ] {
        let got = may(&acl, Some(username), client_identifier, topic);
        assert_eq!(got, "-", "{username} {client_identifier} {topic}");
    }
    // What is written out for a user is not taken from it.
    let acl = super::acl("user a+b\ntopic read mine\npattern read free\n");
    assert_eq!(may(&acl, Some("a+b"), "c1", "mine"), "r");
    assert_eq!(may(&acl, Some("a+b"), "c1", "free"), "-");
}

#[test]
fn a_pattern_that_denies_does_so_to_names_with_separators_and_without_a_character() {
    let acl = acl(
        "pattern readwrite #\npattern readwrite $SYS/#\npattern deny %c/%u/x\npattern deny $SYS/%c\n\
         pattern deny dev-%c/+/y\n",
    );
    for (username, client_identifier, topic, expected) in [
        (Some("ann/x"), "c1", "c1/ann/x/x", "-"),
        (Some("ann/x"), "c1", "c1/ann/x", "rw"),
        (Some("ann/x"), "c1", "c1/ann/x/xx", "rw"),
        (Some("ann"), "a/b/c", "a/b/c/ann/x", "-"),
        (Some("ann"), "/", "//ann/x", "-"),
        (Some(""), "c1", "c1//x", "-"),
        (None, "c1", "c1//x", "rw"),
        (None, "broker/uptime", "$SYS/broker/uptime", "-"),
        (None, "broker", "$SYS/broker/uptime", "rw"),
        (None, "a/b", "dev-a/b/c/y", "-"),
        (None, "a/b", "dev-a/bc/c/y", "rw"),
    ] {
        let got = may(&acl, username, client_identifier, topic);
        assert_eq!(got, expected, "{username:?} {client_identifier} {topic}");
    }
}

#[test]
fn names_beside_text_are_substituted_with_a_warning() {
    let acl = acl("pattern read dev-%c/x\npattern read %u%c\npattern read x%c\n");
    assert_eq!(may(&acl, Some("ann"), "c1", "dev-c1/x"), "r");
    assert_eq!(may(&acl, Some("ann"), "c1", "annc1"), "r");
    assert_eq!(may(&acl, Some("ann"), "c1", "dev-c2/x"), "-");
    assert_eq!(may(&acl, Some("ann"), "c/1", "dev-c/1/x"), "-");
    let lines: Vec<_> = acl.warnings().iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [1, 2, 3]);
}

#[test]
fn a_pattern_without_a_name_is_warned_of() {
    let acl = acl("pattern read %c/in\npattern read free\n");
    assert_eq!(acl.warnings().len(), 1);
    assert_eq!(acl.warnings()[0].line, 2);
    assert_eq!(
        acl.warnings()[0].text,
        "ACL pattern 'free' does not contain '%c' or '%u'"
    );
}

#[test]
fn topics_that_begin_with_a_dollar_need_a_rule_that_does() {
    let acl = acl(
        "topic read #\ntopic read +/x\ntopic read $a/#\npattern read %c/#\npattern read $%c/y\n",
    );
    assert_eq!(may(&acl, None, "c", "b/x"), "r");
    assert_eq!(may(&acl, None, "c", "$b/x"), "-");
    assert_eq!(may(&acl, None, "c", "$a/x"), "r");
    assert_eq!(may(&acl, None, "$b", "$b/x"), "-");
    assert_eq!(may(&acl, None, "b", "$b/y"), "r");
    // Only the first character counts [MQTT-4.7.2-1].
    assert_eq!(may(&acl, None, "c", "b/$x"), "r");
}

#[test]
fn wildcards_match_as_in_subscriptions() {
    let acl =
        acl("topic read a/+/c\ntopic read b/#\ntopic read +\ntopic read x/+/#\ntopic read //\n");
    for (topic, expected) in [
        ("a/b/c", "r"),
        ("a//c", "r"),
        ("a/b/c/d", "-"),
        ("a/b", "-"),
        ("b", "r"),
        ("b/", "r"),
        ("b/c/d", "r"),
        ("bb", "r"),
        ("bb/", "-"),
        ("/", "-"),
        ("x", "r"),
        ("x/y", "r"),
        ("x/y/z", "r"),
        ("x/", "r"),
        ("//", "r"),
        ("///", "-"),
    ] {
        assert_eq!(may(&acl, None, "c", topic), expected, "{topic}");
    }
}

#[test]
fn space_is_read_as_mosquitto_reads_it() {
    let acl = acl(concat!(
        "  topic   read    a b  c \t\r\n",
        "topic readwrite\n",
        "\n   \n",
        "user   ann  b \r\n",
        "topic x\r\n",
    ));
    assert_eq!(may(&acl, None, "c", "a b  c"), "r");
    assert_eq!(may(&acl, None, "c", "readwrite"), "rw");
    assert_eq!(may(&acl, Some("ann  b"), "c", "x"), "rw");
    assert_eq!(may(&acl, Some("ann"), "c", "x"), "-");
}

#[test]
fn comments_may_be_in_any_encoding_and_nothing_else_may() {
    let text = b"# caf\xe9\ntopic read a\n";
    assert_eq!(may(&Acl::parse("f", text).unwrap(), None, "c", "a"), "r");
    // [MQTT-1.5.4-1]
    let error = Acl::parse("f", b"topic read a\nuser caf\xe9\n").unwrap_err();
    assert_eq!((error.line, error.problem), (2, Problem::NotUtf8));
    // [MQTT-1.5.4-2]
    let error = Acl::parse("f", b"topic read a\0b\n").unwrap_err();
    assert_eq!((error.line, error.problem), (1, Problem::NullCharacter));
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let topic = |topic: &str, error| Problem::Topic {
        topic: topic.into(),
        error,
    };
    for (text, line, problem) in [
        ("topics read a\n", 1, Problem::Line("topics".into())),
        ("\n # indented\n", 2, Problem::Line("#".into())),
        (
            "topic\tread\ta\n",
            1,
            Problem::Line("topic\tread\ta".into()),
        ),
        ("user ann\nUSER bob\n", 2, Problem::Line("USER".into())),
        ("user\n", 1, Problem::MissingUsername),
        ("user   \n", 1, Problem::MissingUsername),
        ("topic\n", 1, Problem::EmptyTopic),
        ("\n\npattern  \n", 3, Problem::EmptyTopic),
        ("topic a b\n", 1, Problem::AccessType("a".into())),
        ("topic READ b\n", 1, Problem::AccessType("READ".into())),
        ("pattern all %c\n", 1, Problem::AccessType("all".into())),
        (
            "topic read a/#/b\n",
            1,
            topic("a/#/b", TopicError::MultiLevelWildcard),
        ),
        (
            "topic a+\n",
            1,
            topic("a+", TopicError::SingleLevelWildcard),
        ),
        (
            "pattern deny b#\n",
            1,
            topic("b#", TopicError::MultiLevelWildcard),
        ),
        (
            "topic $share/#x\n",
            1,
            topic("$share/#x", TopicError::MultiLevelWildcard),
        ),
    ] {
        let error = Acl::parse("/etc/acl", text.as_bytes()).unwrap_err();
        assert_eq!((error.line, &error.problem), (line, &problem), "{text:?}");
        assert!(error.to_string().starts_with(&format!("/etc/acl:{line}: ")));
    }
    // Legal there, though it matches nothing.
    acl("topic $share/x\n");
}

#[test]
fn a_standing_in_another_file_is_looked_up_again() {
    let before = acl("user ann\ntopic read a\nuser bob\ntopic read b\n");
    let after = acl("user bob\ntopic read b\nuser ann\ntopic write c\n");
    let ann = subject("ann", "c1");
    let stale = before.standing(&ann);
    assert!(before.check_with(stale, &ann, Access::Read, b"a"));
    // The section of the same number is Bob's there.
    assert!(!after.check_with(stale, &ann, Access::Read, b"a"));
    assert!(!after.check_with(stale, &ann, Access::Read, b"b"));
    assert!(after.check_with(stale, &ann, Access::Write, b"c"));
    assert!(after.check_with(Standing::default(), &ann, Access::Write, b"c"));
}

#[test]
fn many_rules_in_deep_topics_are_all_seen() {
    let mut text = String::new();
    for number in 0..3000 {
        text.push_str(&format!(
            "topic read dev/{number}/out\ntopic write dev/{number}/in\n"
        ));
    }
    // Both ways at every level: everything has to be kept in mind at once.
    for bits in 0..64_u32 {
        let levels: Vec<_> = (0..6)
            .map(|bit| if bits >> bit & 1 == 1 { "+" } else { "x" })
            .collect();
        text.push_str(&format!("topic read deep/{}/{}\n", levels.join("/"), bits));
    }
    let acl = acl(&text);
    for number in [0, 1, 999, 1000, 2999] {
        assert_eq!(may(&acl, None, "c", &format!("dev/{number}/out")), "r");
        assert_eq!(may(&acl, None, "c", &format!("dev/{number}/in")), "w");
    }
    assert_eq!(may(&acl, None, "c", "dev/3000/in"), "-");
    for bits in 0..64 {
        assert_eq!(
            may(&acl, None, "c", &format!("deep/x/x/x/x/x/x/{bits}")),
            "r"
        );
    }
    assert_eq!(may(&acl, None, "c", "deep/x/x/x/x/x/y/0"), "-");
    assert_eq!(may(&acl, None, "c", "deep/x/x/x/x/x/y/32"), "r");
}
