//! End to end: who is ended for being slow, and who is not: by the peer's fault, and never by the server's own.

use std::io::{ErrorKind, Write as _};
use std::time::{Duration, Instant};

use banter_protocol::frame::PREAMBLE;
use banter_tests::neighbours::Neighbours;
use banter_tests::raw_peer::{RawPeer, native_frame, text_frame};
use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient, narrow_stream};
use rustix::process::Signal;
use serde_json::json;

#[test]
fn after_a_stall_of_the_server_nobody_is_dropped_and_what_lay_in_a_socket_is_done() {
    const IDLE_TIMEOUT: Duration = Duration::from_millis(1_500);
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--idle-timeout-ms", "1500"]);
        let mut clients: Vec<WireClient> = (0..30)
            .map(|index| WireClient::hello(server.address(), Form::ALL[index % 3], &format!("user {index}")))
            .collect();
        clients.iter_mut().for_each(|client| drop(client.join("room")));
        assert!(clients.iter_mut().all(WireClient::has_nothing));
        server.signal(Signal::STOP);
        let post = json!({"type": "post", "id": 900, "room": "room", "body": "while it stood still"});
        clients[7].send(&post.to_string());
        // Longer than anybody may be silent.
        std::thread::sleep(2 * IDLE_TIMEOUT);
        server.signal(Signal::CONT);
        assert_eq!(clients[7].answer_to(900)["type"], "posted");
        for client in &mut clients {
            assert_eq!(client.take_type("message")["body"], "while it stood still");
            assert!(client.has_nothing());
        }
        assert_eq!(server.refusals("timed_out"), 0);
    }
}

#[test]
fn a_deadline_that_a_stall_met_is_judged_behind_all_that_came_in_it() {
    // Looked at every second; the look at the fourth would end them. The stall begins ahead of it.
    const BRINK: Duration = Duration::from_millis(3_300);
    const LATEST: Duration = Duration::from_millis(3_900);
    let server = ServerProcess::start(1, &["--idle-timeout-ms", "4000"]);
    let hello = [&PREAMBLE[..], &native_frame(r#"{"type":"hello","user":"silent"}"#)].concat();
    for _ in 0..3 {
        let started = Instant::now();
        // More than the kernel hands over at a time.
        let mut peers: Vec<RawPeer> = (0..100).map(|_| RawPeer::connect(server.address())).collect();
        peers.iter_mut().for_each(|peer| peer.send(&hello));
        peers.iter_mut().for_each(RawPeer::read_some);
        std::thread::sleep(BRINK.saturating_sub(started.elapsed()));
        server.signal(Signal::STOP);
        let is_in_time = started.elapsed() < LATEST;
        peers.iter_mut().for_each(|peer| peer.send_anyway(&native_frame(r#"{"type":"ping"}"#)));
        std::thread::sleep(Duration::from_secs(2));
        server.signal(Signal::CONT);
        if is_in_time {
            assert_eq!(server.refusals("timed_out"), 0);
            return;
        }
    }
    panic!("this machine is held up so much that nothing can be said");
}

#[test]
fn a_slow_reader_that_reads_is_not_cut_off_though_its_pongs_come_late() {
    const MESSAGES: usize = 200;
    let server = ServerProcess::start(1, &["--idle-timeout-ms", "1000", "--durability", "memory"]);
    let mut writer = WireClient::hello(server.address(), Form::Native, "writer");
    let body = "x".repeat(60_000);
    writer.join("large");
    (0..MESSAGES).for_each(|_| drop((writer.post("large", json!(body)), writer.take_type("message"))));
    let mut reader = WireClient::over(narrow_stream(server.address()), Form::Json);
    reader.say_hello("reader");
    reader.send(&json!({"type": "join", "room": "large", "last": MESSAGES}).to_string());
    let started = Instant::now();
    for sequence in 1..=MESSAGES {
        assert_eq!(reader.take_type("message")["sequence"], sequence);
        // Two megabytes a second, through a socket that holds several of them.
        std::thread::sleep(Duration::from_millis(30));
    }
    assert!(started.elapsed() > Duration::from_secs(4), "several times idle_timeout_ms");
    assert_eq!(reader.ask(json!({"type": "ping"}))["type"], "pong");
}

#[test]
fn who_takes_nothing_of_what_waits_is_ended_and_its_neighbour_notices_nothing() {
    let flags = ["--send-timeout-ms", "400", "--idle-timeout-ms", "0", "--fetches-per-second-max", "0"];
    let mut neighbours = Neighbours::start(&flags);
    let body = "x".repeat(20_000);
    (0..20).for_each(|_| drop(neighbours.witness.post("quiet", json!(body))));
    (0..20).for_each(|_| drop(neighbours.witness.take_type("message")));
    let mut deaf = WireClient::over(narrow_stream(neighbours.server.address()), Form::Json);
    deaf.say_hello("deaf");
    for id in 100..300 {
        deaf.send(&json!({"type": "fetch", "id": id, "room": "quiet", "after": 0}).to_string());
    }
    wait_until("it is ended", || neighbours.server.metric("banter_late_sends_total") == 1);
    assert_eq!(neighbours.server.refusals("timed_out"), 1);
    neighbours.notice_nothing();
}

#[test]
fn who_begins_a_message_and_does_not_end_it_is_ended_however_it_drips() {
    let mut neighbours = Neighbours::start(&["--message-timeout-ms", "400"]);
    let frame = text_frame(br#"{"type":"ping","id":1}"#);
    let mut websocket = neighbours.websocket();
    let mut native = neighbours.native();
    websocket.send(&text_frame(br#"{"type":"hello","user":"dripping"}"#));
    native.send_native(r#"{"type":"hello","user":"dripping"}"#);
    for byte in &frame[..frame.len() - 1] {
        websocket.send_anyway(&[*byte]);
        std::thread::sleep(Duration::from_millis(40));
    }
    native.send(&native_frame(r#"{"type":"ping"}"#)[..5]);
    assert_eq!(websocket.refusal(), ("timed_out".to_owned(), 1008));
    assert_eq!(native.native_refusal(), "timed_out");
    assert_eq!(neighbours.server.metric("banter_late_messages_total"), 2);
    drop((websocket, native));
    neighbours.notice_nothing();
}

#[test]
fn who_sends_for_ever_while_its_connection_ends_is_closed_all_the_same() {
    let mut neighbours = Neighbours::start(&[]);
    let mut peers: Vec<RawPeer> = (0..2).map(|_| neighbours.websocket()).collect();
    peers.push(RawPeer::connect(neighbours.server.address()));
    peers[0].send(&text_frame(b"\xff"));
    peers[1].send(&text_frame(br#"{"type":"hello","user":""}"#));
    peers[1].send(&text_frame(b"\xff"));
    peers[2].send(b"GET /nothing HTTP/1.1\r\nHost: h\r\n\r\n");
    let before = neighbours.server.memory_bytes();
    let flood = vec![b'x'; 256 << 10];
    for peer in &peers {
        peer.stream().set_write_timeout(Some(Duration::from_millis(100))).expect("a socket takes a timeout");
    }
    // Never reading, never ending: until each write fails, since the server has closed.
    let mut open: Vec<&RawPeer> = peers.iter().collect();
    wait_until("all are closed", || {
        open.retain(|peer| match peer.stream().write(&flood) {
            Ok(_) => true,
            Err(error) => matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut),
        });
        open.is_empty()
    });
    assert!(neighbours.server.memory_bytes().saturating_sub(before) < 4 << 20);
    assert_eq!(neighbours.server.metric("banter_held_bytes"), 0);
    drop(peers);
    neighbours.notice_nothing();
}
