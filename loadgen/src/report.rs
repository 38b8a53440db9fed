//! What a run says: figures, cost, and every promise the broker broke.

use std::io::{self, Write};
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::failure::Failure;
use crate::options::Common;
use crate::process::{self, Memory};

/// Share of a CPU from which the generator, not the broker, may be what is measured.
const SATURATED_PERCENT: f64 = 97.0;

/// What became of all messages of a run, from its first to the end of the drain.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Truth {
    pub published: u64,
    pub delivered: u64,
    pub lost: u64,
    pub duplicated: u64,
    pub reordered: u64,
    /// Changed on the way, or delivered to the wrong subscriber or with the wrong QoS.
    pub corrupt: u64,
    /// Due, but the window never let them go.
    pub unsent: u64,
}

/// CPU time and memory at one moment, or between two.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    generator_cpu: Duration,
    broker: Option<(Duration, Memory)>,
}

impl Cost {
    pub fn sample(broker_pid: Option<u32>) -> Result<Self, Failure> {
        let generator_cpu = process::cpu_time(std::process::id())?;
        let Some(process_id) = broker_pid else {
            return Ok(Self {
                generator_cpu,
                broker: None,
            });
        };
        let broker = process::cpu_time(process_id)
            .and_then(|cpu| Ok((cpu, process::memory(process_id)?)))
            .map_err(|source| Failure::Process { process_id, source })?;
        Ok(Self {
            generator_cpu,
            broker: Some(broker),
        })
    }

    pub fn since(&self, before: &Self) -> Self {
        let broker = self
            .broker
            .zip(before.broker)
            .map(|((cpu, memory), (cpu_before, _))| {
                // A thread that ended takes its time with it.
                (cpu.saturating_sub(cpu_before), memory)
            });
        let generator_cpu = self.generator_cpu.saturating_sub(before.generator_cpu);
        Self {
            generator_cpu,
            broker,
        }
    }
}

#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    pub p50: f64,
    pub p99: f64,
    pub p999: f64,
    pub max: f64,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct BrokerMemory {
    pub before_kib: u64,
    pub now_kib: u64,
    pub bytes_per_connection: f64,
}

#[derive(Clone, Debug, Serialize)]
pub struct Report {
    pub workload: &'static str,
    pub mqtt: &'static str,
    pub qos: u8,
    pub payload: usize,
    pub connections: u64,
    /// Of the measured interval.
    pub seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub window: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub published_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delivered_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections_per_second: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub latency_us: Option<Latency>,
    /// How late the generator itself was; included in the latency.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lag_us_p99: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_cpu_us_per_message: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_cpu_us_per_connection: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_cpu_percent: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_rss_peak_kib: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broker_memory: Option<BrokerMemory>,
    pub generator_cpu_percent: f64,
    pub generator_saturated: bool,
    /// Times a QoS 0 window waited a second for messages that were lost.
    pub window_restarts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub truth: Option<Truth>,
    pub broken_promises: Vec<String>,
}

impl Report {
    pub fn new(workload: &'static str, common: &Common, connections: u64) -> Self {
        Self {
            workload,
            mqtt: if common.protocol.is_v5() {
                "5.0"
            } else {
                "3.1.1"
            },
            qos: common.qos,
            payload: common.payload,
            connections,
            seconds: 0.0,
            window: None,
            rate: None,
            published_per_second: None,
            delivered: None,
            delivered_per_second: None,
            connections_per_second: None,
            latency_us: None,
            lag_us_p99: None,
            broker_cpu_us_per_message: None,
            broker_cpu_us_per_connection: None,
            broker_cpu_percent: None,
            broker_rss_peak_kib: None,
            broker_memory: None,
            generator_cpu_percent: 0.0,
            generator_saturated: false,
            window_restarts: 0,
            truth: None,
            broken_promises: Vec::new(),
        }
    }

    pub fn set_latency(&mut self, latency_ns: &Histogram<u64>) {
        if latency_ns.is_empty() {
            return;
        }
        let quantile = |quantile| latency_ns.value_at_quantile(quantile) as f64 / 1e3;
        self.latency_us = Some(Latency {
            p50: quantile(0.5),
            p99: quantile(0.99),
            p999: quantile(0.999),
            max: latency_ns.max() as f64 / 1e3,
        });
    }

    /// `count` is what the cost is shared among: messages delivered, or connections made.
    pub fn set_cost(&mut self, cost: &Cost, seconds: f64, count: u64) {
        self.generator_cpu_percent = 100.0 * cost.generator_cpu.as_secs_f64() / seconds;
        self.generator_saturated = self.generator_cpu_percent >= SATURATED_PERCENT;
        let Some((cpu, memory)) = cost.broker else {
            return;
        };
        self.broker_cpu_percent = Some(100.0 * cpu.as_secs_f64() / seconds);
        self.broker_rss_peak_kib = Some(memory.peak_kib);
        if count > 0 {
            let each_us = cpu.as_secs_f64() * 1e6 / count as f64;
            if self.connections_per_second.is_some() {
                self.broker_cpu_us_per_connection = Some(each_us);
            } else {
                self.broker_cpu_us_per_message = Some(each_us);
            }
        }
    }

