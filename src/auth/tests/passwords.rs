//! Password files: hashes made by other programs, mistakes, and what two files have to do with each
//! other.

#![forbid(unsafe_code)]

use proptest::prelude::*;

use crate::auth::{Acl, FileError, HashError, PasswordFile, PasswordHash, Problem, Scheme};

/// Written by Debian's mosquitto_passwd 2.0.11.
const BY_MOSQUITTO: &str = "\
ann:$7$101$m0xu1GIRY4zvKXBI$3U9G2UjXyJ6E4/PrUZtmztXQR+AIn+ca0RyeJY72TyykK+9JsIs/kDhjFrF+Zev0VHa8SWnxmJC5HqeNj57fhQ==
bob:$7$101$YJhXPVynyGuxknSg$lQ3ze4UsFB4ZQ47pOq7VsU60JCBzzk1KgPhrSUYqTBXT73nh/msd4rxHz7gbFvNvF8Wc1hIlmNfzHzt8NcphfA==
old:$6$LrenZ7w1xp6wzfBa$yoJsQ8Y2GlQKtUwSEBQmool3AK2pRpMkr49CC2SIp8A+0qtlKiOnGEyngGjwuabNcn8K7kAv6TBnobSe0EWrYA==
slow:$7$5000$l+CbEKF1Z2wH8bTf$ztqH74CxrVp+6RqRDdzLpVBMckUKP+ZtC378rgvxUgsnhVUoPuCdO34tmQt7AdrAiu3FVUeRzvMttB3iGoe2xQ==
";
/// Passwords of the users above.
const PASSWORDS: [(&str, &str); 4] = [
    ("ann", "secret one"),
    ("bob", "pässwörd"),
    ("old", "x"),
    ("slow", "many rounds"),
];

/// Written by the reference implementation: with the salt, costs and size of Mosquitto 2.1, with
/// small ones, and with the first version of the algorithm.
const BY_ARGON2: [(&str, &str); 3] = [
    (
        "secret one",
        "$argon2id$v=19$m=47104,t=1,p=1$AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8gISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0+Pw$p3g8dp1QGsaFqEvO/vM6Fcw8v3H7xVTIugnvL54A3+ECMDdReduHLzYIJuorgRZFlPgP69VWvpHxgJXTbOP1DA",
    ),
    (
        "x",
        "$argon2id$v=19$m=64,t=2,p=2$AAECAwQFBgcICQoLDA0ODw$B7V6Pv1lWVTTnkFxsm6CGsMSQOowFz3c519W6DTqw0c",
    ),
    (
        "x",
        "$argon2id$v=16$m=64,t=2,p=2$AAECAwQFBgcICQoLDA0ODw$8VDO7hmkCT0xBl7hqFzgY0S+Qk2qgRFBOi7kC/FzVUs",
    ),
];

fn parse(text: &str) -> Result<PasswordFile, FileError> {
    PasswordFile::parse("passwords", text.as_bytes())
}

#[test]
fn files_of_mosquitto_passwd_are_understood() {
    let file = parse(BY_MOSQUITTO).unwrap();
    assert_eq!(file.users_count(), 4);
    assert!(file.warnings().is_empty());
    for (username, password) in PASSWORDS {
        assert!(file.verify(username, password.as_bytes()), "{username}");
        for wrong in ["", "X", "secret one ", "secret on"] {
            assert!(
                !file.verify(username, wrong.as_bytes()),
                "{username} {wrong}"
            );
        }
        assert!(!file.verify(&format!("{username} "), password.as_bytes()));
    }
    assert!(!file.verify("eve", b"x"));
    assert!(!file.verify("", b""));
    // Everything counts, beyond a null character too.
    assert!(!file.verify("old", b"x\0y"));
}

#[test]
fn hashes_of_argon2_are_understood() {
    for (password, text) in BY_ARGON2 {
        let hash: PasswordHash = text.parse().unwrap();
        assert!(hash.verify(password.as_bytes()), "{text}");
        assert!(!hash.verify(b"y"), "{text}");
        assert_eq!(hash.to_string(), text);
    }
}

