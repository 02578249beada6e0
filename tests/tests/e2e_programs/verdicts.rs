//! What a program decides of a post, and what each one in the room is told of it, in all three wire forms.

use banter_tests::server_process::core_counts;
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, lenient, messages, post};

/// Does what a post asks for.
const JUDGE: &str = r#"
function post(room, m)
  local ask = m:get("ask")
  if ask == "edit" then
    m:set("by", m.user)
  elseif ask == "refuse" then
    return refuse("slow_mode", "not so fast", 3200)
  elseif ask == "refuse shortly" then
    return refuse("no")
  elseif ask == "take" then
    return take({ kept = m:get("n") })
  elseif ask == "take silently" then
    return take()
  elseif ask == "loop" then
    while true do end
  elseif ask == "whisper" then
    room.whisper("ann", { only = m:get("n") })
  elseif ask == "signal" then
    room.signal({ all = m:get("n") })
  elseif ask == "say" then
    m:set("rolled", 2)
    room.post({ roll = 4 })
    room.post({ roll = 5 })
  end
end
"#;

fn judges() -> Vec<Entry> {
    vec![entry("judge", "judged-*", JUDGE), lenient("lenient", "lenient-*", JUDGE)]
}

fn asked(ask: &str, n: u64) -> Value {
    json!({"ask": ask, "n": n})
}

/// What a post is answered, without the id.
fn answer(client: &mut WireClient, room: &str, ask: &str, n: u64) -> Value {
    let mut answer = client.ask(post(room, &asked(ask, n)));
    answer.as_object_mut().expect("an object").remove("id");
    answer
}

/// The place of a post that has one.
#[track_caller]
fn place(client: &mut WireClient, room: &str, ask: &str, n: u64) -> Value {
    let answer = answer(client, room, ask, n);
    assert_eq!(answer["type"], "posted", "{answer}");
    answer["sequence"].clone()
}

#[test]
fn a_post_passes_is_edited_refused_or_taken_and_only_what_passes_has_a_place() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "synced", &judges());
        for form in Form::ALL {
            let room = format!("judged-{form:?}");
            let mut ann = setup.member(form, "ann", &room);
            let mut readers: Vec<WireClient> = Form::ALL.iter().map(|&form| setup.member(form, "bob", &room)).collect();
            assert_eq!(place(&mut ann, &room, "pass", 1), 1);
            assert_eq!(
                answer(&mut ann, &room, "refuse", 2),
                json!({"type": "error", "code": "program_refused", "reason": "slow_mode", "message": "not so fast",
                    "retry_after_ms": 3200}),
                "{form:?}"
            );
            let refused = answer(&mut ann, &room, "refuse shortly", 3);
            assert_eq!(json!([refused["code"], refused["reason"]]), json!(["program_refused", "no"]), "{refused}");
            assert!(refused["retry_after_ms"].is_null() && refused["message"].is_string(), "{refused}");
            let taken = json!({"type": "taken", "room": room, "reply": {"kept": 4}});
            assert_eq!(answer(&mut ann, &room, "take", 4), taken, "{form:?}");
            let taken = json!({"type": "taken", "room": room});
            assert_eq!(answer(&mut ann, &room, "take silently", 5), taken, "{form:?}");
            assert_eq!(place(&mut ann, &room, "edit", 6), 2);
            let said = json!([
                [1, "ann", {"ask": "pass", "n": 1}],
                [2, "ann", {"ask": "edit", "n": 6, "by": "ann"}],
            ]);
            for client in readers.iter_mut().chain([&mut ann]) {
                assert_eq!(json!(messages(client, 2)), said, "by {form:?}");
                assert!(client.has_nothing(), "what was refused or taken nobody sees");
            }
            let kept = history(&mut ann, &room);
            let kept: Vec<Value> =
                kept.iter().map(|kept| json!([kept["sequence"], kept["user"], kept["body"]])).collect();
            assert_eq!(json!(kept), said, "{form:?}");
        }
    }
}

