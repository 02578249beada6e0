//! What is ordered from outside about connections that are there: revocations, disconnects, kicks, new rights for everybody.

mod proved;

use banter_access::mint::ClaimsToMint;
use banter_access::revocation::{Revocation, Subject};
use banter_access::rights::Rights;
use banter_chat::address::ConnectionId;
use banter_chat::orders::{ORDERS_WAITING_MAX, OrdersFull, Parting};
use banter_chat::proving::Proved;
use banter_chat::shard::{Input, Shard};
use banter_chat::turn::ENDS_A_TURN;
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::Ask;
use proved::{START_S, Server, access, claims, join, post, proof, proof_of, request};

const ALL: Rights = Rights::MEMBER;

fn name(user: &str) -> UserName {
    UserName::new(user).unwrap()
}

fn room(name: &str) -> RoomName {
    RoomName::new(name).unwrap()
}

fn revocation(subject: Subject) -> Revocation {
    Revocation::new(subject, None, START_S + 10_000).unwrap()
}

/// Everything that names ann's token, and what names it not.
fn subjects() -> [(Subject, bool); 6] {
    [
        (Subject::User(name("ann")), true),
        (Subject::Session("login-1".into()), true),
        (Subject::Token("token-1".into()), true),
        (Subject::User(name("bob")), false),
        (Subject::Session("login-2".into()), false),
        (Subject::Token("login-1".into()), false),
    ]
}

fn ann() -> ClaimsToMint {
    let (session, token_id) = (Some("login-1".to_owned()), Some("token-1".to_owned()));
    ClaimsToMint { session, token_id, ..claims("ann", 600, &[("lobby", ALL)]) }
}

#[test]
fn a_revocation_ends_who_goes_by_what_it_names_and_nobody_else() {
    for (subject, is_named) in subjects() {
        let mut server = Server::new(access(&[]));
        let first = server.come_in(0, proof_of(&ann()));
        let second = server.come_in(1, proof_of(&ann()));
        let other = server.come_in(2, proof("eve", 600, &[("lobby", ALL)]));
        server.ask(first, join("lobby"));
        assert_eq!(server.shard.revoke(&revocation(subject.clone())), Ok(true));
        server.rest();
        for id in [first, second] {
            let heard = server.hear(id);
            assert_eq!(heard, if is_named { vec!["closed revoked"] } else { vec![] }, "{subject:?}");
            assert_eq!(server.is_open(id), !is_named);
        }
        assert!(server.is_open(other));
        // And it is refused from here on.
        let again = server.open(3);
        let proving = server.hello(again, "");
        let heard = server.proved(proving, Ok(proof_of(&ann())));
        assert_eq!(heard[0].starts_with("revoked"), is_named, "{subject:?}: {heard:?}");
        assert_eq!(server.is_open(again), !is_named, "one such is enough to end it");
        assert_eq!(server.ask(other, join("lobby")), ["joined lobby"]);
        let members = Ask::Members { room: "lobby".into() };
        assert_eq!(server.ask(other, members), [if is_named { "members eve" } else { "members ann eve" }]);
    }
}

#[test]
fn a_revocation_that_comes_while_a_token_is_judged_wins() {
    for (subject, _) in subjects().into_iter().filter(|(_, is_named)| *is_named) {
        let mut server = Server::new(access(&[]));
        let id = server.open(0);
        let proving = server.hello(id, "");
        server.shard.revoke(&revocation(subject.clone())).unwrap();
        // The walk is over before the verdict comes.
        server.rest();
        assert_eq!(server.proved(proving, Ok(proof_of(&ann()))), ["revoked"]);
        assert!(!server.is_open(id));
        // So it is with a token that follows on another, which nothing names.
        let mut server = Server::new(access(&[]));
        let before = ClaimsToMint { token_id: None, session: None, ..ann() };
        let id = server.come_in(0, proof_of(&before));
        let proving = server.renew(id);
        if !matches!(subject, Subject::User(_)) {
            server.shard.revoke(&revocation(subject)).unwrap();
            server.rest();
            assert!(server.is_open(id));
            assert_eq!(server.proved(proving, Ok(proof_of(&ann()))), ["revoked"]);
            assert!(!server.is_open(id));
        }
    }
}

