//! A journal with a disk in memory, for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::{Change, Kept, State, Views, read_message, write_kept, write_state};
use banter_protocol::request::{Body, BodyFormat};

use crate::PAGE_BYTES;
use crate::block::{self, BlockWriter};
use crate::catalog::{Catalog, CutRooms, Past};
use crate::index::{Entry, HEADER_BYTES, IndexBuilder, IndexHeader, Opening, Part, read_table};
use crate::journal::{Answer, Ask, Done, Journal, JournalParts, Reach};
use crate::key::KeyedPost;
use crate::reading::{FileRange, KeysRead, KeysWant, LogFile, PageRead, PageWant, ReadFault, StateRead};
use crate::record::{Author, Level, Record, RecordKind, room_tag};
use crate::scan::Scan;
use crate::segment::{Class, SegmentHeader};

/// The start of the server that the rig's journals belong to.
pub(crate) const RUN: u64 = 9;
/// Reads that no test needs: one that does not end.
const READS_MAX: usize = 200_000;

/// A record as a test says it; its body says room and sequence.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Post {
    pub kind: RecordKind,
    pub room: &'static str,
    pub epoch: u64,
    pub sequence: u64,
    pub is_keyed: bool,
    pub user: &'static str,
    pub slot: u32,
    pub body_bytes: usize,
}

impl Post {
    /// One of the room "lobby", which has a block for itself.
    pub(crate) fn at(sequence: u64) -> Self {
        let (room, user, kind) = ("lobby", "ann", RecordKind::Message);
        Post { kind, room, epoch: 1, sequence, is_keyed: false, user, slot: 0, body_bytes: 100 }
    }

    pub(crate) fn author(&self) -> Author {
        Author { core: 0, slot: self.slot, generation: 1 }
    }

    /// Its frame under that epoch.
    pub(crate) fn frame_of(&self, epoch: u64) -> Vec<u8> {
        let (epoch, sequence, time_ms) = (Epoch(epoch), Sequence(self.sequence), 1_000 * self.sequence);
        let (room, user) = (self.room, self.user);
        let key = format!("key {}", self.sequence);
        let text = format!("{} {}{:05}", self.room, ".".repeat(self.body_bytes), self.sequence);
        let (mut frame, mut views, bytes) = (Vec::new(), Vec::new(), text.as_bytes());
        assert!(Views::write("red", bytes, &mut views), "a class with a name");
        let kept = match self.kind {
            RecordKind::Message | RecordKind::Viewed => {
                let (key, body) = (self.is_keyed.then_some(&key[..]), Body { format: BodyFormat::Bytes, bytes });
                let message = Message { epoch, sequence, time_ms, room, user, key, body };
                let has_views = self.kind == RecordKind::Viewed;
                Kept::Message(message, if has_views { Views::read(&views).unwrap() } else { Views::default() })
            }
            RecordKind::Change => {
                Kept::Change(Change { epoch, sequence, time_ms, room, user, target: Sequence(1), what: 1, body: bytes })
            }
            RecordKind::Tombstone => Kept::Erased { room, epoch, sequence },
            RecordKind::State => {
                write_state(&State { epoch, sequence, time_ms, room, body: bytes }, &mut frame);
                return frame;
            }
        };
        write_kept(&kept, &mut frame);
        frame
    }

    pub(crate) fn key(&self) -> Option<KeyedPost> {
        KeyedPost::of(&read_message(&self.frame_of(self.epoch)).unwrap(), None)
    }

    pub(crate) fn record<'a>(&self, level: Level, frame: &'a [u8]) -> Record<'a> {
        let message = Record::message(RoomId::of(self.room), level, self.author(), frame);
        Record { kind: self.kind, room_tag: room_tag(RoomId::of(self.room)), ..message }
    }
}

/// The frames of posts of "lobby" under epoch 1, one behind another, as a page has them.
pub(crate) fn frames(sequences: impl IntoIterator<Item = u64>) -> Vec<u8> {
    sequences.into_iter().flat_map(|sequence| Post::at(sequence).frame_of(1)).collect()
}

/// All that there may be of "lobby".
pub(crate) fn want(first: u64, last: u64) -> PageWant {
    PageWant {
        room: RoomName::new("lobby").unwrap(),
        epoch: Epoch(1),
        first: Sequence(first),
        last: Sequence(last),
        messages_max: u32::MAX,
        bytes_max: usize::MAX,
        newest: false,
        spare: None,
    }
}

