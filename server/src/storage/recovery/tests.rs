//! What a start makes of a folder that is not as the server left it.

mod damage;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use banter_log::catalog::Catalog;
use banter_log::index::{HEADER_BYTES, PART_BYTES};
use banter_log::journal::{Answer, Ask, Done, Journal, JournalParts};
use banter_log::reading::{LogFile, PageWant};
use banter_log::record::Level::{self, Synced, Written};
use banter_log::segment::SegmentHeader;
use banter_protocol::frame::Frame;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::read_message;
use tempfile::TempDir;

use super::*;
use crate::log_tool::made::{Made, Post};
use crate::storage::ledger::LastRun;

/// The run that wrote the log, and the one that finds it.
const WRITER: u64 = 3;
const FINDER: u64 = 5;
const EPOCH: u64 = 100;
const BREAK_EPOCH: u64 = 900;

type Commit = (Level, &'static [(&'static str, u64)]);
/// The commits of two segments, each a block of one page.
const COMMITS: [&[Commit]; 2] = [
    &[(Synced, &[("lobby", 1), ("lobby", 2)]), (Synced, &[("lobby", 3)]), (Written, &[("game", 1)])],
    &[
        (Synced, &[("lobby", 4)]),
        (Synced, &[("lobby", 5), ("lobby", 6)]),
        (Written, &[("game", 2)]),
        (Written, &[("game", 3)]),
    ],
];

fn body(room: &str, sequence: u64) -> String {
    format!("{{\"{room}\": {sequence}}}")
}

fn frame(room: &str, sequence: u64) -> Vec<u8> {
    Post { room, epoch: EPOCH, body: body(room, sequence).as_bytes(), ..Post::at(sequence) }.frame()
}

fn segment(id: u64) -> Made {
    let mut made = Made::of(SegmentHeader { id, nonce: id * 7_919, core: 0, run: WRITER, made_unix_ms: 5 });
    for (level, posts) in COMMITS[id as usize - 1] {
        made.commit(*level, &posts.iter().map(|&(room, sequence)| frame(room, sequence)).collect::<Vec<_>>());
    }
    made
}

/// What a recovery finds: of each room its epoch, and its sequences as they are read back, or the segment that is lost.
type Found = BTreeMap<&'static str, (u64, Result<Vec<u64>, u64>)>;

/// What there is with so many commits of the second segment, under these epochs of "lobby" and "game".
fn expected(commits: usize, lobby: u64, game: u64) -> Found {
    let kept = COMMITS[0].iter().chain(&COMMITS[1][..commits]).flat_map(|(_, posts)| *posts);
    let of = |name| kept.clone().filter(|(room, _)| *room == name).map(|(_, sequence)| *sequence).collect();
    [("lobby", (lobby, Ok(of("lobby")))), ("game", (game, Ok(of("game"))))].into()
}

fn whole() -> Found {
    expected(COMMITS[1].len(), EPOCH, EPOCH)
}

/// A folder with two segments, the first sealed, the second as a killed server leaves it.
struct Log {
    _temporary: TempDir,
    folder: PathBuf,
    files: Vec<(PathBuf, Vec<u8>)>,
}

impl Log {
    fn new() -> Self {
        let temporary = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
        let folder = temporary.path().join("data/log");
        let last = Some(LastRun { run: WRITER, is_closed: false, boot: this_boot() });
        fs::create_dir_all(&folder).unwrap();
        Ledger { last, ..Ledger::default() }.write(&folder).unwrap();
        let files = vec![
            (segment_path(&folder, 1), segment(1).file()),
            (index_path(&folder, 1), segment(1).index().0),
            (segment_path(&folder, 2), segment(2).file()),
            (folder.join("ledger"), fs::read(folder.join("ledger")).unwrap()),
        ];
        let log = Log { _temporary: temporary, folder, files };
        log.reset();
        log
    }

    /// As it was at first.
    fn reset(&self) {
        for entry in fs::read_dir(&self.folder).unwrap() {
            let path = entry.unwrap().path();
            if !self.files.iter().any(|(kept, _)| *kept == path) {
                fs::remove_file(path).unwrap();
            }
        }
        self.files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }

    fn segment(&self, id: u64) -> PathBuf {
        segment_path(&self.folder, id)
    }

    fn recover(&self, accept_corruption: bool, run: u64) -> Result<Recovered, RecoveryFault> {
        let break_epoch = Epoch(BREAK_EPOCH + run);
        recover(&Opening { folder: &self.folder, cores: 1, run, break_epoch, accept_corruption })
    }

    /// What the next start finds and can read.
    fn found(&self) -> Result<Found, RecoveryFault> {
        self.recover(false, FINDER).map(|recovered| self.read(recovered))
    }

