//! The list of erasures: torn, damaged, of another folder, full.

use std::fs;

use banter_protocol::ids::Epoch;
use tempfile::TempDir;

use super::*;

const HERE: FileIdentity = FileIdentity { inode: 7, born_ns: 9 };
const THERE: FileIdentity = FileIdentity { inode: 8, born_ns: 9 };

fn wanted(room: &str, user: Option<&str>) -> Wanted {
    let user = user.map(|user| UserName::new(user).unwrap());
    let (first, last, bound) = (Sequence(3), Sequence(u64::MAX), Bound::UNKNOWN);
    Wanted { room: RoomName::new(room).unwrap(), user, first, last, bound }
}

fn list() -> (TempDir, ErasureFile) {
    let folder = tempfile::tempdir().unwrap();
    let file = ErasureFile::of(folder.path(), HERE);
    (folder, file)
}

fn binding(number: u64, last: u64, through_segment: u64) -> Binding {
    let bound = Bound { epoch: Epoch(40), last: Sequence(last), newest_ms: 1_000 + last };
    Binding { number, bound, through_segment }
}

fn ended(messages: u64) -> Ended {
    Ended { messages, unread_bytes: 7 }
}

/// A list with an erasure that is done here, one that was begun, and one that nobody knows of.
fn filled() -> (TempDir, ErasureFile) {
    let (folder, file) = list();
    let longest = ("r".repeat(ROOM_BYTES_MAX), "u".repeat(USER_BYTES_MAX));
    assert_eq!(file.ask(&wanted("lobby", None), 5).unwrap(), 1);
    file.bind(&[binding(1, 9, 4)]).unwrap();
    file.end(&[(1, ended(6))]).unwrap();
    assert_eq!(file.ask(&wanted(&longest.0, Some(&longest.1)), 6).unwrap(), 2);
    file.bind(&[binding(2, 20, 5)]).unwrap();
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
    assert_eq!((done.done, done.erasure.end(), done.at_ms), (Some(ended(6)), Sequence(9), 5));
    assert_eq!((begun.done, begun.through_segment, begun.erasure.bound), (None, Some(5), binding(2, 20, 5).bound));
    assert_eq!(begun.erasure.user.as_ref().map(|user| user.as_str().len()), Some(USER_BYTES_MAX));
    assert_eq!((asked.through_segment, asked.erasure.bound), (None, Bound::UNKNOWN));
    let (_folder, none) = list();
    assert_eq!((none.read().unwrap().all().count(), none.path().exists()), (0, false));
}

