//! User Properties: name and value pairs whose order is kept [MQTT-3.3.2-18].

#![forbid(unsafe_code)]

use std::fmt;

use super::properties::{Property, PropertyReader};

/// The User Properties of one packet, borrowed: from the packet, or from a slice of pairs.
#[derive(Clone, Copy)]
pub struct UserProperties<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked properties of a packet, other ones among them.
    Section(&'a [u8]),
    Pairs(&'a [(&'a str, &'a str)]),
}

impl<'a> UserProperties<'a> {
    /// These pairs, in this order.
    #[must_use]
    pub const fn new(pairs: &'a [(&'a str, &'a str)]) -> Self {
        Self(Source::Pairs(pairs))
    }

    pub(super) const fn from_section(section: &'a [u8]) -> Self {
        Self(Source::Section(section))
    }

    /// Name and value of each, in order.
    #[must_use]
    pub fn iter(&self) -> UserPropertiesIter<'a> {
        match self.0 {
            Source::Section(section) => UserPropertiesIter {
                reader: PropertyReader::trusted(section),
                pairs: [].iter(),
            },
            Source::Pairs(pairs) => UserPropertiesIter {
                reader: PropertyReader::trusted(&[]),
                pairs: pairs.iter(),
            },
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>) {
        for (name, value) in self.iter() {
            Property::User(name, value).put(out);
        }
    }
}

impl Default for UserProperties<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl fmt::Debug for UserProperties<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for UserProperties<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for UserProperties<'_> {}

impl<'a> IntoIterator for UserProperties<'a> {
    type Item = (&'a str, &'a str);
    type IntoIter = UserPropertiesIter<'a>;
    fn into_iter(self) -> UserPropertiesIter<'a> {
        self.iter()
    }
}

/// Iterator of [`UserProperties`].
pub struct UserPropertiesIter<'a> {
    reader: PropertyReader<'a>,
    pairs: std::slice::Iter<'a, (&'a str, &'a str)>,
}

impl<'a> Iterator for UserPropertiesIter<'a> {
    type Item = (&'a str, &'a str);
    fn next(&mut self) -> Option<Self::Item> {
        if let Some(&pair) = self.pairs.next() {
            return Some(pair);
        }
        while let Ok(Some(property)) = self.reader.next() {
            if let Property::User(name, value) = property {
                return Some((name, value));
            }
        }
        None
    }
}
