//! States are carried: whatever is dropped, refused, erased or begun again, the newest part of a room names its newest state.

use std::collections::BTreeMap;

use banter_protocol::ids::{Epoch, RoomName};
use banter_protocol::native::{State as RoomState, read_state};

use super::*;
use crate::catalog::Catalog;
use crate::erasure::{Bound, Erasure};
use crate::index::Entry;
use crate::reading::LogFile;
use crate::record::Record;
use crate::rig::{RUN, parts, scan_indexes};
use crate::state::{STATE_BYTES_MAX, StateRecord};

const OTHER: Class = Class { hours: 1, bytes: 0 };
const ROOMS: [&str; 5] = ["lobby", "hall", "cellar", "attic", "garden"];

/// What is to be written of a room.
#[derive(Clone, Debug)]
enum Said {
    Post(&'static str),
    State(&'static str, Vec<u8>),
}

/// A record that is to be written.
enum Made {
    Post(Post, Vec<u8>),
    State(&'static str, StateRecord),
}

impl Made {
    fn parts(&self) -> (Record<'_>, Entry, &str) {
        match self {
            Made::Post(post, frame) => {
                let record = post.record(Level::Synced, frame);
                let (entry, _) = Entry::read(&record, RoomId::of).unwrap();
                (record, entry, post.room)
            }
            Made::State(room, state) => (state.record(), state.entry(), room),
        }
    }
}

fn state_record(room: &'static str, head: u64, body: &[u8]) -> Made {
    let state = RoomState { epoch: Epoch(1), sequence: Sequence(head), time_ms: 1_000 * head, room, body };
    Made::State(room, StateRecord::new(&state, Level::Synced, STATE_BYTES_MAX).unwrap())
}

/// Who writes rooms, and has their heads and states in memory.
#[derive(Clone, Debug, Default)]
struct Writer {
    heads: BTreeMap<&'static str, u64>,
    states: BTreeMap<&'static str, Vec<u8>>,
}

impl Writer {
    /// Begins a commit with all that is to be carried. Returns the rooms whose states were.
    fn begin(&mut self, rig: &mut Rig, class: Class, said: &[Said]) -> Vec<&'static str> {
        let (mut heads, mut states, mut made) = (self.heads.clone(), self.states.clone(), Vec::new());
        for say in said {
            match say {
                Said::Post(room) => {
                    let head = heads.entry(room).or_default();
                    *head += 1;
                    let post = Post { room, ..Post::at(*head) };
                    made.push(Made::Post(post, post.frame_of(1)));
                }
                Said::State(room, body) => {
                    made.push(state_record(room, *heads.entry(room).or_default(), body));
                    states.insert(room, body.clone());
                }
            }
        }
        let rooms = made.iter().map(|made| made.parts().2).collect::<std::collections::BTreeSet<_>>();
        let with_state = |room: &&&str| rooms.contains(**room) && self.states.contains_key(**room);
        let with_state: Vec<&'static str> = ROOMS.iter().filter(with_state).copied().collect();
        let head = |room| self.heads.get(room).copied().unwrap_or(0);
        let carried_of = |room: &'static str| state_record(room, head(room), &self.states[room]);
        let bytes_of = |made: &Made| made.parts().0.bytes();
        let sizes: Vec<(RoomId, usize)> =
            with_state.iter().map(|room| (RoomId::of(room), bytes_of(&carried_of(room)))).collect();
        let record_bytes = made.iter().map(bytes_of).sum();
        let lacking = loop {
            match rig.journal.make_room_with_states(class, record_bytes, sizes.iter().copied()) {
                Some(lacking) => break lacking,
                None => assert!(rig.work(), "no segment comes"),
            }
        };
        let carried: Vec<&'static str> =
            with_state.into_iter().filter(|room| lacking.contains(&RoomId::of(room))).collect();
        let all: Vec<Made> = carried.iter().map(|room| carried_of(room)).chain(made).collect();
        let seals = rig.journal.asks_mut().len();
        assert!(rig.journal.commit(class, all.iter().map(Made::parts), Reach::Synced), "there is room for all of it");
        assert_eq!(rig.journal.asks_mut().len(), seals + 1, "an append, and no other segment than was said");
        (self.heads, self.states) = (heads, states);
        carried
    }

    fn commit(&mut self, rig: &mut Rig, class: Class, said: &[Said]) -> Vec<&'static str> {
        let carried = self.begin(rig, class, said);
        rig.work();
        carried
    }

    /// Begins a commit that is written whole and then finds no space.
    fn refuse(&self, rig: &mut Rig, class: Class, said: &[Said]) {
        self.clone().begin(rig, class, said);
        for ask in rig.asks() {
            match ask {
                Ask::Append { segment, offset, block, .. } => {
                    let file = rig.files.get_mut(&segment.id).unwrap();
                    file[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
                }
                other => rig.perform(other),
            }
        }
        rig.answer(Answer::AppendFailed { is_full: true });
        rig.work();
    }

    /// Every room that the log knows has its newest state there, in its newest part, and no other is asked for it.
    fn check(&self, rig: &mut Rig, context: &str) {
        for room in ROOMS {
            rig.reads.clear();
            let read = rig.state_of(room).unwrap();
            let known = rig.journal.catalog().room(RoomId::of(room));
            let (Some(known), Some(body)) = (known, self.states.get(room)) else {
                assert_eq!(read, None, "{context}: {room}");
                continue;
            };
            let read = read.unwrap_or_else(|| panic!("{context}: {room} lost its state"));
            let state = read_state(&read.frame).unwrap();
            assert!(state.body == body && state.room == room, "{context}: {room}, {} bytes", state.body.len());
            assert!(state.sequence <= known.head && known.head == Sequence(self.heads[room]), "{context}: {room}");
            assert_eq!(read.segment, known.newest_segment, "{context}: {room}");
            assert!(rig.reads.iter().all(|range| range.segment == read.segment), "{context}: {:?}", rig.reads);
            let (index, segment) = (rig.read_bytes(LogFile::Index), rig.read_bytes(LogFile::Segment));
            assert!(index <= 2 * PAGE && segment <= read.frame.len() as u64 + 4 * PAGE, "{context}: {:?}", rig.reads);
        }
    }

    /// What a start has in memory of this: only what the log still knows.
    fn forget(&mut self, catalog: &Catalog) {
        let is_known = |room: &&'static str| catalog.room(RoomId::of(room)).is_some();
        self.heads.retain(|room, _| is_known(room));
        self.states.retain(|room, _| is_known(room));
    }
}

fn said(room: &'static str, body: &str) -> Said {
    Said::State(room, body.as_bytes().to_vec())
}

/// Drops that segment, files and all.
fn drop_segment(rig: &mut Rig, segment: u64) {
    rig.cut(segment);
    rig.work();
    rig.files.remove(&segment);
    rig.indexes.remove(&segment);
}

/// The files under the next start, which goes on writing; its indexes are those on the disk, or made from the segments.
fn restarted(rig: &mut Rig, is_scanned: bool) -> Rig {
    while rig.write_index() {}
    rig.writes_indexes = true;
    rig.sealed_catalog();
    if is_scanned {
        scan_indexes(rig);
    }
    let catalog = rig.catalog_of_files();
    let mut later = rig.with(parts(RUN + 1, catalog));
    later.makes_segments = true;
    later.work();
    later
}

#[test]
fn a_state_outlives_the_segments_that_it_was_written_to_over_starts_of_both_kinds() {
    for is_scanned in [false, true] {
        let (mut rig, mut writer) = (Rig::new(TWO_POSTS), Writer::default());
        assert!(writer.commit(&mut rig, Class::SERVER, &[said("lobby", "first"), Said::Post("lobby")]).is_empty());
        let mut carried = Vec::new();
        for _ in 0..8 {
            carried.push(writer.commit(&mut rig, Class::SERVER, &[Said::Post("lobby")]).len());
        }
        assert_eq!(carried, [0, 1, 0, 1, 0, 1, 0, 1], "by the first commit of each segment");
        (1..=4).for_each(|segment| drop_segment(&mut rig, segment));
        writer.check(&mut rig, "written");
        let mut rig = restarted(&mut rig, is_scanned);
        writer.check(&mut rig, "after a start");
        assert_eq!(writer.commit(&mut rig, Class::SERVER, &[Said::Post("lobby")]), ["lobby"]);
        drop_segment(&mut rig, 5);
        writer.check(&mut rig, "carried by the start");
    }
}

#[test]
fn a_room_that_comes_to_another_class_takes_its_state_along() {
    let (mut rig, mut writer) = (Rig::new(1 << 20), Writer::default());
    writer.commit(&mut rig, Class::SERVER, &[said("lobby", "first"), Said::Post("lobby")]);
    let lobby = RoomId::of("lobby");
    assert!(!rig.journal.lacks_state(Class::SERVER, lobby) && rig.journal.lacks_state(OTHER, lobby));
    assert!(rig.journal.lacks_state(Class::SERVER, RoomId::of("hall")));
    let mut rig = restarted(&mut rig, false);
    assert_eq!(writer.commit(&mut rig, OTHER, &[Said::Post("lobby")]), ["lobby"]);
    writer.check(&mut rig, "in the other class");
    drop_segment(&mut rig, 1);
    writer.check(&mut rig, "and the class before is gone");
}

#[test]
fn a_room_whose_newest_part_goes_while_its_state_is_read_has_the_state_that_the_class_before_left() {
    for (at, comes) in (0..4).flat_map(|at| [(at, false), (at, true)]) {
        let (mut rig, mut writer) = (Rig::new(1 << 20), Writer::default());
        writer.commit(&mut rig, Class::SERVER, &[said("lobby", "before"), Said::Post("lobby")]);
        let mut rig = restarted(&mut rig, false);
        writer.commit(&mut rig, OTHER, &[said("lobby", &"behind".repeat(900)), Said::Post("lobby")]);
        let mut rig = restarted(&mut rig, false);
        let newest = rig.journal.catalog().room(RoomId::of("lobby")).unwrap().newest_segment;
        rig.done.clear();
        rig.journal.read_state(RoomId::of("lobby"));
        rig.journal.begin_reads(&mut rig.done);
        for _ in 0..at {
            rig.asks().into_iter().for_each(|ask| rig.perform(ask));
        }
        let is_over = !rig.done.is_empty();
        let under_way = rig.asks();
        rig.cut(newest);
        if !comes {
            drop_segment(&mut rig, newest);
        }
        under_way.into_iter().for_each(|ask| rig.perform(ask));
        rig.work();
        let context = format!("behind {at} reads, the next of which comes: {comes}");
        let Some(Done::State { state: Ok(Some(state)), .. }) = rig.done.pop() else { panic!("{context}") };
        assert_eq!((state.segment == newest, is_over), (is_over, at == 3), "{context}");
    }
}

#[test]
#[should_panic = "a state of an earlier place"]
#[cfg(debug_assertions)]
fn a_state_that_is_carried_as_it_was_once_said_is_its_writers_fault() {
    let mut rig = Rig::new(1 << 20);
    rig.post(1..=2);
    rig.commit(&[Post { kind: RecordKind::State, ..Post::at(1) }]);
}

#[test]
fn room_is_made_for_a_commit_with_the_states_of_the_segment_that_it_goes_into() {
    let (lobby, hall) = (RoomId::of("lobby"), RoomId::of("hall"));
    let mut rig = Rig::new(8 * PAGE);
    rig.commit(&[Post { kind: RecordKind::State, ..Post::at(0) }, Post::at(1)]);
    let state_bytes = 2 * PAGE as usize;
    let states = [(lobby, state_bytes), (hall, state_bytes)];
    // Five pages and a proof are left: what is named there already takes nothing of it.
    let fits = |rig: &mut Rig, pages: u64| {
        let record_bytes = (pages * PAGE) as usize - crate::block::HEADER_BYTES;
        rig.journal.make_room_with_states(Class::SERVER, record_bytes, states.iter().copied())
    };
    assert_eq!(rig.journal.lacking_bytes(Class::SERVER, states.iter().copied()), state_bytes);
    assert_eq!((fits(&mut rig, 3), rig.asks().len()), (Some(vec![hall]), 0));
    assert!(rig.journal.make_room(Class::SERVER, 5 * PAGE as usize - 100), "it would fit without");
    assert_eq!(fits(&mut rig, 2).as_deref(), Some(&[hall][..]), "and it was not left for that");
    // In the next one all of them are lacking, and it holds two pages of records with them.
    assert_eq!(fits(&mut rig, 4), None, "not even a fresh one takes so much");
    rig.work();
    let mut rig = Rig::new(8 * PAGE);
    rig.commit(&[Post { kind: RecordKind::State, ..Post::at(0) }, Post::at(1)]);
    rig.commit(&[Post { body_bytes: 3 * PAGE as usize, ..Post::at(2) }]);
    rig.makes_segments = false;
    assert_eq!(fits(&mut rig, 1), Some(vec![lobby, hall]));
    assert_eq!(rig.said()[0], format!("seal 1 {} 2000", 6 * PAGE));
    rig.commit(&[Post { body_bytes: 5 * PAGE as usize, ..Post::at(3) }]);
    assert_eq!((fits(&mut rig, 2), rig.journal.lacks_state(Class::SERVER, lobby)), (None, true), "there is no other");
}

#[test]
fn a_state_may_have_what_a_commit_has_beside_its_largest_message() {
    let max = |commit_bytes_max| {
        let parts = crate::journal::JournalParts { commit_bytes_max, ..parts(RUN, Catalog::default()) };
        crate::journal::Journal::new(parts).state_bytes_max(10_000)
    };
    assert_eq!([max(1 << 20), max(30_000), max(10_000), max(0)], [STATE_BYTES_MAX, 20_000, 0, 0]);
}

#[test]
fn a_state_that_was_refused_does_not_count_once_the_room_is_written_again() {
    for is_scanned in [false, true] {
        for had_one in [false, true] {
            let (mut rig, mut writer) = (Rig::new(1 << 20), Writer::default());
            let begin = if had_one { said("lobby", "first") } else { Said::Post("lobby") };
            writer.commit(&mut rig, Class::SERVER, &[begin, Said::Post("lobby")]);
            writer.refuse(
                &mut rig,
                Class::SERVER,
                &[Said::Post("lobby"), said("lobby", "refused"), Said::Post("lobby")],
            );
            writer.check(&mut rig, "refused");
            let again = if had_one { Said::Post("lobby") } else { said("lobby", "") };
            let carried = writer.commit(&mut rig, Class::SERVER, &[again]);
            assert_eq!(carried.len(), usize::from(had_one), "the segment is another one");
            writer.check(&mut rig, "given again");
            let mut rig = restarted(&mut rig, is_scanned);
            writer.check(&mut rig, "after a start");
        }
    }
}

#[test]
fn an_erasure_of_a_whole_room_hides_no_state_and_rewriting_moves_none() {
    for rewrite_at in 0..4 {
        let (mut rig, mut writer) = (Rig::new(1 << 20), Writer::default());
        let long = "of its roles ".repeat(600);
        writer.commit(&mut rig, Class::SERVER, &[Said::Post("lobby"), said("lobby", &long), Said::Post("lobby")]);
        writer.commit(&mut rig, Class::SERVER, &[Said::Post("hall"), Said::Post("lobby")]);
        let mut rig = restarted(&mut rig, false);
        let whole = rig.state_of("lobby").unwrap();
        let (room, first, last) = (RoomName::new("lobby").unwrap(), Sequence(1), Sequence(u64::MAX));
        let erasure = Erasure { number: 1, room, user: None, first, last, bound: Bound::UNKNOWN };
        rig.done.clear();
        rig.journal.read_state(RoomId::of("lobby"));
        rig.journal.begin_reads(&mut rig.done);
        for at in 0..4 {
            if at == rewrite_at {
                rig.answer(Answer::Erase(std::sync::Arc::new(erasure.clone())));
                rig.rewrite(1, &erasure);
            }
            rig.asks().into_iter().for_each(|ask| rig.perform(ask));
        }
        rig.work();
        let Some(Done::State { state, .. }) = rig.done.pop() else { panic!("{:?}", rig.done) };
        assert_eq!(state, Ok(whole), "rewritten behind {rewrite_at} reads");
        writer.check(&mut rig, "erased");
        let gone = rig.pages(want(1, 3)).unwrap();
        assert!(gone.count == 3 && !gone.messages.windows(6).any(|there| there == b"lobby "), "it was erased");
    }
}

/// Numbers that look like chance, by Knuth's MMIX; the low bits are left out, since they hardly change.
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound
    }
}

