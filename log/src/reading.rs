//! Reads a part of a room back from the log, one disk read at a time: a page of messages, or the keys of its newest posts.
//!
//! ```text
//!  Reading::page ─▶ Step::Read(index part) ─▶ Step::Read(blocks) ─▶ … ─▶ Step::Done
//! ```
//!
//! Bytes from the disk are believed only behind the block's sum and rkyv's check, and only if they are the room's next
//! message. Without an index that checks the segment is read from its first block; where that does not hold what it
//! should, the reading ends in [`Step::Lost`], not in a wrong message.

use std::collections::{BTreeMap, VecDeque};

use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};
use banter_protocol::native::{read_message, write_message};

use crate::block::{Block, BlockFault, BlockPlace};
use crate::catalog::{Catalog, Span};
use crate::index::{IndexBuilder, Mark};
use crate::indexing::Indexing;
use crate::key::{KeyedPost, KnownKey};
use crate::record::Author;
use crate::segment::SegmentHeader;

/// Bytes of the log that one read takes, unless a block is longer.
pub const READ_BYTES: usize = 64 * 1_024;

/// Messages that a page looks at at most which leaves some out: it comes to an end where there is nothing else.
pub const LOOKS_MAX: u64 = 2_048;

/// What a page is to hold.
#[derive(Clone, Debug)]
pub struct PageWant {
    /// The room.
    pub room: RoomName,
    /// The epoch under which its messages are told.
    pub epoch: Epoch,
    /// The first message.
    pub first: Sequence,
    /// The last message at most.
    pub last: Sequence,
    /// Messages at most.
    pub messages_max: u32,
    /// Bytes of frames at most, but for a first message that is larger.
    pub bytes_max: usize,
    /// What does not fit is left out at the beginning, and not at the end.
    pub newest: bool,
    /// The posts of this connection of this run are left out.
    pub spare: Option<Author>,
}

/// A page that was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageRead {
    /// Whole native frames, ascending.
    pub messages: Vec<u8>,
    /// Messages in it.
    pub count: u32,
    /// The first message that was looked at and not left out at the beginning.
    pub first: Sequence,
    /// The last message that was looked at.
    pub through: Sequence,
}

/// Which keys of a room are to be read.
#[derive(Clone, Copy, Debug)]
pub struct KeysWant {
    /// Only those that are no older than this, on the clock of this run, milliseconds since 1970.
    pub since_ms: u64,
    /// Of each author the newest, at most so many.
    pub keys_per_author_max: u32,
    /// Of all of them the newest, at most so many.
    pub keys_max: usize,
}

/// Keys that were read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KeysRead {
    /// The keys, newest first.
    pub keys: Vec<KnownKey>,
    /// How many more than were wanted of all authors there are, at least.
    pub left_out: u64,
}

/// A file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFile {
    /// A segment's blocks.
    Segment,
    /// The index beside it.
    Index,
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// These bytes are to be read and handed to [`Reading::take`].
    Read {
        /// The segment.
        segment: u64,
        /// Which of its files.
        file: LogFile,
        /// Where the bytes start.
        offset: u64,
        /// How many there are; of a segment fewer may come, at its end.
        bytes: usize,
    },
    /// The page is ready.
    Page(PageRead),
    /// The keys are ready.
    Keys(KeysRead),
    /// A segment does not hold what it should, or was cut meanwhile.
    Lost {
        /// The segment.
        segment: u64,
    },
}

/// A reading under way.
#[derive(Debug)]
pub struct Reading {
    want: Want,
    stage: Stage,
    /// The run whose authors mean something.
    run: u64,
}

#[derive(Debug)]
enum Want {
    Page { want: PageWant, next: Sequence, frames: VecDeque<Vec<u8>>, bytes: usize, skipped: u64 },
    Keys { room: RoomId, want: KeysWant, before: u64, found: KeysFound, walked: Walked },
}

/// The keys that were found, newest first, and how many there are of each author.
#[derive(Debug, Default)]
struct KeysFound {
    read: KeysRead,
    authors: BTreeMap<u64, u32>,
}

/// The keys of a room in a segment that is read without its index.
#[derive(Debug, Default)]
struct Walked {
    keys: Vec<KeyedPost>,
    /// The room's last message there was seen.
    is_whole: bool,
}

