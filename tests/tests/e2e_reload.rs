//! End to end: a configuration that is read again while clients are there, whole or not at all.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRETS: [&str; 2] =
    ["the first of two secrets, thirty-two bytes", "the second of two secrets, thirty-two bytes"];

/// A server, and the file that it reads.
struct Setup {
    folder: TempDir,
    server: Option<ServerProcess>,
}

impl Setup {
    fn start(cores: usize, config: &str) -> Self {
        let mut setup = Setup { folder: tempfile::tempdir().expect("a folder"), server: None };
        setup.write("secret", SECRETS[0]);
        setup.write("banter.toml", config);
        let config = setup.path("banter.toml");
        let flags = ["--durability", "memory", "--config", config.to_str().expect("text")];
        setup.server = Some(ServerProcess::start(cores, &flags));
        setup
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, name: &str, text: &str) {
        let text = text.replace("FOLDER", self.folder.path().to_str().expect("text"));
        fs::write(self.path(name), text).expect("a file");
    }

    fn server(&self) -> &ServerProcess {
        self.server.as_ref().expect("it was started")
    }

    /// Has the server read that file; gives the line that says what came of it.
    fn reload(&self, config: &str) -> String {
        self.write("banter.toml", config);
        let lines = || -> Vec<String> {
            let log = self.server().log();
            log.lines().filter(|line| line.contains("reloaded")).map(str::to_owned).collect()
        };
        let before = lines().len();
        self.server().signal(Signal::HUP);
        wait_until("it says what came of it", || lines().len() > before);
        lines().pop().expect("a line")
    }

    fn hello(&self, hello: Value) -> (WireClient, Value) {
        let mut client = WireClient::connect(self.server().address(), Form::Json);
        let answer = client.ask(hello);
        (client, answer)
    }
}

fn token(secret: &str) -> String {
    token_for(secret, "*")
}

/// One with all rights of a member in those rooms.
fn token_for(secret: &str, rooms: &str) -> String {
    let key = SigningKey::from_secret(secret.as_bytes()).expect("a key");
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs();
    let rooms = vec![(Pattern::new(rooms).expect("a pattern"), Rights::MEMBER)];
    mint(&key, &ClaimsToMint { rooms, ..ClaimsToMint::new("ann", now, now + 600) }).expect("a token")
}

#[test]
fn limits_hold_from_then_on_for_who_is_there_and_nobody_is_closed() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "");
        let (mut ann, welcome) = setup.hello(json!({"type": "hello", "user": "ann"}));
        assert_eq!(welcome["limits"]["fetch_messages_max"], 1_000);
        ann.join("lobby");
        for number in 0..4 {
            assert_eq!(ann.post("lobby", json!(number))["type"], "posted");
        }
        let line =
            setup.reload("[limits]\nfetch_messages_max = 2\nrooms_per_connection_max = 1\nframe_bytes_max = 2048");
        assert!(line.contains("limits.fetch_messages_max: 1000 -> 2"), "{line}");
        assert!(line.contains("waits for a restart: limits.frame_bytes_max: 65536 -> 2048"), "{line}");
        let page = ann.ask(json!({"type": "fetch", "room": "lobby", "after": 0}));
        assert_eq!(page["messages"].as_array().map(Vec::len), Some(2), "{page}");
        assert_eq!(ann.ask(json!({"type": "join", "room": "other"}))["code"], "overloaded");
        let (_bob, welcome) = setup.hello(json!({"type": "hello", "user": "bob"}));
        assert_eq!(
            (&welcome["limits"]["fetch_messages_max"], &welcome["limits"]["frame_bytes_max"]),
            (&json!(2), &json!(65_536))
        );
    }
}

#[test]
fn connections_above_a_limit_that_was_lowered_stay_and_newcomers_are_turned_away() {
    let setup = Setup::start(1, "");
    let (mut ann, _) = setup.hello(json!({"type": "hello", "user": "ann"}));
    let (mut bob, _) = setup.hello(json!({"type": "hello", "user": "bob"}));
    setup.reload("[limits]\nconnections_max = 1");
    let mut carl = WireClient::connect(setup.server().address(), Form::Json);
    assert_eq!(carl.next_event()["code"], "overloaded");
    for client in [&mut ann, &mut bob] {
        assert_eq!(client.ask(json!({"type": "ping"}))["type"], "pong");
    }
    setup.reload("");
    assert_eq!(setup.hello(json!({"type": "hello", "user": "carl"})).1["type"], "welcome");
}

