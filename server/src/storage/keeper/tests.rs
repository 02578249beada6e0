//! The keeper with real files, and cores that are queues.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::mem::MaybeUninit;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use banter_chat::address::core_of;
use banter_log::block::Block;
use banter_log::catalog::CutRooms;
use banter_log::index::IndexHeader;
use banter_log::journal::Answer;
use banter_log::record::Level;
use banter_log::scan::{Ending, Scan};
use banter_log::segment::{SegmentHeader, file_name, id_of_file};
use banter_protocol::ids::{Epoch, RoomId};
use flume::Sender;
use rustix::fs::inotify;
use tempfile::TempDir;

use super::super::files::{make_segment, put_index};
use super::super::indexes::{Mended, read_parts};
use super::super::ledger::{BootId, Found, LastRun, Ledger};
use super::super::recovery::index_of;
use super::super::{index_path, segment_path};
use super::*;
use crate::core::mesh::Bell;
use crate::log_tool::made::{Made, Post};

mod checkpointing;
mod classes;
mod erasing;

const SEGMENT_BYTES: u32 = 32 * 1_024;
const HOUR_MS: u64 = 3_600_000;
const RUN: u64 = 7;

/// A keeper that is called, and not run by a thread: nothing waits for a clock.
struct Rig {
    keeper: Keeper,
    cores: Vec<Receiver<ToCore>>,
    /// To its inbox.
    tell: Sender<ToKeeper>,
    folder: TempDir,
}

const HEADER: SegmentHeader = SegmentHeader {
    id: 1,
    nonce: 1,
    core: 0,
    class: Class::SERVER,
    run: RUN,
    made_unix_ms: 5,
    file_bytes: SEGMENT_BYTES as u64,
};

/// The ledger of a folder.
fn ledger(folder: &Path) -> Ledger {
    match LedgerFile::open(folder).unwrap() {
        Found::Whole(file) => file.ledger().clone(),
        other => panic!("{other:?}"),
    }
}

