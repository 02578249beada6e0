//! What a room's log promises its readers: epochs that are kept, levels that go down, classes, and reads that fail.

mod one_core;

use banter_chat::policy::{Durability, RoomPattern, RoomPolicies, RoomPolicy};
use banter_log::catalog::{Catalog, Epochs};
use banter_log::journal::Reach;
use banter_log::scan::{Ending, Scan};
use banter_log::segment::Class;
use banter_protocol::ids::{Cursor, Epoch, Sequence};
use banter_protocol::request::{Ask, JoinFrom};

use one_core::{Disk, Server, WALL_MS, roomy};

const EPOCHS: Epochs =
    Epochs { blank_synced: Epoch(70), blank_written: Epoch(80), lowered: Epoch(90), dropped: Epoch(70) };

fn server(policies: RoomPolicies) -> Server {
    Server::with(Disk::default(), Catalog::default(), roomy(), (1, WALL_MS), (policies, EPOCHS))
}

fn join_after(server: &mut Server, epoch: u64, sequence: u64) {
    let cursor = Cursor { epoch: Epoch(epoch), sequence: Sequence(sequence) };
    server.ask(
        5,
        Ask::Join { room: "lobby".into(), from: JoinFrom::After(cursor), echo: true, presence: false, token: None },
    );
    server.rest();
}

#[test]
fn a_room_without_a_message_keeps_the_epoch_that_it_was_told_by() {
    for (durability, epoch) in [(Durability::Synced, 70), (Durability::Written, 80)] {
        let mut server = server(RoomPolicies::all(durability));
        server.join();
        server.rest();
        assert_eq!(server.epoch, epoch);
        let mut server = server.restart(WALL_MS);
        server.join();
        server.rest();
        assert_eq!(server.epoch, epoch, "over a restart");
        assert_eq!(server.posted("k", "1"), "posted 1");
        let mut server = server.restart(WALL_MS);
        join_after(&mut server, epoch, 0);
        assert_eq!(server.heard, ["joined 1", "message 1"], "and what came since is replayed");
    }
}

#[test]
fn a_room_that_becomes_less_safe_has_a_new_epoch_and_its_first_message_says_so_on_the_disk() {
    let mut server = server(RoomPolicies::all(Durability::Synced));
    server.join();
    server.posted("k", "1");
    server.policies = RoomPolicies::all(Durability::Written);
    let mut server = server.restart(WALL_MS);
    server.disk.reaches.clear();
    server.join();
    server.rest();
    assert_eq!(server.epoch, 90);
    server.posted("l", "2");
    server.posted("m", "3");
    assert_eq!(server.disk.reaches, [Reach::Synced, Reach::Written]);
    let mut server = server.restart(WALL_MS);
    server.join();
    server.rest();
    assert_eq!(server.epoch, 90, "it went down once");
}

#[test]
fn behind_a_second_of_quiet_what_was_written_is_on_the_disk_and_a_block_says_so() {
    for durability in [Durability::Synced, Durability::Written] {
        let mut server = server(RoomPolicies::all(durability));
        server.join();
        server.posted("k", "1");
        let blocks = |server: &Server| {
            let mut scan = Scan::new(&server.disk.files[&1].1).unwrap();
            let blocks: Vec<_> = scan.by_ref().map(|block| (block.records, block.synced)).collect();
            assert!(matches!(scan.ending(), Ending::Clean { .. }));
            blocks
        };
        assert_eq!(blocks(&server), [(1, 0)]);
        server.pass(900);
        assert_eq!(blocks(&server).len(), 1, "not while more may come");
        server.pass(5_000);
        let proofs = if durability == Durability::Synced { &[(0, 1)][..] } else { &[(0, 0), (0, 2)] };
        assert_eq!(blocks(&server)[1..], *proofs);
        server.pass(60_000);
        assert_eq!(blocks(&server).len(), 1 + proofs.len(), "once is enough");
        server.posted("l", "2");
        assert_eq!(blocks(&server).last(), Some(&(1, 1 + proofs.len() as u32)));
    }
}

#[test]
fn a_class_without_a_segment_waits_alone_and_not_for_ever() {
    let class = Class { hours: 24, bytes: 0 };
    let game = RoomPolicy { class, ..RoomPolicies::all(Durability::Synced).otherwise };
    let rules = vec![(RoomPattern::new("game"), game)];
    let mut server = server(RoomPolicies { rules, ..RoomPolicies::all(Durability::Synced) });
    server.disk.withheld = Some(class);
    server.join();
    server.rest();
    server.ask(2, Ask::Join { room: "game".into(), from: JoinFrom::Now, echo: false, presence: false, token: None });
    server.rest();
    server.heard.clear();
    server.room = "game";
    server.post(3, Some("k"), "1");
    server.room = "lobby";
    assert_eq!(server.posted("l", "2"), "posted 1", "another class goes on");
    server.heard.clear();
    server.pass(4_000);
    assert!(server.heard.is_empty(), "{:?}", server.heard);
    server.pass(2_000);
    assert_eq!(server.heard, ["log_full Some(\"server\") Some(1000)"]);
    assert!(server.disk.files.values().all(|(header, _)| header.class == Class::SERVER));
}

#[test]
fn on_a_full_disk_what_is_left_of_the_segment_takes_every_post_that_fits_it() {
    const FULL: &str = "log_full Some(\"server\") Some(1000)";
    let mut server = server(RoomPolicies::all(Durability::Synced));
    // The first segment is made, of 255 pages for blocks and a proof.
    server.disk.has_no_space = true;
    server.join();
    server.rest();
    server.ask(2, Ask::Join { room: "hall".into(), from: JoinFrom::Now, echo: false, presence: false, token: None });
    server.rest();
    let large = format!("\"{}\"", "x".repeat(60_000));
    for number in 1..=14 {
        assert_eq!(server.posted(&number.to_string(), &large), format!("posted {number}"));
    }
    // So many that they would be one commit, of which two fit the 44 pages that are left.
    server.heard.clear();
    (10..14).for_each(|request| server.post(request, None, &large));
    server.room = "hall";
    server.post(14, None, "1");
    server.rest();
    server.heard.sort();
    assert_eq!(server.heard, [FULL, FULL, "posted 1", "posted 15", "posted 16"]);
    // Without a place that would be given again: what waits with it goes.
    server.heard.clear();
    server.room = "lobby";
    server.post(20, None, "1");
    server.post(21, None, &large);
    server.post(22, None, "2");
    server.rest();
    server.heard.sort();
    assert_eq!(server.heard, [FULL, "posted 17", "posted 18"]);
    let small =
        (0..20).map(|number| server.posted(&format!("small {number}"), "3")).filter(|told| told != FULL).count();
    assert_eq!((small, server.posted("none", "3")), (13, FULL.to_owned()), "until no block fits");
}

#[test]
fn a_reader_waits_while_the_log_cannot_be_read_and_gets_all_of_it_without_a_gap() {
    let mut server = server(RoomPolicies::all(Durability::Synced));
    server.join();
    for number in 1..=3 {
        server.posted(&number.to_string(), "1");
    }
    let mut server = server.restart(WALL_MS);
    server.disk.fails_reads = true;
    join_after(&mut server, 70, 0);
    server.pass(10_000);
    assert_eq!(server.heard, ["joined 3"], "nothing is told that is not so");
    server.disk.fails_reads = false;
    server.pass(1_000);
    server.rest();
    assert_eq!(server.heard, ["joined 3", "message 1", "message 2", "message 3"]);
}
