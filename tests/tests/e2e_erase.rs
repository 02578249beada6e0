//! End to end: what is erased is a gap to readers at once, gone from the files soon, and stays gone over crashes and restores.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use banter_tests::loop_disk::LoopDisk;
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Segments as small as the other limits allow, and little in memory, so that most is read from the disk.
const SMALL: [&str; 8] = [
    "--frame-bytes-max",
    "8192",
    "--log-commit-bytes-max",
    "16384",
    "--log-segment-bytes",
    "65536",
    "--history-bytes-per-core-max",
    "16384",
];

fn start(cores: usize, data: &Path) -> ServerProcess {
    Start::new(cores, &SMALL).data(data).run()
}

fn hello(server: &ServerProcess, user: &str) -> WireClient {
    WireClient::hello(server.address(), Form::Json, user)
}

fn stop(mut server: ServerProcess, signal: Signal) {
    server.signal(signal);
    server.wait(PATIENCE);
}

fn secret(number: u64) -> String {
    format!("secret-{number:04} {}", "s".repeat(400))
}

fn plain(number: u64) -> String {
    format!("plain-{number:04} {}", "p".repeat(400))
}

/// Ann says plain things at odd places of the room, and Eve secret ones at even places, all with keys.
fn talk(server: &ServerProcess, room: &str, places: std::ops::RangeInclusive<u64>) {
    let (mut ann, mut eve) = (hello(server, "ann"), hello(server, "eve"));
    ann.join(room);
    eve.join(room);
    for place in places {
        let (client, body) = if place.is_multiple_of(2) { (&mut eve, secret(place)) } else { (&mut ann, plain(place)) };
        let post = json!({"type": "post", "room": room, "body": body, "key": format!("key {place}")});
        let posted = client.ask(post);
        assert_eq!((&posted["sequence"], &posted["duplicate"]), (&json!(place), &json!(false)), "{posted}");
    }
}

/// Everything of a room by fetches in one direction: bodies, and places of gaps.
fn fetch_all(server: &ServerProcess, room: &str, forwards: bool) -> Vec<Result<String, u64>> {
    let mut client = hello(server, "reader");
    let mut all: Vec<Result<String, u64>> = Vec::new();
    let mut at = if forwards { 0 } else { 1_u64 << 40 };
    loop {
        let from = if forwards { "after" } else { "before" };
        let page = client.ask(json!({"type": "fetch", "room": room, from: at, "limit": 37}));
        assert_eq!(page["type"], "page", "{page}");
        let messages = page["messages"].as_array().expect("messages");
        let told: Vec<_> = messages.iter().map(told).collect();
        let place = |message: &Value| message.get("sequence").unwrap_or(&message["from"]).as_u64().expect("a place");
        let end = if forwards { messages.last() } else { messages.first() };
        at = end.map_or(at, place);
        let insert_at = if forwards { all.len() } else { 0 };
        all.splice(insert_at..insert_at, told);
        if page["more"] == false {
            return all;
        }
    }
}

fn told(event: &Value) -> Result<String, u64> {
    if event["type"] == "gap" {
        assert_eq!(event["from"], event["to"], "a gap of one");
        return Err(event["from"].as_u64().expect("a place"));
    }
    Ok(event["body"].as_str().expect("a text").to_owned())
}

/// What is told when Eve's words up to that place are erased.
fn expected(places: std::ops::RangeInclusive<u64>, erased_through: u64) -> Vec<Result<String, u64>> {
    let at = |place: u64| match place {
        _ if !place.is_multiple_of(2) => Ok(plain(place)),
        _ if place <= erased_through => Err(place),
        _ => Ok(secret(place)),
    };
    places.map(at).collect()
}

/// Whether a file of the log holds that text.
fn is_on_disk(data: &Path, text: &str) -> bool {
    let files = fs::read_dir(data.join("log")).expect("the log's folder");
    files.map(|entry| entry.expect("an entry").path()).any(|path| {
        // Files come and go.
        let bytes = fs::read(path).unwrap_or_default();
        bytes.windows(text.len()).any(|there| there == text.as_bytes())
    })
}

