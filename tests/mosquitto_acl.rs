//! ACL files beside the original: Mosquitto and this broker are given the same files, made up at random
//! from a seed, and the same Clients, and whoever may read or write something may do so in both.
//!
//! `FASTMQ_ACL_SEED` and `FASTMQ_ACL_FILES` choose what is made up and how much of it. Where Debian's
//! Mosquitto is not installed this says so and does nothing.
//!
//! Intended differences, of which [`intended`] knows:
//! - A name with `/` in it gets nothing from a pattern, as one with `+` or `#` does in both. Mosquitto 2.0
//!   puts it into the pattern as it is, and a Client that calls itself `a/b` reaches into places that the
//!   pattern keeps for one called `a`.

#![forbid(unsafe_code)]

mod support;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use support::Broker;
use support::folder::Folder;
use support::mosquitto::{self, Mosquitto};
use support::raw::{Raw, packet};

/// Sees everything and may write everything, by rules of its own at the end of each file.
const OBSERVER: &str = "observer";
const PASSWORD: &str = "secret";
/// User Names; the first one is nobody's. None has a colon, which a password file cannot hold.
const USERS: [Option<&str>; 12] = [
    None,
    Some("ann"),
    Some("ben"),
    Some("Ann"),
    Some("o'neil \"x\""),
    Some("two words"),
    Some("ü"),
    Some("a/b"),
    Some("a+b"),
    Some("h#"),
    Some("%c"),
    Some("$SYS"),
];
const CLIENTS: [&str; 12] = [
    "ann", "c1", "dev 7", "ü", "a/b", "x+", "#", "%u", "$SYS", "b", "C1", "a.b-c_d",
];
const LEVELS: [&str; 14] = [
    "a", "b", "c1", "ann", "ben", "", "ü", "%c", "%u", "x.y", "dev 7", "$SYS", "$x", "$x",
];
/// Filters that together cover all topics.
const EVERYTHING: [&str; 3] = ["#", "$SYS/#", "$x/#"];
/// What has to be seen now and then, for the comparison to mean something.
const KINDS: [&str; 6] = [
    "is let in",
    "subscribes",
    "is sent retained",
    "is sent",
    "publishes",
    "has the will",
];
const CLIENTS_EACH: usize = 8;
const TOPICS_EACH: usize = 24;
const WILLS_EACH: usize = 8;

struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((mixed ^ (mixed >> 31)) % bound as u64) as usize
    }
    fn one_in(&mut self, bound: usize) -> bool {
        self.below(bound) == 0
    }
    fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len())]
    }
}

/// A Client that comes to both brokers.
#[derive(Clone, Debug)]
struct Visitor {
    client_identifier: &'static str,
    username: Option<&'static str>,
    protocol_level: u8,
}

/// What is made up for one start of both brokers.
struct Case {
    acl: String,
    visitors: Vec<Visitor>,
    topics: Vec<String>,
    filters: Vec<String>,
    /// For each Client, topics of its Wills.
    wills: Vec<Vec<String>>,
}

impl Case {
    fn new(random: &mut Random) -> Self {
        let mut rules = Vec::new();
        let mut acl = String::new();
        let mut section = |acl: &mut String, random: &mut Random, count: usize| {
            for _ in 0..random.below(count) {
                let rule = rule(random);
                acl.push_str(&rule.0);
                rules.push(rule.1);
            }
        };
        section(&mut acl, random, 5);
        for _ in 0..4 + random.below(4) {
            // Sections may come twice.
            if let Some(username) = random.of(&USERS) {
                let _ = writeln!(acl, "user {username}");
                section(&mut acl, random, 6);
            }
        }
        let _ = write!(acl, "user {OBSERVER}\ntopic #\ntopic $SYS/#\ntopic $x/#\n");
        let first = random.below(CLIENTS.len());
        let visitors: Vec<_> = (first..first + CLIENTS_EACH)
            .map(|index| Visitor {
                // Each identifier once: a second would take over from the first.
                client_identifier: CLIENTS[index % CLIENTS.len()],
                username: *random.of(&USERS),
                protocol_level: *random.of(&[4, 5]),
            })
            .collect();
        let topics: BTreeSet<_> = (0..TOPICS_EACH * 4)
            .map(|_| topic(random, &rules, &visitors))
            .filter(|topic| !topic.is_empty() && !topic.contains(['+', '#']))
            .take(TOPICS_EACH)
            // While no topic is below `$x` Mosquitto 2.0 does not send what is retained for it to `$x/#`.
            .chain(["$x/b".to_owned()])
            .collect();
        let topics: Vec<_> = topics.into_iter().collect();
        let filters = (0..6).map(|_| filter(random)).collect();
        let wills = visitors
            .iter()
            .map(|_| {
                (0..WILLS_EACH)
                    .map(|_| random.of(&topics).clone())
                    .collect()
            })
            .collect();
        Self {
            acl,
            visitors,
            topics,
            filters,
            wills,
        }
    }
}

