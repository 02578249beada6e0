//! What a program's room is spared: a state that is brought along twice, another room's state, a memory without end, a page without its
//! word, a class that nobody leaves.

use std::sync::{Arc, Mutex};

use banter_chat::backend::BackendAsk;
use banter_chat::limits::Limits;
use banter_chat::parcel::OwnedBody;
use banter_chat::policy::{Durability, RoomPattern, RoomPolicies};
use banter_chat::program::{Call, ClassName, Engine, Event, Fault, Hook, Hooks, ProgramFacts, ProgramId, Verdict};
use banter_chat::programs::{OnFault, ProgramLimits, ProgramRule, ProgramSet, Programs};
use banter_log::catalog::{Catalog, Epochs};
use banter_protocol::ids::{RoomName, Sequence, UserName};
use banter_protocol::request::{Ask, FetchFrom, JoinFrom};

mod one_core;
use one_core::{Disk, Server, WALL_MS, roomy};

/// Remembers 1,000 bytes at each post, doubles `n` where it is brought along, refuses who joins `closed-…` behind having remembered
/// that, and lets nobody see what is before the third place.
struct Guard {
    version: u32,
    calls: Arc<Mutex<Vec<&'static str>>>,
}

impl Engine for Guard {
    fn facts(&self, _: ProgramId) -> ProgramFacts {
        let hooks = [Hook::Post, Hook::Join, Hook::Fetch, Hook::Upgrade];
        let hooks = hooks.into_iter().fold(Hooks::default(), Hooks::with);
        ProgramFacts { hooks, version: self.version }
    }

    fn call(&mut self, _: ProgramId, call: Call<'_, '_>) -> Result<Verdict, Fault> {
        self.calls.lock().unwrap().push(call.event.hook().name());
        let mut set = |key: &str, value: &[u8]| call.state.set(key, value, None).expect("it fits");
        match call.event {
            Event::Post { body, .. } => {
                if body.bytes.starts_with(b"\"keep") {
                    set("kept", &[b'1'; 1_000]);
                }
                Ok(if body.bytes.starts_with(b"\"take") { Verdict::Take { reply: None } } else { Verdict::Pass })
            }
            Event::Join { .. } if call.room.name.starts_with("closed") => {
                set("kept", &[b'1'; 1_000]);
                Ok(Verdict::Refuse { reason: "closed".into(), message: None, retry_after_ms: None })
            }
            Event::Join { .. } => Ok(Verdict::Admit { from: Sequence(0), class: Some(ClassName::new("red").unwrap()) }),
            Event::Fetch { .. } => Ok(Verdict::Admit { from: Sequence(3), class: None }),
            _ => {
                set("brought", b"1");
                Ok(Verdict::Pass)
            }
        }
    }

    fn rest(&mut self) -> bool {
        false
    }
}

fn set(version: u32) -> (ProgramSet, Arc<Mutex<Vec<&'static str>>>) {
    let calls = Arc::<Mutex<Vec<&'static str>>>::default();
    let rule = ProgramRule {
        pattern: RoomPattern::new("*"),
        name: "guard".into(),
        digest: version.into(),
        on_fault: OnFault::Refuse,
        user: UserName::new("@guard").unwrap(),
        post_to: Vec::new(),
    };
    let engine = Box::new(Guard { version, calls: calls.clone() });
    let (programs, limits) = (Programs::new(vec![rule]), ProgramLimits::default());
    (ProgramSet { programs, engine, limits, seed: 7 }, calls)
}

fn server_of(durability: Durability, limits: Limits) -> Server {
    let (run, policies) = ((1, WALL_MS), (RoomPolicies::all(durability), Epochs::default()));
    let mut server = Server::with(Disk::default(), Catalog::default(), limits, run, policies);
    server.shard.set_programs(set(1).0);
    server
}

fn join(room: &str) -> Ask<'_> {
    Ask::Join { room: room.into(), from: JoinFrom::Now, echo: true, presence: false, token: None }
}