#[test]
fn a_list_that_somebody_holds_locked_is_an_error_and_stops_nobody() {
    let (_folder, file) = filled();
    let (held, _) = file.open(LOCK_WAIT_MAX).unwrap();
    assert_eq!(file.end(&[(2, ended(1))]).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    assert_eq!(pending(&file.read().unwrap()), [2, 3], "it can be read");
    drop(held);
    file.end(&[(2, ended(1))]).unwrap();
}

#[test]
fn in_another_folder_nothing_is_done_and_it_reaches_no_further_than_it_did_in_any() {
    let (folder, _) = filled();
    let other = ErasureFile::of(folder.path(), THERE);
    let list = other.read().unwrap();
    assert_eq!(pending(&list), [1, 2, 3]);
    assert!(list.all().all(|listed| listed.through_segment.is_none()));
    let bounds = || other.read().unwrap().all().map(|listed| listed.erasure.bound).collect::<Vec<_>>();
    assert_eq!(bounds(), [binding(1, 9, 0).bound, binding(2, 20, 0).bound, Bound::UNKNOWN]);
    // What was posted on the copy is in no danger in a copy of that.
    other.bind(&[binding(1, 11, 2), binding(2, 4, 2)]).unwrap();
    assert_eq!(bounds()[..2], [binding(1, 9, 0).bound, binding(2, 4, 0).bound]);
    assert_eq!(other.read().unwrap().get(2).unwrap().through_segment, Some(2));
}

#[test]
fn every_torn_end_is_cut_and_the_next_is_written_over_it() {
    let (folder, file) = filled();
    let whole = fs::read(file.path()).unwrap();
    let written = file.read().unwrap().end as usize;
    assert_eq!(written, 6 * RECORD_BYTES);
    for length in 0..=whole.len() {
        fs::write(file.path(), &whole[..length]).unwrap();
        let list = ErasureFile::of(folder.path(), HERE).read().unwrap();
        let records = (length / RECORD_BYTES).min(6);
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
fn every_flipped_bit_loses_its_own_record_is_said_and_nothing_is_written_over_it() {
    let (folder, file) = filled();
    let whole = fs::read(file.path()).unwrap();
    for bit in 0..6 * RECORD_BYTES * 8 {
        let mut flipped = whole.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let hit = bit / 8 / RECORD_BYTES;
        let list = List::read(&flipped, HERE);
        assert_eq!((list.damaged, list.end), (1, 6 * RECORD_BYTES as u64), "bit {bit}");
        let expected: &[u64] = match hit {
            0 => &[2, 3],
            1 | 4 => &[2, 3],
            2 => &[1, 2, 3],
            3 => &[3],
            _ => &[2],
        };
        assert_eq!(pending(&list), expected, "bit {bit}");
        if bit % 997 == 0 {
            fs::write(file.path(), &flipped).unwrap();
            let file = ErasureFile::of(folder.path(), HERE);
            let number = file.ask(&wanted("next", None), 9).unwrap();
            assert!(number > 3, "a damaged record may have had the next one: {number}");
            let again = ErasureFile::of(folder.path(), HERE).read().unwrap();
            assert_eq!((again.damaged, again.get(number).is_some()), (1, true));
        }
    }
}

#[test]
fn a_page_of_zeros_ahead_of_records_is_damage() {
    let (_folder, file) = filled();
    let mut whole = fs::read(file.path()).unwrap();
    whole[RECORD_BYTES..3 * RECORD_BYTES].fill(0);
    let list = List::read(&whole, HERE);
    assert_eq!((list.damaged, list.end), (2, 6 * RECORD_BYTES as u64));
}

#[test]
fn what_is_accepted_needs_no_more_space_until_it_is_done() {
    let (_folder, file) = list();
    for round in 1..=3_u64 {
        let numbers: Vec<u64> = (0..3).map(|_| file.ask(&wanted("lobby", None), 1).unwrap()).collect();
        let bytes = file.path().metadata().unwrap().len();
        let bindings: Vec<Binding> = numbers.iter().map(|&number| binding(number, 5, 6)).collect();
        file.bind(&bindings).unwrap();
        numbers.iter().for_each(|&number| file.end(&[(number, ended(0))]).unwrap());
        assert_eq!(file.path().metadata().unwrap().len(), bytes, "round {round}");
        assert!(pending(&file.read().unwrap()).is_empty());
    }
}

#[test]
fn each_ask_makes_the_list_longer_and_is_seen_by_who_has_read_it() {
    let (folder, file) = list();
    let tool = ErasureFile::of(folder.path(), HERE);
    for asked in 1..=40 {
        tool.ask(&wanted("lobby", None), 1).unwrap();
        assert_eq!(file.read().unwrap().all().count(), asked);
        file.bind(&[binding(asked as u64, 5, 6)]).unwrap();
        assert_eq!(tool.read().unwrap().get(asked as u64).unwrap().through_segment, Some(6));
    }
}

#[test]
fn above_its_bounds_nothing_more_is_asked_and_what_was_done_makes_room() {
    let (folder, file) = list();
    let ask = |number, wanted| Said::Asked { number, at_ms: 1, wanted };
    let all: Vec<u8> =
        (1..=PENDING_MAX as u64).flat_map(|number| encode(&ask(number, wanted("lobby", None)))).collect();
    fs::write(file.path(), &all).unwrap();
    assert!(matches!(file.ask(&wanted("lobby", None), 1), Err(AskFault::TooMany)));
    file.end(&[(7, ended(0))]).unwrap();
    assert_eq!(file.ask(&wanted("lobby", None), 1).unwrap(), PENDING_MAX as u64 + 1);
    // All are done, each of a room of its own: nothing makes it shorter.
    let done = |number| {
        let wanted = wanted(&format!("room {number}"), None);
        encode(&Said::Finished { number, at_ms: 1, wanted, folder: HERE, ended: ended(1) })
    };
    let full: Vec<u8> = (1..=RECORDS_MAX).flat_map(done).collect();
    fs::write(folder.path().join(FILE), full).unwrap();
    assert!(matches!(file.ask(&wanted("lobby", None), 1), Err(AskFault::ListFull)));
}

#[test]
fn a_full_list_becomes_shorter_and_says_the_same() {
    let (folder, file) = list();
    let whole = |user: Option<&str>| Wanted { first: Sequence(1), ..wanted("lobby", user) };
    let bound = |last| binding(0, last, 0).bound;
    let finished = |number, user, last| {
        let wanted = Wanted { bound: bound(last), ..whole(user) };
        vec![
            Said::Asked { number, at_ms: number, wanted },
            Said::Bound { number, folder: HERE, bound: bound(last), through_segment: 3 },
            Said::Done { number, folder: HERE, ended: ended(number) },
        ]
    };
    let records = [
        finished(1, Some("eve"), 5),
        // What eve said since, and another's.
        finished(2, Some("eve"), 9),
        finished(3, Some("bob"), 4),
        finished(4, None, 6),
        vec![Said::Asked { number: 5, at_ms: 5, wanted: whole(None) }],
        vec![Said::Bound { number: 5, folder: HERE, bound: bound(30), through_segment: 8 }],
        // Done elsewhere only.
        vec![Said::Asked { number: 6, at_ms: 6, wanted: whole(Some("ann")) }],
        vec![Said::Done { number: 6, folder: THERE, ended: ended(6) }],
    ];
    let mut bytes: Vec<u8> = records.iter().flatten().flat_map(encode).collect();
    let filler = encode(&Said::Done { number: 1, folder: THERE, ended: ended(0) });
    while bytes.len() < RECORDS_MAX as usize * RECORD_BYTES {
        bytes.extend_from_slice(&filler);
    }
    fs::write(file.path(), &bytes).unwrap();
    let before = file.read().unwrap();
    assert_eq!(file.ask(&wanted("hall", None), 9).unwrap(), 7);
    let after = ErasureFile::of(folder.path(), HERE).read().unwrap();
    assert!(file.path().metadata().unwrap().len() < 16 * RECORD_BYTES as u64);
    let numbers: Vec<u64> = after.all().map(|listed| listed.erasure.number).collect();
    assert_eq!(numbers, [2, 4, 5, 6, 7], "the first is done by the second, the third by the fourth");
    for listed in after.all().take(4) {
        let was = before.get(listed.erasure.number).unwrap();
        assert_eq!((&listed.erasure, listed.at_ms, listed.done), (&was.erasure, was.at_ms, was.done));
    }
    assert_eq!(after.get(5).unwrap().through_segment, Some(8));
    // On a copy all is to be done again.
    assert_eq!(pending(&ErasureFile::of(folder.path(), THERE).read().unwrap()), [2, 4, 5, 6, 7]);
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
