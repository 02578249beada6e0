//! End to end: who comes in where the server asks for tokens, what he may do there, and when that ends.

use std::fs;
use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint, mint_raw};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::server_process::{ServerProcess, core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
const OTHER_SECRET: &str = "another secret of more than thirty-two bytes";
/// As `banter_access::token::LEEWAY_SECONDS`.
const LEEWAY_SECONDS: u64 = 5;

/// A folder with a secret and a configuration.
struct Setup {
    folder: TempDir,
}

impl Setup {
    fn new(auth: &str, rooms: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let secret = folder.path().join("secret");
        fs::write(&secret, format!("{SECRET}\n")).expect("a file");
        let config = format!("[auth]\nmode = 'token'\nsecret_file = '{}'\n{auth}\n{rooms}", secret.display());
        fs::write(folder.path().join("banter.toml"), config).expect("a file");
        Setup { folder }
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("banter.toml")
    }

    fn start(&self, cores: usize) -> ServerProcess {
        let config = self.config();
        ServerProcess::start(cores, &["--durability", "memory", "--config", config.to_str().expect("text")])
    }
}

fn now_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs()
}

fn claims(user: &str, rooms: &[(&str, Rights)]) -> ClaimsToMint {
    let grant = |&(pattern, rights): &(&str, Rights)| (Pattern::new(pattern).expect("a pattern"), rights);
    let now = now_seconds();
    ClaimsToMint { rooms: rooms.iter().map(grant).collect(), ..ClaimsToMint::new(user, now, now + 600) }
}

fn signed(secret: &str, claims: &ClaimsToMint) -> String {
    let key = SigningKey::from_secret(secret.as_bytes()).expect("a key");
    mint(&key, claims).expect("a token")
}

fn token(user: &str, rooms: &[(&str, Rights)]) -> String {
    signed(SECRET, &claims(user, rooms))
}

fn come_in(server: &ServerProcess, form: Form, token: &str) -> WireClient {
    let mut client = WireClient::connect(server.address(), form);
    let welcome = client.ask(json!({"type": "hello", "token": token}));
    assert_eq!(welcome["type"], "welcome", "{welcome}");
    client
}

/// What an ask is answered: the event's type, or the code of the refusal.
fn answer(client: &mut WireClient, ask: Value) -> String {
    let answer = client.ask(ask);
    let text = if answer["type"] == "error" { &answer["code"] } else { &answer["type"] };
    text.as_str().expect("a text").to_owned()
}

#[test]
fn who_has_a_token_is_who_it_says_until_it_ends() {
    let setup = Setup::new("", "");
    for &cores in core_counts() {
        let server = setup.start(cores);
        for form in Form::ALL {
            for named in [json!({}), json!({"user": "ann"})] {
                let mut client = WireClient::connect(server.address(), form);
                let mut hello = json!({"type": "hello", "token": token("ann", &[("lobby", Rights::MEMBER)])});
                hello.as_object_mut().expect("an object").extend(named.as_object().expect("an object").clone());
                let welcome = client.ask(hello);
                assert_eq!((&welcome["type"], &welcome["user"]), (&json!("welcome"), &json!("ann")), "{welcome}");
                let expires_in_ms = welcome["expires_in_ms"].as_u64().expect("a number");
                assert!((500_000..=600_000).contains(&expires_in_ms), "{expires_in_ms}");
                client.join("lobby");
                assert_eq!(client.post("lobby", json!("hello"))["type"], "posted");
                assert_eq!(client.take_type("message")["user"], "ann");
            }
        }
    }
}

