//! `/metrics`: everything that is counted, in the text format of OpenMetrics.
//!
//! The format is the `prometheus-client` crate's, which the Prometheus project keeps. Nothing is held
//! there: each scrape encodes the last look of the watch.

#![forbid(unsafe_code)]

use super::watch::Picture;
use crate::bridge::BridgePicture;
use crate::metrics::{Counters, Gauges, Snapshot, Turns};
use crate::runtime::{Place, Whereabouts};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet, text};
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Registry, Unit};
use std::fmt;

/// What `/metrics` says its text is.
pub(super) const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// The text for `picture`.
pub(super) fn encode(picture: Picture) -> Result<String, fmt::Error> {
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Exposition(picture)));
    let mut out = String::new();
    text::encode(&mut out, &registry)?;
    Ok(out)
}

#[derive(Debug)]
struct Exposition(Picture);

impl Collector for Exposition {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        self.encode_broker(&mut encoder)?;
        self.encode_counters(&mut encoder)?;
        self.encode_gauges(&mut encoder)?;
        self.encode_turns(
            &mut encoder,
            "fastmq_turn_duration",
            "Time from the end of one wait of a shard to the beginning of the next",
            |snapshot| &snapshot.turns,
        )?;
        self.encode_turns(
            &mut encoder,
            "fastmq_turn_cpu",
            "CPU time of a shard's thread from the end of one wait to the end of the next, in the system as well; \
             short ones that end within 0.1 ms of each other count as one",
            |snapshot| &snapshot.own,
        )?;
        self.encode_bridges(&mut encoder)?;
        self.encode_log(&mut encoder)
    }
}