    pub fn set_truth(&mut self, truth: Truth, qos: u8) {
        let promises = [
            (qos > 0, truth.lost, "messages lost"),
            // At most once, and exactly once; only at least once may repeat.
            (
                qos != 1,
                truth.duplicated,
                "messages delivered more than once",
            ),
            (true, truth.reordered, "messages delivered out of order"),
            (
                true,
                truth.corrupt,
                "messages changed or delivered to the wrong subscriber",
            ),
            (qos > 0, truth.unsent, "messages never accepted"),
        ];
        for (promised, count, what) in promises {
            if promised && count > 0 {
                self.broken_promises
                    .push(format!("{count} {what} at QoS {qos}"));
            }
        }
        self.truth = Some(truth);
    }

    pub fn write(&self, common: &Common) -> io::Result<()> {
        if let Some(path) = &common.json_file {
            std::fs::write(path, serde_json::to_string_pretty(self)? + "\n")?;
        }
        let mut out = io::stdout().lock();
        if common.json {
            writeln!(out, "{}", serde_json::to_string_pretty(self)?)
        } else {
            self.write_text(&mut out)
        }
    }

    fn write_text(&self, out: &mut impl Write) -> io::Result<()> {
        write!(
            out,
            "{}: MQTT {}, {} connections",
            self.workload, self.mqtt, self.connections
        )?;
        if self.truth.is_some() {
            write!(out, ", QoS {}, {} B payload", self.qos, self.payload)?;
        }
        if let Some(window) = self.window {
            write!(out, ", window {window}")?;
        }
        if let Some(rate) = self.rate {
            write!(out, ", {rate} messages/s due")?;
        }
        writeln!(out, ", {:.1} s", self.seconds)?;
        if let (Some(published), Some(delivered)) =
            (self.published_per_second, self.delivered_per_second)
        {
            writeln!(out, "  published   {published:.0}/s")?;
            writeln!(out, "  delivered   {delivered:.0}/s")?;
        }
        if let Some(rate) = self.connections_per_second {
            writeln!(out, "  connected   {rate:.0}/s")?;
        }
        if let Some(Latency {
            p50,
            p99,
            p999,
            max,
        }) = self.latency_us
        {
            writeln!(
                out,
                "  latency     p50 {p50:.1} us, p99 {p99:.1} us, p99.9 {p999:.1} us, max {max:.1} us"
            )?;
        }
        if let Some(lag) = self.lag_us_p99 {
            writeln!(out, "  of which the generator's own lag: p99 {lag:.1} us")?;
        }
        if let Some(percent) = self.broker_cpu_percent {
            write!(out, "  broker      CPU {percent:.0} %")?;
            if let Some(each) = self.broker_cpu_us_per_message {
                write!(out, ", {each:.3} us per delivered message")?;
            }
            if let Some(each) = self.broker_cpu_us_per_connection {
                write!(out, ", {each:.1} us per connection")?;
            }
            if let Some(peak) = self.broker_rss_peak_kib {
                write!(out, ", RSS peak {peak} KiB")?;
            }
            writeln!(out)?;
        }
        if let Some(BrokerMemory {
            before_kib,
            now_kib,
            bytes_per_connection,
        }) = self.broker_memory
        {
            writeln!(
                out,
                "  memory      RSS {before_kib} KiB before, {now_kib} KiB with them, \
                 {bytes_per_connection:.0} bytes per connection"
            )?;
        }
        let percent = self.generator_cpu_percent;
        write!(out, "  generator   CPU {percent:.0} %")?;
        if self.generator_saturated {
            write!(out, ": saturated, the broker may be capable of more")?;
        }
        writeln!(out)?;
        if let Some(truth) = self.truth {
            let Truth {
                published,
                delivered,
                lost,
                duplicated,
                reordered,
                corrupt,
                unsent,
            } = truth;
            writeln!(
                out,
                "  truth       {published} published, {delivered} delivered, {lost} lost, \
                 {duplicated} duplicated, {reordered} reordered, {corrupt} corrupt, {unsent} unsent"
            )?;
        }
        if self.window_restarts > 0 {
            writeln!(
                out,
                "  {} times a window waited a second for lost messages: speed is understated",
                self.window_restarts
            )?;
        }
        for promise in &self.broken_promises {
            writeln!(out, "  BROKEN PROMISE: {promise}")?;
        }
        Ok(())
    }
}
