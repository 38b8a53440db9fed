//! A shard's end of its log: hands frames to the writer, and tells the shard what became of them.

#![forbid(unsafe_code)]

use super::writer::{Request, Response, Writer, size_of_pieces};
use crate::journal::Lsn;
use crate::limits::{DISK_PATIENCE, JOURNAL_BYTES_MAX};
use crate::shard::{Effects, Shard, Snapshot};
use crate::time::Instant;
use crossbeam::channel::{Receiver, Sender};
use std::thread::JoinHandle;
use std::time::Duration;

/// Requests and answers under way: a write, what may be forgotten, and some room.
pub(super) const REQUESTS_MAX: usize = 4;
/// Bytes of journal that a snapshot adds to a write.
const SNAPSHOT_STEP: usize = 64 * 1024;
/// Steps of a snapshot that had nothing to say, in one turn.
const SNAPSHOT_STEPS_MAX: usize = 4;
/// How long the end of a shard waits for its last write.
const FINISH_MAX: Duration = Duration::from_secs(10);
/// The same if the disk has refused it: it is asked once or twice more. Nobody was told that it is stored.
const FINISH_REFUSED_MAX: Duration = Duration::from_millis(600);

/// The log of one shard.
pub struct Log {
    requests: Option<Sender<Request>>,
    responses: Receiver<Response>,
    writer: Option<Writer>,
    thread: Option<JoinHandle<()>>,
    is_writing: bool,
    writing_since: Instant,
    /// The writer has said that the disk takes nothing.
    is_refused: bool,
    /// The write under way has been waited for too long, or by too much.
    is_late: bool,
    /// The last frame that is known to be on stable storage.
    synced: Lsn,
    /// Memory of frames that were written.
    buffer: Vec<Vec<u8>>,
    next: Lsn,
    /// Bytes written since a snapshot last began.
    grown: u64,
    /// The size from which another one is worth its while.
    grown_max: u64,
    grown_min: u64,
    /// What is on the disk is to be said anew, however short it is.
    is_outdated: bool,
    /// A snapshot that is said to its end, and whether the shards were asked what is under way.
    finished: Option<(Snapshot, bool)>,
    /// No snapshot that began before this frame replaces anything: the disk may not have all of it.
    lost: Lsn,
}

impl std::fmt::Debug for Log {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Log")
            .field("next", &self.next)
            .finish_non_exhaustive()
    }
}

impl Log {
    pub(super) fn new(
        requests: Sender<Request>,
        responses: Receiver<Response>,
        writer: Writer,
        next: Lsn,
        grown: u64,
        grown_min: u64,
        alive: u64,
    ) -> Self {
        Self {
            requests: Some(requests),
            responses,
            writer: Some(writer),
            thread: None,
            is_writing: false,
            writing_since: Instant::ZERO,
            is_refused: false,
            is_late: false,
            synced: next - 1,
            buffer: Vec::new(),
            next,
            grown,
            // What was read is not written again because it was read.
            grown_max: grown_min.max(2 * alive),
            grown_min,
            is_outdated: false,
            finished: None,
            lost: 0,
        }
    }

    /// Starts the writer, whose thread does `begin` first. `wake` ends a wait of the shard.
    ///
    /// # Errors
    /// If there can be no more threads.
    pub fn start(
        &mut self,
        wake: Box<dyn Fn() + Send>,
        begin: impl FnOnce() + Send + 'static,
    ) -> std::io::Result<()> {
        if let Some(mut writer) = self.writer.take() {
            writer.wake = wake;
            let name = format!("fastmq-wal-{}", writer.shard);
            let thread = std::thread::Builder::new().name(name);
            self.thread = Some(thread.spawn(move || {
                begin();
                writer.run();
            })?);
        }
        Ok(())
    }

    /// The writer, for who drives it by hand instead of starting it.
    pub fn take_writer(&mut self) -> Option<Writer> {
        self.writer.take()
    }

    /// Whether [`Log::turn`] has something to do that nobody will wake the shard for.
    #[must_use]
    pub fn has_work(&self, shard: &Shard) -> bool {
        !self.is_writing && (shard.has_journal() || shard.is_in_snapshot())
    }

    /// Has everything said anew: what is on the disk is not right any more.
    pub const fn say_anew(&mut self) {
        self.is_outdated = true;
    }

    /// Whether the disk is at work.
    #[cfg(test)]
    pub(super) const fn is_writing(&self) -> bool {
        self.is_writing
    }

