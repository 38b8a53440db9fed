//! The admin port, asked over HTTP.

mod browser;

use super::*;
use crate::bridge::BridgeTable;
use crate::limits::Limits;
use crate::net::listen;
use crate::policy::Settings;
use crate::runtime::{self, Placed, Running};
use crate::shard::Shard;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

const TOKEN: &str = "correct-horse-battery";

/// One shard, watched.
struct Broker {
    watch: Watch,
    port: AdminPort,
    running: Option<Running>,
    mqtt: SocketAddr,
}

impl Broker {
    fn start(token: Option<&str>) -> Self {
        let (mqtt, sockets) = listen("127.0.0.1:0".parse().unwrap(), 1).unwrap();
        let mut settings = Settings::permissive(Limits::default());
        settings.listeners[0].port = mqtt.port();
        let settings = Arc::new(settings);
        let (sender, notices) = runtime::notices();
        let running = runtime::start(
            &[Placed::Anywhere],
            vec![sockets],
            &sender,
            move |id, count| Shard::with_settings(id, count, settings.clone(), 1),
        )
        .unwrap();
        let watch = WatchOptions {
            sys_interval: Duration::from_secs(1),
            sys_constants: vec![("version".into(), "fastmq version 1".into())],
            numbers: running.numbers(),
            affinity: Some(running.affinity()),
            mailboxes: running.mailboxes(),
            log: None,
            events_dropped: notices.events_dropped,
            bridges: BridgeTable::default(),
        };
        let watch = Watch::start(watch).unwrap();
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = AdminPort::start(socket, token.map(Box::from), watch.clone()).unwrap();
        Self {
            watch,
            port,
            running: Some(running),
            mqtt,
        }
    }

    fn ask(&self, head: &str) -> String {
        let mut stream = TcpStream::connect(self.port.address()).unwrap();
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        stream.write_all(head.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!(
            "GET {path} HTTP/1.1\r\nHost: localhost:1\r\nConnection: close\r\n\r\n"
        ))
    }

    /// Until the watch has seen what `is_there` looks for.
    fn until(&self, is_there: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
        self.until_at("/api/status", is_there)
    }

    fn until_at(
        &self,
        path: &str,
        is_there: impl Fn(&serde_json::Value) -> bool,
    ) -> serde_json::Value {
        let patience = Instant::now() + Duration::from_secs(20);
        loop {
            let said = body(&self.get(path));
            if is_there(&said) {
                return said;
            }
            assert!(Instant::now() < patience, "never there: {said}");
            std::thread::sleep(Duration::from_millis(50));
        }
    }
}

impl Drop for Broker {
    fn drop(&mut self) {
        self.watch.stop();
        if let Some(running) = self.running.take() {
            running.stopper().stop();
            running.join().unwrap();
        }
    }
}

fn body(answer: &str) -> serde_json::Value {
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    serde_json::from_str(body).unwrap()
}

/// A v3.1.1 Client that has sent CONNECT, and `more` behind it.
fn client(broker: &Broker, more: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(broker.mqtt).unwrap();
    stream
        .write_all(b"\x10\x0d\x00\x04MQTT\x04\x02\x00\x00\x00\x01a")
        .unwrap();
    stream.write_all(more).unwrap();
    let mut connack = [0; 4];
    stream.read_exact(&mut connack).unwrap();
    assert_eq!(connack, [0x20, 2, 0, 0]);
    stream
}

#[test]
fn what_clients_do_is_in_the_numbers_a_moment_later() {
    let broker = Broker::start(None);
    let _client = client(&broker, b"\x30\x05\x00\x01tHi");
    let status = broker.until(|status| status["total"]["counters"]["publish_received"] == 1);
    let total = &status["total"];
    assert_eq!(total["gauges"]["clients_connected"], 1);
    assert_eq!(total["counters"]["publish_bytes_received"], 2);
    assert_eq!(total["counters"]["bytes_received"], 22);
    assert_eq!(status["shards"][0]["answers"], true);
    assert_eq!(status["is_healthy"], true);
    let metrics = broker.get("/metrics");
    assert!(metrics.starts_with("HTTP/1.1 200"), "{metrics}");
    for line in [
        "fastmq_publish_received_total{shard=\"0\"} 1",
        "fastmq_clients_connected{shard=\"0\"} 1",
        "fastmq_shard_up{shard=\"0\"} 1",
        "fastmq_shards_gathered 0",
        "fastmq_gatherings_total 0",
        "fastmq_shards_roaming 0",
        "fastmq_roamings_total 0",
    ] {
        assert!(metrics.contains(line), "{line} is not in {metrics}");
    }
    assert!(metrics.trim_end().ends_with("# EOF"));
    for name in ["fastmq_turn_duration", "fastmq_turn_cpu"] {
        // What OpenMetrics demands: the last bucket has no bound and holds as much as there is.
        let value = |of: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(of));
            line.unwrap_or_else(|| panic!("no {of} in {metrics}"))
                .trim()
        };
        assert_eq!(
            value(&format!("{name}_seconds_bucket{{le=\"+Inf\",shard=\"0\"}}")),
            value(&format!("{name}_seconds_count{{shard=\"0\"}}"))
        );
    }
    // The first look has nothing to be compared with.
    let history = broker.until_at("/api/history", |history| history["seconds"][0].is_object());
    let look = &history["look"];
    let news = body(&broker.get(&format!("/api/history?since={look}")));
    assert!(news["seconds"].as_array().unwrap().len() <= 1);
}

