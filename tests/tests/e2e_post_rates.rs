//! End to end: how many posts a second a room takes, whoever posts them and however they come.

use std::fs;
use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::time::Duration;

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

    /// Asks the interface for backends, and gives the head and the body.
    fn operate(&self, method: &str, path: &str, body: &Value) -> (String, String) {
        let mut stream = UnixStream::connect(self.path("admin.sock")).expect("the socket is there");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let length = body.len();
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        )
        .expect("the server takes bytes");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.to_lowercase(), body.to_owned())
    }

    fn limited(&self, family: &str) -> u64 {
        let metrics = self.operate("GET", "/v1/metrics", &Value::Null).1;
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
    let (head, body) = answers.find(|(head, _)| head.starts_with("http/1.1 429 ")).expect("a refusal");
    assert!(head.contains("\r\nretry-after: 1"), "{head}");
    let error = serde_json::from_str::<Value>(&body).expect("JSON")["error"].clone();
    assert_eq!(error["code"], "rate_limited");
    assert!((1..=500).contains(&error["retry_after_ms"].as_u64().expect("when to try again")), "{body}");
    let many = json!({"rooms": vec!["slow-1"; 20], "user": "shop", "body": 1});
    let lines = setup.operate("POST", "/v1/broadcast", &many).1;
    assert!(lines.lines().any(|line| line.contains("rate_limited")), "{lines}");
    for _ in 0..20 {
        let (head, _) = setup.operate("POST", "/v1/rooms/slow-1/signals", &json!({"user": "shop", "body": 1}));
        assert!(head.starts_with("http/1.1 202 "), "{head}");
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
            let (head, body) = setup.operate("POST", "/v1/reload", &Value::Null);
            assert!(head.starts_with("http/1.1 200 "), "{body}");
            let told: Value = serde_json::from_str(&body).expect("JSON");
            assert_eq!(told["needs_restart"], json!([]), "{body}");
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
