//! End to end: tokens that come with the upgrade, and what of an upgrade is refused.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_access::mint::{ClaimsToMint, SigningKey, mint};
use banter_access::pattern::Pattern;
use banter_access::rights::Rights;
use banter_tests::raw_peer::{RawPeer, UPGRADE, text_frame};
use banter_tests::server_process::{PATIENCE, ServerProcess, run_to_end};
use serde_json::{Value, json};
use tempfile::TempDir;

const SECRET: &str = "a secret of more than thirty-two bytes, for tests";
const NAMED: &str = "Origin: https://app.example.com\r\n";

fn server(auth: &str, top: &str) -> (ServerProcess, TempDir) {
    let folder = TempDir::new().expect("a folder");
    let (secret, config) = (folder.path().join("secret"), folder.path().join("banter.toml"));
    fs::write(&secret, SECRET).expect("a file");
    let text = format!("{top}\n[auth]\nmode = 'token'\nsecret_file = '{}'\n{auth}", secret.display());
    fs::write(&config, text).expect("a file");
    let server = ServerProcess::start(1, &["--durability", "memory", "--config", config.to_str().expect("text")]);
    (server, folder)
}

fn token(user: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_secs();
    let rooms = [(Pattern::new("*").expect("a pattern"), Rights::MEMBER)].into_iter().collect();
    let claims = ClaimsToMint { rooms, ..ClaimsToMint::new(user, now, now + 600) };
    mint(&SigningKey::from_secret(SECRET.as_bytes()).expect("a key"), &claims).expect("a token")
}

fn head(target: &str, lines: &str) -> String {
    UPGRADE.replace("/ws", target).replace("Host: banter.test\r\n", &format!("Host: banter.test\r\n{lines}"))
}

/// Upgrades with those lines: the stream, and what it was answered.
fn upgraded(server: &ServerProcess, lines: &str) -> (TcpStream, String) {
    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream.write_all(head("/ws", lines).as_bytes()).expect("the server takes bytes");
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(byte(&mut stream));
    }
    if !answer.starts_with(b"HTTP/1.1 101 ") {
        stream.read_to_end(&mut answer).expect("the server answers and closes");
    }
    (stream, String::from_utf8(answer).expect("text"))
}

fn byte(stream: &mut TcpStream) -> u8 {
    let mut byte = [0];
    stream.read_exact(&mut byte).expect("a byte");
    byte[0]
}

fn status(server: &ServerProcess, lines: &str) -> String {
    upgraded(server, lines).1["HTTP/1.1 ".len()..][..3].to_owned()
}

/// The first event of who upgrades with those lines and says that hello.
fn first(server: &ServerProcess, lines: &str, hello: &str) -> Value {
    let (mut stream, answer) = upgraded(server, lines);
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream.write_all(&text_frame(hello.as_bytes())).expect("the server takes bytes");
    assert_eq!(byte(&mut stream), 0x81, "a whole text");
    let length = match byte(&mut stream) {
        126 => u16::from_be_bytes([byte(&mut stream), byte(&mut stream)]).into(),
        length => usize::from(length),
    };
    let text: Vec<u8> = (0..length).map(|_| byte(&mut stream)).collect();
    serde_json::from_slice(&text).expect("JSON")
}

const HELLO: &str = r#"{"type":"hello","id":1}"#;