#[test]
fn who_publishes_and_who_is_sent_most_is_named_until_it_falls_silent() {
    let broker = Broker::start(None);
    // Subscribed to what it publishes: three times in, and three times out.
    let subscribe = b"\x82\x06\0\x01\0\x01t\0".as_slice();
    let publish = b"\x30\x05\x00\x01tHi".repeat(3);
    let mut client = client(&broker, &[subscribe, &publish].concat());
    // A look may fall between what came in and what went out; the next ones show both.
    let status = broker.until(|status| {
        let sent = &status["talkers"][0]["out"]["messages"];
        sent.as_f64().is_some_and(|messages| messages > 0.0)
    });
    let talker = &status["talkers"][0];
    assert_eq!(talker["client"], "a");
    assert_eq!(
        talker["peer"],
        client.local_addr().unwrap().to_string(),
        "{talker}"
    );
    assert_eq!(talker["port"], broker.mqtt.port());
    for direction in ["in", "out"] {
        let messages = talker[direction]["messages"].as_f64().unwrap();
        let bytes = talker[direction]["bytes"].as_f64().unwrap();
        assert!(messages > 0.0 && bytes >= messages * 7.0, "{talker}");
    }
    // A PINGREQ is no message.
    client.write_all(&[0xc0, 0]).unwrap();
    broker.until(|status| status["talkers"] == serde_json::json!([]));
}

#[test]
fn ready_is_said_once_the_listeners_are_up_and_healthy_at_once() {
    let broker = Broker::start(None);
    assert!(broker.get("/healthz").starts_with("HTTP/1.1 200"));
    assert!(broker.get("/readyz").starts_with("HTTP/1.1 503"));
    broker.watch.set_ready(true);
    assert!(broker.get("/readyz").starts_with("HTTP/1.1 200"));
}

#[test]
fn with_a_token_no_number_is_served_without_it() {
    let broker = Broker::start(Some(TOKEN));
    for path in ["/metrics", "/api/status", "/api/history"] {
        let answer = broker.get(path);
        assert!(answer.starts_with("HTTP/1.1 401"), "{path}: {answer}");
        assert!(!answer.contains("fastmq_"), "{path}: {answer}");
        for (shown, status) in [(TOKEN, 200), ("correct-horse-batterz", 401)] {
            let answer = broker.ask(&format!(
                "GET {path} HTTP/1.1\r\nHost: broker.example\r\nAuthorization: Bearer {shown}\r\n\
                 Connection: close\r\n\r\n"
            ));
            let expected = if path == "/readyz" && status == 200 {
                503
            } else {
                status
            };
            let head = format!("HTTP/1.1 {expected}");
            assert!(answer.starts_with(&head), "{path}: {answer}");
        }
    }
    // A new token counts at once, and the one before no more.
    broker.port.set_token(Some("another-horse-entirely".into()));
    let answer = broker.ask(&format!(
        "GET /metrics HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {TOKEN}\r\nConnection: close\r\n\r\n"
    ));
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn the_page_and_health_need_no_token_and_show_no_number() {
    let broker = Broker::start(Some(TOKEN));
    let page = broker.get("/");
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<title>fastmq"));
    assert!(page.contains("content-security-policy: default-src 'none'"));
    // What a browser would fetch from elsewhere.
    for elsewhere in ["http://", "https://", "//cdn", "@import", "src="] {
        let allowed = "xmlns='http://www.w3.org/2000/svg'";
        let own = page
            .replace(allowed, "")
            .replace("\"http://www.w3.org/2000/svg\"", "");
        assert!(!own.contains(elsewhere), "{elsewhere}");
    }
    assert!(broker.get("/healthz").ends_with("\r\n\r\nok\n"));
    assert!(broker.get("/readyz").ends_with("\r\n\r\nnot ready\n"));
}

#[test]
fn without_a_token_other_names_for_this_machine_are_not_answered() {
    let broker = Broker::start(None);
    let host = |host: &str| {
        broker.ask(&format!(
            "GET /healthz HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"
        ))
    };
    for good in [
        "localhost",
        "LOCALHOST:80",
        "127.0.0.1:9",
        "[::1]:9",
        "[::1]",
    ] {
        assert!(host(good).starts_with("HTTP/1.1 200"), "{good}");
    }
    for bad in [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "",
    ] {
        assert!(host(bad).starts_with("HTTP/1.1 421"), "{bad}");
    }
}

#[test]
fn nothing_can_be_changed_and_nothing_else_is_there() {
    let broker = Broker::start(None);
    let head = "HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    for method in ["POST", "PUT", "DELETE", "PATCH"] {
        let answer = broker.ask(&format!("{method} /api/status {head}"));
        assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    }
    assert!(broker.get("/nothing").starts_with("HTTP/1.1 404"));
    assert!(
        broker
            .get("/api/history?since=x")
            .starts_with("HTTP/1.1 400")
    );
}

