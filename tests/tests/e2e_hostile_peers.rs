//! End to end: peers that come wrongly, slowly, or go in the middle. Their neighbour on the same core notices nothing.

use std::time::{Duration, Instant};

use banter_protocol::frame::PREAMBLE;
use banter_tests::neighbours::Neighbours;
use banter_tests::raw_peer::{RawPeer, UPGRADE, native_frame, text_frame};
use banter_tests::wire_client::{Form, WireClient};
use rustix::net::sockopt::set_socket_linger;
use serde_json::json;

const HELLO: &str = r#"{"type":"hello","user":"mallory"}"#;

#[test]
fn frames_that_are_cut_off_and_closed_leave_nothing_behind() {
    let mut neighbours = Neighbours::start(&[]);
    let text = text_frame(HELLO.as_bytes());
    let native = native_frame(HELLO);
    for cut in [1, 2, 5, 7, 20] {
        let mut peer = neighbours.websocket();
        peer.send(&text[..cut]);
        let mut peer = neighbours.native();
        peer.send(&native[..cut]);
        let mut peer = neighbours.native();
        peer.send(&native[..cut]);
        peer.reset();
        let mut peer = RawPeer::connect(neighbours.server.address());
        peer.send(&UPGRADE.as_bytes()[..cut]);
        let mut peer = RawPeer::connect(neighbours.server.address());
        peer.send(&PREAMBLE[..cut.min(7)]);
    }
    neighbours.notice_nothing();
}

#[test]
fn bytes_of_no_protocol_and_other_versions_are_closed() {
    let mut neighbours = Neighbours::start(&[]);
    for bytes in [&b"get / http/1.1\r\n\r\n"[..], b"\x16\x03\x01\x02\x00\x01", b"\0", &[0xba, 0x4e, 0x00]] {
        let mut peer = RawPeer::connect(neighbours.server.address());
        peer.send(bytes);
        assert!(peer.read_to_end().is_empty(), "{bytes:02x?}");
    }
    let mut preamble = PREAMBLE;
    preamble[7] = 2;
    let mut peer = RawPeer::connect(neighbours.server.address());
    peer.send(&preamble);
    assert_eq!(peer.native_refusal(), "bad_frame");
    neighbours.notice_nothing();
}

#[test]
fn a_head_that_is_too_large_or_malformed_is_answered_with_its_status() {
    let mut neighbours = Neighbours::start(&[]);
    let flood = "X-A: b\r\n".repeat(1_100);
    let cases = [
        (format!("GET /ws HTTP/1.1\r\nHost: h\r\nX-Long: {}", "x".repeat(9_000)), "431"),
        (format!("GET / HTTP/1.1\r\nHost: h\r\n{flood}\r\n"), "431"),
        (format!("GET /nothing HTTP/1.1\r\nHost: h\r\n{}\r\n", &flood[..64 * 8]), "404"),
        (format!("GET /{} HTTP/1.1\r\n", "x".repeat(9_000)), "431"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "400"),
        (UPGRADE.replace("Key: dGhl", "Key: "), "400"),
        (UPGRADE.replace("Version: 13", "Version: 8"), "426"),
        ("GET /ws HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "426"),
        ("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\nabc".to_owned(), "405"),
        ("GET / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned(), "501"),
        ("GET / HTTP/2.0\r\nHost: h\r\n\r\n".to_owned(), "505"),
        ("GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "404"),
        ("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), "200"),
    ];
    for (head, status) in cases {
        let mut peer = RawPeer::connect(neighbours.server.address());
        peer.send_anyway(head.as_bytes());
        let answer = String::from_utf8_lossy(&peer.read_to_end()).into_owned();
        let shown = &head[..head.len().min(60)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{shown:?}: {answer:?}");
    }
    neighbours.notice_nothing();
}

#[test]
fn a_slow_handshake_is_ended_at_its_deadline_however_it_drips() {
    let mut neighbours = Neighbours::start(&["--handshake-timeout-ms", "300"]);
    let address = neighbours.server.address();
    let started = Instant::now();
    let mut silent = RawPeer::connect(address);
    let mut head = RawPeer::connect(address);
    let mut preamble = RawPeer::connect(address);
    preamble.send(&PREAMBLE[..5]);
    let mut greeted = [neighbours.websocket(), neighbours.native()];
    // A byte now and then is no progress.
    let drips = &UPGRADE.as_bytes()[..20];
    for byte in drips {
        head.send_anyway(&[*byte]);
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(head.read_to_end().starts_with(b"HTTP/1.1 408 "));
    silent.read_to_end();
    preamble.read_to_end();
    // Behind the handshake `hello` is still due.
    assert_eq!(greeted[0].refusal(), ("timed_out".to_owned(), 1008));
    assert_eq!(greeted[1].native_refusal(), "timed_out");
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    drop((silent, head, preamble, greeted));
    neighbours.notice_nothing();
}

#[test]
fn a_peer_that_resets_in_the_middle_of_a_fan_out_harms_nobody() {
    let mut neighbours = Neighbours::start(&[]);
    let mut readers: Vec<WireClient> =
        (0..20).map(|index| WireClient::hello(neighbours.server.address(), Form::Json, &format!("r{index}"))).collect();
    readers.iter_mut().for_each(|reader| drop(reader.join("quiet")));
    let body = "x".repeat(20_000);
    let mut last = 0;
    for round in 0..60 {
        let posted = neighbours.witness.post("quiet", json!(body));
        last = posted["sequence"].as_u64().expect("a sequence");
        if round % 3 == 0 && readers.len() > 1 {
            // It has unread bytes, and more are on their way.
            let gone = readers.pop().expect("a reader");
            set_socket_linger(gone.stream(), Some(Duration::ZERO)).expect("linger");
        }
    }
    assert_eq!(readers.len(), 1);
    for sequence in 1..=last {
        assert_eq!(readers[0].take_type("message")["sequence"], sequence);
        assert_eq!(neighbours.witness.take_type("message")["sequence"], sequence);
    }
    drop(readers);
    neighbours.notice_nothing();
}

#[test]
fn the_end_of_a_connection_never_meets_the_next_one_in_its_place() {
    let mut neighbours = Neighbours::start(&[]);
    let address = neighbours.server.address();
    for round in 0..300 {
        // The peer goes with the last words, while the server is still ending its own side: the place is free at once.
        let mut gone = match round % 3 {
            0 => {
                let mut peer = RawPeer::connect(address);
                peer.send(b"GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n");
                peer
            }
            1 => {
                let mut peer = neighbours.native();
                peer.send(&[0xff; 8]);
                peer
            }
            _ => {
                let mut peer = neighbours.websocket();
                peer.send(&text_frame(b"\xff"));
                peer
            }
        };
        gone.read_some();
        drop(gone);
        let mut next = WireClient::hello(address, Form::ALL[round % 3], "next");
        assert!(next.has_nothing(), "round {round}");
    }
    neighbours.notice_nothing();
}
