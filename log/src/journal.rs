//! One core's log as a machine: takes records, says what is to be written and read, and knows what is where.
//!
//! ```text
//!  records ─▶ commit ─▶ Ask::Append ─(disk)─▶ Answer::Written ─▶ Answer::Synced
//!  wants ──▶ read ───▶ Ask::Read ───(disk)─▶ Answer::Read ────▶ Done::Page, Done::Keys
//! ```
//!
//! Invariants:
//! - One append is in flight, and the next block starts where it ends. So a block that does not check has no successor.
//! - After a write or sync that failed nothing is written any more ([`State::Failed`]); after one that found no space the
//!   segment is left as it is, and writing goes on in a fresh one.
//! - What was written is read only behind its append's answer.
//! - What a call does is bounded by the commit or the page that it is about. What grows with the rooms of a segment or of the
//!   core is done by the disk's side, or in slices by [`Journal::work`].

use std::collections::VecDeque;
use std::sync::Arc;

use slab::Slab;

use crate::block::{BlockPlace, BlockWriter, block_bytes};
use crate::catalog::Catalog;
use crate::index::{Entry, IndexBuilder, Part};
use crate::indexing::Indexing;
use crate::reading::{KeysRead, KeysWant, LogFile, PageRead, PageWant, Reading, Shelf, Step};
use crate::record::{Level, Record};
use crate::segment::SegmentHeader;
use banter_protocol::ids::RoomId;

/// Steps of [`Journal::work`] in a turn of a core: 0.2 ms with 100,000 rooms in a build for tests, since nearly each
/// of them misses the caches.
pub const WORK_STEPS_MAX: usize = 256;

/// What a journal is made of.
#[derive(Debug)]
pub struct JournalParts {
    /// Which start of the server this is.
    pub run: u64,
    /// Bytes of a segment file.
    pub segment_bytes: u64,
    /// Bytes of records in a commit at most, but for a single one that is larger.
    pub commit_bytes_max: usize,
    /// Reads under way at most.
    pub reads_max: usize,
    /// Steps that one [`Journal::work`] takes at most.
    pub work_steps_max: usize,
    /// Where the rooms of this core lie.
    pub catalog: Catalog,
}

/// How far a block is to get, and at which steps the journal is told: each step wakes a core that sleeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reach {
    /// To the kernel.
    Written,
    /// To the disk; what lies between is not told.
    Synced,
    /// To the kernel, which is told, and to the disk.
    WrittenThenSynced,
}

impl Reach {
    /// Whether it is told that the kernel has it.
    pub fn tells_written(self) -> bool {
        self != Reach::Synced
    }

    /// Whether it is to be safe against a power cut.
    pub fn syncs(self) -> bool {
        self != Reach::Written
    }
}

/// What the disk is to do.
#[derive(Debug)]
pub enum Ask {
    /// Make a segment and have it ready: [`Answer::Segment`] or [`Answer::NoSpace`] comes.
    Prepare,
    /// Write a block, and make it safe if wanted: [`Answer::Written`] and [`Answer::Synced`] come, as far as they are
    /// wanted, or [`Answer::AppendFailed`].
    Append {
        /// The segment.
        segment: SegmentHeader,
        /// Where the block starts.
        offset: u64,
        /// The block.
        block: Vec<u8>,
        /// What is to be told of it.
        wanted: Reach,
        /// All of the segment before it is on the disk: then it is enough that the block itself gets there.
        is_behind_synced: bool,
    },
    /// Nothing more is written to a segment: make all of it safe, and keep its index beside it. [`Answer::Indexed`] comes
    /// when it is there, or the segment is gone.
    Seal {
        /// The segment.
        segment: SegmentHeader,
        /// Its index, to be encoded.
        index: Arc<IndexBuilder>,
        /// The time of its newest message, milliseconds since 1970.
        newest_ms: u64,
        /// Where its blocks end.
        end_offset: u64,
    },
    /// Read: [`Answer::Read`] comes.
    Read {
        /// For the answer.
        ticket: u32,
        /// The segment.
        segment: u64,
        /// Which of its files.
        file: LogFile,
        /// Where the bytes start.
        offset: u64,
        /// How many.
        bytes: usize,
    },
    /// No room of this core needs the segment any more. No answer.
    Release {
        /// The segment.
        segment: u64,
    },
    /// Nobody needs this any more: drop it where nobody waits, since that takes as long as it has rooms. No answer.
    LetGo {
        /// An index that is on the disk.
        index: Arc<IndexBuilder>,
        /// The parts of it.
        parts: Vec<Part>,
    },
}