#[derive(Debug)]
enum Stage {
    Start,
    Details(Span),
    Blocks { span: Span, header: SegmentHeader, offset: u64, asked_bytes: usize },
}

/// What a reading needs to know of the log around it.
#[derive(Clone, Copy)]
pub struct Shelf<'a> {
    /// Where rooms lie.
    pub catalog: &'a Catalog,
    /// The segment that is being written, and its index.
    pub active: Option<(u64, &'a IndexBuilder)>,
    /// The indexes of those that are sealed, and not known to be on the disk.
    pub indexing: &'a Indexing,
}

impl<'a> Shelf<'a> {
    /// The index of a segment, while it is in memory.
    fn index_of(self, segment: u64) -> Option<&'a IndexBuilder> {
        let active = self.active.filter(|(id, _)| *id == segment).map(|(_, index)| index);
        active.or_else(|| self.indexing.index_of(segment))
    }
}

impl Reading {
    /// A page.
    pub fn page(want: PageWant, run: u64) -> Self {
        let next = want.first;
        let want = Want::Page { want, next, frames: VecDeque::new(), bytes: 0, skipped: 0 };
        Reading { want, stage: Stage::Start, run }
    }

    /// The newest keys of a room.
    pub fn keys(room: RoomId, want: KeysWant, run: u64) -> Self {
        let want = Want::Keys { room, want, before: u64::MAX, found: KeysFound::default(), walked: Walked::default() };
        Reading { want, stage: Stage::Start, run }
    }

    /// Begins, or goes on with the next segment.
    pub fn start(&mut self, shelf: Shelf<'_>) -> Step {
        match &self.want {
            Want::Page { .. } => self.next_span(shelf),
            Want::Keys { .. } => self.next_keys(shelf),
        }
    }

    /// That segment was cut while it was read: what comes next lies elsewhere, or nowhere.
    pub fn leave(&mut self, segment: u64) {
        self.stage = Stage::Start;
        if let Want::Keys { before, .. } = &mut self.want {
            *before = (*before).min(segment);
        }
    }

    /// Whether an index is being read, without which it can go on.
    pub fn is_at_index(&self) -> bool {
        matches!(self.stage, Stage::Details(_))
    }

    /// Takes the bytes of the last [`Step::Read`]; of an index that could not be read, none.
    pub fn take(&mut self, bytes: &[u8], shelf: Shelf<'_>) -> Step {
        match std::mem::replace(&mut self.stage, Stage::Start) {
            Stage::Start => self.start(shelf),
            Stage::Details(span) => {
                let Some((marks, keys)) = span.details.and_then(|details| details.read(bytes)) else {
                    return self.blocks_without_index(span, shelf);
                };
                if matches!(self.want, Want::Keys { .. }) {
                    self.add_keys(&keys, &span, shelf);
                    return self.next_keys(shelf);
                }
                self.blocks_by(&marks, span, shelf)
            }
            Stage::Blocks { span, header, offset, asked_bytes } => {
                self.take_blocks((bytes, asked_bytes), span, header, offset, shelf)
            }
        }
    }

    fn next_span(&mut self, shelf: Shelf<'_>) -> Step {
        let Want::Page { want, next, .. } = &self.want else { return Step::Keys(KeysRead::default()) };
        let id = RoomId::of(want.room.as_str());
        let room = shelf.catalog.room(id);
        if *next > want.last || self.is_full() {
            return self.finish();
        }
        let Some(&span) = room.and_then(|room| room.span_of(*next)) else {
            // Cut away since the page was asked for; what was read until here is right.
            return self.finish();
        };
        match span.details {
            Some(details) => self.ask_details(span, details.offset, details.bytes()),
            None => match shelf.index_of(span.segment).and_then(|index| index.room(id)) {
                Some(room) => self.blocks_by(&room.marks, span, shelf),
                None => Step::Lost { segment: span.segment },
            },
        }
    }

    fn ask_details(&mut self, span: Span, offset: u64, bytes: usize) -> Step {
        self.stage = Stage::Details(span);
        Step::Read { segment: span.segment, file: LogFile::Index, offset, bytes }
    }

    fn blocks_by(&mut self, marks: &[Mark], span: Span, shelf: Shelf<'_>) -> Step {
        let Want::Page { next, .. } = &self.want else { return Step::Lost { segment: span.segment } };
        let before = marks.partition_point(|mark| mark.sequence <= next.0);
        let mark = before.checked_sub(1).and_then(|at| marks.get(at));
        let (Some(mark), Some(&header)) = (mark, shelf.catalog.segment(span.segment)) else {
            return Step::Lost { segment: span.segment };
        };
        self.ask_blocks(span, header, mark.offset, READ_BYTES)
    }

