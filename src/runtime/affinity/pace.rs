//! When shards gather, roam and go home. Knows no clock and no thread.

#![forbid(unsafe_code)]

use super::Place;
use crate::time::Instant;
use std::time::Duration;

/// Shards that need less of one CPU, all together, are gathered. There they need less than before.
const GATHER_BELOW: f64 = 0.45;
/// Gathered shards that need more are spread. It is more than they gathered with, so that they do not come and go.
const SPREAD_ABOVE: f64 = 0.6;
const _: () = assert!(GATHER_BELOW < SPREAD_ABOVE);
/// A look sooner after the one before says too little, as those do that a reload brings about.
const LOOK_APART_MIN: Duration = Duration::from_millis(500);
/// Looks with little load that have to follow each other before shards gather.
const QUIET_LOOKS_MIN: u32 = 2;
/// The same once they have often been spread soon after.
const QUIET_LOOKS_MAX: u32 = 64;
/// A gathering that was over sooner was a mistake: the next one needs twice the looks.
const GATHERED_SHORT: Duration = Duration::from_secs(10);
/// After one that lasted so long mistakes are forgotten.
const GATHERED_LONG: Duration = Duration::from_secs(60);
/// Shards that wake each other by turns wait often, each while another one runs. Their CPU is full when all together
/// have needed more than [`FULL_ABOVE`] of so much time.
const FULL_WITHIN: Duration = Duration::from_millis(16);
const FULL_ABOVE: f64 = 0.8;

/// A thread that has wanted its CPU, and not got it, for a larger share of the time is crowded by something else.
const CROWDED_ABOVE: f64 = 0.12;
/// Shards gather on a CPU only if the one that runs there was kept waiting for less of the time.
const CALM_BELOW: f64 = 0.04;
/// Whoever else is at work on a CPU and keeps its shard waiting for less of the time is no crowd but company: often the
/// Clients, or what brings their packets, and then nobody has to be woken from afar.
const COMPANY_BELOW: f64 = 0.08;
/// The same for more of the time than where there is most room.
const COMPANY_ABOVE: f64 = 0.01;
const _: () = assert!(CALM_BELOW < COMPANY_BELOW && COMPANY_BELOW < CROWDED_ABOVE);
/// Looks at a crowded shard that have to follow each other before shards roam.
const CROWDED_LOOKS_MIN: u32 = 2;
/// Shards that need less of one CPU, all together, are not asked whether they are crowded.
const ASKED_ABOVE: f64 = 0.02;
/// How long shards roam before they look again how it is at home.
const ROAMED_MIN: Duration = Duration::from_secs(30);
/// The same once they have often found no room there.
const ROAMED_MAX: Duration = Duration::from_secs(3600);
/// Shards that were crowded again sooner should have stayed away twice as long.
const RETURNED_SHORT: Duration = Duration::from_secs(10);

/// What is to be done.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Step {
    Gather,
    Roam,
    GoHome,
}

