//! One core's log as a machine: takes records, says what is to be written and read, and knows what is where.
//!
//! ```text
//!  records ─▶ commit ─▶ Ask::Append ─(disk)─▶ Answer::Written ─▶ Answer::Synced
//!  wants ──▶ read ───▶ Ask::Read ───(disk)─▶ Answer::Read ────▶ Done::Page, Done::Keys, Done::State
//! ```
//!
//! Each retention class has segments of its own, since whole files go; commits are of one class each.
//!
//! Invariants:
//! - One append is in flight, and the next block starts where it ends. So a block that does not check has no successor.
//! - After a write or sync that failed nothing is written any more ([`State::Failed`]); after one that found no space the
//!   segment is left as it is, and writing goes on in a fresh one.
//! - What was written is read only behind its append's answer.
//! - What a call does is bounded by the commit or the page that it is about. What grows with the rooms of a segment or of the
//!   core is done by the disk's side, or in slices by [`Journal::work`].
//! - A read that failed takes nothing away; bytes are asked once for all who wait for them.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use banter_protocol::ids::RoomId;
use slab::Slab;

use crate::PAGE_BYTES;
use crate::block::{self, BlockPlace, BlockWriter, block_bytes};
use crate::cache::PageCache;
use crate::catalog::{Catalog, CutRooms};
use crate::index::{Entry, IndexBuilder, Opening};
use crate::indexing::Indexing;
use crate::reading::{FileRange, LogFile, Reading};
use crate::record::{Level, Record};
use crate::segment::{Class, SegmentHeader};

mod asks;
mod carrying;
mod erasing;
mod places;
mod readings;

pub use asks::{Answer, Ask, Done, JournalParts, Reach, State};
pub use places::{LogPlaces, SegmentEnd};

use places::Places;

/// Steps of [`Journal::work`] in a turn of a core: 0.2 ms with 100,000 rooms in a build for tests, since nearly each
/// of them misses the caches.
pub const WORK_STEPS_MAX: usize = 256;
/// Segments of a class that are had ready, once the disk was too slow with one.
const READY_UNDER_LOAD: usize = 2;

/// The machine.
#[derive(Debug)]
pub struct Journal {
    run: u64,
    commit_bytes_max: usize,
    reads_max: usize,
    work_steps_max: usize,
    catalog: Catalog,
    /// What is written to, by class: as many as the configuration has.
    lanes: BTreeMap<Class, ClassLane>,
    indexing: Indexing,
    places: Places,
    append: Option<Append>,
    has_failed: bool,
    cache: RefCell<PageCache>,
    readings: Slab<Reading>,
    waiting: VecDeque<u32>,
    /// Bytes that are being read, and who waits for them.
    reading: BTreeMap<FileRange, Vec<u32>>,
    /// Indexes that are to be made again.
    mending: BTreeSet<u64>,
    /// Segments that are damaged, as their indexes are.
    lost: BTreeSet<u64>,
    /// Bytes of indexes that are being read, and were replaced meanwhile.
    replaced: BTreeSet<FileRange>,
    /// A segment that is to be left behind the commit in flight.
    leaving: Option<Leaving>,
    reads: usize,
    asks: Vec<Ask>,
}

/// The segments of a class.
#[derive(Debug)]
struct ClassLane {
    active: Option<Active>,
    ready: VecDeque<SegmentHeader>,
    preparing: usize,
    ready_wanted: usize,
    has_no_space: bool,
    is_full: bool,
}

impl Default for ClassLane {
    fn default() -> Self {
        let ready = VecDeque::new();
        ClassLane { active: None, ready, preparing: 0, ready_wanted: 1, has_no_space: false, is_full: false }
    }
}

impl ClassLane {
    /// Takes back one that was not begun.
    fn take_ready(&mut self, segment: u64) -> Option<SegmentHeader> {
        let at = self.ready.iter().position(|ready| ready.id == segment)?;
        self.ready.remove(at)
    }
}

