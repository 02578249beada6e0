//! What takes long is done in slices: what each call costs, and what is read before, during and behind it.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use banter_protocol::ids::{Epoch, RoomId, Sequence};

use crate::PAGE_BYTES;
use crate::catalog::{Catalog, CutRooms};
use crate::index::Entry;
use crate::journal::{Answer, Ask, Done, Journal, JournalParts, Reach};
use crate::reading::LogFile;
use crate::record::{Level, Record, RecordKind};
use crate::rig::{Post, RUN, Rig, frames, parts, want, want_in};
use crate::segment::{Class, SegmentHeader};

/// The header, four posts of a block each, and a proof.
const FOUR_POSTS: u64 = 6 * PAGE_BYTES as u64;
const ROOMS: [&str; 6] = ["lobby", "one", "two", "three", "four", "five"];

/// Two segments of many rooms each; the greatest number of steps of each kind of call.
struct Counted {
    journal: Journal,
    steps_max: BTreeMap<&'static str, u64>,
}

impl Counted {
    fn call<T>(&mut self, name: &'static str, call: impl FnOnce(&mut Journal) -> T) -> T {
        let before = self.journal.catalog().steps();
        let done = call(&mut self.journal);
        let steps = self.journal.catalog().steps() - before;
        let most = self.steps_max.entry(name).or_default();
        *most = (*most).max(steps);
        done
    }

    fn post_in(&mut self, rooms: std::ops::Range<u128>, sequence: u64) {
        let post = Post::at(sequence);
        let frame = post.frame_of(1);
        let records = rooms.map(|room| {
            let record = Record::message(RoomId(room), Level::Synced, post.author(), &frame);
            let (entry, name) = Entry::read(&record, |_| RoomId(room)).unwrap();
            (record, entry, name)
        });
        assert!(self.call("commit", |journal| journal.commit(Class::SERVER, records, Reach::Synced)));
        self.call("handle synced", |journal| journal.handle(Answer::Synced, &mut Vec::new()));
    }

    /// Goes on in another segment, and does what is asked of the disk.
    fn rotate(&mut self, next: u64) {
        self.journal.handle(Answer::Segment(header(next)), &mut Vec::new());
        assert!(!self.call("make room", |journal| journal.make_room(Class::SERVER, 1 << 40)), "no segment is as long");
        for ask in std::mem::take(self.journal.asks_mut()) {
            if let Ask::Seal { end, index, .. } = ask {
                let answer = Answer::Indexed { segment: end.segment.id, parts: index.len() as u32 };
                self.call("handle indexed", |journal| journal.handle(answer, &mut Vec::new()));
            }
        }
    }

    /// The slices until nothing is left.
    fn work(&mut self) -> usize {
        let mut slices = 0;
        while self.journal.has_work() {
            slices += 1;
            let steps = self.call("work", Journal::work);
            assert!(steps > 0, "a slice without a step would never end");
        }
        slices
    }
}

fn header(id: u64) -> SegmentHeader {
    let class = Class::SERVER;
    SegmentHeader { id, nonce: id, core: 0, class, run: RUN, made_unix_ms: 0, file_bytes: 1 << 30 }
}

#[test]
fn no_call_takes_more_steps_than_it_may_however_many_rooms_a_segment_has() {
    const ROOMS_COUNT: u128 = 50_000;
    const COMMIT_COUNT: u128 = 1_000;
    const SLICE_STEPS: u64 = 100;
    let parts = JournalParts { work_steps_max: SLICE_STEPS as usize, ..parts(RUN, Catalog::default()) };
    let mut counted = Counted { journal: Journal::new(parts), steps_max: BTreeMap::new() };
    counted.journal.handle(Answer::Segment(header(1)), &mut Vec::new());
    for segment in 1..=2 {
        for first in (0..ROOMS_COUNT).step_by(COMMIT_COUNT as usize) {
            assert!(counted.journal.make_room(Class::SERVER, 1));
            counted.post_in(first..first + COMMIT_COUNT, segment);
        }
        counted.rotate(segment + 1);
        assert_eq!(counted.work(), 0, "nothing to be taken over");
    }
    let known: Vec<_> = (0..ROOMS_COUNT).map(|room| (RoomId(room), Sequence(1))).collect();
    let both = [CutRooms::Known(known.into_iter()), CutRooms::Unknown(Bound::Unbounded)];
    for (segment, rooms) in [1, 2].into_iter().zip(both) {
        counted.call("handle cut", |journal| {
            journal.handle(Answer::Cut { segment, rooms, blank_epoch: Epoch(0) }, &mut Vec::new())
        });
        assert_eq!(counted.work(), 501, "each room, and the end");
    }
    assert!(counted.journal.catalog().is_empty());
    let expected = [
        ("commit", 0),
        ("handle cut", 0),
        ("handle indexed", 0),
        ("handle synced", COMMIT_COUNT as u64),
        ("make room", 0),
        ("work", SLICE_STEPS),
    ];
    assert_eq!(counted.steps_max, expected.into());
}