fn any_secret_on_disk(data: &Path, places: std::ops::RangeInclusive<u64>) -> Option<u64> {
    places.filter(|place| place.is_multiple_of(2)).find(|&place| is_on_disk(data, &secret(place)[..11]))
}

fn erase(data: &Path, flags: &[&str]) -> Value {
    let path = data.to_str().expect("text");
    let (code, out, err) = run_to_end(&[&["log", "erase", path, "--json"], flags].concat());
    assert_eq!((code, &*err), (0, ""), "{out}");
    serde_json::from_str(&out).expect("JSON")
}

/// The tool asks for all that Eve said, and waits until it is done.
fn asking(data: &Path) -> Child {
    let mut tool = Command::new(banter_tests::server_process::program());
    tool.args(["log", "erase", data.to_str().expect("text"), "--room", "lobby", "--user", "eve", "--json"]);
    tool.stdout(Stdio::null()).spawn().expect("the program runs")
}

/// Records of the list.
fn records_of(data: &Path) -> usize {
    let list = fs::read(data.join("log/erasures")).unwrap_or_default();
    list.chunks(512).filter(|record| record.starts_with(b"ERAS")).count()
}

fn check(data: &Path) {
    let (code, out, err) = run_to_end(&["log", "check", data.to_str().expect("text")]);
    assert_eq!(code, 0, "{out}{err}");
}

#[test]
fn what_a_user_said_is_erased_under_a_running_server_and_nothing_else() {
    for &cores in core_counts() {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path();
        let server = start(cores, data);
        talk(&server, "lobby", 1..=400);
        talk(&server, "hall", 1..=20);
        let report = erase(data, &["--room", "lobby", "--user", "eve"]);
        assert_eq!((&report["done"], &report["messages"]), (&json!(true), &json!(200)), "{report}");
        assert_eq!(any_secret_on_disk(data, 22..=400), None);
        assert!(is_on_disk(data, &secret(20)[..11]), "of another room");
        talk(&server, "lobby", 401..=410);
        for forwards in [true, false] {
            assert_eq!(fetch_all(&server, "lobby", forwards), expected(1..=410, 400));
            assert_eq!(fetch_all(&server, "hall", forwards), expected(1..=20, 0));
        }
        wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
        // A replay tells the same, and the key of what is gone is new.
        let mut eve = hello(&server, "eve");
        eve.ask(json!({"type": "join", "room": "lobby", "last": 20}));
        for expected in expected(391..=410, 400) {
            assert_eq!(told(&eve.next_event()), expected);
        }
        let post =
            |key: u64| json!({"type": "post", "room": "lobby", "body": secret(key), "key": format!("key {key}")});
        let again = eve.ask(post(400));
        assert_eq!((&again["sequence"], &again["duplicate"]), (&json!(411), &json!(false)), "{again}");
        let there = eve.ask(post(410));
        assert_eq!((&there["sequence"], &there["duplicate"]), (&json!(410), &json!(true)), "{there}");
        stop(server, Signal::TERM);
        check(data);
        let server = start(1, data);
        assert_eq!(fetch_all(&server, "lobby", true)[..410], expected(1..=410, 400));
    }
}

#[test]
fn a_server_that_is_killed_in_the_midst_of_erasing_hides_it_and_ends_it_at_a_later_start() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path();
    let mut server = start(1, data);
    talk(&server, "lobby", 1..=600);
    let mut tool = asking(data);
    wait_until("it is written down", || records_of(data) > 0);
    for after_ms in [0, 3, 1_005, 1_015, 40] {
        // Once as soon as it is written down, then at times in the midst of rewriting.
        std::thread::sleep(Duration::from_millis(after_ms));
        server.kill();
        server = start(1, data);
        assert_eq!(fetch_all(&server, "lobby", true), expected(1..=600, 600), "hidden from the start on");
    }
    wait_until("it is done", || any_secret_on_disk(data, 2..=600).is_none());
    assert!(tool.wait().expect("it ends").success());
    wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
    assert_eq!(fetch_all(&server, "lobby", false), expected(1..=600, 600));
    stop(server, Signal::TERM);
    check(data);
}

