//! The scenarios whose figures are a sheet, against a fake server: each is verified where the server is honest, and fails
//! where it is not.

mod fake;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use fake::{Flaw, Server};
use serde_json::Value;

const VERIFIED: i32 = 0;
const NOT_VERIFIED: i32 = 1;
const NO_RUN: i32 = 3;

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_banter-loadgen"))
}

fn load(server: SocketAddr, line: &str) -> Output {
    program().args(line.split_whitespace()).args(["--server", &server.to_string()]).output().unwrap()
}

/// Exit code, sheet, what was said on stderr.
fn run(flaw: Flaw, line: &str) -> (i32, Value, String) {
    let output = load(Server::start(flaw), &format!("{line} --json"));
    let sheet = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().unwrap(), sheet, String::from_utf8(output.stderr).unwrap())
}

#[track_caller]
fn verified(line: &str) -> Value {
    let (code, sheet, stderr) = run(Flaw::None, line);
    assert_eq!(code, VERIFIED, "{line}: {stderr} {sheet}");
    assert_eq!(sheet["verification"]["verified"], true);
    sheet
}

#[track_caller]
fn broken(flaw: Flaw, line: &str, promise: &str) {
    let (code, sheet, stderr) = run(flaw, line);
    assert_eq!(code, NOT_VERIFIED, "{flaw:?} {line}: {stderr} {sheet}");
    assert!(sheet["verification"]["broken"][promise].as_u64().unwrap() > 0, "{flaw:?} {line}: {sheet}");
    assert!(!sheet["verification"]["described"].as_array().unwrap().is_empty());
}

/// A figure of a sheet.
#[track_caller]
fn figure<'a>(sheet: &'a Value, name: &str) -> &'a Value {
    let figures = sheet["figures"].as_array().unwrap();
    figures.iter().find(|figure| figure["name"] == name).unwrap_or_else(|| panic!("no {name}: {sheet}"))
}

#[track_caller]
fn value(sheet: &Value, name: &str) -> f64 {
    figure(sheet, name)["value"].as_f64().unwrap_or_else(|| panic!("no value of {name}: {sheet}"))
}

#[track_caller]
fn latency_count(sheet: &Value, name: &str) -> u64 {
    let curves = sheet["latencies"].as_array().unwrap();
    let curve = curves.iter().find(|curve| curve["name"] == name).unwrap_or_else(|| panic!("no {name}: {sheet}"));
    curve["count"].as_u64().unwrap()
}

/// What was due of one thing that was checked, and came.
#[track_caller]
fn due(sheet: &Value, what: &str) -> u64 {
    let checks = sheet["verification"]["checks"].as_array().unwrap();
    let check = checks.iter().find(|check| check["what"].as_str().unwrap().starts_with(what));
    let check = check.unwrap_or_else(|| panic!("no {what}: {sheet}"));
    assert_eq!(check["expected"], check["found"], "{sheet}");
    check["found"].as_u64().unwrap()
}

const SHORT: &str = "--warmup 0.1 --duration 0.4";
const LIVE: &str = "--rooms 2 --members 2 --rate 200 --warmup 0.1 --before 0.3";

#[test]
fn members_read_several_rooms_each_and_every_message_of_all() {
    for wire in ["json", "native", "ws-rkyv"] {
        let line =
            format!("rooms --rooms 6 --members 4 --rooms-each 3 --publishers 2 --rate 600 --wire {wire} {SHORT}");
        let sheet = verified(&line);
        assert_eq!(due(&sheet, "deliveries to members"), 4 * 300, "{line}");
        assert_eq!(latency_count(&sheet, "delivered"), 4 * 240, "posts meant for the window");
    }
    let line = format!("rooms --rooms 6 --members 4 --rooms-each 3 --rate 600 --publishers 1 {SHORT}");
    broken(Flaw::Drops, &line, "holes");
    broken(Flaw::Misplaces, &line, "foreign");
    let (code, _, stderr) = run(Flaw::None, "rooms --rooms 10 --rooms-each 3");
    assert!(code == NO_RUN && stderr.contains("make it a multiple"), "{stderr}");
}