/// Five sealed segments whose indexes are not written, and the one that is written to; posts of "lobby", all keyed.
fn unindexed() -> Rig {
    let mut rig = Rig::new(FOUR_POSTS);
    (rig.writes_indexes, rig.works_on) = (false, false);
    for sequence in 1..=22 {
        let post = Post { is_keyed: true, ..Post::at(sequence) };
        rig.commit(&[post, Post { room: "one", ..post }, Post { room: "two", ..post }]);
    }
    assert_eq!(rig.unindexed.len(), 5);
    rig
}

fn keyed_frames(room: &'static str, sequences: impl Iterator<Item = u64>) -> Vec<u8> {
    sequences.flat_map(|sequence| Post { room, is_keyed: true, ..Post::at(sequence) }.frame_of(1)).collect()
}

/// Every room's page and the keys of "lobby", against what was posted.
fn check_whole(rig: &mut Rig) {
    for room in ["lobby", "one", "two"] {
        for first in [1, 7, 20] {
            let read = rig.pages(want_in(room, first, 22)).unwrap();
            assert!(read.messages == keyed_frames(room, first..=22), "{room} from {first}");
        }
    }
    let keys = rig.keys(0, 99).unwrap();
    assert!(keys.iter().map(|key| key.sequence).eq(1..=22));
}

#[test]
fn readings_are_right_before_and_behind_the_handover_of_an_index() {
    let mut rig = unindexed();
    check_whole(&mut rig);
    assert!(rig.reads.iter().all(|read| read.file == LogFile::Segment), "no index is on the disk");
    let mut handed_over = 0;
    while rig.write_index() {
        check_whole(&mut rig);
        handed_over += 1;
        assert_eq!(rig.let_go, handed_over, "a builder that is on the disk goes back");
    }
    assert_eq!(handed_over, 5);
    rig.reads.clear();
    check_whole(&mut rig);
    let of_index = rig.reads.iter().filter(|read| read.file == LogFile::Index);
    assert_eq!(of_index.map(|read| read.segment).collect::<BTreeSet<_>>(), (1..=5).collect());
}

#[test]
fn an_index_whose_segment_went_first_is_let_go_of_too() {
    let mut rig = unindexed();
    rig.answer(Answer::Cut { segment: 1, rooms: CutRooms::Unknown(Bound::Unbounded), blank_epoch: Epoch(0) });
    rig.works_on = true;
    rig.work();
    assert_eq!((rig.released.clone(), rig.let_go), (vec![1], 0));
    rig.unindexed.pop_front();
    rig.answer(Answer::Indexed { segment: 1, parts: 0 });
    rig.work();
    assert_eq!((rig.let_go, rig.journal.catalog().segment(1)), (1, None));
    assert_eq!(rig.pages(want_in("one", 5, 22)).unwrap().messages, keyed_frames("one", 5..=22));
}

#[test]
fn a_reading_that_began_in_a_builder_goes_on_behind_its_handover() {
    let mut rig = unindexed();
    rig.done.clear();
    rig.journal.read_page(want_in("one", 1, 22));
    rig.journal.begin_reads(&mut rig.done);
    let under_way = rig.asks();
    while rig.write_index() {}
    rig.works_on = true;
    rig.work();
    under_way.into_iter().for_each(|ask| rig.perform(ask));
    rig.work();
    let done = rig.done.pop();
    let Some(Done::Page { page: Ok(page), .. }) = done else { panic!("{done:?}") };
    assert!(page.count > 10 && keyed_frames("one", 1..=22).starts_with(&page.messages));
}

#[test]
fn a_cut_is_seen_at_once_and_a_segment_is_released_behind_its_last_room() {
    let mut rig = Rig::new(FOUR_POSTS);
    (1..=9).for_each(|sequence| rig.commit(&ROOMS.map(|room| Post { room, ..Post::at(sequence) })));
    rig.works_on = false;
    rig.cut(1);
    let mut slices = 0;
    loop {
        assert!(rig.journal.catalog().segment(1).is_none());
        for room in ROOMS {
            assert_eq!(rig.journal.catalog().room(RoomId::of(room)).unwrap().head, Sequence(9));
            let read = rig.pages(want_in(room, 1, 9)).unwrap();
            assert_eq!((read.first, read.count), (Sequence(5), 5), "whether it was told or not");
        }
        assert_eq!(rig.pages(want(5, 9)).unwrap().messages, frames(5..=9));
        let told = ROOMS.map(|room| rig.journal.catalog().room(RoomId::of(room)).unwrap().first);
        assert_eq!(told.iter().filter(|&&first| first == Sequence(5)).count(), slices.min(ROOMS.len()));
        if !rig.journal.has_work() {
            break;
        }
        assert_eq!(rig.journal.work(), 1);
        slices += 1;
        rig.work();
        assert_eq!(rig.released.is_empty(), slices <= ROOMS.len(), "behind the last room");
    }
    assert_eq!((slices, rig.released), (7, vec![1]), "each room, and the end");
}