#[test]
fn what_a_backup_brings_back_is_erased_again_by_the_list() {
    let folder = TempDir::new().expect("a temporary folder");
    let (data, copy) = (folder.path().join("data"), folder.path().join("copy"));
    let server = start(1, &data);
    talk(&server, "lobby", 1..=200);
    let (from, to) = (data.to_str().expect("text"), copy.to_str().expect("text"));
    let (code, ..) = run_to_end(&["log", "backup", from, to]);
    assert_eq!(code, 0);
    erase(&data, &["--room", "lobby", "--user", "eve", "--sequence", "1-150"]);
    talk(&server, "lobby", 201..=210);
    stop(server, Signal::TERM);
    assert!(is_on_disk(&copy, &secret(2)[..11]), "the backup was made before");
    fs::copy(data.join("log/erasures"), copy.join("log/erasures")).expect("the list is copied");
    let server = start(1, &copy);
    assert_eq!(fetch_all(&server, "lobby", true), expected(1..=200, 150));
    wait_until("it is done again", || any_secret_on_disk(&copy, 2..=150).is_none());
    talk(&server, "lobby", 201..=206);
    wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
    assert_eq!(fetch_all(&server, "lobby", true), expected(1..=206, 150));
    stop(server, Signal::TERM);
    check(&copy);
}

#[test]
fn the_tool_erases_by_itself_where_no_server_runs_after_a_stop_and_after_a_kill() {
    for signal in [Signal::TERM, Signal::KILL] {
        let folder = TempDir::new().expect("a temporary folder");
        let data = folder.path();
        let server = start(1, data);
        talk(&server, "lobby", 1..=200);
        stop(server, signal);
        let report = erase(data, &["--room", "lobby", "--sequence", "11-60"]);
        assert_eq!((&report["done"], &report["messages"]), (&json!(true), &json!(50)), "{report}");
        assert_eq!(any_secret_on_disk(data, 11..=60), None);
        check(data);
        let server = start(1, data);
        let all: Vec<_> = (1..=200)
            .map(|place| if (11..=60).contains(&place) { Err(place) } else { expected(place..=place, 0).remove(0) })
            .collect();
        assert_eq!(fetch_all(&server, "lobby", true), all);
        assert_eq!(server.metric("banter_erasures_pending"), 0);
        let mut eve = hello(&server, "eve");
        eve.join("lobby");
        let again = eve.ask(json!({"type": "post", "room": "lobby", "body": secret(60), "key": "key 60"}));
        assert_eq!((&again["sequence"], &again["duplicate"]), (&json!(201), &json!(false)), "{again}");
    }
}

#[test]
fn what_is_acknowledged_behind_an_ask_stays_through_kills_and_what_was_there_goes() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path();
    let mut server = start(1, data);
    talk(&server, "lobby", 1..=200);
    let (mut place, mut tools) = (200, Vec::new());
    for after_ms in [0, 0, 0, 20, 1_100] {
        let (there, records) = (place, records_of(data));
        tools.push(asking(data));
        wait_until("it is written down", || records_of(data) > records);
        // In most cases before the server has seen it.
        talk(&server, "lobby", place + 1..=place + 6);
        place += 6;
        std::thread::sleep(Duration::from_millis(after_ms));
        server.kill();
        server = start(1, data);
        assert_eq!(fetch_all(&server, "lobby", true), expected(1..=place, there), "behind {after_ms} ms");
        talk(&server, "lobby", place + 1..=place + 2);
        place += 2;
    }
    tools.into_iter().for_each(|mut tool| assert!(tool.wait().expect("it ends").success()));
    wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
    let there = place - 8;
    assert_eq!(any_secret_on_disk(data, 2..=there), None);
    for forwards in [true, false] {
        assert_eq!(fetch_all(&server, "lobby", forwards), expected(1..=place, there));
    }
    stop(server, Signal::TERM);
    check(data);
}

