//! A connection that goes on with another token: what the new one changes, and what of the old one is no more.

mod proved;

use std::sync::Arc;

use banter_access::proof::Proof;
use banter_access::rights::Rights;
use banter_chat::address::ConnectionId;
use banter_chat::proving::{NotProved, Proved};
use banter_chat::shard::{Input, Shard};
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, JoinFrom};
use proved::{GRACE_MS, LEEWAY_S, Server, access, fetch, join, post, proof, request};

const ALL: Rights = Rights::MEMBER;
const NONE: Rights = Rights::NONE;

/// Ann, and bob who stays as he is.
fn server(rooms: &[(&str, Rights)]) -> (Server, ConnectionId, ConnectionId) {
    let mut server = Server::new(access(&[]));
    let ann = server.come_in(0, proof("ann", 60, rooms));
    let bob = server.come_in(1, proof("bob", 9_000, &[("*", ALL)]));
    (server, ann, bob)
}

fn renewed(server: &mut Server, id: ConnectionId, proof: Arc<Proof>) -> Vec<String> {
    let proving = server.renew(id);
    server.proved(proving, Ok(proof))
}

#[test]
fn a_new_token_moves_the_end_and_is_told_of_its_own() {
    let (mut server, ann, _) = server(&[("lobby", ALL)]);
    let now_ms = server.now_ms;
    let heard = renewed(&mut server, ann, proof("ann", 600, &[("lobby", ALL)]));
    assert_eq!(heard, [format!("renewed {}", 600_000 - now_ms - 2)]);
    server.turn(70_000, |_| {});
    assert!(server.hear(ann).is_empty() && server.is_open(ann), "the old token's end is nobody's");
    server.turn(540_000 - server.now_ms, |_| {});
    assert_eq!(server.hear(ann), ["expiring 60000"]);
    server.turn((600 + LEEWAY_S) * 1_000 + GRACE_MS - server.now_ms, |_| {});
    assert_eq!(server.hear(ann), ["closed expired"]);
}

#[test]
fn a_token_is_renewed_behind_its_end_within_the_grace() {
    let (mut server, ann, _) = server(&[("lobby", ALL)]);
    server.turn((60 + LEEWAY_S) * 1_000, |_| {});
    assert_eq!(server.ask(ann, join("lobby")), ["expiring 0", "expired"]);
    assert_eq!(renewed(&mut server, ann, proof("ann", 600, &[("lobby", ALL)])).len(), 1);
    assert_eq!(server.ask(ann, join("lobby")), ["joined lobby"]);
}

#[test]
fn a_connection_hears_on_while_its_new_token_is_judged_and_asks_nothing() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    server.ask(ann, join("lobby"));
    server.ask(bob, join("lobby"));
    let proving = server.renew(ann);
    assert!(!server.is_read(ann));
    server.ask(bob, post("lobby"));
    assert_eq!(server.hear(ann), ["message lobby 1"]);
    assert!(!server.is_read(ann), "what it heard does not have it read again");
    server.proved(proving, Ok(proof("ann", 60, &[("lobby", ALL)])));
    assert!(server.is_read(ann));
}

#[test]
fn another_users_token_and_one_that_does_not_hold_change_nothing() {
    let (mut server, ann, _) = server(&[("lobby", ALL)]);
    server.ask(ann, join("lobby"));
    let refused = || NotProved::Refused("why".to_owned());
    for (verdict, code) in [
        (Ok(proof("bob", 600, &[("*", ALL)])), "forbidden"),
        (Err(refused()), "unauthorized"),
        (Err(NotProved::Unavailable), "unavailable"),
    ] {
        let proving = server.renew(ann);
        assert_eq!(server.proved(proving, verdict), [code]);
        assert_eq!(server.ask(ann, post("lobby")).len(), 2, "it goes on as it was");
        assert_eq!(server.ask(ann, join("staff")), ["forbidden"]);
    }
    // The third that is refused ends it, unless one held meanwhile.
    renewed(&mut server, ann, proof("ann", 60, &[("lobby", ALL)]));
    for times in 1..=3 {
        let proving = server.renew(ann);
        assert_eq!(server.proved(proving, Err(refused())), ["unauthorized"]);
        assert_eq!(server.is_open(ann), times < 3);
    }
}

#[test]
fn more_and_fewer_rights_hold_from_renewed_on() {
    let (mut server, ann, bob) = server(&[("lobby", ALL), ("news", Rights::READ), ("staff", ALL)]);
    for room in ["lobby", "news", "staff"] {
        server.ask(ann, join(room));
        server.ask(bob, join(room));
    }
    assert_eq!(server.ask(ann, post("news")), ["forbidden"]);
    let mut heard =
        renewed(&mut server, ann, proof("ann", 600, &[("lobby", Rights::READ), ("news", ALL), ("more", ALL)]));
    assert!(heard.remove(0).starts_with("renewed"));
    assert_eq!(heard, ["removed staff forbidden"]);
    assert_eq!(server.ask(ann, post("lobby")), ["forbidden"]);
    assert_eq!(server.ask(ann, fetch("lobby")), ["forbidden"]);
    assert_eq!(server.ask(ann, post("news")).len(), 2);
    assert_eq!(server.ask(ann, post("staff")), ["not_joined"]);
    assert_eq!(server.ask(ann, join("staff")), ["forbidden"]);
    assert_eq!(server.ask(ann, join("more")), ["joined more"]);
    // Of the room that it reads no longer it hears nothing, and the room knows that it is gone.
    server.ask(bob, post("staff"));
    server.ask(bob, post("lobby"));
    assert_eq!(server.hear(ann), ["message lobby 1"]);
    assert_eq!(server.ask(bob, Ask::Members { room: "staff".into() }), ["members bob"]);
}

