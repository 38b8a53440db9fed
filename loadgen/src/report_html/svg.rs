//! Line charts as inline SVG: scales, ticks, lines, and numbers at the ends of lines.
//!
//! Text in an SVG shrinks with it, so each chart is drawn twice, for wide and for narrow screens,
//! and the style sheet shows one. Colours are classes (`c0`…), so that light, dark and paper may
//! differ; a second round through the colours is dashed, and lines carry their run's number.

use std::fmt::Write as _;

use super::text::{Escaped, duration_us, short, trimmed};

/// Colours in the style sheet.
const COLORS: usize = 6;
/// Dash patterns in the style sheet.
const DASHES: usize = 3;
/// Points a line may have: about one for each pixel there is.
const POINTS_MAX: usize = 800;
/// Between the baselines of two numbers at line ends.
const END_LABEL_HEIGHT: f64 = 13.0;

/// How one line looks, in charts and legends.
#[derive(Clone, Copy, Debug)]
pub struct Style {
    pub color: usize,
    pub dash: usize,
}

impl Style {
    pub fn of_run(index: usize) -> Self {
        Self {
            color: index % COLORS,
            dash: index / COLORS % DASHES,
        }
    }

    fn classes(self) -> String {
        format!("c{} d{}", self.color, self.dash)
    }

    /// A piece of the line, for legends and tables.
    pub fn swatch(self) -> String {
        format!(
            r#"<svg class="swatch {}" viewBox="0 0 26 10" aria-hidden="true"><path class="line" d="M1 5H25"/></svg>"#,
            self.classes()
        )
    }
}

#[derive(Debug)]
pub struct Line {
    pub name: String,
    pub style: Style,
    /// What to write at the line's end: the number of its run.
    pub end_label: Option<String>,
    /// The run it belongs to, which the legend can hide.
    pub run_number: usize,
    pub points: Vec<(f64, f64)>,
}

/// What the vertical axis counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Vertical {
    /// Messages a second, linear from 0.
    Rate,
    /// Microseconds, logarithmic.
    Latency,
}

/// What the horizontal axis counts; positions are linear in it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Horizontal {
    Seconds,
    /// log10(1/(1-p)): as far from 90 % to 99 % as from 99 % to 99.9 %.
    Nines,
}

#[derive(Debug)]
pub struct Chart {
    pub title: String,
    pub horizontal: Horizontal,
    pub vertical: Vertical,
    pub lines: Vec<Line>,
}

struct Layout {
    class: &'static str,
    width: f64,
    height: f64,
    left: f64,
    right: f64,
    ticks: usize,
}

const LAYOUTS: [Layout; 2] = [
    Layout {
        class: "wide",
        width: 1000.0,
        height: 340.0,
        left: 70.0,
        right: 30.0,
        ticks: 10,
    },
    Layout {
        class: "narrow",
        width: 400.0,
        height: 300.0,
        left: 56.0,
        right: 22.0,
        ticks: 5,
    },
];
const TOP: f64 = 26.0;
const BOTTOM: f64 = 46.0;

/// A range of values and the range of pixels it covers.
struct Scale {
    logarithmic: bool,
    values: (f64, f64),
    pixels: (f64, f64),
    ticks: Vec<f64>,
}

impl Scale {
    fn position(&self, value: f64) -> f64 {
        let map = |v: f64| if self.logarithmic { v.log10() } else { v };
        let value = value.clamp(self.values.0, self.values.1);
        let share = (map(value) - map(self.values.0)) / (map(self.values.1) - map(self.values.0));
        self.pixels.0 + share * (self.pixels.1 - self.pixels.0)
    }

    /// For the script, which turns pixels back into values.
    fn attribute(&self) -> String {
        format!(
            "{},{},{},{},{}",
            if self.logarithmic { "log" } else { "linear" },
            self.values.0,
            self.values.1,
            self.pixels.0,
            self.pixels.1
        )
    }
}

