//! End to end: who comes in without a token where the server lets guests in, what he may do there, and how he goes.

use std::fs;
use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::admin_socket;
use banter_tests::raw_peer::{RawPeer, UPGRADE, server_frames, text_frame};
use banter_tests::server_process::{PATIENCE, ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use rustix::net::{AddressFamily, SocketType, bind, connect, socket};
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
/// What users and guests have in the rooms of these tests.
const ROOMS: &str = "[[rooms]]\nmatch = 'news'\nusers = ['member']\nguests = ['read']\n\
                     [[rooms]]\nmatch = 'staff'\nusers = ['member']\n\
                     [[rooms]]\nmatch = 'open-*'\nusers = ['member']\nguests = ['member']\n";

/// A server, and what it reads.
struct Setup {
    folder: TempDir,
    server: Option<ServerProcess>,
}

impl Setup {
    /// With guests, and that at the top, in `[auth]` and behind the rooms.
    fn start(cores: usize, top: &str, auth: &str, more: &str) -> Self {
        let mut setup = Setup { folder: TempDir::new().expect("a folder"), server: None };
        fs::write(setup.path("secret"), SECRET).expect("a file");
        setup.write(top, &format!("guests = true\n{auth}"), more);
        let config = setup.path("banter.toml");
        let flags = ["--durability", "memory", "--config", config.to_str().expect("text")];
        setup.server = Some(ServerProcess::start(cores, &flags));
        setup
    }

    fn write(&self, top: &str, auth: &str, more: &str) {
        let (secret, socket) = (self.path("secret"), self.path("admin.sock"));
        let (secret, socket) = (secret.display(), socket.display());
        let config = format!(
            "{top}\n[auth]\nmode = 'token'\nsecret_file = '{secret}'\n{auth}\n[admin]\nsocket = '{socket}'\n{ROOMS}{more}"
        );
        fs::write(self.path("banter.toml"), config).expect("a file");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn server(&self) -> &ServerProcess {
        self.server.as_ref().expect("it was started")
    }

    fn address(&self) -> SocketAddr {
        self.server().address()
    }

    /// Asks the interface for backends, and gives the status and the body.
    fn operate(&self, method: &str, path: &str, body: &Value) -> (u16, String) {
        let told = admin_socket::ask(&self.path("admin.sock"), method, path, body);
        (told.status, told.body)
    }

    fn metric_of(&self, family: &str, limit: &str) -> u64 {
        let (status, text) = self.operate("GET", "/v1/metrics", &Value::Null);
        assert_eq!(status, 200);
        let label = format!("limit=\"{limit}\"");
        let lines = text.lines().filter(|line| line.starts_with(family) && (limit.is_empty() || line.contains(&label)));
        lines.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    }

    fn guest(&self, form: Form) -> (WireClient, String) {
        let mut client = WireClient::connect(self.address(), form);
        let welcome = client.ask(json!({"type": "hello"}));
        assert_eq!(welcome["type"], "welcome", "{welcome}");
        (client, welcome["user"].as_str().expect("a name").to_owned())
    }

    fn user(&self, user: &str) -> WireClient {
        let mut client = WireClient::connect(self.address(), Form::Json);
        let welcome = client.ask(json!({"type": "hello", "token": token(user)}));
        assert_eq!(welcome["user"], user, "{welcome}");
        client
    }
}

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs();
    let rooms = vec![(Pattern::new("mine").expect("a pattern"), Rights::MEMBER)];
    let claims = ClaimsToMint { rooms, ..ClaimsToMint::new(user, now, now + 600) };
    mint(&SigningKey::from_secret(SECRET.as_bytes()).expect("a key"), &claims).expect("a token")
}

/// What an ask is answered: the event's type, or the code of the refusal.
fn answer(client: &mut WireClient, ask: Value) -> String {
    let answer = client.ask(ask);
    let text = if answer["type"] == "error" { &answer["code"] } else { &answer["type"] };
    text.as_str().expect("a text").to_owned()
}

fn closed(form: Form, code: u16) -> Ended {
    if form == Form::Native { Ended::Eof } else { Ended::Closed(code) }
}

#[test]
fn who_shows_nothing_gets_a_name_and_what_guests_have_and_no_more() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "", "", "");
        let mut ann = setup.user("ann");
        ann.join("open-1");
        ann.join("news");
        for form in Form::ALL {
            let mut client = WireClient::connect(setup.address(), form);
            let welcome = client.ask(json!({"type": "hello"}));
            let name = welcome["user"].as_str().expect("a name").to_owned();
            assert!(name.starts_with("~g") && name.len() == 14 && welcome["expires_in_ms"].is_null(), "{welcome}");
            let (_other, others) = setup.guest(form);
            assert_ne!(name, others);
            client.join("open-1");
            client.post("open-1", json!("hello"));
            assert_eq!(ann.take_type("message")["user"], json!(name), "{form:?}");
            let there = client.ask(json!({"type": "members", "room": "open-1"}));
            assert_eq!(there["users"], json!(["ann", name]), "{form:?}");
            client.join("news");
            ann.post("news", json!("for all"));
            assert_eq!(client.take("the news", |event| event["room"] == "news")["body"], "for all");
            for ask in [
                json!({"type": "post", "room": "news", "body": 1}),
                json!({"type": "fetch", "room": "news", "after": 0}),
                json!({"type": "members", "room": "news"}),
                json!({"type": "join", "room": "staff"}),
                json!({"type": "join", "room": "mine"}),
                json!({"type": "join", "room": "news", "last": 5}),
            ] {
                assert_eq!(answer(&mut client, ask.clone()), "forbidden", "{ask}, {form:?}");
            }
            client.ask(json!({"type": "leave", "room": "open-1"}));
            drop(client);
            ann.take("its own", |event| event["room"] == "news");
        }
    }
}

