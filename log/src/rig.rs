//! A journal with a disk in memory, for tests.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use banter_protocol::event::Message;
use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::{read_message, write_message};
use banter_protocol::request::{Body, BodyFormat};

use crate::catalog::Catalog;
use crate::index::Entry;
use crate::journal::{Answer, Ask, Done, Journal, JournalParts, Reach};
use crate::key::KeyedPost;
use crate::reading::{KeysRead, KeysWant, LogFile, PageRead, PageWant};
use crate::record::{Author, Level, Record};
use crate::segment::SegmentHeader;

/// The start of the server that the rig's journals belong to.
pub(crate) const RUN: u64 = 9;

/// A message as a test says it; its body says room and sequence.
#[derive(Clone, Copy)]
pub(crate) struct Post {
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
        Post { room: "lobby", epoch: 1, sequence, is_keyed: false, user: "ann", slot: 0, body_bytes: 100 }
    }

    pub(crate) fn author(&self) -> Author {
        Author { core: 0, slot: self.slot, generation: 1 }
    }

    /// Its frame under that epoch.
    pub(crate) fn frame_of(&self, epoch: u64) -> Vec<u8> {
        let key = format!("key {}", self.sequence);
        let body = format!("{} {}{:05}", self.room, ".".repeat(self.body_bytes), self.sequence);
        let mut frame = Vec::new();
        let message = Message {
            epoch: Epoch(epoch),
            sequence: Sequence(self.sequence),
            time_ms: 1_000 * self.sequence,
            room: self.room,
            user: self.user,
            key: self.is_keyed.then_some(&key),
            body: Body { format: BodyFormat::Bytes, bytes: body.as_bytes() },
        };
        write_message(&message, &mut frame);
        frame
    }

    pub(crate) fn key(&self) -> Option<KeyedPost> {
        KeyedPost::of(&read_message(&self.frame_of(self.epoch)).unwrap())
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

/// What a rig's journal is made of; it does one step at a time of what takes long.
pub(crate) fn parts(run: u64, segment_bytes: u64, catalog: Catalog) -> JournalParts {
    JournalParts { run, segment_bytes, commit_bytes_max: 1 << 20, reads_max: 2, work_steps_max: 1, catalog }
}

/// A journal and its files.
pub(crate) struct Rig {
    pub journal: Journal,
    pub files: BTreeMap<u64, Vec<u8>>,
    pub indexes: BTreeMap<u64, Vec<u8>>,
    pub done: Vec<Done>,
    /// Disk reads so far, as asked.
    pub reads: Vec<(u64, LogFile, u64, usize)>,
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
        Rig {
            journal: Journal::new(parts(RUN, segment_bytes, Catalog::default())),
            files: BTreeMap::new(),
            indexes: BTreeMap::new(),
            done: Vec::new(),
            reads: Vec::new(),
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

    /// Begins a commit of these posts.
    pub(crate) fn begin(&mut self, posts: &[Post], sync: bool) -> bool {
        let level = if sync { Level::Synced } else { Level::Written };
        let posts: Vec<(Post, Level)> = posts.iter().map(|&post| (post, level)).collect();
        self.begin_mixed(&posts, if sync { Reach::WrittenThenSynced } else { Reach::Written })
    }

    /// Begins a commit of posts, each of a room of that level.
    pub(crate) fn begin_mixed(&mut self, posts: &[(Post, Level)], reach: Reach) -> bool {
        let frames: Vec<Vec<u8>> = posts.iter().map(|(post, _)| post.frame_of(post.epoch)).collect();
        let records = posts.iter().zip(&frames).map(|(&(post, level), frame)| {
            let record = Record { level, author: post.author(), frame };
            (record, Entry::of(&read_message(frame).unwrap(), level, record.bytes()))
        });
        self.journal.commit(records, reach)
    }

    /// Commits, and lets the disk do all of it.
    pub(crate) fn commit(&mut self, posts: &[Post]) {
        while !self.begin(posts, true) {
            assert!(self.work(), "no segment comes");
        }
        self.work();
    }

    /// Posts of "lobby", each a commit.
    pub(crate) fn post(&mut self, sequences: std::ops::RangeInclusive<u64>) {
        sequences.for_each(|sequence| self.commit(&[Post::at(sequence)]));
    }

    /// Takes what the disk is to do, and does not do it.
    pub(crate) fn asks(&mut self) -> Vec<Ask> {
        std::mem::take(self.journal.asks_mut())
    }

    pub(crate) fn answer(&mut self, answer: Answer) {
        self.journal.handle(answer, &mut self.done);
    }

    /// A segment is made.
    pub(crate) fn make_segment(&mut self) -> SegmentHeader {
        let id = self.next_id;
        self.next_id += 1;
        let header = SegmentHeader { id, nonce: id * 7_919, core: 0, run: RUN, made_unix_ms: 0 };
        let mut file = header.write();
        file.resize(self.segment_bytes as usize, 0);
        self.files.insert(id, file);
        self.answer(Answer::Segment(header));
        header
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
            Ask::Prepare if !self.makes_segments => {}
            Ask::Prepare => drop(self.make_segment()),
            Ask::Append { segment, offset, block, wanted, .. } => {
                let file = self.files.get_mut(&segment.id).unwrap();
                file[offset as usize..offset as usize + block.len()].copy_from_slice(&block);
                self.answer(Answer::Written);
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
            Ask::LetGo { index, .. } => {
                assert_eq!(Arc::strong_count(&index), 1, "the journal keeps none");
                self.let_go += 1;
            }
            Ask::Release { segment } => self.released.push(segment),
            Ask::Read { ticket, segment, file, offset, bytes } => {
                self.reads.push((segment, file, offset, bytes));
                assert!(self.reads.len() < 10_000, "a read that does not end");
                let bytes = self.bytes_of(segment, file, offset, bytes);
                self.answer(Answer::Read { ticket, bytes });
            }
        }
    }

    /// Writes the index that waits the longest; whether there was one.
    pub(crate) fn write_index(&mut self) -> bool {
        let Some(Ask::Seal { segment, index, end_offset, .. }) = self.unindexed.pop_front() else { return false };
        let (file, parts) = index.encode(&segment, end_offset);
        self.indexes.insert(segment.id, file);
        self.answer(Answer::Indexed { segment: segment.id, parts });
        true
    }

    fn bytes_of(&self, segment: u64, file: LogFile, offset: u64, bytes: usize) -> Option<Vec<u8>> {
        let files = if file == LogFile::Segment { &self.files } else { &self.indexes };
        let all = files.get(&segment)?;
        let start = (offset as usize).min(all.len());
        Some(all[start..start.saturating_add(bytes).min(all.len())].to_vec())
    }

    /// Reads a page to its end.
    pub(crate) fn page(&mut self, want: PageWant) -> Result<PageRead, u64> {
        self.journal.read_page(want);
        match self.read() {
            Done::Page { page, .. } => page,
            other => panic!("{other:?}"),
        }
    }

    /// Reads keys of "lobby" to the end; oldest first.
    pub(crate) fn keys(&mut self, since_ms: u64, keys_max: usize) -> Result<Vec<KeyedPost>, u64> {
        let read = self.keys_wanted(KeysWant { since_ms, keys_per_author_max: u32::MAX, keys_max })?;
        Ok(read.keys.iter().rev().map(|key| key.post).collect())
    }

    /// Reads keys of "lobby" to the end.
    pub(crate) fn keys_wanted(&mut self, want: KeysWant) -> Result<KeysRead, u64> {
        self.journal.read_keys(RoomId::of("lobby"), want);
        match self.read() {
            Done::Keys { keys, .. } => keys,
            other => panic!("{other:?}"),
        }
    }

    fn read(&mut self) -> Done {
        self.done.clear();
        self.journal.begin_reads(&mut self.done);
        self.work();
        assert_eq!(self.done.len(), 1);
        self.done.remove(0)
    }
}