    /// An index is derived: what it would say is in the blocks too.
    fn blocks_without_index(&mut self, span: Span, shelf: Shelf<'_>) -> Step {
        if let Want::Keys { walked, .. } = &mut self.want {
            *walked = Walked::default();
        }
        match shelf.catalog.segment(span.segment) {
            Some(&header) => self.ask_blocks(span, header, BlockPlace::first_of(header).offset, READ_BYTES),
            None => lost(&span),
        }
    }

    fn ask_blocks(&mut self, span: Span, header: SegmentHeader, offset: u64, bytes: usize) -> Step {
        self.stage = Stage::Blocks { span, header, offset, asked_bytes: bytes };
        Step::Read { segment: span.segment, file: LogFile::Segment, offset, bytes }
    }

    fn take_blocks(
        &mut self,
        (bytes, asked_bytes): (&[u8], usize),
        span: Span,
        header: SegmentHeader,
        offset: u64,
        shelf: Shelf<'_>,
    ) -> Step {
        let mut at = offset;
        loop {
            let Some(rest) = bytes.get((at - offset) as usize..).filter(|rest| !rest.is_empty()) else {
                return if at > offset { self.ask_blocks(span, header, at, READ_BYTES) } else { lost(&span) };
            };
            let block = match Block::read_alone(rest, &header, at) {
                Ok(block) => block,
                // Read from there again, and as much as it says; but only if that gets on: a file may end before it.
                Err(BlockFault::Longer(long)) if at > offset || asked_bytes < long => {
                    return self.ask_blocks(span, header, at, long.max(READ_BYTES));
                }
                Err(_) if at > offset && rest.len() < crate::block::HEADER_BYTES => {
                    return self.ask_blocks(span, header, at, READ_BYTES);
                }
                Err(_) => return lost(&span),
            };
            at = block.behind.offset;
            if self.take_block(&block, &span, header.run).is_err() {
                return lost(&span);
            }
            match &mut self.want {
                Want::Page { want, next, .. } => {
                    if *next > span.last || *next > want.last || self.is_full() {
                        return self.next_span(shelf);
                    }
                }
                Want::Keys { walked, .. } => {
                    if walked.is_whole {
                        let keys = std::mem::take(&mut walked.keys);
                        self.add_keys(&keys, &span, shelf);
                        return self.next_keys(shelf);
                    }
                }
            }
        }
    }