#[test]
fn nobody_names_himself_and_a_token_that_is_shown_has_to_hold() {
    let setup = Setup::start(1, "", "", "");
    for form in Form::ALL {
        for hello in [
            json!({"type": "hello", "user": "ann"}),
            json!({"type": "hello", "user": "~gabcdefghijkl"}),
            json!({"type": "hello", "token": "a.b.c"}),
        ] {
            let mut client = WireClient::connect(setup.address(), form);
            (0..3).for_each(|_| client.send(&hello.to_string()));
            let (events, ended) = client.read_to_end();
            let codes: Vec<_> = events.iter().map(|event| event["code"].as_str().unwrap_or_default()).collect();
            assert_eq!((codes, ended), (vec!["unauthorized"; 3], closed(form, 4_401)), "{hello}, {form:?}");
            // Once refused is not for good.
            let mut client = WireClient::connect(setup.address(), form);
            assert_eq!(answer(&mut client, hello.clone()), "unauthorized");
            assert_eq!(answer(&mut client, json!({"type": "hello"})), "welcome");
        }
    }
}

#[test]
fn a_guest_takes_no_token_and_another_connection_makes_it_a_user() {
    let setup = Setup::start(1, "", "", "");
    for form in Form::ALL {
        let (mut client, _) = setup.guest(form);
        for _ in 0..4 {
            assert_eq!(answer(&mut client, json!({"type": "renew", "token": token("ann")})), "forbidden");
            let join = json!({"type": "join", "room": "mine", "token": token("ann")});
            assert_eq!(answer(&mut client, join), "forbidden", "{form:?}");
        }
        assert_eq!(answer(&mut client, json!({"type": "hello", "token": token("ann")})), "bad_request");
        client.join("news");
        let mut client = WireClient::connect(setup.address(), form);
        assert_eq!(client.ask(json!({"type": "hello", "token": token("ann")}))["user"], "ann");
        client.join("mine");
    }
}