#[test]
fn a_request_that_is_too_large_is_refused() {
    let broker = Broker::start(None);
    let long = "x".repeat(20_000);
    let answer = broker.ask(&format!(
        "GET /healthz HTTP/1.1\r\nHost: localhost\r\nCookie: {long}"
    ));
    assert!(answer.starts_with("HTTP/1.1 431"), "{answer}");
}

#[test]
fn an_address_that_others_reach_needs_a_token() {
    let broker = Broker::start(None);
    let start = |token: Token| {
        let socket = TcpListener::bind("0.0.0.0:0").unwrap();
        AdminPort::start(socket, token, broker.watch.clone())
    };
    let refused = start(None).unwrap_err().to_string();
    assert!(refused.contains("fastmq_admin_token_file"), "{refused}");
    let port = start(Some(TOKEN.into())).unwrap();
    // A reload that lost the token lets nobody in.
    port.set_token(None);
    let mut stream = TcpStream::connect(("127.0.0.1", port.address().port())).unwrap();
    stream
        .write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "{answer}");
}

#[test]
fn sys_topics_reach_a_subscriber_and_are_retained() {
    let broker = Broker::start(None);
    // SUBSCRIBE $SYS/broker/+ and $SYS/broker/shards/0/clients/connected, QoS 0.
    let filters = [
        &b"$SYS/broker/+"[..],
        b"$SYS/broker/shards/0/clients/connected",
    ];
    let mut packet = vec![0, 1];
    for filter in filters {
        packet.extend([0, filter.len() as u8]);
        packet.extend(filter);
        packet.push(0);
    }
    let mut subscribe = vec![0x82, packet.len() as u8];
    subscribe.extend(packet);
    let has = |stream: &mut TcpStream, wanted: &[&[u8]]| {
        stream
            .set_read_timeout(Some(Duration::from_secs(20)))
            .unwrap();
        let mut seen = Vec::new();
        let mut buffer = [0; 4096];
        while !wanted
            .iter()
            .all(|wanted| seen.windows(wanted.len()).any(|part| part == *wanted))
        {
            let size = stream.read(&mut buffer).unwrap();
            assert!(size > 0, "closed");
            seen.extend_from_slice(&buffer[..size]);
        }
    };
    let mut first = client(&broker, &subscribe);
    let wanted: [&[u8]; 3] = [
        b"$SYS/broker/uptime",
        b"$SYS/broker/versionfastmq version 1",
        b"$SYS/broker/shards/0/clients/connected1",
    ];
    has(&mut first, &wanted);
    drop(first);
    // The version is published once: a later subscriber has it because it is retained.
    let mut second = client(&broker, &subscribe);
    has(&mut second, &[wanted[1]]);
}

#[test]
fn health_is_told_at_once_though_others_keep_all_connections_and_say_nothing() {
    let broker = Broker::start(None);
    let connect = || TcpStream::connect(broker.port.address()).unwrap();
    let idle: Vec<_> = (0..100).map(|_| connect()).collect();
    let mut used = connect();
    let request = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let mut ask = || {
        used.write_all(request).unwrap();
        let mut answer = [0; 1024];
        let size = used.read(&mut answer).unwrap();
        assert!(answer[..size].starts_with(b"HTTP/1.1 200"));
    };
    let begin = Instant::now();
    ask();
    // Who asks is not the one that is let go.
    let more: Vec<_> = (0..40).map(|_| connect()).collect();
    ask();
    assert!(broker.get("/healthz").starts_with("HTTP/1.1 200"));
    ask();
    // Half of the time after which those who say nothing are closed anyway.
    assert!(
        begin.elapsed() < Duration::from_secs(5),
        "{:?}",
        begin.elapsed()
    );
    drop((idle, more));
}
