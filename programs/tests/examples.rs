//! The examples of `examples/programs`: each does to its lines what its golden file says; `BLESS=1` writes those anew.

mod common;

use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use banter_chat::program::{Event, ProgramId};
use banter_chat::room_state::StateDraft;
use banter_programs::{Compiled, LuauEngine};
use banter_protocol::ids::UserName;
use common::{Room, json, source};

const NAMES: [&str; 7] = ["redactor", "slow_mode", "dice", "poll", "turns", "echo", "hands"];

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../examples/programs")
}

/// One line: `post USER BODY`, `join USER`, `signal USER BODY`, `tick NAME` or `wait MS`.
fn run(line: &str, room: &mut Room, engine: &mut LuauEngine) -> String {
    let mut words = line.splitn(3, ' ');
    let (what, first, body) =
        (words.next().unwrap(), words.next().unwrap_or("-"), json(words.next().unwrap_or("null")));
    if what == "wait" {
        room.now_ms += first.parse::<u64>().unwrap();
        return String::new();
    }
    let user = UserName::new(first).unwrap();
    let event = match what {
        "post" => Event::Post { user: &user, key: None, hop: 0, body: &body },
        "join" => Event::Join { user: &user },
        "signal" => Event::Signal { user: &user, body: &body },
        "tick" => Event::Tick { name: first },
        _ => panic!("{line}"),
    };
    let ended = room.call(engine, ProgramId(0), &event);
    let draft = StateDraft::new(&room.state, usize::MAX, room.now_ms);
    let value = |key: &str| String::from_utf8_lossy(draft.get(key).unwrap_or_default()).into_owned();
    let state: Vec<String> = draft.keys("").into_iter().map(|key| format!("{key}={}", value(key))).collect();
    format!("< {}\n= {}\n", ended.line(), state.join(" "))
}

#[test]
fn each_example_does_what_its_golden_file_says() {
    for name in NAMES {
        let text = fs::read_to_string(folder().join(format!("{name}.luau"))).unwrap();
        let compiled = Compiled::new(&source(name, &text)).unwrap_or_else(|fault| panic!("{fault}"));
        let mut engine = LuauEngine::new(&[compiled]);
        let mut room = Room::new();
        let golden = folder().join(format!("{name}.golden"));
        let expected = fs::read_to_string(&golden).unwrap();
        let mut there = String::new();
        for line in expected.lines().filter_map(|line| line.strip_prefix("> ")) {
            write!(there, "> {line}\n{}", run(line, &mut room, &mut engine)).unwrap();
        }
        if std::env::var_os("BLESS").is_some() {
            fs::write(&golden, there).unwrap();
        } else {
            assert_eq!(there, expected, "{name}");
        }
    }
}
