//! Proofs: blocks without a record, which say of the last one that it was on the disk.

use super::*;
use crate::scan::{Ending, Scan};

/// Whether damage of the last post would be taken for the torn end of a crash.
fn looks_torn(rig: &Rig, segment: u64, at: u64) -> bool {
    let mut file = rig.files[&segment].clone();
    file[at as usize + 100] ^= 1;
    let mut scan = Scan::new(&file).unwrap();
    scan.by_ref().for_each(drop);
    matches!(scan.ending(), Ending::Torn { .. })
}

#[test]
fn behind_a_synced_commit_one_proof_is_enough() {
    let mut rig = Rig::new(1 << 20);
    assert!(!rig.journal.has_unproved());
    rig.post(1..=2);
    assert!(rig.journal.has_unproved() && looks_torn(&rig, 1, 2 * PAGE));
    rig.done.clear();
    rig.journal.prove();
    assert!(rig.journal.is_committing() && !rig.is_idle());
    rig.work();
    assert!(!rig.journal.has_unproved() && !looks_torn(&rig, 1, 2 * PAGE));
    assert_eq!(rig.take_done(), [], "nobody waits for it");
    rig.journal.prove();
    assert_eq!(rig.said(), [""; 0], "nothing is to be proved");
    rig.post(3..=3);
    assert!(rig.journal.has_unproved());
    assert_eq!(rig.page(want(1, 3)).unwrap().messages, frames(1..=3), "a proof is passed over");
}

#[test]
fn behind_commits_that_were_only_written_it_takes_two() {
    let mut rig = Rig::new(1 << 20);
    for sequence in 1..=3 {
        assert!(rig.begin(&[Post::at(sequence)], false));
        rig.work();
    }
    rig.journal.prove();
    rig.work();
    assert!(rig.journal.has_unproved() && looks_torn(&rig, 1, 3 * PAGE), "they were not on the disk before it");
    rig.journal.prove();
    rig.work();
    assert!(!rig.journal.has_unproved() && !looks_torn(&rig, 1, 3 * PAGE));
}

#[test]
fn a_block_leaves_room_for_its_proof_and_none_is_tried_where_it_does_not_fit() {
    let mut rig = Rig::new(TWO_POSTS);
    rig.makes_segments = false;
    for sequence in 1..=2 {
        assert!(rig.begin(&[Post::at(sequence)], false));
        rig.work();
    }
    rig.journal.prove();
    rig.work();
    assert!(!rig.journal.has_unproved(), "not by a further block: the segment is full");
    rig.journal.prove();
    assert_eq!(rig.said(), [""; 0]);
    assert!(!rig.begin_post(3), "and takes no more posts");
}

#[test]
fn one_class_that_is_full_does_not_keep_another_from_its_proof() {
    let other = Class { hours: 1, bytes: 0 };
    let mut rig = Rig::new(TWO_POSTS);
    for sequence in 1..=2 {
        assert!(rig.begin(&[Post::at(sequence)], false));
        rig.work();
    }
    rig.journal.prove();
    rig.work();
    rig.commit_in(other, &[Post { room: "other", ..Post::at(1) }]);
    assert!(rig.journal.has_unproved());
    rig.journal.prove();
    rig.work();
    assert!(!rig.journal.has_unproved());
    let segment = rig.journal.catalog().room(RoomId::of("other")).unwrap().newest_segment;
    assert!(!looks_torn(&rig, segment, PAGE));
}

#[test]
fn a_proof_waits_for_a_commit_in_flight() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=1);
    assert!(rig.begin_post(2));
    rig.asks();
    rig.journal.prove();
    assert_eq!(rig.said(), [""; 0]);
}

#[test]
fn a_proof_that_fails_ends_the_log_and_one_without_space_the_segment() {
    for is_full in [false, true] {
        let mut rig = Rig::new(1 << 20);
        rig.post(1..=2);
        rig.journal.prove();
        rig.asks();
        rig.done.clear();
        rig.answer(Answer::AppendFailed { is_full });
        let (done, state) = (rig.take_done(), rig.state());
        assert_eq!((done.is_empty(), state), (is_full, if is_full { State::Open } else { State::Failed }));
        assert_eq!(rig.asks().len(), usize::from(is_full), "the seal");
        assert_eq!(rig.page(want(1, 2)).unwrap().messages, frames(1..=2));
    }
}

#[test]
fn a_sealed_segment_is_proved_by_its_seal() {
    let mut rig = Rig::new(TWO_POSTS);
    rig.post(1..=3);
    assert!(!looks_torn(&rig, 1, 2 * PAGE));
    assert_eq!(rig.page(want(1, 3)).unwrap().messages, frames(1..=3));
}
