//! Programs that do their worst harm the rooms that have them, and no other.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use banter_tests::server_process::core_counts;
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, post};

/// What each does with a post, the pattern of its rooms, and what it fails by.
const HOSTILE: [(&str, &str, &str, &str); 12] = [
    ("loop", "loop-*", "while true do end", "cpu"),
    ("caught", "caught-*", "while true do pcall(function() while true do end end) end", "cpu"),
    ("scan", "scan-*", "string.find(string.rep('a', 5000), '.-.-.-.-b')", "cpu"),
    ("sort", "sort-*", "local t = {} for i = 1, 4000 do t[i] = -i end while true do table.sort(t) end", "cpu"),
    ("tables", "tables-*", "local t = {} while true do t = { t, table.create(10000, 1) } end", "memory"),
    ("doubling", "doubling-*", "local s = 'x' while true do s = s .. s end", "memory"),
    ("rep", "rep-*", "return take(string.rep('x', 1e9))", "cpu"),
    ("deep", "deep-*", "local function f(n) return 1 + f(n + 1) end return f(1)", "cpu"),
    ("error", "error-*", "error({ {} })", "error"),
    ("in-error", "in-error-*", "pcall(error, error) local x = nil return x.y.z", "error"),
    ("state", "state-*", "for i = 1, 9000 do state.set('k' .. i, i) end", "state"),
    ("effects", "effects-*", "while true do room.whisper(m.user, m:raw()) end", "effects"),
];
/// Rooms of each; in each it fails five times, and is not called behind that.
const ROOMS: usize = 8;
const FAULTS_A_ROOM: usize = 5;

fn programs() -> Vec<Entry> {
    let hostile =
        HOSTILE.iter().map(|(name, rooms, text, _)| entry(name, rooms, &format!("function post(room, m) {text} end")));
    let counter = "function post(room, m) local n = (state.get('n') or 0) + 1 state.set('n', n) m:set('n', n) end";
    hostile.chain([entry("counter", "counted-*", counter)]).collect()
}

/// What a hostile program fails by, with every room of it.
fn attack(setup: &Setup, form: Form, (name, _, _, kind): (&str, &str, &str, &str)) -> Vec<Value> {
    let mut eve = setup.hello(form, "eve");
    let mut unlike = Vec::new();
    for room in (0..ROOMS).map(|room| format!("{name}-{room}")) {
        eve.join(&room);
        for attempt in 0..=FAULTS_A_ROOM {
            let failed = eve.ask(post(&room, &json!({"text": "x".repeat(200)})));
            let reason = failed["reason"].as_str().unwrap_or_default();
            // The watch on a core's time may come first, whatever it is that takes so long.
            let is_own =
                if attempt < FAULTS_A_ROOM { reason == kind || reason == "cpu" } else { reason == "suspended" };
            if failed["code"] != "program_failed" || !is_own {
                unlike.push(json!([room, attempt, failed]));
            }
        }
        if !history(&mut eve, &room).is_empty() {
            unlike.push(json!([room, "has messages"]));
        }
    }
    unlike
}

/// Posts in a room with another program and in one without, and has each answered and shown.
fn live(client: &mut WireClient, index: usize, round: u64) {
    for (room, body) in [
        (format!("counted-{index}"), json!({"round": round, "n": round})),
        (format!("plain-{index}"), json!({"round": round})),
    ] {
        let posted = client.ask(post(&room, &json!({"round": round})));
        assert_eq!(json!([posted["type"], posted["sequence"]]), json!(["posted", round]), "{room}: {posted}");
        let said = client.take("its message", |event| event["type"] == "message" && event["room"] == room);
        assert_eq!(json!([said["sequence"], said["body"]]), json!([round, body]), "{room}");
    }
}

#[test]
fn rooms_beside_hostile_programs_have_every_post_answered() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &programs());
        let (unlike, running) = (Mutex::new(Vec::new()), AtomicUsize::new(HOSTILE.len()));
        thread::scope(|scope| {
            for (hostile, form) in HOSTILE.into_iter().zip(Form::ALL.into_iter().cycle()) {
                let (setup, unlike, running) = (&setup, &unlike, &running);
                scope.spawn(move || {
                    struct Done<'r>(&'r AtomicUsize);
                    impl Drop for Done<'_> {
                        fn drop(&mut self) {
                            self.0.fetch_sub(1, Ordering::SeqCst);
                        }
                    }
                    let _done = Done(running);
                    let found = attack(setup, form, hostile);
                    unlike.lock().expect("no one panicked").extend(found);
                });
            }
            // Rooms enough that each core has some of both kinds.
            let mut neighbours: Vec<WireClient> = (0..4)
                .zip(Form::ALL.into_iter().cycle())
                .map(|(index, form)| {
                    let mut client = setup.hello(form, "ann");
                    client.join(&format!("counted-{index}"));
                    client.join(&format!("plain-{index}"));
                    client
                })
                .collect();
            let mut round = 0;
            // A few rounds behind them too.
            while running.load(Ordering::SeqCst) > 0 || round < 20 {
                round += 1;
                for (index, client) in neighbours.iter_mut().enumerate() {
                    live(client, index, round);
                }
            }
        });
        let unlike = unlike.into_inner().expect("no one panicked");
        assert_eq!(unlike, [Value::Null; 0], "each fails in its own way, and nothing of it is kept");
        for (name, .., kind) in HOSTILE {
            let counted = setup.counted(name);
            let of_watch = if kind == "cpu" { 0 } else { counted["faults cpu"] };
            let faults = counted[&format!("faults {kind}")] + of_watch;
            assert_eq!(faults, (ROOMS * FAULTS_A_ROOM) as u64, "{name}: {counted:?}");
            assert_eq!(counted["suspensions"], ROOMS as u64, "{name}");
        }
        assert_eq!(setup.counted("counter")["faults error"], 0);
    }
}

#[test]
fn a_hostile_message_fails_in_the_room_that_it_is_for_and_the_next_one_passes() {
    let text = "function post(room, m) m:table() m:get('a.b[1].c') m:set('seen', true) end";
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &[entry("reader", "room-*", text)]);
        for form in Form::ALL {
            let room = format!("room-{form:?}");
            let mut eve = setup.member(form, "eve", &room);
            let deep = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
            let bodies = [deep(60), "1e308".to_owned(), "[]".to_owned(), "null".to_owned()];
            for (number, body) in bodies.iter().enumerate() {
                let id = 500 + number;
                eve.send(&format!(r#"{{"type":"post","id":{id},"room":"{room}","body":{body}}}"#));
                let answer = eve.answer_to(id as u64);
                let is_answered = answer["type"] == "posted" || answer["type"] == "error";
                assert!(is_answered, "{form:?}, {number}: {answer}");
            }
            let posted = eve.post(&room, json!({"text": "still here"}));
            let said =
                eve.take("the message", |event| event["sequence"] == posted["sequence"] && event["id"].is_null());
            assert_eq!(said["body"], json!({"text": "still here", "seen": true}), "{form:?}");
        }
    }
}
