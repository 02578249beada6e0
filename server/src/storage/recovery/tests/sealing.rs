//! Segments without an index: a disk that cannot read them or has no space, and work that is ended in its midst.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use super::super::sealing::{Pace, threads_for};
use super::*;
use crate::storage::files::write_index;

const BROKEN: u64 = BREAK_EPOCH + FINDER;

/// A disk that fails.
#[derive(Default)]
struct Failing {
    /// What it cannot read: a segment, and from where on to where.
    unreadable: Option<(u64, std::ops::Range<u64>)>,
    /// There is no space for an index.
    is_full: bool,
    /// It is the end, behind so many indexes.
    ends_behind: Option<usize>,
    indexes: AtomicUsize,
}

impl Hands for Failing {
    fn read(&self, segment: u64, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let is_hit = self.unreadable.as_ref().is_some_and(|(there, range)| {
            *there == segment && offset < range.end && offset + bytes.len() as u64 > range.start
        });
        if is_hit { Err(io::Error::from_raw_os_error(libc::EIO)) } else { file.read_at(bytes, offset) }
    }

    fn write_index(&self, folder: &Path, segment: u64, bytes: &[u8]) -> io::Result<()> {
        let before = self.indexes.fetch_add(1, Ordering::Relaxed);
        if self.is_full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        if self.ends_behind.is_some_and(|most| before >= most) {
            return Err(io::Error::other("the end"));
        }
        write_index(folder, segment, bytes)
    }
}

fn page(number: u64) -> u64 {
    number * PAGE_BYTES as u64
}

#[test]
fn what_cannot_be_read_is_damage_there_and_accepted_gives_up_only_what_lies_behind() {
    let log = Log::new();
    for commits in 0..4 {
        log.reset();
        let at = page(1 + commits);
        let disk = Failing { unreadable: Some((2, at..at + 512)), ..Failing::default() };
        let fault = log.recover_with(false, FINDER, &disk, &Tally::default()).unwrap_err();
        assert!(matches!(fault, RecoveryFault::Corrupt { offset, .. } if offset == at), "{fault}");
        assert!(fault.to_string().contains("cannot be read") && fault.to_string().contains("--accept-corruption"));
        assert!(!index_path(&log.folder, 2).exists(), "nothing is given up unasked");
        let recovered = log.recover_with(true, FINDER, &disk, &Tally::default()).unwrap();
        assert_eq!(log.read(recovered), expected(commits as usize, BROKEN, BROKEN));
        assert_eq!(fs::read(log.segment(2)).unwrap(), file_of(&segment(2)), "the file stays");
    }
}

#[test]
fn what_cannot_be_read_behind_the_last_block_may_have_been_one() {
    let log = Log::new();
    let disk = Failing { unreadable: Some((2, page(6)..page(7))), ..Failing::default() };
    let fault = log.recover_with(false, FINDER, &disk, &Tally::default()).unwrap_err();
    assert!(matches!(fault, RecoveryFault::Corrupt { offset, .. } if offset == page(5)), "{fault}");
    let recovered = log.recover_with(true, FINDER, &disk, &Tally::default()).unwrap();
    assert_eq!(log.read(recovered), expected(4, BROKEN, BROKEN));
}

#[test]
fn a_header_that_cannot_be_read_refuses_and_its_file_is_put_aside_once_accepted() {
    let log = Log::new();
    let disk = Failing { unreadable: Some((2, 0..512)), ..Failing::default() };
    let fault = log.recover_with(false, FINDER, &disk, &Tally::default()).unwrap_err();
    assert!(matches!(fault, RecoveryFault::Corrupt { offset: 0, .. }), "{fault}");
    let recovered = log.recover_with(true, FINDER, &disk, &Tally::default()).unwrap();
    assert_eq!(log.read(recovered), expected(0, BROKEN, BROKEN));
    assert_eq!(fs::read(log.segment(2).with_extension("log.damaged")).unwrap(), file_of(&segment(2)));
}

/// A disk that fails to read each segment's header so many times, and then does.
struct FailsAtFirst(AtomicUsize, i32);

impl Hands for FailsAtFirst {
    fn read(&self, _segment: u64, file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
        use std::os::unix::fs::FileExt as _;
        let left = self.0.load(Ordering::Relaxed);
        if offset == 0 && left > 0 {
            self.0.store(left - 1, Ordering::Relaxed);
            return Err(io::Error::from_raw_os_error(self.1));
        }
        file.read_at(bytes, offset)
    }
}

#[test]
fn a_header_that_is_read_at_a_later_try_is_no_damage() {
    for (fails, error) in [(3, libc::EIO), (50, libc::EINTR)] {
        let log = Log::new();
        let disk = FailsAtFirst(fails.into(), error);
        let recovered = log.recover_with(false, FINDER, &disk, &Tally::default()).unwrap();
        assert_eq!((disk.0.load(Ordering::Relaxed), log.read(recovered)), (0, whole()));
    }
}

