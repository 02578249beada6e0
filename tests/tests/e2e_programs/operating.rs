//! What an operator does with programs of a running server and sees of them: reads one again, and finds the rooms where they are dear or
//! suspended.

use std::time::{Duration, Instant};

use banter_tests::server_process::{core_counts, wait_until};
use banter_tests::wire_client::{Form, WireClient};
use serde_json::{Value, json};

use crate::setup::{Setup, entry, post};

const EXIT_REFUSED: i32 = 1;
const EXIT_UNAVAILABLE: i32 = 69;
/// For so long at least what a room called is remembered.
const FORGOTTEN_NOT_BEFORE: Duration = Duration::from_secs(10);
/// Rooms enough that each core has some.
const ROOMS: u64 = 8;
/// Counts up to what a post says, keeps a text, or fails.
const LOOPER: &str = "function post(room, m)
  local n = m:get('n')
  if n == nil then error('no number') end
  if n == 0 then state.set('k', 'kept') end
  for _ = 1, n do end
end";

fn lines(out: &str) -> Vec<Value> {
    out.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|fault| panic!("{line}: {fault}"))).collect()
}

/// The dearest rooms.
fn top(setup: &Setup) -> Vec<Value> {
    let told = setup.operate("GET", "/v1/programs/top", &Value::Null);
    assert_eq!(told.status, 200, "{}", told.body);
    told.json()["rooms"].as_array().expect("a list").clone()
}

fn say(client: &mut WireClient, room: &str, body: &Value) {
    assert_eq!(client.ask(post(room, body))["type"], "posted", "{room}");
}

fn suspend(client: &mut WireClient, room: &str) {
    for reason in ["error", "error", "error", "error", "error", "suspended"] {
        assert_eq!(client.ask(post(room, &json!({})))["reason"], reason, "{room}");
    }
}

#[test]
fn a_program_is_read_again_by_its_name() {
    for &cores in core_counts() {
        let setup =
            Setup::start(cores, "memory", &[entry("looper", "room-*", LOOPER), entry("other", "other", LOOPER)]);
        let mut ann = setup.member(Form::Json, "ann", "room-1");
        let version = |ann: &mut WireClient| {
            let posted = ann.post("room-1", json!({"n": 1}));
            ann.take("the message", |event| event["type"] == "message" && event["sequence"] == posted["sequence"])
                ["body"]["v"]
                .clone()
        };
        assert_eq!(version(&mut ann), Value::Null);
        let same = (0, "looper is as it was: its text, words and config are the same\n".to_owned(), String::new());
        assert_eq!(setup.program("load looper"), same);
        setup.write_program("looper", "function post(room, m) m:set('v', 2) end");
        assert_eq!(setup.program("load looper"), (0, "new program    looper\n".to_owned(), String::new()));
        assert_eq!(version(&mut ann), 2);
        setup.write_program("looper", "function post(room, m) m:set('v', 3) end");
        let (code, out, err) = setup.program("load looper --json");
        assert_eq!((code, &lines(&out)[0]["programs"], &*err), (0, &json!(["looper"]), ""), "{out}");
        assert_eq!(version(&mut ann), 3);
        // A mistake is told where it is, as `check` tells it, and changes nothing.
        setup.write_program("looper", "function post(room, m)\n  m:set('v' 4)\nend\n");
        let (code, out, err) = setup.program("load looper");
        assert_eq!((code, &*out), (EXIT_REFUSED, ""), "{err}");
        let checked = setup.program(&format!("check {}", setup.text_of("looper.luau"))).2;
        let checked = checked.trim_start_matches("banter: ");
        assert!(checked.contains("looper.luau:2:13: expected ')'") && checked.lines().count() == 3, "{checked}");
        assert_eq!(err, format!("banter: bad_request: {checked}"));
        assert_eq!(version(&mut ann), 3);
        let (code, _, err) = setup.program("load nobody");
        assert!(code == EXIT_REFUSED && err.contains("not_found: there is no such program"), "{err}");
        let (code, _, err) = setup.program(&format!("load looper --socket {}", setup.text_of("none.sock")));
        assert!(code == EXIT_UNAVAILABLE && err.contains("is the server running"), "{err}");
    }
}