    /// What it finds where the damage is accepted; and that a later start, without that, finds the same.
    fn accepted(&self) -> Found {
        let found = self.read(self.recover(true, FINDER).expect("it starts"));
        let later = self.recover(false, FINDER + 1).expect("once is enough");
        assert_eq!(self.read(later), found);
        found
    }

    fn read(&self, mut recovered: Recovered) -> Found {
        let mut reader = Reader::new(&self.folder, recovered.catalogs.remove(0));
        ["lobby", "game"].into_iter().filter_map(|room| Some((room, reader.room(room)?))).collect()
    }
}

/// Reads the folder as a core does.
struct Reader<'a> {
    folder: &'a Path,
    journal: Journal,
}

impl<'a> Reader<'a> {
    fn new(folder: &'a Path, catalog: Catalog) -> Self {
        let parts = JournalParts {
            run: FINDER,
            segment_bytes: 1 << 20,
            commit_bytes_max: 1 << 16,
            reads_max: 1,
            work_steps_max: 1,
            catalog,
        };
        Reader { folder, journal: Journal::new(parts) }
    }

    /// A room's epoch and sequences. Every message is what was posted.
    fn room(&mut self, name: &str) -> Option<(u64, Result<Vec<u64>, u64>)> {
        let room = self.journal.catalog().room(RoomId::of(name))?;
        let (epoch, first, last) = (room.epoch, room.first(), room.head());
        self.journal.read_page(PageWant {
            room: RoomName::new(name).unwrap(),
            epoch,
            first,
            last,
            messages_max: 1_000,
            bytes_max: 1 << 20,
            newest: false,
            spare: None,
        });
        let page = self.read_to_end();
        let sequences = page.map(|bytes| {
            let sequences: Vec<u64> = messages(&bytes, name, epoch).collect();
            assert_eq!(sequences, (first.0..=last.0).collect::<Vec<_>>(), "all that the catalog promises");
            sequences
        });
        Some((epoch.0, sequences))
    }

    fn read_to_end(&mut self) -> Result<Vec<u8>, u64> {
        let mut done = Vec::new();
        self.journal.begin_reads(&mut done);
        for _ in 0..100 {
            for ask in std::mem::take(self.journal.asks_mut()) {
                let Ask::Read { ticket, segment, file, offset, bytes } = ask else { continue };
                let bytes = self.bytes_of(segment, file, offset as usize, bytes);
                self.journal.handle(Answer::Read { ticket, bytes }, &mut done);
            }
            if let Some(Done::Page { page, .. }) = done.pop() {
                return page.map(|page| page.messages);
            }
        }
        panic!("a read that does not end");
    }

    fn bytes_of(&self, segment: u64, file: LogFile, offset: usize, bytes: usize) -> Option<Vec<u8>> {
        let all = match file {
            LogFile::Segment => fs::read(segment_path(self.folder, segment)),
            LogFile::Index => fs::read(index_path(self.folder, segment)),
        };
        let all = all.ok()?;
        Some(all[offset.min(all.len())..(offset + bytes).min(all.len())].to_vec())
    }
}

fn messages(mut bytes: &[u8], room: &str, epoch: Epoch) -> impl Iterator<Item = u64> {
    std::iter::from_fn(move || {
        let (_, used) = (!bytes.is_empty()).then(|| Frame::read(bytes, u32::MAX).unwrap())?;
        let message = read_message(&bytes[..used]).unwrap();
        bytes = &bytes[used..];
        let Sequence(sequence) = message.sequence;
        assert_eq!((message.room, message.epoch), (room, epoch));
        assert_eq!(message.body.bytes, body(room, sequence).as_bytes(), "never a wrong message");
        Some(sequence)
    })
}

fn is_refused(result: &Result<Found, RecoveryFault>) -> bool {
    matches!(result, Err(RecoveryFault::Corrupt { .. } | RecoveryFault::NoSegment { .. }))
}

#[test]
fn an_index_that_is_missing_stale_foreign_or_cut_is_made_again() {
    let log = Log::new();
    let path = index_path(&log.folder, 1);
    let own = segment(1).index().0;
    let stale = Made::of(SegmentHeader { id: 1, nonce: 5, core: 0, run: 2, made_unix_ms: 5 }).index().0;
    let mut indexes = vec![None, Some(stale), Some(segment(2).index().0), Some(vec![]), Some(vec![7; 5_000])];
    indexes.extend((0..own.len()).step_by(8).map(|length| Some(own[..length].to_vec())));
    for (at, index) in indexes.into_iter().enumerate() {
        log.reset();
        match &index {
            Some(bytes) => fs::write(&path, bytes).unwrap(),
            None => fs::remove_file(&path).unwrap(),
        }
        assert_eq!(log.found().unwrap(), whole(), "index {at}: {:?} bytes", index.map(|index| index.len()));
        assert_eq!(fs::read(&path).unwrap(), own);
    }
}

