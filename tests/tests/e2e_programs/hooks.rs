//! The other hooks: who may come in, who left, what is signalled, and from where the history is shown.

use banter_tests::server_process::core_counts;
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, messages, post};

/// Nobody called eve comes in, `late` sees nothing before the third place, and what is loud is not passed on.
const DOOR: &str = r#"
function join(room, who)
  if who.user == "eve" then return refuse("banned", "go away", 60000) end
  if who.user == "late" then return { from = 3 } end
  state.set("came:" .. who.user, (state.get("came:" .. who.user) or 0) + 1)
end
function leave(room, who)
  room.post({ gone = who.user, came = state.get("came:" .. who.user), left = room.members })
end
function signal(room, s)
  if s:get("loud") then return refuse("loud") end
end
function fetch(room, q)
  if q.user == "eve" then return refuse("banned") end
  if q.user == "late" then return { from = 3 } end
end
"#;

fn door() -> [Entry; 1] {
    [entry("door", "door-*", DOOR)]
}

fn sequences(page: &Value) -> Vec<u64> {
    let messages = page["messages"].as_array().unwrap_or_else(|| panic!("no page: {page}"));
    messages.iter().filter_map(|message| message["sequence"].as_u64()).collect()
}

#[test]
fn who_is_refused_at_the_door_is_not_in_the_room_and_reads_nothing_of_it() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &door());
        for form in Form::ALL {
            let room = format!("door-{form:?}");
            let mut eve = setup.hello(form, "eve");
            for _ in 0..2 {
                // The first time the room is new, and the second time it is there.
                let mut refused = eve.ask(json!({"type": "join", "room": room}));
                refused.as_object_mut().expect("an object").remove("id");
                let told = json!({"type": "error", "code": "program_refused", "reason": "banned", "message": "go away",
                    "retry_after_ms": 60_000});
                assert_eq!(refused, told, "{form:?}");
                let mut ann = setup.member(form, "ann", &room);
                ann.post(&room, json!("hello"));
                assert_eq!(eve.ask(post(&room, &json!(1)))["code"], "not_joined");
                let refused = eve.ask(json!({"type": "fetch", "room": room, "after": 0}));
                assert_eq!(json!([refused["code"], refused["reason"]]), json!(["program_refused", "banned"]));
                let members = ann.ask(json!({"type": "members", "room": room}));
                assert_eq!(members["users"], json!(["ann"]), "{form:?}");
            }
            assert!(eve.has_nothing(), "{form:?}");
        }
    }
}

#[test]
fn a_program_is_asked_of_a_room_that_only_the_log_knows() {
    for durability in ["written", "synced"] {
        let mut setup = Setup::new(durability, &[], &door(), "");
        for &cores in core_counts().iter().rev().cycle().take(3) {
            setup.run(cores);
            for form in Form::ALL {
                let room = format!("door-{form:?}");
                let mut late = setup.hello(form, "late");
                let fetch = json!({"type": "fetch", "room": room, "after": 0});
                let shown = sequences(&late.ask(fetch.clone()));
                assert!(shown.iter().all(|&sequence| sequence >= 3), "{form:?}: {shown:?}");
                let refused = setup.hello(form, "eve").ask(json!({"type": "join", "room": room}));
                assert_eq!(refused["reason"], "banned", "{refused}");
                if !shown.is_empty() {
                    assert_eq!(setup.hello(form, "eve").ask(fetch)["reason"], "banned");
                }
                let mut ann = setup.member(form, "ann", &room);
                (0..4).for_each(|number| drop(ann.post(&room, json!(number))));
            }
            setup.stop(Signal::KILL);
        }
    }
}

#[test]
fn who_may_see_the_room_from_a_place_on_sees_nothing_before_it() {
    for &cores in core_counts() {
        for durability in ["memory", "written"] {
            let setup = Setup::start(cores, durability, &door());
            for form in Form::ALL {
                let room = format!("door-{form:?}");
                let mut ann = setup.member(form, "ann", &room);
                (1..=5).for_each(|number| drop(ann.post(&room, json!(number))));
                let mut late = setup.hello(form, "late");
                let fetched = late.ask(json!({"type": "fetch", "room": room, "after": 0}));
                assert_eq!(sequences(&fetched), [3, 4, 5], "{durability}, {form:?}");
                let fetched = late.ask(json!({"type": "fetch", "room": room, "before": 5}));
                assert_eq!(sequences(&fetched), [3, 4], "{durability}, {form:?}");
                let joined = late.ask(json!({"type": "join", "room": room, "last": 100}));
                assert_eq!(joined["type"], "joined", "{joined}");
                let seen: Vec<Value> = messages(&mut late, 3).iter().map(|message| message[0].clone()).collect();
                assert_eq!(json!(seen), json!([3, 4, 5]), "{durability}, {form:?}");
                ann.post(&room, json!(6));
                assert_eq!(messages(&mut late, 1)[0], json!([6, "ann", 6]));
            }
        }
    }
}

#[test]
fn a_program_says_who_left_also_where_the_connection_broke() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &door());
        for form in Form::ALL {
            let room = format!("door-{form:?}");
            let mut ann = setup.member(Form::Json, "ann", &room);
            let mut bob = setup.member(form, "bob", &room);
            let gone = |sequence: u64, came: u64| json!([sequence, "@door", {"gone": "bob", "came": came, "left": 1}]);
            bob.ask(json!({"type": "leave", "room": room}));
            assert_eq!(messages(&mut ann, 1)[0], gone(1, 1), "{form:?}");
            bob.join(&room);
            // Of two connections of a user the first that ends is no leave.
            let twin = setup.member(form, "bob", &room);
            drop(twin);
            drop(bob);
            assert_eq!(messages(&mut ann, 1)[0], gone(2, 3), "{form:?}");
            assert!(ann.has_nothing());
        }
    }
}

#[test]
fn a_signal_that_a_program_refuses_reaches_nobody() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &door());
        for form in Form::ALL {
            let room = format!("door-{form:?}");
            let mut ann = setup.member(form, "ann", &room);
            let mut readers: Vec<WireClient> = Form::ALL.iter().map(|&form| setup.member(form, "bob", &room)).collect();
            for body in [json!({"loud": true}), json!({"quiet": 1}), json!({"loud": 1}), json!("plain")] {
                ann.send(&json!({"type": "signal", "room": room, "body": body}).to_string());
            }
            for reader in &mut readers {
                for body in [json!({"quiet": 1}), json!("plain")] {
                    let told = json!({"type": "signal", "room": room, "user": "ann", "body": body});
                    assert_eq!(reader.next_event(), told, "{form:?}");
                }
                assert!(reader.has_nothing());
            }
        }
    }
}