/// A sealed segment of that run with two messages, the newest that old, on the disk; of two cores by turns.
fn sealed(folder: &Path, id: u64, run: u64, age_ms: u64) -> KnownSegment {
    let core = (id % 2) as u16;
    let header = SegmentHeader { id, nonce: id * 7_919, core, run, ..HEADER };
    let mut made = Made::of(header);
    made.commit(Level::Synced, &[Post::at(2 * id).frame()]).commit(Level::Synced, &[Post::at(2 * id + 1).frame()]);
    let mut file = made.file();
    file.resize(SEGMENT_BYTES as usize, 0);
    fs::write(segment_path(folder, id), file).unwrap();
    fs::write(index_path(folder, id), made.index().0).unwrap();
    let newest_ms = unix_ms() - age_ms;
    let (file_bytes, end_offset) = (header.file_bytes, made.end_offset());
    KnownSegment { header, file_bytes, end_offset, newest_ms, is_chained: true, parts: 1 }
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
        let last = Some(LastRun { run: RUN, is_closed: false, boot: Some(BootId(1)) });
        let ledger = Ledger { last, ..Ledger::default() };
        let (tell, inbox) = flume::unbounded();
        let keeper = Keeper::new(KeeperParts {
            folder: folder.path().to_owned(),
            limits,
            classes: 1,
            run: RUN,
            start_ms: unix_ms(),
            cores: links,
            segments: known.collect(),
            unwritten: BTreeMap::new(),
            ledger: LedgerFile::make(folder.path(), ledger).unwrap(),
            inbox,
            state: Arc::default(),
        });
        Rig { keeper, cores, tell, folder }
    }

    fn said(&self, core: usize) -> Vec<String> {
        self.cores[core].drain().map(|message| format!("{message:?}")).collect()
    }

    fn prepared(&mut self, core: u16) -> SegmentHeader {
        self.keeper.take(prepare(core));
        match self.cores[usize::from(core)].try_recv() {
            Ok(ToCore::LogSegment(header, _)) => header,
            other => panic!("{other:?}"),
        }
    }

    fn release(&mut self, core: u16, segment: u64) {
        self.keeper.take(ToKeeper::Release { core: Core(core), segment });
    }

    /// Says that a core writes no more to a segment, which has one message by then.
    fn seal(&mut self, segment: SegmentHeader) -> Arc<IndexBuilder> {
        let mut made = Made::of(segment);
        made.commit(Level::Synced, &[Post::at(1).frame()]);
        self.write_blocks(&made);
        let index = Arc::new(index_of(&made.file()).unwrap().0);
        let (end, newest_ms) = (made.place(), unix_ms());
        self.keeper.take(ToKeeper::Seal { end, is_provable: false, index: index.clone(), newest_ms });
        index
    }

    /// What a core wrote to its segment, if that is still there.
    fn write_blocks(&self, made: &Made) {
        let path = segment_path(self.folder.path(), made.place().segment.id);
        let Ok(file) = fs::File::options().write(true).open(path) else { return };
        // A file that stands for one that cannot be synced takes anything.
        file.write_all_at(&made.file(), 0).unwrap();
    }

    /// What a core was told of its indexes: the segment, and how many parts there are.
    fn indexed(&self, core: usize) -> Vec<(u64, u32)> {
        let of = |message| match message {
            ToCore::Log(Answer::Indexed { segment, parts }) => (segment, parts),
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

    /// Which segments the cores were told to forget; every core of it.
    fn cuts(&self) -> Vec<u64> {
        let cuts = |core: usize| -> Vec<u64> {
            let of = |message| match message {
                ToCore::Log(Answer::Cut { segment, .. }) => segment,
                other => panic!("{other:?}"),
            };
            self.cores[core].drain().map(of).collect()
        };
        let first = cuts(0);
        assert_eq!(first, cuts(1));
        first
    }
}

fn prepare(core: u16) -> ToKeeper {
    ToKeeper::Prepare { core: Core(core), class: Class::SERVER, is_urgent: false }
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
    rig.keeper.take(prepare(1));
    for _ in 0..3 {
        assert!(rig.said(1)[0].starts_with("Log(NoSpace"));
        assert_eq!((rig.keeper.state.is_full.load(Ordering::Relaxed), rig.segments().len()), (1, 0));
        assert!(rig.keeper.patience() <= making::SPACE_RETRY);
        rig.do_all();
    }
    rig.said(1);
    rig.keeper.sizing = Sizing::new(&limits(), 2, 1);
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
    assert_eq!(
        (rig.indexed(0), fs::read(&path).unwrap()),
        (vec![(header.id, 1)], index.encode(&header, 2 * 4_096, true))
    );
    assert!(rig.keeper.sealings.is_empty() && rig.keeper.retry_at.is_none());
    assert_eq!(Arc::strong_count(&index), 1, "the keeper keeps none of it");
}

#[test]
fn a_core_is_told_of_an_index_too_whose_segment_went_before_it_was_written() {
    let mut rig = Rig::new(&[], limits());
    let (first, second) = (rig.prepared(0), rig.prepared(0));
    fs::create_dir_all(index_path(rig.folder.path(), first.id).with_extension("index.new")).unwrap();
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
    rig.release(1, 2);
    assert_eq!(rig.segments(), [1, 2, 3, 4, 5], "the second waits for the first");
    rig.release(1, 1);
    assert_eq!(rig.segments(), [3, 4, 5]);
    assert!([1, 2].iter().all(|&id| !index_path(rig.folder.path(), id).exists()));
}

#[test]
fn no_more_segments_than_a_few_are_cut_at_a_time_and_the_rest_behind_them() {
    let mut rig = Rig::new(&[HOUR_MS; 40], Limits { retention_bytes: u64::from(SEGMENT_BYTES), ..limits() });
    rig.do_all();
    let first: Vec<u64> = (1..=dropping::CUT_SEGMENTS_MAX as u64).collect();
    assert_eq!(rig.cuts(), first);
    let soon = Instant::now() + Duration::from_secs(1);
    assert!(rig.keeper.retention_at < soon, "the rest is not forgotten");
    rig.do_all();
    assert_eq!(rig.cuts(), [0; 0], "not before those are");
    for (segment, core) in [(2, 0), (2, 1), (3, 0)] {
        rig.release(core, segment);
    }
    rig.do_all();
    assert_eq!(rig.cuts(), [first.len() as u64 + 1]);
    for segment in 1..=39 {
        (0..2).for_each(|core| rig.release(core, segment));
        rig.do_all();
    }
    assert_eq!((rig.segments(), rig.keeper.retention_at > soon), (vec![40], true));
}

#[test]
fn a_segment_whose_number_a_file_has_gets_the_next_one() {
    let mut rig = Rig::new(&[0], limits());
    fs::write(segment_path(rig.folder.path(), 2), "whose?").unwrap();
    assert_eq!((rig.prepared(0).id, rig.prepared(1).id), (3, 4));
    assert_eq!(fs::read(segment_path(rig.folder.path(), 2)).unwrap(), b"whose?");
}

#[test]
fn behind_the_end_of_the_cores_no_segment_is_made() {
    let full = Limits { log_free_bytes_min: 1 << 60, ..limits() };
    let mut rig = Rig::new(&[], full);
    rig.keeper.take(prepare(1));
    rig.keeper.sizing = Sizing::new(&limits(), 2, 1);
    rig.keeper.accept(ToKeeper::Stop { is_whole: true });
    rig.keeper.take(prepare(0));
    rig.do_all();
    assert_eq!((rig.segments(), rig.said(0), rig.said(1).len()), (vec![], vec![], 1));
}

#[test]
fn who_wants_a_segment_is_not_kept_waiting_once_a_file_went() {
    let mut rig = Rig::new(&[HOUR_MS; 2], Limits { retention_bytes: SEGMENT_BYTES.into(), ..limits() });
    rig.keeper.sizing = Sizing::new(&Limits { log_free_bytes_min: 1 << 60, ..limits() }, 2, 1);
    rig.keeper.take(prepare(1));
    rig.keeper.cut_old();
    rig.release(0, 1);
    assert!(rig.keeper.retry_at.unwrap() > Instant::now() + making::SPACE_RETRY / 2);
    rig.release(1, 1);
    assert!(rig.keeper.retry_at.unwrap() <= Instant::now());
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
    assert_eq!(rig.segments(), [1, 2, 3], "nor ahead of those before it");
    for (core, segment) in [(0, 1), (1, 1), (0, 2), (1, 2)] {
        rig.release(core, segment);
    }
    assert_eq!(rig.segments(), [0; 0]);
}

#[test]
fn a_core_is_asked_to_leave_a_segment_that_stands_before_others_until_it_does() {
    let mut rig = Rig::new(&[], Limits { retention_bytes: 1, dedupe_window_ms: 0, ..limits() });
    let (first, second) = (rig.prepared(0), rig.prepared(1));
    rig.prepared(1);
    rig.seal(second);
    rig.indexed(1);
    rig.keeper.started_ms -= 1_000;
    for _ in 0..2 {
        rig.do_all();
        let (said, asked) = (rig.said(0), format!("Log(Retire {{ segment: {}, first_ms: {}", first.id, u64::MAX));
        assert!(said.len() == 1 && said[0].starts_with(&asked) && rig.said(1).is_empty(), "{said:?}");
    }
    rig.seal(first);
    rig.indexed(0);
    rig.keeper.started_ms -= 1_000;
    rig.do_all();
    let said = (rig.said(0), rig.said(1));
    for (said, segment) in [(said.0, first.id), (said.1, second.id)] {
        assert!(said.len() == 1 && said[0].starts_with(&format!("Log(Cut {{ segment: {segment},")), "{said:?}");
    }
}

#[test]
fn a_segment_without_a_message_holds_nothing_back_and_waits_for_nobody() {
    let mut rig = Rig::new(&[HOUR_MS], limits());
    let (unused, newer) = (rig.prepared(0), rig.prepared(0));
    let end = BlockPlace::first_of(unused);
    rig.keeper.take(ToKeeper::Seal { end, is_provable: true, index: Arc::default(), newest_ms: 0 });
    rig.release(0, unused.id);
    assert_eq!(rig.segments(), [1, newer.id]);
}

#[test]
fn files_go_one_after_another_and_nothing_is_written_for_it() {
    let mut rig = Rig::new(&[HOUR_MS; 3], Limits { retention_bytes: 1, ..limits() });
    rig.do_all();
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK).unwrap();
    let all = inotify::WatchFlags::CREATE | inotify::WatchFlags::MODIFY | inotify::WatchFlags::DELETE;
    inotify::add_watch(&watch, rig.folder.path(), all).unwrap();
    for (segment, core) in [(2, 0), (2, 1), (1, 0), (1, 1)] {
        rig.release(core, segment);
    }
    let mut buffer = [MaybeUninit::uninit(); 4_096];
    let mut events = inotify::Reader::new(watch, &mut buffer);
    let mut names = Vec::new();
    while let Ok(event) = events.next() {
        assert_eq!(event.events(), inotify::ReadFlags::DELETE);
        names.push(event.file_name().unwrap().to_str().unwrap().to_owned());
    }
    let index_name = banter_log::index::file_name;
    assert_eq!(names, [index_name(1), file_name(1), index_name(2), file_name(2)]);
}

