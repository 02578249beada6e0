//! The real binary against fake servers that are not Banter: what it counts, what it finds out, what it refuses.

mod fake_neighbour;

use std::process::Command;

use fake_neighbour::{Flaw, start};
use serde_json::Value;

const VERIFIED: i32 = 0;
const NOT_VERIFIED: i32 = 1;
const NO_RUN: i32 = 3;

const WIRES: [&str; 4] = ["nats", "redis", "mqtt", "plain"];
const SHORT: &str = "--warmup 0.1 --duration 0.4 --drain 0.5";

/// Exit code, report, what was said on stderr.
fn run(wire: &'static str, flaw: Flaw, line: &str) -> (i32, Value, String) {
    let server = start(wire, flaw).to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_banter-loadgen"));
    let output = command.args(line.split(' ')).args(["--wire", wire, "--server", &server, "--json"]).output().unwrap();
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_honest_neighbour_is_verified_on_every_wire_and_at_every_pace() {
    for wire in WIRES {
        for pace in ["--outstanding 1", "--outstanding 8 --complete echo", "--rate 500"] {
            let line = format!("fanout --rooms 3 --members 4 --publishers 2 {pace} {SHORT}");
            let (code, report, stderr) = run(wire, Flaw::None, &line);
            assert_eq!(code, VERIFIED, "{wire} {line}: {stderr} {report}");
            let verification = &report["verification"];
            let posts = verification["posts"].as_u64().unwrap();
            assert!(posts > 50 && verification["deliveries"] == posts * 4, "{wire} {line}: {report}");
            assert!(report["latency_us"]["delivered"]["count"].as_u64().unwrap() > 0);
            assert_eq!(report["wire"], wire);
        }
    }
}

#[test]
fn every_kind_of_broken_promise_of_a_neighbour_fails_the_run() {
    let flaws = [
        (Flaw::Drops, ["holes", "missing"]),
        // A post that everybody had before is not under way any more.
        (Flaw::Repeats, ["repeats_or_reorders", "foreign"]),
        (Flaw::Reorders, ["holes", "repeats_or_reorders"]),
        (Flaw::Alters, ["altered", "altered"]),
    ];
    for wire in WIRES {
        for (flaw, names) in flaws {
            let line = format!("fanout --rooms 1 --members 3 --outstanding 4 --complete echo {SHORT}");
            let (code, report, stderr) = run(wire, flaw, &line);
            assert_eq!(code, NOT_VERIFIED, "{wire} {flaw:?}: {stderr} {report}");
            let broken = |name: &str| report["verification"]["broken"][name].as_u64().unwrap();
            assert!(names.into_iter().any(|name| broken(name) > 0), "{wire} {flaw:?}: {report}");
        }
    }
}

#[test]
fn a_message_that_a_neighbour_loses_at_the_end_is_missed_when_the_drain_ends() {
    let (code, report, _) = run("nats", Flaw::Drops, &format!("fanout --rooms 1 --members 3 {SHORT}"));
    assert_eq!(code, NOT_VERIFIED);
    assert_eq!(report["verification"]["broken"]["missing"], 1);
    // Which member it is depends on whose connection came last.
    let described = report["verification"]["described"][0].as_str().unwrap();
    assert!(described.ends_with(", of publisher 0, read up to 4 of 5: 1 missing"), "{described}");
}

#[test]
fn a_neighbour_that_refuses_is_quoted() {
    for (wire, words) in [
        ("nats", "'no place'"),
        ("redis", "ERR no place"),
        ("mqtt", "SUBSCRIBE: code 128"),
        ("plain", "HTTP 503 Service Unavailable: no place"),
    ] {
        let (code, _, stderr) = run(wire, Flaw::Refuses, "idle --connections 2");
        assert_eq!(code, NO_RUN);
        assert!(stderr.contains(words), "{wire}: {stderr}");
    }
}

#[test]
fn bytes_of_another_protocol_are_a_clear_fault() {
    for (wire, other) in [("nats", "redis"), ("redis", "nats"), ("mqtt", "nats"), ("plain", "nats")] {
        let server = start(other, Flaw::None).to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_banter-loadgen"));
        let output = command.args(["pingpong", "--wire", wire, "--server", &server]).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(NO_RUN), "{wire} to {other}: {stderr}");
        assert!(stderr.starts_with("banter-loadgen: ") && !stderr.contains("panicked"), "{stderr}");
    }
}

#[test]
fn idle_connections_to_a_neighbour_are_held() {
    for wire in WIRES {
        let line = format!("idle --connections 20 --rooms 3 --hold 0.2 --pid {}", std::process::id());
        let (code, report, stderr) = run(wire, Flaw::None, &line);
        assert_eq!(code, VERIFIED, "{wire}: {stderr}");
        assert!(report["resident_bytes_per_connection"].is_f64());
    }
}
