//! End to end: what a backend does over HTTP with nothing but curl, and what it is refused.

use std::fs;
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use banter_access::api_key::{digest_of, write_digest};
use banter_tests::server_process::{ServerProcess, Start, run_to_end, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
/// A key that may do everything, one for games that may post and read, and one that may nothing but operate.
const KEYS: [(&str, &str, &str, &str); 3] = [
    ("all", "key-for-everything", "'post', 'read', 'moderate', 'operate'", "'*'"),
    ("game", "key-for-games", "'post', 'read'", "'game-*'"),
    ("ops", "key-for-operators", "'operate'", "'*'"),
];
const ALL: &str = "key-for-everything";
const GAME: &str = "key-for-games";

/// A folder with a configuration, a secret and a log.
struct Setup {
    folder: TempDir,
}

/// What curl was answered.
struct Answered {
    status: u16,
    headers: String,
    body: String,
}

impl Answered {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|fault| panic!("{fault}: {}", self.body))
    }

    fn code(&self) -> (u16, String) {
        (self.status, self.json()["error"]["code"].as_str().unwrap_or_default().to_owned())
    }
}

impl Setup {
    fn new(more: &str) -> Self {
        let setup = Setup { folder: tempfile::tempdir().expect("a folder") };
        fs::write(setup.path("secret"), SECRET).expect("a file");
        setup.write(more);
        setup
    }

    fn write(&self, more: &str) {
        let keys = KEYS.map(|(name, key, rights, rooms)| {
            let digest = write_digest(&digest_of(key));
            format!("[[admin.keys]]\nname = '{name}'\nsha256 = '{digest}'\nrights = [{rights}]\nrooms = [{rooms}]\n")
        });
        let config = format!(
            "{more}\n[auth]\nmode = 'token'\nsecret_file = '{}'\n[admin]\nlisten = '127.0.0.1:0'\nsocket = '{}'\n{}",
            self.path("secret").display(),
            self.path("admin.sock").display(),
            keys.concat(),
        );
        fs::write(self.path("banter.toml"), config).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn start(&self, cores: usize) -> Api {
        let (config, data) = (self.path("banter.toml"), self.path("data"));
        let flags = ["--config", config.to_str().expect("text")];
        let server = Start::new(cores, &flags).data(&data).run();
        let log = server.log();
        let address = log.split_once("backends are answered on http://").expect("the address is told").1;
        let address = address.split_whitespace().next().expect("an address").to_owned();
        Api { server, address, socket: self.path("admin.sock") }
    }
}

/// A server, and where its interface is.
struct Api {
    server: ServerProcess,
    address: String,
    socket: PathBuf,
}

impl Api {
    fn curl(&self, key: Option<&str>, method: &str, path: &str, args: &[&str]) -> Answered {
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--include", "--max-time", "60", "-X", method]);
        if let Some(key) = key {
            curl.arg("-H").arg(format!("Authorization: Bearer {key}"));
        }
        let output = curl.args(args).arg(format!("http://{}{path}", self.address)).output().expect("curl runs");
        answered(&output)
    }

    fn ask(&self, method: &str, path: &str, body: Value) -> Answered {
        self.curl(Some(ALL), method, path, &["-d", &body.to_string()])
    }

    fn read(&self, path: &str) -> Answered {
        self.curl(Some(ALL), "GET", path, &[])
    }

    fn over_socket(&self, method: &str, path: &str) -> Answered {
        let socket = self.socket.to_str().expect("text");
        let args = ["--silent", "--include", "--unix-socket", socket, "-X", method];
        answered(&Command::new("curl").args(args).arg(format!("http://banter{path}")).output().expect("curl runs"))
    }

    fn post(&self, room: &str, body: Value) -> Answered {
        self.ask("POST", &format!("/v1/rooms/{room}/messages"), body)
    }