#[test]
fn what_proves_nothing_is_refused_and_a_third_time_closes() {
    let setup = Setup::new("issuer = 'us'\naudience = 'chat'", "");
    let server = setup.start(1);
    let good = ClaimsToMint {
        issuer: Some("us".to_owned()),
        audience: Some("chat".to_owned()),
        ..claims("ann", &[("*", Rights::MEMBER)])
    };
    let now = now_seconds();
    let with = |change: &dyn Fn(&mut ClaimsToMint)| {
        let mut claims = good.clone();
        change(&mut claims);
        signed(SECRET, &claims)
    };
    let key = SigningKey::from_secret(SECRET.as_bytes()).expect("a key");
    let payload = format!("{{\"sub\":\"ann\",\"iss\":\"us\",\"aud\":\"chat\",\"iat\":{now},\"exp\":{}}}", now + 60);
    let headed = |header: &str| mint_raw(&key, header, &payload).expect("a token");
    let unsigned = headed("{\"alg\":\"none\"}");
    let unsigned = format!("{}.", unsigned.rsplit_once('.').expect("a token").0);
    let long = "x".repeat(4_097);
    for (name, hello, code) in [
        ("no token", json!({"user": "ann"}), "unauthorized"),
        ("no token's form", json!({"token": "abc"}), "unauthorized"),
        ("too long", json!({"token": long}), "unauthorized"),
        ("another key", json!({"token": signed(OTHER_SECRET, &good)}), "unauthorized"),
        ("no algorithm", json!({"token": unsigned}), "unauthorized"),
        ("no algorithm, and signed", json!({"token": headed("{\"alg\":\"none\"}")}), "unauthorized"),
        ("another algorithm", json!({"token": headed("{\"alg\":\"RS256\"}")}), "unauthorized"),
        ("must be understood", json!({"token": headed("{\"alg\":\"HS256\",\"crit\":[\"b64\"]}")}), "unauthorized"),
        ("brings its key", json!({"token": headed("{\"alg\":\"HS256\",\"jku\":\"https://e.com\"}")}), "unauthorized"),
        ("for something else", json!({"token": headed("{\"alg\":\"HS256\",\"typ\":\"dpop+jwt\"}")}), "unauthorized"),
        ("ended", json!({"token": with(&|it| it.expires_seconds = now - 60)}), "expired"),
        ("not yet", json!({"token": with(&|it| it.not_before_seconds = Some(now + 60))}), "unauthorized"),
        ("made ahead", json!({"token": with(&|it| it.issued_seconds = now + 60)}), "unauthorized"),
        ("for too long", json!({"token": with(&|it| it.expires_seconds = now + 90_000)}), "unauthorized"),
        ("another issuer", json!({"token": with(&|it| it.issuer = Some("them".to_owned()))}), "unauthorized"),
        ("for others", json!({"token": with(&|it| it.audience = Some("mail".to_owned()))}), "unauthorized"),
        ("for nobody", json!({"token": with(&|it| it.audience = None)}), "unauthorized"),
        ("a guest's name", json!({"token": with(&|it| it.user = "~gann".to_owned())}), "unauthorized"),
        ("another user", json!({"user": "bob", "token": with(&|_| {})}), "unauthorized"),
    ] {
        let mut hello = hello;
        hello["type"] = json!("hello");
        for form in Form::ALL {
            let mut client = WireClient::connect(server.address(), form);
            assert_eq!(answer(&mut client, hello.clone()), code, "{name}, {form:?}");
            // Nothing but a hello is taken before one that holds.
            assert_eq!(answer(&mut client, json!({"type": "join", "room": "lobby"})), "bad_request", "{name}");
            assert_eq!(answer(&mut client, json!({"type": "hello", "token": with(&|_| {})})), "welcome", "{name}");
        }
        for form in Form::ALL {
            let mut client = WireClient::connect(server.address(), form);
            for _ in 0..3 {
                client.send(&hello.to_string());
            }
            let (events, ended) = client.read_to_end();
            let codes: Vec<_> = events.iter().map(|event| event["code"].as_str().unwrap_or_default()).collect();
            assert_eq!(codes, [code; 3], "{name}, {form:?}");
            let closed = if form == Form::Native { Ended::Eof } else { Ended::Closed(4_401) };
            assert_eq!(ended, closed, "{name}, {form:?}");
        }
    }
}

