//! The keeper with real files, and cores that are queues.

use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_log::index::Entry;
use banter_log::record::Level;
use banter_log::segment::{file_name, id_of_file};
use banter_protocol::native::read_message;
use rustix::fs::inotify;
use tempfile::TempDir;

use super::super::index_path;
use super::super::ledger::LastRun;
use super::*;
use crate::log_tool::made::{Made, Post};
use crate::mesh::Bell;

const SEGMENT_BYTES: u32 = 32 * 1_024;
const HOUR_MS: u64 = 3_600_000;
const RUN: u64 = 7;
/// Where the blocks of a segment end that a test seals.
const END_OFFSET: u64 = 4_096;

/// A keeper that is called, and not run by a thread: nothing waits for a clock.
struct Rig {
    keeper: Keeper,
    cores: Vec<Receiver<ToCore>>,
    folder: TempDir,
}

/// A sealed segment of that run with two messages, the newest that old, on the disk.
fn sealed(folder: &Path, id: u64, run: u64, age_ms: u64) -> KnownSegment {
    let header = SegmentHeader { id, nonce: id * 7_919, core: 0, run, made_unix_ms: 5 };
    let mut made = Made::of(header);
    made.commit(Level::Synced, &[Post::at(2 * id).frame()]).commit(Level::Synced, &[Post::at(2 * id + 1).frame()]);
    let mut file = made.file();
    file.resize(SEGMENT_BYTES as usize, 0);
    fs::write(segment_path(folder, id), file).unwrap();
    fs::write(index_path(folder, id), made.index().0).unwrap();
    let newest_ms = unix_ms() - age_ms;
    KnownSegment { header, file_bytes: SEGMENT_BYTES.into(), end_offset: made.end_offset(), newest_ms }
}

impl Rig {
    /// With sealed segments of this run of these ages, each needed by two cores.
    fn new(ages_ms: &[u64], limits: Limits) -> Self {
        Self::of_run(RUN, ages_ms, limits)
    }

    /// The same, of that run.
    fn of_run(run: u64, ages_ms: &[u64], limits: Limits) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (links, cores): (Vec<_>, Vec<_>) = (0..2)
            .map(|_| {
                let (messages, inbox) = flume::unbounded();
                (CoreLink { messages, bell: Bell::new().unwrap() }, inbox)
            })
            .unzip();
        let known = ages_ms.iter().zip(1..).map(|(&age_ms, id)| sealed(folder.path(), id, run, age_ms));
        let last = Some(LastRun { run: RUN, is_closed: false, boot: "boot".to_owned() });
        let keeper = Keeper::new(KeeperParts {
            folder: folder.path().to_owned(),
            limits,
            run: RUN,
            start_ms: unix_ms(),
            cores: links,
            segments: known.map(|known| (known, vec![Core(0), Core(1)])).collect(),
            ledger: Ledger { last, ..Ledger::default() },
            state: Arc::default(),
        });
        Rig { keeper, cores, folder }
    }

    fn said(&self, core: usize) -> Vec<String> {
        self.cores[core].drain().map(|message| format!("{message:?}")).collect()
    }

    fn prepared(&mut self, core: u16) -> SegmentHeader {
        self.keeper.take(ToKeeper::Prepare(Core(core)));
        match self.cores[usize::from(core)].try_recv() {
            Ok(ToCore::LogSegment(header, _)) => header,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, core: u16, segment: u64) {
        self.keeper.take(ToKeeper::Release { core: Core(core), segment });
    }

    /// Says that a core writes no more to a segment; the index is of one message.
    fn seal(&mut self, segment: SegmentHeader) -> Arc<IndexBuilder> {
        let (core, newest_ms, frame) = (Core(segment.core), unix_ms(), Post::at(1).frame());
        let mut index = IndexBuilder::default();
        index.add(&Entry::of(&read_message(&frame).unwrap(), Level::Synced, frame.len()), 4_096);
        let index = Arc::new(index);
        self.keeper.take(ToKeeper::Seal { core, segment, index: index.clone(), newest_ms, end_offset: END_OFFSET });
        index
    }

    /// What a core was told of its indexes: the segment, and how many parts there are.
    fn indexed(&self, core: usize) -> Vec<(u64, usize)> {
        let of = |message| match message {
            ToCore::Log(Answer::Indexed { segment, parts }) => (segment, parts.len()),
            other => panic!("{other:?}"),
        };
        self.cores[core].drain().map(of).collect()
    }

    /// What is due by now, and what is to be tried again.
    fn do_all(&mut self) {
        self.keeper.retry_at = self.keeper.retry_at.map(|_| Instant::now());
        self.keeper.retention_at = Instant::now();
        self.keeper.do_due();
    }

    fn segments(&self) -> Vec<u64> {
        let names = fs::read_dir(self.folder.path()).unwrap().map(|entry| entry.unwrap().file_name());
        let mut ids: Vec<u64> = names.filter_map(|name| id_of_file(name.to_str()?)).collect();
        ids.sort_unstable();
        ids
    }

    fn ledger(&self) -> Ledger {
        Ledger::read(self.folder.path()).unwrap().unwrap()
    }

    /// Which segments the cores were told to forget; every core of it.
    fn cuts(&self) -> Vec<u64> {
        let cuts = |core: usize| -> Vec<u64> {
            let of = |message| match message {
                ToCore::Log(Answer::Cut { segment }) => segment,
                other => panic!("{other:?}"),
            };
            self.cores[core].drain().map(of).collect()
        };
        let first = cuts(0);
        assert_eq!(first, cuts(1));
        first
    }
}

