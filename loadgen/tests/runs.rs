//! The real binary against a fake server: what it counts, what it finds out, how it ends.

mod fake;

use std::net::SocketAddr;
use std::process::{Command, Output};

use fake::{Flaw, Server};
use serde_json::Value;

const VERIFIED: i32 = 0;
const NOT_VERIFIED: i32 = 1;
const NO_RUN: i32 = 3;

fn load(server: SocketAddr, line: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_banter-loadgen"));
    command.args(line.split(' ')).args(["--server", &server.to_string()]).output().unwrap()
}

/// Exit code, report, what was said on stderr.
fn run(flaw: Flaw, line: &str) -> (i32, Value, String) {
    let output = load(Server::start(flaw), &format!("{line} --json"));
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), report, String::from_utf8(output.stderr).unwrap())
}

const SHORT: &str = "--warmup 0.1 --duration 0.4 --drain 0.5";

#[test]
fn an_honest_server_is_verified_in_every_wire_form_and_pace() {
    for wire in ["json", "native", "ws-rkyv"] {
        for pace in ["--outstanding 1", "--outstanding 8 --complete echo", "--complete ack", "--rate 500"] {
            let line = format!("fanout --rooms 3 --members 4 --publishers 2 --wire {wire} {pace} {SHORT}");
            let (code, report, stderr) = run(Flaw::None, &line);
            assert_eq!(code, VERIFIED, "{line}: {stderr} {report}");
            let verification = &report["verification"];
            let (posts, deliveries) =
                (verification["posts"].as_u64().unwrap(), verification["deliveries"].as_u64().unwrap());
            assert!(posts > 50 && deliveries == posts * 4, "{line}: {report}");
            assert!(report["latency_us"]["delivered"]["count"].as_u64().unwrap() > 0);
            assert!(report["deliveries"].as_u64().unwrap() < deliveries, "the window is a part of the run");
        }
    }
}

#[test]
fn an_open_loop_keeps_its_rate() {
    let (code, report, _) = run(Flaw::None, "fanout --rooms 3 --members 2 --rate 1000 --warmup 0.2 --duration 1");
    assert_eq!(code, VERIFIED);
    let latencies = report["latency_us"]["acknowledged"]["count"].as_u64().unwrap();
    assert_eq!(latencies, 1000, "posts that were meant to be sent in the window");
}

#[test]
fn every_kind_of_broken_promise_fails_the_run() {
    let flaws = [
        (Flaw::Drops, "holes"),
        (Flaw::Repeats, "repeats_or_reorders"),
        (Flaw::Reorders, "holes"),
        (Flaw::Alters, "altered"),
        (Flaw::ForgetsToAcknowledge, "unacknowledged"),
    ];
    for (flaw, name) in flaws {
        for wire in ["json", "native"] {
            let line = format!("fanout --rooms 2 --members 3 --outstanding 4 --wire {wire} {SHORT}");
            let (code, report, stderr) = run(flaw, &line);
            assert_eq!(code, NOT_VERIFIED, "{flaw:?}: {stderr} {report}");
            assert!(report["verification"]["broken"][name].as_u64().unwrap() > 0, "{flaw:?}: {report}");
            assert!(!report["verification"]["described"].as_array().unwrap().is_empty());
        }
    }
}

#[test]
fn a_message_that_is_lost_at_the_end_is_missed_when_the_drain_ends() {
    // With one outstanding nothing follows the lost message: only the end shows it.
    let (code, report, _) = run(Flaw::Drops, &format!("fanout --rooms 1 --members 3 {SHORT}"));
    assert_eq!(code, NOT_VERIFIED);
    assert_eq!(report["verification"]["broken"]["missing"], 1);
    let described = report["verification"]["described"][0].as_str().unwrap();
    assert_eq!(described, "member 2 read up to 4 of 5: 1 missing");
}

#[test]
fn a_server_that_ends_a_connection_is_quoted() {
    for wire in ["json", "native", "ws-rkyv"] {
        let (code, _, stderr) = run(Flaw::Closes, &format!("pingpong --wire {wire} {SHORT}"));
        assert_eq!(code, NO_RUN);
        assert!(stderr.contains("timed_out") && stderr.contains("tired of you"), "{wire}: {stderr}");
    }
}