#[test]
fn keys_change_for_newcomers_and_a_file_that_does_not_hold_changes_nothing() {
    let config = "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    for &cores in core_counts() {
        let setup = Setup::start(cores, config);
        let comes_in =
            |secret: &str| setup.hello(json!({"type": "hello", "token": token(secret)})).1["type"] == "welcome";
        let (mut ann, _) = setup.hello(json!({"type": "hello", "token": token(SECRETS[0])}));
        ann.join("lobby");
        setup.write("secret", SECRETS[1]);
        assert!(comes_in(SECRETS[0]) && !comes_in(SECRETS[1]), "nothing was read yet");
        let line = setup.reload(config);
        assert!(line.contains("tokens are checked with 1 keys"), "{line}");
        assert!(comes_in(SECRETS[1]) && !comes_in(SECRETS[0]));
        assert_eq!(ann.post("lobby", json!("still here"))["type"], "posted");
        for (name, text, says) in
            [("secret", "short", "at least 32 are needed"), ("banter.toml", "[auth]\nmode = 'tokens'", "mode must be")]
        {
            setup.write(name, text);
            let line = setup.reload(if name == "secret" { config } else { text });
            assert!(line.contains("nothing is changed") && line.contains(says), "{line}");
            assert!(!line.contains("short"), "what was found in a secret's place is no line of a log: {line}");
            assert!(comes_in(SECRETS[1]) && !comes_in(SECRETS[0]), "{name}");
            setup.write("secret", SECRETS[1]);
        }
        // What must hold for tokens is read anew, too.
        setup.reload(&format!("{config}audience = 'others'"));
        assert!(!comes_in(SECRETS[1]));
    }
}

#[test]
fn rights_that_the_file_gives_come_and_go_for_who_is_there() {
    let auth = "[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    let news = |rights: &str| format!("{auth}[[rooms]]\nmatch = 'news'\nusers = [{rights}]");
    for &cores in core_counts() {
        let setup = Setup::start(cores, &news("'read', 'write'"));
        let (mut ann, _) = setup.hello(json!({"type": "hello", "token": token_for(SECRETS[0], "mine")}));
        for room in ["news", "mine"] {
            assert_eq!(ann.join(room)["type"], "joined");
        }
        // A right that comes is there for whoever asks, and one that goes ends what was read by it.
        let line = setup.reload(&news("'read', 'history'"));
        assert!(line.contains("new: rooms.users") && line.contains("waits for a restart: nothing"), "{line}");
        let post = json!({"type": "post", "room": "news", "body": 1});
        wait_until("the right to write is gone", || ann.ask(post.clone())["code"] == "forbidden");
        assert_eq!(ann.ask(json!({"type": "fetch", "room": "news", "after": 0}))["type"], "page");
        setup.reload(auth);
        assert_eq!(ann.take_type("removed")["room"], "news");
        assert_eq!(ann.ask(json!({"type": "join", "room": "news"}))["code"], "forbidden");
        assert_eq!(ann.post("mine", json!("still here"))["type"], "posted");
        setup.reload(&news("'read'"));
        assert_eq!(ann.join("news")["type"], "joined");
    }
}

#[test]
fn a_log_for_machines_tells_who_came_in_and_sums_who_did_not_and_never_shows_a_token() {
    let config = "log_format = 'json'\n[auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";
    let setup = Setup::start(1, config);
    let (good, bad) = (token(SECRETS[0]), token(SECRETS[1]));
    assert_eq!(setup.hello(json!({"type": "hello", "token": good})).1["type"], "welcome");
    for _ in 0..5 {
        assert_eq!(setup.hello(json!({"type": "hello", "token": bad})).1["code"], "unauthorized");
    }
    setup.reload(config);
    let log = setup.server().log();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let of = |event: &str| lines.iter().filter(|line| line["event"] == event).collect::<Vec<_>>();
    let [welcome, refused] = of("hello")[..] else { panic!("one taken, and the first that was not: {log}") };
    assert_eq!((&welcome["result"], &welcome["user"]), (&json!("welcome"), &json!("ann")));
    assert_eq!((&refused["result"], &refused["address"]), (&json!("refused"), &json!("127.0.0.1")));
    assert_eq!(of("reload").len(), 1);
    // The signature proves a token, and the claims are its own business.
    for part in [&good, &bad].iter().flat_map(|token| token.split('.').skip(1)) {
        assert!(!log.contains(part), "{log}");
    }
    SECRETS.iter().for_each(|secret| assert!(!log.contains(secret)));
}

#[test]
fn what_is_logged_and_which_pages_come_in_follow_the_file() {
    let setup = Setup::start(1, "log = 'error'");
    let upgrade = "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: https://a.com\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n";
    assert!(setup.server().http(upgrade).starts_with("HTTP/1.1 403 "));
    assert_eq!(setup.server().log(), "");
    let line = setup.reload("log = 'info'\norigins = ['https://a.com']");
    assert!(line.contains("log: \"error\" -> \"info\""), "{line}");
    let mut page = banter_tests::raw_peer::RawPeer::connect(setup.server().address());
    page.upgrade(upgrade);
}
