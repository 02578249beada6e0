//! Reads a part of a room back from the log, one disk read at a time: a page of messages, the keys of its newest posts, or
//! its state.
//!
//! ```text
//!  the room's part that holds the place ─▶ its marks ─▶ its records ─▶ the part behind ─▶ …      (`page`)
//!  the room's newest part ─▶ its keys, newest first ─▶ the part before ─▶ …                      (`keys`)
//!  the room's newest part ─▶ the record of its state                                             (`state`)
//! ```
//!
//! Invariants:
//! - Bytes from the disk are believed only behind their own sum and rkyv's check, and only if they are the room's next.
//! - What is read is bounded by what is given: a page ends where the bytes that were read for it, of segments and of indexes,
//!   would be more than [`READ_BYTES_FREE`] and four times what it holds. What finding its first part takes is bounded by the
//!   room's parts, and its first message is read whatever its length.
//! - A read that failed says nothing about what is there. Damage is told only of bytes that did not check twice.

use std::borrow::Cow;
use std::cell::RefCell;
use std::ops::Range;

use banter_protocol::ids::{Epoch, RoomId, RoomName, Sequence};

use crate::PAGE_BYTES;
use crate::cache::PageCache;
use crate::catalog::Catalog;
use crate::erasure::Erasure;
use crate::index::IndexBuilder;
use crate::indexing::Indexing;
use crate::key::KnownKey;
use crate::record::Author;
use crate::segment::SegmentHeader;

mod find;
mod keys;
mod page;
mod state;

/// Bytes of the log that one read takes, unless a record is longer.
pub const READ_BYTES: u64 = 64 * 1_024;
/// Bytes of a read at least: a short record, and the header of a block ahead of it.
const READ_BYTES_MIN: u64 = 512;
/// Bytes that may be read for a page beside four times what it holds.
pub const READ_BYTES_FREE: u64 = 64 * 1_024;

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

/// A state that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StateRead {
    /// The whole native frame, which says its epoch, place and time.
    pub frame: Vec<u8>,
    /// The segment that it lies in: that of the room's newest part, unless a writer carried none.
    pub segment: u64,
}

/// A file of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum LogFile {
    /// A segment's blocks.
    Segment,
    /// The index beside it.
    Index,
}

/// Bytes of a file: whole pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileRange {
    /// The segment.
    pub segment: u64,
    /// Which of its files.
    pub file: LogFile,
    /// Where they start.
    pub offset: u64,
    /// How many there are; fewer may come, at the file's end.
    pub bytes: u64,
}

/// Why something could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadFault {
    /// A read failed, or an index is not what it should be: what is there is still there, and may be asked for again.
    Unreadable {
        /// The segment.
        segment: u64,
    },
    /// Records did not check twice: the room's messages before `first` are out of reach.
    Damaged {
        /// The segment.
        segment: u64,
        /// The first message behind the damage that may be there.
        first: Sequence,
    },
    /// The record of the room's newest state did not check twice, or neither do its segment and index: the state is out of
    /// reach, which is not to say that there was none. Nothing is said of the room's messages.
    StateDamaged {
        /// The segment.
        segment: u64,
    },
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// These bytes are to be read and shown as [`Shelf::fresh`].
    Read(FileRange),
    /// The page is ready.
    Page(PageRead),
    /// The keys are ready.
    Keys(KeysRead),
    /// The state is ready, or there is none.
    State(Option<StateRead>),
    /// Bytes of a file did not check: it may be another one by now, or was read wrong.
    Doubtful {
        segment: u64,
        file: LogFile,
        /// Which of them: the place in the file, or in the room.
        at: u64,
        /// What to say of a room if they do not check again.
        first: Sequence,
    },
    /// What lies before that message is known to be out of reach.
    Damaged { segment: u64, first: Sequence },
    /// A record is of a kind that only a later build knows.
    Later { segment: u64 },
}

/// What a reading needs to know of the log around it.
#[derive(Clone, Copy)]
pub(crate) struct Shelf<'a> {
    /// Where rooms lie.
    pub catalog: &'a Catalog,
    /// The segments that are being written, and their indexes.
    pub active: &'a dyn Fn(u64) -> Option<&'a IndexBuilder>,
    /// The indexes of those that are sealed, and not known to be on the disk.
    pub indexing: &'a Indexing,
    /// What was read lately.
    pub cache: &'a RefCell<PageCache>,
    /// What was read for this reading just now.
    pub fresh: Option<(FileRange, &'a [u8])>,
}