#[test]
fn who_may_not_see_who_is_there_any_more_is_told_no_coming_and_going() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    let watch = Ask::Join { room: "lobby".into(), from: JoinFrom::Now, echo: true, presence: true, token: None };
    server.ask(ann, watch);
    server.ask(bob, join("lobby"));
    server.turn(500, |_| {});
    server.rest();
    assert_eq!(server.hear(ann), ["presence bob joined 2"]);
    renewed(&mut server, ann, proof("ann", 600, &[("lobby", Rights::READ)]));
    server.ask(bob, Ask::Leave { room: "lobby".into() });
    server.turn(500, |_| {});
    server.rest();
    assert!(server.hear(ann).is_empty());
}

/// Both in one turn, so that the answer is on its way when the rights change.
fn ask_and_lose(server: &mut Server, id: ConnectionId, ask: Ask<'_>, rights: &[(&str, Rights)]) -> Vec<String> {
    let proving = server.renew(id);
    let verdict = Ok(proof("ann", 600, rights));
    // What came ahead of `renew` was taken, and its answer is still to come.
    server.turn(1, |shard: &mut Shard| {
        shard.proved(Proved { proving: proving.clone(), verdict: Err(NotProved::Unavailable) });
        shard.handle(id, request(ask));
        shard.handle(id, request(Ask::Renew { token: "t3".into() }));
        shard.proved(Proved { proving, verdict });
    });
    let mut heard = server.hear(id);
    assert_eq!(heard.remove(0), "unavailable");
    assert!(heard.remove(0).starts_with("renewed"), "{heard:?}");
    heard
}

#[test]
fn what_is_on_its_way_when_its_right_ends_is_refused_when_it_comes() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    server.ask(bob, join("lobby"));
    server.ask(bob, post("lobby"));
    assert_eq!(ask_and_lose(&mut server, ann, fetch("lobby"), &[("lobby", Rights::READ)]), ["forbidden"]);
    let (mut server, ann, _) = self::server(&[("lobby", ALL)]);
    let members = Ask::Members { room: "lobby".into() };
    assert_eq!(ask_and_lose(&mut server, ann, members, &[("lobby", Rights::READ)]), ["forbidden"]);
}

#[test]
fn a_join_on_its_way_when_its_right_ends_is_refused_and_leaves_nobody_in_the_room() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    assert_eq!(ask_and_lose(&mut server, ann, join("lobby"), &[("lobby", NONE)]), ["forbidden"]);
    server.ask(bob, join("lobby"));
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
    server.ask(bob, post("lobby"));
    assert!(server.hear(ann).is_empty());
    // One that reads already, and only asked anew, is told that it reads no longer.
    let (mut server, ann, bob) = self::server(&[("lobby", ALL)]);
    server.ask(ann, join("lobby"));
    assert_eq!(
        ask_and_lose(&mut server, ann, join("lobby"), &[("lobby", NONE)]),
        ["forbidden", "removed lobby forbidden"]
    );
    server.ask(bob, join("lobby"));
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
}

#[test]
fn a_join_on_its_way_brings_no_history_whose_right_has_ended() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    server.ask(bob, join("lobby"));
    server.ask(bob, post("lobby"));
    let last = Ask::Join { room: "lobby".into(), from: JoinFrom::Last(5), echo: true, presence: false, token: None };
    assert_eq!(ask_and_lose(&mut server, ann, last, &[("lobby", Rights::READ)]), ["forbidden"]);
}

#[test]
fn a_join_that_is_refused_anyway_ends_a_reading_that_lost_its_right() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    server.ask(ann, join("lobby"));
    let cursor = Cursor { epoch: Epoch(1), sequence: Sequence(0) };
    let wrong =
        Ask::Join { room: "lobby".into(), from: JoinFrom::After(cursor), echo: true, presence: false, token: None };
    let heard = ask_and_lose(&mut server, ann, wrong, &[("lobby", NONE)]);
    assert_eq!(heard, ["forbidden", "removed lobby forbidden"]);
    server.ask(bob, join("lobby"));
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
}

#[test]
fn a_join_that_was_done_ahead_of_one_that_is_refused_is_left_as_well() {
    let (mut server, ann, bob) = server(&[("lobby", ALL)]);
    server.ask(bob, join("lobby"));
    let cursor = Cursor { epoch: Epoch(1), sequence: Sequence(0) };
    let wrong =
        Ask::Join { room: "lobby".into(), from: JoinFrom::After(cursor), echo: true, presence: false, token: None };
    let proving = server.renew(ann);
    server.turn(1, |shard| {
        let verdict = Err(NotProved::Unavailable);
        shard.proved(Proved { proving: proving.clone(), verdict });
        shard.handle(ann, request(join("lobby")));
        shard.handle(ann, request(wrong));
        shard.handle(ann, request(Ask::Renew { token: "t3".into() }));
        shard.proved(Proved { proving, verdict: Ok(proof("ann", 600, &[])) });
    });
    server.rest();
    assert_eq!(server.hear(ann)[2..], ["forbidden", "forbidden"]);
    assert_eq!(server.ask(bob, Ask::Members { room: "lobby".into() }), ["members bob"]);
}

#[test]
fn a_closed_connection_renews_nothing() {
    let (mut server, ann, _) = server(&[("lobby", ALL)]);
    let proving = server.renew(ann);
    server.turn(1, |shard| shard.handle(ann, Input::Closed));
    assert!(server.proved(proving, Ok(proof("ann", 600, &[]))).is_empty());
}