/// When to gather, when to roam and when to go home.
#[derive(Debug)]
pub(super) struct Pace {
    /// Where the shards are, and since when.
    place: Place,
    since: Instant,
    looked_at: Option<Instant>,
    /// The last look at which all answered: when, and the CPU time that the shards had needed since their start.
    last: Option<(Instant, Duration)>,
    /// Looks with little load since one with more.
    quiet: u32,
    /// As many lead to a gathering.
    quiet_min: u32,
    crowd: Crowd,
    /// Company was a crowd the last time.
    is_wary: bool,
    /// Looks at a crowded shard since one at which none was.
    crowded: u32,
    /// How long they roam this time.
    roams_for: Duration,
    /// When they came home from roaming.
    returned_at: Option<Instant>,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            place: Place::Home,
            since: now,
            looked_at: None,
            last: None,
            quiet: 0,
            quiet_min: QUIET_LOOKS_MIN,
            crowd: Crowd::default(),
            is_wary: false,
            crowded: 0,
            roams_for: ROAMED_MIN,
            returned_at: None,
        }
    }

    /// The shard on whose CPU all meet.
    pub(super) fn host(&self) -> usize {
        if self.is_wary {
            self.crowd.calmest
        } else {
            self.crowd.host
        }
    }

    /// The shards have needed `spent` since their start; `None` if one of them does not say. `kept_waiting` knows how long
    /// each has waited for a CPU since then, if the system says so.
    pub(super) fn handle_look(
        &mut self,
        spent: Option<Duration>,
        kept_waiting: impl FnOnce() -> Option<Vec<Duration>>,
        now: Instant,
    ) -> Option<Step> {
        if self.looked_at.is_some_and(|at| now - at < LOOK_APART_MIN) {
            return None;
        }
        self.looked_at = Some(now);
        // Who does not answer may be busy, or may not be let run.
        let share = spent.and_then(|spent| {
            let (at, before) = self.last.replace((now, spent))?;
            Some(spent.saturating_sub(before).as_secs_f64() / (now - at).as_secs_f64())
        });
        if self.place != Place::Roaming {
            let is_asked = share.is_none_or(|share| share >= ASKED_ABOVE);
            let asked = is_asked.then(kept_waiting).flatten();
            self.crowd.handle_look(asked, now);
        }
        match self.place {
            Place::Gathered => {
                let share = share.unwrap_or(SPREAD_ABOVE);
                // They keep each other waiting as well, but no longer than they run.
                let is_crowded = self.crowd.most > share + CROWDED_ABOVE;
                (share > SPREAD_ABOVE || is_crowded).then_some(Step::GoHome)
            }
            Place::Roaming => (now - self.since >= self.roams_for).then_some(Step::GoHome),
            Place::Home => {
                let is_little = share.is_some_and(|share| share < GATHER_BELOW);
                let is_quiet = is_little && self.crowd.least < CALM_BELOW;
                self.quiet = if is_quiet {
                    self.quiet.saturating_add(1)
                } else {
                    0
                };
                let is_crowded = self.crowd.most > CROWDED_ABOVE;
                self.crowded = if is_crowded { self.crowded + 1 } else { 0 };
                if self.quiet >= self.quiet_min {
                    Some(Step::Gather)
                } else if self.crowded >= CROWDED_LOOKS_MIN {
                    Some(Step::Roam)
                } else {
                    None
                }
            }
        }
    }

    /// The shards are elsewhere from now on.
    pub(super) fn handle_moved(&mut self, place: Place, now: Instant) {
        let lasted = now - std::mem::replace(&mut self.since, now);
        match (std::mem::replace(&mut self.place, place), place) {
            (Place::Gathered, _) if lasted < GATHERED_SHORT => {
                self.quiet_min = (self.quiet_min * 2).min(QUIET_LOOKS_MAX);
                self.is_wary = true;
            }
            (Place::Gathered, _) if lasted >= GATHERED_LONG => {
                (self.quiet_min, self.is_wary) = (QUIET_LOOKS_MIN, false);
            }
            (Place::Roaming, _) => self.returned_at = Some(now),
            (_, Place::Roaming) => {
                let returned_at = self.returned_at.take();
                self.roams_for = match returned_at.is_some_and(|at| now - at < RETURNED_SHORT) {
                    true => (self.roams_for * 2).min(ROAMED_MAX),
                    false => ROAMED_MIN,
                };
            }
            _ => {}
        }
        (self.quiet, self.crowded) = (0, 0);
        self.crowd.forget();
    }
}

/// How much shards at home have to wait for CPUs that something else keeps busy.
#[derive(Debug, Default)]
struct Crowd {
    /// The last look: when, and how long each had waited since its start.
    last: Option<(Instant, Vec<Duration>)>,
    /// Shares of the time that those waited between the last two looks who waited least and most; zero if it is not known.
    least: f64,
    most: f64,
    /// Who waited least when it was known.
    calmest: usize,
    /// Who has company, or else the same.
    host: usize,
}

