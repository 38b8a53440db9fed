//! How long a shard works on one thing before it looks at the others again.
//!
//! Whoever sends something waits for what the shard does just then. So what arrived is not handled to its end
//! before anything is sent: a turn ends when its time is over, and the next one goes on from where it was. What one
//! packet costs is not cut.

#![forbid(unsafe_code)]

use std::time::{Duration, Instant};

/// What a turn takes at most, beside the last thing that it began and what each part gets in any case: to handle what
/// has arrived, to send what follows from that, and to receive what comes next. The longer it is the more of one
/// Client's messages leave in one send, which is most of what a message to many costs.
pub(super) const TURN_MAX: Duration = Duration::from_micros(850);
/// What is received in the kernel while things are sent, a few at a time, takes about so long as long as nothing was
/// measured.
const RECEIVE_TIME: Duration = Duration::from_micros(50);
const RECEIVE_TIME_MAX: Duration = Duration::from_micros(250);
/// What a send takes, most of it in the kernel, as long as none was measured; closing a connection does not take more.
/// Counted for each receive that brought a connection something to be sent: those grow with what is handled, and the
/// turn with them. What one receive brings for many is not counted: they have their sends already, whatever else is
/// handled, and those that there is no time for leave in the next turns.
const SEND_TIME: Duration = Duration::from_nanos(3500);
/// So many sends at once tell what one takes, and are worth a look at the clock. As few tell what receiving takes beside
/// them.
pub(super) const SENDS_MANY: usize = 32;
const SENDS_FEW: usize = 8;
const SEND_TIME_MAX: Duration = Duration::from_micros(20);
/// Sends that leave without a look at the clock, and of each kind in any turn.
pub(super) const BATCH_MIN: usize = 8;
/// Bytes that leave without a look at the clock, but for the last send of them: the kernel takes up to a millisecond for
/// each megabyte. So much of what goes to others, and no more, may come before a few bytes.
pub(super) const BATCH_SIZE_MAX: usize = 256 * 1024;
/// Who has so much to be sent waits for its turn among those who have as much.
pub(super) const BULK_SEND_MIN: usize = 32 * 1024;
/// What each part of a turn gets even if those before it took longer: envelopes of other shards, and what was paused.
const PART_MIN: Duration = Duration::from_micros(50);
/// Bytes given to the core at once, and what may pass between two looks at the clock: so many at most, fewer
/// while they take long.
pub(super) const SLICE_SIZE: usize = 4096;
const SLICE_SIZE_MIN: usize = 256;
/// What a slice is to take, at most.
const SLICE_TIME: Duration = Duration::from_micros(50);
/// What else happens counts as so many bytes.
pub(super) const EVENT_WEIGHT: usize = SLICE_SIZE / 8;

/// The time of a turn.
#[derive(Debug)]
pub(super) struct Pace {
    until: Instant,
    weight: usize,
    slice: usize,
    looked: Instant,
    /// What was handled in this turn, and how much of it will cost a send.
    handled: u32,
    sends: u32,
    /// What the sends that turns before had no time for are given of it.
    late: Duration,
    /// What a send takes, of late, and what is received beside sends.
    send_time: Duration,
    receive_time: Duration,
    /// A part has begun whose time counts from the next look at the clock.
    grant: Option<Duration>,
}

impl Pace {
    pub(super) fn new() -> Self {
        let now = Instant::now();
        Self {
            until: now,
            weight: 0,
            slice: SLICE_SIZE,
            looked: now,
            handled: 0,
            sends: 0,
            late: Duration::ZERO,
            send_time: SEND_TIME,
            receive_time: RECEIVE_TIME,
            grant: None,
        }
    }

    /// A turn began at `start` that may take so long. So many sends are left from before: half of it is kept for them at
    /// most, so that what arrives is handled all the same.
    // HOT: per turn.
    pub(super) fn begin_turn(&mut self, start: Instant, max: Duration, late: usize) {
        self.until = start + max;
        let late = u32::try_from(late).unwrap_or(u32::MAX);
        self.late = self.send_time.saturating_mul(late).min(max / 2);
        self.weight = 0;
        self.looked = start;
        self.handled = 0;
        self.sends = 0;
        self.grant = None;
    }

    /// One more thing that arrived was handled, after which so much is to be submitted.
    // HOT: per receive.
    #[inline]
    pub(super) fn handled(&mut self, due: usize) {
        self.handled += 1;
        self.sends = self.handled.min(u32::try_from(due).unwrap_or(u32::MAX));
    }