impl Chart {
    /// `None` when no line has a point: the page says so in words instead.
    pub fn draw(&self) -> Option<String> {
        let lines: Vec<&Line> = self.lines.iter().filter(|l| !l.points.is_empty()).collect();
        if lines.is_empty() {
            return None;
        }
        Some(
            LAYOUTS
                .iter()
                .map(|layout| self.draw_in(layout, &lines))
                .collect(),
        )
    }

    fn draw_in(&self, layout: &Layout, lines: &[&Line]) -> String {
        let (right, bottom) = (layout.width - layout.right, layout.height - BOTTOM);
        let points = || lines.iter().flat_map(|line| &line.points);
        let x_max = points().map(|point| point.0).fold(0.0, f64::max);
        let x = match self.horizontal {
            Horizontal::Seconds => seconds_scale(x_max, layout.ticks, (layout.left, right)),
            Horizontal::Nines => nines_scale(x_max, (layout.left, right)),
        };
        let y_max = points().map(|point| point.1).fold(0.0, f64::max);
        let y_min = points().map(|point| point.1).fold(f64::INFINITY, f64::min);
        let y = match self.vertical {
            Vertical::Rate => rate_scale(y_max, (bottom, TOP)),
            Vertical::Latency => latency_scale(y_min, y_max, (bottom, TOP)),
        };

        let mut svg = format!(
            r#"<svg class="chart {}" viewBox="0 0 {} {}" role="img" aria-label="{}" data-x="{}" data-y="{}" data-horizontal="{}" data-vertical="{}">"#,
            layout.class,
            layout.width,
            layout.height,
            Escaped(&self.title),
            x.attribute(),
            y.attribute(),
            match self.horizontal {
                Horizontal::Seconds => "seconds",
                Horizontal::Nines => "nines",
            },
            match self.vertical {
                Vertical::Rate => "rate",
                Vertical::Latency => "latency",
            },
        );
        self.draw_axes(&mut svg, layout, &x, &y);
        let mut ends = Vec::new();
        for &line in lines {
            let pixels = thinned(
                line.points
                    .iter()
                    .map(|&(a, b)| (x.position(a), y.position(b)))
                    .collect(),
            );
            let _ = write!(
                svg,
                r#"<g class="{}" data-run="{}" data-name="{}">"#,
                line.style.classes(),
                line.run_number,
                Escaped(&line.name)
            );
            if let [(a, b)] = pixels[..] {
                let _ = write!(
                    svg,
                    r#"<circle class="dot" cx="{a:.1}" cy="{b:.1}" r="4"/>"#
                );
            }
            svg.push_str(r#"<polyline class="line" points=""#);
            for (a, b) in &pixels {
                let _ = write!(svg, "{a:.1},{b:.1} ");
            }
            svg.push_str(r#""/></g>"#);
            if let (Some(label), Some(&(a, b))) = (&line.end_label, pixels.last()) {
                ends.push((a, b, line, label));
            }
        }
        // Above all lines, so that no line crosses a number.
        for (a, b, line, label) in apart(ends, bottom) {
            let _ = write!(
                svg,
                r#"<text class="end c{}" data-run="{}" x="{:.1}" y="{:.1}">{}</text>"#,
                line.style.color,
                line.run_number,
                a + 6.0,
                b + 4.0,
                Escaped(label)
            );
        }
        svg.push_str("</svg>");
        svg
    }

    fn draw_axes(&self, svg: &mut String, layout: &Layout, x: &Scale, y: &Scale) {
        let (left, right) = x.pixels;
        let (bottom, top) = y.pixels;
        for &tick in &y.ticks {
            let at = y.position(tick);
            let label = match self.vertical {
                Vertical::Rate => short(tick),
                Vertical::Latency => duration_us(tick),
            };
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{left} {at:.1}H{right}"/><text class="tick" x="{:.1}" y="{:.1}" text-anchor="end">{label}</text>"#,
                left - 8.0,
                at + 4.0
            );
        }
        let mut free_from = f64::NEG_INFINITY;
        for &tick in &x.ticks {
            let at = x.position(tick);
            let label = match self.horizontal {
                Horizontal::Seconds => trimmed(tick),
                Horizontal::Nines => percentile(tick),
            };
            let _ = write!(
                svg,
                r#"<path class="grid" d="M{at:.1} {top}V{:.1}"/>"#,
                bottom + 4.0
            );
            // 6.6 px is the width of a digit at this size; nearby numbers would run together.
            let half = label.len() as f64 * 3.3;
            if at - half > free_from {
                let _ = write!(
                    svg,
                    r#"<text class="tick" x="{at:.1}" y="{:.1}" text-anchor="middle">{label}</text>"#,
                    bottom + 18.0
                );
                free_from = at + half + 6.0;
            }
        }
        let (x_title, y_title) = (
            match self.horizontal {
                Horizontal::Seconds => "seconds since the measurement began",
                Horizontal::Nines => "share of messages that were at least this fast",
            },
            match self.vertical {
                Vertical::Rate => "messages/s",
                Vertical::Latency => "latency, log scale",
            },
        );
        let _ = write!(
            svg,
            r#"<path class="axis" d="M{left} {bottom}H{right}"/><text class="title" x="{}" y="{:.1}" text-anchor="end">{x_title}</text><text class="title" x="2" y="12">{y_title}</text>"#,
            right,
            layout.height - 6.0
        );
    }
}

/// `99.9%` for 3 nines; 50 % is the only one that is not whole.
fn percentile(nines: f64) -> String {
    if nines < 1.0 {
        format!("{:.0}%", 100.0 * (1.0 - 10f64.powf(-nines)))
    } else {
        let decimals = (nines as usize).saturating_sub(2);
        format!("{:.decimals$}%", 100.0 * (1.0 - 10f64.powf(-nines)))
    }
}

fn seconds_scale(max: f64, ticks: usize, pixels: (f64, f64)) -> Scale {
    let max = if max > 0.0 { max } else { 1.0 };
    Scale {
        logarithmic: false,
        values: (0.0, max),
        pixels,
        ticks: linear_ticks(max, ticks),
    }
}

fn nines_scale(max: f64, pixels: (f64, f64)) -> Scale {
    let max = max.max(2.0);
    let mut ticks = vec![2f64.log10()];
    ticks.extend((1..=max as u32).map(f64::from));
    Scale {
        logarithmic: false,
        values: (0.0, max),
        pixels,
        ticks,
    }
}

fn rate_scale(max: f64, pixels: (f64, f64)) -> Scale {
    let max = if max > 0.0 { max * 1.08 } else { 1.0 };
    let mut ticks = linear_ticks(max, 6);
    if max == 1.0 {
        ticks = vec![0.0, 1.0];
    }
    Scale {
        logarithmic: false,
        values: (0.0, max),
        pixels,
        ticks,
    }
}

fn latency_scale(min: f64, max: f64, pixels: (f64, f64)) -> Scale {
    // One nanosecond is the unit that was recorded; a logarithm has no place for 0.
    let min = min.max(0.001);
    let max = max.max(min);
    let steps = |decade: i32| [1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade));
    let all: Vec<f64> = (-4..=15).flat_map(steps).collect();
    let first = all
        .iter()
        .rposition(|&step| step < min * 1.001)
        .unwrap_or(0);
    let last = all
        .iter()
        .position(|&step| step > max * 0.999)
        .unwrap_or(all.len() - 1)
        .max(first + 1);
    let values = (all[first], all[last]);
    let mut ticks = all[first..=last].to_vec();
    // More lines than this are noise: then whole decades only.
    if ticks.len() > 7 {
        ticks.retain(|tick| (tick.log10() - tick.log10().round()).abs() < 0.01);
    }
    Scale {
        logarithmic: true,
        values,
        pixels,
        ticks,
    }
}