impl Crowd {
    fn handle_look(&mut self, kept_waiting: Option<Vec<Duration>>, now: Instant) {
        let last = std::mem::take(&mut self.last);
        (self.least, self.most) = (0.0, 0.0);
        let Some(kept_waiting) = kept_waiting else {
            return;
        };
        if let Some((at, before)) = last {
            let elapsed = (now - at).as_secs_f64();
            let news = kept_waiting.iter().zip(before);
            let share = |(all, before): (&Duration, Duration)| {
                all.saturating_sub(before).as_secs_f64() / elapsed
            };
            let shares: Vec<f64> = news.map(share).collect();
            self.least = f64::INFINITY;
            for (shard, &share) in shares.iter().enumerate() {
                self.most = self.most.max(share);
                if share < self.least {
                    (self.least, self.calmest) = (share, shard);
                }
            }
            self.host = self.calmest;
            let mut company = self.least + COMPANY_ABOVE;
            for (shard, &share) in shares.iter().enumerate() {
                if (company..COMPANY_BELOW).contains(&share) {
                    (company, self.host) = (share, shard);
                }
            }
        }
        self.last = Some((now, kept_waiting));
    }

    fn forget(&mut self) {
        (self.last, self.least, self.most) = (None, 0.0, 0.0);
    }
}

/// How full a CPU is of late.
#[derive(Clone, Copy, Debug)]
pub(super) struct Filling {
    since: Instant,
    /// What had been spent by then.
    spent: Duration,
}

