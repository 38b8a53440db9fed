//! What a run says: as one JSON object, as a summary for people, as an HdrHistogram log.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::interval_log::IntervalLogWriterBuilder;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};
use serde::Serialize;
use serde_json::{Map, Value};

use crate::breaches::Breaches;
use crate::failure::Failure;
use crate::options::{Common, Options};
use crate::plan::client_prefix;
use crate::process;
use crate::run::Outcome;
use crate::self_test::Ceiling;

/// The name of a run against the generator's own sinks.
pub const SELF_TEST: &str = "self-test";
/// The mode of a run on a schedule.
pub const OPEN: &str = "open";
/// The mode of a run that has no load to measure for a time.
pub const COUNTED: &str = "count";
/// The name of a run that is about connecting.
pub const CONNECT: &str = "connect";
/// Share of a CPU from which the generator, not the broker, may be what is measured.
const SATURATED_SHARE: f64 = 0.97;
/// Share of what was due that has to have been published.
pub const KEPT_UP: f64 = 0.99;
/// Share of what was delivered that may have waited from before it was measured: a window more or less.
const BEFORE_SHARE: f64 = 0.02;
/// Share of the ceiling from which that is so.
const CEILING_SHARE: f64 = 0.9;

/// What became of all messages of a run, from its first to the end of the drain.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Truth {
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Changed on the way, or delivered to the wrong subscriber or by the wrong topic.
    pub corrupt: u64,
    /// Due, but the window never let them go.
    pub unsent: u64,
    /// Published, and the broker never said that it has them.
    pub unacknowledged: u64,
    /// Promises about packets.
    pub breaches: Breaches,
    pub passed: bool,
}

#[derive(Debug, Serialize)]
struct Tool {
    name: &'static str,
    version: &'static str,
    revision: Option<&'static str>,
    command: Vec<String>,
}

#[derive(Debug, Serialize)]
struct Machine {
    kernel: String,
    cpu: String,
    cores: usize,
    governor: Option<String>,
    hostname: Option<String>,
}

#[derive(Debug, Serialize)]
struct Broker {
    address: String,
    pid: Option<u32>,
    command: Option<Vec<String>>,
    /// Name and version, as `--broker-name` says.
    version: Option<String>,
    /// The text of its configuration file.
    configuration: Option<String>,
}

/// Only of runs that store messages before anybody asks for them.
#[derive(Debug, Serialize)]
struct StoredPart {
    count: u64,
    seconds: f64,
    per_s: f64,
    cpu_us_per_stored: Option<f64>,
}

#[derive(Debug, Serialize)]
struct WorkloadPart {
    name: &'static str,
    mode: &'static str,
    /// What all its Client Identifiers begin with: by them Sessions are found that were left behind.
    clients: String,
    options: Value,
}

#[derive(Debug, Serialize)]
struct Latencies {
    intended: Option<Latency>,
    actual: Option<Latency>,
}

#[derive(Debug, Serialize)]
pub struct Latency {
    count: u64,
    mean: f64,
    pub p50: f64,
    pub p90: f64,
    pub p99: f64,
    pub p999: f64,
    p9999: f64,
    pub max: f64,
    histogram: String,
}

#[derive(Debug, Serialize)]
struct TimelineLine {
    t_s: f64,
    published_per_s: f64,
    delivered_per_s: f64,
    /// Of nothing that arrived there is none.
    p50_us: Option<f64>,
    p99_us: Option<f64>,
}

#[derive(Debug, Serialize)]
struct BrokerCost {
    /// Between these two, by the system's monotonic clock.
    from_s: f64,
    to_s: f64,
    cpu_s: f64,
    cpu_us_per_delivered: Option<f64>,
    rss_peak_kib: u64,
    voluntary_switches: u64,
    involuntary_switches: u64,
    /// What was delivered between the same two moments.
    delivered: u64,
}