#[test]
fn who_renewed_in_time_is_not_ended_with_the_old_token() {
    let mut server = Server::new(access(&[]));
    let id = server.come_in(0, proof_of(&ann()));
    let proving = server.renew(id);
    let next = ClaimsToMint { token_id: Some("token-2".to_owned()), ..ann() };
    server.proved(proving, Ok(proof_of(&next)));
    server.shard.revoke(&revocation(Subject::Token("token-1".into()))).unwrap();
    server.rest();
    assert!(server.is_open(id));
    server.shard.revoke(&revocation(Subject::Token("token-2".into()))).unwrap();
    server.rest();
    assert!(!server.is_open(id));
}

#[test]
fn what_is_lifted_comes_in_again_and_what_is_told_twice_is_told_once() {
    let mut server = Server::new(access(&[]));
    let subject = Subject::User(name("ann"));
    assert_eq!(server.shard.revoke(&revocation(subject.clone())), Ok(true));
    assert_eq!(server.shard.revoke(&revocation(subject.clone())), Ok(false));
    assert_eq!(server.shard.lift(&subject), 1);
    server.come_in(0, proof_of(&ann()));
}

#[test]
fn every_connection_of_a_user_is_disconnected_and_may_come_back() {
    let mut server = Server::new(access(&[]));
    let anns = [0, 1, 70, 130].map(|slot| server.come_in(slot, proof_of(&ann())));
    let bob = server.come_in(2, proof("bob", 600, &[]));
    server.shard.disconnect(&name("ann"), Parting::KICKED).unwrap();
    server.rest();
    for id in anns {
        assert_eq!((server.hear(id), server.is_open(id)), (vec!["closed kicked".to_owned()], false));
    }
    assert!(server.is_open(bob));
    server.turn(1, |shard| shard.handle(anns[0], Input::Closed));
    let again = server.come_in(200, proof_of(&ann()));
    server.rest();
    assert!(server.is_open(again), "who comes behind the order is not concerned");
}

#[test]
fn a_kick_ends_a_users_readings_of_that_room_alone() {
    let mut server = Server::new(access(&[]));
    let all = [("lobby", ALL), ("hall", ALL)];
    let anns = [0, 1].map(|slot| server.come_in(slot, proof("ann", 600, &all)));
    let bob = server.come_in(2, proof("bob", 600, &all));
    for id in [anns[0], anns[1], bob] {
        for room in ["lobby", "hall"] {
            server.ask(id, join(room));
        }
    }
    server.shard.kick(&room("lobby"), &name("ann")).unwrap();
    server.rest();
    for id in anns {
        assert_eq!(server.hear(id), ["removed lobby kicked"]);
    }
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
    assert_eq!(server.ask(bob, Ask::Members { room: "hall".into() }), ["members ann bob"]);
    server.ask(bob, post("lobby"));
    assert!(server.hear(anns[0]).is_empty());
    assert_eq!(server.ask(anns[0], join("lobby")), ["joined lobby"], "it has the right, and may come back");
    server.shard.kick(&room("nowhere"), &name("ann")).unwrap();
    server.rest();
    assert!(server.hear(anns[0]).is_empty());
}

#[test]
fn a_join_on_its_way_is_kicked_when_it_comes() {
    let mut server = Server::new(access(&[]));
    let id = server.come_in(0, proof_of(&ann()));
    let bob = server.come_in(1, proof("bob", 600, &[("*", ALL)]));
    server.turn(1, |shard: &mut Shard| {
        shard.handle(id, request(join("lobby")));
        shard.kick(&room("lobby"), &name("ann")).unwrap();
    });
    server.rest();
    let heard = server.hear(id);
    let came = heard.first().is_some_and(|event| event == "joined lobby");
    assert_eq!(heard.last().map(String::as_str), Some(if came { "removed lobby kicked" } else { "kicked" }));
    server.ask(bob, join("lobby"));
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
}

