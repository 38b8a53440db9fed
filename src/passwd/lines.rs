//! What is done to the text of a password file. Lines that it is not about stay as they are.

#![forbid(unsafe_code)]

use super::Failure;
use crate::auth::PasswordHash;

/// The line of a user.
pub(super) fn line(username: &str, hash: &PasswordHash) -> String {
    format!("{username}:{hash}\n")
}

/// Gives a user a password, and tells whether it had one.
pub(super) fn set(
    text: &[u8],
    username: &str,
    hash: &PasswordHash,
) -> Result<(Vec<u8>, bool), Failure> {
    let mut out = Vec::with_capacity(text.len() + 256);
    let mut was_there = false;
    for entry in entries(text) {
        let entry = entry?;
        if !entry.is_of(username) {
            out.extend_from_slice(entry.line);
        } else if !was_there {
            // One that was there twice has one password from now on.
            was_there = true;
            out.extend_from_slice(line(username, hash).as_bytes());
        }
    }
    if !was_there {
        if out.last().is_some_and(|&byte| byte != b'\n') {
            out.push(b'\n');
        }
        out.extend_from_slice(line(username, hash).as_bytes());
    }
    Ok((out, was_there))
}

/// Takes a user out.
pub(super) fn delete(text: &[u8], username: &str) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(text.len());
    for entry in entries(text) {
        let entry = entry?;
        if !entry.is_of(username) {
            out.extend_from_slice(entry.line);
        }
    }
    if out.len() == text.len() {
        return Err(Failure::NotFound(username.into()));
    }
    Ok(out)
}

/// Hashes the passwords that are not hashed.
pub(super) fn hash_all(
    text: &[u8],
    hash: impl Fn(&[u8]) -> Result<PasswordHash, Failure>,
) -> Result<Vec<u8>, Failure> {
    let mut out = Vec::with_capacity(text.len());
    for entry in entries(text) {
        let entry = entry?;
        match entry.user {
            Some((username, password)) if !is_hash(password) => {
                out.extend_from_slice(username);
                out.extend_from_slice(format!(":{}\n", hash(password)?).as_bytes());
            }
            _ => out.extend_from_slice(entry.line),
        }
    }
    Ok(out)
}

/// Whether it has been hashed. What only looks a little like it is a password.
fn is_hash(password: &[u8]) -> bool {
    std::str::from_utf8(password).is_ok_and(|text| text.parse::<PasswordHash>().is_ok())
}

/// One line.
struct Entry<'a> {
    /// As it is, with its end.
    line: &'a [u8],
    /// User Name and password, if it is not empty or a comment.
    user: Option<(&'a [u8], &'a [u8])>,
}

impl Entry<'_> {
    fn is_of(&self, username: &str) -> bool {
        self.user
            .is_some_and(|(name, _)| name == username.as_bytes())
    }
}

fn entries(text: &[u8]) -> impl Iterator<Item = Result<Entry<'_>, Failure>> {
    let lines = text.split_inclusive(|&byte| byte == b'\n');
    lines.zip(1..).map(|(line, number)| {
        if line.starts_with(b"#") || line.trim_ascii().is_empty() {
            return Ok(Entry { line, user: None });
        }
        let corrupt = || Failure::Corrupt(number);
        let colon = line.iter().position(|&byte| byte == b':');
        let (username, rest) = line.split_at(colon.ok_or_else(corrupt)?);
        let (username, password) = (username.trim_ascii(), rest[1..].trim_ascii());
        if username.is_empty() || password.is_empty() {
            return Err(corrupt());
        }
        Ok(Entry {
            line,
            user: Some((username, password)),
        })
    })
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::auth::Scheme;

    const TEXT: &[u8] = b"# people\nalice:one\n\nbob : two \r\nalice:three\nlast:four";

    fn hash(password: &[u8]) -> Result<PasswordHash, Failure> {
        Ok(PasswordHash::new(
            Scheme::Sha512,
            password,
            b"0123456789ab",
        )?)
    }

    fn text(bytes: &[u8]) -> &str {
        std::str::from_utf8(bytes).unwrap()
    }

    #[test]
    fn setting_a_password_changes_the_lines_of_that_user_only() {
        let new = hash(b"new").unwrap();
        let (out, was_there) = set(TEXT, "alice", &new).unwrap();
        assert!(was_there);
        let expected = format!("# people\nalice:{new}\n\nbob : two \r\nlast:four");
        assert_eq!(text(&out), expected);
        let (out, was_there) = set(TEXT, "bo", &new).unwrap();
        assert!(!was_there);
        assert_eq!(text(&out), format!("{}\nbo:{new}\n", text(TEXT)));
        assert_eq!(
            text(&set(b"", "bo", &new).unwrap().0),
            format!("bo:{new}\n")
        );
    }

    #[test]
    fn a_deleted_user_is_gone_from_every_line() {
        let out = delete(TEXT, "alice").unwrap();
        assert_eq!(text(&out), "# people\n\nbob : two \r\nlast:four");
        assert_eq!(text(&delete(b"last:four", "last").unwrap()), "");
    }

    #[test]
    fn who_is_not_there_cannot_be_deleted() {
        for name in ["people", "# people", "ali", "one"] {
            let failure = delete(TEXT, name).unwrap_err();
            assert!(matches!(failure, Failure::NotFound(_)), "{name}: {failure}");
        }
    }

    #[test]
    fn what_is_hashed_is_not_hashed_again() {
        let out = hash_all(TEXT, hash).unwrap();
        let expected = format!(
            "# people\nalice:{}\n\nbob:{}\nalice:{}\nlast:{}\n",
            hash(b"one").unwrap(),
            hash(b"two").unwrap(),
            hash(b"three").unwrap(),
            hash(b"four").unwrap()
        );
        assert_eq!(text(&out), expected);
        assert_eq!(hash_all(&out, hash).unwrap(), out);
    }

    #[test]
    fn a_password_with_colons_or_dollars_is_a_password() {
        let out = hash_all(b"a:b:c\nd:$6$e\n", hash).unwrap();
        let expected = format!(
            "a:{}\nd:{}\n",
            hash(b"b:c").unwrap(),
            hash(b"$6$e").unwrap()
        );
        assert_eq!(text(&out), expected);
    }

    #[test]
    fn a_line_that_means_nothing_stops_everything() {
        for bad in [
            &b"alice:one\nbob\n"[..],
            b"alice:one\n:two\n",
            b"a:b\nbob: \n",
        ] {
            assert!(matches!(delete(bad, "alice"), Err(Failure::Corrupt(2))));
            assert!(matches!(hash_all(bad, hash), Err(Failure::Corrupt(2))));
        }
    }
}