#[test]
fn a_file_that_cannot_be_removed_is_tried_again_holds_back_those_behind_it_and_counts_once() {
    let mut rig = Rig::new(&[HOUR_MS; 5], Limits { retention_bytes: 3 * u64::from(SEGMENT_BYTES), ..limits() });
    let path = segment_path(rig.folder.path(), 1);
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    rig.do_all();
    assert_eq!(rig.cuts(), [1, 2]);
    for (segment, core) in [(1, 0), (1, 1), (2, 0), (2, 1)] {
        rig.release(core, segment);
    }
    rig.do_all();
    rig.keeper.tell_state();
    assert_eq!((rig.segments(), rig.cuts()), (vec![1, 2, 3, 4, 5], vec![]), "what is cut is not counted again");
    assert_eq!(rig.keeper.state.segments.load(Ordering::Relaxed), 5, "what is on the disk is told");
    fs::remove_dir(&path).unwrap();
    rig.do_all();
    assert_eq!((rig.segments(), rig.keeper.retry_at.is_some()), (vec![3, 4, 5], false));
}

/// A file of which the kernel says that it cannot be synced.
fn make_unsyncable(path: &Path) {
    fs::rename(path, path.with_extension("aside")).unwrap();
    std::os::unix::fs::symlink("/dev/null", path).unwrap();
}

