//! `fastmq passwd` as an operator and a script use it, and beside the original: either reads what the
//! other wrote.

#![forbid(unsafe_code)]

mod support;

use std::ffi::OsStr;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use fastmq::auth::{PasswordFile, PasswordHash, Scheme};
use support::command;
use support::folder::Folder;

/// The names of all files of a folder.
fn names(folder: &Folder) -> Vec<String> {
    let entries = fs::read_dir(folder.path()).unwrap();
    let name = |entry: std::io::Result<fs::DirEntry>| entry.unwrap().file_name();
    let mut names: Vec<_> = entries.map(|it| name(it).into_string().unwrap()).collect();
    names.sort();
    names
}

/// `fastmq passwd` with these arguments and this on its standard input.
fn passwd<I: AsRef<OsStr>>(arguments: impl IntoIterator<Item = I>, input: &str) -> Output {
    run(command().arg("passwd").args(arguments), input)
}

fn run(command: &mut Command, input: &str) -> Output {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // One that refuses its arguments does not read.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    child.wait_with_output().unwrap()
}

fn batch(options: &[&str], file: &Path, user: &str, password: &str) -> Output {
    let options = options.iter().map(OsStr::new);
    let operands = [file.as_os_str(), user.as_ref(), password.as_ref()];
    passwd(options.chain(["-b".as_ref()]).chain(operands), "")
}

#[track_caller]
fn assert_done(output: &Output) {
    assert_eq!(output.status.code(), Some(0), "{output:?}");
}

fn verify(file: &Path, user: &str, password: &str) -> bool {
    let text = fs::read(file).unwrap();
    let file = PasswordFile::parse("passwords", &text).unwrap();
    file.verify(user, password.as_bytes())
}

#[test]
fn a_created_file_has_its_user_and_is_its_owners_alone() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    assert_done(&batch(&["-c"], &file, "alice", "secret"));
    assert!(verify(&file, "alice", "secret"));
    assert!(!verify(&file, "alice", "Secret"));
    assert!(!verify(&file, "bob", "secret"));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o600);
    assert_eq!(names(&folder), ["passwords"], "nothing else is left");
}

#[test]
fn users_are_added_changed_and_deleted() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    fs::write(&file, "# ours\n").unwrap();
    assert_done(&batch(&[], &file, "alice", "one"));
    assert_done(&batch(&[], &file, "bob", "two"));
    assert_done(&batch(&[], &file, "alice", "three"));
    assert!(verify(&file, "alice", "three") && verify(&file, "bob", "two"));
    assert!(!verify(&file, "alice", "one"));
    let file_name = file.as_os_str();
    let delete = |user: &str| passwd(["-D".as_ref(), file_name, user.as_ref()], "");
    assert_done(&delete("alice"));
    let text = fs::read_to_string(&file).unwrap();
    assert!(
        text.starts_with("# ours\nbob:$7$") && text.lines().count() == 2,
        "{text}"
    );
    let again = delete("alice");
    assert_eq!(again.status.code(), Some(1));
    assert_eq!(
        again.stderr,
        b"Warning: User alice not found in password file.\n"
    );
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
}

#[test]
fn the_first_user_of_a_file_that_an_editor_has_put_a_mark_before_is_changed_and_not_added_again() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    assert_done(&batch(&["-c"], &file, "alice", "one"));
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("\u{feff}{text}")).unwrap();
    assert_done(&batch(&[], &file, "alice", "two"));
    assert!(verify(&file, "alice", "two"));
    let text = fs::read_to_string(&file).unwrap();
    assert_eq!(text.matches("alice:").count(), 1, "{text}");
}

#[test]
fn a_password_is_read_twice_from_a_pipe() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    let ask = |input| passwd(["-c".as_ref(), file.as_os_str(), "alice".as_ref()], input);
    for (input, code, said) in [
        ("one\ntwo\n", 2, "Error: Passwords do not match.\n"),
        ("\n\n", 1, "Error: Empty password.\n"),
        ("one\n", 1, "Error: Empty password.\n"),
        ("", 1, "Error: Empty password.\n"),
    ] {
        let output = ask(input);
        assert_eq!(output.status.code(), Some(code), "{input:?}");
        assert_eq!(output.stderr, said.as_bytes(), "{input:?}");
        assert!(names(&folder).is_empty(), "nothing is made: {input:?}");
    }
    assert_done(&ask("a b \r\na b \n"));
    assert!(verify(&file, "alice", "a b "));
}

#[test]
fn each_scheme_is_written_as_asked_for() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    for (options, scheme) in [
        (&[][..], Scheme::PBKDF2_DEFAULT),
        (&["-H", "sha512"], Scheme::Sha512),
        (&["-H", "sha512-pbkdf2"], Scheme::PBKDF2_DEFAULT),
        (&["-I", "101"], Scheme::Pbkdf2Sha512 { iterations: 101 }),
        (&["-H", "argon2id"], Scheme::ARGON2ID_DEFAULT),
    ] {
        let options = [options, &["-c"]].concat();
        assert_done(&batch(&options, &file, "alice", "secret"));
        let text = fs::read_to_string(&file).unwrap();
        let hash: PasswordHash = text.trim().split_once(':').unwrap().1.parse().unwrap();
        assert_eq!(hash.scheme(), scheme, "{options:?}");
        assert!(hash.verify(b"secret"), "{options:?}");
    }
}