impl Filling {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            since: now,
            spent: Duration::ZERO,
        }
    }

    /// `spent` has been spent until `now`. Whether that is a full CPU.
    pub(super) fn is_full(&mut self, spent: Duration, now: Instant) -> bool {
        let elapsed = now - self.since;
        if elapsed < FULL_WITHIN {
            return false;
        }
        let share = spent.saturating_sub(self.spent).as_secs_f64() / elapsed.as_secs_f64();
        (self.since, self.spent) = (now, spent);
        share > FULL_ABOVE
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LITTLE: f64 = 0.4;
    const BETWEEN: f64 = 0.5;
    const MUCH: f64 = 0.7;

    /// A pace that is looked at once a second.
    struct Looks {
        pace: Pace,
        now: Instant,
        spent: Duration,
        /// Each shard has been kept waiting for so long.
        kept_waiting: [Duration; 2],
    }

    impl Looks {
        fn new() -> Self {
            let mut looks = Self {
                pace: Pace::new(Instant::ZERO),
                now: Instant::ZERO,
                spent: Duration::ZERO,
                kept_waiting: [Duration::ZERO; 2],
            };
            assert_eq!(looks.look(MUCH), None, "there is nothing to compare with");
            looks
        }

        /// Shards have needed `share` of a CPU for a second.
        fn look(&mut self, share: f64) -> Option<Step> {
            self.now = self.now + Duration::from_secs(1);
            self.spent += Duration::from_secs_f64(share);
            let kept_waiting = Some(self.kept_waiting.to_vec());
            let step = self
                .pace
                .handle_look(Some(self.spent), || kept_waiting, self.now);
            let place = match step {
                Some(Step::Gather) => Place::Gathered,
                Some(Step::Roam) => Place::Roaming,
                Some(Step::GoHome) => Place::Home,
                None => return None,
            };
            self.pace.handle_moved(place, self.now);
            step
        }

        /// The same, and they were kept waiting for these shares of it.
        fn look_crowded(&mut self, share: f64, kept_waiting: [f64; 2]) -> Option<Step> {
            for (all, share) in self.kept_waiting.iter_mut().zip(kept_waiting) {
                *all += Duration::from_secs_f64(share);
            }
            self.look(share)
        }

        /// Crowded looks until the shards roam.
        fn until_roaming(&mut self) -> u32 {
            (1..)
                .find(|_| self.look_crowded(MUCH, [0.3, 0.0]) == Some(Step::Roam))
                .unwrap()
        }

        /// Looks until they are home again.
        fn until_home(&mut self) -> u32 {
            (1..)
                .find(|_| self.look(MUCH) == Some(Step::GoHome))
                .unwrap()
        }

        fn look_again(&mut self, spent: Option<Duration>) -> Option<Step> {
            self.pace.handle_look(spent, || None, self.now)
        }

        /// Looks with little load until the shards gather.
        fn until_gathered(&mut self) -> u32 {
            (1..)
                .find(|_| self.look(LITTLE) == Some(Step::Gather))
                .unwrap()
        }

        /// A gathering of so many seconds, and the looks that the next one takes.
        fn looks_after(&mut self, seconds: u64) -> u32 {
            self.now = self.now + Duration::from_secs(seconds);
            self.pace.handle_moved(Place::Home, self.now);
            self.until_gathered()
        }
    }

    #[test]
    fn shards_gather_after_two_looks_with_little_load_and_not_after_one() {
        let mut looks = Looks::new();
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(BETWEEN), None);
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
    }

    #[test]
    fn gathered_shards_spread_when_they_need_more_than_they_gathered_with_and_some() {
        let mut looks = Looks::new();
        looks.until_gathered();
        for share in [LITTLE, BETWEEN, BETWEEN] {
            assert_eq!(looks.look(share), None);
        }
        assert_eq!(looks.look(MUCH), Some(Step::GoHome));
        assert_eq!(looks.look(MUCH), None);
    }

    #[test]
    fn each_gathering_that_is_over_soon_doubles_the_looks_until_one_lasts() {
        let mut looks = Looks::new();
        assert_eq!(looks.until_gathered(), 2);
        let needed = [1, 9, 2, 1, 1, 1, 1].map(|seconds| looks.looks_after(seconds));
        assert_eq!(needed, [4, 8, 16, 32, 64, 64, 64]);
        assert_eq!(looks.looks_after(59), 64, "neither short nor long");
        assert_eq!(looks.looks_after(60), 2);
        assert_eq!(looks.looks_after(1), 4);
    }

    #[test]
    fn a_look_without_all_answers_does_not_count_and_what_was_spent_meanwhile_does() {
        let mut looks = Looks::new();
        looks.look(LITTLE);
        looks.now = looks.now + Duration::from_secs(1);
        assert_eq!(looks.look_again(None), None);
        assert_eq!(looks.look(LITTLE), None);
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
        // Of two seconds it is little.
        looks.now = looks.now + Duration::from_secs(1);
        assert_eq!(looks.look_again(None), None);
        assert_eq!(looks.look(MUCH), None);
        assert_eq!(looks.look(MUCH), Some(Step::GoHome));
    }

    #[test]
    fn a_look_right_after_another_one_is_none() {
        let mut looks = Looks::new();
        looks.look(LITTLE);
        for _ in 0..100 {
            looks.now = looks.now + Duration::from_millis(1);
            assert_eq!(looks.look_again(Some(looks.spent)), None);
        }
        assert_eq!(looks.look(LITTLE), Some(Step::Gather));
    }

    #[test]
    fn a_cpu_is_full_once_it_was_so_for_a_while() {
        let at = |ms| Instant::ZERO + Duration::from_millis(ms);
        let ms = Duration::from_millis;
        let mut filling = Filling::new(at(0));
        assert!(!filling.is_full(ms(15), at(15)), "a burst");
        assert!(!filling.is_full(ms(16), at(30)), "which is over");
        assert!(!filling.is_full(ms(31), at(45)));
        assert!(filling.is_full(ms(31), at(46)));
        assert!(!filling.is_full(ms(45), at(90)));
    }

    #[test]
    fn shards_roam_after_two_looks_at_which_one_was_crowded_and_not_after_one() {
        let mut looks = Looks::new();
        looks.look(MUCH);
        assert_eq!(looks.look_crowded(MUCH, [0.0, 0.5]), None);
        assert_eq!(looks.look_crowded(MUCH, [0.1, 0.1]), None, "little");
        assert_eq!(looks.look_crowded(MUCH, [0.0, 0.5]), None);
        assert_eq!(looks.look_crowded(MUCH, [0.5, 0.0]), Some(Step::Roam));
    }

    #[test]
    fn shards_that_do_not_answer_because_they_are_not_let_run_roam() {
        let mut looks = Looks::new();
        let mut step = None;
        for waited in 1..=2 {
            assert_eq!(step, None);
            looks.now = looks.now + Duration::from_secs(1);
            let kept_waiting = vec![Duration::ZERO, Duration::from_millis(900 * waited)];
            step = looks
                .pace
                .handle_look(None, || Some(kept_waiting), looks.now);
        }
        assert_eq!(step, Some(Step::Roam));
        // Gathered ones go home, unless they may only wait for each other.
        let mut looks = Looks::new();
        looks.until_gathered();
        let mut step = None;
        for (waited_ms, expected) in [(0, None), (700, None), (1500, Some(Step::GoHome))] {
            looks.now = looks.now + Duration::from_secs(1);
            let kept_waiting = vec![Duration::from_millis(waited_ms); 2];
            step = looks
                .pace
                .handle_look(None, || Some(kept_waiting), looks.now);
            assert_eq!(step, expected);
        }
        assert!(step.is_some());
    }

    #[test]
    fn crowded_shards_with_little_load_gather_where_there_is_room_and_not_where_there_is_none() {
        let mut looks = Looks::new();
        looks.look(MUCH);
        assert_eq!(looks.look_crowded(LITTLE, [0.5, 0.01]), None);
        assert_eq!(looks.look_crowded(LITTLE, [0.5, 0.01]), Some(Step::Gather));
        assert_eq!(looks.pace.host(), 1);
        let mut looks = Looks::new();
        looks.look(MUCH);
        assert_eq!(looks.look_crowded(LITTLE, [0.1, 0.1]), None);
        assert_eq!(looks.look_crowded(LITTLE, [0.1, 0.1]), None);
        assert_eq!(looks.look_crowded(LITTLE, [0.5, 0.1]), None);
        assert_eq!(looks.look_crowded(LITTLE, [0.5, 0.1]), Some(Step::Roam));
    }

    #[test]
    fn shards_meet_where_there_is_company_unless_that_was_a_crowd_the_last_time() {
        let mut looks = Looks::new();
        looks.look(MUCH);
        assert_eq!(looks.look_crowded(LITTLE, [0.0, 0.05]), None);
        assert_eq!(looks.look_crowded(LITTLE, [0.0, 0.05]), Some(Step::Gather));
        assert_eq!(looks.pace.host(), 1);
        looks.look(LITTLE);
        assert_eq!(looks.look_crowded(LITTLE, [0.9, 0.9]), Some(Step::GoHome));
        while looks.look_crowded(LITTLE, [0.0, 0.05]) != Some(Step::Gather) {}
        assert_eq!(looks.pace.host(), 0);
        // That lasts.
        looks.looks_after(60);
        looks.pace.handle_moved(Place::Home, looks.now);
        while looks.look_crowded(LITTLE, [0.01, 0.015]) != Some(Step::Gather) {}
        assert_eq!(looks.pace.host(), 0, "a difference that is none");
    }

    #[test]
    fn gathered_shards_that_something_else_keeps_waiting_go_home_and_those_that_only_wait_for_each_other_do_not()
     {
        let mut looks = Looks::new();
        looks.until_gathered();
        for _ in 0..10 {
            assert_eq!(looks.look_crowded(LITTLE, [LITTLE, 0.1]), None);
        }
        assert_eq!(looks.look_crowded(LITTLE, [0.6, 0.6]), Some(Step::GoHome));
    }

    #[test]
    fn shards_that_come_home_too_early_stay_away_twice_as_long_the_next_time() {
        let mut looks = Looks::new();
        looks.until_roaming();
        let away = [0; 9].map(|_| {
            let away = looks.until_home();
            assert!(looks.until_roaming() <= 3);
            away
        });
        assert_eq!(away, [30, 60, 120, 240, 480, 960, 1920, 3600, 3600]);
        looks.until_home();
        for _ in 0..10 {
            assert_eq!(looks.look(MUCH), None);
        }
        looks.until_roaming();
        assert_eq!(looks.until_home(), 30);
    }

    #[test]
    fn idle_shards_are_not_asked_how_long_they_were_kept_waiting() {
        let mut looks = Looks::new();
        looks.pace.quiet_min = u32::MAX;
        for share in [0.0, 0.01, 0.1] {
            looks.now = looks.now + Duration::from_secs(1);
            looks.spent += Duration::from_secs_f64(share);
            let mut is_asked = false;
            let asked = || {
                is_asked = true;
                None
            };
            looks.pace.handle_look(Some(looks.spent), asked, looks.now);
            assert_eq!(is_asked, share > 0.05, "{share}");
        }
    }
}
