//! The page, top to bottom: what was measured, all runs beside each other, charts, each run.

use std::collections::BTreeSet;
use std::fmt::Write as _;

use serde_json::Value;

use super::charts;
use super::run::{Latency, Run, RunResult, Verdict};
use super::svg::{Chart, Style};
use super::text::{Escaped, NONE, count, figure, kib, rate, shell_word, trimmed, utc};

const STYLE: &str = include_str!("page.css");
const SCRIPT: &str = include_str!("page.js");
/// With more runs than this their details start folded.
const UNFOLDED_RUNS_MAX: usize = 3;

pub fn render(runs: &[Run]) -> String {
    let title = title(runs);
    let mut page = format!(
        r#"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="generator" content="loadgen {version}">
<link rel="icon" href="data:,">
<title>{title} – loadgen report</title>
<style>
{STYLE}</style>
</head>
<body>
<main>
"#,
        version = env!("CARGO_PKG_VERSION"),
        title = Escaped(&title),
    );
    write_header(&mut page, runs, &title);
    write_summary(&mut page, runs);
    write_charts(&mut page, runs);
    page.push_str("<section id=\"runs\">\n<h2>Each run</h2>\n");
    for (index, run) in runs.iter().enumerate() {
        write_run(&mut page, runs, index, run);
    }
    let _ = write!(
        page,
        "</section>\n</main>\n<footer>Written by loadgen {}. This file is all there is: it loads nothing.</footer>\n\
         <div id=\"tip\" hidden></div>\n<script>\n{SCRIPT}</script>\n</body>\n</html>\n",
        env!("CARGO_PKG_VERSION"),
    );
    page
}

/// What was measured, in one line.
fn title(runs: &[Run]) -> String {
    let brokers = distinct(runs, |run| run.broker_name().to_owned());
    let workloads = distinct(runs, |run| run.workload.name.clone());
    format!("{} · {}", listed(&brokers), listed(&workloads))
}

fn listed(names: &[String]) -> String {
    match names {
        [names @ .., last] if names.len() == 1 => format!("{} and {last}", names[0]),
        [first, second, rest @ ..] if rest.len() > 1 => {
            format!("{first}, {second} and {} more", rest.len())
        }
        _ => names.join(", "),
    }
}

/// Each value once, in the order of the runs.
fn distinct(runs: &[Run], value: impl Fn(&RunResult) -> String) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let values = runs.iter().map(|run| value(&run.result));
    values.filter(|value| seen.insert(value.clone())).collect()
}

fn write_header(page: &mut String, runs: &[Run], title: &str) {
    let _ = write!(
        page,
        "<header>\n<p class=\"eyebrow\">loadgen report</p>\n<h1>{}</h1>\n",
        Escaped(title)
    );
    let modes = distinct(runs, |run| mode_in_words(&run.workload.mode));
    let seconds = distinct(runs, |run| trimmed(run.measured_s));
    let first = runs.iter().map(|run| run.result.started_at_unix_s).min();
    let machines = distinct(runs, machine_in_words);
    let mut facts = vec![
        match runs.len() {
            1 => "1 run".to_owned(),
            several => format!("{several} runs"),
        },
        modes.join("; "),
    ];
    if let [seconds] = &seconds[..] {
        facts.push(format!("{seconds} s measured"));
    }
    facts.extend(first.map(utc));
    let _ = writeln!(
        page,
        "<p class=\"facts\">{}</p>",
        Escaped(&facts.join(" · "))
    );
    match &machines[..] {
        [machine] => {
            let _ = writeln!(page, "<p class=\"facts\">{}</p>", Escaped(machine));
        }
        several => {
            let _ = writeln!(
                page,
                "<p class=\"callout warn\">{}<span>These runs are from {} different machines or settings: \
                 differences between them are not the broker’s alone.</span></p>",
                icon(Verdict::Partial),
                several.len()
            );
        }
    }
    page.push_str(&overall(runs));
    if let [run] = runs {
        write_tiles(page, &run.result);
    }
    page.push_str("</header>\n");
}

