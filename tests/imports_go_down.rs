//! The layout of `src/` is a promise: rooms import downward only, I/O and `unsafe` stay in theirs,
//! and every statement of the specification that code cites is cited by a test as well.
//!
//! The source is read as tokens, not compiled: comments, strings and `#[cfg(test)]` items are set
//! aside first.

#![forbid(unsafe_code)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// Each row of rooms may import the rows above it. A row is one layer; rooms in it that are listed
/// together in a `Layer` may import each other only when `together`.
struct Layer {
    rooms: &'static [&'static str],
    together: bool,
}

const LAYERS: [Layer; 11] = [
    Layer {
        rooms: &[
            "message",
            "time",
            "key",
            "limits",
            "origin",
            "chunks",
            "long_queue",
            "id_table",
            "shown",
        ],
        together: true,
    },
    Layer {
        rooms: &["codec"],
        together: false,
    },
    Layer {
        rooms: &["topic"],
        together: false,
    },
    // Not each other: only the shard knows both.
    Layer {
        rooms: &["session", "router"],
        together: false,
    },
    Layer {
        rooms: &["auth", "journal", "metrics", "ring"],
        together: false,
    },
    Layer {
        rooms: &["policy"],
        together: false,
    },
    Layer {
        rooms: &["config"],
        together: false,
    },
    Layer {
        rooms: &["shard"],
        together: false,
    },
    Layer {
        rooms: &["wal"],
        together: false,
    },
    Layer {
        rooms: &["sim"],
        together: false,
    },
    Layer {
        rooms: &[
            "net", "log", "admin", "bridge", "runtime", "server", "clients", "passwd", "import",
            "manual", "cli", "main",
        ],
        together: true,
    },
];

/// The rooms that may touch the outside world.
const INPUT_OUTPUT: [&str; 13] = [
    "net", "wal", "log", "admin", "bridge", "runtime", "server", "clients", "passwd", "import",
    "manual", "cli", "main",
];

/// The rooms in which `unsafe` may appear.
const UNSAFE: [&str; 2] = ["ring", "net"];

/// What only [`INPUT_OUTPUT`] may name.
const OUTSIDE_WORLD: [&str; 14] = [
    "glommio",
    "io_uring",
    "rustls",
    "socket2",
    "libc",
    "signal_hook",
    "tokio",
    "std::fs",
    "std::net",
    "std::os",
    "std::process",
    "std::thread",
    "std::time",
    "std::env",
];

/// Exceptions to that for everybody: values, not resources.
const ONLY_VALUES: [&str; 7] = [
    "std::time::Duration",
    "std::net::SocketAddr",
    "std::net::SocketAddrV4",
    "std::net::SocketAddrV6",
    "std::net::IpAddr",
    "std::net::Ipv4Addr",
    "std::net::Ipv6Addr",
];

/// Statements that code cites and no test does yet. Entries may only be removed.
const CITED_BY_NO_TEST_YET: &[&str] = &[];

#[test]
fn imports_go_down_only() {
    let mut wrong = Vec::new();
    for source in sources() {
        let allowed = rooms_below(&source.room);
        for path in &source.paths {
            let Some(room) = source.room_of(path) else {
                continue;
            };
            if room != source.room && !allowed.contains(room) {
                wrong.push(format!(
                    "{}: {} may not import {room}",
                    source.name(),
                    source.room
                ));
            }
        }
    }
    assert_none(wrong, "imports go up or sideways");
}

#[test]
fn only_the_rooms_for_it_touch_the_outside_world() {
    let mut wrong = Vec::new();
    for source in sources() {
        if INPUT_OUTPUT.contains(&source.room.as_str()) {
            continue;
        }
        for path in &source.paths {
            let path = path.join("::");
            let begins = |prefix: &&str| {
                path.strip_prefix(*prefix)
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
            };
            if OUTSIDE_WORLD.iter().any(&begins) && !ONLY_VALUES.iter().any(&begins) {
                wrong.push(format!("{} names {path}", source.name()));
            }
        }
    }
    assert_none(wrong, "sockets, files, threads or clocks in a pure room");
}