/// A line of an ACL file, and the topic in it.
fn rule(random: &mut Random) -> (String, String) {
    let is_pattern = random.one_in(2);
    let mut topic = filter(random);
    if is_pattern && !topic.contains("%c") && !topic.contains("%u") {
        let name = *random.of(&["%c", "%u", "dev-%c", "%c%u", "%u.x"]);
        topic = match topic.strip_suffix('#') {
            Some(begin) => format!("{begin}{name}/#"),
            None => format!("{topic}/{name}"),
        };
    }
    let access = *random.of(&["read ", "write ", "readwrite ", "deny ", "read ", ""]);
    // Without an access before it, the first word of a topic would be one.
    let access = if topic.contains(' ') && access.is_empty() {
        "readwrite "
    } else {
        access
    };
    let kind = if is_pattern { "pattern" } else { "topic" };
    let before = *random.of(&["", "", "", "\n", "# of no use\n"]);
    (format!("{before}{kind} {access}{topic}\n"), topic)
}

/// A Topic Filter, with wildcards now and then.
fn filter(random: &mut Random) -> String {
    if random.one_in(8) {
        return "#".into();
    }
    let mut levels: Vec<_> = (0..1 + random.below(4))
        .map(|_| {
            if random.one_in(5) {
                "+"
            } else {
                *random.of(&LEVELS)
            }
        })
        .collect();
    if random.one_in(3) {
        levels.push("#");
    }
    let filter = levels.join("/");
    // An empty line of rules says nothing, and space at its ends is not kept.
    if filter.trim() != filter || filter.is_empty() {
        "a".into()
    } else {
        filter
    }
}

/// A Topic Name that a rule may be about, or any.
fn topic(random: &mut Random, rules: &[String], visitors: &[Visitor]) -> String {
    if rules.is_empty() || random.one_in(4) {
        let levels = 1 + random.below(3);
        let levels: Vec<_> = (0..levels).map(|_| *random.of(&LEVELS)).collect();
        return levels.join("/");
    }
    let visitor = random.of(visitors);
    let mut levels = Vec::new();
    for level in random.of(rules).split('/') {
        match level {
            "+" => levels.push((*random.of(&LEVELS)).to_owned()),
            "#" => {
                for _ in 0..random.below(3) {
                    levels.push((*random.of(&LEVELS)).to_owned());
                }
            }
            level if random.one_in(6) => levels.push(level.to_owned()),
            level => levels.push(
                level
                    .replace("%c", visitor.client_identifier)
                    .replace("%u", visitor.username.unwrap_or("nobody")),
            ),
        }
    }
    levels.join("/")
}

/// A connection to one of the brokers that keeps messages until they are asked for.
struct Client {
    raw: Raw,
    is_v5: bool,
    topics: BTreeSet<String>,
    next_identifier: u16,
}

impl Client {
    /// `None` if CONNECT is refused.
    fn connect(port: u16, visitor: &Visitor, will: Option<&str>) -> Option<Self> {
        let is_v5 = visitor.protocol_level == 5;
        let mut flags = 0x02;
        let mut body = string("MQTT");
        let mut payload = string(visitor.client_identifier);
        if let Some(topic) = will {
            flags |= 0x04;
            if is_v5 {
                payload.push(0);
            }
            payload.extend(string(topic));
            payload.extend(string("will"));
        }
        if let Some(username) = visitor.username {
            flags |= 0xc0;
            payload.extend(string(username));
            payload.extend(string(PASSWORD));
        }
        body.extend([visitor.protocol_level, flags, 0, 0]);
        if is_v5 {
            body.push(0);
        }
        body.extend(payload);
        let mut raw = Raw::open(port);
        raw.send(&packet(0x10, &body));
        let (first_byte, body) = raw.receive()?;
        assert_eq!(first_byte, 0x20);
        (body[1] == 0).then_some(Self {
            raw,
            is_v5,
            topics: BTreeSet::new(),
            next_identifier: 0,
        })
    }

    fn observer(port: u16) -> Self {
        let observer = Visitor {
            client_identifier: OBSERVER,
            username: Some(OBSERVER),
            protocol_level: 5,
        };
        Self::connect(port, &observer, None).expect("the observer may come in")
    }