fn mode_in_words(mode: &str) -> String {
    match mode {
        "closed" => "closed loop: as fast as the window allows".to_owned(),
        "open" => "open loop: a fixed rate on an absolute schedule".to_owned(),
        "find-max" => "search for the highest rate".to_owned(),
        "count" => "a fixed count".to_owned(),
        other => other.to_owned(),
    }
}

fn machine_in_words(run: &RunResult) -> String {
    let machine = &run.machine;
    let mut words = vec![
        machine.cpu.clone(),
        plural(machine.cores, "core"),
        format!("Linux {}", machine.kernel.trim_start_matches("Linux ")),
    ];
    if let Some(governor) = &machine.governor {
        words.push(format!("governor {governor}"));
    }
    words.join(" · ")
}

fn plural(number: u64, noun: &str) -> String {
    let ending = if number == 1 { "" } else { "s" };
    format!("{} {noun}{ending}", count(number))
}

/// One sentence over all runs: the worst comes first.
fn overall(runs: &[Run]) -> String {
    let of = |verdict| {
        let matching = runs.iter().filter(|run| run.result.verdict() == verdict);
        matching.count()
    };
    let total = runs.len();
    let share = |number: usize| match (number, total) {
        (1, 1) => "The run".to_owned(),
        _ if number == total => format!("All {total} runs"),
        _ => format!("{number} of {total} runs"),
    };
    let (failed, partial) = (of(Verdict::Failed), of(Verdict::Partial));
    let silent = of(Verdict::NothingDelivered);
    let lost: u64 = runs.iter().map(|run| run.result.truth.lost).sum();
    let (verdict, text) = if failed > 0 {
        (
            Verdict::Failed,
            format!("{} broke a promise.", share(failed)),
        )
    } else if partial > 0 {
        (
            Verdict::Partial,
            format!("{} ended early: those figures are partial.", share(partial)),
        )
    } else if silent > 0 {
        (
            Verdict::NothingDelivered,
            format!("{} delivered no message.", share(silent)),
        )
    } else if lost > 0 {
        (
            Verdict::Passed,
            format!(
                "{} kept every promise; {} were lost, which QoS 0 allows.",
                share(total),
                plural(lost, "message")
            ),
        )
    } else {
        (
            Verdict::Passed,
            format!("{} kept every promise.", share(total)),
        )
    };
    format!(
        "<p class=\"callout {}\">{}<span>{text}</span></p>\n",
        class(verdict),
        icon(verdict)
    )
}

fn write_tiles(page: &mut String, run: &RunResult) {
    let latency = run.intended();
    let cpu = run.broker_cost.as_ref();
    let (counted, per_second, each) = if run.is_about_connecting() {
        ("connected", "connections/s", "µs/connection")
    } else {
        ("delivered", "messages/s", "µs/message")
    };
    let tiles = [
        (counted, rate(run.delivered_per_s), per_second),
        ("p50", figure(latency.and_then(|l| l.p50)), "µs"),
        ("p99", figure(latency.and_then(|l| l.p99)), "µs"),
        ("p99.9", figure(latency.and_then(|l| l.p999)), "µs"),
        (
            "broker CPU",
            figure(cpu.and_then(|cost| cost.cpu_us_per_delivered)),
            each,
        ),
    ];
    page.push_str("<ul class=\"tiles\">");
    for (name, value, unit) in tiles {
        let _ = write!(
            page,
            "<li><span>{name}</span><strong>{value}</strong> <span>{unit}</span></li>"
        );
    }
    page.push_str("</ul>\n");
}