/// The same of another room.
pub(crate) fn want_in(room: &str, first: u64, last: u64) -> PageWant {
    PageWant { room: RoomName::new(room).unwrap(), ..want(first, last) }
}

/// What a rig's journal is made of; it does one step at a time of what takes long, and keeps no page.
pub(crate) fn parts(run: u64, catalog: Catalog) -> JournalParts {
    let (commit_bytes_max, cache_bytes_max) = (1 << 20, 0);
    JournalParts {
        run,
        commit_bytes_max,
        reads_max: 2,
        work_steps_max: 1,
        cache_bytes_max,
        catalog,
        indexes: BTreeMap::new(),
    }
}

/// What becomes of a read.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Spoil {
    /// It fails.
    Fail,
    /// A bit of what it returns is another one.
    Flip(usize),
}

/// A journal and its files.
pub(crate) struct Rig {
    pub journal: Journal,
    pub files: BTreeMap<u64, Vec<u8>>,
    pub indexes: BTreeMap<u64, Vec<u8>>,
    /// The indexes as they were written: what a mended one is.
    pub whole_indexes: BTreeMap<u64, Vec<u8>>,
    pub done: Vec<Done>,
    /// Disk reads so far, as asked.
    pub reads: Vec<FileRange>,
    /// What becomes of reads, by their number.
    pub spoiled: BTreeMap<usize, Spoil>,
    /// Indexes that were asked to be made again.
    pub mended: Vec<u64>,
    /// Whether they are.
    pub mends: bool,
    pub released: Vec<u64>,
    /// Whether the disk makes a segment that is asked for.
    pub makes_segments: bool,
    /// Whether the disk writes an index at once; if not, it waits in `unindexed`.
    pub writes_indexes: bool,
    /// Seals whose index is not written.
    pub unindexed: VecDeque<Ask>,
    /// Indexes that were handed back.
    pub let_go: usize,
    /// Whether the journal does its long work too; if not, that is up to the test.
    pub works_on: bool,
    segment_bytes: u64,
    next_id: u64,
}

impl Rig {
    /// With segments of that many bytes, and the first one ready.
    pub(crate) fn new(segment_bytes: u64) -> Self {
        let mut rig = Self::idle(segment_bytes);
        rig.work();
        rig
    }

    /// The same, before the disk has done anything.
    pub(crate) fn idle(segment_bytes: u64) -> Self {
        Self::of(parts(RUN, Catalog::default()), segment_bytes)
    }

    /// Of a journal of these parts, before the disk has done anything.
    pub(crate) fn of(parts: JournalParts, segment_bytes: u64) -> Self {
        Rig {
            journal: Journal::new(parts),
            files: BTreeMap::new(),
            indexes: BTreeMap::new(),
            whole_indexes: BTreeMap::new(),
            done: Vec::new(),
            reads: Vec::new(),
            spoiled: BTreeMap::new(),
            mended: Vec::new(),
            mends: true,
            released: Vec::new(),
            makes_segments: true,
            writes_indexes: true,
            unindexed: VecDeque::new(),
            let_go: 0,
            works_on: true,
            segment_bytes,
            next_id: 1,
        }
    }

    /// Its files, all sealed, under a journal of another start; nothing is written any more.
    pub(crate) fn reopened(&mut self, run: u64) -> Rig {
        let catalog = self.sealed_catalog();
        self.with(parts(run, catalog))
    }

    /// Its files under a journal of those parts; nothing is written any more.
    pub(crate) fn with(&self, parts: JournalParts) -> Rig {
        let mut later = Rig::of(parts, self.segment_bytes);
        (later.files, later.indexes) = (self.files.clone(), self.indexes.clone());
        later.whole_indexes.clone_from(&self.whole_indexes);
        (later.makes_segments, later.next_id) = (false, self.next_id);
        later
    }

    /// What its files hold, sealed.
    pub(crate) fn sealed_catalog(&mut self) -> Catalog {
        assert!(self.journal.end());
        self.work();
        self.catalog_of_files()
    }

    pub(crate) fn catalog_of_files(&self) -> Catalog {
        let mut catalog = Catalog::default();
        for (&id, index) in &self.indexes {
            let segment = self.header(id);
            let header = IndexHeader::read(index, &segment).unwrap();
            catalog.add_segment(segment, header.parts, header.newest_ms);
            for part in self.parts_of(id) {
                assert_eq!(catalog.add_part(&segment, &part, &Past::default()), None);
            }
        }
        catalog
    }

