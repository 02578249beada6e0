//! End to end: what one address may have, and whose address it is, behind proxies that are trusted and such that are not.

use std::fs::Permissions;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Instant;

use banter_access::limit::Limit;
use banter_tests::raw_peer::{RawPeer, UPGRADE};
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts, program, run_to_end, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient, stream_from, upgrade};
use serde_json::{Value, json};
use tempfile::TempDir;

const PER_IP: &str = "connections_per_ip_max";
/// Where proxies connect from; the tests' other connections come from 127.0.0.1.
const PROXY: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
/// Visitors' addresses, of those for documentation (RFC 5737).
const ANN: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
const BOB: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

/// A server that believes PROXY headers of one address, with these lines of configuration.
fn behind_header(cores: usize, limits: &str) -> ServerProcess {
    configured(cores, &format!("proxy_protocol = true\ntrusted_proxies = ['{PROXY}']\n{limits}"))
}

fn configured(cores: usize, text: &str) -> ServerProcess {
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("banter.toml");
    std::fs::write(&config, text).expect("a file");
    ServerProcess::start(cores, &["--durability", "memory", "--config", config.to_str().expect("text")])
}

/// Connects from an address of loopback.
fn from(source: Ipv4Addr, server: &ServerProcess) -> TcpStream {
    let stream = stream_from(source, server.address());
    stream.set_read_timeout(Some(PATIENCE)).expect("a socket takes a timeout");
    stream
}

/// The same, as a proxy that speaks for a visitor.
fn for_visitor(visitor: Ipv4Addr, server: &ServerProcess) -> TcpStream {
    let mut stream = from(PROXY, server);
    write!(stream, "PROXY TCP4 {visitor} 198.51.100.1 50000 443\r\n").expect("the server takes bytes");
    stream
}

fn visits(visitor: Ipv4Addr, server: &ServerProcess, form: Form) -> (WireClient, Value) {
    greets(WireClient::over(for_visitor(visitor, server), form))
}

