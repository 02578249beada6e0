//! What a program beside the server is answered that has no connection: as a client is, and from the same log and window.

mod one_core;

use banter_chat::backend::{BackendAnswer, BackendAsk, RoomState};
use banter_chat::limits::Limits;
use banter_chat::parcel::{Answer, OwnedBody};
use banter_chat::policy::{Durability, RoomPolicies};
use banter_log::catalog::{Catalog, Epochs};
use banter_protocol::frame::Frames;
use banter_protocol::ids::{PostKey, RoomName, Sequence, UserName};
use banter_protocol::request::{BodyFormat, FetchFrom};
use bytes::Bytes;

use one_core::{Disk, Server, WALL_MS, roomy};

fn name(room: &str) -> RoomName {
    RoomName::new(room).unwrap()
}

fn post(room: &str, key: Option<&str>, body: &'static str) -> BackendAsk {
    let body = OwnedBody { format: BodyFormat::Json, bytes: Bytes::from_static(body.as_bytes()) };
    let key = key.map(|key| PostKey::new(key).unwrap());
    BackendAsk::Post { room: name(room), user: UserName::new("shop").unwrap(), key, body }
}

/// Asks, and waits for the answer.
fn ask(server: &mut Server, ask: BackendAsk) -> BackendAnswer {
    server.shard.backend(77, ask);
    server.rest();
    let mut answers = server.shard.take_backend_answers();
    assert_eq!(answers.len(), 1, "every ask is answered once: {answers:?}");
    let (ticket, answer) = answers.remove(0);
    assert_eq!(ticket, 77);
    answer
}

fn told(answer: &BackendAnswer) -> String {
    match answer {
        BackendAnswer::Answer(Answer::Posted { sequence, duplicate, .. }) => {
            format!("{} {}", if *duplicate { "duplicate" } else { "posted" }, sequence.0)
        }
        BackendAnswer::Answer(Answer::PostRefused(refusal) | Answer::FetchRefused(refusal)) => {
            refusal.code.as_str().into()
        }
        BackendAnswer::Answer(Answer::Page { messages, more, .. }) => {
            format!("page of {}, more: {more}", Frames(messages).count())
        }
        other => format!("{other:?}"),
    }
}

fn asked(server: &mut Server, what: BackendAsk) -> String {
    told(&ask(server, what))
}

