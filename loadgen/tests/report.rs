//! `loadgen report`: what its page says, and that a real browser shows it.
//!
//! The browser is chromium, where it is installed; otherwise those tests say that they did nothing.
//! `scripts/check-report` installs it and runs them. With `LOADGEN_REPORT_KEEP=FOLDER` the pages and
//! the screenshots are kept there, for looking at them.

#![forbid(unsafe_code)]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hdrhistogram::Histogram;
use hdrhistogram::serialization::{Serializer, V2DeflateSerializer, V2Serializer};
use serde_json::{Value, json};

const HOSTILE: &str = "</title></svg><script>document.title='owned'</script><b x='\"&amp;";

/// A folder of its own for each test, empty at first.
fn folder(name: &str) -> PathBuf {
    let base = match std::env::var_os("LOADGEN_REPORT_KEEP") {
        Some(folder) => PathBuf::from(folder),
        None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("report"),
    };
    let folder = base.join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

fn report(folder: &Path, files: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .current_dir(folder)
        .arg("report")
        .args(files)
        .args(["-o", "report.html"])
        .output()
        .unwrap()
}

/// Writes the results, makes their page and returns it.
fn page(folder: &Path, results: &[(&str, Value)]) -> String {
    let mut files = Vec::new();
    for (file, result) in results {
        fs::write(folder.join(file), result.to_string()).unwrap();
        files.push(*file);
    }
    let output = report(folder, &files);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    assert!(output.stdout.is_empty() && output.stderr.is_empty());
    fs::read_to_string(folder.join("report.html")).unwrap()
}

fn refused(folder: &Path, files: &[&str]) -> String {
    let output = report(folder, files);
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(!folder.join("report.html").exists());
    String::from_utf8(output.stderr).unwrap()
}

/// Random enough for a picture, the same each time.
fn noise(seed: &mut u64) -> f64 {
    *seed = seed
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*seed >> 33) as f64 / (1u64 << 31) as f64
}

/// Latencies of a broker: a hump around `median_us` and a tail.
fn histogram(median_us: f64, count: u32, seed: u64) -> Histogram<u64> {
    let mut seed = seed;
    let mut histogram = Histogram::new(3).unwrap();
    for _ in 0..count {
        let hump = median_us * (0.55 + 0.9 * noise(&mut seed));
        let tail = noise(&mut seed).max(1e-9).powf(-0.55);
        histogram.record((hump * tail * 1000.0) as u64).unwrap();
    }
    histogram
}

fn latency(histogram: &Histogram<u64>, compressed: bool) -> Value {
    let mut bytes = Vec::new();
    if compressed {
        let mut serializer = V2DeflateSerializer::new();
        serializer.serialize(histogram, &mut bytes).unwrap();
    } else {
        V2Serializer::new()
            .serialize(histogram, &mut bytes)
            .unwrap();
    }
    let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
    json!({
        "count": histogram.len(), "mean": histogram.mean() / 1e3, "p50": at(0.5), "p90": at(0.9),
        "p99": at(0.99), "p999": at(0.999), "p9999": at(0.9999), "max": histogram.max() as f64 / 1e3,
        "histogram": STANDARD.encode(bytes),
    })
}

