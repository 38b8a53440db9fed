//! Topic Aliases of one Network Connection, each way. They do not outlive it [MQTT-3.3.2-7].

#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::num::NonZeroU16;

use super::error::ProtocolError;

/// Aliases the Client set towards us.
#[derive(Debug, Default)]
pub struct InboundAliases {
    topic_names: Vec<Option<Box<str>>>,
}

impl InboundAliases {
    /// Makes `alias` stand for `topic_name` from now on [MQTT-3.3.2-12].
    ///
    /// # Errors
    /// [`ProtocolError::TopicAliasInvalid`] above `maximum` [MQTT-3.3.2-9].
    pub fn set(
        &mut self,
        alias: NonZeroU16,
        topic_name: &str,
        maximum: u16,
    ) -> Result<(), ProtocolError> {
        let index = index(alias, maximum)?;
        if self.topic_names.len() <= index {
            self.topic_names.resize(index + 1, None);
        }
        // A Client that repeats topic and alias in every PUBLISH costs no allocation.
        if self.topic_names[index].as_deref() != Some(topic_name) {
            self.topic_names[index] = Some(topic_name.into());
        }
        Ok(())
    }

    /// The Topic Name `alias` stands for.
    ///
    /// # Errors
    /// [`ProtocolError::TopicAliasInvalid`] above `maximum` [MQTT-3.3.2-9], [`ProtocolError::TopicAliasUnknown`] if it
    /// was never set on this connection.
    pub fn resolve(&self, alias: NonZeroU16, maximum: u16) -> Result<&str, ProtocolError> {
        self.topic_names
            .get(index(alias, maximum)?)
            .and_then(Option::as_deref)
            .ok_or(ProtocolError::TopicAliasUnknown { alias })
    }
}

fn index(alias: NonZeroU16, maximum: u16) -> Result<usize, ProtocolError> {
    if alias.get() > maximum {
        return Err(ProtocolError::TopicAliasInvalid { alias });
    }
    Ok(usize::from(alias.get() - 1))
}

/// What a PUBLISH to a Client that accepts aliases carries.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum OutboundAlias {
    /// Topic Name only.
    None,
    /// Topic Name and an alias that is new to the Client.
    New(NonZeroU16),
    /// An alias the Client knows; the Topic Name is left out.
    Known(NonZeroU16),
}

/// Aliases we set towards the Client: the first topics it is sent keep theirs, since the topics that
/// repeat are the ones it sees first and an alias that moves saves nothing.
#[derive(Debug)]
pub struct OutboundAliases {
    aliases: HashMap<Box<[u8]>, NonZeroU16, ahash::RandomState>,
    maximum: u16,
}

impl OutboundAliases {
    /// Room for `maximum` aliases, which the Client's CONNECT allows [MQTT-3.1.2-26].
    #[must_use]
    pub fn new(maximum: u16, seed: u64) -> Self {
        let hasher = ahash::RandomState::with_seeds(seed, 1, 2, 3);
        Self {
            aliases: HashMap::with_hasher(hasher),
            maximum,
        }
    }

    /// The alias for `topic_name`. A new one is taken as told to the Client.
    pub fn alias(&mut self, topic_name: &[u8]) -> OutboundAlias {
        if let Some(&alias) = self.aliases.get(topic_name) {
            return OutboundAlias::Known(alias);
        }
        let next = self.aliases.len() + 1;
        match u16::try_from(next)
            .ok()
            .filter(|&next| next <= self.maximum)
        {
            Some(next) => {
                let alias = NonZeroU16::new(next).expect("one more than a length is not zero");
                self.aliases.insert(topic_name.into(), alias);
                OutboundAlias::New(alias)
            }
            None => OutboundAlias::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn alias(value: u16) -> NonZeroU16 {
        NonZeroU16::new(value).unwrap()
    }

    /// [MQTT-3.3.2-9] [MQTT-3.3.2-12]
    #[test]
    fn an_inbound_alias_stands_for_the_last_topic_and_has_a_maximum() {
        let mut aliases = InboundAliases::default();
        assert!(aliases.resolve(alias(1), 2).is_err());
        aliases.set(alias(2), "a", 2).unwrap();
        aliases.set(alias(2), "b", 2).unwrap();
        assert_eq!(aliases.resolve(alias(2), 2), Ok("b"));
        assert!(aliases.resolve(alias(1), 2).is_err());
        assert!(aliases.set(alias(3), "c", 2).is_err());
    }

    /// [MQTT-3.1.2-26]
    #[test]
    fn outbound_aliases_never_exceed_what_the_client_allows() {
        let mut aliases = OutboundAliases::new(2, 0);
        assert_eq!(aliases.alias(b"a"), OutboundAlias::New(alias(1)));
        assert_eq!(aliases.alias(b"a"), OutboundAlias::Known(alias(1)));
        assert_eq!(aliases.alias(b"b"), OutboundAlias::New(alias(2)));
        assert_eq!(aliases.alias(b"c"), OutboundAlias::None);
    }
}
