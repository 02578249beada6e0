//! Rooms with a program: what it decides, what of it lasts, and what becomes of it when it or the disk fails. The program is a
//! script in the body of what is said.

use std::sync::{Arc, Mutex};

use banter_chat::limits::Limits;
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies};
use banter_chat::program::{
    Call, Effect, Engine, Event, Fault, FaultKind, Hook, Hooks, ProgramFacts, ProgramId, Verdict,
};
use banter_chat::programming::Noted;
use banter_chat::programs::{OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_log::catalog::{Catalog, Epochs};
use banter_protocol::ids::Sequence;
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::{Ask, FetchFrom};

mod one_core;
use one_core::{Disk, Server, WALL_MS, roomy};

/// Does what a body says, word by word: `set K V`, `say T`, `signal T`, `whisper T`, `after MS`, `edit T`, `refuse R`, `take R`,
/// `fail`, `burn N`; answers `get K` with an edit.
struct Script {
    version: u32,
    hooks: Hooks,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Engine for Script {
    fn facts(&self, _: ProgramId) -> ProgramFacts {
        ProgramFacts { hooks: self.hooks, version: self.version }
    }

    fn call(&mut self, _: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        let text = match call.event {
            Event::Post { body, .. } | Event::Signal { body, .. } => String::from_utf8_lossy(&body.bytes).into_owned(),
            Event::Join { .. } => "\"set joined 1\"".to_owned(),
            Event::Leave { .. } => "\"set left 1\"".to_owned(),
            Event::Tick { name } => format!("\"say {name}\""),
            Event::Fetch { .. } => "\"from 3\"".to_owned(),
            Event::Upgrade { from } => format!("\"set from {from}\""),
        };
        self.calls.lock().unwrap().push(format!("{} {text}", call.event.hook().name()));
        let (text, mut verdict) = (text.trim_matches('"').to_owned(), Verdict::Pass);
        let mut words = text.split(' ');
        call.spent.units = 1;
        let quoted = |word: &str| format!("\"{word}\"").into_bytes();
        let effects = |fault: banter_chat::program::EffectFault| Fault::new(FaultKind::Effects, fault.to_string());
        while let Some(word) = words.next() {
            let mut next = || words.next().unwrap_or_default();
            match word {
                "set" => {
                    let (key, value) = (next(), next());
                    let set = call.state.set(key, value.as_bytes(), None);
                    set.map_err(|fault| Fault::new(FaultKind::State, fault.to_string()))?;
                }
                "get" => {
                    let value = call
                        .state
                        .get(next())
                        .map_or_else(|| "none".to_owned(), |value| String::from_utf8_lossy(value).into_owned());
                    verdict = Verdict::Edit(quoted(&value));
                }
                "say" => call.effects.push(Effect::Post(quoted(next()))).map_err(effects)?,
                "signal" => call.effects.push(Effect::Signal(quoted(next()))).map_err(effects)?,
                "whisper" => {
                    let user = UserName::new("ann").unwrap();
                    call.effects.push(Effect::Whisper(user, quoted(next()))).map_err(effects)?;
                }
                "log" => call.effects.push(Effect::Log(next().into())).map_err(effects)?,
                "after" => {
                    let after = call.state.set_timer("tell", next().parse().unwrap());
                    after.map_err(|fault| Fault::new(FaultKind::State, fault.to_string()))?;
                }
                "named" => {
                    let (name, ms) = (next(), next());
                    let after = call.state.set_timer(name, ms.parse().unwrap());
                    after.map_err(|fault| Fault::new(FaultKind::State, fault.to_string()))?;
                }
                "edit" => verdict = Verdict::Edit(quoted(next())),
                "refuse" => {
                    let reason = next().into();
                    verdict = Verdict::Refuse { reason, message: None, retry_after_ms: Some(9) };
                }
                "take" => verdict = Verdict::Take { reply: Some(quoted(next())) },
                "from" => verdict = Verdict::Admit { from: Sequence(next().parse().unwrap()), class: None },
                "route" => verdict = Verdict::Route(RoomName::new(next()).unwrap()),
                // Only where it was said first.
                "routed" if call.room.name == "lobby" => verdict = Verdict::Route(RoomName::new(next()).unwrap()),
                "to" => {
                    let (room, body) = (RoomName::new(next()).unwrap(), next());
                    call.effects.push(Effect::PostTo(room, quoted(body))).map_err(effects)?;
                }
                "burn" => call.spent.units = next().parse().unwrap(),
                "fail" => return Err(Fault::new(FaultKind::Error, "line 1")),
                "long" => {
                    call.spent.is_over_time = true;
                    return Err(Fault::new(FaultKind::Cpu, "more than 1000 µs"));
                }
                _ => {}
            }
        }
        Ok(verdict)
    }

    fn rest(&mut self) -> bool {
        false
    }
}

const ALL: [Hook; 3] = [Hook::Post, Hook::Tick, Hook::Upgrade];

fn set(on_fault: OnFault, hooks: &[Hook], version: u32) -> (ProgramSet, Arc<Mutex<Vec<String>>>) {
    let calls = Arc::<Mutex<Vec<String>>>::default();
    let hooks = hooks.iter().fold(Hooks::default(), |hooks, &hook| hooks.with(hook));
    let rule = ProgramRule {
        pattern: RoomPattern::new("lobby"),
        name: "script".into(),
        digest: version.into(),
        on_fault,
        user: UserName::new("@script").unwrap(),
        post_to: Vec::new(),
    };
    let engine = Box::new(Script { version, hooks, calls: calls.clone() });
    let (programs, limits) =
        (Programs::new(vec![rule]), ProgramLimits { body_bytes_max: 0, ..ProgramLimits::default() });
    (ProgramSet { programs, engine, limits, seed: 7 }, calls)
}

fn server_of(durability: Durability, limits: Limits) -> Server {
    let (run, policies) = ((1, WALL_MS), (RoomPolicies::all(durability), Epochs::default()));
    Server::with(Disk::default(), Catalog::default(), limits, run, policies)
}

fn programmed(durability: Durability) -> Server {
    let mut server = server_of(durability, roomy());
    server.shard.set_programs(set(OnFault::Refuse, &ALL, 1).0);
    server.join();
    server.rest();
    server.heard.clear();
    server
}

/// What comes of a post.
fn said(server: &mut Server, key: Option<&str>, body: &str) -> String {
    server.heard.clear();
    server.post(9, key, &format!("\"{body}\""));
    server.rest();
    server.heard.join(", ")
}

/// The bodies of the room's history.
fn history(server: &mut Server) -> Vec<String> {
    server.heard.clear();
    let ask = Ask::Fetch { room: "lobby".into(), from: FetchFrom::After(Sequence(0)), limit: None };
    server.ask(5, ask);
    server.rest();
    std::mem::take(&mut server.bodies)
}

const LEVELS: [Durability; 3] = [Durability::Memory, Durability::Written, Durability::Synced];

#[test]
fn a_program_passes_edits_refuses_and_takes_and_what_is_refused_has_no_place() {
    for level in LEVELS {
        let mut server = programmed(level);
        assert_eq!(said(&mut server, None, "hello"), "posted 1");
        assert_eq!(said(&mut server, None, "edit clean"), "posted 2");
        assert_eq!(said(&mut server, None, "refuse slow"), "program_refused None Some(9) slow");
        assert_eq!(said(&mut server, None, "take thanks"), "taken \"thanks\"");
        assert_eq!(said(&mut server, None, "again"), "posted 3");
        assert_eq!(history(&mut server), ["\"hello\"", "\"clean\"", "\"again\""], "{level:?}");
    }
}

#[test]
fn a_state_lasts_as_long_as_its_messages_also_over_a_restart() {
    for level in LEVELS {
        let mut server = programmed(level);
        said(&mut server, None, "set a 1");
        assert_eq!(said(&mut server, None, "refuse x set a 2"), "program_refused None Some(9) x");
        said(&mut server, None, "take y set b 3");
        said(&mut server, None, "get a");
        said(&mut server, None, "get b");
        assert_eq!(history(&mut server)[1..], ["\"2\"", "\"3\""], "{level:?}");
        if level == Durability::Memory {
            continue;
        }
        let mut server = server.restart(WALL_MS + 10_000);
        server.shard.set_programs(set(OnFault::Refuse, &ALL, 1).0);
        server.join();
        server.rest();
        assert_eq!(said(&mut server, None, "get a"), "posted 4");
        assert_eq!(said(&mut server, None, "get b"), "posted 5");
        assert_eq!(history(&mut server)[3..], ["\"2\"", "\"3\""], "{level:?}");
    }
}

#[test]
fn a_state_is_carried_from_segment_to_segment() {
    let mut server = programmed(Durability::Synced);
    said(&mut server, None, "set a 1");
    let body = format!("\"{}\"", "x".repeat(60_000));
    for _ in 0..40 {
        server.post(8, None, &body);
        server.rest();
    }
    assert!(server.disk.files.len() > 2, "it went on in other segments");
    assert!(server.shard.seal_log());
    server.rest();
    // Retention takes the segment in which it was said.
    let mut disk = server.disk;
    let (first, _) = disk.indexes.pop_first().expect("one is sealed");
    disk.files.remove(&first);
    let (catalog, policies) = (disk.catalog(), (server.policies, server.epochs));
    let mut server = Server::with(disk, catalog, roomy(), (2, WALL_MS + 10_000), policies);
    server.shard.set_programs(set(OnFault::Refuse, &ALL, 1).0);
    server.join();
    server.rest();
    server.bodies.clear();
    said(&mut server, None, "get a");
    let ask = Ask::Fetch { room: "lobby".into(), from: FetchFrom::Before(Sequence(u64::MAX)), limit: Some(1) };
    server.ask(5, ask);
    server.rest();
    assert_eq!(server.bodies, ["\"1\""]);
}

#[test]
fn an_edited_post_that_comes_again_with_its_key_has_the_first_place_also_behind_a_restart() {
    let mut server = programmed(Durability::Synced);
    assert_eq!(said(&mut server, Some("k"), "edit clean"), "posted 1");
    assert_eq!(said(&mut server, Some("k"), "edit clean"), "duplicate 1");
    assert_eq!(said(&mut server, Some("k"), "clean"), "key_conflict None None");
    let mut server = server.restart(WALL_MS + 10_000);
    let (programs, calls) = set(OnFault::Refuse, &ALL, 1);
    server.shard.set_programs(programs);
    server.join();
    server.rest();
    assert_eq!(said(&mut server, Some("k"), "edit clean"), "duplicate 1");
    assert_eq!(*calls.lock().unwrap(), [""; 0], "what has its place is not decided again");
}

#[test]
fn what_a_failed_commit_decided_never_was_and_does_not_come_back_with_the_next_start() {
    let mut server = programmed(Durability::Synced);
    said(&mut server, None, "set a 1");
    server.disk.is_full = true;
    assert!(said(&mut server, None, "set a 2 say more").starts_with("log_full"), "{:?}", server.heard);
    assert!(said(&mut server, None, "take y set a 3").starts_with("log_full"));
    server.disk.is_full = false;
    server.pass(2_000);
    assert_eq!(said(&mut server, None, "get a"), "posted 2");
    assert_eq!(history(&mut server)[1..], ["\"1\""]);
    let mut server = server.restart(WALL_MS + 10_000);
    server.shard.set_programs(set(OnFault::Refuse, &ALL, 1).0);
    server.join();
    server.rest();
    said(&mut server, None, "get a");
    assert_eq!(history(&mut server)[2..], ["\"1\""]);
}

#[test]
fn its_own_posts_stand_behind_their_cause_and_answer_nobody() {
    for level in LEVELS {
        let mut server = programmed(level);
        assert_eq!(said(&mut server, None, "roll say six say seven"), "posted 1, message 2, message 3", "{level:?}");
        assert_eq!(said(&mut server, None, "take y say eight"), "taken \"y\", message 4", "{level:?}");
        assert_eq!(history(&mut server).len(), 4);
    }
}

#[test]
fn a_fault_undoes_all_of_the_call_and_the_operator_says_what_becomes_of_the_post() {
    let mut server = programmed(Durability::Memory);
    said(&mut server, None, "set a 1");
    assert_eq!(said(&mut server, None, "set a 2 say more fail"), "program_failed None None error");
    assert_eq!(said(&mut server, None, "get a"), "posted 2");
    let (passing, _) = set(OnFault::Pass, &ALL, 1);
    server.shard.set_programs(passing);
    assert_eq!(said(&mut server, None, "set a 2 fail"), "posted 3");
    said(&mut server, None, "get a");
    assert_eq!(history(&mut server)[1..], ["\"1\"", "\"set a 2 fail\"", "\"1\""]);
    let notes = server.shard.take_program_notes();
    let failed = |note: &&banter_chat::programming::ProgramNote| matches!(&note.what, Noted::Failed(fault) if fault.message == "line 1");
    assert_eq!(notes.iter().filter(failed).count(), 2);
}

#[test]
fn five_faults_suspend_the_room_for_a_minute_and_another_text_begins_anew() {
    let mut server = programmed(Durability::Memory);
    (0..5).for_each(|_| drop(said(&mut server, None, "fail")));
    assert_eq!(said(&mut server, None, "hello"), "program_failed None Some(60000) suspended");
    server.pass(61_000);
    assert_eq!(said(&mut server, None, "hello"), "posted 1");
    (0..5).for_each(|_| drop(said(&mut server, None, "fail")));
    assert_eq!(said(&mut server, None, "hello"), "program_failed None Some(120000) suspended");
    server.shard.set_programs(set(OnFault::Refuse, &ALL, 2).0);
    assert_eq!(said(&mut server, None, "hello"), "posted 2");
}

#[test]
fn a_state_of_another_version_is_brought_along_once() {
    let mut server = programmed(Durability::Synced);
    said(&mut server, None, "set a 1");
    let (second, calls) = set(OnFault::Refuse, &ALL, 2);
    server.shard.set_programs(second);
    assert_eq!(said(&mut server, None, "get from"), "posted 2");
    assert_eq!(said(&mut server, None, "get a"), "posted 3");
    let upgrades = || calls.lock().unwrap().iter().filter(|call| call.starts_with("upgrade")).count();
    assert_eq!((upgrades(), history(&mut server)[1..].to_vec()), (1, vec!["\"1\"".to_owned(), "\"1\"".to_owned()]));
}

#[test]
fn a_timer_comes_due_once_while_somebody_reads() {
    for level in LEVELS {
        let mut server = programmed(level);
        said(&mut server, None, "after 1500");
        server.heard.clear();
        server.pass(1_000);
        assert_eq!(server.heard, [""; 0], "{level:?}");
        server.pass(2_000);
        server.rest();
        assert_eq!(server.heard, ["message 2"], "{level:?}");
        server.pass(5_000);
        assert_eq!(server.heard.len(), 1);
        if level == Durability::Memory {
            continue;
        }
        // One that was overdue fires when somebody reads the room again.
        said(&mut server, None, "after 1500");
        let mut server = server.restart(WALL_MS + 60_000);
        server.shard.set_programs(set(OnFault::Refuse, &ALL, 1).0);
        server.pass(3_000);
        server.heard.clear();
        server.join();
        server.rest();
        assert_eq!(server.heard, ["joined 3", "message 4"], "{level:?}");
    }
}

#[test]
fn what_a_turn_has_no_units_for_waits_in_its_order_and_other_rooms_do_not() {
    let mut server = server_of(Durability::Memory, roomy());
    let (mut program, _) = set(OnFault::Refuse, &ALL, 1);
    program.limits.units_per_turn_max = 10_000;
    server.shard.set_programs(program);
    server.join();
    let other = Ask::Join {
        room: "other".into(),
        from: banter_protocol::request::JoinFrom::Now,
        echo: false,
        presence: false,
        token: None,
    };
    server.ask(2, other);
    server.rest();
    server.heard.clear();
    for number in 0..4 {
        server.post(number, None, "\"burn 10000\"");
    }
    let room = std::mem::replace(&mut server.room, "other");
    server.post(7, None, "\"quick\"");
    server.room = room;
    server.turn();
    assert_eq!(server.heard, ["posted 1", "posted 1"], "one of each room");
    server.rest();
    assert_eq!(server.heard, ["posted 1", "posted 1", "posted 2", "posted 3", "posted 4"]);
}

#[test]
fn a_call_that_the_watch_ends_takes_the_rest_of_the_turn_and_as_much_of_its_rooms_second() {
    let mut server = server_of(Durability::Memory, roomy());
    let (mut program, _) = set(OnFault::Refuse, &ALL, 1);
    (program.limits.units_per_turn_max, program.limits.units_per_second_max) = (10_000, 15_000);
    server.shard.set_programs(program);
    server.join();
    server.rest();
    server.heard.clear();
    for number in 0..4 {
        server.post(number, None, if number < 2 { "\"long\"" } else { "\"quick\"" });
    }
    server.turn();
    let failed = "program_failed None None cpu";
    assert_eq!(server.heard, [failed]);
    server.turn();
    assert_eq!(server.heard, [failed; 2], "one each turn");
    server.rest();
    assert_eq!(server.heard[2..], ["rate_limited Some(\"room\") Some(334)"; 2]);
}

#[test]
fn a_room_that_takes_more_than_its_second_is_refused_with_when_to_come_again() {
    let mut server = server_of(Durability::Memory, roomy());
    let (mut program, _) = set(OnFault::Pass, &ALL, 1);
    program.limits.units_per_second_max = 100;
    server.shard.set_programs(program);
    server.join();
    server.rest();
    assert_eq!(said(&mut server, None, "burn 200"), "posted 1");
    assert_eq!(said(&mut server, None, "more"), "rate_limited Some(\"room\") Some(1010)");
    server.pass(2_000);
    assert_eq!(said(&mut server, None, "more"), "posted 2");
}

#[test]
fn other_hooks_are_asked_where_the_program_has_them() {
    let mut server = server_of(Durability::Memory, roomy());
    let (program, calls) = set(OnFault::Refuse, &Hook::ALL, 1);
    server.shard.set_programs(program);
    server.join();
    server.rest();
    (0..5).for_each(|_| drop(said(&mut server, None, "hello")));
    assert_eq!(history(&mut server).len(), 3, "a fetch begins where the program says");
    server.heard.clear();
    let before = Ask::Fetch { room: "lobby".into(), from: FetchFrom::Before(Sequence(5)), limit: None };
    server.ask(5, before);
    server.rest();
    assert_eq!(server.heard, ["page of 2"]);
    said(&mut server, None, "signal ping whisper psst log line");
    assert!(server.heard.contains(&"signal \"ping\"".to_owned()), "{:?}", server.heard);
    assert!(server.heard.contains(&"signal \"psst\"".to_owned()), "{:?}", server.heard);
    assert!(matches!(&server.shard.take_program_notes()[..], [note] if note.what == Noted::Said("line".into())));
    server.ask(1, Ask::Leave { room: "lobby".into() });
    server.rest();
    let calls: Vec<String> =
        calls.lock().unwrap().iter().map(|call| call.split(' ').next().unwrap().to_owned()).collect();
    assert_eq!((calls.first().unwrap().as_str(), calls.last().unwrap().as_str()), ("join", "leave"));
    assert_eq!(calls.iter().filter(|call| *call == "fetch").count(), 2);
}

#[test]
fn each_of_a_rooms_timers_comes_due_whatever_the_others_do() {
    let mut server = programmed(Durability::Synced);
    let (quiet, calls) = set(OnFault::Refuse, &ALL, 1);
    server.shard.set_programs(quiet);
    for name in ["one", "two", "three"] {
        said(&mut server, None, &format!("named {name} 1500"));
    }
    server.pass(4_000);
    server.rest();
    let mut ticks: Vec<String> =
        calls.lock().unwrap().iter().filter(|call| call.starts_with("tick")).cloned().collect();
    ticks.sort();
    assert_eq!(ticks.len(), 3, "{ticks:?}");
}

#[test]
fn a_room_without_a_program_never_calls_one() {
    let mut server = programmed(Durability::Synced);
    let (program, calls) = set(OnFault::Refuse, &Hook::ALL, 1);
    server.shard.set_programs(program);
    server.move_to("other");
    calls.lock().unwrap().clear();
    assert_eq!(said(&mut server, None, "refuse x"), "posted 1");
    assert_eq!(*calls.lock().unwrap(), [""; 0]);
}

#[test]
fn a_post_is_routed_and_others_are_said_in_rooms_that_are_granted_and_not_without_end() {
    let mut server = server_of(Durability::Synced, roomy());
    let (mut program, _) = set(OnFault::Refuse, &ALL, 1);
    let mut rule = program.programs.rules()[0].clone();
    (rule.pattern, rule.post_to) = (RoomPattern::new("*"), vec![RoomPattern::new("lobby"), RoomPattern::new("other")]);
    program.programs = Programs::new(vec![rule]);
    server.shard.set_programs(program);
    server.join();
    server.rest();
    server.heard.clear();
    // From a room that routes to itself it goes round until it came through too many.
    assert_eq!(said(&mut server, None, "route lobby"), "program_refused None None hops");
    assert_eq!(said(&mut server, Some("k"), "routed other"), "posted 1");
    assert_eq!(said(&mut server, Some("k"), "routed other"), "duplicate 1");
    assert_eq!(said(&mut server, None, "route staff"), "program_failed None None effects");
    assert_eq!(said(&mut server, None, "to other hello"), "posted 1");
    server.move_to("other");
    let ask = Ask::Fetch { room: "other".into(), from: FetchFrom::After(Sequence(0)), limit: None };
    server.bodies.clear();
    server.ask(5, ask);
    server.rest();
    assert_eq!(server.bodies, ["\"routed other\"", "\"hello\""]);
}