#[derive(Debug, Serialize)]
struct Generator {
    threads: u16,
    cpu_s: f64,
    cpu_share: f64,
    /// What it delivers at most against a null sink, on all its threads and on one.
    ceiling_per_s: Option<f64>,
    ceiling_per_s_per_thread: Option<f64>,
    /// The sink, not the generator, was the limit of that.
    ceiling_is_lower_bound: bool,
    was_limit: bool,
}

/// Only of runs that are about connections.
#[derive(Debug, Serialize)]
struct Connections {
    count: u64,
    rss_before_kib: u64,
    rss_with_kib: u64,
    bytes_per_connection: f64,
}

#[derive(Debug, Serialize)]
pub struct RunResult {
    schema: u32,
    tool: Tool,
    machine: Machine,
    broker: Broker,
    started_at_unix_s: u64,
    workload: WorkloadPart,
    /// Of `--find-max`: the highest rate that passed, which the figures are about.
    #[serde(skip_serializing_if = "Option::is_none")]
    found_rate_per_s: Option<f64>,
    measured_s: f64,
    published: u64,
    delivered: u64,
    /// Not of what was stored before it was measured: that has a speed of its own.
    published_per_s: Option<f64>,
    pub delivered_per_s: f64,
    truth: Truth,
    latency_us: Latencies,
    overruns: u64,
    timeline: Vec<TimelineLine>,
    broker_cost: Option<BrokerCost>,
    generator: Generator,
    #[serde(skip_serializing_if = "Option::is_none")]
    stored: Option<StoredPart>,
    #[serde(skip_serializing_if = "Option::is_none")]
    connections: Option<Connections>,
    warnings: Vec<String>,
    error: Option<String>,
}

/// What is true of a run besides its outcome.
#[derive(Debug)]
pub struct About<'a> {
    pub options: &'a Options,
    pub name: &'static str,
    pub mode: &'static str,
    pub address: String,
    pub started: SystemTime,
    pub ceiling: Option<Ceiling>,
    /// What `--find-max` found.
    pub found_rate_per_s: Option<f64>,
    pub broker_configuration: Option<String>,
    pub warnings: Vec<String>,
}