    /// Passes on what the disk has done, and gives it what has come meanwhile.
    pub fn turn(&mut self, shard: &mut Shard, now: Instant, effects: &mut Effects) {
        // HOT: per turn. A writer that was asked nothing since and has nothing to make good has nothing to say.
        if self.is_writing || self.synced + 1 < self.next || self.is_refused || self.lost > 0 {
            while let Ok(response) = self.responses.try_recv() {
                self.handle(response, shard, now, effects);
            }
        }
        if let Some((snapshot, true)) = self.finished
            && shard.is_settled()
        {
            self.forget(snapshot);
        }
        if self.is_writing {
            self.look_at_the_disk(shard, now, effects);
            return;
        }
        let is_said = self.advance_snapshot(shard);
        if let Some(last) = shard.take_journal(&mut self.buffer) {
            self.grown += size_of_pieces(&self.buffer);
            let request = Request::Write {
                frames: std::mem::take(&mut self.buffer),
                first: self.next,
                last,
            };
            self.next = last + 1;
            self.is_writing = true;
            self.writing_since = now;
            self.send(request);
        }
        if is_said {
            // The log may grow to some times what is alive in it.
            self.grown_max = self.grown_min.max(2 * self.grown);
        }
    }

    /// When [`Log::turn`] is next worth a call, if the disk does not answer before.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        let is_waited_for = self.is_writing && !self.is_late && !self.is_refused;
        is_waited_for.then(|| self.writing_since + DISK_PATIENCE)
    }

    /// A disk that hangs gives no error, and what waits for it may not grow without end.
    fn look_at_the_disk(&mut self, shard: &mut Shard, now: Instant, effects: &mut Effects) {
        if self.is_late || self.is_refused {
            return;
        }
        let waiting = shard.journal_size();
        let since = now - self.writing_since;
        if since >= DISK_PATIENCE || waiting > JOURNAL_BYTES_MAX {
            tracing::error!(
                "a write has taken {:.1} s and {} MiB wait for it; what must be stored is refused until the disk is done",
                since.as_secs_f64(),
                waiting >> 20
            );
            self.is_late = true;
            self.tell_stalled(shard, now, effects);
        }
    }

    fn tell_stalled(&self, shard: &mut Shard, now: Instant, effects: &mut Effects) {
        shard.handle_store_stalled(self.is_refused || self.is_late, now, effects);
    }

    /// What a snapshot has replaced is not needed.
    fn forget(&mut self, snapshot: Snapshot) {
        self.finished = None;
        self.send(Request::Forget {
            before: snapshot.began,
        });
    }

    fn send(&self, request: Request) {
        if let Some(requests) = &self.requests {
            // The writer ends after its shard only.
            let _ = requests.send(request);
        }
    }

    fn handle(
        &mut self,
        response: Response,
        shard: &mut Shard,
        now: Instant,
        effects: &mut Effects,
    ) {
        match response {
            Response::Written { frames, last } => {
                self.is_writing = false;
                self.buffer = frames;
                shard.handle_durable(last, now, effects);
                if self.is_late {
                    tracing::info!("the disk is done with what took too long");
                    self.is_late = false;
                    self.tell_stalled(shard, now, effects);
                }
            }
            Response::Synced { last } => {
                self.synced = self.synced.max(last);
                shard.handle_synced(last);
                // Only what is on the disk replaces what is.
                if let Some((snapshot, asked)) = &mut self.finished
                    && !*asked
                    && snapshot.ended <= last
                {
                    *asked = true;
                    shard.begin_settling();
                }
            }
            Response::Lost { last } => {
                self.lost = last;
                self.is_outdated = true;
                self.finished = None;
            }
            Response::Whole => self.lost = 0,
            Response::Moved => shard.handle_store_moved(),
            Response::Stalled(is_refused) => {
                self.is_refused = is_refused;
                self.tell_stalled(shard, now, effects);
            }
        }
    }

    /// Whether a snapshot has come to its end.
    fn advance_snapshot(&mut self, shard: &mut Shard) -> bool {
        if !shard.is_in_snapshot() {
            let is_due = self.grown >= self.grown_max || self.is_outdated;
            if !is_due || self.finished.is_some() {
                return false;
            }
            self.is_outdated = false;
            self.grown = 0;
            shard.begin_snapshot();
        }
        for _ in 0..SNAPSHOT_STEPS_MAX {
            let finished = shard.continue_snapshot(SNAPSHOT_STEP);
            if let Some(snapshot) = finished {
                let is_whole = snapshot.began > self.lost;
                self.finished = is_whole.then_some((snapshot, false));
                return true;
            }
            if shard.has_journal() {
                break;
            }
        }
        false
    }

    /// Writes what is left and waits for it, for some seconds. If something was lost, all is said anew before the end:
    /// the next start would find a gap, and everything behind it. Whether the log is whole then.
    pub fn finish(mut self, shard: &mut Shard, now: Instant, effects: &mut Effects) -> bool {
        let began = std::time::Instant::now();
        self.turn(shard, now, effects);
        while self.is_writing || shard.has_journal() || self.lost > 0 {
            if self.lost > 0
                && let Some((snapshot, true)) = self.finished
            {
                // Other shards may be gone, and say no more what is under way. Without a word from them some may get a
                // message of QoS 2 twice, if it was not acknowledged; no start without help is worse.
                self.forget(snapshot);
            }
            let most = if self.is_refused {
                FINISH_REFUSED_MAX
            } else {
                FINISH_MAX
            };
            match self
                .responses
                .recv_timeout(most.saturating_sub(began.elapsed()))
            {
                Ok(response) => self.handle(response, shard, now, effects),
                Err(_) => {
                    tracing::error!("the last changes of a shard could not be stored");
                    return false;
                }
            }
            self.turn(shard, now, effects);
        }
        self.requests = None;
        if let Some(thread) = self.thread.take() {
            // A panic of the writer ended the process already.
            let _ = thread.join();
        }
        true
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::key::ShardId;
    use crate::limits::Limits;
    use crate::shard::Envelope;
    use crate::sim::{Disk, Random};
    use crate::wal::StoreOptions;
    use crossbeam::channel::unbounded;

    #[test]
    fn an_end_after_a_loss_waits_for_no_word_of_other_shards_which_may_be_gone() {
        let disk = Disk::new(Random::new(1));
        let mut store = disk.open(&StoreOptions::new("unused".into()), 2, 7);
        let store = store.as_mut().unwrap();
        let mut shard = Shard::new(ShardId(0), 2, Limits::default(), 7);
        store
            .shards
            .remove(0)
            .restore(&mut shard, 0, 2, Instant::ZERO);
        let mut log = store.logs.remove(0);
        let (requests, asked) = unbounded();
        let (answer, responses) = unbounded();
        (log.requests, log.responses) = (Some(requests), responses);
        // What is lost is the end of a log that is written to.
        let effects = &mut Effects::default();
        shard.begin_snapshot();
        log.turn(&mut shard, Instant::ZERO, effects);
        let Ok(Request::Write { frames, last, .. }) = asked.recv() else {
            panic!("nothing is written");
        };
        let lost = last;
        answer.send(Response::Written { frames, last }).unwrap();
        answer.send(Response::Lost { last }).unwrap();
        let writer = std::thread::spawn(move || {
            let mut forgotten = Vec::new();
            for request in asked {
                match request {
                    Request::Write { frames, last, .. } => {
                        answer.send(Response::Written { frames, last }).unwrap();
                        answer.send(Response::Synced { last }).unwrap();
                    }
                    Request::Forget { before } => {
                        forgotten.push(before);
                        answer.send(Response::Whole).unwrap();
                    }
                }
            }
            forgotten
        });
        assert!(log.finish(&mut shard, Instant::ZERO, effects));
        let forgotten = writer.join().unwrap();
        assert!(forgotten.len() == 1 && forgotten[0] > lost);
    }

    #[test]
    fn shards_that_are_asked_once_more_what_they_have_under_way_are_not_taken_for_settled_by_what_they_said_before()
     {
        let disk = Disk::new(Random::new(1));
        let mut store = disk
            .open(&StoreOptions::new("unused".into()), 2, 7)
            .unwrap();
        let mut shard = Shard::new(ShardId(0), 2, Limits::default(), 7);
        let part = store.shards.remove(0);
        part.restore(&mut shard, 0, 2, Instant::ZERO);
        let says = |shard: &mut Shard, round| {
            let (answer, effects) = (Envelope::Settled { round }, &mut Effects::default());
            let rest =
                shard.handle_envelope(ShardId(1), answer, usize::MAX, Instant::ZERO, effects);
            assert!(rest.is_none());
        };
        // What was said anew is lost before the other shard has answered, and is said once more.
        shard.begin_settling();
        shard.begin_settling();
        says(&mut shard, 1);
        assert!(!shard.is_settled());
        says(&mut shard, 2);
        assert!(shard.is_settled());
    }
}
