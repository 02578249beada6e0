//! The list of erasures: torn, damaged, of another folder, full.

use std::fs;

use tempfile::TempDir;

use super::*;

const HERE: FileIdentity = FileIdentity { inode: 7, born_ns: 9 };
const THERE: FileIdentity = FileIdentity { inode: 8, born_ns: 9 };

fn wanted(room: &str, user: Option<&str>) -> Wanted {
    let user = user.map(|user| UserName::new(user).unwrap());
    Wanted { room: RoomName::new(room).unwrap(), user, first: Sequence(3), last: Sequence(u64::MAX) }
}

fn list() -> (TempDir, ErasureFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = ErasureFile::of(folder.path(), HERE);
    (folder, file)
}

/// A list with an erasure that is done here, one that was begun, and one that nobody knows of.
fn filled() -> (TempDir, ErasureFile) {
    let (folder, file) = list();
    let longest = ("r".repeat(ROOM_BYTES_MAX), "u".repeat(USER_BYTES_MAX));
    assert_eq!(file.ask(&wanted("lobby", None), 5).unwrap(), 1);
    file.bind(1, Sequence(9), 4).unwrap();
    file.end(1, 6).unwrap();
    assert_eq!(file.ask(&wanted(&longest.0, Some(&longest.1)), 6).unwrap(), 2);
    file.bind(2, Sequence(20), 5).unwrap();
    assert_eq!(file.ask(&wanted("hall", None), 7).unwrap(), 3);
    (folder, file)
}

fn pending(list: &List) -> Vec<u64> {
    list.pending().map(|listed| listed.erasure.number).collect()
}

#[test]
fn what_was_asked_bound_and_done_comes_back() {
    let (_folder, file) = filled();
    let read = file.read().unwrap();
    assert_eq!((pending(&read), read.damaged), (vec![2, 3], 0));
    let [done, begun, asked] = [1, 2, 3].map(|number| read.get(number).unwrap());
    assert_eq!((done.done, done.erasure.last, done.at_ms), (Some(6), Sequence(9), 5));
    assert_eq!((begun.done, begun.through_segment, begun.erasure.last), (None, Some(5), Sequence(20)));
    assert_eq!(begun.erasure.user.as_ref().map(|user| user.as_str().len()), Some(USER_BYTES_MAX));
    assert_eq!((asked.through_segment, asked.erasure.last), (None, Sequence(u64::MAX)));
    let (_folder, none) = list();
    assert_eq!((none.read().unwrap().all().count(), none.stamp()), (0, None));
}

#[test]
fn a_list_that_somebody_holds_locked_is_an_error_and_stops_nobody() {
    let (_folder, file) = filled();
    let (held, _) = file.open().unwrap();
    assert_eq!(file.end(2, 1).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(pending(&file.read().unwrap()), [2, 3], "it can be read");
    drop(held);
    file.end(2, 1).unwrap();
}

#[test]
fn in_another_folder_nothing_is_done_and_all_of_it_is_asked_anew() {
    let (folder, _) = filled();
    let list = ErasureFile::of(folder.path(), THERE).read().unwrap();
    assert_eq!(pending(&list), [1, 2, 3]);
    assert!(list.all().all(|listed| listed.through_segment.is_none() && listed.erasure.last == Sequence(u64::MAX)));
}

#[test]
fn every_torn_end_is_cut_and_the_next_is_written_over_it() {
    let (folder, file) = filled();
    let whole = fs::read(file.path()).unwrap();
    for length in 0..=whole.len() {
        fs::write(file.path(), &whole[..length]).unwrap();
        let list = file.read().unwrap();
        let records = length / RECORD_BYTES;
        assert_eq!((list.damaged, list.end), (0, (records * RECORD_BYTES) as u64), "{length}");
        let asked = [0, 3, 5].iter().filter(|&&at| at < records).count();
        assert_eq!(list.all().count(), asked, "{length}");
        if length % 37 == 0 {
            assert_eq!(file.ask(&wanted("next", None), 9).unwrap(), asked as u64 + 1);
            let again = ErasureFile::of(folder.path(), HERE).read().unwrap();
            assert_eq!((again.all().count(), again.damaged), (asked + 1, 0));
        }
    }
}

#[test]
fn every_flipped_bit_loses_its_own_record_and_no_other() {
    let (_folder, file) = filled();
    let whole = fs::read(file.path()).unwrap();
    let records = whole.len() / RECORD_BYTES;
    for bit in 0..whole.len() * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let hit = bit / 8 / RECORD_BYTES;
        let list = List::read(&flipped, HERE);
        let is_last = hit == records - 1;
        assert_eq!(list.damaged, u64::from(!is_last), "bit {bit}");
        let expected: &[u64] = match hit {
            0 => &[2, 3],
            1 | 4 => &[2, 3],
            2 => &[1, 2, 3],
            3 => &[3],
            _ => &[2],
        };
        assert_eq!(pending(&list), expected, "bit {bit}");
    }
}

#[test]
fn above_its_bounds_nothing_more_is_asked_and_what_was_done_makes_room() {
    let (_folder, file) = list();
    let ask = |number| Said::Asked { number, at_ms: 1, wanted: wanted("lobby", None) };
    let all: Vec<u8> = (1..=PENDING_MAX as u64).flat_map(|number| encode(&ask(number))).collect();
    fs::write(file.path(), &all).unwrap();
    assert!(matches!(file.ask(&wanted("lobby", None), 1), Err(AskFault::TooMany)));
    file.end(7, 0).unwrap();
    assert_eq!(file.ask(&wanted("lobby", None), 1).unwrap(), PENDING_MAX as u64 + 1);
    let done = |number| encode(&Said::Done { number, folder: HERE, messages: 0 });
    let full: Vec<u8> = (0..RECORDS_MAX).flat_map(done).collect();
    fs::write(file.path(), full).unwrap();
    assert!(matches!(file.ask(&wanted("lobby", None), 1), Err(AskFault::ListFull)));
}

#[test]
fn two_that_ask_at_once_get_numbers_of_their_own() {
    let (_folder, file) = list();
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| (0..10).for_each(|_| assert!(file.ask(&wanted("lobby", None), 1).is_ok())));
        }
    });
    let list = file.read().unwrap();
    assert_eq!((list.all().count(), list.damaged), (20, 0));
}
