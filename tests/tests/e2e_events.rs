//! End to end: what a log for machines tells of who comes, is let in or not, and goes, and that it never tells a token.

use std::fs;

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::raw_peer::{RawPeer, text_frame};
use banter_tests::server_process::{ServerProcess, Start, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
const OTHER: &str = "another secret of more than thirty-two bytes";

struct Setup {
    folder: TempDir,
    server: ServerProcess,
}

impl Setup {
    fn start(cores: usize, config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        fs::write(path("secret"), SECRET).expect("a file");
        let config = config.replace("FOLDER", folder.path().to_str().expect("text"));
        fs::write(path("banter.toml"), config).expect("a file");
        let config = path("banter.toml");
        let flags = ["--durability", "memory", "--config", config.to_str().expect("text")];
        let server = Start::new(cores, &flags).run();
        Setup { folder, server }
    }

    fn hello(&self, hello: Value) -> (WireClient, Value) {
        let mut client = WireClient::connect(self.server.address(), Form::Json);
        let answer = client.ask(hello);
        (client, answer)
    }

    fn ctl(&self, args: &[&str]) {
        let socket = self.folder.path().join("admin.sock");
        let line = [&["ctl", "--socket", socket.to_str().expect("text")], args].concat();
        let (code, _, err) = run_to_end(&line);
        assert_eq!(code, 0, "{err}");
    }

    /// The events of that name so far.
    fn events(&self, name: &str) -> Vec<Value> {
        let log = self.server.log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["event"] == name).collect()
    }

    /// Waits for an event of that name with those values.
    #[track_caller]
    fn told(&self, name: &str, values: &Value) {
        let holds = |event: &Value| values.as_object().expect("values").iter().all(|(key, value)| event[key] == *value);
        wait_until(&format!("{name} with {values}"), || self.events(name).iter().any(holds));
    }
}

fn token(secret: &str, user: &str, session: Option<&str>) -> String {
    let key = SigningKey::from_secret(secret.as_bytes()).expect("a key");
    let now = std::time::UNIX_EPOCH.elapsed().expect("behind 1970").as_secs();
    let rooms = vec![(Pattern::new("*").expect("a pattern"), Rights::MEMBER)];
    let session = session.map(str::to_owned);
    mint(&key, &ClaimsToMint { rooms, session, ..ClaimsToMint::new(user, now, now + 600) }).expect("a token")
}

const CONFIG: &str = "log_format = 'json'\norigins = ['https://a.com']\n[admin]\nsocket = 'FOLDER/admin.sock'\n\
                      [auth]\nmode = 'token'\nsecret_file = 'FOLDER/secret'\n";