impl<'a> Shelf<'a> {
    /// The index of a segment, while it is in memory.
    fn index_of(self, segment: u64) -> Option<&'a IndexBuilder> {
        (self.active)(segment).or_else(|| self.indexing.index_of(segment))
    }

    /// Where a room's records end in a segment at the latest: nothing behind is read before it was written, or it would be
    /// remembered as it was.
    fn end_of(self, header: &SegmentHeader, room: RoomId) -> u64 {
        let end = self.index_of(header.id).and_then(|index| index.room(room)).map(|room| room.end_offset());
        end.map_or(header.file_bytes, |end| end.min(header.file_bytes))
    }

    fn segment(self, id: u64) -> Option<&'a SegmentHeader> {
        self.catalog.segment(id)
    }

    /// Bytes of a file, fewer at its end; or what is to be read to have them.
    fn bytes(self, segment: u64, file: LogFile, range: Range<u64>) -> Result<Cow<'a, [u8]>, Step> {
        if let Some((fresh, bytes)) = self.fresh
            && (fresh.segment, fresh.file) == (segment, file)
            && (fresh.offset..=fresh.offset + fresh.bytes).contains(&range.start)
            && range.end <= fresh.offset + fresh.bytes
        {
            let from = ((range.start - fresh.offset) as usize).min(bytes.len());
            let to = ((range.end - fresh.offset) as usize).min(bytes.len());
            return Ok(Cow::Borrowed(&bytes[from..to]));
        }
        if let Some(bytes) = self.cache.borrow_mut().read(segment, file, range.clone()) {
            return Ok(Cow::Owned(bytes));
        }
        let page = PAGE_BYTES as u64;
        let offset = range.start - range.start % page;
        // An index may say anything; a file has no bytes there.
        let end = range.end.checked_next_multiple_of(page).unwrap_or(range.end);
        Err(Step::Read(FileRange { segment, file, offset, bytes: end - offset }))
    }
}

/// A reading under way.
#[derive(Debug)]
pub(crate) struct Reading {
    want: Want,
    /// What was read once more since it did not check.
    doubted: Option<(u64, LogFile, u64)>,
}

#[derive(Debug)]
enum Want {
    Page(Box<page::PageReading>),
    Keys(Box<keys::KeysReading>),
    State(Box<state::StateReading>),
}

/// What a reading is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Subject {
    Page,
    Keys,
    State,
}

impl Reading {
    /// A page, in the run whose authors mean something.
    pub(crate) fn page(want: PageWant, run: u64) -> Self {
        Reading::of(Want::Page(Box::new(page::PageReading::new(want, run))))
    }

    /// The newest keys of a room.
    pub(crate) fn keys(room: RoomId, want: KeysWant) -> Self {
        Reading::of(Want::Keys(Box::new(keys::KeysReading::new(room, want))))
    }

    /// The newest state of a room.
    pub(crate) fn state(room: RoomId) -> Self {
        Reading::of(Want::State(Box::new(state::StateReading::new(room))))
    }

    fn of(want: Want) -> Self {
        Reading { want, doubted: None }
    }

    /// What it is about.
    pub(crate) fn subject(&self) -> Subject {
        match self.want {
            Want::Page(_) => Subject::Page,
            Want::Keys(_) => Subject::Keys,
            Want::State(_) => Subject::State,
        }
    }

    /// Goes on as far as it gets.
    pub(crate) fn go(&mut self, shelf: Shelf<'_>) -> Step {
        match &mut self.want {
            Want::Page(page) => page.go(shelf),
            Want::Keys(keys) => keys.go(shelf),
            Want::State(state) => state.go(shelf),
        }
    }

    /// What to say of records of that segment that did not check twice; `first` is the first message behind them.
    pub(crate) fn damage(&self, segment: u64, first: Sequence) -> ReadFault {
        match self.want {
            Want::Page(_) | Want::Keys(_) => ReadFault::Damaged { segment, first },
            Want::State(_) => ReadFault::StateDamaged { segment },
        }
    }

    /// What to say if the index that is being read is lost with its segment. `None`: waiting for it is all there is.
    pub(crate) fn behind_lost_index(&self, segment: u64) -> Option<ReadFault> {
        match &self.want {
            Want::Page(page) => Some(ReadFault::Damaged { segment, first: page.behind_index() }),
            Want::Keys(_) => None,
            Want::State(_) => Some(ReadFault::StateDamaged { segment }),
        }
    }

    /// The index that is being looked into cannot be read: whether it goes on without.
    pub(crate) fn leave_jump(&mut self) -> bool {
        match &mut self.want {
            Want::Page(page) => page.leave_jump(),
            Want::Keys(_) | Want::State(_) => false,
        }
    }

    /// Begins anew from what it has: a segment was cut while it was read.
    pub(crate) fn begin_anew(&mut self) {
        match &mut self.want {
            Want::Page(page) => page.begin_anew(),
            Want::Keys(keys) => keys.begin_anew(),
            Want::State(state) => state.begin_anew(),
        }
    }

    /// Something of that room is to be erased: also of what was read already.
    pub(crate) fn erase(&mut self, erasure: &Erasure) {
        match &mut self.want {
            Want::Page(page) => page.erase(erasure),
            Want::Keys(keys) => keys.begin_anew(),
            // An erasure is about places, and a state has none.
            Want::State(_) => {}
        }
    }

    /// Whether the same bytes did not check before; remembered for the next time.
    pub(crate) fn doubts(&mut self, segment: u64, file: LogFile, at: u64) -> bool {
        self.doubted.replace((segment, file, at)) == Some((segment, file, at))
    }
}

#[cfg(test)]
mod tests;
