//! How far a run is, on a terminal and nowhere else.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::run::Line;

#[derive(Debug)]
pub struct Progress {
    bar: Option<ProgressBar>,
}

impl Progress {
    pub fn new() -> Self {
        let bar = std::io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            let style = ProgressStyle::with_template("{spinner} {elapsed:>4} {prefix:>12}  {msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        });
        Self { bar }
    }

    pub fn none() -> Self {
        Self { bar: None }
    }

    pub fn phase(&self, name: &'static str, seconds: f64) {
        if let Some(bar) = &self.bar {
            bar.set_prefix(name);
            if seconds > 0.0 {
                bar.set_message(format!("for {seconds:.1} s"));
            }
        }
    }

    pub fn line(&self, line: &Line) {
        if let Some(bar) = &self.bar {
            let seconds = (line.end_s - line.start_s).max(1e-9);
            bar.set_prefix("measuring");
            let mut said = format!(
                "published {:.0}/s, delivered {:.0}/s",
                line.published as f64 / seconds,
                line.delivered as f64 / seconds,
            );
            if !line.intended.is_empty() {
                let quantile = |quantile| line.intended.value_at_quantile(quantile) as f64 / 1e3;
                let (p50_us, p99_us) = (quantile(0.5), quantile(0.99));
                said += &format!(", p50 {p50_us:.0} us, p99 {p99_us:.0} us");
            }
            bar.set_message(said);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