#[test]
fn an_edit_leaves_every_other_byte_as_it_was_posted() {
    let setup = Setup::start(1, "memory", &judges());
    let mut readers = Form::ALL.map(|form| setup.member(form, "bob", "judged-1"));
    let mut ann = setup.member(Form::Json, "ann", "judged-1");
    ann.send(r#"{"type":"post","room":"judged-1","body":{ "ask":"edit",  "n":1.50e1,"t":"\u00e9" }}"#);
    for reader in &mut readers {
        let text = reader.next_text();
        assert!(text.contains(r#"{ "ask":"edit",  "n":1.50e1,"t":"\u00e9" "#), "{text}");
        assert!(text.contains(r#""by":"ann""#), "{text}");
    }
}

#[test]
fn an_endless_loop_is_told_as_cpu_and_the_server_goes_on() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &judges());
        for form in Form::ALL {
            let room = format!("judged-{form:?}");
            let mut ann = setup.member(form, "ann", &room);
            for round in 0..3 {
                let failed = answer(&mut ann, &room, "loop", round);
                let told = json!([failed["type"], failed["code"], failed["reason"]]);
                assert_eq!(told, json!(["error", "program_failed", "cpu"]), "{form:?}: {failed}");
                assert_eq!(place(&mut ann, &room, "edit", round), round + 1, "{form:?}");
            }
            assert_eq!(history(&mut ann, &room).len(), 3);
        }
        assert!(
            setup.server().log().contains("it failed: more than"),
            "the operator is told: {}",
            setup.server().log()
        );
    }
}

#[test]
fn what_an_operator_lets_through_passes_as_it_was_posted_where_the_program_fails() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &judges());
        for form in Form::ALL {
            let room = format!("lenient-{form:?}");
            let mut ann = setup.member(form, "ann", &room);
            let mut bob = setup.member(Form::Json, "bob", &room);
            // Behind the fifth it is not called any more, which lets through as well.
            for sequence in 1..=8 {
                assert_eq!(place(&mut ann, &room, "loop", sequence), sequence, "{form:?}");
                assert_eq!(messages(&mut bob, 1)[0], json!([sequence, "ann", asked("loop", sequence)]));
            }
        }
    }
}

#[test]
fn a_program_that_failed_five_times_in_a_room_is_suspended_there_and_nowhere_else() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &judges());
        let mut ann = setup.member(Form::Json, "ann", "judged-1");
        for _ in 0..5 {
            assert_eq!(answer(&mut ann, "judged-1", "loop", 0)["reason"], "cpu");
        }
        let refused = answer(&mut ann, "judged-1", "pass", 0);
        assert_eq!(json!([refused["code"], refused["reason"]]), json!(["program_failed", "suspended"]), "{refused}");
        for room in 2..10 {
            let room = format!("judged-{room}");
            ann.join(&room);
            assert_eq!(place(&mut ann, &room, "edit", 1), 1);
        }
        let counted = setup.counted("judge");
        assert_eq!((counted["faults cpu"], counted["faults suspended"], counted["suspensions"]), (5, 1, 1));
    }
}

#[test]
fn whispers_reach_their_user_alone_and_signals_everybody() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &judges());
        for form in Form::ALL {
            let room = format!("judged-{form:?}");
            let mut cid = setup.member(form, "cid", &room);
            // Two connections of the user that is whispered to, in other forms and maybe on other cores.
            let mut anns: Vec<WireClient> = Form::ALL.iter().map(|&form| setup.member(form, "ann", &room)).collect();
            let mut bob = setup.member(form, "bob", &room);
            place(&mut cid, &room, "whisper", 7);
            place(&mut cid, &room, "signal", 8);
            let told = |body: Value| json!({"type": "signal", "room": room, "user": "@judge", "body": body});
            for ann in &mut anns {
                assert_eq!(ann.take_type("signal"), told(json!({"only": 7})), "{form:?}");
                assert_eq!(ann.take_type("signal"), told(json!({"all": 8})), "{form:?}");
            }
            for other in [&mut bob, &mut cid] {
                assert_eq!(other.take_type("signal"), told(json!({"all": 8})), "a whisper is not theirs, {form:?}");
                messages(other, 2);
                assert!(other.has_nothing());
            }
        }
    }
}

#[test]
fn own_posts_come_from_the_programs_user_right_behind_their_cause() {
    for &cores in core_counts() {
        for durability in ["memory", "written", "synced"] {
            let setup = Setup::start(cores, durability, &judges());
            for form in Form::ALL {
                let room = format!("judged-{form:?}");
                let mut ann = setup.member(form, "ann", &room);
                let mut bob = setup.member(Form::Json, "bob", &room);
                assert_eq!(place(&mut ann, &room, "say", 1), 1);
                assert_eq!(place(&mut ann, &room, "pass", 2), 4, "the program's have the places between");
                let said = json!([
                    [1, "ann", {"ask": "say", "n": 1, "rolled": 2}],
                    [2, "@judge", {"roll": 4}],
                    [3, "@judge", {"roll": 5}],
                    [4, "ann", {"ask": "pass", "n": 2}],
                ]);
                assert_eq!(json!(messages(&mut ann, 4)), said, "{form:?}");
                assert_eq!(json!(messages(&mut bob, 4)), said, "{form:?}");
                let kept = history(&mut bob, &room);
                let kept: Vec<Value> =
                    kept.iter().map(|kept| json!([kept["sequence"], kept["user"], kept["body"]])).collect();
                assert_eq!(json!(kept), said, "{form:?}");
            }
        }
    }
}