fn write_summary(page: &mut String, runs: &[Run]) {
    page.push_str(
        "<section id=\"summary\">\n<h2>Summary</h2>\n<div class=\"card scroll\"><table class=\"summary\">\n<thead><tr>\
         <th scope=\"col\">Run</th><th scope=\"col\">Delivered <small>messages/s</small></th>\
         <th scope=\"col\">Broker CPU <small>µs/message</small></th>\
         <th scope=\"col\">p50 <small>µs</small></th><th scope=\"col\">p99 <small>µs</small></th>\
         <th scope=\"col\">p99.9 <small>µs</small></th><th scope=\"col\">Max <small>µs</small></th>\
         <th scope=\"col\">Verdict</th></tr></thead>\n<tbody>\n",
    );
    let rates = runs.iter().filter_map(|run| run.result.delivered_per_s);
    let highest = rates.fold(0.0, f64::max);
    for (index, run) in runs.iter().enumerate() {
        let result = &run.result;
        let latency = result.intended();
        let cost = result.broker_cost.as_ref();
        let share = match result.delivered_per_s {
            Some(rate) if highest > 0.0 => (100.0 * rate / highest).clamp(0.0, 100.0),
            _ => 0.0,
        };
        let _ = write!(
            page,
            "<tr><th scope=\"row\">{badge}<a href=\"#run-{number}\">{name}</a><small>{what}</small></th>\
             <td data-label=\"Delivered, messages/s\">{delivered}<i class=\"bar c{color}\" style=\"--share:{share:.1}%\"></i></td>",
            badge = badge(runs, index),
            number = index + 1,
            name = Escaped(&run.name),
            what = Escaped(&format!(
                "{} · {} · {}",
                result.broker_name(),
                result.workload.name,
                result.workload.mode
            )),
            delivered = rate(result.delivered_per_s),
            color = if runs.len() == 1 { 0 } else { index % 6 },
        );
        for (label, value) in [
            (
                "Broker CPU, µs/message",
                cost.and_then(|c| c.cpu_us_per_delivered),
            ),
            ("p50, µs", latency.and_then(|l| l.p50)),
            ("p99, µs", latency.and_then(|l| l.p99)),
            ("p99.9, µs", latency.and_then(|l| l.p999)),
            ("Max, µs", latency.and_then(|l| l.max)),
        ] {
            let _ = write!(page, "<td data-label=\"{label}\">{}</td>", figure(value));
        }
        let _ = writeln!(
            page,
            "<td data-label=\"Verdict\" class=\"verdict\">{}</td></tr>",
            verdict_in_words(result)
        );
    }
    page.push_str(
        "</tbody></table></div>\n<p class=\"note\">Only verified deliveries count. Latency is from when a message was \
         <em>meant</em> to be sent until its delivery, so waiting behind a slow broker is in it.</p>\n</section>\n",
    );
}

/// The run's number on its colour, as at the end of its lines; nothing to tell apart in one run.
fn badge(runs: &[Run], index: usize) -> String {
    if runs.len() == 1 {
        return String::new();
    }
    let color = index % 6;
    format!("<b class=\"badge c{color}\">{}</b>", index + 1)
}

fn class(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => "good",
        Verdict::Failed => "bad",
        Verdict::Partial | Verdict::NothingDelivered => "warn",
    }
}

/// Shapes that differ without any colour: a tick, a cross, a triangle, an empty circle.
fn icon(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Passed => {
            r#"<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="7.2" class="fill"/><path d="M4.6 8.3l2.3 2.4 4.5-5.2"/></svg>"#
        }
        Verdict::Failed => {
            r#"<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><rect x=".8" y=".8" width="14.4" height="14.4" rx="2.5" class="fill"/><path d="M5 5l6 6M11 5l-6 6"/></svg>"#
        }
        Verdict::Partial => {
            r#"<svg class="icon" viewBox="0 0 16 16" aria-hidden="true"><path d="M8 1.2l7.2 13.3H.8z" class="fill"/><path d="M8 6v4M8 12v.6"/></svg>"#
        }
        Verdict::NothingDelivered => {
            r#"<svg class="icon hollow" viewBox="0 0 16 16" aria-hidden="true"><circle cx="8" cy="8" r="6.6"/><path d="M5 8h6"/></svg>"#
        }
    }
}