#[test]
fn a_giant_room_is_timed_to_its_first_and_to_its_last_reader() {
    let line = format!("giant --members 20 --rate 100 {SHORT}");
    let sheet = verified(&line);
    for (name, count) in [("first", 40), ("last", 40), ("spread", 40), ("delivered", 800)] {
        assert_eq!(latency_count(&sheet, name), count, "{name}");
    }
    for (flaw, promise) in [(Flaw::Drops, "holes"), (Flaw::Repeats, "repeats_or_reorders"), (Flaw::Alters, "altered")] {
        broken(flaw, &line, promise);
    }
}

#[test]
fn a_storm_is_over_when_all_are_back_with_what_they_missed() {
    for (wire, jitter) in [("json", "0"), ("native", "0.2"), ("ws-rkyv", "0")] {
        let line = format!(
            "storm --clients 20 --client-rooms 4 --client-rate 200 --away 0.2 --jitter {jitter} {LIVE} --wire {wire}"
        );
        let sheet = verified(&line);
        assert_eq!(due(&sheet, "clients back"), 20);
        assert!(value(&sheet, "missed_messages") >= 20.0, "ten a room were posted while they were away: {sheet}");
        assert_eq!((latency_count(&sheet, "back_from_drop"), value(&sheet, "all_back_s") >= 0.2), (20, true));
        assert!(due(&sheet, "messages to clients") > 20 && due(&sheet, "deliveries to live") > 0);
    }
}

#[test]
fn a_storm_whose_clients_lose_a_message_fails() {
    let line = format!("storm --clients 4 --client-rooms 2 --client-rate 200 --away 0.2 {LIVE}");
    broken(Flaw::Forgets, &line, "holes");
    for (flaw, promise) in [(Flaw::Drops, "holes"), (Flaw::Gaps, "told_gaps"), (Flaw::Alters, "altered")] {
        broken(flaw, &line, promise);
    }
}

#[test]
fn who_stalls_gets_all_in_the_end_or_is_told_what_not() {
    let line = format!("stalled --stalled 2 --stall 0.4 {LIVE}");
    let sheet = verified(&line);
    assert_eq!((due(&sheet, "stalled readers"), value(&sheet, "gaps_told")), (2, 0.0));
    assert!(value(&sheet, "behind_messages_max") >= 20.0, "{sheet}");
    for (flaw, figure, least) in [(Flaw::Gaps, "gaps_told", 2.0), (Flaw::ClosesReader, "connections_ended", 2.0)] {
        let (code, sheet, stderr) = run(flaw, &line);
        assert_eq!(code, VERIFIED, "{flaw:?}: {stderr} {sheet}");
        assert!(value(&sheet, figure) >= least, "{flaw:?}: {sheet}");
    }
    broken(Flaw::Drops, &line, "holes");
    broken(Flaw::Repeats, &line, "repeats_or_reorders");
}

#[test]
fn who_comes_and_goes_has_everything_while_there() {
    for more in ["", "--reconnect", "--wire native", "--wire ws-rkyv --reconnect"] {
        let line = format!("churn --churners 6 --joins 100 --duration 0.5 {LIVE} {more}");
        let sheet = verified(&line);
        assert!(due(&sheet, "joins answered") > 6 && due(&sheet, "stays that ended") > 3, "{line}: {sheet}");
        assert!(latency_count(&sheet, "joined") > 0, "{line}");
    }
}

#[test]
fn a_room_that_is_broken_while_others_come_and_go_fails_the_run() {
    // Message 5 is posted while the first of them are there: nothing is before it.
    let line = "churn --churners 4 --joins 200 --duration 0.5 --rooms 1 --members 1 --rate 20 --warmup 0 --before 0";
    for (flaw, promise) in [(Flaw::Drops, "holes"), (Flaw::Repeats, "repeats_or_reorders"), (Flaw::Gaps, "told_gaps")] {
        broken(flaw, line, promise);
    }
}

#[test]
fn pages_are_what_stands_there_from_the_newest_to_the_first() {
    for wire in ["json", "native", "ws-rkyv"] {
        let line = format!(
            "history --history-rooms 2 --messages 20 --fetchers 3 --pages 100 --page 6 --duration 0.5 {LIVE} --wire {wire}"
        );
        let sheet = verified(&line);
        assert!(due(&sheet, "pages") > 4, "{line}");
        assert!(value(&sheet, "walks") >= 1.0, "four pages each: {sheet}");
    }
}