#[test]
fn hashes_are_written_as_they_are_read() {
    for line in BY_MOSQUITTO.lines() {
        let (_, text) = line.split_once(':').unwrap();
        let hash: PasswordHash = text.parse().unwrap();
        assert_eq!(hash.to_string(), text);
    }
    let small = Scheme::Argon2id {
        version: 0x13,
        memory_kib: 64,
        passes: 1,
        lanes: 1,
    };
    for scheme in [Scheme::Sha512, Scheme::PBKDF2_DEFAULT, small] {
        let salt = vec![7; scheme.salt_size()];
        let hash = PasswordHash::new(scheme, b"secret", &salt).unwrap();
        let again: PasswordHash = hash.to_string().parse().unwrap();
        assert_eq!(hash, again);
        assert_eq!(again.scheme(), scheme);
        assert!(again.verify(b"secret"));
        assert!(!again.verify(b"Secret"));
    }
}

#[test]
fn what_is_no_hash_is_refused_and_not_quoted() {
    let salt = "AAECAwQFBgcICQoL";
    let hash =
        "3U9G2UjXyJ6E4/PrUZtmztXQR+AIn+ca0RyeJY72TyykK+9JsIs/kDhjFrF+Zev0VHa8SWnxmJC5HqeNj57fhQ==";
    let argon2 = "AAECAwQFBgcICQoLDA0ODw$B7V6Pv1lWVTTnkFxsm6CGsMSQOowFz3c519W6DTqw0c";
    let valid = format!("$7$101${salt}${hash}");
    assert!(valid.parse::<PasswordHash>().is_ok());
    use HashError::{Cost, Malformed, PlainText, UnknownScheme};
    for (text, error) in [
        ("hunter2".into(), PlainText),
        (String::new(), PlainText),
        (format!("$5${salt}${hash}"), UnknownScheme),
        (format!("$2y${salt}${hash}"), UnknownScheme),
        (
            format!("$argon2i$v=19$m=64,t=2,p=2${argon2}"),
            UnknownScheme,
        ),
        ("$".into(), UnknownScheme),
        ("$6$".into(), Malformed),
        (format!("$6${salt}"), Malformed),
        (format!("$6${salt}$"), Malformed),
        (format!("$6${salt}$AAAA"), Malformed),
        (format!("$6$AAAA${hash}"), Malformed),
        (format!("$6${salt}${hash}$"), Malformed),
        (format!("$6$!{salt}${hash}"), Malformed),
        (format!("$7${salt}${hash}"), Malformed),
        (format!("$7$+1${salt}${hash}"), Malformed),
        (format!("$7$-1${salt}${hash}"), Malformed),
        (format!("$7$$101${salt}${hash}"), Malformed),
        (format!("$7$99999999999${salt}${hash}"), Malformed),
        (format!("$7$0${salt}${hash}"), Cost),
        (format!("$7$2000001${salt}${hash}"), Cost),
        (format!("$argon2id$v=19$m=64,t=2${argon2}"), Malformed),
        (
            format!("$argon2id$v=19$m=64,t=2,p=2,x=1${argon2}"),
            Malformed,
        ),
        (format!("$argon2id$v=19$t=2,m=64,p=2${argon2}"), Malformed),
        (format!("$argon2id$v=20$m=64,t=2,p=2${argon2}"), Cost),
        (format!("$argon2id$v=19$m=262145,t=1,p=1${argon2}"), Cost),
        (format!("$argon2id$v=19$m=262144,t=5,p=1${argon2}"), Cost),
        (format!("$argon2id$v=19$m=1024,t=1,p=17${argon2}"), Cost),
        (format!("$argon2id$v=19$m=7,t=1,p=1${argon2}"), Cost),
        (format!("$argon2id$v=19$m=64,t=0,p=1${argon2}"), Cost),
    ] {
        assert_eq!(text.parse::<PasswordHash>(), Err(error), "{text}");
        let in_file = parse(&format!("ann:{valid}\nbob:{text}\n")).unwrap_err();
        let username = "bob".into();
        assert_eq!(in_file.line, 2);
        assert_eq!(in_file.problem, Problem::Password { username, error });
        assert!(!in_file.to_string().contains("hunter2"));
    }
}

