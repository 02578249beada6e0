//! Rooms of which a part went with another class, or a life with another epoch: what a start says lies before the rest.

use std::ops::RangeInclusive;

use banter_log::catalog::Break;

use super::*;
use crate::storage::indexes::read_parts;

const SHORT: Class = Class { hours: 1, bytes: 0 };
/// What a sound log has that dropped something in the run of [`later`]: its configuration changed at that run's start.
const DROPPED: (u64, u64) = (WRITER + 3, WRITER + 1);

/// What a segment has of the room "lobby".
struct Lobby {
    id: u64,
    class: Class,
    run: u64,
    epoch: u64,
    level: Level,
    places: RangeInclusive<u64>,
}

fn earlier(id: u64, places: RangeInclusive<u64>) -> Lobby {
    Lobby { id, class: Class::SERVER, run: WRITER, epoch: EPOCH, level: Synced, places }
}

fn later(id: u64, places: RangeInclusive<u64>) -> Lobby {
    Lobby { id, class: SHORT, run: WRITER + 1, epoch: EPOCH + 1, level: Synced, places }
}

/// A log of these segments, none of which has an index, under a ledger that says something was dropped and changed.
fn log_of(segments: &[Lobby], (dropped, changed): (u64, u64)) -> Log {
    let log = Log::new();
    for entry in fs::read_dir(&log.folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for &Lobby { id, class, run, epoch, level, ref places } in segments {
        let mut made = Made::of(SegmentHeader { class, ..header(id, id, run) });
        for sequence in places.clone() {
            let body = body("lobby", sequence);
            made.commit(level, &[Post { epoch, body: body.as_bytes(), ..Post::at(sequence) }.frame()]);
        }
        fs::write(log.segment(id), file_of(&made)).unwrap();
    }
    let last = segments.iter().map(|segment| segment.run).max();
    let last = last.map(|run| LastRun { run, is_closed: false, boot: this_boot() });
    let levels = Levels { hash: LEVELS, epoch: Epoch(changed) };
    LedgerFile::make(&log.folder, Ledger { last, blank: Epoch(dropped), dropped: Epoch(dropped), levels, ..ledger() })
        .unwrap();
    log
}

/// The one part of a segment.
fn part(log: &Log, id: u64) -> banter_log::index::Part {
    let page = fs::read(log.segment(id)).unwrap();
    read_parts(&log.folder, &SegmentHeader::read(&page[..PAGE_BYTES]).unwrap()).unwrap().1[0]
}

fn lobby(log: &Log, start: u64) -> (u64, Vec<u64>) {
    let (epoch, read) = log.read(log.recover(false, start).expect("a sound log")).remove("lobby").unwrap();
    (epoch, read.unwrap())
}

#[test]
fn a_start_on_a_log_of_which_one_class_dropped_what_lies_between_goes_on_and_leads_over_no_hole() {
    // 4 to 6 were in segment 2, which went with its class; then a kill, or a restore: all is walked.
    let also_back = Lobby { class: Class::SERVER, run: WRITER + 2, ..later(5, 7..=9) };
    for second in [later(5, 7..=9), also_back] {
        let log = log_of(&[earlier(1, 1..=3), second], (WRITER + 4, WRITER + 1));
        for start in [FINDER, FINDER + 1] {
            assert_eq!(lobby(&log, start), (EPOCH + 1, vec![7, 8, 9]));
            assert_eq!(part(&log, 5).chain.before, 0);
        }
    }
    let lost = log_of(&[earlier(1, 1..=3), later(5, 7..=9)], (2, 2));
    assert!(is_refused(&lost.found()) && is_refused(&lost.found()), "where nothing was dropped it was lost");
}

#[test]
fn a_room_that_began_anew_shows_nothing_of_its_life_before() {
    // Its segment 4 had 1 to 3 of the new life, and went.
    let log = log_of(&[earlier(1, 1..=9), later(5, 4..=6)], DROPPED);
    for start in [FINDER, FINDER + 1] {
        assert_eq!(lobby(&log, start), (EPOCH + 1, vec![4, 5, 6]));
        assert_eq!((part(&log, 1).last, part(&log, 5).chain.before), (Sequence(9), 0), "the old one stays as it is");
    }
    let goes_on = log_of(&[earlier(1, 1..=3), later(5, 4..=6)], DROPPED);
    assert_eq!(lobby(&goes_on, FINDER), (EPOCH + 1, vec![1, 2, 3, 4, 5, 6]), "a new epoch alone is no new life");
}

#[test]
fn places_that_were_refused_and_given_again_end_the_part_before_and_never_below_its_first() {
    let again = |id, places| Lobby { id, ..earlier(id, places) };
    let log = log_of(&[earlier(1, 1..=3), again(2, 4..=6), again(3, 6..=8)], DROPPED);
    assert_eq!(lobby(&log, FINDER), (EPOCH, (1..=8).collect()));
    assert_eq!([1, 2, 3].map(|id| part(&log, id).last.0), [3, 5, 8]);
    // All of a part and some of the one before it, too.
    let log = log_of(&[again(2, 4..=6), again(3, 2..=8)], DROPPED);
    assert_eq!(lobby(&log, FINDER), (EPOCH, (2..=8).collect()));
    assert_eq!((part(&log, 2).first, part(&log, 2).last), (Sequence(4), Sequence(3)));
    [log.segment(3), index_path(&log.folder, 3)].iter().for_each(|path| fs::remove_file(path).unwrap());
    let room = log.recover(false, FINDER + 1).unwrap().catalogs[0].room(RoomId::of("lobby")).unwrap();
    assert_eq!((room.first, room.head), (Sequence(4), Sequence(3)));
}

#[test]
fn a_room_goes_on_before_what_a_power_cut_left_also_where_the_ledger_and_the_index_that_said_so_are_lost() {
    // The cut took 4 to 6 from what the writer wrote. The next start left out 7 to 9, and gave their places again.
    let cut = |id, places| Lobby { level: Written, ..earlier(id, places) };
    let segments = [cut(1, 1..=3), cut(2, 7..=8), cut(3, 9..=9), Lobby { class: Class::SERVER, ..later(4, 4..=10) }];
    let log = log_of(&segments, (0, 0));
    // A later one found no ledger: it knows of no cut, and every hole may have been given up.
    let all_break = Some(Break { run: WRITER + 1, epoch: Epoch(EPOCH + 2), every_level: true });
    let last = Some(LastRun { run: WRITER + 2, is_closed: false, boot: this_boot() });
    LedgerFile::make(&log.folder, Ledger { last, all_break, ..ledger() }).unwrap();
    let lost: [&[u64]; 5] = [&[], &[2], &[3], &[2, 3], &[2, 3, 4]];
    for (start, lost) in (FINDER..).zip(lost) {
        lost.iter().for_each(|&id| fs::remove_file(index_path(&log.folder, id)).unwrap());
        assert_eq!(lobby(&log, start), (EPOCH + 2, (1..=10).collect()), "without the indexes of {lost:?}");
        assert_eq!([1, 2, 3, 4].map(|id| part(&log, id).last.0), [3, 6, 8, 10], "nothing of 2 and 3 counts");
        assert_eq!(part(&log, 4).chain.before, 1);
    }
}

#[test]
fn the_newest_segment_of_a_run_that_ended_in_order_is_missed() {
    for is_lost in [false, true] {
        let log = log_of(&[earlier(1, 1..=3), earlier(2, 4..=6)], (0, 0));
        let last = Some(LastRun { run: WRITER, is_closed: true, boot: None });
        let levels = Levels { hash: LEVELS, epoch: Epoch(0) };
        LedgerFile::make(&log.folder, Ledger { last, newest_segment: 2, levels, ..ledger() }).unwrap();
        if is_lost {
            fs::remove_file(log.segment(2)).unwrap();
            assert!(log.recover(false, FINDER).is_err_and(|fault| fault.to_string().contains("it is gone")));
            let (epoch, read) = log.read(log.recover(true, FINDER).expect("accepted")).remove("lobby").unwrap();
            assert_eq!((epoch, read.unwrap()), (BREAK_EPOCH + FINDER, vec![1, 2, 3]));
            assert!(log.recover(false, FINDER + 1).is_ok(), "it is missed once");
        } else {
            assert_eq!(lobby(&log, FINDER), (EPOCH, (1..=6).collect()));
        }
    }
}