#[test]
fn who_comes_is_let_in_and_goes_is_told_with_address_user_session_and_code() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, CONFIG);
        let (good, bad) = (token(SECRET, "ann", Some("login-7")), token(OTHER, "eve", None));
        let (mut ann, welcome) = setup.hello(json!({"type": "hello", "token": good}));
        assert_eq!(welcome["type"], "welcome");
        setup.told("connect", &json!({"result": "opened", "form": "json", "address": "127.0.0.1", "level": "INFO"}));
        setup.told("hello", &json!({"result": "welcome", "user": "ann", "session": "login-7", "address": "127.0.0.1"}));
        let (eve, refused) = setup.hello(json!({"type": "hello", "token": bad}));
        assert_eq!(refused["code"], "unauthorized");
        let why = &refused["message"];
        setup.told("hello", &json!({"result": "refused", "why": why, "address": "127.0.0.1", "user": null}));
        drop(eve);
        setup.told("close", &json!({"result": "gone", "user": null, "code": null}));
        // One that the server ends says why, with the code that the client is told.
        setup.ctl(&["revoke", "--user", "ann"]);
        assert_eq!(ann.read_to_end().1, Ended::Closed(4403));
        setup.told("close", &json!({"result": "closed", "code": 4403, "reason": "revoked", "user": "ann"}));
        setup.told("revocation", &json!({"by": "socket"}));
        let (_, refused) = setup.hello(json!({"type": "hello", "token": good}));
        assert_eq!(refused["code"], "revoked");
        setup.told("hello", &json!({"result": "refused", "user": "ann", "session": "login-7"}));
        // A page that may not come, and one that may.
        let upgrade = |origin: &str| {
            format!(
                "GET /ws HTTP/1.1\r\nHost: localhost\r\nOrigin: {origin}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                 Authorization: Bearer {}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n",
                token(SECRET, "bob", None)
            )
        };
        assert!(setup.server.http(&upgrade("https://b.com")).starts_with("HTTP/1.1 403 "));
        setup.told("connect", &json!({"result": "origin"}));
        let mut page = RawPeer::connect(setup.server.address());
        page.upgrade(&upgrade("https://a.com"));
        page.send(&text_frame(br#"{"type":"hello"}"#));
        setup.told("hello", &json!({"result": "welcome", "user": "bob", "origin": "https://a.com"}));
        // What an operator does is told with who did it.
        setup.ctl(&["kick", "lobby", "bob"]);
        setup.told("kick", &json!({"by": "socket", "room": "lobby", "user": "bob"}));
        setup.ctl(&["disconnect", "bob"]);
        setup.told("disconnect", &json!({"by": "socket", "user": "bob"}));
        setup.told("close", &json!({"code": 4405, "user": "bob"}));
        setup.server.signal(Signal::HUP);
        setup.told("reload", &json!({}));
        setup.server.signal(Signal::TERM);
        setup.told("drain", &json!({"signal": 15}));
        // No line has a token, nor a part of one but its header, which all tokens share.
        let log = setup.server.log();
        for part in [&good, &bad].iter().flat_map(|token| token.split('.').skip(1)) {
            assert!(!log.contains(part), "{log}");
        }
        assert!(!log.contains(SECRET) && !log.contains("Bearer"), "{log}");
    }
}

#[test]
fn one_that_comes_again_and_again_is_a_line_and_then_a_sum() {
    let setup = Setup::start(1, CONFIG);
    let good = token(SECRET, "ann", None);
    for _ in 0..20 {
        let (client, welcome) = setup.hello(json!({"type": "hello", "token": good}));
        assert_eq!(welcome["type"], "welcome");
        drop(client);
    }
    for (event, result, user) in
        [("connect", "opened", json!(null)), ("hello", "welcome", json!("ann")), ("close", "gone", json!("ann"))]
    {
        let of = || setup.events(event).into_iter().filter(|line| line["result"] == result && line["user"] == user);
        // One that is told alone, or as many as a sum says.
        wait_until("all are told", || of().map(|line| line["more"].as_u64().unwrap_or(1)).sum::<u64>() == 20);
        assert!(of().count() <= 6, "a line and a sum each ten seconds: {:?}", of().collect::<Vec<_>>());
    }
}

#[test]
fn where_no_tokens_are_asked_for_users_are_told_all_the_same() {
    let setup = Setup::start(1, "log_format = 'json'");
    let (mut ann, _) = setup.hello(json!({"type": "hello", "user": "ann"}));
    setup.told("hello", &json!({"result": "welcome", "user": "ann", "session": null}));
    ann.join("lobby");
    drop(ann);
    setup.told("close", &json!({"result": "gone", "user": "ann"}));
}

#[test]
fn people_are_told_nothing_of_connections_unless_they_look_for_it() {
    for (log, is_told) in [("info", false), ("debug", true)] {
        let setup = Setup::start(1, &format!("log = '{log}'"));
        let (ann, _) = setup.hello(json!({"type": "hello", "user": "ann"}));
        drop(ann);
        if is_told {
            wait_until("the end is told", || setup.server.log().contains("a connection ended"));
        }
        wait_until("it has gone", || setup.server.metric("banter_connections") == 0);
        assert_eq!(setup.server.log().contains("a user came in"), is_told, "{}", setup.server.log());
    }
}

#[test]
fn whoever_ends_the_log_is_named_in_it() {
    let setup = Setup::start(1, CONFIG);
    setup.ctl(&["log-level", "off"]);
    setup.told("log_level", &json!({"by": "socket", "filter": "off"}));
    setup.ctl(&["log-level", "info"]);
    setup.told("log_level", &json!({"by": "socket", "filter": "info"}));
}
