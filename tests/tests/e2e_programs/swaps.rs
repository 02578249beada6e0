//! Another text of a program takes over while people chat, or nothing changes and the operator is told why.

use banter_tests::server_process::{core_counts, run_to_end};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Setup, entry, post};

const EXIT_CONFIG: i32 = 78;
/// A mistake on the second line: a comma is missing.
const BROKEN: &str = "function post(room, m)\n  m:set(\"v\" 2)\nend\n";

/// A program that says which version it is.
fn version(number: u64) -> String {
    format!("function post(room, m) m:set('v', {number}) end")
}

/// Rooms enough that each core has one.
const ROOMS: usize = 6;

fn in_rooms(client: &mut WireClient) {
    (0..ROOMS).for_each(|room| drop(client.join(&format!("room-{room}"))));
}

/// The version that each room's next post goes by.
fn versions(client: &mut WireClient) -> Vec<Value> {
    let mut versions = Vec::new();
    for room in (0..ROOMS).map(|room| format!("room-{room}")) {
        let posted = client.post(&room, json!({}));
        let is_it = |event: &Value| {
            event["type"] == "message" && event["room"] == room && event["sequence"] == posted["sequence"]
        };
        versions.push(client.take("the message", is_it)["body"]["v"].clone());
    }
    versions
}

/// What says that the text is wrong, and where: what a compiler would.
#[track_caller]
fn says_where(text: &str, file: &str) {
    assert!(text.contains(&format!("{file}:2:")), "{text}");
    assert!(text.contains("expected ')'"), "{text}");
}

#[test]
fn a_new_text_counts_from_the_answer_on_by_signal_by_reload_and_by_its_name() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &[entry("versioned", "room-*", &version(1))]);
        let mut ann = setup.hello(Form::Native, "ann");
        in_rooms(&mut ann);
        assert_eq!(versions(&mut ann), vec![json!(1); ROOMS]);
        let digest = setup.told_of("versioned")["digest"].clone();
        setup.write_program("versioned", &version(2));
        assert_eq!(versions(&mut ann), vec![json!(1); ROOMS], "nobody was told to read it");
        let line = setup.hang_up();
        assert!(line.contains("new programs: versioned"), "{line}");
        assert_eq!(versions(&mut ann), vec![json!(2); ROOMS]);
        setup.write_program("versioned", &version(3));
        let told = setup.operate("POST", "/v1/reload", &Value::Null);
        assert_eq!((told.status, &told.json()["programs"]), (200, &json!(["versioned"])), "{}", told.body);
        assert_eq!(versions(&mut ann), vec![json!(3); ROOMS]);
        setup.write_program("versioned", &version(4));
        let told = setup.operate("POST", "/v1/programs/versioned/load", &Value::Null);
        assert_eq!((told.status, &told.json()["programs"]), (200, &json!(["versioned"])), "{}", told.body);
        assert_eq!(versions(&mut ann), vec![json!(4); ROOMS]);
        assert_ne!(setup.told_of("versioned")["digest"], digest);
        let told = setup.operate("POST", "/v1/programs/versioned/load", &Value::Null);
        assert_eq!((told.status, &told.json()["programs"]), (200, &json!([])), "it is the same: {}", told.body);
        let unknown = setup.operate("POST", "/v1/programs/other/load", &Value::Null);
        assert_eq!((unknown.status, &unknown.json()["error"]["code"]), (404, &json!("not_found")));
    }
}

#[test]
fn a_text_with_a_mistake_changes_nothing_and_each_way_says_where_it_is() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &[entry("versioned", "room-*", &version(1))]);
        let mut ann = setup.hello(Form::Json, "ann");
        in_rooms(&mut ann);
        let (file, before) = (setup.text_of("versioned.luau"), setup.told_of("versioned"));
        setup.write_program("versioned", BROKEN);
        for path in ["/v1/reload", "/v1/programs/versioned/load"] {
            let told = setup.operate("POST", path, &Value::Null);
            assert_eq!((told.status, &told.json()["error"]["code"]), (422, &json!("bad_request")), "{}", told.body);
            says_where(told.json()["error"]["message"].as_str().expect("a text"), &file);
        }
        says_where(&setup.hang_up(), &file);
        assert_eq!(setup.told_of("versioned"), before);
        assert_eq!(versions(&mut ann), vec![json!(1); ROOMS]);
        // What is mended counts.
        setup.write_program("versioned", &version(2));
        assert_eq!(setup.operate("POST", "/v1/programs/versioned/load", &Value::Null).status, 200);
        assert_eq!(versions(&mut ann), vec![json!(2); ROOMS]);
    }
}

