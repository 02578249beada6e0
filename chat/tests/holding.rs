//! Posts of a partition whose commit takes too long: who waits is told so once, and they become history all the same.

mod node;
mod one_core;

use banter_chat::logs::LogId;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_log::journal::Answer;

use node::{HOLD_MS, Node, room_in};

const UNAVAILABLE: &str = "unavailable 1000";

/// A partition whose disk hangs, with two who read a room of it.
fn hanging() -> (Node, String) {
    let mut node = Node::new(RoomPolicies::all(Durability::Synced));
    let room = room_in(3, 0);
    assert!(node.open_log(3));
    node.reader(0, "ann", &[&room]);
    node.reader(1, "bob", &[&room]);
    node.stalled.insert(LogId(3));
    (node, room)
}

fn unavailable(request: u64) -> String {
    format!("{request} {UNAVAILABLE}")
}

#[test]
fn a_post_that_waits_too_long_is_told_so_once_and_is_history_when_its_commit_is_done() {
    let (mut node, room) = hanging();
    node.post(0, 7, &room, Some("k"));
    node.turn();
    let due_ms = node.now_ms + u64::from(HOLD_MS);
    assert_eq!(node.shard.next_due(), Some(due_ms), "the core wakes for it");
    node.pass(u64::from(HOLD_MS) - 100);
    assert!(node.hear(0).is_empty());
    node.pass(100);
    assert_eq!(node.hear(0), [unavailable(7)]);
    assert_ne!(node.shard.next_due(), Some(due_ms));
    node.pass(5_000);
    assert!(node.hear(0).is_empty() && node.hear(1).is_empty(), "nobody is told anything more of it");
    node.resume(3);
    node.rest();
    assert_eq!((node.hear(0), node.hear(1)), (vec!["message 1".into()], vec!["message 1".into()]));
    node.post(0, 8, &room, Some("k"));
    node.rest();
    assert_eq!(node.hear(0), ["8 duplicate 1"]);
}

#[test]
fn a_post_that_was_told_so_and_then_fails_is_not_answered_again_and_its_place_is_given_again() {
    let (mut node, room) = hanging();
    node.post(0, 7, &room, Some("k"));
    node.turn();
    node.post(0, 8, &room, None);
    node.turn();
    node.pass(u64::from(HOLD_MS));
    assert_eq!(node.hear(0), [unavailable(7), unavailable(8)]);
    node.kept.clear();
    node.shard.disk(LogId(3), Answer::AppendFailed { is_full: true });
    node.stalled.clear();
    node.rest();
    assert!(node.hear(0).is_empty());
    assert_eq!(node.shard.counters().log_waiting_posts, 0);
    node.post(0, 9, &room, Some("k"));
    node.rest();
    assert_eq!(node.hear(0), ["9 posted 1", "message 1"]);
}

#[test]
fn what_waits_behind_the_flight_is_told_in_its_order_as_each_has_waited_for_so_long() {
    let (mut node, room) = hanging();
    node.post(0, 1, &room, Some("a"));
    node.turn();
    node.pass(500);
    node.post(0, 2, &room, Some("b"));
    // The first again, while it is open: behind it. And one of another author.
    node.post(0, 3, &room, Some("a"));
    node.post(1, 4, &room, None);
    node.turn();
    node.pass(500);
    // A key that was used for another body: the refusal keeps its place, too.
    let body = banter_protocol::request::Body { format: banter_protocol::request::BodyFormat::Json, bytes: b"2" };
    node.ask(0, 5, banter_protocol::request::Ask::Post { room: (&room).into(), body, key: Some("a".into()) });
    node.turn();
    node.pass(1_000);
    assert_eq!(node.hear(0), [unavailable(1)]);
    node.pass(500);
    assert_eq!((node.hear(0), node.hear(1)), (vec![unavailable(2), unavailable(3)], vec![unavailable(4)]));
    node.pass(500);
    assert_eq!(node.hear(0), ["5 key_conflict"], "what is known for sure is said");
    node.post(0, 6, &room, None);
    node.pass(100);
    node.resume(3);
    node.rest();
    let messages = |heard: Vec<String>| heard.into_iter().filter(|it| it.starts_with("message")).count();
    let heard = node.hear(0);
    let answers: Vec<&String> = heard.iter().filter(|it| !it.starts_with("message")).collect();
    assert_eq!(answers, ["6 posted 4"], "the others were answered");
    assert_eq!((messages(heard.clone()), messages(node.hear(1))), (4, 4));
    assert_eq!(node.shard.counters().log_waiting_bytes, 0);
}

