//! The generator must see every lie: it runs against a broker with one planted defect.

#![forbid(unsafe_code)]

mod fake;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Output};
use std::sync::{Arc, Mutex};
use std::thread;

/// Few enough that a machine that is busy comes so far.
const STRUCK: usize = 10;

/// What the broker does wrong with message number [`STRUCK`].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Defect {
    None,
    Drop,
    Duplicate,
    Swap,
    Corrupt,
    /// Changes a bit of when it was due.
    CorruptTime,
    /// Another last letter of the topic.
    OtherTopic,
    /// Forwards it, and acknowledges neither it nor what comes later.
    NoAck,
    /// To every subscriber, whoever shares with whom.
    ToAll,
    Die,
    /// Takes connections and never answers.
    Mute,
    RefuseConnect,
    /// Grants QoS 0 whatever is asked for.
    Grant0,
}

/// Forwards everything published to the first subscriber, MQTT 3.1.1, QoS 0 and 1.
fn start_broker(defect: Defect) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let subscribers = Arc::new(Mutex::new(Vec::new()));
    // Threads end with the test process, or earlier when their Client closes.
    thread::spawn(move || {
        for stream in listener.incoming() {
            let subscribers = Arc::clone(&subscribers);
            thread::spawn(move || serve(stream.unwrap(), &subscribers, defect));
        }
    });
    port
}

fn serve(mut stream: TcpStream, subscribers: &Mutex<Vec<TcpStream>>, defect: Defect) {
    stream.set_nodelay(true).unwrap();
    let mut writer = stream.try_clone().unwrap();
    let mut buffer = vec![0; 1 << 20];
    let (mut filled, mut count) = (0, 0);
    let mut kept: Option<Vec<u8>> = None;
    loop {
        match stream.read(&mut buffer[filled..]) {
            Ok(0) | Err(_) => return,
            Ok(size) => filled += size,
        }
        let (mut at, mut forwarded, mut answers) = (0, Vec::new(), Vec::new());
        while let Some((_, end)) = fake::packet(&buffer[..filled], at) {
            let packet = &buffer[at..end];
            at = end;
            match packet[0] {
                _ if defect == Defect::Mute => {}
                0x10 if defect == Defect::RefuseConnect => answers.extend([0x20, 2, 0, 5]),
                0x10 => answers.extend([0x20, 2, 0, 0]),
                0x82 => {
                    let subscriber = stream.try_clone().unwrap();
                    subscribers.lock().unwrap().push(subscriber);
                    let asked = packet[packet.len() - 1];
                    let granted = if defect == Defect::Grant0 { 0 } else { asked };
                    answers.extend([0x90, 3, packet[2], packet[3], granted]);
                }
                0x30 | 0x32 => {
                    count += 1;
                    if packet[0] == 0x32 && !(defect == Defect::NoAck && count >= STRUCK) {
                        let topic_size = usize::from(packet[3]);
                        answers.extend([0x40, 2, packet[4 + topic_size], packet[5 + topic_size]]);
                    }
                    match defect {
                        Defect::Drop if count == STRUCK => {}
                        Defect::Swap if count == STRUCK => kept = Some(packet.to_vec()),
                        Defect::Die if count == STRUCK => {
                            let _ = stream.shutdown(std::net::Shutdown::Both);
                            return;
                        }
                        _ => {
                            forwarded.extend_from_slice(packet);
                            if defect == Defect::Duplicate && count == STRUCK {
                                // At QoS 1 as what is sent again has to be [MQTT-3.3.1-1].
                                let dup = if packet[0] == 0x32 { 8 } else { 0 };
                                forwarded.push(packet[0] | dup);
                                forwarded.extend_from_slice(&packet[1..]);
                            }
                            if defect == Defect::Corrupt && count == STRUCK {
                                *forwarded.last_mut().unwrap() ^= 1;
                            }
                            if defect == Defect::CorruptTime && count == STRUCK {
                                // Of a payload of 64 bytes: publisher and sequence are before it.
                                let due_at = forwarded.len() - 64 + 12;
                                forwarded[due_at + 3] ^= 1;
                            }
                            if defect == Defect::OtherTopic && count == STRUCK {
                                let packet_at = forwarded.len() - packet.len();
                                let topic_size = usize::from(packet[3]);
                                forwarded[packet_at + 3 + topic_size] ^= 1;
                            }
                            forwarded.extend(kept.take().unwrap_or_default());
                        }
                    }
                }
                _ => {}
            }
        }
        buffer.copy_within(at..filled, 0);
        filled -= at;
        if writer.write_all(&answers).is_err() {
            return;
        }
        if forwarded.is_empty() {
            continue;
        }
        let heard_by = if defect == Defect::ToAll {
            usize::MAX
        } else {
            1
        };
        for subscriber in subscribers.lock().unwrap().iter_mut().take(heard_by) {
            let _ = subscriber.write_all(&forwarded);
        }
    }
}