#[test]
fn an_upgrade_without_a_token_is_a_guests_and_with_one_it_is_a_users() {
    let setup = Setup::start(1, "", "cookie = 'chat'\norigins = ['https://app.example.com']", "");
    let named = "Origin: https://app.example.com\r\n";
    let hello = |lines: &str| {
        let mut peer = RawPeer::connect(setup.address());
        peer.upgrade(&UPGRADE.replace("Host: banter.test\r\n", &format!("Host: banter.test\r\n{lines}")));
        peer.send(&text_frame(br#"{"type":"hello","id":1}"#));
        peer.send(&[0x88, 0x80, 0, 0, 0, 0]);
        let frames = server_frames(&peer.read_to_end());
        serde_json::from_slice::<Value>(&frames[0].payload).expect("JSON")
    };
    for lines in ["", named, &format!("{named}Cookie: other=1; chat=\r\n")] {
        let welcome = hello(lines);
        assert!(welcome["user"].as_str().is_some_and(|user| user.starts_with("~g")), "{lines}: {welcome}");
    }
    for lines in
        [format!("{named}Cookie: chat={}\r\n", token("ann")), format!("Authorization: Bearer {}\r\n", token("ann"))]
    {
        assert_eq!(hello(&lines)["user"], "ann", "{lines}");
    }
    // One that proves nothing makes nobody a guest.
    assert_eq!(hello("Authorization: Bearer a.b.c\r\n")["code"], "unauthorized");
}

#[test]
fn guests_have_so_many_places_and_give_them_back() {
    for &cores in core_counts() {
        let limit = "guests_max";
        let setup = Setup::start(cores, "", "", &format!("[limits]\n{limit} = {}", 2 * cores));
        for form in Form::ALL {
            let mut guests = Vec::new();
            let (mut client, refused) = loop {
                let mut client = WireClient::connect(setup.address(), form);
                let first = client.ask(json!({"type": "hello"}));
                if first["type"] != "welcome" {
                    break (client, first);
                }
                guests.push(client);
            };
            // Each core has its share.
            assert!((2..=2 * cores).contains(&guests.len()), "{} were let in", guests.len());
            assert_eq!((&refused["code"], &refused["scope"]), (&json!("overloaded"), &json!("server")), "{refused}");
            assert!(refused["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{refused}");
            assert_eq!(client.read_to_end().1, closed(form, 1_013), "{form:?}");
            setup.user("ann");
            assert_eq!(guests[0].ask(json!({"type": "ping"}))["type"], "pong", "who is there stays");
            assert_eq!(setup.metric_of("banter_guests", ""), guests.len() as u64);
            assert!(setup.metric_of("banter_limited_total", limit) >= 1);
            drop(guests);
            wait_until("their places are free", || setup.metric_of("banter_guests", "") == 0);
        }
    }
}

#[test]
fn a_limit_of_guests_that_is_tried_dry_or_changed_by_a_reload_goes_by_that() {
    let (limits, dry) = (
        "[limits]\nguests_max = 1\nguest_posts_per_second_max = 1",
        "limits_dry_run = ['guests_max', \
                         'guest_posts_per_second_max']",
    );
    let setup = Setup::start(1, dry, "", limits);
    let mut guests: Vec<_> = (0..3).map(|_| setup.guest(Form::Json).0).collect();
    guests[0].join("open-1");
    (0..5).for_each(|body| drop(guests[0].post("open-1", json!(body))));
    assert_eq!(setup.metric_of("banter_limited_dry_run_total", "guests_max"), 2);
    assert!(setup.metric_of("banter_limited_dry_run_total", "guest_posts_per_second_max") >= 1);
    setup.write("", "guests = true", limits);
    assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).0, 200);
    let mut late = WireClient::connect(setup.address(), Form::Json);
    assert_eq!(late.ask(json!({"type": "hello"}))["code"], "overloaded");
    let answers: Vec<_> = (0..5).map(|_| guests[0].ask(json!({"type": "post", "room": "open-1", "body": 1}))).collect();
    let refused = answers.iter().find(|answer| answer["code"] == "rate_limited").expect("a refusal");
    assert_eq!(refused["scope"], "connection");
    assert!(refused["message"].as_str().is_some_and(|text| text.contains("guest_posts_per_second_max")), "{refused}");
    assert!((1..=1_000).contains(&refused["retry_after_ms"].as_u64().expect("when to try again")), "{refused}");
    // Who has a token posts as fast as it likes.
    let mut ann = setup.user("ann");
    ann.join("open-1");
    (0..20).for_each(|body| drop(ann.post("open-1", json!(body))));
}

#[test]
fn a_guest_is_neither_a_failure_of_its_address_nor_one_that_did_not_say_who_it_is() {
    let proxy = "127.0.0.2";
    let top = format!("proxy_protocol = true\ntrusted_proxies = ['{proxy}']");
    let limits = "[limits]\nauth_failures_per_minute_per_ip_max = 3\nconnections_unproved_max = 2";
    let setup = Setup::start(1, &top, "", limits);
    let visit = |form| {
        let socket = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        bind(&socket, &SocketAddr::new(proxy.parse().expect("an address"), 0)).expect("an address of loopback");
        connect(&socket, &setup.address()).expect("the server accepts");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
        write!(stream, "PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n").expect("the server takes bytes");
        WireClient::over(stream, form)
    };
    let mut guests: Vec<WireClient> = Vec::new();
    for form in Form::ALL.into_iter().cycle().take(12) {
        let mut client = visit(form);
        assert_eq!(client.ask(json!({"type": "hello"}))["type"], "welcome", "{form:?}");
        guests.push(client);
    }
    assert_eq!(setup.metric_of("banter_limited_total", "auth_failures_per_minute_per_ip_max"), 0);
    assert_eq!(setup.metric_of("banter_limited_total", "connections_unproved_max"), 0);
    // Who names himself without a token is one.
    for _ in 0..3 {
        assert_eq!(visit(Form::Native).ask(json!({"type": "hello", "user": "ann"}))["code"], "unauthorized");
    }
    assert_eq!(visit(Form::Native).next_event()["code"], "rate_limited");
}

#[test]
fn a_guest_is_kicked_disconnected_and_revoked_by_its_name() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "", "", "");
        for form in Form::ALL {
            let (mut kicked, name) = setup.guest(form);
            kicked.join("open-1");
            assert_eq!(setup.operate("DELETE", &format!("/v1/rooms/open-1/members/{name}"), &Value::Null).0, 204);
            assert_eq!(kicked.take_type("removed")["code"], "kicked");
            kicked.join("open-1");
            assert_eq!(setup.operate("POST", &format!("/v1/users/{name}/disconnect"), &Value::Null).0, 204);
            let (events, ended) = kicked.read_to_end();
            assert_eq!((&events.last().expect("a word")["code"], ended), (&json!("kicked"), closed(form, 4_405)));
            let (mut revoked, name) = setup.guest(form);
            let (mut stays, _) = setup.guest(form);
            assert_eq!(setup.operate("POST", "/v1/revocations", &json!({"user": name})).0, 200);
            let (events, ended) = revoked.read_to_end();
            assert_eq!((&events.last().expect("a word")["code"], ended), (&json!("revoked"), closed(form, 4_403)));
            assert_eq!(answer(&mut stays, json!({"type": "ping"})), "pong", "{form:?}");
        }
    }
}

