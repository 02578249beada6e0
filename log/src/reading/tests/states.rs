//! The newest state of a room: where it is found, what it costs, and what failed reads and damage make of it.

use banter_protocol::ids::RoomId;

use super::*;
use crate::index::Part;
use crate::journal::{Answer, Done};
use crate::reading::{READ_BYTES_FREE, StateRead};
use crate::rig::Spoil;
use crate::state::STATE_BYTES_MAX;

const PAGE: u64 = PAGE_BYTES as u64;

/// A state of "lobby" at that place, of so many bytes more than it says.
fn state(sequence: u64, body_bytes: usize) -> Post {
    Post { kind: RecordKind::State, body_bytes, ..Post::at(sequence) }
}

fn read(post: Post, segment: u64) -> Result<Option<StateRead>, ReadFault> {
    Ok(Some(StateRead { frame: post.frame_of(post.epoch), segment }))
}

/// "lobby" with posts and states among strangers in one segment, sealed, under another journal, and its newest state.
fn sealed() -> (Rig, Post) {
    let mut rig = Rig::new(1 << 20);
    let stranger = |sequence| Post { room: "hall", ..Post::at(sequence) };
    rig.commit(&[stranger(1), Post::at(1), state(1, 50), Post::at(2)]);
    let newest = state(3, 5_000);
    rig.commit(&[stranger(2), state(2, 60), Post::at(3), newest, Post { room: "hall", ..state(2, 10) }]);
    rig.commit(&[Post::at(4), stranger(3)]);
    (rig.reopened(RUN + 1), newest)
}

#[test]
fn the_newest_state_is_read_of_a_segment_that_is_written_of_one_that_is_sealed_and_of_one_on_the_disk() {
    let mut rig = Rig::new(1 << 20);
    assert_eq!((rig.state_of("lobby"), rig.reads.len()), (Ok(None), 0), "a room that nobody knows");
    rig.commit(&[Post::at(1)]);
    assert_eq!((rig.state_of("lobby"), rig.reads.len()), (Ok(None), 0), "one without a state");
    rig.commit(&[state(1, 10), Post::at(2), state(2, 20)]);
    assert_eq!(rig.state_of("lobby"), read(state(2, 20), 1), "of two in a block");
    rig.commit(&[Post::at(3)]);
    let newest = state(3, 30_000);
    rig.commit(&[newest]);
    rig.writes_indexes = false;
    for stage in ["written", "sealed", "on the disk"] {
        rig.reads.clear();
        assert_eq!(rig.state_of("lobby"), read(newest, 1), "{stage}");
        let is_on_disk = stage == "on the disk";
        assert_eq!(rig.reads.len(), if is_on_disk { 3 } else { 1 }, "{stage}: no more is read than is known");
        match stage {
            "written" => assert!(rig.journal.end() && rig.work()),
            "sealed" => assert!(rig.write_index()),
            _ => assert!(rig.read_bytes(LogFile::Segment) <= 10 * PAGE),
        }
    }
}

#[test]
fn nothing_is_read_behind_what_was_written_and_so_a_later_state_is_not_taken_for_zeros() {
    let journal =
        crate::journal::JournalParts { cache_bytes_max: 1 << 20, ..crate::rig::parts(RUN, Default::default()) };
    let mut rig = Rig::of(journal, 1 << 20);
    rig.work();
    for sequence in 1..=60 {
        let newest = state(sequence, (sequence * 397 % 9_000) as usize);
        rig.commit(&[Post::at(sequence), newest, Post { room: "hall", ..Post::at(sequence) }]);
        let written = rig.files[&1].iter().rposition(|&byte| byte != 0).unwrap() as u64;
        rig.reads.clear();
        assert_eq!(rig.state_of("lobby"), read(newest, 1), "{sequence}");
        assert!(
            rig.reads.iter().all(|range| range.offset + range.bytes <= (written + 1).next_multiple_of(PAGE)),
            "{:?}",
            rig.reads
        );
    }
}

#[test]
fn a_read_that_fails_says_nothing_of_the_state_and_the_next_try_has_it() {
    let (mut rig, newest) = sealed();
    assert_eq!(rig.state_of("lobby"), read(newest, 1));
    let reads = rig.reads.len();
    assert!(reads >= 3, "the index, the state's beginning, and all of it: {reads}");
    for step in 0..reads {
        rig.reads.clear();
        rig.spoiled = [(step, Spoil::Fail)].into();
        assert_eq!(rig.state_of("lobby"), Err(ReadFault::Unreadable { segment: 1 }), "{step}");
        rig.spoiled.clear();
        assert_eq!(rig.state_of("lobby"), read(newest, 1));
    }
}

