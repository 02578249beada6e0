//! Where programs meet swaps, names, backends and editors.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{SystemTime, UNIX_EPOCH};

use banter_tests::server_process::{core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Setup, entry, history, messages};

#[test]
fn nobody_comes_in_or_speaks_under_the_name_of_a_program() {
    let setup = Setup::start(1, "memory", &[entry("judge", "room-*", "function post() end")]);
    for form in Form::ALL {
        let mut eve = WireClient::connect(setup.server().address(), form);
        let refused = eve.ask(json!({"type": "hello", "user": "@judge"}));
        assert_eq!(refused["type"], "error", "{form:?}: {refused}");
    }
    let said = json!({"user": "@judge", "body": 1});
    let told = setup.operate("POST", "/v1/rooms/room-1/messages", &said);
    assert!(told.status >= 400, "{}: {}", told.status, told.body);
}

#[test]
fn types_prints_definitions_that_an_editor_completes_by() {
    let (code, out, err) = run_to_end(&["program", "types"]);
    assert_eq!((code, &*err), (0, ""));
    for name in ["declare", "refuse", "take", "whisper", "after", "now_ms", "state", "words", "config"] {
        assert!(out.contains(name), "{name}: {out}");
    }
}

#[test]
fn a_backend_is_told_what_a_program_decided_of_its_post() {
    let text = "function post(room, m)
        if m:get('take') then return take({ kept = true }) end
        if m:get('refuse') then return refuse('slow_mode', 'not so fast', 3200) end
        if m:get('fail') then error('no') end
    end";
    let setup = Setup::start(1, "written", &[entry("judge", "room-*", text)]);
    let say = |body: Value| setup.operate("POST", "/v1/rooms/room-1/messages", &json!({"user": "ann", "body": body}));
    assert_eq!(say(json!({})).status, 200);
    let refused = say(json!({"refuse": 1})).json()["error"].clone();
    let told = json!([refused["code"], refused["message"], refused["retry_after_ms"]]);
    assert_eq!(told, json!(["program_refused", "not so fast", 3200]), "{refused}");
    let mut faults = Vec::new();
    if refused["reason"] != "slow_mode" {
        faults.push(format!("a refusal without its reason: {refused}"));
    }
    for (body, code) in [(json!({"refuse": 1}), "program_refused"), (json!({"fail": 1}), "program_failed")] {
        let told = say(body);
        assert_eq!(told.json()["error"]["code"], code, "{}", told.body);
        if code == "program_refused" && told.status >= 500 {
            faults.push(format!("what a program refuses is no fault of the server: {}", told.status));
        }
    }
    let taken = say(json!({"take": 1}));
    if taken.status != 200 || taken.json()["type"] != "taken" || taken.json()["reply"] != json!({"kept": true}) {
        faults.push(format!("a post that is taken: {} {}", taken.status, taken.body));
    }
    assert!(faults.is_empty(), "{faults:#?}");
}

#[test]
fn what_is_on_its_way_over_a_swap_is_told_as_the_program_that_said_it() {
    let text = "function post(room, m) room.signal({ from = room.name }) end";
    for &cores in core_counts() {
        let setup = Setup::start(cores, "synced", &[entry("first", "first", text), entry("second", "second", text)]);
        let config = fs::read_to_string(setup.path("banter.toml")).expect("a file");
        let parts: Vec<&str> = config.split("[[programs]]\n").collect();
        let turned = format!("{}[[programs]]\n{}[[programs]]\n{}", parts[0], parts[2], parts[1]);
        let is_over = AtomicBool::new(false);
        let told: Vec<Value> = thread::scope(|scope| {
            let writers: Vec<_> = ["first", "second"]
                .into_iter()
                .map(|room| {
                    let (setup, is_over) = (&setup, &is_over);
                    scope.spawn(move || {
                        let mut client = setup.hello(Form::Native, "ann");
                        client.ask(json!({"type": "join", "room": room, "echo": false}));
                        let mut told = Vec::new();
                        while !is_over.load(Ordering::SeqCst) {
                            client.post(room, json!({}));
                            told.push(client.take_type("signal"));
                        }
                        told
                    })
                })
                .collect();
            for swap in 0..40 {
                let config = if swap % 2 == 0 { &turned } else { &config };
                fs::write(setup.path("banter.toml"), config).expect("a file");
                let told = setup.operate("POST", "/v1/reload", &Value::Null);
                assert_eq!(told.status, 200, "{}", told.body);
            }
            is_over.store(true, Ordering::SeqCst);
            writers.into_iter().flat_map(|writer| writer.join().expect("a writer")).collect()
        });
        let wrong: Vec<&Value> =
            told.iter().filter(|told| told["user"] != format!("@{}", told["room"].as_str().expect("a room"))).collect();
        assert!(wrong.is_empty(), "of {} signals: {wrong:?}", told.len());
    }
}

