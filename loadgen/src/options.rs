//! The command line.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use serde::Serialize;

use crate::wire::Version;

const AFTER_HELP: &str = "\
Results:
  loadgen report RUN.json... -o report.html   One self-contained page about results of --json
  loadgen manual FOLDER                       Manual pages and completions of shells";

/// An MQTT load generator that states only delivered, verified figures.
///
/// Every message carries its publisher, its sequence, when it was due and when it was sent; what was
/// lost, duplicated or reordered is counted for every pair of publisher and subscriber. Exit status:
/// 0 when the broker kept its promises, 1 when it broke one, of messages or of other packets, 2 when the run could not be made or was interrupted.
/// Loss at QoS 0 breaks none, however much it is, and is told.
#[derive(Debug, Parser)]
#[command(disable_version_flag = true, after_help = AFTER_HELP)]
pub struct Options {
    #[command(subcommand)]
    pub workload: Workload,
    #[command(flatten)]
    pub common: Common,
}

#[derive(Clone, Debug, Args, Serialize)]
pub struct Common {
    /// Host name or address of the broker.
    #[arg(long, global = true, default_value = "127.0.0.1")]
    pub host: String,
    /// TCP port of the broker.
    #[arg(long, global = true, default_value_t = 1883)]
    pub port: u16,
    /// Seconds measured.
    #[arg(long, global = true, default_value_t = 10.0, value_parser = duration)]
    pub duration: f64,
    /// Seconds of the same load before that.
    #[arg(long, global = true, default_value_t = 2.0, value_parser = seconds)]
    pub warmup: f64,
    /// Bytes of payload, at least 28: publisher, sequence and times are in it.
    #[arg(long, global = true, default_value_t = 64, value_parser = payload_size)]
    pub payload: usize,
    /// Quality of Service of publishers and subscribers.
    #[arg(long, global = true, default_value_t = 0, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub qos: u8,
    /// QoS of publishers only.
    #[arg(long, global = true, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub publish_qos: Option<u8>,
    /// QoS of subscribers only.
    #[arg(long, global = true, value_parser = clap::value_parser!(u8).range(0..=2))]
    pub subscribe_qos: Option<u8>,
    /// 4 for MQTT 3.1.1, 5 for MQTT 5.0.
    #[arg(long = "version", id = "protocol", global = true, default_value = "4", value_parser = version)]
    pub protocol: Version,
    /// Messages one publisher may have under way: published and not yet with every subscriber, nor
    /// (QoS 1 and 2) acknowledged. Default: 1000 at QoS 0 (fan-out: 100), 16 otherwise; fan-in: 1000
    /// shared by all publishers at most. With a rate, what others have overtaken is not waited for.
    #[arg(long, global = true, value_parser = clap::value_parser!(u64).range(1..=crate::accounting::WINDOW_MAX))]
    pub window: Option<u64>,
    /// Open loop: so many messages (of `connect`: connections) a second in all, on an absolute
    /// schedule, whatever the broker does. Without it a closed loop saturates. What is stored first,
    /// as in `retained` and `reconnect`, has none.
    #[arg(long, global = true, value_parser = rate)]
    pub rate: Option<f64>,
    /// Search the highest rate at which p99 latency stays below --p99-us and nothing is lost; every
    /// step takes --warmup and --duration.
    #[arg(long, global = true, requires = "p99_us", conflicts_with = "rate")]
    pub find_max: bool,
    /// Bound of p99 latency for --find-max, microseconds.
    #[arg(long, global = true, value_parser = bound)]
    pub p99_us: Option<f64>,
    /// Topics of each publisher, in turn.
    #[arg(long, global = true, default_value_t = 1, value_parser = count)]
    pub topics: u32,
    /// Use Topic Aliases; needs --version 5.
    #[arg(long, global = true)]
    pub topic_aliases: bool,
    /// Sessions of subscribers outlive their connections, so that a broker that stores has to store
    /// what it acknowledges. They are left behind there.
    #[arg(long, global = true)]
    pub persistent: bool,
    /// User Name.
    #[arg(long, global = true)]
    pub user: Option<String>,
    /// Password.
    #[arg(long, global = true)]
    #[serde(skip)]
    pub password: Option<String>,
    /// Connect by TLS.
    #[arg(long, global = true)]
    pub tls: bool,
    /// Certificates to trust, PEM; needs --tls.
    #[arg(long, global = true, conflicts_with = "insecure")]
    pub cafile: Option<PathBuf>,
    /// Do not check the broker's certificate; needs --tls.
    #[arg(long, global = true)]
    pub insecure: bool,
    /// Connect by WebSocket.
    #[arg(long, global = true)]
    pub ws: bool,
    /// Path of the WebSocket; needs --ws.
    #[arg(long, global = true, default_value = "/mqtt")]
    pub ws_path: String,
    /// Threads of the generator, each with its own ring and its own connections.
    #[arg(long, global = true, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub threads: u16,
    /// CPUs to pin the threads to, as in 2,4-6.
    #[arg(long, global = true, visible_alias = "cpu", value_parser = cpu_list)]
    pub cpus: Option<CpuList>,
    /// Put publishers on another thread than their subscribers; needs --threads.
    #[arg(long, global = true)]
    pub cross: bool,
    /// Process id of the broker, on this machine: CPU time per message, memory and context switches
    /// are reported.
    #[arg(long, global = true)]
    pub broker_pid: Option<u32>,
    /// What the broker is, for the result: name and version.
    #[arg(long, global = true, value_name = "TEXT")]
    pub broker_name: Option<String>,
    /// The broker's configuration file, whose text goes into the result.
    #[arg(long, global = true, value_name = "FILE")]
    pub broker_config: Option<PathBuf>,
    /// Seconds without any progress in setting a run up after which it fails; in storing for later, after which what was
    /// not acknowledged counts as that.
    #[arg(long, global = true, default_value_t = 10.0, value_parser = seconds)]
    pub patience: f64,
    /// Seconds without any delivery or acknowledgement after which the rest counts as lost, or as never acknowledged. A
    /// drain ends after a minute.
    #[arg(long, global = true, default_value_t = 5.0, value_parser = seconds)]
    pub drain: f64,
    /// Seed of everything that is random: the payload.
    #[arg(long, global = true, default_value_t = 1)]
    pub seed: u64,
    /// Do not measure the generator's own ceiling first: the same load in a closed loop against a null
    /// sink, which takes about a second.
    #[arg(long, global = true)]
    pub no_ceiling: bool,
    /// Write the result as JSON to this file; `-` prints it instead of the summary.
    #[arg(long, global = true, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Write the latencies as an HdrHistogram V2 interval log to this file.
    #[arg(long, global = true, value_name = "FILE", value_parser = file)]
    pub hdr: Option<PathBuf>,
}

