//! What the README says of Mosquitto's directives is what the parser does with them.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};

use fastmq::config::{DIRECTIVES, Directive, Status, all};

const README: &str = include_str!("../README.md");
const HEADING: &str = "\n## Moving from Mosquitto\n";

/// The rows of the table about Mosquitto: what is there and what becomes of it.
fn rows() -> Vec<(&'static str, &'static str)> {
    let (_, section) = README.split_once(HEADING).expect("the section is there");
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| {
        let row = line.strip_prefix("| ")?.strip_suffix(" |")?;
        row.split_once(" | ")
    });
    // Behind the head and the line below it.
    rows.skip(2).collect()
}

/// The directives that a text names in backquotes, some of them with a value.
fn named(text: &'static str) -> impl Iterator<Item = &'static str> {
    let quoted = text.split('`').skip(1).step_by(2);
    let words = quoted.filter_map(|quoted| quoted.split(' ').next());
    // A file, a topic or a section of the manual is none.
    words.filter(|word| {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
        word.bytes().all(fits)
    })
}

fn directive(name: &str) -> &'static Directive {
    let found = all().find(|directive| directive.name == name);
    found.unwrap_or_else(|| panic!("the README names `{name}`, which is no directive"))
}

/// How the second cell of a row begins whose directives have this status.
fn claim(status: &Status) -> Option<&'static [&'static str]> {
    match status {
        Status::Supported => None,
        Status::Deprecated { .. } => Some(&["work, and the log names what is better"]),
        Status::NoEffect { .. } => Some(&["change nothing: ", "changes nothing: "]),
        Status::Refused { .. } => Some(&["refused"]),
    }
}

#[test]
fn each_directive_of_the_table_has_the_status_that_its_row_claims() {
    let claims: BTreeSet<_> = all().filter_map(|it| claim(&it.status)).flatten().collect();
    for (what, becomes) in rows() {
        let claimed = claims.iter().find(|claim| becomes.starts_with(**claim));
        for name in named(what) {
            let status = &directive(name).status;
            // A value may be refused of a directive that is not.
            if what.contains(&format!("`{name} ")) {
                assert!(claim(status).is_none(), "`{name}` is {status:?}");
                continue;
            }
            let expected = claim(status);
            assert_eq!(
                claimed.is_some(),
                expected.is_some(),
                "`{name}` is {status:?}, and the README says: {becomes}"
            );
            let is_claimed = |claims: &[&str]| claims.iter().any(|it| becomes.starts_with(it));
            assert!(
                expected.is_none_or(is_claimed),
                "`{name}` is {status:?}, and the README says: {becomes}"
            );
        }
    }
}

#[test]
fn each_directive_that_does_not_do_what_it_does_in_mosquitto_has_a_row() {
    let mut in_rows = BTreeSet::new();
    // Sections of which a row with dots names a few and means all.
    let mut whole = BTreeSet::new();
    let section_of: BTreeMap<_, _> = DIRECTIVES
        .iter()
        .flat_map(|section| section.directives.iter().map(|it| (it.name, section.title)))
        .collect();
    for (what, _) in rows() {
        let names: Vec<_> = named(what).collect();
        if what.contains(", ...") {
            let sections: BTreeSet<_> = names.iter().map(|name| section_of[name]).collect();
            assert_eq!(sections.len(), 1, "one row, one section: {what}");
            whole.extend(sections);
        }
        in_rows.extend(names);
    }
    let missing: Vec<_> = all()
        .filter(|it| claim(&it.status).is_some() && !in_rows.contains(it.name))
        .filter(|it| !whole.contains(section_of[it.name]))
        .map(|it| it.name)
        .collect();
    assert_eq!(missing, Vec::<&str>::new(), "not in the README's table");
    assert_eq!(whole, BTreeSet::from(["Plugins"]));
    for section in DIRECTIVES.iter().filter(|it| whole.contains(it.title)) {
        for directive in section.directives {
            let is_refused = matches!(directive.status, Status::Refused { .. });
            assert!(is_refused, "{} is not refused", directive.name);
        }
    }
}

#[test]
fn directives_of_our_own_that_the_readme_names_are_there() {
    let names: BTreeSet<_> = named(README)
        .filter(|word| word.starts_with("fastmq_"))
        .collect();
    assert!(names.len() > 2, "{names:?}");
    for name in names {
        assert!(
            matches!(directive(name).status, Status::Supported),
            "{name}"
        );
    }
}