fn verdict_in_words(run: &RunResult) -> String {
    let verdict = run.verdict();
    let truth = &run.truth;
    let mut words = match verdict {
        Verdict::Passed => "Passed".to_owned(),
        Verdict::Failed if run.error.is_some() => "Failed, and ended early".to_owned(),
        Verdict::Failed => "Failed".to_owned(),
        Verdict::Partial => "Partial: ended early".to_owned(),
        Verdict::NothingDelivered if run.published == 0 => "Nothing published".to_owned(),
        Verdict::NothingDelivered => "Nothing delivered".to_owned(),
    };
    let counts: Vec<String> = [
        (truth.lost, "lost"),
        (truth.duplicated, "duplicated"),
        (truth.reordered, "reordered"),
        (truth.corrupt, "corrupt"),
        (truth.unsent, "unsent"),
        (truth.unacknowledged, "unacknowledged"),
        (truth.wrong_packets(), "wrong packets"),
    ]
    .into_iter()
    .filter(|(number, _)| *number > 0)
    .map(|(number, what)| format!("{} {what}", count(number)))
    .collect();
    let mut notes = counts.join(", ");
    if notes.is_empty() && verdict == Verdict::Passed {
        notes.push_str("every message once, in order");
    }
    if run.generator.as_ref().is_some_and(|g| g.was_limit) {
        let separator = if notes.is_empty() { "" } else { "; " };
        notes.push_str(separator);
        notes.push_str("the generator was the limit");
    }
    if !notes.is_empty() {
        words = format!("<span><strong>{words}</strong><small>{notes}</small></span>");
    } else {
        words = format!("<span><strong>{words}</strong></span>");
    }
    format!(
        "<span class=\"state {}\">{}{words}</span>",
        class(verdict),
        icon(verdict)
    )
}

fn write_charts(page: &mut String, runs: &[Run]) {
    page.push_str("<section id=\"charts\">\n<h2>Charts</h2>\n");
    write_figure(
        page,
        &charts::throughput(runs),
        "throughput",
        "Throughput over time",
        "Messages delivered in each interval.",
        "No timeline was recorded, so there is no course to draw.",
    );
    let several_have_actual =
        runs.len() > 1 && runs.iter().any(|run| run.result.actual().is_some());
    write_figure(
        page,
        &charts::percentiles(runs),
        "percentiles",
        "Latency by percentile",
        if several_have_actual {
            "From the intended send time. Each step to the right is ten times rarer; a curve ends at its slowest message. \
             Latency from the actual send time is beside it in each run below."
        } else {
            "Each step to the right is ten times rarer; a curve ends at its slowest message."
        },
        "No message was delivered, so there is no latency to draw.",
    );
    write_figure(
        page,
        &charts::latency_over_time(runs),
        "latency-over-time",
        "Latency over time",
        if runs.len() == 1 {
            "Median and 99th percentile of each interval."
        } else {
            "99th percentile of each interval."
        },
        "No latencies were recorded over time.",
    );
    page.push_str("</section>\n");
}

fn write_figure(page: &mut String, chart: &Chart, id: &str, title: &str, note: &str, empty: &str) {
    let _ = write!(
        page,
        "<figure class=\"card\" id=\"{id}\">\n<figcaption><h3>{title}</h3><p>{note}</p></figcaption>\n"
    );
    match chart.draw() {
        Some(svg) => {
            page.push_str(&legend(chart));
            page.push_str(&svg);
        }
        None => {
            let _ = write!(page, "<p class=\"empty\">{empty}</p>");
        }
    }
    page.push_str("\n</figure>\n");
}

fn legend(chart: &Chart) -> String {
    let mut legend = String::from("<ul class=\"legend\">");
    for line in &chart.lines {
        let number = line
            .end_label
            .as_deref()
            .map(|label| format!("<b>{label}</b> "));
        let missing = if line.points.is_empty() {
            " <em>(none)</em>"
        } else {
            ""
        };
        let _ = write!(
            legend,
            "<li data-run=\"{}\" data-name=\"{name}\">{}<span>{}{name}{missing}</span></li>",
            line.run_number,
            line.style.swatch(),
            number.unwrap_or_default(),
            name = Escaped(&line.name),
        );
    }
    legend.push_str("</ul>\n");
    legend
}