#[test]
fn a_turn_tells_so_many_of_those_who_wait_and_the_next_ones_the_others_in_order() {
    let (mut node, room) = hanging();
    node.post(0, 0, &room, None);
    node.turn();
    const POSTS: u64 = 600;
    for number in 1..=POSTS {
        node.post(0, number, &room, None);
    }
    node.turn();
    node.now_ms += u64::from(HOLD_MS);
    node.turn();
    let first = node.hear(0);
    assert!(first.len() < POSTS as usize, "{}", first.len());
    assert!(node.shard.next_due().is_some_and(|due_ms| due_ms <= node.now_ms), "it goes on at once");
    node.rest();
    let told: Vec<String> = first.into_iter().chain(node.hear(0)).collect();
    assert_eq!(told, (0..=POSTS).map(unavailable).collect::<Vec<_>>());
    node.resume(3);
    node.rest();
    assert!(node.hear(0).iter().all(|it| it.starts_with("message")));
    assert_eq!(node.shard.rooms().iter().next().unwrap().head().0, POSTS + 1);
}

#[test]
fn a_partition_whose_disk_answers_keeps_nobody_waiting_and_looks_at_nothing_later() {
    let (mut node, room) = hanging();
    let other = room_in(5, 0);
    node.open_log(5);
    node.join(0, &other);
    node.rest();
    node.hear(0);
    node.post(0, 1, &other, None);
    node.post(0, 2, &room, None);
    node.rest();
    assert_eq!(node.hear(0), ["1 posted 1", "message 1"]);
    node.pass(u64::from(HOLD_MS));
    assert_eq!(node.hear(0), [unavailable(2)]);
    node.resume(3);
    node.pass(2_000);
    node.hear(0);
    // Behind the proofs of the last blocks nothing is due any more.
    node.pass(2_000);
    assert_eq!(node.shard.next_due().filter(|&due_ms| due_ms < node.now_ms + 60_000), None);
}

#[test]
fn a_post_whose_commit_is_done_is_not_looked_at_when_it_would_have_waited_too_long() {
    let (mut node, room) = hanging();
    node.resume(3);
    node.post(0, 1, &room, None);
    node.rest();
    // The last block is proved behind a second.
    node.pass(1_100);
    assert_eq!(node.shard.next_due().filter(|&due_ms| due_ms < node.now_ms + 60_000), None);
}

#[test]
fn a_log_that_closes_answers_those_once_who_were_told_before() {
    let (mut node, room) = hanging();
    node.post(0, 1, &room, None);
    node.turn();
    node.post(0, 2, &room, None);
    node.turn();
    node.pass(u64::from(HOLD_MS));
    node.post(0, 3, &room, None);
    node.turn();
    assert_eq!(node.hear(0), [unavailable(1), unavailable(2)]);
    node.close_log(3);
    node.rest();
    assert_eq!(node.hear(0), [unavailable(3)]);
    assert_eq!(node.shard.next_due().filter(|&due_ms| due_ms < node.now_ms + 60_000), None, "nothing of it is due");
}

#[test]
fn a_server_of_its_own_waits_for_its_disk_as_long_as_that_takes() {
    let mut server = one_core::Server::new(one_core::roomy());
    server.join();
    server.rest();
    server.heard.clear();
    server.post(1, None, "1");
    server.shard.finish_turn();
    assert!(server.shard.disk_asks().iter().any(|(_, ask)| matches!(ask, banter_log::journal::Ask::Append { .. })));
    server.pass(60_000);
    assert_eq!(server.heard, Vec::<String>::new());
    server.shard.disk(LogId::LOCAL, Answer::Synced);
    server.rest();
    assert_eq!(server.heard, ["posted 1"]);
}

#[test]
fn where_the_stream_has_no_leader_for_the_next_segment_posts_are_not_told_that_it_is_full() {
    let mut node = Node::new(RoomPolicies::all(Durability::Synced));
    let room = room_in(3, 0);
    node.unprepared.insert(LogId(3));
    assert!(node.open_log(3));
    node.reader(0, "ann", &[&room]);
    node.post(0, 7, &room, None);
    node.rest();
    node.pass(4_500);
    assert_eq!(node.hear(0), [unavailable(7)]);
    // Refused for the segment's sake, before its own time is over.
    node.post(0, 8, &room, None);
    node.turn();
    node.pass(u64::from(HOLD_MS) - 100);
    assert_eq!(node.hear(0), [unavailable(8)]);
}