#[test]
fn a_segment_whose_sync_failed_gets_no_index_and_no_second_sync_and_its_run_does_not_end_closed() {
    let mut rig = Rig::new(&[], limits());
    let (first, second) = (rig.prepared(0), rig.prepared(0));
    let path = segment_path(rig.folder.path(), first.id);
    make_unsyncable(&path);
    rig.seal(first);
    assert_eq!(
        ledger(rig.folder.path()).last.unwrap().boot,
        None,
        "a kill from now on is a power cut to the next start"
    );
    fs::remove_file(&path).unwrap();
    fs::rename(path.with_extension("aside"), &path).unwrap();
    rig.do_all();
    scrub_a_round(&mut rig);
    assert!(!index_path(rig.folder.path(), first.id).exists(), "and the check makes none either");
    assert_eq!((rig.indexed(0), rig.keeper.retry_at), (vec![], None), "its core keeps the index");
    rig.seal(second);
    assert_eq!(rig.indexed(0), [(second.id, 1)], "others go on");
    rig.keeper.accept(ToKeeper::Stop { is_whole: true });
    let Rig { keeper, folder, .. } = rig;
    keeper.stop();
    let last = ledger(folder.path()).last.unwrap();
    assert_eq!((last.is_closed, last.boot), (false, None));
}

