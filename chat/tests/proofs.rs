//! A cursor that seems wrong is refused in a cluster only behind a proof that the room is this machine's.

mod node;
mod one_core;

use banter_chat::logs::LogId;
use banter_chat::policy::{Durability, RoomPolicies};
use banter_log::journal::Ask as DiskAsk;
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, JoinFrom};

use node::{Node, room_in};

/// A machine with partition 3, whose disk answers nothing, and a connection that joins with a cursor ahead of the room's head.
fn joins_ahead() -> (Node, String) {
    let mut node = Node::new(RoomPolicies::all(Durability::Synced));
    let room = room_in(3, 0);
    assert!(node.open_log(3));
    node.connect(0, "ann");
    node.rest();
    node.hear(0);
    node.stalled.insert(LogId(3));
    join_at(&mut node, 0, 1, &room, 7);
    node.rest();
    (node, room)
}

fn join_at(node: &mut Node, slot: u32, request: u64, room: &str, sequence: u64) {
    let epoch = node.shard.rooms().logs().get(LogId(3)).map_or(Epoch(0), |log| {
        let id = banter_protocol::ids::RoomId::of(room);
        log.catalog().epoch_of(id, banter_log::record::Level::Synced, banter_log::segment::Class::SERVER)
    });
    let from = JoinFrom::After(Cursor { epoch, sequence: Sequence(sequence) });
    node.ask(slot, request, Ask::Join { room: room.into(), from, echo: true, presence: false, token: None });
}

fn proofs(node: &Node) -> usize {
    node.kept.iter().filter(|(_, ask)| matches!(ask, DiskAsk::Prove)).count()
}

#[test]
fn a_cursor_that_is_ahead_waits_for_a_proof_and_is_refused_behind_it() {
    let (mut node, _) = joins_ahead();
    assert!(node.hear(0).is_empty());
    assert_eq!(proofs(&node), 1);
    node.resume(3);
    node.rest();
    assert_eq!(node.hear(0), ["1 cursor_ahead"]);
    assert!(node.kept.is_empty());
}

#[test]
fn what_comes_while_a_proof_is_under_way_is_proved_by_the_next_one() {
    let (mut node, room) = joins_ahead();
    node.connect(1, "bob");
    node.connect(2, "cid");
    for slot in [1, 2] {
        join_at(&mut node, slot, 5, &room, 9);
    }
    node.rest();
    assert_eq!(proofs(&node), 1);
    node.hear(1);
    node.hear(2);
    // The first proof is answered; the second one hangs.
    let first = node.kept.remove(0);
    node.stalled.remove(&LogId(3));
    node.perform(first.0, first.1);
    node.stalled.insert(LogId(3));
    node.rest();
    assert_eq!((node.hear(0), node.hear(1), proofs(&node)), (vec!["1 cursor_ahead".to_owned()], vec![], 1));
    node.resume(3);
    node.rest();
    assert_eq!((node.hear(1), node.hear(2)), (vec!["5 cursor_ahead".to_owned()], vec!["5 cursor_ahead".to_owned()]));
}

#[test]
fn where_the_partition_is_lost_instead_another_machine_knows() {
    let (mut node, _) = joins_ahead();
    node.close_log(3);
    node.rest();
    assert_eq!(node.hear(0), ["1 unavailable 1000"]);
}

#[test]
fn who_leaves_meanwhile_does_not_come_in_later() {
    let (mut node, room) = joins_ahead();
    node.ask(0, 2, Ask::Leave { room: room.as_str().into() });
    node.rest();
    let heard = node.hear(0);
    assert!(heard.iter().any(|it| it.starts_with("1 unavailable")), "{heard:?}");
    node.resume(3);
    node.rest();
    let readers: u64 = node.shard.rooms().iter().map(banter_chat::room::Room::members_count).sum();
    assert_eq!(readers, 0);
}