/// A whole run that went well: `rate` messages a second, `median_us` the usual latency.
fn result(broker: &str, rate: f64, median_us: f64, seed: u64) -> Value {
    let mut random = seed;
    let timeline: Vec<Value> = (1..=20)
        .map(|second| {
            let now = rate * (0.93 + 0.14 * noise(&mut random));
            let late = 1.0 + 0.6 * noise(&mut random);
            json!({"t_s": f64::from(second) * 0.5, "published_per_s": now * 1.01, "delivered_per_s": now,
                   "p50_us": median_us * late, "p99_us": median_us * 9.0 * late})
        })
        .collect();
    let intended = histogram(median_us, 60_000, seed);
    let actual = histogram(median_us * 0.6, 60_000, seed);
    let count = (rate * 10.0) as u64;
    json!({
        "schema": 1,
        "tool": {"name": "loadgen", "version": "0.1.0", "revision": "2f824cd0519931fdb7e122457ad313f71bee6f9b",
                 "command": ["loadgen", "pairs", "--publishers", "50", "--qos", "1", "--duration", "10",
                             "--broker-pid", "4711", "--json", "run one.json"]},
        "machine": {"kernel": "6.18.0-cloud", "cpu": "AMD EPYC 9554 64-Core Processor", "cores": 8,
                    "governor": "performance", "hostname": "bench-3"},
        "broker": {"address": "127.0.0.1:1883", "pid": 4711, "version": "0.1.0",
                   "command": [format!("/usr/bin/{broker}"), "--cores", "1", "--port", "1883"]},
        "started_at_unix_s": 1_790_000_000,
        "workload": {"name": "pairs", "mode": "open", "options": {
            "publishers": 50, "subscribers": 50, "payload_bytes": 64, "qos_publish": 1, "qos_subscribe": 1,
            "mqtt": "5.0", "window": 16, "rate_per_s": rate, "tls": false, "user": null, "seed": 42}},
        "measured_s": 10.0,
        "published": count, "delivered": count, "published_per_s": rate, "delivered_per_s": rate,
        "truth": {"lost": 0, "duplicated": 0, "reordered": 0, "corrupt": 0, "unsent": 0, "passed": true},
        "latency_us": {"intended": latency(&intended, false), "actual": latency(&actual, true)},
        "overruns": 12,
        "timeline": timeline,
        "broker_cost": {"cpu_s": 7.31, "cpu_us_per_delivered": 1e6 * 7.31 / count as f64, "rss_peak_kib": 14_520,
                        "voluntary_switches": 81_234, "involuntary_switches": 910},
        "generator": {"threads": 1, "cpu_s": 5.2, "cpu_share": 0.52, "ceiling_per_s": 2_450_000.0, "was_limit": false},
        "warnings": [],
        "error": null,
    })
}

fn several() -> Vec<(&'static str, Value)> {
    let mut partial = result("mosquitto", 96_000.0, 410.0, 5);
    partial["error"] =
        json!("the broker closed the connection of p17 while it published (partial results)");
    partial["timeline"].as_array_mut().unwrap().truncate(11);
    let mut failed = result("rumqttd", 152_000.0, 190.0, 9);
    failed["truth"] = json!({"lost": 3, "duplicated": 1, "reordered": 0, "corrupt": 0, "unsent": 40,
        "unacknowledged": 2, "breaches": {"puback_missing": 2, "retain_set": 5, "dup_set": 0}, "passed": false});
    failed["warnings"] =
        json!(["the governor is powersave: figures vary with the clock of the CPU"]);
    let mut limited = result("fastmq", 412_000.0, 55.0, 3);
    limited["generator"]["was_limit"] = json!(true);
    vec![
        ("fastmq-1.json", limited),
        ("mosquitto.json", partial),
        ("rumqttd.json", failed),
    ]
}

/// Nothing arrived, nothing was seen: every figure that may be missing is.
fn silent() -> Value {
    let mut result = result("fastmq", 0.0, 100.0, 1);
    result["published"] = json!(400);
    result["truth"]["lost"] = json!(400);
    let nothing = json!({"count": 0, "mean": 0.0, "p50": 0.0, "p90": 0.0, "p99": 0.0, "p999": 0.0,
                         "p9999": 0.0, "max": 0.0, "histogram": ""});
    result["latency_us"] = json!({"intended": nothing, "actual": null});
    result["timeline"] = json!([]);
    result["broker"] =
        json!({"address": "10.0.0.7:1883", "pid": null, "command": null, "version": null});
    result["broker_cost"] = Value::Null;
    result["machine"]["governor"] = Value::Null;
    result["machine"]["hostname"] = Value::Null;
    result["tool"]["revision"] = Value::Null;
    result
}

fn twelve() -> Vec<(String, Value)> {
    (0..12u32)
        .map(|index| {
            let rate = 180_000.0 + 11_000.0 * f64::from(index % 7);
            let median_us = 60.0 + 14.0 * f64::from(index);
            let run = result("fastmq", rate, median_us, u64::from(index) + 20);
            (
                format!("pairs-50-qos1-window16-run-{:02}.json", index + 1),
                run,
            )
        })
        .collect()
}

fn pairs(results: &[(String, Value)]) -> Vec<(&str, Value)> {
    results
        .iter()
        .map(|(file, result)| (file.as_str(), result.clone()))
        .collect()
}