#[test]
fn unsafe_code_lives_behind_its_sign() {
    let mut wrong = Vec::new();
    for source in sources() {
        if UNSAFE.contains(&source.room.as_str()) {
            continue;
        }
        if source.tokens.iter().any(|token| token == "unsafe") {
            wrong.push(format!("{} uses unsafe", source.name()));
        }
        // Forbidden in the crate root it would be forbidden everywhere; a file of tests has it from
        // the module it belongs to.
        let forbids = source.code.contains("#![forbid(unsafe_code)]");
        let exempt = source.name() == "src/lib.rs" || source.is_test_file;
        if !forbids && !exempt {
            wrong.push(format!("{} lacks #![forbid(unsafe_code)]", source.name()));
        }
    }
    assert_none(wrong, "unsafe code");
}

#[test]
fn every_room_is_known() {
    let known: BTreeSet<_> = LAYERS
        .iter()
        .flat_map(|layer| layer.rooms)
        .copied()
        .collect();
    let rooms: BTreeSet<_> = sources().into_iter().map(|source| source.room).collect();
    let unknown = rooms
        .iter()
        .filter(|room| !known.contains(room.as_str()) && *room != "lib");
    let unknown = unknown
        .map(|room| format!("src/{room} is in no layer"))
        .collect();
    assert_none(unknown, "rooms without a place");
}

#[test]
fn every_statement_cited_by_code_is_cited_by_a_test() {
    let mut by_code: BTreeMap<String, String> = BTreeMap::new();
    let mut by_test = BTreeSet::new();
    for source in sources() {
        // The simulation is a test as a whole: what it cites, its oracle checks.
        if source.room == "sim" {
            by_test.extend(statements(&source.text_outside_tests));
        }
        for statement in statements(&source.text_outside_tests) {
            by_code.entry(statement).or_insert_with(|| source.name());
        }
        by_test.extend(statements(&source.text_in_tests));
    }
    for folder in ["tests", "loadgen/tests"] {
        for file in files_below(&root().join(folder)) {
            // The list above would count as a test of everything on it.
            if file.ends_with("tests/imports_go_down.rs") {
                continue;
            }
            by_test.extend(statements(&fs::read_to_string(file).unwrap()));
        }
    }
    let allowed: BTreeSet<_> = CITED_BY_NO_TEST_YET
        .iter()
        .map(|&text| text.to_owned())
        .collect();
    let missing: BTreeSet<_> = by_code
        .keys()
        .filter(|statement| !by_test.contains(*statement))
        .cloned()
        .collect();
    let mut wrong = Vec::new();
    for statement in missing.difference(&allowed) {
        wrong.push(format!(
            "{statement} is cited in {} and in no test",
            by_code[statement]
        ));
    }
    for statement in allowed.difference(&missing) {
        wrong.push(format!(
            "{statement} needs no allowance any more: remove it from the list"
        ));
    }
    if !wrong.is_empty() {
        let list: Vec<_> = missing
            .iter()
            .map(|statement| format!("    {statement:?},"))
            .collect();
        println!("the whole list of what no test cites:\n{}", list.join("\n"));
    }
    assert_none(wrong, "citations");
}

fn assert_none(mut wrong: Vec<String>, what: &str) {
    wrong.sort();
    wrong.dedup();
    assert!(
        wrong.is_empty(),
        "{what} ({}):\n{}",
        wrong.len(),
        wrong.join("\n")
    );
}

/// The rooms a room may import.
fn rooms_below(room: &str) -> BTreeSet<&'static str> {
    let mut below = BTreeSet::new();
    for layer in &LAYERS {
        if layer.rooms.contains(&room) {
            if layer.together {
                below.extend(layer.rooms);
            }
            return below;
        }
        below.extend(layer.rooms);
    }
    below
}