fn run(workload: &str, defect: Defect, qos: &str) -> (Option<i32>, String) {
    let port = start_broker(defect).to_string();
    let arguments = ["--duration", "0.3", "--warmup", "0.1", "--drain", "0.5"];
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(workload.split_whitespace())
        .args(arguments)
        .args(["--qos", qos, "--port", &port, "--no-ceiling", "--json", "-"])
        .output()
        .unwrap();
    let text = String::from_utf8(stdout).unwrap() + &String::from_utf8(stderr).unwrap();
    (status.code(), text)
}

fn assert_run(defect: Defect, qos: &str, code: i32, said: &str) {
    assert_workload("pairs", defect, qos, code, said);
}

fn assert_workload(workload: &str, defect: Defect, qos: &str, code: i32, said: &str) {
    let (status, text) = run(workload, defect, qos);
    let case = format!("{workload}, {defect:?} at QoS {qos}");
    assert_eq!(status, Some(code), "{case}: {text}");
    assert!(text.contains(said), "{case} should say {said:?}: {text}");
}

#[test]
fn faithful_broker_passes() {
    assert_run(Defect::None, "0", 0, "\"lost\": 0,");
    assert_run(Defect::None, "1", 0, "\"lost\": 0,");
}

#[test]
fn one_lost_message_is_seen_and_breaks_the_promise_of_qos_1_only() {
    assert_run(Defect::Drop, "0", 0, "\"lost\": 1,");
    assert_run(Defect::Drop, "1", 1, " messages lost at QoS 1");
}

/// The generator must not wait for what is lost: what it holds back would count as the broker's latency.
#[test]
fn a_schedule_goes_on_whatever_is_lost() {
    // A fan-out has the smallest window.
    for (workload, qos, code) in [
        ("fan-out --subscribers 1 --rate 1000", "0", 0),
        ("pairs --rate 1000", "1", 1),
    ] {
        let (status, text) = run(workload, Defect::Drop, qos);
        assert_eq!(status, Some(code), "{text}");
        for said in ["\"lost\": 1,", "\"unsent\": 0,", " of 400 messages lost"] {
            assert!(text.contains(said), "should say {said:?}: {text}");
        }
        assert!(!text.contains("a window waited"), "{text}");
    }
}

#[test]
fn one_duplicate_is_seen_and_breaks_the_promise_of_qos_0_only() {
    assert_run(
        Defect::Duplicate,
        "0",
        1,
        "1 messages delivered more than once at QoS 0",
    );
    assert_run(Defect::Duplicate, "1", 0, "\"duplicated\": 1,");
}

#[test]
fn loss_at_qos_0_is_told_in_words_and_fails_no_run() {
    assert_run(
        Defect::Drop,
        "0",
        0,
        "messages lost at QoS 0, which allows it",
    );
}