/// From 0 in steps of 1, 2 or 5 times a power of ten, `count` of them at most.
fn linear_ticks(max: f64, count: usize) -> Vec<f64> {
    let rough = max / count as f64;
    let magnitude = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|factor| factor * magnitude)
        .find(|step| *step >= rough * 0.999)
        .unwrap_or(10.0 * magnitude);
    (0..)
        .map(|index| f64::from(index) * step)
        .take_while(|tick| *tick <= max * 1.000_001)
        .collect()
}

/// Keeps the lowest and the highest of points that share a pixel: a stall must not be averaged away.
fn thinned(pixels: Vec<(f64, f64)>) -> Vec<(f64, f64)> {
    if pixels.len() <= POINTS_MAX {
        return pixels;
    }
    let chunk_size = pixels.len().div_ceil(POINTS_MAX / 2);
    let by_height = |a: &&(f64, f64), b: &&(f64, f64)| a.1.total_cmp(&b.1);
    let mut kept = Vec::with_capacity(POINTS_MAX);
    for chunk in pixels.chunks(chunk_size) {
        let mut pair: Vec<(f64, f64)> = chunk
            .iter()
            .min_by(by_height)
            .copied()
            .into_iter()
            .collect();
        pair.extend(chunk.iter().max_by(by_height));
        pair.sort_by(|a, b| a.0.total_cmp(&b.0));
        pair.dedup();
        kept.extend(pair);
    }
    kept
}

