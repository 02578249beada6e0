//! End to end: a client that is cut off comes back and misses nothing, gets nothing twice and posts nothing twice.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use banter_client::{Body, BodyFormat, Client, Event, Join, JoinFrom, Options, UserName};
use banter_tests::cut_proxy::CutProxy;
use banter_tests::server_process::{PATIENCE, ServerProcess, Start, core_counts};
use banter_tests::wire_client::{Ended, Form, WireClient};
use rustix::process::Signal;
use serde_json::json;

const MEMORY: [&str; 2] = ["--durability", "memory"];

/// A client that comes back at once.
fn eager(address: std::net::SocketAddr, user: &str, seed: u64) -> Client {
    let mut options = Options::new(UserName::new(user).expect("a name"), seed);
    options.reconnect_first = Duration::from_millis(1);
    options.reconnect_max = Duration::from_millis(5);
    Client::with_options(&address.to_string(), options)
}

#[test]
fn a_client_that_is_cut_off_resumes_behind_its_cursor() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let proxy = CutProxy::start(server.address());
        let mut writer = WireClient::hello(server.address(), Form::Native, "writer");
        let epoch = writer.join("room")["epoch"].clone();
        let mut read = 0;
        for (round, form) in Form::ALL.iter().cycle().take(6).enumerate() {
            let mut reader = WireClient::hello(proxy.address(), *form, "reader");
            let after = json!({"epoch": epoch, "sequence": read});
            reader.ask(json!({"type": "join", "room": "room", "after": after}));
            for live in 0..5 {
                writer.post("room", json!([round, live]));
            }
            // What it missed and what is live, up to a few that are on their way when the connection is cut.
            for _ in 0..if round == 0 { 3 } else { 10 } {
                read += 1;
                assert_eq!(reader.take_type("message")["sequence"], read);
            }
            proxy.cut();
            while let Some(event) = reader.try_next_event() {
                read += 1;
                assert_eq!(event["sequence"], read, "it had come before the cut");
            }
            for missed in 0..8 {
                writer.post("room", json!([round, "missed", missed]));
            }
        }
    }
}

#[test]
fn the_rust_client_reads_everything_once_over_a_link_that_keeps_breaking() {
    const MESSAGES: u64 = 300;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        // Seeded: the same cuts in the same places of the streams.
        let proxy = CutProxy::cutting(server.address(), 7 + cores as u64, 3_000);
        let mut writer = WireClient::hello(server.address(), Form::Json, "writer");
        writer.join("room");
        let mut reader = eager(proxy.address(), "reader", 1);
        reader.join("room", Join { from: JoinFrom::Last(10_000), ..Join::default() }).expect("a name");
        let deadline = Instant::now() + PATIENCE;
        let mut read = 0;
        for sequence in 1..=MESSAGES {
            writer.post("room", json!(sequence));
            while read < sequence.saturating_sub(20) || (sequence == MESSAGES && read < MESSAGES) {
                assert!(Instant::now() < deadline, "{read} of {sequence}");
                match reader.next_event(Duration::from_millis(100)).expect("a session that goes on") {
                    Some(Event::Message(message)) => {
                        read += 1;
                        assert_eq!(message.cursor.sequence.0, read);
                        assert_eq!(message.body.bytes, read.to_string().as_bytes());
                    }
                    Some(Event::Gap { from, to, .. }) => panic!("a gap {from:?} {to:?}"),
                    Some(Event::HistoryLost { .. }) => panic!("the history is not lost"),
                    _ => {}
                }
            }
        }
        assert!(proxy.cuts() > 5, "the link broke only {} times", proxy.cuts());
    }
}