fn limits() -> Limits {
    Limits { log_segment_bytes: SEGMENT_BYTES, log_free_bytes_min: 0, dedupe_window_ms: 60_000, ..Limits::default() }
}

#[test]
fn a_segment_is_made_whole_under_a_new_id_and_nonce() {
    let mut rig = Rig::new(&[0, 0], limits());
    let made = [rig.prepared(0), rig.prepared(1), rig.prepared(0)];
    assert_eq!(made.map(|header| (header.id, header.core, header.run)), [(3, 0, RUN), (4, 1, RUN), (5, 0, RUN)]);
    assert!(made[0].nonce != made[1].nonce && made[1].nonce != made[2].nonce);
    for header in made {
        let bytes = fs::read(segment_path(rig.folder.path(), header.id)).unwrap();
        assert_eq!((bytes.len(), SegmentHeader::read(&bytes[..4_096])), (SEGMENT_BYTES as usize, Ok(header)));
        assert!(bytes[4_096..].iter().all(|&byte| byte == 0));
    }
}

#[test]
fn without_space_the_core_is_told_and_it_is_tried_again() {
    let mut rig = Rig::new(&[], Limits { log_free_bytes_min: 1 << 60, ..limits() });
    rig.keeper.take(ToKeeper::Prepare(Core(1)));
    for _ in 0..3 {
        assert_eq!(rig.said(1), ["Log(NoSpace)"]);
        assert_eq!((rig.keeper.state.is_full.load(Ordering::Relaxed), rig.segments().len()), (1, 0));
        assert!(rig.keeper.patience() <= SPACE_RETRY);
        rig.do_all();
    }
    rig.said(1);
    rig.keeper.limits.log_free_bytes_min = 0;
    rig.do_all();
    assert!(rig.said(1)[0].starts_with("LogSegment("));
    assert_eq!((rig.keeper.state.is_full.load(Ordering::Relaxed), rig.segments()), (0, vec![1]));
    rig.do_all();
    assert!(rig.said(1).is_empty() && rig.said(0).is_empty(), "one ask is one segment");
}