#[test]
fn rights_that_the_configuration_gives_no_longer_end_what_was_read_by_them() {
    let mut server = Server::new(access(&[("news", ALL), ("hall", Rights::READ)]));
    let ann = server.come_in(0, proof("ann", 600, &[("hall", Rights::WRITE)]));
    let bob = server.come_in(1, proof("bob", 600, &[("news", Rights::READ)]));
    for id in [ann, bob] {
        for room in ["news", "hall"] {
            server.ask(id, join(room));
        }
    }
    assert_eq!(server.ask(ann, post("hall")).len(), 2);
    server.ask(bob, Ask::Ping);
    assert!(server.shard.set_access(access(&[("news", Rights::NONE), ("hall", Rights::READ)])));
    server.rest();
    assert_eq!(server.hear(ann), ["removed news forbidden"]);
    assert!(server.hear(bob).is_empty(), "its token gives it");
    assert_eq!(server.ask(bob, post("news")), ["forbidden"]);
    assert_eq!(server.ask(ann, join("news")), ["forbidden"]);
    assert_eq!(server.ask(ann, post("hall")).len(), 2);
    server.hear(bob);
    // What is given anew holds for who is there.
    assert!(server.shard.set_access(access(&[("news", ALL)])));
    server.rest();
    for id in [ann, bob] {
        assert_eq!(server.hear(id), ["removed hall forbidden"]);
    }
    assert_eq!(server.ask(ann, join("news")), ["joined news"]);
    assert_eq!(server.ask(bob, post("news")).len(), 2);
    assert!(!server.shard.set_access(banter_chat::access::Access::Open), "the mode is said at the start alone");
}

#[test]
fn an_order_takes_as_many_turns_as_there_are_connections_for() {
    const COUNT: u32 = 5_000;
    const LOOKS_A_TURN: u64 = 1_024;
    let mut server = Server::new(access(&[("*", ALL)]));
    let nobody = proof("bob", 600, &[]);
    let ids: Vec<ConnectionId> = (0..COUNT).map(|slot| server.come_in(slot, nobody.clone())).collect();
    let last = ids[0];
    server.ask(last, join("lobby"));
    for order in [
        (|shard: &mut Shard| assert!(shard.revoke(&revocation(Subject::User(name("eve")))).unwrap())) as fn(&mut Shard),
        |shard| shard.disconnect(&name("eve"), Parting::KICKED).unwrap(),
        |shard| assert!(shard.set_access(access(&[("*", ALL)]))),
        |shard| shard.kick(&room("lobby"), &name("eve")).unwrap(),
    ] {
        order(&mut server.shard);
        while server.shard.is_busy() {
            let before = server.shard.counters().steps;
            server.turn(1, |_| {});
            let steps = server.shard.counters().steps - before;
            assert!(steps <= LOOKS_A_TURN + 64, "{steps}");
        }
    }
    // Ends are looks, too: what a connection reads is left one by one.
    server.shard.disconnect(&name("bob"), Parting::KICKED).unwrap();
    let mut open = ids.len();
    while server.shard.is_busy() {
        server.turn(1, |_| {});
        let left = ids.iter().filter(|&&id| server.is_open(id)).count();
        assert!(left + ENDS_A_TURN >= open, "{open} and then {left}");
        open = left;
    }
    assert_eq!(open, 0);
}

#[test]
fn orders_that_wait_are_bounded_and_those_of_one_kind_share_a_walk() {
    let mut server = Server::new(access(&[]));
    let id = server.come_in(0, proof_of(&ann()));
    for number in 0..ORDERS_WAITING_MAX {
        server.shard.disconnect(&name(&format!("user-{number}")), Parting::KICKED).unwrap();
    }
    assert_eq!(server.shard.disconnect(&name("ann"), Parting::KICKED), Err(OrdersFull));
    assert_eq!(server.shard.kick(&room("lobby"), &name("ann")), Err(OrdersFull));
    server.turn(1, |_| {});
    assert!(server.is_open(id));
    server.shard.disconnect(&name("ann"), Parting::KICKED).unwrap();
    server.rest();
    assert!(!server.is_open(id));
}

#[test]
fn a_verdict_for_a_connection_that_was_disconnected_is_nobodys() {
    let mut server = Server::new(access(&[]));
    let id = server.come_in(0, proof_of(&ann()));
    let proving = server.renew(id);
    server.shard.disconnect(&name("ann"), Parting::KICKED).unwrap();
    server.rest();
    assert_eq!(server.hear(id), ["closed kicked"]);
    server.turn(1, |shard| shard.proved(Proved { proving, verdict: Ok(proof_of(&ann())) }));
    assert!(server.hear(id).is_empty() && !server.is_open(id));
}
