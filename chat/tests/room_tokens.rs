//! Tokens for single rooms, which come with a join: what they give, where, and until when.

mod proved;

use std::sync::Arc;

use banter_access::mint::ClaimsToMint;
use banter_access::proof::Proof;
use banter_access::revocation::{Revocation, Subject};
use banter_access::rights::Rights;
use banter_chat::access::Access;
use banter_chat::address::ConnectionId;
use banter_chat::proving::{NotProved, Proving};
use banter_protocol::request::{Ask, JoinFrom};
use proved::{LEEWAY_S, START_S, Server, access, claims, fetch, join, post, proof, proof_of, request};

const ALL: Rights = Rights::MEMBER;

/// Ann, whose token gives nothing in the deal's room, and bob who is there.
fn server() -> (Server, ConnectionId, ConnectionId) {
    let mut server = Server::new(access(&[]));
    let ann = server.come_in(0, proof("ann", 900, &[("lobby", ALL)]));
    let bob = server.come_in(1, proof("bob", 9_000, &[("*", ALL)]));
    server.ask(bob, join("deal"));
    (server, ann, bob)
}

fn join_with_token(room: &str) -> Ask<'_> {
    Ask::Join { room: room.into(), from: JoinFrom::Now, echo: true, presence: false, token: Some("room".into()) }
}

fn proving(server: &mut Server, id: ConnectionId, room: &str) -> Proving {
    server.turn(1, |shard| shard.handle(id, request(join_with_token(room)))).prove.pop().expect("a token to judge")
}

fn join_by(server: &mut Server, id: ConnectionId, room: &str, proof: Arc<Proof>) -> Vec<String> {
    let proving = proving(server, id, room);
    assert_eq!(&*proving.token, "room");
    server.proved(proving, Ok(proof))
}

fn deal(seconds: u64, rights: Rights) -> Arc<Proof> {
    proof("ann", seconds, &[("deal", rights)])
}

#[test]
fn a_rooms_token_gives_its_rights_in_that_room_and_in_no_other() {
    let (mut server, ann, _) = server();
    assert_eq!(server.ask(ann, join("deal")), ["forbidden"]);
    let wide = proof("ann", 600, &[("deal", ALL), ("other", ALL)]);
    assert_eq!(join_by(&mut server, ann, "deal", wide), ["joined deal"]);
    assert_eq!(server.ask(ann, post("deal")).len(), 2);
    assert_eq!(server.ask(ann, fetch("deal")), ["page of 1"]);
    assert_eq!(server.ask(ann, Ask::Members { room: "deal".into() }), ["members ann bob"]);
    for room in ["other", "deals"] {
        assert_eq!(server.ask(ann, join(room)), ["forbidden"]);
        assert_eq!(server.ask(ann, fetch(room)), ["forbidden"]);
    }
    // Joined again without it, it still holds; left, it is gone with the reading.
    assert_eq!(server.ask(ann, join("deal")), ["joined deal"]);
    server.ask(ann, Ask::Leave { room: "deal".into() });
    assert_eq!(server.ask(ann, join("deal")), ["forbidden"]);
    assert_eq!(server.ask(ann, fetch("deal")), ["forbidden"]);
}

#[test]
fn the_connection_is_not_read_while_it_is_judged_and_hears_on() {
    let (mut server, ann, bob) = server();
    server.ask(ann, join("lobby"));
    server.ask(bob, join("lobby"));
    let proving = proving(&mut server, ann, "deal");
    assert!(!server.is_read(ann));
    server.ask(bob, post("lobby"));
    assert_eq!(server.hear(ann), ["message lobby 1"]);
    server.proved(proving, Ok(deal(600, ALL)));
    assert!(server.is_read(ann));
}

#[test]
fn a_token_that_does_not_hold_or_is_anothers_or_gives_too_little_joins_nothing() {
    for (verdict, code) in [
        (Ok(proof("bob", 600, &[("deal", ALL)])), "forbidden"),
        (Ok(deal(600, Rights::WRITE)), "forbidden"),
        (Ok(proof("ann", 600, &[("lobby", ALL)])), "forbidden"),
        (Err(NotProved::Refused("why".to_owned())), "unauthorized"),
        (Err(NotProved::Expired("why".to_owned())), "expired"),
        (Err(NotProved::Unavailable), "unavailable"),
    ] {
        let (mut server, ann, bob) = server();
        let proving = proving(&mut server, ann, "deal");
        assert_eq!(server.proved(proving, verdict), [code]);
        assert!(server.is_read(ann));
        assert_eq!(server.ask(ann, post("deal")), ["not_joined"]);
        assert_eq!(server.ask(bob, Ask::Members { room: "deal".into() }), ["members bob"]);
        assert_eq!(server.ask(ann, join("lobby")), ["joined lobby"], "it goes on as it was");
    }
}

