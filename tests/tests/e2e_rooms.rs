//! End to end: joining, reading back, posting once, and what a room refuses.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use banter_tests::server_process::{ServerProcess, core_counts};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

/// A server, and a client in a room that holds so many messages; the client heard its own.
fn room_with(cores: usize, flags: &[&str], messages: u64) -> (ServerProcess, WireClient, Value) {
    let server = ServerProcess::start(cores, flags);
    let mut writer = WireClient::hello(server.address(), Form::Json, "writer");
    let epoch = writer.join("room")["epoch"].clone();
    for sequence in 1..=messages {
        assert_eq!(writer.post("room", json!(sequence))["sequence"], sequence);
        assert_eq!(writer.next_event()["sequence"], sequence);
    }
    (server, writer, epoch)
}

fn sequences(page: &Value) -> Vec<u64> {
    page["messages"].as_array().expect("messages").iter().filter_map(|message| message["sequence"].as_u64()).collect()
}

/// The first message that a join gets in a room of so many.
type FirstOf = fn(u64) -> u64;

#[test]
fn a_join_starts_now_or_with_the_last_or_behind_a_cursor() {
    for &cores in core_counts() {
        let (server, mut writer, epoch) = room_with(cores, &[], 10);
        let cases: [(Value, FirstOf); 9] = [
            (json!({}), |head| head + 1),
            (json!({"last": 0}), |head| head + 1),
            (json!({"last": 3}), |head| head - 2),
            (json!({"last": 1000}), |_| 1),
            (json!({"last": null, "after": null}), |head| head + 1),
            (json!({"after": {"epoch": epoch, "sequence": 0}}), |_| 1),
            (json!({"after": {"epoch": epoch, "sequence": 7}}), |_| 8),
            (json!({"after": {"epoch": epoch, "sequence": 10}}), |_| 11),
            (json!({"after": {"epoch": epoch, "sequence": 4}, "last": 1}), |_| 5),
        ];
        for (index, (from, first)) in cases.iter().enumerate() {
            let mut reader = WireClient::hello_on(&server, index % cores, Form::ALL[index % 3], "reader");
            let mut join = from.clone();
            join["type"] = "join".into();
            join["room"] = "room".into();
            join["id"] = 500.into();
            reader.send(&join.to_string());
            // Nothing of a room comes before its `joined`.
            let joined = reader.next_event();
            assert_eq!((&joined["type"], &joined["sequence"]), (&json!("joined"), &json!(10 + index)), "{from}");
            let live = writer.post("room", json!("live"))["sequence"].as_u64().expect("a sequence");
            assert_eq!(live, 11 + index as u64);
            (first(live - 1)..=live).for_each(|sequence| reads(&mut reader, sequence));
            assert!(reader.has_nothing(), "{from}");
        }
    }
}

/// Tells the other threads of a test to end, also when the test fails: the scope waits for them.
struct EndOnDrop<'a>(&'a AtomicBool);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn reads(reader: &mut WireClient, sequence: u64) {
    let event = reader.next_event();
    assert_eq!((&event["type"], &event["sequence"]), (&json!("message"), &json!(sequence)));
}

/// Reads messages up to an answer, and gives the sequence that comes next.
fn reads_up_to(answer: &str, reader: &mut WireClient, mut next: u64) -> u64 {
    loop {
        let event = reader.next_event();
        if event["type"] == answer {
            return next;
        }
        assert_eq!((&event["type"], &event["sequence"]), (&json!("message"), &json!(next)));
        next += 1;
    }
}

