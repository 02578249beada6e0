//! What a program keeps and what it made of posts is there behind a crash, on another number of cores too.

use std::fs;

use banter_tests::server_process::core_counts;
use banter_tests::wire_client::{Form, WireClient};
use rustix::process::Signal;
use serde_json::{Value, json};

use crate::setup::{Entry, Setup, entry, history, keyed, post};

/// Numbers what is said, and keeps for itself what is whispered to it.
const COUNTER: &str = r#"
local function count(key)
  local n = (state.get(key) or 0) + 1
  state.set(key, n)
  return n
end
function post(room, m)
  if m:get("secret") then return take({ secrets = count("secrets") }) end
  if m:get("refused") then count("refused") return refuse("no") end
  m:set("n", count("n"))
  m:set("own", count("by:" .. m.user))
end
"#;
const ROOMS: usize = 6;
const USERS: [&str; 2] = ["ann", "bob"];
/// Rounds of one run of the server.
const ROUNDS: u64 = 10;
/// Segments as small as the other limits allow, so that a test comes to several of them.
const SMALL: [&str; 6] =
    ["--frame-bytes-max", "8192", "--log-commit-bytes-max", "16384", "--log-segment-bytes", "65536"];

fn counters() -> [Entry; 1] {
    [entry("counter", "count-*", COUNTER)]
}

fn room_of(index: usize) -> String {
    format!("count-{index}")
}

/// A body as it is posted: long enough that the log comes to another segment.
fn body(round: u64) -> Value {
    json!({"round": round, "filling": "x".repeat(400)})
}

fn key(user: &str, round: u64) -> String {
    format!("{user}-{round}")
}

fn members(setup: &Setup) -> Vec<(&'static str, WireClient)> {
    let members = USERS.into_iter().zip(Form::ALL).map(|(user, form)| (user, setup.hello(form, user)));
    let mut members: Vec<_> = members.collect();
    for (_, client) in &mut members {
        (0..ROOMS).for_each(|room| drop(client.join(&room_of(room))));
    }
    members
}

/// Each user posts once in each room in each of these rounds; each has its place, with the counts of all runs.
fn post_rounds(setup: &Setup, rounds: std::ops::Range<u64>) {
    let mut members = members(setup);
    for round in rounds {
        for (index, (user, client)) in members.iter_mut().enumerate() {
            for room in 0..ROOMS {
                let room = room_of(room);
                let sequence = round * USERS.len() as u64 + index as u64 + 1;
                let posted = client.ask(keyed(&room, &key(user, round), &body(round)));
                assert_eq!(
                    json!([posted["type"], posted["sequence"], posted["duplicate"]]),
                    json!(["posted", sequence, false]),
                    "{posted}"
                );
                let said = client.take("its own message", |event| {
                    event["type"] == "message" && event["room"] == room && event["user"] == *user
                });
                assert_eq!(
                    json!([said["sequence"], said["body"]["n"], said["body"]["own"], said["body"]["round"]]),
                    json!([sequence, sequence, round + 1, round]),
                    "{room}"
                );
            }
        }
    }
}

/// All that was posted by that round comes again, and has its first place; nobody sees it anew.
fn post_again(setup: &Setup, rounds: u64) {
    for (index, (user, mut client)) in members(setup).into_iter().enumerate() {
        for room in 0..ROOMS {
            let room = room_of(room);
            for round in 0..rounds {
                let again = client.ask(keyed(&room, &key(user, round), &body(round)));
                assert_eq!(
                    json!([again["type"], again["sequence"], again["duplicate"]]),
                    json!(["posted", round * USERS.len() as u64 + index as u64 + 1, true]),
                    "{room}, {user}, {round}: {again}"
                );
            }
            if rounds > 0 {
                let edited = client.ask(keyed(&room, &key(user, 0), &json!({"round": 0, "n": 1})));
                assert_eq!(edited["code"], "key_conflict", "another body under a key is another post: {edited}");
            }
            let kept = history(&mut client, &room);
            assert_eq!(kept.len() as u64, rounds * USERS.len() as u64);
            for (at, kept) in kept.iter().enumerate() {
                assert_eq!(json!([kept["sequence"], kept["body"]["n"]]), json!([at + 1, at + 1]), "{room}");
            }
        }
    }
}

/// Takes the indexes of the segments away, and what stands in for them at a start; how many there were.
fn lose_indexes(setup: &Setup) -> usize {
    let files = fs::read_dir(setup.path("data/log")).expect("a log").map(|entry| entry.expect("a file").path());
    let lost: Vec<_> = files.filter(|path| path.extension().is_some_and(|ending| ending == "index")).collect();
    lost.iter().for_each(|path| fs::remove_file(path).expect("an index"));
    let _ = fs::remove_file(setup.path("data/log/checkpoint"));
    lost.len()
}

/// The numbers of cores of one run after the other, so that rooms change their core where there are two.
fn core_counts_of_runs() -> impl Iterator<Item = usize> {
    core_counts().iter().rev().copied().cycle()
}

#[test]
fn counts_in_a_state_go_on_behind_a_kill_with_another_number_of_cores() {
    for durability in ["written", "synced"] {
        let mut setup = Setup::new(durability, &SMALL, &counters(), "");
        for (run, cores) in (0..4).zip(core_counts_of_runs()) {
            setup.run(cores);
            post_rounds(&setup, run * ROUNDS..(run + 1) * ROUNDS);
            setup.stop(if run == 2 { Signal::TERM } else { Signal::KILL });
        }
    }
}

#[test]
fn an_edited_post_that_comes_again_has_its_first_place_behind_a_kill_and_with_the_indexes_lost() {
    for durability in ["written", "synced"] {
        let mut setup = Setup::new(durability, &SMALL, &counters(), "");
        let (mut rounds, mut lost) = (0, 0);
        for (signal, cores) in [Signal::KILL, Signal::KILL, Signal::TERM].into_iter().zip(core_counts_of_runs()) {
            setup.run(cores);
            post_again(&setup, rounds);
            post_rounds(&setup, rounds..rounds + ROUNDS);
            rounds += ROUNDS;
            post_again(&setup, rounds);
            setup.stop(signal);
            lost += lose_indexes(&setup);
        }
        setup.run(1);
        post_again(&setup, rounds);
        post_rounds(&setup, rounds..rounds + ROUNDS);
        assert!(lost > 2, "there were {lost} indexes to lose");
    }
}

#[test]
fn what_a_program_takes_counts_behind_a_kill_and_what_it_refuses_as_well() {
    const EACH: u64 = 7;
    for durability in ["written", "synced"] {
        let mut setup = Setup::new(durability, &[], &counters(), "");
        for (run, cores) in (0..3).zip(core_counts_of_runs()) {
            setup.run(cores);
            for form in Form::ALL {
                // A room in which nothing was ever said has a state too.
                let room = format!("count-{form:?}");
                let mut ann = setup.member(form, "ann", &room);
                for secret in 1..=EACH {
                    let taken = ann.ask(post(&room, &json!({"secret": true})));
                    assert_eq!(taken["reply"], json!({"secrets": run * EACH + secret}), "{durability}: {taken}");
                    assert_eq!(ann.ask(post(&room, &json!({"refused": true})))["code"], "program_refused");
                }
                assert_eq!(history(&mut ann, &room), [Value::Null; 0]);
            }
            setup.stop(Signal::KILL);
        }
    }
}