#[test]
fn a_core_whose_write_failed_makes_the_end_of_the_run_a_power_cut_from_then_on() {
    let mut rig = Rig::new(&[], limits());
    let boot = |rig: &Rig| ledger(rig.folder.path()).last.unwrap().boot;
    assert_eq!(boot(&rig), Some(BootId(1)));
    rig.keeper.take(ToKeeper::AppendFailed);
    assert_eq!(boot(&rig), None);
}

#[test]
fn a_segment_that_cannot_be_opened_is_synced_later() {
    let mut rig = Rig::new(&[], limits());
    let header = rig.prepared(0);
    let path = segment_path(rig.folder.path(), header.id);
    fs::rename(&path, path.with_extension("aside")).unwrap();
    std::os::unix::fs::symlink(&path, &path).unwrap();
    rig.seal(header);
    assert!(rig.keeper.retry_at.is_some() && rig.indexed(0).is_empty());
    fs::rename(path.with_extension("aside"), &path).unwrap();
    rig.do_all();
    assert_eq!((rig.indexed(0), rig.keeper.is_unsafe), (vec![(header.id, 1)], false));
}

#[test]
fn each_wish_of_a_core_is_a_segment_and_one_without_any_comes_first() {
    let mut rig = Rig::new(&[], limits());
    for core in [0, 0, 1] {
        rig.tell.send(prepare(core)).unwrap();
    }
    rig.keeper.take(prepare(0));
    let made = |core: usize| -> Vec<u64> {
        let of = |message| match message {
            ToCore::LogSegment(header, _) => header.id,
            other => panic!("{other:?}"),
        };
        rig.cores[core].drain().map(of).collect()
    };
    assert_eq!((made(0), made(1)), (vec![1, 3, 4], vec![2]));
}

#[test]
fn a_segment_in_the_making_is_hurried_when_a_core_has_none() {
    let mut rig = Rig::new(&[], limits());
    rig.prepared(0);
    let writer = |core| Writer { core: Core(core), class: Class::SERVER };
    let gentle = || making::Pace { writer: writer(2), gentle_until: None, is_hurried: false };
    let took = Duration::from_millis(1);
    let mut pace = gentle();
    rig.tell.send(prepare(0)).unwrap();
    rig.keeper.pause(took, &mut pace);
    assert!(!pace.is_hurried, "it has one");
    rig.tell.send(prepare(1)).unwrap();
    rig.keeper.pause(took, &mut pace);
    assert!(pace.is_hurried);
    let mut pace = making::Pace { gentle_until: Some(Instant::now()), ..gentle() };
    rig.keeper.pause(took, &mut pace);
    assert!(pace.is_hurried, "its own core fills them fast");
}

#[test]
fn what_cannot_be_made_or_written_leaves_nothing_behind_and_takes_nothing_away() {
    let rig = Rig::new(&[0], limits());
    let folder = rig.folder.path();
    let names = || fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name()).collect::<BTreeSet<_>>();
    let (before, there) = (names(), fs::read(segment_path(folder, 1)).unwrap());
    make_segment(folder, &HEADER, &mut |_| {}).unwrap_err();
    make_segment(folder, &SegmentHeader { id: 2, file_bytes: 1 << 60, ..HEADER }, &mut |_| {}).unwrap_err();
    assert!(names() == before && fs::read(segment_path(folder, 1)).unwrap() == there);
    fs::remove_file(index_path(folder, 1)).unwrap();
    fs::create_dir(index_path(folder, 1)).unwrap();
    put_index(folder, 1, b"x").unwrap_err();
    assert_eq!(names(), before, "no draft stays");
}

fn scrub_a_round(rig: &mut Rig) {
    let mut steps = 0;
    rig.keeper.state.scrub_finished_s.store(0, Ordering::Relaxed);
    while rig.keeper.state.scrub_finished_s.load(Ordering::Relaxed) == 0 {
        rig.keeper.check_step();
        steps += 1;
        assert!(steps < 100, "a round ends");
    }
}