#[test]
fn what_is_posted_on_a_restored_backup_and_on_copies_of_it_is_not_concerned() {
    let folder = TempDir::new().expect("a temporary folder");
    let at = |name: &str| folder.path().join(name);
    let data = at("data");
    let server = start(1, &data);
    talk(&server, "lobby", 1..=200);
    let copy_to = |from: &Path, to: &Path, flags: &[&str]| {
        let (from, to) = (from.to_str().expect("text"), to.to_str().expect("text"));
        let (code, _, err) = run_to_end(&[&["log", "backup", from, to], flags].concat());
        assert_eq!(code, 0, "{err}");
    };
    copy_to(&data, &at("backup"), &[]);
    talk(&server, "lobby", 201..=240);
    erase(&data, &["--room", "lobby", "--user", "eve"]);
    stop(server, Signal::TERM);
    fs::copy(data.join("log/erasures"), at("backup").join("log/erasures")).expect("the list is copied");
    // The copy has places of its own where the old folder had others, and is killed before it has written down anything.
    let mut server = start(1, &at("backup"));
    talk(&server, "lobby", 201..=206);
    server.kill();
    let server = start(1, &at("backup"));
    assert_eq!(fetch_all(&server, "lobby", true), expected(1..=206, 200));
    wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
    talk(&server, "lobby", 207..=220);
    stop(server, Signal::TERM);
    // Neither is a copy of the copy, nor one that goes on in its place, nor one that lost its ledger.
    copy_to(&at("backup"), &at("again"), &[]);
    copy_to(&at("again"), &at("moved"), &["--move"]);
    copy_to(&at("moved"), &at("lost"), &["--move"]);
    fs::remove_file(at("lost").join("log/ledger")).expect("it is there");
    for name in ["again", "moved", "lost"] {
        let server = start(1, &at(name));
        wait_until("no erasure is pending", || server.metric("banter_erasures_pending") == 0);
        assert_eq!(fetch_all(&server, "lobby", true), expected(1..=220, 200), "{name}");
        assert_eq!(any_secret_on_disk(&at(name), 2..=200), None, "{name}");
        stop(server, Signal::TERM);
        check(&at(name));
    }
}

#[test]
fn on_a_full_disk_what_was_accepted_stays_hidden_and_is_done_once_there_is_space() {
    let disk = match LoopDisk::make(32) {
        Ok(disk) => disk,
        Err(error) => return eprintln!("SKIPPED: no ext4 on a loop device here: {error}"),
    };
    let (data, ballast) = (disk.folder().join("data"), disk.folder().join("ballast"));
    let start = || Start::new(1, &[&SMALL[..], &["--log-free-bytes-min", "33554432"]].concat()).data(&data).run();
    let mut server = start();
    talk(&server, "lobby", 1..=200);
    // Less is free than is to stay so (an eighth of the disk), and there is room for the list.
    let mut file = File::create(&ballast).expect("a name takes no block");
    let free_bytes = || {
        let stat = rustix::fs::statvfs(disk.folder()).expect("it is mounted");
        stat.f_bavail * stat.f_frsize
    };
    while free_bytes() > 2 << 20 {
        file.write_all(&vec![1; 1 << 20]).and_then(|()| file.sync_data()).expect("there is space");
    }
    let mut tool = asking(&data);
    wait_until("it is hidden", || records_of(&data) >= 2);
    let mut fill = || while file.write_all(&[1; 4_096]).is_ok() && file.sync_data().is_ok() {};
    fill();
    for _ in 0..2 {
        assert_eq!(fetch_all(&server, "lobby", true), expected(1..=200, 200));
        assert_eq!(server.metric("banter_erasures_pending"), 1);
        assert!(any_secret_on_disk(&data, 2..=200).is_some());
        server.kill();
        server = start();
        // What the start freed.
        fill();
    }
    // What the list's last block has space for is accepted.
    let mut tools: Vec<Child> = Vec::new();
    let refused = (0..64).find_map(|_| {
        let (records, mut asked, mut code) = (records_of(&data), asking(&data), None);
        wait_until("it is accepted or refused", || {
            code = asked.try_wait().expect("a child can be asked").and_then(|status| status.code());
            code.is_some() || records_of(&data) > records
        });
        tools.push(asked);
        code
    });
    assert_eq!(refused, Some(78), "there is no space to say it");
    for tool in &mut tools {
        let _ = tool.kill();
        let _ = tool.wait();
    }
    fs::remove_file(&ballast).expect("it is there");
    drop(file);
    wait_until("it is done", || any_secret_on_disk(&data, 2..=200).is_none());
    assert!(tool.wait().expect("it ends").success());
    assert_eq!(fetch_all(&server, "lobby", true), expected(1..=200, 200));
}