/// What the disk did.
#[derive(Debug)]
pub enum Answer {
    /// A segment is ready.
    Segment(SegmentHeader),
    /// None could be made: the disk is full. It is tried again, without a further ask.
    NoSpace,
    /// The append in flight is with the kernel.
    Written,
    /// The append in flight is on the disk.
    Synced,
    /// The append in flight failed.
    AppendFailed {
        /// For want of space, and not for a fault of the disk.
        is_full: bool,
    },
    /// A read is done.
    Read {
        /// Of which ask.
        ticket: u32,
        /// What was read; `None`: it failed.
        bytes: Option<Vec<u8>>,
    },
    /// Every room forgets what it has in that segment, which is sealed, and before it: [`Ask::Release`] comes.
    Cut {
        /// The segment.
        segment: u64,
    },
    /// The index of a sealed segment is on the disk.
    Indexed {
        /// The segment.
        segment: u64,
        /// Its parts, with their places in the file; none if the segment went before.
        parts: Vec<Part>,
    },
}

/// What became of it.
#[derive(Debug, PartialEq, Eq)]
pub enum Done {
    /// The commit reached that level; a synced one is over.
    Committed {
        /// Whether it is safe against a power cut.
        synced: bool,
        /// Whether it is over.
        is_last: bool,
    },
    /// The commit failed: none of its messages may be acknowledged, and none shown.
    CommitFailed,
    /// A page was read.
    Page {
        /// As it was given when the page was asked for.
        ticket: u32,
        /// `Err`: that segment does not hold what it should, or could not be read.
        page: Result<PageRead, u64>,
    },
    /// Keys were read.
    Keys {
        /// As it was given when they were asked for.
        ticket: u32,
        /// All that were wanted. `Err`: what that segment holds of them could not be read.
        keys: Result<KeysRead, u64>,
    },
}

/// Whether posts are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// Yes.
    Open,
    /// No: there is no space. It may come back.
    Full,
    /// No, and never again in this run: a write or a sync failed.
    Failed,
}

/// The machine.
#[derive(Debug)]
pub struct Journal {
    run: u64,
    segment_bytes: u64,
    commit_bytes_max: usize,
    reads_max: usize,
    work_steps_max: usize,
    catalog: Catalog,
    active: Option<Active>,
    indexing: Indexing,
    ready: Option<SegmentHeader>,
    is_preparing: bool,
    has_no_space: bool,
    append: Option<Append>,
    state: State,
    readings: Slab<ReadingSlot>,
    waiting: VecDeque<u32>,
    reads: usize,
    asks: Vec<Ask>,
}

#[derive(Debug)]
struct Active {
    place: BlockPlace,
    index: IndexBuilder,
}

#[derive(Debug)]
struct Append {
    entries: Vec<Entry>,
    offset: u64,
    behind: BlockPlace,
    wanted: Reach,
}

#[derive(Debug)]
struct ReadingSlot {
    reading: Reading,
    is_keys: bool,
    /// The segment that is being read.
    segment: u64,
}

impl Journal {
    /// A journal that has asked for its first segment.
    pub fn new(parts: JournalParts) -> Self {
        let mut journal = Journal {
            run: parts.run,
            segment_bytes: parts.segment_bytes,
            commit_bytes_max: parts.commit_bytes_max,
            reads_max: parts.reads_max,
            work_steps_max: parts.work_steps_max,
            catalog: parts.catalog,
            active: None,
            indexing: Indexing::default(),
            ready: None,
            is_preparing: false,
            has_no_space: false,
            append: None,
            state: State::Open,
            readings: Slab::new(),
            waiting: VecDeque::new(),
            reads: 0,
            asks: Vec::new(),
        };
        journal.prepare();
        journal
    }

    /// Where the rooms lie.
    pub fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// Where the rooms lie, to cut some.
    pub fn catalog_mut(&mut self) -> &mut Catalog {
        &mut self.catalog
    }

    /// Whether posts are taken.
    pub fn state(&self) -> State {
        self.state
    }

