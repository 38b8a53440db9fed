//! The dashboard in a real browser: Debian's chromium, where it is installed; otherwise these tests say
//! that they did nothing. `scripts/check-dashboard` installs it and runs them. With
//! `FASTMQ_DASHBOARD_KEEP=FOLDER` the screenshots are kept there, for looking at them.

use super::*;
use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

/// What the page's own clock may do before it is looked at.
const PAGE_TIME: &str = "--virtual-time-budget=4000";

struct Browser {
    program: PathBuf,
    folder: PathBuf,
}

impl Browser {
    fn find(name: &str) -> Option<Self> {
        let places = std::env::var_os("PATH")?;
        let program = std::env::split_paths(&places)
            .map(|place| place.join("chromium"))
            .find(|program| program.is_file());
        if program.is_none() {
            eprintln!("skipped: chromium is not installed (scripts/check-dashboard installs it)");
        }
        let base = std::env::var_os("FASTMQ_DASHBOARD_KEEP")
            .map_or_else(std::env::temp_dir, PathBuf::from);
        let folder = base.join(format!("fastmq-dashboard-{}-{name}", std::process::id()));
        let browser = Self {
            program: program?,
            folder,
        };
        fs::create_dir_all(&browser.folder).unwrap();
        Some(browser)
    }

    /// The document after its script has run, and what the console said.
    fn open(&self, url: &str, arguments: &[&str]) -> (String, Vec<String>) {
        let profile = self.folder.join("profile");
        let (out, log) = (self.folder.join("dom.html"), self.folder.join("log"));
        let mut child = Command::new(&self.program)
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args([
                "--disable-background-networking",
                "--disable-component-update",
            ])
            .args([
                "--disable-sync",
                "--disable-dev-shm-usage",
                "--hide-scrollbars",
            ])
            .args(["--enable-logging=stderr", "--disable-quic"])
            .arg(format!("--user-data-dir={}", profile.display()))
            .args(arguments)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(fs::File::create(&out).unwrap())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let patience = Instant::now() + Duration::from_secs(90);
        while child.try_wait().unwrap().is_none() {
            if Instant::now() > patience {
                let _ = child.kill();
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = String::from_utf8_lossy(&fs::read(log).unwrap()).into_owned();
        assert!(child.wait().unwrap().success(), "{log}");
        let _ = fs::remove_dir_all(profile);
        let console = log.lines().filter(|line| line.contains("CONSOLE"));
        (
            fs::read_to_string(out).unwrap(),
            console.map(str::to_owned).collect(),
        )
    }

    fn picture(&self, url: &str, name: &str, size: &str, more: &[&str]) -> Vec<u8> {
        let file = self.folder.join(name);
        let screenshot = format!("--screenshot={}", file.display());
        let size = format!("--window-size={size}");
        let mut arguments = vec![screenshot.as_str(), size.as_str()];
        arguments.extend(more);
        self.open(url, &arguments);
        fs::read(file).unwrap()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if std::env::var_os("FASTMQ_DASHBOARD_KEEP").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Publishes until it is told to stop.
fn traffic<T>(broker: &Broker, during: impl FnOnce() -> T) -> T {
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut stream = client(broker, b"");
            let mut size = 0;
            while !is_over.load(Ordering::Relaxed) {
                size = size % 40 + 1;
                stream
                    .write_all(&b"\x30\x05\x00\x01tHi".repeat(size))
                    .unwrap();
                std::thread::sleep(Duration::from_millis(20));
            }
        });
        let result = during();
        is_over.store(true, Ordering::Relaxed);
        result
    })
}

/// The value of a tile.
fn tile<'a>(dom: &'a str, name: &str) -> &'a str {
    let (_, rest) = dom.split_once(&format!(">{name}</div>")).unwrap();
    let (_, rest) = rest.split_once("class=\"value\">").unwrap();
    rest.split_once('<').unwrap().0
}