/// When a segment is left that is written, or will be.
#[derive(Clone, Copy, Debug)]
struct Leaving {
    segment: u64,
    /// If its first message is at most of that time. One without a message counts as one of the largest time.
    first_ms: u64,
    /// Also where there is no next one, if its newest message is at most of that time.
    newest_ms: Option<u64>,
}

#[derive(Debug)]
struct Active {
    place: BlockPlace,
    index: IndexBuilder,
    /// The time of its first message, milliseconds since 1970; the largest number: it has none.
    first_ms: u64,
    /// No block says of the last one that it was on the disk.
    is_unproved: bool,
}

impl Active {
    /// Bytes of records that fit what is left of it, with a proof behind them.
    fn left_bytes(&self) -> usize {
        let left = self.place.segment.file_bytes.saturating_sub(self.place.offset + PAGE_BYTES as u64);
        // Blocks take whole pages.
        (left / PAGE_BYTES as u64 * PAGE_BYTES as u64).saturating_sub(block::HEADER_BYTES as u64) as usize
    }

    /// Whether any block does.
    fn takes_any(&self) -> bool {
        self.left_bytes() > 0
    }
}

#[derive(Debug)]
struct Append {
    class: Class,
    entries: Vec<(Entry, u64)>,
    /// The names of rooms that begin with it.
    names: BTreeMap<RoomId, Box<str>>,
    offset: u64,
    behind: BlockPlace,
    wanted: Reach,
    /// It holds no record, and nobody waits for it.
    is_proof: bool,
    /// All before it is on the disk: with it the last block is proved.
    proves: bool,
}

impl Journal {
    /// A journal that has asked for its first segment.
    pub fn new(parts: JournalParts) -> Self {
        let mut journal = Journal {
            run: parts.run,
            commit_bytes_max: parts.commit_bytes_max,
            reads_max: parts.reads_max,
            work_steps_max: parts.work_steps_max,
            catalog: parts.catalog,
            lanes: BTreeMap::new(),
            indexing: Indexing::default(),
            places: Places::default(),
            append: None,
            has_failed: false,
            cache: RefCell::new(PageCache::new(parts.cache_bytes_max)),
            readings: Slab::new(),
            waiting: VecDeque::new(),
            reading: BTreeMap::new(),
            mending: BTreeSet::new(),
            lost: BTreeSet::new(),
            replaced: BTreeSet::new(),
            leaving: None,
            reads: 0,
            asks: Vec::new(),
        };
        parts.indexes.into_iter().for_each(|(segment, index)| journal.indexing.begin(segment, index));
        journal.prepare(Class::SERVER);
        journal
    }

    /// Where the rooms lie.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where the rooms lie, to give up some.
    pub fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// Whether posts to rooms of that class are taken.
    pub fn state(&self, class: Class) -> State {
        match self.lanes.get(&class) {
            _ if self.has_failed => State::Failed,
            Some(lane) if lane.is_full => State::Full,
            _ => State::Open,
        }
    }

    /// The worst that holds for any class.
    pub fn worst_state(&self) -> State {
        let any_full = self.lanes.values().any(|lane| lane.is_full);
        if any_full && !self.has_failed { State::Full } else { self.state(Class::SERVER) }
    }

    /// Whether a commit of that class may begin: none is in flight, and there is a segment.
    pub fn is_idle(&self, class: Class) -> bool {
        let has_segment = |lane: &ClassLane| lane.active.is_some() || !lane.ready.is_empty();
        self.append.is_none() && !self.has_failed && self.lanes.get(&class).is_some_and(has_segment)
    }

    /// Whether a commit is in flight.
    pub fn is_committing(&self) -> bool {
        self.append.is_some()
    }

    /// Bytes of records that a commit takes at most.
    pub fn commit_bytes_max(&self) -> usize {
        self.commit_bytes_max
    }

    /// Reads under way, and those that wait.
    pub fn reads(&self) -> (usize, usize) {
        (self.reads, self.waiting.len())
    }

    /// Bytes of pages that are kept in memory.
    pub fn cache_bytes(&self) -> u64 {
        self.cache.borrow().bytes()
    }

    /// What the disk is to do; the caller takes it out.
    pub fn asks_mut(&mut self) -> &mut Vec<Ask> {
        &mut self.asks
    }

