//! Guests at the machine: who comes in without a token, what it may do there, and how it goes.

mod proved;

use std::collections::BTreeSet;

use banter_access::limit::{DryRun, Limit};
use banter_access::revocation::{Revocation, Subject};
use banter_access::rights::Rights;
use banter_chat::address::ConnectionId;
use banter_chat::limits::Limits;
use banter_chat::orders::Parting;
use banter_chat::shard::Input;
use banter_protocol::ids::{RoomName, UserName};
use banter_protocol::request::Ask;
use proved::{START_S, Server, access, access_with_guests, fetch, join, post, proof};

const ALL: Rights = Rights::MEMBER;
const NONE: Rights = Rights::NONE;
/// What users and guests have in the rooms of these tests.
const ROOMS: [(&str, Rights, Rights); 4] =
    [("lobby", ALL, ALL), ("news", ALL, Rights::READ), ("staff", ALL, NONE), ("door", NONE, Rights::READ)];

fn name(user: &str) -> UserName {
    UserName::new(user).unwrap()
}

#[test]
fn who_shows_no_token_and_names_nobody_is_named_by_the_server_and_has_what_guests_have() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let (guest, called) = server.come_in_as_guest(0);
    assert!(called.starts_with("~g") && server.is_read(guest), "{called}");
    assert_eq!(server.ask(guest, join("lobby")), ["joined lobby"]);
    assert_eq!(server.ask(guest, post("lobby")).len(), 2);
    assert_eq!(server.ask(guest, Ask::Members { room: "lobby".into() }), [format!("members {called}")]);
    assert_eq!(server.ask(guest, join("news")), ["joined news"]);
    for ask in [post("news"), fetch("news"), Ask::Members { room: "news".into() }, join("staff"), join("elsewhere")] {
        assert_eq!(server.ask(guest, ask.clone()), ["forbidden"], "{ask:?}");
    }
    assert_eq!(server.ask(guest, join("door")), ["joined door"]);
    // What users have is not what guests have, and the other way round.
    let ann = server.come_in(1, proof("ann", 9_000, &[]));
    assert_eq!(server.ask(ann, join("staff")), ["joined staff"]);
    assert_eq!(server.ask(ann, join("door")), ["forbidden"]);
}

#[test]
fn every_connection_of_a_guest_is_another_guest() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let mut names = BTreeSet::new();
    for generation in 1..=3 {
        for slot in 0..10 {
            let id = ConnectionId { slot, generation };
            let form = banter_protocol::wire::WireForm::Native;
            server.turn(0, |shard| shard.handle(id, Input::Opened { form, preface: &[] }));
            names.insert(server.hello_without_token(id, ""));
            server.turn(0, |shard| shard.handle(id, Input::Closed));
        }
    }
    assert_eq!(names.len(), 30);
}

#[test]
fn a_name_without_a_token_makes_nobody_a_guest_and_counts_as_a_token_that_is_refused() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    for named in ["ann", "~gabcdefghijkl"] {
        let id = server.open(0);
        for times in 1..=3 {
            assert_eq!(server.hello_without_token(id, named), ["unauthorized"]);
            assert_eq!(server.is_open(id), times < 3);
        }
        server.turn(0, |shard| shard.handle(id, Input::Closed));
    }
    // Who comes in as a guest behind that has shown nothing that was refused.
    let id = server.open(0);
    server.hello_without_token(id, "ann");
    assert!(server.hello_without_token(id, "")[0].starts_with("welcome ~g"));
    assert_eq!(server.shard.sessions().session(id).unwrap().tokens_refused, 1);
    // Where nobody is let in as a guest, no word is a token.
    let mut closed = Server::new(access(&[("lobby", ALL)]));
    let id = closed.open(0);
    assert_eq!(closed.hello_without_token(id, ""), ["unauthorized"]);
}

#[test]
fn a_guest_takes_no_token_and_goes_on_as_it_was() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let (guest, _) = server.come_in_as_guest(0);
    let with_token = Ask::Join {
        room: "staff".into(),
        from: banter_protocol::request::JoinFrom::Now,
        echo: true,
        presence: false,
        token: Some("t".into()),
    };
    for _ in 0..5 {
        assert_eq!(server.ask(guest, Ask::Renew { token: "t".into() }), ["forbidden"]);
        assert_eq!(server.ask(guest, with_token.clone()), ["forbidden"]);
    }
    assert!(server.turn(1, |_| {}).prove.is_empty(), "nobody judges it");
    assert_eq!(server.ask(guest, join("lobby")), ["joined lobby"]);
}

#[test]
fn a_guest_has_no_end_and_wakes_nobody() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let (guest, _) = server.come_in_as_guest(0);
    server.ask(guest, join("lobby"));
    server.rest();
    server.turn(2_000, |_| {});
    assert_eq!(server.shard.next_due(), None);
    server.turn(400 * 86_400_000, |_| {});
    assert_eq!(server.ask(guest, post("lobby")).len(), 2);
}

