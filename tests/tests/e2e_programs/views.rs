//! Views: what each class of readers is shown of a message, live, from the history, in pages and after a restart.

use banter_tests::server_process::{core_counts, run_to_end, wait_until};
use banter_tests::wire_client::{Form, WireClient, narrow_stream};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, keyed, messages, post};

/// Everybody is of the class of his name up to its first dash, and who is called after nobody of none. Hands are shown to their sides.
const TABLE: &str = r#"
function join(room, who)
  local class = string.match(who.user, "^(%a+)%-")
  if class and class ~= "nobody" then return { class = class } end
end
function post(room, m)
  local all = m:table()
  if type(all) ~= "table" or not all.hands then return end
  for class, hand in pairs(all.hands) do m:view(class, { hand = hand }) end
  m:set("hands", nil)
end
"#;

const USERS: [&str; 4] = ["red-ann", "blue-bob", "green-cid", "nobody-dan"];

fn table() -> [Entry; 1] {
    [entry("table", "table-*", TABLE)]
}

/// What a user is shown of a deal.
fn shown(user: &str, number: u64) -> Value {
    match user {
        "red-ann" => json!({"hand": format!("red {number}")}),
        "blue-bob" => json!({"hand": format!("blue {number}")}),
        _ => json!({}),
    }
}

fn deal(number: u64) -> Value {
    json!({"hands": {"red": format!("red {number}"), "blue": format!("blue {number}")}})
}

fn bodies(messages: &[Value]) -> Vec<Value> {
    messages.iter().map(|message| message["body"].clone()).collect()
}

fn bodies_of_next(client: &mut WireClient, count: usize) -> Vec<Value> {
    messages(client, count).into_iter().map(|message| message[2].clone()).collect()
}

#[test]
fn each_side_is_shown_its_own_live_from_the_history_and_behind_a_restart() {
    for durability in ["memory", "written", "synced"] {
        let mut setup = Setup::new(durability, &[], &table(), "");
        for (run, &cores) in (0..3).zip(core_counts().iter().rev().cycle()) {
            setup.run(cores);
            for form in Form::ALL {
                let room = format!("table-{form:?}");
                let here = format!("{durability}, {form:?}, {cores} cores, run {run}");
                // Readers in each form beside each other, so that runs of forms and classes are many.
                let mut readers: Vec<(&str, WireClient)> = Vec::new();
                for of in Form::ALL {
                    readers.extend(USERS.map(|user| (user, setup.member(of, user, &room))));
                }
                let first = 2 * run + 1;
                let mut dealer = setup.member(form, "dealer", &room);
                for number in first..=first + 1 {
                    dealer.post(&room, deal(number));
                }
                assert_eq!(bodies_of_next(&mut dealer, 2), [json!({}), json!({})], "{here}");
                let all = |user: &str, from: u64| (from..=first + 1).map(|n| shown(user, n)).collect::<Vec<_>>();
                let kept = if durability == "memory" { first } else { 1 };
                for (user, client) in &mut readers {
                    assert_eq!(bodies_of_next(client, 2), all(user, first), "{here}, {user} live");
                    assert_eq!(bodies(&history(client, &room)), all(user, kept), "{here}, {user} by page");
                }
                for user in USERS {
                    let mut client = setup.hello(form, user);
                    // Who does not read the room is of no class there.
                    assert_eq!(
                        bodies(&history(&mut client, &room)),
                        all("nobody", kept),
                        "{here}, {user} from outside"
                    );
                    client.ask(json!({"type": "join", "room": room, "last": 100}));
                    let count = all(user, kept).len();
                    assert_eq!(bodies_of_next(&mut client, count), all(user, kept), "{here}, {user} caught up");
                }
                let told = setup.operate("GET", &format!("/v1/rooms/{room}/messages"), &Value::Null);
                assert!(told.status == 200 && !told.body.contains("hand"), "{here}: {}", told.body);
            }
            setup.stop(Signal::KILL);
            if durability == "memory" {
                std::fs::remove_dir_all(setup.path("data")).expect("a folder");
            }
        }
    }
}

#[test]
fn a_side_that_reads_slowly_catches_up_with_its_own() {
    const POSTS: u64 = 300;
    for &cores in core_counts() {
        let mut setup = Setup::new(
            "written",
            &[],
            &table(),
            "[limits]\nrun_bytes_max = 65536\n[program_limits]\nunits_per_second_max = 0\n",
        );
        setup.run(cores);
        for form in Form::ALL {
            let room = format!("table-{form:?}");
            let mut slow = WireClient::over(narrow_stream(setup.server().address()), form);
            slow.must_be_welcome(json!({"type": "hello", "user": "red-ann"}));
            slow.join(&room);
            let mut dealer = setup.member(form, "blue-bob", &room);
            let padding = "x".repeat(20_000);
            let before = setup.metric("banter_fell_behind_total");
            for number in 1..=POSTS {
                dealer.post(&room, json!({"hands": {"red": [number, padding]}}));
            }
            wait_until("it is behind", || setup.metric("banter_fell_behind_total") > before);
            let got = bodies_of_next(&mut slow, POSTS as usize);
            let wanted: Vec<Value> = (1..=POSTS).map(|number| json!({"hand": [number, padding]})).collect();
            assert!(got == wanted, "{form:?}");
        }
    }
}