impl RunResult {
    pub fn new(about: About<'_>, outcome: &Outcome) -> Self {
        let common = &about.options.common;
        let seconds = outcome.measured_s.max(1e-9);
        let (delivered, published) = (outcome.delivered, outcome.published);
        let delivered_per_s = delivered as f64 / seconds;
        let is_timed = outcome.measured_s > 0.0;
        let is_self_test = about.name == SELF_TEST;
        let reaches = |ceiling: &Ceiling| {
            !ceiling.is_lower_bound && delivered_per_s >= CEILING_SHARE * ceiling.per_s
        };
        let was_limit = is_timed
            && !is_self_test
            && (outcome.cpu_share >= SATURATED_SHARE
                || about.ceiling.as_ref().is_some_and(reaches));
        let mut warnings = about.warnings;
        if is_self_test && about.ceiling.is_some_and(|ceiling| ceiling.is_lower_bound) {
            warnings.push(format!(
                "the sink was the limit ({:.0} % of the generator's CPU): the generator is capable of more",
                100.0 * outcome.cpu_share
            ));
        }
        if was_limit {
            warnings.push(format!(
                "the generator was the limit ({:.0} % of its CPU): the broker may be capable of more",
                100.0 * outcome.cpu_share
            ));
        }
        if let Some(cost) = outcome
            .cost
            .filter(|cost| cost.children > 0 || cost.children_changed)
        {
            warnings.push(format!(
                "the broker has started {} processes, whose CPU time and memory are counted with it; pages that they \
                 share are counted for each{}",
                cost.children,
                if cost.children_changed {
                    ". Some began or ended meanwhile: what those had used is not known"
                } else {
                    ""
                }
            ));
        }
        if outcome.window_restarts > 0 {
            warnings.push(format!(
                "{} times a window waited a second for messages that were late or lost: {}",
                outcome.window_restarts,
                if about.mode == OPEN {
                    "what was due meanwhile left after them"
                } else {
                    "speed is understated"
                }
            ));
        }
        if let Some((count, least)) = outcome.windows_restricted {
            warnings.push(format!(
                "the broker's Receive Maximum made the window of {count} publishers smaller, down to {least}: \
                 less waits there than was asked for, and what arrives has waited less"
            ));
        }
        if let Some(share) = outcome.missing_share() {
            warnings.push(format!(
                "the latencies are those of what arrived: {:.1} % of what was due did not, and has none",
                100.0 * share
            ));
        }
        if outcome.overruns > 0 {
            warnings.push(format!(
                "{} messages left more than a millisecond after they were due",
                outcome.overruns
            ));
        }
        let due_per_s = outcome.due_per_s.filter(|_| is_timed && !is_self_test);
        if let Some(due_per_s) = due_per_s {
            // Where little is due, one is much.
            let (kept_up, published_per_s) = (
                KEPT_UP * due_per_s * seconds - 1.0,
                published as f64 / seconds,
            );
            if (published as f64) < kept_up {
                warnings.push(format!(
                    "{published_per_s:.0}/s were published where {due_per_s:.0}/s were due: \
                     the rate was not reached"
                ));
            }
        }
        let due_deliveries = outcome.due_deliveries.filter(|_| is_timed);
        let from_before = due_deliveries.map_or(0, |due| delivered.saturating_sub(due));
        if from_before as f64 > BEFORE_SHARE * delivered as f64 {
            warnings.push(format!(
                "{from_before} more were delivered than were published while it was measured: what had waited \
                 from before is in the speed and in the broker's CPU time for each"
            ));
        }
        if about.mode != COUNTED && !is_self_test && delivered == 0 {
            warnings.push("nothing was delivered while it was measured".to_owned());
        }
        warnings.extend_from_slice(&outcome.allowed);
        warnings.extend(
            outcome
                .broken
                .iter()
                .map(|b| format!("broken promise: {b}")),
        );
        let mut truth = outcome.truth;
        truth.passed &= outcome.error.is_none();
        let timeline = outcome.lines.iter().map(|line| {
            let seconds = (line.end_s - line.start_s).max(1e-9);
            let zero_s = outcome.lines.first().map_or(0.0, |first| first.start_s);
            let quantile = |quantile| {
                let latency = &line.intended;
                (!latency.is_empty()).then(|| microseconds(latency.value_at_quantile(quantile)))
            };
            TimelineLine {
                t_s: line.end_s - zero_s,
                published_per_s: line.published as f64 / seconds,
                delivered_per_s: line.delivered as f64 / seconds,
                p50_us: quantile(0.5),
                p99_us: quantile(0.99),
            }
        });
        Self {
            schema: 1,
            tool: Tool {
                name: "loadgen",
                version: env!("CARGO_PKG_VERSION"),
                revision: option_env!("LOADGEN_REVISION"),
                command: command(),
            },
            machine: machine(),
            broker: Broker {
                address: about.address,
                pid: common.broker_pid,
                command: common.broker_pid.and_then(process::command),
                version: common.broker_name.clone(),
                configuration: about.broker_configuration,
            },
            started_at_unix_s: about
                .started
                .duration_since(UNIX_EPOCH)
                .map_or(0, |time| time.as_secs()),
            workload: WorkloadPart {
                name: about.name,
                mode: about.mode,
                clients: client_prefix(),
                options: options_value(about.options),
            },
            found_rate_per_s: about.found_rate_per_s,
            measured_s: outcome.measured_s,
            published,
            delivered,
            published_per_s: if outcome.stored.is_some() {
                None
            } else if is_timed {
                Some(published as f64 / seconds)
            } else {
                Some(0.0)
            },
            delivered_per_s: if is_timed { delivered_per_s } else { 0.0 },
            truth,
            latency_us: Latencies {
                intended: latency(&outcome.intended),
                actual: outcome.actual.as_ref().and_then(latency),
            },
            overruns: outcome.overruns,
            timeline: timeline.collect(),
            broker_cost: outcome.cost.map(|cost| BrokerCost {
                from_s: cost.from.as_secs_f64(),
                to_s: cost.to.as_secs_f64(),
                cpu_s: cost.cpu.as_secs_f64(),
                cpu_us_per_delivered: (outcome.cost_delivered > 0)
                    .then(|| cost.cpu.as_secs_f64() * 1e6 / outcome.cost_delivered as f64),
                rss_peak_kib: cost.rss_peak_kib,
                voluntary_switches: cost.voluntary_switches,
                involuntary_switches: cost.involuntary_switches,
                delivered: outcome.cost_delivered,
            }),
            generator: Generator {
                threads: common.threads,
                cpu_s: outcome.generator_cpu_s,
                cpu_share: outcome.cpu_share,
                ceiling_per_s: about.ceiling.map(|ceiling| ceiling.per_s),
                ceiling_per_s_per_thread: about
                    .ceiling
                    .map(|ceiling| ceiling.per_s / f64::from(common.threads)),
                ceiling_is_lower_bound: about.ceiling.is_some_and(|ceiling| ceiling.is_lower_bound),
                was_limit,
            },
            stored: outcome.stored.map(|stored| StoredPart {
                count: stored.count,
                seconds: stored.seconds,
                per_s: stored.count as f64 / stored.seconds,
                cpu_us_per_stored: stored
                    .cost
                    .filter(|_| stored.count > 0)
                    .map(|cost| cost.cpu.as_secs_f64() * 1e6 / stored.count as f64),
            }),
            connections: outcome.memory_kib.map(|(before, with)| Connections {
                count: outcome.connections,
                rss_before_kib: before,
                rss_with_kib: with,
                bytes_per_connection: (with as f64 - before as f64) * 1024.0
                    / outcome.connections.max(1) as f64,
            }),
            warnings,
            error: outcome.error.as_ref().map(ToString::to_string),
        }
    }