#[test]
fn the_scrubber_makes_an_index_again_that_is_missing_or_has_a_flipped_bit() {
    let mut rig = Rig::new(&[0, 0], limits());
    let path = index_path(rig.folder.path(), 2);
    let whole = fs::read(&path).unwrap();
    let header = SegmentHeader { id: 2, nonce: 2 * 7_919, core: 0, ..HEADER };
    let table_end = IndexHeader::read(&whole, &header).unwrap().table_end() as usize;
    // Where the table is lost, what it said of parts before is found in the segment before.
    let (mut index, _) = index_of(&fs::read(segment_path(rig.folder.path(), 2)).unwrap()).unwrap();
    let first = SegmentHeader { id: 1, nonce: 7_919, core: 1, ..HEADER };
    for part in read_parts(rig.folder.path(), &first).unwrap().1 {
        index.set_chain(part.room, part.chain_behind(&first));
    }
    let found = index.encode(&header, 3 * 4_096, true);
    for at in 0..=whole.len() {
        let mut damaged = whole.clone();
        match damaged.get_mut(at) {
            Some(byte) => *byte ^= 1,
            None => damaged.clear(),
        }
        fs::write(&path, &damaged).unwrap();
        rig.keeper.check_index(2);
        let is_chained = (table_end..whole.len()).contains(&at);
        assert!(fs::read(&path).unwrap() == if is_chained { whole.clone() } else { found.clone() }, "byte {at}");
    }
    fs::remove_file(&path).unwrap();
    scrub_a_round(&mut rig);
    assert!(fs::read(&path).unwrap() == found && rig.keeper.state.scrub_faults.load(Ordering::Relaxed) == 0);
}

#[test]
fn an_index_is_made_again_behind_those_before_it_and_never_past_one_that_cannot_be_read() {
    let whole = |rig: &Rig, id| fs::read(index_path(rig.folder.path(), id)).unwrap();
    let mut rig = Rig::new(&[0, 0, 0], limits());
    let path = |id| index_path(rig.folder.path(), id);
    // As they are where every room is chained to what it has before.
    (1..=3).for_each(|id| fs::remove_file(path(id)).unwrap());
    let paths = [path(1), path(2), path(3)];
    assert_eq!(rig.keeper.check_index(3), Some(Mended::MadeAgain(1)));
    let indexes = [whole(&rig, 1), whole(&rig, 2), whole(&rig, 3)];
    let header = |id: u64| SegmentHeader { id, nonce: id * 7_919, core: (id % 2) as u16, ..HEADER };
    let before = |rig: &Rig| read_parts(rig.folder.path(), &header(3)).unwrap().1[0].chain.before;
    assert_eq!(before(&rig), 2);

    // The one before cannot be read now: nothing is written that would step over it.
    fs::remove_file(&paths[2]).unwrap();
    fs::remove_file(&paths[1]).unwrap();
    fs::create_dir(&paths[1]).unwrap();
    assert_eq!((rig.keeper.check_index(3), paths[2].exists()), (None, false));
    fs::remove_dir(&paths[1]).unwrap();

    // It is damaged, index and all: what is older is found without it.
    let segment = segment_path(rig.folder.path(), 2);
    let bytes = fs::read(&segment).unwrap();
    let mut damaged = bytes.clone();
    damaged[4_096 + 70] ^= 1;
    fs::write(&segment, damaged).unwrap();
    assert_eq!((rig.keeper.check_index(3), before(&rig)), (Some(Mended::MadeAgain(1)), 1));
    fs::write(&segment, bytes).unwrap();
    fs::remove_file(&paths[2]).unwrap();
    assert_eq!(rig.keeper.check_index(3), Some(Mended::MadeAgain(1)));
    assert!((1..=3).all(|id| whole(&rig, id) == indexes[id as usize - 1]));
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
        assert!(rig.segments() == [1, 2, 3] && rig.keeper.patience() > checking::PAUSE, "the file is kept");
    }
}