/// Says hello, and gives the first event that comes.
fn greets(mut client: WireClient) -> (WireClient, Value) {
    // A refusal may come first and close.
    let _ = client.try_send(r#"{"type":"hello","id":1,"user":"ann"}"#);
    let first = client.next_event();
    (client, first)
}

fn must_be_welcome((client, first): (WireClient, Value)) -> WireClient {
    assert_eq!(first["type"], "welcome", "{first}");
    client
}

/// That the first event is a refusal by that limit, and that the connection is closed behind it.
fn must_be_refused((mut client, error): (WireClient, Value), form: Form, code: &str, limit: &str) {
    let limit = Limit::from_name(limit).expect("a limit");
    assert_eq!((&error["code"], &error["scope"]), (&json!(code), &json!(limit.scope().as_str())), "{error}");
    assert!(error["message"].as_str().is_some_and(|message| message.contains(limit.name())), "{error}");
    assert!(error["retry_after_ms"].as_u64().is_some_and(|ms| ms > 0), "{error}");
    let ended = client.read_to_end().1;
    assert!(ended == if form == Form::Native { Ended::Eof } else { Ended::Closed(1013) }, "{ended:?}");
}

fn limited(server: &ServerProcess, family: &str, limit: &str) -> u64 {
    let limit = format!("limit=\"{limit}\"");
    let metrics = server.metrics();
    metrics.iter().filter(|(name, _)| name.starts_with(family) && name.contains(&limit)).map(|(_, value)| value).sum()
}

/// A plain request for a visitor.
fn asks(visitor: Ipv4Addr, server: &ServerProcess) -> String {
    let mut stream = for_visitor(visitor, server);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("the server takes bytes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    answer
}

#[test]
fn an_address_has_so_many_connections_and_the_visitor_is_counted_and_not_the_proxy() {
    for &cores in core_counts() {
        // Each core has its share.
        let server = behind_header(cores, &format!("[limits]\n{PER_IP} = {}", 2 * cores));
        let mut clients = Vec::new();
        let refused = loop {
            let (client, first) = visits(ANN, &server, Form::Json);
            if first["type"] != "welcome" {
                break (client, first);
            }
            clients.push(client);
        };
        assert!((2..=2 * cores).contains(&clients.len()), "{} were let in", clients.len());
        must_be_refused(refused, Form::Json, "rate_limited", PER_IP);
        if cores == 1 {
            for form in Form::ALL {
                must_be_refused(visits(ANN, &server, form), form, "rate_limited", PER_IP);
                must_be_welcome(visits(BOB, &server, form));
            }
            let answer = asks(ANN, &server);
            assert!(answer.starts_with("HTTP/1.1 429 ") && answer.contains("\r\nRetry-After: "), "{answer}");
            assert!(answer.contains(r#""scope":"ip""#) && asks(BOB, &server).starts_with("HTTP/1.1 200 "), "{answer}");
            assert_eq!(limited(&server, "banter_limited_total", PER_IP), 5);
        }
        drop(clients);
        wait_until("there is a place again", || visits(ANN, &server, Form::Native).1["type"] == "welcome");
        wait_until("the log says whom", || server.log().contains("address=192.0.2.1"));
    }
}

#[test]
fn new_connections_of_an_address_come_at_its_rate() {
    let limit = "connects_per_second_per_ip_max";
    let server = behind_header(1, &format!("[limits]\n{limit} = 5"));
    let begun = Instant::now();
    let firsts: Vec<_> = (0..40).map(|_| visits(ANN, &server, Form::Native)).collect();
    let allowed = 5 + 1 + 5 * (begun.elapsed().as_secs() as usize + 1);
    let (welcome, mut refused): (Vec<_>, Vec<_>) =
        firsts.into_iter().partition(|(_, first)| first["type"] == "welcome");
    assert!((5..=allowed).contains(&welcome.len()), "{} were let in, {allowed} may be", welcome.len());
    assert_eq!(limited(&server, "banter_limited_total", limit), refused.len() as u64);
    if let Some(refused) = refused.pop() {
        must_be_refused(refused, Form::Native, "rate_limited", limit);
    }
    must_be_welcome(visits(BOB, &server, Form::Native));
}

/// An address of this machine that is no loopback's, if it has one. Nothing is sent to find it.
fn own_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    socket.connect((ANN, 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        IpAddr::V4(address) if !address.is_loopback() => Some(address),
        _ => None,
    }
}

#[test]
fn without_a_proxy_who_connects_is_judged_by_its_own_address() {
    let Some(own) = own_address() else { return println!("SKIPPED: this machine has loopback alone") };
    let folder = TempDir::new().expect("a folder");
    // The harness has every server listen on loopback.
    let reachable = folder.path().join("banter");
    let script = format!("#!/bin/sh\nshift 2\nexec {} --listen 0.0.0.0:0 --open \"$@\"\n", program().display());
    std::fs::write(&reachable, script).expect("a file");
    std::fs::set_permissions(&reachable, Permissions::from_mode(0o755)).expect("a file of this test");
    let flags = ["--durability", "memory", "--connections-per-ip-max", "2"];
    let server = Start::new(1, &flags).program(&reachable).run();
    let at = SocketAddr::from((own, server.address().port()));
    let _kept = [Form::Json, Form::Native].map(|form| WireClient::hello(at, form, "ann"));
    for form in Form::ALL {
        must_be_refused(greets(WireClient::connect(at, form)), form, "rate_limited", PER_IP);
    }
    // What it says of others counts for nothing.
    let mut stream = TcpStream::connect(at).expect("the server accepts");
    write!(stream, "GET / HTTP/1.1\r\nHost: h\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n").expect("the server takes bytes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    assert!(answer.starts_with("HTTP/1.1 429 "), "{answer}");
    must_be_welcome(greets_as(&server, Form::Native));
}

#[test]
fn loopback_has_no_limit_by_address_and_a_server_that_may_be_behind_a_proxy_says_so() {
    let server = configured(1, &format!("[limits]\n{PER_IP} = 1\nconnects_per_second_per_ip_max = 1"));
    let clients: Vec<_> = (0..10).map(|_| WireClient::hello(server.address(), Form::Native, "ann")).collect();
    assert_eq!(clients.len(), 10);
    wait_until("it is said", || server.log().contains("name it in trusted_proxies"));
}

#[test]
fn connections_that_do_not_say_who_they_are_have_so_many_places_and_give_them_back() {
    let limit = "connections_unproved_max";
    let server = configured(1, &format!("[limits]\n{limit} = 3"));
    // Those that have said it are none of them.
    let mut greeted: Vec<_> = (0..10).map(|_| WireClient::hello(server.address(), Form::Json, "ann")).collect();
    let silent: Vec<_> = (0..3).map(|_| RawPeer::connect(server.address())).collect();
    wait_until("they are there", || greets_as(&server, Form::Native).1["type"] == "error");
    for form in Form::ALL {
        must_be_refused(greets_as(&server, form), form, "overloaded", limit);
    }
    assert_eq!(greeted[0].ask(json!({"type": "ping"}))["type"], "pong", "who is there stays");
    drop(silent);
    wait_until("their places are free", || greets_as(&server, Form::Native).1["type"] == "welcome");
}

fn greets_as(server: &ServerProcess, form: Form) -> (WireClient, Value) {
    greets(WireClient::connect(server.address(), form))
}

#[test]
fn a_limit_that_is_tried_dry_refuses_nobody_and_is_counted() {
    let dry = "limits_dry_run = ['connections_per_ip_max', 'posts_per_second_max', 'rooms_per_connection_max', \
               'connections_max', 'connections_unproved_max']";
    let limits = "[limits]\nconnections_per_ip_max = 1\nposts_per_second_max = 1\nrooms_per_connection_max = 1\n\
                  connections_max = 1\nconnections_unproved_max = 1\njoins_per_second_max = 4";
    let server = behind_header(1, &format!("{dry}\n{limits}"));
    let mut clients: Vec<_> = (0..3).map(|_| must_be_welcome(visits(ANN, &server, Form::Json))).collect();
    let client = &mut clients[0];
    client.join("one");
    client.join("two");
    for body in 0..5 {
        assert_eq!(client.post("one", json!(body))["type"], "posted");
    }
    assert_eq!(limited(&server, "banter_limited_dry_run_total", PER_IP), 2);
    assert_eq!(limited(&server, "banter_limited_dry_run_total", "rooms_per_connection_max"), 1);
    assert!(limited(&server, "banter_limited_dry_run_total", "posts_per_second_max") >= 1);
    assert!(limited(&server, "banter_limited_dry_run_total", "connections_max") >= 2);
    assert_eq!(server.metric("banter_limited_total"), 0);
    // What is not named is enforced.
    let answers: Vec<_> = (0..20).map(|_| client.ask(json!({"type": "join", "room": "one"}))).collect();
    assert!(answers.iter().any(|answer| answer["code"] == "rate_limited"), "{answers:?}");
    assert!(limited(&server, "banter_limited_total", "joins_per_second_max") >= 1);
}

#[test]
fn a_limit_that_refuses_nobody_cannot_be_tried_dry() {
    let folder = TempDir::new().expect("a folder");
    let config = folder.path().join("banter.toml");
    std::fs::write(&config, "limits_dry_run = ['idle_timeout_ms']").expect("a file");
    let (code, _, err) = run_to_end(&["--config", config.to_str().expect("text")]);
    assert_eq!(code, 78, "{err}");
    assert!(err.contains("banter.toml:1") && err.contains("limits_dry_run must be a list of limits"), "{err}");
}

#[test]
fn from_a_trusted_proxy_a_header_is_required_and_from_others_it_is_refused() {
    let server = behind_header(1, "");
    for first in [UPGRADE.as_bytes(), b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", b"\xbaNTR\r\n\0\x01", b"PROXY TCP9 \r\n"] {
        let mut stream = from(PROXY, &server);
        stream.write_all(first).expect("the server takes bytes");
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert_eq!(answer, b"", "{first:?}");
    }
    let mut stream = from(PROXY, &server);
    stream.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n").expect("the server takes bytes");
    must_be_welcome(greets(WireClient::over(stream, Form::Json)));
    // In two parts, and in the second version.
    let mut stream = from(PROXY, &server);
    for part in [&b"\r\n\r\n\0\r\nQUI"[..], b"T\n\x21\x11\0\x0c\xc0\0\x02\x01\xc6\x33\x64\x01\xc3\x50\x01\xbb"] {
        stream.write_all(part).expect("the server takes bytes");
    }
    must_be_welcome(greets(WireClient::over(stream, Form::Native)));
    wait_until("the log says what is wrong", || server.log().contains("a PROXY header is required from this proxy"));

    let mut stream = from(Ipv4Addr::LOCALHOST, &server);
    stream.write_all(b"PROXY TCP4 192.0.2.1 198.51.100.1 50000 443\r\n").expect("the server takes bytes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server answers and closes");
    assert!(answer.starts_with("HTTP/1.1 400 ") && answer.contains("trusted_proxies"), "{answer}");
    must_be_welcome(greets_as(&server, Form::Json));
}

#[test]
fn a_proxy_that_does_not_end_its_header_is_not_waited_for() {
    let server = behind_header(1, "[limits]\nhandshake_timeout_ms = 200");
    let mut stream = from(PROXY, &server);
    stream.write_all(b"PROXY TCP4 192.0.2.1").expect("the server takes bytes");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("the server closes");
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
}

/// An upgrade with those lines more; the status that refused it, or the first event of who says hello.
fn forwarded(source: Ipv4Addr, server: &ServerProcess, lines: &str) -> (TcpStream, String) {
    let mut stream = from(source, server);
    let head = UPGRADE.replace("Host: banter.test\r\n", &format!("Host: banter.test\r\n{lines}"));
    stream.write_all(head.as_bytes()).expect("the server takes bytes");
    let mut answer = vec![0; 4_096];
    let mut read = 0;
    // A refusal comes with the head, in one piece or two; who is let in gets the head alone.
    while !answer[..read].windows(4).any(|end| end == b"\r\n\r\n") {
        read += stream.read(&mut answer[read..]).expect("an answer");
    }
    (stream, String::from_utf8_lossy(&answer[..read]).into_owned())
}

/// Whether who upgrades so is refused by the limit of its address.
fn is_refused(source: Ipv4Addr, server: &ServerProcess, lines: &str) -> bool {
    let before = limited(server, "banter_limited_total", PER_IP);
    let _kept = forwarded(source, server, lines);
    limited(server, "banter_limited_total", PER_IP) > before
}

#[test]
fn x_forwarded_for_is_believed_of_trusted_proxies_alone_and_no_further_than_they_wrote() {
    let server = configured(1, &format!("trusted_proxies = ['127.0.0.2', '10.0.0.0/8']\n[limits]\n{PER_IP} = 1"));
    let (proxy, other) = (PROXY, Ipv4Addr::new(127, 0, 0, 3));
    let _ann = forwarded(proxy, &server, "X-Forwarded-For: 192.0.2.1\r\n");
    for lines in [
        "X-Forwarded-For: 192.0.2.1\r\n",
        "X-Forwarded-For: 203.0.113.5, 192.0.2.1\r\n",
        "X-Forwarded-For: 192.0.2.1, 10.1.2.3\r\n",
        "X-Forwarded-For: 203.0.113.5\r\nx-forwarded-for: 192.0.2.1, 10.0.0.1\r\n",
        "X-Forwarded-For: [::ffff:192.0.2.1]:4711\r\n",
    ] {
        assert!(is_refused(proxy, &server, lines), "{lines}");
        assert!(!is_refused(other, &server, lines), "of nobody else: {lines}");
    }
    assert!(!is_refused(proxy, &server, "X-Forwarded-For: 192.0.2.1, 192.0.2.9\r\n"), "what the visitor wrote itself");
    assert!(!is_refused(proxy, &server, ""), "a proxy that names nobody speaks for itself");
}

#[test]
fn tokens_that_prove_nothing_shut_their_address_out_and_no_other() {
    let folder = TempDir::new().expect("a folder");
    let secret = folder.path().join("secret");
    std::fs::write(&secret, "a secret of more than thirty-two bytes, for tests").expect("a file");
    let auth = format!("[auth]\nmode = 'token'\nsecret_file = '{}'\n", secret.display());
    let server = behind_header(1, &format!("{auth}[limits]\nauth_failures_per_minute_per_ip_max = 6"));
    for _ in 0..2 {
        let mut client = WireClient::over(for_visitor(ANN, &server), Form::Json);
        for token in ["a.b.c", "", "x"] {
            client.send(&json!({"type": "hello", "token": token}).to_string());
        }
        let (events, ended) = client.read_to_end();
        let codes: Vec<_> = events.iter().map(|event| &event["code"]).collect();
        assert!(codes.iter().all(|code| *code == "unauthorized") && ended == Ended::Closed(4_401), "{events:?}");
    }
    let Err((status, body)) = upgrade(for_visitor(ANN, &server), None) else { panic!("let in") };
    assert!(status == 429 && body.contains("auth_failures_per_minute_per_ip_max"), "{status} {body}");
    let retry_after_ms = serde_json::from_str::<Value>(&body).expect("JSON")["error"]["retry_after_ms"].as_u64();
    assert!(retry_after_ms.is_some_and(|ms| (30_000..=60_000).contains(&ms)), "{body}");
    let (mut client, error) = visits(ANN, &server, Form::Native);
    assert_eq!((&error["code"], &error["scope"]), (&json!("rate_limited"), &json!("ip")), "{error}");
    assert_eq!(client.read_to_end().1, Ended::Eof);
    assert!(upgrade(for_visitor(BOB, &server), None).is_ok());
    assert!(asks(ANN, &server).starts_with("HTTP/1.1 200 "), "the page is no token");
}