type End<'a> = (f64, f64, &'a Line, &'a String);

/// Moves numbers at line ends so that none covers another, as little as that takes.
fn apart(mut ends: Vec<End<'_>>, bottom: f64) -> Vec<End<'_>> {
    const WIDTH: f64 = 16.0;
    ends.sort_by(|a, b| a.1.total_cmp(&b.1));
    let beside = |a: &End<'_>, b: &End<'_>| (a.0 - b.0).abs() < WIDTH;
    for index in 1..ends.len() {
        for above in 0..index {
            if beside(&ends[above], &ends[index]) {
                ends[index].1 = ends[index].1.max(ends[above].1 + END_LABEL_HEIGHT);
            }
        }
    }
    // Those that were pushed out at the bottom push the others back up.
    for index in (0..ends.len()).rev() {
        ends[index].1 = ends[index].1.min(bottom);
        for below in index + 1..ends.len() {
            if beside(&ends[below], &ends[index]) {
                ends[index].1 = ends[index].1.min(ends[below].1 - END_LABEL_HEIGHT);
            }
        }
    }
    ends
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_not_too_many() {
        assert_eq!(linear_ticks(10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(linear_ticks(730_000.0, 5).last(), Some(&600_000.0));
        for max in [1e-3, 0.7, 1.0, 3.0, 59.0, 3600.0, 1e12] {
            let ticks = linear_ticks(max, 10);
            assert!((2..=11).contains(&ticks.len()), "{max}: {ticks:?}");
        }
    }

    #[test]
    fn a_latency_axis_holds_its_values_even_when_all_are_equal_or_zero() {
        for (min, max) in [(0.0, 0.0), (100.0, 100.0), (3.0, 7e6), (99.0, 101.0)] {
            let scale = latency_scale(min, max, (100.0, 0.0));
            assert!(scale.values.0 <= min.max(0.001) && max <= scale.values.1);
            assert!(scale.values.0 < scale.values.1);
            assert!((1..=12).contains(&scale.ticks.len()));
            assert!(scale.position(min).is_finite());
        }
    }

    #[test]
    fn percentiles_are_written_as_people_say_them() {
        assert_eq!(percentile(2f64.log10()), "50%");
        assert_eq!(percentile(1.0), "90%");
        assert_eq!(percentile(2.0), "99%");
        assert_eq!(percentile(3.0), "99.9%");
        assert_eq!(percentile(5.0), "99.999%");
    }

    #[test]
    fn thinning_keeps_a_stall() {
        let mut pixels: Vec<(f64, f64)> = (0..10_000).map(|x| (f64::from(x), 50.0)).collect();
        pixels[1234].1 = 300.0;
        let kept = thinned(pixels);
        assert!(kept.len() <= POINTS_MAX);
        assert!(kept.contains(&(1234.0, 300.0)));
        assert!(kept.is_sorted_by(|a, b| a.0 <= b.0));
    }
}