    /// Makes room for a commit of so many bytes of records, in another segment where it does not fit what is left of this
    /// one. `false`: there is no other yet. So nobody builds a block that has no place.
    pub fn make_room(&mut self, class: Class, record_bytes: usize) -> bool {
        self.make_room_with_states(class, record_bytes, std::iter::empty()).is_some()
    }

    /// Bytes of a segment that so many of records take, and the proof of them.
    fn bytes_for(record_bytes: usize) -> u64 {
        block_bytes(record_bytes) as u64 + PAGE_BYTES as u64
    }

    fn fits_active(&self, class: Class, record_bytes: usize) -> bool {
        let end = |active: &Active| active.place.offset + Self::bytes_for(record_bytes);
        let fits = |active: &Active| end(active) <= active.place.segment.file_bytes;
        self.lanes.get(&class).and_then(|lane| lane.active.as_ref()).is_some_and(fits)
    }

    /// Bytes of records that the next commit of that class takes: where no further segment is ready, what is left of the one
    /// that is written to.
    pub fn room(&self, class: Class) -> usize {
        let lane = self.lanes.get(&class);
        if lane.is_some_and(|lane| !lane.ready.is_empty()) {
            return self.commit_bytes_max;
        }
        let active = lane.and_then(|lane| lane.active.as_ref());
        active.map_or(0, |active| active.left_bytes().min(self.commit_bytes_max))
    }

    /// Whether so many bytes of records wait in vain: they do not fit what is left of the segment that is written to, and
    /// there is no space for another.
    pub fn lacks_space_for(&self, class: Class, record_bytes: usize) -> bool {
        let Some(lane) = self.lanes.get(&class).filter(|lane| lane.has_no_space && lane.ready.is_empty()) else {
            return false;
        };
        lane.active.as_ref().is_none_or(|active| active.left_bytes() < record_bytes)
    }