impl Exposition {
    fn encode_broker(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let picture = &self.0;
        encoder
            .encode_descriptor("fastmq_build", "The running broker", None, MetricType::Info)?
            .encode_info(&[("version", env!("CARGO_PKG_VERSION"))].as_slice())?;
        encoder
            .encode_descriptor(
                "fastmq_uptime",
                "Time since the start",
                Some(&Unit::Seconds),
                MetricType::Gauge,
            )?
            .encode_gauge(&picture.uptime.as_secs_f64())?;
        if let Some((current, _)) = picture.memory {
            encoder
                .encode_descriptor(
                    "fastmq_memory_resident",
                    "Memory of the process that is in use",
                    Some(&Unit::Bytes),
                    MetricType::Gauge,
                )?
                .encode_gauge(&(current as f64))?;
        }
        let hanging = picture.hanging();
        let mut up = encoder.encode_descriptor(
            "fastmq_shard_up",
            "Whether the shard answers",
            None,
            MetricType::Gauge,
        )?;
        for index in 0..picture.shards.len() {
            let is_up = u32::from(!hanging.contains(&index));
            up.encode_family(&shard(index).as_slice())?
                .encode_gauge(&is_up)?;
        }
        let Whereabouts {
            place,
            gatherings,
            roamings,
        } = picture.whereabouts;
        let places = [
            (
                (
                    "fastmq_shards_gathered",
                    "Whether all shards run on one CPU, since they have little to do",
                ),
                place == Place::Gathered,
                (
                    "fastmq_gatherings",
                    "How often they have been gathered there",
                ),
                gatherings,
            ),
            (
                (
                    "fastmq_shards_roaming",
                    "Whether shards run wherever there is room, since something else keeps a CPU busy",
                ),
                place == Place::Roaming,
                ("fastmq_roamings", "How often they were let roam"),
                roamings,
            ),
        ];
        for ((gauge, says), is_there, (counter, counts), count) in places {
            encoder
                .encode_descriptor(gauge, says, None, MetricType::Gauge)?
                .encode_gauge(&u32::from(is_there))?;
            encoder
                .encode_descriptor(counter, counts, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }

    fn encode_counters(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (column, (name, help)) in Counters::FIELDS.iter().enumerate() {
            let name = format!("fastmq_{name}");
            let mut family =
                encoder.encode_descriptor(&name, help_text(help), None, MetricType::Counter)?;
            for (index, each) in self.0.shards.iter().enumerate() {
                let value = each.snapshot.counters.values()[column];
                family
                    .encode_family(&shard(index).as_slice())?
                    .encode_counter::<NoLabelSet, u64, u64>(&value, None)?;
            }
        }
        Ok(())
    }

    fn encode_gauges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        for (column, (name, help)) in Gauges::FIELDS.iter().enumerate() {
            let name = format!("fastmq_{name}");
            let mut family =
                encoder.encode_descriptor(&name, help_text(help), None, MetricType::Gauge)?;
            for (index, each) in self.0.shards.iter().enumerate() {
                let value = each.snapshot.gauges.values()[column];
                family
                    .encode_family(&shard(index).as_slice())?
                    .encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn encode_turns(
        &self,
        encoder: &mut DescriptorEncoder<'_>,
        name: &str,
        help: &str,
        of: impl Fn(&Snapshot) -> &Turns,
    ) -> Result<(), fmt::Error> {
        let mut family =
            encoder.encode_descriptor(name, help, Some(&Unit::Seconds), MetricType::Histogram)?;
        for (index, each) in self.0.shards.iter().enumerate() {
            let turns = of(&each.snapshot);
            let buckets: Vec<(f64, u64)> = turns
                .buckets
                .iter()
                .enumerate()
                .map(|(index, &count)| {
                    let bound = Turns::upper_bound(index);
                    (
                        bound.map_or(f64::INFINITY, |bound| bound.as_secs_f64()),
                        count,
                    )
                })
                .collect();
            family
                .encode_family(&shard(index).as_slice())?
                .encode_histogram::<NoLabelSet>(
                    turns.busy_ns as f64 / 1e9,
                    turns.count(),
                    &buckets,
                    None,
                )?;
        }
        Ok(())
    }

    /// Nothing where there are none.
    fn encode_bridges(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let bridges = &self.0.bridges;
        if bridges.is_empty() {
            return Ok(());
        }
        let label = |bridge: &BridgePicture| [("bridge", bridge.name.clone())];
        let mut connected = encoder.encode_descriptor(
            "fastmq_bridge_connected",
            "Whether the bridge is connected to both brokers",
            None,
            MetricType::Gauge,
        )?;
        for bridge in bridges {
            connected
                .encode_family(&label(bridge).as_slice())?
                .encode_gauge(&u32::from(bridge.is_connected))?;
        }
        type Count = fn(&BridgePicture) -> u64;
        let counts: [(&str, &str, Count); 3] = [
            (
                "fastmq_bridge_messages_sent",
                "Messages that went to the remote broker, those that were sent again included",
                |bridge| bridge.sent,
            ),
            (
                "fastmq_bridge_messages_received",
                "Messages that came from the remote broker, those that were sent again included",
                |bridge| bridge.received,
            ),
            (
                "fastmq_bridge_messages_dropped",
                "Messages that were not passed on: too large for the other broker, or of no topic of the bridge",
                |bridge| bridge.dropped,
            ),
        ];
        for (name, help, count) in counts {
            let mut counter = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for bridge in bridges {
                counter
                    .encode_family(&label(bridge).as_slice())?
                    .encode_counter::<NoLabelSet, u64, u64>(&count(bridge), None)?;
            }
        }
        Ok(())
    }

    fn encode_log(&self, encoder: &mut DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let log = &self.0.log;
        let mut written = encoder.encode_descriptor(
            "fastmq_log_lines_written",
            "Lines written to the log",
            None,
            MetricType::Counter,
        )?;
        for (kind, count) in &log.written {
            written
                .encode_family(&[("type", kind.name())].as_slice())?
                .encode_counter::<NoLabelSet, u64, u64>(count, None)?;
        }
        let mut dropped = encoder.encode_descriptor(
            "fastmq_log_lines_dropped",
            "Log lines that did not reach a destination: more came than could be written, or it \
             could not be written at all",
            None,
            MetricType::Counter,
        )?;
        for (reason, count) in [
            ("queue_full", log.dropped + self.0.log_events_dropped),
            ("destination", log.lost),
        ] {
            dropped
                .encode_family(&[("reason", reason)].as_slice())?
                .encode_counter::<NoLabelSet, u64, u64>(&count, None)?;
        }
        Ok(())
    }
}

fn shard(index: usize) -> [(&'static str, String); 1] {
    [("shard", index.to_string())]
}

/// As prose of the source has it, less the full stop, which the encoder adds.
fn help_text(doc: &str) -> &str {
    doc.trim().trim_end_matches('.')
}
