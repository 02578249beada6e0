//! What a journal is made of, what it asks of the disk, and what became of it.

use std::collections::BTreeMap;
use std::sync::Arc;

use banter_protocol::ids::{Epoch, RoomId};

use crate::block::BlockPlace;
use crate::catalog::{Catalog, CutRooms};
use crate::erasure::Erasure;
use crate::index::IndexBuilder;
use crate::reading::{FileRange, KeysRead, PageRead, ReadFault, StateRead};
use crate::segment::{Class, SegmentHeader};

/// What a journal is made of.
#[derive(Debug)]
pub struct JournalParts {
    /// Which start of the server this is.
    pub run: u64,
    /// Bytes of records in a commit at most, but for a single one that is larger.
    pub commit_bytes_max: usize,
    /// Reads under way at most.
    pub reads_max: usize,
    /// Steps that one `Journal::work` takes at most.
    pub work_steps_max: usize,
    /// Bytes of pages of the log's files that are kept in memory at most.
    pub cache_bytes_max: u64,
    /// Where the rooms of this core lie.
    pub catalog: Catalog,
    /// Indexes of earlier segments that are not on the disk, by segment.
    pub indexes: BTreeMap<u64, Arc<IndexBuilder>>,
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
    /// Make a segment of that class and have it ready: [`Answer::Segment`] or [`Answer::NoSpace`] comes.
    Prepare {
        /// The class.
        class: Class,
        /// Whether posts wait for it: then it comes ahead of everything else.
        is_urgent: bool,
    },
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
    /// Nothing more is written to a segment: prove its last blocks, make all of it safe, and keep its index beside it.
    /// [`Answer::Indexed`] comes when it is there, or the segment is gone.
    Seal {
        /// The segment, and where its blocks end.
        end: BlockPlace,
        /// Whether a proof is to be written there. Where not, a block that was refused may lie there, in part or whole: its header is
        /// to be blanked before the index is kept.
        is_provable: bool,
        /// Its index, to be encoded.
        index: Arc<IndexBuilder>,
        /// The time of its newest message, milliseconds since 1970.
        newest_ms: u64,
    },
    /// Read: [`Answer::Read`] comes.
    Read(FileRange),
    /// The index of a sealed segment is not what it should be: make it again. [`Answer::Indexed`] or
    /// [`Answer::NotIndexed`] comes.
    MendIndex {
        /// The segment.
        segment: u64,
    },
    /// No room of this core is seen in the segment any more. No answer.
    Release {
        /// The segment.
        segment: u64,
    },
    /// Say that the log was this machine's alone behind this ask: [`Answer::Proved`] comes. Only where another may have taken it over.
    Prove,
    /// Nobody needs this any more: drop it where nobody waits, since that takes as long as it has rooms. No answer.
    LetGo {
        /// An index that is on the disk.
        index: Arc<IndexBuilder>,
    },
}

/// What the disk did.
#[derive(Debug)]
pub enum Answer {
    /// A segment is ready.
    Segment(SegmentHeader),
    /// None of that class could be made: the disk is full. It is tried again, without a further ask.
    NoSpace {
        /// The class.
        class: Class,
    },
    /// The append in flight is with the kernel.
    Written,
    /// The append in flight is on the disk.
    Synced,
    /// The append in flight failed.
    AppendFailed {
        /// For want of space, and not for a fault of the disk.
        is_full: bool,
    },
    /// The log was this machine's alone when that was asked.
    Proved,
    /// A read is done.
    Read {
        /// What was asked.
        range: FileRange,
        /// What was read; `None`: it failed, also when it was tried again.
        bytes: Option<Vec<u8>>,
    },
    /// Nobody sees that segment any more, which is sealed: [`Ask::Release`] comes when it is forgotten.
    Cut {
        /// The segment.
        segment: u64,
        /// The rooms of this core that it holds.
        rooms: CutRooms,
        /// The epoch that rooms go by from now on which have nothing in the log.
        blank_epoch: Epoch,
    },
    /// Something of that segment, which is written, is to be erased: it is left for the next as soon as there is one. Asked
    /// again until it is sealed.
    Leave {
        /// The segment.
        segment: u64,
    },
    /// What that segment holds gets too old, or others cannot go before it, though it is written or will be: it is left for
    /// the next. Asked again until it is sealed.
    Retire {
        /// The segment.
        segment: u64,
        /// Only if its first message is at most of that time, milliseconds since 1970; the largest number: whatever it holds,
        /// and also if that is nothing.
        first_ms: u64,
        /// Also where there is no next one if its newest message is at most of that time, or it has none: then it goes at
        /// once.
        newest_ms: u64,
    },
    /// The index of a sealed segment is on the disk, or the segment is gone.
    Indexed {
        /// The segment.
        segment: u64,
        /// Parts in its table.
        parts: u32,
    },
    /// The index of a sealed segment could not be made again.
    NotIndexed {
        /// The segment.
        segment: u64,
        /// The segment is damaged too, and not only unreadable: waiting brings nothing back.
        is_damaged: bool,
    },
    /// Something of a room of this core is to be erased: nobody sees it from now on.
    Erase(Arc<Erasure>),
    /// What was to be erased in a segment is erased: there are other files in the place of its own.
    Rewritten {
        /// The segment.
        segment: u64,
    },
    /// An erasure is on the disk, everywhere.
    Erased(Arc<Erasure>),
    /// The newest frames of a room are shown to nobody any more from memory: one of them is to be erased. Told to every core.
    ForgetFrames {
        /// The room.
        room: RoomId,
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
    /// The log was this machine's alone when that was asked.
    Proved,
    /// A page was read.
    Page {
        /// As it was given when the page was asked for.
        ticket: u32,
        /// The page.
        page: Result<PageRead, ReadFault>,
    },
    /// Keys were read.
    Keys {
        /// As it was given when they were asked for.
        ticket: u32,
        /// All that were wanted.
        keys: Result<KeysRead, ReadFault>,
    },
    /// A state was read.
    State {
        /// As it was given when it was asked for.
        ticket: u32,
        /// The newest of the room; `None`: it has none in the log.
        state: Result<Option<StateRead>, ReadFault>,
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