#[test]
fn a_bit_of_a_state_that_was_read_wrong_once_changes_nothing() {
    let (mut rig, newest) = sealed();
    rig.reads.clear();
    assert_eq!(rig.state_of("lobby"), read(newest, 1));
    let reads = rig.reads.clone();
    for (step, range) in reads.iter().enumerate() {
        for bit in (0..range.bytes as usize * 8).step_by(101) {
            rig.reads.clear();
            rig.spoiled = [(step, Spoil::Flip(bit))].into();
            assert_eq!(rig.state_of("lobby"), read(newest, 1), "read {step}, bit {bit}");
        }
    }
    assert_eq!(rig.mended, [0; 0]);
}

#[test]
fn a_state_that_is_damaged_is_told_as_lost_and_takes_neither_messages_nor_an_older_state_along() {
    let (mut rig, _) = sealed();
    let known = |rig: &Rig| rig.journal.catalog().room(RoomId::of("lobby"));
    let (at, before) = (rig.part(1, "lobby").state_offset as usize, known(&rig));
    let length = crate::record::Record::bytes_of(&rig.files[&1][at..]).unwrap();
    for bit in (at * 8..(at + length) * 8).step_by(13).chain(at * 8..(at + 32) * 8) {
        flip(rig.files.get_mut(&1).unwrap(), bit);
        rig.reads.clear();
        assert_eq!(rig.state_of("lobby"), Err(ReadFault::StateDamaged { segment: 1 }), "bit {bit}");
        assert!(rig.reads.len() < 12 && rig.read_bytes(LogFile::Segment) < 64 * PAGE, "{:?}", rig.reads);
        assert_eq!(known(&rig), before);
        flip(rig.files.get_mut(&1).unwrap(), bit);
    }
    assert_eq!(rig.mended, [0; 0]);
}

/// The index of segment 1 as it would be with another line of "lobby".
fn change_line(rig: &mut Rig, change: impl Fn(Part) -> Part) {
    let nonce = rig.header(1).nonce;
    let mut table = Vec::new();
    for part in rig.parts_of(1) {
        let part = if part.room == RoomId::of("lobby") { change(part) } else { part };
        part.write(nonce, &mut table);
    }
    rig.indexes.get_mut(&1).unwrap()[HEADER_BYTES..HEADER_BYTES + table.len()].copy_from_slice(&table);
}

#[test]
fn an_index_that_leads_to_something_else_is_made_again_and_is_never_taken_for_no_state() {
    let (mut rig, newest) = sealed();
    let (own, other) = (rig.part(1, "lobby"), rig.part(1, "hall"));
    let first_message = PAGE as u32 + crate::block::HEADER_BYTES as u32;
    // Another room's record, another room's state, behind the file, and an index without the room.
    let mut wrong: Vec<Box<dyn Fn(Part) -> Part>> = Vec::new();
    for state_offset in [first_message, other.state_offset, 1 << 20, u32::MAX] {
        wrong.push(Box::new(move |part| Part { state_offset, ..part }));
    }
    wrong.push(Box::new(|part| Part { room: RoomId(part.room.0 ^ 1), ..part }));
    for (number, change) in wrong.into_iter().enumerate() {
        rig.mended.clear();
        rig.reads.clear();
        change_line(&mut rig, change);
        assert_eq!(rig.state_of("lobby"), Err(ReadFault::Unreadable { segment: 1 }), "{number}");
        let looks = rig.reads.iter().filter(|range| range.file == LogFile::Index).count();
        assert_eq!((rig.mended.as_slice(), looks), (&[1][..], 2), "{number}: asked once, when it was read twice");
        assert_eq!(rig.state_of("lobby"), read(newest, 1), "{number}");
    }
    // In the midst of a record nothing checks, and nobody knows which of the two files is wrong.
    change_line(&mut rig, |part| Part { state_offset: own.state_offset + 5, ..part });
    assert_eq!(rig.state_of("lobby"), Err(ReadFault::StateDamaged { segment: 1 }));
}

#[test]
fn a_state_whose_segment_and_index_are_both_lost_is_told_as_lost_and_one_that_can_be_mended_is_not() {
    for is_damaged in [false, true] {
        let (mut rig, _) = sealed();
        rig.indexes.remove(&1);
        rig.mends = false;
        rig.answer(Answer::NotIndexed { segment: 1, is_damaged });
        let damaged = ReadFault::StateDamaged { segment: 1 };
        let fault = if is_damaged { damaged } else { ReadFault::Unreadable { segment: 1 } };
        assert_eq!(rig.state_of("lobby"), Err(fault));
        assert_eq!(rig.mended.is_empty(), is_damaged);
    }
}

/// "lobby" in three sealed segments, the newest of which names a state only if so wanted.
fn in_three(is_carried: bool) -> Rig {
    let mut rig = Rig::new(4 * PAGE);
    rig.commit(&[state(0, 10), Post::at(1)]);
    rig.commit(&[Post::at(2)]);
    rig.commit(&[Post::at(3)]);
    rig.commit(&[Post::at(4)]);
    rig.commit(&if is_carried { vec![state(4, 20), Post::at(5)] } else { vec![Post::at(5)] });
    let rig = rig.reopened(RUN + 1);
    assert_eq!(rig.indexes.len(), 3);
    rig
}