/// CPUs by number.
#[derive(Clone, Debug, Serialize)]
pub struct CpuList(pub Vec<usize>);

#[derive(Clone, Debug, Serialize, Subcommand)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// Pairs of one publisher and one subscriber, each with a topic of its own.
    Pairs {
        #[arg(long, default_value_t = 1, value_parser = count)]
        pairs: u32,
    },
    /// One publisher, many subscribers.
    FanOut {
        #[arg(long, default_value_t = 100, value_parser = count)]
        subscribers: u32,
    },
    /// Many publishers, one subscriber.
    FanIn {
        #[arg(long, default_value_t = 100, value_parser = count)]
        publishers: u32,
    },
    /// Shared subscription: each message reaches one of the subscribers.
    Shared {
        #[arg(long, default_value_t = 4, value_parser = count)]
        publishers: u32,
        #[arg(long, default_value_t = 4, value_parser = count)]
        subscribers: u32,
    },
    /// Every subscriber has many Topic Filters, of which one matches.
    Wildcard {
        #[arg(long, default_value_t = 10, value_parser = count)]
        publishers: u32,
        #[arg(long, default_value_t = 10, value_parser = count)]
        subscribers: u32,
        /// Topic Filters of each subscriber.
        #[arg(long, default_value_t = 100, value_parser = count)]
        filters: u32,
    },
    /// Many Clients in a circle, each publishing to the next, at a fixed total rate (1000 messages a
    /// second unless --rate says otherwise).
    Trickle {
        #[arg(long, default_value_t = 1000, value_parser = count)]
        connections: u32,
    },
    /// Store retained messages, then many subscribers ask for all of them at once.
    Retained {
        /// Retained messages.
        #[arg(long, default_value_t = 1000, value_parser = count)]
        messages: u32,
        #[arg(long, default_value_t = 10, value_parser = count)]
        subscribers: u32,
    },
    /// Persistent Sessions leave, messages queue for them, all come back at once; needs --qos 1 or 2.
    Reconnect {
        #[arg(long, default_value_t = 100, value_parser = count)]
        subscribers: u32,
        /// Messages for each of them meanwhile.
        #[arg(long, default_value_t = 100, value_parser = count)]
        messages: u32,
    },
    /// Several loads at once, from a TOML file.
    Mixed {
        /// The file: `[[load]]` tables with `workload` and the options of that workload.
        file: PathBuf,
    },
    /// Connect, hold, then ask every connection for a PINGRESP; reports memory per connection.
    Idle {
        #[arg(long, default_value_t = 1000, value_parser = count)]
        connections: u32,
        /// Each Client subscribes to a topic of its own as well.
        #[arg(long)]
        subscribe: bool,
    },
    /// Connect, CONNACK, DISCONNECT, again and again, until --count or --duration is reached; with
    /// --hold all of them stay, idle, for --duration.
    Connect {
        #[arg(long, default_value_t = 10_000, value_parser = count)]
        count: u32,
        /// Connections under way at once.
        #[arg(long, default_value_t = 16, value_parser = count)]
        concurrency: u32,
        /// Keep them, hold them idle, then ask every one for a PINGRESP.
        #[arg(long)]
        hold: bool,
    },
    /// The generator against a sink that only copies: what it could deliver at most.
    SelfTest {
        #[arg(long, default_value_t = 1, value_parser = count)]
        pairs: u32,
        /// Only publish: the sink discards everything.
        #[arg(long)]
        discard: bool,
    },
}