#[test]
fn an_index_is_written_and_told_and_tried_again_until_it_can_be() {
    let mut rig = Rig::new(&[], limits());
    let header = rig.prepared(0);
    let path = index_path(rig.folder.path(), header.id);
    fs::create_dir_all(path.join("in the way")).unwrap();
    let index = rig.seal(header);
    rig.do_all();
    assert!(rig.said(0).is_empty() && rig.keeper.retry_at.is_some());
    fs::remove_dir_all(&path).unwrap();
    rig.do_all();
    assert_eq!((rig.indexed(0), fs::read(&path).unwrap()), (vec![(header.id, 1)], index.encode(&header, END_OFFSET).0));
    assert!(rig.keeper.unsealed.is_empty() && rig.keeper.retry_at.is_none());
    assert_eq!(Arc::strong_count(&index), 1, "the keeper keeps none of it");
}

#[test]
fn a_core_is_told_of_an_index_too_whose_segment_went_before_it_was_written() {
    let mut rig = Rig::new(&[], limits());
    let (first, second) = (rig.prepared(0), rig.prepared(0));
    fs::create_dir_all(index_path(rig.folder.path(), first.id).join("in the way")).unwrap();
    rig.seal(first);
    rig.release(0, first.id);
    assert_eq!((rig.indexed(0), rig.segments()), (vec![(first.id, 0)], vec![second.id]));
    rig.seal(first);
    assert_eq!(rig.indexed(0), [(first.id, 0)]);
}

#[test]
fn retention_by_bytes_takes_the_oldest_in_order_and_waits_for_every_core() {
    let bytes = u64::from(SEGMENT_BYTES);
    let mut rig = Rig::new(&[HOUR_MS; 5], Limits { retention_bytes: 3 * bytes, ..limits() });
    rig.do_all();
    assert_eq!(rig.cuts(), [1, 2]);
    rig.do_all();
    assert_eq!(rig.cuts(), [0; 0], "told once");
    rig.release(0, 1);
    rig.release(0, 2);
    rig.release(0, 2);
    assert_eq!(rig.segments(), [1, 2, 3, 4, 5]);
    rig.release(1, 2);
    assert_eq!((rig.segments(), rig.ledger().dropped), (vec![1, 3, 4, 5], vec![(2, 2)]));
    assert!(!index_path(rig.folder.path(), 2).exists());
    rig.release(1, 1);
    assert_eq!((rig.segments(), rig.ledger().dropped), (vec![3, 4, 5], vec![]), "nothing is left before them");
}

#[test]
fn retention_by_age_stops_at_the_first_that_is_young() {
    let mut rig =
        Rig::new(&[9 * HOUR_MS, 5 * HOUR_MS, HOUR_MS, 9 * HOUR_MS], Limits { retention_hours: 3, ..limits() });
    rig.do_all();
    assert_eq!(rig.cuts(), [1, 2]);
}

#[test]
fn nothing_within_the_dedupe_window_goes_whatever_the_limits_say() {
    let strict = Limits { retention_bytes: 1, retention_hours: 1, dedupe_window_ms: 5 * HOUR_MS as u32, ..limits() };
    let mut rig = Rig::new(&[9 * HOUR_MS, 4 * HOUR_MS, 9 * HOUR_MS], strict);
    rig.do_all();
    assert_eq!(rig.cuts(), [1], "and what is behind it stays for the order's sake");
}

#[test]
fn what_was_within_the_dedupe_window_when_the_last_run_ended_stays_however_long_ago_that_was() {
    let ages_ms = [9 * HOUR_MS + 61_001, 9 * HOUR_MS + 50_000, 9 * HOUR_MS];
    let limits = Limits { dedupe_window_ms: 50_000, retention_bytes: 1, retention_hours: 1, ..limits() };
    let mut rig = Rig::of_run(RUN - 1, &ages_ms, limits);
    rig.do_all();
    assert_eq!(rig.cuts(), [1]);
}

#[test]
fn a_segment_that_is_written_counts_and_stays() {
    let mut rig = Rig::new(&[HOUR_MS, HOUR_MS], Limits { retention_bytes: 1, ..limits() });
    let header = rig.prepared(0);
    rig.do_all();
    assert_eq!(rig.cuts(), [1, 2]);
    rig.release(0, header.id);
    assert_eq!(rig.segments(), [1, 2, 3], "released, and not sealed");
    rig.seal(header);
    rig.release(0, header.id);
    assert_eq!(rig.segments(), [1, 2]);
}