    /// A client that came in with a token of the program.
    fn come_in(&self, setup: &Setup, user: &str) -> WireClient {
        let mut client = WireClient::connect(self.server.address(), Form::Json);
        let welcome = client.ask(json!({"type": "hello", "token": token(setup, user)}));
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        client
    }
}

fn answered(output: &std::process::Output) -> Answered {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    let (headers, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    // Behind a body that is sent only when it is asked for.
    let (headers, body) = match headers.contains(" 100 ") {
        true => body.split_once("\r\n\r\n").expect("another head"),
        false => (headers, body),
    };
    let status = headers.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Answered { status, headers: headers.to_lowercase(), body: body.to_owned() }
}

/// As the README makes one.
fn token(setup: &Setup, user: &str) -> String {
    let secret = setup.path("secret");
    let args =
        ["token", "--secret-file", secret.to_str().expect("text"), "--user", user, "--room", "*=member", "--ttl", "1h"];
    let (code, out, err) = run_to_end(&args);
    assert_eq!(code, 0, "{err}");
    out.lines().next().expect("a token").to_owned()
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs()
}

#[test]
fn the_walk_of_the_readme_with_nothing_but_curl() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let mut ann = api.come_in(&setup, "ann");
    ann.join("orders");
    // Post as the server, and post it again: the first place.
    let key = ["-H", "Idempotency-Key: order-17", "-d", r#"{"user":"shop","body":{"order":17}}"#];
    let first = api.curl(Some(ALL), "POST", "/v1/rooms/orders/messages", &key);
    assert_eq!((first.status, &first.json()["sequence"], &first.json()["duplicate"]), (200, &json!(1), &json!(false)));
    let message = ann.take_type("message");
    assert_eq!(
        (&message["user"], &message["body"], &message["key"]),
        (&json!("shop"), &json!({"order": 17}), &json!("order-17"))
    );
    let state = api.read("/v1/rooms/orders").json();
    assert_eq!((&state["head"], &state["members"], &state["readers"]), (&json!(1), &json!(1), &json!(1)), "{state}");
    assert_eq!(api.read("/v1/rooms/orders/members").json()["users"], json!(["ann"]));
    // The crash: the same post has the same place, and the same history is there.
    let Api { mut server, .. } = api;
    server.kill();
    let api = setup.start(2);
    let again = api.curl(Some(ALL), "POST", "/v1/rooms/orders/messages", &key).json();
    assert_eq!(
        (&again["sequence"], &again["epoch"], &again["duplicate"]),
        (&json!(1), &first.json()["epoch"], &json!(true))
    );
    let other = json!({"user": "shop", "body": 18, "key": "order-17"});
    assert_eq!(api.post("orders", other).code(), (409, "key_conflict".to_owned()));
    let page = api.read("/v1/rooms/orders/messages?limit=10").json();
    assert_eq!((&page["messages"][0]["body"], &page["more"]), (&json!({"order": 17}), &json!(false)), "{page}");
    // Kick, and revoke: the live connection is closed, and its token is refused from then on, also behind the next crash.
    let mut ann = api.come_in(&setup, "ann");
    ann.join("orders");
    assert_eq!(api.curl(Some(ALL), "DELETE", "/v1/rooms/orders/members/ann", &[]).status, 204);
    assert_eq!(ann.take_type("removed")["room"], "orders");
    let held = token(&setup, "ann");
    assert_eq!(api.ask("POST", "/v1/revocations", json!({"user": "ann"})).status, 200);
    let (events, ended) = ann.read_to_end();
    assert!(events.iter().any(|event| event["code"] == "revoked"), "{events:?}");
    assert_eq!(ended, Ended::Closed(4403));
    let refused = |api: &Api| {
        let mut client = WireClient::connect(api.server.address(), Form::Json);
        client.ask(json!({"type": "hello", "token": held}))["code"].clone()
    };
    assert_eq!(refused(&api), "revoked");
    let Api { mut server, .. } = api;
    server.kill();
    let api = setup.start(2);
    assert_eq!(refused(&api), "revoked");
    assert_eq!(api.read("/v1/revocations").json()["revocations"][0]["user"], "ann");
    assert_eq!(api.curl(Some(ALL), "DELETE", "/v1/revocations?user=ann", &[]).json()["lifted"], 1);
    api.come_in(&setup, "ann");
    // Reload, and drain.
    setup.write("log = 'warn'");
    let reloaded = api.curl(Some(ALL), "POST", "/v1/reload", &[]);
    assert_eq!(reloaded.json()["takes_effect"][0]["key"], "log", "{}", reloaded.body);
    assert_eq!(api.over_socket("POST", "/v1/drain").status, 202);
    let Api { mut server, .. } = api;
    assert!(server.wait(Duration::from_secs(30)).success());
}

#[test]
fn a_broadcast_says_of_each_room_what_became_of_it() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let rooms: Vec<String> = (0..1_000).map(|number| format!("game-{number}")).collect();
    let body = json!({"rooms": rooms, "user": "referee", "body": "start", "key": "match-1"});
    for is_repeated in [false, true] {
        let answer = api.ask("POST", "/v1/broadcast", body.clone());
        assert_eq!(answer.status, 200);
        let lines: Vec<Value> = answer.body.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert_eq!(lines.len(), 1_000);
        for (line, room) in lines.iter().zip(&rooms) {
            assert_eq!(
                (&line["room"], &line["sequence"], &line["duplicate"]),
                (&json!(room), &json!(1), &json!(is_repeated))
            );
        }
    }
    assert_eq!(api.ask("POST", "/v1/broadcast", json!({"rooms": ["game-1", ""], "user": "a", "body": 1})).status, 422);
    assert_eq!(api.read("/v1/rooms/game-1").json()["head"], 1, "of a broadcast that is refused nothing is said");
    let mut listed = 0;
    let mut cursor = json!(0);
    while !cursor.is_null() {
        let answer = api.read(&format!("/v1/rooms?prefix=game-1&limit=50&cursor={cursor}")).json();
        listed += answer["rooms"].as_array().expect("a list").len();
        cursor = answer["next"].clone();
    }
    assert_eq!(listed, 111, "game-1, game-10 to 19, game-100 to 199");
}

#[test]
fn who_comes_from_a_revoked_address_is_ended_and_kept_out_also_behind_a_crash_until_it_is_lifted() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let ann = api.come_in(&setup, "ann");
    assert_eq!(api.ask("POST", "/v1/revocations", json!({"address": "127.0.0.0/8"})).status, 200);
    let mut ann = ann;
    let (events, ended) = ann.read_to_end();
    assert_eq!(ended, Ended::Closed(4403), "{events:?}");
    let Api { mut server, .. } = api;
    server.kill();
    let api = setup.start(2);
    let mut client = WireClient::connect(api.server.address(), Form::Json);
    client.send(&json!({"type": "hello", "token": token(&setup, "ann")}).to_string());
    let (events, _) = client.read_to_end();
    assert!(events.iter().all(|event| event["type"] != "welcome"), "{events:?}");
    assert_eq!(api.curl(Some(ALL), "DELETE", "/v1/revocations?address=127.0.0.0/8", &[]).json()["lifted"], 1);
    api.come_in(&setup, "ann");
}