#[test]
fn every_verb_takes_its_right_in_every_form() {
    let rooms = "[[rooms]]\nmatch = 'closed-*'\n[[rooms]]\nmatch = 'news'\nusers = ['read', 'history']\n\
                 [[rooms]]\nmatch = 'open-*'\nusers = ['member']\n";
    let setup = Setup::new("", rooms);
    let none = Rights::NONE;
    let all = Rights::MEMBER;
    for &cores in core_counts() {
        let server = setup.start(cores);
        // What the token gives in the room, and with the configuration what it comes to.
        for (room, given, rights) in [
            ("mine", all, all),
            ("mine", Rights::READ, Rights::READ),
            ("mine", Rights::READ | Rights::WRITE, Rights::READ | Rights::WRITE),
            ("mine", Rights::READ | Rights::SIGNAL, Rights::READ | Rights::SIGNAL),
            ("mine", Rights::READ | Rights::PRESENCE, Rights::READ | Rights::PRESENCE),
            ("mine", Rights::WRITE, Rights::WRITE),
            ("mine", Rights::HISTORY, Rights::HISTORY),
            ("mine", Rights::PRESENCE, Rights::PRESENCE),
            ("mine", none, none),
            ("closed-1", none, none),
            ("news", none, Rights::READ | Rights::HISTORY),
            ("news", Rights::WRITE, Rights::READ | Rights::HISTORY | Rights::WRITE),
            ("open-1", none, all),
        ] {
            for form in Form::ALL {
                let other = ("other", Rights::ALL);
                let mut client = come_in(&server, form, &token("ann", &[(room, given), other]));
                let has = |needed| rights.contains(needed);
                let judged = |may: bool, answer: &str| if may { answer.to_owned() } else { "forbidden".to_owned() };
                let what = format!("{room} with {rights}, {form:?}");
                let join = json!({"type": "join", "room": room});
                assert_eq!(answer(&mut client, join.clone()), judged(has(Rights::READ), "joined"), "{what}");
                let fetch = json!({"type": "fetch", "room": room, "after": 0});
                assert_eq!(answer(&mut client, fetch), judged(has(Rights::HISTORY), "page"), "{what}");
                let members = json!({"type": "members", "room": room});
                assert_eq!(answer(&mut client, members), judged(has(Rights::PRESENCE), "members"), "{what}");
                // What was missed belongs to reading.
                let after = json!({"type": "join", "room": room, "after": {"epoch": 1, "sequence": 0}});
                assert_eq!(answer(&mut client, after), judged(has(Rights::READ), "wrong_epoch"), "{what}");
                assert_eq!(answer(&mut client, join.clone()), judged(has(Rights::READ), "joined"), "{what}");
                for (more, needed) in [("last", Rights::HISTORY), ("presence", Rights::PRESENCE)] {
                    let mut join = join.clone();
                    join[more] = if more == "last" { json!(5) } else { json!(true) };
                    assert_eq!(answer(&mut client, join), judged(has(Rights::READ | needed), "joined"), "{what}");
                }
                let post = json!({"type": "post", "room": room, "body": 1});
                let signal = json!({"type": "signal", "room": room, "body": 1});
                if has(Rights::READ) {
                    assert_eq!(answer(&mut client, post), judged(has(Rights::WRITE), "posted"), "{what}");
                    client.send(&json!({"type": "signal", "id": 9_999, "room": room, "body": 1}).to_string());
                    if !has(Rights::SIGNAL) {
                        assert_eq!(client.answer_to(9_999)["code"], "forbidden", "{what}");
                    }
                } else {
                    assert_eq!(answer(&mut client, post), "not_joined", "{what}");
                    assert_eq!(answer(&mut client, signal), "not_joined", "{what}");
                }
                // And what is no room of the token's is nobody's.
                assert_eq!(answer(&mut client, json!({"type": "join", "room": "elsewhere"})), "forbidden", "{what}");
                assert_eq!(answer(&mut client, json!({"type": "ping"})), "pong", "{what}");
            }
        }
    }
}

#[test]
fn what_a_message_needs_is_read_and_nobody_else_hears_it() {
    let setup = Setup::new("", "");
    for &cores in core_counts() {
        let server = setup.start(cores);
        let mut writer = come_in(&server, Form::Json, &token("ann", &[("team-7", Rights::MEMBER)]));
        let mut reader = come_in(&server, Form::Native, &token("bob", &[("team-*", Rights::READ)]));
        let mut stranger = come_in(&server, Form::Rkyv, &token("eve", &[("team-70", Rights::MEMBER)]));
        writer.join("team-7");
        reader.join("team-7");
        assert_eq!(answer(&mut stranger, json!({"type": "join", "room": "team-7"})), "forbidden");
        writer.post("team-7", json!("for the team"));
        assert_eq!(reader.take_type("message")["body"], "for the team");
        assert!(stranger.has_nothing());
    }
}