    /// So much was submitted, and has taken that long.
    // HOT: per turn.
    #[inline]
    pub(super) fn submitted(&mut self, count: usize, took: Duration) {
        let sends = u32::try_from(count).unwrap_or(u32::MAX);
        if count >= SENDS_MANY {
            self.learn_send_time(took.saturating_sub(self.receive_time) / sends);
        } else if count < SENDS_FEW {
            let rest = took.saturating_sub(self.send_time * sends);
            self.receive_time = learned(self.receive_time, rest).min(RECEIVE_TIME_MAX);
        }
    }

    /// How many of `count` sends to submit before the next look at the clock: a part of what the time allows, so that
    /// one that takes longer than those before is seen in time.
    pub(super) fn batch(&self, count: usize, now: Instant) -> usize {
        let time = self.time_to_send(now).as_nanos() / 2;
        let fitting = time / self.send_time.as_nanos().max(1);
        count.min(usize::try_from(fitting).map_or(count, |fitting| fitting.max(BATCH_MIN)))
    }

    /// A batch of so many sends was submitted, and nothing was received with it.
    pub(super) fn batch_submitted(&mut self, count: usize, took: Duration) {
        if count >= BATCH_MIN {
            let sends = u32::try_from(count).unwrap_or(u32::MAX);
            self.learn_send_time(took / sends);
        }
    }

    fn learn_send_time(&mut self, one: Duration) {
        self.send_time = learned(self.send_time, one).min(SEND_TIME_MAX);
    }

    /// What is left of the turn, but for what is received at its end.
    pub(super) fn time_to_send(&self, now: Instant) -> Duration {
        self.until
            .saturating_duration_since(now + self.receive_time)
    }

    /// Its next part begins. Most have little to do, and look at no clock.
    // HOT: per turn.
    pub(super) fn begin_part(&mut self, max: Duration) {
        self.weight = 0;
        self.grant = Some(max.min(PART_MIN));
    }

    /// Bytes to give to the core next.
    pub(super) const fn slice(&self) -> usize {
        self.slice
    }

    /// Messages of another shard to give to the core next.
    pub(super) const fn messages(&self) -> usize {
        self.slice / EVENT_WEIGHT
    }

    /// What was done weighs so much more than is told next.
    // HOT: per envelope.
    #[inline]
    pub(super) const fn add(&mut self, weight: usize) {
        self.weight += weight;
    }

    /// Something of this weight was done. Tells whether this part of the turn is to end.
    // HOT: per receive.
    #[inline]
    pub(super) fn is_over(&mut self, weight: usize) -> bool {
        self.weight += weight;
        if self.weight < self.slice {
            return false;
        }
        self.look(Instant::now())
    }

    fn look(&mut self, now: Instant) -> bool {
        let weight = std::mem::take(&mut self.weight);
        let took = now.saturating_duration_since(self.looked);
        self.looked = now;
        let owed = self.receive_time + self.late + self.send_time * self.sends;
        if let Some(grant) = self.grant.take() {
            self.until = self.until.max(now + owed + grant);
        } else if took > SLICE_TIME {
            self.slice = (self.slice / 2).max(SLICE_SIZE_MIN);
        } else if took < SLICE_TIME / 4 && weight < 2 * self.slice {
            self.slice = (self.slice * 2).min(SLICE_SIZE);
        }
        now + owed >= self.until
    }
}

