//! End to end: a server's data folder goes into a cluster and comes out again, and clients of both go on where they were.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use banter_tests::nats_servers::NatsServers;
use banter_tests::nemesis::engine_servers;
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, holds_within, program, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

/// What both kinds of server have in their files: two classes, rooms with a program that keeps a count, small segments.
const ROOMS: &str = "
durability = 'synced'
[limits]
frame_bytes_max = 8192
log_commit_bytes_max = 16384
log_segment_bytes = 65536
history_messages_max = 100000
[[rooms]]
match = 'game-*'
retention_hours = 24
[program_limits]
watch_us = 0
[[programs]]
match = 'count-*'
file = '{count.luau}'
on_fault = 'pass'
";
const COUNT: &str = "
function post(room, m)
  local n = (state.get('n') or 0) + 1
  state.set('n', n)
  m:set('n', n)
end
";
const NAMES: [&str; 5] = ["lobby", "hall", "game-1", "game-2", "count-1"];
/// Posts of each room: some segments of a partition, or of a server.
const POSTS: u64 = 60;

struct House {
    folder: TempDir,
    nats: NatsServers,
}

impl House {
    fn new() -> Option<House> {
        let binary = match engine_servers::binary() {
            Ok(binary) => binary,
            Err(why) => {
                eprintln!("SKIPPED, nothing was tried: there is no nats-server, and it could not be fetched: {why}");
                return None;
            }
        };
        let house = House { folder: TempDir::new().expect("a folder"), nats: NatsServers::start(&binary) };
        fs::write(house.path("count.luau"), COUNT).expect("a file");
        fs::write(house.path("alone.toml"), house.rooms()).expect("a file");
        Some(house)
    }