#[test]
fn a_refusal_and_a_server_that_says_nothing_are_told_apart() {
    let (code, _, stderr) = run(Flaw::RefusesHello, "idle --connections 2");
    assert_eq!(code, NO_RUN);
    assert!(stderr.starts_with("banter-loadgen: the server refused: overloaded: no place; raise "), "{stderr}");
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = load(nobody, "pingpong");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(NO_RUN));
    assert!(
        stderr.contains(&format!("cannot connect to {nobody}: "))
            && stderr.contains("refused")
            && stderr.contains("--server"),
        "{stderr}"
    );
}

#[test]
fn a_server_that_stalls_while_members_join_is_not_waited_for_without_end() {
    let (code, _, stderr) = run(Flaw::Stalls, "idle --connections 4 --rooms 2");
    assert_eq!(code, NO_RUN);
    assert!(stderr.contains("3 of 4 connections were joined") && stderr.contains("1 wait for welcome"), "{stderr}");
}

#[test]
fn idle_connections_are_held_and_memory_is_told_by_connection() {
    let line = format!("idle --connections 20 --rooms 3 --hold 0.3 --pid {}", std::process::id());
    let (code, report, stderr) = run(Flaw::None, &line);
    assert_eq!(code, VERIFIED, "{stderr}");
    assert!(report["after_bytes"]["resident"].as_u64().unwrap() > 0);
    assert!(report["resident_bytes_per_connection"].is_f64());
}

#[test]
fn clients_that_come_back_get_what_they_missed_beside_a_live_load() {
    for wire in ["json", "native", "ws-rkyv"] {
        for by in ["after", "last"] {
            let line = format!(
                "resume --clients 12 --rooms 3 --messages 50 --by {by} --live-rooms 2 --live-members 2 --live-rate 300 \
                 --before 0.3 --warmup 0.1 --wire {wire}"
            );
            let (code, report, stderr) = run(Flaw::None, &line);
            assert_eq!(code, VERIFIED, "{line}: {stderr} {report}");
            assert_eq!(report["verification"]["deliveries"], 600);
            assert_eq!(report["resumed_us"]["count"], 12);
            assert_eq!(report["live_before_us"]["acknowledged"]["count"], 90, "posts meant for the measured time");
            assert!(report["verification"]["live_deliveries"].as_u64().unwrap() > 180);
        }
    }
}

#[test]
fn a_replay_that_is_not_what_was_missed_fails_the_run() {
    let flaws = [
        (Flaw::Drops, "holes"),
        (Flaw::Repeats, "repeats_or_reorders"),
        (Flaw::Reorders, "holes"),
        (Flaw::Alters, "altered"),
    ];
    for (flaw, name) in flaws {
        // The live load posts too little to show the flaw itself.
        let line = "resume --clients 4 --rooms 2 --messages 20 --live-rooms 2 --live-rate 2 --live-members 1 \
                    --before 0.2 --warmup 0.1 --storm-max 5";
        let (code, report, stderr) = run(flaw, line);
        assert_eq!(code, NOT_VERIFIED, "{flaw:?}: {stderr} {report}");
        assert!(report["verification"]["broken"][name].as_u64().unwrap() > 0, "{flaw:?}: {report}");
    }
}

const FEW: &str = "hostile --attackers 4 --attack-rate 2000 --crowd 6 --large-room 8 --messages 20 --lead 0.2 --memory-duration 0.3 \
                   --duration 0.2";
const KINDS: [&str; 10] = [
    "unread-pings",
    "signals",
    "signals-all",
    "join-leave",
    "fetches",
    "members",
    "drip",
    "deaf",
    "large-room",
    "connects",
];

#[test]
fn every_kind_of_attack_does_what_it_is_for_and_its_report_is_complete() {
    let (code, report, stderr) = run(Flaw::None, &format!("{FEW} --memory 16 --pid {}", std::process::id()));
    assert_eq!(code, VERIFIED, "{stderr} {report}");
    let kinds: Vec<&str> =
        report["kinds"].as_array().unwrap().iter().map(|kind| kind["kind"].as_str().unwrap()).collect();
    assert_eq!(kinds, KINDS);
    for kind in report["kinds"].as_array().unwrap() {
        // 40 each were meant for 0.2 s: pings, and messages to two.
        for (felt, count) in [("ping", 40), ("message", 80)] {
            assert_eq!(kind["alone_us"][felt]["count"], count, "{kind}");
            assert_eq!(kind["beside_us"][felt]["count"], count, "{kind}");
            assert!(kind[&*format!("{felt}_p99_ratio")].as_f64().unwrap() > 0.0, "{kind}");
        }
        assert!(kind["resident_largest_bytes"].as_u64() >= kind["resident_before_bytes"].as_u64(), "{kind}");
        assert!(kind["server_cpu_share"].is_f64() && kind["resident_bytes_per_attacker"].is_f64(), "{kind}");
    }
    assert_deeds(&report);
    let memory = &report["memory"];
    assert_eq!(memory["bound"]["connection_bytes"], 262_144 + 131_072 + 262_144 + 65_536);
    assert_eq!((&memory["bound"]["connections"], &memory["attack"]["attackers"]), (&16.into(), &16.into()));
    assert!(memory["is_within"].is_boolean() && memory["resident_growth_bytes"].is_u64(), "{memory}");
}