#[test]
fn one_run_is_told_whole() {
    let folder = folder("one-content");
    let page = page(
        &folder,
        &[("run.json", result("fastmq", 200_000.0, 80.0, 1))],
    );
    // The words of a command line are kept whole by tags of their own.
    let page = page.replace("<span>", "").replace("</span>", "");
    for said in [
        "<h1>fastmq · pairs</h1>",
        "The run kept every promise.",
        "AMD EPYC 9554 64-Core Processor",
        "6.18.0-cloud",
        "governor performance",
        "8 cores",
        "2026-09-21 14:13:20 UTC",
        "2f824cd0519931fdb7e122457ad313f71bee6f9b",
        "loadgen pairs --publishers 50 --qos 1 --duration 10 --broker-pid 4711 --json &#39;run one.json&#39;",
        "/usr/bin/fastmq --cores 1 --port 1883",
        "<dt>payload bytes</dt><dd>64</dd>",
        "<dt>rate per s</dt><dd>200000</dd>",
        "<dt>schedule overruns</dt><dd>12</dd>",
        "14.2 MiB",
        "200,000",
        "99.99%",
        "from the intended send time",
        "from the actual send time",
    ] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn a_run_that_connects_counts_connections_not_messages() {
    let folder = folder("connections");
    let mut connect = result("fastmq", 9000.0, 80.0, 1);
    connect["workload"]["name"] = json!("connect");
    let page = page(&folder, &[("run.json", connect)]);
    for said in ["connections/s", "µs/connection", "<dt>connections</dt>"] {
        assert!(page.contains(said), "{said}");
    }
    for said in ["messages/s</span>", "<dt>delivered</dt>"] {
        assert!(!page.contains(said), "{said}");
    }
}

#[test]
fn the_page_needs_nothing_from_outside() {
    let folder = folder("self-contained");
    let page = page(&folder, &several());
    // Names of XML vocabularies are no places.
    let page = page.replace("http://www.w3.org/2000/svg", "");
    for outside in ["http:", "https:", "src=", "@import", "url(", "fetch("] {
        assert!(!page.contains(outside), "{outside}");
    }
    assert!(page.contains("default-src 'none'"));
}

#[test]
fn verdicts_are_words() {
    let folder = folder("verdicts");
    let page = page(&folder, &several());
    for said in [
        "1 of 3 runs broke a promise.",
        "<strong>Passed</strong><small>every message once, in order; the generator was the limit</small>",
        "<strong>Partial: ended early</strong>",
        "the broker closed the connection of p17 while it published (partial results)",
        "<strong>Failed</strong><small>3 lost, 1 duplicated, 40 unsent, 2 unacknowledged, 5 wrong packets</small>",
        "the governor is powersave",
    ] {
        assert!(page.contains(said), "{said}");
    }
}

#[test]
fn a_run_without_deliveries_says_so_instead_of_drawing() {
    let folder = folder("silent-content");
    let page = page(&folder, &[("run.json", silent())]);
    for said in [
        "<h1>10.0.0.7:1883 · pairs</h1>",
        "The run delivered no message.",
        "<strong>Nothing delivered</strong><small>400 lost</small>",
        "No message was delivered, so there is no latency to draw.",
        "No timeline was recorded",
        "<dt>governor</dt><dd>unknown</dd>",
        "<dt>broker</dt><dd>not observed</dd>",
    ] {
        assert!(page.contains(said), "{said}");
    }
    assert!(!page.contains("NaN") && !page.contains("class=\"chart"));
}

#[test]
fn every_text_of_a_result_is_escaped() {
    fn poison(value: &mut Value) {
        match value {
            // A mode is written in words, a histogram is drawn.
            Value::String(text) if text != "open" && text.len() < 1000 => {
                *text = HOSTILE.to_owned()
            }
            Value::Array(values) => values.iter_mut().for_each(poison),
            Value::Object(values) => {
                values.iter_mut().for_each(|(_, value)| poison(value));
                if values.contains_key("publishers") {
                    values.insert(HOSTILE.to_owned(), json!({ HOSTILE: [HOSTILE] }));
                }
            }
            _ => {}
        }
    }
    let folder = folder("hostile");
    let mut result = result("fastmq", 1000.0, 80.0, 1);
    result["warnings"] = json!(["x"]);
    result["error"] = json!("x");
    poison(&mut result);
    let name = "<script>alert('&')<\u{2044}script>.json";
    let page = page(&folder, &[(name, result.clone()), ("other.json", result)]);
    assert_eq!(page.matches("<script>").count(), 1);
    assert_eq!(page.matches("</script>").count(), 1);
    assert!(!page.contains("<b x="));
    assert!(page.contains("&lt;script&gt;document.title=&#39;owned&#39;&lt;/script&gt;"));
}

#[test]
fn equal_file_names_are_told_apart_and_one_file_may_hold_several_results() {
    let folder = folder("names");
    let run = result("fastmq", 1000.0, 80.0, 1).to_string();
    for name in ["a", "b"] {
        fs::create_dir(folder.join(name)).unwrap();
        fs::write(folder.join(name).join("run.json"), &run).unwrap();
    }
    fs::write(folder.join("both.json"), format!("{run}\n{run}\n")).unwrap();
    let output = report(&folder, &["a/run.json", "b/run.json", "both.json"]);
    assert!(output.status.success(), "{output:?}");
    let page = fs::read_to_string(folder.join("report.html")).unwrap();
    for name in ["a/run.json", "b/run.json", "both #1", "both #2"] {
        assert!(page.contains(&format!("<h3>{name}</h3>")), "{name}");
    }
}

#[test]
fn what_is_not_a_result_is_named_and_refused() {
    let folder = folder("refused");
    let good = result("fastmq", 1000.0, 80.0, 1);
    fs::write(folder.join("good.json"), good.to_string()).unwrap();
    let mut other_schema = good.clone();
    other_schema["schema"] = json!(2);
    let mut incomplete = good.clone();
    incomplete.as_object_mut().unwrap().remove("machine");
    let mut damaged = good.clone();
    damaged["latency_us"]["intended"]["histogram"] = json!("AAAA");
    let mut impossible = good.clone();
    impossible["timeline"][0]["p99_us"] = json!(1e308);
    let mut backwards = good.clone();
    backwards["timeline"][0]["t_s"] = json!(-1.0);
    for (file, content, expected) in [
        (
            "impossible.json",
            impossible.to_string(),
            "not a loadgen result: 1e308 is no figure of a run",
        ),
        (
            "backwards.json",
            backwards.to_string(),
            "not a loadgen result: -1e0 is no figure of a run",
        ),
        (
            "empty.json",
            String::new(),
            "not a loadgen result: the file is empty",
        ),
        (
            "cut.json",
            good.to_string()[..400].to_owned(),
            "not a loadgen result: EOF while parsing",
        ),
        (
            "text.json",
            "Delivered: 7".to_owned(),
            "not a loadgen result: expected value at line 1 column 1",
        ),
        (
            "other.json",
            r#"{"name":"x"}"#.to_owned(),
            "not a loadgen result: it has no \"schema\"",
        ),
        (
            "list.json",
            "[1]".to_owned(),
            "not a loadgen result: it has no \"schema\"",
        ),
        (
            "new.json",
            other_schema.to_string(),
            "a result of schema 2, and this loadgen reads schema 1",
        ),
        (
            "lacking.json",
            incomplete.to_string(),
            "not a loadgen result: missing field `machine`",
        ),
        (
            "damaged.json",
            damaged.to_string(),
            "not a loadgen result: latency_us.intended.histogram: ",
        ),
    ] {
        fs::write(folder.join(file), content).unwrap();
        let said = refused(&folder, &["good.json", file]);
        assert!(
            said.starts_with(&format!("loadgen: {file}: {expected}")),
            "{said}"
        );
    }
    let said = refused(&folder, &["good.json", "absent.json"]);
    assert!(
        said.starts_with("loadgen: absent.json: cannot be read: No such file"),
        "{said}"
    );
    fs::write(folder.join("binary.json"), [0xff, 0xfe, 0x00]).unwrap();
    assert!(
        refused(&folder, &["binary.json"])
            .starts_with("loadgen: binary.json: not a loadgen result")
    );
    assert!(refused(&folder, &[]).contains("RUN.json"));
}

#[test]
fn a_result_is_never_overwritten_by_its_page() {
    let folder = folder("overwrite");
    let run = result("fastmq", 1000.0, 80.0, 1).to_string();
    fs::write(folder.join("run.json"), &run).unwrap();
    std::os::unix::fs::symlink("run.json", folder.join("link.html")).unwrap();
    for page in ["run.json", "./run.json", "link.html"] {
        let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
            .current_dir(&folder)
            .args(["report", "run.json", "-o", page])
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(2), "{page}");
        let kept = fs::read_to_string(folder.join("run.json")).unwrap();
        assert_eq!(kept, run, "{page}");
    }
}