/// One file of `src/`.
struct Source {
    path: PathBuf,
    room: String,
    is_test_file: bool,
    /// Its place in the module tree, without the crate.
    module: Vec<String>,
    /// Without comments, strings and test items.
    code: String,
    tokens: Vec<String>,
    /// Every path named, `use` trees expanded.
    paths: Vec<Vec<String>>,
    /// With comments.
    text_outside_tests: String,
    text_in_tests: String,
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(folder) else {
        return Vec::new();
    };
    let mut files = Vec::new();
    for entry in entries {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_below(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files.sort();
    files
}

fn sources() -> Vec<Source> {
    let folder = root().join("src");
    let files = files_below(&folder);
    assert!(files.len() > 3, "src/ is where it was");
    let mut sources = Vec::new();
    for path in files {
        let inside = path.strip_prefix(&folder).unwrap();
        let mut module: Vec<_> = inside
            .with_extension("")
            .iter()
            .map(|part| part.to_str().unwrap().to_owned())
            .collect();
        let room = module[0].clone();
        if module.last().is_some_and(|name| name == "mod") {
            module.pop();
        }
        let text = fs::read_to_string(&path).unwrap();
        let is_test_file = module.iter().any(|name| name == "tests");
        sources.push(Source::new(path, room, module, text, is_test_file));
    }
    sources
}

impl Source {
    fn new(
        path: PathBuf,
        room: String,
        module: Vec<String>,
        text: String,
        is_test_file: bool,
    ) -> Self {
        let blank = blank_comments_and_strings(&text);
        let tests = if is_test_file {
            std::iter::once(0..text.len()).collect()
        } else {
            test_items(&blank)
        };
        let is_test = |at: usize| tests.iter().any(|range| range.contains(&at));
        let pick = |text: &str, wanted: bool| {
            let bytes = text.bytes().enumerate();
            let kept = bytes.filter(|(at, byte)| is_test(*at) == wanted || *byte == b'\n');
            String::from_utf8_lossy(&kept.map(|(_, byte)| byte).collect::<Vec<_>>()).into_owned()
        };
        let code = pick(&blank, false);
        let tokens = tokens(&code);
        let paths = paths(&tokens);
        Self {
            path,
            room,
            is_test_file,
            module,
            tokens,
            paths,
            text_outside_tests: pick(&text, false),
            text_in_tests: pick(&text, true),
            code,
        }
    }

    fn name(&self) -> String {
        self.path
            .strip_prefix(root())
            .unwrap()
            .display()
            .to_string()
    }

    /// The room a path leads into, if it leads into one.
    fn room_of<'a>(&'a self, path: &'a [String]) -> Option<&'a str> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        let whole: Vec<&str> = match path[0].as_str() {
            // The package's own name is how the binary reaches the library.
            "crate" | "fastmq" => path[1..].iter().map(String::as_str).collect(),
            "super" => {
                let kept = self.module.len().checked_sub(supers)?;
                let parts = self.module[..kept].iter().chain(&path[supers..]);
                parts.map(String::as_str).collect()
            }
            _ => return None,
        };
        let is_room = |name: &&str| LAYERS.iter().any(|layer| layer.rooms.contains(name));
        whole.first().copied().filter(is_room)
    }
}

/// The same text, with comments, strings and characters overwritten by spaces.
fn blank_comments_and_strings(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let mut at = 0;
    while at < bytes.len() {
        let rest = &bytes[at..];
        let size = if rest.starts_with(b"//") {
            rest.iter()
                .position(|&byte| byte == b'\n')
                .unwrap_or(rest.len())
        } else if rest.starts_with(b"/*") {
            block_comment_size(rest)
        } else if let Some(size) = raw_string_size(rest, at.checked_sub(1).map(|at| bytes[at])) {
            size
        } else if rest[0] == b'"' {
            quoted_size(rest, b'"')
        } else if rest[0] == b'\'' {
            character_size(rest)
        } else {
            at += 1;
            continue;
        };
        for byte in &mut out[at..at + size] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        at += size;
    }
    String::from_utf8(out).expect("whole characters were overwritten")
}

fn block_comment_size(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        if rest[at..].starts_with(b"/*") {
            depth += 1;
            at += 2;
        } else if rest[at..].starts_with(b"*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                break;
            }
        } else {
            at += 1;
        }
    }
    at
}

