//! Subscription Identifiers of a PUBLISH: one for each Subscription that matched [MQTT-3.3.4-4].

#![forbid(unsafe_code)]

use std::fmt;
use std::num::NonZeroU32;

use super::properties::{Property, PropertyReader};

/// The Subscription Identifiers of one PUBLISH, borrowed: from the packet, or from a slice.
#[derive(Clone, Copy)]
pub struct SubscriptionIdentifiers<'a>(Source<'a>);

#[derive(Clone, Copy)]
enum Source<'a> {
    /// Checked properties of a packet, other ones among them.
    Section(&'a [u8]),
    List(&'a [NonZeroU32]),
}

impl<'a> SubscriptionIdentifiers<'a> {
    /// These, in this order.
    #[must_use]
    pub const fn new(identifiers: &'a [NonZeroU32]) -> Self {
        Self(Source::List(identifiers))
    }

    /// Those in a section that holds at least one.
    pub(super) const fn from_section(section: &'a [u8]) -> Self {
        Self(Source::Section(section))
    }

    /// Each of them, in order.
    #[must_use]
    pub fn iter(&self) -> SubscriptionIdentifiersIter<'a> {
        match self.0 {
            Source::Section(section) => SubscriptionIdentifiersIter {
                reader: PropertyReader::trusted(section),
                list: [].iter(),
            },
            Source::List(list) => SubscriptionIdentifiersIter {
                reader: PropertyReader::trusted(&[]),
                list: list.iter(),
            },
        }
    }

    /// Whether there are none.
    #[inline]
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        match self.0 {
            Source::Section(section) => section.is_empty(),
            Source::List(list) => list.is_empty(),
        }
    }
}

impl Default for SubscriptionIdentifiers<'_> {
    fn default() -> Self {
        Self::new(&[])
    }
}

impl fmt::Debug for SubscriptionIdentifiers<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

impl PartialEq for SubscriptionIdentifiers<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for SubscriptionIdentifiers<'_> {}

impl<'a> IntoIterator for SubscriptionIdentifiers<'a> {
    type Item = NonZeroU32;
    type IntoIter = SubscriptionIdentifiersIter<'a>;
    fn into_iter(self) -> SubscriptionIdentifiersIter<'a> {
        self.iter()
    }
}

/// Iterator of [`SubscriptionIdentifiers`].
pub struct SubscriptionIdentifiersIter<'a> {
    reader: PropertyReader<'a>,
    list: std::slice::Iter<'a, NonZeroU32>,
}

impl Iterator for SubscriptionIdentifiersIter<'_> {
    type Item = NonZeroU32;
    fn next(&mut self) -> Option<NonZeroU32> {
        if let Some(&identifier) = self.list.next() {
            return Some(identifier);
        }
        while let Ok(Some(property)) = self.reader.next() {
            if let Property::SubscriptionIdentifier(identifier) = property {
                return Some(identifier);
            }
        }
        None
    }
}