impl Options {
    /// The command line. One that cannot be meant ends the process, with status 2.
    pub fn from_command_line() -> Self {
        Self::parse_all(std::env::args_os()).unwrap_or_else(|error| error.exit())
    }

    fn parse_all(
        arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    ) -> Result<Self, clap::Error> {
        let mut command = Self::command();
        let matches = command.try_get_matches_from_mut(arguments)?;
        let options = Self::from_arg_matches(&matches)?;
        let is_given = |id: &str| matches.value_source(id) == Some(ValueSource::CommandLine);
        match options.idle_option(is_given) {
            Some(said) => Err(command.error(ErrorKind::ArgumentConflict, said)),
            None => Ok(options),
        }
    }

    /// What was given and would do nothing: an option is honoured or refused. Not what says how a run goes, so that
    /// whoever makes many runs can say it for all of them: `--duration`, `--warmup`, `--payload`, `--drain`, `--seed` and
    /// `--no-ceiling`.
    fn idle_option(&self, is_given: impl Fn(&str) -> bool) -> Option<String> {
        let common = &self.common;
        let has_rate = !matches!(self.workload, Workload::Idle { .. });
        // Before MQTT 5 no CONNECT has a Password alone [v3.1.1 MQTT-3.1.2-22].
        let has_user = common.user.is_some() || common.protocol.is_v5();
        let has_json = common.json.is_some();
        let needs = [
            ("topic_aliases", common.protocol.is_v5(), "--version 5"),
            ("p99_us", common.find_max, "--find-max"),
            ("cafile", common.tls, "--tls"),
            ("insecure", common.tls, "--tls"),
            ("ws_path", common.ws, "--ws"),
            ("cross", common.threads > 1, "--threads 2 or more"),
            ("rate", has_rate, "a workload that has one"),
            ("password", has_user, "--user or --version 5"),
            ("broker_name", has_json, "--json"),
            ("broker_config", has_json, "--json"),
        ];
        let (workload, ignored): (_, &[&str]) = match self.workload {
            Workload::SelfTest { .. } => (
                "self-test, which is against a sink of its own",
                &[
                    "host",
                    "port",
                    "user",
                    "password",
                    "tls",
                    "ws",
                    // The sink knows topics by their names.
                    "topic_aliases",
                    // And no Sessions.
                    "persistent",
                    "broker_pid",
                    "broker_name",
                    "broker_config",
                    "find_max",
                ],
            ),
            Workload::Idle {
                subscribe: true, ..
            } => (
                "a workload that publishes nothing",
                &[
                    "find_max",
                    "publish_qos",
                    "window",
                    "topics",
                    "topic_aliases",
                    "cross",
                ],
            ),
            Workload::Idle { .. } | Workload::Connect { .. } => (
                "a workload that publishes nothing and subscribes to nothing",
                &[
                    "find_max",
                    "qos",
                    "publish_qos",
                    "subscribe_qos",
                    "window",
                    "topics",
                    "topic_aliases",
                    "cross",
                ],
            ),
            Workload::Trickle { .. } => (
                "trickle, whose clients both publish and subscribe",
                &["cross"],
            ),
            Workload::Retained { .. } => ("retained, which has --messages", &["topics"]),
            Workload::Reconnect { .. } => (
                "reconnect, which has --messages, and sessions that are kept",
                &["topics", "persistent"],
            ),
            _ => ("", &[]),
        };
        let option = |id: &str| format!("--{}", id.replace('_', "-"));
        let lacking = needs.iter().find(|(id, has, _)| !has && is_given(id));
        let lacking = lacking.map(|(id, _, needed)| format!("{} needs {needed}", option(id)));
        let ignored = ignored.iter().find(|id| is_given(id));
        lacking.or_else(|| ignored.map(|id| format!("{} does nothing in {workload}", option(id))))
    }
}

