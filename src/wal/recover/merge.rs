//! What several logs say, put together.

#![forbid(unsafe_code)]

use crate::journal::{
    Digest, NUMBER_MAX, Replayed, ReplayedRetained, ReplayedSession, ReplayedWill, Suspect,
};
use crate::key::ShardId;
use crate::message::{Message, MessageRef};
use crate::router::Interest;
use crate::shard::RestoredInterest;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, HashMap};

/// What all logs say together.
pub(in crate::wal) fn merge(logs: impl IntoIterator<Item = Replayed>) -> Replayed {
    let mut merged = Replayed::default();
    let mut retained: HashMap<Vec<u8>, ReplayedRetained> = HashMap::new();
    for log in logs {
        merged.session_max = merged.session_max.max(log.session_max);
        merged.sessions.extend(log.sessions);
        merged.suspects.extend(log.suspects);
        merged.handed_on.extend(log.handed_on);
        for it in log.retained {
            let topic = it.message.topic_name().to_vec();
            let known = retained.entry(topic).or_insert_with(|| it.clone());
            if known.version < it.version {
                *known = it;
            }
        }
    }
    // A log may have lost that it began a Session of which another one knows. Used again, its name would be taken for
    // that one.
    let named = merged.suspects.iter().flat_map(|it| {
        let publisher = [it.origin.session];
        publisher.into_iter().chain(it.sessions.iter().copied())
    });
    let named = named.chain(merged.handed_on.iter().map(|it| it.0));
    merged.session_max = merged.session_max.max(named.max().unwrap_or_default());
    // In an order that does not depend on hashing: shards restore the same tables.
    merged.retained = retained.into_values().collect();
    merged.retained.sort_by_key(|it| it.version);
    // What the publisher's own log knows of is no suspect: a repetition is recognised there.
    let sessions = &mut merged.sessions;
    merged.suspects.retain(|it| {
        let publisher = sessions.get(&it.origin.session);
        publisher.is_some_and(|publisher| {
            !publisher.is_ending && !publisher.has_taken(it.origin.exchange)
        })
    });
    let mut handed_on: BTreeMap<u64, BTreeSet<u64>> = BTreeMap::new();
    for (session, sequence) in std::mem::take(&mut merged.handed_on) {
        handed_on.entry(session).or_default().insert(sequence);
    }
    for (session, sequences) in handed_on {
        if let Some(session) = merged.sessions.get_mut(&session) {
            session.hand_on(&sequences);
        }
    }
    renumber(&mut merged);
    supersede_wills(&mut merged);
    merged
}

/// Wills that are published again must not take the place of what was retained after them.
fn supersede_wills(merged: &mut Replayed) {
    let mut wills: HashMap<Vec<u8>, Vec<(u64, &mut ReplayedWill)>> = HashMap::new();
    let sessions = merged.sessions.values_mut().filter(|it| it.is_ending);
    for session in sessions {
        let clock = session.next_sequence;
        if let Some(will) = &mut session.will
            && will.message.as_ref().retain
        {
            let topic = will.message.topic_name().to_vec();
            wills.entry(topic).or_default().push((clock, will));
        }
    }
    if wills.is_empty() {
        return;
    }
    for retained in &merged.retained {
        let later = wills.get_mut(retained.message.topic_name());
        for (clock, will) in later.into_iter().flatten() {
            if *clock <= retained.version.clock {
                let message = will.message.as_ref();
                will.message = Message::new(MessageRef {
                    retain: false,
                    ..message
                });
            }
        }
    }
}

/// Gives messages that may come again numbers behind all exchanges that there were. Whatever tried to
/// bring one is one then: a crash may have come between repetitions, too. What a Client gave up for
/// another message with its Packet Identifier is told from that by its digest.
fn renumber(merged: &mut Replayed) {
    let mut by_message: BTreeMap<(u64, u16, Option<Digest>), Suspect> = BTreeMap::new();
    for suspect in std::mem::take(&mut merged.suspects) {
        let origin = suspect.origin;
        if let Some(publisher) = merged.sessions.get_mut(&origin.session) {
            publisher.exchanges = publisher.exchanges.max(origin.exchange);
            publisher.renumbered.push(origin.exchange);
        }
        let identifier = origin.packet_identifier.get();
        match by_message.entry((origin.session, identifier, suspect.digest)) {
            Entry::Vacant(entry) => {
                entry.insert(suspect);
            }
            Entry::Occupied(mut entry) => {
                let known = entry.get_mut();
                known.sessions.extend(suspect.sessions);
                known.groups.extend(suspect.groups);
            }
        }
    }
    for ((publisher, ..), mut suspect) in by_message {
        let Some(publisher) = merged.sessions.get_mut(&publisher) else {
            continue;
        };
        publisher.exchanges = (publisher.exchanges + 1).min(NUMBER_MAX);
        suspect.origin.exchange = publisher.exchanges;
        suspect.sessions.sort_unstable();
        suspect.sessions.dedup();
        suspect.groups.sort_unstable();
        suspect.groups.dedup();
        merged.suspects.push(suspect);
    }
}

/// What each shard will want of each filter.
pub(super) fn interests(sessions: &[Vec<ReplayedSession>]) -> Vec<RestoredInterest> {
    let mut interests = Vec::new();
    for (shard, sessions) in sessions.iter().enumerate() {
        let mut members: BTreeMap<&str, u32> = BTreeMap::new();
        for filter in sessions.iter().flat_map(|it| it.subscriptions.keys()) {
            *members.entry(filter).or_default() += 1;
        }
        for (filter, members) in members {
            let interest = if filter.starts_with("$share/") {
                Interest {
                    members_online: 0,
                    members,
                }
            } else {
                Interest::PLAIN
            };
            interests.push(RestoredInterest {
                shard: ShardId(shard as u16),
                filter: filter.into(),
                interest,
            });
        }
    }
    interests
}