#[test]
fn guests_have_so_many_places_and_give_them_back() {
    let limits = Limits { guests_max: 2, ..Limits::default() };
    let mut server = Server::limited(access_with_guests(&ROOMS), limits);
    let [(first, _), _] = [0, 1].map(|slot| server.come_in_as_guest(slot));
    let third = server.open(2);
    assert_eq!(server.hello_without_token(third, ""), ["overloaded"]);
    assert!(!server.is_open(third), "it is told, and closed");
    assert_eq!(server.shard.counters().limits.refused(Limit::Guests), 1);
    server.come_in(3, proof("ann", 60, &[]));
    assert_eq!(server.shard.counters().guests, 2, "who has a token is none of them");
    for id in [first, third] {
        server.turn(1, |shard| shard.handle(id, Input::Closed));
    }
    assert_eq!(server.shard.counters().guests, 1);
    server.come_in_as_guest(4);
    let last = server.open(5);
    assert_eq!(server.hello_without_token(last, ""), ["overloaded"]);
}

#[test]
fn a_guest_posts_at_its_own_rate_and_others_at_theirs() {
    let limits = Limits { guest_posts_per_second_max: 2, ..Limits::default() };
    let posts = |server: &mut Server, id| -> Vec<String> {
        (0..6)
            .filter_map(|_| server.ask(id, post("lobby")).into_iter().find(|heard| !heard.starts_with("message")))
            .collect()
    };
    let refused = |heard: &[String]| heard.iter().filter(|heard| *heard == "rate_limited").count();
    let mut server = Server::limited(access_with_guests(&ROOMS), limits);
    let (guest, _) = server.come_in_as_guest(0);
    let ann = server.come_in(1, proof("ann", 60, &[]));
    for id in [guest, ann] {
        server.ask(id, join("lobby"));
    }
    assert_eq!(refused(&posts(&mut server, guest)), 4);
    assert_eq!(refused(&posts(&mut server, ann)), 0);
    assert_eq!(server.shard.counters().limits.refused(Limit::GuestPosts), 4);
    server.turn(1_000, |_| {});
    assert_eq!(refused(&posts(&mut server, guest)), 4, "a second later there is a second's worth");

    // Tried dry it counts, and the limit for all holds as before.
    let dry_run = DryRun::default().with(Limit::GuestPosts);
    let limits = Limits { guest_posts_per_second_max: 2, posts_per_second_max: 5, dry_run, ..Limits::default() };
    let mut server = Server::limited(access_with_guests(&ROOMS), limits);
    let (guest, _) = server.come_in_as_guest(0);
    server.ask(guest, join("lobby"));
    assert_eq!(refused(&posts(&mut server, guest)), 1);
    let counts = server.shard.counters().limits;
    assert_eq!((counts.only_counted(Limit::GuestPosts), counts.refused(Limit::Posts)), (4, 1));
}

#[test]
fn a_guest_that_is_revoked_disconnected_or_kicked_by_its_name_is_gone_and_others_stay() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let guests: Vec<_> = (0..4).map(|slot| server.come_in_as_guest(slot)).collect();
    for (id, _) in &guests {
        server.ask(*id, join("lobby"));
    }
    let revoked = Subject::User(name(&guests[0].1));
    let revocation = Revocation::new(revoked, None, START_S + 9_000).unwrap();
    server.turn(1, |shard| {
        shard.revoke(&revocation).unwrap();
        shard.disconnect(&name(&guests[1].1), Parting::KICKED).unwrap();
        shard.kick(&RoomName::new("lobby").unwrap(), &name(&guests[2].1)).unwrap();
    });
    server.rest();
    let heard: Vec<_> = guests.iter().map(|(id, _)| server.hear(*id)).collect();
    assert_eq!(heard[..3], [["closed revoked"], ["closed kicked"], ["removed lobby kicked"]]);
    assert!(heard[3].is_empty());
    assert_eq!(guests.iter().map(|(id, _)| server.is_open(*id)).collect::<Vec<_>>(), [false, false, true, true]);
    assert_eq!(server.ask(guests[2].0, join("lobby")), ["joined lobby"], "who was kicked may come back");
}

#[test]
fn rights_of_guests_follow_the_configuration_and_none_is_left_once_they_are_not_let_in() {
    let mut server = Server::new(access_with_guests(&ROOMS));
    let (guest, _) = server.come_in_as_guest(0);
    let ann = server.come_in(1, proof("ann", 9_000, &[]));
    for id in [guest, ann] {
        server.ask(id, join("lobby"));
    }
    let change = |server: &mut Server, access| {
        server.turn(1, |shard| assert!(shard.set_access(access)));
        server.rest();
    };
    change(&mut server, access_with_guests(&[("lobby", ALL, Rights::READ), ("staff", ALL, ALL)]));
    assert_eq!(server.ask(guest, post("lobby")), ["forbidden"]);
    assert_eq!(server.ask(guest, join("staff")), ["joined staff"]);
    change(&mut server, access(&[("lobby", ALL)]));
    assert_eq!(server.hear(guest), ["removed staff forbidden", "removed lobby forbidden"]);
    assert_eq!(server.ask(guest, join("lobby")), ["forbidden"]);
    assert_eq!(server.ask(guest, Ask::Ping).len(), 1, "it is there, and may do nothing");
    assert_eq!(server.ask(ann, post("lobby")).len(), 2);
    let late = server.open(2);
    assert_eq!(server.hello_without_token(late, ""), ["unauthorized"]);
}
