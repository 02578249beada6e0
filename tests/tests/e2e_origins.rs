//! End to end: which web pages may open a WebSocket, by the headers that a browser sends.

use banter_tests::raw_peer::{RawPeer, UPGRADE, close_frame};
use banter_tests::server_process::{ServerProcess, wait_until};

/// What an upgrade with that origin and host is answered, without the frames behind it.
fn answer(server: &ServerProcess, origin: &str, host: &str) -> String {
    let head = UPGRADE.replace("Host: banter.test", &format!("Host: {host}\r\nOrigin: {origin}"));
    let mut peer = RawPeer::connect(server.address());
    peer.send(head.as_bytes());
    peer.send_anyway(&close_frame());
    let answer = String::from_utf8_lossy(&peer.read_to_end()).into_owned();
    assert!(answer.starts_with("HTTP/1.1 "), "{answer}");
    answer["HTTP/1.1 ".len()..].to_owned()
}

#[test]
fn a_page_of_the_server_itself_gets_in_and_a_foreign_one_is_told_the_key() {
    let server = ServerProcess::start(1, &[]);
    let port = server.address().port();
    for host in ["127.0.0.1", "localhost", "[::1]"] {
        let own = format!("{host}:{port}");
        assert!(answer(&server, &format!("http://{own}"), &own).starts_with("101 "), "{own}");
    }
    let own = server.address().to_string();
    for origin in ["https://evil.example", "null", "http://127.0.0.1:1"] {
        let refusal = answer(&server, origin, &own);
        assert!(refusal.starts_with("403 ") && refusal.contains("add it to the key `origins`"), "{origin}: {refusal}");
    }
    // No browser.
    RawPeer::connect(server.address()).upgrade(UPGRADE);
    assert_eq!(server.metric("banter_refused_origins_total"), 3);
    // A second line is a minute away.
    wait_until("the log says it", || server.log().contains("add it to the key `origins`"));
    assert_eq!(server.log().matches("a web page was refused").count(), 1, "{}", server.log());
}

#[test]
fn a_name_that_somebody_points_at_loopback_gets_nobody_in() {
    let server = ServerProcess::start(1, &[]);
    let host = format!("evil.example:{}", server.address().port());
    let refusal = answer(&server, &format!("http://{host}"), &host);
    assert!(refusal.starts_with("403 ") && refusal.contains("does not know that host"), "{refusal}");
}

#[test]
fn a_page_behind_a_proxy_gets_in_once_it_is_named() {
    let server = ServerProcess::start(1, &["--origins", "https://chat.example.com,http://localhost:5173"]);
    let own = server.address().to_string();
    for (origin, host) in [
        ("https://chat.example.com", "chat.example.com"),
        ("https://chat.example.com", &*own),
        ("http://localhost:5173", &*own),
    ] {
        assert!(answer(&server, origin, host).starts_with("101 "), "{origin} {host}");
    }
    assert!(answer(&server, "http://chat.example.com", &own).starts_with("403 "));
    let all = ServerProcess::start(1, &["--origins", "*"]);
    assert!(answer(&all, "null", "evil.example").starts_with("101 "));
}

#[test]
fn plain_requests_are_not_judged() {
    let server = ServerProcess::start(1, &[]);
    let page = server.http("GET / HTTP/1.1\r\nHost: evil.example\r\nOrigin: https://evil.example\r\n\r\n");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
}