fn write_run(page: &mut String, runs: &[Run], index: usize, run: &Run) {
    let result = &run.result;
    let remarkable = result.error.is_some() || !result.truth.passed;
    let open = if runs.len() <= UNFOLDED_RUNS_MAX || remarkable {
        " open"
    } else {
        ""
    };
    let _ = write!(
        page,
        "<details class=\"card run\" id=\"run-{}\"{open}>\n<summary>{}<h3>{}</h3>{}</summary>\n",
        index + 1,
        badge(runs, index),
        Escaped(&run.name),
        verdict_in_words(result)
    );
    if let Some(error) = &result.error {
        let _ = writeln!(
            page,
            "<p class=\"callout bad\">{}<span><strong>This run ended early; its figures cover only what came before.</strong> {}</span></p>",
            icon(Verdict::Partial),
            Escaped(error)
        );
    }
    for warning in &result.warnings {
        let _ = writeln!(
            page,
            "<p class=\"callout warn\">{}<span><strong>Warning.</strong> {}</span></p>",
            icon(Verdict::Partial),
            Escaped(warning)
        );
    }
    write_commands(page, result);
    page.push_str("<div class=\"columns\">\n");
    let title = if result.is_about_connecting() {
        "Connections"
    } else {
        "Messages"
    };
    write_list(page, title, &counts(result));
    write_list(page, "Cost", &cost(result));
    write_list(page, "Environment", &environment(run));
    write_list(page, "Options", &options(result));
    page.push_str("</div>\n");
    write_latencies(page, result);
    if runs.len() > 1 && result.actual().is_some() {
        let chart = charts::intended_and_actual(run, index + 1);
        if let Some(svg) = chart.draw() {
            let _ = writeln!(page, "<div class=\"inset\">{}{svg}</div>", legend(&chart));
        }
    }
    page.push_str("</details>\n");
}

fn write_commands(page: &mut String, run: &RunResult) {
    let _ = write!(
        page,
        "<h4>Command lines</h4>\n<pre><b>load</b> {}</pre>\n",
        words(&run.tool.command)
    );
    if let Some(command) = &run.broker.command {
        let _ = writeln!(page, "<pre><b>broker</b> {}</pre>", words(command));
    }
}