fn raw_string_size(rest: &[u8], before: Option<u8>) -> Option<usize> {
    if before.is_some_and(|byte| byte.is_ascii_alphanumeric() && byte != b'b' || byte == b'_') {
        return None;
    }
    let hashes = rest
        .strip_prefix(b"r")?
        .iter()
        .take_while(|&&byte| byte == b'#')
        .count();
    if rest.get(1 + hashes) != Some(&b'"') {
        return None;
    }
    let end = [&b"\""[..], &b"#".repeat(hashes)].concat();
    let body = &rest[2 + hashes..];
    let size = body.windows(end.len()).position(|window| window == end)?;
    Some(2 + hashes + size + end.len())
}

fn quoted_size(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while at < rest.len() && rest[at] != quote {
        at += if rest[at] == b'\\' { 2 } else { 1 };
    }
    (at + 1).min(rest.len())
}

/// A character literal, or 1 for the quote of a lifetime.
fn character_size(rest: &[u8]) -> usize {
    if rest.get(1) == Some(&b'\\') {
        return quoted_size(rest, b'\'');
    }
    // One character of up to four bytes, then the quote.
    let end = rest.iter().skip(2).take(4).position(|&byte| byte == b'\'');
    match end {
        Some(0) => 3,
        Some(size) if rest[1] >= 0x80 => size + 3,
        _ => 1,
    }
}

/// Where `#[cfg(test)]` items are, in text without comments and strings.
fn test_items(blank: &str) -> Vec<std::ops::Range<usize>> {
    let mut items = Vec::new();
    let mut from = 0;
    for attribute in ["#[cfg(test)]", "#[cfg(all(test"] {
        while let Some(found) = blank[from..].find(attribute) {
            let start = from + found;
            let mut depth = 0;
            let mut end = blank.len();
            for (offset, byte) in blank[start..].bytes().enumerate() {
                match byte {
                    b'{' => depth += 1,
                    b'}' => depth -= 1,
                    _ => {}
                }
                if depth == 0 && (byte == b'}' || byte == b';') {
                    end = start + offset + 1;
                    break;
                }
            }
            items.push(start..end);
            from = end;
        }
        from = 0;
    }
    items
}

/// Identifiers, `::` and single punctuation.
fn tokens(code: &str) -> Vec<String> {
    let mut tokens = Vec::new();
    let mut rest = code;
    while let Some(first) = rest.chars().next() {
        let is_word = |character: char| character.is_alphanumeric() || character == '_';
        let size = if is_word(first) {
            rest.find(|character| !is_word(character))
                .unwrap_or(rest.len())
        } else if rest.starts_with("::") {
            2
        } else {
            first.len_utf8()
        };
        let (token, after) = rest.split_at(size);
        if !first.is_whitespace() {
            tokens.push(token.to_owned());
        }
        rest = after;
    }
    tokens
}

/// Every path in the code: `a::b::c`, and each branch of every `use` tree.
fn paths(tokens: &[String]) -> Vec<Vec<String>> {
    let mut paths = Vec::new();
    let mut at = 0;
    while at < tokens.len() {
        if tokens[at] == "use" {
            at = use_tree(tokens, at + 1, &[], &mut paths);
        } else if is_name(&tokens[at]) {
            let mut path = vec![tokens[at].clone()];
            while tokens.get(at + 1).is_some_and(|token| token == "::")
                && tokens.get(at + 2).is_some_and(|token| is_name(token))
            {
                path.push(tokens[at + 2].clone());
                at += 2;
            }
            if path.len() > 1 {
                paths.push(path);
            }
            at += 1;
        } else {
            at += 1;
        }
    }
    paths
}

