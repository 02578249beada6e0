//! Segments that are rewritten on a disk, and crashes in the midst of it.

use banter_log::index;
use banter_log::scan::Scan;
use banter_protocol::ids::{RoomName, Sequence};
use banter_protocol::native::read_kept;
use tempfile::TempDir;

use super::*;
use crate::log_tool::made::{Made, Post};

const SECRET: &[u8] = b"{\"a\":\"what nobody may read any more\"}";

fn listed(room: &str, first: u64, last: u64) -> Listed {
    let (room, user) = (RoomName::new(room).unwrap(), None);
    let erasure = Erasure { number: 3, room, user, first: Sequence(first), last: Sequence(last) };
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

fn begin(folder: &TempDir) -> Option<Rewriting> {
    Rewriting::begin(folder.path(), 1, &[&listed("lobby", 2, 3).erasure]).unwrap()
}

fn is_in(bytes: &[u8], text: &[u8]) -> bool {
    bytes.windows(text.len()).any(|there| there == text)
}

#[test]
fn what_is_erased_is_gone_from_the_files_and_the_index_is_that_of_the_segment() {
    let folder = sealed();
    let (before, index_before) = files(&folder);
    let rewriting = begin(&folder).unwrap();
    assert_eq!((rewriting.segment(), rewriting.counts.get(&3), rewriting.unread_bytes), (1, Some(&2), 0));
    rewriting.finish().unwrap();
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
    let mut rewriting = begin(&folder).unwrap();
    assert!(!rewriting.step().unwrap());
    drop(rewriting);
    assert_eq!((files(&folder), fs::read_dir(folder.path()).unwrap().count()), (before, 2));
}

#[test]
fn only_segments_that_may_hold_something_of_it_are_concerned() {
    let folder = sealed();
    let concerned = |listed: Listed| !concerning(folder.path(), 1, &[listed]).is_empty();
    assert!(concerned(listed("lobby", 1, 1)) && concerned(listed("lobby", 4, u64::MAX)));
    assert!(!concerned(listed("lobby", 5, 9)) && !concerned(listed("cellar", 1, 9)));
    assert!(!concerned(Listed { through_segment: Some(0), ..listed("lobby", 1, 9) }), "it is younger");
    fs::remove_file(index_path(folder.path(), 1)).unwrap();
    assert!(concerned(listed("cellar", 1, 9)), "nobody knows without an index");
    let gone = Rewriting::begin(folder.path(), 1, &[&listed("cellar", 1, 9).erasure]).unwrap();
    assert!(gone.is_none());
}

#[test]
fn of_a_damaged_segment_the_rest_is_erased_and_the_damage_told() {
    let folder = sealed();
    let (mut segment, index_before) = files(&folder);
    // The block of place 2.
    segment[2 * PAGE_BYTES + 100] ^= 1;
    fs::write(segment_path(folder.path(), 1), &segment).unwrap();
    let rewriting = begin(&folder).unwrap();
    assert_eq!((rewriting.counts.get(&3), rewriting.unread_bytes), (Some(&1), PAGE_BYTES as u64));
    rewriting.finish().unwrap();
    let (now, index_now) = files(&folder);
    assert_eq!(now[2 * PAGE_BYTES..3 * PAGE_BYTES], segment[2 * PAGE_BYTES..3 * PAGE_BYTES]);
    assert_eq!(index_now, index_before, "an index of a part of it would hide the rest");
}