    /// Takes the room's messages of a block.
    fn take_block(&mut self, block: &Block<'_>, span: &Span, run: u64) -> Result<(), ()> {
        let this_run = self.run;
        let (want, next, frames, bytes, skipped) = match &mut self.want {
            Want::Page { want, next, frames, bytes, skipped } => (want, next, frames, bytes, skipped),
            Want::Keys { room, walked, .. } => return walked.take_block(block, *room, span),
        };
        let last = span.last.min(want.last);
        for record in block.records() {
            let record = record.map_err(drop)?;
            let message = read_message(record.frame).map_err(drop)?;
            if message.room != want.room.as_str() || message.sequence < *next {
                continue;
            }
            if message.sequence > last {
                break;
            }
            if message.sequence != *next {
                return Err(());
            }
            let is_spared = run == this_run && want.spare == Some(record.author);
            if !is_spared {
                let full = frames.len() >= want.messages_max as usize || *bytes + record.frame.len() > want.bytes_max;
                if full && !want.newest && !frames.is_empty() {
                    // Nothing more fits: the page ends before this message.
                    want.last = next.previous();
                    return Ok(());
                }
                let frame = if message.epoch == want.epoch {
                    record.frame.to_vec()
                } else {
                    let mut frame = Vec::with_capacity(record.frame.len());
                    write_message(&banter_protocol::event::Message { epoch: want.epoch, ..message }, &mut frame);
                    frame
                };
                *bytes += frame.len();
                frames.push_back(frame);
                while want.newest
                    && frames.len() > 1
                    && (frames.len() > want.messages_max as usize || *bytes > want.bytes_max)
                {
                    *bytes -= frames.pop_front().map_or(0, |frame| frame.len());
                    *skipped += 1;
                }
            }
            *next = next.next();
            if want.spare.is_some() && next.0 - want.first.0 >= LOOKS_MAX {
                want.last = next.previous();
                return Ok(());
            }
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        match &self.want {
            Want::Page { want, frames, bytes, .. } => {
                !want.newest && (frames.len() >= want.messages_max as usize || *bytes >= want.bytes_max)
            }
            Want::Keys { .. } => false,
        }
    }

    fn finish(&mut self) -> Step {
        let Want::Page { want, next, frames, bytes, skipped } = &mut self.want else {
            return Step::Keys(KeysRead::default());
        };
        let mut messages = Vec::with_capacity(*bytes);
        frames.iter().for_each(|frame| messages.extend_from_slice(frame));
        let first = Sequence(want.first.0 + *skipped);
        Step::Page(PageRead { messages, count: frames.len() as u32, first, through: next.previous() })
    }

    /// The segment before the last that was looked at, as long as its keys may be young enough.
    fn next_keys(&mut self, shelf: Shelf<'_>) -> Step {
        loop {
            let Want::Keys { room, want, before, found, .. } = &mut self.want else {
                return Step::Keys(KeysRead::default());
            };
            let spans = shelf.catalog.room(*room).map(|room| room.spans);
            let span = spans.and_then(|spans| spans.iter().rev().find(|span| span.segment < *before)).copied();
            let is_young = |span: &Span| shelf.catalog.clock_ms(span.segment, span.newest_ms) >= want.since_ms;
            let Some(span) = span.filter(|span| is_young(span) && found.read.left_out == 0) else {
                return self.end_keys(shelf);
            };
            match span.details {
                Some(details) if details.keys > 0 => {
                    return self.ask_details(span, details.offset, details.bytes());
                }
                Some(_) => *before = span.segment,
                None => {
                    let id = *room;
                    let Some(room) = shelf.index_of(span.segment).and_then(|index| index.room(id)) else {
                        return lost(&span);
                    };
                    self.add_keys(&room.keys, &span, shelf);
                }
            }
        }
    }

    /// Nothing more is young enough. But what was given up may have been: without it the window is not whole.
    fn end_keys(&mut self, shelf: Shelf<'_>) -> Step {
        let Want::Keys { room, want, before, found, .. } = &mut self.want else {
            return Step::Keys(KeysRead::default());
        };
        let gone = shelf.catalog.given_up(*room).filter(|gone| gone.segment < *before && found.read.left_out == 0);
        match gone.filter(|gone| gone.clock_ms >= want.since_ms) {
            Some(gone) => Step::Lost { segment: gone.segment },
            None => Step::Keys(std::mem::take(&mut found.read)),
        }
    }

    /// Places that were refused and given again are another span's, and so are their keys.
    fn add_keys(&mut self, keys: &[KeyedPost], span: &Span, shelf: Shelf<'_>) {
        let Want::Keys { want, before, found, .. } = &mut self.want else { return };
        *before = span.segment;
        let is_there = |key: &&KeyedPost| (span.first.0..=span.last.0).contains(&key.sequence);
        for &post in keys.iter().rev().filter(is_there) {
            let key = KnownKey { post, clock_ms: shelf.catalog.clock_ms(span.segment, post.time_ms) };
            found.add(key, want);
        }
    }
}

impl KeysFound {
    fn add(&mut self, key: KnownKey, want: &KeysWant) {
        let of_author = self.authors.entry(key.post.fingerprint.author()).or_default();
        if key.clock_ms < want.since_ms || *of_author >= want.keys_per_author_max {
            return;
        }
        if self.read.keys.len() >= want.keys_max {
            self.read.left_out += 1;
            return;
        }
        *of_author += 1;
        self.read.keys.push(key);
    }
}

impl Walked {
    fn take_block(&mut self, block: &Block<'_>, room: RoomId, span: &Span) -> Result<(), ()> {
        for record in block.records() {
            let message = read_message(record.map_err(drop)?.frame).map_err(drop)?;
            if RoomId::of(message.room) == room {
                self.keys.extend(KeyedPost::of(&message));
                self.is_whole |= message.sequence == span.last;
            }
        }
        Ok(())
    }
}

fn lost(span: &Span) -> Step {
    Step::Lost { segment: span.segment }
}

#[cfg(test)]
mod tests;