#[test]
fn files_that_are_put_aside_never_replace_each_other() {
    let log = Log::new();
    for (count, bytes) in ["first", "second", "third"].into_iter().enumerate() {
        fs::write(log.segment(9), bytes).unwrap();
        log.recover(true, FINDER + count as u64).unwrap();
    }
    for (name, bytes) in [("", "first"), (".2", "second"), (".3", "third")] {
        let path = log.segment(9).with_extension(format!("log.damaged{name}"));
        assert_eq!(fs::read_to_string(path).unwrap(), bytes);
    }
}

#[test]
fn what_is_no_file_or_cannot_be_opened_is_an_error_of_the_host_and_is_never_waited_for() {
    let log = Log::new();
    fs::create_dir(log.segment(9)).unwrap();
    for accept in [false, true] {
        let fault = log.recover(accept, FINDER).unwrap_err();
        assert!(matches!(fault, RecoveryFault::NoFile { .. }) && fault.to_string().contains("move it away"), "{fault}");
    }
    fs::remove_dir(log.segment(9)).unwrap();
    let mode = rustix::fs::Mode::from_raw_mode(0o600);
    rustix::fs::mknodat(rustix::fs::CWD, log.segment(9), rustix::fs::FileType::Fifo, mode, 0).unwrap();
    assert!(matches!(log.recover(true, FINDER), Err(RecoveryFault::NoFile { .. })));
    fs::remove_file(log.segment(9)).unwrap();
    std::os::unix::fs::symlink("nowhere", log.segment(9)).unwrap();
    let fault = log.recover(true, FINDER).unwrap_err();
    assert!(matches!(fault, RecoveryFault::Disk { doing: "opening", .. }), "{fault}");
}

#[test]
fn what_is_named_much_like_a_segment_is_left_alone() {
    let log = Log::new();
    let path = log.folder.join("segment-00000000000000AB.log");
    fs::write(&path, "x").unwrap();
    assert_eq!(log.found().unwrap(), whole());
    assert_eq!(fs::read(&path).unwrap(), b"x");
}

#[test]
fn with_no_byte_free_a_start_goes_on_without_new_indexes_and_reads_all() {
    let log = Log::new();
    fs::remove_file(index_path(&log.folder, 1)).unwrap();
    let full = Failing { is_full: true, ..Failing::default() };
    for start in [FINDER, FINDER + 1] {
        let recovered = log.recover_with(false, start, &full, &Tally::default()).unwrap();
        assert_eq!((recovered.walked.0, recovered.unwritten.len()), (2, 2), "each start reads them through");
        assert_eq!(log.read(recovered), whole(), "by the indexes in memory");
        assert!(!index_path(&log.folder, 1).exists());
    }
    assert_eq!(log.recover(false, FINDER + 2).unwrap().walked.0, 2);
    let recovered = log.recover(false, FINDER + 3).unwrap();
    assert_eq!(recovered.walked.0, 0, "as soon as there is space");
    assert_eq!(log.read(recovered), whole());
}

/// A log of many small segments of one room, none of which has an index.
fn many(segments: u64) -> Log {
    let log = Log::new();
    for entry in fs::read_dir(&log.folder).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    for id in 1..=segments {
        let mut made = Made::of(header(id, id, WRITER));
        made.commit(Synced, &[frame("lobby", id)]);
        fs::write(log.segment(id), file_of(&made)).unwrap();
    }
    LedgerFile::make(&log.folder, ledger()).unwrap();
    log
}

#[test]
fn how_far_it_is_is_said_every_two_seconds_however_many_segments_come_in_between() {
    let start = Instant::now();
    let mut pace = Pace::new(start);
    let said = (0..100).filter(|&tenth| pace.is_due(start + Duration::from_millis(100 * tenth))).collect::<Vec<_>>();
    assert_eq!(said, [20, 40, 60, 80]);
}

#[test]
fn a_restore_that_is_ended_half_way_goes_on_where_it_was_and_holds_one_index_a_thread() {
    let log = many(200);
    let (ended, tally) = (Failing { ends_behind: Some(100), ..Failing::default() }, Tally::default());
    assert!(matches!(log.recover_with(false, FINDER, &ended, &tally), Err(RecoveryFault::Disk { .. })));
    let sealed = (1..=200).filter(|&id| index_path(&log.folder, id).exists()).count();
    assert_eq!(sealed, 100, "each was written as soon as it was walked");
    let recovered = log.recover_with(false, FINDER, &Disk, &tally).unwrap();
    assert_eq!(recovered.walked.0, 100);
    let held_max = tally.held_max.load(Ordering::Relaxed);
    assert!((1..=threads_for(200)).contains(&held_max), "{held_max}");
    let found = log.read(recovered);
    assert_eq!(found["lobby"], (EPOCH, Ok((1..=200).collect())));
}