/// What the attackers did is what their kind is for, whatever the server makes of it.
fn assert_deeds(report: &Value) {
    let deed = |kind: &str, name: &str| {
        let found = report["kinds"].as_array().unwrap().iter().find(|found| found["kind"] == kind).unwrap();
        found["deeds"][name].as_u64().unwrap_or_else(|| panic!("{found}"))
    };
    for kind in KINDS {
        let attackers = if kind == "signals" { 1 } else { 4 };
        assert!(kind == "large-room" || deed(kind, "connects") >= attackers, "{kind}: {report}");
    }
    for kind in ["unread-pings", "deaf"] {
        assert_eq!(deed(kind, "bytes_in"), 0, "{kind} never reads");
    }
    for kind in ["unread-pings", "signals", "signals-all", "join-leave", "fetches", "members"] {
        assert!(deed(kind, "acts") > deed(kind, "connects"), "{kind} says more than once: {report}");
    }
    for kind in ["join-leave", "fetches", "members"] {
        let (acts, answers) = (deed(kind, "acts"), deed(kind, "answers"));
        assert!(answers <= acts && acts <= answers + 4, "{kind} waits for its answers: {acts}, {answers}");
    }
    assert!(deed("drip", "acts") >= 4 && deed("deaf", "acts") == 0, "a byte a second of each, and nothing");
    assert!(deed("connects", "connects") > 4 && deed("connects", "bytes_out") == 0, "{report}");
}

#[test]
fn a_broken_promise_to_the_honest_or_to_a_busy_room_fails_the_run() {
    for (kind, flaw) in [("drip", Flaw::Drops), ("deaf", Flaw::Repeats)] {
        let (code, report, stderr) = run(flaw, &format!("{FEW} --kind {kind} --memory 0"));
        assert_eq!(code, NOT_VERIFIED, "{flaw:?}: {stderr} {report}");
        assert!(!report["verification"]["described"].as_array().unwrap().is_empty(), "{flaw:?}: {report}");
    }
}

#[test]
fn people_get_a_table() {
    let server = Server::start(Flaw::None);
    let output = load(server, &format!("pingpong {SHORT} --pid {}", std::process::id()));
    let table = String::from_utf8(output.stdout).unwrap();
    for word in ["post to echo", "server CPU", "verified", "p99.9"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let line = "resume --clients 10 --messages 5 --before 0.1 --warmup 0 --live-rooms 1 --live-members 1";
    let table = String::from_utf8(load(server, line).stdout).unwrap();
    for word in ["member, during", "during / before", "10 of 10 clients, 50 of 50 messages"] {
        assert!(table.contains(word), "{word}: {table}");
    }
    let table = String::from_utf8(load(server, &format!("{FEW} --kind drip,connects --memory 8")).stdout).unwrap();
    for word in ["ping, us", "drip", "connects", "B/attacker", "8 connections", "within", "verified"] {
        assert!(table.contains(word), "{word}: {table}");
    }
}

#[test]
fn what_cannot_be_run_is_said_before_anything_is_opened() {
    let nobody = "127.0.0.1:9".parse().unwrap();
    for (line, words) in [
        ("fanout --members 2 --publishers 3", "--publishers 3 is more than --members 2"),
        ("resume --clients 10 --rooms 3", "--clients 10 cannot be spread evenly over --rooms 3"),
        ("idle --connections 99999999", "descriptors are needed"),
        ("pingpong --pid 4194304", "process 4194304 cannot be measured"),
        ("idle --secret-file /nowhere/secret", "cannot read /nowhere/secret"),
        ("pingpong --cpu 1000", "cannot pin to CPU 1000"),
    ] {
        let output = load(nobody, line);
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(NO_RUN));
        assert!(stderr.contains(words), "{line}: {stderr}");
    }
}
