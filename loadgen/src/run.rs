//! One run: starts the engines, tells them what to do when, and collects what they found.

use std::collections::BTreeMap;
use std::net::{SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use fastmq::runtime::{self, NoticesSender, Placed, Running};
use hdrhistogram::Histogram;

use crate::clock::Clock;
use crate::engine::{Command, End, Engine, Event, Interval, Run, histogram};
use crate::failure::Failure;
use crate::options::Common;
use crate::plan::{Plan, Script};
use crate::process::{self, Cost};
use crate::progress::Progress;
use crate::result::Truth;

/// Files this process needs besides its connections, for one thread and for each further one.
const OTHER_FILES: u64 = 32;
const THREAD_FILES: u64 = 16;
/// Nothing gets ready for so long: the run cannot be made.
const SETUP_STALL: Duration = Duration::from_secs(10);
/// The whole drain, however slowly it moves.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Quiet time after the last expected message, in which duplicates would show.
const QUIET: Duration = Duration::from_millis(100);
/// How often the main thread looks at how far the engines are.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Until all engines have said what they found.
const END_MAX: Duration = Duration::from_secs(10);

/// One line of the timeline.
#[derive(Debug)]
pub struct Line {
    pub start_s: f64,
    pub end_s: f64,
    pub published: u64,
    pub delivered: u64,
    pub intended: Histogram<u64>,
    threads: usize,
}

/// What a run found.
#[derive(Debug)]
pub struct Outcome {
    pub error: Option<Failure>,
    pub measured_s: f64,
    pub published: u64,
    pub delivered: u64,
    pub truth: Truth,
    /// Every promise the broker broke.
    pub broken: Vec<String>,
    pub intended: Histogram<u64>,
    pub actual: Option<Histogram<u64>>,
    pub lines: Vec<Line>,
    pub overruns: u64,
    pub window_restarts: u64,
    pub cost: Option<Cost>,
    pub generator_cpu_s: f64,
    /// Of the busiest thread.
    pub cpu_share: f64,
    pub connections: u64,
    /// Resident memory of the broker before and with the connections of an idle run.
    pub memory_kib: Option<(u64, u64)>,
}

pub fn resolve(common: &Common) -> Result<SocketAddr, Failure> {
    let resolved = (common.host.as_str(), common.port).to_socket_addrs();
    let first = resolved.and_then(|mut all| {
        all.next()
            .ok_or_else(|| std::io::ErrorKind::NotFound.into())
    });
    first.map_err(|source| Failure::Address {
        host: common.host.clone(),
        port: common.port,
        source,
    })
}

/// Makes the run. An error here means that nothing was started.
pub fn execute(
    plan: Plan,
    common: &Common,
    address: SocketAddr,
    progress: &Progress,
) -> Result<Outcome, Failure> {
    let connections = plan.clients.len() as u64;
    let threads = usize::from(plan.threads);
    allow_files(&plan)?;
    runtime::preflight(threads)?;
    let placed = place(common, threads)?;
    let run = Arc::new(Run::new(plan, common, address, Clock::start())?);
    let (sender, events) = channel();
    let engines = run.clone();
    let listeners = (0..threads).map(|_| Vec::new()).collect();
    let running = runtime::start(
        &placed,
        listeners,
        &NoticesSender::nowhere(),
        move |shard, _| Engine::new(shard, &engines, sender.clone()),
    )?;
    let mut conductor = Conductor {
        common,
        run,
        events,
        progress,
        lines: BTreeMap::new(),
        intended: histogram(),
        actual: histogram(),
        published: 0,
        delivered: 0,
        busy: Vec::new(),
        ends: Vec::new(),
        cost: None,
        memory_kib: None,
        measured_s: None,
    };
    let played = conductor.play();
    Ok(conductor.finish(played.err(), running, connections))
}

/// Raises the limit of open files, and says so if it cannot be enough.
pub fn allow_files(plan: &Plan) -> Result<(), Failure> {
    let count = plan.clients.len() as u64;
    let connections = match plan.script {
        Script::Visits => count.min(plan.under_way_max as u64),
        _ => count,
    };
    let limit = process::raise_open_files_limit()?;
    let further_threads = u64::from(plan.threads) - 1;
    let needed_files = connections + OTHER_FILES + THREAD_FILES * further_threads;
    if needed_files > limit {
        return Err(Failure::TooFewFiles {
            needed: connections,
            needed_files,
            limit,
        });
    }
    Ok(())
}

fn place(common: &Common, threads: usize) -> Result<Vec<Placed>, Failure> {
    let Some(cpus) = &common.cpus else {
        return Ok(vec![Placed::Anywhere; threads]);
    };
    if cpus.0.len() < threads {
        return Err(Failure::Options(format!(
            "--threads {threads} needs as many --cpus"
        )));
    }
    let pinned = cpus.0[..threads].iter();
    Ok(pinned.map(|&cpu| Placed::Pinned(cpu)).collect())
}

struct Conductor<'a> {
    common: &'a Common,
    run: Arc<Run>,
    events: Receiver<Event>,
    progress: &'a Progress,
    lines: BTreeMap<u64, Line>,
    intended: Histogram<u64>,
    actual: Histogram<u64>,
    published: u64,
    delivered: u64,
    /// CPU time and time of each interval of a thread, seconds.
    busy: Vec<(f64, f64)>,
    ends: Vec<End>,
    cost: Option<Cost>,
    memory_kib: Option<(u64, u64)>,
    measured_s: Option<f64>,
}