#[test]
fn where_the_newest_part_names_no_state_the_ones_before_are_asked_as_far_as_there_are_some() {
    let mut rig = in_three(false);
    assert_eq!(rig.state_of("lobby"), read(state(0, 10), 1));
    let segments: Vec<u64> = rig.reads.iter().map(|range| range.segment).collect();
    assert_eq!(segments, [3, 2, 1, 1]);
    rig.mends = false;
    let whole = rig.indexes.remove(&2).unwrap();
    assert_eq!(rig.state_of("lobby"), Err(ReadFault::Unreadable { segment: 2 }), "and not: none");
    rig.indexes.insert(2, whole);
    rig.cut(1);
    rig.work();
    assert_eq!(rig.state_of("lobby"), Ok(None), "retention took what was not carried");
}

#[test]
fn a_state_whose_segment_is_cut_while_it_is_read_is_what_is_left_of_the_room() {
    for is_carried in [false, true] {
        let (newest, segment) = if is_carried { (state(4, 20), 3) } else { (state(0, 10), 1) };
        for cut in 1..=3_u64 {
            for at in 0..5 {
                for comes in [false, true] {
                    let mut rig = in_three(is_carried);
                    rig.done.clear();
                    rig.journal.read_state(RoomId::of("lobby"));
                    rig.journal.begin_reads(&mut rig.done);
                    let is_over = rig.cut_in_the_midst(at, cut, comes);
                    rig.work();
                    let Some(Done::State { state, .. }) = rig.done.pop() else { panic!("no state") };
                    let expected = if is_over || segment > cut { read(newest, segment) } else { Ok(None) };
                    assert_eq!(state, expected, "carried {is_carried}, cut {cut} behind {at} reads, {comes}");
                    assert_eq!(rig.mended, [0; 0]);
                }
            }
        }
    }
}

#[test]
fn a_state_that_is_all_that_is_left_of_a_room_is_read_and_the_room_keeps_its_head() {
    for is_cut in [false, true] {
        let mut rig = Rig::new(4 * PAGE);
        rig.post(1..=2);
        rig.commit(&[state(2, 20)]);
        if is_cut {
            rig.cut(1);
            rig.work();
            rig.files.remove(&1);
            rig.indexes.remove(&1);
        }
        let check = |rig: &mut Rig| {
            let room = rig.journal.catalog().room(RoomId::of("lobby")).unwrap();
            assert_eq!((room.head, room.first), (Sequence(2), Sequence(if is_cut { 3 } else { 1 })));
            assert_eq!(rig.state_of("lobby"), read(state(2, 20), 2));
            for newest in [false, true] {
                let page = rig.page(PageWant { newest, messages_max: 5, ..want(1, 2) }).unwrap();
                assert_eq!(page.count, if is_cut { 0 } else { 2 }, "{newest}");
                let beyond = rig.page(PageWant { newest, messages_max: 5, ..want(1, 99) }).unwrap();
                assert_eq!((beyond.messages, beyond.through), (page.messages, Sequence(2)), "{newest}");
            }
            assert_eq!((rig.keys(0, 9), rig.mended.len()), (Ok(Vec::new()), 0));
        };
        check(&mut rig);
        let mut later = rig.reopened(RUN + 1);
        check(&mut later);
    }
}

#[test]
fn a_state_is_read_up_to_the_length_that_one_may_have() {
    let beside = crate::record::PREFIX_BYTES + state(1, 0).frame_of(1).len();
    for (longer, is_read) in [(0, true), (16, false)] {
        let mut rig = Rig::new(1 << 20);
        let long = state(1, STATE_BYTES_MAX - beside - 16 + 2 * longer);
        rig.commit(&[Post::at(1), long]);
        let mut rig = rig.reopened(RUN + 1);
        let expected = if is_read { read(long, 1) } else { Err(ReadFault::StateDamaged { segment: 1 }) };
        assert!(rig.state_of("lobby") == expected, "{longer}");
        assert!(rig.read_bytes(LogFile::Segment) <= STATE_BYTES_MAX as u64 + 4 * PAGE);
    }
}

#[test]
fn large_states_beside_few_messages_cost_their_page_nothing() {
    let mut rig = Rig::new(4 << 20);
    for sequence in 1..=20 {
        rig.commit(&[Post::at(sequence), state(sequence, 60_000)]);
    }
    let mut rig = rig.reopened(RUN + 1);
    assert_eq!(rig.pages(want(1, 20)), page(1..=20));
    assert!(rig.read_bytes(LogFile::Segment) <= 20 * 2 * PAGE, "{}", rig.read_bytes(LogFile::Segment));
    rig.reads.clear();
    assert_eq!(rig.page(PageWant { messages_max: 1, ..want(7, 20) }), page(7..=7));
    assert!(rig.read_bytes(LogFile::Segment) < READ_BYTES_FREE / 8);
}