/// A log that is written, dropped, refused and begun again by chance, and who writes it.
struct World {
    rig: Rig,
    writer: Writer,
    chance: Chance,
    /// The class of each room, which a start may change.
    classes: [Class; ROOMS.len()],
    versions: usize,
    dropped: u64,
    carried: usize,
}

impl World {
    fn new(seed: u64) -> Self {
        let (rig, writer, chance) = (Rig::new(16 * PAGE), Writer::default(), Chance(seed * 2 + 1));
        World { rig, writer, chance, classes: [Class::SERVER; ROOMS.len()], versions: 0, dropped: 0, carried: 0 }
    }

    /// Some of what may be said in one commit.
    fn some(&mut self) -> (Class, Vec<Said>) {
        let class = self.classes[self.chance.below(ROOMS.len())];
        let rooms: Vec<&'static str> =
            ROOMS.into_iter().zip(self.classes).filter(|(_, of)| *of == class).map(|(room, _)| room).collect();
        let count = 1 + self.chance.below(4);
        let some = (0..count).map(|_| {
            let room = rooms[self.chance.below(rooms.len())];
            if self.chance.below(6) > 0 {
                return Said::Post(room);
            }
            self.versions += 1;
            let padding = [0, 10, 3_000, 6_000][self.chance.below(4)];
            Said::State(room, format!("{room} {}{}", self.versions, "-".repeat(padding)).into_bytes())
        });
        (class, some.collect())
    }

