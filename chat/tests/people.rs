//! Which connections a user has: what a program that asks is told, and what that costs a turn.

mod proved;

use banter_access::mint::ClaimsToMint;
use banter_access::rights::Rights;
use banter_chat::address::ConnectionId;
use banter_chat::backend::{BackendAnswer, BackendAsk, Ticket};
use banter_chat::parcel::Answer;
use banter_chat::people::{CONNECTIONS_LISTED_MAX, LOOKUPS_MAX, ROOMS_LISTED_MAX, UserState};
use banter_chat::shard::Input;
use banter_protocol::error_code::ErrorCode;
use banter_protocol::ids::UserName;
use banter_protocol::wire::WireForm;
use proved::{START_S, Server, access, claims, join, proof, proof_of};

const ALL: Rights = Rights::MEMBER;

fn ask(server: &mut Server, ticket: Ticket, user: &str) {
    server.shard.backend(ticket, BackendAsk::User(UserName::new(user).unwrap()));
}

/// The answers to users that were asked about, by ticket.
fn told(server: &mut Server) -> Vec<(Ticket, UserState)> {
    server.rest();
    let state = |(ticket, answer)| match answer {
        BackendAnswer::User(state) => (ticket, state),
        other => panic!("{other:?}"),
    };
    let mut told: Vec<_> = server.shard.take_backend_answers().into_iter().map(state).collect();
    told.sort_by_key(|(ticket, _)| *ticket);
    told
}

fn asked(server: &mut Server, user: &str) -> UserState {
    ask(server, 7, user);
    let told = told(server);
    assert_eq!((told.len(), told[0].0), (1, 7), "every ask is answered once");
    told[0].1.clone()
}

#[test]
fn a_user_is_told_by_its_connections_and_one_without_any_by_none() {
    let mut server = Server::new(access(&[]));
    let of_login = ClaimsToMint { session: Some("login-1".to_owned()), ..claims("ann", 600, &[("*", ALL)]) };
    server.now_ms = 5_000;
    let first = server.come_in(0, proof_of(&of_login));
    server.now_ms = 9_000;
    let second = server.come_in(70, proof("ann", 600, &[("*", ALL)]));
    server.come_in(1, proof("bob", 600, &[]));
    let unproved = server.open(2);
    server.hello(unproved, "ann");
    server.ask(first, join("lobby"));
    server.ask(first, join("hall"));
    server.now_ms = 60_000;
    let UserState { count, mut connections } = asked(&mut server, "ann");
    assert_eq!((count, connections.len()), (2, 2), "who has not proved to be ann is nobody");
    connections.sort_by_key(|there| there.since_ms);
    let rooms = |at: usize| connections[at].rooms.iter().map(|room| room.as_str()).collect::<Vec<_>>();
    assert_eq!((connections[0].id, connections[1].id), (first, second));
    assert_eq!((rooms(0), connections[0].rooms_count, rooms(1)), (vec!["lobby", "hall"], 2, vec![]));
    let since = connections[0].since_ms - START_S * 1_000;
    assert!((5_000..5_010).contains(&since), "{since}");
    assert_eq!(connections[0].login_session.as_deref(), Some("login-1"));
    assert_eq!((connections[1].login_session.as_deref(), connections[1].form), (None, WireForm::Native));
    assert_eq!((connections[0].waiting_bytes, connections[0].rooms_behind), (0, 0));
    assert_eq!(asked(&mut server, "nobody"), UserState::default());
    server.turn(1, |shard| shard.handle(first, Input::Closed));
    assert_eq!(asked(&mut server, "ann").count, 1);
}

#[test]
fn what_waits_for_a_connection_that_takes_nothing_is_told() {
    let mut server = Server::new(access(&[]));
    let ann = server.come_in(0, proof("ann", 600, &[("*", ALL)]));
    // A pong is written, and not sent before the turn's end.
    server.shard.handle(ann, proved::request(banter_protocol::request::Ask::Ping));
    ask(&mut server, 1, "ann");
    server.shard.finish_turn();
    let answers = server.shard.take_backend_answers();
    let [(1, BackendAnswer::User(state))] = &answers[..] else { panic!("{answers:?}") };
    assert!(state.connections[0].waiting_bytes > 0, "{state:?}");
}

#[test]
fn an_answer_is_bounded_and_counts_what_it_does_not_list() {
    let mut server = Server::new(access(&[]));
    let ids: Vec<ConnectionId> = (0..CONNECTIONS_LISTED_MAX as u32 + 20)
        .map(|slot| server.come_in(slot, proof("ann", 600, &[("*", ALL)])))
        .collect();
    let last = ids[ids.len() - 1];
    for room in 0..ROOMS_LISTED_MAX + 5 {
        server.ask(last, join(&format!("room-{room}")));
    }
    let UserState { count, connections } = asked(&mut server, "ann");
    assert_eq!((count, connections.len()), (ids.len() as u64, CONNECTIONS_LISTED_MAX));
    let there = connections.iter().find(|there| there.id == last).expect("the last place is looked at first");
    assert_eq!((there.rooms_count, there.rooms.len()), (ROOMS_LISTED_MAX + 5, ROOMS_LISTED_MAX));
    assert_eq!(there.rooms[0].as_str(), "room-0");
}

#[test]
fn asks_that_come_together_share_a_walk_and_no_turn_is_long() {
    const COUNT: u32 = 5_000;
    const LOOKS_A_TURN: u64 = 1_024;
    let mut server = Server::new(access(&[]));
    let nobody = proof("bob", 600, &[]);
    for slot in 0..COUNT {
        server.come_in(slot, nobody.clone());
    }
    server.rest();
    let begun = server.shard.counters().steps;
    for ticket in 0..10 {
        ask(&mut server, ticket, if ticket % 2 == 0 { "bob" } else { "ann" });
    }
    let mut turns = 0;
    while server.shard.is_busy() {
        let before = server.shard.counters().steps;
        server.turn(1, |_| {});
        assert!(server.shard.counters().steps - before <= LOOKS_A_TURN);
        turns += 1;
    }
    let told = told(&mut server);
    assert_eq!(told.len(), 10);
    for (ticket, state) in told {
        assert_eq!(state.count, if ticket % 2 == 0 { COUNT.into() } else { 0 });
    }
    assert!(turns >= COUNT / LOOKS_A_TURN as u32);
    let steps = server.shard.counters().steps - begun;
    assert!(steps < 2 * u64::from(COUNT), "one walk for all of them: {steps}");
}

#[test]
fn asks_that_wait_are_bounded_and_those_above_are_told_when_to_come_again() {
    let mut server = Server::new(access(&[]));
    server.come_in(0, proof("ann", 600, &[]));
    for ticket in 0..LOOKUPS_MAX as u64 {
        ask(&mut server, ticket, "ann");
    }
    ask(&mut server, 1_000, "ann");
    let refused = server.shard.take_backend_answers();
    assert!(
        matches!(&refused[..], [(1_000, BackendAnswer::Answer(Answer::Refused(refusal)))] if refusal.code == ErrorCode::Overloaded && refusal.retry_after_ms.is_some()),
        "{refused:?}"
    );
    assert_eq!(told(&mut server).len(), LOOKUPS_MAX);
    assert_eq!(asked(&mut server, "ann").count, 1);
}