fn room(server: &mut Server, room: &str) -> Option<RoomState> {
    match ask(server, BackendAsk::Room(name(room))) {
        BackendAnswer::Room(state) => state,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_post_needs_no_reader_is_answered_behind_the_log_and_once_a_key_across_a_restart() {
    let mut server = Server::new(roomy());
    server.shard.backend(1, post("orders", Some("k"), "1"));
    server.shard.begin_turn(Default::default(), []);
    server.shard.finish_turn();
    assert!(server.shard.take_backend_answers().is_empty(), "nothing is acknowledged ahead of the disk");
    server.rest();
    assert_eq!(told(&server.shard.take_backend_answers().remove(0).1), "posted 1");
    assert_eq!(asked(&mut server, post("orders", Some("k"), "1")), "duplicate 1");
    assert_eq!(asked(&mut server, post("orders", Some("k"), "2")), "key_conflict");
    let mut server = server.restart(WALL_MS);
    assert_eq!(asked(&mut server, post("orders", Some("k"), "1")), "duplicate 1");
    assert_eq!(asked(&mut server, post("orders", None, "1")), "posted 2");
}

#[test]
fn who_reads_the_room_gets_what_a_backend_says() {
    let mut server = Server::new(roomy());
    server.join();
    server.rest();
    server.heard.clear();
    assert_eq!(asked(&mut server, post("lobby", None, "1")), "posted 1");
    assert_eq!(server.heard, ["message 1"]);
    let body = OwnedBody { format: BodyFormat::Json, bytes: Bytes::from_static(b"1") };
    let signal = BackendAsk::Signal { room: name("lobby"), user: UserName::new("shop").unwrap(), body };
    assert!(matches!(ask(&mut server, signal), BackendAnswer::Told));
    assert!(server.heard[1].starts_with("signal"), "{:?}", server.heard);
}

#[test]
fn a_disk_that_is_full_is_told() {
    let mut server = Server::new(roomy());
    server.disk.is_full = true;
    assert_eq!(asked(&mut server, post("orders", None, "1")), "log_full");
}

#[test]
fn a_stopping_server_takes_no_post() {
    let mut server = Server::new(roomy());
    server.shard.drain();
    assert_eq!(asked(&mut server, post("orders", None, "1")), "draining");
}

#[test]
fn where_no_room_can_be_made_the_refusal_says_so() {
    let mut server = Server::new(Limits { rooms_max: 1, ..roomy() });
    server.join();
    server.rest();
    assert_eq!(asked(&mut server, post("orders", None, "1")), "overloaded");
}

#[test]
fn a_room_that_only_the_log_knows_is_told_and_read() {
    let mut server = Server::new(roomy());
    for _ in 0..3 {
        asked(&mut server, post("orders", None, "1"));
    }
    let before = room(&mut server, "orders").unwrap();
    let mut server = server.restart(WALL_MS);
    let state = room(&mut server, "orders").unwrap();
    assert_eq!((state.epoch, state.head, state.first), (before.epoch, Sequence(3), Sequence(1)));
    assert_eq!(room(&mut server, "nowhere"), None);
    let fetch = |room| BackendAsk::Fetch { room: name(room), from: FetchFrom::After(Sequence(0)), messages_max: 2 };
    assert_eq!(asked(&mut server, fetch("orders")), "page of 2, more: true");
    assert_eq!(asked(&mut server, fetch("nowhere")), "page of 0, more: false");
}

#[test]
fn members_and_rooms_are_told_in_parts_each_once() {
    let mut server = Server::new(roomy());
    server.join();
    server.rest();
    let members = |after: Option<&str>| BackendAsk::Members {
        room: name("lobby"),
        after: after.map(|user| UserName::new(user).unwrap()),
        users_max: 1,
    };
    assert!(
        matches!(ask(&mut server, members(None)), BackendAnswer::Members { count: 1, users, more: false } if users.len() == 1)
    );
    assert!(
        matches!(ask(&mut server, members(Some("ann"))), BackendAnswer::Members { users, more: false, .. } if users.is_empty())
    );
    for number in 0..7 {
        asked(&mut server, post(&format!("team-{number}"), None, "1"));
    }
    let (mut found, mut from) = (Vec::new(), Some(0));
    while let Some(start) = from {
        let list = BackendAsk::Rooms { prefix: "team-".into(), from: start, rooms_max: 2 };
        let BackendAnswer::Rooms { rooms, next } = ask(&mut server, list) else { panic!() };
        assert!(rooms.len() <= 2);
        found.extend(rooms.into_iter().map(|room| room.room.as_str().to_owned()));
        from = next;
    }
    found.sort();
    assert_eq!(found, (0..7).map(|number| format!("team-{number}")).collect::<Vec<_>>());
}

#[test]
fn posts_in_more_rooms_than_there_may_be_are_answered_and_those_that_were_posted_in_the_longest_ago_are_forgotten() {
    for level in Durability::ALL {
        for rooms_max in [1, 2, 8] {
            let limits = Limits { rooms_max, ..roomy() };
            let (run, policies) = ((1, WALL_MS), (RoomPolicies::all(level), Epochs::default()));
            let mut server = Server::with(Disk::default(), Catalog::default(), limits, run, policies);
            // Many in one turn: none of the rooms may go whose post is under way.
            for number in 0..40 {
                server.shard.backend(number, post(&format!("r-{number}"), None, "1"));
            }
            server.rest();
            let answers = server.shard.take_backend_answers();
            assert_eq!(answers.len(), 40);
            let is_clear = |answer: &String| answer == "posted 1" || answer == "overloaded";
            assert!(answers.iter().map(|(_, answer)| told(answer)).all(|answer| is_clear(&answer)), "{answers:?}");
            for number in 0..40 {
                assert_eq!(asked(&mut server, post(&format!("s-{number}"), None, "1")), "posted 1", "{level:?}");
                assert!(server.shard.rooms().iter().count() <= rooms_max as usize);
            }
            let mut left: Vec<String> = server.shard.rooms().iter().map(|room| room.name.as_str().to_owned()).collect();
            left.sort();
            assert_eq!(left, (40 - rooms_max..40).map(|number| format!("s-{number}")).collect::<Vec<_>>(), "{level:?}");
        }
    }
}