#[test]
fn an_hour_of_seconds_stays_a_small_page() {
    let folder = folder("hour");
    let mut run = result("fastmq", 200_000.0, 80.0, 1);
    let moments = (1..=36_000).map(|tenth| {
        json!({"t_s": f64::from(tenth) / 10.0, "published_per_s": 1e5, "delivered_per_s": 1e5 + f64::from(tenth % 97),
               "p50_us": 80.0, "p99_us": 300.0})
    });
    run["timeline"] = moments.collect();
    assert!(page(&folder, &[("hour.json", run)]).len() < 400_000);
}

/// Debian's chromium, where it is installed.
struct Browser {
    program: PathBuf,
    folder: PathBuf,
}

struct Seen {
    dom: String,
    console: Vec<String>,
}

impl Browser {
    fn find(folder: &Path) -> Option<Self> {
        let places = std::env::var_os("PATH")?;
        let found = std::env::split_paths(&places)
            .map(|place| place.join("chromium"))
            .find(|program| program.is_file());
        if found.is_none() {
            eprintln!("skipped: chromium is not installed (scripts/check-report installs it)");
        }
        Some(Self {
            program: found?,
            folder: folder.to_owned(),
        })
    }

    fn run(&self, page: &Path, arguments: &[String]) -> (Vec<u8>, String) {
        let (out, log) = (
            self.folder.join("dom.html"),
            self.folder.join("chromium.log"),
        );
        let profile = self.folder.join("profile");
        let mut child = Command::new(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ])
            .args([
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
                "--enable-logging=stderr",
            ])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(arguments)
            .arg(format!("file://{}", page.display()))
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(90);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break Some(status);
            }
            if Instant::now() > deadline {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
            thread::sleep(Duration::from_millis(50));
        };
        let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        assert!(
            status.is_some_and(|status| status.success()),
            "{status:?}: {log}"
        );
        let _ = fs::remove_dir_all(profile);
        (fs::read(out).unwrap(), log)
    }

    /// The document after its script ran, and what the console said.
    fn open(&self, page: &Path, size: (u32, u32)) -> Seen {
        let window = format!("--window-size={},{}", size.0, size.1);
        let (dom, log) = self.run(page, &["--dump-dom".to_owned(), window]);
        let console = log.lines().filter(|line| line.contains("CONSOLE"));
        Seen {
            dom: String::from_utf8(dom).unwrap(),
            console: console.map(str::to_owned).collect(),
        }
    }

    /// Takes a picture and returns its size in bytes.
    fn picture(&self, page: &Path, size: (u32, u32), dark: bool, name: &str) -> u64 {
        let file = self.folder.join(name);
        let mut arguments = vec![
            format!("--screenshot={}", file.display()),
            format!("--window-size={},{}", size.0, size.1),
        ];
        if dark {
            arguments.push("--blink-settings=preferredColorScheme=0".to_owned());
        }
        self.run(page, &arguments);
        fs::metadata(file).unwrap().len()
    }

    /// A page that frames `page` at the width of a phone, which is narrower than a window may be.
    fn phone(&self, page: &str, height: u32) -> PathBuf {
        let inner = self.folder.join("phone-inner.html");
        let measure = r#"<script>
            console.log("phone", innerWidth, document.documentElement.scrollWidth);
            const chart = document.querySelector(".chart.narrow");
            if (chart) {
                const box = chart.getBoundingClientRect();
                const [clientX, clientY] = [box.left + box.width / 2, box.top + box.height / 2];
                chart.dispatchEvent(new PointerEvent("pointermove", { clientX, clientY }));
                console.log("tip", document.getElementById("tip").innerText.replaceAll("\n", " "));
                chart.dispatchEvent(new PointerEvent("pointerleave"));
                const entry = document.querySelector(".legend li");
                entry.click();
                console.log("hidden lines", chart.querySelectorAll("g.away").length);
                entry.click();
                console.log("hidden again", chart.querySelectorAll("g.away").length);
            }
        </script>"#;
        fs::write(
            &inner,
            page.replace("</body>", &format!("{measure}</body>")),
        )
        .unwrap();
        let outer = self.folder.join("phone.html");
        let frame = format!(
            "<!doctype html><body style='margin:0'><iframe src='phone-inner.html' \
             style='border:0;width:390px;height:{height}px'></iframe>"
        );
        fs::write(&outer, frame).unwrap();
        outer
    }

    fn console_on_phone(&self, page: &str) -> String {
        self.open(&self.phone(page, 800), (600, 800))
            .console
            .join("\n")
    }
}