#[test]
fn the_dearest_rooms_of_all_cores_are_told_and_no_others() {
    for &cores in core_counts() {
        let entries = [entry("looper", "room-*", LOOPER), entry("other", "other-*", LOOPER)];
        let setup = Setup::start(cores, "memory", &entries);
        let nothing = "banter: no room has called a program in the last ten seconds\n".to_owned();
        assert_eq!(setup.program("top"), (0, String::new(), nothing));
        assert_eq!(setup.program("top --json"), (0, String::new(), String::new()));
        let mut ann = setup.hello(Form::Native, "ann");
        // More rooms than are told; the later, the dearer.
        let rooms: Vec<String> = (0..25)
            .map(|number| if number % 2 == 0 { format!("room-{number}") } else { format!("other-{number}") })
            .collect();
        for room in rooms.iter().map(String::as_str).chain(["plain"]) {
            ann.join(room);
        }
        let (told, table, again) = loop {
            let began = Instant::now();
            for (number, room) in rooms.iter().enumerate() {
                say(&mut ann, room, &json!({"n": 100 + 100 * number}));
                say(&mut ann, room, &json!({"n": 1}));
            }
            say(&mut ann, "plain", &json!({"n": 9_000}));
            let (told, table, again) = (top(&setup), setup.program("top"), setup.program("top --json"));
            if began.elapsed() < FORGOTTEN_NOT_BEFORE {
                break (told, table, again);
            }
            // The machine stood still meanwhile.
            wait_until("all that is forgotten", || top(&setup).is_empty());
        };
        let named: Vec<&str> = told.iter().map(|room| room["room"].as_str().expect("a name")).collect();
        assert_eq!(named, rooms.iter().rev().take(20).collect::<Vec<_>>(), "the dearest first");
        let on_cores: std::collections::BTreeSet<_> = told.iter().map(|room| room["core"].as_u64()).collect();
        assert_eq!(on_cores.len(), cores, "{told:?}");
        for room in &told {
            let program =
                if room["room"].as_str().is_some_and(|room| room.starts_with("room-")) { "looper" } else { "other" };
            assert_eq!(room["program"], program);
            assert_eq!(json!([room["calls"], room["faults"], room["suspended_ms"]]), json!([2, 0, 0]), "{room}");
            let (units, per_second) = (room["units"].as_u64().unwrap(), room["units_per_second"].as_u64().unwrap());
            assert!(units / 11 <= per_second && per_second <= units / 10, "{room}");
            assert_eq!(room["units_per_second_max"], 500_000);
        }
        // A loop's steps are its units.
        let units = told[0]["units"].as_u64().expect("a number");
        assert!((2_500..5_200).contains(&units), "{units}");
        let (code, out, err) = table;
        assert_eq!((code, &*err), (0, ""));
        let table: Vec<Vec<&str>> = out.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(table[0], ["PROGRAM", "ROOM", "CALLS", "UNITS", "UNITS/S", "BUDGET", "FAULTS", "SUSPENDED"]);
        assert_eq!((table.len(), &table[1][..4]), (21, &["looper", "room-24", "2", &*units.to_string()][..]), "{out}");
        let (code, out, _) = again;
        let again = lines(&out);
        assert_eq!((code, again.len(), &again[0]["room"]), (0, 20, &told[0]["room"]));
    }
}

#[test]
fn suspended_rooms_are_counted_named_and_those_that_were_mended_no_longer() {
    for &cores in core_counts() {
        let setup =
            Setup::start(cores, "written", &[entry("looper", "room-*", LOOPER), entry("other", "other", LOOPER)]);
        let mut ann = setup.hello(Form::Rkyv, "ann");
        let rooms = || (0..ROOMS).map(|room| format!("room-{room}"));
        for room in rooms() {
            ann.join(&room);
            say(&mut ann, &room, &json!({"n": 0}));
        }
        let counted = setup.counted("looper");
        let state_bytes = counted["state_bytes"];
        assert_eq!((counted["suspended_rooms"], state_bytes % ROOMS), (0, 0));
        assert!((ROOMS * 10..ROOMS * 60).contains(&state_bytes), "{state_bytes}");
        assert_eq!(setup.counted("other")["state_bytes"], 0);
        rooms().skip(1).for_each(|room| suspend(&mut ann, &room));
        let suspended = |setup: &Setup| {
            let told = setup.operate("GET", "/v1/programs", &Value::Null).json();
            assert_eq!(told["more_suspended"], false, "{told}");
            let named: Vec<Value> = told["suspended"].as_array().expect("a list").clone();
            let count = setup.told_of("looper")["suspended_rooms"].clone();
            assert_eq!(
                (setup.counted("looper")["suspended_rooms"], named.len()),
                (count.as_u64().unwrap(), named.len())
            );
            assert_eq!(named.len() as u64, count);
            named
        };
        let named = suspended(&setup);
        let mut names: Vec<&str> = named.iter().map(|room| room["room"].as_str().expect("a name")).collect();
        names.sort_unstable();
        assert_eq!(names, rooms().skip(1).collect::<Vec<_>>());
        let is_told =
            |room: &Value| room["program"] == "looper" && (1..=60_000).contains(&room["left_ms"].as_u64().unwrap());
        assert!(named.iter().all(is_told), "{named:?}");
        let left = |room: &Value| room["left_ms"].as_u64();
        assert!(named.is_sorted_by_key(left), "{named:?}");
        assert_eq!(setup.told_of("other")["suspended_rooms"], 0);
        // What they called may be forgotten by now, on a machine that stood still.
        if let Some(row) = top(&setup).iter().find(|row| row["room"] == "room-1") {
            assert!(row["suspended_ms"].as_u64() > Some(0), "{row}");
        }
        // Read again as they are, they stay what they are; another text counts at once, also in rooms where nobody says anything.
        assert_eq!(setup.program("load looper").0, 0);
        assert_eq!(suspended(&setup).len() as u64, ROOMS - 1);
        setup.write_program("looper", &format!("-- mended\n{LOOPER}"));
        assert_eq!(setup.program("load looper").0, 0);
        assert_eq!(suspended(&setup), [Value::Null; 0]);
        assert_eq!(setup.counted("looper")["state_bytes"], state_bytes);
        for room in rooms() {
            say(&mut ann, &room, &json!({"n": 2}));
        }
    }
}

#[test]
fn a_hundred_suspended_rooms_are_named_and_it_is_said_that_there_are_others() {
    const MANY: u64 = 104;
    let setup = Setup::start(1, "memory", &[entry("looper", "room-*", LOOPER)]);
    let mut ann = setup.hello(Form::Json, "ann");
    for room in (0..MANY).map(|room| format!("room-{room}")) {
        ann.join(&room);
        suspend(&mut ann, &room);
    }
    let told = setup.operate("GET", "/v1/programs", &Value::Null).json();
    assert_eq!((told["suspended"].as_array().map(Vec::len), &told["more_suspended"]), (Some(100), &json!(true)));
    assert_eq!(told["programs"][0]["suspended_rooms"], MANY);
}