#[test]
fn who_joins_again_as_another_is_shown_the_others_views_from_there_on() {
    // Who is of a class may be said by the room's state, which changes.
    let text = r#"
function join(room, who) local class = state.get(who.user) if class then return { class = class } end end
function post(room, m)
  local sit = m:get("sit")
  if sit then state.set(m.user, sit) return take() end
  m:view("red", "for red") m:view("blue", "for blue")
end"#;
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &[entry("seats", "seat-*", text)]);
        for form in Form::ALL {
            let room = format!("seat-{form:?}");
            let mut ann = setup.member(form, "ann", &room);
            let mut bob = setup.member(form, "bob", &room);
            for (round, side) in (1u64..).zip(["red", "blue", "red", "blue"]) {
                assert_eq!(ann.ask(post(&room, &json!({"sit": side})))["type"], "taken");
                ann.join(&room);
                bob.post(&room, json!(round));
                assert_eq!(bodies_of_next(&mut ann, 1), [json!(format!("for {side}"))], "{form:?}, {round}");
                assert_eq!(bodies_of_next(&mut bob, 1), [json!(round)]);
                let sides: Vec<Value> = (0..round).map(|_| json!(format!("for {side}"))).collect();
                assert_eq!(
                    bodies(&history(&mut ann, &room)),
                    sides,
                    "{form:?}, {round}: all of it as the side that it is of"
                );
            }
        }
    }
}

#[test]
fn a_keyed_deal_is_dealt_once_and_its_log_shows_every_view() {
    let mut setup = Setup::new("synced", &[], &table(), "");
    setup.run(core_counts()[0]);
    let mut ann = setup.member(Form::Json, "red-ann", "table-1");
    let request = keyed("table-1", "k", &deal(1));
    assert_eq!(ann.ask(request.clone())["duplicate"], false);
    setup.stop(Signal::KILL);
    setup.run(*core_counts().last().expect("some"));
    let mut ann = setup.member(Form::Native, "red-ann", "table-1");
    assert_eq!(ann.ask(request)["duplicate"], true, "by the body as it was sent");
    assert_eq!(bodies(&history(&mut ann, "table-1")), [shown("red-ann", 1)]);
    // What is erased is erased with all its views.
    let data = setup.text_of("data");
    let (code, _, err) = run_to_end(&["log", "erase", &data, "--room", "table-1", "--sequence", "1-1"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(history(&mut ann, "table-1")[0]["type"], "gap");
    ann.post("table-1", deal(2));
    setup.stop(Signal::TERM);
    let (code, dump, err) = run_to_end(&["log", "dump", &data]);
    assert!(code == 0 && !dump.contains("red 1"), "{err}{dump}");
    let lines: Vec<Value> = dump.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let line = lines.iter().find(|line| line["sequence"] == 2).expect("the second deal");
    assert_eq!(line["views"], json!({"red": {"hand": "red 2"}, "blue": {"hand": "blue 2"}}), "{line}");
    assert_eq!(line["body"], json!({}));
}

#[test]
fn a_room_has_sixteen_classes_at_a_time_and_says_so() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &table());
        let letters: Vec<String> = ('a'..='z').map(|letter| letter.to_string()).collect();
        let mut sides: Vec<WireClient> = (letters[..16].iter().zip(Form::ALL.iter().cycle()))
            .map(|(side, &form)| setup.member(form, &format!("{side}-user"), "table-1"))
            .collect();
        let mut late = setup.hello(Form::Json, "q-user");
        let refused = late.ask(json!({"type": "join", "room": "table-1"}));
        assert_eq!(json!([refused["code"], refused["reason"]]), json!(["program_refused", "classes"]), "{refused}");
        // One of a side that is there comes in, and so does another side where one is gone.
        setup.member(Form::Json, "c-second", "table-1");
        assert_eq!(sides[4].ask(json!({"type": "leave", "room": "table-1"}))["type"], "left");
        late.join("table-1");
        sides[0].post("table-1", json!({"hands": {"q": "for q", "a": "for a", "e": "for nobody"}}));
        assert_eq!(bodies_of_next(&mut late, 1), [json!({"hand": "for q"})]);
        assert_eq!(bodies_of_next(&mut sides[0], 1), [json!({"hand": "for a"})]);
        assert_eq!(bodies_of_next(&mut sides[1], 1), [json!({})]);
        let many: serde_json::Map<String, Value> = letters[..17].iter().map(|side| (side.clone(), json!(1))).collect();
        let refused = sides[0].ask(post("table-1", &json!({"hands": many})));
        assert_eq!(json!([refused["code"], refused["reason"]]), json!(["program_failed", "effects"]), "{refused}");
    }
}
