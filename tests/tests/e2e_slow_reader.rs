//! End to end: who does not read costs nobody else anything, and misses nothing without being told.

use std::time::{Duration, Instant};

use banter_tests::server_process::{ServerProcess, core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient, narrow_stream};
use serde_json::{Value, json};

const BODY_BYTES: usize = 10_000;

/// A member that is connected so narrowly that it falls behind early, and does not read.
fn slow(server: &ServerProcess, form: Form, user: &str, room: &str) -> WireClient {
    let mut client = WireClient::over(narrow_stream(server.address()), form);
    client.say_hello(user);
    client.join(room);
    client
}

/// A member on each core.
fn members(server: &ServerProcess, cores: usize, room: &str) -> Vec<WireClient> {
    let mut members: Vec<WireClient> =
        (0..cores).map(|core| WireClient::hello_on(server, core, Form::Json, &format!("member {core}"))).collect();
    members.iter_mut().for_each(|member| drop(member.join(room)));
    members
}

/// One member posts, and all of them read; gives the longest time from a post to the last of them.
fn talk(members: &mut [WireClient], room: &str, messages: u64) -> Duration {
    let body = "x".repeat(BODY_BYTES);
    let mut longest = Duration::ZERO;
    for _ in 0..messages {
        let started = Instant::now();
        let sequence = members[0].post(room, json!(body))["sequence"].clone();
        for member in members.iter_mut() {
            assert_eq!(member.take_type("message")["sequence"], sequence);
        }
        longest = longest.max(started.elapsed());
    }
    longest
}

/// Reads a room from one sequence to another, and gives the gaps; what comes must cover each sequence once, in order.
fn read(client: &mut WireClient, from: u64, through: u64) -> Vec<(u64, u64)> {
    let mut gaps = Vec::new();
    let mut next = from;
    while next <= through {
        let event = client.take("a message or a gap", |event| event["type"] == "message" || event["type"] == "gap");
        if event["type"] == "message" {
            assert_eq!(event["sequence"], next);
            next += 1;
        } else {
            let (from, to) = (&event["from"], event["to"].as_u64().expect("a sequence"));
            assert_eq!((from, &event["first_available"]), (&json!(next), &json!(to + 1)));
            gaps.push((next, to));
            next = to + 1;
        }
    }
    gaps
}

#[test]
fn a_slow_reader_does_not_delay_the_room_and_costs_bounded_memory() {
    const MESSAGES: u64 = 1_500;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--durability", "memory", "--history-messages-max", "100"]);
        let mut members = members(&server, cores, "busy");
        talk(&mut members, "busy", 200);
        let mut slow: Vec<WireClient> =
            (0..9).map(|index| slow(&server, Form::ALL[index % 3], &format!("slow {index}"), "busy")).collect();
        let before = server.memory_bytes();
        let longest = talk(&mut members, "busy", MESSAGES);
        let grown = server.memory_bytes().saturating_sub(before);
        // Nine copies of all that was said would be 135 MB; each may have one outbox, and pin one chunk.
        assert!(grown < 16 << 20, "{cores} cores: {grown} bytes more");
        assert!(longest < Duration::from_secs(2), "{cores} cores: a message took {longest:?}");
        assert!(server.metric("banter_run_bytes") <= 3 * cores as u64 * (640 << 10));
        for (index, slow) in slow.iter_mut().enumerate() {
            let gaps = read(slow, 201, 200 + MESSAGES);
            // It read what was under way, was told once what is gone, and got the rest.
            assert_eq!(gaps.len(), 1, "slow {index}: {gaps:?}");
            assert!(gaps[0].1 >= MESSAGES + 200 - 100, "the history holds 100: {gaps:?}");
        }
        wait_until("all have caught up", || server.metric("banter_subscriptions_behind") == 0);
        // And is live again.
        talk(&mut members, "busy", 1);
        assert_eq!(slow[0].take_type("message")["sequence"], 200 + MESSAGES + 1);
        assert_eq!(server.metric("banter_gaps_total"), slow.len() as u64);
        assert!(server.metric("banter_fell_behind_total") >= slow.len() as u64);
    }
}

#[test]
fn a_slow_reader_gets_everything_that_the_history_holds() {
    const MESSAGES: u64 = 600;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut members = members(&server, cores, "busy");
        let mut slow: Vec<WireClient> = Form::ALL.iter().map(|form| slow(&server, *form, "slow", "busy")).collect();
        talk(&mut members, "busy", MESSAGES);
        for slow in &mut slow {
            assert_eq!(read(slow, 1, MESSAGES), []);
            assert!(slow.has_nothing());
        }
        wait_until("all have caught up", || server.metric("banter_subscriptions_behind") == 0);
    }
}

