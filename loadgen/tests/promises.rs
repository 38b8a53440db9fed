//! What a broker owes besides the messages themselves: every step of an acknowledgement, and no packet that nobody
//! asked for.

#![forbid(unsafe_code)]

mod fake;

use std::process::{Command, Stdio};

use fake::Defect;
use serde_json::Value;

/// Exit status, result and what was said besides.
fn run(arguments: &str, defect: Defect) -> (Option<i32>, Value, String) {
    let port = fake::start(defect).to_string();
    let times = "--duration 0.3 --warmup 0.1 --drain 0.5 --patience 1.5";
    let output = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args(arguments.split_whitespace())
        .args(
            times
                .split_whitespace()
                .filter(|_| !arguments.contains("--duration")),
        )
        .args(["--no-ceiling", "--port", &port, "--json", "-"])
        .output()
        .unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let case = format!("{arguments}, {defect:?}");
    let result = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|error| panic!("{case}: {error}: {said}"));
    (output.status.code(), result, said)
}

/// That the broker broke just this promise, as the result calls it and as people are told.
fn assert_broken(arguments: &str, defect: Defect, name: &str, words: &str) -> Value {
    let (status, result, said) = run(arguments, defect);
    let case = format!("{arguments}, {defect:?}: {said}{result:#}");
    assert_eq!(status, Some(1), "{case}");
    assert!(said.contains(words), "should say {words:?}: {case}");
    assert!(
        result["truth"]["breaches"][name].as_u64() > Some(0),
        "{name}: {case}"
    );
    assert_eq!(result["truth"]["passed"], false, "{case}");
    let notes = result["warnings"].as_array().unwrap().iter();
    let is_told = notes
        .filter_map(Value::as_str)
        .any(|note| note.contains(words));
    assert!(is_told, "a summary should say {words:?}: {case}");
    result
}

fn assert_kept(arguments: &str, defect: Defect) -> Value {
    let (status, result, said) = run(arguments, defect);
    let case = format!("{arguments}, {defect:?}: {said}{result:#}");
    assert_eq!(status, Some(0), "{case}");
    let breaches = result["truth"]["breaches"].as_object().unwrap();
    assert!(breaches.values().all(|count| count == 0), "{case}");
    result
}

fn notes(result: &Value) -> String {
    result["warnings"].to_string()
}

#[test]
fn a_broker_that_keeps_its_promises_is_found_to() {
    for arguments in [
        "pairs",
        "pairs --qos 1",
        "pairs --qos 2 --pairs 3",
        "pairs --qos 2 --version 5 --rate 500",
        "pairs --publish-qos 2 --subscribe-qos 1",
        "wildcard --filters 250 --publishers 2 --subscribers 2 --qos 1",
        "retained --messages 50 --subscribers 2 --qos 2",
        "retained --messages 50 --subscribers 2",
        "reconnect --messages 20 --subscribers 5 --qos 2",
        "idle --connections 5 --subscribe",
    ] {
        assert_kept(arguments, Defect::None);
    }
}

/// [MQTT-4.3.2-4] [MQTT-4.3.3-8] [MQTT-4.3.3-11]
#[test]
fn an_acknowledgement_that_never_comes_breaks_a_promise_whose_name_is_its_step() {
    for (defect, qos, name, step) in [
        (Defect::NoPuback, 1, "puback_missing", "PUBACK"),
        (Defect::NoPubrec, 2, "pubrec_missing", "PUBREC"),
        (Defect::NoPubcomp, 2, "pubcomp_missing", "PUBCOMP"),
    ] {
        for load in ["pairs --pairs 3", "pairs --pairs 3 --rate 300"] {
            let words = format!("1 messages never acknowledged at QoS {qos}: {step} did not come");
            let result = assert_broken(&format!("{load} --qos {qos}"), defect, name, &words);
            // It is the one that stops: the others' messages go on being delivered while it is measured.
            assert!(result["delivered"].as_u64() > Some(0), "{result}");
            assert_eq!(result["truth"]["lost"], 0, "{result}");
            assert_eq!(result["truth"]["unacknowledged"], 1, "{result}");
            assert!(result["error"].is_null(), "{result}");
        }
    }
}