/// Whether these words, a workload and its options, can be meant; what is said against them in one line.
pub fn check(words: &[String]) -> Result<(), String> {
    let line = std::iter::once("loadgen").chain(words.iter().map(String::as_str));
    let Err(error) = Options::parse_all(line) else {
        return Ok(());
    };
    let said = error.to_string();
    let first = said.lines().next().unwrap_or_default();
    Err(first.trim_start_matches("error: ").to_owned())
}

fn duration(text: &str) -> Result<f64, String> {
    let said = "more than 0 and up to 86400 seconds";
    number(text, f64::MIN_POSITIVE..=86_400.0, said)
}

fn file(text: &str) -> Result<PathBuf, String> {
    let is_file = text != "-";
    let said = "the name of a file; standard output is the summary's, or that of --json -";
    is_file.then(|| text.into()).ok_or(said.to_owned())
}

fn seconds(text: &str) -> Result<f64, String> {
    number(text, 0.0..=86_400.0, "from 0 to 86400 seconds")
}

fn bound(text: &str) -> Result<f64, String> {
    number(text, f64::MIN_POSITIVE..=1e12, "more than 0 microseconds")
}

fn rate(text: &str) -> Result<f64, String> {
    number(text, 0.001..=1e8, "from 0.001 to 100000000 a second")
}

fn number(text: &str, range: std::ops::RangeInclusive<f64>, said: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    let allowed = range.contains(&value);
    allowed.then_some(value).ok_or(said.to_owned())
}

fn payload_size(text: &str) -> Result<usize, String> {
    let value: usize = text.parse().map_err(|_| "not a number".to_owned())?;
    let allowed = (crate::wire::STAMP_SIZE..=100_000_000).contains(&value);
    allowed
        .then_some(value)
        .ok_or("from 28 to 100000000 bytes".to_owned())
}