    fn refuse(&mut self) {
        let (class, said) = self.some();
        self.writer.refuse(&mut self.rig, class, &said);
        // Whose state was refused says what holds instead; who only posted gives the places again.
        let again: Vec<Said> = said
            .into_iter()
            .map(|say| match say {
                Said::State(room, _) => Said::State(room, self.writer.states.get(room).cloned().unwrap_or_default()),
                post @ Said::Post(_) => post,
            })
            .collect();
        self.carried += self.writer.commit(&mut self.rig, class, &again).len();
    }

    fn restart(&mut self) {
        let is_scanned = self.chance.below(2) == 0;
        self.rig = restarted(&mut self.rig, is_scanned);
        self.writer.forget(self.rig.journal.catalog());
        for at in 0..ROOMS.len() {
            self.classes[at] = if self.chance.below(3) == 0 { OTHER } else { Class::SERVER };
        }
    }

    fn drop_oldest(&mut self) {
        while self.rig.write_index() {}
        if let Some((&oldest, _)) = self.rig.indexes.first_key_value() {
            drop_segment(&mut self.rig, oldest);
            self.dropped += 1;
        }
    }

    fn disturb(&mut self) {
        match self.chance.below(40) {
            0..=25 => {
                let (class, said) = self.some();
                self.carried += self.writer.commit(&mut self.rig, class, &said).len();
            }
            26..=30 => self.drop_oldest(),
            31..=32 => self.refuse(),
            33 => self.restart(),
            34 => self.rig.writes_indexes = self.chance.below(2) == 0,
            35 => drop(self.rig.write_index()),
            _ => {}
        }
    }
}

#[test]
fn whatever_happens_the_newest_part_of_every_room_names_its_newest_state() {
    let (mut dropped, mut carried) = (0, 0);
    for seed in 0..60 {
        let mut world = World::new(seed);
        for step in 0..200 {
            world.disturb();
            world.writer.check(&mut world.rig, &format!("seed {seed}, step {step}"));
        }
        (dropped, carried) = (dropped + world.dropped, carried + world.carried);
    }
    assert!(dropped > 200 && carried > 500, "{dropped} {carried}");
}