#[test]
fn a_backend_may_speak_as_a_guest() {
    let setup = Setup::start(1, "", "", "");
    let (mut guest, name) = setup.guest(Form::Json);
    guest.join("news");
    let body = json!({"user": name, "body": "said for it"});
    assert_eq!(setup.operate("POST", "/v1/rooms/news/messages", &body).0, 200);
    assert_eq!(guest.take_type("message")["user"], json!(name));
}

#[test]
fn guests_come_and_go_with_the_file_and_nobody_is_closed_by_it() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "", "", "");
        let (mut guest, _) = setup.guest(Form::Native);
        let mut ann = setup.user("ann");
        for client in [&mut guest, &mut ann] {
            client.join("news");
        }
        setup.write("", "guests = false", "");
        let (status, changes) = setup.operate("POST", "/v1/reload", &Value::Null);
        assert!(status == 200 && changes.contains("auth.guests"), "{changes}");
        assert_eq!(guest.take_type("removed"), json!({"type": "removed", "room": "news", "code": "forbidden"}));
        assert_eq!(answer(&mut guest, json!({"type": "join", "room": "open-1"})), "forbidden");
        assert_eq!(answer(&mut guest, json!({"type": "ping"})), "pong");
        let mut late = WireClient::connect(setup.address(), Form::Json);
        assert_eq!(answer(&mut late, json!({"type": "hello"})), "unauthorized");
        ann.post("news", json!("still here"));
        setup.write("", "guests = true", "");
        assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).0, 200);
        assert_eq!(answer(&mut late, json!({"type": "hello"})), "welcome");
        wait_until("the guest may read again", || {
            answer(&mut guest, json!({"type": "join", "room": "news"})) == "joined"
        });
    }
}

#[test]
fn the_page_knows_how_it_gets_in_and_the_log_for_machines_tells_of_guests() {
    let setup = Setup::start(1, "log_format = 'json'", "", "");
    let page = |door: &str| {
        let page = setup.server().http("GET / HTTP/1.1\r\nHost: h\r\n\r\n");
        assert!(page.starts_with("HTTP/1.1 200 ") && page.contains(&format!("data-door=\"{door}\"")), "{door}");
        assert!(page.trim_end().ends_with("</html>"), "whole, by the length that it says");
    };
    page("guests");
    let (_guest, name) = setup.guest(Form::Json);
    setup.user("ann");
    let hellos = || -> Vec<Value> {
        let log = setup.server().log();
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
        lines.filter(|line| line["event"] == "hello").collect()
    };
    wait_until("both are told", || hellos().len() == 2);
    let told = &hellos()[0];
    assert_eq!((&told["result"], &told["user"]), (&json!("guest"), &json!(name)), "{told}");
    assert_eq!(told["address"], "127.0.0.1");
    setup.write("log_format = 'json'", "guests = false", "");
    setup.server().signal(Signal::HUP);
    wait_until("it is read", || setup.server().log().contains("auth.guests"));
    page("token");
    let open = ServerProcess::start(1, &["--durability", "memory"]);
    let mut client = WireClient::connect(open.address(), Form::Json);
    assert_eq!(answer(&mut client, json!({"type": "hello"})), "bad_request", "where nothing is asked for a name is");
}