#[test]
fn a_whole_stop_closes_the_ledger_and_takes_unused_segments_and_another_leaves_them() {
    for is_whole in [true, false] {
        let Rig { keeper, cores, tell, folder } = Rig::new(&[0], limits());
        let thread = std::thread::spawn(move || keeper.run());
        tell.send(prepare(0)).unwrap();
        let made = cores[0].recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(matches!(made, ToCore::LogSegment(header, _) if header.id == 2));
        tell.send(ToKeeper::Stop { is_whole }).unwrap();
        thread.join().unwrap();
        assert_eq!(segment_path(folder.path(), 2).exists(), !is_whole);
        assert!(segment_path(folder.path(), 1).exists());
        let Ledger { last, newest_segment, .. } = ledger(folder.path());
        let last = last.unwrap();
        assert_eq!(
            (last.run, last.is_closed, last.boot.is_some()),
            (RUN, is_whole, is_whole),
            "a core may have failed"
        );
        assert_eq!(newest_segment, u64::from(is_whole), "the newest with a record");
    }
}

#[test]
fn a_sealed_segment_is_proved_behind_its_last_block_where_there_is_room_and_half_a_block_cannot_lie() {
    for (is_provable, level, file_bytes, is_proved) in [
        (true, Level::Synced, SEGMENT_BYTES, true),
        (true, Level::Written, SEGMENT_BYTES, true),
        (false, Level::Synced, SEGMENT_BYTES, false),
        (true, Level::Synced, 3 * 4_096, false),
    ] {
        let mut rig = Rig::new(&[], limits());
        let header = SegmentHeader { file_bytes: file_bytes.into(), ..rig.prepared(0) };
        let mut made = Made::of(header);
        made.commit(Level::Synced, &[Post::at(1).frame()]).commit(level, &[Post::at(2).frame()]);
        rig.write_blocks(&made);
        let (end, index) = (made.place(), Arc::new(index_of(&made.file()).unwrap().0));
        rig.keeper.take(ToKeeper::Seal { end, is_provable, index, newest_ms: unix_ms() });
        let bytes = fs::read(segment_path(rig.folder.path(), header.id)).unwrap();
        let index = fs::read(index_path(rig.folder.path(), header.id)).unwrap();
        let end_offset = end.offset + if is_proved { 4_096 } else { 0 };
        assert_eq!(IndexHeader::read(&index, &header).unwrap().end_offset, end_offset);
        assert_eq!(Block::read(&bytes, &end).map(|block| (block.records, block.synced)), is_proved.then_some((0, 2)));
        let mut scan = Scan::new(&bytes).unwrap();
        while scan.next().is_some() {}
        assert_eq!(scan.ending(), Ending::Clean { offset: end_offset });
        scrub_a_round(&mut rig);
        assert_eq!(rig.keeper.state.scrub_faults.load(Ordering::Relaxed), 0);
    }
}

#[test]
fn a_block_that_was_refused_is_gone_before_the_index_says_where_the_segment_ends() {
    let mut rig = Rig::new(&[], limits());
    let header = rig.prepared(0);
    let mut made = Made::of(header);
    made.commit(Level::Synced, &[Post::at(1).frame()]);
    let (end, index) = (made.place(), Arc::new(index_of(&made.file()).unwrap().0));
    made.commit(Level::Synced, &[Post::at(2).frame(), Post::at(3).frame()]);
    rig.write_blocks(&made);
    let refused = fs::read(segment_path(rig.folder.path(), header.id)).unwrap();
    assert_eq!(index_of(&refused).unwrap().0.parts().next().unwrap().last.0, 3, "it lies there whole");
    rig.keeper.take(ToKeeper::Seal { end, is_provable: false, index, newest_ms: unix_ms() });
    let bytes = fs::read(segment_path(rig.folder.path(), header.id)).unwrap();
    let (walked, ending) = index_of(&bytes).unwrap();
    assert_eq!((walked.parts().next().unwrap().last.0, ending), (1, Ending::Clean { offset: end.offset }));
    let index = fs::read(index_path(rig.folder.path(), header.id)).unwrap();
    assert_eq!(IndexHeader::read(&index, &header).unwrap().end_offset, end.offset);
}