#[test]
fn the_ledger_says_dropped_before_the_file_is_gone() {
    let mut rig = Rig::new(&[0, 0, 0], limits());
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    inotify::add_watch(&watch, rig.folder.path(), inotify::WatchFlags::MOVED_TO | inotify::WatchFlags::DELETE).unwrap();
    rig.release(0, 2);
    rig.release(1, 2);
    let mut buffer = [MaybeUninit::uninit(); 4_096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = events.next() {
        names.push(event.file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(names, ["ledger".to_owned(), banter_log::index::file_name(2), file_name(2)]);
    assert_eq!(rig.ledger().dropped, [(2, 2)]);
}

fn scrub_a_round(rig: &mut Rig) {
    let mut steps = 0;
    rig.keeper.state.scrub_finished_s.store(0, Ordering::Relaxed);
    while rig.keeper.state.scrub_finished_s.load(Ordering::Relaxed) == 0 {
        rig.keeper.scrub_step();
        steps += 1;
        assert!(steps < 100, "a round ends");
    }
}

#[test]
fn the_scrubber_makes_an_index_again_that_is_missing_or_has_a_flipped_bit() {
    let mut rig = Rig::new(&[0, 0], limits());
    let path = index_path(rig.folder.path(), 2);
    let whole = fs::read(&path).unwrap();
    for at in 0..=whole.len() {
        let mut damaged = whole.clone();
        match damaged.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => damaged.clear(),
        }
        fs::write(&path, &damaged).unwrap();
        rig.keeper.scrub_index(2);
        // Nobody reads what is reserved in the header.
        assert!(fs::read(&path).unwrap() == if (56..64).contains(&at) { damaged } else { whole.clone() }, "byte {at}");
    }
    fs::remove_file(&path).unwrap();
    scrub_a_round(&mut rig);
    assert!(fs::read(&path).unwrap() == whole && rig.keeper.state.scrub_faults.load(Ordering::Relaxed) == 0);
}

#[test]
fn the_scrubber_finds_a_flipped_bit_and_goes_on() {
    for (offset, faults) in [(0, 0), (4_096 + 70, 1), (2 * 4_096 + 5, 1), (12, 1), (5 * 4_096, 0), (4_096 + 4_000, 0)] {
        let mut rig = Rig::new(&[0, 0, 0], limits());
        if offset != 0 {
            let file = fs::File::options().read(true).write(true).open(segment_path(rig.folder.path(), 2)).unwrap();
            let mut byte = [0];
            file.read_exact_at(&mut byte, offset).unwrap();
            file.write_all_at(&[byte[0] ^ 1], offset).unwrap();
        }
        scrub_a_round(&mut rig);
        assert_eq!(rig.keeper.state.scrub_faults.load(Ordering::Relaxed), faults, "byte {offset}");
        rig.do_all();
        assert!(rig.segments() == [1, 2, 3] && rig.keeper.patience() > SCRUB_PAUSE, "the file is kept");
    }
}

#[test]
fn a_whole_stop_closes_the_ledger_and_takes_unused_segments_and_another_leaves_them() {
    for is_whole in [true, false] {
        let Rig { mut keeper, cores, folder } = Rig::new(&[0], limits());
        keeper.ledger.last = Some(LastRun { run: RUN, is_closed: false, boot: "boot".to_owned() });
        let (tell, inbox) = flume::unbounded();
        let thread = std::thread::spawn(move || keeper.run(&inbox));
        tell.send(ToKeeper::Prepare(Core(0))).unwrap();
        let made = cores[0].recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(made, ToCore::LogSegment(header, _) if header.id == 2));
        tell.send(ToKeeper::Stop { is_whole }).unwrap();
        thread.join().unwrap();
        assert_eq!(segment_path(folder.path(), 2).exists(), !is_whole);
        assert!(segment_path(folder.path(), 1).exists());
        let last = Ledger::read(folder.path()).unwrap().unwrap().last.unwrap();
        assert_eq!((last.run, last.is_closed), (RUN, is_whole));
    }
}
