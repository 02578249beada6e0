//! What an operator is told of rooms with programs: which took the most lately, where a program is suspended, what they remember.

use std::collections::BTreeMap;

use banter_chat::backend::{BackendAnswer, BackendAsk};
use banter_chat::limits::Limits;
use banter_chat::parcel::OwnedBody;
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies};
use banter_chat::program::{Call, Engine, Event, Fault, FaultKind, Hook, Hooks, ProgramFacts, ProgramId, Verdict};
use banter_chat::programming::dearest::{ASKS_MAX, DEAREST_MAX, DearRoom};
use banter_chat::programming::{ProgramCounts, SUSPENDED_LISTED_MAX};
use banter_chat::programs::{OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_chat::room_program::Used;
use banter_log::catalog::{Catalog, Epochs};
use banter_protocol::ids::{RoomName, UserName};

mod one_core;
use one_core::{Disk, Server, WALL_MS, roomy};

/// Does what a body says: `burn UNITS`, `keep BYTES`, `take BYTES` (keeps them, and the post gets no place), `fail`.
struct Burner;

impl Engine for Burner {
    fn facts(&self, _: ProgramId) -> ProgramFacts {
        ProgramFacts { hooks: Hooks::default().with(Hook::Post), version: 1 }
    }

    fn call(&mut self, _: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        let Event::Post { body, .. } = call.event else { return Ok(Verdict::Pass) };
        let text = String::from_utf8_lossy(&body.bytes).into_owned();
        let (word, number) = text.trim_matches('"').split_once(' ').unwrap_or_default();
        let number: u32 = number.parse().unwrap_or_default();
        match word {
            "burn" => call.spent.units = number,
            "keep" | "take" => {
                call.state.set("k", &vec![b'1'; number as usize], None).expect("it is small");
            }
            _ => return Err(Fault::new(FaultKind::Error, "it failed")),
        }
        Ok(if word == "take" { Verdict::Take { reply: None } } else { Verdict::Pass })
    }

    fn rest(&mut self) -> bool {
        false
    }
}

/// Programs by name, the rooms of each, and of which text it is.
fn set(rules: &[(&str, &str, u64)]) -> ProgramSet {
    let rule = |&(name, rooms, digest): &(&str, &str, u64)| ProgramRule {
        pattern: RoomPattern::new(rooms),
        name: name.into(),
        digest,
        on_fault: OnFault::Pass,
        user: UserName::new("@burner").unwrap(),
        post_to: Vec::new(),
    };
    let limits = ProgramLimits { units_per_turn_max: 1_000_000_000, ..ProgramLimits::default() };
    let programs = Programs::new(rules.iter().map(rule).collect());
    ProgramSet { programs, engine: Box::new(Burner), limits, seed: 7 }
}

fn server_of(durability: Durability, limits: Limits, rules: &[(&str, &str, u64)]) -> Server {
    let (run, policies) = ((1, WALL_MS), (RoomPolicies::all(durability), Epochs::default()));
    let mut server = Server::with(Disk::default(), Catalog::default(), limits, run, policies);
    server.shard.set_programs(set(rules));
    server
}

/// Something is posted in a room, which is not waited for.
fn post(server: &mut Server, room: &str, says: &str) {
    let (room, user) = (RoomName::new(room).unwrap(), UserName::new("shop").unwrap());
    let body = OwnedBody::json(format!("\"{says}\"").into());
    server.shard.backend(0, BackendAsk::Post { room, user, key: None, body });
}

fn posted(server: &mut Server, room: &str, says: &str) {
    post(server, room, says);
    server.rest();
    server.shard.take_backend_answers();
}

fn suspend(server: &mut Server, room: &str) {
    (0..5).for_each(|_| posted(server, room, "fail 1"));
}

fn counts(server: &Server) -> BTreeMap<String, ProgramCounts> {
    server.shard.rooms().programming().counts().map(|(rule, counts)| (rule.name.to_string(), *counts)).collect()
}

/// How many rooms are suspended by what is counted, and that it and the bytes are what the rooms say.
#[track_caller]
fn suspended(server: &Server) -> Vec<u64> {
    let counted = counts(server);
    let names: Vec<&String> = counted.keys().collect();
    let mut sums = vec![(0, 0); names.len()];
    let rules: Vec<String> =
        server.shard.rooms().programming().counts().map(|(rule, _)| rule.name.to_string()).collect();
    for kept in server.shard.rooms().iter().filter_map(|room| room.program.as_deref()) {
        let Some(program) = kept.program else { continue };
        let at = names.iter().position(|name| **name == rules[usize::from(program.0)]).unwrap();
        sums[at].0 += u64::from(kept.faults.is_suspended(server.monotonic_ms));
        sums[at].1 += kept.committed.len() as u64;
    }
    let told: Vec<(u64, u64)> = counted.values().map(|counts| (counts.suspended_rooms, counts.state_bytes)).collect();
    assert_eq!(told, sums, "{names:?}");
    told.into_iter().map(|(suspended, _)| suspended).collect()
}

fn names(server: &Server) -> Vec<String> {
    let rooms = server.shard.rooms().suspended_rooms();
    rooms.iter().map(|room| format!("{} {}", room.program, room.room.as_str())).collect()
}

/// The dearest rooms, for who waits for them.
fn dearest(server: &mut Server) -> Vec<DearRoom> {
    server.shard.backend(5, BackendAsk::DearestRooms);
    server.rest();
    match server.shard.take_backend_answers().pop() {
        Some((5, BackendAnswer::DearestRooms(rooms))) => rooms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_dearest_of_many_rooms_come_first_and_are_looked_for_over_several_turns() {
    const ROOMS: u32 = 3_000;
    let mut server = server_of(Durability::Memory, roomy(), &[("odd", "odd-*", 1), ("even", "even-*", 1)]);
    let name = |number: u32| if number % 2 == 1 { format!("odd-{number}") } else { format!("even-{number}") };
    // In another order than that of the table.
    for number in (0..ROOMS).map(|number| number * 7 % ROOMS) {
        post(&mut server, &name(number), &format!("burn {}", 1_000 + number));
    }
    post(&mut server, "elsewhere", "burn 9000");
    server.rest();
    server.shard.take_backend_answers();
    for ticket in [1, 2] {
        server.shard.backend(ticket, BackendAsk::DearestRooms);
    }
    server.turn();
    assert!(server.shard.take_backend_answers().is_empty() && server.shard.is_busy(), "it looks at a part of them");
    server.rest();
    let answers = server.shard.take_backend_answers();
    assert_eq!(answers.iter().map(|(ticket, _)| *ticket).collect::<Vec<_>>(), [1, 2]);
    for (_, answer) in answers {
        let BackendAnswer::DearestRooms(rooms) = answer else { panic!("{answer:?}") };
        let told: Vec<(&str, u32)> = rooms.iter().map(|dear| (dear.room.as_str(), dear.used.units)).collect();
        let dearest: Vec<(String, u32)> = (0..DEAREST_MAX as u32)
            .map(|behind| ROOMS - 1 - behind)
            .map(|number| (name(number), 1_000 + number))
            .collect();
        assert_eq!(told, dearest.iter().map(|(name, units)| (name.as_str(), *units)).collect::<Vec<_>>());
        assert!(rooms.iter().all(|dear| dear.room.as_str().starts_with(&*dear.program)));
    }
}

#[test]
fn a_room_is_dear_by_what_it_took_in_ten_seconds_and_its_share_is_by_the_second() {
    let mut server = server_of(Durability::Memory, roomy(), &[("burner", "*", 1)]);
    server.monotonic_ms = 1_000_500;
    assert_eq!(dearest(&mut server), []);
    for _ in 0..3 {
        posted(&mut server, "a", "burn 7000");
        server.pass(1_000);
    }
    suspend(&mut server, "b");
    let rooms = dearest(&mut server);
    let [a, b] = &rooms[..] else { panic!("{rooms:?}") };
    assert_eq!((a.room.as_str(), a.used), ("a", Used { calls: 3, units: 21_000, faults: 0 }));
    // Ten seconds and a half.
    assert_eq!((a.units_per_second, a.units_per_second_max, a.suspended_ms), (2_000, 500_000, 0));
    assert_eq!((b.room.as_str(), b.used), ("b", Used { calls: 5, units: 0, faults: 5 }));
    assert_eq!((b.units_per_second, b.suspended_ms), (0, 60_000));
    server.pass(9_000);
    let rooms = dearest(&mut server);
    assert_eq!(rooms.iter().map(|dear| dear.used.calls).collect::<Vec<_>>(), [1, 5]);
    server.pass(2_000);
    assert_eq!(dearest(&mut server), [], "it is over");
}

#[test]
fn as_many_asks_wait_as_may_and_each_is_answered() {
    let mut server = server_of(Durability::Memory, roomy(), &[("burner", "*", 1)]);
    posted(&mut server, "a", "burn 1");
    for ticket in 0..=ASKS_MAX as u64 {
        server.shard.backend(ticket, BackendAsk::DearestRooms);
    }
    server.rest();
    let answers = server.shard.take_backend_answers();
    let dear =
        answers.iter().filter(|(_, answer)| matches!(answer, BackendAnswer::DearestRooms(rooms) if rooms.len() == 1));
    assert_eq!((answers.len(), dear.count()), (ASKS_MAX + 1, ASKS_MAX));
    assert_eq!(dearest(&mut server).len(), 1, "and then others may ask");
}

#[test]
fn rooms_are_counted_and_named_as_long_as_they_are_suspended() {
    let mut server = server_of(Durability::Memory, roomy(), &[("first", "first-*", 1), ("second", "second-*", 1)]);
    suspend(&mut server, "first-a");
    server.pass(2_000);
    suspend(&mut server, "second-a");
    suspend(&mut server, "first-b");
    posted(&mut server, "first-c", "fail 1");
    assert_eq!(suspended(&server), [2, 1]);
    assert_eq!(names(&server)[0], "first first-a", "it is called again the soonest");
    assert_eq!(names(&server).len(), 3);
    let left: Vec<u64> = server.shard.rooms().suspended_rooms().iter().map(|room| room.left_ms).collect();
    assert_eq!(left, [58_000, 60_000, 60_000]);
    server.pass(58_000);
    assert_eq!((suspended(&server), names(&server).len()), (vec![1, 1], 2), "nobody asked it anything");
    server.pass(2_000);
    assert_eq!((suspended(&server), names(&server).len()), (vec![0, 0], 0));
    // The second time it is for longer.
    suspend(&mut server, "first-a");
    server.pass(61_000);
    assert_eq!((suspended(&server), names(&server)), (vec![1, 0], vec!["first first-a".to_owned()]));
}

#[test]
fn a_core_names_so_many_suspended_rooms_and_counts_all() {
    let mut server = server_of(Durability::Memory, roomy(), &[("burner", "*", 1)]);
    let rooms = SUSPENDED_LISTED_MAX + 7;
    for room in 0..rooms {
        (0..5).for_each(|_| post(&mut server, &format!("r-{room}"), "fail 1"));
    }
    server.rest();
    assert_eq!((suspended(&server), names(&server).len()), (vec![rooms as u64], SUSPENDED_LISTED_MAX));
}

#[test]
fn rooms_count_for_the_programs_that_hold_now_whether_they_are_asked_or_not() {
    const ROOMS: usize = 3_000;
    let rules = [("first", "first-*", 1), ("second", "second-*", 1)];
    let mut server = server_of(Durability::Memory, roomy(), &rules);
    for room in 0..ROOMS {
        post(&mut server, &format!("first-{room}"), "keep 10");
        post(&mut server, &format!("second-{room}"), "keep 20");
    }
    server.rest();
    suspend(&mut server, "first-7");
    suspend(&mut server, "second-7");
    assert_eq!(suspended(&server), [1, 1]);
    let before = counts(&server)["first"].state_bytes;
    assert!(before > 10 * ROOMS as u64, "{before}");
    // In another order, one with another text: its rooms begin anew, and what they remember stays.
    server.shard.set_programs(set(&[("second", "second-*", 2), rules[0]]));
    assert!(server.shard.is_busy(), "they follow in slices");
    server.rest();
    assert_eq!(suspended(&server), [1, 0]);
    assert_eq!((counts(&server)["first"].state_bytes, names(&server).len()), (before, 1));
    // Two sets in one turn, and rooms that change their program.
    server.shard.set_programs(set(&rules));
    server.shard.set_programs(set(&[("third", "first-*", 3)]));
    server.rest();
    assert_eq!((suspended(&server), counts(&server)["third"].state_bytes), (vec![0], before));
    server.shard.set_programs(set(&[]));
    server.rest();
    assert_eq!((suspended(&server), names(&server)), (vec![], vec![]));
    assert_eq!(dearest(&mut server), []);
    server.shard.set_programs(set(&rules));
    server.rest();
    assert_eq!((suspended(&server), counts(&server)["first"].state_bytes), (vec![0, 0], before));
}

#[test]
fn a_room_that_is_forgotten_counts_no_longer() {
    let limits = Limits { rooms_max: 8, ..roomy() };
    let mut server = server_of(Durability::Memory, limits, &[("burner", "r-*", 1)]);
    for room in 0..40 {
        posted(&mut server, &format!("r-{room}"), "keep 5");
        suspend(&mut server, &format!("r-{}", room / 2 * 2));
        suspended(&server);
        assert_eq!(names(&server).len() as u64, counts(&server)["burner"].suspended_rooms);
        assert!(dearest(&mut server).len() <= 8);
    }
    assert!(counts(&server)["burner"].suspended_rooms > 0);
    (0..8).for_each(|room| posted(&mut server, &format!("other-{room}"), "hello"));
    assert_eq!((suspended(&server), names(&server).len()), (vec![0], 0));
    assert_eq!(counts(&server)["burner"].state_bytes, 0);
}

#[test]
fn what_a_room_remembers_counts_as_it_is_committed_and_once_it_is_read() {
    for level in [Durability::Memory, Durability::Written, Durability::Synced] {
        let mut server = server_of(level, roomy(), &[("burner", "*", 1)]);
        let mut before = 0;
        for bytes in [10, 300, 20] {
            posted(&mut server, "a", &format!("keep {bytes}"));
            suspended(&server);
            let now = counts(&server)["burner"].state_bytes;
            assert!(now > bytes && now < bytes + 50 && now != before, "{level:?}: {now}");
            before = now;
        }
        if level == Durability::Memory {
            continue;
        }
        server.disk.is_full = true;
        posted(&mut server, "a", "keep 2000");
        suspended(&server);
        assert_eq!(counts(&server)["burner"].state_bytes, before, "it is not committed");
        server.disk.is_full = false;
        server.pass(2_000);
        let mut server = server.restart(WALL_MS + 10_000);
        server.shard.set_programs(set(&[("burner", "*", 1)]));
        assert_eq!(counts(&server)["burner"].state_bytes, 0);
        posted(&mut server, "a", "burn 1");
        suspended(&server);
        assert_eq!(counts(&server)["burner"].state_bytes, before, "{level:?}");
    }
}

#[test]
fn what_a_program_decided_without_a_place_is_for_no_other_room_that_comes_in_the_place_of_a_forgotten_one() {
    for level in Durability::ALL {
        let mut server = server_of(level, Limits { rooms_max: 1, ..roomy() }, &[("burner", "*", 1)]);
        post(&mut server, "keeps", "take 9");
        post(&mut server, "keeps-nothing", "burn 1");
        server.rest();
        assert_eq!(server.shard.take_backend_answers().len(), 2, "{level:?}");
        posted(&mut server, "keeps-nothing", "burn 1");
        let rooms: Vec<&str> = server.shard.rooms().iter().map(|room| room.name.as_str()).collect();
        assert_eq!((rooms, counts(&server)["burner"].state_bytes), (vec!["keeps-nothing"], 0), "{level:?}");
        suspended(&server);
    }
}
