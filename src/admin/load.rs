//! Moving averages of what happens in a minute, as `$SYS/broker/load` has them.

#![forbid(unsafe_code)]

use std::time::Duration;

/// The windows and their names in topics.
pub(super) const WINDOWS: [(&str, Duration); 3] = [
    ("1min", Duration::from_secs(60)),
    ("5min", Duration::from_secs(300)),
    ("15min", Duration::from_secs(900)),
];

/// Exponentially damped averages of the rate of one counter, in events a minute.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Load {
    last: u64,
    averages: [f64; WINDOWS.len()],
}

impl Load {
    /// The counter is at `count` now, `elapsed` after it was last looked at.
    pub(super) fn update(&mut self, count: u64, elapsed: Duration) {
        let elapsed_s = elapsed.as_secs_f64();
        if elapsed_s <= 0.0 {
            return;
        }
        let rate = count.saturating_sub(self.last) as f64 * 60.0 / elapsed_s;
        self.last = count;
        for (average, (_, window)) in self.averages.iter_mut().zip(WINDOWS) {
            let kept = (-elapsed_s / window.as_secs_f64()).exp();
            *average = rate + kept * (*average - rate);
        }
    }

    /// One average for each of [`WINDOWS`].
    pub(super) fn averages(&self) -> [f64; WINDOWS.len()] {
        self.averages
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const STEP: Duration = Duration::from_secs(10);

    #[test]
    fn a_steady_rate_is_reached_and_sooner_in_the_shorter_window() {
        let mut load = Load::default();
        let mut count = 0;
        for _ in 0..6 {
            count += 100;
            load.update(count, STEP);
        }
        // After one window 1 - 1/e of the step is there.
        let [one, five, fifteen] = load.averages();
        assert!(
            (one - 600.0 * (1.0 - (-1.0_f64).exp())).abs() < 1e-9,
            "{one}"
        );
        assert!(one > five && five > fifteen && fifteen > 0.0);
        for _ in 0..1000 {
            count += 100;
            load.update(count, STEP);
        }
        for average in load.averages() {
            assert!((average - 600.0).abs() < 0.1, "{average}");
        }
    }

    #[test]
    fn silence_fades_to_nothing() {
        let mut load = Load::default();
        load.update(1000, STEP);
        for _ in 0..1000 {
            load.update(1000, STEP);
        }
        assert!(load.averages()[0] < 1e-9);
    }
}