    pub(crate) fn header(&self, id: u64) -> SegmentHeader {
        SegmentHeader::read(&self.files[&id]).unwrap()
    }

    /// The parts of a sealed segment.
    pub(crate) fn parts_of(&self, id: u64) -> Vec<Part> {
        let (index, segment) = (&self.indexes[&id], self.header(id));
        let end = IndexHeader::read(index, &segment).unwrap().table_end() as usize;
        read_table(&index[HEADER_BYTES..end], segment.nonce).map(Option::unwrap).collect()
    }

    pub(crate) fn part(&self, id: u64, room: &str) -> Part {
        self.parts_of(id).into_iter().find(|part| part.room == RoomId::of(room)).unwrap()
    }

    /// Begins a commit of these posts.
    pub(crate) fn begin(&mut self, posts: &[Post], sync: bool) -> bool {
        let level = if sync { Level::Synced } else { Level::Written };
        let posts: Vec<(Post, Level)> = posts.iter().map(|&post| (post, level)).collect();
        self.begin_mixed(&posts, if sync { Reach::WrittenThenSynced } else { Reach::Written })
    }

    /// Begins a commit of posts, each of a room of that level.
    pub(crate) fn begin_mixed(&mut self, posts: &[(Post, Level)], reach: Reach) -> bool {
        self.begin_in(Class::SERVER, posts, reach)
    }

    pub(crate) fn begin_in(&mut self, class: Class, posts: &[(Post, Level)], reach: Reach) -> bool {
        let frames: Vec<Vec<u8>> = posts.iter().map(|(post, _)| post.frame_of(post.epoch)).collect();
        let records = posts.iter().zip(&frames).map(|(&(post, level), frame)| {
            let record = post.record(level, frame);
            let (entry, _) = Entry::read(&record, RoomId::of).unwrap();
            (record, entry, post.room)
        });
        let bytes = records.clone().map(|(record, ..)| record.bytes()).sum();
        self.journal.make_room(class, bytes) && self.journal.commit(class, records, reach)
    }

    /// Commits, and lets the disk do all of it.
    pub(crate) fn commit(&mut self, posts: &[Post]) {
        self.commit_in(Class::SERVER, posts);
    }

    pub(crate) fn commit_in(&mut self, class: Class, posts: &[Post]) {
        let posts: Vec<(Post, Level)> = posts.iter().map(|&post| (post, Level::Synced)).collect();
        while !self.begin_in(class, &posts, Reach::WrittenThenSynced) {
            assert!(self.work(), "no segment comes");
        }
        self.work();
    }

    /// Posts of "lobby", each a commit.
    pub(crate) fn post(&mut self, sequences: std::ops::RangeInclusive<u64>) {
        sequences.for_each(|sequence| self.commit(&[Post::at(sequence)]));
    }

    /// Begins a commit that is written whole, and then finds no space: its places are given again.
    pub(crate) fn refuse(&mut self, posts: &[Post]) {
        while !self.begin(posts, true) {
            assert!(self.work(), "no segment comes");
        }
        for ask in self.asks() {
            match ask {
                Ask::Append { segment, offset, block, .. } => self.write(segment.id, offset, &block),
                other => self.perform(other),
            }
        }
        self.answer(Answer::AppendFailed { is_full: true });
        self.work();
    }

    /// Takes what the disk is to do, and does not do it.
    pub(crate) fn asks(&mut self) -> Vec<Ask> {
        std::mem::take(self.journal.asks_mut())
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        self.journal.handle(answer, &mut self.done);
    }

    /// A segment of the server's own class is made.
    pub(crate) fn make_segment(&mut self) -> SegmentHeader {
        self.make_segment_in(Class::SERVER)
    }

    pub(crate) fn make_segment_in(&mut self, class: Class) -> SegmentHeader {
        let id = self.next_id;
        self.next_id += 1;
        let (nonce, file_bytes) = (id * 7_919, self.segment_bytes);
        let header = SegmentHeader { id, nonce, core: 0, class, run: RUN, made_unix_ms: 0, file_bytes };
        let mut file = header.write();
        file.resize(self.segment_bytes as usize, 0);
        self.files.insert(id, file);
        self.answer(Answer::Segment(header));
        header
    }