#[test]
fn what_is_stored_without_acknowledgement_breaks_a_promise_and_the_others_go_on() {
    for (defect, qos, name, step) in [
        (Defect::NoPuback, 1, "puback_missing", "PUBACK"),
        (Defect::NoPubrec, 2, "pubrec_missing", "PUBREC"),
        (Defect::NoPubcomp, 2, "pubcomp_missing", "PUBCOMP"),
    ] {
        let words = format!("1 messages never acknowledged at QoS {qos}: {step} did not come");
        // The window stops one of five publishers after 16 of the rest of its messages.
        let load = format!("reconnect --subscribers 5 --messages 40 --qos {qos}");
        let result = assert_broken(&load, defect, name, &words);
        assert!(result["delivered"].as_u64() >= Some(160), "{result}");
        assert_eq!(result["truth"]["lost"], 0, "{result}");
        let load = format!("retained --messages 12 --subscribers 2 --qos {qos}");
        let result = assert_broken(&load, defect, name, &words);
        assert_eq!(result["delivered"], 24, "{result}");
        // Only what the broker says that it has counts as stored.
        assert_eq!(result["stored"]["count"], 11, "{result}");
    }
}

#[test]
fn a_publisher_goes_on_after_a_loss_that_qos_0_of_its_subscriber_allows() {
    let load =
        "pairs --publish-qos 1 --subscribe-qos 0 --window 4 --duration 1.5 --warmup 1 --drain 0.5";
    let result = assert_kept(load, Defect::Drop);
    assert_eq!(result["truth"]["lost"], 1, "{result}");
    assert!(result["delivered"].as_u64() > Some(0), "{result}");
    assert!(notes(&result).contains("a window waited"), "{result}");
}

/// [MQTT-4.3.3-4]
#[test]
fn a_pubrel_that_never_comes_or_that_nobody_asked_for_breaks_a_promise() {
    let words = "deliveries at QoS 2 that no PUBREL followed";
    assert_broken("pairs --qos 2", Defect::NoPubrel, "pubrel_missing", words);
    let load = "reconnect --subscribers 2 --messages 5 --qos 2";
    assert_broken(load, Defect::NoPubrel, "pubrel_missing", words);
    let words = "1 PUBREL packets for nothing that was delivered";
    assert_broken(
        "pairs --qos 2",
        Defect::UnaskedPubrel,
        "pubrel_unasked",
        words,
    );
    assert_broken("pairs", Defect::UnaskedPubrel, "pubrel_unasked", words);
}

#[test]
fn an_acknowledgement_of_what_is_not_in_flight_breaks_a_promise() {
    let name = "acknowledgements_unasked";
    let words = "1 acknowledgements of what was not in flight in that step";
    for (defect, qos) in [
        (Defect::PubackTwice, 1),
        (Defect::PubrecTwice, 2),
        (Defect::PubcompInsteadOfPuback, 1),
    ] {
        assert_broken(&format!("pairs --qos {qos}"), defect, name, words);
    }
}

#[test]
fn a_pingresp_that_nobody_asked_for_breaks_a_promise_and_stands_for_no_other() {
    let words = "1 PINGRESP packets that nobody asked for";
    let name = "pingresps_unasked";
    assert_broken("pairs", Defect::UnaskedPingresp, name, words);
    let load = "idle --connections 2 --duration 0.2 --patience 1";
    let (status, result, said) = run(load, Defect::PingrespForAnother);
    assert_eq!(status, Some(2), "{said}{result}");
    assert!(
        said.contains("1 of 2 connections answered PINGREQ"),
        "{said}"
    );
    assert_eq!(result["truth"]["breaches"][name], 1, "{result}");
}

/// [MQTT-3.8.4-2] [MQTT-3.8.4-6] [MQTT-3.8.4-7]
#[test]
fn a_suback_that_does_not_answer_its_subscribe_breaks_a_promise() {
    let words = "SUBACK packets with too few or too many Reason Codes";
    for defect in [Defect::SubackShort, Defect::SubackLong, Defect::SubackEmpty] {
        for load in [
            "pairs",
            "wildcard --publishers 1 --subscribers 1 --filters 150",
        ] {
            assert_broken(load, defect, "suback_codes", words);
        }
    }
    let words = "1 SUBACK packets that nobody waited for";
    for defect in [Defect::SubackTwice, Defect::SubackOther] {
        assert_broken("pairs", defect, "subacks_unasked", words);
    }
    let words = "1 Topic Filters granted more than was asked for";
    assert_broken("pairs", Defect::GrantsMore, "granted_more", words);
}

