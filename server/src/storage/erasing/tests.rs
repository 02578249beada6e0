//! Segments that are rewritten on a disk, and crashes in the midst of it.

use banter_log::index;
use banter_log::scan::Scan;
use banter_protocol::ids::{Epoch, RoomName, Sequence};
use banter_protocol::native::read_kept;
use tempfile::TempDir;

use super::super::indexes::read_parts;
use super::*;
use crate::log_tool::made::{Made, Post};

const SECRET: &[u8] = b"{\"a\":\"what nobody may read any more\"}";

fn listed(room: &str, first: u64, last: u64) -> Listed {
    let (room, user) = (RoomName::new(room).unwrap(), None);
    let (first, last, bound) = (Sequence(first), Sequence(last), Bound::UNKNOWN);
    let erasure = Erasure { number: 3, room, user, first, last, bound };
    Listed { erasure, at_ms: 0, through_segment: None, done: None }
}

/// A folder with a sealed segment: "lobby" 1 to 4 with keys, of which 2 and 3 are the secret, and "hall" 1.
fn sealed() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let keys = ["k1", "k2", "k3", "k4"];
    let mut made = Made::new(1);
    for (sequence, key) in (1..).zip(keys) {
        let body = if (2..=3).contains(&sequence) { SECRET } else { b"{\"n\": 1}" };
        made.block(&[Post { key: Some(key), body, ..Post::at(sequence) }]);
    }
    made.block(&[Post { room: "hall", ..Post::at(1) }]);
    fs::write(segment_path(folder.path(), 1), made.file()).unwrap();
    fs::write(index_path(folder.path(), 1), made.index().0).unwrap();
    folder
}

fn files(folder: &TempDir) -> (Vec<u8>, Vec<u8>) {
    (fs::read(segment_path(folder.path(), 1)).unwrap(), fs::read(index_path(folder.path(), 1)).unwrap())
}

/// A rewriting that is to be finished.
fn rewriting(folder: &TempDir, erasure: Erasure) -> Rewriting {
    let mut rewriting = Rewriting::begin(folder.path(), 1, vec![erasure]).unwrap();
    while rewriting.step().unwrap() {}
    rewriting
}

fn begin(folder: &TempDir) -> Option<Rewriting> {
    Some(rewriting(folder, listed("lobby", 2, 3).erasure)).filter(Rewriting::is_needed)
}

fn is_in(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|there| there == text)
}