#[test]
fn a_token_that_ends_asks_nothing_more_and_its_connection_ends_behind_the_grace() {
    let setup = Setup::new("grace_ms = 2000", "");
    let server = setup.start(1);
    for form in Form::ALL {
        let now = now_seconds();
        // It ends within the leeway in two seconds.
        let ends = ClaimsToMint {
            issued_seconds: now - 60,
            expires_seconds: now + 2 - LEEWAY_SECONDS,
            ..claims("ann", &[("lobby", Rights::MEMBER)])
        };
        let mut client = come_in(&server, form, &signed(SECRET, &ends));
        let mut other = come_in(&server, form, &token("bob", &[("lobby", Rights::MEMBER)]));
        client.join("lobby");
        other.join("lobby");
        wait_until("the token has ended", || {
            answer(&mut client, json!({"type": "fetch", "room": "lobby", "after": 0})) == "expired"
        });
        for ask in [
            json!({"type": "post", "room": "lobby", "body": 1}),
            json!({"type": "join", "room": "lobby"}),
            json!({"type": "members", "room": "lobby"}),
            json!({"type": "signal", "room": "lobby", "body": 1}),
        ] {
            assert_eq!(answer(&mut client, ask.clone()), "expired", "{ask}");
        }
        // What comes is still told, and it may leave.
        other.post("lobby", json!("late"));
        assert_eq!(client.take_type("message")["body"], "late");
        assert_eq!(answer(&mut client, json!({"type": "leave", "room": "lobby"})), "left");
        let (events, ended) = client.read_to_end();
        assert_eq!(events.last().expect("a word")["code"], "expired", "{events:?}");
        assert_eq!(ended, if form == Form::Native { Ended::Eof } else { Ended::Closed(4_401) });
        assert_eq!(answer(&mut other, json!({"type": "ping"})), "pong");
    }
}

#[test]
fn a_token_says_how_fast_it_may_post() {
    let setup = Setup::new("", "");
    let server = setup.start(1);
    let slow = ClaimsToMint { posts_per_second: Some(1), ..claims("ann", &[("lobby", Rights::MEMBER)]) };
    let mut client = come_in(&server, Form::Json, &signed(SECRET, &slow));
    client.join("lobby");
    client.post("lobby", json!(1));
    let refused = client.ask(json!({"type": "post", "room": "lobby", "body": 2}));
    assert_eq!((&refused["code"], &refused["scope"]), (&json!("rate_limited"), &json!("connection")), "{refused}");
    assert!(refused["message"].as_str().expect("a text").contains("of the token"), "{refused}");
    let mut quick = come_in(&server, Form::Json, &token("ann", &[("lobby", Rights::MEMBER)]));
    quick.join("lobby");
    for number in 0..5 {
        quick.post("lobby", json!(number));
    }
}

#[test]
fn a_key_that_cannot_be_had_ends_the_start_and_says_which() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.to_str().expect("text").to_owned()
    };
    let short = file("short", "too short\n");
    let none = file("none.pem", "no key\n");
    let key = file("key.pem", include_str!("../../access/tests/keys/ed25519-a.pub.pem"));
    let keys = [key.as_str(); 5];
    for (auth, says) in [
        ("secret_file = '/nonexistent'".to_owned(), "cannot read /nonexistent"),
        (format!("secret_file = '{short}'"), "32"),
        (format!("keys = ['{none}']"), "none.pem"),
        (
            "secret_env = 'BANTER_TEST_NOT_SET'".to_owned(),
            "BANTER_TEST_NOT_SET, which [auth] names as secret_env: it is not set",
        ),
        (String::new(), "has no key to check them with"),
        (format!("keys = {keys:?}"), "names 5 keys of one kind without a kid"),
    ] {
        let config = file("banter.toml", &format!("listen = '127.0.0.1:0'\n[auth]\nmode = 'token'\n{auth}\n"));
        let data = folder.path().join("data");
        let (code, _, errors) = run_to_end(&["--config", &config, "--data", data.to_str().expect("text")]);
        assert!(code == 78 && errors.contains(says), "{auth}: {code}: {errors}");
    }
}

#[test]
fn the_programs_own_token_comes_in() {
    let setup = Setup::new("", "");
    let server = setup.start(1);
    let secret = setup.folder.path().join("secret");
    let secret = secret.to_str().expect("text");
    let page = format!("http://{}", server.address());
    let line = ["token", "--user", "zoë", "--room", "lobby=member", "--secret-file", secret, "--page", &page];
    let (code, out, errors) = run_to_end(&line);
    assert_eq!(code, 0, "{errors}");
    let (token, link) = out.trim_end().split_once('\n').expect("two lines");
    assert_eq!(link, format!("{page}/#token={token}"));
    let mut client = come_in(&server, Form::Json, token);
    client.join("lobby");
    assert_eq!(client.post("lobby", json!("hi"))["type"], "posted");
}