    /// The body of the next packet of a type; messages before it are kept.
    fn wait(&mut self, first_byte: u8) -> Vec<u8> {
        loop {
            let (found, body) = self.raw.receive().expect("the connection stays");
            if found & 0xf0 == 0x30 {
                let size = usize::from(u16::from_be_bytes([body[0], body[1]]));
                let topic = std::str::from_utf8(&body[2..2 + size]).unwrap();
                self.topics.insert(topic.to_owned());
            } else {
                assert_eq!(found, first_byte, "{body:02x?}");
                return body;
            }
        }
    }

    fn identifier(&mut self) -> [u8; 2] {
        self.next_identifier += 1;
        self.next_identifier.to_be_bytes()
    }

    /// Whether it is granted.
    fn subscribe(&mut self, filter: &str) -> bool {
        let mut body = self.identifier().to_vec();
        if self.is_v5 {
            body.push(0);
        }
        body.extend(string(filter));
        body.push(0);
        self.raw.send(&packet(0x82, &body));
        let suback = self.wait(0x90);
        *suback.last().unwrap() < 0x80
    }

    /// Publishes with QoS 1. Whether the acknowledgement says that it may, which that of MQTT 3.1.1
    /// always does.
    fn publish(&mut self, topic: &str, retain: bool) -> bool {
        let mut body = string(topic);
        body.extend(self.identifier());
        if self.is_v5 {
            body.push(0);
        }
        body.push(b'x');
        self.raw.send(&packet(0x32 | u8::from(retain), &body));
        let puback = self.wait(0x40);
        puback.get(2).is_none_or(|&code| code < 0x80)
    }

    /// What has come, once everything has that was on its way. Both brokers have one thread here.
    fn received(&mut self) -> BTreeSet<String> {
        self.raw.send(&[0xc0, 0]);
        self.wait(0xd0);
        std::mem::take(&mut self.topics)
    }

    /// Breaks the protocol, so that the broker closes the connection and publishes its Will.
    fn fall(mut self) {
        self.raw.send(&[0x00, 0]);
        while self.raw.receive().is_some() {}
    }
}

fn string(text: &str) -> Vec<u8> {
    [&(text.len() as u16).to_be_bytes(), text.as_bytes()].concat()
}

/// All that there is to see of a Client, in words, so that two sets of them show what differs.
fn look(port: u16, case: &Case) -> Vec<BTreeSet<String>> {
    let mut observer = Client::observer(port);
    for topic in &case.topics {
        // Topics of $SYS are nobody's to write.
        assert_eq!(observer.publish(topic, true), !topic.starts_with("$SYS"));
    }
    let mut seen = vec![BTreeSet::new(); case.visitors.len()];
    let mut visitors = Vec::new();
    for (visitor, seen) in case.visitors.iter().zip(&mut seen) {
        let client = Client::connect(port, visitor, None);
        seen.insert(format!("is let in: {}", client.is_some()));
        visitors.push(client);
    }
    // Retained messages, filter by filter.
    for (client, seen) in visitors.iter_mut().zip(&mut seen) {
        let Some(client) = client else { continue };
        // Mosquitto sends v3.1.1 Clients retained messages for these, which is no matter of rules.
        for filter in ["$share/g/#", "$share/g/a/+"] {
            seen.insert(format!("subscribes {filter}: {}", client.subscribe(filter)));
            unsubscribe(client, filter);
            client.received();
        }
        for filter in &case.filters {
            seen.insert(format!("subscribes {filter}: {}", client.subscribe(filter)));
            for topic in client.received() {
                seen.insert(format!("by {filter} is sent retained {topic}"));
            }
            unsubscribe(client, filter);
        }
        for filter in EVERYTHING {
            seen.insert(format!("subscribes {filter}: {}", client.subscribe(filter)));
        }
        for topic in client.received() {
            seen.insert(format!("is sent retained {topic}"));
        }
    }
    // What is published now.
    for topic in &case.topics {
        observer.publish(topic, false);
    }
    for (client, seen) in visitors.iter_mut().zip(&mut seen) {
        let Some(client) = client else { continue };
        for topic in client.received() {
            seen.insert(format!("is sent {topic}"));
        }
        for filter in EVERYTHING {
            unsubscribe(client, filter);
        }
    }
    // What they publish themselves, and what they leave as a Will.
    for filter in EVERYTHING {
        assert!(observer.subscribe(filter));
    }
    observer.received();
    for (client, seen) in visitors.iter_mut().zip(&mut seen) {
        let Some(client) = client else { continue };
        for topic in &case.topics {
            if client.publish(topic, false) {
                seen.insert(format!("is told that it published {topic}"));
            }
        }
        for topic in observer.received() {
            seen.insert(format!("publishes {topic}"));
        }
    }
    drop(visitors);
    for ((visitor, wills), seen) in case.visitors.iter().zip(&case.wills).zip(&mut seen) {
        for topic in wills {
            if let Some(client) = Client::connect(port, visitor, Some(topic)) {
                client.fall();
                for topic in observer.received() {
                    seen.insert(format!("has the will {topic}"));
                }
            }
        }
    }
    seen
}