#[test]
fn a_rooms_token_that_ends_ends_the_reading_if_nothing_else_lets_it() {
    let (mut server, ann, bob) = server();
    join_by(&mut server, ann, "deal", deal(60, ALL));
    let ends_ms = (60 + LEEWAY_S) * 1_000;
    assert_eq!(server.shard.next_due(), Some(ends_ms), "and nothing wakes it before");
    server.turn(ends_ms - 1 - server.now_ms, |_| {});
    assert!(server.hear(ann).is_empty());
    server.turn(1, |_| {});
    assert_eq!(server.hear(ann), ["removed deal expired"]);
    server.ask(bob, post("deal"));
    assert!(server.hear(ann).is_empty() && server.is_open(ann));
    assert_eq!(server.ask(bob, Ask::Members { room: "deal".into() }), ["members bob"]);
    // What the connection's own token gives stays.
    join_by(&mut server, ann, "lobby", proof("ann", 100, &[("lobby", ALL)]));
    server.turn((100 + LEEWAY_S) * 1_000 - server.now_ms, |_| {});
    assert!(server.hear(ann).is_empty());
    assert_eq!(server.ask(ann, post("lobby")).len(), 2);
    // A newer one takes the place of the one before, also where it gives less.
    join_by(&mut server, ann, "deal", deal(110, ALL));
    join_by(&mut server, ann, "deal", deal(110, Rights::READ));
    assert_eq!(server.ask(ann, post("deal")), ["forbidden"]);
    join_by(&mut server, ann, "deal", deal(120, ALL));
    join_by(&mut server, ann, "deal", deal(300, ALL));
    server.turn((120 + LEEWAY_S) * 1_000 - server.now_ms, |_| {});
    assert!(server.hear(ann).is_empty());
    server.turn((300 + LEEWAY_S) * 1_000 - server.now_ms, |_| {});
    assert_eq!(server.hear(ann), ["removed deal expired"]);
}

#[test]
fn a_renewal_leaves_what_a_rooms_token_gives() {
    let (mut server, ann, _) = server();
    join_by(&mut server, ann, "deal", deal(600, Rights::READ));
    server.ask(ann, join("lobby"));
    let proving = server.renew(ann);
    let heard = server.proved(proving, Ok(proof("ann", 900, &[])));
    assert_eq!(heard[1..], ["removed lobby forbidden"]);
    assert_eq!(server.ask(ann, post("deal")), ["forbidden"]);
    assert_eq!(server.ask(ann, join("deal")), ["joined deal"]);
}

#[test]
fn a_rooms_token_that_is_revoked_ends_its_reading_and_is_taken_no_more() {
    let with_id = || {
        let token_id = Some("deal-token".to_owned());
        proof_of(&ClaimsToMint { token_id, ..claims("ann", 600, &[("deal", ALL)]) })
    };
    let revocation = Revocation::new(Subject::Token("deal-token".into()), None, START_S + 9_000).unwrap();
    let (mut server, ann, _) = server();
    join_by(&mut server, ann, "deal", with_id());
    server.shard.revoke(&revocation).unwrap();
    server.rest();
    assert_eq!(server.hear(ann), ["removed deal revoked"]);
    assert!(server.is_open(ann), "its own token holds");
    assert_eq!(join_by(&mut server, ann, "deal", with_id()), ["revoked"]);
    // One that comes while it is judged wins.
    let (mut server, ann, _) = self::server();
    let proving = proving(&mut server, ann, "deal");
    server.shard.revoke(&revocation).unwrap();
    server.rest();
    assert_eq!(server.proved(proving, Ok(with_id())), ["revoked"]);
    assert_eq!(server.ask(ann, post("deal")), ["not_joined"]);
}

#[test]
fn nothing_is_kept_of_a_rooms_token_whose_reading_is_gone() {
    let (mut server, ann, _) = server();
    let due_ms = server.shard.next_due();
    join_by(&mut server, ann, "deal", deal(60, ALL));
    assert_ne!(server.shard.next_due(), due_ms);
    server.ask(ann, Ask::Leave { room: "deal".into() });
    assert_eq!(server.shard.next_due(), due_ms);
}

#[test]
fn where_no_token_is_asked_for_none_is_taken_for_a_room() {
    let mut server = Server::new(Access::Open);
    let id = server.open(0);
    let features = banter_protocol::features::FeatureNames::NONE;
    server.ask(id, Ask::Hello { user: "ann".into(), token: None, features });
    assert_eq!(server.ask(id, join_with_token("deal")), ["bad_request"]);
    assert_eq!(server.ask(id, join("deal")), ["joined deal"]);
}