    /// Nobody sees that segment any more.
    pub(crate) fn cut(&mut self, segment: u64) {
        let parts = if self.indexes.contains_key(&segment) { self.parts_of(segment) } else { Vec::new() };
        let rooms: Vec<_> = parts.iter().map(|part| (part.room, part.last)).collect();
        self.answer(Answer::Cut { segment, rooms: CutRooms::Known(rooms.into_iter()), blank_epoch: Epoch(0) });
    }

    /// Does what is asked until nothing is; whether there was anything.
    pub(crate) fn work(&mut self) -> bool {
        let mut worked = false;
        loop {
            while self.works_on && self.journal.has_work() {
                self.journal.work();
            }
            let asks = self.asks();
            if asks.is_empty() {
                return worked;
            }
            worked = true;
            asks.into_iter().for_each(|ask| self.perform(ask));
        }
    }

    pub(crate) fn perform(&mut self, ask: Ask) {
        match ask {
            Ask::Prepare { .. } if !self.makes_segments => {}
            Ask::Prepare { class, .. } => drop(self.make_segment_in(class)),
            Ask::Append { segment, offset, block, wanted, .. } => {
                self.write(segment.id, offset, &block);
                if wanted.tells_written() {
                    self.answer(Answer::Written);
                }
                if wanted.syncs() {
                    self.answer(Answer::Synced);
                }
            }
            Ask::Seal { .. } => {
                self.unindexed.push_back(ask);
                if self.writes_indexes {
                    self.write_index();
                }
            }
            Ask::Prove => self.answer(Answer::Proved),
            Ask::LetGo { index } => {
                assert_eq!(Arc::strong_count(&index), 1, "the journal keeps none");
                self.let_go += 1;
            }
            Ask::Release { segment } => self.released.push(segment),
            Ask::MendIndex { segment } => self.mend_index(segment),
            Ask::Read(range) => {
                let bytes = self.read_file(range);
                self.answer(Answer::Read { range, bytes });
            }
        }
    }

    /// Does so many rounds of reads, then cuts the segments up to one while the next reads are under way: those of them come to
    /// nothing, or come all the same. Whether all was read before.
    pub(crate) fn cut_in_the_midst(&mut self, rounds: u64, cut: u64, comes: bool) -> bool {
        for _ in 0..rounds {
            self.asks().into_iter().for_each(|ask| self.perform(ask));
        }
        let is_over = !self.done.is_empty();
        let under_way = self.asks();
        (1..=cut).for_each(|segment| self.cut(segment));
        for ask in under_way {
            match ask {
                Ask::Read(range) if !comes && range.segment <= cut => {
                    self.answer(Answer::Read { range, bytes: None });
                }
                ask => self.perform(ask),
            }
        }
        is_over
    }

    fn write(&mut self, segment: u64, offset: u64, block: &[u8]) {
        let file = self.files.get_mut(&segment).unwrap();
        file[offset as usize..offset as usize + block.len()].copy_from_slice(block);
    }

    /// Writes the index that waits the longest; whether there was one.
    pub(crate) fn write_index(&mut self) -> bool {
        let Some(Ask::Seal { end, is_provable, index, .. }) = self.unindexed.pop_front() else { return false };
        let segment = end.segment;
        if is_provable && end.offset + PAGE_BYTES as u64 <= segment.file_bytes {
            let (proof, _) = BlockWriter::of(&segment).finish(&end);
            self.write(segment.id, end.offset, &proof);
        }
        let file = index.encode(&segment, end.offset, true);
        self.whole_indexes.insert(segment.id, file.clone());
        self.indexes.insert(segment.id, file);
        self.answer(Answer::Indexed { segment: segment.id, parts: index.len() as u32 });
        true
    }

    fn mend_index(&mut self, segment: u64) {
        self.mended.push(segment);
        if !self.mends {
            return self.answer(Answer::NotIndexed { segment, is_damaged: false });
        }
        self.indexes.insert(segment, self.whole_indexes[&segment].clone());
        let parts = self.parts_of(segment).len() as u32;
        self.answer(Answer::Indexed { segment, parts });
    }