#[test]
fn a_post_that_waits_over_a_swap_is_decided_by_its_own_rooms_program() {
    const POSTS: usize = 400;
    let text = |name: &str| format!("function post(room, m) for _ = 1, 8000 do end m:set('by', '{name}') end");
    let more = "[program_limits]\nwatch_us = 0\nunits_per_second_max = 0\nunits_per_turn_max = 10000\n";
    let entries = [entry("first", "first", &text("first")), entry("second", "second", &text("second"))];
    let mut setup = Setup::new("memory", &[], &entries, more);
    setup.run(1);
    let config = fs::read_to_string(setup.path("banter.toml")).expect("a file");
    let parts: Vec<&str> = config.trim_end_matches(more).split("[[programs]]\n").collect();
    let turned = format!("{}[[programs]]\n{}[[programs]]\n{}{more}", parts[0], parts[2], parts[1]);
    let mut ann = setup.hello(Form::Native, "ann");
    ann.join("first");
    for config in [&turned, &config, &turned] {
        fs::write(setup.path("banter.toml"), config).expect("a file");
        for number in 0..POSTS {
            ann.send(&json!({"type": "post", "id": 1_000 + number, "room": "first", "body": {}}).to_string());
        }
        assert_eq!(ann.answer_to(1_000)["type"], "posted");
        assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).status, 200);
        for number in 1..POSTS {
            let answer = ann.answer_to(1_000 + number as u64);
            assert_eq!(answer["type"], "posted", "{answer}");
        }
    }
    let kept = history(&mut ann, "first");
    assert_eq!(kept.len(), 3 * POSTS);
    let wrong = kept.iter().filter(|kept| kept["body"]["by"] != "first").count();
    assert_eq!(wrong, 0, "of {} posts were given to another room's program", kept.len());
}

#[test]
fn a_timer_waits_for_its_program_as_the_rest_of_the_state_does() {
    let text = "function post(room, m) room.after(200, 'tell') end
                function tick(room, name) room.post({ told = name }) end";
    let setup = Setup::start(1, "written", &[entry("timer", "room-*", text)]);
    let with = fs::read_to_string(setup.path("banter.toml")).expect("a file");
    let without = with.split("[[programs]]").next().expect("a text");
    let reload = |config: &str| {
        fs::write(setup.path("banter.toml"), config).expect("a file");
        assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).status, 200);
    };
    // A machine that stands still ahead of the reload lets the timer fire: then again.
    let (room, due_ms) = (0..50)
        .find_map(|attempt| {
            let room = format!("room-{attempt}");
            let mut ann = setup.member(Form::Json, "ann", &room);
            let due_ms = ann.post(&room, json!({}))["time_ms"].as_u64().expect("a time") + 200;
            reload(without);
            let is_waiting = history(&mut ann, &room).len() == 1;
            if !is_waiting {
                reload(&with);
            }
            is_waiting.then_some((room, due_ms))
        })
        .expect("one whose program goes in time");
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_millis();
    wait_until("a core that looked for it has found it", || now_ms() > u128::from(due_ms) + 1_500);
    reload(&with);
    // Somebody comes, and the room is asked about something.
    let mut bob = setup.member(Form::Json, "bob", &room);
    assert_eq!(messages(&mut bob, 1)[0], json!([2, "@timer", {"told": "tell"}]));
}