#[test]
fn a_share_that_is_repeated_is_a_duplicate_and_one_that_is_late_out_of_order() {
    let shared = "shared --publishers 1 --subscribers 1";
    let assert = |defect, qos, code, said| assert_workload(shared, defect, qos, code, said);
    assert(Defect::Duplicate, "1", 0, "\"duplicated\": 1,");
    assert(Defect::Duplicate, "0", 1, "1 messages delivered more than");
    assert(Defect::Swap, "1", 1, "1 messages delivered out of order");
}

#[test]
fn a_share_that_goes_to_two_members_breaks_a_promise_at_every_qos() {
    let shared = "shared --publishers 1 --subscribers 2";
    let said = "messages delivered to more than one of those who share them";
    assert_workload(shared, Defect::None, "1", 0, "\"duplicated\": 0,");
    for qos in ["0", "1"] {
        assert_workload(shared, Defect::ToAll, qos, 1, said);
    }
}

#[test]
fn what_is_delivered_and_never_acknowledged_breaks_a_promise() {
    assert_run(
        Defect::NoAck,
        "1",
        1,
        "16 messages never acknowledged at QoS 1",
    );
    // The window of a schedule leaves room for all that are not.
    assert_workload(
        "pairs --rate 200",
        Defect::NoAck,
        "1",
        1,
        "messages never acknowledged at QoS 1",
    );
}

#[test]
fn what_a_schedule_could_not_send_is_told_and_is_no_promise_of_the_broker() {
    let (status, text) = run("pairs --rate 200", Defect::NoAck, "1");
    assert_eq!(status, Some(1), "{text}");
    for said in [
        " messages at QoS 1 were due and never sent",
        "/s were published where 200/s were due: the rate was not reached",
    ] {
        assert!(text.contains(said), "should say {said:?}: {text}");
    }
    assert_eq!(text.matches("BROKEN PROMISE").count(), 1, "{text}");
}

#[test]
fn a_second_in_which_nothing_arrives_has_no_latency() {
    // An option is named `p99_us` as well.
    assert_run(Defect::NoAck, "1", 1, "\"p50_us\": null");
}

#[test]
fn one_swap_is_seen_at_every_qos() {
    assert_run(
        Defect::Swap,
        "0",
        1,
        "1 messages delivered out of order at QoS 0",
    );
    assert_run(
        Defect::Swap,
        "1",
        1,
        "1 messages delivered out of order at QoS 1",
    );
}

#[test]
fn one_changed_byte_is_seen() {
    assert_run(Defect::Corrupt, "0", 1, "1 messages changed or");
    assert_run(Defect::CorruptTime, "0", 1, "1 messages changed or");
    assert_run(Defect::OtherTopic, "1", 1, "1 messages changed or");
}

#[test]
fn broker_that_goes_away_ends_the_run_with_an_error() {
    assert_run(Defect::Die, "1", 2, "the broker closed the connection");
    // Nobody waited for what was under way.
    let (_, text) = run("pairs", Defect::Die, "1");
    assert!(
        text.contains(" messages lost at QoS 1 when the run broke off"),
        "{text}"
    );
    assert!(!text.contains("BROKEN PROMISE"), "{text}");
}

#[test]
fn broker_that_never_answers_does_not_hang_the_run() {
    assert_run(Defect::Mute, "0", 2, "0 of 2 connections ready");
}

#[test]
fn an_interrupted_load_tells_what_it_has_measured_and_calls_nothing_lost() {
    let port = start_broker(Defect::None).to_string();
    let place = std::env::temp_dir().join(format!("loadgen-{}-interrupted", std::process::id()));
    let loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["pairs", "--qos", "1", "--no-ceiling", "--warmup", "0"])
        .args(["--duration", "300", "--port", &port, "--json"])
        .arg(&place)
        .stderr(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    thread::sleep(std::time::Duration::from_secs(2));
    let process_id = loadgen.id().to_string();
    let killed = Command::new("kill").args(["-TERM", &process_id]).status();
    assert!(killed.unwrap().success());
    let output = loadgen.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert_eq!(
        said.trim(),
        "loadgen: interrupted: the figures are those until then"
    );
    let result: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&place).unwrap()).unwrap();
    std::fs::remove_file(place).unwrap();
    assert!(result["delivered"].as_u64() > Some(0), "{result}");
    assert!(result["measured_s"].as_f64() > Some(0.1), "{result}");
    assert_eq!(result["truth"]["lost"], 0);
}