#[test]
fn a_server_does_not_start_with_a_program_that_is_none_and_says_where_it_is() {
    for &cores in core_counts() {
        let setup = Setup::new("written", &[], &[entry("versioned", "room-*", BROKEN)], "");
        let (code, said) = setup.try_run(cores).err().expect("it does not start");
        assert_eq!(code, EXIT_CONFIG, "{said}");
        says_where(&said, &setup.text_of("versioned.luau"));
        let (code, _, checked) = run_to_end(&["program", "check", &setup.text_of("versioned.luau")]);
        assert_eq!(code, 1, "{checked}");
        let lines = |text: &str| text.lines().map(|line| line.trim_start_matches("banter: ").to_owned()).collect();
        let (said, checked): (Vec<String>, Vec<String>) = (lines(&said), lines(&checked));
        assert!(checked.iter().all(|line| said.contains(line)), "the same: {said:?} and {checked:?}");
        std::fs::remove_file(setup.path("versioned.luau")).expect("a file");
        let (code, said) = setup.try_run(cores).err().expect("it does not start");
        assert!(code == EXIT_CONFIG && said.contains("cannot read") && said.contains("versioned.luau"), "{said}");
    }
}

#[test]
fn calls_and_what_came_of_them_are_counted_and_go_on_over_a_swap() {
    const TEXT: &str = r#"
        function post(room, m)
          local ask = m:get("ask")
          if ask == "edit" then m:set("n", 1) end
          if ask == "refuse" then return refuse("no") end
          if ask == "take" then return take() end
          if ask == "say" then room.post(1) room.post(2) end
          if ask == "loop" then while true do end end
          if ask == "error" then error("oh") end
          if ask == "grow" then state.set("k", string.rep("x", 5000)) end
          if ask == "too much" then for i = 1, 9 do room.post(i) end end
        end"#;
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &[entry("counted", "room-*", TEXT), entry("idle", "idle", TEXT)]);
        let mut ann = setup.hello(Form::Rkyv, "ann");
        in_rooms(&mut ann);
        let rooms = ROOMS as u64;
        for swaps in 1..=2 {
            for room in (0..ROOMS).map(|room| format!("room-{room}")) {
                for ask in ["pass", "edit", "edit", "refuse", "take", "say", "loop", "error", "grow", "too much"] {
                    ann.ask(post(&room, &json!({"ask": ask})));
                }
            }
            let told = setup.told_of("counted");
            let counted = setup.counted("counted");
            for (key, each) in
                [("calls", 10), ("edits", 2), ("refusals", 1), ("takes", 1), ("posts", 2), ("suspensions", 0)]
            {
                assert_eq!((&told[key], counted[key]), (&json!(each * rooms * swaps), each * rooms * swaps), "{key}");
            }
            for (kind, each) in
                [("cpu", 1), ("error", 1), ("state", 1), ("effects", 1), ("memory", 0), ("suspended", 0)]
            {
                let count = each * rooms * swaps;
                assert_eq!(
                    (&told["faults"][kind], counted[&format!("faults {kind}")]),
                    (&json!(count), count),
                    "{kind}"
                );
            }
            assert_eq!(told["units"], counted["units"]);
            assert!(counted["units"] > 10_000 * rooms, "a loop took what it could");
            assert_eq!(setup.told_of("idle")["calls"], 0);
            setup.write_program("counted", &format!("-- {swaps}\n{TEXT}"));
            assert_eq!(setup.operate("POST", "/v1/programs/counted/load", &Value::Null).status, 200);
        }
    }
}

#[test]
fn a_suspended_room_is_asked_again_once_its_program_has_another_text() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "memory", &[entry("broken", "room-*", "function post() error('no') end")]);
        let mut ann = setup.hello(Form::Json, "ann");
        in_rooms(&mut ann);
        let rooms = || (0..ROOMS).map(|room| format!("room-{room}"));
        for room in rooms() {
            (0..5).for_each(|_| assert_eq!(ann.ask(post(&room, &json!(1)))["reason"], "error"));
            assert_eq!(ann.ask(post(&room, &json!(1)))["reason"], "suspended");
        }
        // The same again mends nothing.
        assert_eq!(setup.operate("POST", "/v1/programs/broken/load", &Value::Null).status, 200);
        rooms().for_each(|room| assert_eq!(ann.ask(post(&room, &json!(1)))["reason"], "suspended"));
        setup.write_program("broken", &version(2));
        assert_eq!(setup.operate("POST", "/v1/programs/broken/load", &Value::Null).status, 200);
        assert_eq!(versions(&mut ann), vec![json!(2); ROOMS]);
    }
}

#[test]
fn a_room_gets_a_program_and_loses_it_with_the_configuration() {
    for &cores in core_counts() {
        let setup = Setup::start(cores, "written", &[entry("versioned", "room-*", &version(1))]);
        let mut ann = setup.hello(Form::Json, "ann");
        in_rooms(&mut ann);
        assert_eq!(versions(&mut ann), vec![json!(1); ROOMS]);
        let config = std::fs::read_to_string(setup.path("banter.toml")).expect("a file");
        std::fs::write(setup.path("banter.toml"), config.split("[[programs]]").next().expect("a text"))
            .expect("a file");
        assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).status, 200);
        assert_eq!(versions(&mut ann), vec![Value::Null; ROOMS], "no program says which it is");
        assert_eq!(setup.operate("GET", "/v1/programs", &Value::Null).json()["programs"], json!([]));
        std::fs::write(setup.path("banter.toml"), &config).expect("a file");
        assert_eq!(setup.operate("POST", "/v1/reload", &Value::Null).status, 200);
        assert_eq!(versions(&mut ann), vec![json!(1); ROOMS]);
    }
}