fn upgrades(calls: &Arc<Mutex<Vec<&'static str>>>) -> usize {
    calls.lock().unwrap().iter().filter(|call| **call == "upgrade").count()
}

#[test]
fn a_state_is_brought_along_once_also_where_nothing_else_changes_it_ahead_of_a_restart() {
    let mut server = server_of(Durability::Synced, roomy());
    server.join();
    server.rest();
    server.post(1, None, "\"keep\"");
    server.rest();
    let (second, calls) = set(2);
    server.shard.set_programs(second);
    server.post(2, None, "\"passes\"");
    server.rest();
    assert_eq!(upgrades(&calls), 1);
    let mut server = server.restart(WALL_MS + 10_000);
    let (second, calls) = set(2);
    server.shard.set_programs(second);
    server.join();
    server.rest();
    server.post(3, None, "\"passes\"");
    server.rest();
    assert_eq!(upgrades(&calls), 0, "it is of version 2 by what the log says");
}

#[test]
fn what_waits_for_the_disk_counts_with_the_state_that_goes_with_it() {
    let mut server = server_of(Durability::Synced, Limits { log_waiting_bytes_max: 16_384, ..roomy() });
    server.join();
    server.rest();
    server.heard.clear();
    // All of one turn, ahead of a commit: of messages alone all forty would fit.
    for number in 0..40 {
        server.post(number, None, "\"keep\"");
    }
    server.rest();
    let refused = server.heard.iter().filter(|heard| heard.starts_with("overloaded")).count();
    assert!((20..40).contains(&refused), "of 40 posts with a state of a kilobyte each: {:?}", server.heard);
}

#[test]
fn a_join_that_is_refused_leaves_its_rooms_state_to_no_other_room() {
    for level in Durability::ALL {
        let mut server = server_of(level, Limits { rooms_max: 1, ..roomy() });
        // In one turn: the room is refused, and behind that another takes its place.
        server.ask(1, join("closed-1"));
        let (room, user) = (RoomName::new("open").unwrap(), UserName::new("shop").unwrap());
        let body = OwnedBody::json("\"passes\"".into());
        server.shard.backend(0, BackendAsk::Post { room, user, key: None, body });
        server.rest();
        let kept: Vec<usize> = server
            .shard
            .rooms()
            .iter()
            .filter(|room| room.name.as_str() == "open")
            .map(|room| room.program.as_deref().map_or(0, |kept| kept.committed.len()))
            .collect();
        assert!(kept.iter().all(|bytes| *bytes == 0), "{level:?}: {kept:?}");
        server.shard.take_backend_answers();
    }
}

#[test]
fn a_page_that_was_asked_for_ahead_of_its_room_has_the_programs_word() {
    let mut server = server_of(Durability::Memory, Limits { fetch_messages_max: 100, ..roomy() });
    server.join();
    server.rest();
    let body = format!("\"{}\"", "x".repeat(2_000));
    for number in 0..100 {
        server.post(number, None, &body);
        server.rest();
    }
    server.heard.clear();
    let fetch = |room: &'static str| Ask::Fetch { room: room.into(), from: FetchFrom::After(Sequence(0)), limit: None };
    // Pages of the one room keep that of the other waiting, which is not there yet.
    for _ in 0..3 {
        let (room, from) = (RoomName::new("lobby").unwrap(), FetchFrom::After(Sequence(0)));
        server.shard.backend(0, BackendAsk::Fetch { room, from, messages_max: 100 });
    }
    server.ask(7, fetch("later"));
    server.bodies.clear();
    server.turn();
    for _ in 0..5 {
        let (room, user) = (RoomName::new("later").unwrap(), UserName::new("shop").unwrap());
        let body = OwnedBody::json("\"said later\"".into());
        server.shard.backend(0, BackendAsk::Post { room, user, key: None, body });
    }
    server.rest();
    let told = server.bodies.iter().filter(|body| body.contains("said later")).count();
    assert_eq!(told, 3, "the page waited until they were there, and begins with the third");
}