    fn read_file(&mut self, range: FileRange) -> Option<Vec<u8>> {
        let FileRange { segment, file, offset, bytes } = range;
        assert!(offset.is_multiple_of(PAGE_BYTES as u64) && bytes.is_multiple_of(PAGE_BYTES as u64) && bytes > 0);
        let spoil = self.spoiled.get(&self.reads.len()).copied();
        self.reads.push(range);
        assert!(self.reads.len() < READS_MAX, "a read that does not end");
        let files = if file == LogFile::Segment { &self.files } else { &self.indexes };
        let all = files.get(&segment)?;
        let start = (offset as usize).min(all.len());
        let mut read = all[start..start.saturating_add(bytes as usize).min(all.len())].to_vec();
        match spoil {
            Some(Spoil::Fail) => return None,
            Some(Spoil::Flip(bit)) if !read.is_empty() => {
                let bit = bit % (read.len() * 8);
                read[bit / 8] ^= 1 << (bit % 8);
            }
            _ => {}
        }
        Some(read)
    }

    /// Bytes that were asked of the disk.
    pub(crate) fn read_bytes(&self, file: LogFile) -> u64 {
        self.reads.iter().filter(|range| range.file == file).map(|range| range.bytes).sum()
    }

    /// Reads a page to its end.
    pub(crate) fn page(&mut self, want: PageWant) -> Result<PageRead, ReadFault> {
        self.journal.read_page(want);
        match self.read() {
            Done::Page { page, .. } => page,
            other => panic!("{other:?}"),
        }
    }

    /// Reads page after page, as a reader does that catches up, and joins them.
    pub(crate) fn pages(&mut self, want: PageWant) -> Result<PageRead, ReadFault> {
        let mut all = self.page(want.clone())?;
        loop {
            let next = all.through.next();
            if next > want.last {
                return Ok(all);
            }
            let page = self.page(PageWant { first: next, ..want.clone() })?;
            if page.through < next {
                return Ok(all);
            }
            assert_eq!(page.first, next, "nothing is left out between two pages");
            all.messages.extend(page.messages);
            (all.count, all.through) = (all.count + page.count, page.through);
        }
    }

    /// Reads keys of "lobby" to the end; oldest first.
    pub(crate) fn keys(&mut self, since_ms: u64, keys_max: usize) -> Result<Vec<KeyedPost>, ReadFault> {
        let read = self.keys_wanted(KeysWant { since_ms, keys_per_author_max: u32::MAX, keys_max })?;
        Ok(read.keys.iter().rev().map(|key| key.post).collect())
    }

    /// Reads keys of "lobby" to the end.
    pub(crate) fn keys_wanted(&mut self, want: KeysWant) -> Result<KeysRead, ReadFault> {
        self.journal.read_keys(RoomId::of("lobby"), want);
        match self.read() {
            Done::Keys { keys, .. } => keys,
            other => panic!("{other:?}"),
        }
    }

    /// Reads the state of a room to the end.
    pub(crate) fn state_of(&mut self, room: &str) -> Result<Option<StateRead>, ReadFault> {
        self.journal.read_state(RoomId::of(room));
        match self.read() {
            Done::State { state, .. } => state,
            other => panic!("{other:?}"),
        }
    }

    /// Reads what was asked for last.
    fn read(&mut self) -> Done {
        self.done.clear();
        self.journal.begin_reads(&mut self.done);
        self.work();
        assert_eq!(self.done.len(), 1);
        self.done.remove(0)
    }
}

/// Makes the indexes again from the segments alone, one after another, chained as a start chains them.
pub(crate) fn scan_indexes(rig: &mut Rig) {
    let mut catalog = Catalog::default();
    rig.indexes.clear();
    for (&id, file) in &rig.files.clone() {
        let (index, header) = (scan_index(file, &catalog), rig.header(id));
        if !index.is_empty() {
            rig.indexes.insert(id, index.encode(&header, file.len() as u64, true));
            catalog.add_segment(header, 1, 0);
            for part in rig.parts_of(id) {
                assert_eq!(catalog.add_part(&header, &part, &Past::default()), None);
            }
        }
    }
}

pub(crate) fn scan_index(file: &[u8], catalog: &Catalog) -> IndexBuilder {
    let (mut scan, mut index) = (Scan::new(file).unwrap(), IndexBuilder::default());
    loop {
        let mut offset = scan.place().offset + block::HEADER_BYTES as u64;
        let Some(block) = scan.next() else { return index };
        for record in block.records() {
            let record = record.unwrap();
            let (entry, name) = Entry::read(&record, RoomId::of).unwrap();
            let chain = catalog.chain_of(entry.room);
            index.add(&entry, offset, || Opening { name: name.into(), chain });
            offset += record.bytes() as u64;
        }
    }
}