/// The same posts and cuts for a journal that does everything at once, and one that takes a step now and then.
struct Twins {
    quick: Rig,
    slow: Rig,
    chance: u64,
    heads: [u64; ROOMS.len()],
    cut_through: u64,
}

impl Twins {
    fn new(seed: u64) -> Self {
        let (quick, mut slow) = (Rig::new(FOUR_POSTS), Rig::new(FOUR_POSTS));
        (slow.writes_indexes, slow.works_on) = (false, false);
        Twins { quick, slow, chance: seed * 2 + 1, heads: [0; ROOMS.len()], cut_through: 0 }
    }

    /// By Knuth's MMIX numbers; the low bits are left out, since they hardly change.
    fn below(&mut self, bound: usize) -> usize {
        self.chance = self.chance.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.chance >> 33) as usize % bound
    }

    fn post(&mut self) {
        let room = self.below(ROOMS.len());
        if self.quick.journal.catalog().room(RoomId::of(ROOMS[room])).is_none() && self.below(2) == 0 {
            // Nothing of it is left, and it was forgotten: it begins anew.
            self.heads[room] = 0;
        }
        let kind = if self.below(8) == 0 { RecordKind::State } else { RecordKind::Message };
        self.heads[room] += u64::from(kind.is_numbered());
        let is_keyed = kind.is_numbered();
        let post = Post { kind, room: ROOMS[room], is_keyed, ..Post::at(self.heads[room]) };
        self.quick.commit(&[post]);
        self.slow.commit(&[post]);
    }

    /// Cuts sealed segments, the oldest first.
    fn cut(&mut self) {
        let sealed = self.quick.indexes.keys().last().copied().unwrap_or(0);
        let left = sealed.saturating_sub(self.cut_through) as usize;
        if left > 1 {
            for _ in 0..=self.below(left.min(3)) {
                self.cut_through += 1;
                let segment = self.cut_through;
                self.quick.cut(segment);
                self.quick.work();
                let of_quick: Vec<_> = self.quick.parts_of(segment).iter().map(|part| (part.room, part.last)).collect();
                let rooms = match self.below(2) {
                    0 => CutRooms::Unknown(Bound::Unbounded),
                    _ => CutRooms::Known(of_quick.into_iter()),
                };
                self.slow.answer(Answer::Cut { segment, rooms, blank_epoch: Epoch(0) });
            }
        }
    }

    fn disturb(&mut self) {
        match self.below(20) {
            0..=7 => self.post(),
            8 => self.cut(),
            9..=10 => drop(self.slow.write_index()),
            11..=17 => assert!(self.slow.journal.work() <= 1),
            _ => self.check(),
        }
    }

    /// Both know and read the same.
    fn check(&mut self) {
        for (room, &head) in ROOMS.into_iter().zip(&self.heads) {
            let log = |rig: &Rig| rig.journal.catalog().room(RoomId::of(room)).map(|room| (room.head, room.level));
            assert_eq!(log(&self.quick), log(&self.slow), "{room}");
            let Some((quick_head, _)) = log(&self.quick) else { continue };
            assert_eq!(quick_head, Sequence(head));
            let first = self.quick.journal.catalog().room(RoomId::of(room)).unwrap().first.0;
            let read = self.slow.pages(want_in(room, 1, head)).unwrap();
            assert!(read.messages == keyed_frames(room, first..=head), "{room}");
            if first <= head {
                assert_eq!(read.first, Sequence(first));
            }
            let quick = self.quick.pages(want_in(room, 1, head)).unwrap();
            assert!(quick == read, "{room}: {:?} {:?}", (quick.first, quick.through), (read.first, read.through));
        }
        assert_eq!(self.quick.keys(0, 99), self.slow.keys(0, 99));
    }

    fn settle(&mut self) {
        while self.slow.write_index() {}
        self.slow.works_on = true;
        self.slow.work();
        self.check();
        assert_eq!(self.quick.journal.catalog().len(), self.slow.journal.catalog().len());
        let released = |rig: &Rig| rig.released.iter().copied().collect::<BTreeSet<_>>();
        assert_eq!(released(&self.quick), released(&self.slow));
        assert_eq!(self.slow.let_go, self.slow.indexes.len());
    }
}

#[test]
fn a_journal_that_works_in_slices_shows_what_one_shows_that_does_all_at_once() {
    let mut cut = 0;
    for seed in 0..60 {
        let mut twins = Twins::new(seed);
        for _ in 0..300 {
            twins.disturb();
        }
        twins.settle();
        cut += twins.cut_through;
    }
    assert!(cut > 500, "{cut}");
}