#[test]
fn members_beyond_the_first_hundred_are_told() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let clients: Vec<WireClient> = (0..120)
        .map(|number| {
            let mut client = api.come_in(&setup, &format!("user-{number:03}"));
            client.join("lobby");
            client
        })
        .collect();
    let first = api.read("/v1/rooms/lobby/members").json();
    assert_eq!((first["count"].as_u64(), first["users"].as_array().map(Vec::len)), (Some(120), Some(100)));
    let rest = api.read(&format!("/v1/rooms/lobby/members?after={}", first["next"].as_str().expect("more"))).json();
    assert_eq!((rest["users"].as_array().map(Vec::len), &rest["next"]), (Some(20), &Value::Null));
    drop(clients);
}

#[test]
fn the_connections_of_a_user_are_told_over_all_cores() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let mut clients: Vec<WireClient> = Form::ALL
        .into_iter()
        .map(|form| {
            let mut client = WireClient::connect(api.server.address(), form);
            let welcome = client.ask(json!({"type": "hello", "token": token(&setup, "ann")}));
            assert_eq!(welcome["type"], "welcome", "{welcome}");
            client.join(&format!("game-{form:?}"));
            client
        })
        .collect();
    clients[0].join("lobby");
    let bob = api.come_in(&setup, "bob");
    let told = api.read("/v1/users/ann");
    assert_eq!(told.status, 200);
    let told = told.json();
    assert_eq!((&told["user"], &told["count"], &told["more"]), (&json!("ann"), &json!(3), &json!(false)));
    let of = |at: usize, key: &str| told["connections"][at][key].clone();
    let forms: Vec<Value> = (0..3).map(|at| of(at, "form")).collect();
    assert_eq!(forms, [json!("json"), json!("rkyv"), json!("native")], "the oldest first: {told}");
    assert_eq!(of(0, "rooms"), json!(["game-Json", "lobby"]));
    assert_eq!((of(0, "rooms_count"), of(0, "more_rooms")), (json!(2), json!(false)));
    assert_eq!((of(2, "rooms_behind"), of(2, "address")), (json!(0), json!("127.0.0.1")));
    let since_ms = of(0, "since_ms").as_u64().expect("a time");
    assert!((now_seconds() - 60..=now_seconds()).contains(&(since_ms / 1_000)), "{since_ms}");
    // Who is there, and how busy, is nothing for a key that is for some rooms.
    assert_eq!(api.curl(Some(GAME), "GET", "/v1/users/ann", &[]).status, 403);
    assert_eq!(api.curl(Some("key-for-operators"), "GET", "/v1/users/ann", &[]).status, 403);
    let nobody = api.read("/v1/users/nobody");
    assert_eq!((nobody.status, nobody.json()["connections"].clone()), (200, json!([])));
    assert_eq!(api.read(&format!("/v1/users/{}", "x".repeat(65))).status, 422);
    assert_eq!(api.over_socket("GET", "/v1/users/bob").json()["count"], 1);
    // Those that are ended are told no more.
    assert_eq!(api.curl(Some(ALL), "POST", "/v1/users/ann/disconnect", &[]).status, 204);
    wait_until("they are gone", || api.read("/v1/users/ann").json()["count"] == 0);
    drop(bob);
}

