//! Commands the engines through a run, and waits for what must happen before the next command.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use fastmq::runtime::Running;
use hdrhistogram::Histogram;

use crate::engine::{Command, End, Event, Interval, Run, Status, TICK_NS, histogram};
use crate::failure::Failure;
use crate::interrupt;
use crate::options::Common;
use crate::plan::{Plan, Script};
use crate::process::{self, Cost};
use crate::progress::Progress;

use super::{Line, Outcome, Stored};

/// The whole drain, however slowly it moves.
const DRAIN_MAX: Duration = Duration::from_secs(60);
/// Quiet time after the last expected message, in which duplicates would show.
const QUIET: Duration = Duration::from_millis(100);
/// How often the main thread looks at how far the engines are.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How often it looks whether a signal came.
const HEED_EVERY: Duration = Duration::from_millis(100);
/// Until all engines have said what they found.
const END_MAX: Duration = Duration::from_secs(10);

pub(super) struct Conductor<'a> {
    pub(super) common: &'a Common,
    pub(super) run: Arc<Run>,
    pub(super) events: Receiver<Event>,
    pub(super) progress: &'a Progress,
    pub(super) lines: BTreeMap<u64, Line>,
    pub(super) intended: Histogram<u64>,
    pub(super) actual: Histogram<u64>,
    pub(super) published: u64,
    pub(super) delivered: u64,
    /// CPU time and measured time of each thread, seconds.
    pub(super) busy: Vec<(f64, f64)>,
    pub(super) ends: Vec<End>,
    pub(super) cost: Option<Cost>,
    /// What was delivered between the two moments of that, where it is not all.
    pub(super) cost_delivered: Option<u64>,
    pub(super) stored: Option<Stored>,
    pub(super) memory_kib: Option<(u64, u64)>,
    pub(super) measured_s: Option<f64>,
    /// A signal ends what is waited for.
    pub(super) heeds_interrupts: bool,
}

