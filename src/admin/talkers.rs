//! The Clients with most messages in the last seconds, of all shards.

#![forbid(unsafe_code)]

use crate::metrics::{Flow, Talker, Talkers};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

/// How many are shown.
pub(super) const SHOWN_MAX: usize = 10;
/// Looks that are shown together, so that who talks every few seconds does not come and go.
const LOOKS: usize = 5;

/// What one shard said of the last looks.
#[derive(Clone, Debug, Default)]
pub(super) struct Recent(VecDeque<Talkers>);

impl Recent {
    /// What it said at this look, if it said anything.
    pub(super) fn push(&mut self, talkers: Option<Talkers>) {
        match talkers {
            Some(talkers) => self.0.push_back(talkers),
            // What a shard said that hangs does not stay for ever.
            None => drop(self.0.pop_front()),
        }
        if self.0.len() > LOOKS {
            self.0.pop_front();
        }
    }

    /// Its Clients, with what passed in a second.
    fn rates(&self) -> impl Iterator<Item = Talker> + use<> {
        let mut by_client: HashMap<Arc<str>, Talker> = HashMap::new();
        for talker in self.0.iter().flat_map(|look| &look.talkers) {
            let sum = by_client
                .entry(talker.client_identifier.clone())
                .or_insert_with(|| Talker {
                    received: Flow::default(),
                    sent: Flow::default(),
                    ..talker.clone()
                });
            sum.received.add(talker.received);
            sum.sent.add(talker.sent);
            // It may have come back from elsewhere.
            (sum.port, sum.peer) = (talker.port, talker.peer);
        }
        let windows = self.0.iter().map(|look| look.window);
        let seconds = windows.sum::<Duration>().as_secs_f64().max(1e-3);
        let per_second = move |flow: Flow| Flow {
            messages: flow.messages / seconds,
            bytes: flow.bytes / seconds,
        };
        by_client.into_values().map(move |talker| Talker {
            received: per_second(talker.received),
            sent: per_second(talker.sent),
            ..talker
        })
    }
}

/// Of all shards those with most messages, at most [`SHOWN_MAX`], with what passed in a second.
pub(super) fn loudest(shards: &[Recent]) -> Vec<Talker> {
    let mut talkers: Vec<_> = shards.iter().flat_map(Recent::rates).collect();
    talkers.sort_by(|one, other| {
        let by_messages = other.messages().total_cmp(&one.messages());
        by_messages.then_with(|| one.client_identifier.cmp(&other.client_identifier))
    });
    talkers.truncate(SHOWN_MAX);
    talkers
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::origin::PeerAddress;

    fn look(talkers: &[(&str, f64)]) -> Talkers {
        let talker = |&(name, messages): &(&str, f64)| Talker {
            client_identifier: name.into(),
            port: 1883,
            peer: PeerAddress::Local,
            received: Flow {
                messages,
                bytes: messages * 10.0,
            },
            sent: Flow::default(),
        };
        Talkers {
            window: Duration::from_secs(1),
            talkers: talkers.iter().map(talker).collect(),
        }
    }

    #[test]
    fn rates_are_those_of_the_last_looks_and_the_loudest_of_all_shards_come_first() {
        let (mut one, mut other) = (Recent::default(), Recent::default());
        one.push(Some(look(&[("long ago", 1e9)])));
        for _ in 0..LOOKS - 1 {
            one.push(Some(look(&[("steady", 100.0)])));
        }
        one.push(Some(look(&[("steady", 100.0), ("now and then", 5.0)])));
        other.push(Some(look(&[("other shard", 50.0)])));
        let names: Vec<_> = loudest(&[one, other])
            .into_iter()
            .map(|talker| (talker.client_identifier.to_string(), talker.received))
            .collect();
        let expected = [
            ("steady", 100.0),
            ("other shard", 50.0),
            ("now and then", 1.0),
        ];
        let expected = expected.map(|(name, messages)| {
            let bytes = messages * 10.0;
            (name.to_owned(), Flow { messages, bytes })
        });
        assert_eq!(names, expected);
    }

    #[test]
    fn no_more_are_shown_than_fit_and_none_of_a_shard_that_fell_silent() {
        let names: Vec<_> = (0..40).map(|index| format!("client {index}")).collect();
        let many: Vec<_> = names.iter().map(|name| (name.as_str(), 1.0)).collect();
        let mut shard = Recent::default();
        shard.push(Some(look(&many)));
        assert_eq!(loudest(&[shard.clone()]).len(), SHOWN_MAX);
        shard.push(None);
        assert_eq!(loudest(&[shard]), []);
    }
}