    /// Begins a commit of records, each with the name of its room. `false`: it does not fit what is left of the segment,
    /// and there is no other yet.
    pub fn commit<'a>(
        &mut self,
        class: Class,
        records: impl Iterator<Item = (Record<'a>, Entry, &'a str)> + Clone,
        wanted: Reach,
    ) -> bool {
        debug_assert!(self.is_idle(class), "one commit at a time");
        // With a record of its room it is as old as that, whatever the room has elsewhere.
        debug_assert!(
            records.clone().all(|(_, entry, _)| self.is_said_now(&entry)
                || records.clone().any(|(_, other, _)| other.room == entry.room && other.kind.is_numbered())),
            "a state of an earlier place"
        );
        let record_bytes: usize = records.clone().map(|(record, ..)| record.bytes()).sum();
        if !self.make_room(class, record_bytes) {
            return false;
        }
        let Some(active) = self.lanes.get(&class).and_then(|lane| lane.active.as_ref()) else { return false };
        let place = active.place;
        let mut block = BlockWriter::with_room(&place.segment, record_bytes);
        let (mut entries, mut names) = (Vec::new(), BTreeMap::new());
        for (record, entry, name) in records {
            let at = block.push(&record);
            entries.push((entry, place.offset + at as u64));
            if !active.index.has(entry.room) {
                names.entry(entry.room).or_insert_with(|| name.into());
            }
        }
        let (block, behind) = block.finish(&place);
        let offset = place.offset;
        self.append = Some(Append { class, entries, names, offset, behind, wanted, is_proof: false, proves: false });
        self.ask_append(&place, block, wanted);
        true
    }

    /// A state is no older than what its room has: otherwise the room would end there.
    fn is_said_now(&self, entry: &Entry) -> bool {
        let is_behind = |room: crate::catalog::RoomLog| entry.sequence >= room.head && entry.epoch >= room.epoch;
        entry.kind.is_numbered() || self.catalog.room(entry.room).is_none_or(is_behind)
    }

    fn ask_append(&mut self, place: &BlockPlace, block: Vec<u8>, wanted: Reach) {
        let (segment, offset, is_behind_synced) = (place.segment, place.offset, place.synced == place.number);
        self.asks.push(Ask::Append { segment, offset, block, wanted, is_behind_synced });
    }

    /// Asks whether the log is this machine's alone, where another may have taken it over: [`Done::Proved`] comes, or the journal goes.
    pub fn ask_proof(&mut self) {
        self.asks.push(Ask::Prove);
    }

    /// Whether the last block of some segment could be taken for the torn one of a crash if it were damaged: nothing says
    /// that it was on the disk.
    pub fn has_unproved(&self) -> bool {
        !self.has_failed && self.unproved().is_some()
    }

    /// A class whose last block is not proved, and where the proof goes. Where none fits any more, the seal has it.
    fn unproved(&self) -> Option<(Class, BlockPlace)> {
        self.lanes.iter().find_map(|(&class, lane)| {
            let active = lane.active.as_ref().filter(|active| active.is_unproved)?;
            let fits = active.place.offset + PAGE_BYTES as u64 <= active.place.segment.file_bytes;
            fits.then_some((class, active.place))
        })
    }

    /// Begins to write a block without records behind a segment's last one. What was only written gets to the disk with it,
    /// and is proved by the next.
    pub fn prove(&mut self) {
        if self.append.is_some() || self.has_failed {
            return;
        }
        let Some((class, place)) = self.unproved() else { return };
        let (block, behind) = BlockWriter::of(&place.segment).finish(&place);
        let (proves, wanted) = (place.synced == place.number, Reach::Synced);
        let (entries, names, offset) = (Vec::new(), BTreeMap::new(), place.offset);
        self.append = Some(Append { class, entries, names, offset, behind, wanted, is_proof: true, proves });
        self.ask_append(&place, block, wanted);
    }

    /// Goes on in the segment that was made ahead, and seals the one before.
    fn rotate(&mut self, class: Class, bytes: u64) -> bool {
        let lane = self.lanes.entry(class).or_default();
        let Some(next) = lane.ready.pop_front() else {
            // Smaller posts may still fit what is left.
            lane.is_full = lane.has_no_space && !lane.active.as_ref().is_some_and(Active::takes_any);
            // It was too slow with one.
            lane.ready_wanted = READY_UNDER_LOAD;
            self.prepare(class);
            return false;
        };
        self.seal(class, true);
        self.catalog.has_parts(&next, 0);
        let (place, index) = (BlockPlace::first_of(next), IndexBuilder::default());
        let fits = place.offset + bytes <= next.file_bytes;
        self.lanes.entry(class).or_default().active =
            Some(Active { place, index, first_ms: u64::MAX, is_unproved: false });
        self.prepare(class);
        fits
    }

    fn prepare(&mut self, class: Class) {
        let lane = self.lanes.entry(class).or_default();
        while lane.ready.len() + lane.preparing < lane.ready_wanted {
            let is_urgent = lane.active.is_none() && lane.ready.is_empty() && lane.preparing == 0;
            lane.preparing += 1;
            self.asks.push(Ask::Prepare { class, is_urgent });
        }
    }

    /// Ends the run: nothing is written any more. `false`: a write failed, or is still under way.
    pub fn end(&mut self) -> bool {
        if self.append.is_some() || self.has_failed {
            return false;
        }
        let classes: Vec<Class> = self.lanes.keys().copied().collect();
        classes.into_iter().for_each(|class| self.seal(class, true));
        self.has_failed = true;
        true
    }

    /// Ends the segment that is being written. One without a record is needed by nobody, and goes.
    fn seal(&mut self, class: Class, is_provable: bool) {
        let Some(active) = self.lanes.get_mut(&class).and_then(|lane| lane.active.take()) else { return };
        let (segment, index) = (active.place.segment.id, Arc::new(active.index));
        let (is_empty, newest_ms) = (index.is_empty(), index.newest_ms());
        self.indexing.begin(segment, index.clone());
        self.places.sealed(segment);
        self.asks.push(Ask::Seal { end: active.place, is_provable, index, newest_ms });
        if is_empty {
            self.catalog.forget_segment(segment);
            self.asks.push(Ask::Release { segment });
        }
    }

    /// Takes what the disk did.
    pub fn handle(&mut self, answer: Answer, done: &mut Vec<Done>) {
        match answer {
            Answer::Segment(header) => self.segment_is_ready(header),
            Answer::NoSpace { class } => self.no_space(class),
            Answer::Written => self.written(done),
            Answer::Synced => self.synced(done),
            Answer::AppendFailed { is_full } => self.append_failed(is_full, done),
            Answer::Read { range, bytes } => self.take_read(range, bytes, done),
            Answer::Cut { segment, rooms, blank_epoch } => {
                self.catalog.raise_blank(blank_epoch);
                self.cut(segment, rooms);
            }
            Answer::Leave { segment } => self.leave(Leaving { segment, first_ms: u64::MAX, newest_ms: None }),
            Answer::Retire { segment, first_ms, newest_ms } => {
                self.leave(Leaving { segment, first_ms, newest_ms: Some(newest_ms) });
            }
            Answer::Indexed { segment, parts } => self.indexed(segment, parts),
            Answer::NotIndexed { segment, is_damaged } => self.not_indexed(segment, is_damaged),
            Answer::Erase(erasure) => drop(self.erase(&erasure)),
            Answer::Rewritten { segment } => self.rewritten(segment),
            Answer::Erased(erasure) => self.catalog.end_erasure(erasure.room_id(), erasure.number),
            Answer::ForgetFrames { .. } => {}
            Answer::Proved => done.push(Done::Proved),
        }
        self.leave_wanted();
        self.tell_released();
    }

    fn segment_is_ready(&mut self, header: SegmentHeader) {
        let lane = self.lanes.entry(header.class).or_default();
        lane.ready.push_back(header);
        lane.preparing = lane.preparing.saturating_sub(1);
        (lane.has_no_space, lane.is_full) = (false, false);
    }

    fn not_indexed(&mut self, segment: u64, is_damaged: bool) {
        self.mending.remove(&segment);
        if is_damaged && self.catalog.segment(segment).is_some() {
            self.lost.insert(segment);
        }
    }

    fn indexed(&mut self, segment: u64, parts: u32) {
        self.lost.remove(&segment);
        self.places.indexed(segment);
        if self.mending.remove(&segment) {
            self.index_was_replaced(segment);
        }
        self.cache.borrow_mut().forget(segment, LogFile::Index);
        if let Some(&header) = self.catalog.segment(segment) {
            self.catalog.has_parts(&header, parts);
        }
        if let Some(index) = self.indexing.end(segment) {
            self.asks.push(Ask::LetGo { index });
        }
    }

    /// The answer is due even where the segment is not known here. What is written to is not cut: nobody asks that, and
    /// what is still to come would be cut with it.
    fn cut(&mut self, segment: u64, rooms: CutRooms) {
        let is_active = |lane: &ClassLane| lane.active.as_ref().is_some_and(|it| it.place.segment.id == segment);
        if !self.lanes.values().any(is_active) && !self.catalog.cut_segment(segment, rooms) {
            self.asks.push(Ask::Release { segment });
        }
    }

    /// After a write that failed nobody knows what is in the segment: it is not sealed in this run.
    fn leave(&mut self, leaving: Leaving) {
        if self.has_failed {
            return;
        }
        if self.append.is_some() {
            // A core that always writes would never be asked between two commits.
            self.leaving = Some(leaving);
            return;
        }
        let Leaving { segment, first_ms, .. } = leaving;
        let is_active = |active: &Active| active.place.segment.id == segment && active.first_ms <= first_ms;
        let lane = self.lanes.iter().find(|(_, lane)| lane.active.as_ref().is_some_and(is_active));
        if let Some((&class, _)) = lane {
            self.leave_active(class, leaving.newest_ms);
        } else if first_ms == u64::MAX
            && let Some(unused) = self.lanes.values_mut().find_map(|lane| lane.take_ready(segment))
        {
            let (end, index) = (BlockPlace::first_of(unused), Arc::default());
            self.asks.push(Ask::Seal { end, is_provable: false, index, newest_ms: 0 });
            self.asks.push(Ask::Release { segment });
            self.prepare(unused.class);
        }
    }

    /// For the next one; where there is none, posts wait for it, and only what goes at once is left.
    fn leave_active(&mut self, class: Class, newest_ms: Option<u64>) {
        let Some(lane) = self.lanes.get_mut(&class) else { return };
        if !lane.ready.is_empty() {
            self.rotate(class, 0);
        } else if lane.active.as_ref().is_some_and(|active| newest_ms.is_some_and(|at| active.index.newest_ms() <= at))
        {
            // It is full only once it is said again that there is no space, which this makes.
            lane.has_no_space = false;
            self.seal(class, true);
            self.prepare(class);
        }
    }

    fn leave_wanted(&mut self) {
        if self.append.is_none()
            && let Some(leaving) = self.leaving.take()
        {
            self.leave(leaving);
        }
    }

    fn tell_released(&mut self) {
        for segment in self.catalog.take_released() {
            let cache = self.cache.get_mut();
            cache.forget(segment, LogFile::Segment);
            cache.forget(segment, LogFile::Index);
            self.lost.remove(&segment);
            self.asks.push(Ask::Release { segment });
        }
    }

    /// Whether there is something for [`Journal::work`].
    pub fn has_work(&self) -> bool {
        self.catalog.has_cut()
    }

    /// Does a slice of what would take long at once: forgets what was cut. Once a turn. Returns the steps that were taken.
    pub fn work(&mut self) -> usize {
        let steps = self.catalog.forget_cut(self.work_steps_max);
        self.tell_released();
        steps
    }

    fn no_space(&mut self, class: Class) {
        let lane = self.lanes.entry(class).or_default();
        lane.has_no_space = true;
        lane.is_full |= lane.active.is_none() && lane.ready.is_empty();
    }

    fn written(&mut self, done: &mut Vec<Done>) {
        self.enter(Level::Written);
        let Some(append) = &self.append else { return };
        let is_last = !append.wanted.syncs();
        if is_last {
            self.places.reached(&append.behind);
            self.append = None;
        }
        done.push(Done::Committed { synced: false, is_last });
    }

    fn synced(&mut self, done: &mut Vec<Done>) {
        self.enter(Level::Synced);
        let Some(append) = self.append.take() else { return };
        self.places.reached(&append.behind);
        if let Some(active) = self.lanes.get_mut(&append.class).and_then(|lane| lane.active.as_mut()) {
            active.place.synced = active.place.number;
            active.is_unproved &= !append.proves;
        }
        if !append.is_proof {
            done.push(Done::Committed { synced: true, is_last: true });
        }
    }

    /// What has got as far as its room asks can be read: it enters the index. The rest is known only when it has got there
    /// too; a sync that fails would else leave messages that a power cut takes.
    fn enter(&mut self, reached: Level) {
        let Some(append) = &mut self.append else { return };
        let Some(active) = self.lanes.get_mut(&append.class).and_then(|lane| lane.active.as_mut()) else { return };
        for (entry, offset) in append.entries.extract_if(.., |(entry, _)| entry.level <= reached) {
            let opening = || Opening {
                name: append.names.remove(&entry.room).unwrap_or_default(),
                chain: self.catalog.chain_for(&entry),
            };
            active.index.add(&entry, offset, opening);
            active.first_ms = active.first_ms.min(entry.time_ms);
            self.catalog.add_entry(&active.place.segment, &entry);
            active.is_unproved = true;
        }
        if active.place.offset == append.offset {
            active.place = append.behind;
        }
    }

    fn append_failed(&mut self, is_full: bool, done: &mut Vec<Done>) {
        let Some(append) = self.append.take() else { return };
        if is_full {
            // What lies behind the last good block may be half a block, or a whole one whose places are given again.
            self.seal(append.class, false);
            self.prepare(append.class);
            let lane = self.lanes.entry(append.class).or_default();
            lane.is_full = lane.ready.is_empty();
        } else {
            self.has_failed = true;
        }
        if !append.is_proof || self.has_failed {
            done.push(Done::CommitFailed);
        }
    }
}

#[cfg(test)]
mod tests;