#[test]
fn a_bearer_on_the_upgrade_is_judged_as_if_it_came_with_hello() {
    let (server, _folder) = server("", "");
    let with = |token: &str| format!("Authorization: Bearer {token}\r\n");
    let ann = with(&token("ann"));
    let welcome = first(&server, &ann, HELLO);
    assert_eq!((&welcome["type"], &welcome["user"]), (&json!("welcome"), &json!("ann")), "{welcome}");
    assert!(welcome["expires_in_ms"].is_u64(), "{welcome}");
    let other = first(&server, &ann, r#"{"type":"hello","id":1,"user":"bob"}"#);
    assert_eq!(other["code"], "unauthorized", "another user's: {other}");
    let own = json!({"type": "hello", "id": 1, "token": token("bob")}).to_string();
    assert_eq!(first(&server, &ann, &own)["user"], "bob", "one in hello goes ahead");
    assert_eq!(first(&server, &with("a.b.c"), HELLO)["code"], "unauthorized");
    assert_eq!(first(&server, "", HELLO)["code"], "unauthorized", "and none is none");
    for lines in ["Authorization: Basic YTpi\r\n".to_owned(), [ann.clone(), ann].concat()] {
        assert_eq!(status(&server, &lines), "400", "{lines}");
    }
}

#[test]
fn a_cookie_counts_from_pages_that_were_named_and_from_nobody_else() {
    let (server, _folder) = server("cookie = '__Host-chat'\norigins = ['https://app.example.com']", "");
    let cookie = format!("Cookie: a=b; __Host-chat={}\r\n", token("ann"));
    assert_eq!(first(&server, &format!("{NAMED}{cookie}"), HELLO)["user"], "ann");
    for origin in ["", "Origin: https://evil.example\r\n", "Origin: null\r\n", "Origin: http://banter.test\r\n"] {
        let answer = upgraded(&server, &format!("{origin}{cookie}")).1;
        assert!(answer.starts_with("HTTP/1.1 403 ") && answer.contains("origins"), "{origin}: {answer}");
    }
    assert_eq!(status(&server, &format!("{NAMED}{cookie}{cookie}")), "400", "two of one name");
    let others = format!("{NAMED}Cookie: chat={}\r\n", token("ann"));
    assert_eq!(first(&server, &others, HELLO)["code"], "unauthorized", "another cookie is none");
    // A program without cookies says its token itself.
    let own = json!({"type": "hello", "id": 1, "token": token("bob")}).to_string();
    assert_eq!(first(&server, "", &own)["user"], "bob");
}

#[test]
fn without_the_key_a_cookie_is_nothing() {
    let (server, _folder) = server("", "origins = ['https://app.example.com']");
    let lines = format!("{NAMED}Cookie: chat={}\r\n", token("ann"));
    assert_eq!(first(&server, &lines, HELLO)["code"], "unauthorized");
}

#[test]
fn a_token_in_the_query_is_refused_with_a_hint_and_stands_in_no_log() {
    let (server, _folder) = server("", "log = 'trace'");
    let secret = token("ann");
    for target in ["/ws?token=", "/ws?room=a&access_token=", "/?jwt="] {
        let mut peer = RawPeer::connect(server.address());
        peer.send(head(&format!("{target}{secret}"), "").as_bytes());
        let answer = String::from_utf8_lossy(&peer.read_to_end()).into_owned();
        assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("Authorization: Bearer"), "{answer}");
        assert!(!answer.contains(&secret));
    }
    assert_eq!(first(&server, &format!("Authorization: Bearer {secret}\r\n"), HELLO)["user"], "ann");
    assert!(!server.log().contains(&secret[..40]), "{}", server.log());
}

#[test]
fn origins_in_auth_are_those_outside_and_a_cookie_needs_them() {
    let (by_auth, _folder) = server("origins = ['https://app.example.com']", "");
    assert_eq!(status(&by_auth, NAMED), "101");
    assert_eq!(status(&by_auth, "Origin: https://app.example.com:444\r\n"), "403");
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("banter.toml");
    fs::write(&config, "[auth]\nmode = 'token'\nsecret_file = 's'\ncookie = 'chat'").expect("a file");
    let (code, _, err) = run_to_end(&["--config", config.to_str().expect("text")]);
    assert!(code == 78 && err.contains("cookie needs origins"), "{code} {err}");
}

#[test]
fn without_the_page_there_is_none() {
    let get = "GET / HTTP/1.1\r\nHost: h\r\n\r\n";
    let (with, _folder) = server("", "");
    let (without, _folder) = server("", "page = false");
    assert!(with.http(get).starts_with("HTTP/1.1 200 "));
    assert!(without.http(get).starts_with("HTTP/1.1 404 "));
    assert_eq!(status(&without, ""), "101");
}