/// What something takes, after it has taken that long once more. What the system took the core away for tells nothing:
/// none counts for more than twice what was known, or little.
fn learned(known: Duration, took: Duration) -> Duration {
    let most = (known * 2).max(Duration::from_micros(1));
    (known * 7 + took.min(most)) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_micros(1);
    /// What is left of a turn if nothing is sent.
    const HANDLING_MAX: Duration = TURN_MAX.saturating_sub(RECEIVE_TIME);

    #[test]
    fn a_turn_keeps_time_for_the_sends_of_many_receives_and_none_for_those_of_one() {
        let start = Instant::now();
        let mut pace = Pace::new();
        // One receive for two hundred connections.
        pace.begin_turn(start, TURN_MAX, 0);
        pace.handled(200);
        assert!(!pace.look(start + HANDLING_MAX - SEND_TIME - TICK));
        // Two hundred for one each.
        pace.begin_turn(start, TURN_MAX, 0);
        for due in 1..=200 {
            pace.handled(due);
        }
        assert!(pace.look(start + HANDLING_MAX - SEND_TIME * 200));
        assert!(!pace.look(start + HANDLING_MAX - SEND_TIME * 200 - TICK));
        // What other shards sent gets its time all the same.
        pace.begin_part(TURN_MAX);
        assert!(!pace.look(start + HANDLING_MAX));
        assert!(pace.look(start + HANDLING_MAX + PART_MIN));
        // The next turn owes nothing of that.
        pace.begin_turn(start, TURN_MAX, 0);
        assert!(!pace.look(start + HANDLING_MAX - TICK));
    }

    #[test]
    fn what_sends_and_receives_take_is_learned_and_not_from_a_core_that_was_taken_away() {
        let hour = Duration::from_secs(3600);
        let mut pace = Pace::new();
        // Neither few nor many tell anything.
        pace.submitted(SENDS_MANY - 1, hour);
        pace.submitted(SENDS_FEW, hour);
        assert_eq!(
            (pace.send_time, pace.receive_time),
            (SEND_TIME, RECEIVE_TIME)
        );
        pace.submitted(100, hour);
        pace.submitted(0, hour);
        assert_eq!(pace.send_time, SEND_TIME * 9 / 8);
        assert_eq!(pace.receive_time, RECEIVE_TIME * 9 / 8);
        let mut learn = |sends: u32, took: Duration| {
            for _ in 0..200 {
                pace.submitted(sends as usize, took);
            }
            (pace.send_time, pace.receive_time)
        };
        let is_near = |time: Duration, us| time.abs_diff(TICK * us) < TICK / 10;
        assert!(is_near(learn(0, TICK * 120).1, 120));
        assert!(is_near(learn(100, TICK * 920).0, 8));
        assert!(is_near(learn(5, TICK * 70).1, 30));
        assert!(learn(100, hour).0 <= SEND_TIME_MAX);
        assert!(learn(0, hour).1 <= RECEIVE_TIME_MAX);
        // From nothing up again.
        learn(0, Duration::ZERO);
        learn(100, Duration::ZERO);
        assert!(is_near(learn(0, TICK * 20).1, 20));
        assert!(is_near(learn(100, TICK * 320).0, 3));
    }

    #[test]
    fn what_takes_long_is_looked_at_more_often_and_what_does_not_less_often_again() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.begin_turn(start, TURN_MAX, 0);
        let mut now = start;
        for expected in [2048, 1024, 512, 256, 256] {
            now += SLICE_TIME + TICK;
            assert!(!pace.look(now));
            assert_eq!(pace.slice(), expected);
        }
        now += SLICE_TIME / 2;
        pace.look(now);
        assert_eq!(pace.slice(), 256);
        for expected in [512, 1024, 2048, 4096, 4096] {
            now += TICK;
            pace.look(now);
            assert_eq!(pace.slice(), expected);
        }
    }

    #[test]
    fn a_turn_ends_when_its_time_is_over() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.begin_turn(start, TURN_MAX, 0);
        assert!(!pace.look(start + HANDLING_MAX - TICK));
        assert!(pace.look(start + HANDLING_MAX));
    }

    #[test]
    fn a_part_has_time_of_its_own_from_when_it_first_looks_at_the_clock() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.begin_turn(start, TURN_MAX, 0);
        let late = start + HANDLING_MAX * 2;
        assert!(pace.look(late));
        pace.begin_part(TURN_MAX);
        assert!(!pace.look(late));
        assert!(!pace.look(late + PART_MIN - TICK));
        assert!(pace.look(late + PART_MIN));
    }

    #[test]
    fn sends_go_in_batches_that_take_half_of_the_time_left_and_stop_when_it_is_over() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.begin_turn(start, TURN_MAX, 0);
        let end = start + TURN_MAX - RECEIVE_TIME;
        for (sends, left) in [(100, 100), (101, 100), (100_000, 100), (7, 7), (0, 0)] {
            let now = end - SEND_TIME * 200;
            assert_eq!(pace.batch(sends, now), left);
            assert_eq!(pace.time_to_send(now), SEND_TIME * 200);
        }
        // So few are not worth a look at the clock, and some leave in any turn.
        for now in [end - SEND_TIME * 2, end, end + TURN_MAX] {
            assert_eq!(pace.batch(1000, now), BATCH_MIN);
        }
        assert_eq!(pace.time_to_send(end), Duration::ZERO);
        // What one takes is learned from batches.
        for _ in 0..200 {
            pace.batch_submitted(10, TICK * 140);
            pace.batch_submitted(BATCH_MIN - 1, TICK * 9000);
        }
        assert_eq!(pace.batch(1000, end - TICK * 1400), 50);
    }

    #[test]
    fn late_sends_have_their_time_of_a_turn_and_never_more_than_half_of_it() {
        let start = Instant::now();
        let mut pace = Pace::new();
        let mut handling = |late| {
            pace.begin_turn(start, TURN_MAX, late);
            let ends = (0..1000).find(|us| pace.look(start + TICK * *us));
            ends.unwrap()
        };
        assert_eq!(handling(0), 800);
        assert_eq!(handling(100), 450);
        assert_eq!(handling(121), 377);
        for late in [122, 10_000, usize::MAX] {
            assert_eq!(handling(late), 375);
        }
    }
}