fn unsubscribe(client: &mut Client, filter: &str) {
    let mut body = client.identifier().to_vec();
    if client.is_v5 {
        body.push(0);
    }
    body.extend(string(filter));
    client.raw.send(&packet(0xa2, &body));
    client.wait(0xb0);
}

/// Why the two brokers may disagree about what a Client does, if they may.
fn intended(visitor: &Visitor, only_in_mosquitto: bool) -> Option<&'static str> {
    let has_separator = visitor.client_identifier.contains('/')
        || visitor.username.is_some_and(|name| name.contains('/'));
    (has_separator && only_in_mosquitto).then_some("names with / are put into no pattern")
}

/// Debian's, with the program that makes its password files.
fn mosquitto() -> Option<PathBuf> {
    let has_passwd = Command::new("mosquitto_passwd")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .is_ok();
    mosquitto::program().filter(|_| has_passwd)
}

fn number(name: &str, default: u64) -> u64 {
    let text = std::env::var(name).ok();
    text.map_or(default, |text| text.parse().expect("a number"))
}

#[test]
fn made_up_rules_let_clients_do_here_what_they_let_them_do_in_mosquitto() {
    let Some(program) = mosquitto() else {
        return;
    };
    let folder = Folder::new();
    let (passwords, rules) = (folder.write("passwords", ""), folder.file("acl"));
    for name in USERS.iter().flatten().chain([&OBSERVER]) {
        let made = Command::new("mosquitto_passwd")
            .arg("-b")
            .args([&passwords, Path::new(name), Path::new(PASSWORD)])
            .output()
            .unwrap();
        assert!(made.status.success(), "{name}: {made:?}");
    }
    let lines = format!(
        "allow_anonymous true\npassword_file {}\nacl_file {}\nsys_interval 0\nuser root\n",
        passwords.display(),
        rules.display()
    );
    let here = folder.write("fastmq.conf", format!("listener 0 127.0.0.1\n{lines}"));

    let seed = number("FASTMQ_ACL_SEED", 1);
    let (mut compared, mut excused, mut wrong) = (0, 0, String::new());
    let mut seen = KINDS.map(|kind| (kind, 0));
    for index in 0..number("FASTMQ_ACL_FILES", 16) {
        let case = Case::new(&mut Random(seed.wrapping_mul(1_000_003) + index));
        fs::write(&rules, &case.acl).unwrap();
        let mosquitto = Mosquitto::start(&program, folder.path(), &lines);
        let here = here.to_str().unwrap();
        let broker = Broker::start_configured(&["-c", here, "--cores", "1"]);
        let (theirs, ours) = (look(mosquitto.port, &case), look(broker.port(), &case));
        for ((visitor, theirs), ours) in case.visitors.iter().zip(theirs).zip(ours) {
            for what in theirs.intersection(&ours) {
                compared += 1;
                for (kind, count) in &mut seen {
                    *count += usize::from(what.starts_with(*kind));
                }
            }
            let only_in_mosquitto = theirs.difference(&ours).map(|what| (true, what));
            let only_here = ours.difference(&theirs).map(|what| (false, what));
            for (is_theirs, what) in only_in_mosquitto.chain(only_here) {
                if intended(visitor, is_theirs).is_some() {
                    excused += 1;
                    continue;
                }
                let who = if is_theirs { "Mosquitto" } else { "fastmq" };
                let _ = writeln!(wrong, "file {index}: only in {who}: {visitor:?} {what}");
            }
        }
        if !wrong.is_empty() {
            panic!(
                "FASTMQ_ACL_SEED={seed} FASTMQ_ACL_FILES={}\n{wrong}\n{}",
                index + 1,
                case.acl
            );
        }
    }
    println!("{compared} are the same, {excused} differ as intended, among them {seen:?}");
    // How much rules allow is chance, and few allow a Will. Nothing at all would mean that it was not tried.
    assert!(seen.iter().all(|&(_, count)| count > 0), "{seen:?}");
}
