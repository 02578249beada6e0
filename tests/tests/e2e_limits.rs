//! End to end: every limit that a client can run into is answered by its name, and what is below it goes on.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use banter_tests::raw_peer::{RawPeer, UPGRADE, native_events, server_frames, text_frame};
use banter_tests::server_process::{ServerProcess, Start, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient, narrow_stream};
use serde_json::{Value, json};

#[test]
fn a_connection_joins_no_more_rooms_than_its_limit() {
    let server = ServerProcess::start(1, &["--rooms-per-connection-max", "2"]);
    let mut client = WireClient::hello(server.address(), Form::Json, "ann");
    client.join("one");
    client.join("two");
    let refused = client.ask(json!({"type": "join", "room": "three"}));
    assert_eq!((&refused["code"], refused["retry_after_ms"].is_u64()), (&json!("overloaded"), true));
    // Joining again is no further room, and a place that was left is free.
    client.join("two");
    assert_eq!(client.ask(json!({"type": "leave", "room": "one"}))["type"], "left");
    client.join("three");
}

#[test]
fn the_server_makes_no_more_rooms_than_its_limit() {
    for &cores in core_counts() {
        let limit = (2 * cores).to_string();
        let server = ServerProcess::start(cores, &["--rooms-max", &limit]);
        let mut client = WireClient::hello(server.address(), Form::Json, "ann");
        let joins: Vec<Value> =
            (0..20).map(|room| client.ask(json!({"type": "join", "room": format!("room {room}")}))).collect();
        let joined = joins.iter().filter(|join| join["type"] == "joined").count();
        let refused = joins.iter().filter(|join| join["code"] == "overloaded").count();
        assert_eq!((joined, refused), (2 * cores, 20 - 2 * cores));
        assert_eq!(server.metric("banter_rooms"), 2 * cores as u64);
    }
}

#[test]
fn posts_above_the_rate_are_refused_until_the_time_that_they_are_told() {
    let server = ServerProcess::start(1, &["--posts-per-second-max", "5"]);
    let mut client = WireClient::hello(server.address(), Form::Json, "ann");
    let mut other = WireClient::hello(server.address(), Form::Json, "bob");
    client.join("busy");
    other.join("busy");
    let post = |id: u64| json!({"type": "post", "id": id, "room": "busy", "body": id}).to_string();
    (100..130).for_each(|id| client.send(&post(id)));
    let answers: Vec<Value> = (100..130).map(|id| client.answer_to(id)).collect();
    let refused: Vec<&Value> = answers.iter().filter(|answer| answer["code"] == "rate_limited").collect();
    // On a machine that is held up, more than one second's worth may pass.
    assert!(refused.len() >= 10, "{answers:?}");
    let after_ms = refused[refused.len() - 1]["retry_after_ms"].as_u64().expect("when to try again");
    assert!((1..=200).contains(&after_ms), "{after_ms}");
    assert_eq!(other.post("busy", json!("mine"))["type"], "posted", "each connection has its own");
    std::thread::sleep(Duration::from_millis(after_ms + 1));
    assert_eq!(client.post("busy", json!("again"))["type"], "posted");
    assert_eq!(server.refusals("rate_limited"), refused.len() as u64);
}

#[test]
fn every_kind_of_request_has_a_rate_of_its_own_and_a_refusal_says_whose_it_is() {
    let kinds = [
        ("signals_per_second_max", json!({"type": "signal", "room": "busy", "body": 0})),
        ("joins_per_second_max", json!({"type": "join", "room": "busy"})),
        ("fetches_per_second_max", json!({"type": "fetch", "room": "busy", "after": 0})),
        ("members_per_second_max", json!({"type": "members", "room": "busy"})),
    ];
    for (limit, ask) in &kinds {
        let flag = format!("--{}", limit.replace('_', "-"));
        let server = ServerProcess::start(1, &[&flag, "3"]);
        let mut client = WireClient::hello(server.address(), Form::Json, "ann");
        client.join("busy");
        for id in 100..140u64 {
            let mut request = ask.clone();
            request["id"] = id.into();
            client.send(&request.to_string());
        }
        client.send(r#"{"type":"ping","id":1}"#);
        let refused = client.take("a refusal", |event| event["code"] == "rate_limited");
        assert_eq!(refused["scope"], "connection", "{limit}: {refused}");
        assert!(refused["message"].as_str().is_some_and(|message| message.contains(limit)), "{refused}");
        assert!((1..=334).contains(&refused["retry_after_ms"].as_u64().expect("when to try again")), "{refused}");
        assert_eq!(client.answer_to(1)["type"], "pong", "what has no rate is taken");
        assert!(server.refusals("rate_limited") >= 30, "{limit}");
        assert_eq!(client.post("busy", json!("mine"))["type"], "posted", "{limit}: and what has another");
        assert_eq!(client.ask(json!({"type": "leave", "room": "busy"}))["type"], "left");
    }
}

#[test]
fn connections_above_the_limit_are_told_so_and_those_below_go_on() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--connections-max", "2"]);
        let mut first = WireClient::hello(server.address(), Form::Json, "ann");
        let second = WireClient::hello(server.address(), Form::Native, "bob");
        for _ in 0..3 {
            let mut websocket = RawPeer::connect(server.address());
            websocket.send(UPGRADE.as_bytes());
            websocket.send(&text_frame(br#"{"type":"hello","user":"eve"}"#));
            let answer = websocket.read_to_end();
            let head = answer.windows(4).position(|end| end == b"\r\n\r\n").expect("a head");
            assert!(answer.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&answer));
            let frames = server_frames(&answer[head + 4..]);
            let error: Value = serde_json::from_slice(&frames[0].payload).expect("JSON");
            assert_eq!((&error["code"], error["retry_after_ms"].is_u64()), (&json!("overloaded"), true));
            assert_eq!((frames[1].opcode, &frames[1].payload[..2]), (8, &1013u16.to_be_bytes()[..]));
            let mut native = RawPeer::native(server.address());
            let error = native_events(&native.read_to_end()).pop().expect("an event");
            assert_eq!((&error["code"], error["retry_after_ms"].is_u64()), (&json!("overloaded"), true));
        }
        assert!(server.http("GET /healthz HTTP/1.1\r\nHost: h\r\n\r\n").starts_with("HTTP/1.1 200 "));
        assert!(first.has_nothing());
        assert!(server.metric("banter_refused_connections_total") >= 6);
        drop(second);
        wait_until("there is a place again", || is_welcome(server.address()));
    }
}