/// [MQTT-3.3.1-3] [MQTT-3.3.1-12] [MQTT-3.8.4-8]
#[test]
fn a_delivery_has_the_retain_dup_and_qos_that_it_should_have() {
    for version in [4, 5] {
        let load = format!("pairs --qos 1 --version {version}");
        let words = "1 live deliveries with RETAIN set";
        assert_broken(&load, Defect::RetainInverted, "retain_set", words);
        let words = "1 first deliveries with DUP set";
        assert_broken(&load, Defect::Dup, "dup_set", words);
        let words = "1 deliveries with another QoS than the lower one of publisher and subscriber";
        let result = assert_broken(&load, Defect::WrongQos, "wrong_qos", words);
        // It is no delivery of what was asked for, and nothing was changed in it.
        assert_eq!(result["truth"]["lost"], 1, "{result}");
        assert_eq!(result["truth"]["corrupt"], 0, "{result}");
    }
    let words = "1 retained messages delivered without RETAIN";
    let load = "retained --messages 20 --subscribers 1 --qos 1";
    assert_broken(load, Defect::RetainInverted, "retain_missing", words);
    let words = "1 live deliveries with RETAIN set";
    let load = "reconnect --messages 20 --subscribers 1 --qos 1";
    assert_broken(load, Defect::RetainInverted, "retain_set", words);
    let words = "1 first deliveries with DUP set";
    assert_broken(load, Defect::Dup, "dup_set", words);
}

/// [MQTT-2.2.1-4]
#[test]
fn a_broker_without_packet_identifiers_of_its_own_is_found_out() {
    let words = "deliveries with a Packet Identifier that is 0 or was still in use";
    for (defect, qos) in [
        (Defect::SameIdentifier, 1),
        (Defect::SameIdentifier, 2),
        (Defect::IdentifierZero, 1),
        (Defect::IdentifierZero, 2),
    ] {
        let load = format!("pairs --qos {qos}");
        assert_broken(&load, defect, "identifiers_reused", words);
    }
}

/// [MQTT-3.2.2-2]
#[test]
fn a_session_where_there_was_none_breaks_a_promise() {
    let words = "2 CONNACK packets with a Session that there was not";
    assert_broken("pairs", Defect::SessionPresent, "sessions_present", words);
}

#[test]
fn a_window_that_the_broker_made_smaller_is_told() {
    let load = "pairs --version 5 --qos 1 --window 50";
    let said = "the broker's Receive Maximum made the window of 1 publishers smaller, down to 1";
    assert!(!notes(&assert_kept(load, Defect::None)).contains("Receive Maximum"));
    let result = assert_kept(load, Defect::ReceiveMaximum1);
    assert!(notes(&result).contains(said), "{result}");
}

#[test]
fn what_was_published_before_it_was_measured_does_not_count_as_speed_unsaid() {
    let load = "pairs --rate 200 --duration 1 --warmup 1 --drain 1";
    let said = "more were delivered than were published while it was measured";
    assert!(!notes(&assert_kept(load, Defect::None)).contains(said));
    let result = assert_kept(load, Defect::HoldsBack(1200));
    assert!(notes(&result).contains(said), "{result}");
    // CPU time is that of those deliveries which were made while it was used.
    let cost = |result: &Value, name: &str| result["broker_cost"][name].as_f64().unwrap();
    let load = format!("{load} --broker-pid {}", std::process::id());
    let result = assert_kept(&load, Defect::None);
    let each_us = cost(&result, "cpu_s") * 1e6 / cost(&result, "delivered");
    assert!(
        (each_us - cost(&result, "cpu_us_per_delivered")).abs() < 0.01 * each_us,
        "{result}"
    );
}

#[test]
fn percentiles_of_survivors_are_called_that() {
    let load = "pairs --rate 1000";
    let said = "the latencies are those of what arrived";
    assert!(!notes(&assert_kept(load, Defect::None)).contains(said));
    let result = assert_kept(load, Defect::DropsHalf);
    assert!(notes(&result).contains(said), "{result}");
}

#[test]
fn what_is_due_and_has_to_wait_takes_no_memory() {
    let port = fake::start(Defect::NoPubacks).to_string();
    let mut loadgen = Command::new(env!("CARGO_BIN_EXE_loadgen"))
        .args([
            "pairs",
            "--qos",
            "1",
            "--rate",
            "100000000",
            "--port",
            &port,
        ])
        .args(["--duration", "0.3", "--warmup", "0.1", "--drain", "0.2"])
        .args(["--no-ceiling", "--json", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let status = format!("/proc/{}/status", loadgen.id());
    let mut peak_kib = 0;
    while loadgen.try_wait().unwrap().is_none() {
        let text = std::fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().next()?.parse().ok());
        peak_kib = kib.unwrap_or(peak_kib);
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let result: Value = serde_json::from_reader(loadgen.stdout.take().unwrap()).unwrap();
    let unsent = result["truth"]["unsent"].as_u64().unwrap();
    assert!(unsent > 35_000_000, "{result}");
    // 8 bytes for each would be 280 MB.
    assert!(peak_kib < 100_000, "{peak_kib} KiB for {unsent} messages");
    assert!(
        notes(&result).contains("were due and never sent"),
        "{result}"
    );
}
