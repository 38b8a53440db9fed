//! From runs to charts: which figures become which line.

use hdrhistogram::Histogram;

use super::run::{Latency, Moment, Run};
use super::svg::{Chart, Horizontal, Line, Style, Vertical};

/// Points of a percentile curve for each nine.
const POINTS_PER_NINE: f64 = 60.0;

/// Messages delivered over time, one line for each run; for a single run those published as well.
pub fn throughput(runs: &[Run]) -> Chart {
    let mut lines: Vec<Line> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let name = if runs.len() == 1 {
                "delivered"
            } else {
                &run.name
            };
            over_time(runs, index, name, |moment| moment.delivered_per_s)
        })
        .collect();
    if let [_] = runs {
        let mut published = over_time(runs, 0, "published", |moment| moment.published_per_s);
        published.style = Style { color: 1, dash: 1 };
        lines.push(published);
    }
    Chart {
        title: "Throughput over time".to_owned(),
        horizontal: Horizontal::Seconds,
        vertical: Vertical::Rate,
        lines,
    }
}

/// The 99th percentile over time; for a single run the median as well.
pub fn latency_over_time(runs: &[Run]) -> Chart {
    let mut lines: Vec<Line> = runs
        .iter()
        .enumerate()
        .map(|(index, run)| {
            let name = if runs.len() == 1 { "p99" } else { &run.name };
            over_time(runs, index, name, |moment| {
                moment.p99_us.filter(|us| *us > 0.0)
            })
        })
        .collect();
    if let [_] = runs {
        let mut median = over_time(runs, 0, "p50", |moment| {
            moment.p50_us.filter(|us| *us > 0.0)
        });
        median.style = Style { color: 1, dash: 1 };
        lines.push(median);
    }
    Chart {
        title: "Latency over time".to_owned(),
        horizontal: Horizontal::Seconds,
        vertical: Vertical::Latency,
        lines,
    }
}

/// The whole distribution from the intended send time, one curve for each run. A single run shows
/// the actual send time beside it; several would only tangle, so each has that chart of its own.
pub fn percentiles(runs: &[Run]) -> Chart {
    match runs {
        [run] => intended_and_actual(run, 1),
        _ => Chart {
            title: "Latency by percentile".to_owned(),
            horizontal: Horizontal::Nines,
            vertical: Vertical::Latency,
            lines: runs
                .iter()
                .enumerate()
                .map(|(index, run)| Line {
                    name: run.name.clone(),
                    style: Style::of_run(index),
                    end_label: Some((index + 1).to_string()),
                    run_number: index + 1,
                    points: curve(run.intended.as_ref(), run.result.intended()),
                })
                .collect(),
        },
    }
}

pub fn intended_and_actual(run: &Run, run_number: usize) -> Chart {
    let line = |name: &str, style, points| Line {
        name: name.to_owned(),
        style,
        end_label: None,
        run_number,
        points,
    };
    let mut lines = vec![line(
        "from the intended send time",
        Style { color: 0, dash: 0 },
        curve(run.intended.as_ref(), run.result.intended()),
    )];
    if run.result.actual().is_some() {
        lines.push(line(
            "from the actual send time",
            Style { color: 1, dash: 1 },
            curve(run.actual.as_ref(), run.result.actual()),
        ));
    }
    Chart {
        title: "Latency by percentile".to_owned(),
        horizontal: Horizontal::Nines,
        vertical: Vertical::Latency,
        lines,
    }
}

fn over_time(
    runs: &[Run],
    index: usize,
    name: &str,
    figure: impl Fn(&Moment) -> Option<f64>,
) -> Line {
    let points = runs[index].result.timeline.iter().filter_map(|moment| {
        let value = figure(moment).filter(|value| value.is_finite())?;
        (moment.t_s.is_finite() && moment.t_s >= 0.0).then_some((moment.t_s, value))
    });
    Line {
        name: name.to_owned(),
        style: Style::of_run(index),
        end_label: (runs.len() > 1).then(|| (index + 1).to_string()),
        run_number: index + 1,
        points: points.collect(),
    }
}

/// Ends at the slowest of all messages, which is as far as `count` messages can tell.
fn curve(histogram: Option<&Histogram<u64>>, latency: Option<&Latency>) -> Vec<(f64, f64)> {
    let Some(histogram) = histogram else {
        return latency.map(curve_of_figures).unwrap_or_default();
    };
    let end = (histogram.len() as f64).log10();
    let steps = (end * POINTS_PER_NINE).ceil() as u32;
    let value = |nines: f64| {
        let quantile = 1.0 - 10f64.powf(-nines);
        histogram.value_at_quantile(quantile) as f64 / 1e3
    };
    let mut points: Vec<(f64, f64)> = (0..steps)
        .map(|step| f64::from(step) / POINTS_PER_NINE)
        .map(|nines| (nines, value(nines)))
        .collect();
    points.push((end, histogram.max() as f64 / 1e3));
    points
}

/// Without a histogram: straight lines between the figures that were stated.
fn curve_of_figures(latency: &Latency) -> Vec<(f64, f64)> {
    let end = (latency.count as f64).log10();
    let stated = [
        (2f64.log10(), latency.p50),
        (1.0, latency.p90),
        (2.0, latency.p99),
        (3.0, latency.p999),
        (4.0, latency.p9999),
    ];
    stated
        .into_iter()
        .filter(|(nines, _)| *nines < end)
        .chain([(end, latency.max)])
        .filter_map(|(nines, value)| Some((nines, value?)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_curve_rises_from_the_median_to_the_slowest_message() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        for value in 1..=100_000u64 {
            histogram.record(value * 1000).unwrap();
        }
        let points = curve(Some(&histogram), None);
        assert!(points.is_sorted_by(|a, b| a.0 <= b.0 && a.1 <= b.1));
        let at = |nines: f64| points.iter().find(|p| p.0 >= nines - 1e-9).unwrap().1;
        assert!((at(1.0) - 90_000.0).abs() < 100.0);
        assert!((at(3.0) - 99_900.0).abs() < 100.0);
        let last = points.last().unwrap();
        assert!((last.0 - 5.0).abs() < 1e-9 && (last.1 - 100_000.0).abs() < 100.0);
    }

    #[test]
    fn one_message_is_one_point() {
        let mut histogram = Histogram::<u64>::new(3).unwrap();
        histogram.record(5000).unwrap();
        assert_eq!(curve(Some(&histogram), None).len(), 1);
        assert!(curve(None, None).is_empty());
    }
}
