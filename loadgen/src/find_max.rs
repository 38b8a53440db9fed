//! The highest rate at which p99 latency stays below a bound and nothing is lost, by search.

use std::net::SocketAddr;

use crate::failure::Failure;
use crate::options::{Common, Workload};
use crate::plan::Plan;
use crate::progress::Progress;
use crate::result::KEPT_UP;
use crate::run::{self, Outcome};

/// The rate that the search begins with.
const FIRST_RATE: f64 = 1000.0;
/// A broker that fails at less is not searched further down.
const LAST_RATE: f64 = 2.0;
/// The search ends when what passes and what fails are so close.
const PRECISION: f64 = 1.05;

/// The run at the highest rate that passed, and that rate; all rates tried as notes.
pub fn execute(
    workload: &Workload,
    common: &Common,
    address: SocketAddr,
    progress: &Progress,
) -> Result<(Outcome, f64, Vec<String>), Failure> {
    let bound_us = common.p99_us.unwrap_or(f64::INFINITY);
    let mut notes = Vec::new();
    let mut best: Option<(Outcome, f64)> = None;
    let mut failed: Option<f64> = None;
    let mut rate = FIRST_RATE;
    loop {
        let common = Common {
            rate: Some(rate),
            ..common.clone()
        };
        let outcome = run::execute(
            Plan::new(workload, &common)?,
            &common,
            vec![address],
            progress,
        )?;
        let p99_us = outcome.intended.value_at_quantile(0.99) as f64 / 1e3;
        let published_per_s = outcome.published as f64 / outcome.measured_s.max(1e-9);
        let mut against = outcome.broken.clone();
        if outcome.truth.lost + outcome.truth.unsent > 0 {
            against.extend_from_slice(&outcome.allowed);
        }
        if outcome.intended.is_empty() {
            against.push("nothing was delivered".to_owned());
        }
        if p99_us > bound_us {
            against.push(format!("more than {bound_us} us"));
        }
        if published_per_s < KEPT_UP * rate {
            against.push(format!("{published_per_s:.0}/s were published"));
        }
        let passes = against.is_empty();
        let verdict = if passes { "passes" } else { "fails" };
        let mut note = format!("{rate:.0}/s {verdict}: p99 {p99_us:.0} us");
        if outcome.overruns > 0 {
            // Those may be the generator's, or wait for what the broker has not taken yet.
            note.push_str(&format!(
                "; {} of {} left more than a millisecond late",
                outcome.overruns, outcome.published
            ));
        }
        for reason in against {
            note.push_str("; ");
            note.push_str(&reason);
        }
        eprintln!("loadgen: {note}");
        notes.push(note);
        if outcome.error.is_some() {
            return Ok((outcome, rate, notes));
        }
        if passes {
            best = Some((outcome, rate));
        } else {
            failed = Some(rate);
            if best.is_none() && rate < LAST_RATE {
                return Ok((
                    Outcome {
                        error: Some(Failure::NoRatePasses {
                            tried: rate,
                            bound_us,
                        }),
                        ..outcome
                    },
                    rate,
                    notes,
                ));
            }
        }
        rate = match (&best, failed) {
            (Some((_, passed)), None) => passed * 4.0,
            (None, _) => rate / 4.0,
            (Some((_, passed)), Some(failed)) => {
                if failed / passed <= PRECISION {
                    break;
                }
                (passed * failed).sqrt()
            }
        };
    }
    match best {
        Some((outcome, rate)) => Ok((outcome, rate, notes)),
        None => unreachable!("the search ends between what passed and what failed"),
    }
}