#[test]
fn who_may_not_is_refused_and_changes_nothing() {
    let setup = Setup::new("");
    let api = setup.start(1);
    let say = ["-d", r#"{"user":"a","body":1}"#];
    for key in [None, Some("wrong"), Some("")] {
        assert_eq!(api.curl(key, "POST", "/v1/rooms/game-1/messages", &say).code(), (401, "unauthorized".to_owned()));
        assert_eq!(api.curl(key, "POST", "/v1/drain", &[]).status, 401);
    }
    assert_eq!(api.curl(Some(GAME), "POST", "/v1/rooms/lobby/messages", &say).code(), (403, "forbidden".to_owned()));
    assert_eq!(api.curl(Some(GAME), "POST", "/v1/rooms/game-1/messages", &say).status, 200);
    let many = ["-d", r#"{"rooms":["game-1","lobby"],"user":"a","body":1}"#];
    assert_eq!(api.curl(Some(GAME), "POST", "/v1/broadcast", &many).status, 403);
    assert_eq!(api.read("/v1/rooms/game-1").json()["head"], 1);
    assert_eq!(api.read("/v1/rooms/lobby").status, 404);
    for (method, path) in [
        ("POST", "/v1/drain"),
        ("POST", "/v1/reload"),
        ("GET", "/v1/metrics"),
        ("GET", "/v1/status"),
        ("GET", "/v1/log-level"),
        ("GET", "/v1/revocations"),
        ("DELETE", "/v1/revocations?user=a"),
        ("POST", "/v1/users/a/disconnect"),
        ("DELETE", "/v1/rooms/game-1/members/a"),
    ] {
        assert_eq!(api.curl(Some(GAME), method, path, &[]).status, 403, "{method} {path}");
    }
    let quiet = api.curl(Some(GAME), "POST", "/v1/log-level", &["-d", r#"{"filter":"off"}"#]);
    assert_eq!(quiet.status, 403);
    let in_query = api.curl(None, "GET", &format!("/v1/rooms/game-1?key={ALL}"), &[]);
    assert_eq!(in_query.status, 401, "a key in a query is none");
    assert!(!api.server.log().contains(ALL), "no key in the log");
}

#[test]
fn what_cannot_be_read_is_told_with_a_status() {
    let setup = Setup::new("");
    let api = setup.start(1);
    let messages = "/v1/rooms/lobby/messages";
    for (body, status) in [
        ("", 400),
        ("{", 400),
        (r#"{"user":"a"}"#, 400),
        (r#"{"user":"a","body":1,"body_base64":"AA=="}"#, 400),
        (r#"{"user":"a","body_base64":"A"}"#, 400),
        (r#"{"user":"a","body":1,"bodi":1}"#, 400),
        (r#"{"user":"","body":1}"#, 422),
        (r#"{"user":"a","body":1,"key":""}"#, 422),
        (r#"{"user":"a","body":1,"key":"k"}"#, 200),
        (r#"{"user":"a","body":null}"#, 200),
        (r#" ["a",1]"#, 400),
    ] {
        let answer = api.curl(Some(ALL), "POST", messages, &["-d", body]);
        assert_eq!(answer.status, status, "{body}: {}", answer.body);
    }
    let deep = format!(r#"{{"user":"a","body":{}1{}}}"#, "[".repeat(65), "]".repeat(65));
    assert_eq!(api.curl(Some(ALL), "POST", messages, &["-d", &deep]).status, 400);
    for bytes in [70_000, 1_200_000] {
        let file = setup.path("large");
        fs::write(&file, format!(r#"{{"user":"a","body":"{}"}}"#, "x".repeat(bytes))).expect("a file");
        let large = format!("@{}", file.display());
        let answer = api.curl(Some(ALL), "POST", messages, &["--data-binary", &large]);
        assert_eq!(answer.code(), (413, "frame_too_large".to_owned()));
    }
    assert_eq!(api.read("/v1/rooms/lobby/messages?before=1&after=1").status, 400);
    assert_eq!(api.read("/v1/rooms/lobby/messages?befor=1").status, 400);
    for list in ["rooms", "rooms/lobby/messages", "rooms/lobby/members"] {
        assert_eq!(api.read(&format!("/v1/{list}?limit=0")).status, 422, "{list}");
        assert_eq!(api.read(&format!("/v1/{list}?limit=5000")).status, 200, "{list}");
    }
    // What would make a post safe to repeat is taken whole or not at all.
    let said = r#"{"user":"a","body":1}"#;
    let twice = ["-H", "Idempotency-Key: a", "-H", "Idempotency-Key: b", "-d", said];
    assert_eq!(api.curl(Some(ALL), "POST", messages, &twice).status, 400);
    assert_eq!(api.curl(Some(ALL), "POST", &format!("{messages}?key=a"), &["-d", said]).status, 400);
    assert_eq!(api.read(&format!("/v1/rooms/{}", "x".repeat(129))).status, 422);
    assert_eq!(api.read("/v1/nothing").code(), (404, "not_found".to_owned()));
    assert_eq!(api.curl(Some(ALL), "PUT", messages, &[]).code(), (405, "method_not_allowed".to_owned()));
    let millis = json!({"user": "ann", "until": now_seconds() * 1_000_000});
    assert_eq!(api.ask("POST", "/v1/revocations", millis).status, 422);
    assert_eq!(api.ask("POST", "/v1/revocations", json!({"user": "ann", "token": "t"})).status, 400);
    assert_eq!(api.ask("POST", "/v1/revocations", json!({"address": "300.0.0.1"})).status, 422);
}

#[test]
fn a_key_that_asks_too_often_waits() {
    let setup = Setup::new("");
    let text = fs::read_to_string(setup.path("banter.toml")).expect("a file");
    fs::write(setup.path("banter.toml"), text.replace("[admin]\n", "[admin]\napi_requests_per_second_max = 1\n"))
        .expect("a file");
    let api = setup.start(1);
    let mut refused = None;
    wait_until("a request comes too soon behind another", || {
        refused = Some(api.read("/v1/rooms/lobby")).filter(|answer| answer.status == 429);
        refused.is_some()
    });
    let refused = refused.expect("a refusal");
    assert_eq!(refused.code(), (429, "rate_limited".to_owned()));
    assert!(refused.headers.contains("\r\nretry-after: 1"), "{}", refused.headers);
}

#[test]
fn the_socket_is_its_owners_alone_and_needs_no_key() {
    use std::os::unix::fs::PermissionsExt as _;
    let setup = Setup::new("");
    let api = setup.start(1);
    let mode = fs::metadata(&api.socket).expect("the socket").permissions().mode();
    assert_eq!(mode & 0o077, 0, "{mode:o}");
    assert_eq!(api.over_socket("GET", "/v1/revocations").json()["count"], 0);
    assert!(api.over_socket("GET", "/v1/metrics").body.contains("banter_connections"));
    assert!(
        api.server.http("GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 404"),
        "not for everybody"
    );
    assert_eq!(api.over_socket("GET", "/healthz").body, "ok\n");
    assert_eq!(api.over_socket("GET", "/readyz").status, 200);
    // A second server does not take the socket of one that lives, and a later one takes what a crash left.
    let Api { mut server, .. } = api;
    server.kill();
    assert_eq!(setup.start(1).over_socket("GET", "/healthz").status, 200);
}

#[test]
fn what_is_described_is_what_is_served() {
    let setup = Setup::new("");
    let api = setup.start(1);
    let served = api.curl(None, "GET", "/openapi.json", &[]);
    let kept = include_str!("../../docs/openapi.json");
    assert!(served.body == kept, "docs/openapi.json is another: take what the server serves at /openapi.json");
    let paths = served.json()["paths"].as_object().expect("paths").clone();
    for (path, methods) in &paths {
        for method in methods.as_object().expect("methods").keys() {
            let path = path.replace("{room}", "lobby").replace("{user}", "ann");
            let answer = api.curl(None, &method.to_uppercase(), &path, &[]);
            assert_eq!(answer.status, 401, "{method} {path} is there, and asks for a key");
        }
    }
}

#[test]
fn requests_that_never_end_keep_no_client_and_no_socket_waiting() {
    let setup = Setup::new("");
    let api = setup.start(2);
    let mut ann = api.come_in(&setup, "ann");
    ann.join("lobby");
    let head = format!(
        "POST /v1/rooms/lobby/messages HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer {ALL}\r\nContent-Length: 9\r\n\r\n"
    );
    let hanging: Vec<TcpStream> = (0..1_000)
        .map(|number| {
            use std::io::Write as _;
            let mut stream = TcpStream::connect(&api.address).expect("a connection");
            // Without a body, and some without all of the head.
            let said = if number % 4 == 0 { head.len() / 2 } else { head.len() };
            stream.write_all(&head.as_bytes()[..said]).expect("it is sent");
            stream
        })
        .collect();
    for form in Form::ALL {
        let mut bob = WireClient::connect(api.server.address(), form);
        assert_eq!(bob.ask(json!({"type": "hello", "token": token(&setup, "bob")}))["type"], "welcome", "{form:?}");
        bob.join("lobby");
        assert_eq!(bob.post("lobby", json!(form as u8))["type"], "posted", "{form:?}");
        assert_eq!(ann.take_type("message")["user"], "bob", "{form:?}");
    }
    wait_until("the bound is reached", || api.read("/v1/revocations").status == 503);
    assert_eq!(api.over_socket("GET", "/v1/revocations").status, 200, "the operator gets in all the same");
    assert_eq!(ann.post("lobby", json!(2))["type"], "posted");
    drop(hanging);
    wait_until("those who went are forgotten", || api.read("/v1/revocations").status == 200);
}