#[test]
fn a_connection_goes_on_with_a_new_token_and_reads_no_longer_what_it_does_not_give() {
    let setup = Setup::new("", "");
    for &cores in core_counts() {
        let server = setup.start(cores);
        for form in Form::ALL {
            // The first holds for less than a minute: that it ends soon is told behind half of its lifetime.
            let now = now_seconds();
            let rooms = [("lobby", Rights::MEMBER), ("staff", Rights::MEMBER), ("news", Rights::READ)];
            let first = ClaimsToMint { issued_seconds: now - 40, expires_seconds: now + 30, ..claims("ann", &rooms) };
            let mut client = come_in(&server, form, &signed(SECRET, &first));
            let mut other = come_in(&server, Form::Json, &token("bob", &[("*", Rights::MEMBER)]));
            let in_ms = client.take_type("expiring")["in_ms"].as_u64().expect("a number");
            assert!((20_000..=30_000).contains(&in_ms), "{in_ms}");
            for room in ["lobby", "staff", "news"] {
                client.join(room);
                other.join(room);
            }
            let renew = |token: String| json!({"type": "renew", "token": token});
            assert_eq!(answer(&mut client, renew(token("bob", &[("*", Rights::MEMBER)]))), "forbidden", "{form:?}");
            assert_eq!(answer(&mut client, renew(signed(OTHER_SECRET, &first))), "unauthorized", "{form:?}");
            assert_eq!(answer(&mut client, json!({"type": "post", "room": "news", "body": 1})), "forbidden");
            client.post("staff", json!("still"));
            other.take_type("message");
            client.take_type("message");

            let next = [("lobby", Rights::READ), ("news", Rights::MEMBER)];
            let renewed = client.ask(renew(token("ann", &next)));
            assert_eq!(renewed["type"], "renewed", "{renewed}");
            assert!((500_000..=600_000).contains(&renewed["expires_in_ms"].as_u64().expect("a number")), "{renewed}");
            let removed = client.next_event();
            assert_eq!(removed, json!({"type": "removed", "room": "staff", "code": "forbidden"}), "{form:?}");
            assert_eq!(answer(&mut client, json!({"type": "post", "room": "lobby", "body": 1})), "forbidden");
            assert_eq!(answer(&mut client, json!({"type": "join", "room": "staff"})), "forbidden");
            assert_eq!(answer(&mut client, json!({"type": "post", "room": "staff", "body": 1})), "not_joined");
            client.post("news", json!("now"));
            client.take_type("message");
            other.post("staff", json!("without ann"));
            other.post("lobby", json!("for all"));
            assert_eq!(client.next_event()["body"], "for all", "{form:?}");
            let there = other.ask(json!({"type": "members", "room": "staff"}));
            assert_eq!(there["users"], json!(["bob"]), "{form:?}");
        }
    }
}

#[test]
fn where_no_token_is_asked_for_none_is_renewed() {
    let server = ServerProcess::start(1, &["--durability", "memory"]);
    let mut client = WireClient::hello(server.address(), Form::Json, "ann");
    assert_eq!(answer(&mut client, json!({"type": "renew", "token": "t"})), "bad_request");
    let room_token = json!({"type": "join", "room": "lobby", "token": "t"});
    assert_eq!(answer(&mut client, room_token), "bad_request");
    client.join("lobby");
}

#[test]
fn a_token_for_a_room_opens_that_room_until_its_end() {
    let setup = Setup::new("", "");
    for &cores in core_counts() {
        let server = setup.start(cores);
        for form in Form::ALL {
            let mut client = come_in(&server, form, &token("ann", &[("lobby", Rights::MEMBER)]));
            let join = |token: String| json!({"type": "join", "room": "deal", "token": token});
            let of = |user: &str, rights| token(user, &[("deal", rights)]);
            assert_eq!(answer(&mut client, join(of("bob", Rights::MEMBER))), "forbidden", "{form:?}");
            assert_eq!(answer(&mut client, join(of("ann", Rights::WRITE))), "forbidden", "{form:?}");
            let other_key = signed(OTHER_SECRET, &claims("ann", &[("deal", Rights::MEMBER)]));
            assert_eq!(answer(&mut client, join(other_key)), "unauthorized", "{form:?}");
            // It ends within the leeway in two seconds.
            let now = now_seconds();
            let short = ClaimsToMint {
                issued_seconds: now - 60,
                expires_seconds: now + 2 - LEEWAY_SECONDS,
                ..claims("ann", &[("deal", Rights::READ | Rights::WRITE)])
            };
            assert_eq!(answer(&mut client, join(signed(SECRET, &short))), "joined", "{form:?}");
            assert_eq!(answer(&mut client, json!({"type": "fetch", "room": "deal", "after": 0})), "forbidden");
            client.post("deal", json!("hi"));
            assert_eq!(client.take_type("removed"), json!({"type": "removed", "room": "deal", "code": "expired"}));
            assert_eq!(answer(&mut client, json!({"type": "join", "room": "deal"})), "forbidden", "{form:?}");
            client.join("lobby");
        }
    }
}