#[test]
fn before_a_core_is_told_of_a_cut_the_ledger_has_an_epoch_for_rooms_that_have_nothing_left() {
    let mut rig = Rig::new(&[HOUR_MS; 3], Limits { retention_bytes: 2 * u64::from(SEGMENT_BYTES), ..limits() });
    rig.do_all();
    let blank = ledger(rig.folder.path()).blank;
    // Cores 0 and 1 give 8, 11, 14 … and 9, 12, 15 …
    assert_eq!(blank, Epoch(RUN + 3));
    let core = core_of(RoomId::of("lobby"), 2).index();
    for at in [core, 1 - core] {
        let told: Vec<_> = rig.cores[at].drain().collect();
        let [ToCore::Log(Answer::Cut { segment: 1, rooms: CutRooms::Known(rooms), blank_epoch })] = &told[..] else {
            panic!("{told:?}")
        };
        let rooms: Vec<_> = rooms.clone().map(|(room, last)| (room, last.0)).collect();
        let expected = if at == core { vec![(RoomId::of("lobby"), 3)] } else { vec![] };
        assert_eq!((rooms, *blank_epoch), (expected, blank));
    }
    rig.keeper.limits.retention_bytes = 1;
    rig.do_all();
    assert_eq!(ledger(rig.folder.path()).blank, Epoch(RUN + 6), "another one each time, and no core's");
}

#[test]
fn a_cut_whose_index_cannot_be_read_has_every_room_looked_at() {
    let mut rig = Rig::new(&[HOUR_MS; 2], Limits { retention_bytes: SEGMENT_BYTES.into(), ..limits() });
    fs::write(index_path(rig.folder.path(), 1), b"no index").unwrap();
    rig.do_all();
    let told = rig.cores[0].try_recv().unwrap();
    assert!(matches!(told, ToCore::Log(Answer::Cut { segment: 1, rooms: CutRooms::Unknown(_), .. })));
}

#[test]
fn a_core_that_found_an_index_wrong_is_told_when_it_is_right_and_when_it_cannot_be() {
    let mut rig = Rig::new(&[0, 0], limits());
    let mend = |segment| ToKeeper::MendIndex { core: Core(1), segment };
    rig.keeper.take(mend(1));
    assert_eq!((rig.indexed(1), rig.indexed(0)), (vec![(1, 1)], vec![]), "it is right by now");
    fs::remove_file(index_path(rig.folder.path(), 1)).unwrap();
    rig.keeper.take(mend(1));
    assert!(rig.indexed(1).contains(&(1, 1)) && rig.indexed(0) == [(1, 1)], "who has read of it reads it anew");
    fs::remove_file(index_path(rig.folder.path(), 2)).unwrap();
    fs::write(segment_path(rig.folder.path(), 2), b"no segment").unwrap();
    rig.keeper.take(mend(2));
    rig.keeper.take(mend(77));
    assert_eq!(
        rig.said(1),
        ["Log(NotIndexed { segment: 2, is_damaged: true })", "Log(NotIndexed { segment: 77, is_damaged: false })"]
    );
}

#[test]
fn a_segment_is_as_long_as_its_header_says_and_shorter_on_a_disk_that_has_less() {
    let mut rig = Rig::new(&[], limits());
    let most = rig.prepared(0).file_bytes;
    let disk = super::super::files::disk_of(rig.folder.path()).unwrap();
    let all = Limits { log_segment_bytes: 1 << 30, log_commit_bytes_max: 100_000, ..limits() };
    rig.keeper.sizing = Sizing::new(&all, (disk.free_bytes >> 22) as usize, 1);
    let small = rig.prepared(1);
    assert!(most == u64::from(SEGMENT_BYTES) && (256 * 1_024..=1 << 20).contains(&small.file_bytes), "{small:?}");
    let path = segment_path(rig.folder.path(), small.id);
    assert_eq!(fs::metadata(path).unwrap().len(), small.file_bytes);
}