fn count(text: &str) -> Result<u32, String> {
    let value: u32 = text.parse().map_err(|_| "not a number".to_owned())?;
    (1..=1_000_000)
        .contains(&value)
        .then_some(value)
        .ok_or("from 1 to 1000000".to_owned())
}

fn version(text: &str) -> Result<Version, String> {
    match text {
        "4" => Ok(Version::V311),
        "5" => Ok(Version::V5),
        _ => Err("4 (MQTT 3.1.1) or 5 (MQTT 5.0)".to_owned()),
    }
}

fn cpu_list(text: &str) -> Result<CpuList, String> {
    let mut cpus = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        match (first.trim().parse::<usize>(), last.trim().parse::<usize>()) {
            (Ok(first), Ok(last)) if first <= last && last < 4096 => cpus.extend(first..=last),
            _ => return Err("CPU numbers as in 2,4-6".to_owned()),
        }
    }
    let mut sorted = cpus.clone();
    sorted.sort_unstable();
    match sorted.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(twice) => Err(format!("CPU {} twice", twice[0])),
        None => Ok(CpuList(cpus)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        let words = std::iter::once("loadgen").chain(line.split_whitespace());
        Options::parse_all(words).map_err(|error| error.to_string())
    }

    #[test]
    fn what_would_do_nothing_is_refused_by_name() {
        for (line, named) in [
            ("pairs --topic-aliases", "--topic-aliases needs --version 5"),
            ("pairs --p99-us 100", "--p99-us needs --find-max"),
            ("pairs --cafile ca.pem", "--cafile needs --tls"),
            ("--insecure pairs", "--insecure needs --tls"),
            ("pairs --ws-path /x", "--ws-path needs --ws"),
            ("pairs --cross", "--cross needs --threads 2"),
            ("idle --rate 10", "--rate needs a workload that has one"),
            ("retained --topics 2", "--topics does nothing in retained"),
            ("connect --find-max --p99-us 5", "--find-max does nothing"),
            ("self-test --host x", "--host does nothing in self-test"),
            ("--port 1 self-test", "--port does nothing in self-test"),
            (
                "self-test --topic-aliases --version 5",
                "--topic-aliases does nothing",
            ),
            ("pairs --duration 0", "more than 0"),
            ("pairs --hdr -", "the name of a file"),
            ("pairs --tls --insecure --cafile x", "cannot be used with"),
            ("pairs --password x", "--password needs --user"),
            ("pairs --broker-name x", "--broker-name needs --json"),
            ("pairs --broker-config x", "--broker-config needs --json"),
            ("self-test --persistent", "--persistent does nothing"),
            (
                "reconnect --qos 1 --persistent",
                "--persistent does nothing",
            ),
            ("connect --qos 1", "--qos does nothing"),
            ("idle --subscribe-qos 1", "--subscribe-qos does nothing"),
            ("idle --threads 2 --cross", "--cross does nothing"),
            ("trickle --threads 2 --cross", "--cross does nothing"),
        ] {
            let said = parse(line).unwrap_err();
            assert!(said.contains(named), "{line}: {said}");
        }
    }

    #[test]
    fn the_same_is_taken_with_what_it_needs() {
        for line in [
            "pairs --topic-aliases --version 5",
            "pairs --find-max --p99-us 100",
            "--tls pairs --cafile ca.pem",
            "pairs --tls --insecure",
            "pairs --ws --ws-path /x",
            "pairs --cross --threads 2",
            "connect --rate 10",
            "idle --subscribe --qos 1",
            "pairs --user x --password x",
            "pairs --version 5 --password x",
            "pairs --broker-name x --json -",
            "self-test --pairs 2 --rate 10",
            "connect --warmup 1 --payload 64 --drain 1 --seed 2 --no-ceiling",
        ] {
            assert!(parse(line).is_ok(), "{line}: {:?}", parse(line));
        }
    }
}
