//! What a result file holds, as far as the page shows it.
//!
//! Figures that cannot exist in every run (a quotient of nothing, a broker on another machine) are
//! optional here even where a complete run always has them: a partial run deserves its page too.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::Deserializer;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::ReportError;
use crate::result::CONNECT;

/// The only version of the format there is.
pub const SCHEMA: u64 = 1;

/// What seconds, microseconds and messages a second can be: a scale has an end.
const FIGURES: std::ops::RangeInclusive<f64> = 0.0..=1e15;

/// One result, where it came from, and its histograms.
#[derive(Debug)]
pub struct Run {
    pub path: PathBuf,
    pub index_in_file: usize,
    pub of_several_in_file: bool,
    /// What the page calls it.
    pub name: String,
    pub result: RunResult,
    /// Nanoseconds; `None` when nothing was recorded.
    pub intended: Option<Histogram<u64>>,
    pub actual: Option<Histogram<u64>>,
}

#[derive(Debug, Deserialize)]
pub struct RunResult {
    pub tool: Tool,
    pub machine: Machine,
    pub broker: Broker,
    pub started_at_unix_s: u64,
    pub workload: Workload,
    pub measured_s: f64,
    pub published: u64,
    pub delivered: u64,
    pub published_per_s: Option<f64>,
    pub delivered_per_s: Option<f64>,
    pub truth: Truth,
    pub latency_us: Option<Latencies>,
    #[serde(default)]
    pub overruns: u64,
    #[serde(default)]
    pub timeline: Vec<Moment>,
    pub broker_cost: Option<BrokerCost>,
    pub generator: Option<Generator>,
    #[serde(default)]
    pub warnings: Vec<String>,
    pub error: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Tool {
    pub name: String,
    pub version: String,
    pub revision: Option<String>,
    pub command: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub struct Machine {
    pub kernel: String,
    pub cpu: String,
    pub cores: u64,
    pub governor: Option<String>,
    pub hostname: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Broker {
    pub address: String,
    pub pid: Option<u32>,
    pub command: Option<Vec<String>>,
    pub version: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Workload {
    pub name: String,
    pub mode: String,
    #[serde(default)]
    pub options: Map<String, Value>,
}

#[derive(Debug, Deserialize)]
pub struct Truth {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    pub corrupt: u64,
    #[serde(default)]
    pub unsent: u64,
    #[serde(default)]
    pub unacknowledged: u64,
    /// Promises about packets, by the names that the result has for them.
    #[serde(default)]
    pub breaches: BTreeMap<String, u64>,
    pub passed: bool,
}

impl Truth {
    /// Besides acknowledgements that did not come, which are counted as such.
    pub fn wrong_packets(&self) -> u64 {
        let all: u64 = self.breaches.values().sum();
        all.saturating_sub(self.unacknowledged)
    }
}

#[derive(Debug, Deserialize)]
pub struct Latencies {
    pub intended: Option<Latency>,
    pub actual: Option<Latency>,
}

/// Microseconds.
#[derive(Debug, Deserialize)]
pub struct Latency {
    pub count: u64,
    pub mean: Option<f64>,
    pub p50: Option<f64>,
    pub p90: Option<f64>,
    pub p99: Option<f64>,
    pub p999: Option<f64>,
    pub p9999: Option<f64>,
    pub max: Option<f64>,
    pub histogram: Option<String>,
}

#[derive(Debug, Deserialize)]
pub struct Moment {
    pub t_s: f64,
    pub published_per_s: Option<f64>,
    pub delivered_per_s: Option<f64>,
    pub p50_us: Option<f64>,
    pub p99_us: Option<f64>,
}

#[derive(Debug, Deserialize)]
pub struct BrokerCost {
    pub cpu_s: Option<f64>,
    pub cpu_us_per_delivered: Option<f64>,
    pub rss_peak_kib: Option<u64>,
    pub voluntary_switches: Option<u64>,
    pub involuntary_switches: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct Generator {
    pub threads: u64,
    pub cpu_s: Option<f64>,
    pub cpu_share: Option<f64>,
    pub ceiling_per_s: Option<f64>,
    #[serde(default)]
    pub was_limit: bool,
}

/// What to think of a run at a glance.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// No promise broken in a whole run.
    Passed,
    /// The broker broke a promise.
    Failed,
    /// The run ended early; its figures are of a part only.
    Partial,
    /// There was nothing to judge.
    NothingDelivered,
}

impl RunResult {
    pub fn verdict(&self) -> Verdict {
        if !self.truth.passed {
            Verdict::Failed
        } else if self.error.is_some() {
            Verdict::Partial
        } else if self.delivered == 0 {
            Verdict::NothingDelivered
        } else {
            Verdict::Passed
        }
    }

    /// Those that charts are drawn by.
    fn figures(&self) -> impl Iterator<Item = f64> {
        let latencies = self.latency_us.as_ref().into_iter();
        let latencies = latencies.flat_map(|both| [&both.intended, &both.actual]);
        let latencies = latencies.flatten().flat_map(|latency| {
            let Latency {
                mean,
                p50,
                p90,
                p99,
                p999,
                p9999,
                max,
                ..
            } = latency;
            [*mean, *p50, *p90, *p99, *p999, *p9999, *max]
        });
        let timeline = self.timeline.iter().flat_map(|moment| {
            let rates = [moment.published_per_s, moment.delivered_per_s];
            let latencies = [moment.p50_us, moment.p99_us];
            [[Some(moment.t_s), None], rates, latencies].concat()
        });
        let rates = [self.published_per_s, self.delivered_per_s];
        let of_run = [Some(self.measured_s)].into_iter().chain(rates);
        of_run.chain(latencies).chain(timeline).flatten()
    }

    /// Whether connections stand where others have messages.
    pub fn is_about_connecting(&self) -> bool {
        self.workload.name == CONNECT
    }

    pub fn intended(&self) -> Option<&Latency> {
        let latency = self.latency_us.as_ref()?.intended.as_ref()?;
        (latency.count > 0).then_some(latency)
    }

    pub fn actual(&self) -> Option<&Latency> {
        let latency = self.latency_us.as_ref()?.actual.as_ref()?;
        (latency.count > 0).then_some(latency)
    }

    /// The broker's program where it is known, else its address.
    pub fn broker_name(&self) -> &str {
        let program = self.broker.command.as_ref().and_then(|words| words.first());
        let name = program.and_then(|program| program.rsplit('/').next());
        name.filter(|name| !name.is_empty())
            .unwrap_or(&self.broker.address)
    }
}

/// All results of one file, in its order.
pub fn read(path: &Path) -> Result<Vec<Run>, ReportError> {
    let bytes = fs::read(path).map_err(|source| ReportError::Read {
        path: path.to_owned(),
        source,
    })?;
    let not_a_result = |reason: String| ReportError::NotAResult {
        path: path.to_owned(),
        reason,
    };
    let values: Vec<Value> = serde_json::Deserializer::from_slice(&bytes)
        .into_iter()
        .collect::<Result<_, _>>()
        .map_err(|error| not_a_result(error.to_string()))?;
    if values.is_empty() {
        return Err(not_a_result("the file is empty".to_owned()));
    }
    let of_several_in_file = values.len() > 1;
    let mut runs = Vec::with_capacity(values.len());
    for (index_in_file, value) in values.into_iter().enumerate() {
        // Before anything else: another schema may lack what this one requires.
        match value.get("schema") {
            None => return Err(not_a_result("it has no \"schema\"".to_owned())),
            Some(schema) if schema.as_u64() != Some(SCHEMA) => {
                return Err(ReportError::Schema {
                    path: path.to_owned(),
                    found: schema.to_string(),
                });
            }
            Some(_) => {}
        }
        let result: RunResult =
            serde_json::from_value(value).map_err(|error| not_a_result(error.to_string()))?;
        if let Some(figure) = result.figures().find(|f| !FIGURES.contains(f)) {
            let reason = format!("{figure:e} is no figure of a run");
            return Err(not_a_result(reason));
        }
        let histogram = |name: &str, latency: Option<&Latency>| {
            decode(latency)
                .map_err(|reason| not_a_result(format!("latency_us.{name}.histogram: {reason}")))
        };
        runs.push(Run {
            path: path.to_owned(),
            index_in_file,
            of_several_in_file,
            name: String::new(),
            intended: histogram("intended", result.intended())?,
            actual: histogram("actual", result.actual())?,
            result,
        });
    }
    Ok(runs)
}

fn decode(latency: Option<&Latency>) -> Result<Option<Histogram<u64>>, String> {
    let text = latency.and_then(|latency| latency.histogram.as_deref());
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let bytes = STANDARD.decode(text).map_err(|error| error.to_string())?;
    let histogram = Deserializer::new()
        .deserialize::<u64, _>(&mut bytes.as_slice())
        .map_err(|error| error.to_string())?;
    Ok((!histogram.is_empty()).then_some(histogram))
}
