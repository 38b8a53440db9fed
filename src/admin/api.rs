//! `/api`: what the dashboard shows, as JSON.

#![forbid(unsafe_code)]

use super::watch::Watch;
use crate::metrics::{Counters, Flow, Gauges, Snapshot, TURN_BUCKETS, Talker, Turns};
use crate::runtime::Place;
use serde_json::{Map, Value, json};

/// The look that the asker has seen already: [`history`] begins behind it.
#[derive(Clone, Copy, Debug, Default, serde::Deserialize)]
pub(super) struct Since {
    #[serde(default)]
    since: u64,
}

/// Everything as it was at the last look.
pub(super) fn status(watch: &Watch) -> Value {
    let hanging = watch.hanging();
    let (is_ready, is_healthy) = (
        watch.is_ready(),
        hanging.as_ref().is_some_and(Vec::is_empty),
    );
    let hanging = hanging.unwrap_or_default();
    watch.read(|seen| {
        let picture = &seen.picture;
        let shards: Vec<_> = picture
            .shards
            .iter()
            .enumerate()
            .map(|(index, shard)| {
                let mut value = numbers(&shard.snapshot);
                value["index"] = json!(index);
                value["answers"] = json!(!hanging.contains(&index));
                value["busy"] = json!(shard.busy_share);
                value
            })
            .collect();
        let written: Map<_, _> = picture
            .log
            .written
            .iter()
            .map(|(kind, count)| (kind.name().to_owned(), json!(count)))
            .collect();
        let memory = picture
            .memory
            .map(|(current, maximum)| json!({ "current": current, "maximum": maximum }));
        json!({
            "version": env!("CARGO_PKG_VERSION"),
            "look": seen.looks,
            "uptime_s": picture.uptime.as_secs_f64(),
            "is_ready": is_ready,
            "is_healthy": is_healthy,
            "memory": memory,
            "place": place(picture.whereabouts.place),
            "gatherings": picture.whereabouts.gatherings,
            "roamings": picture.whereabouts.roamings,
            "total": numbers(&picture.total),
            "shards": shards,
            "talkers": picture.talkers.iter().map(talker).collect::<Vec<_>>(),
            "turn_bounds_us": turn_bounds_us(),
            "log": {
                "written": written,
                "dropped": picture.log.dropped + picture.log_events_dropped,
                "lost": picture.log.lost,
            },
        })
    })
}

/// The seconds behind the look `since`, as far as they are remembered.
pub(super) fn history(watch: &Watch, since: Since) -> Value {
    watch.read(|seen| {
        let new = seen.looks.saturating_sub(since.since);
        let known = seen.history.len();
        // An asker from before a restart has seen more looks than there were.
        let new = if since.since > seen.looks {
            known as u64
        } else {
            new
        };
        let skipped = known.saturating_sub(usize::try_from(new).unwrap_or(usize::MAX));
        let seconds: Vec<_> = seen.history.iter().skip(skipped).collect();
        json!({ "look": seen.looks, "seconds": seconds })
    })
}

fn place(place: Place) -> &'static str {
    match place {
        Place::Home => "home",
        Place::Gathered => "gathered",
        Place::Roaming => "roaming",
    }
}

fn talker(talker: &Talker) -> Value {
    let flow = |flow: Flow| json!({ "messages": flow.messages, "bytes": flow.bytes });
    json!({
        "client": &*talker.client_identifier,
        "port": talker.port,
        "peer": talker.peer.to_string(),
        "in": flow(talker.received),
        "out": flow(talker.sent),
    })
}

fn numbers(snapshot: &Snapshot) -> Value {
    json!({
        "counters": named(Counters::FIELDS, &snapshot.counters.values()),
        "gauges": named(Gauges::FIELDS, &snapshot.gauges.values()),
        "turns": { "buckets": snapshot.turns.buckets, "busy_ns": snapshot.turns.busy_ns },
        "own": { "buckets": snapshot.own.buckets, "busy_ns": snapshot.own.busy_ns },
    })
}

fn named(fields: &[(&str, &str)], values: &[u64]) -> Map<String, Value> {
    let names = fields.iter().map(|(name, _)| (*name).to_owned());
    names.zip(values.iter().map(|value| json!(value))).collect()
}

/// Upper bounds of the buckets; the last has none.
fn turn_bounds_us() -> Vec<Option<u64>> {
    (0..TURN_BUCKETS)
        .map(|index| {
            let bound = Turns::upper_bound(index)?;
            u64::try_from(bound.as_micros()).ok()
        })
        .collect()
}