/// Shows the page at a desk, in the dark and on a phone, and looks for anything odd.
fn assert_shown(folder: &Path, page: &str, heights: (u32, u32), charts: usize) {
    let Some(browser) = Browser::find(folder) else {
        return;
    };
    let file = folder.join("report.html");
    let seen = browser.open(&file, (1280, 900));
    assert_eq!(seen.console, Vec::<String>::new());
    assert_eq!(
        seen.dom.matches("<svg class=\"chart wide\"").count(),
        charts
    );
    assert_eq!(
        seen.dom.matches("<svg class=\"chart narrow\"").count(),
        charts
    );
    // The script puts a cursor in each chart: it came to its end without a fault.
    assert_eq!(seen.dom.matches("class=\"cursor\"").count(), 2 * charts);
    assert!(!seen.dom.contains("owned</title>"));

    let said = browser.console_on_phone(page);
    assert!(said.contains("phone 390 390"), "wider than a phone: {said}");
    if charts > 0 {
        // What the pointer and a click on the legend do.
        assert!(said.contains("tip 4.5 s "), "{said}");
        assert!(
            said.contains("hidden lines 1") && said.contains("hidden again 0"),
            "{said}"
        );
    }

    // A picture of nothing compresses to next to nothing.
    let blank = folder.join("blank.html");
    fs::write(&blank, "<!doctype html>").unwrap();
    let blank_size = browser.picture(&blank, (1280, heights.0), false, "blank.png");
    for (dark, name) in [(false, "light.png"), (true, "dark.png")] {
        let size = browser.picture(&file, (1280, heights.0), dark, name);
        assert!(
            size > 5 * blank_size,
            "{name}: {size} bytes, blank {blank_size}"
        );
    }
    let light = fs::read(folder.join("light.png")).unwrap();
    assert!(
        light != fs::read(folder.join("dark.png")).unwrap(),
        "dark is light"
    );
    let phone = browser.phone(page, heights.1);
    let size = browser.picture(&phone, (500, heights.1), false, "phone.png");
    assert!(
        size > 3 * blank_size,
        "phone: {size} bytes, blank {blank_size}"
    );
}

