//! End to end: how many posts a second a room takes, whoever posts them and however they come.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use banter_tests::admin_socket::{self, Told};
use banter_tests::server_process::{ServerProcess, core_counts};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const LIMIT: &str = "rooms.posts_per_second_max";
/// So few that a test on a slow machine is still above it.
const SLOW: &str = "[[rooms]]\nmatch = 'slow-free'\n[[rooms]]\nmatch = 'slow-*'\nposts_per_second_max = 2\n";

struct Setup {
    folder: TempDir,
    server: Option<ServerProcess>,
}

impl Setup {
    fn start(cores: usize, durability: &str, top: &str, rooms: &str) -> Self {
        let mut setup = Setup { folder: TempDir::new().expect("a folder"), server: None };
        setup.write(top, rooms);
        let config = setup.path("banter.toml");
        let flags = ["--durability", durability, "--config", config.to_str().expect("text")];
        setup.server = Some(ServerProcess::start(cores, &flags));
        setup
    }

    fn write(&self, top: &str, rooms: &str) {
        let socket = self.path("admin.sock");
        let config = format!("{top}\n[admin]\nsocket = '{}'\n{rooms}", socket.display());
        fs::write(self.path("banter.toml"), config).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn client(&self, form: Form, user: &str) -> WireClient {
        WireClient::hello(self.server.as_ref().expect("it was started").address(), form, user)
    }

    /// Asks the interface for backends.
    fn operate(&self, method: &str, path: &str, body: &Value) -> Told {
        admin_socket::ask(&self.path("admin.sock"), method, path, body)
    }

    fn limited(&self, family: &str) -> u64 {
        let metrics = self.operate("GET", "/v1/metrics", &Value::Null).body;
        let label = format!("scope=\"room\",limit=\"{LIMIT}\"");
        let lines = metrics.lines().filter(|line| line.starts_with(family) && line.contains(&label));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }
}

fn post(room: &str, body: u64) -> Value {
    json!({"type": "post", "room": room, "body": body})
}

/// Posts so many without waiting for answers; those that were refused.
fn flood(client: &mut WireClient, room: &str, posts: u64) -> Vec<Value> {
    for id in 0..posts {
        let mut ask = post(room, id);
        ask["id"] = json!(10_000 + id);
        client.send(&ask.to_string());
    }
    let answers = (0..posts).map(|id| client.answer_to(10_000 + id));
    let refused: Vec<Value> = answers.filter(|answer| answer["type"] == "error").collect();
    assert!(refused.iter().all(|answer| answer["code"] == "rate_limited"), "{refused:?}");
    refused
}

#[test]
fn a_room_takes_its_rate_of_everybody_together_and_says_when_there_is_more() {
    for durability in ["memory", "synced"] {
        for &cores in core_counts() {
            let setup = Setup::start(cores, durability, "", SLOW);
            let mut told = 0;
            for (number, form) in Form::ALL.into_iter().enumerate() {
                let room = format!("slow-{number}");
                let (mut ann, mut bob) = (setup.client(form, "ann"), setup.client(Form::Json, "bob"));
                for client in [&mut ann, &mut bob] {
                    [room.as_str(), "quick", "slow-free"].into_iter().for_each(|room| drop(client.join(room)));
                }
                let refused = flood(&mut ann, &room, 40);
                // On a machine that is held up, more than one second's worth may pass.
                assert!((20..=38).contains(&refused.len()), "{} were refused", refused.len());
                told += refused.len() as u64;
                let last = &refused[refused.len() - 1];
                assert_eq!(last["scope"], "room", "{last}");
                assert!(last["message"].as_str().is_some_and(|text| text.contains("posts_per_second_max")), "{last}");
                let after_ms = last["retry_after_ms"].as_u64().expect("when to try again");
                assert!((1..=500).contains(&after_ms), "{after_ms}");
                // No other room notices, nor one that an entry before takes out.
                for room in ["quick", "slow-free"] {
                    assert_eq!(flood(&mut bob, room, 40), Vec::<Value>::new(), "{room}");
                }
                std::thread::sleep(Duration::from_millis(after_ms + 1));
                let answer = bob.ask(post(&room, 1));
                assert_eq!(answer["type"], "posted", "who waits as told is taken: {answer}");
            }
            assert_eq!(setup.limited("banter_limited_total"), told);
        }
    }
}

#[test]
fn a_repeated_post_is_answered_with_its_place_and_takes_nothing_of_the_rate() {
    let setup = Setup::start(1, "synced", "", SLOW);
    for (number, form) in Form::ALL.into_iter().enumerate() {
        let room = format!("slow-{number}");
        let mut ann = setup.client(form, "ann");
        ann.join(&room);
        let keyed = json!({"type": "post", "room": room, "body": 1, "key": "k"});
        let first = ann.ask(keyed.clone());
        assert_eq!(first["duplicate"], false, "{first}");
        flood(&mut ann, &room, 20);
        for _ in 0..20 {
            let again = ann.ask(keyed.clone());
            assert_eq!((&again["duplicate"], &again["sequence"]), (&json!(true), &first["sequence"]), "{again}");
        }
    }
}

#[test]
fn a_backend_waits_as_a_client_does_and_a_signal_never() {
    let setup = Setup::start(1, "memory", "", SLOW);
    let mut bob = setup.client(Form::Json, "bob");
    bob.join("slow-1");
    let say = || setup.operate("POST", "/v1/rooms/slow-1/messages", &json!({"user": "shop", "body": 1}));
    let mut answers = (0..40).map(|_| say());
    let refused = answers.find(|told| told.status == 429).expect("a refusal");
    assert!(refused.head.contains("\r\nretry-after: 1"), "{}", refused.head);
    let error = refused.json()["error"].clone();
    assert_eq!(error["code"], "rate_limited");
    assert!((1..=500).contains(&error["retry_after_ms"].as_u64().expect("when to try again")), "{error}");
    let many = json!({"rooms": vec!["slow-1"; 20], "user": "shop", "body": 1});
    let lines = setup.operate("POST", "/v1/broadcast", &many).body;
    assert!(lines.lines().any(|line| line.contains("rate_limited")), "{lines}");
    for _ in 0..20 {
        let told = setup.operate("POST", "/v1/rooms/slow-1/signals", &json!({"user": "shop", "body": 1}));
        assert_eq!(told.status, 202, "{}", told.body);
        bob.take_type("signal");
    }
}

#[test]
fn it_is_tried_dry_and_comes_and_goes_by_a_reload_for_rooms_that_are_there() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", "", "");
        let mut ann = setup.client(Form::Json, "ann");
        ann.join("slow-1");
        assert_eq!(flood(&mut ann, "slow-1", 40).len(), 0);
        let reload = |top: &str, rooms: &str| {
            setup.write(top, rooms);
            let told = setup.operate("POST", "/v1/reload", &Value::Null);
            assert_eq!(told.status, 200, "{}", told.body);
            let told = told.json();
            assert_eq!(told["needs_restart"], json!([]), "{told}");
            told["takes_effect"].to_string()
        };
        assert!(reload(&format!("limits_dry_run = ['{LIMIT}']"), SLOW).contains(LIMIT));
        assert_eq!(flood(&mut ann, "slow-1", 40).len(), 0);
        let counted = setup.limited("banter_limited_dry_run_total");
        assert!((20..=38).contains(&counted), "{counted}");
        reload("", SLOW);
        assert!(flood(&mut ann, "slow-1", 40).len() >= 20);
        reload("", "");
        assert_eq!(flood(&mut ann, "slow-1", 40).len(), 0);
    }
}
