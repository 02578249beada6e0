//! What a start makes of a folder that is not as the server left it.

mod damage;
mod lives;
mod past;
mod sealing;

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use banter_log::PAGE_BYTES;
use banter_log::catalog::Catalog;
use banter_log::catalog::RoomLog;
use banter_log::index::{HEADER_BYTES, PART_BYTES};
use banter_log::journal::{Answer, Ask, Done, Journal, JournalParts};
use banter_log::reading::{FileRange, LogFile, PageRead, PageWant, ReadFault};
use banter_log::record::Level::{self, Synced, Written};
use banter_log::scan::Ending;
use banter_log::segment::Class;
use banter_log::segment::SegmentHeader;
use banter_protocol::frame::Frame;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::read_message;
use tempfile::TempDir;

use super::*;
use crate::log_tool::made::{Made, Post};
use crate::storage::index_path;
use crate::storage::indexes::{Mended, mend_index};
use crate::storage::ledger::{LastRun, Levels};

/// The run that wrote the log.
const WRITER: u64 = 3;
/// The start that finds it: its run's number, and the epoch of what it finds broken, is that much above [`BREAK_EPOCH`].
const FINDER: u64 = 5;
const LEVELS: u64 = 11;
/// Where the sum of a segment's header lies.
const SEGMENT_SUM_AT: usize = 64;
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

/// A segment's file, which says how long it is.
fn file_of(made: &Made) -> Vec<u8> {
    let mut file = made.file();
    let header = SegmentHeader::read(&file[..PAGE_BYTES]).unwrap();
    let honest = SegmentHeader { file_bytes: file.len() as u64, ..header };
    file[..PAGE_BYTES].copy_from_slice(&honest.write());
    file
}

fn header(id: u64, nonce: u64, run: u64) -> SegmentHeader {
    SegmentHeader { id, nonce, core: 0, class: Class::SERVER, run, made_unix_ms: 5, file_bytes: 1 }
}

fn segment(id: u64) -> Made {
    let mut made = Made::of(header(id, id * 7_919, WRITER));
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

/// As the writer left it, on this boot of the machine.
fn ledger() -> Ledger {
    let last = Some(LastRun { run: WRITER, is_closed: false, boot: this_boot() });
    let levels = Levels { hash: LEVELS, epoch: Epoch(2) };
    Ledger { last, blank: Epoch(2), levels, ..Ledger::default() }
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
        fs::create_dir_all(&folder).unwrap();
        let files = vec![
            (segment_path(&folder, 1), file_of(&segment(1))),
            (index_path(&folder, 1), segment(1).index().0),
            (segment_path(&folder, 2), file_of(&segment(2))),
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
        LedgerFile::make(&self.folder, ledger()).unwrap();
    }

    fn ledger(&self) -> Ledger {
        LedgerFile::open(&self.folder).unwrap().ledger()
    }

    fn segment(&self, id: u64) -> PathBuf {
        segment_path(&self.folder, id)
    }

    fn recover(&self, accept_corruption: bool, start: u64) -> Result<Recovered, RecoveryFault> {
        self.recover_with(accept_corruption, start, &Disk, &Tally::default())
    }

    fn recover_with(
        &self,
        accept_corruption: bool,
        start: u64,
        hands: &dyn Hands,
        tally: &Tally,
    ) -> Result<Recovered, RecoveryFault> {
        let opening = Opening { folder: &self.folder, cores: 1, levels_hash: LEVELS, accept_corruption };
        let mut take_run = |seen: u64| Ok((BREAK_EPOCH + start).max(seen + 1));
        recover_with(&opening, &mut take_run, hands, tally)
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
        let mut reader = Reader::new(&self.folder, recovered.catalogs.remove(0), recovered.unwritten);
        ["lobby", "game"].into_iter().filter_map(|room| Some((room, reader.room(room)?))).collect()
    }
}

/// Reads the folder as a core does.
struct Reader<'a> {
    folder: &'a Path,
    journal: Journal,
}

impl<'a> Reader<'a> {
    fn new(folder: &'a Path, catalog: Catalog, indexes: Unwritten) -> Self {
        let parts = JournalParts {
            run: FINDER,
            commit_bytes_max: 1 << 16,
            reads_max: 1,
            work_steps_max: 1,
            cache_bytes_max: 1 << 20,
            catalog,
            indexes,
        };
        Reader { folder, journal: Journal::new(parts) }
    }

    /// A room's epoch and sequences. Every message is what was posted.
    fn room(&mut self, name: &str) -> Option<(u64, Result<Vec<u64>, u64>)> {
        let RoomLog { epoch, first, head, .. } = self.journal.catalog().room(RoomId::of(name))?;
        let (mut sequences, mut next, mut tries) = (Vec::new(), first, 0);
        while next <= head {
            match self.page(name, epoch, next, head) {
                Ok(page) => {
                    sequences.extend(messages(&page.messages, name, epoch));
                    next = page.through.next();
                }
                // An index that is damaged is made again meanwhile.
                Err(ReadFault::Unreadable { .. }) if tries == 0 => tries += 1,
                Err(
                    ReadFault::Unreadable { segment }
                    | ReadFault::Damaged { segment, .. }
                    | ReadFault::StateDamaged { segment },
                ) => {
                    return Some((epoch.0, Err(segment)));
                }
            }
        }
        assert_eq!(sequences, (first.0..=head.0).collect::<Vec<_>>(), "all that the catalog promises");
        Some((epoch.0, Ok(sequences)))
    }