#[test]
fn a_browser_shows_several_runs() {
    let folder = folder("several");
    let page = page(&folder, &several());
    // Three charts, and one more for each run with both kinds of latency.
    assert_shown(&folder, &page, (3600, 6800), 6);
}

#[test]
fn a_browser_shows_one_run() {
    let folder = folder("one");
    let page = page(
        &folder,
        &[("run.json", result("fastmq", 200_000.0, 80.0, 1))],
    );
    assert_shown(&folder, &page, (2500, 3600), 3);
}

#[test]
fn a_browser_shows_twelve_runs() {
    let folder = folder("twelve");
    let page = page(&folder, &pairs(&twelve()));
    assert_shown(&folder, &page, (3300, 6400), 15);
}

#[test]
fn a_browser_shows_a_run_without_deliveries() {
    let folder = folder("silent");
    let page = page(&folder, &[("run.json", silent())]);
    assert_shown(&folder, &page, (1600, 2400), 0);
}

#[test]
fn a_browser_runs_no_script_of_a_result() {
    let folder = folder("injected");
    let mut run = result("fastmq", 1000.0, 80.0, 1);
    run["broker"]["version"] = json!(HOSTILE);
    run["workload"]["name"] = json!(HOSTILE);
    run["error"] = json!("<img src=x onerror=console.log('owned')>");
    page(&folder, &[("run.json", run)]);
    let Some(browser) = Browser::find(&folder) else {
        return;
    };
    let seen = browser.open(&folder.join("report.html"), (1280, 900));
    assert_eq!(seen.console, Vec::<String>::new());
    assert!(!seen.dom.contains("<title>owned"));
    assert_eq!(seen.dom.matches("<img").count(), 0);
}

/// The checks above would be worth nothing if the console were never heard.
#[test]
fn a_browser_that_finds_a_fault_is_heard() {
    let folder = folder("fault");
    let Some(browser) = Browser::find(&folder) else {
        return;
    };
    let file = folder.join("fault.html");
    fs::write(&file, "<!doctype html><script>absent()</script>").unwrap();
    let console = browser.open(&file, (800, 600)).console.join("\n");
    assert!(console.contains("absent is not defined"), "{console}");
}