#[test]
fn a_slow_reader_of_many_rooms_catches_up_in_each() {
    const ROOMS: u64 = 8;
    const MESSAGES: u64 = 60;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let rooms: Vec<String> = (0..ROOMS).map(|room| format!("room {room}")).collect();
        let mut slow = slow(&server, Form::Json, "slow", &rooms[0]);
        rooms[1..].iter().for_each(|room| drop(slow.join(room)));
        let mut writer = WireClient::hello(server.address(), Form::Native, "writer");
        rooms.iter().for_each(|room| drop(writer.ask(json!({"type": "join", "room": room, "echo": false}))));
        let body = "x".repeat(BODY_BYTES);
        for _ in 0..MESSAGES {
            rooms.iter().for_each(|room| drop(writer.post(room, json!(body))));
        }
        let mut read: Vec<u64> = vec![0; rooms.len()];
        while read.iter().any(|&read| read < MESSAGES) {
            let message = slow.take_type("message");
            let room = rooms.iter().position(|room| message["room"] == room.as_str()).expect("one of the rooms");
            read[room] += 1;
            assert_eq!(message["sequence"], read[room], "{}", rooms[room]);
        }
        assert!(slow.has_nothing());
        assert_eq!(server.metric("banter_gaps_total"), 0);
    }
}

#[test]
fn who_asks_without_reading_is_not_read_and_loses_no_answer() {
    const ASKS: u64 = 300;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--fetches-per-second-max", "0"]);
        let mut members = members(&server, cores, "busy");
        talk(&mut members, "busy", 50);
        let mut asker = WireClient::over(narrow_stream(server.address()), Form::Json);
        asker.say_hello("asker");
        let before = server.memory_bytes();
        for id in 1_000..1_000 + ASKS {
            asker.send(&json!({"type": "fetch", "id": id, "room": "busy", "after": 0}).to_string());
        }
        wait_until("it is not read", || server.metric("banter_pauses_total") > 0);
        talk(&mut members, "busy", 100);
        let grown = server.memory_bytes().saturating_sub(before);
        // All its pages are more than 9 MB; its outbox is a quarter of one, and the room said 1 MB.
        assert!(grown < 6 << 20, "{grown} bytes more");
        for id in 1_000..1_000 + ASKS {
            let page = asker.next_event();
            assert_eq!((&page["type"], &page["id"], &page["more"]), (&json!("page"), &json!(id), &Value::Bool(true)));
        }
        assert!(asker.has_nothing());
    }
}

#[test]
fn signals_to_a_slow_reader_are_dropped_and_counted_and_answers_are_not() {
    let server = ServerProcess::start(1, &["--signals-per-second-max", "0"]);
    let mut slow = slow(&server, Form::Json, "slow", "noisy");
    let mut other = WireClient::hello(server.address(), Form::Json, "other");
    let mut writer = WireClient::hello(server.address(), Form::Json, "writer");
    other.join("noisy");
    writer.join("noisy");
    let body = "x".repeat(BODY_BYTES);
    // The kernel takes some megabytes before the server sees that nobody reads.
    wait_until("signals are dropped", || {
        for _ in 0..50 {
            writer.send(&json!({"type": "signal", "room": "noisy", "body": body}).to_string());
            assert_eq!(other.next_event()["type"], "signal");
        }
        server.metric("banter_signals_dropped_total") > 0
    });
    slow.send(r#"{"type":"ping","id":77}"#);
    assert_eq!(slow.answer_to(77)["type"], "pong");
    wait_until("it is live again", || server.metric("banter_subscriptions_behind") == 0);
    writer.send(r#"{"type":"signal","room":"noisy","body":"now"}"#);
    assert_eq!(slow.take("the last signal", |event| event["body"] == "now")["user"], "writer");
}

#[test]
fn messages_as_large_as_they_may_be_are_caught_up_and_fetched() {
    const MESSAGES: u64 = 40;
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let mut slow: Vec<WireClient> = Form::ALL.iter().map(|form| slow(&server, *form, "slow", "large")).collect();
        let mut writer = WireClient::hello(server.address(), Form::Native, "writer");
        writer.join("large");
        // Larger than a page is meant to be, and a third larger again as JSON.
        let body: Vec<u8> = (0..65_000).map(|byte| byte as u8).collect();
        (1..=MESSAGES).for_each(|_| writer.post_bytes("large", &body));
        assert_eq!(read(&mut writer, 1, MESSAGES), []);
        for slow in &mut slow {
            assert_eq!(read(slow, 1, MESSAGES), []);
        }
        let page = slow[0].ask(json!({"type": "fetch", "room": "large", "after": 0}));
        assert_eq!((&page["more"], page["messages"].as_array().map(Vec::len)), (&json!(true), Some(1)));
    }
}