    fn page(&mut self, name: &str, epoch: Epoch, first: Sequence, last: Sequence) -> Result<PageRead, ReadFault> {
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
        let mut done = Vec::new();
        self.journal.begin_reads(&mut done);
        for _ in 0..1_000 {
            for ask in std::mem::take(self.journal.asks_mut()) {
                if let Some(answer) = self.answer(ask) {
                    self.journal.handle(answer, &mut done);
                }
            }
            if let Some(Done::Page { page, .. }) = done.pop() {
                return page;
            }
        }
        panic!("a read that does not end");
    }

    fn answer(&self, ask: Ask) -> Option<Answer> {
        match ask {
            Ask::Read(range) => Some(Answer::Read { range, bytes: self.bytes_of(range) }),
            Ask::MendIndex { segment } => {
                let file = File::open(segment_path(self.folder, segment)).unwrap();
                let mut page = vec![0; PAGE_BYTES];
                file.read_exact_at(&mut page, 0).unwrap();
                let index = index_of(&fs::read(segment_path(self.folder, segment)).unwrap()).unwrap();
                let end = match index.1 {
                    Ending::Clean { offset } | Ending::Torn { offset, .. } | Ending::Corrupt { offset, .. } => offset,
                };
                let mended =
                    mend_index(self.folder, &SegmentHeader::read(&page).unwrap(), end, std::iter::empty()).unwrap();
                Some(match mended {
                    Mended::WasRight(parts) | Mended::MadeAgain(parts) => Answer::Indexed { segment, parts },
                    Mended::Not | Mended::Behind(_) => Answer::NotIndexed { segment, is_damaged: false },
                })
            }
            _ => None,
        }
    }

    fn bytes_of(&self, FileRange { segment, file, offset, bytes }: FileRange) -> Option<Vec<u8>> {
        let all = match file {
            LogFile::Segment => fs::read(segment_path(self.folder, segment)),
            LogFile::Index => fs::read(index_path(self.folder, segment)),
        };
        let (all, start, end) = (all.ok()?, offset as usize, (offset + bytes) as usize);
        Some(all[start.min(all.len())..end.min(all.len())].to_vec())
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
    let stale = Made::of(header(1, 5, 2)).index().0;
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
        let sum = crc32c::crc32c(&index[..HEADER_BYTES - 4]);
        index[HEADER_BYTES - 4..HEADER_BYTES].copy_from_slice(&sum.to_le_bytes());
        fs::write(&path, index).unwrap();
        assert_eq!(log.found().unwrap(), whole());
        assert_eq!(fs::read(&path).unwrap(), own, "made again");
    }
    assert!(own.len() > HEADER_BYTES + 2 * PART_BYTES);
}

#[test]
fn a_foreign_file_named_like_a_segment_refuses_and_is_put_aside_once_accepted() {
    let log = Log::new();
    let page = file_of(&segment(1))[..PAGE_BYTES].to_vec();
    for bytes in [b"hello".to_vec(), vec![], vec![0; 9_000], page, file_of(&segment(2))] {
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
    let mut file = file_of(&segment(2));
    file[8] = 3;
    let sum = crc32c::crc32c(&file[..SEGMENT_SUM_AT]);
    file[SEGMENT_SUM_AT..SEGMENT_SUM_AT + 4].copy_from_slice(&sum.to_le_bytes());
    fs::write(log.segment(2), &file).unwrap();
    for accept in [false, true] {
        let refused = log.recover(accept, FINDER);
        let fault = SegmentFault::Version(3);
        assert!(matches!(refused, Err(RecoveryFault::NoSegment { fault: there, .. }) if there == fault));
        assert_eq!(fs::read(log.segment(2)).unwrap(), file);
    }
}

#[test]
fn drafts_are_swept_away_and_a_segment_without_a_message_goes() {
    let log = Log::new();
    for name in ["segment-0000000000000003.log.new", "ledger.new"] {
        fs::write(log.folder.join(name), "half").unwrap();
    }
    let empty = Made::of(header(3, 5, WRITER));
    fs::write(log.segment(3), file_of(&empty)).unwrap();
    assert_eq!(log.found().unwrap(), whole());
    let mut left: Vec<_> = fs::read_dir(&log.folder).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    left.sort();
    let sealed = [1, 2].map(|id| [index_path(&log.folder, id), log.segment(id)]);
    let mut kept: Vec<_> = sealed.as_flattened().iter().map(|path| path.file_name().unwrap().to_owned()).collect();
    kept.insert(0, "ledger".into());
    assert_eq!(left, kept);
}