/// Can be pasted into a shell; each word stays whole, where lines would break behind hyphens.
fn words(command: &[String]) -> String {
    let word = |word: &String| format!("<span>{}</span>", Escaped(&shell_word(word)));
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

fn write_list(page: &mut String, title: &str, rows: &[(String, String)]) {
    if rows.is_empty() {
        return;
    }
    let _ = write!(page, "<div><h4>{title}</h4><dl>");
    for (name, value) in rows {
        let _ = write!(
            page,
            "<dt>{}</dt><dd>{}</dd>",
            Escaped(name),
            Escaped(value)
        );
    }
    page.push_str("</dl></div>\n");
}

fn row(name: &str, value: impl Into<String>) -> (String, String) {
    (name.to_owned(), value.into())
}

fn known(value: &Option<String>) -> String {
    value.clone().unwrap_or_else(|| "unknown".to_owned())
}

fn counts(run: &RunResult) -> Vec<(String, String)> {
    if run.is_about_connecting() {
        return vec![
            row("connections", count(run.delivered)),
            row("connections/s", rate(run.delivered_per_s)),
        ];
    }
    let truth = &run.truth;
    let mut rows = vec![
        row("published", count(run.published)),
        row("published/s", rate(run.published_per_s)),
        row("delivered", count(run.delivered)),
        row("delivered/s", rate(run.delivered_per_s)),
        row("lost", count(truth.lost)),
        row("duplicated", count(truth.duplicated)),
        row("reordered", count(truth.reordered)),
        row("corrupt", count(truth.corrupt)),
        row("unsent", count(truth.unsent)),
        row("unacknowledged", count(truth.unacknowledged)),
        row("schedule overruns", count(run.overruns)),
    ];
    let breaches = truth.breaches.iter().filter(|&(_, &number)| number > 0);
    rows.extend(breaches.map(|(name, &number)| row(&name.replace('_', " "), count(number))));
    rows
}

fn cost(run: &RunResult) -> Vec<(String, String)> {
    let optional = |value: Option<u64>| value.map_or_else(|| NONE.to_owned(), count);
    let mut rows = Vec::new();
    if let Some(cost) = &run.broker_cost {
        rows.extend([
            row("broker CPU", format!("{} s", figure(cost.cpu_s))),
            row(
                if run.is_about_connecting() {
                    "broker CPU per connection"
                } else {
                    "broker CPU per delivery"
                },
                format!("{} µs", figure(cost.cpu_us_per_delivered)),
            ),
            row(
                "broker memory, peak",
                cost.rss_peak_kib.map_or_else(|| NONE.to_owned(), kib),
            ),
            row("voluntary switches", optional(cost.voluntary_switches)),
            row("involuntary switches", optional(cost.involuntary_switches)),
        ]);
    } else {
        rows.push(row("broker", "not observed"));
    }
    if let Some(generator) = &run.generator {
        let share = generator.cpu_share.map(|share| 100.0 * share);
        rows.extend([
            row("generator threads", count(generator.threads)),
            row("generator CPU", format!("{} s", figure(generator.cpu_s))),
            row("generator CPU share", format!("{} %", figure(share))),
            row(
                "generator ceiling/s",
                generator
                    .ceiling_per_s
                    .map_or_else(|| "not measured".to_owned(), |ceiling| rate(Some(ceiling))),
            ),
            row(
                "generator was the limit",
                if generator.was_limit { "yes" } else { "no" },
            ),
        ]);
    }
    rows
}

fn environment(run: &Run) -> Vec<(String, String)> {
    let result = &run.result;
    let machine = &result.machine;
    let mut rows = vec![
        row("started", utc(result.started_at_unix_s)),
        row("measured", format!("{} s", trimmed(result.measured_s))),
        row("CPU", machine.cpu.clone()),
        row("cores", count(machine.cores)),
        row("governor", known(&machine.governor)),
        row("kernel", machine.kernel.clone()),
    ];
    if let Some(hostname) = &machine.hostname {
        rows.push(row("host", hostname.clone()));
    }
    rows.extend([
        row("broker address", result.broker.address.clone()),
        row("broker version", known(&result.broker.version)),
    ]);
    if let Some(pid) = result.broker.pid {
        rows.push(row("broker process", pid.to_string()));
    }
    rows.extend([
        row(&result.tool.name, result.tool.version.clone()),
        row("git revision", known(&result.tool.revision)),
        row("result file", run.path.display().to_string()),
    ]);
    rows
}

fn options(run: &RunResult) -> Vec<(String, String)> {
    let mut rows = vec![
        row("workload", run.workload.name.clone()),
        row("mode", run.workload.mode.clone()),
    ];
    rows.extend(run.workload.options.iter().map(|(name, value)| {
        let value = match value {
            Value::String(text) => text.clone(),
            Value::Null => "none".to_owned(),
            // A rate of 1000 is stored as 1000.0.
            other => other.to_string().trim_end_matches(".0").to_owned(),
        };
        (name.replace('_', " "), value)
    }));
    rows
}

fn write_latencies(page: &mut String, run: &RunResult) {
    let columns: Vec<(&str, &Latency)> = [("intended", run.intended()), ("actual", run.actual())]
        .into_iter()
        .filter_map(|(name, latency)| Some((name, latency?)))
        .collect();
    page.push_str("<h4>Latency</h4>\n");
    if columns.is_empty() {
        page.push_str("<p class=\"empty\">No message was delivered, so there is no latency.</p>\n");
        return;
    }
    page.push_str("<div class=\"scroll\"><table class=\"latency\"><thead><tr><th scope=\"col\">From the … send time</th>");
    for name in ["Mean", "p50", "p90", "p99", "p99.9", "p99.99", "Max"] {
        let _ = write!(page, "<th scope=\"col\">{name} <small>µs</small></th>");
    }
    page.push_str("<th scope=\"col\">Count</th></tr></thead><tbody>\n");
    for (index, (name, latency)) in columns.iter().enumerate() {
        let style = Style {
            color: index,
            dash: index,
        };
        let _ = write!(page, "<tr><th scope=\"row\">{}{name}</th>", style.swatch());
        for value in [
            latency.mean,
            latency.p50,
            latency.p90,
            latency.p99,
            latency.p999,
            latency.p9999,
            latency.max,
        ] {
            let _ = write!(page, "<td>{}</td>", figure(value));
        }
        let _ = writeln!(page, "<td>{}</td></tr>", count(latency.count));
    }
    page.push_str("</tbody></table></div>\n");
}
