//! What a start makes of what it knows of the time before it: a ledger that is lost, old, or of another folder.

use super::*;
use crate::storage::ledger::mark_moved;
use crate::storage::slots::{SLOT_BYTES, Slots, SlotsKind};

const BROKEN: u64 = BREAK_EPOCH + FINDER;

fn all_under(epoch: u64) -> Found {
    expected(COMMITS[1].len(), epoch, epoch)
}

/// The folder's files in another one.
fn copy(log: &Log) -> Log {
    let copy = Log::new();
    for entry in fs::read_dir(&log.folder).unwrap() {
        let path = entry.unwrap().path();
        fs::copy(&path, copy.folder.join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// By which epochs rooms go that have nothing in the log.
fn blank(recovered: &Recovered) -> Blank {
    let epoch_of = |level| recovered.catalogs[0].epoch_of(RoomId(0), level, banter_log::segment::Class::SERVER);
    Blank { synced: epoch_of(Synced), written: epoch_of(Written) }
}

#[test]
fn without_a_ledger_every_room_goes_on_under_a_new_epoch() {
    let log = Log::new();
    fs::remove_file(log.folder.join("ledger")).unwrap();
    assert_eq!(log.found().unwrap(), all_under(BROKEN));
    let ledger = log.ledger();
    assert_eq!(ledger.last.map(|last| (last.run, last.is_closed)), Some((BROKEN, false)));
    let later = log.recover(false, FINDER + 1).unwrap();
    assert_eq!((blank(&later).synced, later.ledger.ledger().levels.epoch), (Epoch(BROKEN), Epoch(BROKEN)));
    assert_eq!(log.read(later), all_under(BROKEN), "and the next start finds nothing new");
}

#[test]
fn a_damaged_ledger_breaks_every_epoch_and_is_kept_aside_under_a_name_of_its_own() {
    let log = Log::new();
    let (whole, before) = (fs::read(log.folder.join("ledger")).unwrap(), log.ledger());
    let mut flipped = whole.clone();
    flipped[30] ^= 1;
    fs::write(log.folder.join("ledger"), &flipped).unwrap();
    assert_eq!(log.ledger(), before, "the other slot says the same");
    flipped[SLOT_BYTES + 30] ^= 1;
    for (count, bytes) in
        [&flipped, &b""[..], b"banter-log 1\n", &whole[..50], &whole[..SLOT_BYTES + 9]].into_iter().enumerate()
    {
        fs::write(log.folder.join("ledger"), bytes).unwrap();
        let start = FINDER + count as u64;
        let recovered = log.recover(false, start).unwrap();
        assert_eq!(log.read(recovered), all_under(BREAK_EPOCH + start));
        let name = if count == 0 { "ledger.damaged".to_owned() } else { format!("ledger.damaged.{}", count + 1) };
        assert_eq!(fs::read(log.folder.join(name)).unwrap(), bytes);
    }
}

#[test]
fn a_ledger_of_a_later_format_refuses_and_is_left_alone() {
    let log = Log::new();
    let later = SlotsKind { magic: *b"BANTERLD", format: 2 };
    Slots::make(&log.folder.join("ledger"), later, |_| vec![1; 200]).unwrap();
    let bytes = fs::read(log.folder.join("ledger")).unwrap();
    for accept in [false, true] {
        let fault = log.recover(accept, FINDER).unwrap_err();
        assert!(matches!(fault, RecoveryFault::Ledger { .. }) && fault.to_string().contains("2"), "{fault}");
        assert_eq!(fs::read(log.folder.join("ledger")).unwrap(), bytes);
    }
}

#[test]
fn a_ledger_that_is_older_than_the_segments_breaks_every_epoch() {
    let log = Log::new();
    let last = Some(LastRun { run: WRITER - 1, is_closed: true, boot: this_boot() });
    LedgerFile::make(&log.folder, Ledger { last, ..ledger() }).unwrap();
    assert_eq!(log.found().unwrap(), all_under(BROKEN));
}

#[test]
fn a_copy_of_a_folder_goes_on_under_new_epochs_and_one_that_was_marked_as_moved_under_its_own_once() {
    let log = Log::new();
    assert_eq!(copy(&log).found().unwrap(), all_under(BROKEN));
    assert_eq!(log.found().unwrap(), whole(), "the original has nothing to do with that");
    let moved = copy(&log);
    assert!(mark_moved(&moved.folder).unwrap());
    let found = moved.recover(false, FINDER + 1).unwrap();
    assert_eq!(moved.read(found), whole());
    let found = moved.recover(false, FINDER + 2).unwrap();
    assert_eq!(moved.read(found), whole(), "it is a folder of its own now");
    let found = copy(&moved).recover(false, FINDER + 3).unwrap();
    assert_eq!(moved.read(found), all_under(BREAK_EPOCH + FINDER + 3), "the mark holds once");
}

#[test]
fn a_power_cut_breaks_written_rooms_and_the_epochs_of_those_without_a_message() {
    let log = Log::new();
    let last = Some(LastRun { run: WRITER, is_closed: false, boot: None });
    LedgerFile::make(&log.folder, Ledger { last, ..ledger() }).unwrap();
    let recovered = log.recover(false, FINDER).unwrap();
    assert_eq!(blank(&recovered), Blank { synced: Epoch(2), written: Epoch(BROKEN) });
    assert_eq!((recovered.run, recovered.ledger.ledger().levels.epoch), (BROKEN, Epoch(2)));
    assert_eq!(log.read(recovered), expected(COMMITS[1].len(), EPOCH, BROKEN));
}

#[test]
fn a_new_log_has_an_epoch_for_rooms_without_a_message_and_keeps_it() {
    let log = Log::new();
    for entry in fs::read_dir(&log.folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for start in [FINDER, FINDER + 1] {
        let recovered = log.recover(false, start).unwrap();
        assert_eq!(blank(&recovered), Blank { synced: Epoch(BROKEN), written: Epoch(BROKEN) });
        assert_eq!(recovered.ledger.ledger().levels.epoch, Epoch(BROKEN));
    }
}

#[test]
fn the_run_lies_above_every_number_wherever_the_folder_shows_it() {
    let highest = 10_000;
    let header = |run| header(3, 5, run);
    let with_message = |run, epoch| {
        let mut made = Made::of(header(run));
        made.commit(Synced, &[Post { room: "other", epoch, body: b"1", ..Post::at(1) }.frame()]);
        made
    };
    let of_header = |log: &Log| fs::write(log.segment(3), file_of(&Made::of(header(highest)))).unwrap();
    let of_walked = |log: &Log| fs::write(log.segment(3), file_of(&with_message(WRITER, highest))).unwrap();
    let of_index = |log: &Log| {
        of_walked(log);
        fs::write(index_path(&log.folder, 3), with_message(WRITER, highest).index().0).unwrap();
    };
    let of_ledger =
        |log: &Log| drop(LedgerFile::make(&log.folder, Ledger { blank: Epoch(highest), ..ledger() }).unwrap());
    for (place, show) in [&of_header as &dyn Fn(&Log), &of_walked, &of_index, &of_ledger].into_iter().enumerate() {
        let log = Log::new();
        show(&log);
        if place != 1 {
            assert_eq!(largest_number(&log.folder), highest, "place {place}, by a start without a log");
        }
        let opening = Opening { folder: &log.folder, cores: 1, levels_hash: LEVELS, accept_corruption: false };
        let mut told = 0;
        let recovered = recover(&opening, &mut |seen| {
            told = seen;
            Ok(seen + 1)
        });
        assert_eq!((told, recovered.unwrap().run), (highest, highest + 1), "place {place}");
    }
}
