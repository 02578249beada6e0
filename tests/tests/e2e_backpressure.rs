//! End to end: peers that send more than they let the server answer, or more than their share. They wait; nobody else does.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use banter_protocol::websocket::{FrameKind, write_masked_frame};
use banter_tests::neighbours::Neighbours;
use banter_tests::raw_peer::{UPGRADE, native_frame, text_frame};
use banter_tests::server_process::{holds_within, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::net::sockopt;
use serde_json::json;

/// Bytes that a socket and its peer's take by themselves, whatever the server does: the most that Linux lets them grow to.
const KERNEL_BYTES_MAX: usize = 12 << 20;

/// A peer that has upgraded and said hello, and from here on neither reads nor waits for its writes.
fn deaf_peer(neighbours: &Neighbours) -> TcpStream {
    let mut stream = TcpStream::connect(neighbours.server.address()).expect("the server accepts");
    sockopt::set_socket_send_buffer_size(&stream, 64 << 10).expect("a socket takes a buffer's size");
    stream.write_all(UPGRADE.as_bytes()).expect("the server takes bytes");
    stream.write_all(&text_frame(br#"{"type":"hello","user":"mallory"}"#)).expect("the server takes bytes");
    stream.set_nonblocking(true).expect("a socket takes it");
    stream
}

/// Writes the same over and over until nothing is taken any more or that many bytes were; says how many.
fn write_until_blocked(stream: &mut TcpStream, what: &[u8], bytes_max: usize) -> usize {
    let (mut written, mut at) = (0, 0);
    while written < bytes_max {
        let takes = holds_within(Duration::from_millis(500), || match stream.write(&what[at..]) {
            Ok(bytes) => {
                (written, at) = (written + bytes, (at + bytes) % what.len());
                true
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("the server ended it: {error}"),
        });
        if !takes {
            break;
        }
    }
    written
}

fn ping_frames(count: usize) -> Vec<u8> {
    let mut frame = Vec::new();
    write_masked_frame(&mut frame, FrameKind::Ping, [1, 2, 3, 4], &[b'p'; 100]);
    frame.repeat(count)
}

#[test]
fn a_flood_of_requests_is_taken_by_shares_each_turn_and_answered_to_the_last() {
    const PINGS: u64 = 64_000;
    let mut neighbours = Neighbours::start(&[]);
    let mut flooding = WireClient::hello(neighbours.server.address(), Form::Native, "flooding");
    let turns = neighbours.server.metric("banter_turns_total");
    let frame = native_frame(r#"{"type":"ping"}"#);
    let mut writing = flooding.stream().try_clone().expect("a second descriptor");
    let flood = std::thread::spawn(move || writing.write_all(&frame.repeat(PINGS as usize)));
    for _ in 0..PINGS {
        assert_eq!(flooding.next_event()["type"], "pong");
    }
    flood.join().expect("ends").expect("all was taken");
    let turns = neighbours.server.metric("banter_turns_total") - turns;
    assert!(turns >= PINGS / 64, "{turns} turns");
    drop(flooding);
    neighbours.notice_nothing();
}

#[test]
fn who_sends_without_reading_is_stopped_by_its_socket_and_costs_bounded_memory() {
    let mut neighbours = Neighbours::start(&["--fetches-per-second-max", "0"]);
    let body = "x".repeat(10_000);
    (0..50).for_each(|_| drop(neighbours.witness.post("quiet", json!(body))));
    (0..50).for_each(|_| drop(neighbours.witness.take_type("message")));
    let before = neighbours.server.memory_bytes();
    let mut peers: Vec<TcpStream> = (0..3).map(|_| deaf_peer(&neighbours)).collect();
    for peer in &mut peers {
        let fetch = text_frame(br#"{"type":"fetch","id":1,"room":"quiet","after":0}"#);
        assert_eq!(write_until_blocked(peer, &fetch, 400 * fetch.len()), 400 * fetch.len());
    }
    wait_until("they are not read", || neighbours.server.metric("banter_pauses_total") >= 3);
    let pings = ping_frames(600);
    for peer in &mut peers {
        let written = write_until_blocked(peer, &pings, 300 << 20);
        assert!(written < KERNEL_BYTES_MAX, "{written} bytes were taken");
    }
    let held = neighbours.server.metric("banter_held_bytes");
    assert!((1..=3 * (16 << 10)).contains(&held), "{held} bytes are held");
    let grown = neighbours.server.memory_bytes().saturating_sub(before);
    // What is held, and an outbox with a page for each.
    assert!(grown < 6 << 20, "{grown} bytes more");
    // Who reads again loses no answer, and nothing stays behind.
    let mut pages = 0;
    let mut buffer = vec![0; 1 << 20];
    wait_until("all pages come", || {
        if let Ok(bytes) = peers[0].read(&mut buffer) {
            pages += String::from_utf8_lossy(&buffer[..bytes]).matches(r#""more":"#).count();
        }
        pages >= 395
    });
    assert_eq!(neighbours.server.metric("banter_held_overflows_total"), 0);
    drop(peers);
    neighbours.notice_nothing();
    assert_eq!(neighbours.server.metric("banter_held_bytes"), 0);
}