    /// Writes the summary and, if that is wanted, the JSON.
    pub fn write(&self, common: &Common, file: Option<&mut Destination>) -> io::Result<()> {
        let json = || serde_json::to_string_pretty(self).map(|json| json + "\n");
        let mut out = io::stdout().lock();
        if common.json.as_deref() == Some(Path::new("-")) {
            return out.write_all(json()?.as_bytes());
        }
        out.write_all(self.summary(common).as_bytes())?;
        match file {
            Some(file) => file.begin()?.write_all(json()?.as_bytes()),
            None => Ok(()),
        }
    }

    fn summary(&self, common: &Common) -> String {
        let mut text = String::new();
        // Writing into a string does not fail.
        let _ = self.summarize(common, &mut text);
        text
    }

    fn summarize(&self, common: &Common, out: &mut String) -> std::fmt::Result {
        let workload = &self.workload;
        let mqtt = if common.protocol.is_v5() {
            "5.0"
        } else {
            "3.1.1"
        };
        writeln!(
            out,
            "{} ({}): MQTT {mqtt}, QoS {}, {} B payload, {:.1} s",
            workload.name, workload.mode, common.qos, common.payload, self.measured_s
        )?;
        if let Some(rate) = self.found_rate_per_s {
            let bound_us = common.p99_us.unwrap_or(f64::INFINITY);
            writeln!(
                out,
                "  found       {rate:.0}/s with p99 below {bound_us} us and no loss"
            )?;
        }
        let counted = if workload.name == CONNECT {
            "connection"
        } else {
            "delivered"
        };
        if workload.name == CONNECT {
            writeln!(out, "  connections {:.0}/s", self.delivered_per_s)?;
        } else if self.published > 0 {
            if let Some(rate) = self.published_per_s {
                writeln!(out, "  published   {rate:.0}/s")?;
            }
            writeln!(out, "  delivered   {:.0}/s", self.delivered_per_s)?;
        }
        let latencies = [
            ("latency", &self.latency_us.intended),
            ("  from sending", &self.latency_us.actual),
        ];
        for (name, latency) in latencies {
            if let Some(latency) = latency {
                writeln!(
                    out,
                    "  {name:11} p50 {:.1} us, p90 {:.1} us, p99 {:.1} us, p99.9 {:.1} us, max {:.1} us",
                    latency.p50, latency.p90, latency.p99, latency.p999, latency.max
                )?;
            }
        }
        if let Some(cost) = &self.broker_cost {
            let percent = 100.0 * cost.cpu_s / (cost.to_s - cost.from_s).max(1e-9);
            write!(out, "  broker      CPU {percent:.0} %")?;
            if let Some(each) = cost.cpu_us_per_delivered {
                write!(out, ", {each:.3} us per {counted}")?;
            }
            writeln!(
                out,
                ", RSS peak {} KiB, {} + {} context switches",
                cost.rss_peak_kib, cost.voluntary_switches, cost.involuntary_switches
            )?;
        }
        if let Some(stored) = &self.stored {
            write!(out, "  stored      {:.0}/s", stored.per_s)?;
            if let Some(each) = stored.cpu_us_per_stored {
                write!(out, ", broker CPU {each:.3} us each")?;
            }
            writeln!(out)?;
        }
        if let Some(connections) = &self.connections {
            writeln!(
                out,
                "  memory      RSS {} KiB before, {} KiB with {} connections: {:.0} bytes each",
                connections.rss_before_kib,
                connections.rss_with_kib,
                connections.count,
                connections.bytes_per_connection
            )?;
        }
        let generator = &self.generator;
        write!(
            out,
            "  generator   {} threads, CPU {:.0} %",
            generator.threads,
            100.0 * generator.cpu_share
        )?;
        if self.delivered > 0 {
            let each = generator.cpu_s * 1e6 / self.delivered as f64;
            write!(out, ", {each:.3} us per {counted}")?;
        }
        if let Some(ceiling) = generator.ceiling_per_s {
            let bound = if generator.ceiling_is_lower_bound {
                " at least"
            } else {
                ""
            };
            write!(out, ", ceiling{bound} {ceiling:.0}/s")?;
            if let (2.., Some(each)) = (generator.threads, generator.ceiling_per_s_per_thread) {
                write!(out, " ({each:.0}/s a thread)")?;
            }
        }
        writeln!(out)?;
        let truth = &self.truth;
        write!(
            out,
            "  truth       {} lost, {} duplicated, {} reordered, {} corrupt, {} unsent",
            truth.lost, truth.duplicated, truth.reordered, truth.corrupt, truth.unsent
        )?;
        if truth.unacknowledged > 0 {
            write!(out, ", {} unacknowledged", truth.unacknowledged)?;
        }
        let breaches: u64 = truth.breaches.in_words().map(|(count, _)| count).sum();
        // Of those, acknowledgements that did not come have just been told.
        if breaches > truth.unacknowledged {
            write!(out, ", {} wrong packets", breaches - truth.unacknowledged)?;
        }
        writeln!(out)?;
        for warning in &self.warnings {
            writeln!(out, "  note: {warning}")?;
        }
        Ok(())
    }
}

