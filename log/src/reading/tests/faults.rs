//! Reads that fail or return other bytes than were written, and files that were damaged.

use super::*;
use crate::rig::Spoil;

/// "lobby" among strangers, all sealed, under another journal.
fn sealed() -> (Rig, Vec<Post>) {
    let mut rig = Rig::new(64 * 1_024);
    let posts = mixed(&mut rig, 40, 6, 5);
    (rig.reopened(RUN + 1), posts)
}

fn known(rig: &Rig) -> Option<crate::catalog::RoomLog> {
    rig.journal.catalog().room(banter_protocol::ids::RoomId::of("lobby"))
}

fn wants() -> [PageWant; 3] {
    let newest = PageWant { newest: true, messages_max: 9, ..want(1, 40) };
    [want(1, 40), want(23, 30), newest]
}

#[test]
fn a_read_that_fails_takes_nothing_away_and_the_next_try_has_the_page() {
    let (mut rig, _) = sealed();
    for want in wants() {
        rig.reads.clear();
        let whole = rig.page(want.clone()).unwrap();
        let (steps, before) = (rig.reads.len(), known(&rig));
        for step in 0..steps {
            rig.reads.clear();
            rig.spoiled = [(step, Spoil::Fail)].into();
            let read = rig.page(want.clone());
            assert!(matches!(read, Err(ReadFault::Unreadable { .. })), "{step} {read:?}");
            rig.spoiled.clear();
            assert_eq!((known(&rig), rig.page(want.clone())), (before, Ok(whole.clone())));
        }
    }
    rig.reads.clear();
    let keys = rig.keys(0, 99).unwrap();
    for step in 0..rig.reads.len() {
        rig.reads.clear();
        rig.spoiled = [(step, Spoil::Fail)].into();
        assert!(matches!(rig.keys(0, 99), Err(ReadFault::Unreadable { .. })));
        rig.spoiled.clear();
        assert_eq!(rig.keys(0, 99), Ok(keys.clone()));
    }
}

#[test]
fn a_bit_that_was_read_wrong_once_changes_nothing() {
    let (mut rig, _) = sealed();
    for want in wants() {
        rig.reads.clear();
        let whole = rig.page(want.clone()).unwrap();
        let reads = rig.reads.clone();
        for (step, range) in reads.iter().enumerate() {
            for bit in (0..range.bytes as usize * 8).step_by(1_009) {
                rig.reads.clear();
                rig.spoiled = [(step, Spoil::Flip(bit))].into();
                let read = rig.page(want.clone()).unwrap();
                let is_beginning = whole.messages.starts_with(&read.messages) || want.newest;
                assert!(read.count > 0 && is_beginning, "read {step}, bit {bit}");
                assert!(read.count == whole.count || !want.newest && read.through < whole.through);
            }
        }
    }
    assert_eq!(rig.mended, [0; 0]);
}

#[test]
fn two_places_that_were_read_wrong_once_each_are_no_damage() {
    let (mut rig, _) = sealed();
    rig.reads.clear();
    let count = rig.page(want(1, 40)).unwrap().count;
    let segment_reads: Vec<usize> = (0..rig.reads.len()).filter(|&at| rig.reads[at].file == LogFile::Segment).collect();
    for (number, &first) in segment_reads.iter().enumerate() {
        for &second in &segment_reads[number + 1..] {
            rig.reads.clear();
            rig.spoiled = [(first, Spoil::Flip(5_000)), (second + 1, Spoil::Flip(5_000))].into();
            let read = rig.page(want(1, 40));
            assert!(read.as_ref().is_ok_and(|read| (1..=count).contains(&read.count)), "{first} {second} {read:?}");
        }
    }
}

#[test]
fn a_flipped_bit_of_a_segment_is_told_with_the_first_message_behind_it_that_is_there() {
    let (mut rig, posts) = sealed();
    let segments: Vec<u64> = rig.indexes.keys().copied().collect();
    let mut damaged = 0;
    for segment in segments {
        let whole = rig.files[&segment].clone();
        for bit in (PAGE_BYTES * 8..whole.len() * 8).step_by(1_303) {
            flip(rig.files.get_mut(&segment).unwrap(), bit);
            let before = known(&rig);
            match rig.pages(want(1, 40)) {
                Ok(read) => assert!(read.messages == frames_of(&posts), "bit {bit}"),
                Err(ReadFault::Damaged { segment: told, first }) => {
                    damaged += 1;
                    assert_eq!((told, known(&rig)), (segment, before), "a reading removes nothing");
                    assert!(first > Sequence(1));
                    if first <= Sequence(40) {
                        let rest = rig.pages(want(first.0, 40)).unwrap();
                        assert!(rest.messages == frames_of(&posts[first.0 as usize - 1..]), "bit {bit}");
                    }
                }
                other => panic!("bit {bit}: {other:?}"),
            }
            rig.files.insert(segment, whole.clone());
        }
    }
    assert!(damaged > 40, "{damaged}");
    assert_eq!(rig.mended, [0; 0]);
}