    fn rooms(&self) -> String {
        ROOMS.replace("{count.luau}", &self.text("count.luau"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("text").to_owned()
    }

    /// Makes a cluster of that name, and the file of its node.
    fn init(&self, cluster: &str) {
        let text = format!(
            "{}\n[cluster]\nname = '{cluster}'\nnode = 'n'\nsegment_bytes = 65536\ndead_after_ms = 1500\naddresses = ['127.0.0.1:1']\n\
             append_bytes_max = 16384\nappend_timeout_ms = 10000\nengine = {:?}\nengine_monitoring = {:?}\n",
            self.rooms(),
            self.nats.urls(),
            self.nats.monitoring()
        );
        fs::write(self.path(&format!("{cluster}.toml")), text).expect("a file");
        let mut said = String::new();
        // A server that has just started may be offline to the one that places the streams.
        let is_made = holds_within(PATIENCE, || {
            let (code, out, err) =
                self.cluster(cluster, &["init", "--partitions", "16", "--stream-bytes-max", "16MiB"]);
            said = format!("{out}{err}");
            code == 0
        });
        assert!(is_made, "{said}");
    }

    fn cluster(&self, cluster: &str, task: &[&str]) -> (i32, String, String) {
        let config = self.text(&format!("{cluster}.toml"));
        run_to_end(&[&["cluster"], task, &["--config", &config]].concat())
    }

    /// A server of its own on that folder.
    fn alone(&self, data: &str) -> ServerProcess {
        Start::new(1, &["--config", &self.text("alone.toml")]).data(&self.path(data)).run()
    }

    /// A node that serves.
    fn node(&self, cluster: &str) -> ServerProcess {
        let config = self.text(&format!("{cluster}.toml"));
        let data = self.path(&format!("node-of-{cluster}"));
        let server = Start::new(1, &["--config", &config]).data(&data).run();
        let ready = || server.http("GET /readyz HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n");
        wait_until("the node serves", || ready().starts_with("HTTP/1.1 200"));
        server
    }

    /// The messages of a folder that checks, each with all that is said of it but where it lies.
    fn messages(&self, data: &str) -> Vec<String> {
        let (code, out, err) = run_to_end(&["log", "check", &self.text(data)]);
        assert_eq!(code, 0, "{out}{err}");
        let (code, out, err) = run_to_end(&["log", "dump", &self.text(data)]);
        assert_eq!(code, 0, "{err}");
        let mut lines: Vec<Value> = out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        for line in &mut lines {
            let line = line.as_object_mut().expect("an object");
            line.remove("segment");
            line.remove("offset");
        }
        lines.sort_by_key(|line| (line["room"].to_string(), line["sequence"].as_u64()));
        lines.iter().map(Value::to_string).collect()
    }
}

fn stop(mut server: ServerProcess) {
    server.signal(Signal::TERM);
    server.wait(PATIENCE);
}

fn hello(server: &ServerProcess) -> WireClient {
    WireClient::hello(server.address(), Form::Json, "ann")
}

fn body(number: u64) -> Value {
    json!({"post": number, "filling": "x".repeat(1_000)})
}

fn post(client: &mut WireClient, room: &str, number: u64) -> Value {
    client.ask(json!({"type": "post", "room": room, "body": body(number), "key": format!("{room}-{number}")}))
}

/// Posts to all rooms, from that number on.
fn post_all(server: &ServerProcess, from: u64, to: u64) {
    let mut client = hello(server);
    for room in NAMES {
        client.join(room);
    }
    for number in from..=to {
        for room in NAMES {
            let posted = post(&mut client, room, number);
            assert_eq!((&posted["sequence"], &posted["duplicate"]), (&json!(number), &json!(false)), "{posted}");
        }
    }
}

/// The epoch of each room, and of one in which nobody ever said anything.
fn epochs(server: &ServerProcess) -> Vec<Value> {
    let mut client = hello(server);
    NAMES.iter().chain(&["empty"]).map(|room| client.join(room)["epoch"].clone()).collect()
}

/// Clients that stood somewhere go on there, nothing comes twice, and what is posted again with its key is known.
fn goes_on(server: &ServerProcess, known: &[Value], posts: u64) {
    assert_eq!(epochs(server), known, "cursors stay good");
    let mut client = hello(server);
    for (room, epoch) in NAMES.iter().zip(known) {
        let read = posts / 3;
        let after = json!({"epoch": epoch, "sequence": read});
        let joined = client.ask(json!({"type": "join", "room": room, "after": after}));
        assert_eq!(joined["type"], "joined", "{joined}");
        for sequence in read + 1..=posts {
            let message = client.take("a message", |event| event["type"] == "message" && event["room"] == *room);
            assert_eq!((&message["sequence"], &message["epoch"]), (&json!(sequence), epoch), "{message}");
            assert_eq!(message["body"]["post"], sequence);
        }
        let mut again = Value::Null;
        // The keys of a room may have to be read from a server of the engine that is late by a moment: then it is asked again.
        wait_until("the keys of the room are known", || {
            again = post(&mut client, room, posts);
            again["code"] != "overloaded"
        });
        assert_eq!((&again["sequence"], &again["duplicate"]), (&json!(posts), &json!(true)), "{again}");
    }
}

/// What the program of a room counted at that place.
fn counted(server: &ServerProcess, sequence: u64) -> Value {
    let epoch = hello(server).join("count-1")["epoch"].clone();
    let mut client = hello(server);
    client.ask(json!({"type": "join", "room": "count-1", "after": {"epoch": epoch, "sequence": sequence - 1}}));
    client.take_type("message")["body"]["n"].clone()
}

#[test]
fn what_a_cluster_holds_is_exported_while_it_serves_and_a_server_of_its_own_goes_on_with_it() {
    let Some(house) = House::new() else { return };
    house.init("out");
    let node = house.node("out");
    post_all(&node, 1, POSTS);
    let known = epochs(&node);
    let (code, out, err) = house.cluster("out", &["export", &house.text("exported"), "--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let said: Value = serde_json::from_str(&out).expect("JSON");
    let all = NAMES.len() as u64 * POSTS;
    assert_eq!((&said["rooms"], &said["messages"]), (&json!(NAMES.len()), &json!(all)), "{said}");
    assert!(said["segments"].as_u64() > Some(5) && said["bytes"].as_u64() > Some(all * 1_000), "{said}");
    post_all(&node, POSTS + 1, POSTS + 1);
    stop(node);
    assert_eq!(house.messages("exported").len() as u64, all);
    let (code, out, err) = house.cluster("out", &["export", &house.text("exported")]);
    assert!(code == 78 && err.contains("name a folder that is new or empty"), "{out}{err}");
    let server = house.alone("exported");
    goes_on(&server, &known, POSTS);
    post_all(&server, POSTS + 1, POSTS + 1);
    assert_eq!(counted(&server, POSTS + 1), POSTS + 1, "the program's state goes on");
    stop(server);
}

/// Copies a folder as `cp -r` does.
fn copy(from: &Path, to: &Path) {
    fs::create_dir(to).expect("a new folder");
    for entry in fs::read_dir(from).expect("a folder") {
        let path = entry.expect("an entry").path();
        let target = to.join(path.file_name().expect("a name"));
        if path.is_dir() { copy(&path, &target) } else { fs::copy(&path, &target).map(drop).expect("a copy") }
    }
}

#[test]
fn a_servers_folder_goes_into_a_cluster_and_out_again_and_clients_go_on_where_they_were() {
    let Some(house) = House::new() else { return };
    house.init("in");
    let import = |more: &[&str]| house.cluster("in", &[&["import", &house.text("data")], more].concat());
    let refused = |(code, out, err): (i32, String, String), wanted: i32, says: &str| {
        assert!(code == wanted && out.is_empty() && err.contains(says), "{says}: {code} {out}{err}");
    };
    let server = house.alone("data");
    post_all(&server, 1, POSTS);
    let known = epochs(&server);
    refused(import(&[]), 78, "has it locked");
    stop(server);
    let monitoring = &house.nats.monitoring()[0];
    refused(import(&["--monitoring", monitoring]), 1, "do not prove");
    let said = house.messages("data");
    let (code, out, err) = import(&["--json"]);
    assert_eq!(code, 0, "{out}{err}");
    let imported: Value = serde_json::from_str(&out).expect("JSON");
    assert_eq!((&imported["rooms"], &imported["messages"]), (&json!(NAMES.len()), &json!(said.len())), "{imported}");
    assert_eq!(house.messages("data"), said, "the folder stays as it is");
    refused(import(&[]), 1, "holds messages");
    let node = house.node("in");
    goes_on(&node, &known, POSTS);
    post_all(&node, POSTS + 1, POSTS + 5);
    assert_eq!(counted(&node, POSTS + 1), POSTS + 1, "the program's state goes on");
    refused(import(&[]), 1, "node n runs");
    let (code, out, err) = house.cluster("in", &["export", &house.text("out")]);
    assert!(code == 0 && out.contains("and checked"), "{out}{err}");
    stop(node);
    let both = house.messages("out");
    assert_eq!(both.len(), said.len() + NAMES.len() * 5);
    assert!(said.iter().all(|line| both.contains(line)), "every message is what it was");
    let server = house.alone("out");
    goes_on(&server, &known, POSTS + 5);
    post_all(&server, POSTS + 6, POSTS + 6);
    assert_eq!(counted(&server, POSTS + 6), POSTS + 6);
    stop(server);
}

/// Kills an import while it writes.
fn break_off(house: &House, cluster: &str) {
    let before = house.nats.stored_bytes();
    let config = house.text(&format!("{cluster}.toml"));
    let mut command = Command::new(program());
    command.args(["cluster", "import", &house.text("data"), "--config", &config]);
    let mut import = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the program starts");
    // Claims and the like are less.
    wait_until("it writes", || house.nats.stored_bytes() > before + 40_000);
    assert!(import.try_wait().expect("a child").is_none(), "it ended before it could be broken off");
    import.kill().expect("a child");
    import.wait().expect("a child");
}

#[test]
fn an_import_that_was_broken_off_is_told_with_its_cure_and_no_node_serves_what_it_left() {
    let Some(house) = House::new() else { return };
    house.init("torn");
    let server = house.alone("data");
    post_all(&server, 1, 400);
    stop(server);
    break_off(&house, "torn");
    for task in [["import", &house.text("data")], ["export", &house.text("out")]] {
        let (code, out, err) = house.cluster("torn", &task);
        let told = code == 1 && err.contains("was broken off") && err.contains("grep ^BANTER_torn_");
        assert!(told && out.is_empty() && !house.path("out").exists(), "{code} {out}{err}");
    }
    let node = house.node("torn");
    let refused = node.log().matches("an import into it was broken off").count();
    assert_eq!(refused, 16, "{}", node.log());
    let mut client = hello(&node);
    let answer = client.ask(json!({"type": "join", "room": "lobby"}));
    assert_eq!(answer["code"], "unavailable", "{answer}");
    node.signal(Signal::KILL);
}

#[test]
fn a_copy_of_a_folder_goes_in_under_new_epochs_and_a_damaged_one_does_not() {
    let Some(house) = House::new() else { return };
    house.init("copied");
    let server = house.alone("data");
    post_all(&server, 1, 5);
    let known = epochs(&server);
    stop(server);
    copy(&house.path("data"), &house.path("copy"));
    copy(&house.path("data"), &house.path("damaged"));
    let log = house.path("damaged").join("log");
    let segments = fs::read_dir(log).expect("a folder").map(|entry| entry.expect("an entry").path());
    let segment =
        segments.filter(|path| path.extension().is_some_and(|ending| ending == "log")).min().expect("a segment");
    let mut bytes = fs::read(&segment).expect("a file");
    bytes[4_096 + 100] ^= 1;
    fs::write(&segment, bytes).expect("a file");
    // A node that served nothing leaves the cluster as empty as it was.
    stop(house.node("copied"));
    let (code, out, err) = house.cluster("copied", &["import", &house.text("damaged")]);
    assert!(code == 1 && out.is_empty() && err.contains("banter log check"), "{code} {out}{err}");
    let (code, out, err) = house.cluster("copied", &["import", &house.text("copy")]);
    assert!(code == 0 && err.contains("every room goes on under a new epoch"), "{code} {out}{err}");
    let node = house.node("copied");
    let fresh = epochs(&node);
    assert!(known.iter().all(|epoch| !fresh.contains(epoch)), "the original may have gone on: {known:?} {fresh:?}");
    goes_on(&node, &fresh, 5);
    post_all(&node, 6, 6);
    stop(node);
}
