//! The levels of a topic, one after the other.

#![forbid(unsafe_code)]

/// What separates topic levels.
const SEPARATOR: u8 = b'/';

/// Iterator over the levels of a Topic Name or Topic Filter.
///
/// Empty levels are levels: `/` has two, `a//b` has three. There is always at least one.
#[derive(Clone, Debug)]
pub struct Levels<'a> {
    /// `None` once the last level was handed out.
    rest: Option<&'a [u8]>,
}

impl<'a> Levels<'a> {
    /// Levels of `text`.
    #[must_use]
    pub const fn new(text: &'a [u8]) -> Self {
        Self { rest: Some(text) }
    }
}

impl<'a> Iterator for Levels<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest?;
        match rest.iter().position(|&byte| byte == SEPARATOR) {
            Some(end) => {
                self.rest = Some(&rest[end + 1..]);
                Some(&rest[..end])
            }
            None => self.rest.take(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Levels;

    #[test]
    fn empty_levels_are_levels() {
        let levels = |text: &'static str| Levels::new(text.as_bytes()).collect::<Vec<_>>();
        assert_eq!(levels("a"), [b"a"]);
        assert_eq!(levels("/"), [b"", b""]);
        assert_eq!(levels("a//b"), [&b"a"[..], b"", b"b"]);
        assert_eq!(levels("/finance"), [&b""[..], b"finance"]);
        assert_eq!(levels("sport/"), [&b"sport"[..], b""]);
    }
}
