//! The load generator's program against the server's: it verifies, measures and ends as it says.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::OnceLock;

use banter_tests::server_process::{ServerProcess, core_counts, program};
use serde_json::Value;
use tempfile::TempDir;

const VERIFIED: i32 = 0;
const NO_RUN: i32 = 3;
const SHORT: &str = "--warmup 0.2 --duration 0.6";

/// The path of the load generator, which is built by the first call, beside the server; or the one that lies beside what
/// `BANTER_BIN` names, as it is.
fn load_program() -> &'static PathBuf {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        let folder = program().parent().expect("the server is in cargo's folder");
        if std::env::var_os("BANTER_BIN").is_some() {
            return folder.join("banter-loadgen");
        }
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--quiet", "-p", "banter-loadgen"]).current_dir(env!("CARGO_MANIFEST_DIR"));
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.env("CARGO_TARGET_DIR", folder.parent().expect("cargo's folders"));
        assert!(build.status().expect("cargo runs").success(), "banter-loadgen does not compile");
        folder.join("banter-loadgen")
    })
}

fn load(server: &ServerProcess, line: &str) -> Output {
    let (address, pid) = (server.address().to_string(), server.pid().to_string());
    let mut command = Command::new(load_program());
    command.args(line.split(' ')).args(["--server", &address, "--pid", &pid]).output().expect("the program runs")
}

/// The report of a run that must be verified.
#[track_caller]
fn report(server: &ServerProcess, line: &str) -> Value {
    let output = load(server, &format!("{line} --json"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    let stdout = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(VERIFIED), "{line}: {stderr} {stdout}");
    serde_json::from_slice(&output.stdout).expect("a report is JSON")
}

#[track_caller]
fn count(report: &Value, pointer: &str) -> u64 {
    report.pointer(pointer).and_then(Value::as_u64).unwrap_or_else(|| panic!("no {pointer}: {report}"))
}

#[test]
fn every_member_gets_every_message_once_and_in_order_in_every_wire_form_and_pace() {
    for &cores in core_counts() {
        // All of it, and time for it: where the machine is short of CPU a member is not to be told of a gap.
        let server = ServerProcess::start(cores, &["--durability", "memory"]);
        for wire in ["json", "native", "ws-rkyv"] {
            for pace in ["--outstanding 1", "--outstanding 32 --complete ack", "--complete echo", "--rate 400"] {
                let line =
                    format!("fanout --rooms 3 --members 5 --publishers 2 --wire {wire} {pace} {SHORT} --drain 60");
                let report = report(&server, &line);
                let (posts, deliveries) =
                    (count(&report, "/verification/posts"), count(&report, "/verification/deliveries"));
                assert!(posts > 0 && deliveries == posts * 5, "{line}: {report}");
                assert_eq!(count(&report, "/verification/acknowledged"), posts, "{line}");
                assert!(count(&report, "/latency_us/delivered/count") > 0, "{line}: {report}");
                assert!(report["server_cpu_us_per_delivery"].as_f64().is_some_and(|us| us > 0.0), "{line}: {report}");
            }
        }
    }
}

#[test]
fn a_ping_pong_has_one_post_under_way() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let report = report(&server, &format!("pingpong {SHORT}"));
    assert_eq!(count(&report, "/outstanding"), 1);
    assert_eq!(count(&report, "/verification/posts"), count(&report, "/verification/deliveries"));
}

#[test]
fn idle_connections_are_all_joined_and_their_memory_is_measured() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let report = report(&server, "idle --connections 200 --rooms 4 --hold 0.2");
    assert_eq!(count(&report, "/connections"), 200);
    assert!(report["resident_bytes_per_connection"].is_f64(), "{report}");
    assert_eq!(server.metric("banter_accepted_total"), 201, "200, and the one that asks for the metrics");
}

/// A folder with a secret, and the configuration of a server that asks for tokens which it signed.
fn token_setup() -> TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let secret = folder.path().join("secret");
    fs::write(&secret, "a secret of more than thirty-two bytes, for tests\n").expect("a file");
    let config = format!("[auth]\nmode = 'token'\nsecret_file = '{}'\n", secret.display());
    fs::write(folder.path().join("banter.toml"), config).expect("a file");
    folder
}

#[test]
fn every_job_has_a_token_for_each_of_its_connections_in_every_wire_form() {
    let setup = token_setup();
    let path = |name: &str| setup.path().join(name).display().to_string();
    let server = ServerProcess::start(1, &["--durability", "memory", "--config", &path("banter.toml")]);
    let secret = path("secret");
    for wire in ["json", "native", "ws-rkyv"] {
        let proved = format!("--wire {wire} --secret-file {secret}");
        report(&server, &format!("fanout --rooms 2 --members 3 {SHORT} --drain 60 {proved}"));
        report(&server, &format!("idle --connections 50 --rooms 4 --hold 0.1 --users 7 {proved}"));
        let line =
            "resume --clients 20 --rooms 2 --messages 10 --live-rooms 2 --live-members 2 --before 0.2 --warmup 0.1";
        let report = report(&server, &format!("{line} --rehearse {proved}"));
        assert_eq!((count(&report, "/verification/deliveries"), &report["has_tokens"]), (200, &Value::Bool(true)));
    }
    let few = "--attackers 4 --attack-rate 2000 --crowd 10 --large-room 20 --messages 50 --lead 0.1 --duration 0.2";
    let report = report(&server, &format!("hostile {few} --memory 8 --memory-duration 0.2 --secret-file {secret}"));
    assert!(count(&report["kinds"][3], "/deeds/answers") > 0, "those who join and leave are let in: {report}");

    let output = load(&server, "idle --connections 2");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(NO_RUN), "{stderr}");
    assert!(stderr.contains("unauthorized") && stderr.contains("--secret-file"), "{stderr}");
}