#[test]
fn a_page_that_is_torn_altered_or_says_the_wrong_end_fails_the_run() {
    let line = "history --history-rooms 1 --messages 20 --fetchers 1 --pages 100 --page 6 --duration 0.3 --rooms 1 --members 1 \
                --rate 2 --warmup 0 --before 0.1";
    for (flaw, promise) in [(Flaw::TearsPages, "missing"), (Flaw::Alters, "altered"), (Flaw::EndsHistory, "foreign")] {
        broken(flaw, line, promise);
    }
}

#[test]
fn a_soak_says_a_line_an_interval_and_the_trend_of_memory() {
    let few = "soak --duration 1 --interval 0.2 --churners 4 --joins 50 --history-rooms 1 --messages 20 --fetchers 2 --pages 50";
    let line = format!("{few} {LIVE} --pid {} --json", std::process::id());
    let output = load(Server::start(Flaw::None), &line);
    let sheet: Value = serde_json::from_slice(&output.stdout).unwrap();
    let lines = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(VERIFIED), "{lines} {sheet}");
    assert!(lines.lines().filter(|line| line.contains("posts/s") && line.contains("MiB")).count() >= 2, "{lines}");
    assert!(figure(&sheet, "resident_trend_bytes_per_hour")["value"].is_f64());
    assert!(due(&sheet, "pages") > 0 && due(&sheet, "joins answered") > 0);
    broken(Flaw::TearsPages, &format!("{few} {LIVE}"), "missing");
}

#[test]
fn the_search_ends_at_a_rate_that_breaks_its_bound_and_tells_every_step() {
    // No server bears a backlog of nothing.
    let bound = "--saturate --backlog-max 0.001";
    let sheet = verified(&format!("fanout --rooms 2 --members 2 --rate 50 {bound} --duration 0.2 --drain 5"));
    let steps = sheet["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["broke"].is_string()), "{sheet}");
    let rates: Vec<f64> = steps.iter().map(|step| step["offered_posts_per_s"].as_f64().unwrap()).collect();
    assert!(rates.len() > 1 && rates[0] == 50.0, "{rates:?}");
    let (code, _, stderr) = run(Flaw::None, "fanout --saturate");
    assert!(code == 2 && stderr.contains("--rate"), "{stderr}");
    broken(Flaw::Drops, &format!("giant --members 3 --rate 50 {bound} --duration 0.2 --drain 1"), "holes");
}

#[test]
fn a_load_generator_that_was_held_up_does_not_tell_its_lateness_as_the_servers() {
    let server = Server::start(Flaw::None);
    let line = format!("fanout --rooms 2 --members 2 --rate 500 --warmup 0 --duration 2 --json --server {server}");
    let mut child = program().args(line.split(' ')).stdout(Stdio::piped()).spawn().unwrap();
    let pid = child.id().to_string();
    let signal = |name: &str| assert!(Command::new("kill").args([name, &pid]).status().unwrap().success());
    // However long these take: it is held up for most of the time in which it should post.
    while child.try_wait().unwrap().is_none() {
        signal("-STOP");
        std::thread::sleep(Duration::from_millis(160));
        signal("-CONT");
        std::thread::sleep(Duration::from_millis(40));
    }
    let output = child.wait_with_output().unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(VERIFIED), "late, and still right: {report}");
    let reasons = report["limited"].as_array().unwrap();
    assert!(reasons.iter().any(|reason| reason.as_str().unwrap().contains("was late")), "{report}");
    assert_eq!(figure(&report["sheet"], "deliveries_per_s")["is"], "at_least");
    let delivered = &report["sheet"]["latencies"][0];
    assert_eq!((&delivered["name"], &delivered["is"]), (&"delivered".into(), &"at_most".into()));
}

