//! What programs cost: `cargo run --release -p banter-programs --example cost` for calls, with `hostile` behind it for harm, and with
//! `calls NAME COUNT` so many calls of one row and nothing else: two counts under callgrind give the instructions of a call, whatever
//! else the machine does meanwhile.

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::Instant;

use banter_chat::program::{Budget, Engine, ProgramId};
use banter_programs::LuauEngine;
use common::{BUDGET, Room, engine, json};

include!("../tests/common/hostile_scripts.rs");

const FIRST: ProgramId = ProgramId(0);
/// Short rounds, and many: the best one is without what else the machine did meanwhile.
const CALLS: u32 = 10_000;
const ROUNDS: u32 = 70;
/// Of 129 bytes.
const BODY: &str = r#"{"id":"01HZX4M1T8","user":{"name":"Ann","color":"teal"},"text":"what a fine day it is, is it not?","reply":null,"tags":["a","b"]}"#;

/// Name, program and body.
const ROWS: [(&str, &str, &str); 8] = [
    ("no hook: the bench", "function tick() end", BODY),
    ("pass", "function post() end", BODY),
    ("one field read", "function post(room, m) local t = m:get('text') end", BODY),
    ("slow mode", include_str!("../../examples/programs/slow_mode.luau"), BODY),
    ("redactor", include_str!("../../examples/programs/redactor.luau"), BODY),
    ("redactor that masks", include_str!("../../examples/programs/redactor.luau"), DARN),
    ("dice", include_str!("../../examples/programs/dice.luau"), ROLL),
    ("table and back", "function post(room, m) local t = m:table() t.n = 1 m:replace(t) end", BODY),
];

fn main() {
    let budget = Budget { watch_us: Some(1_000), ..BUDGET };
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match &arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["hostile"] => return hostile(budget),
        ["calls", name, count] => return calls(name, count.parse().expect("a count"), budget),
        _ => {}
    }
    assert_eq!(BODY.len(), 129);
    println!("ns a call, the best of {ROUNDS} rounds of {CALLS}; body of {} bytes", BODY.len());
    for (name, text, body) in ROWS {
        let (call_ns, rest_ns) = cost(text, body, budget);
        println!("{name:<24} {call_ns:>7.0} and {rest_ns:>5.0} of rest");
    }
    let made = Instant::now();
    let many = engine(&["function post() end"; 20]);
    println!(
        "a machine: {} µs to compile, try and make; {} KiB",
        made.elapsed().as_micros() / 20,
        many.allocated_bytes() / 20 / 1_024
    );
}

const DARN: &str = r#"{"id":"01HZX4M1T8","user":{"name":"Ann","color":"teal"},"text":"what a darn good day it is, is it?!","reply":null,"tags":["ab"]}"#;
const ROLL: &str = r#"{"id":"01HZX4M1T8","user":{"name":"Ann","color":"teal"},"text":"/roll 3d6","reply":"01HZX4M1T7 of yesterday","tags":["a","b"]}"#;

fn calls(name: &str, count: u32, budget: Budget) {
    let (_, text, body) = ROWS.iter().find(|(row, ..)| *row == name).expect("the name of a row");
    let mut engine = engine(&[text]);
    let mut room = Room::new();
    room.budget = budget;
    let body = json(body);
    for _ in 0..count {
        room.now_ms += 6_000;
        room.post_body(&mut engine, FIRST, "ann", &body).verdict.expect("a verdict");
    }
}

fn cost(text: &str, body: &str, budget: Budget) -> (f64, f64) {
    let mut engine = engine(&[text]);
    let mut room = Room::new();
    room.budget = budget;
    let body = json(body);
    let (mut best, mut best_rest) = (f64::MAX, f64::MAX);
    for _ in 0..ROUNDS {
        let (mut calls_ns, mut rests_ns) = (0, 0);
        for _ in 0..CALLS / 100 {
            let begin = Instant::now();
            for _ in 0..100 {
                room.now_ms += 6_000;
                room.post_body(&mut engine, FIRST, "ann", &body).verdict.expect("a verdict");
            }
            let called = Instant::now();
            while engine.rest() {}
            calls_ns += called.duration_since(begin).as_nanos();
            rests_ns += called.elapsed().as_nanos();
        }
        best = best.min(calls_ns as f64 / f64::from(CALLS));
        best_rest = best_rest.min(rests_ns as f64 / f64::from(CALLS));
    }
    (best, best_rest)
}

/// CPU time of this thread.
fn cpu_us() -> f64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a place of ours for the time.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 * 1e6 + time.tv_nsec as f64 / 1e3
}

fn hostile(budget: Budget) {
    println!("{:>9} {:>9} {:>9}  units  ends as", "watch µs", "no watch", "2000 u");
    let mut rows = Vec::new();
    let hostile = HOSTILE.iter().map(|(name, script)| (*name, *script, HOSTILE_BODY.to_owned()));
    let floods = FLOODS.iter().map(|(name, script, flood)| (*name, *script, flood.body()));
    for (name, script, body) in hostile.chain(floods) {
        let text = hostile_text(script);
        let body = json(&body);
        let worst = |budget: Budget| {
            let mut worst: f64 = 0.0;
            let mut ended = None;
            let mut engine: LuauEngine = engine(&[&text]);
            for _ in 0..10 {
                let mut room = Room::new();
                room.budget = budget;
                let begin = cpu_us();
                ended = Some(room.post_body(&mut engine, FIRST, "ann", &body));
                worst = worst.max(cpu_us() - begin);
                while engine.rest() {}
            }
            (worst, ended.expect("called"))
        };
        let (watched, ended) = worst(budget);
        let (free, _) = worst(Budget { watch_us: None, ..budget });
        let (few, _) = worst(Budget { watch_us: None, units: 2_000, ..budget });
        let ends = match &ended.verdict {
            Ok(_) => "verdict".to_owned(),
            Err(fault) => fault.to_string().chars().take(60).collect(),
        };
        rows.push((watched, format!("{watched:>9.1} {free:>9.1} {few:>9.1} {:>6}  {name}: {ends}", ended.units)));
    }
    rows.sort_by(|one, other| other.0.total_cmp(&one.0));
    rows.iter().for_each(|(_, row)| println!("{row}"));
}