impl Conductor<'_> {
    fn play(&mut self) -> Result<(), Failure> {
        match self.run.plan.script {
            Script::Load => self.play_load(),
            Script::Retained => self.play_retained(),
            Script::Reconnect => self.play_reconnect(),
            Script::Visits => self.play_visits(),
            Script::Hold { timed } => self.play_hold(timed),
        }
    }

    fn play_load(&mut self) -> Result<(), Failure> {
        self.connect(0)?;
        let start_ns = self.run.clock.now_ns() + 20_000_000;
        let from_ns = start_ns + nanoseconds(self.common.warmup);
        let stop_ns = from_ns + nanoseconds(self.common.duration);
        self.run.command(Command::Stop(stop_ns));
        self.run.command(Command::Begin { start_ns, from_ns });
        self.progress
            .phase("warm-up", self.common.warmup + self.common.duration);
        self.wait_until(from_ns)?;
        let before = self.sample()?;
        self.wait_until(stop_ns)?;
        self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
        self.drain()
    }

    fn play_retained(&mut self) -> Result<(), Failure> {
        self.connect(0)?;
        self.wait_for_quotas("retained messages stored")?;
        let clients = self.run.plan.clients.iter();
        let wanted: u64 = clients
            .filter(|client| client.stage == 1)
            .map(|client| {
                let publisher = &self.run.plan.publishers[client.first_source as usize];
                publisher.topic_names.len() as u64
            })
            .sum();
        self.storm(Command::Connect(1), wanted)
    }

    fn play_reconnect(&mut self) -> Result<(), Failure> {
        let subscribers = self.connect(0)?;
        self.run.command(Command::Disconnect(0));
        self.wait_for("subscribers gone", subscribers, SETUP_STALL, |run| {
            run.sum(|status| &status.left)
        })?;
        self.connect(1)?;
        let wanted = self.wait_for_quotas("messages queued")?;
        self.storm(Command::Resume(0), wanted)
    }

    /// Everything that is stored is asked for at once.
    fn storm(&mut self, command: Command, wanted: u64) -> Result<(), Failure> {
        let before = self.sample()?;
        let from_ns = self.begin_now();
        self.run.command(command);
        self.progress.phase("storm", 0.0);
        let stall = Duration::from_secs_f64(self.common.drain.max(0.1));
        let arrived = self.wait_for("messages delivered", wanted, stall, |run| {
            run.sum(|status| &status.delivered)
        });
        match arrived {
            // What is missing shows in the truth.
            Ok(()) | Err(Failure::Deadline { .. }) => {}
            Err(failure) => return Err(failure),
        }
        self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
        self.stop_now(from_ns)?;
        self.wait(QUIET)
    }

    fn play_visits(&mut self) -> Result<(), Failure> {
        let before = self.sample()?;
        let from_ns = self.begin_now();
        self.progress.phase("connecting", 0.0);
        self.run.command(Command::Connect(0));
        let wanted = self.run.plan.clients.len() as u64;
        let what = "connections made and closed";
        self.wait_for(what, wanted, SETUP_STALL, |run| {
            run.sum(|status| &status.left)
        })?;
        self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
        self.stop_now(from_ns)
    }

    fn play_hold(&mut self, timed: bool) -> Result<(), Failure> {
        let memory = |process_id: u32| {
            process::memory(process_id).map_err(|source| Failure::Process { process_id, source })
        };
        let memory_before = self.common.broker_pid.map(memory).transpose()?;
        let mut before = self.sample()?;
        let from_ns = if timed { self.begin_now() } else { 0 };
        let wanted = self.connect(0)?;
        if timed {
            self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
            self.stop_now(from_ns)?;
        } else {
            before = self.sample()?;
        }
        self.progress.phase("idle", self.common.duration);
        self.wait(Duration::from_secs_f64(self.common.duration))?;
        let memory_after = self.common.broker_pid.map(memory).transpose()?;
        self.memory_kib = memory_before
            .zip(memory_after)
            .map(|(before, after)| (before.now_kib, after.now_kib));
        if !timed {
            self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
            self.measured_s = Some(self.common.duration);
        }
        self.run.command(Command::Ping);
        let what = "connections answered PINGREQ";
        self.wait_for(what, wanted, SETUP_STALL, |run| {
            run.sum(|status| &status.pongs)
        })
    }

    fn begin_now(&mut self) -> u64 {
        let start_ns = self.run.clock.now_ns();
        self.run.command(Command::Begin {
            start_ns,
            from_ns: start_ns,
        });
        start_ns
    }

    /// Ends what [`Conductor::begin_now`] began. It took until the last delivery.
    fn stop_now(&mut self, from_ns: u64) -> Result<(), Failure> {
        let last = self.run.status.iter();
        let last_ns = last.map(|status| status.last_delivery_ns.load(Ordering::Relaxed));
        let last_ns = last_ns.max().unwrap_or(0);
        self.measured_s = Some(last_ns.saturating_sub(from_ns).max(1) as f64 / 1e9);
        self.run.command(Command::Stop(self.run.clock.now_ns()));
        self.wait(Duration::from_millis(30))
    }

    /// Connects a stage, and tells how many clients that were.
    fn connect(&mut self, stage: u8) -> Result<u64, Failure> {
        let before = self.run.sum(|status| &status.ready);
        let clients = self.run.plan.clients.iter();
        let count = clients.filter(|client| client.stage == stage).count() as u64;
        self.progress.phase("connecting", 0.0);
        self.run.command(Command::Connect(stage));
        self.wait_for("connections ready", count, SETUP_STALL, |run| {
            run.sum(|status| &status.ready) - before
        })?;
        Ok(count)
    }

    fn wait_for_quotas(&mut self, what: &'static str) -> Result<u64, Failure> {
        let quotas = self.run.plan.publishers.iter();
        let wanted = quotas.filter_map(|publisher| publisher.quota).sum();
        self.progress.phase(what, 0.0);
        self.wait_for(what, wanted, SETUP_STALL, |run| {
            run.sum(|status| &status.published)
        })?;
        // At QoS 0 nothing tells when the broker has them; what follows comes later anyway.
        self.wait_for(what, 1, SETUP_STALL, |run| {
            u64::from(run.sum(|status| &status.outstanding) == 0)
        })?;
        self.wait(QUIET)?;
        Ok(wanted)
    }

    /// Waits until all is through, or nothing moves.
    fn drain(&mut self) -> Result<(), Failure> {
        let stall = Duration::from_secs_f64(self.common.drain);
        let began = Instant::now();
        let mut moved = (began, 0);
        let mut through_since = None;
        self.progress.phase("drain", 0.0);
        // The engines have looked at what is outstanding after they stopped.
        self.wait(Duration::from_millis(30))?;
        while began.elapsed() < DRAIN_MAX {
            self.wait(LOOK_EVERY)?;
            let delivered = self.run.sum(|status| &status.delivered);
            if self.run.sum(|status| &status.outstanding) == 0 {
                let since = *through_since.get_or_insert_with(Instant::now);
                if since.elapsed() > QUIET {
                    return Ok(());
                }
            } else if moved.1 != delivered {
                moved = (Instant::now(), delivered);
            } else if moved.0.elapsed() > stall {
                return Ok(());
            }
        }
        Ok(())
    }

    fn wait_for(
        &mut self,
        what: &'static str,
        wanted: u64,
        stall: Duration,
        done: impl Fn(&Run) -> u64,
    ) -> Result<(), Failure> {
        let began = Instant::now();
        let mut moved = (began, 0);
        loop {
            let count = done(&self.run);
            if count >= wanted {
                return Ok(());
            }
            if moved.1 != count {
                moved = (Instant::now(), count);
            } else if moved.0.elapsed() > stall {
                return Err(Failure::Deadline {
                    what,
                    done: count,
                    wanted,
                    seconds: began.elapsed().as_secs_f64(),
                });
            }
            self.wait(LOOK_EVERY)?;
        }
    }

    fn wait_until(&mut self, at_ns: u64) -> Result<(), Failure> {
        let now_ns = self.run.clock.now_ns();
        self.wait(Duration::from_nanos(at_ns.saturating_sub(now_ns)))
    }

    /// Takes what the engines report meanwhile.
    fn wait(&mut self, time: Duration) -> Result<(), Failure> {
        let until = Instant::now() + time;
        loop {
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => self.handle_event(event)?,
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    let gone = std::io::Error::other("the threads of the generator are gone");
                    return Err(gone.into());
                }
            }
        }
    }

    fn handle_event(&mut self, event: Event) -> Result<(), Failure> {
        match event {
            Event::Interval(interval) => self.handle_interval(&interval),
            Event::Failed(failure) => return Err(self.explain(failure)),
            Event::End(end) => self.ends.push(*end),
        }
        Ok(())
    }

    /// A dead broker says more than a closed connection.
    fn explain(&self, failure: Failure) -> Failure {
        if let (Failure::Closed { .. }, Some(process_id)) = (&failure, self.common.broker_pid) {
            // Its sockets close a moment before it is gone.
            std::thread::sleep(Duration::from_millis(200));
            if !process::is_alive(process_id) {
                return Failure::BrokerDied(process_id);
            }
        }
        failure
    }

    fn handle_interval(&mut self, interval: &Interval) {
        let seconds = (interval.end_ns - interval.start_ns) as f64 / 1e9;
        self.published += interval.published;
        self.delivered += interval.delivered;
        self.busy.push((interval.cpu_ns as f64 / 1e9, seconds));
        // Same bounds on both sides.
        let _ = self.intended.add(&interval.intended);
        let _ = self.actual.add(&interval.actual);
        let threads = usize::from(self.run.plan.threads);
        let line = self.lines.entry(interval.index).or_insert_with(|| Line {
            start_s: interval.start_ns as f64 / 1e9,
            end_s: interval.end_ns as f64 / 1e9,
            published: 0,
            delivered: 0,
            intended: histogram(),
            threads: 0,
        });
        line.published += interval.published;
        line.delivered += interval.delivered;
        let _ = line.intended.add(&interval.intended);
        line.threads += 1;
        if line.threads == threads {
            self.progress.line(line);
        }
    }

    fn sample(&self) -> Result<Option<Cost>, Failure> {
        let sample = |process_id| {
            Cost::sample(process_id).map_err(|source| Failure::Process { process_id, source })
        };
        self.common.broker_pid.map(sample).transpose()
    }

    /// Ends the engines, and makes one thing of what they found.
    fn finish(mut self, error: Option<Failure>, running: Running, connections: u64) -> Outcome {
        if error.is_some() {
            // What was measured until now is kept.
            self.run.command(Command::Stop(self.run.clock.now_ns()));
            let _ = self.wait(Duration::from_millis(50));
        }
        running.stopper().stop();
        let until = Instant::now() + END_MAX;
        while self.ends.len() < self.run.status.len() && Instant::now() < until {
            // A failure while ending is none.
            let _ = self.wait(LOOK_EVERY);
        }
        self.progress.phase("closing", 0.0);
        let joined = running.join().err().map(Failure::from);
        let error = error.or(joined);
        let (truth, broken) = self.truth();
        let is_load = self.run.plan.script == Script::Load;
        let cpu_s = 0.0 + self.busy.iter().map(|(cpu, _)| cpu).sum::<f64>();
        // The sum of nothing is a negative zero.
        let time_s = 0.0 + self.busy.iter().map(|(_, time)| time).sum::<f64>();
        let threads = self.run.status.len() as f64;
        let published = self.run.sum(|status| &status.published);
        let delivered = self.run.sum(|status| &status.delivered);
        for end in &self.ends {
            let _ = self.intended.add(&end.intended);
            let _ = self.actual.add(&end.actual);
        }
        Outcome {
            error,
            measured_s: self.measured_s.unwrap_or(time_s / threads),
            published: if is_load { self.published } else { published },
            delivered: if is_load { self.delivered } else { delivered },
            truth,
            broken,
            actual: (!self.actual.is_empty()).then_some(self.actual),
            intended: self.intended,
            lines: self.lines.into_values().collect(),
            overruns: self.ends.iter().map(|end| end.overruns).sum(),
            window_restarts: self.ends.iter().map(|end| end.window_restarts).sum(),
            cost: self.cost,
            generator_cpu_s: cpu_s,
            cpu_share: if time_s > 0.0 { cpu_s / time_s } else { 0.0 },
            connections,
            memory_kib: self.memory_kib,
        }
    }

    fn truth(&self) -> (Truth, Vec<String>) {
        let mut truth = Truth::default();
        let plan = &self.run.plan;
        let mut published = vec![0; plan.publishers.len()];
        // Lost, duplicated, reordered and unsent, by QoS.
        let mut by_qos = [[0_u64; 4]; 3];
        for end in &self.ends {
            truth.corrupt += end.corrupt;
            for publisher in &end.publishers {
                let plan = &plan.publishers[publisher.publisher as usize];
                published[publisher.publisher as usize] = publisher.published;
                let counts = &mut by_qos[usize::from(plan.qos)];
                counts[3] += publisher.unsent;
                if plan.is_shared {
                    let arrived = publisher.arrivals - publisher.surplus;
                    counts[0] += publisher.published.saturating_sub(arrived);
                    counts[1] += publisher.surplus;
                }
            }
        }
        for end in self.ends.iter().flat_map(|end| &end.flows) {
            let source = &plan.publishers[end.publisher as usize];
            let counts = &mut by_qos[usize::from(end.qos)];
            let topics = source.topic_names.len() as u64;
            let sent = published[end.publisher as usize];
            let expected = (sent + topics - 1).saturating_sub(end.topic) / topics;
            if !end.is_shared {
                counts[0] += end.flow.lost(expected);
                counts[1] += end.flow.duplicated();
            }
            counts[2] += end.flow.reordered();
        }
        let mut broken = Vec::new();
        for (qos, &[lost, duplicated, reordered, unsent]) in by_qos.iter().enumerate() {
            truth.lost += lost;
            truth.duplicated += duplicated;
            truth.reordered += reordered;
            truth.unsent += unsent;
            let promises = [
                (qos > 0, lost, "messages lost"),
                // At most once, and exactly once; only at least once may repeat.
                (qos != 1, duplicated, "messages delivered more than once"),
                (true, reordered, "messages delivered out of order"),
                (qos > 0, unsent, "messages never accepted"),
            ];
            for (promised, count, what) in promises {
                if promised && count > 0 {
                    broken.push(format!("{count} {what} at QoS {qos}"));
                }
            }
        }
        if truth.corrupt > 0 {
            let what = "messages changed or delivered to the wrong subscriber";
            broken.push(format!("{} {what}", truth.corrupt));
        }
        truth.passed = broken.is_empty();
        (truth, broken)
    }
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