#[test]
fn a_servers_refusal_ends_the_run_with_its_words_and_what_to_do() {
    let server = ServerProcess::start(1, &["--durability", "memory", "--posts-per-second-max", "1"]);
    let output = load(&server, &format!("fanout --rooms 1 --members 2 --outstanding 4 {SHORT}"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(NO_RUN), "{stderr}");
    assert!(stderr.contains("rate_limited") && stderr.contains("--posts-per-second-max 0"), "{stderr}");
}

#[test]
fn every_kind_of_attack_is_taken_and_its_memory_stays_within_the_sum_of_the_limits() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let few = "--attackers 4 --attack-rate 2000 --crowd 10 --large-room 20 --messages 50 --lead 0.2 --duration 0.3";
    let report = report(&server, &format!("hostile {few} --memory 24 --memory-duration 0.5"));
    let kinds = report["kinds"].as_array().expect("kinds");
    assert_eq!(kinds.len(), 10, "{report}");
    for kind in kinds {
        let name = kind["kind"].as_str().expect("a name");
        let (answers, refusals) = (count(kind, "/deeds/answers"), count(kind, "/deeds/refusals"));
        let answers_are_due = ["signals", "signals-all", "join-leave", "fetches", "members"].contains(&name);
        assert_eq!(answers > 0, answers_are_due, "{name}: {kind}");
        assert!(refusals == 0 || answers > 0, "{name}: {kind}");
        assert!(count(kind, "/beside_us/ping/count") > 0, "{name}: {kind}");
    }
    assert_eq!(report["memory"]["is_within"], true, "{report}");
    assert!(count(&report, "/memory/bound/cores_bytes") > 0, "{report}");
}

/// Whether the sheet's own checks all found what was due, and something was due.
#[track_caller]
fn all_came(sheet: &Value, line: &str) {
    let checks = sheet["verification"]["checks"].as_array().expect("checks");
    assert!(!checks.is_empty(), "{line}: {sheet}");
    for check in checks {
        assert_eq!(check["expected"], check["found"], "{line}: {check}");
        assert!(count(check, "/found") > 0, "{line}: {check}");
    }
}

#[test]
fn every_scenario_beside_a_live_load_is_verified_in_every_wire_form() {
    let live = "--rooms 2 --members 3 --rate 200 --warmup 0.1 --before 0.3";
    let scenarios = [
        "rooms --rooms 8 --members 3 --rooms-each 4 --rate 200 --warmup 0.1 --duration 0.5".to_owned(),
        "giant --members 50 --rate 20 --warmup 0.1 --duration 0.5".to_owned(),
        format!("storm --clients 30 --client-rooms 3 --client-rate 100 --away 0.2 --jitter 0.2 {live}"),
        format!("stalled --stalled 4 --stall 0.5 {live}"),
        format!("churn --churners 10 --joins 50 --duration 0.5 {live}"),
        format!("churn --churners 10 --joins 50 --duration 0.5 --reconnect {live}"),
        format!("history --history-rooms 2 --messages 60 --fetchers 4 --pages 100 --page 10 --duration 0.5 {live}"),
        format!(
            "soak --duration 1 --interval 0.3 --churners 6 --joins 30 --fetchers 2 --pages 30 --messages 60 {live}"
        ),
    ];
    // Each on one core or two, in turn: both would take as long again.
    let flags = ["--durability", "memory", "--posts-per-second-max", "0"];
    let servers: Vec<_> = core_counts().iter().map(|&cores| ServerProcess::start(cores, &flags)).collect();
    for (number, line) in scenarios.iter().enumerate() {
        for (form, wire) in ["json", "native", "ws-rkyv"].into_iter().enumerate() {
            let line = format!("{line} --wire {wire} --room-prefix {wire}-{number}");
            all_came(&report(&servers[(number + form) % servers.len()], &line), &line);
        }
    }
}

#[test]
fn idle_connections_are_held_by_several_processes_where_that_was_asked_for() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let report = report(&server, "idle --connections 60 --rooms 4 --hold 0.2 --processes 3");
    assert_eq!((count(&report, "/connections"), count(&report, "/processes")), (60, 3));
    assert_eq!(server.metric("banter_accepted_total"), 61, "60, and the one that asks for the metrics");
}
