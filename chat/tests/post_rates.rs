//! How many posts a room takes, at the machine: who is refused and told when, and what never is.

mod proved;

use banter_access::limit::{DryRun, Limit};
use banter_chat::access::Access;
use banter_chat::backend::{BackendAnswer, BackendAsk};
use banter_chat::limits::Limits;
use banter_chat::parcel::{Answer, OwnedBody};
use banter_chat::policy::RoomPattern;
use banter_chat::post_rates::PostRates;
use banter_protocol::error_code::{ErrorCode, Scope};
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::{Ask, Body, BodyFormat};
use proved::{Server, join, post};

/// A server in which rooms whose names begin with `slow` take so many posts a second.
fn server(per_second_max: u32, limits: Limits) -> Server {
    let mut server = Server::limited(Access::Open, limits);
    server.shard.set_post_rates(rates(per_second_max));
    server
}

fn rates(per_second_max: u32) -> PostRates {
    PostRates::new(vec![(RoomPattern::new("slow*"), per_second_max)])
}

/// A connection of that user which reads these rooms.
fn come_in(server: &mut Server, slot: u32, rooms: &[&str]) -> banter_chat::address::ConnectionId {
    let id = server.open(slot);
    server.hello_without_token(id, "ann");
    rooms.iter().for_each(|room| drop(server.ask(id, join(room))));
    id
}

fn keyed<'a>(room: &'a str, key: &'a str) -> Ask<'a> {
    Ask::Post { room: room.into(), body: Body { format: BodyFormat::Json, bytes: b"1" }, key: Some(key.into()) }
}

/// What an ask is answered, without the messages that come meanwhile.
fn answer(server: &mut Server, id: banter_chat::address::ConnectionId, ask: Ask<'_>) -> String {
    server.ask(id, ask).into_iter().find(|heard| !heard.starts_with("message")).expect("an answer")
}

#[test]
fn a_room_takes_its_posts_of_all_connections_together_and_no_other_room_notices() {
    let mut server = server(3, Limits::default());
    let [ann, bob] = [0, 1].map(|slot| come_in(&mut server, slot, &["slow", "quick"]));
    let posted: Vec<_> = [ann, bob, ann, bob, ann].map(|id| answer(&mut server, id, post("slow"))).into();
    assert_eq!(posted, ["posted 1", "posted 2", "posted 3", "rate_limited", "rate_limited"]);
    for place in 1..=20 {
        assert_eq!(answer(&mut server, bob, post("quick")), format!("posted {place}"));
    }
    let counts = server.shard.counters().limits;
    assert_eq!((counts.refused(Limit::RoomPosts), counts.refused(Limit::Posts)), (2, 0));
    server.turn(334, |_| {});
    assert_eq!(answer(&mut server, bob, post("slow")), "posted 4", "a refused one took no place");
}

#[test]
fn a_repeated_post_is_answered_with_its_place_however_full_the_room_is() {
    let mut server = server(1, Limits::default());
    let ann = come_in(&mut server, 0, &["slow"]);
    assert_eq!(answer(&mut server, ann, keyed("slow", "k")), "posted 1");
    for _ in 0..5 {
        assert_eq!(answer(&mut server, ann, keyed("slow", "k")), "posted 1");
    }
    assert_eq!(answer(&mut server, ann, keyed("slow", "k2")), "rate_limited");
    server.turn(1_000, |_| {});
    assert_eq!(answer(&mut server, ann, keyed("slow", "k2")), "posted 2", "a key that was refused is new");
}

#[test]
fn a_change_holds_for_rooms_that_are_there() {
    let mut server = server(0, Limits::default());
    let ann = come_in(&mut server, 0, &["slow"]);
    let refused = |server: &mut Server| (0..9).filter(|_| answer(server, ann, post("slow")) == "rate_limited").count();
    assert_eq!(refused(&mut server), 0);
    server.shard.set_post_rates(rates(2));
    assert_eq!(refused(&mut server), 7);
    server.shard.set_post_rates(PostRates::default());
    assert_eq!(refused(&mut server), 0);
}

#[test]
fn tried_dry_it_counts_and_refuses_nobody_and_signals_are_no_posts() {
    let dry_run = DryRun::default().with(Limit::RoomPosts);
    let mut dry = server(1, Limits { dry_run, ..Limits::default() });
    let ann = come_in(&mut dry, 0, &["slow"]);
    assert!((0..9).all(|_| answer(&mut dry, ann, post("slow")).starts_with("posted")));
    assert_eq!(dry.shard.counters().limits.only_counted(Limit::RoomPosts), 8);

    let mut server = server(1, Limits::default());
    let [ann, bob] = [0, 1].map(|slot| come_in(&mut server, slot, &["slow"]));
    answer(&mut server, ann, post("slow"));
    server.hear(bob);
    let signal = || Ask::Signal { room: "slow".into(), body: Body { format: BodyFormat::Json, bytes: b"1" } };
    (0..9).for_each(|_| assert!(server.ask(ann, signal()).is_empty()));
    server.rest();
    assert_eq!(server.hear(bob).len(), 9);
}

#[test]
fn a_backend_is_told_when_to_come_again() {
    let mut server = server(1, Limits::default());
    let room = RoomName::new("slow").unwrap();
    let ask = || BackendAsk::Post {
        room: room.clone(),
        user: UserName::new("shop").unwrap(),
        key: None,
        body: OwnedBody { format: BodyFormat::Json, bytes: b"1".as_slice().into() },
    };
    for ticket in 0..2 {
        server.turn(0, |shard| shard.backend(ticket, ask()));
    }
    server.rest();
    let answers = server.shard.take_backend_answers();
    let [(_, BackendAnswer::Answer(Answer::Posted { .. })), (_, BackendAnswer::Answer(Answer::PostRefused(refused)))] =
        &answers[..]
    else {
        panic!("{answers:?}");
    };
    assert_eq!((refused.code, refused.scope), (ErrorCode::RateLimited, Some(Scope::Room)));
    assert_eq!(refused.retry_after_ms, Some(1_000));
}