#[test]
fn replay_goes_over_to_live_without_a_hole_while_others_post() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &[]);
        let is_over = AtomicBool::new(false);
        std::thread::scope(|scope| {
            let _end = EndOnDrop(&is_over);
            for core in 0..cores {
                let (server, is_over) = (&server, &is_over);
                scope.spawn(move || {
                    let mut writer = WireClient::hello_on(server, core, Form::Native, &format!("writer {core}"));
                    writer.ask(json!({"type": "join", "room": "busy", "echo": false}));
                    while !is_over.load(Ordering::Relaxed) {
                        writer.post("busy", json!("x".repeat(200)));
                        // A pace that the readers keep up with.
                        std::thread::sleep(Duration::from_millis(1));
                    }
                });
            }
            for round in 0..12 {
                let mut reader = WireClient::hello_on(&server, round % cores, Form::ALL[round % 3], "reader");
                let last = round as u64 * 20;
                let joined = reader.ask(json!({"type": "join", "room": "busy", "last": last}));
                let (epoch, head) = (&joined["epoch"], joined["sequence"].as_u64().expect("a sequence"));
                let first = head.saturating_sub(last) + 1;
                let again = json!({"type": "join", "id": 900, "room": "busy",
                    "after": {"epoch": epoch, "sequence": first}});
                (first..head + 30).for_each(|sequence| reads(&mut reader, sequence));
                // The cursor only ever moves forward, whatever a second join says.
                reader.send(&again.to_string());
                let next = reads_up_to("joined", &mut reader, head + 30);
                (next..next + 30).for_each(|sequence| reads(&mut reader, sequence));
                // Starting afresh goes back.
                reader.send(r#"{"type":"leave","id":901,"room":"busy"}"#);
                let next = reads_up_to("left", &mut reader, next + 30);
                reader.send(&again.to_string());
                assert_eq!(reader.next_event()["type"], "joined");
                (first + 1..next + 30).for_each(|sequence| reads(&mut reader, sequence));
            }
            is_over.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn pages_go_both_ways_and_say_whether_there_is_more() {
    for &cores in core_counts() {
        let (server, _writer, _) = room_with(cores, &["--fetch-messages-max", "8"], 20);
        for (index, form) in Form::ALL.into_iter().enumerate() {
            // Without joining.
            let mut reader = WireClient::hello_on(&server, index % cores, form, "reader");
            let mut fetch = |from: Value| {
                let mut ask = json!({"type": "fetch", "room": "room"});
                ask.as_object_mut().expect("an object").extend(from.as_object().expect("an object").clone());
                let page = reader.ask(ask);
                assert_eq!(page["type"], "page", "{page}");
                (sequences(&page), page["more"].as_bool().expect("a truth"))
            };
            assert_eq!(fetch(json!({"before": 21, "limit": 3})), (vec![18, 19, 20], true));
            assert_eq!(fetch(json!({"before": 3, "limit": 3})), (vec![1, 2], false));
            assert_eq!(fetch(json!({"before": 1})), (vec![], false));
            assert_eq!(fetch(json!({"before": 0})), (vec![], false));
            assert_eq!(fetch(json!({"before": 900, "limit": 1})), (vec![20], true));
            assert_eq!(fetch(json!({"after": 0, "limit": 2})), (vec![1, 2], true));
            assert_eq!(fetch(json!({"after": 18, "limit": 2})), (vec![19, 20], false));
            assert_eq!(fetch(json!({"after": 20})), (vec![], false));
            assert_eq!(fetch(json!({"after": 900})), (vec![], false));
            // Never more than fetch_messages_max, whatever was asked for.
            assert_eq!(fetch(json!({"after": 0, "limit": 500})), ((1..=8).collect(), true));
            assert_eq!(fetch(json!({"before": 21})), ((13..=20).collect(), true));
            let empty = reader.ask(json!({"type": "fetch", "room": "never seen", "after": 0}));
            assert_eq!((&empty["type"], sequences(&empty), &empty["more"]), (&json!("page"), vec![], &json!(false)));
        }
    }
}

#[test]
fn what_the_history_no_longer_holds_is_told_as_a_gap() {
    for &cores in core_counts() {
        let (server, _writer, epoch) =
            room_with(cores, &["--durability", "memory", "--history-messages-max", "10"], 30);
        for (index, form) in Form::ALL.into_iter().enumerate() {
            let mut reader = WireClient::hello_on(&server, index % cores, form, "reader");
            reader.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 5}}));
            let gap = reader.next_event();
            assert_eq!((&gap["type"], &gap["epoch"]), (&json!("gap"), &epoch), "{gap}");
            assert_eq!((&gap["from"], &gap["to"], &gap["first_available"]), (&json!(6), &json!(20), &json!(21)));
            for sequence in 21..=30 {
                assert_eq!(reader.next_event()["sequence"], sequence);
            }
            assert!(reader.has_nothing());
            let page = reader.ask(json!({"type": "fetch", "room": "room", "before": 25}));
            assert_eq!((sequences(&page), &page["more"]), (vec![21, 22, 23, 24], &json!(false)));
            let page = reader.ask(json!({"type": "fetch", "room": "room", "after": 2, "limit": 3}));
            assert_eq!((sequences(&page), &page["more"]), (vec![21, 22, 23], &json!(true)));
        }
    }
}