impl Conductor<'_> {
    pub(super) fn play(&mut self) -> Result<(), Failure> {
        match self.run.plan.script {
            Script::Load => self.play_load(),
            Script::Retained => self.play_retained(),
            Script::Reconnect => self.play_reconnect(),
            Script::Visits => self.play_visits(),
            Script::Hold { timed } => self.play_hold(timed),
        }
    }

    fn play_load(&mut self) -> Result<(), Failure> {
        interrupt::heed()?;
        self.heeds_interrupts = true;
        self.connect(0)?;
        let start_ns = self.run.clock.now_ns() + 20_000_000;
        let from_ns = start_ns + nanoseconds(self.common.warmup);
        let stop_ns = from_ns + nanoseconds(self.common.duration);
        self.run.command(Command::Stop(stop_ns));
        self.run.command(Command::Begin { start_ns, from_ns });
        self.progress
            .phase("warm-up", self.common.warmup + self.common.duration);
        let measured = self.measure(from_ns, stop_ns);
        self.heeds_interrupts = false;
        match measured {
            // What is under way is not lost yet.
            Err(Failure::Interrupted) => self.run.command(Command::Stop(self.run.clock.now_ns())),
            Err(_) => return measured,
            Ok(()) => {}
        }
        self.drain()?;
        measured
    }

    fn measure(&mut self, from_ns: u64, stop_ns: u64) -> Result<(), Failure> {
        self.wait_until(from_ns)?;
        // This thread may be woken late, and not as late as the engines: what they deliver in their intervals is not
        // what the broker worked for in this one.
        let delivered = |run: &Run| run.sum(|status| &status.delivered);
        let (before, delivered_before) = (self.sample()?, delivered(&self.run));
        let ended = self.wait_until(stop_ns);
        if matches!(ended, Ok(()) | Err(Failure::Interrupted)) {
            self.cost = self.sample()?.zip(before).map(|(a, b)| a.since(&b));
            self.cost_delivered = Some(delivered(&self.run) - delivered_before);
        }
        ended
    }

    fn play_retained(&mut self) -> Result<(), Failure> {
        let before = self.sample()?;
        self.connect(0)?;
        let stored = self.store("retained messages stored", before)?;
        let clients = self.run.plan.clients.iter();
        let subscribers = clients.filter(|client| client.stage == 1).count() as u64;
        // One publisher, and a topic for each message.
        self.storm(Command::Connect(1), subscribers * stored)
    }

    fn play_reconnect(&mut self) -> Result<(), Failure> {
        let subscribers = self.connect(0)?;
        self.run.command(Command::Disconnect(0));
        self.wait_for("subscribers gone", subscribers, self.patience(), |run| {
            run.sum(|status| &status.left)
        })?;
        let before = self.sample()?;
        self.connect(1)?;
        let wanted = self.store("messages queued", before)?;
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
        // Connecting to ask is not what is measured.
        let asked = self.run.status.iter();
        let asked = asked.map(|status| status.first_ask_ns.load(Ordering::Relaxed));
        let asked_ns = asked.filter(|&at_ns| at_ns > 0).min();
        self.stop_now(asked_ns.unwrap_or(from_ns))?;
        self.drain()
    }

    fn play_visits(&mut self) -> Result<(), Failure> {
        let before = self.sample()?;
        let from_ns = self.begin_now();
        let stop_ns = from_ns + nanoseconds(self.common.duration);
        self.progress.phase("connecting", self.common.duration);
        self.run.command(Command::Stop(stop_ns));
        self.run.command(Command::Connect(0));
        let wanted = self.run.plan.clients.len() as u64;
        let what = "connections made and closed";
        self.wait_for(what, wanted, self.patience(), |run| {
            let left = run.sum(|status| &status.left);
            // After the time is up only those that were begun are waited for.
            let is_over = run.clock.now_ns() > stop_ns + 2 * TICK_NS;
            let is_done = is_over && left >= run.sum(|status| &status.published);
            if is_done { wanted } else { left }
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
        self.wait_for(what, wanted, self.patience(), |run| {
            run.sum(|status| &status.pongs)
        })
    }

    fn patience(&self) -> Duration {
        Duration::from_secs_f64(self.common.patience)
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
        let now_ns = self.run.clock.now_ns();
        // Where nothing arrived, nothing arrived until now.
        let end_ns = if last_ns > from_ns { last_ns } else { now_ns };
        self.measured_s = Some((end_ns - from_ns).max(1) as f64 / 1e9);
        self.run.command(Command::Stop(now_ns));
        self.wait(Duration::from_millis(30))
    }

    /// Connects a stage, and tells how many clients that were.
    fn connect(&mut self, stage: u8) -> Result<u64, Failure> {
        let before = self.run.sum(|status| &status.ready);
        let clients = self.run.plan.clients.iter();
        let count = clients.filter(|client| client.stage == stage).count() as u64;
        self.progress.phase("connecting", 0.0);
        self.run.command(Command::Connect(stage));
        self.wait_for("connections ready", count, self.patience(), |run| {
            run.sum(|status| &status.ready) - before
        })?;
        Ok(count)
    }

    /// Waits until everything that is to be stored is, and tells how much was published. Where acknowledgements do not
    /// come, that is less: the broker broke a promise, and what it did with the rest is still worth knowing.
    fn store(&mut self, what: &'static str, before: Option<Cost>) -> Result<u64, Failure> {
        let quotas = self.run.plan.publishers.iter();
        let wanted = quotas.filter_map(|publisher| publisher.quota).sum();
        let is_acknowledged = self.run.plan.publishers.iter().all(|p| p.qos > 0);
        self.progress.phase(what, 0.0);
        let published = |run: &Run| run.sum(|status| &status.published);
        let finished = self
            .wait_for(what, wanted, self.patience(), published)
            .and_then(|()| {
                self.wait_for(what, 1, self.patience(), |run| {
                    u64::from(run.sum(|status| &status.outstanding) == 0)
                })
            });
        match finished {
            Err(Failure::Deadline { .. }) if is_acknowledged => {}
            _ => finished?,
        }
        if !is_acknowledged {
            // What nobody acknowledges is taken once a PINGREQ behind it is answered.
            let clients = self.run.plan.publishers.len() as u64;
            self.run.command(Command::Ping);
            self.wait_for(what, clients, self.patience(), |run| {
                run.sum(|status| &status.pongs)
            })?;
        }
        let at = |field: fn(&Status) -> &AtomicU64| {
            let values = self.run.status.iter();
            let values = values.map(move |status| field(status).load(Ordering::Relaxed));
            values.filter(|&at_ns| at_ns > 0)
        };
        let first_ns = at(|status| &status.first_publish_ns).min().unwrap_or(0);
        let last_ns = at(|status| &status.last_acknowledged_ns).max().unwrap_or(0);
        let acknowledged = self.run.sum(|status| &status.acknowledged);
        self.stored = Some(Stored {
            count: if is_acknowledged {
                acknowledged
            } else {
                wanted
            },
            seconds: last_ns.saturating_sub(first_ns).max(1) as f64 / 1e9,
            cost: self.sample()?.zip(before).map(|(a, b)| a.since(&b)),
        });
        self.wait(QUIET)?;
        Ok(published(&self.run))
    }

    /// Waits until all is through, or nothing moves.
    fn drain(&mut self) -> Result<(), Failure> {
        let stall = Duration::from_secs_f64(self.common.drain);
        let began = Instant::now();
        let mut moved = (began, (0, 0));
        let mut through_since = None;
        self.progress.phase("drain", 0.0);
        // The engines have looked at what is outstanding after they stopped.
        self.wait(Duration::from_millis(30))?;
        while began.elapsed() < DRAIN_MAX {
            self.wait(LOOK_EVERY)?;
            let outstanding = self.run.sum(|status| &status.outstanding);
            // Acknowledgements may come after all deliveries.
            let so_far = (self.run.sum(|status| &status.delivered), outstanding);
            if outstanding == 0 {
                let since = *through_since.get_or_insert_with(Instant::now);
                if since.elapsed() > QUIET {
                    return Ok(());
                }
            } else if moved.1 != so_far {
                moved = (Instant::now(), so_far);
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
            if self.heeds_interrupts && interrupt::came() {
                return Err(Failure::Interrupted);
            }
            let left = until.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left.min(HEED_EVERY)) {
                Ok(event) => self.handle_event(event)?,
                Err(RecvTimeoutError::Timeout) if left > HEED_EVERY => {}
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
        let (cpu_s, time_s) = &mut self.busy[interval.thread];
        *cpu_s += interval.cpu_ns as f64 / 1e9;
        *time_s += seconds;
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
    pub(super) fn finish(
        mut self,
        error: Option<Failure>,
        running: Running,
        connections: u64,
    ) -> Outcome {
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
        let broke_off = error
            .as_ref()
            .is_some_and(|failure| !matches!(failure, Failure::Interrupted));
        let verdict = self.verdict(broke_off);
        let is_load = self.run.plan.script == Script::Load;
        // The sum of nothing is a negative zero.
        let cpu_s = 0.0 + self.busy.iter().map(|(cpu, _)| cpu).sum::<f64>();
        let time_s = 0.0 + self.busy.iter().map(|(_, time)| time).sum::<f64>();
        let threads = self.run.status.len() as f64;
        let shares = self.busy.iter().filter(|(_, time)| *time > 0.0);
        let cpu_share = shares.map(|(cpu, time)| cpu / time).fold(0.0, f64::max);
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
            due_per_s: due_per_s(&self.run.plan),
            truth: verdict.truth,
            broken: verdict.broken,
            allowed: verdict.allowed,
            actual: (!self.actual.is_empty()).then_some(self.actual),
            intended: self.intended,
            lines: self.lines.into_values().collect(),
            overruns: self.ends.iter().map(|end| end.overruns).sum(),
            window_restarts: self.ends.iter().map(|end| end.window_restarts).sum(),
            windows_restricted: windows_restricted(&self.ends),
            expected: verdict.expected,
            due_deliveries: due_deliveries(&self.run.plan, self.published),
            cost_delivered: self.cost_delivered.unwrap_or(delivered),
            cost: self.cost,
            generator_cpu_s: cpu_s,
            cpu_share,
            stored: self.stored,
            connections,
            memory_kib: self.memory_kib,
        }
    }
}

fn windows_restricted(ends: &[End]) -> Option<(u64, u64)> {
    let count = ends.iter().map(|end| end.windows_restricted).sum();
    let least = ends.iter().map(|end| end.window_least).min()?;
    (count > 0).then_some((count, least))
}

/// Deliveries of so many messages of a load, where that does not depend on whose they are.
fn due_deliveries(plan: &Plan, published: u64) -> Option<u64> {
    let mut publishers = plan.publishers.iter();
    let needed = publishers.next()?.needed;
    let is_known = plan.script == Script::Load && publishers.all(|p| p.needed == needed);
    is_known.then(|| published * u64::from(needed))
}

fn due_per_s(plan: &Plan) -> Option<f64> {
    let all_scheduled = plan.publishers.iter().all(|p| p.schedule.is_some());
    (all_scheduled && !plan.schedules.is_empty()).then(|| plan.schedules.iter().sum())
}

fn nanoseconds(seconds: f64) -> u64 {
    (seconds * 1e9) as u64
}
