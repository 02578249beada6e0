//! Fetches from addresses on this host: one that answers, one that lies, one that hangs, one that is not there.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::sync::mpsc;

use banter_access::mint::SigningKey;

use super::*;
use crate::key_tool::{KeyKind, KeyPair};

/// A set of one key.
fn set(kid: &str) -> String {
    let pair = KeyPair::make(KeyKind::Ed25519).expect("a key");
    let key = SigningKey::from_pem(pair.private_pem()).expect("a key").with_kid(kid);
    format!("{{\"keys\":[{}]}}", key.public_jwk().expect("a key").expect("a public one"))
}

fn answer(status: &str, headers: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\n{headers}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
}

/// An address that answers each request with the next of these, and then with nothing.
fn address(answers: Vec<String>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}/keys", listener.local_addr().expect("an address"));
    std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = listener.accept().expect("a request");
            let mut head = [0; 4_096];
            let read = stream.read(&mut head).expect("a head");
            assert!(head[..read].starts_with(b"GET /keys HTTP/1.1\r\n"));
            // Who asked may have heard enough.
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    url
}

fn fetch(url: &str) -> Result<(String, Option<u64>), String> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = reqwest::Client::builder().redirect(reqwest::redirect::Policy::none()).build().expect("a client");
    runtime.block_on(fetched(&client, url))
}

#[test]
fn a_set_comes_with_its_age() {
    let text = set("a");
    let url =
        address(vec![answer("200 OK", "Cache-Control: public, max-age=600\r\n", &text), answer("200 OK", "", &text)]);
    assert_eq!(fetch(&url), Ok((text.clone(), Some(600_000))));
    assert_eq!(fetch(&url), Ok((text, None)));
}

#[test]
fn what_is_no_answer_is_told_without_the_address() {
    let too_long = "x".repeat(KEY_TEXT_BYTES_MAX + 1);
    for (given, says) in [
        (answer("404 Not Found", "", "no"), "it answered 404"),
        (answer("302 Found", "Location: http://127.0.0.1:1/\r\n", ""), "it answered 302"),
        (answer("200 OK", "", &too_long), "more than 65536 bytes"),
        ("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n".to_owned(), "body"),
        (String::new(), "request"),
    ] {
        let fault = fetch(&address(vec![given])).expect_err(says);
        assert!(fault.contains(says) && !fault.contains("127.0.0.1"), "{says}: {fault}");
    }
}

#[test]
fn keys_that_came_hold_and_are_kept_for_the_next_run_of_the_same_address() {
    let (folder, text) = (tempfile::tempdir().unwrap(), set("a"));
    let url = address(vec![answer("200 OK", "", &text)]);
    let desk = JwksDesk::open(&url, folder.path());
    assert!(!desk.had_keys());
    let (tell, told) = mpsc::channel();
    let _thread = desk.spawn(move || tell.send(()).expect("it is heard")).expect("a thread");
    told.recv().expect("keys");
    let mut keys = Keys::new();
    assert_eq!((desk.add_to(&mut keys), keys.has_kid("a"), desk.had_keys()), (1, true, true));
    while !folder.path().join(FILE_NAME).exists() {
        std::thread::yield_now();
    }
    let next = JwksDesk::open(&url, folder.path());
    let mut keys = Keys::new();
    assert_eq!((next.add_to(&mut keys), keys.has_kid("a"), next.had_keys()), (0, true, true));
    assert!(!JwksDesk::open("https://another.example/keys", folder.path()).had_keys());
}

#[test]
fn a_kept_file_that_is_no_set_is_as_if_it_were_not_there() {
    let folder = tempfile::tempdir().unwrap();
    for text in ["", "{", "{\"url\":\"u\",\"fetched_unix_ms\":1,\"keys\":\"{}\"}"] {
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        assert!(!JwksDesk::open("u", folder.path()).had_keys(), "{text}");
    }
    // One that is older than a day ended long ago.
    let kept = Kept { url: "u".to_owned(), fetched_unix_ms: 1, keys: set("a") };
    write(&folder.path().join(FILE_NAME), &kept).unwrap();
    assert!(!JwksDesk::open("u", folder.path()).had_keys());
}

#[test]
fn a_token_waits_for_keys_that_may_come_and_for_no_others() {
    let folder = tempfile::tempdir().unwrap();
    let desk = JwksDesk::open("u", folder.path());
    assert!(desk.may_have(None, 0) && desk.may_have(Some("a"), 0), "nothing was fetched yet");
    assert!(desk.tick().fetch);
    desk.take(&set("a"), None).unwrap();
    assert!(desk.may_have(Some("b"), 0), "others came since that judge was made");
    assert!(!desk.may_have(Some("b"), 1), "they came a moment ago");
    assert!(!desk.may_have(None, 1));
}