#[test]
fn two_hashes_of_one_password_have_nothing_in_common() {
    let of = |_| passwd(["-b", "-c", "-", "alice", "secret"], "").stdout;
    let [first, second] = [0, 1].map(of);
    assert!(first.starts_with(b"alice:$7$1000$") && second.len() == first.len());
    assert_ne!(first[14..30], second[14..30], "salts are random");
}

#[test]
fn plain_passwords_are_hashed_and_hashed_ones_left_alone() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    assert_done(&batch(&["-c"], &file, "alice", "one"));
    let before = fs::read_to_string(&file).unwrap();
    fs::write(&file, format!("{before}bob:two\n")).unwrap();
    assert_done(&passwd(["-U".as_ref(), file.as_os_str()], ""));
    let after = fs::read_to_string(&file).unwrap();
    assert!(
        after.starts_with(&before) && !after.contains("two"),
        "{after}"
    );
    assert!(verify(&file, "alice", "one") && verify(&file, "bob", "two"));
}

#[test]
fn a_changed_file_keeps_its_mode_and_its_link() {
    let folder = Folder::new();
    let (file, link) = (folder.file("passwords"), folder.file("link"));
    assert_done(&batch(&["-c"], &file, "alice", "one"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    symlink(&file, &link).unwrap();
    assert_done(&batch(&[], &link, "alice", "two"));
    assert_done(&batch(&["-c"], &link, "alice", "three"));
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    assert!(verify(&file, "alice", "three"));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let warned = batch(&[], &file, "alice", "four");
    assert_done(&warned);
    let said = String::from_utf8(warned.stderr).unwrap();
    assert!(said.starts_with("Warning: Everybody can read"), "{said}");
    assert_eq!(names(&folder), ["link", "passwords"]);
}

#[test]
fn a_broken_file_is_left_as_it_is() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    let text = "alice:one\nno colon\n";
    fs::write(&file, text).unwrap();
    let output = batch(&[], &file, "alice", "two");
    assert_eq!(output.status.code(), Some(1));
    assert_eq!(output.stderr, b"Error: Corrupt password file at line 2.\n");
    assert_eq!(fs::read_to_string(&file).unwrap(), text);
    assert_eq!(names(&folder), ["passwords"]);
}

/// What both programs refuse, with the same words and status. `FILE` is one that is there.
const REFUSED: &[(&[&str], &str)] = &[
    (
        &["-b", "FILE", "a:b", "p"],
        "Error: Username must not contain the ':' character.\n",
    ),
    (
        &["-b", "FILE", "a\tb", "p"],
        "Error: Username must not contain control characters.\n",
    ),
    (
        &["-c"],
        "Error: -c argument given but password file or username missing.\n",
    ),
    (
        &["-b", "-c", "FILE", "u"],
        "Error: -c argument given but password file, username, or password missing.\n",
    ),
    (
        &["-D", "FILE"],
        "Error: -D argument given but password file or username missing.\n",
    ),
    (
        &["-U"],
        "Error: -U argument given but password file missing.\n",
    ),
    (
        &["-c", "-D", "FILE", "u"],
        "Error: -c and -D cannot be used together.\n",
    ),
    (
        &["-c", "-U", "FILE"],
        "Error: -c and -U cannot be used together.\n",
    ),
    (
        &["-D", "-U", "FILE"],
        "Error: -D and -U cannot be used together.\n",
    ),
    (
        &["-b", "-D", "FILE", "u"],
        "Error: -b and -D cannot be used together.\n",
    ),
    (
        &["-H", "rot13", "-b", "FILE", "u", "p"],
        "Error: Unknown hash type 'rot13'\n",
    ),
    (
        &["-b", "/nonexistent/passwords", "u", "p"],
        "Error: Unable to open password file /nonexistent/passwords. No such file or directory.\n",
    ),
    (
        &["-D", "FILE", "nobody"],
        "Warning: User nobody not found in password file.\n",
    ),
];

/// What only fastmq refuses, or says in other words.
const REFUSED_HERE: &[(&[&str], &str)] = &[
    (
        &["-b", "FILE", "", "p"],
        "Error: Username must not be empty",
    ),
    (&["-b", "FILE", " a", "p"], "Error: Username must not begin"),
    (&["-b", "FILE", "#a", "p"], "Error: Username must not begin"),
    (&["-b", "FILE", "u"], "Error: -b argument given but"),
    (
        &["-b", "FILE", "u", "p", "q"],
        "Error: Unexpected argument q",
    ),
    (
        &["-I", "0", "-b", "FILE", "u", "p"],
        "Error: Number of iterations",
    ),
    (
        &["-I", "-5", "-b", "FILE", "u", "p"],
        "Error: Number of iterations",
    ),
    (
        &["-I", "2000001", "-b", "FILE", "u", "p"],
        "Error: Unable to hash",
    ),
    (
        &["-H", "sha512", "-I", "5", "-b", "FILE", "u", "p"],
        "Error: -I is for",
    ),
    (&["FILE"], "Error: Password file or username missing"),
    (
        &["--frobnicate", "FILE", "u"],
        "Error: Unknown option '--frobnicate'",
    ),
    (&["-x", "FILE", "u"], "Error: Unknown option '-x'"),
    (&["-b", "/dev/null", "u", "p"], "Error: Unable to open file"),
];

#[test]
fn what_makes_no_sense_is_refused_in_mosquittos_words_and_changes_nothing() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    fs::write(&file, "someone:x\n").unwrap();
    let original = mosquitto_passwd();
    for (arguments, said) in REFUSED.iter().chain(REFUSED_HERE) {
        let arguments = arguments.iter().map(|&it| match it {
            "FILE" => file.as_os_str(),
            it => OsStr::new(it),
        });
        let output = passwd(arguments.clone(), "");
        let stderr = String::from_utf8_lossy(&output.stderr);
        let case: Vec<_> = arguments.clone().collect();
        assert!(stderr.starts_with(said), "{case:?}: {stderr}");
        assert_eq!(output.status.code(), Some(1), "{case:?}");
        assert_eq!(
            fs::read_to_string(&file).unwrap(),
            "someone:x\n",
            "{case:?}"
        );
        assert_eq!(names(&folder), ["passwords"], "{case:?}");
        let is_shared = REFUSED.iter().any(|(_, shared)| shared == said);
        if let Some(original) = original.filter(|_| is_shared) {
            let theirs = run(Command::new(original).args(arguments), "");
            assert_eq!(String::from_utf8_lossy(&theirs.stderr), *said, "{case:?}");
            assert_eq!(theirs.status.code(), Some(1), "{case:?}");
        }
    }
}

