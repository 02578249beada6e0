//! Random programs, and random bodies into the examples: whatever they are, a call ends within its budget, ends the same in two
//! engines, and leaves a program beside it working.
//!
//! `BANTER_FUZZ_PROGRAMS` says how many of each, `BANTER_FUZZ_SEED` with which to begin; a failure names its seed.

mod common;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};

use banter_chat::program::{Budget, Engine, FaultKind, ProgramId, Verdict};
use banter_programs::{Compiled, LuauEngine};
use common::{BODY_BYTES_MAX, Room, json, source};

include!("common/fuzz_programs.rs");

/// How many programs the gate runs: 10^5 take 75 s of one core in a build for tests, since each is compiled and has three machines
/// made for it; these take 56. scripts/fuzz_programs.sh runs the rest.
const PROGRAMS: u64 = 75_000;
/// How many bodies: all 10^5 take a second for six examples.
const BODIES: u64 = 100_000;
/// The neighbour stands in the same engines for one program of so many: to make its machines is the larger part of the test else.
const NEIGHBOUR_EACH: u64 = 8;
const FIRST: ProgramId = ProgramId(0);
const SECOND: ProgramId = ProgramId(1);
const NEIGHBOUR: &str = "function post(room, m) local t = {} for i = 1, 10 do t[i] = { i } end m:set('n', #t) end";

fn from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(otherwise)
}

/// Runs each seed; a failing one is named.
fn each_seed(count: u64, mut run: impl FnMut(u64)) {
    let first = from_environment("BANTER_FUZZ_SEED", 1);
    for seed in first..first + count {
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| run(seed))) {
            eprintln!("it failed with BANTER_FUZZ_SEED={seed} BANTER_FUZZ_PROGRAMS=1");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn random_programs_end_within_their_budget_and_the_same_in_two_engines() {
    let neighbour = Compiled::new(&source("beside", NEIGHBOUR)).unwrap();
    let mut ran = 0_u64;
    let count = from_environment("BANTER_FUZZ_PROGRAMS", PROGRAMS);
    each_seed(count, |seed| {
        let mut dice = Dice::new(seed);
        let text = random_program(&mut dice);
        let Ok(compiled) = Compiled::new(&source("random", &text)) else { return };
        ran += 1;
        let has_neighbour = seed % NEIGHBOUR_EACH == 0;
        let mut programs = vec![compiled];
        if has_neighbour {
            programs.push(neighbour.clone());
        }
        let mut engines = [LuauEngine::new(&programs), LuauEngine::new(&programs)];
        let mut rooms = [Room::new(), Room::new()];
        let budget = Budget {
            units: [100, 2_000, 10_000][dice.below(3)],
            bytes: [2_000, 30_000, 262_144][dice.below(3)],
            watch_us: None,
        };
        for _ in 0..3 {
            let body = json(&random_body(&mut dice, 3));
            let ended = [0, 1].map(|number| {
                let room = &mut rooms[number];
                room.budget = budget;
                let ended = room.post_body(&mut engines[number], FIRST, "ann", &body);
                room.budget = common::BUDGET;
                if has_neighbour {
                    let beside = room.post(&mut engines[number], SECOND, "bob", "{}");
                    assert_eq!(beside.verdict, Ok(Verdict::Edit(b"{\"n\":10}".to_vec())), "{text}");
                }
                // One of them rests more than the other: what comes of a call is not for that to say.
                while number == 0 && engines[number].rest() {}
                ended
            });
            assert!(ended[0].units <= budget.units, "{text}");
            assert_eq!(ended[0], ended[1], "{text}");
        }
    });
    eprintln!("{ran} of {count} random programs compiled");
    assert!(ran * 2 > count, "{ran} of {count} compiled");
}

#[test]
fn random_bodies_into_each_example_bring_no_fault() {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/programs");
    let mut engines: Vec<(String, LuauEngine)> = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "luau") {
            let compiled = Compiled::new(&source("example", &fs::read_to_string(&path).unwrap())).unwrap();
            engines.push((path.display().to_string(), LuauEngine::new(&[compiled])));
        }
    }
    assert!(engines.len() >= 6);
    let mut rooms: Vec<Room> = engines.iter().map(|_| Room::new()).collect();
    each_seed(from_environment("BANTER_FUZZ_PROGRAMS", BODIES), |seed| {
        let mut dice = Dice::new(seed);
        let body = random_body(&mut dice, 5);
        let user = ["ann", "bob", "eve", "\u{1f600}"][dice.below(4)];
        for ((name, engine), room) in engines.iter_mut().zip(&mut rooms) {
            if seed % 50 == 0 {
                *room = Room::new();
            }
            room.now_ms += 700;
            let ended = room.post(engine, FIRST, user, &body);
            match ended.verdict {
                Ok(Verdict::Edit(edited)) => {
                    assert!(edited.len() <= BODY_BYTES_MAX);
                    let is_json = serde_json::from_slice::<&serde_json::value::RawValue>(&edited).is_ok();
                    assert!(is_json, "{name}: {body} became {}", String::from_utf8_lossy(&edited));
                }
                Ok(_) => {}
                // A poll of many answers is larger than a room's state may be.
                Err(fault) => assert_eq!(fault.kind, FaultKind::State, "{name}: {body}: {fault}"),
            }
            engine.rest();
        }
    });
}