fn is_name(token: &str) -> bool {
    token.starts_with(|character: char| character.is_alphabetic() || character == '_')
}

/// Reads one branch from `at` and returns where it ends.
fn use_tree(
    tokens: &[String],
    mut at: usize,
    prefix: &[String],
    paths: &mut Vec<Vec<String>>,
) -> usize {
    let mut path = prefix.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "::" => at += 1,
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = use_tree(tokens, at, &path, paths);
                    if tokens.get(at).is_some_and(|token| token == ",") {
                        at += 1;
                    }
                }
                return at + 1;
            }
            // `use a as b`: the new name leads nowhere else.
            "as" => at += 2,
            // `use a::{self}` is `use a`.
            "self" => at += 1,
            "*" => at += 1,
            name if is_name(name) => {
                path.push(token.clone());
                at += 1;
            }
            _ => break,
        }
    }
    if !path.is_empty() {
        paths.push(path);
    }
    at
}

/// The normative statements named in a text: `MQTT-3.1.2-4`, with `v3.1.1 ` when numbered there.
fn statements(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in text.match_indices("MQTT-") {
        let is_number = |byte: &u8| byte.is_ascii_digit() || *byte == b'.' || *byte == b'-';
        let tail = &text.as_bytes()[at + 5..];
        let size = tail.iter().take_while(|byte| is_number(byte)).count();
        let number = text[at + 5..at + 5 + size].trim_end_matches(['.', '-']);
        let is_statement = number.split_once('-').is_some_and(|(section, item)| {
            section.contains('.') && item.bytes().all(|byte| byte.is_ascii_digit())
        });
        if is_statement {
            let old = text[..at].ends_with("v3.1.1 ");
            found.insert(format!("{}MQTT-{number}", if old { "v3.1.1 " } else { "" }));
        }
    }
    found
}

#[test]
fn reader_understands_rust() {
    let text = r##"
        //! crate::comment [MQTT-1.5.4-1]
        #![forbid(unsafe_code)]
        use std::{fs, net::{IpAddr, TcpStream as Tcp}, time::Duration};
        use crate::{router::{self, Router}, session::*};
        const TEXT: &str = "crate::string \" unsafe"; const RAW: &str = r#"unsafe " "#;
        fn f<'a>(x: &'a str, c: char) -> bool { c == '"' || c == '\'' || super::wal::x(x) }
        #[cfg(test)]
        mod tests { use crate::net::X; /* [v3.1.1 MQTT-2.3.1-4] */ fn g() { } }
        fn last() -> std::time::Instant { glommio::executor() }
    "##;
    let module = vec!["shard".to_owned()];
    let source = Source::new(
        PathBuf::new(),
        "shard".into(),
        module,
        text.to_owned(),
        false,
    );
    let paths: BTreeSet<_> = source.paths.iter().map(|path| path.join("::")).collect();
    let expected = [
        "crate::router",
        "crate::router::Router",
        "crate::session",
        "glommio::executor",
        "std::fs",
        "std::net::IpAddr",
        "std::net::TcpStream",
        "std::time::Duration",
        "std::time::Instant",
        "super::wal::x",
    ];
    assert_eq!(
        paths,
        expected.iter().map(|&path| path.to_owned()).collect()
    );
    assert!(!source.tokens.contains(&"unsafe".to_owned()));
    let rooms: BTreeSet<_> = source
        .paths
        .iter()
        .filter_map(|path| source.room_of(path))
        .collect();
    assert_eq!(rooms, ["router", "session", "wal"].into());
    assert_eq!(
        statements(&source.text_outside_tests),
        ["MQTT-1.5.4-1".to_owned()].into()
    );
    assert_eq!(
        statements(&source.text_in_tests),
        ["v3.1.1 MQTT-2.3.1-4".to_owned()].into()
    );
}