fn folder(name: &str) -> PathBuf {
    let folder = std::env::temp_dir().join(format!("banter-loadgen-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[test]
fn a_page_of_the_run_is_written_and_a_folder_that_is_not_there_is_said() {
    let folder = folder("page");
    let server = Server::start(Flaw::None);
    for line in ["fanout --rooms 1 --members 2 --rate 50", "pingpong", "giant --members 2"] {
        let page = folder.join("page.html");
        let output = load(server, &format!("{line} {SHORT} --note by-hand --report {}", page.display()));
        assert_eq!(output.status.code(), Some(VERIFIED), "{}", String::from_utf8_lossy(&output.stderr));
        let page = std::fs::read_to_string(page).unwrap();
        assert!(page.contains("Verified:") && page.contains("<svg") && page.contains("by-hand"), "{line}");
    }
    let output = load(server, &format!("pingpong {SHORT} --report /nowhere/page.html"));
    assert_eq!(output.status.code(), Some(NO_RUN));
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot write /nowhere/page.html"));
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_mix_runs_its_parts_at_once_and_each_is_verified() {
    let folder = folder("mix");
    let (mix, page) = (folder.join("mix.toml"), folder.join("mix.html"));
    let text = "warmup = 0.1\nduration = 0.5\n[[part]]\nscenario = 'fanout'\nname = 'chat'\nprocesses = 2\nrooms = 2\n\
                members = 3\nrate = 100\n[[part]]\nscenario = 'giant'\nmembers = 5\nrate = 50\nafter_s = 0.2\n";
    std::fs::write(&mix, text).unwrap();
    let line = format!("run {} --json --report {}", mix.display(), page.display());
    let output = load(Server::start(Flaw::None), &line);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(output.status.code(), Some(VERIFIED), "{} {report}", String::from_utf8_lossy(&output.stderr));
    let [chat, giant] = &report["parts"].as_array().unwrap()[..] else { panic!("{report}") };
    assert_eq!((&chat["name"], &chat["processes"], latency_count(chat, "delivered")), (&"chat".into(), &2.into(), 300));
    assert_eq!(giant["name"], "giant");
    assert!(std::fs::read_to_string(page).unwrap().contains("A mix of loads"));

    let output = load(Server::start(Flaw::Drops), &format!("run {} --json", mix.display()));
    assert_eq!(output.status.code(), Some(NOT_VERIFIED));
    std::fs::write(&mix, text.replace("members = 3", "membres = 3")).unwrap();
    let output = load(Server::start(Flaw::None), &format!("run {}", mix.display()));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(NO_RUN) && stderr.contains("part chat") && stderr.contains("--membres"),
        "{stderr}"
    );
    std::fs::write(&mix, text).unwrap();
    let output = load(Server::start(Flaw::RefusesHello), &format!("run {}", mix.display()));
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(
        output.status.code() == Some(NO_RUN) && stderr.contains("could not be run") && stderr.contains("no place"),
        "{stderr}"
    );
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn figures_of_several_processes_are_merged_and_others_are_refused() {
    let folder = folder("merge");
    let server = Server::start(Flaw::None);
    let files = ["a", "b"].map(|name| {
        let line = format!("fanout --rooms 1 --members 3 --rate 100 --room-prefix {name} {SHORT} --json");
        let path = folder.join(name);
        std::fs::write(&path, load(server, &line).stdout).unwrap();
        path.display().to_string()
    });
    let merge = |files: &[&str]| program().arg("merge").args(files).arg("--json").output().unwrap();
    let output = merge(&[&files[0], &files[1]]);
    let sheet: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((output.status.code(), latency_count(&sheet, "delivered")), (Some(VERIFIED), 240));
    assert_eq!((&sheet["processes"], due(&sheet, "deliveries to members")), (&2.into(), 300));
    let junk = folder.join("junk").display().to_string();
    std::fs::write(&junk, "{}").unwrap();
    let output = merge(&[&files[0], &junk]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(NO_RUN) && stderr.contains("junk") && stderr.contains("--json"), "{stderr}");
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn idle_connections_beyond_one_process_are_held_by_several() {
    let server = Server::start(Flaw::None);
    let held = |connections: u32, more: &str| {
        let line = format!(
            "ulimit -n 60 && exec {} idle --connections {connections} --rooms 3 --hold 0.3 --server {server} \
                            --json {more} --pid {}",
            env!("CARGO_BIN_EXE_banter-loadgen"),
            std::process::id()
        );
        Command::new("sh").args(["-c", &line]).output().unwrap()
    };
    let output = held(100, "");
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    assert_eq!(output.status.code(), Some(VERIFIED), "{} {report}", String::from_utf8_lossy(&output.stderr));
    assert_eq!((&report["connections"], &report["processes"]), (&100.into(), &4.into()), "28 each");
    assert!(report["resident_bytes_per_connection"].is_f64());
    let output = held(100, "--processes 2");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(NO_RUN) && stderr.contains("descriptors are needed"), "{stderr}");
    let output = load(Server::start(Flaw::RefusesHello), "idle --connections 4 --processes 2");
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(NO_RUN) && stderr.contains("no place"), "{stderr}");
}