    /// Whether a commit may begin: none is in flight, and there is a segment, or there never will be.
    pub fn is_idle(&self) -> bool {
        self.append.is_none() && self.state == State::Open && (self.active.is_some() || self.ready.is_some())
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

    /// What the disk is to do; the caller takes it out.
    pub fn asks_mut(&mut self) -> &mut Vec<Ask> {
        &mut self.asks
    }

    /// Makes room for a commit of so many bytes of records, in another segment where it does not fit what is left of this
    /// one. `false`: there is no other yet. So nobody builds a block that has no place.
    pub fn make_room(&mut self, record_bytes: usize) -> bool {
        let bytes = block_bytes(record_bytes) as u64;
        let fits = |active: &Active| active.place.offset + bytes <= self.segment_bytes;
        self.active.as_ref().is_some_and(fits) || self.rotate()
    }

    /// Begins a commit. `false`: it does not fit what is left of the segment, and there is no other yet.
    pub fn commit<'a>(&mut self, records: impl Iterator<Item = (Record<'a>, Entry)>, wanted: Reach) -> bool {
        debug_assert!(self.is_idle(), "one commit at a time");
        let (mut block, mut entries) = (BlockWriter::default(), Vec::new());
        for (record, entry) in records {
            block.push(&record);
            entries.push(entry);
        }
        if !self.make_room(block.body_bytes()) {
            return false;
        }
        let Some(active) = &self.active else { return false };
        let (block, behind) = block.finish(&active.place);
        let (segment, offset) = (active.place.segment, active.place.offset);
        let is_behind_synced = active.place.synced == active.place.number;
        self.append = Some(Append { entries, offset, behind, wanted });
        self.asks.push(Ask::Append { segment, offset, block, wanted, is_behind_synced });
        true
    }

    /// Goes on in the segment that was made ahead, and seals the one before.
    fn rotate(&mut self) -> bool {
        let Some(next) = self.ready.take() else {
            if self.has_no_space {
                self.state = State::Full;
            }
            return false;
        };
        self.seal();
        self.active = Some(Active { place: BlockPlace::first_of(next), index: IndexBuilder::default() });
        self.prepare();
        true
    }

    fn prepare(&mut self) {
        if !self.is_preparing && self.ready.is_none() {
            self.is_preparing = true;
            self.asks.push(Ask::Prepare);
        }
    }

    /// Ends the run: nothing is written any more. `false`: a write failed, or is still under way.
    pub fn end(&mut self) -> bool {
        if self.append.is_some() || self.state == State::Failed {
            return false;
        }
        self.seal();
        self.state = State::Failed;
        true
    }

    /// Ends the segment that is being written. One without a message is needed by nobody, and goes.
    fn seal(&mut self) {
        let Some(active) = self.active.take() else { return };
        let segment = active.place.segment;
        let (index, end_offset) = (Arc::new(active.index), active.place.offset);
        self.indexing.begin(segment.id, index.clone());
        self.asks.push(Ask::Seal { segment, newest_ms: index.newest_ms(), index, end_offset });
        if !self.catalog.needs(segment.id) {
            self.asks.push(Ask::Release { segment: segment.id });
        }
    }

    /// Asks for a page; the answer carries the ticket that comes back.
    pub fn read_page(&mut self, want: PageWant) -> u32 {
        self.read(ReadingSlot { reading: Reading::page(want, self.run), is_keys: false, segment: 0 })
    }

    /// Asks for the newest keys of a room; the answer carries the ticket that comes back.
    pub fn read_keys(&mut self, room: RoomId, want: KeysWant) -> u32 {
        let reading = Reading::keys(room, want, self.run);
        self.read(ReadingSlot { reading, is_keys: true, segment: 0 })
    }

    fn read(&mut self, slot: ReadingSlot) -> u32 {
        let ticket = self.readings.insert(slot) as u32;
        self.waiting.push_back(ticket);
        ticket
    }

    /// Begins the reads that wait, as far as they may be under way. Their answers, if they need none of the disk.
    pub fn begin_reads(&mut self, done: &mut Vec<Done>) {
        while self.reads < self.reads_max
            && let Some(ticket) = self.waiting.pop_front()
        {
            self.reads += 1;
            self.step(ticket, None, done);
        }
    }

    fn step(&mut self, ticket: u32, bytes: Option<&[u8]>, done: &mut Vec<Done>) {
        let active = self.active.as_ref().map(|active| (active.place.segment.id, &active.index));
        let shelf = Shelf { catalog: &self.catalog, active, indexing: &self.indexing };
        let Some(slot) = self.readings.get_mut(ticket as usize) else { return };
        let step = match bytes {
            None => slot.reading.start(shelf),
            Some(bytes) => slot.reading.take(bytes, shelf),
        };
        match step {
            Step::Read { segment, file, offset, bytes } => {
                slot.segment = segment;
                self.asks.push(Ask::Read { ticket, segment, file, offset, bytes });
            }
            Step::Page(page) => self.end_read(ticket, Done::Page { ticket, page: Ok(page) }, done),
            Step::Keys(keys) => self.end_read(ticket, Done::Keys { ticket, keys: Ok(keys) }, done),
            Step::Lost { segment } => {
                slot.segment = segment;
                self.lose(ticket, done);
            }
        }
    }

    fn is_at_index(&self, ticket: u32) -> bool {
        self.readings.get(ticket as usize).is_some_and(|slot| slot.reading.is_at_index())
    }

    /// What was read is not what should be there, or could not be read.
    fn lose(&mut self, ticket: u32, done: &mut Vec<Done>) {
        let Some(slot) = self.readings.get_mut(ticket as usize) else { return };
        let segment = slot.segment;
        if !self.catalog.needs(segment) {
            // It was cut meanwhile, and is not damaged.
            slot.reading.leave(segment);
            return self.step(ticket, None, done);
        }
        let lost = if slot.is_keys {
            Done::Keys { ticket, keys: Err(segment) }
        } else {
            Done::Page { ticket, page: Err(segment) }
        };
        self.end_read(ticket, lost, done);
    }

    fn end_read(&mut self, ticket: u32, end: Done, done: &mut Vec<Done>) {
        self.readings.try_remove(ticket as usize);
        self.reads -= 1;
        done.push(end);
    }

    /// Takes what the disk did.
    pub fn handle(&mut self, answer: Answer, done: &mut Vec<Done>) {
        match answer {
            Answer::Segment(header) => {
                (self.ready, self.is_preparing, self.has_no_space) = (Some(header), false, false);
                if self.state == State::Full {
                    self.state = State::Open;
                }
            }
            Answer::NoSpace => self.no_space(),
            Answer::Written => self.written(done),
            Answer::Synced => {
                self.enter(Level::Synced);
                if self.append.take().is_some() {
                    if let Some(active) = &mut self.active {
                        active.place.synced = active.place.number;
                    }
                    done.push(Done::Committed { synced: true, is_last: true });
                }
            }
            Answer::AppendFailed { is_full } => self.append_failed(is_full, done),
            Answer::Read { ticket, bytes } => match bytes {
                Some(bytes) => self.step(ticket, Some(&bytes), done),
                None if self.is_at_index(ticket) => self.step(ticket, Some(&[]), done),
                None => self.lose(ticket, done),
            },
            Answer::Cut { segment } => self.cut(segment),
            Answer::Indexed { segment, parts } => self.indexing.is_written(segment, parts),
        }
        self.tell_released();
    }

    /// The answer is due even where no room here needs the segment. What is written to is not cut: nobody asks that, and
    /// what is still to come would be cut with it.
    fn cut(&mut self, segment: u64) {
        let is_active = self.active.as_ref().is_some_and(|active| active.place.segment.id == segment);
        if !is_active && !self.catalog.cut_segment(segment) {
            self.asks.push(Ask::Release { segment });
        }
    }

    fn tell_released(&mut self) {
        let active = self.active.as_ref().map(|active| active.place.segment.id);
        for segment in self.catalog.take_released() {
            // The one that is being written is told when it is sealed.
            if active != Some(segment) {
                self.asks.push(Ask::Release { segment });
            }
        }
    }

    /// Whether there is something for [`Journal::work`].
    pub fn has_work(&self) -> bool {
        self.indexing.has_written() || self.catalog.has_cut()
    }

    /// Does a slice of what would take long at once: takes over where the parts of an index lie, and forgets what was cut.
    /// Once a turn. Returns the steps that were taken.
    pub fn work(&mut self) -> usize {
        let told = self.indexing.tell(&mut self.catalog, self.work_steps_max, &mut self.asks);
        let forgotten = self.catalog.forget_cut(self.work_steps_max - told);
        self.tell_released();
        told + forgotten
    }

    fn no_space(&mut self) {
        self.has_no_space = true;
        if self.active.is_none() && self.state == State::Open {
            self.state = State::Full;
        }
    }

    fn written(&mut self, done: &mut Vec<Done>) {
        self.enter(Level::Written);
        let Some(append) = &self.append else { return };
        let is_last = !append.wanted.syncs();
        if is_last {
            self.append = None;
        }
        done.push(Done::Committed { synced: false, is_last });
    }

    /// What has got as far as its room asks can be read: it enters the index. The rest is known only when it has got there
    /// too; a sync that fails would else leave messages that a power cut takes.
    fn enter(&mut self, reached: Level) {
        let (Some(append), Some(active)) = (&mut self.append, &mut self.active) else { return };
        for entry in append.entries.extract_if(.., |entry| entry.level <= reached) {
            active.index.add(&entry, append.offset);
            self.catalog.add_entry(&active.place.segment, &entry);
        }
        if active.place.offset == append.offset {
            active.place = append.behind;
        }
    }

    fn append_failed(&mut self, is_full: bool, done: &mut Vec<Done>) {
        if self.append.take().is_none() {
            return;
        }
        if is_full {
            // What lies behind the last good block may be half a block, or a whole one whose places are given again.
            self.seal();
            self.prepare();
            self.state = if self.ready.is_some() { State::Open } else { State::Full };
        } else {
            self.state = State::Failed;
        }
        done.push(Done::CommitFailed);
    }
}

#[cfg(test)]
mod tests;
