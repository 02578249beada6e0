//! A ring and a socket on it, with a peer that does what a test wants.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;

use rustix::net::sockopt;

use super::*;

/// A ring, and a connection whose peer has sent `first` before it was taken.
fn connected(first: &[u8]) -> (Net, u32, TcpStream, usize) {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    // Twice that is the most that a program without rights may ask for.
    sockopt::set_socket_recv_buffer_size(&listener, 212_992).unwrap();
    let mut peer = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    peer.set_nonblocking(true).unwrap();
    let sent_bytes = write(&mut peer, first);
    let mut net = Net::new(listener, 4, None).unwrap();
    net.accept(1);
    let (slot, mut events) = (0, Vec::new());
    while events.is_empty() {
        net.submit_and_wait().unwrap();
        net.reap(&mut events);
    }
    assert!(
        matches!(events[..], [NetEvent::Accepted(taken, address)] if taken == slot && address.is_loopback()),
        "{events:?}"
    );
    (net, slot, peer, sent_bytes)
}

/// Writes what the sockets take.
fn write(peer: &mut TcpStream, mut bytes: &[u8]) -> usize {
    let whole = bytes.len();
    loop {
        match peer.write(bytes) {
            Ok(0) => return whole,
            Ok(written) => bytes = &bytes[written..],
            Err(error) if error.kind() == ErrorKind::WouldBlock => return whole - bytes.len(),
            Err(error) => panic!("{error}"),
        }
    }
}

/// One turn: what happened, and the bytes that came of each buffer.
fn turn(net: &mut Net) -> (Vec<NetEvent>, Vec<Vec<u8>>) {
    net.submit().unwrap();
    if !net.is_busy() {
        net.submit_and_wait().unwrap();
    }
    let (mut events, mut buffers) = (Vec::new(), Vec::new());
    net.reap(&mut events);
    let mut others = Vec::new();
    for event in events {
        match event {
            NetEvent::Received(_, received) => net.with_bytes(received, |bytes, _| buffers.push(bytes.to_vec())),
            other => others.push(other),
        }
    }
    net.receive_again();
    (others, buffers)
}

fn numbered(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|index| (index / 251 + index) as u8).collect()
}

#[test]
fn a_turn_brings_one_buffer_of_what_waits_in_a_socket_and_the_next_ones_the_rest() {
    let bytes = numbered(1 << 20);
    let (mut net, _, _peer, sent_bytes) = connected(&bytes);
    assert!(sent_bytes > 4 * BUFFER_BYTES, "{sent_bytes} bytes wait");
    let mut came = Vec::new();
    while came.len() < 4 * BUFFER_BYTES {
        let (_, buffers) = turn(&mut net);
        assert!(buffers.len() <= 1, "{} buffers in a turn", buffers.len());
        came.extend(buffers.concat());
    }
    assert!(came[..] == bytes[..came.len()], "in order, each once");
}

#[test]
fn a_paused_socket_brings_one_more_buffer_at_most_until_it_is_resumed() {
    let bytes = numbered(1 << 20);
    let (mut net, slot, mut peer, sent_bytes) = connected(&bytes);
    let mut came = turn(&mut net).1.concat();
    net.pause(slot);
    came.extend(turn(&mut net).1.concat());
    assert!(came.len() <= 2 * BUFFER_BYTES);
    net.submit().unwrap();
    assert!(!net.is_busy());
    net.resume(slot);
    while came.len() < sent_bytes {
        came.extend(turn(&mut net).1.concat());
    }
    // And where nothing is there it waits for what comes.
    write(&mut peer, b"!");
    came.extend(turn(&mut net).1.concat());
    assert!(came[..sent_bytes] == bytes[..sent_bytes] && came[sent_bytes..] == *b"!", "in order, each once");
}

#[test]
fn a_send_that_waits_says_so_and_each_time_that_it_goes_on() {
    let (mut net, slot, mut peer, _) = connected(b"");
    let bytes = numbered(16 << 20);
    net.send(slot, Sending::Copied(bytes.clone()));
    let (events, _) = turn(&mut net);
    assert!(matches!(events[..], [NetEvent::Waits(_)]), "{events:?}");
    net.look(slot);
    let (events, _) = turn(&mut net);
    assert!(matches!(events[..], [NetEvent::Looked(_, 1..)]), "{events:?}");
    let (mut came, mut went_on) = (Vec::new(), 0);
    let mut buffer = vec![0; 1 << 20];
    while came.len() < bytes.len() {
        match peer.read(&mut buffer) {
            Ok(read) => came.extend_from_slice(&buffer[..read]),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::WouldBlock);
                let (events, _) = turn(&mut net);
                went_on += events.iter().filter(|event| matches!(event, NetEvent::GoesOn(_))).count();
            }
        }
    }
    assert!(came == bytes && went_on > 1, "{went_on} times");
    assert!(!net.is_sending(slot));
    net.look(slot);
    let (events, _) = turn(&mut net);
    assert!(matches!(events[..], [NetEvent::Looked(_, 0)]), "{events:?}");
}

#[test]
fn a_send_that_finds_room_is_done_and_waits_for_nobody() {
    let (mut net, slot, _peer, _) = connected(b"");
    net.send(slot, Sending::Copied(vec![7; 1_000]));
    let (events, _) = turn(&mut net);
    assert!(matches!(events[..], [NetEvent::Sent(_)]), "{events:?}");
}

#[test]
fn an_idle_socket_is_small() {
    // The README's figure of bytes an idle connection stands on it.
    assert!(size_of::<Socket>() <= 48, "{}", size_of::<Socket>());
}

#[test]
fn who_connects_is_told_with_the_accept_also_where_one_socket_takes_both_families() {
    let listener = TcpListener::bind(("::", 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut net = Net::new(listener, 4, None).unwrap();
    net.accept(2);
    let _peers = [TcpStream::connect(("127.0.0.1", port)).unwrap(), TcpStream::connect(("::1", port)).unwrap()];
    let mut events = Vec::new();
    while events.len() < 2 {
        net.submit_and_wait().unwrap();
        net.reap(&mut events);
    }
    let of =
        |event: &NetEvent| if let NetEvent::Accepted(_, address) = event { Some(address.to_string()) } else { None };
    let mut addresses: Vec<_> = events.iter().filter_map(of).collect();
    addresses.sort();
    assert_eq!(addresses, ["127.0.0.1", "::1"]);
}

#[test]
fn a_ring_that_stops_accepting_ends_every_accept_in_flight() {
    let mut net = Net::new(TcpListener::bind(("127.0.0.1", 0)).unwrap(), 4, None).unwrap();
    net.accept(100);
    net.submit().unwrap();
    net.stop_accepting();
    let mut events = Vec::new();
    while net.accepts() > 0 {
        net.submit_and_wait().unwrap();
        net.reap(&mut events);
    }
    assert!(events.is_empty(), "{events:?}");
}