/// A file of a result. It is opened before the run, which would be in vain without, and keeps what is
/// in it until there is a result.
#[derive(Debug)]
pub struct Destination {
    path: PathBuf,
    file: fs::File,
}

impl Destination {
    pub fn open(path: &Path) -> Result<Self, Failure> {
        let mut options = fs::File::options();
        let path = path.to_owned();
        match options.write(true).create(true).truncate(false).open(&path) {
            Ok(file) => Ok(Self { path, file }),
            Err(error) => Err(Failure::File {
                path: path.display().to_string(),
                reason: format!("cannot be written: {error}"),
            }),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Of regular files: a device may take both.
    pub fn is_same_file(&self, other: &Self) -> bool {
        let place = |file: &fs::File| {
            let metadata = file.metadata().ok().filter(fs::Metadata::is_file)?;
            Some((metadata.dev(), metadata.ino()))
        };
        place(&self.file).is_some_and(|ours| place(&other.file) == Some(ours))
    }

    fn begin(&mut self) -> io::Result<&mut fs::File> {
        // A pipe and a device have no size.
        if self.file.metadata()?.is_file() {
            self.file.set_len(0)?;
        }
        Ok(&mut self.file)
    }
}

/// One histogram for each line of the timeline.
pub fn write_hdr_log(
    file: &mut Destination,
    started: SystemTime,
    outcome: &Outcome,
) -> io::Result<()> {
    let failed = |error: &dyn std::fmt::Debug| io::Error::other(format!("{error:?}"));
    let mut file = io::BufWriter::new(file.begin()?);
    let mut serializer = V2DeflateSerializer::new();
    let mut log = IntervalLogWriterBuilder::new()
        .add_comment("loadgen: latency from when a message was due, nanoseconds")
        .with_start_time(started)
        .with_base_time(started)
        .with_max_value_divisor(1000.0)
        .begin_log_with(&mut file, &mut serializer)
        .map_err(|error| failed(&error))?;
    let zero_s = outcome.lines.first().map_or(0.0, |line| line.start_s);
    for line in &outcome.lines {
        log.write_histogram(
            &line.intended,
            Duration::from_secs_f64(line.start_s - zero_s),
            Duration::from_secs_f64(line.end_s - line.start_s),
            None,
        )
        .map_err(|error| failed(&error))?;
    }
    file.flush()
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

fn latency(histogram: &Histogram<u64>) -> Option<Latency> {
    if histogram.is_empty() {
        return None;
    }
    let quantile = |quantile| microseconds(histogram.value_at_quantile(quantile));
    let mut bytes = Vec::new();
    // Into memory, and of a histogram whose bounds are ours.
    let _ = V2Serializer::new().serialize(histogram, &mut bytes);
    Some(Latency {
        count: histogram.len(),
        mean: histogram.mean() / 1e3,
        p50: quantile(0.5),
        p90: quantile(0.9),
        p99: quantile(0.99),
        p999: quantile(0.999),
        p9999: quantile(0.9999),
        max: microseconds(histogram.max()),
        histogram: STANDARD.encode(bytes),
    })
}

fn options_value(options: &Options) -> Value {
    let mut all = Map::new();
    if let Ok(Value::Object(common)) = serde_json::to_value(&options.common) {
        all.extend(common);
    }
    // {"pairs": {"pairs": 1}}: the name is said elsewhere.
    if let Ok(Value::Object(workload)) = serde_json::to_value(&options.workload) {
        for value in workload.into_iter().map(|(_, value)| value) {
            if let Value::Object(fields) = value {
                all.extend(fields);
            }
        }
    }
    Value::Object(all)
}

/// The command line, without what is nobody's business.
fn command() -> Vec<String> {
    let mut words: Vec<String> = std::env::args().collect();
    if let Some(first) = words.first_mut() {
        *first = "loadgen".to_owned();
    }
    let mut is_secret = false;
    for word in &mut words {
        if is_secret {
            *word = "***".to_owned();
        }
        is_secret = word == "--password";
        if word.starts_with("--password=") {
            *word = "--password=***".to_owned();
        }
    }
    words
}

fn machine() -> Machine {
    let read = |path: &str| fs::read_to_string(path).ok().map(|t| t.trim().to_owned());
    let cpuinfo = read("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map(|line| line.trim_start_matches(['\t', ' ', ':']).to_owned());
    Machine {
        kernel: read("/proc/sys/kernel/osrelease").unwrap_or_default(),
        cpu: model.unwrap_or_else(|| std::env::consts::ARCH.to_owned()),
        cores: cpuinfo.matches("processor\t").count().max(1),
        governor: read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        hostname: None,
    }
}