#[test]
fn a_cursor_is_refused_rather_than_mended() {
    for &cores in core_counts() {
        let (server, _writer, epoch) = room_with(cores, &[], 3);
        let other = epoch.as_u64().expect("an epoch") + 1;
        for (index, form) in Form::ALL.into_iter().enumerate() {
            let mut reader = WireClient::hello_on(&server, index % cores, form, "reader");
            let mut join =
                |after: Value| reader.ask(json!({"type": "join", "room": "room", "after": after}))["code"].clone();
            assert_eq!(join(json!({"epoch": other, "sequence": 1})), "wrong_epoch");
            assert_eq!(join(json!({"epoch": epoch, "sequence": 300})), "cursor_ahead");
            // A refused join changes nothing: it is no member, and reads nothing.
            let code = reader.ask(json!({"type": "post", "room": "room", "body": 0}))["code"].clone();
            assert_eq!(code, "not_joined");
            let members = reader.ask(json!({"type": "members", "room": "room"}));
            assert_eq!(members["users"], json!(["writer"]));
            // One that had joined reads on from where it was.
            reader.ask(json!({"type": "join", "room": "room"}));
            let refused =
                reader.ask(json!({"type": "join", "room": "room", "after": {"epoch": epoch, "sequence": 400}}));
            assert_eq!(refused["code"], "cursor_ahead");
            let posted = reader.post("room", json!("on"));
            assert_eq!(reader.take_type("message")["sequence"], posted["sequence"]);
        }
    }
}

#[test]
fn names_and_rooms_that_are_not_allowed_are_refused_and_the_connection_stays() {
    let server = ServerProcess::start(core_counts().len(), &[]);
    for form in Form::ALL {
        let mut client = WireClient::connect(server.address(), form);
        for user in ["", "a\nb", &"u".repeat(65)] {
            assert_eq!(client.ask(json!({"type": "hello", "user": user}))["code"], "bad_request", "{user:?}");
        }
        client.say_hello(&"ü".repeat(32));
        for room in ["", "a\u{0}b", "a\u{85}b", &"r".repeat(129)] {
            for ask in [
                json!({"type": "join", "room": room}),
                json!({"type": "fetch", "room": room, "after": 0}),
                json!({"type": "members", "room": room}),
                json!({"type": "leave", "room": room}),
                json!({"type": "post", "room": room, "body": 1}),
                json!({"type": "signal", "room": room, "body": 1}),
            ] {
                assert_eq!(client.ask(ask.clone())["code"], "room_name_invalid", "{form:?}: {ask}");
            }
        }
        for ask in [
            json!({"type": "leave", "room": "elsewhere"}),
            json!({"type": "post", "room": "elsewhere", "body": 1}),
            json!({"type": "signal", "room": "elsewhere", "body": 1}),
        ] {
            assert_eq!(client.ask(ask.clone())["code"], "not_joined", "{form:?}: {ask}");
        }
        client.join(&"r".repeat(128));
        assert!(client.has_nothing());
    }
}

#[test]
fn a_repeated_post_is_answered_with_its_first_place_and_delivered_once() {
    for &cores in core_counts() {
        let server = ServerProcess::start(cores, &["--dedupe-keys-per-author-max", "3"]);
        let mut ann = WireClient::hello_on(&server, 0, Form::Json, "ann");
        ann.join("room");
        let mut again = WireClient::hello_on(&server, cores - 1, Form::Native, "ann");
        again.join("room");
        let post = |key: &str, body: &str| json!({"type": "post", "room": "room", "key": key, "body": body});
        let first = ann.ask(post("k1", "one"));
        assert_eq!((&first["sequence"], &first["duplicate"]), (&json!(1), &json!(false)));
        // From another connection of the same user, as after a reconnect.
        let second = again.ask(post("k1", "one"));
        assert_eq!((&second["sequence"], &second["duplicate"]), (&json!(1), &json!(true)));
        assert_eq!((&second["epoch"], &second["time_ms"]), (&first["epoch"], &first["time_ms"]));
        assert_eq!(again.ask(post("k1", "other"))["code"], "key_conflict");
        // Keys belong to a user.
        let mut bob = WireClient::hello(server.address(), Form::Json, "bob");
        bob.join("room");
        assert_eq!(bob.ask(post("k1", "one"))["sequence"], 2);
        // Those of others push it out no more; beyond dedupe_keys_per_author_max of its user it is taken as new.
        ["b1", "b2", "b3", "b4"].iter().for_each(|key| drop(bob.ask(post(key, "more"))));
        assert_eq!(ann.ask(post("k1", "one"))["duplicate"], true);
        ["k2", "k3", "k4"].iter().for_each(|key| drop(ann.ask(post(key, "more"))));
        assert_eq!(ann.ask(post("k1", "one"))["duplicate"], false);
        let delivered: Vec<Value> = (0..10).map(|_| ann.take_type("message")["sequence"].clone()).collect();
        assert_eq!(delivered, [1, 2, 3, 4, 5, 6, 7, 8, 9, 10].map(Value::from));
        assert!(ann.has_nothing());
        assert_eq!(server.metric("banter_duplicate_posts_total"), 2);
        assert_eq!(server.metric("banter_dedupe_keys"), 6);
    }
}
