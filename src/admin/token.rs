//! The secret that opens the admin port to other machines.

#![forbid(unsafe_code)]

use subtle::ConstantTimeEq;

/// Shorter ones can be guessed.
const SIZE_MIN: usize = 16;
/// Longer ones do not fit into a request.
const SIZE_MAX: usize = 1024;

/// A text is no token.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TokenError {
    /// Too easy to guess, or too long to send.
    #[error("its first line has {0} characters; a token has {SIZE_MIN} to {SIZE_MAX}")]
    Size(usize),
    /// It cannot stand in a header.
    #[error("a token consists of letters, digits and punctuation of ASCII, without spaces")]
    Character,
}

/// What nobody but the operator may see, if there is a token.
pub type Token = Option<Box<str>>;

/// The token in the first line of a file.
///
/// # Errors
/// [`TokenError`] when that line would not protect anything, or could not be sent.
pub fn parse_token(text: &str) -> Result<Box<str>, TokenError> {
    let line = text.lines().next().unwrap_or_default().trim();
    if !(SIZE_MIN..=SIZE_MAX).contains(&line.len()) {
        return Err(TokenError::Size(line.len()));
    }
    if !line.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Character);
    }
    Ok(line.into())
}

/// Whether `authorization`, the value of that header, shows `token`. Takes as long for a near miss
/// as for a far one.
pub(super) fn is_shown(token: &str, authorization: &[u8]) -> bool {
    // RFC 9110, 11.1: the name of the scheme has no case.
    let Some((scheme, shown)) = authorization.split_at_checked("Bearer ".len()) else {
        return false;
    };
    let shown = shown.trim_ascii();
    scheme.eq_ignore_ascii_case(b"Bearer ") && bool::from(shown.ct_eq(token.as_bytes()))
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn only_the_whole_token_opens() {
        let token = parse_token("correct-horse-battery\nignored\n").unwrap();
        assert!(is_shown(&token, b"Bearer correct-horse-battery"));
        assert!(is_shown(&token, b"bearer  correct-horse-battery "));
        for wrong in [
            &b""[..],
            b"Bearer",
            b"Bearer ",
            b"Bearer correct-horse-batter",
            b"Bearer correct-horse-battery2",
            b"Basic correct-horse-battery",
            b"correct-horse-battery",
        ] {
            assert!(!is_shown(&token, wrong), "{wrong:?}");
        }
    }

    #[test]
    fn what_protects_nothing_is_no_token() {
        for (text, error) in [
            ("", TokenError::Size(0)),
            ("\ncorrect-horse-battery", TokenError::Size(0)),
            ("secret", TokenError::Size(6)),
            ("correct horse battery", TokenError::Character),
            ("correct-horse-bätterie", TokenError::Character),
        ] {
            assert_eq!(parse_token(text).unwrap_err(), error, "{text}");
        }
    }
}
