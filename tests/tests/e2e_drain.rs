//! End to end: a server that is told to stop says so, delivers what it acknowledged, and ends in time.

use std::collections::BTreeSet;
use std::net::TcpStream;
use std::time::{Duration, Instant};

use banter_tests::server_process::{PATIENCE, ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Ended, Form, WireClient, stuck_member};
use rustix::process::Signal;
use serde_json::{Value, json};

/// How long a stop may take when everybody reads, also on a busy machine.
const STOP_MAX: Duration = Duration::from_secs(6);

#[test]
fn everybody_is_told_when_to_come_back_and_closed() {
    for &cores in core_counts() {
        for signal in [Signal::TERM, Signal::INT] {
            let mut server = ServerProcess::start(cores, &[]);
            let mut clients: Vec<WireClient> = (0..12)
                .map(|index| WireClient::hello_on(&server, index % cores, Form::ALL[index % 3], "ann"))
                .collect();
            clients.iter_mut().take(6).for_each(|client| drop(client.join("room")));
            server.signal(signal);
            let mut advice = BTreeSet::new();
            for (index, client) in clients.iter_mut().enumerate() {
                let (events, ended) = client.read_to_end();
                assert_eq!(ended, if index % 3 == 2 { Ended::Eof } else { Ended::Closed(1001) }, "{events:?}");
                let [closing] = &events[..] else { panic!("closing and nothing else: {events:?}") };
                assert_eq!((&closing["type"], &closing["code"]), (&json!("closing"), &json!("draining")));
                let reconnect_after_ms = number(&closing["reconnect_after_ms"]);
                assert!((500..1_000).contains(&reconnect_after_ms), "a dozen clients need no longer spread: {closing}");
                advice.insert(reconnect_after_ms);
            }
            assert!(advice.len() > 6 / cores, "spread: {advice:?}");
            drop(clients);
            assert_eq!(server.wait(STOP_MAX).code(), Some(0), "{signal:?}");
            assert!(TcpStream::connect(server.address()).is_err(), "nobody listens there any more");
        }
    }
}

#[test]
fn a_server_with_nobody_there_stops_too() {
    for &cores in core_counts() {
        let mut server = ServerProcess::start(cores, &[]);
        server.signal(Signal::TERM);
        assert_eq!(server.wait(STOP_MAX).code(), Some(0));
    }
}

/// Posts, always some posts ahead of the answers, until the connection ends; gives what it was answered.
fn flood(mut client: WireClient, room: &str) -> Vec<Value> {
    const AHEAD: u64 = 32;
    client.ask(json!({"type": "join", "room": room, "echo": false}));
    let mut answers = Vec::new();
    for id in 10_000.. {
        let post = json!({"type": "post", "id": id, "room": room, "body": id}).to_string();
        if client.try_send(&post).is_err() {
            break;
        }
        if id >= 10_000 + AHEAD {
            match client.try_next_event() {
                Some(answer) => answers.push(answer),
                None => break,
            }
        }
    }
    answers.extend(client.read_to_end().0);
    answers
}

#[test]
fn what_was_acknowledged_was_delivered_before_the_close() {
    for &cores in core_counts() {
        let mut server = ServerProcess::start(cores, &[]);
        const ROOMS: [&str; 3] = ["alpha", "beta", "gamma"];
        let readers: Vec<_> = (0..cores * 2)
            .map(|index| {
                let mut reader = WireClient::hello_on(&server, index % cores, Form::ALL[index % 3], "reader");
                ROOMS.iter().for_each(|room| drop(reader.join(room)));
                std::thread::spawn(move || reader.read_to_end())
            })
            .collect();
        let writers: Vec<_> = ROOMS
            .iter()
            .map(|room| {
                let client = WireClient::hello(server.address(), Form::Native, &format!("writer of {room}"));
                std::thread::spawn(move || (room, flood(client, room)))
            })
            .collect();
        wait_until("the rooms are busy", || server.metric("banter_posts_total") > 2_000);
        server.signal(Signal::TERM);
        let mut acknowledged: BTreeSet<(String, u64)> = BTreeSet::new();
        let mut refused = 0;
        for writer in writers {
            let (room, events) = writer.join().expect("a writer ends");
            for event in events {
                match event["type"].as_str() {
                    Some("posted") => drop(acknowledged.insert((room.to_string(), number(&event["sequence"])))),
                    Some("error") => {
                        assert_eq!(event["code"], "draining");
                        refused += 1;
                    }
                    _ => assert_eq!(event["type"], "closing"),
                }
            }
        }
        for reader in readers {
            let (events, ended) = reader.join().expect("a reader ends");
            assert_ne!(ended, Ended::Broken);
            let messages = events.iter().filter(|event| event["type"] == "message");
            let delivered: BTreeSet<(String, u64)> = messages
                .map(|event| (event["room"].as_str().expect("a room").to_owned(), number(&event["sequence"])))
                .collect();
            let missing: Vec<_> = acknowledged.difference(&delivered).take(3).collect();
            assert!(missing.is_empty(), "acknowledged and not delivered: {missing:?} of {}", acknowledged.len());
        }
        assert_eq!(server.wait(STOP_MAX).code(), Some(0));
        eprintln!("{cores} cores: {} acknowledged, {refused} refused", acknowledged.len());
    }
}

fn number(value: &Value) -> u64 {
    value.as_u64().expect("a number")
}

#[test]
fn a_post_to_a_stopping_server_is_answered_so() {
    let mut server = ServerProcess::start(1, &[]);
    // One that still has to read keeps its connection while the server stops.
    let mut stuck = stuck_member(&server);
    let mut other = WireClient::hello(server.address(), Form::Json, "other");
    server.signal(Signal::TERM);
    assert_eq!(other.next_event()["type"], "closing");
    stuck.send(r#"{"type":"post","id":70,"room":"room","body":"late"}"#);
    stuck.send(r#"{"type":"join","id":71,"room":"elsewhere"}"#);
    for id in [70, 71] {
        assert_eq!(stuck.answer_to(id)["code"], "draining");
    }
    let (events, ended) = stuck.read_to_end();
    assert!(events.iter().any(|event| event["type"] == "closing"));
    // What was acknowledged before came too.
    assert_eq!(
        events.iter().rfind(|event| event["type"] == "message").map(|last| &last["sequence"]),
        Some(&json!(400))
    );
    assert_eq!(ended, Ended::Closed(1001));
    assert_eq!(server.wait(STOP_MAX).code(), Some(0));
}

#[test]
fn a_member_that_does_not_read_holds_a_stop_no_longer_than_its_limit() {
    for &cores in core_counts() {
        let mut server = ServerProcess::start(cores, &["--drain-timeout-ms", "500"]);
        let stuck = stuck_member(&server);
        let started = Instant::now();
        server.signal(Signal::TERM);
        assert_eq!(server.wait(PATIENCE).code(), Some(0));
        assert!(started.elapsed() < Duration::from_secs(6), "{:?}", started.elapsed());
        drop(stuck);
    }
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut server = ServerProcess::start(1, &["--drain-timeout-ms", "600000"]);
    let mut stuck = stuck_member(&server);
    server.signal(Signal::TERM);
    wait_until("it stops", || server.log().contains("stopping"));
    server.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(server.wait(PATIENCE).code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
    stuck.read_to_end();
}