#[test]
fn an_index_with_more_behind_it_is_as_good_and_one_that_promises_too_much_is_none() {
    let log = Log::new();
    let path = index_path(&log.folder, 1);
    let own = segment(1).index().0;
    fs::write(&path, [&own[..], &[7; 9_000]].concat()).unwrap();
    assert_eq!(log.found().unwrap(), whole());
    for parts in [3, 1 << 20, u32::MAX] {
        log.reset();
        let mut index = own.clone();
        index[12..16].copy_from_slice(&parts.to_le_bytes());
        let sum = crc32c::crc32c(&index[..52]);
        index[52..56].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, index).unwrap();
        assert_eq!(log.found().unwrap(), whole());
        assert_eq!(fs::read(&path).unwrap(), own, "made again");
    }
    assert!(own.len() > HEADER_BYTES + 2 * PART_BYTES);
}

#[test]
fn a_foreign_file_named_like_a_segment_refuses_and_is_put_aside_once_accepted() {
    let log = Log::new();
    let page = segment(1).file()[..PAGE_BYTES].to_vec();
    for bytes in [b"hello".to_vec(), vec![], vec![0; 9_000], page, segment(2).file()] {
        log.reset();
        fs::write(log.segment(9), &bytes).unwrap();
        let refused = log.found();
        assert!(matches!(refused, Err(RecoveryFault::NoSegment { ref path, .. }) if *path == log.segment(9)));
        assert_eq!(fs::read(log.segment(9)).unwrap(), bytes, "and is left alone");
        let all = expected(COMMITS[1].len(), BREAK_EPOCH + FINDER, BREAK_EPOCH + FINDER);
        assert_eq!(log.accepted(), all);
        assert!(!log.segment(9).exists());
        assert_eq!(fs::read(log.segment(9).with_extension("log.damaged")).unwrap(), bytes);
    }
}

#[test]
fn a_later_format_refuses_even_where_damage_is_accepted() {
    let log = Log::new();
    let mut file = segment(2).file();
    file[8] = 2;
    let sum = crc32c::crc32c(&file[..48]);
    file[48..52].copy_from_slice(&sum.to_le_bytes());
    fs::write(log.segment(2), &file).unwrap();
    for accept in [false, true] {
        let refused = log.recover(accept, FINDER);
        let fault = SegmentFault::Version(2);
        assert!(matches!(refused, Err(RecoveryFault::NoSegment { fault: there, .. }) if there == fault));
        assert_eq!(fs::read(log.segment(2)).unwrap(), file);
    }
}

#[test]
fn without_a_ledger_rooms_whose_newest_was_only_written_go_on_under_a_new_epoch() {
    let log = Log::new();
    fs::remove_file(log.folder.join("ledger")).unwrap();
    assert_eq!(log.found().unwrap(), expected(COMMITS[1].len(), EPOCH, BREAK_EPOCH + FINDER));
    let ledger = Ledger::read(&log.folder).unwrap().unwrap();
    assert_eq!(ledger.last.map(|last| (last.run, last.is_closed)), Some((FINDER, false)));
}

#[test]
fn a_damaged_ledger_refuses_and_is_left_alone() {
    let log = Log::new();
    let whole = fs::read(log.folder.join("ledger")).unwrap();
    for bytes in [&whole[..whole.len() - 1], b"", b"\xff\xfe\n", b"banter-log 2\n"] {
        log.reset();
        fs::write(log.folder.join("ledger"), bytes).unwrap();
        for accept in [false, true] {
            assert!(matches!(log.recover(accept, FINDER), Err(RecoveryFault::Disk { .. })));
        }
        assert_eq!(fs::read(log.folder.join("ledger")).unwrap(), bytes);
    }
}

#[test]
fn drafts_are_swept_away_and_a_segment_without_a_message_goes() {
    let log = Log::new();
    for name in ["segment-0000000000000003.log.new", "ledger.new"] {
        fs::write(log.folder.join(name), "half").unwrap();
    }
    let empty = Made::of(SegmentHeader { id: 3, nonce: 5, core: 0, run: WRITER, made_unix_ms: 5 });
    fs::write(log.segment(3), empty.file()).unwrap();
    assert_eq!(log.found().unwrap(), whole());
    let mut left: Vec<_> = fs::read_dir(&log.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let sealed = [1, 2].map(|id| [index_path(&log.folder, id), log.segment(id)]);
    let mut kept: Vec<_> = sealed.as_flattened().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    kept.insert(0, "ledger".into());
    assert_eq!(left, kept);
}
