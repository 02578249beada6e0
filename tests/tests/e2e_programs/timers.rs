//! Timers of a program: they fire while somebody reads the room, and what is overdue fires when somebody comes.

use std::time::{SystemTime, UNIX_EPOCH};

use banter_tests::server_process::{core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, messages};

const AFTER_MS: u64 = 200;
const TEXT: &str = r#"
function post(room, m)
  if m:get("arm") then
    state.set("by", m.user)
    state.set("armed", (state.get("armed") or 0) + 1)
    room.after(200, "tell")
  end
  if m:get("cancel") then room.cancel("tell") end
end
function tick(room, name)
  local told = (state.get("told") or 0) + 1
  state.set("told", told)
  room.post({ name = name, by = state.get("by"), armed = state.get("armed"), told = told })
end
"#;

fn timers() -> [Entry; 1] {
    [entry("timer", "timed-*", TEXT)]
}

fn told(sequence: u64, by: &str, armed: u64, told: u64) -> Value {
    json!([sequence, "@timer", {"name": "tell", "by": by, "armed": armed, "told": told}])
}

/// A backend has the timer set, in a room that nobody has to read; when it will be overdue.
fn arm(setup: &Setup, room: &str, by: &str) -> u64 {
    let told =
        setup.operate("POST", &format!("/v1/rooms/{room}/messages"), &json!({"user": by, "body": {"arm": true}}));
    assert_eq!(told.status, 200, "{}", told.body);
    told.json()["time_ms"].as_u64().expect("a time") + AFTER_MS
}

fn wait_for_time(due_ms: u64) {
    let now_ms = || SystemTime::now().duration_since(UNIX_EPOCH).expect("behind 1970").as_millis();
    wait_until("the timer is overdue", || now_ms() > u128::from(due_ms));
}

#[test]
fn a_timer_fires_once_while_somebody_reads_and_its_post_is_kept_like_any() {
    for &cores in core_counts() {
        for durability in ["memory", "written", "synced"] {
            let setup = Setup::start(cores, durability, &timers());
            for form in Form::ALL {
                let room = format!("timed-{form:?}");
                let mut ann = setup.member(form, "ann", &room);
                let mut bob = setup.member(form, "bob", &room);
                ann.post(&room, json!({"arm": true}));
                for client in [&mut ann, &mut bob] {
                    let said = messages(client, 2);
                    assert_eq!(said[1], told(2, "ann", 1, 1), "{durability}, {form:?}");
                }
                bob.post(&room, json!({"arm": true}));
                for client in [&mut ann, &mut bob] {
                    let said = messages(client, 2);
                    assert_eq!(
                        said,
                        [json!([3, "bob", {"arm": true}]), told(4, "bob", 2, 2)],
                        "{durability}, {form:?}"
                    );
                }
                assert_eq!(history(&mut bob, &room).len(), 4);
            }
        }
    }
}

#[test]
fn a_timer_that_is_cancelled_does_not_fire() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &timers());
        let mut bob = setup.member(Form::Json, "bob", "timed-later");
        // A machine that stands still between the two posts lets the timer fire ahead of its end: then again.
        let (mut ann, room) = (0..50)
            .find_map(|attempt| {
                let room = format!("timed-{attempt}");
                let mut ann = setup.member(Form::Json, "ann", &room);
                ann.post(&room, json!({"arm": true}));
                let cancelled = ann.post(&room, json!({"cancel": true}));
                (cancelled["sequence"] == 2).then_some((ann, room))
            })
            .expect("one that is ended in time");
        // One that is set later has fired by then.
        bob.post("timed-later", json!({"arm": true}));
        assert_eq!(messages(&mut bob, 2)[1], told(2, "bob", 1, 1));
        ann.post(&room, json!({"arm": true}));
        assert_eq!(messages(&mut ann, 4)[3], told(4, "ann", 2, 1), "the first one never did");
    }
}

#[test]
fn an_overdue_timer_of_a_room_that_nobody_reads_fires_when_somebody_joins() {
    for &cores in core_counts() {
        for durability in ["memory", "written", "synced"] {
            let setup = Setup::start(cores, durability, &timers());
            for form in Form::ALL {
                let room = format!("timed-{form:?}");
                wait_for_time(arm(&setup, &room, "cid"));
                let mut ann = setup.hello(form, "ann");
                let joined = ann.join(&room);
                assert_eq!(joined["sequence"], 1, "{durability}: nothing was said while nobody read it");
                assert_eq!(messages(&mut ann, 1)[0], told(2, "cid", 1, 1), "{durability}, {form:?}");
            }
        }
    }
}

#[test]
fn a_timer_that_came_due_while_the_server_was_down_fires_when_somebody_joins() {
    for durability in ["written", "synced"] {
        for signal in [Signal::KILL, Signal::TERM] {
            let mut setup = Setup::new(durability, &[], &timers(), "");
            for (run, &cores) in (0..4).zip(core_counts().iter().rev().cycle()) {
                setup.run(cores);
                for form in Form::ALL {
                    let room = format!("timed-{form:?}");
                    let mut ann = setup.hello(form, "ann");
                    let place = ann.join(&room)["sequence"].as_u64().expect("a place");
                    assert_eq!(place, if run == 0 { 0 } else { 2 * run - 1 }, "{durability}, {signal:?}");
                    if run > 0 {
                        assert_eq!(messages(&mut ann, 1)[0], told(2 * run, "cid", run, run), "{form:?}");
                    }
                    leave(&mut ann, &room);
                }
                let overdue = Form::ALL.map(|form| arm(&setup, &format!("timed-{form:?}"), "cid"));
                setup.stop(signal);
                overdue.into_iter().for_each(wait_for_time);
            }
        }
    }
}

fn leave(client: &mut WireClient, room: &str) {
    assert_eq!(client.ask(json!({"type": "leave", "room": room}))["type"], "left");
}