#[test]
fn mistakes_are_named_with_file_and_line() {
    let line = BY_MOSQUITTO.lines().next().unwrap();
    let long = "u".repeat(65_536);
    for (text, number, problem) in [
        (
            format!("\n{line}\n{line}\n"),
            3,
            Problem::DuplicateUser("ann".into()),
        ),
        (format!("{line}\n :$6$\n"), 2, Problem::EmptyUsername),
        (format!("{long}:x\n"), 1, Problem::UsernameTooLong),
    ] {
        let error = parse(&text).unwrap_err();
        assert_eq!((error.line, &error.problem), (number, &problem));
        assert!(
            error
                .to_string()
                .starts_with(&format!("passwords:{number}: "))
        );
    }
    // [MQTT-1.5.4-1]
    let error = PasswordFile::parse("f", b"caf\xe9:x").unwrap_err();
    assert_eq!((error.line, error.problem), (1, Problem::NotUtf8));
    // [MQTT-1.5.4-2]
    let error = PasswordFile::parse("f", b"a\0:x").unwrap_err();
    assert_eq!((error.line, error.problem), (1, Problem::NullCharacter));
}

#[test]
fn comments_space_and_lines_without_a_colon_mean_nothing() {
    let (_, hash) = BY_MOSQUITTO
        .lines()
        .next()
        .unwrap()
        .split_once(':')
        .unwrap();
    let text = format!("# ann:x\r\n\r\n \t ann \t:  {hash} \r\nno colon\n");
    let file = parse(&text).unwrap();
    assert_eq!(file.users_count(), 1);
    assert!(file.verify("ann", b"secret one"));
    let lines: Vec<_> = file.warnings().iter().map(|warning| warning.line).collect();
    assert_eq!(lines, [4]);
    assert_eq!(parse("").unwrap().users_count(), 0);
    assert!(!parse("").unwrap().verify("ann", b"secret one"));
}

#[test]
fn what_an_editor_puts_before_the_first_line_is_no_part_of_a_name() {
    let file = parse(&format!("\u{feff}{BY_MOSQUITTO}")).unwrap();
    let first = BY_MOSQUITTO.split(':').next().unwrap();
    assert!(file.credential(first).is_some());
    assert!(parse("\u{feff}# a comment: of two parts\n").is_ok());
    let rules = Acl::parse("f", "\u{feff}topic read a\n".as_bytes());
    assert!(rules.is_ok());
}

#[test]
fn a_credential_lasts_as_long_as_the_password() {
    let before = parse(BY_MOSQUITTO).unwrap();
    let shuffled: Vec<_> = BY_MOSQUITTO.lines().rev().collect();
    let same = parse(&shuffled.join("\n")).unwrap();
    for (username, _) in PASSWORDS {
        assert!(before.credential(username).is_some());
        assert_eq!(before.credential(username), same.credential(username));
    }
    assert_ne!(before.credential("ann"), before.credential("bob"));
    let changed = BY_MOSQUITTO.replace("ann:$7$101", "ann:$7$102");
    let changed = parse(&changed).unwrap();
    assert_ne!(before.credential("ann"), changed.credential("ann"));
    assert_eq!(before.credential("bob"), changed.credential("bob"));
    assert_eq!(before.credential("eve"), None);
}

#[test]
fn an_unknown_user_costs_what_most_users_cost() {
    // Not by the clock: the decoy has the scheme of most users.
    let file = parse(BY_MOSQUITTO).unwrap();
    assert_eq!(
        file.decoy_scheme(),
        Scheme::Pbkdf2Sha512 { iterations: 101 }
    );
    let mut text = String::new();
    for (index, (_, hash)) in BY_ARGON2.iter().enumerate() {
        text.push_str(&format!("user{index}:{hash}\n"));
    }
    text.push_str(BY_MOSQUITTO.lines().last().unwrap());
    text.push_str(&format!("\nmore:{}\n", BY_ARGON2[1].1));
    let scheme = BY_ARGON2[1].1.parse::<PasswordHash>().unwrap().scheme();
    assert_eq!(parse(&text).unwrap().decoy_scheme(), scheme);
}

#[test]
fn debug_output_holds_no_hash() {
    let file = parse(BY_MOSQUITTO).unwrap();
    assert!(!format!("{file:?}").contains("3U9G2U"));
}

proptest! {
    #[test]
    fn any_bytes_are_a_file_or_an_error(text in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = PasswordFile::parse("passwords", &text);
    }

    #[test]
    fn any_hash_is_one_or_an_error(
        text in r"\$(6|7|argon2id)\$(v=[0-9]{1,3}\$)?[a-z0-9=,]{0,20}\$[A-Za-z0-9+/=]{0,90}\$[A-Za-z0-9+/=]{80,90}",
    ) {
        // It is not verified: that may take a second.
        if let Ok(hash) = text.parse::<PasswordHash>() {
            prop_assert_eq!(hash.to_string().parse(), Ok(hash));
        }
    }
}
