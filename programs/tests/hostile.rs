//! Programs that mean harm: each ends within its budget, and the program beside it does not notice.

mod common;

use std::time::{Duration, Instant};

use banter_chat::program::{Budget, Engine, FaultKind, ProgramId, Verdict};
use banter_programs::LuauEngine;
use common::{BODY_BYTES_MAX, BUDGET, Room, compile, engine, json};

include!("common/hostile_scripts.rs");

const NEIGHBOUR: &str = "
    function post(room, m)
      local t = {}
      for i = 1, 20 do t[i] = { i, tostring(i) .. m.user } end
      state.set('n', (state.get('n') or 0) + #t)
      m:set('n', state.get('n'))
    end";
const FIRST: ProgramId = ProgramId(0);
const SECOND: ProgramId = ProgramId(1);

#[test]
fn each_hostile_program_ends_within_its_budget_and_its_neighbour_works() {
    assert!(HOSTILE.len() >= 60, "{}", HOSTILE.len());
    for (name, script) in HOSTILE {
        let text = hostile_text(script);
        let mut engine = engine(&[&text, NEIGHBOUR]);
        let (mut room, mut beside) = (Room::new(), Room::new());
        for round in 1..=4 {
            let ended = room.post(&mut engine, FIRST, "ann", HOSTILE_BODY);
            assert!(ended.units <= BUDGET.units, "{name}: {} units", ended.units);
            let neighbour = beside.post(&mut engine, SECOND, "bob", "{}");
            let expected = format!("{{\"n\":{}}}", 20 * round);
            assert_eq!(neighbour.verdict, Ok(Verdict::Edit(expected.into_bytes())), "{name}");
        }
    }
}

#[test]
fn each_hostile_program_ends_as_it_did_with_any_budget() {
    for (name, script) in HOSTILE {
        let text = hostile_text(script);
        for units in [0, 1, 50, 1_000] {
            for bytes in [0, 1_000, 20_000] {
                let mut engine = engine(&[&text]);
                let mut room = Room::new();
                room.budget = Budget { units, bytes, watch_us: None };
                let ended = room.post(&mut engine, FIRST, "ann", HOSTILE_BODY);
                assert!(ended.units <= units, "{name}: {} units of {units}", ended.units);
            }
        }
    }
}

#[test]
fn endless_loops_are_faults_of_the_cpu_however_they_are_caught() {
    for (name, script) in HOSTILE.iter().filter(|(name, _)| name.starts_with("endless")) {
        let mut engine = engine(&[&hostile_text(script)]);
        let ended = Room::new().post(&mut engine, FIRST, "ann", HOSTILE_BODY);
        let kind = ended.verdict.expect_err(name).kind;
        assert!(matches!(kind, FaultKind::Cpu | FaultKind::Memory), "{name}: {kind}");
    }
}

#[test]
fn the_watch_ends_what_units_do_not() {
    let mut engine =
        engine(&["function post() local t = table.create(8000, 0) while true do for _ in t do break end end end"]);
    let mut room = Room::new();
    room.budget = Budget { units: u32::MAX, watch_us: Some(500), ..BUDGET };
    let ended = room.post(&mut engine, FIRST, "ann", "{}");
    assert!(ended.is_over_time);
    let fault = ended.verdict.unwrap_err();
    assert_eq!(fault.kind, FaultKind::Cpu);
    assert!(fault.message.contains("µs"), "{fault}");
}

/// How long a call may take with the watch of a server: Luau itself is slow in a build for tests, and asserts what it does.
const CALL_MAX: Duration = Duration::from_micros(if cfg!(debug_assertions) { 4_000 } else { 1_500 });

#[test]
fn texts_and_numbers_of_one_hash_end_within_the_time_of_a_call_and_the_neighbour_works() {
    for (name, script, flood) in FLOODS {
        let mut engine = engine(&[&hostile_text(script), NEIGHBOUR]);
        let body = json(&flood.body());
        assert!(body.bytes.len() <= BODY_BYTES_MAX, "{name}: {} bytes", body.bytes.len());
        // The time of the wall is no less than the CPU's: of rounds that do the same the shortest is nearest to it. None of them
        // rests, so that what one left is there for the next.
        let mut shortest = Duration::MAX;
        for round in 1..=12 {
            let (mut room, mut beside) = (Room::new(), Room::new());
            room.budget = Budget { watch_us: Some(1_000), ..BUDGET };
            let begin = Instant::now();
            let ended = room.post_body(&mut engine, FIRST, "ann", &body);
            shortest = shortest.min(begin.elapsed());
            assert!(ended.units <= BUDGET.units, "{name}: {} units", ended.units);
            let neighbour = beside.post(&mut engine, SECOND, "bob", "{}");
            assert_eq!(neighbour.verdict, Ok(Verdict::Edit(b"{\"n\":20}".to_vec())), "{name} {round}");
        }
        assert!(shortest <= CALL_MAX, "{name}: {shortest:?}");
    }
}

#[test]
fn what_texts_of_one_hash_cost_is_the_same_whatever_was_called_before_and_others_cost_nothing() {
    let program = "function post(room, m) local t = m:get('text') end";
    let of = |texts: &[String]| format!("{{\"text\":[\"{}\"]}}", texts.join("\",\""));
    let units = |engine: &mut LuauEngine, body: &str| Room::new().post(engine, FIRST, "ann", body).units;
    let others: Vec<String> = (0..200).map(|number| format!("key{number:03}")).collect();
    let (few, alike) = (of(&others), of(&alike_texts(200)));
    let mut engine = engine(&[program]);
    // The asks, twice 28 of the body's bytes, 50 and 201 of the list's parts, 100 of its memory.
    let plain = units(&mut engine, &few);
    // A unit for each 8 that are alike and came before, where a text is looked for and where it is made.
    let flooded = units(&mut engine, &alike);
    assert_eq!((plain, flooded), (411, 5_211));
    for _ in 0..3 {
        assert_eq!((units(&mut engine, &few), units(&mut engine, &alike)), (plain, flooded));
    }
    let mut fresh = common::engine(&[program]);
    assert_eq!((units(&mut fresh, &alike), units(&mut fresh, &few)), (flooded, plain));
}

#[test]
fn garbage_of_one_hash_is_collected_in_steps_that_are_short() {
    let scripts = ["local s = m:get('few') for i = 1, #s, 7 do local k = s:sub(i, i + 5) end", "m:get('few')"];
    for script in scripts {
        let mut engine = engine(&[&hostile_text(script)]);
        let body = json(&Flood::Words.body());
        let mut longest_of: Vec<Duration> = Vec::new();
        for _ in 0..3 {
            for _ in 0..40 {
                Room::new().post_body(&mut engine, FIRST, "ann", &body).verdict.unwrap();
            }
            let (mut longest, mut is_more) = (Duration::ZERO, true);
            while is_more {
                let begin = Instant::now();
                is_more = Engine::rest(&mut engine);
                longest = longest.max(begin.elapsed());
            }
            longest_of.push(longest);
        }
        let longest = longest_of.into_iter().min().unwrap();
        assert!(longest <= CALL_MAX / 2, "{script}: {longest:?}");
    }
}

#[test]
fn a_program_with_too_many_texts_or_keys_of_one_hash_is_refused() {
    let texts = alike_texts(300);
    let numbers: Vec<String> = alike_numbers(300).iter().map(|number| format!("[{number}]=1")).collect();
    for text in [
        format!("local t = {{ '{}' }} function post() return t end", texts.join("','")),
        format!("local t = {{ {} }} function post() return t end", numbers.join(",")),
    ] {
        let fault = compile(&text).unwrap_err();
        assert!(fault.message.contains("same hash"), "{fault}");
    }
    let others: Vec<String> = (0..3_000).map(|number| format!("entry {number}")).collect();
    compile(&format!("local t = {{ ['{}'] = 1 }} function post() return t end", others.join("']=1,['"))).unwrap();
}

#[test]
fn what_outlives_a_call_is_refused_when_it_is_loaded() {
    for text in [
        "local n = 0 function post() n += 1 end",
        "n = 0 function post() n = 1 end",
        "local function make() local n = 0 return function() n += 1 return n end end local count = make() function post() count() end",
        "local n = 0 function post() local function inner() return function() n = 2 end end inner()() end",
        "function post() function helper() end end",
    ] {
        let fault = compile(text).expect_err(text);
        assert!(fault.message.contains("state.set"), "{fault}");
        assert_eq!(fault.line, 1);
    }
    for text in [
        "local t = {} function post() t.x = 1 end",
        "local t = { u = {} } function post() t.u.x = 1 end",
        "local k = { x = 1 } local t = { [k] = 1 } function post() for key in t do key.x = 2 end end",
        "local function f() return { 1 } end local t = f() function post() table.insert(t, 1) end",
        "local t = { 3, 1 } function post() table.sort(t) end",
        "local t = {} function post() table.clear(t) end",
        "function post() string.x = 1 end",
        "function post() config.x = 1 end",
        "function post() state.get = nil end",
        "function post(room) room.x = 1 end",
        "function post(room, m) m.x = 1 end",
    ] {
        let mut engine = engine(&[text]);
        let ended = Room::new().post(&mut engine, FIRST, "ann", "{}");
        assert_eq!(ended.verdict.expect_err(text).kind, FaultKind::Error, "{text}");
    }
    let text =
        "function post(room, m) local n = 0 local function count() n += 1 return n end count() m:set('n', count()) end";
    let ended = Room::new().post(&mut engine(&[text]), FIRST, "ann", "{}");
    assert_eq!(ended.verdict, Ok(Verdict::Edit(b"{\"n\":2}".to_vec())), "a local of the call is its own");
}

#[test]
fn chunks_and_texts_that_mean_harm_are_refused() {
    let nested = |open: &str, close: &str, depth: usize| {
        format!("local x = {}1{} function post() end", open.repeat(depth), close.repeat(depth))
    };
    for (name, text) in [
        ("an endless chunk", "while true do end function post() end".to_owned()),
        ("a caught endless chunk", "while true do pcall(function() while true do end end) end".to_owned()),
        ("a chunk of much memory", "local t = {} for i = 1, 1e6 do t[i] = { i } end function post() end".to_owned()),
        ("parentheses", nested("(", ")", 100_000)),
        ("tables", nested("{", "}", 100_000)),
        ("functions", format!("{}{}", "function post() ".repeat(10_000), "end ".repeat(10_000))),
        ("minuses", nested("- ", "", 200_000)),
        ("concatenations", format!("local x = 'a'{}", "..'a'".repeat(80_000))),
        ("blocks", format!("{} {}", "do ".repeat(60_000), "end ".repeat(60_000))),
        ("locals", "local a = 1 ".repeat(300)),
        ("constants", (0..40_000).map(|n| format!("x={n}.5 ")).collect()),
        ("a large text", "-".repeat(banter_programs::TEXT_BYTES_MAX + 1)),
        ("bytecode", "\u{6}\u{3}\u{1}\u{0}".to_owned()),
        ("a room in the chunk", "state.get('x') function post() end".to_owned()),
        ("an effect in the chunk", "log('x') function post() end".to_owned()),
    ] {
        assert!(compile(&text).is_err(), "{name}");
    }
}

#[test]
fn machines_made_anew_forget_nothing_and_memory_stays_within_its_end() {
    let text = "function post(room, m) local t = {} for i = 1, 1e6 do t[i] = { i } end end";
    let mut engine = engine(&[text, NEIGHBOUR]);
    let (mut room, mut beside) = (Room::new(), Room::new());
    for _ in 0..300 {
        let fault = room.post(&mut engine, FIRST, "ann", "{}").verdict.unwrap_err();
        assert_eq!(fault.kind, FaultKind::Memory);
        beside.post(&mut engine, SECOND, "bob", "{}").verdict.unwrap();
        assert!(engine.allocated_bytes() < 8 * 1_024 * 1_024, "{}", engine.allocated_bytes());
    }
    while banter_chat::program::Engine::rest(&mut engine) {}
    assert!(engine.allocated_bytes() < 2 * 1_024 * 1_024, "{}", engine.allocated_bytes());
}

#[test]
fn a_small_stack_holds_the_deepest_calls() {
    let scripts: Vec<String> =
        HOSTILE.iter().filter(|(name, _)| name.contains("deep")).map(|(_, script)| hostile_text(script)).collect();
    assert!(scripts.len() >= 5);
    let on_small = std::thread::Builder::new().stack_size(512 * 1_024).spawn(move || {
        for text in scripts {
            let mut engine = engine(&[&text]);
            let _ = Room::new().post_body(&mut engine, FIRST, "ann", &json(HOSTILE_BODY));
        }
    });
    on_small.unwrap().join().unwrap();
}