#[test]
fn a_browser_shows_what_clients_do_by_day_and_by_night() {
    let Some(browser) = Browser::find("live") else {
        return;
    };
    let broker = Broker::start(None);
    broker.watch.set_ready(true);
    let url = format!("http://{}/", broker.port.address());
    traffic(&broker, || {
        broker.until(|status| status["look"].as_u64() > Some(3));
        let (dom, console) = browser.open(&url, &["--dump-dom", PAGE_TIME]);
        assert_eq!(console, Vec::<String>::new());
        assert!(dom.contains("class=\"state good\""), "{dom}");
        assert_eq!(tile(&dom, "Clients"), "1");
        assert_ne!(tile(&dom, "Messages in"), "0");
        // The one Client that publishes, and that it does.
        let (_, table) = dom.split_once("<table id=\"talkers\">").unwrap();
        let (table, _) = table.split_once("</table>").unwrap();
        let cells: Vec<_> = table.split("<td>").skip(1).collect();
        assert_eq!(cells.len(), 7, "{table}");
        assert!(cells[0].contains("title=\"a\">a</span>"), "{table}");
        assert!(cells[2].starts_with("127.0.0.1:"), "{table}");
        assert!(!cells[3].starts_with("0<"), "{table}");
        assert!(cells[4].starts_with("0<"), "{table}");
        // Four lines over time and the histogram.
        assert_eq!(dom.matches("<svg ").count(), 5);
        let light = browser.picture(&url, "light.png", "1280,1480", &[PAGE_TIME]);
        let night = "--blink-settings=preferredColorScheme=0";
        let dark = browser.picture(&url, "dark.png", "1280,1480", &[PAGE_TIME, night]);
        assert!(light.len() > 20_000 && dark.len() > 20_000);
        assert_ne!(light, dark);
    });
}

#[test]
fn a_browser_without_the_token_shows_a_field_for_it_and_no_numbers() {
    let Some(browser) = Browser::find("locked") else {
        return;
    };
    let broker = Broker::start(Some(TOKEN));
    let url = format!("http://{}/", broker.port.address());
    let (dom, _) = browser.open(&url, &["--dump-dom", PAGE_TIME]);
    assert!(dom.contains(">locked</span>"), "{dom}");
    assert!(dom.contains("<form id=\"login\" class=\"card\">"), "{dom}");
    assert!(dom.contains("<div id=\"board\" hidden"), "{dom}");
    browser.picture(&url, "locked.png", "900,420", &[PAGE_TIME]);
}

/// A window cannot be as narrow as a phone, and the page refuses to be framed: so a copy of it is
/// framed, with the numbers of a moment inside.
#[test]
fn on_a_phone_nothing_is_wider_than_the_screen() {
    let Some(browser) = Browser::find("phone") else {
        return;
    };
    let broker = Broker::start(None);
    let (status, history) = traffic(&broker, || {
        let status = broker.until(|status| status["look"].as_u64() > Some(3));
        (status, body(&broker.get("/api/history")))
    });
    let numbers = format!(
        "<script>window.fetch = async (path) => ({{ ok: true, status: 200, \
         json: async () => path.includes('history') ? {history} : {status} }});\
         addEventListener('load', () => \
         console.log('width', innerWidth, document.documentElement.scrollWidth));</script>"
    );
    let page =
        include_str!("../dashboard.html").replace("<script>\n", &format!("{numbers}<script>\n"));
    fs::write(browser.folder.join("inner.html"), page).unwrap();
    let outer = browser.folder.join("phone.html");
    fs::write(
        &outer,
        "<!doctype html><body style='margin:0'><iframe src='inner.html' \
         style='border:0;width:390px;height:2400px'></iframe>",
    )
    .unwrap();
    let url = format!("file://{}", outer.display());
    let (_, console) = browser.open(&url, &["--dump-dom"]);
    let console = console.join("\n");
    assert!(console.contains("width 390 390"), "{console}");
    let picture = browser.picture(&url, "phone.png", "520,2400", &[]);
    assert!(picture.len() > 20_000);
}