#[test]
fn commands_that_come_at_once_where_no_server_runs_each_do_their_work() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path();
    let server = start(1, data);
    talk(&server, "lobby", 1..=40);
    stop(server, Signal::TERM);
    let mut tools: Vec<Child> = (0..3).map(|_| asking(data)).collect();
    for tool in &mut tools {
        assert!(tool.wait().expect("it ends").success());
    }
    assert!(any_secret_on_disk(data, 1..=40).is_none());
}

#[test]
fn a_room_that_the_log_does_not_hold_is_told_with_a_code_of_its_own() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path();
    let path = data.to_str().expect("text");
    let server = start(1, data);
    talk(&server, "lobby", 1..=2);
    let (code, out, err) = run_to_end(&["log", "erase", path, "--room", "loby", "--json"]);
    let report: Value = serde_json::from_str(&out).expect("JSON");
    assert!(code == 66 && err.contains("no message of a room \"loby\""), "{code} {err}");
    assert_eq!((&report["messages"], &report["done"]), (&json!(0), &json!(true)));
    stop(server, Signal::TERM);
    let records = records_of(data);
    let (code, out, err) = run_to_end(&["log", "erase", path, "--room", "loby"]);
    assert!(code == 66 && out.is_empty() && err.contains("nothing was erased"), "{code} {out}{err}");
    assert_eq!(records_of(data), records, "nothing is asked");
}

#[test]
fn what_the_server_cannot_do_yet_is_not_told_as_done() {
    let folder = TempDir::new().expect("a temporary folder");
    let data = folder.path();
    let server = start(1, data);
    talk(&server, "lobby", 1..=20);
    // It stands still: nobody hides anything.
    server.signal(Signal::STOP);
    let mut tool = Command::new(banter_tests::server_process::program());
    tool.args(["log", "erase", data.to_str().expect("text"), "--room", "lobby", "--json", "--timeout", "3s"]);
    let ended = tool.output().expect("it ends when its time is over");
    server.signal(Signal::CONT);
    let report: Value = serde_json::from_slice(&ended.stdout).expect("JSON");
    let err = String::from_utf8(ended.stderr).expect("text");
    assert_eq!((ended.status.code(), &report["done"], &report["hidden"]), (Some(75), &json!(false), &json!(false)));
    assert!(err.contains("not known to be hidden") && err.contains("not done after 3 s"), "{err}");
}

#[test]
fn what_cannot_be_erased_is_told() {
    let folder = TempDir::new().expect("a temporary folder");
    let path = folder.path().to_str().expect("text");
    let (code, _, err) = run_to_end(&["log", "erase", path, "--room", "lobby"]);
    assert!(code == 78 && err.contains("there is no log"), "{err}");
    let (code, _, err) = run_to_end(&["log", "erase", path]);
    assert!(code == 2 && err.contains("--room"), "{err}");
    let (code, _, err) = run_to_end(&["log", "erase", path, "--room", "lobby", "--sequence", "9-7"]);
    assert!(code == 2 && err.contains("the smaller first"), "{err}");
    let (code, out, _) = run_to_end(&["log", "erase", "--help"]);
    assert!(code == 0 && out.lines().count() <= 24, "{out}");
}