#[test]
fn what_is_erased_is_gone_from_the_files_and_the_index_is_that_of_the_segment() {
    let folder = sealed();
    let (before, index_before) = files(&folder);
    let rewriting = begin(&folder).unwrap();
    assert_eq!(rewriting.segment(), 1);
    assert_eq!(rewriting.finish().unwrap()[&3], Ended { messages: 2, unread_bytes: 0 });
    let (segment, index_file) = files(&folder);
    assert!(is_in(&before, SECRET) && !is_in(&segment, SECRET) && segment.len() == before.len());
    let mut scan = Scan::new(&segment).unwrap();
    let header = *scan.header();
    let kept: Vec<u64> = scan
        .by_ref()
        .flat_map(|block| {
            block.records().map(|record| read_kept(record.unwrap().frame).unwrap().sequence().0).collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(kept, [1, 2, 3, 4, 1]);
    assert!(index::is_whole(&index_file, &header));
    let (now, was) = [&index_file, &index_before].map(|file| IndexHeader::read(file, &header).unwrap()).into();
    assert_eq!(now, was, "it grows no older, and ends where it did");
    let (_, parts) = read_parts(folder.path(), &header).unwrap();
    let keys: Vec<u32> = parts.iter().map(|part| part.details.keys).collect();
    assert_eq!(keys.iter().sum::<u32>(), 2, "the keys of what is gone are gone");
    assert!(begin(&folder).is_none(), "there is nothing more to erase");
}

#[test]
fn a_crash_behind_any_step_leaves_files_that_are_right_and_the_next_try_ends_the_same() {
    let (whole, plain) = (sealed(), sealed());
    begin(&whole).unwrap().finish().unwrap();
    let (segment, index_file) = files(&whole);
    let (old_segment, old_index) = files(&plain);
    let header = SegmentHeader::read(&segment).unwrap();
    for step in 0..4 {
        let folder = sealed();
        let draft = draft_of(&segment_path(folder.path(), 1));
        match step {
            0 => fs::write(&draft, &segment[..100]).unwrap(),
            1 => fs::write(&draft, &segment).unwrap(),
            2 => {
                fs::write(&draft, &segment).unwrap();
                fs::write(index_path(folder.path(), 1), &index_file).unwrap();
            }
            _ => {
                fs::write(index_path(folder.path(), 1), &index_file).unwrap();
                fs::write(segment_path(folder.path(), 1), &segment).unwrap();
            }
        }
        let (there, index_there) = files(&folder);
        assert_eq!(there == old_segment, step < 3);
        assert_eq!(index_there == old_index, step < 2);
        let (_, parts) = read_parts(folder.path(), &header).unwrap();
        assert_eq!(parts.len(), 2, "the index is right at step {step}");
        if let Some(rewriting) = begin(&folder) {
            rewriting.finish().unwrap();
        }
        assert_eq!(files(&folder), (segment.clone(), index_file.clone()), "step {step}");
        assert!(step == 3 || !draft.exists());
    }
}

#[test]
fn a_rewriting_that_is_given_up_leaves_everything_as_it_was() {
    let folder = sealed();
    let before = files(&folder);
    let rewriting = begin(&folder).unwrap();
    assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 3, "its draft");
    drop(rewriting);
    assert_eq!((files(&folder), fs::read_dir(folder.path()).unwrap().count()), (before, 2));
}

#[test]
fn only_segments_that_may_hold_something_of_it_are_concerned() {
    let folder = sealed();
    let concerned = |listed: Listed| !concerning(folder.path(), 1, [listed].iter()).is_empty();
    assert!(concerned(listed("lobby", 1, 1)) && concerned(listed("lobby", 4, u64::MAX)));
    assert!(!concerned(listed("lobby", 5, 9)) && !concerned(listed("cellar", 1, 9)));
    assert!(!concerned(Listed { through_segment: Some(0), ..listed("lobby", 1, 9) }), "it is younger");
    fs::remove_file(index_path(folder.path(), 1)).unwrap();
    assert!(concerned(listed("cellar", 1, 9)), "nobody knows without an index");
    assert!(!rewriting(&folder, listed("cellar", 1, 9).erasure).is_needed());
}

#[test]
fn of_a_damaged_segment_the_rest_is_erased_and_the_damage_told() {
    let folder = sealed();
    let (mut segment, index_before) = files(&folder);
    // The block of place 2.
    segment[2 * PAGE_BYTES + 100] ^= 1;
    fs::write(segment_path(folder.path(), 1), &segment).unwrap();
    let rewriting = begin(&folder).unwrap();
    assert_eq!(rewriting.finish().unwrap()[&3], Ended { messages: 1, unread_bytes: PAGE_BYTES as u64 });
    let (now, index_now) = files(&folder);
    assert_eq!(now[2 * PAGE_BYTES..3 * PAGE_BYTES], segment[2 * PAGE_BYTES..3 * PAGE_BYTES]);
    let header = SegmentHeader::read(&now).unwrap();
    assert!(index::is_whole(&index_now, &header) && index_now.len() < index_before.len());
    let (_, parts) = read_parts(folder.path(), &header).unwrap();
    let lobby = parts.iter().find(|part| part.room == RoomId::of("lobby")).unwrap();
    assert_eq!((lobby.first, lobby.last), (Sequence(1), Sequence(4)), "an index of a part of it would hide the rest");
    assert_eq!(lobby.details.keys, 2, "no key of what is gone answers a post, also where its block is damaged");
}

#[test]
fn a_damaged_last_block_stays_as_it_is_and_is_told() {
    for has_index in [true, false] {
        let folder = sealed();
        let (mut segment, _) = files(&folder);
        let end = Scan::new(&segment).unwrap().last().unwrap().behind.offset as usize;
        segment[end - PAGE_BYTES + 100] ^= 1;
        fs::write(segment_path(folder.path(), 1), &segment).unwrap();
        if !has_index {
            fs::remove_file(index_path(folder.path(), 1)).unwrap();
        }
        let ended = begin(&folder).unwrap().finish().unwrap()[&3];
        assert!(ended.messages == 2 && ended.unread_bytes > 0, "{ended:?}");
        let now = fs::read(segment_path(folder.path(), 1)).unwrap();
        assert_eq!(now[end - PAGE_BYTES..], segment[end - PAGE_BYTES..], "it is not made to be nothing");
    }
}

#[test]
fn places_that_were_refused_are_not_brought_back_by_the_index_of_a_rewritten_segment() {
    let folder = sealed();
    let (mut made, header) = (Made::new(1), SegmentHeader::read(&files(&folder).0).unwrap());
    for sequence in 1..=3 {
        made.block(&[Post { key: Some("k"), body: if sequence == 2 { SECRET } else { b"1" }, ..Post::at(sequence) }]);
    }
    let (index_before, end) = (made.index().0, made.end_offset());
    // A block that was refused lies whole behind the end, and its place was given again in a later segment.
    made.block(&[Post::at(4)]);
    assert!(made.end_offset() > end);
    fs::write(segment_path(folder.path(), 1), made.file()).unwrap();
    fs::write(index_path(folder.path(), 1), index_before).unwrap();
    begin(&folder).unwrap().finish().unwrap();
    let (index_header, parts) = read_parts(folder.path(), &header).unwrap();
    assert_eq!((index_header.end_offset, parts.len(), parts[0].last), (end, 1, Sequence(3)));
}

#[test]
fn a_segment_that_is_read_wrong_once_is_read_again() {
    let folder = sealed();
    let (right, _) = files(&folder);
    let mut wrong = right.clone();
    wrong[2 * PAGE_BYTES + 100] ^= 1;
    fs::write(segment_path(folder.path(), 1), &wrong).unwrap();
    let mut rewriting = Rewriting::begin(folder.path(), 1, vec![listed("lobby", 2, 3).erasure]).unwrap();
    while !matches!(rewriting.stage, Stage::Rewriting(_)) {
        rewriting.step().unwrap();
    }
    let in_place = File::options().write(true).open(segment_path(folder.path(), 1)).unwrap();
    in_place.write_all_at(&right, 0).unwrap();
    assert_eq!(rewriting.finish().unwrap()[&3], Ended { messages: 2, unread_bytes: 0 });
}

#[test]
fn up_to_where_a_room_goes_is_known_by_the_newest_segment_that_holds_it() {
    let folder = sealed();
    let room = |name: &str| bound_of(folder.path(), &[1, 2, 3], &RoomName::new(name).unwrap()).unwrap();
    let mut later = Made::new(2);
    later.block(&[Post::at(5)]);
    later.block(&[Post::at(6)]);
    // One that is written has no index, and one that was made ahead has nothing in it.
    fs::write(segment_path(folder.path(), 2), later.file()).unwrap();
    let header = SegmentHeader { id: 3, ..SegmentHeader::read(&files(&folder).0).unwrap() };
    fs::write(segment_path(folder.path(), 3), [header.write(), vec![0; 4 * PAGE_BYTES]].concat()).unwrap();
    let lobby = room("lobby").unwrap();
    assert_eq!(
        (lobby.last, room("hall").map(|hall| hall.last), room("cellar")),
        (Sequence(6), Some(Sequence(1)), None)
    );
    assert!(lobby.epoch > Epoch(0) && lobby.newest_ms > 0);
    fs::remove_file(index_path(folder.path(), 1)).unwrap();
    assert_eq!(room("hall").map(|hall| hall.last), Some(Sequence(1)), "also without an index");
}

#[test]
fn files_that_are_written_anew_are_whose_the_old_ones_were() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    let folder = sealed();
    let paths = [segment_path(folder.path(), 1), index_path(folder.path(), 1)];
    let owners = || paths.each_ref().map(|path| fs::metadata(path).map(|found| (found.uid(), found.mode())).unwrap());
    // Only root may give a file away.
    if owners()[0].0 == 0 {
        paths.iter().for_each(|path| chown(path, Some(4_321), Some(4_322)).unwrap());
    }
    let before = owners();
    begin(&folder).unwrap().finish().unwrap();
    assert_eq!(owners(), before);
}