#[test]
fn the_rust_client_posts_everything_once_over_a_link_that_keeps_breaking() {
    const POSTS: u64 = 400;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let proxy = CutProxy::cutting(server.address(), 99 + cores as u64, 3_000);
        let mut observer = WireClient::hello(server.address(), Form::Json, "observer");
        observer.join("room");
        let mut writer = eager(proxy.address(), "writer", 2);
        writer.join("room", Join::default()).expect("a name");
        // All at once: far more than one connection carries.
        let tickets: BTreeMap<_, _> = (0..POSTS)
            .map(|post| {
                let body = post.to_string();
                let body = Body { format: BodyFormat::Json, bytes: body.as_bytes() };
                (writer.post("room", body).expect("there is room"), post)
            })
            .collect();
        let deadline = Instant::now() + PATIENCE;
        let mut places = BTreeMap::new();
        while places.len() < POSTS as usize {
            assert!(Instant::now() < deadline, "{} of {POSTS}", places.len());
            match writer.next_event(Duration::from_millis(100)).expect("a session that goes on") {
                Some(Event::Posted(posted)) => {
                    assert_eq!(
                        places.insert(posted.cursor.sequence.0, tickets[&posted.ticket]),
                        None,
                        "one place each"
                    );
                }
                Some(Event::Refused { what, code, message, .. }) => panic!("{what:?}: {code:?} {message}"),
                _ => {}
            }
        }
        for sequence in 1..=POSTS {
            let message = observer.next_event();
            assert_eq!((&message["sequence"], &message["body"]), (&json!(sequence), &json!(places[&sequence])));
            assert_eq!(places[&sequence], sequence - 1, "in the order of the tickets");
        }
        assert!(observer.has_nothing(), "nothing was stored twice");
        assert!(proxy.cuts() > 5, "the link broke only {} times", proxy.cuts());
    }
}

#[test]
fn a_restart_is_a_new_history_of_a_room_in_memory_and_an_old_cursor_is_told_so() {
    for &cores in core_counts() {
        let folder = tempfile::TempDir::new().expect("a temporary folder");
        let mut epochs = Vec::new();
        for _ in 0..3 {
            let mut server = Start::new(cores, &MEMORY).data(folder.path()).run();
            let mut client = WireClient::hello(server.address(), Form::Json, "ann");
            for epoch in &epochs {
                let after = json!({"epoch": epoch, "sequence": 1});
                let refused = client.ask(json!({"type": "join", "room": "room", "after": after}));
                assert_eq!(refused["code"], "wrong_epoch");
            }
            epochs.push(client.join("room")["epoch"].clone());
            assert_eq!(client.post("room", json!("first"))["sequence"], 1);
            server.signal(Signal::TERM);
            assert_eq!(client.read_to_end().1, Ended::Closed(1001));
            assert_eq!(server.wait(PATIENCE).code(), Some(0));
        }
    }
}

/// A client over a proxy, a post, kill -9, another server on the same folder, and a second post: its place, and what the
/// client was told in between.
fn post_over_a_restart(flags: &[&str]) -> (u64, Vec<Event>) {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let mut server = Start::new(1, flags).data(folder.path()).run();
    // A port that was given up may be another's by the time the second server starts: a proxy's stays.
    let proxy = CutProxy::start(server.address());
    let mut client = eager(proxy.address(), "ann", 3);
    client.join("room", Join::default()).expect("a name");
    client.post_json("room", "1", PATIENCE).expect("acknowledged");
    server.signal(Signal::KILL);
    server.wait(PATIENCE);
    let second = Start::new(1, flags).data(folder.path()).run();
    proxy.lead_to(second.address());
    let posted = client.post_json("room", "2", PATIENCE).expect("acknowledged by the second server");
    let mut told = Vec::new();
    while let Some(event) = client.next_event(Duration::from_millis(1)).expect("a session that goes on") {
        told.push(event);
    }
    (posted.cursor.sequence.0, told)
}

#[test]
fn the_rust_client_goes_on_with_a_server_that_was_restarted() {
    let is_lost = |event: &Event| matches!(event, Event::HistoryLost { .. });
    let (sequence, told) = post_over_a_restart(&[]);
    assert_eq!(sequence, 2, "the history goes on");
    assert!(!told.iter().any(is_lost), "{told:?}");
    let (sequence, told) = post_over_a_restart(&MEMORY);
    assert_eq!(sequence, 1, "the history began anew");
    assert!(told.iter().any(is_lost), "and the client says so: {told:?}");
}