#[test]
fn a_flipped_bit_of_an_index_is_mended_once_and_then_all_is_well() {
    let (mut rig, posts) = sealed();
    let keys = rig.keys(0, 99).unwrap();
    let segments: Vec<u64> = rig.indexes.keys().copied().collect();
    let mut mended = 0;
    for segment in segments {
        let whole = rig.indexes[&segment].clone();
        for bit in (0..whole.len() * 8).step_by(37) {
            flip(rig.indexes.get_mut(&segment).unwrap(), bit);
            rig.mended.clear();
            let before = known(&rig);
            match rig.pages(want(1, 40)) {
                Ok(read) => assert!(read.messages == frames_of(&posts), "bit {bit}"),
                Err(fault) => {
                    assert_eq!(fault, ReadFault::Unreadable { segment }, "bit {bit}");
                    assert_eq!((rig.mended.len(), known(&rig)), (1, before), "asked once");
                    assert!(rig.pages(want(1, 40)).unwrap().messages == frames_of(&posts), "bit {bit}");
                    mended += 1;
                }
            }
            match rig.keys(0, 99) {
                Ok(read) => assert_eq!(read, keys, "bit {bit}"),
                Err(fault) => assert_eq!(fault, ReadFault::Unreadable { segment }, "bit {bit}"),
            }
            assert_eq!(rig.keys(0, 99), Ok(keys.clone()));
            rig.indexes.insert(segment, whole.clone());
        }
    }
    assert!(mended > 20, "{mended}");
}

#[test]
fn an_index_that_cannot_be_made_again_is_asked_for_at_each_reading_and_takes_nothing_away() {
    let (mut rig, posts) = sealed();
    let (&segment, whole) = rig.indexes.iter().next().map(|(id, file)| (id, file.clone())).unwrap();
    rig.mends = false;
    rig.indexes.remove(&segment);
    for times in 1..=3 {
        assert_eq!(rig.pages(want(1, 40)), Err(ReadFault::Unreadable { segment }));
        assert_eq!(rig.mended.len(), times, "the one before was answered");
    }
    rig.indexes.insert(segment, whole);
    assert!(rig.pages(want(1, 40)).unwrap().messages == frames_of(&posts));
}

#[test]
fn files_that_end_too_early_are_told_and_not_read_forever() {
    let (mut rig, posts) = sealed();
    let segments: Vec<u64> = rig.indexes.keys().copied().collect();
    for segment in segments {
        let whole = rig.files[&segment].clone();
        for length in (0..whole.len()).step_by(1_111) {
            rig.files.insert(segment, whole[..length].to_vec());
            rig.reads.clear();
            match rig.pages(want(1, 40)) {
                Ok(read) => assert!(read.messages == frames_of(&posts)),
                Err(fault) => assert!(matches!(fault, ReadFault::Damaged { segment: told, .. } if told == segment)),
            }
            assert!(rig.reads.len() < 300, "{}", rig.reads.len());
        }
        rig.files.insert(segment, whole);
    }
}

/// "lobby" in so many parts of a message each.
fn in_parts(parts: u64) -> Rig {
    let mut rig = Rig::new(3 * PAGE_BYTES as u64);
    rig.post(1..=parts);
    let rig = rig.reopened(RUN + 1);
    assert_eq!(rig.indexes.len() as u64, parts);
    rig
}

#[test]
fn what_is_far_before_and_cannot_be_read_hides_nothing_of_what_lies_nearer() {
    for is_damaged in [false, true] {
        let mut rig = in_parts(20);
        rig.indexes.remove(&1);
        rig.mends = false;
        if is_damaged {
            rig.answer(Answer::NotIndexed { segment: 1, is_damaged });
        }
        for first in 2..=20 {
            assert_eq!(rig.pages(want(first, 20)), page(first..=20), "from {first}");
        }
        let fault = ReadFault::Damaged { segment: 1, first: Sequence(2) };
        let fault = if is_damaged { fault } else { ReadFault::Unreadable { segment: 1 } };
        assert_eq!(rig.page(want(1, 20)), Err(fault));
        assert_eq!(rig.mended.is_empty(), is_damaged, "what is lost is not made again");
    }
}

#[test]
fn places_that_no_part_has_are_out_of_reach_and_nobody_waits_for_them() {
    let mut rig = in_parts(20);
    // The index of 11 was made again while that of 10 was lost with its segment.
    let (header, mut part) = (rig.header(11), rig.part(11, "lobby"));
    part.chain.before = 9;
    let mut line = Vec::new();
    part.write(header.nonce, &mut line);
    rig.indexes.get_mut(&11).unwrap()[HEADER_BYTES..HEADER_BYTES + line.len()].copy_from_slice(&line);
    let fault = ReadFault::Damaged { segment: 9, first: Sequence(11) };
    assert_eq!(rig.page(want(10, 20)), Err(fault));
    assert_eq!(rig.page(PageWant { newest: true, ..want(1, 10) }), Err(fault));
    assert_eq!((rig.pages(want(1, 9)), rig.pages(want(11, 20))), (page(1..=9), page(11..=20)));
}