#[test]
fn a_silent_peer_is_asked_and_then_ended() {
    let server = ServerProcess::start(1, &["--idle-timeout-ms", "1000"]);
    let started = Instant::now();
    let mut websocket = RawPeer::websocket(server.address());
    websocket.send(&text_frame(br#"{"type":"hello","user":"ann"}"#));
    let mut native = RawPeer::native(server.address());
    native.send_native(r#"{"type":"hello","user":"bob"}"#);
    // One that answers, as tungstenite does by itself while it reads, stays.
    let mut living = WireClient::hello(server.address(), Form::Json, "eve");
    let ending = std::thread::spawn(move || {
        let frames = websocket.frames_to_end();
        (frames, native_events(&native.read_to_end()))
    });
    while !ending.is_finished() && started.elapsed() < Duration::from_secs(20) {
        living.stream().set_read_timeout(Some(Duration::from_millis(50))).expect("a socket takes a timeout");
        living.answer_pings();
    }
    let (frames, events) = ending.join().expect("ends");
    let opcodes: Vec<u8> = frames.iter().map(|frame| frame.opcode).collect();
    assert_eq!(opcodes, [1, 9, 1, 8], "welcome, ping, error, close");
    assert_eq!(&frames[3].payload[..2], &1008u16.to_be_bytes());
    let types: Vec<&Value> = events.iter().map(|event| &event["type"]).collect();
    assert_eq!(types, ["welcome", "keep_alive", "error"]);
    assert_eq!(events[2]["code"], "timed_out");
    assert!(started.elapsed() >= Duration::from_millis(1_000), "{:?}", started.elapsed());
    assert!(living.has_nothing());
}

#[test]
fn who_does_not_take_the_answer_to_a_plain_request_loses_the_place() {
    let server = ServerProcess::start(1, &["--connections-max", "1", "--handshake-timeout-ms", "200"]);
    let mut stream = narrow_stream(server.address());
    stream.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").expect("the server takes bytes");
    wait_until("the place is free", || is_welcome(server.address()));
}

fn is_welcome(address: SocketAddr) -> bool {
    let mut peer = WireClient::connect(address, Form::Native);
    let sent = peer.try_send(r#"{"type":"hello","id":1,"user":"bob"}"#).is_ok();
    sent && peer.try_next_event().is_some_and(|event| event["type"] == "welcome")
}

#[test]
fn a_server_without_descriptors_left_neither_spins_nor_forgets_who_is_there() {
    // A ring's table of sockets has 20 places per core then: the limit less what the server keeps for itself.
    for &cores in core_counts() {
        let places = 20;
        let server = Start::new(cores, &[]).descriptors_max(64 + 32 * cores as u32 + places).run();
        let mut there = WireClient::hello(server.address(), Form::Json, "ann");
        there.join("room");
        let mut crowd: Vec<WireClient> = Vec::new();
        // More than all cores together have room for.
        let mut refused: Vec<TcpStream> = Vec::new();
        while server_is_taking(&server, &mut crowd, &mut refused) {
            assert!(crowd.len() < (places as usize + 1) * cores, "a table has its limit");
        }
        assert!(crowd.len() >= places as usize / 2, "{}", crowd.len());
        // It goes on serving those it has.
        assert_eq!(there.post("room", json!(1))["type"], "posted");
        // Newcomers keep knocking, and still it does not spin.
        refused.extend((0..10).filter_map(|_| TcpStream::connect(server.address()).ok()));
        let (cpu, started) = (server.cpu_time(), Instant::now());
        std::thread::sleep(Duration::from_millis(1_500));
        let share = (server.cpu_time() - cpu).as_secs_f64() / started.elapsed().as_secs_f64();
        assert!(share < 0.2, "the server uses {share} of a core for nothing");
        drop((crowd, refused));
        wait_until("connections are taken again", || is_welcome(server.address()));
        assert_eq!(there.post("room", json!(2))["type"], "posted");
        assert!(server.metric("banter_accept_failures_total") > 0);
    }
}

/// Tries one more connection; false when the server did not take it.
fn server_is_taking(server: &ServerProcess, crowd: &mut Vec<WireClient>, refused: &mut Vec<TcpStream>) -> bool {
    let stream = TcpStream::connect(server.address()).expect("the kernel's queue takes it");
    let mut client = WireClient::over(stream.try_clone().expect("a second descriptor"), Form::Native);
    stream.set_read_timeout(Some(Duration::from_millis(700))).expect("a socket takes a timeout");
    let sent = client.try_send(r#"{"type":"hello","id":1,"user":"crowd"}"#);
    let is_served = sent.is_ok() && stream.peek(&mut [0]).is_ok_and(|bytes| bytes > 0);
    if is_served {
        assert_eq!(client.next_event()["type"], "welcome");
        crowd.push(client);
    } else {
        refused.push(stream);
    }
    is_served
}