#[test]
fn refusals_are_named() {
    assert_run(Defect::RefuseConnect, "0", 2, "refused CONNECT");
    assert_run(Defect::Grant0, "1", 2, "QoS 0 where QoS 1 was asked for");
    assert_run(Defect::Grant0, "0", 0, "\"lost\": 0,");
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(["pairs", "--port", "1"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("connection refused"));
}

/// Against a port on which nobody listens: these end before they would find that out.
fn assert_refused(arguments: &str, said: &str) {
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments.split_whitespace())
        .args(["--port", "1"])
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{arguments}: {text}");
    assert!(text.contains(said), "{arguments}: {text}");
}

#[test]
fn a_run_that_could_not_measure_what_it_says_is_refused() {
    assert_refused("pairs --duration 0", "more than 0");
    assert_refused("reconnect", "reconnect needs --qos 1 or 2");
    assert_refused("reconnect --qos 1 --publish-qos 0", "--qos 1 or 2");
    assert_refused("reconnect --qos 1 --rate 10", "it has no rate");
    assert_refused("retained --rate 10", "it has no rate");
    assert_refused("retained --find-max --p99-us 9", "it has no rate");
    assert_refused("pairs --find-max --p99-us 0", "more than 0");
    assert_refused("pairs --find-max --p99-us nan", "more than 0");
    assert_refused("pairs --cpus 0,1,0", "CPU 0 twice");
}

#[test]
fn loads_of_a_file_have_the_bounds_of_the_command_line() {
    let file = std::env::temp_dir().join(format!("loadgen-{}-mixed.toml", std::process::id()));
    for (load, said) in [
        ("workload = 'fan-in'\npublishers = 0", "from 1 to 1000000"),
        ("workload = 'pairs'\npayload = 5", "from 28 to"),
        ("workload = 'pairs'\nrate = nan", "from 0.001 to"),
        ("workload = 'pairs'\nqos = 3", "3 is not in 0..=2"),
        ("workload = 'pairs'\nwindow = 99999", "1..=32768"),
        (
            "workload = 'pairs'\nsubscribers = 3",
            "[[load]] 2: unexpected argument '--subscribers",
        ),
        ("workload = 'other'", "unrecognized subcommand 'other'"),
        ("workload = 'connect'", "no workload \"connect\" to mix"),
    ] {
        let text = format!("[[load]]\nworkload = 'pairs'\nrate = 5.5\n[[load]]\n{load}\n");
        std::fs::write(&file, text).unwrap();
        assert_refused(&format!("mixed {}", file.display()), said);
    }
    std::fs::remove_file(file).unwrap();
}

#[test]
fn a_file_that_cannot_be_written_is_named_before_the_run() {
    assert_refused("pairs --json /nonexistent/x", "/nonexistent/x: cannot be");
    assert_refused("pairs --hdr /nonexistent/x", "/nonexistent/x: cannot be");
    let same = std::env::temp_dir().join(format!("loadgen-{}-same", std::process::id()));
    let same = same.to_str().unwrap();
    let said = "two results cannot be in one file";
    assert_refused(&format!("pairs --json {same} --hdr {same}"), said);
    std::fs::remove_file(same).unwrap();
}

#[test]
fn too_few_open_files_is_said_before_anything_is_opened() {
    let command = format!("ulimit -n 100; exec {}", env!("CARGO_BIN_EXE_loadgen"));
    let output = Command::new("bash")
        .args(["-c", &format!("{command} idle --connections 500 --port 1")])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(
        text.contains("need 532 open files and the hard limit is 100"),
        "{text}"
    );
}