#[test]
fn a_password_may_begin_with_a_hyphen() {
    let folder = Folder::new();
    let file = folder.file("passwords");
    assert_done(&batch(&["-c"], &file, "alice", "-D"));
    assert!(verify(&file, "alice", "-D"));
}

#[test]
fn mosquitto_changes_our_files_and_we_change_its() {
    let Some(original) = mosquitto_passwd() else {
        return;
    };
    let folder = Folder::new();
    let (ours, theirs) = (folder.file("ours"), folder.file("theirs"));
    let mosquitto = |arguments: &[&OsStr]| {
        assert_done(&run(Command::new(original).args(arguments), ""));
    };
    let alice = ["alice", "pass word $7$ ü"].map(OsStr::new);
    let bob = ["bob", "x"].map(OsStr::new);
    for hash in ["sha512", "sha512-pbkdf2"] {
        let set = |options: &[&str], file: &Path, user: [&OsStr; 2]| {
            let options = options.iter().map(OsStr::new);
            let operands = [file.as_os_str(), user[0], user[1]];
            let arguments = options.chain(["-H", hash, "-b"].map(OsStr::new));
            mosquitto(&arguments.chain(operands).collect::<Vec<_>>());
        };
        // Theirs first, then ours, and the other way round.
        set(&["-c"], &theirs, alice);
        assert!(verify(&theirs, "alice", "pass word $7$ ü"), "{hash}");
        assert_done(&batch(&["-H", hash], &theirs, "bob", "x"));
        assert_done(&batch(
            &["-c", "-H", hash],
            &ours,
            "alice",
            "pass word $7$ ü",
        ));
        set(&[], &ours, bob);
        for file in [&ours, &theirs] {
            assert!(verify(file, "alice", "pass word $7$ ü"), "{hash}");
            assert!(verify(file, "bob", "x"), "{hash}");
            assert!(!verify(file, "bob", "y"), "{hash}");
        }
        mosquitto(&["-D".as_ref(), ours.as_os_str(), "alice".as_ref()]);
        assert_done(&passwd(
            ["-D".as_ref(), theirs.as_os_str(), "alice".as_ref()],
            "",
        ));
        for file in [&ours, &theirs] {
            assert!(!verify(file, "alice", "pass word $7$ ü"), "{hash}");
            assert!(verify(file, "bob", "x"), "{hash}");
        }
    }
    let plain = "alice:one\nbob:two words\n";
    fs::write(&ours, plain).unwrap();
    fs::write(&theirs, plain).unwrap();
    assert_done(&passwd(["-U".as_ref(), ours.as_os_str()], ""));
    mosquitto(&["-U".as_ref(), theirs.as_os_str()]);
    for file in [&ours, &theirs] {
        assert!(verify(file, "alice", "one") && verify(file, "bob", "two words"));
    }
}

/// The original, if it is installed.
fn mosquitto_passwd() -> Option<&'static str> {
    const PROGRAM: &str = "mosquitto_passwd";
    let found = Command::new(PROGRAM)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status();
    if found.is_err() {
        eprintln!("{PROGRAM} is not installed: files are not compared with its");
        return None;
    }
    Some(PROGRAM)
}
